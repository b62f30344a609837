/*
 * main.c - a demonstration of tieralloc on a bare RISC-V machine.
 *
 * SPDX-License-Identifier: MIT
 *
 * Finds the RAM, gives it to the allocator, then runs the Lua interpreter and
 * two transactions on it. The command line may ask for less:
 *
 *     claim=NAME   only this: ram, lua, a script, commit, rollback, a fault
 *     ram=BYTES    fail unless the machine has exactly this much RAM
 */
#include "demo.h"
#include "port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tieralloc/inspect.h>

void demo_require(bool holds, enum demo_exit code, const char *reason)
{
    if (!holds) {
        printf("\ndemo: FAILED: %s\n", reason);
        exit((int)code);
    }
}

/* --- Memory --------------------------------------------------------------- */

/* Initialise the allocator for the span of addresses that holds all RAM. */
static void init_span(struct tier_allocator *allocator,
                      const struct virt_ranges *ram)
{
    uint64_t first = UINTPTR_MAX;
    uint64_t end = 0;

    for (size_t i = 0; i < ram->count; i++) {
        const struct virt_range *range = &ram->at[i];

        printf("RAM: %llu MiB at 0x%llx\n",
               (unsigned long long)(range->bytes >> 20),
               (unsigned long long)range->base);
        first = range->base < first ? range->base : first;
        end =
            range->base + range->bytes > end ? range->base + range->bytes : end;
    }
    /* What lies beyond the pointers of this machine is of no use to it. */
    end = end < UINTPTR_MAX ? end : UINTPTR_MAX;
    demo_require(first < end, DEMO_EXIT_RAM, "no RAM");
    demo_require(tier_init(allocator, (uintptr_t)first, (size_t)(end - first),
                           NULL, 0) == TIER_OK,
                 DEMO_EXIT_RAM, "the allocator refuses the span of the RAM");
}

static void add_range(void *allocator, void *base, size_t bytes)
{
    printf("  free: %zu KiB at %p\n", bytes / 1024, base);
    const enum tier_status status = tier_add_region(allocator, base, bytes);

    demo_require(status == TIER_OK, DEMO_EXIT_RAM, tier_status_text(status));
}

/* Nearly all RAM must arrive: the image and the map take a few per cent. */
static void add_ram(struct tier_allocator *allocator, uint64_t expected)
{
    const struct virt_ranges *ram = &virt_machine()->ram;
    const uint64_t bytes = virt_ranges_bytes(ram);
    struct tier_stats stats;

    init_span(allocator, ram);
    virt_each_free_range(add_range, allocator);
    tier_stats(allocator, &stats);

    const uint64_t free_bytes = (uint64_t)stats.free_pages * TIER_PAGE_SIZE;

    demo_require(expected == 0 || bytes == expected, DEMO_EXIT_RAM,
                 "the RAM found is not the RAM of the machine");
    demo_require(free_bytes / 95 >= bytes / 100, DEMO_EXIT_RAM,
                 "less than 95 per cent of the RAM is free");
}

/* --- Report --------------------------------------------------------------- */

static void put_char(void *context, char c)
{
    (void)context;
    putchar(c);
}

void demo_print_statistics(struct tier_allocator *allocator)
{
    struct tier_stats stats;

    tier_stats(allocator, &stats);
    printf("statistics: %zu of %zu pages free, %zu in use at most, "
           "%zu failed requests, %zu refused frees\n",
           stats.free_pages, stats.managed_pages, stats.peak_used_pages,
           stats.failed_allocs, stats.refused_frees);
    tier_dump(allocator, put_char, NULL);
}

/* --- Command line --------------------------------------------------------- */

/* What follows `key=` in the command line, to the next blank; else NULL. */
static const char *argument(const char *key, char *value, size_t value_bytes)
{
    const char *at = strstr(virt_machine()->bootargs, key);

    if (at == NULL) {
        return NULL;
    }
    at += strlen(key);
    const size_t length = strcspn(at, " ");

    demo_require(length < value_bytes, DEMO_EXIT_USAGE, "too long an argument");
    memcpy(value, at, length);
    value[length] = '\0';
    return value;
}

static void run_claim(struct tier_allocator *allocator, const char *claim)
{
    if (strcmp(claim, "ram") == 0) {
        return; /* it was found, and added, before */
    }
    if (strcmp(claim, "lua") == 0) {
        demo_run_lua(allocator, NULL);
    } else if (strcmp(claim, "commit") == 0) {
        demo_commit(allocator);
    } else if (strcmp(claim, "rollback") == 0) {
        demo_rollback(allocator);
    } else if (!demo_run_lua(allocator, claim) && !demo_fault(claim)) {
        demo_require(false, DEMO_EXIT_USAGE, "no such claim");
    }
}

int main(void)
{
    static struct tier_allocator allocator;
    char text[32];
    const char *ram = argument("ram=", text, sizeof(text));

    printf("tieralloc on bare rv%d\n", (int)(8 * sizeof(void *)));
    add_ram(&allocator, ram == NULL ? 0 : strtoull(ram, NULL, 10));

    const char *claim = argument("claim=", text, sizeof(text));

    if (claim != NULL) {
        run_claim(&allocator, claim);
    } else {
        run_claim(&allocator, "lua");
        run_claim(&allocator, "commit");
        run_claim(&allocator, "rollback");
    }
    demo_print_statistics(&allocator);
    demo_require(tier_check(&allocator), DEMO_EXIT_CHECK, "the check failed");
    printf("demo: passed\n");
    return 0;
}
