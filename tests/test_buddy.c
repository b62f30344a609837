/*
 * tests/test_buddy.c - the buddy tier against a plain model of its pages.
 *
 * SPDX-License-Identifier: MIT
 *
 * Regions lie at invented addresses: the buddy tier touches no managed page,
 * so a test that ends shows that none was.
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/buddy.h>

/* Most pages in the span of a test, and most pages the model can hold. */
#define SPAN_MAX  16384
#define MODEL_MAX (4096 + 5)
#include "pages.h"

/* The allocator of the running test. */
static struct tier_buddy buddy;

/* Make the allocator one over these pages by number, with no region yet. */
static void set_up(uintptr_t first, size_t pages)
{
    set_up_map(first, pages);
    memset(&buddy, 0xA5, sizeof(buddy));
    tier_buddy_init(&buddy, &map);
}

/* The same, with all these pages in one region. */
static void set_up_region(uintptr_t first, size_t pages)
{
    set_up(first, pages);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(first), bytes_of(pages)),
                 TIER_OK);
}

static struct tier_buddy_stats stats_now(void)
{
    struct tier_buddy_stats stats;

    tier_buddy_stats(&buddy, &stats);
    return stats;
}

static struct tier_buddy buddy_before;
static uint8_t metadata_before[sizeof(metadata_room)];

/* Remember every byte of the allocator and of its metadata. */
static void remember(void)
{
    memcpy(&buddy_before, &buddy, sizeof(buddy));
    memcpy(metadata_before, metadata, metadata_bytes);
}

/* True when no byte has changed since remember() but in one counter, by 1. */
static bool only_counted(size_t *counter)
{
    *counter -= 1;
    const bool same = memcmp(&buddy, &buddy_before, sizeof(buddy)) == 0 &&
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

/* True when two snapshots name the same free blocks. */
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

/* --- The model ------------------------------------------------------------ */

/* What is known of a page, computed in the plainest way. */
struct page {
    uint16_t state; /* GONE, FREE, or the index of its block's first page */
    uint8_t order;  /* of a block, with its first page */
};

#define GONE 0xFFFFU /* in no region */
#define FREE 0xFFFEU

static struct {
    uintptr_t first; /* number of page 0 */
    uint32_t count;
    struct page page[MODEL_MAX];
    uintptr_t owner[MODEL_MAX];
    size_t managed;
    size_t used;
    size_t peak;
    size_t failed_allocs;
    size_t refused_allocs;
    size_t refused_frees;
} model;

static void set_up_model(uintptr_t first, uint32_t pages)
{
    set_up(first, pages);
    memset(&model, 0, sizeof(model));
    model.first = first;
    model.count = pages;
    for (uint32_t i = 0; i < pages; i++) {
        model.page[i].state = GONE;
    }
}

/* True when page i is the first of an allocated block. */
static bool is_head(uint32_t i)
{
    return model.page[i].state == i;
}

/* True when each of these pages is in this state, GONE or FREE. */
static bool all_are(uint32_t begin, uint32_t end, unsigned state)
{
    if (end > model.count) {
        return false;
    }
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

/* True when a block of this order may start at page i, by its address. */
static bool aligned(uint32_t i, unsigned order)
{
    return (model.first + i) % ((uintptr_t)1 << order) == 0;
}

/*
 * Count the blocks that the free pages form when every two buddies have joined:
 * each as large as its alignment, the free pages and MAX_ORDER allow.
 */
static void count_free(size_t blocks[])
{
    uint32_t run_end = 0;

    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        blocks[order] = 0;
    }
    for (uint32_t i = 0; i < model.count;) {
        unsigned order = 0;

        if (model.page[i].state != FREE) {
            i++;
            continue;
        }
        run_end = run_end < i ? i : run_end;
        while (run_end < model.count && model.page[run_end].state == FREE) {
            run_end++;
        }
        while (order != MAX_ORDER && aligned(i, order + 1) &&
               run_end - i >= (uint32_t)1 << (order + 1)) {
            order++;
        }
        blocks[order]++;
        i += (uint32_t)1 << order;
    }
}

/* Require the fragmentation indices that follow from the free blocks. */
static void verify_indices(const size_t blocks[])
{
    const uint64_t free = model.managed - model.used;
    uint64_t small = 0;
    uint64_t count = 0;
    unsigned above = 0; /* orders of which, or above, a block is free */

    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        count += blocks[order];
        above = blocks[order] != 0 ? order + 1 : above;
    }
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        const uint64_t share =
            count == 0 ? 1000 : (1000 + ((free * 1000) >> order)) / count;
        const int scattered = share > 1000 ? 0 : 1000 - (int)share;

        cr_assert_eq(tier_buddy_unusable(&buddy, order),
                     free == 0 ? 0 : small * 1000 / free);
        cr_assert_eq(tier_buddy_fragmentation(&buddy, order),
                     order < above ? -1000 : scattered);
        small += (uint64_t)blocks[order] << order;
    }
}

/* Require that the allocator counts what the model does, and is sound. */
static void verify_counters(void)
{
    const struct tier_buddy_stats stats = stats_now();
    size_t blocks[MAX_ORDER + 1];
    int largest = -1;

    count_free(blocks);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        cr_assert_eq(stats.free_blocks[order], blocks[order], "order %u",
                     order);
        largest = blocks[order] != 0 ? (int)order : largest;
    }
    cr_assert_eq(stats.largest_free_order, largest);
    cr_assert_eq(stats.managed_pages, model.managed);
    cr_assert_eq(stats.free_pages, model.managed - model.used);
    cr_assert_eq(stats.peak_used_pages, model.peak);
    cr_assert_eq(stats.failed_allocs, model.failed_allocs);
    cr_assert_eq(stats.refused_allocs, model.refused_allocs);
    cr_assert_eq(stats.refused_frees, model.refused_frees);
    verify_indices(blocks);
    cr_assert(tier_buddy_check(&buddy));
}

/* Require that each page is what the model says. */
static void verify_pages(void)
{
    for (uint32_t i = 0; i < model.count; i++) {
        const void *const address = address_of(model.first + i);

        cr_assert_eq(tier_buddy_order(&buddy, address),
                     is_head(i) ? model.page[i].order : -1);
        cr_assert_eq(tier_buddy_owner(&buddy, address),
                     is_head(i) ? model.owner[i] : 0);
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

/* --- Calls, each made of the allocator and of the model ------------------- */

static void add(void *base, size_t bytes, enum tier_status expected,
                uint32_t begin, uint32_t end)
{
    if (expected == TIER_OK && !all_are(begin, end, GONE)) {
        expected = TIER_ERR_OVERLAP;
    }
    remember();
    cr_assert_eq(tier_buddy_add(&buddy, base, bytes), expected);
    cr_assert(expected == TIER_OK || unchanged());
    if (expected == TIER_OK) {
        set_all(begin, end, FREE);
        model.managed += end - begin;
        model.peak = model.used;
    }
    verify_counters();
}

static void add_pages(uint32_t begin, uint32_t end)
{
    add(address_of(model.first + begin), bytes_of(end - begin), TIER_OK, begin,
        end);
}

static void remove_bytes(void *base, size_t bytes, enum tier_status expected,
                         uint32_t begin, uint32_t end)
{
    if (expected == TIER_OK && !all_are(begin, end, FREE)) {
        expected = TIER_ERR_IN_USE;
    }
    remember();
    cr_assert_eq(tier_buddy_remove(&buddy, base, bytes), expected);
    cr_assert(expected == TIER_OK || unchanged());
    if (expected == TIER_OK) {
        set_all(begin, end, GONE);
        model.managed -= end - begin;
        model.peak = model.used;
    }
    verify_counters();
}

static void remove_pages(uint32_t begin, uint32_t end)
{
    remove_bytes(address_of(model.first + begin), bytes_of(end - begin),
                 TIER_OK, begin, end);
}

/* Enter a block of free pages as allocated. */
static void take(uint32_t begin, unsigned order)
{
    const uint32_t end = begin + ((uint32_t)1 << order);

    set_all(begin, end, begin);
    model.page[begin].order = (uint8_t)order;
    model.owner[begin] = 0;
    model.used += end - begin;
    model.peak = model.used > model.peak ? model.used : model.peak;
}

/* Enter an allocated block as free. */
static void give(uint32_t i)
{
    const uint32_t pages = (uint32_t)1 << model.page[i].order;

    set_all(i, i + pages, FREE);
    model.used -= pages;
}

/* The lowest order that has a block and fits; above MAX_ORDER for none. */
static unsigned fitting_order(unsigned order)
{
    size_t blocks[MAX_ORDER + 1];

    count_free(blocks);
    while (order <= MAX_ORDER && blocks[order] == 0) {
        order++;
    }
    return order;
}

static void *alloc(unsigned order)
{
    const unsigned from = fitting_order(order);

    remember();
    void *const block = tier_buddy_alloc(&buddy, order);

    if (from > MAX_ORDER) {
        cr_assert_null(block);
        if (order > MAX_ORDER) {
            cr_assert(only_counted(&buddy.refused_allocs));
            model.refused_allocs++;
        } else {
            cr_assert(only_counted(&buddy.failed_allocs));
            model.failed_allocs++;
        }
    } else {
        uint32_t i;

        cr_assert_not_null(block);
        cr_assert(index_of(block, &i));
        cr_assert_eq((uintptr_t)block & (bytes_of((size_t)1 << order) - 1), 0U);
        cr_assert(all_are(i, i + ((uint32_t)1 << order), FREE));

        /* A block of order `from` that was split starts where it started. */
        cr_assert(all_are(i, i + ((uint32_t)1 << from), FREE));
        cr_assert(aligned(i, from));
        take(i, order);
    }
    verify_counters();
    return block;
}

static enum tier_status alloc_at(void *block, unsigned order)
{
    enum tier_status expected = TIER_OK;
    uint32_t i = 0;

    if (order > MAX_ORDER) {
        expected = TIER_ERR_TOO_LARGE;
    } else if (!index_of(block, &i)) {
        expected = TIER_ERR_FOREIGN;
    } else if ((uintptr_t)block % bytes_of((size_t)1 << order) != 0) {
        expected = TIER_ERR_MISALIGNED;
    } else if (!all_are(i, i + ((uint32_t)1 << order), FREE)) {
        expected = TIER_ERR_IN_USE;
    }
    remember();
    cr_assert_eq(tier_buddy_alloc_at(&buddy, block, order), expected);
    if (expected == TIER_OK) {
        take(i, order);
    } else if (expected == TIER_ERR_IN_USE) {
        cr_assert(only_counted(&buddy.failed_allocs));
        model.failed_allocs++;
    } else {
        cr_assert(only_counted(&buddy.refused_allocs));
        model.refused_allocs++;
    }
    verify_counters();
    return expected;
}

/* Why a pointer cannot be freed, TIER_OK when it can. */
static enum tier_status verdict(const void *block)
{
    uint32_t i;

    if (!index_of(block, &i) || model.page[i].state == GONE) {
        return TIER_ERR_FOREIGN;
    }
    if (model.page[i].state == FREE) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if ((uintptr_t)block % TIER_PAGE_SIZE != 0) {
        return TIER_ERR_MISALIGNED;
    }
    return is_head(i) ? TIER_OK : TIER_ERR_INTERIOR;
}

static enum tier_status free_block(void *block)
{
    const enum tier_status expected = block == NULL ? TIER_OK : verdict(block);

    remember();
    cr_assert_eq(tier_buddy_free(&buddy, block), expected);
    if (expected != TIER_OK) {
        cr_assert(only_counted(&buddy.refused_frees));
        model.refused_frees++;
    } else if (block == NULL) {
        cr_assert(unchanged());
    } else {
        uint32_t i = 0;

        index_of(block, &i);
        give(i);
    }
    verify_counters();
    return expected;
}

static void set_owner(void *block, uintptr_t owner)
{
    uint32_t i = 0;

    remember();
    cr_assert_eq(tier_buddy_set_owner(&buddy, block, owner), verdict(block));
    if (verdict(block) == TIER_OK) {
        index_of(block, &i);
        model.owner[i] = owner;
    } else {
        cr_assert(unchanged());
        cr_assert_eq(tier_buddy_owner(&buddy, block), 0U);
        cr_assert_eq(tier_buddy_order(&buddy, block), -1);
    }
}

/* True when all of a block at page i lies in [base, base + bytes). */
static bool lies_within(uint32_t i, unsigned order, uintptr_t base,
                        size_t bytes)
{
    const uintptr_t first = (uintptr_t)address_of(model.first + i);
    const uintptr_t last = first + (bytes_of((size_t)1 << order) - 1);

    return first >= base && last <= base + (bytes - 1);
}

/* True when a block of this order is free in [base, base + bytes). */
static bool free_within(unsigned order, uintptr_t base, size_t bytes)
{
    for (uint32_t i = 0; i < model.count; i++) {
        if (aligned(i, order) && all_are(i, i + ((uint32_t)1 << order), FREE) &&
            lies_within(i, order, base, bytes)) {
            return true;
        }
    }
    return false;
}

static void alloc_within(unsigned order, uintptr_t base, size_t bytes)
{
    enum tier_status expected = TIER_OK;
    void *block = &block;
    uint32_t i = 0;

    if (order > MAX_ORDER) {
        expected = TIER_ERR_TOO_LARGE;
    } else if (bytes == 0) {
        expected = TIER_ERR_INVALID;
    } else if (base + (bytes - 1) < base) {
        expected = TIER_ERR_OVERFLOW;
    } else if (!free_within(order, base, bytes)) {
        expected = TIER_ERR_NO_MEMORY;
    }
    remember();
    cr_assert_eq(tier_buddy_alloc_within(&buddy, order, base, bytes, &block),
                 expected);
    if (expected == TIER_OK) {
        cr_assert(index_of(block, &i));
        cr_assert_eq(block, address_of(model.first + i));
        cr_assert(aligned(i, order));
        cr_assert(all_are(i, i + ((uint32_t)1 << order), FREE));
        cr_assert(lies_within(i, order, base, bytes));
        take(i, order);
    } else if (expected == TIER_ERR_NO_MEMORY) {
        cr_assert(only_counted(&buddy.failed_allocs));
        model.failed_allocs++;
    } else {
        cr_assert(only_counted(&buddy.refused_allocs));
        model.refused_allocs++;
    }
    cr_assert(expected == TIER_OK || block == NULL);
    verify_counters();
}

/* Most blocks of a bulk call here. */
#define BULK_MAX 12

static void alloc_bulk(unsigned order, size_t count)
{
    void *bulk[BULK_MAX + 1];
    size_t free_now[MAX_ORDER + 1];
    size_t room = 0;

    count_free(free_now);
    for (unsigned from = order; from <= MAX_ORDER; from++) {
        room += free_now[from] << (from - order);
    }
    bulk[count] = &buddy;
    const enum tier_status status =
        tier_buddy_alloc_bulk(&buddy, order, count, bulk);

    cr_assert_eq(bulk[count], &buddy);
    if (order > MAX_ORDER) {
        cr_assert_eq(status, TIER_ERR_TOO_LARGE);
        model.refused_allocs++;
    } else if (count > room) {
        cr_assert_eq(status, TIER_ERR_NO_MEMORY);
        model.failed_allocs++;
        model.peak = stats_now().peak_used_pages; /* has a test of its own */
    } else {
        cr_assert_eq(status, TIER_OK);
        for (size_t at = 0; at < count; at++) {
            uint32_t i;

            cr_assert(index_of(bulk[at], &i));
            cr_assert_eq(bulk[at], address_of(model.first + i));
            cr_assert(aligned(i, order));
            cr_assert(all_are(i, i + ((uint32_t)1 << order), FREE));
            take(i, order);
        }
    }
    verify_counters();
}

static void free_bulk(size_t count, void **bulk)
{
    enum tier_status expected = TIER_OK;
    uint32_t i = 0;

    for (size_t at = 0; at < count && expected == TIER_OK; at++) {
        expected = verdict(bulk[at]);
        for (size_t before = 0; before < at && expected == TIER_OK; before++) {
            if (bulk[before] == bulk[at]) {
                expected = TIER_ERR_DOUBLE_FREE;
            }
        }
    }
    remember();
    cr_assert_eq(tier_buddy_free_bulk(&buddy, count, bulk), expected);
    if (expected == TIER_OK) {
        for (size_t at = 0; at < count; at++) {
            index_of(bulk[at], &i);
            give(i);
        }
    } else {
        cr_assert(only_counted(&buddy.refused_frees));
        model.refused_frees++;
    }
    verify_counters();
}

static enum tier_status resize(void *block, unsigned order)
{
    enum tier_status expected = verdict(block);
    uint32_t i = 0;

    index_of(block, &i);
    const uint32_t now = (uint32_t)1 << model.page[i].order;
    const uint32_t then = (uint32_t)1 << (order > MAX_ORDER ? 0 : order);
    size_t *counter = &buddy.refused_frees;
    size_t *counted = &model.refused_frees;

    if (expected == TIER_OK && order > MAX_ORDER) {
        expected = TIER_ERR_TOO_LARGE;
        counter = &buddy.refused_allocs;
        counted = &model.refused_allocs;
    } else if (expected == TIER_OK && then > now &&
               !(aligned(i, order) && all_are(i + now, i + then, FREE))) {
        expected = TIER_ERR_IN_USE;
        counter = &buddy.failed_allocs;
        counted = &model.failed_allocs;
    }
    remember();
    cr_assert_eq(tier_buddy_resize(&buddy, block, order), expected);
    if (expected == TIER_OK) {
        const uintptr_t owner = model.owner[i];

        give(i);
        take(i, order);
        model.owner[i] = owner;
    } else {
        cr_assert(only_counted(counter));
        *counted += 1;
    }
    verify_counters();
    return expected;
}

/* --- Random runs ---------------------------------------------------------- */

/* The first page of a live block near a random one; some page if none is. */
static uint32_t random_page(bool live)
{
    uint32_t i = below(model.count);

    for (uint32_t tries = 0; live && tries < model.count && !is_head(i);
         tries++) {
        i = (i + 1) % model.count;
    }
    return i;
}

/* An order; small ones are likelier. Sometimes one that is too large. */
static unsigned random_order(void)
{
    if (below(50) == 0) {
        return MAX_ORDER + 1 + below(40);
    }
    return below(1 + below(MAX_ORDER + 1));
}

/* A pointer that is likely wrong to free: in or near the span. */
static void *random_pointer(void)
{
    const uintptr_t page = model.first - 2 + below(model.count + 4);

    switch (below(4)) {
    case 0:
        return byte_of(page, 1 + below((uint32_t)TIER_PAGE_SIZE - 1));
    case 1:
        return (void *)(uintptr_t)test_random(&random_state);
    default:
        return address_of(page);
    }
}

/* Add or remove a range of pages, its ends bent as far as rounding allows. */
static void change_region(bool adding)
{
    const uint32_t begin = below(model.count);
    const uint32_t rest = model.count - begin;
    const uint32_t pages = 1 + below(rest < 9 || below(4) == 0 ? rest : 8);
    const bool at_edge =
        model.first + begin == 0 || model.first + begin + pages == TOP + 1;
    const size_t bend = at_edge ? 0 : below((uint32_t)TIER_PAGE_SIZE / 2);
    unsigned char *const base =
        (unsigned char *)address_of(model.first + begin);

    if (adding) {
        add((void *)((uintptr_t)base - bend), bytes_of(pages) + 2 * bend,
            TIER_OK, begin, begin + pages);
    } else {
        remove_bytes((void *)((uintptr_t)base + bend),
                     bytes_of(pages) - 2 * bend, TIER_OK, begin, begin + pages);
    }
}

/* Allocate below, above or between addresses near the span. */
static void random_within(void)
{
    const uintptr_t base = (uintptr_t)address_of(model.first);
    const size_t all = bytes_of(model.count);
    const size_t bytes = all / 64 * below(64) + below(8);
    const size_t offset = all / 64 * below(64) + below(8);

    switch (below(4)) {
    case 0:
        alloc_within(random_order(), 0, base + bytes);
        break;
    case 1:
        alloc_within(random_order(), (uintptr_t)test_random(&random_state),
                     (size_t)test_random(&random_state));
        break;
    default:
        alloc_within(random_order(), base + offset, bytes);
    }
}

/* Free several blocks, sometimes with one too many or a bad pointer. */
static void random_free_bulk(void)
{
    void *bulk[BULK_MAX];
    size_t count = below(BULK_MAX);

    for (size_t i = 0; i < BULK_MAX; i++) {
        bulk[i] = address_of(model.first + random_page(true));
    }
    if (below(3) != 0) {
        /* Likely no page is named twice: drop what is. */
        for (size_t i = 0; i < count; i++) {
            for (size_t j = i + 1; j < count; j++) {
                if (bulk[j] == bulk[i]) {
                    bulk[j--] = bulk[--count];
                }
            }
        }
    }
    if (count > 0 && below(4) == 0) {
        void *const bad = random_pointer();
        const enum tier_status status = verdict(bad);
        const bool inside =
            status == TIER_ERR_INTERIOR || status == TIER_ERR_MISALIGNED;

        /* One inside a block of the call itself has a test of its own. */
        bulk[inside ? 0 : below((uint32_t)count)] = bad;
    }
    free_bulk(count, bulk);
}

static void random_step(void)
{
    const uint32_t what = below(100);

    if (what < 30) {
        alloc(random_order());
    } else if (what < 34) {
        random_within();
    } else if (what < 38) {
        alloc_bulk(random_order(), below(BULK_MAX + 1));
    } else if (what < 41) {
        random_free_bulk();
    } else if (what < 48) {
        resize(address_of(model.first + random_page(below(8) != 0)),
               random_order());
    } else if (what < 65) {
        free_block(address_of(model.first + random_page(true)));
    } else if (what < 73) {
        free_block(random_pointer());
    } else if (what < 82) {
        const unsigned order = random_order();
        const uint32_t i = random_page(false);
        const uint32_t low =
            below(4) == 0 || order > MAX_ORDER ? 0 : (1U << order) - 1;

        alloc_at(address_of((model.first + i) & ~(uintptr_t)low), order);
    } else if (what < 84) {
        alloc_at(random_pointer(), random_order());
    } else if (what < 92) {
        set_owner(address_of(model.first + random_page(below(4) != 0)),
                  (uintptr_t)test_random(&random_state));
    } else {
        change_region(what < 97);
    }
}

/* Free every live block; then nothing may be in use. */
static void free_all(void)
{
    for (uint32_t i = 0; i < model.count; i++) {
        if (is_head(i)) {
            cr_assert_eq(free_block(address_of(model.first + i)), TIER_OK);
        }
    }
    cr_assert_eq(stats_now().free_pages, model.managed);
}

/* Run on a span of these pages, at first with one region or several in it. */
static void random_run(uintptr_t first, uint32_t pages, bool gaps)
{
    const uint32_t steps =
        pages <= 64 ? TIERALLOC_TEST_STEPS / 2 : TIERALLOC_TEST_STEPS / 16;

    set_up_model(first, pages);
    random_state += first ^ pages;
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

/* Run on spans of many sizes that begin at a page. */
static void random_runs(uintptr_t first)
{
    for (size_t i = 0; i < COUNT(run_pages); i++) {
        random_run(first, run_pages[i], false);
        random_run(first, run_pages[i], true);
    }
}

Test(buddy, agrees_with_a_model_at_an_aligned_base)
{
    random_runs(MIDDLE);
}

Test(buddy, agrees_with_a_model_at_an_odd_base)
{
    random_runs(MIDDLE + 1);
}

Test(buddy, agrees_with_a_model_across_an_alignment)
{
    random_runs(MIDDLE - 3);
}

Test(buddy, agrees_with_a_model_at_the_bottom_of_the_address_space)
{
    random_runs(1);
}

Test(buddy, agrees_with_a_model_at_the_top_of_the_address_space)
{
    for (size_t i = 0; i < COUNT(run_pages); i++) {
        random_run(TOP - run_pages[i] + 1, run_pages[i], false);
    }
}

/* --- Every state of a small region ---------------------------------------- */

/*
 * From each state that calls can reach, make every call there is. A state is
 * the kinds of the pages and the order of the lists, on which alone the result
 * of a call depends; counters that only grow are not part of it.
 */
#define WALK_PAGES (MAX_ORDER == 0 ? 6 : 8)
#define WALK_SPAN  8

/* With regions that come and go there are more: what the host has room for. */
#if TIERALLOC_TEST_STEPS >= 20000
#define REGION_PAGES (MAX_ORDER == 0 ? 5 : 8)
#define WALK_STATES  45000
#else
#define REGION_PAGES (MAX_ORDER == 0 ? 4 : 6)
#define WALK_STATES  4000
#endif

struct state {
    uint8_t kind[WALK_SPAN];
    uint8_t place[WALK_SPAN]; /* of a free head, from the front of its list */
    struct tier_buddy buddy;
    uint8_t metadata[METADATA(WALK_SPAN)];
    struct page page[WALK_SPAN];
};

static struct state states[WALK_STATES];
static uint16_t state_table[65536]; /* open hashing; index + 1 */
static uint16_t state_count;

/* Describe the present in states[state_count]. */
static struct state *describe(void)
{
    struct state *const state = &states[state_count];

    cr_assert(state_count < WALK_STATES);
    memset(state, 0, sizeof(*state));
    memcpy(state->kind, buddy.map.kind, model.count);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        uint8_t place = 1;

        for (uint32_t at = buddy.lists[order].head; at != TIER_PAGE_NIL;
             at = buddy.map.entry[at].link.next) {
            state->place[at] = place++;
        }
    }
    return state;
}

/* Keep the present state, unless it was kept before. */
static void keep_state(void)
{
    struct state *const state = describe();
    const size_t key = offsetof(struct state, buddy);
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
    memcpy(&state->buddy, &buddy, sizeof(buddy));
    memcpy(state->metadata, metadata, metadata_bytes);
    memcpy(state->page, model.page, model.count * sizeof(model.page[0]));
    state_table[slot] = ++state_count;
}

/* Return to a state that was kept. */
static void go_to(const struct state *state)
{
    memcpy(&buddy, &state->buddy, sizeof(buddy));
    memcpy(metadata, state->metadata, metadata_bytes);
    memcpy(model.page, state->page, model.count * sizeof(model.page[0]));

    const struct tier_buddy_stats stats = stats_now();

    model.managed = stats.managed_pages;
    model.used = stats.managed_pages - stats.free_pages;
    model.peak = stats.peak_used_pages;
    model.failed_allocs = stats.failed_allocs;
    model.refused_allocs = stats.refused_allocs;
    model.refused_frees = stats.refused_frees;
}

/* Make call number `call`; false when there are fewer. */
static bool make_call(uint32_t call, bool regions)
{
    const uint32_t orders = (MAX_ORDER < 3 ? MAX_ORDER : 3) + 1;
    const uint32_t pages = model.count;

    if (call <= orders) {
        alloc(call);
        return true;
    }
    call -= orders + 1;
    if (call < pages * orders) {
        alloc_at(address_of(model.first + call % pages), call / pages);
        return true;
    }
    call -= pages * orders;
    if (call < pages * 2) {
        free_block(byte_of(model.first + call / 2, call % 2));
        return true;
    }
    call -= pages * 2;
    if (call < pages * orders) {
        resize(address_of(model.first + call % pages), call / pages);
        return true;
    }
    call -= pages * orders;
    if (!regions || call >= pages * pages * 2) {
        return false;
    }
    const uint32_t begin = call / 2 % pages;
    const uint32_t end = call / 2 / pages + 1;

    if (begin >= end) {
        alloc_within(call % 2, (uintptr_t)address_of(model.first + end - 1),
                     bytes_of(begin - end + 2));
    } else if (call % 2 == 0) {
        add_pages(begin, end);
    } else {
        remove_pages(begin, end);
    }
    return true;
}

/* Make every call in every state; with `regions`, add and remove as well. */
static void walk(uintptr_t first, uint32_t pages, bool regions)
{
    set_up_model(first, pages);
    cr_assert(metadata_bytes <= sizeof(states[0].metadata));
    memset(state_table, 0, sizeof(state_table));
    state_count = 0;
    add_pages(0, pages);
    keep_state();
    for (uint16_t at = 0; at < state_count; at++) {
        go_to(&states[at]);
        for (uint32_t call = 0; make_call(call, regions); call++) {
            verify_pages();
            keep_state();
            go_to(&states[at]);
        }
    }
}

Test(buddy, is_right_in_every_state_of_an_aligned_region)
{
    walk(MIDDLE, WALK_PAGES, false);
}

Test(buddy, is_right_in_every_state_of_an_unaligned_region)
{
    walk(MIDDLE - 3, WALK_PAGES - 1, false);
    walk(TOP - (WALK_PAGES - 3), WALK_PAGES - 2, false);
}

Test(buddy, is_right_in_every_state_of_regions_that_come_and_go)
{
    walk(MIDDLE, REGION_PAGES, true);
}

Test(buddy, is_right_in_every_state_of_unaligned_regions)
{
    walk(MIDDLE - 3, REGION_PAGES - 2, true);
    walk(TOP - 2, 3, true);
}

/* --- Filling -------------------------------------------------------------- */

static void *blocks[SPAN_MAX];

/* Allocate blocks of an order until there is none; return how many. */
static size_t fill(unsigned order)
{
    const size_t failed = stats_now().failed_allocs;
    size_t count = 0;

    for (;;) {
        void *const block = tier_buddy_alloc(&buddy, order);

        if (block == NULL) {
            break;
        }
        cr_assert(count < COUNT(blocks));
        blocks[count++] = block;
    }
    cr_assert_eq(stats_now().failed_allocs, failed + 1);
    cr_assert(tier_buddy_check(&buddy));
    return count;
}

/* Free the first blocks of blocks[] in a random order. */
static void free_shuffled(size_t count)
{
    while (count != 0) {
        const size_t i = below((uint32_t)count);

        cr_assert_eq(tier_buddy_free(&buddy, blocks[i]), TIER_OK);
        blocks[i] = blocks[--count];
        cr_assert(count % 512 != 0 || tier_buddy_check(&buddy));
    }
}

/* Blocks of an order that fit in pages [begin, end), each aligned. */
static size_t fitting_blocks(uintptr_t begin, uintptr_t end, unsigned order)
{
    const uintptr_t first = ((begin - 1) >> order) + 1;

    return (end >> order) > first ? (end >> order) - first : 0;
}

/* Fill a region at each order, then what is left; free it in random order. */
static void fill_at_every_order(uintptr_t first, size_t pages)
{
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        set_up_region(first, pages);
        const struct tier_buddy_stats empty = stats_now();
        const size_t count = fill(order);

        cr_assert_eq(count, fitting_blocks(first, first + pages, order));
        cr_assert_eq(stats_now().free_pages, pages - (count << order));
        cr_assert_eq(stats_now().peak_used_pages, count << order);
        free_shuffled(count);

        const struct tier_buddy_stats again = stats_now();

        cr_assert(same_free(&again, &empty));
        cr_assert_eq(again.peak_used_pages, count << order);
    }
}

Test(buddy, fills_a_region_at_every_order_and_coalesces_to_what_it_was)
{
    fill_at_every_order(MIDDLE, SPAN_MAX);
    fill_at_every_order(MIDDLE - 3, SPAN_MAX - 1);
    fill_at_every_order(MIDDLE + 7, 1000);
    fill_at_every_order(TOP - 1022, 1023);
}

Test(buddy, fills_a_region_to_the_last_page_from_the_largest_order_down)
{
    static const size_t counts[] = {1, 7, 1000, SPAN_MAX - 1};

    for (size_t i = 0; i < COUNT(counts); i++) {
        set_up_region(MIDDLE - 3, counts[i]);
        for (unsigned order = MAX_ORDER + 1; order-- > 0;) {
            fill(order);
        }
        cr_assert_eq(stats_now().free_pages, 0U);
        cr_assert_eq(stats_now().largest_free_order, -1);
    }
}

#if TIERALLOC_PAGE_SHIFT >= 12
Test(buddy, hands_out_997_of_1000_pages_when_metadata_is_counted)
{
    const size_t pages = SPAN_MAX; /* 64 MiB of pages of 4 KiB */

    set_up(MIDDLE, pages);
    const size_t used =
        (metadata_bytes + TIER_PAGE_SIZE - 1) >> TIERALLOC_PAGE_SHIFT;

    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE + used),
                                bytes_of(pages - used)),
                 TIER_OK);
    cr_assert(fill(0) * 1000 >= pages * 997);
}
#endif

#if defined(__linux__) && UINTPTR_MAX > 0xFFFFFFFFU
/* Sixteen GiB in pages of 4 KiB; only a host has memory for its metadata. */
#define HUGE_PAGES ((size_t)1 << 22)

static _Alignas(8) uint8_t huge_metadata[METADATA(HUGE_PAGES)];

Test(buddy, serves_a_huge_region_at_every_order)
{
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)address_of(MIDDLE),
                                   bytes_of(HUGE_PAGES), huge_metadata,
                                   sizeof(huge_metadata)),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(
        tier_buddy_add(&buddy, address_of(MIDDLE), bytes_of(HUGE_PAGES)),
        TIER_OK);
    const struct tier_buddy_stats empty = stats_now();

    cr_assert_eq(empty.free_blocks[MAX_ORDER], HUGE_PAGES >> MAX_ORDER);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        const size_t pages = (size_t)1 << order;
        size_t count = 0;

        while (tier_buddy_alloc(&buddy, order) != NULL) {
            count++;
        }
        cr_assert_eq(count, HUGE_PAGES >> order);
        cr_assert_eq(stats_now().free_pages, 0U);
        cr_assert(tier_buddy_check(&buddy));
        for (size_t page = 0; page < HUGE_PAGES; page += pages) {
            cr_assert_eq(tier_buddy_free(&buddy, address_of(MIDDLE + page)),
                         TIER_OK);
        }
        cr_assert(tier_buddy_check(&buddy));
        const struct tier_buddy_stats again = stats_now();

        cr_assert(same_free(&again, &empty));
    }
}
#endif

/* --- Allocation ----------------------------------------------------------- */

Test(buddy, takes_the_most_recently_freed_block)
{
    set_up_region(MIDDLE, 16);
    cr_assert_eq(fill(0), 16U);
    for (uintptr_t page = 0; page < 16; page += 4) {
        cr_assert_eq(tier_buddy_free(&buddy, address_of(MIDDLE + page)),
                     TIER_OK);
    }
    for (uintptr_t page = 12; page < 16; page -= 4) {
        cr_assert_eq(tier_buddy_alloc(&buddy, 0), address_of(MIDDLE + page));
    }
    cr_assert_null(tier_buddy_alloc(&buddy, 0));
}

Test(buddy, takes_the_smallest_block_that_fits)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_region(MIDDLE, 16);
    cr_assert_eq(fill(1), 8U);
    tier_buddy_free(&buddy, address_of(MIDDLE + 2));
    tier_buddy_free(&buddy, address_of(MIDDLE + 8));
    tier_buddy_free(&buddy, address_of(MIDDLE + 10));

    cr_assert_eq(tier_buddy_alloc(&buddy, 0), address_of(MIDDLE + 2));
    cr_assert_eq(tier_buddy_alloc(&buddy, 0), address_of(MIDDLE + 3));
    cr_assert_eq(tier_buddy_alloc(&buddy, 2), address_of(MIDDLE + 8));
}

Test(buddy, splits_no_block_that_fits_exactly)
{
    if (MAX_ORDER < 3) {
        return;
    }
    set_up_region(MIDDLE, 8 + 4 + 2 + 1);
    for (unsigned order = 0; order <= 3; order++) {
        cr_assert_not_null(tier_buddy_alloc(&buddy, order));
        cr_assert_eq(stats_now().free_blocks[order], 0U);
    }
    cr_assert_eq(stats_now().free_pages, 0U);
}

Test(buddy, coalesces_with_its_buddy_and_not_with_another_neighbour)
{
    if (MAX_ORDER < 1) {
        return;
    }
    set_up_region(MIDDLE, 4);
    cr_assert_eq(fill(0), 4U);
    tier_buddy_free(&buddy, address_of(MIDDLE + 1));
    tier_buddy_free(&buddy, address_of(MIDDLE + 2));
    cr_assert_eq(stats_now().free_blocks[0], 2U);
    tier_buddy_free(&buddy, address_of(MIDDLE));
    cr_assert_eq(stats_now().free_blocks[0], 1U);
    cr_assert_eq(stats_now().free_blocks[1], 1U);
}

Test(buddy, coalesces_across_adjacent_regions)
{
    set_up_region(MIDDLE, 64);
    const struct tier_buddy_stats whole = stats_now();

    set_up(MIDDLE, 64);
    for (uintptr_t page = 63; page < 64; page--) {
        cr_assert_eq(
            tier_buddy_add(&buddy, address_of(MIDDLE + page), TIER_PAGE_SIZE),
            TIER_OK);
    }
    const struct tier_buddy_stats parts = stats_now();

    cr_assert(same_free(&parts, &whole));
}

Test(buddy, coalesces_when_a_hole_is_given_back)
{
    set_up_region(MIDDLE - 3, 1000);
    const struct tier_buddy_stats whole = stats_now();

    for (uintptr_t page = 0; page < 1000; page += 37) {
        void *const hole = address_of(MIDDLE - 3 + page);

        cr_assert_eq(tier_buddy_remove(&buddy, hole, 1), TIER_OK);
        cr_assert_eq(stats_now().managed_pages, 999U);
        cr_assert_eq(tier_buddy_add(&buddy, hole, TIER_PAGE_SIZE), TIER_OK);
        const struct tier_buddy_stats again = stats_now();

        cr_assert(same_free(&again, &whole));
    }
}

Test(buddy, adds_a_region_by_writing_one_entry_for_each_largest_block)
{
    const size_t block = (size_t)1 << MAX_ORDER;
    size_t written = 0;

    if (SPAN_MAX / block < 3) {
        return;
    }
    set_up_region(MIDDLE, 3 * block);
    for (size_t i = 0; i < 3 * block; i++) {
        if (!test_all(&buddy.map.entry[i], 0xA5, sizeof(buddy.map.entry[i]))) {
            written++;
        }
    }
    cr_assert_eq(written, 3U);
}

Test(buddy, never_hands_out_the_page_at_address_zero)
{
    set_up_region(0, 4);
    cr_assert_eq(stats_now().managed_pages, 3U);
    for (size_t i = 0; i < 6; i++) {
        remember();
        cr_assert_eq(tier_buddy_alloc(&buddy, 0) == NULL, i >= 3);
        cr_assert(i < 3 || only_counted(&buddy.failed_allocs));
    }
    cr_assert_eq(tier_buddy_alloc_at(&buddy, NULL, 0), TIER_ERR_FOREIGN);
}

Test(buddy, is_as_large_as_documented)
{
    if (sizeof(void *) == 8) {
        cr_assert(sizeof(struct tier_buddy) <= 104 + 8 * (MAX_ORDER + 1));
    }
}

/* --- Bulk calls and resizing ---------------------------------------------- */

Test(buddy, a_bulk_that_fails_changes_nothing_but_the_failures)
{
    void *bulk[BULK_MAX];

    set_up_region(MIDDLE, 8);
    cr_assert_not_null(tier_buddy_alloc(&buddy, 0));
    const struct tier_buddy_stats before = stats_now();

    cr_assert_eq(tier_buddy_alloc_bulk(&buddy, 0, 8, bulk), TIER_ERR_NO_MEMORY);
    const struct tier_buddy_stats after = stats_now();

    cr_assert(same_free(&after, &before));
    cr_assert_eq(after.failed_allocs, before.failed_allocs + 1);
    cr_assert_eq(after.peak_used_pages, before.peak_used_pages);
}

Test(buddy, a_bulk_of_no_blocks_is_no_failure)
{
    set_up_region(MIDDLE, 1);
    remember();
    cr_assert_eq(tier_buddy_alloc_bulk(&buddy, 0, 0, NULL), TIER_OK);
    cr_assert_eq(tier_buddy_free_bulk(&buddy, 0, NULL), TIER_OK);
    cr_assert(unchanged());
}

Test(buddy, a_bulk_free_takes_all_blocks_or_none)
{
    void *bulk[8];
    static const enum tier_status reasons[] = {
        TIER_ERR_FOREIGN, TIER_ERR_FOREIGN, TIER_ERR_DOUBLE_FREE,
        TIER_ERR_DOUBLE_FREE, TIER_ERR_MISALIGNED};

    set_up_region(MIDDLE, 10);
    cr_assert_eq(tier_buddy_alloc_bulk(&buddy, 0, 8, bulk), TIER_OK);
    void *const bad[] = {NULL, address_of(MIDDLE + 10), bulk[7], bulk[0],
                         (unsigned char *)bulk[6] + 1};

    tier_buddy_free(&buddy, bulk[7]);
    for (size_t i = 0; i < COUNT(bad); i++) {
        for (size_t at = 1; at < 6; at++) {
            void *const good = bulk[at];

            bulk[at] = bad[i];
            remember();
            cr_assert_eq(tier_buddy_free_bulk(&buddy, 6, bulk), reasons[i]);
            cr_assert(only_counted(&buddy.refused_frees));
            bulk[at] = good;
        }
    }
    cr_assert_eq(tier_buddy_free_bulk(&buddy, 7, bulk), TIER_OK);
    cr_assert_eq(stats_now().free_pages, 10U);
    cr_assert(tier_buddy_check(&buddy));
}

Test(buddy, a_bulk_free_says_what_a_free_says_of_a_block_it_names_itself)
{
    const unsigned order = MAX_ORDER == 0 ? 0 : 1;
    unsigned char *const block = address_of(MIDDLE);

    set_up_region(MIDDLE, 2);
    cr_assert_eq(tier_buddy_alloc_at(&buddy, block, order), TIER_OK);
    void *bulk[] = {block, block + 8};

    remember();
    cr_assert_eq(tier_buddy_free_bulk(&buddy, 2, bulk), TIER_ERR_MISALIGNED);
    cr_assert(only_counted(&buddy.refused_frees));
    if (order == 1) {
        bulk[1] = block + TIER_PAGE_SIZE;
        remember();
        cr_assert_eq(tier_buddy_free_bulk(&buddy, 2, bulk), TIER_ERR_INTERIOR);
        cr_assert(only_counted(&buddy.refused_frees));
    }
}

Test(buddy, resizes_a_block_where_it_is_and_keeps_its_owner)
{
    const unsigned large = MAX_ORDER < 4 ? MAX_ORDER : 4;
    void *const block = address_of(MIDDLE);

    set_up_region(MIDDLE, 16);
    const struct tier_buddy_stats empty = stats_now();

    cr_assert_eq(tier_buddy_alloc_at(&buddy, block, 0), TIER_OK);
    tier_buddy_set_owner(&buddy, block, 77);
    for (unsigned order = 0; order <= large; order++) {
        cr_assert_eq(tier_buddy_resize(&buddy, block, large), TIER_OK);
        cr_assert_eq(tier_buddy_order(&buddy, block), (int)large);
        cr_assert_eq(tier_buddy_resize(&buddy, block, order), TIER_OK);
        cr_assert_eq(tier_buddy_order(&buddy, block), (int)order);
        cr_assert_eq(tier_buddy_owner(&buddy, block), 77U);
        cr_assert_eq(stats_now().free_pages, 16 - ((size_t)1 << order));
        cr_assert(tier_buddy_check(&buddy));
    }
    cr_assert_eq(stats_now().peak_used_pages, (size_t)1 << large);
    cr_assert_eq(tier_buddy_free(&buddy, block), TIER_OK);
    const struct tier_buddy_stats again = stats_now();

    cr_assert(same_free(&again, &empty));
}

Test(buddy, allocates_below_an_address_limit)
{
    void *block;

    set_up_region(MIDDLE, 8);
    const uintptr_t limit = (uintptr_t)address_of(MIDDLE + 2);

    for (size_t i = 0; i < 2; i++) {
        cr_assert_eq(tier_buddy_alloc_within(&buddy, 0, 0, limit, &block),
                     TIER_OK);
        cr_assert((uintptr_t)block < limit);
    }
    cr_assert_eq(tier_buddy_alloc_within(&buddy, 0, 0, limit, &block),
                 TIER_ERR_NO_MEMORY);
    cr_assert_null(block);
    cr_assert_eq(
        tier_buddy_alloc_within(&buddy, 0, limit, (size_t)0 - limit, &block),
        TIER_OK);
    cr_assert((uintptr_t)block >= limit);
}

/* --- Statistics ----------------------------------------------------------- */

Test(buddy, counts_nothing_at_first)
{
    set_up(MIDDLE, 8);
    const struct tier_buddy_stats stats = stats_now();

    cr_assert_eq(stats.managed_pages, 0U);
    cr_assert_eq(stats.free_pages, 0U);
    cr_assert_eq(stats.peak_used_pages, 0U);
    cr_assert_eq(stats.largest_free_order, -1);
    cr_assert_eq(stats.failed_allocs, 0U);
    cr_assert_eq(stats.refused_allocs, 0U);
    cr_assert_eq(stats.refused_frees, 0U);
    cr_assert(test_all(stats.free_blocks, 0, sizeof(stats.free_blocks)));
    cr_assert(tier_buddy_check(&buddy));
    cr_assert_null(tier_buddy_alloc(&buddy, 0));
}

Test(buddy, remembers_its_peak_until_a_region_is_added)
{
    set_up(MIDDLE, 16);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE), bytes_of(8)),
                 TIER_OK);
    cr_assert_eq(fill(0), 8U);
    free_shuffled(7);
    cr_assert_eq(stats_now().peak_used_pages, 8U);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE + 8), bytes_of(8)),
                 TIER_OK);
    cr_assert_eq(stats_now().peak_used_pages, 1U);
    cr_assert_not_null(tier_buddy_alloc(&buddy, 0));
    cr_assert_eq(stats_now().peak_used_pages, 2U);
}

/* --- Owners --------------------------------------------------------------- */

Test(buddy, keeps_an_owner_with_each_block)
{
    set_up_region(MIDDLE, 16);
    cr_assert_eq(fill(0), 16U);
    for (uintptr_t page = 0; page < 16; page++) {
        cr_assert_eq(tier_buddy_set_owner(&buddy, address_of(MIDDLE + page),
                                          UINTPTR_MAX - page),
                     TIER_OK);
    }
    for (uintptr_t page = 0; page < 16; page += 2) {
        cr_assert_eq(tier_buddy_free(&buddy, address_of(MIDDLE + page)),
                     TIER_OK);
    }
    for (uintptr_t page = 0; page < 16; page++) {
        cr_assert_eq(tier_buddy_owner(&buddy, address_of(MIDDLE + page)),
                     page % 2 == 0 ? 0 : UINTPTR_MAX - page);
    }
    cr_assert(tier_buddy_check(&buddy));
}

Test(buddy, gives_a_block_without_the_owner_it_had_before)
{
    set_up_region(MIDDLE, 1);
    void *const page = address_of(MIDDLE);

    cr_assert_eq(tier_buddy_alloc(&buddy, 0), page);
    cr_assert_eq(tier_buddy_owner(&buddy, page), 0U);
    tier_buddy_set_owner(&buddy, page, UINTPTR_MAX);
    tier_buddy_free(&buddy, page);
    cr_assert_eq(tier_buddy_owner(&buddy, page), 0U);
    cr_assert_eq(tier_buddy_alloc_at(&buddy, page, 0), TIER_OK);
    cr_assert_eq(tier_buddy_owner(&buddy, page), 0U);
    tier_buddy_set_owner(&buddy, page, UINTPTR_MAX);
    tier_buddy_free(&buddy, page);
    cr_assert_eq(tier_buddy_alloc(&buddy, 0), page);
    cr_assert_eq(tier_buddy_owner(&buddy, page), 0U);
}

Test(buddy, finds_owner_and_order_by_the_first_address_alone)
{
    const unsigned order = MAX_ORDER < 2 ? MAX_ORDER : 2;

    set_up_region(MIDDLE, 8);
    cr_assert_eq(tier_buddy_alloc_at(&buddy, address_of(MIDDLE), order),
                 TIER_OK);
    cr_assert_eq(tier_buddy_set_owner(&buddy, address_of(MIDDLE), 77), TIER_OK);
    for (uintptr_t page = MIDDLE - 2; page < MIDDLE + 10; page++) {
        for (size_t byte = 0; byte < TIER_PAGE_SIZE; byte += 37) {
            const bool first = page == MIDDLE && byte == 0;
            const void *const address = byte_of(page, byte);

            cr_assert_eq(tier_buddy_owner(&buddy, address), first ? 77U : 0U);
            cr_assert_eq(tier_buddy_order(&buddy, address),
                         first ? (int)order : -1);
        }
    }
    cr_assert_eq(tier_buddy_owner(&buddy, NULL), 0U);
    cr_assert_eq(tier_buddy_order(&buddy, NULL), -1);
}

/* --- Refusals: each changes nothing, or one counter ----------------------- */

/*
 * Sixteen pages of a span of twenty, in two regions with a gap; a block of
 * two pages (one, if there is no order 1) and a page are allocated:
 *
 *     page   | 0 .. 3 | 4  5 | 6 | 7 .. 9 | 10 11 | 12 .. 17 | 18 19 |
 *            |  free  | pair | 1 |  free  | none  |   free   | none  |
 */
static unsigned pair_order;

static void set_up_refusals(void)
{
    pair_order = MAX_ORDER == 0 ? 0 : 1;
    set_up(MIDDLE, 20);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE), bytes_of(10)),
                 TIER_OK);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE + 12), bytes_of(6)),
                 TIER_OK);
    cr_assert_eq(
        tier_buddy_alloc_at(&buddy, address_of(MIDDLE + 4), pair_order),
        TIER_OK);
    cr_assert_eq(tier_buddy_alloc_at(&buddy, address_of(MIDDLE + 6), 0),
                 TIER_OK);
    remember();
}

/* True when adding pages [begin, end) of the above is refused like this. */
static bool add_refused(uintptr_t begin, uintptr_t end, enum tier_status status)
{
    return tier_buddy_add(&buddy, address_of(MIDDLE + begin),
                          bytes_of(end - begin)) == status &&
           unchanged();
}

static bool remove_refused(uintptr_t begin, uintptr_t end,
                           enum tier_status status)
{
    return tier_buddy_remove(&buddy, address_of(MIDDLE + begin),
                             bytes_of(end - begin)) == status &&
           unchanged();
}

static bool alloc_at_refused(void *block, unsigned order,
                             enum tier_status status, size_t *counter)
{
    const bool refused = tier_buddy_alloc_at(&buddy, block, order) == status &&
                         only_counted(counter);

    remember();
    return refused;
}

static bool free_refused(void *block, enum tier_status status)
{
    if (tier_buddy_set_owner(&buddy, block, 1) != status || !unchanged()) {
        return false;
    }
    const bool refused = tier_buddy_free(&buddy, block) == status &&
                         only_counted(&buddy.refused_frees);

    remember();
    return refused;
}

Test(buddy, refuses_to_add_what_passes_the_end_of_memory)
{
    set_up_refusals();
    cr_assert(tier_buddy_add(&buddy, address_of(TOP), TIER_PAGE_SIZE + 1) ==
                  TIER_ERR_OVERFLOW &&
              unchanged());
    cr_assert(tier_buddy_add(&buddy, address_of(MIDDLE + 10), SIZE_MAX) ==
                  TIER_ERR_OVERFLOW &&
              unchanged());
}

Test(buddy, refuses_to_add_less_than_a_page)
{
    set_up_refusals();
    cr_assert(add_refused(10, 10, TIER_ERR_INVALID));
    cr_assert(tier_buddy_add(&buddy, address_of(MIDDLE + 10),
                             TIER_PAGE_SIZE - 1) == TIER_ERR_INVALID &&
              unchanged());
    cr_assert(tier_buddy_add(&buddy, byte_of(MIDDLE + 10, 1), TIER_PAGE_SIZE) ==
                  TIER_ERR_INVALID &&
              unchanged());
    cr_assert(tier_buddy_add(&buddy, byte_of(MIDDLE + 10, 1),
                             2 * TIER_PAGE_SIZE - 2) == TIER_ERR_INVALID &&
              unchanged());
}

Test(buddy, refuses_to_add_what_leaves_the_span)
{
    set_up_refusals();
    cr_assert(add_refused(18, 21, TIER_ERR_FOREIGN));
    cr_assert(add_refused(20, 21, TIER_ERR_FOREIGN));
    cr_assert(add_refused(40, 41, TIER_ERR_FOREIGN));
    cr_assert(add_refused((uintptr_t)-1, 0, TIER_ERR_FOREIGN));
    cr_assert(add_refused((uintptr_t)-1, 21, TIER_ERR_FOREIGN));

    set_up(MIDDLE + 3, 13);
    remember();
    cr_assert(add_refused(2, 3, TIER_ERR_FOREIGN));
    cr_assert(add_refused(0, 16, TIER_ERR_FOREIGN));
    cr_assert(remove_refused(2, 3, TIER_ERR_FOREIGN));
}

Test(buddy, refuses_to_add_what_it_holds)
{
    set_up_refusals();
    for (uintptr_t begin = 0; begin < 20; begin++) {
        for (uintptr_t end = begin + 1; end <= 20; end++) {
            if (!(begin >= 10 && end <= 12) && begin < 18) {
                cr_assert(add_refused(begin, end, TIER_ERR_OVERLAP),
                          "pages %u to %u", (unsigned)begin, (unsigned)end);
            }
        }
    }
    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE + 10), bytes_of(2)),
                 TIER_OK);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(MIDDLE + 18), bytes_of(2)),
                 TIER_OK);
}

Test(buddy, refuses_to_remove_what_is_no_range_of_the_span)
{
    set_up_refusals();
    cr_assert(remove_refused(0, 0, TIER_ERR_INVALID));
    cr_assert(remove_refused(18, 21, TIER_ERR_FOREIGN));
    cr_assert(remove_refused(20, 21, TIER_ERR_FOREIGN));
    cr_assert(remove_refused((uintptr_t)-1, 1, TIER_ERR_FOREIGN));
    cr_assert(tier_buddy_remove(&buddy, address_of(MIDDLE), SIZE_MAX) ==
                  TIER_ERR_OVERFLOW &&
              unchanged());
    cr_assert(tier_buddy_remove(&buddy, (void *)UINTPTR_MAX, 2) ==
                  TIER_ERR_OVERFLOW &&
              unchanged());
}

Test(buddy, refuses_to_remove_what_is_not_all_free)
{
    set_up_refusals();
    for (uintptr_t begin = 0; begin < 20; begin++) {
        for (uintptr_t end = begin + 1; end <= 20; end++) {
            const bool low =
                end <= 4 || (MAX_ORDER == 0 && begin >= 5 && end <= 6);
            const bool high =
                (begin >= 7 && end <= 10) || (begin >= 12 && end <= 18);

            if (!low && !high) {
                cr_assert(remove_refused(begin, end, TIER_ERR_IN_USE),
                          "pages %u to %u", (unsigned)begin, (unsigned)end);
            }
        }
    }
    cr_assert(tier_buddy_remove(&buddy, byte_of(MIDDLE + 3, TIER_PAGE_SIZE - 1),
                                2) == TIER_ERR_IN_USE &&
              unchanged());
}

Test(buddy, removes_each_page_that_a_range_touches)
{
    set_up_refusals();
    cr_assert_eq(tier_buddy_remove(&buddy,
                                   byte_of(MIDDLE + 13, TIER_PAGE_SIZE - 1),
                                   TIER_PAGE_SIZE + 2),
                 TIER_OK);
    cr_assert_eq(stats_now().managed_pages, 13U);
    for (uintptr_t page = 12; page < 18; page++) {
        cr_assert_eq(tier_buddy_alloc_at(&buddy, address_of(MIDDLE + page), 0),
                     page >= 13 && page <= 15 ? TIER_ERR_IN_USE : TIER_OK);
    }
}

Test(buddy, refuses_an_order_that_is_too_large)
{
    static const unsigned orders[] = {MAX_ORDER + 1, 31, 32, 33, 63, 64,
                                      UINT32_MAX};

    set_up_refusals();
    for (size_t i = 0; i < COUNT(orders); i++) {
        cr_assert_null(tier_buddy_alloc(&buddy, orders[i]));
        cr_assert(only_counted(&buddy.refused_allocs));
        remember();
        cr_assert(alloc_at_refused(address_of(MIDDLE), orders[i],
                                   TIER_ERR_TOO_LARGE, &buddy.refused_allocs));
    }
}

Test(buddy, refuses_a_block_when_none_is_large_enough)
{
    set_up_refusals();
    for (unsigned order = 3; order <= MAX_ORDER; order++) {
        remember();
        cr_assert_null(tier_buddy_alloc(&buddy, order));
        cr_assert(only_counted(&buddy.failed_allocs));
    }
}

Test(buddy, refuses_a_place_that_is_foreign_misaligned_or_taken)
{
    size_t *const refused = &buddy.refused_allocs;
    size_t *const failed = &buddy.failed_allocs;

    set_up_refusals();
    cr_assert(alloc_at_refused(NULL, 0, TIER_ERR_FOREIGN, refused));
    cr_assert(
        alloc_at_refused(address_of(MIDDLE - 1), 0, TIER_ERR_FOREIGN, refused));
    cr_assert(alloc_at_refused(address_of(MIDDLE + 20), 0, TIER_ERR_FOREIGN,
                               refused));
    cr_assert(
        alloc_at_refused(byte_of(MIDDLE, 1), 0, TIER_ERR_MISALIGNED, refused));
    cr_assert(alloc_at_refused(byte_of(MIDDLE, TIER_PAGE_SIZE / 2), 0,
                               TIER_ERR_MISALIGNED, refused));
    for (uintptr_t page = 4; page <= 6; page++) {
        if (page != 5 || MAX_ORDER > 0) {
            cr_assert(alloc_at_refused(address_of(MIDDLE + page), 0,
                                       TIER_ERR_IN_USE, failed));
        }
    }
    cr_assert(
        alloc_at_refused(address_of(MIDDLE + 10), 0, TIER_ERR_IN_USE, failed));
    cr_assert(
        alloc_at_refused(address_of(MIDDLE + 19), 0, TIER_ERR_IN_USE, failed));
    if (MAX_ORDER >= 3) {
        cr_assert(alloc_at_refused(address_of(MIDDLE + 1), 1,
                                   TIER_ERR_MISALIGNED, refused));
        cr_assert(
            alloc_at_refused(address_of(MIDDLE), 3, TIER_ERR_IN_USE, failed));
        cr_assert(alloc_at_refused(address_of(MIDDLE + 8), 2, TIER_ERR_IN_USE,
                                   failed));
        cr_assert(alloc_at_refused(address_of(MIDDLE + 16), 3, TIER_ERR_IN_USE,
                                   failed));
        cr_assert(alloc_at_refused(address_of(MIDDLE + 16), 2, TIER_ERR_IN_USE,
                                   failed));
    }
}

Test(buddy, refuses_to_free_what_is_not_allocated)
{
    set_up_refusals();
    cr_assert(free_refused(address_of(MIDDLE - 1), TIER_ERR_FOREIGN));
    cr_assert(free_refused(address_of(MIDDLE + 10), TIER_ERR_FOREIGN));
    cr_assert(free_refused(address_of(MIDDLE + 19), TIER_ERR_FOREIGN));
    cr_assert(free_refused(address_of(MIDDLE + 20), TIER_ERR_FOREIGN));
    cr_assert(free_refused(byte_of(MIDDLE + 18, 5), TIER_ERR_FOREIGN));
    cr_assert(free_refused((void *)1, TIER_ERR_FOREIGN));
    cr_assert(free_refused((void *)UINTPTR_MAX, TIER_ERR_FOREIGN));

    for (uintptr_t page = 0; page < 4; page++) {
        cr_assert(
            free_refused(address_of(MIDDLE + page), TIER_ERR_DOUBLE_FREE));
        cr_assert(
            free_refused(byte_of(MIDDLE + page, 8), TIER_ERR_DOUBLE_FREE));
    }
    cr_assert(free_refused(byte_of(MIDDLE + 4, 1), TIER_ERR_MISALIGNED));
    cr_assert(free_refused(byte_of(MIDDLE + 6, TIER_PAGE_SIZE - 1),
                           TIER_ERR_MISALIGNED));
    if (MAX_ORDER > 0) {
        cr_assert(free_refused(address_of(MIDDLE + 5), TIER_ERR_INTERIOR));
        cr_assert(free_refused(byte_of(MIDDLE + 5, 8), TIER_ERR_MISALIGNED));
    }
}

Test(buddy, refuses_the_second_free_of_every_block)
{
    set_up_region(MIDDLE, 64);
    for (unsigned order = 0; order <= MAX_ORDER; order++) {
        const size_t count = fill(order);

        for (size_t i = 0; i < count; i++) {
            cr_assert_eq(tier_buddy_free(&buddy, blocks[i]), TIER_OK);
            remember();
            cr_assert(free_refused(blocks[i], TIER_ERR_DOUBLE_FREE));
        }
    }
}

Test(buddy, ignores_a_free_of_null)
{
    set_up_refusals();
    cr_assert_eq(tier_buddy_free(&buddy, NULL), TIER_OK);
    cr_assert(unchanged());
}

Test(buddy, leaves_pages_of_another_tier_alone)
{
    set_up_refusals();
    buddy.map.kind[10] = TIER_KIND_SLAB | 9;
    buddy.map.kind[11] = TIER_KIND_META;
    remember();
    for (uintptr_t page = 10; page < 12; page++) {
        cr_assert(free_refused(address_of(MIDDLE + page), TIER_ERR_FOREIGN));
        cr_assert(add_refused(page, page + 1, TIER_ERR_OVERLAP));
        cr_assert(remove_refused(page, page + 1, TIER_ERR_IN_USE));
        cr_assert(alloc_at_refused(address_of(MIDDLE + page), 0,
                                   TIER_ERR_IN_USE, &buddy.failed_allocs));
    }
}

/* --- Detection of damage -------------------------------------------------- */

#define DAMAGE_PAGES 64U

/* Bring about a region with blocks of many orders, free and allocated. */
static void set_up_damage(uint32_t variant)
{
    set_up_model(MIDDLE - 3, DAMAGE_PAGES);
    random_state += variant;
    add_pages(0, 30);
    add_pages(31, DAMAGE_PAGES);
    for (size_t i = 0; i < 200; i++) {
        random_step();
    }
    for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
        if (model.page[i].state == i && below(2) == 0) {
            free_block(address_of(model.first + i));
        }
    }
}

/* True for a kind that is written by a tier above this one. */
static bool is_of_another_tier(unsigned kind)
{
    return tier_kind_is_run_(kind) || kind == TIER_KIND_CACHED ||
           kind == TIER_KIND_HEAP || kind == TIER_KIND_META ||
           (kind & TIER_KIND_SLAB) != 0;
}

/* True when check() sees this change of a byte, and not its undoing. */
static bool check_sees_flip(uint8_t *byte, unsigned flip)
{
    *byte ^= (uint8_t)flip;
    const bool seen = !tier_buddy_check(&buddy);

    *byte ^= (uint8_t)flip;
    return seen && tier_buddy_check(&buddy);
}

/* True when check() sees each other value of a byte. */
static bool check_sees(uint8_t *byte)
{
    for (unsigned flip = 1; flip < 256; flip++) {
        if (!check_sees_flip(byte, flip)) {
            return false;
        }
    }
    return true;
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

static bool is_free_head(uint32_t index)
{
    return (buddy.map.kind[index] & TIER_KIND_MASK) == TIER_KIND_FREE;
}

Test(buddy, check_sees_any_change_to_the_kind_of_a_free_head)
{
    for (uint32_t variant = 0; variant < 4; variant++) {
        set_up_damage(variant);
        for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
            cr_assert(!is_free_head(i) || check_sees(&buddy.map.kind[i]));
        }
    }
}

Test(buddy, check_sees_an_allocated_head_become_that_of_no_or_another_block)
{
    for (uint32_t variant = 0; variant < 4; variant++) {
        set_up_damage(variant);
        for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
            uint8_t *const kind = &buddy.map.kind[i];

            for (unsigned flip = 1; is_head(i) && flip < 256; flip++) {
                cr_assert(is_of_another_tier(*kind ^ flip) ||
                              check_sees_flip(kind, flip),
                          "%u to %u", *kind, *kind ^ flip);
            }
        }
    }
}

Test(buddy, check_sees_a_kind_where_no_head_is)
{
    for (uint32_t variant = 0; variant < 4; variant++) {
        set_up_damage(variant);
        for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
            cr_assert(buddy.map.kind[i] != TIER_KIND_NONE ||
                      check_sees(&buddy.map.kind[i]));
        }
    }
}

Test(buddy, check_sees_any_change_to_a_link)
{
    for (uint32_t variant = 0; variant < 4; variant++) {
        set_up_damage(variant);
        for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
            cr_assert(!is_free_head(i) ||
                      check_sees_all(&buddy.map.entry[i].link,
                                     sizeof(buddy.map.entry[i].link)));
        }
        for (unsigned order = 0; order <= MAX_ORDER; order++) {
            cr_assert(check_sees_all(&buddy.lists[order].head,
                                     sizeof(buddy.lists[order].head)));
        }
    }
}

Test(buddy, check_sees_any_change_to_a_counter_of_pages)
{
    for (uint32_t variant = 0; variant < 4; variant++) {
        set_up_damage(variant);
        cr_assert(check_sees_all(&buddy.orders, sizeof(buddy.orders)));
        for (unsigned order = 0; order <= MAX_ORDER; order++) {
            cr_assert(check_sees_all(&buddy.lists[order].blocks,
                                     sizeof(buddy.lists[order].blocks)));
        }
        cr_assert(
            check_sees_all(&buddy.managed_pages, sizeof(buddy.managed_pages)));
        cr_assert(check_sees_all(&buddy.free_pages, sizeof(buddy.free_pages)));

        buddy.least_free_pages = buddy.free_pages + 1;
        cr_assert(!tier_buddy_check(&buddy));
    }
}

Test(buddy, check_sees_two_free_buddies)
{
    if (MAX_ORDER < 2) {
        return;
    }
    set_up_region(MIDDLE, 4);
    cr_assert_eq(fill(1), 2U);
    tier_buddy_free(&buddy, address_of(MIDDLE));

    /* What a free that does not coalesce would leave. */
    tier_buddy_link_(&buddy, 2, 1);
    buddy.free_pages += 2;
    cr_assert(!tier_buddy_check(&buddy));
}

Test(buddy, check_sees_a_block_that_is_misaligned_or_leaves_the_span)
{
    if (MAX_ORDER < 1) {
        return;
    }
    set_up_region(MIDDLE, 3);
    cr_assert_eq(fill(0), 3U);
    buddy.map.kind[1] = TIER_KIND_BLOCK | 1;
    buddy.map.kind[2] = TIER_KIND_NONE;
    cr_assert(!tier_buddy_check(&buddy));

    set_up_region(MIDDLE, 3);
    cr_assert_eq(fill(0), 3U);
    buddy.map.kind[2] = TIER_KIND_BLOCK | 1;
    buddy.managed_pages++;
    cr_assert(!tier_buddy_check(&buddy));
}

Test(buddy, check_sees_a_block_larger_than_the_largest)
{
    const size_t block = (size_t)1 << MAX_ORDER;

    if (SPAN_MAX / block < 2) {
        return;
    }
    set_up_region(MIDDLE, 2 * block);
    cr_assert_eq(fill(MAX_ORDER), 2U);
    buddy.map.kind[0] = TIER_KIND_BLOCK | (MAX_ORDER + 1);
    buddy.map.kind[block] = TIER_KIND_NONE;
    cr_assert(!tier_buddy_check(&buddy));
}

Test(buddy, check_sees_a_free_head_on_no_list)
{
    set_up_region(MIDDLE, 1);
    buddy.lists[0].head = TIER_PAGE_NIL;
    buddy.lists[0].blocks = 0;
    buddy.orders = 0;
    cr_assert(!tier_buddy_check(&buddy));
}

Test(buddy, check_survives_random_metadata)
{
    for (uint32_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        if (step % 64 == 0) {
            set_up_damage(step);
        }
        for (uint32_t left = 1 + below(8); left != 0; left--) {
            const uint32_t at = below((uint32_t)metadata_bytes);

            metadata[at] = (uint8_t)below(256);
        }
        buddy.lists[below(MAX_ORDER + 1)].head = below(80);
        buddy.lists[below(MAX_ORDER + 1)].blocks = below(80);
        tier_buddy_check(&buddy);
    }
}

Test(buddy, check_survives_any_kind_at_any_place)
{
    set_up_damage(0);
    for (uint32_t i = 0; i < DAMAGE_PAGES; i++) {
        for (unsigned kind = 0; kind < 256; kind++) {
            memset(buddy.map.kind, (int)kind, DAMAGE_PAGES);
            buddy.map.kind[i] = (uint8_t)(kind ^ 0x55U);
            tier_buddy_check(&buddy);
        }
    }
}

Test(buddy, check_ends_on_a_circular_list)
{
    set_up_region(MIDDLE, 4);
    cr_assert_eq(fill(0), 4U);
    tier_buddy_free(&buddy, address_of(MIDDLE));
    tier_buddy_free(&buddy, address_of(MIDDLE + 2));

    buddy.map.entry[0].link.next = 2;
    buddy.map.entry[2].link.prev = 0;
    buddy.lists[0].blocks = UINT32_MAX; /* a bound of no use */
    cr_assert(!tier_buddy_check(&buddy));
}

Test(buddy, dumps_the_free_blocks_of_each_order)
{
    set_up_region(MIDDLE, 7);
    dump.length = 0;
    tier_buddy_dump(&buddy, dump_put, &dump);
    if (MAX_ORDER >= 2) {
        cr_assert_eq(strncmp(dump.text, "free blocks by order: 1 1 1", 27), 0);
    } else {
        cr_assert_eq(strncmp(dump.text, "free blocks by order: ", 22), 0);
    }
    cr_assert_eq(dump.text[dump.length - 1], '\n');
}

Test(buddy, removes_what_was_added_from_address_zero_on)
{
    set_up(0, 8);
    cr_assert_eq(tier_buddy_add(&buddy, NULL, bytes_of(8)), TIER_OK);
    cr_assert_eq(stats_now().managed_pages, 7U);
    cr_assert_eq(tier_buddy_remove(&buddy, NULL, bytes_of(1)),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_buddy_remove(&buddy, NULL, bytes_of(8)), TIER_OK);
    cr_assert_eq(stats_now().managed_pages, 0U);
}

Test(buddy, refuses_the_memory_of_its_own_map)
{
    void *const inside = test_align(metadata_room, TIER_PAGE_SIZE);
    const size_t bytes = sizeof(metadata_room);

    if (bytes < TIER_PAGE_SIZE * 2) {
        return; /* it may hold no whole page */
    }
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)metadata_room, bytes,
                                   inside, TIER_PAGE_SIZE),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, metadata_room, bytes),
                 TIER_ERR_OVERLAP);
    cr_assert_eq(stats_now().managed_pages, 0U);
    cr_assert(tier_buddy_check(&buddy));
}
