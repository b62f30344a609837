/*
 * boot.h - what start.S calls.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VIRT_BOOT_H
#define VIRT_BOOT_H

#include <stdint.h>

/* Go on in C, on hart 0, with the address of the device tree. */
_Noreturn void virt_boot(const void *tree);

/* The same on each of the other harts; only in an image with harts.c. */
_Noreturn void virt_hart_main(unsigned hart);

/* The state of a hart at a trap, as start.S saves it. */
struct virt_trap_frame {
    uintptr_t cause;   /* mcause */
    uintptr_t pc;      /* mepc */
    uintptr_t address; /* mtval */
    uintptr_t sp;
    uintptr_t ra;
    uintptr_t hart;
};

/* Report the trap and end the machine with VIRT_EXIT_TRAP. */
_Noreturn void virt_trap(const struct virt_trap_frame *frame);

#endif /* VIRT_BOOT_H */
