/*
 * tests/test_reclaim.c - shrinkers in order of cost, and the handler, against a
 * model; with a lock that counts, so that none is held in a callback.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION

#include "locks.h"

#include "support.h"

#include <tieralloc/reclaim.h>

/* --- The rig -------------------------------------------------------------- */

#define CACHES 8

/* A cache of data that can be built again. */
struct cache {
    struct tier_shrinker shrinker;
    size_t bytes;      /* what it has */
    size_t claim;      /* what it says it has; SIZE_MAX: the truth */
    size_t give;       /* what a scan frees; SIZE_MAX: what is asked */
    void (*act)(void); /* what a scan does besides, or NULL */
};

/* What was called: the caches in the order of their scans, and how much. */
struct event {
    const struct cache *cache;
    size_t asked;
    size_t freed;
};

static struct tier_reclaim reclaim;
static struct cache caches[CACHES];
static struct event events[CACHES * TIER_RECLAIM_SCANS + 1];
static size_t scans;    /* events so far */
static size_t counts;   /* calls of count */
static size_t attempts; /* calls of attempt */
static size_t freed;    /* bytes that the caches gave up so far */
static size_t needed;   /* freed bytes with which an attempt succeeds */
static uint64_t random_state;

static void expect_unlocked(void)
{
    cr_assert_eq(reclaim.lock.locks, reclaim.lock.unlocks, "locked");
}

static size_t count(void *context)
{
    const struct cache *const cache = (const struct cache *)context;

    expect_unlocked();
    counts++;
    return cache->claim != SIZE_MAX ? cache->claim : cache->bytes;
}

static size_t scan(void *context, size_t bytes)
{
    struct cache *const cache = (struct cache *)context;
    size_t given = bytes < cache->bytes ? bytes : cache->bytes;

    expect_unlocked();
    cr_assert(reclaim.running);
    cr_assert(scans < COUNT(events));
    if (cache->give != SIZE_MAX) {
        given = cache->give;
    } else {
        cache->bytes -= given;
    }
    if (cache->act != NULL) {
        cache->act();
    }
    events[scans].cache = cache;
    events[scans].asked = bytes;
    events[scans].freed = given;
    scans++;
    freed += given;
    return given;
}

static bool attempt(void *context)
{
    expect_unlocked();
    cr_assert_eq(context, (void *)&needed);
    cr_assert(scans > 0 && events[scans - 1].freed > 0, "nothing new to try");
    attempts++;
    return freed >= needed;
}

static void forget(void)
{
    scans = 0;
    counts = 0;
    attempts = 0;
    freed = 0;
}

/* Run for a request that is served once `need` bytes were freed. */
static bool run(size_t bytes, size_t need)
{
    forget();
    needed = need;
    const bool succeeded = tier_reclaim_run(&reclaim, bytes, attempt, &needed);

    expect_unlocked();
    cr_assert(!reclaim.running);
    cr_assert(tier_reclaim_check(&reclaim));
    return succeeded;
}

static enum tier_status add(size_t cache)
{
    const enum tier_status status =
        tier_reclaim_add(&reclaim, &caches[cache].shrinker);

    expect_unlocked();
    cr_assert(tier_reclaim_check(&reclaim));
    return status;
}

static enum tier_status take(size_t cache)
{
    const enum tier_status status =
        tier_reclaim_remove(&reclaim, &caches[cache].shrinker);

    expect_unlocked();
    cr_assert(tier_reclaim_check(&reclaim));
    return status;
}

/* Make an honest cache, not registered. */
static void make(size_t cache, unsigned cost, size_t bytes)
{
    struct cache *const made = &caches[cache];

    made->shrinker.count = count;
    made->shrinker.scan = scan;
    made->shrinker.cost = cost;
    made->shrinker.context = made;
    made->shrinker.name = NULL;
    made->shrinker.calls = 77;
    made->shrinker.freed_bytes = 77;
    made->bytes = bytes;
    made->claim = SIZE_MAX;
    made->give = SIZE_MAX;
    made->act = NULL;
}

static void set_up(void)
{
    random_state = TEST_SEED;
    after_unlock = NULL;
    memset(&reclaim, 0xA5, sizeof(reclaim));
    tier_reclaim_init(&reclaim);
    cr_assert_eq(reclaim.lock.inits, 1U);
    cr_assert_eq(reclaim.lock.locks, 0U);
    cr_assert(tier_reclaim_check(&reclaim));
    forget();
}

static void make_and_add(size_t cache, unsigned cost, size_t bytes)
{
    make(cache, cost, bytes);
    cr_assert_eq(add(cache), TIER_OK);
}

static struct tier_reclaim_stats stats(void)
{
    struct tier_reclaim_stats now;

    tier_reclaim_stats(&reclaim, &now);
    expect_unlocked();
    return now;
}

/* The scan number `index` must have been of this cache, for so much. */
static void expect_scan(size_t index, size_t cache, size_t asked)
{
    cr_assert(index < scans);
    cr_assert_eq(events[index].cache, &caches[cache]);
    cr_assert_eq(events[index].asked, asked, "asked for %zu bytes",
                 events[index].asked);
}

/* --- The order ------------------------------------------------------------ */

Test(reclaim, starts_with_nothing_to_ask)
{
    set_up();
    cr_assert(!run(64, 0));
    cr_assert_eq(attempts, 0U, "nothing was freed");
    cr_assert(!tier_reclaim_oom(&reclaim, 64));
    cr_assert_eq(stats().shrinkers, 0U);
    cr_assert_eq(stats().runs, 1U);
    cr_assert_eq(stats().succeeded_runs, 0U);
    cr_assert_eq(stats().refused_runs, 0U);
    cr_assert_eq(stats().freed_bytes, 0U);
    cr_assert_eq(stats().oom_calls, 0U);
    cr_assert_eq(stats().refused_ooms, 0U);
    cr_assert(!stats().running);
}

Test(reclaim, asks_the_cheapest_first)
{
    set_up();
    make_and_add(0, 5, 10);
    make_and_add(1, 9, 10);
    make_and_add(2, 0, 10);
    make_and_add(3, 7, 10);
    cr_assert_eq(stats().shrinkers, 4U);
    cr_assert(!run(10, SIZE_MAX));
    cr_assert_eq(scans, 4U);
    expect_scan(0, 2, 10);
    expect_scan(1, 0, 10);
    expect_scan(2, 3, 10);
    expect_scan(3, 1, 10);
    cr_assert_eq(stats().freed_bytes, 40U);
}

Test(reclaim, asks_equal_costs_in_the_order_of_registration)
{
    set_up();
    make_and_add(3, 4, 10);
    make_and_add(1, 4, 10);
    make_and_add(0, 3, 10);
    make_and_add(2, 4, 10);
    cr_assert(!run(10, SIZE_MAX));
    cr_assert_eq(scans, 4U);
    expect_scan(0, 0, 10);
    expect_scan(1, 3, 10);
    expect_scan(2, 1, 10);
    expect_scan(3, 2, 10);

    /* Who comes again is the last of its equals. */
    cr_assert_eq(take(3), TIER_OK);
    cr_assert_eq(add(3), TIER_OK);
    for (size_t i = 0; i < 4; i++) {
        caches[i].bytes = 10;
    }
    cr_assert(!run(10, SIZE_MAX));
    expect_scan(1, 1, 10);
    expect_scan(2, 2, 10);
    expect_scan(3, 3, 10);
}

Test(reclaim, ends_with_the_attempt_that_succeeds)
{
    set_up();
    make_and_add(0, 1, 100);
    make_and_add(1, 2, 100);
    make_and_add(2, 3, 100);
    cr_assert(run(100, 200));
    cr_assert_eq(scans, 2U);
    cr_assert_eq(attempts, 2U);
    cr_assert_eq(caches[2].bytes, 100U, "not to be asked any more");
    cr_assert_eq(stats().succeeded_runs, 1U);
    cr_assert_eq(stats().runs, 1U);
}

Test(reclaim, passes_by_a_shrinker_that_counts_nothing)
{
    set_up();
    make_and_add(0, 1, 0);
    make_and_add(1, 2, 100);
    cr_assert(run(50, 50));
    cr_assert_eq(scans, 1U);
    expect_scan(0, 1, 50);
    cr_assert_eq(caches[0].shrinker.calls, 0U);
    cr_assert_eq(caches[1].shrinker.calls, 1U);
    cr_assert_eq(caches[1].shrinker.freed_bytes, 50U);
}

Test(reclaim, makes_no_attempt_when_a_scan_freed_nothing)
{
    set_up();
    make_and_add(0, 1, 100);
    caches[0].give = 0;
    make_and_add(1, 2, 10);
    cr_assert(!run(10, SIZE_MAX));
    cr_assert_eq(scans, 2U, "who freed nothing is not asked again");
    cr_assert_eq(attempts, 1U);
    cr_assert_eq(caches[0].shrinker.calls, 1U);
}

/* --- How much, and how often ---------------------------------------------- */

Test(reclaim, asks_for_twice_as_much_until_all_was_asked_for)
{
    set_up();
    make_and_add(0, 1, 1000);
    cr_assert(!run(100, SIZE_MAX));
    cr_assert_eq(scans, 4U);
    expect_scan(0, 0, 100);
    expect_scan(1, 0, 200);
    expect_scan(2, 0, 400);
    expect_scan(3, 0, 400); /* 300 are left, and 400 ask for them */
    cr_assert_eq(caches[0].bytes, 0U);
    cr_assert_eq(attempts, 4U);
    cr_assert_eq(counts, 4U);
}

Test(reclaim, asks_for_no_more_than_is_left_to_ask_for)
{
    set_up();
    make_and_add(0, 1, 200);
    cr_assert(!run(100, SIZE_MAX));
    cr_assert_eq(scans, 2U);
    expect_scan(0, 0, 100);
    expect_scan(1, 0, 100);
}

Test(reclaim, asks_for_no_less_than_the_request)
{
    set_up();
    make_and_add(0, 1, 3);
    cr_assert(!run(100, SIZE_MAX));
    cr_assert_eq(scans, 1U);
    expect_scan(0, 0, 100);
    caches[0].bytes = 3;
    cr_assert(!run(SIZE_MAX, SIZE_MAX));
    cr_assert_eq(scans, 1U);
    expect_scan(0, 0, SIZE_MAX);
}

Test(reclaim, takes_no_bytes_for_one_byte)
{
    set_up();
    make_and_add(0, 1, 3);
    cr_assert(run(0, 3));
    cr_assert_eq(scans, 2U);
    expect_scan(0, 0, 1);
    expect_scan(1, 0, 2);
}

/* A scan that empties its cache without saying how much that was. */
static void empty_the_first(void)
{
    caches[0].bytes = 0;
}

Test(reclaim, counts_again_before_it_scans_again)
{
    set_up();
    make_and_add(0, 1, 1000);
    caches[0].act = empty_the_first;
    cr_assert(!run(10, SIZE_MAX));
    cr_assert_eq(scans, 1U);
    cr_assert_eq(counts, 2U);
}

Test(reclaim, asks_for_all_that_is_left_at_last)
{
    const size_t rest = SIZE_MAX / 2;

    set_up();
    make_and_add(0, 1, rest);
    cr_assert(!run(1, SIZE_MAX));
    cr_assert_eq(scans, TIER_RECLAIM_SCANS + 0U);
    for (size_t i = 0; i + 1 < TIER_RECLAIM_SCANS; i++) {
        expect_scan(i, 0, (size_t)1 << i);
    }
    expect_scan(TIER_RECLAIM_SCANS - 1, 0,
                rest - ((size_t)1 << (TIER_RECLAIM_SCANS - 1)) + 1);
    cr_assert_eq(caches[0].bytes, 0U);

    /* Three bytes are left for the last scan: it asks for no less than the
       one before. */
    caches[0].bytes = ((size_t)1 << (TIER_RECLAIM_SCANS - 1)) - 1 + 3;
    cr_assert(!run(1, SIZE_MAX));
    cr_assert_eq(scans, TIER_RECLAIM_SCANS + 0U);
    expect_scan(TIER_RECLAIM_SCANS - 1, 0,
                (size_t)1 << (TIER_RECLAIM_SCANS - 2));
    cr_assert_eq(caches[0].bytes, 0U);
}

Test(reclaim, is_not_kept_by_a_shrinker_that_lies)
{
    const size_t claims[] = {1, 100, SIZE_MAX - 1};
    const size_t gives[] = {1, SIZE_MAX / 64};

    for (size_t i = 0; i < COUNT(claims) * COUNT(gives); i++) {
        set_up();
        make_and_add(0, 1, 0);
        make_and_add(1, 2, 10);
        caches[0].claim = claims[i % COUNT(claims)];
        caches[0].give = gives[i / COUNT(claims)];
        cr_assert(!run(1, SIZE_MAX));
        cr_assert_leq(caches[0].shrinker.calls, TIER_RECLAIM_SCANS + 0U);
        cr_assert_eq(attempts, scans);
        cr_assert_leq(counts, scans);
        cr_assert_eq(events[scans - 1].cache, &caches[1], "the next is asked");
        cr_assert_eq(caches[1].bytes, 0U);
    }
    cr_assert_eq(caches[0].shrinker.calls, TIER_RECLAIM_SCANS + 0U,
                 "a claim of everything uses every scan");
}

Test(reclaim, does_not_overflow_what_it_asks_for)
{
    set_up();
    make_and_add(0, 1, 0);
    caches[0].claim = SIZE_MAX - 1;
    caches[0].give = 1;
    cr_assert(!run(SIZE_MAX / 4, SIZE_MAX));
    cr_assert_eq(scans, 3U);
    expect_scan(0, 0, SIZE_MAX / 4);
    expect_scan(1, 0, SIZE_MAX / 4 * 2);
    expect_scan(2, 0, SIZE_MAX / 4 * 2);
    cr_assert(!run(SIZE_MAX / 2 + 1, SIZE_MAX));
    cr_assert_eq(scans, 2U);
    expect_scan(1, 0, SIZE_MAX / 2 + 1);
}

/* --- Refusals ------------------------------------------------------------- */

Test(reclaim, refuses_to_add_what_it_cannot_use)
{
    set_up();
    make(0, 1, 10);
    caches[0].shrinker.count = NULL;
    cr_assert_eq(add(0), TIER_ERR_INVALID);
    make(0, 1, 10);
    caches[0].shrinker.scan = NULL;
    cr_assert_eq(add(0), TIER_ERR_INVALID);
    make(0, 1, 10);
    cr_assert_eq(add(0), TIER_OK);
    make_and_add(1, 1, 10);
    make_and_add(2, 2, 10);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(add(i), TIER_ERR_IN_USE);
    }
    cr_assert_eq(stats().shrinkers, 3U);
    cr_assert(!run(10, SIZE_MAX));
    cr_assert_eq(scans, 3U);
    cr_assert_eq(add(0), TIER_ERR_IN_USE);
    cr_assert_eq(caches[0].shrinker.calls, 1U, "left as it was");
    cr_assert_eq(caches[0].shrinker.freed_bytes, 10U);
}

Test(reclaim, removes_only_what_is_registered)
{
    set_up();
    make(0, 1, 10);
    make(1, 1, 10);
    make(2, 1, 10);
    cr_assert_eq(take(0), TIER_ERR_INVALID);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(add(i), TIER_OK);
    }
    cr_assert_eq(take(1), TIER_OK);
    cr_assert_null(caches[1].shrinker.next);
    cr_assert_eq(take(1), TIER_ERR_INVALID);
    cr_assert_eq(stats().shrinkers, 2U);
    cr_assert(!run(10, SIZE_MAX));
    cr_assert_eq(scans, 2U);
    expect_scan(0, 0, 10);
    expect_scan(1, 2, 10);
    cr_assert_eq(take(2), TIER_OK);
    cr_assert_eq(take(0), TIER_OK);
    cr_assert_eq(stats().shrinkers, 0U);
    cr_assert_null(reclaim.first);

    /* What comes again counts from 0. */
    cr_assert_eq(caches[0].shrinker.calls, 1U);
    cr_assert_eq(add(0), TIER_OK);
    cr_assert_eq(caches[0].shrinker.calls, 0U);
    cr_assert_eq(caches[0].shrinker.freed_bytes, 0U);
}

Test(reclaim, refuses_a_run_without_an_attempt)
{
    set_up();
    make_and_add(0, 1, 10);
    cr_assert(!tier_reclaim_run(&reclaim, 1, NULL, NULL));
    expect_unlocked();
    cr_assert_eq(counts + scans, 0U);
    cr_assert_eq(stats().runs, 0U);
    cr_assert_eq(stats().refused_runs, 1U);
    cr_assert(run(1, 1), "the next is not refused");
}

/* Each call that a run refuses, made from inside of one. */
static void disturb(void)
{
    const size_t refused = reclaim.refused_runs;
    const size_t shrinkers = reclaim.shrinkers;

    cr_assert(stats().running);
    cr_assert(!tier_reclaim_run(&reclaim, 1, attempt, &needed));
    cr_assert_eq(stats().refused_runs, refused + 1);
    cr_assert_eq(stats().runs, 1U);
    cr_assert_eq(tier_reclaim_add(&reclaim, &caches[7].shrinker),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_reclaim_add(&reclaim, &caches[0].shrinker),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_reclaim_remove(&reclaim, &caches[0].shrinker),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_reclaim_remove(&reclaim, &caches[7].shrinker),
                 TIER_ERR_IN_USE);
    cr_assert_eq(stats().shrinkers, shrinkers);
    cr_assert(stats().running);
}

static size_t disturb_count(void *context)
{
    disturb();
    return count(context);
}

static bool disturb_attempt(void *context)
{
    disturb();
    return attempt(context);
}

Test(reclaim, is_never_entered_again)
{
    set_up();
    make(7, 0, 10);
    make(0, 1, 10);
    make(1, 2, 10);
    caches[0].shrinker.count = disturb_count;
    caches[0].act = disturb;
    cr_assert_eq(add(0), TIER_OK);
    cr_assert_eq(add(1), TIER_OK);
    needed = SIZE_MAX;
    cr_assert(!tier_reclaim_run(&reclaim, 10, disturb_attempt, &needed));
    cr_assert_eq(scans, 2U);
    cr_assert_eq(attempts, 2U);
    cr_assert_eq(stats().refused_runs, 4U);
    cr_assert(!stats().running);
    cr_assert(tier_reclaim_check(&reclaim));

    /* Afterwards, all of these are allowed again. */
    cr_assert_eq(add(7), TIER_OK);
    cr_assert_eq(take(0), TIER_OK);
    caches[7].bytes = 10;
    cr_assert(run(10, 10));
    cr_assert_eq(events[0].cache, &caches[7]);
}

/* Another CPU, which may do anything whenever the lock is free. */
static void other_cpu(void)
{
    const bool running = reclaim.running;
    const size_t before = scans;

    cr_assert_eq(tier_reclaim_add(&reclaim, &caches[7].shrinker),
                 running ? TIER_ERR_IN_USE : TIER_OK);
    cr_assert_eq(tier_reclaim_remove(&reclaim, &caches[7].shrinker),
                 running ? TIER_ERR_IN_USE : TIER_OK);
    cr_assert(tier_reclaim_check(&reclaim));
    if (running) {
        cr_assert(!tier_reclaim_run(&reclaim, 1, attempt, &needed));
        cr_assert_eq(scans, before);
    }
}

Test(reclaim, stands_what_another_cpu_does_between_its_locks)
{
    set_up();
    make(7, 0, 10);
    make_and_add(0, 1, 30);
    make_and_add(1, 2, 30);
    after_unlock = other_cpu;
    needed = 45;
    cr_assert(tier_reclaim_run(&reclaim, 10, attempt, &needed));
    after_unlock = NULL;
    cr_assert_eq(scans, 4U);
    expect_scan(0, 0, 10);
    expect_scan(1, 0, 20);
    expect_scan(2, 1, 10);
    expect_scan(3, 1, 20);
    cr_assert(stats().refused_runs > 4);
    cr_assert_eq(stats().runs, 1U);
    cr_assert_eq(stats().shrinkers, 2U);
}

/* --- The handler ---------------------------------------------------------- */

static size_t handler_calls;
static size_t handler_bytes;
static bool handler_helps;

static bool handler(void *context, size_t bytes)
{
    expect_unlocked();
    cr_assert_eq(context, (void *)&handler_calls);
    handler_calls++;
    handler_bytes = bytes;
    return handler_helps;
}

/* A handler whose own allocation fails: it is not asked about that one. */
static bool nested_handler(void *context, size_t bytes)
{
    cr_assert(!tier_reclaim_oom(&reclaim, 1));
    needed = 10;
    cr_assert(tier_reclaim_run(&reclaim, 10, attempt, &needed));
    return handler(context, bytes);
}

/* A handler that takes itself away. */
static bool last_handler(void *context, size_t bytes)
{
    tier_reclaim_set_oom(&reclaim, NULL, NULL);
    return handler(context, bytes);
}

Test(reclaim, asks_the_handler_and_believes_it)
{
    set_up();
    handler_calls = 0;
    tier_reclaim_set_oom(&reclaim, handler, &handler_calls);
    expect_unlocked();
    handler_helps = true;
    cr_assert(tier_reclaim_oom(&reclaim, 123));
    cr_assert_eq(handler_bytes, 123U);
    handler_helps = false;
    cr_assert(!tier_reclaim_oom(&reclaim, SIZE_MAX));
    cr_assert_eq(handler_bytes, SIZE_MAX);
    expect_unlocked();
    cr_assert_eq(handler_calls, 2U);
    cr_assert_eq(stats().oom_calls, 2U);
    tier_reclaim_set_oom(&reclaim, NULL, NULL);
    cr_assert(!tier_reclaim_oom(&reclaim, 1));
    cr_assert_eq(handler_calls, 2U);
    cr_assert_eq(stats().oom_calls, 2U);
    cr_assert_eq(stats().refused_ooms, 0U);
}

Test(reclaim, asks_the_handler_once_at_a_time)
{
    set_up();
    make_and_add(0, 1, 100);
    handler_calls = 0;
    handler_helps = true;
    tier_reclaim_set_oom(&reclaim, nested_handler, &handler_calls);
    for (size_t i = 1; i <= 2; i++) {
        freed = 0;
        cr_assert(tier_reclaim_oom(&reclaim, 5));
        cr_assert_eq(handler_calls, i);
        cr_assert_eq(stats().oom_calls, i);
        cr_assert_eq(stats().refused_ooms, i);
        cr_assert_eq(stats().succeeded_runs, i, "shrinkers may be asked");
    }
    tier_reclaim_set_oom(&reclaim, last_handler, &handler_calls);
    cr_assert(tier_reclaim_oom(&reclaim, 5));
    cr_assert(!tier_reclaim_oom(&reclaim, 5));
    cr_assert_eq(handler_calls, 3U);
}

static void ask_handler(void)
{
    cr_assert(tier_reclaim_oom(&reclaim, 9));
}

Test(reclaim, may_ask_the_handler_during_a_run)
{
    set_up();
    make_and_add(0, 1, 10);
    caches[0].act = ask_handler;
    handler_calls = 0;
    handler_helps = true;
    tier_reclaim_set_oom(&reclaim, handler, &handler_calls);
    cr_assert(run(10, 10));
    cr_assert_eq(handler_calls, 1U);
    cr_assert_eq(handler_bytes, 9U);
}

/* --- Random runs ---------------------------------------------------------- */

/* The model: the registered caches in the order in which they are asked. */
static size_t listed[CACHES];
static size_t listed_count;

static size_t model_find(size_t cache)
{
    size_t at = 0;

    while (at < listed_count && listed[at] != cache) {
        at++;
    }
    return at;
}

static void model_add(size_t cache)
{
    size_t at = listed_count++;

    for (; at > 0 &&
           caches[listed[at - 1]].shrinker.cost > caches[cache].shrinker.cost;
         at--) {
        listed[at] = listed[at - 1];
    }
    listed[at] = cache;
}

static void model_remove(size_t cache)
{
    listed_count--;
    for (size_t at = model_find(cache); at < listed_count; at++) {
        listed[at] = listed[at + 1];
    }
}

static void random_change(void)
{
    const size_t cache = test_below(&random_state, CACHES);
    const bool is_listed = model_find(cache) < listed_count;

    if (test_below(&random_state, 2) == 0) {
        if (!is_listed) {
            make(cache, test_below(&random_state, 4),
                 test_below(&random_state, 3000));
        }
        cr_assert_eq(add(cache), is_listed ? TIER_ERR_IN_USE : TIER_OK);
        if (!is_listed) {
            model_add(cache);
        }
    } else {
        cr_assert_eq(take(cache), is_listed ? TIER_OK : TIER_ERR_INVALID);
        if (is_listed) {
            model_remove(cache);
        }
    }
}

/* Honest caches: a request is served if and only if they have enough. */
static void random_run(void)
{
    const size_t bytes = 1 + test_below(&random_state, 1000);
    const size_t need = bytes + test_below(&random_state, 6000);
    size_t available = 0;
    size_t at = 0;

    for (size_t i = 0; i < listed_count; i++) {
        available += caches[listed[i]].bytes;
    }
    cr_assert_eq(run(bytes, need), available >= need);
    cr_assert_leq(freed, available);
    for (size_t i = 0; i < scans; i++) {
        while (events[i].cache != &caches[listed[at]]) {
            cr_assert_eq(caches[listed[at]].bytes, 0U, "left too early");
            at++;
            cr_assert(at < listed_count, "out of order");
        }
        cr_assert_geq(events[i].asked, bytes);
    }
    cr_assert_eq(attempts, scans);
}

Test(reclaim, agrees_with_a_model_of_honest_caches)
{
    struct tier_reclaim_stats expected = {0};

    set_up();
    listed_count = 0;
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        if (test_below(&random_state, 2) == 0) {
            random_change();
        } else {
            random_run();
            expected.runs++;
            expected.freed_bytes += freed;
            expected.succeeded_runs += freed >= needed;
        }
        caches[test_below(&random_state, CACHES)].bytes +=
            test_below(&random_state, 3000);
        cr_assert_eq(stats().shrinkers, listed_count);
        cr_assert_eq(stats().runs, expected.runs);
        cr_assert_eq(stats().succeeded_runs, expected.succeeded_runs);
        cr_assert_eq(stats().freed_bytes, expected.freed_bytes);
    }
    cr_assert(expected.succeeded_runs > 0);
    cr_assert(expected.succeeded_runs < expected.runs);
}

Test(reclaim, stays_bounded_whatever_the_callbacks_say)
{
    set_up();
    for (size_t i = 0; i < CACHES; i++) {
        make_and_add(i, (unsigned)i % 3, 0);
    }
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS / 4; step++) {
        struct cache *const cache = &caches[test_below(&random_state, CACHES)];

        cache->claim =
            (size_t)test_random(&random_state) >> test_below(&random_state, 32);
        cache->give = test_below(&random_state, 3);
        const size_t bytes =
            (size_t)test_random(&random_state) >> test_below(&random_state, 32);

        (void)run(bytes, test_below(&random_state, 20) + 1);
        cr_assert_leq(counts, CACHES * TIER_RECLAIM_SCANS + 0U);
        for (size_t i = 0; i < scans; i++) {
            cr_assert_geq(events[i].asked, bytes);
            cr_assert(events[i].asked > 0);
        }
    }
}

/* --- Inspection ----------------------------------------------------------- */

struct text {
    char at[1024];
    size_t length;
};

static void put(void *context, char character)
{
    struct text *const text = (struct text *)context;

    expect_unlocked();
    cr_assert(text->length < sizeof(text->at) - 1);
    text->at[text->length++] = character;
    text->at[text->length] = '\0';
}

Test(reclaim, dumps_a_line_for_each_shrinker)
{
    static struct text written;

    set_up();
    make(0, 12, 300);
    caches[0].shrinker.name = "names";
    cr_assert_eq(add(0), TIER_OK);
    make_and_add(1, 3, 50);
    cr_assert(!run(100, SIZE_MAX));
    caches[1].bytes = 70;
    cr_assert(run(70, 70));
    cr_assert(!tier_reclaim_run(&reclaim, 1, NULL, NULL));
    tier_reclaim_set_oom(&reclaim, handler, &handler_calls);
    handler_helps = false;
    cr_assert(!tier_reclaim_oom(&reclaim, 1));
    written.length = 0;
    tier_reclaim_dump(&reclaim, put, &written);
    expect_unlocked();
    cr_assert_eq(strcmp(written.at,
                        "reclaim: shrinkers 2, runs 2, succeeded 1, refused 1, "
                        "freed bytes 420, out of memory 1\n"
                        "shrinker : cost 3, scans 2, freed bytes 120\n"
                        "shrinker names: cost 12, scans 2, freed bytes 300\n"),
                 0, "%s", written.at);
}

Test(reclaim, check_sees_a_wrong_list)
{
    set_up();
    for (size_t i = 0; i < 4; i++) {
        make_and_add(i, (unsigned)i * 2, 10);
    }
    struct tier_shrinker *const shrinker = &caches[2].shrinker;
    struct tier_shrinker *const next = shrinker->next;

    shrinker->cost = 7;
    cr_assert(!tier_reclaim_check(&reclaim), "dearer than the next");
    shrinker->cost = 1;
    cr_assert(!tier_reclaim_check(&reclaim), "cheaper than the one before");
    shrinker->cost = 4;
    shrinker->next = shrinker;
    cr_assert(!tier_reclaim_check(&reclaim), "a cycle");
    shrinker->next = &caches[0].shrinker;
    cr_assert(!tier_reclaim_check(&reclaim), "a longer cycle");
    shrinker->next = NULL;
    cr_assert(!tier_reclaim_check(&reclaim), "too short");
    shrinker->next = next;
    reclaim.shrinkers = 3;
    cr_assert(!tier_reclaim_check(&reclaim), "too long");
    reclaim.shrinkers = 4;
    shrinker->count = NULL;
    cr_assert(!tier_reclaim_check(&reclaim), "no count");
    shrinker->count = count;
    shrinker->scan = NULL;
    cr_assert(!tier_reclaim_check(&reclaim), "no scan");
    shrinker->scan = scan;
    cr_assert(tier_reclaim_check(&reclaim));

    /* A cycle keeps no dump either: it ends with the last that is counted. */
    static struct text written;

    caches[3].shrinker.next = &caches[0].shrinker;
    cr_assert(!tier_reclaim_check(&reclaim), "a cycle of all");
    written.length = 0;
    tier_reclaim_dump(&reclaim, put, &written);
    expect_unlocked();
}
