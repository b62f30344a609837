/*
 * tests/test_tieralloc.c - the allocator as its callers see it.
 *
 * SPDX-License-Identifier: MIT
 *
 * Modes, recovery, transactions at length and reports have tests of their own.
 */
#define TIERALLOC_IMPLEMENTATION
#include "model.h"

#include <tieralloc/tieralloc.h>

#include "objects.h"

/* --- The rig -------------------------------------------------------------- */

/* Enough for one aligned block of the largest order, at the default options. */
#define ARENA_BYTES (8 * MIB - TIER_PAGE_SIZE)
#define ARENA_PAGES (ARENA_BYTES / TIER_PAGE_SIZE)
#define RUN_PAGES   ((size_t)512)
#define RUN_BYTES   (RUN_PAGES * TIER_PAGE_SIZE)

/* Pages of the shortest run that tier_alloc gives, and whether there is one. */
#define LONG_PAGES (TIER_SLAB_BYTES_MAX / TIER_PAGE_SIZE + 1)
#define HAS_LONG   (LONG_PAGES * 4 <= TIER_RUN_MAX)

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES * 2) / 8 + 1];
static struct tier_allocator heap;
static struct model model;
static bool claimed[ARENA_BYTES / MODEL_GRAIN];

/* An allocator over the first pages of a span at the start of the arena. */
static void set_up_span(size_t span, size_t pages)
{
    memset(&heap, 0xA5, sizeof(heap));
    memset(map_memory, 0xA5, sizeof(map_memory));
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, span, map_memory,
                           sizeof(map_memory)),
                 TIER_OK);
    cr_assert_eq(tier_add_region(&heap, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
    model_init(&model, arena, span, claimed);
}

static void set_up(size_t pages)
{
    set_up_span(ARENA_BYTES, pages);
}

static unsigned char *page(size_t index)
{
    return arena + index * TIER_PAGE_SIZE;
}

static struct tier_stats stats_of(struct tier_allocator *allocator)
{
    struct tier_stats stats;

    tier_stats(allocator, &stats);
    return stats;
}

/* What is live must be the same in both; what has happened may differ. */
static void expect_same_live(const struct tier_stats *a,
                             const struct tier_stats *b)
{
    cr_assert_eq(a->managed_pages, b->managed_pages);
    cr_assert_eq(a->free_pages, b->free_pages);
    cr_assert_eq(a->free_run_pages, b->free_run_pages);
    cr_assert_eq(a->largest_free_order, b->largest_free_order);
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        cr_assert_eq(a->free_blocks[order], b->free_blocks[order]);
    }
    cr_assert_eq(a->slab_pages, b->slab_pages);
    cr_assert_eq(a->heap_pages, b->heap_pages);
    cr_assert_eq(a->live_objects, b->live_objects);
    cr_assert_eq(a->heap_objects, b->heap_objects);
    cr_assert_eq(a->live_blocks, b->live_blocks);
    cr_assert_eq(a->live_pages, b->live_pages);
    cr_assert_eq(a->live_bytes, b->live_bytes);
}

/* After a trim, everything must be free as it was at first. */
static void expect_all_back(const struct tier_stats *first)
{
    (void)tier_trim(&heap);
    const struct tier_stats now = stats_of(&heap);

    cr_assert_eq(now.slab_pages, 0U);
    cr_assert_eq(now.waiting_objects, 0U);
    cr_assert_eq(now.waiting_bytes, 0U);
    expect_same_live(&now, first);
    cr_assert(tier_check(&heap));
}

/* Free and count it: nothing may be wrong. */
static void expect_freed(void *memory)
{
    cr_assert_not_null(memory);
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
}

/* True for an object in a slab, and for a block of pages. */
static bool is_object(const void *memory)
{
    return (tier_kind_(&heap, memory) & TIER_KIND_SLAB) != 0;
}

static bool is_block(const void *memory)
{
    return (tier_kind_(&heap, memory) & TIER_KIND_MASK) == TIER_KIND_BLOCK;
}

/* Bytes of whole pages for so many. */
static size_t paged(size_t bytes)
{
    return bytes == 0 ? TIER_PAGE_SIZE
                      : ((bytes - 1) / TIER_PAGE_SIZE + 1) * TIER_PAGE_SIZE;
}

/* Usable bytes that a request gets; 0 when it is too large. */
static size_t granted(size_t bytes)
{
    if (bytes <= TIER_SLAB_BYTES_MAX) {
        return usable_for(bytes + (bytes == 0));
    }
    return bytes <= TIER_BLOCK_MAX ? paged(bytes) : 0;
}

/* Bytes that live_bytes counts for what has so many usable ones. */
static size_t counted(size_t usable)
{
    return usable <= TIER_SLAB_BYTES_MAX ? object_for(usable) : usable;
}

/* The same of an allocation, which may be an object that has pages. */
static size_t held_at(const void *memory, size_t usable)
{
    return is_object(memory) ? counted(usable) : usable;
}

/* Bytes of the largest block that is free. */
static size_t largest_free(void)
{
    const int order = stats_of(&heap).largest_free_order;

    return order < 0 ? 0 : TIER_PAGE_SIZE << order;
}

/* The allocator and its map, but for what only counts. */
static uint64_t snapshot(void)
{
    static struct tier_allocator copy;

    memcpy(&copy, &heap, sizeof(copy));
    copy.requests = 0;
    copy.recent_requests = 0;
    copy.recent_failures = 0;
    copy.recoveries = 0;
    copy.failed_no_memory = 0;
    copy.failed_too_large = 0;
    copy.failed_invalid = 0;
    copy.refused_frees = 0;
    copy.slab.refused_frees = 0;
    copy.slab.failed_allocs = 0;
    copy.heap.refused_frees = 0;
    copy.heap.failed_allocs = 0;
    for (unsigned i = 0; i < TIER_ZONES_MAX; i++) {
        copy.zones.zone[i].buddy.refused_frees = 0;
        copy.zones.zone[i].buddy.refused_allocs = 0;
        copy.zones.zone[i].buddy.failed_allocs = 0;
        copy.zones.zone[i].runs.refused_frees = 0;
        copy.zones.zone[i].runs.refused_allocs = 0;
        copy.zones.zone[i].runs.failed_allocs = 0;
    }
#if TIERALLOC_CPUS > 0
    copy.cache.cpu[0].locks = 0;
#endif
    return fold(fold(UINT64_C(0xCBF29CE484222325), &copy, sizeof(copy)),
                map_memory, sizeof(map_memory));
}

/* Take all that there is, page by page and class by class. */
static void exhaust(void)
{
    while (tier_alloc_pages(&heap, 0) != NULL) {
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        while (is_served(i) && tier_alloc(&heap, most_of(i)) != NULL) {
        }
    }
    cr_assert_eq(stats_of(&heap).free_pages, 0U);
    cr_assert(tier_check(&heap));
}

/* --- Lifecycle ------------------------------------------------------------ */

/* Each must be refused with this status and leave the struct alone. */
static void expect_init(uintptr_t base, size_t bytes, void *map,
                        size_t map_bytes, enum tier_status status)
{
    memset(&heap, 0xA5, sizeof(heap));
    cr_assert_eq(tier_init(&heap, base, bytes, map, map_bytes), status);
    cr_assert(test_all(&heap, 0xA5, sizeof(heap)));
}

Test(tieralloc, refuses_bad_spans_and_maps_and_changes_nothing)
{
    const uintptr_t base = (uintptr_t)arena;
    const size_t need = tier_map_bytes(base, ARENA_BYTES);
    unsigned char *const map = (unsigned char *)map_memory;

    cr_assert(need >= TIER_PAGEMAP_BYTES(ARENA_PAGES) &&
              need <= sizeof(map_memory));
    for (unsigned given = 0; given < 2; given++) {
        void *const at = given ? map : NULL;
        const size_t size = sizeof(map_memory);

        expect_init(UINTPTR_MAX - 99, 101, at, size, TIER_ERR_OVERFLOW);
        expect_init(base, SIZE_MAX, at, size, TIER_ERR_OVERFLOW);
        expect_init(base, 0, at, size, TIER_ERR_INVALID);
        expect_init(base + 1, TIER_PAGE_SIZE, at, size, TIER_ERR_INVALID);
        expect_init(base, TIER_PAGE_SIZE - 1, at, size, TIER_ERR_INVALID);
#if UINTPTR_MAX > 0xFFFFFFFFU
        expect_init(0, SIZE_MAX, at, size, TIER_ERR_TOO_LARGE);
#endif
    }
    cr_assert_eq(tier_map_bytes(base, 0), 0U);
    cr_assert_eq(tier_map_bytes(base, SIZE_MAX), 0U);
    for (size_t i = 1; i < 8; i++) {
        expect_init(base, ARENA_BYTES, map + i, need, TIER_ERR_MISALIGNED);
    }
    expect_init(base, ARENA_BYTES, map, need - 1, TIER_ERR_METADATA);
    expect_init(base, ARENA_BYTES, map, 0, TIER_ERR_METADATA);
    struct tier_allocator *const odd =
        (void *)((unsigned char *)&heap + _Alignof(struct tier_allocator) / 2);

    memset(&heap, 0xA5, sizeof(heap));
    cr_assert_eq(tier_init(odd, base, ARENA_BYTES, map, need),
                 TIER_ERR_MISALIGNED);
    cr_assert(test_all(&heap, 0xA5, sizeof(heap)));
    cr_assert_eq(tier_init(&heap, base, ARENA_BYTES, map, need), TIER_OK);
}

/* No call may do more than say no. */
static void expect_nothing_works(void)
{
    void *memory = arena;

    cr_assert_null(tier_alloc(&heap, 0));
    cr_assert_null(tier_alloc(&heap, TIERALLOC_OBJECT_MAX + (size_t)1));
    cr_assert_eq(tier_try_alloc(&heap, 8, 0, &memory), TIER_ERR_NO_MEMORY);
    cr_assert_null(memory);
    cr_assert_null(tier_calloc(&heap, 2, 2));
    cr_assert_null(tier_alloc_aligned(&heap, 8, 8));
    cr_assert_null(tier_alloc_pages(&heap, 0));
    cr_assert_eq(tier_try_alloc_pages(&heap, 0, 0, &memory),
                 TIER_ERR_NO_MEMORY);
    cr_assert_eq(tier_try_alloc(&heap, 8, TIER_DMA | TIER_RESERVE, &memory),
                 TIER_ERR_NO_MEMORY);
    cr_assert_eq(tier_alloc_bulk(&heap, 8, 1, &memory), TIER_ERR_NO_MEMORY);
    cr_assert_null(tier_realloc(&heap, NULL, 8));
    cr_assert_null(tier_realloc_aligned(&heap, NULL, 8, 64));
    cr_assert_eq(tier_free(&heap, NULL), TIER_OK);
    cr_assert_eq(tier_free_sized(&heap, NULL, 8), TIER_OK);
#if TIERALLOC_CHECKS
    cr_assert_null(tier_realloc(&heap, arena, 8));
    cr_assert_null(tier_realloc_aligned(&heap, arena, 8, 64));
    cr_assert_eq(tier_free(&heap, arena), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_free(&heap, (void *)(uintptr_t)1), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_free(&heap, (void *)UINTPTR_MAX), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_free_sized(&heap, arena, 8), TIER_ERR_FOREIGN);
    memory = arena;
    cr_assert_eq(tier_free_bulk(&heap, 1, &memory), TIER_ERR_FOREIGN);
#endif
    cr_assert_eq(tier_usable_size(&heap, arena), 0U);
    cr_assert_eq(tier_usable_size(&heap, NULL), 0U);
    cr_assert_eq(tier_trim(&heap), 0U);
    cr_assert_eq(tier_drain(&heap, 0), 0U);
    cr_assert_eq(tier_remove_region(&heap, arena, 0), TIER_ERR_INVALID);
    cr_assert(tier_remove_region(&heap, arena, 1) != TIER_OK);
    cr_assert(tier_check(&heap));
    cr_assert_eq(stats_of(&heap).managed_pages, 0U);
    cr_assert_eq(stats_of(&heap).largest_free_order, -1);
}

Test(tieralloc, says_no_before_there_is_a_region)
{
    const uintptr_t base = (uintptr_t)arena;

    cr_assert_eq(tier_init(&heap, base, ARENA_BYTES, NULL, 0), TIER_OK);
    expect_nothing_works();
    cr_assert_eq(
        tier_init(&heap, base, ARENA_BYTES, map_memory, sizeof(map_memory)),
        TIER_OK);
    expect_nothing_works();
    cr_assert_eq(tier_add_region(&heap, arena, TIER_PAGE_SIZE * 4), TIER_OK);
    cr_assert_not_null(tier_alloc(&heap, 8));
}

/* A first region that begins `skip` bytes into the arena. */
static void expect_carved(size_t skip)
{
    const size_t need = tier_map_bytes((uintptr_t)arena, RUN_BYTES);
    const size_t end = (skip + 7) / 8 * 8 + need;
    const size_t pages = (end + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE;

    memset(arena, 0xA5, RUN_BYTES);
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, RUN_BYTES, NULL, 0),
                 TIER_OK);
    cr_assert_eq(tier_add_region(&heap, arena + skip, RUN_BYTES - skip),
                 TIER_OK);
    cr_assert_eq(stats_of(&heap).managed_pages, RUN_PAGES - pages);
    cr_assert_eq(stats_of(&heap).free_pages, RUN_PAGES - pages);
    for (void *block; (block = tier_alloc_pages(&heap, 0)) != NULL;) {
        cr_assert((uintptr_t)block >= (uintptr_t)(arena + end));
        memset(block, 0x5A, TIER_PAGE_SIZE);
    }
    cr_assert(test_all(arena, 0xA5, skip));
    cr_assert(tier_check(&heap));
    cr_assert_eq(tier_remove_region(&heap, arena, TIER_PAGE_SIZE),
                 TIER_ERR_IN_USE);
#if TIERALLOC_CHECKS
    cr_assert_eq(tier_free(&heap, arena), TIER_ERR_FOREIGN);
#endif
}

Test(tieralloc, places_its_map_at_the_start_of_the_first_region)
{
    const size_t need = tier_map_bytes((uintptr_t)arena, RUN_BYTES);
    const size_t rest = (~need + 1) & (TIER_PAGE_SIZE - 1);

    for (size_t skip = 0; skip < 17; skip++) {
        expect_carved(skip);
        expect_carved(rest + skip); /* the map ends where a page does */
    }
}

Test(tieralloc, refuses_a_first_region_that_cannot_hold_the_map)
{
    const uintptr_t base = (uintptr_t)arena;
    const size_t need = tier_map_bytes(base, ARENA_BYTES);
    const size_t enough =
        (need + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE * TIER_PAGE_SIZE +
        TIER_PAGE_SIZE;
    const size_t tries[] = {TIER_PAGE_SIZE, need - 1, need, enough - 1};

    cr_assert_eq(tier_init(&heap, base, ARENA_BYTES, NULL, 0), TIER_OK);
    memset(arena, 0xA5, enough);
    const uint64_t before = snapshot();

    for (size_t i = 0; i < COUNT(tries); i++) {
        const size_t bytes =
            tries[i] < TIER_PAGE_SIZE ? TIER_PAGE_SIZE : tries[i];

        if (bytes < enough) {
            cr_assert_eq(tier_add_region(&heap, arena, bytes),
                         TIER_ERR_METADATA);
        }
    }
    cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES + TIER_PAGE_SIZE),
                 TIER_ERR_FOREIGN);
    cr_assert_eq(tier_add_region(&heap, arena, 0), TIER_ERR_INVALID);
    cr_assert_eq(tier_add_region(&heap, arena, SIZE_MAX), TIER_ERR_OVERFLOW);
    cr_assert_eq(snapshot(), before);
    cr_assert(test_all(arena, 0xA5, enough));
    cr_assert_eq(tier_add_region(&heap, arena, enough), TIER_OK);
    cr_assert_eq(stats_of(&heap).managed_pages, 1U);
    cr_assert_not_null(tier_alloc_pages(&heap, 0));
    cr_assert_eq(tier_add_region(&heap, arena + ARENA_BYTES - TIER_PAGE_SIZE,
                                 TIER_PAGE_SIZE),
                 TIER_OK);
    cr_assert_eq(stats_of(&heap).managed_pages, 2U);
    cr_assert(tier_check(&heap));
}

/* The span is all of the arena but its first and its last page. */
Test(tieralloc, refuses_bad_regions_and_changes_nothing)
{
    cr_assert_eq(tier_init(&heap, (uintptr_t)page(1),
                           ARENA_BYTES - TIER_PAGE_SIZE * 2, map_memory,
                           sizeof(map_memory)),
                 TIER_OK);
    cr_assert_eq(tier_add_region(&heap, page(4), TIER_PAGE_SIZE * 4), TIER_OK);
    const uint64_t before = snapshot();
    const struct {
        void *base;
        size_t bytes;
        enum tier_status status;
    } cases[] = {
        {page(1), SIZE_MAX, TIER_ERR_OVERFLOW},
        {(void *)UINTPTR_MAX, 2, TIER_ERR_OVERFLOW},
        {page(1), 0, TIER_ERR_INVALID},
        {page(1), TIER_PAGE_SIZE - 1, TIER_ERR_INVALID},
        {page(1) + 1, TIER_PAGE_SIZE * 2 - 2, TIER_ERR_INVALID},
        {page(0), TIER_PAGE_SIZE, TIER_ERR_FOREIGN},
        {page(0), TIER_PAGE_SIZE * 2, TIER_ERR_FOREIGN},
        {page(0), ARENA_BYTES, TIER_ERR_FOREIGN},
        {page(ARENA_PAGES - 1), TIER_PAGE_SIZE, TIER_ERR_FOREIGN},
        {page(ARENA_PAGES - 2), TIER_PAGE_SIZE * 2, TIER_ERR_FOREIGN},
        {page(4), TIER_PAGE_SIZE * 4, TIER_ERR_OVERLAP},
        {page(3), TIER_PAGE_SIZE * 2, TIER_ERR_OVERLAP},
        {page(7), TIER_PAGE_SIZE * 2, TIER_ERR_OVERLAP},
        {page(5), TIER_PAGE_SIZE, TIER_ERR_OVERLAP},
        {page(1), TIER_PAGE_SIZE * 8, TIER_ERR_OVERLAP},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        cr_assert_eq(tier_add_region(&heap, cases[i].base, cases[i].bytes),
                     cases[i].status, "case %lu", (unsigned long)i);
    }
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(tier_add_region(&heap, page(8), TIER_PAGE_SIZE), TIER_OK);
    cr_assert_eq(tier_add_region(&heap, page(1), TIER_PAGE_SIZE * 3), TIER_OK);
    cr_assert_eq(stats_of(&heap).managed_pages, 8U);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, removes_only_what_is_free)
{
    set_up(32);
    void *const block = tier_alloc_pages(&heap, 0);
    const uint64_t before = snapshot();

    cr_assert_eq(tier_remove_region(&heap, arena, TIER_PAGE_SIZE * 32),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_remove_region(&heap, block, 1), TIER_ERR_IN_USE);
    cr_assert_eq(tier_remove_region(&heap, page(31), TIER_PAGE_SIZE + 1),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_remove_region(&heap, page(40), 1), TIER_ERR_IN_USE);
    cr_assert_eq(tier_remove_region(&heap, page(31), 0), TIER_ERR_INVALID);
    cr_assert_eq(tier_remove_region(&heap, page(31), SIZE_MAX),
                 TIER_ERR_OVERFLOW);
    cr_assert_eq(tier_remove_region(&heap, page(ARENA_PAGES), 1),
                 TIER_ERR_FOREIGN);
    cr_assert_eq(tier_remove_region(&heap, page(31), ARENA_BYTES),
                 TIER_ERR_FOREIGN);
    cr_assert_eq(snapshot(), before);
    void *const object = tier_alloc(&heap, 8);

    cr_assert_eq(tier_remove_region(&heap, object, 1), TIER_ERR_IN_USE);
    cr_assert_eq(tier_free(&heap, block), TIER_OK);
    cr_assert_eq(tier_free(&heap, object), TIER_OK);
    cr_assert(stats_of(&heap).slab_pages > 0);
    cr_assert_eq(tier_remove_region(&heap, arena, TIER_PAGE_SIZE * 32),
                 TIER_OK);
    cr_assert_eq(stats_of(&heap).managed_pages, 0U);
    cr_assert_null(tier_alloc(&heap, 8));
    cr_assert_eq(tier_add_region(&heap, page(3), TIER_PAGE_SIZE * 4), TIER_OK);
    cr_assert_not_null(tier_alloc(&heap, 8));
    cr_assert(tier_check(&heap));
}

Test(tieralloc, never_gives_out_what_lies_between_its_regions)
{
    static unsigned char guard[3] = {0xA5, 0x5A, 0xC3};
    const size_t holes[] = {4, 9, 15};
    uint64_t random = TEST_SEED;

    set_up(4);
    cr_assert_eq(tier_add_region(&heap, page(5), TIER_PAGE_SIZE * 4), TIER_OK);
    cr_assert_eq(tier_add_region(&heap, page(10) - 7, TIER_PAGE_SIZE * 5 + 9),
                 TIER_OK);
    cr_assert_eq(tier_add_region(&heap, page(16), TIER_PAGE_SIZE * 9), TIER_OK);
    cr_assert_eq(stats_of(&heap).managed_pages, 4 + 4 + 5 + 9U);
    for (size_t i = 0; i < COUNT(holes); i++) {
        memset(page(holes[i]), guard[i], TIER_PAGE_SIZE);
    }
    for (void *memory = arena; memory != NULL;) {
        memory =
            tier_alloc(&heap, test_below(&random, TIERALLOC_OBJECT_MAX * 2));
        if (memory != NULL) {
            memset(memory, 0x11, tier_usable_size(&heap, memory));
        }
    }
    exhaust();
    for (size_t i = 0; i < COUNT(holes); i++) {
        cr_assert(test_all(page(holes[i]), guard[i], TIER_PAGE_SIZE));
    }
}

/* --- Sizes ---------------------------------------------------------------- */

/* What a request got must be as documented; it is overwritten and freed. */
static void expect_got(void *memory, size_t bytes)
{
    const size_t usable = granted(bytes);

    cr_assert_not_null(memory, "%lu bytes", (unsigned long)bytes);
    cr_assert_eq(tier_usable_size(&heap, memory), usable);
    cr_assert_eq((uintptr_t)memory % TIERALLOC_MIN_ALIGN, 0U);
    cr_assert_eq(is_object(memory), bytes <= TIER_SLAB_BYTES_MAX);
    if (!is_object(memory)) {
        cr_assert_eq((uintptr_t)memory % TIER_PAGE_SIZE, 0U);
        cr_assert_eq(stats_of(&heap).live_pages, usable / TIER_PAGE_SIZE);
    }
    cr_assert_eq(stats_of(&heap).live_bytes, counted(usable));
    memset(memory, 0xEE, usable);
    cr_assert_eq(tier_free_sized(&heap, memory, bytes), TIER_OK);
    cr_assert_eq(stats_of(&heap).live_bytes, 0U);
}

/* One request by every call that takes a size. */
static void expect_served(size_t bytes)
{
    void *memory;

    expect_got(tier_alloc(&heap, bytes), bytes);
    cr_assert_eq(tier_try_alloc(&heap, bytes, TIER_ZERO, &memory), TIER_OK);
    cr_assert(test_all(memory, 0, bytes));
    expect_got(memory, bytes);
    memory = tier_calloc(&heap, 1, bytes);
    cr_assert(test_all(memory, 0, bytes));
    expect_got(memory, bytes);
    expect_got(tier_realloc(&heap, NULL, bytes), bytes);
    expect_got(tier_realloc_aligned(&heap, NULL, bytes, 1), bytes);
    expect_got(tier_alloc_aligned(&heap, bytes, TIERALLOC_MIN_ALIGN), bytes);
    cr_assert_eq(tier_alloc_bulk(&heap, bytes, 1, &memory), TIER_OK);
    expect_got(memory, bytes);
}

/* One request that can never be met. */
static void expect_too_large(size_t bytes)
{
    const size_t failed = stats_of(&heap).failed_too_large;
    void *memory = arena;

    cr_assert_null(tier_alloc(&heap, bytes));
    cr_assert_eq(tier_try_alloc(&heap, bytes, TIER_ZERO, &memory),
                 TIER_ERR_TOO_LARGE);
    cr_assert_null(memory);
    cr_assert_null(tier_calloc(&heap, 1, bytes));
    cr_assert_null(tier_calloc(&heap, bytes, 1));
    cr_assert_null(tier_alloc_aligned(&heap, bytes, 8));
    cr_assert_null(tier_alloc_aligned(&heap, bytes, TIER_BLOCK_MAX));
    cr_assert_null(tier_realloc(&heap, NULL, bytes));
    cr_assert_null(tier_realloc_aligned(&heap, NULL, bytes, 8));
    cr_assert_eq(tier_alloc_bulk(&heap, bytes, 1, &memory), TIER_ERR_TOO_LARGE);
    cr_assert_eq(stats_of(&heap).failed_too_large, failed + 9);
    cr_assert_eq(stats_of(&heap).failed_allocs, failed + 9);
}

Test(tieralloc, serves_every_size_up_to_the_largest_object)
{
    set_up(ARENA_PAGES);
    const struct tier_stats first = stats_of(&heap);

    for (size_t bytes = 0; bytes <= 300; bytes++) {
        expect_served(bytes);
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (is_served(i)) {
            expect_served(most_of(i) - 1);
            expect_served(most_of(i));
        }
        if (is_served(i) && i < TIER_SLAB_CLASSES - 1) {
            expect_served(most_of(i) + 1);
        }
    }
    expect_all_back(&first);
}

Test(tieralloc, serves_pages_by_the_page_up_to_the_largest_block)
{
    set_up(ARENA_PAGES);
    const struct tier_stats first = stats_of(&heap);

    for (size_t pages = LONG_PAGES; pages < TIER_RUN_MAX;
         pages += 1 + pages / 8) {
        const size_t bytes = pages * TIER_PAGE_SIZE;

        if (bytes < largest_free() && bytes > TIER_SLAB_BYTES_MAX) {
            expect_served(bytes);
            expect_served(bytes + 1);
            expect_served(bytes + TIER_PAGE_SIZE - 1);
            cr_assert(tier_check(&heap));
        }
        (void)tier_trim(&heap);
    }
    if (first.largest_free_order == TIERALLOC_MAX_ORDER) {
        expect_served(TIER_BLOCK_MAX - 1);
        expect_served(TIER_BLOCK_MAX);
    }
    expect_all_back(&first);
}

Test(tieralloc, refuses_every_size_above_the_largest_block)
{
    set_up(ARENA_PAGES);
    const uint64_t before = snapshot();

    expect_too_large(TIER_BLOCK_MAX + 1);
    expect_too_large(TIER_BLOCK_MAX * 2);
    expect_too_large((size_t)PTRDIFF_MAX);
    expect_too_large((size_t)PTRDIFF_MAX + 1);
    for (size_t less = 0; less < 20; less++) {
        expect_too_large(SIZE_MAX - less);
        expect_too_large(SIZE_MAX - less * TIER_PAGE_SIZE);
        expect_too_large((size_t)PTRDIFF_MAX - less * TIER_PAGE_SIZE);
    }
    cr_assert_eq(snapshot(), before);
}

Test(tieralloc, serves_blocks_of_every_order)
{
    set_up(ARENA_PAGES);
    const struct tier_stats first = stats_of(&heap);
    void *block;

    for (unsigned order = 0; (int)order <= first.largest_free_order; order++) {
        const size_t bytes = TIER_PAGE_SIZE << order;

        block = tier_alloc_pages(&heap, order);
        cr_assert_not_null(block);
        cr_assert(is_block(block));
        cr_assert_eq((uintptr_t)block % bytes, 0U);
        cr_assert_eq(tier_usable_size(&heap, block), bytes);
        cr_assert_eq(stats_of(&heap).live_blocks, 1U);
        cr_assert_eq(stats_of(&heap).live_pages, (size_t)1 << order);
        cr_assert_eq(stats_of(&heap).live_bytes, bytes);
        cr_assert_eq(stats_of(&heap).live_objects, 0U);
        cr_assert_eq(stats_of(&heap).free_pages,
                     first.free_pages - ((size_t)1 << order));
        memset(block, 0xEE, bytes);
        cr_assert_eq(tier_free_sized(&heap, block, bytes), TIER_OK);
        cr_assert_eq(tier_try_alloc_pages(&heap, order, TIER_ZERO, &block),
                     TIER_OK);
        cr_assert(test_all(block, 0, bytes));
        expect_freed(block);
    }
    expect_all_back(&first);
}

Test(tieralloc, refuses_orders_that_do_not_exist)
{
    const unsigned orders[] = {TIERALLOC_MAX_ORDER + 1, 31, 32, 63, 64, ~0U};

    set_up(ARENA_PAGES);
    const uint64_t before = snapshot();

    for (size_t i = 0; i < COUNT(orders); i++) {
        void *block = arena;

        cr_assert_null(tier_alloc_pages(&heap, orders[i]));
        cr_assert_eq(tier_try_alloc_pages(&heap, orders[i], 0, &block),
                     TIER_ERR_TOO_LARGE);
        cr_assert_null(block);
        cr_assert_eq(stats_of(&heap).failed_too_large, 2 * i + 2);
    }
    cr_assert_eq(snapshot(), before);
}

Test(tieralloc, tells_the_most_pages_ever_in_use)
{
    set_up(32);
    void *const block = tier_alloc_pages(&heap, 0);
    void *const other = tier_alloc_pages(&heap, 0);

    expect_freed(block);
    cr_assert_eq(stats_of(&heap).peak_used_pages, 2U);
    expect_freed(other);
    cr_assert_eq(stats_of(&heap).peak_used_pages, 2U);
    cr_assert_eq(stats_of(&heap).managed_pages, 32U);
    expect_freed(tier_alloc(&heap, 64));
    const size_t slab_pages = stats_of(&heap).slab_pages;

    cr_assert(slab_pages >= 2); /* a slab, and descriptors */
    cr_assert_eq(stats_of(&heap).peak_used_pages, slab_pages);
    (void)tier_trim(&heap);
    cr_assert_eq(stats_of(&heap).peak_used_pages, slab_pages);
    cr_assert_eq(tier_add_region(&heap, page(32), TIER_PAGE_SIZE), TIER_OK);
    cr_assert_eq(stats_of(&heap).peak_used_pages, 0U);
}

/* Several at once, so that not all lie at the start of a slab. */
static void expect_aligned(size_t bytes, size_t alignment)
{
    void *memory[3];

    for (size_t n = 0; n < COUNT(memory); n++) {
        const size_t largest = largest_free();
        const size_t need = bytes < alignment ? alignment : bytes;

        memory[n] = tier_alloc_aligned(&heap, bytes, alignment);
        cr_assert(memory[n] != NULL || largest < need,
                  "%lu bytes at a multiple of %lu", (unsigned long)bytes,
                  (unsigned long)alignment);
        if (memory[n] != NULL) {
            cr_assert_eq((uintptr_t)memory[n] % alignment, 0U);
            cr_assert_eq((uintptr_t)memory[n] % TIERALLOC_MIN_ALIGN, 0U);
            cr_assert(tier_usable_size(&heap, memory[n]) >= bytes);
            memset(memory[n], 0xEE, tier_usable_size(&heap, memory[n]));
        }
    }
    for (size_t n = 0; n < COUNT(memory); n++) {
        cr_assert_eq(tier_free_sized(&heap, memory[n],
                                     tier_usable_size(&heap, memory[n])),
                     TIER_OK);
    }
}

Test(tieralloc, aligns_as_asked)
{
    const size_t sizes[] = {0,
                            1,
                            24,
                            100,
                            TIERALLOC_OBJECT_MAX - 8,
                            TIERALLOC_OBJECT_MAX,
                            TIERALLOC_OBJECT_MAX + 1,
                            TIER_PAGE_SIZE,
                            TIER_PAGE_SIZE + 1};

    set_up(ARENA_PAGES);
    const struct tier_stats first = stats_of(&heap);
    void *const odd = tier_alloc(&heap, 8);

    for (size_t alignment = 1;
         alignment <= TIER_BLOCK_MAX && alignment <= largest_free();
         alignment *= 2) {
        for (size_t i = 0; i < COUNT(sizes); i++) {
            if (sizes[i] <= TIER_BLOCK_MAX) {
                expect_aligned(sizes[i], alignment);
            }
        }
    }
    expect_freed(odd);
    expect_all_back(&first);
}

Test(tieralloc, refuses_what_is_no_alignment)
{
    const size_t alignments[] = {0, 3, 24, SIZE_MAX};

    set_up(ARENA_PAGES);
    void *const object = tier_alloc(&heap, 8);
    const uint64_t before = snapshot();

    for (size_t i = 0; i < COUNT(alignments); i++) {
        cr_assert_null(tier_alloc_aligned(&heap, 8, alignments[i]));
        cr_assert_null(tier_realloc_aligned(&heap, NULL, 8, alignments[i]));
        cr_assert_null(tier_realloc_aligned(&heap, object, 8, alignments[i]));
        cr_assert_eq(stats_of(&heap).failed_invalid, 3 * i + 3);
    }
    for (size_t over = TIER_BLOCK_MAX * 2; over != 0; over *= 2) {
        const size_t failed = stats_of(&heap).failed_too_large;

        cr_assert_null(tier_alloc_aligned(&heap, 8, over));
        cr_assert_null(tier_realloc_aligned(&heap, NULL, 8, over));
        cr_assert_null(tier_realloc_aligned(&heap, object, 8, over));
        cr_assert_eq(stats_of(&heap).failed_too_large, failed + 3);
    }
    cr_assert_null(tier_alloc_aligned(&heap, SIZE_MAX, TIER_PAGE_SIZE));
    cr_assert_eq(snapshot(), before);
}

Test(tieralloc, refuses_products_that_overflow)
{
    const size_t half = SIZE_MAX / 2 + 1;
    const size_t root = (size_t)1 << (sizeof(size_t) * 4);

    set_up(ARENA_PAGES);
    const uint64_t before = snapshot();

    cr_assert_null(tier_calloc(&heap, half, 2));
    cr_assert_null(tier_calloc(&heap, 2, half));
    cr_assert_null(tier_calloc(&heap, root, root));
    cr_assert_null(tier_calloc(&heap, root + 1, root));
    cr_assert_null(tier_calloc(&heap, SIZE_MAX, SIZE_MAX));
    cr_assert_null(tier_calloc(&heap, SIZE_MAX / 8 + 2, 8));
    cr_assert_null(tier_calloc(&heap, TIER_BLOCK_MAX + 1, 1));
    cr_assert_null(tier_calloc(&heap, TIER_BLOCK_MAX / 8 + 1, 8));
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(stats_of(&heap).failed_too_large, 8U);
    cr_assert_eq(tier_usable_size(&heap, tier_calloc(&heap, 0, SIZE_MAX)),
                 granted(0));
    cr_assert_eq(tier_usable_size(&heap, tier_calloc(&heap, SIZE_MAX, 0)),
                 granted(0));
    cr_assert_eq(tier_usable_size(&heap, tier_calloc(&heap, 3, 5)),
                 granted(15));
}

Test(tieralloc, zeroes_memory_that_is_dirty)
{
    set_up(ARENA_PAGES);
    memset(arena, 0xEE, ARENA_BYTES);
    for (size_t bytes = 0;
         bytes < TIERALLOC_OBJECT_MAX * 2 && bytes <= TIER_BLOCK_MAX;
         bytes += 13 + bytes / 16) {
        void *const zeros = tier_calloc(&heap, bytes, 1);
        void *more;

        cr_assert(test_all(zeros, 0, bytes));
        memset(zeros, 0xEE, tier_usable_size(&heap, zeros));
        expect_freed(zeros);
        cr_assert_eq(tier_try_alloc(&heap, bytes, TIER_ZERO, &more), TIER_OK);
        cr_assert(test_all(more, 0, bytes + (bytes == 0)));
        memset(more, 0xEE, tier_usable_size(&heap, more));
        expect_freed(more);
    }
}

Test(tieralloc, refuses_flags_that_do_not_exist)
{
    const unsigned known =
        TIER_ZERO | TIER_ATOMIC | TIER_DMA | TIER_NORMAL | TIER_HIGH;
    size_t failed = 0;

    set_up(32);
    const uint64_t before = snapshot();

    for (unsigned bits = 0; bits < 0x400; bits++) {
        const unsigned flags = bits < 0x100 ? bits : 1U << bits % 32;
        const unsigned zone = flags & (TIER_DMA | TIER_NORMAL | TIER_HIGH);
        void *memory = arena;

        if ((flags & ~known) == 0 && (zone & (zone - 1)) == 0) {
            continue;
        }
        cr_assert_eq(tier_try_alloc(&heap, 8, flags, &memory),
                     TIER_ERR_INVALID);
        cr_assert_null(memory);
        memory = arena;
        cr_assert_eq(tier_try_alloc_pages(&heap, 0, flags, &memory),
                     TIER_ERR_INVALID);
        cr_assert_null(memory);
        failed += 2;
    }
    cr_assert(failed > 100);
    cr_assert_eq(stats_of(&heap).failed_invalid, failed);
    cr_assert_eq(stats_of(&heap).failed_allocs, failed);
    cr_assert_eq(snapshot(), before);
}

Test(tieralloc, tells_what_waits_from_what_is_live)
{
    void *object[10];

    set_up(64);
    const struct tier_stats first = stats_of(&heap);

    cr_assert_eq(tier_alloc_bulk(&heap, 100, COUNT(object), object), TIER_OK);
    cr_assert_eq(stats_of(&heap).live_objects, COUNT(object));
    cr_assert_eq(stats_of(&heap).live_bytes, COUNT(object) * object_for(100));
    const size_t waiting = stats_of(&heap).waiting_objects;

    for (size_t i = 0; i < COUNT(object); i++) {
        expect_freed(object[i]);
        const struct tier_stats now = stats_of(&heap);

        cr_assert_eq(now.live_objects, COUNT(object) - i - 1);
        cr_assert_eq(now.live_bytes, now.live_objects * object_for(100));
        cr_assert_eq(now.waiting_bytes, now.waiting_objects * object_for(100));
        cr_assert(TIERALLOC_CPUS == 0 ||
                  now.waiting_objects == waiting + i + 1);
    }
    cr_assert_eq(tier_drain(&heap, 1), 0U);
    cr_assert_eq(tier_drain(&heap, ~0U), 0U);
    cr_assert_eq(tier_drain(&heap, 0),
                 TIERALLOC_CPUS == 0 ? 0 : waiting + COUNT(object));
    cr_assert_eq(stats_of(&heap).waiting_objects, 0U);
    cr_assert_eq(tier_drain(&heap, 0), 0U);
    const size_t slab_pages = stats_of(&heap).slab_pages;

    cr_assert(slab_pages > 0);
    cr_assert_eq(tier_trim(&heap), slab_pages);
    cr_assert_eq(tier_trim(&heap), 0U);
    expect_all_back(&first);
}

/* --- Routing -------------------------------------------------------------- */

#define CACHE_BYTES ((size_t)200)

static struct tier_cache named;

/* What the model notes of an object of it: at TIERALLOC_CHECKS 0 it must not be
   freed by its size. */
#define TAG_NAMED 0x200U

/* A named cache of the allocator. */
static void add_named(void)
{
    cr_assert_eq(
        tier_add_cache(&heap, &named, "inode", CACHE_BYTES, 8, 0, NULL),
        TIER_OK);
}

/* Put one of every kind of memory that there is into the model. */
static void add_every_kind(void)
{
    void *memory;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (is_served(i)) {
            memory = tier_alloc(&heap, most_of(i));
            model_add(&model, memory, most_of(i), most_of(i), 0);
        }
    }
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER && order <= 5;
         order++) {
        memory = tier_alloc_pages(&heap, order);
        model_add(&model, memory, 1, TIER_PAGE_SIZE << order, 0);
    }
    for (size_t pages = LONG_PAGES; HAS_LONG && pages < LONG_PAGES * 3;
         pages += 3) {
        memory = tier_alloc(&heap, pages * TIER_PAGE_SIZE);
        model_add(&model, memory, 1, pages * TIER_PAGE_SIZE, 0);
    }
    memory = tier_alloc_from(&heap, &named);
    model_add(&model, memory, 1, tier_usable_size(&heap, memory), TAG_NAMED);
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    for (size_t bytes = 1; bytes < 1000; bytes = bytes * 2 + 1) {
        memory = tier_alloc(&heap, bytes);
        model_add(&model, memory, bytes, tier_usable_size(&heap, memory), 0);
    }
    cr_assert_eq(stats_of(&heap).heap_objects, 9U);
    cr_assert_eq(tier_set_mode(&heap, TIER_TWO_TIER), TIER_OK);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, routes_every_free_by_its_address)
{
    uint64_t random = TEST_SEED;

    set_up(ARENA_PAGES < 1500 ? ARENA_PAGES : 1500);
    (void)tier_trim(&heap);
    const struct tier_stats first = stats_of(&heap);

    for (unsigned round = 0; round < 4; round++) {
        add_named();
        add_every_kind();
        while (model.count > 0) {
            const size_t i = test_below(&random, (uint32_t)model.count);
            const struct model_slot slot = model.slot[i];

            cr_assert_eq(tier_usable_size(&heap, slot.at), slot.bytes);
            model_drop(&model, i);
            cr_assert_eq(round % 2 == 0 || slot.tag == TAG_NAMED
                             ? tier_free(&heap, slot.at)
                             : tier_free_sized(&heap, slot.at, slot.bytes),
                         TIER_OK);
            cr_assert_eq(stats_of(&heap).live_objects +
                             stats_of(&heap).heap_objects +
                             stats_of(&heap).live_blocks,
                         model.count);
        }
        cr_assert_eq(tier_remove_cache(&heap, &named), TIER_OK);
        expect_all_back(&first);
        cr_assert_eq(stats_of(&heap).refused_frees, 0U);
    }
}

/* --- Bad frees ------------------------------------------------------------ */

#if TIERALLOC_CHECKS

/* The allocator, its map, and what the first pages hold. */
static uint64_t snapshot_of(size_t pages)
{
    return fold(snapshot(), arena, pages * TIER_PAGE_SIZE);
}

/* Each call that frees must refuse, count one refusal and change nothing. */
static void expect_refused(void *memory, size_t bytes, enum tier_status status)
{
    struct tier_tx_record record;
    struct tier_tx tx;
    void *array[] = {memory};
    const size_t before = stats_of(&heap).refused_frees;

    tier_tx_begin(&tx, &record, 1);
    cr_assert_eq(tier_free(&heap, memory), status);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 1);
    cr_assert_eq(tier_free_sized(&heap, memory, bytes), status);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 2);
    cr_assert_eq(tier_tx_free(&tx, &heap, memory), status);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 3);
    cr_assert(tier_tx_has_room(&tx, 1));
    cr_assert_eq(tier_free_bulk(&heap, 1, array), status);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 4);
    cr_assert_eq(tier_usable_size(&heap, memory), 0U);
    cr_assert_null(tier_realloc(&heap, memory, bytes));
    cr_assert_null(tier_realloc(&heap, memory, 1));
    cr_assert_null(tier_realloc_aligned(&heap, memory, bytes, 64));
}

/* A size that is not the one of an allocation. */
static void expect_wrong_size(void *memory, size_t bytes)
{
    const size_t before = stats_of(&heap).refused_frees;

    cr_assert_eq(tier_free_sized(&heap, memory, bytes), TIER_ERR_WRONG_SIZE,
                 "%lu bytes", (unsigned long)bytes);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 1);
}

/* All addresses inside small memory, and some inside large. */
static void expect_interior(unsigned char *memory, size_t bytes)
{
    for (size_t at = 1; at < bytes; at++) {
        if (at < 100 || at > bytes - 10 || at % TIER_PAGE_SIZE < 2 ||
            at % 1021 == 0) {
            expect_refused(memory + at, bytes, TIER_ERR_INTERIOR);
        }
    }
}

Test(tieralloc, refuses_every_bad_free_of_an_object)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up(64);
        unsigned char *const object = tier_alloc(&heap, most_of(i));
        unsigned char *const freed = tier_alloc(&heap, most_of(i));

        expect_freed(freed);
        const uint64_t before = snapshot_of(64);

        expect_interior(object, most_of(i));
        expect_refused(freed, most_of(i), TIER_ERR_DOUBLE_FREE);
        expect_wrong_size(object, most_of(i) + 1);
        expect_wrong_size(object, SIZE_MAX);
        expect_wrong_size(object, most_of(other_than(i)));
        cr_assert_eq(snapshot_of(64), before);
        cr_assert(tier_check(&heap));
        (void)tier_drain(&heap, 0);
        expect_refused(freed, most_of(i), TIER_ERR_DOUBLE_FREE);
        cr_assert_eq(tier_free_sized(&heap, object, most_of(i)), TIER_OK);
        expect_refused(object, most_of(i), TIER_ERR_DOUBLE_FREE);
        (void)tier_trim(&heap);
        expect_refused(object, most_of(i), TIER_ERR_DOUBLE_FREE);
        cr_assert(tier_check(&heap));
    }
}

Test(tieralloc, refuses_every_bad_free_of_an_object_of_a_named_cache)
{
    set_up(64);
    add_named();
    unsigned char *const object = tier_alloc_from(&heap, &named);
    unsigned char *const freed = tier_alloc_from(&heap, &named);

    expect_freed(freed);
    const uint64_t before = snapshot_of(64);

    expect_interior(object, CACHE_BYTES);
    expect_refused(freed, CACHE_BYTES, TIER_ERR_DOUBLE_FREE);
    expect_wrong_size(object, named.base.object_bytes + 1);
    expect_wrong_size(object, SIZE_MAX);
    cr_assert_eq(snapshot_of(64), before);
    cr_assert_eq(tier_free_sized(&heap, object, CACHE_BYTES), TIER_OK);
    expect_refused(object, CACHE_BYTES, TIER_ERR_DOUBLE_FREE);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, refuses_every_bad_free_of_a_block)
{
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER && order < 5;
         order++) {
        const size_t bytes = TIER_PAGE_SIZE << order;

        set_up(64);
        unsigned char *const freed = tier_alloc_pages(&heap, order);
        unsigned char *const block = tier_alloc_pages(&heap, order);

        expect_freed(freed);
        const uint64_t before = snapshot_of(64);

        expect_interior(block, bytes);
        for (size_t at = 0; at < bytes; at += 64) {
            expect_refused(freed + at, bytes, TIER_ERR_DOUBLE_FREE);
        }
        expect_wrong_size(block, bytes + 1);
        expect_wrong_size(block, SIZE_MAX);
        expect_wrong_size(block, TIER_BLOCK_MAX + 1);
        if (order > 0) {
            expect_wrong_size(block, bytes / 2);
            expect_wrong_size(block, 0);
        }
        cr_assert_eq(snapshot_of(64), before);
        cr_assert_eq(tier_free_sized(&heap, block, bytes / 2 + 1), TIER_OK);
        expect_refused(block, bytes, TIER_ERR_DOUBLE_FREE);
        cr_assert(tier_check(&heap));
    }
}

Test(tieralloc, refuses_every_bad_free_of_a_run)
{
    for (size_t pages = LONG_PAGES; HAS_LONG && pages < LONG_PAGES + 4;
         pages++) {
        const size_t bytes = pages * TIER_PAGE_SIZE;

        set_up(LONG_PAGES * 8);
        unsigned char *const freed = tier_alloc(&heap, bytes);
        unsigned char *const run = tier_alloc(&heap, bytes);

        cr_assert_not_null(run);
        expect_freed(freed);
        const uint64_t before = snapshot_of(LONG_PAGES * 8);

        expect_interior(run, bytes);
        for (size_t at = 0; at < bytes; at += 64) {
            expect_refused(freed + at, bytes, TIER_ERR_DOUBLE_FREE);
        }
        expect_wrong_size(run, bytes + 1);
        expect_wrong_size(run, bytes - TIER_PAGE_SIZE);
        expect_wrong_size(run, 0);
        expect_wrong_size(run, SIZE_MAX);
        expect_wrong_size(run, TIER_BLOCK_MAX + 1);
        cr_assert_eq(snapshot_of(LONG_PAGES * 8), before);
        cr_assert_eq(tier_free_sized(&heap, run, bytes - TIER_PAGE_SIZE + 1),
                     TIER_OK);
        expect_refused(run, bytes, TIER_ERR_DOUBLE_FREE);
        (void)tier_trim(&heap);
        expect_refused(run, bytes, TIER_ERR_DOUBLE_FREE);
        cr_assert(tier_check(&heap));
    }
}

Test(tieralloc, refuses_every_bad_free_of_the_simple_heap)
{
    set_up(64);
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    unsigned char *const object = tier_alloc(&heap, 100);
    unsigned char *const freed = tier_alloc(&heap, 100);
    unsigned char *const head =
        (unsigned char *)((uintptr_t)object & ~(TIER_PAGE_SIZE - 1));

    expect_freed(freed);
    const uint64_t before = snapshot_of(64);

    expect_interior(object, 100);
    expect_refused(freed, 100, TIER_ERR_DOUBLE_FREE);
    expect_refused(head, 100, TIER_ERR_FOREIGN);
    expect_wrong_size(object, 100 + TIERALLOC_MIN_ALIGN);
    expect_wrong_size(object, 100 - TIERALLOC_MIN_ALIGN);
    expect_wrong_size(object, SIZE_MAX);
    cr_assert_eq(snapshot_of(64), before);
    cr_assert_eq(tier_free_sized(&heap, object, 100), TIER_OK);
    expect_refused(object, 100, TIER_ERR_DOUBLE_FREE);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, refuses_every_address_that_is_not_its_own)
{
    static unsigned char outside[64];

    set_up(32);
    unsigned char *const object = tier_alloc(&heap, 64);

    cr_assert_not_null(object);
    const uint64_t before = snapshot_of(32);
    const size_t index = tier_pagemap_index_(&heap.map, object);
    unsigned char *const meta = heap.map.entry[index].slab;

    expect_refused(outside, 8, TIER_ERR_FOREIGN);
    expect_refused(page(ARENA_PAGES), 8, TIER_ERR_FOREIGN);
    expect_refused((void *)((uintptr_t)arena - 1), 8, TIER_ERR_FOREIGN);
    expect_refused((void *)(uintptr_t)1, 8, TIER_ERR_FOREIGN);
    expect_refused((void *)UINTPTR_MAX, 8, TIER_ERR_FOREIGN);
    expect_refused(page(32), 8, TIER_ERR_FOREIGN);
    expect_refused(page(ARENA_PAGES - 1) + 5, 8, TIER_ERR_FOREIGN);
    expect_refused(meta, 8, TIER_ERR_FOREIGN);
    expect_refused(page((size_t)(meta - arena) / TIER_PAGE_SIZE), 8,
                   TIER_ERR_FOREIGN);
    cr_assert_eq(snapshot_of(32), before);
    expect_freed(object);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, refuses_the_memory_of_another_allocator)
{
    static struct tier_allocator other;

    set_up_span(RUN_BYTES, 64);
    cr_assert_eq(
        tier_init(&other, (uintptr_t)page(RUN_PAGES), RUN_BYTES, NULL, 0),
        TIER_OK);
    cr_assert_eq(tier_add_region(&other, page(RUN_PAGES), RUN_BYTES), TIER_OK);
    void *const theirs[] = {tier_alloc(&other, 64),
                            tier_alloc_pages(&other, 0)};
    const uint64_t before = snapshot_of(64);

    for (size_t i = 0; i < COUNT(theirs); i++) {
        cr_assert_not_null(theirs[i]);
        expect_refused(theirs[i], 64, TIER_ERR_FOREIGN);
    }
    cr_assert_eq(snapshot_of(64), before);
    cr_assert_eq(tier_free(&other, theirs[0]), TIER_OK);
    cr_assert_eq(tier_free(&other, theirs[1]), TIER_OK);
    cr_assert(tier_check(&other));
}

#endif

Test(tieralloc, frees_null_without_counting_it)
{
    struct tier_tx tx;

    set_up(32);
    tier_tx_begin(&tx, NULL, 0);
    cr_assert_eq(tier_free(&heap, NULL), TIER_OK);
    cr_assert_eq(tier_free_sized(&heap, NULL, 0), TIER_OK);
    cr_assert_eq(tier_free_sized(&heap, NULL, SIZE_MAX), TIER_OK);
    cr_assert_eq(tier_tx_free(&tx, &heap, NULL), TIER_OK);
    cr_assert_eq(tier_free_bulk(&heap, 0, NULL), TIER_OK);
    cr_assert_eq(tier_usable_size(&heap, NULL), 0U);
    cr_assert_eq(stats_of(&heap).refused_frees, 0U);
}

/* --- Bulk ----------------------------------------------------------------- */

#define BULK 40

Test(tieralloc, allocates_in_bulk_what_single_requests_would_get)
{
    const size_t sizes[] = {0,
                            1,
                            64,
                            1000,
                            TIERALLOC_OBJECT_MAX,
                            TIERALLOC_OBJECT_MAX + 1,
                            TIER_PAGE_SIZE};
    void *memory[5];

    for (size_t i = 0; i < COUNT(sizes); i++) {
        if (granted(sizes[i]) == 0) {
            continue;
        }
        set_up(RUN_PAGES);
        const struct tier_stats first = stats_of(&heap);

        cr_assert_eq(tier_alloc_bulk(&heap, sizes[i], COUNT(memory), memory),
                     TIER_OK);
        for (size_t n = 0; n < COUNT(memory); n++) {
            cr_assert_eq(tier_usable_size(&heap, memory[n]), granted(sizes[i]));
            model_add(&model, memory[n], sizes[i], granted(sizes[i]), 0);
        }
        cr_assert_eq(stats_of(&heap).live_objects + stats_of(&heap).live_blocks,
                     COUNT(memory));
        model_verify(&model);
        cr_assert_eq(tier_free_bulk(&heap, COUNT(memory), memory), TIER_OK);
        expect_all_back(&first);
    }
}

Test(tieralloc, allocates_in_bulk_all_or_none)
{
    static void *memory[RUN_BYTES / 64];
    const size_t sizes[] = {64, 1000, TIERALLOC_OBJECT_MAX, TIER_PAGE_SIZE * 9};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        const size_t count = TIER_PAGE_SIZE * 64 / sizes[i] + 1;

        if (granted(sizes[i]) == 0) {
            continue;
        }
        set_up(64);
        const struct tier_stats first = stats_of(&heap);

        cr_assert_eq(tier_alloc_bulk(&heap, sizes[i], count, memory),
                     TIER_ERR_NO_MEMORY);
        cr_assert_eq(stats_of(&heap).failed_no_memory, 1U);
        cr_assert_eq(stats_of(&heap).live_bytes, 0U);
        expect_all_back(&first);
        cr_assert_eq(tier_alloc_bulk(&heap, sizes[i], 0, NULL), TIER_OK);
        cr_assert_eq(tier_alloc_bulk(&heap, sizes[i], 1, memory), TIER_OK);
        expect_freed(memory[0]);
        expect_all_back(&first);
    }
    cr_assert_eq(tier_alloc_bulk(&heap, SIZE_MAX, 3, memory),
                 TIER_ERR_TOO_LARGE);
}

/* Fill an array with memory of every kind, in the order of the allocations. */
static void make_bulk(void **memory)
{
    for (size_t i = 0; i < BULK; i++) {
        switch (i % 5) {
        case 0:
            memory[i] = tier_alloc_pages(&heap, 0);
            break;
        case 1:
            memory[i] = tier_alloc_from(&heap, &named);
            break;
        case 2:
            memory[i] = tier_alloc(&heap, HAS_LONG ? TIER_SLAB_BYTES_MAX + 1
                                                   : TIER_SLAB_BYTES_MAX);
            break;
        default:
            memory[i] = tier_alloc(&heap, i * 17);
        }
        cr_assert_not_null(memory[i]);
    }
}

/* The same addresses in some other order. */
static void shuffle(uint64_t *random, void **memory, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        const size_t with = test_below(random, (uint32_t)i);
        void *const swapped = memory[i - 1];

        memory[i - 1] = memory[with];
        memory[with] = swapped;
    }
}

Test(tieralloc, frees_in_bulk_in_any_order)
{
    static void *memory[3000];
    uint64_t random = TEST_SEED;

    set_up(RUN_PAGES);
    add_named();
    const struct tier_stats first = stats_of(&heap);

    for (unsigned round = 0; round < 10; round++) {
        make_bulk(memory);
        shuffle(&random, memory, BULK);
        cr_assert_eq(tier_free_bulk(&heap, BULK, memory), TIER_OK);
        cr_assert(tier_check(&heap));
        expect_all_back(&first);
    }
    cr_assert_eq(tier_alloc_bulk(&heap, 16, COUNT(memory), memory), TIER_OK);
    shuffle(&random, memory, COUNT(memory));
    for (size_t i = 0; i < COUNT(memory); i += 100) {
        cr_assert_eq(tier_free_bulk(&heap, 100, memory + i), TIER_OK);
        cr_assert_eq(stats_of(&heap).live_objects, COUNT(memory) - i - 100);
    }
    expect_all_back(&first);
    cr_assert_eq(stats_of(&heap).refused_frees, 0U);
}

#if TIERALLOC_CHECKS

/* With each address of a bulk in turn replaced, none of it may be freed. */
static void expect_bulk_refused(void *const *memory, void *bad,
                                enum tier_status status)
{
    void *array[BULK];
    const size_t refused = stats_of(&heap).refused_frees;
    const uint64_t before = snapshot();

    for (size_t at = 0; at < BULK; at++) {
        for (size_t i = 0; i < BULK; i++) {
            array[i] = i == at ? bad : memory[i];
        }
        if (bad == memory[at]) {
            continue; /* that is the bulk itself */
        }
        cr_assert_eq(tier_free_bulk(&heap, BULK, array), status);
    }
    cr_assert_eq(snapshot(), before);
    cr_assert(bad == NULL ||
              stats_of(&heap).refused_frees >= refused + BULK - 1);
    for (size_t i = 0; i < BULK; i++) {
        cr_assert(tier_usable_size(&heap, memory[i]) != 0);
    }
}

Test(tieralloc, frees_in_bulk_all_or_none)
{
    void *memory[BULK];

    set_up(RUN_PAGES);
    add_named();
    const struct tier_stats first = stats_of(&heap);

    make_bulk(memory);
    void *const freed = tier_alloc(&heap, 64);
    void *const block = tier_alloc_pages(&heap, 0);

    expect_freed(freed);
    expect_freed(block);
    expect_bulk_refused(memory, NULL, TIER_ERR_FOREIGN);
    expect_bulk_refused(memory, (void *)(uintptr_t)1, TIER_ERR_FOREIGN);
    expect_bulk_refused(memory, page(ARENA_PAGES), TIER_ERR_FOREIGN);
    expect_bulk_refused(memory, (void *)UINTPTR_MAX, TIER_ERR_FOREIGN);
    expect_bulk_refused(memory, freed, TIER_ERR_DOUBLE_FREE);
    expect_bulk_refused(memory, block, TIER_ERR_DOUBLE_FREE);
    for (size_t i = 0; i < BULK; i++) {
        unsigned char *const inside = (unsigned char *)memory[i] + 1;

        expect_bulk_refused(memory, memory[i], TIER_ERR_DOUBLE_FREE);
        expect_bulk_refused(memory, inside, TIER_ERR_INTERIOR);
    }
    cr_assert(tier_check(&heap));
    cr_assert_eq(tier_free_bulk(&heap, BULK, memory), TIER_OK);
    cr_assert_eq(tier_free_bulk(&heap, BULK, memory), TIER_ERR_DOUBLE_FREE);
    expect_all_back(&first);
}

Test(tieralloc, counts_a_bulk_that_is_refused_for_null)
{
    void *array[] = {NULL};

    set_up(32);
    cr_assert_eq(tier_free_bulk(&heap, 1, array), TIER_ERR_FOREIGN);
    cr_assert_eq(stats_of(&heap).refused_frees, 1U);
}

#endif

/* --- Resizing ------------------------------------------------------------- */

/* Resize the first slot of the model; the contents must be kept. */
static unsigned char *resize(size_t bytes)
{
    const struct model_slot slot = model.slot[0];
    const size_t others =
        stats_of(&heap).live_bytes - held_at(slot.at, slot.bytes);
    unsigned char *const moved = tier_realloc(&heap, slot.at, bytes);

    cr_assert_not_null(moved, "%lu to %lu bytes", (unsigned long)slot.bytes,
                       (unsigned long)bytes);
    cr_assert(
        model_holds(&slot, moved, bytes < slot.bytes ? bytes : slot.bytes));
    const size_t usable = tier_usable_size(&heap, moved);

    model_forget(&model, 0);
    model_add(&model, moved, bytes, usable, 0);
    cr_assert_eq(stats_of(&heap).live_bytes - others, held_at(moved, usable));
    return moved;
}

/* Resize an object, or what becomes one; it moves if its class changes. */
static void resize_object(size_t bytes)
{
    const struct model_slot slot = model.slot[0];
    const bool was_object = is_object(slot.at);
    const bool stays = TIERALLOC_CHECKS == 2 ? bytes == slot.bytes
                                             : granted(bytes) == slot.bytes;
    unsigned char *const moved = resize(bytes);

    cr_assert_eq(model.slot[0].bytes, granted(bytes));
    cr_assert(!was_object || (moved == slot.at) == stays);
}

Test(tieralloc, resizing_keeps_the_contents)
{
    uint64_t random = TEST_SEED;

    set_up(RUN_PAGES);
    const struct tier_stats first = stats_of(&heap);

    model_add(&model, tier_alloc(&heap, 1), 1, granted(1), 0);
    for (unsigned step = 0; step < 500; step++) {
        const size_t most = TIER_PAGE_SIZE * 64 < TIER_BLOCK_MAX
                                ? TIER_PAGE_SIZE * 64
                                : TIER_BLOCK_MAX;

        if (test_below(&random, 4) == 0) {
            (void)resize(test_below(&random, (uint32_t)most + 1));
        } else {
            resize_object(test_below(&random, TIER_SLAB_BYTES_MAX + 1));
        }
    }
    for (size_t bytes = 0; bytes <= TIER_SLAB_BYTES_MAX;
         bytes += 1 + bytes / 100) {
        resize_object(bytes);
    }
    resize_object(0);
    cr_assert_eq(stats_of(&heap).live_objects, 1U);
    expect_freed(model.slot[0].at);
    expect_all_back(&first);
}

#if TIERALLOC_CHECKS < 2

Test(tieralloc, grows_a_run_into_free_pages_behind_it)
{
    const size_t bytes = LONG_PAGES * TIER_PAGE_SIZE;

    for (size_t less = 0; HAS_LONG && less < TIER_PAGE_SIZE; less += 100) {
        set_up(LONG_PAGES * 8);
        unsigned char *const run = tier_alloc(&heap, bytes);
        unsigned char *const next = tier_alloc(&heap, bytes);

        cr_assert_eq(next, run + bytes);
        model_add(&model, run, 1, bytes, 0);
        expect_freed(next);
        cr_assert_eq(resize(bytes * 2 - less), run);
        cr_assert_eq(model.slot[0].bytes, bytes * 2);
        cr_assert_eq(resize(bytes), run);
        cr_assert_eq(model.slot[0].bytes, bytes);
        cr_assert_eq(tier_alloc(&heap, bytes), next);
        cr_assert(resize(bytes * 2 - less) != run);
        cr_assert_eq(stats_of(&heap).live_pages, LONG_PAGES * 3);
        cr_assert(tier_check(&heap));
    }
}

Test(tieralloc, grows_a_run_into_free_blocks_behind_it)
{
    const size_t bytes = LONG_PAGES * TIER_PAGE_SIZE;

    if (!HAS_LONG) {
        return;
    }
    set_up(LONG_PAGES * 3);
    unsigned char *const run = tier_alloc(&heap, bytes);
    const size_t at = (size_t)(run - arena) / TIER_PAGE_SIZE + LONG_PAGES;

    model_add(&model, run, 1, bytes, 0);
    while (tier_alloc_pages(&heap, 0) != NULL) {
    }
    for (size_t i = 0; i < 3; i++) {
        cr_assert(is_block(page(at + i)));
        expect_freed(page(at + i));
    }
    (void)tier_trim(&heap);
    cr_assert_eq(stats_of(&heap).free_run_pages, 0U);
    cr_assert_eq(resize(bytes + TIER_PAGE_SIZE * 3), run);
    cr_assert_eq(stats_of(&heap).free_pages, 0U);
    cr_assert_eq(stats_of(&heap).live_pages, LONG_PAGES * 3);
    cr_assert_null(tier_realloc(&heap, run, bytes + TIER_PAGE_SIZE * 4));
    cr_assert(tier_check(&heap));
    cr_assert_eq(resize(bytes), run);
    cr_assert_eq(stats_of(&heap).free_pages, 3U);
}

Test(tieralloc, resizes_a_block_where_it_is)
{
    unsigned order = 0;

    while ((TIER_PAGE_SIZE << order) <= TIER_SLAB_BYTES_MAX) {
        order++;
    }
    if (order + 2 > TIERALLOC_MAX_ORDER) {
        return;
    }
    const size_t bytes = TIER_PAGE_SIZE << order;

    set_up((size_t)8 << order);
    unsigned char *const large = tier_alloc_pages(&heap, order + 2);

    model_add(&model, large, 1, bytes * 4, 0);
    cr_assert_eq(resize(bytes), large);
    cr_assert_eq(model.slot[0].bytes, bytes);
    cr_assert(is_block(large));
    cr_assert_eq(stats_of(&heap).live_pages, (size_t)1 << order);
    cr_assert_eq(resize(bytes * 2 + 1), large);
    cr_assert_eq(model.slot[0].bytes, bytes * 4);
    cr_assert_eq(resize(bytes), large);
    expect_freed(large);
    model_init(&model, arena, ARENA_BYTES, claimed);
    cr_assert(tier_check(&heap));
}

#endif

Test(tieralloc, a_block_that_moves_stays_aligned_to_its_size)
{
    uint64_t random = TEST_SEED;

    set_up(ARENA_PAGES);
    model_add(&model, tier_alloc_pages(&heap, 0), 1, TIER_PAGE_SIZE, 0);
    for (unsigned step = 0; step < 200; step++) {
        const unsigned order = test_below(&random, 8);
        const size_t bytes = TIER_SLAB_BYTES_MAX + 1 +
                             test_below(&random, 1U << order) * TIER_PAGE_SIZE;
        void *const wall = tier_alloc_pages(&heap, 0);

        if (bytes <= TIER_BLOCK_MAX) {
            unsigned char *const moved = resize(bytes);

            cr_assert(is_block(moved));
            cr_assert_eq((uintptr_t)moved % model.slot[0].bytes, 0U);
            cr_assert(model.slot[0].bytes < bytes * 2);
        }
        if (step % 3 != 0) {
            expect_freed(wall);
        } else {
            (void)tier_trim(&heap);
        }
        cr_assert(tier_check(&heap));
        if (step % 10 == 9) {
            set_up(ARENA_PAGES);
            model_add(&model, tier_alloc_pages(&heap, 0), 1, TIER_PAGE_SIZE, 0);
        }
    }
}

Test(tieralloc, a_block_stays_aligned_when_it_shrinks_to_the_size_of_an_object)
{
    for (unsigned order = 1; (TIER_PAGE_SIZE << order) <= TIER_SLAB_BYTES_MAX &&
                             order < TIERALLOC_MAX_ORDER;
         order++) {
        const size_t bytes = TIER_PAGE_SIZE << order;

        set_up(RUN_PAGES);
        for (unsigned i = 0; i < 8; i++) {
            void *const block = tier_alloc_pages(&heap, order + 1);
            void *const moved = tier_realloc(&heap, block, bytes);

            cr_assert_not_null(moved);
            cr_assert_eq((uintptr_t)moved % bytes, 0U);
        }
    }
}

Test(tieralloc, growing_that_fails_leaves_all_as_it_was)
{
    set_up(32);
    unsigned char *const object = tier_alloc(&heap, 40);
    unsigned char *const block = tier_alloc_pages(&heap, 0);

    model_add(&model, object, 40, granted(40), 0);
    model_add(&model, block, 1, TIER_PAGE_SIZE, 0);
    exhaust();
    const struct tier_stats before = stats_of(&heap);
    const size_t sizes[] = {TIERALLOC_OBJECT_MAX, TIER_BLOCK_MAX,
                            TIER_BLOCK_MAX + 1,   TIER_PAGE_SIZE * 4,
                            (size_t)PTRDIFF_MAX,  SIZE_MAX};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        if (sizes[i] > TIER_PAGE_SIZE) {
            cr_assert_null(tier_realloc(&heap, object, sizes[i]));
            cr_assert_null(tier_realloc(&heap, block, sizes[i]));
            cr_assert_null(tier_realloc_aligned(&heap, object, sizes[i], 8));
            cr_assert_null(
                tier_realloc_aligned(&heap, block, sizes[i], TIER_PAGE_SIZE));
        }
    }
    const struct tier_stats after = stats_of(&heap);

    expect_same_live(&before, &after);
    cr_assert_eq(after.waiting_objects, before.waiting_objects);
    model_verify(&model);
    cr_assert_eq(tier_usable_size(&heap, object), granted(40));
    cr_assert_eq(tier_usable_size(&heap, block), TIER_PAGE_SIZE);
    cr_assert(tier_check(&heap));
}

/* Shrink to nothing in steps while there is no memory at all. */
static void expect_shrinks(unsigned char *memory, size_t from, size_t alignment)
{
    model_add(&model, memory, from, tier_usable_size(&heap, memory), 0);
    exhaust();
    for (size_t bytes = from; bytes <= from; bytes -= (from + 7) / 8) {
        const size_t failed = stats_of(&heap).failed_allocs;
        const size_t usable = tier_usable_size(&heap, model.slot[0].at);

        memory = alignment == 0 ? tier_realloc(&heap, model.slot[0].at, bytes)
                                : tier_realloc_aligned(&heap, model.slot[0].at,
                                                       bytes, alignment);
        cr_assert_not_null(memory, "%lu to %lu bytes", (unsigned long)from,
                           (unsigned long)bytes);
        cr_assert(alignment == 0 || (uintptr_t)memory % alignment == 0);
        cr_assert(model_holds(&model.slot[0], memory, bytes));
        cr_assert(tier_usable_size(&heap, memory) >= bytes);
        cr_assert(tier_usable_size(&heap, memory) <= usable);
        cr_assert_eq(stats_of(&heap).failed_allocs, failed);
        model.slot[0].at = memory;
    }
    cr_assert(tier_check(&heap));
    expect_freed(memory);
}

Test(tieralloc, shrinking_never_fails)
{
    for (size_t from = 8; from <= TIER_BLOCK_MAX && from <= TIER_PAGE_SIZE * 32;
         from *= 2) {
        set_up(64);
        expect_shrinks(tier_alloc(&heap, from), from, 0);
        set_up(64);
        expect_shrinks(tier_alloc_aligned(&heap, from, 64), from, 64);
        set_up(64);
        expect_shrinks(tier_alloc_aligned(&heap, from, TIER_PAGE_SIZE), from,
                       TIER_PAGE_SIZE);
    }
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER && order <= 5;
         order++) {
        const size_t from = TIER_PAGE_SIZE << order;

        set_up(64);
        expect_shrinks(tier_alloc_pages(&heap, order), from, 0);
        set_up(64);
        expect_shrinks(tier_alloc_aligned(&heap, from, from), from, from);
    }
}

Test(tieralloc, shrinking_gives_pages_back_even_when_there_is_no_place_to_move)
{
    if (TIERALLOC_CHECKS == 2 || !HAS_LONG) {
        return;
    }
    set_up(LONG_PAGES * 4);
    unsigned char *const run =
        tier_alloc(&heap, LONG_PAGES * TIER_PAGE_SIZE * 2);

    exhaust();
    cr_assert_eq(tier_realloc(&heap, run, TIER_SLAB_BYTES_MAX + 1), run);
    cr_assert_eq(tier_usable_size(&heap, run), LONG_PAGES * TIER_PAGE_SIZE);
    cr_assert_eq(stats_of(&heap).free_pages, LONG_PAGES);
    cr_assert(tier_check(&heap));
}

/* --- Out of memory -------------------------------------------------------- */

Test(tieralloc, recovers_when_memory_is_freed)
{
    static void *object[RUN_BYTES / 64];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i += 5) {
        size_t counts[2];

        if (!is_served(i)) {
            continue;
        }
        set_up(64);
        const struct tier_stats first = stats_of(&heap);

        for (unsigned round = 0; round < 2; round++) {
            size_t count = 0;

            while (count < COUNT(object) &&
                   (object[count] = tier_alloc(&heap, most_of(i))) != NULL) {
                count++;
            }
            cr_assert(tier_check(&heap));
            counts[round] = count;
            while (count > 0) {
                expect_freed(object[--count]);
            }
            (void)tier_trim(&heap);
        }
        cr_assert_eq(counts[0], counts[1]);
        expect_all_back(&first);
    }
}

#define FILL_PAGES ((size_t)1000)

static void *filled[FILL_PAGES * TIER_PAGE_SIZE / 8];

/* The part of memory that may be lost to objects of one size. */
#if TIERALLOC_PAGE_SHIFT >= 12 && TIERALLOC_MAX_ORDER > 0
#define LOSS 5
#else
#define LOSS 2
#endif

/* Most bytes of FILL_PAGES that may be lost to requests of one size. */
static size_t loss_allowed(size_t held)
{
    const size_t all = TIER_PAGE_SIZE * FILL_PAGES;

    if (held > TIER_SLAB_BYTES_MAX) {
        return all / 5;
    }
    return held <= TIER_PAGE_SIZE / 8 && TIERALLOC_PAGE_SHIFT >= 12
               ? all / 12
               : all / LOSS;
}

/*
 * Allocate until it fails: of what objects take, and pages, only so much may be
 * lost. Then everything is freed, in another order, and must be back.
 */
static void expect_filled(size_t bytes)
{
    const size_t all = TIER_PAGE_SIZE * FILL_PAGES;
    const size_t held = counted(granted(bytes));
    uint64_t random = TEST_SEED;
    size_t count = 0;

    set_up(FILL_PAGES);
    const struct tier_stats first = stats_of(&heap);

    while (count < COUNT(filled) &&
           (filled[count] = tier_alloc(&heap, bytes)) != NULL) {
        count++;
    }
    cr_assert(all - count * held <= loss_allowed(held),
              "%lu of %lu bytes in allocations of %lu",
              (unsigned long)(count * held), (unsigned long)all,
              (unsigned long)bytes);
    cr_assert(tier_check(&heap));
    shuffle(&random, filled, count);
    while (count > 0) {
        cr_assert_eq(tier_free_sized(&heap, filled[--count], bytes), TIER_OK);
    }
    expect_all_back(&first);
}

Test(tieralloc, fills_memory_with_any_size)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (is_served(i)) {
            expect_filled(most_of(i));
        }
    }
    for (size_t pages = LONG_PAGES; HAS_LONG && pages <= LONG_PAGES * 2;
         pages++) {
        expect_filled(pages * TIER_PAGE_SIZE);
    }
}

Test(tieralloc, fills_memory_with_mixed_sizes)
{
    const size_t most[] = {256, 2048, TIER_SLAB_BYTES_MAX, TIER_PAGE_SIZE * 16};
    const size_t all = TIER_PAGE_SIZE * FILL_PAGES;

    for (size_t i = 0; i < COUNT(most); i++) {
        uint64_t random = TEST_SEED;
        size_t asked = 0;
        size_t count = 0;

        if (granted(most[i]) == 0) {
            continue;
        }
        set_up(FILL_PAGES);
        const struct tier_stats first = stats_of(&heap);

        for (unsigned failed = 0; failed < 100; failed++) {
            const size_t bytes = 1 + test_below(&random, (uint32_t)most[i]);

            filled[count] = tier_alloc(&heap, bytes);
            if (filled[count] != NULL) {
                asked += bytes;
                count++;
                failed = 0;
            }
        }
        cr_assert(asked >= all / (TIERALLOC_CHECKS == 2 ? 2 : 3) *
                               (TIERALLOC_CHECKS == 2 ? 1 : 2),
                  "%lu of %lu bytes in sizes up to %lu", (unsigned long)asked,
                  (unsigned long)all, (unsigned long)most[i]);
        cr_assert(tier_check(&heap));
        cr_assert_eq(tier_free_bulk(&heap, count, filled), TIER_OK);
        expect_all_back(&first);
    }
}

/* --- A source of pages that fails ----------------------------------------- */

/* What stands before the source of pages for slabs. */
static struct {
    struct tier_page_source real;
    size_t calls;
    size_t first; /* the call that fails; 0: none */
    size_t last;  /* and all up to this one */
} faulty;

static void *faulty_acquire(void *context, size_t pages)
{
    faulty.calls++;
    if (faulty.first != 0 && faulty.calls >= faulty.first &&
        faulty.calls <= faulty.last) {
        return NULL;
    }
    return faulty.real.acquire(context, pages);
}

/* Have these requests for pages for slabs fail. */
static void set_up_faulty(size_t pages, size_t from, size_t to)
{
    set_up(pages);
    faulty.real = heap.slab.source;
    faulty.calls = 0;
    faulty.first = from;
    faulty.last = to;
    heap.slab.source.acquire = faulty_acquire;
}

Test(tieralloc, gives_an_object_pages_of_its_own_where_there_is_no_slab)
{
    set_up_faulty(RUN_PAGES, 1, SIZE_MAX);
    (void)tier_trim(&heap);
    const struct tier_stats first = stats_of(&heap);

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = most_of(i);

        if (!is_served(i)) {
            continue;
        }
        void *const memory = tier_alloc(&heap, bytes);
        void *const aligned = tier_alloc_aligned(&heap, bytes, 64);

        cr_assert_eq(tier_usable_size(&heap, memory), paged(bytes));
        cr_assert(tier_usable_size(&heap, aligned) >= bytes);
        cr_assert_eq((uintptr_t)memory % TIER_PAGE_SIZE, 0U);
        cr_assert_eq((uintptr_t)aligned % TIER_PAGE_SIZE, 0U);
        cr_assert_eq(stats_of(&heap).live_objects, 0U);
        cr_assert_eq(stats_of(&heap).live_blocks, 2U);
        memset(memory, 0xEE, paged(bytes));
        cr_assert_eq(tier_free_sized(&heap, memory, bytes), TIER_OK);
        expect_freed(aligned);
    }
    cr_assert_eq(stats_of(&heap).failed_allocs, 0U);
    expect_all_back(&first);
}

/* Requests of many kinds, into the model; each must be met. */
static void run_requests(void)
{
    static const size_t sizes[] = {1, 64, 65, 100, 500, 1024, 3000, 8, 200};

    for (size_t i = 0; i < 60; i++) {
        const size_t bytes = sizes[i % COUNT(sizes)] % TIER_SLAB_BYTES_MAX;
        void *memory = NULL;

        switch (i % 4) {
        case 0:
            memory = tier_calloc(&heap, 1, bytes);
            break;
        case 1:
            memory = tier_alloc_aligned(&heap, bytes, 16);
            break;
        case 2:
            cr_assert_eq(tier_try_alloc(&heap, bytes, TIER_NO_RETRY, &memory),
                         TIER_OK);
            break;
        default:
            memory = tier_realloc(&heap, NULL, bytes);
        }
        cr_assert_not_null(memory);
        model_add(&model, memory, bytes, tier_usable_size(&heap, memory), 0);
    }
}

/* Run them with these failures; false when there were none. */
static bool expect_unharmed(size_t from, size_t to)
{
    set_up_faulty(RUN_PAGES, from, to);
    const struct tier_stats first = stats_of(&heap);

    run_requests();
    cr_assert(tier_check(&heap));
    cr_assert_eq(stats_of(&heap).failed_allocs, 0U);
    while (model.count > 0) {
        void *const memory = model.slot[0].at;

        model_drop(&model, 0);
        expect_freed(memory);
    }
    expect_all_back(&first);
    return faulty.calls >= from;
}

Test(tieralloc, meets_requests_whichever_of_its_own_for_pages_fails)
{
    size_t n = 1;

    while (expect_unharmed(n, n)) {
        (void)expect_unharmed(n, n + 1);
        (void)expect_unharmed(n, SIZE_MAX);
        n++;
    }
    cr_assert(n > 6);
}

Test(tieralloc, fails_cleanly_with_any_number_of_pages_left)
{
    for (size_t left = 0; left < 24; left++) {
        size_t met = 0;

        set_up(64);
        while (stats_of(&heap).free_pages > left) {
            cr_assert_not_null(tier_alloc_pages(&heap, 0));
        }
        (void)tier_trim(&heap);
        const struct tier_stats first = stats_of(&heap);

        for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
            void *memory;

            if (!is_served(i)) {
                continue;
            }
            const enum tier_status status =
                tier_try_alloc(&heap, most_of(i), 0, &memory);

            cr_assert_eq(status, memory != NULL ? TIER_OK : TIER_ERR_NO_MEMORY);
            if (memory != NULL) {
                model_add(&model, memory, most_of(i),
                          tier_usable_size(&heap, memory), 0);
                met++;
            }
            cr_assert(tier_check(&heap));
        }
        cr_assert_eq(met == 0, left == 0);
        while (model.count > 0) {
            void *const memory = model.slot[0].at;

            model_drop(&model, 0);
            expect_freed(memory);
        }
        expect_all_back(&first);
    }
}

#if TIERALLOC_CHECKS == 2

/* Call number `way`; true when it got something, which is freed. */
static bool try_way(unsigned way, void *object)
{
    struct tier_tx_record record;
    struct tier_tx tx;
    void *memory = NULL;

    tier_tx_begin(&tx, &record, 1);
    switch (way) {
    case 0:
        memory = tier_alloc(&heap, 8);
        break;
    case 1:
        (void)tier_try_alloc(&heap, 8, 0, &memory);
        break;
    case 2:
        memory = tier_calloc(&heap, 8, 8);
        break;
    case 3:
        memory = tier_alloc_aligned(&heap, 8, 64);
        break;
    case 4:
        memory = tier_alloc_pages(&heap, 0);
        break;
    case 5:
        (void)tier_try_alloc_pages(&heap, 0, TIER_ATOMIC, &memory);
        break;
    case 6:
        memory = tier_realloc(&heap, NULL, 8);
        break;
    case 7:
        memory = tier_realloc_aligned(&heap, NULL, 8, 64);
        break;
    case 8:
        memory = tier_alloc_from(&heap, &named);
        break;
    case 9:
        (void)tier_alloc_bulk(&heap, 8, 1, &memory);
        break;
    case 10:
        (void)tier_tx_alloc(&tx, &heap, 8, &memory);
        break;
    case 11:
        (void)tier_tx_alloc_pages(&tx, &heap, 0, 0, &memory);
        break;
    default:
        return tier_realloc(&heap, object, 1000) != NULL;
    }
    tier_tx_commit(&tx);
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    return memory != NULL;
}

Test(tieralloc, makes_each_call_fail_by_a_rule)
{
    const struct tier_injection next = {1, 0, 0};
    const struct tier_injection foreign = {1, 1, 1};

    for (unsigned way = 0; way < 13; way++) {
        set_up(64);
        add_named();
        void *const object = tier_alloc(&heap, 8);
        const struct tier_stats before = stats_of(&heap);

        tier_inject(&heap, &foreign); /* none of these is at address 1 */
        cr_assert(way == 12 || try_way(way, object));
        cr_assert_eq(tier_injected(&heap), 0U);
        (void)tier_trim(&heap);
        tier_inject(&heap, &next);
        cr_assert(!try_way(way, object), "way %u", way);
        cr_assert_eq(tier_injected(&heap), 1U);
        cr_assert_eq(stats_of(&heap).failed_injected, 1U);
        cr_assert_eq(stats_of(&heap).failed_allocs, 1U);
        cr_assert_eq(stats_of(&heap).live_bytes, before.live_bytes);
        cr_assert_eq(tier_usable_size(&heap, object), 8U);
        cr_assert(try_way(way, object));
        cr_assert_eq(tier_injected(&heap), 1U);
        tier_inject(&heap, NULL);
        cr_assert_eq(tier_injected(&heap), 0U);
        cr_assert(tier_check(&heap));
    }
}

Test(tieralloc, allocates_in_bulk_none_when_one_is_made_to_fail)
{
    void *memory[10];

    for (size_t nth = 1; nth <= COUNT(memory) + 1; nth++) {
        const struct tier_injection rule = {nth, 0, 0};

        set_up(64);
        const struct tier_stats first = stats_of(&heap);

        tier_inject(&heap, &rule);
        cr_assert_eq(tier_alloc_bulk(&heap, 64, COUNT(memory), memory),
                     nth <= COUNT(memory) ? TIER_ERR_NO_MEMORY : TIER_OK);
        cr_assert_eq(tier_injected(&heap), (size_t)(nth <= COUNT(memory)));
        cr_assert_eq(stats_of(&heap).live_objects,
                     nth <= COUNT(memory) ? 0 : COUNT(memory));
        if (nth > COUNT(memory)) {
            cr_assert_eq(tier_free_bulk(&heap, COUNT(memory), memory), TIER_OK);
        }
        expect_all_back(&first);
    }
}

/* Note the last fault that was reported. */
static void note_fault(void *context, const struct tier_report *report)
{
    *(enum tier_fault *)context = report->fault;
}

Test(tieralloc, reports_faults_in_objects)
{
    enum tier_fault fault = TIER_FAULT_RECORD;

    set_up(64);
    tier_set_report(&heap, note_fault, &fault);
    unsigned char *const object = tier_alloc(&heap, 10);

    object[10] = 0;
    expect_freed(object);
    cr_assert_eq(fault, TIER_FAULT_OVERRUN);
    cr_assert_eq(tier_free(&heap, object), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(fault, TIER_FAULT_DOUBLE_FREE);
    tier_set_report(&heap, NULL, NULL);
    fault = TIER_FAULT_RECORD;
    cr_assert_eq(tier_free(&heap, object), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(fault, TIER_FAULT_RECORD);
}

#endif

/* --- Named caches --------------------------------------------------------- */

static unsigned constructed;

static void construct(void *object)
{
    memset(object, 0x77, CACHE_BYTES);
    constructed++;
}

Test(tieralloc, serves_named_caches)
{
    void *object[20];

    set_up(64);
    const struct tier_stats first = stats_of(&heap);

    constructed = 0;
    cr_assert_eq(tier_add_cache(&heap, &named, "inode", CACHE_BYTES, 64,
                                TIER_CACHE_KEEP_NONE, construct),
                 TIER_OK);
    for (size_t i = 0; i < COUNT(object); i++) {
        object[i] = tier_alloc_from(&heap, &named);
        cr_assert(test_all(object[i], 0x77, CACHE_BYTES));
        cr_assert_eq((uintptr_t)object[i] % 64, 0U);
        cr_assert(tier_usable_size(&heap, object[i]) >= CACHE_BYTES);
        model_add(&model, object[i], CACHE_BYTES, CACHE_BYTES, 0);
    }
    cr_assert(constructed >= COUNT(object));
    cr_assert_eq(stats_of(&heap).live_objects, COUNT(object));
    cr_assert_eq(stats_of(&heap).live_bytes,
                 COUNT(object) * named.base.object_bytes);
    cr_assert(tier_check(&heap));
    model_verify(&model);
    cr_assert_eq(tier_free_bulk(&heap, COUNT(object), object), TIER_OK);
    cr_assert_eq(stats_of(&heap).slab_pages, 0U); /* at once: it keeps none */
    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_OK);
    expect_all_back(&first);
}

Test(tieralloc, says_why_there_can_be_no_named_cache)
{
    static struct tier_allocator other;
    static struct tier_cache cache;

    set_up(64);
    add_named();
    const uint64_t before = snapshot();

    cr_assert_eq(tier_add_cache(&heap, &named, "again", 8, 8, 0, NULL),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_add_cache(&heap, &cache, "none", 0, 8, 0, NULL),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_add_cache(&heap, &cache, "align", 8, 24, 0, NULL),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_add_cache(&heap, &cache, "flag", 8, 8, 2, NULL),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_add_cache(&heap, &cache, "large", TIER_SLAB_BYTES_MAX + 1,
                                8, 0, NULL),
                 TIER_ERR_TOO_LARGE);
    cr_assert_eq(tier_add_cache(&heap, &cache, "huge", SIZE_MAX, 8, 0, NULL),
                 TIER_ERR_TOO_LARGE);
    cr_assert_eq(snapshot(), before);
    void *const object = tier_alloc_from(&heap, &named);

    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_ERR_IN_USE);
    expect_freed(object);
    cr_assert_eq(tier_init(&other, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    cr_assert_eq(tier_remove_cache(&other, &named), TIER_ERR_INVALID);
    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_OK);
    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_ERR_INVALID);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, looks_for_memory_for_a_named_cache_too)
{
    static void *object[RUN_BYTES / 64];
    size_t count = 0;

    set_up(64);
    add_named();
    while (count < COUNT(object) &&
           (object[count] = tier_alloc(&heap, 64)) != NULL) {
        count++;
    }
    cr_assert_null(tier_alloc_from(&heap, &named));
    cr_assert_eq(stats_of(&heap).failed_no_memory, 2U);
    cr_assert_eq(tier_free_bulk(&heap, count, object), TIER_OK);
    cr_assert_not_null(tier_alloc_from(&heap, &named));
    cr_assert_eq(stats_of(&heap).failed_no_memory, 2U);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, shrinking_an_object_of_a_named_cache_never_fails)
{
    set_up(64);
    add_named();
    unsigned char *object = tier_alloc_from(&heap, &named);

    cr_assert_eq(tier_usable_size(&heap, object),
                 TIERALLOC_CHECKS == 2 ? CACHE_BYTES : named.base.object_bytes);
    object[0] = 0x5A;
    exhaust();
    cr_assert_eq(tier_realloc(&heap, object, CACHE_BYTES), object);
    cr_assert_null(tier_realloc(&heap, object, TIER_SLAB_BYTES_MAX));
    for (size_t bytes = CACHE_BYTES; bytes > 0; bytes--) {
        object = tier_realloc(&heap, object, bytes);
        cr_assert_not_null(object);
        cr_assert_eq(object[0], 0x5AU);
    }
    expect_freed(object);
    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_OK);
    cr_assert(tier_check(&heap));
}

/* --- A source of pages for others ----------------------------------------- */

Test(tieralloc, gives_pages_as_a_source)
{
    struct tier_page_source source;

    set_up(ARENA_PAGES);
    (void)tier_trim(&heap);
    const struct tier_stats first = stats_of(&heap);

    tier_source(&heap, &source);
    for (size_t pages = 1; pages <= TIER_RUN_MAX && pages <= 40; pages++) {
        unsigned char *const memory = source.acquire(source.context, pages);

        cr_assert_not_null(memory);
        cr_assert_eq((uintptr_t)memory % TIER_PAGE_SIZE, 0U);
        cr_assert_eq(stats_of(&heap).live_pages, pages);
        memset(memory, 0xEE, pages * TIER_PAGE_SIZE);
        cr_assert(tier_check(&heap));
        source.release(source.context, memory, pages);
        cr_assert_eq(stats_of(&heap).live_pages, 0U);
    }
    cr_assert_null(source.acquire(source.context, 0));
    cr_assert_null(source.acquire(source.context, TIER_RUN_MAX + 1));
    cr_assert_null(source.acquire(source.context, SIZE_MAX));
    expect_all_back(&first);
    exhaust();
    cr_assert_null(source.acquire(source.context, 1));
}

/* --- Zones ---------------------------------------------------------------- */

Test(tieralloc, sets_policy_only_where_there_are_zones)
{
    volatile unsigned no_zone = 1; /* the compiler is not to look it up */

    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    const uint64_t before = snapshot();

    cr_assert_eq(tier_set_watermarks(&heap, 0, 0, 0, 0), TIER_ERR_INVALID);
    cr_assert_eq(tier_set_zone_reserve(&heap, 0, 0), TIER_ERR_INVALID);
    cr_assert_eq(tier_set_zone_callback(&heap, NULL, NULL), TIER_ERR_INVALID);
    cr_assert_eq(snapshot(), before);
    set_up(32);
    const uint64_t later = snapshot();

    cr_assert_eq(tier_set_watermarks(&heap, no_zone, 0, 0, 0),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_set_watermarks(&heap, 0, 2, 1, 3), TIER_ERR_INVALID);
    cr_assert_eq(tier_set_watermarks(&heap, 0, 1, 3, 2), TIER_ERR_INVALID);
    cr_assert_eq(tier_set_watermarks(&heap, 0, 1, 2, 33), TIER_ERR_INVALID);
    cr_assert_eq(tier_set_zone_reserve(&heap, no_zone, 0), TIER_ERR_INVALID);
    cr_assert_eq(snapshot(), later);
    cr_assert_eq(tier_set_watermarks(&heap, 0, 1, 2, 32), TIER_OK);
    cr_assert_eq(tier_set_zone_reserve(&heap, 0, SIZE_MAX), TIER_OK);
    cr_assert_eq(tier_set_zone_callback(&heap, NULL, NULL), TIER_OK);
    cr_assert_eq(tier_remove_region(&heap, page(31), 1), TIER_ERR_INVALID);
    cr_assert_eq(tier_set_watermarks(&heap, 0, 0, 0, 31), TIER_OK);
    cr_assert_eq(tier_remove_region(&heap, page(31), 1), TIER_OK);
}

#if TIERALLOC_ZONES == 3

/* Pages of the zones, from the first page of the arena on. */
#define DMA_PAGES    ((size_t)48)
#define NORMAL_PAGES ((size_t)96)
#define HIGH_PAGES   ((size_t)128)
#define ZONED_PAGES  (DMA_PAGES + NORMAL_PAGES + HIGH_PAGES)

static const struct tier_zone_range three[] = {
    {"DMA", 0, DMA_PAGES *TIER_PAGE_SIZE},
    {"NORMAL", DMA_PAGES *TIER_PAGE_SIZE, NORMAL_PAGES *TIER_PAGE_SIZE},
    {"HIGH", (DMA_PAGES + NORMAL_PAGES) * TIER_PAGE_SIZE,
     HIGH_PAGES *TIER_PAGE_SIZE},
};

/* Have the allocator divided into the first zones of the three. */
static enum tier_status set_zones(unsigned count)
{
    struct tier_zone_range range[COUNT(three)];

    for (size_t i = 0; i < COUNT(three); i++) {
        range[i] = three[i];
        range[i].base += (uintptr_t)arena;
    }
    return tier_set_zones(&heap, range, count);
}

/* An allocator with three zones that are one region. */
static void set_up_zones(void)
{
    memset(map_memory, 0xA5, sizeof(map_memory));
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, RUN_BYTES, map_memory,
                           sizeof(map_memory)),
                 TIER_OK);
    cr_assert_eq(set_zones(3), TIER_OK);
    cr_assert_eq(tier_add_region(&heap, arena, ZONED_PAGES * TIER_PAGE_SIZE),
                 TIER_OK);
    model_init(&model, arena, RUN_BYTES, claimed);
}

/* The zone of an address, by the ranges above. */
static unsigned zone_of(const void *memory)
{
    const size_t index =
        ((uintptr_t)memory - (uintptr_t)arena) / TIER_PAGE_SIZE;

    cr_assert(index < ZONED_PAGES);
    return index < DMA_PAGES ? 0 : index < DMA_PAGES + NORMAL_PAGES ? 1 : 2;
}

/* Free pages of a zone. */
static size_t free_in(unsigned zone)
{
    struct tier_zone_stats stats;

    cr_assert_eq(tier_zones_stats(&heap.zones, zone, &stats), TIER_OK);
    return stats.free_pages;
}

Test(tieralloc, refuses_bad_zones_and_changes_nothing)
{
    const uintptr_t base = (uintptr_t)arena;
    const struct {
        struct tier_zone_range range[2];
        enum tier_status status;
    } cases[] = {
        {{{"", base, TIER_PAGE_SIZE - 1}, {"", base + TIER_PAGE_SIZE, 1}},
         TIER_ERR_INVALID},
        {{{"", base, RUN_BYTES}, {"", base, RUN_BYTES}}, TIER_ERR_OVERLAP},
        {{{"", base, RUN_BYTES}, {"", base + TIER_PAGE_SIZE, SIZE_MAX}},
         TIER_ERR_OVERFLOW},
        {{{"", base, TIER_PAGE_SIZE}, {"", base + TIER_PAGE_SIZE, ARENA_BYTES}},
         TIER_ERR_FOREIGN},
    };

    for (unsigned given = 0; given < 2; given++) {
        cr_assert_eq(tier_init(&heap, base, RUN_BYTES,
                               given ? map_memory : NULL, sizeof(map_memory)),
                     TIER_OK);
        cr_assert_eq(set_zones(3), TIER_OK);
        const uint64_t before = snapshot();

        for (size_t i = 0; i < COUNT(cases); i++) {
            cr_assert_eq(tier_set_zones(&heap, cases[i].range, 2),
                         cases[i].status, "case %lu", (unsigned long)i);
        }
        cr_assert_eq(set_zones(0), TIER_ERR_INVALID);
        cr_assert_eq(set_zones(4), TIER_ERR_INVALID);
        cr_assert_eq(snapshot(), before);
        cr_assert_eq(
            tier_add_region(&heap, page(ZONED_PAGES), TIER_PAGE_SIZE * 200),
            TIER_ERR_FOREIGN);
        cr_assert_eq(
            tier_add_region(&heap, page(ZONED_PAGES - 1), TIER_PAGE_SIZE * 2),
            TIER_ERR_FOREIGN);
        cr_assert_eq(
            tier_add_region(&heap, arena, ZONED_PAGES * TIER_PAGE_SIZE),
            TIER_OK);
        cr_assert_eq(set_zones(2), TIER_ERR_IN_USE);
        cr_assert_not_null(tier_alloc(&heap, 8));
        cr_assert(tier_check(&heap));
    }
}

Test(tieralloc, serves_each_request_from_the_zone_it_names)
{
    const unsigned flags[] = {TIER_DMA, TIER_NORMAL, TIER_HIGH, 0};
    const unsigned zones[] = {0, 1, 2, 1};
    const size_t sizes[] = {0, 8, 1000, TIERALLOC_OBJECT_MAX,
                            TIERALLOC_OBJECT_MAX + 1};

    set_up_zones();
    (void)tier_trim(&heap);
    const struct tier_stats first = stats_of(&heap);
    void *memory;

    for (size_t i = 0; i < COUNT(flags); i++) {
        for (size_t n = 0; n < COUNT(sizes) && granted(sizes[n]) != 0; n++) {
            const bool paged_out = zones[i] != 1;

            cr_assert_eq(
                tier_try_alloc(&heap, sizes[n], flags[i] | TIER_ZERO, &memory),
                TIER_OK);
            cr_assert_eq(zone_of(memory), zones[i]);
            cr_assert(test_all(memory, 0, sizes[n]));
            cr_assert_eq(is_object(memory),
                         !paged_out && sizes[n] <= TIER_SLAB_BYTES_MAX);
            cr_assert_eq(tier_usable_size(&heap, memory),
                         paged_out ? paged(sizes[n]) : granted(sizes[n]));
            cr_assert_eq(tier_free_sized(&heap, memory, sizes[n]), TIER_OK);
        }
        for (unsigned order = 0; order < 3 && order <= TIERALLOC_MAX_ORDER;
             order++) {
            cr_assert_eq(tier_try_alloc_pages(&heap, order,
                                              flags[i] | TIER_ZERO, &memory),
                         TIER_OK);
            cr_assert_eq(zone_of(memory), zones[i]);
            cr_assert(test_all(memory, 0, TIER_PAGE_SIZE << order));
            expect_freed(memory);
        }
    }
    expect_all_back(&first);
}

Test(tieralloc, names_of_zones_mean_less_where_there_are_fewer)
{
    void *memory[3];

    for (unsigned count = 1; count <= 2; count++) {
        memset(map_memory, 0xA5, sizeof(map_memory));
        cr_assert_eq(tier_init(&heap, (uintptr_t)arena, RUN_BYTES, map_memory,
                               sizeof(map_memory)),
                     TIER_OK);
        cr_assert_eq(set_zones(count), TIER_OK);
        cr_assert_eq(tier_add_region(
                         &heap, arena,
                         (count == 1 ? DMA_PAGES : DMA_PAGES + NORMAL_PAGES) *
                             TIER_PAGE_SIZE),
                     TIER_OK);
        cr_assert_eq(tier_try_alloc(&heap, 8, TIER_DMA, &memory[0]), TIER_OK);
        cr_assert_eq(tier_try_alloc(&heap, 8, TIER_NORMAL, &memory[1]),
                     TIER_OK);
        cr_assert_eq(tier_try_alloc(&heap, 8, TIER_HIGH, &memory[2]), TIER_OK);
        cr_assert_eq(is_object(memory[0]), count == 1);
        cr_assert(is_object(memory[1]));
        cr_assert(is_object(memory[2]));
        cr_assert_eq(zone_of(memory[0]), 0U);
        cr_assert_eq(zone_of(memory[1]), count - 1);
        cr_assert_eq(zone_of(memory[2]), count - 1);
        cr_assert(tier_check(&heap));
    }
}

/* Take single pages until there are none; returns how many in each zone. */
static void take_all(unsigned flags, size_t pages[3])
{
    void *memory;
    unsigned lowest = 2;

    pages[0] = pages[1] = pages[2] = 0;
    while (tier_try_alloc_pages(&heap, 0, flags, &memory) == TIER_OK) {
        const unsigned zone = zone_of(memory);

        cr_assert(zone <= lowest, "a higher zone had pages");
        lowest = zone;
        pages[zone]++;
    }
    cr_assert(tier_check(&heap));
}

Test(tieralloc, falls_back_to_lower_zones_and_never_to_higher)
{
    size_t pages[3];

    set_up_zones();
    take_all(TIER_DMA, pages);
    cr_assert(pages[0] == DMA_PAGES && pages[1] == 0 && pages[2] == 0);
    cr_assert_eq(free_in(1), NORMAL_PAGES);
    set_up_zones();
    take_all(TIER_NORMAL, pages);
    cr_assert(pages[0] == DMA_PAGES && pages[1] == NORMAL_PAGES &&
              pages[2] == 0);
    cr_assert_null(tier_alloc(&heap, 8));
    cr_assert_null(tier_alloc(&heap, TIERALLOC_OBJECT_MAX + 1));
    cr_assert_eq(free_in(2), HIGH_PAGES);
    set_up_zones();
    take_all(TIER_HIGH, pages);
    cr_assert(pages[0] == DMA_PAGES && pages[1] == NORMAL_PAGES &&
              pages[2] == HIGH_PAGES);
}

Test(tieralloc, keeps_the_reserve_of_a_zone_for_those_who_name_it)
{
    size_t pages[3];

    set_up_zones();
    cr_assert_eq(tier_set_zone_reserve(&heap, 0, 5), TIER_OK);
    cr_assert_eq(tier_set_zone_reserve(&heap, 1, 7), TIER_OK);
    take_all(TIER_HIGH | TIER_RESERVE, pages);
    cr_assert_eq(pages[2], HIGH_PAGES);
    cr_assert_eq(pages[1], NORMAL_PAGES - 7);
    cr_assert_eq(pages[0], DMA_PAGES - 5);
    take_all(TIER_NORMAL, pages);
    cr_assert(pages[1] == 7 && pages[0] == 0);
    take_all(TIER_DMA, pages);
    cr_assert_eq(pages[0], 5U);
    set_up_zones();
    cr_assert_eq(tier_set_zone_reserve(&heap, 0, SIZE_MAX), TIER_OK);
    take_all(0, pages);
    cr_assert(pages[1] == NORMAL_PAGES && pages[0] == 0);
    cr_assert_null(tier_alloc(&heap, 8));
    cr_assert_eq(free_in(0), DMA_PAGES);
}

/* Requests of each kind; true when they were all met as `status` says. */
static void expect_each(unsigned flags, enum tier_status status)
{
    void *memory;

    cr_assert_eq(tier_try_alloc(&heap, 8, flags, &memory), status);
    cr_assert(status != TIER_OK || (zone_of(memory) == 1 && is_object(memory)));
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    (void)tier_trim(&heap);
    cr_assert_eq(
        tier_try_alloc(&heap, TIERALLOC_OBJECT_MAX + 1, flags, &memory),
        granted(TIERALLOC_OBJECT_MAX + 1) == 0 ? TIER_ERR_TOO_LARGE : status);
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    (void)tier_trim(&heap);
    cr_assert_eq(tier_try_alloc_pages(&heap, TIERALLOC_MAX_ORDER < 2 ? 0 : 2,
                                      flags, &memory),
                 status);
    cr_assert(status != TIER_OK || zone_of(memory) == 1);
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
}

/* What was heard of zones. */
static struct {
    unsigned calls;
    unsigned zone;
    enum tier_zone_event event;
} heard;

static void hear(void *context, unsigned zone, enum tier_zone_event event)
{
    cr_assert_eq(context, (void *)&heard);
    heard.calls++;
    heard.zone = zone;
    heard.event = event;
}

Test(tieralloc, keeps_the_min_of_a_zone_for_emergencies)
{
    const size_t min = LONG_PAGES * 2 + 8;
    size_t pages[3];

    set_up_zones();
    heard.calls = 0;
    cr_assert_eq(tier_set_zone_reserve(&heap, 0, SIZE_MAX), TIER_OK);
    cr_assert_eq(tier_set_zone_callback(&heap, hear, &heard), TIER_OK);
    cr_assert_eq(tier_set_watermarks(&heap, 1, min, min + 2, min + 4), TIER_OK);
    cr_assert_eq(heard.calls, 0U);
    take_all(TIER_NORMAL, pages);
    cr_assert_eq(pages[1], NORMAL_PAGES - min);
    cr_assert_eq(heard.calls, 1U);
    cr_assert(heard.zone == 1 && heard.event == TIER_ZONE_LOW);
    expect_each(0, TIER_ERR_NO_MEMORY);
    expect_each(TIER_NO_RETRY, TIER_ERR_NO_MEMORY);
    expect_each(TIER_RESERVE, TIER_OK);
    expect_each(TIER_ATOMIC, TIER_OK);
    expect_each(TIER_ATOMIC | TIER_NORMAL | TIER_ZERO, TIER_OK);
    expect_each(0, TIER_ERR_NO_MEMORY);
    take_all(TIER_RESERVE, pages);
    (void)tier_trim(&heap);
    cr_assert_eq(free_in(1), 0U);
    expect_each(TIER_ATOMIC, TIER_ERR_NO_MEMORY);
    cr_assert_eq(heard.calls, 1U);
    cr_assert_eq(tier_set_watermarks(&heap, 1, 0, 0, 0), TIER_OK);
    cr_assert_eq(heard.calls, 2U);
    cr_assert(heard.zone == 1 && heard.event == TIER_ZONE_OK);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, shrinking_never_makes_an_allocation_larger)
{
    void *memory;
    size_t pages[3];

    set_up_zones();
    take_all(TIER_NORMAL, pages);
    cr_assert_eq(tier_try_alloc(&heap, 8, TIER_HIGH, &memory), TIER_OK);
    cr_assert_eq(tier_usable_size(&heap, memory), TIER_PAGE_SIZE);
    cr_assert_eq(tier_realloc(&heap, memory, 4), memory);
    cr_assert_eq(tier_usable_size(&heap, memory), TIER_PAGE_SIZE);
}
#endif

/* --- A random run --------------------------------------------------------- */

/* What the model notes of an allocation: its alignment, and this. */
#define TAG_SIZED 0x100U /* free_sized may be told the size asked for */
#define TAG_SHIFT 0xFFU  /* log2 of the alignment that it keeps */

/* A region that comes and goes; see set_up_regions. */
#define GUEST_AT    ((size_t)400)
#define GUEST_PAGES ((size_t)48)

static size_t managed_pages;
static bool guest_is_here;

/* Three regions with gaps between them, and one that does not begin a page. */
static void set_up_regions(void)
{
    set_up_span(RUN_BYTES, 100);
    cr_assert_eq(tier_add_region(&heap, page(131), TIER_PAGE_SIZE * 70),
                 TIER_OK);
    cr_assert_eq(tier_add_region(&heap, page(256) + 11, TIER_PAGE_SIZE * 90),
                 TIER_OK);
    managed_pages = 100 + 70 + 89;
    guest_is_here = false;
    add_named();
}

static size_t random_size(uint64_t *random)
{
    const size_t most = TIER_PAGE_SIZE * 40;

    switch (test_below(random, 10)) {
    case 0:
        return test_below(
            random, (uint32_t)(most < TIER_BLOCK_MAX ? most : TIER_BLOCK_MAX));
    case 1:
    case 2:
        return test_below(random, TIERALLOC_OBJECT_MAX + 2);
    default:
        return test_below(random, 256);
    }
}

/* Note a new allocation, if there is one. */
static void note(void *memory, size_t asked, unsigned tag)
{
    if (memory == NULL) {
        return;
    }
    const size_t usable = tier_usable_size(&heap, memory);
    const size_t alignment = (size_t)1 << (tag & TAG_SHIFT);

    cr_assert_eq((uintptr_t)memory % alignment, 0U);
    if (is_block(memory)) {
        cr_assert_eq(usable & (usable - 1), 0U);
        cr_assert_eq((uintptr_t)memory % usable, 0U);
    } else if (!is_object(memory)) {
        cr_assert_eq((uintptr_t)memory % TIER_PAGE_SIZE, 0U);
        cr_assert_eq(usable % TIER_PAGE_SIZE, 0U);
    }
    if ((tag & TAG_SIZED) != 0 && !is_block(memory)) {
        cr_assert_eq(usable, is_object(memory) ? granted(asked) : paged(asked));
    }
    model_add(&model, memory, asked, usable, tag);
}

/* Several of one size at once. */
static void random_bulk(uint64_t *random)
{
    void *memory[12];
    const size_t count = test_below(random, COUNT(memory) + 1);
    const size_t bytes = random_size(random);
    const size_t before = stats_of(&heap).live_bytes;

    if (tier_alloc_bulk(&heap, bytes, count, memory) != TIER_OK) {
        cr_assert_eq(stats_of(&heap).live_bytes, before);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        note(memory[i], bytes, TAG_SIZED);
    }
}

/* A request with flags, of which those of zones mean nothing here. */
static void random_try(uint64_t *random, size_t bytes)
{
    const unsigned zones[] = {0, TIER_DMA, TIER_NORMAL, TIER_HIGH};
    const unsigned flags = test_below(random, 8) | zones[test_below(random, 4)];
    void *memory;

    cr_assert_eq(tier_try_alloc(&heap, bytes, flags, &memory),
                 memory != NULL ? TIER_OK : TIER_ERR_NO_MEMORY);
    cr_assert(memory == NULL || (flags & TIER_ZERO) == 0 ||
              test_all(memory, 0, bytes));
    note(memory, bytes, TAG_SIZED);
}

static void random_alloc(uint64_t *random)
{
    const size_t bytes = random_size(random);
    const unsigned shift = test_below(random, TIERALLOC_PAGE_SHIFT + 3);
    const unsigned order = test_below(random, 4);
    void *memory;

    switch (test_below(random, 8)) {
    case 0:
        memory = tier_calloc(&heap, bytes, 1);
        cr_assert(memory == NULL || test_all(memory, 0, bytes));
        note(memory, bytes, TAG_SIZED);
        break;
    case 1:
        note(tier_alloc_aligned(&heap, bytes, (size_t)1 << shift), bytes,
             shift);
        break;
    case 2:
        note(tier_alloc_pages(&heap, order), TIER_PAGE_SIZE << order, 0);
        break;
    case 3:
        random_try(random, bytes);
        break;
    case 4:
        note(tier_alloc_from(&heap, &named), CACHE_BYTES, TAG_NAMED);
        break;
    case 5:
        random_bulk(random);
        break;
    default:
        note(tier_alloc(&heap, bytes), bytes, TAG_SIZED);
    }
}

static void random_free(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot slot = model.slot[index];
    const size_t size = (slot.tag & TAG_SIZED) != 0 ? slot.asked : slot.bytes;

    cr_assert_eq(tier_usable_size(&heap, slot.at), slot.bytes);
    model_drop(&model, index);
    cr_assert_eq(test_below(random, 2) == 0 && (slot.tag & TAG_NAMED) == 0
                     ? tier_free_sized(&heap, slot.at, size)
                     : tier_free(&heap, slot.at),
                 TIER_OK);
}

/* Free several at once, at times with one too many. */
static void random_free_bulk(uint64_t *random)
{
    void *memory[12];
    size_t count = 0;
    const size_t want = test_below(random, COUNT(memory));
    const size_t before = stats_of(&heap).live_bytes;

    while (count < want && count < model.count) {
        memory[count] = model.slot[count].at;
        count++;
    }
#if TIERALLOC_CHECKS
    memory[count] = count > 0 && test_below(random, 2) == 0
                        ? memory[test_below(random, (uint32_t)count)]
                        : (void *)&model;
    shuffle(random, memory, count + 1);
    cr_assert(tier_free_bulk(&heap, count + 1, memory) != TIER_OK);
    cr_assert_eq(stats_of(&heap).live_bytes, before);
    for (size_t i = 0; i < count; i++) {
        memory[i] = model.slot[i].at;
    }
#else
    (void)before;
#endif
    shuffle(random, memory, count);
    cr_assert_eq(tier_free_bulk(&heap, count, memory), TIER_OK);
    while (count > 0) {
        model_forget(&model, --count);
    }
}

static void random_resize(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot slot = model.slot[index];
    const size_t bytes = random_size(random);
    const unsigned shift = slot.tag & TAG_SHIFT;
    const bool was_block = is_block(slot.at);

    cr_assert(model_holds(&slot, slot.at, slot.bytes));
    unsigned char *const moved =
        shift == 0
            ? tier_realloc(&heap, slot.at, bytes)
            : tier_realloc_aligned(&heap, slot.at, bytes, (size_t)1 << shift);

    if (moved == NULL) {
        cr_assert(bytes > slot.bytes);
        cr_assert(model_holds(&slot, slot.at, slot.bytes));
        cr_assert_eq(tier_usable_size(&heap, slot.at), slot.bytes);
        return;
    }
    cr_assert(
        model_holds(&slot, moved, bytes < slot.bytes ? bytes : slot.bytes));
    cr_assert(!was_block || is_block(moved) || bytes <= TIER_SLAB_BYTES_MAX);
    model_forget(&model, index);
    note(moved, bytes,
         moved == slot.at ? slot.tag & (TAG_SHIFT | TAG_NAMED)
                          : shift + (shift == 0 ? TAG_SIZED : 0));
}

#if TIERALLOC_CHECKS
static void random_bad_free(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot *const slot = &model.slot[index];

    if (slot->bytes > 1) {
        const size_t at = 1 + test_below(random, (uint32_t)slot->bytes - 1);

        cr_assert_eq(tier_free(&heap, slot->at + at), TIER_ERR_INTERIOR);
    }
    cr_assert_eq(tier_free_sized(&heap, slot->at, SIZE_MAX),
                 TIER_ERR_WRONG_SIZE);
}
#else
static void random_bad_free(uint64_t *random)
{
    (void)random;
}
#endif

/* Add the guest, or remove it if nothing of it is in use. */
static void toggle_guest(void)
{
    const size_t bytes = GUEST_PAGES * TIER_PAGE_SIZE;
    bool in_use = false;

    if (!guest_is_here) {
        cr_assert_eq(tier_add_region(&heap, page(GUEST_AT), bytes), TIER_OK);
        cr_assert_eq(tier_add_region(&heap, page(GUEST_AT), bytes),
                     TIER_ERR_OVERLAP);
        managed_pages += GUEST_PAGES;
        guest_is_here = true;
        return;
    }
    for (size_t i = 0; i < bytes / MODEL_GRAIN; i++) {
        in_use = in_use || claimed[GUEST_AT * TIER_PAGE_SIZE / MODEL_GRAIN + i];
    }
    const enum tier_status status =
        tier_remove_region(&heap, page(GUEST_AT), bytes);

    cr_assert_eq(status == TIER_OK || status == TIER_ERR_IN_USE, true);
    cr_assert(status != TIER_OK || !in_use);
    cr_assert(status == TIER_OK || model.count != 0);
    if (status == TIER_OK) {
        managed_pages -= GUEST_PAGES;
        guest_is_here = false;
    }
}

/* The counters must say what the model says. */
static void expect_stats_of_model(void)
{
    const struct tier_stats stats = stats_of(&heap);
    size_t objects = 0;
    size_t object_bytes = 0;
    size_t page_bytes = 0;

    for (size_t i = 0; i < model.count; i++) {
        const struct model_slot *const slot = &model.slot[i];

        if ((slot->tag & TAG_NAMED) != 0) {
            objects++;
            object_bytes += named.base.object_bytes;
        } else if (is_object(slot->at)) {
            objects++;
            object_bytes += counted(slot->bytes);
        } else {
            page_bytes += slot->bytes;
        }
    }
    cr_assert_eq(stats.live_objects, objects);
    cr_assert_eq(stats.live_blocks, model.count - objects);
    cr_assert_eq(stats.live_pages, page_bytes / TIER_PAGE_SIZE);
    cr_assert_eq(stats.live_bytes, object_bytes + page_bytes);
    cr_assert_eq(stats.managed_pages, managed_pages);
    cr_assert_eq(stats.managed_pages,
                 stats.free_pages + stats.slab_pages + stats.live_pages);
    cr_assert(stats.free_run_pages <= stats.free_pages);
    cr_assert(stats.peak_used_pages >= managed_pages - stats.free_pages);
}

/* Waves of growing and shrinking, so that memory runs out and comes back. */
static void random_step(uint64_t *random, unsigned step)
{
    const bool growing = step / 512 % 2 == 0;
    const unsigned what = test_below(random, 32);

    if (model.count == 0 || what < (growing ? 18U : 8U)) {
        if (model.count < MODEL_SLOTS - 12) {
            random_alloc(random);
        }
    } else if (what < 24) {
        random_free(random);
    } else if (what < 28) {
        random_resize(random);
    } else if (what < 29) {
        random_free_bulk(random);
    } else if (what < 30) {
        toggle_guest();
    } else {
        random_bad_free(random);
    }
}

Test(tieralloc, random_run_agrees_with_the_model)
{
    uint64_t random = TEST_SEED;

    set_up_regions();
    (void)tier_trim(&heap);
    const struct tier_stats first = stats_of(&heap);

    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        random_step(&random, step);
        expect_stats_of_model();
        cr_assert(tier_check(&heap), "step %u", step);
        if (step % 512 == 511) {
            model_verify(&model);
            (void)tier_trim(&heap);
            cr_assert_eq(stats_of(&heap).waiting_objects, 0U);
        }
    }
    cr_assert(stats_of(&heap).failed_no_memory > 0 || TIERALLOC_MAX_ORDER == 0);
    while (model.count > 0) {
        random_free(&random);
    }
    if (guest_is_here) {
        toggle_guest();
    }
    expect_all_back(&first);
}

#if TIERALLOC_ZONES == 3

/* Objects, runs and blocks with each flag, until memory runs out and back. */
static void random_zoned_step(uint64_t *random, bool growing)
{
    const unsigned flags[] = {0, TIER_DMA, TIER_NORMAL, TIER_HIGH};
    const unsigned highest[] = {1, 0, 1, 2};
    const unsigned which = test_below(random, 4);
    const unsigned order = test_below(random, 4);
    const size_t bytes = random_size(random);
    void *memory;

    if (model.count > 0 && test_below(random, 8) < (growing ? 2U : 5U)) {
        random_free(random);
        return;
    }
    if (order > TIERALLOC_MAX_ORDER || test_below(random, 2) == 0) {
        (void)tier_try_alloc(&heap, bytes, flags[which], &memory);
        note(memory, bytes, TAG_SIZED);
    } else {
        (void)tier_try_alloc_pages(&heap, order, flags[which], &memory);
        note(memory, TIER_PAGE_SIZE << order, 0);
    }
    cr_assert(memory == NULL || zone_of(memory) <= highest[which]);
}

Test(tieralloc, random_run_over_zones_agrees_with_the_model)
{
    uint64_t random = TEST_SEED;

    set_up_zones();
    (void)tier_trim(&heap);
    const struct tier_stats first = stats_of(&heap);

    managed_pages = ZONED_PAGES;
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS / 2; step++) {
        random_zoned_step(&random, step / 256 % 2 == 0);
        if (model.count > 0 && step % 7 == 0) {
            random_resize(&random);
        }
        expect_stats_of_model();
        cr_assert(tier_check(&heap), "step %u", step);
    }
    model_verify(&model);
    cr_assert(stats_of(&heap).failed_no_memory > 0 || TIERALLOC_MAX_ORDER == 0);
    while (model.count > 0) {
        random_free(&random);
    }
    expect_all_back(&first);
}

#endif

/* --- Transactions --------------------------------------------------------- */

#define LOG_RECORDS 16

static struct tier_tx_record log_records[LOG_RECORDS];
static struct tier_tx tx;

/* A caller's own step: a counter that is raised, and lowered again. */
static void lower(void *context, void *object)
{
    (void)object;
    --*(unsigned *)context;
}

static enum tier_status raise(struct tier_tx *of, unsigned *counter)
{
    const enum tier_status status = tier_tx_defer(of, lower, counter, NULL);

    *counter += status == TIER_OK;
    return status;
}

/* What the script of a transaction works on. */
static struct {
    void *object;     /* to be freed */
    void *block;      /* likewise */
    void *memory[6];  /* allocated by it */
    unsigned counter; /* raised by it */
} work;

#define SCRIPT_STEPS 9

/* One of each kind of step; stops at the first that is refused. */
static enum tier_status run_script(struct tier_tx *of)
{
    const size_t sizes[] = {64, TIERALLOC_OBJECT_MAX, 8, 100};
    enum tier_status status = raise(of, &work.counter);

    for (size_t i = 0; status == TIER_OK && i < COUNT(sizes); i++) {
        status = i % 2 == 0
                     ? tier_tx_alloc(of, &heap, sizes[i], &work.memory[i])
                     : tier_tx_try_alloc(of, &heap, sizes[i], TIER_ZERO,
                                         &work.memory[i]);
        cr_assert_eq(status == TIER_OK, work.memory[i] != NULL);
        cr_assert(status != TIER_OK || i % 2 == 0 ||
                  test_all(work.memory[i], 0, sizes[i]));
        if (status == TIER_OK) {
            memset(work.memory[i], 0x11, sizes[i]);
        }
    }
    if (status == TIER_OK) {
        status = tier_tx_free(of, &heap, work.object);
    }
    if (status == TIER_OK) {
        status = tier_tx_alloc_pages(of, &heap, 0, TIER_ZERO, &work.memory[4]);
        cr_assert_eq(status == TIER_OK, work.memory[4] != NULL);
        cr_assert(status != TIER_OK ||
                  test_all(work.memory[4], 0, TIER_PAGE_SIZE));
    }
    if (status == TIER_OK) {
        status = tier_tx_alloc(
            of, &heap, HAS_LONG ? TIER_SLAB_BYTES_MAX + 1 : 9, &work.memory[5]);
        cr_assert_eq(status == TIER_OK, work.memory[5] != NULL);
    }
    return status != TIER_OK ? status : tier_tx_free(of, &heap, work.block);
}

/* An object and a block to free, in `pages` pages. */
static void set_up_work(size_t pages)
{
    set_up(pages);
    work.object = tier_alloc(&heap, 64);
    work.block = tier_alloc_pages(&heap, 0);
    work.counter = 0;
    cr_assert(work.object != NULL && work.block != NULL);
    (void)tier_trim(&heap);
}

/* After a rollback all must be as before, with what was to be freed in use. */
static void expect_rolled_back(const struct tier_stats *before)
{
    tier_tx_rollback(&tx);
    (void)tier_trim(&heap);
    const struct tier_stats after = stats_of(&heap);

    expect_same_live(before, &after);
    cr_assert_eq(work.counter, 0U);
    cr_assert_eq(tier_usable_size(&heap, work.object), granted(64));
    cr_assert_eq(tier_usable_size(&heap, work.block), TIER_PAGE_SIZE);
    cr_assert(tier_check(&heap));
    cr_assert(tier_tx_check(&tx));
}

Test(tieralloc, rolls_back_wherever_the_log_is_full)
{
    for (size_t capacity = 0; capacity <= SCRIPT_STEPS; capacity++) {
        set_up_work(ARENA_PAGES);
        const struct tier_stats before = stats_of(&heap);

        tier_tx_begin(&tx, log_records, capacity);
        cr_assert_eq(run_script(&tx),
                     capacity < SCRIPT_STEPS ? TIER_ERR_LOG_FULL : TIER_OK);
        cr_assert(!tier_tx_has_room(&tx, 1));
        expect_rolled_back(&before);
    }
}

Test(tieralloc, rolls_back_wherever_memory_runs_out)
{
    for (size_t left = 0; left < 20; left++) {
        set_up_work(64);
        while (stats_of(&heap).free_pages > left) {
            cr_assert_not_null(tier_alloc_pages(&heap, 0));
        }
        (void)tier_trim(&heap);
        const struct tier_stats before = stats_of(&heap);

        tier_tx_begin(&tx, log_records, LOG_RECORDS);
        const enum tier_status status = run_script(&tx);

        cr_assert(status == TIER_OK || status == TIER_ERR_NO_MEMORY);
        cr_assert(status != TIER_OK || left > 3);
        expect_rolled_back(&before);
    }
}

Test(tieralloc, commits_all_of_its_steps)
{
    set_up_work(ARENA_PAGES);
    const struct tier_stats before = stats_of(&heap);

    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    cr_assert_eq(run_script(&tx), TIER_OK);
    cr_assert_eq(tier_usable_size(&heap, work.object), granted(64));
    tier_tx_commit(&tx);
    const struct tier_stats after = stats_of(&heap);

    cr_assert_eq(work.counter, 1U);
    cr_assert_eq(after.live_objects + after.live_blocks,
                 before.live_objects + before.live_blocks + 4);
    cr_assert_eq(after.refused_frees, 0U);
#if TIERALLOC_CHECKS
    cr_assert_eq(tier_free(&heap, work.object), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_free(&heap, work.block), TIER_ERR_DOUBLE_FREE);
#endif
    cr_assert_eq(tier_free_bulk(&heap, COUNT(work.memory), work.memory),
                 TIER_OK);
    (void)tier_trim(&heap);
    cr_assert_eq(stats_of(&heap).free_pages, ARENA_PAGES);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, a_refused_allocation_is_not_recorded)
{
    void *memory = arena;

    set_up(64);
    tier_tx_begin(&tx, log_records, 1);
    cr_assert_eq(tier_tx_alloc(&tx, &heap, SIZE_MAX, &memory),
                 TIER_ERR_TOO_LARGE);
    cr_assert_null(memory);
    memory = arena;
    cr_assert_eq(tier_tx_try_alloc(&tx, &heap, 8, 8, &memory),
                 TIER_ERR_INVALID);
    cr_assert_null(memory);
    memory = arena;
    cr_assert_eq(tier_tx_alloc_pages(&tx, &heap, ~0U, 0, &memory),
                 TIER_ERR_TOO_LARGE);
    cr_assert_null(memory);
    exhaust();
    memory = arena;
    cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &memory), TIER_ERR_NO_MEMORY);
    cr_assert_null(memory);
    memory = arena;
    cr_assert_eq(tier_tx_alloc_pages(&tx, &heap, 0, TIER_ATOMIC, &memory),
                 TIER_ERR_NO_MEMORY);
    cr_assert_null(memory);
    cr_assert(tier_tx_has_room(&tx, 1));
    tier_tx_begin(&tx, NULL, 0);
    memory = arena;
    cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &memory), TIER_ERR_LOG_FULL);
    cr_assert_null(memory);
}

Test(tieralloc, frees_only_at_commit_and_only_once)
{
    set_up_work(ARENA_PAGES);
    const struct tier_stats before = stats_of(&heap);

    tier_tx_begin(&tx, log_records, 2);
    cr_assert_eq(tier_tx_free(&tx, &heap, work.object), TIER_OK);
    cr_assert_eq(tier_tx_free(&tx, &heap, work.object), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_tx_free(&tx, &heap, work.block), TIER_OK);
    cr_assert_eq(tier_tx_free(&tx, &heap, work.block), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(stats_of(&heap).refused_frees, 2U);
    cr_assert_eq(tier_tx_free(&tx, &heap, NULL), TIER_OK);
    void *const other = tier_alloc(&heap, 64);

    cr_assert_eq(tier_tx_free(&tx, &heap, other), TIER_ERR_LOG_FULL);
    expect_freed(other);
    expect_rolled_back(&before);
    cr_assert_eq(tier_tx_free(&tx, &heap, work.object), TIER_OK);
    tier_tx_commit(&tx);
    cr_assert_eq(stats_of(&heap).live_objects, 0U);
    cr_assert_eq(stats_of(&heap).refused_frees, 2U);
}

Test(tieralloc, one_transaction_spans_two_allocators_and_a_step_of_the_callers)
{
    static struct tier_allocator other;
    unsigned counter = 0;
    void *memory[2];

    for (unsigned commit = 0; commit < 2; commit++) {
        set_up(RUN_PAGES);
        cr_assert_eq(
            tier_init(&other, (uintptr_t)page(RUN_PAGES), RUN_BYTES, NULL, 0),
            TIER_OK);
        cr_assert_eq(tier_add_region(&other, page(RUN_PAGES), RUN_BYTES),
                     TIER_OK);
        const struct tier_stats before[] = {stats_of(&heap), stats_of(&other)};

        tier_tx_begin(&tx, log_records, 3);
        cr_assert_eq(tier_tx_alloc(&tx, &heap, 100, &memory[0]), TIER_OK);
        cr_assert_eq(raise(&tx, &counter), TIER_OK);
        cr_assert_eq(tier_tx_alloc(&tx, &other, TIER_PAGE_SIZE, &memory[1]),
                     TIER_OK);
        cr_assert((uintptr_t)memory[0] < (uintptr_t)memory[1]);
        if (commit != 0) {
            tier_tx_commit(&tx);
            cr_assert_eq(counter, 1U);
            cr_assert_eq(tier_free(&heap, memory[0]), TIER_OK);
            cr_assert_eq(tier_free(&other, memory[1]), TIER_OK);
        } else {
            tier_tx_rollback(&tx);
            cr_assert_eq(counter, 0U);
        }
        (void)tier_trim(&heap);
        (void)tier_trim(&other);
        const struct tier_stats after[] = {stats_of(&heap), stats_of(&other)};

        expect_same_live(&before[0], &after[0]);
        expect_same_live(&before[1], &after[1]);
        cr_assert(tier_check(&heap) && tier_check(&other));
    }
}

/* --- Inspection ----------------------------------------------------------- */

Test(tieralloc, check_sees_pages_that_are_not_counted)
{
    set_up(64);
    cr_assert_not_null(tier_alloc_pages(&heap, 0));
    cr_assert_not_null(tier_alloc(&heap, 64));
    size_t *const counters[] = {&heap.live_pages, &heap.heap_pages,
                                &heap.slab.pages, &heap.peak_used_pages};

    cr_assert(tier_check(&heap));
    for (size_t i = 0; i < COUNT(counters); i++) {
        --*counters[i];
        cr_assert(!tier_check(&heap), "counter %lu", (unsigned long)i);
        ++*counters[i];
        cr_assert(tier_check(&heap));
    }
    heap.live_pages++;
    cr_assert(!tier_check(&heap));
    heap.live_pages--;
}

Test(tieralloc, check_asks_every_tier)
{
    set_up(64);
    void *const object = tier_alloc(&heap, 64);

    expect_freed(object);
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    cr_assert_not_null(tier_alloc(&heap, 64));
    cr_assert(tier_check(&heap));
    heap.zones.zone[0].buddy.free_pages++;
    cr_assert(!tier_check(&heap));
    heap.zones.zone[0].buddy.free_pages--;
    heap.slab.classes[7].slabs++;
    cr_assert(!tier_check(&heap));
    heap.slab.classes[7].slabs--;
    heap.heap.link.seal++;
    cr_assert(!tier_check(&heap));
    heap.heap.link.seal--;
    heap.reclaim.shrinkers++;
    cr_assert(!tier_check(&heap));
    heap.reclaim.shrinkers--;
#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS == 1
    *(uintptr_t *)object ^= 1; /* the mark of what waits */
    cr_assert(!tier_check(&heap));
    *(uintptr_t *)object ^= 1;
#endif
    cr_assert(tier_check(&heap));
}

Test(tieralloc, counts_requests_that_no_magazine_served)
{
    set_up(64);
    void *const block = tier_alloc_pages(&heap, 0);

    cr_assert_eq(stats_of(&heap).requests, 1U);
    expect_freed(block);
    cr_assert_null(tier_alloc(&heap, SIZE_MAX));
    cr_assert_eq(stats_of(&heap).requests, 2U);
    cr_assert_eq(stats_of(&heap).recoveries, 0U);
    while (tier_alloc_pages(&heap, 0) != NULL) {
    }
    cr_assert_eq(stats_of(&heap).requests, 2 + 64 + 1U);
    cr_assert_eq(stats_of(&heap).recoveries, 1U);
    cr_assert_eq(stats_of(&heap).failed_allocs, 2U);
    cr_assert_eq(stats_of(&heap).failed_no_memory, 1U);
}

/* --- What a fresh reader tried -------------------------------------------- */

Test(tieralloc, refuses_the_memory_of_its_own_map)
{
    const size_t map_bytes = tier_map_bytes((uintptr_t)arena, ARENA_BYTES);

    set_up(ARENA_PAGES);
    const struct tier_stats before = stats_of(&heap);

    cr_assert_eq(tier_add_region(&heap, arena, TIER_PAGE_SIZE),
                 TIER_ERR_OVERLAP);
    cr_assert_eq(stats_of(&heap).managed_pages, before.managed_pages);

    /* The same with a map that the caller placed in the middle. */
    unsigned char *const inside = arena + 3 * TIER_PAGE_SIZE;

    cr_assert_eq(
        tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, inside, map_bytes),
        TIER_OK);
    cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES), TIER_ERR_OVERLAP);
    cr_assert_eq(tier_add_region(&heap, arena, 3 * TIER_PAGE_SIZE), TIER_OK);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, asks_no_more_of_empty_slabs_than_can_help)
{
    set_up(ARENA_PAGES);
    expect_freed(tier_alloc(&heap, 64));
    const struct tier_stats kept = stats_of(&heap);

    cr_assert(kept.slab_pages != 0);
    cr_assert_null(tier_alloc_pages(&heap, TIERALLOC_MAX_ORDER + 1));
    cr_assert_eq(tier_remove_region(&heap, arena, 0), TIER_ERR_INVALID);
    cr_assert_eq(stats_of(&heap).slab_pages, kept.slab_pages);
}

Test(tieralloc, frees_a_page_by_any_size_up_to_its_own)
{
    set_up(ARENA_PAGES);
    const size_t sizes[] = {0, 1, TIER_PAGE_SIZE - 1, TIER_PAGE_SIZE};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        void *const block = tier_alloc_pages(&heap, 0);

        cr_assert_eq(tier_free_sized(&heap, block, TIER_PAGE_SIZE + 1),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(tier_free_sized(&heap, block, sizes[i]), TIER_OK);
    }
}

Test(tieralloc, zeroes_the_one_byte_that_none_counts_as)
{
    void *memory;

    set_up(ARENA_PAGES);
    memory = tier_alloc(&heap, 0);
    memset(memory, 0x5A, 1);
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    cr_assert_eq(tier_try_alloc(&heap, 0, TIER_ZERO, &memory), TIER_OK);
    cr_assert_eq(*(unsigned char *)memory, 0U);
}

Test(tieralloc, counts_no_failure_when_it_shrinks_in_place)
{
    set_up(ARENA_PAGES);
    void *const block = tier_alloc(&heap, TIER_SLAB_BYTES_MAX);

    while (tier_alloc_pages(&heap, 0) != NULL) {
    }
    const struct tier_stats before = stats_of(&heap);

    cr_assert_eq(tier_realloc(&heap, block, 8), block);
    cr_assert_eq(stats_of(&heap).failed_allocs, before.failed_allocs);
}

Test(tieralloc, places_the_map_aligned_and_never_in_page_zero)
{
    /* No machine of ours has memory there, so the place alone is checked. */
    cr_assert_eq(tier_carve_skip_(0), TIER_PAGE_SIZE);
    cr_assert_eq(tier_carve_skip_(1), TIER_PAGE_SIZE - 1);
    cr_assert_eq(tier_carve_skip_(TIER_PAGE_SIZE - 1), 1U);
    cr_assert_eq(tier_carve_skip_(TIER_PAGE_SIZE), 0U);
    cr_assert_eq(tier_carve_skip_(TIER_PAGE_SIZE + 1), 7U);
    cr_assert_eq(tier_carve_skip_(UINTPTR_MAX - 7), 0U);
}
