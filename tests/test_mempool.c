/*
 * tests/test_mempool.c - reserves of objects over a source that fails on
 * purpose; with a lock that counts, so that none is held in the source.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION

#include "locks.h"

#include "support.h"

#include <tieralloc/mempool.h>

/* --- The rig -------------------------------------------------------------- */

#define RESERVE ((size_t)5)
#define OBJECTS ((size_t)24)

/* Where an object is. */
enum place { SOURCE, RESERVED, IN_USE };

static struct tier_mempool pool;
static void *slots[RESERVE + 1];
static char objects[OBJECTS];
static enum place place[OBJECTS]; /* RESERVED also stands for what init took */
static size_t source_left;        /* calls of the source's alloc that succeed */
static size_t source_allocs;
static size_t source_frees;
static bool locked_calls; /* the pool's lock is initialised */
static uint64_t random_state;

static size_t index_of(const void *object)
{
    const size_t index = (uintptr_t)object - (uintptr_t)objects;

    cr_assert(index < OBJECTS, "no object");
    return index;
}

static void expect_unlocked(void)
{
    if (locked_calls) {
        cr_assert_eq(pool.lock.locks, pool.lock.unlocks, "locked");
    }
}

static size_t count_at(enum place where)
{
    size_t found = 0;

    for (size_t i = 0; i < OBJECTS; i++) {
        found += place[i] == where;
    }
    return found;
}

/* The source's alloc: the first object that it has. */
static void *source_alloc(void *context)
{
    expect_unlocked();
    cr_assert_eq(context, (void *)&source_left);
    source_allocs++;
    for (size_t i = 0; source_left > 0 && i < OBJECTS; i++) {
        if (place[i] == SOURCE) {
            source_left--;
            place[i] = RESERVED;
            return &objects[i];
        }
    }
    return NULL;
}

static void source_free(void *context, void *object)
{
    expect_unlocked();
    cr_assert_eq(context, (void *)&source_left);
    source_frees++;
    cr_assert_neq(place[index_of(object)], SOURCE, "given back twice");
    place[index_of(object)] = SOURCE;
}

static const struct tier_mempool_source source = {source_alloc, source_free,
                                                  &source_left};

static void reset(void)
{
    random_state = TEST_SEED;
    after_unlock = NULL;
    locked_calls = false;
    source_left = SIZE_MAX;
    source_allocs = 0;
    source_frees = 0;
    for (size_t i = 0; i < OBJECTS; i++) {
        place[i] = SOURCE;
    }
    for (size_t i = 0; i < COUNT(slots); i++) {
        slots[i] = &slots[i];
    }
    memset(&pool, 0xA5, sizeof(pool));
}

static void set_up_reserve(size_t reserve)
{
    reset();
    cr_assert_eq(tier_mempool_init(&pool, slots, reserve, &source), TIER_OK);
    locked_calls = true;
    cr_assert_eq(pool.lock.inits, 1U);
    cr_assert_eq(pool.lock.locks, 0U);
    cr_assert_eq(count_at(RESERVED), reserve);
    cr_assert_eq(slots[reserve], &slots[reserve], "written past the end");
    cr_assert(tier_mempool_check(&pool));
}

static void set_up(void)
{
    set_up_reserve(RESERVE);
}

static void *take(void)
{
    void *const object = tier_mempool_alloc(&pool);

    expect_unlocked();
    if (object != NULL) {
        cr_assert_eq(place[index_of(object)], RESERVED, "handed out twice");
        place[index_of(object)] = IN_USE;
    }
    return object;
}

/* Free an object that is in use; the source's free moves it on, if called. */
static void give(void *object)
{
    place[index_of(object)] = RESERVED;
    cr_assert_eq(tier_mempool_free(&pool, object), TIER_OK);
    expect_unlocked();
}

static struct tier_mempool_stats stats(void)
{
    struct tier_mempool_stats now;

    tier_mempool_stats(&pool, &now);
    expect_unlocked();
    return now;
}

/* Everything must be where the stats say, nothing lost. */
static void expect_sound(void)
{
    cr_assert(tier_mempool_check(&pool));
    expect_unlocked();
    cr_assert_eq(stats().waiting, count_at(RESERVED));
    cr_assert_leq(stats().objects - stats().waiting, count_at(IN_USE),
                  "more of the reserve is out than is in use");
}

/* --- Lifecycle ------------------------------------------------------------ */

Test(mempool, fills_its_reserve_at_init)
{
    for (size_t reserve = 1; reserve <= RESERVE; reserve++) {
        set_up_reserve(reserve);
        cr_assert_eq(source_allocs, reserve);
        cr_assert_eq(stats().objects, reserve);
        cr_assert_eq(stats().waiting, reserve);
        cr_assert_eq(stats().least_waiting, reserve);
        cr_assert_eq(stats().reserve_uses, 0U);
        cr_assert_eq(stats().failed_allocs, 0U);
        cr_assert_eq(stats().refused_frees, 0U);
        cr_assert_eq(tier_mempool_destroy(&pool), TIER_OK);
        expect_unlocked();
        cr_assert_eq(count_at(SOURCE), OBJECTS);
        cr_assert_eq(source_frees, reserve);
    }
}

Test(mempool, holds_nothing_when_init_fails)
{
    for (size_t given = 0; given < RESERVE; given++) {
        reset();
        source_left = given;
        cr_assert_eq(tier_mempool_init(&pool, slots, RESERVE, &source),
                     TIER_ERR_NO_MEMORY);
        cr_assert_eq(source_allocs, given + 1, "ends with the first failure");
        cr_assert_eq(source_frees, given);
        cr_assert_eq(count_at(SOURCE), OBJECTS);
        cr_assert(test_all(&pool, 0xA5, sizeof(pool)), "touched");
    }
}

Test(mempool, refuses_what_it_cannot_use)
{
    struct tier_mempool_source wrong = source;

    reset();
    cr_assert_eq(tier_mempool_init(&pool, slots, 0, &source), TIER_ERR_INVALID);
    cr_assert_eq(tier_mempool_init(&pool, NULL, 1, &source), TIER_ERR_INVALID);
    wrong.alloc = NULL;
    cr_assert_eq(tier_mempool_init(&pool, slots, 1, &wrong), TIER_ERR_INVALID);
    wrong = source;
    wrong.free = NULL;
    cr_assert_eq(tier_mempool_init(&pool, slots, 1, &wrong), TIER_ERR_INVALID);
    cr_assert_eq(source_allocs, 0U);
    cr_assert(test_all(&pool, 0xA5, sizeof(pool)), "touched");
    cr_assert_eq(slots[0], &slots[0]);
}

Test(mempool, is_not_destroyed_while_part_of_the_reserve_is_out)
{
    set_up();
    source_left = 0;
    void *const first = take();
    void *const second = take();

    cr_assert_eq(tier_mempool_destroy(&pool), TIER_ERR_IN_USE);
    expect_unlocked();
    cr_assert_eq(source_frees, 0U);
    give(first);
    cr_assert_eq(tier_mempool_destroy(&pool), TIER_ERR_IN_USE);
    expect_sound();
    give(second);
    expect_sound();
    cr_assert_eq(tier_mempool_destroy(&pool), TIER_OK);
    cr_assert_eq(count_at(SOURCE), OBJECTS);
}

Test(mempool, passes_everything_on_once_it_is_destroyed)
{
    set_up();
    void *const object = take();

    cr_assert_eq(tier_mempool_destroy(&pool), TIER_OK);
    cr_assert_eq(count_at(SOURCE), OBJECTS - 1);
    give(object);
    cr_assert_eq(count_at(SOURCE), OBJECTS);
    give(take());
    source_left = 0;
    cr_assert_null(take());
    cr_assert_eq(stats().objects, 0U);
    cr_assert_eq(stats().least_waiting, 0U);
    cr_assert(tier_mempool_check(&pool));
    cr_assert_eq(tier_mempool_destroy(&pool), TIER_OK);
    cr_assert_eq(count_at(SOURCE), OBJECTS);
}

/* --- Allocation ----------------------------------------------------------- */

Test(mempool, asks_the_source_first)
{
    set_up();
    for (size_t i = RESERVE; i < OBJECTS; i++) {
        cr_assert_not_null(take());
        cr_assert_eq(stats().waiting, RESERVE);
        cr_assert_eq(source_allocs, i + 1);
    }
    cr_assert_eq(stats().reserve_uses, 0U);
    cr_assert_eq(stats().least_waiting, RESERVE);
}

Test(mempool, hands_out_every_object_before_it_fails)
{
    set_up();
    for (size_t i = 0; i < OBJECTS; i++) {
        cr_assert_not_null(take());
        expect_sound();
    }
    cr_assert_eq(count_at(IN_USE), OBJECTS);
    for (size_t i = 1; i <= 3; i++) {
        cr_assert_null(take());
        cr_assert_eq(stats().failed_allocs, i);
    }
    cr_assert_eq(stats().reserve_uses, RESERVE);
    cr_assert_eq(stats().least_waiting, 0U);
    cr_assert_eq(source_allocs, RESERVE + OBJECTS + 3);
}

Test(mempool, refills_the_reserve_first)
{
    void *object[RESERVE + 3];

    set_up();
    for (size_t i = 0; i < COUNT(object); i++) {
        source_left = i < 3 ? 1 : 0;
        object[i] = take();
        cr_assert_not_null(object[i]);
    }
    cr_assert_eq(stats().waiting, 0U);
    for (size_t i = 0; i < COUNT(object); i++) {
        give(object[i]);
        expect_sound();
        cr_assert_eq(stats().waiting, i < RESERVE ? i + 1 : RESERVE);
        cr_assert_eq(source_frees, i < RESERVE ? 0 : i + 1 - RESERVE);
    }
    cr_assert_eq(stats().least_waiting, 0U);
}

Test(mempool, hands_out_what_waited_the_shortest)
{
    set_up();
    source_left = 0;
    void *const first = take();
    void *const second = take();

    give(first);
    give(second);
    cr_assert_eq(take(), second);
    cr_assert_eq(take(), first);
}

Test(mempool, remembers_how_low_the_reserve_was)
{
    void *object[RESERVE];

    set_up();
    source_left = 0;
    for (size_t lowest = RESERVE; lowest > 0; lowest--) {
        const size_t out = RESERVE - lowest + 1;

        for (size_t i = 0; i < out; i++) {
            object[i] = take();
        }
        cr_assert_eq(stats().least_waiting, lowest - 1);
        for (size_t i = 0; i < out; i++) {
            give(object[i]);
        }
        cr_assert_eq(stats().least_waiting, lowest - 1);
        cr_assert_eq(stats().waiting, RESERVE);
    }
}

Test(mempool, frees_null_to_nothing)
{
    set_up();
    source_left = 0;
    cr_assert_not_null(take());
    const unsigned locks = pool.lock.locks;

    cr_assert_eq(tier_mempool_free(&pool, NULL), TIER_OK);
    cr_assert_eq(pool.lock.locks, locks);
    cr_assert_eq(stats().waiting, RESERVE - 1);
    cr_assert_eq(source_frees, 0U);
    cr_assert_eq(stats().refused_frees, 0U);
}

#if TIERALLOC_CHECKS
Test(mempool, refuses_what_waits_in_the_reserve)
{
    void *object[RESERVE];

    set_up();
    source_left = 0;
    for (size_t i = 0; i < RESERVE; i++) {
        object[i] = take();
    }
    for (size_t i = 0; i < RESERVE; i++) {
        give(object[i]);
        for (size_t j = 0; j <= i; j++) {
            cr_assert_eq(tier_mempool_free(&pool, object[j]),
                         TIER_ERR_DOUBLE_FREE);
            expect_sound();
        }
        cr_assert_eq(stats().waiting, i + 1);
    }
    cr_assert_eq(stats().refused_frees, RESERVE * (RESERVE + 1) / 2);
    cr_assert_eq(source_frees, 0U);

    /* Handed out again, it may be freed again. */
    give(take());
    expect_sound();
    cr_assert_eq(stats().refused_frees, RESERVE * (RESERVE + 1) / 2);
}
#endif

/* --- Forward progress ----------------------------------------------------- */

Test(mempool, never_fails_within_its_reserve)
{
    void *held[RESERVE];
    size_t count = 0;

    set_up();
    source_left = 0;
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        if (count == RESERVE ||
            (count > 0 && test_below(&random_state, 2) == 0)) {
            const size_t which = test_below(&random_state, (uint32_t)count);

            give(held[which]);
            held[which] = held[--count];
        } else {
            held[count] = take();
            cr_assert_not_null(held[count]);
            count++;
        }
        expect_sound();
    }
    cr_assert_eq(stats().failed_allocs, 0U);
    cr_assert_eq(stats().least_waiting, 0U);
}

/* Holders that need one object each, for a while, and try until they have it. */
Test(mempool, serves_more_holders_than_its_reserve_in_the_end)
{
    void *held[8] = {NULL};
    size_t served[COUNT(held)] = {0};

    set_up_reserve(1);
    source_left = 0;
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        const size_t holder = test_below(&random_state, COUNT(held));

        if (held[holder] != NULL) {
            give(held[holder]);
            held[holder] = NULL;
        } else {
            const bool none_out = count_at(IN_USE) == 0;

            held[holder] = take();
            cr_assert_eq(held[holder] != NULL, none_out);
            served[holder] += none_out;
        }
        expect_sound();
    }
    for (size_t holder = 0; holder < COUNT(held); holder++) {
        cr_assert(served[holder] > 0);
    }
}

/* --- Random runs ---------------------------------------------------------- */

/* The reserve refuses only while as many objects are in use as it has. */
static void random_step(bool source_fails)
{
    const size_t index = test_below(&random_state, OBJECTS);
    const size_t in_use = count_at(IN_USE);

    source_left = source_fails ? 0 : test_below(&random_state, 3);
    if (place[index] == IN_USE) {
        const size_t waiting = stats().waiting;
        const size_t frees = source_frees;

        give(&objects[index]);
        cr_assert_eq(stats().waiting, waiting + (waiting < RESERVE));
        cr_assert_eq(source_frees, frees + (waiting == RESERVE));
#if TIERALLOC_CHECKS
    } else if (place[index] == RESERVED && test_below(&random_state, 2) == 0) {
        const size_t refused = stats().refused_frees;

        cr_assert_eq(tier_mempool_free(&pool, &objects[index]),
                     TIER_ERR_DOUBLE_FREE);
        cr_assert_eq(stats().refused_frees, refused + 1);
#endif
    } else if (take() == NULL) {
        cr_assert_geq(in_use, RESERVE);
        cr_assert_eq(stats().waiting, 0U);
    }
}

Test(mempool, agrees_with_a_model_of_every_object)
{
    set_up();
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        random_step(step / 64 % 2 == 0);
        expect_sound();
    }
    cr_assert(stats().failed_allocs > 0);
    cr_assert(stats().reserve_uses > stats().failed_allocs);
    for (size_t i = 0; i < OBJECTS; i++) {
        if (place[i] == IN_USE) {
            give(&objects[i]);
        }
    }
    expect_sound();
    cr_assert_eq(tier_mempool_destroy(&pool), TIER_OK);
    cr_assert_eq(count_at(SOURCE), OBJECTS);
}

/* --- Another CPU ---------------------------------------------------------- */

static void *other_held[OBJECTS];
static size_t other_count;

/* Another CPU, which allocates and frees whenever the lock is free. */
static void other_cpu(void)
{
    if (other_count > 0 && test_below(&random_state, 2) == 0) {
        void *const object = other_held[--other_count];

        cr_assert_eq(place[index_of(object)], IN_USE);
        place[index_of(object)] = RESERVED;
        cr_assert_eq(tier_mempool_free(&pool, object), TIER_OK);
    } else {
        void *const object = tier_mempool_alloc(&pool);

        if (object != NULL) {
            cr_assert_eq(place[index_of(object)], RESERVED);
            place[index_of(object)] = IN_USE;
            other_held[other_count++] = object;
        }
    }
    cr_assert(tier_mempool_check(&pool));
}

/* What is taken or freed here moves only after the other CPU has moved. */
Test(mempool, stands_what_another_cpu_does_between_its_locks)
{
    void *held[OBJECTS];
    size_t count = 0;

    set_up();
    other_count = 0;
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        source_left = step / 64 % 2 == 0 ? 0 : test_below(&random_state, 3);
        after_unlock = other_cpu;
        if (count > 0 && test_below(&random_state, 2) == 0) {
            void *const object = held[--count];

            place[index_of(object)] = RESERVED;
            cr_assert_eq(tier_mempool_free(&pool, object), TIER_OK);
        } else {
            void *const object = tier_mempool_alloc(&pool);

            if (object != NULL) {
                cr_assert_eq(place[index_of(object)], RESERVED);
                place[index_of(object)] = IN_USE;
                held[count++] = object;
            }
        }
        after_unlock = NULL;
        expect_sound();
    }
    cr_assert_eq(count + other_count, count_at(IN_USE));
    cr_assert(stats().failed_allocs > 0);
    while (count > 0) {
        give(held[--count]);
    }
    while (other_count > 0) {
        give(other_held[--other_count]);
    }
    cr_assert_eq(tier_mempool_destroy(&pool), TIER_OK);
    cr_assert_eq(count_at(SOURCE), OBJECTS);
}

/* --- Damage --------------------------------------------------------------- */

Test(mempool, check_sees_a_wrong_reserve)
{
    set_up();
    void *const last = slots[RESERVE - 1];

    slots[RESERVE - 1] = NULL;
    cr_assert(!tier_mempool_check(&pool), "no object");
    slots[RESERVE - 1] = slots[0];
    cr_assert(!tier_mempool_check(&pool), "an object twice");
    slots[RESERVE - 1] = slots[RESERVE - 2];
    cr_assert(!tier_mempool_check(&pool), "an object twice");
    slots[RESERVE - 1] = last;
    pool.waiting = RESERVE + 1;
    cr_assert(!tier_mempool_check(&pool), "too many");
    pool.waiting = RESERVE - 1;
    cr_assert(!tier_mempool_check(&pool), "fewer than ever");
    pool.waiting = RESERVE;
    expect_sound();
}
