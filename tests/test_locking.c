/*
 * tests/test_locking.c - each public call locks and unlocks evenly, never
 * nested.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION

#include <criterion/criterion.h>

/* A lock that counts, and refuses to be taken twice. */
struct counting_lock {
    unsigned inits;
    unsigned locks;
    unsigned unlocks;
};

static void counting_init(struct counting_lock *lock)
{
    lock->inits = 1;
    lock->locks = 0;
    lock->unlocks = 0;
}

static void counting_lock(struct counting_lock *lock)
{
    cr_assert_eq(lock->locks, lock->unlocks, "taken while held");
    lock->locks++;
}

static void counting_unlock(struct counting_lock *lock)
{
    lock->unlocks++;
    cr_assert_eq(lock->locks, lock->unlocks, "released while not held");
}

#define TIERALLOC_LOCKING         1
#define TIERALLOC_LOCK_TYPE       struct counting_lock
#define TIERALLOC_LOCK_INIT(lock) counting_init(lock)
#define TIERALLOC_LOCK(lock)      counting_lock(lock)
#define TIERALLOC_UNLOCK(lock)    counting_unlock(lock)
#include "support.h"

#include <tieralloc/tieralloc.h>

/* --- The rig -------------------------------------------------------------- */

#define ARENA_PAGES ((size_t)64)
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)

TEST_ARENA(arena, ARENA_BYTES);
static struct tier_allocator heap;
static unsigned locks_before;

static void set_up(void)
{
    heap.lock.inits = 0;
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    cr_assert_eq(heap.lock.inits, 1U);
    cr_assert_eq(heap.lock.locks, 0U);
    cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES), TIER_OK);
    cr_assert_eq(heap.lock.locks, 1U);
    cr_assert_eq(heap.lock.unlocks, 1U);
    locks_before = 1;
}

/* The call just made must have taken the lock, and given it back. */
static void expect_locked(void)
{
    cr_assert_eq(heap.lock.locks, heap.lock.unlocks);
    cr_assert(heap.lock.locks > locks_before);
    locks_before = heap.lock.locks;
}

static void put(void *context, char character)
{
    cr_assert_eq(heap.lock.locks, heap.lock.unlocks + 1, "not locked");
    *(size_t *)context += character != '\0';
}

/* --- Tests ---------------------------------------------------------------- */

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
        expect_locked();
        (void)tier_try_alloc(&heap, sizes[i], TIER_ZERO, &memory);
        expect_locked();
        (void)tier_try_alloc(&heap, sizes[i], ~0U, &memory);
        expect_locked();
        (void)tier_calloc(&heap, sizes[i], 1);
        expect_locked();
        (void)tier_alloc_aligned(&heap, sizes[i], 64);
        expect_locked();
        memory = tier_realloc(&heap, NULL, sizes[i]);
        expect_locked();
        (void)tier_realloc(&heap, memory, 3);
        expect_locked();
    }
    (void)tier_alloc_pages(&heap, 0);
    expect_locked();
    (void)tier_alloc_pages(&heap, TIERALLOC_MAX_ORDER + 1);
    expect_locked();
    cr_assert(tier_check(&heap));
    expect_locked();
}

Test(locking, guards_every_free)
{
    set_up();
    for (unsigned sized = 0; sized < 2; sized++) {
        void *memory[] = {tier_alloc(&heap, 64), tier_alloc_pages(&heap, 1),
                          NULL};
        const size_t sizes[] = {64, TIER_PAGE_SIZE * 2, 1};

        for (size_t i = 0; i < COUNT(memory); i++) {
            locks_before = heap.lock.locks;
            cr_assert_eq(sized ? tier_free_sized(&heap, memory[i], sizes[i])
                               : tier_free(&heap, memory[i]),
                         TIER_OK);
            expect_locked();
#if TIERALLOC_CHECKS
            (void)tier_free(&heap, memory[i]);
            expect_locked();
            (void)tier_free_sized(&heap, memory[i], sizes[i]);
            expect_locked();
#endif
            (void)tier_usable_size(&heap, memory[i]);
            expect_locked();
        }
    }
    (void)tier_trim(&heap);
    expect_locked();
}

Test(locking, guards_every_look)
{
    struct tier_stats stats;
    size_t characters = 0;

    set_up();
    (void)tier_alloc(&heap, 64);
    expect_locked();
    tier_stats(&heap, &stats);
    expect_locked();
    cr_assert(tier_check(&heap));
    expect_locked();
    tier_dump(&heap, put, &characters);
    expect_locked();
    cr_assert(characters > 0);
    cr_assert_eq(tier_remove_region(&heap, arena, 1), TIER_ERR_IN_USE);
    expect_locked();
    cr_assert_eq(tier_remove_region(&heap, arena, 0), TIER_ERR_INVALID);
    expect_locked();
    cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES), TIER_ERR_OVERLAP);
    expect_locked();
    cr_assert_eq(tier_add_region(&heap, arena, 0), TIER_ERR_INVALID);
    expect_locked();
}

Test(locking, guards_every_step_of_a_transaction)
{
    struct tier_tx_record records[3];
    struct tier_tx tx;
    void *memory;

    set_up();
    for (unsigned commit = 0; commit < 2; commit++) {
        tier_tx_begin(&tx, records, COUNT(records));
        cr_assert_eq(tier_tx_alloc(&tx, &heap, 64, &memory), TIER_OK);
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
        cr_assert_eq(tier_tx_alloc(&tx, &heap, TIER_PAGE_SIZE, &memory),
                     TIER_OK);
        expect_locked();
        cr_assert_eq(tier_tx_alloc(&tx, &heap, 1, &memory), TIER_ERR_LOG_FULL);
        cr_assert_eq(heap.lock.locks, heap.lock.unlocks);
        if (commit != 0) {
            tier_tx_commit(&tx);
        } else {
            tier_tx_rollback(&tx);
        }
        expect_locked();
    }
    cr_assert(tier_check(&heap));
}
