/*
 * allocator.c - what the allocator as a whole costs: any size, transactions.
 *
 * SPDX-License-Identifier: MIT
 *
 * The workloads of objects.c and pages.c through tier_alloc and tier_free,
 * which find the tier by the size and by the address. The map comes out of the
 * arena.
 */
#define TIERALLOC_STATIC
#ifdef __clang__
#define TIERALLOC_API static __attribute__((unused, noinline))
#else
#define TIERALLOC_API static __attribute__((unused, noinline, noclone))
#endif
#include <tieralloc/tieralloc.h>

#include "bench.h"

#include <stdlib.h>

#define MIB         ((size_t)1 << 20)
#define ARENA_BYTES (128 * MIB)
#define LIVE_MAX    ((size_t)1 << 16)

/* Part of what is measured, without a call of its own. */
#define INLINE static inline __attribute__((always_inline))

static _Alignas(TIER_BLOCK_MAX) unsigned char arena[ARENA_BYTES];
static void *live[LIVE_MAX];
static size_t live_bytes[LIVE_MAX];
static struct tier_allocator tiers;
static struct bench_random rng;

/* An allocator over the first `bytes` bytes of the arena. */
static struct tier_allocator *start(size_t bytes)
{
    struct tier_allocator *heap = &tiers;

    rng.state = BENCH_SEED;
    if (tier_init(heap, (uintptr_t)arena, bytes, NULL, 0) != TIER_OK ||
        tier_add_region(heap, arena, bytes) != TIER_OK) {
        abort();
    }
    BENCH_DONE(heap); /* in a register, as a caller would have it */
    return heap;
}

/* Print two counts, of calls that must all have been met. */
static void report(const char *name, const struct bench_count *alloc,
                   const struct bench_count *release)
{
    struct tier_stats stats;

    tier_stats(&tiers, &stats);
    if (stats.failed_allocs != 0 || stats.refused_frees != 0) {
        abort();
    }
    bench_print(name, ".alloc", alloc);
    bench_print(name, ".free", release);
}

/* --- Instructions --------------------------------------------------------- */

static void pairs64(struct tier_allocator *heap, size_t times,
                    struct bench_count *alloc, struct bench_count *release)
{
    for (size_t i = 0; i < times; i++) {
        void *object;

        BENCH_CALL(alloc, object = tier_alloc(heap, 64));
        BENCH_CALL(release, tier_free(heap, object));
    }
}

static void lifo64(void)
{
    struct tier_allocator *heap = start(32 * MIB);
    struct bench_count warm = {0};
    struct bench_count alloc = {0};
    struct bench_count release = {0};

    pairs64(heap, 1000, &warm, &warm);
    pairs64(heap, 100000, &alloc, &release);
    report("allocator.lifo64", &alloc, &release);
}

/* `count` in use, of 2^from up to 2^to bytes each. */
struct load {
    size_t count;
    unsigned from;
    unsigned to;
};

static void fill(struct tier_allocator *heap, const struct load *load)
{
    for (size_t i = 0; i < load->count; i++) {
        live[i] = tier_alloc(heap, bench_logu(&rng, load->from, load->to));
    }
}

/* Free a random one, allocate another of another size; `times` times. */
static void replace(struct tier_allocator *heap, const struct load *load,
                    size_t times, struct bench_count *alloc,
                    struct bench_count *release)
{
    for (size_t i = 0; i < times; i++) {
        size_t slot = bench_below(&rng, load->count);
        size_t bytes;

        BENCH_DONE(slot);
        BENCH_CALL(release, tier_free(heap, live[slot]));
        bytes = bench_logu(&rng, load->from, load->to);
        BENCH_DONE(bytes);
        BENCH_CALL(alloc, live[slot] = tier_alloc(heap, bytes));
    }
}

static void mix(void)
{
    static const struct load load = {10000, 3, 12};
    struct tier_allocator *heap = start(64 * MIB);
    struct bench_count warm = {0};
    struct bench_count alloc = {0};
    struct bench_count release = {0};

    fill(heap, &load);
    replace(heap, &load, 50000, &warm, &warm);
    replace(heap, &load, 100000, &alloc, &release);
    report("allocator.mix", &alloc, &release);
}

static void large(void)
{
    static const struct load load = {500, 13, 18};
    struct tier_allocator *heap = start(128 * MIB);
    struct bench_count warm = {0};
    struct bench_count alloc = {0};
    struct bench_count release = {0};

    fill(heap, &load);
    replace(heap, &load, 10000, &warm, &warm);
    replace(heap, &load, 20000, &alloc, &release);
    report("allocator.large", &alloc, &release);
}

/* --- Transactions --------------------------------------------------------- */

#define TX_STEPS 3 /* allocations of 64 bytes in one transaction */

/* Allocate one by one. */
INLINE void alone(struct tier_allocator *heap, void *object[TX_STEPS])
{
    object[0] = tier_alloc(heap, 64);
    object[1] = tier_alloc(heap, 64);
    object[2] = tier_alloc(heap, 64);
}

/* Free, the newest first, as a rollback does. */
INLINE void undo(struct tier_allocator *heap, void *const object[TX_STEPS])
{
    tier_free(heap, object[2]);
    tier_free(heap, object[1]);
    tier_free(heap, object[0]);
}

/* Begin a transaction and allocate in it. */
INLINE void together(struct tier_tx *tx, struct tier_tx_record *log,
                     struct tier_allocator *heap, void *object[TX_STEPS])
{
    tier_tx_begin(tx, log, TX_STEPS);
    tier_tx_alloc(tx, heap, 64, &object[0]);
    tier_tx_alloc(tx, heap, 64, &object[1]);
    tier_tx_alloc(tx, heap, 64, &object[2]);
}

/* What each way takes, all in all. */
struct ways {
    struct bench_count allocs;    /* three allocations */
    struct bench_count pairs;     /* these, and three frees */
    struct bench_count commits;   /* begin, three allocations, commit */
    struct bench_count rollbacks; /* begin, three allocations, rollback */
};

/* Abort unless all were given. */
static void require(void *const object[TX_STEPS])
{
    if (object[0] == NULL || object[1] == NULL || object[2] == NULL) {
        abort();
    }
}

static void measure(struct tier_allocator *heap, size_t times,
                    struct ways *ways)
{
    struct tier_tx_record log[TX_STEPS];
    struct tier_tx tx;
    void *object[TX_STEPS];

    for (size_t i = 0; i < times; i++) {
        BENCH_CALL(&ways->allocs, alone(heap, object));
        require(object);
        undo(heap, object);
        BENCH_CALL(&ways->pairs, alone(heap, object); undo(heap, object));
        BENCH_CALL(&ways->commits, together(&tx, log, heap, object);
                   tier_tx_commit(&tx));
        require(object);
        undo(heap, object);
        BENCH_CALL(&ways->rollbacks, together(&tx, log, heap, object);
                   tier_tx_rollback(&tx));
        require(object);
    }
}

/* Print how much more a transaction takes than its steps alone. */
static void print_extra(const char *name, const struct bench_count *with,
                        const struct bench_count *without)
{
    uint64_t more =
        with->total > without->total ? with->total - without->total : 0;

    bench_print_tenths(name, ".extra",
                       (more * 10 + with->calls / 2) / with->calls,
                       "instructions");
}

static void transactions(void)
{
    struct tier_allocator *heap = start(32 * MIB);
    struct ways warm = {{0}, {0}, {0}, {0}};
    struct ways ways = {{0}, {0}, {0}, {0}};
    struct tier_stats stats;

    measure(heap, 1000, &warm);
    measure(heap, 10000, &ways);
    tier_stats(heap, &stats);
    if (stats.failed_allocs != 0 || stats.refused_frees != 0 ||
        stats.live_objects != 0) {
        abort();
    }
    print_extra("allocator.tx.commit", &ways.commits, &ways.allocs);
    print_extra("allocator.tx.rollback", &ways.rollbacks, &ways.pairs);
}

/* --- Memory --------------------------------------------------------------- */

/*
 * Allocate with p = 0.6 a size of 2^from up to 2^to bytes, else free a random
 * one, in 64 MiB, until the first failure: peak of live requested bytes, in
 * permille.
 */
static uint64_t churn(uint64_t seed, unsigned from, unsigned to)
{
    struct tier_allocator *heap = start(64 * MIB);
    size_t count = 0;
    size_t bytes = 0;
    size_t peak = 0;

    rng.state = seed;
    for (;;) {
        if (count == 0 || bench_below(&rng, 10) < 6) {
            size_t size = bench_logu(&rng, from, to);

            live[count] = tier_alloc(heap, size);
            if (live[count] == NULL) {
                return (uint64_t)peak * 1000 / (64 * MIB);
            }
            bytes += size;
            peak = bytes > peak ? bytes : peak;
            live_bytes[count++] = size;
        } else {
            size_t slot = bench_below(&rng, count);

            if (tier_free(heap, live[slot]) != TIER_OK) {
                abort();
            }
            bytes -= live_bytes[slot];
            live[slot] = live[--count];
            live_bytes[slot] = live_bytes[count];
        }
    }
}

static void frag(const char *name, unsigned from, unsigned to)
{
    uint64_t peak[5];

    for (uint64_t i = 0; i < 5; i++) {
        peak[i] = churn(BENCH_SEED + 1 + i, from, to);
    }
    bench_print_tenths(name, ".live", bench_median(peak, 5) * 10, "permille");
}

int main(void)
{
    lifo64();
    mix();
    large();
    transactions();
    frag("allocator.frag", 4, 15);
    frag("allocator.fragpage", 12, 20);
    return 0;
}
