/*
 * tieralloc/text.h - writes words and numbers through a tier_put.
 *
 * SPDX-License-Identifier: MIT
 *
 * For the dumps of the implementation sections, which include it; nothing here
 * is public. A kernel has a way to put a character long before it has printf.
 */
#ifndef TIERALLOC_TEXT_H
#define TIERALLOC_TEXT_H

#include "base.h"

#endif /* TIERALLOC_TEXT_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_TEXT_IMPLEMENTED)
#define TIERALLOC_TEXT_IMPLEMENTED

#include "internal.h"

/* Where a dump goes. */
struct tier_writer_ {
    tier_put put;
    void *context;
};

TIER_LOCAL_ void tier_write_(const struct tier_writer_ *to, const char *text)
{
    while (*text != '\0') {
        to->put(to->context, *text++);
    }
}

/* Write a number, right-aligned to `width` characters. */
TIER_LOCAL_ void tier_write_number_(const struct tier_writer_ *to,
                                    size_t number, unsigned width)
{
    char digits[20]; /* 2^64 has twenty */
    unsigned count = 0;

    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    for (; width > count; width--) {
        to->put(to->context, ' ');
    }
    while (count > 0) {
        to->put(to->context, digits[--count]);
    }
}

#endif /* TIERALLOC_TEXT_IMPLEMENTED */
