/*
 * tests/smp.h - work for several CPUs on one cpucache.h, accounted for exactly.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each CPU is a worker that allocates, swaps objects with the others, frees
 * what it gets, and makes mistakes that must be refused:
 *
 *     worker 0                 exchange                 worker 1
 *     | a |   | b |  <-swap->  | c |   | d |  <-swap->  |   | e |
 *
 * An object says in its first two words who made it and how large it is; a
 * pattern of that follows, and whoever frees it verifies all. Below the caches
 * are slabs, runs and a buddy, over an arena that is short at times. Then one
 * half of the CPUs makes what the other half frees; last, all must be back.
 *
 * Define before the include: the options of tieralloc with TIERALLOC_CPUS above
 * 1; SMP_STEPS and SMP_PAIRS, of each worker; SMP_RELAX(), done while a CPU
 * waits; SMP_EXIT(), which ends the program as failed. Then call smp_set_up,
 * smp_work on all CPUs at once, and smp_settle.
 */
#ifndef TIERALLOC_TEST_SMP_H
#define TIERALLOC_TEST_SMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

static void smp_fail(int line, const char *claim);

#define SMP_CLAIM(condition)                \
    do {                                    \
        if (!(condition)) {                 \
            smp_fail(__LINE__, #condition); \
        }                                   \
    } while (0)

#define TIERALLOC_ASSERT(condition) SMP_CLAIM(condition)
#include <tieralloc/cpucache.h>
#include <tieralloc/runs.h>

#define SMP_ARENA_PAGES (512U * TIERALLOC_CPUS)
#define SMP_OBJECTS     96U   /* that a worker holds at most */
#define SMP_EXCHANGE    64U   /* places where workers swap objects */
#define SMP_ON_WAY      1024U /* objects on their way to one worker */
#define SMP_PROBE       80U   /* objects of a probe: magazines hold less */
#define SMP_NAMED_BYTES 200U

/* --- The machine ---------------------------------------------------------- */

/* How an object was allocated. */
enum smp_kind {
    SMP_CLASS,
    SMP_NAMED,
    SMP_RUN,
};

/* One who works on a CPU. */
struct smp_worker {
    uint32_t random;
    uint32_t serial; /* of the last object made */
    uint32_t meetings;
    bool at_work;
    void *object[SMP_OBJECTS];
    size_t operations; /* allocations and frees */
    size_t swapped;    /* objects that were freed or held by others next */
    size_t refused;    /* wrong frees, all of them refused */
    size_t doubled;    /* of these, frees of what another CPU had freed */
    size_t forged;     /* right frees of objects that looked free */
    size_t failed;     /* allocations for which there was no memory */
} __attribute__((aligned(64)));

/* The states of a probe, besides SMP_OFFERED + the CPU that must free it. */
#define SMP_IDLE    0U
#define SMP_FREED   1U
#define SMP_OFFERED 2U

/* Objects of one CPU for another to free. See smp_probe_offer. */
struct smp_probe {
    uint32_t state;
    bool forges;
    void *anchor; /* keeps the slab of the first object where it is */
    size_t count;
    void *object[SMP_PROBE];
};

static struct {
    struct tier_pagemap map;
    struct tier_buddy buddy;
    struct tier_runs runs;
    struct tier_slab slab;
    struct tier_cpucache cache;
    struct tier_cache named;
    TIERALLOC_LOCK_TYPE lock;
    unsigned cpus;
    uint32_t arrived; /* at all meetings so far */
    uint32_t failed;
    struct tier_cpucache_stats before; /* the hand-over */
    struct tier_cpucache_stats after;
    struct smp_worker worker[TIERALLOC_CPUS];
    struct smp_worker handler[TIERALLOC_CPUS]; /* of interrupts, if any */
    struct smp_probe probe[TIERALLOC_CPUS];
    void *exchange[SMP_EXCHANGE];
    void *way[(TIERALLOC_CPUS + 1) / 2][SMP_ON_WAY];
} smp;

static _Alignas(8) uint8_t smp_metadata[TIER_PAGEMAP_BYTES(SMP_ARENA_PAGES)];
static _Alignas(
    TIER_PAGE_SIZE) uint8_t smp_arena[SMP_ARENA_PAGES * TIER_PAGE_SIZE];

/* The first CPU that fails says so, for all. */
static void smp_fail(int line, const char *claim)
{
    TIERALLOC_CPU_ENTER(state);
    if (__atomic_exchange_n(&smp.failed, 1, __ATOMIC_RELAXED) == 0) {
        printf("smp: FAILED on CPU %u: smp.h:%d: %s\n", TIERALLOC_CPU(), line,
               claim);
        SMP_EXIT();
    }
    for (;;) {
        SMP_RELAX();
    }
    TIERALLOC_CPU_LEAVE(state);
}

/* Wait until all workers have come here as often as this one. */
static void smp_meet(struct smp_worker *me)
{
    const uint32_t all = ++me->meetings * smp.cpus;

    __atomic_fetch_add(&smp.arrived, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&smp.arrived, __ATOMIC_ACQUIRE) < all) {
        SMP_RELAX();
    }
}

/* A number from 0 to bound - 1: xorshift, Marsaglia, 2003. */
static uint32_t smp_below(struct smp_worker *me, uint32_t bound)
{
    me->random ^= me->random << 13;
    me->random ^= me->random >> 17;
    me->random ^= me->random << 5;
    return (uint32_t)((uint64_t)me->random * bound >> 32);
}

static void smp_begin(struct smp_worker *me, uint32_t number)
{
    me->random = (number + 1) * 2654435761U;
    me->serial = number << 26;
    me->at_work = true;
}

/* --- Objects -------------------------------------------------------------- */

/* The first two words of an object. */
struct smp_header {
    uint32_t serial;
    uint32_t seal; /* its size and its kind, hidden by a hash of the serial */
};

static uint32_t smp_hash(uint32_t number)
{
    number = (number ^ number >> 16) * 0x7FEB352DU;
    number = (number ^ number >> 15) * 0x846CA68BU;
    return number ^ number >> 16;
}

/* The place of the pattern after `at`: each word, or some, and the last. */
static size_t smp_next(size_t at, size_t bytes)
{
    const size_t last = bytes / 4 * 4 - 4;
    const size_t next = at + (bytes <= 128                    ? 4
                              : bytes <= TIERALLOC_OBJECT_MAX ? 64
                                                              : TIER_PAGE_SIZE);

    return at < last && next > last ? last : next;
}

static void smp_fill(struct smp_worker *me, void *object, size_t bytes,
                     enum smp_kind kind)
{
    struct smp_header *const header = object;
    uint32_t *const words = object;
    const uint32_t key = smp_hash(++me->serial);

    SMP_CLAIM(((uintptr_t)object & (TIERALLOC_MIN_ALIGN - 1)) == 0);
    SMP_CLAIM((uintptr_t)object - (uintptr_t)smp_arena <=
              sizeof(smp_arena) - bytes);
    header->serial = me->serial;
    header->seal = key ^ ((uint32_t)bytes << 2 | (uint32_t)kind);
    for (size_t at = 8; at + 4 <= bytes; at = smp_next(at, bytes)) {
        words[at / 4] = key + (uint32_t)at;
    }
    if (bytes % 4 != 0) {
        ((uint8_t *)object)[bytes - 1] = (uint8_t)key;
    }
}

/* Claim that an object is as it was filled; says how large, and its kind. */
static enum smp_kind smp_verify(const void *object, size_t *bytes)
{
    const struct smp_header *const header = object;
    const uint32_t *const words = object;
    const uint32_t key = smp_hash(header->serial);
    const uint32_t seal = header->seal ^ key;

    *bytes = seal >> 2;
    SMP_CLAIM(*bytes >= 8 && *bytes <= TIER_BLOCK_MAX);
    SMP_CLAIM((uintptr_t)object - (uintptr_t)smp_arena <=
              sizeof(smp_arena) - *bytes);
    SMP_CLAIM((seal & 3) <= SMP_RUN);
    for (size_t at = 8; at + 4 <= *bytes; at = smp_next(at, *bytes)) {
        SMP_CLAIM(words[at / 4] == key + (uint32_t)at);
    }
    SMP_CLAIM(*bytes % 4 == 0 ||
              ((const uint8_t *)object)[*bytes - 1] == (uint8_t)key);
    return (enum smp_kind)(seal & 3);
}

/* --- Allocating and freeing ----------------------------------------------- */

/* The class from which one CPU alone allocates, for its probes. */
static unsigned smp_probe_class(unsigned cpu)
{
    return cpu * 2 + 1;
}

/* A size for all CPUs, 8 to 8 << doublings: as many from each doubling. */
static size_t smp_size(struct smp_worker *me, uint32_t doublings)
{
    const uint32_t low = 8U << smp_below(me, doublings);
    const size_t bytes = low + smp_below(me, low);
    const unsigned size_class = TIER_SIZE_CLASS(bytes);

    return size_class % 2 == 1 && size_class < smp_probe_class(smp.cpus)
               ? tier_slab_class_bytes(size_class - 1)
               : bytes;
}

/* The slab tier below, and what else its lock protects. */
static void *smp_alloc_locked(enum smp_kind kind, size_t bytes)
{
    TIERALLOC_CPU_ENTER(state);
    TIERALLOC_LOCK(&smp.lock);
    void *const object =
        kind == SMP_NAMED
            ? tier_cache_alloc(&smp.named)
            : tier_runs_alloc(&smp.runs, bytes >> TIERALLOC_PAGE_SHIFT);

    TIERALLOC_UNLOCK(&smp.lock);
    TIERALLOC_CPU_LEAVE(state);
    return object;
}

static enum tier_status smp_free_locked(enum smp_kind kind, void *object)
{
    TIERALLOC_CPU_ENTER(state);
    TIERALLOC_LOCK(&smp.lock);
    const enum tier_status status = kind == SMP_NAMED
                                        ? tier_cache_free(&smp.named, object)
                                        : tier_runs_free(&smp.runs, object);

    TIERALLOC_UNLOCK(&smp.lock);
    TIERALLOC_CPU_LEAVE(state);
    return status;
}

static void *smp_alloc_class(struct smp_worker *me, size_t bytes)
{
    return smp_below(me, 4) == 0
               ? tier_cpucache_alloc_class(&smp.cache, TIER_SIZE_CLASS(bytes))
               : tier_cpucache_alloc(&smp.cache, bytes);
}

/* Allocate an object of any kind; NULL when there is no memory. */
static void *smp_alloc(struct smp_worker *me)
{
    const uint32_t choice = smp_below(me, 512);
    enum smp_kind kind = SMP_CLASS;
    size_t bytes;
    void *object;

    if (choice < 8) {
        kind = SMP_RUN;
        bytes = TIER_PAGE_SIZE / 8 * (smp_size(me, 10) & ~(size_t)7);
    } else if (choice < 24) {
        kind = SMP_NAMED;
        bytes = SMP_NAMED_BYTES;
    } else {
        bytes = smp_size(me, choice < 40 ? 12 : 9);
    }
    object = kind == SMP_CLASS ? smp_alloc_class(me, bytes)
                               : smp_alloc_locked(kind, bytes);
    if (object == NULL) {
        me->failed++;
        if (smp_below(me, 16) == 0) {
            (void)tier_cpucache_trim(&smp.cache);
        }
        return NULL;
    }
    smp_fill(me, object, bytes, kind);
    me->operations++;
    return object;
}

/* Verify an object, whoever made it, and free it in one way or another. */
static void smp_free(struct smp_worker *me, void *object)
{
    size_t bytes;
    const enum smp_kind kind = smp_verify(object, &bytes);
    const bool other = smp_below(me, 4) == 0;
    enum tier_status status;

    if (kind == SMP_RUN || (kind == SMP_NAMED && other)) {
        status = smp_free_locked(kind, object);
    } else if (other) {
        status = tier_cpucache_free_sized(&smp.cache, object, bytes);
    } else {
        status = tier_cpucache_free(&smp.cache, object);
    }
    SMP_CLAIM(status == TIER_OK);
    me->operations++;
}

/* --- Mistakes ------------------------------------------------------------- */

/* Have a wrong free refused. */
static void smp_refused(struct smp_worker *me, enum tier_status status,
                        enum tier_status expected)
{
    SMP_CLAIM(status == expected);
    me->refused++;
}

/*
 * Free an object twice. Nothing comes between, so that it still waits, and for
 * this CPU alone.
 */
static void smp_free_twice(struct smp_worker *me, void *object)
{
    TIERALLOC_CPU_ENTER(state);
    smp_free(me, object);
    smp_refused(me, tier_cpucache_free(&smp.cache, object),
                TIER_ERR_DOUBLE_FREE);
    TIERALLOC_CPU_LEAVE(state);
}

/*
 * Write into an object of a class what marks a free one, as far as that can be
 * had: what was freed last is most likely what is allocated next.
 *
 * Returns an object of the class in any case, NULL if there is no memory.
 */
static void *smp_forge(void *object, unsigned size_class, bool *forged)
{
    TIERALLOC_CPU_ENTER(state);
    SMP_CLAIM(tier_cpucache_free(&smp.cache, object) == TIER_OK);
    const uintptr_t mark = *(const uintptr_t *)object;
    void *const again = tier_cpucache_alloc_class(&smp.cache, size_class);

    *forged = again == object;
    if (*forged) {
        *(uintptr_t *)again = mark;
    }
    TIERALLOC_CPU_LEAVE(state);
    return again;
}

/* Free an object that looks free. */
static void smp_free_forged(struct smp_worker *me, void *object, size_t bytes)
{
    bool forged;
    void *const again = smp_forge(object, TIER_SIZE_CLASS(bytes), &forged);

    me->forged += forged;
    me->operations += again == NULL ? 2 : 3;
    SMP_CLAIM(tier_cpucache_free(&smp.cache, again) == TIER_OK);
}

/* Free an object of a class after, or with, a mistake. */
static void smp_free_badly(struct smp_worker *me, void *object, size_t bytes)
{
    unsigned char *const begin = object;

    switch (smp_below(me, 5)) {
    case 0:
        smp_refused(me, tier_cpucache_free(&smp.cache, &bytes),
                    TIER_ERR_FOREIGN);
        break;
    case 1:
        smp_refused(me, tier_cpucache_free(&smp.cache, begin + bytes / 2),
                    TIER_ERR_INTERIOR);
        break;
    case 2:
        smp_refused(
            me, tier_cpucache_free_sized(&smp.cache, object, bytes * 2 + 64),
            TIER_ERR_WRONG_SIZE);
        break;
    case 3:
        smp_free_twice(me, object);
        return;
    default:
        smp_free_forged(me, object, bytes);
        return;
    }
    smp_free(me, object);
}

/* --- Probes --------------------------------------------------------------- */

/* Allocate a probe: one object that is forged, or one or many that are not. */
static void smp_probe_make(struct smp_worker *me, struct smp_probe *mine,
                           unsigned size_class)
{
    const uint32_t choice = smp_below(me, 16);
    const size_t count = choice == 0 ? SMP_PROBE : 1;
    size_t made = 0;
    void *object;

    mine->forges = false;
    mine->anchor = tier_cpucache_alloc_class(&smp.cache, size_class);
    while (made < count && (object = tier_cpucache_alloc_class(
                                &smp.cache, size_class)) != NULL) {
        if (choice >= 12) {
            object = smp_forge(object, size_class, &mine->forges);
        }
        if (object != NULL && !mine->forges) {
            smp_fill(me, object, tier_slab_class_bytes(size_class), SMP_CLASS);
        }
        mine->object[made] = object;
        made++;
    }
    mine->count = made;
}

/*
 * Offer another CPU objects to free, of the class that is for this CPU alone:
 * until this one allocates from it again they are free for certain, wherever
 * they wait. The anchor, in the page of the first, keeps its slab from going;
 * if there are many, the first goes on to the depot.
 */
static void smp_probe_offer(struct smp_worker *me, struct smp_probe *mine)
{
    smp_probe_make(me, mine, smp_probe_class(TIERALLOC_CPU()));
    if (mine->count == 0 || mine->object[0] == NULL || mine->anchor == NULL ||
        ((uintptr_t)mine->object[0] ^ (uintptr_t)mine->anchor) >=
            TIER_PAGE_SIZE) {
        for (size_t i = 0; i < mine->count; i++) {
            SMP_CLAIM(tier_cpucache_free(&smp.cache, mine->object[i]) ==
                      TIER_OK);
        }
        SMP_CLAIM(tier_cpucache_free(&smp.cache, mine->anchor) == TIER_OK);
        return;
    }
    me->operations += mine->count + 1;
    __atomic_store_n(&mine->state, SMP_OFFERED + smp_below(me, smp.cpus),
                     __ATOMIC_RELEASE);
}

/* Free again what another CPU has freed; that of a forged one was right. */
static void smp_probe_end(struct smp_worker *me, struct smp_probe *mine)
{
    if (mine->forges) {
        me->forged++;
    } else {
        smp_refused(me, tier_cpucache_free(&smp.cache, mine->object[0]),
                    TIER_ERR_DOUBLE_FREE);
        me->doubled++;
    }
    SMP_CLAIM(tier_cpucache_free(&smp.cache, mine->anchor) == TIER_OK);
    me->operations++;
    __atomic_store_n(&mine->state, SMP_IDLE, __ATOMIC_RELEASE);
}

/* While another CPU looks for a forged object, bury the places where it was. */
static void smp_probe_stir(void)
{
    const unsigned size_class = smp_probe_class(TIERALLOC_CPU());
    void *object[3];

    for (size_t i = 0; i < 3; i++) {
        object[i] = tier_cpucache_alloc_class(&smp.cache, size_class);
    }
    for (size_t i = 0; i < 3; i++) {
        SMP_CLAIM(tier_cpucache_free(&smp.cache, object[i]) == TIER_OK);
    }
}

/* Go on with the probe of this CPU. */
static void smp_probe(struct smp_worker *me)
{
    struct smp_probe *const mine = &smp.probe[TIERALLOC_CPU()];

    switch (__atomic_load_n(&mine->state, __ATOMIC_ACQUIRE)) {
    case SMP_IDLE:
        smp_probe_offer(me, mine);
        break;
    case SMP_FREED:
        smp_probe_end(me, mine);
        break;
    default:
        if (mine->forges) {
            smp_probe_stir();
        }
        break;
    }
}

/* Free what others offer to this CPU. */
static void smp_probe_serve(struct smp_worker *me)
{
    for (unsigned i = 0; i < smp.cpus; i++) {
        struct smp_probe *const probe = &smp.probe[i];

        if (__atomic_load_n(&probe->state, __ATOMIC_ACQUIRE) !=
            SMP_OFFERED + TIERALLOC_CPU()) {
            continue;
        }
        for (size_t k = 0; k < probe->count && !probe->forges; k++) {
            smp_free(me, probe->object[k]);
        }
        if (probe->forges) {
            SMP_CLAIM(tier_cpucache_free(&smp.cache, probe->object[0]) ==
                      TIER_OK);
            me->operations++;
        }
        __atomic_store_n(&probe->state, SMP_FREED, __ATOMIC_RELEASE);
    }
}

/* --- Random work ---------------------------------------------------------- */

/* What is seldom done. */
static void smp_upkeep(struct smp_worker *me)
{
    struct tier_cpucache_stats stats;

    switch (smp_below(me, 8)) {
    case 0:
        (void)tier_cpucache_trim(&smp.cache);
        break;
    case 1: {
        TIERALLOC_CPU_ENTER(state);
        TIERALLOC_LOCK(&smp.lock);
        (void)tier_slab_trim(&smp.slab);
        TIERALLOC_UNLOCK(&smp.lock);
        TIERALLOC_CPU_LEAVE(state);
        break;
    }
    case 2:
        tier_cpucache_stats(&smp.cache, &stats);
        SMP_CLAIM(stats.waiting_bytes <= sizeof(smp_arena));
        break;
    default:
        (void)tier_cpucache_drain(&smp.cache, TIERALLOC_CPU());
        break;
    }
}

/* Free an object of this worker, rightly or not. */
static void smp_let_go(struct smp_worker *me, void *object)
{
    size_t bytes;

    if (smp_below(me, 64) == 0 && smp_verify(object, &bytes) == SMP_CLASS) {
        smp_free_badly(me, object, bytes);
    } else {
        smp_free(me, object);
    }
}

/* Allocate an object, free one, or swap one with another worker. */
static void smp_step(struct smp_worker *me)
{
    void **const object = &me->object[smp_below(me, SMP_OBJECTS)];

    if (smp_below(me, 4) == 0) {
        me->swapped += *object != NULL;
        *object =
            __atomic_exchange_n(&smp.exchange[smp_below(me, SMP_EXCHANGE)],
                                *object, __ATOMIC_ACQ_REL);
    } else if (*object == NULL) {
        *object = smp_alloc(me);
    } else {
        smp_let_go(me, *object);
        *object = NULL;
    }
    if (smp_below(me, 4096) == 0) {
        smp_upkeep(me);
    }
}

/* A step of the interrupt handler of this CPU, amid the work of the CPU. */
static inline void smp_interrupt(void)
{
    struct smp_worker *const me = &smp.handler[TIERALLOC_CPU()];

    if (__atomic_load_n(&me->at_work, __ATOMIC_RELAXED)) {
        smp_step(me);
    }
}

/* Free all that a worker holds, who goes. */
static void smp_empty(struct smp_worker *me)
{
    __atomic_store_n(&me->at_work, false, __ATOMIC_RELAXED);
    for (size_t i = 0; i < SMP_OBJECTS; i++) {
        if (me->object[i] != NULL) {
            smp_free(me, me->object[i]);
        }
        me->object[i] = NULL;
    }
}

static void smp_work_at_random(struct smp_worker *me)
{
    const struct smp_probe *const mine = &smp.probe[TIERALLOC_CPU()];

    for (uint32_t i = 0; i < SMP_STEPS; i++) {
        smp_step(me);
        if (i % 8 == 0) {
            smp_probe_serve(me);
            smp_probe(me);
        }
    }
    smp_empty(me);
    smp_empty(&smp.handler[TIERALLOC_CPU()]);
    smp_meet(me);
    smp_probe_serve(me);
    smp_meet(me);
    if (mine->state == SMP_FREED) {
        smp_probe_end(me, &smp.probe[TIERALLOC_CPU()]);
    }
    SMP_CLAIM(mine->state == SMP_IDLE);
}

/* --- Hand-over ------------------------------------------------------------ */

/* Make an object for the next worker, if there is room on the way. */
static bool smp_hand_over(struct smp_worker *me, void **place)
{
    if (__atomic_load_n(place, __ATOMIC_ACQUIRE) != NULL) {
        return false;
    }
    const size_t bytes = smp_size(me, 7); /* whose magazines are the largest */
    void *const object = tier_cpucache_alloc(&smp.cache, bytes);

    SMP_CLAIM(object != NULL);
    smp_fill(me, object, bytes, SMP_CLASS);
    me->operations++;
    me->swapped++;
    __atomic_store_n(place, object, __ATOMIC_RELEASE);
    return true;
}

/* Free an object from the worker before, if one is there. */
static bool smp_take_over(struct smp_worker *me, void **place)
{
    void *const object = __atomic_load_n(place, __ATOMIC_ACQUIRE);

    if (object == NULL) {
        return false;
    }
    __atomic_store_n(place, NULL, __ATOMIC_RELEASE);
    smp_free(me, object);
    return true;
}

/*
 * Every object is allocated on one CPU and freed on another: even ones make
 * what the next frees. With an odd number, the last is left to itself.
 */
static void smp_work_one_way(struct smp_worker *me)
{
    const unsigned cpu = TIERALLOC_CPU();
    void **const way = smp.way[cpu / 2];
    uint32_t to_make = cpu % 2 == 0 ? SMP_PAIRS : 0;
    uint32_t to_free = cpu % 2 == 1 || cpu + 1 == smp.cpus ? SMP_PAIRS : 0;

    while (to_make > 0 || to_free > 0) {
        const bool makes =
            to_make > 0 && smp_hand_over(me, &way[to_make % SMP_ON_WAY]);
        const bool frees =
            to_free > 0 && smp_take_over(me, &way[to_free % SMP_ON_WAY]);

        to_make -= makes;
        to_free -= frees;
        if (!makes && !frees) {
            SMP_RELAX();
        }
    }
}

/* --- The whole ------------------------------------------------------------ */

/* Make an empty machine of so many CPUs, at most TIERALLOC_CPUS. */
static void smp_set_up(unsigned cpus)
{
    struct tier_page_source source;

    SMP_CLAIM(cpus >= 1 && cpus <= TIERALLOC_CPUS);
    smp.cpus = cpus;
    SMP_CLAIM(tier_pagemap_init(&smp.map, (uintptr_t)smp_arena,
                                sizeof(smp_arena), smp_metadata,
                                sizeof(smp_metadata)) == TIER_OK);
    tier_buddy_init(&smp.buddy, &smp.map);
    SMP_CLAIM(tier_buddy_add(&smp.buddy, smp_arena, sizeof(smp_arena)) ==
              TIER_OK);
    SMP_CLAIM(tier_runs_init(&smp.runs, &smp.buddy, TIERALLOC_MAX_ORDER) ==
              TIER_OK);
    tier_runs_source(&smp.runs, &source);
    tier_slab_init(&smp.slab, &smp.map, &source);
    TIERALLOC_LOCK_INIT(&smp.lock);
    SMP_CLAIM(tier_cpucache_init(&smp.cache, &smp.slab, &smp.lock) == TIER_OK);
    SMP_CLAIM(tier_cache_init(&smp.named, &smp.slab, "smp", SMP_NAMED_BYTES, 8,
                              0, NULL) == TIER_OK);
    for (unsigned i = 0; i < cpus; i++) {
        smp_begin(&smp.worker[i], i);
        smp_begin(&smp.handler[i], TIERALLOC_CPUS + i);
    }
}

/* Leave nothing in the exchange, the depots and the slabs. */
static void smp_clear(struct smp_worker *me)
{
    for (size_t i = 0; i < SMP_EXCHANGE; i++) {
        if (smp.exchange[i] != NULL) {
            smp_free(me, smp.exchange[i]);
        }
    }
    (void)tier_cpucache_trim(&smp.cache);
    tier_cpucache_stats(&smp.cache, &smp.before);
}

/* All that this CPU has to do; called on each at the same time. */
static void smp_work(void)
{
    const unsigned cpu = TIERALLOC_CPU();
    struct smp_worker *const me = &smp.worker[cpu];

    smp_meet(me);
    smp_work_at_random(me);
    (void)tier_cpucache_drain(&smp.cache, cpu);
    smp_meet(me);
    if (cpu == 0) {
        smp_clear(me);
    }
    smp_meet(me);
    smp_work_one_way(me);
    smp_meet(me);
    if (cpu == 0) {
        tier_cpucache_stats(&smp.cache, &smp.after);
    }
}

/* Claim that the caches, and all below them, give everything back. */
static void smp_settle_memory(size_t refused)
{
    struct tier_cpucache_stats waiting;
    struct tier_slab_stats stats;
    size_t drained = 0;

    SMP_CLAIM(tier_cpucache_check(&smp.cache));
    SMP_CLAIM(tier_slab_check(&smp.slab));
    tier_cpucache_stats(&smp.cache, &waiting);
    tier_slab_stats(&smp.slab, &stats);
    SMP_CLAIM(stats.live_objects == waiting.waiting_objects);
    SMP_CLAIM(stats.live_bytes == waiting.waiting_bytes);
    SMP_CLAIM(stats.refused_frees == refused);
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        drained += tier_cpucache_drain(&smp.cache, i);
    }
    SMP_CLAIM(drained <= waiting.waiting_objects);
    (void)tier_cpucache_trim(&smp.cache);
    tier_cpucache_stats(&smp.cache, &waiting);
    SMP_CLAIM(waiting.waiting_objects == 0 && waiting.waiting_bytes == 0);
    tier_slab_stats(&smp.slab, &stats);
    SMP_CLAIM(stats.live_objects == 0);
    SMP_CLAIM(stats.slabs == 0 && stats.pages == 0);
    SMP_CLAIM(stats.refused_frees == refused);
    SMP_CLAIM(tier_cpucache_check(&smp.cache));
    SMP_CLAIM(tier_slab_check(&smp.slab));
    (void)tier_runs_trim(&smp.runs);
    SMP_CLAIM(tier_runs_check(&smp.runs));
    SMP_CLAIM(tier_buddy_check(&smp.buddy));
    SMP_CLAIM(smp.buddy.free_pages == SMP_ARENA_PAGES);
}

static void smp_sum(struct smp_worker *sum, const struct smp_worker *worker)
{
    sum->operations += worker->operations;
    sum->swapped += worker->swapped;
    sum->refused += worker->refused;
    sum->doubled += worker->doubled;
    sum->forged += worker->forged;
    sum->failed += worker->failed;
}

/* After the work: claim that all is accounted for, and print the figures. */
static void smp_settle(void)
{
    const size_t locks = smp.after.locks - smp.before.locks;
    const size_t pairs = (size_t)((smp.cpus + 1) / 2) * SMP_PAIRS;
    struct smp_worker sum = {.random = 0};

    for (unsigned i = 0; i < smp.cpus; i++) {
        SMP_CLAIM(smp.worker[i].doubled > 0);
        SMP_CLAIM(smp.worker[i].forged > 0);
        smp_sum(&sum, &smp.worker[i]);
        smp_sum(&sum, &smp.handler[i]);
    }
    smp_settle_memory(sum.refused);
    printf("smp: %u CPUs, %lu operations, %lu objects handed over, %lu times "
           "no memory\n",
           smp.cpus, (unsigned long)sum.operations, (unsigned long)sum.swapped,
           (unsigned long)sum.failed);
    printf("smp: %lu wrong frees refused, %lu of them double across CPUs; %lu "
           "objects freed that looked free\n",
           (unsigned long)sum.refused, (unsigned long)sum.doubled,
           (unsigned long)sum.forged);
    printf(
        "smp: locks in 1000 pairs: %lu at random, %lu in the hand-over\n",
        (unsigned long)(smp.before.locks * 1000 / (sum.operations / 2 - pairs)),
        (unsigned long)(locks * 1000 / pairs));
    SMP_CLAIM(locks <= pairs / 8);
}

#endif
