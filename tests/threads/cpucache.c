/*
 * threads/cpucache.c - caches of four CPUs at once, for ThreadSanitizer.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each thread is a CPU that does the work of tests/smp.h. A plain program,
 * since the sanitizer does not run under Criterion. Exit code 0 and "1 passed"
 * when all is accounted for.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static _Thread_local unsigned this_thread;

#define TIERALLOC_CPUS         4
#define TIERALLOC_CPU()        this_thread
#define TIERALLOC_LOCKING      1
#define TIERALLOC_LOCK_TYPE    pthread_mutex_t
#define TIERALLOC_LOCK_INIT(l) ((void)pthread_mutex_init((l), NULL))
#define TIERALLOC_LOCK(l)      ((void)pthread_mutex_lock(l))
#define TIERALLOC_UNLOCK(l)    ((void)pthread_mutex_unlock(l))
#define TIERALLOC_STATIC

#define SMP_STEPS   1500000U
#define SMP_PAIRS   250000U
#define SMP_RELAX() ((void)sched_yield())
#define SMP_EXIT()  exit(1)
#include "smp.h"

static void *work(void *number)
{
    this_thread = *(const unsigned *)number;
    smp_work();
    return NULL;
}

int main(void)
{
    unsigned number[TIERALLOC_CPUS];
    pthread_t thread[TIERALLOC_CPUS];

    smp_set_up(TIERALLOC_CPUS);
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        number[i] = i;
        SMP_CLAIM(pthread_create(&thread[i], NULL, work, &number[i]) == 0);
    }
    for (unsigned i = 0; i < TIERALLOC_CPUS; i++) {
        SMP_CLAIM(pthread_join(thread[i], NULL) == 0);
    }
    smp_settle();
    printf("1 passed, 0 failed\n");
    return 0;
}
