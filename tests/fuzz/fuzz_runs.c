/*
 * tests/fuzz/fuzz_runs.c - any sequence of calls of runs.h and of its buddy.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each call is made of the tiers and of the model of tests/test_runs.c, which
 * compares statuses, counters and all else, and calls both checks.
 */
#define TIERALLOC_MAX_ORDER 6 /* small enough to meet the largest block */
#include "../test_runs.c"

#include "input.h"

#define FUZZ_PAGES 200

/* A page of the span, or one beside it. */
static uintptr_t some_page(void)
{
    return model.first + input_below(model.count + 2) - 1;
}

/* Any pointer: the start of a page, a byte in it, or eight bytes of input. */
static void *some_pointer(void)
{
    const unsigned how = input_byte();

    if (how == 0) {
        return (void *)(uintptr_t)input_word();
    }
    return byte_of(some_page(), how < 200 ? 0 : how);
}

/* The start of the run or block that a page is in, or else that page. */
static void *some_head(enum what what)
{
    const uint32_t i = input_below(model.count);

    return address_of(model.first +
                      (model.what[i] == what ? model.head[i] : i));
}

/* A length, mostly one that there is. */
static size_t some_pages(void)
{
    const size_t pages = input_byte();

    return pages < 250 ? pages : SIZE_MAX - (255 - pages);
}

/* --- Calls ---------------------------------------------------------------- */

static void call_alloc(void)
{
    alloc(some_pages());
}

static void call_free(void)
{
    free_run(some_head(RUN));
}

static void call_bad_free(void)
{
    free_run(some_pointer());
}

static void call_resize(void)
{
    void *const run = some_head(RUN);

    resize(run, some_pages());
}

static void call_bad_resize(void)
{
    void *const run = some_pointer();

    resize(run, some_pages());
}

static void call_set_owner(void)
{
    void *const run = input_byte() == 0 ? some_pointer() : some_head(RUN);

    set_owner(run, (uintptr_t)input_byte());
}

static void call_alloc_block(void)
{
    alloc_block(input_byte() % (MAX_ORDER + 2));
}

static void call_free_block(void)
{
    free_block(input_byte() == 0 ? some_pointer() : some_head(BLOCK));
}

static void call_add(void)
{
    const uint32_t begin = input_below(model.count);

    add_pages(begin, begin + 1 + input_below(model.count - begin));
}

static void call_remove(void)
{
    const uint32_t begin = input_below(model.count);

    remove_pages(begin, begin + 1 + input_below(model.count - begin));
}

/* Look at the tiers while a byte of them is another; then make it right. */
static void damage_a_byte(void)
{
    const unsigned how = input_byte();
    uint8_t *byte = &metadata[input_below((uint32_t)metadata_bytes)];

    if (how % 4 == 0) {
        byte = (uint8_t *)runs.bins + input_below(sizeof(runs.bins));
    } else if (how % 4 == 1) {
        byte = (uint8_t *)runs.mask + input_below(sizeof(runs.mask));
    }
    const uint8_t right = *byte;

    *byte = (uint8_t)(how < 128 ? input_byte() : right ^ 1U << how % 8);
    look_at_damage();
    *byte = right;
    verify();
}

/* The likelier ones more than once. */
static void (*const calls[])(void) = {
    call_alloc,      call_alloc,     call_alloc,  call_free,
    call_free,       call_bad_free,  call_resize, call_resize,
    call_bad_resize, call_set_owner, trim,        call_alloc_block,
    call_free_block, call_add,       call_remove, damage_a_byte,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input_begin(data, size);
    const unsigned lend_order = input_byte() % (MAX_ORDER + 1);
    const unsigned place = input_byte();
    const uint32_t pages = 1 + input_below(FUZZ_PAGES);
    const uintptr_t first = place == 0   ? 1
                            : place == 1 ? TOP - pages + 1
                                         : MIDDLE - 128 + place;

    set_up_model(first, pages, lend_order);
    add_pages(0, pages);
    while (!input_ended()) {
        calls[input_byte() % COUNT(calls)]();
    }
    verify_pages();
    free_all();
    return 0;
}
