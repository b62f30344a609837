/*
 * tests/test_tieralloc.c - the allocator as its callers see it.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include "model.h"

#include <tieralloc/tieralloc.h>

/* --- The rig -------------------------------------------------------------- */

/* Enough for one aligned block of the largest order, at the default options. */
#define ARENA_BYTES (8 * MIB - TIER_PAGE_SIZE)
#define ARENA_PAGES (ARENA_BYTES / TIER_PAGE_SIZE)
#define RUN_PAGES   (ARENA_PAGES / 4)
#define RUN_BYTES   (RUN_PAGES * TIER_PAGE_SIZE)

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
    cr_assert_eq(a->largest_free_order, b->largest_free_order);
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        cr_assert_eq(a->free_blocks[order], b->free_blocks[order]);
    }
    cr_assert_eq(a->slab_pages, b->slab_pages);
    cr_assert_eq(a->live_objects, b->live_objects);
    cr_assert_eq(a->live_blocks, b->live_blocks);
    cr_assert_eq(a->live_bytes, b->live_bytes);
}

/* After a trim, everything must be free as it was at first. */
static void expect_all_back(const struct tier_stats *first)
{
    (void)tier_trim(&heap);
    const struct tier_stats now = stats_of(&heap);

    cr_assert_eq(now.slab_pages, 0U);
    expect_same_live(&now, first);
    cr_assert(tier_check(&heap));
}

/* Usable bytes that a request gets; 0 when it is too large. */
static size_t granted(size_t bytes)
{
    size_t block = TIER_PAGE_SIZE;

    if (bytes <= TIERALLOC_OBJECT_MAX) {
        return model_class(bytes);
    }
    while (block < bytes && block < TIER_BLOCK_MAX) {
        block *= 2;
    }
    return block < bytes ? 0 : block;
}

/* Bytes of the largest block that is free. */
static size_t largest_free(void)
{
    const int order = stats_of(&heap).largest_free_order;

    return order < 0 ? 0 : TIER_PAGE_SIZE << order;
}

/* A number that changes when a byte does (FNV-1a). */
static uint64_t fold(uint64_t hash, const void *memory, size_t bytes)
{
    const unsigned char *const at = memory;

    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ at[i]) * UINT64_C(0x100000001B3);
    }
    return hash;
}

/* The allocator and its map, but for the counters of refusals. */
static uint64_t snapshot(void)
{
    static struct tier_allocator copy;

    memcpy(&copy, &heap, sizeof(copy));
    copy.refused_frees = 0;
    copy.failed_allocs = 0;
    copy.slab.refused_frees = 0;
    copy.slab.failed_allocs = 0;
    copy.buddy.refused_frees = 0;
    copy.buddy.refused_allocs = 0;
    copy.buddy.failed_allocs = 0;
    return fold(fold(UINT64_C(0xCBF29CE484222325), &copy, sizeof(copy)),
                map_memory, sizeof(map_memory));
}

/* Take all that there is, page by page and class by class. */
static void exhaust(void)
{
    while (tier_alloc_pages(&heap, 0) != NULL) {
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        while (tier_alloc(&heap, tier_slab_class_bytes(i)) != NULL) {
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
    cr_assert_null(tier_realloc(&heap, NULL, 8));
    cr_assert_eq(tier_free(&heap, NULL), TIER_OK);
    cr_assert_eq(tier_free_sized(&heap, NULL, 8), TIER_OK);
#if TIERALLOC_CHECKS
    cr_assert_null(tier_realloc(&heap, arena, 8));
    cr_assert_eq(tier_free(&heap, arena), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_free(&heap, (void *)(uintptr_t)1), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_free(&heap, (void *)UINTPTR_MAX), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_free_sized(&heap, arena, 8), TIER_ERR_FOREIGN);
#endif
    cr_assert_eq(tier_usable_size(&heap, arena), 0U);
    cr_assert_eq(tier_usable_size(&heap, NULL), 0U);
    cr_assert_eq(tier_trim(&heap), 0U);
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
    for (void *memory; model.count < MODEL_SLOTS; model.count++) {
        const size_t bytes = test_below(&random, TIERALLOC_OBJECT_MAX * 2);

        memory = tier_alloc(&heap, bytes);
        if (memory == NULL) {
            break;
        }
        memset(memory, 0x11, tier_usable_size(&heap, memory));
    }
    exhaust();
    for (size_t i = 0; i < COUNT(holes); i++) {
        cr_assert(test_all(page(holes[i]), guard[i], TIER_PAGE_SIZE));
    }
}

/* --- Sizes ---------------------------------------------------------------- */

/* One request by every call that takes a size. */
static void expect_served(size_t bytes)
{
    const size_t usable = granted(bytes);
    void *memory[4];

    memory[0] = tier_alloc(&heap, bytes);
    cr_assert_not_null(memory[0], "%lu bytes", (unsigned long)bytes);
    cr_assert_eq(tier_usable_size(&heap, memory[0]), usable);
    cr_assert_eq((uintptr_t)memory[0] % TIERALLOC_MIN_ALIGN, 0U);
    if (bytes > TIERALLOC_OBJECT_MAX) {
        cr_assert_eq((uintptr_t)memory[0] % usable, 0U);
    }
    memset(memory[0], 0xEE, usable);
    cr_assert_eq(stats_of(&heap).live_bytes, usable);
    cr_assert_eq(tier_free_sized(&heap, memory[0], bytes), TIER_OK);
    cr_assert_eq(tier_try_alloc(&heap, bytes, TIER_ZERO, &memory[1]), TIER_OK);
    cr_assert(test_all(memory[1], 0, bytes));
    memset(memory[1], 0xEE, usable);
    cr_assert_eq(tier_free(&heap, memory[1]), TIER_OK);
    memory[2] = tier_calloc(&heap, 1, bytes);
    cr_assert_not_null(memory[2]);
    cr_assert(test_all(memory[2], 0, bytes));
    cr_assert_eq(tier_free_sized(&heap, memory[2], bytes), TIER_OK);
    memory[3] = tier_realloc(&heap, NULL, bytes);
    cr_assert_eq(tier_usable_size(&heap, memory[3]), usable);
    cr_assert_eq(tier_free(&heap, memory[3]), TIER_OK);
    cr_assert_eq(stats_of(&heap).live_bytes, 0U);
}

/* One request that can never be met. */
static void expect_too_large(size_t bytes)
{
    const size_t failed = stats_of(&heap).failed_allocs;
    void *memory = arena;

    cr_assert_null(tier_alloc(&heap, bytes));
    cr_assert_eq(tier_try_alloc(&heap, bytes, TIER_ZERO, &memory),
                 TIER_ERR_TOO_LARGE);
    cr_assert_null(memory);
    cr_assert_null(tier_calloc(&heap, 1, bytes));
    cr_assert_null(tier_calloc(&heap, bytes, 1));
    cr_assert_null(tier_alloc_aligned(&heap, bytes, 8));
    cr_assert_null(tier_realloc(&heap, NULL, bytes));
    cr_assert_eq(stats_of(&heap).failed_allocs, failed + 6);
}

Test(tieralloc, serves_every_size_up_to_the_largest_block)
{
    set_up(ARENA_PAGES);
    const struct tier_stats first = stats_of(&heap);

    for (size_t bytes = 0;
         bytes <= TIERALLOC_OBJECT_MAX + 9 && bytes <= TIER_BLOCK_MAX;
         bytes++) {
        expect_served(bytes);
    }
    for (size_t bytes = TIER_PAGE_SIZE;
         bytes <= TIER_BLOCK_MAX && bytes <= largest_free(); bytes *= 2) {
        expect_served(bytes - 1);
        expect_served(bytes);
        expect_served(bytes / 2 + 1);
        cr_assert(tier_check(&heap));
    }
    expect_all_back(&first);
}

Test(tieralloc, refuses_every_size_above_the_largest_block)
{
    set_up(ARENA_PAGES);
    const uint64_t before = snapshot();

    expect_too_large(TIER_BLOCK_MAX + 1);
    expect_too_large(TIER_BLOCK_MAX * 2);
    expect_too_large(SIZE_MAX / 2);
    expect_too_large(SIZE_MAX / 2 + 1);
    for (size_t less = 0; less < 20; less++) {
        expect_too_large(SIZE_MAX - less);
        expect_too_large(SIZE_MAX - less * TIER_PAGE_SIZE);
    }
    cr_assert_eq(snapshot(), before);
}

Test(tieralloc, serves_blocks_of_every_order)
{
    set_up(ARENA_PAGES);
    const struct tier_stats first = stats_of(&heap);

    for (unsigned order = 0; (int)order <= first.largest_free_order; order++) {
        void *const block = tier_alloc_pages(&heap, order);
        const size_t bytes = TIER_PAGE_SIZE << order;

        cr_assert_not_null(block);
        cr_assert_eq((uintptr_t)block % bytes, 0U);
        cr_assert_eq(tier_usable_size(&heap, block), bytes);
        cr_assert_eq(stats_of(&heap).live_blocks, 1U);
        cr_assert_eq(stats_of(&heap).live_bytes, bytes);
        cr_assert_eq(stats_of(&heap).live_objects, 0U);
        cr_assert_eq(stats_of(&heap).free_pages,
                     first.free_pages - ((size_t)1 << order));
        cr_assert_eq(tier_free_sized(&heap, block, bytes), TIER_OK);
    }
    cr_assert_null(tier_alloc_pages(&heap, TIERALLOC_MAX_ORDER + 1));
    cr_assert_null(tier_alloc_pages(&heap, 63));
    cr_assert_null(tier_alloc_pages(&heap, ~0U));
    cr_assert_eq(stats_of(&heap).failed_allocs, 3U);
    expect_all_back(&first);
}

Test(tieralloc, tells_the_most_pages_ever_in_use)
{
    set_up(32);
    void *const block = tier_alloc_pages(&heap, 2);
    void *const other = tier_alloc_pages(&heap, 1);

    cr_assert_eq(tier_free(&heap, block), TIER_OK);
    cr_assert_eq(stats_of(&heap).peak_used_pages, 6U);
    cr_assert_eq(tier_free(&heap, other), TIER_OK);
    cr_assert_eq(stats_of(&heap).peak_used_pages, 6U);
    cr_assert_eq(stats_of(&heap).managed_pages, 32U);
}

/* Several at once, so that not all lie at the start of a slab. */
static void expect_aligned(size_t bytes, size_t alignment)
{
    void *memory[3];

    for (size_t n = 0; n < COUNT(memory); n++) {
        const size_t largest = largest_free();

        memory[n] = tier_alloc_aligned(&heap, bytes, alignment);
        cr_assert(memory[n] != NULL || largest < alignment,
                  "%lu bytes at a multiple of %lu", (unsigned long)bytes,
                  (unsigned long)alignment);
        if (memory[n] != NULL) {
            cr_assert_eq((uintptr_t)memory[n] % alignment, 0U);
            cr_assert_eq((uintptr_t)memory[n] % TIERALLOC_MIN_ALIGN, 0U);
            cr_assert(tier_usable_size(&heap, memory[n]) >= bytes);
        }
    }
    for (size_t n = 0; n < COUNT(memory); n++) {
        cr_assert_eq(tier_free(&heap, memory[n]), TIER_OK);
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
    cr_assert_eq(tier_free(&heap, odd), TIER_OK);
    expect_all_back(&first);
}

Test(tieralloc, refuses_what_is_no_alignment)
{
    set_up(ARENA_PAGES);
    const uint64_t before = snapshot();

    cr_assert_null(tier_alloc_aligned(&heap, 8, 0));
    cr_assert_null(tier_alloc_aligned(&heap, 8, 3));
    cr_assert_null(tier_alloc_aligned(&heap, 8, 24));
    cr_assert_null(tier_alloc_aligned(&heap, 8, SIZE_MAX));
    cr_assert_null(tier_alloc_aligned(&heap, 8, SIZE_MAX / 2 + 1));
    cr_assert_null(tier_alloc_aligned(&heap, 8, TIER_BLOCK_MAX * 2));
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
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(stats_of(&heap).failed_allocs, 7U);
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
         bytes += 13) {
        unsigned char *const zeros = tier_calloc(&heap, bytes, 1);

        cr_assert(test_all(zeros, 0, bytes));
        memset(zeros, 0xEE, tier_usable_size(&heap, zeros));
        cr_assert_eq(tier_free(&heap, zeros), TIER_OK);
        unsigned char *const dirty = tier_alloc(&heap, bytes);

        cr_assert(test_all(dirty, 0xEE, bytes));
        cr_assert_eq(tier_free(&heap, dirty), TIER_OK);
    }
}

Test(tieralloc, refuses_flags_that_do_not_exist)
{
    set_up(32);
    const uint64_t before = snapshot();

    for (unsigned bit = 2; bit < 32; bit++) {
        void *memory = arena;

        cr_assert_eq(tier_try_alloc(&heap, 8, 1U << bit | TIER_ZERO, &memory),
                     TIER_ERR_INVALID);
        cr_assert_null(memory);
    }
    cr_assert_eq(snapshot(), before);
}

/* --- Bad frees ------------------------------------------------------------ */

#if TIERALLOC_CHECKS

/* Each call that frees must refuse, count one refusal and change nothing. */
static void expect_refused(void *memory, size_t bytes, enum tier_status status)
{
    struct tier_tx_record record;
    struct tier_tx tx;
    const size_t before = stats_of(&heap).refused_frees;

    tier_tx_begin(&tx, &record, 1);
    cr_assert_eq(tier_free(&heap, memory), status);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 1);
    cr_assert_eq(tier_free_sized(&heap, memory, bytes), status);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 2);
    cr_assert_eq(tier_tx_free(&tx, &heap, memory), status);
    cr_assert_eq(stats_of(&heap).refused_frees, before + 3);
    cr_assert(tier_tx_has_room(&tx, 1));
    cr_assert_eq(tier_usable_size(&heap, memory), 0U);
    cr_assert_null(tier_realloc(&heap, memory, bytes));
    cr_assert_null(tier_realloc(&heap, memory, 1));
}

Test(tieralloc, refuses_every_bad_free_of_an_object)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);

        set_up(64);
        unsigned char *const object = tier_alloc(&heap, bytes);
        const size_t usable = granted(bytes);
        unsigned char *const freed = tier_alloc(&heap, bytes);

        cr_assert_eq(tier_free(&heap, freed), TIER_OK);
        const uint64_t before = snapshot();

        for (size_t at = 1; at < usable; at++) {
            expect_refused(object + at, bytes, TIER_ERR_INTERIOR);
        }
        if (freed == object + usable) {
            expect_refused(freed, bytes, TIER_ERR_DOUBLE_FREE);
        }
        cr_assert_eq(tier_free_sized(&heap, object, usable + 1),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(tier_free_sized(&heap, object, SIZE_MAX),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(snapshot(), before);
        cr_assert(tier_check(&heap));
        cr_assert_eq(tier_free_sized(&heap, object, bytes), TIER_OK);
    }
}

Test(tieralloc, refuses_every_bad_free_of_a_block)
{
    set_up(64);
    unsigned char *const freed = tier_alloc_pages(&heap, 1);
    unsigned char *const block = tier_alloc_pages(&heap, 2);
    const size_t bytes = TIER_PAGE_SIZE * 4;

    cr_assert_eq(tier_free(&heap, freed), TIER_OK);
    const uint64_t before = snapshot();

    for (size_t at = 1; at < bytes; at++) {
        if (at < 100 || at % TIER_PAGE_SIZE < 2 || at > bytes - 100) {
            expect_refused(block + at, bytes, TIER_ERR_INTERIOR);
        }
    }
    for (size_t at = 0; at < TIER_PAGE_SIZE * 2; at += 64) {
        expect_refused(freed + at, TIER_PAGE_SIZE * 2, TIER_ERR_DOUBLE_FREE);
    }
    cr_assert_eq(tier_free_sized(&heap, block, bytes + 1), TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_free_sized(&heap, block, bytes / 2), TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_free_sized(&heap, block, 0), TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_free_sized(&heap, block, SIZE_MAX), TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_free_sized(&heap, block, TIER_BLOCK_MAX + 1),
                 TIER_ERR_WRONG_SIZE);
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(tier_free_sized(&heap, block, bytes), TIER_OK);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, refuses_every_address_that_is_not_its_own)
{
    static unsigned char outside[64];

    set_up(32);
    unsigned char *const object = tier_alloc(&heap, 64);

    cr_assert_not_null(object);
    const uint64_t before = snapshot();
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
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(tier_free(&heap, object), TIER_OK);
    cr_assert(tier_check(&heap));
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
    cr_assert_eq(tier_usable_size(&heap, NULL), 0U);
    cr_assert_eq(stats_of(&heap).refused_frees, 0U);
}

/* --- Resizing ------------------------------------------------------------- */

/* Resize the first slot of the model; the contents must be kept. */
static void resize(size_t bytes)
{
    const struct model_slot slot = model.slot[0];
    unsigned char *const moved = tier_realloc(&heap, slot.at, bytes);

    cr_assert_not_null(moved, "%lu to %lu bytes", (unsigned long)slot.bytes,
                       (unsigned long)bytes);
    cr_assert(
        model_holds(&slot, moved, bytes < slot.bytes ? bytes : slot.bytes));
    cr_assert_eq(tier_usable_size(&heap, moved), granted(bytes));
    cr_assert_eq(moved == slot.at, granted(bytes) == slot.bytes);
    model_forget(&model, 0);
    model_add(&model, moved, bytes, granted(bytes), 0);
    cr_assert_eq(stats_of(&heap).live_bytes, granted(bytes));
}

Test(tieralloc, resizing_keeps_the_contents)
{
    uint64_t random = TEST_SEED;

    set_up(RUN_PAGES);
    const struct tier_stats first = stats_of(&heap);

    model_add(&model, tier_alloc(&heap, 1), 1, granted(1), 0);
    for (unsigned step = 0; step < 500; step++) {
        const size_t most = test_below(&random, 4) == 0 && RUN_PAGES > 500
                                ? TIER_PAGE_SIZE * 64
                                : TIERALLOC_OBJECT_MAX;

        resize(most < TIER_BLOCK_MAX
                   ? test_below(&random, (uint32_t)most + 1)
                   : test_below(&random, TIERALLOC_OBJECT_MAX + 1));
    }
    for (size_t bytes = 0;
         bytes <= TIERALLOC_OBJECT_MAX + 1 && bytes <= TIER_BLOCK_MAX;
         bytes++) {
        resize(bytes);
    }
    resize(0);
    cr_assert_eq(stats_of(&heap).live_objects, 1U);
    cr_assert_eq(tier_free(&heap, model.slot[0].at), TIER_OK);
    expect_all_back(&first);
}

Test(tieralloc, growing_that_fails_leaves_all_as_it_was)
{
    set_up(32);
    unsigned char *const object = tier_alloc(&heap, 40);
    unsigned char *const block = tier_alloc_pages(&heap, 1);

    model_add(&model, object, 40, granted(40), 0);
    model_add(&model, block, 1, TIER_PAGE_SIZE * 2, 0);
    exhaust();
    const struct tier_stats before = stats_of(&heap);

    cr_assert_null(tier_realloc(&heap, object, TIERALLOC_OBJECT_MAX));
    cr_assert_null(tier_realloc(&heap, object, TIER_PAGE_SIZE * 4));
    cr_assert_null(tier_realloc(&heap, object, SIZE_MAX));
    cr_assert_null(tier_realloc(&heap, block, TIER_BLOCK_MAX));
    cr_assert_null(tier_realloc(&heap, block, TIER_BLOCK_MAX + 1));
    cr_assert_null(tier_realloc(&heap, block, SIZE_MAX));
    const struct tier_stats after = stats_of(&heap);

    expect_same_live(&before, &after);
    model_verify(&model);
    cr_assert_eq(tier_usable_size(&heap, object), granted(40));
    cr_assert_eq(tier_usable_size(&heap, block), TIER_PAGE_SIZE * 2);
}

Test(tieralloc, shrinking_never_fails)
{
    const size_t large = TIER_BLOCK_MAX < TIER_PAGE_SIZE * 8
                             ? TIER_BLOCK_MAX
                             : TIER_PAGE_SIZE * 8;

    for (size_t from = 8; from <= large; from = from * 2) {
        set_up(64);
        unsigned char *memory = tier_alloc(&heap, from);

        model_add(&model, memory, from, tier_usable_size(&heap, memory), 0);
        exhaust();
        for (size_t bytes = from; bytes <= from; bytes -= from / 8) {
            memory = tier_realloc(&heap, model.slot[0].at, bytes);
            cr_assert_not_null(memory, "%lu to %lu bytes", (unsigned long)from,
                               (unsigned long)bytes);
            cr_assert(model_holds(&model.slot[0], memory, bytes));
            cr_assert(tier_usable_size(&heap, memory) >= bytes);
            model.slot[0].at = memory;
        }
        cr_assert(tier_check(&heap));
        cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    }
}

/* --- Out of memory -------------------------------------------------------- */

/* A size that needs a new slab of one page, and a descriptor like 64 bytes. */
#define OTHER_BYTES ((size_t)(TIERALLOC_PAGE_SHIFT == 13 ? 96 : 128))

/* Fill the memory with 64-byte objects, then free those of one slab. */
static void keep_one_empty_slab(void)
{
    static void *object[RUN_BYTES / 64];
    size_t count = 0;

    set_up(16);
    while (count < COUNT(object) &&
           (object[count] = tier_alloc(&heap, 64)) != NULL) {
        count++;
    }
    while (tier_alloc_pages(&heap, 0) != NULL) {
    }
    cr_assert_eq(stats_of(&heap).free_pages, 0U);
    for (size_t i = 0; i < heap.slab.classes[7].slab_objects; i++) {
        cr_assert_eq(tier_free(&heap, object[i]), TIER_OK);
    }
    cr_assert_not_null(heap.slab.classes[7].empty);
    cr_assert_eq(stats_of(&heap).free_pages, 0U);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, reclaims_empty_slabs_before_it_fails)
{
    for (unsigned way = 0; way < 6; way++) {
        struct tier_tx_record record;
        struct tier_tx tx;
        void *memory = NULL;

        keep_one_empty_slab();
        tier_tx_begin(&tx, &record, 1);
        switch (way) {
        case 0:
            memory = tier_alloc(&heap, OTHER_BYTES);
            break;
        case 1:
            memory = tier_alloc_pages(&heap, 0);
            break;
        case 2:
            (void)tier_try_alloc(&heap, OTHER_BYTES, TIER_ZERO, &memory);
            break;
        case 3:
            memory = tier_calloc(&heap, OTHER_BYTES / 8, 8);
            break;
        case 4:
            memory = tier_realloc(&heap, NULL, OTHER_BYTES);
            break;
        default:
            (void)tier_tx_alloc(&tx, &heap, OTHER_BYTES, &memory);
        }
        cr_assert_not_null(memory, "way %u", way);
        cr_assert_eq(stats_of(&heap).failed_allocs, 1 + 1U);
        cr_assert_null(heap.slab.classes[7].empty);
        cr_assert(tier_check(&heap));
    }
}

Test(tieralloc, reclaims_nothing_when_told_not_to_retry)
{
    void *memory = arena;

    keep_one_empty_slab();
    const struct tier_stats before = stats_of(&heap);

    cr_assert_eq(tier_try_alloc(&heap, OTHER_BYTES, TIER_NO_RETRY, &memory),
                 TIER_ERR_NO_MEMORY);
    cr_assert_null(memory);
    cr_assert_eq(
        tier_try_alloc(&heap, OTHER_BYTES, TIER_NO_RETRY | TIER_ZERO, &memory),
        TIER_ERR_NO_MEMORY);
    const struct tier_stats after = stats_of(&heap);

    expect_same_live(&before, &after);
    cr_assert_eq(after.failed_allocs, before.failed_allocs + 2);
    cr_assert_not_null(heap.slab.classes[7].empty);
    cr_assert_eq(tier_try_alloc(&heap, 64, TIER_NO_RETRY, &memory), TIER_OK);
    cr_assert_not_null(memory);
}

Test(tieralloc, recovers_when_memory_is_freed)
{
    static void *object[RUN_BYTES / 64];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i += 5) {
        const size_t bytes = tier_slab_class_bytes(i);
        size_t counts[2];

        set_up(64);
        const struct tier_stats first = stats_of(&heap);

        for (unsigned round = 0; round < 2; round++) {
            size_t count = 0;

            while (count < COUNT(object) &&
                   (object[count] = tier_alloc(&heap, bytes)) != NULL) {
                count++;
            }
            cr_assert(tier_check(&heap));
            counts[round] = count;
            while (count > 0) {
                cr_assert_eq(tier_free(&heap, object[--count]), TIER_OK);
            }
            (void)tier_trim(&heap);
        }
        cr_assert_eq(counts[0], counts[1]);
        expect_all_back(&first);
    }
}

/* Allocate until it fails; no more than a part of 64 pages may be lost. */
static void expect_filled(size_t bytes)
{
    const size_t all = TIER_PAGE_SIZE * 64;
    const bool usual =
        TIERALLOC_PAGE_SHIFT == 12 && TIERALLOC_OBJECT_MAX <= 4096;
    const size_t most = all / (usual ? 6 : 2) + (usual ? 0 : all / 16);

    set_up(64);
    while (tier_alloc(&heap, bytes) != NULL) {
    }
    cr_assert(all - stats_of(&heap).live_bytes <= most,
              "%lu of %lu bytes in allocations of %lu",
              (unsigned long)stats_of(&heap).live_bytes, (unsigned long)all,
              (unsigned long)bytes);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, fills_memory_with_any_size)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        expect_filled(tier_slab_class_bytes(i));
    }
    for (size_t bytes = TIER_PAGE_SIZE;
         bytes <= TIER_PAGE_SIZE * 8 && bytes <= TIER_BLOCK_MAX; bytes *= 2) {
        expect_filled(bytes);
    }
}

/* --- A random run --------------------------------------------------------- */

/* The note that the model keeps with an allocation. */
#define TAG_BLOCK 1U /* a block of pages, not an object */
#define TAG_SIZED 2U /* free_sized may be told the size asked for */

/* Three regions with gaps between them, and two that do not begin a page. */
static void set_up_regions(void)
{
    set_up_span(RUN_BYTES, RUN_PAGES / 8);
    cr_assert_eq(tier_add_region(&heap, page(RUN_PAGES / 4 + 1),
                                 RUN_BYTES / 16 + TIER_PAGE_SIZE * 5),
                 TIER_OK);
    cr_assert_eq(
        tier_add_region(&heap, page(RUN_PAGES / 2) + 11, RUN_BYTES / 8),
        TIER_OK);
}

static size_t random_size(uint64_t *random)
{
    switch (test_below(random, 10)) {
    case 0:
        return TIER_PAGE_SIZE * 16 <= TIER_BLOCK_MAX && RUN_PAGES >= 256
                   ? test_below(random, (uint32_t)TIER_PAGE_SIZE * 16 + 1)
                   : TIER_PAGE_SIZE;
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

    if ((tag & TAG_SIZED) != 0) {
        cr_assert_eq(usable, granted(asked));
    }
    if (usable > TIERALLOC_OBJECT_MAX) {
        tag |= TAG_BLOCK;
    }
    model_add(&model, memory, asked, usable, tag);
}

static void random_alloc(uint64_t *random)
{
    const size_t bytes = random_size(random);
    const unsigned shift = test_below(random, TIERALLOC_PAGE_SHIFT + 2);
    const unsigned flags = test_below(random, 4);
    void *memory;

    switch (test_below(random, 6)) {
    case 0:
        memory = tier_calloc(&heap, bytes, 1);
        cr_assert(memory == NULL || test_all(memory, 0, bytes));
        note(memory, bytes, TAG_SIZED);
        break;
    case 1:
        memory = tier_alloc_aligned(&heap, bytes, (size_t)1 << shift);
        cr_assert_eq((uintptr_t)memory % ((size_t)1 << shift), 0U);
        note(memory, bytes, shift > TIERALLOC_PAGE_SHIFT ? TAG_BLOCK : 0);
        break;
    case 2:
        memory = tier_alloc_pages(&heap, shift % 4);
        note(memory, TIER_PAGE_SIZE << shift % 4, TAG_BLOCK);
        break;
    case 3:
        cr_assert_eq(tier_try_alloc(&heap, bytes, flags, &memory) == TIER_OK,
                     memory != NULL);
        cr_assert(memory == NULL || (flags & TIER_ZERO) == 0 ||
                  test_all(memory, 0, bytes));
        note(memory, bytes, TAG_SIZED);
        break;
    default:
        note(tier_alloc(&heap, bytes), bytes, TAG_SIZED);
    }
}

static void random_free(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot slot = model.slot[index];
    enum tier_status status;

    cr_assert_eq(tier_usable_size(&heap, slot.at), slot.bytes);
    model_drop(&model, index);
    if ((slot.tag & TAG_SIZED) != 0 && test_below(random, 2) == 0) {
        status = tier_free_sized(&heap, slot.at, slot.asked);
    } else {
        status = tier_free(&heap, slot.at);
    }
    cr_assert_eq(status, TIER_OK);
}

static void random_resize(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot slot = model.slot[index];
    const size_t bytes = random_size(random);

    cr_assert(model_holds(&slot, slot.at, slot.bytes));
    unsigned char *const moved = tier_realloc(&heap, slot.at, bytes);

    if (moved == NULL) {
        cr_assert(bytes > slot.bytes);
        return;
    }
    cr_assert(
        model_holds(&slot, moved, bytes < slot.bytes ? bytes : slot.bytes));
    model_forget(&model, index);
    note(moved, bytes, slot.tag & (moved == slot.at ? TAG_BLOCK : 0));
}

#if TIERALLOC_CHECKS
static void random_bad_free(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot *const slot = &model.slot[index];
    const uint32_t offset = 1 + test_below(random, (uint32_t)slot->bytes - 1);

    cr_assert_eq(tier_free(&heap, slot->at + offset), TIER_ERR_INTERIOR);
    cr_assert_eq(tier_free_sized(&heap, slot->at, slot->bytes + 1),
                 TIER_ERR_WRONG_SIZE);
}
#else
static void random_bad_free(uint64_t *random)
{
    (void)random;
}
#endif

/* The counters must say what the model says. */
static void expect_stats_of_model(void)
{
    const struct tier_stats stats = stats_of(&heap);
    size_t blocks = 0;
    size_t block_pages = 0;

    for (size_t i = 0; i < model.count; i++) {
        if ((model.slot[i].tag & TAG_BLOCK) != 0) {
            blocks++;
            block_pages += model.slot[i].bytes / TIER_PAGE_SIZE;
        }
    }
    cr_assert_eq(stats.live_objects, model.count - blocks);
    cr_assert_eq(stats.live_blocks, blocks);
    cr_assert_eq(stats.live_bytes, model.bytes);
    cr_assert_eq(stats.managed_pages,
                 stats.free_pages + stats.slab_pages + block_pages);
}

/* Waves of growing and shrinking, so that memory runs out and comes back. */
static void random_step(uint64_t *random, unsigned step)
{
    const bool growing = step / 512 % 2 == 0;
    const unsigned what = test_below(random, 16);

    if (model.count == 0 || what < (growing ? 9U : 4U)) {
        if (model.count < MODEL_SLOTS) {
            random_alloc(random);
        }
    } else if (what < 13) {
        random_free(random);
    } else if (what < 15) {
        random_resize(random);
    } else {
        random_bad_free(random);
    }
}

Test(tieralloc, random_run_agrees_with_the_model)
{
    uint64_t random = TEST_SEED;

    set_up_regions();
    const struct tier_stats first = stats_of(&heap);

    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        random_step(&random, step);
        cr_assert_eq(stats_of(&heap).live_bytes, model.bytes);
        if (step % 16 == 0) {
            cr_assert(tier_check(&heap), "step %u", step);
            expect_stats_of_model();
        }
        if (step % 512 == 511) {
            model_verify(&model);
            (void)tier_trim(&heap);
        }
    }
    while (model.count > 0) {
        random_free(&random);
    }
    expect_all_back(&first);
}

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
    void *memory[4];  /* allocated by it */
    unsigned counter; /* raised by it */
} work;

#define SCRIPT_STEPS 7

/* One of each kind of step; stops at the first that is refused. */
static enum tier_status run_script(struct tier_tx *of)
{
    const size_t sizes[] = {64, TIER_PAGE_SIZE * 2 + 1, TIERALLOC_OBJECT_MAX,
                            8};
    enum tier_status status = raise(of, &work.counter);

    for (size_t i = 0; status == TIER_OK && i < COUNT(sizes); i++) {
        status = tier_tx_alloc(of, &heap, sizes[i], &work.memory[i]);
        cr_assert_eq(status == TIER_OK, work.memory[i] != NULL);
        if (status == TIER_OK) {
            memset(work.memory[i], 0x11, sizes[i]);
        }
        if (status == TIER_OK && i == 0) {
            status = tier_tx_free(of, &heap, work.object);
        }
        if (status == TIER_OK && i == 1) {
            status = tier_tx_free(of, &heap, work.block);
        }
    }
    return status;
}

/* An object and a block to free, in `pages` pages. */
static void set_up_work(size_t pages)
{
    set_up(pages);
    work.object = tier_alloc(&heap, 64);
    work.block = tier_alloc_pages(&heap, 0);
    work.counter = 0;
    cr_assert(work.object != NULL && work.block != NULL);
}

/* After a rollback all must be as before, with what was to be freed in use. */
static void expect_rolled_back(const struct tier_stats *before)
{
    tier_tx_rollback(&tx);
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
    enum tier_status status = TIER_ERR_NO_MEMORY;
    size_t left = 0;

    while (status != TIER_OK) {
        cr_assert(left < ARENA_PAGES / 2);
        set_up_work(ARENA_PAGES);
        while (stats_of(&heap).free_pages > left) {
            cr_assert_not_null(tier_alloc_pages(&heap, 0));
        }
        const struct tier_stats before = stats_of(&heap);

        tier_tx_begin(&tx, log_records, LOG_RECORDS);
        status = run_script(&tx);
        cr_assert(status == TIER_OK || status == TIER_ERR_NO_MEMORY);
        expect_rolled_back(&before);
        left++;
    }
    cr_assert(left > 4);
}

Test(tieralloc, commits_all_of_its_steps)
{
    set_up_work(ARENA_PAGES);
    const struct tier_stats before = stats_of(&heap);
    const size_t bytes =
        granted(TIER_PAGE_SIZE * 2 + 1) + granted(TIERALLOC_OBJECT_MAX);

    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    cr_assert_eq(run_script(&tx), TIER_OK);
    cr_assert_eq(tier_usable_size(&heap, work.object), granted(64));
    tier_tx_commit(&tx);
    const struct tier_stats after = stats_of(&heap);

    cr_assert_eq(work.counter, 1U);
    cr_assert_eq(after.live_bytes,
                 before.live_bytes + bytes + granted(8) - TIER_PAGE_SIZE);
    cr_assert_eq(after.live_objects + after.live_blocks,
                 before.live_objects + before.live_blocks + 2);
    cr_assert_eq(after.refused_frees, 0U);
#if TIERALLOC_CHECKS
    cr_assert_eq(tier_free(&heap, work.object), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_free(&heap, work.block), TIER_ERR_DOUBLE_FREE);
#endif
    for (size_t i = 0; i < COUNT(work.memory); i++) {
        cr_assert_eq(tier_free(&heap, work.memory[i]), TIER_OK);
    }
    cr_assert(tier_check(&heap));
}

/* What a full memory makes the allocator give up is free after a rollback. */
Test(tieralloc, rollback_returns_slabs_that_it_reclaimed_pages_for)
{
    void *memory;

    keep_one_empty_slab();
    (void)tier_trim(&heap);
    const struct tier_stats trimmed = stats_of(&heap);

    keep_one_empty_slab();
    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    cr_assert_eq(tier_tx_alloc(&tx, &heap, OTHER_BYTES, &memory), TIER_OK);
    tier_tx_rollback(&tx);
    const struct tier_stats after = stats_of(&heap);

    cr_assert(tier_check(&heap));
    expect_same_live(&trimmed, &after);
}

Test(tieralloc, rollback_keeps_the_slabs_that_were_kept_before)
{
    void *memory;

    set_up(64);
    cr_assert_eq(tier_free(&heap, tier_alloc(&heap, 64)), TIER_OK);
    const struct tier_stats before = stats_of(&heap);

    cr_assert(before.slab_pages > 0);
    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    for (unsigned i = 0; i < LOG_RECORDS; i++) {
        cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &memory), TIER_OK);
    }
    tier_tx_rollback(&tx);
    const struct tier_stats after = stats_of(&heap);

    expect_same_live(&before, &after);
    cr_assert(tier_check(&heap));
}

Test(tieralloc, rollback_keeps_slabs_that_others_use_or_emptied)
{
    static void *object[RUN_BYTES / 64];
    const struct tier_cache_base *const cache = &heap.slab.classes[7];
    void *memory;

    set_up(64);
    do {
        object[model.count++] = tier_alloc(&heap, 64);
    } while (cache->current != NULL);
    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &memory), TIER_OK);
    cr_assert_not_null(tier_alloc(&heap, 64)); /* in the slab of the other */
    while (model.count > 0) {
        cr_assert_eq(tier_free(&heap, object[--model.count]), TIER_OK);
    }
    const size_t pages = stats_of(&heap).slab_pages;

    cr_assert_not_null(cache->empty);
    tier_tx_rollback(&tx);
    cr_assert_eq(stats_of(&heap).slab_pages, pages);
    cr_assert_eq(stats_of(&heap).live_objects, 1U);
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
    cr_assert(tier_tx_has_room(&tx, 1));
    exhaust();
    memory = arena;
    cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &memory), TIER_ERR_NO_MEMORY);
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
    cr_assert_eq(tier_free(&heap, other), TIER_OK);
    expect_rolled_back(&before);
    cr_assert_eq(tier_tx_free(&tx, &heap, work.object), TIER_OK);
    tier_tx_commit(&tx);
    cr_assert_eq(stats_of(&heap).live_objects, 0U);
    cr_assert_eq(stats_of(&heap).refused_frees, 2U);
}

Test(tieralloc, frees_what_the_same_transaction_allocated)
{
    void *memory;

    set_up(64);
    const struct tier_stats before = stats_of(&heap);

    for (unsigned commit = 0; commit < 2; commit++) {
        tier_tx_begin(&tx, log_records, LOG_RECORDS);
        cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &memory), TIER_OK);
        cr_assert_eq(tier_tx_free(&tx, &heap, memory), TIER_OK);
        cr_assert_eq(tier_usable_size(&heap, memory), granted(64));
        if (commit != 0) {
            tier_tx_commit(&tx);
            (void)tier_trim(&heap);
        } else {
            tier_tx_rollback(&tx);
        }
        const struct tier_stats after = stats_of(&heap);

        expect_same_live(&before, &after);
        cr_assert_eq(after.refused_frees, 0U);
    }
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
        cr_assert(memory[0] < memory[1]);
        if (commit != 0) {
            tier_tx_commit(&tx);
            cr_assert_eq(counter, 1U);
            cr_assert_eq(tier_free(&heap, memory[0]), TIER_OK);
            cr_assert_eq(tier_free(&other, memory[1]), TIER_OK);
            (void)tier_trim(&heap);
            (void)tier_trim(&other);
        } else {
            tier_tx_rollback(&tx);
            cr_assert_eq(counter, 0U);
        }
        const struct tier_stats after[] = {stats_of(&heap), stats_of(&other)};

        expect_same_live(&before[0], &after[0]);
        expect_same_live(&before[1], &after[1]);
        cr_assert(tier_check(&heap) && tier_check(&other));
    }
}

Test(tieralloc, rolls_back_to_a_savepoint)
{
    void *kept;
    void *memory;

    set_up_work(ARENA_PAGES);
    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &kept), TIER_OK);
    const struct tier_tx_savepoint savepoint = tier_tx_save(&tx);
    const struct tier_stats before = stats_of(&heap);

    cr_assert_eq(tier_tx_alloc(&tx, &heap, 1000, &memory), TIER_OK);
    cr_assert_eq(tier_tx_free(&tx, &heap, kept), TIER_OK);
    cr_assert_eq(tier_tx_free(&tx, &heap, work.object), TIER_OK);
    cr_assert_eq(tier_tx_rollback_to(&tx, savepoint), TIER_OK);
    const struct tier_stats after = stats_of(&heap);

    expect_same_live(&before, &after);
    tier_tx_commit(&tx);
    cr_assert_eq(tier_usable_size(&heap, kept), granted(64));
    cr_assert_eq(tier_usable_size(&heap, work.object), granted(64));
    cr_assert_eq(tier_usable_size(&heap, work.block), TIER_PAGE_SIZE);
}

/* Allocations that a random transaction makes, to be kept at commit. */
static struct {
    void *made[LOG_RECORDS];
    size_t sizes[LOG_RECORDS];
    size_t count;
    size_t freed[LOG_RECORDS]; /* slots of the model */
    size_t frees;
} plan;

/* True when the plan frees this slot already. */
static bool is_freed(size_t slot)
{
    for (size_t i = 0; i < plan.frees; i++) {
        if (plan.freed[i] == slot) {
            return true;
        }
    }
    return false;
}

static void random_tx_step(uint64_t *random)
{
    const bool full = plan.count + plan.frees == tx.capacity;

    if (test_below(random, 3) != 0 || model.count == 0) {
        const size_t bytes = random_size(random);
        void *memory = NULL;
        const enum tier_status status =
            tier_tx_alloc(&tx, &heap, bytes, &memory);

        cr_assert_eq(status == TIER_ERR_LOG_FULL, full);
        if (status == TIER_OK) {
            memset(memory, 0x11, granted(bytes));
            plan.made[plan.count] = memory;
            plan.sizes[plan.count++] = bytes;
        }
        return;
    }
    const size_t slot = test_below(random, (uint32_t)model.count);
    const enum tier_status status =
        tier_tx_free(&tx, &heap, model.slot[slot].at);

    if (is_freed(slot)) {
        cr_assert_eq(status, TIER_ERR_DOUBLE_FREE);
    } else {
        cr_assert_eq(status, full ? TIER_ERR_LOG_FULL : TIER_OK);
        if (status == TIER_OK) {
            plan.freed[plan.frees++] = slot;
        }
    }
}

/* Make the plan true in the model: frees from the last slot downwards. */
static void commit_plan(void)
{
    tier_tx_commit(&tx);
    for (size_t slot = model.count; slot-- > 0;) {
        if (is_freed(slot)) {
            model_drop(&model, slot);
        }
    }
    for (size_t i = 0; i < plan.count; i++) {
        note(plan.made[i], plan.sizes[i], TAG_SIZED);
    }
}

Test(tieralloc, random_transactions_agree_with_the_model)
{
    uint64_t random = TEST_SEED;

    set_up_regions();
    const struct tier_stats first = stats_of(&heap);

    for (unsigned round = 0; round < TIERALLOC_TEST_STEPS / 10; round++) {
        while (model.count > (round % 256 < 200 ? (size_t)2000 : 10)) {
            random_free(&random);
        }
        (void)tier_trim(&heap);
        const struct tier_stats before = stats_of(&heap);

        plan.count = 0;
        plan.frees = 0;
        tier_tx_begin(&tx, log_records, test_below(&random, LOG_RECORDS + 1));
        for (unsigned steps = test_below(&random, 20); steps > 0; steps--) {
            random_tx_step(&random);
        }
        if (test_below(&random, 3) != 0) {
            commit_plan();
        } else {
            tier_tx_rollback(&tx);
            const struct tier_stats after = stats_of(&heap);

            expect_same_live(&before, &after);
        }
        cr_assert(tier_check(&heap), "round %u", round);
        expect_stats_of_model();
    }
    model_verify(&model);
    while (model.count > 0) {
        random_free(&random);
    }
    expect_all_back(&first);
}

/* --- Inspection ----------------------------------------------------------- */

/* Where a dump goes. */
static struct {
    char text[4096];
    size_t length;
} dump;

static void put(void *context, char character)
{
    cr_assert_eq(context, (void *)&dump);
    cr_assert(dump.length < sizeof(dump.text) - 1);
    dump.text[dump.length++] = character;
    dump.text[dump.length] = '\0';
}

Test(tieralloc, dumps_its_state_as_text)
{
    static struct tier_cache cache;

    set_up(64);
    cr_assert_eq(tier_cache_init(&cache, &heap.slab, "inode", 200, 8, 0, NULL),
                 TIER_OK);
    cr_assert_not_null(tier_cache_alloc(&cache));
    cr_assert_not_null(tier_alloc(&heap, 64));
    cr_assert_not_null(tier_alloc_pages(&heap, 2));
    dump.length = 0;
    tier_dump(&heap, put, &dump);
    cr_assert_not_null(strstr(dump.text, "pages: managed 64, free "));
    cr_assert_not_null(strstr(dump.text, ", in blocks 4, in slabs "));
    cr_assert_not_null(strstr(dump.text, "\n      64         1  "));
    cr_assert_not_null(strstr(dump.text, "  inode\n"));
    cr_assert_eq(dump.text[dump.length - 1], '\n');
}

Test(tieralloc, dumps_before_there_is_a_region)
{
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    dump.length = 0;
    tier_dump(&heap, put, &dump);
    cr_assert_not_null(strstr(dump.text, "pages: managed 0, free 0"));
}

/* An allocator's own caches are freed by address like everything else. */
Test(tieralloc, frees_objects_of_named_caches)
{
    static struct tier_cache cache;

    set_up(64);
    const struct tier_stats first = stats_of(&heap);

    cr_assert_eq(tier_cache_init(&cache, &heap.slab, "inode", 200, 8, 0, NULL),
                 TIER_OK);
    void *const object = tier_cache_alloc(&cache);

    cr_assert_eq(tier_usable_size(&heap, object),
                 TIERALLOC_MIN_ALIGN == 8 ? 200U : 208U);
    cr_assert_eq(stats_of(&heap).live_objects, 1U);
    cr_assert(tier_check(&heap));
    cr_assert_eq(tier_free(&heap, object), TIER_OK);
    cr_assert_eq(tier_cache_destroy(&cache), TIER_OK);
    expect_all_back(&first);
}

Test(tieralloc, shrinking_an_object_of_a_named_cache_never_fails)
{
    static struct tier_cache cache;

    set_up(64);
    cr_assert_eq(tier_cache_init(&cache, &heap.slab, "inode", 200, 8, 0, NULL),
                 TIER_OK);
    void *const object = tier_cache_alloc(&cache);

    exhaust();
    cr_assert_eq(tier_realloc(&heap, object, 200), object);
    cr_assert_eq(tier_realloc(&heap, object, 1), object);
    cr_assert_null(tier_realloc(&heap, object, TIERALLOC_OBJECT_MAX));
    cr_assert_eq(tier_free(&heap, object), TIER_OK);
}

Test(tieralloc, check_sees_a_block_that_is_not_counted)
{
    set_up(64);
    cr_assert_not_null(tier_alloc_pages(&heap, 2));
    cr_assert(tier_check(&heap));
    heap.live_pages--;
    cr_assert(!tier_check(&heap));
    heap.live_pages++;
    cr_assert(tier_check(&heap));
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
    cr_assert_eq(tier_free(&heap, tier_alloc(&heap, 64)), TIER_OK);
    const struct tier_stats kept = stats_of(&heap);

    cr_assert(kept.slab_pages != 0);
    cr_assert_null(tier_alloc_pages(&heap, TIERALLOC_MAX_ORDER + 1));
    cr_assert_eq(tier_remove_region(&heap, arena, 0), TIER_ERR_INVALID);
    cr_assert_eq(stats_of(&heap).slab_pages, kept.slab_pages);
}

Test(tieralloc, frees_a_page_by_its_own_size_only)
{
    set_up(ARENA_PAGES);
    void *const page = tier_alloc_pages(&heap, 0);

    cr_assert_eq(tier_free_sized(&heap, page, 1), TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_free_sized(&heap, page, TIER_PAGE_SIZE), TIER_OK);
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
    void *const block = tier_alloc(&heap, TIER_PAGE_SIZE * 2);

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
