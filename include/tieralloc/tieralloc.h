/*
 * tieralloc/tieralloc.h - the allocator: objects, page blocks, transactions.
 *
 * SPDX-License-Identifier: MIT
 *
 * One map of the span in which memory may lie; a buddy tier gives blocks of
 * pages, a slab tier cuts pages into objects. The size routes a request, and
 * one load from the map routes a free by its address alone:
 *
 *     tier_alloc --- up to TIERALLOC_OBJECT_MAX ---> slab.h --- pages ---+
 *          |                                                             v
 *          +------- above, 2^order pages ----------------------------> buddy.h
 *
 * Every call is fallible and none panics: a request that cannot be met is
 * NULL or a status, a bad free is a status and changes nothing. Before a
 * request fails, empty slabs that were kept go back to the pages.
 *
 * In exactly one C file:
 *
 *     #define TIERALLOC_IMPLEMENTATION
 *     #include <tieralloc/tieralloc.h>
 *
 * Calls are serialised by the lock of config.h; without one, by the caller.
 */
#ifndef TIERALLOC_TIERALLOC_H
#define TIERALLOC_TIERALLOC_H

#include "buddy.h"
#include "slab.h"
#include "transaction.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Flags of tier_try_alloc. */
#define TIER_ZERO     0x1U /* fill the memory with zeros */
#define TIER_NO_RETRY 0x2U /* fail at once: empty slabs stay where they are */

/* An allocator. The caller owns the storage; the fields are private. */
struct tier_allocator {
    struct tier_pagemap map; /* pages is 0 until the map has memory */
    struct tier_buddy buddy;
    struct tier_slab slab;
    uintptr_t span_base;
    size_t span_bytes;
    size_t live_blocks;   /* page blocks in use, slabs excluded */
    size_t live_pages;    /* pages in these */
    size_t failed_allocs; /* requests that ended without memory */
    size_t refused_frees; /* frees that ended with a status */
#if TIERALLOC_LOCKING
    TIERALLOC_LOCK_TYPE lock;
#endif
};

/*
 * A snapshot of an allocator. The first group is what is live now, and equals
 * its earlier value once everything since is rolled back, or is freed and
 * tier_trim called; the second tells what has happened.
 */
struct tier_stats {
    size_t managed_pages;   /* pages in regions, metadata not included */
    size_t free_pages;      /* of these, in no block and no slab */
    int largest_free_order; /* -1 when no page is free */
    size_t free_blocks[TIERALLOC_MAX_ORDER + 1]; /* by order */
    size_t slab_pages;                           /* pages in slabs */
    size_t live_objects;                         /* objects in use */
    size_t live_blocks;                          /* page blocks in use */
    size_t live_bytes;                           /* usable bytes in both */

    size_t peak_used_pages; /* most pages in use since a region came or went */
    size_t failed_allocs;   /* requests that ended without memory */
    size_t refused_frees;   /* frees that ended with a status */
};

/* --- Lifecycle ------------------------------------------------------------ */

/* Bytes of metadata for a span; 0 for one that tier_init refuses. */
TIERALLOC_API size_t tier_map_bytes(uintptr_t span_base, size_t span_bytes);

/*
 * Make *allocator an allocator without memory.
 *
 * All regions added later lie in [span_base, span_base + span_bytes); gaps
 * cost 9 or 11 bytes a page of metadata. `map` is that metadata: tier_map_bytes of
 * it, aligned to 8. With map NULL the first region that is added gives it.
 * The struct must not move afterwards.
 *
 * Returns TIER_OK, or with *allocator untouched one of TIER_ERR_OVERFLOW,
 * _INVALID, _TOO_LARGE, _MISALIGNED, _METADATA as tier_pagemap_init does.
 */
TIERALLOC_API enum tier_status tier_init(struct tier_allocator *allocator,
                                         uintptr_t span_base, size_t span_bytes,
                                         void *map, size_t map_bytes);

/*
 * Add the memory [base, base + bytes), cut inwards to whole pages.
 *
 * At any time; it is used until it is removed. If the allocator has no map
 * yet, the map is placed at the start of this region.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_OVERFLOW  base + bytes passes the end of the address space;
 *   TIER_ERR_INVALID   the range holds no whole page;
 *   TIER_ERR_FOREIGN   the range leaves the span of tier_init;
 *   TIER_ERR_OVERLAP   a page of it is held already;
 *   TIER_ERR_METADATA  it is to hold the map, and is too small for that.
 */
TIERALLOC_API enum tier_status tier_add_region(struct tier_allocator *allocator,
                                               void *base, size_t bytes);

/*
 * Take the memory [base, base + bytes) away again, widened to whole pages.
 *
 * If need be, empty slabs that were kept are given up first. Any part of what
 * was added may be removed, but for the map.
 *
 * Returns TIER_OK, or TIER_ERR_OVERFLOW, _INVALID, _FOREIGN as for adding, or
 * TIER_ERR_IN_USE when a page of it is in use or in no region.
 */
TIERALLOC_API enum tier_status tier_remove_region(
    struct tier_allocator *allocator, void *base, size_t bytes);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate at least `bytes` bytes; 0 counts as 1. Contents are undefined.
 *
 * Aligned to TIERALLOC_MIN_ALIGN; above TIERALLOC_OBJECT_MAX a block of
 * 2^order pages, aligned to its own size.
 *
 * Returns NULL when there is no memory for it, or never could be.
 */
TIERALLOC_API void *tier_alloc(struct tier_allocator *allocator, size_t bytes);

/*
 * Allocate like tier_alloc, with flags, and say why it failed.
 *
 * Returns TIER_OK with the memory in *out, or with *out NULL:
 *   TIER_ERR_NO_MEMORY  nothing free is large enough just now;
 *   TIER_ERR_TOO_LARGE  bytes exceeds TIER_BLOCK_MAX;
 *   TIER_ERR_INVALID    a flag is unknown.
 */
TIERALLOC_API enum tier_status tier_try_alloc(struct tier_allocator *allocator,
                                              size_t bytes, unsigned flags,
                                              void **out);

/*
 * Allocate `bytes` bytes at a multiple of `alignment`, a power of two.
 *
 * Returns NULL when there is no memory for it, when alignment is no power of
 * two, or when bytes or alignment exceeds TIER_BLOCK_MAX.
 */
TIERALLOC_API void *tier_alloc_aligned(struct tier_allocator *allocator,
                                       size_t bytes, size_t alignment);

/* Allocate count * bytes bytes of zeros; NULL also when that overflows. */
TIERALLOC_API void *tier_calloc(struct tier_allocator *allocator, size_t count,
                                size_t bytes);

/* Allocate a block of 2^order pages, aligned to its own size; NULL if none. */
TIERALLOC_API void *tier_alloc_pages(struct tier_allocator *allocator,
                                     unsigned order);

/*
 * Make an allocation `bytes` bytes large, moving it if need be.
 *
 * The contents up to the smaller size are kept; an alignment asked for by
 * tier_alloc_aligned is not. `memory` NULL allocates; `bytes` 0 counts as 1 and
 * never frees. Shrinking never fails.
 *
 * Returns the memory at its new place, or NULL with the allocation as it was:
 * when there is no memory, or when `memory` is not an allocation in use.
 */
TIERALLOC_API void *tier_realloc(struct tier_allocator *allocator, void *memory,
                                 size_t bytes);

/*
 * Free what any of the calls above gave; NULL is a no-op.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_FOREIGN      not memory of this allocator;
 *   TIER_ERR_INTERIOR     inside an allocation, not at its start;
 *   TIER_ERR_DOUBLE_FREE  free already.
 */
TIERALLOC_API enum tier_status tier_free(struct tier_allocator *allocator,
                                         void *memory);

/*
 * Free an allocation that was asked for with `bytes` bytes; NULL is a no-op.
 *
 * After tier_alloc_aligned, or a tier_realloc that returned the same address,
 * the size to give is tier_usable_size.
 *
 * Returns what tier_free does, and TIER_ERR_WRONG_SIZE, with the allocation
 * still in use, when `bytes` belongs to another size class or order.
 */
TIERALLOC_API enum tier_status tier_free_sized(struct tier_allocator *allocator,
                                               void *memory, size_t bytes);

/* Give kept empty slabs back to the pages; returns how many pages that is. */
TIERALLOC_API size_t tier_trim(struct tier_allocator *allocator);

/* --- Transactions --------------------------------------------------------- */

/*
 * Allocate as a step of a transaction: freed again if it is rolled back.
 *
 * Until it is committed, free or resize the memory by tier_tx_free only: the
 * rollback would free whatever lies at the address by then.
 *
 * A rollback also returns the slabs that its allocations made necessary, so
 * that the live counters of tier_stats are what they were at the beginning.
 * (An allocation that finds no page gives up kept empty slabs first: pages of
 * those are free afterwards, as after tier_trim.)
 *
 * Returns TIER_OK with the memory in *out, or with *out NULL what
 * tier_try_alloc returns, or TIER_ERR_LOG_FULL.
 */
TIERALLOC_API enum tier_status tier_tx_alloc(struct tier_tx *tx,
                                             struct tier_allocator *allocator,
                                             size_t bytes, void **out);

/*
 * Free an allocation when the transaction commits; NULL is a no-op.
 *
 * Until then it stays in use, so a rollback keeps it as it is; neither free nor
 * resize it meanwhile, nor in another transaction.
 *
 * Returns TIER_OK, or with nothing but a counter changed what tier_free would
 * return (TIER_ERR_DOUBLE_FREE also if this transaction frees it already), or
 * TIER_ERR_LOG_FULL.
 */
TIERALLOC_API enum tier_status tier_tx_free(struct tier_tx *tx,
                                            struct tier_allocator *allocator,
                                            void *memory);

/* --- Inspection ----------------------------------------------------------- */

/*
 * Bytes usable in an allocation; 0 for anything else, but at TIERALLOC_CHECKS 0
 * not for a freed object in a slab. O(1).
 */
TIERALLOC_API size_t tier_usable_size(struct tier_allocator *allocator,
                                      const void *memory);

/* Copy the counters into *stats. O(size classes), allocates nothing. */
TIERALLOC_API void tier_stats(struct tier_allocator *allocator,
                              struct tier_stats *stats);

/*
 * True when every invariant of the buddy tier and of the slab tier holds, and
 * every page in use belongs to a slab or a counted block. O(pages).
 */
TIERALLOC_API bool tier_check(struct tier_allocator *allocator);

/*
 * Write the state as text: pages, free blocks by order, slabs by class. `put`
 * is called under the lock and must not call the allocator.
 */
TIERALLOC_API void tier_dump(struct tier_allocator *allocator, tier_put put,
                             void *context);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_TIERALLOC_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_TIERALLOC_IMPLEMENTED)
#define TIERALLOC_TIERALLOC_IMPLEMENTED

#include "internal.h"
#include "text.h"

/* --- Lifecycle --- */

/* The order of the smallest block of at least `bytes`, at most BLOCK_MAX. */
TIER_INLINE_ unsigned tier_order_for_(size_t bytes)
{
    unsigned order = 0;

    while ((TIER_PAGE_SIZE << order) < bytes) {
        order++;
    }
    return order;
}

TIERALLOC_API size_t tier_map_bytes(uintptr_t span_base, size_t span_bytes)
{
    return tier_pagemap_bytes(span_base, span_bytes);
}

/* Give the tiers their map. */
static void tier_share_map_(struct tier_allocator *allocator)
{
    tier_pagemap_share_(&allocator->buddy.map, &allocator->map);
    tier_pagemap_share_(&allocator->slab.map, &allocator->map);
}

TIERALLOC_API enum tier_status tier_init(struct tier_allocator *allocator,
                                         uintptr_t span_base, size_t span_bytes,
                                         void *map, size_t map_bytes)
{
    struct tier_pagemap none;
    struct tier_page_source source;
    struct tier_page_range_ range;
    enum tier_status status = tier_pagemap_span_(span_base, span_bytes, &range);

    none.first = 0;
    none.pages = 0;
    none.skew = 0;
    none.kind = NULL;
    none.entry = NULL;
#if TIERALLOC_CPUS > 0
    none.cut = NULL;
#endif
    if (status == TIER_OK && map != NULL) {
        status =
            tier_pagemap_init(&none, span_base, span_bytes, map, map_bytes);
    }
    if (status != TIER_OK) {
        return status;
    }
    tier_pagemap_share_(&allocator->map, &none);
    tier_buddy_init(&allocator->buddy, &allocator->map);
    tier_buddy_source(&allocator->buddy, &source);
    tier_slab_init(&allocator->slab, &allocator->map, &source);
    allocator->span_base = span_base;
    allocator->span_bytes = span_bytes;
    allocator->live_blocks = 0;
    allocator->live_pages = 0;
    allocator->failed_allocs = 0;
    allocator->refused_frees = 0;
    TIERALLOC_LOCK_INIT(&allocator->lock);
    return TIER_OK;
}

/* Bytes of a region before its map: up to an aligned place beyond page 0. */
TIER_INLINE_ size_t tier_carve_skip_(uintptr_t base)
{
    return base < TIER_PAGE_SIZE ? TIER_PAGE_SIZE - base
                                 : -base & (sizeof(union tier_page_entry) - 1);
}

/* Place the map at the start of a region; cut the region accordingly. */
static enum tier_status tier_carve_map_(struct tier_allocator *allocator,
                                        uintptr_t *base, size_t *bytes)
{
    size_t map_bytes =
        tier_pagemap_bytes(allocator->span_base, allocator->span_bytes);
    size_t skip = tier_carve_skip_(*base);
    struct tier_page_range_ range;

    if (*bytes < skip || *bytes - skip < map_bytes ||
        tier_page_range_(*base + skip + map_bytes, *bytes - skip - map_bytes,
                         &range) != TIER_OK) {
        return TIER_ERR_METADATA;
    }
    enum tier_status status = tier_pagemap_init(
        &allocator->map, allocator->span_base, allocator->span_bytes,
        (void *)(*base + skip), map_bytes);

    TIERALLOC_ASSERT(status == TIER_OK);
    tier_share_map_(allocator);
    *base += skip + map_bytes;
    *bytes -= skip + map_bytes;
    return status;
}

/* Check a region against the span before any of it is used. */
static enum tier_status tier_check_region_(const struct tier_allocator *a,
                                           uintptr_t base, size_t bytes)
{
    struct tier_page_range_ span;
    struct tier_page_range_ range;
    enum tier_status status = tier_page_range_(base, bytes, &range);

    if (status != TIER_OK) {
        return status;
    }
    status = tier_page_range_(a->span_base, a->span_bytes, &span);
    if (status == TIER_OK &&
        (range.begin < span.begin || range.end > span.end)) {
        status = TIER_ERR_FOREIGN;
    }
    return status;
}

TIERALLOC_API enum tier_status tier_add_region(struct tier_allocator *allocator,
                                               void *base, size_t bytes)
{
    uintptr_t from = (uintptr_t)base;
    enum tier_status status;

    TIERALLOC_LOCK(&allocator->lock);
    status = tier_check_region_(allocator, from, bytes);
    if (status == TIER_OK && allocator->map.pages == 0) {
        status = tier_carve_map_(allocator, &from, &bytes);
    }
    if (status == TIER_OK) {
        status = tier_buddy_add(&allocator->buddy, (void *)from, bytes);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

TIERALLOC_API enum tier_status tier_remove_region(
    struct tier_allocator *allocator, void *base, size_t bytes)
{
    enum tier_status status;

    TIERALLOC_LOCK(&allocator->lock);
    status = tier_buddy_remove(&allocator->buddy, base, bytes);
    if (status == TIER_ERR_IN_USE && tier_slab_trim(&allocator->slab) != 0) {
        status = tier_buddy_remove(&allocator->buddy, base, bytes);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

/* --- Allocation --- */

/* Take a block and count it; NULL when there is none. */
static void *tier_take_block_(struct tier_allocator *allocator, unsigned order)
{
    void *block = tier_buddy_alloc(&allocator->buddy, order);

    if (block != NULL) {
        allocator->live_blocks++;
        allocator->live_pages += tier_order_pages_(order);
    }
    return block;
}

/* Allocate from the tier that serves the size; NULL when it has nothing. */
TIER_INLINE_ void *tier_take_(struct tier_allocator *allocator, size_t bytes)
{
    if (TIER_LIKELY_(bytes <= TIER_SLAB_BYTES_MAX)) {
        return tier_slab_alloc(&allocator->slab, bytes);
    }
    return tier_take_block_(allocator, tier_order_for_(bytes));
}

/* Allocate or say why not, reclaiming empty slabs once. The lock is held. */
static enum tier_status tier_try_take_(struct tier_allocator *allocator,
                                       size_t bytes, unsigned flags, void **out)
{
    *out = NULL;
    if ((flags & ~(TIER_ZERO | TIER_NO_RETRY)) != 0) {
        return TIER_ERR_INVALID;
    }
    if (bytes > TIER_BLOCK_MAX) {
        allocator->failed_allocs++;
        return TIER_ERR_TOO_LARGE;
    }
    *out = tier_take_(allocator, bytes);
    if (*out == NULL && (flags & TIER_NO_RETRY) == 0 &&
        tier_slab_trim(&allocator->slab) != 0) {
        *out = tier_take_(allocator, bytes);
    }
    if (*out == NULL) {
        allocator->failed_allocs++;
        return TIER_ERR_NO_MEMORY;
    }
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_try_alloc(struct tier_allocator *allocator,
                                              size_t bytes, unsigned flags,
                                              void **out)
{
    TIERALLOC_LOCK(&allocator->lock);
    enum tier_status status = tier_try_take_(allocator, bytes, flags, out);

    TIERALLOC_UNLOCK(&allocator->lock);
    if (status == TIER_OK && (flags & TIER_ZERO) != 0) {
        tier_zero_(*out, bytes + (bytes == 0));
    }
    return status;
}

TIERALLOC_API void *tier_alloc(struct tier_allocator *allocator, size_t bytes)
{
    TIERALLOC_LOCK(&allocator->lock);
    void *memory = NULL;

    if (TIER_LIKELY_(bytes <= TIER_SLAB_BYTES_MAX)) {
        memory = tier_slab_alloc(&allocator->slab, bytes);
    }
    if (TIER_UNLIKELY_(memory == NULL)) {
        (void)tier_try_take_(allocator, bytes, 0, &memory);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return memory;
}

/* What to ask for so that the class has room and `alignment` divides it. */
static size_t tier_aligned_bytes_(size_t bytes, size_t alignment)
{
    size_t size_class = tier_slab_class_(bytes);

    while (tier_slab_class_bytes(size_class) % alignment != 0) {
        size_class++;
    }
    return tier_slab_class_bytes(size_class) - TIER_GUARD_BYTES;
}

TIERALLOC_API void *tier_alloc_aligned(struct tier_allocator *allocator,
                                       size_t bytes, size_t alignment)
{
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        return NULL;
    }
    if (bytes < alignment) {
        bytes = alignment;
    }
    if (bytes > TIER_BLOCK_MAX) {
        return tier_alloc(allocator, bytes); /* refused, and counted */
    }
    if (alignment > TIER_PAGE_SIZE || bytes > TIER_SLAB_BYTES_MAX) {
        return tier_alloc_pages(allocator, tier_order_for_(bytes));
    }
    return tier_alloc(allocator, tier_aligned_bytes_(bytes, alignment));
}

TIERALLOC_API void *tier_calloc(struct tier_allocator *allocator, size_t count,
                                size_t bytes)
{
    void *memory;

    if (bytes != 0 && count > TIER_BLOCK_MAX / bytes) {
        count = 1;
        bytes = SIZE_MAX; /* refused, and counted, as too large */
    }
    (void)tier_try_alloc(allocator, count * bytes, TIER_ZERO, &memory);
    return memory;
}

TIERALLOC_API void *tier_alloc_pages(struct tier_allocator *allocator,
                                     unsigned order)
{
    TIERALLOC_LOCK(&allocator->lock);
    void *block = tier_take_block_(allocator, order);

    if (block == NULL && order <= TIERALLOC_MAX_ORDER &&
        tier_slab_trim(&allocator->slab) != 0) {
        block = tier_take_block_(allocator, order);
    }
    if (block == NULL) {
        allocator->failed_allocs++;
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return block;
}

/* --- Freeing --- */

/* Free a block of pages and count it out. */
static enum tier_status tier_free_block_(struct tier_allocator *allocator,
                                         void *block)
{
    int order = tier_buddy_order(&allocator->buddy, block);
    enum tier_status status = tier_buddy_free(&allocator->buddy, block);

    if (status == TIER_OK && order >= 0) {
        allocator->live_blocks--;
        allocator->live_pages -= tier_order_pages_((unsigned)order);
    }
    return status == TIER_ERR_MISALIGNED ? TIER_ERR_INTERIOR : status;
}

/* Free by the tier that the map names. The lock is held. */
TIER_INLINE_ enum tier_status tier_free_(struct tier_allocator *allocator,
                                         void *memory)
{
    unsigned kind = tier_pagemap_kind_(&allocator->map, memory);
    enum tier_status status;

    if (TIER_LIKELY_((kind & TIER_KIND_SLAB) != 0)) {
        status = tier_slab_free(&allocator->slab, memory);
    } else {
        status = tier_free_block_(allocator, memory);
    }
    if (TIER_UNLIKELY_(status != TIER_OK)) {
        allocator->refused_frees++;
    }
    return status;
}

TIERALLOC_API enum tier_status tier_free(struct tier_allocator *allocator,
                                         void *memory)
{
    TIERALLOC_LOCK(&allocator->lock);
    enum tier_status status = tier_free_(allocator, memory);

    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

/* True when a block in use is of the order that a request of `bytes` gets. */
static bool tier_block_fits_(const struct tier_allocator *allocator,
                             const void *block, size_t bytes)
{
    int order = tier_buddy_order(&allocator->buddy, block);

    return order < 0 || bytes == TIER_PAGE_SIZE << order ||
           (bytes > TIER_SLAB_BYTES_MAX && bytes <= TIER_BLOCK_MAX &&
            (unsigned)order == tier_order_for_(bytes));
}

TIERALLOC_API enum tier_status tier_free_sized(struct tier_allocator *allocator,
                                               void *memory, size_t bytes)
{
    enum tier_status status;

    TIERALLOC_LOCK(&allocator->lock);
    unsigned kind = tier_pagemap_kind_(&allocator->map, memory);

    if ((kind & TIER_KIND_SLAB) != 0) {
        status = tier_slab_free_sized(&allocator->slab, memory, bytes);
    } else if (tier_block_fits_(allocator, memory, bytes)) {
        status = tier_free_block_(allocator, memory);
    } else {
        status = TIER_ERR_WRONG_SIZE;
    }
    if (status != TIER_OK) {
        allocator->refused_frees++;
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

TIERALLOC_API size_t tier_trim(struct tier_allocator *allocator)
{
    TIERALLOC_LOCK(&allocator->lock);
    size_t pages = tier_slab_trim(&allocator->slab);

    TIERALLOC_UNLOCK(&allocator->lock);
    return pages;
}

/* --- Resizing --- */

/* Usable bytes of an allocation, 0 for anything else. The lock is held. */
static size_t tier_usable_(const struct tier_allocator *allocator,
                           const void *memory)
{
    size_t bytes = tier_slab_usable_size(&allocator->slab, memory);
    int order = tier_buddy_order(&allocator->buddy, memory);

    return order >= 0 ? TIER_PAGE_SIZE << order : bytes;
}

TIERALLOC_API size_t tier_usable_size(struct tier_allocator *allocator,
                                      const void *memory)
{
    TIERALLOC_LOCK(&allocator->lock);
    size_t bytes = tier_usable_(allocator, memory);

    TIERALLOC_UNLOCK(&allocator->lock);
    return bytes;
}

/* Usable bytes that a request would get; more than BLOCK_MAX is 0. */
static size_t tier_granted_(size_t bytes)
{
    if (bytes <= TIER_SLAB_BYTES_MAX) {
        return tier_slab_class_bytes(tier_slab_class_(bytes)) -
               TIER_GUARD_BYTES;
    }
    return bytes <= TIER_BLOCK_MAX ? TIER_PAGE_SIZE << tier_order_for_(bytes)
                                   : 0;
}

/* A place for fewer bytes; NULL, and nothing counted, when there is none. */
static void *tier_alloc_smaller_(struct tier_allocator *allocator, size_t bytes)
{
    TIERALLOC_LOCK(&allocator->lock);
    void *memory = tier_take_(allocator, bytes);

    TIERALLOC_UNLOCK(&allocator->lock);
    return memory;
}

/* Move an allocation of `old` usable bytes; NULL leaves it as it was. */
static void *tier_move_(struct tier_allocator *allocator, void *memory,
                        size_t old, size_t bytes)
{
    void *moved = bytes <= old ? tier_alloc_smaller_(allocator, bytes)
                               : tier_alloc(allocator, bytes);

    if (moved == NULL) {
        return bytes <= old ? memory : NULL;
    }
    tier_copy_(moved, memory, bytes < old ? bytes : old);
    (void)tier_free(allocator, memory);
    return moved;
}

TIERALLOC_API void *tier_realloc(struct tier_allocator *allocator, void *memory,
                                 size_t bytes)
{
    if (memory == NULL) {
        return tier_alloc(allocator, bytes);
    }
    size_t old = tier_usable_size(allocator, memory);

    if (old == 0) {
        return NULL;
    }
    if (tier_granted_(bytes) == old) {
        return memory;
    }
    return tier_move_(allocator, memory, old, bytes);
}

/* --- Transactions --- */

/* Undo an allocation. */
static void tier_tx_undo_alloc_(void *context, void *object)
{
    (void)tier_free((struct tier_allocator *)context, object);
}

/* Undo an allocation that took pages: they go back, not into the cache. */
static void tier_tx_undo_grow_(void *context, void *object)
{
    struct tier_allocator *allocator = (struct tier_allocator *)context;

    TIERALLOC_LOCK(&allocator->lock);
    struct tier_slab_desc_ *desc = tier_slab_find_(&allocator->slab, object);
    struct tier_cache_base *cache = desc == NULL ? NULL : desc->cache;

    (void)tier_free_(allocator, object);
    if (cache != NULL && (cache->empty == desc || cache->current == desc) &&
        tier_slab_is_empty_(desc)) {
        tier_cache_trim_(&allocator->slab, cache);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
}

TIERALLOC_API enum tier_status tier_tx_alloc(struct tier_tx *tx,
                                             struct tier_allocator *allocator,
                                             size_t bytes, void **out)
{
    *out = NULL;
    if (!tier_tx_has_room(tx, 1)) {
        return TIER_ERR_LOG_FULL;
    }
    TIERALLOC_LOCK(&allocator->lock);
    size_t grown = allocator->slab.grown;
    enum tier_status status = tier_try_take_(allocator, bytes, 0, out);
    bool grew = allocator->slab.grown != grown;

    TIERALLOC_UNLOCK(&allocator->lock);
    if (status != TIER_OK) {
        return status;
    }
    return tier_tx_defer(tx, grew ? tier_tx_undo_grow_ : tier_tx_undo_alloc_,
                         allocator, *out);
}

TIERALLOC_API enum tier_status tier_tx_free(struct tier_tx *tx,
                                            struct tier_allocator *allocator,
                                            void *memory)
{
    enum tier_status status = TIER_OK;

    if (memory == NULL) {
        return TIER_OK;
    }
    TIERALLOC_LOCK(&allocator->lock);
    if (tier_usable_(allocator, memory) == 0) {
        status = tier_free_(allocator, memory); /* counts and names the fault */
    } else if (tier_tx_waits(tx, tier_tx_undo_alloc_, memory)) {
        allocator->refused_frees++;
        status = TIER_ERR_DOUBLE_FREE;
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    if (status != TIER_OK) {
        return status;
    }
    return tier_tx_on_commit(tx, tier_tx_undo_alloc_, allocator, memory);
}

/* --- Inspection --- */

TIERALLOC_API void tier_stats(struct tier_allocator *allocator,
                              struct tier_stats *stats)
{
    struct tier_buddy_stats pages;
    struct tier_slab_stats objects;

    TIERALLOC_LOCK(&allocator->lock);
    tier_buddy_stats(&allocator->buddy, &pages);
    tier_slab_stats(&allocator->slab, &objects);
    stats->live_blocks = allocator->live_blocks;
    stats->live_bytes =
        objects.live_bytes + allocator->live_pages * TIER_PAGE_SIZE;
    stats->failed_allocs = allocator->failed_allocs;
    stats->refused_frees = allocator->refused_frees;
    TIERALLOC_UNLOCK(&allocator->lock);

    stats->managed_pages = pages.managed_pages;
    stats->free_pages = pages.free_pages;
    stats->peak_used_pages = pages.peak_used_pages;
    stats->largest_free_order = pages.largest_free_order;
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        stats->free_blocks[order] = pages.free_blocks[order];
        TIER_OPAQUE_(order);
    }
    stats->slab_pages = objects.pages;
    stats->live_objects = objects.live_objects;
}

TIERALLOC_API bool tier_check(struct tier_allocator *allocator)
{
    TIERALLOC_LOCK(&allocator->lock);
    const struct tier_buddy *buddy = &allocator->buddy;
    size_t used = buddy->managed_pages - buddy->free_pages;
    bool whole = tier_buddy_check(buddy) && tier_slab_check(&allocator->slab) &&
                 used == allocator->slab.pages + allocator->live_pages;

    TIERALLOC_UNLOCK(&allocator->lock);
    return whole;
}

/* --- Dump --- */

/* Write one line of the table of caches. */
static void tier_write_cache_(const struct tier_writer_ *to,
                              const struct tier_cache_base *cache)
{
    struct tier_cache_stats stats;

    if (cache->slabs == 0) {
        return;
    }
    tier_cache_base_stats_(cache, &stats);
    tier_write_number_(to, stats.object_bytes, 8);
    tier_write_number_(to, stats.live, 10);
    tier_write_number_(to, stats.slabs * stats.slab_objects, 10);
    tier_write_number_(to, stats.slabs, 8);
    tier_write_number_(to, stats.slab_pages, 8);
    tier_write_(to, stats.name == NULL ? "" : "  ");
    tier_write_(to, stats.name == NULL ? "" : stats.name);
    tier_write_(to, "\n");
}

static void tier_write_pages_(const struct tier_writer_ *to,
                              const struct tier_allocator *allocator)
{
    const struct tier_buddy *buddy = &allocator->buddy;

    tier_write_(to, "pages: managed ");
    tier_write_number_(to, buddy->managed_pages, 0);
    tier_write_(to, ", free ");
    tier_write_number_(to, buddy->free_pages, 0);
    tier_write_(to, ", in blocks ");
    tier_write_number_(to, allocator->live_pages, 0);
    tier_write_(to, ", in slabs ");
    tier_write_number_(to, allocator->slab.pages, 0);
    tier_write_(to, "\n");
    tier_buddy_dump(buddy, to->put, to->context);
}

TIERALLOC_API void tier_dump(struct tier_allocator *allocator, tier_put put,
                             void *context)
{
    const struct tier_slab *slab = &allocator->slab;
    struct tier_writer_ to;

    to.put = put;
    to.context = context;
    TIERALLOC_LOCK(&allocator->lock);
    tier_write_pages_(&to, allocator);
    tier_write_(&to, "  object    in use     total   slabs   pages\n");
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_write_cache_(&to, &slab->classes[i]);
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        tier_write_cache_(&to, &c->base);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
}

#endif /* TIERALLOC_TIERALLOC_IMPLEMENTED */
