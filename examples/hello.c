/*
 * examples/hello.c - the program of the README: one file, one array of RAM.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include <stdio.h>
#include <tieralloc/tieralloc.h>

static _Alignas(4096) unsigned char ram[1024 * 1024];
static struct tier_allocator heap;

int main(void)
{
    tier_init(&heap, (uintptr_t)ram, sizeof ram, NULL, 0);
    tier_add_region(&heap, ram, sizeof ram);
    void *memory = tier_alloc(&heap, 100);
    printf("usable: %zu\n", tier_usable_size(&heap, memory));
    printf("free: %s\n", tier_status_text(tier_free(&heap, memory)));
    printf("again: %s\n", tier_status_text(tier_free(&heap, memory)));
    return tier_check(&heap) ? 0 : 1;
}
