/*
 * criterion/criterion.h - Criterion's claims where libFuzzer drives.
 *
 * SPDX-License-Identifier: MIT
 *
 * A fuzz target includes a tests/test_<module>.c for its model, and calls that
 * with what it decodes. The tests themselves are left out, and a claim that
 * does not hold aborts, which libFuzzer takes for a crash.
 */
#ifndef CRITERION_H_
#define CRITERION_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* As with the real one, the macros' innards are not ours to be warned of. */
#pragma GCC system_header

#define Test(suite, name) \
    __attribute__((unused)) static void suite##_##name##_test(void)

/* The "" makes a message optional: it joins the caller's format string. */
#define fuzz_claim_(holds, claim, ...)                                        \
    do {                                                                      \
        if (!(holds)) {                                                       \
            fprintf(stderr, "%s:%d: does not hold: %s: ", __FILE__, __LINE__, \
                    claim);                                                   \
            fprintf(stderr, "" __VA_ARGS__);                                  \
            fprintf(stderr, "\n");                                            \
            abort();                                                          \
        }                                                                     \
    } while (0)

#define cr_assert(c, ...)     fuzz_claim_(c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...) fuzz_claim_(!(c), "!(" #c ")", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) \
    fuzz_claim_((a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) \
    fuzz_claim_((a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) fuzz_claim_((a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) \
    fuzz_claim_((a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) fuzz_claim_((a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) \
    fuzz_claim_((a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(p, ...) \
    fuzz_claim_((p) == NULL, #p " == NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...) \
    fuzz_claim_((p) != NULL, #p " != NULL", __VA_ARGS__)
#define cr_assert_fail(...) fuzz_claim_(false, "unreachable", __VA_ARGS__)

#endif
