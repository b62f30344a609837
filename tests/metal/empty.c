/*
 * tests/metal/empty.c - an image without tests, which must not pass.
 *
 * SPDX-License-Identifier: MIT
 */
#include <criterion/criterion.h>
