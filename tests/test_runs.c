/*
 * tests/test_runs.c - the tier of runs against a plain model of its pages.
 *
 * SPDX-License-Identifier: MIT
 *
 * Regions lie at invented addresses: neither runs nor the buddy below them
 * touch a managed page, so a test that ends shows that none was.
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/runs.h>

/* Most pages in the span of a test, and most pages the model can hold. */
#define SPAN_MAX  16384
#define MODEL_MAX (4096 + 5)
#include "pages.h"

/* The allocator of the running test. */
static struct tier_buddy buddy;
static struct tier_runs runs;

/* An order, or the largest when that is less. */
static unsigned capped(unsigned order)
{
    const unsigned most = MAX_ORDER;

    return order < most ? order : most;
}

/* Make the tiers ones over these pages by number, with no region yet. */
static void set_up(uintptr_t first, size_t pages, unsigned lend_order)
{
    set_up_map(first, pages);
    memset(&buddy, 0xA5, sizeof(buddy));
    memset(&runs, 0xA5, sizeof(runs));
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_runs_init(&runs, &buddy, lend_order), TIER_OK);
}

/* The same, with all these pages in one region. */
static void set_up_region(uintptr_t first, size_t pages, unsigned lend_order)
{
    set_up(first, pages, lend_order);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(first), bytes_of(pages)),
                 TIER_OK);
}

static struct tier_runs_stats stats_now(void)
{
    struct tier_runs_stats stats;

    tier_runs_stats(&runs, &stats);
    return stats;
}

static struct tier_buddy_stats buddy_stats_now(void)
{
    struct tier_buddy_stats stats;

    tier_buddy_stats(&buddy, &stats);
    return stats;
}

/* True when both tiers are sound. */
static bool sound(void)
{
    return tier_runs_check(&runs) && tier_buddy_check(&buddy);
}

static struct tier_runs runs_before;
static struct tier_buddy buddy_before;
static uint8_t metadata_before[sizeof(metadata_room)];

/* Remember every byte of the tiers and of their metadata. */
static void remember(void)
{
    memcpy(&runs_before, &runs, sizeof(runs));
    memcpy(&buddy_before, &buddy, sizeof(buddy));
    memcpy(metadata_before, metadata, metadata_bytes);
}

/* True when no byte has changed since remember() but in one counter, by 1. */
static bool only_counted(size_t *counter)
{
    *counter -= 1;
    const bool same = memcmp(&runs, &runs_before, sizeof(runs)) == 0 &&
                      memcmp(&buddy, &buddy_before, sizeof(buddy)) == 0 &&
                      memcmp(metadata, metadata_before, metadata_bytes) == 0;

    *counter += 1;
    return same;
}

/* True when no byte has changed since remember(). */
static bool unchanged(void)
{
    size_t nothing = 0;

    return only_counted(&nothing);
}

/* True when two snapshots name the same free blocks of the buddy. */
static bool same_free(const struct tier_buddy_stats *a,
                      const struct tier_buddy_stats *b)
{
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        if (a->free_blocks[order] != b->free_blocks[order]) {
            return false;
        }
    }
    return a->managed_pages == b->managed_pages &&
           a->free_pages == b->free_pages &&
           a->largest_free_order == b->largest_free_order;
}

/* The least order whose block has so many pages. */
static unsigned order_for(size_t pages)
{
    unsigned order = 0;

    while ((size_t)1 << order < pages) {
        order++;
    }
    return order;
}

/* --- The model ------------------------------------------------------------ */

/* What a page is. */
enum what {
    GONE,  /* in no region */
    FREE,  /* free in the buddy */
    HELD,  /* lent to the runs, in no used one */
    BLOCK, /* in a block that the test has from the buddy */
    RUN,   /* in a used run */
};

/* What is known of all pages, computed in the plainest way. */
static struct {
    uintptr_t first; /* number of page 0 */
    uint32_t count;
    unsigned lend_order;
    uint8_t what[MODEL_MAX];
    uint16_t head[MODEL_MAX];  /* of a block or run: index of its first page */
    uint32_t pages[MODEL_MAX]; /* with that page: its pages */
    uintptr_t owner[MODEL_MAX];
    size_t failed_allocs; /* those of the runs */
    size_t refused_allocs;
    size_t refused_frees;
    size_t block_failed_allocs; /* those of the buddy */
    size_t block_refused_allocs;
    size_t block_refused_frees;
} model;

static void set_up_model(uintptr_t first, uint32_t pages, unsigned lend_order)
{
    cr_assert(pages <= MODEL_MAX);
    set_up(first, pages, lend_order);
    memset(&model, 0, sizeof(model));
    model.first = first;
    model.count = pages;
    model.lend_order = lend_order;
}

/* True when page i is the first of a used run, or of an allocated block. */
static bool is_head(uint32_t i, enum what what)
{
    return model.what[i] == what && model.head[i] == i;
}

/* The first page from `begin` on that is not `what`. */
static uint32_t end_of(uint32_t begin, enum what what)
{
    while (begin < model.count && model.what[begin] == what) {
        begin++;
    }
    return begin;
}

/* True when each of these pages is this. */
static bool all_are(uint32_t begin, uint32_t end, enum what what)
{
    return end <= model.count && end_of(begin, what) >= end;
}

static void set_all(uint32_t begin, uint32_t end, enum what what)
{
    memset(model.what + begin, (int)what, end - begin);
}

/* Enter a run or a block as one that is used. */
static void take(uint32_t begin, uint32_t pages, enum what what)
{
    set_all(begin, begin + pages, what);
    for (uint32_t i = begin; i < begin + pages; i++) {
        model.head[i] = (uint16_t)begin;
    }
    model.pages[begin] = pages;
}

/* The first page from i on with the address of a block of this order. */
static uint32_t align_up(uint32_t i, unsigned order)
{
    const uintptr_t rest =
        (0 - (model.first + i)) & (((uintptr_t)1 << order) - 1);

    return rest < model.count - i ? i + (uint32_t)rest : model.count;
}

/* Give every whole block of the lend order, all of it unused, to the buddy. */
static void give_back(void)
{
    const uint32_t pages = (uint32_t)1 << model.lend_order;

    for (uint32_t i = align_up(0, model.lend_order);
         i < model.count && pages <= model.count - i; i += pages) {
        if (all_are(i, i + pages, HELD)) {
            set_all(i, i + pages, FREE);
        }
    }
}

/* Count what the runs tell in their stats. */
static void count_runs(struct tier_runs_stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    for (uint32_t i = 0; i < model.count;) {
        uint32_t end = i + 1;

        if (model.what[i] == HELD) {
            end = end_of(i, HELD);
            stats->free_runs++;
            stats->free_pages += end - i;
            if (end - i > stats->largest_free_pages) {
                stats->largest_free_pages = end - i;
            }
        } else if (model.what[i] == RUN) {
            end = i + model.pages[i];
            stats->used_runs++;
            stats->held_pages += end - i;
        }
        i = end;
    }
    stats->held_pages += stats->free_pages;
    stats->failed_allocs = model.failed_allocs;
    stats->refused_allocs = model.refused_allocs;
    stats->refused_frees = model.refused_frees;
}

/* The order of the free block at i; free pages of the buddy end at `end`. */
static unsigned order_at(uint32_t i, uint32_t end)
{
    unsigned order = 0;

    while (order != MAX_ORDER && align_up(i, order + 1) == i &&
           end - i >= (uint32_t)1 << (order + 1)) {
        order++;
    }
    return order;
}

/* Count the blocks that the buddy's free pages form when all have joined. */
static void count_blocks(size_t blocks[])
{
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        blocks[order] = 0;
    }
    for (uint32_t i = 0; i < model.count;) {
        const uint32_t end = end_of(i, FREE);

        while (i < end) {
            const unsigned order = order_at(i, end);

            blocks[order]++;
            i += (uint32_t)1 << order;
        }
        i = end + 1;
    }
}

/* The order of the buddy's largest free block; -1 when it has none. */
static int largest_block(void)
{
    size_t blocks[MAX_ORDER + 1];
    int largest = -1;

    count_blocks(blocks);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        largest = blocks[order] != 0 ? (int)order : largest;
    }
    return largest;
}

static void verify_buddy(void)
{
    const struct tier_buddy_stats stats = buddy_stats_now();
    size_t blocks[MAX_ORDER + 1];
    size_t managed = 0;
    size_t free_pages = 0;

    count_blocks(blocks);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        cr_assert_eq(stats.free_blocks[order], blocks[order], "order %u",
                     order);
    }
    for (uint32_t i = 0; i < model.count; i++) {
        managed += model.what[i] != GONE;
        free_pages += model.what[i] == FREE;
    }
    cr_assert_eq(stats.managed_pages, managed);
    cr_assert_eq(stats.free_pages, free_pages);
    cr_assert_eq(stats.failed_allocs, model.block_failed_allocs);
    cr_assert_eq(stats.refused_allocs, model.block_refused_allocs);
    cr_assert_eq(stats.refused_frees, model.block_refused_frees);
}

/* Require that both tiers count what the model does, and are sound. */
static void verify(void)
{
    const struct tier_runs_stats stats = stats_now();
    struct tier_runs_stats expected;

    count_runs(&expected);
    cr_assert_eq(stats.held_pages, expected.held_pages);
    cr_assert_eq(stats.free_pages, expected.free_pages);
    cr_assert_eq(stats.used_runs, expected.used_runs);
    cr_assert_eq(stats.free_runs, expected.free_runs);
    cr_assert_eq(stats.largest_free_pages, expected.largest_free_pages);
    cr_assert_eq(stats.failed_allocs, expected.failed_allocs);
    cr_assert_eq(stats.refused_allocs, expected.refused_allocs);
    cr_assert_eq(stats.refused_frees, expected.refused_frees);
    verify_buddy();
    cr_assert(tier_runs_check(&runs));
    cr_assert(tier_buddy_check(&buddy));
}

/* Require that each page is what the model says. */
static void verify_pages(void)
{
    for (uint32_t i = 0; i < model.count; i++) {
        const void *const address = address_of(model.first + i);
        const bool run = is_head(i, RUN);
        const bool block = is_head(i, BLOCK);

        cr_assert_eq(tier_runs_pages(&runs, address), run ? model.pages[i] : 0);
        cr_assert_eq(tier_runs_owner(&runs, address), run ? model.owner[i] : 0);
        cr_assert_eq(tier_runs_pages(&runs, byte_of(model.first + i, 1)), 0U);
        cr_assert_eq(tier_runs_owner(&runs, byte_of(model.first + i, 1)), 0U);
        cr_assert_eq(tier_buddy_order(&buddy, address),
                     block ? (int)order_for(model.pages[i]) : -1);
        cr_assert_eq(tier_buddy_owner(&buddy, address),
                     block ? model.owner[i] : 0);
    }
}

/* Index of the page that holds a byte; false when the span has no such page. */
static bool index_of(const void *address, uint32_t *index)
{
    const uintptr_t page = (uintptr_t)address >> TIERALLOC_PAGE_SHIFT;

    if (page < model.first || page - model.first >= model.count) {
        return false;
    }
    *index = (uint32_t)(page - model.first);
    return true;
}

/* --- Calls, each made of the tiers and of the model ----------------------- */

/* Enter the block that was lent for the run [i, i + pages), if one was. */
static void lend(uint32_t i, uint32_t pages)
{
    const uint32_t after_held = end_of(i, HELD);
    const int largest = largest_block();
    unsigned order = order_for(pages);

    if (after_held - i >= pages) {
        return;
    }
    if (order < model.lend_order) {
        order = model.lend_order;
    }
    if ((int)order > largest) {
        order = (unsigned)largest;
    }
    uint32_t begin = align_up(after_held, order);

    begin -= begin > after_held ? (uint32_t)1 << order : 0;
    cr_assert(all_are(begin, begin + ((uint32_t)1 << order), FREE),
              "%u pages at %u, order %u", pages, i, order);
    set_all(begin, begin + ((uint32_t)1 << order), HELD);
}

static void *alloc(size_t pages)
{
    struct tier_runs_stats before;
    const int largest = largest_block();
    bool enough = largest >= 0 && (size_t)1 << largest >= pages;

    count_runs(&before);
    enough = enough || before.largest_free_pages >= pages;
    remember();
    void *const run = tier_runs_alloc(&runs, pages);

    if (pages == 0 || pages > TIER_RUN_MAX) {
        cr_assert_null(run);
        cr_assert(only_counted(&runs.refused_allocs));
        model.refused_allocs++;
    } else if (!enough) {
        cr_assert_null(run);
        cr_assert(only_counted(&runs.failed_allocs));
        model.failed_allocs++;
    } else {
        uint32_t i;

        cr_assert_not_null(run, "%u pages; %u in a free run, order %d free",
                           (unsigned)pages, (unsigned)before.largest_free_pages,
                           largest);
        cr_assert(index_of(run, &i));
        cr_assert_eq((uintptr_t)run % TIER_PAGE_SIZE, 0U);
        cr_assert(before.largest_free_pages < pages ||
                      all_are(i, i + (uint32_t)pages, HELD),
                  "lent without need");
        lend(i, (uint32_t)pages);
        cr_assert(all_are(i, i + (uint32_t)pages, HELD));
        take(i, (uint32_t)pages, RUN);
        model.owner[i] = 0;
        give_back();
        cr_assert_eq(tier_runs_pages(&runs, run), pages);
        cr_assert_eq(tier_runs_owner(&runs, run), 0U);
    }
    verify();
    return run;
}

/* Why a pointer is no run, or no block; TIER_OK when it is one. */
static enum tier_status verdict(const void *pointer, enum what what)
{
    uint32_t i;

    if (!index_of(pointer, &i)) {
        return TIER_ERR_FOREIGN;
    }
    if (model.what[i] == FREE || (what == RUN && model.what[i] == HELD)) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if (model.what[i] != what) {
        return TIER_ERR_FOREIGN;
    }
    if ((uintptr_t)pointer % TIER_PAGE_SIZE != 0) {
        return TIER_ERR_MISALIGNED;
    }
    return is_head(i, what) ? TIER_OK : TIER_ERR_INTERIOR;
}

static enum tier_status free_run(void *run)
{
    const enum tier_status expected = run == NULL ? TIER_OK : verdict(run, RUN);

    if (expected != TIER_OK && !TIERALLOC_CHECKS) {
        return expected; /* undefined then */
    }
    remember();
    cr_assert_eq(tier_runs_free(&runs, run), expected);
    if (expected != TIER_OK) {
        cr_assert(only_counted(&runs.refused_frees));
        model.refused_frees++;
    } else if (run == NULL) {
        cr_assert(unchanged());
    } else {
        uint32_t i = 0;

        index_of(run, &i);
        set_all(i, i + model.pages[i], HELD);
        give_back();
    }
    verify();
    return expected;
}

/* Resize the run at page i, which is one, in the model; false if it cannot. */
static bool resize_model(uint32_t i, size_t pages)
{
    const uint32_t old = model.pages[i];

    if (pages > model.count - i) {
        return false;
    }
    const uint32_t end = i + (uint32_t)pages;

    for (uint32_t at = i + old; at < end; at++) {
        if (model.what[at] != HELD && model.what[at] != FREE) {
            return false;
        }
    }
    for (uint32_t at = i + old; at < end;) {
        const uint32_t free_end = end_of(at, FREE);

        if (at == free_end) {
            at = end_of(at, HELD);
        } else {
            const uint32_t block = (uint32_t)1 << order_at(at, free_end);

            set_all(at, at + block, HELD);
            at += block;
        }
    }
    set_all(i, i + old, HELD);
    take(i, (uint32_t)pages, RUN);
    give_back();
    return true;
}

static enum tier_status resize(void *run, size_t pages)
{
    enum tier_status expected = verdict(run, RUN);
    size_t *counter = &runs.refused_frees;
    size_t *model_counter = &model.refused_frees;
    uint32_t i = 0;

    index_of(run, &i);
    if (expected == TIER_OK) {
        counter = &runs.refused_allocs;
        model_counter = &model.refused_allocs;
        if (pages == 0) {
            expected = TIER_ERR_INVALID;
        } else if (pages > TIER_RUN_MAX) {
            expected = TIER_ERR_TOO_LARGE;
        } else if (!resize_model(i, pages)) {
            expected = TIER_ERR_IN_USE;
            counter = &runs.failed_allocs;
            model_counter = &model.failed_allocs;
        }
    }
    remember();
    cr_assert_eq(tier_runs_resize(&runs, run, pages), expected);
    if (expected != TIER_OK) {
        cr_assert(only_counted(counter));
        ++*model_counter;
    } else {
        cr_assert_eq(tier_runs_pages(&runs, run), pages);
        cr_assert_eq(tier_runs_owner(&runs, run), model.owner[i]);
    }
    verify();
    return expected;
}

static void set_owner(void *run, uintptr_t owner)
{
    const enum tier_status expected = verdict(run, RUN);
    uint32_t i = 0;

    remember();
    cr_assert_eq(tier_runs_set_owner(&runs, run, owner), expected);
    if (expected == TIER_OK) {
        index_of(run, &i);
        model.owner[i] = owner;
        cr_assert_eq(tier_runs_owner(&runs, run), owner);
    } else {
        cr_assert(unchanged());
        cr_assert_eq(tier_runs_owner(&runs, run), 0U);
        cr_assert_eq(tier_runs_pages(&runs, run), 0U);
    }
}

static void trim(void)
{
    struct tier_runs_stats before;

    count_runs(&before);
    cr_assert_eq(tier_runs_trim(&runs), before.free_pages);
    for (uint32_t i = 0; i < model.count; i++) {
        model.what[i] = model.what[i] == HELD ? FREE : model.what[i];
    }
    verify();
}

/* Borrow in the model all that gather() does; returns how many pages. */
static size_t gather_model(void)
{
    size_t pages = 0;

    for (uint32_t i = 0; i < model.count;) {
        const uint32_t end = end_of(i, FREE);

        while (i < end) {
            const unsigned order = order_at(i, end);
            const uint32_t block = (uint32_t)1 << order;

            if (order < model.lend_order) {
                set_all(i, i + block, HELD);
                pages += block;
            }
            i += block;
        }
        i = end + 1;
    }
    give_back();
    return pages;
}

/* Contiguous free pages, in the runs or in the buddy: the most there are. */
static size_t longest_free(void)
{
    size_t longest = 0;
    size_t length = 0;

    for (uint32_t i = 0; i < model.count; i++) {
        const bool is_free = model.what[i] == FREE || model.what[i] == HELD;

        length = is_free ? length + 1 : 0;
        longest = length > longest ? length : longest;
    }
    return longest;
}

static void gather(void)
{
    const size_t expected = gather_model();

    cr_assert_eq(tier_runs_gather(&runs), expected);
    verify();
    if (model.lend_order == MAX_ORDER) {
        const int order = buddy_stats_now().largest_free_order;
        const size_t block = order < 0 ? 0 : (size_t)1 << order;
        const size_t longest = longest_free();

        cr_assert(block == TIER_RUN_MAX ||
                  stats_now().largest_free_pages >= longest);
    }
}

static void *alloc_block(unsigned order)
{
    const bool enough = (int)order <= largest_block();

    remember();
    void *const block = tier_buddy_alloc(&buddy, order);

    if (order > MAX_ORDER) {
        cr_assert_null(block);
        cr_assert(only_counted(&buddy.refused_allocs));
        model.block_refused_allocs++;
    } else if (!enough) {
        cr_assert_null(block);
        cr_assert(only_counted(&buddy.failed_allocs));
        model.block_failed_allocs++;
    } else {
        const uint32_t pages = (uint32_t)1 << order;
        uint32_t i;

        cr_assert(index_of(block, &i));
        cr_assert(all_are(i, i + pages, FREE));
        take(i, pages, BLOCK);
        model.owner[i] = (uintptr_t)test_random(&random_state);
        cr_assert_eq(tier_buddy_set_owner(&buddy, block, model.owner[i]),
                     TIER_OK);
    }
    verify();
    return block;
}

static enum tier_status free_block(void *block)
{
    const enum tier_status expected =
        block == NULL ? TIER_OK : verdict(block, BLOCK);

    if (expected != TIER_OK && !TIERALLOC_CHECKS) {
        return expected; /* undefined then */
    }
    remember();
    cr_assert_eq(tier_buddy_free(&buddy, block), expected);
    if (expected != TIER_OK) {
        cr_assert(only_counted(&buddy.refused_frees));
        model.block_refused_frees++;
    } else if (block != NULL) {
        uint32_t i = 0;

        index_of(block, &i);
        set_all(i, i + model.pages[i], FREE);
    }
    verify();
    return expected;
}

/* Add pages to the buddy as a region; refused unless they are in none. */
static enum tier_status add_pages(uint32_t begin, uint32_t end)
{
    const bool gone = all_are(begin, end, GONE);
    const enum tier_status expected = gone ? TIER_OK : TIER_ERR_OVERLAP;

    remember();
    cr_assert_eq(tier_buddy_add(&buddy, address_of(model.first + begin),
                                bytes_of(end - begin)),
                 expected, "pages %u to %u", begin, end);
    cr_assert(gone || unchanged());
    if (gone) {
        set_all(begin, end, FREE);
    }
    verify();
    return expected;
}

/* Take pages away from the buddy; refused unless it has all of them free. */
static enum tier_status remove_pages(uint32_t begin, uint32_t end)
{
    const bool is_free = all_are(begin, end, FREE);
    const enum tier_status expected = is_free ? TIER_OK : TIER_ERR_IN_USE;

    remember();
    cr_assert_eq(tier_buddy_remove(&buddy, address_of(model.first + begin),
                                   bytes_of(end - begin)),
                 expected, "pages %u to %u", begin, end);
    cr_assert(is_free || unchanged());
    if (is_free) {
        set_all(begin, end, GONE);
    }
    verify();
    return expected;
}

/* --- Random runs ---------------------------------------------------------- */

/* The first page of a used run or block near a random page; a page if none. */
static void *random_head(enum what what)
{
    uint32_t i = below(model.count);

    for (uint32_t tries = 0; tries < model.count && !is_head(i, what);
         tries++) {
        i = (i + 1) % model.count;
    }
    return address_of(model.first + i);
}

/* A pointer that is likely wrong to free: in or near the span. */
static void *random_pointer(void)
{
    const uintptr_t page = model.first - 2 + below(model.count + 4);

    switch (below(6)) {
    case 0:
    case 1:
        return byte_of(page, 1 + below((uint32_t)TIER_PAGE_SIZE - 1));
    case 2:
        return (void *)(uintptr_t)test_random(&random_state);
    case 3:
        return byte_of((uintptr_t)random_head(RUN) >> TIERALLOC_PAGE_SHIFT,
                       below(2) * 8);
    default:
        return address_of(page);
    }
}

/* A length of a run; small ones are likelier. Sometimes a wrong one. */
static size_t random_pages(void)
{
    const uint32_t most =
        TIER_RUN_MAX < model.count ? (uint32_t)TIER_RUN_MAX : model.count;

    switch (below(40)) {
    case 0:
        return 0;
    case 1:
        return TIER_RUN_MAX + 1 + below(40);
    case 2:
        return SIZE_MAX - below(40);
    case 3:
    case 4: /* about a power of two */
        return ((size_t)1 << below(MAX_ORDER + 1)) - 1 + below(3);
    case 5:
    case 6: /* exactly what a free run has, or a page more */
        return stats_now().largest_free_pages + below(2);
    default:
        return 1 + below(1 + below(1 + below(most)));
    }
}

static void change_region(void)
{
    const uint32_t begin = below(model.count);
    const uint32_t rest = model.count - begin;
    const uint32_t pages = 1 + below(rest < 9 || below(4) == 0 ? rest : 8);

    if (below(2) == 0) {
        add_pages(begin, begin + pages);
    } else {
        remove_pages(begin, begin + pages);
    }
}

static void random_step(void)
{
    const uint32_t what = below(100);

    if (what < 34) {
        alloc(random_pages());
    } else if (what < 58) {
        free_run(random_head(RUN));
    } else if (what < 64) {
        free_run(random_pointer());
    } else if (what < 76) {
        void *const run = below(8) == 0 ? random_pointer() : random_head(RUN);
        const size_t pages = tier_runs_pages(&runs, run);

        resize(run, below(2) == 0 ? random_pages() : pages + 4 - below(7));
    } else if (what < 82) {
        set_owner(below(4) == 0 ? random_pointer() : random_head(RUN),
                  (uintptr_t)test_random(&random_state));
    } else if (what < 87) {
        alloc_block(below(60) == 0 ? MAX_ORDER + 1
                                   : below(1 + below(MAX_ORDER + 1)));
    } else if (what < 92) {
        free_block(below(4) == 0 ? random_pointer() : random_head(BLOCK));
    } else if (what < 94) {
        trim();
    } else if (what < 96) {
        gather();
    } else {
        change_region();
    }
}

/* Free every run and block; then the buddy must have all of it, whole. */
static void free_all(void)
{
    for (uint32_t i = 0; i < model.count; i++) {
        if (is_head(i, RUN)) {
            cr_assert_eq(free_run(address_of(model.first + i)), TIER_OK);
        } else if (is_head(i, BLOCK)) {
            cr_assert_eq(free_block(address_of(model.first + i)), TIER_OK);
        }
    }
    trim();
    cr_assert_eq(stats_now().held_pages, 0U);
    cr_assert_eq(buddy_stats_now().free_pages, buddy_stats_now().managed_pages);
}

/* Run on a span of these pages, at first with one region or several in it. */
static void random_run(uintptr_t first, uint32_t pages, unsigned lend_order,
                       bool gaps)
{
    const uint32_t steps =
        pages <= 64 ? TIERALLOC_TEST_STEPS / 4 : TIERALLOC_TEST_STEPS / 32;

    set_up_model(first, pages, lend_order);
    random_state += first ^ pages ^ (lend_order << 8);
    for (uint32_t begin = 0; begin < pages;) {
        const uint32_t end = gaps ? begin + 1 + below(pages) : pages;

        add_pages(begin, end < pages ? end : pages);
        begin = end + 1 + below(5);
    }
    for (uint32_t step = 0; step < steps; step++) {
        random_step();
        if (step % (1 + pages / 8) == 0) {
            verify_pages();
        }
    }
    free_all();
    verify_pages();
}

static const uint32_t run_pages[] = {1, 2, 3, 7, 8, 64, 1000, MODEL_MAX};

/* Run on spans of many sizes and places. */
static void random_runs(unsigned lend_order)
{
    for (size_t i = 0; i < COUNT(run_pages); i++) {
        const uint32_t pages = run_pages[i];

        random_run(MIDDLE, pages, lend_order, false);
        random_run(MIDDLE - 3, pages, lend_order, true);
        random_run(MIDDLE + 1, pages, lend_order, false);
        random_run(1, pages, lend_order, true);
        random_run(TOP - pages + 1, pages, lend_order, true);
    }
}

Test(runs, agree_with_a_model_when_pages_are_lent)
{
    random_runs(0);
}

Test(runs, agree_with_a_model_when_blocks_of_8_are_lent)
{
    random_runs(capped(3));
}

Test(runs, agree_with_a_model_when_blocks_of_32_are_lent)
{
    random_runs(capped(5));
}

Test(runs, agree_with_a_model_when_the_largest_blocks_are_lent)
{
    random_runs(MAX_ORDER);
}

/* --- Every state of a small region ---------------------------------------- */

/*
 * From each state that calls can reach, make every call there is. A state is
 * the kinds of the pages, the lengths of the used runs and the order of the
 * lists, on which alone the result of a call depends.
 */
#if TIERALLOC_TEST_STEPS >= 20000
#define WALK_PAGES  8
#define WALK_STATES 30000
#else
#define WALK_PAGES  5
#define WALK_STATES 2000
#endif
#define WALK_SPAN 8

struct state {
    uint8_t kind[WALK_SPAN];
    uint8_t place[WALK_SPAN];  /* of a free head, from the front of its list */
    uint8_t length[WALK_SPAN]; /* of a used run */
    struct tier_runs runs;
    struct tier_buddy buddy;
    uint8_t metadata[METADATA(WALK_SPAN)];
    uint8_t what[WALK_SPAN];
    uint16_t head[WALK_SPAN];
    uint32_t pages[WALK_SPAN];
    uintptr_t owner[WALK_SPAN];
};

static struct state states[WALK_STATES];
static uint16_t state_table[65536]; /* open hashing; index + 1 */
static uint16_t state_count;

/* Note the places of all entries on a list. */
static void describe_list(struct state *state, uint32_t head)
{
    uint8_t place = 1;

    for (uint32_t at = head; at != TIER_PAGE_NIL;
         at = map.entry[at].link.next) {
        state->place[at] = place++;
    }
}

/* Describe the present in states[state_count]. */
static struct state *describe(void)
{
    struct state *const state = &states[state_count];

    cr_assert(state_count < WALK_STATES);
    memset(state, 0, sizeof(*state));
    memcpy(state->kind, map.kind, model.count);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        describe_list(state, buddy.lists[order].head);
    }
    for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
        describe_list(state, runs.bins[bin]);
    }
    for (uint32_t i = 0; i < model.count; i++) {
        state->length[i] = (uint8_t)(is_head(i, RUN) ? model.pages[i] : 0);
    }
    return state;
}

/* Keep the present state, unless it was kept before. */
static void keep_state(void)
{
    struct state *const state = describe();
    const size_t key = offsetof(struct state, runs);
    uint32_t slot = 2166136261U; /* FNV-1a */

    for (size_t i = 0; i < key; i++) {
        slot = (slot ^ ((const uint8_t *)state)[i]) * 16777619U;
    }
    for (slot %= COUNT(state_table); state_table[slot] != 0;
         slot = (slot + 1) % COUNT(state_table)) {
        if (memcmp(&states[state_table[slot] - 1], state, key) == 0) {
            return;
        }
    }
    memcpy(&state->runs, &runs, sizeof(runs));
    memcpy(&state->buddy, &buddy, sizeof(buddy));
    memcpy(state->metadata, metadata, metadata_bytes);
    memcpy(state->what, model.what, model.count * sizeof(model.what[0]));
    memcpy(state->head, model.head, model.count * sizeof(model.head[0]));
    memcpy(state->pages, model.pages, model.count * sizeof(model.pages[0]));
    memcpy(state->owner, model.owner, model.count * sizeof(model.owner[0]));
    state_table[slot] = ++state_count;
}

/* Return to a state that was kept. */
static void go_to(const struct state *state)
{
    memcpy(&runs, &state->runs, sizeof(runs));
    memcpy(&buddy, &state->buddy, sizeof(buddy));
    memcpy(metadata, state->metadata, metadata_bytes);
    memcpy(model.what, state->what, model.count * sizeof(model.what[0]));
    memcpy(model.head, state->head, model.count * sizeof(model.head[0]));
    memcpy(model.pages, state->pages, model.count * sizeof(model.pages[0]));
    memcpy(model.owner, state->owner, model.count * sizeof(model.owner[0]));

    model.failed_allocs = runs.failed_allocs;
    model.refused_allocs = runs.refused_allocs;
    model.refused_frees = runs.refused_frees;
    model.block_failed_allocs = buddy.failed_allocs;
    model.block_refused_allocs = buddy.refused_allocs;
    model.block_refused_frees = buddy.refused_frees;
}

/* Make call number `call`; false when there are fewer. */
static bool make_call(uint32_t call)
{
    const uint32_t pages = model.count;
    const uint32_t orders = (MAX_ORDER < 3 ? MAX_ORDER : 3) + 1;

    if (call <= pages) {
        alloc(call);
        return true;
    }
    call -= pages + 1;
    if (call < pages * 2) {
        free_run(byte_of(model.first + call / 2, call % 2));
        return true;
    }
    call -= pages * 2;
    if (call < pages * (pages + 1)) {
        void *const run = address_of(model.first + call % pages);

        if (verdict(run, RUN) == TIER_OK) {
            resize(run, call / pages);
        }
        return true;
    }
    call -= pages * (pages + 1);
    if (call < orders) {
        alloc_block(call);
        return true;
    }
    call -= orders;
    if (call < pages) {
        free_block(address_of(model.first + call));
    } else if (call == pages) {
        trim();
    } else if (call == pages + 1) {
        gather();
    }
    return call <= pages + 1;
}

/* Make every call in every state. */
static void walk(uintptr_t first, uint32_t pages, unsigned lend_order)
{
    set_up_model(first, pages, lend_order);
    cr_assert(metadata_bytes <= sizeof(states[0].metadata));
    memset(state_table, 0, sizeof(state_table));
    state_count = 0;
    add_pages(0, pages);
    keep_state();
    for (uint16_t at = 0; at < state_count; at++) {
        go_to(&states[at]);
        for (uint32_t call = 0; make_call(call); call++) {
            keep_state();
            go_to(&states[at]);
        }
    }
}

Test(runs, are_right_in_every_state_of_an_aligned_region)
{
    walk(MIDDLE, WALK_PAGES - 2, 0);
    walk(MIDDLE, WALK_PAGES - 2, capped(1));
    walk(MIDDLE, WALK_PAGES - 2, capped(2));
}

Test(runs, are_right_in_every_state_of_an_unaligned_region)
{
    walk(MIDDLE - 3, WALK_PAGES - 2, capped(1));
    walk(MIDDLE - 3, WALK_PAGES - 2, capped(2));
    walk(TOP - (WALK_PAGES - 3), WALK_PAGES - 2, capped(3));
}

/* --- Filling -------------------------------------------------------------- */

static void *live[SPAN_MAX];

/* Allocate runs of a length until there is none; return how many. */
static size_t fill(size_t pages)
{
    const size_t failed = stats_now().failed_allocs;
    const size_t before = stats_now().used_runs;
    size_t count = 0;

    for (;;) {
        void *const run = tier_runs_alloc(&runs, pages);

        if (run == NULL) {
            break;
        }
        cr_assert(count < COUNT(live));
        live[count++] = run;
    }
    cr_assert_eq(stats_now().failed_allocs, failed + 1);
    cr_assert_eq(stats_now().used_runs, before + count);
    cr_assert(sound());

    /* Nothing that is free is long enough. */
    cr_assert(stats_now().largest_free_pages < pages, "%u of %u pages",
              (unsigned)stats_now().largest_free_pages, (unsigned)pages);
    cr_assert(buddy_stats_now().largest_free_order < (int)order_for(pages));
    return count;
}

/* Free the first runs of live[] in a random order. */
static void free_shuffled(size_t count)
{
    while (count != 0) {
        const size_t i = below((uint32_t)count);

        cr_assert_eq(tier_runs_free(&runs, live[i]), TIER_OK);
        live[i] = live[--count];
        cr_assert(count % 512 != 0 || sound());
    }
}

/*
 * Fill four of the largest blocks with runs of each length in turn; at least
 * as many fit as if no run lay across a bound of what was lent.
 */
static void fill_at_every_length(unsigned lend_order)
{
    const size_t whole = (size_t)4 << capped(11);

    for (size_t pages = 1; pages <= TIER_RUN_MAX && pages <= whole / 4;
         pages++) {
        const unsigned order =
            order_for(pages) > lend_order ? order_for(pages) : lend_order;

        set_up_region(MIDDLE, whole, lend_order);
        const struct tier_buddy_stats empty = buddy_stats_now();
        const size_t count = fill(pages);

        cr_assert(count >= (whole >> order) * (((size_t)1 << order) / pages),
                  "%u runs of %u pages", (unsigned)count, (unsigned)pages);
        free_shuffled(count);

        const struct tier_buddy_stats again = buddy_stats_now();

        cr_assert(
            same_free(&again, &empty)); /* each block went back by itself */
        cr_assert_eq(tier_runs_trim(&runs), 0U);
        cr_assert_eq(stats_now().held_pages, 0U);
    }
}

Test(runs, fill_a_region_at_every_length)
{
    fill_at_every_length(0);
    fill_at_every_length(capped(3));
    fill_at_every_length(capped(5));
    fill_at_every_length(capped(11));
}

/* Fill regions with ever shorter runs; at last no page may be left. */
static void fill_to_the_last_page(uintptr_t first, size_t pages,
                                  unsigned lend_order)
{
    size_t free_pages = 0;
    size_t used = 0;

    set_up(first, pages, lend_order);
    for (size_t begin = 0; begin < pages; begin += 301) {
        const size_t rest = pages - begin;
        const size_t part = rest < 300 ? rest : 300;

        cr_assert_eq(
            tier_buddy_add(&buddy, address_of(first + begin), bytes_of(part)),
            TIER_OK);
        free_pages += part;
    }
    const struct tier_buddy_stats empty = buddy_stats_now();

    for (size_t length = TIER_RUN_MAX; length != 0;
         length -= (length + 5) / 6) {
        void *run;

        while ((run = tier_runs_alloc(&runs, length)) != NULL) {
            live[used++] = run;
            free_pages -= length;
        }
    }
    cr_assert_eq(free_pages, 0U);
    cr_assert_eq(stats_now().free_pages, 0U);
    cr_assert_eq(buddy_stats_now().free_pages, 0U);
    cr_assert(sound());
    free_shuffled(used);
    tier_runs_trim(&runs);

    const struct tier_buddy_stats again = buddy_stats_now();

    cr_assert(same_free(&again, &empty));
    cr_assert_eq(stats_now().held_pages, 0U);
    cr_assert(sound());
}

Test(runs, fill_regions_to_the_last_page_and_give_back_what_was_there)
{
    static const unsigned lend_orders[] = {0, 3, 5, MAX_ORDER};

    for (size_t i = 0; i < COUNT(lend_orders); i++) {
        const unsigned lend_order = capped(lend_orders[i]);

        fill_to_the_last_page(MIDDLE, 1, lend_order);
        fill_to_the_last_page(MIDDLE - 1, 2, lend_order);
        fill_to_the_last_page(MIDDLE - 3, 1000, lend_order);
        fill_to_the_last_page(MIDDLE + 7, SPAN_MAX, lend_order);
        fill_to_the_last_page(TOP - 1022, 1023, lend_order);
    }
}

#if TIERALLOC_MAX_ORDER >= 10 && TIERALLOC_PAGE_SHIFT >= 12
static size_t live_bytes[SPAN_MAX];

/* A number below a bound, drawn as the published figures were. */
static size_t draw(size_t bound)
{
    return (size_t)(test_random(&random_state) % bound);
}

/* Bytes of 1 to 256 pages: a power of two, then a number from it to the next */
static size_t draw_bytes(void)
{
    const size_t least = (size_t)1 << (TIERALLOC_PAGE_SHIFT + draw(8));

    return least + draw(least);
}

/*
 * Allocate runs of 1 to 256 pages with p = 0.6, else free a random one, until
 * the first failure; the most bytes in use at once, in permille of an arena
 * that pays for the metadata too.
 */
static unsigned churn(uint64_t seed)
{
    const size_t used =
        (METADATA(SPAN_MAX) + TIER_PAGE_SIZE - 1) >> TIERALLOC_PAGE_SHIFT;
    size_t count = 0;
    size_t bytes = 0;
    size_t peak = 0;

    set_up(MIDDLE, SPAN_MAX, MAX_ORDER);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE + used),
                                bytes_of(SPAN_MAX - used)),
                 TIER_OK);
    random_state = seed;
    for (;;) {
        if (count == 0 || draw(10) < 6) {
            const size_t size = draw_bytes();

            live[count] = tier_runs_alloc(&runs, (size + TIER_PAGE_SIZE - 1) >>
                                                     TIERALLOC_PAGE_SHIFT);
            if (live[count] == NULL) {
                break;
            }
            live_bytes[count++] = size;
            bytes += size;
            peak = bytes > peak ? bytes : peak;
        } else {
            const size_t i = draw(count);

            cr_assert_eq(tier_runs_free(&runs, live[i]), TIER_OK);
            bytes -= live_bytes[i];
            live[i] = live[--count];
            live_bytes[i] = live_bytes[count];
        }
        cr_assert(count % 64 != 0 || sound());
    }
    return (unsigned)(peak / (bytes_of(SPAN_MAX) / 1000));
}

Test(runs, keep_920_permille_of_an_arena_in_use_under_churn)
{
    unsigned above = 0; /* seeds: the median of five is not less */

    for (uint64_t seed = 1; seed <= 5; seed++) {
        above += churn(TEST_SEED + seed) >= 920;
    }
    cr_assert(above >= 3, "by %u of 5 seeds", above);
}
#endif

#if defined(__linux__) && UINTPTR_MAX > 0xFFFFFFFFU
/* Four of the largest blocks there are; only a host has room for metadata. */
#define HUGE_PAGES ((size_t)4 << 18)

static _Alignas(8) uint8_t huge_metadata[METADATA(HUGE_PAGES)];

Test(runs, of_any_length_come_and_go_in_a_huge_region)
{
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)address_of(MIDDLE),
                                   bytes_of(HUGE_PAGES), huge_metadata,
                                   sizeof(huge_metadata)),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_runs_init(&runs, &buddy, MAX_ORDER), TIER_OK);
    cr_assert_eq(
        tier_buddy_add(&buddy, address_of(MIDDLE), bytes_of(HUGE_PAGES)),
        TIER_OK);
    const struct tier_buddy_stats empty = buddy_stats_now();
    size_t count = 0;

    random_state = TEST_SEED;
    for (unsigned step = 0; step < 3000; step++) {
        if (count == 0 || below(10) < 6) {
            const size_t pages = 1 + below((uint32_t)1 << below(MAX_ORDER + 1));
            void *const run = tier_runs_alloc(&runs, pages);

            if (run != NULL) {
                cr_assert_eq(tier_runs_pages(&runs, run), pages);
                live[count++] = run;
            }
        } else {
            const size_t i = below((uint32_t)count);

            cr_assert_eq(tier_runs_free(&runs, live[i]), TIER_OK);
            live[i] = live[--count];
        }
        cr_assert(step % 64 != 0 || sound());
    }
    while (count != 0) {
        cr_assert_eq(tier_runs_free(&runs, live[--count]), TIER_OK);
    }
    const struct tier_buddy_stats again = buddy_stats_now();

    cr_assert(same_free(&again, &empty));
    cr_assert(sound());
}
#endif

/* --- Bins ----------------------------------------------------------------- */

Test(runs, lie_in_exact_bins_at_first_and_in_eight_per_doubling_then)
{
    const size_t longest = (size_t)2 << MAX_ORDER;
    size_t step = 4;
    size_t bin = 31;

    for (size_t pages = 1; pages <= 32; pages++) {
        cr_assert_eq(tier_run_bin_(pages), pages - 1);
        cr_assert_eq(tier_run_bin_above_(pages), pages - 1);
    }
    for (size_t pages = 33; pages < longest; pages++) {
        if (pages == 33 || pages % step == 0) {
            bin++;
        }
        if (pages == step * 16) {
            step *= 2;
        }
        cr_assert_eq(tier_run_bin_(pages), bin, "%u pages", (unsigned)pages);
        cr_assert_eq(tier_run_bin_above_(pages),
                     tier_run_bin_(pages - 1) == bin ? bin + 1 : bin);
    }
    cr_assert(bin < TIER_RUN_BINS);
}

Test(runs, take_a_little_memory_for_the_struct)
{
    cr_assert(sizeof(struct tier_runs) <=
              16 * sizeof(void *) + 4 * (TIER_RUN_BINS + TIER_RUN_WORDS));
}

/* --- Lifecycle ------------------------------------------------------------ */

Test(runs, refuse_to_lend_blocks_that_are_too_large)
{
    static const unsigned orders[] = {MAX_ORDER + 1, 31, 32, 64, UINT32_MAX};

    set_up_region(MIDDLE, 8, 0);
    memset(&runs, 0x5A, sizeof(runs));
    remember();
    for (size_t i = 0; i < COUNT(orders); i++) {
        cr_assert_eq(tier_runs_init(&runs, &buddy, orders[i]),
                     TIER_ERR_INVALID);
        cr_assert(unchanged());
    }
}

Test(runs, hold_nothing_at_first)
{
    for (unsigned lend_order = 0; lend_order <= MAX_ORDER; lend_order++) {
        set_up_model(MIDDLE, 4, lend_order);
        verify();
        cr_assert_eq(stats_now().held_pages, 0U);
        alloc(1);
        trim();
        add_pages(0, 4);
        cr_assert_eq(stats_now().held_pages, 0U);
    }
}

Test(runs, lend_the_blocks_of_the_lend_order)
{
    for (unsigned lend_order = 0; lend_order <= capped(13); lend_order++) {
        set_up_region(MIDDLE, (size_t)1 << capped(13), lend_order);
        cr_assert_not_null(tier_runs_alloc(&runs, 1));
        cr_assert_eq(stats_now().held_pages, (size_t)1 << lend_order);
        cr_assert_eq(stats_now().free_pages, ((size_t)1 << lend_order) - 1);
        cr_assert_eq(tier_runs_free(&runs, address_of(MIDDLE)), TIER_OK);
        cr_assert_eq(stats_now().held_pages, 0U);
    }
}

Test(runs, lend_smaller_blocks_when_there_are_no_others)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_model(MIDDLE, 15, 3);
    add_pages(1, 15); /* in blocks of 1, 2, 4, 4, 2, 1 pages */
    if (alloc(5) != NULL) {
        cr_assert_fail("there was no such block");
    }
    for (uint32_t left = 14; left != 0; left--) {
        cr_assert_not_null(alloc(1));
    }
    cr_assert_null(alloc(1));
    free_all();
}

Test(runs, split_no_larger_block_than_they_need)
{
    for (unsigned order = 0; order < capped(5); order++) {
        const size_t pages = (size_t)1 << order;

        set_up(MIDDLE, 4 * pages, 0);
        cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE + pages),
                                    bytes_of(3 * pages)),
                     TIER_OK);
        cr_assert_eq(tier_runs_alloc(&runs, pages), address_of(MIDDLE + pages));
        cr_assert_eq(buddy_stats_now().free_blocks[order + 1], 1U);
        cr_assert_eq(buddy_stats_now().peak_used_pages, pages);
    }
}

/* --- Allocation ----------------------------------------------------------- */

/* Runs in 16 pages of which 8 are lent: a free run of 5 behind one of 3. */
static void *set_up_three(void)
{
    set_up_model(MIDDLE, 16, capped(3));
    add_pages(0, 8);
    return alloc(3);
}

Test(runs, begin_where_a_free_run_begins)
{
    if (MAX_ORDER < 3) {
        return;
    }
    cr_assert_eq(set_up_three(), address_of(MIDDLE));
    cr_assert_eq(alloc(2), address_of(MIDDLE + 3));
    cr_assert_eq(alloc(1), address_of(MIDDLE + 5));
    free_run(address_of(MIDDLE + 3));
    cr_assert_eq(alloc(1), address_of(MIDDLE + 3));
}

Test(runs, take_the_shortest_free_run_that_fits)
{
    if (MAX_ORDER < 4) {
        return;
    }
    set_up_model(MIDDLE, 16, 4);
    add_pages(0, 16);
    for (uintptr_t page = 0; page < 16; page++) {
        cr_assert_eq(alloc(1), address_of(MIDDLE + page));
    }
    for (uintptr_t page = 0; page < 16; page++) {
        if (page != 4 && page != 7 && page != 9 && page != 15) {
            free_run(address_of(MIDDLE + page)); /* 4, 2, 1 and 5 are free */
        }
    }
    cr_assert_eq(alloc(4), address_of(MIDDLE));
    cr_assert_eq(alloc(1), address_of(MIDDLE + 8));
    cr_assert_eq(alloc(1), address_of(MIDDLE + 5));
    cr_assert_eq(alloc(2), address_of(MIDDLE + 10));
    cr_assert_eq(alloc(3), address_of(MIDDLE + 12));
    cr_assert_eq(alloc(1), address_of(MIDDLE + 6));
    cr_assert_null(alloc(1));
}

/* Make a free run of exactly `length` of so many pages all there is. */
static void only_free_run(size_t length, size_t pages)
{
    set_up_region(MIDDLE, pages, MAX_ORDER);
    if (length < pages) {
        cr_assert_eq(tier_runs_alloc(&runs, pages - length),
                     address_of(MIDDLE));
        cr_assert_eq(stats_now().largest_free_pages, length);
        cr_assert_eq(buddy_stats_now().free_pages, 0U);
    }
}

Test(runs, of_each_length_fit_a_free_run_of_that_length)
{
    const size_t most = (size_t)1 << capped(11);

    for (size_t length = 1; length <= most; length++) {
        only_free_run(length, most);
        cr_assert_not_null(tier_runs_alloc(&runs, length), "%u pages",
                           (unsigned)length);
        cr_assert_eq(stats_now().free_pages, 0U);
        cr_assert(sound());
    }
}

Test(runs, of_no_length_fit_a_free_run_that_is_a_page_short)
{
    const size_t most = (size_t)1 << capped(11);

    for (size_t length = 1; length < most; length++) {
        only_free_run(length, most);
        remember();
        cr_assert_null(tier_runs_alloc(&runs, length + 1));
        cr_assert(only_counted(&runs.failed_allocs));
    }
}

Test(runs, lie_across_blocks_that_were_lent_one_by_one)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_model(MIDDLE, 16, 2);
    add_pages(0, 16);
    for (uintptr_t page = 0; page < 16; page++) {
        alloc(1);
    }
    for (uintptr_t page = 1; page < 7; page++) {
        free_run(address_of(MIDDLE + page)); /* 1 to 6: of two blocks */
    }
    cr_assert_eq(alloc(6), address_of(MIDDLE + 1));
}

/* --- Giving back ---------------------------------------------------------- */

Test(runs, keep_no_whole_block_when_the_last_run_in_it_goes)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_model(MIDDLE, 8, 3);
    add_pages(0, 8);
    alloc(3);
    alloc(4);
    alloc(1);
    free_run(address_of(MIDDLE + 3));
    free_run(address_of(MIDDLE));
    cr_assert_eq(stats_now().held_pages, 8U);
    free_run(address_of(MIDDLE + 7));
    cr_assert_eq(stats_now().held_pages, 0U);
}

Test(runs, keep_no_whole_block_behind_a_run_longer_than_one)
{
    for (unsigned lend_order = 0; lend_order < capped(11); lend_order++) {
        const size_t block = (size_t)1 << lend_order;

        for (size_t pages = block + 1; pages <= TIER_RUN_MAX && pages <= 600;
             pages++) {
            set_up_region(MIDDLE, (size_t)1 << order_for(pages), lend_order);
            cr_assert_not_null(tier_runs_alloc(&runs, pages));
            cr_assert(stats_now().free_pages < block, "%u pages, order %u",
                      (unsigned)pages, lend_order);
            cr_assert(sound());
        }
    }
}

Test(runs, keep_no_whole_block_of_parts_that_were_lent_apart)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_model(MIDDLE, 8, 3);
    add_pages(0, 8);
    void *const low = alloc_block(2);
    void *const high = alloc_block(2);

    cr_assert_neq(low, high);
    free_block(low);
    alloc(4);
    free_block(high);
    alloc(4);
    cr_assert_eq(stats_now().held_pages, 8U);
    free_run(low);
    cr_assert_eq(stats_now().held_pages, 8U);
    free_run(high);
    cr_assert_eq(stats_now().held_pages, 0U);
    cr_assert_eq(buddy_stats_now().free_blocks[3], 1U);
}

Test(runs, keep_the_pages_before_and_behind_a_whole_block)
{
    if (MAX_ORDER < 4) {
        return;
    }
    set_up_model(MIDDLE, 16, 2);
    add_pages(0, 16);
    for (uint32_t i = 0; i < 16; i++) {
        alloc(1);
    }
    for (uint32_t page = 2; page < 14; page++) {
        free_run(address_of(MIDDLE + page)); /* two blocks go, and parts stay */
    }
    cr_assert_eq(stats_now().free_runs, 2U);
    cr_assert_eq(stats_now().free_pages, 4U);
    cr_assert_eq(stats_now().held_pages, 8U);
}

Test(runs, give_several_blocks_back_at_once)
{
    if (MAX_ORDER < 4) {
        return;
    }
    set_up_model(MIDDLE, 16, 1);
    add_pages(0, 16);
    void *const run = alloc(15);

    cr_assert_eq(stats_now().held_pages, 16U);
    cr_assert_eq(resize(run, 5), TIER_OK);
    cr_assert_eq(stats_now().held_pages, 6U); /* page 15 was free before */
    free_run(run);
    cr_assert_eq(stats_now().held_pages, 0U);
}

Test(runs, give_back_every_free_page_when_trimmed)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_three();
    cr_assert_eq(stats_now().free_pages, 5U);
    trim();
    cr_assert_eq(stats_now().held_pages, 3U);
    cr_assert_eq(tier_runs_trim(&runs), 0U);
    free_run(address_of(MIDDLE));
    cr_assert_eq(stats_now().held_pages, 3U); /* no whole block of 8 is held */
    trim();
    cr_assert_eq(stats_now().held_pages, 0U);
    cr_assert_eq(buddy_stats_now().free_blocks[3], 1U);
}

/* --- Gathering ------------------------------------------------------------ */

/* The arena of a gathering: `used` has a bit for each page that is. */
#if TIERALLOC_TEST_STEPS >= 20000
#define GATHER_PAGES 11
#else
#define GATHER_PAGES 8
#endif

/* Take each page, in runs where `lent` has a bit, and free what is not used. */
static void scatter(uintptr_t first, uint32_t used, uint32_t lent)
{
    set_up_region(first, GATHER_PAGES, MAX_ORDER);
    for (uint32_t i = 0; i < GATHER_PAGES; i++) {
        if ((lent >> i & 1) == 0) {
            cr_assert_eq(tier_buddy_alloc_at(&buddy, address_of(first + i), 0),
                         TIER_OK);
        }
    }
    for (uint32_t i = 0; i < GATHER_PAGES; i++) {
        cr_assert((lent >> i & 1) == 0 || tier_runs_alloc(&runs, 1) != NULL);
    }
    for (uint32_t i = 0; i < GATHER_PAGES; i++) {
        void *const page = address_of(first + i);

        if ((used >> i & 1) == 0) {
            cr_assert_eq((lent >> i & 1) != 0 ? tier_runs_free(&runs, page)
                                              : tier_buddy_free(&buddy, page),
                         TIER_OK);
        }
    }
    cr_assert(sound());
}

/* The most contiguous pages without a bit in `used`. */
static size_t longest_gap(uint32_t used)
{
    size_t longest = 0;
    size_t length = 0;

    for (uint32_t i = 0; i < GATHER_PAGES; i++) {
        length = (used >> i & 1) == 0 ? length + 1 : 0;
        longest = length > longest ? length : longest;
    }
    return longest;
}

/* Require that just the lengths up to `longest` can be allocated. */
static void require_all_lengths(size_t longest)
{
    for (size_t pages = 1; pages <= GATHER_PAGES; pages++) {
        const bool fits = pages <= longest && pages <= TIER_RUN_MAX;

        tier_runs_gather(&runs); /* a free gave whole blocks back, maybe */
        void *const run = tier_runs_alloc(&runs, pages);

        cr_assert_eq(run != NULL, fits, "%u pages of %u", (unsigned)pages,
                     (unsigned)longest);
        cr_assert_eq(tier_runs_free(&runs, run), TIER_OK);
    }
    cr_assert(sound());
}

/* Every set of used pages, every gap of which was freed by runs and blocks. */
static void gather_every(uintptr_t first)
{
    for (uint32_t used = 0; used < (uint32_t)1 << GATHER_PAGES; used++) {
        const uint32_t lent[] = {0, UINT32_MAX, 0x55555555, 0x0F0F0F0F,
                                 below(UINT32_MAX)};

        for (size_t i = 0; i < COUNT(lent); i++) {
            scatter(first, used, lent[i]);
            require_all_lengths(longest_gap(used));
        }
    }
}

Test(runs, fit_wherever_pages_are_contiguous_once_those_are_gathered)
{
    gather_every(MIDDLE);
    gather_every(MIDDLE + 3);
    gather_every(TOP - GATHER_PAGES + 1);
}

Test(runs, borrow_just_the_blocks_that_are_too_small_to_stay)
{
    for (unsigned lend_order = 1; lend_order <= capped(4); lend_order++) {
        const uint32_t block = (uint32_t)1 << lend_order;

        set_up_model(MIDDLE - block + 1, 4 * block, lend_order);
        add_pages(0, 4 * block);
        gather();
        cr_assert_eq(stats_now().held_pages, block);
        cr_assert_eq(stats_now().held_pages + buddy_stats_now().free_pages,
                     4U * block);
        gather();
        trim();
        cr_assert_eq(stats_now().held_pages, 0U);
    }
}

/* --- Resizing ------------------------------------------------------------- */

Test(runs, grow_into_the_free_run_behind_them_and_no_further)
{
    if (MAX_ORDER < 3) {
        return;
    }
    void *const run = set_up_three();

    set_owner(run, 77);
    cr_assert_eq(resize(run, 3), TIER_OK);
    cr_assert_eq(resize(run, 4), TIER_OK);
    cr_assert_eq(stats_now().free_pages, 4U);
    cr_assert_eq(resize(run, 9 <= TIER_RUN_MAX ? 9 : 8),
                 TIER_RUN_MAX > 8 ? TIER_ERR_IN_USE : TIER_OK);
    cr_assert_eq(resize(run, 8), TIER_OK);
    cr_assert_eq(stats_now().free_runs, 0U);
    cr_assert_eq(tier_runs_owner(&runs, run), 77U);
}

Test(runs, do_not_grow_into_a_block_or_a_run_in_use)
{
    if (MAX_ORDER < 3) {
        return;
    }
    void *const run = set_up_three();

    alloc(5);
    cr_assert_eq(resize(run, 4), TIER_ERR_IN_USE);
    cr_assert_eq(resize(address_of(MIDDLE + 3), 6), TIER_ERR_IN_USE);
    add_pages(8, 16);
    alloc_block(3);
    cr_assert_eq(resize(run, 4), TIER_ERR_IN_USE);
    cr_assert_eq(resize(address_of(MIDDLE + 3), 6), TIER_ERR_IN_USE);
}

Test(runs, grow_into_a_free_block_behind_them)
{
    if (MAX_ORDER < 4) {
        return;
    }
    void *const run = set_up_three();

    add_pages(8, 16);
    set_owner(run, 77);
    cr_assert_eq(buddy_stats_now().free_pages, 8U);
    cr_assert_eq(resize(run, 9), TIER_OK);
    cr_assert_eq(buddy_stats_now().free_pages, 0U);
    cr_assert_eq(stats_now().largest_free_pages, 7U);
    cr_assert_eq(resize(run, 16), TIER_OK);
    cr_assert_eq(stats_now().free_pages, 0U);
    cr_assert_eq(resize(run, TIER_RUN_MAX == 16 ? 16 : 17),
                 TIER_RUN_MAX == 16 ? TIER_OK : TIER_ERR_IN_USE);
    cr_assert_eq(resize(run, 8), TIER_OK); /* the block behind goes back */
    cr_assert_eq(buddy_stats_now().free_pages, 8U);
    cr_assert_eq(tier_runs_owner(&runs, run), 77U);
}

/* Blocks of 8, 4, 2 and 1 page behind a run; one of those 15 may be in use. */
Test(runs, grow_into_several_free_blocks_or_not_at_all)
{
    if (MAX_ORDER < 4) {
        return;
    }
    for (uint32_t stop = 1; stop <= 16; stop++) {
        for (uint32_t pages = 2; pages <= 16; pages++) {
            set_up_model(MIDDLE, 16, 0);
            add_pages(0, 16);
            cr_assert_eq(alloc(1), address_of(MIDDLE));
            if (stop < 16) {
                cr_assert_eq(
                    tier_buddy_alloc_at(&buddy, address_of(MIDDLE + stop), 0),
                    TIER_OK);
                take(stop, 1, BLOCK);
                model.owner[stop] = 0;
            }
            cr_assert_eq(resize(address_of(MIDDLE), pages),
                         pages <= stop ? TIER_OK : TIER_ERR_IN_USE);
        }
    }
}

/* What is borrowed too much and goes back was never in use. */
Test(runs, grow_without_a_trace_of_what_they_do_not_need)
{
    if (MAX_ORDER < 4) {
        return;
    }
    set_up_model(MIDDLE, 16, 0);
    add_pages(0, 16);
    cr_assert_eq(alloc(1), address_of(MIDDLE));
    cr_assert_eq(resize(address_of(MIDDLE), 9), TIER_OK);
    cr_assert_eq(buddy_stats_now().peak_used_pages, 9U);
    cr_assert_eq(resize(address_of(MIDDLE), 10), TIER_OK);
    cr_assert_eq(buddy_stats_now().peak_used_pages, 10U);
}

Test(runs, do_not_grow_past_the_last_page_of_the_span)
{
    set_up_model(TOP - 1, 2, 0);
    add_pages(0, 2);
    void *const low = alloc(1);
    void *const high = alloc(1);

    cr_assert_not_null(high);
    cr_assert_eq(resize(low > high ? low : high, 2),
                 TIER_RUN_MAX < 2 ? TIER_ERR_TOO_LARGE : TIER_ERR_IN_USE);
}

Test(runs, shrink_to_any_length_and_keep_their_owner)
{
    const uint32_t most = (uint32_t)1 << capped(5);

    for (uint32_t from = 1; from <= most; from++) {
        for (uint32_t to = 1; to <= from; to++) {
            set_up_model(MIDDLE, most, capped(3));
            add_pages(0, most);
            void *const run = alloc(from);

            set_owner(run, from);
            cr_assert_eq(resize(run, to), TIER_OK);
            cr_assert_eq(tier_runs_owner(&runs, run), from);
            cr_assert_eq(stats_now().used_runs, 1U);
        }
    }
}

/* --- Owners --------------------------------------------------------------- */

Test(runs, have_an_owner_of_their_own_each)
{
    set_up_model(MIDDLE, 16, capped(2));
    add_pages(0, 16);
    for (uint32_t i = 0; i < 16; i++) {
        set_owner(alloc(1), UINTPTR_MAX - i);
    }
    verify_pages();
    for (uint32_t i = 0; i < 16; i += 2) {
        free_run(address_of(MIDDLE + i));
    }
    verify_pages();
    while (alloc(1) != NULL) {
        verify_pages(); /* the owner of old is gone */
    }
}

Test(runs, are_found_by_their_first_address_alone)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_owner(set_up_three(), 77);
    for (uintptr_t page = MIDDLE - 2; page < MIDDLE + 18; page++) {
        for (size_t byte = 0; byte < TIER_PAGE_SIZE; byte += 37) {
            const bool first = page == MIDDLE && byte == 0;
            const void *const address = byte_of(page, byte);

            cr_assert_eq(tier_runs_owner(&runs, address), first ? 77U : 0U);
            cr_assert_eq(tier_runs_pages(&runs, address), first ? 3U : 0U);
        }
    }
    cr_assert_eq(tier_runs_owner(&runs, NULL), 0U);
    cr_assert_eq(tier_runs_pages(&runs, NULL), 0U);
    cr_assert_eq(tier_runs_owner(&runs, (void *)UINTPTR_MAX), 0U);
    cr_assert_eq(tier_runs_pages(&runs, (void *)UINTPTR_MAX), 0U);
}

/* --- Refusals: each changes nothing, or one counter ----------------------- */

/*
 * A run of three pages, a run of one, a free run; a block that was allocated
 * from the buddy, and pages that the buddy has free:
 *
 *     page   | 0 .. 2 | 3 | 4 .. 7 | 8  9  | 10 .. 15 | 16 17 | 18 .. 23 |
 *            |  run   | 1 |  free  | block |   free   | none  |   free   |
 *
 * False when there are no blocks of eight pages to be lent.
 */
static bool set_up_refusals(void)
{
    if (MAX_ORDER < 3) {
        return false;
    }
    set_up_model(MIDDLE, 24, 3);
    add_pages(0, 8);
    cr_assert_eq(alloc(3), address_of(MIDDLE));
    cr_assert_eq(alloc(1), address_of(MIDDLE + 3));
    add_pages(8, 16);
    cr_assert_eq(alloc_block(1), address_of(MIDDLE + 8));
    add_pages(18, 24);
    remember();
    return true;
}

/* True when each call that takes a run refuses this pointer so. */
static bool refused(void *run, enum tier_status status)
{
    bool right = true;

    if (tier_runs_set_owner(&runs, run, 1) != status || !unchanged() ||
        tier_runs_owner(&runs, run) != 0 || tier_runs_pages(&runs, run) != 0) {
        return false;
    }
    for (size_t pages = 0; pages <= TIER_RUN_MAX + 1; pages += pages + 1) {
        right = right && tier_runs_resize(&runs, run, pages) == status &&
                only_counted(&runs.refused_frees);
        remember();
    }
#if TIERALLOC_CHECKS
    right = right && tier_runs_free(&runs, run) == status &&
            only_counted(&runs.refused_frees);
    remember();
#endif
    return right;
}

Test(runs, refuse_a_pointer_that_is_foreign)
{
    if (!set_up_refusals()) {
        return;
    }
    cr_assert(refused(address_of(MIDDLE - 1), TIER_ERR_FOREIGN));
    cr_assert(refused(address_of(MIDDLE + 16), TIER_ERR_FOREIGN));
    cr_assert(refused(address_of(MIDDLE + 17), TIER_ERR_FOREIGN));
    cr_assert(refused(address_of(MIDDLE + 24), TIER_ERR_FOREIGN));
    cr_assert(refused(byte_of(MIDDLE + 17, 5), TIER_ERR_FOREIGN));
    cr_assert(refused((void *)1, TIER_ERR_FOREIGN));
    cr_assert(refused((void *)UINTPTR_MAX, TIER_ERR_FOREIGN));
    cr_assert(refused(address_of(MIDDLE + 8), TIER_ERR_FOREIGN));
    cr_assert(refused(address_of(MIDDLE + 9), TIER_ERR_FOREIGN));
    cr_assert(refused(byte_of(MIDDLE + 8, 1), TIER_ERR_FOREIGN));
}

Test(runs, refuse_a_pointer_to_what_is_free)
{
    if (!set_up_refusals()) {
        return;
    }
    for (uintptr_t page = 4; page < 24; page++) {
        if (page < 8 || (page > 9 && page < 16) || page > 17) {
            cr_assert(refused(address_of(MIDDLE + page), TIER_ERR_DOUBLE_FREE));
            cr_assert(refused(byte_of(MIDDLE + page, 8), TIER_ERR_DOUBLE_FREE));
        }
    }
}

Test(runs, refuse_a_pointer_into_a_run)
{
    if (!set_up_refusals()) {
        return;
    }
    cr_assert(refused(byte_of(MIDDLE, 1), TIER_ERR_MISALIGNED));
    cr_assert(refused(byte_of(MIDDLE + 1, 8), TIER_ERR_MISALIGNED));
    cr_assert(
        refused(byte_of(MIDDLE + 2, TIER_PAGE_SIZE - 1), TIER_ERR_MISALIGNED));
    cr_assert(
        refused(byte_of(MIDDLE + 3, TIER_PAGE_SIZE / 2), TIER_ERR_MISALIGNED));
    cr_assert(refused(address_of(MIDDLE + 1), TIER_ERR_INTERIOR));
    cr_assert(refused(address_of(MIDDLE + 2), TIER_ERR_INTERIOR));
}

#if TIERALLOC_CHECKS
Test(runs, refuse_the_second_free_of_every_run)
{
    set_up_region(MIDDLE - 3, 67, capped(4));
    for (size_t pages = 1; pages <= TIER_RUN_MAX && pages <= 20; pages++) {
        for (size_t count = fill(pages); count != 0; count--) {
            cr_assert_eq(tier_runs_free(&runs, live[count - 1]), TIER_OK);
            remember();
            cr_assert(refused(live[count - 1], TIER_ERR_DOUBLE_FREE));
        }
    }
}
#endif

Test(runs, ignore_a_free_of_null)
{
    set_up_region(MIDDLE, 8, 0);
    remember();
    cr_assert_eq(tier_runs_free(&runs, NULL), TIER_OK);
    cr_assert(unchanged());
    cr_assert_eq(tier_runs_resize(&runs, NULL, 1), TIER_ERR_FOREIGN);
    cr_assert(only_counted(&runs.refused_frees));
}

Test(runs, refuse_lengths_that_are_out_of_range)
{
    static const size_t lengths[] = {0, TIER_RUN_MAX + 1, SIZE_MAX / 2,
                                     SIZE_MAX};

    set_up_region(MIDDLE, 8, 0);
    void *const run = tier_runs_alloc(&runs, 1);

    for (size_t i = 0; i < COUNT(lengths); i++) {
        remember();
        cr_assert_null(tier_runs_alloc(&runs, lengths[i]));
        cr_assert(only_counted(&runs.refused_allocs));
        remember();
        cr_assert_eq(tier_runs_resize(&runs, run, lengths[i]),
                     i == 0 ? TIER_ERR_INVALID : TIER_ERR_TOO_LARGE);
        cr_assert(only_counted(&runs.refused_allocs));
    }
}

Test(runs, refuse_a_length_for_which_nothing_is_free)
{
    if (!set_up_refusals()) {
        return;
    }
    for (size_t pages = 5; pages <= TIER_RUN_MAX; pages += pages) {
        remember();
        cr_assert_null(tier_runs_alloc(&runs, pages));
        cr_assert(only_counted(&runs.failed_allocs));
        remember();
        cr_assert_eq(tier_runs_resize(&runs, address_of(MIDDLE), pages),
                     TIER_ERR_IN_USE);
        cr_assert(only_counted(&runs.failed_allocs));
    }
}

Test(runs, leave_pages_of_another_tier_alone)
{
    if (!set_up_refusals()) {
        return;
    }
    map.kind[16] = TIER_KIND_SLAB | 9;
    map.kind[17] = TIER_KIND_META;
    remember();
    cr_assert(refused(address_of(MIDDLE + 16), TIER_ERR_FOREIGN));
    cr_assert(refused(address_of(MIDDLE + 17), TIER_ERR_FOREIGN));
    map.kind[17] = TIER_KIND_NONE;
    remember();
    cr_assert(refused(address_of(MIDDLE + 17), TIER_ERR_FOREIGN));
}

/* --- The buddy and the runs leave each other alone ------------------------ */

Test(runs, are_no_blocks_of_the_buddy)
{
    if (!set_up_refusals()) {
        return;
    }
    for (uintptr_t page = 0; page < 8; page++) {
        void *const address = address_of(MIDDLE + page);

        cr_assert_eq(tier_buddy_order(&buddy, address), -1);
        cr_assert_eq(tier_buddy_owner(&buddy, address), 0U);
        cr_assert_eq(tier_buddy_set_owner(&buddy, address, 1),
                     TIER_ERR_FOREIGN);
        cr_assert(unchanged());
        cr_assert_eq(tier_buddy_alloc_at(&buddy, address, 0), TIER_ERR_IN_USE);
        cr_assert(only_counted(&buddy.failed_allocs));
        remember();
#if TIERALLOC_CHECKS
        cr_assert_eq(tier_buddy_free(&buddy, address), TIER_ERR_FOREIGN);
        cr_assert(only_counted(&buddy.refused_frees));
        remember();
#endif
    }
}

/* Try to add and to remove every range of pages; the model knows the answer. */
static void change_every_range(void)
{
    for (uint32_t begin = 0; begin < model.count; begin++) {
        for (uint32_t end = begin + 1; end <= model.count; end++) {
            if (!all_are(begin, end, GONE)) {
                cr_assert_eq(add_pages(begin, end), TIER_ERR_OVERLAP);
            }
            if (!all_are(begin, end, FREE)) {
                cr_assert_eq(remove_pages(begin, end), TIER_ERR_IN_USE);
            }
        }
    }
}

Test(runs, are_neither_added_nor_removed_with_a_region)
{
    if (set_up_refusals()) {
        change_every_range();
    }
}

Test(runs, are_neither_added_nor_removed_however_long)
{
    const uint32_t most = (uint32_t)1 << capped(10);

    set_up_model(MIDDLE, 2 * most + 2, capped(10));
    add_pages(0, 2 * most);
    for (uint32_t left = 2; left != 0; left--) {
        alloc(most);
    }
    for (uint32_t begin = 0; begin < 2 * most; begin++) {
        remember();
        cr_assert_eq(
            tier_buddy_add(&buddy, address_of(MIDDLE + begin), TIER_PAGE_SIZE),
            TIER_ERR_OVERLAP);
        cr_assert_eq(tier_buddy_remove(&buddy, address_of(MIDDLE + begin), 1),
                     TIER_ERR_IN_USE);
        cr_assert(unchanged());
    }
    cr_assert_eq(add_pages(2 * most, 2 * most + 2), TIER_OK);
}

/* The longest free run there is: two blocks, a page short at either end. */
Test(runs, that_are_free_are_not_added_however_long)
{
    const uint32_t most = (uint32_t)1 << capped(10);

    if (MAX_ORDER < 2) {
        return;
    }
    set_up_model(MIDDLE, 2 * most + 2, capped(10));
    add_pages(0, most);
    cr_assert_eq(alloc(1), address_of(MIDDLE));
    cr_assert_eq(alloc(most - 1), address_of(MIDDLE + 1));
    add_pages(most, 2 * most);
    cr_assert_eq(alloc(most - 1), address_of(MIDDLE + most));
    cr_assert_eq(alloc(1), address_of(MIDDLE + 2 * most - 1));
    free_run(address_of(MIDDLE + 1));
    free_run(address_of(MIDDLE + most));
    cr_assert_eq(stats_now().largest_free_pages, 2 * most - 2);
    for (uint32_t begin = 0; begin < 2 * most; begin++) {
        remember();
        cr_assert_eq(
            tier_buddy_add(&buddy, address_of(MIDDLE + begin), TIER_PAGE_SIZE),
            TIER_ERR_OVERLAP);
        cr_assert_eq(tier_buddy_remove(&buddy, address_of(MIDDLE + begin), 1),
                     TIER_ERR_IN_USE);
        cr_assert(unchanged());
    }
}

/* --- Detection of damage -------------------------------------------------- */

#define DAMAGE_PAGES 64U

/* Bring about runs of many lengths, used and free, beside blocks and gaps. */
static void set_up_damage(uint32_t variant)
{
    set_up_model(MIDDLE - 3, DAMAGE_PAGES, capped(variant % 5));
    random_state += variant;
    add_pages(0, 30);
    add_pages(31, DAMAGE_PAGES);
    for (size_t i = 0; i < 200; i++) {
        random_step();
    }
    for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
        if (is_head(i, RUN) && below(2) == 0) {
            free_run(address_of(model.first + i));
        }
    }
}

/* True when a check sees each other value of a byte, and both accept this. */
static bool check_sees(void *object, size_t i)
{
    uint8_t *const byte = (uint8_t *)object + i;

    for (unsigned flip = 1; flip < 256; flip++) {
        *byte ^= (uint8_t)flip;
        const bool accepted = sound();

        *byte ^= (uint8_t)flip;
        if (accepted) {
            return false;
        }
    }
    return sound();
}

/* The same for each byte of an object. */
static bool check_sees_all(void *object, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!check_sees(object, i)) {
            return false;
        }
    }
    return true;
}

/* True when page i is the first of a free run. */
static bool is_free_head(uint32_t i)
{
    return model.what[i] == HELD && (i == 0 || model.what[i - 1] != HELD);
}

Test(runs, check_sees_any_change_to_the_kind_of_a_page)
{
    for (uint32_t variant = 0; variant < 10; variant++) {
        set_up_damage(variant);
        for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
            /* A block of one page may as well be a page of a slab. */
            cr_assert(is_head(i, BLOCK) || check_sees(map.kind, i),
                      "variant %u, page %u: %u", variant, i, map.kind[i]);
        }
    }
}

/*
 * Runs of one page each, used or free, at both ends of the span; the owners
 * look like the lengths of such runs.
 */
Test(runs, check_sees_any_change_to_the_kind_at_an_end_of_the_span)
{
    if (MAX_ORDER < 1) {
        return;
    }
    for (uint32_t freed = 0; freed < 8; freed++) {
        set_up_model(MIDDLE, 8, capped(3));
        add_pages(0, 8);
        for (uint32_t i = 0; i < 8; i++) {
            set_owner(alloc(1), 1);
        }
        for (uint32_t i = 0; i < 8; i++) {
            if ((freed >> i % 2 & 1) != 0 && i != freed) {
                free_run(address_of(MIDDLE + i));
            }
        }
        for (uint32_t i = 0; i < 8; i++) {
            cr_assert(check_sees(map.kind, i), "page %u", i);
        }
    }
}

Test(runs, check_sees_any_change_to_a_length)
{
    for (uint32_t variant = 0; variant < 10; variant++) {
        set_up_damage(variant);
        for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
            const uint32_t pages = is_free_head(i)   ? end_of(i, HELD) - i
                                   : is_head(i, RUN) ? model.pages[i]
                                                     : 0;

            if (pages > 1) {
                uint32_t *const first = &map.entry[i + 1].length;
                uint32_t *const last = &map.entry[i + pages - 1].length;

                cr_assert(check_sees_all(first, sizeof(*first)));
                cr_assert(!is_free_head(i) ||
                          check_sees_all(last, sizeof(*last)));
            }
        }
    }
}

Test(runs, check_sees_any_change_to_a_link)
{
    for (uint32_t variant = 0; variant < 10; variant++) {
        set_up_damage(variant);
        for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
            cr_assert(
                !is_free_head(i) ||
                check_sees_all(&map.entry[i].link, sizeof(map.entry[i].link)));
        }
        for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
            cr_assert(check_sees_all(&runs.bins[bin], sizeof(runs.bins[bin])));
        }
    }
}

Test(runs, check_sees_any_change_to_the_mask_of_bins)
{
    for (uint32_t variant = 0; variant < 5; variant++) {
        set_up_damage(variant);
        for (size_t word = 0; word < TIER_RUN_WORDS; word++) {
            cr_assert(check_sees_all(&runs.mask[word], sizeof(runs.mask[word])),
                      "word %u", (unsigned)word);
        }
    }
}

Test(runs, check_sees_any_change_to_the_count_of_free_pages)
{
    for (uint32_t variant = 0; variant < 5; variant++) {
        set_up_damage(variant);
        cr_assert(check_sees_all(&runs.free_pages, sizeof(runs.free_pages)));
    }
}

Test(runs, check_sees_any_change_to_the_count_of_used_runs)
{
    for (uint32_t variant = 0; variant < 5; variant++) {
        set_up_damage(variant);
        cr_assert(check_sees_all(&runs.used_runs, sizeof(runs.used_runs)));
    }
}

Test(runs, check_sees_any_change_to_the_count_of_held_pages)
{
    for (uint32_t variant = 0; variant < 5; variant++) {
        set_up_damage(variant);
        cr_assert(check_sees_all(&runs.held_pages, sizeof(runs.held_pages)));
    }
}

/* 16 pages of which no two neighbours are free; bins of one page alone. */
static void set_up_comb(void)
{
    set_up_region(MIDDLE, 16, capped(4));
    cr_assert_eq(fill(1), 16U);
    for (uintptr_t page = 1; page < 16; page += 4) {
        cr_assert_eq(tier_runs_free(&runs, address_of(MIDDLE + page)), TIER_OK);
    }
}

Test(runs, check_sees_two_free_runs_that_touch)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_comb();

    /* What a free that joins nothing would leave. */
    cr_assert_eq(map.kind[2], TIER_KIND_RUN_PAGE);
    tier_run_link_(&runs, 2, 1);
    runs.free_pages++;
    runs.used_runs--;
    cr_assert(!tier_runs_check(&runs));

    set_up_comb();
    map.kind[2] = TIER_KIND_NONE;
    map.kind[3] = TIER_KIND_NONE;
    tier_run_link_(&runs, 2, 2);
    runs.free_pages += 2;
    runs.used_runs -= 2;
    cr_assert(!tier_runs_check(&runs));
}

Test(runs, check_sees_a_free_run_that_holds_a_whole_block)
{
    for (unsigned lend_order = 0; lend_order <= capped(3); lend_order++) {
        const size_t block = (size_t)1 << lend_order;

        /* What a free that gives nothing back would leave, in many places. */
        for (size_t begin = 0; begin + block <= 16; begin++) {
            for (size_t end = begin + block; end <= 16; end++) {
                const size_t bound = (begin + block - 1) / block * block;

                set_up_region(MIDDLE, 16, MAX_ORDER);
                if (fill(1) != 16) {
                    continue;
                }
                runs.lend_order = lend_order;
                memset(map.kind + begin, TIER_KIND_NONE, end - begin);
                tier_run_link_(&runs, begin, end - begin);
                runs.free_pages += end - begin;
                runs.used_runs -= end - begin;
                cr_assert_eq(tier_runs_check(&runs), bound + block > end);
            }
        }
    }
}

Test(runs, check_sees_a_free_run_in_no_bin)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_comb();
    tier_run_set_first_(&runs, 0,
                        map.entry[runs.bins[0]].link.next); /* the first */
    cr_assert(!tier_runs_check(&runs));

    set_up_comb();
    runs.bins[0] = TIER_PAGE_NIL; /* all */
    runs.mask[0] = 0;
    cr_assert(!tier_runs_check(&runs));
}

Test(runs, check_sees_a_used_run_in_a_bin)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_comb();
    const uint32_t first = runs.bins[0];
    const uint32_t second = map.entry[first].link.next;
    const uint32_t used = 2;

    /* Its owner word may look like links. */
    cr_assert_eq(map.kind[used], TIER_KIND_RUN_PAGE);
    runs.bins[0] = used;
    map.entry[used].link.next = second;
    map.entry[used].link.prev = TIER_PAGE_NIL;
    map.entry[second].link.prev = used;
    cr_assert(!tier_runs_check(&runs));
}

Test(runs, check_sees_the_end_of_a_free_run_without_its_begin)
{
    for (size_t page = 0; page < 8; page++) {
        set_up(MIDDLE, 8, 0);
        cr_assert(tier_runs_check(&runs));
        map.kind[page] = TIER_KIND_FREE_TAIL;
        cr_assert(!tier_runs_check(&runs));
    }
}

Test(runs, check_sees_free_runs_in_a_wrong_bin)
{
    if (MAX_ORDER < 2) {
        return;
    }
    for (size_t bin = 1; bin < TIER_RUN_BINS; bin++) {
        set_up_comb();
        runs.bins[bin] = runs.bins[0];
        runs.bins[0] = TIER_PAGE_NIL;
        runs.mask[0] &= ~(uint32_t)1;
        runs.mask[bin / 32] |= (uint32_t)1 << bin % 32;
        cr_assert(!tier_runs_check(&runs));
    }
}

Test(runs, check_sees_a_run_that_is_too_long)
{
    if (MAX_ORDER > 12) {
        return;
    }
    set_up_region(MIDDLE, 2 * TIER_RUN_MAX, MAX_ORDER);
    cr_assert_not_null(tier_runs_alloc(&runs, TIER_RUN_MAX));
    cr_assert_not_null(tier_runs_alloc(&runs, TIER_RUN_MAX));
    map.kind[0] = TIER_KIND_RUN_HEAD;
    map.kind[TIER_RUN_MAX] = TIER_KIND_NONE;
    map.entry[1].length = (uint32_t)TIER_RUN_MAX * 2;
    runs.used_runs = 1;
    cr_assert(!tier_runs_check(&runs));
}

Test(runs, check_ends_on_a_circular_bin)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_comb();
    const uint32_t first = runs.bins[0];
    const uint32_t second = map.entry[first].link.next;

    map.entry[second].link.next = first;
    map.entry[first].link.prev = second;
    cr_assert(!tier_runs_check(&runs));
    map.entry[first].link.next = first;
    map.entry[first].link.prev = first;
    cr_assert(!tier_runs_check(&runs));
}

/* Every call that only looks must survive what the checks reject. */
static void look_at_damage(void)
{
    tier_runs_check(&runs);
    tier_buddy_check(&buddy);
}

Test(runs, check_survives_random_metadata)
{
    for (uint32_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        if (step % 64 == 0) {
            set_up_damage(step / 64);
        }
        for (uint32_t left = 1 + below(8); left != 0; left--) {
            metadata[below((uint32_t)metadata_bytes)] = (uint8_t)below(256);
        }
        for (uint32_t left = below(4); left != 0; left--) {
            const uint32_t page = below(DAMAGE_PAGES);

            map.kind[page] = (uint8_t)(TIER_KIND_RUN_PAGE + below(6));
            map.entry[page].length = below(DAMAGE_PAGES + 3);
        }
        if (below(2) == 0) {
            runs.bins[below(TIER_RUN_BINS)] = below(DAMAGE_PAGES + 3);
            runs.mask[below(TIER_RUN_WORDS)] ^= (uint32_t)1 << below(32);
        }
        look_at_damage();
    }
}

Test(runs, check_survives_metadata_that_is_all_random)
{
    for (uint32_t step = 0; step < TIERALLOC_TEST_STEPS / 8; step++) {
        set_up_model(MIDDLE - 3, DAMAGE_PAGES, capped(step % 5));
        random_state += step;
        for (size_t i = 0; i < metadata_bytes; i++) {
            metadata[i] = (uint8_t)(below(2) == 0 ? below(256) : below(24));
        }
        for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
            runs.bins[bin] =
                (uint32_t)test_random(&random_state) >> below(2) * 26;
        }
        memset(runs.mask, (int)below(256), sizeof(runs.mask));
        look_at_damage();
    }
}

Test(runs, check_survives_any_kind_at_any_place)
{
    set_up_damage(3);
    for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
        for (unsigned kind = 0; kind < 256; kind++) {
            memset(map.kind, (int)kind, DAMAGE_PAGES);
            map.kind[i] = (uint8_t)(kind ^ 0x13U);
            look_at_damage();
        }
    }
}

Test(runs, dump_their_counters_and_the_free_runs_by_length)
{
    if (MAX_ORDER < 4) {
        return;
    }
    set_up_region(MIDDLE, 16, 4);
    cr_assert_not_null(tier_runs_alloc(&runs, 3));
    void *const hole = tier_runs_alloc(&runs, 2);

    cr_assert_not_null(tier_runs_alloc(&runs, 10));
    cr_assert_eq(tier_runs_free(&runs, hole), TIER_OK);
    dump.length = 0;
    tier_runs_dump(&runs, dump_put, &dump);
    cr_assert_not_null(strstr(dump.text, "held 16, free 3, runs in use 2, "
                                         "longest free 2\n"));
    cr_assert_not_null(strstr(dump.text, "by length: 1 1 0 0"));
    cr_assert_not_null(strstr(dump.text, ", longer 0\n"));
}
