/*
 * tieralloc.c - the one file that holds the allocator's implementation.
 *
 * SPDX-License-Identifier: MIT
 */
#define TIERALLOC_IMPLEMENTATION
#include <tieralloc/inspect.h>
