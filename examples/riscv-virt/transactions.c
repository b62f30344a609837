/*
 * transactions.c - all or nothing: one transaction of each ending.
 *
 * SPDX-License-Identifier: MIT
 */
#include "demo.h"

#include <stdio.h>
#include <string.h>

#define STEPS 3

/* An object, a page and a half, and a block of many pages. */
static const size_t step_bytes[STEPS] = {100, 6144, 100000};

/* --- Counters ------------------------------------------------------------- */

static void print_counters(const char *when, const struct tier_stats *stats)
{
    printf("  %-7s %zu objects and %zu blocks live, %zu bytes; "
           "%zu pages free, by order",
           when, stats->live_objects, stats->live_blocks, stats->live_bytes,
           stats->free_pages);
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        printf(" %zu", stats->free_blocks[order]);
    }
    printf("\n");
}

/* Equal in all that is live or free; peaks and failures may differ. */
static bool same_counters(const struct tier_stats *a,
                          const struct tier_stats *b)
{
    bool same =
        a->managed_pages == b->managed_pages &&
        a->free_pages == b->free_pages &&
        a->largest_free_order == b->largest_free_order &&
        a->slab_pages == b->slab_pages && a->live_objects == b->live_objects &&
        a->live_blocks == b->live_blocks && a->live_bytes == b->live_bytes;

    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        same = same && a->free_blocks[order] == b->free_blocks[order];
    }
    return same;
}

/* Print the statistics as they are now; the live ones must be as before. */
static void require_same(struct tier_allocator *allocator,
                         const struct tier_stats *before, enum demo_exit code)
{
    struct tier_stats after;

    tier_stats(allocator, &after);
    print_counters("after", &after);
    demo_require(same_counters(before, &after), code,
                 "a counter is not what it was");
    demo_require(tier_check(allocator), DEMO_EXIT_CHECK,
                 "the check failed after a transaction");
}

/* --- Transactions --------------------------------------------------------- */

/* Take steps until one fails, for the reason in *status; returns how many. */
static size_t take_steps(struct tier_tx *tx, struct tier_allocator *allocator,
                         const size_t bytes[STEPS], void *memory[STEPS],
                         enum tier_status *status)
{
    for (size_t i = 0; i < STEPS; i++) {
        *status = tier_tx_alloc(tx, allocator, bytes[i], &memory[i]);
        if (*status != TIER_OK) {
            return i;
        }
        memset(memory[i], 0x5a + (int)i, bytes[i]);
    }
    return STEPS;
}

/* Every byte is still what take_steps wrote, and every block can be freed. */
static bool free_steps(struct tier_allocator *allocator, void *memory[STEPS])
{
    bool good = true;

    for (size_t i = 0; i < STEPS; i++) {
        const unsigned char *bytes = memory[i];

        for (size_t k = 0; k < step_bytes[i]; k++) {
            good = good && bytes[k] == 0x5a + i;
        }
        good = tier_free(allocator, memory[i]) == TIER_OK && good;
    }
    return good;
}

void demo_commit(struct tier_allocator *allocator)
{
    struct tier_tx tx;
    struct tier_tx_record log[STEPS];
    struct tier_stats before;
    struct tier_stats during;
    enum tier_status status;
    void *memory[STEPS];

    tier_trim(
        allocator); /* so that a slab kept before and one kept after ... */
    tier_stats(allocator, &before);
    tier_tx_begin(&tx, log, STEPS);
    const size_t taken =
        take_steps(&tx, allocator, step_bytes, memory, &status);

    demo_require(taken == STEPS, DEMO_EXIT_COMMIT, tier_status_text(status));
    tier_tx_commit(&tx);
    tier_tx_rollback(&tx); /* undoes nothing: it is committed */

    tier_stats(allocator, &during);
    demo_require(during.live_objects + during.live_blocks ==
                     before.live_objects + before.live_blocks + STEPS,
                 DEMO_EXIT_COMMIT, "a committed allocation is not live");
    demo_require(free_steps(allocator, memory), DEMO_EXIT_COMMIT,
                 "a committed block is damaged");
    tier_trim(allocator); /* ... make no difference */

    printf("transaction: three allocations committed, used, freed\n");
    print_counters("before", &before);
    print_counters("between", &during);
    require_same(allocator, &before, DEMO_EXIT_COMMIT);
}

void demo_rollback(struct tier_allocator *allocator)
{
    struct tier_tx tx;
    struct tier_tx_record log[STEPS];
    struct tier_stats before;
    enum tier_status status;
    void *memory[STEPS];

    tier_trim(allocator); /* a failure would do it as its last resort */
    tier_stats(allocator, &before);
    /* The third step asks for more than all the memory there is. */
    const size_t bytes[STEPS] = {step_bytes[0], step_bytes[1],
                                 before.managed_pages * TIER_PAGE_SIZE + 1};

    tier_tx_begin(&tx, log, STEPS);
    const size_t taken = take_steps(&tx, allocator, bytes, memory, &status);

    demo_require(taken == STEPS - 1, DEMO_EXIT_ROLLBACK,
                 "the third step, and no other, was to fail");
    printf("transaction: the third step failed (%s), all rolled back\n",
           tier_status_text(status));
    print_counters("before", &before);
    tier_tx_rollback(&tx);
    require_same(allocator, &before, DEMO_EXIT_ROLLBACK);
}
