/*
 * tieralloc/base.h - what every tier shares: statuses, the page, the source
 * of pages.
 *
 * SPDX-License-Identifier: MIT
 *
 * Every call that can fail says so by a status or by NULL, never by a trap or
 * a panic. A refused call changes nothing but the counter of refusals.
 */
#ifndef TIERALLOC_BASE_H
#define TIERALLOC_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Bytes in a page. */
#define TIER_PAGE_SIZE ((size_t)1 << TIERALLOC_PAGE_SHIFT)

/* Bytes in the largest block of pages, and the alignment of such a block. */
#define TIER_BLOCK_MAX (TIER_PAGE_SIZE << TIERALLOC_MAX_ORDER)

/* Why a call failed; zero is success, failures are negative. */
enum tier_status {
    TIER_OK = 0,
    TIER_ERR_NO_MEMORY = -1,  /* nothing free is large enough just now */
    TIER_ERR_TOO_LARGE = -2,  /* larger than this allocator ever gives */
    TIER_ERR_INVALID = -3,    /* an argument is outside its documented range */
    TIER_ERR_MISALIGNED = -4, /* an address is not aligned as it must be */
    TIER_ERR_OVERFLOW = -5,   /* base + bytes passes the end of memory */
    TIER_ERR_OVERLAP = -6,    /* the region overlaps pages held already */
    TIER_ERR_METADATA = -7,   /* the memory given for metadata is too small */
    TIER_ERR_IN_USE = -8,     /* what is to go, or to change, is in use now */
    TIER_ERR_FOREIGN = -9,    /* the address was never given out from here */
    TIER_ERR_INTERIOR = -10,  /* the address is inside an allocation */
    TIER_ERR_DOUBLE_FREE = -11, /* the allocation is free already */
    TIER_ERR_WRONG_SIZE = -12,  /* the size is not that of the allocation */
    TIER_ERR_LOG_FULL = -13     /* the transaction has no record left */
};

/*
 * Where the slab tier gets its pages: two functions and a context.
 *
 * acquire returns `pages` contiguous pages, aligned to a page, or NULL when
 * there are none. release takes back exactly what one acquire gave. While pages
 * are held, what the map says of them is the holder's to write; on release each
 * of their kinds is TIER_KIND_NONE, as acquire left them.
 */
struct tier_page_source {
    void *(*acquire)(void *context, size_t pages);
    void (*release)(void *context, void *memory, size_t pages);
    void *context;
};

/* Receives a text dump, character by character. */
typedef void (*tier_put)(void *context, char character);

/* --- Inspection ----------------------------------------------------------- */

/* The reason behind a status as one short English line; never NULL. */
TIERALLOC_API const char *tier_status_text(enum tier_status status);

#ifdef __cplusplus
}
#endif

/* --- Layout names --------------------------------------------------------- */

/*
 * A file that shares structs with others refers to one symbol per [layout]
 * option that these depend on, named after its value; the file with the
 * implementation defines those of its own values. A reference is four bytes of read-only data, in a
 * section that the linker retains: only a section that is kept can make a link
 * fail.
 */
#if defined(__ELF__) && !defined(TIERALLOC_STATIC)
#define TIER_TEXT_(value)  TIER_TEXT2_(value)
#define TIER_TEXT2_(value) #value
#define TIER_LAYOUT_(option) \
    "tieralloc_layout_" #option "_" TIER_TEXT_(TIERALLOC_##option)
#define TIER_LAYOUT_PLACE_(text)                                            \
    __asm__(".pushsection .rodata.tieralloc_layout,\"aR\",%progbits\n" text \
            "\n.popsection")
#define TIER_LAYOUT_USE_(option) \
    TIER_LAYOUT_PLACE_(".balign 4\n.4byte " TIER_LAYOUT_(option) " - .")
#define TIER_LAYOUT_DEFINE_(option) \
    TIER_LAYOUT_PLACE_(             \
        ".weak " TIER_LAYOUT_(option) "\n" TIER_LAYOUT_(option) ":")

TIER_LAYOUT_USE_(PAGE_SHIFT);
TIER_LAYOUT_USE_(MAX_ORDER);
TIER_LAYOUT_USE_(LOCKING);
TIER_LAYOUT_USE_(CPUS);
#endif

#endif /* TIERALLOC_BASE_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_BASE_IMPLEMENTED)
#define TIERALLOC_BASE_IMPLEMENTED

#ifdef __cplusplus
#error "define TIERALLOC_IMPLEMENTATION in a C file, not in C++"
#endif

#include "internal.h"

#ifdef TIER_LAYOUT_DEFINE_
TIER_LAYOUT_DEFINE_(PAGE_SHIFT);
TIER_LAYOUT_DEFINE_(MAX_ORDER);
TIER_LAYOUT_DEFINE_(LOCKING);
TIER_LAYOUT_DEFINE_(CPUS);
#endif

TIERALLOC_API const char *tier_status_text(enum tier_status status)
{
    switch (status) {
    case TIER_OK:
        return "success";
    case TIER_ERR_NO_MEMORY:
        return "out of memory: nothing free is large enough";
    case TIER_ERR_TOO_LARGE:
        return "too large: no allocation of this size is ever possible";
    case TIER_ERR_INVALID:
        return "invalid argument: outside its documented range";
    case TIER_ERR_MISALIGNED:
        return "misaligned: the address does not have the required alignment";
    case TIER_ERR_OVERFLOW:
        return "overflow: the range passes the end of the address space";
    case TIER_ERR_OVERLAP:
        return "overlap: the region shares pages with one added before";
    case TIER_ERR_METADATA:
        return "metadata: the memory given for the page map is too small";
    case TIER_ERR_IN_USE:
        return "in use: what is to go, or to change, is in use just now";
    case TIER_ERR_FOREIGN:
        return "foreign: the address was not given out by this allocator";
    case TIER_ERR_INTERIOR:
        return "interior: the address is inside an allocation, not its start";
    case TIER_ERR_DOUBLE_FREE:
        return "double free: the memory is free already";
    case TIER_ERR_WRONG_SIZE:
        return "wrong size: the allocation has another size";
    case TIER_ERR_LOG_FULL:
        return "log full: begin the transaction with more records";
    }
    return "unknown status";
}

#endif /* TIERALLOC_BASE_IMPLEMENTED */
