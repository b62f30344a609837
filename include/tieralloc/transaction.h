/*
 * tieralloc/transaction.h - steps that take effect together or not at all.
 *
 * SPDX-License-Identifier: MIT
 *
 * An undo log (Gray, Reuter, Transaction Processing, 1993, section 10.3). What
 * must be undone on rollback fills it from the bottom, what must wait for
 * commit from the top; where it is full, it may go on in pages of its own:
 *
 *     array | undo 0 | undo 1 |  room  | later 1 | later 0 |
 *     page  | undo 2 |             room            | later 2 |  ...
 *
 * Rollback runs the undo steps, newest first, and forgets the others; commit
 * runs the waiting steps, oldest first, and forgets the undo steps. Neither
 * allocates, neither can fail. A record is reserved before the step that it
 * undoes is taken, so a full log is a refused step, not a lost one.
 *
 *     TIER_TX(tx, 4);                   rolls back on every way out ...
 *     if (tier_tx_alloc(&tx, heap, 64, &node) != TIER_OK) return NULL;
 *     tier_tx_commit(&tx);              ... but this one
 *
 * A record is three words; to begin or to record is O(1), commit O(waiting
 * steps + pages). No function locks: a transaction belongs to one thread.
 */
#ifndef TIERALLOC_TRANSACTION_H
#define TIERALLOC_TRANSACTION_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/*
 * One step of a rollback or a commit. It must succeed, and must not use the
 * transaction that runs it; the source of that one's pages it may use.
 */
typedef void (*tier_tx_step)(void *context, void *object);

/* One record of the log. */
struct tier_tx_record {
    tier_tx_step step;
    void *context;
    void *object;
};

/* A page of a log that grows; private. */
struct tier_tx_page;

/*
 * A transaction. The caller owns the storage; the fields are private.
 *
 * The first four describe the part of the log that is being filled: the newest
 * page, or the caller's array. Each page holds those of the part before.
 */
struct tier_tx {
    struct tier_tx_record *undo;  /* the next from the bottom ... */
    struct tier_tx_record *later; /* ... where the room ends: the last one */
    struct tier_tx_record *log;   /* the bottom */
    struct tier_tx_record *end;   /* the top, exclusive */
    struct tier_tx_page *page;    /* the newest; NULL: the array is filled */
    const struct tier_page_source *source; /* NULL: it does not grow */
};

/* A point to which a transaction can be rolled back; private. */
struct tier_tx_savepoint {
    struct tier_tx_page *page;
    struct tier_tx_record *undo;
    struct tier_tx_record *later;
};

/*
 * Records in a page of a log that grows. The last byte of the page is no part
 * of them: so none ends where the address space does.
 */
#define TIER_TX_PAGE_RECORDS                                          \
    ((TIER_PAGE_SIZE - sizeof(struct tier_tx) - sizeof(void *) - 1) / \
     sizeof(struct tier_tx_record))

/*
 * Declare a transaction `tx` with room for `records`, a constant above 0, and
 * begin it; when its scope is left in any way, return included, what was not
 * committed is rolled back.
 */
#define TIER_TX(tx, records)                                      \
    struct tier_tx_record tx##_log_[records];                     \
    struct tier_tx tx __attribute__((cleanup(tier_tx_rollback))); \
    tier_tx_start_(&(tx), tx##_log_, (records), NULL)

/*
 * The same with a log that grows by pages of `source`, as tier_tx_begin_growing
 * says; `records` may be 0.
 */
#define TIER_TX_GROWING(tx, records, source)                         \
    struct tier_tx_record tx##_log_[(records) == 0 ? 1 : (records)]; \
    struct tier_tx tx __attribute__((cleanup(tier_tx_rollback)));    \
    tier_tx_start_(&(tx), tx##_log_, (records), (source))

/* --- Lifecycle ------------------------------------------------------------ */

/* Begin a transaction in place, for the macros above: a few stores. */
static inline __attribute__((always_inline, unused)) void tier_tx_start_(
    struct tier_tx *tx, struct tier_tx_record *log, size_t capacity,
    const struct tier_page_source *source)
{
    tx->undo = log;
    tx->log = log;
    tx->end = capacity == 0 ? log : log + capacity;
    tx->later = tx->end;
    tx->page = NULL;
    tx->source = source;
}

/*
 * Begin a transaction whose log is the array `log` of `capacity` records.
 *
 * The array must stay in place until commit or rollback; its contents need
 * not be initialised. It may be NULL when `capacity` is 0.
 */
TIERALLOC_API void tier_tx_begin(struct tier_tx *tx, struct tier_tx_record *log,
                                 size_t capacity);

/*
 * Begin a transaction whose log goes on, once the array is full, in pages of
 * `source`: single ones, which it takes as they are needed, before the step
 * that a record is for, and gives back when it ends. NULL gives none.
 *
 * The source must stay in place and work until commit or rollback.
 */
TIERALLOC_API void tier_tx_begin_growing(struct tier_tx *tx,
                                         struct tier_tx_record *log,
                                         size_t capacity,
                                         const struct tier_page_source *source);

/*
 * Make every step final: run the waiting ones, oldest first.
 *
 * The transaction is empty from the first step on, and may be used again after
 * the last; pages of the log are released then. O(waiting steps + pages).
 */
TIERALLOC_API void tier_tx_commit(struct tier_tx *tx);

/*
 * Undo every step, newest first; the waiting ones never happen.
 *
 * The transaction is empty afterwards and may be used again, so a rollback
 * after a commit does nothing. No step is in the log any more when it is undone;
 * a page of the log is released once all in it are. O(steps undone + pages).
 */
TIERALLOC_API void tier_tx_rollback(struct tier_tx *tx);

/* --- Steps ---------------------------------------------------------------- */

/*
 * True when `records` more fit as the log is now, grown or not. O(1).
 *
 * A log that grows is asked by tier_tx_reserve.
 */
TIERALLOC_API bool tier_tx_has_room(const struct tier_tx *tx, size_t records);

/*
 * Make sure that the next `records` records fit, before steps of your own.
 *
 * O(1); acquires at most one page, which stays with the log until it ends or is
 * rolled back to an older savepoint.
 *
 * Returns TIER_OK, or with nothing changed:
 *   TIER_ERR_LOG_FULL   they do not fit, and the log does not grow, or they
 *                       are more than TIER_TX_PAGE_RECORDS;
 *   TIER_ERR_NO_MEMORY  the source has no page.
 */
TIERALLOC_API enum tier_status tier_tx_reserve(struct tier_tx *tx,
                                               size_t records);

/*
 * Run undo(context, object) if the transaction is rolled back. O(1).
 *
 * Returns TIER_OK, or with nothing recorded (the caller then undoes its step
 * itself, or reserves the record first):
 *   TIER_ERR_INVALID    undo is NULL;
 *   TIER_ERR_LOG_FULL   no record is left, and the log does not grow;
 *   TIER_ERR_NO_MEMORY  no record is left, and the source has no page.
 */
TIERALLOC_API enum tier_status tier_tx_defer(struct tier_tx *tx,
                                             tier_tx_step undo, void *context,
                                             void *object);

/*
 * Run step(context, object) when the transaction commits. O(1).
 *
 * Returns what tier_tx_defer does.
 */
TIERALLOC_API enum tier_status tier_tx_on_commit(struct tier_tx *tx,
                                                 tier_tx_step step,
                                                 void *context, void *object);

/* Remember how far the transaction is, for a part that may fail alone. */
TIERALLOC_API struct tier_tx_savepoint tier_tx_save(const struct tier_tx *tx);

/*
 * Undo what came after a savepoint of this transaction, newest first, and
 * release the pages acquired since; the transaction goes on. O(steps undone +
 * pages).
 *
 * Requires that the transaction was neither committed nor rolled back beyond
 * the savepoint meanwhile. Returns TIER_OK, or TIER_ERR_INVALID with nothing
 * undone when the savepoint is of another log, or of a page or of steps that
 * this one no longer holds; that it was emptied and filled again is not seen.
 */
TIERALLOC_API enum tier_status tier_tx_rollback_to(
    struct tier_tx *tx, struct tier_tx_savepoint savepoint);

/* --- Inspection ----------------------------------------------------------- */

/*
 * True when a step waiting for commit has this function and object. O(waiting
 * steps + pages).
 */
TIERALLOC_API bool tier_tx_waits(const struct tier_tx *tx, tier_tx_step step,
                                 const void *object);

/*
 * Count the steps recorded: those to undo, and those that wait for commit.
 * O(pages).
 */
TIERALLOC_API void tier_tx_records(const struct tier_tx *tx, size_t *undo,
                                   size_t *waiting);

/*
 * True when in the array and in each page the two ends of the log are in range
 * and do not overlap, no step is missing, and the pages are linked both ways
 * from the newest to the oldest. O(records); ends whatever the links are.
 */
TIERALLOC_API bool tier_tx_check(const struct tier_tx *tx);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_TRANSACTION_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_TRANSACTION_IMPLEMENTED)
#define TIERALLOC_TRANSACTION_IMPLEMENTED

#include "internal.h"

/* A page of a log that grows: the transaction as it was, and more records. */
struct tier_tx_page {
    struct tier_tx before; /* before.page is the next older one */
    struct tier_tx_page *newer;
    struct tier_tx_record record[TIER_TX_PAGE_RECORDS];
};

_Static_assert(sizeof(struct tier_tx_page) < TIER_PAGE_SIZE,
               "a page holds its records");
_Static_assert(TIER_TX_PAGE_RECORDS >= 1, "a page of the log has room");

/* --- Beginning --- */

TIERALLOC_API void tier_tx_begin(struct tier_tx *tx, struct tier_tx_record *log,
                                 size_t capacity)
{
    tier_tx_start_(tx, log, capacity, NULL);
}

TIERALLOC_API void tier_tx_begin_growing(struct tier_tx *tx,
                                         struct tier_tx_record *log,
                                         size_t capacity,
                                         const struct tier_page_source *source)
{
    tier_tx_start_(tx, log, capacity, source);
}

/* --- Ending --- */

/*
 * Run the steps of [to, from), the highest first: of undo steps the newest, of
 * waiting ones the oldest.
 */
TIER_INLINE_ void tier_tx_run_(const struct tier_tx_record *from,
                               const struct tier_tx_record *to)
{
    while (from != to) {
        from--;
        from->step(from->context, from->object);
    }
}

/* Take over the part of the log that is described in `before`. */
TIER_INLINE_ void tier_tx_resume_(struct tier_tx *tx,
                                  const struct tier_tx *before)
{
    tx->undo = before->undo;
    tx->later = before->later;
    tx->log = before->log;
    tx->end = before->end;
    tx->page = before->page;
}

/*
 * Forget what is in the part being filled but the first undo and waiting steps,
 * down to `undo` and `later`; run the undo steps forgotten.
 */
TIER_INLINE_ void tier_tx_unwind_(struct tier_tx *tx,
                                  struct tier_tx_record *undo,
                                  struct tier_tx_record *later)
{
    const struct tier_tx_record *from = tx->undo;

    tx->undo = undo;
    tx->later = later;
    tier_tx_run_(from, undo);
}

/* Undo the steps in the newest page, then release it. */
static void tier_tx_drop_(struct tier_tx *tx)
{
    struct tier_tx_page *page = tx->page;

    tier_tx_unwind_(tx, tx->log, tx->end);
    tier_tx_resume_(tx, &page->before);
    if (tx->page != NULL) {
        tx->page->newer = NULL;
    }
    tx->source->release(tx->source->context, page, 1);
}

/* Release a page and all newer ones. */
static void tier_tx_release_(const struct tier_page_source *source,
                             struct tier_tx_page *page)
{
    while (page != NULL) {
        struct tier_tx_page *newer = page->newer;

        source->release(source->context, page, 1);
        page = newer;
    }
}

/* Commit a transaction whose log has pages. */
static void tier_tx_commit_pages_(struct tier_tx *tx)
{
    const struct tier_tx_record *end = tx->end;
    const struct tier_tx_record *later = tx->later;
    struct tier_tx_page *oldest = tx->page;

    while (oldest->before.page != NULL) {
        oldest = oldest->before.page;
    }
    tier_tx_resume_(tx, &oldest->before);
    tx->undo = tx->log;
    tx->later = tx->end;
    for (const struct tier_tx_page *page = oldest; page != NULL;
         page = page->newer) {
        tier_tx_run_(page->before.end, page->before.later);
    }
    tier_tx_run_(end, later);
    tier_tx_release_(tx->source, oldest);
}

/* Commit a transaction that has waiting steps, or pages. */
TIER_NOINLINE_ static void tier_tx_commit_steps_(struct tier_tx *tx)
{
    const struct tier_tx_record *later = tx->later;

    if (tx->page != NULL) {
        tier_tx_commit_pages_(tx);
        return;
    }
    tx->undo = tx->log;
    tx->later = tx->end;
    tier_tx_run_(tx->end, later);
}

TIERALLOC_API void tier_tx_commit(struct tier_tx *tx)
{
    if (tx->page != NULL || tx->later != tx->end) {
        tier_tx_commit_steps_(tx);
        return;
    }
    tx->undo = tx->log;
}

/* Roll back a transaction whose log has pages. */
TIER_NOINLINE_ static void tier_tx_rollback_pages_(struct tier_tx *tx)
{
    while (tx->page != NULL) {
        tier_tx_drop_(tx);
    }
    tier_tx_unwind_(tx, tx->log, tx->end);
}

TIERALLOC_API void tier_tx_rollback(struct tier_tx *tx)
{
    if (TIER_UNLIKELY_(tx->page != NULL)) {
        tier_tx_rollback_pages_(tx);
        return;
    }
    tier_tx_unwind_(tx, tx->log, tx->end);
}

/* --- Recording --- */

TIERALLOC_API bool tier_tx_has_room(const struct tier_tx *tx, size_t records)
{
    return records <= (size_t)(tx->later - tx->undo);
}

/* Go on in a new page with room for so many records. */
TIER_NOINLINE_ static enum tier_status tier_tx_grow_(struct tier_tx *tx,
                                                     size_t records)
{
    if (tx->source == NULL || records > TIER_TX_PAGE_RECORDS) {
        return TIER_ERR_LOG_FULL;
    }
    struct tier_tx_page *page =
        (struct tier_tx_page *)tx->source->acquire(tx->source->context, 1);

    if (page == NULL) {
        return TIER_ERR_NO_MEMORY;
    }
    tier_tx_resume_(&page->before, tx);
    page->before.source = tx->source;
    page->newer = NULL;
    if (tx->page != NULL) {
        tx->page->newer = page;
    }
    tx->undo = page->record;
    tx->later = page->record + TIER_TX_PAGE_RECORDS;
    tx->log = tx->undo;
    tx->end = tx->later;
    tx->page = page;
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_tx_reserve(struct tier_tx *tx,
                                               size_t records)
{
    return tier_tx_has_room(tx, records) ? TIER_OK : tier_tx_grow_(tx, records);
}

/* True when not one record fits: two loads and a compare. */
TIER_INLINE_ bool tier_tx_is_full_(const struct tier_tx *tx)
{
    return tx->undo == tx->later;
}

/* Make sure that one more record fits, as tier_tx_reserve does. */
TIER_INLINE_ enum tier_status tier_tx_reserve_one_(struct tier_tx *tx)
{
    return TIER_UNLIKELY_(tier_tx_is_full_(tx)) ? tier_tx_grow_(tx, 1)
                                                : TIER_OK;
}

TIER_INLINE_ void tier_tx_fill_(struct tier_tx_record *record,
                                tier_tx_step step, void *context, void *object)
{
    record->step = step;
    record->context = context;
    record->object = object;
}

/* Record a step of the rollback. A record is reserved. */
TIER_INLINE_ void tier_tx_push_undo_(struct tier_tx *tx, tier_tx_step undo,
                                     void *context, void *object)
{
    tier_tx_fill_(tx->undo++, undo, context, object);
}

/* Record a step of the commit. A record is reserved. */
TIER_INLINE_ void tier_tx_push_later_(struct tier_tx *tx, tier_tx_step step,
                                      void *context, void *object)
{
    tier_tx_fill_(--tx->later, step, context, object);
}

/* Record an undo step in a new page. */
TIER_NOINLINE_ static enum tier_status tier_tx_defer_grown_(struct tier_tx *tx,
                                                            tier_tx_step undo,
                                                            void *context,
                                                            void *object)
{
    enum tier_status status = tier_tx_grow_(tx, 1);

    if (status == TIER_OK) {
        tier_tx_push_undo_(tx, undo, context, object);
    }
    return status;
}

TIERALLOC_API enum tier_status tier_tx_defer(struct tier_tx *tx,
                                             tier_tx_step undo, void *context,
                                             void *object)
{
    if (TIER_UNLIKELY_(undo == NULL)) {
        return TIER_ERR_INVALID;
    }
    if (TIER_UNLIKELY_(tier_tx_is_full_(tx))) {
        return tier_tx_defer_grown_(tx, undo, context, object);
    }
    tier_tx_push_undo_(tx, undo, context, object);
    return TIER_OK;
}

/* Record a waiting step in a new page. */
TIER_NOINLINE_ static enum tier_status tier_tx_on_commit_grown_(
    struct tier_tx *tx, tier_tx_step step, void *context, void *object)
{
    enum tier_status status = tier_tx_grow_(tx, 1);

    if (status == TIER_OK) {
        tier_tx_push_later_(tx, step, context, object);
    }
    return status;
}

TIERALLOC_API enum tier_status tier_tx_on_commit(struct tier_tx *tx,
                                                 tier_tx_step step,
                                                 void *context, void *object)
{
    if (TIER_UNLIKELY_(step == NULL)) {
        return TIER_ERR_INVALID;
    }
    if (TIER_UNLIKELY_(tier_tx_is_full_(tx))) {
        return tier_tx_on_commit_grown_(tx, step, context, object);
    }
    tier_tx_push_later_(tx, step, context, object);
    return TIER_OK;
}

/* --- Savepoints --- */

TIERALLOC_API struct tier_tx_savepoint tier_tx_save(const struct tier_tx *tx)
{
    struct tier_tx_savepoint savepoint;

    savepoint.page = tx->page;
    savepoint.undo = tx->undo;
    savepoint.later = tx->later;
    return savepoint;
}

/* The part of the log before `part`; NULL when that is the array. */
TIER_INLINE_ const struct tier_tx *tier_tx_older_(const struct tier_tx *part)
{
    return part->page == NULL ? NULL : &part->page->before;
}

/* True when an address is one of [low, high]. */
TIER_INLINE_ bool tier_tx_within_(const struct tier_tx_record *at,
                                  const struct tier_tx_record *low,
                                  const struct tier_tx_record *high)
{
    return (uintptr_t)at >= (uintptr_t)low && (uintptr_t)at <= (uintptr_t)high;
}

/* True when all that came before a savepoint is still in the log. */
static bool tier_tx_reaches_(const struct tier_tx *tx,
                             const struct tier_tx_savepoint *savepoint)
{
    const struct tier_tx *part = tx;

    while (part != NULL && part->page != savepoint->page) {
        part = tier_tx_older_(part);
    }
    return part != NULL &&
           tier_tx_within_(savepoint->undo, part->log, part->undo) &&
           tier_tx_within_(savepoint->later, part->later, part->end);
}

TIERALLOC_API enum tier_status tier_tx_rollback_to(
    struct tier_tx *tx, struct tier_tx_savepoint savepoint)
{
    if (!tier_tx_reaches_(tx, &savepoint)) {
        return TIER_ERR_INVALID;
    }
    while (tx->page != savepoint.page) {
        tier_tx_drop_(tx);
    }
    tier_tx_unwind_(tx, savepoint.undo, savepoint.later);
    return TIER_OK;
}

/* --- Inspection --- */

TIERALLOC_API bool tier_tx_waits(const struct tier_tx *tx, tier_tx_step step,
                                 const void *object)
{
    for (const struct tier_tx *part = tx; part != NULL;
         part = tier_tx_older_(part)) {
        for (const struct tier_tx_record *record = part->later;
             record != part->end; record++) {
            if (record->step == step && record->object == object) {
                return true;
            }
        }
    }
    return false;
}

TIERALLOC_API void tier_tx_records(const struct tier_tx *tx, size_t *undo,
                                   size_t *waiting)
{
    *undo = 0;
    *waiting = 0;
    for (const struct tier_tx *part = tx; part != NULL;
         part = tier_tx_older_(part)) {
        *undo += (size_t)(part->undo - part->log);
        *waiting += (size_t)(part->end - part->later);
    }
}

/* True when [begin, end) is whole records, each with a step. */
static bool tier_tx_check_records_(const struct tier_tx_record *begin,
                                   const struct tier_tx_record *end)
{
    if ((uintptr_t)begin > (uintptr_t)end ||
        ((uintptr_t)end - (uintptr_t)begin) % sizeof(*begin) != 0) {
        return false;
    }
    for (; begin != end; begin++) {
        if (begin->step == NULL) {
            return false;
        }
    }
    return true;
}

/* True when a part is whole, and is all of its page if it is in one. */
static bool tier_tx_check_part_(const struct tier_tx *part)
{
    const struct tier_tx_page *page = part->page;

    if (page != NULL && (part->source == NULL || part->log != page->record ||
                         part->end != page->record + TIER_TX_PAGE_RECORDS)) {
        return false;
    }
    return (uintptr_t)part->undo <= (uintptr_t)part->later &&
           tier_tx_check_records_(part->log, part->undo) &&
           tier_tx_check_records_(part->later, part->end);
}

TIERALLOC_API bool tier_tx_check(const struct tier_tx *tx)
{
    const struct tier_tx_page *newer = NULL;

    /* A page met again would have to link back to two: so none is. */
    for (const struct tier_tx *part = tx; part != NULL;
         part = tier_tx_older_(part)) {
        if (!tier_tx_check_part_(part) || part->source != tx->source ||
            (part->page != NULL && part->page->newer != newer)) {
            return false;
        }
        newer = part->page;
    }
    return true;
}

#endif /* TIERALLOC_TRANSACTION_IMPLEMENTED */
