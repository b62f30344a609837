/*
 * scripts.S - the scripts of examples/lua as read-only data.
 *
 * SPDX-License-Identifier: MIT
 *
 * The directory of the scripts is on the assembler's include path.
 */
    .macro  script name
    .globl  script_\name\()_text, script_\name\()_end
script_\name\()_text:
    .incbin "\name\().lua"
script_\name\()_end:
    .endm

    .section .rodata.scripts, "a"
    script  sort
    script  strings
    script  tables
    script  coroutines
    script  gc
    script  limit
