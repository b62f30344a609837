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
 *     address --> entry --> | bits 1 0 0 1 1 | base --> |  | o0 | o1 | o2 |
 *                           | cache, counts  |
 *
 * Size classes are caches too: 8 to TIERALLOC_OBJECT_MAX bytes, four or eight
 * per doubling. A free needs no size. A slab has as many pages as waste least;
 * it is carved lazily, and the fullest is used first. Descriptors come from
 * caches of their own, whose slabs hold their descriptor themselves.
 *
 * Alloc and free are O(1) but for a new or an emptied slab, which costs one
 * call of the page source, or two, and a few more when memory is short. Every
 * free is checked at TIERALLOC_CHECKS 1. Needs about 0.5 bytes per 64-byte object
 * and 3 KiB for the struct (64-bit, objects up to 32 KiB). No function locks.
 */
#ifndef TIERALLOC_SLAB_H
#define TIERALLOC_SLAB_H

#include "guard.h"
#include "pagemap.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef TIER_LAYOUT_USE_
TIER_LAYOUT_USE_(OBJECT_MAX);
TIER_LAYOUT_USE_(CLASS_STEPS);
TIER_LAYOUT_USE_(MIN_ALIGN);
TIER_LAYOUT_USE_(CHECKS);
#endif

/* --- Types ---------------------------------------------------------------- */

/* Doublings above 64 bytes up to the largest object. */
#define TIER_SLAB_DOUBLINGS_             \
    (TIERALLOC_OBJECT_MAX == 256     ? 2 \
     : TIERALLOC_OBJECT_MAX == 512   ? 3 \
     : TIERALLOC_OBJECT_MAX == 1024  ? 4 \
     : TIERALLOC_OBJECT_MAX == 2048  ? 5 \
     : TIERALLOC_OBJECT_MAX == 4096  ? 6 \
     : TIERALLOC_OBJECT_MAX == 8192  ? 7 \
     : TIERALLOC_OBJECT_MAX == 16384 ? 8 \
                                     : 9)

/*
 * Size classes: up to 64 bytes in steps of 8, then TIERALLOC_CLASS_STEPS per
 * doubling.
 */
#define TIER_SLAB_CLASSES (8 + TIER_SLAB_DOUBLINGS_ * TIERALLOC_CLASS_STEPS)

/* Most pages in a slab. */
#define TIER_SLAB_PAGES_MAX 16

/* Most bytes that tier_slab_alloc serves. */
#define TIER_SLAB_BYTES_MAX (TIERALLOC_OBJECT_MAX - TIER_GUARD_BYTES)

/*
 * The size class of a number of bytes, at most TIER_SLAB_BYTES_MAX: a constant
 * expression if `bytes` is one. It is evaluated several times.
 */
#define TIER_SIZE_CLASS(bytes) \
    TIER_CLASS_OF_(TIER_CLASS_ROUND_((size_t)(bytes)))

#define TIER_CLASS_ROUND_(bytes)                    \
    (((bytes) + ((bytes) == 0) + TIER_GUARD_BYTES + \
      (TIERALLOC_MIN_ALIGN - 1)) &                  \
     ~(size_t)(TIERALLOC_MIN_ALIGN - 1))
#define TIER_CLASS_IN_(bytes, doubling)                      \
    (8U + (doubling)*TIERALLOC_CLASS_STEPS +                 \
     (unsigned)(((bytes) - ((size_t)64 << (doubling)) - 1) / \
                (((size_t)64 / TIERALLOC_CLASS_STEPS) << (doubling))))
#define TIER_CLASS_OF_(bytes)                               \
    ((bytes) <= 64      ? (unsigned)(((bytes) + 7) / 8) - 1 \
     : (bytes) <= 128   ? TIER_CLASS_IN_(bytes, 0)          \
     : (bytes) <= 256   ? TIER_CLASS_IN_(bytes, 1)          \
     : (bytes) <= 512   ? TIER_CLASS_IN_(bytes, 2)          \
     : (bytes) <= 1024  ? TIER_CLASS_IN_(bytes, 3)          \
     : (bytes) <= 2048  ? TIER_CLASS_IN_(bytes, 4)          \
     : (bytes) <= 4096  ? TIER_CLASS_IN_(bytes, 5)          \
     : (bytes) <= 8192  ? TIER_CLASS_IN_(bytes, 6)          \
     : (bytes) <= 16384 ? TIER_CLASS_IN_(bytes, 7)          \
                        : TIER_CLASS_IN_(bytes, 8))

/* Caches of descriptors: for slabs of up to 64, 256, 1024, ... objects. */
#define TIER_SLAB_META_CACHES         \
    (TIERALLOC_PAGE_SHIFT <= 11   ? 2 \
     : TIERALLOC_PAGE_SHIFT <= 13 ? 3 \
     : TIERALLOC_PAGE_SHIFT <= 15 ? 4 \
                                  : 5)

/* Lists of slabs by how full they are. */
#define TIER_SLAB_FILLS 2

struct tier_slab;
struct tier_slab_desc_;

/* What a size class and a named cache have in common. */
struct tier_cache_base {
    struct tier_slab *slab;
    struct tier_slab_desc_ *current; /* what objects are taken from */
    struct tier_slab_desc_ *partial[TIER_SLAB_FILLS]; /* fullest first */
    struct tier_slab_desc_ *empty; /* one slab kept without a used object */
    size_t live;                   /* objects in use */
    uint32_t slabs;                /* slabs held, the empty one included */
    uint32_t reciprocal;           /* 2^32 / object_bytes, rounded up */
    uint16_t object_bytes;
    uint16_t slab_objects; /* objects in a slab of slab_pages pages */
    uint8_t slab_pages;    /* pages that a slab has unless memory is short */
    uint8_t kind;          /* what the map says of its pages */
    uint8_t meta;          /* which cache its descriptors come from */
    uint8_t fill_shift;    /* free objects >> this: the list of a slab */
};

/*
 * Makes the memory of a new object ready for use, once. Runs within the call
 * that allocates, and so under its lock: it must not call the allocator.
 */
typedef void (*tier_construct)(void *object);

/* Flags of a named cache. */
#define TIER_CACHE_KEEP_NONE 0x1U /* an emptied slab goes back at once */

/* A named cache. The caller owns the storage; the fields are private. */
struct tier_cache {
    struct tier_cache_base base;
    const char *name;
    struct tier_cache *next; /* the next named cache of the same slab tier */
    tier_construct construct;
    unsigned flags;
#if TIERALLOC_CHECKS == 2
    size_t bytes; /* that objects were declared with */
#endif
};

/* A slab tier. The caller owns the storage; the fields are private. */
struct tier_slab {
    struct tier_pagemap map; /* the caller's map, by value: one load less */
    struct tier_page_source source;
    struct tier_cache *named; /* the caches of tier_cache_init */
    size_t pages;             /* in slabs, those of descriptors included */
    size_t grown;             /* slabs of objects ever acquired */
    size_t failed_allocs;     /* the page source had nothing */
    size_t refused_frees;     /* bad pointers, double frees, wrong sizes */
#if TIERALLOC_CPUS > 0
    bool cached; /* per-CPU caches stand in front of the size classes */
#endif
#if TIERALLOC_CHECKS == 2
    tier_report_callback report;
    void *report_context;
#endif
    struct tier_cache_base meta[TIER_SLAB_META_CACHES];
    struct tier_cache_base classes[TIER_SLAB_CLASSES];
};

/* A snapshot of one cache. */
struct tier_cache_stats {
    const char *name;    /* NULL for a size class */
    size_t object_bytes; /* bytes an object takes */
    size_t slab_objects; /* objects in a slab, unless memory was short */
    size_t slab_pages;   /* pages in such a slab */
    size_t slabs;        /* slabs held */
    size_t live;         /* objects in use, or in per-CPU caches */
};

/* A snapshot of a whole slab tier, named caches included. */
struct tier_slab_stats {
    size_t slabs;        /* slabs held */
    size_t pages;        /* pages in them, and in slabs of descriptors */
    size_t live_objects; /* objects in use, or in per-CPU caches */
    size_t live_bytes;   /* bytes in these, rounded up to the object size */
    size_t failed_allocs;
    size_t refused_frees;
};

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Make *slab a slab tier that takes its pages from *source.
 *
 * All pages of the source lie in the span of *map. The slab tier writes their
 * kinds, entries and cuts while it holds them. The struct must not move
 * afterwards. O(classes).
 */
TIERALLOC_API void tier_slab_init(struct tier_slab *slab,
                                  const struct tier_pagemap *map,
                                  const struct tier_page_source *source);

#if TIERALLOC_CHECKS == 2
/* Have faults reported; NULL: not any more. See guard.h. */
TIERALLOC_API void tier_slab_set_report(struct tier_slab *slab,
                                        tier_report_callback report,
                                        void *context);
#endif

/*
 * Make *cache a cache of objects of `object_bytes` bytes, each aligned to
 * `alignment`, under a name for statistics. Takes no memory yet.
 *
 * `construct`, unless NULL, is called for each object once, before it is first
 * handed out; from then on the allocator leaves its contents alone, so what is
 * freed in its constructed state is handed out in it. `flags` are TIER_CACHE_*.
 * The cache and its name must stay where they are until tier_cache_destroy.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_IN_USE     *cache is a cache of this slab tier already;
 *   TIER_ERR_INVALID    object_bytes is 0, alignment no power of two, or a flag
 *                       is unknown;
 *   TIER_ERR_TOO_LARGE  the size, rounded up to the alignment, exceeds
 *                       TIER_SLAB_BYTES_MAX, or the alignment a page.
 */
TIERALLOC_API enum tier_status tier_cache_init(struct tier_cache *cache,
                                               struct tier_slab *slab,
                                               const char *name,
                                               size_t object_bytes,
                                               size_t alignment, unsigned flags,
                                               tier_construct construct);

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
 * exceeds TIER_SLAB_BYTES_MAX.
 */
TIERALLOC_API void *tier_slab_alloc(struct tier_slab *slab, size_t bytes);

/*
 * Free an object of any class or named cache; NULL is a no-op.
 *
 * Returns TIER_OK, or with nothing but a counter changed:
 *   TIER_ERR_FOREIGN      not in a slab of this tier, or of a size class that
 *                         tier_cpucache_init put caches in front of;
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
 * Bytes usable in an object: its class size, at TIERALLOC_CHECKS 2 what was
 * asked for. 0 when `object` is not the start of an object in use, or at
 * TIERALLOC_CHECKS 0 when it is in no slab; one that waits for a CPU counts as
 * in use.
 */
TIERALLOC_API size_t tier_slab_usable_size(const struct tier_slab *slab,
                                           const void *object);

/* Bytes of an object of a size class; class is below TIER_SLAB_CLASSES. */
TIERALLOC_API size_t tier_slab_class_bytes(size_t size_class);

/* Copy the counters of a size class; class is below TIER_SLAB_CLASSES. O(1). */
TIERALLOC_API void tier_slab_class_stats(const struct tier_slab *slab,
                                         size_t size_class,
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

#ifdef TIER_LAYOUT_DEFINE_
TIER_LAYOUT_DEFINE_(OBJECT_MAX);
TIER_LAYOUT_DEFINE_(CLASS_STEPS);
TIER_LAYOUT_DEFINE_(MIN_ALIGN);
TIER_LAYOUT_DEFINE_(CHECKS);
#endif

/*
 * One slab. Its objects end where its pages end; what they leave unused lies
 * before the first. `bits` has a set bit for each object that is free.
 */
struct tier_slab_desc_ {
    struct tier_slab_desc_ *next; /* on a list of its cache; NULL at an end */
    struct tier_slab_desc_ *prev;
    struct tier_cache_base *cache;
    unsigned char *base; /* address of object 0 */
    uint16_t free;       /* objects not in use */
    uint16_t objects;    /* objects in all */
    uint16_t carved;     /* objects below this one were made ready for use */
    uint8_t word;        /* no word of bits below this one is not 0 */
    uint8_t pages;
    tier_word_ bits[];
};

/*
 * Most objects in a slab: what the largest descriptor has bits for, and what
 * its counters can count. Pages of 64 KiB and above have room for more of the
 * smallest; see tier_slab_carve_.
 */
#define TIER_SLAB_OBJECTS_MAX_                          \
    (TIER_SLAB_META_CACHES > 4 ? 255U * TIER_WORD_BITS_ \
                               : 64U << 2 * (TIER_SLAB_META_CACHES - 1))

/* The class that pages of named caches show in the map. */
#define TIER_SLAB_NAMED_ 0x7FU

/* True when free objects of size classes may hold a mark. */
#define TIER_SLAB_MARKS_ (TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS > 0)

_Static_assert(TIER_SLAB_CLASSES <= TIER_SLAB_NAMED_,
               "a size class fits beside its kind");
_Static_assert(TIER_SLAB_OBJECTS_MAX_ < UINT16_MAX &&
                   TIER_SLAB_OBJECTS_MAX_ / TIER_WORD_BITS_ <= UINT8_MAX,
               "a number of objects, and an index of a word of bits, fits");
_Static_assert(TIERALLOC_OBJECT_MAX <= UINT16_MAX,
               "the size of an object fits");
_Static_assert(TIERALLOC_OBJECT_MAX <= (uint64_t)1
                                           << (32 - TIERALLOC_PAGE_SHIFT),
               "offset * reciprocal is exact in a slab of one page: "
               "lower TIERALLOC_OBJECT_MAX");

_Static_assert(TIERALLOC_OBJECT_MAX <= TIER_SLAB_PAGES_MAX * TIER_PAGE_SIZE &&
                   TIERALLOC_OBJECT_MAX <= TIER_BLOCK_MAX,
               "the largest object fits a slab: lower TIERALLOC_OBJECT_MAX");

/* --- Size classes --- */

/* Consecutive classes from `first` on, each as often as R repeats it. */
#if TIERALLOC_CLASS_STEPS == 4
#define TIER_STEPS_(R, first) \
    R(first), R((first) + 1), R((first) + 2), R((first) + 3)
#else
#define TIER_STEPS_(R, first)                                                 \
    R(first), R((first) + 1), R((first) + 2), R((first) + 3), R((first) + 4), \
        R((first) + 5), R((first) + 6), R((first) + 7)
#endif

/* The classes of doubling d above 64 bytes. */
#define TIER_DOUBLING_(R, d) TIER_STEPS_(R, 8 + (d)*TIERALLOC_CLASS_STEPS)

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
#if TIERALLOC_CLASS_STEPS == 4
    TIER_DOUBLING_(TIER_R2_, 0),
    TIER_DOUBLING_(TIER_R4_, 1),
    TIER_DOUBLING_(TIER_R8_, 2),
    TIER_DOUBLING_(TIER_R16_, 3),
#else
    TIER_DOUBLING_(TIER_R1_, 0),
    TIER_DOUBLING_(TIER_R2_, 1),
    TIER_DOUBLING_(TIER_R4_, 2),
    TIER_DOUBLING_(TIER_R8_, 3),
#endif
};

#if TIERALLOC_OBJECT_MAX > 1024
/* Bytes by which sizes above 1024 are told apart. */
#define TIER_SLAB_COARSE_ (1024U / TIERALLOC_CLASS_STEPS)

/* Class of such a size, by (size - 1) / TIER_SLAB_COARSE_. */
static const uint8_t
    tier_slab_coarse_[TIERALLOC_OBJECT_MAX / TIER_SLAB_COARSE_] = {
        TIER_DOUBLING_(TIER_R1_, 3), /* not used: these sizes are fine */
        TIER_DOUBLING_(TIER_R1_, 4),
#if TIERALLOC_OBJECT_MAX > 2048
        TIER_DOUBLING_(TIER_R2_, 5),
#endif
#if TIERALLOC_OBJECT_MAX > 4096
        TIER_DOUBLING_(TIER_R4_, 6),
#endif
#if TIERALLOC_OBJECT_MAX > 8192
        TIER_DOUBLING_(TIER_R8_, 7),
#endif
#if TIERALLOC_OBJECT_MAX > 16384
        TIER_DOUBLING_(TIER_R16_, 8),
#endif
};
#endif

/*
 * The class that serves `bytes`, at most TIER_SLAB_BYTES_MAX. A constant for a
 * constant.
 */
TIER_INLINE_ size_t tier_slab_class_(size_t bytes)
{
    bytes += TIER_GUARD_BYTES + (TIERALLOC_CHECKS == 2 && bytes == 0);
#if TIERALLOC_MIN_ALIGN > 8
    bytes = (bytes + (bytes == 0) + TIERALLOC_MIN_ALIGN - 1) &
            ~(size_t)(TIERALLOC_MIN_ALIGN - 1);
#endif
#if TIERALLOC_OBJECT_MAX > 1024
    if (TIER_UNLIKELY_(bytes > 1024)) {
        return tier_slab_coarse_[(bytes - 1) / TIER_SLAB_COARSE_];
    }
#endif
    return tier_slab_fine_[(bytes + 7) / 8];
}

TIERALLOC_API size_t tier_slab_class_bytes(size_t size_class)
{
    if (size_class < 8) {
        return (size_class + 1) * 8;
    }
    size_t doubling = (size_class - 8) / TIERALLOC_CLASS_STEPS;
    size_t step = (size_class - 8) % TIERALLOC_CLASS_STEPS + 1;

    return ((size_t)64 << doubling) +
           ((size_t)(64 / TIERALLOC_CLASS_STEPS) << doubling) * step;
}

/* --- Geometry of a slab --- */

/* The cache whose slabs hold descriptors for so many objects. */
static unsigned tier_slab_meta_for_(size_t objects)
{
    unsigned meta = 0;

    while (objects > (size_t)64 << 2 * meta) {
        meta++;
    }
    return meta;
}

/* Bytes of a descriptor for a slab of up to `objects` objects. */
TIER_INLINE_ size_t tier_slab_desc_bytes_(size_t objects)
{
    size_t words = (objects + TIER_WORD_BITS_ - 1) / TIER_WORD_BITS_;

    return sizeof(struct tier_slab_desc_) + words * sizeof(tier_word_);
}

/* Objects in a slab of so many pages. */
static size_t tier_cache_objects_(size_t object_bytes, size_t pages)
{
    size_t objects = pages * TIER_PAGE_SIZE / object_bytes;

    return objects < TIER_SLAB_OBJECTS_MAX_ ? objects : TIER_SLAB_OBJECTS_MAX_;
}

/* Pages that so many objects need. */
static size_t tier_cache_pages_(size_t object_bytes, size_t objects)
{
    return (objects * object_bytes + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE;
}

/* True when a slab of so many pages can exist for a size. */
TIER_INLINE_ bool tier_cache_allows_(size_t object_bytes, size_t pages)
{
    size_t bytes = pages * TIER_PAGE_SIZE;

    return pages <= TIER_SLAB_PAGES_MAX && bytes <= TIER_BLOCK_MAX &&
           bytes <= UINT32_MAX / object_bytes; /* see tier_cache_index_ */
}

/* Bytes of so many pages that hold no object, and of what describes them. */
static size_t tier_cache_waste_(size_t object_bytes, size_t pages)
{
    size_t objects = tier_cache_objects_(object_bytes, pages);
    size_t room = (size_t)64 << 2 * tier_slab_meta_for_(objects);

    return pages * TIER_PAGE_SIZE - objects * object_bytes +
           tier_slab_desc_bytes_(room);
}

/*
 * A slab is large enough when it wastes no more than one part in so many, and
 * has so many objects of up to 1024 bytes, or of more.
 */
#define TIER_SLAB_WASTE_ 160
#define TIER_SLAB_MANY_  64
#define TIER_SLAB_SOME_  16

/*
 * Pages for a slab: the fewest that are enough; failing that, those that waste
 * least.
 */
static size_t tier_cache_best_pages_(size_t object_bytes)
{
    size_t best = tier_cache_pages_(object_bytes, 1);
    size_t least = tier_cache_waste_(object_bytes, best);
    size_t enough = object_bytes <= 1024 ? TIER_SLAB_MANY_ : TIER_SLAB_SOME_;

    for (size_t pages = best; tier_cache_allows_(object_bytes, pages);
         pages++) {
        size_t waste = tier_cache_waste_(object_bytes, pages);

        if (waste * best < least * pages) {
            best = pages;
            least = waste;
        }
        if (waste * TIER_SLAB_WASTE_ <= pages * TIER_PAGE_SIZE &&
            pages * TIER_PAGE_SIZE / object_bytes >= enough) {
            break;
        }
    }
    return best;
}

/* What brings a number of free objects to the number of a list. */
static unsigned tier_cache_shift_(size_t objects)
{
    unsigned shift = 0;

    while (objects >> shift >= (size_t)TIER_SLAB_FILLS * 2) {
        shift++;
    }
    return shift;
}

/* Set what all caches have in common. */
static void tier_cache_set_(struct tier_cache_base *cache,
                            struct tier_slab *slab, unsigned kind,
                            size_t object_bytes, size_t objects)
{
    cache->slab = slab;
    cache->current = NULL;
    for (unsigned i = 0; i < TIER_SLAB_FILLS; i++) {
        cache->partial[i] = NULL;
        TIER_OPAQUE_(i);
    }
    cache->empty = NULL;
    cache->live = 0;
    cache->slabs = 0;
    cache->reciprocal = (uint32_t)(UINT32_MAX / object_bytes + 1);
    cache->object_bytes = (uint16_t)object_bytes;
    cache->slab_objects = (uint16_t)objects;
    cache->kind = (uint8_t)kind;
    cache->fill_shift = (uint8_t)tier_cache_shift_(objects);
}

/* A cache whose descriptors lie elsewhere: a size class or a named cache. */
static void tier_cache_shape_(struct tier_cache_base *cache,
                              struct tier_slab *slab, unsigned kind,
                              size_t object_bytes)
{
    size_t pages = tier_cache_best_pages_(object_bytes);
    size_t objects = tier_cache_objects_(object_bytes, pages);

    tier_cache_set_(cache, slab, kind, object_bytes, objects);
    cache->slab_pages = (uint8_t)tier_cache_pages_(object_bytes, objects);
    cache->meta = (uint8_t)tier_slab_meta_for_(objects);
}

/* A cache of descriptors: one page, whose own descriptor comes first in it. */
static void tier_cache_shape_meta_(struct tier_cache_base *cache,
                                   struct tier_slab *slab, unsigned meta)
{
    size_t object_bytes = tier_slab_desc_bytes_((size_t)64 << 2 * meta);
    size_t objects = tier_cache_objects_(object_bytes, 1);

    while (tier_slab_desc_bytes_(objects) + objects * object_bytes >
           TIER_PAGE_SIZE) {
        objects--;
    }
    tier_cache_set_(cache, slab, TIER_KIND_META, object_bytes, objects);
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
    slab->pages = 0;
    slab->grown = 0;
    slab->failed_allocs = 0;
    slab->refused_frees = 0;
#if TIERALLOC_CPUS > 0
    slab->cached = false;
#endif
#if TIERALLOC_CHECKS == 2
    tier_slab_set_report(slab, NULL, NULL);
#endif
    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        tier_cache_shape_meta_(&slab->meta[i], slab, i);
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_cache_shape_(&slab->classes[i], slab, TIER_KIND_SLAB | i,
                          tier_slab_class_bytes(i));
    }
}

/* --- Named caches --- */

/* True for the base of a named cache. */
TIER_INLINE_ bool tier_cache_is_named_(const struct tier_cache_base *cache)
{
    return cache->kind == (TIER_KIND_SLAB | TIER_SLAB_NAMED_);
}

/* The named cache that has this base. */
TIER_INLINE_ const struct tier_cache *tier_cache_of_(
    const struct tier_cache_base *base)
{
    return (const struct tier_cache *)(const void *)base;
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

/* Bytes that an object of a named cache takes; more than the largest: none. */
static size_t tier_cache_slot_(size_t object_bytes, size_t alignment)
{
    if (alignment < TIERALLOC_MIN_ALIGN) {
        alignment = TIERALLOC_MIN_ALIGN;
    }
    if (object_bytes > TIER_SLAB_BYTES_MAX || alignment > TIER_PAGE_SIZE) {
        return SIZE_MAX;
    }
    return (object_bytes + TIER_GUARD_BYTES + alignment - 1) & ~(alignment - 1);
}

TIERALLOC_API enum tier_status tier_cache_init(struct tier_cache *cache,
                                               struct tier_slab *slab,
                                               const char *name,
                                               size_t object_bytes,
                                               size_t alignment, unsigned flags,
                                               tier_construct construct)
{
    size_t slot = tier_cache_slot_(object_bytes, alignment);

    if (*tier_cache_find_(slab, cache) != NULL) {
        return TIER_ERR_IN_USE;
    }
    if (object_bytes == 0 || alignment == 0 ||
        (alignment & (alignment - 1)) != 0 ||
        (flags & ~TIER_CACHE_KEEP_NONE) != 0) {
        return TIER_ERR_INVALID;
    }
    if (slot > TIERALLOC_OBJECT_MAX) {
        return TIER_ERR_TOO_LARGE;
    }
    tier_cache_shape_(&cache->base, slab, TIER_KIND_SLAB | TIER_SLAB_NAMED_,
                      slot);
    cache->name = name;
    cache->construct = construct;
    cache->flags = flags;
#if TIERALLOC_CHECKS == 2
    cache->bytes = object_bytes;
#endif
    cache->next = slab->named;
    slab->named = cache;
    return TIER_OK;
}

/* --- Lists of a cache --- */

/* The list for slabs with so many free objects. */
TIER_INLINE_ unsigned tier_cache_fill_(const struct tier_cache_base *cache,
                                       size_t free)
{
    size_t fill = free >> cache->fill_shift;

    return fill < TIER_SLAB_FILLS ? (unsigned)fill : TIER_SLAB_FILLS - 1;
}

/* Put a slab at the front of a list. */
TIER_INLINE_ void tier_cache_link_(struct tier_slab_desc_ **list,
                                   struct tier_slab_desc_ *desc)
{
    desc->next = *list;
    desc->prev = NULL;
    if (*list != NULL) {
        (*list)->prev = desc;
    }
    *list = desc;
}

/* Take a slab off a list, wherever in it. */
TIER_INLINE_ void tier_cache_unlink_(struct tier_slab_desc_ **list,
                                     const struct tier_slab_desc_ *desc)
{
    if (desc->next != NULL) {
        desc->next->prev = desc->prev;
    }
    if (desc->prev != NULL) {
        desc->prev->next = desc->next;
    } else {
        *list = desc->next;
    }
}

/* True when a cache keeps one slab without a used object. */
TIER_INLINE_ bool tier_cache_keeps_(const struct tier_cache_base *cache)
{
    return !tier_cache_is_named_(cache) ||
           (tier_cache_of_(cache)->flags & TIER_CACHE_KEEP_NONE) == 0;
}

/* The slab that holds an address, which is in one. */
TIER_INLINE_ struct tier_slab_desc_ *tier_slab_of_(
    const struct tier_pagemap *map, const void *address)
{
    return (struct tier_slab_desc_ *)map
        ->entry[tier_pagemap_index_(map, address)]
        .slab;
}

/* True when no object of a slab is in use. */
TIER_INLINE_ bool tier_slab_is_empty_(const struct tier_slab_desc_ *desc)
{
    return desc->free == desc->objects;
}

/* --- Objects of a slab --- */

TIER_INLINE_ void *tier_slab_object_(const struct tier_slab_desc_ *desc,
                                     size_t index)
{
    return desc->base + index * (size_t)desc->cache->object_bytes;
}

/* Index of the first page of a slab. */
TIER_INLINE_ size_t tier_slab_first_(const struct tier_slab *slab,
                                     const struct tier_slab_desc_ *desc)
{
    if (desc->cache->kind == TIER_KIND_META) {
        return tier_pagemap_index_(&slab->map, desc);
    }
    return tier_pagemap_index_(&slab->map, desc->base);
}

#if TIER_SLAB_MARKS_ || TIERALLOC_CHECKS == 2
/*
 * The first word of each object that is free or waits for a CPU holds this: an
 * object in use hardly ever does. What does is looked at closely.
 */
TIER_INLINE_ uintptr_t tier_slab_mark_(const struct tier_pagemap *map,
                                       const void *object)
{
#if TIERALLOC_CPUS > 0
    return (uintptr_t)object ^ (uintptr_t)map->cut; /* is in a register */
#else
    return (uintptr_t)object ^ (uintptr_t)map->entry;
#endif
}
#endif

/*
 * What the map says of a page whose objects the per-CPU caches may take and
 * give: the class and one in the upper bits, and in the lower five the pages
 * from this one to the end of its slab.
 */
TIER_INLINE_ unsigned tier_slab_cut_(const struct tier_cache_base *cache,
                                     size_t pages)
{
    return (((cache->kind & ~TIER_KIND_SLAB) + 1) << 5) | (unsigned)pages;
}

#if TIERALLOC_CHECKS == 2
/* What guard.h needs to know of an object of a cache. */
static void tier_slab_guard_(const struct tier_slab *slab,
                             const struct tier_cache_base *cache,
                             struct tier_guard_ *guard)
{
    guard->report = slab->report;
    guard->context = slab->report_context;
    guard->cache =
        tier_cache_is_named_(cache) ? tier_cache_of_(cache)->name : NULL;
    guard->object_bytes = cache->object_bytes;
    guard->fresh = false;
}

/* True when free objects of a cache are filled with a pattern. */
static bool tier_slab_fills_(const struct tier_cache_base *cache)
{
    return !tier_cache_is_named_(cache) ||
           tier_cache_of_(cache)->construct == NULL;
}

TIERALLOC_API void tier_slab_set_report(struct tier_slab *slab,
                                        tier_report_callback report,
                                        void *context)
{
    slab->report = report;
    slab->report_context = context;
}
#endif

/* Make an object ready that nobody had yet. */
TIER_INLINE_ void tier_slab_make_(const struct tier_slab *slab,
                                  const struct tier_cache_base *cache,
                                  void *object)
{
    tier_construct construct =
        tier_cache_is_named_(cache) ? tier_cache_of_(cache)->construct : NULL;

#if TIERALLOC_CHECKS == 2
    struct tier_guard_ guard;

    tier_slab_guard_(slab, cache, &guard);
    tier_guard_make_(&guard, object, construct == NULL);
#endif
    if (construct != NULL) {
        construct(object);
        return;
    }
#if TIER_SLAB_MARKS_ || TIERALLOC_CHECKS == 2
    *(tier_alias_word_ *)object = tier_slab_mark_(&slab->map, object);
#else
    (void)slab;
#endif
}

/* True when objects of a cache are made ready before they are used. */
static bool tier_cache_carves_(const struct tier_slab *slab,
                               const struct tier_cache_base *cache)
{
    if (TIERALLOC_CHECKS == 2) {
        return true;
    }
    if (tier_cache_is_named_(cache)) {
        return tier_cache_of_(cache)->construct != NULL;
    }
#if TIERALLOC_CPUS > 0
    return slab->cached;
#else
    (void)slab;
    return false;
#endif
}

#if TIERALLOC_CPUS > 0
/* Let the per-CPU caches use the pages in which newly carved objects begin. */
static void tier_slab_expose_(const struct tier_slab *slab,
                              const struct tier_slab_desc_ *desc, size_t before)
{
    size_t first = tier_slab_first_(slab, desc);
    size_t at = first;
    size_t last = tier_pagemap_index_(
        &slab->map, tier_slab_object_(desc, desc->carved - (size_t)1));

    if (before != 0) {
        at = tier_pagemap_index_(&slab->map,
                                 tier_slab_object_(desc, before - 1)) +
             1;
    }
    for (; at <= last; at++) {
        size_t left = first + desc->pages - at;

        TIER_POKE_(slab->map.cut[at],
                   (uint16_t)tier_slab_cut_(desc->cache, left));
    }
}
#endif

#if TIER_SLAB_MARKS_
/*
 * Mark what lies before object 0 and is as far from the end of the slab as an
 * object would be, as if it were free: room for objects that a slab may not have.
 */
static void tier_slab_mark_rest_(const struct tier_slab *slab,
                                 const struct tier_slab_desc_ *desc)
{
    size_t bytes = desc->cache->object_bytes;
    size_t rest = desc->pages * TIER_PAGE_SIZE - desc->objects * bytes;
    unsigned char *at = desc->base;

    for (; rest >= bytes; rest -= bytes) {
        at -= bytes;
        *(tier_alias_word_ *)(void *)at = tier_slab_mark_(&slab->map, at);
    }
}
#endif

/*
 * Make objects ready up to one that is handed out for the first time, and all
 * others that begin in its page. Cold.
 */
TIER_NOINLINE_ static void tier_slab_carve_(struct tier_slab *slab,
                                            struct tier_slab_desc_ *desc,
                                            size_t index)
{
    uintptr_t page =
        (uintptr_t)tier_slab_object_(desc, index) >> TIERALLOC_PAGE_SHIFT;
    size_t before = desc->carved;
    size_t carved = before;

    for (; carved < desc->objects; carved++) {
        void *object = tier_slab_object_(desc, carved);

        if ((uintptr_t)object >> TIERALLOC_PAGE_SHIFT > page) {
            break;
        }
        tier_slab_make_(slab, desc->cache, object);
    }
    desc->carved = (uint16_t)carved;
#if TIER_SLAB_MARKS_
    if (before == 0 && !tier_cache_is_named_(desc->cache)) {
        tier_slab_mark_rest_(slab, desc);
    }
#endif
#if TIERALLOC_CPUS > 0
    if (slab->cached && !tier_cache_is_named_(desc->cache)) {
        tier_slab_expose_(slab, desc, before);
    }
#endif
    (void)before;
}

/* True when the word of bits that a slab is at has a free object. */
TIER_INLINE_ bool tier_slab_is_at_hand_(const struct tier_slab_desc_ *desc)
{
    return desc->bits[desc->word] != 0;
}

/* Take the next free object, which is at hand, of the current slab: its index.*/
TIER_INLINE_ size_t tier_cache_take_index_(struct tier_cache_base *cache,
                                           struct tier_slab_desc_ *desc)
{
    size_t word = desc->word;
    tier_word_ bits = desc->bits[word];
    size_t free = (size_t)desc->free - 1;

    desc->bits[word] = bits & (bits - 1);
    desc->free = (uint16_t)free;
    cache->live++;
    if (free == 0) {
        cache->current = NULL;
    }
    return word * TIER_WORD_BITS_ + tier_ctz_word_(bits);
}

/* Take a free object of the current slab of a cache. */
TIER_INLINE_ void *tier_cache_take_(struct tier_slab *slab,
                                    struct tier_cache_base *cache,
                                    struct tier_slab_desc_ *desc)
{
    while (!tier_slab_is_at_hand_(desc)) {
        desc->word++;
    }
    size_t index = tier_cache_take_index_(cache, desc);

    if (TIER_UNLIKELY_(index >= desc->carved)) {
        tier_slab_carve_(slab, desc, index);
    }
    return desc->base + index * (size_t)cache->object_bytes;
}

/*
 * Index of the object that holds the byte at an offset: a division by
 * multiplication, exact while offset * object_bytes < 2^32.
 */
TIER_INLINE_ size_t tier_cache_index_(const struct tier_cache_base *cache,
                                      size_t offset)
{
    return (size_t)((uint64_t)offset * cache->reciprocal >> 32);
}

/* --- Taking and giving back slabs --- */

/* Name the pages of a slab in the map. */
TIER_INLINE_ void tier_slab_claim_(struct tier_slab *slab,
                                   struct tier_slab_desc_ *desc, size_t first)
{
    uint8_t *kind = slab->map.kind + first;
    union tier_page_entry *entry = slab->map.entry + first;
    uint8_t claimed = desc->cache->kind;
    size_t pages = desc->pages;

    slab->pages += pages;
    desc->cache->slabs++;
    for (; pages >= 4; pages -= 4, kind += 4, entry += 4) {
        entry[0].slab = desc;
        entry[1].slab = desc;
        entry[2].slab = desc;
        entry[3].slab = desc;
        kind[0] = claimed;
        kind[1] = claimed;
        kind[2] = claimed;
        kind[3] = claimed;
        TIER_OPAQUE_(pages);
    }
    for (; pages != 0; pages--, kind++, entry++) {
        entry->slab = desc;
        *kind = claimed;
        TIER_OPAQUE_(pages);
    }
}

/* Make a descriptor tell of a slab of so many pages with every object free. */
TIER_INLINE_ void tier_slab_describe_(struct tier_slab *slab,
                                      struct tier_slab_desc_ *desc,
                                      struct tier_cache_base *cache,
                                      void *memory, size_t pages)
{
    size_t objects = pages == cache->slab_pages
                         ? cache->slab_objects
                         : tier_cache_objects_(cache->object_bytes, pages);
    size_t bytes = objects * cache->object_bytes;
    size_t left = objects;
    unsigned word = 0;

    desc->cache = cache;
    desc->base = (unsigned char *)memory + pages * TIER_PAGE_SIZE - bytes;
    desc->free = (uint16_t)objects;
    desc->objects = (uint16_t)objects;
    desc->carved = tier_cache_carves_(slab, cache) ? 0 : (uint16_t)objects;
    desc->word = 0;
    desc->pages = (uint8_t)pages;
    for (; left >= TIER_WORD_BITS_; left -= TIER_WORD_BITS_) {
        desc->bits[word++] = ~(tier_word_)0;
        TIER_OPAQUE_(word);
    }
    if (left != 0) {
        desc->bits[word] = ((tier_word_)1 << left) - 1;
    }
    tier_slab_claim_(slab, desc, tier_pagemap_index_(&slab->map, memory));
}

/* A slab of descriptors becomes current; false when the source has no page. */
TIER_NOINLINE_ static bool tier_cache_grow_meta_(struct tier_slab *slab,
                                                 struct tier_cache_base *cache)
{
    struct tier_slab_desc_ *desc =
        (struct tier_slab_desc_ *)slab->source.acquire(slab->source.context, 1);

    if (desc == NULL) {
        return false;
    }
    tier_slab_describe_(slab, desc, cache, desc, 1);
    desc->carved = desc->objects;
    cache->current = desc;
    return true;
}

/* Make the fullest slab that a cache holds current; NULL when all are full. */
static struct tier_slab_desc_ *tier_cache_pick_(struct tier_cache_base *cache)
{
    struct tier_slab_desc_ *desc = cache->current;

    for (unsigned i = 0; i < TIER_SLAB_FILLS && desc == NULL; i++) {
        desc = cache->partial[i];
        if (desc != NULL) {
            tier_cache_unlink_(&cache->partial[i], desc);
        }
    }
    if (desc == NULL) {
        desc = cache->empty;
        cache->empty = NULL;
    }
    cache->current = desc;
    return desc;
}

/* A descriptor that is not in use; NULL when there is no page for more. */
static struct tier_slab_desc_ *tier_slab_new_desc_(struct tier_slab *slab,
                                                   struct tier_cache_base *meta)
{
    if (meta->current == NULL && tier_cache_pick_(meta) == NULL &&
        !tier_cache_grow_meta_(slab, meta)) {
        return NULL;
    }
    return (struct tier_slab_desc_ *)tier_cache_take_(slab, meta,
                                                      meta->current);
}

/*
 * Acquire pages for a slab: as many as it should have, or when memory is short
 * half as many, down to those that one object needs.
 */
static void *tier_slab_acquire_(struct tier_slab *slab,
                                const struct tier_cache_base *cache,
                                size_t *pages)
{
    size_t least = tier_cache_pages_(cache->object_bytes, 1);
    void *memory;

    *pages = cache->slab_pages;
    memory = slab->source.acquire(slab->source.context, *pages);
    while (memory == NULL && *pages > least) {
        size_t objects = tier_cache_objects_(cache->object_bytes, *pages);

        *pages = tier_cache_pages_(cache->object_bytes, objects / 2);
        memory = slab->source.acquire(slab->source.context, *pages);
    }
    return memory;
}

/* Leave the map as it was before the slab. */
static void tier_slab_disclaim_(const struct tier_slab *slab, size_t first,
                                size_t pages)
{
    uint8_t *kind = slab->map.kind + first;

#if TIERALLOC_CPUS > 0
    for (size_t i = first; slab->cached && i < first + pages; i++) {
        TIER_POKE_(slab->map.cut[i], 0);
        TIER_OPAQUE_(i);
    }
#endif
    for (; pages >= 4; pages -= 4, kind += 4) {
        kind[0] = TIER_KIND_NONE;
        kind[1] = TIER_KIND_NONE;
        kind[2] = TIER_KIND_NONE;
        kind[3] = TIER_KIND_NONE;
        TIER_OPAQUE_(pages);
    }
    for (; pages != 0; pages--, kind++) {
        *kind = TIER_KIND_NONE;
        TIER_OPAQUE_(pages);
    }
}

/* Give the pages of a slab that is on no list back to the source. */
static void tier_slab_release_(struct tier_slab *slab,
                               const struct tier_slab_desc_ *desc)
{
    size_t first = tier_slab_first_(slab, desc);
    size_t pages = desc->pages;

    tier_slab_disclaim_(slab, first, pages);
    slab->pages -= pages;
    desc->cache->slabs--;
    slab->source.release(slab->source.context,
                         tier_pagemap_address_(&slab->map, first), pages);
}

/* Put an object's bit back. */
TIER_INLINE_ void tier_slab_put_(struct tier_slab_desc_ *desc, size_t index)
{
    size_t word = index / TIER_WORD_BITS_;

    desc->bits[word] |= (tier_word_)1 << index % TIER_WORD_BITS_;
    if (word < desc->word) {
        desc->word = (uint8_t)word;
    }
    desc->free++;
    desc->cache->live--;
}

/*
 * Put a slab that has one free object more on the list where it belongs now:
 * on none if it is current, or has become empty.
 */
TIER_INLINE_ void tier_cache_relist_(struct tier_cache_base *cache,
                                     struct tier_slab_desc_ *desc)
{
    size_t free = desc->free;
    unsigned from = tier_cache_fill_(cache, free - 1);
    unsigned to = tier_cache_fill_(cache, free);
    bool leaves = free > 1 && (from != to || tier_slab_is_empty_(desc));

    if (desc == cache->current) {
        return;
    }
    if (leaves) {
        tier_cache_unlink_(&cache->partial[from], desc);
    }
    if ((leaves || free == 1) && !tier_slab_is_empty_(desc)) {
        tier_cache_link_(&cache->partial[to], desc);
    }
}

/* Free a descriptor; a page of them goes back as soon as it is empty. */
static void tier_slab_free_desc_(struct tier_slab *slab,
                                 const struct tier_slab_desc_ *desc)
{
    struct tier_slab_desc_ *own = tier_slab_of_(&slab->map, desc);
    struct tier_cache_base *meta = own->cache;
    size_t offset = (uintptr_t)desc - (uintptr_t)own->base;

    tier_slab_put_(own, tier_cache_index_(meta, offset));
    tier_cache_relist_(meta, own);
    if (tier_slab_is_empty_(own)) {
        if (meta->current == own) {
            meta->current = NULL;
        }
        tier_slab_release_(slab, own);
    }
}

/*
 * Add a slab of objects and make it current; NULL, with nothing held, when the
 * source has no pages for it or for its descriptor.
 */
static struct tier_slab_desc_ *tier_cache_grow_(struct tier_slab *slab,
                                                struct tier_cache_base *cache)
{
    size_t pages;
    struct tier_slab_desc_ *desc =
        tier_slab_new_desc_(slab, &slab->meta[cache->meta]);

    if (desc == NULL) {
        return NULL;
    }
    void *memory = tier_slab_acquire_(slab, cache, &pages);

    if (memory == NULL) {
        tier_slab_free_desc_(slab, desc);
        return NULL;
    }
    tier_slab_describe_(slab, desc, cache, memory, pages);
    slab->grown++;
    cache->current = desc;
    return desc;
}

/* Give a slab of objects back, and its descriptor. */
static void tier_slab_discard_(struct tier_slab *slab,
                               const struct tier_slab_desc_ *desc)
{
    tier_slab_release_(slab, desc);
    tier_slab_free_desc_(slab, desc);
}

/* Give the kept empty slab of a cache back, wherever it is kept. */
static void tier_cache_trim_(struct tier_slab *slab,
                             struct tier_cache_base *cache)
{
    if (cache->empty != NULL) {
        tier_slab_discard_(slab, cache->empty);
        cache->empty = NULL;
    }
    if (cache->current != NULL && tier_slab_is_empty_(cache->current)) {
        tier_slab_discard_(slab, cache->current);
        cache->current = NULL;
    }
}

/* Keep a slab that has become empty, or give it back: one is kept. */
static void tier_cache_retire_(struct tier_slab *slab,
                               struct tier_cache_base *cache,
                               struct tier_slab_desc_ *desc)
{
    if (desc != cache->current &&
        (cache->empty != NULL ||
         (cache->current != NULL && tier_slab_is_empty_(cache->current)))) {
        tier_slab_discard_(slab, desc);
    } else if (desc != cache->current) {
        cache->empty = desc;
    } else if (cache->empty != NULL) {
        tier_slab_discard_(slab, cache->empty);
        cache->empty = NULL;
    }
    if (!tier_cache_keeps_(cache)) {
        tier_cache_trim_(slab, cache);
    }
}

/*
 * Give a slab that has lost its last object in use back to the source. NULL, or
 * one with an object in use, stays.
 */
TIER_LOCAL_ void tier_slab_discard_empty_(struct tier_slab *slab,
                                          struct tier_slab_desc_ *desc)
{
    if (desc == NULL || !tier_slab_is_empty_(desc)) {
        return;
    }
    if (desc->cache->empty == desc) {
        desc->cache->empty = NULL;
    } else if (desc->cache->current == desc) {
        desc->cache->current = NULL;
    }
    tier_slab_discard_(slab, desc);
}

/* Settle a slab of objects that has one free object more. Cold. */
TIER_NOINLINE_ static void tier_slab_settle_(struct tier_slab *slab,
                                             struct tier_slab_desc_ *desc)
{
    tier_cache_relist_(desc->cache, desc);
    if (tier_slab_is_empty_(desc)) {
        tier_cache_retire_(slab, desc->cache, desc);
    }
}

/* Put an object back into its slab. */
TIER_INLINE_ void tier_slab_give_(struct tier_slab *slab,
                                  struct tier_slab_desc_ *desc, size_t index)
{
    tier_slab_put_(desc, index);

    const struct tier_cache_base *cache = desc->cache;
    bool settles;

    if (desc == cache->current) {
        settles = tier_slab_is_empty_(desc) &&
                  (cache->empty != NULL || !tier_cache_keeps_(cache));
    } else {
        size_t mask = ((size_t)1 << cache->fill_shift) - 1;

        settles = (desc->free & mask) <= 1 || tier_slab_is_empty_(desc);
    }
    if (TIER_UNLIKELY_(settles)) {
        tier_slab_settle_(slab, desc);
    }
}

/* --- Allocation --- */

/* Allocate when no slab is current, or has nothing at hand. Cold. */
TIER_NOINLINE_ static void *tier_cache_alloc_slow_(
    struct tier_slab *slab, struct tier_cache_base *cache)
{
    struct tier_slab_desc_ *desc = tier_cache_pick_(cache);

    if (desc == NULL) {
        desc = tier_cache_grow_(slab, cache);
    }
    if (desc == NULL) {
        slab->failed_allocs++;
        return NULL;
    }
    return tier_cache_take_(slab, cache, desc);
}

/* Allocate an object of a cache. */
TIER_INLINE_ void *tier_cache_alloc_(struct tier_slab *slab,
                                     struct tier_cache_base *cache)
{
    struct tier_slab_desc_ *desc = cache->current;

    if (TIER_UNLIKELY_(desc == NULL || !tier_slab_is_at_hand_(desc))) {
        return tier_cache_alloc_slow_(slab, cache);
    }
    return tier_cache_take_(slab, cache, desc);
}

/* Allocate an object of a size class. */
TIER_INLINE_ void *tier_class_alloc_(struct tier_slab *slab, size_t size_class)
{
    struct tier_cache_base *cache = &slab->classes[size_class];

#if TIER_SLAB_MARKS_ || TIERALLOC_CHECKS == 2
    return tier_cache_alloc_(slab, cache);
#else
    struct tier_slab_desc_ *desc = cache->current;

    if (TIER_UNLIKELY_(desc == NULL || !tier_slab_is_at_hand_(desc))) {
        return tier_cache_alloc_slow_(slab, cache);
    }
    return desc->base +
           tier_cache_take_index_(cache, desc) * (size_t)cache->object_bytes;
#endif
}

/* Make a free object one in use of `bytes` bytes, as far as checks go. */
TIER_INLINE_ void tier_slab_open_(const struct tier_slab *slab,
                                  const struct tier_cache_base *cache,
                                  void *object, size_t bytes, uintptr_t site)
{
#if TIERALLOC_CHECKS == 2
    struct tier_guard_ guard;

    tier_slab_guard_(slab, cache, &guard);
    tier_guard_open_(&guard, object, bytes, tier_slab_mark_(&slab->map, object),
                     site, tier_slab_fills_(cache));
#else
    (void)slab;
    (void)cache;
    (void)object;
    (void)bytes;
    (void)site;
#endif
}

/* Make an object in use a free one, as far as checks go: false if it is one. */
TIER_INLINE_ bool tier_slab_close_(const struct tier_slab *slab,
                                   const struct tier_cache_base *cache,
                                   void *object, uintptr_t site)
{
#if TIERALLOC_CHECKS == 2
    struct tier_guard_ guard;

    tier_slab_guard_(slab, cache, &guard);
    return tier_guard_close_(&guard, object,
                             tier_slab_mark_(&slab->map, object), site,
                             tier_slab_fills_(cache));
#else
    (void)slab;
    (void)cache;
    (void)object;
    (void)site;
    return true;
#endif
}

/* Who is calling the public function that this stands in. */
#if TIERALLOC_CHECKS == 2
#define TIER_SITE_() TIERALLOC_SITE()
#else
#define TIER_SITE_() ((uintptr_t)0)
#endif

TIERALLOC_API void *tier_slab_alloc(struct tier_slab *slab, size_t bytes)
{
    if (TIER_UNLIKELY_(bytes > TIER_SLAB_BYTES_MAX)) {
        return NULL;
    }
    size_t size_class = tier_slab_class_(bytes);
    void *object = tier_class_alloc_(slab, size_class);

#if TIERALLOC_CHECKS == 2
    if (object != NULL) {
        tier_slab_open_(slab, &slab->classes[size_class], object,
                        bytes + (bytes == 0), TIER_SITE_());
    }
#endif
    return object;
}

TIERALLOC_API void *tier_cache_alloc(struct tier_cache *cache)
{
    void *object = tier_cache_alloc_(cache->base.slab, &cache->base);

#if TIERALLOC_CHECKS == 2
    if (object != NULL) {
        tier_slab_open_(cache->base.slab, &cache->base, object, cache->bytes,
                        TIER_SITE_());
    }
#endif
    return object;
}

/* --- Freeing --- */

/* The descriptor of the slab that holds an address; NULL when none does. */
TIER_INLINE_ struct tier_slab_desc_ *tier_slab_find_(
    const struct tier_slab *slab, const void *object)
{
    uintptr_t page = tier_pagemap_index_(&slab->map, object);

    if (TIER_UNLIKELY_(page >= slab->map.pages ||
                       (slab->map.kind[page] & TIER_KIND_SLAB) == 0)) {
        return NULL;
    }
    struct tier_slab_desc_ *desc =
        (struct tier_slab_desc_ *)slab->map.entry[page].slab;

#if TIERALLOC_CHECKS
    if (TIER_UNLIKELY_(desc->cache->slab != slab)) {
        return NULL;
    }
#endif
    return desc;
}

/* True when an object of a slab is free. */
TIER_INLINE_ bool tier_slab_has_(const struct tier_slab_desc_ *desc,
                                 size_t index)
{
    tier_word_ bit = (tier_word_)1 << index % TIER_WORD_BITS_;

    return (desc->bits[index / TIER_WORD_BITS_] & bit) != 0;
}

/* Find the object at an address, which lies in the slab; say what is wrong. */
TIER_INLINE_ enum tier_status tier_slab_locate_(
    const struct tier_slab_desc_ *desc, const void *object, size_t *index)
{
    size_t offset = (uintptr_t)object - (uintptr_t)desc->base;

    *index = tier_cache_index_(desc->cache, offset);
#if TIERALLOC_CHECKS
    if (TIER_UNLIKELY_(*index * desc->cache->object_bytes != offset ||
                       *index >= desc->objects)) {
        return TIER_ERR_INTERIOR;
    }
    if (TIER_UNLIKELY_(tier_slab_has_(desc, *index))) {
        return TIER_ERR_DOUBLE_FREE;
    }
#endif
    return TIER_OK;
}

#if TIERALLOC_CHECKS == 2
/* Tell of a refused free at the start of an object. */
static void tier_slab_tell_(const struct tier_slab *slab, const void *object,
                            enum tier_status status)
{
    const struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);
    enum tier_fault fault = status == TIER_ERR_DOUBLE_FREE
                                ? TIER_FAULT_DOUBLE_FREE
                                : TIER_FAULT_WRONG_SIZE;
    struct tier_guard_ guard;
    size_t index;

    if ((status != TIER_ERR_DOUBLE_FREE && status != TIER_ERR_WRONG_SIZE) ||
        desc == NULL ||
        tier_slab_locate_(desc, object, &index) == TIER_ERR_INTERIOR) {
        return;
    }
    tier_slab_guard_(slab, desc->cache, &guard);
    guard.fresh = index >= desc->carved;
    tier_guard_tell_(&guard, object, fault, 0,
                     ((const unsigned char *)object)[0]);
}
#endif

/* Count a refused free, and at TIERALLOC_CHECKS 2 tell of it. Cold. */
TIER_NOINLINE_ static enum tier_status tier_slab_refuse_(
    struct tier_slab *slab, const void *object, enum tier_status status)
{
    if (object == NULL) {
        return TIER_OK;
    }
    slab->refused_frees++;
#if TIERALLOC_CHECKS == 2
    tier_slab_tell_(slab, object, status);
#endif
    return status;
}

/* True when a request of `bytes` bytes could have given an object of a cache.*/
TIER_INLINE_ bool tier_slab_suits_(const struct tier_slab *slab,
                                   const struct tier_cache_base *cache,
                                   size_t bytes)
{
    return bytes <= TIER_SLAB_BYTES_MAX &&
           bytes + TIER_GUARD_BYTES <= cache->object_bytes &&
           (tier_cache_is_named_(cache) ||
            cache == &slab->classes[tier_slab_class_(bytes)]);
}

/* No size was given with a free. */
#define TIER_SIZE_UNKNOWN_ SIZE_MAX

/* A size that was given, as one that is not unknown: just as much too large. */
TIER_INLINE_ size_t tier_slab_known_(size_t bytes)
{
    return bytes - (bytes == TIER_SIZE_UNKNOWN_);
}

/* Free an object of the slab that a descriptor tells of. */
TIER_INLINE_ enum tier_status tier_slab_free_in_(struct tier_slab *slab,
                                                 struct tier_slab_desc_ *desc,
                                                 void *object, size_t bytes,
                                                 uintptr_t site)
{
    size_t index;
    enum tier_status status = tier_slab_locate_(desc, object, &index);

#if TIERALLOC_CHECKS
    if (status == TIER_OK && bytes != TIER_SIZE_UNKNOWN_ &&
        !tier_slab_suits_(slab, desc->cache, bytes)) {
        status = TIER_ERR_WRONG_SIZE;
    }
#else
    (void)bytes;
#endif
    if (TIER_UNLIKELY_(status != TIER_OK)) {
        return tier_slab_refuse_(slab, object, status);
    }
    (void)tier_slab_close_(slab, desc->cache, object, site);
    tier_slab_give_(slab, desc, index);
    return TIER_OK;
}

/* True when the per-CPU caches alone may free an object of a cache. */
TIER_INLINE_ bool tier_slab_is_fronted_(const struct tier_slab *slab,
                                        const struct tier_cache_base *cache)
{
#if TIERALLOC_CPUS > 0 && TIERALLOC_CHECKS
    return slab->cached && !tier_cache_is_named_(cache);
#else
    (void)slab;
    (void)cache;
    return false;
#endif
}

/* tier_slab_free_sized, on behalf of a caller; the size may be unknown. */
TIER_INLINE_ enum tier_status tier_slab_free_at_(struct tier_slab *slab,
                                                 void *object, size_t bytes,
                                                 uintptr_t site)
{
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (TIER_UNLIKELY_(desc == NULL ||
                       tier_slab_is_fronted_(slab, desc->cache))) {
        return tier_slab_refuse_(slab, object, TIER_ERR_FOREIGN);
    }
    return tier_slab_free_in_(slab, desc, object, bytes, site);
}

TIERALLOC_API enum tier_status tier_slab_free(struct tier_slab *slab,
                                              void *object)
{
    return tier_slab_free_at_(slab, object, TIER_SIZE_UNKNOWN_, TIER_SITE_());
}

TIERALLOC_API enum tier_status tier_slab_free_sized(struct tier_slab *slab,
                                                    void *object, size_t bytes)
{
    return tier_slab_free_at_(slab, object, tier_slab_known_(bytes),
                              TIER_SITE_());
}

TIERALLOC_API enum tier_status tier_cache_free(struct tier_cache *cache,
                                               void *object)
{
    struct tier_slab *slab = cache->base.slab;
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (TIER_UNLIKELY_(desc == NULL || desc->cache != &cache->base)) {
        return tier_slab_refuse_(slab, object, TIER_ERR_FOREIGN);
    }
    return tier_slab_free_in_(slab, desc, object, TIER_SIZE_UNKNOWN_,
                              TIER_SITE_());
}

/* --- Giving memory back --- */

TIERALLOC_API size_t tier_slab_trim(struct tier_slab *slab)
{
    size_t before = slab->pages;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_cache_trim_(slab, &slab->classes[i]);
    }
    for (struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        tier_cache_trim_(slab, &c->base);
    }
    return before - slab->pages;
}

TIERALLOC_API enum tier_status tier_cache_destroy(struct tier_cache *cache)
{
    struct tier_slab *slab = cache->base.slab;
    struct tier_cache **at = tier_cache_find_(slab, cache);

    if (*at == NULL) {
        return TIER_ERR_INVALID;
    }
    if (cache->base.live != 0) {
        return TIER_ERR_IN_USE;
    }
    tier_cache_trim_(slab, &cache->base);
    *at = cache->next;
    return TIER_OK;
}

/* --- Inspection --- */

TIERALLOC_API size_t tier_slab_usable_size(const struct tier_slab *slab,
                                           const void *object)
{
    const struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);
    size_t index;

    if (desc == NULL || tier_slab_locate_(desc, object, &index) != TIER_OK) {
        return 0;
    }
#if TIERALLOC_CHECKS == 2
    struct tier_guard_ guard;

    tier_slab_guard_(slab, desc->cache, &guard);
    return tier_guard_bytes_(&guard, object);
#else
    return desc->cache->object_bytes;
#endif
}

static void tier_cache_base_stats_(const struct tier_cache_base *cache,
                                   struct tier_cache_stats *stats)
{
    stats->name =
        tier_cache_is_named_(cache) ? tier_cache_of_(cache)->name : NULL;
    stats->object_bytes = cache->object_bytes;
    stats->slab_objects = cache->slab_objects;
    stats->slab_pages = cache->slab_pages;
    stats->slabs = cache->slabs;
    stats->live = cache->live;
}

TIERALLOC_API void tier_cache_stats(const struct tier_cache *cache,
                                    struct tier_cache_stats *stats)
{
    tier_cache_base_stats_(&cache->base, stats);
}

TIERALLOC_API void tier_slab_class_stats(const struct tier_slab *slab,
                                         size_t size_class,
                                         struct tier_cache_stats *stats)
{
    tier_cache_base_stats_(&slab->classes[size_class], stats);
}

static void tier_slab_stats_add_(struct tier_slab_stats *stats,
                                 const struct tier_cache_base *cache)
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
    stats->pages = slab->pages;
    stats->failed_allocs = slab->failed_allocs;
    stats->refused_frees = slab->refused_frees;
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_slab_stats_add_(stats, &slab->classes[i]);
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        tier_slab_stats_add_(stats, &c->base);
    }
}

/* --- Checking --- */

/* The cache of descriptors that a page of them names; NULL for a wrong one. */
static const struct tier_cache_base *tier_slab_check_meta_(
    const struct tier_slab *slab, const struct tier_slab_desc_ *own)
{
    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        const struct tier_cache_base *meta = &slab->meta[i];
        size_t bytes = (size_t)meta->slab_objects * meta->object_bytes;

        if (own->cache == meta && own->objects == meta->slab_objects &&
            own->pages == 1 && own->carved == own->objects &&
            (uintptr_t)own->base == (uintptr_t)own + TIER_PAGE_SIZE - bytes) {
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
    const struct tier_cache_base *meta = tier_slab_check_meta_(slab, own);

    if (slab->map.entry[page].slab != own || meta == NULL || desc == own) {
        return meta != NULL && desc == own;
    }
    size_t offset = (uintptr_t)desc - (uintptr_t)own->base;
    size_t index = tier_cache_index_(meta, offset);

    return index < meta->slab_objects && index * meta->object_bytes == offset &&
           (own->bits[index / TIER_WORD_BITS_] >> index % TIER_WORD_BITS_ &
            1) == 0;
}

/* True when `cache` is a cache of this slab tier. O(caches). */
static bool tier_slab_check_cache_(const struct tier_slab *slab,
                                   const struct tier_cache_base *cache)
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
        if (cache == &c->base) {
            return true;
        }
    }
    return false;
}

/* True when the bits of a slab count its free objects, and no others. */
static bool tier_slab_check_bits_(const struct tier_slab_desc_ *desc)
{
    size_t objects = desc->objects;
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

/* True when a descriptor, which can be read, tells of a possible slab. */
static bool tier_slab_check_shape_(const struct tier_slab_desc_ *desc)
{
    const struct tier_cache_base *cache = desc->cache;
    size_t bytes = (size_t)desc->objects * cache->object_bytes;

    return cache->kind == TIER_KIND_META ||
           (desc->objects != 0 && desc->carved <= desc->objects &&
            desc->pages <= cache->slab_pages &&
            desc->objects ==
                tier_cache_objects_(cache->object_bytes, desc->pages) &&
            tier_is_aligned_((uintptr_t)desc->base + bytes, TIER_PAGE_SIZE));
}

/* True when the cut of the i-th page of a slab is right. */
static bool tier_slab_check_cut_(const struct tier_slab *slab,
                                 const struct tier_slab_desc_ *desc, size_t i)
{
#if TIERALLOC_CPUS > 0
    const struct tier_cache_base *cache = desc->cache;
    size_t page = tier_slab_first_(slab, desc) + i;
    size_t carved = 0; /* pages in which a carved object begins, or before */
    unsigned cut = 0;

    if (desc->carved != 0) {
        carved = tier_pagemap_index_(
                     &slab->map, tier_slab_object_(desc, desc->carved - 1U)) +
                 1;
    }
    if (cache->kind != TIER_KIND_META && !tier_cache_is_named_(cache) &&
        page < carved) {
        cut = tier_slab_cut_(cache, desc->pages - i);
    }
    return !slab->cached || slab->map.cut[page] == cut;
#else
    (void)slab;
    (void)desc;
    (void)i;
    return true;
#endif
}

/* True when page `index` and its neighbours are the slab that it names. */
static bool tier_slab_check_page_(const struct tier_slab *slab, size_t index)
{
    const struct tier_pagemap *map = &slab->map;
    const struct tier_slab_desc_ *desc =
        (const struct tier_slab_desc_ *)map->entry[index].slab;

    if (!tier_slab_check_place_(slab, desc) ||
        !tier_slab_check_cache_(slab, desc->cache) ||
        !tier_slab_check_shape_(desc)) {
        return false;
    }
    size_t first = tier_slab_first_(slab, desc);
    size_t pages = desc->pages;

    if (first > index || index - first >= pages || pages > map->pages - first) {
        return false;
    }
    for (size_t i = 0; i < pages; i++) {
        if (map->entry[first + i].slab != desc ||
            map->kind[first + i] != desc->cache->kind ||
            !tier_slab_check_cut_(slab, desc, i)) {
            return false;
        }
    }
    return tier_slab_check_bits_(desc);
}

/* True when a list of a cache is linked both ways; counts its slabs. */
static bool tier_cache_check_list_(const struct tier_slab *slab,
                                   const struct tier_cache_base *cache,
                                   unsigned fill, size_t *length)
{
    const struct tier_slab_desc_ *prev = NULL;

    for (const struct tier_slab_desc_ *desc = cache->partial[fill];
         desc != NULL; desc = desc->next) {
        if ((*length)++ == cache->slabs ||
            !tier_slab_check_place_(slab, desc) || desc->cache != cache ||
            desc->prev != prev || desc->free == 0 || desc == cache->current ||
            tier_slab_is_empty_(desc) ||
            tier_cache_fill_(cache, desc->free) != fill) {
            return false;
        }
        prev = desc;
    }
    return true;
}

/* True when a slab apart from the lists is one of the cache, with free ones. */
static bool tier_cache_check_apart_(const struct tier_slab *slab,
                                    const struct tier_cache_base *cache,
                                    const struct tier_slab_desc_ *desc)
{
    return desc == NULL || (tier_slab_check_place_(slab, desc) &&
                            desc->cache == cache && desc->free != 0);
}

/* The slab of a cache that begins at page `index`; NULL when none does. */
static const struct tier_slab_desc_ *tier_cache_slab_at_(
    const struct tier_slab *slab, const struct tier_cache_base *cache,
    size_t index)
{
    const struct tier_slab_desc_ *desc =
        (const struct tier_slab_desc_ *)slab->map.entry[index].slab;

    if (slab->map.kind[index] != cache->kind || desc->cache != cache ||
        tier_slab_first_(slab, desc) != index) {
        return NULL;
    }
    return desc;
}

/*
 * True when a cache counts what the map shows of it: its slabs, its objects in
 * use, the slabs on its lists and the one that it keeps. Pages are checked.
 */
static bool tier_cache_check_(const struct tier_slab *slab,
                              const struct tier_cache_base *cache,
                              size_t *pages)
{
    size_t slabs = 0;
    size_t live = 0;
    size_t partial = 0;
    size_t empty = 0;
    size_t length = 0;

    for (unsigned fill = 0; fill < TIER_SLAB_FILLS; fill++) {
        if (!tier_cache_check_list_(slab, cache, fill, &length)) {
            return false;
        }
    }
    if (!tier_cache_check_apart_(slab, cache, cache->current) ||
        !tier_cache_check_apart_(slab, cache, cache->empty) ||
        (cache->current != NULL && cache->current == cache->empty)) {
        return false;
    }
    for (size_t i = 0; i < slab->map.pages; i++) {
        const struct tier_slab_desc_ *desc =
            tier_cache_slab_at_(slab, cache, i);

        if (desc != NULL) {
            slabs++;
            *pages += desc->pages;
            live += (size_t)desc->objects - desc->free;
            partial += desc->free != 0 && !tier_slab_is_empty_(desc) &&
                       desc != cache->current;
            empty += tier_slab_is_empty_(desc) && desc != cache->current;
        }
    }
    return slabs == cache->slabs && live == cache->live && partial == length &&
           empty == (cache->empty != NULL) &&
           (empty == 0 || tier_slab_is_empty_(cache->empty));
}

/* True when every page of a slab leads to its descriptor, and back. */
static bool tier_slab_check_pages_(const struct tier_slab *slab)
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
    return true;
}

TIERALLOC_API bool tier_slab_check(const struct tier_slab *slab)
{
    size_t pages = 0;

    if (!tier_slab_check_pages_(slab)) {
        return false;
    }
    for (unsigned i = 0; i < TIER_SLAB_META_CACHES; i++) {
        if (!tier_cache_check_(slab, &slab->meta[i], &pages)) {
            return false;
        }
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!tier_cache_check_(slab, &slab->classes[i], &pages)) {
            return false;
        }
    }
    for (const struct tier_cache *c = slab->named; c != NULL; c = c->next) {
        if (!tier_cache_check_(slab, &c->base, &pages)) {
            return false;
        }
    }
    return pages == slab->pages;
}

#endif /* TIERALLOC_SLAB_IMPLEMENTED */
