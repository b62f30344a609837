/*
 * tests/test_transaction.c - the undo log alone, over steps that keep a diary.
 *
 * SPDX-License-Identifier: MIT
 *
 * The smallest pages there are: a log that grows has many soon.
 */
#define TIERALLOC_IMPLEMENTATION
#ifndef TIERALLOC_PAGE_SHIFT
#define TIERALLOC_PAGE_SHIFT 8
#endif
#include "support.h"

#include <tieralloc/transaction.h>

/* --- The rig -------------------------------------------------------------- */

#define LOG_RECORDS  16
#define PAGE_RECORDS TIER_TX_PAGE_RECORDS
#define SHELF_PAGES  10
#define STEPS_MAX    (3 * LOG_RECORDS + SHELF_PAGES * PAGE_RECORDS)

static struct tier_tx_record log_records[LOG_RECORDS + 1];
static struct tier_tx tx;

/* What was run, in order: the context and the object of each step. */
static struct {
    size_t count;
    void *context[STEPS_MAX];
    unsigned number[STEPS_MAX];
} diary;

/* Objects to tell steps apart by. */
static unsigned char object[STEPS_MAX];

static void note(void *context, void *what)
{
    cr_assert(diary.count < COUNT(diary.number));
    diary.context[diary.count] = context;
    diary.number[diary.count] = (unsigned)((unsigned char *)what - object);
    diary.count++;
}

/* Contexts; the first letter is that of the step. */
static char undone[] = "undone";
static char done[] = "done";

static void undo(void *context, void *what)
{
    cr_assert_eq(*(char *)context, 'u');
    note(context, what);
}

static void later(void *context, void *what)
{
    cr_assert_eq(*(char *)context, 'd');
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

/* So many steps must be recorded. */
static void expect_records(const struct tier_tx *of, size_t undos,
                           size_t laters)
{
    size_t recorded = SIZE_MAX;
    size_t waiting = SIZE_MAX;

    tier_tx_records(of, &recorded, &waiting);
    cr_assert_eq(recorded, undos);
    cr_assert_eq(waiting, laters);
}

/* The transaction must be empty, whole and of no more effect. */
static void expect_over(void)
{
    cr_assert(tier_tx_check(&tx));
    expect_records(&tx, 0, 0);
    cr_assert(tier_tx_has_room(&tx, LOG_RECORDS));
    diary.count = 0;
    tier_tx_rollback(&tx);
    tier_tx_commit(&tx);
    cr_assert_eq(diary.count, 0U);
}

/* --- A source of pages ---------------------------------------------------- */

TEST_ARENA(arena, SHELF_PAGES *TIER_PAGE_SIZE);

/* A shelf of pages: lends the lowest, fails on demand. */
static struct {
    bool held[SHELF_PAGES];
    size_t lent;
    size_t acquires; /* calls, failed ones included */
    size_t fail_at;  /* the call that fails; 0 for none */
} shelf;

static void *shelf_acquire(void *context, size_t pages)
{
    cr_assert_eq(context, (void *)&shelf);
    cr_assert_eq(pages, 1U);
    if (++shelf.acquires == shelf.fail_at) {
        return NULL;
    }
    for (size_t i = 0; i < SHELF_PAGES; i++) {
        if (!shelf.held[i]) {
            shelf.held[i] = true;
            shelf.lent++;
            return memset(arena + i * TIER_PAGE_SIZE, 0xA5, TIER_PAGE_SIZE);
        }
    }
    return NULL;
}

/* What is in a page that was given back is gone. */
static void shelf_release(void *context, void *memory, size_t pages)
{
    const size_t at = (size_t)((unsigned char *)memory - arena);

    cr_assert_eq(context, (void *)&shelf);
    cr_assert_eq(pages, 1U);
    cr_assert_eq(at % TIER_PAGE_SIZE, 0U);
    cr_assert(at < sizeof(arena));
    cr_assert(shelf.held[at / TIER_PAGE_SIZE]);
    shelf.held[at / TIER_PAGE_SIZE] = false;
    shelf.lent--;
    memset(memory, 0xDD, TIER_PAGE_SIZE);
}

static const struct tier_page_source source = {shelf_acquire, shelf_release,
                                               &shelf};

static void set_up_growing(size_t capacity)
{
    memset(log_records, 0xA5, sizeof(log_records));
    memset(&shelf, 0, sizeof(shelf));
    diary.count = 0;
    tier_tx_begin_growing(&tx, capacity == 0 ? NULL : log_records, capacity,
                          &source);
    cr_assert(tier_tx_check(&tx));
}

/* Record so many undo steps, or so many waiting ones, numbered from `first`. */
static void add_many(enum tier_status (*add)(unsigned), unsigned first,
                     size_t count)
{
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(add(first + i), TIER_OK);
        cr_assert(tier_tx_check(&tx));
    }
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
        expect_records(&tx, undos, LOG_RECORDS - undos);
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

/* A savepoint of an array that is not this transaction's. */
Test(transaction, refuses_a_foreign_savepoint)
{
    static struct tier_tx_record records[LOG_RECORDS + 1];
    struct tier_tx other;

    set_up(LOG_RECORDS);
    tier_tx_begin(&other, records, LOG_RECORDS);
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(add_later(2), TIER_OK);
    cr_assert_eq(tier_tx_rollback_to(&tx, tier_tx_save(&other)),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_tx_rollback_to(&other, tier_tx_save(&tx)),
                 TIER_ERR_INVALID);
    cr_assert_eq(diary.count, 0U);
    expect_records(&tx, 1, 1);
    expect_records(&other, 0, 0);

    /* Each of its ends is checked by itself. */
    struct tier_tx_savepoint mixed = tier_tx_save(&tx);

    mixed.undo = records;
    cr_assert_eq(tier_tx_rollback_to(&tx, mixed), TIER_ERR_INVALID);
    mixed = tier_tx_save(&tx);
    mixed.later = &records[LOG_RECORDS];
    cr_assert_eq(tier_tx_rollback_to(&tx, mixed), TIER_ERR_INVALID);
    mixed.later = &log_records[LOG_RECORDS + 1];
    cr_assert_eq(tier_tx_rollback_to(&tx, mixed), TIER_ERR_INVALID);
    mixed = tier_tx_save(&tx);
    mixed.page = (struct tier_tx_page *)(void *)arena;
    cr_assert_eq(tier_tx_rollback_to(&tx, mixed), TIER_ERR_INVALID);
    expect_records(&tx, 1, 1);
    tier_tx_rollback(&tx);
    expect_diary(undone, 1, (const unsigned[]){1});
}

/* --- Growth --------------------------------------------------------------- */

/* The steps 0 to count - 1 must have been run, newest or oldest first. */
static void expect_all(const void *context, unsigned first, size_t count,
                       bool newest_first)
{
    cr_assert_eq(diary.count, count);
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(diary.context[i], context);
        cr_assert_eq(diary.number[i], newest_first
                                          ? first + (unsigned)count - 1 - i
                                          : first + i);
    }
    diary.count = 0;
}

Test(transaction, grows_by_a_page_when_the_array_is_full)
{
    for (unsigned capacity = 0; capacity <= LOG_RECORDS; capacity++) {
        set_up_growing(capacity);
        add_many(add_undo, 0, capacity);
        cr_assert(!tier_tx_has_room(&tx, 1));
        cr_assert_eq(shelf.acquires, 0U);
        for (unsigned pages = 1; pages <= 3; pages++) {
            const unsigned before =
                capacity + (pages - 1) * (unsigned)PAGE_RECORDS;

            cr_assert_eq(add_undo(before), TIER_OK);
            cr_assert_eq(shelf.lent, pages);
            cr_assert(tier_tx_has_room(&tx, PAGE_RECORDS - 1));
            cr_assert(!tier_tx_has_room(&tx, PAGE_RECORDS));
            add_many(add_undo, before + 1, PAGE_RECORDS - 1);
            cr_assert_eq(shelf.lent, pages);
        }
        expect_records(&tx, capacity + 3 * PAGE_RECORDS, 0);
        tier_tx_rollback(&tx);
        expect_all(undone, 0, capacity + 3 * PAGE_RECORDS, true);
        cr_assert_eq(shelf.lent, 0U);
        cr_assert_eq(shelf.acquires, 3U);
        cr_assert(
            test_all(&log_records[capacity], 0xA5,
                     (LOG_RECORDS + 1 - capacity) * sizeof(log_records[0])));
        cr_assert(tier_tx_has_room(&tx, capacity));
        cr_assert(!tier_tx_has_room(&tx, capacity + 1));
        cr_assert(tier_tx_check(&tx));
    }
}

/* Undo steps and waiting ones by turns, over the array and three pages. */
static void add_by_turns(unsigned capacity)
{
    set_up_growing(capacity);
    for (unsigned i = 0; 2 * i < capacity + 3 * PAGE_RECORDS; i++) {
        cr_assert_eq(add_undo(i), TIER_OK);
        cr_assert_eq(add_later(i), TIER_OK);
        expect_records(&tx, i + 1, i + 1);
        cr_assert(tier_tx_waits(&tx, later, &object[i]));
        cr_assert(tier_tx_waits(&tx, later, &object[0]));
        cr_assert(!tier_tx_waits(&tx, later, &object[i + 1]));
        cr_assert(!tier_tx_waits(&tx, undo, &object[i]));
    }
    cr_assert(shelf.lent >= 3);
}

Test(transaction, order_of_steps_does_not_depend_on_pages)
{
    for (unsigned capacity = 0; capacity <= LOG_RECORDS; capacity++) {
        const size_t steps = (capacity + 3 * PAGE_RECORDS + 1) / 2;

        add_by_turns(capacity);
        tier_tx_commit(&tx);
        expect_all(done, 0, steps, false);
        expect_records(&tx, 0, 0);
        cr_assert_eq(shelf.lent, 0U);
        cr_assert(tier_tx_has_room(&tx, capacity));
        cr_assert(!tier_tx_has_room(&tx, capacity + 1));
        tier_tx_rollback(&tx);
        cr_assert_eq(diary.count, 0U);

        add_by_turns(capacity);
        tier_tx_rollback(&tx);
        expect_all(undone, 0, steps, true);
        expect_records(&tx, 0, 0);
        cr_assert_eq(shelf.lent, 0U);
        cr_assert(tier_tx_has_room(&tx, capacity));
        cr_assert(!tier_tx_has_room(&tx, capacity + 1));
        tier_tx_commit(&tx);
        cr_assert_eq(diary.count, 0U);
        cr_assert(tier_tx_check(&tx));
    }
}

Test(transaction, commits_and_rolls_back_waiting_steps_alone)
{
    for (unsigned capacity = 0; capacity <= 2; capacity++) {
        set_up_growing(capacity);
        add_many(add_later, 0, 3 * PAGE_RECORDS);
        tier_tx_commit(&tx);
        expect_all(done, 0, 3 * PAGE_RECORDS, false);
        cr_assert_eq(shelf.lent, 0U);
        add_many(add_later, 0, 3 * PAGE_RECORDS);
        tier_tx_rollback(&tx);
        cr_assert_eq(diary.count, 0U);
        cr_assert_eq(shelf.lent, 0U);
        add_many(add_undo, 0, 3 * PAGE_RECORDS);
        tier_tx_commit(&tx);
        cr_assert_eq(diary.count, 0U);
        cr_assert_eq(shelf.lent, 0U);
    }
}

Test(transaction, nothing_is_recorded_without_a_page)
{
    const unsigned steps = 4 * (unsigned)PAGE_RECORDS + 3;

    for (size_t fail_at = 1; fail_at <= 5; fail_at++) {
        set_up_growing(3);
        shelf.fail_at = fail_at;
        for (unsigned i = 0; i < steps; i++) {
            enum tier_status (*const add)(unsigned) =
                i % 3 == 0 ? add_later : add_undo;
            struct tier_tx before;
            enum tier_status status;

            memcpy(&before, &tx, sizeof(tx));
            status = add(i);
            if (status != TIER_OK) {
                cr_assert_eq(status, TIER_ERR_NO_MEMORY);
                cr_assert_eq(shelf.acquires, fail_at);
                cr_assert(memcmp(&before, &tx, sizeof(tx)) == 0);
                cr_assert(tier_tx_check(&tx));
                cr_assert_eq(add(i), TIER_OK);
            }
        }
        cr_assert_eq(shelf.lent, 4U);
        cr_assert_eq(shelf.acquires, fail_at <= 4 ? 5U : 4U);
        if (fail_at % 2 == 0) {
            tier_tx_commit(&tx);
            cr_assert_eq(diary.count, (steps + 2) / 3);
            for (unsigned i = 0; i < diary.count; i++) {
                cr_assert_eq(diary.number[i], 3 * i);
            }
        } else {
            tier_tx_rollback(&tx);
            cr_assert_eq(diary.count, steps - (steps + 2) / 3);
            for (unsigned i = steps, k = 0; i > 0; i--) {
                cr_assert((i - 1) % 3 == 0 || diary.number[k++] == i - 1);
            }
        }
        cr_assert_eq(shelf.lent, 0U);
    }
}

Test(transaction, fills_every_page_of_the_source)
{
    const unsigned steps = SHELF_PAGES * (unsigned)PAGE_RECORDS + 1;

    set_up_growing(1);
    add_many(add_undo, 0, steps);
    cr_assert_eq(shelf.lent, (size_t)SHELF_PAGES);
    cr_assert_eq(add_undo(0), TIER_ERR_NO_MEMORY);
    cr_assert_eq(add_later(0), TIER_ERR_NO_MEMORY);
    cr_assert_eq(tier_tx_reserve(&tx, 1), TIER_ERR_NO_MEMORY);
    cr_assert_eq(tier_tx_reserve(&tx, 0), TIER_OK);
    expect_records(&tx, steps, 0);
    tier_tx_rollback(&tx);
    expect_all(undone, 0, steps, true);
    cr_assert_eq(shelf.lent, 0U);
}

Test(transaction, reserves_only_what_does_not_fit)
{
    set_up_growing(2);
    cr_assert_eq(tier_tx_reserve(&tx, 0), TIER_OK);
    cr_assert_eq(tier_tx_reserve(&tx, 2), TIER_OK);
    cr_assert_eq(shelf.acquires, 0U);
    cr_assert_eq(tier_tx_reserve(&tx, PAGE_RECORDS + 1), TIER_ERR_LOG_FULL);
    cr_assert_eq(tier_tx_reserve(&tx, SIZE_MAX), TIER_ERR_LOG_FULL);
    cr_assert_eq(shelf.acquires, 0U);
    shelf.fail_at = 1;
    cr_assert_eq(tier_tx_reserve(&tx, 3), TIER_ERR_NO_MEMORY);
    cr_assert(tier_tx_has_room(&tx, 2));
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(tier_tx_reserve(&tx, PAGE_RECORDS), TIER_OK);
    cr_assert_eq(shelf.lent, 1U);
    cr_assert(tier_tx_has_room(&tx, PAGE_RECORDS));
    cr_assert_eq(tier_tx_reserve(&tx, PAGE_RECORDS), TIER_OK);
    cr_assert_eq(shelf.lent, 1U);
    shelf.fail_at = 3;
    add_many(add_undo, 2, PAGE_RECORDS);
    cr_assert_eq(shelf.acquires, 2U);
    tier_tx_rollback(&tx);
    expect_all(undone, 1, PAGE_RECORDS + 1, true);
    cr_assert_eq(shelf.lent, 0U);
}

Test(transaction, reserves_nothing_in_a_log_that_does_not_grow)
{
    set_up(LOG_RECORDS);
    cr_assert_eq(tier_tx_reserve(&tx, LOG_RECORDS), TIER_OK);
    cr_assert_eq(tier_tx_reserve(&tx, LOG_RECORDS + 1), TIER_ERR_LOG_FULL);
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(add_later(1), TIER_OK);
    cr_assert_eq(tier_tx_reserve(&tx, LOG_RECORDS - 2), TIER_OK);
    cr_assert_eq(tier_tx_reserve(&tx, LOG_RECORDS - 1), TIER_ERR_LOG_FULL);
    expect_records(&tx, 1, 1);

    tier_tx_begin_growing(&tx, log_records, 1, NULL);
    cr_assert_eq(tier_tx_reserve(&tx, 2), TIER_ERR_LOG_FULL);
    cr_assert_eq(add_undo(1), TIER_OK);
    cr_assert_eq(add_undo(2), TIER_ERR_LOG_FULL);
    cr_assert_eq(add_later(2), TIER_ERR_LOG_FULL);
}

/* An array that holds more than a page does. */
Test(transaction, a_large_array_has_room_for_more_than_a_page)
{
    static struct tier_tx_record records[PAGE_RECORDS + 2];

    set_up_growing(0);
    tier_tx_begin_growing(&tx, records, COUNT(records), &source);
    cr_assert_eq(tier_tx_reserve(&tx, COUNT(records)), TIER_OK);
    cr_assert_eq(tier_tx_reserve(&tx, COUNT(records) + 1), TIER_ERR_LOG_FULL);
    cr_assert_eq(shelf.acquires, 0U);
}

Test(transaction, a_refused_step_acquires_no_page)
{
    set_up_growing(0);
    cr_assert_eq(tier_tx_defer(&tx, NULL, undone, object), TIER_ERR_INVALID);
    cr_assert_eq(tier_tx_on_commit(&tx, NULL, done, object), TIER_ERR_INVALID);
    cr_assert_eq(shelf.acquires, 0U);
    tier_tx_commit(&tx);
    tier_tx_rollback(&tx);
    cr_assert_eq(shelf.acquires, 0U);
}

Test(transaction, rollback_to_releases_the_pages_since)
{
    set_up_growing(2);
    const struct tier_tx_savepoint start = tier_tx_save(&tx);

    add_many(add_undo, 0, PAGE_RECORDS);
    const struct tier_tx_savepoint inner = tier_tx_save(&tx);
    struct tier_tx before;

    memcpy(&before, &tx, sizeof(tx));
    add_many(add_undo, (unsigned)PAGE_RECORDS, 2 * PAGE_RECORDS);
    add_many(add_later, 0, PAGE_RECORDS);
    cr_assert_eq(shelf.lent, 4U);
    const struct tier_tx_savepoint stale = tier_tx_save(&tx);

    cr_assert_eq(tier_tx_rollback_to(&tx, inner), TIER_OK);
    expect_all(undone, (unsigned)PAGE_RECORDS, 2 * PAGE_RECORDS, true);
    cr_assert_eq(shelf.lent, 1U);
    cr_assert(memcmp(&before, &tx, sizeof(tx)) == 0);
    cr_assert(tier_tx_check(&tx));
    cr_assert_eq(tier_tx_rollback_to(&tx, stale), TIER_ERR_INVALID);
    cr_assert_eq(diary.count, 0U);
    cr_assert_eq(shelf.lent, 1U);

    cr_assert_eq(tier_tx_rollback_to(&tx, start), TIER_OK);
    expect_all(undone, 0, PAGE_RECORDS, true);
    cr_assert_eq(shelf.lent, 0U);
    cr_assert_eq(tier_tx_rollback_to(&tx, inner), TIER_ERR_INVALID);
    cr_assert(tier_tx_check(&tx));
    expect_records(&tx, 0, 0);
}

Test(transaction, rollback_to_releases_a_page_that_was_only_reserved)
{
    set_up_growing(1);
    cr_assert_eq(add_later(1), TIER_OK);
    const struct tier_tx_savepoint savepoint = tier_tx_save(&tx);

    cr_assert_eq(tier_tx_reserve(&tx, 1), TIER_OK);
    cr_assert_eq(shelf.lent, 1U);
    cr_assert_eq(tier_tx_rollback_to(&tx, savepoint), TIER_OK);
    cr_assert_eq(shelf.lent, 0U);
    cr_assert_eq(tier_tx_reserve(&tx, 1), TIER_OK);
    tier_tx_commit(&tx);
    expect_diary(done, 1, (const unsigned[]){1});
    cr_assert_eq(shelf.lent, 0U);
}

/* Take a page of the source and write it full, or give one back. */
static void use_source(void *context, void *what)
{
    static void *page;

    note(context, what);
    cr_assert(tier_tx_check(&tx));
    if (page != NULL) {
        shelf_release(&shelf, page, 1);
        page = NULL;
        return;
    }
    page = shelf_acquire(&shelf, 1);
    if (page != NULL) {
        memset(page, 0x5C, TIER_PAGE_SIZE);
    }
}

/* In a rollback the step is forgotten before it is undone. */
static void use_source_in_rollback(void *context, void *what)
{
    size_t undos;
    size_t laters;

    tier_tx_records(&tx, &undos, &laters);
    cr_assert_leq(undos, (size_t)((unsigned char *)what - object));
    use_source(context, what);
}

/* In a commit the transaction is empty from the first step on. */
static void use_source_in_commit(void *context, void *what)
{
    expect_records(&tx, 0, 0);
    cr_assert(tx.page == NULL);
    use_source(context, what);
}

Test(transaction, steps_may_use_the_source_of_its_pages)
{
    for (unsigned way = 0; way < 2; way++) {
        const unsigned steps = 3 * (unsigned)PAGE_RECORDS;

        set_up_growing(1);
        for (unsigned i = 0; i < steps; i++) {
            cr_assert_eq(
                tier_tx_defer(&tx, use_source_in_rollback, undone, &object[i]),
                TIER_OK);
            cr_assert_eq(
                tier_tx_on_commit(&tx, use_source_in_commit, done, &object[i]),
                TIER_OK);
        }
        if (way == 0) {
            tier_tx_commit(&tx);
            expect_all(done, 0, steps, false);
        } else {
            tier_tx_rollback(&tx);
            expect_all(undone, 0, steps, true);
        }
        cr_assert_eq(shelf.lent, 0U);
    }
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

/* The same over a log that grows, from so many pages on. */
static unsigned leave_growing(enum way way, unsigned pages)
{
    for (unsigned round = 0; round < 1; round++) {
        TIER_TX_GROWING(block, 0, &source);
        for (unsigned i = 0; i < pages * PAGE_RECORDS / 2; i++) {
            cr_assert_eq(tier_tx_defer(&block, undo, undone, &object[i]),
                         TIER_OK);
            cr_assert_eq(tier_tx_on_commit(&block, later, done, &object[i]),
                         TIER_OK);
        }
        cr_assert_eq(shelf.lent, pages);
        switch (way) {
        case RETURN:
            return 1;
        case CONTINUE:
            continue;
        case GOTO:
            goto out;
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

Test(transaction, growing_block_ends_on_every_way_out)
{
    const enum way ways[] = {FALL, RETURN, BREAK, CONTINUE, GOTO};

    memset(&shelf, 0, sizeof(shelf));
    diary.count = 0;
    for (unsigned pages = 0; pages <= 4; pages += 2) {
        for (size_t i = 0; i < COUNT(ways); i++) {
            cr_assert_eq(leave_growing(ways[i], pages),
                         ways[i] == RETURN ? 1U : 0U);
            expect_all(undone, 0, pages * PAGE_RECORDS / 2, true);
            cr_assert_eq(shelf.lent, 0U);
        }
        cr_assert_eq(leave_growing(COMMIT_RETURN, pages), 2U);
        expect_all(done, 0, pages * PAGE_RECORDS / 2, false);
        cr_assert_eq(shelf.lent, 0U);
    }
}

Test(transaction, growing_block_fills_its_array_first)
{
    set_up_growing(0);
    {
        TIER_TX_GROWING(block, 2, &source);
        cr_assert(tier_tx_has_room(&block, 2));
        cr_assert(!tier_tx_has_room(&block, 3));
        cr_assert_eq(tier_tx_defer(&block, undo, undone, &object[1]), TIER_OK);
        cr_assert_eq(tier_tx_defer(&block, undo, undone, &object[2]), TIER_OK);
        cr_assert_eq(shelf.lent, 0U);
        cr_assert_eq(tier_tx_defer(&block, undo, undone, &object[3]), TIER_OK);
        cr_assert_eq(shelf.lent, 1U);
    }
    expect_diary(undone, 3, (const unsigned[]){3, 2, 1});
    cr_assert_eq(shelf.lent, 0U);
}

/* --- A structure that is changed as a whole or not at all ----------------- */

#define ENTRIES 24

/* A table whose entries point to nodes of a pool. */
static struct {
    unsigned char *entry[ENTRIES];
    unsigned char node[ENTRIES]; /* 1: in use */
    unsigned used;
} table;

static void put_entry_back(void *context, void *what)
{
    *(unsigned char **)context = (unsigned char *)what;
}

static void give_node_back(void *context, void *what)
{
    cr_assert_eq(context, (void *)&table);
    *(unsigned char *)what = 0;
    table.used--;
}

/* Take a node of the pool, of which `limit` may be in use. */
static enum tier_status take_node(struct tier_tx *of, unsigned limit,
                                  unsigned char **out)
{
    const enum tier_status status = tier_tx_reserve(of, 1);

    if (status != TIER_OK) {
        return status;
    }
    if (table.used >= limit) {
        return TIER_ERR_NO_MEMORY;
    }
    *out = table.node;
    while (**out != 0) {
        ++*out;
    }
    **out = 1;
    table.used++;
    return tier_tx_defer(of, give_node_back, &table, *out);
}

/* Give each entry of [first, first + count) a node, or change nothing. */
static enum tier_status fill(struct tier_tx *of, unsigned first, unsigned count,
                             unsigned limit)
{
    for (unsigned i = first; i < first + count; i++) {
        unsigned char *node = NULL;
        enum tier_status status =
            table.entry[i] == NULL ? TIER_OK : TIER_ERR_IN_USE;

        if (status == TIER_OK) {
            status = take_node(of, limit, &node);
        }
        if (status == TIER_OK) {
            status = tier_tx_defer(of, put_entry_back, &table.entry[i],
                                   table.entry[i]);
        }
        if (status != TIER_OK) {
            tier_tx_rollback(of);
            return status;
        }
        table.entry[i] = node;
    }
    tier_tx_commit(of);
    return TIER_OK;
}

/* A table of which the entries 2 and 20 are in use. */
static void set_up_table(void)
{
    memset(&table, 0, sizeof(table));
    table.entry[2] = &table.node[0];
    table.entry[20] = &table.node[7];
    table.node[0] = 1;
    table.node[7] = 1;
    table.used = 2;
}

/* Fill twelve entries from the fourth on; the table is as it was or filled. */
static void expect_all_or_nothing(struct tier_tx *of, unsigned first,
                                  unsigned limit, enum tier_status expected)
{
    static unsigned char before[sizeof(table)];

    set_up_table();
    memcpy(before, &table, sizeof(table));
    cr_assert_eq(fill(of, first, 12, limit), expected);
    if (expected != TIER_OK) {
        cr_assert(memcmp(before, &table, sizeof(table)) == 0);
    } else {
        cr_assert_eq(table.used, 14U);
        cr_assert_not_null(table.entry[first + 11]);
    }
    cr_assert_eq(shelf.lent, 0U);
    expect_records(of, 0, 0);
}

Test(transaction, a_structure_survives_failure_at_every_step)
{
    for (size_t capacity = 0; capacity < 24; capacity++) {
        static struct tier_tx_record records[24];

        memset(&shelf, 0, sizeof(shelf));
        tier_tx_begin(&tx, records, capacity);
        expect_all_or_nothing(&tx, 3, ENTRIES, TIER_ERR_LOG_FULL);
    }
    for (unsigned limit = 2; limit < 14; limit++) {
        set_up_growing(limit);
        expect_all_or_nothing(&tx, 3, limit, TIER_ERR_NO_MEMORY);
    }
    for (unsigned first = 9; first <= 12; first++) { /* 20 is in use */
        set_up_growing(0);
        expect_all_or_nothing(&tx, first, ENTRIES, TIER_ERR_IN_USE);
    }
    for (size_t fail_at = 1;; fail_at++) {
        set_up_growing(0);
        shelf.fail_at = fail_at;
        if ((fail_at - 1) * PAGE_RECORDS >= 24) {
            expect_all_or_nothing(&tx, 3, ENTRIES, TIER_OK);
            break;
        }
        expect_all_or_nothing(&tx, 3, ENTRIES, TIER_ERR_NO_MEMORY);
    }
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
    tx.undo = &log_records[8];
    cr_assert(!tier_tx_check(&tx));
    tx.undo = &log_records[9];
    cr_assert(!tier_tx_check(&tx));
    tx.undo = (struct tier_tx_record *)(UINTPTR_MAX - 3);
    cr_assert(!tier_tx_check(&tx));
    /* Below the bottom; one is by whole records, modulo the address space. */
    tx.undo =
        (struct tier_tx_record *)((uintptr_t)log_records - sizeof(void *));
    cr_assert(!tier_tx_check(&tx));
    tx.undo =
        (struct tier_tx_record *)((uintptr_t)log_records - 2 * sizeof(void *));
    cr_assert(!tier_tx_check(&tx));
    tx.undo = NULL;
    cr_assert(!tier_tx_check(&tx));
    tx.undo = (struct tier_tx_record *)(void *)&log_records[1].context;
    cr_assert(!tier_tx_check(&tx));
    tx.undo = &log_records[2];
    tx.later = &log_records[1];
    cr_assert(!tier_tx_check(&tx));
    tx.later = &log_records[9];
    cr_assert(!tier_tx_check(&tx));
    tx.later = (struct tier_tx_record *)(void *)&log_records[7].context;
    cr_assert(!tier_tx_check(&tx));
    tx.later = &log_records[7];
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

/* Damage a pointer, look, and mend it. */
#define EXPECT_DAMAGE(pointer, with)    \
    do {                                \
        void *const good_ = (pointer);  \
        (pointer) = (void *)(with);     \
        cr_assert(!tier_tx_check(&tx)); \
        (pointer) = good_;              \
        cr_assert(tier_tx_check(&tx));  \
    } while (0)

Test(transaction, check_detects_damage_of_pages)
{
    static const struct tier_page_source other = {shelf_acquire, shelf_release,
                                                  &shelf};

    set_up_growing(2);
    for (unsigned i = 0; i < 2 + 3 * PAGE_RECORDS; i++) {
        cr_assert_eq(i % 2 == 0 ? add_undo(i) : add_later(i), TIER_OK);
    }
    struct tier_tx_page *const newest = tx.page;
    struct tier_tx_page *const middle = newest->before.page;
    struct tier_tx_page *const oldest = middle->before.page;

    cr_assert(oldest->before.page == NULL);
    EXPECT_DAMAGE(tx.page, middle);
    EXPECT_DAMAGE(tx.page, (unsigned char *)newest + sizeof(void *));
    EXPECT_DAMAGE(newest->before.page, oldest);
    EXPECT_DAMAGE(newest->before.page, newest);
    EXPECT_DAMAGE(middle->before.page, middle);
    EXPECT_DAMAGE(middle->before.page, newest);
    EXPECT_DAMAGE(oldest->before.page, middle);
    EXPECT_DAMAGE(oldest->before.page, oldest);
    EXPECT_DAMAGE(newest->newer, middle);
    EXPECT_DAMAGE(middle->newer, NULL);
    EXPECT_DAMAGE(oldest->newer, newest);
    EXPECT_DAMAGE(middle->before.undo, middle->before.end);
    EXPECT_DAMAGE(middle->before.later, middle->before.undo - 1);
    EXPECT_DAMAGE(middle->before.log, middle->before.log + 1);
    EXPECT_DAMAGE(middle->before.end, middle->before.end - 1);
    EXPECT_DAMAGE(newest->before.undo, newest->before.log - 1);
    tx.source = NULL;
    cr_assert(!tier_tx_check(&tx));
    tx.source = &source;
    middle->before.source = NULL;
    cr_assert(!tier_tx_check(&tx));
    middle->before.source = &other;
    cr_assert(!tier_tx_check(&tx));
    tx.source = NULL; /* in no part, but pages */
    newest->before.source = NULL;
    middle->before.source = NULL;
    oldest->before.source = NULL;
    cr_assert(!tier_tx_check(&tx));
    tx.source = &source;
    newest->before.source = &source;
    middle->before.source = &source;
    oldest->before.source = &source;
    oldest->record[0].step = NULL;
    cr_assert(!tier_tx_check(&tx));
    oldest->record[0].step = undo;
    oldest->record[PAGE_RECORDS - 1].step = NULL;
    cr_assert(!tier_tx_check(&tx));
    oldest->record[PAGE_RECORDS - 1].step = later;
    cr_assert(tier_tx_check(&tx));
    tier_tx_rollback(&tx);
    cr_assert_eq(shelf.lent, 0U);
}

/* --- Random runs ---------------------------------------------------------- */

#define RIGS  3
#define MARKS 8

/* Where a transaction has been: a savepoint, and what it stands for. */
struct mark {
    struct tier_tx_savepoint savepoint;
    size_t undos;
    size_t laters;
    size_t parts;
};

/* A transaction, and what it should hold. */
static struct rig {
    struct tier_tx tx;
    struct tier_tx_record records[LOG_RECORDS + 1];
    char undone[2]; /* "u" */
    char done[2];   /* "d" */
    unsigned undo[STEPS_MAX];
    unsigned later[STEPS_MAX];
    size_t undos;
    size_t laters;
    struct {
        size_t begin; /* steps recorded before it */
        size_t capacity;
    } part[SHELF_PAGES + 1];
    size_t parts; /* the array, and the pages */
    bool grows;
    struct mark mark[MARKS]; /* oldest first */
    size_t marks;
} rigs[RIGS];

static struct mark mark_of(const struct rig *rig)
{
    struct mark mark;

    mark.savepoint = tier_tx_save(&rig->tx);
    mark.undos = rig->undos;
    mark.laters = rig->laters;
    mark.parts = rig->parts;
    return mark;
}

static void rig_begin(struct rig *rig, size_t capacity, bool grows)
{
    memset(rig->records, 0xA5, sizeof(rig->records));
    memset(&rig->tx, 0xA5, sizeof(rig->tx));
    memcpy(rig->undone, "u", 2);
    memcpy(rig->done, "d", 2);
    rig->undos = 0;
    rig->laters = 0;
    rig->parts = 1;
    rig->part[0].begin = 0;
    rig->part[0].capacity = capacity;
    rig->grows = grows;
    rig->marks = 0;
    if (grows) {
        tier_tx_begin_growing(&rig->tx, capacity == 0 ? NULL : rig->records,
                              capacity, &source);
    } else {
        tier_tx_begin(&rig->tx, rig->records, capacity);
    }
}

/* Records that fit without growing. */
static size_t rig_room(const struct rig *rig)
{
    const size_t last = rig->parts - 1;

    return rig->part[last].capacity -
           (rig->undos + rig->laters - rig->part[last].begin);
}

/* What a request of so many records should end in; the model grows. */
static enum tier_status rig_expect(struct rig *rig, size_t records)
{
    if (records <= rig_room(rig)) {
        return TIER_OK;
    }
    if (!rig->grows || records > PAGE_RECORDS) {
        return TIER_ERR_LOG_FULL;
    }
    if (shelf.lent == SHELF_PAGES || shelf.acquires + 1 == shelf.fail_at) {
        return TIER_ERR_NO_MEMORY;
    }
    rig->part[rig->parts].begin = rig->undos + rig->laters;
    rig->part[rig->parts].capacity = PAGE_RECORDS;
    rig->parts++;
    return TIER_OK;
}

static void rig_add(struct rig *rig, uint64_t *random)
{
    const unsigned number = test_below(random, COUNT(object));
    const enum tier_status expected = rig_expect(rig, 1);

    if (test_below(random, 2) == 0) {
        cr_assert_eq(
            tier_tx_defer(&rig->tx, undo, rig->undone, &object[number]),
            expected);
        if (expected == TIER_OK) {
            rig->undo[rig->undos++] = number;
        }
        return;
    }
    cr_assert_eq(tier_tx_on_commit(&rig->tx, later, rig->done, &object[number]),
                 expected);
    if (expected == TIER_OK) {
        rig->later[rig->laters++] = number;
        cr_assert(tier_tx_waits(&rig->tx, later, &object[number]));
    }
}

/* Go back in the model to a mark, and compare with the diary. */
static void rig_expect_undone(struct rig *rig, const struct mark *to)
{
    cr_assert_eq(diary.count, rig->undos - to->undos);
    for (size_t i = 0; rig->undos > to->undos; i++) {
        cr_assert_eq(diary.number[i], rig->undo[--rig->undos]);
        cr_assert_eq(diary.context[i], (void *)rig->undone);
    }
    rig->laters = to->laters;
    rig->parts = to->parts;
    diary.count = 0;
}

/* A mark that was passed must be refused, unless nothing lies between. */
static void rig_expect_stale(struct rig *rig, const struct mark *mark)
{
    const bool same = mark->undos == rig->undos &&
                      mark->laters == rig->laters && mark->parts == rig->parts;

    cr_assert_eq(tier_tx_rollback_to(&rig->tx, mark->savepoint),
                 same ? TIER_OK : TIER_ERR_INVALID);
    cr_assert_eq(diary.count, 0U);
}

static void rig_rollback_to(struct rig *rig, uint64_t *random)
{
    if (rig->marks == 0) {
        return;
    }
    const size_t back = test_below(random, (uint32_t)rig->marks);
    const struct mark now = mark_of(rig);

    cr_assert_eq(tier_tx_rollback_to(&rig->tx, rig->mark[back].savepoint),
                 TIER_OK);
    rig_expect_undone(rig, &rig->mark[back]);
    rig_expect_stale(rig, &now);
    while (rig->marks > back + 1) {
        rig_expect_stale(rig, &rig->mark[--rig->marks]);
    }
}

/* The savepoint of another transaction. */
static void rig_refuse(struct rig *rig, const struct rig *other)
{
    const struct tier_tx_savepoint foreign = tier_tx_save(&other->tx);

    /* Those of two without a record to tell them apart are the same. */
    if (other != rig && foreign.undo != NULL) {
        cr_assert_eq(tier_tx_rollback_to(&rig->tx, foreign), TIER_ERR_INVALID);
        cr_assert_eq(diary.count, 0U);
    }
}

static void rig_end(struct rig *rig, uint64_t *random)
{
    static const struct mark start = {.undos = 0, .laters = 0, .parts = 1};
    const struct mark now = mark_of(rig);

    if (test_below(random, 2) == 0) {
        tier_tx_rollback(&rig->tx);
        rig_expect_undone(rig, &start);
    } else {
        tier_tx_commit(&rig->tx);
        expect_diary(rig->done, rig->laters, rig->later);
        rig->undos = 0;
        rig->laters = 0;
        rig->parts = 1;
    }
    rig_expect_stale(rig, &now);
    rig->marks = 0;
    if (test_below(random, 2) == 0) {
        rig_begin(rig, test_below(random, LOG_RECORDS + 1),
                  test_below(random, 4) != 0);
    }
}

static void rig_step(struct rig *rig, uint64_t *random)
{
    switch (test_below(random, 96)) {
    case 0:
        rig_end(rig, random);
        return;
    case 1:
    case 2:
        rig_rollback_to(rig, random);
        return;
    case 3:
    case 4:
    case 5:
        if (rig->marks < MARKS) {
            rig->mark[rig->marks++] = mark_of(rig);
        }
        return;
    case 6:
    case 7: {
        const size_t records = test_below(random, PAGE_RECORDS + 3);
        const enum tier_status expected = rig_expect(rig, records);

        cr_assert_eq(tier_tx_reserve(&rig->tx, records), expected);
        return;
    }
    case 8:
        rig_refuse(rig, &rigs[test_below(random, RIGS)]);
        return;
    case 9:
        shelf.fail_at = shelf.acquires + 1 + test_below(random, 3);
        return;
    default:
        rig_add(rig, random);
    }
}

static void rig_check(const struct rig *rig)
{
    cr_assert(tier_tx_check(&rig->tx));
    expect_records(&rig->tx, rig->undos, rig->laters);
    cr_assert(tier_tx_has_room(&rig->tx, rig_room(rig)));
    cr_assert(!tier_tx_has_room(&rig->tx, rig_room(rig) + 1));
    cr_assert(
        test_all(&rig->records[LOG_RECORDS], 0xA5, sizeof(rig->records[0])));
}

/* A run over so many transactions at once, which share the source. */
static void random_run(unsigned count, bool grows)
{
    uint64_t random = TEST_SEED + count;

    memset(&shelf, 0, sizeof(shelf));
    diary.count = 0;
    for (unsigned i = 0; i < RIGS; i++) {
        rig_begin(&rigs[i], LOG_RECORDS - i, grows);
    }
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        size_t pages = 0;

        rig_step(&rigs[test_below(&random, count)], &random);
        for (unsigned i = 0; i < count; i++) {
            rig_check(&rigs[i]);
            pages += rigs[i].parts - 1;
        }
        cr_assert_eq(shelf.lent, pages);
    }
    for (unsigned i = 0; i < count; i++) {
        tier_tx_rollback(&rigs[i].tx);
        diary.count = 0;
    }
    cr_assert_eq(shelf.lent, 0U);
}

Test(transaction, random_run_agrees_with_the_model)
{
    random_run(1, false);
}

Test(transaction, random_run_of_several_over_one_source_agrees)
{
    random_run(RIGS, true);
}
