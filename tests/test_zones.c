/*
 * tests/test_zones.c - zones against a plain model of their pages and marks.
 *
 * SPDX-License-Identifier: MIT
 *
 * Zones lie at invented addresses: no managed page is ever touched. Borders
 * are aligned to nothing but a page, often not even to eight of them.
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/zones.h>

/* Most pages in the span of a test. */
#define SPAN_MAX 1000
#include "pages.h"

#define EMERGENCY TIER_ZONE_EMERGENCY
#define QUICK     TIER_ZONE_QUICK

/* The zones of the running test. */
static struct tier_zones zones;

/* Make a map over these pages by number, and zones of no meaning yet. */
static void set_up_span(uintptr_t first, size_t pages)
{
    set_up_map(first, pages);
    memset(&zones, 0xA5, sizeof(zones));
}

/* A range of whole pages by number, for a zone. */
static struct tier_zone_range range_of(const char *name, uintptr_t begin,
                                       uintptr_t end)
{
    struct tier_zone_range range;

    range.name = name;
    range.base = begin << TIERALLOC_PAGE_SHIFT;
    range.bytes = bytes_of(end - begin);
    return range;
}

/* Add pages by number. */
static void add_pages(uintptr_t begin, uintptr_t end)
{
    cr_assert_eq(
        tier_zones_add(&zones, address_of(begin), bytes_of(end - begin)),
        TIER_OK);
}

/* Remove pages by number. */
static enum tier_status remove_pages(uintptr_t begin, uintptr_t end)
{
    return tier_zones_remove(&zones, address_of(begin), bytes_of(end - begin));
}

static struct tier_zone_stats stats_of(unsigned zone)
{
    struct tier_zone_stats stats;

    cr_assert_eq(tier_zones_stats(&zones, zone, &stats), TIER_OK);
    return stats;
}

static size_t free_in(unsigned zone)
{
    return stats_of(zone).free_pages;
}

/* --- What has changed ----------------------------------------------------- */

static struct tier_zones zones_before;
static uint8_t metadata_before[sizeof(metadata_room)];

/* Remember every byte of the zones and of their metadata. */
static void remember(void)
{
    memcpy(&zones_before, &zones, sizeof(zones));
    memcpy(metadata_before, metadata, metadata_bytes);
}

/* True when no byte has changed since remember(). */
static bool unchanged(void)
{
    return memcmp(&zones, &zones_before, sizeof(zones)) == 0 &&
           memcmp(metadata, metadata_before, metadata_bytes) == 0;
}

/* True when no byte has but those of one counter, which rose by 1. */
static bool only_counted(size_t *counter)
{
    *counter -= 1;
    const bool same = unchanged();

    *counter += 1;
    remember();
    return same;
}

/* --- What is called back -------------------------------------------------- */

/* The events of the running test, by zone and kind. */
static struct {
    size_t count[TIER_ZONES_MAX][2];
    size_t total;
    unsigned zone;
    enum tier_zone_event event; /* the last one */
    void (*then)(void);         /* what else the callback does, or NULL */
} seen;

/* Count an event; it must agree with the zones, which must be sound by now. */
static void on_event(void *context, unsigned zone, enum tier_zone_event event)
{
    const struct tier_zone_stats stats = stats_of(zone);

    cr_assert_eq(context, (void *)&seen);
    cr_assert(tier_zones_check(&zones));
    cr_assert_eq(stats.is_low, event == TIER_ZONE_LOW);
    if (event == TIER_ZONE_LOW) {
        cr_assert(stats.free_pages < stats.low_pages);
    } else {
        cr_assert_eq(event, TIER_ZONE_OK);
        cr_assert(stats.free_pages >= stats.high_pages);
    }
    seen.count[zone][event]++;
    seen.total++;
    seen.zone = zone;
    seen.event = event;
    if (seen.then != NULL) {
        seen.then();
    }
}

/* Watch the zones, nothing seen so far. */
static void watch(void)
{
    memset(&seen, 0, sizeof(seen));
    tier_zones_set_callback(&zones, on_event, &seen);
}

/* True when so many events were seen in all, the last of them this one. */
static bool saw(size_t total, unsigned zone, enum tier_zone_event event)
{
    return seen.total == total && seen.zone == zone && seen.event == event;
}

/* --- Zones of most tests -------------------------------------------------- */

#if TIERALLOC_ZONES == 3

/*
 * A span of 100 pages, its first one 3 below an alignment. All pages in zones
 * are in regions, after set_up_full():
 *
 *     page    | 0 1 | 2 .. 20 | 21 .. 57 | 58 .. 60 | 61 .. 96 | 97 .. 99 |
 *     zone    |  -  |   DMA   |  NORMAL  |     -    |   HIGH   |     -    |
 *     pages   |     |   19    |    37    |          |    36    |          |
 */
#define FIRST        (MIDDLE - 3)
#define SPAN         100
#define DMA          0
#define NORMAL       1
#define HIGH         2
#define DMA_BEGIN    (FIRST + 2)
#define NORMAL_BEGIN (FIRST + 21)
#define NORMAL_END   (FIRST + 58)
#define HIGH_BEGIN   (FIRST + 61)
#define HIGH_END     (FIRST + 97)
#define DMA_PAGES    19U
#define NORMAL_PAGES 37U
#define HIGH_PAGES   36U

static void set_up(void)
{
    struct tier_zone_range ranges[3];

    set_up_span(FIRST, SPAN);
    ranges[0] = range_of("DMA", DMA_BEGIN, NORMAL_BEGIN);
    ranges[1] = range_of("NORMAL", NORMAL_BEGIN, NORMAL_END);
    ranges[2] = range_of("HIGH", HIGH_BEGIN, HIGH_END);
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 3), TIER_OK);
    watch();
}

static void set_up_full(void)
{
    set_up();
    add_pages(DMA_BEGIN, NORMAL_END);
    add_pages(HIGH_BEGIN, HIGH_END);
    cr_assert(tier_zones_check(&zones));
}

/* Indexes of no zone, volatile lest the compiler object to them. */
static const volatile unsigned no_zones[] = {
    3, 4, 32, 255, 256, UINT32_MAX / 2 + 1, UINT32_MAX};

/* Set the marks of a zone. */
static void mark(unsigned zone, size_t min, size_t low, size_t high)
{
    cr_assert_eq(tier_zones_set_watermarks(&zones, zone, min, low, high),
                 TIER_OK);
}

/* Set the reserve of a zone. */
static void reserve(unsigned zone, size_t pages)
{
    cr_assert_eq(tier_zones_set_reserve(&zones, zone, pages), TIER_OK);
}

/* The zone of a page allocated for `highest`; -1 when there was none. */
static int take_page(unsigned highest)
{
    void *const page = tier_zones_alloc(&zones, 0, highest);

    return page == NULL ? -1 : tier_zones_zone_of(&zones, page);
}

/* Take pages of order 0 for `highest` until there are none; count them. */
static size_t take_all(unsigned highest, unsigned flags)
{
    void *page;
    size_t count = 0;

    while (tier_zones_try_alloc(&zones, 0, highest, flags, &page) == TIER_OK) {
        cr_assert_not_null(page);
        count++;
    }
    cr_assert_null(page);
    cr_assert(tier_zones_check(&zones));
    return count;
}

/* Free so many of the allocated pages of a zone, lowest first. */
static void free_some(unsigned zone, size_t count)
{
    for (uintptr_t page = FIRST; count > 0 && page < FIRST + SPAN; page++) {
        void *const address = address_of(page);

        if (tier_zones_zone_of(&zones, address) == (int)zone &&
            tier_zones_order(&zones, address) == 0) {
            cr_assert_eq(tier_zones_free(&zones, address), TIER_OK);
            count--;
        }
    }
    cr_assert_eq(count, 0U);
}

#endif

/* --- The model ------------------------------------------------------------ */

/* What is known of a page, computed in the plainest way. */
struct page {
    uint16_t state; /* GONE, FREE, or the index of the first page with it */
    uint16_t pages; /* of a block or run, or held, with the first of them */
    uint8_t what;   /* with that, too */
};

/* What pages that are in use are. */
enum what { BLOCK, RUN, HELD };

#define GONE 0xFFFFU /* in no region */
#define FREE 0xFFFEU

/* What stands in the way of a request, in the order of the counters. */
enum obstacle { NO_BLOCK, NO_RUN, RESERVE, WATERMARK, NOTHING };

/* A request: a block, a run, or pages to hold; of 2^order, if a block. */
struct request {
    enum what what;
    size_t pages;
    unsigned order;
    unsigned highest;
    unsigned flags;
};

struct model_zone {
    uint32_t begin;
    uint32_t end;
    size_t managed;
    size_t used;
    size_t peak;
    size_t min;
    size_t low;
    size_t high;
    size_t reserve;
    bool is_low;
    size_t failed[4]; /* by obstacle */
    size_t refused_allocs;
    size_t refused_runs;
    size_t refused_frees;
    size_t fallbacks;
    size_t events[2];
};

static struct {
    uintptr_t first; /* number of page 0 */
    uint32_t count;
    struct page page[SPAN_MAX];
    uintptr_t owner[SPAN_MAX];
    uint32_t zones;
    bool mixed; /* there are not only blocks */
    struct model_zone zone[TIER_ZONES_MAX];
} model;

/* Make zones over a span; a zone begins and ends at these indexes of it. */
static void set_up_model(uintptr_t first, uint32_t pages,
                         const uint32_t bounds[][2], uint32_t count)
{
    struct tier_zone_range ranges[TIER_ZONES_MAX];

    set_up_span(first, pages);
    memset(&model, 0, sizeof(model));
    model.first = first;
    model.count = pages;
    model.zones = count;
    for (uint32_t i = 0; i < pages; i++) {
        model.page[i].state = GONE;
    }
    for (uint32_t i = 0; i < count; i++) {
        model.zone[i].begin = bounds[i][0];
        model.zone[i].end = bounds[i][1];
        ranges[i] = range_of(NULL, first + bounds[i][0], first + bounds[i][1]);
    }
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, count), TIER_OK);
    watch();
}

static size_t model_free(const struct model_zone *zone)
{
    return zone->managed - zone->used;
}

/* True when page i is the first of those of a block or run, or held. */
static bool is_head(uint32_t i)
{
    return model.page[i].state == i;
}

/* True when it is the first of a block or run. */
static bool is_used(uint32_t i)
{
    return is_head(i) && model.page[i].what != HELD;
}

/* The order of a block of so many pages. */
static int order_of(size_t pages)
{
    int order = 0;

    while ((size_t)1 << order < pages) {
        order++;
    }
    return order;
}

/* True when each of these pages is in this state, GONE or FREE. */
static bool all_are(uint32_t begin, uint32_t end, unsigned state)
{
    for (uint32_t i = begin; i < end; i++) {
        if (model.page[i].state != state) {
            return false;
        }
    }
    return true;
}

static void set_all(uint32_t begin, uint32_t end, unsigned state)
{
    for (uint32_t i = begin; i < end; i++) {
        model.page[i].state = (uint16_t)state;
    }
}

/* The zone of page i; -1 when it is in none. */
static int model_zone_of(uint32_t i)
{
    for (uint32_t zone = 0; zone < model.zones; zone++) {
        if (i >= model.zone[zone].begin && i < model.zone[zone].end) {
            return (int)zone;
        }
    }
    return -1;
}

/*
 * Count the blocks that the free pages of a zone form when every two buddies
 * have joined: each as large as its alignment, the free pages of the zone and
 * MAX_ORDER allow.
 */
static void count_free(const struct model_zone *zone, size_t blocks[])
{
    uint32_t run_end = 0;

    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        blocks[order] = 0;
    }
    for (uint32_t i = zone->begin; i < zone->end;) {
        unsigned order = 0;

        if (model.page[i].state != FREE) {
            i++;
            continue;
        }
        run_end = run_end < i ? i : run_end;
        while (run_end < zone->end && model.page[run_end].state == FREE) {
            run_end++;
        }
        while (order != MAX_ORDER &&
               (model.first + i) % ((uintptr_t)2 << order) == 0 &&
               run_end - i >= (uint32_t)2 << order) {
            order++;
        }
        blocks[order]++;
        i += (uint32_t)1 << order;
    }
}

/* Contiguous free pages of a zone: the most there are. */
static size_t longest_free(const struct model_zone *zone)
{
    size_t longest = 0;
    size_t length = 0;

    for (uint32_t i = zone->begin; i < zone->end; i++) {
        length = model.page[i].state == FREE ? length + 1 : 0;
        longest = length > longest ? length : longest;
    }
    return longest;
}

/* True when they are enough as the tiers have them, for who is in a hurry. */
static bool has_ready(const struct model_zone *zone,
                      const struct request *request)
{
    const struct tier_zone_stats stats =
        stats_of((unsigned)(zone - model.zone));
    const int order = stats.buddy.largest_free_order;
    const size_t block = order < 0 ? 0 : (size_t)1 << order;

    if (request->what == BLOCK && block < request->pages) {
        const struct tier_runs *const runs =
            &zones.zone[zone - model.zone].runs;
        const size_t bin = tier_run_bin_above_(request->pages * 2 - 1);

        return bin < TIER_RUN_BINS &&
               tier_run_first_bin_(runs, bin) < TIER_RUN_BINS;
    }
    return block >= request->pages ||
           stats.runs.largest_free_pages >= request->pages;
}

/* True when free pages of a zone are enough, wherever the tiers have them. */
static bool has_pages(const struct model_zone *zone,
                      const struct request *request)
{
    size_t blocks[MAX_ORDER + 1];

    if ((request->flags & QUICK) != 0) {
        return has_ready(zone, request);
    }
    if (request->what != BLOCK) {
        return longest_free(zone) >= request->pages;
    }
    count_free(zone, blocks);
    for (unsigned k = request->order; k <= MAX_ORDER; k++) {
        if (blocks[k] != 0) {
            return true;
        }
    }
    return false;
}

/* What keeps a zone from serving a request. */
static enum obstacle obstacle_in(const struct model_zone *zone,
                                 const struct request *request, bool fell_back,
                                 unsigned flags)
{
    if (!has_pages(zone, request)) {
        return request->what == BLOCK ? NO_BLOCK : NO_RUN;
    }
    const size_t left = model_free(zone) - request->pages;

    if (fell_back && left < zone->reserve) {
        return RESERVE;
    }
    return left < zone->min && (flags & EMERGENCY) == 0 ? WATERMARK : NOTHING;
}

/* Note what a zone's free pages have crossed. */
static void model_settle(struct model_zone *zone)
{
    if (!zone->is_low && model_free(zone) < zone->low) {
        zone->is_low = true;
        zone->events[TIER_ZONE_LOW]++;
    } else if (zone->is_low && model_free(zone) >= zone->high) {
        zone->is_low = false;
        zone->events[TIER_ZONE_OK]++;
    }
}

/* Require that a zone has the free pages of the model, as blocks if it must. */
static void verify_free(const struct model_zone *zone,
                        const struct tier_zone_stats *stats)
{
    size_t blocks[MAX_ORDER + 1];
    int largest = -1;

    cr_assert_eq(stats->free_pages, model_free(zone));
    cr_assert_eq(stats->buddy.free_pages + stats->runs.free_pages,
                 model_free(zone));
    cr_assert(stats->runs.largest_free_pages <= longest_free(zone));
    if (stats->runs.free_pages != 0) {
        return; /* what is lent is the tiers' to choose */
    }
    count_free(zone, blocks);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        cr_assert_eq(stats->buddy.free_blocks[order], blocks[order]);
        largest = blocks[order] != 0 ? (int)order : largest;
    }
    cr_assert_eq(stats->buddy.largest_free_order, largest);
}

/* Require that a zone has the runs of the model. */
static void verify_runs(const struct model_zone *zone,
                        const struct tier_zone_stats *stats)
{
    size_t runs = 0;
    size_t run_pages = 0;
    size_t held = 0;

    for (uint32_t i = zone->begin; i < zone->end; i++) {
        if (is_head(i) && model.page[i].what == RUN) {
            runs++;
            run_pages += model.page[i].pages;
        } else if (is_head(i) && model.page[i].what == HELD) {
            held += model.page[i].pages;
        }
    }
    cr_assert_eq(stats->runs.used_runs, runs);
    cr_assert_eq(stats->runs.source_pages, held);
    cr_assert_eq(stats->runs.held_pages,
                 run_pages + held + stats->runs.free_pages);
}

/* Require that a zone counts what the model does. */
static void verify_zone(unsigned index)
{
    const struct model_zone *const zone = &model.zone[index];
    const struct tier_zone_stats stats = stats_of(index);

    verify_free(zone, &stats);
    verify_runs(zone, &stats);
    cr_assert_eq(stats.buddy.managed_pages, zone->managed);
    cr_assert(model.mixed || stats.buddy.peak_used_pages == zone->peak);
    cr_assert_eq(stats.buddy.failed_allocs, zone->failed[NO_BLOCK]);
    cr_assert_eq(stats.runs.failed_allocs, zone->failed[NO_RUN]);
    cr_assert_eq(stats.failed_reserve, zone->failed[RESERVE]);
    cr_assert_eq(stats.failed_watermark, zone->failed[WATERMARK]);
    cr_assert_eq(stats.buddy.refused_allocs, zone->refused_allocs);
    cr_assert_eq(stats.buddy.refused_frees, zone->refused_frees);
    cr_assert_eq(stats.runs.refused_allocs, zone->refused_runs);
    cr_assert_eq(stats.runs.refused_frees, 0U);
    cr_assert_eq(stats.fallbacks, zone->fallbacks);
    cr_assert_eq(stats.min_pages, zone->min);
    cr_assert_eq(stats.low_pages, zone->low);
    cr_assert_eq(stats.high_pages, zone->high);
    cr_assert_eq(stats.reserve_pages, zone->reserve);
    cr_assert_eq(stats.is_low, zone->is_low);
    cr_assert_eq(seen.count[index][TIER_ZONE_LOW], zone->events[TIER_ZONE_LOW]);
    cr_assert_eq(seen.count[index][TIER_ZONE_OK], zone->events[TIER_ZONE_OK]);
}

static void verify(void)
{
    size_t free_pages = 0;
    size_t managed = 0;

    for (unsigned i = 0; i < model.zones; i++) {
        verify_zone(i);
        free_pages += model_free(&model.zone[i]);
        managed += model.zone[i].managed;
    }
    cr_assert_eq(tier_zones_free_pages(&zones), free_pages);
    cr_assert_eq(tier_zones_managed_pages(&zones), managed);
    cr_assert(tier_zones_check(&zones));
}

/* Require that each page is what the model says. */
static void verify_pages(void)
{
    for (uint32_t i = 0; i < model.count; i++) {
        const void *const address = address_of(model.first + i);

        cr_assert_eq(tier_zones_zone_of(&zones, address), model_zone_of(i));
        const size_t pages = is_used(i) ? model.page[i].pages : 0;
        const bool block = pages != 0 && model.page[i].what == BLOCK;

        cr_assert_eq(tier_zones_order(&zones, address),
                     block ? order_of(pages) : -1);
        cr_assert_eq(tier_zones_pages(&zones, address), pages);
        cr_assert_eq(tier_zones_owner(&zones, address),
                     pages != 0 ? model.owner[i] : 0);
        cr_assert_eq(tier_zones_pages(&zones, byte_of(model.first + i, 1)), 0U);
        cr_assert_eq(tier_zones_owner(&zones, byte_of(model.first + i, 1)), 0U);
    }
}

/* --- Calls, each made of the zones and of the model ----------------------- */

/* True when each of these pages is in a zone. */
static bool all_in_zones(uint32_t begin, uint32_t end)
{
    for (uint32_t i = begin; i < end; i++) {
        if (model_zone_of(i) < 0) {
            return false;
        }
    }
    return true;
}

/* Pages of [begin, end) that are in a zone. */
static uint32_t pages_in(const struct model_zone *zone, uint32_t begin,
                         uint32_t end)
{
    begin = begin < zone->begin ? zone->begin : begin;
    end = end > zone->end ? zone->end : end;
    return begin < end ? end - begin : 0;
}

/* True when no zone has free pages in runs: what fails then changes nothing. */
static bool none_lent(void)
{
    for (unsigned i = 0; i < model.zones; i++) {
        if (zones.zone[i].runs.free_pages != 0) {
            return false;
        }
    }
    return true;
}

/* Let pages come, which were gone, or go, which were free. */
static void model_change(uint32_t begin, uint32_t end, bool come)
{
    set_all(begin, end, come ? FREE : GONE);
    for (uint32_t i = 0; i < model.zones; i++) {
        struct model_zone *const zone = &model.zone[i];
        const uint32_t pages = pages_in(zone, begin, end);

        if (pages != 0) {
            zone->managed =
                come ? zone->managed + pages : zone->managed - pages;
            zone->peak = zone->used;
            model_settle(zone);
        }
    }
}

static void model_add(uint32_t begin, uint32_t end, size_t bend)
{
    enum tier_status expected = TIER_OK;

    if (!all_in_zones(begin, end)) {
        expected = TIER_ERR_FOREIGN;
    } else if (!all_are(begin, end, GONE)) {
        expected = TIER_ERR_OVERLAP;
    }
    remember();
    cr_assert_eq(
        tier_zones_add(
            &zones, (void *)((uintptr_t)address_of(model.first + begin) - bend),
            bytes_of(end - begin) + 2 * bend),
        expected);
    if (expected == TIER_OK) {
        model_change(begin, end, true);
    } else {
        cr_assert(unchanged());
    }
    verify();
}

/* Why these pages cannot be removed, TIER_OK when they can. */
static enum tier_status removal(uint32_t begin, uint32_t end)
{
    if (!all_in_zones(begin, end)) {
        return TIER_ERR_FOREIGN;
    }
    for (uint32_t i = 0; i < model.zones; i++) {
        const struct model_zone *const zone = &model.zone[i];
        const uint32_t pages = pages_in(zone, begin, end);

        if (pages == 0) {
            continue;
        }
        if (!all_are(begin < zone->begin ? zone->begin : begin,
                     end > zone->end ? zone->end : end, FREE)) {
            return TIER_ERR_IN_USE;
        }
        if (zone->managed < pages + zone->high) {
            return TIER_ERR_INVALID;
        }
    }
    return TIER_OK;
}

static void model_remove(uint32_t begin, uint32_t end, size_t bend)
{
    const enum tier_status expected = removal(begin, end);
    const bool strict = none_lent();

    remember();
    cr_assert_eq(tier_zones_remove(&zones, byte_of(model.first + begin, bend),
                                   bytes_of(end - begin) - 2 * bend),
                 expected);
    if (expected == TIER_OK) {
        model_change(begin, end, false);
    } else {
        cr_assert(unchanged() || !strict);
    }
    verify();
}

/* The zone that serves a request by the rules; -1 when none does. */
static int choose(const struct request *request)
{
    for (unsigned with = 0; with <= (request->flags & EMERGENCY); with++) {
        for (int i = (int)request->highest; i >= 0; i--) {
            if (obstacle_in(&model.zone[i], request, i != (int)request->highest,
                            with) == NOTHING) {
                return i;
            }
        }
    }
    return -1;
}

/* The kinds that a holder of pages may write. */
static const uint8_t holders[] = {TIER_KIND_HEAP, TIER_KIND_META,
                                  TIER_KIND_SLAB, TIER_KIND_SLAB | 0x7FU};

/* Enter pages that were given as used. */
static void model_take(const void *memory, const struct request *request,
                       unsigned zone)
{
    struct model_zone *const from = &model.zone[zone];
    const uintptr_t i =
        ((uintptr_t)memory >> TIERALLOC_PAGE_SHIFT) - model.first;
    const uint32_t pages = (uint32_t)request->pages;
    const size_t aligned = request->what == BLOCK ? pages : 1;

    cr_assert_eq((uintptr_t)memory & (bytes_of(aligned) - 1), 0U);
    cr_assert(i >= from->begin && i < from->end && pages <= from->end - i);
    cr_assert(all_are((uint32_t)i, (uint32_t)i + pages, FREE));
    set_all((uint32_t)i, (uint32_t)i + pages, (unsigned)i);
    model.page[i].pages = (uint16_t)pages;
    model.page[i].what = (uint8_t)request->what;
    model.owner[i] = 0;
    from->used += pages;
    from->peak = from->used > from->peak ? from->used : from->peak;
    for (uintptr_t page = i; request->what == HELD && page < i + pages;
         page++) {
        cr_assert_eq(map.kind[page], TIER_KIND_NONE);
        map.kind[page] = holders[below(COUNT(holders))];
    }
}

/* Undo in the zones what a failed request may have counted, and compare. */
static bool only_failed(const struct request *request)
{
    size_t *counter[TIER_ZONES_MAX];

    for (unsigned i = 0; i <= request->highest; i++) {
        struct tier_zone *const zone = &zones.zone[i];
        const enum obstacle why = obstacle_in(
            &model.zone[i], request, i != request->highest, request->flags);

        cr_assert_neq(why, NOTHING);
        model.zone[i].failed[why]++;
        counter[i] = why == NO_BLOCK  ? &zone->buddy.failed_allocs
                     : why == NO_RUN  ? &zone->runs.failed_allocs
                     : why == RESERVE ? &zone->failed_reserve
                                      : &zone->failed_watermark;
        *counter[i] -= 1;
    }
    const bool same = unchanged();

    for (unsigned i = 0; i <= request->highest; i++) {
        *counter[i] += 1;
    }
    return same;
}

/* Make a request of the zones, by a call that is for it. */
static enum tier_status call_for(const struct request *request, void **memory)
{
    const unsigned highest = request->highest;
    const unsigned flags = request->flags;

    if (request->what == RUN) {
        return tier_zones_try_alloc_run(&zones, request->pages, highest, flags,
                                        memory);
    }
    if (request->what == HELD) {
        *memory = tier_zones_acquire(&zones, request->pages, highest, flags);
    } else if (flags == 0 && below(2) == 0) {
        *memory = tier_zones_alloc(&zones, request->order, highest);
    } else {
        return tier_zones_try_alloc(&zones, request->order, highest, flags,
                                    memory);
    }
    return *memory == NULL ? TIER_ERR_INVALID : TIER_OK; /* it does not say */
}

/* Why a request is refused, TIER_OK when it is not. */
static enum tier_status refusal(const struct request *request)
{
    if (request->highest >= model.zones ||
        request->flags > (EMERGENCY | QUICK)) {
        return TIER_ERR_INVALID;
    }
    if (request->what == BLOCK) {
        return request->order > MAX_ORDER ? TIER_ERR_TOO_LARGE : TIER_OK;
    }
    if (request->pages == 0) {
        return TIER_ERR_INVALID;
    }
    return request->pages > TIER_RUN_MAX ? TIER_ERR_TOO_LARGE : TIER_OK;
}

/* Require that a request was refused, and nothing else. */
static void require_refused(const struct request *request)
{
    const unsigned named =
        request->highest < model.zones ? request->highest : model.zones - 1;
    struct tier_zone *const zone = &zones.zone[named];

    if (request->what == BLOCK) {
        model.zone[named].refused_allocs++;
        cr_assert(only_counted(&zone->buddy.refused_allocs));
    } else {
        model.zone[named].refused_runs++;
        cr_assert(only_counted(&zone->runs.refused_allocs));
    }
}

static void model_request(const struct request *request)
{
    const enum tier_status refused = refusal(request);
    const int from = refused == TIER_OK ? choose(request) : -1;
    const bool strict = (request->flags & QUICK) != 0 ||
                        (none_lent() && request->what == BLOCK);
    void *memory = &zones;

    remember();
    const enum tier_status status = call_for(request, &memory);
    const bool says = status != TIER_ERR_INVALID || request->what == RUN;

    if (from >= 0) {
        cr_assert_eq(status, TIER_OK);
        model_take(memory, request, (unsigned)from);
        model.zone[from].fallbacks += from != (int)request->highest;
        model_settle(&model.zone[from]);
    } else {
        cr_assert_neq(status, TIER_OK);
        cr_assert_null(memory);
        cr_assert(!says || refused == TIER_OK || status == refused);
        cr_assert(!says || refused != TIER_OK || status == TIER_ERR_NO_MEMORY);
        if (refused != TIER_OK) {
            require_refused(request);
        } else {
            cr_assert(only_failed(request) || !strict);
        }
    }
    verify();
}

static void model_alloc(unsigned order, unsigned highest, unsigned flags)
{
    struct request request;

    request.what = BLOCK;
    request.pages = order <= MAX_ORDER ? (size_t)1 << order : 0;
    request.order = order;
    request.highest = highest;
    request.flags = flags;
    model_request(&request);
}

/* Allocate or acquire pages. */
static void model_alloc_run(enum what what, size_t pages, unsigned highest,
                            unsigned flags)
{
    struct request request;

    request.what = what;
    request.pages = pages;
    request.order = 0;
    request.highest = highest;
    request.flags = flags;
    model_request(&request);
}

/* Let used pages be free. */
static void model_release(uint32_t i)
{
    struct model_zone *const zone = &model.zone[model_zone_of(i)];
    const uint32_t pages = model.page[i].pages;

    set_all(i, i + pages, FREE);
    zone->used -= pages;
    model_settle(zone);
}

/* Release what is held at page i, if anything is. */
static void model_return(uint32_t i)
{
    if (!is_head(i) || model.page[i].what != HELD) {
        return;
    }
    const uint32_t pages = model.page[i].pages;

    memset(map.kind + i, TIER_KIND_NONE, pages);
    tier_zones_release(&zones, address_of(model.first + i), pages);
    model_release(i);
    verify();
}

/* Why a pointer cannot be freed, TIER_OK when it can; its page in *index. */
static enum tier_status verdict(const void *block, uint32_t *index)
{
    const uintptr_t page = (uintptr_t)block >> TIERALLOC_PAGE_SHIFT;

    *index = (uint32_t)(page - model.first);
    if (page < model.first || page - model.first >= model.count ||
        model_zone_of(*index) < 0 || model.page[*index].state == GONE) {
        return TIER_ERR_FOREIGN;
    }
    if (model.page[*index].state == FREE) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if (model.page[model.page[*index].state].what == HELD) {
        return TIER_ERR_FOREIGN;
    }
    if ((uintptr_t)block % TIER_PAGE_SIZE != 0) {
        return TIER_ERR_MISALIGNED;
    }
    return is_head(*index) ? TIER_OK : TIER_ERR_INTERIOR;
}

/* The zone that a refused free of an address counts with. */
static uint32_t nearest_zone(const void *address)
{
    const uintptr_t page = (uintptr_t)address >> TIERALLOC_PAGE_SHIFT;
    uint32_t zone = model.zones - 1;

    while (zone > 0 && page < model.first + model.zone[zone].begin) {
        zone--;
    }
    return zone;
}

static void model_free_block(void *block)
{
    uint32_t i;
    const enum tier_status expected = verdict(block, &i);

    remember();
    cr_assert_eq(tier_zones_free(&zones, block),
                 block == NULL ? TIER_OK : expected);
    if (block == NULL) {
        cr_assert(unchanged());
    } else if (expected == TIER_OK) {
        model_release(i);
    } else {
        const uint32_t near = nearest_zone(block);

        cr_assert(only_counted(&zones.zone[near].buddy.refused_frees));
        model.zone[near].refused_frees++;
    }
    verify();
}

static void model_set_owner(void *block, uintptr_t owner)
{
    uint32_t i;
    const enum tier_status expected = verdict(block, &i);

    remember();
    cr_assert_eq(tier_zones_set_owner(&zones, block, owner), expected);
    if (expected == TIER_OK) {
        model.owner[i] = owner;
    } else {
        cr_assert(unchanged());
    }
}

/* Why the block or run at page i cannot be resized, TIER_OK when it can. */
static enum tier_status resizing(uint32_t i, size_t pages,
                                 enum obstacle *obstacle)
{
    const int at = model_zone_of(i);
    const struct model_zone *const zone = &model.zone[at];
    const uint32_t old = model.page[i].pages;
    const size_t left = model_free(zone) - (pages - old);

    *obstacle = NOTHING;
    if (pages <= old) {
        return TIER_OK;
    }
    if (at + 1 != (int)model.zones && left < zone->reserve) {
        *obstacle = RESERVE;
        return TIER_ERR_NO_MEMORY;
    }
    if (left < zone->min) {
        *obstacle = WATERMARK;
        return TIER_ERR_NO_MEMORY;
    }
    if ((model.page[i].what == BLOCK && (model.first + i) % pages != 0) ||
        pages > zone->end - i || !all_are(i + old, i + (uint32_t)pages, FREE)) {
        *obstacle = model.page[i].what == BLOCK ? NO_BLOCK : NO_RUN;
        return TIER_ERR_IN_USE;
    }
    return TIER_OK;
}

/* Let a block or run have so many pages. */
static void model_set_pages(uint32_t i, uint32_t pages)
{
    struct model_zone *const zone = &model.zone[model_zone_of(i)];
    const uint32_t old = model.page[i].pages;

    set_all(i, i + old, FREE);
    set_all(i, i + pages, i);
    model.page[i].pages = (uint16_t)pages;
    zone->used = zone->used - old + pages;
    zone->peak = zone->used > zone->peak ? zone->used : zone->peak;
    model_settle(zone);
}

/* Require that a resize counts what failed. */
static void model_resize_failed(uint32_t i, size_t pages,
                                enum obstacle obstacle)
{
    const unsigned zone = (unsigned)model_zone_of(i);
    struct tier_zone *const at = &zones.zone[zone];
    const bool block = model.page[i].what == BLOCK;

    if (pages == 0 || pages > TIER_RUN_MAX) {
        ++*(block ? &model.zone[zone].refused_allocs
                  : &model.zone[zone].refused_runs);
        cr_assert(only_counted(block ? &at->buddy.refused_allocs
                                     : &at->runs.refused_allocs));
        return;
    }
    model.zone[zone].failed[obstacle]++;
    cr_assert(only_counted(obstacle == NO_BLOCK  ? &at->buddy.failed_allocs
                           : obstacle == NO_RUN  ? &at->runs.failed_allocs
                           : obstacle == RESERVE ? &at->failed_reserve
                                                 : &at->failed_watermark));
}

static void model_resize(void *memory, size_t pages)
{
    uint32_t i;
    const enum tier_status wrong = verdict(memory, &i);
    enum tier_status expected = wrong;
    enum obstacle obstacle = NOTHING;
    size_t rounded = pages;

    if (wrong == TIER_OK && pages == 0) {
        expected = TIER_ERR_INVALID;
    } else if (wrong == TIER_OK && pages > TIER_RUN_MAX) {
        expected = TIER_ERR_TOO_LARGE;
    } else if (wrong == TIER_OK) {
        if (model.page[i].what == BLOCK) {
            rounded = (size_t)1 << order_of(pages);
        }
        expected = resizing(i, rounded, &obstacle);
    }
    remember();
    cr_assert_eq(tier_zones_resize(&zones, memory, pages), expected);
    if (wrong != TIER_OK) {
        const uint32_t near = nearest_zone(memory);

        cr_assert(only_counted(&zones.zone[near].buddy.refused_frees));
        model.zone[near].refused_frees++;
    } else if (expected == TIER_OK) {
        model_set_pages(i, (uint32_t)rounded);
        cr_assert_eq(tier_zones_pages(&zones, memory), rounded);
        cr_assert_eq(tier_zones_owner(&zones, memory), model.owner[i]);
    } else {
        model_resize_failed(i, pages, obstacle);
    }
    verify();
}

static void model_trim(void)
{
    size_t lent = 0;

    for (unsigned i = 0; i < model.zones; i++) {
        lent += stats_of(i).runs.free_pages;
    }
    cr_assert_eq(tier_zones_trim(&zones), lent);
    cr_assert(none_lent());
    verify();
}

/* Gather; then what is contiguous is in one free run, or in largest blocks. */
static void model_gather(void)
{
    size_t before = 0;
    size_t after = 0;

    for (unsigned i = 0; i < model.zones; i++) {
        before += stats_of(i).buddy.free_pages;
    }
    const size_t borrowed = tier_zones_gather(&zones);

    for (unsigned i = 0; i < model.zones; i++) {
        const struct tier_zone_stats stats = stats_of(i);

        after += stats.buddy.free_pages;
        for (unsigned order = 0; order != MAX_ORDER; order++) {
            cr_assert_eq(stats.buddy.free_blocks[order], 0U);
        }
        cr_assert(stats.buddy.free_pages != 0 ||
                  stats.runs.largest_free_pages ==
                      longest_free(&model.zone[i]));
    }
    cr_assert(before - after <= borrowed);
    verify();
}

static void model_mark(unsigned zone, size_t min, size_t low, size_t high)
{
    const bool valid = zone < model.zones && min <= low && low <= high &&
                       high <= model.zone[zone].managed;

    remember();
    cr_assert_eq(tier_zones_set_watermarks(&zones, zone, min, low, high),
                 valid ? TIER_OK : TIER_ERR_INVALID);
    if (valid) {
        model.zone[zone].min = min;
        model.zone[zone].low = low;
        model.zone[zone].high = high;
        model_settle(&model.zone[zone]);
    } else {
        cr_assert(unchanged());
    }
    verify();
}

static void model_reserve(unsigned zone, size_t pages)
{
    const bool valid = zone < model.zones;

    remember();
    cr_assert_eq(tier_zones_set_reserve(&zones, zone, pages),
                 valid ? TIER_OK : TIER_ERR_INVALID);
    if (valid) {
        model.zone[zone].reserve = pages;
    } else {
        cr_assert(unchanged());
    }
    verify();
}

/* --- Random runs ---------------------------------------------------------- */

/* The first page of a live block near a random one; some page if none is. */
static uint32_t random_page(void)
{
    uint32_t i = below(model.count);

    for (uint32_t tries = 0; tries < model.count && !is_head(i); tries++) {
        i = (i + 1) % model.count;
    }
    return i;
}

/* A pointer that is likely wrong to free: in or near the span. */
static void *random_pointer(void)
{
    const uintptr_t page = model.first - 2 + below(model.count + 4);

    switch (below(8)) {
    case 0:
    case 1:
        return byte_of(page, 1 + below((uint32_t)TIER_PAGE_SIZE - 1));
    case 2:
        return (void *)(uintptr_t)test_random(&random_state);
    case 3:
        return NULL;
    default:
        return address_of(page);
    }
}

/* An order; small ones are likelier. Sometimes one that is too large. */
static unsigned random_order(void)
{
    if (below(50) == 0) {
        return MAX_ORDER + 1 + below(70);
    }
    return below(1 + below(MAX_ORDER + 1));
}

static void random_region(void)
{
    const uint32_t begin = below(model.count);
    const uint32_t rest = model.count - begin;
    const uint32_t pages = 1 + below(rest < 9 || below(4) == 0 ? rest : 8);
    const size_t bend = below((uint32_t)TIER_PAGE_SIZE / 2);

    if (below(3) != 0) {
        model_add(begin, begin + pages, bend);
    } else {
        model_remove(begin, begin + pages, bend);
    }
}

/* Set marks that make sense, and now and then some that do not. */
static void random_marks(void)
{
    const unsigned zone = below(model.zones + (below(8) == 0));
    const uint32_t most =
        zone < model.zones ? (uint32_t)model.zone[zone].managed : 8;
    uint32_t high = below(most + 1) / (1 + below(3));
    uint32_t low = below(high + 1);
    const uint32_t min = below(low + 1) + (below(8) == 0);

    high += below(16) == 0 ? most : 0;
    low += below(16) == 0;
    model_mark(zone, min, low, high);
}

/* A number of pages; small ones are likelier. Sometimes a wrong one. */
static size_t random_pages(void)
{
    switch (below(40)) {
    case 0:
        return 0;
    case 1:
        return TIER_RUN_MAX + 1 + below(40);
    case 2:
        return SIZE_MAX - below(40);
    case 3: /* exactly what a zone has, or a page more */
        return longest_free(&model.zone[below(model.zones)]) + below(2);
    default:
        return 1 + below(1 + below(1 + below(40)));
    }
}

/* Do something with runs, or held pages, or any pages. */
static void random_run_step(void)
{
    const uint32_t what = below(100);
    const unsigned highest = below(model.zones + (below(20) == 0));
    const unsigned flags = below(6) == 0 ? below(6) : 0;

    if (what < 35) {
        model_alloc_run(RUN, random_pages(), highest, flags);
    } else if (what < 50) {
        model_alloc_run(HELD, random_pages(), highest, flags);
    } else if (what < 66) {
        model_return(random_page());
    } else if (what < 92) {
        const uint32_t i = random_page();
        void *const memory =
            below(8) == 0 ? random_pointer() : address_of(model.first + i);
        const size_t pages = is_head(i) ? model.page[i].pages : 3;

        model_resize(memory,
                     below(2) == 0 ? random_pages() : pages + 4 - below(7));
    } else if (what < 96) {
        model_trim();
    } else {
        model_gather();
    }
}

static void random_step(void)
{
    const uint32_t what = below(100);

    if (model.mixed && below(2) == 0) {
        random_run_step();
    } else if (what < 45) {
        model_alloc(random_order(), below(model.zones + (below(20) == 0)),
                    below(6) == 0 ? below(6) : 0);
    } else if (what < 75) {
        model_free_block(address_of(model.first + random_page()));
    } else if (what < 82) {
        model_free_block(random_pointer());
    } else if (what < 87) {
        model_set_owner(below(3) == 0 ? random_pointer()
                                      : address_of(model.first + random_page()),
                        (uintptr_t)test_random(&random_state));
    } else if (what < 92) {
        random_region();
    } else if (what < 97) {
        random_marks();
    } else {
        model_reserve(below(model.zones + (below(8) == 0)),
                      below(16) == 0 ? SIZE_MAX : below(20));
    }
}

/* Run on zones with these bounds, all their pages in regions at first. */
static void random_run(uintptr_t first, uint32_t pages,
                       const uint32_t bounds[][2], uint32_t count, bool mixed,
                       uint32_t steps)
{
    set_up_model(first, pages, bounds, count);
    model.mixed = mixed;
    random_state += first ^ pages;
    for (uint32_t i = 0; i < count; i++) {
        model_add(bounds[i][0], bounds[i][1], 0);
    }
    for (uint32_t step = 0; step < steps; step++) {
        random_step();
        if (step % (1 + pages / 4) == 0) {
            verify_pages();
        }
    }
    for (uint32_t i = 0; i < pages; i++) {
        model_return(i);
        if (is_head(i)) {
            model_free_block(address_of(model.first + i));
        }
    }
    model_trim();
    verify_pages();
}

/* Run with blocks alone, and with all that there is. */
static void random_runs(uintptr_t first, uint32_t pages,
                        const uint32_t bounds[][2], uint32_t count,
                        uint32_t steps)
{
    random_run(first, pages, bounds, count, false, steps);
    random_run(first, pages, bounds, count, true, steps);
}

#if TIERALLOC_ZONES >= 3
Test(zones, agree_with_a_model_when_they_touch)
{
    static const uint32_t bounds[][2] = {{0, 13}, {13, 46}, {46, 64}};

    random_runs(MIDDLE - 3, 64, bounds, 3, TIERALLOC_TEST_STEPS);
}

Test(zones, agree_with_a_model_when_there_are_gaps)
{
    static const uint32_t bounds[][2] = {{1, 12}, {15, 47}, {50, 67}};

    random_runs(MIDDLE + 5, 70, bounds, 3, TIERALLOC_TEST_STEPS);
}

Test(zones, agree_with_a_model_when_they_are_large)
{
    static const uint32_t bounds[][2] = {{0, 101}, {101, 600}, {601, SPAN_MAX}};

    random_runs(MIDDLE - 77, SPAN_MAX, bounds, 3, TIERALLOC_TEST_STEPS / 8);
}
#endif

#if TIERALLOC_ZONES >= 2
Test(zones, agree_with_a_model_when_there_are_two)
{
    static const uint32_t bounds[][2] = {{3, 40}, {41, 90}};

    random_runs(MIDDLE - 50, 90, bounds, 2, TIERALLOC_TEST_STEPS / 2);
}
#endif

Test(zones, agree_with_a_model_when_there_is_one)
{
    static const uint32_t bounds[][2] = {{2, 50}};

    random_runs(MIDDLE - 9, 60, bounds, 1, TIERALLOC_TEST_STEPS / 2);
}

#if TIERALLOC_ZONES == 3
/* --- Set-up --------------------------------------------------------------- */

/* True when these ranges over the map are refused like this. */
static bool init_refused(const struct tier_zone_range *ranges, unsigned count,
                         enum tier_status status)
{
    remember();
    return tier_zones_init(&zones, &map, ranges, count) == status &&
           unchanged();
}

/* The same for two zones, of these pages by number. */
static bool pair_refused(uintptr_t begin, uintptr_t end, uintptr_t begin_2,
                         uintptr_t end_2, enum tier_status status)
{
    struct tier_zone_range ranges[2];

    ranges[0] = range_of("low", begin, end);
    ranges[1] = range_of("high", begin_2, end_2);
    return init_refused(ranges, 2, status);
}

Test(zones, refuse_to_be_none_or_too_many)
{
    struct tier_zone_range ranges[TIER_ZONES_MAX + 1];

    set_up_span(FIRST, SPAN);
    for (unsigned i = 0; i <= TIER_ZONES_MAX; i++) {
        ranges[i] = range_of("", FIRST + i, FIRST + i + 1);
    }
    cr_assert(init_refused(ranges, 0, TIER_ERR_INVALID));
    cr_assert(init_refused(ranges, TIER_ZONES_MAX + 1, TIER_ERR_INVALID));
    cr_assert(init_refused(ranges, UINT32_MAX, TIER_ERR_INVALID));
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, TIER_ZONES_MAX),
                 TIER_OK);
}

Test(zones, refuse_a_range_without_a_whole_page)
{
    struct tier_zone_range ranges[2];

    set_up_span(FIRST, SPAN);
    cr_assert(
        pair_refused(FIRST, FIRST, FIRST + 1, FIRST + 2, TIER_ERR_INVALID));
    cr_assert(
        pair_refused(FIRST, FIRST + 1, FIRST + 2, FIRST + 2, TIER_ERR_INVALID));
    ranges[0] = range_of("", FIRST, FIRST + 1);
    ranges[1] = range_of("", FIRST + 4, FIRST + 6);
    ranges[1].base += 1;
    ranges[1].bytes -= 2;
    cr_assert(init_refused(ranges, 2, TIER_ERR_INVALID));
}

Test(zones, refuse_a_range_that_passes_the_end_of_memory)
{
    struct tier_zone_range ranges[2];

    set_up_span(TOP - 9, 10);
    ranges[0] = range_of("", TOP - 9, TOP - 4);
    ranges[1] = range_of("", TOP - 4, TOP + 1);
    ranges[1].bytes += 1;
    cr_assert(init_refused(ranges, 2, TIER_ERR_OVERFLOW));
    ranges[1].bytes = SIZE_MAX;
    cr_assert(init_refused(ranges, 2, TIER_ERR_OVERFLOW));
}

Test(zones, refuse_a_range_that_leaves_the_map)
{
    const uintptr_t end = FIRST + SPAN;

    set_up_span(FIRST, SPAN);
    cr_assert(pair_refused(FIRST - 1, FIRST + 1, FIRST + 1, FIRST + 2,
                           TIER_ERR_FOREIGN));
    cr_assert(
        pair_refused(FIRST - 2, FIRST, FIRST + 1, FIRST + 2, TIER_ERR_FOREIGN));
    cr_assert(
        pair_refused(FIRST, FIRST + 2, end - 1, end + 1, TIER_ERR_FOREIGN));
    cr_assert(pair_refused(FIRST, FIRST + 2, end, end + 1, TIER_ERR_FOREIGN));
    cr_assert(
        pair_refused(FIRST - 1, end + 1, end + 1, end + 2, TIER_ERR_FOREIGN));
}

Test(zones, refuse_ranges_that_overlap_or_are_out_of_order)
{
    struct tier_zone_range ranges[3];

    set_up_span(FIRST, SPAN);
    cr_assert(
        pair_refused(FIRST, FIRST + 2, FIRST + 1, FIRST + 3, TIER_ERR_OVERLAP));
    cr_assert(
        pair_refused(FIRST, FIRST + 9, FIRST + 2, FIRST + 3, TIER_ERR_OVERLAP));
    cr_assert(
        pair_refused(FIRST + 2, FIRST + 3, FIRST, FIRST + 2, TIER_ERR_OVERLAP));
    cr_assert(pair_refused(FIRST + 2, FIRST + 3, FIRST + 2, FIRST + 3,
                           TIER_ERR_OVERLAP));

    /* By a byte, which is cut off either range. */
    ranges[0] = range_of("", FIRST, FIRST + 1);
    ranges[1] = range_of("", FIRST + 2, FIRST + 4);
    ranges[2] = range_of("", FIRST + 4, FIRST + 6);
    ranges[1].bytes += 9;
    ranges[2].base += 8;
    cr_assert(init_refused(ranges, 3, TIER_ERR_OVERLAP));
    ranges[2].base += 1;
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 3), TIER_OK);
}

Test(zones, are_cut_inwards_to_whole_pages)
{
    struct tier_zone_range ranges[2];

    set_up_span(FIRST, SPAN);
    ranges[0] = range_of("", FIRST + 2, FIRST + 5);
    ranges[1] = range_of("", FIRST + 5, FIRST + 9);
    ranges[0].bytes += 1; /* a border inside of page 5, which is in no zone */
    ranges[1].base += 1;
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 2), TIER_OK);
    for (uintptr_t page = 0; page < SPAN; page++) {
        const int expected = page >= 2 && page < 5   ? 0
                             : page >= 6 && page < 9 ? 1
                                                     : -1;

        cr_assert_eq(tier_zones_zone_of(&zones, address_of(FIRST + page)),
                     expected);
        cr_assert_eq(tier_zones_zone_of(
                         &zones, byte_of(FIRST + page, TIER_PAGE_SIZE - 1)),
                     expected);
    }
    cr_assert_eq(tier_zones_add(&zones, address_of(FIRST + 2), bytes_of(7)),
                 TIER_ERR_FOREIGN);
}

Test(zones, may_reach_from_one_end_of_memory_to_its_other)
{
    struct tier_zone_range ranges[3];

    set_up_span(TOP - 20, 21);
    ranges[0] = range_of("", TOP - 20, TOP - 10);
    ranges[1] = range_of("", TOP - 10, TOP);
    ranges[2] = range_of("", TOP, TOP + 1);
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 3), TIER_OK);
    add_pages(TOP - 20, TOP + 1);
    cr_assert_eq(tier_zones_alloc(&zones, 0, 2), address_of(TOP));
    cr_assert_eq(tier_zones_zone_of(&zones, (void *)UINTPTR_MAX), 2);
    cr_assert_eq(take_page(2), 1);
    cr_assert_eq(tier_zones_free(&zones, address_of(TOP)), TIER_OK);
    cr_assert_eq(remove_pages(TOP - 20, TOP - 11), TIER_OK);
    cr_assert_eq(remove_pages(TOP, TOP + 1), TIER_OK);
    cr_assert(tier_zones_check(&zones));

    /* The page at address 0 is in no zone: NULL is no block. */
    set_up_span(0, 21);
    ranges[0] = range_of("", 0, 10);
    ranges[1] = range_of("", 10, 21);
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 2), TIER_OK);
    cr_assert_eq(tier_zones_zone_of(&zones, NULL), -1);
    cr_assert_eq(tier_zones_zone_of(&zones, address_of(1)), 0);
    add_pages(0, 21);
    cr_assert_eq(take_all(1, 0), 20U);
    cr_assert_eq(remove_pages(0, 2), TIER_ERR_IN_USE);
    cr_assert_eq(remove_pages(0, 1), TIER_ERR_INVALID);
    for (uintptr_t page = 1; page < 21; page++) {
        cr_assert_eq(tier_zones_free(&zones, address_of(page)), TIER_OK);
    }
    cr_assert_eq(remove_pages(0, 21), TIER_OK, "as it was added");
}

Test(zones, refuse_the_memory_of_their_own_map)
{
    struct tier_zone_range whole;
    void *const inside = test_align(metadata_room, TIER_PAGE_SIZE);

    whole.name = "all";
    whole.base = (uintptr_t)metadata_room;
    whole.bytes = sizeof(metadata_room);
    if (whole.bytes < TIER_PAGE_SIZE * 2) {
        return; /* it may hold no whole page */
    }
    memset(&map, 0xA5, sizeof(map));
    cr_assert_eq(tier_pagemap_init(&map, whole.base, whole.bytes, inside,
                                   TIER_PAGE_SIZE),
                 TIER_OK);
    cr_assert_eq(tier_zones_init(&zones, &map, &whole, 1), TIER_OK);
    cr_assert_eq(tier_zones_add(&zones, metadata_room, sizeof(metadata_room)),
                 TIER_ERR_OVERLAP);
    cr_assert(tier_zones_check(&zones));
}

Test(zones, begin_with_nothing)
{
    set_up();
    for (unsigned zone = 0; zone < 3; zone++) {
        const struct tier_zone_stats stats = stats_of(zone);

        cr_assert_eq(stats.buddy.managed_pages, 0U);
        cr_assert_eq(stats.buddy.free_pages, 0U);
        cr_assert_eq(stats.buddy.largest_free_order, -1);
        cr_assert_eq(stats.failed_reserve, 0U);
        cr_assert_eq(stats.failed_watermark, 0U);
        cr_assert_eq(stats.fallbacks, 0U);
        cr_assert_eq(stats.min_pages + stats.low_pages + stats.high_pages, 0U);
        cr_assert_eq(stats.reserve_pages, 0U);
        cr_assert(!stats.is_low);
        cr_assert_null(tier_zones_alloc(&zones, 0, zone));
        cr_assert_eq(stats_of(zone).buddy.failed_allocs, 1U);
    }
    cr_assert_eq(stats_of(DMA).name[0], 'D');
    cr_assert_eq(stats_of(HIGH).name[0], 'H');
    cr_assert(tier_zones_check(&zones));
    cr_assert_eq(seen.total, 0U);
}

Test(zones, take_as_much_room_as_documented)
{
    if (sizeof(void *) == 8) {
        cr_assert(sizeof(struct tier_zone) - sizeof(struct tier_buddy) -
                      sizeof(struct tier_runs) <=
                  80);
    }
}

/* --- Regions -------------------------------------------------------------- */

/* True when adding these pages by number is refused like this. */
static bool add_refused(uintptr_t begin, uintptr_t end, enum tier_status status)
{
    remember();
    return tier_zones_add(&zones, address_of(begin), bytes_of(end - begin)) ==
               status &&
           unchanged() && seen.total == 0;
}

static bool remove_refused(uintptr_t begin, uintptr_t end,
                           enum tier_status status)
{
    remember();
    return remove_pages(begin, end) == status && unchanged() && seen.total == 0;
}

Test(zones, divide_a_region_at_their_borders)
{
    set_up();
    add_pages(NORMAL_BEGIN - 5, NORMAL_BEGIN + 3);
    cr_assert_eq(free_in(DMA), 5U);
    cr_assert_eq(free_in(NORMAL), 3U);
    cr_assert_eq(free_in(HIGH), 0U);
    add_pages(DMA_BEGIN, NORMAL_BEGIN - 5);
    add_pages(NORMAL_BEGIN + 3, NORMAL_END);
    cr_assert_eq(free_in(DMA), DMA_PAGES);
    cr_assert_eq(free_in(NORMAL), NORMAL_PAGES);
    cr_assert_eq(remove_pages(NORMAL_BEGIN - 1, NORMAL_BEGIN + 1), TIER_OK);
    cr_assert_eq(free_in(DMA), DMA_PAGES - 1);
    cr_assert_eq(free_in(NORMAL), NORMAL_PAGES - 1);
    cr_assert(tier_zones_check(&zones));
}

Test(zones, divide_a_region_among_all_of_them)
{
    static const uint32_t bounds[][2] = {{0, 11}, {11, 13}, {13, 31}};

    set_up_model(FIRST, 31, bounds, 3);
    model_add(0, 31, 0);
    model_remove(10, 14, 0);
    model_add(10, 14, 7);
    model_remove(0, 31, 3);
    model_add(0, 31, 0);
    verify_pages();
}

Test(zones, refuse_a_region_that_is_partly_in_none)
{
    set_up();
    cr_assert(add_refused(DMA_BEGIN - 1, DMA_BEGIN + 4, TIER_ERR_FOREIGN));
    cr_assert(add_refused(DMA_BEGIN - 1, DMA_BEGIN, TIER_ERR_FOREIGN));
    cr_assert(add_refused(DMA_BEGIN, NORMAL_END + 1, TIER_ERR_FOREIGN));
    cr_assert(add_refused(NORMAL_END - 1, HIGH_BEGIN + 1, TIER_ERR_FOREIGN));
    cr_assert(add_refused(NORMAL_END, HIGH_BEGIN, TIER_ERR_FOREIGN));
    cr_assert(add_refused(HIGH_BEGIN, HIGH_END + 1, TIER_ERR_FOREIGN));
    cr_assert(add_refused(FIRST - 9, FIRST - 1, TIER_ERR_FOREIGN));
    cr_assert(add_refused(FIRST, FIRST + SPAN + 2, TIER_ERR_FOREIGN));
    cr_assert(add_refused(FIRST + SPAN, FIRST + SPAN + 2, TIER_ERR_FOREIGN));
    set_up_full();
    cr_assert(remove_refused(DMA_BEGIN - 1, DMA_BEGIN + 4, TIER_ERR_FOREIGN));
    cr_assert(remove_refused(DMA_BEGIN, NORMAL_END + 1, TIER_ERR_FOREIGN));
    cr_assert(remove_refused(NORMAL_END, HIGH_BEGIN, TIER_ERR_FOREIGN));
    cr_assert(remove_refused(NORMAL_END - 1, HIGH_BEGIN + 1, TIER_ERR_FOREIGN));
    cr_assert(remove_refused(FIRST + SPAN, FIRST + SPAN + 2, TIER_ERR_FOREIGN));
}

Test(zones, refuse_what_is_no_range_of_pages)
{
    set_up_full();
    cr_assert(add_refused(DMA_BEGIN, DMA_BEGIN, TIER_ERR_INVALID));
    cr_assert(remove_refused(DMA_BEGIN, DMA_BEGIN, TIER_ERR_INVALID));
    cr_assert_eq(tier_zones_add(&zones, byte_of(DMA_BEGIN, 1), TIER_PAGE_SIZE),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_zones_add(&zones, address_of(DMA_BEGIN), SIZE_MAX),
                 TIER_ERR_OVERFLOW);
    cr_assert_eq(tier_zones_remove(&zones, address_of(DMA_BEGIN), SIZE_MAX),
                 TIER_ERR_OVERFLOW);
    cr_assert(unchanged());
}

Test(zones, add_all_of_a_region_or_nothing)
{
    set_up();
    add_pages(NORMAL_BEGIN + 2, NORMAL_BEGIN + 4);
    cr_assert(add_refused(DMA_BEGIN, NORMAL_BEGIN + 3, TIER_ERR_OVERLAP));
    cr_assert(add_refused(DMA_BEGIN, NORMAL_END, TIER_ERR_OVERLAP));
    cr_assert(
        add_refused(NORMAL_BEGIN + 3, NORMAL_BEGIN + 9, TIER_ERR_OVERLAP));
    cr_assert_eq(take_page(HIGH), NORMAL);
    cr_assert(add_refused(DMA_BEGIN, NORMAL_BEGIN + 3, TIER_ERR_OVERLAP));
    cr_assert(
        add_refused(NORMAL_BEGIN + 3, NORMAL_BEGIN + 4, TIER_ERR_OVERLAP));
    add_pages(DMA_BEGIN, NORMAL_BEGIN + 2);
    cr_assert(add_refused(NORMAL_BEGIN - 1, NORMAL_BEGIN, TIER_ERR_OVERLAP));
}

Test(zones, remove_all_of_a_region_or_nothing)
{
    set_up_full();
    for (size_t i = 0; i < NORMAL_PAGES; i++) {
        cr_assert_eq(take_page(NORMAL), NORMAL);
    }
    cr_assert(
        remove_refused(NORMAL_BEGIN - 2, NORMAL_BEGIN + 1, TIER_ERR_IN_USE));
    free_some(NORMAL, 5);
    cr_assert(
        remove_refused(NORMAL_BEGIN - 2, NORMAL_BEGIN + 6, TIER_ERR_IN_USE));
    cr_assert_eq(remove_pages(NORMAL_BEGIN - 2, NORMAL_BEGIN + 5), TIER_OK);
    cr_assert(
        remove_refused(NORMAL_BEGIN - 3, NORMAL_BEGIN - 1, TIER_ERR_IN_USE));
}

Test(zones, keep_as_many_pages_as_their_high_mark)
{
    set_up_full();
    mark(DMA, 1, 2, 10);
    cr_assert(remove_refused(DMA_BEGIN, DMA_BEGIN + 10, TIER_ERR_INVALID));
    cr_assert(
        remove_refused(NORMAL_BEGIN - 10, NORMAL_BEGIN + 1, TIER_ERR_INVALID));
    cr_assert_eq(remove_pages(DMA_BEGIN, DMA_BEGIN + 9), TIER_OK);
    cr_assert(remove_refused(DMA_BEGIN + 9, DMA_BEGIN + 10, TIER_ERR_INVALID));
    mark(DMA, 0, 0, 0);
    cr_assert_eq(remove_pages(DMA_BEGIN + 9, NORMAL_END), TIER_OK);
    cr_assert_eq(stats_of(DMA).buddy.managed_pages, 0U);
    cr_assert_eq(seen.total, 0U);
}

/* --- Borders -------------------------------------------------------------- */

/* Blocks of an order that fit in pages [begin, end), each aligned. */
static size_t fitting_blocks(uintptr_t begin, uintptr_t end, unsigned order)
{
    const uintptr_t first = ((begin - 1) >> order) + 1;

    return (end >> order) > first ? (end >> order) - first : 0;
}

/* True when two snapshots name the same free blocks. */
static bool same_free(const struct tier_zone_stats *a,
                      const struct tier_zone_stats *b)
{
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        if (a->buddy.free_blocks[order] != b->buddy.free_blocks[order]) {
            return false;
        }
    }
    return a->buddy.free_pages == b->buddy.free_pages;
}

Test(zones, fill_with_blocks_of_which_none_lies_across_a_border)
{
    static void *blocks[SPAN];

    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        size_t count = 0;
        void *block;

        set_up_full();
        const struct tier_zone_stats before[] = {
            stats_of(DMA), stats_of(NORMAL), stats_of(HIGH)};

        while ((block = tier_zones_alloc(&zones, order, HIGH)) != NULL) {
            void *const last =
                (void *)((uintptr_t)block + bytes_of((size_t)1 << order) - 1);

            cr_assert_neq(tier_zones_zone_of(&zones, block), -1);
            cr_assert_eq(tier_zones_zone_of(&zones, block),
                         tier_zones_zone_of(&zones, last));
            blocks[count++] = block;
        }
        cr_assert_eq(count,
                     fitting_blocks(DMA_BEGIN, NORMAL_BEGIN, order) +
                         fitting_blocks(NORMAL_BEGIN, NORMAL_END, order) +
                         fitting_blocks(HIGH_BEGIN, HIGH_END, order));
        while (count > 0) {
            cr_assert_eq(tier_zones_free(&zones, blocks[--count]), TIER_OK);
            cr_assert(tier_zones_check(&zones));
        }
        for (unsigned zone = 0; zone < 3; zone++) {
            const struct tier_zone_stats after = stats_of(zone);

            cr_assert(same_free(&before[zone], &after));
        }
    }
}

Test(zones, do_not_coalesce_the_halves_of_a_block_on_either_side_of_a_border)
{
    struct tier_zone_range ranges[2];

    set_up_span(MIDDLE, 8);
    ranges[0] = range_of("", MIDDLE, MIDDLE + 1); /* buddy of page 1 */
    ranges[1] = range_of("", MIDDLE + 1, MIDDLE + 8);
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 2), TIER_OK);
    add_pages(MIDDLE, MIDDLE + 8);
    cr_assert_eq(stats_of(0).buddy.free_blocks[0], 1U);
    cr_assert_eq(stats_of(1).buddy.free_blocks[0], MAX_ORDER == 0 ? 7U : 1U);
    cr_assert_eq(tier_zones_alloc(&zones, 0, 0), address_of(MIDDLE));
    cr_assert_eq(tier_zones_free(&zones, address_of(MIDDLE)), TIER_OK);
    cr_assert_eq(stats_of(0).buddy.free_blocks[0], 1U);
    cr_assert(tier_zones_check(&zones));
}

Test(zones, are_found_by_any_address)
{
    set_up();
    for (uintptr_t page = FIRST - 5; page < FIRST + SPAN + 5; page++) {
        const int expected = page >= DMA_BEGIN && page < NORMAL_BEGIN ? DMA
                             : page >= NORMAL_BEGIN && page < NORMAL_END
                                 ? NORMAL
                             : page >= HIGH_BEGIN && page < HIGH_END ? HIGH
                                                                     : -1;

        cr_assert_eq(tier_zones_zone_of(&zones, address_of(page)), expected);
        cr_assert_eq(
            tier_zones_zone_of(&zones, byte_of(page, TIER_PAGE_SIZE - 1)),
            expected);
    }
    cr_assert_eq(tier_zones_zone_of(&zones, NULL), -1);
    cr_assert_eq(tier_zones_zone_of(&zones, (void *)UINTPTR_MAX), -1);
}

/* --- Fallback and reserves ------------------------------------------------ */

Test(zones, serve_from_the_zone_asked_for_and_then_from_lower_ones)
{
    set_up_full();
    for (size_t i = 0; i < HIGH_PAGES; i++) {
        cr_assert_eq(take_page(HIGH), HIGH);
    }
    for (size_t i = 0; i < NORMAL_PAGES; i++) {
        cr_assert_eq(take_page(HIGH), NORMAL);
    }
    for (size_t i = 0; i < DMA_PAGES; i++) {
        cr_assert_eq(take_page(HIGH), DMA);
    }
    cr_assert_eq(take_page(HIGH), -1);
    cr_assert_eq(stats_of(HIGH).fallbacks, 0U);
    cr_assert_eq(stats_of(NORMAL).fallbacks, NORMAL_PAGES);
    cr_assert_eq(stats_of(DMA).fallbacks, DMA_PAGES);
    for (unsigned zone = 0; zone < 3; zone++) {
        cr_assert_eq(stats_of(zone).buddy.failed_allocs, 1U);
    }
}

Test(zones, never_serve_from_a_zone_above_the_one_asked_for)
{
    set_up_full();
    cr_assert_eq(take_all(DMA, 0), DMA_PAGES);
    cr_assert_eq(free_in(NORMAL), NORMAL_PAGES);
    cr_assert_eq(take_all(NORMAL, EMERGENCY), NORMAL_PAGES);
    cr_assert_eq(free_in(HIGH), HIGH_PAGES);
    cr_assert_eq(stats_of(DMA).fallbacks, 0U);
    cr_assert_eq(stats_of(HIGH).buddy.failed_allocs, 0U);
}

Test(zones, fall_back_for_want_of_a_block_that_is_large_enough)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_full();
    while (take_page(HIGH) == HIGH) {
    }
    free_some(HIGH, 1);
    void *const pair = tier_zones_alloc(&zones, 1, HIGH);

    cr_assert_eq(tier_zones_zone_of(&zones, pair), NORMAL);
    cr_assert_eq(free_in(HIGH), 1U);
    cr_assert_eq(take_page(HIGH), HIGH);
}

Test(zones, keep_their_reserve_from_requests_that_name_a_higher_zone)
{
    set_up_full();
    reserve(DMA, 7);
    reserve(NORMAL, 11);
    cr_assert_eq(take_all(HIGH, 0), HIGH_PAGES + NORMAL_PAGES + DMA_PAGES - 18);
    cr_assert_eq(free_in(NORMAL), 11U);
    cr_assert_eq(free_in(DMA), 7U);
    cr_assert_eq(stats_of(HIGH).buddy.failed_allocs, 1U);
    cr_assert_eq(stats_of(NORMAL).failed_reserve, 1U);
    cr_assert_eq(stats_of(DMA).failed_reserve, 1U);

    cr_assert_eq(take_all(NORMAL, 0), 11U);
    cr_assert_eq(free_in(DMA), 7U);
    cr_assert_eq(stats_of(DMA).failed_reserve, 2U);

    cr_assert_eq(take_all(DMA, 0), 7U);
    cr_assert_eq(stats_of(DMA).buddy.failed_allocs, 1U);
}

Test(zones, keep_their_reserve_from_emergencies_too)
{
    set_up_full();
    mark(DMA, 3, 3, 3);
    reserve(DMA, 7);
    cr_assert_eq(take_all(NORMAL, EMERGENCY), NORMAL_PAGES + DMA_PAGES - 7);
    cr_assert_eq(take_all(DMA, 0), 4U);
    cr_assert_eq(take_all(DMA, EMERGENCY), 3U);
}

Test(zones, let_a_reserve_be_greater_than_a_zone)
{
    set_up_full();
    reserve(DMA, SIZE_MAX);
    cr_assert_eq(take_all(NORMAL, EMERGENCY), NORMAL_PAGES);
    cr_assert_eq(stats_of(DMA).failed_reserve, 1U);
    cr_assert_eq(stats_of(DMA).fallbacks, 0U);
    cr_assert_eq(take_all(DMA, 0), DMA_PAGES);
}

Test(zones, count_a_block_against_the_reserve_with_all_its_pages)
{
    void *block;

    if (MAX_ORDER < 2) {
        return;
    }
    set_up_full();
    cr_assert_eq(take_all(HIGH, 0), HIGH_PAGES + NORMAL_PAGES + DMA_PAGES);
    for (uintptr_t page = NORMAL_BEGIN; page < NORMAL_BEGIN + 9; page++) {
        cr_assert_eq(tier_zones_free(&zones, address_of(page)), TIER_OK);
    }
    reserve(NORMAL, 6);
    cr_assert_eq(tier_zones_try_alloc(&zones, 2, HIGH, 0, &block),
                 TIER_ERR_NO_MEMORY);
    cr_assert_eq(stats_of(NORMAL).failed_reserve, 1U);
    reserve(NORMAL, 5);
    cr_assert_eq(tier_zones_try_alloc(&zones, 2, HIGH, 0, &block), TIER_OK);
    cr_assert_eq(free_in(NORMAL), 5U);
}

/* --- Emergencies ---------------------------------------------------------- */

Test(zones, serve_nobody_below_min_but_in_an_emergency)
{
    set_up_full();
    mark(DMA, 5, 5, 5);
    cr_assert_eq(take_all(DMA, 0), DMA_PAGES - 5);
    cr_assert_eq(free_in(DMA), 5U);
    cr_assert_eq(stats_of(DMA).failed_watermark, 1U);
    cr_assert_null(tier_zones_alloc(&zones, 0, DMA));
    cr_assert_eq(stats_of(DMA).failed_watermark, 2U);
    cr_assert_eq(stats_of(DMA).buddy.failed_allocs, 0U);

    cr_assert_eq(take_all(DMA, EMERGENCY), 5U);
    cr_assert_eq(free_in(DMA), 0U);
    cr_assert_eq(stats_of(DMA).failed_watermark, 2U);
    cr_assert_eq(stats_of(DMA).buddy.failed_allocs, 1U);

    free_some(DMA, 6);
    cr_assert_eq(take_all(DMA, 0), 1U);
}

Test(zones, keep_min_from_requests_that_name_a_higher_zone)
{
    set_up_full();
    mark(DMA, 5, 5, 5);
    mark(NORMAL, 2, 2, 2);
    reserve(DMA, 3); /* less than min, which therefore holds */
    cr_assert_eq(take_all(NORMAL, 0), NORMAL_PAGES - 2 + DMA_PAGES - 5);
    cr_assert_eq(stats_of(DMA).failed_watermark, 1U);
    cr_assert_eq(stats_of(DMA).failed_reserve, 0U);
    cr_assert_eq(take_all(NORMAL, EMERGENCY), 2U + 2U);
    cr_assert_eq(free_in(DMA), 3U);
    cr_assert_eq(stats_of(DMA).failed_reserve, 1U);
}

Test(zones, spend_what_is_kept_for_emergencies_last)
{
    set_up_full();
    mark(HIGH, 4, 4, 4);
    for (size_t i = 0; i < HIGH_PAGES - 4; i++) {
        cr_assert_eq(take_page(HIGH), HIGH);
    }
    for (size_t i = 0; i < NORMAL_PAGES + DMA_PAGES; i++) {
        void *page;

        cr_assert_eq(tier_zones_try_alloc(&zones, 0, HIGH, EMERGENCY, &page),
                     TIER_OK);
        cr_assert_neq(tier_zones_zone_of(&zones, page), HIGH);
    }
    cr_assert_eq(free_in(HIGH), 4U);
    cr_assert_eq(take_page(HIGH), -1);
    cr_assert_eq(take_all(HIGH, EMERGENCY), 4U);
}

/* --- Watermarks ----------------------------------------------------------- */

Test(zones, call_back_once_when_fewer_than_low_pages_are_free)
{
    set_up_full();
    mark(DMA, 1, 4, 8);
    for (size_t left = DMA_PAGES - 1; left >= 4; left--) {
        cr_assert_eq(take_page(DMA), DMA);
        cr_assert_eq(seen.total, 0U);
    }
    cr_assert_eq(take_page(DMA), DMA);
    cr_assert(saw(1, DMA, TIER_ZONE_LOW));
    cr_assert_eq(take_all(DMA, EMERGENCY), 3U);
    cr_assert(saw(1, DMA, TIER_ZONE_LOW));
}

Test(zones, call_back_once_when_high_pages_are_free_again)
{
    set_up_full();
    mark(DMA, 1, 4, 8);
    cr_assert_eq(take_all(DMA, EMERGENCY), DMA_PAGES);
    for (size_t left = 1; left < 8; left++) {
        free_some(DMA, 1);
        cr_assert_eq(seen.total, 1U);
        cr_assert(stats_of(DMA).is_low);
    }
    free_some(DMA, 1);
    cr_assert(saw(2, DMA, TIER_ZONE_OK));
    free_some(DMA, DMA_PAGES - 8);
    cr_assert(saw(2, DMA, TIER_ZONE_OK));
}

Test(zones, call_back_about_nothing_between_low_and_high)
{
    set_up_full();
    mark(DMA, 0, 4, 8);
    cr_assert_eq(take_all(DMA, 0), DMA_PAGES);
    for (size_t round = 0; round < 20; round++) {
        free_some(DMA, 7);
        cr_assert_eq(take_all(DMA, 0), 7U);
    }
    cr_assert_eq(seen.total, 1U);
    free_some(DMA, 8);
    for (size_t round = 0; round < 20; round++) {
        for (size_t i = 0; i < 4; i++) {
            cr_assert_eq(take_page(DMA), DMA);
        }
        free_some(DMA, 4);
    }
    cr_assert_eq(seen.total, 2U);
}

Test(zones, call_back_twice_a_round_from_end_to_end)
{
    set_up_full();
    mark(NORMAL, 2, 6, 6);
    for (size_t round = 1; round <= 20; round++) {
        cr_assert_eq(take_all(NORMAL, EMERGENCY),
                     NORMAL_PAGES + (round == 1 ? DMA_PAGES : 0));
        cr_assert_eq(seen.count[NORMAL][TIER_ZONE_LOW], round);
        free_some(NORMAL, NORMAL_PAGES);
        cr_assert_eq(seen.count[NORMAL][TIER_ZONE_OK], round);
    }
    cr_assert_eq(seen.total, 40U);
}

Test(zones, call_back_about_a_block_of_many_pages)
{
    const unsigned order = MAX_ORDER < 3 ? MAX_ORDER : 3;
    const size_t pages = (size_t)1 << order;
    void *block;

    set_up_full();
    mark(NORMAL, 0, NORMAL_PAGES - pages + 1, NORMAL_PAGES);
    block = tier_zones_alloc(&zones, order, NORMAL);
    cr_assert(saw(1, NORMAL, TIER_ZONE_LOW));
    cr_assert_eq(tier_zones_free(&zones, block), TIER_OK);
    cr_assert(saw(2, NORMAL, TIER_ZONE_OK));
    mark(NORMAL, 0, NORMAL_PAGES - pages, NORMAL_PAGES);
    block = tier_zones_alloc(&zones, order, NORMAL);
    cr_assert_eq(tier_zones_free(&zones, block), TIER_OK);
    cr_assert_eq(seen.total, 2U);
}

Test(zones, call_back_about_the_zone_that_was_fallen_back_to)
{
    set_up_full();
    mark(DMA, 0, DMA_PAGES, DMA_PAGES);
    cr_assert_eq(take_all(NORMAL, 0), NORMAL_PAGES + DMA_PAGES);
    cr_assert(saw(1, DMA, TIER_ZONE_LOW));
    free_some(NORMAL, NORMAL_PAGES);
    cr_assert_eq(seen.total, 1U);
    free_some(DMA, DMA_PAGES);
    cr_assert(saw(2, DMA, TIER_ZONE_OK));
}

Test(zones, call_back_when_marks_move_past_the_free_pages)
{
    set_up_full();
    mark(DMA, 0, DMA_PAGES, DMA_PAGES);
    cr_assert_eq(seen.total, 0U);
    cr_assert_eq(take_page(DMA), DMA);
    cr_assert(saw(1, DMA, TIER_ZONE_LOW));
    mark(DMA, 0, 1, DMA_PAGES);
    cr_assert_eq(seen.total, 1U);
    mark(DMA, 0, 0, DMA_PAGES - 1);
    cr_assert(saw(2, DMA, TIER_ZONE_OK));
    mark(DMA, 0, DMA_PAGES - 1, DMA_PAGES);
    cr_assert_eq(seen.total, 2U);
    mark(DMA, 0, DMA_PAGES, DMA_PAGES);
    cr_assert(saw(3, DMA, TIER_ZONE_LOW));
    mark(DMA, 0, 0, 0);
    cr_assert(saw(4, DMA, TIER_ZONE_OK));
}

Test(zones, call_back_when_regions_come_and_go)
{
    set_up_full();
    mark(DMA, 0, 9, 10);
    mark(NORMAL, 0, 9, 10);
    for (size_t i = 0; i < 8; i++) {
        cr_assert_eq(take_page(DMA), DMA);
        cr_assert_eq(take_page(NORMAL), NORMAL);
    }
    cr_assert_eq(seen.total, 0U);
    for (uintptr_t page = DMA_BEGIN; page < NORMAL_END; page++) {
        (void)remove_pages(page, page + 1); /* but the sixteen in use */
    }
    cr_assert_eq(stats_of(DMA).buddy.managed_pages, 10U);
    cr_assert_eq(stats_of(NORMAL).buddy.managed_pages, 10U);
    cr_assert_eq(seen.count[DMA][TIER_ZONE_LOW], 1U);
    cr_assert_eq(seen.count[NORMAL][TIER_ZONE_LOW], 1U);
    for (uintptr_t page = DMA_BEGIN; page < NORMAL_END; page++) {
        (void)tier_zones_add(&zones, address_of(page), TIER_PAGE_SIZE);
    }
    cr_assert_eq(seen.count[DMA][TIER_ZONE_OK], 1U);
    cr_assert_eq(seen.count[NORMAL][TIER_ZONE_OK], 1U);
    cr_assert_eq(seen.total, 4U);
}

Test(zones, call_back_about_each_zone_of_a_divided_region)
{
    set_up_full();
    cr_assert_eq(take_all(NORMAL, 0), DMA_PAGES + NORMAL_PAGES);
    for (uintptr_t page = DMA_BEGIN + 1; page < NORMAL_END - 1; page++) {
        cr_assert_eq(tier_zones_free(&zones, address_of(page)), TIER_OK);
    }
    mark(DMA, 0, DMA_PAGES - 1, DMA_PAGES - 1);
    mark(NORMAL, 0, NORMAL_PAGES - 1, NORMAL_PAGES - 1);
    cr_assert_eq(seen.total, 0U);
    cr_assert_eq(remove_pages(NORMAL_BEGIN - 1, NORMAL_BEGIN + 1), TIER_OK);
    cr_assert_eq(seen.count[DMA][TIER_ZONE_LOW], 1U);
    cr_assert_eq(seen.count[NORMAL][TIER_ZONE_LOW], 1U);
    add_pages(NORMAL_BEGIN - 1, NORMAL_BEGIN + 1);
    cr_assert_eq(seen.count[DMA][TIER_ZONE_OK], 1U);
    cr_assert_eq(seen.count[NORMAL][TIER_ZONE_OK], 1U);
    cr_assert_eq(seen.total, 4U);
}

Test(zones, tell_nobody_until_there_is_a_callback)
{
    struct tier_zone_range range = range_of("", FIRST, FIRST + 9);

    set_up_span(FIRST, SPAN);
    cr_assert_eq(tier_zones_init(&zones, &map, &range, 1), TIER_OK);
    add_pages(FIRST, FIRST + 9);
    mark(0, 0, 9, 9);
    cr_assert_eq(take_page(0), 0);
    cr_assert(stats_of(0).is_low);
}

Test(zones, note_crossings_that_nobody_is_told_of)
{
    set_up_full();
    tier_zones_set_callback(&zones, NULL, NULL);
    mark(DMA, 0, 4, 8);
    cr_assert_eq(take_all(DMA, 0), DMA_PAGES);
    cr_assert(stats_of(DMA).is_low);
    watch();
    cr_assert_eq(seen.total, 0U);
    free_some(DMA, 8);
    cr_assert(saw(1, DMA, TIER_ZONE_OK));
    cr_assert(!stats_of(DMA).is_low);
}

Test(zones, call_back_about_no_request_that_fails_or_is_refused)
{
    void *block;

    set_up_full();
    mark(DMA, 8, 8, 8);
    cr_assert_eq(take_all(DMA, 0), DMA_PAGES - 8);
    remember();
    cr_assert_eq(tier_zones_try_alloc(&zones, MAX_ORDER + 1, DMA, 0, &block),
                 TIER_ERR_TOO_LARGE);
    cr_assert(only_counted(&zones.zone[DMA].buddy.refused_allocs));
    cr_assert_null(tier_zones_alloc(&zones, 0, DMA));
    cr_assert(only_counted(&zones.zone[DMA].failed_watermark));
    cr_assert_eq(seen.total, 0U);
}

Test(zones, refuse_marks_that_are_out_of_order_or_too_high)
{
    static const size_t marks[][3] = {
        {2, 1, 3},
        {1, 3, 2},
        {SIZE_MAX, 1, 2},
        {0, SIZE_MAX, 2},
        {0, 0, DMA_PAGES + 1},
        {DMA_PAGES + 1, DMA_PAGES + 1, DMA_PAGES + 1},
        {0, 0, SIZE_MAX},
    };

    set_up_full();
    remember();
    for (size_t i = 0; i < COUNT(marks); i++) {
        cr_assert_eq(tier_zones_set_watermarks(&zones, DMA, marks[i][0],
                                               marks[i][1], marks[i][2]),
                     TIER_ERR_INVALID);
        cr_assert(unchanged());
    }
    for (size_t i = 0; i < COUNT(no_zones); i++) {
        cr_assert_eq(tier_zones_set_watermarks(&zones, no_zones[i], 0, 0, 0),
                     TIER_ERR_INVALID);
        cr_assert_eq(tier_zones_set_reserve(&zones, no_zones[i], 1),
                     TIER_ERR_INVALID);
        cr_assert(unchanged());
    }
    mark(DMA, DMA_PAGES, DMA_PAGES, DMA_PAGES);
    cr_assert_null(tier_zones_alloc(&zones, 0, DMA));
}

/* --- Calls from the callback ---------------------------------------------- */

static void *kept[8];
static size_t kept_count;

/* Reclaim: free all that is kept. */
static void then_free_kept(void)
{
    if (seen.event != TIER_ZONE_LOW) {
        return; /* brought about by the below */
    }
    while (kept_count > 0) {
        cr_assert_eq(tier_zones_free(&zones, kept[--kept_count]), TIER_OK);
    }
}

Test(zones, may_be_freed_to_by_the_callback)
{
    set_up_full();
    mark(DMA, 0, 6, 8);
    for (kept_count = 0; kept_count < 8;) {
        kept[kept_count++] = tier_zones_alloc(&zones, 0, DMA);
    }
    seen.then = then_free_kept;
    while (kept_count > 0) {
        void *const page = tier_zones_alloc(&zones, 0, DMA);

        cr_assert_not_null(page);
        cr_assert_eq(tier_zones_order(&zones, page), 0);
    }
    cr_assert(saw(2, DMA, TIER_ZONE_OK));
    cr_assert_eq(free_in(DMA), 5U + 8U);
    cr_assert(tier_zones_check(&zones));
}

/* Take from the zone that is low, and change its marks. */
static void then_take_and_mark(void)
{
    seen.then = NULL;
    cr_assert_eq(take_page(DMA), DMA);
    mark(DMA, 0, 0, 0);
    cr_assert(saw(2, DMA, TIER_ZONE_OK));
    cr_assert_eq(remove_pages(HIGH_BEGIN, HIGH_END), TIER_OK);
}

Test(zones, may_be_allocated_from_and_set_by_the_callback)
{
    set_up_full();
    mark(DMA, 0, DMA_PAGES, DMA_PAGES);
    seen.then = then_take_and_mark;
    void *const page = tier_zones_alloc(&zones, 0, DMA);

    cr_assert_eq(tier_zones_order(&zones, page), 0);
    cr_assert_eq(free_in(DMA), DMA_PAGES - 2);
    cr_assert_eq(seen.total, 2U);
    cr_assert(!stats_of(DMA).is_low);
    cr_assert(tier_zones_check(&zones));
}

/* Give NORMAL back the page that it lost together with DMA. */
static void then_add_to_normal(void)
{
    seen.then = NULL;
    cr_assert(stats_of(NORMAL).is_low);
    add_pages(NORMAL_BEGIN, NORMAL_BEGIN + 1);
    cr_assert(!stats_of(NORMAL).is_low);
}

Test(zones, are_not_told_of_a_crossing_that_the_callback_undid_before)
{
    set_up_full();
    cr_assert_eq(take_all(NORMAL, 0), DMA_PAGES + NORMAL_PAGES);
    for (uintptr_t page = DMA_BEGIN + 1; page < NORMAL_END - 1; page++) {
        cr_assert_eq(tier_zones_free(&zones, address_of(page)), TIER_OK);
    }
    mark(DMA, 0, DMA_PAGES - 1, DMA_PAGES - 1);
    mark(NORMAL, 0, NORMAL_PAGES - 1, NORMAL_PAGES - 1);
    seen.then = then_add_to_normal;
    cr_assert_eq(remove_pages(NORMAL_BEGIN - 1, NORMAL_BEGIN + 1), TIER_OK);
    cr_assert(saw(1, DMA, TIER_ZONE_LOW));
    cr_assert_eq(take_page(NORMAL), NORMAL);
    cr_assert(saw(2, NORMAL, TIER_ZONE_LOW));
}

/* --- Refusals ------------------------------------------------------------- */

Test(zones, refuse_an_order_that_is_too_large)
{
    static const unsigned orders[] = {MAX_ORDER + 1, 31, 32, 33, 63, 64,
                                      UINT32_MAX};

    set_up_full();
    remember();
    for (size_t i = 0; i < COUNT(orders); i++) {
        for (unsigned zone = 0; zone < 3; zone++) {
            void *block = &zones;

            cr_assert_null(tier_zones_alloc(&zones, orders[i], zone));
            cr_assert(only_counted(&zones.zone[zone].buddy.refused_allocs));
            cr_assert_eq(tier_zones_try_alloc(&zones, orders[i], zone,
                                              EMERGENCY, &block),
                         TIER_ERR_TOO_LARGE);
            cr_assert_null(block);
            cr_assert(only_counted(&zones.zone[zone].buddy.refused_allocs));
        }
    }
}

Test(zones, refuse_a_zone_that_is_none_and_a_flag_that_is_unknown)
{
    set_up_full();
    remember();
    for (size_t i = 0; i < COUNT(no_zones); i++) {
        const unsigned wrong = no_zones[i];
        void *block = &zones;
        struct tier_zone_stats stats;

        cr_assert_null(tier_zones_alloc(&zones, 0, wrong));
        cr_assert(only_counted(&zones.zone[HIGH].buddy.refused_allocs));
        cr_assert_eq(tier_zones_try_alloc(&zones, 0, wrong, 0, &block),
                     TIER_ERR_INVALID);
        cr_assert(only_counted(&zones.zone[HIGH].buddy.refused_allocs));
        cr_assert_null(block);
        block = &zones;
        cr_assert_eq(tier_zones_try_alloc(&zones, 0, DMA, wrong | 4U, &block),
                     TIER_ERR_INVALID);
        cr_assert(only_counted(&zones.zone[DMA].buddy.refused_allocs));
        cr_assert_null(block);
        memset(&stats, 0x5A, sizeof(stats));
        cr_assert_eq(tier_zones_stats(&zones, wrong, &stats), TIER_ERR_INVALID);
        cr_assert(test_all(&stats, 0x5A, sizeof(stats)));
    }
    cr_assert(unchanged());
}

Test(zones, refuse_a_zone_that_their_storage_held_before)
{
    struct tier_zone_range ranges[2];

    set_up_full();
    cr_assert_not_null(tier_zones_alloc(&zones, 0, HIGH));
    ranges[0] = range_of("", DMA_BEGIN, NORMAL_BEGIN);
    ranges[1] = range_of("", NORMAL_BEGIN, NORMAL_END);
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)address_of(FIRST),
                                   bytes_of(SPAN), metadata, metadata_bytes),
                 TIER_OK);
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 2), TIER_OK);
    remember();
    cr_assert_null(tier_zones_alloc(&zones, 0, HIGH));
    cr_assert(only_counted(&zones.zone[NORMAL].buddy.refused_allocs));
    cr_assert_eq(tier_zones_zone_of(&zones, address_of(HIGH_BEGIN)), -1);
    cr_assert(tier_zones_check(&zones));
}

/* True when a pointer is no block to any call, with this status. */
static bool no_block(void *block, unsigned zone, enum tier_status status)
{
    remember();
    if (tier_zones_set_owner(&zones, block, 1) != status ||
        tier_zones_owner(&zones, block) != 0 ||
        tier_zones_order(&zones, block) != -1 || !unchanged()) {
        return false;
    }
#if TIERALLOC_CHECKS
    return tier_zones_free(&zones, block) == status &&
           only_counted(&zones.zone[zone].buddy.refused_frees);
#else
    return zone < 3;
#endif
}

Test(zones, refuse_to_free_what_is_not_allocated)
{
    set_up_full();
    cr_assert_eq(take_all(DMA, 0), DMA_PAGES);
    cr_assert_eq(remove_pages(NORMAL_BEGIN, NORMAL_BEGIN + 2), TIER_OK);
    cr_assert(no_block((void *)1, DMA, TIER_ERR_FOREIGN));
    cr_assert(no_block(address_of(FIRST - 1), DMA, TIER_ERR_FOREIGN));
    cr_assert(no_block(address_of(DMA_BEGIN - 1), DMA, TIER_ERR_FOREIGN));
    cr_assert(no_block(byte_of(DMA_BEGIN, 1), DMA, TIER_ERR_MISALIGNED));
    cr_assert(no_block(byte_of(NORMAL_BEGIN - 1, TIER_PAGE_SIZE - 1), DMA,
                       TIER_ERR_MISALIGNED));
    cr_assert(no_block(address_of(NORMAL_BEGIN), NORMAL, TIER_ERR_FOREIGN));
    cr_assert(
        no_block(address_of(NORMAL_BEGIN + 2), NORMAL, TIER_ERR_DOUBLE_FREE));
    cr_assert(
        no_block(address_of(NORMAL_END - 1), NORMAL, TIER_ERR_DOUBLE_FREE));
    cr_assert(no_block(address_of(NORMAL_END), NORMAL, TIER_ERR_FOREIGN));
    cr_assert(no_block(address_of(HIGH_BEGIN - 1), NORMAL, TIER_ERR_FOREIGN));
    cr_assert(no_block(address_of(HIGH_BEGIN), HIGH, TIER_ERR_DOUBLE_FREE));
    cr_assert(no_block(address_of(HIGH_END), HIGH, TIER_ERR_FOREIGN));
    cr_assert(no_block(address_of(FIRST + SPAN), HIGH, TIER_ERR_FOREIGN));
    cr_assert(no_block((void *)UINTPTR_MAX, HIGH, TIER_ERR_FOREIGN));
    if (MAX_ORDER > 0) {
        unsigned char *const pair = tier_zones_alloc(&zones, 1, HIGH);

        cr_assert(no_block(pair + TIER_PAGE_SIZE, HIGH, TIER_ERR_INTERIOR));
        cr_assert(
            no_block(pair + TIER_PAGE_SIZE + 1, HIGH, TIER_ERR_MISALIGNED));
    }
}

Test(zones, refuse_a_second_free_in_a_zone_that_is_low)
{
    set_up_full();
    mark(DMA, 0, DMA_PAGES, DMA_PAGES);
    void *const page = tier_zones_alloc(&zones, 0, DMA);
    void *const other = tier_zones_alloc(&zones, 0, DMA);

    cr_assert_not_null(other);
    cr_assert_eq(tier_zones_free(&zones, page), TIER_OK);
    cr_assert(no_block(page, DMA, TIER_ERR_DOUBLE_FREE));
    cr_assert(saw(1, DMA, TIER_ZONE_LOW));
}

Test(zones, ignore_a_free_of_null)
{
    set_up_full();
    mark(DMA, 0, DMA_PAGES, DMA_PAGES);
    for (size_t i = 0; i < 2; i++) {
        remember();
        cr_assert_eq(tier_zones_free(&zones, NULL), TIER_OK);
        cr_assert(unchanged());
        cr_assert_eq(take_page(DMA), DMA); /* low, the second time */
    }
}

/* --- Owners --------------------------------------------------------------- */

Test(zones, keep_an_owner_with_each_block)
{
    static const uintptr_t pages[] = {DMA_BEGIN,    NORMAL_BEGIN - 1,
                                      NORMAL_BEGIN, NORMAL_END - 1,
                                      HIGH_BEGIN,   HIGH_END - 1};

    set_up_full();
    cr_assert_eq(take_all(HIGH, 0), DMA_PAGES + NORMAL_PAGES + HIGH_PAGES);
    for (size_t i = 0; i < COUNT(pages); i++) {
        cr_assert_eq(tier_zones_owner(&zones, address_of(pages[i])), 0U);
        cr_assert_eq(tier_zones_set_owner(&zones, address_of(pages[i]), 77 + i),
                     TIER_OK);
    }
    for (size_t i = 0; i < COUNT(pages); i++) {
        cr_assert_eq(tier_zones_owner(&zones, address_of(pages[i])), 77 + i);
        cr_assert_eq(tier_zones_order(&zones, address_of(pages[i])), 0);
    }
    cr_assert(tier_zones_check(&zones));
}

/* --- Runs ----------------------------------------------------------------- */

/* A run of so many pages; NULL when there was none. */
static void *take_run(size_t pages, unsigned highest)
{
    void *run = &zones;
    const enum tier_status status =
        tier_zones_try_alloc_run(&zones, pages, highest, 0, &run);

    cr_assert_eq(status, run == NULL ? TIER_ERR_NO_MEMORY : TIER_OK);
    return run;
}

/* The zone of a run of so many pages; -1 when there was none. */
static int zone_of_run(size_t pages, unsigned highest)
{
    void *const run = take_run(pages, highest);

    return run == NULL ? -1 : tier_zones_zone_of(&zones, run);
}

/* Fill a zone with runs of one page each. */
static void fill_zone(unsigned zone)
{
    while (free_in(zone) != 0) {
        cr_assert_eq(zone_of_run(1, zone), (int)zone);
    }
    cr_assert(tier_zones_check(&zones));
}

static void free_page(uintptr_t page)
{
    cr_assert_eq(tier_zones_free(&zones, address_of(page)), TIER_OK);
}

Test(zones, serve_runs_from_the_zone_asked_for_and_then_from_lower_ones)
{
    set_up_full();
    for (size_t i = 0; i < HIGH_PAGES; i++) {
        cr_assert_eq(zone_of_run(1, HIGH), HIGH);
    }
    for (size_t i = 0; i < NORMAL_PAGES; i++) {
        cr_assert_eq(zone_of_run(1, HIGH), NORMAL);
    }
    cr_assert_eq(zone_of_run(1, NORMAL), DMA);
    for (size_t i = 1; i < DMA_PAGES; i++) {
        cr_assert_eq(zone_of_run(1, HIGH), DMA);
    }
    cr_assert_eq(stats_of(HIGH).fallbacks, 0U);
    cr_assert_eq(stats_of(NORMAL).fallbacks, NORMAL_PAGES);
    cr_assert_eq(stats_of(DMA).fallbacks, DMA_PAGES);
    cr_assert_null(take_run(1, HIGH));
    for (unsigned zone = 0; zone < 3; zone++) {
        cr_assert_eq(stats_of(zone).runs.failed_allocs, 1U);
        cr_assert_eq(stats_of(zone).buddy.failed_allocs, 0U);
    }
}

/* Contiguous pages of a zone that no run covers: the most there are. */
static size_t longest_left(void *const *runs, size_t count, size_t pages)
{
    bool used[SPAN] = {false};
    size_t longest = 0;
    size_t length = 0;

    for (size_t i = 0; i < count; i++) {
        const uintptr_t page = (uintptr_t)runs[i] >> TIERALLOC_PAGE_SHIFT;

        memset(&used[page - FIRST], 1, pages);
    }
    for (uintptr_t i = 0; i < SPAN; i++) {
        const int zone = tier_zones_zone_of(&zones, address_of(FIRST + i));

        if (FIRST + i == NORMAL_BEGIN) {
            length = 0;
        }
        length = used[i] || zone < 0 ? 0 : length + 1;
        longest = length > longest ? length : longest;
    }
    return longest;
}

Test(zones, fill_with_runs_of_which_none_lies_across_a_border)
{
    static void *runs[SPAN];

    for (size_t pages = 1; pages <= HIGH_PAGES && pages <= TIER_RUN_MAX;
         pages++) {
        size_t count = 0;
        void *run;

        set_up_full();
        while ((run = take_run(pages, HIGH)) != NULL) {
            void *const last = (char *)run + bytes_of(pages) - 1;

            cr_assert_eq(tier_zones_zone_of(&zones, run),
                         tier_zones_zone_of(&zones, last));
            runs[count++] = run;
        }
        cr_assert(tier_zones_check(&zones));
        cr_assert(longest_left(runs, count, pages) < pages);
        while (count > 0) {
            cr_assert_eq(tier_zones_free(&zones, runs[--count]), TIER_OK);
            cr_assert(tier_zones_check(&zones));
        }
        cr_assert_eq(free_in(DMA), DMA_PAGES);
        cr_assert_eq(free_in(NORMAL), NORMAL_PAGES);
        cr_assert_eq(free_in(HIGH), HIGH_PAGES);
    }
}

Test(zones, keep_reserve_and_min_from_runs)
{
    void *run;

    set_up_full();
    reserve(DMA, 9);
    mark(DMA, 4, 4, 4);
    cr_assert_not_null(take_run(TIER_RUN_MAX < 3 ? 1 : 3, DMA));
    const size_t left = free_in(DMA);

    fill_zone(HIGH);
    fill_zone(NORMAL);
    for (size_t i = 9; i < left; i++) {
        cr_assert_eq(zone_of_run(1, HIGH), DMA);
    }
    cr_assert_null(take_run(1, NORMAL));
    cr_assert_eq(stats_of(DMA).failed_reserve, 1U);
    cr_assert_eq(tier_zones_try_alloc_run(&zones, 1, HIGH, EMERGENCY, &run),
                 TIER_ERR_NO_MEMORY);
    cr_assert_eq(stats_of(DMA).failed_reserve, 2U);
    for (size_t i = 4; i < 9; i++) {
        cr_assert_eq(zone_of_run(1, DMA), DMA);
    }
    cr_assert_null(take_run(1, DMA));
    cr_assert_eq(stats_of(DMA).failed_watermark, 1U);
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(tier_zones_try_alloc_run(&zones, 1, DMA, EMERGENCY, &run),
                     TIER_OK);
    }
    cr_assert_null(take_run(1, DMA));
    cr_assert_eq(stats_of(DMA).runs.failed_allocs, 1U);
    cr_assert(tier_zones_check(&zones));
}

Test(zones, cross_a_mark_by_what_is_used_and_not_by_what_is_lent)
{
    set_up_full();
    mark(HIGH, 0, HIGH_PAGES - 1, HIGH_PAGES);
    void *const run = take_run(1, HIGH);

    cr_assert(MAX_ORDER < 2 || stats_of(HIGH).runs.held_pages > 1);
    cr_assert_eq(free_in(HIGH), HIGH_PAGES - 1);
    cr_assert_eq(seen.total, 0U);
    (void)tier_zones_gather(&zones);
    (void)tier_zones_trim(&zones);
    cr_assert_eq(seen.total, 0U);
    void *const other = take_run(1, HIGH);

    cr_assert(saw(1, HIGH, TIER_ZONE_LOW));
    cr_assert_eq(tier_zones_free(&zones, run), TIER_OK);
    cr_assert_eq(seen.total, 1U);
    cr_assert_eq(tier_zones_free(&zones, other), TIER_OK);
    cr_assert(saw(2, HIGH, TIER_ZONE_OK));
}

Test(zones, trim_their_runs_for_a_block_before_they_fall_back)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_full();
    fill_zone(NORMAL);
    free_page(MIDDLE + 20);
    free_page(MIDDLE + 21);
    cr_assert_eq(stats_of(NORMAL).buddy.free_pages, 0U);
    cr_assert_eq(tier_zones_alloc(&zones, 1, NORMAL), address_of(MIDDLE + 20));
    cr_assert_eq(stats_of(NORMAL).runs.free_pages, 0U);
    free_page(MIDDLE + 23);
    free_page(MIDDLE + 24); /* no block of two */
    cr_assert_eq(
        tier_zones_zone_of(&zones, tier_zones_alloc(&zones, 1, NORMAL)), DMA);
    cr_assert_eq(stats_of(NORMAL).buddy.failed_allocs, 0U);
    cr_assert(tier_zones_check(&zones));
}

Test(zones, gather_free_blocks_for_a_run_before_they_fall_back)
{
    if (MAX_ORDER < 1) {
        return;
    }
    set_up_full();
    cr_assert_eq(take_all(NORMAL, 0), DMA_PAGES + NORMAL_PAGES);
    free_page(MIDDLE + 23);
    free_page(MIDDLE + 24);
    cr_assert_eq(stats_of(NORMAL).buddy.free_blocks[0], 2U);
    cr_assert_eq(take_run(2, NORMAL), address_of(MIDDLE + 23));
    cr_assert_eq(stats_of(NORMAL).runs.held_pages, 2U);
    free_page(DMA_BEGIN + 2);
    free_page(MIDDLE + 29);
    free_page(MIDDLE + 31);
    cr_assert_null(take_run(2, NORMAL));
    cr_assert_eq(stats_of(NORMAL).runs.failed_allocs, 1U);
    cr_assert_eq(stats_of(DMA).runs.failed_allocs, 1U);
    cr_assert(tier_zones_check(&zones));
}

Test(zones, neither_trim_nor_gather_for_who_is_in_a_hurry)
{
    void *memory;

    if (MAX_ORDER < 2) {
        return;
    }
    set_up_full();
    fill_zone(NORMAL);
    fill_zone(DMA);
    free_page(MIDDLE + 20);
    free_page(MIDDLE + 21);
    remember();
    cr_assert_eq(tier_zones_try_alloc(&zones, 1, NORMAL, QUICK, &memory),
                 TIER_ERR_NO_MEMORY, "it may not be aligned");
    cr_assert_eq(stats_of(NORMAL).runs.free_pages, 2U);
    cr_assert_eq(stats_of(NORMAL).buddy.failed_allocs, 1U);
    cr_assert_eq(tier_zones_try_alloc(&zones, 1, NORMAL, 0, &memory), TIER_OK);
    cr_assert_eq(memory, address_of(MIDDLE + 20));

    cr_assert_eq(take_all(HIGH, 0), HIGH_PAGES);
    free_page(HIGH_BEGIN + 1);
    free_page(HIGH_BEGIN + 2);
    cr_assert_eq(tier_zones_try_alloc_run(&zones, 2, HIGH, QUICK, &memory),
                 stats_of(HIGH).buddy.free_blocks[1] != 0 ? TIER_OK
                                                          : TIER_ERR_NO_MEMORY);
    cr_assert(tier_zones_check(&zones));
}

Test(zones, have_one_long_free_run_ready_for_a_block)
{
    void *memory;

    if (MAX_ORDER < 2) {
        return;
    }
    set_up_full();
    fill_zone(NORMAL);
    fill_zone(DMA);
    free_page(MIDDLE + 25);
    for (unsigned i = 19; i < 22; i++) {
        free_page(MIDDLE + i);
    }
    cr_assert_eq(tier_zones_try_alloc(&zones, 1, NORMAL, QUICK, &memory),
                 TIER_OK);
    cr_assert_eq(memory, address_of(MIDDLE + 20));
    cr_assert_eq(stats_of(NORMAL).runs.free_pages, 1U, "not the others");
    cr_assert(tier_zones_check(&zones));
}

Test(zones, leave_the_runs_of_a_zone_alone_that_its_marks_close)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_full();
    fill_zone(DMA);
    free_page(DMA_BEGIN + 3);
    reserve(DMA, SIZE_MAX);
    fill_zone(NORMAL);
    free_page(MIDDLE + 20);
    cr_assert_not_null(tier_zones_alloc(&zones, 0, NORMAL));
    cr_assert_eq(stats_of(DMA).runs.free_pages, 1U);
}

Test(zones, refuse_a_run_that_is_out_of_range)
{
    static const size_t lengths[] = {TIER_RUN_MAX + 1, SIZE_MAX / 2 + 2,
                                     SIZE_MAX};
    void *run = &run;

    set_up_full();
    mark(HIGH, 1, 2, 3);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        remember();
        cr_assert_eq(
            tier_zones_try_alloc_run(&zones, lengths[i], HIGH, 0, &run),
            TIER_ERR_TOO_LARGE);
        cr_assert_null(run);
        cr_assert(only_counted(&zones.zone[HIGH].runs.refused_allocs));
        cr_assert_null(tier_zones_acquire(&zones, lengths[i], HIGH, 0));
        cr_assert(only_counted(&zones.zone[HIGH].runs.refused_allocs));
    }
    cr_assert_eq(tier_zones_try_alloc_run(&zones, 0, NORMAL, 0, &run),
                 TIER_ERR_INVALID);
    cr_assert(only_counted(&zones.zone[NORMAL].runs.refused_allocs));
    for (size_t i = 0; i < COUNT(no_zones); i++) {
        run = &run;
        cr_assert_eq(tier_zones_try_alloc_run(&zones, 1, no_zones[i], 0, &run),
                     TIER_ERR_INVALID);
        cr_assert_null(run);
        cr_assert(only_counted(&zones.zone[HIGH].runs.refused_allocs));
    }
    for (unsigned flags = 4; flags != 0; flags *= 2) {
        cr_assert_eq(tier_zones_try_alloc_run(&zones, 1, DMA, flags, &run),
                     TIER_ERR_INVALID);
        cr_assert(only_counted(&zones.zone[DMA].runs.refused_allocs));
    }
    cr_assert_eq(seen.total, 0U);
}

Test(zones, refuse_to_free_what_is_no_run)
{
    const size_t pages = TIER_RUN_MAX < 3 ? 1 : 3;

    set_up_full();
    char *const run = (char *)take_run(pages, HIGH);

    remember();
    cr_assert_eq(tier_zones_free(&zones, run + 1), TIER_ERR_MISALIGNED);
    cr_assert(only_counted(&zones.zone[HIGH].buddy.refused_frees));
    if (pages > 1) {
        cr_assert_eq(tier_zones_free(&zones, run + TIER_PAGE_SIZE),
                     TIER_ERR_INTERIOR);
        cr_assert(only_counted(&zones.zone[HIGH].buddy.refused_frees));
        cr_assert_eq(tier_zones_free(&zones, run + TIER_PAGE_SIZE + 8),
                     TIER_ERR_MISALIGNED);
        cr_assert(only_counted(&zones.zone[HIGH].buddy.refused_frees));
    }
    cr_assert_eq(tier_zones_free(&zones, run), TIER_OK);
    remember();
    cr_assert_eq(tier_zones_free(&zones, run), TIER_ERR_DOUBLE_FREE);
    cr_assert(only_counted(&zones.zone[HIGH].buddy.refused_frees));
}

Test(zones, hold_pages_for_who_acquires_them)
{
    for (size_t i = 0; i < COUNT(holders); i++) {
        const size_t pages = TIER_RUN_MAX < 3 ? 1 : 3;

        set_up_full();
        char *const held = (char *)tier_zones_acquire(&zones, pages, DMA, 0);
        const size_t index = ((uintptr_t)held >> TIERALLOC_PAGE_SHIFT) - FIRST;

        cr_assert_eq(tier_zones_zone_of(&zones, held), DMA);
        for (size_t page = 0; page < pages; page++) {
            cr_assert_eq(zones.map.kind[index + page], TIER_KIND_NONE);
            zones.map.kind[index + page] = holders[i];
        }
        cr_assert(tier_zones_check(&zones));
        cr_assert_eq(stats_of(DMA).runs.source_pages, pages);
        cr_assert_eq(stats_of(DMA).runs.used_runs, 0U);
        cr_assert_eq(free_in(DMA), DMA_PAGES - pages);
        cr_assert_eq(tier_zones_pages(&zones, held), 0U);
        cr_assert_eq(tier_zones_free(&zones, held), TIER_ERR_FOREIGN);
        cr_assert_eq(tier_zones_free(&zones, held + 1), TIER_ERR_FOREIGN);
        cr_assert_eq(tier_zones_resize(&zones, held, 1), TIER_ERR_FOREIGN);
        cr_assert_eq(tier_zones_set_owner(&zones, held, 1), TIER_ERR_FOREIGN);
        for (size_t page = 0; page < pages; page++) {
            zones.map.kind[index + page] = TIER_KIND_NONE;
        }
        tier_zones_release(&zones, held, pages);
        cr_assert(tier_zones_check(&zones));
        cr_assert_eq(stats_of(DMA).runs.source_pages, 0U);
        cr_assert_eq(free_in(DMA), DMA_PAGES);
    }
}

/* on_event() has the zones checked: also before the holder marked its pages. */
Test(zones, call_back_about_pages_that_are_acquired_and_released)
{
    set_up_full();
    mark(NORMAL, 0, NORMAL_PAGES, NORMAL_PAGES);
    void *const held = tier_zones_acquire(&zones, 1, NORMAL, 0);

    cr_assert(saw(1, NORMAL, TIER_ZONE_LOW));
    tier_zones_release(&zones, held, 1);
    cr_assert(saw(2, NORMAL, TIER_ZONE_OK));
}

Test(zones, keep_an_owner_with_each_run)
{
    set_up_full();
    for (unsigned zone = 0; zone < 3; zone++) {
        char *const run = (char *)take_run(1, zone);

        cr_assert_eq(tier_zones_owner(&zones, run), 0U);
        cr_assert_eq(tier_zones_set_owner(&zones, run, 77 + zone), TIER_OK);
        cr_assert_eq(tier_zones_owner(&zones, run), 77U + zone);
        cr_assert_eq(tier_zones_owner(&zones, run + 1), 0U);
        cr_assert_eq(tier_zones_set_owner(&zones, run + 1, 1),
                     TIER_ERR_MISALIGNED);
        cr_assert_eq(tier_zones_order(&zones, run), -1);
        cr_assert_eq(tier_zones_free(&zones, run), TIER_OK);
        cr_assert_eq(tier_zones_set_owner(&zones, run, 1),
                     TIER_ERR_DOUBLE_FREE);
        cr_assert_eq(tier_zones_owner(&zones, run), 0U);
    }
    cr_assert_eq(tier_zones_set_owner(&zones, NULL, 1), TIER_ERR_FOREIGN);
}

/* --- Resizing ------------------------------------------------------------- */

static enum tier_status resize(void *memory, size_t pages)
{
    const enum tier_status status = tier_zones_resize(&zones, memory, pages);

    cr_assert(tier_zones_check(&zones));
    return status;
}

Test(zones, resize_a_run_into_all_that_is_free_behind_it)
{
    if (MAX_ORDER < 6) {
        return;
    }
    set_up_full();
    void *const run = take_run(NORMAL_PAGES, NORMAL); /* of it all */

    cr_assert_eq(tier_zones_set_owner(&zones, run, 7), TIER_OK);
    for (size_t pages = NORMAL_PAGES; pages > 0; pages--) {
        cr_assert_eq(resize(run, pages), TIER_OK);
        cr_assert_eq(tier_zones_pages(&zones, run), pages);
        (void)(pages % 3 == 0 ? tier_zones_trim(&zones)
                              : tier_zones_gather(&zones));
        cr_assert_eq(resize(run, NORMAL_PAGES + 1), TIER_ERR_IN_USE);
        cr_assert_eq(resize(run, NORMAL_PAGES), TIER_OK);
    }
    cr_assert_eq(stats_of(NORMAL).runs.failed_allocs, NORMAL_PAGES);
    cr_assert_eq(tier_zones_owner(&zones, run), 7U);
}

Test(zones, resize_a_block_into_free_blocks_and_free_runs)
{
    if (MAX_ORDER < 4) {
        return;
    }
    for (unsigned lent = 0; lent < 2; lent++) {
        set_up_full();
        cr_assert_eq(tier_buddy_alloc_at(&zones.zone[NORMAL].buddy,
                                         address_of(MIDDLE + 32), 0),
                     TIER_OK);
        void *const block = address_of(MIDDLE + 32);

        if (lent != 0) {
            cr_assert(tier_zones_gather(&zones) != 0);
            cr_assert(stats_of(NORMAL).runs.free_pages != 0);
        }
        cr_assert_eq(tier_zones_set_owner(&zones, block, 7), TIER_OK);
        cr_assert_eq(resize(block, 9), TIER_OK);
        cr_assert_eq(tier_zones_order(&zones, block), 4);
        cr_assert_eq(free_in(NORMAL), NORMAL_PAGES - 16);
        cr_assert_eq(resize(block, TIER_RUN_MAX < 32 ? 16 : 17),
                     TIER_RUN_MAX < 32 ? TIER_OK : TIER_ERR_IN_USE);
        cr_assert_eq(resize(block, 1), TIER_OK);
        cr_assert_eq(tier_zones_order(&zones, block), 0);
        cr_assert_eq(free_in(NORMAL), NORMAL_PAGES - 1);
        cr_assert_eq(tier_zones_owner(&zones, block), 7U);
    }
}

/* A failure that trimmed would cost the runs what they borrowed. */
Test(zones, trim_no_runs_for_a_block_that_cannot_grow)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_full();
    void *const block = address_of(MIDDLE + 24);

    cr_assert_eq(tier_buddy_alloc_at(&zones.zone[NORMAL].buddy, block, 1),
                 TIER_OK);
    cr_assert_eq(tier_buddy_alloc_at(&zones.zone[NORMAL].buddy,
                                     address_of(MIDDLE + 31), 0),
                 TIER_OK);
    (void)tier_zones_gather(&zones);
    remember();
    cr_assert_eq(tier_zones_resize(&zones, block, 8), TIER_ERR_IN_USE);
    cr_assert(only_counted(&zones.zone[NORMAL].buddy.failed_allocs));
    cr_assert_eq(resize(block, 4), TIER_OK);
}

Test(zones, respect_their_marks_when_something_grows)
{
    if (MAX_ORDER < 6) {
        return;
    }
    set_up_full();
    void *const run = take_run(HIGH_PAGES, HIGH);

    cr_assert_eq(resize(run, 1), TIER_OK);
    mark(HIGH, 5, 6, 6);
    remember();
    cr_assert_eq(tier_zones_resize(&zones, run, HIGH_PAGES - 4),
                 TIER_ERR_NO_MEMORY);
    cr_assert(only_counted(&zones.zone[HIGH].failed_watermark));
    reserve(HIGH, SIZE_MAX); /* without effect: the last zone */
    cr_assert_eq(resize(run, HIGH_PAGES - 6), TIER_OK);
    cr_assert_eq(seen.total, 0U);
    cr_assert_eq(resize(run, HIGH_PAGES - 5), TIER_OK);
    cr_assert(saw(1, HIGH, TIER_ZONE_LOW));
    cr_assert_eq(resize(run, HIGH_PAGES - 6), TIER_OK);
    cr_assert(saw(2, HIGH, TIER_ZONE_OK));

    void *const block = tier_zones_alloc(&zones, 0, DMA);

    reserve(DMA, DMA_PAGES - 1);
    remember();
    cr_assert_eq(tier_zones_resize(&zones, block, 2), TIER_ERR_NO_MEMORY);
    cr_assert(only_counted(&zones.zone[DMA].failed_reserve));
    cr_assert_eq(tier_zones_resize(&zones, block, 1), TIER_OK);
    cr_assert(unchanged());
}

Test(zones, refuse_to_resize_what_they_do_not_have)
{
    set_up_full();
    char *const run = (char *)take_run(1, NORMAL);
    char *const block = (char *)tier_zones_alloc(&zones, 0, NORMAL);

    remember();
    cr_assert_eq(tier_zones_resize(&zones, run, 0), TIER_ERR_INVALID);
    cr_assert(only_counted(&zones.zone[NORMAL].runs.refused_allocs));
    cr_assert_eq(tier_zones_resize(&zones, run, TIER_RUN_MAX + 1),
                 TIER_ERR_TOO_LARGE);
    cr_assert(only_counted(&zones.zone[NORMAL].runs.refused_allocs));
    cr_assert_eq(tier_zones_resize(&zones, block, 0), TIER_ERR_INVALID);
    cr_assert(only_counted(&zones.zone[NORMAL].buddy.refused_allocs));
    cr_assert_eq(tier_zones_resize(&zones, block, SIZE_MAX),
                 TIER_ERR_TOO_LARGE);
    cr_assert(only_counted(&zones.zone[NORMAL].buddy.refused_allocs));
    cr_assert_eq(tier_zones_resize(&zones, run + 1, 1), TIER_ERR_MISALIGNED);
    cr_assert(only_counted(&zones.zone[NORMAL].buddy.refused_frees));
    cr_assert_eq(tier_zones_resize(&zones, address_of(HIGH_BEGIN), 1),
                 TIER_ERR_DOUBLE_FREE);
    cr_assert(only_counted(&zones.zone[HIGH].buddy.refused_frees));
    cr_assert_eq(tier_zones_resize(&zones, NULL, 1), TIER_ERR_FOREIGN);
    cr_assert(only_counted(&zones.zone[DMA].buddy.refused_frees));
}

/* --- Between buddies and runs --------------------------------------------- */

Test(zones, let_regions_go_that_runs_have_free)
{
    set_up_full();
    void *const run = take_run(1, HIGH);

    (void)tier_zones_gather(&zones);
    cr_assert_eq(remove_pages(HIGH_BEGIN, HIGH_END), TIER_ERR_IN_USE);
    cr_assert(tier_zones_check(&zones));
    cr_assert_eq(tier_zones_free(&zones, run), TIER_OK);
    (void)tier_zones_gather(&zones);
    cr_assert_eq(remove_pages(HIGH_BEGIN, HIGH_END), TIER_OK);
    cr_assert_eq(remove_pages(DMA_BEGIN, NORMAL_END), TIER_OK);
    cr_assert_eq(tier_zones_managed_pages(&zones), 0U);
    cr_assert_eq(tier_zones_free_pages(&zones), 0U);
    cr_assert(tier_zones_check(&zones));
}

/* Runs go and free pages are lent anew while an allocation waits to return. */
static void then_shuffle(void)
{
    seen.then = NULL;
    while (kept_count > 0) {
        cr_assert_eq(tier_zones_free(&zones, kept[--kept_count]), TIER_OK);
    }
    (void)tier_zones_gather(&zones);
    (void)tier_zones_trim(&zones);
}

Test(zones, may_be_shuffled_by_the_callback_of_a_run)
{
    set_up_full();
    for (kept_count = 0; kept_count < 8;) {
        kept[kept_count++] = take_run(1, DMA);
    }
    mark(DMA, 0, DMA_PAGES - 8, DMA_PAGES);
    cr_assert_eq(seen.total, 0U);
    seen.then = then_shuffle;
    void *const held = tier_zones_acquire(&zones, 1, DMA, 0);

    cr_assert(saw(1, DMA, TIER_ZONE_LOW));
    cr_assert_eq(stats_of(DMA).runs.source_pages, 1U);
    cr_assert_eq(free_in(DMA), DMA_PAGES - 1);
    tier_zones_release(&zones, held, 1);
    cr_assert(saw(2, DMA, TIER_ZONE_OK));
    cr_assert_eq(stats_of(DMA).runs.held_pages, stats_of(DMA).runs.free_pages);
    cr_assert(tier_zones_check(&zones));
}

/* --- Dump ----------------------------------------------------------------- */

/* A text as it grows. */
struct text {
    char at[1024];
    size_t length;
};

static void put(void *context, char character)
{
    struct text *const text = (struct text *)context;

    cr_assert(text->length < sizeof(text->at) - 1);
    text->at[text->length++] = character;
    text->at[text->length] = '\0';
}

static void put_text(struct text *text, const char *more)
{
    while (*more != '\0') {
        put(text, *more++);
    }
}

/* Put a count of blocks, below ten, in six columns. */
static void put_count(struct text *text, size_t count)
{
    cr_assert(count < 10);
    put_text(text, "     ");
    put(text, (char)('0' + count));
}

Test(zones, dump_a_line_for_each)
{
    static struct text written;
    static struct text expected;
    struct tier_zone_range ranges[3];

    set_up_span(MIDDLE, 20);
    ranges[0] = range_of("DMA", MIDDLE, MIDDLE + 9);
    ranges[1] = range_of("A long name", MIDDLE + 9, MIDDLE + 10);
    ranges[2] = range_of(NULL, MIDDLE + 10, MIDDLE + 20);
    cr_assert_eq(tier_zones_init(&zones, &map, ranges, 3), TIER_OK);
    add_pages(MIDDLE, MIDDLE + 9);
    mark(0, 1, 2, 3);
    cr_assert_eq(take_page(0), 0);

    expected.length = 0;
    put_text(&expected, "zone DMA     ");
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        put_count(&expected, stats_of(0).buddy.free_blocks[order]);
    }
    put_text(
        &expected,
        "  free 8 of 9, in runs 0, runs in use 0, min 1, low 2, high 3\nzone A long name");
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        put_count(&expected, 0);
    }
    put_text(
        &expected,
        "  free 0 of 0, in runs 0, runs in use 0, min 0, low 0, high 0\nzone         ");
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        put_count(&expected, 0);
    }
    put_text(&expected,
             "  free 0 of 0, in runs 0, runs in use 0, min 0, low 0, high 0\n");

    written.length = 0;
    remember();
    tier_zones_dump(&zones, put, &written);
    cr_assert(unchanged());
    cr_assert_eq(strcmp(written.at, expected.at), 0, "%s", written.at);
}

/* --- Detection of damage -------------------------------------------------- */

/* Bring about zones with blocks of many orders; DMA is low. */
static void set_up_damage(void)
{
    set_up_full();
    tier_zones_set_callback(&zones, NULL, NULL);
    for (unsigned zone = 0; zone < 3; zone++) {
        mark(zone, 1, 9, 12);
    }
    for (size_t i = 0; i < 60; i++) {
        void *run;

        if (below(3) == 0) {
            (void)tier_zones_try_alloc_run(
                &zones, 1 + below(TIER_RUN_MAX < 3 ? 1 : 3), HIGH, 0, &run);
        } else {
            (void)tier_zones_alloc(&zones, below(3) % (MAX_ORDER + 1), HIGH);
        }
    }
    for (uintptr_t page = FIRST; page < FIRST + SPAN; page++) {
        if (tier_zones_pages(&zones, address_of(page)) > 0 && below(3) == 0) {
            cr_assert_eq(tier_zones_free(&zones, address_of(page)), TIER_OK);
        }
    }
    while (!stats_of(DMA).is_low) {
        cr_assert_eq(take_page(DMA), DMA);
    }
    cr_assert(tier_zones_check(&zones));
}

/* True when check() sees each other value of a byte, and accepts this one. */
static bool check_sees(uint8_t *byte)
{
    for (unsigned flip = 1; flip < 256; flip++) {
        *byte ^= (uint8_t)flip;
        const bool accepted = tier_zones_check(&zones);

        *byte ^= (uint8_t)flip;
        if (accepted) {
            return false;
        }
    }
    return tier_zones_check(&zones);
}

/* The same for each byte of an object. */
static bool check_sees_all(void *object, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!check_sees((uint8_t *)object + i)) {
            return false;
        }
    }
    return true;
}

Test(zones, check_sees_any_change_to_the_kind_of_a_page_in_no_zone)
{
    set_up_damage();
    for (uintptr_t page = FIRST; page < FIRST + SPAN; page++) {
        cr_assert(tier_zones_zone_of(&zones, address_of(page)) >= 0 ||
                      check_sees(&zones.map.kind[page - FIRST]),
                  "page %u", (unsigned)(page - FIRST));
    }
}

Test(zones, check_sees_any_change_to_the_kind_of_a_page_to_that_of_a_block)
{
    set_up_damage();
    for (size_t i = 0; i < SPAN; i++) {
        uint8_t *const kind = &zones.map.kind[i];
        const uint8_t before = *kind;

        for (unsigned order = 0; order < 32; order++) {
            *kind = (uint8_t)(TIER_KIND_FREE | order);
            cr_assert_eq(tier_zones_check(&zones), *kind == before);
            *kind = (uint8_t)(TIER_KIND_BLOCK | order);
            cr_assert_eq(tier_zones_check(&zones), *kind == before);
        }
        *kind = TIER_KIND_NONE;
        cr_assert_eq(tier_zones_check(&zones), *kind == before);
        *kind = before;
    }
}

Test(zones, check_sees_any_change_to_the_link_of_a_free_block)
{
    set_up_damage();
    for (size_t i = 0; i < SPAN; i++) {
        if ((zones.map.kind[i] & TIER_KIND_MASK) == TIER_KIND_FREE) {
            cr_assert(check_sees_all(&zones.map.entry[i].link,
                                     sizeof(zones.map.entry[i].link)));
        }
    }
}

Test(zones, check_sees_any_change_to_the_map)
{
    set_up_damage();
    cr_assert(check_sees_all(&zones.map.first, sizeof(zones.map.first)));
    cr_assert(check_sees_all(&zones.map.pages, sizeof(zones.map.pages)));
    cr_assert(check_sees_all(&zones.map.skew, sizeof(zones.map.skew)));
    cr_assert(check_sees_all((void *)&zones.map.kind, sizeof(zones.map.kind)));
    cr_assert(
        check_sees_all((void *)&zones.map.entry, sizeof(zones.map.entry)));
#if TIERALLOC_CPUS > 0
    cr_assert(check_sees_all((void *)&zones.map.cut, sizeof(zones.map.cut)));
#endif
}

Test(zones, check_sees_any_change_to_where_zones_are_found)
{
    set_up_damage();
    cr_assert(check_sees_all(&zones.count, sizeof(zones.count)));
    cr_assert(check_sees_all(zones.below, sizeof(zones.below)));
    for (unsigned zone = 0; zone < 3; zone++) {
        struct tier_pagemap *const part = &zones.zone[zone].buddy.map;

        cr_assert(check_sees_all(&part->first, sizeof(part->first)));
        cr_assert(check_sees_all(&part->skew, sizeof(part->skew)));
        cr_assert(check_sees_all((void *)&part->kind, sizeof(part->kind)));
        cr_assert(check_sees_all((void *)&part->entry, sizeof(part->entry)));
#if TIERALLOC_CPUS > 0
        cr_assert(check_sees_all((void *)&part->cut, sizeof(part->cut)));
#endif
    }
}

Test(zones, check_sees_any_change_to_what_the_runs_are_over)
{
    set_up_damage();
    for (unsigned zone = 0; zone < 3; zone++) {
        struct tier_runs *const runs = &zones.zone[zone].runs;
        struct tier_pagemap *const part = &runs->map;

        cr_assert(check_sees_all(&part->first, sizeof(part->first)));
        cr_assert(check_sees_all(&part->pages, sizeof(part->pages)));
        cr_assert(check_sees_all(&part->skew, sizeof(part->skew)));
        cr_assert(check_sees_all((void *)&part->kind, sizeof(part->kind)));
        cr_assert(check_sees_all((void *)&part->entry, sizeof(part->entry)));
#if TIERALLOC_CPUS > 0
        cr_assert(check_sees_all((void *)&part->cut, sizeof(part->cut)));
#endif
        cr_assert(check_sees_all((void *)&runs->buddy, sizeof(runs->buddy)));
        cr_assert(check_sees_all(&runs->lend_order, sizeof(runs->lend_order)));
        cr_assert(check_sees_all(runs->mask, sizeof(runs->mask)));
        cr_assert(check_sees_all(runs->bins, sizeof(runs->bins)));
        cr_assert(check_sees_all(&runs->used_runs, sizeof(runs->used_runs)));
        cr_assert(check_sees_all(&runs->free_pages, sizeof(runs->free_pages)));
        cr_assert(check_sees_all(&runs->held_pages, sizeof(runs->held_pages)));
    }
}

Test(zones, check_sees_held_pages_that_nobody_holds)
{
    set_up_full();
    zones.zone[HIGH].runs.held_pages++;
    zones.zone[HIGH].runs.source_pages++;
    cr_assert(tier_runs_check(&zones.zone[HIGH].runs));
    cr_assert(!tier_zones_check(&zones));
}

Test(zones, check_sees_a_zone_that_reaches_into_the_next)
{
    set_up_full();
    zones.zone[DMA].buddy.map.pages++;
    zones.zone[DMA].runs.map.pages++;
    cr_assert(!tier_zones_check(&zones));
    zones.zone[DMA].buddy.map.pages--;
    zones.zone[DMA].runs.map.pages--;
    cr_assert_eq(remove_pages(NORMAL_BEGIN, NORMAL_BEGIN + 1), TIER_OK);
    cr_assert(tier_zones_check(&zones));
    zones.zone[DMA].buddy.map.pages++;
    zones.zone[DMA].runs.map.pages++;
    cr_assert(!tier_zones_check(&zones));
}

Test(zones, check_sees_a_zone_that_reaches_out_of_the_map)
{
    struct tier_pagemap *const part = &zones.zone[HIGH].buddy.map;
    struct tier_pagemap *const runs = &zones.zone[HIGH].runs.map;

    set_up_full();
    part->pages += 3;
    cr_assert(!tier_zones_check(&zones)); /* the runs know better */
    runs->pages += 3;
    cr_assert(tier_zones_check(&zones)); /* not claimed: into no zone */
    part->pages++;
    runs->pages++;
    cr_assert(!tier_zones_check(&zones));
    part->pages = SIZE_MAX;
    runs->pages = SIZE_MAX;
    cr_assert(!tier_zones_check(&zones));

    set_up(); /* with nothing to find on the way out */
    memset(metadata + metadata_bytes, 0,
           sizeof(metadata_room) - (size_t)(metadata - metadata_room) -
               metadata_bytes);
    tier_pagemap_view_(part, &zones.map, (size_t)1 << 30, HIGH_PAGES);
    tier_pagemap_view_(runs, &zones.map, (size_t)1 << 30, HIGH_PAGES);
    zones.below[1] = tier_zones_below_(&zones, 2);
    cr_assert(!tier_zones_check(&zones));
}

Test(zones, check_sees_that_there_are_none)
{
    struct tier_zone_range range = range_of("", FIRST, FIRST + 9);

    set_up_span(FIRST, SPAN);
    cr_assert_eq(tier_zones_init(&zones, &map, &range, 1), TIER_OK);
    cr_assert(check_sees_all(&zones.count, sizeof(zones.count)));
}

Test(zones, check_sees_any_change_to_what_is_noted_of_the_marks)
{
    set_up_damage();
    cr_assert(!stats_of(HIGH).is_low || !stats_of(NORMAL).is_low);
    for (unsigned zone = 0; zone < 3; zone++) {
        struct tier_zone *const at = &zones.zone[zone];

        cr_assert(check_sees_all(&at->is_low, sizeof(at->is_low)));
        cr_assert(check_sees_all(&at->calm_pages, sizeof(at->calm_pages)));
        cr_assert(check_sees_all(&at->buddy.free_pages, sizeof(size_t)));
        cr_assert(check_sees_all(&at->buddy.managed_pages, sizeof(size_t)));
    }
}

Test(zones, check_sees_marks_that_are_out_of_order)
{
    set_up_full();
    zones.zone[NORMAL].min_pages = 1;
    cr_assert(!tier_zones_check(&zones));
    set_up_full();
    zones.zone[NORMAL].high_pages = NORMAL_PAGES;
    cr_assert(tier_zones_check(&zones));
    zones.zone[NORMAL].high_pages = NORMAL_PAGES + 1;
    cr_assert(!tier_zones_check(&zones));
    set_up_full();
    zones.zone[NORMAL].low_pages = 4;
    zones.zone[NORMAL].calm_pages = 4;
    zones.zone[NORMAL].high_pages = 3;
    cr_assert(!tier_zones_check(&zones));
    zones.zone[NORMAL].high_pages = 4;
    cr_assert(tier_zones_check(&zones));
}

Test(zones, check_sees_a_crossing_that_was_not_noted)
{
    set_up_full();
    zones.zone[NORMAL].low_pages = NORMAL_PAGES;
    zones.zone[NORMAL].high_pages = NORMAL_PAGES;
    zones.zone[NORMAL].calm_pages = NORMAL_PAGES;
    cr_assert(tier_zones_check(&zones));
    cr_assert_not_null(tier_buddy_alloc(&zones.zone[NORMAL].buddy, 0));
    cr_assert(!tier_zones_check(&zones));
    zones.zone[NORMAL].is_low = TIER_ZONE_LOW;
    zones.zone[NORMAL].calm_pages = 0;
    cr_assert(tier_zones_check(&zones));
    zones.zone[NORMAL].high_pages--;
    zones.zone[NORMAL].low_pages--;
    cr_assert(!tier_zones_check(&zones));
}

Test(zones, check_survives_random_metadata)
{
    for (uint32_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        if (step % 64 == 0) {
            set_up_damage();
            random_state += step;
        }
        metadata[below((uint32_t)metadata_bytes)] = (uint8_t)below(256);
        zones.zone[below(3)].buddy.lists[below(MAX_ORDER + 1)].head = below(80);
        const unsigned zone = below(3);

        zones.zone[zone].buddy.map.pages = below(200);
        zones.zone[zone].runs.map.pages = zones.zone[zone].buddy.map.pages;
        zones.zone[below(3)].runs.bins[below(TIER_RUN_BINS)] = below(80);
        (void)tier_zones_check(&zones);
    }
}
#endif
