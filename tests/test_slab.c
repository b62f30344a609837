/*
 * tests/test_slab.c - the slab tier, over page sources that trust nobody.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include "model.h"

#include <tieralloc/runs.h>
#include <tieralloc/slab.h>

#include "objects.h"

/* --- The rig -------------------------------------------------------------- */

/* 4 MiB, and more where pages are large: a slab may have sixteen of them. */
#if TIERALLOC_PAGE_SHIFT <= 12
#define ARENA_BYTES (4 * MIB)
#elif TIERALLOC_PAGE_SHIFT <= 16
#define ARENA_BYTES (1024 * TIER_PAGE_SIZE)
#else
#define ARENA_BYTES (64 * TIER_PAGE_SIZE)
#endif
#define ARENA_PAGES (ARENA_BYTES >> TIERALLOC_PAGE_SHIFT)
#define FEW_PAGES   (ARENA_PAGES < 256 ? ARENA_PAGES : 256)
#define MANY_PAGES  (ARENA_PAGES < 1024 ? ARENA_PAGES : 1024)

/* Of a slab, so much may hold no object: one part in so many. */
#define WASTE_MOST 16

/* What the shelf writes to entries of the map and to memory that it lends. */
#define SHELF_ENTRY UINT64_C(0x5EED5EED5EED5EED)
#define SHELF_FILL  0xEE

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES * 2) / 8 + 1];
static struct tier_pagemap map;
static struct tier_slab slab;
static struct tier_buddy buddy;
static struct tier_runs runs;

/* A shelf of pages: lends the lowest that fit, fails on demand. */
static struct {
    uint8_t lease[ARENA_PAGES]; /* pages of the lease that begins here */
    bool held[ARENA_PAGES];
    size_t pages;       /* of the arena that may be lent */
    size_t outstanding; /* pages lent */
    size_t acquires;    /* calls, failed ones included */
    size_t releases;
    size_t fail_at;  /* the call of acquire that fails; 0 for none */
    size_t fail_for; /* and so many after it */
    bool highest;    /* lend the highest that fit instead */
    struct tier_page_source inner; /* of pages that are not its own */
} shelf;

static struct model model;
static bool claimed[ARENA_BYTES / MODEL_GRAIN];
static unsigned char construction[ARENA_BYTES / MODEL_GRAIN]; /* of objects */
static size_t taken; /* bytes of the objects in the model, rounded up */
static struct tier_cache named[3]; /* the tag of an object is its index + 1 */

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

/* True when `pages` pages from the i-th on are not lent. */
static bool shelf_has(size_t first, size_t pages)
{
    for (size_t i = first; i < first + pages; i++) {
        if (i >= shelf.pages || shelf.held[i]) {
            return false;
        }
    }
    return true;
}

/* The first of so many pages in a row that are not lent. */
static size_t shelf_find(size_t pages)
{
    for (size_t n = 0; n < shelf.pages; n++) {
        const size_t first = shelf.highest ? shelf.pages - 1 - n : n;

        if (shelf_has(first, pages)) {
            return first;
        }
    }
    return SIZE_MAX;
}

/* What a holder finds in the map, and must leave in it. */
static void expect_unnamed(const void *memory, size_t pages)
{
    for (size_t i = page_of(memory); i < page_of(memory) + pages; i++) {
        cr_assert_eq(map.kind[i], TIER_KIND_NONE);
#if TIERALLOC_CPUS > 0
        cr_assert_eq(map.cut[i], 0U);
#endif
    }
}

/* True when this call of acquire is one that was to fail. */
static bool shelf_fails(void)
{
    shelf.acquires++;
    return shelf.fail_at != 0 && shelf.acquires >= shelf.fail_at &&
           shelf.acquires - shelf.fail_at <= shelf.fail_for;
}

static void *shelf_acquire(void *context, size_t pages)
{
    const size_t first = shelf_find(pages);

    cr_assert_eq(context, (void *)&shelf);
    cr_assert(pages >= 1 && pages <= TIER_SLAB_PAGES_MAX);
    if (shelf_fails() || first == SIZE_MAX) {
        return NULL;
    }
    unsigned char *const memory = arena + first * TIER_PAGE_SIZE;

    expect_unnamed(memory, pages);
    for (size_t i = 0; i < pages; i++) {
        shelf.held[first + i] = true;
        map.entry[page_of(memory) + i].bits = SHELF_ENTRY;
    }
    shelf.lease[first] = (uint8_t)pages;
    shelf.outstanding += pages;
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
    expect_unnamed(memory, pages);
    for (size_t i = 0; i < pages; i++) {
        cr_assert(shelf.held[first + i]);
        shelf.held[first + i] = false;
        map.entry[page_of(memory) + i].bits = SHELF_ENTRY;
    }
    shelf.lease[first] = 0;
    shelf.outstanding -= pages;
    shelf.releases++;
    memset(memory, SHELF_FILL, pages * TIER_PAGE_SIZE);
    memset(construction + first * TIER_PAGE_SIZE / MODEL_GRAIN, 0,
           pages * TIER_PAGE_SIZE / MODEL_GRAIN);
}

/* A map of the first `pages` pages of the arena, and nothing in use. */
static void set_up_map(size_t pages)
{
    memset(map_memory, 0, sizeof(map_memory));
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)arena,
                                   pages * TIER_PAGE_SIZE, map_memory,
                                   sizeof(map_memory)),
                 TIER_OK);
    model_init(&model, arena, ARENA_BYTES, claimed);
    taken = 0;
    memset(&shelf, 0, sizeof(shelf));
    shelf.pages = pages;
}

/* A slab tier over a shelf that lends the first `pages` pages. */
static void set_up(size_t pages)
{
    const struct tier_page_source source = {shelf_acquire, shelf_release,
                                            &shelf};

    set_up_map(pages);
    tier_slab_init(&slab, &map, &source);
}

/* A lender between the slab tier and the source of another tier. */
static void *lend(void *context, size_t pages)
{
    cr_assert_eq(context, (void *)&shelf);
    if (shelf_fails()) {
        return NULL;
    }
    void *const memory = shelf.inner.acquire(shelf.inner.context, pages);

    if (memory != NULL) {
        expect_unnamed(memory, pages);
        shelf.outstanding += pages;
    }
    return memory;
}

static void take_back(void *context, void *memory, size_t pages)
{
    cr_assert_eq(context, (void *)&shelf);
    expect_unnamed(memory, pages);
    shelf.inner.release(shelf.inner.context, memory, pages);
    shelf.outstanding -= pages;
}

/* A slab tier over a buddy tier of so many pages, or over its runs. */
static void set_up_over(size_t pages, bool over_runs)
{
    const struct tier_page_source source = {lend, take_back, &shelf};

    set_up_map(pages);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
    if (over_runs) {
        cr_assert_eq(tier_runs_init(&runs, &buddy, TIERALLOC_MAX_ORDER),
                     TIER_OK);
        tier_runs_source(&runs, &shelf.inner);
    } else {
        tier_buddy_source(&buddy, &shelf.inner);
    }
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

static struct tier_cache_stats cache_stats(const struct tier_cache *cache)
{
    struct tier_cache_stats stats;

    tier_cache_stats(cache, &stats);
    return stats;
}

/* True when the tiers below are whole, if there are any. */
static bool below_is_whole(void)
{
    return shelf.inner.context == NULL ||
           (tier_buddy_check(&buddy) &&
            (shelf.inner.context == &buddy || tier_runs_check(&runs)));
}

/* True when all is whole and the tier holds just the pages that it was lent. */
static bool whole(void)
{
    return tier_slab_check(&slab) && below_is_whole() &&
           slab_stats().pages == shelf.outstanding;
}

/* The largest power of two, up to a page, that divides a number. */
static size_t power_in(size_t number)
{
    const size_t power = number & (~number + 1);

    return power < TIER_PAGE_SIZE ? power : TIER_PAGE_SIZE;
}

/* Bytes that an object in the model takes. */
static size_t bytes_of(const struct model_slot *slot)
{
    return slot->tag == 0 ? object_for(slot->asked)
                          : named[slot->tag - 1].base.object_bytes;
}

/* Allocate one object of a class and note it in the model. */
static unsigned char *take(size_t bytes)
{
    void *const object = tier_slab_alloc(&slab, bytes);

    if (object != NULL) {
        model_add(&model, object, bytes, usable_for(bytes), 0);
        taken += object_for(bytes);
    }
    return object;
}

/* Allocate one object of a named cache and note it. */
static unsigned char *take_named(unsigned i)
{
    void *const object = tier_cache_alloc(&named[i]);

    if (object != NULL) {
        model_add(&model, object, 1, tier_slab_usable_size(&slab, object),
                  i + 1);
        taken += named[i].base.object_bytes;
    }
    return object;
}

/* Forget an object in the model, which nobody wrote to; its address. */
static void *forget(size_t index)
{
    void *const object = model.slot[index].at;

    taken -= bytes_of(&model.slot[index]);
    model_drop(&model, index);
    return object;
}

/* Free everything in the model, in random order. */
static void free_all(uint64_t *random)
{
    while (model.count > 0) {
        void *const object = forget(test_below(random, (uint32_t)model.count));

        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    }
}

/* Take so many objects, all of which there must be. */
static void take_many(size_t bytes, size_t count, unsigned char **object)
{
    for (size_t n = 0; n < count; n++) {
        object[n] = tier_slab_alloc(&slab, bytes);
        cr_assert_not_null(object[n]);
    }
}

/* Free some objects, in the order given. */
static void free_many(unsigned char **object, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        cr_assert_eq(tier_slab_free(&slab, object[n]), TIER_OK);
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

/* The same over another tier, which must have all its pages back. */
static void expect_all_below(void)
{
    expect_all_back();
    if (shelf.inner.context == &runs) {
        cr_assert_eq(runs.source_pages, 0U);
        (void)tier_runs_trim(&runs);
        cr_assert_eq(runs.held_pages, 0U);
    }
    cr_assert(whole());
    cr_assert_eq(buddy.free_pages, buddy.managed_pages);
}

/* Everything there is, the arena included, but for the refused frees. */
static uint64_t snapshot(void)
{
    const size_t refused = slab.refused_frees;
    uint64_t hash = UINT64_C(0xCBF29CE484222325);

    slab.refused_frees = 0;
    hash = fold(hash, &slab, sizeof(slab));
    hash = fold(hash, named, sizeof(named));
    hash = fold(hash, map_memory, sizeof(map_memory));
    hash = fold(hash, arena, shelf.pages * TIER_PAGE_SIZE);
    slab.refused_frees = refused;
    return hash;
}

/* --- Classes -------------------------------------------------------------- */

Test(slab, has_its_number_of_classes_per_doubling)
{
    unsigned above = 0;

    cr_assert_eq(tier_slab_class_bytes(0), 8U);
    cr_assert_eq(tier_slab_class_bytes(TIER_SLAB_CLASSES - 1),
                 (size_t)TIERALLOC_OBJECT_MAX);
    for (unsigned i = 1; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        const size_t before = tier_slab_class_bytes(i - 1);

        cr_assert(bytes > before);
        cr_assert(bytes - before <=
                  (before < 64 ? 8 : before / TIERALLOC_CLASS_STEPS));
        above++;
        if ((bytes & (bytes - 1)) == 0 && bytes > 8) {
            cr_assert_eq(above, bytes <= 64 ? bytes / 16
                                            : (size_t)TIERALLOC_CLASS_STEPS);
            above = 0;
        }
    }
}

Test(slab, puts_each_size_into_the_smallest_class_that_fits)
{
    for (size_t bytes = 1; bytes <= TIER_SLAB_BYTES_MAX; bytes++) {
        unsigned i = 0;

        while (!is_served(i) || most_of(i) < bytes) {
            i++;
        }
        cr_assert_eq(tier_slab_class_(bytes), i, "%lu bytes",
                     (unsigned long)bytes);
        cr_assert_eq(tier_slab_class_bytes(i), object_for(bytes));
    }
    cr_assert(tier_slab_class_bytes((unsigned)tier_slab_class_(0)) >=
              TIERALLOC_MIN_ALIGN + TIER_GUARD_BYTES - TIER_GUARD_BYTES % 16);
}

Test(slab, serves_every_size_from_its_class)
{
    set_up(MANY_PAGES);
    for (size_t bytes = 1; bytes <= TIER_SLAB_BYTES_MAX; bytes++) {
        unsigned char *const object = tier_slab_alloc(&slab, bytes);

        cr_assert_not_null(object);
        cr_assert_eq(tier_slab_usable_size(&slab, object), usable_for(bytes));
        cr_assert_eq((uintptr_t)object % TIERALLOC_MIN_ALIGN, 0U);
        cr_assert_eq(slab_stats().live_bytes, object_for(bytes));
        memset(object, 0x5A, usable_for(bytes));
        cr_assert_eq(tier_slab_free_sized(&slab, object, bytes), TIER_OK);
        if (bytes % 64 < 2) {
            cr_assert(whole());
            (void)tier_slab_trim(&slab);
        }
    }
    expect_all_back();
}

Test(slab, serves_no_bytes_as_one)
{
    set_up(MANY_PAGES);
    unsigned char *const one = tier_slab_alloc(&slab, 0);
    unsigned char *const other = tier_slab_alloc(&slab, 0);

    cr_assert(one != NULL && other != NULL && one != other);
    cr_assert(tier_slab_usable_size(&slab, one) >= 1);
    *one = 0x5A;
    cr_assert_eq(tier_slab_free_sized(&slab, one, 0), TIER_OK);
    cr_assert_eq(tier_slab_free(&slab, other), TIER_OK);
    expect_all_back();
}

Test(slab, aligns_objects_to_the_power_of_two_in_their_class)
{
    for (unsigned odd = 0; odd < 4; odd++) {
        uint64_t random = TEST_SEED;

        set_up(MANY_PAGES);
        memset(shelf.held, 1, odd); /* slabs begin at odd pages too */
        for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
            const size_t bytes = tier_slab_class_bytes(i);
            const size_t objects = class_stats(i).slab_objects;

            for (size_t n = 0; is_served(i) && n <= objects && n < MODEL_SLOTS;
                 n++) {
                cr_assert_eq((uintptr_t)take(most_of(i)) % power_in(bytes), 0U,
                             "class of %lu bytes", (unsigned long)bytes);
            }
            free_all(&random);
            (void)tier_slab_trim(&slab);
        }
    }
}

Test(slab, refuses_more_than_the_largest_object)
{
    set_up(MANY_PAGES);
    cr_assert_not_null(tier_slab_alloc(&slab, TIER_SLAB_BYTES_MAX));
    const uint64_t before = snapshot();

    cr_assert_null(tier_slab_alloc(&slab, TIER_SLAB_BYTES_MAX + 1));
    cr_assert_null(tier_slab_alloc(&slab, (size_t)TIERALLOC_OBJECT_MAX + 1));
    cr_assert_null(tier_slab_alloc(&slab, SIZE_MAX));
    cr_assert_null(tier_slab_alloc(&slab, SIZE_MAX - 6));
    cr_assert_null(tier_slab_alloc(&slab, SIZE_MAX / 2 + 1));
    cr_assert_eq(snapshot(), before);
    cr_assert(whole());
}

Test(slab, gives_out_distinct_objects_in_its_own_pages)
{
    uint64_t random = TEST_SEED;

    set_up(MANY_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        const size_t objects = class_stats(i).slab_objects;

        for (size_t n = 0;
             is_served(i) && n < objects * 2 + 1 && n < MODEL_SLOTS; n++) {
            unsigned char *const object = take(most_of(i));

            cr_assert_not_null(object);
            cr_assert_eq(kind_of(object), TIER_KIND_SLAB | i);
            cr_assert_eq(kind_of(object + bytes - 1), TIER_KIND_SLAB | i);
            cr_assert_eq(class_stats(i).live, n + 1);
            cr_assert_eq(class_stats(i).slabs, n / objects + 1);
        }
        cr_assert(whole());
        free_all(&random);
        (void)tier_slab_trim(&slab);
    }
    expect_all_back();
}

Test(slab, a_slab_wastes_little)
{
    set_up(FEW_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const struct tier_cache_stats stats = class_stats(i);
        const size_t pages = stats.slab_pages * TIER_PAGE_SIZE;
        const size_t waste = pages - stats.slab_objects * stats.object_bytes;

        cr_assert_null(stats.name);
        cr_assert_eq(stats.object_bytes, tier_slab_class_bytes(i));
        cr_assert(stats.slab_objects >= 1);
        cr_assert(stats.slab_objects * stats.object_bytes <= pages);
        cr_assert(stats.slab_pages <= TIER_SLAB_PAGES_MAX);
        cr_assert(pages <= TIER_BLOCK_MAX);
        if (TIERALLOC_PAGE_SHIFT == 12 && TIERALLOC_MAX_ORDER >= 4) {
            cr_assert(waste * WASTE_MOST <= pages, "%lu of %lu bytes",
                      (unsigned long)waste, (unsigned long)pages);
        }
    }
}

/* True when slabs of so many pages are possible for a size. */
static bool is_possible(size_t bytes, size_t pages)
{
    return pages <= TIER_SLAB_PAGES_MAX &&
           pages * TIER_PAGE_SIZE <= TIER_BLOCK_MAX &&
           pages * TIER_PAGE_SIZE * (uint64_t)bytes < UINT64_C(1) << 32;
}

/* With fewer pages more is lost; with more pages less, but under 1 % anyway. */
Test(slab, has_as_many_pages_as_waste_least)
{
    set_up(FEW_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        const size_t pages = class_stats(i).slab_pages;
        const size_t waste = tier_cache_waste_(bytes, pages);

        cr_assert(is_possible(bytes, pages));
        for (size_t other = (bytes + TIER_PAGE_SIZE - 1) / TIER_PAGE_SIZE;
             is_possible(bytes, other); other++) {
            cr_assert(tier_cache_waste_(bytes, other) * pages >=
                          waste * other ||
                      (other > pages && waste * 100 <= pages * TIER_PAGE_SIZE));
        }
    }
}

/* --- Objects are the caller's --------------------------------------------- */

#if TIERALLOC_CHECKS < 2

Test(slab, never_touches_an_object)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        unsigned char *first = NULL;

        set_up(FEW_PAGES);
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

/* True when no byte in a page of objects was ever written. */
static bool slabs_are_untouched(void)
{
    for (size_t i = 0; i < shelf.pages; i++) {
        unsigned char *const page = arena + i * TIER_PAGE_SIZE;

        if ((kind_of(page) & TIER_KIND_SLAB) != 0 &&
            !test_all(page, SHELF_FILL, TIER_PAGE_SIZE)) {
            return false;
        }
    }
    return true;
}

Test(slab, never_writes_to_a_slab_of_a_class)
{
    uint64_t random = TEST_SEED;
    static void *object[512];
    size_t count = 0;

    set_up(FEW_PAGES);
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        const size_t bytes = test_below(&random, TIERALLOC_OBJECT_MAX + 1);

        if (count < COUNT(object) && test_below(&random, 2) == 0) {
            object[count] = tier_slab_alloc(&slab, bytes);
            count += object[count] != NULL;
        } else if (count > 0) {
            const size_t at = test_below(&random, (uint32_t)count);

            cr_assert_eq(tier_slab_free(&slab, object[at]), TIER_OK);
            object[at] = object[--count];
        }
    }
    cr_assert(slabs_are_untouched());
}

#endif

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
                    &slab, test_below(&random, TIER_SLAB_BYTES_MAX))) != NULL) {
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

static void set_up_named(void)
{
    cr_assert_eq(tier_cache_init(&named[0], &slab, "line", 1, 64, 0, NULL),
                 TIER_OK);
    cr_assert_eq(tier_cache_init(&named[1], &slab, "odd", 100, 4,
                                 TIER_CACHE_KEEP_NONE, NULL),
                 TIER_OK);
    cr_assert_eq(tier_cache_init(&named[2], &slab, "large",
                                 TIERALLOC_OBJECT_MAX - 100, 8, 0, NULL),
                 TIER_OK);
}

/* Allocate from a random class, small ones more often, or a named cache. */
static void random_alloc(uint64_t *random)
{
    const unsigned which = test_below(random, TIER_SLAB_CLASSES + 3);

    if (which >= TIER_SLAB_CLASSES) {
        (void)take_named(which - TIER_SLAB_CLASSES);
    } else if (is_served(which)) {
        (void)take(most_of(which) - test_below(random, 8));
    }
}

/* Free a random object by one of the calls that can. */
static void random_free(uint64_t *random)
{
    const size_t index = test_below(random, (uint32_t)model.count);
    const struct model_slot slot = model.slot[index];
    enum tier_status status;

    cr_assert_eq(tier_slab_usable_size(&slab, slot.at), slot.bytes);
    (void)forget(index);
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
    cr_assert_eq(stats.live_bytes, taken);
    cr_assert_eq(stats.pages, shelf.outstanding);
}

/* Waves of growing and shrinking, so that memory runs out and comes back. */
static void random_steps(uint64_t *random, unsigned steps)
{
    for (unsigned step = 0; step < steps; step++) {
        const bool growing = step / 512 % 2 == 0;
        const bool alloc = test_below(random, 8) < (growing ? 6 : 2);

        if (model.count == 0 || (alloc && model.count < MODEL_SLOTS)) {
            random_alloc(random);
        } else {
            random_free(random);
        }
        if (step % 1000 == 999) {
            (void)tier_slab_trim(&slab);
        }
        cr_assert(whole(), "step %u", step);
        expect_stats_of_model();
        if (step % 512 == 511) {
            model_verify(&model);
        }
    }
    free_all(random);
}

Test(slab, random_run_agrees_with_the_model)
{
    uint64_t random = TEST_SEED;

    set_up(FEW_PAGES);
    set_up_named();
    random_steps(&random, TIERALLOC_TEST_STEPS);
    cr_assert_eq(slab_stats().refused_frees, 0U);
    if (TIERALLOC_TEST_STEPS >= 10000 && TIERALLOC_OBJECT_MAX >= 16384 &&
        TIERALLOC_PAGE_SHIFT <= 12) {
        cr_assert(slab_stats().failed_allocs > 0);
    }
    expect_all_back();
}

Test(slab, random_run_agrees_with_the_model_over_a_buddy)
{
    uint64_t random = TEST_SEED + 1;

    set_up_over(FEW_PAGES, false);
    set_up_named();
    random_steps(&random, TIERALLOC_TEST_STEPS);
    expect_all_below();
}

Test(slab, random_run_agrees_with_the_model_over_runs)
{
    uint64_t random = TEST_SEED + 2;

    set_up_over(FEW_PAGES, true);
    set_up_named();
    random_steps(&random, TIERALLOC_TEST_STEPS);
    expect_all_below();
}

/* --- Bad frees ------------------------------------------------------------ */

#if TIERALLOC_CHECKS

/* Show that the tier still works: a short run against the model. */
static void prove_whole(void)
{
    uint64_t random = TEST_SEED;

    cr_assert(whole());
    set_up_named();
    random_steps(&random, 100);
    for (unsigned i = 0; i < COUNT(named); i++) {
        cr_assert_eq(tier_cache_destroy(&named[i]), TIER_OK);
    }
    expect_all_back();
}

/* Free a bad pointer by each call; each must give `status` and no more. */
static void expect_refused(void *object, size_t bytes, enum tier_status status)
{
    const size_t before = slab_stats().refused_frees;

    cr_assert_eq(tier_slab_free(&slab, object), status);
    cr_assert_eq(tier_slab_free_sized(&slab, object, bytes), status);
    cr_assert_eq(slab_stats().refused_frees, before + 2);
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
        unsigned char *const first = take(most_of(i));
        const struct tier_cache_stats stats = class_stats(i);
        unsigned char *const begin = first + stats.slab_objects * bytes -
                                     stats.slab_pages * TIER_PAGE_SIZE;
        const uint64_t before = snapshot();

        for (unsigned char *at = first + 1; at < first + bytes; at++) {
            expect_refused(at, most_of(i), TIER_ERR_INTERIOR);
        }
        for (unsigned char *at = begin; at < first; at++) {
            expect_refused(at, most_of(i), TIER_ERR_INTERIOR);
        }
        cr_assert_eq(snapshot(), before);
        prove_whole();
    }
}

Test(slab, refuses_what_is_inside_any_object_of_a_slab)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        uint64_t random = TEST_SEED + i;

        if (!is_served(i)) {
            continue;
        }
        set_up(32);
        unsigned char *const first = take(most_of(i));
        const size_t span = class_stats(i).slab_objects * bytes;

        for (unsigned n = 0; n < 500; n++) {
            const size_t at = test_below(&random, (uint32_t)span);

            if (at % bytes != 0) {
                expect_refused(first + at, most_of(i), TIER_ERR_INTERIOR);
            }
        }
        prove_whole();
    }
}

Test(slab, refuses_every_object_that_is_free)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);

        if (!is_served(i) || class_stats(i).slab_objects == 1) {
            continue;
        }
        set_up(32);
        unsigned char *const first = take(most_of(i));
        unsigned char *const other = tier_slab_alloc(&slab, most_of(i));
        const size_t objects = class_stats(i).slab_objects;

        cr_assert_eq(tier_slab_free(&slab, other), TIER_OK);
        const uint64_t before = snapshot();

        for (size_t n = 1; objects > 1 && n < objects; n++) {
            expect_refused(first + n * bytes, most_of(i), TIER_ERR_DOUBLE_FREE);
        }
        cr_assert_eq(snapshot(), before);
        cr_assert_eq(tier_slab_free(&slab, forget(0)), TIER_OK);
        expect_refused(first, most_of(i), TIER_ERR_DOUBLE_FREE);
        prove_whole();
    }
}

Test(slab, refuses_every_other_size)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        set_up(32);
        unsigned char *const object = take(most_of(i));
        const uint64_t before = snapshot();
        size_t refused = 0;

        for (size_t other = 1; other <= TIERALLOC_OBJECT_MAX + 1; other++) {
            if (object_for(other) != tier_slab_class_bytes(i)) {
                cr_assert_eq(tier_slab_free_sized(&slab, object, other),
                             TIER_ERR_WRONG_SIZE);
                refused++;
            }
        }
        cr_assert_eq(tier_slab_free_sized(&slab, object, SIZE_MAX),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(slab_stats().refused_frees, refused + 1);
        cr_assert_eq(snapshot(), before);
        cr_assert_eq(tier_slab_free_sized(&slab, forget(0), most_of(i)),
                     TIER_OK);
        prove_whole();
    }
}

/* Only of an object in use can a size be wrong. */
Test(slab, judges_the_pointer_before_the_size)
{
    set_up(FEW_PAGES);
    const unsigned i = class_for(64);
    unsigned char *const object = take(64);
    unsigned char *const end =
        object + class_stats(i).slab_objects * tier_slab_class_bytes(i);
    unsigned char *const last = end - tier_slab_class_bytes(i);
    const uint64_t before = snapshot();

    expect_refused(object + 1, 1, TIER_ERR_INTERIOR);
    expect_refused(end - 1, 1, TIER_ERR_INTERIOR);
    expect_refused(last, 1, TIER_ERR_DOUBLE_FREE);
    expect_refused(last, SIZE_MAX, TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(snapshot(), before);
    prove_whole();
}

/* Free something foreign by each call. */
static void expect_foreign(void *pointer)
{
    const size_t before = slab_stats().refused_frees;

    expect_refused(pointer, 64, TIER_ERR_FOREIGN);
    cr_assert_eq(tier_cache_free(&named[0], pointer), TIER_ERR_FOREIGN);
    cr_assert_eq(slab_stats().refused_frees, before + 3);
}

Test(slab, refuses_addresses_outside_its_slabs)
{
    static unsigned char outside[64];

    set_up(32);
    set_up_named();
    cr_assert_not_null(tier_slab_alloc(&slab, 64));
    const uint64_t before = snapshot();

    expect_foreign(outside);
    expect_foreign(&slab);
    expect_foreign(map_memory);
    expect_foreign(arena + 32 * TIER_PAGE_SIZE);
    expect_foreign((void *)((uintptr_t)arena - 1));
    expect_foreign((void *)(uintptr_t)1);
    expect_foreign((void *)UINTPTR_MAX);
    for (unsigned char *page = arena; page < arena + 32 * TIER_PAGE_SIZE;
         page += TIER_PAGE_SIZE) {
        if (kind_of(page) == TIER_KIND_NONE) {
            expect_foreign(page);
            expect_foreign(page + TIER_PAGE_SIZE - 1);
        }
    }
    cr_assert_eq(snapshot(), before);
    cr_assert(whole());
}

/* Free all of a page of another tier: its start, and what is inside. */
static void expect_foreign_page(unsigned char *page)
{
    for (size_t at = 0; at < TIER_PAGE_SIZE; at += at < 64 ? 1 : 61) {
        expect_foreign(page + at);
    }
}

Test(slab, refuses_pages_of_other_tiers)
{
    set_up_over(FEW_PAGES, true);
    set_up_named();
    void *const block = tier_buddy_alloc(&buddy, 0);
    void *const run = tier_runs_alloc(&runs, 1);

    cr_assert(block != NULL && run != NULL);
    cr_assert_not_null(tier_slab_alloc(&slab, 64));
    expect_foreign_page(run);
    expect_foreign_page(block);
    cr_assert_eq(tier_runs_free(&runs, run), TIER_OK);
    cr_assert_eq(tier_buddy_free(&buddy, block), TIER_OK);
    expect_foreign_page(run);
    expect_foreign_page(block);
    cr_assert(whole());
}

Test(slab, refuses_every_address_in_a_page_of_descriptors)
{
    size_t found = 0;

    set_up(32);
    set_up_named();
    cr_assert_not_null(take(64));
    const uint64_t before = snapshot();

    for (unsigned char *at = arena; at < arena + 32 * TIER_PAGE_SIZE; at++) {
        if (kind_of(at) == TIER_KIND_META) {
            expect_foreign(at);
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
        if (!is_served(i)) {
            continue;
        }
        set_up(32);
        void *const object = tier_slab_alloc(&slab, most_of(i));

        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
        cr_assert(tier_slab_trim(&slab) != 0);
        const uint64_t before = snapshot();

        expect_refused(object, most_of(i), TIER_ERR_FOREIGN);
        cr_assert_eq(snapshot(), before);
        prove_whole();
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

/* What tests hold in plain arrays. */
static unsigned char *held[ARENA_BYTES / 64];

/* Fill to failure with objects of a class, in `held`; how many. */
static size_t fill(unsigned size_class)
{
    size_t count = 0;

    while (count < COUNT(held) && (held[count] = tier_slab_alloc(
                                       &slab, most_of(size_class))) != NULL) {
        count++;
    }
    return count;
}

/* Free what fill() took, in random order. */
static void drain(size_t count, uint64_t *random)
{
    while (count > 0) {
        const uint32_t at = test_below(random, (uint32_t)count);

        cr_assert_eq(tier_slab_free(&slab, held[at]), TIER_OK);
        held[at] = held[--count];
        cr_assert(count % 64 != 0 || whole());
    }
}

Test(slab, gives_every_page_back_after_filling_to_failure)
{
    uint64_t random = TEST_SEED;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i += 3) {
        if (!is_served(i)) {
            continue;
        }
        set_up(FEW_PAGES / 2);
        const size_t count = fill(i);

        cr_assert(whole());
        cr_assert_eq(slab_stats().live_objects, count);
        drain(count, &random);
        cr_assert_eq(slab_stats().slabs, 1U);
        expect_all_back();
    }
}

/* The same over another tier, which is checked at each of its calls. */
static void expect_all_back_over(bool over_runs)
{
    uint64_t random = TEST_SEED;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i += 4) {
        if (!is_served(i)) {
            continue;
        }
        set_up_over(60 < FEW_PAGES ? 60 : FEW_PAGES, over_runs);
        const size_t count = fill(i);

        cr_assert(count > 0 && whole());
        drain(count, &random);
        cr_assert(whole());
        expect_all_below();
    }
}

Test(slab, gives_every_page_back_to_a_buddy)
{
    expect_all_back_over(false);
}

Test(slab, gives_every_page_back_to_runs)
{
    expect_all_back_over(true);
}

/* --- Short memory --------------------------------------------------------- */

/* Pages that one object of a class needs. */
static size_t least_pages(unsigned size_class)
{
    return (tier_slab_class_bytes(size_class) + TIER_PAGE_SIZE - 1) /
           TIER_PAGE_SIZE;
}

Test(slab, fills_memory_to_the_last_pages_that_fit_an_object)
{
    uint64_t random = TEST_SEED;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        for (size_t pages = 2; is_served(i) && pages <= 40; pages++) {
            set_up(pages);
            const size_t count = fill(i);

            cr_assert(shelf_find(least_pages(i) + 1) == SIZE_MAX,
                      "%lu of %lu pages lent for %lu bytes",
                      (unsigned long)shelf.outstanding, (unsigned long)pages,
                      (unsigned long)tier_slab_class_bytes(i));
            cr_assert(count > 0 || pages < least_pages(i) + 1);
            cr_assert(whole());
            drain(count, &random);
            expect_all_back();
        }
    }
}

/* Nothing but runs of so many pages, with one lent page behind each. */
static void shatter(size_t run)
{
    for (size_t i = run; i < shelf.pages; i += run + 1) {
        shelf.held[i] = true;
    }
}

/* Pages lent from the `run` pages at `first`. */
static size_t lent_from(size_t first, size_t run)
{
    size_t pages = 0;

    for (size_t i = first; i < first + run && i < shelf.pages; i++) {
        pages += shelf.held[i];
    }
    return pages;
}

Test(slab, takes_fewer_pages_where_memory_is_in_pieces)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t least = least_pages(i);

        for (size_t run = least; run <= TIER_SLAB_PAGES_MAX; run++) {
            set_up(5 * (run + 1));
            if (!is_served(i) || run >= class_stats(i).slab_pages) {
                break;
            }
            shatter(run);
            shelf.held[run] = false; /* one page more, for descriptors */
            const size_t count = fill(i);

            cr_assert(count >= (run > least ? 4U : 3U));
            cr_assert(whole());
            for (size_t at = run + 1; at < shelf.pages; at += run + 1) {
                cr_assert(run - lent_from(at, run) <= least);
            }
            free_many(held, count);
            expect_all_back();
        }
    }
}

/* Half as many objects, while there are pages for those. */
Test(slab, takes_no_fewer_pages_than_it_must)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        set_up(64);
        const struct tier_cache_stats stats = class_stats(i);
        const size_t half =
            (stats.slab_objects / 2 * stats.object_bytes + TIER_PAGE_SIZE - 1) /
            TIER_PAGE_SIZE;

        if (!is_served(i) || stats.slab_objects == 1) {
            continue;
        }
        shatter(half);
        cr_assert_not_null(take(most_of(i)));
        cr_assert_eq(class_stats(i).slabs, 1U);
        cr_assert(shelf.outstanding == half + 1 || half == stats.slab_pages);
    }
}

Test(slab, a_short_slab_is_one_like_others)
{
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        const size_t bytes = tier_slab_class_bytes(i);
        uint64_t random = TEST_SEED;

        set_up(32);
        if (!is_served(i) || class_stats(i).slab_pages == least_pages(i)) {
            continue;
        }
        shelf.pages = least_pages(i) + 1; /* one for a descriptor */
        unsigned char *const object = take(most_of(i));
        const size_t objects = least_pages(i) * TIER_PAGE_SIZE / bytes;

        cr_assert_not_null(object);
        cr_assert_eq((uintptr_t)(object + objects * bytes) % TIER_PAGE_SIZE,
                     0U);
        for (size_t n = 1; n < objects; n++) {
            cr_assert_eq((void *)take(most_of(i)), object + n * bytes);
        }
        cr_assert_null(take(most_of(i)));
        shelf.pages = 32;
        cr_assert_not_null(take(most_of(i)));
        cr_assert_eq(class_stats(i).slabs, 2U);
        cr_assert(whole());
        free_all(&random);
        expect_all_back();
    }
}

/* One object of every class and named cache; how many could not be had. */
static size_t take_one_of_each(void)
{
    size_t failed = 0;

    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        failed += is_served(i) && take(most_of(i)) == NULL;
        cr_assert(i % 4 != 0 || whole());
    }
    for (unsigned i = 0; i < COUNT(named); i++) {
        failed += take_named(i) == NULL;
        cr_assert(whole());
    }
    return failed;
}

/* Objects of all kinds come, go and come again; how many could not be had. */
static size_t work(void)
{
    uint64_t random = TEST_SEED;
    size_t failed = take_one_of_each();

    while (model.count > 5) {
        random_free(&random);
    }
    (void)tier_slab_trim(&slab);
    cr_assert(whole());
    failed += take_one_of_each();
    return failed;
}

/* Fail so many calls of acquire in a row, from each one on in turn. */
static void expect_survival(size_t failures)
{
    size_t fail_at = 0;
    bool hit = true;

    for (; hit; fail_at++) {
        uint64_t random = TEST_SEED;

        set_up(MANY_PAGES);
        set_up_named();
        shelf.fail_at = fail_at + 1;
        shelf.fail_for = failures - 1;
        const size_t failed = work();

        hit = shelf.acquires > fail_at;
        cr_assert(failed <= failures && (hit || failed == 0));
        cr_assert_eq(slab_stats().failed_allocs, failed);
        expect_stats_of_model();
        model_verify(&model);
        free_all(&random);
        expect_all_back();
    }
    cr_assert(fail_at > TIER_SLAB_CLASSES / 2);
}

Test(slab, survives_failure_of_each_page_request_in_turn)
{
    expect_survival(1);
}

Test(slab, survives_failure_of_some_page_requests_in_a_row)
{
    expect_survival(12);
}

Test(slab, a_failed_growth_leaves_nothing_behind)
{
    size_t failures = 0;

    for (size_t fail_at = 1; fail_at <= 3; fail_at++) {
        set_up(FEW_PAGES);
        shelf.fail_at = fail_at;
        shelf.fail_for = TIER_SLAB_PAGES_MAX;
        if (tier_slab_alloc(&slab, TIER_SLAB_BYTES_MAX) == NULL) {
            failures++;
            cr_assert_eq(shelf.outstanding, 0U);
            cr_assert_eq(slab_stats().failed_allocs, 1U);
            cr_assert(whole());
        }
        shelf.fail_at = 0;
        cr_assert_not_null(tier_slab_alloc(&slab, TIER_SLAB_BYTES_MAX));
        cr_assert(whole());
    }
    cr_assert(failures >= 2);
}

/* --- Which slab is used --------------------------------------------------- */

Test(slab, keeps_one_empty_slab_per_class)
{
    set_up(MANY_PAGES);
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        if (!is_served(i)) {
            continue;
        }
        void *object = tier_slab_alloc(&slab, most_of(i));
        const size_t acquires = shelf.acquires;
        const size_t releases = shelf.releases;

        for (unsigned n = 0; n < 10; n++) {
            cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
            cr_assert(whole());
            object = tier_slab_alloc(&slab, most_of(i));
            cr_assert_not_null(object);
        }
        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
        cr_assert_eq(shelf.acquires, acquires);
        cr_assert_eq(shelf.releases, releases);
    }
    expect_all_back();
}

/* The served class whose slabs have the most objects, but not too many. */
static unsigned busy_class(void)
{
    return class_for(256);
}

/* Objects in its slabs. */
static size_t per_slab(void)
{
    return class_stats(busy_class()).slab_objects;
}

/* The i-th slab's worth of objects in `held`. */
static unsigned char **slab_in(size_t i)
{
    return held + i * per_slab();
}

/* Fill so many slabs of it; their objects lie in `held`, slab by slab. */
static void fill_slabs(size_t slabs)
{
    set_up(MANY_PAGES);
    take_many(256, slabs * per_slab(), held);
    cr_assert_eq(class_stats(busy_class()).slabs, slabs);
    for (size_t i = 0; i < slabs; i++) {
        cr_assert(page_of(*slab_in(i)) != page_of(*slab_in((i + 1) % slabs)) ||
                  slabs == 1);
    }
    cr_assert(whole());
}

/* Take an object of it; the number of the slab that it is in. */
static size_t slab_of_next(size_t slabs)
{
    unsigned char *const object = tier_slab_alloc(&slab, 256);

    for (size_t i = 0; i < slabs * per_slab(); i++) {
        if (held[i] == object) {
            return i / per_slab();
        }
    }
    return slabs;
}

Test(slab, gives_a_second_empty_slab_back_at_once)
{
    uint64_t random = TEST_SEED;

    fill_slabs(3);
    drain(3 * per_slab(), &random);
    cr_assert_eq(class_stats(busy_class()).slabs, 1U);
    cr_assert_eq(shelf.releases, 2U);
    expect_all_back();
}

/* Of the slab in use and another, whichever empties first or last, one stays.*/
Test(slab, gives_an_empty_slab_back_whether_in_use_or_not)
{
    for (unsigned first = 0; first < 2; first++) {
        fill_slabs(1);
        held[per_slab()] = tier_slab_alloc(&slab, 256);
        if (first == 0) {
            free_many(held + per_slab(), 1);
            cr_assert_eq(shelf.releases, 0U);
            free_many(held, per_slab());
        } else {
            free_many(held, per_slab());
            cr_assert_eq(shelf.releases, 0U);
            free_many(held + per_slab(), 1);
        }
        cr_assert(whole());
        cr_assert_eq(class_stats(busy_class()).slabs, 1U);
        cr_assert_eq(shelf.releases, 1U);
        expect_all_back();
    }
}

Test(slab, takes_from_one_slab_until_it_is_full)
{
    fill_slabs(2);
    free_many(slab_in(0), per_slab() - 1);
    cr_assert_eq(slab_of_next(2), 0U);
    free_many(slab_in(1), 1); /* fuller, but another is in use */
    for (size_t n = 2; n < per_slab(); n++) {
        cr_assert_eq(slab_of_next(2), 0U);
    }
    cr_assert_eq(slab_of_next(2), 1U);
    cr_assert_eq(slab_of_next(2), 2U);
    cr_assert(whole());
}

Test(slab, hands_out_the_lowest_free_object_of_a_slab)
{
    fill_slabs(1);
    for (size_t n = per_slab(); n > 0; n--) {
        free_many(held + n - 1, 1);
    }
    for (size_t n = 0; n < per_slab(); n++) {
        cr_assert_eq(tier_slab_alloc(&slab, 256), (void *)held[n]);
    }
    for (size_t n = per_slab(); n > 0; n -= n > 1 ? 2 : 1) {
        free_many(held + n - 1, 1);
        cr_assert_eq(tier_slab_alloc(&slab, 256), (void *)held[n - 1]);
    }
}

Test(slab, uses_a_partial_slab_before_the_empty_one)
{
    fill_slabs(2);
    free_many(slab_in(1), per_slab());
    free_many(slab_in(0), 1);
    cr_assert_eq(slab_of_next(2), 0U);
    cr_assert_eq(slab_of_next(2), 1U);
    cr_assert(whole());
}

/* More than half full is fuller than less, whichever was freed to last. */
Test(slab, uses_the_fullest_slab_first)
{
    for (unsigned order = 0; order < 2; order++) {
        fill_slabs(3);
        if (order == 0) {
            free_many(slab_in(1), 1);
        }
        free_many(slab_in(0), per_slab() - 1);
        free_many(slab_in(2), per_slab() - 2);
        if (order != 0) {
            free_many(slab_in(1), 1);
        }
        cr_assert(whole());
        cr_assert_eq(slab_of_next(3), 1U);
        cr_assert(slab_of_next(3) != 1U);
        cr_assert(whole());
    }
}

/* Emptiest first, or at random, would leave objects in each of the slabs. */
Test(slab, gathers_objects_in_few_slabs)
{
    const size_t few = 3;
    size_t taken_again = 0;

    fill_slabs(4);
    for (size_t i = 0; i < 4; i++) {
        free_many(slab_in(i), i % 2 == 0 ? few : per_slab() - 1);
    }
    for (; taken_again < 2 * few; taken_again++) {
        cr_assert_eq(slab_of_next(4) % 2, 0U);
    }
    free_many(slab_in(1) + per_slab() - 1, 1);
    free_many(slab_in(3) + per_slab() - 1, 1);
    cr_assert_eq(class_stats(busy_class()).slabs, 3U); /* one kept empty */
    cr_assert(whole());
}

/* A slab moves between the lists as it empties: checked at every step. */
Test(slab, lists_a_slab_by_how_full_it_is_at_every_step)
{
    fill_slabs(3);
    for (size_t n = 0; n < per_slab(); n++) {
        for (size_t i = 0; i < 3; i++) {
            free_many(slab_in(i) + n, 1);
            cr_assert(whole(), "object %lu of slab %lu", (unsigned long)n,
                      (unsigned long)i);
        }
    }
    expect_all_back();
}

/* --- Named caches --------------------------------------------------------- */

/* Try to make a cache that cannot be. */
static void expect_impossible(struct tier_cache *cache, size_t bytes,
                              size_t alignment, unsigned flags,
                              enum tier_status status)
{
    cr_assert_eq(
        tier_cache_init(cache, &slab, "x", bytes, alignment, flags, NULL),
        status);
}

Test(slab, refuses_impossible_caches_and_changes_nothing)
{
    static struct tier_cache cache;
    const size_t most = TIER_SLAB_BYTES_MAX;

    set_up(32);
    memset(&cache, 0xA5, sizeof(cache));
    const uint64_t before = snapshot();

    expect_impossible(&cache, 0, 8, 0, TIER_ERR_INVALID);
    expect_impossible(&cache, 8, 0, 0, TIER_ERR_INVALID);
    expect_impossible(&cache, 8, 24, 0, TIER_ERR_INVALID);
    expect_impossible(&cache, 8, SIZE_MAX, 0, TIER_ERR_INVALID);
    expect_impossible(&cache, SIZE_MAX, 3, 0, TIER_ERR_INVALID);
    expect_impossible(&cache, 8, 8, 2, TIER_ERR_INVALID);
    expect_impossible(&cache, 8, 8, ~0U, TIER_ERR_INVALID);
    expect_impossible(&cache, most + 1, 1, 0, TIER_ERR_TOO_LARGE);
    expect_impossible(&cache, SIZE_MAX, 1, 0, TIER_ERR_TOO_LARGE);
    expect_impossible(&cache, SIZE_MAX - 7, 8, 0, TIER_ERR_TOO_LARGE);
    expect_impossible(&cache, 8, TIER_PAGE_SIZE * 2, 0, TIER_ERR_TOO_LARGE);
    expect_impossible(&cache, 8, SIZE_MAX / 2 + 1, 0, TIER_ERR_TOO_LARGE);
    if (TIER_PAGE_SIZE > TIERALLOC_OBJECT_MAX) {
        expect_impossible(&cache, 8, TIER_PAGE_SIZE, 0, TIER_ERR_TOO_LARGE);
    }
    cr_assert(test_all(&cache, 0xA5, sizeof(cache)));
    cr_assert_eq(snapshot(), before);
    cr_assert_eq(tier_cache_init(&cache, &slab, "x", most, 1, 0, NULL),
                 TIER_OK);
    cr_assert_not_null(tier_cache_alloc(&cache));
}

/* Fill two slabs of a cache and look at each object. */
static void expect_aligned(struct tier_cache *cache, size_t bytes,
                           size_t alignment)
{
    const struct tier_cache_stats stats = cache_stats(cache);
    const size_t most =
        alignment > TIERALLOC_MIN_ALIGN ? alignment : TIERALLOC_MIN_ALIGN;

    cr_assert(stats.object_bytes >= bytes + TIER_GUARD_BYTES);
    cr_assert_eq(stats.object_bytes % alignment, 0U);
    cr_assert(stats.object_bytes < bytes + TIER_GUARD_BYTES + most);
    for (size_t n = 0; n < stats.slab_objects * 2; n++) {
        unsigned char *const object = tier_cache_alloc(cache);

        cr_assert_eq((uintptr_t)object % alignment, 0U);
        cr_assert_eq(tier_slab_usable_size(&slab, object),
                     TIERALLOC_CHECKS == 2 ? bytes : stats.object_bytes);
        held[n] = object;
    }
    for (size_t n = 1; n < stats.slab_objects * 2; n++) {
        cr_assert(n == stats.slab_objects ||
                  held[n] == held[n - 1] + stats.object_bytes);
    }
    cr_assert_eq(cache_stats(cache).slabs, 2U);
    cr_assert_eq(cache_stats(cache).live, stats.slab_objects * 2);
    free_many(held, stats.slab_objects * 2);
}

Test(slab, a_cache_aligns_its_objects)
{
    static struct tier_cache cache;

    for (size_t alignment = 1;
         alignment <= TIER_PAGE_SIZE && alignment <= TIERALLOC_OBJECT_MAX;
         alignment *= 2) {
        for (size_t bytes = 1; bytes <= TIERALLOC_OBJECT_MAX; bytes *= 3) {
            set_up(FEW_PAGES);
            enum tier_status status = tier_cache_init(
                &cache, &slab, "aligned", bytes, alignment, 0, NULL);

            if (status == TIER_OK) {
                expect_aligned(&cache, bytes, alignment);
                cr_assert_eq(tier_cache_destroy(&cache), TIER_OK);
            } else {
                cr_assert_eq(status, TIER_ERR_TOO_LARGE);
                cr_assert(bytes + alignment > TIER_SLAB_BYTES_MAX);
            }
            expect_all_back();
        }
    }
}

Test(slab, a_cache_serves_each_of_its_sizes_without_a_gap)
{
    static struct tier_cache cache;

    for (size_t bytes = 1; bytes <= TIER_SLAB_BYTES_MAX;
         bytes += 37 + bytes / 64) {
        set_up(FEW_PAGES);
        cr_assert_eq(tier_cache_init(&cache, &slab, "size", bytes, 1, 0, NULL),
                     TIER_OK);
        expect_aligned(&cache, bytes, TIERALLOC_MIN_ALIGN);
    }
}

Test(slab, frees_objects_of_a_cache_by_every_call)
{
    set_up(FEW_PAGES);
    set_up_named();
    for (unsigned i = 0; i < COUNT(named); i++) {
        const size_t bytes = named[i].base.object_bytes - TIER_GUARD_BYTES;

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
    const size_t bytes = named[0].base.object_bytes;

    cr_assert_eq(
        tier_slab_free_sized(&slab, line, bytes - TIER_GUARD_BYTES + 1),
        TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_slab_free_sized(&slab, line, SIZE_MAX),
                 TIER_ERR_WRONG_SIZE);
    cr_assert_eq(tier_cache_free(&named[0], line + 8), TIER_ERR_INTERIOR);
    cr_assert_eq(tier_cache_free(&named[0], line + bytes),
                 TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(slab_stats().refused_frees, 7U);
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
    set_up(FEW_PAGES);
    set_up_named();
    void *const object = tier_cache_alloc(&named[0]);
    const struct tier_cache_stats stats = cache_stats(&named[0]);

    cr_assert(strcmp(stats.name, "line") == 0);
    cr_assert_eq(stats.object_bytes, 64U);
    cr_assert_eq(stats.slabs, 1U);
    cr_assert_eq(stats.live, 1U);
    cr_assert_eq(stats.slab_objects, named[0].base.slab_objects);
    cr_assert_eq(slab_stats().live_bytes, stats.object_bytes);
    cr_assert_eq(slab_stats().live_objects, 1U);
    cr_assert_eq(slab_stats().slabs, 1U);
    cr_assert_eq(slab_stats().pages, stats.slab_pages + 1);
    cr_assert_eq(slab.grown, 1U);
    cr_assert_eq(tier_cache_free(&named[0], object), TIER_OK);
    cr_assert_eq(tier_slab_trim(&slab), stats.slab_pages + 1);
    cr_assert_eq(cache_stats(&named[0]).slabs, 0U);
    cr_assert_eq(cache_stats(&named[0]).live, 0U);
}

Test(slab, a_cache_that_keeps_none_gives_each_empty_slab_back)
{
    static struct tier_cache cache;

    set_up(FEW_PAGES);
    cr_assert_eq(tier_cache_init(&cache, &slab, "none", 48, 8,
                                 TIER_CACHE_KEEP_NONE, NULL),
                 TIER_OK);
    const size_t objects = cache_stats(&cache).slab_objects;

    for (size_t n = 1; n <= objects * 3; n += objects / 2) {
        for (size_t i = 0; i < n; i++) {
            held[i] = tier_cache_alloc(&cache);
        }
        free_many(held, n);
        cr_assert_eq(cache_stats(&cache).slabs, 0U);
        cr_assert_eq(shelf.outstanding, 0U);
        cr_assert(whole());
    }
}

Test(slab, a_cache_that_keeps_an_empty_slab_gives_it_back_when_trimmed)
{
    set_up(FEW_PAGES);
    set_up_named();
    for (unsigned keeps = 0; keeps < 2; keeps++) {
        void *const object = tier_cache_alloc(&named[1 - keeps]);

        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
        cr_assert_eq(cache_stats(&named[1 - keeps]).slabs, keeps);
        expect_all_back();
    }
}

/* --- Constructors --------------------------------------------------------- */

#define BUILT_FILL 0xB7

static struct tier_cache built;
static size_t constructions;
static size_t built_bytes;

/* How often an object was constructed. */
static unsigned char *constructions_of(const void *object)
{
    return &construction[(size_t)((const unsigned char *)object - arena) /
                         MODEL_GRAIN];
}

static void construct(void *object)
{
    ++*constructions_of(object);
    constructions++;
    memset(object, BUILT_FILL, built_bytes);
}

/* A cache with a constructor, over so many pages. */
static void set_up_built(size_t pages, size_t bytes)
{
    set_up(pages);
    memset(construction, 0, sizeof(construction));
    constructions = 0;
    built_bytes = bytes;
    cr_assert_eq(
        tier_cache_init(&built, &slab, "built", bytes, 8, 0, construct),
        TIER_OK);
}

/* Take an object, which is as its constructor left it. */
static unsigned char *take_built(void)
{
    unsigned char *const object = tier_cache_alloc(&built);

    if (object != NULL) {
        cr_assert_eq(*constructions_of(object), 1U);
        cr_assert(test_all(object, BUILT_FILL, built_bytes));
    }
    return object;
}

Test(slab, constructs_each_object_once_in_its_life)
{
    for (size_t bytes = 1; bytes <= TIER_SLAB_BYTES_MAX; bytes *= 3) {
        size_t count = 0;

        set_up_built(64, bytes);
        while ((held[count] = take_built()) != NULL) {
            count++;
        }
        cr_assert(count > 0 && constructions == count);
        for (unsigned round = 0; round < 3; round++) {
            free_many(held, count / 2);
            for (size_t n = 0; n < count / 2; n++) {
                held[n] = take_built();
                cr_assert_not_null(held[n]);
            }
        }
        cr_assert(whole());
        free_many(held, count);
        expect_all_back();
    }
}

Test(slab, constructs_again_what_was_given_back)
{
    set_up_built(64, 100);
    void *const object = take_built();

    cr_assert_eq(tier_cache_free(&built, object), TIER_OK);
    cr_assert(tier_slab_trim(&slab) > 0);
    cr_assert_eq(*constructions_of(object), 0U);
    cr_assert_eq(take_built(), object);
}

/* What is freed is handed out as it was, but for what a constructor made. */
Test(slab, leaves_constructed_objects_as_they_were_freed)
{
    set_up_built(64, 100);
    unsigned char *const object = take_built();

    memset(object, 0x11, built_bytes);
    cr_assert_eq(tier_cache_free(&built, object), TIER_OK);
    cr_assert(test_all(object, 0x11, built_bytes));
    cr_assert_eq(tier_cache_alloc(&built), (void *)object);
    cr_assert(test_all(object, 0x11, built_bytes));
}

/* Objects of the cache that begin in the page of `object`, or before it. */
static size_t begun_by(const unsigned char *first, const unsigned char *object)
{
    const size_t bytes = built.base.object_bytes;
    const unsigned char *const end = arena + ARENA_BYTES;
    size_t count = 0;

    for (; first < end && page_of(first) <= page_of(object); first += bytes) {
        count++;
    }
    return count;
}

Test(slab, constructs_nothing_in_a_page_before_an_object_in_it_is_used)
{
    for (size_t bytes = 8; bytes <= TIER_SLAB_BYTES_MAX; bytes *= 2) {
        set_up_built(FEW_PAGES,
                     bytes + 8 <= TIER_SLAB_BYTES_MAX ? bytes + 8 : bytes);
        cr_assert_eq(shelf.acquires, 0U);
        unsigned char *const first = take_built();
        unsigned char *object = first;
        const struct tier_cache_stats stats = cache_stats(&built);
        unsigned char *const end =
            first + stats.slab_objects * stats.object_bytes;

        for (size_t n = 1; n < stats.slab_objects; n++) {
            const size_t made = begun_by(first, object);
            unsigned char *const next = first + made * stats.object_bytes;

            cr_assert_eq(constructions,
                         made < stats.slab_objects ? made : stats.slab_objects);
            if (n % 8 == 1 && next < end) {
                cr_assert(test_all(next, SHELF_FILL, (size_t)(end - next)));
            }
            object = take_built();
        }
    }
}

/* --- Corruption ----------------------------------------------------------- */

/*
 * Two caches of one shape, the first with a full, a partial and an empty slab,
 * and one in use; and their descriptors.
 */
static struct {
    struct tier_cache one;
    struct tier_cache two;
    struct tier_slab_desc_ *full;
    struct tier_slab_desc_ *partial;
    struct tier_slab_desc_ *empty;
    struct tier_slab_desc_ *current;
} victim;

static struct tier_slab_desc_ *desc_of(const void *object)
{
    return map.entry[page_of(object)].slab;
}

/* Fill a slab of the first cache; its objects lie in `held`. */
static struct tier_slab_desc_ *fill_victim(void)
{
    for (size_t n = 0; n < victim.one.base.slab_objects; n++) {
        held[n] = tier_cache_alloc(&victim.one);
    }
    return desc_of(held[0]);
}

static void set_up_victim(void)
{
    set_up(FEW_PAGES);
    cr_assert_eq(tier_cache_init(&victim.one, &slab, "one", 48, 8, 0, NULL),
                 TIER_OK);
    cr_assert_eq(tier_cache_init(&victim.two, &slab, "two", 48, 8, 0, NULL),
                 TIER_OK);
    cr_assert_not_null(tier_cache_alloc(&victim.two));
    victim.full = fill_victim();
    victim.partial = fill_victim();
    unsigned char *const last = held[victim.one.base.slab_objects - 1];

    victim.empty = fill_victim();
    victim.current = desc_of(tier_cache_alloc(&victim.one));
    free_many(held, victim.one.base.slab_objects);
    cr_assert_eq(tier_cache_free(&victim.one, last), TIER_OK);
    cr_assert_not_null(tier_slab_alloc(&slab, 8));
    cr_assert(victim.full->free == 0 && victim.partial->free == 1);
    cr_assert_eq(victim.one.base.empty, victim.empty);
    cr_assert_eq(victim.one.base.current, victim.current);
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
        victim.current,
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
    for (unsigned value = 0; value <= UINT8_MAX; value++) {
        const uint8_t pages = (uint8_t)value;

        expect_detected(&desc->pages, &pages, sizeof(pages));
    }
    for (unsigned value = 0; value < 2048; value++) {
        const uint16_t near = (uint16_t)(desc->objects + value - 1024);
        const uint16_t objects = value < 1280 ? near : (uint16_t)(value * 47);

        expect_detected(&desc->objects, &objects, sizeof(objects));
        if (objects > desc->objects) {
            expect_detected(&desc->carved, &objects, sizeof(objects));
        }
    }
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
    expect_desc_guarded(victim.current);
    expect_desc_guarded(desc_of(victim.partial));
    expect_pointer_detected(&victim.partial->next);
    expect_pointer_detected(&victim.partial->prev);
    for (unsigned word = 0; word <= UINT8_MAX; word++) {
        const uint8_t value = (uint8_t)word;

        if (word * TIER_WORD_BITS_ >= victim.partial->objects) {
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
    expect_pointer_detected(&victim.current->base);
    for (size_t offset = 1; offset < TIER_PAGE_SIZE; offset++) {
        unsigned char *const moved = victim.full->base + offset;

        expect_detected(&victim.full->base, &moved, sizeof(moved));
    }
}

Test(slab, check_detects_a_slab_in_another_cache_of_its_shape)
{
    struct tier_cache_base *const other = &victim.two.base;

    set_up_victim();
    expect_detected(&victim.partial->cache, &other, sizeof(other));
    expect_detected(&victim.empty->cache, &other, sizeof(other));
    expect_detected(&victim.full->cache, &other, sizeof(other));
    expect_detected(&victim.current->cache, &other, sizeof(other));
}

Test(slab, check_detects_damage_to_a_cache)
{
    const size_t zero = 0;
    const size_t most = SIZE_MAX;
    const uint32_t none = 0;
    const uint32_t all = UINT32_MAX;

    set_up_victim();
    for (unsigned fill = 0; fill < TIER_SLAB_FILLS; fill++) {
        expect_pointer_detected(&victim.one.base.partial[fill]);
        expect_pointer_detected(&victim.two.base.partial[fill]);
    }
    expect_pointer_detected(&victim.one.base.empty);
    expect_pointer_detected(&victim.two.base.empty);
    expect_pointer_detected(&victim.one.base.current);
    expect_pointer_detected(&victim.two.base.current);
    expect_pointer_detected(&slab.meta[0].current);
    expect_detected(&victim.one.base.live, &zero, sizeof(zero));
    expect_detected(&victim.one.base.live, &most, sizeof(most));
    expect_detected(&victim.one.base.slabs, &none, sizeof(none));
    expect_detected(&victim.one.base.slabs, &all, sizeof(all));
    expect_detected(&slab.meta[0].slabs, &all, sizeof(all));
    expect_detected(&slab.meta[0].live, &zero, sizeof(zero));
    expect_detected(&slab.classes[3].live, &most, sizeof(most));
    expect_detected(&slab.pages, &zero, sizeof(zero));
}

Test(slab, check_detects_a_slab_on_the_wrong_list)
{
    struct tier_cache_base *const base = &victim.one.base;

    set_up_victim();
    for (unsigned way = 0; way < 2; way++) {
        struct tier_slab_desc_ *const first = base->partial[0];

        base->partial[0] = base->partial[1];
        base->partial[1] = first;
        cr_assert_eq(tier_slab_check(&slab), way == 1);
    }
}

Test(slab, check_detects_that_a_full_slab_is_taken_from)
{
    set_up_victim();
    for (size_t n = victim.current->free; n > 0; n--) {
        cr_assert_not_null(tier_cache_alloc(&victim.one));
    }
    cr_assert_null(victim.one.base.current);
    cr_assert(whole());
    expect_detected(&victim.one.base.current, &victim.full,
                    sizeof(victim.full));
    expect_detected(&victim.one.base.current, &victim.current,
                    sizeof(victim.current));
}

Test(slab, check_counts_each_cache_by_itself)
{
    set_up_victim();
    victim.one.base.live--;
    victim.two.base.live++;
    cr_assert(!tier_slab_check(&slab), "live objects of one cache for another");
    victim.one.base.live++;
    victim.two.base.live--;
    victim.one.base.slabs--;
    victim.two.base.slabs++;
    cr_assert(!tier_slab_check(&slab), "slabs of one cache for another");
}

/* Of every page of every slab. */
Test(slab, check_detects_any_other_kind_or_entry_of_a_slab)
{
    set_up_victim();
    for (size_t i = 0; i < shelf.pages; i++) {
        const size_t page = page_of(arena + i * TIER_PAGE_SIZE);

        if (!shelf.held[i]) {
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
    const size_t two = ARENA_PAGES - 2;
    unsigned char *const end = arena + ARENA_BYTES;
    unsigned char *object = NULL;

    for (unsigned way = 0; way < 2 && object == NULL; way++) {
        set_up(ARENA_PAGES);
        shelf.highest = way == 1;
        memset(shelf.held, 1, two); /* a slab and its descriptors come last */
        object = tier_slab_alloc(&slab, 64);
        object = kind_of(end - 1) == TIER_KIND_META ? object : NULL;
    }
    cr_assert_not_null(object);
    for (size_t words = 1; words <= 8; words++) {
        void *const place = end - words * sizeof(tier_word_);

        expect_detected(&map.entry[page_of(object)].slab, &place,
                        sizeof(place));
    }
}

/* --- Overhead ------------------------------------------------------------- */

#if TIERALLOC_PAGE_SHIFT == 12 && TIERALLOC_MAX_ORDER >= 4 && \
    TIERALLOC_OBJECT_MAX >= 4096 && TIERALLOC_CHECKS < 2

/* Hundredths of a byte per object, map and descriptors included, at most. */
static void expect_overhead(size_t bytes, size_t most)
{
    size_t objects = 0;

    set_up(MIB / TIER_PAGE_SIZE);
    while (tier_slab_alloc(&slab, bytes) != NULL) {
        objects++;
    }
    const size_t lent = slab_stats().pages;
    const size_t cost = lent * (TIER_PAGE_SIZE + TIER_PAGEMAP_BYTES(1));
    const size_t used = slab_stats().live_bytes;

    cr_assert(lent + TIER_SLAB_PAGES_MAX >= MIB / TIER_PAGE_SIZE);
    cr_assert((cost - used) * 100 <= objects * most,
              "%lu objects of %lu bytes take %lu", (unsigned long)objects,
              (unsigned long)bytes, (unsigned long)cost);
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
    cr_assert_eq(tier_cache_init(&one, &slab, "one", 64, 8, 0, NULL), TIER_OK);
    cr_assert_eq(tier_cache_init(&two, &slab, "two", 64, 8, 0, NULL), TIER_OK);
    cr_assert_eq(tier_cache_init(&one, &slab, "one", 64, 8, 0, NULL),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_cache_destroy(&one), TIER_OK);
    cr_assert_eq(tier_cache_destroy(&one), TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_destroy(&two), TIER_OK);
    cr_assert_eq(tier_cache_destroy(&two), TIER_ERR_INVALID);
    cr_assert_eq(tier_cache_init(&one, &slab, "one", 64, 8, 0, NULL), TIER_OK);
    (void)tier_slab_trim(&slab);
    cr_assert(tier_slab_check(&slab));
}
