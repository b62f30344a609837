/*
 * lua_heap.c - lua_Alloc on tieralloc.
 *
 * SPDX-License-Identifier: MIT
 */
#include "lua_heap.h"

#include "demo.h"

void lua_heap_init(struct lua_heap *heap, struct tier_allocator *allocator)
{
    heap->allocator = allocator;
    heap->used = 0;
    heap->peak = 0;
    heap->limit = SIZE_MAX;
    heap->refused = 0;
}

static void free_block(struct lua_heap *heap, void *block, size_t bytes)
{
    const enum tier_status status = tier_free(heap->allocator, block);

    demo_require(status == TIER_OK, DEMO_EXIT_PROTOCOL,
                 tier_status_text(status));
    heap->used -= bytes;
}

static void note_use(struct lua_heap *heap, size_t old_bytes, size_t bytes)
{
    heap->used = heap->used - old_bytes + bytes;
    if (heap->used > heap->peak) {
        heap->peak = heap->used;
    }
}

void *lua_heap_resize(void *heap, void *block, size_t old_bytes, size_t bytes)
{
    struct lua_heap *of = heap;

    if (block == NULL) {
        old_bytes = 0; /* Lua passes the kind of object here */
    }
    demo_require(tier_usable_size(of->allocator, block) >= old_bytes,
                 DEMO_EXIT_PROTOCOL, "a block is smaller than Lua asked for");
    if (bytes == 0) {
        free_block(of, block, old_bytes);
        return NULL;
    }
    if (bytes > old_bytes && bytes - old_bytes > of->limit - of->used) {
        of->refused++;
        return NULL;
    }
    void *resized = tier_realloc(of->allocator, block, bytes);

    if (resized == NULL && bytes <= old_bytes) {
        resized = block; /* Lua relies on it that a block can shrink */
    }
    if (resized != NULL) {
        note_use(of, old_bytes, bytes);
    }
    return resized;
}
