/*
 * tieralloc/zones.h - zones of memory in order: DMA, NORMAL, HIGH.
 *
 * SPDX-License-Identifier: MIT
 *
 * A zone is a range of the span with a buddy and runs of its own over its part
 * of the page map, so nothing lies across a border. A request names the highest
 * zone it accepts and falls back to lower ones, as far down as each lets it:
 *
 *     free pages    high ------  this many again: callback, TIER_ZONE_OK
 *     of a zone     low  ------  fewer than that: callback, TIER_ZONE_LOW
 *         |         reserve ---  the rest is not for those who fell back
 *         v         min  ------  the rest is for TIER_ZONE_EMERGENCY alone
 *                   0
 *
 * So ordinary requests cannot empty DMA, and whoever frees memory in order to
 * make memory free still gets the pages it needs. Pages are free for all of
 * this whether the buddy has them or the runs, which give and take them as a
 * request needs it: what fails has no pages, not just none in the right place.
 *
 * On rv64imac, where no mark is near, an allocation costs 18 instructions more
 * than one of the buddy or of the runs, a free 17 or 21. Beside these two, a
 * zone takes 80 bytes on a 64-bit machine. No function locks.
 */
#ifndef TIERALLOC_ZONES_H
#define TIERALLOC_ZONES_H

#include "runs.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef TIER_LAYOUT_USE_
TIER_LAYOUT_USE_(ZONES);
#endif

/* --- Types ---------------------------------------------------------------- */

/* Most zones. */
#define TIER_ZONES_MAX TIERALLOC_ZONES

/* Flags of a request. */
#define TIER_ZONE_EMERGENCY 1U /* may leave a zone fewer pages than min */
#define TIER_ZONE_QUICK     2U /* O(1): trim no runs, gather no blocks for it */

/* A zone to be: its name, for dumps, and its addresses. */
struct tier_zone_range {
    const char *name; /* outlives the zones; NULL reads as "" */
    uintptr_t base;
    size_t bytes;
};

/* What a zone's free pages did. */
enum tier_zone_event {
    TIER_ZONE_OK = 0, /* were fewer than low, and are high or more again */
    TIER_ZONE_LOW = 1 /* have become fewer than low */
};

/*
 * Called once each time that a zone becomes low, and once when it ceases to be.
 *
 * The call that made it so does this last, with the zones in order, and under
 * the caller's lock. The callback may make any call to these zones but
 * tier_zones_init, and so free pages on the spot; what that crosses calls back
 * again, nested. When one call makes two zones low, or not low, and the
 * callback for the first undoes it for the second, that is not reported.
 */
typedef void (*tier_zone_callback)(void *context, unsigned zone,
                                   enum tier_zone_event event);

/* A zone. The fields are private. */
struct tier_zone {
    struct tier_buddy buddy; /* over the zone's part of the map */
    struct tier_runs runs;   /* over the buddy; lends the largest blocks */
    size_t calm_pages;       /* a request that leaves as many crosses no mark */
    size_t min_pages;        /* left by all but emergencies */
    size_t low_pages;        /* fewer free: low */
    size_t high_pages;       /* as many free: no longer */
    size_t reserve_pages;    /* left by requests that name a higher zone */
    size_t failed_reserve;   /* failed requests that had to leave the reserve */
    size_t failed_watermark; /* failed requests that had to leave min */
    size_t fallbacks;        /* requests for a higher zone, served here */
    unsigned is_low;   /* 1 from fewer than low pages on until high, else 0 */
    unsigned told_low; /* is_low as reported last */
    const char *name;  /* or NULL */
};

/* Zones, from low to high. The caller owns the storage; fields are private. */
struct tier_zones {
#if TIERALLOC_ZONES > 1
    uintptr_t below[TIER_ZONES_MAX - 1]; /* last address below zone 1, 2 */
#endif
    unsigned count;              /* zones that there are */
    tier_zone_callback callback; /* or NULL */
    void *context;               /* for the callback */
    struct tier_pagemap map;     /* the caller's, by value */
    struct tier_zone zone[TIER_ZONES_MAX];
};

/*
 * A snapshot of a zone. A failed request counts once in each zone that it would
 * have accepted, by what stood in the way there: no pages for it, which counts
 * in buddy.failed_allocs for a block and in runs.failed_allocs for a run, else
 * the reserve, else min. The buddy counts what it lent to the runs as used.
 */
struct tier_zone_stats {
    struct tier_buddy_stats buddy; /* blocks, refused blocks and frees */
    struct tier_runs_stats runs;   /* runs, refused runs */
    size_t free_pages;             /* of the buddy and of the runs: as marks */
    size_t failed_reserve;         /* failed: had to leave the reserve */
    size_t failed_watermark;       /* failed: had to leave min */
    size_t fallbacks;              /* requests for a higher zone, served here */
    size_t min_pages;              /* the watermarks */
    size_t low_pages;
    size_t high_pages;
    size_t reserve_pages; /* the low-memory reserve */
    bool is_low;          /* from fewer than low pages on until high */
    const char *name;     /* as given to tier_zones_init */
};

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Make *zones `count` zones, from low to high, with no region yet.
 *
 * Each range is cut inwards to whole pages; the page at address 0 is left out.
 * Ranges need not touch: a page between them is in no zone. All marks and
 * reserves are 0, and there is no callback. The map must outlive the zones and
 * hold pages of no other tier. O(count * bins).
 *
 * Returns TIER_OK, or with *zones untouched:
 *   TIER_ERR_INVALID   count is 0 or above TIER_ZONES_MAX, or a range holds no
 *                      whole page;
 *   TIER_ERR_OVERFLOW  a range passes the end of the address space;
 *   TIER_ERR_FOREIGN   a range leaves the span of the map;
 *   TIER_ERR_OVERLAP   a range begins before the end of the one before it.
 */
TIERALLOC_API enum tier_status tier_zones_init(
    struct tier_zones *zones, const struct tier_pagemap *map,
    const struct tier_zone_range *ranges, unsigned count);

/*
 * Add the memory [base, base + bytes), cut inwards to whole pages; the page at
 * address 0 is left out.
 *
 * May be called at any time. What lies in several zones is divided among them;
 * in each, adjacent regions coalesce. Cost: that of tier_buddy_add, and its
 * look at the kinds once more. May call back TIER_ZONE_OK.
 *
 * Returns TIER_OK, or with nothing changed in any zone:
 *   TIER_ERR_OVERFLOW  base + bytes passes the end of the address space;
 *   TIER_ERR_INVALID   the range holds no whole page;
 *   TIER_ERR_FOREIGN   a page of it is in no zone;
 *   TIER_ERR_OVERLAP   a page of it is held already, free or not, or holds
 *                      part of the map.
 */
TIERALLOC_API enum tier_status tier_zones_add(struct tier_zones *zones,
                                              void *base, size_t bytes);

/*
 * Take the memory [base, base + bytes) away, widened to whole pages.
 *
 * The opposite of tier_zones_add, and as that it may concern several zones,
 * whose free runs go back to their buddies first. O(blocks removed) and, where
 * there are free runs, what tier_zones_trim costs. May call back TIER_ZONE_LOW.
 *
 * Returns TIER_OK, or with nothing changed in any zone but for free runs, which
 * may be gone:
 *   TIER_ERR_OVERFLOW, TIER_ERR_FOREIGN  as for add;
 *   TIER_ERR_INVALID   bytes is 0, or a zone would be left fewer pages than its
 *                      high mark: lower that first;
 *   TIER_ERR_IN_USE    a page of it is allocated, or in no region.
 */
TIERALLOC_API enum tier_status tier_zones_remove(struct tier_zones *zones,
                                                 void *base, size_t bytes);

/*
 * Set the watermarks of a zone, in free pages.
 *
 * A request that would leave fewer than min is served in an emergency only. The
 * zone becomes low when fewer than low pages are free and is so until high are;
 * min = low = high = 0 turns all of this off. O(1). Calls back when the zone is
 * low by the new marks and was not by the old ones, or the reverse.
 *
 * Returns TIER_OK, or TIER_ERR_INVALID with nothing changed when there is no
 * such zone, or not min <= low <= high <= managed pages of the zone.
 */
TIERALLOC_API enum tier_status tier_zones_set_watermarks(
    struct tier_zones *zones, unsigned zone, size_t min_pages, size_t low_pages,
    size_t high_pages);

/*
 * Set the low-memory reserve of a zone: free pages that a request which names a
 * higher zone leaves here, whatever its flags. O(1).
 *
 * SIZE_MAX keeps all such requests out. The reserve of the highest zone has no
 * effect.
 *
 * Returns TIER_OK, or TIER_ERR_INVALID when there is no such zone.
 */
TIERALLOC_API enum tier_status tier_zones_set_reserve(struct tier_zones *zones,
                                                      unsigned zone,
                                                      size_t pages);

/* Have what crosses a mark from now on reported; NULL: to nobody. O(1). */
TIERALLOC_API void tier_zones_set_callback(struct tier_zones *zones,
                                           tier_zone_callback callback,
                                           void *context);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate a block of 2^order pages in the zone `highest` or in a lower one.
 *
 * The highest zone that may serve the request does: one that has a block, and
 * keeps min pages free afterwards; when it is not `highest` itself, its reserve
 * too. Otherwise as tier_buddy_alloc: aligned to its own size, owner word 0.
 * O(zones + TIERALLOC_MAX_ORDER); where a buddy has no block but the runs hold
 * free pages, what tier_zones_trim costs as well. May call back TIER_ZONE_LOW.
 *
 * Returns NULL when no zone may serve it, when order exceeds
 * TIERALLOC_MAX_ORDER, or when there is no zone `highest`.
 */
TIERALLOC_API void *tier_zones_alloc(struct tier_zones *zones, unsigned order,
                                     unsigned highest);

/*
 * Allocate like tier_zones_alloc, with flags, and say why it failed.
 *
 * With TIER_ZONE_EMERGENCY, a zone that may not serve an ordinary request for
 * its min alone serves this one, if there is no other zone that may. With
 * TIER_ZONE_QUICK, what lies in many free runs is not looked for.
 *
 * Returns TIER_OK with the block in *out, or with *out NULL, one counter
 * changed, or one in each zone from `highest` down, and free runs of these
 * perhaps gone:
 *   TIER_ERR_NO_MEMORY  no zone may serve it just now;
 *   TIER_ERR_TOO_LARGE  order exceeds TIERALLOC_MAX_ORDER;
 *   TIER_ERR_INVALID    there is no zone `highest`, which counts with the last
 *                       zone, or a flag is unknown.
 */
TIERALLOC_API enum tier_status tier_zones_try_alloc(struct tier_zones *zones,
                                                    unsigned order,
                                                    unsigned highest,
                                                    unsigned flags, void **out);

/*
 * Allocate a run of `pages` contiguous pages, in the zone `highest` or in a
 * lower one, by the rules of tier_zones_try_alloc.
 *
 * Otherwise as tier_runs_alloc: aligned to a page, owner word 0. O(zones) and
 * the cost of tier_runs_alloc; where a zone has no such run but free pages
 * enough, what tier_zones_gather costs as well. May call back TIER_ZONE_LOW.
 *
 * Returns TIER_OK with the run in *out, or with *out NULL, one counter changed,
 * or one in each zone from `highest` down, and free blocks of these perhaps
 * lent to runs:
 *   TIER_ERR_NO_MEMORY  no zone may serve it just now;
 *   TIER_ERR_TOO_LARGE  pages exceeds TIER_RUN_MAX;
 *   TIER_ERR_INVALID    pages is 0, a flag is unknown, or there is no zone
 *                       `highest`, which counts with the last zone.
 */
TIERALLOC_API enum tier_status tier_zones_try_alloc_run(
    struct tier_zones *zones, size_t pages, unsigned highest, unsigned flags,
    void **out);

/*
 * Acquire pages like a run, as a source of pages gives them: without owner, not
 * to be freed but released, each of the kind TIER_KIND_NONE, which is the
 * holder's to write. tier_zones_check holds once it has.
 *
 * Costs what tier_zones_try_alloc_run does, and a search for the zone. Returns
 * NULL where that fails, which counts alike.
 */
TIERALLOC_API void *tier_zones_acquire(struct tier_zones *zones, size_t pages,
                                       unsigned highest, unsigned flags);

/*
 * Release what one tier_zones_acquire gave, each page of it of the kind
 * TIER_KIND_NONE again. Unchecked. O(1), and O(TIERALLOC_MAX_ORDER) when whole
 * blocks go back to the buddy. May call back TIER_ZONE_OK.
 */
TIERALLOC_API void tier_zones_release(struct tier_zones *zones, void *memory,
                                      size_t pages);

/*
 * Free a block or a run, whichever it is and in whichever zone; NULL is a no-op.
 *
 * The zone is found by two compares, or one, or none, as TIERALLOC_ZONES says.
 * O(TIERALLOC_MAX_ORDER). May call back TIER_ZONE_OK.
 *
 * Returns TIER_OK, or with nothing but buddy.refused_frees of a zone changed:
 *   TIER_ERR_FOREIGN      in no block and no run; an address of no zone counts
 *                         with the zone below it, if any, else with zone 0;
 *   TIER_ERR_DOUBLE_FREE  inside a free block or a free run;
 *   TIER_ERR_MISALIGNED   inside a used one, not at a page's start;
 *   TIER_ERR_INTERIOR     at a page's start inside one, not at the first.
 */
TIERALLOC_API enum tier_status tier_zones_free(struct tier_zones *zones,
                                               void *memory);

/*
 * Make a run `pages` pages long where it is, or a block one of the smallest
 * order that holds `pages` pages.
 *
 * Shrinking always succeeds; growing takes the pages behind when they are free,
 * in blocks or in runs, and when that leaves the zone its min and, unless it is
 * the last zone, its reserve. Owner and contents are kept. Costs what
 * tier_runs_resize or tier_buddy_resize does; when a block grows into free
 * runs, what tier_zones_trim costs as well. May call back either event.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_INVALID    pages is 0;
 *   TIER_ERR_TOO_LARGE  pages exceeds TIER_RUN_MAX;
 *   TIER_ERR_NO_MEMORY  min or the reserve is in the way, which counts there;
 *   TIER_ERR_IN_USE     a page behind is in use, or in no region, or a block is
 *                       not aligned to its new size;
 *   or what tier_zones_free returns for a wrong pointer (TIER_ERR_FOREIGN for
 *   NULL).
 */
TIERALLOC_API enum tier_status tier_zones_resize(struct tier_zones *zones,
                                                 void *memory, size_t pages);

/*
 * Give the free runs of all zones back to their buddies; returns how many pages
 * that is. Crosses no mark. O(free runs * TIERALLOC_MAX_ORDER).
 */
TIERALLOC_API size_t tier_zones_trim(struct tier_zones *zones);

/*
 * Have the runs of all zones borrow every free block below the largest order;
 * returns how many pages that is. Afterwards any run fits for which there are
 * contiguous free pages: see tier_runs_gather. Crosses no mark. O(free blocks).
 */
TIERALLOC_API size_t tier_zones_gather(struct tier_zones *zones);

/* --- Inspection ----------------------------------------------------------- */

/* The zone whose range holds an address; -1 when none does. O(1). */
TIERALLOC_API int tier_zones_zone_of(const struct tier_zones *zones,
                                     const void *address);

/*
 * Keep a word with an allocated block or run, to be found again by its address.
 * O(1).
 *
 * Returns TIER_OK, or the status that tier_zones_free would give
 * (TIER_ERR_FOREIGN for NULL).
 */
TIERALLOC_API enum tier_status tier_zones_set_owner(struct tier_zones *zones,
                                                    void *memory,
                                                    uintptr_t owner);

/* The word kept with an allocated block or run; 0 for anything else. O(1). */
TIERALLOC_API uintptr_t tier_zones_owner(const struct tier_zones *zones,
                                         const void *memory);

/* The order of an allocated block; -1 for anything else. O(1). */
TIERALLOC_API int tier_zones_order(const struct tier_zones *zones,
                                   const void *block);

/*
 * Pages of the allocated block or run that begins at an address; 0 for anything
 * else. O(1).
 */
TIERALLOC_API size_t tier_zones_pages(const struct tier_zones *zones,
                                      const void *memory);

/* Free pages of all zones, in blocks and in runs. O(zones). */
TIERALLOC_API size_t tier_zones_free_pages(const struct tier_zones *zones);

/* Pages in the regions of all zones, free or not. O(zones). */
TIERALLOC_API size_t tier_zones_managed_pages(const struct tier_zones *zones);

/*
 * Copy the counters and the marks of a zone into *stats. O(TIERALLOC_MAX_ORDER
 * + free runs).
 *
 * Returns TIER_OK, or TIER_ERR_INVALID with *stats untouched when there is no
 * such zone.
 */
TIERALLOC_API enum tier_status tier_zones_stats(const struct tier_zones *zones,
                                                unsigned zone,
                                                struct tier_zone_stats *stats);

/*
 * Write a line per zone: its name, free blocks by order, free pages of how many
 * and in how many used runs, and marks.
 *
 *     zone DMA          1     2     2  free 13 of 16, in runs 3, runs in use 1,
 *     min 1, low 2, high 4
 */
TIERALLOC_API void tier_zones_dump(const struct tier_zones *zones, tier_put put,
                                   void *context);

/*
 * True when every invariant holds: zones are parts of the map, in order, where
 * the search by address looks for them; tier_buddy_check and tier_runs_check
 * hold in each; what is in no block of a zone is what its runs hold; no page
 * outside of them is held; min <= low <= high <= managed pages; and a zone is
 * noted as low if fewer than low pages are free, as not low if high or more.
 *
 * So beside what those two checks detect, any change is detected to the map, to
 * the number of zones and the addresses they are found by, to the part of the
 * map that the runs of a zone are over and to where it begins, to the kind of a
 * page in no zone and, where min is not low, to the note that a zone is low. Not
 * detected: a mark that moved but keeps all of this true, a reserve, a counter
 * of requests, the callback, a name.
 * O(pages of the span), whatever the corruption; for tests and debugging.
 */
TIERALLOC_API bool tier_zones_check(const struct tier_zones *zones);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_ZONES_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_ZONES_IMPLEMENTED)
#define TIERALLOC_ZONES_IMPLEMENTED

#include "internal.h"
#include "text.h"

#ifdef TIER_LAYOUT_DEFINE_
TIER_LAYOUT_DEFINE_(ZONES);
#endif

/* --- Set-up --- */

/* The pages of a range for a zone, as indexes of the map. */
static enum tier_status tier_zone_bounds_(const struct tier_pagemap *map,
                                          const struct tier_zone_range *zone,
                                          struct tier_page_range_ *range)
{
    enum tier_status status = tier_page_range_(zone->base, zone->bytes, range);

    if (status != TIER_OK) {
        return status;
    }
    range->begin -= map->first;
    range->end -= map->first;
    return range->begin < range->end && range->end <= map->pages
               ? TIER_OK
               : TIER_ERR_FOREIGN;
}

/* Check all ranges for zones, and give their pages. */
static enum tier_status tier_zones_bounds_(const struct tier_pagemap *map,
                                           const struct tier_zone_range *ranges,
                                           unsigned count,
                                           struct tier_page_range_ *bounds)
{
    if (count == 0 || count > TIER_ZONES_MAX) {
        return TIER_ERR_INVALID;
    }
    for (unsigned i = 0; i < count; i++) {
        enum tier_status status =
            tier_zone_bounds_(map, &ranges[i], &bounds[i]);

        if (status != TIER_OK) {
            return status;
        }
        if (i > 0 &&
            ranges[i].base <= ranges[i - 1].base + (ranges[i - 1].bytes - 1)) {
            return TIER_ERR_OVERLAP;
        }
    }
    return TIER_OK;
}

/* Make *zone the zone of a part of the map, with no region. */
static void tier_zone_init_(struct tier_zone *zone,
                            const struct tier_pagemap *part, const char *name)
{
    tier_buddy_init(&zone->buddy, part);
    (void)tier_runs_init(&zone->runs, &zone->buddy, TIERALLOC_MAX_ORDER);
    zone->calm_pages = 0;
    zone->min_pages = 0;
    zone->low_pages = 0;
    zone->high_pages = 0;
    zone->reserve_pages = 0;
    zone->failed_watermark = 0;
    zone->failed_reserve = 0;
    zone->fallbacks = 0;
    zone->is_low = 0;
    zone->told_low = 0;
    zone->name = name;
}

#if TIERALLOC_ZONES > 1
/* The last address below a zone; that of all memory for one there is not. */
static uintptr_t tier_zones_below_(const struct tier_zones *zones,
                                   unsigned index)
{
    return index < zones->count
               ? (zones->zone[index].buddy.map.first << TIERALLOC_PAGE_SHIFT) -
                     1
               : UINTPTR_MAX;
}
#endif

TIERALLOC_API enum tier_status tier_zones_init(
    struct tier_zones *zones, const struct tier_pagemap *map,
    const struct tier_zone_range *ranges, unsigned count)
{
    struct tier_page_range_ bounds[TIER_ZONES_MAX];
    struct tier_pagemap part;
    enum tier_status status = tier_zones_bounds_(map, ranges, count, bounds);

    if (status != TIER_OK) {
        return status;
    }
    tier_pagemap_share_(&zones->map, map);
    zones->count = count;
    zones->callback = NULL;
    zones->context = NULL;
    for (unsigned i = 0; i < count; i++) {
        tier_pagemap_view_(&part, map, bounds[i].begin,
                           bounds[i].end - bounds[i].begin);
        tier_zone_init_(&zones->zone[i], &part, ranges[i].name);
    }
#if TIERALLOC_ZONES > 1
    for (unsigned i = 1; i < TIER_ZONES_MAX; i++) {
        zones->below[i - 1] = tier_zones_below_(zones, i);
    }
#endif
    return TIER_OK;
}

/* --- Watermarks --- */

/* Free pages of a zone, in the buddy and in the runs. */
TIER_INLINE_ size_t tier_zone_free_pages_(const struct tier_zone *zone)
{
    return zone->buddy.free_pages + zone->runs.free_pages;
}

/* Note what a change to a zone's free pages or marks has crossed. */
TIER_INLINE_ void tier_zone_note_(struct tier_zone *zone)
{
    size_t end = zone->is_low ? zone->high_pages : zone->low_pages;

    zone->is_low = tier_zone_free_pages_(zone) < end;
    zone->calm_pages = zone->is_low ? zone->min_pages : zone->low_pages;
}

/* Tell what was noted of a zone. The callback may change all zones. */
TIER_INLINE_ void tier_zones_tell_(struct tier_zones *zones, unsigned index)
{
    struct tier_zone *zone = &zones->zone[index];

    if (zone->told_low != zone->is_low) {
        zone->told_low = zone->is_low;
        if (zones->callback != NULL) {
            zones->callback(zones->context, index,
                            zone->told_low ? TIER_ZONE_LOW : TIER_ZONE_OK);
        }
    }
}

/* Note and tell: the last thing that a call which changed one zone does. */
TIER_NOINLINE_ static void tier_zones_settle_(struct tier_zones *zones,
                                              unsigned index)
{
    tier_zone_note_(&zones->zone[index]);
    tier_zones_tell_(zones, index);
}

TIERALLOC_API enum tier_status tier_zones_set_watermarks(
    struct tier_zones *zones, unsigned zone, size_t min_pages, size_t low_pages,
    size_t high_pages)
{
    if (zone >= TIER_ZONES_MAX || zone >= zones->count ||
        min_pages > low_pages || low_pages > high_pages ||
        high_pages > zones->zone[zone].buddy.managed_pages) {
        return TIER_ERR_INVALID;
    }
    zones->zone[zone].min_pages = min_pages;
    zones->zone[zone].low_pages = low_pages;
    zones->zone[zone].high_pages = high_pages;
    tier_zones_settle_(zones, zone);
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_zones_set_reserve(struct tier_zones *zones,
                                                      unsigned zone,
                                                      size_t pages)
{
    if (zone >= TIER_ZONES_MAX || zone >= zones->count) {
        return TIER_ERR_INVALID;
    }
    zones->zone[zone].reserve_pages = pages;
    return TIER_OK;
}

TIERALLOC_API void tier_zones_set_callback(struct tier_zones *zones,
                                           tier_zone_callback callback,
                                           void *context)
{
    zones->callback = callback;
    zones->context = context;
}

/* --- Regions --- */

/* True when each page of a range is in a zone. */
static bool tier_zones_cover_(const struct tier_zones *zones,
                              const struct tier_page_range_ *range)
{
    size_t left = range->end - range->begin;
    size_t begin;
    size_t end;

    for (unsigned i = 0; i < zones->count; i++) {
        if (tier_buddy_clip_(&zones->zone[i].buddy, range, &begin, &end)) {
            left -= end - begin;
        }
    }
    return left == 0;
}

/* Add what of a range lies in each zone, or remove it: that must not fail. */
static void tier_zones_apply_(struct tier_zones *zones,
                              const struct tier_page_range_ *range,
                              enum tier_status (*change)(struct tier_buddy *,
                                                         void *, size_t))
{
    size_t begin;
    size_t end;

    for (unsigned i = 0; i < zones->count; i++) {
        struct tier_buddy *buddy = &zones->zone[i].buddy;

        if (tier_buddy_clip_(buddy, range, &begin, &end)) {
            (void)change(buddy, tier_pagemap_address_(&buddy->map, begin),
                         (end - begin) << TIERALLOC_PAGE_SHIFT);
        }
    }
    for (unsigned i = 0; i < zones->count; i++) {
        tier_zone_note_(&zones->zone[i]);
    }
    for (unsigned i = 0; i < zones->count; i++) {
        tier_zones_tell_(zones, i);
    }
}

TIERALLOC_API enum tier_status tier_zones_add(struct tier_zones *zones,
                                              void *base, size_t bytes)
{
    struct tier_page_range_ range;
    size_t begin;
    size_t end;
    enum tier_status status = tier_page_range_((uintptr_t)base, bytes, &range);

    if (status != TIER_OK) {
        return status;
    }
    if (!tier_zones_cover_(zones, &range)) {
        return TIER_ERR_FOREIGN;
    }
    if (tier_pagemap_lies_in_(&zones->map, &range)) {
        return TIER_ERR_OVERLAP;
    }
    for (unsigned i = 0; i < zones->count; i++) {
        const struct tier_buddy *buddy = &zones->zone[i].buddy;

        if (tier_buddy_clip_(buddy, &range, &begin, &end) &&
            (tier_pagemap_held_(&buddy->map, begin) ||
             tier_find_nonzero_(buddy->map.kind, begin, end) != end)) {
            return TIER_ERR_OVERLAP;
        }
    }
    tier_zones_apply_(zones, &range, tier_buddy_add);
    return TIER_OK;
}

/* Why pages cannot leave their zone, TIER_OK when they can. Trims the runs. */
static enum tier_status tier_zone_holds_(struct tier_zone *zone, size_t begin,
                                         size_t end)
{
    const struct tier_buddy *buddy = &zone->buddy;

    if (zone->runs.free_pages != 0) {
        (void)tier_runs_trim(&zone->runs);
    }
    for (size_t at = begin; at < end;) {
        at = tier_buddy_free_end_(buddy, at);
        if (at == TIER_PAGE_NIL) {
            return TIER_ERR_IN_USE;
        }
    }
    return buddy->managed_pages - zone->high_pages < end - begin
               ? TIER_ERR_INVALID
               : TIER_OK;
}

TIERALLOC_API enum tier_status tier_zones_remove(struct tier_zones *zones,
                                                 void *base, size_t bytes)
{
    struct tier_page_range_ range;
    size_t begin;
    size_t end;
    enum tier_status status = tier_page_cover_((uintptr_t)base, bytes, &range);

    if (status != TIER_OK) {
        return status;
    }
    if (!tier_zones_cover_(zones, &range)) {
        return TIER_ERR_FOREIGN;
    }
    for (unsigned i = 0; i < zones->count; i++) {
        if (tier_buddy_clip_(&zones->zone[i].buddy, &range, &begin, &end)) {
            status = tier_zone_holds_(&zones->zone[i], begin, end);
            if (status != TIER_OK) {
                return status;
            }
        }
    }
    tier_zones_apply_(zones, &range, tier_buddy_remove);
    return TIER_OK;
}

/* --- Allocation --- */

/* All flags there are. */
#define TIER_ZONE_FLAGS_ (TIER_ZONE_EMERGENCY | TIER_ZONE_QUICK)

/* What a request asks for. */
struct tier_zone_request_ {
    bool is_run;      /* or else a block */
    size_t pages;     /* of the run or of the block */
    unsigned order;   /* of the block */
    unsigned highest; /* zone */
    unsigned flags;
};

/*
 * True when a zone has a block, or a free run that is long enough to hold it. If
 * it needs what many runs have, and unless it is to be quick, they are trimmed.
 */
static bool tier_zone_has_block_(struct tier_zone *zone, unsigned order,
                                 bool quick)
{
    if (zone->buddy.orders >> order != 0 ||
        tier_run_bin_around_(&zone->runs, order) < TIER_RUN_BINS) {
        return true;
    }
    if (quick || zone->runs.free_pages == 0 ||
        tier_zone_free_pages_(zone) < tier_order_pages_(order)) {
        return false;
    }
    (void)tier_runs_trim(&zone->runs);
    return zone->buddy.orders >> order != 0;
}

/*
 * True when a zone has a run; if it needs them, and unless it is to be quick, free
 * blocks are gathered.
 */
static bool tier_zone_has_run_(struct tier_zone *zone, size_t pages, bool quick)
{
    if (tier_run_fits_(&zone->runs, pages)) {
        return true;
    }
    return !quick && tier_zone_free_pages_(zone) >= pages &&
           tier_runs_gather(&zone->runs) != 0 &&
           tier_run_fits_(&zone->runs, pages);
}

/* True when a zone has what is asked for, marks aside. */
static bool tier_zone_has_(struct tier_zone *zone,
                           const struct tier_zone_request_ *request)
{
    bool quick = (request->flags & TIER_ZONE_QUICK) != 0;

    return request->is_run ? tier_zone_has_run_(zone, request->pages, quick)
                           : tier_zone_has_block_(zone, request->order, quick);
}

/*
 * The counter of the mark that keeps a zone from giving `pages` pages, or NULL.
 * The reserve comes first, then min, which a flag lifts. A zone that has not as
 * many may pass: it does not have them.
 */
static size_t *tier_zone_mark_(struct tier_zone *zone, size_t pages,
                               bool fell_back, unsigned flags)
{
    size_t left = tier_zone_free_pages_(zone) - pages;

    if (fell_back && left < zone->reserve_pages) {
        return &zone->failed_reserve;
    }
    if (left < zone->min_pages && (flags & TIER_ZONE_EMERGENCY) == 0) {
        return &zone->failed_watermark;
    }
    return NULL;
}

/* The highest zone from `highest` down that may serve a request, or -1. */
static int tier_zones_choose_(struct tier_zones *zones,
                              const struct tier_zone_request_ *request,
                              unsigned flags)
{
    int at = (int)request->highest;

    while (at >= 0 &&
           (tier_zone_mark_(&zones->zone[at], request->pages,
                            (unsigned)at != request->highest, flags) != NULL ||
            !tier_zone_has_(&zones->zone[at], request))) {
        at--;
    }
    return at;
}

/* Count a request that failed, in each zone by what stood in the way. */
static void tier_zones_count_(struct tier_zones *zones,
                              const struct tier_zone_request_ *request)
{
    for (unsigned i = 0; i <= request->highest; i++) {
        struct tier_zone *zone = &zones->zone[i];

        if (tier_zone_has_(zone, request)) {
            ++*tier_zone_mark_(zone, request->pages, i != request->highest,
                               request->flags);
        } else if (request->is_run) {
            zone->runs.failed_allocs++;
        } else {
            zone->buddy.failed_allocs++;
        }
    }
}

/* Take a block that a zone has, out of a free run if need be. */
static void *tier_zone_take_block_(struct tier_zone *zone, unsigned order)
{
    if (zone->buddy.orders >> order == 0) {
        tier_run_yield_(&zone->runs, tier_run_bin_around_(&zone->runs, order));
    }
    return tier_buddy_alloc(&zone->buddy, order);
}

/* Serve a request where a mark may be crossed, or elsewhere than asked for. */
static void *tier_zones_take_low_(struct tier_zones *zones,
                                  const struct tier_zone_request_ *request)
{
    int at = tier_zones_choose_(zones, request, 0);

    if (at < 0 && (request->flags & TIER_ZONE_EMERGENCY) != 0) {
        at = tier_zones_choose_(zones, request, request->flags);
    }
    if (at < 0) {
        tier_zones_count_(zones, request);
        return NULL;
    }
    struct tier_zone *zone = &zones->zone[at];
    void *memory = request->is_run
                       ? tier_runs_alloc(&zone->runs, request->pages)
                       : tier_zone_take_block_(zone, request->order);

    zone->fallbacks += (unsigned)at != request->highest;
    tier_zones_settle_(zones, (unsigned)at);
    return memory;
}

/*
 * The zone asked for, when it has a block and so many free pages that taking it
 * crosses no mark, which is the common case; or NULL.
 *
 * There is a block of an order or above when the word of orders, seen as a
 * number, is as large as that order's bit. An order too large to shift by
 * passes for a smaller one: the buddy refuses it. Free pages of the runs are
 * left aside, which errs to the side of looking closer.
 */
TIER_INLINE_ struct tier_zone *tier_zones_calm_(struct tier_zones *zones,
                                                unsigned order,
                                                unsigned highest)
{
    size_t pages = (size_t)1 << order % TIER_WORD_BITS_;

    if (TIER_LIKELY_(highest < zones->count)) {
        /* As an int, which rv64 need not extend: there are few zones. */
        struct tier_zone *zone = &zones->zone[(int)highest];

        TIER_OPAQUE_(zone); /* or gcc multiplies anew for each field */
        if (TIER_LIKELY_(zone->buddy.free_pages >= zone->calm_pages + pages &&
                         zone->buddy.orders >= pages)) {
            return zone;
        }
    }
    return NULL;
}

/* Try for a block where a mark may be crossed, or say why it is refused. */
TIER_NOINLINE_ static enum tier_status tier_zones_try_low_(
    struct tier_zones *zones, unsigned order, unsigned highest, unsigned flags,
    void **out)
{
    struct tier_zone_request_ request;

    *out = NULL;
    if (highest >= zones->count || flags > TIER_ZONE_FLAGS_) {
        highest = highest < zones->count ? highest : zones->count - 1;
        zones->zone[highest].buddy.refused_allocs++;
        return TIER_ERR_INVALID;
    }
    if (order > TIERALLOC_MAX_ORDER) {
        zones->zone[highest].buddy.refused_allocs++;
        return TIER_ERR_TOO_LARGE;
    }
    request.is_run = false;
    request.pages = tier_order_pages_(order);
    request.order = order;
    request.highest = highest;
    request.flags = flags;
    *out = tier_zones_take_low_(zones, &request);
    return *out != NULL ? TIER_OK : TIER_ERR_NO_MEMORY;
}

/* The same when nobody asks why. */
TIER_NOINLINE_ static void *tier_zones_alloc_low_(struct tier_zones *zones,
                                                  unsigned order,
                                                  unsigned highest)
{
    void *block;

    (void)tier_zones_try_low_(zones, order, highest, 0, &block);
    return block;
}

TIERALLOC_API void *tier_zones_alloc(struct tier_zones *zones, unsigned order,
                                     unsigned highest)
{
    struct tier_zone *zone = tier_zones_calm_(zones, order, highest);

    if (TIER_LIKELY_(zone != NULL)) {
        return tier_buddy_alloc(&zone->buddy, order);
    }
    return tier_zones_alloc_low_(zones, order, highest);
}

TIERALLOC_API enum tier_status tier_zones_try_alloc(struct tier_zones *zones,
                                                    unsigned order,
                                                    unsigned highest,
                                                    unsigned flags, void **out)
{
    struct tier_zone *zone = tier_zones_calm_(zones, order, highest);

    if (TIER_LIKELY_(zone != NULL && flags <= TIER_ZONE_FLAGS_)) {
        *out = tier_buddy_alloc(&zone->buddy, order);
        return TIER_LIKELY_(*out != NULL) ? TIER_OK : TIER_ERR_TOO_LARGE;
    }
    return tier_zones_try_low_(zones, order, highest, flags, out);
}

/* Try for a run where a mark may be crossed, or say why it is refused. */
TIER_NOINLINE_ static enum tier_status tier_zones_try_run_low_(
    struct tier_zones *zones, size_t pages, unsigned highest, unsigned flags,
    void **out)
{
    struct tier_zone_request_ request;

    *out = NULL;
    if (highest >= zones->count || flags > TIER_ZONE_FLAGS_) {
        highest = highest < zones->count ? highest : zones->count - 1;
        zones->zone[highest].runs.refused_allocs++;
        return TIER_ERR_INVALID;
    }
    if (pages == 0 || pages > TIER_RUN_MAX) {
        zones->zone[highest].runs.refused_allocs++;
        return pages == 0 ? TIER_ERR_INVALID : TIER_ERR_TOO_LARGE;
    }
    request.is_run = true;
    request.pages = pages;
    request.order = 0;
    request.highest = highest;
    request.flags = flags;
    *out = tier_zones_take_low_(zones, &request);
    return *out != NULL ? TIER_OK : TIER_ERR_NO_MEMORY;
}

/*
 * The zone asked for, when it has so many free pages that taking a run crosses
 * no mark, which is the common case; or NULL.
 */
TIER_INLINE_ struct tier_zone *tier_zones_calm_run_(struct tier_zones *zones,
                                                    size_t pages,
                                                    unsigned highest)
{
    if (TIER_UNLIKELY_(highest >= zones->count || pages - 1 >= TIER_RUN_MAX)) {
        return NULL;
    }
    struct tier_zone *zone = &zones->zone[(int)highest];

    TIER_OPAQUE_(zone); /* as above */
    return TIER_LIKELY_(tier_zone_free_pages_(zone) >= zone->calm_pages + pages)
               ? zone
               : NULL;
}

/* Take a run that is at hand where no mark is near, or NULL. */
TIER_INLINE_ void *tier_zones_take_run_calm_(struct tier_zones *zones,
                                             size_t pages, unsigned highest)
{
    struct tier_zone *zone = tier_zones_calm_run_(zones, pages, highest);

    if (TIER_LIKELY_(zone != NULL)) {
        size_t bin =
            tier_run_first_bin_(&zone->runs, tier_run_bin_above_(pages));

        if (TIER_LIKELY_(bin < TIER_RUN_BINS)) {
            return tier_run_take_(&zone->runs, bin, pages);
        }
    }
    return NULL;
}

TIERALLOC_API enum tier_status tier_zones_try_alloc_run(
    struct tier_zones *zones, size_t pages, unsigned highest, unsigned flags,
    void **out)
{
    if (TIER_LIKELY_(flags <= TIER_ZONE_FLAGS_)) {
        *out = tier_zones_take_run_calm_(zones, pages, highest);
        if (TIER_LIKELY_(*out != NULL)) {
            return TIER_OK;
        }
    }
    return tier_zones_try_run_low_(zones, pages, highest, flags, out);
}

/* The only zone that an address can be in. */
TIER_INLINE_ size_t tier_zones_near_(const struct tier_zones *zones,
                                     const void *address)
{
#if TIERALLOC_ZONES == 1
    (void)zones;
    (void)address;
    return 0;
#elif TIERALLOC_ZONES == 2
    return (size_t)((uintptr_t)address > zones->below[0]);
#else
    uintptr_t at = (uintptr_t)address;

    return (size_t)(at > zones->below[0]) + (size_t)(at > zones->below[1]);
#endif
}

TIERALLOC_API void *tier_zones_acquire(struct tier_zones *zones, size_t pages,
                                       unsigned highest, unsigned flags)
{
    void *memory;

    if (tier_zones_try_alloc_run(zones, pages, highest, flags, &memory) !=
        TIER_OK) {
        return NULL;
    }
    /* Only now: until a callback has returned, the map says what is used. */
    tier_run_hold_(&zones->zone[tier_zones_near_(zones, memory)].runs, memory,
                   pages);
    return memory;
}

TIERALLOC_API void tier_zones_release(struct tier_zones *zones, void *memory,
                                      size_t pages)
{
    size_t index = tier_zones_near_(zones, memory);
    struct tier_zone *zone = &zones->zone[index];

    tier_runs_return_(&zone->runs, memory, pages);
    if (TIER_UNLIKELY_(zone->is_low)) {
        tier_zones_settle_(zones, (unsigned)index);
    }
}

/* --- Freeing --- */

/* Why a pointer is not the start of a block or run in use. Cold. */
static enum tier_status tier_zone_explain_(const struct tier_zone *zone,
                                           const void *memory)
{
    enum tier_status status = tier_buddy_explain_(&zone->buddy, memory);

    return status == TIER_ERR_FOREIGN ? tier_run_explain_(&zone->runs, memory)
                                      : status;
}

/* Refuse to free what is neither a block nor a run, but for NULL. */
TIER_NOINLINE_ static enum tier_status tier_zone_refuse_(struct tier_zone *zone,
                                                         const void *memory)
{
    if (memory == NULL) {
        return TIER_OK;
    }
    zone->buddy.refused_frees++;
    return tier_zone_explain_(zone, memory);
}

/* Free in a zone that is low. */
TIER_NOINLINE_ static enum tier_status tier_zones_free_low_(
    struct tier_zones *zones, size_t index, void *memory)
{
    struct tier_zone *zone = &zones->zone[index];
    enum tier_status status;

    if (tier_buddy_is_block_(&zone->buddy, memory)) {
        status = tier_buddy_free(&zone->buddy, memory);
    } else if (tier_run_used_(&zone->runs, memory) != 0) {
        status = tier_runs_free(&zone->runs, memory);
    } else {
        status = tier_zone_refuse_(zone, memory);
    }
    tier_zones_settle_(zones, (unsigned)index);
    return status;
}

/*
 * The zone of a block or run, if it is not low, and the index there of the page
 * that begins at an address; NULL when it is low, or no page of it does.
 */
TIER_INLINE_ struct tier_zone *tier_zones_calm_at_(struct tier_zones *zones,
                                                   const void *memory,
                                                   size_t *index)
{
    struct tier_zone *zone = &zones->zone[tier_zones_near_(zones, memory)];

    TIER_OPAQUE_(zone); /* as above */
    *index = tier_pagemap_index_(&zone->buddy.map, memory);
    return TIER_LIKELY_(!zone->is_low && *index < zone->buddy.map.pages &&
                        tier_is_aligned_((uintptr_t)memory, TIER_PAGE_SIZE))
               ? zone
               : NULL;
}

/* Pages of a block or a run by the kind of its first page; 0 for another kind.*/
TIER_INLINE_ size_t tier_zone_pages_at_(const struct tier_zone *zone,
                                        size_t index, unsigned kind)
{
    if (TIER_LIKELY_(kind == TIER_KIND_RUN_HEAD)) {
        return tier_load_index_(&zone->runs.map.entry[index + 1].length);
    }
    if ((kind & TIER_KIND_MASK) == TIER_KIND_BLOCK) {
        return tier_order_pages_(kind & TIER_ORDER_MASK);
    }
    return kind == TIER_KIND_RUN_PAGE;
}

/* Free the block or run that this is the first page, the kind and the size of.*/
TIER_INLINE_ void tier_zone_free_at_(struct tier_zone *zone, size_t index,
                                     unsigned kind, size_t pages)
{
    if ((kind & TIER_KIND_MASK) == TIER_KIND_BLOCK) {
        tier_buddy_put_(&zone->buddy, index, kind & TIER_ORDER_MASK);
    } else {
        zone->runs.used_runs--;
        tier_run_release_(&zone->runs, index, pages);
    }
}

TIERALLOC_API enum tier_status tier_zones_free(struct tier_zones *zones,
                                               void *memory)
{
    size_t index;
    struct tier_zone *zone = tier_zones_calm_at_(zones, memory, &index);

    if (TIER_LIKELY_(zone != NULL)) {
        unsigned kind = zone->buddy.map.kind[index];
        size_t pages = tier_zone_pages_at_(zone, index, kind);

        if (TIER_LIKELY_(pages != 0)) {
            tier_zone_free_at_(zone, index, kind, pages);
            return TIER_OK;
        }
    }
    return tier_zones_free_low_(zones, tier_zones_near_(zones, memory), memory);
}

/* --- Resizing --- */

/* The least order whose block has so many pages, which are at most the most. */
static unsigned tier_zone_order_for_(size_t pages)
{
    return (unsigned)(tier_highest_bit_(pages - 1) + 1);
}

/* Resize a block; free runs behind it that it needs go to the buddy first. */
static enum tier_status tier_zone_resize_block_(struct tier_zone *zone,
                                                void *block, unsigned order)
{
    size_t index = tier_pagemap_index_(&zone->buddy.map, block);
    unsigned from = tier_buddy_order_of_(&zone->buddy, index);

    if (from < order &&
        tier_buddy_align_(&zone->buddy, index, order) == index &&
        !tier_buddy_can_grow_(&zone->buddy, index, from, order)) {
        size_t old = tier_order_pages_(from);
        size_t more = tier_order_pages_(order) - old;

        if (tier_run_reach_(&zone->runs, index + old, more) >= more) {
            (void)tier_runs_trim(&zone->runs);
        }
    }
    return tier_buddy_resize(&zone->buddy, block, order);
}

/* Resize a block or a run within what the marks allow. */
static enum tier_status tier_zone_resize_(struct tier_zone *zone, void *memory,
                                          size_t old, size_t pages,
                                          bool is_last)
{
    bool is_run = tier_run_used_(&zone->runs, memory) != 0;
    unsigned order = 0;

    if (pages == 0 || pages > TIER_RUN_MAX) {
        ++*(is_run ? &zone->runs.refused_allocs : &zone->buddy.refused_allocs);
        return pages == 0 ? TIER_ERR_INVALID : TIER_ERR_TOO_LARGE;
    }
    if (!is_run) {
        order = tier_zone_order_for_(pages);
        pages = tier_order_pages_(order);
    }
    size_t *mark =
        pages > old ? tier_zone_mark_(zone, pages - old, !is_last, 0) : NULL;

    if (mark != NULL) {
        ++*mark;
        return TIER_ERR_NO_MEMORY;
    }
    return is_run ? tier_runs_resize(&zone->runs, memory, pages)
                  : tier_zone_resize_block_(zone, memory, order);
}

TIERALLOC_API enum tier_status tier_zones_resize(struct tier_zones *zones,
                                                 void *memory, size_t pages)
{
    size_t index = tier_zones_near_(zones, memory);
    struct tier_zone *zone = &zones->zone[index];
    size_t old = tier_zones_pages(zones, memory);

    if (old == 0) {
        zone->buddy.refused_frees++;
        return tier_zone_explain_(zone, memory);
    }
    enum tier_status status =
        tier_zone_resize_(zone, memory, old, pages, index + 1 == zones->count);

    tier_zones_settle_(zones, (unsigned)index);
    return status;
}

/* --- Between buddies and runs --- */

TIERALLOC_API size_t tier_zones_trim(struct tier_zones *zones)
{
    size_t pages = 0;

    for (unsigned i = 0; i < zones->count; i++) {
        pages += tier_runs_trim(&zones->zone[i].runs);
    }
    return pages;
}

TIERALLOC_API size_t tier_zones_gather(struct tier_zones *zones)
{
    size_t pages = 0;

    for (unsigned i = 0; i < zones->count; i++) {
        pages += tier_runs_gather(&zones->zone[i].runs);
    }
    return pages;
}

/* --- Inspection --- */

TIERALLOC_API int tier_zones_zone_of(const struct tier_zones *zones,
                                     const void *address)
{
    size_t index = tier_zones_near_(zones, address);
    const struct tier_pagemap *map = &zones->zone[index].buddy.map;

    return tier_pagemap_index_(map, address) < map->pages ? (int)index : -1;
}

TIERALLOC_API enum tier_status tier_zones_set_owner(struct tier_zones *zones,
                                                    void *memory,
                                                    uintptr_t owner)
{
    struct tier_zone *zone = &zones->zone[tier_zones_near_(zones, memory)];

    if (tier_run_used_(&zone->runs, memory) != 0) {
        return tier_runs_set_owner(&zone->runs, memory, owner);
    }
    return tier_buddy_is_block_(&zone->buddy, memory)
               ? tier_buddy_set_owner(&zone->buddy, memory, owner)
               : tier_zone_explain_(zone, memory);
}

TIERALLOC_API uintptr_t tier_zones_owner(const struct tier_zones *zones,
                                         const void *memory)
{
    const struct tier_zone *zone =
        &zones->zone[tier_zones_near_(zones, memory)];

    return tier_run_used_(&zone->runs, memory) != 0
               ? tier_runs_owner(&zone->runs, memory)
               : tier_buddy_owner(&zone->buddy, memory);
}

TIERALLOC_API int tier_zones_order(const struct tier_zones *zones,
                                   const void *block)
{
    size_t index = tier_zones_near_(zones, block);

    return tier_buddy_order(&zones->zone[index].buddy, block);
}

TIERALLOC_API size_t tier_zones_pages(const struct tier_zones *zones,
                                      const void *memory)
{
    const struct tier_zone *zone =
        &zones->zone[tier_zones_near_(zones, memory)];
    int order = tier_buddy_order(&zone->buddy, memory);

    return order >= 0 ? tier_order_pages_((unsigned)order)
                      : tier_run_used_(&zone->runs, memory);
}

TIERALLOC_API size_t tier_zones_free_pages(const struct tier_zones *zones)
{
    size_t pages = 0;

    for (unsigned i = 0; i < zones->count; i++) {
        pages += tier_zone_free_pages_(&zones->zone[i]);
    }
    return pages;
}

TIERALLOC_API size_t tier_zones_managed_pages(const struct tier_zones *zones)
{
    size_t pages = 0;

    for (unsigned i = 0; i < zones->count; i++) {
        pages += zones->zone[i].buddy.managed_pages;
    }
    return pages;
}

TIERALLOC_API enum tier_status tier_zones_stats(const struct tier_zones *zones,
                                                unsigned zone,
                                                struct tier_zone_stats *stats)
{
    if (zone >= TIER_ZONES_MAX || zone >= zones->count) {
        return TIER_ERR_INVALID;
    }
    const struct tier_zone *from = &zones->zone[zone];

    tier_buddy_stats(&from->buddy, &stats->buddy);
    tier_runs_stats(&from->runs, &stats->runs);
    stats->free_pages = tier_zone_free_pages_(from);
    stats->failed_reserve = from->failed_reserve;
    stats->failed_watermark = from->failed_watermark;
    stats->fallbacks = from->fallbacks;
    stats->min_pages = from->min_pages;
    stats->low_pages = from->low_pages;
    stats->high_pages = from->high_pages;
    stats->reserve_pages = from->reserve_pages;
    stats->is_low = from->is_low != 0;
    stats->name = from->name;
    return TIER_OK;
}

/* Write a word before a number. */
static void tier_write_pair_(const struct tier_writer_ *to, const char *word,
                             size_t number)
{
    tier_write_(to, word);
    tier_write_number_(to, number, 0);
}

/* Write text, left-aligned to `width` characters; NULL is none. */
static void tier_write_left_(const struct tier_writer_ *to, const char *text,
                             unsigned width)
{
    for (; text != NULL && *text != '\0'; text++) {
        to->put(to->context, *text);
        width -= width > 0;
    }
    for (; width > 0; width--) {
        to->put(to->context, ' ');
    }
}

TIERALLOC_API void tier_zones_dump(const struct tier_zones *zones, tier_put put,
                                   void *context)
{
    struct tier_writer_ to;

    to.put = put;
    to.context = context;
    for (unsigned i = 0; i < zones->count; i++) {
        const struct tier_zone *zone = &zones->zone[i];

        tier_write_(&to, "zone ");
        tier_write_left_(&to, zone->name, 8);
        for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
            tier_write_number_(&to, zone->buddy.lists[order].blocks, 6);
        }
        tier_write_pair_(&to, "  free ", tier_zone_free_pages_(zone));
        tier_write_pair_(&to, " of ", zone->buddy.managed_pages);
        tier_write_pair_(&to, ", in runs ", zone->runs.free_pages);
        tier_write_pair_(&to, ", runs in use ", zone->runs.used_runs);
        tier_write_pair_(&to, ", min ", zone->min_pages);
        tier_write_pair_(&to, ", low ", zone->low_pages);
        tier_write_pair_(&to, ", high ", zone->high_pages);
        tier_write_(&to, "\n");
    }
}

/* --- Checking --- */

/* True when a map is as tier_pagemap_init makes one. */
static bool tier_zones_check_map_(const struct tier_pagemap *map)
{
    uintptr_t kind = (uintptr_t)map->entry;

    kind += map->pages * sizeof(union tier_page_entry);
#if TIERALLOC_CPUS > 0
    if ((uintptr_t)map->cut != kind) {
        return false;
    }
    kind += map->pages * sizeof(uint16_t);
#endif
    return (uintptr_t)map->kind == kind &&
           map->skew ==
               (map->first & (tier_order_pages_(TIERALLOC_MAX_ORDER) - 1));
}

/* True when a map is the part of `whole` that begins at an index. */
static bool tier_zones_check_part_(const struct tier_pagemap *part,
                                   const struct tier_pagemap *whole,
                                   size_t begin)
{
    uintptr_t kind = (uintptr_t)whole->kind + begin;
    uintptr_t entry = (uintptr_t)whole->entry;

    entry += begin * sizeof(union tier_page_entry);
#if TIERALLOC_CPUS > 0
    if ((uintptr_t)part->cut !=
        (uintptr_t)whole->cut + begin * sizeof(uint16_t)) {
        return false;
    }
#endif
    return begin < whole->pages && part->pages <= whole->pages - begin &&
           (uintptr_t)part->kind == kind && (uintptr_t)part->entry == entry &&
           part->skew ==
               (part->first & (tier_order_pages_(TIERALLOC_MAX_ORDER) - 1));
}

/* True when the marks of a zone are in order, and what is noted agrees. */
static bool tier_zone_check_marks_(const struct tier_zone *zone)
{
    size_t free_pages = tier_zone_free_pages_(zone);
    bool noted = false;

    if (zone->is_low == 0) {
        noted = free_pages >= zone->low_pages &&
                zone->calm_pages == zone->low_pages;
    } else if (zone->is_low == 1) {
        noted = free_pages < zone->high_pages &&
                zone->calm_pages == zone->min_pages;
    }
    return noted && zone->min_pages <= zone->low_pages &&
           zone->low_pages <= zone->high_pages &&
           zone->high_pages <= zone->buddy.managed_pages;
}

/* True when the runs of a zone are over its buddy and part of the map. */
static bool tier_zone_check_base_(const struct tier_zone *zone)
{
    const struct tier_pagemap *part = &zone->buddy.map;
    const struct tier_pagemap *map = &zone->runs.map;

#if TIERALLOC_CPUS > 0
    if (map->cut != part->cut) {
        return false;
    }
#endif
    return map->first == part->first && map->pages == part->pages &&
           map->skew == part->skew && map->kind == part->kind &&
           map->entry == part->entry && zone->runs.buddy == &zone->buddy &&
           zone->runs.lend_order == TIERALLOC_MAX_ORDER;
}

/* True when the pages of a zone in no block are as many as its runs hold. */
static bool tier_zone_check_held_(const struct tier_zone *zone)
{
    const struct tier_pagemap *map = &zone->buddy.map;
    size_t pages = zone->runs.held_pages;
    size_t at = 0;

    while ((at = tier_find_nonzero_(map->kind, at, map->pages)) < map->pages) {
        unsigned kind = map->kind[at];
        size_t extent = tier_pagemap_extent_(map, at);

        if ((kind & TIER_KIND_MASK) == TIER_KIND_FREE ||
            (kind & TIER_KIND_MASK) == TIER_KIND_BLOCK ||
            kind == TIER_KIND_CACHED) {
            pages += extent;
        }
        at += extent;
    }
    return pages == zone->buddy.managed_pages;
}

/* True when a zone, a part of the map, is sound in itself. */
static bool tier_zone_check_(const struct tier_zone *zone)
{
    return tier_zone_check_base_(zone) && tier_buddy_check(&zone->buddy) &&
           tier_runs_check(&zone->runs) && tier_zone_check_held_(zone) &&
           tier_zone_check_marks_(zone);
}

/* True when the search by address looks for zones where they are. */
static bool tier_zones_check_below_(const struct tier_zones *zones)
{
    if (zones->count == 0 || zones->count > TIER_ZONES_MAX) {
        return false;
    }
#if TIERALLOC_ZONES > 1
    for (unsigned i = 1; i < TIER_ZONES_MAX; i++) {
        if (zones->below[i - 1] != tier_zones_below_(zones, i)) {
            return false;
        }
    }
#endif
    return true;
}

TIERALLOC_API bool tier_zones_check(const struct tier_zones *zones)
{
    const struct tier_pagemap *map = &zones->map;
    size_t at = 0; /* first page behind the zones so far */

    if (!tier_zones_check_below_(zones) || !tier_zones_check_map_(map)) {
        return false;
    }
    for (unsigned i = 0; i < zones->count; i++) {
        const struct tier_zone *zone = &zones->zone[i];
        size_t first = zone->buddy.map.first - map->first;

        if (first < at ||
            !tier_zones_check_part_(&zone->buddy.map, map, first) ||
            tier_find_nonzero_(map->kind, at, first) != first ||
            !tier_zone_check_(zone)) {
            return false;
        }
        at = first + zone->buddy.map.pages;
    }
    return tier_find_nonzero_(map->kind, at, map->pages) == map->pages;
}

#endif /* TIERALLOC_ZONES_IMPLEMENTED */
