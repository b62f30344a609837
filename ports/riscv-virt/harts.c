/*
 * harts.c - work for every hart of harts.h.
 *
 * SPDX-License-Identifier: MIT
 *
 * A word says what a hart waits for; the software interrupt merely ends its
 * sleep. The waker writes the word, then sets the interrupt; the sleeper clears
 * the interrupt, then reads the word. So no order of the two loses a wake-up,
 * and a wake-up for nothing does no harm. The interrupt is never taken: wfi
 * ends when one is pending that mie lets through, masked in mstatus or not.
 */
#include "harts.h"

#include "boot.h"
#include "port.h"

#include <stddef.h>

#define CLINT_ADDRESS      0x02000000
#define SOFTWARE_INTERRUPT 8u /* MSIE in mie, MSIP in mip */

/* In .data, for the other harts look at it while hart 0 clears .bss. */
static struct {
    uint32_t busy[VIRT_MAX_HARTS]; /* 1: from the order to the work's end */
    void (*work)(void *context, unsigned hart); /* NULL between runs */
    void *context;
} job __attribute__((section(".data.virt_job")));

/* The word that makes a hart's software interrupt pending: 1 or 0. */
static volatile uint32_t *interrupt_of(unsigned hart)
{
    return (volatile uint32_t *)CLINT_ADDRESS + hart;
}

static void set_and_wake(uint32_t *word, uint32_t value, unsigned hart)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    __asm__ volatile("fence w, o" : : : "memory");
    *interrupt_of(hart) = 1;
}

/* Return when *word is `value`; sleep until then. */
static void sleep_until(const uint32_t *word, uint32_t value)
{
    const uintptr_t interrupts = virt_interrupts_mask();

    __asm__ volatile("csrs mie, %0" : : "r"(SOFTWARE_INTERRUPT));
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) {
        __asm__ volatile("wfi" : : : "memory");
        *interrupt_of(virt_hart()) = 0;
        __asm__ volatile("fence o, r" : : : "memory");
    }
    __asm__ volatile("csrc mie, %0" : : "r"(SOFTWARE_INTERRUPT));
    virt_interrupts_restore(interrupts);
}

_Noreturn void virt_hart_main(unsigned hart)
{
    for (;;) {
        sleep_until(&job.busy[hart], 1);
        job.work(job.context, hart);
        set_and_wake(&job.busy[hart], 0, 0);
    }
}

unsigned virt_harts(void)
{
    const unsigned harts = virt_machine()->harts;

    if (harts == 0) {
        return 1; /* the tree tells of none, and yet there is this one */
    }
    return harts < VIRT_MAX_HARTS ? harts : VIRT_MAX_HARTS;
}

bool virt_run(unsigned harts, void (*work)(void *context, unsigned hart),
              void *context)
{
    if (harts == 0 || harts > virt_harts() || virt_hart() != 0 ||
        job.work != NULL) {
        return false;
    }
    job.work = work;
    job.context = context;
    for (unsigned hart = 1; hart < harts; hart++) {
        set_and_wake(&job.busy[hart], 1, hart);
    }
    work(context, 0);
    for (unsigned hart = 1; hart < harts; hart++) {
        sleep_until(&job.busy[hart], 0);
    }
    job.work = NULL;
    return true;
}
