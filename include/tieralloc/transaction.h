/*
 * tieralloc/transaction.h - steps that take effect together or not at all.
 *
 * SPDX-License-Identifier: MIT
 *
 * An undo log in the caller's frame (Gray, Reuter, Transaction Processing,
 * 1993, section 10.3). What must be undone on rollback fills the log from the
 * bottom, what must wait for commit fills it from the top:
 *
 *     log | undo 0 | undo 1 | undo 2 |   room   | later 1 | later 0 |
 *
 * Rollback runs the undo steps, newest first, and forgets the others; commit
 * runs the waiting steps, oldest first, and forgets the undo steps. Neither
 * allocates, neither can fail. A record is reserved before the step that it
 * undoes is taken, so a full log is a refused step, not a lost one.
 *
 *     TIER_TX(tx, 4);                   rolls back on every way out ...
 *     if (tier_tx_alloc(&tx, heap, 64, &node) != TIER_OK) return NULL;
 *     if (tier_tx_alloc(&tx, heap, 4096, &data) != TIER_OK) return NULL;
 *     tier_tx_commit(&tx);              ... but this one
 *
 * Every call is O(1) but commit and rollback, which are O(records). A record
 * is three words. No function locks: a transaction belongs to one thread.
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
 * transaction that runs it.
 */
typedef void (*tier_tx_step)(void *context, void *object);

/* One record of the log. */
struct tier_tx_record {
    tier_tx_step step;
    void *context;
    void *object;
};

/* A transaction. The caller owns the storage; the fields are private. */
struct tier_tx {
    struct tier_tx_record *log;
    size_t capacity; /* records in the log */
    size_t undo;     /* records in use from the bottom */
    size_t later;    /* records in use from the top */
};

/* A point to which a transaction can be rolled back. */
struct tier_tx_savepoint {
    size_t undo;
    size_t later;
};

/*
 * Declare a transaction `tx` with room for `records`, a constant, and begin
 * it; when its scope is left in any way, return included, what was not
 * committed is rolled back.
 */
#define TIER_TX(tx, records)                                      \
    struct tier_tx_record tx##_log_[records];                     \
    struct tier_tx tx __attribute__((cleanup(tier_tx_rollback))); \
    tier_tx_begin(&(tx), tx##_log_, (records))

/* --- Lifecycle ------------------------------------------------------------ */

/*
 * Begin a transaction whose log is the array `log` of `capacity` records.
 *
 * The array must stay in place until commit or rollback; its contents need
 * not be initialised.
 */
TIERALLOC_API void tier_tx_begin(struct tier_tx *tx, struct tier_tx_record *log,
                                 size_t capacity);

/*
 * Make every step final: run the waiting ones, oldest first.
 *
 * The transaction is empty afterwards and may be used again. O(records).
 */
TIERALLOC_API void tier_tx_commit(struct tier_tx *tx);

/*
 * Undo every step, newest first; the waiting ones never happen.
 *
 * The transaction is empty afterwards and may be used again, so a rollback
 * after a commit does nothing. O(records).
 */
TIERALLOC_API void tier_tx_rollback(struct tier_tx *tx);

/* --- Steps ---------------------------------------------------------------- */

/* True when `records` more records fit. Ask before a step of your own. */
TIERALLOC_API bool tier_tx_has_room(const struct tier_tx *tx, size_t records);

/*
 * Run undo(context, object) if the transaction is rolled back.
 *
 * Returns TIER_OK; TIER_ERR_LOG_FULL when no record is left, with nothing
 * recorded (the caller then undoes its step itself, or asks for room first);
 * TIER_ERR_INVALID when undo is NULL.
 */
TIERALLOC_API enum tier_status tier_tx_defer(struct tier_tx *tx,
                                             tier_tx_step undo, void *context,
                                             void *object);

/*
 * Run step(context, object) when the transaction commits.
 *
 * Returns TIER_OK; TIER_ERR_LOG_FULL when no record is left;
 * TIER_ERR_INVALID when step is NULL.
 */
TIERALLOC_API enum tier_status tier_tx_on_commit(struct tier_tx *tx,
                                                 tier_tx_step step,
                                                 void *context, void *object);

/* Remember how far the transaction is, for a part that may fail alone. */
TIERALLOC_API struct tier_tx_savepoint tier_tx_save(const struct tier_tx *tx);

/*
 * Undo what came after a savepoint of this transaction, newest first; the
 * transaction goes on. O(records undone).
 *
 * Requires that the transaction was neither committed nor rolled back beyond
 * the savepoint meanwhile. Returns TIER_OK, or TIER_ERR_INVALID with nothing
 * undone when it holds fewer steps than then; that it was emptied and filled
 * again is not seen.
 */
TIERALLOC_API enum tier_status tier_tx_rollback_to(
    struct tier_tx *tx, struct tier_tx_savepoint savepoint);

/* --- Inspection ----------------------------------------------------------- */

/* True when a step waiting for commit has this function and object. */
TIERALLOC_API bool tier_tx_waits(const struct tier_tx *tx, tier_tx_step step,
                                 const void *object);

/* True when the two ends of the log do not overlap and no step is missing. */
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

TIERALLOC_API void tier_tx_begin(struct tier_tx *tx, struct tier_tx_record *log,
                                 size_t capacity)
{
    tx->log = log;
    tx->capacity = capacity;
    tx->undo = 0;
    tx->later = 0;
}

/* The record of the waiting step number `index`, counted from the oldest. */
TIER_INLINE_ struct tier_tx_record *tier_tx_later_(const struct tier_tx *tx,
                                                   size_t index)
{
    return &tx->log[tx->capacity - 1 - index];
}

TIERALLOC_API void tier_tx_commit(struct tier_tx *tx)
{
    for (size_t i = 0; i < tx->later; i++) {
        const struct tier_tx_record *record = tier_tx_later_(tx, i);

        record->step(record->context, record->object);
    }
    tx->undo = 0;
    tx->later = 0;
}

TIERALLOC_API enum tier_status tier_tx_rollback_to(
    struct tier_tx *tx, struct tier_tx_savepoint savepoint)
{
    if (savepoint.undo > tx->undo || savepoint.later > tx->later) {
        return TIER_ERR_INVALID;
    }
    tx->later = savepoint.later;
    while (tx->undo > savepoint.undo) {
        const struct tier_tx_record *record = &tx->log[--tx->undo];

        record->step(record->context, record->object);
    }
    return TIER_OK;
}

TIERALLOC_API void tier_tx_rollback(struct tier_tx *tx)
{
    struct tier_tx_savepoint start;

    start.undo = 0;
    start.later = 0;
    (void)tier_tx_rollback_to(tx, start);
}

TIERALLOC_API bool tier_tx_has_room(const struct tier_tx *tx, size_t records)
{
    return records <= tx->capacity - tx->undo - tx->later;
}

/* Fill a record of the log. */
TIER_INLINE_ void tier_tx_record_(struct tier_tx_record *record,
                                  tier_tx_step step, void *context,
                                  void *object)
{
    record->step = step;
    record->context = context;
    record->object = object;
}

TIERALLOC_API enum tier_status tier_tx_defer(struct tier_tx *tx,
                                             tier_tx_step undo, void *context,
                                             void *object)
{
    if (undo == NULL) {
        return TIER_ERR_INVALID;
    }
    if (!tier_tx_has_room(tx, 1)) {
        return TIER_ERR_LOG_FULL;
    }
    tier_tx_record_(&tx->log[tx->undo++], undo, context, object);
    return TIER_OK;
}

TIERALLOC_API enum tier_status tier_tx_on_commit(struct tier_tx *tx,
                                                 tier_tx_step step,
                                                 void *context, void *object)
{
    if (step == NULL) {
        return TIER_ERR_INVALID;
    }
    if (!tier_tx_has_room(tx, 1)) {
        return TIER_ERR_LOG_FULL;
    }
    tier_tx_record_(tier_tx_later_(tx, tx->later++), step, context, object);
    return TIER_OK;
}

TIERALLOC_API struct tier_tx_savepoint tier_tx_save(const struct tier_tx *tx)
{
    struct tier_tx_savepoint savepoint;

    savepoint.undo = tx->undo;
    savepoint.later = tx->later;
    return savepoint;
}

TIERALLOC_API bool tier_tx_waits(const struct tier_tx *tx, tier_tx_step step,
                                 const void *object)
{
    for (size_t i = 0; i < tx->later; i++) {
        const struct tier_tx_record *record = tier_tx_later_(tx, i);

        if (record->step == step && record->object == object) {
            return true;
        }
    }
    return false;
}

TIERALLOC_API bool tier_tx_check(const struct tier_tx *tx)
{
    if (tx->undo > tx->capacity || tx->later > tx->capacity - tx->undo) {
        return false;
    }
    for (size_t i = 0; i < tx->undo; i++) {
        if (tx->log[i].step == NULL) {
            return false;
        }
    }
    for (size_t i = 0; i < tx->later; i++) {
        if (tier_tx_later_(tx, i)->step == NULL) {
            return false;
        }
    }
    return true;
}

#endif /* TIERALLOC_TRANSACTION_IMPLEMENTED */
