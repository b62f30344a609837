/*
 * tieralloc/internal.h - helpers of the implementation sections.
 *
 * SPDX-License-Identifier: MIT
 *
 * Included from implementation sections only; nothing here is public. No
 * helper becomes a call into a compiler's support library: see tier_ctz_ and
 * TIER_OPAQUE_.
 */
#ifndef TIERALLOC_INTERNAL_H
#define TIERALLOC_INTERNAL_H

#include "base.h"

#define TIER_LIKELY_(condition)   __builtin_expect(!!(condition), 1)
#define TIER_UNLIKELY_(condition) __builtin_expect(!!(condition), 0)
#define TIER_INLINE_              static inline __attribute__((always_inline, unused))
#define TIER_LOCAL_               static __attribute__((unused))
#define TIER_NOINLINE_            __attribute__((noinline))

/*
 * Hide from the compiler that a loop stores or copies memory: recognised, the
 * loop would be replaced by a call of memset or memcpy, which a kernel may
 * not have.
 */
#define TIER_OPAQUE_(variable) __asm__("" : "+r"(variable))

/* Have the compiler forget what it knows of an object in memory. */
#define TIER_REREAD_(object) __asm__("" : "+m"(object))

/*
 * Read or write what other CPUs may write or read meanwhile, without a lock:
 * each access is whole and made once, which costs no instruction.
 */
#if TIERALLOC_LOCKING
#define TIER_PEEK_(place) __atomic_load_n(&(place), __ATOMIC_RELAXED)
#define TIER_POKE_(place, with) \
    __atomic_store_n(&(place), with, __ATOMIC_RELAXED)
#else
#define TIER_PEEK_(place)       (place)
#define TIER_POKE_(place, with) ((place) = (with))
#endif

/* A word of the machine's natural width, for bit sets and bulk stores. */
typedef uintptr_t tier_word_;

/* The same, allowed to overlay memory of any type. */
typedef uintptr_t __attribute__((may_alias)) tier_alias_word_;

#define TIER_WORD_BITS_ (sizeof(tier_word_) * 8)

/* True where the compiler has a count-trailing-zeros instruction to use. */
#if defined(__riscv) && !defined(__riscv_zbb)
#define TIER_HAS_CTZ_ 0
#elif defined(__ARM_ARCH) && !defined(__ARM_FEATURE_CLZ) && \
    !defined(__aarch64__)
#define TIER_HAS_CTZ_ 0
#else
#define TIER_HAS_CTZ_ 1
#endif

#if !TIER_HAS_CTZ_
/*
 * A de Bruijn sequence holds each 5-bit (6-bit) pattern once, so multiplying
 * it by a power of two brings a pattern unique to that power to the top.
 * Leiserson, Prokop, Randall, "Using de Bruijn Sequences to Index a 1 in a
 * Computer Word", 1998. The tables are the inverse of the two constants.
 */
#define TIER_DE_BRUIJN_32_ 0x077CB531U
#define TIER_DE_BRUIJN_64_ 0x03F79D71B4CB0A89U

static const uint8_t tier_de_bruijn_32_[32] = {
    0,  1,  28, 2,  29, 14, 24, 3, 30, 22, 20, 15, 25, 17, 4,  8,
    31, 27, 13, 23, 21, 19, 16, 7, 26, 12, 18, 6,  11, 5,  10, 9,
};
#if UINTPTR_MAX > 0xFFFFFFFFU
static const uint8_t tier_de_bruijn_64_[64] = {
    0,  1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,
    62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
    63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
    46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,  6,
};
#endif
#endif

/* A value several times over, for tables. */
#define TIER_R1_(x)  x
#define TIER_R2_(x)  x, x
#define TIER_R4_(x)  TIER_R2_(x), TIER_R2_(x)
#define TIER_R8_(x)  TIER_R4_(x), TIER_R4_(x)
#define TIER_R16_(x) TIER_R8_(x), TIER_R8_(x)

/* Index of the lowest set bit; `bits` is not 0. Constant cost. */
TIER_INLINE_ unsigned tier_ctz32_(uint32_t bits)
{
#if TIER_HAS_CTZ_
    return (unsigned)__builtin_ctz(bits);
#else
    return tier_de_bruijn_32_[((bits & -bits) * TIER_DE_BRUIJN_32_) >> 27];
#endif
}

/* Index of the lowest set bit of a word; `bits` is not 0. Constant cost. */
TIER_INLINE_ unsigned tier_ctz_word_(tier_word_ bits)
{
#if TIER_HAS_CTZ_ && UINTPTR_MAX > 0xFFFFFFFFU
    return (unsigned)__builtin_ctzll(bits);
#elif UINTPTR_MAX > 0xFFFFFFFFU
    return tier_de_bruijn_64_[((bits & -bits) * TIER_DE_BRUIJN_64_) >> 58];
#else
    return tier_ctz32_(bits);
#endif
}

/* Index of the highest set bit, -1 when there is none. O(bits); cold. */
TIER_INLINE_ int tier_highest_bit_(size_t bits)
{
    int index = -1;

    while (bits != 0) {
        bits >>= 1;
        index++;
    }
    return index;
}

TIER_INLINE_ bool tier_is_aligned_(uintptr_t address, size_t alignment)
{
    return (address & (alignment - 1)) == 0;
}

/* Set `bytes` bytes to zero; a word at a time where the address allows it. */
TIER_INLINE_ void tier_zero_(void *memory, size_t bytes)
{
    unsigned char *at = (unsigned char *)memory;
    size_t i = 0; /* no pointer past the end: that may be the end of memory */

    for (;
         i < bytes && !tier_is_aligned_((uintptr_t)at + i, sizeof(tier_word_));
         i++) {
        at[i] = 0;
        TIER_OPAQUE_(i);
    }
    for (; bytes - i >= sizeof(tier_word_); i += sizeof(tier_word_)) {
        *(tier_alias_word_ *)(void *)(at + i) = 0;
        TIER_OPAQUE_(i);
    }
    for (; i < bytes; i++) {
        at[i] = 0;
        TIER_OPAQUE_(i);
    }
}

/*
 * Find the first byte of [begin, end) that is not zero, a word at a time;
 * `end` when there is none.
 */
TIER_LOCAL_ size_t tier_find_nonzero_(const uint8_t *bytes, size_t begin,
                                      size_t end)
{
    while (begin < end) {
        if (tier_is_aligned_((uintptr_t)bytes + begin, sizeof(tier_word_)) &&
            end - begin >= sizeof(tier_word_) &&
            *(const tier_alias_word_ *)(const void *)(bytes + begin) == 0) {
            begin += sizeof(tier_word_);
        } else if (bytes[begin] == 0) {
            begin++;
        } else {
            return begin;
        }
    }
    return end;
}

/*
 * Set memory to zero by reading it and writing only what differs: fresh memory
 * of a host stays unmapped. `memory` is aligned to a word.
 */
TIER_LOCAL_ void tier_clear_(void *memory, size_t bytes)
{
    unsigned char *at = (unsigned char *)memory;
    size_t i = 0;

    for (; bytes - i >= sizeof(tier_word_); i += sizeof(tier_word_)) {
        tier_alias_word_ *word = (tier_alias_word_ *)(void *)(at + i);

        if (*word != 0) {
            *word = 0;
        }
    }
    for (; i < bytes; i++) {
        at[i] = 0;
        TIER_OPAQUE_(i);
    }
}

/* Copy `bytes` bytes between places that do not overlap. */
TIER_INLINE_ void tier_copy_(void *to, const void *from, size_t bytes)
{
    unsigned char *out = (unsigned char *)to;
    const unsigned char *in = (const unsigned char *)from;
    size_t i = 0;

    if (tier_is_aligned_((uintptr_t)out | (uintptr_t)in, sizeof(tier_word_))) {
        for (; bytes - i >= sizeof(tier_word_); i += sizeof(tier_word_)) {
            *(tier_alias_word_ *)(void *)(out + i) =
                *(const tier_alias_word_ *)(const void *)(in + i);
            TIER_OPAQUE_(i);
        }
    }
    for (; i < bytes; i++) {
        out[i] = in[i];
        TIER_OPAQUE_(i);
    }
}

#endif /* TIERALLOC_INTERNAL_H */
