/*
 * tests/test_modes.c - SIMPLE, TWO_TIER and HYBRID, and every way between them.
 *
 * SPDX-License-Identifier: MIT
 *
 * Holds for each option of config.h that the command line sets, with one CPU or
 * without caches; try TIERALLOC_PAGE_SHIFT=8 too.
 */
#define TIERALLOC_IMPLEMENTATION
#include "model.h"

#include <tieralloc/tieralloc.h>

/* --- The rig -------------------------------------------------------------- */

#define ARENA_PAGES ((size_t)512)
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)
#define MODES       3
#define NAMED_BYTES ((size_t)136)

/* The most bytes that the slab tier gives in one object. */
#define OBJECT_BYTES ((size_t)TIER_SLAB_BYTES_MAX)

/* Pages in the smallest machine: 4 KiB, or a page where that is more. */
#define FEW_BYTES (TIER_PAGE_SIZE < 4 * KIB ? 4 * KIB : TIER_PAGE_SIZE)
#define FEW_PAGES (FEW_BYTES / TIER_PAGE_SIZE)

/* Bytes of the region of an area that the heap takes when one page would do. */
#define AREA_BYTES (TIER_HEAP_GROW_PAGES * TIER_PAGE_SIZE)

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8 + 1];
static struct tier_allocator heap;
static struct tier_cache named;
static struct model model;
static bool claimed[ARENA_BYTES / MODEL_GRAIN];
static uint64_t random_state;

static uint32_t below(size_t bound)
{
    return test_below(&random_state, (uint32_t)bound);
}

/* An allocator over so many pages from `base`, which is in the arena. */
static void set_up_at(void *base, size_t pages)
{
    random_state = TEST_SEED;
    memset(&heap, 0xA5, sizeof(heap));
    memset(base, 0xA5, pages * TIER_PAGE_SIZE);
    cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, map_memory,
                           sizeof(map_memory)),
                 TIER_OK);
    cr_assert_eq(tier_add_region(&heap, base, pages * TIER_PAGE_SIZE), TIER_OK);
    model_init(&model, arena, ARENA_BYTES, claimed);
}

static void set_up(size_t pages)
{
    set_up_at(arena, pages);
}

/* The smallest machine: 4 KiB, which are a block. */
static void set_up_few(void)
{
    set_up_at(test_align(arena, FEW_BYTES), FEW_PAGES);
}

static void set_mode(enum tier_mode mode)
{
    cr_assert_eq(tier_set_mode(&heap, mode), TIER_OK);
}

static struct tier_stats stats(void)
{
    struct tier_stats now;

    tier_stats(&heap, &now);
    return now;
}

/* Whose memory an address is in, by the map. */
static unsigned kind_of(const void *memory)
{
    const size_t page = (size_t)((const unsigned char *)memory - arena);

    return heap.map.kind[page >> TIERALLOC_PAGE_SHIFT];
}

static bool in_heap(const void *memory)
{
    return kind_of(memory) == TIER_KIND_HEAP;
}

static bool in_slab(const void *memory)
{
    return (kind_of(memory) & TIER_KIND_SLAB) != 0;
}

/* The invariants hold, and what is live is what the model has. */
static void expect_sound(void)
{
    const struct tier_stats now = stats();

    cr_assert(tier_check(&heap));
    cr_assert_eq(now.live_objects + now.heap_objects + now.live_blocks,
                 model.count);
    if (TIERALLOC_CHECKS < 2) {
        cr_assert_eq(now.live_bytes, model.bytes);
    }
}

/* Nothing is in use: a trim must make every page free. */
static void expect_all_free(void)
{
    (void)tier_trim(&heap);
    const struct tier_stats now = stats();

    cr_assert_eq(now.free_pages, now.managed_pages);
    cr_assert_eq(now.free_run_pages, 0U, "all are in blocks");
    cr_assert_eq(now.slab_pages, 0U);
    cr_assert_eq(now.heap_pages, 0U);
    cr_assert_eq(now.heap_objects, 0U);
    cr_assert_eq(now.live_bytes, 0U);
    cr_assert_eq(now.waiting_objects, 0U);
    cr_assert(tier_check(&heap));
}

/* Free all that the model has, each byte of it checked. */
static void free_all(void)
{
    while (model.count > 0) {
        void *const memory = model.slot[0].at;

        model_drop(&model, 0);
        cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    }
    expect_all_free();
}

/* --- Allocations of every kind -------------------------------------------- */

/* The tag of a slot: what it is, and which mode it was made in. */
#define KINDS     11
#define FROM(tag) ((tag) % MODES)
#define KIND(tag) ((tag) / MODES % KINDS)

/* Only what is usable, not what was asked for, tells its size. */
#define LOOSE ((unsigned)KINDS * MODES)

/* What has no size to free by: an object of a named cache. */
#define KIND_NAMED 8

static void *allocate_named(size_t *bytes)
{
    *bytes = NAMED_BYTES;
    return tier_alloc_from(&heap, &named);
}

/* Fresh zeros, each byte of which must be one. */
static void *allocate_zeros(size_t bytes)
{
    void *const memory = tier_calloc(&heap, 3, bytes / 3);

    cr_assert(memory == NULL || test_all(memory, 0, bytes / 3 * 3));
    return memory;
}

static void *allocate_flagged(size_t bytes)
{
    void *memory;
    const enum tier_status status =
        tier_try_alloc(&heap, bytes, TIER_ZERO | TIER_NORMAL, &memory);

    cr_assert_eq(memory != NULL, status == TIER_OK);
    cr_assert(memory == NULL || test_all(memory, 0, bytes));
    return memory;
}

static void *allocate_aligned(size_t bytes, size_t alignment)
{
    void *const memory = tier_alloc_aligned(&heap, bytes, alignment);

    cr_assert_eq((uintptr_t)memory % alignment, 0U);
    return memory;
}

/* Make an allocation of a kind; *bytes is what it was asked for with. */
static void *allocate(unsigned kind, size_t *bytes, bool *loose)
{
    *loose = kind == 6 || kind == 7 || kind == 9;
    switch (kind) {
    case 0:
        *bytes = 0;
        return tier_alloc(&heap, 0);
    case 1:
        *bytes = 1 + below(200);
        return tier_alloc(&heap, *bytes);
    case 2:
        *bytes = 1 + below(OBJECT_BYTES / 8);
        return tier_alloc(&heap, *bytes);
    case 3:
        *bytes = OBJECT_BYTES + 1 + below(TIER_PAGE_SIZE);
        return tier_alloc(&heap, *bytes);
    case 4:
        *bytes = TIER_PAGE_SIZE;
        return tier_alloc_pages(&heap, 0);
    case 5:
        *bytes = TIER_PAGE_SIZE * 2;
        return tier_alloc_pages(&heap, 1);
    case 6:
        *bytes = 1 + below(TIER_PAGE_SIZE / 2);
        return allocate_aligned(*bytes, (size_t)1 << below(8));
    case 7:
        *bytes = 1 + below(TIER_PAGE_SIZE);
        return allocate_aligned(*bytes, TIER_PAGE_SIZE * 2);
    case KIND_NAMED:
        return allocate_named(bytes);
    case 9:
        *bytes = 1 + below(100);
        return allocate_aligned(*bytes, TIER_PAGE_SIZE);
    default:
        *bytes = (1 + below(TIER_PAGE_SIZE / 4)) * 3;
        return below(2) == 0 ? allocate_zeros(*bytes)
                             : allocate_flagged(*bytes);
    }
}

/* Make an allocation and note it; false when there is no memory. */
static bool make(enum tier_mode mode, unsigned kind)
{
    size_t bytes;
    bool loose;
    void *const memory = allocate(kind, &bytes, &loose);

    if (memory == NULL) {
        return false;
    }
    cr_assert(kind == KIND_NAMED || mode != TIER_SIMPLE || !in_slab(memory));
    cr_assert(mode != TIER_TWO_TIER || !in_heap(memory));
    model_add(&model, memory, bytes, tier_usable_size(&heap, memory),
              kind * MODES + (unsigned)mode + (loose ? LOOSE : 0));
    return true;
}

/* The ways to free. */
#define WAYS 3

/* Bytes to free an allocation with. */
static size_t size_of(const struct model_slot *slot)
{
    return slot->tag >= LOOSE ? slot->bytes : slot->asked;
}

/* Free an allocation in one of the ways; sizes that are wrong are refused. */
static void release(size_t index, unsigned way)
{
    const struct model_slot slot = model.slot[index];
    void *memory = slot.at;

    cr_assert_eq(tier_usable_size(&heap, memory), slot.bytes);
    model_drop(&model, index);
    if (way == 0) {
        cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    } else if (way == 1) {
        cr_assert_eq(tier_free_bulk(&heap, 1, &memory), TIER_OK);
    } else if (KIND(slot.tag) == KIND_NAMED) {
        cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    } else {
        if (!in_slab(memory) || TIERALLOC_CHECKS > 0) {
            cr_assert_eq(
                tier_free_sized(&heap, memory,
                                slot.bytes + OBJECT_BYTES + TIER_PAGE_SIZE * 9),
                TIER_ERR_WRONG_SIZE);
        }
        cr_assert_eq(tier_free_sized(&heap, memory, size_of(&slot)), TIER_OK);
    }
}

/* --- Switching ------------------------------------------------------------ */

/* Whether a kind made in a mode was freed in another, and in which way. */
static bool seen[MODES][MODES][KINDS][WAYS];

/* Free about so many of the oldest and newest alike; all when it is the last.*/
static void release_some(enum tier_mode mode, size_t share)
{
    for (size_t i = model.count; i-- > 0;) {
        const unsigned tag = model.slot[i].tag;
        const unsigned way = below(WAYS);

        if (below(share) == 0) {
            seen[FROM(tag)][mode][KIND(tag)][way] = true;
            release(i, way);
        }
    }
}

/* Work through modes, three to the power of `length` ways, in one way. */
static void run_sequence(size_t code, size_t length)
{
    for (size_t i = 0; i < length; i++, code /= MODES) {
        const enum tier_mode mode = (enum tier_mode)(code % MODES);

        set_mode(mode);
        for (unsigned kind = 0; kind < KINDS; kind++) {
            cr_assert(make(mode, kind), "kind %u", kind);
        }
        expect_sound();
        release_some(mode, length - i);
        expect_sound();
    }
    cr_assert_eq(model.count, 0U);
    expect_all_free();
}

Test(modes, switch_in_every_order_while_memory_is_in_use)
{
    const size_t longest = TIERALLOC_TEST_STEPS < 20000 ? 5 : 6;
    size_t sequences = 1;

    set_up(ARENA_PAGES);
    cr_assert_eq(
        tier_add_cache(&heap, &named, "named", NAMED_BYTES, 8, 0, NULL),
        TIER_OK);
    memset(seen, 0, sizeof(seen));
    for (size_t length = 1; length <= longest; length++) {
        sequences *= MODES;
        for (size_t code = 0; code < sequences; code++) {
            run_sequence(code, length);
        }
    }
    cr_assert(test_all(seen, true, sizeof(seen)), "not every pair was tried");
    cr_assert_eq(tier_remove_cache(&heap, &named), TIER_OK);
}

/* --- A random run --------------------------------------------------------- */

static enum tier_mode mode_now;

/* Bytes to resize to: mostly near what there is, at times anything. */
static size_t random_bytes(const struct model_slot *slot)
{
    switch (below(4)) {
    case 0:
        return slot->bytes;
    case 1:
        return below(slot->bytes * 2);
    case 2:
        return below(slot->bytes + 1);
    default:
        return below(OBJECT_BYTES * 3 / 2);
    }
}

/* Resize an allocation, keeping its contents, or fail and change nothing. */
static void random_resize(size_t index)
{
    const struct model_slot slot = model.slot[index];
    const size_t bytes = random_bytes(&slot);
    const bool block = (kind_of(slot.at) & TIER_KIND_MASK) == TIER_KIND_BLOCK;
    unsigned char *const memory = tier_realloc(&heap, slot.at, bytes);

    if (memory == NULL) {
        cr_assert_gt(bytes, slot.bytes, "shrinking failed");
        cr_assert(model_holds(&slot, slot.at, slot.bytes));
        return;
    }
    const size_t usable = tier_usable_size(&heap, memory);

    cr_assert(
        model_holds(&slot, memory, bytes < slot.bytes ? bytes : slot.bytes));
    cr_assert_geq(usable, bytes);
    cr_assert(memory != slot.at || bytes > slot.bytes || usable <= slot.bytes,
              "shrunk to more");
    cr_assert(!block || bytes <= OBJECT_BYTES ||
              (uintptr_t)memory % usable == 0);
    model_forget(&model, index);
    model_add(&model, memory, bytes, usable,
              memory == slot.at
                  ? (slot.tag >= LOOSE ? slot.tag : slot.tag + LOOSE)
                  : LOOSE + MODES + (unsigned)mode_now);
}

/* Free up to four at once. */
static void random_bulk(void)
{
    void *memory[4];
    size_t count = 0;

    for (; count < COUNT(memory) && model.count > 0; count++) {
        const size_t index = below(model.count);

        memory[count] = model.slot[index].at;
        model_drop(&model, index);
    }
    cr_assert_eq(tier_free_bulk(&heap, count, memory), TIER_OK);
}

static void random_policy(void)
{
    switch (below(3)) {
    case 0:
        mode_now = (enum tier_mode)below(MODES);
        set_mode(mode_now);
        break;
    case 1:
        tier_set_fail_fast(&heap, below(2) == 0);
        break;
    default:
        (void)tier_trim(&heap);
        break;
    }
}

static void random_step(size_t phase)
{
    const uint32_t action = below(100);

    if (action < 8) {
        random_policy();
    } else if (action < (phase % 2 == 0 ? 58 : 40)) {
        (void)make(mode_now, below(KINDS));
    } else if (model.count > 0 && action < 75) {
        random_resize(below(model.count));
    } else if (model.count > 0 && action < 97) {
        release(below(model.count), below(WAYS));
    } else {
        random_bulk();
    }
}

Test(modes, random_switches_agree_with_the_model)
{
    set_up(ARENA_PAGES / 4);
    mode_now = TIER_TWO_TIER;
    cr_assert_eq(
        tier_add_cache(&heap, &named, "named", NAMED_BYTES, 8, 0, NULL),
        TIER_OK);
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        random_step(step / 500);
        expect_sound();
        if (step % 64 == 0) {
            model_verify(&model);
        }
        if (step % 4096 == 4095) {
            free_all();
        }
    }
    cr_assert_gt(stats().failed_no_memory, 0U, "memory was never short");
    free_all();
}

/* --- The mode SIMPLE ------------------------------------------------------ */

/* Fill memory with objects of one size; returns how many there are. */
static size_t fill(size_t bytes)
{
    const size_t before = model.count;
    void *memory;

    while ((memory = tier_alloc(&heap, bytes)) != NULL) {
        model_add(&model, memory, bytes, tier_usable_size(&heap, memory), 0);
    }
    return model.count - before;
}

Test(modes, simple_works_in_four_kib)
{
    const size_t areas =
        FEW_PAGES < TIER_HEAP_GROW_PAGES ? 1 : FEW_PAGES / TIER_HEAP_GROW_PAGES;

    for (size_t bytes = 1; bytes <= FEW_BYTES; bytes += 1 + bytes / 16) {
        const size_t granules =
            (bytes + TIER_GUARD_BYTES + TIERALLOC_MIN_ALIGN - 1) /
            TIERALLOC_MIN_ALIGN;
        const size_t fits = TIER_HEAP_USABLE_BYTES(FEW_BYTES / areas) /
                            (granules * TIERALLOC_MIN_ALIGN) * areas;

        set_up_few();
        set_mode(TIER_SIMPLE);
        const size_t count = fill(bytes);

        cr_assert_geq(count, fits == 0 ? 1 : fits, "%lu of %lu bytes, not %lu",
                      (unsigned long)count, (unsigned long)bytes,
                      (unsigned long)fits);
        expect_sound();
        cr_assert_eq(stats().slab_pages, 0U);
        free_all();
        cr_assert_eq(stats().failed_no_memory, 1U);
    }
}

Test(modes, simple_fills_four_kib_with_any_sizes)
{
    set_up_few();
    set_mode(TIER_SIMPLE);
    for (size_t round = 0; round < 50; round++) {
        size_t bytes = 1 + below(FEW_BYTES / 8);

        while (bytes > 0) {
            void *const memory = tier_alloc(&heap, bytes);

            if (memory == NULL) {
                bytes /= 2;
                continue;
            }
            model_add(&model, memory, bytes, tier_usable_size(&heap, memory),
                      0);
            bytes = 1 + below(FEW_BYTES / 8);
        }
        expect_sound();
        cr_assert_eq(stats().free_pages, 0U);
        free_all();
    }
}

/* The granules of one area: which are in use. */
static bool granule[AREA_BYTES / TIERALLOC_MIN_ALIGN];

/* The first of `count` free granules, aligned; that of the end if none are. */
static size_t first_fit(const unsigned char *base, size_t granules,
                        size_t count, size_t alignment)
{
    for (size_t i = 0; i + count <= granules; i++) {
        size_t run = 0;

        if ((uintptr_t)(base + i * TIERALLOC_MIN_ALIGN) % alignment != 0) {
            continue;
        }
        while (run < count && !granule[i + run]) {
            run++;
        }
        if (run == count) {
            return i;
        }
    }
    return granules;
}

static void mark(size_t first, size_t count, bool used)
{
    for (size_t i = 0; i < count; i++) {
        cr_assert_neq(granule[first + i], used);
        granule[first + i] = used;
    }
}

/* Granules that a request takes. */
static size_t granules_for(size_t bytes)
{
    return (bytes + TIER_GUARD_BYTES + TIERALLOC_MIN_ALIGN - 1) /
           TIERALLOC_MIN_ALIGN;
}

/* Allocate where the model says, or fail when it finds no place. */
static void expect_first_fit(unsigned char *base, size_t granules)
{
    const size_t bytes = 1 + below(below(8) == 0 ? AREA_BYTES / 4 : 120);
    const size_t alignment = (size_t)TIERALLOC_MIN_ALIGN
                             << (below(4) == 0 ? below(5) : 0);
    const size_t count = granules_for(bytes);
    const size_t first = first_fit(base, granules, count, alignment);
    unsigned char *const memory = tier_alloc_aligned(&heap, bytes, alignment);

    if (first == granules) {
        cr_assert_null(memory);
        return;
    }
    cr_assert_eq(memory, base + first * TIERALLOC_MIN_ALIGN);
    mark(first, count, true);
    model_add(&model, memory, bytes, tier_usable_size(&heap, memory), 0);
}

Test(modes, simple_gives_the_lowest_address_that_fits)
{
    const size_t granules =
        TIER_HEAP_USABLE_BYTES(AREA_BYTES) / TIERALLOC_MIN_ALIGN;

    set_up_at(test_align(arena, AREA_BYTES), TIER_HEAP_GROW_PAGES);
    set_mode(TIER_SIMPLE);
    memset(granule, 0, sizeof(granule));
    unsigned char *const base = tier_alloc(&heap, 1);

    model_add(&model, base, 1, tier_usable_size(&heap, base), 0);
    mark(0, granules_for(1), true); /* stays: the area does */
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS / 4; step++) {
        if (model.count < 2 || below(100) < 55) {
            expect_first_fit(base, granules);
        } else {
            const size_t index = 1 + below(model.count - 1);
            const struct model_slot slot = model.slot[index];

            mark((size_t)(slot.at - base) / TIERALLOC_MIN_ALIGN,
                 granules_for(slot.asked), false);
            release(index, 0);
        }
        expect_sound();
    }
    free_all();
}

Test(modes, simple_uses_no_slab)
{
    set_up(ARENA_PAGES);
    set_mode(TIER_SIMPLE);
    for (size_t bytes = 0; bytes <= OBJECT_BYTES; bytes += 1 + bytes / 4) {
        void *const memory = tier_alloc(&heap, bytes);

        cr_assert(in_heap(memory), "%lu bytes", (unsigned long)bytes);
        model_add(&model, memory, bytes, tier_usable_size(&heap, memory), 0);
        cr_assert_eq(stats().slab_pages, 0U);
        cr_assert_eq(stats().waiting_objects, 0U);
    }
    cr_assert_eq(stats().heap_objects, model.count);
    expect_sound();
    free_all();
}

Test(modes, simple_takes_no_object_that_waits)
{
    set_up(ARENA_PAGES);
    void *const object = tier_alloc(&heap, 40);

    cr_assert(in_slab(object));
    cr_assert_eq(tier_free(&heap, object), TIER_OK);
    set_mode(TIER_SIMPLE);
    for (size_t i = 0; i < 100; i++) {
        void *const memory = tier_alloc(&heap, 40);

        cr_assert(in_heap(memory));
        model_add(&model, memory, 40, tier_usable_size(&heap, memory), 0);
    }
    set_mode(TIER_TWO_TIER);
    void *const again = tier_alloc(&heap, 40);

    cr_assert_eq(again, object, "what waited waits still");
    cr_assert_eq(tier_free(&heap, again), TIER_OK);
    free_all();
}

Test(modes, simple_has_runs_for_what_no_area_holds)
{
    set_up_few();
    set_mode(TIER_SIMPLE);
    /* No room for the head and the bits beside it: pages of its own. */
    void *const whole = tier_alloc(&heap, FEW_BYTES);

    cr_assert_eq(whole, test_align(arena, FEW_BYTES));
    cr_assert_eq(stats().live_blocks, 1U);
    model_add(&model, whole, FEW_BYTES, tier_usable_size(&heap, whole), 0);
    expect_sound();
    release(0, 2);
    expect_all_free();
}

Test(modes, heap_pages_come_and_go)
{
    set_up(ARENA_PAGES);
    set_mode(TIER_SIMPLE);
    cr_assert_eq(stats().heap_pages, 0U);
    for (size_t round = 0; round < 5; round++) {
        void *const first = tier_alloc(&heap, 10);

        model_add(&model, first, 10, tier_usable_size(&heap, first), 0);
        cr_assert_eq(stats().heap_pages, TIER_HEAP_GROW_PAGES);
        while (stats().heap_pages < ARENA_PAGES / 2) {
            cr_assert(make(TIER_SIMPLE, 2));
        }
        expect_sound();
        set_mode((enum tier_mode)(round % MODES));
        while (model.count > 0) {
            release(below(model.count), below(WAYS));
        }
        cr_assert_leq(stats().heap_pages, TIER_HEAP_GROW_PAGES,
                      "one empty area may be kept");
        cr_assert_eq(tier_trim(&heap), TIER_HEAP_GROW_PAGES);
        cr_assert_eq(tier_trim(&heap), 0U);
        expect_all_free();
        set_mode(TIER_SIMPLE);
    }
}

Test(modes, heap_pages_can_be_removed_once_they_are_empty)
{
    set_up(ARENA_PAGES);
    set_mode(TIER_SIMPLE);
    void *const memory = tier_alloc(&heap, 10);

    cr_assert_eq(tier_remove_region(&heap, arena, ARENA_BYTES),
                 TIER_ERR_IN_USE);
    cr_assert_eq(tier_free(&heap, memory), TIER_OK);
    cr_assert_gt(stats().heap_pages, 0U);
    cr_assert_eq(tier_remove_region(&heap, arena, ARENA_BYTES), TIER_OK);
    cr_assert_eq(stats().managed_pages, 0U);
    cr_assert_null(tier_alloc(&heap, 10));
    cr_assert(tier_check(&heap));
}

/* --- The mode HYBRID ------------------------------------------------------ */

Test(modes, hybrid_serves_from_the_two_tiers_first)
{
    set_up(ARENA_PAGES);
    set_mode(TIER_SIMPLE);
    void *const begin = tier_alloc(&heap, 10); /* so the heap has room */

    model_add(&model, begin, 10, tier_usable_size(&heap, begin), 0);
    set_mode(TIER_HYBRID);
    for (size_t bytes = 0; bytes <= OBJECT_BYTES * 2; bytes += 1 + bytes / 3) {
        void *const memory = tier_alloc(&heap, bytes);

        cr_assert_not_null(memory);
        cr_assert_eq(in_slab(memory), bytes <= OBJECT_BYTES);
        cr_assert(!in_heap(memory));
        model_add(&model, memory, bytes, tier_usable_size(&heap, memory), 0);
    }
    cr_assert_eq(stats().heap_objects, 1U);
    expect_sound();
    free_all();
}

/* All pages are in use, and the heap, which has an area, has room in it. */
static void set_up_room_in_the_heap(void)
{
    void *memory;

    set_up(64);
    set_mode(TIER_SIMPLE);
    memory = tier_alloc(&heap, 10);
    model_add(&model, memory, 10, tier_usable_size(&heap, memory), 0);
    set_mode(TIER_TWO_TIER);
    while ((memory = tier_alloc_pages(&heap, 0)) != NULL) {
        model_add(&model, memory, TIER_PAGE_SIZE, TIER_PAGE_SIZE, 0);
    }
    cr_assert_eq(stats().free_pages, 0U);
    expect_sound();
}

Test(modes, hybrid_serves_from_the_heap_what_two_tiers_cannot)
{
    for (unsigned fail_fast = 0; fail_fast < 2; fail_fast++) {
        size_t count = 0;

        set_up_room_in_the_heap();
        tier_set_fail_fast(&heap, fail_fast != 0);
        cr_assert_null(tier_alloc(&heap, 40));
        set_mode(TIER_HYBRID);
        for (size_t i = 0; i < 8; i++) {
            void *const memory = tier_alloc(&heap, 40);

            cr_assert_not_null(memory);
            cr_assert(in_heap(memory));
            model_add(&model, memory, 40, tier_usable_size(&heap, memory), 0);
            count++;
        }
        count += fill(40);
        cr_assert_geq(count, (TIER_HEAP_USABLE_BYTES(AREA_BYTES) -
                              granules_for(10) * TIERALLOC_MIN_ALIGN) /
                                 (granules_for(40) * TIERALLOC_MIN_ALIGN));
        expect_sound();
        set_mode(TIER_TWO_TIER);
        cr_assert_null(tier_alloc(&heap, 40));
        free_all();
    }
}

Test(modes, hybrid_serves_large_requests_from_the_heap_too)
{
    /* An area of that many pages, full but for 64 bytes. */
    const size_t pages = OBJECT_BYTES / TIER_PAGE_SIZE + 4;
    const size_t most = TIER_HEAP_USABLE_BYTES(pages * TIER_PAGE_SIZE);
    void *memory;

    set_up(64);
    set_mode(TIER_SIMPLE);
    void *const large = tier_alloc(&heap, most - 2 * TIER_GUARD_BYTES - 64);
    void *const small = tier_alloc(&heap, 10);

    cr_assert(in_heap(large) && in_heap(small));
    cr_assert_eq(stats().heap_pages, pages);
    set_mode(TIER_TWO_TIER);
    while ((memory = tier_alloc_pages(&heap, 0)) != NULL) {
    }
    cr_assert_eq(tier_free(&heap, large), TIER_OK);
    cr_assert_null(tier_alloc(&heap, OBJECT_BYTES + 1));
    set_mode(TIER_HYBRID);
    cr_assert_eq(tier_alloc(&heap, OBJECT_BYTES + 1), large);
    cr_assert(tier_check(&heap));
}

/* --- Zeros, alignment, sizes ---------------------------------------------- */

Test(modes, zeroes_dirty_memory_in_every_mode)
{
    for (unsigned mode = 0; mode < MODES; mode++) {
        set_up(ARENA_PAGES);
        set_mode((enum tier_mode)mode);
        for (size_t bytes = 0; bytes <= OBJECT_BYTES + TIER_PAGE_SIZE;
             bytes += 1 + bytes / 2) {
            void *memory = tier_alloc(&heap, bytes);

            memset(memory, 0xEE, tier_usable_size(&heap, memory));
            cr_assert_eq(tier_free(&heap, memory), TIER_OK);
            cr_assert_eq(tier_try_alloc(&heap, bytes, TIER_ZERO, &memory),
                         TIER_OK);
            cr_assert(test_all(memory, 0, bytes + (bytes == 0)));
            cr_assert_eq(tier_free(&heap, memory), TIER_OK);
        }
        expect_all_free();
    }
}

Test(modes, aligns_as_asked_in_every_mode)
{
    for (unsigned mode = 0; mode < MODES; mode++) {
        set_up(ARENA_PAGES);
        set_mode((enum tier_mode)mode);
        for (size_t alignment = 1; alignment <= TIER_PAGE_SIZE * 16;
             alignment *= 2) {
            for (size_t bytes = 0; bytes <= TIER_PAGE_SIZE * 3;
                 bytes = bytes * 2 + 7) {
                void *const memory = allocate_aligned(bytes, alignment);

                cr_assert_not_null(memory);
                model_add(&model, memory, bytes,
                          tier_usable_size(&heap, memory), LOOSE);
                cr_assert_eq(in_heap(memory), mode == TIER_SIMPLE &&
                                                  alignment <= TIER_PAGE_SIZE);
                release(below(model.count), below(WAYS));
            }
        }
        expect_sound();
        free_all();
    }
}

Test(modes, keeps_an_alignment_when_it_resizes)
{
    set_up(ARENA_PAGES);
    for (size_t alignment = 8; alignment <= TIER_PAGE_SIZE * 4;
         alignment *= 2) {
        void *memory = allocate_aligned(20, alignment);

        for (unsigned step = 0; step < 40; step++) {
            const size_t bytes = 20 + below(TIER_PAGE_SIZE * 3);

            set_mode((enum tier_mode)below(MODES));
            memset(memory, (int)step, 20);
            memory = tier_realloc_aligned(&heap, memory, bytes, alignment);
            cr_assert_not_null(memory);
            cr_assert_eq((uintptr_t)memory % alignment, 0U);
            cr_assert(test_all(memory, (unsigned char)step, 20));
            cr_assert(tier_check(&heap));
        }
        cr_assert_eq(tier_free(&heap, memory), TIER_OK);
        expect_all_free();
    }
}

Test(modes, simple_resizes_in_place_while_it_can)
{
    set_up(ARENA_PAGES);
    set_mode(TIER_SIMPLE);
    void *const first = tier_alloc(&heap, 100);

    memset(first, 0x5A, 100);
    if (TIERALLOC_CHECKS < 2) {
        cr_assert_eq(tier_realloc(&heap, first, 200), first);
        cr_assert_eq(tier_realloc(&heap, first, 10), first);
        cr_assert_eq(tier_usable_size(&heap, first), 16U);
        cr_assert_eq(tier_realloc(&heap, first, 100), first);
        memset(first, 0x5A, 100);
    }
    void *const second = tier_alloc(&heap, 100);
    void *const moved = tier_realloc(&heap, first, 300);

    cr_assert_neq(moved, first, "another is in the way");
    cr_assert(in_heap(moved) && test_all(moved, 0x5A, 100));
    cr_assert_eq(stats().heap_objects, 2U);
    cr_assert_eq(tier_free(&heap, second), TIER_OK);
    cr_assert_eq(tier_free(&heap, moved), TIER_OK);
    expect_all_free();
}

/* Resize; the contents stay, and where it goes is what the mode says. */
static unsigned char *resize(unsigned char *memory, size_t bytes,
                             enum tier_mode mode)
{
    set_mode(mode);
    unsigned char *const moved = tier_realloc(&heap, memory, bytes);

    cr_assert_not_null(moved);
    cr_assert(test_all(moved, 0x77, bytes < 100 ? bytes : 100));
    cr_assert(moved == memory || in_heap(moved) == (mode == TIER_SIMPLE));
    cr_assert_geq(tier_usable_size(&heap, moved), bytes);
    cr_assert(tier_check(&heap));
    return moved;
}

Test(modes, resizing_moves_between_the_tiers_of_the_modes)
{
    for (unsigned from = 0; from < MODES; from++) {
        for (unsigned to = 0; to < MODES; to++) {
            set_up(ARENA_PAGES);
            set_mode((enum tier_mode)from);
            unsigned char *memory = tier_alloc(&heap, 100);
            unsigned char *const behind = tier_alloc(&heap, 100);

            memset(memory, 0x77, 100);
            cr_assert_eq(in_heap(memory), from == TIER_SIMPLE);
            memory = resize(memory, 1000, (enum tier_mode)to);
            cr_assert_eq(in_heap(memory), to == TIER_SIMPLE);
            memory = resize(memory, OBJECT_BYTES + 1, (enum tier_mode)from);
            cr_assert(!in_slab(memory));
            memory = resize(memory, 50, (enum tier_mode)to);
            cr_assert_eq(tier_free(&heap, memory), TIER_OK);
            cr_assert_eq(tier_free(&heap, behind), TIER_OK);
            expect_all_free();
        }
    }
}

/* Take every page, one by one; returns the first of those that are neighbours.*/
static unsigned char *take_every_page(void)
{
    set_up(ARENA_PAGES);
    while (tier_alloc_pages(&heap, 0) != NULL) {
    }
    cr_assert_eq(stats().free_pages, 0U);
    return arena;
}

static void free_page(unsigned char *first, size_t index)
{
    cr_assert_eq(tier_free(&heap, first + index * TIER_PAGE_SIZE), TIER_OK);
}

Test(modes, shrinking_in_place_takes_no_page)
{
    const size_t pages = TIERALLOC_OBJECT_MAX / TIER_PAGE_SIZE;

    for (size_t free_pages = 0; pages > 2 && free_pages < 3; free_pages++) {
        unsigned char *const page = take_every_page();

        for (size_t i = 0; i < pages; i++) {
            free_page(page, i);
        }
        /* There is room for it, and not for a slab of it. */
        void *const object = tier_alloc(&heap, OBJECT_BYTES);

        cr_assert_eq(object, (void *)page);
        for (size_t i = 0; i < free_pages; i++) {
            free_page(page, pages + i);
        }
        cr_assert_eq(tier_realloc(&heap, object, OBJECT_BYTES / 2 + 1), object);
        cr_assert_leq(tier_usable_size(&heap, object), pages * TIER_PAGE_SIZE);
        cr_assert_geq(stats().free_pages, free_pages);
        cr_assert(tier_check(&heap));
    }
}

Test(modes, resizing_never_loses_the_alignment_asked_for)
{
    const size_t bytes = OBJECT_BYTES + TIER_PAGE_SIZE;
    const size_t pages = bytes / TIER_PAGE_SIZE + 1;
    unsigned char *const page = take_every_page();
    const size_t first = (uintptr_t)page / TIER_PAGE_SIZE % 2 == 0 ? 1 : 0;

    for (size_t i = 0; i < pages; i++) {
        free_page(page, first + i);
    }
    unsigned char *const run = tier_alloc(&heap, bytes);

    cr_assert_eq((uintptr_t)run % (TIER_PAGE_SIZE * 2), TIER_PAGE_SIZE);
    cr_assert_null(
        tier_realloc_aligned(&heap, run, TIER_PAGE_SIZE, TIER_PAGE_SIZE * 2));
    cr_assert_geq(tier_usable_size(&heap, run), TIER_PAGE_SIZE);
    cr_assert_eq(tier_free(&heap, run), TIER_OK);
    cr_assert(tier_check(&heap));
}

/* --- Bad frees and bad arguments ------------------------------------------ */

/* A free of this address is refused in every way, and nothing else happens. */
static void expect_refused(unsigned char *at, enum tier_status status)
{
    void *memory = at;
    const size_t refused = stats().refused_frees;

    cr_assert_eq(tier_usable_size(&heap, at), 0U);
    cr_assert_null(tier_realloc(&heap, at, 10));
    cr_assert_eq(tier_free(&heap, at), status);
    cr_assert_eq(tier_free_sized(&heap, at, 10), status);
    cr_assert_eq(tier_free_bulk(&heap, 1, &memory), status);
    cr_assert_eq(stats().refused_frees, refused + 3);
    expect_sound();
}

Test(modes, refuses_bad_frees_of_the_heap_in_every_mode)
{
    for (unsigned mode = 0; mode < MODES; mode++) {
        static unsigned char outside[8];

        set_up(ARENA_PAGES);
        set_mode(TIER_SIMPLE);
        unsigned char *const memory = tier_alloc(&heap, 100);
        unsigned char *const freed = tier_alloc(&heap, 100);
        unsigned char *const area =
            arena + (size_t)(memory - arena) / TIER_PAGE_SIZE * TIER_PAGE_SIZE;

        model_add(&model, memory, 100, tier_usable_size(&heap, memory), 0);
        cr_assert_eq(tier_free(&heap, freed), TIER_OK);
        set_mode((enum tier_mode)mode);
        for (size_t i = 1; i < 100; i++) {
            expect_refused(memory + i, TIER_ERR_INTERIOR);
        }
        expect_refused(freed, TIER_ERR_DOUBLE_FREE);
        expect_refused(freed + 8, TIER_ERR_DOUBLE_FREE);
        expect_refused(area, TIER_ERR_FOREIGN);
        expect_refused(area + 8, TIER_ERR_FOREIGN);
        expect_refused(memory - 1, TIER_ERR_FOREIGN);
        if (TIERALLOC_CHECKS > 0) {
            expect_refused(outside, TIER_ERR_FOREIGN);
            expect_refused(arena + ARENA_BYTES, TIER_ERR_FOREIGN);
        }
        cr_assert_eq(tier_free_sized(&heap, memory, 1000), TIER_ERR_WRONG_SIZE);
        cr_assert_eq(tier_free_sized(&heap, memory, 50), TIER_ERR_WRONG_SIZE);
        cr_assert_eq(tier_free_sized(&heap, memory, SIZE_MAX),
                     TIER_ERR_WRONG_SIZE);
        cr_assert_eq(tier_free_sized(&heap, memory, 0), TIER_ERR_WRONG_SIZE);
        expect_sound();
        free_all();
        if (TIERALLOC_CHECKS > 0) {
            expect_refused(memory, TIER_ERR_DOUBLE_FREE);
        }
    }
}

Test(modes, frees_none_of_a_bulk_that_names_memory_of_the_heap_twice)
{
    void *memory[4];

    set_up(ARENA_PAGES);
    memory[0] = tier_alloc(&heap, 50);
    set_mode(TIER_SIMPLE);
    memory[1] = tier_alloc(&heap, 50);
    memory[2] = memory[1];
    memory[3] = tier_alloc_pages(&heap, 0);
    cr_assert_eq(tier_free_bulk(&heap, 4, memory), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(stats().live_objects, 1U);
    cr_assert_eq(stats().heap_objects, 1U);
    cr_assert_eq(stats().live_blocks, 1U);
    for (size_t i = 0; i + 1 < 4; i++) { /* sorted: the same are neighbours */
        if (memory[i] == memory[i + 1]) {
            memory[i] = memory[0];
            memory[0] = memory[i + 1];
        }
    }
    cr_assert_eq(tier_free_bulk(&heap, 3, memory + 1), TIER_OK);
    expect_all_free();
}

Test(modes, an_unknown_mode_is_refused)
{
    for (unsigned mode = 0; mode < MODES; mode++) {
        set_up(ARENA_PAGES);
        set_mode((enum tier_mode)mode);
        cr_assert_eq(tier_set_mode(&heap, (enum tier_mode)MODES),
                     TIER_ERR_INVALID);
        cr_assert_eq(tier_set_mode(&heap, (enum tier_mode)(1U << 30)),
                     TIER_ERR_INVALID);
        cr_assert_eq(heap.mode, (enum tier_mode)mode);
        void *const memory = tier_alloc(&heap, 40);

        cr_assert_eq(in_heap(memory), mode == TIER_SIMPLE);
        cr_assert_eq(tier_free(&heap, memory), TIER_OK);
        expect_all_free();
    }
}

Test(modes, fail_alike_before_there_is_a_region)
{
    for (unsigned mode = 0; mode < MODES; mode++) {
        memset(&heap, 0xA5, sizeof(heap));
        cr_assert_eq(tier_init(&heap, (uintptr_t)arena, ARENA_BYTES, NULL, 0),
                     TIER_OK);
        set_mode((enum tier_mode)mode);
        cr_assert_null(tier_alloc(&heap, 40));
        cr_assert_null(tier_alloc(&heap, OBJECT_BYTES + 1));
        cr_assert_null(tier_alloc_aligned(&heap, 40, TIER_PAGE_SIZE * 2));
        cr_assert(TIERALLOC_CHECKS == 0 ||
                  tier_free(&heap, arena) == TIER_ERR_FOREIGN);
        cr_assert_eq(stats().failed_no_memory, 3U);
        cr_assert_eq(tier_add_region(&heap, arena, ARENA_BYTES), TIER_OK);
        void *const memory = tier_alloc(&heap, 40);

        cr_assert_not_null(memory);
        cr_assert_eq(in_heap(memory), mode == TIER_SIMPLE);
        cr_assert_eq(tier_free(&heap, memory), TIER_OK);
        expect_all_free();
    }
}
