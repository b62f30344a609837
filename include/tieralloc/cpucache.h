/*
 * tieralloc/cpucache.h - objects ready for each CPU, in front of the slabs.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each CPU has a magazine per size class: a short stack of free objects. The
 * common pair of calls is a pop and a push, without a lock or an atomic
 * instruction; what a magazine has too few or too many moves in batches, through
 * a depot per class if there are several CPUs (Bonwick, Adams, "Magazines and
 * Vmem", USENIX 2001):
 *
 *     CPU 0  |NULL| o7 | o2 | o9 |    |     CPU 1  |NULL| o4 |    |    |    |
 *                                  ^ top                        ^ top
 *                  \________ depot of the class, or slab.h _______/
 *
 * A magazine is known by its top alone: below the lowest object lies NULL, and
 * its end is aligned, so that one load finds it empty and one mask full.
 *
 * Every free is checked at TIERALLOC_CHECKS 1: the map tells the class of a page
 * and the end of its slab, a multiplication whether an object begins there
 * (Lemire, Kaser, Kurz, "Faster remainder by direct computation", 2019), a mark
 * in its first word whether to look for it in its slab and in all magazines.
 *
 * O(1) but for a batch. Takes 25 KiB per CPU (64-bit, objects up to 32 KiB), and
 * 1 KiB per class for depots. Each call takes the locks it needs.
 */
#ifndef TIERALLOC_CPUCACHE_H
#define TIERALLOC_CPUCACHE_H

#include "slab.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Slots of a magazine; one is spent on NULL. */
#define TIER_MAGAZINE_SLOTS 64

/* Most objects of a class that wait in its depot. */
#define TIER_DEPOT_SLOTS (2 * (TIER_MAGAZINE_SLOTS - 1))

/* The magazine of a class. Fields are private. */
struct tier_magazine {
    void **top;          /* the slot for the next object that is freed */
    uint32_t reciprocal; /* 2^32 / bytes of an object, rounded up */
    uint32_t batch;      /* objects that move at once */
    void **floor;        /* the lowest slot for an object */
    size_t moves;        /* times it was found empty, or full */
} __attribute__((aligned(32)));

/* Entries of the table of sizes. */
#define TIER_CPU_SIZES \
    (130 + TIERALLOC_OBJECT_MAX * TIERALLOC_CLASS_STEPS / 1024)

/* What one CPU has. Magazine 0 is of no class: it is always empty and full. */
struct tier_cpu {
    struct tier_magazine magazine[TIER_SLAB_CLASSES + 1];
    struct tier_pagemap map;         /* the slab tier's map: one load less */
    uint8_t by_size[TIER_CPU_SIZES]; /* which magazine; see tier_cpu_size_ */
    size_t locks;                    /* taken by this CPU */
    void *slot[TIER_SLAB_CLASSES + 1][TIER_MAGAZINE_SLOTS]
        __attribute__((aligned(TIER_MAGAZINE_SLOTS * sizeof(void *))));
};

#if TIERALLOC_CPUS > 1
/* Objects of one class on their way between CPUs. */
struct tier_depot {
    TIERALLOC_LOCK_TYPE lock;
    uint32_t count;
    uint32_t limit; /* most objects that wait */
    void *slot[TIER_DEPOT_SLOTS];
};
#endif

/*
 * The caches of all CPUs. The caller owns the storage, aligned as the type says;
 * the fields are private.
 */
struct tier_cpucache {
#if TIERALLOC_CPUS > 0
    struct tier_cpu cpu[TIERALLOC_CPUS]; /* first: one addition less */
#endif
    struct tier_slab *slab;
#if TIERALLOC_LOCKING
    TIERALLOC_LOCK_TYPE *lock; /* taken around each call of the slab tier */
#endif
#if TIERALLOC_CPUS > 1
    struct tier_depot depot[TIER_SLAB_CLASSES];
#endif
};

/* A snapshot of the caches of all CPUs. */
struct tier_cpucache_stats {
    size_t waiting_objects; /* free, in magazines and depots */
    size_t waiting_bytes;   /* bytes of these */
    size_t moves;           /* times a magazine was found empty, or full */
    size_t locks;           /* locks taken, for whatever reason */
};

/* --- Lifecycle ------------------------------------------------------------ */

#if TIERALLOC_LOCKING
/*
 * Make *cache empty caches for TIERALLOC_CPUS CPUs over a slab tier that `lock`
 * protects.
 *
 * From now on the size classes of the slab tier are reached through *cache only;
 * its named caches and its other functions may be called as before, under the
 * lock. Neither struct may move. Reads two bytes a page of the span, a word at a
 * time, and writes only what is not zero; O(CPUs * classes) besides.
 *
 * Requires: no other slab tier with such caches over the same map.
 * Returns TIER_OK, or with nothing changed (with TIERALLOC_CPUS 0, always OK):
 *   TIER_ERR_MISALIGNED  `cache` is not aligned as its type is;
 *   TIER_ERR_INVALID     the slab tier's map has no memory yet;
 *   TIER_ERR_IN_USE      an object of a size class is in use, or the slab tier
 *                        has such caches already.
 */
TIERALLOC_API enum tier_status tier_cpucache_init(struct tier_cpucache *cache,
                                                  struct tier_slab *slab,
                                                  TIERALLOC_LOCK_TYPE *lock);
#else
/*
 * Make *cache empty caches for one CPU, or with TIERALLOC_CPUS 0 none, over a
 * slab tier.
 *
 * From now on the size classes of the slab tier are reached through *cache only;
 * its named caches and its other functions may be called as before. Neither
 * struct may move. Reads two bytes a page of the span, a word at a time, and
 * writes only what is not zero; O(classes) besides.
 *
 * Requires: no other slab tier with such caches over the same map.
 * Returns TIER_OK, or with nothing changed (with TIERALLOC_CPUS 0, always OK):
 *   TIER_ERR_MISALIGNED  `cache` is not aligned as its type is;
 *   TIER_ERR_INVALID     the slab tier's map has no memory yet;
 *   TIER_ERR_IN_USE      an object of a size class is in use, or the slab tier
 *                        has such caches already.
 */
TIERALLOC_API enum tier_status tier_cpucache_init(struct tier_cpucache *cache,
                                                  struct tier_slab *slab);
#endif

/*
 * Give back to the slabs all that waits for a CPU: when it goes away, or when
 * memory is short.
 *
 * Called on that CPU, or while it does not run. Returns how many objects that
 * is; 0 for a CPU that does not exist. O(these).
 */
TIERALLOC_API size_t tier_cpucache_drain(struct tier_cpucache *cache,
                                         unsigned cpu);

/*
 * Give back to the slabs all that waits for the calling CPU and in the depots,
 * and all empty slabs to their source: when memory is short.
 *
 * Returns how many pages that is. O(classes + objects that wait).
 */
TIERALLOC_API size_t tier_cpucache_trim(struct tier_cpucache *cache);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate an object of at least `bytes` bytes; 0 counts as 1. See
 * tier_slab_alloc.
 *
 * O(1) and no lock if one waits; else one batch moves, under one lock or two.
 */
TIERALLOC_API void *tier_cpucache_alloc(struct tier_cpucache *cache,
                                        size_t bytes);

/*
 * Allocate an object of a size class, as TIER_SIZE_CLASS gives it: no look-up
 * for a size that is known to the compiler.
 *
 * Requires: a class that TIER_SIZE_CLASS gives for some size.
 * Returns NULL when there is no memory.
 */
TIERALLOC_API void *tier_cpucache_alloc_class(struct tier_cpucache *cache,
                                              size_t size_class);

/*
 * Free an object of any class or named cache; NULL is a no-op.
 *
 * Returns what tier_slab_free does; TIER_ERR_DOUBLE_FREE also while the object
 * waits in a magazine of any CPU.
 *
 * At TIERALLOC_CHECKS 1 a second free is not seen if the first word of the object
 * was written to in between, or if two CPUs free it at the same moment: then it
 * waits twice, and may be handed out twice. What goes back to a slab that has it
 * already is dropped, and counted as a refused free. Level 2 sees the former.
 */
TIERALLOC_API enum tier_status tier_cpucache_free(struct tier_cpucache *cache,
                                                  void *object);

/*
 * Free an object that was asked for with `bytes` bytes; NULL is a no-op. See
 * tier_slab_free_sized. At TIERALLOC_CHECKS 0 cheaper than tier_cpucache_free,
 * and not for objects of named caches.
 */
TIERALLOC_API enum tier_status tier_cpucache_free_sized(
    struct tier_cpucache *cache, void *object, size_t bytes);

/* --- Inspection ----------------------------------------------------------- */

/*
 * Copy the counters into *stats. While other CPUs run, what they do meanwhile
 * may or may not be counted. O(CPUs * classes).
 */
TIERALLOC_API void tier_cpucache_stats(const struct tier_cpucache *cache,
                                       struct tier_cpucache_stats *stats);

/*
 * True when each object that waits is one of its class that its slab counts as
 * in use, waits once, and holds its mark. No CPU may be in a call meanwhile.
 *
 * O(objects that wait, squared per class); tier_slab_check is separate.
 */
TIERALLOC_API bool tier_cpucache_check(const struct tier_cpucache *cache);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_CPUCACHE_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_CPUCACHE_IMPLEMENTED)
#define TIERALLOC_CPUCACHE_IMPLEMENTED

#include "internal.h"

#if TIERALLOC_CPUS == 0

/* --- No caches --- */

#if TIERALLOC_LOCKING
TIERALLOC_API enum tier_status tier_cpucache_init(struct tier_cpucache *cache,
                                                  struct tier_slab *slab,
                                                  TIERALLOC_LOCK_TYPE *lock)
{
    cache->slab = slab;
    cache->lock = lock;
    return TIER_OK;
}
#else
TIERALLOC_API enum tier_status tier_cpucache_init(struct tier_cpucache *cache,
                                                  struct tier_slab *slab)
{
    cache->slab = slab;
    return TIER_OK;
}
#endif

TIERALLOC_API size_t tier_cpucache_drain(struct tier_cpucache *cache,
                                         unsigned cpu)
{
    (void)cache;
    (void)cpu;
    return 0;
}

TIERALLOC_API size_t tier_cpucache_trim(struct tier_cpucache *cache)
{
    TIERALLOC_LOCK(cache->lock);
    size_t pages = tier_slab_trim(cache->slab);

    TIERALLOC_UNLOCK(cache->lock);
    return pages;
}

/* Objects are handed out by the mode; there is nothing to close here. */
TIER_INLINE_ void tier_cpucache_set_open_(struct tier_cpucache *cache,
                                          bool open)
{
    (void)cache;
    (void)open;
}

/* Allocate an object of a class from its slabs. */
TIER_INLINE_ void *tier_cpucache_pass_(struct tier_cpucache *cache,
                                       size_t size_class, size_t bytes,
                                       uintptr_t site)
{
    TIERALLOC_LOCK(cache->lock);
    struct tier_slab *slab = cache->slab;
    void *object = tier_class_alloc_(slab, size_class);

    TIERALLOC_UNLOCK(cache->lock);
#if TIERALLOC_CHECKS == 2
    if (object != NULL) {
        tier_slab_open_(slab, &slab->classes[size_class], object,
                        bytes + (bytes == 0), site);
    }
#else
    (void)bytes;
    (void)site;
#endif
    return object;
}

/* tier_cpucache_alloc, on behalf of a caller. */
TIER_INLINE_ void *tier_cpucache_alloc_at_(struct tier_cpucache *cache,
                                           size_t bytes, uintptr_t site)
{
    if (TIER_UNLIKELY_(bytes > TIER_SLAB_BYTES_MAX)) {
        return NULL;
    }
    return tier_cpucache_pass_(cache, tier_slab_class_(bytes), bytes, site);
}

TIERALLOC_API void *tier_cpucache_alloc(struct tier_cpucache *cache,
                                        size_t bytes)
{
    return tier_cpucache_alloc_at_(cache, bytes, TIER_SITE_());
}

TIERALLOC_API void *tier_cpucache_alloc_class(struct tier_cpucache *cache,
                                              size_t size_class)
{
    size_t bytes = tier_slab_class_bytes(size_class) - TIER_GUARD_BYTES;

    return tier_cpucache_pass_(cache, size_class, bytes, TIER_SITE_());
}

/* tier_cpucache_free, on behalf of a caller. */
TIER_INLINE_ enum tier_status tier_cpucache_free_at_(
    struct tier_cpucache *cache, void *object, uintptr_t site)
{
    TIERALLOC_LOCK(cache->lock);
    enum tier_status status =
        tier_slab_free_at_(cache->slab, object, TIER_SIZE_UNKNOWN_, site);

    TIERALLOC_UNLOCK(cache->lock);
    return status;
}

TIERALLOC_API enum tier_status tier_cpucache_free(struct tier_cpucache *cache,
                                                  void *object)
{
    return tier_cpucache_free_at_(cache, object, TIER_SITE_());
}

/* tier_cpucache_free_sized, on behalf of a caller. */
TIER_INLINE_ enum tier_status tier_cpucache_free_sized_at_(
    struct tier_cpucache *cache, void *object, size_t bytes, uintptr_t site)
{
    TIERALLOC_LOCK(cache->lock);
    enum tier_status status =
        tier_slab_free_at_(cache->slab, object, tier_slab_known_(bytes), site);

    TIERALLOC_UNLOCK(cache->lock);
    return status;
}

TIERALLOC_API enum tier_status tier_cpucache_free_sized(
    struct tier_cpucache *cache, void *object, size_t bytes)
{
    return tier_cpucache_free_sized_at_(cache, object, bytes, TIER_SITE_());
}

/* Give the slab of an object back if no object of it is in use. */
TIER_LOCAL_ void tier_cpucache_evict_(struct tier_cpucache *cache,
                                      const void *object)
{
    TIERALLOC_LOCK(cache->lock);
    tier_slab_discard_empty_(cache->slab, tier_slab_find_(cache->slab, object));
    TIERALLOC_UNLOCK(cache->lock);
}

/* tier_slab_usable_size of an object in use; 0 for all else. */
TIER_INLINE_ size_t tier_cpucache_usable_(struct tier_cpucache *cache,
                                          const void *object)
{
    TIERALLOC_LOCK(cache->lock);
    size_t bytes = tier_slab_usable_size(cache->slab, object);

    TIERALLOC_UNLOCK(cache->lock);
    return bytes;
}

TIERALLOC_API void tier_cpucache_stats(const struct tier_cpucache *cache,
                                       struct tier_cpucache_stats *stats)
{
    (void)cache;
    stats->waiting_objects = 0;
    stats->waiting_bytes = 0;
    stats->moves = 0;
    stats->locks = 0;
}

TIERALLOC_API bool tier_cpucache_check(const struct tier_cpucache *cache)
{
    (void)cache;
    return true;
}

#else /* TIERALLOC_CPUS > 0 */

_Static_assert(sizeof(struct tier_magazine) == 32,
               "a cut, less its lower five bits, is a magazine's offset");
_Static_assert(TIER_SLAB_PAGES_MAX < 32, "pages to the end of a slab fit");
_Static_assert(TIER_SLAB_CLASSES < UINT16_MAX >> 5, "a class fits a cut");

/* The offset of a full magazine's top in an aligned row of slots. */
#define TIER_MAGAZINE_MASK_ (TIER_MAGAZINE_SLOTS * sizeof(void *) - 1)

/* --- Lifecycle --- */

/*
 * Where the table has a size: by size / 8 up to 1024, then more coarsely. The
 * last entry is for what is too large.
 */
TIER_INLINE_ size_t tier_cpu_size_(size_t bytes)
{
    if (TIER_LIKELY_(bytes <= 1024 - TIER_GUARD_BYTES)) {
        return (bytes + TIER_GUARD_BYTES + 7) / 8;
    }
    if (TIER_LIKELY_(bytes <= TIER_SLAB_BYTES_MAX)) {
        return 129 +
               (bytes + TIER_GUARD_BYTES - 1) * TIERALLOC_CLASS_STEPS / 1024;
    }
    return TIER_CPU_SIZES - 1;
}

/* Most objects of a size that wait in one magazine. */
static size_t tier_magazine_limit_(size_t object_bytes)
{
    size_t limit = TIERALLOC_CPU_BYTES / object_bytes;

    if (limit < 2) {
        limit = 2;
    }
    return limit < TIER_MAGAZINE_SLOTS ? limit : TIER_MAGAZINE_SLOTS - 1;
}

/* Make a magazine empty. Its objects end where its slots do. */
static void tier_magazine_init_(struct tier_magazine *magazine, void **slots,
                                size_t object_bytes)
{
    size_t limit = tier_magazine_limit_(object_bytes);

    magazine->floor = slots + TIER_MAGAZINE_SLOTS - limit;
    magazine->floor[-1] = NULL;
    magazine->top = magazine->floor;
    magazine->reciprocal = (uint32_t)(UINT32_MAX / object_bytes + 1);
    magazine->batch =
        (uint32_t)(TIERALLOC_CPUS > 1 ? (limit * 3 + 3) / 4 : (limit + 1) / 2);
    magazine->moves = 0;
}

/* Magazine 0: empty, full, and no address is the begin of an object of it. */
static void tier_magazine_init_none_(struct tier_magazine *magazine,
                                     void **slots)
{
    magazine->floor = slots + TIER_MAGAZINE_SLOTS;
    magazine->floor[-1] = NULL;
    magazine->top = magazine->floor;
    magazine->reciprocal = 0;
    magazine->batch = 0;
    magazine->moves = 0;
}

_Static_assert(TIER_SLAB_BYTES_MAX % 8 == 0 && TIER_GUARD_BYTES % 8 == 0,
               "each entry of the table of sizes has a multiple of 8");

/* Have sizes lead to their magazines, or each of them to magazine 0. */
static void tier_cpu_set_open_(struct tier_cpu *cpu, bool open)
{
    for (size_t bytes = 0; bytes <= TIER_SLAB_BYTES_MAX; bytes += 8) {
        size_t magazine = open ? tier_slab_class_(bytes) + 1 : 0;

        TIER_POKE_(cpu->by_size[tier_cpu_size_(bytes)], (uint8_t)magazine);
    }
}

static void tier_cpu_init_(struct tier_cpu *cpu, const struct tier_slab *slab)
{
    tier_pagemap_share_(&cpu->map, &slab->map);
    tier_zero_(cpu->by_size, sizeof(cpu->by_size));
    tier_cpu_set_open_(cpu, true);
    tier_magazine_init_none_(&cpu->magazine[0], cpu->slot[0]);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_magazine_init_(&cpu->magazine[i + 1], cpu->slot[i + 1],
                            slab->classes[i].object_bytes);
    }
    cpu->locks = 0;
}

/* Make the caches, over a slab tier without objects of size classes. */
static void tier_cpucache_set_(struct tier_cpucache *cache,
                               struct tier_slab *slab)
{
    cache->slab = slab;
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        tier_cpu_init_(&cache->cpu[i], slab);
    }
#if TIERALLOC_CPUS > 1
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        struct tier_depot *depot = &cache->depot[i];
        size_t limit = tier_magazine_limit_(slab->classes[i].object_bytes) * 2;

        TIERALLOC_LOCK_INIT(&depot->lock);
        depot->count = 0;
        depot->limit = (uint32_t)limit;
    }
#endif
}

/* Take the map of the slab tier, which has memory, into use. */
static void tier_cpucache_set_map_(struct tier_cpucache *cache)
{
    struct tier_slab *slab = cache->slab;

    tier_clear_(slab->map.cut, slab->map.pages * sizeof(uint16_t));
    slab->cached = true;
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        tier_pagemap_share_(&cache->cpu[i].map, &slab->map);
    }
}

/* Hand objects out as usual, or none: then only frees work as usual. */
TIER_LOCAL_ void tier_cpucache_set_open_(struct tier_cpucache *cache, bool open)
{
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        tier_cpu_set_open_(&cache->cpu[i], open);
    }
}

/* Why there can be no caches over a slab tier. */
static enum tier_status tier_cpucache_allows_(const struct tier_cpucache *cache,
                                              const struct tier_slab *slab)
{
    if (!tier_is_aligned_((uintptr_t)cache, _Alignof(struct tier_cpucache))) {
        return TIER_ERR_MISALIGNED;
    }
    if (slab->map.pages == 0) {
        return TIER_ERR_INVALID;
    }
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (slab->cached || slab->classes[i].live != 0) {
            return TIER_ERR_IN_USE;
        }
    }
    return TIER_OK;
}

/* The rest of tier_cpucache_init. */
static enum tier_status tier_cpucache_start_(struct tier_cpucache *cache,
                                             struct tier_slab *slab)
{
    enum tier_status status = tier_cpucache_allows_(cache, slab);

    if (status == TIER_OK) {
        (void)tier_slab_trim(slab);
        tier_cpucache_set_(cache, slab);
        tier_cpucache_set_map_(cache);
    }
    return status;
}

#if TIERALLOC_LOCKING
TIERALLOC_API enum tier_status tier_cpucache_init(struct tier_cpucache *cache,
                                                  struct tier_slab *slab,
                                                  TIERALLOC_LOCK_TYPE *lock)
{
    enum tier_status status = tier_cpucache_start_(cache, slab);

    if (status == TIER_OK) {
        cache->lock = lock;
    }
    return status;
}
#else
TIERALLOC_API enum tier_status tier_cpucache_init(struct tier_cpucache *cache,
                                                  struct tier_slab *slab)
{
    return tier_cpucache_start_(cache, slab);
}
#endif

/* --- Magazines --- */

/*
 * What the calling CPU has. TIERALLOC_CPU() is expanded here alone: it may name
 * any variable but this one.
 */
TIER_INLINE_ struct tier_cpu *tier_cpu_here_(struct tier_cpucache *caches_)
{
    return &caches_->cpu[TIERALLOC_CPU()];
}

/* The class of a magazine of a CPU, which is not magazine 0. */
TIER_INLINE_ unsigned tier_magazine_class_(const struct tier_cpu *cpu,
                                           const struct tier_magazine *magazine)
{
    return (unsigned)(magazine - cpu->magazine) - 1;
}

/* Objects in a magazine. */
TIER_INLINE_ size_t tier_magazine_count_(const struct tier_magazine *magazine)
{
    return (size_t)(TIER_PEEK_(magazine->top) - magazine->floor);
}

/* Move a top, which is at `top`, by so many slots. */
TIER_INLINE_ void tier_magazine_move_(struct tier_magazine *magazine,
                                      void **top, ptrdiff_t slots)
{
#if defined(__x86_64__) && TIERALLOC_CPUS <= 1
    (void)top;
    TIER_REREAD_(magazine->top); /* there, one instruction adds to memory */
    magazine->top += slots;
#else
    TIER_POKE_(magazine->top, top + slots);
#endif
}

/* Put a free object into a magazine whose top, where there is room, is `top`. */
TIER_INLINE_ void tier_magazine_push_(struct tier_magazine *magazine,
                                      void **top, void *object)
{
    TIER_POKE_(*top, object);
    tier_magazine_move_(magazine, top, 1);
}

/* Take the object that was freed last; NULL when there is none. */
TIER_INLINE_ void *tier_magazine_pop_(struct tier_magazine *magazine)
{
    void **top = magazine->top;
    void *object = top[-1];

    if (TIER_LIKELY_(object != NULL)) {
        tier_magazine_move_(magazine, top, -1);
    }
    return object;
}

/* True when a magazine with this top is full. */
TIER_INLINE_ bool tier_magazine_ends_(void *const *top)
{
    return ((uintptr_t)top & TIER_MAGAZINE_MASK_) == 0;
}

/* Take `count` objects away from the bottom, where they waited longest. */
static void tier_magazine_drop_(struct tier_magazine *magazine, size_t count)
{
    void **to = magazine->floor;

    for (void **from = to + count; from != magazine->top; from++, to++) {
        TIER_POKE_(*to, *from);
        TIER_OPAQUE_(to);
    }
    TIER_POKE_(magazine->top, to);
}

/*
 * --- Moving batches ---
 *
 * Objects move between magazines and depots under the lock of the depot, between
 * both and the slabs under that of the slab tier, which is taken first: whoever
 * holds both sees each object in one place, or with its owner.
 */

static void tier_cpucache_lock_(struct tier_cpucache *cache,
                                struct tier_cpu *cpu)
{
    TIERALLOC_LOCK(cache->lock);
    (void)cache;
    TIER_POKE_(cpu->locks, cpu->locks + 1);
}

static void tier_cpucache_unlock_(struct tier_cpucache *cache)
{
    (void)cache;
    TIERALLOC_UNLOCK(cache->lock);
}

/*
 * Fill a magazine, which is empty, from slabs; one new slab at most is made.
 */
static void tier_cpucache_fill_(struct tier_cpucache *cache,
                                struct tier_cpu *cpu,
                                struct tier_magazine *magazine)
{
    struct tier_slab *slab = cache->slab;
    struct tier_cache_base *base =
        &slab->classes[tier_magazine_class_(cpu, magazine)];
    void *object;

    tier_cpucache_lock_(cache, cpu);
    object = tier_cache_alloc_(slab, base);
    for (size_t i = 1; object != NULL; i++) {
        tier_magazine_push_(magazine, magazine->top, object);
        if (i >= magazine->batch ||
            (base->current == NULL && tier_cache_pick_(base) == NULL)) {
            break;
        }
        object = tier_cache_take_(slab, base, base->current);
    }
    tier_cpucache_unlock_(cache);
}

/*
 * Put an object back into its slab. One that is free there already was freed
 * twice, and something hid its mark: it is dropped. The lock is held.
 */
static void tier_cpucache_put_(struct tier_slab *slab,
                               const struct tier_cache_base *base, void *object)
{
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);
    size_t index;

    if (TIER_UNLIKELY_(desc == NULL || desc->cache != base ||
                       tier_slab_locate_(desc, object, &index) != TIER_OK)) {
        slab->refused_frees++;
        return;
    }
    tier_slab_give_(slab, desc, index);
}

/* Give the `count` objects of a magazine that waited longest to their slabs. */
static void tier_cpucache_give_(struct tier_cpucache *cache,
                                struct tier_cpu *cpu,
                                struct tier_magazine *magazine, size_t count)
{
    const struct tier_cache_base *base =
        &cache->slab->classes[tier_magazine_class_(cpu, magazine)];

    tier_cpucache_lock_(cache, cpu);
    for (size_t i = 0; i < count; i++) {
        tier_cpucache_put_(cache->slab, base, magazine->floor[i]);
    }
    tier_magazine_drop_(magazine, count);
    tier_cpucache_unlock_(cache);
}

/*
 * Give the objects of a slab that wait in [to, end) to it, and let the others
 * move up; returns the new end. The lock is held.
 */
static void **tier_slots_evict_(struct tier_slab *slab, void **to, void **end,
                                struct tier_slab_desc_ *desc)
{
    size_t index;

    for (void **from = to; from != end; from++) {
        void *object = *from;

        if (tier_slab_of_(&slab->map, object) != desc) {
            TIER_POKE_(*to, object);
            to++;
        } else if (tier_slab_locate_(desc, object, &index) == TIER_OK) {
            tier_slab_put_(desc, index);
            tier_cache_relist_(desc->cache, desc);
        } else {
            slab->refused_frees++;
        }
    }
    return to;
}

/* Give the objects of a slab that wait in a magazine to it. The lock is held. */
static void tier_magazine_evict_(struct tier_slab *slab,
                                 struct tier_magazine *magazine,
                                 struct tier_slab_desc_ *desc)
{
    void **top = tier_slots_evict_(slab, magazine->floor, magazine->top, desc);

    TIER_POKE_(magazine->top, top);
}

#if TIERALLOC_CPUS > 1
/* Fill a magazine, which is empty, from its depot: false when that is empty. */
static bool tier_depot_fill_(struct tier_cpucache *cache, struct tier_cpu *cpu,
                             struct tier_magazine *magazine)
{
    struct tier_depot *depot =
        &cache->depot[tier_magazine_class_(cpu, magazine)];

    TIERALLOC_LOCK(&depot->lock);
    size_t count =
        depot->count < magazine->batch ? depot->count : magazine->batch;

    TIER_POKE_(depot->count, depot->count - (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        TIER_POKE_(magazine->floor[i], depot->slot[depot->count + i]);
        TIER_OPAQUE_(i);
    }
    TIER_POKE_(magazine->top, magazine->floor + count);
    TIERALLOC_UNLOCK(&depot->lock);
    TIER_POKE_(cpu->locks, cpu->locks + 1);
    return count != 0;
}

/* Give a batch of a magazine to its depot: false when that has no room. */
static bool tier_depot_give_(struct tier_cpucache *cache, struct tier_cpu *cpu,
                             struct tier_magazine *magazine)
{
    struct tier_depot *depot =
        &cache->depot[tier_magazine_class_(cpu, magazine)];
    size_t count = magazine->batch;

    TIERALLOC_LOCK(&depot->lock);
    bool room = depot->limit - depot->count >= count;

    if (room) {
        for (size_t i = 0; i < count; i++) {
            depot->slot[depot->count + i] = magazine->floor[i];
            TIER_OPAQUE_(i);
        }
        TIER_POKE_(depot->count, depot->count + (uint32_t)count);
        tier_magazine_drop_(magazine, count);
    }
    TIERALLOC_UNLOCK(&depot->lock);
    TIER_POKE_(cpu->locks, cpu->locks + 1);
    return room;
}

/* Give the objects of a slab that wait in a depot to it. The lock is held. */
static void tier_depot_evict_(struct tier_slab *slab, struct tier_depot *depot,
                              struct tier_slab_desc_ *desc)
{
    TIERALLOC_LOCK(&depot->lock);
    void **end =
        tier_slots_evict_(slab, depot->slot, depot->slot + depot->count, desc);

    TIER_POKE_(depot->count, (uint32_t)(end - depot->slot));
    TIERALLOC_UNLOCK(&depot->lock);
}

/* Give all that waits in a depot to the slabs; returns how many that is. */
static size_t tier_depot_drain_(struct tier_cpucache *cache,
                                struct tier_cpu *cpu, struct tier_depot *depot)
{
    const struct tier_cache_base *base =
        &cache->slab->classes[depot - cache->depot];

    tier_cpucache_lock_(cache, cpu);
    TIERALLOC_LOCK(&depot->lock);
    size_t count = depot->count;

    for (size_t i = 0; i < count; i++) {
        tier_cpucache_put_(cache->slab, base, depot->slot[i]);
    }
    TIER_POKE_(depot->count, 0);
    TIERALLOC_UNLOCK(&depot->lock);
    tier_cpucache_unlock_(cache);
    TIER_POKE_(cpu->locks, cpu->locks + 1);
    return count;
}
#endif

/* Make room in a magazine that is full. */
static void tier_cpucache_flush_(struct tier_cpucache *cache,
                                 struct tier_cpu *cpu,
                                 struct tier_magazine *magazine)
{
    TIER_POKE_(magazine->moves, magazine->moves + 1);
#if TIERALLOC_CPUS > 1
    if (tier_depot_give_(cache, cpu, magazine)) {
        return;
    }
#endif
    tier_cpucache_give_(cache, cpu, magazine, magazine->batch);
}

/* Fill a magazine, which is empty, and take an object; NULL if none. Cold. */
TIER_NOINLINE_ static void *tier_cpucache_refill_(
    struct tier_cpucache *cache, struct tier_cpu *cpu,
    struct tier_magazine *magazine)
{
    if (magazine == &cpu->magazine[0]) {
        return NULL;
    }
    TIER_POKE_(magazine->moves, magazine->moves + 1);
#if TIERALLOC_CPUS > 1
    if (tier_depot_fill_(cache, cpu, magazine)) {
        return tier_magazine_pop_(magazine);
    }
#endif
    tier_cpucache_fill_(cache, cpu, magazine);
    return tier_magazine_pop_(magazine);
}

/* --- Giving memory back --- */

static size_t tier_cpu_drain_(struct tier_cpucache *cache, struct tier_cpu *cpu)
{
    size_t objects = 0;

    for (unsigned i = 1; i <= TIER_SLAB_CLASSES; i++) {
        size_t count = tier_magazine_count_(&cpu->magazine[i]);

        if (count != 0) {
            tier_cpucache_give_(cache, cpu, &cpu->magazine[i], count);
            objects += count;
        }
    }
    return objects;
}

TIERALLOC_API size_t tier_cpucache_drain(struct tier_cpucache *cache,
                                         unsigned cpu)
{
    if (cpu >= TIERALLOC_CPUS) {
        return 0;
    }
    TIERALLOC_CPU_ENTER(state);
    size_t objects = tier_cpu_drain_(cache, &cache->cpu[cpu]);

    TIERALLOC_CPU_LEAVE(state);
    return objects;
}

TIERALLOC_API size_t tier_cpucache_trim(struct tier_cpucache *cache)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);

    tier_cpucache_lock_(cache, cpu);
    size_t before = cache->slab->pages;

    tier_cpucache_unlock_(cache);
    (void)tier_cpu_drain_(cache, cpu);
#if TIERALLOC_CPUS > 1
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        (void)tier_depot_drain_(cache, cpu, &cache->depot[i]);
    }
#endif
    tier_cpucache_lock_(cache, cpu);
    (void)tier_slab_trim(cache->slab);
    size_t after = cache->slab->pages;

    tier_cpucache_unlock_(cache);
    TIERALLOC_CPU_LEAVE(state);
    return after < before ? before - after : 0;
}

/* --- Allocation --- */

/* Make a free object one in use of `bytes` bytes. */
TIER_INLINE_ void *tier_cpucache_open_(const struct tier_cpucache *cache,
                                       void *object, size_t bytes,
                                       uintptr_t site)
{
#if TIERALLOC_CHECKS == 2
    tier_slab_open_(cache->slab,
                    tier_slab_of_(&cache->slab->map, object)->cache, object,
                    bytes + (bytes == 0), site);
#else
    (void)cache;
    (void)bytes;
    (void)site;
#endif
#if TIERALLOC_CHECKS == 1
    *(tier_alias_word_ *)object = 0;
#endif
    return object;
}

/* Allocate from a magazine of this CPU. */
TIER_INLINE_ void *tier_cpucache_take_(struct tier_cpucache *cache,
                                       struct tier_cpu *cpu,
                                       struct tier_magazine *magazine,
                                       size_t bytes, uintptr_t site)
{
    void *object = tier_magazine_pop_(magazine);

    if (TIER_UNLIKELY_(object == NULL)) {
        object = tier_cpucache_refill_(cache, cpu, magazine);
        if (object == NULL) {
            return NULL;
        }
    }
    return tier_cpucache_open_(cache, object, bytes, site);
}

/* Offset of the magazine for a size; that of magazine 0 when it is too large.*/
TIER_INLINE_ size_t tier_cpu_offset_(const struct tier_cpu *cpu, size_t bytes)
{
    return TIER_PEEK_(cpu->by_size[tier_cpu_size_(bytes)]) *
           sizeof(struct tier_magazine);
}

TIER_INLINE_ struct tier_magazine *tier_cpu_magazine_(struct tier_cpu *cpu,
                                                      size_t offset)
{
    return (struct tier_magazine *)((uintptr_t)cpu->magazine + offset);
}

/* tier_cpucache_alloc, on behalf of a caller. */
TIER_INLINE_ void *tier_cpucache_alloc_at_(struct tier_cpucache *cache,
                                           size_t bytes, uintptr_t site)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    size_t offset = tier_cpu_offset_(cpu, bytes);
    void *object = tier_cpucache_take_(
        cache, cpu, tier_cpu_magazine_(cpu, offset), bytes, site);

    TIERALLOC_CPU_LEAVE(state);
    return object;
}

TIERALLOC_API void *tier_cpucache_alloc(struct tier_cpucache *cache,
                                        size_t bytes)
{
    return tier_cpucache_alloc_at_(cache, bytes, TIER_SITE_());
}

/* Allocate an object if one waits for this CPU; NULL if not. */
TIER_INLINE_ void *tier_cpucache_alloc_quickly_(struct tier_cpucache *cache,
                                                size_t bytes)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    size_t offset = tier_cpu_offset_(cpu, bytes);
    void *object = tier_magazine_pop_(tier_cpu_magazine_(cpu, offset));

    if (TIER_LIKELY_(object != NULL)) {
        (void)tier_cpucache_open_(cache, object, bytes, 0);
    }
    TIERALLOC_CPU_LEAVE(state);
    return object;
}

TIERALLOC_API void *tier_cpucache_alloc_class(struct tier_cpucache *cache,
                                              size_t size_class)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    size_t bytes = TIERALLOC_CHECKS == 2
                       ? tier_slab_class_bytes(size_class) - TIER_GUARD_BYTES
                       : 0;
    void *object = tier_cpucache_take_(
        cache, cpu, &cpu->magazine[size_class + 1], bytes, TIER_SITE_());

    TIERALLOC_CPU_LEAVE(state);
    return object;
}

/* --- Freeing --- */

#if TIERALLOC_CHECKS
/*
 * True when a magazine has an object. Its CPU may push and pop meanwhile: what
 * was pushed before the caller knew of it is seen. (A weakly ordered machine may
 * show a slot as it was before the last push; that matters only to an object in
 * use that holds its own mark and lay in this very slot before.)
 */
static bool tier_magazine_has_(const struct tier_magazine *magazine,
                               const void *object)
{
    void **top = TIER_PEEK_(magazine->top);

    for (void **slot = magazine->floor; slot < top; slot++) {
        if (TIER_PEEK_(*slot) == object) {
            return true;
        }
    }
    return false;
}

/* True when an object of a class waits for a CPU. The slab's lock is held. */
static bool tier_cpucache_waits_(struct tier_cpucache *cache,
                                 unsigned size_class, const void *object)
{
    bool waits = false;

#if TIERALLOC_CPUS > 1
    struct tier_depot *depot = &cache->depot[size_class];

    TIERALLOC_LOCK(&depot->lock);
    for (size_t i = 0; i < depot->count; i++) {
        waits = waits || depot->slot[i] == object;
    }
#endif
    for (unsigned i = 0; i < TIERALLOC_CPUS && !waits; i++) {
        waits =
            tier_magazine_has_(&cache->cpu[i].magazine[size_class + 1], object);
    }
#if TIERALLOC_CPUS > 1
    TIERALLOC_UNLOCK(&depot->lock);
#endif
    return waits;
}
#endif

/* Make an object in use a free one; false, and counted, if it is one. */
TIER_INLINE_ bool tier_cpucache_close_(struct tier_cpucache *cache,
                                       struct tier_cpu *cpu, void *object,
                                       uintptr_t site)
{
#if TIERALLOC_CHECKS == 2
    const struct tier_cache_base *base =
        tier_slab_of_(&cpu->map, object)->cache;

    if (!tier_slab_close_(cache->slab, base, object, site)) {
        tier_cpucache_lock_(cache, cpu);
        cache->slab->refused_frees++;
        tier_cpucache_unlock_(cache);
        return false;
    }
#elif TIERALLOC_CHECKS
    *(tier_alias_word_ *)object = tier_slab_mark_(&cpu->map, object);
#endif
    (void)cache;
    (void)cpu;
    (void)object;
    (void)site;
    return true;
}

/* Free an object of the class of a magazine, in which there may be no room. */
TIER_NOINLINE_ static enum tier_status tier_cpucache_overflow_(
    struct tier_cpucache *cache, void *object, struct tier_magazine *magazine,
    uintptr_t site)
{
    struct tier_cpu *cpu = tier_cpu_here_(cache);

#if !TIERALLOC_CHECKS
    if (magazine == &cpu->magazine[0]) {
        tier_cpucache_lock_(cache, cpu);
        enum tier_status status =
            tier_slab_free_at_(cache->slab, object, TIER_SIZE_UNKNOWN_, site);

        tier_cpucache_unlock_(cache);
        return status;
    }
#endif
    if (tier_magazine_ends_(magazine->top)) {
        tier_cpucache_flush_(cache, cpu, magazine);
    }
    if (!tier_cpucache_close_(cache, cpu, object, site)) {
        return TIER_ERR_DOUBLE_FREE;
    }
    tier_magazine_push_(magazine, magazine->top, object);
    return TIER_OK;
}

#if TIERALLOC_CHECKS
/* What is wrong with a free of an object of a size class; its lock is held. */
static enum tier_status tier_cpucache_judge_(struct tier_cpucache *cache,
                                             const struct tier_slab_desc_ *desc,
                                             const void *object, size_t bytes)
{
    size_t index;
    enum tier_status status = tier_slab_locate_(desc, object, &index);

#if TIERALLOC_CHECKS == 2
    struct tier_guard_ guard;

    tier_slab_guard_(cache->slab, desc->cache, &guard);
    if (status == TIER_OK &&
        tier_guard_is_(tier_guard_record_(&guard, object), false)) {
        return TIER_ERR_DOUBLE_FREE; /* whatever became of its mark */
    }
#endif
    if (status == TIER_OK &&
        *(const tier_alias_word_ *)object ==
            tier_slab_mark_(&cache->slab->map, object) &&
        tier_cpucache_waits_(
            cache, (unsigned)(desc->cache - cache->slab->classes), object)) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if (status == TIER_OK && bytes != TIER_SIZE_UNKNOWN_ &&
        !tier_slab_suits_(cache->slab, desc->cache, bytes)) {
        return TIER_ERR_WRONG_SIZE;
    }
    return status;
}

/* Free what is not plainly an object of a size class in use. Cold. */
TIER_NOINLINE_ static enum tier_status tier_cpucache_free_closely_(
    struct tier_cpucache *cache, void *object, size_t bytes, uintptr_t site)
{
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    struct tier_slab *slab = cache->slab;
    struct tier_magazine *magazine = NULL;
    enum tier_status status = TIER_ERR_FOREIGN;

    if (object == NULL) {
        return TIER_OK;
    }
    tier_cpucache_lock_(cache, cpu);
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (desc != NULL && tier_cache_is_named_(desc->cache)) {
        status = tier_slab_free_in_(slab, desc, object, bytes, site);
        tier_cpucache_unlock_(cache);
        return status;
    }
    if (desc != NULL) {
        status = tier_cpucache_judge_(cache, desc, object, bytes);
        magazine = &cpu->magazine[desc->cache - slab->classes + 1];
    }
    if (status != TIER_OK) {
        (void)tier_slab_refuse_(slab, object, status);
    }
    tier_cpucache_unlock_(cache);
    if (status != TIER_OK) {
        return status;
    }
    return tier_cpucache_overflow_(cache, object, magazine, site);
}
#else
/* Free nothing: what else there may be is not looked at. */
TIER_INLINE_ enum tier_status tier_cpucache_free_closely_(
    const struct tier_cpucache *cache, const void *object, size_t bytes,
    uintptr_t site)
{
    (void)cache;
    (void)object;
    (void)bytes;
    (void)site;
    return TIER_OK;
}
#endif

/*
 * Find the offset of the magazine for an address. False when it takes a closer
 * look whether an object of a size class is in use there.
 */
TIER_INLINE_ bool tier_cpu_find_(const struct tier_cpu *cpu, const void *object,
                                 size_t *offset)
{
    uintptr_t page = (uintptr_t)object >> TIERALLOC_PAGE_SHIFT;
    uintptr_t index = page - cpu->map.first;

#if TIERALLOC_CHECKS
    if (TIER_UNLIKELY_(index >= cpu->map.pages)) {
        return false;
    }
    uintptr_t cut = TIER_PEEK_(cpu->map.cut[index]);
    uintptr_t end = (page + (cut & 31)) << TIERALLOC_PAGE_SHIFT;
    uint32_t left = (uint32_t)(end - (uintptr_t)object);

    *offset = cut & ~(uintptr_t)31;
    uint32_t reciprocal =
        ((const struct tier_magazine *)((uintptr_t)cpu->magazine + *offset))
            ->reciprocal;

    return TIER_LIKELY_(left * reciprocal < reciprocal) &&
           TIER_LIKELY_(*(const tier_alias_word_ *)object !=
                        tier_slab_mark_(&cpu->map, object));
#else
    *offset = object == NULL ? 0 : cpu->map.cut[index] & ~(size_t)31;
    return true;
#endif
}

/* Free an object into the magazine at an offset. */
TIER_INLINE_ enum tier_status tier_cpucache_push_(struct tier_cpucache *cache,
                                                  struct tier_cpu *cpu,
                                                  size_t offset, void *object,
                                                  uintptr_t site)
{
    struct tier_magazine *magazine = tier_cpu_magazine_(cpu, offset);
    void **top = magazine->top;

    if (TIER_UNLIKELY_(tier_magazine_ends_(top))) {
        return tier_cpucache_overflow_(cache, object, magazine, site);
    }
    if (!tier_cpucache_close_(cache, cpu, object, site)) {
        return TIER_ERR_DOUBLE_FREE;
    }
    tier_magazine_push_(magazine, top, object);
    return TIER_OK;
}

/* tier_cpucache_free, on behalf of a caller. */
TIER_INLINE_ enum tier_status tier_cpucache_free_at_(
    struct tier_cpucache *cache, void *object, uintptr_t site)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    enum tier_status status;
    size_t offset;

    if (TIER_LIKELY_(tier_cpu_find_(cpu, object, &offset))) {
        status = tier_cpucache_push_(cache, cpu, offset, object, site);
    } else {
        status = tier_cpucache_free_closely_(cache, object, TIER_SIZE_UNKNOWN_,
                                             site);
    }
    TIERALLOC_CPU_LEAVE(state);
    return status;
}

/* tier_cpucache_free_sized, on behalf of a caller. */
TIER_INLINE_ enum tier_status tier_cpucache_free_sized_at_(
    struct tier_cpucache *cache, void *object, size_t bytes, uintptr_t site)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    size_t wanted = tier_cpu_offset_(cpu, bytes);
    enum tier_status status;
    size_t offset = wanted;

#if TIERALLOC_CHECKS
    bool plain = tier_cpu_find_(cpu, object, &offset) && offset == wanted;
#else
    bool plain = object != NULL;
#endif

    if (TIER_LIKELY_(plain)) {
        status = tier_cpucache_push_(cache, cpu, offset, object, site);
    } else {
        status = tier_cpucache_free_closely_(cache, object,
                                             tier_slab_known_(bytes), site);
    }
    TIERALLOC_CPU_LEAVE(state);
    return status;
}

TIERALLOC_API enum tier_status tier_cpucache_free(struct tier_cpucache *cache,
                                                  void *object)
{
    return tier_cpucache_free_at_(cache, object, TIER_SITE_());
}

TIERALLOC_API enum tier_status tier_cpucache_free_sized(
    struct tier_cpucache *cache, void *object, size_t bytes)
{
    return tier_cpucache_free_sized_at_(cache, object, bytes, TIER_SITE_());
}
/* Free an object if that is plainly right and there is room; else false. */
TIER_INLINE_ bool tier_cpucache_free_quickly_(struct tier_cpucache *cache,
                                              void *object)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    size_t offset;
    bool plain = tier_cpu_find_(cpu, object, &offset);

    if (TIER_LIKELY_(plain)) {
        struct tier_magazine *magazine = tier_cpu_magazine_(cpu, offset);
        void **top = magazine->top;

        plain = !tier_magazine_ends_(top);
        if (TIER_LIKELY_(plain)) {
            (void)tier_cpucache_close_(cache, cpu, object, 0);
            tier_magazine_push_(magazine, top, object);
        }
    }
    TIERALLOC_CPU_LEAVE(state);
    return plain;
}

/*
 * Give the objects of a slab that wait for this CPU back to it, and the slab to
 * its source if no object of it is in use then. `object` is any object of it.
 */
TIER_LOCAL_ void tier_cpucache_evict_(struct tier_cpucache *cache,
                                      const void *object)
{
    TIERALLOC_CPU_ENTER(state);
    struct tier_cpu *cpu = tier_cpu_here_(cache);
    struct tier_slab *slab = cache->slab;

    tier_cpucache_lock_(cache, cpu);
    struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (desc != NULL && !tier_cache_is_named_(desc->cache)) {
        tier_magazine_evict_(
            slab, &cpu->magazine[desc->cache - slab->classes + 1], desc);
#if TIERALLOC_CPUS > 1
        tier_depot_evict_(slab, &cache->depot[desc->cache - slab->classes],
                          desc);
#endif
    }
    tier_slab_discard_empty_(slab, desc);
    tier_cpucache_unlock_(cache);
    TIERALLOC_CPU_LEAVE(state);
}

/* tier_slab_usable_size of an object in use; 0 for all else. */
TIER_LOCAL_ size_t tier_cpucache_usable_(struct tier_cpucache *cache,
                                         const void *object)
{
    TIERALLOC_LOCK(cache->lock);
    struct tier_slab *slab = cache->slab;
    size_t bytes = tier_slab_usable_size(slab, object);

#if TIERALLOC_CHECKS
    const struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);

    if (bytes != 0 && !tier_cache_is_named_(desc->cache) &&
        tier_cpucache_judge_(cache, desc, object, TIER_SIZE_UNKNOWN_) !=
            TIER_OK) {
        bytes = 0;
    }
#endif
    TIERALLOC_UNLOCK(cache->lock);
    return bytes;
}

/* --- Inspection --- */

static void tier_cpu_stats_(const struct tier_cpucache *cache,
                            const struct tier_cpu *cpu,
                            struct tier_cpucache_stats *stats)
{
    stats->locks += TIER_PEEK_(cpu->locks);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        size_t count = tier_magazine_count_(&cpu->magazine[i + 1]);

        stats->moves += TIER_PEEK_(cpu->magazine[i + 1].moves);
        stats->waiting_objects += count;
        stats->waiting_bytes += count * cache->slab->classes[i].object_bytes;
    }
}

TIERALLOC_API void tier_cpucache_stats(const struct tier_cpucache *cache,
                                       struct tier_cpucache_stats *stats)
{
    stats->waiting_objects = 0;
    stats->waiting_bytes = 0;
    stats->moves = 0;
    stats->locks = 0;
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        tier_cpu_stats_(cache, &cache->cpu[i], stats);
    }
#if TIERALLOC_CPUS > 1
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        size_t count = TIER_PEEK_(cache->depot[i].count);

        stats->waiting_objects += count;
        stats->waiting_bytes += count * cache->slab->classes[i].object_bytes;
    }
#endif
}

/* --- Checking --- */

/* True when an object that waits is one of its class, in use for its slab. */
static bool tier_cpucache_check_object_(const struct tier_cpucache *cache,
                                        unsigned size_class, const void *object)
{
    const struct tier_slab *slab = cache->slab;
    const struct tier_slab_desc_ *desc = tier_slab_find_(slab, object);
    size_t index;

    if (desc == NULL || desc->cache != &slab->classes[size_class] ||
        tier_slab_locate_(desc, object, &index) != TIER_OK) {
        return false;
    }
#if TIERALLOC_CHECKS
    return *(const tier_alias_word_ *)object ==
           tier_slab_mark_(&cache->slab->map, object);
#else
    return true;
#endif
}

/* How often an object waits in the magazines and the depot of a class. */
static size_t tier_cpucache_count_(const struct tier_cpucache *cache,
                                   unsigned size_class, const void *object)
{
    size_t count = 0;

    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        const struct tier_magazine *magazine =
            &cache->cpu[i].magazine[size_class + 1];

        for (void **slot = magazine->floor; slot != magazine->top; slot++) {
            count += *slot == object;
        }
    }
#if TIERALLOC_CPUS > 1
    for (size_t i = 0; i < cache->depot[size_class].count; i++) {
        count += cache->depot[size_class].slot[i] == object;
    }
#endif
    return count;
}

/* True when so many objects of a class may wait as they do. */
static bool tier_cpucache_check_all_(const struct tier_cpucache *cache,
                                     unsigned size_class, void *const *slot,
                                     size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!tier_cpucache_check_object_(cache, size_class, slot[i]) ||
            tier_cpucache_count_(cache, size_class, slot[i]) != 1) {
            return false;
        }
    }
    return true;
}

/* True when a magazine lies in its slots as tier_magazine_init_ made it. */
static bool tier_magazine_check_(const struct tier_magazine *magazine,
                                 void *const *slots, size_t limit)
{
    return magazine->floor == slots + TIER_MAGAZINE_SLOTS - limit &&
           magazine->floor[-1] == NULL && magazine->top >= magazine->floor &&
           magazine->top <= slots + TIER_MAGAZINE_SLOTS &&
           tier_is_aligned_((uintptr_t)magazine->top, sizeof(void *));
}

/* True when the bounds of all magazines and depots are right. */
static bool tier_cpucache_check_bounds_(const struct tier_cpucache *cache)
{
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        const struct tier_cpu *cpu = &cache->cpu[i];

        if (!tier_magazine_check_(&cpu->magazine[0], cpu->slot[0], 0)) {
            return false;
        }
        for (unsigned c = 0; c < TIER_SLAB_CLASSES; c++) {
            size_t bytes = cache->slab->classes[c].object_bytes;

            if (!tier_magazine_check_(&cpu->magazine[c + 1], cpu->slot[c + 1],
                                      tier_magazine_limit_(bytes))) {
                return false;
            }
        }
    }
#if TIERALLOC_CPUS > 1
    for (unsigned c = 0; c < TIER_SLAB_CLASSES; c++) {
        if (cache->depot[c].count > cache->depot[c].limit) {
            return false;
        }
    }
#endif
    return true;
}

TIERALLOC_API bool tier_cpucache_check(const struct tier_cpucache *cache)
{
    if (!tier_cpucache_check_bounds_(cache)) {
        return false;
    }
    for (unsigned c = 0; c < TIER_SLAB_CLASSES; c++) {
        for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
            const struct tier_magazine *magazine =
                &cache->cpu[i].magazine[c + 1];

            if (!tier_cpucache_check_all_(cache, c, magazine->floor,
                                          tier_magazine_count_(magazine))) {
                return false;
            }
        }
#if TIERALLOC_CPUS > 1
        if (!tier_cpucache_check_all_(cache, c, cache->depot[c].slot,
                                      cache->depot[c].count)) {
            return false;
        }
#endif
    }
    return true;
}

#endif /* TIERALLOC_CPUS > 0 */

#endif /* TIERALLOC_CPUCACHE_IMPLEMENTED */
