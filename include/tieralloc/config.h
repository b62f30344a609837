/*
 * tieralloc/config.h - every compile-time option, its meaning and its default.
 *
 * SPDX-License-Identifier: MIT
 *
 * Set an option on the command line or with #define before the first include
 * of a tieralloc header. Give each number as one plain decimal literal: it
 * becomes part of a name (see below). Flags are 0 or 1, never merely defined.
 *
 * Options marked [layout] change the structs that callers own. Every file of
 * a program must agree on them; two that do not fail to link, and the linker
 * names the option: "undefined reference to tieralloc_layout_MAX_ORDER_9".
 */
#ifndef TIERALLOC_CONFIG_H
#define TIERALLOC_CONFIG_H

/* --- Pages ---------------------------------------------------------------- */

/* log2 of the bytes in a page; 8 to 20. [layout] */
#ifndef TIERALLOC_PAGE_SHIFT
#define TIERALLOC_PAGE_SHIFT 12
#endif
#if TIERALLOC_PAGE_SHIFT < 8 || TIERALLOC_PAGE_SHIFT > 20
#error "TIERALLOC_PAGE_SHIFT must be 8 to 20 (pages of 256 bytes to 1 MiB)"
#endif

/* log2 of the pages in the largest block, inclusive; 0 to 18. [layout] */
#ifndef TIERALLOC_MAX_ORDER
#define TIERALLOC_MAX_ORDER 10
#endif
#if TIERALLOC_MAX_ORDER < 0 || TIERALLOC_MAX_ORDER > 18
#error "TIERALLOC_MAX_ORDER must be 0 to 18"
#endif
#if TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER > 30
#error "TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER must not exceed 30 (1 GiB)"
#endif

/* --- Objects -------------------------------------------------------------- */

/*
 * Largest size in bytes that the slab tier serves; larger requests become
 * pages. A power of two, 256 to 32768; at most sixteen pages, at most the
 * largest block, at most 2^(32 - TIERALLOC_PAGE_SHIFT). The default is the
 * largest of these: it packs best. [layout]
 */
#ifndef TIERALLOC_OBJECT_MAX
#if TIERALLOC_PAGE_SHIFT >= 11 && TIERALLOC_PAGE_SHIFT <= 17 && \
    TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER >= 15
#define TIERALLOC_OBJECT_MAX 32768
#elif TIERALLOC_PAGE_SHIFT >= 10 && TIERALLOC_PAGE_SHIFT <= 18 && \
    TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER >= 14
#define TIERALLOC_OBJECT_MAX 16384
#elif TIERALLOC_PAGE_SHIFT >= 9 && TIERALLOC_PAGE_SHIFT <= 19 && \
    TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER >= 13
#define TIERALLOC_OBJECT_MAX 8192
#elif TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER >= 12
#define TIERALLOC_OBJECT_MAX 4096
#elif TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER >= 11
#define TIERALLOC_OBJECT_MAX 2048
#elif TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER >= 10
#define TIERALLOC_OBJECT_MAX 1024
#elif TIERALLOC_PAGE_SHIFT + TIERALLOC_MAX_ORDER >= 9
#define TIERALLOC_OBJECT_MAX 512
#else
#define TIERALLOC_OBJECT_MAX 256
#endif
#endif
#if TIERALLOC_OBJECT_MAX < 256 || TIERALLOC_OBJECT_MAX > 32768 || \
    (TIERALLOC_OBJECT_MAX & (TIERALLOC_OBJECT_MAX - 1)) != 0
#error "TIERALLOC_OBJECT_MAX must be a power of two, 256 to 32768"
#endif

/*
 * Size classes per doubling of the size: 4 or 8. With 8 less is lost to rounding
 * up (6 % instead of 11 on average), and more to slabs that are not full.
 * [layout]
 */
#ifndef TIERALLOC_CLASS_STEPS
#define TIERALLOC_CLASS_STEPS 4
#endif
#if TIERALLOC_CLASS_STEPS != 4 && TIERALLOC_CLASS_STEPS != 8
#error "TIERALLOC_CLASS_STEPS must be 4 or 8"
#endif

/* Alignment in bytes that every allocation has at least; 8 or 16. [layout] */
#ifndef TIERALLOC_MIN_ALIGN
#define TIERALLOC_MIN_ALIGN 8
#endif
#if TIERALLOC_MIN_ALIGN != 8 && TIERALLOC_MIN_ALIGN != 16
#error "TIERALLOC_MIN_ALIGN must be 8 or 16"
#endif

/* --- Safety --------------------------------------------------------------- */

/*
 * 0: the caller promises that every free is right; what a wrong one does is
 * undefined. 1: every free is checked (foreign, interior, double, wrong size)
 * and a bad one is refused with a status. 2: also, each object is followed by a
 * red zone and by who allocated it, and is filled with a pattern while it is
 * free; what was overwritten is reported (see guard.h). [layout]
 */
#ifndef TIERALLOC_CHECKS
#define TIERALLOC_CHECKS 1
#endif
#if TIERALLOC_CHECKS < 0 || TIERALLOC_CHECKS > 2
#error "TIERALLOC_CHECKS must be 0 (none), 1 (every free) or 2 (contents too)"
#endif

/*
 * At TIERALLOC_CHECKS 2: an expression, a uintptr_t, that says who is calling. It
 * is evaluated in the functions of slab.h and cpucache.h that allocate and free
 * objects, so that the default is the address after the call of these.
 */
#ifndef TIERALLOC_SITE
#define TIERALLOC_SITE() ((uintptr_t)__builtin_return_address(0))
#endif

/*
 * Called with a condition that holds unless tieralloc itself is wrong. Empty
 * by default; the tests make it abort.
 */
#ifndef TIERALLOC_ASSERT
#define TIERALLOC_ASSERT(condition) ((void)0)
#endif

/* --- Locking -------------------------------------------------------------- */

/*
 * 1: struct tier_allocator holds a lock of type TIERALLOC_LOCK_TYPE, and each
 * call of tieralloc.h takes it through the three macros below; all four must
 * then be defined. 0: one CPU, or the caller serialises. [layout]
 */
#ifndef TIERALLOC_LOCKING
#define TIERALLOC_LOCKING 0
#endif
#if TIERALLOC_LOCKING != 0 && TIERALLOC_LOCKING != 1
#error "TIERALLOC_LOCKING must be 0 or 1"
#endif
#if TIERALLOC_LOCKING &&                                              \
    !(defined(TIERALLOC_LOCK_TYPE) && defined(TIERALLOC_LOCK_INIT) && \
      defined(TIERALLOC_LOCK) && defined(TIERALLOC_UNLOCK))
#error "TIERALLOC_LOCKING needs TIERALLOC_LOCK_TYPE, _LOCK_INIT, _LOCK, _UNLOCK"
#endif

/* Each is given a pointer to the lock: initialise, acquire, release it. */
#if !TIERALLOC_LOCKING
#define TIERALLOC_LOCK_INIT(lock) ((void)0)
#define TIERALLOC_LOCK(lock)      ((void)0)
#define TIERALLOC_UNLOCK(lock)    ((void)0)
#endif

/* --- CPUs ----------------------------------------------------------------- */

/*
 * CPUs that cpucache.h keeps objects ready for; 0 turns these caches off: then
 * each call has a hard bound. Above 1, TIERALLOC_LOCKING must be 1, and
 * TIERALLOC_CPU() must be defined: the number of the CPU that runs, 0 to
 * TIERALLOC_CPUS - 1. [layout]
 */
#ifndef TIERALLOC_CPUS
#define TIERALLOC_CPUS 1
#endif
#if TIERALLOC_CPUS < 0 || TIERALLOC_CPUS > 1024
#error "TIERALLOC_CPUS must be 0 (no per-CPU caches) to 1024"
#endif
#if TIERALLOC_CPUS > 1 && !(TIERALLOC_LOCKING && defined(TIERALLOC_CPU))
#error "TIERALLOC_CPUS above 1 needs TIERALLOC_LOCKING 1 and TIERALLOC_CPU()"
#endif
#ifndef TIERALLOC_CPU
#define TIERALLOC_CPU() 0U
#endif

/*
 * Stand around all work on the caches of one CPU: from ENTER to LEAVE the code
 * must neither move to another CPU nor be interrupted by code that calls the
 * allocator. `state` is a name: ENTER may declare a variable of it (the old
 * interrupt mask, say), which LEAVE uses. Empty by default.
 */
#ifndef TIERALLOC_CPU_ENTER
#define TIERALLOC_CPU_ENTER(state) ((void)0)
#define TIERALLOC_CPU_LEAVE(state) ((void)0)
#endif

/*
 * Most bytes of objects of one size that wait for one CPU; 0 to 1048576. With
 * several CPUs, twice as many may wait between them all besides. At least two
 * objects of each size may wait, and at most 63.
 */
#ifndef TIERALLOC_CPU_BYTES
#define TIERALLOC_CPU_BYTES 65536
#endif
#if TIERALLOC_CPU_BYTES < 0 || TIERALLOC_CPU_BYTES > 1048576
#error "TIERALLOC_CPU_BYTES must be 0 to 1048576"
#endif

/* --- Linkage -------------------------------------------------------------- */

/*
 * Precedes each public function. Define TIERALLOC_STATIC to make everything
 * private to the including file; otherwise define TIERALLOC_IMPLEMENTATION in
 * exactly one C file of the program.
 */
#ifndef TIERALLOC_API
#ifdef TIERALLOC_STATIC
#define TIERALLOC_API static __attribute__((unused))
#else
#define TIERALLOC_API
#endif
#endif

#endif /* TIERALLOC_CONFIG_H */
