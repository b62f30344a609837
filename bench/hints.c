/*
 * hints.c - would long-lived and short-lived blocks at opposite ends help?
 *
 * SPDX-License-Identifier: MIT
 *
 * A fifth of 64 MiB is replaced all the time, one block in a hundred belongs
 * to a part that is replaced rarely. With hints the two are asked from
 * opposite halves first; without, all come from the lists. Printed is the mean
 * unusable free space index of order 9: less is better.
 */
#define TIERALLOC_STATIC
#include <tieralloc/buddy.h>

#include "bench.h"

#include <stdlib.h>

#define MIB         ((size_t)1 << 20)
#define ARENA_BASE  ((uintptr_t)0x40000000)
#define ARENA_BYTES (64 * MIB)
#define PAGES       (ARENA_BYTES / TIER_PAGE_SIZE)
#define STEPS       400000
#define SETTLED     100000

/* Blocks of one life time. */
struct population {
    void *block[PAGES];
    unsigned order[PAGES];
    size_t count;
    size_t pages;
    size_t pages_max;
    uintptr_t half; /* where its blocks are asked for first */
};

static uint64_t metadata[TIER_PAGEMAP_BYTES(PAGES) / 8];
static struct tier_buddy buddy;
static struct bench_random rng;
static struct population lasting;
static struct population passing;

static void start(uint64_t seed, size_t lasting_percent)
{
    struct tier_pagemap map;

    rng.state = seed;
    if (tier_pagemap_init(&map, ARENA_BASE, ARENA_BYTES, metadata,
                          sizeof(metadata)) != TIER_OK) {
        abort();
    }
    tier_buddy_init(&buddy, &map);
    if (tier_buddy_add(&buddy, (void *)ARENA_BASE, ARENA_BYTES) != TIER_OK) {
        abort();
    }
    lasting.count = lasting.pages = 0;
    lasting.pages_max = PAGES * lasting_percent / 100;
    lasting.half = ARENA_BASE;
    passing.count = passing.pages = 0;
    passing.pages_max = PAGES / 5;
    passing.half = ARENA_BASE + ARENA_BYTES / 2;
}

static void take(struct population *from, bool hints)
{
    unsigned order = (unsigned)bench_below(&rng, 5);
    void *block = NULL;

    if (!hints || tier_buddy_alloc_within(&buddy, order, from->half,
                                          ARENA_BYTES / 2, &block) != TIER_OK) {
        block = tier_buddy_alloc(&buddy, order);
    }
    if (block != NULL) {
        from->block[from->count] = block;
        from->order[from->count++] = order;
        from->pages += (size_t)1 << order;
    }
}

static void give(struct population *to)
{
    size_t i = bench_below(&rng, to->count);

    if (tier_buddy_free(&buddy, to->block[i]) != TIER_OK) {
        abort();
    }
    to->pages -= (size_t)1 << to->order[i];
    to->count--;
    to->block[i] = to->block[to->count];
    to->order[i] = to->order[to->count];
}

/* Mean of the index, in tenths of a permille, over five seeds. */
static uint64_t run(size_t lasting_percent, bool hints)
{
    uint64_t sum = 0;
    uint64_t samples = 0;

    for (uint64_t seed = 1; seed <= 5; seed++) {
        start(BENCH_SEED + seed, lasting_percent);
        for (size_t step = 0; step < STEPS; step++) {
            bool rare = bench_below(&rng, 100) == 0;
            struct population *one = rare ? &lasting : &passing;

            if (one->pages > one->pages_max) {
                give(one);
            } else {
                take(one, hints);
            }
            if (step > SETTLED && step % 100 == 0) {
                sum += tier_buddy_unusable(&buddy, 9);
                samples++;
            }
        }
    }
    return sum * 10 / samples;
}

int main(void)
{
    for (size_t percent = 20; percent <= 60; percent += 20) {
        char name[32];

        (void)snprintf(name, sizeof(name), "lifetimes.%lu%%",
                       (unsigned long)percent);
        bench_print_tenths(name, ".lists", run(percent, false), "permille");
        bench_print_tenths(name, ".halves", run(percent, true), "permille");
    }
    return 0;
}
