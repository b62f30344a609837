/*
 * tests/test_pagemap.c - the map of a span: its sizes, bounds and refusals.
 *
 * SPDX-License-Identifier: MIT
 *
 * No address of a span is ever used, so spans lie where nothing is mapped.
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/pagemap.h>

/* Bytes of metadata for a page. */
#define PAGE_BYTES TIER_PAGEMAP_BYTES(1)

/* Numbers of the page in the middle of the address space, and of the last. */
#define MIDDLE (TOP / 2 + 1)
#define TOP    (UINTPTR_MAX >> TIERALLOC_PAGE_SHIFT)

/* Most pages that a span of these tests needs metadata for. */
#define PAGES_MAX 4096

_Static_assert(TOP / 4 >= PAGES_MAX, "no span of a test wraps around");

/* Bytes beside the metadata that nobody may write. */
#define GUARD 64

static _Alignas(8) uint8_t metadata[GUARD + PAGES_MAX * PAGE_BYTES + GUARD];
static struct tier_pagemap map;

/* Address of a page by its number. */
static uintptr_t address_of(uintptr_t page)
{
    return page << TIERALLOC_PAGE_SHIFT;
}

/* Bytes in so many pages. */
static size_t bytes_of(size_t pages)
{
    return pages << TIERALLOC_PAGE_SHIFT;
}

/* Call tier_pagemap_init on dirty memory within guards. */
static enum tier_status init(uintptr_t base, size_t bytes, size_t size)
{
    memset(&map, 0x5A, sizeof(map));
    memset(metadata, 0xA5, sizeof(metadata));
    return tier_pagemap_init(&map, base, bytes, metadata + GUARD, size);
}

/* True when neither the map nor the metadata was written since init(). */
static bool untouched(void)
{
    return test_all(&map, 0x5A, sizeof(map)) &&
           test_all(metadata, 0xA5, sizeof(metadata));
}

/* --- Sizes ---------------------------------------------------------------- */

Test(pagemap, needs_nine_bytes_a_page_and_two_for_caches)
{
    static const size_t counts[] = {1, 2, 3, 7, 8, 64, 1000, 4096 + 5, 50000};

    for (size_t i = 0; i < COUNT(counts); i++) {
        for (uintptr_t page = MIDDLE - 9; page != MIDDLE + 9; page++) {
            if (counts[i] <= TOP / 4) {
                cr_assert_eq(
                    tier_pagemap_bytes(address_of(page), bytes_of(counts[i])),
                    counts[i] * (TIERALLOC_CPUS > 0 ? 11 : 9));
            }
        }
    }
}

Test(pagemap, takes_exactly_the_bytes_it_asks_for)
{
    for (size_t pages = 1; pages <= 70; pages++) {
        for (uintptr_t page = MIDDLE - 3; page <= MIDDLE + 8; page++) {
            const uintptr_t base = address_of(page);
            const size_t bytes = bytes_of(pages);
            const size_t size = tier_pagemap_bytes(base, bytes);

            cr_assert_eq(init(base, bytes, size - 1), TIER_ERR_METADATA);
            cr_assert(untouched());
            cr_assert_eq(init(base, bytes, 0), TIER_ERR_METADATA);
            cr_assert(untouched());

            cr_assert_eq(init(base, bytes, size), TIER_OK);
            cr_assert(test_all(metadata, 0xA5, GUARD));
            cr_assert(test_all(metadata + GUARD + size, 0xA5,
                               sizeof(metadata) - GUARD - size));
            cr_assert_eq((uint8_t *)map.entry, metadata + GUARD);
            cr_assert_eq(map.kind + map.pages, metadata + GUARD + size);
        }
    }
}

Test(pagemap, accepts_more_memory_than_it_asks_for)
{
    const uintptr_t base = address_of(MIDDLE);
    const size_t size = tier_pagemap_bytes(base, bytes_of(8));

    cr_assert_eq(init(base, bytes_of(8), SIZE_MAX), TIER_OK);
    cr_assert(test_all(metadata + GUARD + size, 0xA5,
                       sizeof(metadata) - GUARD - size));
}

Test(pagemap, clears_dirty_kinds_and_touches_no_entry)
{
    static const size_t counts[] = {1, 5, 8, 9, 1000, PAGES_MAX / 2};

    for (size_t i = 0; i < COUNT(counts); i++) {
        for (uintptr_t page = MIDDLE - 5; page <= MIDDLE; page += 5) {
            cr_assert_eq(init(address_of(page), bytes_of(counts[i]),
                              PAGES_MAX * PAGE_BYTES),
                         TIER_OK);
            cr_assert(test_all(map.kind, TIER_KIND_NONE, map.pages));
            cr_assert(test_all(map.entry, 0xA5,
                               map.pages * sizeof(union tier_page_entry)));
        }
    }
}

/* --- Bounds --------------------------------------------------------------- */

/* True when *map spans the pages [begin, end) and no other one near. */
static bool spans(uintptr_t begin, uintptr_t end)
{
    if (map.first != begin || map.pages != end - begin) {
        return false;
    }
    for (uintptr_t page = begin - 20; page != end + 20; page++) {
        const bool inside = page - begin < end - begin;
        const uintptr_t address = address_of(page);

        if ((address >> TIERALLOC_PAGE_SHIFT) != page) {
            continue; /* past the end of the address space */
        }
        for (size_t byte = 0; byte < TIER_PAGE_SIZE;
             byte += TIER_PAGE_SIZE - 1) {
            const uintptr_t index =
                tier_pagemap_index_(&map, (void *)(address + byte));

            if ((index < map.pages) != inside ||
                (inside &&
                 (uintptr_t)tier_pagemap_address_(&map, index) != address)) {
                return false;
            }
        }
    }
    return true;
}

Test(pagemap, cuts_its_span_inwards_to_whole_pages)
{
    static const size_t bends[] = {0, 1, TIER_PAGE_SIZE / 2,
                                   TIER_PAGE_SIZE - 1};
    const size_t size = PAGES_MAX * PAGE_BYTES;

    for (size_t i = 0; i < COUNT(bends); i++) {
        for (size_t j = 0; j < COUNT(bends); j++) {
            const uintptr_t base = address_of(MIDDLE + 3) - bends[i];
            const uintptr_t end = address_of(MIDDLE + 10) + bends[j];

            cr_assert_eq(init(base, end - base, size), TIER_OK);
            cr_assert(spans(MIDDLE + 3, MIDDLE + 10));
            cr_assert_eq(tier_pagemap_bytes(base, end - base),
                         map.pages * PAGE_BYTES);
        }
    }
}

Test(pagemap, may_end_at_the_top_of_the_address_space)
{
    const size_t size = PAGES_MAX * PAGE_BYTES;

    for (size_t pages = 1; pages <= 70; pages++) {
        const uintptr_t base = address_of(TOP - pages + 1);

        cr_assert_eq(init(base, bytes_of(pages), size), TIER_OK);
        cr_assert(spans(TOP - pages + 1, TOP + 1));
        cr_assert_eq(tier_pagemap_bytes(base, bytes_of(pages)),
                     map.pages * PAGE_BYTES);

        cr_assert_eq(init(base - 1, bytes_of(pages) + 1, size), TIER_OK);
        cr_assert(spans(TOP - pages + 1, TOP + 1));
        cr_assert_eq(init(base, bytes_of(pages) - 1, size),
                     pages > 1 ? TIER_OK : TIER_ERR_INVALID);
        cr_assert(pages == 1 || spans(TOP - pages + 1, TOP));
    }
}

Test(pagemap, leaves_out_the_page_at_address_zero)
{
    const size_t size = PAGES_MAX * PAGE_BYTES;

    cr_assert_eq(init(0, bytes_of(5), size), TIER_OK);
    cr_assert(spans(1, 5));
    cr_assert_eq(tier_pagemap_bytes(0, bytes_of(5)), 4 * PAGE_BYTES);
    cr_assert_eq(init(1, bytes_of(5), size), TIER_OK);
    cr_assert(spans(1, 5));
    cr_assert_eq(init(0, bytes_of(1), size), TIER_ERR_INVALID);
    cr_assert(untouched());
}

Test(pagemap, an_index_with_the_skew_is_as_aligned_as_its_address)
{
    static const size_t counts[] = {1, 2, 3, 7, 8, 9, 64, 100, 1000, 2047};
    const uintptr_t mask = ((uintptr_t)1 << TIERALLOC_MAX_ORDER) - 1;

    for (size_t i = 0; i < COUNT(counts); i++) {
        for (uintptr_t page = MIDDLE - 9; page <= MIDDLE + 9; page++) {
            cr_assert_eq(init(address_of(page), bytes_of(counts[i]),
                              PAGES_MAX * PAGE_BYTES),
                         TIER_OK);
            cr_assert(map.skew <= mask);
            for (uintptr_t index = 0; index < map.pages; index++) {
                cr_assert_eq((index + map.skew) & mask, (page + index) & mask);
            }
        }
    }
}

Test(pagemap, a_view_is_as_aligned_as_the_whole)
{
    const uintptr_t mask = ((uintptr_t)1 << TIERALLOC_MAX_ORDER) - 1;

    cr_assert_eq(init(address_of(MIDDLE - 5), bytes_of(40), sizeof(metadata)),
                 TIER_OK);
    for (size_t begin = 0; begin < 40; begin++) {
        struct tier_pagemap view;

        tier_pagemap_view_(&view, &map, begin, 40 - begin);
        for (size_t i = 0; i < view.pages; i++) {
            const void *const address =
                (void *)address_of(MIDDLE - 5 + begin + i);

            cr_assert_eq(tier_pagemap_address_(&view, i), address);
            cr_assert_eq(tier_pagemap_index_(&view, address), i);
            cr_assert_eq((i + view.skew) & mask,
                         (MIDDLE - 5 + begin + i) & mask);
            cr_assert_eq(&view.kind[i], &map.kind[begin + i]);
            cr_assert_eq(&view.entry[i], &map.entry[begin + i]);
#if TIERALLOC_CPUS > 0
            cr_assert_eq(&view.cut[i], &map.cut[begin + i]);
#endif
        }
    }
}

Test(pagemap, knows_no_kind_outside_its_span)
{
    cr_assert_eq(init(address_of(MIDDLE + 3), bytes_of(9), sizeof(metadata)),
                 TIER_OK);
    memset(map.kind, TIER_KIND_META, map.pages);
    for (uintptr_t page = MIDDLE - 30; page < MIDDLE + 40; page++) {
        const bool inside = page >= MIDDLE + 3 && page < MIDDLE + 12;

        cr_assert_eq(tier_pagemap_kind_(&map, (void *)address_of(page)),
                     inside ? TIER_KIND_META : TIER_KIND_NONE);
    }
    cr_assert_eq(tier_pagemap_kind_(&map, NULL), TIER_KIND_NONE);
    cr_assert_eq(tier_pagemap_kind_(&map, (void *)UINTPTR_MAX), TIER_KIND_NONE);
}

/* --- Refusals ------------------------------------------------------------- */

/* True when init refuses this span with this status and bytes() is 0. */
static bool refused(uintptr_t base, size_t bytes, enum tier_status status)
{
    return init(base, bytes, SIZE_MAX) == status && untouched() &&
           tier_pagemap_bytes(base, bytes) == 0;
}

Test(pagemap, refuses_a_span_past_the_end_of_the_address_space)
{
    const uintptr_t last_page = address_of(TOP);

    cr_assert(refused(last_page, TIER_PAGE_SIZE + 1, TIER_ERR_OVERFLOW));
    cr_assert(refused(last_page + 1, TIER_PAGE_SIZE, TIER_ERR_OVERFLOW));
    cr_assert(refused(last_page, SIZE_MAX, TIER_ERR_OVERFLOW));
    cr_assert(refused(UINTPTR_MAX, 2, TIER_ERR_OVERFLOW));
    cr_assert(refused(2, SIZE_MAX, TIER_ERR_OVERFLOW));
    cr_assert(
        refused(address_of(MIDDLE), bytes_of(MIDDLE) + 1, TIER_ERR_OVERFLOW));
}

Test(pagemap, refuses_a_span_without_a_whole_page)
{
    const uintptr_t base = address_of(MIDDLE);

    cr_assert(refused(base, 0, TIER_ERR_INVALID));
    cr_assert(refused(0, 0, TIER_ERR_INVALID));
    cr_assert(refused(UINTPTR_MAX, 0, TIER_ERR_INVALID));
    cr_assert(refused(UINTPTR_MAX, 1, TIER_ERR_INVALID));
    cr_assert(refused(base, 1, TIER_ERR_INVALID));
    cr_assert(refused(base, TIER_PAGE_SIZE - 1, TIER_ERR_INVALID));
    cr_assert(refused(base + 1, TIER_PAGE_SIZE, TIER_ERR_INVALID));
    cr_assert(refused(base + 1, TIER_PAGE_SIZE - 1, TIER_ERR_INVALID));
    cr_assert(refused(base + 1, 2 * TIER_PAGE_SIZE - 2, TIER_ERR_INVALID));
    cr_assert(refused(base - 1, TIER_PAGE_SIZE, TIER_ERR_INVALID));
    cr_assert(
        refused(address_of(TOP) + 1, TIER_PAGE_SIZE - 1, TIER_ERR_INVALID));
}

#if UINTPTR_MAX > 0xFFFFFFFFU
Test(pagemap, refuses_a_span_of_more_pages_than_an_index_counts)
{
    const size_t limit = (size_t)1 << 32;
    const uintptr_t base = address_of(MIDDLE);

    cr_assert(refused(base, bytes_of(limit), TIER_ERR_TOO_LARGE));
    cr_assert(refused(base, bytes_of(limit + 1), TIER_ERR_TOO_LARGE));
    cr_assert(refused(base, bytes_of(MIDDLE), TIER_ERR_TOO_LARGE));
    cr_assert(refused(0, SIZE_MAX, TIER_ERR_TOO_LARGE));

    cr_assert_eq(tier_pagemap_bytes(base, bytes_of(limit - 2)),
                 (limit - 2) * PAGE_BYTES);
    cr_assert_eq(tier_pagemap_bytes(base + 1, bytes_of(limit - 1)),
                 (limit - 2) * PAGE_BYTES);
    cr_assert_eq(init(base, bytes_of(limit - 2), limit), TIER_ERR_METADATA);
    cr_assert(untouched());
}
#endif

Test(pagemap, refuses_memory_that_is_null_or_misaligned)
{
    const uintptr_t base = address_of(MIDDLE);
    const size_t bytes = bytes_of(8);

    init(0, 0, 0);
    cr_assert_eq(tier_pagemap_init(&map, base, bytes, NULL, SIZE_MAX),
                 TIER_ERR_INVALID);
    cr_assert(untouched());
    for (size_t bend = 1; bend < 8; bend++) {
        cr_assert_eq(tier_pagemap_init(&map, base, bytes, metadata + bend,
                                       sizeof(metadata) - bend),
                     TIER_ERR_MISALIGNED);
        cr_assert(untouched());
    }
}

Test(pagemap, asks_for_nothing_that_init_refuses_and_for_all_that_it_takes)
{
    uint64_t random = TEST_SEED;

    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        const unsigned bits = sizeof(uintptr_t) * 8;
        const uintptr_t base = (uintptr_t)test_random(&random)
                               << test_below(&random, bits);
        const size_t bytes =
            (size_t)test_random(&random) >> test_below(&random, bits);
        const size_t size = tier_pagemap_bytes(base, bytes);
        const bool fits = size <= PAGES_MAX * PAGE_BYTES;

        memset(&map, 0x5A, sizeof(map));
        const enum tier_status status =
            tier_pagemap_init(&map, base, bytes, metadata + GUARD,
                              fits ? size : PAGES_MAX * PAGE_BYTES);

        cr_assert_eq(status == TIER_OK, size != 0 && fits);
        cr_assert_eq(status == TIER_ERR_METADATA, size != 0 && !fits);
        cr_assert(status == TIER_OK || test_all(&map, 0x5A, sizeof(map)));
    }
}
