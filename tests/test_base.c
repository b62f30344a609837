/*
 * tests/test_base.c - statuses, and the helpers below all tiers.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/internal.h>

static const enum tier_status statuses[] = {
    TIER_OK,
    TIER_ERR_NO_MEMORY,
    TIER_ERR_TOO_LARGE,
    TIER_ERR_INVALID,
    TIER_ERR_MISALIGNED,
    TIER_ERR_OVERFLOW,
    TIER_ERR_OVERLAP,
    TIER_ERR_METADATA,
    TIER_ERR_IN_USE,
    TIER_ERR_FOREIGN,
    TIER_ERR_INTERIOR,
    TIER_ERR_DOUBLE_FREE,
    TIER_ERR_WRONG_SIZE,
    TIER_ERR_LOG_FULL,
};

/* --- Statuses ------------------------------------------------------------- */

Test(base, success_is_zero_and_failures_are_negative)
{
    cr_assert_eq(TIER_OK, 0);
    for (size_t i = 1; i < COUNT(statuses); i++) {
        cr_assert((int)statuses[i] < 0);
    }
}

Test(base, each_status_has_a_text_of_its_own)
{
    for (size_t i = 0; i < COUNT(statuses); i++) {
        const char *const text = tier_status_text(statuses[i]);

        cr_assert_not_null(text);
        cr_assert(text[0] != '\0');
        for (size_t j = 0; j < i; j++) {
            cr_assert_neq(strcmp(text, tier_status_text(statuses[j])), 0,
                          "%d and %d", (int)statuses[i], (int)statuses[j]);
        }
    }
}

Test(base, each_text_is_one_line)
{
    for (size_t i = 0; i < COUNT(statuses); i++) {
        const char *const text = tier_status_text(statuses[i]);

        cr_assert(strlen(text) < 80);
        cr_assert_null(strchr(text, '\n'));
    }
}

Test(base, an_unknown_status_has_a_text_that_no_status_has)
{
    static const int unknown[] = {1, -14, -100, 100, INT32_MAX, INT32_MIN};

    for (size_t i = 0; i < COUNT(unknown); i++) {
        const char *const text = tier_status_text((enum tier_status)unknown[i]);

        cr_assert_not_null(text);
        cr_assert(text[0] != '\0');
        for (size_t j = 0; j < COUNT(statuses); j++) {
            cr_assert_neq(strcmp(text, tier_status_text(statuses[j])), 0);
        }
    }
}

Test(base, pages_and_blocks_have_the_configured_size)
{
    cr_assert_eq(TIER_PAGE_SIZE, (size_t)1 << TIERALLOC_PAGE_SHIFT);
    cr_assert_eq(TIER_BLOCK_MAX / TIER_PAGE_SIZE,
                 (size_t)1 << TIERALLOC_MAX_ORDER);
}

/* --- Bits ----------------------------------------------------------------- */

Test(base, finds_the_lowest_bit)
{
    uint64_t random = TEST_SEED;

    for (unsigned bit = 0; bit < 32; bit++) {
        const uint32_t above = (uint32_t)test_random(&random);

        cr_assert_eq(tier_ctz32_((uint32_t)1 << bit), bit);
        cr_assert_eq(tier_ctz32_((above | 1U) << bit), bit);
    }
    for (unsigned bit = 0; bit < TIER_WORD_BITS_; bit++) {
        const tier_word_ above = (tier_word_)test_random(&random);

        cr_assert_eq(tier_ctz_word_((tier_word_)1 << bit), bit);
        cr_assert_eq(tier_ctz_word_((above | 1U) << bit), bit);
    }
}

Test(base, finds_the_highest_bit)
{
    cr_assert_eq(tier_highest_bit_(0), -1);
    for (int bit = 0; bit < (int)(sizeof(size_t) * 8); bit++) {
        cr_assert_eq(tier_highest_bit_((size_t)1 << bit), bit);
        cr_assert_eq(tier_highest_bit_(SIZE_MAX >> bit),
                     (int)(sizeof(size_t) * 8) - 1 - bit);
    }
}

Test(base, tells_aligned_addresses)
{
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
        cr_assert(tier_is_aligned_(0, alignment));
        cr_assert(tier_is_aligned_(3 * alignment, alignment));
        if (alignment > 1) {
            cr_assert(!tier_is_aligned_(3 * alignment + 1, alignment));
            cr_assert(!tier_is_aligned_(3 * alignment - 1, alignment));
            cr_assert(!tier_is_aligned_(alignment / 2, alignment));
        }
    }
}

/* --- Bytes ---------------------------------------------------------------- */

#define BYTES 64

/* Memory of the tests below; the part they work on lies inside. */
static _Alignas(8) uint8_t memory[BYTES];
static _Alignas(8) uint8_t source[BYTES];

/* True when memory[0 .. begin - 1] and memory[end ..] have this value. */
static bool surrounded_by(uint8_t value, size_t begin, size_t end)
{
    return test_all(memory, value, begin) &&
           test_all(memory + end, value, BYTES - end);
}

Test(base, zeroes_exactly_the_bytes_it_is_given)
{
    for (size_t begin = 0; begin <= BYTES; begin++) {
        for (size_t end = begin; end <= BYTES; end++) {
            memset(memory, 0xA5, BYTES);
            tier_zero_(memory + begin, end - begin);
            cr_assert(test_all(memory + begin, 0, end - begin));
            cr_assert(surrounded_by(0xA5, begin, end));
        }
    }
}

Test(base, clears_exactly_the_bytes_it_is_given)
{
    for (size_t end = 0; end <= BYTES; end++) {
        memset(memory, 0xA5, BYTES);
        memset(memory, 0, end / 2);
        tier_clear_(memory, end);
        cr_assert(test_all(memory, 0, end));
        cr_assert(test_all(memory + end, 0xA5, BYTES - end));
    }
}

Test(base, copies_exactly_the_bytes_it_is_given)
{
    uint64_t random = TEST_SEED;

    for (size_t i = 0; i < BYTES; i++) {
        source[i] = (uint8_t)test_random(&random);
    }
    for (size_t from = 0; from <= 9; from++) {
        for (size_t to = 0; to <= 9; to++) {
            for (size_t bytes = 0; bytes <= BYTES - 9; bytes++) {
                memset(memory, 0xA5, BYTES);
                tier_copy_(memory + to, source + from, bytes);
                cr_assert_eq(memcmp(memory + to, source + from, bytes), 0);
                cr_assert(surrounded_by(0xA5, to, to + bytes));
            }
        }
    }
}

Test(base, finds_the_first_byte_that_is_not_zero)
{
    for (size_t begin = 0; begin <= BYTES; begin++) {
        for (size_t end = begin; end <= BYTES; end++) {
            memset(memory, 0xFF, BYTES);
            memset(memory + begin, 0, end - begin);
            cr_assert_eq(tier_find_nonzero_(memory, begin, end), end);
            for (size_t at = begin; at < end; at++) {
                memory[at] = 0x80;
                cr_assert_eq(tier_find_nonzero_(memory, begin, end), at);
                memory[at] = 0;
            }
        }
    }
    cr_assert_eq(tier_find_nonzero_(memory, 9, 5), 5U);
}
