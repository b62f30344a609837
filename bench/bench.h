/*
 * bench.h - count instructions per call and print one line per figure.
 *
 * SPDX-License-Identifier: MIT
 *
 * On bare metal each call is measured by itself: the counter of retired
 * instructions is read before and after, and what an empty measurement costs
 * is subtracted. QEMU counts exactly, and the same in each run, with
 * `-icount shift=0,sleep=off` and one hart. On a host BENCH_CALL only calls:
 * there a whole loop is counted from outside (callgrind).
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* --- Counting ------------------------------------------------------------- */

/* Instructions spent in a number of calls of one kind. */
struct bench_count {
    uint64_t calls;
    uint64_t total;
    size_t worst;
};

/* Instructions retired so far; the low word, which is all a call needs. */
static inline size_t bench_now(void)
{
#ifdef __riscv
    size_t count;

    __asm__ volatile("csrr %0, minstret" : "=r"(count) : : "memory");
    return count;
#else
    return 0;
#endif
}

/* What a measurement of nothing reads. */
#ifdef __riscv
#define BENCH_EMPTY 1U
#else
#define BENCH_EMPTY 0U
#endif

static inline void bench_add(struct bench_count *count, size_t instructions)
{
    count->calls++;
    count->total += instructions - BENCH_EMPTY;
    if (instructions - BENCH_EMPTY > count->worst) {
        count->worst = instructions - BENCH_EMPTY;
    }
}

/* Run a statement, which makes one call, and count it. */
#define BENCH_CALL(count, statement)               \
    do {                                           \
        size_t before_ = bench_now();              \
        statement;                                 \
        bench_add((count), bench_now() - before_); \
    } while (0)

/* Have a value computed before what follows is measured. */
#define BENCH_DONE(value) __asm__ volatile("" : "+r"(value))

/* --- Reporting ------------------------------------------------------------ */

/* What figures of this build are called: the machine they were made for. */
#if !defined(__riscv)
#define BENCH_TARGET "host"
#elif __riscv_xlen == 32
#define BENCH_TARGET "rv32imac"
#elif defined(__riscv_zbb)
#define BENCH_TARGET "rv64imac_zba_zbb"
#else
#define BENCH_TARGET "rv64imac"
#endif

/* Print `target.name value unit` for a value given in tenths. */
static inline void bench_print_tenths(const char *name, const char *suffix,
                                      uint64_t tenths, const char *unit)
{
    printf("%s.%s%s %lu.%lu %s\n", BENCH_TARGET, name, suffix,
           (unsigned long)(tenths / 10), (unsigned long)(tenths % 10), unit);
}

/* Print the mean and the worst of a count. */
static inline void bench_print(const char *name, const char *suffix,
                               const struct bench_count *count)
{
    uint64_t calls = count->calls == 0 ? 1 : count->calls;
    uint64_t tenths = (count->total * 10 + calls / 2) / calls;

    bench_print_tenths(name, suffix, tenths, "instructions");
    printf("%s.%s%s.worst %lu instructions\n", BENCH_TARGET, name, suffix,
           (unsigned long)count->worst);
}

/* --- Workloads ------------------------------------------------------------ */

/* splitmix64: Steele, Lea, Flood, "Fast Splittable PRNGs", OOPSLA 2014. */
struct bench_random {
    uint64_t state;
};

#define BENCH_SEED 0x7469657261U

static inline uint64_t bench_random(struct bench_random *random)
{
    uint64_t z = random->state += 0x9E3779B97F4A7C15U;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    return z ^ z >> 31;
}

/* A number below `limit`. */
static inline size_t bench_below(struct bench_random *random, size_t limit)
{
    return (size_t)(bench_random(random) % limit);
}

/* A size whose magnitude is uniform: 2^k with k in [from, to), then above. */
static inline size_t bench_logu(struct bench_random *random, unsigned from,
                                unsigned to)
{
    size_t base = (size_t)1 << (from + bench_below(random, to - from));

    return base + bench_below(random, base);
}

/* The median of an odd number of values; sorts them. */
static inline uint64_t bench_median(uint64_t *values, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        for (size_t j = i; j > 0 && values[j] < values[j - 1]; j--) {
            uint64_t value = values[j];

            values[j] = values[j - 1];
            values[j - 1] = value;
        }
    }
    return values[count / 2];
}

#endif /* BENCH_H */
