/*
 * hosted.c - regions from mmap.
 *
 * SPDX-License-Identifier: MIT
 */
/* The C library's name: declare MAP_ANONYMOUS under -std=c11 too. */
/* NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming) */
#define _DEFAULT_SOURCE

#include "hosted.h"

#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0 /* where every mapping is lazy */
#endif

/* A huge page of most hosts: a region that large is aligned to it. */
#define HOSTED_HUGE_PAGE ((size_t)2 << 20)

/* The larger of the host's page and ours; both are powers of two. */
static size_t hosted_page(void)
{
    const size_t host = (size_t)sysconf(_SC_PAGESIZE);

    return host > TIER_PAGE_SIZE ? host : TIER_PAGE_SIZE;
}

/* Reserve `bytes` bytes at a multiple of `alignment`; NULL when refused. */
static unsigned char *hosted_map_aligned(size_t bytes, size_t alignment)
{
    const size_t reserved = bytes + alignment;
    unsigned char *const start =
        mmap(NULL, reserved, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (start == MAP_FAILED) {
        return NULL;
    }

    /* |<- before ->|<- bytes ->|<- after ->|  of which the middle stays */
    const size_t before =
        (alignment - (uintptr_t)start % alignment) % alignment;
    const size_t after = reserved - before - bytes;

    if (before != 0) {
        (void)munmap(start, before);
    }
    if (after != 0) {
        (void)munmap(start + before + bytes, after);
    }
    return start + before;
}

enum tier_status hosted_map(struct hosted_region *region, size_t bytes)
{
    const size_t page = hosted_page();

    if (region == NULL || bytes == 0) {
        return TIER_ERR_INVALID;
    }
    if (bytes > PTRDIFF_MAX - page - HOSTED_HUGE_PAGE) {
        return TIER_ERR_TOO_LARGE;
    }

    const size_t rounded = (bytes + page - 1) / page * page;
    const bool huge = rounded >= HOSTED_HUGE_PAGE && page < HOSTED_HUGE_PAGE;
    unsigned char *const base =
        hosted_map_aligned(rounded, huge ? HOSTED_HUGE_PAGE : page);

    if (base == NULL) {
        return TIER_ERR_NO_MEMORY;
    }
    region->base = base;
    region->bytes = rounded;
    return TIER_OK;
}

enum tier_status hosted_unmap(struct hosted_region *region)
{
    if (region == NULL) {
        return TIER_ERR_INVALID;
    }
    if (region->bytes != 0 && munmap(region->base, region->bytes) != 0) {
        return TIER_ERR_INVALID;
    }
    region->base = NULL;
    region->bytes = 0;
    return TIER_OK;
}

enum tier_status hosted_init(struct tier_allocator *allocator,
                             struct hosted_region *region, size_t bytes)
{
    enum tier_status status = hosted_map(region, bytes);

    if (status != TIER_OK) {
        return status;
    }
    status =
        tier_init(allocator, (uintptr_t)region->base, region->bytes, NULL, 0);
    if (status == TIER_OK) {
        status = tier_add_region(allocator, region->base, region->bytes);
    }
    if (status != TIER_OK) {
        (void)hosted_unmap(region);
    }
    return status;
}
