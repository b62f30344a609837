/*
 * hosted.h - memory for tieralloc from a POSIX host's mmap.
 *
 * SPDX-License-Identifier: MIT
 *
 * A region is one anonymous private mapping. The host commits its pages when
 * they are first touched, so a region may be far larger than what is used of
 * it: a test of 16 GiB costs a few MiB.
 *
 * Nothing is aborted and nothing printed; no function locks.
 */
#ifndef HOSTED_H
#define HOSTED_H

#include <tieralloc/tieralloc.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* A mapping. The caller owns the storage; the fields may be read. */
struct hosted_region {
    void *base;   /* aligned to a page, from 2 MiB on to 2 MiB */
    size_t bytes; /* whole pages */
};

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Reserve `bytes` bytes, rounded up to whole pages of the host and of
 * tieralloc, and describe them in *region. They read as zero.
 *
 * Returns TIER_OK, or with *region untouched:
 *   TIER_ERR_INVALID    region is NULL, or bytes is 0;
 *   TIER_ERR_TOO_LARGE  no address space is that large;
 *   TIER_ERR_NO_MEMORY  the host refused.
 */
enum tier_status hosted_map(struct hosted_region *region, size_t bytes);

/*
 * Return what hosted_map reserved; *region becomes empty, an empty one stays.
 *
 * Nothing may use the memory any more: an allocator that holds it is dead.
 *
 * Returns TIER_OK, or TIER_ERR_INVALID when region is NULL or the host says
 * that it is no mapping.
 */
enum tier_status hosted_unmap(struct hosted_region *region);

/*
 * Reserve a region and make *allocator an allocator over the whole of it,
 * metadata included. hosted_unmap(region) ends both.
 *
 * Returns TIER_OK; what hosted_map returns; or what tier_init or
 * tier_add_region return, TIER_ERR_METADATA for one when `bytes` holds little
 * more than the metadata. After a failure nothing stays reserved.
 */
enum tier_status hosted_init(struct tier_allocator *allocator,
                             struct hosted_region *region, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* HOSTED_H */
