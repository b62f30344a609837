/*
 * platform.c - what Lua asks of a C library and this machine has not.
 *
 * SPDX-License-Identifier: MIT
 *
 * There are no files: loadfile and dofile fail. There is no clock: Lua draws
 * its seeds from the time, so every run is the same.
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>

FILE *fopen(const char *path, const char *mode)
{
    (void)path;
    (void)mode;
    errno = ENOENT;
    return NULL;
}

FILE *freopen(const char *path, const char *mode, FILE *stream)
{
    (void)stream;
    return fopen(path, mode);
}

int fclose(FILE *stream)
{
    (void)stream;
    return EOF;
}

time_t time(time_t *now)
{
    if (now != NULL) {
        *now = 0;
    }
    return 0;
}

clock_t clock(void)
{
    return 0;
}
