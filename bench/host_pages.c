/*
 * host_pages.c - the common page pair on a host, for callgrind.
 *
 * SPDX-License-Identifier: MIT
 *
 * Usage: host_pages MIB PAIRS [direct]
 *
 * Half of an arena of MIB MiB is live 4 KiB pages; PAIRS times a random one is
 * freed and another allocated, through a page cache unless "direct". What is
 * collected is bench_measured alone: callgrind --toggle-collect=bench_measured.
 * No page is touched, so the arena is addresses only.
 */
#define TIERALLOC_STATIC
#define TIERALLOC_API static __attribute__((unused, noinline))
#include <tieralloc/pagecache.h>

#include "bench.h"

#include <stdlib.h>
#include <string.h>

#define ARENA_BASE ((uintptr_t)1 << 36)
#define SLOTS      2048U

static struct tier_buddy buddy;
static struct tier_pagecache cache;
static void *live[SLOTS];
static struct bench_random rng;

/* Replace random pages; not inlined, so that callgrind can name it. */
__attribute__((noinline)) static void bench_measured(size_t pairs)
{
    for (size_t i = 0; i < pairs; i++) {
        size_t slot = bench_below(&rng, SLOTS);

        (void)tier_pagecache_free(&cache, live[slot]);
        live[slot] = tier_pagecache_alloc(&cache, 0);
    }
}

__attribute__((noinline)) static void bench_measured_direct(size_t pairs)
{
    for (size_t i = 0; i < pairs; i++) {
        size_t slot = bench_below(&rng, SLOTS);

        (void)tier_buddy_free(&buddy, live[slot]);
        live[slot] = tier_buddy_alloc(&buddy, 0);
    }
}

/* An arena of `bytes` bytes with half its pages in use, some of them in live. */
static bool start(size_t bytes)
{
    struct tier_pagemap map;
    size_t need = tier_pagemap_bytes(ARENA_BASE, bytes);
    void *metadata = calloc(need / 8 + 1, 8);

    rng.state = BENCH_SEED;
    if (metadata == NULL ||
        tier_pagemap_init(&map, ARENA_BASE, bytes, metadata, need) != TIER_OK) {
        return false;
    }
    tier_buddy_init(&buddy, &map);
    if (tier_buddy_add(&buddy, (void *)ARENA_BASE, bytes) != TIER_OK) {
        return false;
    }
    tier_pagecache_init(&cache, &buddy);
    for (size_t page = 0; page < bytes / TIER_PAGE_SIZE / 2; page++) {
        void *block = tier_buddy_alloc(&buddy, 0);

        if (block == NULL) {
            return false;
        }
        if (page < SLOTS) {
            live[page] = block;
        } else if (bench_below(&rng, page) < SLOTS) {
            live[bench_below(&rng, SLOTS)] = block;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        (void)fprintf(stderr, "usage: host_pages MIB PAIRS [direct]\n");
        return 2;
    }
    size_t bytes = (size_t)strtoul(argv[1], NULL, 10) << 20;
    size_t pairs = strtoul(argv[2], NULL, 10);

    if (!start(bytes)) {
        (void)fprintf(stderr, "host_pages: no memory for the page map\n");
        return 1;
    }
    if (argc == 4 && strcmp(argv[3], "direct") == 0) {
        bench_measured_direct(pairs);
    } else {
        bench_measured(pairs);
    }
    return 0;
}
