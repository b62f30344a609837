/*
 * tests/fuzz/fuzz_cpucache.c - any sequence of calls of cpucache.h, on three
 * CPUs over a buddy.
 *
 * SPDX-License-Identifier: MIT
 *
 * Pages, objects and magazines are small, so that few bytes of input fill
 * magazines, depots and slabs and use up the pages.
 */
#define TIERALLOC_IMPLEMENTATION
#define TIERALLOC_PAGE_SHIFT 10
#define TIERALLOC_MAX_ORDER  4
#define TIERALLOC_OBJECT_MAX 2048
#define TIERALLOC_CPU_BYTES  1024
#define TIERALLOC_CPUS       3

#include <criterion/criterion.h>
#include <stdbool.h>

static unsigned cpu_now;

static inline void fuzz_lock(bool *lock)
{
    cr_assert(!*lock);
    *lock = true;
}

static inline void fuzz_unlock(bool *lock)
{
    cr_assert(*lock);
    *lock = false;
}

#define TIERALLOC_LOCKING         1
#define TIERALLOC_LOCK_TYPE       bool
#define TIERALLOC_LOCK_INIT(lock) (*(lock) = false)
#define TIERALLOC_LOCK(lock)      fuzz_lock(lock)
#define TIERALLOC_UNLOCK(lock)    fuzz_unlock(lock)
#define TIERALLOC_CPU()           cpu_now
#include "../model.h"

#include <tieralloc/buddy.h>
#include <tieralloc/cpucache.h>

#include "input.h"

#define ARENA_PAGES 64
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)
#define NAMED_BYTES 100
#define LAST_FREED  16

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8];
static bool claimed[ARENA_BYTES / MODEL_GRAIN];
static struct model model;
static size_t taken; /* bytes of the objects in the model, rounded up */
static struct tier_pagemap map;
static struct tier_buddy buddy;
static struct tier_slab slab;
static struct tier_cpucache cache;
static struct tier_cache named; /* its objects have the tag 1 */
static bool slab_lock;
static unsigned char *freed[LAST_FREED]; /* what was, most recently */
static unsigned frees;

static struct {
    struct tier_page_source inner; /* the buddy's */
    size_t pages;                  /* held by the slab tier */
    unsigned fail_in; /* requests of pages until one fails; 0 for never */
    bool failed;      /* one has, since this was cleared */
    size_t refused_frees;
} seen;

/* --- The page source ------------------------------------------------------ */

static void *acquire(void *context, size_t pages)
{
    void *memory = NULL;

    cr_assert(context == (void *)&seen && slab_lock);
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

    cr_assert(context == (void *)&seen && slab_lock);
    for (size_t i = first; i < first + pages; i++) {
        cr_assert(map.kind[i] == TIER_KIND_NONE && map.cut[i] == 0);
    }
    seen.inner.release(seen.inner.context, memory, pages);
    seen.pages -= pages;
}

/* --- Verification --------------------------------------------------------- */

/* Require that all tiers count what the model does, and are sound. */
static void verify(void)
{
    struct tier_slab_stats stats;
    struct tier_cpucache_stats waiting;

    tier_slab_stats(&slab, &stats);
    tier_cpucache_stats(&cache, &waiting);
    cr_assert_eq(stats.live_objects - waiting.waiting_objects, model.count);
    cr_assert_eq(stats.live_bytes - waiting.waiting_bytes, taken);
    cr_assert_eq(stats.pages, seen.pages);
    cr_assert_eq(stats.refused_frees, seen.refused_frees);
    cr_assert(!slab_lock);
    cr_assert(tier_cpucache_check(&cache));
    cr_assert(tier_slab_check(&slab));
    cr_assert(tier_buddy_check(&buddy));
}

static void expect_refused(enum tier_status status)
{
    cr_assert(status == TIER_ERR_FOREIGN || status == TIER_ERR_INTERIOR ||
              status == TIER_ERR_DOUBLE_FREE || status == TIER_ERR_WRONG_SIZE);
    seen.refused_frees++;
}

/* --- Allocation ----------------------------------------------------------- */

/* Enter what a call allocated; it gives nothing only when no page was given. */
static void entered(void *object, size_t bytes, size_t usable, unsigned tag)
{
    if (object == NULL) {
        cr_assert(seen.failed);
    } else {
        model_add(&model, object, bytes, usable, tag);
        taken += usable;
    }
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
        cr_assert_null(tier_cpucache_alloc(&cache, bytes));
    } else if (model.count < MODEL_SLOTS) {
        entered(bytes % 2 == 0
                    ? tier_cpucache_alloc(&cache, bytes)
                    : tier_cpucache_alloc_class(&cache, TIER_SIZE_CLASS(bytes)),
                bytes, model_class(bytes), 0);
    }
}

/* Several of one size: more than a magazine holds. */
static void call_alloc_many(void)
{
    const size_t bytes = input_byte();

    seen.failed = false;
    for (unsigned n = input_byte() % 80; n > 0 && !seen.failed; n--) {
        entered(tier_cpucache_alloc(&cache, bytes), bytes, model_class(bytes),
                0);
    }
}

static void call_named_alloc(void)
{
    seen.failed = false;
    fuzz_lock(&slab_lock);
    entered(tier_cache_alloc(&named), NAMED_BYTES, named.base.object_bytes, 1);
    fuzz_unlock(&slab_lock);
}

static void call_fail_soon(void)
{
    seen.fail_in = 1 + input_byte() % 4;
}

/* --- Freeing -------------------------------------------------------------- */

/* Forget an object of the model; its address. */
static unsigned char *forget(size_t index)
{
    unsigned char *const object = model.slot[index].at;

    taken -= model.slot[index].bytes;
    model_drop(&model, index);
    freed[frees++ % LAST_FREED] = object;
    return object;
}

/* Some slot in use; there is one. */
static size_t some_slot(void)
{
    return input_below((uint32_t)model.count);
}

static void call_free(void)
{
    if (model.count != 0) {
        cr_assert_eq(tier_cpucache_free(&cache, forget(some_slot())), TIER_OK);
    }
}

/* Those allocated last, more than a magazine holds. */
static void call_free_many(void)
{
    for (unsigned n = input_byte() % 80; n > 0 && model.count != 0; n--) {
        unsigned char *const object = forget(model.count - 1);

        cr_assert_eq(tier_cpucache_free(&cache, object), TIER_OK);
    }
}

/* Free with a size, most likely a wrong one. */
static void call_free_sized(void)
{
    if (model.count == 0) {
        return;
    }
    const size_t index = some_slot();
    const struct model_slot slot = model.slot[index];
    const size_t bytes = input_byte() % 2 == 0 ? slot.asked : some_bytes();
    const bool right = bytes <= slot.bytes &&
                       (slot.tag != 0 || model_class(bytes) == slot.bytes);

    if (right) {
        cr_assert_eq(tier_cpucache_free_sized(&cache, forget(index), bytes),
                     TIER_OK);
    } else {
        cr_assert_eq(tier_cpucache_free_sized(&cache, slot.at, bytes),
                     TIER_ERR_WRONG_SIZE);
        seen.refused_frees++;
    }
}

/* Free an object that holds what marks free ones. */
static void call_free_marked(void)
{
    if (model.count != 0) {
        unsigned char *const object = forget(some_slot());
        const uintptr_t mark = (uintptr_t)object ^ (uintptr_t)map.cut;

        memcpy(object, &mark, sizeof(mark));
        cr_assert_eq(tier_cpucache_free(&cache, object), TIER_OK);
    }
}

static void call_free_interior(void)
{
    if (model.count != 0) {
        const struct model_slot slot = model.slot[some_slot()];
        const size_t offset = 1 + input_below((uint32_t)slot.bytes - 1);

        cr_assert_eq(tier_cpucache_free(&cache, slot.at + offset),
                     TIER_ERR_INTERIOR);
        seen.refused_frees++;
    }
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

/* Free a pointer that may be an object's, or any other. */
static void free_any(void *pointer, bool sized, size_t bytes)
{
    const size_t index = slot_of(pointer);

    if (pointer == NULL) {
        cr_assert_eq(tier_cpucache_free(&cache, NULL), TIER_OK);
    } else if (index < model.count) {
        cr_assert_eq(tier_cpucache_free(&cache, forget(index)), TIER_OK);
    } else {
        expect_refused(sized ? tier_cpucache_free_sized(&cache, pointer, bytes)
                             : tier_cpucache_free(&cache, pointer));
    }
}

/* In the arena, near it, or eight bytes of input. */
static void call_free_any(void)
{
    const unsigned how = input_byte();
    const size_t offset =
        (size_t)input_below(ARENA_PAGES + 2) * TIER_PAGE_SIZE +
        input_below((uint32_t)TIER_PAGE_SIZE / 8) * 8;
    void *const pointer =
        how == 0 ? (void *)(uintptr_t)input_word()
                 : (void *)((uintptr_t)arena - TIER_PAGE_SIZE + offset);

    free_any(pointer, how % 2 == 0, how);
}

/* Free again what was freed before; it may be in use again. */
static void call_free_again(void)
{
    const unsigned how = input_byte();

    free_any(freed[how % LAST_FREED], how >= 128, how);
}

/* --- The rest ------------------------------------------------------------- */

static void call_switch(void)
{
    cpu_now = input_byte() % TIERALLOC_CPUS;
}

static void call_drain(void)
{
    (void)tier_cpucache_drain(&cache, input_byte() % (TIERALLOC_CPUS + 1));
}

static void call_trim(void)
{
    const size_t before = seen.pages;

    cr_assert_eq(tier_cpucache_trim(&cache), before - seen.pages);
}

/* The likelier ones more than once. */
static void (*const calls[])(void) = {
    call_alloc,      call_alloc,      call_alloc,         call_alloc_many,
    call_alloc_many, call_free_many,  call_free,          call_free,
    call_free_sized, call_free_again, call_free_interior, call_free_any,
    call_switch,     call_switch,     call_free_marked,   call_named_alloc,
    call_fail_soon,  call_drain,      call_trim,
};

static void set_up(size_t pages)
{
    const struct tier_page_source source = {acquire, release, &seen};

    memset(&seen, 0, sizeof(seen));
    memset(&slab, 0, sizeof(slab));
    memset(&cache, 0xA5, sizeof(cache));
    memset(&named, 0, sizeof(named));
    memset(map_memory, 0xA5, sizeof(map_memory));
    memset(arena, 0xEE, sizeof(arena));
    memset(freed, 0, sizeof(freed));
    model_init(&model, arena, ARENA_BYTES, claimed);
    taken = 0;
    frees = 0;
    cpu_now = 0;
    slab_lock = false;
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)arena, ARENA_BYTES,
                                   map_memory, sizeof(map_memory)),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, arena, pages * TIER_PAGE_SIZE),
                 TIER_OK);
    tier_buddy_source(&buddy, &seen.inner);
    tier_slab_init(&slab, &map, &source);
    cr_assert_eq(
        tier_cache_init(&named, &slab, "named", NAMED_BYTES, 8, 0, NULL),
        TIER_OK);
    cr_assert_eq(tier_cpucache_init(&cache, &slab, &slab_lock), TIER_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input_begin(data, size);
    set_up(1 + input_below(ARENA_PAGES));
    while (!input_ended()) {
        calls[input_byte() % COUNT(calls)]();
        verify();
    }
    model_verify(&model);
    while (model.count != 0) {
        cr_assert_eq(tier_cpucache_free(&cache, forget(0)), TIER_OK);
    }
    for (unsigned cpu = 0; cpu < TIERALLOC_CPUS; cpu++) {
        (void)tier_cpucache_drain(&cache, cpu);
    }
    call_trim();
    verify();
    cr_assert_eq(seen.pages, 0U); /* every page is back */
    return 0;
}
