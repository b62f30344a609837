/*
 * boot.c - from the first C instruction to main, and the way out.
 *
 * SPDX-License-Identifier: MIT
 */
#include "boot.h"

#include "port.h"
#include "uart.h"

#include <stdlib.h>

#define TREE_LIMIT ((size_t)2 << 20) /* bytes; QEMU's own limit is half of it */

/* The "test" device: a word written to it ends the machine. */
#define EXIT_ADDRESS 0x100000
#define EXIT_PASS    0x5555u
#define EXIT_FAIL    0x3333u

extern char virt_image_start[], virt_image_end[]; /* link.ld */

int main(void);

static struct virt_machine machine;

_Noreturn void virt_boot(const void *tree)
{
    const enum virt_fdt_status status =
        virt_fdt_read(tree, TREE_LIMIT, &machine);

    if (status != VIRT_FDT_OK) {
        virt_puts("virt: device tree: ");
        virt_puts(virt_fdt_status_text(status));
        virt_puts("\n");
        virt_exit(VIRT_EXIT_TREE);
    }
    if (machine.uart != 0) {
        virt_uart_init((uintptr_t)machine.uart);
    }
    exit(main());
}

_Noreturn void virt_exit(int code)
{
    const unsigned low = code < 0 || code > 255 ? 255 : (unsigned)code;

    *(volatile uint32_t *)EXIT_ADDRESS =
        low == 0 ? EXIT_PASS : EXIT_FAIL | low << 16;
    for (;;) { /* the machine stops within a few instructions */
    }
}

const struct virt_machine *virt_machine(void)
{
    return &machine;
}

/* A visitor of addresses, as virt_each_free_range takes one. */
struct pointer_visit {
    void (*visit)(void *context, void *base, size_t bytes);
    void *context;
};

static void visit_pointer(void *context, uint64_t base, uint64_t bytes)
{
    const struct pointer_visit *to = context;

    to->visit(to->context, (void *)(uintptr_t)base, (size_t)bytes);
}

void virt_each_free_range(void (*visit)(void *context, void *base,
                                        size_t bytes),
                          void *context)
{
    const uintptr_t start = (uintptr_t)virt_image_start;
    const uintptr_t end = (uintptr_t)virt_image_end;
    const struct virt_range image = {start, end - start};
    struct pointer_visit to = {visit, context};

    virt_free_ranges(&machine, image, UINTPTR_MAX, visit_pointer, &to);
}
