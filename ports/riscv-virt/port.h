/*
 * port.h - what a program on QEMU's RISC-V "virt" machine gets from the port.
 *
 * SPDX-License-Identifier: MIT
 *
 * The port boots hart 0 in M-mode, reads the device tree and calls
 * `int main(void)`; what main returns is the exit code of QEMU. It holds no
 * policy: it reports memory and devices, and what becomes of them is up to
 * main. The other harts sleep until harts.h calls them. No function locks.
 */
#ifndef VIRT_PORT_H
#define VIRT_PORT_H

#include "fdt.h"

#include <stddef.h>
#include <stdint.h>

/* --- Exit ----------------------------------------------------------------- */

/* Exit codes of the port itself; a program should use others. */
enum virt_exit_code {
    VIRT_EXIT_ABORT = 120,  /* abort, or an assertion that fails */
    VIRT_EXIT_TRAP = 121,   /* a trap, after its report */
    VIRT_EXIT_NESTED = 122, /* a trap while a trap was being reported */
    VIRT_EXIT_TREE = 123,   /* the device tree is missing or corrupt */
};

/* End the machine. QEMU's exit code is `code`, or 255 outside 0..255. */
_Noreturn void virt_exit(int code);

/* --- Console -------------------------------------------------------------- */

/* Write one character to the UART, waiting until there is room. */
void virt_putc(char c);

/* Write a NUL-terminated text to the UART. */
void virt_puts(const char *text);

/* Read one character from the UART, waiting until there is one. */
char virt_getc(void);

/* --- Machine -------------------------------------------------------------- */

/* What the device tree says; valid from the first line of main on. */
const struct virt_machine *virt_machine(void);

/*
 * Call visit(context, base, bytes) for each range of RAM that is in no use.
 *
 * In use are the image with its stack, the device tree, and what the tree
 * reserves. Ranges are whole pages of 4 KiB, do not overlap, and never touch
 * the last page of the address space.
 */
void virt_each_free_range(void (*visit)(void *context, void *base,
                                        size_t bytes),
                          void *context);

#endif /* VIRT_PORT_H */
