/*
 * tests/test_slab.c - the slab tier, over page sources that trust nobody.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include "model.h"

#include <tieralloc/buddy.h>
#include <tieralloc/slab.h>

/* --- The rig -------------------------------------------------------------- */

#define ARENA_BYTES (4 * MIB)
#define ARENA_PAGES (ARENA_BYTES >> TIERALLOC_PAGE_SHIFT)
#define FEW_PAGES   (ARENA_PAGES < 256 ? ARENA_PAGES : 256)
#define MANY_PAGES  (ARENA_PAGES < 512 ? ARENA_PAGES : 512)

/* What the shelf writes to the map and to memory that it lends. */
#define SHELF_KIND (TIER_KIND_BLOCK | 3U)
#define SHELF_FILL 0xEE

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[ARENA_PAGES * 2 * 9 / 8 + 1];
static struct tier_pagemap map;
static struct tier_slab slab;
static struct tier_buddy buddy;

/* A shelf of pages: lends the lowest that fit, fails on demand. */
static struct {
    uint8_t lease[ARENA_PAGES]; /* pages of the lease that begins here */
    bool held[ARENA_PAGES];
    size_t pages;       /* of the arena that may be lent */
    size_t outstanding; /* pages lent */
    size_t acquires;    /* calls, failed ones included */
    size_t releases;
    size_t fail_at; /* the call of acquire that fails; 0 for none */
} shelf;

static struct model model;
static bool claimed[ARENA_BYTES / MODEL_GRAIN];

/* Index in the map of the page that holds an address. */
static size_t page_of(const void *address)
{
    return tier_pagemap_index_(&map, address);
}

/* The kind that the map has for an address of the arena. */
static unsigned kind_of(const void *address)
{
    return map.kind[page_of(address)];
}

/* The first of so many pages in a row that are not lent. */
static size_t shelf_find(size_t pages)
{
    size_t run = 0;

    for (size_t i = 0; i < shelf.pages; i++) {
        run = shelf.held[i] ? 0 : run + 1;
        if (run == pages) {
            return i + 1 - pages;
        }
    }
    return SIZE_MAX;
}

static void *shelf_acquire(void *context, size_t pages)
{
    const size_t first = shelf_find(pages);

    cr_assert_eq(context, (void *)&shelf);
    cr_assert(pages >= 1 && pages <= TIER_SLAB_PAGES_MAX);
    shelf.acquires++;
    if (shelf.acquires == shelf.fail_at || first == SIZE_MAX) {
        return NULL;
    }
    unsigned char *const memory = arena + first * TIER_PAGE_SIZE;

    for (size_t i = 0; i < pages; i++) {
        cr_assert_eq(kind_of(memory + i * TIER_PAGE_SIZE), TIER_KIND_NONE);
        shelf.held[first + i] = true;
    }
    shelf.lease[first] = (uint8_t)pages;
    shelf.outstanding += pages;
    map.kind[page_of(memory)] = SHELF_KIND;
    memset(memory, SHELF_FILL, pages * TIER_PAGE_SIZE);
    return memory;
}

/* Take back a lease, whole, with the map as it was when it was given. */
static void shelf_release(void *context, void *memory, size_t pages)
{
    const size_t first =
        (size_t)((unsigned char *)memory - arena) / TIER_PAGE_SIZE;

    cr_assert_eq(context, (void *)&shelf);
    cr_assert_eq((uintptr_t)memory % TIER_PAGE_SIZE, 0U);
    cr_assert(first < ARENA_PAGES);
    cr_assert_eq(shelf.lease[first], pages);
    cr_assert_eq(kind_of(memory), SHELF_KIND);
    for (size_t i = 0; i < pages; i++) {
        cr_assert(shelf.held[first + i]);
        cr_assert(i == 0 || map.kind[page_of(memory) + i] == TIER_KIND_NONE);
        shelf.held[first + i] = false;
    }
    shelf.lease[first] = 0;
    shelf.outstanding -= pages;
    shelf.releases++;
    map.kind[page_of(memory)] = TIER_KIND_NONE;
    memset(memory, SHELF_FILL, pages * TIER_PAGE_SIZE);
}

/* A map of the first `pages` pages of the arena. */
static void set_up_map(size_t pages)
{
    memset(map_memory, 0, sizeof(map_memory));
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)arena,
                                   pages * TIER_PAGE_SIZE, map_memory,
                                   sizeof(map_memory)),
                 TIER_OK);
    model_init(&model, arena, ARENA_BYTES, claimed);
}

/* A slab tier over a shelf that lends the first `pages` pages. */
static void set_up(size_t pages)
{
    const struct tier_page_source source = {shelf_acquire, shelf_release,
                                            &shelf};

    set_up_map(pages);
    memset(&shelf, 0, sizeof(shelf));
    shelf.pages = pages;
    tier_slab_init(&slab, &map, &source);
}

static void *buddy_acquire(void *context, size_t pages)
{
    unsigned order = 0;

    while ((size_t)1 << order < pages) {
        order++;
    }
    void *const memory = tier_buddy_alloc(context, order);

    shelf.outstanding += memory != NULL ? pages : 0;
    return memory;
}

static void buddy_release(void *context, void *memory, size_t pages)
{
    cr_assert_eq(tier_buddy_free(context, memory), TIER_OK);
    shelf.outstanding -= pages;
}

/* A slab tier over a buddy tier of so many pages, with the same map. */
static void set_up_over_buddy(size_t pages)
{
    const struct tier_page_source source = {buddy_acquire, buddy_release,
                                            &buddy};

    set_up_map(pages);
    memset(&shelf, 0, sizeof(shelf));
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
    tier_slab_init(&slab, &map, &source);
}

static struct tier_slab_stats slab_stats(void)
{
    struct tier_slab_stats stats;

    tier_slab_stats(&slab, &stats);
    return stats;
}

static struct tier_cache_stats class_stats(unsigned size_class)
{
    struct tier_cache_stats stats;

    tier_slab_class_stats(&slab, size_class, &stats);
    return stats;
}

/* True when the tier is whole and holds just the pages that it was lent. */
static bool whole(void)
{
    return tier_slab_check(&slab) && slab_stats().pages == shelf.outstanding;
}

/* True when requests end in this class at all. */
static bool is_served(unsigned size_class)
{
    return tier_slab_class_bytes(size_class) % TIERALLOC_MIN_ALIGN == 0;
}

/* The largest power of two, up to a page, that divides a number. */
static size_t power_in(size_t number)
{
    const size_t power = number & (~number + 1);

    return power < TIER_PAGE_SIZE ? power : TIER_PAGE_SIZE;
}

/* Allocate one object of a class and note it in the model. */
static unsigned char *take(size_t bytes)
{
    void *const object = tier_slab_alloc(&slab, bytes);

    if (object != NULL) {
        model_add(&model, object, bytes, tier_slab_usable_size(&slab, object),
                  0);
    }
    return object;
}

/* Free everything in the model, in random order. */
static void free_all(uint64_t *random)
{
    while (model.count > 0) {
        const size_t index = test_below(random, (uint32_t)model.count);
        void *const object = model.slot[index].at;

        model_drop(&model, index);
        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    }
}

/* Trim; nothing may be held then, and the map must be as it was at first. */
static void expect_all_back(void)
{
    const size_t pages = slab_stats().pages;

    cr_assert_eq(slab_stats().live_objects, 0U);
    cr_assert_eq(slab_stats().live_bytes, 0U);
    cr_assert_eq(tier_slab_trim(&slab), pages);
    cr_assert_eq(tier_slab_trim(&slab), 0U);
    cr_assert_eq(slab_stats().pages, 0U);
    cr_assert_eq(slab_stats().slabs, 0U);
    cr_assert_eq(shelf.outstanding, 0U);
    cr_assert(whole());
}

/* A number that changes when a byte of the state does (FNV-1a). */
static uint64_t fold(uint64_t hash, const void *memory, size_t bytes)
{
    const unsigned char *const at = memory;

    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ at[i]) * UINT64_C(0x100000001B3);
    }
    return hash;
}

/* Everything there is, the arena included, but for the refused frees. */
static uint64_t snapshot(void)
{
    const size_t refused = slab.refused_frees;
    uint64_t hash = UINT64_C(0xCBF29CE484222325);

    slab.refused_frees = 0;
    hash = fold(hash, &slab, sizeof(slab));
    hash = fold(hash, map_memory, sizeof(map_memory));
    hash = fold(hash, arena, shelf.pages * TIER_PAGE_SIZE);
    slab.refused_frees = refused;
    return hash;
}

/* --- Classes -------------------------------------------------------------- */

Test(slab, has_four_classes_per_doubling)
{
    cr_assert_eq(tier_slab_class_bytes(0), 8U);
    cr_assert_eq(tier_slab_class_bytes(TIER_SLAB_CLASSES - 1),
                 (size_t)TIERALLOC_OBJECT_MAX);
    for (unsigned i = 1; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        const size_t before = tier_slab_class_bytes(i - 1);

        cr_assert(bytes > before);
        cr_assert(bytes - before <= (before < 64 ? 8 : before / 4));
    }
}

Test(slab, serves_every_size_from_its_class)
{
    set_up(MANY_PAGES);
    for (size_t bytes = 0; bytes <= TIERALLOC_OBJECT_MAX; bytes++) {
        unsigned char *const object = tier_slab_alloc(&slab, bytes);

        cr_assert_not_null(object);
        cr_assert_eq(tier_slab_usable_size(&slab, object), model_class(bytes));
        cr_assert_eq((uintptr_t)object % TIERALLOC_MIN_ALIGN, 0U);
        cr_assert_eq(slab_stats().live_bytes, model_class(bytes));
        memset(object, 0x5A, model_class(bytes));
        cr_assert_eq(tier_slab_free_sized(&slab, object, bytes), TIER_OK);
        cr_assert(whole());
    }
    expect_all_back();
}

Test(slab, aligns_objects_to_the_power_of_two_in_their_class)
{
    for (unsigned odd = 0; odd < 4; odd++) {
        uint64_t random = TEST_SEED;

        set_up(ARENA_PAGES);
        memset(shelf.held, 1, odd); /* slabs begin at odd pages too */
        for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
            const size_t bytes = tier_slab_class_bytes(i);
            const size_t objects = class_stats(i).slab_objects;

            for (size_t n = 0; is_served(i) && n < objects + 1; n++) {
                cr_assert_eq((uintptr_t)take(bytes) % power_in(bytes), 0U,
                             "class of %lu bytes", (unsigned long)bytes);
            }
            free_all(&random);
        }
    }
}

Test(slab, refuses_more_than_the_largest_object)
{
    set_up(ARENA_PAGES);
    cr_assert_null(tier_slab_alloc(&slab, (size_t)TIERALLOC_OBJECT_MAX + 1));
    cr_assert_null(tier_slab_alloc(&slab, SIZE_MAX));
    cr_assert_null(tier_slab_alloc(&slab, SIZE_MAX - 6));
    cr_assert_null(tier_slab_alloc(&slab, SIZE_MAX / 2 + 1));
    cr_assert_eq(slab_stats().failed_allocs, 4U);
    cr_assert_eq(shelf.acquires, 0U);
    cr_assert(whole());
}

Test(slab, gives_out_distinct_objects_in_its_own_pages)
{
    uint64_t random = TEST_SEED;

    set_up(MANY_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        const size_t objects = class_stats(i).slab_objects;

        for (size_t n = 0; is_served(i) && n < objects * 2 + 1; n++) {
            unsigned char *const object = take(bytes);

            cr_assert_not_null(object);
            cr_assert_eq(kind_of(object), TIER_KIND_SLAB | i);
            cr_assert_eq(kind_of(object + bytes - 1), TIER_KIND_SLAB | i);
            cr_assert_eq(class_stats(i).live, n + 1);
            cr_assert_eq(class_stats(i).slabs, n / objects + 1);
        }
        cr_assert(whole());
        free_all(&random);
    }
    expect_all_back();
}

Test(slab, a_slab_wastes_little)
{
    set_up(ARENA_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const struct tier_cache_stats stats = class_stats(i);
        const size_t pages = stats.slab_pages * TIER_PAGE_SIZE;

        cr_assert_null(stats.name);
        cr_assert_eq(stats.object_bytes, tier_slab_class_bytes(i));
        cr_assert(stats.slab_objects >= 1);
        cr_assert(stats.slab_objects * stats.object_bytes <= pages);
        cr_assert(stats.slab_pages <= TIER_SLAB_PAGES_MAX);
        if (TIERALLOC_PAGE_SHIFT == 12 && TIERALLOC_MAX_ORDER >= 4 &&
            TIERALLOC_OBJECT_MAX <= 4096) {
            cr_assert((pages - stats.slab_objects * stats.object_bytes) * 8 <=
                      pages);
        }
    }
}

/* --- Objects are the caller's --------------------------------------------- */

Test(slab, never_touches_an_object)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        unsigned char *first = NULL;

        set_up(ARENA_PAGES);
        for (size_t n = 0; is_served(i) && n < class_stats(i).slab_objects;
             n++) {
            unsigned char *const object = tier_slab_alloc(&slab, bytes);

            cr_assert(test_all(object, SHELF_FILL, bytes));
            first = n == 0 ? object : first;
        }
        if (first != NULL) {
            memset(first, 0x11, bytes);
            cr_assert_eq(tier_slab_free(&slab, first), TIER_OK);
            cr_assert(test_all(first, 0x11, bytes));
            cr_assert_eq(tier_slab_alloc(&slab, bytes), (void *)first);
            cr_assert(test_all(first, 0x11, bytes));
        }
    }
}

/* Overwrite every page that holds objects, live or free. */
static void scribble(uint64_t *random)
{
    for (size_t i = 0; i < shelf.pages; i++) {
        unsigned char *const page = arena + i * TIER_PAGE_SIZE;

        if ((kind_of(page) & TIER_KIND_SLAB) != 0) {
            memset(page, (int)test_below(random, 256), TIER_PAGE_SIZE);
        }
    }
}

Test(slab, cannot_be_misled_by_what_is_written_into_objects)
{
    static void *object[FEW_PAGES];
    uint64_t random = TEST_SEED;

    for (unsigned round = 0; round < 5; round++) {
        size_t count = 0;

        set_up(FEW_PAGES);
        while (count < COUNT(object) &&
               (object[count] = tier_slab_alloc(
                    &slab, test_below(&random, TIERALLOC_OBJECT_MAX + 1))) !=
                   NULL) {
            count++;
        }
        for (size_t kept = count; kept > 0; kept--) {
            scribble(&random);
            cr_assert(whole());
            cr_assert_eq(tier_slab_free(&slab, object[kept - 1]), TIER_OK);
            if (kept % 2 == 0) {
                scribble(&random);
                (void)tier_slab_alloc(&slab, kept % 64 + 1);
                cr_assert(whole());
            }
        }
        scribble(&random);
        cr_assert(whole());
    }
}

/* --- Random runs ---------------------------------------------------------- */

static struct tier_cache named[3];

static void set_up_named(void)
{
    cr_assert_eq(tier_cache_init(&named[0], &slab, "line", 1, 64), TIER_OK);
    cr_assert_eq(tier_cache_init(&named[1], &slab, "odd", 100, 4), TIER_OK);
    cr_assert_eq(tier_cache_init(&named[2], &slab, "large",
                                 TIERALLOC_OBJECT_MAX - 40, 8),
                 TIER_OK);
}

/* Allocate from a random class, small ones more often, or a named cache. */
static void random_alloc(uint64_t *random)
{
    const unsigned which = test_below(random, TIER_SLAB_CLASSES + 3);

    if (which >= TIER_SLAB_CLASSES) {
        struct tier_cache *const cache = &named[which - TIER_SLAB_CLASSES];
        void *const object = tier_cache_alloc(cache);

        if (object != NULL) {
            model_add(&model, object, 1, cache->object_bytes,
                      which - TIER_SLAB_CLASSES + 1);
        }
        return;
    }
    const size_t most = tier_slab_class_bytes(which);

    (void)take(most - test_below(random, 8));
}

/* Free a random object by one of the calls that can. */
static void random_free(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot slot = model.slot[index];
    enum tier_status status;

    cr_assert_eq(tier_slab_usable_size(&slab, slot.at), slot.bytes);
    model_drop(&model, index);
    switch (test_below(random, 3)) {
    case 0:
        status = tier_slab_free_sized(&slab, slot.at, slot.asked);
        break;
    case 1:
        if (slot.tag != 0) {
            status = tier_cache_free(&named[slot.tag - 1], slot.at);
            break;
        }
        status = tier_slab_free(&slab, slot.at);
        break;
    default:
        status = tier_slab_free(&slab, slot.at);
    }
    cr_assert_eq(status, TIER_OK);
}

/* The counters must say what the model says. */
static void expect_stats_of_model(void)
{
    const struct tier_slab_stats stats = slab_stats();

    cr_assert_eq(stats.live_objects, model.count);
    cr_assert_eq(stats.live_bytes, model.bytes);
    cr_assert_eq(stats.pages, shelf.outstanding);
    cr_assert_eq(stats.refused_frees, 0U);
}

/* Waves of growing and shrinking, so that memory runs out and comes back. */
static void random_run(uint64_t random)
{
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        const bool growing = step / 512 % 2 == 0;
        const bool alloc = test_below(&random, 8) < (growing ? 6 : 2);

        if (model.count == 0 || (alloc && model.count < MODEL_SLOTS)) {
            random_alloc(&random);
        } else {
            random_free(&random);
        }
        if (step % 1000 == 999) {
            (void)tier_slab_trim(&slab);
        }
        cr_assert(tier_slab_check(&slab), "step %u", step);
        expect_stats_of_model();
        if (step % 512 == 511) {
            model_verify(&model);
        }
    }
    free_all(&random);
    expect_all_back();
}

Test(slab, random_run_agrees_with_the_model)
{
    set_up(FEW_PAGES);
    set_up_named();
    random_run(TEST_SEED);
}

Test(slab, random_run_agrees_with_the_model_over_a_buddy)
{
    set_up_over_buddy(FEW_PAGES);
    set_up_named();
    random_run(TEST_SEED + 1);
    cr_assert(tier_buddy_check(&buddy));
    cr_assert_eq(buddy.free_pages, buddy.managed_pages);
}

/* --- Bad frees ------------------------------------------------------------ */

#if TIERALLOC_CHECKS

/* Free a bad pointer by each call; each must give `status` and no more. */
static void expect_refused(void *object, enum tier_status status)
{
    const size_t before = slab_stats().refused_frees;

    cr_assert_eq(tier_slab_free(&slab, object), status);
    cr_assert_eq(slab_stats().refused_frees, before + 1);
    cr_assert_eq(tier_slab_usable_size(&slab, object), 0U);
}

Test(slab, refuses_every_interior_pointer)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);

        if (!is_served(i)) {
            continue;
        }
        set_up(32);
        unsigned char *const first = take(bytes);
        const struct tier_cache_stats stats = class_stats(i);
        unsigned char *const end = first + stats.slab_pages * TIER_PAGE_SIZE;
        unsigned char *const last = first + stats.slab_objects * bytes;
        const uint64_t before = snapshot();

        for (unsigned char *at = first + 1; at < first + bytes; at++) {
            expect_refused(at, TIER_ERR_INTERIOR);
            cr_assert_eq(tier_cache_free(&slab.classes[i], at),
                         TIER_ERR_INTERIOR);
            cr_assert_eq(tier_slab_free_sized(&slab, at, bytes),
                         TIER_ERR_INTERIOR);
        }
        for (unsigned char *at = last; at < end; at++) {
            expect_refused(at, TIER_ERR_INTERIOR);
        }
        cr_assert_eq(snapshot(), before);
        cr_assert(whole());
        cr_assert_eq(tier_slab_free(&slab, first), TIER_OK);
    }
}

Test(slab, refuses_every_object_that_is_free)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);

        if (!is_served(i)) {
            continue;
        }
        set_up(32);
        unsigned char *const first = take(bytes);
        unsigned char *const other = take(bytes);
        const size_t objects = class_stats(i).slab_objects;

        cr_assert_eq(tier_slab_free(&slab, other), TIER_OK);
        const uint64_t before = snapshot();

        expect_refused(other, TIER_ERR_DOUBLE_FREE);
        for (size_t n = 1; n < objects; n++) {
            expect_refused(first + n * bytes, TIER_ERR_DOUBLE_FREE);
            cr_assert_eq(tier_slab_free_sized(&slab, first + n * bytes, bytes),
                         TIER_ERR_DOUBLE_FREE);
            cr_assert_eq(tier_cache_free(&slab.classes[i], first + n * bytes),
                         TIER_ERR_DOUBLE_FREE);
        }
        cr_assert_eq(snapshot(), before);
        cr_assert_eq(tier_slab_free(&slab, first), TIER_OK);
        expect_refused(first, TIER_ERR_DOUBLE_FREE);
        cr_assert(whole());
    }
}

Test(slab, refuses_every_other_size)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);

        if (!is_served(i)) {
            continue;
        }
        set_up(32);
        unsigned char *const object = take(bytes);
        const uint64_t before = snapshot();
        size_t refused = 0;

        for (size_t other = 0; other <= TIERALLOC_OBJECT_MAX + 1; other++) {
            if (model_class(other) != bytes) {
                cr_assert_eq(tier_slab_free_sized(&slab, object, other),
                             TIER_ERR_WRONG_SIZE);
                refused++;
            }
        }
        cr_assert_eq(tier_slab_free_sized(&slab, object, SIZE_MAX),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(slab_stats().refused_frees, refused + 1);
        cr_assert_eq(snapshot(), before);
        cr_assert_eq(tier_slab_free_sized(&slab, object, bytes), TIER_OK);
        cr_assert(whole());
    }
}

Test(slab, refuses_addresses_outside_its_slabs)
{
    static unsigned char outside[64];

    set_up(32);
    unsigned char *const object = take(64);
    const uint64_t before = snapshot();

    expect_refused(outside, TIER_ERR_FOREIGN);
    expect_refused(&slab, TIER_ERR_FOREIGN);
    expect_refused(map_memory, TIER_ERR_FOREIGN);
    expect_refused(arena + ARENA_BYTES, TIER_ERR_FOREIGN);
    expect_refused((void *)((uintptr_t)arena - 1), TIER_ERR_FOREIGN);
    expect_refused((void *)(uintptr_t)1, TIER_ERR_FOREIGN);
    expect_refused((void *)UINTPTR_MAX, TIER_ERR_FOREIGN);
    for (unsigned char *page = arena; page < arena + 32 * TIER_PAGE_SIZE;
         page += TIER_PAGE_SIZE) {
        if (kind_of(page) == TIER_KIND_NONE) {
            expect_refused(page, TIER_ERR_FOREIGN);
            expect_refused(page + TIER_PAGE_SIZE - 1, TIER_ERR_FOREIGN);
        }
    }
    cr_assert_eq(tier_slab_free_sized(&slab, outside, 64), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_cache_free(&slab.classes[7], outside), TIER_ERR_FOREIGN);
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    cr_assert(whole());
}

Test(slab, refuses_every_address_in_a_page_of_descriptors)
{
    size_t found = 0;

    set_up(32);
    cr_assert_not_null(take(64));
    const uint64_t before = snapshot();

    for (unsigned char *at = arena; at < arena + 32 * TIER_PAGE_SIZE; at++) {
        if (kind_of(at) == TIER_KIND_META) {
            expect_refused(at, TIER_ERR_FOREIGN);
            found++;
        }
    }
    cr_assert_eq(found, TIER_PAGE_SIZE);
    cr_assert_eq(snapshot(), before);
    cr_assert(whole());
}

Test(slab, refuses_an_object_whose_slab_is_gone)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        set_up(32);
        void *const object = tier_slab_alloc(&slab, tier_slab_class_bytes(i));

        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
        cr_assert(tier_slab_trim(&slab) != 0);
        const uint64_t before = snapshot();

        expect_refused(object, TIER_ERR_FOREIGN);
        cr_assert_eq(snapshot(), before);
        cr_assert(whole());
    }
}

#endif

Test(slab, frees_null_without_counting_it)
{
    set_up(32);
    set_up_named();
    cr_assert_eq(tier_slab_free(&slab, NULL), TIER_OK);
    cr_assert_eq(tier_slab_free_sized(&slab, NULL, 64), TIER_OK);
    cr_assert_eq(tier_cache_free(&named[0], NULL), TIER_OK);
    cr_assert_eq(tier_slab_usable_size(&slab, NULL), 0U);
    cr_assert_eq(slab_stats().refused_frees, 0U);
}

/* --- Memory comes back ---------------------------------------------------- */

Test(slab, gives_every_page_back_after_filling_to_failure)
{
    static void *object[ARENA_BYTES / 64];
    uint64_t random = TEST_SEED;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i += 3) {
        const size_t bytes = tier_slab_class_bytes(i);
        size_t count = 0;

        set_up(FEW_PAGES / 2);
        while (count < COUNT(object) &&
               (object[count] = tier_slab_alloc(&slab, bytes)) != NULL) {
            count++;
        }
        cr_assert(whole());
        cr_assert_eq(slab_stats().live_objects, count);
        while (count > 0) {
            const uint32_t at = test_below(&random, (uint32_t)count);

            cr_assert_eq(tier_slab_free(&slab, object[at]), TIER_OK);
            object[at] = object[--count];
            cr_assert(count % 64 != 0 || whole());
        }
        cr_assert_eq(slab_stats().slabs, 1U);
        expect_all_back();
    }
}

/* One object of every class and named cache; how many could not be had. */
static size_t take_one_of_each(void)
{
    size_t failed = 0;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (is_served(i) && take(tier_slab_class_bytes(i)) == NULL) {
            failed++;
        }
        cr_assert(whole());
    }
    for (unsigned i = 0; i < COUNT(named); i++) {
        void *const object = tier_cache_alloc(&named[i]);

        if (object == NULL) {
            failed++;
        } else {
            model_add(&model, object, 1, named[i].object_bytes, i + 1);
        }
        cr_assert(whole());
    }
    return failed;
}

Test(slab, survives_failure_of_each_page_request_in_turn)
{
    uint64_t random = TEST_SEED;
    size_t fail_at = 0;

    do {
        set_up(MANY_PAGES);
        set_up_named();
        shelf.fail_at = ++fail_at;
        const size_t failed = take_one_of_each();

        cr_assert_eq(failed, shelf.acquires < fail_at ? 0U : 1U);
        cr_assert_eq(slab_stats().failed_allocs, failed);
        expect_stats_of_model();
        model_verify(&model);
        free_all(&random);
        expect_all_back();
    } while (shelf.acquires >= fail_at);
    cr_assert(fail_at > TIER_SLAB_CLASSES / 2);
}

Test(slab, a_failed_growth_leaves_nothing_behind)
{
    set_up(ARENA_PAGES);
    shelf.fail_at = 1;
    cr_assert_null(tier_slab_alloc(&slab, 64));
    cr_assert_eq(shelf.outstanding, 0U);
    shelf.fail_at = 3;
    cr_assert_null(tier_slab_alloc(&slab, 64));
    cr_assert_eq(shelf.acquires, 3U);
    cr_assert_eq(shelf.outstanding, 0U);
    cr_assert_eq(slab_stats().failed_allocs, 2U);
    cr_assert_not_null(tier_slab_alloc(&slab, 64));
    cr_assert(whole());
}

Test(slab, keeps_one_empty_slab_per_class)
{
    set_up(MANY_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        void *object = tier_slab_alloc(&slab, bytes);
        const size_t acquires = shelf.acquires;
        const size_t releases = shelf.releases;

        for (unsigned n = 0; n < 10; n++) {
            cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
            cr_assert(whole());
            object = tier_slab_alloc(&slab, bytes);
            cr_assert_not_null(object);
        }
        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
        cr_assert_eq(shelf.acquires, acquires);
        cr_assert_eq(shelf.releases, releases);
    }
    expect_all_back();
}

Test(slab, gives_a_second_empty_slab_back_at_once)
{
    uint64_t random = TEST_SEED;

    set_up(ARENA_PAGES);
    for (size_t n = 0; n < class_stats(15).slab_objects * 3; n++) {
        cr_assert_not_null(take(tier_slab_class_bytes(15)));
    }
    cr_assert_eq(class_stats(15).slabs, 3U);
    free_all(&random);
    cr_assert_eq(class_stats(15).slabs, 1U);
    cr_assert_eq(shelf.releases, 2U);
    expect_all_back();
}

Test(slab, uses_a_partial_slab_before_the_empty_one)
{
    set_up(ARENA_PAGES);
    const size_t objects = class_stats(7).slab_objects;
    unsigned char *const first = take(64);

    for (size_t n = 1; n < objects; n++) {
        cr_assert_not_null(take(64));
    }
    void *const other = tier_slab_alloc(&slab, 64);

    cr_assert_eq(tier_slab_free(&slab, other), TIER_OK);
    cr_assert_eq(tier_slab_free(&slab, first), TIER_OK);
    cr_assert_eq(tier_slab_alloc(&slab, 64), (void *)first);
    cr_assert_eq(tier_slab_alloc(&slab, 64), other);
    cr_assert(whole());
}

/* --- Named caches --------------------------------------------------------- */

Test(slab, refuses_impossible_caches_and_changes_nothing)
{
    static struct tier_cache cache;

    set_up(32);
    memset(&cache, 0xA5, sizeof(cache));
    const uint64_t before = snapshot();

    cr_assert_eq(tier_cache_init(&cache, &slab, "x", 0, 8), TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_init(&cache, &slab, "x", 8, 0), TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_init(&cache, &slab, "x", 8, 24), TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_init(&cache, &slab, "x", 8, SIZE_MAX),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_init(&cache, &slab, "x",
                                 (size_t)TIERALLOC_OBJECT_MAX + 1, 1),
                 TIER_ERR_TOO_LARGE);
    cr_assert_eq(tier_cache_init(&cache, &slab, "x", SIZE_MAX, 1),
                 TIER_ERR_TOO_LARGE);
    cr_assert_eq(tier_cache_init(&cache, &slab, "x", 8, TIER_PAGE_SIZE * 2),
                 TIER_ERR_TOO_LARGE);
    if (TIER_PAGE_SIZE > TIERALLOC_OBJECT_MAX) {
        cr_assert_eq(tier_cache_init(&cache, &slab, "x", 8, TIER_PAGE_SIZE),
                     TIER_ERR_TOO_LARGE);
    }
    cr_assert(test_all(&cache, 0xA5, sizeof(cache)));
    cr_assert_eq(snapshot(), before);
}

/* Fill two slabs of a cache and look at each object. */
static void expect_aligned(struct tier_cache *cache, size_t bytes,
                           size_t alignment)
{
    struct tier_cache_stats stats;
    uint64_t random = TEST_SEED;

    tier_cache_stats(cache, &stats);
    cr_assert(stats.object_bytes >= bytes);
    cr_assert_eq(stats.object_bytes % alignment, 0U);
    cr_assert(stats.object_bytes < bytes + (alignment > TIERALLOC_MIN_ALIGN
                                                ? alignment
                                                : TIERALLOC_MIN_ALIGN));
    for (size_t n = 0; n < stats.slab_objects * 2; n++) {
        unsigned char *const object = tier_cache_alloc(cache);

        cr_assert_eq((uintptr_t)object % alignment, 0U);
        cr_assert_eq(tier_slab_usable_size(&slab, object), stats.object_bytes);
        model_add(&model, object, bytes, stats.object_bytes, 0);
    }
    tier_cache_stats(cache, &stats);
    cr_assert_eq(stats.slabs, 2U);
    cr_assert_eq(stats.live, stats.slab_objects * 2);
    free_all(&random);
}

Test(slab, a_cache_aligns_its_objects)
{
    static struct tier_cache cache;

    for (size_t alignment = 1;
         alignment <= TIER_PAGE_SIZE && alignment <= TIERALLOC_OBJECT_MAX;
         alignment *= 2) {
        for (size_t bytes = 1; bytes <= TIERALLOC_OBJECT_MAX; bytes *= 3) {
            set_up(ARENA_PAGES);
            enum tier_status status =
                tier_cache_init(&cache, &slab, "aligned", bytes, alignment);

            if (status == TIER_OK) {
                expect_aligned(&cache, bytes, alignment);
                cr_assert_eq(tier_cache_destroy(&cache), TIER_OK);
            } else {
                cr_assert_eq(status, TIER_ERR_TOO_LARGE);
                cr_assert(bytes + alignment > TIERALLOC_OBJECT_MAX);
            }
            expect_all_back();
        }
    }
}

Test(slab, a_cache_serves_each_of_its_sizes_without_a_gap)
{
    static struct tier_cache cache;

    for (size_t bytes = 1; bytes <= TIERALLOC_OBJECT_MAX; bytes += 37) {
        set_up(ARENA_PAGES);
        cr_assert_eq(tier_cache_init(&cache, &slab, "size", bytes, 1), TIER_OK);
        expect_aligned(&cache, bytes, TIERALLOC_MIN_ALIGN);
    }
}

Test(slab, frees_objects_of_a_cache_by_every_call)
{
    set_up(ARENA_PAGES);
    set_up_named();
    for (unsigned i = 0; i < COUNT(named); i++) {
        const size_t bytes = named[i].object_bytes;

        cr_assert_eq(tier_slab_free(&slab, tier_cache_alloc(&named[i])),
                     TIER_OK);
        cr_assert_eq(tier_cache_free(&named[i], tier_cache_alloc(&named[i])),
                     TIER_OK);
        cr_assert_eq(
            tier_slab_free_sized(&slab, tier_cache_alloc(&named[i]), bytes),
            TIER_OK);
        cr_assert_eq(
            tier_slab_free_sized(&slab, tier_cache_alloc(&named[i]), 1),
            TIER_OK);
        cr_assert_eq(slab_stats().live_objects, 0U);
    }
    cr_assert(whole());
    expect_all_back();
}

Test(slab, a_cache_refuses_objects_of_others)
{
    set_up(64);
    set_up_named();
    unsigned char *const line = tier_cache_alloc(&named[0]);
    unsigned char *const odd = tier_cache_alloc(&named[1]);
    unsigned char *const plain = tier_slab_alloc(&slab, 64);
    const uint64_t before = snapshot();

    cr_assert_eq(tier_cache_free(&named[1], line), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_cache_free(&named[0], odd), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_cache_free(&named[0], plain), TIER_ERR_FOREIGN);
#if TIERALLOC_CHECKS
    cr_assert_eq(tier_slab_free_sized(&slab, line, named[0].object_bytes + 1),
                 TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_cache_free(&named[0], line + 8), TIER_ERR_INTERIOR);
    cr_assert_eq(tier_cache_free(&named[0], line + 64), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(slab_stats().refused_frees, 6U);
#endif
    cr_assert_eq(snapshot(), before);
    cr_assert(whole());
}

Test(slab, destroys_a_cache_only_when_nothing_of_it_is_in_use)
{
    for (unsigned i = 0; i < COUNT(named); i++) {
        set_up(64);
        set_up_named();
        void *const object = tier_cache_alloc(&named[i]);
        const uint64_t before = snapshot();

        cr_assert_eq(tier_cache_destroy(&named[i]), TIER_ERR_IN_USE);
        cr_assert_eq(snapshot(), before);
        cr_assert_eq(tier_cache_free(&named[i], object), TIER_OK);
        cr_assert_eq(tier_cache_destroy(&named[i]), TIER_OK);
        cr_assert_eq(shelf.outstanding, 0U);
        memset(&named[i], 0xA5, sizeof(named[i]));
        cr_assert(whole());
        for (unsigned k = 0; k < COUNT(named); k++) {
            cr_assert(k == i || tier_cache_alloc(&named[k]) != NULL);
        }
        cr_assert(whole());
        cr_assert_eq(slab_stats().live_objects, COUNT(named) - 1);
    }
}

Test(slab, tells_the_counters_of_a_cache)
{
    struct tier_cache_stats stats;

    set_up(ARENA_PAGES);
    set_up_named();
    void *const object = tier_cache_alloc(&named[1]);

    tier_cache_stats(&named[1], &stats);
    cr_assert(strcmp(stats.name, "odd") == 0);
    cr_assert_eq(stats.object_bytes, TIERALLOC_MIN_ALIGN == 8 ? 104U : 112U);
    cr_assert_eq(stats.slabs, 1U);
    cr_assert_eq(stats.live, 1U);
    cr_assert_eq(slab_stats().live_bytes, stats.object_bytes);
    cr_assert_eq(slab_stats().slabs, 1U);
    cr_assert_eq(tier_cache_free(&named[1], object), TIER_OK);
    cr_assert_eq(tier_slab_trim(&slab), stats.slab_pages + 1);
    tier_cache_stats(&named[1], &stats);
    cr_assert_eq(stats.slabs, 0U);
    cr_assert_eq(stats.live, 0U);
}

/* --- Corruption ----------------------------------------------------------- */

/* Two caches of one shape, the first with a full, a partial and an empty slab,
   and their descriptors. */
static struct {
    struct tier_cache one;
    struct tier_cache two;
    struct tier_slab_desc_ *full;
    struct tier_slab_desc_ *partial;
    struct tier_slab_desc_ *empty;
} victim;

static struct tier_slab_desc_ *desc_of(const void *object)
{
    return map.entry[page_of(object)].slab;
}

static void set_up_victim(void)
{
    void *object[2] = {NULL, NULL};

    set_up(64);
    cr_assert_eq(tier_cache_init(&victim.one, &slab, "one", 48, 8), TIER_OK);
    cr_assert_eq(tier_cache_init(&victim.two, &slab, "two", 48, 8), TIER_OK);
    cr_assert_not_null(tier_cache_alloc(&victim.two));
    for (size_t n = 0; n < victim.one.slab_objects; n++) {
        object[0] = tier_cache_alloc(&victim.one);
    }
    victim.full = desc_of(object[0]);
    for (size_t n = 0; n < victim.one.slab_objects; n++) {
        object[0] = tier_cache_alloc(&victim.one);
    }
    victim.partial = desc_of(object[0]);
    object[1] = tier_cache_alloc(&victim.one);
    victim.empty = desc_of(object[1]);
    cr_assert_eq(tier_cache_free(&victim.one, object[1]), TIER_OK);
    cr_assert_eq(tier_cache_free(&victim.one, object[0]), TIER_OK);
    cr_assert_not_null(tier_slab_alloc(&slab, 8));
    cr_assert(victim.full->free == 0 && victim.partial->free == 1);
    cr_assert_eq(victim.one.empty, victim.empty);
    cr_assert(whole());
}

/* Give a field another value: check() must say so, and no more. */
static void expect_detected(void *field, const void *value, size_t bytes)
{
    unsigned char saved[sizeof(uint64_t)];

    memcpy(saved, field, bytes);
    if (memcmp(saved, value, bytes) == 0) {
        return;
    }
    memcpy(field, value, bytes);
    cr_assert(!tier_slab_check(&slab));
    memcpy(field, saved, bytes);
    cr_assert(tier_slab_check(&slab));
}

/* Point a field everywhere that it should not point. */
static void expect_pointer_detected(void *field)
{
    void *const places[] = {
        NULL,
        (void *)(uintptr_t)8,
        (void *)(UINTPTR_MAX - 7),
        (void *)UINTPTR_MAX,
        arena,
        arena + ARENA_BYTES - TIER_PAGE_SIZE,
        (unsigned char *)victim.partial + 8,
        (unsigned char *)victim.partial + 1,
        victim.full,
        victim.partial,
        victim.empty,
        desc_of(victim.partial),
        victim.full->base,
        victim.partial->base,
        &slab.classes[0],
        &slab.meta[0],
    };

    for (size_t i = 0; i < COUNT(places); i++) {
        expect_detected(field, &places[i], sizeof(places[i]));
    }
}

/* What must hold of the descriptor of any slab. */
static void expect_desc_guarded(struct tier_slab_desc_ *desc)
{
    const size_t words =
        ((size_t)desc->cache->slab_objects + TIER_WORD_BITS_ - 1) /
        TIER_WORD_BITS_;

    expect_pointer_detected(&desc->cache);
    for (unsigned value = 0; value < 1024; value++) {
        const uint16_t count = (uint16_t)(value * 63);

        expect_detected(&desc->free, &count, sizeof(count));
    }
    for (size_t i = 0; i < words * TIER_WORD_BITS_; i++) {
        const tier_word_ flipped = desc->bits[i / TIER_WORD_BITS_] ^
                                   (tier_word_)1 << i % TIER_WORD_BITS_;

        expect_detected(&desc->bits[i / TIER_WORD_BITS_], &flipped,
                        sizeof(flipped));
    }
}

Test(slab, check_detects_damage_to_a_descriptor)
{
    set_up_victim();
    expect_desc_guarded(victim.full);
    expect_desc_guarded(victim.partial);
    expect_desc_guarded(victim.empty);
    expect_desc_guarded(desc_of(victim.partial));
    expect_pointer_detected(&victim.partial->next);
    expect_pointer_detected(&victim.partial->prev);
    for (unsigned word = 0; word <= UINT8_MAX; word++) {
        const uint8_t value = (uint8_t)word;

        if (word * TIER_WORD_BITS_ >= victim.empty->cache->slab_objects) {
            expect_detected(&victim.partial->word, &value, 1);
        }
        expect_detected(&victim.empty->word, &value, 1);
    }
}

Test(slab, check_detects_any_other_base)
{
    set_up_victim();
    expect_pointer_detected(&victim.full->base);
    expect_pointer_detected(&victim.partial->base);
    expect_pointer_detected(&victim.empty->base);
    for (size_t offset = 1; offset < TIER_PAGE_SIZE; offset++) {
        unsigned char *const moved = victim.full->base + offset;

        expect_detected(&victim.full->base, &moved, sizeof(moved));
    }
}

Test(slab, check_detects_a_slab_in_another_cache_of_its_shape)
{
    struct tier_cache *const other = &victim.two;

    set_up_victim();
    expect_detected(&victim.partial->cache, &other, sizeof(other));
    expect_detected(&victim.empty->cache, &other, sizeof(other));
    expect_detected(&victim.full->cache, &other, sizeof(other));
}

Test(slab, check_detects_damage_to_a_cache)
{
    const size_t zero = 0;
    const size_t most = SIZE_MAX;

    set_up_victim();
    expect_pointer_detected(&victim.one.partial);
    expect_pointer_detected(&victim.one.empty);
    expect_pointer_detected(&victim.two.partial);
    expect_detected(&victim.one.live, &zero, sizeof(zero));
    expect_detected(&victim.one.live, &most, sizeof(most));
    expect_detected(&victim.one.slabs, &zero, sizeof(zero));
    expect_detected(&victim.one.slabs, &most, sizeof(most));
    expect_detected(&slab.meta[0].slabs, &most, sizeof(most));
    expect_detected(&slab.classes[3].live, &most, sizeof(most));
}

Test(slab, check_counts_each_cache_by_itself)
{
    set_up_victim();
    victim.one.live--;
    victim.two.live++;
    cr_assert(!tier_slab_check(&slab), "live objects of one cache for another");
    victim.one.live++;
    victim.two.live--;
    victim.one.slabs--;
    victim.two.slabs++;
    cr_assert(!tier_slab_check(&slab), "slabs of one cache for another");
}

/* Every other kind for every page that begins a slab. */
Test(slab, check_detects_any_other_kind_or_entry_of_a_slab)
{
    set_up_victim();
    for (size_t i = 0; i < shelf.pages; i++) {
        const size_t page = page_of(arena + i * TIER_PAGE_SIZE);

        if (shelf.lease[i] == 0) {
            continue;
        }
        for (unsigned kind = 0; kind <= UINT8_MAX; kind++) {
            const uint8_t value = (uint8_t)kind;

            expect_detected(&map.kind[page], &value, 1);
        }
        expect_pointer_detected(&map.entry[page].slab);
    }
}

Test(slab, check_detects_pages_of_no_slab)
{
    set_up_victim();
    for (size_t i = 0; i < shelf.pages; i++) {
        const size_t page = page_of(arena + i * TIER_PAGE_SIZE);
        const uint8_t kinds[] = {TIER_KIND_META, TIER_KIND_SLAB, 0xFF, 0x87};

        for (size_t k = 0; !shelf.held[i] && k < COUNT(kinds); k++) {
            expect_detected(&map.kind[page], &kinds[k], 1);
        }
    }
}

/* A class whose slabs have several pages; TIER_SLAB_CLASSES if none does. */
static unsigned wide_class(void)
{
    unsigned i = 0;

    while (i < TIER_SLAB_CLASSES &&
           (class_stats(i).slab_pages == 1 || !is_served(i))) {
        i++;
    }
    return i;
}

Test(slab, check_detects_every_page_lost_from_a_slab)
{
    set_up_victim();
    const unsigned wide = wide_class();

    if (wide == TIER_SLAB_CLASSES) {
        return;
    }
    unsigned char *const first = take(tier_slab_class_bytes(wide));

    for (size_t i = 0; i < class_stats(wide).slab_pages; i++) {
        const uint8_t none = TIER_KIND_NONE;
        const uint8_t block = TIER_KIND_BLOCK;

        expect_pointer_detected(&map.entry[page_of(first) + i].slab);
        expect_detected(&map.kind[page_of(first) + i], &none, 1);
        expect_detected(&map.kind[page_of(first) + i], &block, 1);
    }
}

/* The pages of descriptors, a byte of each at a time, and the map. */
Test(slab, check_survives_any_damage)
{
    uint64_t random = TEST_SEED;

    set_up_victim();
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        unsigned char *const bytes[] = {
            (unsigned char *)desc_of(victim.partial),
            (unsigned char *)victim.partial,
            &map.kind[page_of(arena)],
            (unsigned char *)&map.entry[page_of(arena)],
        };
        const size_t sizes[] = {
            TIER_PAGE_SIZE,
            sizeof(*victim.partial) + 8,
            shelf.pages,
            shelf.pages * sizeof(map.entry[0]),
        };
        const uint32_t which = test_below(&random, COUNT(bytes));
        unsigned char saved[2];
        unsigned char *hit[2];

        for (unsigned k = 0; k < 2; k++) {
            hit[k] = bytes[which] + test_below(&random, (uint32_t)sizes[which]);
            saved[k] = *hit[k];
            *hit[k] = (unsigned char)test_below(&random, 256);
        }
        (void)tier_slab_check(&slab);
        *hit[1] = saved[1];
        *hit[0] = saved[0];
    }
    cr_assert(whole());
}

/* A descriptor that would reach past the last page of memory is no such. */
Test(slab, check_reads_no_descriptor_past_its_page)
{
    const size_t last = ARENA_PAGES - 1;

    set_up(ARENA_PAGES);
    for (size_t i = 0; i < last - 1; i++) {
        shelf.held[i] = true; /* the slab and its descriptors come last */
    }
    unsigned char *const object = take(64);
    unsigned char *const end = arena + ARENA_BYTES;

    cr_assert_not_null(object);
    cr_assert_eq(kind_of(end - 1), TIER_KIND_META);
    for (size_t words = 1; words <= 8; words++) {
        void *const place = end - words * sizeof(tier_word_);

        expect_detected(&map.entry[page_of(object)].slab, &place,
                        sizeof(place));
    }
}

/* --- Overhead ------------------------------------------------------------- */

#if TIERALLOC_PAGE_SHIFT == 12 && TIERALLOC_OBJECT_MAX >= 4096 && \
    TIERALLOC_MAX_ORDER >= 4

/* Hundredths of a byte per object, map and descriptors included, at most. */
static void expect_overhead(size_t bytes, size_t most)
{
    size_t objects = 0;

    set_up(MIB / TIER_PAGE_SIZE);
    while (tier_slab_alloc(&slab, bytes) != NULL) {
        objects++;
    }
    const size_t held = slab_stats().pages;
    const size_t taken = held * (TIER_PAGE_SIZE + 9);
    const size_t used = slab_stats().live_bytes;

    cr_assert(held + TIER_SLAB_PAGES_MAX >= MIB / TIER_PAGE_SIZE);
    cr_assert((taken - used) * 100 <= objects * most,
              "%lu objects of %lu bytes take %lu", (unsigned long)objects,
              (unsigned long)bytes, (unsigned long)taken);
}

Test(slab, costs_little_beside_the_objects)
{
    expect_overhead(16, 50);
    expect_overhead(64, 100);
    expect_overhead(256, 400);
    expect_overhead(1000, 2500);
    expect_overhead(4096, 6400);
}

#endif

/* --- Misuse of tiers and caches ------------------------------------------- */

#if TIERALLOC_CHECKS
Test(slab, refuses_the_object_of_another_slab_tier)
{
    static struct tier_slab other;
    const struct tier_page_source source = {shelf_acquire, shelf_release,
                                            &shelf};

    set_up(ARENA_PAGES);
    tier_slab_init(&other, &map, &source);
    void *const object = tier_slab_alloc(&slab, 64);

    cr_assert_not_null(object);
    cr_assert_eq(tier_slab_free(&other, object), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_slab_free_sized(&other, object, 64), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_slab_usable_size(&other, object), 0U);
    cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
}
#endif

Test(slab, refuses_to_make_or_destroy_a_cache_twice)
{
    static struct tier_cache one;
    static struct tier_cache two;

    set_up(ARENA_PAGES);
    cr_assert_eq(tier_cache_init(&one, &slab, "one", 64, 8), TIER_OK);
    cr_assert_eq(tier_cache_init(&two, &slab, "two", 64, 8), TIER_OK);
    cr_assert_eq(tier_cache_init(&one, &slab, "one", 64, 8), TIER_ERR_IN_USE);
    cr_assert_eq(tier_cache_destroy(&one), TIER_OK);
    cr_assert_eq(tier_cache_destroy(&one), TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_destroy(&two), TIER_OK);
    cr_assert_eq(tier_cache_destroy(&two), TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_init(&one, &slab, "one", 64, 8), TIER_OK);
    (void)tier_slab_trim(&slab);
    cr_assert(tier_slab_check(&slab));
}
