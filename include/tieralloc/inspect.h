/*
 * tieralloc/inspect.h - an allocator seen from outside: dump, health, leaks.
 *
 * SPDX-License-Identifier: MIT
 *
 * Three ways to look at a struct tier_allocator that no hot path pays for:
 *
 *     tier_dump     text: zones, size classes, named caches, heap, shrinkers
 *     tier_health   a verdict, the reasons for it, and their figures
 *     tier_leaks    what is in use, added up by who asked for it (level 2)
 *
 * Nothing here changes the allocator, allocates, or needs printf. What a dump
 * says is for people and may change; what tier_health says is for programs.
 *
 * Each call takes the allocator's lock. What other CPUs do meanwhile without
 * it, to objects that wait for them, may or may not show.
 */
#ifndef TIERALLOC_INSPECT_H
#define TIERALLOC_INSPECT_H

#include "tieralloc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* What to think of an allocator; a worse one is greater. */
enum tier_verdict {
    TIER_HEALTH_GOOD = 0,     /* nothing to report */
    TIER_HEALTH_STRAINED = 1, /* it works; somebody should look */
    TIER_HEALTH_CRITICAL = 2  /* requests fail, or are about to */
};

/*
 * Why it is not good: bits, each with what makes it strained and critical. The
 * thresholds are options, see config.h, and are met by what is as large.
 */
#define TIER_REASON_PRESSURE   0x01U /* used: _USED, _USED_CRITICAL */
#define TIER_REASON_LOW        0x02U /* a zone is low: strained */
#define TIER_REASON_MIN        0x04U /* a zone has its min or less: critical */
#define TIER_REASON_FRAGMENTED 0x08U /* unusable: _UNUSABLE, _..._CRITICAL */
#define TIER_REASON_FAILING    0x10U /* failed: _FAILED, _FAILED_CRITICAL */
#define TIER_REASON_MISUSE     0x20U /* a free was refused ever: strained */
#define TIER_REASON_HOARDING   0x40U /* waiting: _WAITING is strained */
#define TIER_REASON_NO_MEMORY  0x80U /* no page is managed: critical */

/* The health of an allocator. */
struct tier_health {
    enum tier_verdict verdict;
    unsigned reasons;       /* TIER_REASON_* that hold */
    unsigned critical;      /* of these, those that make the verdict critical */
    unsigned used_permille; /* of the managed pages, in use or kept */
    unsigned failed_permille;   /* of recent requests, without memory */
    unsigned unusable_permille; /* of the free pages, in pieces too small */
    int fragmentation;          /* see tier_health */
    unsigned waiting_permille;  /* of the managed pages, kept without use */
    unsigned low_zones;         /* zones that are low */
    unsigned min_zones;         /* zones that have their min or less */
    size_t refused_frees;       /* frees that ended with a status, ever */
};

/* What one caller has in use. */
struct tier_leak {
    uintptr_t site; /* who allocated it: TIERALLOC_SITE */
    size_t count;   /* allocations */
    size_t bytes;   /* asked for, in objects; in whole pages, those */
};

/* --- Dump ----------------------------------------------------------------- */

/*
 * Write the state as text, in the manner of buddyinfo and slabinfo: mode and
 * pages; a line per zone with its free blocks by order; a line per size class
 * with slabs and per named cache; the simple heap if it has memory; the
 * shrinkers.
 *
 *     mode two-tier, pages: managed 64, free 46, in slabs 14, in heap 0, in
 *     blocks 4, live bytes 17096
 *     order            0     1     2  ...
 *     zone NORMAL      1     0     1  ...  free 46 of 64, in runs 0, ...
 *       object    in use   waiting     total   slabs   pages  name
 *           64         1        62       256       1       4
 *          200         3         0        20       1       1  inode
 *
 * (The first two are one line.) The objects in total, and the pages of a slab,
 * are those of slabs made when memory was not short. Works before there is a
 * region. `put` is called under the lock and must not call the allocator.
 * O(CPUs * size classes + memory of the heap + shrinkers^2).
 */
TIERALLOC_API void tier_dump(struct tier_allocator *allocator, tier_put put,
                             void *context);

/* --- Health --------------------------------------------------------------- */

/*
 * Judge an allocator.
 *
 * The verdict is the worst of what its reasons make it. The figures:
 *
 * - A zone is low from fewer than its low mark on until its high mark; it has
 *   its min if that is not 0 and no more pages are free.
 * - A piece is a free block, or a free run. It is too small with fewer than
 *   2^TIERALLOC_HEALTH_ORDER pages, and that counts as a reason only if the
 *   free pages are as many as that.
 * - `fragmentation` is the external fragmentation index of that order over all
 *   zones and pieces: see tier_buddy_fragmentation. -1000 when a piece is large
 *   enough, else why none is: towards 0 memory is missing, towards 1000 it is
 *   only scattered.
 * - Recent are the last 512 to 1024 requests that no magazine could serve.
 *   Fewer than 100 count as 100, so that one failure alone is no reason.
 * - Kept without use are objects that wait for a CPU, empty slabs, and empty
 *   parts of the simple heap: what tier_trim could make free at most.
 * - A free that is refused stays a reason: it is a fault of the program. To see
 *   whether there is another one, compare refused_frees.
 *
 * O(CPUs * size classes + TIERALLOC_MAX_ORDER + free runs).
 */
TIERALLOC_API void tier_health(struct tier_allocator *allocator,
                               struct tier_health *health);

/* A verdict as one short English line; never NULL. */
TIERALLOC_API const char *tier_verdict_text(enum tier_verdict verdict);

/* A reason, one bit, as one short English line; never NULL. */
TIERALLOC_API const char *tier_reason_text(unsigned reason);

/* --- Leaks ---------------------------------------------------------------- */

#if TIERALLOC_CHECKS == 2
/*
 * Add up what is in use now by who asked for it, the site of its request, into
 * leaks[0 .. capacity - 1]: the most bytes first, then the lowest site.
 *
 * Objects, those of named caches, blocks, runs and allocations of the simple
 * heap count; what waits for a CPU does not. What lost its record to a stray
 * write counts for site 0, with all bytes that it may have. The sum of all
 * counts is live_objects + heap_objects + live_blocks of tier_stats.
 *
 * With more sites than the capacity, the last entry is of all that the others
 * leave out, however much that is together, and its site is 0. With a capacity
 * of 0, `leaks` may be NULL.
 *
 * Looks at everything once for each 16 sites, under the lock:
 * O((pages + objects) * sites + sites * capacity). Exact while no other CPU is
 * in a call.
 *
 * Returns how many sites there are, which may exceed the capacity.
 */
TIERALLOC_API size_t tier_leaks(struct tier_allocator *allocator,
                                struct tier_leak *leaks, size_t capacity);

/*
 * Write what tier_leaks finds as a table of the first 32 sites; with more, the
 * last line is of all others. `put` is called without the lock. Needs about
 * 1 KiB of stack (64-bit).
 *
 *                   site      count         bytes
 *     0x0000000080001a2c         12          4096
 *                 others          3            24
 */
TIERALLOC_API void tier_dump_leaks(struct tier_allocator *allocator,
                                   tier_put put, void *context);
#endif

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_INSPECT_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_INSPECT_IMPLEMENTED)
#define TIERALLOC_INSPECT_IMPLEMENTED

#include "internal.h"
#include "text.h"

/* --- Dump --- */

/* Write a number in a column, apart from what is before it. */
static void tier_write_column_(const struct tier_writer_ *to, size_t number,
                               unsigned width)
{
    tier_write_(to, " ");
    tier_write_number_(to, number, width - 1);
}

/* Write a word and a number behind it. */
static void tier_write_figure_(const struct tier_writer_ *to, const char *word,
                               size_t number)
{
    tier_write_(to, word);
    tier_write_number_(to, number, 0);
}

static const char *tier_mode_text_(enum tier_mode mode)
{
    switch (mode) {
    case TIER_TWO_TIER:
        return "two-tier";
    case TIER_SIMPLE:
        return "simple";
    case TIER_HYBRID:
        return "hybrid";
    }
    return "unknown";
}

/* Objects of a size class that wait for any CPU. */
static size_t tier_waiting_(const struct tier_cpucache *cache,
                            unsigned size_class)
{
    size_t waiting = 0;

#if TIERALLOC_CPUS > 0
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        waiting +=
            tier_magazine_count_(&cache->cpu[i].magazine[size_class + 1]);
    }
#endif
#if TIERALLOC_CPUS > 1
    waiting += TIER_PEEK_(cache->depot[size_class].count);
#endif
    (void)cache;
    (void)size_class;
    return waiting;
}

/* Write one line of the table of caches. */
static void tier_dump_cache_(const struct tier_writer_ *to,
                             const struct tier_cache_base *cache,
                             size_t waiting)
{
    struct tier_cache_stats stats;

    tier_cache_base_stats_(cache, &stats);
    /* What moves between CPUs just now may be counted twice. */
    size_t in_use = stats.live > waiting ? stats.live - waiting : 0;

    tier_write_column_(to, stats.object_bytes, 8);
    tier_write_column_(to, in_use, 10);
    tier_write_column_(to, waiting, 10);
    tier_write_column_(to, stats.slabs * stats.slab_objects, 10);
    tier_write_column_(to, stats.slabs, 8);
    tier_write_column_(to, stats.slab_pages, 8);
    if (stats.name != NULL) {
        tier_write_(to, "  ");
        tier_write_(to, stats.name);
    }
    tier_write_(to, "\n");
}

/* Write the size classes that have slabs, and the named caches. */
static void tier_dump_caches_(const struct tier_writer_ *to,
                              const struct tier_allocator *allocator)
{
    const struct tier_slab *slab = &allocator->slab;

    tier_write_(to, "  object    in use   waiting     total   slabs   pages"
                    "  name\n");
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (slab->classes[i].slabs != 0) {
            tier_dump_cache_(to, &slab->classes[i],
                             tier_waiting_(&allocator->cache, i));
        }
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        tier_dump_cache_(to, &c->base, 0);
    }
}

/* Write the zones below a line that tells the order of each column. */
static void tier_dump_zones_(const struct tier_writer_ *to,
                             const struct tier_zones *zones)
{
    if (zones->count == 0) {
        return;
    }
    tier_write_(to, "order        ");
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        tier_write_number_(to, order, 6);
    }
    tier_write_(to, "\n");
    tier_zones_dump(zones, to->put, to->context);
}

static void tier_dump_summary_(const struct tier_writer_ *to,
                               const struct tier_allocator *allocator,
                               const struct tier_stats *stats)
{
    tier_write_(to, "mode ");
    tier_write_(to, tier_mode_text_(allocator->mode));
    tier_write_figure_(to, ", pages: managed ", stats->managed_pages);
    tier_write_figure_(to, ", free ", stats->free_pages);
    tier_write_figure_(to, ", in slabs ", stats->slab_pages);
    tier_write_figure_(to, ", in heap ", stats->heap_pages);
    tier_write_figure_(to, ", in blocks ", stats->live_pages);
    tier_write_figure_(to, ", live bytes ", stats->live_bytes);
    tier_write_(to, "\n");
}

TIERALLOC_API void tier_dump(struct tier_allocator *allocator, tier_put put,
                             void *context)
{
    struct tier_stats stats;
    struct tier_writer_ to;

    to.put = put;
    to.context = context;
    tier_stats(allocator, &stats);
    TIERALLOC_LOCK(&allocator->lock);
    tier_dump_summary_(&to, allocator, &stats);
    tier_dump_zones_(&to, &allocator->zones);
    tier_dump_caches_(&to, allocator);
    if (allocator->heap.link.next != NULL) {
        tier_heap_dump(&allocator->heap, put, context);
    }
    TIERALLOC_UNLOCK(&allocator->lock);
    tier_reclaim_dump(&allocator->reclaim, put, context);
}

/* --- Health --- */

/* Pages of a piece that is large enough, and requests that a share is of. */
#define TIER_HEALTH_PAGES_    ((size_t)1 << TIERALLOC_HEALTH_ORDER)
#define TIER_HEALTH_REQUESTS_ 100

/* The pieces of free memory that are too small. */
struct tier_scraps_ {
    size_t pages; /* in these */
    size_t count; /* of these */
};

/* Count the free blocks of a zone that are too small. */
static void tier_scrap_blocks_(struct tier_scraps_ *scraps,
                               const struct tier_buddy *buddy)
{
    for (unsigned order = 0; order < TIERALLOC_HEALTH_ORDER; order++) {
        size_t blocks = buddy->lists[order].blocks;

        scraps->pages += blocks << order;
        scraps->count += blocks;
    }
}

/* Count the free runs that are too small: a power of two begins a bin. */
static void tier_scrap_runs_(struct tier_scraps_ *scraps,
                             const struct tier_runs *runs)
{
    size_t end = tier_run_bin_above_(TIER_HEALTH_PAGES_);

    for (size_t bin = 0; bin < end; bin++) {
        for (size_t at = runs->bins[bin]; at != TIER_PAGE_NIL;
             at = runs->map.entry[at].link.next) {
            scraps->pages += tier_run_length_(runs, at);
            scraps->count++;
        }
    }
}

/*
 * The external fragmentation index of free pages; all of them are in these
 * scraps unless a piece is large enough. As tier_buddy_fragmentation.
 */
static int tier_scraps_index_(const struct tier_scraps_ *scraps,
                              size_t free_pages)
{
    if (free_pages > scraps->pages) {
        return -1000;
    }
    if (scraps->count == 0) {
        return 0;
    }
    /* 1000 - (1000 + 1000 * free / requested) / pieces, not below 0 */
    size_t whole = (free_pages >> TIERALLOC_HEALTH_ORDER) * 1000;
    size_t part = free_pages & (TIER_HEALTH_PAGES_ - 1);
    size_t share = (1000 + whole + (part * 1000 >> TIERALLOC_HEALTH_ORDER)) /
                   scraps->count;

    return share > 1000 ? 0 : 1000 - (int)share;
}

/* Note a reason and how bad it is. */
static void tier_health_blame_(struct tier_health *health, unsigned reason,
                               enum tier_verdict verdict)
{
    health->reasons |= reason;
    if (verdict == TIER_HEALTH_CRITICAL) {
        health->critical |= reason;
    }
    if (verdict > health->verdict) {
        health->verdict = verdict;
    }
}

/* Note a reason if its figure has come to a threshold. */
static void tier_health_judge_(struct tier_health *health, unsigned reason,
                               unsigned permille, unsigned strained,
                               unsigned critical)
{
    if (permille >= critical) {
        tier_health_blame_(health, reason, TIER_HEALTH_CRITICAL);
    } else if (permille >= strained) {
        tier_health_blame_(health, reason, TIER_HEALTH_STRAINED);
    }
}

/* Judge how many pages are free, and in which pieces. */
static void tier_health_pages_(struct tier_health *health,
                               const struct tier_zones *zones)
{
    size_t managed = tier_zones_managed_pages(zones);
    size_t free_pages = tier_zones_free_pages(zones);
    struct tier_scraps_ scraps;

    scraps.pages = 0;
    scraps.count = 0;
    for (unsigned i = 0; i < zones->count; i++) {
        tier_scrap_blocks_(&scraps, &zones->zone[i].buddy);
        tier_scrap_runs_(&scraps, &zones->zone[i].runs);
    }
    health->used_permille = tier_permille_(managed - free_pages, managed);
    health->unusable_permille = tier_permille_(scraps.pages, free_pages);
    health->fragmentation = tier_scraps_index_(&scraps, free_pages);
    tier_health_judge_(health, TIER_REASON_PRESSURE, health->used_permille,
                       TIERALLOC_HEALTH_USED, TIERALLOC_HEALTH_USED_CRITICAL);
    if (free_pages >= TIER_HEALTH_PAGES_) {
        tier_health_judge_(health, TIER_REASON_FRAGMENTED,
                           health->unusable_permille, TIERALLOC_HEALTH_UNUSABLE,
                           TIERALLOC_HEALTH_UNUSABLE_CRITICAL);
    }
    if (managed == 0) {
        tier_health_blame_(health, TIER_REASON_NO_MEMORY, TIER_HEALTH_CRITICAL);
    }
}

/* Judge each zone by its marks. */
static void tier_health_zones_(struct tier_health *health,
                               const struct tier_zones *zones)
{
    health->low_zones = 0;
    health->min_zones = 0;
    for (unsigned i = 0; i < zones->count; i++) {
        const struct tier_zone *zone = &zones->zone[i];

        health->low_zones += zone->is_low;
        health->min_zones += zone->min_pages != 0 &&
                             tier_zone_free_pages_(zone) <= zone->min_pages;
    }
    if (health->low_zones != 0) {
        tier_health_blame_(health, TIER_REASON_LOW, TIER_HEALTH_STRAINED);
    }
    if (health->min_zones != 0) {
        tier_health_blame_(health, TIER_REASON_MIN, TIER_HEALTH_CRITICAL);
    }
}

/* Judge how requests and frees went. */
static void tier_health_calls_(struct tier_health *health,
                               const struct tier_allocator *allocator)
{
    size_t requests = allocator->recent_requests;
    size_t failures = allocator->recent_failures;

    if (requests < TIER_HEALTH_REQUESTS_) {
        requests = TIER_HEALTH_REQUESTS_;
    }
    if (failures > requests) {
        failures = requests; /* not all that fail are counted as requests */
    }
    health->failed_permille = tier_permille_(failures, requests);
    health->refused_frees =
        allocator->refused_frees + allocator->slab.refused_frees;
    tier_health_judge_(health, TIER_REASON_FAILING, health->failed_permille,
                       TIERALLOC_HEALTH_FAILED,
                       TIERALLOC_HEALTH_FAILED_CRITICAL);
    if (health->refused_frees != 0) {
        tier_health_blame_(health, TIER_REASON_MISUSE, TIER_HEALTH_STRAINED);
    }
}

/* Pages in slabs of a cache without an object in use. */
static size_t tier_cache_kept_pages_(const struct tier_cache_base *cache)
{
    size_t pages = 0;

    if (cache->empty != NULL) {
        pages += cache->empty->pages;
    }
    if (cache->current != NULL && tier_slab_is_empty_(cache->current)) {
        pages += cache->current->pages;
    }
    return pages;
}

/* Pages that are kept and hold nothing in use. */
static size_t tier_kept_pages_(const struct tier_allocator *allocator)
{
    const struct tier_slab *slab = &allocator->slab;
    const struct tier_heap_area *area = allocator->heap.link.next;
    size_t pages = 0;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        pages += tier_cache_kept_pages_(&slab->classes[i]);
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        pages += tier_cache_kept_pages_(&c->base);
    }
    for (; area != NULL; area = area->link.next) {
        pages += area->live == 0 ? area->pages : 0;
    }
    return pages;
}

/* Judge how much is kept without use. */
static void tier_health_kept_(struct tier_health *health,
                              const struct tier_allocator *allocator)
{
    size_t managed = tier_zones_managed_pages(&allocator->zones);
    struct tier_cpucache_stats waiting;

    tier_cpucache_stats(&allocator->cache, &waiting);
    size_t kept = tier_kept_pages_(allocator) +
                  (waiting.waiting_bytes >> TIERALLOC_PAGE_SHIFT);

    /* What moves between CPUs just now may be counted twice. */
    health->waiting_permille =
        tier_permille_(kept < managed ? kept : managed, managed);
    tier_health_judge_(health, TIER_REASON_HOARDING, health->waiting_permille,
                       TIERALLOC_HEALTH_WAITING, 1001);
}

TIERALLOC_API void tier_health(struct tier_allocator *allocator,
                               struct tier_health *health)
{
    health->verdict = TIER_HEALTH_GOOD;
    health->reasons = 0;
    health->critical = 0;
    TIERALLOC_LOCK(&allocator->lock);
    tier_health_pages_(health, &allocator->zones);
    tier_health_zones_(health, &allocator->zones);
    tier_health_calls_(health, allocator);
    tier_health_kept_(health, allocator);
    TIERALLOC_UNLOCK(&allocator->lock);
}

TIERALLOC_API const char *tier_verdict_text(enum tier_verdict verdict)
{
    switch (verdict) {
    case TIER_HEALTH_GOOD:
        return "good";
    case TIER_HEALTH_STRAINED:
        return "strained: it works, and somebody should look";
    case TIER_HEALTH_CRITICAL:
        return "critical: requests fail, or are about to";
    }
    return "unknown verdict";
}

TIERALLOC_API const char *tier_reason_text(unsigned reason)
{
    switch (reason) {
    case TIER_REASON_PRESSURE:
        return "pressure: most pages are in use";
    case TIER_REASON_LOW:
        return "low: a zone is below its low mark";
    case TIER_REASON_MIN:
        return "min: a zone has no page left for ordinary requests";
    case TIER_REASON_FRAGMENTED:
        return "fragmented: free pages are in pieces too small";
    case TIER_REASON_FAILING:
        return "failing: requests have failed recently";
    case TIER_REASON_MISUSE:
        return "misuse: a free was refused";
    case TIER_REASON_HOARDING:
        return "hoarding: much is kept without use; trim it";
    case TIER_REASON_NO_MEMORY:
        return "no memory: there is no region";
    default:
        return "unknown reason";
    }
}

/* --- Leaks --- */

#if TIERALLOC_CHECKS == 2

/* Sites that one look at everything adds up. */
#define TIER_LEAK_BATCH_ 16

/* The lowest sites from one on, ascending: as many as there is room for. */
struct tier_leak_batch_ {
    uintptr_t from; /* no site below is of interest */
    unsigned count; /* sites so far */
    struct tier_leak leak[TIER_LEAK_BATCH_];
};

/* Where the sum of each site goes. */
struct tier_leak_list_ {
    struct tier_leak *leaks; /* the caller's, the most bytes first */
    size_t capacity;
    size_t sites; /* seen; as many are listed, or the capacity */
    size_t rest_count;
    size_t rest_bytes;
};

static void tier_leak_set_(struct tier_leak *leak, uintptr_t site, size_t count,
                           size_t bytes)
{
    leak->site = site;
    leak->count = count;
    leak->bytes = bytes;
}

/* Move leaks[at .. last - 1] up by one place. */
static void tier_leak_shift_(struct tier_leak *leaks, size_t at, size_t last)
{
    for (size_t i = last; i > at; i--) {
        tier_leak_set_(&leaks[i], leaks[i - 1].site, leaks[i - 1].count,
                       leaks[i - 1].bytes);
        TIER_OPAQUE_(i);
    }
}

/*
 * Count an allocation, if its site is among the lowest. A site that a lower one
 * crowds out never comes back, so that what is there in the end is complete.
 */
static void tier_leak_count_(struct tier_leak_batch_ *batch, uintptr_t site,
                             size_t bytes)
{
    struct tier_leak *leak = batch->leak;
    unsigned at = 0;

    while (at < batch->count && leak[at].site < site) {
        at++;
    }
    if (site < batch->from || at == TIER_LEAK_BATCH_) {
        return;
    }
    if (at == batch->count || leak[at].site != site) {
        batch->count += batch->count < TIER_LEAK_BATCH_;
        tier_leak_shift_(leak, at, batch->count - 1);
        tier_leak_set_(&leak[at], site, 0, 0);
    }
    leak[at].count++;
    leak[at].bytes += bytes;
}

/* Count an object that its slab counts as in use, unless it waits for a CPU. */
static void tier_leak_count_object_(struct tier_leak_batch_ *batch,
                                    const struct tier_slab *slab,
                                    const struct tier_cache_base *cache,
                                    const void *object)
{
    struct tier_guard_ guard;

    tier_slab_guard_(slab, cache, &guard);
    const struct tier_guard_record *record = tier_guard_record_(&guard, object);

    if (tier_guard_is_(record, true)) {
        tier_leak_count_(batch, record->alloc_site, record->bytes);
        return;
    }
    bool waits = tier_guard_is_(record, false) ||
                 (!tier_cache_is_named_(cache) &&
                  *(const tier_alias_word_ *)object ==
                      tier_slab_mark_(&slab->map, object));

    if (!waits) {
        tier_leak_count_(batch, 0, tier_guard_room_(&guard));
    }
}

/* Count the objects in use of a slab. */
static void tier_leak_count_slab_(struct tier_leak_batch_ *batch,
                                  const struct tier_slab *slab,
                                  const struct tier_slab_desc_ *desc)
{
    for (size_t i = 0; i < desc->objects; i++) {
        if (!tier_slab_has_(desc, i)) {
            tier_leak_count_object_(batch, slab, desc->cache,
                                    tier_slab_object_(desc, i));
        }
    }
}

/* Count an allocation of the simple heap: a tier_heap_visit. */
static void tier_leak_count_heap_(void *context, void *memory, size_t bytes)
{
    struct tier_guard_ guard;

    guard.object_bytes = bytes;
    const struct tier_guard_record *record = tier_guard_record_(&guard, memory);
    bool trusted = tier_guard_is_(record, true);

    tier_leak_count_((struct tier_leak_batch_ *)context,
                     trusted ? record->alloc_site : 0,
                     tier_guard_bytes_(&guard, memory));
}

/* Count the block, the run or the slab that begins at a page, if one does. */
static void tier_leak_count_page_(struct tier_leak_batch_ *batch,
                                  const struct tier_allocator *allocator,
                                  size_t index)
{
    const struct tier_slab *slab = &allocator->slab;
    const void *memory = tier_pagemap_address_(&allocator->map, index);
    unsigned kind = allocator->map.kind[index];

    if ((kind & TIER_KIND_SLAB) != 0) {
        const struct tier_slab_desc_ *desc = tier_slab_of_(&slab->map, memory);

        if (tier_slab_first_(slab, desc) == index) {
            tier_leak_count_slab_(batch, slab, desc);
        }
        return;
    }
    size_t pages = tier_zones_pages(&allocator->zones, memory);

    if (pages != 0) {
        tier_leak_count_(batch, tier_zones_owner(&allocator->zones, memory),
                         pages * TIER_PAGE_SIZE);
    }
}

/* Count all that is in use. */
static void tier_leak_count_all_(struct tier_leak_batch_ *batch,
                                 const struct tier_allocator *allocator)
{
    const struct tier_pagemap *map = &allocator->map;

    batch->count = 0;
    for (size_t at = 0;
         (at = tier_find_nonzero_(map->kind, at, map->pages)) < map->pages;
         at++) {
        tier_leak_count_page_(batch, allocator, at);
    }
    tier_heap_each(&allocator->heap, tier_leak_count_heap_, batch);
}

/* Add the sum of a site that there is no room for to the rest. */
static void tier_leak_drop_(struct tier_leak_list_ *list,
                            const struct tier_leak *leak)
{
    list->rest_count += leak->count;
    list->rest_bytes += leak->bytes;
}

/* Put the sum of a site where it belongs in the list. */
static void tier_leak_enter_(struct tier_leak_list_ *list,
                             const struct tier_leak *leak)
{
    struct tier_leak *leaks = list->leaks;
    bool full = list->sites >= list->capacity;
    size_t last = full ? list->capacity : list->sites;
    size_t at = last;

    list->sites++;
    while (at > 0 && leaks[at - 1].bytes < leak->bytes) {
        at--;
    }
    if (at == list->capacity) {
        tier_leak_drop_(list, leak);
        return;
    }
    if (full) {
        tier_leak_drop_(list, &leaks[--last]);
    }
    tier_leak_shift_(leaks, at, last);
    tier_leak_set_(&leaks[at], leak->site, leak->count, leak->bytes);
}

/* Enter all sites, a batch at a time. The lock is held. */
static void tier_leak_enter_all_(struct tier_leak_list_ *list,
                                 const struct tier_allocator *allocator)
{
    struct tier_leak_batch_ batch;
    uintptr_t highest;

    batch.from = 0;
    do {
        tier_leak_count_all_(&batch, allocator);
        for (unsigned i = 0; i < batch.count; i++) {
            tier_leak_enter_(list, &batch.leak[i]);
        }
        highest = batch.count < TIER_LEAK_BATCH_
                      ? UINTPTR_MAX
                      : batch.leak[TIER_LEAK_BATCH_ - 1].site;
        batch.from = highest + 1;
    } while (highest != UINTPTR_MAX);
}

TIERALLOC_API size_t tier_leaks(struct tier_allocator *allocator,
                                struct tier_leak *leaks, size_t capacity)
{
    struct tier_leak_list_ list;

    list.leaks = leaks;
    list.capacity = capacity;
    list.sites = 0;
    list.rest_count = 0;
    list.rest_bytes = 0;
    TIERALLOC_LOCK(&allocator->lock);
    tier_leak_enter_all_(&list, allocator);
    TIERALLOC_UNLOCK(&allocator->lock);
    if (list.sites > capacity && capacity > 0) {
        struct tier_leak *last = &leaks[capacity - 1];

        tier_leak_set_(last, 0, last->count + list.rest_count,
                       last->bytes + list.rest_bytes);
    }
    return list.sites;
}

/* Write a site in hexadecimal, all digits of it. */
static void tier_write_site_(const struct tier_writer_ *to, uintptr_t site)
{
    tier_write_(to, "0x");
    for (size_t shift = TIER_WORD_BITS_; shift > 0; shift -= 4) {
        to->put(to->context, "0123456789abcdef"[site >> (shift - 4) & 15]);
    }
}

/* Write a word as wide as a site, at the right. */
static void tier_write_right_(const struct tier_writer_ *to, const char *word,
                              size_t length)
{
    for (size_t i = 2 + TIER_WORD_BITS_ / 4; i > length; i--) {
        to->put(to->context, ' ');
    }
    tier_write_(to, word);
}

TIERALLOC_API void tier_dump_leaks(struct tier_allocator *allocator,
                                   tier_put put, void *context)
{
    struct tier_leak leaks[32];
    size_t capacity = sizeof(leaks) / sizeof(leaks[0]);
    size_t sites = tier_leaks(allocator, leaks, capacity);
    struct tier_writer_ to;

    to.put = put;
    to.context = context;
    tier_write_right_(&to, "site", 4);
    tier_write_(&to, "      count         bytes\n");
    for (size_t i = 0; i < sites && i < capacity; i++) {
        if (i == capacity - 1 && sites > capacity) {
            tier_write_right_(&to, "others", 6);
        } else {
            tier_write_site_(&to, leaks[i].site);
        }
        tier_write_column_(&to, leaks[i].count, 11);
        tier_write_column_(&to, leaks[i].bytes, 14);
        tier_write_(&to, "\n");
    }
}

#endif /* TIERALLOC_CHECKS == 2 */

#endif /* TIERALLOC_INSPECT_IMPLEMENTED */
