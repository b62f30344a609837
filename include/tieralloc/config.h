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

/* Most zones of an allocator; with 1 no free looks for its zone. [layout] */
#ifndef TIERALLOC_ZONES
#define TIERALLOC_ZONES 3
#endif
#if TIERALLOC_ZONES < 1 || TIERALLOC_ZONES > 3
#error "TIERALLOC_ZONES must be 1 to 3"
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
 * each call for an object has a hard bound, unless memory is looked for (see
 * tier_set_fail_fast). Above 1, TIERALLOC_LOCKING must be 1, and
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
#define TIERALLOC_CPU_BYTES 98304
#endif
#if TIERALLOC_CPU_BYTES < 0 || TIERALLOC_CPU_BYTES > 1048576
#error "TIERALLOC_CPU_BYTES must be 0 to 1048576"
#endif

/* --- Health --------------------------------------------------------------- */

/*
 * From which share of the managed pages in use, in permille, an allocator is
 * strained, and critical; 1 to 1001, which is never. For tier_health, as all of
 * these.
 */
#ifndef TIERALLOC_HEALTH_USED
#define TIERALLOC_HEALTH_USED 900
#endif
#ifndef TIERALLOC_HEALTH_USED_CRITICAL
#define TIERALLOC_HEALTH_USED_CRITICAL 980
#endif
#if TIERALLOC_HEALTH_USED < 1 ||                              \
    TIERALLOC_HEALTH_USED > TIERALLOC_HEALTH_USED_CRITICAL || \
    TIERALLOC_HEALTH_USED_CRITICAL > 1001
#error "need 1 <= TIERALLOC_HEALTH_USED <= _USED_CRITICAL <= 1001 (permille)"
#endif

/* Which order of free blocks tells fragmentation; 0 to TIERALLOC_MAX_ORDER. */
#ifndef TIERALLOC_HEALTH_ORDER
#if TIERALLOC_MAX_ORDER < 4
#define TIERALLOC_HEALTH_ORDER TIERALLOC_MAX_ORDER
#else
#define TIERALLOC_HEALTH_ORDER 4
#endif
#endif
#if TIERALLOC_HEALTH_ORDER < 0 || TIERALLOC_HEALTH_ORDER > TIERALLOC_MAX_ORDER
#error "TIERALLOC_HEALTH_ORDER must be 0 to TIERALLOC_MAX_ORDER"
#endif

/* The same of the free pages that are in pieces too small for that order. */
#ifndef TIERALLOC_HEALTH_UNUSABLE
#define TIERALLOC_HEALTH_UNUSABLE 500
#endif
#ifndef TIERALLOC_HEALTH_UNUSABLE_CRITICAL
#define TIERALLOC_HEALTH_UNUSABLE_CRITICAL 1000
#endif
#if TIERALLOC_HEALTH_UNUSABLE < 1 ||                                  \
    TIERALLOC_HEALTH_UNUSABLE > TIERALLOC_HEALTH_UNUSABLE_CRITICAL || \
    TIERALLOC_HEALTH_UNUSABLE_CRITICAL > 1001
#error "need 1 <= TIERALLOC_HEALTH_UNUSABLE <= _UNUSABLE_CRITICAL <= 1001"
#endif

/* The same of recent requests that failed. */
#ifndef TIERALLOC_HEALTH_FAILED
#define TIERALLOC_HEALTH_FAILED 20
#endif
#ifndef TIERALLOC_HEALTH_FAILED_CRITICAL
#define TIERALLOC_HEALTH_FAILED_CRITICAL 200
#endif
#if TIERALLOC_HEALTH_FAILED < 1 ||                                \
    TIERALLOC_HEALTH_FAILED > TIERALLOC_HEALTH_FAILED_CRITICAL || \
    TIERALLOC_HEALTH_FAILED_CRITICAL > 1001
#error \
    "need 1 <= TIERALLOC_HEALTH_FAILED <= _FAILED_CRITICAL <= 1001 (permille)"
#endif

/* The same of managed pages that are kept without use; never critical. */
#ifndef TIERALLOC_HEALTH_WAITING
#define TIERALLOC_HEALTH_WAITING 250
#endif
#if TIERALLOC_HEALTH_WAITING < 1 || TIERALLOC_HEALTH_WAITING > 1001
#error "TIERALLOC_HEALTH_WAITING must be 1 to 1001 (permille)"
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
