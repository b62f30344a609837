/*
 * objects.c - what the object tier costs: instructions, overhead, packing.
 *
 * SPDX-License-Identifier: MIT
 *
 * Objects come from slabs over runs over a buddy, through the caches of one
 * CPU; built with TIERALLOC_CPUS 0, without them. All metadata comes out of the
 * arena.
 */
#define TIERALLOC_STATIC
#ifdef __clang__
#define TIERALLOC_API static __attribute__((unused, noinline))
#else
#define TIERALLOC_API static __attribute__((unused, noinline, noclone))
#endif
#include <tieralloc/cpucache.h>
#include <tieralloc/runs.h>

#include "bench.h"

#include <stdlib.h>

#define MIB         ((size_t)1 << 20)
#define ARENA_BYTES (64 * MIB)
#define LIVE_MAX    ((size_t)1 << 20)

/* What the figures of this build are called: with per-CPU caches or without. */
#ifdef BENCH_LAYER
#define LAYER BENCH_LAYER
#elif TIERALLOC_CPUS > 0
#define LAYER "objects"
#else
#define LAYER "slab"
#endif

static _Alignas(TIER_BLOCK_MAX) unsigned char arena[ARENA_BYTES];
static void *live[LIVE_MAX];
static uint32_t live_bytes[LIVE_MAX];
static struct tier_buddy buddy;
static struct tier_runs runs;
static struct tier_slab slab;
static struct tier_cpucache cache;
static struct bench_random rng;

/*
 * All tiers over the first `bytes` bytes of the arena, metadata in it; slabs
 * from runs, or from the buddy itself.
 */
static struct tier_cpucache *start_over(size_t bytes, bool over_runs)
{
    struct tier_cpucache *heap = &cache;
    struct tier_pagemap map;
    struct tier_page_source source;
    size_t need = tier_pagemap_bytes((uintptr_t)arena, bytes);

    rng.state = BENCH_SEED;
    if (tier_pagemap_init(&map, (uintptr_t)arena, bytes, arena, need) !=
        TIER_OK) {
        abort();
    }
    tier_buddy_init(&buddy, &map);
    if (tier_buddy_add(&buddy, arena + need, bytes - need) != TIER_OK ||
        tier_runs_init(&runs, &buddy, TIERALLOC_MAX_ORDER) != TIER_OK) {
        abort();
    }
    if (over_runs) {
        tier_runs_source(&runs, &source);
    } else {
        tier_buddy_source(&buddy, &source);
    }
    tier_slab_init(&slab, &map, &source);
    if (tier_cpucache_init(&cache, &slab) != TIER_OK) {
        abort();
    }
    __asm__("" : "+r"(heap)); /* in a register, as a caller would have it */
    return heap;
}

static struct tier_cpucache *start(size_t bytes)
{
    return start_over(bytes, true);
}

/* --- Instructions --------------------------------------------------------- */

static void report(const char *name, const struct bench_count *alloc,
                   const struct bench_count *free)
{
    bench_print(name, ".alloc", alloc);
    bench_print(name, ".free", free);
}

static void pairs64(struct tier_cpucache *heap, size_t times,
                    struct bench_count *alloc, struct bench_count *free)
{
    for (size_t i = 0; i < times; i++) {
        void *object;

        BENCH_CALL(alloc, object = tier_cpucache_alloc(heap, 64));
        BENCH_CALL(free, tier_cpucache_free(heap, object));
    }
}

static void lifo64(void)
{
    struct tier_cpucache *heap = start(32 * MIB);
    struct bench_count warm = {0};
    struct bench_count alloc = {0};
    struct bench_count free = {0};

    pairs64(heap, 1000, &warm, &warm);
    pairs64(heap, 100000, &alloc, &free);
    report(LAYER ".lifo64", &alloc, &free);
}

/* Free a random one of 10,000 objects, allocate another of another size. */
static void replace(struct tier_cpucache *heap, size_t times,
                    struct bench_count *alloc, struct bench_count *free)
{
    for (size_t i = 0; i < times; i++) {
        size_t slot = bench_below(&rng, 10000);
        size_t bytes;

        BENCH_DONE(slot);
        BENCH_CALL(free, tier_cpucache_free(heap, live[slot]));
        bytes = bench_logu(&rng, 3, 12);
        BENCH_DONE(bytes);
        BENCH_CALL(alloc, live[slot] = tier_cpucache_alloc(heap, bytes));
    }
}

static void mix(void)
{
    struct tier_cpucache *heap = start(64 * MIB);
    struct bench_count warm = {0};
    struct bench_count alloc = {0};
    struct bench_count free = {0};

    for (size_t i = 0; i < 10000; i++) {
        live[i] = tier_cpucache_alloc(heap, bench_logu(&rng, 3, 12));
    }
    replace(heap, 50000, &warm, &warm);
    replace(heap, 100000, &alloc, &free);
    report(LAYER ".mix", &alloc, &free);
}

#if TIERALLOC_CPUS == 0
/* Fill an arena with objects of all sizes, then free all but `keep` of them. */
static size_t fill_and_free(struct tier_cpucache *heap, size_t count,
                            size_t keep, struct bench_count *alloc,
                            struct bench_count *free)
{
    void *object;

    do {
        size_t bytes = bench_logu(&rng, 3, 15);

        BENCH_DONE(bytes);
        BENCH_CALL(alloc, object = tier_cpucache_alloc(heap, bytes));
        if (object != NULL) {
            live[count++] = object;
        }
    } while (object != NULL);
    while (count > keep) {
        size_t slot = bench_below(&rng, count);

        BENCH_DONE(slot);
        BENCH_CALL(free, tier_cpucache_free(heap, live[slot]));
        live[slot] = live[--count];
    }
    return count;
}

/*
 * The hard bound: objects of all sizes over a buddy alone, whose calls split and
 * merge as deeply as they can, in an arena that is filled to failure and emptied
 * to a part, a smaller part and nothing, again and again.
 */
static void bound(void)
{
    struct tier_cpucache *heap = start_over(16 * MIB, false);
    struct bench_count alloc = {0};
    struct bench_count free = {0};
    size_t count = 0;

    for (size_t round = 0; round < 12; round++) {
        static const size_t keep[] = {1000, 200, 0};

        count = fill_and_free(heap, count, keep[round % 3], &alloc, &free);
    }
    report(LAYER ".bound", &alloc, &free);
}
#endif

/* --- Memory --------------------------------------------------------------- */

/* Allocate an object, or a run for what is larger. */
static void *allocate(size_t bytes)
{
    if (bytes <= TIER_SLAB_BYTES_MAX) {
        return tier_cpucache_alloc(&cache, bytes);
    }
    return tier_runs_alloc(&runs,
                           (bytes + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE);
}

static void release(void *memory, size_t bytes)
{
    if ((bytes <= TIER_SLAB_BYTES_MAX
             ? tier_cpucache_free(&cache, memory)
             : tier_runs_free(&runs, memory)) != TIER_OK) {
        abort();
    }
}

/* Bytes of 16 MiB that each object of one size takes beyond its own. */
static void overhead(const char *name, size_t bytes)
{
    size_t count = 0;

    (void)start(16 * MIB);
    while (tier_cpucache_alloc(&cache, bytes) != NULL) {
        count++;
    }
    bench_print_tenths(LAYER ".overhead", name,
                       (uint64_t)16 * MIB * 10 / count - bytes * 10, "bytes");
}

/*
 * Allocate with p = 0.6 a size of 16 B to 32 KiB, else free a random one, until
 * the first failure: peak of live requested bytes, in permille.
 */
static uint64_t churn(uint64_t seed)
{
    size_t count = 0;
    size_t bytes = 0;
    size_t peak = 0;

    (void)start(ARENA_BYTES);
    rng.state = seed;
    for (;;) {
        if (count == 0 || bench_below(&rng, 10) < 6) {
            size_t size = bench_logu(&rng, 4, 15);

            live[count] = allocate(size);
            if (live[count] == NULL && tier_cpucache_trim(&cache) != 0) {
                live[count] = allocate(size);
            }
            if (live[count] == NULL) {
                return (uint64_t)peak * 1000 / ARENA_BYTES;
            }
            bytes += size;
            peak = bytes > peak ? bytes : peak;
            live_bytes[count++] = (uint32_t)size;
        } else {
            size_t slot = bench_below(&rng, count);

            release(live[slot], live_bytes[slot]);
            bytes -= live_bytes[slot];
            live[slot] = live[--count];
            live_bytes[slot] = live_bytes[count];
        }
    }
}

static void frag(void)
{
    uint64_t peak[5];

    for (uint64_t i = 0; i < 5; i++) {
        peak[i] = churn(BENCH_SEED + 1 + i);
    }
    bench_print_tenths(LAYER ".frag", ".live", bench_median(peak, 5) * 10,
                       "permille");
}

int main(void)
{
    lifo64();
    mix();
#if TIERALLOC_CPUS == 0
    bound();
#endif
    overhead("16", 16);
    overhead("64", 64);
    overhead("100", 100);
    overhead("256", 256);
    overhead("1000", 1000);
    overhead("4096", 4096);
    frag();
    return 0;
}
