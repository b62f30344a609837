/*
 * harts.c - claims about harts.h and lock.h, on as many harts as there are.
 *
 * SPDX-License-Identifier: MIT
 *
 * The command line is the number of harts to expect, and for the tests of
 * faults and of sleep the word that names one: "4 bad-load".
 */
#include "harts.h"

#include "lock.h"
#include "port.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INCREMENTS    100000u /* of each hart */
#define RUNS          1000u
#define PATTERN_WORDS 1024u
#define BAD_ADDRESS   0x18000000 /* nothing is there */

enum exit_code {
    EXIT_CLAIM = 10,
    EXIT_NO_FAULT = 11,
};

#define CLAIM(condition)                                             \
    do {                                                             \
        if (!(condition)) {                                          \
            printf("harts: FAILED: %d: %s\n", __LINE__, #condition); \
            virt_exit(EXIT_CLAIM);                                   \
        }                                                            \
    } while (0)

static unsigned harts;
static struct virt_lock lock;

/* --- Harts ---------------------------------------------------------------- */

/* Wait until all harts have arrived; so they run at the same time. */
static void meet(uint32_t *arrived)
{
    __atomic_fetch_add(arrived, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(arrived, __ATOMIC_ACQUIRE) != harts) {
    }
}

static void check_number(void *context, unsigned hart)
{
    unsigned *calls = context;

    CLAIM(hart < harts);
    CLAIM(virt_hart() == hart);
    calls[hart]++;
}

static void each_hart_runs_and_knows_its_number(void)
{
    unsigned calls[VIRT_MAX_HARTS] = {0};

    CLAIM(virt_harts() == harts);
    CLAIM(virt_hart() == 0);
    CLAIM(virt_run(harts, check_number, calls));
    for (unsigned i = 0; i < VIRT_MAX_HARTS; i++) {
        CLAIM(calls[i] == (i < harts));
    }
}

static void runs_follow_each_other(void)
{
    unsigned calls[VIRT_MAX_HARTS] = {0};
    unsigned expected[VIRT_MAX_HARTS] = {0};

    for (unsigned run = 0; run < RUNS; run++) {
        const unsigned some = 1 + run % harts;

        CLAIM(virt_run(some, check_number, calls));
        for (unsigned i = 0; i < VIRT_MAX_HARTS; i++) {
            expected[i] += i < some;
            CLAIM(calls[i] == expected[i]);
        }
    }
}

static void run_again(void *context, unsigned hart)
{
    (void)hart;
    CLAIM(!virt_run(1, check_number, context));
}

static void a_wrong_run_is_refused(void)
{
    unsigned calls[VIRT_MAX_HARTS] = {0};

    CLAIM(!virt_run(0, check_number, calls));
    CLAIM(!virt_run(harts + 1, check_number, calls));
    CLAIM(virt_run(harts, run_again, calls));
    CLAIM(calls[0] == 0);
}

/* --- What each hart has of its own ---------------------------------------- */

static void keep_pattern(void *context, unsigned hart)
{
    volatile uint32_t pattern[PATTERN_WORDS];

    for (uint32_t i = 0; i < PATTERN_WORDS; i++) {
        pattern[i] = i << 8 | hart;
    }
    meet(context);
    for (uint32_t i = 0; i < PATTERN_WORDS; i++) {
        CLAIM(pattern[i] == (i << 8 | hart));
    }
}

static void each_hart_has_a_stack(void)
{
    uint32_t arrived = 0;

    CLAIM(virt_run(harts, keep_pattern, &arrived));
    CLAIM(arrived == harts);
}

static _Thread_local unsigned initialised = 42;
static _Thread_local unsigned zero;

static void keep_thread_locals(void *context, unsigned hart)
{
    CLAIM(hart == 0 || initialised == 42);
    CLAIM(hart == 0 || zero == 0);
    initialised = hart;
    zero = hart + 1;
    errno = (int)hart + 2;
    meet(context);
    CLAIM(initialised == hart);
    CLAIM(zero == hart + 1);
    CLAIM(errno == (int)hart + 2);
}

static void each_hart_has_thread_locals(void)
{
    uint32_t arrived = 0;

    CLAIM(initialised == 42);
    CLAIM(zero == 0);
    initialised = 1; /* of this hart alone */
    zero = 1;
    CLAIM(virt_run(harts, keep_thread_locals, &arrived));
}

/* --- Locks and interrupts ------------------------------------------------- */

static void increment(void *context, unsigned hart)
{
    volatile unsigned *sum = context;

    (void)hart;
    for (unsigned i = 0; i < INCREMENTS; i++) {
        virt_lock_acquire(&lock);
        *sum = *sum + 1;
        virt_lock_release(&lock);
    }
}

static void a_lock_keeps_a_sum_exact(void)
{
    unsigned sum = 0;

    virt_lock_init(&lock);
    for (unsigned run = 1; run <= 2; run++) {
        CLAIM(virt_run(harts, increment, &sum));
        CLAIM(sum == run * harts * INCREMENTS);
    }
}

static uintptr_t interrupts_allowed(void)
{
    uintptr_t status;

    __asm__ volatile("csrr %0, mstatus" : "=r"(status));
    return status & VIRT_MSTATUS_MIE;
}

/* None is enabled in mie, so that none comes. */
static void mask_and_restore(void *context, unsigned hart)
{
    (void)context;
    (void)hart;
    virt_interrupts_restore(VIRT_MSTATUS_MIE);
    CLAIM(interrupts_allowed());

    const uintptr_t outer = virt_interrupts_mask();
    const uintptr_t inner = virt_interrupts_mask();

    CLAIM(!interrupts_allowed());
    virt_interrupts_restore(inner);
    CLAIM(!interrupts_allowed());
    virt_interrupts_restore(outer);
    CLAIM(interrupts_allowed());
}

static void masks_nest_and_runs_need_none(void)
{
    unsigned calls[VIRT_MAX_HARTS] = {0};

    CLAIM(virt_run(harts, mask_and_restore, NULL));
    CLAIM(virt_run(harts, check_number, calls));
    CLAIM(calls[harts - 1] == 1);
    CLAIM(interrupts_allowed());
    (void)virt_interrupts_mask();
}

/* --- Faults, sleep -------------------------------------------------------- */

static void load_badly(void)
{
    (void)*(volatile uint32_t *)BAD_ADDRESS;
}

static void load_badly_on_hart_1(void *context, unsigned hart)
{
    (void)context;
    if (hart == 1) {
        load_badly();
    }
}

static void load_badly_on_all(void *context, unsigned hart)
{
    (void)hart;
    meet(context);
    load_badly();
}

static unsigned sum_down(unsigned count)
{
    volatile unsigned here[64];

    here[0] = count;
    if (count > 0) {
        here[1] = sum_down(count - 1);
    }
    return here[0];
}

static void overflow_the_last_stack(void *context, unsigned hart)
{
    (void)context;
    if (hart == harts - 1) {
        (void)sum_down(1000000);
    }
}

/* Work that never ends, for which all harts sleep in one way or another. */
static void sleep_on_hart_1(void *context, unsigned hart)
{
    (void)context;
    while (hart == 1) {
        __asm__ volatile("wfi");
    }
}

/* Does not return, unless the fault that is asked for does not come. */
static void run_case(const char *name)
{
    uint32_t arrived = 0;

    if (strcmp(name, "bad-load") == 0) {
        virt_run(harts, load_badly_on_hart_1, NULL);
    } else if (strcmp(name, "bad-loads") == 0) {
        virt_run(harts, load_badly_on_all, &arrived);
    } else if (strcmp(name, "overflow") == 0) {
        virt_run(harts, overflow_the_last_stack, NULL);
    } else if (strcmp(name, "sleep") == 0) {
        virt_run(harts, sleep_on_hart_1, NULL);
    }
}

int main(void)
{
    char *name;

    harts = (unsigned)strtoul(virt_machine()->bootargs, &name, 10);
    if (*name != '\0') {
        run_case(name + 1);
        return EXIT_NO_FAULT;
    }
    each_hart_has_thread_locals();
    each_hart_runs_and_knows_its_number();
    runs_follow_each_other();
    a_wrong_run_is_refused();
    each_hart_has_a_stack();
    a_lock_keeps_a_sum_exact();
    masks_nest_and_runs_need_none();
    printf("harts: passed on %u\n", harts);
    return 0;
}
