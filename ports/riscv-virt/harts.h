/*
 * harts.h - every hart of the machine: which one this is, and work for all.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each hart has a stack of its own with a guard page below, and thread-local
 * variables of its own, errno among them. The other harts sleep while there is
 * no work for them. An image that calls none of this has no room for them.
 */
#ifndef VIRT_HARTS_H
#define VIRT_HARTS_H

#include <stdbool.h>
#include <stdint.h>

#define VIRT_MAX_HARTS 8 /* any further ones sleep for good */

/* --- Harts ---------------------------------------------------------------- */

/* The number of this hart, from 0 on without a gap. One instruction. */
static inline unsigned virt_hart(void)
{
    unsigned hart;

    __asm__("csrr %0, mhartid" : "=r"(hart));
    return hart;
}

/* How many harts there are: 1 to VIRT_MAX_HARTS. */
unsigned virt_harts(void);

/*
 * Call work(context, hart) on harts 0 to harts - 1, on all at the same time;
 * return when the last call has.
 *
 * What was written before is seen by every call, and what the calls write is
 * seen after. The software interrupts of the harts are used up by this.
 *
 * Requires: called on hart 0 and by no work, 1 <= harts <= virt_harts().
 * Returns false without a call otherwise.
 */
bool virt_run(unsigned harts, void (*work)(void *context, unsigned hart),
              void *context);

/* --- Interrupts ----------------------------------------------------------- */

#define VIRT_MSTATUS_MIE 8u

/* Keep interrupts off this hart. Returns what to restore; calls may nest. */
static inline uintptr_t virt_interrupts_mask(void)
{
    uintptr_t status;

    __asm__ volatile("csrrci %0, mstatus, %1"
                     : "=r"(status)
                     : "i"(VIRT_MSTATUS_MIE)
                     : "memory");
    return status & VIRT_MSTATUS_MIE;
}

/* Let interrupts in again, if they were let in before the mask. */
static inline void virt_interrupts_restore(uintptr_t masked)
{
    __asm__ volatile("csrs mstatus, %0" : : "r"(masked) : "memory");
}

#endif /* VIRT_HARTS_H */
