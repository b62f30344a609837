/*
 * test_fdt.c - claims about the device-tree reader, checked on the host.
 *
 * SPDX-License-Identifier: MIT
 *
 * A small writer makes the blobs, so that the tests depend on no tool. Each
 * blob is read from a heap block of exactly its length: a sanitizer sees any
 * read beyond it.
 */
#include "fdt.h"

#include <criterion/criterion.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

/* --- A writer of blobs ---------------------------------------------------- */

#define HEADER_BYTES 40u
#define PART_BYTES   4096u

struct part {
    uint8_t at[PART_BYTES];
    uint32_t bytes;
};

struct writer {
    struct part reservations, structure, strings;
};

static void put_cell(struct part *part, uint32_t cell)
{
    cr_assert(part->bytes + 4 <= PART_BYTES);
    for (int shift = 24; shift >= 0; shift -= 8) {
        part->at[part->bytes++] = (uint8_t)(cell >> shift);
    }
}

static void put_two_cells(struct part *part, uint64_t value)
{
    put_cell(part, (uint32_t)(value >> 32));
    put_cell(part, (uint32_t)value);
}

static void put_bytes(struct part *part, const void *bytes, size_t count)
{
    cr_assert(part->bytes + count + 4 <= PART_BYTES);
    memcpy(part->at + part->bytes, bytes, count);
    part->bytes += (uint32_t)count;
}

static void align_part(struct part *part)
{
    while (part->bytes % 4 != 0) {
        part->at[part->bytes++] = 0;
    }
}

static void begin(struct writer *w, const char *name)
{
    put_cell(&w->structure, 1);
    put_bytes(&w->structure, name, strlen(name) + 1);
    align_part(&w->structure);
}

static void end(struct writer *w)
{
    put_cell(&w->structure, 2);
}

static void property(struct writer *w, const char *name, const void *value,
                     size_t bytes)
{
    put_cell(&w->structure, 3);
    put_cell(&w->structure, (uint32_t)bytes);
    put_cell(&w->structure, w->strings.bytes);
    put_bytes(&w->structure, value, bytes);
    align_part(&w->structure);
    put_bytes(&w->strings, name, strlen(name) + 1);
}

static void text(struct writer *w, const char *name, const char *value)
{
    property(w, name, value, strlen(value) + 1);
}

static void cell(struct writer *w, const char *name, uint32_t value)
{
    struct part bytes = {.bytes = 0};

    put_cell(&bytes, value);
    property(w, name, bytes.at, bytes.bytes);
}

static void cells(struct writer *w, uint32_t address, uint32_t size)
{
    cell(w, "#address-cells", address);
    cell(w, "#size-cells", size);
}

/* reg = <base bytes>, two cells each. */
static void reg(struct writer *w, uint64_t base, uint64_t bytes)
{
    struct part pair = {.bytes = 0};

    put_two_cells(&pair, base);
    put_two_cells(&pair, bytes);
    property(w, "reg", pair.at, pair.bytes);
}

static void memory(struct writer *w, uint64_t base, uint64_t bytes)
{
    begin(w, "memory@x");
    text(w, "device_type", "memory");
    reg(w, base, bytes);
    end(w);
}

static void reserve(struct writer *w, uint64_t base, uint64_t bytes)
{
    put_two_cells(&w->reservations, base);
    put_two_cells(&w->reservations, bytes);
}

/* The finished blob in a heap block of exactly *bytes bytes. */
static uint8_t *blob_of(struct writer *w, size_t *bytes)
{
    struct part header = {.bytes = 0};

    reserve(w, 0, 0);
    put_cell(&w->structure, 9);
    const uint32_t structure = HEADER_BYTES + w->reservations.bytes;
    const uint32_t strings = structure + w->structure.bytes;
    const uint32_t total = strings + w->strings.bytes;
    const uint32_t fields[] = {
        0xd00dfeed, total, structure, strings,          HEADER_BYTES,
        17,         16,    0,         w->strings.bytes, w->structure.bytes};

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        put_cell(&header, fields[i]);
    }
    uint8_t *blob = malloc(total);

    cr_assert_not_null(blob);
    memcpy(blob, header.at, HEADER_BYTES);
    memcpy(blob + HEADER_BYTES, w->reservations.at, w->reservations.bytes);
    memcpy(blob + structure, w->structure.at, w->structure.bytes);
    memcpy(blob + strings, w->strings.at, w->strings.bytes);
    *bytes = total;
    return blob;
}

static void set_cell(uint8_t *blob, size_t offset, uint32_t value)
{
    struct part bytes = {.bytes = 0};

    put_cell(&bytes, value);
    memcpy(blob + offset, bytes.at, 4);
}

/* --- A machine like QEMU's ------------------------------------------------ */

static void begin_root(struct writer *w)
{
    memset(w, 0, sizeof(*w));
    begin(w, "");
    cells(w, 2, 2);
}

static void cpu(struct writer *w, const char *status)
{
    begin(w, "cpu@x");
    text(w, "device_type", "cpu");
    text(w, "status", status);
    begin(w, "interrupt-controller");
    end(w);
    end(w);
}

static uint8_t *virt_blob(size_t *bytes)
{
    static struct writer w;

    begin_root(&w);
    reserve(&w, 0x80100000, 0x1800);
    begin(&w, "chosen");
    text(&w, "bootargs", "claim=all");
    end(&w);
    memory(&w, 0x80000000, 128 * MIB);
    begin(&w, "cpus");
    cells(&w, 1, 0);
    cpu(&w, "okay");
    cpu(&w, "okay");
    cpu(&w, "disabled");
    end(&w);
    begin(&w, "reserved-memory");
    cells(&w, 2, 2);
    begin(&w, "firmware@80200000");
    reg(&w, 0x80200000, 0x2000);
    end(&w);
    begin(&w, "dynamic");
    cell(&w, "size", 0x1000);
    end(&w);
    end(&w);
    begin(&w, "soc");
    cells(&w, 2, 2);
    begin(&w, "serial@10000000");
    property(&w, "compatible", "snps,uart\0ns16550a", 19);
    reg(&w, 0x10000000, 0x100);
    end(&w);
    end(&w);
    end(&w);
    return blob_of(&w, bytes);
}

static enum virt_fdt_status read_and_free(uint8_t *blob, size_t bytes,
                                          struct virt_machine *machine)
{
    const enum virt_fdt_status status = virt_fdt_read(blob, bytes, machine);

    free(blob);
    return status;
}

/* Finish the tree of *w and expect the reader to say `expected` of it. */
static void expect_status(struct writer *w, enum virt_fdt_status expected)
{
    struct virt_machine machine;
    size_t bytes;
    uint8_t *blob = blob_of(w, &bytes);

    cr_assert_eq(read_and_free(blob, bytes, &machine), expected);
}

/* --- Free ranges, collected ----------------------------------------------- */

struct found {
    size_t count;
    struct virt_range at[64];
};

static void collect(void *context, uint64_t base, uint64_t bytes)
{
    struct found *found = context;

    cr_assert(found->count < 64);
    cr_assert(base % 4096 == 0 && bytes % 4096 == 0 && bytes > 0);
    found->at[found->count].base = base;
    found->at[found->count].bytes = bytes;
    found->count++;
}

static void expect_range(const struct found *found, size_t i, uint64_t base,
                         uint64_t stop)
{
    cr_assert(i < found->count);
    cr_assert_eq(found->at[i].base, base);
    cr_assert_eq(found->at[i].base + found->at[i].bytes, stop);
}

static const struct virt_range no_image = {0, 0};

/* --- Reading -------------------------------------------------------------- */

Test(fdt, reads_what_a_boot_needs)
{
    struct virt_machine machine;
    size_t bytes;
    uint8_t *blob = virt_blob(&bytes);

    cr_assert_eq(virt_fdt_read(blob, bytes, &machine), VIRT_FDT_OK);
    cr_assert_eq(machine.blob.base, (uintptr_t)blob);
    cr_assert_eq(machine.blob.bytes, bytes);
    cr_assert_eq(machine.ram.count, 1);
    cr_assert_eq(machine.ram.at[0].base, 0x80000000);
    cr_assert_eq(virt_ranges_bytes(&machine.ram), 128 * MIB);
    cr_assert_eq(machine.reserved.count, 2);
    cr_assert_eq(machine.reserved.at[0].base, 0x80100000);
    cr_assert_eq(machine.reserved.at[1].base, 0x80200000);
    cr_assert_eq(machine.harts, 2);
    cr_assert_eq(machine.uart, 0x10000000);
    cr_assert_str_eq(machine.bootargs, "claim=all");
    free(blob);
}

Test(fdt, honours_cell_counts_of_the_parent)
{
    static struct writer w;
    struct virt_machine machine;
    size_t bytes;
    const uint8_t pair[] = {0x40, 0, 0, 0, 0, 0x10, 0, 0};

    memset(&w, 0, sizeof(w));
    begin(&w, "");
    cells(&w, 1, 1);
    begin(&w, "memory@40000000");
    property(&w, "reg", pair, sizeof(pair)); /* before what makes it memory */
    text(&w, "device_type", "memory");
    end(&w);
    end(&w);
    uint8_t *blob = blob_of(&w, &bytes);

    cr_assert_eq(read_and_free(blob, bytes, &machine), VIRT_FDT_OK);
    cr_assert_eq(machine.ram.at[0].base, 0x40000000);
    cr_assert_eq(machine.ram.at[0].bytes, 1 * MIB);
}

Test(fdt, finds_every_memory_node_that_is_enabled)
{
    static struct writer w;
    struct virt_machine machine;
    size_t bytes;

    begin_root(&w);
    memory(&w, 0x80000000, 64 * MIB);
    memory(&w, 0x200000000, 64 * MIB);
    begin(&w, "memory@off");
    text(&w, "device_type", "memory");
    text(&w, "status", "disabled");
    reg(&w, 0x90000000, 64 * MIB);
    end(&w);
    end(&w);
    uint8_t *blob = blob_of(&w, &bytes);

    cr_assert_eq(read_and_free(blob, bytes, &machine), VIRT_FDT_OK);
    cr_assert_eq(machine.ram.count, 2);
    cr_assert_eq(machine.ram.at[1].base, 0x200000000);
}

Test(fdt, refuses_what_is_no_tree_of_version_17)
{
    struct virt_machine machine;
    size_t bytes;
    uint8_t *blob = virt_blob(&bytes);

    cr_assert_eq(virt_fdt_read(NULL, 4096, &machine), VIRT_FDT_ERR_MAGIC);
    set_cell(blob, 20, 16);
    cr_assert_eq(virt_fdt_read(blob, bytes, &machine), VIRT_FDT_ERR_VERSION);
    set_cell(blob, 20, 18);
    set_cell(blob, 24, 18);
    cr_assert_eq(virt_fdt_read(blob, bytes, &machine), VIRT_FDT_ERR_VERSION);
    set_cell(blob, 24, 17);
    cr_assert_eq(virt_fdt_read(blob, bytes, &machine), VIRT_FDT_OK);
    set_cell(blob, 0, 0xd00dfeee);
    cr_assert_eq(read_and_free(blob, bytes, &machine), VIRT_FDT_ERR_MAGIC);
}

Test(fdt, refuses_a_bad_nesting)
{
    static struct writer w;

    begin_root(&w);
    expect_status(&w, VIRT_FDT_ERR_STRUCTURE); /* never closed */

    begin_root(&w);
    end(&w);
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_STRUCTURE); /* closed twice */

    begin_root(&w);
    end(&w);
    begin(&w, "");
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_STRUCTURE); /* two roots */

    memset(&w, 0, sizeof(w));
    cell(&w, "reg", 0);
    expect_status(&w, VIRT_FDT_ERR_STRUCTURE); /* a property of nothing */
}

Test(fdt, refuses_nodes_nested_too_deep)
{
    static struct writer w;

    for (unsigned depth = VIRT_MAX_DEPTH; depth <= VIRT_MAX_DEPTH + 1;
         depth++) {
        memset(&w, 0, sizeof(w));
        for (unsigned i = 0; i < depth; i++) {
            begin(&w, "n");
        }
        for (unsigned i = 0; i < depth; i++) {
            end(&w);
        }
        expect_status(&w, depth <= VIRT_MAX_DEPTH ? VIRT_FDT_OK
                                                  : VIRT_FDT_ERR_DEPTH);
    }
}

Test(fdt, refuses_values_of_a_wrong_kind)
{
    static struct writer w;

    begin_root(&w);
    property(&w, "#size-cells", "", 1);
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_VALUE);

    begin_root(&w);
    cells(&w, 3, 2);
    memory(&w, 0, MIB);
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_VALUE);

    begin_root(&w);
    cells(&w, 2, 1);
    memory(&w, 0, MIB); /* four cells are no multiple of three */
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_VALUE);

    begin_root(&w);
    begin(&w, "chosen");
    property(&w, "bootargs", "abc", 3); /* without its NUL */
    end(&w);
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_VALUE);
}

Test(fdt, refuses_more_ranges_than_it_can_hold)
{
    static struct writer w;

    begin_root(&w);
    for (uint64_t i = 0; i <= VIRT_MAX_RANGES; i++) {
        memory(&w, i * MIB, MIB);
    }
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_RANGES);

    begin_root(&w);
    for (uint64_t i = 0; i <= VIRT_MAX_RANGES; i++) {
        reserve(&w, (i + 1) * MIB, MIB);
    }
    end(&w);
    expect_status(&w, VIRT_FDT_ERR_RANGES);
}

/* --- Corrupt blobs -------------------------------------------------------- */

static bool is_status(enum virt_fdt_status status)
{
    return status <= VIRT_FDT_OK && status >= VIRT_FDT_ERR_RANGES;
}

Test(fdt, refuses_a_blob_cut_at_any_length)
{
    struct virt_machine machine;
    size_t bytes;
    uint8_t *blob = virt_blob(&bytes);

    for (size_t length = 0; length < bytes; length++) {
        uint8_t *cut = malloc(length + 1);

        cr_assert_not_null(cut);
        memcpy(cut + 1, blob, length);
        cr_assert_neq(virt_fdt_read(cut + 1, length, &machine), VIRT_FDT_OK);
        if (length >= HEADER_BYTES) {
            set_cell(cut + 1, 4, (uint32_t)length); /* and claims to be whole */
            cr_assert_neq(virt_fdt_read(cut + 1, length, &machine),
                          VIRT_FDT_OK);
        }
        free(cut);
    }
    free(blob);
}

Test(fdt, survives_every_value_of_every_header_field)
{
    static const uint32_t values[] = {
        0,          1,          3,          39,         40,        41,
        0x7fffffff, 0x80000000, 0xfffffff0, 0xfffffffc, 0xffffffff};
    struct virt_machine machine;
    size_t bytes;

    for (size_t offset = 0; offset < HEADER_BYTES; offset += 4) {
        for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
            uint8_t *blob = virt_blob(&bytes);

            set_cell(blob, offset, values[i]);
            cr_assert(is_status(read_and_free(blob, bytes, &machine)));
        }
    }
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(*state >> 33);
}

/* Whatever a damaged tree says, the ranges it yields are disjoint. */
static void expect_disjoint(const struct found *found)
{
    for (size_t i = 0; i < found->count; i++) {
        for (size_t k = 0; k < i; k++) {
            const struct virt_range *a = &found->at[i];
            const struct virt_range *b = &found->at[k];

            cr_assert(a->base + a->bytes <= b->base ||
                      b->base + b->bytes <= a->base);
        }
    }
}

/* Flip a bit of the blob or replace a byte, a few times over. */
static void damage(uint8_t *blob, size_t bytes, uint64_t *state)
{
    for (uint32_t n = 1 + next_random(state) % 8; n > 0; n--) {
        uint8_t *at = &blob[next_random(state) % bytes];

        if (next_random(state) % 4 == 0) {
            *at = (uint8_t)next_random(state);
        } else {
            *at = (uint8_t)(*at ^ 1u << next_random(state) % 8);
        }
    }
}

Test(fdt, survives_random_damage)
{
    uint64_t state = 20240229;

    for (int round = 0; round < 20000; round++) {
        struct virt_machine machine;
        struct found found = {.count = 0};
        size_t bytes;
        uint8_t *blob = virt_blob(&bytes);

        damage(blob, bytes, &state);
        const enum virt_fdt_status status =
            virt_fdt_read(blob, bytes, &machine);

        cr_assert(is_status(status));
        if (status == VIRT_FDT_OK) {
            virt_free_ranges(&machine, no_image, UINT64_MAX, collect, &found);
            expect_disjoint(&found);
        }
        free(blob);
    }
}

Test(fdt, names_every_status)
{
    for (int status = VIRT_FDT_ERR_RANGES; status <= VIRT_FDT_OK; status++) {
        const char *line = virt_fdt_status_text((enum virt_fdt_status)status);

        cr_assert_not_null(line);
        cr_assert_str_neq(line, "unknown status");
    }
}

/* --- Free ranges ---------------------------------------------------------- */

Test(fdt, frees_ram_less_all_that_is_used)
{
    struct virt_machine machine;
    struct found found = {.count = 0};
    const struct virt_range image = {0x80000000, 0x12345};
    size_t bytes;
    uint8_t *blob = virt_blob(&bytes);

    cr_assert_eq(read_and_free(blob, bytes, &machine), VIRT_FDT_OK);
    machine.blob.base = 0x87e00000;
    machine.blob.bytes = 0x107e;
    virt_free_ranges(&machine, image, UINT64_MAX, collect, &found);

    cr_assert_eq(found.count, 4);
    expect_range(&found, 0, 0x80013000, 0x80100000);
    expect_range(&found, 1, 0x80102000, 0x80200000);
    expect_range(&found, 2, 0x80202000, 0x87e00000);
    expect_range(&found, 3, 0x87e02000, 0x88000000);
}

Test(fdt, clips_at_the_limit_and_never_wraps)
{
    struct virt_machine machine = {.ram = {.count = 2}};
    struct found found = {.count = 0};

    machine.ram.at[0] = (struct virt_range){0xc0000000, 0x80000000};
    machine.ram.at[1] = (struct virt_range){0x200000000, MIB};
    virt_free_ranges(&machine, no_image, UINT32_MAX, collect, &found);
    cr_assert_eq(found.count, 1);
    expect_range(&found, 0, 0xc0000000, 0xfffff000);

    found.count = 0;
    machine.ram.at[0] = (struct virt_range){UINT64_MAX - 8191, UINT64_MAX};
    virt_free_ranges(&machine, no_image, UINT64_MAX, collect, &found);
    cr_assert_eq(found.count, 2);
    expect_range(&found, 0, UINT64_MAX - 8191, UINT64_MAX - 4095);
}

Test(fdt, frees_overlapping_ram_once)
{
    struct virt_machine machine = {.ram = {.count = 3}};
    struct found found = {.count = 0};

    machine.ram.at[0] = (struct virt_range){2 * MIB, 2 * MIB};
    machine.ram.at[1] = (struct virt_range){MIB, 4 * MIB};
    machine.ram.at[2] = (struct virt_range){MIB, 4 * MIB};
    virt_free_ranges(&machine, no_image, UINT64_MAX, collect, &found);
    cr_assert_eq(found.count, 3);
    expect_range(&found, 0, 2 * MIB, 4 * MIB);
    expect_range(&found, 1, MIB, 2 * MIB);
    expect_range(&found, 2, 4 * MIB, 5 * MIB);
}

/* The same by brute force: a page is free when every byte of it is. */
static bool page_is_free(const struct virt_machine *machine, uint64_t page)
{
    for (uint64_t byte = page * 4096; byte < (page + 1) * 4096; byte += 512) {
        bool free = false;

        for (size_t i = 0; i < machine->ram.count; i++) {
            free = free ||
                   byte - machine->ram.at[i].base < machine->ram.at[i].bytes;
        }
        for (size_t i = 0; i < machine->reserved.count; i++) {
            free = free && !(byte - machine->reserved.at[i].base <
                             machine->reserved.at[i].bytes);
        }
        if (!free) {
            return false;
        }
    }
    return true;
}

static void random_ranges(struct virt_ranges *ranges, uint64_t *state)
{
    ranges->count = next_random(state) % 6;
    for (size_t i = 0; i < ranges->count; i++) {
        ranges->at[i].base = next_random(state) % 512 * 512;
        ranges->at[i].bytes = next_random(state) % 256 * 512;
    }
}

Test(fdt, frees_the_same_pages_as_a_map_of_bytes)
{
    uint64_t state = 7;

    for (int round = 0; round < 3000; round++) {
        struct virt_machine machine = {.blob = {0, 0}};
        struct found found = {.count = 0};
        uint64_t expected = 0;
        uint64_t pages = 0;

        random_ranges(&machine.ram, &state);
        random_ranges(&machine.reserved, &state);
        virt_free_ranges(&machine, no_image, UINT64_MAX, collect, &found);
        expect_disjoint(&found);
        for (size_t i = 0; i < found.count; i++) {
            pages += found.at[i].bytes / 4096;
            for (uint64_t page = 0; page < found.at[i].bytes / 4096; page++) {
                cr_assert(
                    page_is_free(&machine, found.at[i].base / 4096 + page));
            }
        }
        for (uint64_t page = 0; page < 128; page++) {
            expected += page_is_free(&machine, page);
        }
        cr_assert_leq(pages, expected);
        cr_assert(machine.ram.count != 1 || pages == expected);
    }
}
