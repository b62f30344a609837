/*
 * start.S - the first instruction, and the entry of every trap.
 *
 * SPDX-License-Identifier: MIT
 *
 * With `-bios none` every hart enters at _start in M-mode: a0 is the hart,
 * a1 the device tree. Hart 0 sets up what C needs; the others sleep.
 */
#if __riscv_xlen == 64
#define STORE sd
#else
#define STORE sw
#endif

#define WORD             (__riscv_xlen / 8)
#define TRAP_STACK_BYTES 2048

/* A 4 KiB range as an address of physical memory protection; its rights. */
#define PMP_PAGE(x)      srli x, x, 2; ori x, x, (4096 / 8 - 1)
#define PMP_NO_ACCESS    0x98 /* locked, so it binds M-mode; a 2^n range */

#define EXIT_ADDRESS     0x100000
#define EXIT_NESTED      (122 << 16 | 0x3333) /* VIRT_EXIT_NESTED */

    .option arch, +zicsr

    .section .virt_boot, "ax"
    .globl  _start
_start:
    csrw    mie, zero
    csrr    t0, mhartid
    bnez    t0, sleep

    la      t0, trap_entry
    csrw    mtvec, t0
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      tp, virt_tls_start
    la      sp, virt_stack_end

    la      t0, virt_bss_start
    la      t1, virt_bss_end
clear:
    bgeu    t0, t1, cleared
    STORE   zero, 0(t0)
    addi    t0, t0, WORD
    j       clear
cleared:

    /* A page below the stack that nobody may touch: overflow traps. */
    la      t0, virt_stack_guard
    PMP_PAGE(t0)
    csrw    pmpaddr0, t0
    li      t0, PMP_NO_ACCESS
    csrw    pmpcfg0, t0

    mv      a0, a1
    call    virt_boot

sleep:
    wfi
    j       sleep

    /* Fill a struct virt_trap_frame on the trap stack; never returns. */
    .section .text.trap, "ax"
    .balign 4
trap_entry:
    la      t0, trap_again
    csrw    mtvec, t0
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
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    mv      a0, sp
    call    virt_trap

    /* The report itself trapped: say no more, end the machine. */
    .balign 4
trap_again:
    li      t0, EXIT_ADDRESS
    li      t1, EXIT_NESTED
    sw      t1, 0(t0)
    j       trap_again

    .bss
    .balign 16
    .space  TRAP_STACK_BYTES
trap_stack_end:
