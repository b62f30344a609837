/*
 * threads/allocator.c - one allocator and four CPUs in all of its calls at
 * once, for ThreadSanitizer.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each thread is a CPU, and a worker that holds pieces of memory:
 *
 *     worker 0   | a |   | b |  <-swap->  exchange  <-swap->  | c |   |  ...
 *                      \ hoard of a shrinker, out-of-memory handler frees /
 *
 * A piece is filled with a pattern of its own, which is verified whenever it is
 * resized and freed, whoever does that. Workers want more than there is, then
 * less, so that memory runs out again and again. Worker 0 meanwhile changes
 * modes, regions, shrinkers and watermarks. At meetings of all, and last, every
 * piece, page, failure and refused free is accounted for.
 *
 * A plain program, since the sanitizer does not run under Criterion. Exit code 0
 * and "1 passed" when all is accounted for.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static _Thread_local unsigned this_thread;
static void fail(int line, const char *claim);

#define CLAIM(condition)                \
    do {                                \
        if (!(condition)) {             \
            fail(__LINE__, #condition); \
        }                               \
    } while (0)

#ifndef TIERALLOC_CPUS
#define TIERALLOC_CPUS 4
#endif
#define TIERALLOC_CPU()             this_thread
#define TIERALLOC_LOCKING           1
#define TIERALLOC_LOCK_TYPE         pthread_mutex_t
#define TIERALLOC_LOCK_INIT(l)      ((void)pthread_mutex_init((l), NULL))
#define TIERALLOC_LOCK(l)           ((void)pthread_mutex_lock(l))
#define TIERALLOC_UNLOCK(l)         ((void)pthread_mutex_unlock(l))
#define TIERALLOC_ASSERT(condition) CLAIM(condition)
#define TIERALLOC_STATIC
#include <tieralloc/tieralloc.h>

#define WORKERS   4U
#define MEETINGS  6U
#define STEPS     (TIERALLOC_CHECKS == 2 ? 15000U : 40000U) /* between these */
#define PIECES    160U /* that a worker holds at most */
#define EXCHANGE  32U  /* places where workers swap pieces */
#define HOARD     24U  /* pieces for each shrinker to free */
#define HOARDS    2U
#define FLOOD     768U /* pages that one worker takes at most */
#define BATCH     12U  /* pieces at once, in a bulk call or a transaction */
#define MIB       ((size_t)1 << 20)
#define DMA       (MIB / 2)
#define NORMAL    (5 * MIB / 2)
#define HIGH      (MIB / 2)
#define ARENA     (DMA + NORMAL + HIGH)
#define PLAIN     200U /* bytes of objects of the named caches */
#define MADE      96U
#define MADE_BYTE 0x5AU

/* --- The machine ---------------------------------------------------------- */

/* A piece of memory in use; memory is NULL when there is none. */
struct piece {
    unsigned char *memory;
    size_t bytes; /* that are filled */
    size_t sized; /* what tier_free_sized is to be given */
    uint32_t key; /* of the pattern */
};

/* One who works on a CPU. */
struct worker {
    uint32_t random;
    uint32_t serial; /* of the last piece made */
    uint32_t meetings;
    struct piece piece[PIECES];
    size_t operations;
    size_t no_memory; /* requests that ended so, and the same below */
    size_t too_large;
    size_t invalid;
    size_t refused; /* wrong frees */
    size_t swapped;
    size_t moved; /* pieces resized at another place, or in place */
    size_t kept;
    size_t commits;
    size_t rollbacks;
    size_t drained;
} __attribute__((aligned(64)));

/* Pieces that a shrinker frees. */
struct hoard {
    TIERALLOC_LOCK_TYPE lock;
    struct tier_shrinker shrinker;
    bool registered;
    size_t count;
    size_t scans;
    struct piece piece[HOARD];
};

static struct {
    struct tier_allocator allocator;
    struct tier_page_source source;
    struct tier_cache plain;
    struct tier_cache made;
    struct tier_shrinker drainer; /* has other CPUs drain */
    uint32_t drain[WORKERS];      /* this one is to */
    struct hoard hoard[HOARDS];
    TIERALLOC_LOCK_TYPE lock; /* of the exchange */
    struct piece exchange[EXCHANGE];
    struct worker worker[WORKERS];
    struct piece flood[FLOOD]; /* all that is left, at times; worker 1's */
    size_t flooded;
    uint32_t arrived; /* at all meetings so far */
    uint32_t failed;
    size_t constructed; /* under the lock of the allocator, as events are */
    size_t events;
    uint32_t rescues; /* by the out-of-memory handler, */
    bool rescuing;    /* which is at it */
    /* What worker 0 changes, and how often it did. */
    bool high; /* the zone has its memory */
    bool drains;
    size_t hole; /* the first page of it, and how many; none: no hole */
    size_t hole_pages;
    size_t modes;
    size_t highs;
    size_t holes;
    size_t shrinkers;
} all;

static _Alignas(TIER_PAGE_SIZE) unsigned char arena[ARENA];
static _Alignas(8) unsigned char map[TIER_PAGEMAP_BYTES(ARENA >> 12)];

_Static_assert(TIER_PAGE_SIZE == 1 << 12, "the map has room");

/* The first that fails says so, for all. */
static void fail(int line, const char *claim)
{
    if (__atomic_exchange_n(&all.failed, 1, __ATOMIC_RELAXED) == 0) {
        printf("allocator.c:%d: FAILED in thread %u: %s\n", line, this_thread,
               claim);
        exit(1);
    }
    for (;;) {
        (void)sched_yield();
    }
}

/* Wait until all workers have come here as often as this one. */
static void meet(struct worker *me)
{
    uint32_t everyone = ++me->meetings * WORKERS;

    __atomic_fetch_add(&all.arrived, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&all.arrived, __ATOMIC_ACQUIRE) < everyone) {
        (void)sched_yield();
    }
}

/* A number from 0 to bound - 1: xorshift, Marsaglia, 2003. */
static uint32_t below(struct worker *me, uint32_t bound)
{
    me->random ^= me->random << 13;
    me->random ^= me->random >> 17;
    me->random ^= me->random << 5;
    return (uint32_t)((uint64_t)me->random * bound >> 32);
}

static bool one_in(struct worker *me, uint32_t bound)
{
    return below(me, bound) == 0;
}

/* --- Pieces --------------------------------------------------------------- */

/* The place of the pattern after `at`: each byte, or some, and the last. */
static size_t next_place(size_t at, size_t bytes)
{
    size_t stride = at < 16 || bytes <= 128 ? 1 : bytes <= 32768 ? 61 : 1021;

    return at + 1 < bytes && at + stride >= bytes ? bytes - 1 : at + stride;
}

/* The byte of a pattern at a place. */
static unsigned char pattern(uint32_t key, size_t at)
{
    return (unsigned char)((key >> at % 4 * 8) + at / 4 * 0x9D);
}

static void fill(struct worker *me, struct piece *piece)
{
    piece->key = ++me->serial * 2654435761U;
    for (size_t at = 0; at < piece->bytes; at = next_place(at, piece->bytes)) {
        piece->memory[at] = pattern(piece->key, at);
    }
}

/* Claim that the first `bytes` bytes of a piece are as they were filled. */
static void verify(const struct piece *piece, size_t bytes)
{
    for (size_t at = 0; at < bytes; at = next_place(at, piece->bytes)) {
        CLAIM(piece->memory[at] == pattern(piece->key, at));
    }
}

/* Claim that memory is zero in places where a pattern may have been. */
static void verify_zero(const unsigned char *memory, size_t bytes)
{
    for (size_t at = 0; at < bytes; at = next_place(at, bytes)) {
        CLAIM(memory[at] == 0);
    }
}

/* Take memory that was just allocated; false when there was none. */
static bool take(struct worker *me, struct piece *piece, void *memory,
                 size_t bytes, size_t alignment)
{
    me->operations++;
    piece->memory = memory;
    if (memory == NULL) {
        me->no_memory++;
        return false;
    }
    piece->bytes = bytes + (bytes == 0);
    piece->sized = bytes;
    CLAIM((uintptr_t)memory % alignment == 0);
    CLAIM((uintptr_t)memory - (uintptr_t)arena <= ARENA - piece->bytes);
    if (one_in(me, 4)) {
        CLAIM(tier_usable_size(&all.allocator, memory) >= piece->bytes);
    }
    fill(me, piece);
    return true;
}

/* A size of 0 bytes or more: about as many from each doubling. */
static size_t any_size(struct worker *me)
{
    uint32_t choice = below(me, 64);
    uint32_t doublings = choice < 32 ? 9 : choice < 58 ? 15 : 19;
    uint32_t low = (uint32_t)1 << below(me, doublings);

    return low - 1 + below(me, low);
}

/* --- Making pieces -------------------------------------------------------- */

static bool make_bytes(struct worker *me, struct piece *piece)
{
    size_t bytes = any_size(me);
    void *memory = one_in(me, 8) ? tier_realloc(&all.allocator, NULL, bytes)
                                 : tier_alloc(&all.allocator, bytes);

    return take(me, piece, memory, bytes, TIERALLOC_MIN_ALIGN);
}

/* Flags, now and then wrong ones. */
static unsigned any_flags(struct worker *me)
{
    static const unsigned flags[] = {
        0,
        TIER_ZERO,
        TIER_NO_RETRY,
        TIER_RESERVE,
        TIER_ATOMIC,
        TIER_NORMAL,
        TIER_ZERO | TIER_DMA,
        TIER_DMA | TIER_NO_RETRY,
    };

    if (one_in(me, 64)) {
        return one_in(me, 2) ? TIER_HIGH : TIER_HIGH | TIER_ZERO;
    }
    if (one_in(me, 512)) {
        return one_in(me, 2) ? 0x8000U : TIER_DMA | TIER_HIGH;
    }
    return flags[below(me, sizeof(flags) / sizeof(flags[0]))];
}

/* Count a request with flags that failed as it had to. */
static void count_failure(struct worker *me, enum tier_status status,
                          unsigned flags, size_t bytes)
{
    if (status == TIER_ERR_INVALID) {
        CLAIM(flags == 0x8000U || flags == (TIER_DMA | TIER_HIGH));
        me->invalid++;
    } else if (status == TIER_ERR_TOO_LARGE) {
        CLAIM(bytes > TIER_BLOCK_MAX);
        me->too_large++;
    } else {
        CLAIM(status == TIER_ERR_NO_MEMORY);
        me->no_memory++;
    }
    me->operations++;
}

static bool make_flagged(struct worker *me, struct piece *piece)
{
    unsigned flags = any_flags(me);
    size_t bytes = one_in(me, 512) ? TIER_BLOCK_MAX + 1 : any_size(me);
    void *memory;
    enum tier_status status =
        tier_try_alloc(&all.allocator, bytes, flags, &memory);

    CLAIM((status == TIER_OK) == (memory != NULL));
    if (status != TIER_OK) {
        count_failure(me, status, flags, bytes);
        piece->memory = NULL;
        return false;
    }
    if ((flags & TIER_ZERO) != 0) {
        verify_zero(memory, bytes);
    }
    if ((flags & TIER_DMA) != 0) {
        CLAIM((uintptr_t)memory - (uintptr_t)arena < DMA);
    } else if ((flags & TIER_HIGH) == 0) {
        CLAIM((uintptr_t)memory - (uintptr_t)arena < DMA + NORMAL);
    }
    return take(me, piece, memory, bytes, TIERALLOC_MIN_ALIGN);
}

static bool make_zeroed(struct worker *me, struct piece *piece)
{
    size_t count = below(me, 8);
    size_t bytes = any_size(me) / 8;
    unsigned char *memory = tier_calloc(&all.allocator, count, bytes);

    if (memory != NULL) {
        verify_zero(memory, count * bytes);
    }
    return take(me, piece, memory, count * bytes, TIERALLOC_MIN_ALIGN);
}

static bool make_aligned(struct worker *me, struct piece *piece)
{
    size_t alignment = (size_t)1 << below(me, one_in(me, 8) ? 16 : 13);
    size_t bytes = any_size(me);
    void *memory = tier_alloc_aligned(&all.allocator, bytes, alignment);

    if (!take(me, piece, memory, bytes, alignment)) {
        return false;
    }
    piece->sized = tier_usable_size(&all.allocator, memory);
    return true;
}

static bool make_pages(struct worker *me, struct piece *piece)
{
    unsigned order = below(me, one_in(me, 32) ? 8 : 4);
    size_t bytes = TIER_PAGE_SIZE << order;
    void *memory;

    if (one_in(me, 2)) {
        memory = tier_alloc_pages(&all.allocator, order);
    } else {
        (void)tier_try_alloc_pages(&all.allocator, order,
                                   one_in(me, 2) ? TIER_RESERVE : 0, &memory);
    }
    return take(me, piece, memory, bytes, bytes);
}

static bool make_named(struct worker *me, struct piece *piece)
{
    return take(me, piece, tier_alloc_from(&all.allocator, &all.plain), PLAIN,
                TIERALLOC_MIN_ALIGN);
}

/* Allocate a piece in any way; false when there is no memory. */
static bool make(struct worker *me, struct piece *piece)
{
    static bool (*const ways[])(struct worker *, struct piece *) = {
        make_bytes,  make_bytes,   make_bytes, make_flagged,
        make_zeroed, make_aligned, make_pages, make_named,
    };

    return ways[below(me, sizeof(ways) / sizeof(ways[0]))](me, piece);
}

/* --- Freeing and resizing ------------------------------------------------- */

/* Have a wrong free of a piece, or of what is none, refused. */
static void free_wrongly(struct worker *me, const struct piece *piece)
{
    struct tier_allocator *allocator = &all.allocator;
    enum tier_status status;

    switch (below(me, 3)) {
    case 0:
        status = tier_free(allocator, me);
        CLAIM(status == TIER_ERR_FOREIGN);
        break;
    case 1:
        status = tier_free_sized(allocator, piece->memory,
                                 piece->sized * 2 + 2 * TIER_PAGE_SIZE);
        CLAIM(status == TIER_ERR_WRONG_SIZE);
        break;
    default:
        if (piece->bytes < 64) {
            return;
        }
        status = tier_free(allocator, piece->memory + 8);
        CLAIM(status == TIER_ERR_INTERIOR);
        break;
    }
    me->refused++;
}

/* Verify a piece, whoever made it, and free it. */
static void release(struct worker *me, struct piece *piece)
{
    enum tier_status status;

    verify(piece, piece->bytes);
    if (one_in(me, 64)) {
        free_wrongly(me, piece);
    }
    status = one_in(me, 3)
                 ? tier_free_sized(&all.allocator, piece->memory, piece->sized)
                 : tier_free(&all.allocator, piece->memory);
    CLAIM(status == TIER_OK);
    piece->memory = NULL;
    me->operations++;
}

/* Make a piece larger or smaller. */
static void resize(struct worker *me, struct piece *piece)
{
    struct tier_allocator *allocator = &all.allocator;
    bool aligned = one_in(me, 3);
    size_t alignment =
        aligned ? (size_t)8 << below(me, 10) : TIERALLOC_MIN_ALIGN;
    size_t bytes = any_size(me);
    unsigned char *memory;

    verify(piece, piece->bytes);
    memory = aligned ? tier_realloc_aligned(allocator, piece->memory, bytes,
                                            alignment)
                     : tier_realloc(allocator, piece->memory, bytes);
    me->operations++;
    if (memory == NULL) {
        CLAIM(aligned || bytes > piece->bytes);
        me->no_memory++;
        verify(piece, piece->bytes);
        return;
    }
    me->moved += memory != piece->memory;
    me->kept += memory == piece->memory;
    CLAIM((uintptr_t)memory % alignment == 0);
    piece->memory = memory;
    bytes += bytes == 0;
    verify(piece, bytes < piece->bytes ? bytes : piece->bytes);
    piece->bytes = bytes;
    piece->sized = tier_usable_size(allocator, memory);
    CLAIM(piece->sized >= bytes);
    fill(me, piece);
}

/* Swap a piece, or none, for what lies in the exchange. */
static void swap(struct worker *me, struct piece *piece)
{
    struct piece *place = &all.exchange[below(me, EXCHANGE)];
    struct piece other;

    TIERALLOC_LOCK(&all.lock);
    other = *place;
    *place = *piece;
    TIERALLOC_UNLOCK(&all.lock);
    *piece = other;
    me->swapped += other.memory != NULL;
}

/* Put a piece where this worker has room, or free it. */
static void keep(struct worker *me, struct piece *piece)
{
    struct piece *place = &me->piece[below(me, PIECES)];

    if (place->memory == NULL) {
        *place = *piece;
        piece->memory = NULL;
    } else {
        release(me, piece);
    }
}

/* --- Many at once --------------------------------------------------------- */

/* Free pieces together, at times first with one of them named twice. */
static void release_all(struct worker *me, struct piece *pieces, size_t count)
{
    void *memory[BATCH + 1];

    for (size_t i = 0; i < count; i++) {
        verify(&pieces[i], pieces[i].bytes);
        memory[i] = pieces[i].memory;
        pieces[i].memory = NULL;
    }
    if (count > 0 && one_in(me, 8)) {
        memory[count] = memory[0];
        CLAIM(tier_free_bulk(&all.allocator, count + 1, memory) ==
              TIER_ERR_DOUBLE_FREE);
        me->refused++;
        for (size_t i = 0; i < count; i++) { /* sorted: the two are together */
            if (memory[i] == memory[i + 1]) {
                memory[i] = memory[count];
                break;
            }
        }
    }
    CLAIM(tier_free_bulk(&all.allocator, count, memory) == TIER_OK);
    me->operations += count;
}

/* Allocate equal pieces together; free them, or others of this worker. */
static void use_bulk(struct worker *me)
{
    size_t count = 1 + below(me, BATCH);
    size_t bytes = any_size(me) % 32768;
    struct piece pieces[BATCH];
    void *memory[BATCH];

    if (tier_alloc_bulk(&all.allocator, bytes, count, memory) != TIER_OK) {
        me->no_memory++;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        (void)take(me, &pieces[i], memory[i], bytes, TIERALLOC_MIN_ALIGN);
    }
    for (size_t i = 0; i < count; i++) {
        struct piece *mine = &me->piece[below(me, PIECES)];
        struct piece piece = *mine;

        if (piece.memory != NULL) {
            *mine = pieces[i];
            pieces[i] = piece;
        }
    }
    release_all(me, pieces, count);
}

/* Leave an object of the named cache as the constructor does. */
static void construct(void *object)
{
    for (size_t i = 0; i < MADE; i++) {
        ((unsigned char *)object)[i] = MADE_BYTE;
    }
}

/* The same, and count it. The lock of the allocator is held. */
static void construct_first(void *object)
{
    construct(object);
    all.constructed++;
}

/* Use objects that keep their constructed state. */
static void use_constructed(struct worker *me)
{
    struct piece pieces[BATCH];
    size_t count = 0;

    while (count < BATCH) {
        unsigned char *object = tier_alloc_from(&all.allocator, &all.made);

        for (size_t i = 0; object != NULL && i < MADE; i++) {
            CLAIM(object[i] == MADE_BYTE);
        }
        if (!take(me, &pieces[count], object, MADE, 32)) {
            break;
        }
        count++;
    }
    while (count > 0) {
        count--;
        verify(&pieces[count], MADE);
        construct(pieces[count].memory);
        CLAIM(tier_free(&all.allocator, pieces[count].memory) == TIER_OK);
    }
}

/* Use a named cache that comes and goes. */
static void use_own_cache(struct worker *me)
{
    struct tier_allocator *allocator = &all.allocator;
    size_t bytes = 1 + below(me, 2000);
    struct tier_cache cache;
    struct piece piece;

    CLAIM(tier_add_cache(allocator, &cache, "own", bytes, 8,
                         one_in(me, 2) ? TIER_CACHE_KEEP_NONE : 0,
                         NULL) == TIER_OK);
    if (take(me, &piece, tier_alloc_from(allocator, &cache), bytes, 8)) {
        CLAIM(tier_remove_cache(allocator, &cache) == TIER_ERR_IN_USE);
        release(me, &piece);
    }
    CLAIM(tier_remove_cache(allocator, &cache) == TIER_OK);
}

/* --- Transactions --------------------------------------------------------- */

/* What a transaction did so far. */
struct trade {
    struct tier_tx tx;
    struct piece made[BATCH];
    size_t count;
    struct piece *dropped[BATCH];
    size_t drops;
};

/* Allocate as a step. */
static enum tier_status trade_make(struct worker *me, struct trade *trade)
{
    struct tier_allocator *allocator = &all.allocator;
    size_t bytes = any_size(me);
    size_t alignment = TIERALLOC_MIN_ALIGN;
    enum tier_status status;
    void *memory;

    if (one_in(me, 4)) {
        unsigned order = below(me, 4);

        bytes = TIER_PAGE_SIZE << order;
        alignment = bytes;
        status = tier_tx_alloc_pages(&trade->tx, allocator, order, 0, &memory);
    } else if (one_in(me, 4)) {
        status = tier_tx_try_alloc(&trade->tx, allocator, bytes,
                                   one_in(me, 2) ? TIER_ZERO : TIER_NO_RETRY,
                                   &memory);
    } else {
        status = tier_tx_alloc(&trade->tx, allocator, bytes, &memory);
    }
    CLAIM((status == TIER_OK) == (memory != NULL));
    if (status == TIER_OK) {
        (void)take(me, &trade->made[trade->count++], memory, bytes, alignment);
    }
    return status;
}

/* Free a piece of this worker as a step, at times twice. */
static enum tier_status trade_drop(struct worker *me, struct trade *trade)
{
    struct piece *piece = &me->piece[below(me, PIECES)];
    enum tier_status status;
    bool again = false;

    if (piece->memory == NULL) {
        return TIER_OK;
    }
    verify(piece, piece->bytes);
    for (size_t i = 0; i < trade->drops; i++) {
        again = again || trade->dropped[i] == piece;
    }
    status = tier_tx_free(&trade->tx, &all.allocator, piece->memory);
    if (again) {
        CLAIM(status == TIER_ERR_DOUBLE_FREE);
        me->refused++;
        return TIER_OK;
    }
    if (status == TIER_OK) {
        trade->dropped[trade->drops++] = piece;
    }
    return status;
}

/* Take steps until one fails, or there are so many. */
static void trade_steps(struct worker *me, struct trade *trade, size_t steps)
{
    enum tier_status status = TIER_OK;

    while (status == TIER_OK && steps > 0) {
        steps--;
        status = one_in(me, 4) ? trade_drop(me, trade) : trade_make(me, trade);
    }
    CLAIM(status == TIER_OK || status == TIER_ERR_LOG_FULL ||
          status == TIER_ERR_NO_MEMORY);
    me->no_memory += status == TIER_ERR_NO_MEMORY;
    me->operations += status == TIER_ERR_NO_MEMORY;
}

/* End a transaction: what was made is kept and what was dropped is gone. */
static void trade_commit(struct worker *me, struct trade *trade)
{
    for (size_t i = 0; i < trade->drops; i++) {
        trade->dropped[i]->memory = NULL;
    }
    tier_tx_commit(&trade->tx);
    for (size_t i = 0; i < trade->count; i++) {
        keep(me, &trade->made[i]);
    }
    me->operations += trade->drops;
    me->commits++;
}

/* Make and free in a transaction, and commit it or roll it back. */
static void use_transaction(struct worker *me)
{
    struct tier_tx_record log[4];
    struct tier_tx_savepoint savepoint;
    struct trade trade;
    struct trade *t = &trade;

    tier_tx_begin_growing(&t->tx, log, below(me, 5),
                          one_in(me, 2) ? &all.source : NULL);
    t->count = 0;
    t->drops = 0;
    trade_steps(me, t, BATCH / 2);
    if (one_in(me, 2)) {
        size_t count = t->count;
        size_t drops = t->drops;

        savepoint = tier_tx_save(&t->tx);
        trade_steps(me, t, BATCH / 2);
        if (one_in(me, 2)) {
            CLAIM(tier_tx_rollback_to(&t->tx, savepoint) == TIER_OK);
            t->count = count;
            t->drops = drops;
        }
    }
    for (size_t i = 0; i < t->count; i++) {
        verify(&t->made[i], t->made[i].bytes);
    }
    if (one_in(me, 2)) {
        trade_commit(me, t);
    } else {
        tier_tx_rollback(&t->tx);
        me->rollbacks++;
    }
}

/* --- When memory is short ------------------------------------------------- */

/* Allocate and free a little, as a callback may. */
static void use_little(struct worker *me)
{
    struct piece piece;

    if (take(me, &piece, tier_alloc(&all.allocator, below(me, 512)), 1, 1)) {
        CLAIM(tier_free(&all.allocator, piece.memory) == TIER_OK);
    }
}

static size_t hoard_count(void *context)
{
    struct hoard *hoard = context;
    size_t bytes = 0;

    use_little(&all.worker[this_thread]);
    TIERALLOC_LOCK(&hoard->lock);
    for (size_t i = 0; i < hoard->count; i++) {
        bytes += hoard->piece[i].bytes;
    }
    TIERALLOC_UNLOCK(&hoard->lock);
    return bytes;
}

/* Take the last piece of a hoard; false when there is none. */
static bool hoard_pop(struct hoard *hoard, struct piece *piece)
{
    bool any;

    TIERALLOC_LOCK(&hoard->lock);
    any = hoard->count > 0;
    if (any) {
        *piece = hoard->piece[--hoard->count];
    }
    TIERALLOC_UNLOCK(&hoard->lock);
    return any;
}

static size_t hoard_scan(void *context, size_t bytes)
{
    struct worker *me = &all.worker[this_thread];
    struct hoard *hoard = context;
    struct piece piece;
    size_t freed = 0;

    CLAIM(hoard->registered);
    hoard->scans++;
    while (freed < bytes && hoard_pop(hoard, &piece)) {
        freed += piece.bytes;
        release(me, &piece);
        use_little(me);
    }
    return freed;
}

/* Make a piece that can be freed when memory is short. */
static void use_hoard(struct worker *me)
{
    struct hoard *hoard = &all.hoard[below(me, HOARDS)];
    struct piece piece;
    bool room;

    if (!make(me, &piece)) {
        return;
    }
    TIERALLOC_LOCK(&hoard->lock);
    room = hoard->count < HOARD;
    if (room) {
        hoard->piece[hoard->count++] = piece;
    }
    TIERALLOC_UNLOCK(&hoard->lock);
    if (!room) {
        keep(me, &piece);
    }
}

static size_t drainer_count(void *context)
{
    (void)context;
    return 1;
}

/* Have the other CPUs give back what waits for them, soon. */
static size_t drainer_scan(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    for (unsigned i = 0; i < WORKERS; i++) {
        __atomic_store_n(&all.drain[i], i != this_thread, __ATOMIC_RELAXED);
    }
    (void)sched_yield();
    return 1;
}

/* The out-of-memory handler: free some of what lies in the exchange. */
static bool rescue(void *context, size_t bytes)
{
    struct worker *me = &all.worker[this_thread];
    size_t freed = 0;

    (void)bytes;
    CLAIM(context == &all);
    CLAIM(__atomic_exchange_n(&all.rescuing, true, __ATOMIC_RELAXED) == false);
    use_little(me);
    for (unsigned i = 0; i < 4; i++) {
        struct piece piece = {.memory = NULL};

        swap(me, &piece);
        if (piece.memory != NULL) {
            freed += piece.bytes;
            release(me, &piece);
        }
    }
    __atomic_fetch_add(&all.rescues, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&all.rescuing, false, __ATOMIC_RELAXED);
    return freed > 0;
}

/* --- Changes -------------------------------------------------------------- */

static void on_event(void *context, unsigned zone, enum tier_zone_event event)
{
    (void)context;
    (void)event;
    CLAIM(zone < 3);
    all.events++;
}

/* Give the highest zone its memory, or take it away if none is in use. */
static void change_high(void)
{
    unsigned char *base = arena + DMA + NORMAL;
    enum tier_status status =
        all.high ? tier_remove_region(&all.allocator, base, HIGH)
                 : tier_add_region(&all.allocator, base, HIGH);

    CLAIM(status == TIER_OK || (all.high && status == TIER_ERR_IN_USE));
    if (status == TIER_OK) {
        all.high = !all.high;
        all.highs++;
    }
}

/* Take some pages away from the lower zones, or put them back. */
static void change_hole(struct worker *me)
{
    enum tier_status status;

    if (all.hole_pages != 0) {
        unsigned char *base = arena + (all.hole << TIERALLOC_PAGE_SHIFT);

        for (size_t i = 0; i < all.hole_pages; i++) {
            construct(base + (i << TIERALLOC_PAGE_SHIFT)); /* it is ours */
        }
        CLAIM(tier_add_region(&all.allocator, base,
                              all.hole_pages << TIERALLOC_PAGE_SHIFT) ==
              TIER_OK);
        all.hole_pages = 0;
        return;
    }
    size_t pages = 1 + below(me, 8);

    all.hole = below(me, (DMA + NORMAL) / TIER_PAGE_SIZE - 8);
    status = tier_remove_region(&all.allocator,
                                arena + (all.hole << TIERALLOC_PAGE_SHIFT),
                                pages << TIERALLOC_PAGE_SHIFT);
    CLAIM(status == TIER_OK || status == TIER_ERR_IN_USE ||
          status == TIER_ERR_INVALID);
    if (status == TIER_OK) {
        all.hole_pages = pages;
        all.holes++;
    }
}

/*
 * Register a shrinker, or remove it; neither while a run is under way. It counts
 * as registered from before it is to after it was.
 */
static void change_shrinker(struct tier_shrinker *shrinker, bool *registered)
{
    bool removes = *registered;

    if (!removes) {
        *registered = true;
    }
    enum tier_status status =
        removes ? tier_remove_shrinker(&all.allocator, shrinker)
                : tier_add_shrinker(&all.allocator, shrinker);

    CLAIM(status == TIER_OK || status == TIER_ERR_IN_USE);
    if (removes == (status == TIER_OK)) {
        *registered = false;
    }
    all.shrinkers += status == TIER_OK;
}

/* Set watermarks and the reserve of a zone, or turn them off. */
static void change_marks(struct worker *me)
{
    unsigned zone = below(me, 2);
    size_t least = one_in(me, 2) ? 0 : below(me, 32);
    enum tier_status status =
        tier_set_watermarks(&all.allocator, zone, least, 2 * least, 3 * least);

    CLAIM(status == TIER_OK);
    CLAIM(tier_set_zone_reserve(&all.allocator, zone, least) == TIER_OK);
}

/* Change how memory is had, or looked for. */
static void change_policy(struct worker *me)
{
    struct tier_allocator *allocator = &all.allocator;

    switch (below(me, 5)) {
    case 0:
        tier_set_fail_fast(allocator, one_in(me, 4));
        break;
    case 1:
        tier_set_oom_handler(allocator, one_in(me, 3) ? NULL : rescue, &all);
        break;
    case 2:
        change_marks(me);
        break;
    case 3:
        CLAIM(tier_set_zone_callback(allocator, one_in(me, 3) ? NULL : on_event,
                                     NULL) == TIER_OK);
        break;
    default:
        change_shrinker(&all.drainer, &all.drains);
        break;
    }
}

/* Change something: worker 0 alone does. */
static void change(struct worker *me)
{
    switch (below(me, 5)) {
    case 0:
        CLAIM(tier_set_mode(&all.allocator, (enum tier_mode)below(me, 3)) ==
              TIER_OK);
        all.modes++;
        break;
    case 1:
        change_high();
        break;
    case 2:
        change_hole(me);
        break;
    case 3: {
        struct hoard *hoard = &all.hoard[below(me, HOARDS)];

        change_shrinker(&hoard->shrinker, &hoard->registered);
        break;
    }
    default:
        change_policy(me);
        break;
    }
}

/* --- Work ----------------------------------------------------------------- */

/* Claim what holds in any snapshot, also while others work. */
static void look(void)
{
    struct tier_stats stats;

    tier_stats(&all.allocator, &stats);
    CLAIM(stats.managed_pages <= ARENA / TIER_PAGE_SIZE);
    CLAIM(stats.managed_pages - stats.free_pages ==
          stats.slab_pages + stats.heap_pages + stats.live_pages);
    CLAIM(stats.free_run_pages <= stats.free_pages);
}

/* What is done now and then. */
static void do_rare(struct worker *me)
{
    switch (below(me, 8)) {
    case 0:
        look();
        break;
    case 1:
        use_constructed(me);
        break;
    case 2:
        use_own_cache(me);
        break;
    case 3:
        use_bulk(me);
        break;
    case 4:
        use_hoard(me);
        break;
    case 5:
        if (one_in(me, 16)) {
            (void)tier_trim(&all.allocator);
        }
        break;
    default:
        use_transaction(me);
        break;
    }
}

/* Make, resize, swap or free a piece; more of one at times. */
static void do_common(struct worker *me, bool greedy)
{
    struct piece *piece = &me->piece[below(me, PIECES)];

    if (piece->memory == NULL) {
        if (greedy || one_in(me, 4)) {
            (void)make(me, piece);
        }
        return;
    }
    if (one_in(me, 8)) {
        resize(me, piece);
    } else if (one_in(me, 4)) {
        swap(me, piece);
    } else if (!greedy || one_in(me, 16)) {
        release(me, piece);
    }
}

/* Take the pages that are left, so that the smallest request fails. */
static void flood(struct worker *me)
{
    while (all.flooded < FLOOD) {
        struct piece *piece = &all.flood[all.flooded];
        void *memory;

        (void)tier_try_alloc_pages(&all.allocator, 0, TIER_ATOMIC, &memory);
        if (!take(me, piece, memory, TIER_PAGE_SIZE, TIER_PAGE_SIZE)) {
            return;
        }
        all.flooded++;
    }
}

static void ebb(struct worker *me)
{
    while (all.flooded > 0) {
        release(me, &all.flood[--all.flooded]);
    }
}

static void work(struct worker *me)
{
    unsigned cpu = this_thread;

    for (uint32_t i = 0; i < STEPS; i++) {
        if (one_in(me, 32)) {
            do_rare(me);
        } else {
            do_common(me, (i / 1024 + cpu / 2) % 4 < 2);
        }
        if (__atomic_load_n(&all.drain[cpu], __ATOMIC_RELAXED) != 0) {
            __atomic_store_n(&all.drain[cpu], 0, __ATOMIC_RELAXED);
            me->drained += tier_drain(&all.allocator, cpu);
        }
        if (cpu == 0 && one_in(me, 64)) {
            change(me);
        }
        if (cpu == 1 && i % 2048 == 0) {
            flood(me);
        } else if (cpu == 1 && i % 2048 == 512) {
            ebb(me);
        }
    }
}

/* --- Accounts ------------------------------------------------------------- */

static void add(const struct piece *pieces, size_t count, size_t *number,
                size_t *bytes)
{
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].memory != NULL) {
            verify(&pieces[i], pieces[i].bytes);
            *number += 1;
            *bytes += tier_usable_size(&all.allocator, pieces[i].memory);
        }
    }
}

/* Claim that requests and frees failed as often as workers saw it. */
static void account_for_failures(const struct tier_stats *stats)
{
    size_t no_memory = 0;
    size_t too_large = 0;
    size_t invalid = 0;
    size_t refused = 0;

    for (unsigned i = 0; i < WORKERS; i++) {
        no_memory += all.worker[i].no_memory;
        too_large += all.worker[i].too_large;
        invalid += all.worker[i].invalid;
        refused += all.worker[i].refused;
    }
    CLAIM(stats->failed_no_memory == no_memory);
    CLAIM(stats->failed_too_large == too_large);
    CLAIM(stats->failed_invalid == invalid);
    CLAIM(stats->refused_frees == refused);
}

/* While no worker works: claim that what they hold is what is in use. */
static void account(void)
{
    struct tier_stats stats;
    size_t number = 0;
    size_t bytes = 0;

    for (unsigned i = 0; i < WORKERS; i++) {
        add(all.worker[i].piece, PIECES, &number, &bytes);
    }
    for (unsigned i = 0; i < HOARDS; i++) {
        add(all.hoard[i].piece, all.hoard[i].count, &number, &bytes);
    }
    add(all.exchange, EXCHANGE, &number, &bytes);
    add(all.flood, all.flooded, &number, &bytes);
    CLAIM(tier_check(&all.allocator));
    tier_stats(&all.allocator, &stats);
    CLAIM(stats.live_objects + stats.heap_objects + stats.live_blocks ==
          number);
    CLAIM(TIERALLOC_CHECKS == 2 || stats.live_bytes == bytes);
    account_for_failures(&stats);
}

/* Free all that is left, but for what waits for other CPUs. */
static void release_rest(struct worker *me)
{
    struct piece piece;

    for (size_t i = 0; i < PIECES; i++) {
        if (me->piece[i].memory != NULL) {
            release(me, &me->piece[i]);
        }
    }
    if (this_thread == 1) {
        ebb(me);
    }
    for (size_t i = 0; this_thread == 0 && i < EXCHANGE; i++) {
        if (all.exchange[i].memory != NULL) {
            release(me, &all.exchange[i]);
        }
    }
    for (size_t i = 0; this_thread == 0 && i < HOARDS; i++) {
        while (hoard_pop(&all.hoard[i], &piece)) {
            release(me, &piece);
        }
    }
}

static void *run(void *number)
{
    this_thread = *(const unsigned *)number;
    struct worker *me = &all.worker[this_thread];

    for (unsigned i = 0; i < MEETINGS; i++) {
        work(me);
        meet(me);
        if (this_thread == 0) {
            account();
        }
        meet(me);
    }
    release_rest(me);
    me->drained += tier_drain(&all.allocator, this_thread);
    return NULL;
}

/* Claim that all pages of the lower zones can be had, block by block. */
static void fill_up(void)
{
    struct tier_allocator *allocator = &all.allocator;
    size_t pages = 0;
    void *last = NULL;
    void *block;

    CLAIM(tier_set_mode(allocator, TIER_TWO_TIER) == TIER_OK);
    tier_set_fail_fast(allocator, true);
    for (unsigned order = TIERALLOC_MAX_ORDER + 1; order-- > 0;) {
        while (tier_try_alloc_pages(allocator, order, TIER_HIGH, &block) ==
               TIER_OK) {
            pages += (size_t)1 << order;
            *(void **)block = last;
            last = block;
        }
    }
    CLAIM(pages == ARENA / TIER_PAGE_SIZE);
    while (last != NULL) {
        block = last;
        last = *(void **)last;
        CLAIM(tier_free(allocator, block) == TIER_OK);
    }
}

/* Claim that nothing is in use, and no page lost. */
static void settle(void)
{
    struct tier_allocator *allocator = &all.allocator;
    struct tier_stats stats;

    CLAIM(tier_check(allocator));
    for (unsigned zone = 0; zone < 2; zone++) {
        CLAIM(tier_set_watermarks(allocator, zone, 0, 0, 0) == TIER_OK);
        CLAIM(tier_set_zone_reserve(allocator, zone, 0) == TIER_OK);
    }
    if (all.hole_pages != 0) {
        change_hole(&all.worker[0]);
    }
    if (!all.high) {
        change_high();
    }
    (void)tier_trim(allocator);
    CLAIM(tier_check(allocator));
    tier_stats(allocator, &stats);
    account_for_failures(&stats);
    CLAIM(stats.managed_pages == ARENA / TIER_PAGE_SIZE);
    CLAIM(stats.free_pages == stats.managed_pages);
    CLAIM(stats.live_bytes == 0 && stats.live_objects == 0);
    CLAIM(stats.heap_objects == 0 && stats.live_blocks == 0);
    CLAIM(stats.slab_pages == 0 && stats.heap_pages == 0);
    CLAIM(stats.live_pages == 0 && stats.free_run_pages == 0);
    CLAIM(stats.waiting_objects == 0 && stats.waiting_bytes == 0);
    CLAIM(tier_remove_cache(allocator, &all.plain) == TIER_OK);
    CLAIM(tier_remove_cache(allocator, &all.made) == TIER_OK);
    fill_up();
    CLAIM(tier_check(allocator));
}

/* --- The whole ------------------------------------------------------------ */

#if TIERALLOC_CHECKS == 2
/* Nobody writes where it should not: only deliberate mistakes are reported. */
static void on_report(void *context, const struct tier_report *report)
{
    (void)context;
    CLAIM(report->fault == TIER_FAULT_WRONG_SIZE);
}
#endif

static void set_up_shrinkers(void)
{
    TIERALLOC_LOCK_INIT(&all.lock);
    for (unsigned i = 0; i < HOARDS; i++) {
        TIERALLOC_LOCK_INIT(&all.hoard[i].lock);
        all.hoard[i].shrinker.count = hoard_count;
        all.hoard[i].shrinker.scan = hoard_scan;
        all.hoard[i].shrinker.cost = 2 + i;
        all.hoard[i].shrinker.context = &all.hoard[i];
        change_shrinker(&all.hoard[i].shrinker, &all.hoard[i].registered);
    }
    all.drainer.count = drainer_count;
    all.drainer.scan = drainer_scan;
    change_shrinker(&all.drainer, &all.drains);
    tier_set_oom_handler(&all.allocator, rescue, &all);
}

/* Make the allocator, over all of the arena. */
static void set_up(void)
{
    struct tier_allocator *allocator = &all.allocator;
    struct tier_zone_range zones[] = {
        {"DMA", (uintptr_t)arena, DMA},
        {"NORMAL", (uintptr_t)arena + DMA, NORMAL},
        {"HIGH", (uintptr_t)arena + DMA + NORMAL, HIGH},
    };

    CLAIM(tier_init(allocator, (uintptr_t)arena, ARENA, map, sizeof(map)) ==
          TIER_OK);
    CLAIM(tier_set_zones(allocator, zones, 3) == TIER_OK);
    CLAIM(tier_add_region(allocator, arena, DMA + NORMAL) == TIER_OK);
    CLAIM(tier_set_zone_callback(allocator, on_event, NULL) == TIER_OK);
#if TIERALLOC_CHECKS == 2
    tier_set_report(allocator, on_report, NULL);
#endif
    tier_source(allocator, &all.source);
    CLAIM(tier_add_cache(allocator, &all.plain, "plain", PLAIN, 8, 0, NULL) ==
          TIER_OK);
    CLAIM(tier_add_cache(allocator, &all.made, "made", MADE, 32,
                         TIER_CACHE_KEEP_NONE, construct_first) == TIER_OK);
    set_up_shrinkers();
    for (unsigned i = 0; i < WORKERS; i++) {
        all.worker[i].random = (i + 1) * 2654435761U;
        all.worker[i].serial = i << 28;
    }
}

/* Print how often each thing happened; returns the sum of all workers. */
static struct worker print_sum(void)
{
    struct worker sum = {.random = 0};

    for (unsigned i = 0; i < WORKERS; i++) {
        sum.operations += all.worker[i].operations;
        sum.no_memory += all.worker[i].no_memory;
        sum.refused += all.worker[i].refused;
        sum.swapped += all.worker[i].swapped;
        sum.moved += all.worker[i].moved;
        sum.kept += all.worker[i].kept;
        sum.commits += all.worker[i].commits;
        sum.rollbacks += all.worker[i].rollbacks;
        sum.drained += all.worker[i].drained;
    }
    printf("allocator: %zu operations, %zu swaps, %zu resized here and %zu "
           "elsewhere, %zu commits, %zu rollbacks, %zu wrong frees\n",
           sum.operations, sum.swapped, sum.kept, sum.moved, sum.commits,
           sum.rollbacks, sum.refused);
    printf("allocator: no memory %zu times, %zu + %zu scans, %zu objects "
           "drained\n",
           sum.no_memory, all.hoard[0].scans, all.hoard[1].scans, sum.drained);
    printf("allocator: %zu modes, %zu regions, %zu holes, %zu shrinkers, %zu "
           "events, %zu constructed\n",
           all.modes, all.highs, all.holes, all.shrinkers, all.events,
           all.constructed);
    return sum;
}

/* Claim that all of it happened. */
static void sum_up(void)
{
    struct worker sum = print_sum();
    struct tier_reclaim_stats reclaim;

    tier_reclaim_stats(&all.allocator.reclaim, &reclaim);
    printf(
        "allocator: %zu runs (%zu succeeded, %zu refused), %zu handler calls "
        "(%zu refused)\n",
        reclaim.runs, reclaim.succeeded_runs, reclaim.refused_runs,
        reclaim.oom_calls, reclaim.refused_ooms);
    CLAIM(sum.no_memory > 0 && sum.commits > 0 && sum.rollbacks > 0);
    CLAIM(TIERALLOC_CPUS == 0 || sum.drained > 0);
    CLAIM(reclaim.succeeded_runs > 0 && reclaim.refused_runs > 0);
    CLAIM(reclaim.oom_calls > 0 && all.rescues == reclaim.oom_calls);
    CLAIM(all.hoard[0].scans > 0 && all.hoard[1].scans > 0);
    CLAIM(all.modes > 9 && all.highs > 9 && all.holes > 9);
    CLAIM(all.shrinkers > 9 && all.events > 0 && all.constructed > 9);
}

int main(void)
{
    unsigned number[WORKERS];
    pthread_t thread[WORKERS];

    set_up();
    for (unsigned i = 0; i < WORKERS; i++) {
        number[i] = i;
        CLAIM(pthread_create(&thread[i], NULL, run, &number[i]) == 0);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        CLAIM(pthread_join(thread[i], NULL) == 0);
    }
    settle();
    sum_up();
    printf("1 passed, 0 failed\n");
    return 0;
}
