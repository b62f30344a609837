/*
 * baseline.h - what tieralloc is compared with: a first-fit list of holes.
 *
 * SPDX-License-Identifier: MIT
 *
 * The heap that small kernels begin with, modelled on Rust's
 * linked_list_allocator. What is free is a list of holes, sorted by address,
 * whose nodes lie in the holes themselves:
 *
 *     head --> | bytes, next |  in use  | bytes, next |  in use  | bytes, NULL |
 *
 * An allocation takes the front of the first hole in which it fits; a free
 * walks from the head to its place and joins both neighbours. No allocation has
 * a header: the caller says again at the free how many bytes there were. Sizes
 * are rounded up to 8 bytes, and to the 16 of a node. A hole that would leave 8
 * bytes over, too few for a node, does not fit.
 *
 * Both calls are O(holes). Nothing is checked, as little as can be is counted.
 */
#ifndef BASELINE_H
#define BASELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __clang__
#define BASELINE_API static __attribute__((unused, noinline))
#else
#define BASELINE_API static __attribute__((unused, noinline, noclone))
#endif

/* --- Types ---------------------------------------------------------------- */

/* What lies at the start of each hole. */
struct baseline_hole {
    size_t bytes;
    struct baseline_hole *next; /* at a higher address, or NULL */
};

_Static_assert(sizeof(struct baseline_hole) == 16, "the least that is taken");

/* A heap. */
struct baseline {
    struct baseline_hole head; /* of 0 bytes, before all holes */
    uintptr_t base;
    size_t bytes;
    size_t used; /* bytes in use, rounded */
};

/* --- Lifecycle ------------------------------------------------------------ */

/* Make *heap a heap over [base, base + bytes), both multiples of 8. */
BASELINE_API void baseline_init(struct baseline *heap, void *base, size_t bytes)
{
    struct baseline_hole *hole = base;

    hole->bytes = bytes;
    hole->next = NULL;
    heap->head.bytes = 0;
    heap->head.next = hole;
    heap->base = (uintptr_t)base;
    heap->bytes = bytes;
    heap->used = 0;
}

/* --- Allocation ----------------------------------------------------------- */

/* The bytes that a request takes; requires bytes <= PTRDIFF_MAX. */
static inline size_t baseline_round(size_t bytes)
{
    return bytes <= 16 ? 16 : (bytes + 7) & ~(size_t)7;
}

/* The address just behind a hole, or behind what becomes one. */
static inline uintptr_t baseline_end(const struct baseline_hole *hole)
{
    return (uintptr_t)hole + hole->bytes;
}

/* Allocate `bytes` bytes, aligned to 8; NULL when they fit in no hole. */
BASELINE_API void *baseline_alloc(struct baseline *heap, size_t bytes)
{
    size_t need = baseline_round(bytes);
    struct baseline_hole *before = &heap->head;
    struct baseline_hole *hole = before->next;

    while (hole != NULL && (hole->bytes < need || hole->bytes == need + 8)) {
        before = hole;
        hole = hole->next;
    }
    if (hole == NULL) {
        return NULL;
    }
    if (hole->bytes == need) {
        before->next = hole->next;
    } else {
        struct baseline_hole *rest = (void *)((uintptr_t)hole + need);

        rest->bytes = hole->bytes - need;
        rest->next = hole->next;
        before->next = rest;
    }
    heap->used += need;
    return hole;
}

/* Free what was allocated with `bytes` bytes. */
BASELINE_API void baseline_free(struct baseline *heap, void *memory,
                                size_t bytes)
{
    struct baseline_hole *hole = memory;
    struct baseline_hole *before = &heap->head;
    struct baseline_hole *after = before->next;

    /* One comparison for both: NULL less 1 is above every address. */
    while ((uintptr_t)after - 1 < (uintptr_t)hole) {
        before = after;
        after = after->next;
    }
    hole->bytes = baseline_round(bytes);
    heap->used -= hole->bytes;
    if (baseline_end(hole) == (uintptr_t)after) {
        hole->bytes += after->bytes;
        after = after->next;
    }
    hole->next = after;
    if (baseline_end(before) == (uintptr_t)hole) {
        before->bytes += hole->bytes;
        before->next = hole->next;
    } else {
        before->next = hole;
    }
}

/* --- Inspection ----------------------------------------------------------- */

/*
 * True when all holes lie in the heap, ascend, do not touch each other, are
 * whole multiples of 8 from 16 on, and make up what is not in use. O(holes).
 */
BASELINE_API bool baseline_check(const struct baseline *heap)
{
    const struct baseline_hole *hole = heap->head.next;
    uintptr_t from = heap->base;
    uintptr_t end = heap->base + heap->bytes;
    size_t unused = 0;

    for (; hole != NULL; hole = hole->next) {
        uintptr_t at = (uintptr_t)hole;

        if (at < from || at > end - 16 || at % 8 != 0 || hole->bytes < 16 ||
            hole->bytes % 8 != 0 || hole->bytes > end - at) {
            return false;
        }
        unused += hole->bytes;
        from = at + hole->bytes + 1; /* a hole that touches would be joined */
    }
    return heap->head.bytes == 0 && unused == heap->bytes - heap->used;
}

#endif /* BASELINE_H */
