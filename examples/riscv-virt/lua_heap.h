/*
 * lua_heap.h - the memory of one Lua state: tieralloc with a limit.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef LUA_HEAP_H
#define LUA_HEAP_H

#include <tieralloc/tieralloc.h>

/* All sizes in bytes, as Lua asks for them. */
struct lua_heap {
    struct tier_allocator *allocator;
    size_t used;
    size_t peak;    /* most of used since it was last set */
    size_t limit;   /* used never passes it; SIZE_MAX is none */
    size_t refused; /* requests that would have passed the limit */
};

/* Make *heap an unlimited heap over the allocator. */
void lua_heap_init(struct lua_heap *heap, struct tier_allocator *allocator);

/*
 * The lua_Alloc over a struct lua_heap: allocate, resize or free a block.
 *
 * Ends the demonstration when Lua and the allocator disagree about a block.
 *
 * Returns NULL for a free, and when the limit or the memory is reached.
 */
void *lua_heap_resize(void *heap, void *block, size_t old_bytes, size_t bytes);

#endif /* LUA_HEAP_H */
