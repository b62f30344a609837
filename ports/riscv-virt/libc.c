/*
 * libc.c - what picolibc asks of a machine: standard streams and an end.
 *
 * SPDX-License-Identifier: MIT
 *
 * There is no heap below malloc: memory comes from the caller's allocator.
 */
#include "port.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int console_put(char c, FILE *stream)
{
    (void)stream;
    virt_putc(c);
    return (unsigned char)c;
}

static int console_get(FILE *stream)
{
    (void)stream;
    return (unsigned char)virt_getc();
}

static FILE console =
    FDEV_SETUP_STREAM(console_put, console_get, NULL, _FDEV_SETUP_RW);

FILE *const stdin = &console;
FILE *const stdout = &console;
FILE *const stderr = &console;

_Noreturn void _exit(int code)
{
    virt_exit(code);
}

_Noreturn void abort(void)
{
    virt_puts("\nvirt: abort\n");
    virt_exit(VIRT_EXIT_ABORT);
}
