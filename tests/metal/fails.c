/*
 * tests/metal/fails.c - claims that do not hold, to see them reported.
 *
 * SPDX-License-Identifier: MIT
 */
#include <criterion/criterion.h>

Test(stand_in, passes)
{
    cr_assert(true);
    cr_assert_eq(1 + 1, 2, "sum");
    cr_expect_leq((size_t)1, sizeof(char));
}

Test(stand_in, stops_at_a_failed_assertion)
{
    const size_t pages = 3;

    cr_assert_eq(pages, 4, "found %zu pages", pages);
    cr_assert_fail("an assertion did not end its test");
}

Test(stand_in, goes_on_after_a_failed_expectation)
{
    cr_expect_null("text");
    cr_expect(1 > 2, "second claim");
}
