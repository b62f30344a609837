/*
 * tieralloc/pagemap.h - what is known of every page in a span of addresses.
 *
 * SPDX-License-Identifier: MIT
 *
 * Arrays beside the managed memory, never inside it: a kind (one byte) and an
 * entry (eight bytes) per page of the span, and for per-CPU caches of objects a
 * cut (two bytes). The tier that holds a page writes them; all tiers of an
 * allocator share one map, so one load routes a free by its address, however
 * many regions there are.
 *
 *     page     |  0 |  1 |  2 |  3 |  4 |  5 |  6 |  7 |
 *     kind     | F1 |  - | B0 | S9 | F2 |  - |  - |  - |   - : not a head
 *     entry    |link|    |own |slab|link|    |    |    |
 *     cut      |    |    |    | 9,1|    |    |    |    |
 *
 * F1: head of a free block of order 1; B0: head of an allocated one of order
 * 0; S9: a page of a slab of size class 9, which ends with it. Pages in no
 * region read "-" too.
 *
 * Costs 9 bytes a page, or 11 with per-CPU caches (0.27 % at 4 KiB), gaps
 * between regions included. A gap's entries are never touched. No function
 * locks.
 */
#ifndef TIERALLOC_PAGEMAP_H
#define TIERALLOC_PAGEMAP_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* The kind of a page: one of these, with an order or a class in the low bits */
#define TIER_KIND_NONE      0x00U /* not a head: inside a block, or in no region */
#define TIER_KIND_RUN_PAGE  0x10U /* used run of one page */
#define TIER_KIND_RUN_HEAD  0x11U /* first page of a longer used run */
#define TIER_KIND_FREE_PAGE 0x12U /* free run of one page */
#define TIER_KIND_FREE_HEAD 0x13U /* first page of a longer free run */
#define TIER_KIND_FREE_TAIL 0x14U /* last page of it */
#define TIER_KIND_CACHED    0x15U /* single page that waits in a page cache */
#define TIER_KIND_HEAP      0x16U /* page of the simple heap */
#define TIER_KIND_META      0x18U /* page of slab descriptors */
#define TIER_KIND_FREE      0x20U /* head of a free block; order in bits 0..4 */
#define TIER_KIND_BLOCK     0x40U /* head of an allocated block; order as above */
#define TIER_KIND_LEAVING   0x60U /* only during a bulk free; order as above */
#define TIER_KIND_SLAB      0x80U /* page of a slab; size class in bits 0..6 */

/* The bits that tell kinds with an order apart, and the order. */
#define TIER_KIND_MASK  0xE0U
#define TIER_ORDER_MASK 0x1FU

/* No page: ends a list. */
#define TIER_PAGE_NIL UINT32_MAX

/* What the tier that holds a page keeps about it. */
union tier_page_entry {
    struct {
        uint32_t next; /* free head: index of the next of its order */
        uint32_t prev; /* and of the previous; TIER_PAGE_NIL at an end */
    } link;
    uint32_t length; /* second or last page of a run: pages in it */
    uintptr_t owner; /* allocated head: the caller's word */
    void *slab;      /* slab page: its descriptor */
    uint64_t bits;   /* fixes the size on every target */
};

/* A map. The caller owns the storage; the fields are private. */
struct tier_pagemap {
    uintptr_t first; /* page number of index 0 */
    size_t pages;    /* indexes are 0 .. pages - 1 */
    size_t skew;     /* pages by which index 0 misses a largest block's begin */
    uint8_t *kind;
    union tier_page_entry *entry;
#if TIERALLOC_CPUS > 0
    uint16_t *cut; /* set by tier_cpucache_init; see tier_slab_cut_ */
#endif
};

/* Bytes of metadata for a span of so many pages, as a constant. */
#define TIER_PAGEMAP_BYTES(pages) \
    ((pages) * (size_t)(TIERALLOC_CPUS > 0 ? 11 : 9))

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Tell how many bytes of metadata a map of the span needs.
 *
 * The span is [base, base + bytes), cut inwards to whole pages: 9 bytes each, or 11 with
 * per-CPU caches.
 * The page at address 0 is left out, since its address is NULL.
 *
 * Returns 0 when the span is one that tier_pagemap_init refuses.
 */
TIERALLOC_API size_t tier_pagemap_bytes(uintptr_t base, size_t bytes);

/*
 * Make *map a map of the span, with no page in any region.
 *
 * The map uses `memory` until it is discarded: tier_pagemap_bytes of it,
 * aligned to 8. Cost: reads one byte a page, a word at a time, and writes
 * only what is not zero, so a lazily mapped host touches nothing.
 *
 * Returns TIER_OK, or with *map untouched:
 *   TIER_ERR_OVERFLOW    base + bytes passes the end of the address space;
 *   TIER_ERR_INVALID     the span holds no whole page, or memory is NULL;
 *   TIER_ERR_TOO_LARGE   the span has 2^32 - 1 pages or more;
 *   TIER_ERR_MISALIGNED  memory is not aligned to 8 bytes;
 *   TIER_ERR_METADATA    memory_bytes is less than tier_pagemap_bytes.
 */
TIERALLOC_API enum tier_status tier_pagemap_init(struct tier_pagemap *map,
                                                 uintptr_t base, size_t bytes,
                                                 void *memory,
                                                 size_t memory_bytes);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_PAGEMAP_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_PAGEMAP_IMPLEMENTED)
#define TIERALLOC_PAGEMAP_IMPLEMENTED

#include "internal.h"

_Static_assert(sizeof(union tier_page_entry) == 8, "an entry is eight bytes");
_Static_assert(sizeof(union tier_page_entry) + 1 +
                       (TIERALLOC_CPUS > 0 ? sizeof(uint16_t) : 0) ==
                   TIER_PAGEMAP_BYTES(1),
               "an entry, a kind and perhaps a cut are a page's metadata");
_Static_assert(TIERALLOC_MAX_ORDER <= TIER_ORDER_MASK,
               "an order fits beside its kind");

/* A range of whole pages by number; end is exclusive and may not wrap. */
struct tier_page_range_ {
    uintptr_t begin;
    uintptr_t end;
};

/*
 * Cut [base, base + bytes) inwards to whole pages.
 *
 * A range may end exactly at the top of the address space: page numbers,
 * unlike addresses, can express that end. Page 0 is left out.
 */
TIER_INLINE_ enum tier_status tier_page_range_(uintptr_t base, size_t bytes,
                                               struct tier_page_range_ *range)
{
    if (bytes == 0) {
        return TIER_ERR_INVALID;
    }
    uintptr_t last = base + (bytes - 1);

    if (last < base) {
        return TIER_ERR_OVERFLOW;
    }
    bool partial_first = !tier_is_aligned_(base, TIER_PAGE_SIZE);
    bool full_last = (last & (TIER_PAGE_SIZE - 1)) == TIER_PAGE_SIZE - 1;

    range->begin = (base >> TIERALLOC_PAGE_SHIFT) + (partial_first ? 1 : 0);
    if (range->begin == 0) {
        range->begin = 1; /* the address of page 0 is NULL */
    }
    range->end = (last >> TIERALLOC_PAGE_SHIFT) + (full_last ? 1 : 0);
    return range->begin < range->end ? TIER_OK : TIER_ERR_INVALID;
}

/* The pages that [base, base + bytes) touches, wholly or in part. */
TIER_INLINE_ enum tier_status tier_page_cover_(uintptr_t base, size_t bytes,
                                               struct tier_page_range_ *range)
{
    if (bytes == 0) {
        return TIER_ERR_INVALID;
    }
    uintptr_t last = base + (bytes - 1);

    if (last < base) {
        return TIER_ERR_OVERFLOW;
    }
    range->begin = base >> TIERALLOC_PAGE_SHIFT;
    range->end = (last >> TIERALLOC_PAGE_SHIFT) + 1;
    if (range->begin == 0) {
        range->begin = 1; /* as in tier_page_range_ */
    }
    return range->begin < range->end ? TIER_OK : TIER_ERR_INVALID;
}

/* The pages of a span, which a map can hold. */
static enum tier_status tier_pagemap_span_(uintptr_t base, size_t bytes,
                                           struct tier_page_range_ *range)
{
    enum tier_status status = tier_page_range_(base, bytes, range);

    if (status == TIER_OK && range->end - range->begin >= TIER_PAGE_NIL) {
        return TIER_ERR_TOO_LARGE;
    }
    return status;
}

TIERALLOC_API size_t tier_pagemap_bytes(uintptr_t base, size_t bytes)
{
    struct tier_page_range_ range;

    if (tier_pagemap_span_(base, bytes, &range) != TIER_OK) {
        return 0;
    }
    return TIER_PAGEMAP_BYTES(range.end - range.begin);
}

TIERALLOC_API enum tier_status tier_pagemap_init(struct tier_pagemap *map,
                                                 uintptr_t base, size_t bytes,
                                                 void *memory,
                                                 size_t memory_bytes)
{
    struct tier_page_range_ range;
    enum tier_status status = tier_pagemap_span_(base, bytes, &range);

    if (status != TIER_OK) {
        return status;
    }
    if (memory == NULL) {
        return TIER_ERR_INVALID;
    }
    if (!tier_is_aligned_((uintptr_t)memory, sizeof(union tier_page_entry))) {
        return TIER_ERR_MISALIGNED;
    }
    if (memory_bytes / TIER_PAGEMAP_BYTES(1) < range.end - range.begin) {
        return TIER_ERR_METADATA;
    }
    map->first = range.begin;
    map->pages = range.end - range.begin;
    map->skew = range.begin & (((size_t)1 << TIERALLOC_MAX_ORDER) - 1);
    map->entry = (union tier_page_entry *)memory;
#if TIERALLOC_CPUS > 0
    size_t rest = map->pages * sizeof(uint16_t) % sizeof(tier_word_);

    map->cut = (uint16_t *)(void *)(map->entry + map->pages);
    map->kind = (uint8_t *)(map->cut + map->pages);
    tier_clear_(map->kind - rest, map->pages + rest); /* whole words */
#else
    map->kind = (uint8_t *)(map->entry + map->pages);
    tier_clear_(map->kind, map->pages);
#endif
    return TIER_OK;
}

/* True when a range of pages holds memory of the map itself. */
TIER_INLINE_ bool tier_pagemap_lies_in_(const struct tier_pagemap *map,
                                        const struct tier_page_range_ *range)
{
    uintptr_t last = (uintptr_t)(map->kind + map->pages - 1);

    return (uintptr_t)map->entry >> TIERALLOC_PAGE_SHIFT < range->end &&
           last >> TIERALLOC_PAGE_SHIFT >= range->begin;
}

/* Let a tier hold a map by value. */
TIER_INLINE_ void tier_pagemap_share_(struct tier_pagemap *to,
                                      const struct tier_pagemap *from)
{
    to->first = from->first;
    to->pages = from->pages;
    to->skew = from->skew;
    to->kind = from->kind;
    to->entry = from->entry;
#if TIERALLOC_CPUS > 0
    to->cut = from->cut;
#endif
}

/*
 * The part [begin, begin + pages) of a map as a map of its own, in which
 * blocks keep their alignment in memory.
 */
TIER_INLINE_ void tier_pagemap_view_(struct tier_pagemap *part,
                                     const struct tier_pagemap *map,
                                     size_t begin, size_t pages)
{
    part->first = map->first + begin;
    part->pages = pages;
    part->skew = part->first & (((size_t)1 << TIERALLOC_MAX_ORDER) - 1);
    part->kind = map->kind + begin;
    part->entry = map->entry + begin;
#if TIERALLOC_CPUS > 0
    part->cut = map->cut + begin;
#endif
}

/* Index of the page that holds an address; >= map->pages when outside. */
TIER_INLINE_ uintptr_t tier_pagemap_index_(const struct tier_pagemap *map,
                                           const void *address)
{
    return ((uintptr_t)address >> TIERALLOC_PAGE_SHIFT) - map->first;
}

/* Address of a page. */
TIER_INLINE_ void *tier_pagemap_address_(const struct tier_pagemap *map,
                                         uintptr_t index)
{
    return (void *)((map->first + index) << TIERALLOC_PAGE_SHIFT);
}

/* The kind of the page that holds an address; NONE outside the span. */
TIER_INLINE_ unsigned tier_pagemap_kind_(const struct tier_pagemap *map,
                                         const void *address)
{
    uintptr_t index = tier_pagemap_index_(map, address);

    return index < map->pages ? map->kind[index] : TIER_KIND_NONE;
}

/*
 * Read or write a kind that the page cache of another CPU may write or read at
 * the same time, for a page in use: any value it may have says so.
 */
TIER_INLINE_ unsigned tier_kind_load_(const uint8_t *kind)
{
#if TIERALLOC_LOCKING
    return __atomic_load_n(kind, __ATOMIC_RELAXED);
#else
    return *kind;
#endif
}

TIER_INLINE_ void tier_kind_store_(uint8_t *kind, unsigned value)
{
#if TIERALLOC_LOCKING
    __atomic_store_n(kind, (uint8_t)value, __ATOMIC_RELAXED);
#else
    *kind = (uint8_t)value;
#endif
}

/* True for the kinds that runs.h writes. */
TIER_INLINE_ bool tier_kind_is_run_(unsigned kind)
{
    return kind >= TIER_KIND_RUN_PAGE && kind <= TIER_KIND_FREE_TAIL;
}

/*
 * Pages of the block or run that `index` is the head of, 1 for a page of a
 * slab, of the heap or the tail of a free run, 0 for a kind that no tier writes. A corrupt
 * length gives any value.
 */
TIER_INLINE_ size_t tier_pagemap_extent_(const struct tier_pagemap *map,
                                         size_t index)
{
    unsigned kind = map->kind[index];

    if ((kind & TIER_KIND_MASK) == TIER_KIND_FREE ||
        (kind & TIER_KIND_MASK) == TIER_KIND_BLOCK) {
        return (size_t)1 << (kind & TIER_ORDER_MASK);
    }
    if (kind == TIER_KIND_RUN_HEAD || kind == TIER_KIND_FREE_HEAD) {
        return index + 1 < map->pages ? map->entry[index + 1].length : 0;
    }
    return tier_kind_is_run_(kind) || kind == TIER_KIND_CACHED ||
           kind == TIER_KIND_HEAP || kind == TIER_KIND_META ||
           (kind & TIER_KIND_SLAB) != 0;
}

/*
 * True when a block or a run covers the page `index`, whoever holds it: no
 * free run is as long as two of the largest blocks. O(TIER_BLOCK_MAX pages).
 */
TIER_INLINE_ bool tier_pagemap_held_(const struct tier_pagemap *map,
                                     size_t index)
{
    size_t at = index;

    while (at > 0 && map->kind[at] == TIER_KIND_NONE &&
           index - at < (size_t)2 << TIERALLOC_MAX_ORDER) {
        at--;
    }
    return map->kind[at] != TIER_KIND_NONE &&
           index - at < tier_pagemap_extent_(map, at);
}

/*
 * Load an index. Seen as a 32-bit value, gcc would extend it again at each use
 * on rv64; opaque, the load itself extends it.
 */
TIER_INLINE_ size_t tier_load_index_(const uint32_t *index)
{
    size_t value = *index;

    TIER_OPAQUE_(value);
    return value;
}

#endif /* TIERALLOC_PAGEMAP_IMPLEMENTED */
