/*
 * tests/support.h - what the tests of every module share.
 *
 * SPDX-License-Identifier: MIT
 *
 * Include it before any header of tieralloc: it hooks TIERALLOC_ASSERT. All of
 * it works on bare metal too: no malloc, no files, no clock.
 */
#ifndef TIERALLOC_TEST_SUPPORT_H
#define TIERALLOC_TEST_SUPPORT_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TIERALLOC_ASSERT(condition) cr_assert(condition)
#include <tieralloc/base.h>

/* Steps of a random run; the bare-metal build takes fewer. */
#ifndef TIERALLOC_TEST_STEPS
#define TIERALLOC_TEST_STEPS 20000
#endif

/* The seed of each random run that has no reason for another: "tiera". */
#define TEST_SEED UINT64_C(0x7469657261)

#define KIB ((size_t)1024)
#define MIB (KIB * 1024)

/* Elements of an array. */
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Define `name`, a static array of `size` bytes that starts a page. */
#define TEST_ARENA(name, size) \
    static _Alignas(TIER_PAGE_SIZE) unsigned char name[size]

/* The first address at or after `memory` that is aligned to a power of two. */
static inline void *test_align(void *memory, size_t alignment)
{
    const size_t rest = (uintptr_t)memory & (alignment - 1);

    return (unsigned char *)memory + (rest == 0 ? 0 : alignment - rest);
}

/* The next number of a run: splitmix64, Steele, Lea, Flood, 2014. */
static inline uint64_t test_random(uint64_t *state)
{
    uint64_t mixed = *state += UINT64_C(0x9E3779B97F4A7C15);

    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94D049BB133111EB);
    return mixed ^ (mixed >> 31);
}

/* A number from 0 to bound - 1; bound is 1 to 2^32 - 1. */
static inline uint32_t test_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)(test_random(state) >> 32) % bound;
}

/* True when each of `size` bytes has this value. */
static inline bool test_all(const void *memory, unsigned char value,
                            size_t size)
{
    const unsigned char *const bytes = (const unsigned char *)memory;

    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

#endif
