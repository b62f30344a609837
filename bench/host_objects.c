/*
 * host_objects.c - the common object pairs on a host, for callgrind.
 *
 * SPDX-License-Identifier: MIT
 *
 * Usage: host_objects WORKLOAD
 *
 * Each workload is a function of its own that makes 100,000 pairs of calls, to
 * be counted with callgrind --toggle-collect=WORKLOAD; those whose names begin
 * with empty_ call functions that do nothing.
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
#include <string.h>

#define MIB         ((size_t)1 << 20)
#define ARENA_BYTES (64 * MIB)
#define LIVE        10000U
#define WARM_UP     50000U
#define SCRIPT      150000U

static struct tier_buddy buddy;
static struct tier_runs runs;
static struct tier_slab slab;
static struct tier_cpucache cache;
static void *live[LIVE];
static uint32_t script_slot[SCRIPT]; /* computed before, not measured */
static uint32_t script_bytes[SCRIPT];

static bool start(void)
{
    unsigned char *arena = aligned_alloc(TIER_BLOCK_MAX, ARENA_BYTES);
    struct tier_pagemap map;
    struct tier_page_source source;
    size_t need = tier_pagemap_bytes((uintptr_t)arena, ARENA_BYTES);

    if (arena == NULL || tier_pagemap_init(&map, (uintptr_t)arena, ARENA_BYTES,
                                           arena, need) != TIER_OK) {
        return false;
    }
    tier_buddy_init(&buddy, &map);
    if (tier_buddy_add(&buddy, arena + need, ARENA_BYTES - need) != TIER_OK ||
        tier_runs_init(&runs, &buddy, TIERALLOC_MAX_ORDER) != TIER_OK) {
        return false;
    }
    tier_runs_source(&runs, &source);
    tier_slab_init(&slab, &map, &source);
    return tier_cpucache_init(&cache, &slab) == TIER_OK;
}

/* Calls that do nothing: what the loops themselves cost. */
__attribute__((noinline)) static void *none_alloc(struct tier_cpucache *heap,
                                                  size_t bytes)
{
    __asm__ volatile("" : "+r"(heap) : "r"(bytes) : "memory");
    return heap;
}

__attribute__((noinline)) static enum tier_status none_free(
    struct tier_cpucache *heap, void *object)
{
    __asm__ volatile("" : : "r"(heap), "r"(object) : "memory");
    return TIER_OK;
}

/* --- What is measured ----------------------------------------------------- */

/* Define a loop of pairs on an otherwise empty heap. */
#define BENCH_LIFO(name, alloc, free)                                        \
    __attribute__((noinline)) static void name(struct tier_cpucache *heap,   \
                                               size_t first, size_t end)     \
    {                                                                        \
        __asm__ volatile("# " #name); /* no two of them are the same code */ \
        for (size_t i = first; i < end; i++) {                               \
            void *object = alloc;                                            \
            (void)free;                                                      \
        }                                                                    \
    }

BENCH_LIFO(lifo64, tier_cpucache_alloc(heap, 64),
           tier_cpucache_free(heap, object))
BENCH_LIFO(lifo64_sized, tier_cpucache_alloc(heap, 64),
           tier_cpucache_free_sized(heap, object, 64))
BENCH_LIFO(lifo64_class, tier_cpucache_alloc_class(heap, TIER_SIZE_CLASS(64)),
           tier_cpucache_free_sized(heap, object, 64))
BENCH_LIFO(empty_lifo64, none_alloc(heap, 64), none_free(heap, object))

/* Define a loop that replaces random objects by others of other sizes. */
#define BENCH_MIX(name, alloc, free)                                         \
    __attribute__((noinline)) static void name(struct tier_cpucache *heap,   \
                                               size_t first, size_t end)     \
    {                                                                        \
        __asm__ volatile("# " #name); /* no two of them are the same code */ \
        for (size_t i = first; i < end; i++) {                               \
            void **slot = &live[script_slot[i]];                             \
            (void)free;                                                      \
            *slot = alloc;                                                   \
        }                                                                    \
    }

BENCH_MIX(warm_up_mix, tier_cpucache_alloc(heap, script_bytes[i]),
          tier_cpucache_free(heap, *slot))
BENCH_MIX(mix, tier_cpucache_alloc(heap, script_bytes[i]),
          tier_cpucache_free(heap, *slot))
BENCH_MIX(empty_mix, none_alloc(heap, script_bytes[i]), none_free(heap, *slot))

static const struct {
    const char *name;
    void (*run)(struct tier_cpucache *heap, size_t first, size_t end);
} workloads[] = {
    {"lifo64", lifo64},
    {"lifo64_sized", lifo64_sized},
    {"lifo64_class", lifo64_class},
    {"empty_lifo64", empty_lifo64},
    {"mix", mix},
    {"empty_mix", empty_mix},
};

/* 10,000 live objects, replaced 50,000 times; and what is to follow. */
static void warm_up(void)
{
    struct bench_random rng = {BENCH_SEED};

    for (size_t i = 0; i < LIVE; i++) {
        live[i] = tier_cpucache_alloc(&cache, bench_logu(&rng, 3, 12));
    }
    for (size_t i = 0; i < SCRIPT; i++) {
        script_slot[i] = (uint32_t)bench_below(&rng, LIVE);
        script_bytes[i] = (uint32_t)bench_logu(&rng, 3, 12);
    }
    warm_up_mix(&cache, 0, WARM_UP);
}

int main(int argc, char **argv)
{
    if (argc != 2 || !start()) {
        (void)fprintf(stderr, "usage: host_objects WORKLOAD\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
        if (strcmp(argv[1], workloads[i].name) == 0) {
            if (strstr(argv[1], "mix") != NULL) {
                warm_up();
            }
            workloads[i].run(&cache, WARM_UP, SCRIPT);
            return 0;
        }
    }
    (void)fprintf(stderr, "host_objects: no workload %s\n", argv[1]);
    return 2;
}
