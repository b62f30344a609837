/*
 * size_slab.c - the smallest program of objects: init, alloc, free.
 *
 * SPDX-License-Identifier: MIT
 *
 * 64 KiB of RAM, one CPU, objects from slabs over a buddy, every free checked.
 * Linked without a library and with --gc-sections, its text is what the two
 * tiers cost a firmware; its symbol `control` is as large as their structs. It is
 * measured, never run.
 */
#define TIERALLOC_MAX_ORDER  4
#define TIERALLOC_OBJECT_MAX 2048
#define TIERALLOC_CPUS       0
#define TIERALLOC_IMPLEMENTATION
#include <tieralloc/buddy.h>
#include <tieralloc/slab.h>

#define RAM       ((uintptr_t)0x80000000U)
#define RAM_BYTES ((size_t)65536)

struct control {
    struct tier_buddy buddy;
    struct tier_slab slab;
};
extern struct control control;
struct control control;

int _start(void);

int _start(void)
{
    struct tier_pagemap map;
    struct tier_page_source source;
    size_t need = tier_pagemap_bytes(RAM, RAM_BYTES);

    if (tier_pagemap_init(&map, RAM, RAM_BYTES, (void *)RAM, need) != TIER_OK) {
        return 1;
    }
    tier_buddy_init(&control.buddy, &map);
    if (tier_buddy_add(&control.buddy, (void *)(RAM + need),
                       RAM_BYTES - need) != TIER_OK) {
        return 1;
    }
    tier_buddy_source(&control.buddy, &source);
    tier_slab_init(&control.slab, &map, &source);

    void *object = tier_slab_alloc(&control.slab, 64);

    return tier_slab_free(&control.slab, object) == TIER_OK ? 0 : 1;
}
