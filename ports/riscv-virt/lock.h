/*
 * lock.h - a spin lock for harts.
 *
 * SPDX-License-Identifier: MIT
 *
 * Test and test-and-set: a hart that waits reads its own copy of the word and
 * disturbs no other. It is not fair, on purpose: where QEMU has fewer threads
 * than harts, a queue would wait for harts that do not run. Interrupts stay as
 * they are; a hart that takes the lock twice waits for ever.
 */
#ifndef VIRT_LOCK_H
#define VIRT_LOCK_H

#include <stdint.h>

struct virt_lock {
    uint32_t held; /* 1: by some hart. A word, which amoswap can exchange */
};

static inline void virt_lock_init(struct virt_lock *lock)
{
    lock->held = 0;
}

/* Wait until no other hart holds the lock, and hold it. */
static inline void virt_lock_acquire(struct virt_lock *lock)
{
    while (__atomic_exchange_n(&lock->held, 1, __ATOMIC_ACQUIRE) != 0) {
        while (__atomic_load_n(&lock->held, __ATOMIC_RELAXED) != 0) {
        }
    }
}

/* Give up the lock, and with it all that was written while it was held. */
static inline void virt_lock_release(struct virt_lock *lock)
{
    __atomic_store_n(&lock->held, 0, __ATOMIC_RELEASE);
}

#endif /* VIRT_LOCK_H */
