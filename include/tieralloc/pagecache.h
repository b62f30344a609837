/*
 * tieralloc/pagecache.h - a few single pages per CPU in front of a buddy.
 *
 * SPDX-License-Identifier: MIT
 *
 * The commonest request of a kernel is one page. Each CPU keeps a short stack
 * of them, so that the common pair of calls is a push and a pop that touch no
 * shared state and take no lock; when the stack is empty or full, half a stack
 * moves from or to the buddy under the lock (Bonwick, Adams, "Magazines and
 * Vmem", USENIX 2001):
 *
 *     CPU 0  | p7 | p2 | p9 |    |       CPU 1  | p4 |    |    |    |
 *                  \________ refill, drain: 8 pages ________/
 *                                 buddy.h
 *
 * A page that waits here has a kind of its own in the map, so that a second
 * free of it is refused on every CPU. At most 16 pages wait per CPU.
 *
 * The caller stays on the CPU of a cache for the length of a call (interrupts
 * off, or preemption). Blocks of order 1 and above pass through to the buddy.
 */
#ifndef TIERALLOC_PAGECACHE_H
#define TIERALLOC_PAGECACHE_H

#include "buddy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Most pages that wait in a cache, and how many move at once. */
#define TIER_PAGECACHE_PAGES 16
#define TIER_PAGECACHE_BATCH 8

/* The page cache of one CPU. The caller owns the storage; fields are private.*/
struct tier_pagecache {
    struct tier_pagemap map; /* the buddy's map, by value: one load less */
    size_t count;            /* pages that wait */
    uint32_t page[TIER_PAGECACHE_PAGES]; /* their indexes, newest last */
    struct tier_buddy *buddy;
    size_t refills; /* batches taken from the buddy */
    size_t drains;  /* batches given to it */
#if TIERALLOC_LOCKING
    TIERALLOC_LOCK_TYPE *lock; /* taken around each call of the buddy */
#endif
};

/* --- Lifecycle ------------------------------------------------------------ */

#if TIERALLOC_LOCKING
/* Make *cache an empty cache over a buddy that `lock` protects. */
TIERALLOC_API void tier_pagecache_init(struct tier_pagecache *cache,
                                       struct tier_buddy *buddy,
                                       TIERALLOC_LOCK_TYPE *lock);
#else
/* Make *cache an empty cache over a buddy. */
TIERALLOC_API void tier_pagecache_init(struct tier_pagecache *cache,
                                       struct tier_buddy *buddy);
#endif

/*
 * Give every waiting page back to the buddy, for one: when a CPU goes away, or
 * memory is short. Returns how many pages that is.
 */
TIERALLOC_API size_t tier_pagecache_drain(struct tier_pagecache *cache);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate a block of 2^order pages; owner word 0.
 *
 * Order 0 comes from the cache: O(1), no lock, or one batch from the buddy.
 *
 * Returns NULL when neither the cache nor the buddy has it, or when order
 * exceeds TIERALLOC_MAX_ORDER.
 */
TIERALLOC_API void *tier_pagecache_alloc(struct tier_pagecache *cache,
                                         unsigned order);

/*
 * Free a block of any order; NULL is a no-op.
 *
 * Order 0 goes to the cache: O(1), no lock, or one batch to the buddy.
 * Returns what tier_buddy_free does; TIER_ERR_DOUBLE_FREE also for a page that
 * waits in the cache of any CPU.
 */
TIERALLOC_API enum tier_status tier_pagecache_free(struct tier_pagecache *cache,
                                                   void *block);

/* --- Inspection ----------------------------------------------------------- */

/*
 * True when the count is in range and each page that waits is marked so in the
 * map, once. O(TIER_PAGECACHE_PAGES^2).
 */
TIERALLOC_API bool tier_pagecache_check(const struct tier_pagecache *cache);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_PAGECACHE_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_PAGECACHE_IMPLEMENTED)
#define TIERALLOC_PAGECACHE_IMPLEMENTED

#include "internal.h"

_Static_assert(TIER_PAGECACHE_BATCH <= TIER_PAGECACHE_PAGES,
               "a batch fits the cache");

/* The kind of an allocated single page. */
#define TIER_KIND_PAGE_ (TIER_KIND_BLOCK | 0U)

static void tier_pagecache_set_(struct tier_pagecache *cache,
                                struct tier_buddy *buddy)
{
    tier_pagemap_share_(&cache->map, &buddy->map);
    cache->count = 0;
    cache->buddy = buddy;
    cache->refills = 0;
    cache->drains = 0;
}

#if TIERALLOC_LOCKING
TIERALLOC_API void tier_pagecache_init(struct tier_pagecache *cache,
                                       struct tier_buddy *buddy,
                                       TIERALLOC_LOCK_TYPE *lock)
{
    tier_pagecache_set_(cache, buddy);
    cache->lock = lock;
}
#else
TIERALLOC_API void tier_pagecache_init(struct tier_pagecache *cache,
                                       struct tier_buddy *buddy)
{
    tier_pagecache_set_(cache, buddy);
}
#endif

/* Let a page wait. The cache has room. */
TIER_INLINE_ void tier_pagecache_push_(struct tier_pagecache *cache,
                                       size_t index)
{
    cache->page[cache->count++] = (uint32_t)index;
    tier_kind_store_(&cache->map.kind[index], TIER_KIND_CACHED);
}

/* Take the page that waited the shortest. The cache is not empty. */
TIER_INLINE_ void *tier_pagecache_pop_(struct tier_pagecache *cache)
{
    size_t index = tier_load_index_(&cache->page[--cache->count]);

    cache->map.entry[index].owner = 0;
    tier_kind_store_(&cache->map.kind[index], TIER_KIND_PAGE_);
    return tier_pagemap_address_(&cache->map, index);
}

/* Give the pages that waited longest back to the buddy; there are as many. */
static void tier_pagecache_give_(struct tier_pagecache *cache, size_t pages)
{
    TIERALLOC_LOCK(cache->lock);
    for (size_t i = 0; i < pages; i++) {
        tier_buddy_put_(cache->buddy, cache->page[i], 0);
    }
    TIERALLOC_UNLOCK(cache->lock);
    cache->drains++;
    cache->count -= pages;
    for (size_t i = 0; i < cache->count; i++) {
        cache->page[i] = cache->page[i + pages];
        TIER_OPAQUE_(i);
    }
}

TIERALLOC_API size_t tier_pagecache_drain(struct tier_pagecache *cache)
{
    size_t pages = cache->count;

    if (pages != 0) {
        tier_pagecache_give_(cache, pages);
    }
    return pages;
}

/* Allocate what the cache does not have, and refill it for single pages. */
TIER_NOINLINE_ static void *tier_pagecache_miss_(struct tier_pagecache *cache,
                                                 unsigned order)
{
    TIERALLOC_LOCK(cache->lock);
    void *block = tier_buddy_alloc(cache->buddy, order);

    if (order == 0 && block != NULL) {
        while (cache->count < TIER_PAGECACHE_BATCH - 1 &&
               cache->buddy->orders != 0) {
            void *page = tier_buddy_alloc(cache->buddy, 0);

            tier_pagecache_push_(cache, tier_pagemap_index_(&cache->map, page));
        }
        cache->refills++;
    }
    TIERALLOC_UNLOCK(cache->lock);
    return block;
}

TIERALLOC_API void *tier_pagecache_alloc(struct tier_pagecache *cache,
                                         unsigned order)
{
    if (TIER_UNLIKELY_(order != 0 || cache->count == 0)) {
        return tier_pagecache_miss_(cache, order);
    }
    return tier_pagecache_pop_(cache);
}

/* Free what is no single page in use. */
TIER_NOINLINE_ static enum tier_status tier_pagecache_pass_(
    struct tier_pagecache *cache, void *block)
{
    TIERALLOC_LOCK(cache->lock);
    enum tier_status status = tier_buddy_free(cache->buddy, block);

    TIERALLOC_UNLOCK(cache->lock);
    return status;
}

/* Make room in a full cache, then free a single page into it. */
TIER_NOINLINE_ static enum tier_status tier_pagecache_overflow_(
    struct tier_pagecache *cache, size_t index)
{
    tier_pagecache_give_(cache, TIER_PAGECACHE_BATCH);
    tier_pagecache_push_(cache, index);
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_pagecache_free(struct tier_pagecache *cache,
                                                   void *block)
{
    size_t index = tier_pagemap_index_(&cache->map, block);

    if (TIER_UNLIKELY_(index >= cache->map.pages ||
                       tier_kind_load_(&cache->map.kind[index]) !=
                           TIER_KIND_PAGE_ ||
                       !tier_is_aligned_((uintptr_t)block, TIER_PAGE_SIZE))) {
        return tier_pagecache_pass_(cache, block);
    }
    if (TIER_UNLIKELY_(cache->count == TIER_PAGECACHE_PAGES)) {
        return tier_pagecache_overflow_(cache, index);
    }
    tier_pagecache_push_(cache, index);
    return TIER_OK;
}

TIERALLOC_API bool tier_pagecache_check(const struct tier_pagecache *cache)
{
    if (cache->count > TIER_PAGECACHE_PAGES) {
        return false;
    }
    for (size_t i = 0; i < cache->count; i++) {
        if (cache->page[i] >= cache->map.pages ||
            cache->map.kind[cache->page[i]] != TIER_KIND_CACHED) {
            return false;
        }
        for (size_t j = 0; j < i; j++) {
            if (cache->page[j] == cache->page[i]) {
                return false;
            }
        }
    }
    return true;
}

#endif /* TIERALLOC_PAGECACHE_IMPLEMENTED */
