/*
 * tests/test_rollback.c - transactions over allocators, failing at every point.
 *
 * SPDX-License-Identifier: MIT
 *
 * A random transaction is a plan, which is carried out again and again from the
 * same state, copied back each time: with a failure at every point where one is
 * possible, and at last without. After each of these that is rolled back, the
 * allocators must be as they were: what is in use at once, to the byte, and
 * every page of the map and every bit of a slab after tier_trim on both sides.
 * A plain model knows what was committed, and nothing else.
 *
 * Small pages, so that little memory has many of them.
 */
#define TIERALLOC_IMPLEMENTATION
#ifndef TIERALLOC_PAGE_SHIFT
#define TIERALLOC_PAGE_SHIFT 8
#endif
#ifndef TIERALLOC_MAX_ORDER
#define TIERALLOC_MAX_ORDER 5
#endif
#ifndef TIERALLOC_OBJECT_MAX
#define TIERALLOC_OBJECT_MAX 1024
#endif
#ifndef TIERALLOC_CPU_BYTES
#define TIERALLOC_CPU_BYTES 512
#endif
#include "model.h"

#include <tieralloc/tieralloc.h>

/* --- The rig -------------------------------------------------------------- */

#define SIDES       2
#define ARENA_PAGES ((size_t)72)
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)
#define DMA_BYTES   (ARENA_PAGES / 4 * TIER_PAGE_SIZE)

/* An allocator with its map and all its memory, which begins amid a block. */
struct side {
    _Alignas(TIER_BLOCK_MAX) unsigned char skew[TIER_PAGE_SIZE];
    unsigned char arena[ARENA_BYTES];
    struct tier_allocator heap;
    uint64_t map[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8 + 1];
};

static struct side side[SIDES];
static struct side image[SIDES]; /* as they were before a transaction */
static struct side spare;        /* for logs that grow from elsewhere */
static struct model model;
static bool claimed[sizeof(side) / MODEL_GRAIN];
static uint64_t seed;

static uint32_t below(uint32_t bound)
{
    return test_below(&seed, bound);
}

/* True once in so many calls. */
static bool once_in(uint32_t calls)
{
    return below(calls) == 0;
}

static struct tier_stats stats_of(struct tier_allocator *allocator)
{
    struct tier_stats stats;

    tier_stats(allocator, &stats);
    return stats;
}

/* --- Failures ------------------------------------------------------------- */

/* Where a transaction can fail. */
enum fault {
    FAULT_NONE,
    FAULT_PAGE,     /* one request of a slab or of the heap for pages */
    FAULT_PAGES,    /* that one and all later ones */
    FAULT_FAMINE,   /* from one step on there are no pages for anybody */
    FAULT_LOG,      /* the log is full */
    FAULT_LOG_PAGE, /* a request of the log for a page */
    FAULT_REQUEST   /* a request, by the rule of tier_inject */
};

/* Which of them fails; how many there were so far. */
static struct {
    enum fault kind;
    size_t at;
    size_t pages;
    size_t log_pages;
    size_t requests;
} fault;

/* Count a request for pages; true when it is to fail. */
static bool page_fails(void)
{
    fault.pages++;
    return (fault.kind == FAULT_PAGE && fault.pages == fault.at) ||
           (fault.kind == FAULT_PAGES && fault.pages >= fault.at);
}

static void *slab_acquire(void *context, size_t pages)
{
    return page_fails() ? NULL : tier_slab_acquire_pages_(context, pages);
}

static void *heap_acquire(void *context, size_t pages)
{
    return page_fails() ? NULL : tier_heap_acquire_pages_(context, pages);
}

/* Have no request get a page, but those with TIER_RESERVE; or all as before. */
static void set_famine(bool famine)
{
    for (unsigned i = 0; i < SIDES; i++) {
        const struct tier_zones *const zones = &side[i].heap.zones;

        for (unsigned zone = 0; zone < zones->count; zone++) {
            const size_t mark =
                famine ? zones->zone[zone].buddy.managed_pages : 0;

            cr_assert_eq(
                tier_set_watermarks(&side[i].heap, zone, mark, mark, mark),
                TIER_OK);
        }
    }
}

/* Have the nth request to each allocator fail; 0: none, but count them. */
static void set_injection(size_t nth)
{
#if TIERALLOC_CHECKS == 2
    const struct tier_injection rule = {nth == 0 ? SIZE_MAX : nth, 0, 0};

    for (unsigned i = 0; i < SIDES; i++) {
        tier_inject(&side[i].heap, &rule);
    }
#else
    (void)nth;
#endif
}

/* Most requests that one allocator got since, and no injection any more. */
static void end_injection(void)
{
    fault.requests = 0;
#if TIERALLOC_CHECKS == 2
    for (unsigned i = 0; i < SIDES; i++) {
        const size_t requests = side[i].heap.injector.counted;

        if (requests > fault.requests) {
            fault.requests = requests;
        }
        tier_inject(&side[i].heap, NULL);
    }
#endif
}

/* --- Logs ----------------------------------------------------------------- */

#define LOG_RECORDS 64

/* Where the records of a transaction are. */
enum log {
    LOG_ARRAY,
    LOG_SAME, /* pages of the allocator that is worked on */
    LOG_OTHER /* pages of another one */
};

static struct tier_tx_record log_records[LOG_RECORDS];
static struct tier_tx tx;

/* The source of pages of the log, and how many it lent. */
static struct {
    struct tier_page_source inner;
    size_t lent;
} shelf;

static void *log_acquire(void *context, size_t pages)
{
    void *page = NULL;

    cr_assert_eq(context, (void *)&shelf);
    cr_assert_eq(pages, 1U);
    fault.log_pages++;
    if (fault.kind != FAULT_LOG_PAGE || fault.log_pages != fault.at) {
        page = shelf.inner.acquire(shelf.inner.context, pages);
    }
    if (page != NULL) {
        memset(page, 0xA5, TIER_PAGE_SIZE);
        shelf.lent++;
    }
    return page;
}

static void log_release(void *context, void *page, size_t pages)
{
    cr_assert_eq(context, (void *)&shelf);
    cr_assert_eq(pages, 1U);
    cr_assert(shelf.lent > 0);
    shelf.lent--;
    shelf.inner.release(shelf.inner.context, page, pages);
}

static const struct tier_page_source log_source = {log_acquire, log_release,
                                                   &shelf};

/* --- What is in use ------------------------------------------------------- */

/* Who has an allocation, as the map tells. */
enum tier { TIER_OBJECT, TIER_IN_HEAP, TIER_PAGES };

/* The figures of tier_stats that a transaction rolled back leaves as they are. */
struct figures {
    size_t objects;
    size_t heap_objects;
    size_t blocks;
    size_t pages;
    size_t bytes;
};

/* What is committed, by side. */
static struct figures committed[SIDES];

/* An allocation. */
struct made {
    unsigned char *at;
    size_t asked;
    size_t usable;
    unsigned where; /* side */
    enum tier tier;
};

static struct figures figures_of(const struct made *made)
{
    struct figures figures = {0, 0, 0, 0, 0};
    const size_t least = made->asked + (made->asked == 0) + TIER_GUARD_BYTES;

    if (made->tier == TIER_OBJECT) {
        figures.objects = 1;
        figures.bytes = model_class(least);
    } else if (made->tier == TIER_IN_HEAP) {
        figures.heap_objects = 1;
        figures.bytes = (least + TIERALLOC_MIN_ALIGN - 1) /
                        TIERALLOC_MIN_ALIGN * TIERALLOC_MIN_ALIGN;
    } else {
        figures.blocks = 1;
        figures.pages = made->usable / TIER_PAGE_SIZE;
        figures.bytes = made->usable;
    }
    return figures;
}

static void add_figures(struct figures *to, const struct figures *more)
{
    to->objects += more->objects;
    to->heap_objects += more->heap_objects;
    to->blocks += more->blocks;
    to->pages += more->pages;
    to->bytes += more->bytes;
}

static void subtract_figures(struct figures *from, const struct figures *less)
{
    from->objects -= less->objects;
    from->heap_objects -= less->heap_objects;
    from->blocks -= less->blocks;
    from->pages -= less->pages;
    from->bytes -= less->bytes;
}

/* The allocator must count exactly this, and the pages of the log. */
static void expect_figures(const struct side *at,
                           const struct tier_stats *stats,
                           const struct figures *figures)
{
    const size_t lent = shelf.inner.context == &at->heap ? shelf.lent : 0;

    cr_assert_eq(stats->live_objects, figures->objects);
    cr_assert_eq(stats->heap_objects, figures->heap_objects);
    cr_assert_eq(stats->live_blocks, figures->blocks + lent);
    cr_assert_eq(stats->live_pages, figures->pages + lent);
    cr_assert_eq(stats->live_bytes, figures->bytes + lent * TIER_PAGE_SIZE);
    cr_assert_eq(stats->managed_pages, ARENA_PAGES);
    cr_assert_eq(stats->free_pages + stats->slab_pages + stats->heap_pages +
                     stats->live_pages,
                 ARENA_PAGES);
}

/* Usable bytes that the documentation promises. */
static size_t usable_bytes(enum tier tier, size_t asked, size_t pages)
{
    const size_t least = asked + (asked == 0);

    if (tier == TIER_PAGES) {
        return (pages != 0 ? pages
                           : (least + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE) *
               TIER_PAGE_SIZE;
    }
    if (TIERALLOC_CHECKS == 2) {
        return least;
    }
    return tier == TIER_OBJECT ? model_class(least)
                               : (least + TIERALLOC_MIN_ALIGN - 1) /
                                     TIERALLOC_MIN_ALIGN * TIERALLOC_MIN_ALIGN;
}

/* Describe what a request got: whole pages are wanted, or `pages` is 0. */
static struct made made_of(unsigned where, void *memory, size_t asked,
                           size_t pages)
{
    struct made made;
    const unsigned kind = tier_kind_(&side[where].heap, memory);

    made.at = memory;
    made.asked = asked;
    made.where = where;
    made.tier = (kind & TIER_KIND_SLAB) != 0 ? TIER_OBJECT
                : kind == TIER_KIND_HEAP     ? TIER_IN_HEAP
                                             : TIER_PAGES;
    made.usable = usable_bytes(made.tier, asked, pages);
    cr_assert_eq(tier_usable_size(&side[where].heap, memory), made.usable);
    return made;
}

/* Make a slot of the model of what was committed, or of a plain allocation. */
static void keep(const struct made *made)
{
    const struct figures figures = figures_of(made);

    add_figures(&committed[made->where], &figures);
    model_add(&model, made->at, made->asked, made->usable,
              made->where * 4 + made->tier);
}

static unsigned where_is(const struct model_slot *slot)
{
    return slot->tag / 4;
}

/* Drop a slot whose memory is free now. */
static void drop(size_t index)
{
    const struct model_slot *const slot = &model.slot[index];
    struct made made;

    made.at = slot->at;
    made.asked = slot->asked;
    made.usable = slot->bytes;
    made.where = where_is(slot);
    made.tier = (enum tier)(slot->tag % 4);
    const struct figures figures = figures_of(&made);

    subtract_figures(&committed[made.where], &figures);
    model_forget(&model, index);
}

/* --- What is free --------------------------------------------------------- */

/* All that tier_trim leaves of an allocator, but for the order of lists. */
struct remains {
    struct tier_stats stats;
    uint8_t kinds[ARENA_PAGES];
    uint64_t slabs; /* which object is free, of each slab */
    uint64_t heap;  /* what the simple heap holds */
};

/* A number of several, of no order between calls when these are added up. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t state = a * UINT64_C(0x9E3779B97F4A7C15) + b;

    return test_random(&state);
}

static void add_visit(void *context, void *memory, size_t bytes)
{
    *(uint64_t *)context += mix((uintptr_t)memory, bytes);
}

/* The free objects of the slab that a page belongs to. */
static uint64_t slab_bits(const struct tier_slab_desc_ *desc, size_t index)
{
    const size_t words =
        (desc->objects + TIER_WORD_BITS_ - 1) / TIER_WORD_BITS_;
    uint64_t sum = mix(index, desc->free);

    for (size_t i = 0; i < words; i++) {
        sum = mix(sum, desc->bits[i]);
    }
    return sum;
}

static void tell_remains(struct side *at, struct remains *remains)
{
    const struct tier_pagemap *const map = &at->heap.map;

    tier_stats(&at->heap, &remains->stats);
    memcpy(remains->kinds, map->kind, ARENA_PAGES);
    remains->slabs = 0;
    for (size_t i = 0; i < ARENA_PAGES; i++) {
        if ((map->kind[i] & TIER_KIND_SLAB) != 0 ||
            map->kind[i] == TIER_KIND_META) {
            remains->slabs += slab_bits(map->entry[i].slab, i);
        }
    }
    remains->heap = 0;
    tier_heap_each(&at->heap.heap, add_visit, &remains->heap);
}

/* Free blocks of each order, and what lies in runs, must be the same. */
static void expect_same_lists(const struct tier_stats *a,
                              const struct tier_stats *b)
{
    cr_assert_eq(a->free_run_pages, b->free_run_pages);
    cr_assert_eq(a->largest_free_order, b->largest_free_order);
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        cr_assert_eq(a->free_blocks[order], b->free_blocks[order]);
    }
}

/* As many pages must be free, in slabs and in the heap. */
static void expect_same_pages(const struct tier_stats *a,
                              const struct tier_stats *b)
{
    cr_assert_eq(a->free_pages, b->free_pages);
    cr_assert_eq(a->slab_pages, b->slab_pages);
    cr_assert_eq(a->heap_pages, b->heap_pages);
}

/* An allocator, trimmed, must have left exactly this. */
static void expect_remains(struct side *at, const struct remains *remains)
{
    struct remains now;

    (void)tier_trim(&at->heap);
    tell_remains(at, &now);
    expect_same_pages(&now.stats, &remains->stats);
    expect_same_lists(&now.stats, &remains->stats);
    cr_assert_eq(now.stats.free_run_pages, 0U);
    cr_assert_eq(now.stats.waiting_objects, 0U);
    cr_assert(memcmp(now.kinds, remains->kinds, ARENA_PAGES) == 0);
    cr_assert_eq(now.slabs, remains->slabs);
    cr_assert_eq(now.heap, remains->heap);
}

/* --- Setting up ----------------------------------------------------------- */

/* An allocator of two zones, if there can be as many. */
static void set_up_side(struct side *at)
{
    const struct tier_zone_range zones[] = {
        {"DMA", (uintptr_t)at->arena, DMA_BYTES},
        {"NORMAL", (uintptr_t)at->arena + DMA_BYTES, ARENA_BYTES - DMA_BYTES}};

    memset(at, 0xA5, sizeof(*at));
    cr_assert_eq(tier_init(&at->heap, (uintptr_t)at->arena, ARENA_BYTES,
                           at->map, sizeof(at->map)),
                 TIER_OK);
    if (TIERALLOC_ZONES > 1) {
        cr_assert_eq(tier_set_zones(&at->heap, zones, 2), TIER_OK);
    }
    cr_assert_eq(tier_add_region(&at->heap, at->arena, ARENA_BYTES), TIER_OK);
    at->heap.slab.source.acquire = slab_acquire;
    at->heap.heap.source.acquire = heap_acquire;
}

static void set_up(void)
{
    const struct figures none = {0, 0, 0, 0, 0};

    for (unsigned i = 0; i < SIDES; i++) {
        set_up_side(&side[i]);
        committed[i] = none;
    }
    set_up_side(&spare);
    model_init(&model, side, sizeof(side), claimed);
    fault.kind = FAULT_NONE;
    shelf.inner.context = NULL;
    shelf.lent = 0;
    seed = TEST_SEED;
}

static void set_mode(enum tier_mode mode)
{
    for (unsigned i = 0; i < SIDES; i++) {
        cr_assert_eq(tier_set_mode(&side[i].heap, mode), TIER_OK);
    }
}

/* --- Plans ---------------------------------------------------------------- */

/* A step of a transaction. */
enum kind {
    STEP_ALLOC,     /* tier_tx_alloc */
    STEP_TRY,       /* tier_tx_try_alloc, with flags */
    STEP_PAGES,     /* tier_tx_alloc_pages */
    STEP_FREE,      /* tier_tx_free of what is committed */
    STEP_FREE_MADE, /* the same of what the transaction allocated */
    STEP_OWN,       /* a change of one's own, with its undo step */
    STEP_LATER,     /* a step of one's own at commit */
    STEP_RESERVE,
    STEP_SAVE,
    STEP_BACK,    /* to one of the savepoints */
    STEP_INNER,   /* another transaction, rolled back */
    STEP_REFUSED, /* frees that are wrong, and requests */
    STEP_KINDS
};

struct step {
    enum kind kind;
    unsigned where;
    size_t bytes;
    unsigned order;
    unsigned flags;
    uint32_t pick;
};

#define STEPS_MAX 8

static struct {
    struct step step[STEPS_MAX];
    unsigned steps;
    bool uses[SIDES];
    enum log log;
    bool goes_on; /* after a step that failed */
} plan;

static const unsigned flags_of_tries[] = {
    0,
    TIER_ZERO,
    TIER_NO_RETRY,
    TIER_RESERVE,
    TIER_ATOMIC,
    TIER_NORMAL | TIER_ZERO,
    TIER_DMA,
    TIER_HIGH | TIER_NO_RETRY,
};

static size_t random_bytes(void)
{
    const uint32_t tier = below(16);

    if (tier < 8) {
        return tier == 0 ? 0 : below(65);
    }
    if (tier < 13) {
        return below(TIERALLOC_OBJECT_MAX + 1);
    }
    return tier < 15 ? below(8 * (uint32_t)TIER_PAGE_SIZE)
                     : below((uint32_t)TIER_BLOCK_MAX + 1);
}

static const uint8_t weights[STEP_KINDS] = {
    [STEP_ALLOC] = 10,    [STEP_TRY] = 5,  [STEP_PAGES] = 3, [STEP_FREE] = 9,
    [STEP_FREE_MADE] = 2, [STEP_OWN] = 2,  [STEP_LATER] = 2, [STEP_RESERVE] = 1,
    [STEP_SAVE] = 3,      [STEP_BACK] = 2, [STEP_INNER] = 1, [STEP_REFUSED] = 1,
};

static enum kind random_kind(void)
{
    uint32_t sum = 0;
    unsigned kind = 0;

    for (unsigned i = 0; i < STEP_KINDS; i++) {
        sum += weights[i];
    }
    for (uint32_t left = below(sum); left >= weights[kind]; kind++) {
        left -= weights[kind];
    }
    return (enum kind)kind;
}

static void make_plan(void)
{
    const uint32_t sides = below(4);

    plan.uses[0] = sides != 0;
    plan.uses[1] = sides < 2;
    plan.log = (enum log)(once_in(2) ? LOG_ARRAY : 1 + below(2));
    plan.goes_on = once_in(2);
    plan.steps = 1 + below(STEPS_MAX);
    for (unsigned i = 0; i < plan.steps; i++) {
        struct step *const step = &plan.step[i];

        step->kind = random_kind();
        step->where = !plan.uses[0] || (plan.uses[1] && once_in(2));
        step->bytes = random_bytes();
        step->order = below(once_in(8) ? TIERALLOC_MAX_ORDER + 1 : 3);
        step->flags = flags_of_tries[below(COUNT(flags_of_tries))];
        step->pick = below(UINT32_MAX);
    }
}

/* --- One's own structure -------------------------------------------------- */

#define BOOK_ENTRIES 8

/* What transactions change step by step: their undo steps must come in order.*/
static unsigned book[BOOK_ENTRIES];
static unsigned book_image[BOOK_ENTRIES];

struct change {
    unsigned entry;
    unsigned old;
    unsigned made; /* allocations made before it */
};

/* --- A transaction on its way --------------------------------------------- */

/* A point to return to, and what was done before it. */
struct saved {
    struct tier_tx_savepoint savepoint;
    unsigned made;
    unsigned frees;
    unsigned changes;
    unsigned laters;
    struct figures open[SIDES];
    struct tier_stats stats[SIDES];
    size_t lent;
};

/* What it has done so far. */
static struct {
    struct made made[STEPS_MAX];
    unsigned char *freed[STEPS_MAX]; /* at commit */
    struct change change[STEPS_MAX];
    struct saved saved[STEPS_MAX];
    unsigned mades;
    unsigned frees;
    unsigned changes;
    unsigned laters;
    unsigned laters_done;
    unsigned saves;
    struct figures open[SIDES]; /* what is committed, and allocations since */
} run;

static void undo_change(void *context, void *object)
{
    const struct change *const change = object;

    cr_assert_eq(context, (void *)book);
    cr_assert(run.changes > 0);
    cr_assert_eq(change, &run.change[run.changes - 1]);
    for (unsigned i = 0; i < run.mades; i++) {
        const struct made *const made = &run.made[i];
        const size_t usable =
            tier_usable_size(&side[made->where].heap, made->at);

        /* What came after it is undone already, what came before is not. */
        if (i < change->made || TIERALLOC_CHECKS > 0) {
            cr_assert_eq(usable, i < change->made ? made->usable : 0U);
        }
    }
    book[change->entry] = change->old;
    run.changes--;
}

static void do_later(void *context, void *object)
{
    cr_assert_eq(context, (void *)&run);
    cr_assert_eq((size_t)((struct made *)object - run.made), run.laters_done);
    run.laters_done++;
}

static bool is_freed(const void *memory)
{
    for (unsigned i = 0; i < run.frees; i++) {
        if (run.freed[i] == memory) {
            return true;
        }
    }
    return false;
}

/* The value that fills the memory of an allocation while it is not committed. */
static unsigned char fill_of(unsigned made)
{
    return (unsigned char)(0xC0 + made);
}

/* True when all bytes have one value: each equals the next. */
static bool is_all(const unsigned char *at, unsigned char value, size_t bytes)
{
    return at[0] == value && memcmp(at, at + 1, bytes - 1) == 0;
}

/* --- Steps ---------------------------------------------------------------- */

/* Note what a request got, after a look at its contents. */
static void note_made(const struct step *step, void *memory, size_t asked,
                      size_t pages, unsigned flags)
{
    const struct made made = made_of(step->where, memory, asked, pages);
    const struct figures figures = figures_of(&made);

    if ((flags & TIER_ZERO) != 0) {
        cr_assert(is_all(memory, 0, asked + (asked == 0)));
    }
    memset(memory, fill_of(run.mades), made.usable);
    add_figures(&run.open[step->where], &figures);
    run.made[run.mades++] = made;
}

static enum tier_status do_alloc(const struct step *step)
{
    struct tier_allocator *const heap = &side[step->where].heap;
    unsigned flags = step->kind == STEP_ALLOC ? 0 : step->flags;
    size_t bytes = step->bytes;
    size_t pages = 0;
    void *memory = heap;
    enum tier_status status;

    if (step->kind == STEP_ALLOC) {
        status = tier_tx_alloc(&tx, heap, bytes, &memory);
    } else if (step->kind == STEP_TRY) {
        status = tier_tx_try_alloc(&tx, heap, bytes, flags, &memory);
    } else {
        pages = (size_t)1 << step->order;
        bytes = pages * TIER_PAGE_SIZE;
        status = tier_tx_alloc_pages(&tx, heap, step->order, flags, &memory);
    }
    cr_assert_eq(status == TIER_OK, memory != NULL);
    if (status == TIER_OK) {
        note_made(step, memory, bytes, pages, flags);
    }
    return status;
}

/* Free at commit something that is committed. */
static enum tier_status do_free(const struct step *step)
{
    if (model.count == 0) {
        return TIER_OK;
    }
    const struct model_slot *const slot = &model.slot[step->pick % model.count];

    if (!plan.uses[where_is(slot)] || is_freed(slot->at)) {
        return TIER_OK;
    }
    const enum tier_status status =
        tier_tx_free(&tx, &side[where_is(slot)].heap, slot->at);

    if (status == TIER_OK) {
        run.freed[run.frees++] = slot->at;
    }
    return status;
}

/* Free at commit something that the transaction itself allocated. */
static enum tier_status do_free_made(const struct step *step)
{
    if (run.mades == 0) {
        return TIER_OK;
    }
    const struct made *const made = &run.made[step->pick % run.mades];

    if (is_freed(made->at)) {
        return TIER_OK;
    }
    const enum tier_status status =
        tier_tx_free(&tx, &side[made->where].heap, made->at);

    if (status == TIER_OK) {
        run.freed[run.frees++] = made->at;
    }
    return status;
}

static enum tier_status do_own(const struct step *step)
{
    struct change *const change = &run.change[run.changes];

    change->entry = step->pick % BOOK_ENTRIES;
    change->old = book[change->entry];
    change->made = run.mades;
    const enum tier_status status =
        tier_tx_defer(&tx, undo_change, book, change);

    if (status == TIER_OK) {
        run.changes++;
        book[change->entry]++;
    }
    return status;
}

static enum tier_status do_later_step(void)
{
    const enum tier_status status =
        tier_tx_on_commit(&tx, do_later, &run, &run.made[run.laters]);

    run.laters += status == TIER_OK;
    return status;
}

static void do_save(void)
{
    struct saved *const saved = &run.saved[run.saves++];

    saved->savepoint = tier_tx_save(&tx);
    saved->made = run.mades;
    saved->frees = run.frees;
    saved->changes = run.changes;
    saved->laters = run.laters;
    saved->lent = shelf.lent;
    for (unsigned i = 0; i < SIDES; i++) {
        saved->open[i] = run.open[i];
        tier_stats(&side[i].heap, &saved->stats[i]);
    }
}

static void expect_pages_back(const struct tier_stats *then,
                              const struct tier_stats *now);

/* Roll back to a savepoint; those after it are gone. */
static void do_back(const struct step *step)
{
    if (run.saves == 0) {
        return;
    }
    const unsigned to = step->pick % run.saves;
    const struct saved *const saved = &run.saved[to];

    cr_assert_eq(tier_tx_rollback_to(&tx, saved->savepoint), TIER_OK);
    cr_assert_eq(run.changes, saved->changes);
    cr_assert_eq(shelf.lent, saved->lent);
    run.saves = to;
    run.mades = saved->made;
    run.frees = saved->frees;
    run.laters = saved->laters;
    for (unsigned i = 0; i < SIDES; i++) {
        const struct tier_stats now = stats_of(&side[i].heap);

        run.open[i] = saved->open[i];
        expect_figures(&side[i], &now, &run.open[i]);
        expect_pages_back(&saved->stats[i], &now);
    }
}

/* A transaction within the transaction, which fails. */
static void do_inner(const struct step *step)
{
    TIER_TX(inner, 4);
    struct tier_allocator *const heap = &side[step->where].heap;
    void *memory;

    (void)tier_tx_alloc(&inner, heap, step->bytes, &memory);
    (void)tier_tx_alloc_pages(&inner, heap, step->order, 0, &memory);
    (void)tier_tx_alloc(&inner, heap, step->pick % 64, &memory);
    if (run.mades > 0) {
        const struct made *const made = &run.made[step->pick % run.mades];

        (void)tier_tx_free(&inner, &side[made->where].heap, made->at);
    }
}

/* Each must be refused. */
static void do_refused(const struct step *step)
{
    struct tier_allocator *const heap = &side[step->where].heap;
    struct tier_allocator *const other = &side[1 - step->where].heap;
    void *memory = heap;

    cr_assert_eq(tier_tx_free(&tx, heap, NULL), TIER_OK);
    cr_assert_eq(tier_tx_free(&tx, heap, other), TIER_ERR_FOREIGN);
    for (unsigned i = 0; i < run.mades; i++) {
        const unsigned where = run.made[i].where;

        cr_assert_eq(tier_tx_free(&tx, &side[1 - where].heap, run.made[i].at),
                     TIER_ERR_FOREIGN);
    }
    for (unsigned i = 0; i < run.frees; i++) {
        const unsigned where = run.freed[i] >= side[1].arena;

        cr_assert_eq(tier_tx_free(&tx, &side[where].heap, run.freed[i]),
                     TIER_ERR_DOUBLE_FREE);
    }
    const enum tier_status status =
        tier_tx_try_alloc(&tx, heap, TIER_BLOCK_MAX + 1, 0, &memory);

    cr_assert(status == TIER_ERR_TOO_LARGE || status == TIER_ERR_LOG_FULL ||
              status == TIER_ERR_NO_MEMORY);
    cr_assert_null(memory);
    cr_assert(tier_tx_alloc_pages(&tx, heap, 0, 0x8U, &memory) != TIER_OK);
    cr_assert_null(memory);
    cr_assert_eq(tier_tx_defer(&tx, NULL, NULL, NULL), TIER_ERR_INVALID);
}

static enum tier_status do_step(const struct step *step)
{
    switch (step->kind) {
    case STEP_ALLOC:
    case STEP_TRY:
    case STEP_PAGES:
        return do_alloc(step);
    case STEP_FREE:
        return do_free(step);
    case STEP_FREE_MADE:
        return do_free_made(step);
    case STEP_OWN:
        return do_own(step);
    case STEP_LATER:
        return do_later_step();
    case STEP_RESERVE:
        return tier_tx_reserve(&tx, 1 + step->pick % TIER_TX_PAGE_RECORDS);
    case STEP_SAVE:
        do_save();
        break;
    case STEP_BACK:
        do_back(step);
        break;
    case STEP_INNER:
        do_inner(step);
        break;
    default:
        do_refused(step);
        break;
    }
    return TIER_OK;
}

/* --- From the beginning to the end ---------------------------------------- */

static void begin(void)
{
    const size_t capacity =
        fault.kind == FAULT_LOG ? fault.at - 1 : LOG_RECORDS;

    shelf.inner.context = NULL;
    shelf.lent = 0;
    if (plan.log == LOG_ARRAY) {
        tier_tx_begin(&tx, log_records, capacity);
        return;
    }
    tier_source(plan.log == LOG_OTHER ? &spare.heap : &side[!plan.uses[0]].heap,
                &shelf.inner);
    tier_tx_begin_growing(&tx, log_records, plan.steps % 3, &log_source);
}

static void reset_run(void)
{
    run.mades = 0;
    run.frees = 0;
    run.changes = 0;
    run.laters = 0;
    run.laters_done = 0;
    run.saves = 0;
    fault.pages = 0;
    fault.log_pages = 0;
    for (unsigned i = 0; i < SIDES; i++) {
        run.open[i] = committed[i];
    }
}

/* A step failed: there must be a reason. */
static void expect_reason(enum tier_status status)
{
    if (status == TIER_ERR_LOG_FULL) {
        cr_assert_eq(plan.log, LOG_ARRAY);
        cr_assert(!tier_tx_has_room(&tx, TIER_TX_PAGE_RECORDS));
    } else {
        cr_assert_eq(status, TIER_ERR_NO_MEMORY);
    }
}

/* The figures must be those of what is committed and of what was allocated. */
static void expect_open(void)
{
    for (unsigned i = 0; i < SIDES; i++) {
        const struct tier_stats now = stats_of(&side[i].heap);

        expect_figures(&side[i], &now, &run.open[i]);
    }
}

/* Steps recorded, of both sorts. */
static size_t records_of(const struct tier_tx *of)
{
    size_t undos;
    size_t laters;

    tier_tx_records(of, &undos, &laters);
    return undos + laters;
}

/* Take the steps of the plan, up to one that fails if it does not go on. */
static void take_steps(void)
{
    for (unsigned i = 0; i < plan.steps; i++) {
        if (fault.kind == FAULT_FAMINE && fault.at == i + 1) {
            set_famine(true);
        }
        const size_t records = records_of(&tx);
        const enum tier_status status = do_step(&plan.step[i]);

        if (status != TIER_OK) {
            expect_reason(status);
            expect_open();
            cr_assert_eq(records_of(&tx), records);
        }
        if (status != TIER_OK && !plan.goes_on) {
            break;
        }
    }
    cr_assert(tier_tx_check(&tx));
    expect_open();
    for (unsigned i = 0; i < run.mades; i++) {
        cr_assert(is_all(run.made[i].at, fill_of(i), run.made[i].usable));
    }
}

/* Begin a transaction, and take its steps with a failure at one of its points.*/
static void start(enum fault kind, size_t at)
{
    fault.kind = kind;
    fault.at = at;
    memcpy(book_image, book, sizeof(book));
    reset_run();
    set_injection(kind == FAULT_REQUEST ? at : 0);
    begin();
    take_steps();
}

/* No failure from now on. */
static void end_fault(void)
{
    end_injection();
    if (fault.kind == FAULT_FAMINE) {
        set_famine(false);
    }
    fault.kind = FAULT_NONE;
    cr_assert_eq(shelf.lent, 0U);
    cr_assert(tier_tx_check(&tx));
    cr_assert_eq(stats_of(&spare.heap).live_pages, 0U);
}

/* --- Afterwards ----------------------------------------------------------- */

/* The contents of all that is committed must be what they were. */
static void expect_contents(void)
{
    for (size_t i = 0; i < model.count; i++) {
        const struct model_slot *const slot = &model.slot[i];
        const size_t offset = (size_t)(slot->at - (unsigned char *)side);

        if (plan.uses[where_is(slot)]) {
            cr_assert(memcmp(slot->at, (unsigned char *)image + offset,
                             slot->bytes) == 0);
        }
    }
}

static struct tier_stats before[SIDES];
static struct remains trimmed[SIDES];

/*
 * What a rollback leaves of the pages before a trim. A slab that it made
 * necessary is gone, one that was kept is kept; but a request that looked for
 * memory has given up what was kept, and the simple heap may have done that
 * for its own needs.
 */
static void expect_pages_back(const struct tier_stats *then,
                              const struct tier_stats *now)
{
    if (then->recoveries == now->recoveries) {
        cr_assert_eq(then->slab_pages, now->slab_pages);
    }
    cr_assert(then->slab_pages >= now->slab_pages);
    cr_assert(then->heap_pages >= now->heap_pages);
    cr_assert(then->free_pages <= now->free_pages);
}

/* All must be as before the transaction, which was rolled back. */
static void expect_untouched(void)
{
    cr_assert_eq(run.changes, 0U);
    cr_assert_eq(run.laters_done, 0U);
    cr_assert(memcmp(book, book_image, sizeof(book)) == 0);
    for (unsigned i = 0; i < SIDES; i++) {
        const struct tier_stats now = stats_of(&side[i].heap);

        expect_figures(&side[i], &now, &committed[i]);
        expect_pages_back(&before[i], &now);
    }
    expect_contents();
}

static void expect_checks(void)
{
    for (unsigned i = 0; i < SIDES; i++) {
        cr_assert(!plan.uses[i] || tier_check(&side[i].heap));
    }
}

static void copy_sides(struct side *to, const struct side *from)
{
    for (unsigned i = 0; i < SIDES; i++) {
        if (plan.uses[i]) {
            memcpy(&to[i], &from[i], sizeof(*to));
        }
    }
}

/* Carry the plan out with one failure and roll it back, from the same state. */
static void fail_plan(enum fault kind, size_t at)
{
    copy_sides(side, image);
    start(kind, at);
    tier_tx_rollback(&tx);
    end_fault();
    expect_untouched();
    if (once_in(8)) {
        expect_checks();
    }
    for (unsigned i = 0; i < SIDES; i++) {
        if (plan.uses[i]) {
            expect_remains(&side[i], &trimmed[i]);
        }
    }
}

/* Fail at each of the points of one kind. */
static void fail_each(enum fault kind, size_t points)
{
    for (size_t at = 1; at <= points; at++) {
        fail_plan(kind, at);
    }
}

/* Fail at every point; without a failure there are so many as were counted. */
static void fail_everywhere(void)
{
    copy_sides(side, image);
    start(FAULT_NONE, 0);
    const size_t records = records_of(&tx);

    tier_tx_rollback(&tx);
    end_fault();
    expect_untouched();
    const size_t pages = fault.pages;
    const size_t log_pages = fault.log_pages;
    const size_t requests = fault.requests;

    fail_each(once_in(2) ? FAULT_PAGE : FAULT_PAGES, pages);
    for (size_t i = 0; i < plan.steps; i++) {
        if (plan.step[i].kind <= STEP_PAGES || plan.log == LOG_SAME) {
            fail_plan(FAULT_FAMINE, i + 1);
        }
    }
    fail_each(FAULT_LOG, plan.log == LOG_ARRAY ? records : 0);
    fail_each(FAULT_LOG_PAGE, log_pages);
    fail_each(FAULT_REQUEST, requests);
}

/* The slot of an allocation; the count of all when there is none. */
static size_t slot_of(const void *memory)
{
    size_t slot = 0;

    while (slot < model.count && model.slot[slot].at != memory) {
        slot++;
    }
    return slot;
}

/* Commit, and have the model do what the transaction did. */
static void commit_plan(void)
{
    for (unsigned i = 0; i < run.frees; i++) {
        const size_t slot = slot_of(run.freed[i]);

        if (slot < model.count) {
            cr_assert(model_holds(&model.slot[slot], run.freed[i],
                                  model.slot[slot].bytes));
            drop(slot);
        }
    }
    tier_tx_commit(&tx);
    cr_assert_eq(run.laters_done, run.laters);
    expect_contents();
    for (unsigned i = 0; i < run.mades; i++) {
        if (!is_freed(run.made[i].at)) {
            cr_assert(is_all(run.made[i].at, fill_of(i), run.made[i].usable));
            keep(&run.made[i]);
        }
    }
    end_fault();
    for (unsigned i = 0; i < SIDES; i++) {
        const struct tier_stats now = stats_of(&side[i].heap);

        expect_figures(&side[i], &now, &committed[i]);
    }
}

/* --- Between transactions ------------------------------------------------- */

static void plain_free(size_t slot)
{
    unsigned char *const at = model.slot[slot].at;
    struct tier_allocator *const heap = &side[where_is(&model.slot[slot])].heap;

    cr_assert(model_holds(&model.slot[slot], at, model.slot[slot].bytes));
    cr_assert_eq(tier_free(heap, at), TIER_OK);
    drop(slot);
}

static void plain_alloc(void)
{
    const unsigned where = below(SIDES);
    const size_t bytes = random_bytes();
    void *const memory = tier_alloc(&side[where].heap, bytes);

    if (memory != NULL) {
        const struct made made = made_of(where, memory, bytes, 0);

        keep(&made);
    }
}

/* Others allocate, free and trim: more and more at first, then less. */
static void churn(size_t round)
{
    const bool fills = round % 128 < 64;

    if (once_in(fills ? 3 : 8)) {
        plain_alloc();
    }
    if (model.count > 0 && once_in(fills ? 8 : 2)) {
        plain_free(below((uint32_t)model.count));
    }
    if (once_in(16)) {
        (void)tier_trim(&side[below(SIDES)].heap);
    }
}

static void tell_before(void)
{
    copy_sides(image, side);
    for (unsigned i = 0; i < SIDES; i++) {
        tier_stats(&side[i].heap, &before[i]);
        if (plan.uses[i]) {
            (void)tier_trim(&side[i].heap);
            tell_remains(&side[i], &trimmed[i]);
        }
    }
    copy_sides(side, image);
}

/* One random transaction, failed everywhere first. */
static void run_round(size_t round)
{
    churn(round);
    make_plan();
    tell_before();
    fail_everywhere();
    copy_sides(side, image);
    start(FAULT_NONE, 0);
    if (once_in(4)) {
        tier_tx_rollback(&tx);
        end_fault();
        expect_untouched();
    } else {
        commit_plan();
    }
    expect_checks();
}

/* Free all: the allocators must be as at first. */
static void expect_all_back(const struct remains *first)
{
    model_verify(&model);
    while (model.count > 0) {
        plain_free(model.count - 1);
    }
    for (unsigned i = 0; i < SIDES; i++) {
        expect_remains(&side[i], &first[i]);
        cr_assert(tier_check(&side[i].heap));
    }
}

/* Many random transactions in one mode, or in one that changes. */
static void run_random(size_t rounds, enum tier_mode mode, bool changes)
{
    static struct remains first[SIDES];

    set_up();
    set_mode(mode);
    for (unsigned i = 0; i < SIDES; i++) {
        (void)tier_trim(&side[i].heap);
        tell_remains(&side[i], &first[i]);
    }
    for (size_t round = 0; round < rounds; round++) {
        if (changes && once_in(16)) {
            set_mode((enum tier_mode)below(3));
        }
        run_round(round);
    }
    expect_all_back(first);
}

Test(rollback, random_transactions_agree_with_the_model)
{
    run_random(3 * (size_t)TIERALLOC_TEST_STEPS, TIER_TWO_TIER, false);
}

Test(rollback, random_transactions_in_the_simple_heap_agree_with_the_model)
{
    run_random(TIERALLOC_TEST_STEPS, TIER_SIMPLE, false);
}

Test(rollback, random_transactions_in_changing_modes_agree_with_the_model)
{
    run_random(TIERALLOC_TEST_STEPS, TIER_HYBRID, true);
}

/* --- One request ---------------------------------------------------------- */

/* Make one request of the first allocator in a transaction. */
static enum tier_status request(const struct step *step)
{
    tier_tx_begin(&tx, log_records, 1);
    reset_run();
    return do_alloc(step);
}

/*
 * It was met and is rolled back: pages are as before. If it looked for memory,
 * or the simple heap did, what was kept may have been given up: all of it.
 */
static void expect_request_undone(void)
{
    const struct tier_stats *const then = &before[0];
    const struct tier_stats *const fresh = &trimmed[0].stats;
    const struct tier_stats now = stats_of(&side[0].heap);

    expect_figures(&side[0], &now, &committed[0]);
    cr_assert(now.slab_pages == then->slab_pages ||
              (now.slab_pages == fresh->slab_pages &&
               now.recoveries != then->recoveries));
    cr_assert(now.heap_pages == then->heap_pages ||
              now.heap_pages == fresh->heap_pages);
    if (now.free_run_pages != 0) {
        expect_same_lists(&now, then);
    }
}

Test(rollback, of_one_request_leaves_every_figure_at_once)
{
    struct step step;
    size_t recovered = 0;

    set_up();
    plan.uses[0] = true;
    plan.uses[1] = false;
    for (size_t round = 0; round < 2 * (size_t)TIERALLOC_TEST_STEPS; round++) {
        set_mode((enum tier_mode)(round / 256 % 3));
        churn(round);
        tell_before();
        step.kind = (enum kind)below(3);
        step.where = 0;
        step.bytes = random_bytes();
        step.order = below(3);
        step.flags = once_in(2) ? TIER_ZERO : 0;
        const bool met = request(&step) == TIER_OK;

        tier_tx_rollback(&tx);
        if (met) {
            expect_request_undone();
            recovered +=
                stats_of(&side[0].heap).recoveries != before[0].recoveries;
        }
        expect_contents();
        if (once_in(8)) {
            expect_checks();
            expect_remains(&side[0], &trimmed[0]);
        }
    }
    cr_assert(recovered > 0 || TIER_PAGE_SIZE > 256);
}

/* Leave the first allocator no free page and no object, but one in the heap. */
static void keep_one_page_in_the_heap(size_t bytes)
{
    struct tier_allocator *const heap = &side[0].heap;
    void *page = NULL;
    void *last = tier_alloc(heap, bytes); /* so there are descriptors */

    for (; last != NULL; last = tier_alloc_pages(heap, 0)) {
        page = last;
    }
    while (tier_alloc(heap, bytes) != NULL) {
    }
    cr_assert_eq(tier_free(heap, page), TIER_OK);
    set_mode(TIER_SIMPLE);
    page = tier_alloc(heap, 8);
    cr_assert_eq(stats_of(heap).heap_pages, 1U);
    cr_assert_eq(tier_free(heap, page), TIER_OK);
    cr_assert_eq(stats_of(heap).free_pages, 0U);
    set_mode(TIER_TWO_TIER);
}

/* The simple heap gives up as many pages as the new slab takes. */
Test(rollback, returns_a_slab_that_took_the_pages_of_another_tier)
{
    struct tier_allocator *const heap = &side[0].heap;
    void *memory;

    set_up();
    keep_one_page_in_the_heap(64);
    const size_t pages = stats_of(heap).slab_pages;

    tier_tx_begin(&tx, log_records, 1);
    cr_assert_eq(tier_tx_alloc(&tx, heap, 64, &memory), TIER_OK);
    cr_assert_eq(stats_of(heap).slab_pages, pages + 1);
    tier_tx_rollback(&tx);
    const struct tier_stats now = stats_of(heap);

    cr_assert_eq(now.slab_pages, pages);
    cr_assert_eq(now.heap_pages, 0U);
    cr_assert_eq(now.free_pages, 1U);
    cr_assert(tier_check(heap));
}

/* --- Frees ---------------------------------------------------------------- */

/* One of each kind there is, in the first allocator. */
static size_t one_of_each(void **memory)
{
    struct tier_allocator *const heap = &side[0].heap;
    size_t count = 0;

    memory[count++] = tier_alloc(heap, 8);
    memory[count++] = tier_alloc(heap, 200);
    memory[count++] = tier_alloc(heap, TIERALLOC_OBJECT_MAX + 1);
    memory[count++] = tier_alloc_pages(heap, 0);
    memory[count++] = tier_alloc_pages(heap, 2);
    set_mode(TIER_SIMPLE);
    memory[count++] = tier_alloc(heap, 24);
    memory[count++] = tier_alloc(heap, 100);
    set_mode(TIER_TWO_TIER);
    for (size_t i = 0; i < count; i++) {
        cr_assert_not_null(memory[i]);
        memset(memory[i], (int)i + 1, tier_usable_size(heap, memory[i]));
    }
    return count;
}

Test(rollback, keeps_what_was_to_be_freed)
{
    struct tier_allocator *const heap = &side[0].heap;
    void *memory[8];

    set_up();
    const size_t count = one_of_each(memory);
    const struct tier_stats then = stats_of(heap);

    for (unsigned round = 0; round < 3; round++) {
        tier_tx_begin(&tx, log_records, LOG_RECORDS);
        for (size_t i = 0; i < count; i++) {
            cr_assert_eq(tier_tx_free(&tx, heap, memory[i]), TIER_OK);
            cr_assert_eq(tier_tx_free(&tx, heap, memory[i]),
                         TIER_ERR_DOUBLE_FREE);
        }
        tier_tx_rollback(&tx);
        const struct tier_stats now = stats_of(heap);

        expect_same_pages(&now, &then);
        expect_same_lists(&now, &then);
        cr_assert_eq(now.live_bytes, then.live_bytes);
        cr_assert_eq(now.refused_frees, (round + 1) * count);
        for (size_t i = 0; i < count; i++) {
            const size_t usable = tier_usable_size(heap, memory[i]);

            cr_assert(is_all(memory[i], (unsigned char)(i + 1), usable));
        }
    }
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(tier_tx_free(&tx, heap, memory[i]), TIER_OK);
    }
    tier_tx_commit(&tx);
    cr_assert_eq(stats_of(heap).live_bytes, 0U);
    cr_assert(tier_check(heap));
}

Test(rollback, to_a_savepoint_allows_the_free_again)
{
    struct tier_allocator *const heap = &side[0].heap;
    void *memory[8];

    set_up();
    const size_t count = one_of_each(memory);

    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    for (size_t i = 0; i < count; i++) {
        const struct tier_tx_savepoint savepoint = tier_tx_save(&tx);

        cr_assert_eq(tier_tx_free(&tx, heap, memory[i]), TIER_OK);
        cr_assert_eq(tier_tx_rollback_to(&tx, savepoint), TIER_OK);
        cr_assert_eq(tier_tx_free(&tx, heap, memory[i]), TIER_OK);
        cr_assert_eq(tier_tx_free(&tx, heap, memory[i]), TIER_ERR_DOUBLE_FREE);
    }
    tier_tx_commit(&tx);
    cr_assert_eq(stats_of(heap).live_bytes, 0U);
    cr_assert(tier_check(heap));
}

Test(rollback, memory_of_another_allocator_is_refused)
{
    struct tier_allocator *const other = &side[1].heap;
    void *memory[8];
    void *made;

    set_up();
    const size_t count = one_of_each(memory);

    tier_tx_begin(&tx, log_records, LOG_RECORDS);
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(tier_tx_free(&tx, other, memory[i]), TIER_ERR_FOREIGN);
    }
    cr_assert_eq(tier_tx_alloc(&tx, &side[0].heap, 64, &made), TIER_OK);
    cr_assert_eq(tier_tx_free(&tx, other, made), TIER_ERR_FOREIGN);
    cr_assert_eq(stats_of(other).refused_frees, count + 1);
    cr_assert_eq(stats_of(&side[0].heap).refused_frees, 0U);
    tier_tx_commit(&tx);
    for (size_t i = 0; i < count; i++) {
        cr_assert(tier_usable_size(&side[0].heap, memory[i]) > 0);
    }
    cr_assert(tier_check(&side[0].heap) && tier_check(other));
}

Test(rollback, needs_no_memory)
{
    struct tier_allocator *const heap = &side[0].heap;
    struct tier_page_source source;
    size_t taken = 0;
    void *memory;

    set_up();
    tell_remains(&side[0], &trimmed[0]);
    tier_source(heap, &source);
    tier_tx_begin_growing(&tx, NULL, 0, &source);
    for (size_t i = 0; i < 200; i++) { /* till there is nothing left */
        taken += tier_tx_alloc(&tx, heap, i * 7 % 600, &memory) == TIER_OK;
    }
    while (tier_tx_alloc(&tx, heap, 1, &memory) == TIER_OK) {
        taken++;
    }
    cr_assert(taken > 10);
    cr_assert_eq(tier_tx_alloc(&tx, heap, 1, &memory), TIER_ERR_NO_MEMORY);
    set_famine(true);
    tier_tx_rollback(&tx);
    set_famine(false);
    cr_assert_eq(stats_of(heap).live_bytes, 0U);
    expect_remains(&side[0], &trimmed[0]);
    cr_assert(tier_check(heap));
}

Test(rollback, of_one_of_several_leaves_the_others)
{
    struct tier_allocator *const heap = &side[0].heap;
    struct tier_tx_record records[2][8];
    struct tier_tx both[2];
    void *memory;

    set_up();
    tell_remains(&side[0], &trimmed[0]);
    for (unsigned kept = 0; kept < 2; kept++) {
        void *made[8];

        tier_tx_begin(&both[0], records[0], 8);
        tier_tx_begin(&both[1], records[1], 8);
        for (size_t i = 0; i < 8; i++) { /* in the same slabs, turn by turn */
            cr_assert_eq(tier_tx_alloc(&both[kept], heap, 64, &made[i]),
                         TIER_OK);
            cr_assert_eq(tier_tx_alloc(&both[1 - kept], heap, 64, &memory),
                         TIER_OK);
            memset(made[i], 0x5A, 64);
            memset(memory, 0xA5, 64);
        }
        tier_tx_rollback(&both[1 - kept]);
        tier_tx_commit(&both[kept]);
        cr_assert_eq(stats_of(heap).live_objects, 8U);
        for (size_t i = 0; i < 8; i++) {
            cr_assert(is_all(made[i], 0x5A, 64));
            cr_assert_eq(tier_free(heap, made[i]), TIER_OK);
        }
        expect_remains(&side[0], &trimmed[0]);
    }
}

/* --- Blocks --------------------------------------------------------------- */

/* Allocate all but some, and leave: in one of four ways, before step `at`. */
static bool leave_at(unsigned at, bool grows)
{
    struct tier_allocator *const heap = &side[0].heap;
    struct tier_page_source source;
    void *memory;

    tier_source(heap, &source);
    TIER_TX_GROWING(block, 1, grows ? &source : &log_source);
    for (unsigned i = 0; i < 8; i++) {
        if (i == at) {
            return false;
        }
        if (tier_tx_alloc(&block, heap, i % 3 * 50 + 1, &memory) != TIER_OK) {
            return false;
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        TIER_TX(inner, 4);

        if (tier_tx_alloc_pages(&inner, heap, i / 2, 0, &memory) != TIER_OK) {
            break;
        }
        if (i == at - 8) {
            break;
        }
        if (i % 2 == 0) {
            continue;
        }
        (void)tier_tx_alloc(&inner, heap, 2000, &memory);
    }
    return at >= 12;
}

Test(rollback, a_block_that_is_left_leaks_nothing)
{
    set_up();
    tell_remains(&side[0], &trimmed[0]);
    for (unsigned grows = 0; grows < 2; grows++) {
        tier_source(&spare.heap, &shelf.inner);
        for (unsigned at = 0; at <= 12; at++) {
            cr_assert_eq(leave_at(at, grows != 0), at == 12);
            const struct tier_stats now = stats_of(&side[0].heap);

            cr_assert_eq(now.live_bytes, 0U);
            cr_assert_eq(now.live_blocks, 0U);
            cr_assert_eq(now.slab_pages, 0U);
            cr_assert_eq(now.free_pages, ARENA_PAGES);
            cr_assert_eq(stats_of(&spare.heap).live_blocks, 0U);
            cr_assert(tier_check(&side[0].heap));
        }
    }
    expect_remains(&side[0], &trimmed[0]);
}

/* --- A structure of the caller's ------------------------------------------ */

#define TABLES  4
#define ENTRIES 4
#define MAPPED  (TABLES * ENTRIES)

/* A page table of two levels: tables of entries, each NULL or a page. */
static void **root[TABLES];
static void **root_image[TABLES];

static void restore(void *context, void *object)
{
    *(void **)context = object;
}

static void restore_table(void *context, void *object)
{
    *(void ***)context = object;
}

/* Have a table where there is none. */
static enum tier_status need_table(void ***table)
{
    void *memory;
    enum tier_status status = TIER_OK;

    if (*table == NULL) {
        status = tier_tx_try_alloc(&tx, &side[0].heap, ENTRIES * sizeof(void *),
                                   TIER_ZERO, &memory);
        if (status == TIER_OK) {
            status = tier_tx_defer(&tx, restore_table, table, NULL);
        }
        if (status == TIER_OK) {
            *table = memory;
        }
    }
    return status;
}

/* Map a new page, with its number in it; what was mapped goes at commit. */
static enum tier_status map_one(unsigned number)
{
    void ***const table = &root[number / ENTRIES];
    enum tier_status status = need_table(table);
    void *page = NULL;

    if (status == TIER_OK) {
        status = tier_tx_alloc_pages(&tx, &side[0].heap, 0, 0, &page);
    }
    if (status != TIER_OK) {
        return status;
    }
    void **const entry = &(*table)[number % ENTRIES];

    memset(page, (int)number + 1, TIER_PAGE_SIZE);
    status = tier_tx_free(&tx, &side[0].heap, *entry);
    if (status == TIER_OK) {
        status = tier_tx_defer(&tx, restore, entry, *entry);
    }
    if (status == TIER_OK) {
        *entry = page;
    }
    return status;
}

/* Map every second page, or all of them, in one transaction. */
static enum tier_status map_range(unsigned step)
{
    enum tier_status status = TIER_OK;

    for (unsigned i = 0; i < MAPPED && status == TIER_OK; i += step) {
        status = map_one(i);
    }
    return status;
}

/* So many pages must be mapped: every `step`th, each with its number. */
static void expect_mapped(unsigned step)
{
    for (unsigned i = 0; i < MAPPED; i++) {
        void **const table = root[i / ENTRIES];

        if (step == 0 || i % step != 0) {
            cr_assert(table == NULL || table[i % ENTRIES] == NULL);
        } else {
            cr_assert(is_all(table[i % ENTRIES], (unsigned char)(i + 1),
                             TIER_PAGE_SIZE));
        }
    }
}

/* Map with one failure; true when the transaction never came to that. */
static bool map_with(enum fault kind, size_t at, unsigned step)
{
    plan.log = kind == FAULT_LOG_PAGE ? LOG_OTHER : LOG_ARRAY;
    plan.steps = 3; /* the log grows from no record on */
    fault.kind = kind;
    fault.at = at;
    reset_run();
    set_injection(kind == FAULT_REQUEST ? at : 0);
    begin();
    const enum tier_status status = map_range(step);

    cr_assert(status == TIER_OK || kind != FAULT_NONE);
    if (kind != FAULT_NONE) {
        tier_tx_rollback(&tx);
    } else {
        tier_tx_commit(&tx);
    }
    end_fault();
    return status == TIER_OK;
}

/* Map with a failure at each point of a kind: the table stays as it was. */
static size_t map_failing(enum fault kind, unsigned from, unsigned to)
{
    size_t at = 0;
    bool done = false;

    while (!done) {
        at++;
        cr_assert(at < 200);
        copy_sides(side, image);
        done = map_with(kind, at, to);
        cr_assert(memcmp(root, root_image, sizeof(root)) == 0);
        expect_mapped(from);
        cr_assert(tier_check(&side[0].heap));
        cr_assert(stats_of(&side[0].heap).live_bytes == before[0].live_bytes);
        expect_remains(&side[0], &trimmed[0]);
    }
    copy_sides(side, image);
    return at;
}

/* From every `from`th page mapped to every `to`th, failing everywhere first. */
static void map_on(unsigned from, unsigned to)
{
    tell_before();
    memcpy(root_image, root, sizeof(root));
    cr_assert(map_failing(FAULT_LOG, from, to) > MAPPED / to);
    cr_assert(map_failing(FAULT_LOG_PAGE, from, to) > 1);
    (void)map_failing(FAULT_PAGE, from, to);
    (void)map_failing(FAULT_PAGES, from, to);
    if (TIERALLOC_CHECKS == 2) {
        cr_assert(map_failing(FAULT_REQUEST, from, to) > MAPPED / to);
    }
    cr_assert(map_with(FAULT_NONE, 0, to));
    expect_mapped(to);
    cr_assert(tier_check(&side[0].heap));
}

Test(rollback, a_structure_of_the_callers_is_as_it_was_wherever_it_fails)
{
    set_up();
    plan.uses[0] = true;
    plan.uses[1] = false;
    memset(root, 0, sizeof(root));
    map_on(0, 4);
    map_on(4, 2);
    map_on(2, 1);
    map_on(1, 1);
    const struct tier_stats now = stats_of(&side[0].heap);

    cr_assert_eq(now.live_blocks, MAPPED);
    cr_assert_eq(now.live_objects, TABLES);
}
