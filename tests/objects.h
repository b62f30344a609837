/*
 * tests/objects.h - what the tests of objects share: what requests should get.
 *
 * SPDX-License-Identifier: MIT
 *
 * Include it after slab.h and model.h.
 */
#ifndef TIERALLOC_TEST_OBJECTS_H
#define TIERALLOC_TEST_OBJECTS_H

/* True when requests end in this class at all. */
static inline bool is_served(unsigned size_class)
{
    return tier_slab_class_bytes(size_class) % TIERALLOC_MIN_ALIGN == 0 &&
           tier_slab_class_bytes(size_class) > TIER_GUARD_BYTES;
}

/* A class beside another. */
static inline unsigned other_than(unsigned size_class)
{
    return size_class == TIER_SLAB_CLASSES - 1 ? size_class - 1
                                               : size_class + 1;
}

/* The most bytes that such a class gives. */
static inline size_t most_of(unsigned size_class)
{
    return tier_slab_class_bytes(size_class) - TIER_GUARD_BYTES;
}

/* Bytes of the object that a request is given, 0 apart. */
static inline size_t object_for(size_t bytes)
{
    return model_class(bytes + TIER_GUARD_BYTES);
}

/* The class of such an object. */
static inline unsigned class_for(size_t bytes)
{
    unsigned i = 0;

    while (tier_slab_class_bytes(i) != object_for(bytes)) {
        i++;
    }
    return i;
}

/* Bytes of it that are the caller's. */
static inline size_t usable_for(size_t bytes)
{
    return TIERALLOC_CHECKS == 2 ? bytes : object_for(bytes);
}

/* A number that changes when a byte of the state does (FNV-1a). */
static inline uint64_t fold(uint64_t hash, const void *memory, size_t bytes)
{
    const unsigned char *const at = memory;

    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ at[i]) * UINT64_C(0x100000001B3);
    }
    return hash;
}

#endif
