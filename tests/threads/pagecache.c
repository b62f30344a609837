/*
 * threads/pagecache.c - page caches of two CPUs at once, for ThreadSanitizer.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each thread is a CPU with a cache of its own over one buddy. They allocate,
 * hand pages to one another through a mailbox, and free what they receive; at
 * the end every page is back. A plain program, since the sanitizer does not run
 * under Criterion. Exit code 0 and "1 passed" when all is accounted for.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define TIERALLOC_LOCKING      1
#define TIERALLOC_LOCK_TYPE    pthread_mutex_t
#define TIERALLOC_LOCK_INIT(l) ((void)pthread_mutex_init((l), NULL))
#define TIERALLOC_LOCK(l)      ((void)pthread_mutex_lock(l))
#define TIERALLOC_UNLOCK(l)    ((void)pthread_mutex_unlock(l))
#define TIERALLOC_STATIC
#include <tieralloc/pagecache.h>

#define CPUS  2
#define PAGES 512
#define STEPS 2000000
#define BASE  ((uintptr_t)0x40000000)

static uint64_t metadata[TIER_PAGEMAP_BYTES(PAGES) / 8];
static struct tier_pagemap map;
static struct tier_buddy buddy;
static pthread_mutex_t lock;
static struct tier_pagecache cpu[CPUS];
static _Atomic(void *) mailbox[CPUS][16]; /* pages on their way to a CPU */

static void require(bool holds, const char *what)
{
    if (!holds) {
        (void)fprintf(stderr, "does not hold: %s\n", what);
        exit(1);
    }
}

static void give(struct tier_pagecache *cache, void *page)
{
    require(tier_pagecache_free(cache, page) == TIER_OK, "a page is freed");
}

static void *work(void *argument)
{
    const size_t me = *(const size_t *)argument;
    void *mine[32] = {NULL};
    unsigned random = (unsigned)me * 2654435761U + 1U;

    for (size_t step = 0; step < STEPS; step++) {
        random = random * 1664525U + 1013904223U;
        const size_t slot = random >> 27;
        _Atomic(void *) *const out = &mailbox[(me + 1) % CPUS][slot % 16];
        void *const received =
            atomic_exchange(&mailbox[me][slot % 16], (void *)NULL);

        if (received != NULL) {
            give(&cpu[me], received);
        }
        if (mine[slot] == NULL) {
            mine[slot] = tier_pagecache_alloc(&cpu[me], 0);
        } else if ((random >> 8 & 3) == 0) {
            void *none = NULL;

            if (!atomic_compare_exchange_strong(out, &none, mine[slot])) {
                give(&cpu[me], mine[slot]);
            }
            mine[slot] = NULL;
        } else {
            give(&cpu[me], mine[slot]);
            mine[slot] = NULL;
        }
    }
    for (size_t slot = 0; slot < 32; slot++) {
        give(&cpu[me], mine[slot]);
    }
    return NULL;
}

int main(void)
{
    static const size_t number[CPUS] = {0, 1};
    pthread_t thread[CPUS];

    require(tier_pagemap_init(&map, BASE, PAGES * TIER_PAGE_SIZE, metadata,
                              sizeof(metadata)) == TIER_OK,
            "the map is made");
    tier_buddy_init(&buddy, &map);
    require(tier_buddy_add(&buddy, (void *)BASE, PAGES * TIER_PAGE_SIZE) ==
                TIER_OK,
            "the region is added");
    TIERALLOC_LOCK_INIT(&lock);
    for (size_t i = 0; i < CPUS; i++) {
        tier_pagecache_init(&cpu[i], &buddy, &lock);
    }
    for (size_t i = 0; i < CPUS; i++) {
        require(pthread_create(&thread[i], NULL, work,
                               (void *)(uintptr_t)&number[i]) == 0,
                "a thread starts");
    }
    for (size_t i = 0; i < CPUS; i++) {
        require(pthread_join(thread[i], NULL) == 0, "a thread ends");
    }
    for (size_t i = 0; i < CPUS; i++) {
        for (size_t slot = 0; slot < 16; slot++) {
            give(&cpu[0], mailbox[i][slot]);
        }
    }
    for (size_t i = 0; i < CPUS; i++) {
        require(tier_pagecache_check(&cpu[i]), "a cache is whole");
        (void)tier_pagecache_drain(&cpu[i]);
    }
    require(tier_buddy_check(&buddy), "the buddy is whole");
    require(buddy.free_pages == PAGES, "every page is back");
    printf("1 passed, 0 failed\n");
    return 0;
}
