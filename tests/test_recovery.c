/*
 * tests/test_recovery.c - what is done before a request fails, and what is not.
 *
 * SPDX-License-Identifier: MIT
 *
 * Holds for each option of config.h that the command line sets, from pages of
 * 4 KiB and blocks of 16 pages on. By itself it is for three CPUs, played by one
 * thread, and for blocks of at most 32 pages, so that a small arena has several
 * of the largest.
 */
#define TIERALLOC_IMPLEMENTATION
#ifndef TIERALLOC_CPUS
#define TIERALLOC_CPUS 3
#endif
#ifndef TIERALLOC_MAX_ORDER
#define TIERALLOC_MAX_ORDER 5
#endif

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The machine: which CPU runs, and its locks. */
static struct {
    unsigned cpu;
    size_t held;  /* locks, now */
    size_t taken; /* locks, ever */
} machine;

struct test_lock {
    unsigned state;
};

#define LOCK_FREE 0xF3EEU
#define LOCK_HELD 0x4E1DU

static inline void test_lock_take(struct test_lock *lock)
{
    cr_assert_eq(lock->state, LOCK_FREE, "taken while held");
    lock->state = LOCK_HELD;
    machine.held++;
    machine.taken++;
}

static inline void test_lock_release(struct test_lock *lock)
{
    cr_assert_eq(lock->state, LOCK_HELD, "released while not held");
    lock->state = LOCK_FREE;
    machine.held--;
}

#define TIERALLOC_LOCKING         1
#define TIERALLOC_LOCK_TYPE       struct test_lock
#define TIERALLOC_LOCK_INIT(lock) ((lock)->state = LOCK_FREE)
#define TIERALLOC_LOCK(lock)      test_lock_take(lock)
#define TIERALLOC_UNLOCK(lock)    test_lock_release(lock)
#define TIERALLOC_CPU()           (machine.cpu)

#include "support.h"

#include <tieralloc/mempool.h>
#include <tieralloc/tieralloc.h>

/* --- The rig -------------------------------------------------------------- */

_Static_assert(TIERALLOC_PAGE_SHIFT >= 12 && TIERALLOC_MAX_ORDER >= 4,
               "sizes are chosen for that");

#define ARENA_PAGES  ((size_t)256)
#define ARENA_BYTES  (ARENA_PAGES * TIER_PAGE_SIZE)
#define CPUS         (TIERALLOC_CPUS > 0 ? TIERALLOC_CPUS : 1)
#define OBJECT_BYTES ((size_t)TIER_SLAB_BYTES_MAX)

/* Pages of the longest run, or of the arena. */
#define RUN_PAGES (TIER_RUN_MAX < ARENA_PAGES ? TIER_RUN_MAX : ARENA_PAGES)

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8 + 1];
static struct tier_allocator heap;
static struct tier_page_source source;
static uint64_t random_state;

static uint32_t below(size_t bound)
{
    return test_below(&random_state, (uint32_t)bound);
}

/* Make the allocator one over so many pages. */
static void set_up(size_t pages)
{
    random_state = TEST_SEED;
    memset(&machine, 0, sizeof(machine));
    memset(&heap, 0xA5, sizeof(heap));
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, map_memory,
                           sizeof(map_memory)),
                 TIER_OK);
    cr_assert_eq(tier_add_region(&heap, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
    tier_source(&heap, &source);
}

static struct tier_stats stats(void)
{
    struct tier_stats now;

    tier_stats(&heap, &now);
    return now;
}

static unsigned char *page(size_t index)
{
    return arena + index * TIER_PAGE_SIZE;
}

static size_t page_of(const void *memory)
{
    return (size_t)((const unsigned char *)memory - arena) / TIER_PAGE_SIZE;
}

static void expect_freed(void *memory)
{
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
}

/* Try a request with flags; NULL when it fails. */
static void *request(size_t bytes, unsigned flags)
{
    void *memory;
    const enum tier_status status =
        tier_try_alloc(&heap, bytes, flags, &memory);

    cr_assert_eq(status, memory == NULL ? TIER_ERR_NO_MEMORY : TIER_OK);
    cr_assert_eq(machine.held, 0U);
    return memory;
}

static void *request_block(unsigned order, unsigned flags)
{
    void *memory;
    const enum tier_status status =
        tier_try_alloc_pages(&heap, order, flags, &memory);

    cr_assert_eq(status, memory == NULL ? TIER_ERR_NO_MEMORY : TIER_OK);
    return memory;
}

static void *request_run(size_t pages)
{
    return source.acquire(source.context, pages);
}

/* Take every page, as a block or a run, as a number says. */
static void take_every_page(unsigned mix)
{
    for (size_t i = 0; i < ARENA_PAGES; i++) {
        const bool run = (mix == 2 ? below(2) : mix) != 0;

        cr_assert_not_null(run ? request_run(1) : request_block(0, 0));
    }
    cr_assert_eq(stats().free_pages, 0U);
}

/* --- Which pages are free ------------------------------------------------- */

static bool is_free[ARENA_PAGES];

/* Pages of the free block or run that begins at a page; 0: none does. */
static size_t free_pages_at(size_t index)
{
    const unsigned kind = heap.map.kind[index];

    if ((kind & TIER_KIND_MASK) == TIER_KIND_FREE) {
        return (size_t)1 << (kind & TIER_ORDER_MASK);
    }
    if (kind == TIER_KIND_FREE_HEAD) {
        return heap.map.entry[index + 1].length;
    }
    return kind == TIER_KIND_FREE_PAGE ? 1 : 0;
}

/* Read the map: its own words, whoever wrote them. */
static void find_free_pages(void)
{
    size_t count = 0;

    memset(is_free, 0, sizeof(is_free));
    for (size_t i = 0; i < ARENA_PAGES; i++) {
        for (size_t j = 0; j < free_pages_at(i); j++) {
            cr_assert(i + j < ARENA_PAGES && !is_free[i + j]);
            is_free[i + j] = true;
            count++;
        }
    }
    cr_assert_eq(count, stats().free_pages);
}

/* The most contiguous free pages. */
static size_t longest_free(void)
{
    size_t longest = 0;
    size_t length = 0;

    for (size_t i = 0; i < ARENA_PAGES; i++) {
        length = is_free[i] ? length + 1 : 0;
        longest = length > longest ? length : longest;
    }
    return longest;
}

/* The largest order of which an aligned block is free; -1 when none is. */
static int largest_free(void)
{
    int largest = -1;

    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        const size_t pages = (size_t)1 << order;
        const size_t skew = (uintptr_t)arena / TIER_PAGE_SIZE % pages;

        for (size_t i = (pages - skew) % pages; i + pages <= ARENA_PAGES;
             i += pages) {
            if (test_all(is_free + i, true, pages)) {
                largest = (int)order;
            }
        }
    }
    return largest;
}

/* --- Shrinkers ------------------------------------------------------------ */

/* A cache that is a shrinker: entries of some bytes, freed from the last on. */
#define ENTRIES 600

struct cache {
    struct tier_shrinker shrinker;
    void *entry[ENTRIES];
    size_t bytes[ENTRIES];
    size_t entries;
    size_t total;  /* bytes of all entries */
    size_t counts; /* calls of count */
    size_t scans;  /* calls of scan */
    size_t asked;  /* bytes that the last scan was asked for */
    bool random;   /* give up any entry, not the last */
    bool inside;   /* one of its functions runs */
    bool meddles;  /* they allocate and free */
};

static struct cache cheap;
static struct cache dear;
static const struct cache *last_scanned;

/* Callbacks run outside of all locks, one at a time. */
static void enter(struct cache *cache)
{
    cr_assert_eq(machine.held, 0U, "called under a lock");
    cr_assert(!cheap.inside && !dear.inside, "re-entered");
    cache->inside = true;
}

/* Allocate and free, in vain or not; nothing must come of it. */
static void meddle(const struct cache *cache)
{
    if (cache->meddles) {
        expect_freed(tier_alloc(&heap, 1 + below(500)));
        expect_freed(tier_alloc(&heap, OBJECT_BYTES + 1));
        expect_freed(tier_alloc_pages(&heap, below(3)));
        cr_assert_eq(tier_remove_shrinker(&heap, &cheap.shrinker),
                     TIER_ERR_IN_USE);
    }
}

static size_t cache_count(void *context)
{
    struct cache *const cache = context;

    enter(cache);
    cache->counts++;
    meddle(cache);
    cache->inside = false;
    return cache->total;
}

/* Free an entry; returns its bytes. */
static size_t cache_evict(struct cache *cache)
{
    const size_t index =
        cache->random ? below(cache->entries) : cache->entries - 1;
    const size_t bytes = cache->bytes[index];

    expect_freed(cache->entry[index]);
    cache->entries--;
    cache->entry[index] = cache->entry[cache->entries];
    cache->bytes[index] = cache->bytes[cache->entries];
    cache->total -= bytes;
    return bytes;
}

static size_t cache_scan(void *context, size_t bytes)
{
    struct cache *const cache = context;
    size_t freed = 0;

    enter(cache);
    cache->scans++;
    cache->asked = bytes;
    last_scanned = cache;
    while (freed < bytes && cache->entries > 0) {
        freed += cache_evict(cache);
        meddle(cache);
    }
    cache->inside = false;
    return freed;
}

static void cache_init(struct cache *cache, const char *name, unsigned cost)
{
    memset(cache, 0, sizeof(*cache));
    cache->shrinker.count = cache_count;
    cache->shrinker.scan = cache_scan;
    cache->shrinker.cost = cost;
    cache->shrinker.context = cache;
    cache->shrinker.name = name;
}

/* Give memory to a cache. */
static void cache_keep(struct cache *cache, void *memory)
{
    cr_assert_not_null(memory);
    cr_assert(cache->entries < ENTRIES);
    cache->entry[cache->entries] = memory;
    cache->bytes[cache->entries] = tier_usable_size(&heap, memory);
    cache->total += cache->bytes[cache->entries++];
}

/* A dear cache and then a cheap one, both registered, without entries. */
static void set_up_caches(void)
{
    cache_init(&dear, "dear", 9);
    cache_init(&cheap, "cheap", 1);
    last_scanned = NULL;
    cr_assert_eq(tier_add_shrinker(&heap, &dear.shrinker), TIER_OK);
    cr_assert_eq(tier_add_shrinker(&heap, &cheap.shrinker), TIER_OK);
}

/* Calls of shrinkers so far. */
static size_t calls(void)
{
    return cheap.counts + cheap.scans + dear.counts + dear.scans;
}

/* --- The out-of-memory handler -------------------------------------------- */

static struct {
    size_t calls;
    size_t bytes;  /* asked for */
    void *spare;   /* what it frees, or NULL */
    bool nests;    /* it makes requests of its own that fail */
    bool confirms; /* what it returns */
} oom;

static bool handle_oom(void *context, size_t bytes)
{
    cr_assert_eq(context, (void *)&oom);
    cr_assert_eq(machine.held, 0U, "called under a lock");
    oom.calls++;
    oom.bytes = bytes;
    if (oom.nests) {
        cr_assert_null(tier_alloc_pages(&heap, TIERALLOC_MAX_ORDER));
    }
    expect_freed(oom.spare);
    oom.spare = NULL;
    return oom.confirms;
}

static void set_up_handler(void *spare, bool confirms)
{
    memset(&oom, 0, sizeof(oom));
    oom.spare = spare;
    oom.confirms = confirms;
    tier_set_oom_handler(&heap, handle_oom, &oom);
}

/* --- What is kept and not in use ------------------------------------------ */

/* Fill memory with objects of a size and free them all; some are kept. */
static void leave_empty_slabs(size_t bytes)
{
    void *last = NULL;
    void *memory;

    while ((memory = tier_alloc(&heap, bytes)) != NULL) {
        *(void **)memory = last;
        last = memory;
    }
    while ((memory = last) != NULL) {
        last = *(void **)memory;
        expect_freed(memory);
    }
    cr_assert(tier_check(&heap));
}

Test(recovery, gets_back_what_waits_and_what_is_empty)
{
    for (size_t bytes = sizeof(void *); bytes <= OBJECT_BYTES; bytes *= 4) {
        set_up(ARENA_PAGES);
        leave_empty_slabs(bytes);
        cr_assert_gt(stats().slab_pages, 0U, "nothing was kept");
        cr_assert_lt(stats().free_pages, ARENA_PAGES);
        const size_t before = stats().recoveries;

        /* Whatever is left of it is in the way of the last of these. */
        for (size_t pages = 0; pages < ARENA_PAGES; pages++) {
            cr_assert_not_null(request_block(0, 0));
        }
        cr_assert_eq(stats().recoveries, before + 1);
        cr_assert_eq(stats().slab_pages, 0U);
        cr_assert_null(request_block(0, 0));
        cr_assert(tier_check(&heap));
    }
}

Test(recovery, joins_blocks_for_a_run_of_any_place_and_length)
{
    for (unsigned mix = 0; mix < 3; mix++) {
        for (size_t pages = 1; pages <= RUN_PAGES; pages += 1 + pages / 4) {
            set_up(ARENA_PAGES);
            take_every_page(mix);
            for (size_t i = 0; i + pages <= ARENA_PAGES; i += 1 + below(3)) {
                for (size_t j = 0; j < pages; j++) {
                    expect_freed(page(i + j));
                }
                cr_assert_null(request_run(pages + 1));
                cr_assert_eq(request_run(pages), (void *)page(i));
                cr_assert_null(request_block(0, 0));
                expect_freed(page(i));
                for (size_t j = 0; j < pages; j++) {
                    cr_assert_not_null(below(2) == 0 ? request_run(1)
                                                     : request_block(0, 0));
                }
            }
            cr_assert(tier_check(&heap));
        }
    }
}

/* The first page of an aligned block of this order in the arena. */
static size_t first_aligned(unsigned order)
{
    return page_of(test_align(arena, TIER_PAGE_SIZE << order));
}

Test(recovery, joins_runs_for_a_block_of_any_order)
{
    for (unsigned mix = 0; mix < 3; mix++) {
        for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
            const size_t pages = (size_t)1 << order;

            if (first_aligned(order) + pages > ARENA_PAGES) {
                break;
            }
            set_up(ARENA_PAGES);
            take_every_page(mix);
            for (size_t i = first_aligned(order); i + pages <= ARENA_PAGES;
                 i += pages) {
                for (size_t j = pages; j > 0; j--) {
                    expect_freed(page(i + j - 1));
                    cr_assert(j == 1 || request_block(order, 0) == NULL);
                }
                cr_assert_eq(request_block(order, 0), (void *)page(i));
                cr_assert_null(request_run(1));
            }
            cr_assert(tier_check(&heap));
        }
    }
}

Test(recovery, a_free_range_that_is_not_aligned_is_no_block)
{
    const size_t first = first_aligned(2) + 2;

    set_up(ARENA_PAGES);
    take_every_page(2);
    for (size_t i = 0; i < 4; i++) {
        expect_freed(page(first + i)); /* half of each of two */
    }
    cr_assert_null(request_block(2, 0));
    cr_assert_eq(request_run(4), (void *)page(first));
}

Test(recovery, gives_an_object_pages_of_its_own)
{
    /* One free page: a slab needs another for its descriptor. */
    set_up(ARENA_PAGES);
    take_every_page(0);
    for (unsigned fast = 0; fast < 2; fast++) {
        tier_set_fail_fast(&heap, fast != 0);
        expect_freed(page(7));
        void *const memory = tier_alloc(&heap, 100);

        cr_assert_eq(memory, (void *)page(7));
        cr_assert_eq(stats().slab_pages, 0U);
        cr_assert_eq(tier_usable_size(&heap, memory), TIER_PAGE_SIZE);
        cr_assert_null(tier_alloc(&heap, 100));
        expect_freed(memory);
        cr_assert_eq(request(TIER_PAGE_SIZE, TIER_NO_RETRY), memory);
        expect_freed(memory);
        cr_assert_eq(tier_alloc_aligned(&heap, 100, TIER_PAGE_SIZE), memory);
        cr_assert(tier_check(&heap));
    }
}

/* --- Failing at once ------------------------------------------------------ */

/* The ways to have a request fail at once: of the allocator, and by flags. */
static const struct {
    bool fail_fast;
    unsigned flags;
} quick[] = {
    {true, 0},
    {false, TIER_NO_RETRY},
    {false, TIER_ATOMIC},
    {true, TIER_RESERVE},
    {true, TIER_ATOMIC},
    {true, TIER_ZERO},
};

/* Everything is taken, half by the caches; a handler has a page to spare. */
static void set_up_tight(void)
{
    set_up(ARENA_PAGES);
    set_up_caches();
    for (size_t i = 0; i < ARENA_PAGES; i++) {
        void *const block = request_block(0, 0);

        if (i % 2 == 1) {
            cache_keep(i % 4 == 1 ? &cheap : &dear, block);
        }
    }
    set_up_handler(page(0), true);
    cr_assert_eq(calls(), 0U, "asked before memory was short");
    cr_assert_eq(stats().free_pages, 0U);
}

/* Pages asked for in vain, ever. */
static size_t refusals(void)
{
    struct tier_zone_stats zone;

    cr_assert_eq(tier_zones_stats(&heap.zones, 0, &zone), TIER_OK);
    return zone.buddy.failed_allocs + zone.runs.failed_allocs +
           zone.failed_watermark;
}

Test(recovery, fails_at_once_when_it_must_not_wait)
{
    for (size_t i = 0; i < COUNT(quick); i++) {
        set_up_tight();
        tier_set_fail_fast(&heap, quick[i].fail_fast);
        for (size_t bytes = 1; bytes <= OBJECT_BYTES * 2; bytes *= 3) {
            const size_t before = refusals();
            const size_t locks = machine.taken;

            cr_assert_null(request(bytes, quick[i].flags));
            cr_assert_leq(machine.taken - locks, 16U, "in bounded time");
            cr_assert_leq(refusals() - before, 20U, "of the page source");
        }
        cr_assert_null(request_block(0, quick[i].flags));
        cr_assert_eq(calls(), 0U);
        cr_assert_eq(oom.calls, 0U);
        cr_assert_eq(stats().recoveries, 0U);
        cr_assert(tier_check(&heap));
        if (quick[i].fail_fast) {
            cr_assert_null(tier_alloc(&heap, 10));
            cr_assert_null(tier_realloc(&heap, page(0), TIER_PAGE_SIZE * 2));
            cr_assert_eq(calls() + oom.calls, 0U);
            tier_set_fail_fast(&heap, false);
        }
        cr_assert_not_null(tier_alloc(&heap, 10), "the default looks for it");
        cr_assert_gt(cheap.scans, 0U);
        cr_assert_eq(stats().recoveries, 1U);
    }
}

Test(recovery, keeps_what_waits_when_it_must_not_wait)
{
    set_up(ARENA_PAGES);
    leave_empty_slabs(64);
    const size_t kept = stats().slab_pages;

    while (request_block(0, TIER_NO_RETRY) != NULL) {
    }
    cr_assert_eq(stats().slab_pages, kept);
    cr_assert_eq(stats().free_pages, 0U);
    cr_assert_not_null(request_block(0, 0));
}

/* --- Shrinkers ------------------------------------------------------------ */

Test(recovery, asks_the_cheapest_shrinker_first_and_only_as_far_as_needed)
{
    set_up_tight();
    const size_t entries = cheap.entries;

    for (size_t i = 0; i < entries; i++) {
        cr_assert_not_null(request_block(0, 0));
        cr_assert_eq(cheap.scans, i + 1);
        cr_assert_eq(cheap.asked, TIER_PAGE_SIZE);
        cr_assert_eq(cheap.entries, entries - i - 1);
    }
    cr_assert_eq(dear.counts, 0U, "asked while a cheaper one had memory");
    cr_assert_not_null(request_block(0, 0));
    cr_assert_eq(cheap.scans, entries, "has none: is not scanned");
    cr_assert_eq(dear.scans, 1U);
    cr_assert_eq(last_scanned, &dear);
    cr_assert_eq(oom.calls, 0U);
    cr_assert_eq(stats().failed_allocs, 0U);
}

Test(recovery, asks_nobody_while_there_is_memory)
{
    set_up(ARENA_PAGES);
    set_up_caches();
    for (size_t i = 0; i < 20; i++) {
        cache_keep(&cheap, tier_alloc(&heap, 1 + below(5000)));
    }
    for (size_t i = 0; i < 500; i++) {
        expect_freed(tier_alloc(&heap, below(TIER_PAGE_SIZE / 8)));
        expect_freed(tier_alloc_pages(&heap, below(4)));
    }
    cr_assert_eq(calls(), 0U);
    cr_assert_eq(stats().recoveries, 0U);
}

Test(recovery, succeeds_after_as_many_scans_as_it_takes)
{
    for (unsigned order = 1; order <= 4; order++) {
        const size_t pages = (size_t)1 << order;
        const size_t first = first_aligned(order);

        set_up(ARENA_PAGES);
        set_up_caches();
        take_every_page(0);
        /* The last that is given up is the first of the only block. */
        for (size_t i = 0; i < pages; i++) {
            cache_keep(&cheap, page(first + i));
        }
        for (size_t i = 0; i < 100; i++) {
            const size_t other = first + pages * 2 + i * 2;

            if (other < ARENA_PAGES) {
                cache_keep(&cheap, page(other));
            }
        }
        cr_assert_eq(request_block(order, 0), (void *)page(first));
        cr_assert_eq(cheap.entries, 0U);
        cr_assert_leq(cheap.scans, (size_t)TIER_RECLAIM_SCANS);
        cr_assert_gt(cheap.scans, 1U);
        cr_assert_eq(stats().failed_allocs, 0U);
        cr_assert(tier_check(&heap));
    }
}

Test(recovery, shrinkers_may_allocate_and_are_not_re_entered)
{
    for (unsigned mode = 0; mode < 3; mode++) {
        set_up_tight();
        cr_assert_eq(tier_set_mode(&heap, (enum tier_mode)mode), TIER_OK);
        tier_set_oom_handler(&heap, NULL, NULL);
        cheap.meddles = true;
        dear.meddles = true;
        size_t got = 0;

        while (request_run(1) != NULL) {
            got++;
        }
        cr_assert_eq(cheap.entries + dear.entries, 0U);
        cr_assert_eq(got, ARENA_PAGES / 2);
        cr_assert(tier_check(&heap));
        cr_assert_eq(tier_remove_shrinker(&heap, &cheap.shrinker), TIER_OK);
    }
}

Test(recovery, shrinkers_are_asked_for_objects_too)
{
    set_up_tight();
    for (size_t i = 0; i < ARENA_PAGES / 2 - 4; i++) {
        cr_assert_not_null(tier_alloc(&heap, TIER_PAGE_SIZE - 100));
        cr_assert(tier_check(&heap));
    }
    cr_assert_eq(oom.calls, 0U); /* and some pages have descriptors */
    cr_assert_eq(stats().failed_allocs, 0U);
}

/* --- The handler ---------------------------------------------------------- */

Test(recovery, asks_the_handler_once_and_last)
{
    set_up_tight();
    while (request_block(0, 0) != NULL && oom.calls == 0) {
    }
    cr_assert_eq(oom.calls, 1U);
    cr_assert_eq(oom.bytes, TIER_PAGE_SIZE);
    cr_assert_eq(cheap.entries + dear.entries, 0U, "asked too early");
    cr_assert_eq(stats().failed_allocs, 0U, "it had a page");
    set_up_handler(NULL, true);
    cr_assert_null(tier_alloc(&heap, 77));
    cr_assert_eq(oom.calls, 1U, "once for a request");
    cr_assert_eq(oom.bytes, 77U);
    cr_assert_eq(stats().failed_no_memory, 1U);
    tier_set_oom_handler(&heap, NULL, NULL);
    cr_assert_null(tier_alloc(&heap, 77));
    cr_assert_eq(oom.calls, 1U);
}

Test(recovery, believes_a_handler_that_has_nothing)
{
    set_up(ARENA_PAGES);
    take_every_page(0);
    size_t before = refusals();

    cr_assert_null(request_block(0, 0));
    const size_t attempts = refusals() - before; /* without a handler */

    set_up_handler(page(3), false);
    before = refusals();
    cr_assert_null(request_block(0, 0));
    cr_assert_eq(oom.calls, 1U);
    cr_assert_eq(refusals() - before, attempts, "no attempt is worth it");
    cr_assert_eq(request_block(0, 0), (void *)page(3), "it lied");
}

Test(recovery, a_request_under_the_handler_does_not_ask_it_again)
{
    set_up(ARENA_PAGES);
    take_every_page(0);
    set_up_handler(page(3), true);
    oom.nests = true;
    cr_assert_eq(request_block(0, 0), (void *)page(3));
    cr_assert_eq(oom.calls, 1U);
    cr_assert_eq(stats().failed_no_memory, 1U, "the one under it");
}

Test(recovery, tidies_up_what_the_handler_freed)
{
    set_up(ARENA_PAGES);
    void *const object = tier_alloc(&heap, OBJECT_BYTES);
    size_t pages = 0;

    while (request_block(0, TIER_NO_RETRY) != NULL) {
        pages++;
    }
    set_up_handler(object, true); /* it will wait for this CPU, in a slab */
    cr_assert_not_null(request_block(0, 0));
    cr_assert_eq(oom.calls, TIERALLOC_CPUS > 0 ? oom.calls : 1U);
    cr_assert_lt(pages, ARENA_PAGES);
    cr_assert(tier_check(&heap));
}

/* --- The reserve ---------------------------------------------------------- */

#define MIN_PAGES ((size_t)10)

static void set_up_reserve(void)
{
    set_up(ARENA_PAGES);
    cr_assert_eq(tier_set_watermarks(&heap, 0, MIN_PAGES, MIN_PAGES, MIN_PAGES),
                 TIER_OK);
}

/* A request of a sort: an object, a run, or a block, with flags. */
static void *request_sort(unsigned sort, unsigned flags)
{
    switch (sort) {
    case 0:
        return request(64, flags);
    case 1:
        return request(OBJECT_BYTES, flags);
    case 2:
        return request(OBJECT_BYTES + 1, flags);
    default:
        return request_block(0, flags);
    }
}

Test(recovery, ordinary_requests_leave_the_reserve)
{
    for (unsigned mode = 0; mode < 3; mode++) {
        for (unsigned sort = 0; sort < 4; sort++) {
            set_up_reserve();
            cr_assert_eq(tier_set_mode(&heap, (enum tier_mode)mode), TIER_OK);
            while (request_sort(sort, 0) != NULL) {
                cr_assert_geq(stats().free_pages, MIN_PAGES);
            }
            cr_assert_null(request_sort(sort, TIER_NO_RETRY));
            cr_assert_geq(stats().free_pages, MIN_PAGES);
            cr_assert(tier_check(&heap));
        }
    }
}

Test(recovery, the_reserve_serves_to_the_last_page)
{
    static const unsigned flags[] = {TIER_RESERVE, TIER_ATOMIC};

    for (size_t i = 0; i < 3 * 4 * COUNT(flags); i++) {
        const unsigned sort = i % 4;
        const unsigned how = flags[i / 4 % COUNT(flags)];

        set_up_reserve();
        cr_assert_eq(tier_set_mode(&heap, (enum tier_mode)(i / 8)), TIER_OK);
        while (request_block(0, 0) != NULL) {
        }
        cr_assert_eq(stats().free_pages, MIN_PAGES);
        cr_assert_null(request_sort(sort, 0));
        cr_assert_null(request_sort(sort, TIER_NO_RETRY));
        size_t count = 0;

        while (request_sort(sort, how) != NULL) {
            count++;
        }
        /* At once, what is in one piece; not in pieces that join first. */
        cr_assert_geq(count, sort == 0   ? MIN_PAGES * 20
                             : sort == 3 ? MIN_PAGES
                                         : how == TIER_RESERVE);
        while (request(1, how) != NULL) {
        }
        cr_assert_eq(stats().free_pages, 0U);
        cr_assert_null(request_sort(sort, how));
        cr_assert(tier_check(&heap));
    }
}

Test(recovery, shrinkers_are_asked_before_the_reserve_is_used)
{
    set_up_reserve();
    set_up_caches();
    void *const given = request_block(0, 0);

    while (request_block(0, TIER_NO_RETRY) != NULL) {
    }
    cache_keep(&cheap, given);
    cr_assert_eq(request_block(0, TIER_RESERVE), given);
    cr_assert_eq(stats().free_pages, MIN_PAGES, "it was not needed");
    cr_assert_eq(cheap.scans, 1U);
    cr_assert_not_null(request_block(0, TIER_RESERVE));
    cr_assert_eq(stats().free_pages, MIN_PAGES - 1);
}

/* --- Other CPUs ----------------------------------------------------------- */

/* What waits for other CPUs, as a shrinker. */
static size_t count_waiting(void *context)
{
    (void)context;
    cr_assert_eq(machine.held, 0U);
    return stats().waiting_bytes;
}

static size_t drain_others(void *context, size_t bytes)
{
    const size_t before = stats().waiting_bytes;

    (void)context;
    (void)bytes;
    cr_assert_eq(machine.held, 0U);
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        if (cpu != machine.cpu) {
            (void)tier_drain(&heap, cpu);
        }
    }
    return before - stats().waiting_bytes;
}

static struct tier_shrinker others;

static void set_up_others(void)
{
    memset(&others, 0, sizeof(others));
    others.count = count_waiting;
    others.scan = drain_others;
    others.name = "other CPUs";
    cr_assert_eq(tier_add_shrinker(&heap, &others), TIER_OK);
}

Test(recovery, gets_back_what_waits_for_other_cpus)
{
    for (unsigned with = 0; with < 2; with++) {
        size_t got = 0;

        set_up(ARENA_PAGES);
        if (with == 1) {
            set_up_others();
        }
        for (machine.cpu = 0; machine.cpu < CPUS; machine.cpu++) {
            void *object[40];

            for (size_t i = 0; i < COUNT(object); i++) {
                object[i] = tier_alloc(&heap, 1000);
            }
            for (size_t i = 0; i < COUNT(object); i++) {
                expect_freed(object[i]);
            }
        }
        machine.cpu = 0;
        while (request_run(1) != NULL) {
            got++;
        }
        cr_assert_eq(got == ARENA_PAGES,
                     with == 1 || TIERALLOC_CPUS < 2 || TIERALLOC_CHECKS > 2,
                     "%lu", (unsigned long)got);
        cr_assert(tier_check(&heap));
    }
}

/* --- The target ----------------------------------------------------------- */

/* What is in use and cannot be given up; each marked at both ends. */
#define LIVE 1500

struct live {
    void *memory;
    size_t bytes; /* usable */
    uint32_t mark;
};

static struct live live[LIVE];
static size_t live_count;

/* One random request. */
struct wish {
    unsigned sort; /* 0: bytes, 1: a run, 2: a block */
    size_t bytes;
    size_t pages; /* of the run or block, or that the bytes need at least */
    unsigned order;
};

static void make_wish(struct wish *wish)
{
    const uint32_t pick = below(100);
    const size_t most =
        TIER_BLOCK_MAX < ARENA_BYTES / 6 ? TIER_BLOCK_MAX : ARENA_BYTES / 6;

    wish->sort = pick < 70 ? 0 : (pick < 85 ? 1 : 2);
    wish->order = below(TIERALLOC_MAX_ORDER < 5 ? TIERALLOC_MAX_ORDER + 1 : 6);
    wish->pages = wish->sort == 2 ? (size_t)1 << wish->order
                                  : 1 + below(RUN_PAGES < 20 ? RUN_PAGES : 20);
    if (wish->sort == 0) {
        wish->bytes = 1 + below(pick < 40   ? 600
                                : pick < 55 ? OBJECT_BYTES
                                            : most);
        wish->pages = (wish->bytes - 1) / TIER_PAGE_SIZE + 1;
    }
}

static void *fulfil(const struct wish *wish)
{
    if (wish->sort == 0) {
        return tier_alloc(&heap, wish->bytes);
    }
    return wish->sort == 1 ? request_run(wish->pages)
                           : tier_alloc_pages(&heap, wish->order);
}

static void stamp(const struct live *slot, bool write)
{
    unsigned char *const end = (unsigned char *)slot->memory + slot->bytes - 1;

    if (write) {
        *(unsigned char *)slot->memory = (unsigned char)slot->mark;
        *end = (unsigned char)slot->mark;
    }
    cr_assert_eq(*(unsigned char *)slot->memory, (unsigned char)slot->mark);
    cr_assert_eq(*end, (unsigned char)slot->mark);
}

static void live_add(void *memory)
{
    struct live *const slot = &live[live_count++];

    slot->memory = memory;
    slot->bytes = tier_usable_size(&heap, memory);
    slot->mark = below(256);
    stamp(slot, true);
}

static void live_drop(size_t index)
{
    stamp(&live[index], false);
    expect_freed(live[index].memory);
    live[index] = live[--live_count];
}

/* Give up all that can be: what waits anywhere, and both caches. */
static void give_up_everything(void)
{
    while (cheap.entries > 0) {
        (void)cache_evict(&cheap);
    }
    while (dear.entries > 0) {
        (void)cache_evict(&dear);
    }
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        (void)tier_drain(&heap, cpu);
    }
    (void)tier_trim(&heap);
    cr_assert(tier_check(&heap));
}

/* No slab of the size class of an object has a free one. */
static void expect_no_object(size_t bytes)
{
    const struct tier_cache_base *const base =
        &heap.slab.classes[TIER_SIZE_CLASS(bytes)];

    cr_assert_null(base->empty);
    cr_assert_null(base->current);
    for (size_t i = 0; i < TIER_SLAB_FILLS; i++) {
        cr_assert_null(base->partial[i]);
    }
}

/* A wish was refused: whatever is given up, nothing free could have held it. */
static void expect_no_room(const struct wish *wish, size_t min)
{
    struct tier_heap_stats simple;

    give_up_everything();
    find_free_pages();
    const size_t spare = stats().free_pages;

    if (wish->sort == 2) {
        cr_assert(largest_free() < (int)wish->order ||
                      spare < min + wish->pages,
                  "a block of order %u was free", wish->order);
        return;
    }
    cr_assert(longest_free() < wish->pages || spare < min + wish->pages,
              "%lu of %lu pages were free", (unsigned long)wish->pages,
              (unsigned long)spare);
    if (wish->sort == 0 && wish->bytes <= OBJECT_BYTES &&
        heap.mode != TIER_SIMPLE) {
        expect_no_object(wish->bytes);
    }
    if (wish->sort == 0 && heap.mode != TIER_TWO_TIER) {
        tier_heap_stats(&heap.heap, &simple);
        cr_assert_lt(simple.largest_free_bytes, wish->bytes + TIER_GUARD_BYTES);
    }
}

/* Take something for a cache or a magazine; false when there is nothing. */
static bool fill_once(void)
{
    struct cache *const cache = below(2) == 0 ? &cheap : &dear;
    const size_t most = below(2) == 0 ? 400 : 9000;

    machine.cpu = below(CPUS);
    if (cache->entries == ENTRIES) {
        return false;
    }
    void *const memory = below(3) == 0
                             ? request_block(below(3), TIER_NO_RETRY)
                             : request(1 + below(most), TIER_NO_RETRY);

    if (memory == NULL) {
        return false;
    }
    if (below(4) == 0) {
        expect_freed(memory); /* it waits for this CPU */
    } else {
        cache_keep(cache, memory);
    }
    return true;
}

/* Have caches and magazines take what is free. */
static void fill_caches(void)
{
    size_t failures = 0;

    for (size_t i = 0; i < 500 && failures < 4; i++) {
        failures += !fill_once();
    }
}

/* Bytes that could be given up, at least. */
static size_t reclaimable(void)
{
    return cheap.total + dear.total + stats().waiting_bytes;
}

static struct {
    size_t wishes;
    size_t failures;
} tally;

/* Ask for something; if there is none, there must be no room. */
static void random_wish(size_t min)
{
    struct wish wish;

    make_wish(&wish);
    tally.wishes++;
    void *const memory = fulfil(&wish);

    if (memory != NULL) {
        live_add(memory);
    } else {
        tally.failures++;
        expect_no_room(&wish, min);
    }
}

/* A run of requests, each while so many percent of memory could be given up. */
static void run_target(enum tier_mode mode, size_t percent, size_t min)
{
    memset(&tally, 0, sizeof(tally));
    live_count = 0;
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS / 2; step++) {
        machine.cpu = below(CPUS);
        fill_caches();
        const bool spare = reclaimable() >= ARENA_BYTES * percent / 100;

        if (live_count > 0 &&
            (live_count == LIVE || !spare || below(100) < 35)) {
            live_drop(below(live_count));
        } else if (spare) {
            random_wish(min);
        }
        if (step % 8 == 0) {
            cr_assert(tier_check(&heap));
        }
        if (mode == TIER_HYBRID && step % 100 == 0) {
            cr_assert_eq(tier_set_mode(&heap, (enum tier_mode)below(3)),
                         TIER_OK);
        }
    }
    while (live_count > 0) {
        live_drop(0);
    }
    give_up_everything();
    cr_assert_eq(stats().free_pages, ARENA_PAGES);
}

static void set_up_target(enum tier_mode mode)
{
    set_up(ARENA_PAGES);
    set_up_caches();
    set_up_others();
    cheap.random = true;
    dear.random = true;
    cr_assert_eq(tier_set_mode(&heap, mode), TIER_OK);
}

Test(recovery, no_request_fails_that_could_be_met)
{
    for (unsigned mode = 0; mode < 3; mode++) {
        set_up_target((enum tier_mode)mode);
        cheap.meddles = mode == 2;
        run_target((enum tier_mode)mode, 30, 0);
        cr_assert_gt(tally.wishes, TIERALLOC_TEST_STEPS / 10U);
        cr_assert_gt(stats().recoveries * 4, tally.wishes,
                     "memory was not short");
    }
}

Test(recovery, no_request_fails_that_could_be_met_with_memory_all_in_use)
{
    for (unsigned mode = 0; mode < 3; mode++) {
        set_up_target((enum tier_mode)mode);
        run_target((enum tier_mode)mode, 0, 0);
        cr_assert_gt(tally.failures, tally.wishes / 100,
                     "nothing failed: nothing was tested");
    }
}

Test(recovery, no_request_fails_that_could_be_met_above_the_reserve)
{
    set_up_target(TIER_TWO_TIER);
    cr_assert_eq(tier_set_watermarks(&heap, 0, MIN_PAGES, MIN_PAGES, MIN_PAGES),
                 TIER_OK);
    run_target(TIER_TWO_TIER, 0, MIN_PAGES);
    cr_assert_gt(tally.failures, 0U);
}

/* --- A pool over the allocator -------------------------------------------- */

#define POOL_BYTES ((size_t)200)

static void *pool_take(void *context)
{
    cr_assert_eq(machine.held, 0U);
    return context == &heap ? request(POOL_BYTES, TIER_NO_RETRY) : NULL;
}

static void pool_give(void *context, void *object)
{
    cr_assert_eq(machine.held, 0U);
    cr_assert_eq(tier_free(context, object), TIER_OK);
}

static const struct tier_mempool_source pool_source = {pool_take, pool_give,
                                                       &heap};
static struct tier_mempool pool;
static bool has_pool;

/* Dirty pages, as a shrinker: each must be written out, which takes a request
   object from the pool, or without a pool from the allocator. */
static size_t write_out(void *context, size_t bytes)
{
    struct cache *const cache = context;
    void *const object = has_pool ? tier_mempool_alloc(&pool)
                                  : request(POOL_BYTES, TIER_NO_RETRY);
    size_t freed = 0;

    if (object == NULL) {
        return 0;
    }
    memset(object, 0x3C, POOL_BYTES);
    while (freed < bytes && cache->entries > 0) {
        freed += cache_evict(cache);
    }
    cr_assert_eq(has_pool ? tier_mempool_free(&pool, object)
                          : tier_free(&heap, object),
                 TIER_OK);
    return freed;
}

Test(recovery, a_pool_makes_progress_when_nothing_is_free)
{
    for (unsigned with = 0; with < 2; with++) {
        void *slot[1];
        size_t got = 0;

        set_up(ARENA_PAGES);
        set_up_caches();
        has_pool = with == 1;
        dear.shrinker.scan = write_out;
        cr_assert(!has_pool ||
                  tier_mempool_init(&pool, slot, 1, &pool_source) == TIER_OK);
        for (void *block; (block = request_block(0, TIER_NO_RETRY)) != NULL;) {
            cache_keep(&dear, block);
        }
        /* Take what small objects there are, too. */
        while (request(POOL_BYTES, TIER_NO_RETRY) != NULL) {
        }
        const size_t entries = dear.entries;

        while (request_block(0, 0) != NULL) {
            got++;
        }
        cr_assert_eq(got, has_pool ? entries : 0U);
        cr_assert(tier_check(&heap));
        cr_assert(!has_pool || (tier_mempool_check(&pool) &&
                                tier_mempool_destroy(&pool) == TIER_OK));
    }
}

Test(recovery, failing_changes_nothing_but_counters)
{
    set_up(ARENA_PAGES);
    take_every_page(2);
    (void)tier_trim(&heap);
    const struct tier_stats before = stats();

    for (size_t i = 0; i < 100; i++) {
        struct wish wish;

        make_wish(&wish);
        cr_assert_null(fulfil(&wish));
    }
    const struct tier_stats after = stats();

    cr_assert_eq(after.live_bytes, before.live_bytes);
    cr_assert_eq(after.live_blocks, before.live_blocks);
    cr_assert_eq(after.slab_pages, before.slab_pages);
    cr_assert_eq(after.heap_pages, before.heap_pages);
    cr_assert_eq(after.free_pages, before.free_pages);
    cr_assert_eq(after.failed_no_memory, before.failed_no_memory + 100);
    cr_assert_eq(after.recoveries, before.recoveries + 100);
    cr_assert(tier_check(&heap));
}
