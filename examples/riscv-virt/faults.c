/*
 * faults.c - mistakes made on purpose, to see how the port reports them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "demo.h"
#include "uart.h"

#include <stdint.h>
#include <string.h>

#define UNMAPPED 0x18000000 /* neither RAM nor a device */

static void bad_load(void)
{
    (void)*(volatile uint32_t *)UNMAPPED;
}

static void bad_store(void)
{
    *(volatile uint32_t *)UNMAPPED = 1;
}

static void bad_jump(void)
{
    __asm__ volatile("jr %0" ::"r"(UNMAPPED));
}

static void bad_instruction(void)
{
    __asm__ volatile("unimp");
}

/* Deeper than any stack; the work after the call keeps it from being a jump. */
static unsigned descend(unsigned depth)
{
    volatile unsigned frame[64];

    frame[depth % 64] = depth;
    return depth == UINT32_MAX ? 0 : descend(depth + 1) + frame[depth % 64];
}

static void stack_overflow(void)
{
    (void)descend(0);
}

/* A fault whose report faults: there is no UART to report to. */
static void bad_report(void)
{
    virt_uart_init(UNMAPPED);
    bad_instruction();
}

/* Interrupts are off, so nothing wakes this up. */
static void hang(void)
{
    for (;;) {
        __asm__ volatile("wfi");
    }
}

static const struct {
    const char *name;
    void (*commit)(void);
} faults[] = {
    {"bad-load", bad_load},
    {"bad-store", bad_store},
    {"bad-jump", bad_jump},
    {"bad-instruction", bad_instruction},
    {"stack-overflow", stack_overflow},
    {"bad-report", bad_report},
    {"hang", hang},
};

bool demo_fault(const char *name)
{
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        if (strcmp(name, faults[i].name) == 0) {
            faults[i].commit();
        }
    }
    return false;
}
