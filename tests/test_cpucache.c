/*
 * tests/test_cpucache.c - magazines, with all CPUs played by one thread.
 *
 * SPDX-License-Identifier: MIT
 *
 * Holds for each option of config.h that the command line sets. By itself it is
 * for three CPUs; TIERALLOC_CPUS 1 is without a lock, 0 without magazines.
 */
#define TIERALLOC_IMPLEMENTATION
#ifndef TIERALLOC_CPUS
#define TIERALLOC_CPUS 3
#endif

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The machine: which CPU runs, whether in a section of its own, and locks. */
static struct {
    unsigned cpu;
    unsigned sections; /* entered ever */
    bool inside;       /* a section */
    bool slab_held;
    bool depot_held;
    size_t taken; /* locks, ever */
} machine;

#if TIERALLOC_CPUS > 0

static inline unsigned machine_enter(void)
{
    cr_assert(!machine.inside, "a section in a section");
    machine.inside = true;
    return ++machine.sections;
}

static inline void machine_leave(unsigned section)
{
    cr_assert(machine.inside && section == machine.sections);
    cr_assert(!machine.slab_held && !machine.depot_held);
    machine.inside = false;
}

#define TIERALLOC_CPU_ENTER(state) unsigned state = machine_enter()
#define TIERALLOC_CPU_LEAVE(state) machine_leave(state)

#endif

#if TIERALLOC_CPUS > 1

/* A lock that refuses to be taken twice, or in the wrong order. */
struct test_lock {
    unsigned state;
};

#define LOCK_FREE 0xF3EEU
#define LOCK_HELD 0x4E1DU

static struct test_lock slab_lock = {LOCK_FREE};

static inline unsigned machine_cpu(void)
{
    cr_assert(machine.inside, "the CPU may change");
    return machine.cpu;
}

static inline void test_lock_take(struct test_lock *lock)
{
    cr_assert(machine.inside, "a lock is taken outside a section");
    cr_assert_eq(lock->state, LOCK_FREE, "taken while held");
    cr_assert(!machine.depot_held, "nothing is taken after a depot's");
    lock->state = LOCK_HELD;
    *(lock == &slab_lock ? &machine.slab_held : &machine.depot_held) = true;
    machine.taken++;
}

static inline void test_lock_release(struct test_lock *lock)
{
    cr_assert_eq(lock->state, LOCK_HELD, "released while not held");
    lock->state = LOCK_FREE;
    *(lock == &slab_lock ? &machine.slab_held : &machine.depot_held) = false;
}

#define TIERALLOC_LOCKING         1
#define TIERALLOC_LOCK_TYPE       struct test_lock
#define TIERALLOC_LOCK_INIT(lock) ((lock)->state = LOCK_FREE)
#define TIERALLOC_LOCK(lock)      test_lock_take(lock)
#define TIERALLOC_UNLOCK(lock)    test_lock_release(lock)
#define TIERALLOC_CPU()           machine_cpu()

#endif

static uintptr_t caller; /* who says to be calling */
#define TIERALLOC_SITE() (caller)

#include "model.h"

#include <stdio.h>

#include <tieralloc/cpucache.h>
#include <tieralloc/runs.h>

#include "objects.h"

/* --- The rig -------------------------------------------------------------- */

/* 4 MiB, and more where pages are large: a slab may have sixteen of them. */
#if TIERALLOC_PAGE_SHIFT <= 12
#define ARENA_BYTES (4 * MIB)
#else
#define ARENA_BYTES (256 * TIER_PAGE_SIZE)
#endif
#define ARENA_PAGES (ARENA_BYTES >> TIERALLOC_PAGE_SHIFT)
#define FEW_PAGES   (TIERALLOC_PAGE_SHIFT < 12 ? ARENA_PAGES : (size_t)256)
#define SOME_PAGES  ((size_t)64)

/* CPUs that take part, and the last of them. */
#define CPUS     (TIERALLOC_CPUS > 0 ? TIERALLOC_CPUS : 1)
#define LAST_CPU ((unsigned)CPUS - 1)

/* What memory holds that the tier was never given, or is lent. */
#define STALE 0xA5
#define LENT  0xEE

/* Who allocates and who frees. */
#define ALICE ((uintptr_t)0xA11CE)
#define BOB   ((uintptr_t)0xB0B)

#define NAMED 3

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8 + 1];
static struct tier_pagemap map;
static struct tier_buddy buddy;
static struct tier_runs runs;
static struct tier_slab slab;
static struct tier_cpucache cache;
static struct tier_cache named[NAMED]; /* the tag of an object is index + 1 */

static struct model model;
static bool claimed[ARENA_BYTES / MODEL_GRAIN];
static size_t taken; /* bytes of the objects in the model, rounded up */

/* Between the slab tier and the source of its pages. */
static struct {
    struct tier_page_source inner;
    size_t outstanding; /* pages lent */
    size_t acquires;    /* calls, failed ones included */
    size_t fail_at;     /* the call that fails; 0 for none */
    bool failed;        /* one did, since this was cleared */
} lender;

#if TIERALLOC_CHECKS == 2
/* What was reported. */
static struct {
    size_t count;
    struct tier_report last;
} seen;

static void note(void *context, const struct tier_report *report)
{
    cr_assert_eq(context, (void *)&seen);
    seen.count++;
    seen.last = *report;
}
#endif

/* Run on this CPU from now on. */
static void on(unsigned cpu)
{
    machine.cpu = cpu % CPUS;
}

/* Call the slab tier itself: between these, as its users must. */
static unsigned hold(void)
{
    unsigned section = 0;

#if TIERALLOC_CPUS > 0
    section = machine_enter();
#endif
#if TIERALLOC_CPUS > 1
    TIERALLOC_LOCK(&slab_lock);
#endif
    return section;
}

static void let_go(unsigned section)
{
#if TIERALLOC_CPUS > 1
    TIERALLOC_UNLOCK(&slab_lock);
#endif
#if TIERALLOC_CPUS > 0
    machine_leave(section);
#else
    (void)section;
#endif
}

/* True when pages may be asked for and given back now. */
static bool may_call_source(void)
{
    return TIERALLOC_CPUS == 0 ||
           (machine.inside && (TIERALLOC_CPUS == 1 || machine.slab_held));
}

static void *lend(void *context, size_t pages)
{
    void *memory = NULL;

    cr_assert_eq(context, (void *)&lender);
    cr_assert(may_call_source());
    if (++lender.acquires != lender.fail_at) {
        memory = lender.inner.acquire(lender.inner.context, pages);
    }
    if (memory == NULL) {
        lender.failed = true;
        return NULL;
    }
    lender.outstanding += pages;
    memset(memory, LENT, pages * TIER_PAGE_SIZE);
    return memory;
}

static void take_back(void *context, void *memory, size_t pages)
{
    const size_t first = tier_pagemap_index_(&map, memory);

    cr_assert_eq(context, (void *)&lender);
    cr_assert(may_call_source());
    for (size_t i = first; i < first + pages; i++) {
        cr_assert_eq(map.kind[i], TIER_KIND_NONE);
#if TIERALLOC_CPUS > 0
        cr_assert(!slab.cached || map.cut[i] == 0);
#endif
    }
    lender.inner.release(lender.inner.context, memory, pages);
    lender.outstanding -= pages;
}

/* Make caches over the slab tier. */
static enum tier_status make(struct tier_cpucache *caches)
{
    const unsigned section = hold();
#if TIERALLOC_CPUS > 1
    const enum tier_status status =
        tier_cpucache_init(caches, &slab, &slab_lock);
#else
    const enum tier_status status = tier_cpucache_init(caches, &slab);
#endif

    let_go(section);
    return status;
}

/* A slab tier over a buddy tier of so many pages, or over its runs. */
static void set_up_slab(size_t pages, bool over_runs)
{
    const struct tier_page_source source = {lend, take_back, &lender};

    memset(map_memory, STALE, sizeof(map_memory));
    memset(&machine, 0, sizeof(machine));
#if TIERALLOC_CPUS > 1
    TIERALLOC_LOCK_INIT(&slab_lock);
#endif
    memset(&lender, 0, sizeof(lender));
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)arena,
                                   pages * TIER_PAGE_SIZE, map_memory,
                                   sizeof(map_memory)),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
    if (over_runs) {
        cr_assert_eq(tier_runs_init(&runs, &buddy, TIERALLOC_MAX_ORDER),
                     TIER_OK);
        tier_runs_source(&runs, &lender.inner);
    } else {
        tier_buddy_source(&buddy, &lender.inner);
    }
    tier_slab_init(&slab, &map, &source);
    model_init(&model, arena, ARENA_BYTES, claimed);
    taken = 0;
    caller = ALICE;
#if TIERALLOC_CHECKS == 2
    memset(&seen, 0, sizeof(seen));
    tier_slab_set_report(&slab, note, &seen);
#endif
}

/* The same, and caches in front of it, made in memory that was used before. */
static void set_up_over(size_t pages, bool over_runs)
{
    set_up_slab(pages, over_runs);
    memset(&cache, STALE, sizeof(cache));
    cr_assert_eq(make(&cache), TIER_OK);
}

static void set_up(size_t pages)
{
    set_up_over(pages, false);
}

static struct tier_slab_stats slab_stats(void)
{
    struct tier_slab_stats stats;

    tier_slab_stats(&slab, &stats);
    return stats;
}

static struct tier_cpucache_stats stats(void)
{
    struct tier_cpucache_stats now;

    tier_cpucache_stats(&cache, &now);
    return now;
}

/* True when all is whole, and nobody left a lock or a section behind. */
static bool whole(void)
{
    return tier_slab_check(&slab) && tier_cpucache_check(&cache) &&
           tier_buddy_check(&buddy) &&
           (lender.inner.context == &buddy || tier_runs_check(&runs)) &&
           slab_stats().pages == lender.outstanding && !machine.inside &&
           !machine.slab_held && !machine.depot_held;
}

/* Objects in use that the slab tier has, those that wait not counted. */
static size_t in_use(void)
{
    return slab_stats().live_objects - stats().waiting_objects;
}

/* Bytes that an object in the model takes. */
static size_t bytes_of(const struct model_slot *slot)
{
    return slot->tag == 0 ? object_for(slot->asked)
                          : named[slot->tag - 1].base.object_bytes;
}

/* Allocate by size, or by class; ALICE does. */
static unsigned char *get(size_t bytes, bool by_class)
{
    caller = ALICE;
    return by_class ? tier_cpucache_alloc_class(&cache, TIER_SIZE_CLASS(bytes))
                    : tier_cpucache_alloc(&cache, bytes);
}

/* Free; BOB does. */
static enum tier_status put(void *object)
{
    caller = BOB;
    return tier_cpucache_free(&cache, object);
}

static enum tier_status put_sized(void *object, size_t bytes)
{
    caller = BOB;
    return tier_cpucache_free_sized(&cache, object, bytes);
}

/* Allocate one object of a class and note it in the model. */
static unsigned char *take(size_t bytes, bool by_class)
{
    unsigned char *const object = get(bytes, by_class);

    if (object != NULL) {
        const size_t usable =
            by_class ? most_of(class_for(bytes)) : usable_for(bytes);

        model_add(&model, object, bytes,
                  TIERALLOC_CHECKS == 2 ? usable : object_for(bytes), 0);
        taken += object_for(bytes);
    }
    return object;
}

/* Allocate one object of a named cache and note it. */
static unsigned char *take_named(unsigned i)
{
    const unsigned section = hold();
    unsigned char *const object = tier_cache_alloc(&named[i]);

    let_go(section);
    if (object != NULL) {
        model_add(&model, object, 1, tier_slab_usable_size(&slab, object),
                  i + 1);
        taken += named[i].base.object_bytes;
    }
    return object;
}

/* Forget an object in the model, which nobody wrote to; its address. */
static void *forget(size_t index)
{
    void *const object = model.slot[index].at;

    taken -= bytes_of(&model.slot[index]);
    model_drop(&model, index);
    return object;
}

/* Free everything in the model, in random order, on random CPUs. */
static void free_all(uint64_t *random)
{
    while (model.count > 0) {
        on(test_below(random, CPUS));
        cr_assert_eq(put(forget(test_below(random, (uint32_t)model.count))),
                     TIER_OK);
    }
}

/* Drain all CPUs and trim; nothing may be held then, by anybody. */
static void expect_all_back(void)
{
    cr_assert_eq(in_use(), 0U);
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        (void)tier_cpucache_drain(&cache, cpu);
    }
    (void)tier_cpucache_trim(&cache);
    cr_assert_eq(stats().waiting_objects, 0U);
    cr_assert_eq(stats().waiting_bytes, 0U);
    cr_assert_eq(slab_stats().live_objects, 0U);
    cr_assert_eq(slab_stats().live_bytes, 0U);
    cr_assert_eq(slab_stats().pages, 0U);
    cr_assert_eq(lender.outstanding, 0U);
    cr_assert_eq(tier_cpucache_trim(&cache), 0U);
    if (lender.inner.context == &runs) {
        (void)tier_runs_trim(&runs);
        cr_assert_eq(runs.held_pages, 0U);
    }
    cr_assert(whole());
    cr_assert_eq(buddy.free_pages, buddy.managed_pages);
}

/* Everything there is, the arena included, but for counters of refusals. */
static uint64_t snapshot(void)
{
    const size_t refused = slab.refused_frees;
    uint64_t hash = UINT64_C(0xCBF29CE484222325);

    slab.refused_frees = 0;
    hash = fold(hash, &slab, sizeof(slab));
    slab.refused_frees = refused;
#if TIERALLOC_CPUS > 0
    size_t locks[TIERALLOC_CPUS];

    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        locks[i] = cache.cpu[i].locks;
        cache.cpu[i].locks = 0;
    }
#endif
    hash = fold(hash, &cache, sizeof(cache));
#if TIERALLOC_CPUS > 0
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        cache.cpu[i].locks = locks[i];
    }
#endif
    hash = fold(hash, named, sizeof(named));
    hash = fold(hash, map_memory, sizeof(map_memory));
    return fold(hash, arena, map.pages * TIER_PAGE_SIZE);
}

#if TIERALLOC_CPUS > 0 || TIERALLOC_CHECKS

/* The objects of a slab, one of which is at an address. */
static const struct tier_slab_desc_ *slab_of(const void *object)
{
    return (const struct tier_slab_desc_ *)map
        .entry[tier_pagemap_index_(&map, object)]
        .slab;
}

#endif

#if TIERALLOC_CHECKS

/* The index in the model of an object at an address; model.count for none. */
static size_t slot_at(const void *address)
{
    size_t index = 0;

    while (index < model.count && model.slot[index].at != address) {
        index++;
    }
    return index;
}

#endif

/* The next size of a run: each doubling from 8 up as often as any other. */
static size_t log_uniform(uint64_t *random, size_t most)
{
    size_t low = 8;

    for (uint32_t n = test_below(random, 9); n > 0 && low * 4 <= most; n--) {
        low *= 2;
    }
    return low + test_below(random, (uint32_t)low + 1);
}

#if TIERALLOC_CPUS > 0 || TIERALLOC_CHECKS

/* So many objects, and a size of which they are in more than one slab. */
#define MANY          192
#define SEVERAL_SLABS (TIER_SLAB_BYTES_MAX < 1000 ? 200 : 900)

/* Allocate so many objects of a class on CPU 0, and write to them. */
static size_t take_many(unsigned size_class, unsigned char **object,
                        size_t count)
{
    on(0);
    for (size_t n = 0; n < count; n++) {
        object[n] = get(most_of(size_class), false);
        cr_assert_not_null(object[n]);
        memset(object[n], 0x11, most_of(size_class));
    }
    return count;
}

#endif

#if TIERALLOC_CPUS > 0

/* The most objects of a class that a magazine may hold. */
static size_t limit_of(unsigned size_class)
{
    const size_t limit =
        TIERALLOC_CPU_BYTES / tier_slab_class_bytes(size_class);

    return limit < 2 ? 2 : limit > 63 ? 63 : limit;
}

#endif

#if TIERALLOC_CPUS > 0 && (TIERALLOC_CHECKS || TIERALLOC_CPUS > 1)

/* True when it waits in the depot of its class. */
static bool waits_in_depot(unsigned size_class, const void *object)
{
    bool waits = false;

#if TIERALLOC_CPUS > 1
    for (size_t i = 0; i < cache.depot[size_class].count; i++) {
        waits = waits || cache.depot[size_class].slot[i] == object;
    }
#else
    (void)size_class;
    (void)object;
#endif
    return waits;
}

#endif

/* --- Size classes --------------------------------------------------------- */

#define LARGEST_CLASS ((unsigned)TIER_SLAB_CLASSES - 1)

_Static_assert(TIER_SIZE_CLASS(TIER_SLAB_BYTES_MAX) == LARGEST_CLASS,
               "a size class is a constant expression");
#if TIERALLOC_CHECKS < 2
_Static_assert(TIER_SIZE_CLASS(0) == TIER_SIZE_CLASS(1) &&
                   TIER_SIZE_CLASS(64) == 7 &&
                   (TIERALLOC_MIN_ALIGN > 8 || TIER_SIZE_CLASS(65) == 8),
               "it is the one of the smallest object that holds so much");
#endif

Test(cpucache, size_class_is_the_one_used_for_every_size)
{
    set_up(FEW_PAGES);
    for (size_t bytes = 0; bytes <= TIER_SLAB_BYTES_MAX; bytes++) {
        const unsigned wanted = TIER_SIZE_CLASS(bytes);

        cr_assert_eq(wanted, tier_slab_class_(bytes), "%lu bytes",
                     (unsigned long)bytes);
        for (unsigned by_class = 0; by_class < 2; by_class++) {
            unsigned char *const object = get(bytes, by_class != 0);

            cr_assert_not_null(object);
            cr_assert_eq(map.kind[tier_pagemap_index_(&map, object)],
                         TIER_KIND_SLAB | wanted);
            cr_assert_eq(put_sized(object, bytes), TIER_OK);
        }
        if (bytes % 256 == 0) {
            (void)tier_cpucache_trim(&cache);
            cr_assert(whole());
        }
    }
    expect_all_back();
}

Test(cpucache, refuses_more_than_the_largest_object)
{
    set_up(SOME_PAGES);
    const uint64_t before = snapshot();
    const size_t locked = machine.taken;

    for (size_t bytes = TIER_SLAB_BYTES_MAX + 1; bytes < 40000; bytes++) {
        cr_assert_null(tier_cpucache_alloc(&cache, bytes));
    }
    for (size_t shift = 16; shift < sizeof(size_t) * 8; shift++) {
        cr_assert_null(tier_cpucache_alloc(&cache, (size_t)1 << shift));
        cr_assert_null(tier_cpucache_alloc(&cache, ~(size_t)0 >> shift % 16));
    }
    cr_assert_null(tier_cpucache_alloc(&cache, SIZE_MAX - 6));
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(slab_stats().failed_allocs, 0U);
    cr_assert_eq(lender.acquires, 0U);
    cr_assert_eq(machine.taken, locked);
}

/* --- Random runs ---------------------------------------------------------- */

static void set_up_named(void)
{
    cr_assert_eq(tier_cache_init(&named[0], &slab, "line", 1, 64, 0, NULL),
                 TIER_OK);
    cr_assert_eq(tier_cache_init(&named[1], &slab, "odd", 100, 4,
                                 TIER_CACHE_KEEP_NONE, NULL),
                 TIER_OK);
    cr_assert_eq(tier_cache_init(&named[2], &slab, "large",
                                 TIERALLOC_OBJECT_MAX - 100, 8, 0, NULL),
                 TIER_OK);
}

/* Allocate from a random class or a named cache, on some CPU. */
static void random_alloc(uint64_t *random)
{
    const unsigned which = test_below(random, TIER_SLAB_CLASSES + NAMED);

    on(test_below(random, CPUS));
    if (which >= TIER_SLAB_CLASSES) {
        (void)take_named(which - TIER_SLAB_CLASSES);
    } else if (is_served(which)) {
        const size_t spare = test_below(random, 8);
        const size_t most = most_of(which);

        (void)take(most > spare ? most - spare : most,
                   test_below(random, 2) == 0);
    }
}

/* Free a random object, on some CPU, by one of the calls that can. */
static void random_free(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot slot = model.slot[index];

    on(test_below(random, CPUS));
    (void)forget(index);
    if (test_below(random, 2) == 0) {
        cr_assert_eq(put(slot.at), TIER_OK);
    } else if (slot.tag == 0 || TIERALLOC_CHECKS > 0) {
        cr_assert_eq(put_sized(slot.at, slot.asked), TIER_OK);
    } else {
        /* Without checks a size stands for its class: not for this one. */
        const unsigned section = hold();

        cr_assert_eq(tier_cache_free(&named[slot.tag - 1], slot.at), TIER_OK);
        let_go(section);
    }
}

/* The counters must say what the model says. */
static void expect_stats_of_model(void)
{
    cr_assert_eq(in_use(), model.count);
    cr_assert_eq(slab_stats().live_bytes - stats().waiting_bytes, taken);
#if TIERALLOC_CPUS > 1
    cr_assert(stats().locks <= machine.taken);
#endif
}

/* Waves of growing and shrinking, so that memory runs out and comes back. */
static void random_steps(uint64_t *random, unsigned steps, unsigned wave)
{
    for (unsigned step = 0; step < steps; step++) {
        const bool growing = step / wave % 2 == 0;
        const bool alloc = test_below(random, 8) < (growing ? 6 : 2);

        if (model.count == 0 || (alloc && model.count < MODEL_SLOTS)) {
            random_alloc(random);
        } else {
            random_free(random);
        }
        if (test_below(random, wave / 2) == 0) {
            on(test_below(random, CPUS));
            (void)tier_cpucache_trim(&cache);
            (void)tier_cpucache_drain(&cache, test_below(random, CPUS));
        }
        cr_assert(whole(), "step %u", step);
        expect_stats_of_model();
        if (step % wave == wave - 1) {
            model_verify(&model);
        }
    }
    free_all(random);
}

/* So many steps of a random run, over either source of pages. */
static void random_run(uint64_t seed, bool over_runs, size_t pages)
{
    uint64_t random = seed;

    set_up_over(pages, over_runs);
    set_up_named();
    random_steps(&random, TIERALLOC_TEST_STEPS / 4, 500);
    cr_assert_eq(slab_stats().refused_frees, 0U);
#if TIERALLOC_CHECKS == 2
    cr_assert_eq(seen.count, 0U);
#endif
    expect_all_back();
}

Test(cpucache, random_run_agrees_with_the_model_over_a_buddy)
{
    random_run(TEST_SEED, false, FEW_PAGES);
}

Test(cpucache, random_run_agrees_with_the_model_over_runs)
{
    random_run(TEST_SEED + 1, true, FEW_PAGES);
}

Test(cpucache, random_run_agrees_with_the_model_when_memory_is_short)
{
    random_run(TEST_SEED + 2, false, SOME_PAGES);
}

/* --- Bad frees ------------------------------------------------------------ */

#if TIERALLOC_CHECKS

static void destroy_named(void)
{
    const unsigned section = hold();

    for (unsigned i = 0; i < NAMED; i++) {
        cr_assert_eq(tier_cache_destroy(&named[i]), TIER_OK);
    }
    let_go(section);
}

/* Show that all still works: a short run against the model. */
static void prove_whole(void)
{
    uint64_t random = TEST_SEED;

    cr_assert(whole());
    set_up_named();
    random_steps(&random, 60, 20);
    destroy_named();
    expect_all_back();
}

/* Free a bad pointer by each call, on the first CPU and the last. */
static void expect_refused(void *object, size_t bytes, enum tier_status status)
{
    const size_t before = slab_stats().refused_frees;

    for (unsigned cpu = 0; cpu < 2; cpu++) {
        on(cpu * LAST_CPU);
        cr_assert_eq(put(object), status);
        cr_assert_eq(put_sized(object, bytes), status);
    }
    cr_assert_eq(slab_stats().refused_frees, before + 4);
    on(0);
}

Test(cpucache, frees_null_without_counting_it)
{
    set_up(SOME_PAGES);
    const uint64_t before = snapshot();

    cr_assert_eq(put(NULL), TIER_OK);
    cr_assert_eq(put_sized(NULL, 0), TIER_OK);
    cr_assert_eq(put_sized(NULL, 64), TIER_OK);
    cr_assert_eq(put_sized(NULL, SIZE_MAX), TIER_OK);
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(slab_stats().refused_frees, 0U);
}

Test(cpucache, refuses_addresses_that_are_no_objects)
{
    set_up(SOME_PAGES);
    (void)take(TIER_SLAB_BYTES_MAX / 8, false);
    unsigned char *const block = tier_buddy_alloc(&buddy, 1);
    unsigned char *const nobodys = tier_buddy_alloc(&buddy, 0);
    const size_t meta = tier_pagemap_index_(&map, slab_of(model.slot[0].at));
    unsigned char *const pages[] = {
        block,
        block + TIER_PAGE_SIZE,
        tier_pagemap_address_(&map, meta),
        nobodys,
        arena + SOME_PAGES * TIER_PAGE_SIZE, /* outside */
        (unsigned char *)((uintptr_t)arena - TIER_PAGE_SIZE),
        (unsigned char *)(uintptr_t)TIER_PAGE_SIZE,
        (unsigned char *)(UINTPTR_MAX & ~(TIER_PAGE_SIZE - 1)),
    };

    cr_assert(block != NULL && nobodys != NULL);
    cr_assert_eq(tier_buddy_free(&buddy, nobodys), TIER_OK);
    const uint64_t before = snapshot();

    cr_assert_eq(map.kind[meta], TIER_KIND_META);
    for (size_t i = 0; i < COUNT(pages); i++) {
        for (size_t at = 0; at < TIER_PAGE_SIZE; at += at < 64 ? 1 : 56) {
            void *const address = (void *)((uintptr_t)pages[i] + at);

            expect_refused(address, 8, TIER_ERR_FOREIGN);
            expect_refused(address, SIZE_MAX, TIER_ERR_FOREIGN);
        }
    }
    expect_refused((void *)1, 8, TIER_ERR_FOREIGN);
    expect_refused((void *)8, 8, TIER_ERR_FOREIGN);
    expect_refused(&slab, 8, TIER_ERR_FOREIGN);
    expect_refused(&cache, 8, TIER_ERR_FOREIGN);
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(tier_buddy_free(&buddy, block), TIER_OK);
    uint64_t random = TEST_SEED;

    free_all(&random);
    prove_whole();
}

Test(cpucache, refuses_a_run_of_pages)
{
    uint64_t random = TEST_SEED;

    set_up_over(SOME_PAGES, true);
    (void)take(64, false);
    unsigned char *const run = tier_runs_alloc(&runs, 3);
    const uint64_t before = snapshot();

    cr_assert_not_null(run);
    for (size_t at = 0; at < 3 * TIER_PAGE_SIZE; at += 8) {
        expect_refused(run + at, 64, TIER_ERR_FOREIGN);
    }
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(tier_runs_free(&runs, run), TIER_OK);
    free_all(&random);
    prove_whole();
}

/* Free each address of [begin, end), which is inside something. */
static void expect_interior(unsigned char *begin, const unsigned char *end,
                            size_t bytes)
{
    for (unsigned char *at = begin; at < end; at++) {
        expect_refused(at, bytes, TIER_ERR_INTERIOR);
    }
}

/*
 * What the slab tier has left over before object 0 may be as long as an object
 * and more: nothing tells its addresses from those of objects but a mark.
 */
Test(cpucache, refuses_every_interior_pointer)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        uint64_t random = TEST_SEED;

        if (!is_served(i)) {
            continue;
        }
        set_up(SOME_PAGES);
        unsigned char *const object = take(most_of(i), false);
        const struct tier_slab_desc_ *const desc = slab_of(object);
        unsigned char *const end = desc->base + (size_t)desc->objects * bytes;
        const uint64_t before = snapshot();

        expect_interior(object + 1, object + bytes, most_of(i));
        expect_interior(desc->base + 1, desc->base + bytes, most_of(i));
        expect_interior(end - bytes + 1, end, most_of(i));
        expect_interior(end - desc->pages * TIER_PAGE_SIZE, desc->base,
                        most_of(i));
        cr_assert_eq(snapshot(), before);
        free_all(&random);
        prove_whole();
    }
}

/* Free all objects of a slab that nobody has in use. */
static void expect_free_ones_refused(const struct tier_slab_desc_ *desc,
                                     size_t bytes)
{
    for (size_t n = 0; n < desc->objects; n++) {
        unsigned char *const object =
            desc->base + n * desc->cache->object_bytes;

        if (slot_at(object) == model.count) {
            expect_refused(object, bytes, TIER_ERR_DOUBLE_FREE);
        }
    }
}

/* One object in use: all others wait, lie in a page that is carved, or not. */
Test(cpucache, refuses_objects_that_nobody_had_yet)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        uint64_t random = TEST_SEED;

        if (!is_served(i)) {
            continue;
        }
        set_up(SOME_PAGES);
        const struct tier_slab_desc_ *const desc =
            slab_of(take(most_of(i), false));
        const uint64_t before = snapshot();

        expect_free_ones_refused(desc, most_of(i));
        cr_assert_eq(snapshot(), before);
        free_all(&random);
        prove_whole();
    }
}

/* Where an object is between two owners. */
enum place { IN_MAGAZINE, IN_OTHER_MAGAZINE, IN_DEPOT, IN_SLAB, PLACES };

#if TIERALLOC_CPUS > 0

/* True when an object waits in the magazine of a CPU. */
static bool waits_for(unsigned cpu, unsigned size_class, const void *object)
{
    const struct tier_magazine *const magazine =
        &cache.cpu[cpu].magazine[size_class + 1];

    for (void **slot = magazine->floor; slot < magazine->top; slot++) {
        if (*slot == object) {
            return true;
        }
    }
    return false;
}

/* Free one of MANY objects of a class and have it end at a place. */
static void send(unsigned char **object, enum place place, unsigned size_class)
{
    const size_t limit = limit_of(size_class);

    on(place == IN_OTHER_MAGAZINE ? LAST_CPU : 0);
    cr_assert_eq(put(object[0]), TIER_OK);
    for (size_t n = 1; place == IN_DEPOT && n <= limit * 2; n++) {
        cr_assert_eq(put(object[n]), TIER_OK);
        if (waits_in_depot(size_class, object[0])) {
            break;
        }
    }
    if (place == IN_SLAB) {
        (void)tier_cpucache_drain(&cache, 0);
    }
    cr_assert_eq(waits_for(0, size_class, object[0]),
                 place == IN_MAGAZINE ||
                     (place == IN_OTHER_MAGAZINE && CPUS == 1));
    cr_assert_eq(waits_for(LAST_CPU, size_class, object[0]),
                 place == IN_OTHER_MAGAZINE ||
                     (place == IN_MAGAZINE && CPUS == 1));
    cr_assert_eq(waits_in_depot(size_class, object[0]), place == IN_DEPOT);
    on(0);
}

#else

static void send(unsigned char **object, enum place place, unsigned size_class)
{
    (void)place;
    (void)size_class;
    cr_assert_eq(put(object[0]), TIER_OK);
}

#endif

/* Free those that are in use: all that do not wait. */
static void free_rest(unsigned char **object, size_t count)
{
    const size_t before = slab_stats().refused_frees;

    for (size_t n = 0; n < count; n++) {
        const enum tier_status status = put(object[n]);

        cr_assert(status == TIER_OK || status == TIER_ERR_DOUBLE_FREE ||
                  status == TIER_ERR_FOREIGN);
    }
    cr_assert(slab_stats().refused_frees - before <= count);
}

/* An object of a class that is freed, and free at this place, is not again. */
static void expect_double_free_seen(unsigned size_class, enum place place)
{
    static unsigned char *object[MANY];

    set_up(FEW_PAGES);
    const size_t count =
        take_many(size_class, object,
                  tier_slab_class_bytes(size_class) <= 1024 ? MANY : 30);

    if (place == IN_SLAB && slab_of(object[0])->objects == 1) {
        return; /* with the object goes its slab */
    }
    send(object, place, size_class);
    const uint64_t before = snapshot();

    expect_refused(object[0], most_of(size_class), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(snapshot(), before);
    free_rest(object, count);
    prove_whole();
}

Test(cpucache, refuses_an_object_that_is_free_wherever_it_is)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        for (unsigned place = 0; is_served(i) && place < PLACES; place++) {
            const bool depot = place == IN_DEPOT;

            if (!depot ||
                (TIERALLOC_CPUS > 1 && tier_slab_class_bytes(i) <= 1024)) {
                expect_double_free_seen(i, (enum place)place);
            }
        }
    }
}

Test(cpucache, refuses_every_other_size)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        uint64_t random = TEST_SEED;

        if (!is_served(i)) {
            continue;
        }
        set_up(SOME_PAGES);
        unsigned char *const object = take(most_of(i), false);
        const uint64_t before = snapshot();

        for (unsigned k = 0; k < TIER_SLAB_CLASSES; k++) {
            if (k != i && is_served(k)) {
                on(k);
                cr_assert_eq(put_sized(object, most_of(k)),
                             TIER_ERR_WRONG_SIZE);
            }
        }
        cr_assert_eq(put_sized(object, most_of(i) + 1), TIER_ERR_WRONG_SIZE);
        cr_assert_eq(put_sized(object, TIER_SLAB_BYTES_MAX + 1),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(put_sized(object, SIZE_MAX), TIER_ERR_WRONG_SIZE);
        cr_assert_eq(put_sized(object, SIZE_MAX - 1), TIER_ERR_WRONG_SIZE);
        cr_assert_eq(snapshot(), before);
        free_all(&random);
        prove_whole();
    }
}

/* What the first word of a free object holds. */
static uintptr_t mark_of(const void *object)
{
#if TIERALLOC_CPUS > 0
    return (uintptr_t)object ^ (uintptr_t)map.cut;
#else
    return (uintptr_t)object ^ (uintptr_t)map.entry;
#endif
}

/* An object in use holds what it likes: even what marks a free one. */
Test(cpucache, frees_an_object_that_holds_the_mark)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i) || most_of(i) < sizeof(uintptr_t)) {
            continue;
        }
        set_up(FEW_PAGES);
        const size_t count = take_many(i, object, 10);

        for (size_t n = 0; n < count; n++) {
            const uintptr_t mark = mark_of(object[n]);

            memcpy(object[n], &mark, sizeof(mark));
            on((unsigned)n);
            cr_assert_eq(n % 2 == 0 ? put(object[n])
                                    : put_sized(object[n], most_of(i)),
                         TIER_OK);
            cr_assert(whole());
        }
        cr_assert_eq(slab_stats().refused_frees, 0U);
        cr_assert_eq(in_use(), 0U);
        if (TIERALLOC_CPUS > 0) {
            expect_refused(object[0], most_of(i), TIER_ERR_DOUBLE_FREE);
        }
        prove_whole();
    }
}

/* One that holds the mark and finds the magazine full makes room as others. */
Test(cpucache, frees_any_number_of_objects_that_hold_the_mark)
{
    static unsigned char *object[MANY];

    set_up(FEW_PAGES);
    const unsigned i = class_for(64);
    const size_t count = take_many(i, object, MANY);

    for (size_t n = 0; n < count; n++) {
        const uintptr_t mark = mark_of(object[n]);

        memcpy(object[n], &mark, sizeof(mark));
        cr_assert_eq(put(object[n]), TIER_OK);
        cr_assert(whole());
    }
    prove_whole();
}

Test(cpucache, frees_objects_of_named_caches_once)
{
    set_up(FEW_PAGES);
    set_up_named();
    for (unsigned i = 0; i < NAMED; i++) {
        (void)take_named(i); /* its slab stays */
        for (unsigned sized = 0; sized < 2; sized++) {
            unsigned char *const object = take_named(i);
            const size_t before = stats().waiting_objects;

            (void)forget(slot_at(object));
            on(1);
            cr_assert_eq(sized != 0 ? put_sized(object, 1) : put(object),
                         TIER_OK);
            cr_assert_eq(stats().waiting_objects, before);
            cr_assert_eq(in_use(), model.count);
            if (i != 1) {
                expect_refused(object, 1, TIER_ERR_DOUBLE_FREE);
                cr_assert_eq(put(object + 8), TIER_ERR_INTERIOR);
                cr_assert_eq(put_sized(object + 8, 1), TIER_ERR_INTERIOR);
            }
        }
        unsigned char *const object = take_named(i);
        const size_t refused = slab_stats().refused_frees;

        cr_assert_eq(put_sized(object, TIER_SLAB_BYTES_MAX + 1),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(slab_stats().refused_frees, refused + 1);
    }
    uint64_t random = TEST_SEED;

    free_all(&random);
    destroy_named();
    prove_whole();
}

#if TIERALLOC_CPUS > 0

/* What waits is in use for its slab: around the caches nothing is freed. */
Test(cpucache, alone_frees_what_it_gave_out)
{
    set_up(FEW_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        unsigned char *const object = get(most_of(i), false);
        const size_t before = slab_stats().refused_frees;
        const unsigned section = hold();

        cr_assert_eq(tier_slab_free(&slab, object), TIER_ERR_FOREIGN);
        cr_assert_eq(tier_slab_free_sized(&slab, object, most_of(i)),
                     TIER_ERR_FOREIGN);
        let_go(section);
        cr_assert_eq(slab_stats().refused_frees, before + 2);
        cr_assert_eq(put_sized(object, most_of(i)), TIER_OK);
        (void)tier_cpucache_trim(&cache);
    }
    prove_whole();
}

#endif

/* --- Double frees that something hid -------------------------------------- */

#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS == 2

/* At this level the record of an object says so whatever was written before. */
Test(cpucache, refuses_a_double_free_that_a_write_hid)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        for (unsigned how = 0; is_served(i) && how < 4; how++) {
            set_up(FEW_PAGES);
            const size_t count = take_many(i, object, 12);

            on(how & 1 ? LAST_CPU : 0);
            cr_assert_eq(put(object[3]), TIER_OK);
            uintptr_t mark;

            memcpy(&mark, object[3], sizeof(mark));
            memset(object[3], 0x3C, sizeof(mark));
            on(how & 2 ? LAST_CPU : 0);
            const size_t before = slab_stats().refused_frees;

            cr_assert_eq(put(object[3]), TIER_ERR_DOUBLE_FREE);
            cr_assert_eq(slab_stats().refused_frees, before + 1);
            for (size_t n = 0; n < count; n++) {
                cr_assert_eq(n == 3 ? TIER_OK : put(object[n]), TIER_OK);
            }
            memcpy(object[3], &mark, sizeof(mark));
            cr_assert(whole());
        }
    }
}

#elif TIERALLOC_CPUS > 0

/*
 * Promised of an object that is freed, written to and freed again: of the two
 * copies that wait one goes back to the slab and the other is dropped and
 * counted, if nobody allocates the object in between. Not promised: that the
 * second free is refused, and that while both copies wait they are not handed
 * out to two owners.
 */
static void free_hidden(unsigned char *object, unsigned first, unsigned second)
{
    on(first);
    cr_assert_eq(put(object), TIER_OK);
    memset(object, 0x3C, sizeof(uintptr_t));
    on(second);
    cr_assert_eq(put(object), TIER_OK);
}

/* Give all back; so many copies must be dropped. */
static void expect_dropped(size_t copies, bool last_cpu_first)
{
    const size_t before = slab_stats().refused_frees;

    (void)tier_cpucache_drain(&cache, last_cpu_first ? LAST_CPU : 0);
    cr_assert(tier_slab_check(&slab));
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        (void)tier_cpucache_drain(&cache, cpu);
    }
    (void)tier_cpucache_trim(&cache);
    cr_assert_eq(slab_stats().refused_frees, before + copies);
    cr_assert_eq(stats().waiting_objects, 0U);
    cr_assert(whole());
}

/* Allocate what a class has; the model sees what is handed out twice. */
static void expect_nothing_twice(unsigned size_class)
{
    uint64_t random = TEST_SEED;

    for (unsigned n = 0; n < 200; n++) {
        on(n);
        if (take(most_of(size_class), false) == NULL) {
            break;
        }
    }
    model_verify(&model);
    cr_assert_eq(in_use(), model.count);
    free_all(&random);
}

Test(cpucache, drops_one_of_two_copies_of_an_object)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        for (unsigned how = 0; is_served(i) && how < 8; how++) {
            set_up(FEW_PAGES);
            const size_t count = take_many(i, object, 12);

            free_hidden(object[3], how & 1 ? LAST_CPU : 0,
                        how & 2 ? LAST_CPU : 0);
            expect_dropped(1, (how & 4) != 0);
            for (size_t n = 0; n < count; n++) {
                cr_assert_eq(n == 3 ? TIER_OK : put(object[n]), TIER_OK);
            }
            expect_dropped(0, false);
            cr_assert_eq(in_use(), 0U);
            expect_nothing_twice(i);
            prove_whole();
        }
    }
}

/* Free all objects but one, each back into its slab at once. */
static void free_others(unsigned char **object, size_t count, size_t except)
{
    on(0);
    for (size_t n = 0; n < count; n++) {
        cr_assert_eq(n == except ? TIER_OK : put(object[n]), TIER_OK);
        (void)tier_cpucache_drain(&cache, 0);
    }
}

/*
 * The first copy may be the last object of its slab, which then goes away; its
 * pages may be others' before the second copy goes back.
 */
Test(cpucache, drops_a_copy_of_an_object_whose_slab_is_gone)
{
    static unsigned char *object[MANY];
    const unsigned i = class_for(SEVERAL_SLABS);

    for (size_t which = 0; which < MANY; which += 3) {
        uint64_t random = TEST_SEED;

        set_up_over(FEW_PAGES, which % 2 != 0);
        free_others(object, take_many(i, object, MANY), which);
        const size_t pages = slab_stats().pages;

        free_hidden(object[which], 0, LAST_CPU);
        if (CPUS > 1) {
            (void)tier_cpucache_drain(&cache, 0);
            cr_assert(slab_stats().pages < pages);
            on(0);
            for (unsigned n = 0; n < 300; n++) {
                const size_t bytes = 8 + n % (TIER_SLAB_BYTES_MAX - 8);

                if (class_for(bytes) != i) {
                    (void)take(bytes, false);
                }
            }
        }
        expect_dropped(1, true);
        cr_assert_eq(in_use(), model.count);
        free_all(&random);
        prove_whole();
    }
}

/* Back in its slab an object is free: a copy of it is dropped as well. */
Test(cpucache, drops_an_object_that_its_slab_has)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up(FEW_PAGES);
        const size_t count = take_many(i, object, 12);

        if (slab_of(object[5])->objects == 1) {
            continue;
        }
        cr_assert_eq(put(object[5]), TIER_OK);
        expect_dropped(0, false);
        memset(object[5], 0x3C, sizeof(uintptr_t));
        on(1);
        cr_assert_eq(put(object[5]), TIER_OK);
        expect_dropped(1, true);
        for (size_t n = 0; n < count; n++) {
            cr_assert_eq(n == 5 ? TIER_OK : put(object[n]), TIER_OK);
        }
        expect_nothing_twice(i);
        prove_whole();
    }
}

#endif
#endif /* TIERALLOC_CHECKS */

/* --- Magazines ------------------------------------------------------------ */

#if TIERALLOC_CPUS > 0

/* Objects of a class that wait for a CPU. */
static size_t waiting(unsigned cpu, unsigned size_class)
{
    const struct tier_magazine *const magazine =
        &cache.cpu[cpu].magazine[size_class + 1];

    return (size_t)(magazine->top - magazine->floor);
}

Test(cpucache, a_magazine_is_bounded_by_bytes_and_by_slots)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t limit = limit_of(i);
        size_t most = 0;

        if (!is_served(i)) {
            continue;
        }
        set_up(ARENA_PAGES);
        on(0);
        for (size_t n = 0; n < limit * 3; n++) {
            object[n] = get(most_of(i), false);
            cr_assert_not_null(object[n]);
            cr_assert(waiting(0, i) < limit);
        }
        for (size_t n = 0; n < limit * 3; n++) {
            cr_assert_eq(put(object[n]), TIER_OK);
            most = waiting(0, i) > most ? waiting(0, i) : most;
            cr_assert(waiting(0, i) >= 1);
        }
        cr_assert_eq(most, limit);
        cr_assert(limit >= 2 && limit <= TIER_MAGAZINE_SLOTS - 1);
        cr_assert(limit == 2 ||
                  limit * tier_slab_class_bytes(i) <= TIERALLOC_CPU_BYTES);
        cr_assert_eq(stats().waiting_objects, slab_stats().live_objects);
        cr_assert_eq(stats().waiting_bytes,
                     stats().waiting_objects * tier_slab_class_bytes(i));
        cr_assert(whole());
        expect_all_back();
    }
}

/* A batch is half a magazine at least: then few calls move one. */
Test(cpucache, a_move_leaves_room_and_objects)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t limit = limit_of(i);

        if (!is_served(i)) {
            continue;
        }
        set_up(ARENA_PAGES);
        for (size_t n = 0; n < limit * 2; n++) {
            object[n] = get(most_of(i), false);
            cr_assert(n != 0 || waiting(0, i) >= (limit + 1) / 2 - 1 ||
                      waiting(0, i) + 1 == slab_of(object[0])->objects);
        }
        for (size_t n = 0; n < limit * 2; n++) {
            const bool full = waiting(0, i) == limit;

            cr_assert_eq(put(object[n]), TIER_OK);
            if (full) {
                cr_assert(waiting(0, i) - 1 <= limit / 2);
                cr_assert(waiting(0, i) <= limit);
            }
        }
        expect_all_back();
    }
}

/* Frees make room by giving back what waited longest. */
Test(cpucache, gives_back_what_was_freed_first)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t limit = limit_of(i);

        if (!is_served(i)) {
            continue;
        }
        set_up(ARENA_PAGES);
        (void)take_many(i, object, limit * 2);
        (void)tier_cpucache_drain(&cache, 0);
        for (size_t n = 0; n <= limit; n++) {
            cr_assert_eq(put(object[n]), TIER_OK);
        }
        const size_t kept = waiting(0, i);

        for (size_t n = 0; n < kept; n++) {
            cr_assert_eq(get(most_of(i), n % 2 == 0), object[limit - n]);
        }
        cr_assert_eq(waiting(0, i), 0U);
    }
}

Test(cpucache, allocates_what_was_freed_last)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        for (unsigned cpu = 0; cpu < CPUS; cpu++) {
            unsigned char *object[2];

            set_up(FEW_PAGES);
            on(cpu);
            object[0] = get(most_of(i), false);
            object[1] = get(most_of(i), true);
            cr_assert_neq(object[0], object[1]);
            cr_assert_eq(put(object[0]), TIER_OK);
            cr_assert_eq(put_sized(object[1], most_of(i)), TIER_OK);
            cr_assert_eq(get(most_of(i), true), object[1]);
            cr_assert_eq(get(most_of(i), false), object[0]);
        }
    }
}

/* What is freed on one CPU waits for that one; the others have their own. */
Test(cpucache, keeps_objects_for_the_cpu_that_freed_them)
{
    set_up(FEW_PAGES);
    on(0);
    unsigned char *const object = get(64, false);
    const unsigned i = class_for(64);

    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        const size_t before = waiting(cpu, i);

        on(cpu);
        cr_assert_eq(put(object), TIER_OK);
        cr_assert_eq(waiting(cpu, i), before + 1);
        cr_assert_eq(get(64, false), object);
        cr_assert_eq(waiting(cpu, i), before);
    }
}

/* --- Locks ---------------------------------------------------------------- */

/* Locks taken, as counted by the machine; without locks, by the caches. */
static size_t locks(void)
{
    return TIERALLOC_CPUS > 1 ? machine.taken : stats().locks;
}

Test(cpucache, takes_no_lock_for_the_common_pair)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up(FEW_PAGES);
        on(1);
        cr_assert_eq(put(get(most_of(i), false)), TIER_OK);
        const size_t before = locks();
        const struct tier_cpucache_stats was = stats();

        for (unsigned n = 0; n < 100; n++) {
            unsigned char *const object = get(most_of(i), n % 2 == 0);

            cr_assert_eq(n % 4 < 2 ? put(object)
                                   : put_sized(object, most_of(i)),
                         TIER_OK);
        }
        cr_assert_eq(locks(), before);
        cr_assert_eq(stats().moves, was.moves);
        cr_assert_eq(stats().locks, was.locks);
    }
}

/* A free finds its magazine from anywhere in a slab, however many pages. */
Test(cpucache, takes_no_lock_for_any_object_of_a_slab)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up(FEW_PAGES);
        size_t count = slab_of(get(most_of(i), false))->objects;

        count = take_many(i, object, count < 20 ? count : MANY);
        while (waiting(0, i) + 1 >= limit_of(i)) {
            cr_assert_not_null(get(most_of(i), false));
        }
        const size_t before = locks();

        for (size_t n = 0; n < count; n++) {
            cr_assert_eq(put(object[n]), TIER_OK);
            cr_assert_eq(get(most_of(i), false), object[n]);
        }
        cr_assert_eq(locks(), before);
    }
}

/* Make one call of a long run, and see what it costs. */
static void expect_few_locks(uint64_t *random, bool alloc)
{
    const size_t before = locks();
    const size_t counted = stats().locks;
    const size_t moves = stats().moves;

    on(test_below(random, CPUS));
    if (alloc) {
        (void)take(64, false);
    } else {
        const size_t n = test_below(random, (uint32_t)model.count);

        cr_assert_eq(put(forget(n)), TIER_OK);
    }
    cr_assert(locks() - before <= 2);
    cr_assert_eq(stats().locks - counted, locks() - before);
    cr_assert_eq(stats().moves - moves, locks() != before);
}

Test(cpucache, takes_two_locks_at_most_for_a_call)
{
    uint64_t random = TEST_SEED;

    set_up(FEW_PAGES);
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        const bool growing = step / 500 % 2 == 0;
        const bool alloc = test_below(&random, 8) < (growing ? 7 : 1);

        expect_few_locks(&random, model.count == 0 ||
                                      (alloc && model.count < MODEL_SLOTS));
    }
    cr_assert(stats().moves > 0);
    free_all(&random);
    expect_all_back();
}

/* Print what so many pairs of calls took, and require that it was little. */
static void expect_ratio(const char *what, size_t taken_locks, size_t pairs,
                         size_t part)
{
    printf("%s: %lu locks for %lu pairs: 1/%lu\n", what,
           (unsigned long)taken_locks, (unsigned long)pairs,
           (unsigned long)(pairs / (taken_locks + (taken_locks == 0))));
    if (TIERALLOC_CPU_BYTES >= 65536) {
        cr_assert(taken_locks * part <= pairs);
    }
}

#if TIERALLOC_OBJECT_MAX >= 8192

#define IN_FLIGHT 100

/* CPU 0 allocates, CPU 1 frees, with some objects on their way. */
static void hand_over(const char *what, size_t bytes)
{
    unsigned char *ring[IN_FLIGHT] = {NULL};
    uint64_t random = TEST_SEED;
    const size_t pairs = (size_t)TIERALLOC_TEST_STEPS * 5;
    size_t before = 0;

    set_up(ARENA_PAGES);
    for (size_t n = 0; n < IN_FLIGHT + pairs; n++) {
        unsigned char **const slot = &ring[n % IN_FLIGHT];

        before = n == IN_FLIGHT ? locks() : before;
        on(1);
        cr_assert_eq(put(*slot), TIER_OK);
        on(0);
        *slot = get(bytes != 0 ? bytes : log_uniform(&random, 4096), false);
        cr_assert_not_null(*slot);
    }
    expect_ratio(what, locks() - before, pairs, 8);
    cr_assert(whole());
}

Test(cpucache, takes_few_locks_where_one_cpu_allocates_and_another_frees)
{
    hand_over("hand-over, 64 bytes", 64);
    hand_over("hand-over, 8 to 4096 bytes", 0);
}

#endif

#if TIERALLOC_TEST_STEPS < 10000
#define CHURN 2000
#else
#define CHURN 10000
#endif

Test(cpucache, takes_few_locks_for_churn)
{
    static unsigned char *live[CHURN];
    uint64_t random = TEST_SEED;
    const size_t pairs = (size_t)TIERALLOC_TEST_STEPS * 5;

    set_up(ARENA_PAGES);
    for (size_t n = 0; n < CHURN; n++) {
        live[n] = get(log_uniform(&random, 256), false);
        cr_assert_not_null(live[n]);
    }
    const size_t before = locks();

    for (size_t n = 0; n < pairs; n++) {
        unsigned char **const slot = &live[test_below(&random, CHURN)];

        cr_assert_eq(put(*slot), TIER_OK);
        *slot = get(log_uniform(&random, 256), false);
        cr_assert_not_null(*slot);
    }
    expect_ratio("churn", locks() - before, pairs, 32);
    cr_assert(whole());
}

/* --- Giving memory back --------------------------------------------------- */

Test(cpucache, drains_one_cpu)
{
    static unsigned char *object[CPUS][20];

    set_up(FEW_PAGES);
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        on(cpu);
        for (unsigned n = 0; n < 20; n++) {
            object[cpu][n] = get(n * 8, false);
        }
    }
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        on(cpu);
        for (unsigned n = 0; n < 20; n++) {
            cr_assert_eq(put(object[cpu][n]), TIER_OK);
        }
    }
    on(0);
    for (unsigned cpu = LAST_CPU; cpu + 1 > 0; cpu--) {
        const size_t before = stats().waiting_objects;
        size_t wait = 0;

        for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
            wait += waiting(cpu, i);
        }
        cr_assert(wait >= 20);
        cr_assert_eq(tier_cpucache_drain(&cache, cpu), wait);
        cr_assert_eq(stats().waiting_objects, before - wait);
        cr_assert_eq(slab_stats().live_objects, before - wait);
        cr_assert_eq(tier_cpucache_drain(&cache, cpu), 0U);
        cr_assert(whole());
    }
    expect_all_back();
}

Test(cpucache, drains_no_cpu_that_does_not_exist)
{
    set_up(SOME_PAGES);
    cr_assert_eq(put(get(64, false)), TIER_OK);
    const uint64_t before = snapshot();

    cr_assert_eq(tier_cpucache_drain(&cache, TIERALLOC_CPUS), 0U);
    cr_assert_eq(tier_cpucache_drain(&cache, TIERALLOC_CPUS + 1), 0U);
    cr_assert_eq(tier_cpucache_drain(&cache, ~0U), 0U);
    cr_assert_eq(snapshot(), before);
}

/* Trimming leaves alone what waits for other CPUs. */
Test(cpucache, trims_the_calling_cpu_and_all_depots)
{
    static unsigned char *object[MANY];
    const unsigned i = class_for(SEVERAL_SLABS);

    set_up(FEW_PAGES);
    (void)take_many(i, object, MANY);
    for (unsigned n = 0; n < MANY; n++) {
        on(n < 2 ? LAST_CPU : 0);
        cr_assert_eq(put(object[n]), TIER_OK);
    }
    on(0);
    const size_t others = CPUS > 1 ? waiting(LAST_CPU, i) : 0;
    const size_t pages = slab_stats().pages;

    cr_assert_eq(others, CPUS > 1 ? 2U : 0U);
    const size_t trimmed = tier_cpucache_trim(&cache);

    cr_assert(trimmed > 0);
    cr_assert_eq(pages - trimmed, slab_stats().pages);
    cr_assert_eq(slab_stats().pages, lender.outstanding);
    cr_assert_eq(stats().waiting_objects, others);
    cr_assert_eq(slab_stats().live_objects, others);
    cr_assert(whole());
    on(LAST_CPU);
    cr_assert_eq(tier_cpucache_trim(&cache), pages - trimmed);
    cr_assert_eq(slab_stats().pages, 0U);
    expect_all_back();
}

/* --- Making caches -------------------------------------------------------- */

static unsigned char room[sizeof(struct tier_cpucache) * 2 + 512];

Test(cpucache, is_made_at_no_misaligned_address)
{
    const size_t alignment = TIER_MAGAZINE_SLOTS * sizeof(void *);
    unsigned char *const at = test_align(room, alignment);

    set_up_slab(SOME_PAGES, false);
    memset(room, STALE, sizeof(room));
    const uint64_t before = snapshot();

    for (size_t offset = sizeof(void *); offset < alignment;
         offset += sizeof(void *)) {
        cr_assert_eq(make((struct tier_cpucache *)(void *)(at + offset)),
                     TIER_ERR_MISALIGNED);
    }
    cr_assert(test_all(room, STALE, sizeof(room)));
    cr_assert_eq(snapshot(), before);
    memset(&cache, STALE, sizeof(cache));
    cr_assert_eq(make(&cache), TIER_OK);
    cr_assert(whole());
}

Test(cpucache, is_not_made_while_an_object_of_a_class_is_in_use)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up_slab(SOME_PAGES, false);
        memset(&cache, STALE, sizeof(cache));
        unsigned section = hold();
        unsigned char *const object = tier_slab_alloc(&slab, most_of(i));

        cr_assert_not_null(object);
        let_go(section);
        const uint64_t before = snapshot();

        cr_assert_eq(make(&cache), TIER_ERR_IN_USE);
        cr_assert_eq(snapshot(), before);
        section = hold();
        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
        let_go(section);
        cr_assert(slab_stats().pages > 0);
        cr_assert_eq(make(&cache), TIER_OK);
        cr_assert_eq(slab_stats().pages, 0U);
        cr_assert_eq(put(get(most_of(i), false)), TIER_OK);
        cr_assert(whole());
        expect_all_back();
    }
}

Test(cpucache, is_made_once_for_a_slab_tier)
{
    struct tier_cpucache *const other =
        test_align(room, TIER_MAGAZINE_SLOTS * sizeof(void *));

    set_up(SOME_PAGES);
    for (unsigned round = 0; round < 2; round++) {
        const uint64_t before = snapshot();

        memset(room, STALE, sizeof(room));
        cr_assert_eq(make(other), TIER_ERR_IN_USE);
        cr_assert(test_all(room, STALE, sizeof(room)));
        cr_assert_eq(make(&cache), TIER_ERR_IN_USE);
        cr_assert_eq(snapshot(), before);
        cr_assert_eq(put(get(64, false)), TIER_OK);
    }
    cr_assert(whole());
}

Test(cpucache, is_made_while_objects_of_named_caches_are_in_use)
{
    uint64_t random = TEST_SEED;

    set_up_slab(FEW_PAGES, false);
    memset(&cache, STALE, sizeof(cache));
    set_up_named();
    for (unsigned i = 0; i < NAMED; i++) {
        (void)take_named(i);
    }
    cr_assert_eq(make(&cache), TIER_OK);
    for (unsigned n = 0; n < 50; n++) {
        random_alloc(&random);
        cr_assert(whole());
    }
    expect_stats_of_model();
    free_all(&random);
    expect_all_back();
}

#endif /* TIERALLOC_CPUS > 0 */

/* --- Failure -------------------------------------------------------------- */

/* Allocate; there is nothing only when a request of pages failed just now. */
static void take_or_fail(size_t bytes)
{
    const size_t failed = slab_stats().failed_allocs;

    lender.failed = false;
    if (take(bytes, false) == NULL) {
        cr_assert(lender.failed);
        cr_assert_eq(slab_stats().failed_allocs, failed + 1);
    }
    cr_assert(whole());
    expect_stats_of_model();
}

/* Calls that need pages for objects and for descriptors, on all CPUs. */
static void script(void)
{
    uint64_t random = TEST_SEED;

    for (unsigned n = 0; n < 120; n++) {
        on(n);
        take_or_fail(
            n % 3 == 0 ? 1 + n : log_uniform(&random, TIER_SLAB_BYTES_MAX / 2));
        if (n % 4 == 3 && model.count > 0) {
            on(n + 1);
            cr_assert_eq(put(forget(n % model.count)), TIER_OK);
        }
        if (n % 50 == 49) {
            (void)tier_cpucache_trim(&cache);
            cr_assert(whole());
        }
    }
    model_verify(&model);
    free_all(&random);
}

Test(cpucache, survives_failure_of_each_page_request_in_turn)
{
    size_t fail_at = 0;

    do {
        fail_at++;
        set_up_over(FEW_PAGES, fail_at % 2 == 0);
        lender.fail_at = fail_at;
        script();
        const size_t acquires = lender.acquires;

        expect_all_back();
        lender.fail_at = acquires < fail_at ? 0 : fail_at;
    } while (lender.fail_at != 0);
    cr_assert(fail_at > 4);
}

/* --- Filling memory ------------------------------------------------------- */

#define FILL_BYTES (SOME_PAGES * TIER_PAGE_SIZE)

static void *filled[FILL_BYTES / 8];

/* Allocate on each CPU until there is nothing; how many that is. */
static size_t fill(unsigned size_class)
{
    size_t count = 0;

    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        on(cpu);
        while ((filled[count] = get(most_of(size_class), false)) != NULL) {
            count++;
            cr_assert(count < COUNT(filled));
        }
    }
    return count;
}

/* Put objects into another order. */
static void shuffle(void **objects, size_t count, uint64_t *random)
{
    for (size_t n = count; n > 1; n--) {
        const size_t other = test_below(random, (uint32_t)n);
        void *const object = objects[n - 1];

        objects[n - 1] = objects[other];
        objects[other] = object;
    }
}

Test(cpucache, gives_every_page_back_after_filling_to_failure)
{
    uint64_t random = TEST_SEED;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up_over(SOME_PAGES, i % 2 != 0);
        const size_t count = fill(i);
        const size_t bytes = count * tier_slab_class_bytes(i);

        cr_assert(bytes <= FILL_BYTES);
        cr_assert(bytes * 2 >= FILL_BYTES - 4 * TIER_PAGE_SIZE,
                  "%lu bytes of class %u", (unsigned long)bytes, i);
        cr_assert_eq(stats().waiting_objects, 0U);
        cr_assert_eq(in_use(), count);
        cr_assert(whole());
        shuffle(filled, count, &random);
        for (size_t n = 0; n < count; n++) {
            on(test_below(&random, CPUS));
            cr_assert_eq(n % 2 == 0 ? put(filled[n])
                                    : put_sized(filled[n], most_of(i)),
                         TIER_OK);
        }
        cr_assert(whole());
        expect_all_back();
    }
}

/* --- Checking ------------------------------------------------------------- */

#if TIERALLOC_CPUS > 0

/* Change a word, look, and change it back. */
static void expect_seen(void *place, uintptr_t value)
{
    uintptr_t right;

    memcpy(&right, place, sizeof(right));
    if (right == value) {
        return;
    }
    cr_assert(tier_cpucache_check(&cache));
    memcpy(place, &value, sizeof(value));
    cr_assert_not(tier_cpucache_check(&cache));
    memcpy(place, &right, sizeof(right));
    cr_assert(tier_cpucache_check(&cache));
}

/* Objects of two classes wait for each CPU, and in the depots. */
static void set_up_waiting(unsigned size_class)
{
    static unsigned char *object[MANY];
    const size_t limit = limit_of(size_class);
    const unsigned other = other_than(size_class);

    set_up(ARENA_PAGES);
    (void)take_many(other, object, 6);
    (void)tier_cpucache_drain(&cache, 0);
    for (unsigned n = 0; n < 6; n++) {
        on(n);
        cr_assert_eq(put(object[n]), TIER_OK);
    }
    (void)take_many(size_class, object, limit + 7);
    for (size_t n = 0; n < limit + 7; n++) {
        on(n < 3 ? LAST_CPU : n < 6 ? 1 : 0);
        cr_assert_eq(put(object[n]), TIER_OK);
    }
    on(0);
    cr_assert(tier_cpucache_check(&cache));
}

/* Everything that a slot which holds an object should not hold. */
static void expect_slot_guarded(void **slot, unsigned size_class)
{
    const unsigned other = other_than(size_class);
    void *const elsewhere = cache.cpu[0].magazine[other + 1].floor[0];

    expect_seen(slot, 0);
    expect_seen(slot, (uintptr_t)&slab);
    expect_seen(slot, (uintptr_t)slab_of(*slot));
    expect_seen(slot, (uintptr_t)elsewhere);
#if TIERALLOC_CHECKS
    expect_seen(slot, (uintptr_t)arena + (ARENA_PAGES - 1) * TIER_PAGE_SIZE);
    expect_seen(slot, (uintptr_t)*slot + 1);
    expect_seen(slot, (uintptr_t)*slot + 4);
#endif
}

Test(cpucache, check_detects_any_other_object)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i) || !is_served(other_than(i))) {
            continue;
        }
        set_up_waiting(i);
        for (unsigned cpu = 0; cpu < CPUS; cpu++) {
            const struct tier_magazine *const magazine =
                &cache.cpu[cpu].magazine[i + 1];

            for (void **slot = magazine->floor; slot < magazine->top; slot++) {
                expect_slot_guarded(slot, i);
            }
        }
#if TIERALLOC_CPUS > 1
        for (unsigned n = 0; n < cache.depot[i].count; n++) {
            expect_slot_guarded(&cache.depot[i].slot[n], i);
        }
#endif
    }
}

Test(cpucache, check_detects_an_object_that_waits_twice)
{
    const unsigned i = class_for(64);

    set_up_waiting(i);
    if (limit_of(i) < 8) {
        return; /* too few wait */
    }
    void **const floor = cache.cpu[0].magazine[i + 1].floor;
    void **const last = cache.cpu[LAST_CPU].magazine[i + 1].floor + 1;

    cr_assert(waiting(0, i) >= 2 && waiting(LAST_CPU, i) >= 2);
    expect_seen(&floor[0], (uintptr_t)floor[1]);
    expect_seen(&floor[1], (uintptr_t)floor[0]);
    expect_seen(last, (uintptr_t)floor[0]);
#if TIERALLOC_CPUS > 1
    void **const depot = cache.depot[i].slot;

    cr_assert(cache.depot[i].count >= 2);
    expect_seen(&floor[0], (uintptr_t)depot[1]);
    expect_seen(&depot[0], (uintptr_t)depot[1]);
    expect_seen(&depot[0], (uintptr_t)*last);
#endif
}

Test(cpucache, check_detects_bounds_that_were_overwritten)
{
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        const unsigned i = class_for(64);

        set_up_waiting(i);
        struct tier_magazine *const magazine = &cache.cpu[cpu].magazine[i + 1];
        void **const end = &cache.cpu[cpu].slot[i + 1][TIER_MAGAZINE_SLOTS];

        expect_seen(&magazine->top, (uintptr_t)(magazine->floor - 1));
        expect_seen(&magazine->top, (uintptr_t)(end + 1));
        expect_seen(&magazine->top, (uintptr_t)magazine->top + 1);
        expect_seen(&magazine->top, (uintptr_t)magazine->top - 1);
        expect_seen(&magazine->top, 0);
        expect_seen(&magazine->top, UINTPTR_MAX);
        expect_seen(&magazine->floor, (uintptr_t)(magazine->floor + 1));
        expect_seen(&magazine->floor, (uintptr_t)(magazine->floor - 1));
        expect_seen(&magazine->floor[-1], (uintptr_t)magazine->floor[0]);
        expect_seen(&magazine->floor[-1], 1);
    }
}

/* Magazine 0 is for what is too large: with an object it would serve that. */
Test(cpucache, check_detects_objects_in_the_magazine_of_no_class)
{
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        set_up_waiting(class_for(64));
        struct tier_magazine *const none = &cache.cpu[cpu].magazine[0];

        expect_seen(&none->top, (uintptr_t)(none->top - 1));
        expect_seen(&none->top, (uintptr_t)(none->top + 1));
        expect_seen(&none->top, 0);
        expect_seen(&none->floor, (uintptr_t)(none->floor - 1));
        expect_seen(&none->floor[-1], (uintptr_t)&slab);
    }
}

#if TIERALLOC_CHECKS

Test(cpucache, check_detects_a_mark_that_was_overwritten)
{
    const unsigned i = class_for(64);

    set_up_waiting(i);
    if (limit_of(i) < 8) {
        return; /* too few wait */
    }
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        expect_seen(cache.cpu[cpu].magazine[i + 1].floor[0], 0);
        expect_seen(cache.cpu[cpu].magazine[i + 1].floor[1], 0x3C3C3C3C);
    }
#if TIERALLOC_CPUS > 1
    expect_seen(cache.depot[i].slot[0], 1);
#endif
}

/* An object that waits is one that its slab counts as in use. */
Test(cpucache, check_detects_an_object_that_its_slab_has_too)
{
    const unsigned i = class_for(64);

    set_up_waiting(i);
    void *const object = cache.cpu[0].magazine[i + 1].floor[0];
    struct tier_slab_desc_ *const desc =
        (struct tier_slab_desc_ *)(uintptr_t)slab_of(object);
    const size_t n = (size_t)((unsigned char *)object - desc->base) /
                     desc->cache->object_bytes;
    tier_word_ *const bits = &desc->bits[n / TIER_WORD_BITS_];

    expect_seen(bits, *bits | (tier_word_)1 << n % TIER_WORD_BITS_);
}

#endif

#if TIERALLOC_CPUS > 1

Test(cpucache, check_detects_a_depot_that_counts_otherwise)
{
    const unsigned i = class_for(64);

    set_up_waiting(i);
    struct tier_depot *const depot = &cache.depot[i];
    const uint32_t right = depot->count;

    cr_assert(right > 0 && right < TIER_DEPOT_SLOTS);
    depot->slot[right] = depot->slot[0];
    depot->count = right + 1;
    cr_assert_not(tier_cpucache_check(&cache));
    depot->count = TIER_DEPOT_SLOTS + 1;
    cr_assert_not(tier_cpucache_check(&cache));
    depot->count = UINT32_MAX;
    cr_assert_not(tier_cpucache_check(&cache));
    depot->count = right;
    cr_assert(tier_cpucache_check(&cache));
}

/* A depot holds a batch, and never more than it has slots. */
Test(cpucache, a_depot_is_bounded)
{
    static unsigned char *object[MANY];

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t count = limit_of(i) * 3;
        size_t most = 0;

        if (!is_served(i)) {
            continue;
        }
        set_up(ARENA_PAGES);
        (void)take_many(i, object, count);
        for (size_t n = 0; n < count; n++) {
            on(1);
            cr_assert_eq(put(object[n]), TIER_OK);
            cr_assert(cache.depot[i].count <= TIER_DEPOT_SLOTS);
            most = cache.depot[i].count > most ? cache.depot[i].count : most;
        }
        cr_assert(most >= limit_of(i) / 2);
        cr_assert(whole());
        expect_all_back();
    }
}

/* What one CPU freed, another allocates without asking the slabs. */
Test(cpucache, moves_objects_between_cpus_through_the_depot)
{
    static unsigned char *object[MANY];
    const unsigned i = class_for(64);

    set_up(FEW_PAGES);
    (void)take_many(i, object, MANY);
    (void)tier_cpucache_drain(&cache, 0);
    on(1);
    for (size_t n = 0; n < limit_of(i) + 1; n++) {
        cr_assert_eq(put(object[n]), TIER_OK);
    }
    const size_t depot = cache.depot[i].count;
    const size_t live = slab_stats().live_objects;
    const size_t before = machine.taken;

    cr_assert(depot > 0 && waits_in_depot(i, object[0]));
    on(2);
    cr_assert_not_null(get(most_of(i), false));
    cr_assert_eq(machine.taken, before + 1);
    cr_assert_eq(waiting(2, i), depot - 1);
    cr_assert_eq(cache.depot[i].count, 0U);
    cr_assert_eq(slab_stats().live_objects, live);
    cr_assert(whole());
}

#endif
#endif /* TIERALLOC_CPUS > 0 */

/* --- Contents ------------------------------------------------------------- */

#if TIERALLOC_CHECKS == 2

/* Require that one fault was told: of this object, at this offset. */
static void expect_told(enum tier_fault fault, const void *object,
                        size_t offset, size_t asked, uintptr_t free_site)
{
    cr_assert_eq(seen.count, 1U);
    seen.count = 0;
    cr_assert_eq(seen.last.fault, fault);
    cr_assert_eq(seen.last.object, object);
    cr_assert_null(seen.last.cache);
    cr_assert_eq(seen.last.offset, offset);
    cr_assert_eq(seen.last.bytes, asked);
    cr_assert_eq(seen.last.alloc_site, ALICE);
    cr_assert_eq(seen.last.free_site, free_site);
}

Test(cpucache, tells_nothing_of_right_use_of_every_size)
{
    set_up(FEW_PAGES);
    for (size_t bytes = 0; bytes <= TIER_SLAB_BYTES_MAX;
         bytes += bytes < 600 ? 1 : 61) {
        for (unsigned round = 0; round < 3; round++) {
            unsigned char *const object = get(bytes, false);

            cr_assert_not_null(object);
            cr_assert_eq(tier_slab_usable_size(&slab, object),
                         bytes + (bytes == 0));
            if (round > 0) {
                memset(object, 0x5A, bytes);
            }
            cr_assert_eq(put_sized(object, bytes), TIER_OK);
            cr_assert_eq(seen.count, 0U, "%lu bytes", (unsigned long)bytes);
        }
        (void)tier_cpucache_trim(&cache);
    }
    expect_all_back();
    cr_assert_eq(seen.count, 0U);
}

Test(cpucache, tells_of_an_overrun)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        for (size_t spare = 0; is_served(i) && spare < 8; spare++) {
            const size_t bytes = most_of(i) > spare ? most_of(i) - spare : 0;

            if (class_for(bytes) != i) {
                continue;
            }
            set_up(FEW_PAGES);
            unsigned char *const object = get(bytes, false);

            object[bytes] ^= 1;
            on(1);
            cr_assert_eq(put(object), TIER_OK);
            expect_told(TIER_FAULT_OVERRUN, object, bytes, bytes, 0);
            cr_assert_eq(seen.last.expected, TIER_GUARD_RED_ZONE);
            prove_whole();
            cr_assert_eq(seen.count, 0U);
        }
    }
}

/* Write to byte `at` of a free object of a class, and have it again. */
static void expect_use_after_free_told(unsigned i, size_t at, bool in_slab)
{
    set_up(FEW_PAGES);
    unsigned char *const object = get(most_of(i), true);
    unsigned char *again;

    cr_assert_eq(put(object), TIER_OK);
    if (in_slab) {
        (void)tier_cpucache_drain(&cache, 0);
    }
    const unsigned char right = object[at];

    object[at] ^= 0x18;
    do {
        again = get(most_of(i), true);
        cr_assert_not_null(again);
    } while (again != object);
    expect_told(TIER_FAULT_USE_AFTER_FREE, object, at, most_of(i), BOB);
    cr_assert_eq(seen.last.expected, right);
    cr_assert_eq(seen.last.found, right ^ 0x18);
    cr_assert_eq(put(object), TIER_OK);
    cr_assert_eq(seen.count, 0U);
}

Test(cpucache, tells_of_use_after_free_wherever_the_object_is)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        for (size_t at = 8; is_served(i) && at < most_of(i); at += 1 + at / 4) {
            expect_use_after_free_told(i, at, false);
            expect_use_after_free_told(i, at, true);
        }
    }
}

/* The mark is looked at as the rest is: each byte of it. */
Test(cpucache, tells_of_a_mark_that_was_overwritten)
{
    for (size_t at = 0; at < sizeof(uintptr_t); at++) {
        set_up(FEW_PAGES);
        unsigned char *const object = get(64, false);

        cr_assert_eq(put(object), TIER_OK);
        object[at] ^= 0x18;
        cr_assert_eq(get(64, false), object);
        expect_told(TIER_FAULT_USE_AFTER_FREE, object, at, 64, BOB);
    }
}

Test(cpucache, tells_of_a_double_free_and_of_a_wrong_size)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up(FEW_PAGES);
        unsigned char *const object = get(most_of(i), true);
        const unsigned other = other_than(i);

        (void)get(most_of(i), true);
        cr_assert_eq(put_sized(object, most_of(other)), TIER_ERR_WRONG_SIZE);
        expect_told(TIER_FAULT_WRONG_SIZE, object, 0, most_of(i), 0);
        cr_assert_eq(put(object), TIER_OK);
        cr_assert_eq(seen.count, 0U);
        on(1);
        cr_assert_eq(put(object), TIER_ERR_DOUBLE_FREE);
        expect_told(TIER_FAULT_DOUBLE_FREE, object, 0, most_of(i), BOB);
    }
}

#endif
