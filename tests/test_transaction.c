/*
 * tests/test_transaction.c - the undo log alone, over steps that keep a diary.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/transaction.h>

/* --- The rig -------------------------------------------------------------- */

#define LOG_RECORDS 16

static struct tier_tx_record log_records[LOG_RECORDS + 1];
static struct tier_tx tx;

/* What was run, in order: the context and the object of each step. */
static struct {
    size_t count;
    void *context[64];
    unsigned number[64];
} diary;

/* Objects to tell steps apart by. */
static unsigned char object[64];

static void note(void *context, void *what)
{
    cr_assert(diary.count < COUNT(diary.number));
    diary.context[diary.count] = context;
    diary.number[diary.count] = (unsigned)((unsigned char *)what - object);
    diary.count++;
}

static char undone[] = "undone";
static char done[] = "done";

static void undo(void *context, void *what)
{
    cr_assert_eq(context, (void *)undone);
    note(context, what);
}

static void later(void *context, void *what)
{
    cr_assert_eq(context, (void *)done);
    note(context, what);
}

static void set_up(size_t capacity)
{
    memset(log_records, 0xA5, sizeof(log_records));
    diary.count = 0;
    tier_tx_begin(&tx, log_records, capacity);
    cr_assert(tier_tx_check(&tx));
}

static enum tier_status add_undo(unsigned number)
{
    return tier_tx_defer(&tx, undo, undone, &object[number]);
}

static enum tier_status add_later(unsigned number)
{
    return tier_tx_on_commit(&tx, later, done, &object[number]);
}

/* The diary must tell of these numbers, in this order, and nothing else. */
static void expect_diary(const void *context, size_t count,
                         const unsigned *numbers)
{
    cr_assert_eq(diary.count, count);
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(diary.number[i], numbers[i]);
        cr_assert_eq(diary.context[i], context);
    }
    diary.count = 0;
}

/* The transaction must be empty, whole and of no more effect. */
static void expect_over(void)
{
    cr_assert(tier_tx_check(&tx));
    cr_assert(tier_tx_has_room(&tx, LOG_RECORDS));
    diary.count = 0;
    tier_tx_rollback(&tx);
    tier_tx_commit(&tx);
    cr_assert_eq(diary.count, 0U);
}

/* --- Commit and rollback -------------------------------------------------- */

Test(transaction, rollback_undoes_newest_first_and_forgets_the_rest)
{
    set_up(LOG_RECORDS);
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(add_later(2), TIER_OK);
    cr_assert_eq(add_undo(3), TIER_OK);
    cr_assert_eq(add_later(4), TIER_OK);
    cr_assert_eq(add_undo(5), TIER_OK);
    cr_assert_eq(diary.count, 0U);
    tier_tx_rollback(&tx);
    expect_diary(undone, 3, (const unsigned[]){5, 3, 1});
    expect_over();
}

Test(transaction, commit_runs_oldest_first_and_forgets_the_rest)
{
    set_up(LOG_RECORDS);
    cr_assert_eq(add_later(1), TIER_OK);
    cr_assert_eq(add_undo(2), TIER_OK);
    cr_assert_eq(add_later(3), TIER_OK);
    cr_assert_eq(add_undo(4), TIER_OK);
    cr_assert_eq(add_later(5), TIER_OK);
    cr_assert_eq(diary.count, 0U);
    tier_tx_commit(&tx);
    expect_diary(done, 3, (const unsigned[]){1, 3, 5});
    expect_over();
}

Test(transaction, may_be_used_again)
{
    set_up(2);
    for (unsigned round = 0; round < 10; round++) {
        cr_assert_eq(add_undo(round), TIER_OK);
        cr_assert_eq(add_later(round + 20), TIER_OK);
        cr_assert(!tier_tx_has_room(&tx, 1));
        if (round % 2 == 0) {
            tier_tx_commit(&tx);
            expect_diary(done, 1, (const unsigned[]){round + 20});
        } else {
            tier_tx_rollback(&tx);
            expect_diary(undone, 1, (const unsigned[]){round});
        }
        cr_assert(tier_tx_has_room(&tx, 2));
        cr_assert(tier_tx_check(&tx));
    }
}

Test(transaction, empty_ones_commit_and_roll_back)
{
    set_up(0);
    cr_assert(tier_tx_has_room(&tx, 0));
    cr_assert(!tier_tx_has_room(&tx, 1));
    cr_assert_eq(add_undo(1), TIER_ERR_LOG_FULL);
    cr_assert_eq(add_later(1), TIER_ERR_LOG_FULL);
    tier_tx_commit(&tx);
    tier_tx_rollback(&tx);
    cr_assert_eq(diary.count, 0U);
    tier_tx_begin(&tx, NULL, 0);
    tier_tx_rollback(&tx);
    tier_tx_commit(&tx);
    cr_assert(tier_tx_check(&tx));
}

/* --- The log -------------------------------------------------------------- */

Test(transaction, log_is_full_at_its_capacity_however_it_is_shared)
{
    for (unsigned undos = 0; undos <= LOG_RECORDS; undos++) {
        set_up(LOG_RECORDS);
        for (unsigned i = 0; i < LOG_RECORDS; i++) {
            cr_assert(tier_tx_has_room(&tx, LOG_RECORDS - i));
            cr_assert(!tier_tx_has_room(&tx, LOG_RECORDS - i + 1));
            cr_assert(!tier_tx_has_room(&tx, SIZE_MAX));
            cr_assert_eq(i < undos ? add_undo(i) : add_later(i), TIER_OK);
            cr_assert(tier_tx_check(&tx));
        }
        cr_assert(!tier_tx_has_room(&tx, 1));
        cr_assert_eq(add_undo(40), TIER_ERR_LOG_FULL);
        cr_assert_eq(add_later(41), TIER_ERR_LOG_FULL);
        cr_assert(
            test_all(&log_records[LOG_RECORDS], 0xA5, sizeof(log_records[0])));
        tier_tx_commit(&tx);
        cr_assert_eq(diary.count, LOG_RECORDS - undos);
        for (unsigned i = 0; i < diary.count; i++) {
            cr_assert_eq(diary.number[i], undos + i);
        }
        expect_over();
    }
}

Test(transaction, a_refused_step_is_not_recorded)
{
    set_up(3);
    cr_assert_eq(tier_tx_defer(&tx, NULL, undone, &object[1]),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_tx_on_commit(&tx, NULL, done, &object[1]),
                 TIER_ERR_INVALID);
    cr_assert(tier_tx_has_room(&tx, 3));
    cr_assert(test_all(log_records, 0xA5, sizeof(log_records)));
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(add_later(2), TIER_OK);
    cr_assert_eq(add_undo(3), TIER_OK);
    cr_assert_eq(add_undo(4), TIER_ERR_LOG_FULL);
    cr_assert_eq(add_later(5), TIER_ERR_LOG_FULL);
    cr_assert_eq(tier_tx_defer(&tx, NULL, undone, &object[1]),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_tx_on_commit(&tx, NULL, done, &object[1]),
                 TIER_ERR_INVALID);
    cr_assert(tier_tx_check(&tx));
    tier_tx_rollback(&tx);
    expect_diary(undone, 2, (const unsigned[]){3, 1});
}

Test(transaction, begin_writes_no_record)
{
    set_up(LOG_RECORDS);
    cr_assert(test_all(log_records, 0xA5, sizeof(log_records)));
}

Test(transaction, passes_null_on_as_it_is)
{
    static unsigned char zeros[sizeof(void *) * 2];

    set_up(LOG_RECORDS);
    cr_assert_eq(add_undo(0), TIER_OK);
    cr_assert_not_null(log_records[0].object);
    cr_assert_eq(tier_tx_defer(&tx, undo, NULL, NULL), TIER_OK);
    cr_assert(memcmp(&log_records[1].context, zeros, sizeof(void *)) == 0);
    cr_assert(memcmp(&log_records[1].object, zeros, sizeof(void *)) == 0);
    tier_tx_commit(&tx);
    cr_assert_eq(diary.count, 0U);
}

/* --- Savepoints ----------------------------------------------------------- */

Test(transaction, rolls_back_to_nested_savepoints)
{
    set_up(LOG_RECORDS);
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(add_later(2), TIER_OK);
    const struct tier_tx_savepoint outer = tier_tx_save(&tx);

    cr_assert_eq(add_undo(3), TIER_OK);
    const struct tier_tx_savepoint inner = tier_tx_save(&tx);

    cr_assert_eq(add_undo(4), TIER_OK);
    cr_assert_eq(add_later(5), TIER_OK);
    cr_assert_eq(add_undo(6), TIER_OK);
    cr_assert_eq(tier_tx_rollback_to(&tx, inner), TIER_OK);
    expect_diary(undone, 2, (const unsigned[]){6, 4});
    cr_assert(tier_tx_has_room(&tx, LOG_RECORDS - 3));
    cr_assert(!tier_tx_waits(&tx, later, &object[5]));
    cr_assert_eq(add_later(7), TIER_OK);
    cr_assert_eq(tier_tx_rollback_to(&tx, outer), TIER_OK);
    expect_diary(undone, 1, (const unsigned[]){3});
    cr_assert_eq(tier_tx_rollback_to(&tx, outer), TIER_OK);
    expect_diary(undone, 0, NULL);
    cr_assert_eq(add_later(8), TIER_OK);
    tier_tx_commit(&tx);
    expect_diary(done, 2, (const unsigned[]){2, 8});
    expect_over();
}

Test(transaction, refuses_a_savepoint_that_is_no_longer_reached)
{
    set_up(LOG_RECORDS);
    const struct tier_tx_savepoint start = tier_tx_save(&tx);

    cr_assert_eq(add_undo(1), TIER_OK);
    const struct tier_tx_savepoint after_undo = tier_tx_save(&tx);

    cr_assert_eq(add_later(2), TIER_OK);
    const struct tier_tx_savepoint after_later = tier_tx_save(&tx);

    cr_assert_eq(tier_tx_rollback_to(&tx, after_undo), TIER_OK);
    cr_assert_eq(tier_tx_rollback_to(&tx, after_later), TIER_ERR_INVALID);
    cr_assert_eq(tier_tx_rollback_to(&tx, start), TIER_OK);
    expect_diary(undone, 1, (const unsigned[]){1});
    cr_assert_eq(tier_tx_rollback_to(&tx, after_undo), TIER_ERR_INVALID);
    cr_assert_eq(add_later(3), TIER_OK);
    cr_assert_eq(tier_tx_rollback_to(&tx, after_later), TIER_ERR_INVALID);
    tier_tx_commit(&tx);
    expect_diary(done, 1, (const unsigned[]){3});
    cr_assert_eq(tier_tx_rollback_to(&tx, after_later), TIER_ERR_INVALID);
    cr_assert_eq(tier_tx_rollback_to(&tx, start), TIER_OK);
    expect_over();
}

Test(transaction, a_refused_rollback_undoes_nothing)
{
    set_up(LOG_RECORDS);
    cr_assert_eq(add_later(1), TIER_OK);
    const struct tier_tx_savepoint later_one = tier_tx_save(&tx);

    tier_tx_commit(&tx);
    diary.count = 0;
    cr_assert_eq(add_undo(2), TIER_OK);
    cr_assert_eq(add_undo(3), TIER_OK);
    cr_assert_eq(tier_tx_rollback_to(&tx, later_one), TIER_ERR_INVALID);
    cr_assert_eq(diary.count, 0U);
    tier_tx_rollback(&tx);
    expect_diary(undone, 2, (const unsigned[]){3, 2});
}

/* --- The block macro ------------------------------------------------------ */

/* Leave a block in one way or another; what was undone tells how. */
enum way { FALL, RETURN, BREAK, CONTINUE, GOTO, COMMIT, COMMIT_RETURN };

static unsigned leave(enum way way)
{
    for (unsigned round = 0; round < 1; round++) {
        TIER_TX(block, 4);
        cr_assert_eq(tier_tx_defer(&block, undo, undone, &object[1]), TIER_OK);
        cr_assert_eq(tier_tx_on_commit(&block, later, done, &object[2]),
                     TIER_OK);
        cr_assert_eq(tier_tx_defer(&block, undo, undone, &object[3]), TIER_OK);
        switch (way) {
        case RETURN:
            return 1;
        case CONTINUE:
            continue;
        case GOTO:
            goto out;
        case COMMIT:
            tier_tx_commit(&block);
            break;
        case COMMIT_RETURN:
            tier_tx_commit(&block);
            return 2;
        default:
            break;
        }
        if (way == BREAK) {
            break;
        }
    }
out:
    return 0;
}

Test(transaction, block_rolls_back_on_every_way_out)
{
    const enum way ways[] = {FALL, RETURN, BREAK, CONTINUE, GOTO};

    for (size_t i = 0; i < COUNT(ways); i++) {
        diary.count = 0;
        cr_assert_eq(leave(ways[i]), ways[i] == RETURN ? 1U : 0U);
        expect_diary(undone, 2, (const unsigned[]){3, 1});
    }
}

Test(transaction, block_keeps_what_was_committed)
{
    diary.count = 0;
    cr_assert_eq(leave(COMMIT), 0U);
    expect_diary(done, 1, (const unsigned[]){2});
    cr_assert_eq(leave(COMMIT_RETURN), 2U);
    expect_diary(done, 1, (const unsigned[]){2});
}

Test(transaction, blocks_nest)
{
    diary.count = 0;
    {
        TIER_TX(outer, 2);
        cr_assert_eq(tier_tx_defer(&outer, undo, undone, &object[1]), TIER_OK);
        {
            TIER_TX(inner, 2);
            cr_assert_eq(tier_tx_defer(&inner, undo, undone, &object[2]),
                         TIER_OK);
        }
        expect_diary(undone, 1, (const unsigned[]){2});
        cr_assert_eq(tier_tx_defer(&outer, undo, undone, &object[3]), TIER_OK);
        cr_assert(!tier_tx_has_room(&outer, 1));
    }
    expect_diary(undone, 2, (const unsigned[]){3, 1});
}

/* --- Inspection ----------------------------------------------------------- */

Test(transaction, tells_what_waits)
{
    set_up(LOG_RECORDS);
    cr_assert(!tier_tx_waits(&tx, later, &object[1]));
    cr_assert_eq(add_later(1), TIER_OK);
    cr_assert_eq(add_later(2), TIER_OK);
    cr_assert_eq(add_undo(3), TIER_OK);
    cr_assert(tier_tx_waits(&tx, later, &object[1]));
    cr_assert(tier_tx_waits(&tx, later, &object[2]));
    cr_assert(!tier_tx_waits(&tx, undo, &object[2]));
    cr_assert(!tier_tx_waits(&tx, undo, &object[3]));
    cr_assert(!tier_tx_waits(&tx, later, &object[3]));
    tier_tx_commit(&tx);
    cr_assert(!tier_tx_waits(&tx, later, &object[1]));
}

Test(transaction, check_detects_damage)
{
    set_up(8);
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(add_undo(2), TIER_OK);
    cr_assert_eq(add_later(3), TIER_OK);
    tx.undo = 8;
    cr_assert(!tier_tx_check(&tx));
    tx.undo = 9;
    cr_assert(!tier_tx_check(&tx));
    tx.undo = SIZE_MAX;
    cr_assert(!tier_tx_check(&tx));
    tx.undo = 2;
    tx.later = 7;
    cr_assert(!tier_tx_check(&tx));
    tx.later = SIZE_MAX;
    cr_assert(!tier_tx_check(&tx));
    tx.later = 1;
    cr_assert(tier_tx_check(&tx));
    log_records[1].step = NULL;
    cr_assert(!tier_tx_check(&tx));
    log_records[1].step = undo;
    log_records[7].step = NULL;
    cr_assert(!tier_tx_check(&tx));
    log_records[7].step = later;
    log_records[2].step = NULL; /* a record that is not in use */
    cr_assert(tier_tx_check(&tx));
}

/* --- A random run --------------------------------------------------------- */

/* What the transaction should hold. */
static struct {
    unsigned undo[LOG_RECORDS];
    unsigned later[LOG_RECORDS];
    size_t undos;
    size_t laters;
} model;

/* Undo in the model down to so many steps, and compare with the diary. */
static void expect_undone_to(size_t undos, size_t laters)
{
    cr_assert_eq(diary.count, model.undos - undos);
    for (size_t i = 0; model.undos > undos; i++) {
        cr_assert_eq(diary.number[i], model.undo[--model.undos]);
    }
    model.laters = laters;
    diary.count = 0;
}

static void random_step(uint64_t *random)
{
    const unsigned number = test_below(random, COUNT(object));
    const bool full = model.undos + model.laters == tx.capacity;

    if (test_below(random, 2) == 0) {
        cr_assert_eq(add_undo(number), full ? TIER_ERR_LOG_FULL : TIER_OK);
        if (!full) {
            model.undo[model.undos++] = number;
        }
    } else {
        cr_assert_eq(add_later(number), full ? TIER_ERR_LOG_FULL : TIER_OK);
        if (!full) {
            model.later[model.laters++] = number;
        }
    }
}

/* Roll back to a savepoint made up at random, reached or not. */
static void random_rollback_to(uint64_t *random)
{
    struct tier_tx_savepoint to;

    to.undo = test_below(random, (uint32_t)model.undos + 2);
    to.later = test_below(random, (uint32_t)model.laters + 2);
    if (to.undo > model.undos || to.later > model.laters) {
        cr_assert_eq(tier_tx_rollback_to(&tx, to), TIER_ERR_INVALID);
        expect_undone_to(model.undos, model.laters);
    } else {
        cr_assert_eq(tier_tx_rollback_to(&tx, to), TIER_OK);
        expect_undone_to(to.undo, to.later);
    }
}

static void random_end(uint64_t *random)
{
    if (test_below(random, 2) == 0) {
        tier_tx_rollback(&tx);
        expect_undone_to(0, 0);
    } else {
        tier_tx_commit(&tx);
        expect_diary(done, model.laters, model.later);
        model.undos = 0;
        model.laters = 0;
    }
    if (test_below(random, 4) == 0) {
        set_up(test_below(random, LOG_RECORDS + 1));
    }
}

Test(transaction, random_run_agrees_with_the_model)
{
    uint64_t random = TEST_SEED;

    set_up(LOG_RECORDS);
    model.undos = 0;
    model.laters = 0;
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        switch (test_below(&random, 16)) {
        case 0:
            random_end(&random);
            break;
        case 1:
        case 2:
            random_rollback_to(&random);
            break;
        default:
            random_step(&random);
        }
        cr_assert(tier_tx_check(&tx));
        cr_assert(
            tier_tx_has_room(&tx, tx.capacity - model.undos - model.laters));
        cr_assert(!tier_tx_has_room(&tx, tx.capacity - model.undos -
                                             model.laters + 1));
    }
}
