/*
 * uart.h - where the console of port.h writes to.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VIRT_UART_H
#define VIRT_UART_H

#include <stdint.h>

/* Use the 16550 whose registers start at `base`; QEMU has set it up. */
void virt_uart_init(uintptr_t base);

#endif /* VIRT_UART_H */
