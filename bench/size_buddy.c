/*
 * size_buddy.c - the smallest program of page blocks: init, alloc, free, check.
 *
 * SPDX-License-Identifier: MIT
 *
 * Linked without a library and with --gc-sections, its text is what buddy.h
 * costs a firmware that uses these calls. It is measured, never run.
 */
#define TIERALLOC_CPUS 0
#define TIERALLOC_IMPLEMENTATION
#include <tieralloc/buddy.h>

#define RAM       ((uintptr_t)0x80000000U)
#define RAM_BYTES ((size_t)65536)

static struct tier_pagemap map;
static struct tier_buddy buddy;
static uint64_t metadata[TIER_PAGEMAP_BYTES(RAM_BYTES / TIER_PAGE_SIZE) / 8];

int _start(void);

int _start(void)
{
    if (tier_pagemap_init(&map, RAM, RAM_BYTES, metadata, sizeof(metadata)) !=
        TIER_OK) {
        return 1;
    }
    tier_buddy_init(&buddy, &map);
    if (tier_buddy_add(&buddy, (void *)RAM, RAM_BYTES) != TIER_OK) {
        return 1;
    }
    void *page = tier_buddy_alloc(&buddy, 0);

    return tier_buddy_free(&buddy, page) == TIER_OK && tier_buddy_check(&buddy)
               ? 0
               : 1;
}
