/*
 * criterion/criterion.h - as much of Criterion as bare metal can hold.
 *
 * SPDX-License-Identifier: MIT
 *
 * tests/test_<module>.c is written for Criterion 2.4 and runs with it on the
 * host. On bare metal this header takes its place: Test() and the cr_ macros
 * below mean the same, but all tests share one address space, one after the
 * other, and there are no fixtures, signals or timeouts.
 *
 * Test() leaves a pointer in the section metal_tests, which the linker bounds
 * with __start_metal_tests and __stop_metal_tests; tests/metal/main.c walks it.
 *
 * A cr_assert that does not hold ends its test, a cr_expect only fails it. Both
 * print the file, the line, the claim and the caller's message.
 */
#ifndef CRITERION_H_
#define CRITERION_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As with the real one, the macros' innards are not ours to be warned of. */
#pragma GCC system_header

struct metal_test {
    const char *suite;
    const char *name;
    void (*run)(void);
};

/* Report that `claim` does not hold and mark the running test as failed. */
__attribute__((format(printf, 4, 5))) void metal_fail(const char *file,
                                                      int line,
                                                      const char *claim,
                                                      const char *format, ...);

/* Leave the running test. */
__attribute__((noreturn)) void metal_end_test(void);

/* Puts a pointer to a test where main finds it, in the order of the file. */
#define METAL_LINK __attribute__((used, no_reorder, section("metal_tests")))

#define Test(suite, name)                                                    \
    static void suite##_##name##_test(void);                                 \
    static const struct metal_test suite##_##name##_entry = {                \
        #suite, #name, suite##_##name##_test};                               \
    static const struct metal_test *const METAL_LINK suite##_##name##_link = \
        &suite##_##name##_entry;                                             \
    static void suite##_##name##_test(void)

/* The "" makes a message optional: it joins the caller's format string. */
#define metal_claim_(holds, claim, after, ...)                     \
    do {                                                           \
        if (!(holds)) {                                            \
            metal_fail(__FILE__, __LINE__, claim, "" __VA_ARGS__); \
            after;                                                 \
        }                                                          \
    } while (0)
#define metal_assert_(holds, claim, ...) \
    metal_claim_(holds, claim, metal_end_test(), __VA_ARGS__)
#define metal_expect_(holds, claim, ...) \
    metal_claim_(holds, claim, (void)0, __VA_ARGS__)

#define cr_assert(c, ...)     metal_assert_(c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...) metal_assert_(!(c), "!(" #c ")", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) \
    metal_assert_((a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) \
    metal_assert_((a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) \
    metal_assert_((a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) \
    metal_assert_((a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) \
    metal_assert_((a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) \
    metal_assert_((a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(p, ...) \
    metal_assert_((p) == NULL, #p " == NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...) \
    metal_assert_((p) != NULL, #p " != NULL", __VA_ARGS__)
#define cr_assert_fail(...) metal_assert_(false, "unreachable", __VA_ARGS__)

#define cr_expect(c, ...)     metal_expect_(c, #c, __VA_ARGS__)
#define cr_expect_not(c, ...) metal_expect_(!(c), "!(" #c ")", __VA_ARGS__)
#define cr_expect_eq(a, b, ...) \
    metal_expect_((a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) \
    metal_expect_((a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) \
    metal_expect_((a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) \
    metal_expect_((a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) \
    metal_expect_((a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) \
    metal_expect_((a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(p, ...) \
    metal_expect_((p) == NULL, #p " == NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...) \
    metal_expect_((p) != NULL, #p " != NULL", __VA_ARGS__)

#endif
