/*
 * tieralloc/runs.h - runs of any number of pages, packed tight.
 *
 * SPDX-License-Identifier: MIT
 *
 * A buddy wastes a quarter of memory on sizes that are no powers of two. Runs
 * are cut to the page from blocks that a buddy lends, with boundary tags
 * (Knuth, The Art of Computer Programming, vol. 1, section 2.5, algorithm C)
 * in the map entries of the lent pages, which the buddy does not use:
 *
 *     free run of n pages   | links of its bin |  n  |  ...  |  n  |
 *     used run of n pages   |      owner       |  n  |  ...  |     |
 *
 * Bins are exact up to 32 pages, eight per doubling above; one mask tells
 * which are not empty. Free neighbours join at once, whichever blocks they
 * were lent in; a free run that holds a whole aligned block of the order in
 * which memory is lent gives that block back at once.
 *
 * Allocating and freeing are O(1) plus at most one buddy call, but for the
 * search before a block is borrowed; the struct takes about 500 bytes.
 * Every free is checked. No function locks.
 */
#ifndef TIERALLOC_RUNS_H
#define TIERALLOC_RUNS_H

#include "buddy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Most pages in a used run. */
#define TIER_RUN_MAX ((size_t)1 << TIERALLOC_MAX_ORDER)

/*
 * Bins: one per length up to 32, then eight per doubling. A free run holds no
 * whole block, and so is shorter than two of the largest.
 */
#define TIER_RUN_BINS \
    (32 + (TIERALLOC_MAX_ORDER < 5 ? 1 : TIERALLOC_MAX_ORDER - 4) * 8)

/* Words of the mask of bins. */
#define TIER_RUN_WORDS ((TIER_RUN_BINS + 31) / 32)

/* A tier of runs. The caller owns the storage; the fields are private. */
struct tier_runs {
    struct tier_pagemap map; /* the caller's map, by value: one load less */
    struct tier_buddy *buddy;
    unsigned lend_order; /* order in which memory is lent and given back */
    uint32_t mask[TIER_RUN_WORDS]; /* bit b: bin b has a run */
    uint32_t bins[TIER_RUN_BINS];  /* index of the first run of each */
    size_t held_pages;             /* lent by the buddy */
    size_t free_pages;             /* of these, in no used run */
    size_t source_pages;           /* of these, given by tier_runs_source */
    size_t used_runs;              /* runs in use */
    size_t failed_allocs;          /* no free run and no block was enough */
    size_t refused_allocs;         /* an argument was outside its range */
    size_t refused_frees;          /* bad pointers and double frees */
};

/* A snapshot of the counters. */
struct tier_runs_stats {
    size_t held_pages;         /* lent by the buddy */
    size_t free_pages;         /* of these, free */
    size_t source_pages;       /* of these, given by tier_runs_source */
    size_t used_runs;          /* runs in use, without those */
    size_t free_runs;          /* free runs */
    size_t largest_free_pages; /* in the longest free run */
    size_t failed_allocs;      /* out of memory */
    size_t refused_allocs;     /* invalid arguments */
    size_t refused_frees;      /* invalid frees */
};

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Make *runs a tier of runs over blocks of *buddy, holding nothing yet.
 *
 * Memory is lent in blocks of 2^lend_order pages, or smaller ones when there
 * are none. Both structs must not move afterwards; a buddy lends to one tier of
 * runs only, since the map does not say whose run a page is of. O(bins).
 *
 * A lend_order of TIERALLOC_MAX_ORDER packs best; one below the longest common
 * run packs no better than buddies.
 *
 * Returns TIER_OK, or TIER_ERR_INVALID with *runs untouched when lend_order
 * exceeds TIERALLOC_MAX_ORDER.
 */
TIERALLOC_API enum tier_status tier_runs_init(struct tier_runs *runs,
                                              struct tier_buddy *buddy,
                                              unsigned lend_order);

/*
 * Give every free page back to the buddy; returns how many pages that is.
 *
 * O(free runs * TIERALLOC_MAX_ORDER). Afterwards no free run is left.
 */
TIERALLOC_API size_t tier_runs_trim(struct tier_runs *runs);

/*
 * Borrow every free block of the buddy below the lend order, so that free
 * neighbours join into runs; returns how many pages that is.
 *
 * For when a run does not fit: what lies in several blocks, none of them large
 * enough, is one free run afterwards. With a lend_order of TIERALLOC_MAX_ORDER
 * any run of up to TIER_RUN_MAX pages can then be allocated for which there are
 * contiguous free pages. A whole block that comes about goes back at once, and
 * counts as borrowed too. O(free blocks).
 */
TIERALLOC_API size_t tier_runs_gather(struct tier_runs *runs);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate a run of `pages` contiguous pages; owner word 0.
 *
 * Aligned to a page. Contents are undefined. O(1); before memory is borrowed,
 * one bin is searched, the one that holds runs of about this length.
 *
 * Returns NULL when neither a free run nor a block of the buddy is long
 * enough, or when pages is 0 or exceeds TIER_RUN_MAX.
 */
TIERALLOC_API void *tier_runs_alloc(struct tier_runs *runs, size_t pages);

/*
 * Free a run; NULL is a no-op. O(1), and O(TIERALLOC_MAX_ORDER) when whole blocks
 * go back to the buddy.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_FOREIGN      not in a page of this tier's runs;
 *   TIER_ERR_DOUBLE_FREE  inside a free run, or a free block of the buddy;
 *   TIER_ERR_MISALIGNED   inside a used run, not at a page's start;
 *   TIER_ERR_INTERIOR     at a page's start inside one, not at the first.
 */
TIERALLOC_API enum tier_status tier_runs_free(struct tier_runs *runs,
                                              void *run);

/*
 * Make a used run `pages` pages long where it is.
 *
 * Shrinking always succeeds; growing takes the pages behind the run when they
 * are free, in the runs or in the buddy: free blocks are borrowed, and whole
 * ones that are not needed go back. Owner and contents are kept. O(1), and
 * O(TIERALLOC_MAX_ORDER) when whole blocks go back; O(free runs and blocks
 * behind) when the free run behind is not enough.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_INVALID    pages is 0;
 *   TIER_ERR_TOO_LARGE  pages exceeds TIER_RUN_MAX;
 *   TIER_ERR_IN_USE     a page behind is in use, or in no region;
 *   or what tier_runs_free returns for a wrong pointer.
 */
TIERALLOC_API enum tier_status tier_runs_resize(struct tier_runs *runs,
                                                void *run, size_t pages);

/*
 * Make *source give pages of this tier: runs of any length, without owner, that
 * only its release takes back. The struct must not move afterwards.
 */
TIERALLOC_API void tier_runs_source(struct tier_runs *runs,
                                    struct tier_page_source *source);

/* --- Inspection ----------------------------------------------------------- */

/*
 * Keep a word with a used run, to be found again by its address. O(1).
 *
 * Returns TIER_OK, or why `run` is not one, as tier_runs_free does
 * (TIER_ERR_FOREIGN for NULL).
 */
TIERALLOC_API enum tier_status tier_runs_set_owner(struct tier_runs *runs,
                                                   void *run, uintptr_t owner);

/* The word kept with a used run; 0 for anything else. O(1). */
TIERALLOC_API uintptr_t tier_runs_owner(const struct tier_runs *runs,
                                        const void *run);

/* Pages of a used run; 0 for anything else. O(1). */
TIERALLOC_API size_t tier_runs_pages(const struct tier_runs *runs,
                                     const void *run);

/* Copy the counters into *stats. O(free runs). */
TIERALLOC_API void tier_runs_stats(const struct tier_runs *runs,
                                   struct tier_runs_stats *stats);

/*
 * Write the counters, and the free runs by length up to 32 pages, as two lines
 * of text. O(free runs).
 */
TIERALLOC_API void tier_runs_dump(const struct tier_runs *runs, tier_put put,
                                  void *context);

/*
 * True when every invariant holds: both tags of each free run agree, no two
 * free runs touch, none holds a whole block to give back, the bins and the
 * free runs are the same set linked both ways, and the counters equal what is
 * counted. An owner word is the caller's and is not checked.
 *
 * O(pages of the span), whatever the corruption; for tests and debugging.
 */
TIERALLOC_API bool tier_runs_check(const struct tier_runs *runs);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_RUNS_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_RUNS_IMPLEMENTED)
#define TIERALLOC_RUNS_IMPLEMENTED

#include "internal.h"
#include "text.h"

TIERALLOC_API enum tier_status tier_runs_init(struct tier_runs *runs,
                                              struct tier_buddy *buddy,
                                              unsigned lend_order)
{
    if (lend_order > TIERALLOC_MAX_ORDER) {
        return TIER_ERR_INVALID;
    }
    tier_pagemap_share_(&runs->map, &buddy->map);
    runs->buddy = buddy;
    runs->lend_order = lend_order;
    for (unsigned word = 0; word < TIER_RUN_WORDS; word++) {
        runs->mask[word] = 0;
        TIER_OPAQUE_(word);
    }
    for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
        runs->bins[bin] = TIER_PAGE_NIL;
        TIER_OPAQUE_(bin);
    }
    runs->held_pages = 0;
    runs->free_pages = 0;
    runs->source_pages = 0;
    runs->used_runs = 0;
    runs->failed_allocs = 0;
    runs->refused_allocs = 0;
    runs->refused_frees = 0;
    return TIER_OK;
}

/* --- Bins --- */

/* Bin of a length from 32 to 255, by its quarter: eight per doubling. */
static const uint8_t tier_run_bin_table_[64] = {
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0, /* exact bins */
    32,
    33,
    34,
    35,
    36,
    37,
    38,
    39,
    TIER_R2_(40),
    TIER_R2_(41),
    TIER_R2_(42),
    TIER_R2_(43),
    TIER_R2_(44),
    TIER_R2_(45),
    TIER_R2_(46),
    TIER_R2_(47),
    TIER_R4_(48),
    TIER_R4_(49),
    TIER_R4_(50),
    TIER_R4_(51),
    TIER_R4_(52),
    TIER_R4_(53),
    TIER_R4_(54),
    TIER_R4_(55),
};

/* The bin that holds free runs of this length. */
TIER_INLINE_ size_t tier_run_bin_(size_t pages)
{
    size_t bin = 0;

    if (pages <= 32) {
        return pages - 1;
    }
    while (pages >= 256) {
        pages >>= 3; /* three doublings */
        bin += 24;
    }
    return bin + tier_run_bin_table_[pages >> 2];
}

/* The first bin whose every run has at least this length. */
TIER_INLINE_ size_t tier_run_bin_above_(size_t pages)
{
    return pages <= 33 ? pages - 1 : tier_run_bin_(pages - 1) + 1;
}

/* The first bin from `bin` on that has a run; TIER_RUN_BINS when none has. */
TIER_INLINE_ size_t tier_run_first_bin_(const struct tier_runs *runs,
                                        size_t bin)
{
    size_t word = bin / 32;
    uint32_t bits = runs->mask[word] >> bin % 32;

    if (TIER_LIKELY_(bits != 0)) {
        return bin + tier_ctz32_(bits);
    }
    while (++word < TIER_RUN_WORDS) {
        if (runs->mask[word] != 0) {
            return word * 32 + tier_ctz32_(runs->mask[word]);
        }
    }
    return TIER_RUN_BINS;
}

/* --- Free runs --- */

/* Length of the free run whose first page is at `index`. */
TIER_INLINE_ size_t tier_run_length_(const struct tier_runs *runs, size_t index)
{
    return runs->map.kind[index] == TIER_KIND_FREE_PAGE
               ? 1
               : tier_load_index_(&runs->map.entry[index + 1].length);
}

/* Write the tags of a free run and put it at the front of its bin. */
TIER_INLINE_ void tier_run_link_(struct tier_runs *runs, size_t index,
                                 size_t pages)
{
    union tier_page_entry *entry = &runs->map.entry[index];
    uint8_t *kind = &runs->map.kind[index];
    size_t bin = tier_run_bin_(pages);
    size_t next = tier_load_index_(&runs->bins[bin]);

    entry->link.next = (uint32_t)next;
    entry->link.prev = TIER_PAGE_NIL;
    if (next != TIER_PAGE_NIL) {
        runs->map.entry[next].link.prev = (uint32_t)index;
    }
    runs->bins[bin] = (uint32_t)index;
    runs->mask[bin / 32] |= (uint32_t)1 << bin % 32;
    if (pages == 1) {
        *kind = TIER_KIND_FREE_PAGE;
        return;
    }
    entry[1].length = (uint32_t)pages;
    entry[pages - 1].length = (uint32_t)pages;
    kind[0] = TIER_KIND_FREE_HEAD;
    kind[pages - 1] = TIER_KIND_FREE_TAIL;
}

/* Make `next` the first run of a bin. */
TIER_INLINE_ void tier_run_set_first_(struct tier_runs *runs, size_t bin,
                                      size_t next)
{
    runs->bins[bin] = (uint32_t)next;
    if (next == TIER_PAGE_NIL) {
        runs->mask[bin / 32] &= ~((uint32_t)1 << bin % 32);
    } else {
        runs->map.entry[next].link.prev = TIER_PAGE_NIL;
    }
}

/* Clear the tags of a free run that leaves its bin. */
TIER_INLINE_ void tier_run_untag_(struct tier_runs *runs, size_t index,
                                  size_t pages)
{
    runs->map.kind[index] = TIER_KIND_NONE;
    runs->map.kind[index + pages - 1] = TIER_KIND_NONE;
}

/* Take the first free run out of a bin. */
TIER_INLINE_ void tier_run_pop_(struct tier_runs *runs, size_t index,
                                size_t pages, size_t bin)
{
    tier_run_set_first_(runs, bin,
                        tier_load_index_(&runs->map.entry[index].link.next));
    tier_run_untag_(runs, index, pages);
}

/* Take a free run out of its bin, wherever in it. */
TIER_INLINE_ void tier_run_unlink_(struct tier_runs *runs, size_t index,
                                   size_t pages)
{
    union tier_page_entry *entry = runs->map.entry;
    size_t next = tier_load_index_(&entry[index].link.next);
    size_t prev = tier_load_index_(&entry[index].link.prev);

    if (prev == TIER_PAGE_NIL) {
        tier_run_set_first_(runs, tier_run_bin_(pages), next);
    } else {
        entry[prev].link.next = (uint32_t)next;
        if (next != TIER_PAGE_NIL) {
            entry[next].link.prev = (uint32_t)prev;
        }
    }
    tier_run_untag_(runs, index, pages);
}

/* Extend [*index, *index + *pages) by the free runs that touch it. */
TIER_INLINE_ void tier_run_join_(struct tier_runs *runs, size_t *index,
                                 size_t *pages)
{
    const uint8_t *kind = runs->map.kind;
    size_t after = *index + *pages;

    if (after < runs->map.pages && (kind[after] == TIER_KIND_FREE_HEAD ||
                                    kind[after] == TIER_KIND_FREE_PAGE)) {
        size_t length = tier_run_length_(runs, after);

        tier_run_unlink_(runs, after, length);
        *pages += length;
    }
    if (*index > 0 && (kind[*index - 1] == TIER_KIND_FREE_TAIL ||
                       kind[*index - 1] == TIER_KIND_FREE_PAGE)) {
        size_t length =
            kind[*index - 1] == TIER_KIND_FREE_PAGE
                ? 1
                : tier_load_index_(&runs->map.entry[*index - 1].length);

        *index -= length;
        tier_run_unlink_(runs, *index, length);
        *pages += length;
    }
}

/* --- Lending --- */

/* Give an aligned block of free pages back to the buddy. */
TIER_INLINE_ void tier_run_give_back_(struct tier_runs *runs, size_t index,
                                      unsigned order)
{
    tier_buddy_put_(runs->buddy, index, order);
    runs->held_pages -= tier_order_pages_(order);
    runs->free_pages -= tier_order_pages_(order);
}

/* Settle pages that may hold whole blocks: those go back. Cold. */
TIER_NOINLINE_ static void tier_run_settle_long_(struct tier_runs *runs,
                                                 size_t index, size_t end)
{
    size_t block = tier_order_pages_(runs->lend_order);
    size_t window = tier_buddy_align_(runs->buddy, index, runs->lend_order);

    if (window + block <= end) {
        if (window > index) {
            tier_run_link_(runs, index, window - index);
        }
        for (index = window; index + block <= end;) {
            unsigned order =
                tier_buddy_fit_(runs->buddy, index, end, runs->lend_order);

            tier_run_give_back_(runs, index, order);
            index += tier_order_pages_(order);
        }
    }
    if (index < end) {
        tier_run_link_(runs, index, end - index);
    }
}

/*
 * Put free pages, already joined with their neighbours, where they belong:
 * whole blocks go back to the buddy, the rest becomes free runs.
 */
TIER_INLINE_ void tier_run_settle_(struct tier_runs *runs, size_t index,
                                   size_t pages)
{
    if (TIER_UNLIKELY_(pages >= tier_order_pages_(runs->lend_order))) {
        tier_run_settle_long_(runs, index, index + pages);
    } else {
        tier_run_link_(runs, index, pages);
    }
}

/* The order in which to borrow for `pages` pages; -1 when there is no block. */
static int tier_run_borrow_order_(const struct tier_runs *runs, size_t pages)
{
    uint32_t orders = runs->buddy->orders;
    int order = (int)runs->lend_order;

    while (tier_order_pages_((unsigned)order) < pages) {
        order++;
    }
    if (orders >> order != 0) {
        return order;
    }
    order = tier_highest_bit_(orders);
    return order >= 0 && tier_order_pages_((unsigned)order) >= pages ? order
                                                                     : -1;
}

/*
 * Find a long enough run in the bin of this length, whose runs may be a little
 * shorter: its begin, or TIER_PAGE_NIL. O(runs there).
 */
static size_t tier_run_find_(const struct tier_runs *runs, size_t pages)
{
    size_t at = runs->bins[tier_run_bin_(pages)];

    while (at != TIER_PAGE_NIL && tier_run_length_(runs, at) < pages) {
        at = runs->map.entry[at].link.next;
    }
    return at;
}

/* Take the run that tier_run_find_ finds: 0, or its length, and its begin. */
static size_t tier_run_search_(struct tier_runs *runs, size_t pages,
                               size_t *index)
{
    size_t length;

    *index = tier_run_find_(runs, pages);
    if (*index == TIER_PAGE_NIL) {
        return 0;
    }
    length = tier_run_length_(runs, *index);
    tier_run_unlink_(runs, *index, length);
    return length;
}

/* True when a run can be allocated, after borrowing a block if need be. */
TIER_LOCAL_ bool tier_run_fits_(const struct tier_runs *runs, size_t pages)
{
    return tier_run_first_bin_(runs, tier_run_bin_above_(pages)) <
               TIER_RUN_BINS ||
           tier_run_borrow_order_(runs, pages) >= 0 ||
           tier_run_find_(runs, pages) != TIER_PAGE_NIL;
}

/*
 * Borrow a block of at least `pages` pages, and join it with the free runs
 * around it: 0, or its length, and its begin in *index.
 */
static size_t tier_run_borrow_(struct tier_runs *runs, size_t pages,
                               size_t *index)
{
    int order = tier_run_borrow_order_(runs, pages);

    if (order < 0) {
        return 0;
    }
    size_t length = tier_order_pages_((unsigned)order);

    *index = tier_buddy_lend_(runs->buddy, (unsigned)order);
    runs->held_pages += length;
    runs->free_pages += length;
    tier_run_join_(runs, index, &length);
    return length;
}

/* Give the first free run of a bin back to the buddy. */
static void tier_run_yield_(struct tier_runs *runs, size_t bin)
{
    size_t index = runs->bins[bin];
    size_t end = index + tier_run_length_(runs, index);

    tier_run_unlink_(runs, index, end - index);
    while (index < end) {
        unsigned order = tier_buddy_fit_(runs->buddy, index, end, 0);

        tier_run_give_back_(runs, index, order);
        index += tier_order_pages_(order);
    }
}

/*
 * The first bin with a free run that holds a block of an order wherever it begins,
 * being nearly twice as long; TIER_RUN_BINS when there is none.
 */
TIER_LOCAL_ size_t tier_run_bin_around_(const struct tier_runs *runs,
                                        unsigned order)
{
    size_t bin = tier_run_bin_above_(tier_order_pages_(order) * 2 - 1);

    return bin < TIER_RUN_BINS ? tier_run_first_bin_(runs, bin) : bin;
}

TIERALLOC_API size_t tier_runs_trim(struct tier_runs *runs)
{
    size_t before = runs->held_pages;

    for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
        while (runs->bins[bin] != TIER_PAGE_NIL) {
            tier_run_yield_(runs, bin);
        }
    }
    return before - runs->held_pages;
}

TIERALLOC_API size_t tier_runs_gather(struct tier_runs *runs)
{
    struct tier_buddy *buddy = runs->buddy;
    size_t borrowed = 0;

    for (unsigned order = 0; order < runs->lend_order; order++) {
        while (buddy->lists[order].blocks != 0) {
            size_t index = tier_buddy_lend_(buddy, order);
            size_t pages = tier_order_pages_(order);

            borrowed += pages;
            runs->held_pages += pages;
            runs->free_pages += pages;
            tier_run_join_(runs, &index, &pages);
            tier_run_settle_(runs, index, pages);
        }
    }
    return borrowed;
}

/* --- Allocation --- */

/* Mark pages that are in no bin as a used run. */
TIER_INLINE_ void tier_run_mark_(struct tier_runs *runs, size_t index,
                                 size_t pages)
{
    if (pages == 1) {
        runs->map.kind[index] = TIER_KIND_RUN_PAGE;
        return;
    }
    runs->map.kind[index] = TIER_KIND_RUN_HEAD;
    runs->map.entry[index + 1].length = (uint32_t)pages;
}

/* Make `pages` pages that are in no bin a used run and count it. */
TIER_INLINE_ void *tier_run_hand_out_(struct tier_runs *runs, size_t index,
                                      size_t pages)
{
    tier_run_mark_(runs, index, pages);
    runs->map.entry[index].owner = 0;
    runs->free_pages -= pages;
    runs->used_runs++;
    return tier_pagemap_address_(&runs->map, index);
}

/* Allocate when no bin above is of use: search, then borrow. Cold. */
TIER_NOINLINE_ static void *tier_run_alloc_slow_(struct tier_runs *runs,
                                                 size_t pages)
{
    size_t index;
    size_t length = tier_run_search_(runs, pages, &index);

    if (length == 0) {
        length = tier_run_borrow_(runs, pages, &index);
    }
    if (length == 0) {
        runs->failed_allocs++;
        return NULL;
    }
    if (length > pages) {
        tier_run_settle_(runs, index + pages, length - pages);
    }
    return tier_run_hand_out_(runs, index, pages);
}

/* Allocate from the first run of a bin, which is long enough. */
TIER_INLINE_ void *tier_run_take_(struct tier_runs *runs, size_t bin,
                                  size_t pages)
{
    size_t index = tier_load_index_(&runs->bins[bin]);
    size_t length = tier_run_length_(runs, index);

    tier_run_pop_(runs, index, length, bin);
    if (length > pages) {
        tier_run_link_(runs, index + pages, length - pages);
    }
    return tier_run_hand_out_(runs, index, pages);
}

TIERALLOC_API void *tier_runs_alloc(struct tier_runs *runs, size_t pages)
{
    if (TIER_UNLIKELY_(pages - 1 >= TIER_RUN_MAX)) {
        runs->refused_allocs++;
        return NULL;
    }
    size_t bin = tier_run_first_bin_(runs, tier_run_bin_above_(pages));

    if (TIER_UNLIKELY_(bin >= TIER_RUN_BINS)) {
        return tier_run_alloc_slow_(runs, pages);
    }
    return tier_run_take_(runs, bin, pages);
}

/* --- Freeing --- */

/* Pages of the used run that begins at an address; 0 when none does. */
TIER_INLINE_ size_t tier_run_used_(const struct tier_runs *runs,
                                   const void *run)
{
    unsigned kind = tier_pagemap_kind_(&runs->map, run);

    if (!tier_is_aligned_((uintptr_t)run, TIER_PAGE_SIZE)) {
        return 0;
    }
    if (kind == TIER_KIND_RUN_HEAD) {
        size_t index = tier_pagemap_index_(&runs->map, run);

        return tier_load_index_(&runs->map.entry[index + 1].length);
    }
    return kind == TIER_KIND_RUN_PAGE;
}

/* Why a pointer is not the start of a used run. O(TIER_RUN_MAX); cold. */
TIER_NOINLINE_ static enum tier_status tier_run_explain_(
    const struct tier_runs *runs, const void *run)
{
    size_t index = tier_pagemap_index_(&runs->map, run);

    if (index >= runs->map.pages) {
        return TIER_ERR_FOREIGN;
    }
    if (tier_buddy_head_(runs->buddy, index) != TIER_PAGE_NIL) {
        enum tier_status status = tier_buddy_explain_(runs->buddy, run);

        return status == TIER_ERR_DOUBLE_FREE ? status : TIER_ERR_FOREIGN;
    }
    size_t head = index;

    while (head > 0 && runs->map.kind[head] == TIER_KIND_NONE &&
           index - head < TIER_RUN_MAX * 2) {
        head--;
    }
    size_t length = tier_pagemap_extent_(&runs->map, head);
    unsigned kind = runs->map.kind[head];

    if (kind == TIER_KIND_FREE_TAIL && head == index) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if (!tier_kind_is_run_(kind) || index - head >= length) {
        return TIER_ERR_FOREIGN;
    }
    if (kind == TIER_KIND_FREE_HEAD || kind == TIER_KIND_FREE_PAGE) {
        return TIER_ERR_DOUBLE_FREE;
    }
    return tier_is_aligned_((uintptr_t)run, TIER_PAGE_SIZE)
               ? TIER_ERR_INTERIOR
               : TIER_ERR_MISALIGNED;
}

/* Make the pages of a used run, wholly or in part, free. */
TIER_INLINE_ void tier_run_release_(struct tier_runs *runs, size_t index,
                                    size_t pages)
{
    runs->map.kind[index] = TIER_KIND_NONE;
    runs->free_pages += pages;
    tier_run_join_(runs, &index, &pages);
    tier_run_settle_(runs, index, pages);
}

TIERALLOC_API enum tier_status tier_runs_free(struct tier_runs *runs, void *run)
{
    size_t pages = tier_run_used_(runs, run);

    if (TIER_UNLIKELY_(pages == 0)) {
        if (run == NULL) {
            return TIER_OK;
        }
        runs->refused_frees++;
        return tier_run_explain_(runs, run);
    }
    runs->used_runs--;
    tier_run_release_(runs, tier_pagemap_index_(&runs->map, run), pages);
    return TIER_OK;
}

/* Pages of the free run or free block that begins at `index`; 0 for none. */
static size_t tier_run_free_at_(const struct tier_runs *runs, size_t index)
{
    const struct tier_pagemap *map = &runs->map;
    unsigned kind =
        index < map->pages ? tier_kind_load_(&map->kind[index]) : 0U;

    return kind == TIER_KIND_FREE_HEAD || kind == TIER_KIND_FREE_PAGE ||
                   (kind & TIER_KIND_MASK) == TIER_KIND_FREE
               ? tier_pagemap_extent_(map, index)
               : 0;
}

/*
 * Count free pages from `index` on, in runs or in the buddy, until there are
 * `enough` or one is not free. O(free runs and blocks there).
 */
static size_t tier_run_reach_(const struct tier_runs *runs, size_t index,
                              size_t enough)
{
    size_t reach = 0;

    while (reach < enough) {
        size_t pages = tier_run_free_at_(runs, index + reach);

        if (pages == 0) {
            break;
        }
        reach += pages;
    }
    return reach;
}

/* Take what is free from `index` to `end` out of its bins and lists. */
static void tier_run_clear_(struct tier_runs *runs, size_t index, size_t end)
{
    while (index < end) {
        unsigned kind = runs->map.kind[index];
        size_t pages = tier_run_free_at_(runs, index);

        if ((kind & TIER_KIND_MASK) == TIER_KIND_FREE) {
            tier_buddy_unlink_(runs->buddy, index, kind & TIER_ORDER_MASK);
            runs->map.kind[index] = TIER_KIND_NONE;
            runs->buddy->free_pages -= pages;
            runs->held_pages += pages;
            runs->free_pages += pages;
        } else {
            tier_run_unlink_(runs, index, pages);
        }
        index += pages;
    }
}

/* Extend over several free runs and blocks. Cold. */
TIER_NOINLINE_ static bool tier_run_extend_far_(struct tier_runs *runs,
                                                size_t end, size_t more)
{
    size_t reach = tier_run_reach_(runs, end, more);

    if (reach < more) {
        return false;
    }
    tier_run_clear_(runs, end, end + reach);
    end += more;
    reach -= more;
    if (reach > 0) {
        tier_run_join_(runs, &end, &reach);
        tier_run_settle_(runs, end, reach);
    }
    runs->free_pages -= more;
    tier_buddy_took_(runs->buddy, 0); /* no more than the run needs */
    return true;
}

/* Take `more` pages behind a used run that ends before `end`. */
static bool tier_run_extend_(struct tier_runs *runs, size_t end, size_t more)
{
    unsigned kind = end < runs->map.pages ? runs->map.kind[end] : 0U;
    bool is_run = kind == TIER_KIND_FREE_HEAD || kind == TIER_KIND_FREE_PAGE;
    size_t length = is_run ? tier_run_length_(runs, end) : 0;

    if (length < more) {
        return tier_run_extend_far_(runs, end, more);
    }
    tier_run_unlink_(runs, end, length);
    if (length > more) {
        tier_run_link_(runs, end + more, length - more);
    }
    runs->free_pages -= more;
    return true;
}

TIERALLOC_API enum tier_status tier_runs_resize(struct tier_runs *runs,
                                                void *run, size_t pages)
{
    size_t old = tier_run_used_(runs, run);

    if (old == 0) {
        runs->refused_frees++;
        return tier_run_explain_(runs, run);
    }
    if (pages == 0 || pages > TIER_RUN_MAX) {
        runs->refused_allocs++;
        return pages == 0 ? TIER_ERR_INVALID : TIER_ERR_TOO_LARGE;
    }
    size_t index = tier_pagemap_index_(&runs->map, run);

    if (pages > old && !tier_run_extend_(runs, index + old, pages - old)) {
        runs->failed_allocs++;
        return TIER_ERR_IN_USE;
    }
    tier_run_mark_(runs, index, pages);
    if (pages < old) {
        tier_run_release_(runs, index + pages, old - pages);
    }
    return TIER_OK;
}

/* --- A source of pages --- */

/* Make a run that was just allocated pages which only their holder marks. */
TIER_INLINE_ void tier_run_hold_(struct tier_runs *runs, void *memory,
                                 size_t pages)
{
    runs->map.kind[tier_pagemap_index_(&runs->map, memory)] = TIER_KIND_NONE;
    runs->used_runs--;
    runs->source_pages += pages;
}

static void *tier_runs_acquire_(void *context, size_t pages)
{
    struct tier_runs *runs = (struct tier_runs *)context;
    void *memory = tier_runs_alloc(runs, pages);

    if (TIER_UNLIKELY_(memory == NULL)) {
        return NULL;
    }
    tier_run_hold_(runs, memory, pages);
    return memory;
}

static void tier_runs_return_(void *context, void *memory, size_t pages)
{
    struct tier_runs *runs = (struct tier_runs *)context;

    runs->source_pages -= pages;
    tier_run_release_(runs, tier_pagemap_index_(&runs->map, memory), pages);
}

TIERALLOC_API void tier_runs_source(struct tier_runs *runs,
                                    struct tier_page_source *source)
{
    source->acquire = tier_runs_acquire_;
    source->release = tier_runs_return_;
    source->context = runs;
}

/* --- Inspection --- */

TIERALLOC_API enum tier_status tier_runs_set_owner(struct tier_runs *runs,
                                                   void *run, uintptr_t owner)
{
    if (tier_run_used_(runs, run) == 0) {
        return tier_run_explain_(runs, run);
    }
    runs->map.entry[tier_pagemap_index_(&runs->map, run)].owner = owner;
    return TIER_OK;
}

TIERALLOC_API uintptr_t tier_runs_owner(const struct tier_runs *runs,
                                        const void *run)
{
    if (tier_run_used_(runs, run) == 0) {
        return 0;
    }
    return runs->map.entry[tier_pagemap_index_(&runs->map, run)].owner;
}

TIERALLOC_API size_t tier_runs_pages(const struct tier_runs *runs,
                                     const void *run)
{
    return tier_run_used_(runs, run);
}

TIERALLOC_API void tier_runs_stats(const struct tier_runs *runs,
                                   struct tier_runs_stats *stats)
{
    stats->held_pages = runs->held_pages;
    stats->free_pages = runs->free_pages;
    stats->source_pages = runs->source_pages;
    stats->used_runs = runs->used_runs;
    stats->free_runs = 0;
    stats->largest_free_pages = 0;
    stats->failed_allocs = runs->failed_allocs;
    stats->refused_allocs = runs->refused_allocs;
    stats->refused_frees = runs->refused_frees;
    for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
        for (size_t at = runs->bins[bin]; at != TIER_PAGE_NIL;
             at = runs->map.entry[at].link.next) {
            size_t pages = tier_run_length_(runs, at);

            stats->free_runs++;
            if (pages > stats->largest_free_pages) {
                stats->largest_free_pages = pages;
            }
        }
    }
}

/* Free runs in a bin. O(these). */
static size_t tier_run_count_(const struct tier_runs *runs, size_t bin)
{
    size_t count = 0;

    for (size_t at = runs->bins[bin]; at != TIER_PAGE_NIL;
         at = runs->map.entry[at].link.next) {
        count++;
    }
    return count;
}

TIERALLOC_API void tier_runs_dump(const struct tier_runs *runs, tier_put put,
                                  void *context)
{
    struct tier_runs_stats stats;
    struct tier_writer_ to;
    size_t longer = 0;

    to.put = put;
    to.context = context;
    tier_runs_stats(runs, &stats);
    tier_write_(&to, "runs: pages held ");
    tier_write_number_(&to, stats.held_pages, 0);
    tier_write_(&to, ", free ");
    tier_write_number_(&to, stats.free_pages, 0);
    tier_write_(&to, ", runs in use ");
    tier_write_number_(&to, stats.used_runs, 0);
    tier_write_(&to, ", longest free ");
    tier_write_number_(&to, stats.largest_free_pages, 0);
    tier_write_(&to, "\nfree runs by length:");
    for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
        if (bin < 32) {
            tier_write_(&to, " ");
            tier_write_number_(&to, tier_run_count_(runs, bin), 0);
        } else {
            longer += tier_run_count_(runs, bin);
        }
    }
    tier_write_(&to, ", longer ");
    tier_write_number_(&to, longer, 0);
    tier_write_(&to, "\n");
}

/* --- Checking --- */

/* True when the free run at `index` is tagged alike at both ends, and alone. */
static bool tier_run_check_free_(const struct tier_runs *runs, size_t index,
                                 size_t pages)
{
    const struct tier_pagemap *map = &runs->map;
    size_t block = tier_order_pages_(runs->lend_order);
    size_t end = index + pages;

    if (pages > 1 &&
        (map->kind[end - 1] != TIER_KIND_FREE_TAIL ||
         map->entry[end - 1].length != pages ||
         tier_find_nonzero_(map->kind, index + 1, end - 1) != end - 1)) {
        return false;
    }
    if (end < map->pages && (map->kind[end] == TIER_KIND_FREE_HEAD ||
                             map->kind[end] == TIER_KIND_FREE_PAGE)) {
        return false;
    }
    return pages < block ||
           tier_buddy_align_(runs->buddy, index, runs->lend_order) + block >
               end;
}

/* What a walk over the map finds. */
struct tier_run_census_ {
    size_t free_runs;
    size_t free_pages;
    size_t used_runs;
    size_t used_pages;
};

/* Check the run that begins at `index`, count it, and move past it. */
static bool tier_run_check_at_(const struct tier_runs *runs, size_t *index,
                               struct tier_run_census_ *found)
{
    const struct tier_pagemap *map = &runs->map;
    size_t begin = *index;
    size_t pages = tier_pagemap_extent_(map, begin);
    unsigned kind = map->kind[begin];

    bool head = kind == TIER_KIND_RUN_HEAD || kind == TIER_KIND_FREE_HEAD;

    if (pages < (head ? 2U : 1U) || pages > map->pages - begin ||
        kind == TIER_KIND_FREE_TAIL) {
        return false;
    }
    *index += pages;
    if (kind == TIER_KIND_RUN_HEAD || kind == TIER_KIND_RUN_PAGE) {
        found->used_runs++;
        found->used_pages += pages;
        return pages <= TIER_RUN_MAX &&
               tier_find_nonzero_(map->kind, begin + 1, begin + pages) ==
                   begin + pages;
    }
    if (kind == TIER_KIND_FREE_HEAD || kind == TIER_KIND_FREE_PAGE) {
        found->free_runs++;
        found->free_pages += pages;
        return tier_run_check_free_(runs, begin, pages);
    }
    return true;
}

/* The bits of the last word of the mask that stand for bins. */
TIER_INLINE_ uint32_t tier_run_last_mask_(void)
{
    return UINT32_MAX >> (TIER_RUN_WORDS * 32 - TIER_RUN_BINS);
}

/* True when a bin is linked both ways; counts its runs down from *left. */
static bool tier_run_check_bin_(const struct tier_runs *runs, size_t bin,
                                size_t *left)
{
    const struct tier_pagemap *map = &runs->map;
    uint32_t prev = TIER_PAGE_NIL;
    bool marked = (runs->mask[bin / 32] >> bin % 32 & 1) != 0;

    for (uint32_t at = runs->bins[bin]; at != TIER_PAGE_NIL;
         at = map->entry[at].link.next) {
        if ((*left)-- == 0 || at >= map->pages ||
            (map->kind[at] != TIER_KIND_FREE_HEAD &&
             map->kind[at] != TIER_KIND_FREE_PAGE) ||
            map->entry[at].link.prev != prev ||
            tier_run_bin_(tier_pagemap_extent_(map, at)) != bin) {
            return false;
        }
        prev = at;
    }
    return marked == (runs->bins[bin] != TIER_PAGE_NIL);
}

TIERALLOC_API bool tier_runs_check(const struct tier_runs *runs)
{
    const struct tier_pagemap *map = &runs->map;
    struct tier_run_census_ found;
    size_t at = 0;

    found.free_runs = 0;
    found.free_pages = 0;
    found.used_runs = 0;
    found.used_pages = 0;
    while ((at = tier_find_nonzero_(map->kind, at, map->pages)) < map->pages) {
        if (!tier_run_check_at_(runs, &at, &found)) {
            return false;
        }
    }
    for (size_t bin = 0; bin < TIER_RUN_BINS; bin++) {
        if (!tier_run_check_bin_(runs, bin, &found.free_runs)) {
            return false;
        }
    }
    return found.free_runs == 0 && found.free_pages == runs->free_pages &&
           found.used_runs == runs->used_runs &&
           found.free_pages + found.used_pages + runs->source_pages ==
               runs->held_pages &&
           (runs->mask[TIER_RUN_WORDS - 1] & ~tier_run_last_mask_()) == 0;
}

#endif /* TIERALLOC_RUNS_IMPLEMENTED */
