/*
 * tieralloc/buddy.h - blocks of 2^order pages, aligned to their own size.
 *
 * SPDX-License-Identifier: MIT
 *
 * The binary buddy system (Knuth, The Art of Computer Programming, vol. 1,
 * section 2.5, algorithms R and S) over the regions of a page map. A block of
 * order k has one buddy, whose page number differs in bit k alone:
 *
 *     order 2  |        8         |  split   |   8   |   10  |
 *     order 1  |                  |  ----->  |       |  free |
 *                                 coalesce <------   buddies 8, 10
 *
 * One doubly linked list of free blocks per order, its links in the entries of
 * the map, and one word of the orders whose list is not empty. Managed pages
 * are never touched.
 *
 * Alloc and free: O(TIERALLOC_MAX_ORDER), no loop over pages. The struct takes
 * 104 bytes and 8 per order on a 64-bit machine. Every free is checked at
 * TIERALLOC_CHECKS 1. No function locks; the caller serialises access.
 */
#ifndef TIERALLOC_BUDDY_H
#define TIERALLOC_BUDDY_H

#include "pagemap.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* A buddy allocator. The caller owns the storage; the fields are private. */
struct tier_buddy {
    struct tier_pagemap map; /* the caller's map, by value: one load less */
    uint32_t orders;         /* bit k: the list of order k has a block */
    struct tier_buddy_list {
        uint32_t head;   /* index of the first block, or TIER_PAGE_NIL */
        uint32_t blocks; /* blocks on the list */
    } lists[TIERALLOC_MAX_ORDER + 1];
    size_t managed_pages;    /* in regions, free or not */
    size_t free_pages;       /* in blocks on the lists */
    size_t least_free_pages; /* fewest since a region came or went */
    size_t failed_allocs;    /* no free block was large enough */
    size_t refused_allocs;   /* an argument was outside its range */
    size_t refused_frees;    /* bad pointers and double frees */
};

/* A snapshot of the counters. */
struct tier_buddy_stats {
    size_t managed_pages;   /* pages in regions */
    size_t free_pages;      /* of these, free */
    size_t peak_used_pages; /* most in use since a region came or went */
    int largest_free_order; /* -1 when nothing is free */
    size_t free_blocks[TIERALLOC_MAX_ORDER + 1]; /* by order */
    size_t failed_allocs;                        /* out of memory */
    size_t refused_allocs;                       /* invalid arguments */
    size_t refused_frees;                        /* invalid frees */
};

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Make *buddy an allocator over the pages of *map, with no region yet.
 *
 * The map must outlive the buddy and, while shared with other tiers, name each
 * page in one of them only. O(TIERALLOC_MAX_ORDER).
 */
TIERALLOC_API void tier_buddy_init(struct tier_buddy *buddy,
                                   const struct tier_pagemap *map);

/*
 * Add the memory [base, base + bytes), cut inwards to whole pages; the page at
 * address 0 is left out, since its address is NULL.
 *
 * May be called at any time, for memory anywhere in the map's span; adjacent
 * regions coalesce. Cost: reads the kind of each page, a word at a time, and
 * writes one entry for each block of the largest order.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_OVERFLOW  base + bytes passes the end of the address space;
 *   TIER_ERR_INVALID   the range holds no whole page;
 *   TIER_ERR_FOREIGN   the range leaves the span of the map;
 *   TIER_ERR_OVERLAP   a page of it is held already, free or not, or holds
 *                      part of the map.
 */
TIERALLOC_API enum tier_status tier_buddy_add(struct tier_buddy *buddy,
                                              void *base, size_t bytes);

/*
 * Take the memory [base, base + bytes) away, widened to whole pages.
 *
 * For holes before use (a device tree, firmware) and for regions that leave
 * at run time; tier_buddy_add gives any part of it back. O(blocks removed).
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_OVERFLOW, TIER_ERR_FOREIGN  as for add;
 *   TIER_ERR_INVALID   bytes is 0;
 *   TIER_ERR_IN_USE    a page of it is allocated, or in no region.
 */
TIERALLOC_API enum tier_status tier_buddy_remove(struct tier_buddy *buddy,
                                                 void *base, size_t bytes);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate a block of 2^order pages, aligned to its own size; owner word 0.
 *
 * Contents are undefined. The most recently freed block of the smallest order
 * that fits is taken. O(TIERALLOC_MAX_ORDER), touches no managed page.
 *
 * Returns NULL when no block of that order or above is free, or when order
 * exceeds TIERALLOC_MAX_ORDER.
 */
TIERALLOC_API void *tier_buddy_alloc(struct tier_buddy *buddy, unsigned order);

/*
 * Allocate this very block: 2^order pages at `block`.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_TOO_LARGE   order exceeds TIERALLOC_MAX_ORDER;
 *   TIER_ERR_FOREIGN     block is outside the span of the map;
 *   TIER_ERR_MISALIGNED  block is not aligned to 2^order pages;
 *   TIER_ERR_IN_USE      a page of it is allocated, or in no region.
 */
TIERALLOC_API enum tier_status tier_buddy_alloc_at(struct tier_buddy *buddy,
                                                   void *block, unsigned order);

/*
 * Allocate 2^order pages somewhere in [base, base + bytes), for a device that
 * reaches no further: base 0 makes it an address limit.
 *
 * O(free blocks). Returns TIER_OK with the block in *out, or with *out NULL:
 *   TIER_ERR_TOO_LARGE  order exceeds TIERALLOC_MAX_ORDER;
 *   TIER_ERR_INVALID    bytes is 0;
 *   TIER_ERR_OVERFLOW   base + bytes passes the end of the address space;
 *   TIER_ERR_NO_MEMORY  no such block is free.
 */
TIERALLOC_API enum tier_status tier_buddy_alloc_within(struct tier_buddy *buddy,
                                                       unsigned order,
                                                       uintptr_t base,
                                                       size_t bytes,
                                                       void **out);

/*
 * Allocate `count` blocks of 2^order pages into blocks[0 .. count - 1].
 *
 * O(count * TIERALLOC_MAX_ORDER). Returns TIER_OK, or with nothing allocated
 * TIER_ERR_TOO_LARGE or TIER_ERR_NO_MEMORY.
 */
TIERALLOC_API enum tier_status tier_buddy_alloc_bulk(struct tier_buddy *buddy,
                                                     unsigned order,
                                                     size_t count,
                                                     void **blocks);

/*
 * Free `count` blocks of any orders, all or none; NULL is none of them.
 *
 * O(count * TIERALLOC_MAX_ORDER). Returns TIER_OK, or with nothing freed what
 * tier_buddy_free returns for the first wrong pointer (TIER_ERR_DOUBLE_FREE
 * also when a block is named twice, TIER_ERR_FOREIGN for NULL).
 */
TIERALLOC_API enum tier_status tier_buddy_free_bulk(struct tier_buddy *buddy,
                                                    size_t count,
                                                    void *const *blocks);

/*
 * Make an allocated block one of 2^order pages where it is.
 *
 * Shrinking frees the rest of it and always succeeds; growing takes the buddies
 * behind it when they are free. Owner and contents are kept.
 * O(TIERALLOC_MAX_ORDER).
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_TOO_LARGE  order exceeds TIERALLOC_MAX_ORDER;
 *   TIER_ERR_IN_USE     the pages it would grow by are not free, or the block
 *                       is not aligned to its new size;
 *   or what tier_buddy_free returns for a wrong pointer.
 */
TIERALLOC_API enum tier_status tier_buddy_resize(struct tier_buddy *buddy,
                                                 void *block, unsigned order);

/*
 * Free a block; its buddies coalesce at once. NULL is a no-op.
 *
 * The order is known from the map. O(TIERALLOC_MAX_ORDER), touches no managed
 * page.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_FOREIGN      not a page of this allocator's blocks;
 *   TIER_ERR_DOUBLE_FREE  inside a free block;
 *   TIER_ERR_MISALIGNED   inside an allocated block, not at a page's start;
 *   TIER_ERR_INTERIOR     at a page's start inside one, not at the first.
 */
TIERALLOC_API enum tier_status tier_buddy_free(struct tier_buddy *buddy,
                                               void *block);

/*
 * Make *source give pages of this buddy tier: any number of them up to the
 * largest block. What a block has too many goes back at once.
 *
 * acquire and release are O(TIERALLOC_MAX_ORDER). Pages that are held this way
 * have no owner and cannot be freed as blocks. The struct must not move
 * afterwards.
 */
TIERALLOC_API void tier_buddy_source(struct tier_buddy *buddy,
                                     struct tier_page_source *source);

/* --- Inspection ----------------------------------------------------------- */

/*
 * Keep a word with an allocated block, to be found again by its address.
 *
 * The word lies in the page map, not in the block. O(1).
 *
 * Returns TIER_OK, or why `block` is not one, as tier_buddy_free does
 * (TIER_ERR_FOREIGN for NULL).
 */
TIERALLOC_API enum tier_status tier_buddy_set_owner(struct tier_buddy *buddy,
                                                    void *block,
                                                    uintptr_t owner);

/* The word kept with an allocated block; 0 for anything else. O(1). */
TIERALLOC_API uintptr_t tier_buddy_owner(const struct tier_buddy *buddy,
                                         const void *block);

/* The order of an allocated block; -1 for anything else. O(1). */
TIERALLOC_API int tier_buddy_order(const struct tier_buddy *buddy,
                                   const void *block);

/* Copy the counters into *stats. O(TIERALLOC_MAX_ORDER). */
TIERALLOC_API void tier_buddy_stats(const struct tier_buddy *buddy,
                                    struct tier_buddy_stats *stats);

/*
 * The unusable free space index of an order, in permille: the part of the free
 * pages that lies in blocks too small for it. 0 when all is usable, or when
 * nothing is free. (Gorman, Whitcroft, "The What, The Why and the Where To of
 * Anti-Fragmentation", Linux Symposium 2006.) O(TIERALLOC_MAX_ORDER).
 */
TIERALLOC_API unsigned tier_buddy_unusable(const struct tier_buddy *buddy,
                                           unsigned order);

/*
 * The external fragmentation index of an order, in permille: why a request of
 * it fails. Towards 0 memory is missing, towards 1000 it is only scattered;
 * -1000 when the request would succeed. (Gorman, Whitcroft, "Supporting the
 * Allocation of Large Contiguous Regions of Memory", Linux Symposium 2007.)
 * O(TIERALLOC_MAX_ORDER).
 */
TIERALLOC_API int tier_buddy_fragmentation(const struct tier_buddy *buddy,
                                           unsigned order);

/* Write the free blocks by order as one line of text. */
TIERALLOC_API void tier_buddy_dump(const struct tier_buddy *buddy, tier_put put,
                                   void *context);

/*
 * True when every invariant holds: each head is aligned to its order and lies
 * in the span, no other head lies in its block, no two buddies are free, the
 * free heads and the lists are the same set linked both ways, and the counters
 * equal what is counted.
 *
 * So any change to a link, to a counter of free or managed pages, or of the
 * kind of a head to that of another block is detected. Not detected here: an
 * owner word, which is the caller's, and a page that passes for one of a run or
 * a slab, which the check of that tier looks at.
 * O(pages of the span), whatever the corruption; for tests and debugging.
 */
TIERALLOC_API bool tier_buddy_check(const struct tier_buddy *buddy);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_BUDDY_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_BUDDY_IMPLEMENTED)
#define TIERALLOC_BUDDY_IMPLEMENTED

#include "internal.h"
#include "text.h"

_Static_assert(TIERALLOC_MAX_ORDER < 32, "an order has a bit in `orders`");

TIERALLOC_API void tier_buddy_init(struct tier_buddy *buddy,
                                   const struct tier_pagemap *map)
{
    tier_pagemap_share_(&buddy->map, map);
    buddy->orders = 0;
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        buddy->lists[order].head = TIER_PAGE_NIL;
        buddy->lists[order].blocks = 0;
    }
    buddy->managed_pages = 0;
    buddy->free_pages = 0;
    buddy->least_free_pages = 0;
    buddy->failed_allocs = 0;
    buddy->refused_allocs = 0;
    buddy->refused_frees = 0;
}

/* Pages in a block of an order. */
TIER_INLINE_ size_t tier_order_pages_(unsigned order)
{
    return (size_t)1 << order;
}

/* True when blocks of the next order exist. */
TIER_INLINE_ bool tier_order_can_grow_(unsigned order)
{
#if TIERALLOC_MAX_ORDER > 0
    return order < TIERALLOC_MAX_ORDER;
#else
    (void)order; /* nothing is below 0, as the compiler would point out */
    return false;
#endif
}

/* Order of the block, free or not, that has its head at `index`. */
TIER_INLINE_ unsigned tier_buddy_order_of_(const struct tier_buddy *buddy,
                                           size_t index)
{
    return buddy->map.kind[index] & TIER_ORDER_MASK;
}

/* Index of the other half of the block of the next order; may be outside. */
TIER_INLINE_ size_t tier_buddy_other_(const struct tier_buddy *buddy,
                                      size_t index, unsigned order)
{
    size_t skew = buddy->map.skew;

    return ((index + skew) ^ tier_order_pages_(order)) - skew;
}

/* Put a block on the list of its order. */
TIER_INLINE_ void tier_buddy_link_(struct tier_buddy *buddy, size_t index,
                                   unsigned order)
{
    union tier_page_entry *entry = buddy->map.entry;
    struct tier_buddy_list *list = &buddy->lists[order];
    size_t next = tier_load_index_(&list->head);

    entry[index].link.next = (uint32_t)next;
    entry[index].link.prev = TIER_PAGE_NIL;
    list->head = (uint32_t)index;
    list->blocks++;
    if (next != TIER_PAGE_NIL) {
        entry[next].link.prev = (uint32_t)index;
    } else {
        buddy->orders |= (uint32_t)1 << order;
    }
    buddy->map.kind[index] = (uint8_t)(TIER_KIND_FREE | order);
}

/* Take a block off a list, wherever in it; true when the list is then empty. */
TIER_INLINE_ bool tier_buddy_cut_(union tier_page_entry *entry,
                                  struct tier_buddy_list *list, size_t index)
{
    size_t next = tier_load_index_(&entry[index].link.next);
    size_t prev = tier_load_index_(&entry[index].link.prev);

    list->blocks--;
    if (next != TIER_PAGE_NIL) {
        entry[next].link.prev = (uint32_t)prev;
    }
    if (prev != TIER_PAGE_NIL) {
        entry[prev].link.next = (uint32_t)next;
        return false;
    }
    list->head = (uint32_t)next;
    return next == TIER_PAGE_NIL;
}

/* Take a block off the list of its order; its kind stays. */
TIER_INLINE_ void tier_buddy_unlink_(struct tier_buddy *buddy, size_t index,
                                     unsigned order)
{
    if (tier_buddy_cut_(buddy->map.entry, &buddy->lists[order], index)) {
        buddy->orders &= ~((uint32_t)1 << order);
    }
}

/* True when the block at `index`, if it is one, is free and of this order. */
TIER_INLINE_ bool tier_buddy_is_free_(const struct tier_buddy *buddy,
                                      size_t index, unsigned order)
{
    return index < buddy->map.pages &&
           tier_kind_load_(&buddy->map.kind[index]) == (TIER_KIND_FREE | order);
}

/*
 * Join a block with its buddy as often as that is free, then link it.
 *
 * The index runs from the begin of a largest block, so that a bit of it tells
 * the halves apart; the arrays begin `skew` later.
 */
TIER_NOINLINE_ static void tier_buddy_coalesce_(struct tier_buddy *buddy,
                                                size_t index, unsigned order)
{
    uint8_t *kind = buddy->map.kind; /* in locals: stores of kinds alias all */
    union tier_page_entry *entry = buddy->map.entry;
    const size_t skew = buddy->map.skew;
    const size_t pages = buddy->map.pages;
    size_t orders = buddy->orders;
    size_t aligned = index + skew;
    size_t half = tier_order_pages_(order); /* its bit in `orders`, too */

    kind[index] = TIER_KIND_NONE;
    for (; tier_order_can_grow_(order); order++, half += half) {
        size_t other = (aligned ^ half) - skew;

        if (other >= pages ||
            tier_kind_load_(&kind[other]) != (TIER_KIND_FREE | order)) {
            break;
        }
        kind[other] = TIER_KIND_NONE;
        aligned &= ~half;
        if (tier_buddy_cut_(entry, &buddy->lists[order], other)) {
            orders &= ~half;
        }
    }
    buddy->orders = (uint32_t)orders;
    tier_buddy_link_(buddy, aligned - skew, order);
}

/* Make the pages of a block, which was in use, free. */
TIER_INLINE_ void tier_buddy_put_(struct tier_buddy *buddy, size_t index,
                                  unsigned order)
{
    buddy->free_pages += tier_order_pages_(order);
    if (tier_order_can_grow_(order) &&
        tier_buddy_is_free_(buddy, tier_buddy_other_(buddy, index, order),
                            order)) {
        tier_buddy_coalesce_(buddy, index, order);
    } else {
        tier_buddy_link_(buddy, index, order);
    }
}

/* Order of the largest block, from `order` on, that fits at the begin. */
TIER_INLINE_ unsigned tier_buddy_fit_(const struct tier_buddy *buddy,
                                      size_t begin, size_t end, unsigned order)
{
    while (tier_order_can_grow_(order) &&
           ((begin + buddy->map.skew) & tier_order_pages_(order)) == 0 &&
           end - begin >= tier_order_pages_(order + 1)) {
        order++;
    }
    return order;
}

/*
 * Make the pages [from, to) free, in as few blocks as they allow. The lowest is
 * linked last and so handed out first: what is left of one block then lies
 * beside the next.
 */
static void tier_buddy_release_(struct tier_buddy *buddy, size_t from,
                                size_t to)
{
    while (from < to) {
        unsigned order = 0;

        while (tier_order_can_grow_(order) &&
               ((to + buddy->map.skew) & tier_order_pages_(order)) == 0 &&
               to - from >= tier_order_pages_(order + 1)) {
            order++;
        }
        to -= tier_order_pages_(order);
        tier_buddy_coalesce_(buddy, to, order);
    }
}

/*
 * Index of the head whose block, free or allocated, covers the page `index`;
 * TIER_PAGE_NIL when none does. O(TIERALLOC_MAX_ORDER).
 */
static size_t tier_buddy_head_(const struct tier_buddy *buddy, size_t index)
{
    const size_t skew = buddy->map.skew;

    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        size_t before = (index + skew) & (tier_order_pages_(order) - 1);

        if (before > index) {
            break; /* such a block would begin before the span */
        }
        unsigned kind = buddy->map.kind[index - before];

        if (((kind & TIER_KIND_MASK) == TIER_KIND_FREE ||
             (kind & TIER_KIND_MASK) == TIER_KIND_BLOCK) &&
            (kind & TIER_ORDER_MASK) >= order) {
            return index - before;
        }
    }
    return TIER_PAGE_NIL;
}

/* Indexes of a range of pages; false when it leaves the span. */
static bool tier_buddy_range_(const struct tier_buddy *buddy,
                              const struct tier_page_range_ *range,
                              size_t *begin, size_t *end)
{
    *begin = range->begin - buddy->map.first;
    *end = *begin + (range->end - range->begin);
    return *begin < buddy->map.pages && *end <= buddy->map.pages;
}

TIERALLOC_API enum tier_status tier_buddy_add(struct tier_buddy *buddy,
                                              void *base, size_t bytes)
{
    struct tier_page_range_ range;
    size_t begin;
    size_t end;
    enum tier_status status = tier_page_range_((uintptr_t)base, bytes, &range);

    if (status != TIER_OK) {
        return status;
    }
    if (!tier_buddy_range_(buddy, &range, &begin, &end)) {
        return TIER_ERR_FOREIGN;
    }
    if (tier_pagemap_lies_in_(&buddy->map, &range) ||
        tier_pagemap_held_(&buddy->map, begin) ||
        tier_find_nonzero_(buddy->map.kind, begin, end) != end) {
        return TIER_ERR_OVERLAP;
    }
    tier_buddy_release_(buddy, begin, end);
    buddy->managed_pages += end - begin;
    buddy->free_pages += end - begin;
    buddy->least_free_pages = buddy->free_pages;
    return TIER_OK;
}

/* First page after the free block that covers `index`; NIL when not free. */
static size_t tier_buddy_free_end_(const struct tier_buddy *buddy, size_t index)
{
    size_t head = tier_buddy_head_(buddy, index);

    if (head == TIER_PAGE_NIL ||
        (buddy->map.kind[head] & TIER_KIND_MASK) != TIER_KIND_FREE) {
        return TIER_PAGE_NIL;
    }
    return head + tier_order_pages_(tier_buddy_order_of_(buddy, head));
}

/* Unlink the free block that covers `index` and forget it; give its bounds. */
static void tier_buddy_detach_(struct tier_buddy *buddy, size_t index,
                               size_t *begin, size_t *end)
{
    size_t head = tier_buddy_head_(buddy, index);
    unsigned order = tier_buddy_order_of_(buddy, head);

    tier_buddy_unlink_(buddy, head, order);
    buddy->map.kind[head] = TIER_KIND_NONE;
    *begin = head;
    *end = head + tier_order_pages_(order);
}

TIERALLOC_API enum tier_status tier_buddy_remove(struct tier_buddy *buddy,
                                                 void *base, size_t bytes)
{
    struct tier_page_range_ range;
    size_t begin;
    size_t end;
    enum tier_status status = tier_page_cover_((uintptr_t)base, bytes, &range);

    if (status != TIER_OK) {
        return status;
    }
    if (!tier_buddy_range_(buddy, &range, &begin, &end)) {
        return TIER_ERR_FOREIGN;
    }
    for (size_t at = begin; at < end; at = tier_buddy_free_end_(buddy, at)) {
        if (tier_buddy_free_end_(buddy, at) == TIER_PAGE_NIL) {
            return TIER_ERR_IN_USE;
        }
    }
    for (size_t at = begin; at < end;) {
        size_t block;
        size_t behind;

        tier_buddy_detach_(buddy, at, &block, &behind);
        if (block < begin) {
            tier_buddy_release_(buddy, block, begin);
        }
        if (behind > end) {
            tier_buddy_release_(buddy, end, behind);
        }
        at = behind;
    }
    buddy->managed_pages -= end - begin;
    buddy->free_pages -= end - begin;
    buddy->least_free_pages = buddy->free_pages;
    return TIER_OK;
}

/* Account for pages that leave the free lists to be used. */
TIER_INLINE_ void tier_buddy_took_(struct tier_buddy *buddy, size_t pages)
{
    buddy->free_pages -= pages;
    if (buddy->free_pages < buddy->least_free_pages) {
        buddy->least_free_pages = buddy->free_pages;
    }
}

/* Make an unlinked block an allocated one. */
TIER_INLINE_ void *tier_buddy_hand_out_(struct tier_buddy *buddy, size_t index,
                                        unsigned order)
{
    buddy->map.entry[index].owner = 0;
    tier_buddy_took_(buddy, tier_order_pages_(order));
    buddy->map.kind[index] = (uint8_t)(TIER_KIND_BLOCK | order);
    return tier_pagemap_address_(&buddy->map, index);
}

/* Take the first block off the list of an order, which is not empty. */
TIER_INLINE_ void tier_buddy_pop_(struct tier_buddy *buddy, unsigned order)
{
    struct tier_buddy_list *list = &buddy->lists[order];
    union tier_page_entry *entry = buddy->map.entry;
    size_t next = tier_load_index_(&entry[list->head].link.next);

    list->head = (uint32_t)next;
    list->blocks--;
    if (next != TIER_PAGE_NIL) {
        entry[next].link.prev = TIER_PAGE_NIL;
    } else {
        buddy->orders &= ~((uint32_t)1 << order);
    }
}

/* Unlink a block of an order, split from a larger one if need be. One is free. */
TIER_INLINE_ size_t tier_buddy_take_(struct tier_buddy *buddy, unsigned order)
{
    uint32_t fitting = buddy->orders >> order;
    unsigned from = order;

    if ((fitting & 1) == 0) {
        from += tier_ctz32_(fitting);
    }
    size_t index = buddy->lists[from].head;

    tier_buddy_pop_(buddy, from);
    while (from > order) {
        from--;
        tier_buddy_link_(buddy, index + tier_order_pages_(from), from);
    }
    return index;
}

/* Take a block for a tier that marks its pages itself. One is free. */
TIER_INLINE_ size_t tier_buddy_lend_(struct tier_buddy *buddy, unsigned order)
{
    size_t index = tier_buddy_take_(buddy, order);

    tier_buddy_took_(buddy, tier_order_pages_(order));
    buddy->map.kind[index] = TIER_KIND_NONE;
    return index;
}

TIERALLOC_API void *tier_buddy_alloc(struct tier_buddy *buddy, unsigned order)
{
    if (TIER_UNLIKELY_(order > TIERALLOC_MAX_ORDER)) {
        buddy->refused_allocs++;
        return NULL;
    }
    if (TIER_UNLIKELY_(buddy->orders >> order == 0)) {
        buddy->failed_allocs++;
        return NULL;
    }
    return tier_buddy_hand_out_(buddy, tier_buddy_take_(buddy, order), order);
}

/* First page from `index` on at which a block of an order may begin. */
TIER_INLINE_ size_t tier_buddy_align_(const struct tier_buddy *buddy,
                                      size_t index, unsigned order)
{
    size_t mask = tier_order_pages_(order) - 1;

    return ((index + buddy->map.skew + mask) & ~mask) - buddy->map.skew;
}

/* Take the block at `index` out of the free block at `head` that holds it. */
static void *tier_buddy_take_at_(struct tier_buddy *buddy, size_t head,
                                 size_t index, unsigned order)
{
    unsigned from = tier_buddy_order_of_(buddy, head);

    tier_buddy_unlink_(buddy, head, from);
    buddy->map.kind[head] = TIER_KIND_NONE;
    while (from > order) {
        /* Keep the half with the wanted block; the other one stays free. */
        from--;
        size_t upper = head + tier_order_pages_(from);

        if (index >= upper) {
            tier_buddy_link_(buddy, head, from);
            head = upper;
        } else {
            tier_buddy_link_(buddy, upper, from);
        }
    }
    return tier_buddy_hand_out_(buddy, index, order);
}

TIERALLOC_API enum tier_status tier_buddy_alloc_at(struct tier_buddy *buddy,
                                                   void *block, unsigned order)
{
    size_t index = tier_pagemap_index_(&buddy->map, block);

    if (order > TIERALLOC_MAX_ORDER) {
        buddy->refused_allocs++;
        return TIER_ERR_TOO_LARGE;
    }
    if (index >= buddy->map.pages) {
        buddy->refused_allocs++;
        return TIER_ERR_FOREIGN;
    }
    if (!tier_is_aligned_((uintptr_t)block, TIER_PAGE_SIZE << order)) {
        buddy->refused_allocs++;
        return TIER_ERR_MISALIGNED;
    }
    size_t end = tier_buddy_free_end_(buddy, index);

    if (end == TIER_PAGE_NIL || end - index < tier_order_pages_(order)) {
        buddy->failed_allocs++;
        return TIER_ERR_IN_USE;
    }
    (void)tier_buddy_take_at_(buddy, tier_buddy_head_(buddy, index), index,
                              order);
    return TIER_OK;
}

/*
 * Find a free block that holds an aligned one of an order within [begin, end):
 * its head, or TIER_PAGE_NIL, and the wanted block in *index. O(free blocks).
 */
static size_t tier_buddy_find_within_(const struct tier_buddy *buddy,
                                      unsigned order, size_t begin, size_t end,
                                      size_t *index)
{
    for (unsigned from = order; from <= TIERALLOC_MAX_ORDER; from++) {
        for (size_t head = buddy->lists[from].head; head != TIER_PAGE_NIL;
             head = buddy->map.entry[head].link.next) {
            size_t last = head + tier_order_pages_(from);
            size_t at =
                tier_buddy_align_(buddy, head > begin ? head : begin, order);

            if (at + tier_order_pages_(order) <= (last < end ? last : end)) {
                *index = at;
                return head;
            }
        }
    }
    return TIER_PAGE_NIL;
}

/* Clip a range of page numbers to the map; false when nothing is left. */
static bool tier_buddy_clip_(const struct tier_buddy *buddy,
                             const struct tier_page_range_ *range,
                             size_t *begin, size_t *end)
{
    uintptr_t first = buddy->map.first;
    uintptr_t last = first + buddy->map.pages;

    if (range->end <= first || range->begin >= last) {
        return false;
    }
    *begin = range->begin > first ? range->begin - first : 0;
    *end = (range->end < last ? range->end : last) - first;
    return true;
}

TIERALLOC_API enum tier_status tier_buddy_alloc_within(struct tier_buddy *buddy,
                                                       unsigned order,
                                                       uintptr_t base,
                                                       size_t bytes, void **out)
{
    struct tier_page_range_ range;
    size_t begin;
    size_t end;
    size_t index;
    size_t head = TIER_PAGE_NIL;
    enum tier_status status = tier_page_range_(base, bytes, &range);

    *out = NULL;
    if (order > TIERALLOC_MAX_ORDER || status == TIER_ERR_OVERFLOW ||
        bytes == 0) {
        buddy->refused_allocs++;
        return order > TIERALLOC_MAX_ORDER ? TIER_ERR_TOO_LARGE : status;
    }
    if (status == TIER_OK && tier_buddy_clip_(buddy, &range, &begin, &end)) {
        head = tier_buddy_find_within_(buddy, order, begin, end, &index);
    }
    if (head == TIER_PAGE_NIL) {
        buddy->failed_allocs++;
        return TIER_ERR_NO_MEMORY;
    }
    *out = tier_buddy_take_at_(buddy, head, index, order);
    return TIER_OK;
}

/* True when the free blocks of an order and above make `count` of the order. */
static bool tier_buddy_has_(const struct tier_buddy *buddy, unsigned order,
                            size_t count)
{
    size_t blocks = 0;

    for (unsigned k = order; k <= TIERALLOC_MAX_ORDER; k++) {
        blocks += (size_t)buddy->lists[k].blocks << (k - order);
    }
    return blocks >= count;
}

TIERALLOC_API enum tier_status tier_buddy_alloc_bulk(struct tier_buddy *buddy,
                                                     unsigned order,
                                                     size_t count,
                                                     void **blocks)
{
    if (order > TIERALLOC_MAX_ORDER) {
        buddy->refused_allocs++;
        return TIER_ERR_TOO_LARGE;
    }
    if (!tier_buddy_has_(buddy, order, count)) {
        buddy->failed_allocs++;
        return TIER_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        blocks[i] = tier_buddy_alloc(buddy, order);
    }
    return TIER_OK;
}

/* Why a pointer is not the start of an allocated block. Cold. */
TIER_NOINLINE_ static enum tier_status tier_buddy_explain_(
    const struct tier_buddy *buddy, const void *block)
{
    uintptr_t index = tier_pagemap_index_(&buddy->map, block);

    if (index >= buddy->map.pages) {
        return TIER_ERR_FOREIGN;
    }
    if (buddy->map.kind[index] == TIER_KIND_CACHED) {
        return TIER_ERR_DOUBLE_FREE;
    }
    size_t head = tier_buddy_head_(buddy, index);

    if (head == TIER_PAGE_NIL) {
        return TIER_ERR_FOREIGN;
    }
    if ((buddy->map.kind[head] & TIER_KIND_MASK) == TIER_KIND_FREE) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if (!tier_is_aligned_((uintptr_t)block, TIER_PAGE_SIZE)) {
        return TIER_ERR_MISALIGNED;
    }
    return TIER_ERR_INTERIOR;
}

/* True for the start of an allocated block. */
TIER_INLINE_ bool tier_buddy_is_block_(const struct tier_buddy *buddy,
                                       const void *block)
{
    unsigned kind = tier_pagemap_kind_(&buddy->map, block);

    return (kind & TIER_KIND_MASK) == TIER_KIND_BLOCK &&
           tier_is_aligned_((uintptr_t)block, TIER_PAGE_SIZE);
}

TIERALLOC_API enum tier_status tier_buddy_free(struct tier_buddy *buddy,
                                               void *block)
{
#if TIERALLOC_CHECKS
    if (TIER_UNLIKELY_(!tier_buddy_is_block_(buddy, block))) {
        if (block == NULL) {
            return TIER_OK;
        }
        buddy->refused_frees++;
        return tier_buddy_explain_(buddy, block);
    }
#else
    if (block == NULL) {
        return TIER_OK;
    }
#endif
    size_t index = tier_pagemap_index_(&buddy->map, block);
    unsigned order = tier_buddy_order_of_(buddy, index);

    tier_buddy_put_(buddy, index, order);
    return TIER_OK;
}

/* Turn the kinds of `count` blocks from one with an order to another. */
static void tier_buddy_mark_(struct tier_buddy *buddy, size_t count,
                             void *const *blocks, unsigned kind)
{
    for (size_t i = 0; i < count; i++) {
        size_t index = tier_pagemap_index_(&buddy->map, blocks[i]);
        unsigned order = tier_buddy_order_of_(buddy, index);

        buddy->map.kind[index] = (uint8_t)(kind | order);
    }
}

TIERALLOC_API enum tier_status tier_buddy_free_bulk(struct tier_buddy *buddy,
                                                    size_t count,
                                                    void *const *blocks)
{
    /* Marked as it is checked, a block named twice is found the second time. */
    for (size_t i = 0; i < count; i++) {
        if (!tier_buddy_is_block_(buddy, blocks[i])) {
            unsigned kind = tier_pagemap_kind_(&buddy->map, blocks[i]);
            bool twice = (kind & TIER_KIND_MASK) == TIER_KIND_LEAVING &&
                         tier_is_aligned_((uintptr_t)blocks[i], TIER_PAGE_SIZE);

            tier_buddy_mark_(buddy, i, blocks, TIER_KIND_BLOCK);
            buddy->refused_frees++;
            return twice ? TIER_ERR_DOUBLE_FREE
                         : tier_buddy_explain_(buddy, blocks[i]);
        }
        tier_buddy_mark_(buddy, 1, &blocks[i], TIER_KIND_LEAVING);
    }
    for (size_t i = 0; i < count; i++) {
        size_t index = tier_pagemap_index_(&buddy->map, blocks[i]);

        tier_buddy_put_(buddy, index, tier_buddy_order_of_(buddy, index));
    }
    return TIER_OK;
}

/* True when the pages by which a block would grow are free buddies behind it. */
static bool tier_buddy_can_grow_(const struct tier_buddy *buddy, size_t index,
                                 unsigned from, unsigned to)
{
    if (tier_buddy_align_(buddy, index, to) != index) {
        return false;
    }
    for (; from < to; from++) {
        if (!tier_buddy_is_free_(buddy, index + tier_order_pages_(from),
                                 from)) {
            return false;
        }
    }
    return true;
}

TIERALLOC_API enum tier_status tier_buddy_resize(struct tier_buddy *buddy,
                                                 void *block, unsigned order)
{
    if (!tier_buddy_is_block_(buddy, block)) {
        buddy->refused_frees++;
        return tier_buddy_explain_(buddy, block);
    }
    if (order > TIERALLOC_MAX_ORDER) {
        buddy->refused_allocs++;
        return TIER_ERR_TOO_LARGE;
    }
    size_t index = tier_pagemap_index_(&buddy->map, block);
    unsigned from = tier_buddy_order_of_(buddy, index);

    if (from < order && !tier_buddy_can_grow_(buddy, index, from, order)) {
        buddy->failed_allocs++;
        return TIER_ERR_IN_USE;
    }
    buddy->map.kind[index] = (uint8_t)(TIER_KIND_BLOCK | order);
    for (; from < order; from++) {
        size_t behind = index + tier_order_pages_(from);

        tier_buddy_unlink_(buddy, behind, from);
        buddy->map.kind[behind] = TIER_KIND_NONE;
        tier_buddy_took_(buddy, tier_order_pages_(from));
    }
    while (from > order) {
        from--;
        tier_buddy_link_(buddy, index + tier_order_pages_(from), from);
        buddy->free_pages += tier_order_pages_(from);
    }
    return TIER_OK;
}

/* --- A source of pages --- */

static void *tier_buddy_acquire_(void *context, size_t pages)
{
    struct tier_buddy *buddy = (struct tier_buddy *)context;
    unsigned order = 0;

    while (tier_order_can_grow_(order) && tier_order_pages_(order) < pages) {
        order++;
    }
    if (tier_order_pages_(order) < pages || pages == 0) {
        buddy->refused_allocs++;
        return NULL;
    }
    if (buddy->orders >> order == 0) {
        buddy->failed_allocs++;
        return NULL;
    }
    size_t index = tier_buddy_take_(buddy, order);

    buddy->map.kind[index] = TIER_KIND_NONE;
    tier_buddy_release_(buddy, index + pages, index + tier_order_pages_(order));
    tier_buddy_took_(buddy, pages);
    return tier_pagemap_address_(&buddy->map, index);
}

static void tier_buddy_return_(void *context, void *memory, size_t pages)
{
    struct tier_buddy *buddy = (struct tier_buddy *)context;
    size_t index = tier_pagemap_index_(&buddy->map, memory);

    buddy->free_pages += pages;
    tier_buddy_release_(buddy, index, index + pages);
}

TIERALLOC_API void tier_buddy_source(struct tier_buddy *buddy,
                                     struct tier_page_source *source)
{
    source->acquire = tier_buddy_acquire_;
    source->release = tier_buddy_return_;
    source->context = buddy;
}

/* --- Inspection --- */

TIERALLOC_API enum tier_status tier_buddy_set_owner(struct tier_buddy *buddy,
                                                    void *block,
                                                    uintptr_t owner)
{
    if (!tier_buddy_is_block_(buddy, block)) {
        return tier_buddy_explain_(buddy, block);
    }
    buddy->map.entry[tier_pagemap_index_(&buddy->map, block)].owner = owner;
    return TIER_OK;
}

TIERALLOC_API uintptr_t tier_buddy_owner(const struct tier_buddy *buddy,
                                         const void *block)
{
    if (!tier_buddy_is_block_(buddy, block)) {
        return 0;
    }
    return buddy->map.entry[tier_pagemap_index_(&buddy->map, block)].owner;
}

TIERALLOC_API int tier_buddy_order(const struct tier_buddy *buddy,
                                   const void *block)
{
    if (!tier_buddy_is_block_(buddy, block)) {
        return -1;
    }
    return (int)tier_buddy_order_of_(buddy,
                                     tier_pagemap_index_(&buddy->map, block));
}

TIERALLOC_API void tier_buddy_stats(const struct tier_buddy *buddy,
                                    struct tier_buddy_stats *stats)
{
    stats->managed_pages = buddy->managed_pages;
    stats->free_pages = buddy->free_pages;
    stats->peak_used_pages = buddy->managed_pages - buddy->least_free_pages;
    stats->largest_free_order = tier_highest_bit_(buddy->orders);
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        stats->free_blocks[order] = buddy->lists[order].blocks;
        TIER_OPAQUE_(order);
    }
    stats->failed_allocs = buddy->failed_allocs;
    stats->refused_allocs = buddy->refused_allocs;
    stats->refused_frees = buddy->refused_frees;
}

TIERALLOC_API void tier_buddy_dump(const struct tier_buddy *buddy, tier_put put,
                                   void *context)
{
    struct tier_writer_ to;

    to.put = put;
    to.context = context;
    tier_write_(&to, "free blocks by order:");
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        tier_write_(&to, " ");
        tier_write_number_(&to, buddy->lists[order].blocks, 0);
    }
    tier_write_(&to, "\n");
}

/* number * 1000 / whole without overflow; `number` is at most `whole`. */
static unsigned tier_permille_(size_t number, size_t whole)
{
    while (number > SIZE_MAX / 1000) {
        number /= 2;
        whole /= 2;
    }
    return whole == 0 ? 0 : (unsigned)(number * 1000 / whole);
}

TIERALLOC_API unsigned tier_buddy_unusable(const struct tier_buddy *buddy,
                                           unsigned order)
{
    size_t unusable = 0;

    for (unsigned k = 0; k < order && k <= TIERALLOC_MAX_ORDER; k++) {
        unusable += (size_t)buddy->lists[k].blocks << k;
    }
    return tier_permille_(unusable, buddy->free_pages);
}

TIERALLOC_API int tier_buddy_fragmentation(const struct tier_buddy *buddy,
                                           unsigned order)
{
    size_t blocks = 0;

    if (order <= TIERALLOC_MAX_ORDER && buddy->orders >> order != 0) {
        return -1000;
    }
    for (unsigned k = 0; k <= TIERALLOC_MAX_ORDER; k++) {
        blocks += buddy->lists[k].blocks;
    }
    if (blocks == 0 || order > TIERALLOC_MAX_ORDER) {
        return 0;
    }
    /* 1000 - (1000 + 1000 * free / requested) / blocks, not below 0 */
    size_t whole = (buddy->free_pages >> order) * 1000;
    size_t part = buddy->free_pages & (tier_order_pages_(order) - 1);
    size_t share = (1000 + whole + (part * 1000 >> order)) / blocks;

    return share > 1000 ? 0 : 1000 - (int)share;
}

/* True when the block at `index` is whole: aligned, in the span, one head. */
static bool tier_buddy_check_block_(const struct tier_buddy *buddy,
                                    size_t index)
{
    unsigned order = tier_buddy_order_of_(buddy, index);

    if (order > TIERALLOC_MAX_ORDER) {
        return false;
    }
    size_t end = index + tier_order_pages_(order);

    return ((index + buddy->map.skew) & (tier_order_pages_(order) - 1)) == 0 &&
           end <= buddy->map.pages &&
           tier_find_nonzero_(buddy->map.kind, index + 1, end) == end;
}

/* True when the buddy of a free block is not free too. */
static bool tier_buddy_check_alone_(const struct tier_buddy *buddy,
                                    size_t index)
{
    unsigned order = tier_buddy_order_of_(buddy, index);

    return order == TIERALLOC_MAX_ORDER ||
           !tier_buddy_is_free_(buddy, tier_buddy_other_(buddy, index, order),
                                order);
}

/* True when the list of an order is linked both ways and as long as counted. */
static bool tier_buddy_check_list_(const struct tier_buddy *buddy,
                                   unsigned order)
{
    const struct tier_buddy_list *list = &buddy->lists[order];
    uint32_t length = 0;
    uint32_t prev = TIER_PAGE_NIL;

    for (uint32_t at = list->head; at != TIER_PAGE_NIL;
         at = buddy->map.entry[at].link.next) {
        if (length++ == list->blocks ||
            !tier_buddy_is_free_(buddy, at, order) ||
            buddy->map.entry[at].link.prev != prev) {
            return false;
        }
        prev = at;
    }
    return length == list->blocks &&
           (length != 0) == ((buddy->orders >> order & 1) != 0);
}

/* True when every list is right; counts the pages of their blocks. */
static bool tier_buddy_check_lists_(const struct tier_buddy *buddy,
                                    size_t *listed_pages)
{
    *listed_pages = 0;
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        if (!tier_buddy_check_list_(buddy, order)) {
            return false;
        }
        *listed_pages += (size_t)buddy->lists[order].blocks << order;
    }
    return (buddy->orders >> TIERALLOC_MAX_ORDER >> 1) == 0;
}

TIERALLOC_API bool tier_buddy_check(const struct tier_buddy *buddy)
{
    const struct tier_pagemap *map = &buddy->map;
    size_t free_pages = 0;
    size_t held_pages = 0;
    size_t listed_pages;
    size_t at = 0;

    while ((at = tier_find_nonzero_(map->kind, at, map->pages)) < map->pages) {
        unsigned kind = map->kind[at] & TIER_KIND_MASK;
        size_t pages = tier_pagemap_extent_(map, at);

        if (pages == 0 || pages > map->pages - at ||
            ((kind == TIER_KIND_FREE || kind == TIER_KIND_BLOCK) &&
             !tier_buddy_check_block_(buddy, at))) {
            return false;
        }
        if (kind == TIER_KIND_FREE) {
            if (!tier_buddy_check_alone_(buddy, at)) {
                return false;
            }
            free_pages += pages;
        }
        held_pages += pages;
        at += pages;
    }
    return tier_buddy_check_lists_(buddy, &listed_pages) &&
           free_pages == buddy->free_pages && listed_pages == free_pages &&
           held_pages == buddy->managed_pages &&
           buddy->least_free_pages <= buddy->free_pages;
}

#endif /* TIERALLOC_BUDDY_IMPLEMENTED */
