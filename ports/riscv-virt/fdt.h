/*
 * fdt.h - a bounded reader of flattened device trees.
 *
 * SPDX-License-Identifier: MIT
 *
 * One pass over the blob collects what a boot needs: RAM, what is reserved
 * in it, the console, the command line. Every offset, length and nesting
 * depth is checked before use, so that no blob, however corrupt, makes the
 * reader fault or loop. Needs no memory and no machine: it runs on a host as
 * well. Format: Devicetree Specification v0.4, chapters 2, 3 and 5.
 */
#ifndef VIRT_FDT_H
#define VIRT_FDT_H

#include <stddef.h>
#include <stdint.h>

/* --- Types ---------------------------------------------------------------- */

#define VIRT_MAX_RANGES 16 /* of RAM, and of reservations */
#define VIRT_MAX_DEPTH  16 /* of nested nodes */

enum virt_fdt_status {
    VIRT_FDT_OK = 0,
    VIRT_FDT_ERR_MAGIC = -1,     /* not a device tree */
    VIRT_FDT_ERR_VERSION = -2,   /* not readable as version 17 */
    VIRT_FDT_ERR_LAYOUT = -3,    /* a part lies outside the blob */
    VIRT_FDT_ERR_STRUCTURE = -4, /* a bad token, name or nesting */
    VIRT_FDT_ERR_DEPTH = -5,     /* more than VIRT_MAX_DEPTH nested nodes */
    VIRT_FDT_ERR_VALUE = -6,     /* a property of the wrong length or kind */
    VIRT_FDT_ERR_RANGES = -7,    /* more than VIRT_MAX_RANGES ranges */
};

/* `bytes` bytes of physical memory from `base` on, also above 4 GiB. */
struct virt_range {
    uint64_t base;
    uint64_t bytes;
};

struct virt_ranges {
    size_t count;
    struct virt_range at[VIRT_MAX_RANGES];
};

/* What the tree says of the machine. */
struct virt_machine {
    struct virt_range blob;      /* the tree itself */
    struct virt_ranges ram;      /* every memory node, unclipped */
    struct virt_ranges reserved; /* reservation block and /reserved-memory */
    unsigned harts;              /* enabled CPUs, which QEMU counts from 0 */
    uint64_t uart;               /* first 16550; 0 when there is none */
    const char *bootargs;        /* inside the blob; "" when there are none */
};

/* --- Reading -------------------------------------------------------------- */

/*
 * Read the tree at `blob`, of which at most `limit` bytes are looked at.
 *
 * O(size of the blob). *machine is undefined unless the result is VIRT_FDT_OK.
 *
 * Returns VIRT_FDT_OK, or the first fault found.
 */
enum virt_fdt_status virt_fdt_read(const void *blob, size_t limit,
                                   struct virt_machine *machine);

/* One line that says what a status means. */
const char *virt_fdt_status_text(enum virt_fdt_status status);

/* --- Free memory ---------------------------------------------------------- */

/*
 * Call visit(context, base, bytes) for each range of free RAM, in whole pages
 * of 4 KiB: RAM below `limit` less the image, the blob and the reservations.
 *
 * Visited ranges are disjoint, even where those of the tree overlap.
 */
void virt_free_ranges(
    const struct virt_machine *machine, struct virt_range image, uint64_t limit,
    void (*visit)(void *context, uint64_t base, uint64_t bytes), void *context);

/* Sum of the ranges, in bytes. */
uint64_t virt_ranges_bytes(const struct virt_ranges *ranges);

#endif /* VIRT_FDT_H */
