/*
 * tieralloc/heap.h - the simple heap: first fit in address order, by bit maps.
 *
 * SPDX-License-Identifier: MIT
 *
 * The smallest code, for memory from a hundred bytes up. Memory is a list of
 * areas in address order. An area begins with its head and two bits for each
 * of its granules of TIERALLOC_MIN_ALIGN bytes; here are allocations of 3, 1
 * and 2 granules, with a hole of 2 before the last:
 *
 *     used   1 1 1 1 0 0 1 1   the granule is part of an allocation
 *     inner  0 1 1 0 0 0 0 1   and not its first
 *
 * A request gets the lowest address that fits, found a word of bits at a time.
 * No head lies before an allocation and no link in free memory: a stray write
 * there misleads nobody, and every free is checked exactly and knows the size,
 * whatever TIERALLOC_CHECKS is.
 *
 * A call is O(areas), an allocation O(memory / words of bits + holes passed):
 * slow where memory is large. Of an area of 4 KiB 3912 bytes can be used, in
 * one allocation or in 489 (32-bit: 3936, 492). Overhead: 2 bits per granule,
 * 7 words per area. No function locks.
 */
#ifndef TIERALLOC_HEAP_H
#define TIERALLOC_HEAP_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Most pages that a heap takes from its source when fewer would do. */
#define TIER_HEAP_GROW_PAGES (TIERALLOC_MAX_ORDER < 2 ? 1U : 4U)

struct tier_heap_area;

/* A place in the list of areas: in the heap, or in an area. Private. */
struct tier_heap_link {
    struct tier_heap_area *next; /* at the next higher address, or NULL */
    uintptr_t seal; /* xor of what changes with the list alone, see check */
};

/* The first bytes of an area; two words per word of granules follow. Private.*/
struct tier_heap_area {
    struct tier_heap_link link;
    uintptr_t memory; /* address of granule 0 */
    size_t granules;
    size_t pages; /* taken from the source; 0 for an area that was added */
    size_t hint;  /* no granule below is free */
    size_t live;  /* allocations in use */
};

/* A simple heap. The caller owns the storage; the fields are private. */
struct tier_heap {
    struct tier_heap_link link;     /* to the area at the lowest address */
    struct tier_page_source source; /* acquire is NULL when there is none */
    size_t failed_allocs;           /* out of memory, or arguments refused */
    size_t refused_frees;           /* bad pointers and double frees */
};

/* A snapshot of a heap. */
struct tier_heap_stats {
    size_t areas;              /* parts of memory, added or from the source */
    size_t pages;              /* taken from the source and held */
    size_t total_bytes;        /* what all areas can hold when empty */
    size_t free_bytes;         /* of these, in no allocation */
    size_t largest_free_bytes; /* largest request that would now succeed here */
    size_t live_bytes;         /* of the total, in allocations */
    size_t live_allocs;        /* allocations in use */
    size_t failed_allocs;      /* out of memory, or arguments refused */
    size_t refused_frees;      /* bad pointers and double frees */
};

/* Granules per word of bits, the bytes of these, and the bytes of two words. */
#define TIER_HEAP_BITS_ (sizeof(uintptr_t) * 8)
#define TIER_HEAP_SPAN_ (TIER_HEAP_BITS_ * TIERALLOC_MIN_ALIGN)
#define TIER_HEAP_PAIR_ (sizeof(uintptr_t) * 2)

/* Round up to a multiple. */
#define TIER_HEAP_UP_(number, unit) (((number) + (unit)-1) / (unit) * (unit))

/* Pairs of words in an area of so many bytes. */
#define TIER_HEAP_PAIRS_(bytes)                                   \
    (((bytes) - sizeof(struct tier_heap_area) + TIER_HEAP_SPAN_ - \
      TIERALLOC_MIN_ALIGN) /                                      \
     (TIER_HEAP_SPAN_ + TIER_HEAP_PAIR_))

/* Bytes left in it beside its head and these. */
#define TIER_HEAP_REST_(bytes)                 \
    ((bytes) - sizeof(struct tier_heap_area) - \
     TIER_HEAP_PAIR_ * TIER_HEAP_PAIRS_(bytes))

/*
 * Bytes that an area must have, at an address aligned to TIERALLOC_MIN_ALIGN,
 * to hold allocations of `bytes` bytes in total, each rounded up to a multiple
 * of TIERALLOC_MIN_ALIGN. A constant for a constant; `bytes` is at most
 * SIZE_MAX / 8 * 7.
 */
#define TIER_HEAP_AREA_BYTES(bytes)                                        \
    (TIER_HEAP_UP_(sizeof(struct tier_heap_area) +                         \
                       ((bytes) + TIER_HEAP_SPAN_ - 1) / TIER_HEAP_SPAN_ * \
                           TIER_HEAP_PAIR_,                                \
                   TIERALLOC_MIN_ALIGN) +                                  \
     TIER_HEAP_UP_((size_t)(bytes), TIERALLOC_MIN_ALIGN))

/* Bytes in the smallest area there is. */
#define TIER_HEAP_AREA_MIN TIER_HEAP_AREA_BYTES((size_t)1)

/*
 * Bytes that an area of `bytes` bytes can hold, the opposite; `bytes` is a
 * multiple of TIERALLOC_MIN_ALIGN, at least TIER_HEAP_AREA_MIN.
 */
#define TIER_HEAP_USABLE_BYTES(bytes)                                         \
    (TIER_HEAP_REST_(bytes) < TIER_HEAP_SPAN_ * TIER_HEAP_PAIRS_(bytes)       \
         ? TIER_HEAP_REST_(bytes) / TIERALLOC_MIN_ALIGN * TIERALLOC_MIN_ALIGN \
         : TIER_HEAP_SPAN_ * TIER_HEAP_PAIRS_(bytes))

/* Most bytes in one allocation from the source. */
#define TIER_HEAP_BYTES_MAX TIER_HEAP_USABLE_BYTES(TIER_BLOCK_MAX)

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Make *heap a heap without memory. With a source, which is copied, it takes
 * pages there when no area has room; NULL: it has what is added and no more.
 * The struct may move as long as no call runs. O(1).
 */
TIERALLOC_API void tier_heap_init(struct tier_heap *heap,
                                  const struct tier_page_source *source);

/*
 * Give memory to the heap as one area, of any alignment and length; what does
 * not fill a granule at either end is not used. Nothing is ever allocated
 * across areas, even if they touch. O(areas + bytes / 64): the head and the
 * bits are written, the rest is not touched.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_INVALID   base is NULL, or there is no room for one granule:
 *                      TIER_HEAP_AREA_MIN bytes from an aligned address;
 *   TIER_ERR_OVERFLOW  base + bytes passes the end of the address space;
 *   TIER_ERR_OVERLAP   part of it belongs to an area.
 */
TIERALLOC_API enum tier_status tier_heap_add(struct tier_heap *heap, void *base,
                                             size_t bytes);

/*
 * Take back the area that tier_heap_add made at `base`. O(areas).
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_FOREIGN  no area was added there;
 *   TIER_ERR_IN_USE   it holds an allocation.
 */
TIERALLOC_API enum tier_status tier_heap_remove(struct tier_heap *heap,
                                                void *base);

/*
 * Give every empty area from the source back to it, which is at most one.
 * Returns how many pages that is. O(areas).
 */
TIERALLOC_API size_t tier_heap_trim(struct tier_heap *heap);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate `bytes` bytes, 0 counting as 1, at the lowest address that fits.
 *
 * Aligned to TIERALLOC_MIN_ALIGN. Contents are undefined. O(memory), see above.
 * When no area has room the source is asked for TIER_HEAP_GROW_PAGES pages or
 * what the request needs; then for only that; then, if there is an empty area
 * to give back, once more.
 *
 * Returns NULL when no area has room and no source can help: there is none, it
 * has not enough, or the request exceeds TIER_HEAP_BYTES_MAX (then it is not
 * asked).
 */
TIERALLOC_API void *tier_heap_alloc(struct tier_heap *heap, size_t bytes);

/*
 * The same, aligned to a power of two. From the source it needs at most the
 * bytes, rounded up to a multiple of the alignment or of a page, whichever is
 * less, and by what the alignment exceeds a page.
 *
 * Returns NULL as tier_heap_alloc does, and when the alignment is no power of
 * two.
 */
TIERALLOC_API void *tier_heap_alloc_aligned(struct tier_heap *heap,
                                            size_t bytes, size_t alignment);

/*
 * Free an allocation; NULL is a no-op. O(areas + its granules).
 *
 * An area from the source that becomes empty is kept, so that a pair of calls
 * at the edge does not call the source each time; one that was kept before
 * goes back.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_FOREIGN      in no area, or in the head or the bits of one;
 *   TIER_ERR_DOUBLE_FREE  in a granule that is free;
 *   TIER_ERR_INTERIOR     inside an allocation, not at its start.
 */
TIERALLOC_API enum tier_status tier_heap_free(struct tier_heap *heap,
                                              void *memory);

/*
 * Make an allocation `bytes` bytes long, 0 counting as 1, where it is.
 *
 * Shrinking always succeeds; growing takes what lies behind when it is free.
 * Contents are kept, up to the smaller size. O(areas + granules of both sizes).
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_TOO_LARGE  its area ends before that, whatever else is free;
 *   TIER_ERR_IN_USE     not all that lies behind is free;
 *   or what tier_heap_free returns for a wrong pointer (TIER_ERR_FOREIGN for
 *   NULL).
 */
TIERALLOC_API enum tier_status tier_heap_resize(struct tier_heap *heap,
                                                void *memory, size_t bytes);

/* --- Inspection ----------------------------------------------------------- */

/*
 * Bytes of an allocation that can be used, at least as many as were asked for;
 * 0 for anything else. O(areas + its granules).
 */
TIERALLOC_API size_t tier_heap_usable_size(const struct tier_heap *heap,
                                           const void *memory);

/* Receives an allocation in use. It must not change the heap. */
typedef void (*tier_heap_visit)(void *context, void *memory, size_t bytes);

/* Call `visit` for each allocation in use, in address order. O(memory). */
TIERALLOC_API void tier_heap_each(const struct tier_heap *heap,
                                  tier_heap_visit visit, void *context);

/* Count what *stats tells. O(memory). */
TIERALLOC_API void tier_heap_stats(const struct tier_heap *heap,
                                   struct tier_heap_stats *stats);

/* Write the same as two lines of text. O(memory). */
TIERALLOC_API void tier_heap_dump(const struct tier_heap *heap, tier_put put,
                                  void *context);

/*
 * True when every invariant holds: the link of the heap and the head of each
 * area are as they were sealed, the areas ascend and do not overlap, no bit is
 * set behind the last granule, the granules in use begin with the first of an
 * allocation, the allocations of each area are as many as it counts, no granule
 * below its hint is free, and at most one area from the source is empty.
 *
 * A link is followed only if its seal is right. Any one bit that is wrong in
 * the list, a head or the bits makes it false. O(memory), whatever the
 * corruption; for tests and debugging.
 */
TIERALLOC_API bool tier_heap_check(const struct tier_heap *heap);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_HEAP_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_HEAP_IMPLEMENTED)
#define TIERALLOC_HEAP_IMPLEMENTED

#include "internal.h"
#include "text.h"

#define TIER_GRANULE_ ((size_t)TIERALLOC_MIN_ALIGN)

_Static_assert(TIER_GRANULE_ % sizeof(tier_word_) == 0 &&
                   sizeof(struct tier_heap_area) % sizeof(tier_word_) == 0,
               "the head is aligned, and so are the words behind it");
_Static_assert(TIER_BLOCK_MAX >= TIER_HEAP_AREA_MIN,
               "the smallest area fits the largest block");
_Static_assert((size_t)TIER_HEAP_GROW_PAGES << TIERALLOC_PAGE_SHIFT <=
                   TIER_BLOCK_MAX,
               "a heap may always ask for as many pages as it grows by");

/* What the seals of an empty list and of an empty head are. */
#define TIER_HEAP_SEAL_ ((uintptr_t)0x7469U)

/* --- The list of areas --- */

/* Let a link lead to another area. */
static void tier_heap_lead_(struct tier_heap_link *link,
                            struct tier_heap_area *to)
{
    link->seal ^= (uintptr_t)link->next ^ (uintptr_t)to;
    link->next = to;
}

/* What the seal of an area must be. */
TIER_INLINE_ uintptr_t tier_heap_seal_(const struct tier_heap_area *area)
{
    return TIER_HEAP_SEAL_ ^ (uintptr_t)area->link.next ^ area->memory ^
           area->granules ^ area->pages;
}

/* Address of a granule. */
TIER_INLINE_ uintptr_t tier_heap_address_(const struct tier_heap_area *area,
                                          size_t granule)
{
    return area->memory + granule * TIER_GRANULE_;
}

/* Address of the last byte: the end itself may be the end of all memory. */
TIER_INLINE_ uintptr_t tier_heap_last_(const struct tier_heap_area *area)
{
    return tier_heap_address_(area, area->granules) - 1;
}

/* Granules of a request; never overflows. */
TIER_INLINE_ size_t tier_heap_granules_(size_t bytes)
{
    return bytes == 0 ? 1 : (bytes - 1) / TIER_GRANULE_ + 1;
}

TIERALLOC_API void tier_heap_init(struct tier_heap *heap,
                                  const struct tier_page_source *source)
{
    heap->link.next = NULL;
    heap->link.seal = TIER_HEAP_SEAL_;
    heap->source.acquire = NULL;
    if (source != NULL) {
        heap->source.acquire = source->acquire;
        heap->source.release = source->release;
        heap->source.context = source->context;
    }
    heap->failed_allocs = 0;
    heap->refused_frees = 0;
}

/* The link to follow to the first area that ends at `address` or above. */
static struct tier_heap_link *tier_heap_seek_(struct tier_heap *heap,
                                              uintptr_t address)
{
    struct tier_heap_link *link = &heap->link;

    while (link->next != NULL && tier_heap_last_(link->next) < address) {
        link = &link->next->link;
    }
    return link;
}

/* tier_heap_add, for so many pages from the source, or 0. */
static enum tier_status tier_heap_insert_(struct tier_heap *heap, void *base,
                                          size_t bytes, size_t pages)
{
    size_t lead = -(uintptr_t)base % TIER_GRANULE_;
    uintptr_t begin = (uintptr_t)base + lead;

    if (base == NULL || bytes < lead + TIER_HEAP_AREA_MIN) {
        return TIER_ERR_INVALID;
    }
    if ((uintptr_t)base > UINTPTR_MAX - (bytes - 1)) {
        return TIER_ERR_OVERFLOW;
    }
    bytes = (bytes - lead) / TIER_GRANULE_ * TIER_GRANULE_;
    struct tier_heap_link *link = tier_heap_seek_(heap, begin);

    if (link->next != NULL && (uintptr_t)link->next <= begin + (bytes - 1)) {
        return TIER_ERR_OVERLAP;
    }
    struct tier_heap_area *area = (struct tier_heap_area *)begin;
    tier_word_ *words = (tier_word_ *)(area + 1);

    area->link.next = link->next;
    area->granules = TIER_HEAP_USABLE_BYTES(bytes) / TIER_GRANULE_;
    area->memory = begin + (bytes - area->granules * TIER_GRANULE_);
    area->pages = pages;
    area->hint = 0;
    area->live = 0;
    area->link.seal = tier_heap_seal_(area);
    for (size_t i = 0; i < TIER_HEAP_PAIRS_(bytes) * 2; i++) {
        words[i] = 0;
        TIER_OPAQUE_(i);
    }
    tier_heap_lead_(link, area);
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_heap_add(struct tier_heap *heap, void *base,
                                             size_t bytes)
{
    return tier_heap_insert_(heap, base, bytes, 0);
}

TIERALLOC_API enum tier_status tier_heap_remove(struct tier_heap *heap,
                                                void *base)
{
    uintptr_t begin = (uintptr_t)base + (-(uintptr_t)base % TIER_GRANULE_);
    struct tier_heap_link *link = tier_heap_seek_(heap, begin);
    const struct tier_heap_area *area = link->next;

    if (area == NULL || (uintptr_t)area != begin || area->pages != 0) {
        return TIER_ERR_FOREIGN;
    }
    if (area->live != 0) {
        return TIER_ERR_IN_USE;
    }
    tier_heap_lead_(link, area->link.next);
    return TIER_OK;
}

/* Give each empty area but one back to the source; returns the pages. */
static size_t tier_heap_release_(struct tier_heap *heap,
                                 const struct tier_heap_area *but)
{
    struct tier_heap_link *link = &heap->link;
    struct tier_heap_area *area;
    size_t released = 0;

    while ((area = link->next) != NULL) {
        if (area->pages == 0 || area->live != 0 || area == but) {
            link = &area->link;
            continue;
        }
        tier_heap_lead_(link, area->link.next);
        released += area->pages;
        heap->source.release(heap->source.context, area, area->pages);
    }
    return released;
}

TIERALLOC_API size_t tier_heap_trim(struct tier_heap *heap)
{
    return tier_heap_release_(heap, NULL);
}

/* --- The bits of an area --- */

/* The first word of each map; its next are two words on. */
TIER_INLINE_ tier_word_ *tier_heap_used_(const struct tier_heap_area *area)
{
    return (tier_word_ *)((uintptr_t)area + sizeof(struct tier_heap_area));
}

TIER_INLINE_ tier_word_ *tier_heap_inner_(const struct tier_heap_area *area)
{
    return tier_heap_used_(area) + 1;
}

TIER_INLINE_ bool tier_heap_bit_(const tier_word_ *map, size_t granule)
{
    return (map[granule / TIER_WORD_BITS_ * 2] >> granule % TIER_WORD_BITS_ &
            1) != 0;
}

/* What to look for in a map. */
#define TIER_HEAP_ONE_  ((tier_word_)0)
#define TIER_HEAP_ZERO_ (~(tier_word_)0)

/* The first bit of [begin, end) that is so; `end` when none is. */
static size_t tier_heap_find_(const tier_word_ *map, size_t begin, size_t end,
                              tier_word_ sought)
{
    size_t word = begin / TIER_WORD_BITS_;
    tier_word_ passed = ~(tier_word_)0 << begin % TIER_WORD_BITS_;

    for (; word * TIER_WORD_BITS_ < end; word++) {
        tier_word_ bits = (map[word * 2] ^ sought) & passed;

        if (bits != 0) {
            size_t found = word * TIER_WORD_BITS_ + tier_ctz_word_(bits);

            return found < end ? found : end;
        }
        passed = ~(tier_word_)0;
    }
    return end;
}

/* Turn each bit of [begin, end) over. */
static void tier_heap_turn_(tier_word_ *map, size_t begin, size_t end)
{
    while (begin < end) {
        size_t shift = begin % TIER_WORD_BITS_;
        size_t count = TIER_WORD_BITS_ - shift;

        if (count > end - begin) {
            count = end - begin;
        }
        map[begin / TIER_WORD_BITS_ * 2] ^=
            ~(tier_word_)0 >> (TIER_WORD_BITS_ - count) << shift;
        begin += count;
    }
}

/* Make free granules one allocation, or one allocation free granules. */
static void tier_heap_mark_(struct tier_heap_area *area, size_t begin,
                            size_t end)
{
    tier_heap_turn_(tier_heap_used_(area), begin, end);
    tier_heap_turn_(tier_heap_inner_(area), begin + 1, end);
}

/* The first granule of [begin, end) that is free; that is in use. */
TIER_INLINE_ size_t tier_heap_find_free_(const struct tier_heap_area *area,
                                         size_t begin)
{
    return tier_heap_find_(tier_heap_used_(area), begin, area->granules,
                           TIER_HEAP_ZERO_);
}

TIER_INLINE_ size_t tier_heap_find_used_(const struct tier_heap_area *area,
                                         size_t begin, size_t end)
{
    return tier_heap_find_(tier_heap_used_(area), begin, end, TIER_HEAP_ONE_);
}

/* The granule behind the allocation that begins at one. */
TIER_INLINE_ size_t tier_heap_end_(const struct tier_heap_area *area,
                                   size_t begin)
{
    return tier_heap_find_(tier_heap_inner_(area), begin + 1, area->granules,
                           TIER_HEAP_ZERO_);
}

/* --- Allocation --- */

/* The first granule at or behind `at` whose address is aligned. */
TIER_INLINE_ size_t tier_heap_align_(const struct tier_heap_area *area,
                                     size_t at, size_t alignment)
{
    return at +
           (-tier_heap_address_(area, at) & (alignment - 1)) / TIER_GRANULE_;
}

/* Allocate from one area; NULL when it has no room. */
static void *tier_heap_take_(struct tier_heap_area *area, size_t granules,
                             size_t alignment)
{
    size_t at = tier_heap_find_free_(area, area->hint);
    size_t begin;

    area->hint = at;
    while ((begin = tier_heap_align_(area, at, alignment)) + granules <=
           area->granules) {
        size_t end = begin + granules;

        at = tier_heap_find_used_(area, begin, end);
        if (at == end) {
            tier_heap_mark_(area, begin, end);
            area->live++;
            return (void *)tier_heap_address_(area, begin);
        }
        at = tier_heap_find_free_(area, at);
    }
    return NULL;
}

/*
 * Pages of an area that has room for a request wherever the source puts it; 0
 * when these are more than the largest block has. The end of an area is aligned
 * to a page.
 */
static size_t tier_heap_pages_(size_t granules, size_t alignment)
{
    size_t unit = alignment < TIER_PAGE_SIZE ? alignment : TIER_PAGE_SIZE;

    if (granules > TIER_BLOCK_MAX / TIER_GRANULE_) {
        return 0;
    }
    size_t bytes = ((granules * TIER_GRANULE_ + unit - 1) & -unit) +
                   (alignment - unit); /* at most 3/4 of SIZE_MAX */

    bytes = TIER_HEAP_AREA_BYTES(bytes);
    return bytes > TIER_BLOCK_MAX
               ? 0
               : (bytes + TIER_PAGE_SIZE - 1) >> TIERALLOC_PAGE_SHIFT;
}

/* Make an area from the source and allocate there; NULL when it has none. */
static void *tier_heap_grow_(struct tier_heap *heap, size_t granules,
                             size_t alignment)
{
    size_t need = tier_heap_pages_(granules, alignment);
    size_t pages = need < TIER_HEAP_GROW_PAGES ? TIER_HEAP_GROW_PAGES : need;
    void *memory;

    if (need == 0 || heap->source.acquire == NULL) {
        return NULL;
    }
    while ((memory = heap->source.acquire(heap->source.context, pages)) ==
           NULL) {
        if (pages == need && tier_heap_trim(heap) == 0) {
            return NULL;
        }
        pages = need;
    }
    if (tier_heap_insert_(heap, memory, pages << TIERALLOC_PAGE_SHIFT, pages) !=
        TIER_OK) {
        return NULL;
    }
    return tier_heap_take_((struct tier_heap_area *)memory, granules,
                           alignment);
}

TIERALLOC_API void *tier_heap_alloc(struct tier_heap *heap, size_t bytes)
{
    return tier_heap_alloc_aligned(heap, bytes, TIER_GRANULE_);
}

TIERALLOC_API void *tier_heap_alloc_aligned(struct tier_heap *heap,
                                            size_t bytes, size_t alignment)
{
    size_t granules = tier_heap_granules_(bytes);
    struct tier_heap_area *area = heap->link.next;
    void *memory = NULL;

    if (alignment != 0 && (alignment & (alignment - 1)) == 0) {
        for (; area != NULL && memory == NULL; area = area->link.next) {
            memory = tier_heap_take_(area, granules, alignment);
        }
        if (memory == NULL) {
            memory = tier_heap_grow_(heap, granules, alignment);
        }
    }
    if (memory == NULL) {
        heap->failed_allocs++;
    }
    return memory;
}

/* Where an allocation is: granules [begin, end) of an area. */
struct tier_heap_place_ {
    struct tier_heap_area *area;
    size_t begin;
    size_t end;
};

/* Find an allocation, or say what is wrong with the pointer. */
static enum tier_status tier_heap_locate_(const struct tier_heap *heap,
                                          const void *memory,
                                          struct tier_heap_place_ *place)
{
    struct tier_heap_area *area = heap->link.next;
    size_t offset = 0;
    size_t granule = 0;

    for (;; area = area->link.next) {
        if (area == NULL) {
            return TIER_ERR_FOREIGN;
        }
        offset = (uintptr_t)memory - area->memory;
        granule = offset / TIER_GRANULE_;
        if (granule < area->granules) {
            break;
        }
    }
    if (!tier_heap_bit_(tier_heap_used_(area), granule)) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if (offset % TIER_GRANULE_ != 0 ||
        tier_heap_bit_(tier_heap_inner_(area), granule)) {
        return TIER_ERR_INTERIOR;
    }
    place->area = area;
    place->begin = granule;
    place->end = tier_heap_end_(area, granule);
    return TIER_OK;
}

/* Free granules of the area lie at or behind this one from now on. */
TIER_INLINE_ void tier_heap_lower_hint_(struct tier_heap_area *area,
                                        size_t granule)
{
    if (area->hint > granule) {
        area->hint = granule;
    }
}

TIERALLOC_API enum tier_status tier_heap_free(struct tier_heap *heap,
                                              void *memory)
{
    struct tier_heap_place_ place;

    if (memory == NULL) {
        return TIER_OK;
    }
    enum tier_status status = tier_heap_locate_(heap, memory, &place);

    if (status != TIER_OK) {
        heap->refused_frees++;
        return status;
    }
    tier_heap_mark_(place.area, place.begin, place.end);
    tier_heap_lower_hint_(place.area, place.begin);
    if (--place.area->live == 0 && place.area->pages != 0) {
        (void)tier_heap_release_(heap, place.area);
    }
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_heap_resize(struct tier_heap *heap,
                                                void *memory, size_t bytes)
{
    size_t granules = tier_heap_granules_(bytes);
    struct tier_heap_place_ place;
    enum tier_status status = tier_heap_locate_(heap, memory, &place);

    if (status != TIER_OK) {
        heap->refused_frees++;
        return status;
    }
    size_t end = place.begin + granules;

    if (end > place.area->granules) {
        status = TIER_ERR_TOO_LARGE;
    } else if (tier_heap_find_used_(place.area, place.end, end) < end) {
        status = TIER_ERR_IN_USE;
    }
    if (status != TIER_OK) {
        heap->failed_allocs++;
        return status;
    }
    tier_heap_mark_(place.area, place.begin, place.end);
    tier_heap_mark_(place.area, place.begin, end);
    tier_heap_lower_hint_(place.area, end);
    return TIER_OK;
}

/* --- Inspection --- */

TIERALLOC_API size_t tier_heap_usable_size(const struct tier_heap *heap,
                                           const void *memory)
{
    struct tier_heap_place_ place;

    if (tier_heap_locate_(heap, memory, &place) != TIER_OK) {
        return 0;
    }
    return (place.end - place.begin) * TIER_GRANULE_;
}

/*
 * Step from [.., *end) to the next allocation [*begin, *end) of an area; false
 * behind the last.
 */
static bool tier_heap_step_(const struct tier_heap_area *area, size_t *begin,
                            size_t *end)
{
    *begin = tier_heap_find_used_(area, *end, area->granules);
    if (*begin == area->granules) {
        return false;
    }
    *end = tier_heap_end_(area, *begin);
    return true;
}

TIERALLOC_API void tier_heap_each(const struct tier_heap *heap,
                                  tier_heap_visit visit, void *context)
{
    const struct tier_heap_area *area = heap->link.next;

    for (; area != NULL; area = area->link.next) {
        size_t begin = 0;
        size_t end = 0;

        while (tier_heap_step_(area, &begin, &end)) {
            visit(context, (void *)tier_heap_address_(area, begin),
                  (end - begin) * TIER_GRANULE_);
        }
    }
}

/* Add what one area has to the snapshot. */
static void tier_heap_count_(const struct tier_heap_area *area,
                             struct tier_heap_stats *stats)
{
    size_t begin = 0;
    size_t end = 0;
    bool more = true;

    stats->areas++;
    stats->pages += area->pages;
    stats->total_bytes += area->granules * TIER_GRANULE_;
    while (more) {
        size_t hole = end;

        more = tier_heap_step_(area, &begin, &end);
        hole = (begin - hole) * TIER_GRANULE_;
        stats->free_bytes += hole;
        stats->live_allocs += more;
        if (hole > stats->largest_free_bytes) {
            stats->largest_free_bytes = hole;
        }
    }
}

TIERALLOC_API void tier_heap_stats(const struct tier_heap *heap,
                                   struct tier_heap_stats *stats)
{
    const struct tier_heap_area *area = heap->link.next;

    stats->areas = 0;
    stats->pages = 0;
    stats->total_bytes = 0;
    stats->free_bytes = 0;
    stats->largest_free_bytes = 0;
    stats->live_allocs = 0;
    for (; area != NULL; area = area->link.next) {
        tier_heap_count_(area, stats);
    }
    stats->live_bytes = stats->total_bytes - stats->free_bytes;
    stats->failed_allocs = heap->failed_allocs;
    stats->refused_frees = heap->refused_frees;
}

/* Write a text and the number that it names. */
static void tier_heap_write_(const struct tier_writer_ *to, const char *text,
                             size_t number)
{
    tier_write_(to, text);
    tier_write_number_(to, number, 0);
}

TIERALLOC_API void tier_heap_dump(const struct tier_heap *heap, tier_put put,
                                  void *context)
{
    struct tier_heap_stats stats;
    struct tier_writer_ to;

    to.put = put;
    to.context = context;
    tier_heap_stats(heap, &stats);
    tier_heap_write_(&to, "heap: areas ", stats.areas);
    tier_heap_write_(&to, ", pages from the source ", stats.pages);
    tier_heap_write_(&to, ", bytes ", stats.total_bytes);
    tier_heap_write_(&to, ", free ", stats.free_bytes);
    tier_heap_write_(&to, ", largest free ", stats.largest_free_bytes);
    tier_heap_write_(&to, "\nallocations in use ", stats.live_allocs);
    tier_heap_write_(&to, ", failed ", stats.failed_allocs);
    tier_heap_write_(&to, ", frees refused ", stats.refused_frees);
    tier_write_(&to, "\n");
}

/* Check the bits of an area, whose head is sound. */
static bool tier_heap_check_bits_(const struct tier_heap_area *area)
{
    const tier_word_ *used = tier_heap_used_(area);
    const tier_word_ *inner = tier_heap_inner_(area);
    size_t bits = TIER_HEAP_UP_(area->granules, TIER_WORD_BITS_);
    tier_word_ before = 0; /* the last bit of the word before, as the first */

    for (size_t word = 0; word < bits / TIER_WORD_BITS_ * 2; word += 2) {
        if ((inner[word] & ~(used[word] & (used[word] << 1 | before))) != 0) {
            return false;
        }
        before = used[word] >> (TIER_WORD_BITS_ - 1);
    }
    return tier_heap_find_(used, area->granules, bits, TIER_HEAP_ONE_) == bits;
}

/* Check one area whose link is sound. */
static bool tier_heap_check_area_(const struct tier_heap_area *area)
{
    size_t begin = 0;
    size_t end = 0;
    size_t live = 0;

    if (area->link.seal != tier_heap_seal_(area) ||
        !tier_heap_check_bits_(area)) {
        return false;
    }
    while (tier_heap_step_(area, &begin, &end)) {
        live++;
    }
    return live == area->live && area->hint <= tier_heap_find_free_(area, 0);
}

TIERALLOC_API bool tier_heap_check(const struct tier_heap *heap)
{
    const struct tier_heap_area *area = heap->link.next;
    uintptr_t last = 0; /* of the area before */
    size_t empty = 0;   /* areas from the source */

    if (heap->link.seal != (TIER_HEAP_SEAL_ ^ (uintptr_t)area)) {
        return false;
    }
    for (; area != NULL; area = area->link.next) {
        if ((uintptr_t)area <= last || !tier_heap_check_area_(area)) {
            return false;
        }
        last = tier_heap_last_(area);
        empty += area->pages != 0 && area->live == 0;
    }
    return empty <= 1;
}

#endif /* TIERALLOC_HEAP_IMPLEMENTED */
