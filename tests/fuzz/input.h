/*
 * tests/fuzz/input.h - the bytes of libFuzzer as a stream of numbers.
 *
 * SPDX-License-Identifier: MIT
 *
 * Past the end there are zeros, so that every input decodes to something.
 */
#ifndef TIERALLOC_FUZZ_INPUT_H
#define TIERALLOC_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static const uint8_t *input_at;
static size_t input_left;

/* Begin to read so many bytes. */
static inline void input_begin(const uint8_t *bytes, size_t size)
{
    input_at = bytes;
    input_left = size;
}

static inline bool input_ended(void)
{
    return input_left == 0;
}

/* The next byte. */
static inline unsigned input_byte(void)
{
    if (input_left == 0) {
        return 0;
    }
    input_left--;
    return *input_at++;
}

/* A number below a bound, of two bytes if one is not enough. */
static inline uint32_t input_below(uint32_t bound)
{
    uint32_t number = input_byte();

    if (bound > 256) {
        number = number << 8 | input_byte();
    }
    return number % bound;
}

/* A word of eight bytes. */
static inline uint64_t input_word(void)
{
    uint64_t word = 0;

    for (unsigned i = 0; i < 8; i++) {
        word = word << 8 | input_byte();
    }
    return word;
}

/* libFuzzer calls this with each input; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
