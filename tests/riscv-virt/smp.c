/*
 * smp.c - caches of several harts at once, and of their interrupt handlers.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each hart is a CPU that does the work of tests/smp.h. A timer interrupts it
 * all the time, and the handler allocates and frees too. The command line is
 * the number of harts to expect.
 */
#include "harts.h"
#include "lock.h"
#include "port.h"

#include <stdlib.h>

#define TIERALLOC_CPUS  VIRT_MAX_HARTS
#define TIERALLOC_CPU() virt_hart()
#define TIERALLOC_CPU_ENTER(state) \
    const uintptr_t state = virt_interrupts_mask()
#define TIERALLOC_CPU_LEAVE(state) virt_interrupts_restore(state)
#define TIERALLOC_LOCKING          1
#define TIERALLOC_LOCK_TYPE        struct virt_lock
#define TIERALLOC_LOCK_INIT(l)     virt_lock_init(l)
#define TIERALLOC_LOCK(l)          virt_lock_acquire(l)
#define TIERALLOC_UNLOCK(l)        virt_lock_release(l)
#define TIERALLOC_STATIC

#define SMP_STEPS   (4200000U / smp.cpus)
#define SMP_PAIRS   (800000U / smp.cpus)
#define SMP_RELAX() ((void)0)
#define SMP_EXIT()  virt_exit(10)
#include "smp.h"

/* --- Interrupts ----------------------------------------------------------- */

#define TIMER_NOW        0x0200BFF8 /* mtime, 10 MHz from 0 on */
#define TIMER_DUE        0x02004000 /* mtimecmp of hart 0; 8 bytes each */
#define TIMER_PERIOD     200U       /* 20 us */
#define TIMER_NEVER      UINT32_MAX
#define TIMER_INTERRUPTS 128U /* MTIE in mie */
#define TIMER_CAUSE      (~(UINTPTR_MAX >> 1) | 7U)

static uintptr_t port_traps; /* mtvec of the port */
static size_t interrupts[VIRT_MAX_HARTS];

/* Have the timer interrupt this hart at a time, whose upper word is 0. */
static void set_timer(uint32_t time)
{
    volatile uint32_t *const due =
        (volatile uint32_t *)TIMER_DUE + (size_t)2 * virt_hart();

    due[1] = TIMER_NEVER; /* no time in between has come */
    due[0] = time;
    due[1] = 0;
}

/* A trap that is none of ours happens again, for the port to report it. */
static __attribute__((interrupt("machine"), aligned(4))) void take_trap(void)
{
    uintptr_t cause;

    __asm__ volatile("csrr %0, mcause" : "=r"(cause));
    if (cause != TIMER_CAUSE) {
        __asm__ volatile("csrw mtvec, %0" : : "r"(port_traps));
        return;
    }
    interrupts[virt_hart()]++;
    smp_interrupt();
    set_timer(*(volatile uint32_t *)TIMER_NOW + TIMER_PERIOD);
}

static void work_interrupted(void *context, unsigned hart)
{
    (void)context;
    (void)hart;
    __asm__ volatile("csrw mtvec, %0" : : "r"(take_trap));
    set_timer(0);
    __asm__ volatile("csrs mie, %0" : : "r"(TIMER_INTERRUPTS));
    virt_interrupts_restore(VIRT_MSTATUS_MIE);
    smp_work();
    (void)virt_interrupts_mask();
    __asm__ volatile("csrc mie, %0" : : "r"(TIMER_INTERRUPTS));
    __asm__ volatile("csrw mtvec, %0" : : "r"(port_traps));
}

int main(void)
{
    const unsigned harts =
        (unsigned)strtoul(virt_machine()->bootargs, NULL, 10);
    size_t sum = 0;

    SMP_CLAIM(virt_harts() == harts);
    __asm__ volatile("csrr %0, mtvec" : "=r"(port_traps));
    smp_set_up(harts);
    SMP_CLAIM(virt_run(harts, work_interrupted, NULL));
    for (unsigned i = 0; i < harts; i++) {
        SMP_CLAIM(smp.handler[i].operations > 0);
        sum += interrupts[i];
    }
    smp_settle();
    printf("smp: passed on %u harts, interrupted %lu times\n", harts,
           (unsigned long)sum);
    return 0;
}
