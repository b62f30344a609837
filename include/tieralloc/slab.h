/*
 * tieralloc/slab.h - objects of equal size, cut from slabs of a few pages.
 *
 * SPDX-License-Identifier: MIT
 *
 * A cache hands out objects of one size from slabs (Bonwick, "The Slab
 * Allocator: An Object-Caching Kernel Memory Allocator", USENIX 1994). What is
 * known of a slab lies in a descriptor away from its objects; one bit per
 * object says whether it is free, so a stray write into an object, free or
 * not, cannot mislead the allocator:
 *
 *     page map             descriptor                  slab
 *     address --> entry --> | bits 1 0 0 1 1 | base --> | o0 | o1 | o2 | ...
 *                           | cache, counts  |
 *
 * Size classes are caches too: 8 to TIERALLOC_OBJECT_MAX bytes, four per
 * doubling. A free needs no size. A slab is carved lazily: nothing is written
 * to it before an object is handed out. Descriptors come from caches of their
 * own, whose slabs hold their descriptor themselves.
 *
 * Alloc and free are O(1) but for a new or an emptied slab, which costs one
 * call of the page source. Every free is checked at TIERALLOC_CHECKS 1. Needs
 * about 0.7 bytes per 64-byte object. No function locks.
 */
#ifndef TIERALLOC_SLAB_H
#define TIERALLOC_SLAB_H

#include "pagemap.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Size classes up to 64 bytes in steps of 8, then four per doubling. */
#define TIER_SLAB_CLASSES                 \
    (TIERALLOC_OBJECT_MAX == 256     ? 16 \
     : TIERALLOC_OBJECT_MAX == 512   ? 20 \
     : TIERALLOC_OBJECT_MAX == 1024  ? 24 \
     : TIERALLOC_OBJECT_MAX == 2048  ? 28 \
     : TIERALLOC_OBJECT_MAX == 4096  ? 32 \
     : TIERALLOC_OBJECT_MAX == 8192  ? 36 \
     : TIERALLOC_OBJECT_MAX == 16384 ? 40 \
                                     : 44)

/* Most pages in a slab. */
#define TIER_SLAB_PAGES_MAX 16

/* Caches of descriptors: for slabs of up to 64, 256, 1024, ... objects. */
#define TIER_SLAB_META_CACHES         \
    (TIERALLOC_PAGE_SHIFT <= 11   ? 2 \
     : TIERALLOC_PAGE_SHIFT <= 13 ? 3 \
     : TIERALLOC_PAGE_SHIFT <= 15 ? 4 \
     : TIERALLOC_PAGE_SHIFT <= 17 ? 5 \
                                  : 6)

struct tier_slab;
struct tier_slab_desc_;

/* A cache of equal objects. The caller owns the storage; fields are private. */
struct tier_cache {
    struct tier_slab_desc_ *partial; /* slabs with used and free objects */
    struct tier_slab_desc_ *empty;   /* one slab kept without a used object */
    uint32_t object_bytes;
    uint32_t reciprocal;   /* 2^32 / object_bytes, rounded up */
    uint16_t slab_objects; /* objects in a slab */
    uint8_t slab_pages;    /* pages in a slab */
    uint8_t kind;          /* what the map says of its pages */
    uint8_t meta;          /* which cache its descriptors come from */
    size_t slabs;          /* slabs held, the empty one included */
    size_t live;           /* objects in use */
    const char *name;      /* for statistics; NULL for a size class */
    struct tier_slab *slab;
    struct tier_cache *next; /* the next named cache of the same slab tier */
};

/* A slab tier. The caller owns the storage; the fields are private. */
struct tier_slab {
    struct tier_pagemap map; /* the caller's map, by value: one load less */
    struct tier_page_source source;
    struct tier_cache *named; /* the caches of tier_cache_init */
    size_t grown;             /* slabs of objects ever acquired */
    size_t failed_allocs;     /* the page source had nothing */
    size_t refused_frees;     /* bad pointers, double frees, wrong sizes */
    struct tier_cache meta[TIER_SLAB_META_CACHES];
    struct tier_cache classes[TIER_SLAB_CLASSES];
};

/* A snapshot of one cache. */
struct tier_cache_stats {
    const char *name;    /* NULL for a size class */
    size_t object_bytes; /* bytes an object takes */
    size_t slab_objects; /* objects in a slab */
    size_t slab_pages;   /* pages in a slab */
    size_t slabs;        /* slabs held */
    size_t live;         /* objects in use */
};

/* A snapshot of a whole slab tier, named caches included. */
struct tier_slab_stats {
    size_t slabs;        /* slabs held */
    size_t pages;        /* pages in them, and in slabs of descriptors */
    size_t live_objects; /* objects in use */
    size_t live_bytes;   /* bytes in these, rounded up to the object size */
    size_t failed_allocs;
    size_t refused_frees;
};

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Make *slab a slab tier that takes its pages from *source.
 *
 * All pages of the source lie in the span of *map. The slab tier writes the
 * kind and entry of a page while it holds it; before release it puts the kind
 * of the first page back as it was, and leaves the others TIER_KIND_NONE. The
 * struct must not move afterwards. O(classes).
 */
TIERALLOC_API void tier_slab_init(struct tier_slab *slab,
                                  const struct tier_pagemap *map,
                                  const struct tier_page_source *source);

/*
 * Make *cache a cache of objects of `object_bytes` bytes, each aligned to
 * `alignment`, under a name for statistics. Takes no memory yet.
 *
 * The cache and its name must stay where they are until tier_cache_destroy.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_IN_USE     *cache is a cache of this slab tier already;
 *   TIER_ERR_INVALID    object_bytes is 0, or alignment no power of two;
 *   TIER_ERR_TOO_LARGE  the size, rounded up to the alignment, exceeds
 *                       TIERALLOC_OBJECT_MAX, or the alignment a page.
 */
TIERALLOC_API enum tier_status tier_cache_init(struct tier_cache *cache,
                                               struct tier_slab *slab,
                                               const char *name,
                                               size_t object_bytes,
                                               size_t alignment);

/*
 * Give back the memory of a cache and forget it.
 *
 * Returns TIER_OK, or with nothing changed TIER_ERR_IN_USE when an object of it
 * is in use, TIER_ERR_INVALID when it is destroyed already. O(named caches).
 */
TIERALLOC_API enum tier_status tier_cache_destroy(struct tier_cache *cache);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate an object of at least `bytes` bytes; 0 counts as 1.
 *
 * Aligned to TIERALLOC_MIN_ALIGN, and to the largest power of two, up to a page,
 * that divides the size of its class. Contents are undefined.
 *
 * Returns NULL when the page source has nothing for a new slab, or when bytes
 * exceeds TIERALLOC_OBJECT_MAX.
 */
TIERALLOC_API void *tier_slab_alloc(struct tier_slab *slab, size_t bytes);

/*
 * Free an object of any class or named cache; NULL is a no-op.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_FOREIGN      not in a slab of this tier;
 *   TIER_ERR_INTERIOR     in a slab, but not at the start of an object;
 *   TIER_ERR_DOUBLE_FREE  the object is not in use.
 */
TIERALLOC_API enum tier_status tier_slab_free(struct tier_slab *slab,
                                              void *object);

/*
 * Free an object that was asked for with `bytes` bytes; NULL is a no-op.
 *
 * Returns what tier_slab_free does, and TIER_ERR_WRONG_SIZE, with the object
 * still in use, when `bytes` belongs to another class.
 */
TIERALLOC_API enum tier_status tier_slab_free_sized(struct tier_slab *slab,
                                                    void *object, size_t bytes);

/* Allocate an object of a named cache; NULL when there is no memory. */
TIERALLOC_API void *tier_cache_alloc(struct tier_cache *cache);

/*
 * Free an object of this cache; NULL is a no-op.
 *
 * Returns what tier_slab_free does; TIER_ERR_FOREIGN also for an object of
 * another cache.
 */
TIERALLOC_API enum tier_status tier_cache_free(struct tier_cache *cache,
                                               void *object);

/*
 * Return the kept empty slabs of every cache to the page source.
 *
 * Returns the number of pages returned, descriptors included. O(caches).
 */
TIERALLOC_API size_t tier_slab_trim(struct tier_slab *slab);

/* --- Inspection ----------------------------------------------------------- */

/*
 * Bytes usable in an object: its class size. 0 when `object` is not the start
 * of an object in use; at TIERALLOC_CHECKS 0, when it is in no slab.
 */
TIERALLOC_API size_t tier_slab_usable_size(const struct tier_slab *slab,
                                           const void *object);

/* Bytes of an object of a size class; class is below TIER_SLAB_CLASSES. */
TIERALLOC_API size_t tier_slab_class_bytes(unsigned size_class);

/* Copy the counters of a size class; class is below TIER_SLAB_CLASSES. O(1). */
TIERALLOC_API void tier_slab_class_stats(const struct tier_slab *slab,
                                         unsigned size_class,
                                         struct tier_cache_stats *stats);

/* Copy the counters of a cache into *stats. O(1). */
TIERALLOC_API void tier_cache_stats(const struct tier_cache *cache,
                                    struct tier_cache_stats *stats);

/* Add up the counters of all caches into *stats. O(caches). */
TIERALLOC_API void tier_slab_stats(const struct tier_slab *slab,
                                   struct tier_slab_stats *stats);

/*
 * True when every invariant holds: each slab page leads to a descriptor in use
 * in a page of descriptors, which names that page and all others of the slab,
 * the bits of each slab count its free objects, the lists hold the slabs they
 * should, linked both ways, and each cache counts what the map shows of it.
 *
 * O(caches * pages of the span), whatever the corruption of a descriptor or of
 * the map.
 */
TIERALLOC_API bool tier_slab_check(const struct tier_slab *slab);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_SLAB_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_SLAB_IMPLEMENTED)
#define TIERALLOC_SLAB_IMPLEMENTED

#include "internal.h"

/* One slab. `bits` has a set bit for each object that is free. */
struct tier_slab_desc_ {
    struct tier_slab_desc_ *next; /* on the list of its cache; NULL at an end */
    struct tier_slab_desc_ *prev;
    struct tier_cache *cache;
    unsigned char *base; /* address of object 0 */
    uint16_t free;       /* objects not in use */
    uint16_t word;       /* no word of bits below this one is not 0 */
    uint8_t source_kind; /* kind of the first page as the source left it */
    tier_word_ bits[];
};

/*
 * Most objects in a slab: what the largest descriptor has bits for, and what
 * its counter can count. Only 8-byte objects in pages of 512 KiB and above, and
 * 16-byte ones in pages of 1 MiB, would be more.
 */
#define TIER_SLAB_OBJECTS_MAX_ \
    (((uint32_t)64 << 2 * (TIER_SLAB_META_CACHES - 1)) - 1)

/* The class that pages of named caches show in the map. */
#define TIER_SLAB_NAMED_ 0x7FU

_Static_assert(TIER_SLAB_CLASSES <= TIER_SLAB_NAMED_,
               "a size class fits beside its kind");
_Static_assert(TIER_SLAB_OBJECTS_MAX_ <= UINT16_MAX,
               "a number of objects, and an index of a word of bits, fits");
_Static_assert(TIERALLOC_OBJECT_MAX <= (uint64_t)1
                                           << (32 - TIERALLOC_PAGE_SHIFT),
               "offset * reciprocal is exact in a slab of one page: "
               "lower TIERALLOC_OBJECT_MAX");

_Static_assert(TIERALLOC_OBJECT_MAX <= TIER_SLAB_PAGES_MAX * TIER_PAGE_SIZE &&
                   TIERALLOC_OBJECT_MAX <= TIER_BLOCK_MAX,
               "the largest object fits a slab: lower TIERALLOC_OBJECT_MAX");

/* Class of a size up to 1024, by size / 8 rounded up. */
static const uint8_t tier_slab_fine_[129] = {
    0,
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    TIER_R2_(8),
    TIER_R2_(9),
    TIER_R2_(10),
    TIER_R2_(11),
    TIER_R4_(12),
    TIER_R4_(13),
    TIER_R4_(14),
    TIER_R4_(15),
    TIER_R8_(16),
    TIER_R8_(17),
    TIER_R8_(18),
    TIER_R8_(19),
    TIER_R16_(20),
    TIER_R16_(21),
    TIER_R16_(22),
    TIER_R16_(23),
};

#if TIERALLOC_OBJECT_MAX > 1024
/* Class of a larger size, by (size - 1) / 256. */
static const uint8_t tier_slab_coarse_[TIERALLOC_OBJECT_MAX / 256] = {
    TIER_R4_(23),
    24,
    25,
    26,
    27,
#if TIERALLOC_OBJECT_MAX > 2048
    TIER_R2_(28),
    TIER_R2_(29),
    TIER_R2_(30),
    TIER_R2_(31),
#endif
#if TIERALLOC_OBJECT_MAX > 4096
    TIER_R4_(32),
    TIER_R4_(33),
    TIER_R4_(34),
    TIER_R4_(35),
#endif
#if TIERALLOC_OBJECT_MAX > 8192
    TIER_R8_(36),
    TIER_R8_(37),
    TIER_R8_(38),
    TIER_R8_(39),
#endif
#if TIERALLOC_OBJECT_MAX > 16384
    TIER_R16_(40),
    TIER_R16_(41),
    TIER_R16_(42),
    TIER_R16_(43),
#endif
};
#endif

/* The class that serves `bytes`, at most TIERALLOC_OBJECT_MAX. */
TIER_INLINE_ unsigned tier_slab_class_(size_t bytes)
{
#if TIERALLOC_MIN_ALIGN > 8
    bytes = (bytes + (bytes == 0) + TIERALLOC_MIN_ALIGN - 1) &
            ~(size_t)(TIERALLOC_MIN_ALIGN - 1);
#endif
#if TIERALLOC_OBJECT_MAX > 1024
    if (TIER_UNLIKELY_(bytes > 1024)) {
        return tier_slab_coarse_[(bytes - 1) >> 8];
    }
#endif
    return tier_slab_fine_[(bytes + 7) >> 3];
}

TIERALLOC_API size_t tier_slab_class_bytes(unsigned size_class)
{
    if (size_class < 8) {
        return ((size_t)size_class + 1) * 8;
    }
    unsigned doubling = (size_class - 8) / 4;
    unsigned quarter = (size_class - 8) % 4 + 1;

    return ((size_t)64 << doubling) + ((size_t)16 << doubling) * quarter;
}

/* --- Geometry of a slab --- */

/* Bytes of a descriptor for a slab of up to `objects` objects. */
TIER_INLINE_ size_t tier_slab_desc_bytes_(size_t objects)
{
    size_t words = (objects + TIER_WORD_BITS_ - 1) / TIER_WORD_BITS_;

    return sizeof(struct tier_slab_desc_) + words * sizeof(tier_word_);
}

/* Bytes at the end of so many pages that no object of a size covers. */
TIER_INLINE_ size_t tier_cache_unused_(size_t object_bytes, unsigned pages)
{
    return pages * TIER_PAGE_SIZE % object_bytes;
}

/* True when a slab of so many pages can exist for a size. */
TIER_INLINE_ bool tier_cache_allows_(size_t object_bytes, unsigned pages)
{
    size_t bytes = pages * TIER_PAGE_SIZE;

    return pages <= TIER_SLAB_PAGES_MAX && bytes <= TIER_BLOCK_MAX &&
           bytes <= UINT32_MAX / object_bytes; /* see tier_cache_index_ */
}

/*
 * Pages for a slab: the fewest, of the powers of two, that leave no more than
 * a sixteenth unused; failing that, those that leave the smallest part.
 */
static unsigned tier_cache_pages_(size_t object_bytes)
{
    unsigned best = 1;

    while (best * TIER_PAGE_SIZE < object_bytes) {
        best *= 2;
    }
    for (unsigned pages = best; tier_cache_allows_(object_bytes, pages);
         pages *= 2) {
        size_t unused = tier_cache_unused_(object_bytes, pages);

        if (unused * best < tier_cache_unused_(object_bytes, best) * pages) {
            best = pages;
        }
        if (unused * 16 <= pages * TIER_PAGE_SIZE) {
            break;
        }
    }
    return best;
}

/* Set what all caches have in common. */
static void tier_cache_set_(struct tier_cache *cache, struct tier_slab *slab,
                            unsigned kind, size_t object_bytes)
{
    cache->partial = NULL;
    cache->empty = NULL;
    cache->object_bytes = (uint32_t)object_bytes;
    cache->reciprocal = (uint32_t)(UINT32_MAX / object_bytes + 1);
    cache->kind = (uint8_t)kind;
    cache->slabs = 0;
    cache->live = 0;
    cache->name = NULL;
    cache->slab = slab;
    cache->next = NULL;
}

/* A cache whose descriptors lie elsewhere: a size class or a named cache. */
static void tier_cache_shape_(struct tier_cache *cache, struct tier_slab *slab,
                              unsigned kind, size_t object_bytes)
{
    unsigned pages = tier_cache_pages_(object_bytes);
    size_t objects = pages * TIER_PAGE_SIZE / object_bytes;
    unsigned meta = 0;

    if (objects > TIER_SLAB_OBJECTS_MAX_) {
        objects = TIER_SLAB_OBJECTS_MAX_;
    }
    while (objects > (size_t)64 << 2 * meta) {
        meta++;
    }
    tier_cache_set_(cache, slab, kind, object_bytes);
    cache->slab_objects = (uint16_t)objects;
    cache->slab_pages = (uint8_t)pages;
    cache->meta = (uint8_t)meta;
}

/* A cache of descriptors: one page, whose own descriptor comes first in it. */
static void tier_cache_shape_meta_(struct tier_cache *cache,
                                   struct tier_slab *slab, unsigned meta)
{
    size_t object_bytes = tier_slab_desc_bytes_((size_t)64 << 2 * meta);
    size_t objects = TIER_PAGE_SIZE / object_bytes;

    while (tier_slab_desc_bytes_(objects) + objects * object_bytes >
           TIER_PAGE_SIZE) {
        objects--;
    }
    tier_cache_set_(cache, slab, TIER_KIND_META, object_bytes);
    cache->slab_objects = (uint16_t)objects;
    cache->slab_pages = 1;
    cache->meta = (uint8_t)meta;
}

TIERALLOC_API void tier_slab_init(struct tier_slab *slab,
                                  const struct tier_pagemap *map,
                                  const struct tier_page_source *source)
{
    tier_pagemap_share_(&slab->map, map);
    slab->source.acquire = source->acquire;
    slab->source.release = source->release;
    slab->source.context = source->context;
    slab->named = NULL;
    slab->grown = 0;
    slab->failed_allocs = 0;
    slab->refused_frees = 0;
    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        tier_cache_shape_meta_(&slab->meta[i], slab, i);
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_cache_shape_(&slab->classes[i], slab, TIER_KIND_SLAB | i,
                          tier_slab_class_bytes(i));
    }
}

/* The link to a named cache; one that is NULL when it is not on the list. */
static struct tier_cache **tier_cache_find_(struct tier_slab *slab,
                                            const struct tier_cache *cache)
{
    struct tier_cache **at = &slab->named;

    while (*at != NULL && *at != cache) {
        at = &(*at)->next;
    }
    return at;
}

TIERALLOC_API enum tier_status tier_cache_init(struct tier_cache *cache,
                                               struct tier_slab *slab,
                                               const char *name,
                                               size_t object_bytes,
                                               size_t alignment)
{
    if (*tier_cache_find_(slab, cache) != NULL) {
        return TIER_ERR_IN_USE;
    }
    if (object_bytes == 0 || alignment == 0 ||
        (alignment & (alignment - 1)) != 0) {
        return TIER_ERR_INVALID;
    }
    if (object_bytes > TIERALLOC_OBJECT_MAX || alignment > TIER_PAGE_SIZE) {
        return TIER_ERR_TOO_LARGE;
    }
    if (alignment < TIERALLOC_MIN_ALIGN) {
        alignment = TIERALLOC_MIN_ALIGN;
    }
    object_bytes = (object_bytes + alignment - 1) & ~(alignment - 1);
    if (object_bytes > TIERALLOC_OBJECT_MAX) {
        return TIER_ERR_TOO_LARGE;
    }
    tier_cache_shape_(cache, slab, TIER_KIND_SLAB | TIER_SLAB_NAMED_,
                      object_bytes);
    cache->name = name;
    cache->next = slab->named;
    slab->named = cache;
    return TIER_OK;
}

/* --- Lists of a cache --- */

/* Put a slab at the front of its cache's list of partial slabs. */
TIER_INLINE_ void tier_cache_link_(struct tier_cache *cache,
                                   struct tier_slab_desc_ *desc)
{
    desc->next = cache->partial;
    desc->prev = NULL;
    if (cache->partial != NULL) {
        cache->partial->prev = desc;
    }
    cache->partial = desc;
}

/* Take a slab off that list, wherever in it. */
TIER_INLINE_ void tier_cache_unlink_(struct tier_cache *cache,
                                     struct tier_slab_desc_ *desc)
{
    if (desc->next != NULL) {
        desc->next->prev = desc->prev;
    }
    if (desc->prev != NULL) {
        desc->prev->next = desc->next;
    } else {
        cache->partial = desc->next;
    }
}

/* --- Objects of a slab --- */

/* Take a free object of a slab on the list; the slab has one. */
TIER_INLINE_ void *tier_cache_take_(struct tier_cache *cache,
                                    struct tier_slab_desc_ *desc)
{
    unsigned word = desc->word;

    while (desc->bits[word] == 0) {
        word++;
    }
    tier_word_ bits = desc->bits[word];
    size_t index = word * TIER_WORD_BITS_ + tier_ctz_word_(bits);

    desc->bits[word] = bits & (bits - 1);
    desc->word = (uint16_t)word;
    cache->live++;
    if (--desc->free == 0) {
        tier_cache_unlink_(cache, desc);
    }
    return desc->base + index * cache->object_bytes;
}

/*
 * Index of the object that holds the byte at an offset: a division by
 * multiplication, exact while offset * object_bytes < 2^32.
 */
TIER_INLINE_ uint32_t tier_cache_index_(const struct tier_cache *cache,
                                        uint32_t offset)
{
    return (uint32_t)((uint64_t)offset * cache->reciprocal >> 32);
}

/* Name the pages of a slab in the map, and keep what the source wrote there. */
static void tier_slab_claim_(struct tier_slab *slab,
                             struct tier_slab_desc_ *desc, const void *memory)
{
    uintptr_t first = tier_pagemap_index_(&slab->map, memory);

    desc->source_kind = slab->map.kind[first];
    for (unsigned i = 0; i < desc->cache->slab_pages; i++) {
        slab->map.kind[first + i] = desc->cache->kind;
        slab->map.entry[first + i].slab = desc;
        TIER_OPAQUE_(i);
    }
}

/* Make a descriptor tell of a slab at `base` with every object free. */
static void tier_slab_describe_(struct tier_slab_desc_ *desc,
                                struct tier_cache *cache, unsigned char *base)
{
    unsigned word = 0;
    size_t left = cache->slab_objects;

    desc->cache = cache;
    desc->base = base;
    desc->free = cache->slab_objects;
    desc->word = 0;
    for (; left >= TIER_WORD_BITS_; left -= TIER_WORD_BITS_) {
        desc->bits[word++] = ~(tier_word_)0;
        TIER_OPAQUE_(word);
    }
    if (left != 0) {
        desc->bits[word] = ((tier_word_)1 << left) - 1;
    }
    cache->slabs++;
    tier_cache_link_(cache, desc);
}

/* Add a slab of descriptors; NULL when the source has no page. */
static struct tier_slab_desc_ *tier_cache_grow_meta_(struct tier_slab *slab,
                                                     struct tier_cache *cache)
{
    void *memory = slab->source.acquire(slab->source.context, 1);

    if (memory == NULL) {
        return NULL;
    }
    struct tier_slab_desc_ *desc = (struct tier_slab_desc_ *)memory;
    size_t header = tier_slab_desc_bytes_(cache->slab_objects);

    tier_slab_describe_(desc, cache, (unsigned char *)memory + header);
    tier_slab_claim_(slab, desc, memory);
    return desc;
}

/*
 * Add a slab of objects; NULL, with nothing held, when the source has no
 * pages for it or for its descriptor. Cold.
 */
TIER_NOINLINE_ static struct tier_slab_desc_ *tier_cache_grow_(
    struct tier_slab *slab, struct tier_cache *cache)
{
    struct tier_cache *meta = &slab->meta[cache->meta];
    void *memory =
        slab->source.acquire(slab->source.context, cache->slab_pages);

    if (memory == NULL) {
        return NULL;
    }
    if (meta->partial == NULL && tier_cache_grow_meta_(slab, meta) == NULL) {
        slab->source.release(slab->source.context, memory, cache->slab_pages);
        return NULL;
    }
    struct tier_slab_desc_ *desc =
        (struct tier_slab_desc_ *)tier_cache_take_(meta, meta->partial);

    tier_slab_describe_(desc, cache, (unsigned char *)memory);
    tier_slab_claim_(slab, desc, memory);
    slab->grown++;
    return desc;
}

/* Put an object's bit back; the slab is on the list afterwards. */
TIER_INLINE_ void tier_cache_put_(struct tier_cache *cache,
                                  struct tier_slab_desc_ *desc, uint32_t index)
{
    unsigned word = (unsigned)(index / TIER_WORD_BITS_);

    desc->bits[word] |= (tier_word_)1 << index % TIER_WORD_BITS_;
    if (word < desc->word) {
        desc->word = (uint16_t)word;
    }
    cache->live--;
    if (desc->free++ == 0) {
        tier_cache_link_(cache, desc);
    }
}

/* Give the pages of a slab that is on no list back to the source. */
static void tier_slab_release_(struct tier_slab *slab,
                               struct tier_slab_desc_ *desc,
                               unsigned char *memory)
{
    struct tier_cache *cache = desc->cache;
    uintptr_t first = tier_pagemap_index_(&slab->map, memory);

    slab->map.kind[first] = desc->source_kind;
    slab->map.entry[first].owner = 0;
    for (unsigned i = 1; i < cache->slab_pages; i++) {
        slab->map.kind[first + i] = TIER_KIND_NONE;
        TIER_OPAQUE_(i);
    }
    cache->slabs--;
    slab->source.release(slab->source.context, memory, cache->slab_pages);
}

/* Free a descriptor; a page of them goes back as soon as it is empty. */
static void tier_slab_free_desc_(struct tier_slab *slab,
                                 struct tier_slab_desc_ *desc)
{
    uintptr_t page = tier_pagemap_index_(&slab->map, desc);
    struct tier_slab_desc_ *own =
        (struct tier_slab_desc_ *)slab->map.entry[page].slab;
    struct tier_cache *meta = own->cache;
    uint32_t offset = (uint32_t)((unsigned char *)desc - own->base);

    tier_cache_put_(meta, own, tier_cache_index_(meta, offset));
    if (own->free == meta->slab_objects) {
        tier_cache_unlink_(meta, own);
        tier_slab_release_(slab, own, (unsigned char *)own);
    }
}

/* Give back the kept empty slab of a cache, if there is one. */
static void tier_cache_trim_(struct tier_slab *slab, struct tier_cache *cache)
{
    struct tier_slab_desc_ *desc = cache->empty;

    if (desc == NULL) {
        return;
    }
    cache->empty = NULL;
    tier_slab_release_(slab, desc, desc->base);
    tier_slab_free_desc_(slab, desc);
}

/* Keep a slab that has become empty, or give it back if one is kept. Cold. */
TIER_NOINLINE_ static void tier_cache_retire_(struct tier_slab *slab,
                                              struct tier_cache *cache,
                                              struct tier_slab_desc_ *desc)
{
    tier_cache_unlink_(cache, desc);
    tier_cache_trim_(slab, cache);
    cache->empty = desc;
}

/* Find a slab with a free object when no partial one is left. Cold. */
TIER_NOINLINE_ static struct tier_slab_desc_ *tier_cache_refill_(
    struct tier_slab *slab, struct tier_cache *cache)
{
    struct tier_slab_desc_ *desc = cache->empty;

    if (desc != NULL) {
        cache->empty = NULL;
        tier_cache_link_(cache, desc);
        return desc;
    }
    desc = tier_cache_grow_(slab, cache);
    if (desc == NULL) {
        slab->failed_allocs++;
    }
    return desc;
}

TIER_INLINE_ void *tier_cache_alloc_(struct tier_slab *slab,
                                     struct tier_cache *cache)
{
    struct tier_slab_desc_ *desc = cache->partial;

    if (TIER_UNLIKELY_(desc == NULL)) {
        desc = tier_cache_refill_(slab, cache);
        if (desc == NULL) {
            return NULL;
        }
    }
    return tier_cache_take_(cache, desc);
}

TIERALLOC_API void *tier_slab_alloc(struct tier_slab *slab, size_t bytes)
{
    if (TIER_UNLIKELY_(bytes > TIERALLOC_OBJECT_MAX)) {
        slab->failed_allocs++;
        return NULL;
    }
    return tier_cache_alloc_(slab, &slab->classes[tier_slab_class_(bytes)]);
}

TIERALLOC_API void *tier_cache_alloc(struct tier_cache *cache)
{
    return tier_cache_alloc_(cache->slab, cache);
}

/* --- Freeing --- */

/* The descriptor of the slab that holds an address; NULL when none does. */
TIER_INLINE_ struct tier_slab_desc_ *tier_slab_find_(
    const struct tier_slab *slab, const void *object)
{
    if ((tier_pagemap_kind_(&slab->map, object) & TIER_KIND_SLAB) == 0) {
        return NULL;
    }
    uintptr_t page = tier_pagemap_index_(&slab->map, object);
    struct tier_slab_desc_ *desc =
        (struct tier_slab_desc_ *)slab->map.entry[page].slab;

#if TIERALLOC_CHECKS
    if (TIER_UNLIKELY_(desc->cache->slab != slab)) {
        return NULL;
    }
#endif
    return desc;
}

/* Find the object at an address, which lies in the slab; say what is wrong. */
TIER_INLINE_ enum tier_status tier_slab_locate_(
    const struct tier_slab_desc_ *desc, const void *object, uint32_t *index)
{
    const struct tier_cache *cache = desc->cache;
    uint32_t offset = (uint32_t)((uintptr_t)object - (uintptr_t)desc->base);

    *index = tier_cache_index_(cache, offset);
#if TIERALLOC_CHECKS
    if (TIER_UNLIKELY_(*index * cache->object_bytes != offset ||
                       *index >= cache->slab_objects)) {
        return TIER_ERR_INTERIOR;
    }
    tier_word_ bits = desc->bits[*index / TIER_WORD_BITS_];

    if (TIER_UNLIKELY_((bits >> *index % TIER_WORD_BITS_ & 1) != 0)) {
        return TIER_ERR_DOUBLE_FREE;
    }
#endif
    return TIER_OK;
}

/* Free an object of the slab that a descriptor tells of. */
TIER_INLINE_ enum tier_status tier_slab_free_in_(struct tier_slab *slab,
                                                 struct tier_slab_desc_ *desc,
                                                 const void *object)
{
    uint32_t index;
    enum tier_status status = tier_slab_locate_(desc, object, &index);

    if (TIER_UNLIKELY_(status != TIER_OK)) {
        slab->refused_frees++;
        return status;
    }
    tier_cache_put_(desc->cache, desc, index);
    if (TIER_UNLIKELY_(desc->free == desc->cache->slab_objects)) {
        tier_cache_retire_(slab, desc->cache, desc);
    }
    return TIER_OK;
}

/* Refuse a free whose address is in no slab; NULL is no error. Cold. */
TIER_NOINLINE_ static enum tier_status tier_slab_refuse_(
    struct tier_slab *slab, const void *object, enum tier_status status)
{
    if (object == NULL) {
        return TIER_OK;
    }
    slab->refused_frees++;
    return status;
}

TIERALLOC_API enum tier_status tier_slab_free(struct tier_slab *slab,
                                              void *object)
{
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (TIER_UNLIKELY_(desc == NULL)) {
        return tier_slab_refuse_(slab, object, TIER_ERR_FOREIGN);
    }
    return tier_slab_free_in_(slab, desc, object);
}

TIERALLOC_API enum tier_status tier_slab_free_sized(struct tier_slab *slab,
                                                    void *object, size_t bytes)
{
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (TIER_UNLIKELY_(desc == NULL)) {
        return tier_slab_refuse_(slab, object, TIER_ERR_FOREIGN);
    }
#if TIERALLOC_CHECKS
    const struct tier_cache *cache = desc->cache;
    bool right = bytes <= cache->object_bytes &&
                 (cache->kind == (TIER_KIND_SLAB | TIER_SLAB_NAMED_) ||
                  cache == &slab->classes[tier_slab_class_(bytes)]);

    if (TIER_UNLIKELY_(!right)) {
        return tier_slab_refuse_(slab, object, TIER_ERR_WRONG_SIZE);
    }
#else
    (void)bytes;
#endif
    return tier_slab_free_in_(slab, desc, object);
}

TIERALLOC_API enum tier_status tier_cache_free(struct tier_cache *cache,
                                               void *object)
{
    struct tier_slab *slab = cache->slab;
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (TIER_UNLIKELY_(desc == NULL || desc->cache != cache)) {
        return tier_slab_refuse_(slab, object, TIER_ERR_FOREIGN);
    }
    return tier_slab_free_in_(slab, desc, object);
}

/* --- Giving memory back --- */

/* Pages in the slabs of all caches, descriptors included. O(caches). */
static size_t tier_slab_pages_(const struct tier_slab *slab)
{
    size_t pages = 0;

    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        pages += slab->meta[i].slabs;
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        pages += slab->classes[i].slabs * slab->classes[i].slab_pages;
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        pages += c->slabs * c->slab_pages;
    }
    return pages;
}

TIERALLOC_API size_t tier_slab_trim(struct tier_slab *slab)
{
    size_t before = tier_slab_pages_(slab);

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_cache_trim_(slab, &slab->classes[i]);
    }
    for (struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        tier_cache_trim_(slab, c);
    }
    return before - tier_slab_pages_(slab);
}

TIERALLOC_API enum tier_status tier_cache_destroy(struct tier_cache *cache)
{
    struct tier_slab *slab = cache->slab;
    struct tier_cache **at = tier_cache_find_(slab, cache);

    if (*at == NULL) {
        return TIER_ERR_INVALID;
    }
    if (cache->live != 0) {
        return TIER_ERR_IN_USE;
    }
    tier_cache_trim_(slab, cache);
    *at = cache->next;
    return TIER_OK;
}

/* --- Inspection --- */

TIERALLOC_API size_t tier_slab_usable_size(const struct tier_slab *slab,
                                           const void *object)
{
    const struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);
    uint32_t index;

    if (desc == NULL || tier_slab_locate_(desc, object, &index) != TIER_OK) {
        return 0;
    }
    return desc->cache->object_bytes;
}

TIERALLOC_API void tier_cache_stats(const struct tier_cache *cache,
                                    struct tier_cache_stats *stats)
{
    stats->name = cache->name;
    stats->object_bytes = cache->object_bytes;
    stats->slab_objects = cache->slab_objects;
    stats->slab_pages = cache->slab_pages;
    stats->slabs = cache->slabs;
    stats->live = cache->live;
}

TIERALLOC_API void tier_slab_class_stats(const struct tier_slab *slab,
                                         unsigned size_class,
                                         struct tier_cache_stats *stats)
{
    tier_cache_stats(&slab->classes[size_class], stats);
}

static void tier_slab_stats_add_(struct tier_slab_stats *stats,
                                 const struct tier_cache *cache)
{
    stats->slabs += cache->slabs;
    stats->live_objects += cache->live;
    stats->live_bytes += cache->live * cache->object_bytes;
}

TIERALLOC_API void tier_slab_stats(const struct tier_slab *slab,
                                   struct tier_slab_stats *stats)
{
    stats->slabs = 0;
    stats->live_objects = 0;
    stats->live_bytes = 0;
    stats->pages = tier_slab_pages_(slab);
    stats->failed_allocs = slab->failed_allocs;
    stats->refused_frees = slab->refused_frees;
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_slab_stats_add_(stats, &slab->classes[i]);
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        tier_slab_stats_add_(stats, c);
    }
}

/* --- Checking --- */

/* The cache of descriptors that a page of them names; NULL for a wrong one. */
static const struct tier_cache *tier_slab_check_meta_(
    const struct tier_slab *slab, const struct tier_slab_desc_ *own)
{
    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        const struct tier_cache *meta = &slab->meta[i];

        if (own->cache == meta &&
            (uintptr_t)own->base ==
                (uintptr_t)own + tier_slab_desc_bytes_(meta->slab_objects)) {
            return meta;
        }
    }
    return NULL;
}

/*
 * True when `desc` can be read: it is the own descriptor of a page of
 * descriptors, or one in use in it.
 */
static bool tier_slab_check_place_(const struct tier_slab *slab,
                                   const struct tier_slab_desc_ *desc)
{
    if (tier_pagemap_kind_(&slab->map, desc) != TIER_KIND_META) {
        return false;
    }
    size_t page = tier_pagemap_index_(&slab->map, desc);
    const struct tier_slab_desc_ *own =
        (const struct tier_slab_desc_ *)tier_pagemap_address_(&slab->map, page);
    const struct tier_cache *meta = tier_slab_check_meta_(slab, own);

    if (slab->map.entry[page].slab != own || meta == NULL || desc == own) {
        return meta != NULL && desc == own;
    }
    uint32_t offset = (uint32_t)((uintptr_t)desc - (uintptr_t)own->base);
    uint32_t index = tier_cache_index_(meta, offset);

    return index < meta->slab_objects && index * meta->object_bytes == offset &&
           (own->bits[index / TIER_WORD_BITS_] >> index % TIER_WORD_BITS_ &
            1) == 0;
}

/* True when `cache` is a cache of this slab tier. O(caches). */
static bool tier_slab_check_cache_(const struct tier_slab *slab,
                                   const struct tier_cache *cache)
{
    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        if (cache == &slab->meta[i]) {
            return true;
        }
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (cache == &slab->classes[i]) {
            return true;
        }
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        if (cache == c) {
            return true;
        }
    }
    return false;
}

/* True when the bits of a slab count its free objects, and no others. */
static bool tier_slab_check_bits_(const struct tier_slab_desc_ *desc)
{
    size_t objects = desc->cache->slab_objects;
    size_t words = (objects + TIER_WORD_BITS_ - 1) / TIER_WORD_BITS_;
    size_t count = 0;

    for (size_t word = 0; word < words; word++) {
        for (tier_word_ bits = desc->bits[word]; bits != 0; bits &= bits - 1) {
            count++;
        }
        if (word < desc->word && desc->bits[word] != 0) {
            return false;
        }
    }
    return count == desc->free && count <= objects &&
           (objects % TIER_WORD_BITS_ == 0 ||
            desc->bits[words - 1] >> objects % TIER_WORD_BITS_ == 0);
}

/* True when page `index` and its neighbours are the slab that it names. */
static bool tier_slab_check_page_(const struct tier_slab *slab, size_t index)
{
    const struct tier_pagemap *map = &slab->map;
    const struct tier_slab_desc_ *desc =
        (const struct tier_slab_desc_ *)map->entry[index].slab;

    if (!tier_slab_check_place_(slab, desc) ||
        !tier_slab_check_cache_(slab, desc->cache)) {
        return false;
    }
    size_t first = tier_pagemap_index_(map, desc->base);
    size_t pages = desc->cache->slab_pages;

    if (index - first >= pages || pages > map->pages - first ||
        (desc->cache->kind != TIER_KIND_META &&
         !tier_is_aligned_((uintptr_t)desc->base, TIER_PAGE_SIZE))) {
        return false;
    }
    for (size_t i = first; i < first + pages; i++) {
        if (map->entry[i].slab != desc || map->kind[i] != desc->cache->kind) {
            return false;
        }
    }
    return tier_slab_check_bits_(desc);
}

/* True when the partial slabs of a cache are linked both ways; counts them. */
static bool tier_cache_check_list_(const struct tier_slab *slab,
                                   const struct tier_cache *cache,
                                   size_t *length)
{
    const struct tier_slab_desc_ *prev = NULL;

    *length = 0;
    for (const struct tier_slab_desc_ *desc = cache->partial; desc != NULL;
         desc = desc->next) {
        if ((*length)++ == cache->slabs ||
            !tier_slab_check_place_(slab, desc) || desc->cache != cache ||
            desc->prev != prev || desc->free == 0 ||
            desc->free >= cache->slab_objects) {
            return false;
        }
        prev = desc;
    }
    return true;
}

/* True when the kept slab of a cache is an empty one of it. */
static bool tier_cache_check_empty_(const struct tier_slab *slab,
                                    const struct tier_cache *cache)
{
    const struct tier_slab_desc_ *empty = cache->empty;

    return empty == NULL ||
           (tier_slab_check_place_(slab, empty) && empty->cache == cache &&
            empty->free == cache->slab_objects);
}

/* The slab of a cache that begins at page `index`; NULL when none does. */
static const struct tier_slab_desc_ *tier_cache_slab_at_(
    const struct tier_slab *slab, const struct tier_cache *cache, size_t index)
{
    const struct tier_slab_desc_ *desc =
        (const struct tier_slab_desc_ *)slab->map.entry[index].slab;

    if (slab->map.kind[index] != cache->kind || desc->cache != cache ||
        tier_pagemap_index_(&slab->map, desc->base) != index) {
        return NULL;
    }
    return desc;
}

/*
 * True when a cache counts what the map shows of it: its slabs, its objects in
 * use, the slabs on its list and the one that it keeps. Pages are checked.
 */
static bool tier_cache_check_(const struct tier_slab *slab,
                              const struct tier_cache *cache)
{
    size_t slabs = 0;
    size_t live = 0;
    size_t partial = 0;
    size_t empty = 0;
    size_t length;

    if (!tier_cache_check_list_(slab, cache, &length) ||
        !tier_cache_check_empty_(slab, cache)) {
        return false;
    }
    for (size_t i = 0; i < slab->map.pages; i++) {
        const struct tier_slab_desc_ *desc =
            tier_cache_slab_at_(slab, cache, i);

        if (desc != NULL) {
            slabs++;
            live += (size_t)cache->slab_objects - desc->free;
            partial += desc->free != 0 && desc->free < cache->slab_objects;
            empty += desc->free == cache->slab_objects;
        }
    }
    return slabs == cache->slabs && live == cache->live && partial == length &&
           empty == (cache->empty != NULL);
}

TIERALLOC_API bool tier_slab_check(const struct tier_slab *slab)
{
    for (size_t at = 0;
         (at = tier_find_nonzero_(slab->map.kind, at, slab->map.pages)) <
         slab->map.pages;
         at++) {
        if (((slab->map.kind[at] & TIER_KIND_SLAB) != 0 ||
             slab->map.kind[at] == TIER_KIND_META) &&
            !tier_slab_check_page_(slab, at)) {
            return false;
        }
    }
    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        if (!tier_cache_check_(slab, &slab->meta[i])) {
            return false;
        }
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!tier_cache_check_(slab, &slab->classes[i])) {
            return false;
        }
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        if (!tier_cache_check_(slab, c)) {
            return false;
        }
    }
    return true;
}

#endif /* TIERALLOC_SLAB_IMPLEMENTED */
