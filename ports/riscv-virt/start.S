/*
 * start.S - the first instruction, and the entry of every trap.
 *
 * SPDX-License-Identifier: MIT
 *
 * With `-bios none` every hart enters at _start in M-mode: a0 is the hart,
 * a1 the device tree. Each hart sets up its own registers and its stack, with
 * its thread-local block at the top; hart 0 clears .bss and goes on to main.
 * The others go on in harts.c, when the image has it, and sleep otherwise.
 */
#if __riscv_xlen == 64
#define LOAD  ld
#define STORE sd
#else
#define LOAD  lw
#define STORE sw
#endif

#define WORD             (__riscv_xlen / 8)
#define TRAP_STACK_BYTES 2048

/* A 4 KiB range as an address of physical memory protection; its rights. */
#define PMP_PAGE(x)      srli x, x, 2; ori x, x, (4096 / 8 - 1)
#define PMP_NO_ACCESS    0x98 /* locked, so it binds M-mode; a 2^n range */

#define EXIT_ADDRESS     0x100000
#define EXIT_NESTED      (122 << 16 | 0x3333) /* VIRT_EXIT_NESTED */

/* A number that link.ld defines; la reaches addresses alone. */
#define LOAD_NUMBER(x, symbol) lui x, %hi(symbol); addi x, x, %lo(symbol)

    .option arch, +zicsr

    .section .virt_boot, "ax"
    .globl  _start
_start:
    csrw    mie, zero
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      t0, trap_entry
    csrw    mtvec, t0

    /* The stack of hart 0; those of the others follow it, a stride apart. */
    csrr    a0, mhartid
    LOAD_NUMBER(t0, virt_max_harts)
    bgeu    a0, t0, sleep
    la      t1, virt_stack_guard
    la      sp, virt_stack_end
    beqz    a0, guard
    LOAD_NUMBER(t0, virt_hart_stride)
    mul     t1, t0, a0
    add     sp, sp, t1
    sub     t1, sp, t0

    /* A page below the stack that nobody may touch: overflow traps. */
guard:
    PMP_PAGE(t1)
    csrw    pmpaddr0, t1
    li      t0, PMP_NO_ACCESS
    csrw    pmpcfg0, t0

    /* Push a copy of the initial thread-local block, last word first. */
    la      t0, virt_tls_start
    la      t1, virt_tls_end
copy:
    bgeu    t0, t1, copied
    addi    t1, t1, -WORD
    addi    sp, sp, -WORD
    LOAD    t2, 0(t1)
    STORE   t2, 0(sp)
    j       copy
copied:
    mv      tp, sp
    beqz    a0, first
    .weak   virt_hart_main /* no reason for the linker to take harts.c */
    tail    virt_hart_main

first:
    la      t0, virt_bss_start
    la      t1, virt_bss_end
clear:
    bgeu    t0, t1, cleared
    STORE   zero, 0(t0)
    addi    t0, t0, WORD
    j       clear
cleared:
    mv      a0, a1
    call    virt_boot

sleep:
    wfi
    j       sleep

    /* Fill a struct virt_trap_frame on the trap stack; never returns. */
    .section .text.trap, "ax"
    .balign 4
trap_entry:
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      t0, trap_again
    csrw    mtvec, t0
    la      t0, trap_claim
    li      t1, 1
    amoswap.w.aq t1, t1, (t0)
    bnez    t1, wait /* another hart reports, and ends the machine */
    mv      t1, sp
    la      sp, trap_stack_end - 8 * WORD
    csrr    t0, mcause
    STORE   t0, 0 * WORD(sp)
    csrr    t0, mepc
    STORE   t0, 1 * WORD(sp)
    csrr    t0, mtval
    STORE   t0, 2 * WORD(sp)
    STORE   t1, 3 * WORD(sp)
    STORE   ra, 4 * WORD(sp)
    csrr    t0, mhartid
    STORE   t0, 5 * WORD(sp)
    mv      a0, sp
    call    virt_trap
wait:
    wfi
    j       wait

    /* The report itself trapped: say no more, end the machine. */
    .balign 4
trap_again:
    li      t0, EXIT_ADDRESS
    li      t1, EXIT_NESTED
    sw      t1, 0(t0)
    j       trap_again

    /* Empty, yet not NOBITS: with it, link.ld stores the zeroes of .tbss. */
    .section .tdata.virt_boot, "awT", @progbits

    .bss
    .balign 16
    .space  TRAP_STACK_BYTES
trap_stack_end:
trap_claim: /* 1: a hart is on the trap stack */
    .space  4
