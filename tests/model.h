/*
 * tests/model.h - what an allocator has in use, known to the byte.
 *
 * SPDX-License-Identifier: MIT
 *
 * The plainest allocator there is: a flag per eight bytes of the arena, and a
 * list of what is in use. Each allocation is filled, to the last usable byte,
 * with a pattern of its own; two that overlap, or a stray write, break one.
 */
#ifndef TIERALLOC_TEST_MODEL_H
#define TIERALLOC_TEST_MODEL_H

#include "support.h"

#include <tieralloc/config.h>

#define MODEL_GRAIN ((size_t)8)
#define MODEL_SLOTS 8448

/* One allocation in use. */
struct model_slot {
    unsigned char *at;
    size_t asked;       /* bytes asked for */
    size_t bytes;       /* bytes usable, all of them filled */
    unsigned tag;       /* the test's own note */
    unsigned char seed; /* of the pattern */
};

/* All of them; `claimed` has a flag per grain of the arena. */
struct model {
    unsigned char *base;
    size_t span;
    bool *claimed;
    size_t count;
    size_t bytes; /* usable, in all slots */
    unsigned char seed;
    struct model_slot slot[MODEL_SLOTS];
};

static inline void model_init(struct model *model, void *base, size_t span,
                              bool *claimed)
{
    model->base = base;
    model->span = span;
    model->claimed = claimed;
    model->count = 0;
    model->bytes = 0;
    model->seed = 1;
    memset(claimed, 0, span / MODEL_GRAIN);
}

/* Byte number `i` of the pattern of a slot. */
static inline unsigned char model_byte(unsigned char seed, size_t i)
{
    return (unsigned char)(seed + i + (i >> 8) * 3);
}

/* Flip the flags of the grains of an allocation; they must all be `was`. */
static inline void model_flip(struct model *model, const unsigned char *at,
                              size_t bytes, bool was)
{
    const size_t offset = (size_t)(at - model->base);

    cr_assert((uintptr_t)at >= (uintptr_t)model->base);
    cr_assert(offset <= model->span && bytes <= model->span - offset);
    cr_assert_eq(offset % MODEL_GRAIN, 0U);
    for (size_t i = offset / MODEL_GRAIN; i * MODEL_GRAIN < offset + bytes;
         i++) {
        cr_assert_eq(model->claimed[i], was, "overlap at offset %#lx",
                     (unsigned long)(i * MODEL_GRAIN));
        model->claimed[i] = !was;
    }
}

/* Note an allocation and fill it; it must overlap no other one. */
static inline void model_add(struct model *model, void *memory, size_t asked,
                             size_t bytes, unsigned tag)
{
    struct model_slot *const slot = &model->slot[model->count++];

    cr_assert_not_null(memory);
    cr_assert(model->count <= MODEL_SLOTS);
    cr_assert(bytes >= asked && bytes > 0);
    cr_assert_eq((uintptr_t)memory % TIERALLOC_MIN_ALIGN, 0U);
    slot->at = memory;
    slot->asked = asked;
    slot->bytes = bytes;
    slot->tag = tag;
    slot->seed = model->seed++;
    model_flip(model, slot->at, bytes, false);
    for (size_t i = 0; i < bytes; i++) {
        slot->at[i] = model_byte(slot->seed, i);
    }
    model->bytes += bytes;
}

/* True when the first `bytes` bytes at `at` hold the pattern of a slot. */
static inline bool model_holds(const struct model_slot *slot,
                               const unsigned char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (at[i] != model_byte(slot->seed, i)) {
            return false;
        }
    }
    return true;
}

/* Forget an allocation; the last one takes its place. */
static inline void model_forget(struct model *model, size_t index)
{
    struct model_slot *const slot = &model->slot[index];

    cr_assert(index < model->count);
    model_flip(model, slot->at, slot->bytes, true);
    model->bytes -= slot->bytes;
    *slot = model->slot[--model->count];
}

/* Check each byte of an allocation and forget it. */
static inline void model_drop(struct model *model, size_t index)
{
    const struct model_slot *const slot = &model->slot[index];

    cr_assert(model_holds(slot, slot->at, slot->bytes));
    model_forget(model, index);
}

/* Check each byte of each allocation. */
static inline void model_verify(const struct model *model)
{
    for (size_t i = 0; i < model->count; i++) {
        cr_assert(model_holds(&model->slot[i], model->slot[i].at,
                              model->slot[i].bytes));
    }
}

/* The class size for a request, from the words of the documentation. */
static inline size_t model_class(size_t bytes)
{
    size_t power = 64;

    if (bytes <= 64) {
        const size_t step = TIERALLOC_MIN_ALIGN;

        return bytes == 0 ? step : (bytes + step - 1) / step * step;
    }
    while (power * 2 < bytes) {
        power *= 2;
    }
    const size_t even = power / TIERALLOC_CLASS_STEPS;
    const size_t step = even < TIERALLOC_MIN_ALIGN ? TIERALLOC_MIN_ALIGN : even;

    return (bytes + step - 1) / step * step;
}

#endif
