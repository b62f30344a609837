/*
 * pages.c - what the page tier costs: set-up, blocks, runs.
 *
 * SPDX-License-Identifier: MIT
 *
 * The arenas are addresses without memory behind them: no tier of pages ever
 * touches a page that it manages.
 */
#define TIERALLOC_STATIC
#define TIERALLOC_API static __attribute__((unused, noinline))
#include <tieralloc/pagecache.h>
#include <tieralloc/runs.h>

#include "bench.h"

#include <stdlib.h>

#define MIB         ((size_t)1 << 20)
#define ARENA_BASE  ((uintptr_t)0x40000000)
#define ARENA_BYTES (256 * MIB)
#define ARENA_PAGES (ARENA_BYTES / TIER_PAGE_SIZE)

static uint64_t metadata[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8 + TIER_PAGE_SIZE];
static void *live[ARENA_PAGES];
static size_t live_bytes[ARENA_PAGES];
static struct tier_buddy buddy;
static struct tier_runs runs;
static struct tier_pagecache cache;
static struct bench_random rng;

/* A buddy over an arena, less the pages that its metadata would take. */
static void start(size_t bytes)
{
    struct tier_pagemap map;
    size_t need = tier_pagemap_bytes(ARENA_BASE, bytes);
    size_t pages = (need + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE;

    rng.state = BENCH_SEED;
    if (tier_pagemap_init(&map, ARENA_BASE, bytes, metadata,
                          sizeof(metadata)) != TIER_OK) {
        abort();
    }
    tier_buddy_init(&buddy, &map);
    if (tier_buddy_add(&buddy, (void *)(ARENA_BASE + pages * TIER_PAGE_SIZE),
                       bytes - pages * TIER_PAGE_SIZE) != TIER_OK) {
        abort();
    }
}

static void fill(size_t count, unsigned order)
{
    for (size_t i = 0; i < count; i++) {
        live[i] = tier_buddy_alloc(&buddy, order);
    }
}

/* Free a random one of `count` blocks, allocate another; `times` times. */
static void replace(size_t count, unsigned order, size_t times,
                    struct bench_count *alloc, struct bench_count *release)
{
    for (size_t i = 0; i < times; i++) {
        size_t slot = bench_below(&rng, count);

        BENCH_CALL(release, tier_buddy_free(&buddy, live[slot]));
        BENCH_CALL(alloc, live[slot] = tier_buddy_alloc(&buddy, order));
    }
}

static void report(const char *name, const struct bench_count *alloc,
                   const struct bench_count *release)
{
    bench_print(name, ".alloc", alloc);
    bench_print(name, ".free", release);
}

static void page0(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};
    struct bench_count warm = {0};

    start(ARENA_BYTES);
    fill(32768, 0);
    replace(32768, 0, 100000, &warm, &warm);
    replace(32768, 0, 100000, &alloc, &release);
    report("pages.page0", &alloc, &release);
}

/* page0 through the cache of one CPU. */
static void page0cache(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};

    start(ARENA_BYTES);
    tier_pagecache_init(&cache, &buddy);
    for (size_t i = 0; i < 32768; i++) {
        live[i] = tier_pagecache_alloc(&cache, 0);
    }
    for (size_t i = 0; i < 200000; i++) {
        struct bench_count warm = {0};
        size_t slot = bench_below(&rng, 32768);

        BENCH_CALL(i < 100000 ? &warm : &release,
                   tier_pagecache_free(&cache, live[slot]));
        BENCH_CALL(i < 100000 ? &warm : &alloc,
                   live[slot] = tier_pagecache_alloc(&cache, 0));
    }
    report("pages.page0cache", &alloc, &release);
}

static void page9(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};
    struct bench_count warm = {0};

    start(ARENA_BYTES);
    fill(64, 9);
    replace(64, 9, 5000, &warm, &warm);
    replace(64, 9, 20000, &alloc, &release);
    report("pages.page9", &alloc, &release);
}

/* Free 256 random ones of 32,768 pages, then allocate 256; 390 times. */
static void burst(struct bench_count *alloc, struct bench_count *release)
{
    for (unsigned batch = 0; batch < 390; batch++) {
        size_t slots[256];

        for (size_t i = 0; i < 256; i++) {
            do {
                slots[i] = bench_below(&rng, 32768);
            } while (live[slots[i]] == NULL);
            BENCH_CALL(release, tier_buddy_free(&buddy, live[slots[i]]));
            live[slots[i]] = NULL;
        }
        for (size_t i = 0; i < 256; i++) {
            BENCH_CALL(alloc, live[slots[i]] = tier_buddy_alloc(&buddy, 0));
        }
    }
}

static void page0burst(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};
    struct bench_count warm = {0};

    start(ARENA_BYTES);
    fill(32768, 0);
    burst(&warm, &warm);
    burst(&alloc, &release);
    report("pages.page0burst", &alloc, &release);
}

/* Allocate every page, then free in random order: the deepest splits, merges */
static void pagefill(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};
    size_t count = 0;

    start(ARENA_BYTES);
    for (void *page = NULL;; live[count++] = page) {
        BENCH_CALL(&alloc, page = tier_buddy_alloc(&buddy, 0));
        if (page == NULL) {
            break;
        }
    }
    bench_print_tenths("pages.pagefill", ".used",
                       (uint64_t)count * 10000 / ARENA_PAGES, "permille");
    while (count > 0) {
        size_t slot = bench_below(&rng, count);

        BENCH_CALL(&release, tier_buddy_free(&buddy, live[slot]));
        live[slot] = live[--count];
    }
    report("pages.pagefill", &alloc, &release);
}

/* The worst single call of all orders, with blocks of all orders in use. */
static void worst(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};
    size_t count = 0;

    start(ARENA_BYTES);
    for (size_t step = 0; step < 200000; step++) {
        if (count < 4096 && (count == 0 || bench_below(&rng, 2) == 0)) {
            unsigned order = (unsigned)bench_below(&rng, 11);

            BENCH_CALL(&alloc, live[count] = tier_buddy_alloc(&buddy, order));
            count += live[count] != NULL;
        } else {
            size_t slot = bench_below(&rng, count);

            BENCH_CALL(&release, tier_buddy_free(&buddy, live[slot]));
            live[slot] = live[--count];
        }
    }
    report("pages.anyorder", &alloc, &release);
}

/* Map and buddy over 128 MiB of dirty and of clean metadata. */
static void init(void)
{
    size_t pages = 128 * MIB / TIER_PAGE_SIZE;
    struct bench_count dirty = {0};
    struct bench_count clean = {0};

    for (size_t i = 0; i < sizeof(metadata) / sizeof(metadata[0]); i++) {
        metadata[i] = UINT64_MAX;
    }
    BENCH_CALL(&dirty, start(128 * MIB));
    for (size_t i = 0; i < sizeof(metadata) / sizeof(metadata[0]); i++) {
        metadata[i] = 0;
    }
    BENCH_CALL(&clean, start(128 * MIB));
    bench_print_tenths("pages.init", ".dirty", dirty.total * 10 / pages,
                       "instructions/page");
    bench_print_tenths("pages.init", ".clean", clean.total * 10 / pages,
                       "instructions/page");
}

/* Pages that hold `bytes` bytes. */
static size_t pages_for(size_t bytes)
{
    return (bytes + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE;
}

static void start_runs(size_t bytes)
{
    start(bytes);
    if (tier_runs_init(&runs, &buddy, TIERALLOC_MAX_ORDER) != TIER_OK) {
        abort();
    }
}

/* Replace random ones of 500 runs of 8 to 256 KiB. */
static void replace_runs(size_t times, struct bench_count *alloc,
                         struct bench_count *release)
{
    for (size_t i = 0; i < times; i++) {
        size_t slot = bench_below(&rng, 500);
        size_t pages;

        BENCH_CALL(release, tier_runs_free(&runs, live[slot]));
        pages = pages_for(bench_logu(&rng, 13, 18));
        BENCH_CALL(alloc, live[slot] = tier_runs_alloc(&runs, pages));
    }
}

static void large(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};
    struct bench_count warm = {0};

    start_runs(128 * MIB);
    for (size_t i = 0; i < 500; i++) {
        live[i] = tier_runs_alloc(&runs, pages_for(bench_logu(&rng, 13, 18)));
    }
    replace_runs(10000, &warm, &warm);
    replace_runs(20000, &alloc, &release);
    report("pages.large", &alloc, &release);
}

/*
 * Allocate with p = 0.6 a size of 4 KiB to 1 MiB, else free a random one, in
 * 64 MiB, until the first failure: peak of live requested bytes, in permille.
 */
static uint64_t churn(uint64_t seed, struct bench_count *alloc,
                      struct bench_count *release)
{
    size_t count = 0;
    size_t bytes = 0;
    size_t peak = 0;

    start_runs(64 * MIB);
    rng.state = seed;
    for (;;) {
        if (count == 0 || bench_below(&rng, 10) < 6) {
            size_t size = bench_logu(&rng, 12, 20);

            BENCH_CALL(alloc,
                       live[count] = tier_runs_alloc(&runs, pages_for(size)));
            if (live[count] == NULL) {
                return (uint64_t)peak * 1000 / (64 * MIB);
            }
            bytes += size;
            peak = bytes > peak ? bytes : peak;
            live_bytes[count++] = size;
        } else {
            size_t slot = bench_below(&rng, count);

            BENCH_CALL(release, tier_runs_free(&runs, live[slot]));
            bytes -= live_bytes[slot];
            live[slot] = live[--count];
            live_bytes[slot] = live_bytes[count];
        }
    }
}

static void fragpage(void)
{
    struct bench_count alloc = {0};
    struct bench_count release = {0};
    uint64_t peak[5];

    for (uint64_t i = 0; i < 5; i++) {
        peak[i] = churn(BENCH_SEED + 1 + i, &alloc, &release);
    }
    bench_print_tenths("pages.fragpage", ".live", bench_median(peak, 5) * 10,
                       "permille");
    report("pages.fragpage", &alloc, &release);
}

int main(void)
{
    init();
    page0();
    page0cache();
    page0burst();
    page9();
    pagefill();
    worst();
    large();
    fragpage();
    return 0;
}
