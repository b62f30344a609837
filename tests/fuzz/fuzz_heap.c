/*
 * tests/fuzz/fuzz_heap.c - any sequence of calls of heap.h.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each call is made of the heap and of the model of tests/test_heap.c, which
 * compares addresses, statuses and calls of the source; the check is called
 * after each, and all else is compared after every sixteenth.
 */
/* A small arena: the model looks at all of it, and often. */
#define TIERALLOC_PAGE_SHIFT 10
#define TIERALLOC_MAX_ORDER  4
#include "../test_heap.c"

#include "input.h"

/* Any size, mostly a small one. */
static size_t any_bytes(void)
{
    const unsigned how = input_byte();

    if (how < 160) {
        return how;
    }
    if (how < 250) {
        return input_below(5 * (uint32_t)TIER_PAGE_SIZE);
    }
    return how == 255 ? (size_t)input_word() : SIZE_MAX - input_byte();
}

/* The start of an allocation, or any byte of the arena, or any address. */
static void *any_memory(void)
{
    const unsigned how = input_byte();
    const size_t i = how < 200 ? how : input_below(ALLOCS);

    if (how == 255) {
        return (void *)(uintptr_t)input_word();
    }
    if (how < 230 && model.allocs[i].granules != 0) {
        return address_of(model.allocs[i].first);
    }
    return &arena[input_below((uint32_t)sizeof(arena))];
}

/* --- Calls ---------------------------------------------------------------- */

static void call_alloc(void)
{
    const size_t bytes = any_bytes();

    if (model_unused() < ALLOCS) {
        (void)alloc(bytes);
    }
}

static void call_alloc_aligned(void)
{
    const size_t bytes = any_bytes();
    const size_t alignment = (size_t)1 << input_byte() % 16;

    if (model_unused() < ALLOCS) {
        (void)alloc_aligned(bytes, alignment);
    }
}

static void call_free(void)
{
    (void)free_any(any_memory());
}

static void call_resize(void)
{
    void *const memory = any_memory();

    (void)resize(memory, any_bytes());
}

static void call_add(void)
{
    const size_t base = input_below(ADDED_PAGES * (uint32_t)TIER_PAGE_SIZE);
    const size_t most = ADDED_PAGES * TIER_PAGE_SIZE - base;
    const size_t bytes = input_below((uint32_t)most + 1);
    size_t begin = 0;
    size_t end = 0;
    size_t areas = 0;
    bool overlaps = false;

    cut(base, bytes, &begin, &end);
    for (size_t i = 0; i < AREAS; i++) {
        areas += model.areas[i].end != 0;
        overlaps |= model.areas[i].end > begin && model.areas[i].head < end;
    }
    if (areas < AREAS - SOURCE_PAGES) {
        const bool fits =
            end > begin && (end - begin) * G >= TIER_HEAP_AREA_MIN;

        cr_assert_eq(add(base, bytes), !fits      ? TIER_ERR_INVALID
                                       : overlaps ? TIER_ERR_OVERLAP
                                                  : TIER_OK);
    }
}

static void call_remove(void)
{
    const size_t area = input_byte() % (AREAS * 2);

    (void)remove_area(area < AREAS && model.areas[area].end != 0
                          ? model.areas[area].base
                          : input_below(sizeof(arena)));
}

static void change_the_source(void)
{
    const unsigned how = input_byte();

    source.from_the_top = how % 2 != 0;
    source.most = how / 2 % (SOURCE_PAGES + 1);
    source.fails_at = source.asked + how / 64;
}

/* Look at the heap while a byte of it is another; then make it right. */
static void damage_a_byte(void)
{
    const unsigned which = input_byte();
    struct tier_heap_link *link = &heap.link;
    size_t bytes = sizeof(heap.link);

    for (unsigned i = 0; i < which % 8 && link->next != NULL; i++) {
        link = &link->next->link;
        bytes = ((struct tier_heap_area *)link)->memory - (uintptr_t)link;
    }
    unsigned char *const byte =
        (unsigned char *)link + input_below((uint32_t)bytes);
    const unsigned char right = *byte;

    *byte =
        (unsigned char)(which < 128 ? input_byte() : right ^ 1U << which % 8);
    (void)tier_heap_check(&heap);
    *byte = right;
}

/* The likelier ones more than once. */
static void (*const calls[])(void) = {
    call_alloc,  call_alloc,      call_alloc,    call_alloc_aligned,
    call_free,   call_free,       call_free,     call_resize,
    call_add,    call_remove,     trim,          change_the_source,
    call_resize, use_some_memory, damage_a_byte, call_free,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input_begin(data, size);
    set_up(input_byte() % 4 != 0);
    call_add();
    for (size_t i = 1; !input_ended(); i++) {
        calls[input_byte() % COUNT(calls)]();
        cr_assert(tier_heap_check(&heap));
        if (i % 16 == 0) {
            verify();
        }
    }
    free_all();
    trim();
    verify();
    return 0;
}
