/*
 * tests/test_guard.c - what TIERALLOC_CHECKS 2 sees, tells and repairs.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#define TIERALLOC_CHECKS 2
#define TIERALLOC_SITE() \
    (caller != 0 ? caller : (uintptr_t)__builtin_return_address(0))
#include "model.h"

static uintptr_t caller; /* who says to be calling; 0: who does */

#include <tieralloc/buddy.h>
#include <tieralloc/slab.h>

/* --- The rig -------------------------------------------------------------- */

#define ARENA_PAGES 1024
#define ARENA_BYTES (ARENA_PAGES * TIER_PAGE_SIZE)
#define RECORD      sizeof(struct tier_guard_record)

/* Who allocates and who frees. */
#define ALICE ((uintptr_t)0xA11CE)
#define BOB   ((uintptr_t)0xB0B)
#define CAROL ((uintptr_t)0xCA201)

/* Kinds of objects: the size classes, then named caches. */
#define CACHES 3
#define BUILT  (CACHES - 1) /* the one with a constructor */
#define KINDS  (TIER_SLAB_CLASSES + CACHES)

TEST_ARENA(arena, ARENA_BYTES);
static uint64_t map_memory[TIER_PAGEMAP_BYTES(ARENA_PAGES) / 8];
static struct tier_pagemap map;
static struct tier_buddy buddy;
static struct tier_slab slab;
static struct tier_cache caches[CACHES];
static const char *const names[CACHES] = {"list", "line", "built"};
static const size_t cache_bytes[CACHES] = {100, 33, 60};
static struct model model;
static bool claimed[ARENA_BYTES / MODEL_GRAIN];

/* What was reported. */
static struct {
    size_t count;
    struct tier_report last;
} seen;

static void note(void *context, const struct tier_report *report)
{
    cr_assert_eq(context, (void *)&seen);
    seen.count++;
    seen.last = *report;
}

static void construct(void *object)
{
    memset(object, 0xB7, cache_bytes[BUILT]);
}

static void set_up(void)
{
    struct tier_page_source source;

    memset(&seen, 0, sizeof(seen));
    caller = ALICE;
    model_init(&model, arena, ARENA_BYTES, claimed);
    cr_assert_eq(tier_pagemap_init(&map, (uintptr_t)arena, ARENA_BYTES,
                                   map_memory, sizeof(map_memory)),
                 TIER_OK);
    tier_buddy_init(&buddy, &map);
    cr_assert_eq(tier_buddy_add(&buddy, arena, ARENA_BYTES), TIER_OK);
    tier_buddy_source(&buddy, &source);
    tier_slab_init(&slab, &map, &source);
    tier_slab_set_report(&slab, note, &seen);
    for (unsigned i = 0; i < CACHES; i++) {
        cr_assert_eq(tier_cache_init(&caches[i], &slab, names[i],
                                     cache_bytes[i], i == 1 ? 64 : 1, 0,
                                     i == BUILT ? construct : NULL),
                     TIER_OK);
    }
}

/* True for a kind that a request can be given. */
static bool is_kind(unsigned kind)
{
    return kind >= TIER_SLAB_CLASSES ||
           (tier_slab_class_bytes(kind) > TIER_GUARD_BYTES &&
            tier_slab_class_bytes(kind) % TIERALLOC_MIN_ALIGN == 0);
}

/* Bytes that an object of a kind takes. */
static size_t object_bytes(unsigned kind)
{
    return kind < TIER_SLAB_CLASSES
               ? tier_slab_class_bytes(kind)
               : caches[kind - TIER_SLAB_CLASSES].base.object_bytes;
}

/* Bytes that get() asks for: not always all that there are. */
static size_t asked(unsigned kind)
{
    return kind < TIER_SLAB_CLASSES
               ? object_bytes(kind) - TIER_GUARD_BYTES - kind % 8
               : cache_bytes[kind - TIER_SLAB_CLASSES];
}

/* Where the record of an object begins. */
static size_t room(unsigned kind)
{
    return object_bytes(kind) - RECORD;
}

static const char *name_of(unsigned kind)
{
    return kind < TIER_SLAB_CLASSES ? NULL : names[kind - TIER_SLAB_CLASSES];
}

/* ALICE allocates an object, and writes all that she asked for. */
static unsigned char *get(unsigned kind)
{
    caller = ALICE;
    unsigned char *const object =
        kind < TIER_SLAB_CLASSES
            ? tier_slab_alloc(&slab, asked(kind))
            : tier_cache_alloc(&caches[kind - TIER_SLAB_CLASSES]);

    cr_assert_not_null(object);
    cr_assert_eq(tier_slab_usable_size(&slab, object), asked(kind));
    memset(object, 0xAB, asked(kind));
    return object;
}

/* BOB frees it, by one of the calls that can. */
static void put(unsigned kind, unsigned char *object)
{
    static unsigned how;

    caller = BOB;
    how++;
    if (kind >= TIER_SLAB_CLASSES && how % 3 == 0) {
        cr_assert_eq(tier_cache_free(&caches[kind - TIER_SLAB_CLASSES], object),
                     TIER_OK);
    } else if (how % 3 == 1) {
        cr_assert_eq(tier_slab_free_sized(&slab, object, asked(kind)), TIER_OK);
    } else {
        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    }
}

/* Require that one fault was told, of this object, and forget it. */
static void expect_told(enum tier_fault fault, unsigned kind,
                        const void *object, size_t offset)
{
    cr_assert_eq(seen.count, 1U);
    cr_assert_eq(seen.last.fault, fault);
    cr_assert_eq(seen.last.object, object);
    cr_assert_eq(seen.last.cache, name_of(kind));
    cr_assert_eq(seen.last.object_bytes, object_bytes(kind));
    cr_assert_eq(seen.last.offset, offset);
    seen.count = 0;
}

/* What the same report says of the byte, and of who did what. */
static void expect_byte(unsigned expected, unsigned found)
{
    cr_assert_eq(seen.last.expected, expected);
    cr_assert_eq(seen.last.found, found);
}

static void expect_sites(size_t bytes, uintptr_t alloc_site,
                         uintptr_t free_site)
{
    cr_assert_eq(seen.last.bytes, bytes);
    cr_assert_eq(seen.last.alloc_site, alloc_site);
    cr_assert_eq(seen.last.free_site, free_site);
}

/* Use an object of a kind rightly; nothing may be told. */
static void expect_quiet(unsigned kind)
{
    for (unsigned round = 0; round < 3; round++) {
        unsigned char *const one = get(kind);
        unsigned char *const other = get(kind);

        put(kind, one);
        put(kind, other);
    }
    cr_assert_eq(seen.count, 0U);
    cr_assert(tier_slab_check(&slab));
}

/* --- In use --------------------------------------------------------------- */

Test(guard, gives_what_was_asked_for_and_no_byte_more)
{
    set_up();
    for (size_t bytes = 1; bytes <= TIER_SLAB_BYTES_MAX; bytes++) {
        void *const object = tier_slab_alloc(&slab, bytes);

        cr_assert_eq(tier_slab_usable_size(&slab, object), bytes);
        memset(object, 0, bytes);
        cr_assert_eq(tier_slab_free_sized(&slab, object, bytes), TIER_OK);
        if (bytes % 64 == 0) {
            (void)tier_slab_trim(&slab);
        }
    }
    cr_assert_eq(seen.count, 0U);
    cr_assert_null(tier_slab_alloc(&slab, TIER_SLAB_BYTES_MAX + 1));
    cr_assert_eq(TIER_GUARD_BYTES, RECORD + 8);
}

Test(guard, surrounds_each_object_with_at_least_eight_bytes)
{
    for (unsigned kind = 0; kind < KINDS; kind++) {
        set_up();
        if (is_kind(kind)) {
            unsigned char *const object = get(kind);

            cr_assert(room(kind) - asked(kind) >= 8);
            cr_assert(test_all(object + asked(kind), TIER_GUARD_RED_ZONE,
                               room(kind) - asked(kind)));
        }
    }
}

Test(guard, tells_of_each_byte_written_past_the_end)
{
    for (unsigned kind = 0; kind < KINDS; kind++) {
        set_up();
        for (size_t at = asked(kind); is_kind(kind) && at < room(kind); at++) {
            unsigned char *const object = get(kind);

            object[at] ^= 0x81;
            cr_assert_eq(seen.count, 0U);
            put(kind, object);
            expect_told(TIER_FAULT_OVERRUN, kind, object, at);
            expect_byte(TIER_GUARD_RED_ZONE, TIER_GUARD_RED_ZONE ^ 0x81);
            expect_sites(asked(kind), ALICE, 0);
            cr_assert_eq(tier_slab_usable_size(&slab, object), 0U);
        }
        cr_assert(!is_kind(kind) || slab.grown == 1);
        if (is_kind(kind)) {
            expect_quiet(kind);
        }
    }
}

Test(guard, tells_of_the_first_byte_of_an_overrun)
{
    set_up();
    for (unsigned kind = 8; kind < KINDS; kind++) {
        unsigned char *const object = get(kind);

        memset(object + asked(kind) + 2, 0x77, 5);
        put(kind, object);
        expect_told(TIER_FAULT_OVERRUN, kind, object, asked(kind) + 2);
        expect_byte(TIER_GUARD_RED_ZONE, 0x77);
        expect_quiet(kind);
    }
}

/* Flip one bit of the record of an object in use, or free. */
static void expect_record_guarded(unsigned kind, size_t bit, bool in_use)
{
    unsigned char *const object = get(kind);
    unsigned char *const byte = object + room(kind) + bit / 8;

    if (in_use) {
        *byte ^= (unsigned char)(1U << bit % 8);
        cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    } else {
        put(kind, object);
        *byte ^= (unsigned char)(1U << bit % 8);
        cr_assert_eq(get(kind), object);
    }
    expect_told(TIER_FAULT_RECORD, kind, object, room(kind));
    expect_sites(0, 0, 0);
    if (!in_use) {
        put(kind, object);
    }
    cr_assert_eq(seen.count, 0U);
}

Test(guard, tells_of_any_bit_of_a_record_that_was_overwritten)
{
    set_up();
    for (unsigned kind = 8; kind < KINDS; kind += 5) {
        for (size_t bit = 0; bit < RECORD * 8; bit++) {
            expect_record_guarded(kind, bit, true);
            expect_record_guarded(kind, bit, false);
        }
        expect_quiet(kind);
    }
}

Test(guard, survives_a_record_overwritten_with_anything)
{
    for (unsigned value = 0; value < 256; value += 5) {
        set_up();
        for (unsigned kind = 8; kind < KINDS; kind++) {
            unsigned char *const object = get(kind);

            memset(object + asked(kind), (int)value,
                   object_bytes(kind) - asked(kind));
            put(kind, object);
            expect_told(TIER_FAULT_RECORD, kind, object, room(kind));
            expect_quiet(kind);
        }
    }
}

/* What is lost stays lost; what is known is told. */
Test(guard, trusts_nothing_in_a_record_that_was_overwritten)
{
    set_up();
    for (unsigned kind = 8; kind < KINDS; kind++) {
        unsigned char *const keep = get(kind);
        unsigned char *const object = get(kind);

        memset(object + room(kind), 0x77, RECORD);
        put(kind, object);
        expect_told(TIER_FAULT_RECORD, kind, object, room(kind));
        expect_sites(0, 0, 0);
        cr_assert_eq(tier_slab_free(&slab, object), TIER_ERR_DOUBLE_FREE);
        expect_told(TIER_FAULT_DOUBLE_FREE, kind, object, 0);
        expect_sites(0, 0, BOB);
        put(kind, keep);
        expect_quiet(kind);
    }
}

/* Before an object lies the record of another. */
Test(guard, tells_of_what_is_written_before_an_object)
{
    set_up();
    for (unsigned kind = 8; kind < KINDS; kind += 3) {
        unsigned char *const before = get(kind);
        unsigned char *const object = get(kind);

        if (object == before + object_bytes(kind)) {
            object[-1] ^= 1;
            put(kind, object);
            cr_assert_eq(seen.count, 0U);
            put(kind, before);
            expect_told(TIER_FAULT_RECORD, kind, before, room(kind));
        }
    }
}

/* --- Free ----------------------------------------------------------------- */

/* Byte number `at` of a free object. */
static unsigned free_byte(const void *object, size_t at)
{
    const uintptr_t mark = tier_slab_mark_(&slab.map, object);

    return at < sizeof(mark) ? ((const unsigned char *)&mark)[at]
                             : TIER_GUARD_FREED;
}

Test(guard, fills_what_is_freed)
{
    set_up();
    for (unsigned kind = 8; kind < TIER_SLAB_CLASSES + BUILT; kind++) {
        unsigned char *const object = get(kind);

        put(kind, object);
        for (size_t at = 0; at < room(kind); at++) {
            cr_assert_eq(object[at], free_byte(object, at));
        }
    }
}

Test(guard, tells_of_each_byte_written_after_a_free)
{
    for (unsigned kind = 0; kind < TIER_SLAB_CLASSES + BUILT; kind++) {
        set_up();
        for (size_t at = 0; is_kind(kind) && at < room(kind);
             at += at < 80 ? 1 : at / 16) {
            unsigned char *const object = get(kind);
            const unsigned byte = (put(kind, object), free_byte(object, at));

            cr_assert_eq(object[at], byte);
            object[at] ^= 0x18;
            cr_assert_eq(seen.count, 0U);
            cr_assert_eq(get(kind), object);
            expect_told(TIER_FAULT_USE_AFTER_FREE, kind, object, at);
            expect_byte(byte, byte ^ 0x18);
            expect_sites(asked(kind), ALICE, BOB);
            put(kind, object);
            cr_assert_eq(seen.count, 0U);
        }
    }
}

Test(guard, tells_of_what_is_written_before_the_first_use)
{
    set_up();
    memset(arena, 0x5A, sizeof(arena));
    for (unsigned kind = 8; kind < 16; kind++) {
        unsigned char *const first = get(kind);
        unsigned char *const next = first + object_bytes(kind);

        next[20] = 0x11;
        cr_assert_eq(get(kind), next);
        expect_told(TIER_FAULT_USE_AFTER_FREE, kind, next, 20);
        expect_byte(TIER_GUARD_FREED, 0x11);
        expect_sites(0, 0, 0);
    }
}

Test(guard, tells_of_a_double_free)
{
    set_up();
    for (unsigned kind = 8; kind < KINDS; kind++) {
        unsigned char *const keep = get(kind);
        unsigned char *const object = get(kind);

        put(kind, object);
        caller = CAROL;
        cr_assert_eq(tier_slab_free(&slab, object), TIER_ERR_DOUBLE_FREE);
        expect_told(TIER_FAULT_DOUBLE_FREE, kind, object, 0);
        expect_byte(*object, *object);
        expect_sites(asked(kind), ALICE, BOB);
        put(kind, keep);
        expect_quiet(kind);
    }
}

Test(guard, tells_of_an_object_freed_that_nobody_had)
{
    set_up();
    memset(arena, 0, sizeof(arena)); /* no record of an earlier test */
    for (unsigned kind = 8; kind < 16; kind++) {
        unsigned char *const object = get(kind);

        for (size_t n = 1; n < slab.classes[kind].slab_objects; n++) {
            unsigned char *const next = object + n * object_bytes(kind);

            cr_assert_eq(tier_slab_free(&slab, next), TIER_ERR_DOUBLE_FREE);
            expect_told(TIER_FAULT_DOUBLE_FREE, kind, next, 0);
            expect_sites(0, 0, 0);
        }
    }
}

Test(guard, tells_of_a_wrong_size)
{
    set_up();
    for (unsigned kind = 8; kind < KINDS; kind++) {
        unsigned char *const object = get(kind);

        caller = CAROL;
        cr_assert_eq(
            tier_slab_free_sized(&slab, object, object_bytes(kind) + 1),
            TIER_ERR_WRONG_SIZE);
        expect_told(TIER_FAULT_WRONG_SIZE, kind, object, 0);
        expect_sites(asked(kind), ALICE, 0);
        cr_assert_eq(tier_slab_usable_size(&slab, object), asked(kind));
        put(kind, object);
        expect_quiet(kind);
    }
}

/* A pointer to no object has no record: nothing may be read through it. */
Test(guard, tells_nothing_of_pointers_to_no_object)
{
    set_up();
    for (unsigned kind = 8; kind < KINDS; kind++) {
        unsigned char *const object = get(kind);

        for (size_t at = 1; at < object_bytes(kind); at += 1 + at / 8) {
            cr_assert_eq(tier_slab_free(&slab, object + at), TIER_ERR_INTERIOR);
            cr_assert_eq(tier_slab_free_sized(&slab, object + at, SIZE_MAX),
                         TIER_ERR_INTERIOR);
        }
        cr_assert_eq(tier_slab_free(&slab, &slab), TIER_ERR_FOREIGN);
        cr_assert_eq(tier_slab_free(&slab, NULL), TIER_OK);
    }
    cr_assert_eq(seen.count, 0U);
}

/* --- Constructed objects -------------------------------------------------- */

Test(guard, leaves_constructed_objects_alone)
{
    const unsigned kind = TIER_SLAB_CLASSES + BUILT;

    set_up();
    unsigned char *const object = tier_cache_alloc(&caches[BUILT]);

    cr_assert(test_all(object, 0xB7, cache_bytes[BUILT]));
    put(kind, object);
    cr_assert(test_all(object, 0xB7, cache_bytes[BUILT]));
    object[3] = 1;
    cr_assert_eq(tier_cache_alloc(&caches[BUILT]), (void *)object);
    cr_assert_eq(object[3], 1U);
    cr_assert_eq(object[4], 0xB7U);
    cr_assert_eq(seen.count, 0U);
}

/* --- Told to whom --------------------------------------------------------- */

/* Do all that is told of, one after the other. */
static void do_wrong(unsigned kind)
{
    unsigned char *const object = get(kind);

    object[asked(kind)] ^= 1;
    put(kind, object);
    (void)tier_slab_free(&slab, object);
    object[asked(kind)] ^= 1;
    cr_assert_eq(get(kind), object);
    (void)tier_slab_free_sized(&slab, object, SIZE_MAX);
    object[room(kind)] ^= 1;
    put(kind, object);
}

Test(guard, repairs_without_a_callback_too)
{
    set_up();
    for (unsigned kind = 8; kind < TIER_SLAB_CLASSES + BUILT; kind++) {
        tier_slab_set_report(&slab, note, &seen);
        do_wrong(kind);
        cr_assert_eq(seen.count, 5U);
        seen.count = 0;
        tier_slab_set_report(&slab, NULL, NULL);
        do_wrong(kind);
        cr_assert_eq(seen.count, 0U);
        tier_slab_set_report(&slab, note, &seen);
        expect_quiet(kind);
    }
}

Test(guard, tells_nobody_at_first)
{
    struct tier_page_source source;

    set_up();
    tier_buddy_source(&buddy, &source);
    memset(&slab, 0xA5, sizeof(slab));
    tier_slab_init(&slab, &map, &source);
    do_wrong(20);
    cr_assert_eq(seen.count, 0U);
}

/* Called where the compiler cannot see it, so that it has a caller. */
static void *(*volatile alloc)(struct tier_slab *, size_t) = tier_slab_alloc;

/* Allocate, from one place, and not as the last thing done there. */
static __attribute__((noinline)) unsigned char *alloc_here(void)
{
    unsigned char *volatile object = alloc(&slab, 64);

    return object;
}

/* Who allocated an object of 64 bytes, as told when it is freed. */
static uintptr_t told_site(unsigned char *object)
{
    object[64] ^= 1;
    cr_assert_eq(tier_slab_free(&slab, object), TIER_OK);
    cr_assert_eq(seen.count, 1U);
    seen.count = 0;
    return seen.last.alloc_site;
}

Test(guard, a_site_is_where_the_call_was_made_unless_told_otherwise)
{
    set_up();
    caller = 0;
    const uintptr_t here = told_site(alloc_here());
    unsigned char *volatile object = alloc(&slab, 64);

    cr_assert(here != 0 && told_site(object) != 0);
    cr_assert_eq(told_site(alloc_here()), here);
    object = alloc(&slab, 64);
    cr_assert_neq(told_site(object), here);
    caller = CAROL;
    cr_assert_eq(told_site(alloc_here()), CAROL);
}

Test(guard, has_a_text_for_each_fault)
{
    const char *texts[TIER_FAULT_WRONG_SIZE + 1];

    for (unsigned i = 0; i <= TIER_FAULT_WRONG_SIZE; i++) {
        texts[i] = tier_fault_text((enum tier_fault)i);
        cr_assert(texts[i] != NULL && texts[i][0] != '\0');
        for (unsigned k = 0; k < i; k++) {
            cr_assert(strcmp(texts[i], texts[k]) != 0);
        }
    }
    cr_assert(strcmp(texts[0], "unknown fault") == 0);
    cr_assert(strcmp(texts[TIER_FAULT_OVERRUN], "written past its end") == 0);
    cr_assert(strcmp(tier_fault_text((enum tier_fault)99), texts[0]) == 0);
}

/* --- Nothing wrong -------------------------------------------------------- */

/* Any right call; the model fills what was asked for to the last byte. */
static void random_step(uint64_t *random)
{
    const unsigned kind = test_below(random, KINDS);

    if (model.count > 0 && test_below(random, 9) < 4) {
        const size_t index = test_below(random, (uint32_t)model.count);
        const struct model_slot slot = model.slot[index];

        model_drop(&model, index);
        put(slot.tag, slot.at);
    } else if (is_kind(kind) && model.count < 700) {
        unsigned char *const object =
            kind < TIER_SLAB_CLASSES
                ? tier_slab_alloc(&slab, asked(kind))
                : tier_cache_alloc(&caches[kind - TIER_SLAB_CLASSES]);

        if (object != NULL) {
            model_add(&model, object, asked(kind),
                      tier_slab_usable_size(&slab, object), kind);
        }
    }
}

Test(guard, tells_nothing_of_a_clean_run)
{
    uint64_t random = TEST_SEED;

    set_up();
    for (unsigned step = 0; step < TIERALLOC_TEST_STEPS; step++) {
        random_step(&random);
        if (step % 97 == 0) {
            (void)tier_slab_trim(&slab);
            cr_assert(tier_slab_check(&slab));
        }
        cr_assert_eq(seen.count, 0U, "step %u", step);
    }
    model_verify(&model);
    while (model.count > 0) {
        const struct model_slot slot = model.slot[0];

        model_drop(&model, 0);
        put(slot.tag, slot.at);
    }
    (void)tier_slab_trim(&slab);
    cr_assert_eq(seen.count, 0U);
    cr_assert_eq(buddy.free_pages, buddy.managed_pages);
    cr_assert(tier_slab_check(&slab) && tier_buddy_check(&buddy));
}
