/*
 * claims.c - the allocator beside a first-fit list of holes, on the same traces.
 *
 * SPDX-License-Identifier: MIT
 *
 * Instructions per pair of calls as the heap fills with objects and holes, the
 * least arena in which a trace completes, and the bytes lost per object: also
 * where the list is better. All metadata comes out of the arena, the structs
 * of both heaps included. The list is told how large what it frees is.
 */
#define TIERALLOC_STATIC
#ifdef __clang__
#define TIERALLOC_API static __attribute__((unused, noinline))
#else
#define TIERALLOC_API static __attribute__((unused, noinline, noclone))
#endif
#include <tieralloc/tieralloc.h>

#include "baseline.h"
#include "bench.h"

#include <stdlib.h>

#define KIB         ((size_t)1 << 10)
#define MIB         ((size_t)1 << 20)
#define ARENA_BYTES (192 * MIB)
#define LIVE_MAX    20000

/* 0: instructions per pair of calls; 1: arenas and overhead. */
#ifndef BENCH_MEMORY
#define BENCH_MEMORY 0
#endif

/* Which of the two is measured. */
enum side { BASELINE, TIERALLOC, SIDES };

static const char *const side_name[SIDES] = {".baseline", ".tieralloc"};

static _Alignas(TIER_BLOCK_MAX) unsigned char arena[ARENA_BYTES];
static void *live[LIVE_MAX];
static uint32_t live_bytes[LIVE_MAX];
static enum side side;
static struct baseline *list;
static struct tier_allocator *tiers;
static struct bench_random rng;

/* --- Both heaps ----------------------------------------------------------- */

/* An empty heap over the first `bytes` bytes of the arena, its struct in it. */
static void start(enum side which, size_t bytes)
{
    void *memory = arena;

    if (bytes > ARENA_BYTES) {
        abort();
    }
    side = which;
    if (side == BASELINE) {
        list = memory;
        baseline_init(list, arena + sizeof(*list), bytes - sizeof(*list));
        return;
    }
    tiers = memory;
    if (tier_init(tiers, (uintptr_t)arena, bytes, NULL, 0) != TIER_OK ||
        tier_add_region(tiers, arena + sizeof(*tiers),
                        bytes - sizeof(*tiers)) != TIER_OK) {
        abort();
    }
}

static void *take(size_t bytes, struct bench_count *count)
{
    struct baseline *first_fit = list;
    struct tier_allocator *allocator = tiers;
    void *memory;

    BENCH_DONE(bytes);
    BENCH_DONE(first_fit);
    BENCH_DONE(allocator);
    if (side == BASELINE) {
        BENCH_CALL(count, memory = baseline_alloc(first_fit, bytes));
    } else {
        BENCH_CALL(count, memory = tier_alloc(allocator, bytes));
    }
    return memory;
}

static void give(void *memory, size_t bytes, struct bench_count *count)
{
    struct baseline *first_fit = list;
    struct tier_allocator *allocator = tiers;
    enum tier_status status = TIER_OK;

    BENCH_DONE(bytes);
    BENCH_DONE(memory);
    BENCH_DONE(first_fit);
    BENCH_DONE(allocator);
    if (side == BASELINE) {
        BENCH_CALL(count, baseline_free(first_fit, memory, bytes));
    } else {
        BENCH_CALL(count, status = tier_free(allocator, memory));
    }
    if (status != TIER_OK) {
        abort();
    }
}

/* Put an object into a slot; false when there is no memory for it. */
static bool try_fill(size_t slot, size_t bytes, struct bench_count *count)
{
    live[slot] = take(bytes, count);
    live_bytes[slot] = (uint32_t)bytes;
    return live[slot] != NULL;
}

static void empty(size_t slot, struct bench_count *count)
{
    give(live[slot], live_bytes[slot], count);
}

/* --- The list itself ------------------------------------------------------ */

/* Fill an object with bytes that tell its slot. */
static void scribble(size_t slot)
{
    unsigned char *at = live[slot];

    for (size_t i = 0; i < live_bytes[slot]; i++) {
        at[i] = (unsigned char)(slot + i);
    }
}

/* Abort unless an object holds what scribble wrote into it. */
static void compare(size_t slot)
{
    const unsigned char *at = live[slot];

    for (size_t i = 0; i < live_bytes[slot]; i++) {
        if (at[i] != (unsigned char)(slot + i)) {
            abort();
        }
    }
}

/*
 * Abort unless the list is a heap: 5,000 random calls for 64 slots in 2 KiB,
 * which is too little for all, with contents and invariants checked.
 */
static void prove_baseline(void)
{
    struct bench_count unmeasured = {0};
    size_t used = 0;

    start(BASELINE, 2 * KIB);
    rng.state = BENCH_SEED;
    for (size_t i = 0; i < 5000; i++) {
        size_t slot = bench_below(&rng, 64);

        if (live[slot] != NULL) {
            compare(slot);
            empty(slot, &unmeasured);
            live[slot] = NULL;
            used -= baseline_round(live_bytes[slot]);
        } else if (try_fill(slot, bench_logu(&rng, 0, 9), &unmeasured)) {
            scribble(slot);
            used += baseline_round(live_bytes[slot]);
        }
        if (!baseline_check(list) || list->used != used) {
            abort();
        }
    }
}

#if !BENCH_MEMORY
/* --- Instructions --------------------------------------------------------- */

/* Put an object into a slot, in an arena that is large enough. */
static void fill(size_t slot, size_t bytes, struct bench_count *count)
{
    if (!try_fill(slot, bytes, count)) {
        abort();
    }
}

/*
 * Pairs that are measured with so many objects in use: fewer with 10, which
 * are set up anew for each, and with 10,000, where the list takes long.
 */
static size_t pairs(size_t objects)
{
    return objects == 10 || objects == 10000 ? 2000 : 10000;
}

/* Print what one pair of calls takes on both sides, and how they compare. */
static void report(const char *name, size_t objects,
                   const struct bench_count count[SIDES])
{
    uint64_t tenths[SIDES];
    char suffix[32];

    for (int which = BASELINE; which < SIDES; which++) {
        uint64_t done = count[which].calls / 2;

        tenths[which] = (count[which].total * 10 + done / 2) / done;
        snprintf(suffix, sizeof(suffix), ".%lu%s", (unsigned long)objects,
                 side_name[which]);
        bench_print_tenths(name, suffix, tenths[which], "instructions/pair");
        printf("%s.%s%s.worst %lu instructions\n", BENCH_TARGET, name, suffix,
               (unsigned long)count[which].worst);
    }
    snprintf(suffix, sizeof(suffix), ".%lu.ratio", (unsigned long)objects);
    bench_print_tenths(name, suffix, tenths[BASELINE] * 10 / tenths[TIERALLOC],
                       "times");
}

/* Free a random one of `objects` objects and allocate as much; `times` times. */
static void replace(size_t objects, size_t times, struct bench_count *count)
{
    for (size_t i = 0; i < times; i++) {
        size_t slot = bench_below(&rng, objects);

        empty(slot, count);
        fill(slot, live_bytes[slot], count);
    }
}

/*
 * As many objects of one size as holes between them. The list fills its holes
 * from below: each pair that follows costs it two.
 */
static void alternate(enum side which, size_t bytes, size_t objects)
{
    struct bench_count unmeasured = {0};

    start(which, objects * bytes * 9 / 4 + MIB);
    for (size_t i = 0; i < 2 * objects; i++) {
        fill(i, bytes, &unmeasured);
    }
    for (size_t i = objects; i > 0; i--) {
        empty(2 * i - 1, &unmeasured);
    }
    for (size_t i = 0; i < objects; i++) {
        live[i] = live[2 * i];
    }
}

/*
 * Pairs of one size with a hole for each object, set up anew whenever a tenth of
 * the objects was replaced: there are eight to ten holes for ten objects.
 */
static void fragmented(const char *name, size_t bytes, size_t objects)
{
    struct bench_count count[SIDES] = {{0}};
    size_t part = objects / 10;

    for (int which = BASELINE; which < SIDES; which++) {
        rng.state = BENCH_SEED;
        for (size_t done = 0; done < pairs(objects); done += part) {
            alternate((enum side)which, bytes, objects);
            replace(objects, part, &count[which]);
        }
    }
    report(name, objects, count);
}

/* Pairs of one size in a heap that is empty otherwise: the best of the list. */
static void alone(const char *name, size_t bytes)
{
    struct bench_count count[SIDES] = {{0}};
    struct bench_count warm = {0};

    for (int which = BASELINE; which < SIDES; which++) {
        start((enum side)which, MIB);
        for (size_t i = 0; i < 1000 + pairs(0); i++) {
            fill(0, bytes, i < 1000 ? &warm : &count[which]);
            empty(0, i < 1000 ? &warm : &count[which]);
        }
    }
    report(name, 0, count);
}

/*
 * Pairs of one size and nothing set up anew: as soon as each object has been
 * replaced, all lie at the bottom of the list's arena, and one hole is left.
 */
static void settled(const char *name, size_t bytes, size_t objects)
{
    struct bench_count count[SIDES] = {{0}};
    struct bench_count warm = {0};

    for (int which = BASELINE; which < SIDES; which++) {
        rng.state = BENCH_SEED;
        alternate((enum side)which, bytes, objects);
        replace(objects, 10 * objects, &warm);
        replace(objects, pairs(objects), &count[which]);
    }
    report(name, objects, count);
}

/* Objects in use, of 2^from up to 2^to bytes each. */
struct load {
    size_t objects;
    unsigned from;
    unsigned to;
};

/* Replace random ones by others of any of the sizes. */
static void replace_mixed(const struct load *load, size_t times,
                          struct bench_count *count)
{
    for (size_t i = 0; i < times; i++) {
        size_t slot = bench_below(&rng, load->objects);

        empty(slot, count);
        fill(slot, bench_logu(&rng, load->from, load->to), count);
    }
}

/*
 * 2,000 pairs of all sizes after 10,000 of warm-up from an empty heap on. By then
 * the list has the holes that it keeps, one for two to three objects.
 */
static void mixed(const char *name, const struct load *load)
{
    struct bench_count count[SIDES] = {{0}};
    struct bench_count warm = {0};
    size_t mean = ((size_t)3 << load->to) / (2 * (load->to - load->from));

    for (int which = BASELINE; which < SIDES; which++) {
        rng.state = BENCH_SEED;
        start((enum side)which, load->objects * mean * 2 + 2 * MIB);
        for (size_t i = 0; i < load->objects; i++) {
            fill(i, bench_logu(&rng, load->from, load->to), &warm);
        }
        replace_mixed(load, 10000, &warm);
        replace_mixed(load, 2000, &count[which]);
    }
    report(name, load->objects, count);
}

static void instructions(void)
{
    static const struct load small[] = {
        {10, 3, 12}, {100, 3, 12}, {1000, 3, 12}, {10000, 3, 12}};
    static const struct load large[] = {
        {10, 13, 18}, {100, 13, 18}, {1000, 13, 18}};

    alone("claims.small", 64);
    alone("claims.large", 8 * KIB);
    for (size_t objects = 10; objects <= 10000; objects *= 10) {
        fragmented("claims.small", 64, objects);
        fragmented("claims.large", 8 * KIB, objects);
    }
    for (size_t i = 0; i < sizeof(small) / sizeof(small[0]); i++) {
        mixed("claims.mixed", &small[i]);
    }
    for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++) {
        mixed("claims.runs", &large[i]);
    }
    settled("claims.settled", 64, 1000);
}

#else
/* --- Memory --------------------------------------------------------------- */

/*
 * Run a trace of 20,000 calls in so many pages: allocate 16 B to 8 KiB while
 * that leaves at most `most` bytes in use, else free a random one. False when an
 * allocation fails.
 */
static bool completes(enum side which, size_t pages, size_t most)
{
    struct bench_count unmeasured = {0};
    size_t bytes = 0;
    size_t count = 0;

    start(which, pages * TIER_PAGE_SIZE);
    rng.state = BENCH_SEED;
    for (size_t i = 0, size = bench_logu(&rng, 4, 13); i < 20000; i++) {
        if (bytes + size <= most) {
            if (!try_fill(count++, size, &unmeasured)) {
                return false;
            }
            bytes += size;
            size = bench_logu(&rng, 4, 13);
        } else {
            size_t slot = bench_below(&rng, count);

            empty(slot, &unmeasured);
            bytes -= live_bytes[slot];
            live[slot] = live[--count];
            live_bytes[slot] = live_bytes[count];
        }
    }
    return true;
}

/* The least pages in which the trace completes, and with one less does not. */
static size_t least_pages(enum side which, size_t most)
{
    size_t limit = 2 * most / TIER_PAGE_SIZE;
    size_t fails = limit / 2;
    size_t enough = limit;

    while (enough - fails > 1) {
        size_t pages = fails + (enough - fails) / 2;

        if (completes(which, pages, most)) {
            enough = pages;
        } else {
            fails = pages;
        }
    }
    if (enough == limit) {
        abort();
    }
    return enough;
}

/* The least arena for a trace that has 70 percent of `reference` in use. */
static void least_arena(const char *name, size_t reference)
{
    size_t pages[SIDES];

    for (int which = BASELINE; which < SIDES; which++) {
        pages[which] = least_pages((enum side)which, reference / 10 * 7);
        bench_print_tenths(name, side_name[which], (uint64_t)pages[which] * 10,
                           "pages");
    }
    bench_print_tenths(name, ".ratio",
                       (uint64_t)pages[TIERALLOC] * 10000 / pages[BASELINE],
                       "permille");
}

/* Bytes of 16 MiB that each object of one size takes beyond its own. */
static void overhead(const char *name, size_t bytes)
{
    for (int which = BASELINE; which < SIDES; which++) {
        struct bench_count unmeasured = {0};
        size_t count = 0;

        start((enum side)which, 16 * MIB);
        while (take(bytes, &unmeasured) != NULL) {
            count++;
        }
        bench_print_tenths(name, side_name[which],
                           (uint64_t)16 * MIB * 10 / count - bytes * 10,
                           "bytes");
    }
}

static void memory(void)
{
    least_arena("memory.arena2MiB", 2 * MIB);
    least_arena("memory.arena4MiB", 4 * MIB);
    least_arena("memory.arena8MiB", 8 * MIB);
    least_arena("memory.arena16MiB", 16 * MIB);
    overhead("memory.overhead16", 16);
    overhead("memory.overhead64", 64);
    overhead("memory.overhead100", 100);
    overhead("memory.overhead1000", 1000);
}
#endif

int main(void)
{
    prove_baseline();
#if BENCH_MEMORY
    memory();
#else
    instructions();
#endif
    return 0;
}
