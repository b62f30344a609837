/*
 * tests/metal/main.c - run every Test() of the image, one after the other.
 *
 * SPDX-License-Identifier: MIT
 *
 * Ends in exit code 0 when at least one test ran and none failed, else in 1.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <criterion/criterion.h>

/* The section must exist even where no test is linked: NULL is no test. */
static const struct metal_test *const METAL_LINK no_test = NULL;

/* Bounds of the section metal_tests, from the linker. */
extern const struct metal_test *const __start_metal_tests[];
extern const struct metal_test *const __stop_metal_tests[];

static struct {
    jmp_buf end;         /* where an assertion leaves a test to */
    bool failed;         /* a claim of the running test did not hold */
    unsigned passed;     /* tests */
    unsigned not_passed; /* tests */
} run;

void metal_fail(const char *file, int line, const char *claim,
                const char *format, ...)
{
    va_list arguments;

    run.failed = true;
    printf("%s:%d: does not hold: %s", file, line, claim);
    if (format[0] != '\0') {
        printf(": ");
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
    }
    printf("\n");
}

void metal_end_test(void)
{
    longjmp(run.end, 1);
}

static void run_test(const struct metal_test *test)
{
    printf("[ RUN  ] %s/%s\n", test->suite, test->name);
    run.failed = false;
    if (setjmp(run.end) == 0) {
        test->run();
    }
    if (run.failed) {
        printf("[ FAIL ] %s/%s\n", test->suite, test->name);
        run.not_passed++;
    } else {
        run.passed++;
    }
}

int main(void)
{
    const struct metal_test *const *link;

    for (link = __start_metal_tests; link != __stop_metal_tests; link++) {
        if (*link != NULL) {
            run_test(*link);
        }
    }
    printf("%u passed, %u failed\n", run.passed, run.not_passed);
    return run.passed > 0 && run.not_passed == 0 ? 0 : 1;
}
