/*
 * tests/fuzz/fuzz_buddy.c - any sequence of calls of buddy.h.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each call is made of the buddy and of the model of tests/test_buddy.c, which
 * compares statuses, counters and all else, and calls the check.
 */
#define TIERALLOC_MAX_ORDER 4 /* small enough to meet the largest block */
#include "../test_buddy.c"

#include "input.h"

#define FUZZ_PAGES 100

/* The number of a page of the span, or of one beside it. */
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

/* The start of the block that a page is in, or else that page. */
static void *some_block(void)
{
    const uint32_t i = input_below(model.count);
    const uint32_t state = model.page[i].state;

    return address_of(model.first + (state < model.count ? state : i));
}

/* An order, sometimes one that is too large. */
static unsigned some_order(void)
{
    const unsigned order = input_byte();

    return order < 240 ? order % (MAX_ORDER + 1) : order;
}

/* --- Calls ---------------------------------------------------------------- */

static void call_alloc(void)
{
    alloc(some_order());
}

static void call_free(void)
{
    free_block(some_block());
}

static void call_bad_free(void)
{
    free_block(some_pointer());
}

static void call_alloc_at(void)
{
    void *const block = some_pointer();

    alloc_at(block, some_order());
}

static void call_resize(void)
{
    void *const block = some_block();

    resize(block, some_order());
}

static void call_bad_resize(void)
{
    void *const block = some_pointer();

    resize(block, some_order());
}

static void call_set_owner(void)
{
    void *const block = input_byte() == 0 ? some_pointer() : some_block();

    set_owner(block, (uintptr_t)input_byte());
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

static void call_alloc_bulk(void)
{
    const unsigned order = some_order();

    alloc_bulk(order, input_below(BULK_MAX + 1));
}

static void call_alloc_within(void)
{
    const unsigned order = some_order();
    const unsigned how = input_byte();

    if (how == 0) {
        const uintptr_t base = (uintptr_t)input_word();

        alloc_within(order, base, (size_t)input_word());
    } else {
        const uintptr_t base = (uintptr_t)byte_of(some_page(), how % 3);

        alloc_within(order, base, bytes_of(input_below(model.count)) + how % 5);
    }
}

/* Free several blocks at once; the first pointer may be any. */
static void call_free_bulk(void)
{
    void *bulk[BULK_MAX];
    const size_t count = input_below(BULK_MAX + 1);

    for (size_t i = 0; i < count; i++) {
        bulk[i] = some_block();
    }
    if (count != 0 && input_byte() % 4 == 0) {
        bulk[0] = some_pointer();
    }
    free_bulk(count, bulk);
}

/* Look at the buddy while a byte of it is another; then make it right. */
static void damage_a_byte(void)
{
    const unsigned how = input_byte();
    uint8_t *const byte =
        how % 2 == 0
            ? &metadata[input_below((uint32_t)metadata_bytes)]
            : (uint8_t *)buddy.lists + input_below(sizeof(buddy.lists));
    const uint8_t right = *byte;

    *byte = (uint8_t)(how < 128 ? input_byte() : right ^ 1U << how % 8);
    tier_buddy_check(&buddy);
    *byte = right;
    verify_counters();
}

/* The likelier ones more than once. */
static void (*const calls[])(void) = {
    call_alloc,  call_alloc,      call_alloc,      call_free,
    call_free,   call_bad_free,   call_alloc_at,   call_alloc_within,
    call_resize, call_bad_resize, call_alloc_bulk, call_free_bulk,
    call_add,    call_remove,     call_set_owner,  damage_a_byte,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input_begin(data, size);
    const unsigned place = input_byte();
    const uint32_t pages = 1 + input_below(FUZZ_PAGES);
    const uintptr_t first = place == 0   ? 1
                            : place == 1 ? TOP - pages + 1
                                         : MIDDLE - 128 + place;

    set_up_model(first, pages);
    add_pages(0, pages);
    while (!input_ended()) {
        calls[input_byte() % COUNT(calls)]();
    }
    verify_pages();
    free_all();
    return 0;
}
