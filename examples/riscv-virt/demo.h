/*
 * demo.h - the parts of the demonstration, and how they fail.
 *
 * SPDX-License-Identifier: MIT
 *
 * Each part proves one claim about the allocator. A claim that does not hold
 * ends the machine with an exit code of its own, so that a test needs no eyes.
 */
#ifndef DEMO_H
#define DEMO_H

#include <tieralloc/tieralloc.h>

#include <stdbool.h>

/* --- Failure -------------------------------------------------------------- */

enum demo_exit {
    DEMO_EXIT_USAGE = 10,    /* the command line asks for what is not there */
    DEMO_EXIT_RAM = 11,      /* not all the RAM was found, or not usable */
    DEMO_EXIT_SCRIPT = 12,   /* a script failed */
    DEMO_EXIT_PROTOCOL = 13, /* Lua's allocator was refused a valid call */
    DEMO_EXIT_LIMIT = 14,    /* the memory limit was not met, or passed */
    DEMO_EXIT_CLOSE = 15,    /* the closed interpreter left memory behind */
    DEMO_EXIT_COMMIT = 16,   /* a transaction that commits */
    DEMO_EXIT_ROLLBACK = 17, /* a transaction that fails in the middle */
    DEMO_EXIT_CHECK = 18,    /* the allocator's own check */
};

/* Go on when the claim holds; else print the reason and exit with `code`. */
void demo_require(bool holds, enum demo_exit code, const char *reason);

/* --- Parts ---------------------------------------------------------------- */

/*
 * Run a script of examples/lua in a fresh interpreter, or all of them, the
 * memory limit included, when name is NULL; then close the interpreter.
 *
 * Returns false when there is no script of that name.
 */
bool demo_run_lua(struct tier_allocator *allocator, const char *name);

/* Three allocations that are committed, used and freed. */
void demo_commit(struct tier_allocator *allocator);

/* A transaction whose third allocation fails, rolled back without a trace. */
void demo_rollback(struct tier_allocator *allocator);

/*
 * Do deliberately what must end in the port's trap report.
 *
 * Returns, with false, when there is no fault of that name.
 */
bool demo_fault(const char *name);

/* --- Report --------------------------------------------------------------- */

/* Print the statistics and the dump of the allocator. */
void demo_print_statistics(struct tier_allocator *allocator);

#endif /* DEMO_H */
