/*
 * tests/locks.h - a lock that counts, for tests of who locks what and when.
 *
 * SPDX-License-Identifier: MIT
 *
 * Include it before any other header of the tests or of tieralloc: it makes this
 * lock the one that all of them take. None may be taken twice, before it is made,
 * or while another one is held.
 */
#ifndef TIERALLOC_TEST_LOCKS_H
#define TIERALLOC_TEST_LOCKS_H

#include <criterion/criterion.h>

struct counting_lock {
    unsigned inits;
    unsigned locks;
    unsigned unlocks;
};

/* Locks held just now, of all there are. */
static unsigned locks_held;

/* Called after each release of a lock: another CPU, or NULL. */
static void (*after_unlock)(void);

static void counting_init(struct counting_lock *lock)
{
    lock->inits = 1;
    lock->locks = 0;
    lock->unlocks = 0;
}

static void counting_lock(struct counting_lock *lock)
{
    cr_assert_eq(lock->inits, 1U, "taken before it is made");
    cr_assert_eq(lock->locks, lock->unlocks, "taken while held");
    cr_assert_eq(locks_held, 0U, "taken while another is held");
    locks_held++;
    lock->locks++;
}

static void counting_unlock(struct counting_lock *lock)
{
    void (*const other)(void) = after_unlock;

    lock->unlocks++;
    locks_held--;
    cr_assert_eq(lock->locks, lock->unlocks, "released while not held");
    if (other != NULL) {
        after_unlock = NULL;
        other();
        after_unlock = other;
    }
}

#define TIERALLOC_LOCKING         1
#define TIERALLOC_LOCK_TYPE       struct counting_lock
#define TIERALLOC_LOCK_INIT(lock) counting_init(lock)
#define TIERALLOC_LOCK(lock)      counting_lock(lock)
#define TIERALLOC_UNLOCK(lock)    counting_unlock(lock)

#endif /* TIERALLOC_TEST_LOCKS_H */
