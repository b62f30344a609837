/*
 * trap.c - every trap is fatal: say what happened, then end the machine.
 *
 * SPDX-License-Identifier: MIT
 *
 * Runs on a stack of its own and uses nothing but the UART, so that it works
 * when the program's stack or memory is what broke.
 */
#include "boot.h"
#include "port.h"

/* Names of the causes, from the RISC-V privileged specification, mcause. */
static const char *const cause_names[] = {
    "instruction address misaligned",
    "instruction access fault",
    "illegal instruction",
    "breakpoint",
    "load address misaligned",
    "load access fault",
    "store address misaligned",
    "store access fault",
    "environment call from U-mode",
    "environment call from S-mode",
    "reserved",
    "environment call from M-mode",
    "instruction page fault",
    "load page fault",
    "reserved",
    "store page fault",
};

static const char *cause_name(uintptr_t cause)
{
    if ((intptr_t)cause < 0) {
        return "interrupt"; /* the top bit tells it from an exception */
    }
    if (cause < sizeof(cause_names) / sizeof(cause_names[0])) {
        return cause_names[cause];
    }
    return "unknown";
}

static void put_hex(const char *label, uintptr_t value)
{
    virt_puts(label);
    virt_puts("0x");
    for (unsigned bits = 8 * sizeof(value); bits > 0; bits -= 4) {
        virt_putc("0123456789abcdef"[value >> (bits - 4) & 15]);
    }
}

_Noreturn void virt_trap(const struct virt_trap_frame *frame)
{
    virt_puts("\nvirt: trap: ");
    virt_puts(cause_name(frame->cause));
    put_hex("\n  cause   ", frame->cause);
    put_hex("\n  pc      ", frame->pc);
    put_hex("\n  address ", frame->address);
    put_hex("\n  sp      ", frame->sp);
    put_hex("\n  ra      ", frame->ra);
    put_hex("\n  hart    ", frame->hart);
    virt_putc('\n');
    virt_exit(VIRT_EXIT_TRAP);
}
