/*
 * tieralloc/mempool.h - a reserve of objects of one kind, so that whoever needs
 * one to go on can go on.
 *
 * SPDX-License-Identifier: MIT
 *
 * Writing a page out makes memory free and needs a request object first: when
 * nothing is free, that is a deadlock. A pool sits on any allocator and keeps
 * some objects back (the idea is that of Linux's mempool, I. Molnar, 2001):
 *
 *     alloc:  source --fails--> reserve --empty--> NULL
 *     free:   reserve --full--> source
 *
 * An allocation fails only while as many objects as the reserve has are in use,
 * or more: a free refills the reserve first, so never more of it is out than
 * are in use. With n in reserve, n holders of one object each never see NULL;
 * more may, and each gets its own by trying again, if those that hold one free
 * it in the end without needing another. Holders of several at once need a
 * reserve for all that they hold together, or they wait for each other's.
 *
 * Costs what the source does; the reserve is O(1), a free with TIERALLOC_CHECKS
 * O(objects). A pool takes 80 bytes on a 64-bit machine and a word per object.
 * With TIERALLOC_LOCKING each function takes a lock of the pool's own, and
 * holds none while a function of the source runs.
 */
#ifndef TIERALLOC_MEMPOOL_H
#define TIERALLOC_MEMPOOL_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/*
 * Where a pool gets its objects: two functions and a context.
 *
 * alloc returns an object, or NULL when there is none; free takes one back and
 * must succeed. All objects of a pool are alike: what is freed is handed out
 * again, with the contents that it has.
 */
struct tier_mempool_source {
    void *(*alloc)(void *context);
    void (*free)(void *context, void *object);
    void *context;
};

/* A pool. The caller owns the storage; the fields are private. */
struct tier_mempool {
    struct tier_mempool_source source;
    void **slots;         /* the objects that wait, in slots[0 .. waiting) */
    size_t objects;       /* in the reserve when it is full */
    size_t waiting;       /* in the reserve now */
    size_t least_waiting; /* so far */
    size_t reserve_uses;  /* allocations served by the reserve */
    size_t failed_allocs; /* the reserve was empty too */
    size_t refused_frees; /* the object waited already */
#if TIERALLOC_LOCKING
    TIERALLOC_LOCK_TYPE lock; /* of all but the source */
#endif
};

/* A snapshot. The last three wrap. */
struct tier_mempool_stats {
    size_t objects;       /* in the reserve when it is full */
    size_t waiting;       /* in the reserve now */
    size_t least_waiting; /* so far: what of the reserve was never needed */
    size_t reserve_uses;  /* allocations served by the reserve */
    size_t failed_allocs; /* allocations that returned NULL */
    size_t refused_frees; /* frees that were refused */
};

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Make *pool a pool over *source, which is copied, with `objects` objects in
 * reserve. They are allocated now; `slots` is an array of as many pointers, and
 * stays in place until the pool is destroyed. Calls source->alloc `objects`
 * times.
 *
 * Returns TIER_OK, or with *pool untouched, no object held, and the contents of
 * slots undefined:
 *   TIER_ERR_INVALID    objects is 0, or slots or a function is NULL;
 *   TIER_ERR_NO_MEMORY  the source did not give as many; it has them back.
 */
TIERALLOC_API enum tier_status tier_mempool_init(
    struct tier_mempool *pool, void **slots, size_t objects,
    const struct tier_mempool_source *source);

/*
 * Give the reserve back to the source. Calls source->free `objects` times.
 *
 * Objects in use that the source gave beyond the reserve are no obstacle: the
 * pool is then one without a reserve, which passes all calls to the source.
 *
 * Returns TIER_OK, or TIER_ERR_IN_USE with nothing changed when part of the
 * reserve is out: free that many objects first.
 */
TIERALLOC_API enum tier_status tier_mempool_destroy(struct tier_mempool *pool);

/* --- Allocation ----------------------------------------------------------- */

/*
 * Allocate an object from the source or, when that fails, from the reserve.
 *
 * Contents are undefined. One call of source->alloc, and O(1).
 *
 * Returns NULL when the reserve is empty too, which is only while at least
 * `objects` objects are in use.
 */
TIERALLOC_API void *tier_mempool_alloc(struct tier_mempool *pool);

/*
 * Free an object into the reserve or, when that is full, to the source; NULL is
 * a no-op.
 *
 * O(1), with TIERALLOC_CHECKS O(objects); at most one call of source->free.
 *
 * Requires an object of this pool or of its source: what the reserve takes is
 * not looked at. Returns TIER_OK; with TIERALLOC_CHECKS, TIER_ERR_DOUBLE_FREE
 * with nothing changed when the object waits in the reserve. To see a second
 * free of what went to the source is the source's business.
 */
TIERALLOC_API enum tier_status tier_mempool_free(struct tier_mempool *pool,
                                                 void *object);

/* --- Inspection ----------------------------------------------------------- */

/* Copy the counters into *stats. O(1). */
TIERALLOC_API void tier_mempool_stats(struct tier_mempool *pool,
                                      struct tier_mempool_stats *stats);

/*
 * True when the counts are in range, and no object waits twice and none is
 * NULL. O(objects^2), under the lock; for tests and debugging.
 */
TIERALLOC_API bool tier_mempool_check(struct tier_mempool *pool);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_MEMPOOL_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_MEMPOOL_IMPLEMENTED)
#define TIERALLOC_MEMPOOL_IMPLEMENTED

#include "internal.h"

/* Give slots[0 .. objects) back, the last first. */
static void tier_mempool_empty_(const struct tier_mempool_source *source,
                                void *const *slots, size_t objects)
{
    while (objects > 0) {
        source->free(source->context, slots[--objects]);
    }
}

/* Fill slots[0 .. objects); false, and none is held, when there are too few. */
static bool tier_mempool_fill_(const struct tier_mempool_source *source,
                               void **slots, size_t objects)
{
    for (size_t i = 0; i < objects; i++) {
        slots[i] = source->alloc(source->context);
        if (slots[i] == NULL) {
            tier_mempool_empty_(source, slots, i);
            return false;
        }
    }
    return true;
}

TIERALLOC_API enum tier_status tier_mempool_init(
    struct tier_mempool *pool, void **slots, size_t objects,
    const struct tier_mempool_source *source)
{
    if (objects == 0 || slots == NULL || source->alloc == NULL ||
        source->free == NULL) {
        return TIER_ERR_INVALID;
    }
    if (!tier_mempool_fill_(source, slots, objects)) {
        return TIER_ERR_NO_MEMORY;
    }
    pool->source.alloc = source->alloc;
    pool->source.free = source->free;
    pool->source.context = source->context;
    pool->slots = slots;
    pool->objects = objects;
    pool->waiting = objects;
    pool->least_waiting = objects;
    pool->reserve_uses = 0;
    pool->failed_allocs = 0;
    pool->refused_frees = 0;
    TIERALLOC_LOCK_INIT(&pool->lock);
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_mempool_destroy(struct tier_mempool *pool)
{
    TIERALLOC_LOCK(&pool->lock);
    size_t objects = pool->objects;
    bool whole = pool->waiting == objects;

    if (whole) {
        pool->objects = 0;
        pool->waiting = 0;
        pool->least_waiting = 0;
    }
    TIERALLOC_UNLOCK(&pool->lock);
    if (!whole) {
        return TIER_ERR_IN_USE;
    }
    tier_mempool_empty_(&pool->source, pool->slots, objects);
    return TIER_OK;
}

/* Take the object that waited the shortest; NULL when none waits. */
static void *tier_mempool_pop_(struct tier_mempool *pool)
{
    if (pool->waiting == 0) {
        pool->failed_allocs++;
        return NULL;
    }
    pool->reserve_uses++;
    pool->waiting--;
    if (pool->waiting < pool->least_waiting) {
        pool->least_waiting = pool->waiting;
    }
    return pool->slots[pool->waiting];
}

TIERALLOC_API void *tier_mempool_alloc(struct tier_mempool *pool)
{
    void *object = pool->source.alloc(pool->source.context);

    if (TIER_UNLIKELY_(object == NULL)) {
        TIERALLOC_LOCK(&pool->lock);
        object = tier_mempool_pop_(pool);
        TIERALLOC_UNLOCK(&pool->lock);
    }
    return object;
}

/* True when an object is one of slots[0 .. count). */
static bool tier_mempool_holds_(const struct tier_mempool *pool, size_t count,
                                const void *object)
{
    for (size_t i = 0; i < count; i++) {
        if (pool->slots[i] == object) {
            return true;
        }
    }
    return false;
}

/* Count a second free of an object that waits; false when it does not. */
static bool tier_mempool_refuse_(struct tier_mempool *pool, const void *object)
{
#if TIERALLOC_CHECKS >= 1
    if (tier_mempool_holds_(pool, pool->waiting, object)) {
        pool->refused_frees++;
        return true;
    }
#else
    (void)pool;
    (void)object;
#endif
    return false;
}

/* Let an object wait; false when the reserve is full. */
static bool tier_mempool_push_(struct tier_mempool *pool, void *object)
{
    if (pool->waiting >= pool->objects) {
        return false;
    }
    pool->slots[pool->waiting++] = object;
    return true;
}

TIERALLOC_API enum tier_status tier_mempool_free(struct tier_mempool *pool,
                                                 void *object)
{
    if (object == NULL) {
        return TIER_OK;
    }
    TIERALLOC_LOCK(&pool->lock);
    bool refused = tier_mempool_refuse_(pool, object);
    bool kept = !refused && tier_mempool_push_(pool, object);

    TIERALLOC_UNLOCK(&pool->lock);
    if (refused) {
        return TIER_ERR_DOUBLE_FREE;
    }
    if (!kept) {
        pool->source.free(pool->source.context, object);
    }
    return TIER_OK;
}

TIERALLOC_API void tier_mempool_stats(struct tier_mempool *pool,
                                      struct tier_mempool_stats *stats)
{
    TIERALLOC_LOCK(&pool->lock);
    stats->objects = pool->objects;
    stats->waiting = pool->waiting;
    stats->least_waiting = pool->least_waiting;
    stats->reserve_uses = pool->reserve_uses;
    stats->failed_allocs = pool->failed_allocs;
    stats->refused_frees = pool->refused_frees;
    TIERALLOC_UNLOCK(&pool->lock);
}

/* tier_mempool_check, with the lock held. */
static bool tier_mempool_is_sound_(const struct tier_mempool *pool)
{
    if (pool->waiting > pool->objects || pool->least_waiting > pool->waiting) {
        return false;
    }
    for (size_t i = 0; i < pool->waiting; i++) {
        if (pool->slots[i] == NULL ||
            tier_mempool_holds_(pool, i, pool->slots[i])) {
            return false;
        }
    }
    return true;
}

TIERALLOC_API bool tier_mempool_check(struct tier_mempool *pool)
{
    TIERALLOC_LOCK(&pool->lock);
    bool sound = tier_mempool_is_sound_(pool);

    TIERALLOC_UNLOCK(&pool->lock);
    return sound;
}

#endif /* TIERALLOC_MEMPOOL_IMPLEMENTED */
