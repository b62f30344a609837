/*
 * small.c - what a firmware gets out of 64 KiB: objects of 64 bytes.
 *
 * SPDX-License-Identifier: MIT
 *
 * The configuration of size_slab.c. All metadata but the structs comes out of
 * the 64 KiB.
 */
#define TIERALLOC_MAX_ORDER  4
#define TIERALLOC_OBJECT_MAX 2048
#define TIERALLOC_CPUS       0
#define TIERALLOC_STATIC
#include <tieralloc/buddy.h>
#include <tieralloc/slab.h>

#include "bench.h"

#include <stdlib.h>

#define ARENA_BYTES ((size_t)65536)

static _Alignas(65536) unsigned char arena[ARENA_BYTES];
static struct tier_buddy buddy;
static struct tier_slab slab;

int main(void)
{
    struct tier_pagemap map;
    struct tier_page_source source;
    size_t need = tier_pagemap_bytes((uintptr_t)arena, ARENA_BYTES);
    size_t bytes = 0;

    if (tier_pagemap_init(&map, (uintptr_t)arena, ARENA_BYTES, arena, need) !=
        TIER_OK) {
        abort();
    }
    tier_buddy_init(&buddy, &map);
    if (tier_buddy_add(&buddy, arena + need, ARENA_BYTES - need) != TIER_OK) {
        abort();
    }
    tier_buddy_source(&buddy, &source);
    tier_slab_init(&slab, &map, &source);
    while (tier_slab_alloc(&slab, 64) != NULL) {
        bytes += 64;
    }
    bench_print_tenths("small", ".objects64", bytes * 10 / 1024, "KiB");
    bench_print_tenths("small", ".structs", (sizeof(buddy) + sizeof(slab)) * 10,
                       "bytes");
    return 0;
}
