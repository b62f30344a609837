/*
 * tieralloc/tieralloc.h - the allocator: objects, page blocks, transactions.
 *
 * SPDX-License-Identifier: MIT
 *
 * One map of the span in which memory may lie. The size and the mode route a
 * request; one load from the map routes a free, by its address alone:
 *
 *     tier_alloc --+-- small ---> cpucache.h --> slab.h --+
 *                  +-- large ------------- runs ----------+--> zones.h
 *                  +-- in mode SIMPLE ---> heap.h --------+   (buddy.h, runs.h)
 *     tier_alloc_pages -------------- blocks -------------+
 *
 * Every call is fallible and none panics: what cannot be met is NULL or a
 * status, a bad free is a status and changes nothing. Before a request fails,
 * memory is looked for, dearer ways last (see tier_set_fail_fast): caches are
 * emptied, shrinkers asked, the reserve used, the out-of-memory handler called.
 *
 * In exactly one C file:
 *
 *     #define TIERALLOC_IMPLEMENTATION
 *     #include <tieralloc/tieralloc.h>
 *
 * The common calls are those of cpucache.h and cost as much. The struct takes
 * 31 KiB with the caches of one CPU, 6 KiB without (64-bit). Each call takes the
 * locks it needs, and holds none while it calls back, but where it says so.
 */
#ifndef TIERALLOC_TIERALLOC_H
#define TIERALLOC_TIERALLOC_H

#include "cpucache.h"
#include "heap.h"
#include "inject.h"
#include "reclaim.h"
#include "transaction.h"
#include "zones.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Flags of requests. */
#define TIER_ZERO     0x01U /* fill the bytes asked for with zeros */
#define TIER_NO_RETRY 0x02U /* fail at once: look for no memory */
#define TIER_RESERVE  0x04U /* may leave a zone fewer pages than its min */
#define TIER_DMA      0x10U /* whole pages of the lowest zone */
#define TIER_NORMAL   0x20U /* zone 1 or lower; as if no zone were named */
#define TIER_HIGH     0x40U /* whole pages of any zone, the highest first */

/*
 * For callers that may not wait: in an interrupt, which the lock of config.h must
 * then keep out, or under a lock of their own.
 */
#define TIER_ATOMIC (TIER_NO_RETRY | TIER_RESERVE)

/* Who serves requests for memory by the byte. */
enum tier_mode {
    TIER_TWO_TIER = 0, /* slabs, and runs for what is larger */
    TIER_SIMPLE = 1,   /* the simple heap, and runs for what it cannot hold */
    TIER_HYBRID = 2    /* as TWO_TIER, and the simple heap when that fails */
};

/* An allocator. The caller owns the storage; the fields are private. */
struct tier_allocator {
    struct tier_cpucache cache; /* first: has the same address */
    struct tier_pagemap map;    /* pages is 0 until the map has memory */
    struct tier_slab slab;
    struct tier_zones zones; /* count is 0 until the map has memory */
    struct tier_heap heap;
    struct tier_reclaim reclaim;
    struct tier_zone_range range[TIER_ZONES_MAX]; /* of the zones to be */
    unsigned ranges;
    enum tier_mode mode;
    bool fail_fast;
    unsigned source_flags; /* TIER_ZONE_* of pages for slabs and the heap */
    uintptr_t span_base;
    size_t span_bytes;
    size_t live_blocks;     /* blocks and runs of pages in use */
    size_t live_pages;      /* pages in these */
    size_t heap_pages;      /* pages that the simple heap holds */
    size_t heap_objects;    /* allocations in use in it */
    size_t heap_bytes;      /* usable bytes of these */
    size_t peak_used_pages; /* most in use since a region came or went */
    size_t requests;        /* that no magazine could serve */
    size_t recent_requests; /* the same, halved now and then */
    size_t recent_failures; /* of these, for want of memory; halved too */
    size_t recoveries;      /* requests for which memory was looked for */
    size_t failed_no_memory;
    size_t failed_too_large;
    size_t failed_invalid;
    size_t refused_frees; /* of what is not in a slab; slab.h has the others */
#if TIERALLOC_CHECKS == 2
    struct tier_injector injector;
#endif
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
    size_t free_pages;      /* of these, in nothing that is in use */
    size_t free_run_pages;  /* of these, in runs; the rest is in blocks */
    int largest_free_order; /* of the free blocks; -1 when there is none */
    size_t free_blocks[TIERALLOC_MAX_ORDER + 1]; /* by order */
    size_t slab_pages;                           /* pages in slabs */
    size_t heap_pages;   /* pages that the simple heap holds */
    size_t live_objects; /* objects in use, in slabs */
    size_t heap_objects; /* objects in use, in the simple heap */
    size_t live_blocks;  /* blocks and runs of pages in use */
    size_t live_pages;   /* pages in these */
    size_t live_bytes;   /* bytes that all of this takes, rounding included */

    size_t waiting_objects; /* free, but kept for a CPU; not among the live */
    size_t waiting_bytes;
    size_t peak_used_pages;  /* most in use since a region came or went */
    size_t requests;         /* that no magazine could serve */
    size_t recoveries;       /* of these, for which memory was looked for */
    size_t failed_allocs;    /* requests that ended without memory, because: */
    size_t failed_no_memory; /* nothing free was large enough */
    size_t failed_too_large; /* nothing ever is */
    size_t failed_invalid;   /* an argument was outside its range */
    size_t failed_injected;  /* the present rule said so (TIERALLOC_CHECKS 2) */
    size_t refused_frees;    /* frees that ended with a status */
};

/* --- Lifecycle ------------------------------------------------------------ */

/* Bytes of metadata for a span; 0 for one that tier_init refuses. */
TIERALLOC_API size_t tier_map_bytes(uintptr_t span_base, size_t span_bytes);

/*
 * Make *allocator an allocator without memory, in mode TWO_TIER, with one zone
 * over its whole span.
 *
 * All regions added later lie in [span_base, span_base + span_bytes); gaps
 * cost 9 or 11 bytes a page of metadata. `map` is that metadata: tier_map_bytes of
 * it, aligned to 8. With map NULL the first region that is added gives it.
 * The struct must not move afterwards.
 *
 * Returns TIER_OK, or with *allocator untouched one of TIER_ERR_OVERFLOW,
 * _INVALID, _TOO_LARGE, _MISALIGNED, _METADATA as tier_pagemap_init does;
 * _MISALIGNED also when the struct is not aligned as its type is.
 */
TIERALLOC_API enum tier_status tier_init(struct tier_allocator *allocator,
                                         uintptr_t span_base, size_t span_bytes,
                                         void *map, size_t map_bytes);

/*
 * Divide the span into zones, from low to high: of one, NORMAL; of two, DMA and
 * NORMAL; of three, DMA, NORMAL and HIGH. Before the first region is added.
 *
 * Returns TIER_OK, or with nothing changed TIER_ERR_IN_USE when a region was
 * added already, or what tier_zones_init returns.
 */
TIERALLOC_API enum tier_status tier_set_zones(
    struct tier_allocator *allocator, const struct tier_zone_range *ranges,
    unsigned count);

/*
 * Add the memory [base, base + bytes), cut inwards to whole pages.
 *
 * At any time; it is used until it is removed. If the allocator has no map
 * yet, the map is placed at the start of this region.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_OVERFLOW  base + bytes passes the end of the address space;
 *   TIER_ERR_INVALID   the range holds no whole page;
 *   TIER_ERR_FOREIGN   the range leaves the span of tier_init, or the zones;
 *   TIER_ERR_OVERLAP   a page of it is held already;
 *   TIER_ERR_METADATA  it is to hold the map, and is too small for that.
 */
TIERALLOC_API enum tier_status tier_add_region(struct tier_allocator *allocator,
                                               void *base, size_t bytes);

/*
 * Take the memory [base, base + bytes) away again, widened to whole pages.
 *
 * If need be, caches are emptied first (see tier_trim). Any part of what was
 * added may be removed, but for the map.
 *
 * Returns TIER_OK, or TIER_ERR_OVERFLOW, _INVALID, _FOREIGN as for adding
 * (_INVALID also when a zone would be left fewer pages than its high mark), or
 * TIER_ERR_IN_USE when a page of it is in use or in no region.
 */
TIERALLOC_API enum tier_status tier_remove_region(
    struct tier_allocator *allocator, void *base, size_t bytes);

/* --- Policy --------------------------------------------------------------- */

/*
 * Choose who serves requests from now on, whatever is in use: a free goes by the
 * address to the tier that owns it. O(CPUs * sizes).
 *
 * Returns TIER_OK, or TIER_ERR_INVALID for an unknown mode.
 */
TIERALLOC_API enum tier_status tier_set_mode(struct tier_allocator *allocator,
                                             enum tier_mode mode);

/*
 * With fail_fast, a request that nothing can meet as it is fails at once, as with
 * TIER_NO_RETRY: after 3 and 4 of what follows, which are O(1) but for a look at
 * the free runs of about the wanted length. Without, which is the default, memory
 * is looked for in this order, until the request is met:
 *
 *   1. free pages join, and then what waits for this CPU and between CPUs goes
 *      back to the slabs, empty slabs and parts of the heap become pages;
 *   2. shrinkers are asked, cheapest first, and 1 is done after each;
 *   3. with TIER_RESERVE, a zone may be left fewer pages than its min;
 *   4. an object is given pages of its own;
 *   5. the out-of-memory handler is asked, once, and 1 is done after it.
 *
 * A request that fails while shrinkers are asked for another one, by a callback of
 * theirs or on another CPU, gets neither 2 nor 5.
 *
 * So a request fails only if no free memory in one piece, aligned as it must be,
 * is large enough in the zones it accepts above what these keep back, but for
 * what waits for other CPUs: a shrinker of cost 0 can have these call tier_drain.
 * (A new slab of a named cache needs a page besides for what describes it.)
 */
TIERALLOC_API void tier_set_fail_fast(struct tier_allocator *allocator,
                                      bool fail_fast);

/*
 * Have a cache of rebuildable data shrink when memory is short; see reclaim.h.
 * Its callbacks run without a lock and may call the allocator; what these
 * requests miss is not looked for by shrinkers again.
 *
 * Returns what tier_reclaim_add and tier_reclaim_remove do.
 */
TIERALLOC_API enum tier_status tier_add_shrinker(
    struct tier_allocator *allocator, struct tier_shrinker *shrinker);
TIERALLOC_API enum tier_status tier_remove_shrinker(
    struct tier_allocator *allocator, struct tier_shrinker *shrinker);

/* Have a request that is about to fail told to `handler`; NULL: to nobody. */
TIERALLOC_API void tier_set_oom_handler(struct tier_allocator *allocator,
                                        tier_oom_handler handler,
                                        void *context);

/*
 * Set the watermarks, the low-memory reserve and the callback of zones; see
 * zones.h. The min of a zone is the reserve for requests with TIER_RESERVE. The
 * callback runs under the lock and must not call the allocator.
 *
 * Return TIER_OK, or TIER_ERR_INVALID as there, and before there is a map: that is
 * there from tier_init or the first region on. tier_set_zones forgets them.
 */
TIERALLOC_API enum tier_status tier_set_watermarks(
    struct tier_allocator *allocator, unsigned zone, size_t min_pages,
    size_t low_pages, size_t high_pages);
TIERALLOC_API enum tier_status tier_set_zone_reserve(
    struct tier_allocator *allocator, unsigned zone, size_t pages);
TIERALLOC_API enum tier_status tier_set_zone_callback(
    struct tier_allocator *allocator, tier_zone_callback callback,
    void *context);

#if TIERALLOC_CHECKS == 2
/* Make requests fail by a rule, see inject.h; NULL: not any more. */
TIERALLOC_API void tier_inject(struct tier_allocator *allocator,
                               const struct tier_injection *rule);

/* Requests that failed by the rule, since it was set. */
TIERALLOC_API size_t tier_injected(struct tier_allocator *allocator);

/*
 * Have faults in objects reported; NULL: not any more. See guard.h. Runs under a
 * lock or with interrupts off, and must not call the allocator.
 */
TIERALLOC_API void tier_set_report(struct tier_allocator *allocator,
                                   tier_report_callback report, void *context);
#endif

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate at least `bytes` bytes; 0 counts as 1. Contents are undefined.
 *
 * Aligned to TIERALLOC_MIN_ALIGN; above TIERALLOC_OBJECT_MAX whole pages, aligned
 * to a page.
 *
 * Returns NULL when there is no memory for it, or never could be.
 */
TIERALLOC_API void *tier_alloc(struct tier_allocator *allocator, size_t bytes);

/*
 * Allocate like tier_alloc, with flags, and say why it failed.
 *
 * With TIER_DMA or TIER_HIGH, where that is a zone of its own, the memory is
 * whole pages, whatever its size.
 *
 * Returns TIER_OK with the memory in *out, or with *out NULL:
 *   TIER_ERR_NO_MEMORY  nothing free is large enough just now;
 *   TIER_ERR_TOO_LARGE  bytes exceeds TIER_BLOCK_MAX;
 *   TIER_ERR_INVALID    a flag is unknown, or two name a zone.
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
 * Allocate like tier_alloc_pages, with flags, and say why it failed: as
 * tier_try_alloc, TIER_ERR_TOO_LARGE when order exceeds TIERALLOC_MAX_ORDER.
 */
TIERALLOC_API enum tier_status tier_try_alloc_pages(
    struct tier_allocator *allocator, unsigned order, unsigned flags,
    void **out);

/*
 * Allocate `count` objects of `bytes` bytes each into out[0 .. count - 1], all or
 * none. O(count).
 *
 * Returns TIER_OK, or with nothing allocated and `out` undefined what
 * tier_try_alloc returns.
 */
TIERALLOC_API enum tier_status tier_alloc_bulk(struct tier_allocator *allocator,
                                               size_t bytes, size_t count,
                                               void **out);

/*
 * Make an allocation `bytes` bytes large, in place if it can, else moving it.
 *
 * In place stays what keeps its size class; pages as far as those behind are
 * free; in the simple heap likewise. Contents up to the smaller size are kept.
 * What tier_alloc_pages gave stays a block, aligned to its own size; otherwise the
 * alignment is that of tier_alloc: tier_realloc_aligned keeps another one. Pages
 * of another zone than objects come from stay there while they shrink; what has
 * to move goes where tier_alloc would put it. At TIERALLOC_CHECKS 2 objects
 * always move.
 * `memory` NULL allocates; `bytes` 0 counts as 1 and never frees. Shrinking never
 * fails.
 *
 * Returns the memory at its new place, or NULL with the allocation as it was:
 * when there is no memory, or when `memory` is not an allocation in use.
 */
TIERALLOC_API void *tier_realloc(struct tier_allocator *allocator, void *memory,
                                 size_t bytes);

/*
 * Resize like tier_realloc what tier_alloc_aligned gave, keeping an alignment.
 *
 * Returns NULL also when alignment is no power of two, or when it exceeds
 * TIER_BLOCK_MAX.
 */
TIERALLOC_API void *tier_realloc_aligned(struct tier_allocator *allocator,
                                         void *memory, size_t bytes,
                                         size_t alignment);

/* --- Freeing -------------------------------------------------------------- */

/*
 * Free what any of these calls gave; NULL is a no-op.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_FOREIGN      not memory of this allocator;
 *   TIER_ERR_INTERIOR     inside an allocation, not at its start;
 *   TIER_ERR_DOUBLE_FREE  free already; see tier_cpucache_free.
 */
TIERALLOC_API enum tier_status tier_free(struct tier_allocator *allocator,
                                         void *memory);

/*
 * Free an allocation that was asked for with `bytes` bytes; NULL is a no-op.
 *
 * After tier_alloc_aligned, or a tier_realloc that returned the same address,
 * the size to give is tier_usable_size. At TIERALLOC_CHECKS 0 not for objects of
 * named caches.
 *
 * Returns what tier_free does, and TIER_ERR_WRONG_SIZE, with the allocation
 * still in use, when `bytes` belongs to another size class or number of pages.
 */
TIERALLOC_API enum tier_status tier_free_sized(struct tier_allocator *allocator,
                                               void *memory, size_t bytes);

/*
 * Free memory[0 .. count - 1], all or none; NULL is none of them. The array is
 * sorted by address. O(count * log count).
 *
 * Requires: no other CPU frees any of it meanwhile.
 * Returns TIER_OK, or with nothing freed what tier_free returns for a wrong
 * pointer (TIER_ERR_DOUBLE_FREE also when one is named twice, TIER_ERR_FOREIGN
 * for NULL).
 */
TIERALLOC_API enum tier_status tier_free_bulk(struct tier_allocator *allocator,
                                              size_t count, void **memory);

/*
 * Give back to the pages all that is kept and not in use: what waits for this
 * CPU and between CPUs, empty slabs, empty parts of the simple heap; and have
 * free pages join to the largest blocks. Returns how many pages that freed.
 */
TIERALLOC_API size_t tier_trim(struct tier_allocator *allocator);

/*
 * Give what waits for a CPU back to the slabs; see tier_cpucache_drain. Returns
 * how many objects that is.
 */
TIERALLOC_API size_t tier_drain(struct tier_allocator *allocator, unsigned cpu);

/* --- Named caches --------------------------------------------------------- */

/*
 * Make *cache a cache of equal objects, drop it, and take an object, as
 * tier_cache_init, tier_cache_destroy and tier_cache_alloc do, with locks and
 * recovery. tier_free frees the objects. A constructor runs under the lock.
 */
TIERALLOC_API enum tier_status tier_add_cache(struct tier_allocator *allocator,
                                              struct tier_cache *cache,
                                              const char *name,
                                              size_t object_bytes,
                                              size_t alignment, unsigned flags,
                                              tier_construct construct);
TIERALLOC_API enum tier_status tier_remove_cache(
    struct tier_allocator *allocator, struct tier_cache *cache);
TIERALLOC_API void *tier_alloc_from(struct tier_allocator *allocator,
                                    struct tier_cache *cache);

/* --- Transactions --------------------------------------------------------- */

/*
 * Allocate as a step of a transaction: freed again if it is rolled back. Steps
 * of one transaction may be of several allocators.
 *
 * Until it is committed, free or resize the memory by tier_tx_free only: the
 * rollback would free whatever lies at the address by then.
 *
 * A rollback also returns the slabs that its allocations made necessary, so
 * that the live counters of tier_stats are what they were at the beginning.
 * (An allocation that looked for memory has emptied caches, one that took pages
 * from small blocks has free runs joined, one that made an area of the simple
 * heap gives up an empty one too: free pages are then as after tier_trim. What a
 * request that failed moved between blocks and runs, only tier_trim moves back.)
 *
 * Returns TIER_OK with the memory in *out, or with *out NULL what
 * tier_try_alloc returns (TIER_ERR_NO_MEMORY also when the log cannot grow), or
 * TIER_ERR_LOG_FULL.
 */
TIERALLOC_API enum tier_status tier_tx_alloc(struct tier_tx *tx,
                                             struct tier_allocator *allocator,
                                             size_t bytes, void **out);

/* tier_try_alloc as a step of a transaction; see tier_tx_alloc. */
TIERALLOC_API enum tier_status tier_tx_try_alloc(
    struct tier_tx *tx, struct tier_allocator *allocator, size_t bytes,
    unsigned flags, void **out);

/* tier_try_alloc_pages as a step of a transaction; see tier_tx_alloc. */
TIERALLOC_API enum tier_status tier_tx_alloc_pages(
    struct tier_tx *tx, struct tier_allocator *allocator, unsigned order,
    unsigned flags, void **out);

/*
 * Free an allocation when the transaction commits; NULL is a no-op.
 *
 * Until then it stays in use, so a rollback keeps it as it is; neither free nor
 * resize it meanwhile, nor in another transaction.
 *
 * Returns TIER_OK, or with nothing but a counter changed what tier_free would
 * return (TIER_ERR_DOUBLE_FREE also if this transaction frees it already), or
 * TIER_ERR_LOG_FULL, or TIER_ERR_NO_MEMORY when the log cannot grow.
 */
TIERALLOC_API enum tier_status tier_tx_free(struct tier_tx *tx,
                                            struct tier_allocator *allocator,
                                            void *memory);

/*
 * Make *source give pages of this allocator, for a log that grows (see
 * tier_tx_begin_growing) or a slab tier with a map of its own. They are runs in
 * use until its release.
 */
TIERALLOC_API void tier_source(struct tier_allocator *allocator,
                               struct tier_page_source *source);

/* --- Inspection ----------------------------------------------------------- */

/*
 * Bytes usable in an allocation; 0 for anything else, but at TIERALLOC_CHECKS 0
 * not for a freed object in a slab. At TIERALLOC_CHECKS 2 an object has as many
 * as were asked for. O(1), in the simple heap O(heap).
 */
TIERALLOC_API size_t tier_usable_size(struct tier_allocator *allocator,
                                      const void *memory);

/* Copy the counters into *stats. O(CPUs * size classes), allocates nothing. */
TIERALLOC_API void tier_stats(struct tier_allocator *allocator,
                              struct tier_stats *stats);

/*
 * True when every invariant of all tiers holds, and every page in use belongs to
 * a slab, the heap, or a counted block. No CPU may be in a call meanwhile.
 * O(pages).
 */
TIERALLOC_API bool tier_check(struct tier_allocator *allocator);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_TIERALLOC_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_TIERALLOC_IMPLEMENTED)
#define TIERALLOC_TIERALLOC_IMPLEMENTED

#include "internal.h"

/* --- Pages for the tiers --- */

/* True when there is a map, and so zones, and may be memory. */
TIER_INLINE_ bool tier_has_map_(const struct tier_allocator *allocator)
{
    return allocator->map.pages != 0;
}

/* The highest zone that a request with these flags accepts. */
TIER_INLINE_ unsigned tier_zone_for_(const struct tier_allocator *allocator,
                                     unsigned flags)
{
    if ((flags & TIER_DMA) != 0) {
        return 0;
    }
    return (flags & TIER_HIGH) != 0 ? allocator->zones.count - 1
                                    : allocator->zones.count > 1;
}

/* Note how many pages are in use, `more` of them not counted elsewhere. */
TIER_INLINE_ void tier_note_peak_(struct tier_allocator *allocator, size_t more)
{
    size_t used = allocator->live_pages + allocator->slab.pages +
                  allocator->heap_pages + more;

    if (used > allocator->peak_used_pages) {
        allocator->peak_used_pages = used;
    }
}

/* Pages for a slab. The lock is held. */
static void *tier_slab_acquire_pages_(void *context, size_t pages)
{
    struct tier_allocator *allocator = (struct tier_allocator *)context;

    if (!tier_has_map_(allocator)) {
        return NULL;
    }
    void *memory = tier_zones_acquire(
        &allocator->zones, pages, tier_zone_for_(allocator, 0),
        allocator->source_flags | TIER_ZONE_QUICK);

    if (memory != NULL) {
        tier_note_peak_(allocator, pages);
    }
    return memory;
}

static void tier_slab_release_pages_(void *context, void *memory, size_t pages)
{
    struct tier_allocator *allocator = (struct tier_allocator *)context;

    tier_zones_release(&allocator->zones, memory, pages);
}

/* Name pages in the map as the heap's, or not. */
static void tier_heap_name_(const struct tier_allocator *allocator,
                            const void *memory, size_t pages, unsigned kind)
{
    uintptr_t first = tier_pagemap_index_(&allocator->map, memory);

    for (size_t i = 0; i < pages; i++) {
        tier_kind_store_(&allocator->map.kind[first + i], kind);
        TIER_OPAQUE_(i);
    }
}

/* Pages for the simple heap. The lock is held. */
static void *tier_heap_acquire_pages_(void *context, size_t pages)
{
    struct tier_allocator *allocator = (struct tier_allocator *)context;
    void *memory = tier_slab_acquire_pages_(context, pages);

    if (memory != NULL) {
        allocator->heap_pages += pages;
        tier_heap_name_(allocator, memory, pages, TIER_KIND_HEAP);
    }
    return memory;
}

static void tier_heap_release_pages_(void *context, void *memory, size_t pages)
{
    struct tier_allocator *allocator = (struct tier_allocator *)context;

    allocator->heap_pages -= pages;
    tier_heap_name_(allocator, memory, pages, TIER_KIND_NONE);
    tier_zones_release(&allocator->zones, memory, pages);
}

/* --- Lifecycle --- */

TIERALLOC_API size_t tier_map_bytes(uintptr_t span_base, size_t span_bytes)
{
    return tier_pagemap_bytes(span_base, span_bytes);
}

/* Let the tiers use the map, which has memory now. */
static void tier_share_map_(struct tier_allocator *allocator)
{
    enum tier_status status =
        tier_zones_init(&allocator->zones, &allocator->map, allocator->range,
                        allocator->ranges);

    (void)status;
    TIERALLOC_ASSERT(status == TIER_OK);
    tier_pagemap_share_(&allocator->slab.map, &allocator->map);
#if TIERALLOC_CPUS > 0
    tier_cpucache_set_map_(&allocator->cache);
#endif
}

/* Make the tiers, over a map that may have no memory yet. */
static void tier_init_tiers_(struct tier_allocator *allocator)
{
    struct tier_page_source source;

    source.context = allocator;
    source.acquire = tier_slab_acquire_pages_;
    source.release = tier_slab_release_pages_;
    tier_slab_init(&allocator->slab, &allocator->map, &source);
    source.acquire = tier_heap_acquire_pages_;
    source.release = tier_heap_release_pages_;
    tier_heap_init(&allocator->heap, &source);
    tier_reclaim_init(&allocator->reclaim);
    allocator->zones.count = 0;
#if TIERALLOC_CPUS > 0
    tier_cpucache_set_(&allocator->cache, &allocator->slab);
#else
    allocator->cache.slab = &allocator->slab;
#endif
#if TIERALLOC_LOCKING
    allocator->cache.lock = &allocator->lock;
#endif
}

/* Set what is neither a tier nor the map. */
static void tier_init_counters_(struct tier_allocator *allocator)
{
    size_t none = 0;

    TIER_OPAQUE_(none); /* or all of this would be a call of memset */
    allocator->mode = TIER_TWO_TIER;
    allocator->fail_fast = false;
    allocator->source_flags = 0;
    allocator->live_blocks = none;
    allocator->live_pages = none;
    allocator->heap_pages = none;
    allocator->heap_objects = none;
    allocator->heap_bytes = none;
    allocator->peak_used_pages = none;
    allocator->requests = none;
    allocator->recent_requests = none;
    allocator->recent_failures = none;
    allocator->recoveries = none;
    allocator->failed_no_memory = none;
    allocator->failed_too_large = none;
    allocator->failed_invalid = none;
    allocator->refused_frees = none;
#if TIERALLOC_CHECKS == 2
    tier_injector_set(&allocator->injector, NULL);
#endif
}

/* Make *map one without memory, which knows no page. */
static void tier_clear_map_(struct tier_pagemap *map)
{
    map->first = 0;
    map->pages = 0;
    map->skew = 0;
    map->kind = NULL;
    map->entry = NULL;
#if TIERALLOC_CPUS > 0
    map->cut = NULL;
#endif
}

TIERALLOC_API enum tier_status tier_init(struct tier_allocator *allocator,
                                         uintptr_t span_base, size_t span_bytes,
                                         void *map, size_t map_bytes)
{
    struct tier_pagemap given;
    struct tier_page_range_ range;
    enum tier_status status = tier_pagemap_span_(span_base, span_bytes, &range);

    tier_clear_map_(&given);
    if (status == TIER_OK && map != NULL) {
        status =
            tier_pagemap_init(&given, span_base, span_bytes, map, map_bytes);
    }
    if (status == TIER_OK &&
        !tier_is_aligned_((uintptr_t)allocator,
                          _Alignof(struct tier_allocator))) {
        status = TIER_ERR_MISALIGNED;
    }
    if (status != TIER_OK) {
        return status;
    }
    tier_pagemap_share_(&allocator->map, &given);
    allocator->span_base = span_base;
    allocator->span_bytes = span_bytes;
    allocator->range[0].name = "NORMAL";
    allocator->range[0].base = span_base;
    allocator->range[0].bytes = span_bytes;
    allocator->ranges = 1;
    TIERALLOC_LOCK_INIT(&allocator->lock);
    tier_init_counters_(allocator);
    tier_init_tiers_(allocator);
    if (map != NULL) {
        tier_share_map_(allocator);
    }
    return TIER_OK;
}

/* The whole pages of memory that was accepted before. */
static void tier_known_range_(uintptr_t base, size_t bytes,
                              struct tier_page_range_ *range)
{
    range->begin = 0;
    range->end = 0;
    (void)tier_page_range_(base, bytes, range);
}

/* The pages of the span as a map without memory, to check zones against. */
static void tier_span_map_(const struct tier_allocator *allocator,
                           struct tier_pagemap *map)
{
    struct tier_page_range_ range;

    tier_known_range_(allocator->span_base, allocator->span_bytes, &range);
    tier_clear_map_(map);
    map->first = range.begin;
    map->pages = range.end - range.begin;
}

TIERALLOC_API enum tier_status tier_set_zones(
    struct tier_allocator *allocator, const struct tier_zone_range *ranges,
    unsigned count)
{
    struct tier_page_range_ bounds[TIER_ZONES_MAX];
    struct tier_pagemap span;

    TIERALLOC_LOCK(&allocator->lock);
    tier_span_map_(allocator, &span);
    enum tier_status status = tier_zones_bounds_(&span, ranges, count, bounds);

    if (tier_has_map_(allocator) &&
        tier_zones_managed_pages(&allocator->zones) != 0) {
        status = TIER_ERR_IN_USE;
    }
    for (unsigned i = 0; status == TIER_OK && i < count; i++) {
        allocator->range[i].name = ranges[i].name;
        allocator->range[i].base = ranges[i].base;
        allocator->range[i].bytes = ranges[i].bytes;
        allocator->ranges = count;
    }
    if (status == TIER_OK && tier_has_map_(allocator)) {
        status = tier_zones_init(&allocator->zones, &allocator->map,
                                 allocator->range, count);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
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

/* True when each page of a range is in a zone to be. */
static bool tier_ranges_cover_(const struct tier_allocator *allocator,
                               const struct tier_page_range_ *range)
{
    size_t left = range->end - range->begin;
    struct tier_page_range_ zone;

    for (unsigned i = 0; i < allocator->ranges; i++) {
        tier_known_range_(allocator->range[i].base, allocator->range[i].bytes,
                          &zone);
        zone.begin = zone.begin > range->begin ? zone.begin : range->begin;
        zone.end = zone.end < range->end ? zone.end : range->end;
        left -= zone.begin < zone.end ? zone.end - zone.begin : 0;
    }
    return left == 0;
}

/* Check a region against the zones before any of it is used. */
static enum tier_status tier_check_region_(
    const struct tier_allocator *allocator, uintptr_t base, size_t bytes)
{
    struct tier_page_range_ range;
    enum tier_status status = tier_page_range_(base, bytes, &range);

    if (status == TIER_OK && !tier_ranges_cover_(allocator, &range)) {
        status = TIER_ERR_FOREIGN;
    }
    return status;
}

/*
 * A slab has at most one part in so many of all memory: with larger ones a small
 * memory is full of slabs that are half empty. (A trace that has 70 % of 8 MiB
 * in use needs 2.9 % less with a 256th than without.)
 */
#define TIER_SLAB_SHARE_ 256

/*
 * Pages for slabs of an object size: those that waste least, no more than `most`
 * unless an eighth would be wasted then.
 */
static size_t tier_fit_pages_(size_t bytes, size_t most)
{
    size_t last = tier_cache_best_pages_(bytes);
    size_t best = tier_cache_pages_(bytes, 1);
    size_t least = tier_cache_waste_(bytes, best);

    if (last <= most) {
        return last;
    }
    for (size_t pages = best + 1; pages <= last; pages++) {
        size_t waste = tier_cache_waste_(bytes, pages);

        if (pages > most && least * 8 <= best * TIER_PAGE_SIZE) {
            break;
        }
        if (waste * best < least * pages) {
            best = pages;
            least = waste;
        }
    }
    return best;
}

/* Have the slabs of a cache be of about so many pages at most. */
static void tier_shape_cache_(struct tier_cache_base *cache, size_t most)
{
    size_t bytes = cache->object_bytes;
    size_t objects = tier_cache_objects_(bytes, tier_fit_pages_(bytes, most));
    size_t pages = tier_cache_pages_(bytes, objects);

    if (cache->slabs == 0 || pages > cache->slab_pages) {
        cache->slab_pages = (uint8_t)pages;
        cache->slab_objects = (uint16_t)objects;
        cache->meta = (uint8_t)tier_slab_meta_for_(objects);
    }
    if (cache->slabs == 0) {
        cache->fill_shift = (uint8_t)tier_cache_shift_(objects);
    }
}

/* Most pages of a slab, but for objects that need more. */
static size_t tier_most_pages_(const struct tier_allocator *allocator)
{
    size_t share =
        tier_zones_managed_pages(&allocator->zones) / TIER_SLAB_SHARE_;

    return share == 0 ? 1 : share;
}

/* Note that memory came or went. The lock is held. */
static void tier_resized_(struct tier_allocator *allocator)
{
    struct tier_slab *slab = &allocator->slab;
    size_t most = tier_most_pages_(allocator);

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_shape_cache_(&slab->classes[i], most);
    }
    for (struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        tier_shape_cache_(&c->base, most);
    }
    allocator->peak_used_pages = 0;
    tier_note_peak_(allocator, 0);
}

TIERALLOC_API enum tier_status tier_add_region(struct tier_allocator *allocator,
                                               void *base, size_t bytes)
{
    uintptr_t from = (uintptr_t)base;
    enum tier_status status;

    TIERALLOC_LOCK(&allocator->lock);
    status = tier_check_region_(allocator, from, bytes);
    if (status == TIER_OK && !tier_has_map_(allocator)) {
        status = tier_carve_map_(allocator, &from, &bytes);
    }
    if (status == TIER_OK) {
        status = tier_zones_add(&allocator->zones, (void *)from, bytes);
    }
    if (status == TIER_OK) {
        tier_resized_(allocator);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

/* Take a region away if none of it is in use. */
static enum tier_status tier_try_remove_(struct tier_allocator *allocator,
                                         void *base, size_t bytes)
{
    struct tier_page_range_ range;

    TIERALLOC_LOCK(&allocator->lock);
    enum tier_status status =
        tier_has_map_(allocator)
            ? tier_zones_remove(&allocator->zones, base, bytes)
            : tier_page_cover_((uintptr_t)base, bytes, &range);

    if (!tier_has_map_(allocator) && status == TIER_OK) {
        status = TIER_ERR_IN_USE; /* it is in no region */
    } else if (status == TIER_OK) {
        tier_resized_(allocator);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

TIERALLOC_API enum tier_status tier_remove_region(
    struct tier_allocator *allocator, void *base, size_t bytes)
{
    enum tier_status status = tier_try_remove_(allocator, base, bytes);

    if (status == TIER_ERR_IN_USE) {
        (void)tier_trim(allocator);
        status = tier_try_remove_(allocator, base, bytes);
    }
    return status;
}

/* --- Policy --- */

TIERALLOC_API enum tier_status tier_set_mode(struct tier_allocator *allocator,
                                             enum tier_mode mode)
{
    if (mode != TIER_TWO_TIER && mode != TIER_SIMPLE && mode != TIER_HYBRID) {
        return TIER_ERR_INVALID;
    }
    TIERALLOC_LOCK(&allocator->lock);
    TIER_POKE_(allocator->mode, mode);
    tier_cpucache_set_open_(&allocator->cache, mode != TIER_SIMPLE);
    TIERALLOC_UNLOCK(&allocator->lock);
    return TIER_OK;
}

TIERALLOC_API void tier_set_fail_fast(struct tier_allocator *allocator,
                                      bool fail_fast)
{
    TIERALLOC_LOCK(&allocator->lock);
    TIER_POKE_(allocator->fail_fast, fail_fast);
    TIERALLOC_UNLOCK(&allocator->lock);
}

TIERALLOC_API enum tier_status tier_add_shrinker(
    struct tier_allocator *allocator, struct tier_shrinker *shrinker)
{
    return tier_reclaim_add(&allocator->reclaim, shrinker);
}

TIERALLOC_API enum tier_status tier_remove_shrinker(
    struct tier_allocator *allocator, struct tier_shrinker *shrinker)
{
    return tier_reclaim_remove(&allocator->reclaim, shrinker);
}

TIERALLOC_API void tier_set_oom_handler(struct tier_allocator *allocator,
                                        tier_oom_handler handler, void *context)
{
    tier_reclaim_set_oom(&allocator->reclaim, handler, context);
}

TIERALLOC_API enum tier_status tier_set_watermarks(
    struct tier_allocator *allocator, unsigned zone, size_t min_pages,
    size_t low_pages, size_t high_pages)
{
    enum tier_status status = TIER_ERR_INVALID;

    TIERALLOC_LOCK(&allocator->lock);
    if (tier_has_map_(allocator)) {
        status = tier_zones_set_watermarks(&allocator->zones, zone, min_pages,
                                           low_pages, high_pages);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

TIERALLOC_API enum tier_status tier_set_zone_reserve(
    struct tier_allocator *allocator, unsigned zone, size_t pages)
{
    enum tier_status status = TIER_ERR_INVALID;

    TIERALLOC_LOCK(&allocator->lock);
    if (tier_has_map_(allocator)) {
        status = tier_zones_set_reserve(&allocator->zones, zone, pages);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

TIERALLOC_API enum tier_status tier_set_zone_callback(
    struct tier_allocator *allocator, tier_zone_callback callback,
    void *context)
{
    enum tier_status status = TIER_ERR_INVALID;

    TIERALLOC_LOCK(&allocator->lock);
    if (tier_has_map_(allocator)) {
        tier_zones_set_callback(&allocator->zones, callback, context);
        status = TIER_OK;
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

#if TIERALLOC_CHECKS == 2
TIERALLOC_API void tier_inject(struct tier_allocator *allocator,
                               const struct tier_injection *rule)
{
    TIERALLOC_LOCK(&allocator->lock);
    tier_injector_set(&allocator->injector, rule);
    TIERALLOC_UNLOCK(&allocator->lock);
}

TIERALLOC_API size_t tier_injected(struct tier_allocator *allocator)
{
    TIERALLOC_LOCK(&allocator->lock);
    size_t failed = allocator->injector.failed;

    TIERALLOC_UNLOCK(&allocator->lock);
    return failed;
}

TIERALLOC_API void tier_set_report(struct tier_allocator *allocator,
                                   tier_report_callback report, void *context)
{
    TIERALLOC_LOCK(&allocator->lock);
    tier_slab_set_report(&allocator->slab, report, context);
    TIERALLOC_UNLOCK(&allocator->lock);
}
#endif

/* --- One attempt --- */

/* A request on its way, and what it got. */
struct tier_want_ {
    struct tier_allocator *allocator;
    size_t bytes;
    size_t alignment;         /* at most a page */
    size_t pages;             /* whole pages are wanted; 0: they are not */
    struct tier_cache *cache; /* an object of it is wanted, or NULL */
    int order;                /* a block is wanted; -1: it is not */
    unsigned flags;
    unsigned zone_flags; /* with TIER_ZONE_EMERGENCY: may use the reserve */
    bool alone;          /* an object may have pages of its own */
    uintptr_t site;
    void *memory;
};

TIER_INLINE_ void tier_want_init_(struct tier_want_ *want,
                                  struct tier_allocator *allocator,
                                  size_t bytes, unsigned flags, uintptr_t site)
{
    want->allocator = allocator;
    want->bytes = bytes;
    want->alignment = TIERALLOC_MIN_ALIGN;
    want->pages = 0;
    want->cache = NULL;
    want->order = -1;
    want->flags = flags;
    want->zone_flags = TIER_ZONE_QUICK;
    want->alone = false;
    want->site = site;
    want->memory = NULL;
}

/* Pages that hold so many bytes; 0 counts as 1. */
TIER_INLINE_ size_t tier_pages_for_(size_t bytes)
{
    return bytes == 0 ? 1 : (bytes - 1) / TIER_PAGE_SIZE + 1;
}

/* The order of the smallest block of at least `bytes`, at most BLOCK_MAX. */
TIER_INLINE_ unsigned tier_order_for_(size_t bytes)
{
    unsigned order = 0;

    while ((TIER_PAGE_SIZE << order) < bytes) {
        order++;
    }
    return order;
}

/* Allocate a run of so many pages, or the block that is wanted. */
static bool tier_take_pages_(struct tier_want_ *want, size_t pages)
{
    struct tier_allocator *allocator = want->allocator;
    enum tier_status status = TIER_ERR_NO_MEMORY;

    TIERALLOC_LOCK(&allocator->lock);
    if (TIER_LIKELY_(tier_has_map_(allocator))) {
        unsigned zone = tier_zone_for_(allocator, want->flags);

        status =
            want->order < 0
                ? tier_zones_try_alloc_run(&allocator->zones, pages, zone,
                                           want->zone_flags, &want->memory)
                : tier_zones_try_alloc(&allocator->zones, (unsigned)want->order,
                                       zone, want->zone_flags, &want->memory);
    }
    if (TIER_LIKELY_(status == TIER_OK)) {
        allocator->live_blocks++;
        allocator->live_pages += pages;
        tier_note_peak_(allocator, 0);
#if TIERALLOC_CHECKS == 2
        (void)tier_zones_set_owner(&allocator->zones, want->memory, want->site);
#endif
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status == TIER_OK;
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

/* Bytes of the object to ask for; too many when there is none such. */
TIER_INLINE_ size_t tier_object_bytes_(const struct tier_want_ *want)
{
    size_t bytes = want->bytes;

    if (TIER_LIKELY_(want->alignment <= TIERALLOC_MIN_ALIGN)) {
        return bytes;
    }
    bytes = bytes < want->alignment ? want->alignment : bytes;
    return bytes <= TIER_SLAB_BYTES_MAX
               ? tier_aligned_bytes_(bytes, want->alignment)
               : bytes;
}

/* Allocate an object from the reserve: past the magazines, under the lock. */
static void *tier_take_reserved_(struct tier_allocator *allocator, size_t bytes,
                                 uintptr_t site)
{
    struct tier_slab *slab = &allocator->slab;

    TIERALLOC_LOCK(&allocator->lock);
    allocator->source_flags = TIER_ZONE_EMERGENCY;
    void *object = tier_class_alloc_(slab, tier_slab_class_(bytes));

    allocator->source_flags = 0;
    TIERALLOC_UNLOCK(&allocator->lock);
    if (object == NULL) {
        return NULL;
    }
#if TIERALLOC_CPUS > 0
    return tier_cpucache_open_(&allocator->cache, object, bytes, site);
#else
    tier_slab_open_(slab, tier_slab_of_(&slab->map, object)->cache, object,
                    bytes + (bytes == 0), site);
    return object;
#endif
}

/* Allocate an object of a size class. */
static bool tier_take_object_(struct tier_want_ *want)
{
    size_t bytes = tier_object_bytes_(want);

    if (bytes > TIER_SLAB_BYTES_MAX) {
        return false;
    }
    want->memory =
        (want->zone_flags & TIER_ZONE_EMERGENCY) == 0
            ? tier_cpucache_alloc_at_(&want->allocator->cache, bytes,
                                      want->site)
            : tier_take_reserved_(want->allocator, bytes, want->site);
    return want->memory != NULL;
}

/* Allocate an object of a named cache. */
static bool tier_take_named_(struct tier_want_ *want)
{
    struct tier_allocator *allocator = want->allocator;

    TIERALLOC_LOCK(&allocator->lock);
    allocator->source_flags = want->zone_flags;
    want->memory = tier_cache_alloc_(&allocator->slab, &want->cache->base);
    allocator->source_flags = 0;
    TIERALLOC_UNLOCK(&allocator->lock);
#if TIERALLOC_CHECKS == 2
    if (want->memory != NULL) {
        tier_slab_open_(&allocator->slab, &want->cache->base, want->memory,
                        want->cache->bytes, want->site);
    }
#endif
    return want->memory != NULL;
}

#if TIERALLOC_CHECKS == 2
/* What guard.h needs to know of an object in the simple heap. */
static void tier_heap_guard_(const struct tier_allocator *allocator,
                             const void *memory, struct tier_guard_ *guard)
{
    guard->report = allocator->slab.report;
    guard->context = allocator->slab.report_context;
    guard->cache = "heap";
    guard->object_bytes = tier_heap_usable_size(&allocator->heap, memory);
    guard->fresh = false;
}
#endif

/* Allocate from the simple heap. */
static bool tier_take_heap_(struct tier_want_ *want)
{
    struct tier_allocator *allocator = want->allocator;
    size_t bytes = want->bytes + (want->bytes == 0);

    TIERALLOC_LOCK(&allocator->lock);
    allocator->source_flags = want->zone_flags;
    want->memory = tier_heap_alloc_aligned(
        &allocator->heap, bytes + TIER_GUARD_BYTES, want->alignment);
    allocator->source_flags = 0;
    if (want->memory != NULL) {
        allocator->heap_objects++;
        allocator->heap_bytes +=
            tier_heap_usable_size(&allocator->heap, want->memory);
#if TIERALLOC_CHECKS == 2
        struct tier_guard_ guard;

        tier_heap_guard_(allocator, want->memory, &guard);
        tier_guard_make_(&guard, want->memory, false);
        tier_guard_open_(&guard, want->memory, bytes, 0, want->site, false);
#endif
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return want->memory != NULL;
}

/* Allocate memory by the byte, from whom the mode says. */
static bool tier_take_bytes_(struct tier_want_ *want)
{
    enum tier_mode mode = TIER_PEEK_(want->allocator->mode);
    bool small = mode == TIER_SIMPLE
                     ? want->bytes <= TIER_HEAP_BYTES_MAX - TIER_GUARD_BYTES
                     : tier_object_bytes_(want) <= TIER_SLAB_BYTES_MAX;

    if (small && mode != TIER_SIMPLE && tier_take_object_(want)) {
        return true;
    }
    if (small && mode != TIER_TWO_TIER && tier_take_heap_(want)) {
        return true;
    }
    if (TIER_LIKELY_(!small || want->alone)) {
        if (tier_take_pages_(want, tier_pages_for_(want->bytes))) {
            return true;
        }
    }
    return !small && mode == TIER_HYBRID &&
           want->bytes <= TIER_HEAP_BYTES_MAX - TIER_GUARD_BYTES &&
           tier_take_heap_(want);
}

/* True when the request goes to another zone than objects come from. */
TIER_INLINE_ bool tier_wants_zone_(const struct tier_want_ *want)
{
    const struct tier_allocator *allocator = want->allocator;

    return TIER_UNLIKELY_((want->flags & (TIER_DMA | TIER_HIGH)) != 0) &&
           tier_has_map_(allocator) &&
           tier_zone_for_(allocator, want->flags) !=
               tier_zone_for_(allocator, 0);
}

/* Try a request once. */
static bool tier_attempt_(struct tier_want_ *want)
{
    if (want->order >= 0) {
        return tier_take_pages_(want, tier_order_pages_((unsigned)want->order));
    }
    if (want->cache != NULL) {
        return tier_take_named_(want);
    }
    if (want->pages != 0) {
        return tier_take_pages_(want, want->pages);
    }
    if (tier_wants_zone_(want)) {
        return tier_take_pages_(want, tier_pages_for_(want->bytes));
    }
    return tier_take_bytes_(want);
}

/* --- Recovery --- */

/* Have free pages join: as blocks, or as runs, which cross their borders. */
static void tier_join_(struct tier_allocator *allocator, bool as_blocks)
{
    TIERALLOC_LOCK(&allocator->lock);
    if (tier_has_map_(allocator)) {
        (void)(as_blocks ? tier_zones_trim(&allocator->zones)
                         : tier_zones_gather(&allocator->zones));
    }
    TIERALLOC_UNLOCK(&allocator->lock);
}

/*
 * Have all that is kept and not in use become pages, and free pages join.
 * Returns how many pages became free.
 */
static size_t tier_tidy_(struct tier_allocator *allocator, bool as_blocks)
{
    size_t pages = tier_cpucache_trim(&allocator->cache);

    TIERALLOC_LOCK(&allocator->lock);
    pages += tier_heap_trim(&allocator->heap);
    TIERALLOC_UNLOCK(&allocator->lock);
    tier_join_(allocator, as_blocks);
    return pages;
}

/* Try a request, a struct tier_want_, again after tidying up. */
static bool tier_tidy_and_attempt_(void *context)
{
    struct tier_want_ *want = (struct tier_want_ *)context;

    (void)tier_tidy_(want->allocator, want->order >= 0);
    return tier_attempt_(want);
}

/* Look for memory for a request that failed, as tier_set_fail_fast says. */
TIER_NOINLINE_ static bool tier_recover_(struct tier_want_ *want)
{
    struct tier_allocator *allocator = want->allocator;
    struct tier_reclaim *reclaim = &allocator->reclaim;
    bool quick =
        TIER_PEEK_(allocator->fail_fast) || (want->flags & TIER_NO_RETRY) != 0;
    bool busy = false; /* shrinkers are being asked for another request */

    if (!quick) {
        TIERALLOC_LOCK(&allocator->lock);
        allocator->recoveries++;
        TIERALLOC_UNLOCK(&allocator->lock);
        tier_join_(allocator, want->order >= 0);
        if (tier_attempt_(want) || tier_tidy_and_attempt_(want) ||
            tier_reclaim_try_run_(reclaim, want->bytes, tier_tidy_and_attempt_,
                                  want, &busy)) {
            return true;
        }
    }
    if ((want->flags & TIER_RESERVE) != 0) {
        want->zone_flags |= TIER_ZONE_EMERGENCY;
        if (tier_attempt_(want)) {
            return true;
        }
    }
    want->alone = true;
    return tier_attempt_(want) ||
           (!quick && !busy && tier_reclaim_oom(reclaim, want->bytes) &&
            tier_tidy_and_attempt_(want));
}

/* --- Requests --- */

/* Requests after which the recent ones count half. */
#define TIER_RECENT_ 1024

/* Count a request among all and the recent ones. The lock is held. */
TIER_INLINE_ void tier_count_recent_(struct tier_allocator *allocator)
{
    allocator->requests++;
    allocator->recent_requests++;
    if (TIER_UNLIKELY_(allocator->recent_requests >= TIER_RECENT_)) {
        allocator->recent_requests /= 2;
        allocator->recent_failures /= 2;
    }
}

/* Count a request; false when it is to fail. One that is refused is not made to. */
static bool tier_count_(struct tier_want_ *want, bool refused)
{
    struct tier_allocator *allocator = want->allocator;
    bool fails = false;

    TIERALLOC_LOCK(&allocator->lock);
    tier_count_recent_(allocator);
#if TIERALLOC_CHECKS == 2
    fails = !refused && tier_injector_hit(&allocator->injector, want->site);
#else
    (void)refused;
#endif
    TIERALLOC_UNLOCK(&allocator->lock);
    return !fails;
}

/* Count a request that failed. */
TIER_NOINLINE_ static enum tier_status tier_fail_(
    struct tier_allocator *allocator, enum tier_status status, bool injected)
{
    TIERALLOC_LOCK(&allocator->lock);
    allocator->recent_failures += status == TIER_ERR_NO_MEMORY;
    if (status == TIER_ERR_INVALID) {
        allocator->failed_invalid++;
    } else if (status == TIER_ERR_TOO_LARGE) {
        allocator->failed_too_large++;
    } else if (!injected) {
        allocator->failed_no_memory++;
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

/* Why a request is refused before it is tried. */
TIER_INLINE_ enum tier_status tier_judge_(const struct tier_want_ *want)
{
    unsigned zones = want->flags & (TIER_DMA | TIER_NORMAL | TIER_HIGH);

    if (TIER_UNLIKELY_(want->flags != 0) &&
        ((want->flags & ~(TIER_ZERO | TIER_ATOMIC | zones)) != 0 ||
         (zones & (zones - 1)) != 0)) {
        return TIER_ERR_INVALID;
    }
    return want->bytes > TIER_BLOCK_MAX || want->order > TIERALLOC_MAX_ORDER
               ? TIER_ERR_TOO_LARGE
               : TIER_OK;
}

/* Flags that no request may have: it ends with TIER_ERR_INVALID, and counts. */
#define TIER_WANT_INVALID_ (~0U)

/* Meet a request: the memory is in want->memory, not yet zeroed. */
static enum tier_status tier_obtain_(struct tier_want_ *want)
{
    struct tier_allocator *allocator = want->allocator;
    enum tier_status status = tier_judge_(want);
    bool counted = tier_count_(want, status != TIER_OK);

    if (TIER_UNLIKELY_(status != TIER_OK)) {
        return tier_fail_(allocator, status, false);
    }
    if (TIER_UNLIKELY_(!counted)) {
        return tier_fail_(allocator, TIER_ERR_NO_MEMORY, true);
    }
    if (TIER_LIKELY_(tier_attempt_(want)) || tier_recover_(want)) {
        return TIER_OK;
    }
    return tier_fail_(allocator, TIER_ERR_NO_MEMORY, false);
}

/* Allocate a run of pages if there is one at hand; NULL if not. */
TIER_INLINE_ void *tier_take_run_(struct tier_allocator *allocator,
                                  size_t bytes)
{
    size_t pages = (bytes + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE;
    void *run = NULL;

    TIERALLOC_LOCK(&allocator->lock);
    if (TIER_LIKELY_(allocator->mode != TIER_SIMPLE)) {
        run = tier_zones_take_run_calm_(&allocator->zones, pages,
                                        allocator->zones.count > 1);
    }
    if (TIER_LIKELY_(run != NULL)) {
        tier_count_recent_(allocator);
        allocator->live_blocks++;
        allocator->live_pages += pages;
        tier_note_peak_(allocator, 0);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return run;
}

/* Allocate what does not wait for this CPU. */
TIER_NOINLINE_ static void *tier_alloc_slow_(struct tier_allocator *allocator,
                                             size_t bytes, uintptr_t site)
{
    struct tier_want_ want;

    if (TIERALLOC_CHECKS < 2 && bytes > TIER_SLAB_BYTES_MAX &&
        bytes <= TIER_BLOCK_MAX) {
        void *run = tier_take_run_(allocator, bytes);

        if (TIER_LIKELY_(run != NULL)) {
            return run;
        }
    }
    tier_want_init_(&want, allocator, bytes, 0, site);
    (void)tier_obtain_(&want);
    return want.memory;
}

/* Allocate an object if that is a matter of taking it; NULL if not. */
TIER_INLINE_ void *tier_alloc_quickly_(struct tier_allocator *allocator,
                                       size_t bytes)
{
#if TIERALLOC_CHECKS == 2
    (void)allocator;
    (void)bytes;
    return NULL; /* each request is counted there, and may be made to fail */
#elif TIERALLOC_CPUS > 0
    return tier_cpucache_alloc_quickly_(&allocator->cache, bytes);
#else
    void *object = NULL;

    TIERALLOC_LOCK(&allocator->lock);
    if (TIER_LIKELY_(bytes <= TIER_SLAB_BYTES_MAX &&
                     allocator->mode != TIER_SIMPLE)) {
        object = tier_class_alloc_(&allocator->slab, tier_slab_class_(bytes));
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return object;
#endif
}

TIERALLOC_API void *tier_alloc(struct tier_allocator *allocator, size_t bytes)
{
    void *memory = tier_alloc_quickly_(allocator, bytes);

    if (TIER_LIKELY_(memory != NULL)) {
        return memory;
    }
    return tier_alloc_slow_(allocator, bytes, TIER_SITE_());
}

/* tier_try_alloc, on behalf of a caller. */
static enum tier_status tier_try_alloc_at_(struct tier_allocator *allocator,
                                           size_t bytes, unsigned flags,
                                           void **out, uintptr_t site)
{
    struct tier_want_ want;

    tier_want_init_(&want, allocator, bytes, flags, site);
    enum tier_status status = tier_obtain_(&want);

    *out = want.memory;
    if (status == TIER_OK && (flags & TIER_ZERO) != 0) {
        tier_zero_(want.memory, bytes + (bytes == 0));
    }
    return status;
}

TIERALLOC_API enum tier_status tier_try_alloc(struct tier_allocator *allocator,
                                              size_t bytes, unsigned flags,
                                              void **out)
{
    if (flags == 0) {
        *out = tier_alloc_quickly_(allocator, bytes);
        if (TIER_LIKELY_(*out != NULL)) {
            return TIER_OK;
        }
    }
    return tier_try_alloc_at_(allocator, bytes, flags, out, TIER_SITE_());
}

/* Have a request be for memory at an alignment, or fail if it is none. */
static void tier_want_align_(struct tier_want_ *want, size_t alignment)
{
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        want->flags = TIER_WANT_INVALID_;
    } else if (alignment > TIER_PAGE_SIZE) {
        want->bytes = want->bytes < alignment ? alignment : want->bytes;
        if (want->bytes <= TIER_BLOCK_MAX) {
            want->order = (int)tier_order_for_(want->bytes);
        }
    } else if (alignment > TIERALLOC_MIN_ALIGN) {
        want->alignment = alignment;
    }
}

/* Allocate at an alignment, on behalf of a caller. */
static void *tier_alloc_aligned_at_(struct tier_allocator *allocator,
                                    size_t bytes, size_t alignment,
                                    uintptr_t site)
{
    struct tier_want_ want;

    tier_want_init_(&want, allocator, bytes, 0, site);
    tier_want_align_(&want, alignment);
    (void)tier_obtain_(&want);
    return want.memory;
}

TIERALLOC_API void *tier_alloc_aligned(struct tier_allocator *allocator,
                                       size_t bytes, size_t alignment)
{
    return tier_alloc_aligned_at_(allocator, bytes, alignment, TIER_SITE_());
}

TIERALLOC_API void *tier_calloc(struct tier_allocator *allocator, size_t count,
                                size_t bytes)
{
    void *memory;

    if (bytes != 0 && count > TIER_BLOCK_MAX / bytes) {
        count = 1;
        bytes = SIZE_MAX; /* refused, and counted, as too large */
    }
    (void)tier_try_alloc_at_(allocator, count * bytes, TIER_ZERO, &memory,
                             TIER_SITE_());
    return memory;
}

/* A request for a block; one of too high an order is too large. */
static void tier_want_block_(struct tier_want_ *want,
                             struct tier_allocator *allocator, unsigned order,
                             unsigned flags, uintptr_t site)
{
    bool large = order > TIERALLOC_MAX_ORDER;

    tier_want_init_(want, allocator, large ? SIZE_MAX : TIER_PAGE_SIZE << order,
                    flags, site);
    want->order = large ? 0 : (int)order;
}

/* Allocate a block, on behalf of a caller. */
static enum tier_status tier_alloc_pages_at_(struct tier_allocator *allocator,
                                             unsigned order, unsigned flags,
                                             void **out, uintptr_t site)
{
    struct tier_want_ want;

    tier_want_block_(&want, allocator, order, flags, site);
    enum tier_status status = tier_obtain_(&want);

    *out = want.memory;
    if (status == TIER_OK && (flags & TIER_ZERO) != 0) {
        tier_zero_(want.memory, want.bytes);
    }
    return status;
}

TIERALLOC_API void *tier_alloc_pages(struct tier_allocator *allocator,
                                     unsigned order)
{
    void *block;

    (void)tier_alloc_pages_at_(allocator, order, 0, &block, TIER_SITE_());
    return block;
}

TIERALLOC_API enum tier_status tier_try_alloc_pages(
    struct tier_allocator *allocator, unsigned order, unsigned flags,
    void **out)
{
    return tier_alloc_pages_at_(allocator, order, flags, out, TIER_SITE_());
}

TIERALLOC_API enum tier_status tier_alloc_bulk(struct tier_allocator *allocator,
                                               size_t bytes, size_t count,
                                               void **out)
{
    enum tier_status status = TIER_OK;
    size_t got = 0;

    while (got < count && status == TIER_OK) {
        status =
            tier_try_alloc_at_(allocator, bytes, 0, &out[got], TIER_SITE_());
        got += status == TIER_OK;
    }
    while (status != TIER_OK && got > 0) {
        (void)tier_free(allocator, out[--got]);
    }
    return status;
}

/* --- Freeing --- */

/* The kind of the page that holds an address. */
TIER_INLINE_ unsigned tier_kind_(const struct tier_allocator *allocator,
                                 const void *memory)
{
    uintptr_t index = tier_pagemap_index_(&allocator->map, memory);

    return index < allocator->map.pages
               ? tier_kind_load_(&allocator->map.kind[index])
               : TIER_KIND_NONE;
}

/* Free a block or run of pages and count it out. The lock is held. */
static enum tier_status tier_free_pages_(struct tier_allocator *allocator,
                                         void *memory)
{
    if (!tier_has_map_(allocator)) {
        return TIER_ERR_FOREIGN;
    }
    size_t pages = tier_zones_pages(&allocator->zones, memory);
    enum tier_status status = tier_zones_free(&allocator->zones, memory);

    if (TIER_LIKELY_(status == TIER_OK)) {
        allocator->live_blocks--;
        allocator->live_pages -= pages;
    }
    return status == TIER_ERR_MISALIGNED ? TIER_ERR_INTERIOR : status;
}

/* Free an object of the simple heap. The lock is held. */
static enum tier_status tier_free_heap_(struct tier_allocator *allocator,
                                        void *memory, uintptr_t site)
{
    size_t bytes = tier_heap_usable_size(&allocator->heap, memory);

    if (bytes != 0) {
        allocator->heap_objects--;
        allocator->heap_bytes -= bytes;
#if TIERALLOC_CHECKS == 2
        struct tier_guard_ guard;

        tier_heap_guard_(allocator, memory, &guard);
        (void)tier_guard_close_(&guard, memory, 0, site, false);
#endif
    }
    (void)site;
    return tier_heap_free(&allocator->heap, memory);
}

/* Free what is neither an object of a slab nor plainly pages. Cold. */
TIER_NOINLINE_ static enum tier_status tier_free_closely_(
    struct tier_allocator *allocator, void *memory, unsigned kind,
    uintptr_t site)
{
    enum tier_status status;

    if (memory == NULL) {
        return TIER_OK;
    }
    TIERALLOC_LOCK(&allocator->lock);
    status = kind == TIER_KIND_HEAP ? tier_free_heap_(allocator, memory, site)
                                    : tier_free_pages_(allocator, memory);
    allocator->refused_frees += status != TIER_OK;
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

/*
 * Free pages whose zone is not low; false when they are not such. `kind` is what
 * they were: with other CPUs about it counts what they are under the lock.
 */
TIER_INLINE_ bool tier_free_pages_quickly_(struct tier_allocator *allocator,
                                           void *memory, unsigned kind)
{
    struct tier_zone *zone;
    size_t pages = 0;
    size_t index;

    TIERALLOC_LOCK(&allocator->lock);
    zone = tier_zones_calm_at_(&allocator->zones, memory, &index);
    if (TIER_LIKELY_(zone != NULL)) {
#if TIERALLOC_LOCKING
        kind = zone->buddy.map.kind[index];
#endif
        pages = tier_zone_pages_at_(zone, index, kind);
    }
    if (TIER_LIKELY_(pages != 0)) {
        allocator->live_blocks--;
        allocator->live_pages -= pages;
        tier_zone_free_at_(zone, index, kind, pages);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return pages != 0;
}

/* Free what is not plainly an object of a size class, by its address. */
TIER_NOINLINE_ static enum tier_status tier_free_slow_(
    struct tier_allocator *allocator, void *memory, uintptr_t site)
{
    unsigned kind = tier_kind_(allocator, memory);

    if ((kind & TIER_KIND_SLAB) != 0) {
        return tier_cpucache_free_at_(&allocator->cache, memory, site);
    }
    if (TIER_LIKELY_(kind != TIER_KIND_NONE) &&
        TIER_LIKELY_(tier_free_pages_quickly_(allocator, memory, kind))) {
        return TIER_OK;
    }
    return tier_free_closely_(allocator, memory, kind, site);
}

/* Free by the address; the common case is inlined. */
TIER_INLINE_ enum tier_status tier_free_at_(struct tier_allocator *allocator,
                                            void *memory, uintptr_t site)
{
#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS < 2
    if (TIER_LIKELY_(tier_cpucache_free_quickly_(&allocator->cache, memory))) {
        return TIER_OK;
    }
#endif
    return tier_free_slow_(allocator, memory, site);
}

TIERALLOC_API enum tier_status tier_free(struct tier_allocator *allocator,
                                         void *memory)
{
    return tier_free_at_(allocator, memory, TIER_SITE_());
}

/* True when pages or an object of the heap may have been asked for so. */
static bool tier_size_fits_(const struct tier_allocator *allocator,
                            const void *memory, unsigned kind, size_t bytes)
{
    if (kind == TIER_KIND_HEAP) {
        size_t usable = tier_heap_usable_size(&allocator->heap, memory);
        size_t most = usable - TIER_GUARD_BYTES;

        return usable == 0 ||
               (bytes + (bytes == 0) <= most &&
                bytes + (bytes == 0) + TIERALLOC_MIN_ALIGN > most);
    }
    size_t pages = tier_has_map_(allocator)
                       ? tier_zones_pages(&allocator->zones, memory)
                       : 0;

    if (pages == 0 || bytes > TIER_BLOCK_MAX) {
        return pages == 0;
    }
    return pages == tier_pages_for_(bytes) ||
           ((kind & TIER_KIND_MASK) == TIER_KIND_BLOCK &&
            pages == tier_order_pages_(tier_order_for_(bytes)));
}

TIERALLOC_API enum tier_status tier_free_sized(struct tier_allocator *allocator,
                                               void *memory, size_t bytes)
{
    unsigned kind = tier_kind_(allocator, memory);

    if (TIER_LIKELY_((kind & TIER_KIND_SLAB) != 0)) {
        return tier_cpucache_free_sized_at_(&allocator->cache, memory, bytes,
                                            TIER_SITE_());
    }
    TIERALLOC_LOCK(&allocator->lock);
    bool fits = tier_size_fits_(allocator, memory, kind, bytes);

    allocator->refused_frees += !fits;
    TIERALLOC_UNLOCK(&allocator->lock);
    return fits ? tier_free_slow_(allocator, memory, TIER_SITE_())
                : TIER_ERR_WRONG_SIZE;
}

TIERALLOC_API size_t tier_trim(struct tier_allocator *allocator)
{
    return tier_tidy_(allocator, true);
}

TIERALLOC_API size_t tier_drain(struct tier_allocator *allocator, unsigned cpu)
{
    return tier_cpucache_drain(&allocator->cache, cpu);
}

/* --- Bulk frees --- */

/* Let an address sink in a heap of `count` until none below it is higher. */
static void tier_sift_(void **memory, size_t at, size_t count)
{
    void *sinking = memory[at];

    while (at < count / 2) {
        size_t child = at * 2 + 1;

        if (child + 1 < count &&
            (uintptr_t)memory[child] < (uintptr_t)memory[child + 1]) {
            child++;
        }
        if ((uintptr_t)memory[child] <= (uintptr_t)sinking) {
            break;
        }
        memory[at] = memory[child];
        at = child;
    }
    memory[at] = sinking;
}

/* Sort by address: heapsort (Williams, Floyd, CACM 7, 1964), in place. */
static void tier_sort_(void **memory, size_t count)
{
    for (size_t i = count / 2; i > 0; i--) {
        tier_sift_(memory, i - 1, count);
    }
    for (size_t i = count; i > 1; i--) {
        void *highest = memory[0];

        memory[0] = memory[i - 1];
        memory[i - 1] = highest;
        tier_sift_(memory, 0, i - 1);
    }
}

/* Refuse a free of what is no allocation in use: why, and count it. */
static enum tier_status tier_refuse_(struct tier_allocator *allocator,
                                     void *memory, uintptr_t site)
{
    if (memory == NULL) {
        TIERALLOC_LOCK(&allocator->lock);
        allocator->refused_frees++;
        TIERALLOC_UNLOCK(&allocator->lock);
        return TIER_ERR_FOREIGN;
    }
    return tier_free_slow_(allocator, memory, site);
}

TIERALLOC_API enum tier_status tier_free_bulk(struct tier_allocator *allocator,
                                              size_t count, void **memory)
{
    uintptr_t site = TIER_SITE_();

    tier_sort_(memory, count);
    for (size_t i = 0; i < count; i++) {
        if (tier_usable_size(allocator, memory[i]) == 0) {
            return tier_refuse_(allocator, memory[i], site);
        }
        if (i > 0 && memory[i] == memory[i - 1]) {
            TIERALLOC_LOCK(&allocator->lock);
            allocator->refused_frees++;
            TIERALLOC_UNLOCK(&allocator->lock);
            return TIER_ERR_DOUBLE_FREE;
        }
    }
    for (size_t i = 0; i < count; i++) {
        (void)tier_free(allocator, memory[i]);
    }
    return TIER_OK;
}

/* --- Resizing --- */

TIERALLOC_API size_t tier_usable_size(struct tier_allocator *allocator,
                                      const void *memory)
{
    unsigned kind = tier_kind_(allocator, memory);
    size_t bytes = 0;

    if ((kind & TIER_KIND_SLAB) != 0) {
        return tier_cpucache_usable_(&allocator->cache, memory);
    }
    TIERALLOC_LOCK(&allocator->lock);
    if (kind == TIER_KIND_HEAP) {
#if TIERALLOC_CHECKS == 2
        struct tier_guard_ guard;

        tier_heap_guard_(allocator, memory, &guard);
        bytes = guard.object_bytes == 0 ? 0 : tier_guard_bytes_(&guard, memory);
#else
        bytes = tier_heap_usable_size(&allocator->heap, memory);
#endif
    } else if (tier_has_map_(allocator)) {
        bytes = tier_zones_pages(&allocator->zones, memory) * TIER_PAGE_SIZE;
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return bytes;
}

/* Make pages that are in use hold `bytes` where they are, if that is possible. */
static bool tier_resize_pages_(struct tier_allocator *allocator, void *memory,
                               size_t bytes)
{
    size_t before = tier_zones_pages(&allocator->zones, memory);
    enum tier_status status =
        tier_zones_resize(&allocator->zones, memory, tier_pages_for_(bytes));

    if (status == TIER_OK) {
        allocator->live_pages +=
            tier_zones_pages(&allocator->zones, memory) - before;
        tier_note_peak_(allocator, 0);
    }
    return status == TIER_OK;
}

/*
 * True when pages stay pages however small they become: a block, which is
 * aligned, and what lies in another zone than objects do.
 */
static bool tier_stays_pages_(const struct tier_allocator *allocator,
                              const void *memory, unsigned kind)
{
    return (kind & TIER_KIND_MASK) == TIER_KIND_BLOCK ||
           tier_zones_zone_of(&allocator->zones, memory) !=
               (int)tier_zone_for_(allocator, 0);
}

/* Resize an allocation of `old` usable bytes where it is; false: move it. */
static bool tier_resize_(struct tier_allocator *allocator, void *memory,
                         size_t old, size_t bytes)
{
    unsigned kind = tier_kind_(allocator, memory);
    bool done;

    if ((kind & TIER_KIND_SLAB) != 0 ||
        (TIERALLOC_CHECKS == 2 && kind == TIER_KIND_HEAP)) {
        return bytes == old ||
               (TIERALLOC_CHECKS < 2 && bytes <= TIER_SLAB_BYTES_MAX &&
                tier_slab_class_bytes(tier_slab_class_(bytes)) == old);
    }
    TIERALLOC_LOCK(&allocator->lock);
    if (kind == TIER_KIND_HEAP) {
        done = tier_heap_resize(&allocator->heap, memory, bytes) == TIER_OK;
        allocator->heap_bytes +=
            tier_heap_usable_size(&allocator->heap, memory) - old;
    } else {
        done = (bytes > TIER_SLAB_BYTES_MAX ||
                tier_stays_pages_(allocator, memory, kind)) &&
               tier_resize_pages_(allocator, memory, bytes);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return done;
}

/*
 * Find a place for fewer bytes. When there is none, which is not counted, pages
 * give back what they can where they are, and this returns `memory`.
 */
static void *tier_find_smaller_(struct tier_want_ *want, void *memory)
{
    struct tier_allocator *allocator = want->allocator;
    unsigned kind = tier_kind_(allocator, memory);

    if (tier_attempt_(want)) {
        return want->memory;
    }
    if ((kind & TIER_KIND_SLAB) == 0 && kind != TIER_KIND_HEAP) {
        TIERALLOC_LOCK(&allocator->lock);
        (void)tier_resize_pages_(allocator, memory, want->bytes);
        TIERALLOC_UNLOCK(&allocator->lock);
    }
    return memory;
}

/*
 * Move an allocation of `old` usable bytes; NULL leaves it as it was. One that
 * is aligned as it must be may stay if it shrinks.
 */
static void *tier_move_(struct tier_want_ *want, void *memory, size_t old,
                        bool aligned)
{
    struct tier_allocator *allocator = want->allocator;
    size_t bytes = want->bytes;
    unsigned kind = tier_kind_(allocator, memory);
    void *moved;

    if ((kind & TIER_KIND_MASK) == TIER_KIND_BLOCK && bytes <= TIER_BLOCK_MAX) {
        want->order =
            (int)tier_order_for_(bytes); /* what is aligned stays so */
    }
    if (bytes <= old && aligned) {
        moved = tier_find_smaller_(want, memory);
    } else {
        (void)tier_obtain_(want);
        moved = want->memory;
    }
    if (moved == NULL || moved == memory) {
        return moved;
    }
    tier_copy_(moved, memory, bytes < old ? bytes : old);
    (void)tier_free_slow_(allocator, memory, want->site);
    return moved;
}

/* Resize as a request says, keeping an alignment, on behalf of its caller. */
static void *tier_realloc_at_(struct tier_want_ *want, void *memory,
                              size_t alignment)
{
    struct tier_allocator *allocator = want->allocator;

    want->bytes += want->bytes == 0; /* that one byte is kept */
    if (memory == NULL) {
        (void)tier_obtain_(want);
        return want->memory;
    }
    size_t old = tier_usable_size(allocator, memory);

    if (old == 0) {
        return NULL;
    }
    bool aligned = tier_is_aligned_((uintptr_t)memory, alignment);

    if (aligned && tier_resize_(allocator, memory, old, want->bytes)) {
        return memory;
    }
    return tier_move_(want, memory, old, aligned);
}

TIERALLOC_API void *tier_realloc(struct tier_allocator *allocator, void *memory,
                                 size_t bytes)
{
    struct tier_want_ want;

    tier_want_init_(&want, allocator, bytes, 0, TIER_SITE_());
    return tier_realloc_at_(&want, memory, 1);
}

TIERALLOC_API void *tier_realloc_aligned(struct tier_allocator *allocator,
                                         void *memory, size_t bytes,
                                         size_t alignment)
{
    struct tier_want_ want;

    tier_want_init_(&want, allocator, bytes, 0, TIER_SITE_());
    tier_want_align_(&want, alignment);
    if (want.flags == TIER_WANT_INVALID_) {
        memory = NULL;
    }
    return tier_realloc_at_(&want, memory, alignment);
}

/* --- Named caches --- */

TIERALLOC_API enum tier_status tier_add_cache(struct tier_allocator *allocator,
                                              struct tier_cache *cache,
                                              const char *name,
                                              size_t object_bytes,
                                              size_t alignment, unsigned flags,
                                              tier_construct construct)
{
    TIERALLOC_LOCK(&allocator->lock);
    enum tier_status status =
        tier_cache_init(cache, &allocator->slab, name, object_bytes, alignment,
                        flags, construct);

    if (status == TIER_OK && tier_has_map_(allocator)) {
        tier_shape_cache_(&cache->base, tier_most_pages_(allocator));
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

TIERALLOC_API enum tier_status tier_remove_cache(
    struct tier_allocator *allocator, struct tier_cache *cache)
{
    TIERALLOC_LOCK(&allocator->lock);
    enum tier_status status = cache->base.slab == &allocator->slab
                                  ? tier_cache_destroy(cache)
                                  : TIER_ERR_INVALID;

    TIERALLOC_UNLOCK(&allocator->lock);
    return status;
}

TIERALLOC_API void *tier_alloc_from(struct tier_allocator *allocator,
                                    struct tier_cache *cache)
{
    struct tier_want_ want;

    tier_want_init_(&want, allocator, cache->base.object_bytes, 0,
                    TIER_SITE_());
    want.cache = cache;
    if (TIER_UNLIKELY_(cache->base.slab != &allocator->slab)) {
        want.flags = TIER_WANT_INVALID_; /* it is another allocator's */
    }
    (void)tier_obtain_(&want);
    return want.memory;
}

/* --- Transactions --- */

/* Undo an allocation: tier_free, without a call of it. */
static void tier_tx_undo_alloc_(void *context, void *object)
{
    (void)tier_free_at_((struct tier_allocator *)context, object, TIER_SITE_());
}

/*
 * Undo an allocation that took pages: what it made goes back, not into a cache,
 * and free runs become blocks again.
 */
static void tier_tx_undo_grow_(void *context, void *object)
{
    struct tier_allocator *allocator = (struct tier_allocator *)context;
    unsigned kind = tier_kind_(allocator, object);

    (void)tier_free(allocator, object);
    if ((kind & TIER_KIND_SLAB) != 0) {
        tier_cpucache_evict_(&allocator->cache, object);
    } else if (kind == TIER_KIND_HEAP) {
        TIERALLOC_LOCK(&allocator->lock);
        (void)tier_heap_trim(&allocator->heap);
        TIERALLOC_UNLOCK(&allocator->lock);
    }
    tier_join_(allocator, true);
}

/* What tells whether a request took pages to make room for more than itself. */
struct tier_growth_ {
    size_t slabs; /* ever made */
    size_t heap_pages;
    size_t lent_pages;
    size_t recoveries; /* each may lend and give back the same number */
};

static void tier_grown_(struct tier_allocator *allocator,
                        struct tier_growth_ *growth)
{
    TIERALLOC_LOCK(&allocator->lock);
    growth->slabs = allocator->slab.grown;
    growth->heap_pages = allocator->heap_pages;
    growth->recoveries = allocator->recoveries;
    growth->lent_pages = 0;
    for (unsigned i = 0; i < allocator->zones.count; i++) {
        growth->lent_pages += allocator->zones.zone[i].runs.held_pages;
    }
    TIERALLOC_UNLOCK(&allocator->lock);
}

/* Meet a request as a step of a transaction. */
static enum tier_status tier_tx_obtain_(struct tier_tx *tx,
                                        struct tier_want_ *want, void **out)
{
    struct tier_allocator *allocator = want->allocator;
    enum tier_status status = tier_tx_reserve_one_(tx);

    *out = NULL;
    if (status != TIER_OK) {
        return status;
    }
    tier_tx_step undo = tier_tx_undo_alloc_;
    struct tier_growth_ before;
    struct tier_growth_ after;

    tier_grown_(allocator, &before);
    status = tier_obtain_(want);
    if (status != TIER_OK) {
        return status;
    }
    tier_grown_(allocator, &after);
    if (before.slabs != after.slabs || before.heap_pages != after.heap_pages ||
        before.lent_pages != after.lent_pages ||
        before.recoveries != after.recoveries) {
        undo = tier_tx_undo_grow_;
    }
    *out = want->memory;
    if ((want->flags & TIER_ZERO) != 0) {
        tier_zero_(want->memory, want->bytes + (want->bytes == 0));
    }
    tier_tx_push_undo_(tx, undo, allocator, want->memory);
    return TIER_OK;
}

/* tier_tx_try_alloc, on behalf of a caller. */
TIER_NOINLINE_ static enum tier_status tier_tx_alloc_slow_(
    struct tier_tx *tx, struct tier_allocator *allocator, size_t bytes,
    unsigned flags, void **out, uintptr_t site)
{
    struct tier_want_ want;

    tier_want_init_(&want, allocator, bytes, flags, site);
    return tier_tx_obtain_(tx, &want, out);
}

TIERALLOC_API enum tier_status tier_tx_alloc(struct tier_tx *tx,
                                             struct tier_allocator *allocator,
                                             size_t bytes, void **out)
{
#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS < 2
    struct tier_tx_record *record = tx->undo;

    if (TIER_LIKELY_(record != tx->later)) {
        void *memory = tier_alloc_quickly_(allocator, bytes);

        if (TIER_LIKELY_(memory != NULL)) {
            tier_tx_fill_(record, tier_tx_undo_alloc_, allocator, memory);
            tx->undo = record + 1;
            *out = memory;
            return TIER_OK;
        }
    }
#endif
    return tier_tx_alloc_slow_(tx, allocator, bytes, 0, out, TIER_SITE_());
}

TIERALLOC_API enum tier_status tier_tx_try_alloc(
    struct tier_tx *tx, struct tier_allocator *allocator, size_t bytes,
    unsigned flags, void **out)
{
    return tier_tx_alloc_slow_(tx, allocator, bytes, flags, out, TIER_SITE_());
}

TIERALLOC_API enum tier_status tier_tx_alloc_pages(
    struct tier_tx *tx, struct tier_allocator *allocator, unsigned order,
    unsigned flags, void **out)
{
    struct tier_want_ want;

    tier_want_block_(&want, allocator, order, flags, TIER_SITE_());
    return tier_tx_obtain_(tx, &want, out);
}

TIERALLOC_API enum tier_status tier_tx_free(struct tier_tx *tx,
                                            struct tier_allocator *allocator,
                                            void *memory)
{
    if (memory == NULL) {
        return TIER_OK;
    }
    if (tier_usable_size(allocator, memory) == 0) {
        return tier_refuse_(allocator, memory, TIER_SITE_());
    }
    if (tier_tx_waits(tx, tier_tx_undo_alloc_, memory)) {
        TIERALLOC_LOCK(&allocator->lock);
        allocator->refused_frees++;
        TIERALLOC_UNLOCK(&allocator->lock);
        return TIER_ERR_DOUBLE_FREE;
    }
    return tier_tx_on_commit(tx, tier_tx_undo_alloc_, allocator, memory);
}

static void *tier_source_acquire_(void *context, size_t pages)
{
    struct tier_allocator *allocator = (struct tier_allocator *)context;
    struct tier_want_ want;

    if (pages == 0 || pages > TIER_RUN_MAX) {
        return NULL;
    }
    tier_want_init_(&want, allocator, pages * TIER_PAGE_SIZE, 0, TIER_SITE_());
    want.pages = pages;
    (void)tier_obtain_(&want);
    return want.memory;
}

static void tier_source_release_(void *context, void *memory, size_t pages)
{
    (void)pages;
    (void)tier_free((struct tier_allocator *)context, memory);
}

TIERALLOC_API void tier_source(struct tier_allocator *allocator,
                               struct tier_page_source *source)
{
    source->acquire = tier_source_acquire_;
    source->release = tier_source_release_;
    source->context = allocator;
}

/* --- Inspection --- */

/* Add up what the zones know. The lock is held. */
static void tier_stats_pages_(const struct tier_allocator *allocator,
                              struct tier_stats *stats)
{
    stats->managed_pages = 0;
    stats->free_pages = 0;
    stats->free_run_pages = 0;
    stats->largest_free_order = -1;
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        stats->free_blocks[order] = 0;
        TIER_OPAQUE_(order);
        for (unsigned i = 0; i < allocator->zones.count; i++) {
            stats->free_blocks[order] +=
                allocator->zones.zone[i].buddy.lists[order].blocks;
        }
        if (stats->free_blocks[order] != 0) {
            stats->largest_free_order = (int)order;
        }
    }
    for (unsigned i = 0; i < allocator->zones.count; i++) {
        const struct tier_zone *zone = &allocator->zones.zone[i];

        stats->managed_pages += zone->buddy.managed_pages;
        stats->free_pages += zone->buddy.free_pages + zone->runs.free_pages;
        stats->free_run_pages += zone->runs.free_pages;
    }
}

/* Copy what the allocator itself counts. The lock is held. */
static void tier_stats_own_(const struct tier_allocator *allocator,
                            struct tier_stats *stats)
{
    stats->slab_pages = allocator->slab.pages;
    stats->heap_pages = allocator->heap_pages;
    stats->live_blocks = allocator->live_blocks;
    stats->live_pages = allocator->live_pages;
    stats->peak_used_pages = allocator->peak_used_pages;
    stats->requests = allocator->requests;
    stats->recoveries = allocator->recoveries;
    stats->failed_no_memory = allocator->failed_no_memory;
    stats->failed_too_large = allocator->failed_too_large;
    stats->failed_invalid = allocator->failed_invalid;
    stats->failed_injected = 0;
#if TIERALLOC_CHECKS == 2
    stats->failed_injected = allocator->injector.failed;
#endif
    stats->failed_allocs = stats->failed_no_memory + stats->failed_too_large +
                           stats->failed_invalid + stats->failed_injected;
    stats->refused_frees =
        allocator->refused_frees + allocator->slab.refused_frees;
}

TIER_INLINE_ size_t tier_least_(size_t a, size_t b)
{
    return a < b ? a : b;
}

TIERALLOC_API void tier_stats(struct tier_allocator *allocator,
                              struct tier_stats *stats)
{
    struct tier_cpucache_stats waiting;
    struct tier_slab_stats objects;

    TIERALLOC_LOCK(&allocator->lock);
    tier_stats_pages_(allocator, stats);
    tier_stats_own_(allocator, stats);
    tier_slab_stats(&allocator->slab, &objects);
    tier_cpucache_stats(&allocator->cache, &waiting);
    stats->heap_objects = allocator->heap_objects;
    stats->live_bytes =
        allocator->heap_bytes + stats->live_pages * TIER_PAGE_SIZE;
    TIERALLOC_UNLOCK(&allocator->lock);
    /* What moves between CPUs just now may be counted twice. */
    stats->waiting_objects =
        tier_least_(waiting.waiting_objects, objects.live_objects);
    stats->waiting_bytes =
        tier_least_(waiting.waiting_bytes, objects.live_bytes);
    stats->live_objects = objects.live_objects - stats->waiting_objects;
    stats->live_bytes += objects.live_bytes - stats->waiting_bytes;
}

/* True when the simple heap holds what is counted. */
static bool tier_check_heap_(const struct tier_allocator *allocator)
{
    struct tier_heap_stats heap;

    if (!tier_heap_check(&allocator->heap)) {
        return false;
    }
    tier_heap_stats(&allocator->heap, &heap);
    return heap.pages == allocator->heap_pages &&
           heap.live_allocs == allocator->heap_objects &&
           heap.live_bytes == allocator->heap_bytes;
}

/* True when pages in use are those of slabs, of the heap, and counted ones. */
static bool tier_check_pages_(const struct tier_allocator *allocator)
{
    size_t used = 0;

    for (unsigned i = 0; i < allocator->zones.count; i++) {
        const struct tier_zone *zone = &allocator->zones.zone[i];

        used += zone->buddy.managed_pages - zone->buddy.free_pages -
                zone->runs.free_pages;
    }
    return used == allocator->slab.pages + allocator->heap_pages +
                       allocator->live_pages &&
           used <= allocator->peak_used_pages;
}

TIERALLOC_API bool tier_check(struct tier_allocator *allocator)
{
    TIERALLOC_LOCK(&allocator->lock);
    bool whole =
        (!tier_has_map_(allocator) || tier_zones_check(&allocator->zones)) &&
        tier_slab_check(&allocator->slab) &&
        tier_cpucache_check(&allocator->cache) && tier_check_heap_(allocator) &&
        tier_check_pages_(allocator);

    TIERALLOC_UNLOCK(&allocator->lock);
    return whole && tier_reclaim_check(&allocator->reclaim);
}

#endif /* TIERALLOC_TIERALLOC_IMPLEMENTED */
