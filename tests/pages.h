/*
 * tests/pages.h - a page map over invented addresses, for the tiers of pages.
 *
 * SPDX-License-Identifier: MIT
 *
 * No tier of pages touches a page that it manages, so that a test can use any
 * addresses. Define SPAN_MAX, the most pages in the span of a test, before the
 * include; the header of the tier comes before it, too.
 */
#ifndef TIERALLOC_TEST_PAGES_H
#define TIERALLOC_TEST_PAGES_H

#include "support.h"

#define MAX_ORDER TIERALLOC_MAX_ORDER

/*
 * Numbers of the last page of the address space, and of one amid it that is
 * aligned to any block, where no machine of ours has memory: a region must not
 * hold the metadata of the test.
 */
#define TOP    (UINTPTR_MAX >> TIERALLOC_PAGE_SHIFT)
#define MIDDLE ((TOP / 4 + 1) * 3)

_Static_assert(TOP / 4 >= SPAN_MAX, "no span of a test wraps around");

/* Bytes of metadata for so many pages. */
#define METADATA(pages) TIER_PAGEMAP_BYTES(pages)

/* The map of the running test. */
static struct tier_pagemap map;
static _Alignas(8) uint8_t metadata_room[METADATA(SPAN_MAX)];
static uint8_t *metadata; /* at the room's end, where ASan sees overruns */
static size_t metadata_bytes;
static uint64_t random_state;

static inline size_t bytes_of(size_t pages)
{
    return pages << TIERALLOC_PAGE_SHIFT;
}

static inline void *address_of(uintptr_t page)
{
    return (void *)(page << TIERALLOC_PAGE_SHIFT);
}

static inline void *byte_of(uintptr_t page, size_t byte)
{
    return (void *)((page << TIERALLOC_PAGE_SHIFT) + byte);
}

static inline uint32_t below(uint32_t bound)
{
    return test_below(&random_state, bound);
}

/* Make the map one over these pages by number, in dirty memory. */
static inline void set_up_map(uintptr_t first, size_t pages)
{
    const uintptr_t base = (uintptr_t)address_of(first);

    random_state = TEST_SEED;
    metadata_bytes = tier_pagemap_bytes(base, bytes_of(pages));
    cr_assert(metadata_bytes != 0);
    cr_assert(metadata_bytes <= sizeof(metadata_room));
    metadata = metadata_room + (sizeof(metadata_room) - metadata_bytes) / 8 * 8;
    memset(metadata_room, 0xA5, sizeof(metadata_room));
    memset(&map, 0xA5, sizeof(map));
    cr_assert_eq(tier_pagemap_init(&map, base, bytes_of(pages), metadata,
                                   metadata_bytes),
                 TIER_OK);
}

/* What a dump wrote. */
static struct {
    char text[512];
    size_t length;
} dump;

static inline void dump_put(void *context, char character)
{
    cr_assert(context == &dump);
    cr_assert(dump.length + 1 < sizeof(dump.text));
    dump.text[dump.length++] = character;
    dump.text[dump.length] = '\0';
}

#endif
