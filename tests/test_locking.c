/*
 * tests/test_locking.c - each public call locks and unlocks evenly, never
 * nested, and holds no lock while it calls back.
 *
 * SPDX-License-Identifier: MIT
 *
 * There are two locks, that of the allocator and that of its shrinkers; none is
 * ever taken while the other is held.
 */
#define TIERALLOC_IMPLEMENTATION

#include "locks.h"

#include "support.h"

#include <tieralloc/tieralloc.h>

/* --- The rig -------------------------------------------------------------- */

#define ARENA_PAGES ((size_t)64)
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)

TEST_ARENA(arena, ARENA_BYTES);
static struct tier_allocator heap;
static struct tier_cache named;
static unsigned locks_before;
static unsigned reclaims_before;

static void set_up(void)
{
    locks_held = 0;
    heap.lock.inits = 0;
    heap.reclaim.lock.inits = 0;
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    cr_assert_eq(heap.lock.inits, 1U);
    cr_assert_eq(heap.lock.locks, 0U);
    cr_assert_eq(heap.reclaim.lock.inits, 1U);
    cr_assert_eq(heap.reclaim.lock.locks, 0U);
    cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES), TIER_OK);
    cr_assert_eq(heap.lock.locks, 1U);
    cr_assert_eq(heap.lock.unlocks, 1U);
    locks_before = 1;
    reclaims_before = 0;
}

/* No call may leave a lock held. */
static void expect_even(void)
{
    cr_assert_eq(locks_held, 0U);
    cr_assert_eq(heap.lock.locks, heap.lock.unlocks);
    cr_assert_eq(heap.reclaim.lock.locks, heap.reclaim.lock.unlocks);
}

/* The call just made must have taken the lock, and given it back. */
static void expect_locked(void)
{
    expect_even();
    cr_assert(heap.lock.locks > locks_before);
    locks_before = heap.lock.locks;
    reclaims_before = heap.reclaim.lock.locks;
}

/* The same of the lock of the shrinkers. */
static void expect_reclaim_locked(void)
{
    expect_even();
    cr_assert(heap.reclaim.lock.locks > reclaims_before);
    locks_before = heap.lock.locks;
    reclaims_before = heap.reclaim.lock.locks;
}

/* The call just made may have taken a lock, if it gave it back. */
static void expect_maybe_locked(void)
{
    expect_even();
    locks_before = heap.lock.locks;
    reclaims_before = heap.reclaim.lock.locks;
}

#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS < 2
/* The call just made must have done without any. */
static void expect_no_lock(void)
{
    expect_even();
    cr_assert_eq(heap.lock.locks, locks_before);
    cr_assert_eq(heap.reclaim.lock.locks, reclaims_before);
}
#endif

/* --- Tests ---------------------------------------------------------------- */

/* A call for memory locks, unless an object waits for it. */
static void expect_served(size_t bytes)
{
    if (bytes > TIERALLOC_OBJECT_MAX || TIERALLOC_CPUS == 0) {
        expect_locked();
    } else {
        expect_maybe_locked();
    }
}

Test(locking, guards_every_allocation)
{
    const size_t sizes[] = {0,
                            1,
                            64,
                            TIERALLOC_OBJECT_MAX,
                            (size_t)TIERALLOC_OBJECT_MAX + 1,
                            TIER_PAGE_SIZE * 2,
                            TIER_BLOCK_MAX,
                            SIZE_MAX};
    void *memory;

    set_up();
    for (size_t i = 0; i < COUNT(sizes); i++) {
        (void)tier_alloc(&heap, sizes[i]);
        expect_served(sizes[i]);
        (void)tier_try_alloc(&heap, sizes[i], TIER_ZERO, &memory);
        expect_locked();
        (void)tier_try_alloc(&heap, sizes[i], TIER_ATOMIC, &memory);
        expect_locked();
        (void)tier_try_alloc(&heap, sizes[i], TIER_DMA, &memory);
        expect_locked();
        (void)tier_try_alloc(&heap, sizes[i], ~0U, &memory);
        expect_locked();
        (void)tier_calloc(&heap, sizes[i], 1);
        expect_locked();
        (void)tier_alloc_aligned(&heap, sizes[i], 64);
        expect_locked();
        (void)tier_alloc_aligned(&heap, sizes[i], 63);
        expect_locked();
        (void)tier_alloc_bulk(&heap, sizes[i], 1, &memory);
        expect_locked();
        memory = tier_realloc(&heap, NULL, sizes[i]);
        expect_locked();
        memory = tier_realloc_aligned(&heap, memory, 100, 64);
        expect_locked();
        (void)tier_realloc(&heap, memory, 3);
        expect_locked();
    }
    cr_assert(tier_check(&heap));
    expect_locked();
}

Test(locking, guards_every_allocation_of_pages)
{
    void *memory;

    set_up();
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER + 1; order++) {
        memory = tier_alloc_pages(&heap, order);
        expect_locked();
        (void)tier_realloc(&heap, memory, TIER_BLOCK_MAX);
        if (memory != NULL) {
            expect_locked();
        }
        (void)tier_try_alloc_pages(&heap, order, TIER_ZERO, &memory);
        expect_locked();
        (void)tier_try_alloc_pages(&heap, order, TIER_ATOMIC, &memory);
        expect_locked();
        (void)tier_try_alloc_pages(&heap, order, ~0U, &memory);
        expect_locked();
    }
}

Test(locking, takes_no_lock_for_an_object_that_waits)
{
    void *object[8];

    set_up();
    for (unsigned mode = 0; mode < 2; mode++) {
        const size_t bytes = mode == 0 ? 64 : 1000;

        cr_assert_eq(tier_alloc_bulk(&heap, bytes, COUNT(object), object),
                     TIER_OK);
        for (size_t i = 0; i < COUNT(object); i++) {
            cr_assert_eq(tier_free(&heap, object[i]), TIER_OK);
        }
        expect_locked();
        for (size_t i = 0; i < COUNT(object); i++) {
            object[i] = tier_alloc(&heap, bytes);
            cr_assert_not_null(object[i]);
        }
#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS < 2
        expect_no_lock();
#endif
        for (size_t i = 0; i < COUNT(object); i++) {
            cr_assert_eq(i % 2 == 0 ? tier_free(&heap, object[i])
                                    : tier_free_sized(&heap, object[i], bytes),
                         TIER_OK);
        }
#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS < 2
        expect_no_lock();
#endif
        expect_maybe_locked();
    }
}

Test(locking, guards_every_free)
{
    set_up();
    for (unsigned sized = 0; sized < 2; sized++) {
        void *memory[] = {tier_alloc(&heap, 64), tier_alloc_pages(&heap, 0),
                          NULL};
        const size_t sizes[] = {64, TIER_PAGE_SIZE, 1};

        for (size_t i = 0; i < COUNT(memory); i++) {
            cr_assert_eq(sized ? tier_free_sized(&heap, memory[i], sizes[i])
                               : tier_free(&heap, memory[i]),
                         TIER_OK);
            expect_maybe_locked();
#if TIERALLOC_CHECKS
            if (memory[i] != NULL) {
                (void)tier_free(&heap, memory[i]);
                expect_locked();
                (void)tier_free_sized(&heap, memory[i], sizes[i]);
                expect_locked();
                (void)tier_free_bulk(&heap, 1, &memory[i]);
                expect_locked();
                (void)tier_realloc(&heap, memory[i], 8);
                expect_locked();
            }
#endif
            (void)tier_usable_size(&heap, memory[i]);
            expect_locked();
        }
    }
    (void)tier_trim(&heap);
    expect_locked();
    cr_assert_eq(tier_free(&heap, tier_alloc(&heap, 64)), TIER_OK);
    expect_locked();
    (void)tier_drain(&heap, 0);
    expect_maybe_locked();
}

Test(locking, guards_bulk_frees)
{
    void *memory[4];

    set_up();
    cr_assert_eq(tier_alloc_bulk(&heap, 64, 2, memory), TIER_OK);
    expect_locked();
    memory[2] = memory[0];
    memory[3] = tier_alloc_pages(&heap, 0);
    expect_locked();
    cr_assert_eq(tier_free_bulk(&heap, 4, memory), TIER_ERR_DOUBLE_FREE);
    expect_locked();
    memory[1] = memory[2]; /* sorted: the two objects lie side by side */
    memory[0] = memory[0] == memory[1] ? memory[3] : memory[0];
    cr_assert_eq(tier_free_bulk(&heap, 2, memory), TIER_OK);
    expect_locked();
    cr_assert(tier_check(&heap));
}

Test(locking, guards_every_look)
{
    struct tier_stats stats;

    set_up();
    (void)tier_alloc(&heap, 64);
    expect_locked();
    tier_stats(&heap, &stats);
    expect_locked();
    cr_assert(tier_check(&heap));
    expect_locked();
    cr_assert_eq(tier_remove_region(&heap, arena, 1), TIER_ERR_IN_USE);
    expect_locked();
    cr_assert_eq(tier_remove_region(&heap, arena, 0), TIER_ERR_INVALID);
    expect_locked();
    cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES), TIER_ERR_OVERLAP);
    expect_locked();
    cr_assert_eq(tier_add_region(&heap, arena, 0), TIER_ERR_INVALID);
    expect_locked();
}

/* A callback of the zones runs under the lock. */
static void hear(void *context, unsigned zone, enum tier_zone_event event)
{
    (void)zone;
    (void)event;
    cr_assert_eq(heap.lock.locks, heap.lock.unlocks + 1, "not locked");
    ++*(unsigned *)context;
}

Test(locking, guards_every_change_of_policy)
{
    const struct tier_zone_range range = {"all", (uintptr_t)arena, ARENA_BYTES};
    volatile unsigned no_zone = 9; /* the compiler is not to look it up */
    unsigned heard = 0;

    set_up();
    cr_assert_eq(tier_set_zones(&heap, &range, 1), TIER_ERR_IN_USE);
    expect_locked();
    cr_assert_eq(tier_set_mode(&heap, TIER_HYBRID), TIER_OK);
    expect_locked();
    tier_set_fail_fast(&heap, false);
    expect_locked();
    cr_assert_eq(tier_set_zone_callback(&heap, hear, &heard), TIER_OK);
    expect_locked();
    cr_assert_eq(tier_set_watermarks(&heap, 0, 0, 1, 2), TIER_OK);
    expect_locked();
    cr_assert_eq(tier_set_watermarks(&heap, no_zone, 0, 1, 2),
                 TIER_ERR_INVALID);
    expect_locked();
    cr_assert_eq(tier_set_zone_reserve(&heap, 0, 1), TIER_OK);
    expect_locked();
    while (tier_alloc_pages(&heap, 0) != NULL) {
        expect_locked();
    }
    expect_locked();
    cr_assert_eq(heard, 1U);
#if TIERALLOC_CHECKS == 2
    tier_inject(&heap, NULL);
    expect_locked();
    (void)tier_injected(&heap);
    expect_locked();
    tier_set_report(&heap, NULL, NULL);
    expect_locked();
#endif
}

/* A constructor runs under the lock, too. */
static void construct(void *object)
{
    cr_assert_eq(heap.lock.locks, heap.lock.unlocks + 1, "not locked");
    *(unsigned char *)object = 0;
}

Test(locking, guards_named_caches)
{
    set_up();
    cr_assert_eq(tier_add_cache(&heap, &named, "inode", 200, 8, 0, construct),
                 TIER_OK);
    expect_locked();
    void *const object = tier_alloc_from(&heap, &named);

    cr_assert_not_null(object);
    expect_locked();
    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_ERR_IN_USE);
    expect_locked();
    cr_assert_eq(tier_free(&heap, object), TIER_OK);
#if TIERALLOC_CHECKS
    expect_locked();
#else
    expect_maybe_locked();
#endif
    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_OK);
    expect_locked();
}

Test(locking, guards_every_mode)
{
    const enum tier_mode modes[] = {TIER_TWO_TIER, TIER_SIMPLE, TIER_HYBRID};
    void *memory[3];

    set_up();
    for (size_t i = 0; i < COUNT(modes); i++) {
        cr_assert_eq(tier_set_mode(&heap, modes[i]), TIER_OK);
        expect_locked();
        memory[i] = tier_alloc(&heap, 100);
        expect_maybe_locked();
        (void)tier_usable_size(&heap, memory[i]);
        expect_locked();
        memory[i] = tier_realloc(&heap, memory[i], 200);
        cr_assert_not_null(memory[i]);
        expect_locked();
    }
    for (size_t i = 0; i < COUNT(modes); i++) {
        cr_assert_eq(tier_free(&heap, memory[i]), TIER_OK);
        expect_maybe_locked();
    }
    cr_assert(tier_check(&heap));
    expect_locked();
}

/* What is called when memory is short: each allocates and frees itself. */
static struct {
    void *hoard; /* given up by scan */
    unsigned counts;
    unsigned scans;
    unsigned handled;
} shortage;

/* Any call may be made where a callback runs. */
static void call_from_callback(void)
{
    struct tier_stats stats;

    expect_even();
    (void)tier_free(&heap, tier_alloc(&heap, 64));
    (void)tier_free(&heap, tier_alloc_pages(&heap, 0));
    tier_stats(&heap, &stats);
    expect_even();
}

static size_t count(void *context)
{
    (void)context;
    call_from_callback();
    shortage.counts++;
    return shortage.hoard != NULL ? TIER_PAGE_SIZE : 0;
}

static size_t scan(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    call_from_callback();
    shortage.scans++;
    cr_assert_eq(tier_free(&heap, shortage.hoard), TIER_OK);
    shortage.hoard = NULL;
    return TIER_PAGE_SIZE;
}

static bool handle(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    call_from_callback();
    shortage.handled++;
    return false;
}

Test(locking, calls_back_with_no_lock_held)
{
    struct tier_shrinker shrinker = {count, scan, 1, NULL, "hoard", NULL, 0, 0};

    set_up();
    shortage.counts = 0;
    shortage.scans = 0;
    shortage.handled = 0;
    cr_assert_eq(tier_add_shrinker(&heap, &shrinker), TIER_OK);
    expect_reclaim_locked();
    cr_assert_eq(tier_add_shrinker(&heap, &shrinker), TIER_ERR_IN_USE);
    expect_reclaim_locked();
    tier_set_oom_handler(&heap, handle, NULL);
    expect_reclaim_locked();
    shortage.hoard = tier_alloc_pages(&heap, 0);
    expect_locked();
    while (shortage.scans == 0) {
        cr_assert_not_null(tier_alloc_pages(&heap, 0));
        expect_locked();
    }
    cr_assert(shortage.counts > 0);
    while (tier_alloc_pages(&heap, 0) != NULL) {
        expect_locked();
    }
    expect_locked();
    cr_assert(shortage.handled > 0);
    cr_assert_eq(tier_remove_shrinker(&heap, &shrinker), TIER_OK);
    expect_reclaim_locked();
    cr_assert_eq(tier_remove_shrinker(&heap, &shrinker), TIER_ERR_INVALID);
    expect_reclaim_locked();
    cr_assert(tier_check(&heap));
    expect_locked();
}

Test(locking, guards_every_step_of_a_transaction)
{
    struct tier_tx_record records[4];
    struct tier_tx tx;
    void *memory;
    void *pages;

    set_up();
    for (unsigned commit = 0; commit < 2; commit++) {
        tier_tx_begin(&tx, records, COUNT(records));
        cr_assert_eq(tier_tx_try_alloc(&tx, &heap, 64, TIER_ZERO, &memory),
                     TIER_OK);
        expect_locked();
        cr_assert_eq(tier_tx_free(&tx, &heap, memory), TIER_OK);
        expect_locked();
#if TIERALLOC_CHECKS
        cr_assert_eq(tier_tx_free(&tx, &heap, memory), TIER_ERR_DOUBLE_FREE);
        expect_locked();
        cr_assert_eq(tier_tx_free(&tx, &heap, arena), TIER_ERR_FOREIGN);
        expect_locked();
#endif
        cr_assert_eq(tier_tx_alloc(&tx, &heap, SIZE_MAX, &memory),
                     TIER_ERR_TOO_LARGE);
        expect_locked();
        cr_assert_eq(tier_tx_alloc_pages(&tx, &heap, 0, 0, &pages), TIER_OK);
        expect_locked();
        cr_assert_eq(tier_tx_alloc(&tx, &heap, 100, &memory), TIER_OK);
        expect_maybe_locked();
        cr_assert_eq(tier_tx_alloc(&tx, &heap, 1, &memory), TIER_ERR_LOG_FULL);
        expect_even();
        if (commit != 0) {
            tier_tx_commit(&tx);
            expect_maybe_locked();
            cr_assert_eq(tier_free(&heap, pages), TIER_OK);
        } else {
            tier_tx_rollback(&tx);
        }
        expect_locked();
    }
    cr_assert(tier_check(&heap));
}

Test(locking, guards_a_source_of_pages)
{
    struct tier_page_source source;

    set_up();
    tier_source(&heap, &source);
    void *const memory = source.acquire(source.context, 3);

    expect_locked();
    source.release(source.context, memory, 3);
    expect_locked();
}
