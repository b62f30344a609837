/*
 * tieralloc/zones.h - zones of memory in order: DMA, NORMAL, HIGH.
 *
 * SPDX-License-Identifier: MIT
 *
 * A zone is a range of the span with a buddy of its own over its part of the
 * page map, so no block lies across a border. A request names the highest zone
 * it accepts and falls back to lower ones, as far down as each lets it:
 *
 *     free pages    high ------  this many again: callback, TIER_ZONE_OK
 *     of a zone     low  ------  fewer than that: callback, TIER_ZONE_LOW
 *         |         reserve ---  the rest is not for those who fell back
 *         v         min  ------  the rest is for TIER_ZONE_EMERGENCY alone
 *                   0
 *
 * So ordinary requests cannot empty DMA, and whoever frees memory in order to
 * make memory free still gets the pages it needs.
 *
 * On rv64imac, where no mark is near, an allocation costs 18 instructions more
 * than one of the buddy, a free 14. Beside its buddy, a zone takes 80 bytes on
 * a 64-bit machine. No function locks; the caller serialises access.
 */
#ifndef TIERALLOC_ZONES_H
#define TIERALLOC_ZONES_H

#include "buddy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Most zones. */
#define TIER_ZONES_MAX 3

/* Flags of tier_zones_try_alloc. */
#define TIER_ZONE_EMERGENCY 1U /* may leave a zone fewer pages than min */

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
    struct tier_zone zone[TIER_ZONES_MAX];
    uintptr_t below[TIER_ZONES_MAX - 1]; /* last address below zone 1, 2 */
    unsigned count;                      /* zones that there are */
    tier_zone_callback callback;         /* or NULL */
    void *context;                       /* for the callback */
    struct tier_pagemap map;             /* the caller's, by value */
};

/*
 * A snapshot of a zone. A failed request counts once in each zone that it would
 * have accepted, by what stood in the way there: no block, which counts in
 * buddy.failed_allocs, else the reserve, else min.
 */
struct tier_zone_stats {
    struct tier_buddy_stats buddy; /* pages, blocks, refusals, no block */
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
 * hold pages of no other tier. O(count * TIERALLOC_MAX_ORDER).
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
 * The opposite of tier_zones_add, and as that it may concern several zones.
 * O(blocks removed). May call back TIER_ZONE_LOW.
 *
 * Returns TIER_OK, or with nothing changed in any zone:
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
 * O(zones + TIERALLOC_MAX_ORDER). May call back TIER_ZONE_LOW.
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
 * its min alone serves this one, if there is no other zone that may.
 *
 * Returns TIER_OK with the block in *out, or with *out NULL and one counter
 * changed, or one in each zone from `highest` down:
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
 * Free a block, whichever zone it is of; NULL is a no-op.
 *
 * Two compares find the zone. O(TIERALLOC_MAX_ORDER). May call back
 * TIER_ZONE_OK.
 *
 * Returns what tier_buddy_free does. An address of no zone is TIER_ERR_FOREIGN
 * and counts with the zone below it, if any, else with zone 0.
 */
TIERALLOC_API enum tier_status tier_zones_free(struct tier_zones *zones,
                                               void *block);

/* --- Inspection ----------------------------------------------------------- */

/* The zone whose range holds an address; -1 when none does. O(1). */
TIERALLOC_API int tier_zones_zone_of(const struct tier_zones *zones,
                                     const void *address);

/*
 * Keep a word with an allocated block, to be found again by its address. O(1).
 *
 * Returns TIER_OK, or the status that tier_zones_free would give.
 */
TIERALLOC_API enum tier_status tier_zones_set_owner(struct tier_zones *zones,
                                                    void *block,
                                                    uintptr_t owner);

/* The word kept with an allocated block; 0 for anything else. O(1). */
TIERALLOC_API uintptr_t tier_zones_owner(const struct tier_zones *zones,
                                         const void *block);

/* The order of an allocated block; -1 for anything else. O(1). */
TIERALLOC_API int tier_zones_order(const struct tier_zones *zones,
                                   const void *block);

/*
 * Copy the counters and the marks of a zone into *stats. O(TIERALLOC_MAX_ORDER)
 *
 * Returns TIER_OK, or TIER_ERR_INVALID with *stats untouched when there is no
 * such zone.
 */
TIERALLOC_API enum tier_status tier_zones_stats(const struct tier_zones *zones,
                                                unsigned zone,
                                                struct tier_zone_stats *stats);

/*
 * Write a line per zone: its name, free blocks by order, pages and marks.
 *
 *     zone DMA          1     2     2  free 13 of 16, min 1, low 2, high 4
 */
TIERALLOC_API void tier_zones_dump(const struct tier_zones *zones, tier_put put,
                                   void *context);

/*
 * True when every invariant holds: zones are parts of the map, in order, where
 * the search by address looks for them; tier_buddy_check holds in each; no page
 * outside of them is held; min <= low <= high <= managed pages; and a zone is
 * noted as low if fewer than low pages are free, as not low if high or more.
 *
 * So beside what tier_buddy_check detects, any change is detected to the map,
 * to the number of zones and the addresses they are found by, to where the part
 * of a zone begins, to the kind of a page in no zone and, where min is not low,
 * to the note that a zone is low. Not detected: a mark that moved but keeps all
 * of this true, a reserve, a counter of requests, the callback, a name.
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

/* The last address below a zone; that of all memory for one there is not. */
static uintptr_t tier_zones_below_(const struct tier_zones *zones,
                                   unsigned index)
{
    return index < zones->count
               ? (zones->zone[index].buddy.map.first << TIERALLOC_PAGE_SHIFT) -
                     1
               : UINTPTR_MAX;
}

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
    zones->below[0] = tier_zones_below_(zones, 1);
    zones->below[1] = tier_zones_below_(zones, 2);
    return TIER_OK;
}

/* --- Watermarks --- */

/* Note what a change to a zone's free pages or marks has crossed. */
TIER_INLINE_ void tier_zone_note_(struct tier_zone *zone)
{
    size_t end = zone->is_low ? zone->high_pages : zone->low_pages;

    zone->is_low = zone->buddy.free_pages < end;
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
    if (zone >= zones->count || min_pages > low_pages ||
        low_pages > high_pages ||
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
    if (zone >= zones->count) {
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

/* Why pages cannot leave their zone, TIER_OK when they can. */
static enum tier_status tier_zone_holds_(const struct tier_zone *zone,
                                         size_t begin, size_t end)
{
    const struct tier_buddy *buddy = &zone->buddy;

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

/*
 * The counter of what keeps a zone from serving a request, or NULL: a block to
 * be had comes first, then the reserve, then min, which a flag would lift.
 */
static size_t *tier_zone_obstacle_(struct tier_zone *zone, unsigned order,
                                   bool fell_back, unsigned flags)
{
    if (zone->buddy.orders >> order == 0) {
        return &zone->buddy.failed_allocs;
    }
    size_t left = zone->buddy.free_pages - tier_order_pages_(order);

    if (fell_back && left < zone->reserve_pages) {
        return &zone->failed_reserve;
    }
    if (left < zone->min_pages && (flags & TIER_ZONE_EMERGENCY) == 0) {
        return &zone->failed_watermark;
    }
    return NULL;
}

/* The highest zone from `highest` down that may serve a request, or -1. */
static int tier_zones_choose_(struct tier_zones *zones, unsigned order,
                              unsigned highest, unsigned flags)
{
    int at = (int)highest;

    while (at >= 0 &&
           tier_zone_obstacle_(&zones->zone[at], order, (unsigned)at != highest,
                               flags) != NULL) {
        at--;
    }
    return at;
}

/* Take a block where a mark may be crossed, or elsewhere than asked for. */
TIER_NOINLINE_ static void *tier_zones_take_low_(struct tier_zones *zones,
                                                 unsigned order,
                                                 unsigned highest,
                                                 unsigned flags)
{
    if (highest >= zones->count || order > TIERALLOC_MAX_ORDER ||
        flags > TIER_ZONE_EMERGENCY) {
        highest = highest < zones->count ? highest : zones->count - 1;
        zones->zone[highest].buddy.refused_allocs++;
        return NULL;
    }
    int at = tier_zones_choose_(zones, order, highest, 0);

    if (at < 0 && flags != 0) {
        at = tier_zones_choose_(zones, order, highest, flags);
    }
    if (at < 0) {
        for (unsigned i = 0; i <= highest; i++) {
            ++*tier_zone_obstacle_(&zones->zone[i], order, i != highest, flags);
        }
        return NULL;
    }
    void *block = tier_buddy_alloc(&zones->zone[at].buddy, order);

    zones->zone[at].fallbacks += (unsigned)at != highest;
    tier_zones_settle_(zones, (unsigned)at);
    return block;
}

/*
 * The zone asked for, when it has a block and so many free pages that taking it
 * crosses no mark, which is the common case; or NULL.
 *
 * There is a block of an order or above when the word of orders, seen as a
 * number, is as large as that order's bit. An order too large to shift by
 * passes for a smaller one: the buddy refuses it.
 */
TIER_INLINE_ struct tier_zone *tier_zones_calm_(struct tier_zones *zones,
                                                unsigned order,
                                                unsigned highest)
{
    size_t pages = (size_t)1 << order % TIER_WORD_BITS_;

    if (TIER_LIKELY_(highest < zones->count)) {
        /* As an int, which rv64 need not extend: there are few zones. */
        struct tier_zone *zone = &zones->zone[(int)highest];

        if (TIER_LIKELY_(zone->buddy.free_pages >= zone->calm_pages + pages &&
                         zone->buddy.orders >= pages)) {
            return zone;
        }
    }
    return NULL;
}

TIERALLOC_API void *tier_zones_alloc(struct tier_zones *zones, unsigned order,
                                     unsigned highest)
{
    struct tier_zone *zone = tier_zones_calm_(zones, order, highest);

    if (TIER_LIKELY_(zone != NULL)) {
        return tier_buddy_alloc(&zone->buddy, order);
    }
    return tier_zones_take_low_(zones, order, highest, 0);
}

/* Try where a mark may be crossed, or say why it is refused. */
TIER_NOINLINE_ static enum tier_status tier_zones_try_low_(
    struct tier_zones *zones, unsigned order, unsigned highest, unsigned flags,
    void **out)
{
    *out = tier_zones_take_low_(zones, order, highest, flags);
    if (*out != NULL) {
        return TIER_OK;
    }
    if (highest >= zones->count || flags > TIER_ZONE_EMERGENCY) {
        return TIER_ERR_INVALID;
    }
    return order > TIERALLOC_MAX_ORDER ? TIER_ERR_TOO_LARGE
                                       : TIER_ERR_NO_MEMORY;
}

TIERALLOC_API enum tier_status tier_zones_try_alloc(struct tier_zones *zones,
                                                    unsigned order,
                                                    unsigned highest,
                                                    unsigned flags, void **out)
{
    struct tier_zone *zone = tier_zones_calm_(zones, order, highest);

    if (TIER_LIKELY_(zone != NULL && flags <= TIER_ZONE_EMERGENCY)) {
        *out = tier_buddy_alloc(&zone->buddy, order);
        return TIER_LIKELY_(*out != NULL) ? TIER_OK : TIER_ERR_TOO_LARGE;
    }
    return tier_zones_try_low_(zones, order, highest, flags, out);
}

_Static_assert(TIER_ZONES_MAX == 3, "two compares tell the zones apart");

/* The only zone that an address can be in. */
TIER_INLINE_ size_t tier_zones_near_(const struct tier_zones *zones,
                                     const void *address)
{
    uintptr_t at = (uintptr_t)address;

    return (size_t)(at > zones->below[0]) + (size_t)(at > zones->below[1]);
}

/* Free a block in a zone that is low. */
TIER_NOINLINE_ static enum tier_status tier_zones_free_low_(
    struct tier_zones *zones, size_t index, void *block)
{
    enum tier_status status = tier_buddy_free(&zones->zone[index].buddy, block);

    tier_zones_settle_(zones, (unsigned)index);
    return status;
}

TIERALLOC_API enum tier_status tier_zones_free(struct tier_zones *zones,
                                               void *block)
{
    size_t index = tier_zones_near_(zones, block);
    struct tier_zone *zone = &zones->zone[index];

    if (TIER_UNLIKELY_(zone->is_low)) {
        return tier_zones_free_low_(zones, index, block);
    }
    return tier_buddy_free(&zone->buddy, block);
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
                                                    void *block,
                                                    uintptr_t owner)
{
    size_t index = tier_zones_near_(zones, block);

    return tier_buddy_set_owner(&zones->zone[index].buddy, block, owner);
}

TIERALLOC_API uintptr_t tier_zones_owner(const struct tier_zones *zones,
                                         const void *block)
{
    size_t index = tier_zones_near_(zones, block);

    return tier_buddy_owner(&zones->zone[index].buddy, block);
}

TIERALLOC_API int tier_zones_order(const struct tier_zones *zones,
                                   const void *block)
{
    size_t index = tier_zones_near_(zones, block);

    return tier_buddy_order(&zones->zone[index].buddy, block);
}

TIERALLOC_API enum tier_status tier_zones_stats(const struct tier_zones *zones,
                                                unsigned zone,
                                                struct tier_zone_stats *stats)
{
    if (zone >= zones->count) {
        return TIER_ERR_INVALID;
    }
    const struct tier_zone *from = &zones->zone[zone];

    tier_buddy_stats(&from->buddy, &stats->buddy);
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
        tier_write_pair_(&to, "  free ", zone->buddy.free_pages);
        tier_write_pair_(&to, " of ", zone->buddy.managed_pages);
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
    size_t free_pages = zone->buddy.free_pages;
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

TIERALLOC_API bool tier_zones_check(const struct tier_zones *zones)
{
    const struct tier_pagemap *map = &zones->map;
    size_t at = 0; /* first page behind the zones so far */

    if (zones->count == 0 || zones->count > TIER_ZONES_MAX ||
        zones->below[0] != tier_zones_below_(zones, 1) ||
        zones->below[1] != tier_zones_below_(zones, 2) ||
        !tier_zones_check_map_(map)) {
        return false;
    }
    for (unsigned i = 0; i < zones->count; i++) {
        const struct tier_zone *zone = &zones->zone[i];
        size_t first = zone->buddy.map.first - map->first;

        if (first < at ||
            !tier_zones_check_part_(&zone->buddy.map, map, first) ||
            tier_find_nonzero_(map->kind, at, first) != first ||
            !tier_buddy_check(&zone->buddy) || !tier_zone_check_marks_(zone)) {
            return false;
        }
        at = first + zone->buddy.map.pages;
    }
    return tier_find_nonzero_(map->kind, at, map->pages) == map->pages;
}

#endif /* TIERALLOC_ZONES_IMPLEMENTED */
