/*
 * tests/test_pagecache.c - page caches of several CPUs over one buddy.
 *
 * SPDX-License-Identifier: MIT
 *
 * The region lies at invented addresses: no page is touched.
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/pagecache.h>

#define PAGES 256
#define CPUS  3
#define FIRST ((uintptr_t)5)

static struct tier_pagemap map;
static struct tier_buddy buddy;
static struct tier_pagecache cpu[CPUS];
static union tier_page_entry metadata[TIER_PAGEMAP_BYTES(PAGES) / 8];
static uint64_t random_state;

static void *address_of(size_t page)
{
    return (void *)((FIRST + page) << TIERALLOC_PAGE_SHIFT);
}

static size_t page_of(const void *block)
{
    return ((uintptr_t)block >> TIERALLOC_PAGE_SHIFT) - FIRST;
}

static void set_up(void)
{
    const size_t bytes = PAGES * TIER_PAGE_SIZE;

    random_state = TEST_SEED;
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)address_of(0), bytes,
                                   metadata, sizeof(metadata)),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, address_of(0), bytes), TIER_OK);
    for (size_t i = 0; i < CPUS; i++) {
        tier_pagecache_init(&cpu[i], &buddy);
    }
}

static bool sound(void)
{
    for (size_t i = 0; i < CPUS; i++) {
        if (!tier_pagecache_check(&cpu[i])) {
            return false;
        }
    }
    return tier_buddy_check(&buddy);
}

static size_t waiting(void)
{
    size_t pages = 0;

    for (size_t i = 0; i < CPUS; i++) {
        pages += cpu[i].count;
    }
    return pages;
}

static void drain_all(void)
{
    for (size_t i = 0; i < CPUS; i++) {
        (void)tier_pagecache_drain(&cpu[i]);
    }
}

Test(pagecache, takes_a_batch_and_no_more_from_the_buddy)
{
    set_up();
    cr_assert_not_null(tier_pagecache_alloc(&cpu[0], 0));
    cr_assert_eq(buddy.free_pages, PAGES - (size_t)TIER_PAGECACHE_BATCH);
    cr_assert_eq(cpu[0].count, TIER_PAGECACHE_BATCH - 1U);
    cr_assert_eq(cpu[0].refills, 1U);
    for (size_t i = 1; i < TIER_PAGECACHE_BATCH; i++) {
        cr_assert_not_null(tier_pagecache_alloc(&cpu[0], 0));
    }
    cr_assert_eq(cpu[0].refills, 1U, "a pop must not call the buddy");
    cr_assert(sound());
}

Test(pagecache, gives_a_batch_when_it_is_full)
{
    void *page[TIER_PAGECACHE_PAGES * 2];

    set_up();
    for (size_t i = 0; i < COUNT(page); i++) {
        page[i] = tier_buddy_alloc(&buddy, 0);
    }
    for (size_t i = 0; i < TIER_PAGECACHE_PAGES; i++) {
        cr_assert_eq(tier_pagecache_free(&cpu[1], page[i]), TIER_OK);
    }
    cr_assert_eq(cpu[1].drains, 0U);
    cr_assert_eq(cpu[1].count, TIER_PAGECACHE_PAGES + 0U);
    cr_assert_eq(tier_pagecache_free(&cpu[1], page[TIER_PAGECACHE_PAGES]),
                 TIER_OK);
    cr_assert_eq(cpu[1].drains, 1U);
    cr_assert_eq(cpu[1].count,
                 TIER_PAGECACHE_PAGES - TIER_PAGECACHE_BATCH + 1U);
    cr_assert(sound());

    /* What was freed last is still here, in its order. */
    for (size_t i = TIER_PAGECACHE_PAGES + 1; i-- > TIER_PAGECACHE_BATCH;) {
        cr_assert_eq(tier_pagecache_alloc(&cpu[1], 0), page[i]);
    }
}

Test(pagecache, hands_out_the_page_freed_last_without_its_owner)
{
    set_up();
    void *const page = tier_pagecache_alloc(&cpu[0], 0);

    cr_assert_eq(tier_buddy_set_owner(&buddy, page, 77), TIER_OK);
    cr_assert_eq(tier_buddy_owner(&buddy, page), 77U);
    cr_assert_eq(tier_pagecache_free(&cpu[0], page), TIER_OK);
    cr_assert_eq(tier_buddy_owner(&buddy, page), 0U);
    cr_assert_eq(tier_pagecache_alloc(&cpu[0], 0), page);
    cr_assert_eq(tier_buddy_owner(&buddy, page), 0U);
}

Test(pagecache, refuses_a_page_that_waits_on_any_cpu)
{
    set_up();
    void *const page = tier_pagecache_alloc(&cpu[0], 0);
    const size_t refused = buddy.refused_frees;

    cr_assert_eq(tier_pagecache_free(&cpu[1], page), TIER_OK);
    cr_assert_eq(tier_pagecache_free(&cpu[1], page), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_pagecache_free(&cpu[2], page), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_buddy_free(&buddy, page), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_buddy_free_bulk(&buddy, 1, &page), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_buddy_resize(&buddy, page, 0), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(tier_buddy_remove(&buddy, page, 1), TIER_ERR_IN_USE);
    cr_assert_eq(tier_buddy_alloc_at(&buddy, page, 0), TIER_ERR_IN_USE);
    cr_assert_eq(buddy.refused_frees, refused + 5);
    cr_assert(sound());
}

Test(pagecache, says_what_is_wrong_with_a_pointer)
{
    set_up();
    unsigned char *const page =
        (unsigned char *)tier_pagecache_alloc(&cpu[0], 0);

    cr_assert_eq(tier_pagecache_free(&cpu[0], NULL), TIER_OK);
    cr_assert_eq(tier_pagecache_free(&cpu[0], page + 8), TIER_ERR_MISALIGNED);
    cr_assert_eq(tier_pagecache_free(&cpu[0], address_of(PAGES)),
                 TIER_ERR_FOREIGN);
#if TIERALLOC_MAX_ORDER > 0
    unsigned char *const pair =
        (unsigned char *)tier_pagecache_alloc(&cpu[0], 1);

    cr_assert_eq(tier_pagecache_free(&cpu[0], pair + TIER_PAGE_SIZE),
                 TIER_ERR_INTERIOR);
    cr_assert_eq(tier_pagecache_free(&cpu[0], pair), TIER_OK);
#endif
    cr_assert(sound());
}

Test(pagecache, passes_larger_blocks_through)
{
    set_up();
    cr_assert_null(tier_pagecache_alloc(&cpu[0], TIERALLOC_MAX_ORDER + 1));
    for (unsigned order = 1; order <= TIERALLOC_MAX_ORDER && order < 6;
         order++) {
        void *const block = tier_pagecache_alloc(&cpu[0], order);

        cr_assert_eq(tier_buddy_order(&buddy, block), (int)order);
        cr_assert_eq(waiting(), 0U);
        cr_assert_eq(tier_pagecache_free(&cpu[0], block), TIER_OK);
    }
    cr_assert_eq(buddy.free_pages, PAGES + 0U);
}

Test(pagecache, hands_out_every_page_before_it_fails)
{
    struct tier_buddy_stats before;
    struct tier_buddy_stats after;
    static bool taken[PAGES];

    set_up();
    memset(taken, 0, sizeof(taken));
    tier_buddy_stats(&buddy, &before);
    for (size_t i = 0; i < PAGES; i++) {
        void *const page = tier_pagecache_alloc(&cpu[0], 0);

        cr_assert_not_null(page);
        cr_assert(!taken[page_of(page)]);
        taken[page_of(page)] = true;
    }
    cr_assert_null(tier_pagecache_alloc(&cpu[0], 0));
    cr_assert(sound());
    for (size_t i = 0; i < PAGES; i++) {
        cr_assert_eq(tier_pagecache_free(&cpu[i % CPUS], address_of(i)),
                     TIER_OK);
    }
    drain_all();
    tier_buddy_stats(&buddy, &after);
    cr_assert_eq(after.free_pages, before.free_pages);
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        cr_assert_eq(after.free_blocks[order], before.free_blocks[order]);
    }
}

/* What a page is in the model: nobody's, or in use. */
static bool used[PAGES];

static void random_step(size_t *live)
{
    struct tier_pagecache *const here = &cpu[test_below(&random_state, CPUS)];
    const size_t page = test_below(&random_state, PAGES);

    if (test_below(&random_state, 64) == 0) {
        (void)tier_pagecache_drain(here);
    } else if (test_below(&random_state, 2) == 0) {
        void *const block = tier_pagecache_alloc(here, 0);

        if (block != NULL) {
            cr_assert(!used[page_of(block)]);
            used[page_of(block)] = true;
            ++*live;
        } else {
            cr_assert(*live + waiting() == PAGES);
        }
    } else {
        const enum tier_status status =
            tier_pagecache_free(here, address_of(page));

        cr_assert_eq(status, used[page] ? TIER_OK : TIER_ERR_DOUBLE_FREE);
        *live -= used[page];
        used[page] = false;
    }
}

Test(pagecache, agrees_with_a_model_of_every_page)
{
    size_t live = 0;

    set_up();
    memset(used, 0, sizeof(used));
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        random_step(&live);
        cr_assert(sound());
        cr_assert_eq(live + waiting() + buddy.free_pages, PAGES + 0U);
    }
}

Test(pagecache, check_sees_a_wrong_stack)
{
    set_up();
    (void)tier_pagecache_alloc(&cpu[0], 0);
    const uint32_t top = cpu[0].page[cpu[0].count - 1];

    cpu[0].page[cpu[0].count - 1] = cpu[0].page[0];
    cr_assert(!tier_pagecache_check(&cpu[0]), "a page twice");
    cpu[0].page[cpu[0].count - 1] = PAGES;
    cr_assert(!tier_pagecache_check(&cpu[0]), "a page outside");
    cpu[0].page[cpu[0].count - 1] = top;
    map.kind[top] = TIER_KIND_BLOCK;
    cr_assert(!tier_pagecache_check(&cpu[0]), "a page in use");
    map.kind[top] = TIER_KIND_CACHED;
    cpu[0].count = TIER_PAGECACHE_PAGES + 1;
    cr_assert(!tier_pagecache_check(&cpu[0]), "too many");
    cpu[0].count = TIER_PAGECACHE_BATCH - 1;
    cr_assert(sound());
}
