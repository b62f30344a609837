/*
 * tieralloc/reclaim.h - whom to ask for memory when there is none: shrinkers,
 * then the out-of-memory handler.
 *
 * SPDX-License-Identifier: MIT
 *
 * A shrinker gives up data that can be built again: clean pages of a file, a
 * table of names. An allocator whose request fails asks them in order of cost,
 * tries the request again after each that freed something, and asks the handler
 * last:
 *
 *     tier_reclaim_run    cost 1 --> cost 5 --> cost 5 --> cost 9
 *                         \ count, scan, attempt; again, for twice as much
 *     tier_reclaim_oom    the handler; true: one more attempt is worth it
 *
 * A run is bounded: at most TIER_RECLAIM_SCANS scans and attempts per shrinker,
 * whatever the callbacks say. It is never re-entered, so a callback may
 * allocate: it gets what there is, or fails.
 *
 * A shrinker takes 64 bytes on a 64-bit machine, owned by the caller. With
 * TIERALLOC_LOCKING each function takes a lock of the struct's own, and holds
 * none while a callback runs: the caller holds none that a callback takes.
 */
#ifndef TIERALLOC_RECLAIM_H
#define TIERALLOC_RECLAIM_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Most scans of one shrinker in one run, and attempts after them. */
#define TIER_RECLAIM_SCANS 16

/*
 * A shrinker. The caller owns the storage, sets the first five fields, and
 * leaves it in place and them alone from tier_reclaim_add until it is removed.
 *
 * count and scan may free what they like, and may allocate; see
 * tier_reclaim_run for what is refused while they run.
 */
struct tier_shrinker {
    /* Return the bytes that scan could free just now; 0: do not ask it. */
    size_t (*count)(void *context);
    /* Free `bytes` bytes or a little more, less if that is all; return how
       many were freed. 0: give up on this shrinker, for this run. */
    size_t (*scan)(void *context, size_t bytes);
    unsigned cost;              /* of building it again; cheapest first */
    void *context;              /* for both */
    const char *name;           /* for dumps, outlives them; NULL reads as "" */
    struct tier_shrinker *next; /* private, as what follows; NULL: the last */
    size_t calls;               /* calls of scan since it was added */
    size_t freed_bytes;         /* what these returned */
};

/*
 * Called when nothing else helped: end a process, give up a spare region.
 *
 * It may make any call, allocate and free; a failure under it does not ask it
 * again. Returns true when something was freed, so that the request of `bytes`
 * bytes is worth one more attempt.
 */
typedef bool (*tier_oom_handler)(void *context, size_t bytes);

/* Try the failed request again; true: it succeeded. */
typedef bool (*tier_reclaim_attempt)(void *context);

/* All shrinkers, and the handler. The caller owns the storage; private. */
struct tier_reclaim {
    struct tier_shrinker *first; /* ascending cost; NULL: none */
    size_t shrinkers;            /* on the list */
    tier_oom_handler handler;    /* or NULL */
    void *handler_context;
    bool running;          /* a run is under way: the list stays as it is */
    bool asking;           /* the handler is being asked */
    size_t runs;           /* begun */
    size_t succeeded_runs; /* ended with an attempt that succeeded */
    size_t refused_runs;   /* not begun: one was under way, or no attempt */
    size_t freed_bytes;    /* what all scans returned */
    size_t oom_calls;      /* of the handler */
    size_t refused_ooms;   /* not made: it was being asked */
#if TIERALLOC_LOCKING
    TIERALLOC_LOCK_TYPE lock; /* of the list, the flags and all counters */
#endif
};

/* A snapshot. The counters wrap. */
struct tier_reclaim_stats {
    size_t shrinkers;      /* registered */
    size_t runs;           /* begun */
    size_t succeeded_runs; /* ended with an attempt that succeeded */
    size_t refused_runs;   /* not begun: one was under way, or no attempt */
    size_t freed_bytes;    /* what all scans returned */
    size_t oom_calls;      /* of the handler */
    size_t refused_ooms;   /* not made: it was being asked */
    bool running;          /* a run is under way */
};

/* --- Lifecycle ------------------------------------------------------------ */

/* Make *reclaim empty: no shrinker, no handler. O(1). */
TIERALLOC_API void tier_reclaim_init(struct tier_reclaim *reclaim);

/*
 * Register a shrinker, behind all that cost as much or less; its counters begin
 * at 0. O(shrinkers).
 *
 * Requires that it is not registered elsewhere. Returns TIER_OK, or with
 * nothing changed:
 *   TIER_ERR_INVALID  count or scan is NULL;
 *   TIER_ERR_IN_USE   it is registered already, or a run is under way.
 */
TIERALLOC_API enum tier_status tier_reclaim_add(struct tier_reclaim *reclaim,
                                                struct tier_shrinker *shrinker);

/*
 * Take a shrinker off the list: neither of its functions is called from now on,
 * and its storage is the caller's again. O(shrinkers).
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_IN_USE   a run is under way, here or on another CPU: try later;
 *   TIER_ERR_INVALID  it is not registered.
 */
TIERALLOC_API enum tier_status tier_reclaim_remove(
    struct tier_reclaim *reclaim, struct tier_shrinker *shrinker);

/*
 * Have this handler asked from now on; NULL: none. O(1).
 *
 * One that is being asked just now is not interrupted.
 */
TIERALLOC_API void tier_reclaim_set_oom(struct tier_reclaim *reclaim,
                                        tier_oom_handler handler,
                                        void *context);

/* --- Reclaim -------------------------------------------------------------- */

/*
 * Ask the shrinkers, cheapest first, for memory until an attempt succeeds.
 *
 * One whose count is 0 is passed by. Any other is asked for `bytes` bytes (0
 * counts as 1), then for twice as many and so on, until what it counted at
 * first has been asked for, or it frees nothing, or its count is 0; the last of
 * TIER_RECLAIM_SCANS scans asks for all that is left. Each scan that freed
 * something is followed by attempt(context). So this fails only when every
 * shrinker was asked for all that it said it had, or would give no more.
 *
 * While it runs, in its callbacks and on other CPUs, adding and removing a
 * shrinker is refused, and so is another run: that returns false at once.
 *
 * At most TIER_RECLAIM_SCANS scans and attempts per shrinker, and as many
 * counts.
 *
 * Returns true when an attempt succeeded; false when none did, when attempt is
 * NULL, or while a run is under way.
 */
TIERALLOC_API bool tier_reclaim_run(struct tier_reclaim *reclaim, size_t bytes,
                                    tier_reclaim_attempt attempt,
                                    void *context);

/*
 * Ask the out-of-memory handler for help with a request of `bytes` bytes.
 *
 * Calls it at most once. It may be asked while a run is under way elsewhere.
 *
 * Returns what it does; false when there is none, or while it is being asked,
 * here or on another CPU.
 */
TIERALLOC_API bool tier_reclaim_oom(struct tier_reclaim *reclaim, size_t bytes);

/* --- Inspection ----------------------------------------------------------- */

/* Copy the counters into *stats. O(1). */
TIERALLOC_API void tier_reclaim_stats(struct tier_reclaim *reclaim,
                                      struct tier_reclaim_stats *stats);

/*
 * Write the counters as a line of text, then a line for each shrinker: its
 * name, its cost, its scans and what they freed. O(shrinkers^2).
 *
 * put is called without the lock; a shrinker that comes or goes meanwhile may
 * cost or repeat a line.
 */
TIERALLOC_API void tier_reclaim_dump(struct tier_reclaim *reclaim, tier_put put,
                                     void *context);

/*
 * True when the list ends after as many shrinkers as are registered, none costs
 * less than the one before it, and each has both functions.
 *
 * O(shrinkers), even when the list has a cycle.
 */
TIERALLOC_API bool tier_reclaim_check(struct tier_reclaim *reclaim);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_RECLAIM_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_RECLAIM_IMPLEMENTED)
#define TIERALLOC_RECLAIM_IMPLEMENTED

#include "internal.h"
#include "text.h"

TIERALLOC_API void tier_reclaim_init(struct tier_reclaim *reclaim)
{
    reclaim->first = NULL;
    reclaim->shrinkers = 0;
    reclaim->handler = NULL;
    reclaim->handler_context = NULL;
    reclaim->running = false;
    reclaim->asking = false;
    reclaim->runs = 0;
    reclaim->succeeded_runs = 0;
    reclaim->refused_runs = 0;
    reclaim->freed_bytes = 0;
    reclaim->oom_calls = 0;
    reclaim->refused_ooms = 0;
    TIERALLOC_LOCK_INIT(&reclaim->lock);
}

/* The link that leads to a shrinker; NULL when it is not on the list. */
static struct tier_shrinker **tier_reclaim_link_(
    struct tier_reclaim *reclaim, const struct tier_shrinker *shrinker)
{
    struct tier_shrinker **link = &reclaim->first;

    while (*link != NULL && *link != shrinker) {
        link = &(*link)->next;
    }
    return *link != NULL ? link : NULL;
}

/* Put a shrinker behind all that cost as much or less. */
static void tier_reclaim_insert_(struct tier_reclaim *reclaim,
                                 struct tier_shrinker *shrinker)
{
    struct tier_shrinker **link = &reclaim->first;

    while (*link != NULL && (*link)->cost <= shrinker->cost) {
        link = &(*link)->next;
    }
    shrinker->next = *link;
    shrinker->calls = 0;
    shrinker->freed_bytes = 0;
    *link = shrinker;
    reclaim->shrinkers++;
}

TIERALLOC_API enum tier_status tier_reclaim_add(struct tier_reclaim *reclaim,
                                                struct tier_shrinker *shrinker)
{
    enum tier_status status = TIER_ERR_IN_USE;

    if (shrinker->count == NULL || shrinker->scan == NULL) {
        return TIER_ERR_INVALID;
    }
    TIERALLOC_LOCK(&reclaim->lock);
    if (!reclaim->running && tier_reclaim_link_(reclaim, shrinker) == NULL) {
        tier_reclaim_insert_(reclaim, shrinker);
        status = TIER_OK;
    }
    TIERALLOC_UNLOCK(&reclaim->lock);
    return status;
}

/* Remove a shrinker. The lock is held, and no run is under way. */
static enum tier_status tier_reclaim_unlink_(struct tier_reclaim *reclaim,
                                             struct tier_shrinker *shrinker)
{
    struct tier_shrinker **link = tier_reclaim_link_(reclaim, shrinker);

    if (link == NULL) {
        return TIER_ERR_INVALID;
    }
    *link = shrinker->next;
    shrinker->next = NULL;
    reclaim->shrinkers--;
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_reclaim_remove(
    struct tier_reclaim *reclaim, struct tier_shrinker *shrinker)
{
    enum tier_status status = TIER_ERR_IN_USE;

    TIERALLOC_LOCK(&reclaim->lock);
    if (!reclaim->running) {
        status = tier_reclaim_unlink_(reclaim, shrinker);
    }
    TIERALLOC_UNLOCK(&reclaim->lock);
    return status;
}

TIERALLOC_API void tier_reclaim_set_oom(struct tier_reclaim *reclaim,
                                        tier_oom_handler handler, void *context)
{
    TIERALLOC_LOCK(&reclaim->lock);
    reclaim->handler = handler;
    reclaim->handler_context = context;
    TIERALLOC_UNLOCK(&reclaim->lock);
}

/* Begin a run; false when one is under way, or there would be no attempt. */
static bool tier_reclaim_begin_(struct tier_reclaim *reclaim,
                                tier_reclaim_attempt attempt)
{
    bool begun = false;

    TIERALLOC_LOCK(&reclaim->lock);
    if (reclaim->running || attempt == NULL) {
        reclaim->refused_runs++;
    } else {
        reclaim->running = true;
        reclaim->runs++;
        begun = true;
    }
    TIERALLOC_UNLOCK(&reclaim->lock);
    return begun;
}

static void tier_reclaim_end_(struct tier_reclaim *reclaim, bool succeeded)
{
    TIERALLOC_LOCK(&reclaim->lock);
    reclaim->running = false;
    reclaim->succeeded_runs += succeeded;
    TIERALLOC_UNLOCK(&reclaim->lock);
}

/* Have a shrinker free about `bytes` bytes, and count what it did free. */
static size_t tier_reclaim_scan_(struct tier_reclaim *reclaim,
                                 struct tier_shrinker *shrinker, size_t bytes)
{
    size_t freed = shrinker->scan(shrinker->context, bytes);

    TIERALLOC_LOCK(&reclaim->lock);
    shrinker->calls++;
    shrinker->freed_bytes += freed;
    reclaim->freed_bytes += freed;
    TIERALLOC_UNLOCK(&reclaim->lock);
    return freed;
}

/*
 * Ask one shrinker until an attempt succeeds: the loop of tier_reclaim_run. It
 * reads the shrinker without the lock: a run keeps it on the list.
 */
static bool tier_reclaim_ask_(struct tier_reclaim *reclaim,
                              struct tier_shrinker *shrinker, size_t bytes,
                              tier_reclaim_attempt attempt, void *context)
{
    size_t left = shrinker->count(shrinker->context); /* to be asked for */
    size_t ask = bytes;

    for (unsigned scans = 1; left != 0; scans++) {
        if (scans == TIER_RECLAIM_SCANS && ask < left) {
            ask = left;
        }
        if (tier_reclaim_scan_(reclaim, shrinker, ask) == 0) {
            return false;
        }
        if (attempt(context)) {
            return true;
        }
        if (ask >= left || shrinker->count(shrinker->context) == 0) {
            return false;
        }
        left -= ask;
        if (ask < left) {
            ask *= 2; /* no overflow: ask + left was a size_t above */
        }
    }
    return false;
}

/* tier_reclaim_run; *refused says whether there was no run. */
static bool tier_reclaim_try_run_(struct tier_reclaim *reclaim, size_t bytes,
                                  tier_reclaim_attempt attempt, void *context,
                                  bool *refused)
{
    bool succeeded = false;

    *refused = !tier_reclaim_begin_(reclaim, attempt);
    if (*refused) {
        return false;
    }
    for (struct tier_shrinker *shrinker = reclaim->first;
         shrinker != NULL && !succeeded; shrinker = shrinker->next) {
        succeeded = tier_reclaim_ask_(reclaim, shrinker, bytes == 0 ? 1 : bytes,
                                      attempt, context);
    }
    tier_reclaim_end_(reclaim, succeeded);
    return succeeded;
}

TIERALLOC_API bool tier_reclaim_run(struct tier_reclaim *reclaim, size_t bytes,
                                    tier_reclaim_attempt attempt, void *context)
{
    bool refused;

    return tier_reclaim_try_run_(reclaim, bytes, attempt, context, &refused);
}

/* The handler, to be called now; NULL when there is none, or it is busy. */
static tier_oom_handler tier_reclaim_begin_oom_(struct tier_reclaim *reclaim,
                                                void **context)
{
    tier_oom_handler handler = NULL;

    TIERALLOC_LOCK(&reclaim->lock);
    if (reclaim->asking) {
        reclaim->refused_ooms++;
    } else if (reclaim->handler != NULL) {
        handler = reclaim->handler;
        *context = reclaim->handler_context;
        reclaim->asking = true;
        reclaim->oom_calls++;
    }
    TIERALLOC_UNLOCK(&reclaim->lock);
    return handler;
}

TIERALLOC_API bool tier_reclaim_oom(struct tier_reclaim *reclaim, size_t bytes)
{
    void *context = NULL;
    tier_oom_handler handler = tier_reclaim_begin_oom_(reclaim, &context);

    if (handler == NULL) {
        return false;
    }
    bool helped = handler(context, bytes);

    TIERALLOC_LOCK(&reclaim->lock);
    reclaim->asking = false;
    TIERALLOC_UNLOCK(&reclaim->lock);
    return helped;
}

TIERALLOC_API void tier_reclaim_stats(struct tier_reclaim *reclaim,
                                      struct tier_reclaim_stats *stats)
{
    TIERALLOC_LOCK(&reclaim->lock);
    stats->shrinkers = reclaim->shrinkers;
    stats->runs = reclaim->runs;
    stats->succeeded_runs = reclaim->succeeded_runs;
    stats->refused_runs = reclaim->refused_runs;
    stats->freed_bytes = reclaim->freed_bytes;
    stats->oom_calls = reclaim->oom_calls;
    stats->refused_ooms = reclaim->refused_ooms;
    stats->running = reclaim->running;
    TIERALLOC_UNLOCK(&reclaim->lock);
}

/* What a dump says of a shrinker. */
struct tier_reclaim_line_ {
    const char *name;
    size_t cost;
    size_t calls;
    size_t freed_bytes;
};

/* Copy what is said of shrinker number `index`; false when there is none. */
static bool tier_reclaim_line_(struct tier_reclaim *reclaim, size_t index,
                               struct tier_reclaim_line_ *line)
{
    TIERALLOC_LOCK(&reclaim->lock);
    const struct tier_shrinker *shrinker =
        index < reclaim->shrinkers ? reclaim->first : NULL;

    for (; shrinker != NULL && index > 0; index--) {
        shrinker = shrinker->next;
    }
    if (shrinker != NULL) {
        line->name = shrinker->name != NULL ? shrinker->name : "";
        line->cost = shrinker->cost;
        line->calls = shrinker->calls;
        line->freed_bytes = shrinker->freed_bytes;
    }
    TIERALLOC_UNLOCK(&reclaim->lock);
    return shrinker != NULL;
}

/* Write a label and a number. */
static void tier_reclaim_write_(const struct tier_writer_ *to,
                                const char *label, size_t number)
{
    tier_write_(to, label);
    tier_write_number_(to, number, 0);
}

TIERALLOC_API void tier_reclaim_dump(struct tier_reclaim *reclaim, tier_put put,
                                     void *context)
{
    struct tier_reclaim_stats stats;
    struct tier_reclaim_line_ line;
    struct tier_writer_ to;

    to.put = put;
    to.context = context;
    tier_reclaim_stats(reclaim, &stats);
    tier_reclaim_write_(&to, "reclaim: shrinkers ", stats.shrinkers);
    tier_reclaim_write_(&to, ", runs ", stats.runs);
    tier_reclaim_write_(&to, ", succeeded ", stats.succeeded_runs);
    tier_reclaim_write_(&to, ", refused ", stats.refused_runs);
    tier_reclaim_write_(&to, ", freed bytes ", stats.freed_bytes);
    tier_reclaim_write_(&to, ", out of memory ", stats.oom_calls);
    tier_write_(&to, "\n");
    for (size_t i = 0; tier_reclaim_line_(reclaim, i, &line); i++) {
        tier_write_(&to, "shrinker ");
        tier_write_(&to, line.name);
        tier_reclaim_write_(&to, ": cost ", line.cost);
        tier_reclaim_write_(&to, ", scans ", line.calls);
        tier_reclaim_write_(&to, ", freed bytes ", line.freed_bytes);
        tier_write_(&to, "\n");
    }
}

/* tier_reclaim_check, with the lock held. */
static bool tier_reclaim_is_sound_(const struct tier_reclaim *reclaim)
{
    const struct tier_shrinker *shrinker = reclaim->first;
    unsigned cost = 0;

    for (size_t i = 0; i < reclaim->shrinkers; i++) {
        if (shrinker == NULL || shrinker->cost < cost ||
            shrinker->count == NULL || shrinker->scan == NULL) {
            return false;
        }
        cost = shrinker->cost;
        shrinker = shrinker->next;
    }
    return shrinker == NULL;
}

TIERALLOC_API bool tier_reclaim_check(struct tier_reclaim *reclaim)
{
    TIERALLOC_LOCK(&reclaim->lock);
    bool sound = tier_reclaim_is_sound_(reclaim);

    TIERALLOC_UNLOCK(&reclaim->lock);
    return sound;
}

#endif /* TIERALLOC_RECLAIM_IMPLEMENTED */
