/*
 * tests/fuzz/fuzz_slab.c - any sequence of calls of slab.h over a buddy.
 *
 * SPDX-License-Identifier: MIT
 *
 * Pages and objects are small, so that few bytes of input fill slabs, empty
 * them and use up the pages. The model fills each object with a pattern.
 */
#define TIERALLOC_IMPLEMENTATION
#define TIERALLOC_PAGE_SHIFT 10
#define TIERALLOC_MAX_ORDER  4
#define TIERALLOC_OBJECT_MAX 2048
#include "../model.h"

#include <tieralloc/buddy.h>
#include <tieralloc/slab.h>

#include "input.h"

#define ARENA_PAGES 64
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)
#define CACHES      3

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8];
static bool claimed[ARENA_BYTES / MODEL_GRAIN];
static struct model model;
static struct tier_pagemap map;
static struct tier_buddy buddy;
static struct tier_slab slab;
static struct tier_cache caches[CACHES]; /* slot.tag is the index + 1 */
static const size_t cache_bytes[CACHES] = {1, 100, TIERALLOC_OBJECT_MAX - 40};
static const size_t cache_alignment[CACHES] = {64, 4, 8};
static const unsigned cache_flags[CACHES] = {0, 0, TIER_CACHE_KEEP_NONE};
static unsigned char made[ARENA_BYTES / MODEL_GRAIN]; /* times, by address */

static struct {
    struct tier_page_source inner; /* the buddy's */
    size_t pages;                  /* held by the slab tier */
    unsigned fail_in; /* requests of pages until one fails; 0 for never */
    bool failed;      /* one has, since this was cleared */
    size_t failed_allocs;
    size_t refused_frees;
} seen;

/* How often the object at an address was constructed. */
static unsigned char *made_of(const void *object)
{
    return &made[(size_t)((const unsigned char *)object - arena) / MODEL_GRAIN];
}

static void construct(void *object)
{
    ++*made_of(object);
}

static const tier_construct cache_construct[CACHES] = {NULL, construct, NULL};

/* --- The page source ------------------------------------------------------ */

static void *acquire(void *context, size_t pages)
{
    void *memory = NULL;

    cr_assert_eq(context, (void *)&seen);
    if (seen.fail_in == 0 || --seen.fail_in != 0) {
        memory = seen.inner.acquire(seen.inner.context, pages);
    }
    seen.failed = seen.failed || memory == NULL;
    seen.pages += memory == NULL ? 0 : pages;
    return memory;
}

static void release(void *context, void *memory, size_t pages)
{
    const size_t first = tier_pagemap_index_(&map, memory);

    cr_assert_eq(context, (void *)&seen);
    for (size_t i = first; i < first + pages; i++) {
        cr_assert_eq(map.kind[i], TIER_KIND_NONE);
    }
    memset(made_of(memory), 0, pages * TIER_PAGE_SIZE / MODEL_GRAIN);
    seen.inner.release(seen.inner.context, memory, pages);
    seen.pages -= pages;
}

/* --- Verification --------------------------------------------------------- */

/* Require that the tier counts what the model does, and is sound. */
static void verify(void)
{
    struct tier_slab_stats stats;

    tier_slab_stats(&slab, &stats);
    cr_assert_eq(stats.live_objects, model.count);
    cr_assert_eq(stats.live_bytes, model.bytes);
    cr_assert_eq(stats.pages, seen.pages);
    cr_assert_eq(stats.failed_allocs, seen.failed_allocs);
    cr_assert_eq(stats.refused_frees, seen.refused_frees);
    cr_assert(tier_slab_check(&slab));
    cr_assert(tier_buddy_check(&buddy));
}

static struct tier_slab slab_before;
static struct tier_cache caches_before[CACHES];
static uint64_t map_before[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8];

static void remember(void)
{
    memcpy(&slab_before, &slab, sizeof(slab));
    memcpy(caches_before, caches, sizeof(caches));
    memcpy(map_before, map_memory, sizeof(map_memory));
}

/* Require that a free was refused, and that nothing but a counter changed. */
static void expect_refused(enum tier_status status)
{
    cr_assert(status == TIER_ERR_FOREIGN || status == TIER_ERR_INTERIOR ||
              status == TIER_ERR_DOUBLE_FREE || status == TIER_ERR_WRONG_SIZE);
    seen.refused_frees++;
    slab_before.refused_frees++;
    cr_assert_eq(memcmp(&slab, &slab_before, sizeof(slab)), 0);
    cr_assert_eq(memcmp(caches, caches_before, sizeof(caches)), 0);
    cr_assert_eq(memcmp(map_memory, map_before, sizeof(map_memory)), 0);
}

/* --- Allocation ----------------------------------------------------------- */

/* Enter what a call allocated; it gives nothing only when no page was given. */
static void entered(void *object, size_t bytes, size_t usable, unsigned tag)
{
    if (object == NULL) {
        cr_assert(seen.failed);
        seen.failed_allocs++;
    } else {
        cr_assert(tag == 0 || cache_construct[tag - 1] == NULL ||
                  *made_of(object) == 1);
        model_add(&model, object, bytes, usable, tag);
        cr_assert_eq(tier_slab_usable_size(&slab, object), usable);
    }
    verify();
}

static size_t some_bytes(void)
{
    const size_t bytes = input_byte();

    return bytes < 128   ? bytes
           : bytes < 250 ? input_below(TIERALLOC_OBJECT_MAX + 1)
                         : SIZE_MAX - input_below(TIERALLOC_OBJECT_MAX);
}

static void call_alloc(void)
{
    const size_t bytes = some_bytes();

    seen.failed = false;
    if (bytes > TIERALLOC_OBJECT_MAX) {
        cr_assert_null(tier_slab_alloc(&slab, bytes));
        verify();
    } else if (model.count < MODEL_SLOTS) {
        entered(tier_slab_alloc(&slab, bytes), bytes, model_class(bytes), 0);
    }
}

static void call_cache_alloc(void)
{
    const unsigned i = input_byte() % CACHES;

    seen.failed = false;
    if (model.count < MODEL_SLOTS) {
        entered(tier_cache_alloc(&caches[i]), cache_bytes[i],
                caches[i].base.object_bytes, i + 1);
    }
}

static void call_fail_soon(void)
{
    seen.fail_in = 1 + input_byte() % 4;
}

/* --- Freeing -------------------------------------------------------------- */

/* Some slot in use; there is one. */
static size_t some_slot(void)
{
    return input_below((uint32_t)model.count);
}

static void call_free(void)
{
    if (model.count == 0) {
        return;
    }
    const size_t index = some_slot();
    const struct model_slot slot = model.slot[index];
    const unsigned how = input_byte() % 3;

    model_drop(&model, index);
    if (how == 0) {
        cr_assert_eq(tier_slab_free_sized(&slab, slot.at, slot.asked), TIER_OK);
    } else if (how == 1 && slot.tag != 0) {
        cr_assert_eq(tier_cache_free(&caches[slot.tag - 1], slot.at), TIER_OK);
    } else {
        cr_assert_eq(tier_slab_free(&slab, slot.at), TIER_OK);
    }
    verify();
}

/* Free with a size, most likely a wrong one. */
static void call_free_wrong_size(void)
{
    if (model.count == 0) {
        return;
    }
    const size_t index = some_slot();
    const struct model_slot slot = model.slot[index];
    const size_t bytes = some_bytes();
    const bool right = bytes <= slot.bytes &&
                       (slot.tag != 0 || model_class(bytes) == slot.bytes);

    remember();
    const enum tier_status status = tier_slab_free_sized(&slab, slot.at, bytes);

    cr_assert_eq(status, right ? TIER_OK : TIER_ERR_WRONG_SIZE);
    if (right) {
        model_drop(&model, index);
    } else {
        expect_refused(status);
    }
    verify();
}

/* Free through a cache that is likely another one's. */
static void call_free_wrong_cache(void)
{
    if (model.count == 0) {
        return;
    }
    const size_t index = some_slot();
    const struct model_slot slot = model.slot[index];
    const unsigned i = input_byte() % CACHES;

    remember();
    const enum tier_status status = tier_cache_free(&caches[i], slot.at);

    cr_assert_eq(status, slot.tag == i + 1 ? TIER_OK : TIER_ERR_FOREIGN);
    if (status == TIER_OK) {
        model_drop(&model, index);
    } else {
        expect_refused(status);
    }
    verify();
}

static void call_free_interior(void)
{
    if (model.count == 0) {
        return;
    }
    const struct model_slot slot = model.slot[some_slot()];
    const size_t offset = 1 + input_below((uint32_t)slot.bytes - 1);

    remember();
    const enum tier_status status = tier_slab_free(&slab, slot.at + offset);

    cr_assert_eq(status, TIER_ERR_INTERIOR);
    cr_assert_eq(tier_slab_usable_size(&slab, slot.at + offset), 0U);
    expect_refused(status);
    verify();
}

/* The slot of a pointer to an object in use; model.count for another. */
static size_t slot_of(const void *pointer)
{
    size_t index = 0;

    while (index < model.count && model.slot[index].at != pointer) {
        index++;
    }
    return index;
}

/* Free any pointer: in the arena, near it, or eight bytes of input. */
static void call_free_any(void)
{
    const unsigned how = input_byte();
    const size_t offset =
        (size_t)input_below(ARENA_PAGES + 2) * TIER_PAGE_SIZE +
        input_below((uint32_t)TIER_PAGE_SIZE / 8) * 8;
    void *const pointer =
        how == 0 ? (void *)(uintptr_t)input_word()
                 : (void *)((uintptr_t)arena - TIER_PAGE_SIZE + offset);
    const size_t index = slot_of(pointer);

    if (pointer == NULL) {
        cr_assert_eq(tier_slab_free(&slab, NULL), TIER_OK);
    } else if (index < model.count) {
        model_drop(&model, index);
        cr_assert_eq(tier_slab_free(&slab, pointer), TIER_OK);
    } else {
        cr_assert_eq(tier_slab_usable_size(&slab, pointer), 0U);
        remember();
        expect_refused(how % 2 == 0
                           ? tier_slab_free(&slab, pointer)
                           : tier_slab_free_sized(&slab, pointer, how));
    }
    verify();
}

/* Free an object, then at once again. */
static void call_free_twice(void)
{
    if (model.count == 0) {
        return;
    }
    const size_t index = some_slot();
    unsigned char *const object = model.slot[index].at;

    model_drop(&model, index);
    cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    remember();
    const enum tier_status status = tier_slab_free(&slab, object);

    /* When its slab became empty, that may have gone back. */
    cr_assert_eq(status,
                 (tier_pagemap_kind_(&map, object) & TIER_KIND_SLAB) != 0
                     ? TIER_ERR_DOUBLE_FREE
                     : TIER_ERR_FOREIGN);
    expect_refused(status);
    verify();
}

/* --- The rest ------------------------------------------------------------- */

static void call_trim(void)
{
    const size_t before = seen.pages;

    cr_assert_eq(tier_slab_trim(&slab), before - seen.pages);
    verify();
}

/* Destroy a cache and make it again, unless objects of it are in use. */
static void call_destroy(void)
{
    const unsigned i = input_byte() % CACHES;
    bool used = false;

    for (size_t index = 0; index < model.count; index++) {
        used = used || model.slot[index].tag == i + 1;
    }
    remember();
    cr_assert_eq(tier_cache_destroy(&caches[i]),
                 used ? TIER_ERR_IN_USE : TIER_OK);
    if (used) {
        cr_assert_eq(memcmp(&slab, &slab_before, sizeof(slab)), 0);
        cr_assert_eq(memcmp(caches, caches_before, sizeof(caches)), 0);
    } else {
        cr_assert_eq(tier_cache_init(&caches[i], &slab, "again", cache_bytes[i],
                                     cache_alignment[i], cache_flags[i],
                                     cache_construct[i]),
                     TIER_OK);
    }
    verify();
}

/* Look while a byte of the map or of descriptors is another. */
static void call_damage(void)
{
    const unsigned how = input_byte();
    const uint32_t page = input_below(ARENA_PAGES);
    const uint32_t offset = input_below((uint32_t)TIER_PAGE_SIZE);
    uint8_t *byte = (uint8_t *)map_memory + offset % sizeof(map_memory);

    if (map.kind[page] == TIER_KIND_META) {
        byte = arena + page * TIER_PAGE_SIZE + offset;
    }
    const uint8_t right = *byte;

    *byte = (uint8_t)(how < 128 ? input_byte() : right ^ 1U << how % 8);
    (void)tier_slab_check(&slab);
    *byte = right;
    verify();
}

/* The likelier ones more than once. */
static void (*const calls[])(void) = {
    call_alloc,         call_alloc,           call_alloc,
    call_cache_alloc,   call_fail_soon,       call_free,
    call_free,          call_free_wrong_size, call_free_wrong_cache,
    call_free_interior, call_free_any,        call_free_twice,
    call_trim,          call_destroy,         call_damage,
};

static void set_up(size_t pages)
{
    const struct tier_page_source source = {acquire, release, &seen};

    memset(&seen, 0, sizeof(seen));
    memset(&slab, 0, sizeof(slab));
    memset(caches, 0, sizeof(caches));
    memset(map_memory, 0xA5, sizeof(map_memory));
    memset(arena, 0xEE, sizeof(arena));
    memset(made, 0, sizeof(made));
    model_init(&model, arena, ARENA_BYTES, claimed);
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)arena, ARENA_BYTES,
                                   map_memory, sizeof(map_memory)),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
    tier_buddy_source(&buddy, &seen.inner);
    tier_slab_init(&slab, &map, &source);
    for (unsigned i = 0; i < CACHES; i++) {
        cr_assert_eq(tier_cache_init(&caches[i], &slab, "cache", cache_bytes[i],
                                     cache_alignment[i], cache_flags[i],
                                     cache_construct[i]),
                     TIER_OK);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input_begin(data, size);
    set_up(1 + input_below(ARENA_PAGES));
    while (!input_ended()) {
        calls[input_byte() % COUNT(calls)]();
    }
    model_verify(&model);
    while (model.count != 0) {
        unsigned char *const object = model.slot[0].at;

        model_drop(&model, 0);
        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    }
    call_trim();
    cr_assert_eq(seen.pages, 0U); /* every page is back */
    return 0;
}
