/*
 * uart.c - the console: a 16550, polled.
 *
 * SPDX-License-Identifier: MIT
 */
#include "uart.h"

#include "port.h"

#define UART_DATA         0u /* register offsets in bytes */
#define UART_LINE_STATUS  5u
#define UART_RECEIVED     0x01u /* bits of the line status */
#define UART_CAN_TRANSMIT 0x20u

/* The address on every virt machine, for messages before the tree is read. */
static uintptr_t uart_base = 0x10000000;

static volatile uint8_t *uart_register(uintptr_t offset)
{
    return (volatile uint8_t *)(uart_base + offset);
}

static void wait_for(unsigned status_bit)
{
    while ((*uart_register(UART_LINE_STATUS) & status_bit) == 0) {
    }
}

void virt_uart_init(uintptr_t base)
{
    uart_base = base;
}

void virt_putc(char c)
{
    wait_for(UART_CAN_TRANSMIT);
    *uart_register(UART_DATA) = (uint8_t)c;
}

void virt_puts(const char *text)
{
    while (*text != '\0') {
        virt_putc(*text++);
    }
}

char virt_getc(void)
{
    wait_for(UART_RECEIVED);
    return (char)*uart_register(UART_DATA);
}
