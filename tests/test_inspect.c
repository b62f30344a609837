/*
 * tests/test_inspect.c - dumps read back, health at its borders, leaks by site.
 *
 * SPDX-License-Identifier: MIT
 *
 * Holds for each option of config.h that the command line sets, but for some of
 * the thresholds of health, which a thousand pages cannot meet. By itself it is
 * for two CPUs, played by one thread, at TIERALLOC_CHECKS 2.
 */
#define TIERALLOC_IMPLEMENTATION
#ifndef TIERALLOC_CHECKS
#define TIERALLOC_CHECKS 2
#endif
#ifndef TIERALLOC_CPUS
#define TIERALLOC_CPUS 2
#endif

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The CPU that runs, and the caller that every request is of. */
static unsigned test_cpu;
static uintptr_t test_site;

/* A lock that refuses to be taken twice. */
struct test_lock {
    bool held;
};

static size_t locks_taken;

static inline void test_lock_take(struct test_lock *lock)
{
    cr_assert(!lock->held);
    lock->held = true;
    locks_taken++;
}

static inline void test_lock_drop(struct test_lock *lock)
{
    cr_assert(lock->held);
    lock->held = false;
}

#define TIERALLOC_SITE()          test_site
#define TIERALLOC_CPU()           test_cpu
#define TIERALLOC_LOCKING         1
#define TIERALLOC_LOCK_TYPE       struct test_lock
#define TIERALLOC_LOCK_INIT(lock) ((lock)->held = false)
#define TIERALLOC_LOCK(lock)      test_lock_take(lock)
#define TIERALLOC_UNLOCK(lock)    test_lock_drop(lock)
#include "support.h"

#include <tieralloc/inspect.h>

/* --- The rig -------------------------------------------------------------- */

/* So many that a page is a permille. */
#define ARENA_PAGES ((size_t)1000)
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)
#define SLOTS       1000

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8 + 1];
static struct tier_allocator heap;
static struct tier_cache inode;
static struct tier_cache dentry;
static uint64_t random_state;

/* What is in use; at most one allocation a slot. */
static struct {
    void *memory;
    uintptr_t site;
    size_t bytes;
} slot[SLOTS];

static unsigned char *page(size_t index)
{
    return arena + index * TIER_PAGE_SIZE;
}

/* An allocator over the arena, without memory. */
static void set_up_empty(void)
{
    memset(&heap, 0xA5, sizeof(heap));
    memset(map_memory, 0xA5, sizeof(map_memory));
    memset(slot, 0, sizeof(slot));
    test_cpu = 0;
    test_site = 1;
    random_state = TEST_SEED;
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, map_memory,
                           sizeof(map_memory)),
                 TIER_OK);
}

/* An allocator with the first pages of the arena. */
static void set_up(size_t pages)
{
    set_up_empty();
    cr_assert_eq(tier_add_region(&heap, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
}

/* The same with two named caches, and several zones if there may be. */
static void set_up_all(void)
{
    struct tier_zone_range ranges[TIER_ZONES_MAX];
    const size_t share = ARENA_BYTES / TIER_ZONES_MAX;

    set_up_empty();
    for (unsigned i = 0; i < TIER_ZONES_MAX; i++) {
        ranges[i].name = i == 0 ? "DMA" : i == 1 ? "NORMAL" : "HIGH";
        ranges[i].base = (uintptr_t)arena + i * share;
        ranges[i].bytes = share;
    }
    cr_assert_eq(tier_set_zones(&heap, ranges, TIER_ZONES_MAX), TIER_OK);
    for (unsigned i = 0; i < TIER_ZONES_MAX; i++) {
        cr_assert_eq(
            tier_add_region(&heap, (void *)ranges[i].base, ranges[i].bytes),
            TIER_OK);
    }
    cr_assert_eq(tier_add_cache(&heap, &inode, "inode", 200, 8, 0, NULL),
                 TIER_OK);
    cr_assert_eq(tier_add_cache(&heap, &dentry, "dentry", 72, 8,
                                TIER_CACHE_KEEP_NONE, NULL),
                 TIER_OK);
}

static struct tier_stats stats_of(void)
{
    struct tier_stats stats;

    tier_stats(&heap, &stats);
    return stats;
}

static uint32_t below(uint32_t bound)
{
    return test_below(&random_state, bound);
}

/* Allocate something of any kind. */
static void *take(void)
{
    void *memory = NULL;

    test_cpu = TIERALLOC_CPUS > 1 ? below(2) : 0;
    switch (below(12)) {
    case 0:
        return tier_alloc_from(&heap, &inode);
    case 1:
        return tier_alloc_from(&heap, &dentry);
    case 2:
        return tier_alloc_pages(&heap, below(3));
    case 3:
        return tier_alloc(&heap, TIERALLOC_OBJECT_MAX + 1 +
                                     below(8 * (uint32_t)TIER_PAGE_SIZE));
    case 4:
        (void)tier_try_alloc(&heap, below(9000), TIER_DMA, &memory);
        return memory;
    case 5:
        return tier_calloc(&heap, 1 + below(8), 1 + below(100));
    case 6:
        return tier_alloc_aligned(&heap, 1 + below(300), 64);
    default:
        return tier_alloc(&heap, below(below(8) == 0 ? 5000 : 500));
    }
}

/* Bytes that an allocation counts with: asked for, or in whole pages. */
static size_t bytes_of(void *memory)
{
    return tier_usable_size(&heap, memory);
}

/* Free, resize or allocate at random, for one of so many sites. */
static void random_step(uint32_t sites)
{
    const size_t i = below(SLOTS / 2);

    test_site = 0x1000 + below(sites) * 0x10;
    if (below(50) == 0) {
        (void)tier_set_mode(&heap, (enum tier_mode)below(3));
    }
    if (slot[i].memory == NULL) {
        slot[i].memory = take();
    } else if (below(4) == 0) {
        void *const moved = tier_realloc(&heap, slot[i].memory, below(3000));

        if (moved == slot[i].memory) {
            slot[i].bytes = bytes_of(moved); /* its site stays too */
        }
        if (moved == NULL || moved == slot[i].memory) {
            return;
        }
        slot[i].memory = moved;
    } else {
        cr_assert_eq(tier_free(&heap, slot[i].memory), TIER_OK);
        slot[i].memory = NULL;
    }
    slot[i].site = test_site;
    slot[i].bytes = slot[i].memory == NULL ? 0 : bytes_of(slot[i].memory);
}

static void free_slots(void)
{
    for (size_t i = 0; i < SLOTS; i++) {
        if (slot[i].memory != NULL) {
            cr_assert_eq(tier_free(&heap, slot[i].memory), TIER_OK);
            slot[i].memory = NULL;
        }
    }
}

/* --- Reading a dump back -------------------------------------------------- */

static struct {
    char text[32 * KIB];
    size_t length;
    size_t unlocked; /* the length when the lock was no longer held */
} dump;

static void put(void *context, char character)
{
    cr_assert_eq(context, (void *)&dump);
    cr_assert(dump.length < sizeof(dump.text) - 1);
    dump.text[dump.length++] = character;
    dump.text[dump.length] = '\0';
    if (heap.lock.held) {
        dump.unlocked = dump.length;
    }
}

/* Where the reader is. */
static const char *reader;

static void dump_all(void)
{
    dump.length = 0;
    dump.unlocked = 0;
    tier_dump(&heap, put, &dump);
    cr_assert(!heap.lock.held);
    cr_assert_eq(dump.text[dump.length - 1], '\n');
    reader = dump.text;
}

/* This very text must follow. */
static void expect_text(const char *text)
{
    const size_t length = strlen(text);

    cr_assert(strncmp(reader, text, length) == 0, "expected \"%s\" before: %s",
              text, reader);
    reader += length;
}

/* This number must follow, behind this text. */
static void expect_number(const char *text, size_t number)
{
    size_t found = 0;

    expect_text(text);
    cr_assert(*reader >= '0' && *reader <= '9', "a number before: %s", reader);
    for (; *reader >= '0' && *reader <= '9'; reader++) {
        found = found * 10 + (size_t)(*reader - '0');
    }
    cr_assert_eq(found, number, "%s%lu", text, (unsigned long)found);
}

/* This number must follow, right-aligned in so many characters. */
static void expect_column(size_t number, size_t width)
{
    const char *const begin = reader;

    while (*reader == ' ') {
        reader++;
    }
    cr_assert(reader > begin, "columns touch");
    expect_number("", number);
    cr_assert_eq((size_t)(reader - begin), width);
}

static void expect_summary(const char *mode)
{
    const struct tier_stats stats = stats_of();

    expect_text("mode ");
    expect_text(mode);
    expect_number(", pages: managed ", stats.managed_pages);
    expect_number(", free ", stats.free_pages);
    expect_number(", in slabs ", stats.slab_pages);
    expect_number(", in heap ", stats.heap_pages);
    expect_number(", in blocks ", stats.live_pages);
    expect_number(", live bytes ", stats.live_bytes);
    expect_text("\n");
}

static void expect_zone(unsigned index)
{
    struct tier_zone_stats stats;

    cr_assert_eq(tier_zones_stats(&heap.zones, index, &stats), TIER_OK);
    expect_text("zone ");
    expect_text(stats.name);
    for (size_t i = strlen(stats.name); i < 8; i++) {
        expect_text(" ");
    }
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        expect_column(stats.buddy.free_blocks[order], 6);
    }
    expect_number("  free ", stats.free_pages);
    expect_number(" of ", stats.buddy.managed_pages);
    expect_number(", in runs ", stats.runs.free_pages);
    expect_number(", runs in use ", stats.runs.used_runs);
    expect_number(", min ", stats.min_pages);
    expect_number(", low ", stats.low_pages);
    expect_number(", high ", stats.high_pages);
    expect_text("\n");
}

static void expect_zones(void)
{
    if (heap.zones.count == 0) {
        return;
    }
    expect_text("order        "); /* as wide as "zone " and a name of eight */
    for (unsigned order = 0; order <= TIERALLOC_MAX_ORDER; order++) {
        expect_column(order, 6);
    }
    expect_text("\n");
    for (unsigned i = 0; i < heap.zones.count; i++) {
        expect_zone(i);
    }
}

/* Objects that wait: the rest of what its slabs count, for a size class. */
static size_t waiting_of(unsigned size_class)
{
    size_t waiting = 0;

#if TIERALLOC_CPUS > 0
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        const struct tier_magazine *const magazine =
            &heap.cache.cpu[i].magazine[size_class + 1];

        waiting += (size_t)(magazine->top - magazine->floor);
    }
#endif
#if TIERALLOC_CPUS > 1
    waiting += heap.cache.depot[size_class].count;
#endif
    (void)size_class;
    return waiting;
}

static void expect_cache(const struct tier_cache_stats *stats, size_t waiting,
                         size_t sums[2])
{
    expect_column(stats->object_bytes, 8);
    expect_column(stats->live - waiting, 10);
    expect_column(waiting, 10);
    expect_column(stats->slabs * stats->slab_objects, 10);
    expect_column(stats->slabs, 8);
    expect_column(stats->slab_pages, 8);
    if (stats->name != NULL) {
        expect_text("  ");
        expect_text(stats->name);
    }
    expect_text("\n");
    sums[0] += stats->live - waiting;
    sums[1] += waiting;
}

static void expect_caches(bool named)
{
    const struct tier_stats all = stats_of();
    struct tier_cache_stats stats;
    size_t sums[2] = {0, 0};

    expect_text("  object    in use   waiting     total   slabs   pages  name"
                "\n");
    for (unsigned i = 0; i < TIER_SLAB_CLASSES; i++) {
        tier_slab_class_stats(&heap.slab, i, &stats);
        if (stats.slabs != 0) {
            expect_cache(&stats, waiting_of(i), sums);
        }
    }
    if (named) {
        tier_cache_stats(&dentry, &stats);
        expect_cache(&stats, 0, sums);
        tier_cache_stats(&inode, &stats);
        expect_cache(&stats, 0, sums);
    }
    cr_assert_eq(sums[0], all.live_objects);
    cr_assert_eq(sums[1], all.waiting_objects);
}

/* The heap has a line if it holds memory, and the lock is held up to here. */
static void expect_rest(size_t shrinkers)
{
    struct tier_heap_stats stats;

    tier_heap_stats(&heap.heap, &stats);
    if (stats.areas != 0) {
        expect_number("heap: areas ", stats.areas);
        expect_number(", pages from the source ", stats_of().heap_pages);
        expect_number(", bytes ", stats.total_bytes);
        expect_number(", free ", stats.free_bytes);
        expect_number(", largest free ", stats.largest_free_bytes);
        expect_number("\nallocations in use ", stats_of().heap_objects);
        expect_number(", failed ", stats.failed_allocs);
        expect_number(", frees refused ", stats.refused_frees);
        expect_text("\n");
    }
    cr_assert_eq((size_t)(reader - dump.text), dump.unlocked);
    expect_number("reclaim: shrinkers ", shrinkers);
}

Test(inspect, dump_begins_before_there_is_a_region)
{
    memset(&heap, 0xA5, sizeof(heap));
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    dump_all();
    expect_summary("two-tier");
    expect_caches(false);
    expect_rest(0);
    cr_assert_not_null(strstr(dump.text, "pages: managed 0, free 0, "));
}

Test(inspect, dump_names_the_mode)
{
    set_up(64);
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    dump_all();
    expect_summary("simple");
    cr_assert_eq(tier_set_mode(&heap, TIER_HYBRID), TIER_OK);
    dump_all();
    expect_summary("hybrid");
    cr_assert_eq(tier_set_mode(&heap, TIER_TWO_TIER), TIER_OK);
    dump_all();
    expect_summary("two-tier");
}

Test(inspect, dump_tells_of_each_tier)
{
    set_up_all();
    cr_assert_not_null(tier_alloc(&heap, 64 - TIER_GUARD_BYTES));
    cr_assert_not_null(tier_alloc_from(&heap, &inode));
    cr_assert_not_null(tier_alloc_pages(&heap, 2));
    cr_assert_not_null(tier_alloc(&heap, 9 * TIER_PAGE_SIZE));
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    cr_assert_not_null(tier_alloc(&heap, 100));
    cr_assert_eq(tier_set_mode(&heap, TIER_TWO_TIER), TIER_OK);
    dump_all();
    cr_assert_not_null(strstr(dump.text, ", in blocks 13, live bytes "));
    cr_assert_not_null(strstr(dump.text, "\n      64         1  "));
    cr_assert_not_null(strstr(dump.text, "  inode\n"));
    cr_assert_not_null(strstr(dump.text, "  dentry\n"));
    cr_assert_not_null(strstr(dump.text, "\nheap: areas 1, "));
    cr_assert_not_null(strstr(dump.text, "\nreclaim: shrinkers 0, "));
}

static size_t count_nothing(void *context)
{
    (void)context;
    return 0;
}

static size_t scan_nothing(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    return 0;
}

Test(inspect, dump_ends_with_the_shrinkers)
{
    struct tier_shrinker shrinker = {.count = count_nothing,
                                     .scan = scan_nothing,
                                     .cost = 7,
                                     .name = "names"};

    set_up(64);
    cr_assert_eq(tier_add_shrinker(&heap, &shrinker), TIER_OK);
    dump_all();
    expect_summary("two-tier");
    expect_zones();
    expect_caches(false);
    expect_rest(1);
    cr_assert_not_null(strstr(reader, "\nshrinker names: cost 7, scans 0, "));
}

/* What waits between CPUs counts too; and slabs in which nothing is in use. */
Test(inspect, dump_tells_what_waits_wherever_it_does)
{
    set_up_all();
    for (size_t i = 0; i < 300; i++) {
        slot[i].memory = tier_alloc(&heap, 64);
    }
    free_slots();
    cr_assert_eq(tier_free(&heap, tier_alloc(&heap, 500)), TIER_OK);
#if TIERALLOC_CPUS > 1
    cr_assert(heap.cache.depot[TIER_SIZE_CLASS(64)].count != 0);
#endif
    for (unsigned i = 0; i < 2; i++) {
        dump_all();
        expect_summary("two-tier");
        expect_zones();
        expect_caches(true);
        expect_rest(0);
        (void)tier_drain(&heap, 0);
    }
    cr_assert(stats_of().slab_pages != 0);
}

Test(inspect, dump_agrees_with_the_stats_in_a_random_run)
{
    static const char *const modes[] = {"two-tier", "simple", "hybrid"};

    set_up_all();
    for (unsigned i = 0; i < TIERALLOC_TEST_STEPS; i++) {
        random_step(5);
        if (i % 64 == 0) {
            dump_all();
            expect_summary(modes[heap.mode]);
            expect_zones();
            expect_caches(true);
            expect_rest(0);
        }
    }
    cr_assert(tier_check(&heap));
}

/* --- Health --------------------------------------------------------------- */

static struct tier_health health_of(void)
{
    struct tier_health health;
    const size_t before = locks_taken;

    memset(&health, 0xA5, sizeof(health));
    tier_health(&heap, &health);
    cr_assert(locks_taken > before && !heap.lock.held);
    return health;
}

/* The verdict must rest on these reasons and no others. */
static void expect_health(enum tier_verdict verdict, unsigned reasons,
                          unsigned critical)
{
    const struct tier_health health = health_of();

    cr_assert_eq(health.reasons, reasons, "reasons %#x", health.reasons);
    cr_assert_eq(health.critical, critical, "critical %#x", health.critical);
    cr_assert_eq(health.verdict, verdict);
}

static void expect_good(void)
{
    expect_health(TIER_HEALTH_GOOD, 0, 0);
}

static void expect_strained(unsigned reason)
{
    expect_health(TIER_HEALTH_STRAINED, reason, 0);
}

static void expect_critical(unsigned reason)
{
    expect_health(TIER_HEALTH_CRITICAL, reason, reason);
}

/* Take single pages until so many of the arena are in use. */
static void fill(size_t pages)
{
    for (size_t i = ARENA_PAGES - stats_of().free_pages; i < pages; i++) {
        slot[i].memory = tier_alloc_pages(&heap, 0);
        cr_assert_not_null(slot[i].memory);
    }
}

/* Free single pages, the last first, until so many are in use. */
static void drop(size_t pages)
{
    for (size_t i = ARENA_PAGES - stats_of().free_pages; i > pages; i--) {
        cr_assert_eq(tier_free(&heap, slot[i - 1].memory), TIER_OK);
        slot[i - 1].memory = NULL;
    }
}

/* Fill all but a page that lies at an index; by address. */
static void fill_by_address(void)
{
    fill(ARENA_PAGES);
    for (size_t i = 0; i < ARENA_PAGES; i++) {
        slot[i].memory = page(i);
    }
}

static void drop_page(size_t index)
{
    cr_assert_eq(tier_free(&heap, page(index)), TIER_OK);
}

Test(inspect, health_is_good_at_first)
{
    set_up(ARENA_PAGES);
    const struct tier_health health = health_of();

    expect_good();
    cr_assert_eq(health.used_permille, 0U);
    cr_assert_eq(health.failed_permille, 0U);
    cr_assert_eq(health.fragmentation, -1000);
    cr_assert_eq(health.waiting_permille, 0U);
    cr_assert_eq(health.low_zones, 0U);
    cr_assert_eq(health.min_zones, 0U);
    cr_assert_eq(health.refused_frees, 0U);
}

Test(inspect, health_misses_memory)
{
    memset(&heap, 0xA5, sizeof(heap));
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    expect_critical(TIER_REASON_NO_MEMORY);
    cr_assert_eq(health_of().fragmentation, 0);
    set_up_empty();
    expect_critical(TIER_REASON_NO_MEMORY);
    cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES), TIER_OK);
    expect_good();
    cr_assert_eq(tier_remove_region(&heap, arena, ARENA_BYTES), TIER_OK);
    expect_critical(TIER_REASON_NO_MEMORY);
    cr_assert_eq(health_of().used_permille, 0U);
    cr_assert_eq(health_of().unusable_permille, 0U);
}

Test(inspect, health_feels_pressure)
{
    set_up(ARENA_PAGES);
    fill(TIERALLOC_HEALTH_USED - 1);
    expect_good();
    fill(TIERALLOC_HEALTH_USED);
    expect_strained(TIER_REASON_PRESSURE);
    fill(TIERALLOC_HEALTH_USED_CRITICAL - 1);
    expect_strained(TIER_REASON_PRESSURE);
    fill(TIERALLOC_HEALTH_USED_CRITICAL);
    expect_critical(TIER_REASON_PRESSURE);
    cr_assert_eq(health_of().used_permille,
                 (unsigned)TIERALLOC_HEALTH_USED_CRITICAL);
    fill(ARENA_PAGES);
    expect_critical(TIER_REASON_PRESSURE);
    cr_assert_eq(health_of().used_permille, 1000U);
    cr_assert_eq(health_of().unusable_permille, 0U);
    cr_assert_eq(health_of().fragmentation, 0);
    drop(TIERALLOC_HEALTH_USED_CRITICAL - 1);
    expect_strained(TIER_REASON_PRESSURE);
    drop(TIERALLOC_HEALTH_USED - 1);
    expect_good();
}

Test(inspect, health_watches_the_marks_of_a_zone)
{
    set_up(ARENA_PAGES);
    cr_assert_eq(tier_set_watermarks(&heap, 0, 200, 300, 400), TIER_OK);
    fill(ARENA_PAGES - 300);
    expect_good();
    fill(ARENA_PAGES - 299);
    expect_strained(TIER_REASON_LOW);
    fill(ARENA_PAGES - 201);
    expect_strained(TIER_REASON_LOW);
    fill(ARENA_PAGES - 200);
    expect_health(TIER_HEALTH_CRITICAL, TIER_REASON_LOW | TIER_REASON_MIN,
                  TIER_REASON_MIN);
    cr_assert_eq(health_of().low_zones, 1U);
    cr_assert_eq(health_of().min_zones, 1U);
    drop(ARENA_PAGES - 201);
    expect_strained(TIER_REASON_LOW);
    drop(ARENA_PAGES - 399);
    expect_strained(TIER_REASON_LOW);
    drop(ARENA_PAGES - 400);
    expect_good();

    /* A zone without marks has no min. */
    cr_assert_eq(tier_set_watermarks(&heap, 0, 0, 0, 0), TIER_OK);
    fill(ARENA_PAGES);
    expect_critical(TIER_REASON_PRESSURE);
}

#if TIERALLOC_ZONES > 1
Test(inspect, health_watches_every_zone)
{
    set_up_all();
    for (unsigned i = 0; i < TIER_ZONES_MAX; i++) {
        struct tier_zone_stats stats;

        cr_assert_eq(tier_zones_stats(&heap.zones, i, &stats), TIER_OK);
        cr_assert_eq(tier_set_watermarks(&heap, i, 1, 2, stats.free_pages),
                     TIER_OK);
        expect_good();
        cr_assert_eq(tier_set_watermarks(&heap, i, stats.free_pages,
                                         stats.free_pages, stats.free_pages),
                     TIER_OK);
        expect_critical(TIER_REASON_MIN);
        cr_assert_eq(tier_set_watermarks(&heap, i, 0, 0, 0), TIER_OK);
        expect_good();
    }
}
#endif

/* Free scattered pages, and blocks of the order that counts. */
static void scatter(size_t pages, size_t blocks)
{
    const size_t block = (size_t)1 << TIERALLOC_HEALTH_ORDER;
    /* Blocks lie where memory does, not the arena. */
    size_t at = (-((uintptr_t)arena >> TIERALLOC_PAGE_SHIFT)) & (block - 1);

    for (; blocks > 0; blocks--, at += block) {
        for (size_t i = 0; i < block; i++) {
            drop_page(at + i);
        }
    }
    for (at++; pages > 0; pages--, at += 2) {
        drop_page(at);
    }
}

Test(inspect, health_sees_fragmentation)
{
    const size_t block = (size_t)1 << TIERALLOC_HEALTH_ORDER;

    set_up(ARENA_PAGES);
    fill_by_address();
    scatter(10 * block - 1, 10);
    expect_good();
    set_up(ARENA_PAGES);
    fill_by_address();
    scatter(10 * block, 10);
    expect_strained(TIER_REASON_FRAGMENTED);
    cr_assert_eq(health_of().unusable_permille, 500U);
    cr_assert_eq(health_of().fragmentation, -1000);
    set_up(ARENA_PAGES);
    fill_by_address();
    scatter(12 * block, 1);
    expect_strained(TIER_REASON_FRAGMENTED);
    set_up(ARENA_PAGES);
    fill_by_address();
    scatter(12 * block, 0);
    expect_critical(TIER_REASON_FRAGMENTED);
    cr_assert_eq(health_of().unusable_permille, 1000U);
    cr_assert_eq(health_of().fragmentation,
                 tier_buddy_fragmentation(&heap.zones.zone[0].buddy,
                                          TIERALLOC_HEALTH_ORDER));
    cr_assert(health_of().fragmentation > 0);
    for (size_t i = 0; i < ARENA_PAGES; i++) {
        (void)tier_free(&heap, page(i));
    }
    cr_assert_eq(health_of().reasons & TIER_REASON_FRAGMENTED, 0U);
}

Test(inspect, health_calls_little_memory_not_fragmented)
{
    const size_t block = (size_t)1 << TIERALLOC_HEALTH_ORDER;

    set_up(ARENA_PAGES);
    fill_by_address();
    scatter(block - 1, 0);
    cr_assert_eq(health_of().reasons, TIER_REASON_PRESSURE);
    cr_assert_eq(tier_free(&heap, page(ARENA_PAGES - 2)), TIER_OK);
    cr_assert_eq(health_of().reasons,
                 block == 1 ? TIER_REASON_PRESSURE
                            : TIER_REASON_PRESSURE | TIER_REASON_FRAGMENTED);
}

/* Pages of the piece that is free at an index; 0: none begins there. */
static size_t piece_at(size_t index)
{
    const uint8_t *const kind = heap.map.kind;
    size_t pages = 1;

    if ((kind[index] & TIER_KIND_MASK) == TIER_KIND_FREE) {
        return (size_t)1 << (kind[index] & TIER_ORDER_MASK);
    }
    if (kind[index] == TIER_KIND_FREE_PAGE) {
        return 1;
    }
    if (kind[index] != TIER_KIND_FREE_HEAD) {
        return 0;
    }
    while (kind[index + pages] != TIER_KIND_FREE_TAIL) {
        pages++;
    }
    return pages + 1;
}

/* Pages that are free and in pieces too small, found in the map. */
static void expect_pieces(void)
{
    const size_t enough = (size_t)1 << TIERALLOC_HEALTH_ORDER;
    const struct tier_health health = health_of();
    size_t total = 0;
    size_t small = 0;
    size_t count = 0;

    for (size_t i = 0; i < heap.map.pages; i++) {
        const size_t pages = piece_at(i);

        total += pages;
        count += pages != 0;
        small += pages < enough ? pages : 0;
    }
    cr_assert_eq(total, stats_of().free_pages);
    cr_assert_eq(health.unusable_permille,
                 total == 0 ? 0U : (unsigned)(small * 1000 / total));
    cr_assert_eq(health.used_permille,
                 (unsigned)((stats_of().managed_pages - total) * 1000 /
                            stats_of().managed_pages));
    if (small < total) {
        cr_assert_eq(health.fragmentation, -1000);
    } else if (total != 0) {
        const long index =
            1000 - (long)((1000 + total * 1000 / enough) / count);

        cr_assert_eq(health.fragmentation, index < 0 ? 0 : index);
    }
}

Test(inspect, health_finds_free_pieces_as_the_map_has_them)
{
    set_up_all();
    for (unsigned i = 0; i < TIERALLOC_TEST_STEPS; i++) {
        random_step(5);
        if (i % 32 == 0) {
            expect_pieces();
        }
    }
    free_slots();
    expect_pieces();
}

/* Fill the arena with runs of one length and free every other one. */
static void scatter_runs(size_t pages)
{
    struct tier_page_source source;
    size_t runs = 0;
    void *run;

    set_up(ARENA_PAGES);
    tier_source(&heap, &source);
    while (runs < SLOTS &&
           (run = source.acquire(source.context, pages)) != NULL) {
        slot[runs++].memory = run;
    }
    for (size_t i = 0; i < runs; i += 2) {
        source.release(source.context, slot[i].memory, pages);
        expect_pieces();
    }
}

Test(inspect, health_counts_runs_that_are_too_short)
{
    const size_t enough = (size_t)1 << TIERALLOC_HEALTH_ORDER;

    const size_t lengths[] = {1,  2,          3,      5,         8,
                              13, enough - 1, enough, enough + 1};

    for (size_t i = 0; i < COUNT(lengths); i++) {
        scatter_runs(lengths[i]);
        cr_assert(lengths[i] < enough || health_of().fragmentation == -1000);
    }
}

/* Have requests fail, or not. */
static void request(size_t count, bool fail)
{
    for (size_t i = 0; i < count; i++) {
        void *const block = fail ? tier_alloc(&heap, TIER_BLOCK_MAX)
                                 : tier_alloc_pages(&heap, 0);

        cr_assert_eq(block == NULL, fail);
        cr_assert_eq(tier_free(&heap, block), TIER_OK);
    }
}

Test(inspect, health_notices_requests_that_fail)
{
    set_up(ARENA_PAGES);
    heap.recent_requests = 1000;
    heap.recent_failures = TIERALLOC_HEALTH_FAILED - 1;
    expect_good();
    heap.recent_failures = TIERALLOC_HEALTH_FAILED;
    expect_strained(TIER_REASON_FAILING);
    heap.recent_failures = TIERALLOC_HEALTH_FAILED_CRITICAL - 1;
    expect_strained(TIER_REASON_FAILING);
    heap.recent_failures = TIERALLOC_HEALTH_FAILED_CRITICAL;
    expect_critical(TIER_REASON_FAILING);
    cr_assert_eq(health_of().failed_permille,
                 (unsigned)TIERALLOC_HEALTH_FAILED_CRITICAL);
    heap.recent_failures = 5000;
    cr_assert_eq(health_of().failed_permille, 1000U);
}

Test(inspect, health_forgets_requests_that_failed)
{
    set_up(ARENA_PAGES);
    request(1, true);
    cr_assert_eq(health_of().failed_permille, 10U);
    request(1, true);
    cr_assert_eq(health_of().failed_permille, 20U);
    request(98, false);
    cr_assert_eq(health_of().failed_permille, 20U);
    request(100, false);
    cr_assert_eq(health_of().failed_permille, 10U);
    request(400, true);
    expect_critical(TIER_REASON_FAILING);
    request(20000, false);
    expect_good();

    /* What no memory could meet says nothing of the allocator's health. */
    for (size_t i = 0; i < 300; i++) {
        cr_assert_null(tier_alloc_aligned(&heap, 8, 3));
        cr_assert_null(tier_alloc(&heap, SIZE_MAX));
        cr_assert_null(tier_alloc_pages(&heap, TIERALLOC_MAX_ORDER + 1));
    }
    expect_good();
}

#if TIERALLOC_CHECKS
Test(inspect, health_remembers_misuse)
{
    static int foreign;

    set_up(ARENA_PAGES);
    cr_assert_eq(tier_free(&heap, &foreign), TIER_ERR_FOREIGN);
    expect_strained(TIER_REASON_MISUSE);
    cr_assert_eq(health_of().refused_frees, 1U);
    expect_strained(TIER_REASON_MISUSE);
    set_up(ARENA_PAGES);
    expect_good();
}

Test(inspect, health_remembers_misuse_of_objects)
{
    set_up(ARENA_PAGES);
    unsigned char *const object = tier_alloc(&heap, 100);

    cr_assert_eq(tier_free(&heap, object + 1), TIER_ERR_INTERIOR);
    expect_strained(TIER_REASON_MISUSE);
    cr_assert_eq(health_of().refused_frees, 1U);
}
#endif

Test(inspect, health_is_as_bad_as_the_worst_reason)
{
    set_up(ARENA_PAGES);
    fill(TIERALLOC_HEALTH_USED_CRITICAL);
    heap.refused_frees = 1;
    expect_health(TIER_HEALTH_CRITICAL,
                  TIER_REASON_PRESSURE | TIER_REASON_MISUSE,
                  TIER_REASON_PRESSURE);
    drop(TIERALLOC_HEALTH_USED);
    expect_strained(TIER_REASON_PRESSURE | TIER_REASON_MISUSE);
    drop(TIERALLOC_HEALTH_USED - 1);
    expect_strained(TIER_REASON_MISUSE);
}

/* Pages kept without use: what waits, empty slabs, a heap in which all is free.*/
static size_t kept_pages(void)
{
    const struct tier_stats stats = stats_of();
    size_t pages = stats.waiting_bytes / TIER_PAGE_SIZE;

    for (size_t i = 0; i < heap.map.pages; i++) {
        if ((heap.map.kind[i] & TIER_KIND_SLAB) != 0) {
            const struct tier_slab_desc_ *const desc = heap.map.entry[i].slab;

            pages += desc->free == desc->objects;
        }
    }
    return pages + (stats.heap_objects == 0 ? stats.heap_pages : 0);
}

/* Give everything back that is kept. */
static void trim_all(void)
{
    for (unsigned i = TIERALLOC_CPUS; i > 0; i--) {
        test_cpu = i - 1;
        (void)tier_trim(&heap);
    }
    (void)tier_trim(&heap);
}

#define FEW_PAGES ((size_t)160)

/* Manage so many pages, of FEW_PAGES, that the kept ones are at the border. */
static void expect_hoarding_at_the_border(void)
{
    const size_t kept = kept_pages();
    const size_t border = kept * 1000 / TIERALLOC_HEALTH_WAITING;

    cr_assert(border > FEW_PAGES && border < ARENA_PAGES);
    cr_assert_eq(health_of().waiting_permille,
                 (unsigned)(kept * 1000 / FEW_PAGES));
    cr_assert_eq(tier_add_region(&heap, page(FEW_PAGES),
                                 (border - FEW_PAGES) * TIER_PAGE_SIZE),
                 TIER_OK);
    expect_strained(TIER_REASON_HOARDING);
    cr_assert_eq(health_of().waiting_permille,
                 (unsigned)(kept * 1000 / border));
    cr_assert_eq(tier_add_region(&heap, page(border), TIER_PAGE_SIZE), TIER_OK);
    expect_good();
    cr_assert_eq(health_of().waiting_permille,
                 (unsigned)(kept * 1000 / (border + 1)));
    cr_assert_eq(tier_remove_region(&heap, page(border), TIER_PAGE_SIZE),
                 TIER_OK);
    expect_strained(TIER_REASON_HOARDING);
    trim_all();
    expect_good();
    cr_assert_eq(health_of().waiting_permille, 0U);
}

Test(inspect, health_sees_hoarding_of_objects)
{
    set_up(FEW_PAGES);
    cr_assert_eq(tier_add_cache(&heap, &inode, "inode", 200, 8, 0, NULL),
                 TIER_OK);
    for (unsigned i = 0;
         i < TIER_SLAB_CLASSES && kept_pages() < FEW_PAGES * 2 / 5; i++) {
        test_cpu = TIERALLOC_CPUS > 1 ? i % 2 : 0;
        if (tier_slab_class_bytes(i) > TIER_GUARD_BYTES) {
            cr_assert_eq(
                tier_free(&heap, tier_alloc(&heap, tier_slab_class_bytes(i) -
                                                       TIER_GUARD_BYTES)),
                TIER_OK);
        }
    }
    cr_assert_eq(tier_free(&heap, tier_alloc_from(&heap, &inode)), TIER_OK);
    expect_hoarding_at_the_border();
}

/* Pages of the slab that a cache takes objects from. */
static size_t pages_of_current(const struct tier_cache *cache)
{
    cr_assert_not_null(cache->base.current);
    return cache->base.current->pages;
}

Test(inspect, health_counts_the_empty_slabs_of_named_caches)
{
    static struct tier_cache caches[FEW_PAGES];
    size_t count = 0;
    size_t pages = 0;

    set_up(FEW_PAGES);
    for (; pages < FEW_PAGES * 2 / 5; count++) {
        cr_assert_eq(
            tier_add_cache(&heap, &caches[count], "named", 64, 8, 0, NULL),
            TIER_OK);
        cr_assert_eq(tier_free(&heap, tier_alloc_from(&heap, &caches[count])),
                     TIER_OK);
        pages += pages_of_current(&caches[count]);
    }
    cr_assert_eq(kept_pages(), pages);
    expect_hoarding_at_the_border();
}

/* A slab that is not current, and a part of the heap. */
Test(inspect, health_counts_each_kind_of_kept_memory)
{
    size_t count = 0;

    set_up_all();
    while (inode.base.slabs < 2) {
        slot[count++].memory = tier_alloc_from(&heap, &inode);
    }
    const size_t slab = pages_of_current(&inode);
    void *const last = slot[count - 1].memory;
    const unsigned before = health_of().waiting_permille;

    cr_assert_eq(before, 0U);
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    void *const part = tier_alloc(&heap, 100);

    cr_assert_eq(health_of().waiting_permille, 0U);
    cr_assert_eq(tier_free(&heap, part), TIER_OK);
    const size_t managed = stats_of().managed_pages;
    const size_t area = stats_of().heap_pages;

    cr_assert(area != 0);
    cr_assert_eq(health_of().waiting_permille,
                 (unsigned)(area * 1000 / managed));
    cr_assert_eq(tier_free(&heap, last), TIER_OK);
    cr_assert_eq(health_of().waiting_permille,
                 (unsigned)((area + slab) * 1000 / managed));
    slot[count - 1].memory = NULL;

    /* It is used again; and now the other slab becomes empty. */
    slot[SLOTS - 1].memory = tier_alloc_from(&heap, &inode);
    cr_assert_eq(health_of().waiting_permille,
                 (unsigned)(area * 1000 / managed));
    for (size_t i = 0; i < SLOTS - 1; i++) {
        cr_assert_eq(tier_free(&heap, slot[i].memory), TIER_OK);
    }
    cr_assert_eq(health_of().waiting_permille,
                 (unsigned)(kept_pages() * 1000 / managed));
    cr_assert(kept_pages() == area + slab);
}

Test(inspect, texts_are_never_null_and_all_different)
{
    static const unsigned reasons[] = {
        TIER_REASON_PRESSURE,  TIER_REASON_LOW,        TIER_REASON_MIN,
        TIER_REASON_FAILING,   TIER_REASON_MISUSE,     TIER_REASON_HOARDING,
        TIER_REASON_NO_MEMORY, TIER_REASON_FRAGMENTED, 0x100U};

    for (size_t i = 0; i < COUNT(reasons); i++) {
        cr_assert(tier_reason_text(reasons[i])[0] != '\0');
        for (size_t j = 0; j < i; j++) {
            cr_assert(strcmp(tier_reason_text(reasons[i]),
                             tier_reason_text(reasons[j])) != 0);
            cr_assert_eq(reasons[i] & reasons[j], 0U);
        }
    }
    cr_assert(strcmp(tier_reason_text(0), "unknown reason") == 0);
    cr_assert(strcmp(tier_reason_text(3), "unknown reason") == 0);
    cr_assert(strncmp(tier_verdict_text(TIER_HEALTH_GOOD), "good", 4) == 0);
    cr_assert(strncmp(tier_verdict_text(TIER_HEALTH_STRAINED), "strain", 6) ==
              0);
    cr_assert(strncmp(tier_verdict_text(TIER_HEALTH_CRITICAL), "crit", 4) == 0);
    cr_assert(strcmp(tier_verdict_text((enum tier_verdict)3),
                     "unknown verdict") == 0);
}

/* --- Leaks ---------------------------------------------------------------- */

#if TIERALLOC_CHECKS == 2

#define SITES_MAX 64

static struct tier_leak found[SITES_MAX];
static struct tier_leak model[SITES_MAX];
static size_t model_sites;

/* Count something in the model. */
static void model_count(uintptr_t site, size_t count, size_t bytes)
{
    size_t i = 0;

    while (i < model_sites && model[i].site != site) {
        i++;
    }
    cr_assert(i < SITES_MAX);
    if (i == model_sites) {
        model_sites++;
        model[i].site = site;
        model[i].count = 0;
        model[i].bytes = 0;
    }
    model[i].count += count;
    model[i].bytes += bytes;
}

/* True when one line of the list belongs before another. */
static bool is_before(const struct tier_leak *a, const struct tier_leak *b)
{
    return a->bytes > b->bytes || (a->bytes == b->bytes && a->site < b->site);
}

/* Fill the model from the slots, sorted. */
static void model_fill(void)
{
    model_sites = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        if (slot[i].memory != NULL) {
            model_count(slot[i].site, 1, slot[i].bytes);
        }
    }
    for (size_t i = 1; i < model_sites; i++) {
        for (size_t j = i; j > 0 && is_before(&model[j], &model[j - 1]); j--) {
            const struct tier_leak swapped = model[j];

            model[j] = model[j - 1];
            model[j - 1] = swapped;
        }
    }
}

/* The list must be that of the model, with this much room for it. */
static void expect_leaks(size_t capacity)
{
    const size_t lines = capacity < model_sites ? capacity : model_sites;
    struct tier_leak last = {0, 0, 0};

    memset(found, 0xA5, sizeof(found));
    cr_assert_eq(tier_leaks(&heap, capacity == 0 ? NULL : found, capacity),
                 model_sites);
    cr_assert(!heap.lock.held);
    for (size_t i = 0; i < model_sites; i++) {
        if (i + 1 < lines || model_sites <= capacity) {
            cr_assert_eq(found[i].site, model[i].site);
            cr_assert_eq(found[i].count, model[i].count);
            cr_assert_eq(found[i].bytes, model[i].bytes);
        } else {
            last.count += model[i].count;
            last.bytes += model[i].bytes;
        }
    }
    if (model_sites > capacity && capacity > 0) {
        cr_assert_eq(found[lines - 1].site, 0U);
        cr_assert_eq(found[lines - 1].count, last.count);
        cr_assert_eq(found[lines - 1].bytes, last.bytes);
    }
    if (lines < SITES_MAX) {
        cr_assert(test_all(&found[lines], 0xA5, sizeof(found[0])));
    }
}

/* The list must be that of what the slots have, for every capacity. */
static void expect_leaks_of_slots(void)
{
    const struct tier_stats stats = stats_of();
    size_t count = 0;

    model_fill();
    for (size_t capacity = 0; capacity <= model_sites + 1; capacity++) {
        expect_leaks(capacity < SITES_MAX ? capacity : SITES_MAX);
    }
    for (size_t i = 0; i < model_sites; i++) {
        count += model[i].count;
    }
    cr_assert_eq(count,
                 stats.live_objects + stats.heap_objects + stats.live_blocks);
}

/* Put memory into a slot as what a site has in use. */
static void keep(size_t index, void *memory, size_t bytes)
{
    cr_assert_not_null(memory);
    cr_assert_eq(bytes_of(memory), bytes);
    slot[index].memory = memory;
    slot[index].site = test_site;
    slot[index].bytes = bytes;
}

Test(inspect, leaks_are_none_at_first)
{
    memset(&heap, 0xA5, sizeof(heap));
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                 TIER_OK);
    cr_assert_eq(tier_leaks(&heap, found, SITES_MAX), 0U);
    set_up_all();
    expect_leaks_of_slots();
    cr_assert_eq(tier_leaks(&heap, NULL, 0), 0U);
}

Test(inspect, leaks_are_found_in_each_tier)
{
    void *memory;

    set_up_all();
    test_site = 0x77;
    keep(0, tier_alloc(&heap, 100), 100);
    keep(1, tier_alloc(&heap, 100), 100);
    test_site = 0x66;
    keep(2, tier_alloc_from(&heap, &inode), 200);
    test_site = 0x55;
    keep(3, tier_alloc_pages(&heap, 2), 4 * TIER_PAGE_SIZE);
    test_site = 0x44;
    keep(4, tier_alloc(&heap, 9 * TIER_PAGE_SIZE), 9 * TIER_PAGE_SIZE);
    test_site = UINTPTR_MAX;
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    keep(5, tier_alloc(&heap, 41), 41);
    cr_assert_eq(tier_set_mode(&heap, TIER_TWO_TIER), TIER_OK);
    test_site = 0;
    keep(6, tier_alloc(&heap, 1), 1);
    test_site = 0x33;
    cr_assert_eq(tier_try_alloc(&heap, 1, TIER_DMA, &memory), TIER_OK);
    keep(7, memory, TIER_ZONES_MAX > 1 ? TIER_PAGE_SIZE : 1);
    expect_leaks_of_slots();
    for (size_t i = 0; i < 8; i++) {
        cr_assert_eq(tier_free(&heap, slot[i].memory), TIER_OK);
        slot[i].memory = NULL;
        expect_leaks_of_slots();
    }
    cr_assert_eq(model_sites, 0U);
}

Test(inspect, leaks_follow_who_resized)
{
    set_up_all();
    test_site = 0x11;
    keep(0, tier_alloc(&heap, 100), 100);
    expect_leaks_of_slots();
    test_site = 0x22;
    keep(0, tier_realloc(&heap, slot[0].memory, 300), 300);
    expect_leaks_of_slots();
    cr_assert_eq(found[0].site, 0x22U);
}

/* What was freed waits for a CPU, which is no leak. */
Test(inspect, leaks_are_not_what_waits)
{
    set_up_all();
    for (size_t i = 0; i < 200; i++) {
        keep(i, tier_alloc(&heap, 100), 100);
    }
    for (size_t i = 0; i < 200; i += 2) {
        test_cpu = TIERALLOC_CPUS > 1 ? (unsigned)(i / 2 % 2) : 0;
        cr_assert_eq(tier_free(&heap, slot[i].memory), TIER_OK);
        slot[i].memory = NULL;
    }
    cr_assert_eq(stats_of().waiting_objects != 0, TIERALLOC_CPUS > 0);
    expect_leaks_of_slots();
    cr_assert_eq(found[0].count, 100U);
}

/* Overwrite the record behind an object. */
static void lose_record(void *object, size_t object_bytes)
{
    unsigned char *const end = (unsigned char *)object + object_bytes;

    memset(end - sizeof(struct tier_guard_record), 0x5A,
           sizeof(struct tier_guard_record));
}

Test(inspect, leaks_without_a_record_are_of_nobody)
{
    const size_t lost = sizeof(struct tier_guard_record);

    set_up_all();
    test_site = 9;
    keep(0, tier_alloc_from(&heap, &inode), 200);
    keep(1, tier_alloc(&heap, 100), 100);
    cr_assert_eq(tier_set_mode(&heap, TIER_SIMPLE), TIER_OK);
    keep(2, tier_alloc(&heap, 100), 100);
    for (size_t i = 0; i < 3; i++) {
        const size_t room =
            i < 2 ? tier_slab_find_(&heap.slab, slot[i].memory)
                        ->cache->object_bytes
                  : tier_heap_usable_size(&heap.heap, slot[i].memory);

        lose_record(slot[i].memory, room);
        slot[i].site = 0;
        slot[i].bytes = room - lost;
        expect_leaks_of_slots();
    }
    cr_assert_eq(model_sites, 1U);
}

#if TIERALLOC_CPUS > 0
Test(inspect, leaks_are_not_what_waits_without_a_record)
{
    set_up_all();
    void *const object = tier_alloc(&heap, 100);

    cr_assert_eq(tier_free(&heap, object), TIER_OK);
    const uintptr_t mark = *(const uintptr_t *)object;

    *(uintptr_t *)object = 0; /* the record tells, without the mark */
    expect_leaks_of_slots();
    *(uintptr_t *)object = mark; /* and the mark without the record */
    lose_record(object,
                tier_slab_find_(&heap.slab, object)->cache->object_bytes);
    expect_leaks_of_slots();
    cr_assert_eq(model_sites, 0U);
}
#endif

/* Far more sites than one look adds up, in an order that is none. */
Test(inspect, leaks_of_many_sites_are_all_found)
{
    set_up_all();
    for (size_t i = 0; i < 60; i++) {
        test_site = i * 37 % 61 * 0x100;
        keep(i, tier_alloc(&heap, 1 + i % 7), 1 + i % 7);
        if (i % 10 == 0 || i == 59) {
            expect_leaks_of_slots();
        }
    }
    cr_assert_eq(model_sites, 60U);
    for (size_t i = 0; i < 60; i++) {
        test_site = UINTPTR_MAX - i;
        keep(60 + i, tier_alloc(&heap, 200), 200);
        cr_assert_eq(tier_free(&heap, slot[i].memory), TIER_OK);
        slot[i].memory = NULL;
    }
    expect_leaks_of_slots();
    cr_assert_eq(model_sites, 60U);
}

Test(inspect, leaks_agree_with_the_model_in_a_random_run)
{
    set_up_all();
    for (unsigned i = 0; i < TIERALLOC_TEST_STEPS; i++) {
        random_step(1 + i / 100 % 50);
        if (i % 100 == 0) {
            expect_leaks_of_slots();
        }
    }
    free_slots();
    expect_leaks_of_slots();
    cr_assert_eq(model_sites, 0U);
}

/* One line of the table of leaks. */
static void expect_leak_line(const char *site, const struct tier_leak *leak)
{
    const size_t width = 2 + sizeof(uintptr_t) * 2;

    for (size_t i = strlen(site); i < width; i++) {
        expect_text(" ");
    }
    expect_text(site);
    expect_column(leak->count, 11);
    expect_column(leak->bytes, 14);
    expect_text("\n");
}

/* A site as the table has it. */
static const char *site_text(uintptr_t site)
{
    static char text[2 + sizeof(uintptr_t) * 2 + 1] = "0x";

    for (size_t i = sizeof(text) - 2; i > 1; i--) {
        text[i] = "0123456789abcdef"[site % 16];
        site /= 16;
    }
    return text;
}

/* The table must be that of the model. */
static void expect_leak_table(void)
{
    struct tier_leak others = {0, 0, 0};

    model_fill();
    dump.length = 0;
    dump.unlocked = 0;
    tier_dump_leaks(&heap, put, &dump);
    cr_assert_eq(dump.unlocked, 0U, "put is called under the lock");
    reader = dump.text;
    for (size_t i = 4; i < 2 + sizeof(uintptr_t) * 2; i++) {
        expect_text(" ");
    }
    expect_text("site      count         bytes\n");
    for (size_t i = 0; i < model_sites; i++) {
        if (i < 31 || model_sites <= 32) {
            expect_leak_line(site_text(model[i].site), &model[i]);
        } else {
            others.count += model[i].count;
            others.bytes += model[i].bytes;
        }
    }
    if (model_sites > 32) {
        expect_leak_line("others", &others);
    }
    expect_text("");
    cr_assert_eq(*reader, '\0');
}

Test(inspect, leaks_make_a_table)
{
    set_up_all();
    expect_leak_table();
    for (size_t i = 0; i < 40; i++) {
        test_site = (i + 1) * (UINTPTR_MAX / 61);
        keep(i, tier_alloc(&heap, 1 + i * 13), 1 + i * 13);
        expect_leak_table();
    }
}

#endif /* TIERALLOC_CHECKS == 2 */
