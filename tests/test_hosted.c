/*
 * tests/test_hosted.c - the hosted port: regions from mmap.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include "hosted.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* Bytes of this process that are in memory now. */
static size_t resident_bytes(void)
{
    unsigned long all = 0;
    unsigned long resident = 0;
    FILE *const file = fopen("/proc/self/statm", "r");

    cr_assert_not_null(file);
    cr_assert_eq(fscanf(file, "%lu %lu", &all, &resident), 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

Test(hosted, maps_whole_pages_of_zeros)
{
    struct hosted_region region = {NULL, 0};

    cr_assert_eq(hosted_map(&region, 1), TIER_OK);
    cr_assert_eq(region.bytes % TIER_PAGE_SIZE, 0U);
    cr_assert_eq((uintptr_t)region.base % TIER_PAGE_SIZE, 0U);

    unsigned char *const bytes = region.base;

    for (size_t i = 0; i < region.bytes; i++) {
        cr_assert_eq(bytes[i], 0);
    }
    memset(bytes, 0xA5, region.bytes);
    cr_assert_eq(hosted_unmap(&region), TIER_OK);
}

Test(hosted, aligns_large_regions_to_a_huge_page)
{
    for (size_t bytes = 2 * MIB; bytes <= 64 * MIB; bytes = bytes * 3 / 2) {
        struct hosted_region region = {NULL, 0};

        cr_assert_eq(hosted_map(&region, bytes), TIER_OK);
        cr_assert_eq((uintptr_t)region.base % (2 * MIB), 0U);
        cr_assert(region.bytes >= bytes);
        cr_assert(region.bytes - bytes < TIER_PAGE_SIZE);
        ((unsigned char *)region.base)[region.bytes - 1] = 1;
        cr_assert_eq(hosted_unmap(&region), TIER_OK);
    }
}

Test(hosted, refuses_what_cannot_be_mapped)
{
    struct hosted_region region = {&region, 42};

    cr_assert_eq(hosted_map(NULL, MIB), TIER_ERR_INVALID);
    cr_assert_eq(hosted_map(&region, 0), TIER_ERR_INVALID);
    cr_assert_eq(hosted_map(&region, SIZE_MAX), TIER_ERR_TOO_LARGE);
    cr_assert_eq(hosted_map(&region, SIZE_MAX / 2 + 1), TIER_ERR_TOO_LARGE);
    cr_assert_eq(hosted_map(&region, SIZE_MAX / 4), TIER_ERR_NO_MEMORY);
    cr_assert_eq(region.base, (void *)&region);
    cr_assert_eq(region.bytes, 42U);
}

Test(hosted, unmaps_once)
{
    struct hosted_region region = {NULL, 0};

    cr_assert_eq(hosted_unmap(NULL), TIER_ERR_INVALID);
    cr_assert_eq(hosted_map(&region, 3 * MIB), TIER_OK);
    cr_assert_eq(hosted_unmap(&region), TIER_OK);
    cr_assert_null(region.base);
    cr_assert_eq(region.bytes, 0U);
    cr_assert_eq(hosted_unmap(&region), TIER_OK);
}

Test(hosted, starts_an_allocator_that_works)
{
    static struct tier_allocator allocator;
    struct hosted_region region = {NULL, 0};

    cr_assert_eq(hosted_init(&allocator, &region, 64 * MIB), TIER_OK);

    unsigned char *const memory = tier_alloc(&allocator, 10000);

    cr_assert_not_null(memory);
    cr_assert((uintptr_t)memory >= (uintptr_t)region.base);
    cr_assert((uintptr_t)memory + 10000 <=
              (uintptr_t)region.base + region.bytes);
    memset(memory, 0xA5, 10000);
    cr_assert(tier_check(&allocator));
    cr_assert_eq(tier_free(&allocator, memory), TIER_OK);
    cr_assert(tier_check(&allocator));
    cr_assert_eq(hosted_unmap(&region), TIER_OK);
}

Test(hosted, commits_only_what_is_touched)
{
    static struct tier_allocator allocator;
    struct hosted_region region = {NULL, 0};
    const size_t before = resident_bytes();

    cr_assert_eq(hosted_init(&allocator, &region, 16384 * MIB), TIER_OK);
    cr_assert_not_null(tier_alloc(&allocator, 100));

    const size_t after = resident_bytes();

    cr_assert(after < before + 64 * MIB, "%zu MiB became resident",
              (after - before) / MIB);
    cr_assert_eq(hosted_unmap(&region), TIER_OK);
}

Test(hosted, keeps_nothing_when_the_region_is_too_small)
{
    static struct tier_allocator allocator;
    struct hosted_region region = {NULL, 0};

    cr_assert_neq(hosted_init(&allocator, &region, 1), TIER_OK);
    cr_assert_null(region.base);
    cr_assert_eq(region.bytes, 0U);
}
