/*
 * fdt.c - the reader of fdt.h.
 *
 * SPDX-License-Identifier: MIT
 *
 *   header | reservations | structure: tokens of nodes, properties | strings
 */
#include "fdt.h"

#include <stdbool.h>
#include <string.h>

#define PAGE_BYTES     4096u
#define HEADER_BYTES   40u
#define RESERVED_BYTES 16u /* an entry of the reservation block */
#define MAGIC          0xd00dfeedu
#define VERSION        17u
#define MAX_CELLS      2u /* a number of more cells has no place in 64 bits */

enum token {
    TOKEN_BEGIN = 1,
    TOKEN_END = 2,
    TOKEN_PROPERTY = 3,
    TOKEN_NOP = 4,
    TOKEN_FINISH = 9,
};

/* Byte offsets of the header fields. */
enum header {
    HEADER_MAGIC = 0,
    HEADER_TOTAL = 4,
    HEADER_STRUCTURE = 8,
    HEADER_STRINGS = 12,
    HEADER_RESERVED = 16,
    HEADER_VERSION = 20,
    HEADER_COMPATIBLE = 24,
    HEADER_STRINGS_BYTES = 32,
    HEADER_STRUCTURE_BYTES = 36,
};

/* A checked run of bytes in the blob. */
struct span {
    const uint8_t *at;
    size_t bytes;
};

/* An open node: what its properties have said so far. */
struct node {
    bool chosen;       /* /chosen */
    bool reservations; /* /reserved-memory */
    bool memory;       /* device_type = "memory" */
    bool cpu;          /* device_type = "cpu" */
    bool uart;         /* compatible = "ns16550" or "ns16550a" */
    bool disabled;     /* status other than "okay" */
    uint32_t address_cells, size_cells; /* of the children's reg */
    struct span reg;
};

/* The walk; open[0] stands for the parent of the root. */
struct walk {
    struct span structure, strings; /* structure: what is still unread */
    size_t depth;
    bool finished_root;
    struct node open[VIRT_MAX_DEPTH + 1];
    struct virt_machine *machine;
};

/* --- Numbers, texts, ranges ----------------------------------------------- */

static uint32_t read_cell(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 |
           (uint32_t)at[2] << 8 | at[3];
}

static uint64_t read_cells(const uint8_t *at, uint32_t cells)
{
    uint64_t value = 0;

    for (uint32_t i = 0; i < cells; i++) {
        value = value << 32 | read_cell(at + 4 * (size_t)i);
    }
    return value;
}

/* The span as a text, or NULL when it is not NUL-terminated. */
static const char *text_of(struct span value)
{
    if (value.bytes == 0 || value.at[value.bytes - 1] != '\0') {
        return NULL;
    }
    return (const char *)value.at;
}

static bool lists_text(struct span list, const char *wanted)
{
    const char *text = text_of(list);
    const char *end = (const char *)list.at + list.bytes;

    while (text != NULL && text < end) {
        if (strcmp(text, wanted) == 0) {
            return true;
        }
        text += strlen(text) + 1;
    }
    return false;
}

static uint64_t range_end(struct virt_range range)
{
    return range.bytes > UINT64_MAX - range.base ? UINT64_MAX
                                                 : range.base + range.bytes;
}

static uint64_t round_down(uint64_t address)
{
    return address - address % PAGE_BYTES;
}

static enum virt_fdt_status add_range(struct virt_ranges *ranges, uint64_t base,
                                      uint64_t bytes)
{
    if (bytes == 0) {
        return VIRT_FDT_OK;
    }
    if (ranges->count == VIRT_MAX_RANGES) {
        return VIRT_FDT_ERR_RANGES;
    }
    ranges->at[ranges->count].base = base;
    ranges->at[ranges->count].bytes = bytes;
    ranges->count++;
    return VIRT_FDT_OK;
}

/* --- Header and reservation block ----------------------------------------- */

/* The part of the blob at `offset`; false when it lies outside. */
static bool part_of(struct span blob, uint32_t offset, uint32_t bytes,
                    struct span *part)
{
    if (offset < HEADER_BYTES || offset > blob.bytes ||
        bytes > blob.bytes - offset) {
        return false;
    }
    part->at = blob.at + offset;
    part->bytes = bytes;
    return true;
}

static enum virt_fdt_status read_header(struct span *blob, struct walk *walk)
{
    const uint8_t *header = blob->at;

    if (header == NULL || blob->bytes < HEADER_BYTES ||
        read_cell(header + HEADER_MAGIC) != MAGIC) {
        return VIRT_FDT_ERR_MAGIC;
    }
    if (read_cell(header + HEADER_VERSION) < VERSION ||
        read_cell(header + HEADER_COMPATIBLE) > VERSION) {
        return VIRT_FDT_ERR_VERSION;
    }
    const uint32_t total = read_cell(header + HEADER_TOTAL);
    const uint32_t structure = read_cell(header + HEADER_STRUCTURE);

    if (total > blob->bytes || structure % 4 != 0) {
        return VIRT_FDT_ERR_LAYOUT;
    }
    blob->bytes = total;
    if (!part_of(*blob, structure, read_cell(header + HEADER_STRUCTURE_BYTES),
                 &walk->structure) ||
        !part_of(*blob, read_cell(header + HEADER_STRINGS),
                 read_cell(header + HEADER_STRINGS_BYTES), &walk->strings)) {
        return VIRT_FDT_ERR_LAYOUT;
    }
    return VIRT_FDT_OK;
}

static enum virt_fdt_status read_reservations(struct span blob,
                                              struct virt_ranges *reserved)
{
    uint32_t offset = read_cell(blob.at + HEADER_RESERVED);
    enum virt_fdt_status status = VIRT_FDT_OK;
    struct span entry;

    /* An entry of two zeroes ends the list. */
    while (status == VIRT_FDT_OK) {
        if (!part_of(blob, offset, RESERVED_BYTES, &entry)) {
            return VIRT_FDT_ERR_LAYOUT;
        }
        const uint64_t base = read_cells(entry.at, 2);
        const uint64_t bytes = read_cells(entry.at + 8, 2);

        if (base == 0 && bytes == 0) {
            break;
        }
        status = add_range(reserved, base, bytes);
        offset += RESERVED_BYTES;
    }
    return status;
}

/* --- Properties ----------------------------------------------------------- */

static enum virt_fdt_status read_cell_count(struct span value, uint32_t *cells)
{
    if (value.bytes != 4) {
        return VIRT_FDT_ERR_VALUE;
    }
    *cells = read_cell(value.at);
    return VIRT_FDT_OK;
}

/* Add every (address, size) pair of the node's reg, in the parent's cells. */
static enum virt_fdt_status add_reg(const struct node *node,
                                    const struct node *parent,
                                    struct virt_ranges *ranges)
{
    const uint32_t address = parent->address_cells;
    const uint32_t size = parent->size_cells;

    if (address == 0 || address > MAX_CELLS || size == 0 || size > MAX_CELLS) {
        return VIRT_FDT_ERR_VALUE;
    }
    const size_t pair_bytes = 4 * ((size_t)address + size);
    enum virt_fdt_status status = VIRT_FDT_OK;

    if (node->reg.bytes % pair_bytes != 0) {
        return VIRT_FDT_ERR_VALUE;
    }
    for (size_t i = 0; i < node->reg.bytes && status == VIRT_FDT_OK;
         i += pair_bytes) {
        const uint8_t *pair = node->reg.at + i;

        status = add_range(ranges, read_cells(pair, address),
                           read_cells(pair + 4 * (size_t)address, size));
    }
    return status;
}

/* Note one property of the node on top. */
static enum virt_fdt_status note_property(struct walk *walk, const char *name,
                                          struct span value)
{
    struct node *node = &walk->open[walk->depth];

    if (strcmp(name, "#address-cells") == 0) {
        return read_cell_count(value, &node->address_cells);
    }
    if (strcmp(name, "#size-cells") == 0) {
        return read_cell_count(value, &node->size_cells);
    }
    if (strcmp(name, "reg") == 0) {
        node->reg = value;
    } else if (strcmp(name, "device_type") == 0) {
        node->memory = lists_text(value, "memory");
        node->cpu = lists_text(value, "cpu");
    } else if (strcmp(name, "compatible") == 0) {
        node->uart =
            lists_text(value, "ns16550a") || lists_text(value, "ns16550");
    } else if (strcmp(name, "status") == 0) {
        node->disabled = !lists_text(value, "okay") && !lists_text(value, "ok");
    } else if (strcmp(name, "bootargs") == 0 && node->chosen) {
        const char *text = text_of(value);

        if (text == NULL) {
            return VIRT_FDT_ERR_VALUE;
        }
        walk->machine->bootargs = text;
    }
    return VIRT_FDT_OK;
}

/* --- Structure ------------------------------------------------------------ */

/* Take `bytes` bytes, rounded up to a token, off the unread structure. */
static bool take(struct walk *walk, size_t bytes, struct span *taken)
{
    struct span *rest = &walk->structure;
    const size_t padding = (4 - bytes % 4) % 4;

    if (bytes > rest->bytes || padding > rest->bytes - bytes) {
        return false;
    }
    taken->at = rest->at;
    taken->bytes = bytes;
    rest->at += bytes + padding;
    rest->bytes -= bytes + padding;
    return true;
}

static enum virt_fdt_status begin_node(struct walk *walk)
{
    const uint8_t *end =
        memchr(walk->structure.at, '\0', walk->structure.bytes);
    struct span name;

    if (end == NULL ||
        !take(walk, (size_t)(end - walk->structure.at) + 1, &name) ||
        walk->finished_root) {
        return VIRT_FDT_ERR_STRUCTURE;
    }
    if (walk->depth == VIRT_MAX_DEPTH) {
        return VIRT_FDT_ERR_DEPTH;
    }
    const bool below_root = walk->depth == 1;
    const char *text = (const char *)name.at;
    const struct node fresh = {
        .chosen = below_root && strcmp(text, "chosen") == 0,
        .reservations = below_root && strcmp(text, "reserved-memory") == 0,
        .address_cells = 2, /* the defaults of the specification */
        .size_cells = 1,
    };

    walk->open[++walk->depth] = fresh;
    return VIRT_FDT_OK;
}

/* A node is complete: use what it said. */
static enum virt_fdt_status end_node(struct walk *walk)
{
    if (walk->depth == 0) {
        return VIRT_FDT_ERR_STRUCTURE;
    }
    const struct node *node = &walk->open[walk->depth];
    const struct node *parent = &walk->open[--walk->depth];
    struct virt_machine *machine = walk->machine;

    walk->finished_root = walk->depth == 0;
    if (node->disabled) {
        return VIRT_FDT_OK;
    }
    if (node->memory && walk->depth == 1) {
        return add_reg(node, parent, &machine->ram);
    }
    if (node->cpu && walk->depth == 2) { /* in /cpus */
        machine->harts++;
        return VIRT_FDT_OK;
    }
    if (parent->reservations) {
        return add_reg(node, parent, &machine->reserved);
    }
    if (node->uart && machine->uart == 0) {
        struct virt_ranges registers = {.count = 0};
        const enum virt_fdt_status status = add_reg(node, parent, &registers);

        machine->uart = registers.count > 0 ? registers.at[0].base : 0;
        return status;
    }
    return VIRT_FDT_OK;
}

static enum virt_fdt_status read_property(struct walk *walk)
{
    struct span head;
    struct span value;

    if (walk->depth == 0 || !take(walk, 8, &head) ||
        !take(walk, read_cell(head.at), &value)) {
        return VIRT_FDT_ERR_STRUCTURE;
    }
    const uint32_t name = read_cell(head.at + 4);
    const struct span strings = walk->strings;

    if (name >= strings.bytes ||
        memchr(strings.at + name, '\0', strings.bytes - name) == NULL) {
        return VIRT_FDT_ERR_STRUCTURE;
    }
    return note_property(walk, (const char *)strings.at + name, value);
}

static enum virt_fdt_status walk_structure(struct walk *walk)
{
    enum virt_fdt_status status = VIRT_FDT_OK;
    struct span token;

    while (status == VIRT_FDT_OK) {
        if (!take(walk, 4, &token)) {
            return VIRT_FDT_ERR_STRUCTURE;
        }
        switch (read_cell(token.at)) {
        case TOKEN_BEGIN:
            status = begin_node(walk);
            break;
        case TOKEN_END:
            status = end_node(walk);
            break;
        case TOKEN_PROPERTY:
            status = read_property(walk);
            break;
        case TOKEN_NOP:
            break;
        case TOKEN_FINISH:
            return walk->finished_root ? VIRT_FDT_OK : VIRT_FDT_ERR_STRUCTURE;
        default:
            return VIRT_FDT_ERR_STRUCTURE;
        }
    }
    return status;
}

enum virt_fdt_status virt_fdt_read(const void *blob, size_t limit,
                                   struct virt_machine *machine)
{
    struct span whole = {blob, limit};
    struct walk walk = {.depth = 0, .machine = machine};
    enum virt_fdt_status status = read_header(&whole, &walk);

    if (status != VIRT_FDT_OK) {
        return status;
    }
    machine->blob.base = (uintptr_t)blob;
    machine->blob.bytes = whole.bytes;
    machine->ram.count = 0;
    machine->reserved.count = 0;
    machine->harts = 0;
    machine->uart = 0;
    machine->bootargs = "";

    status = read_reservations(whole, &machine->reserved);
    return status == VIRT_FDT_OK ? walk_structure(&walk) : status;
}

const char *virt_fdt_status_text(enum virt_fdt_status status)
{
    switch (status) {
    case VIRT_FDT_OK:
        return "in order";
    case VIRT_FDT_ERR_MAGIC:
        return "not a device tree";
    case VIRT_FDT_ERR_VERSION:
        return "not readable as version 17";
    case VIRT_FDT_ERR_LAYOUT:
        return "a part lies outside the blob";
    case VIRT_FDT_ERR_STRUCTURE:
        return "a bad token, name or nesting";
    case VIRT_FDT_ERR_DEPTH:
        return "nodes nested too deep";
    case VIRT_FDT_ERR_VALUE:
        return "a property of the wrong length or kind";
    case VIRT_FDT_ERR_RANGES:
        return "too many ranges of memory";
    }
    return "unknown status";
}

/* --- Free memory ---------------------------------------------------------- */

/* The search for a free range: it starts at `from`, and ends by `end`. */
struct gap {
    uint64_t from;
    uint64_t end;
};

/*
 * Keep the gap clear of what is used: a range around gap->from pushes it on,
 * one further up cuts gap->end.
 *
 * Returns true when gap->from moved, so that other ranges are to be seen anew.
 */
static bool push_gap(struct gap *gap, const struct virt_range *used,
                     size_t count)
{
    bool moved = false;

    for (size_t i = 0; i < count; i++) {
        if (used[i].base > gap->from) {
            gap->end = used[i].base < gap->end ? used[i].base : gap->end;
        } else if (range_end(used[i]) > gap->from) {
            gap->from = range_end(used[i]);
            moved = true;
        }
    }
    return moved;
}

void virt_free_ranges(
    const struct virt_machine *machine, struct virt_range image, uint64_t limit,
    void (*visit)(void *context, uint64_t base, uint64_t bytes), void *context)
{
    const struct virt_range *ram = machine->ram.at;
    const struct virt_ranges *reserved = &machine->reserved;

    for (size_t i = 0; i < machine->ram.count; i++) {
        const uint64_t end =
            range_end(ram[i]) < limit ? range_end(ram[i]) : limit;
        const uint64_t top = round_down(end);
        struct gap gap = {ram[i].base, top};

        /* Each turn leaves a used range behind, or a free one. */
        for (; gap.from < top; gap.end = top) {
            if (push_gap(&gap, &image, 1) ||
                push_gap(&gap, &machine->blob, 1) ||
                push_gap(&gap, reserved->at, reserved->count) ||
                push_gap(&gap, ram, i)) {
                continue;
            }
            const uint64_t first = round_down(gap.from + PAGE_BYTES - 1);
            const uint64_t stop = round_down(gap.end);

            if (first < stop) {
                visit(context, first, stop - first);
            }
            gap.from = gap.end;
        }
    }
}

uint64_t virt_ranges_bytes(const struct virt_ranges *ranges)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < ranges->count; i++) {
        bytes += ranges->at[i].bytes;
    }
    return bytes;
}
