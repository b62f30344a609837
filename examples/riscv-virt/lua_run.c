/*
 * lua_run.c - the Lua interpreter at work on tieralloc.
 *
 * SPDX-License-Identifier: MIT
 */
#include "demo.h"
#include "lua_heap.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

#define LIMIT_BYTES ((size_t)1 << 20) /* what limit.lua may add */

/* A script, embedded by scripts.S. */
struct script {
    const char *name;
    const char *file; /* as Lua's messages are to name it */
    const char *text;
    const char *end;
};

#define SCRIPT(id)                                                       \
    {                                                                    \
        .name = #id, .file = "@" #id ".lua", .text = script_##id##_text, \
        .end = script_##id##_end                                         \
    }

extern const char script_sort_text[], script_sort_end[];
extern const char script_strings_text[], script_strings_end[];
extern const char script_tables_text[], script_tables_end[];
extern const char script_coroutines_text[], script_coroutines_end[];
extern const char script_gc_text[], script_gc_end[];
extern const char script_limit_text[], script_limit_end[];

static const struct script scripts[] = {
    SCRIPT(sort),       SCRIPT(strings), SCRIPT(tables),
    SCRIPT(coroutines), SCRIPT(gc),      SCRIPT(limit),
};

#define SCRIPT_COUNT (sizeof(scripts) / sizeof(scripts[0]))

/* --- An interpreter ------------------------------------------------------- */

/* What a program without files and clock has use for. */
static const luaL_Reg libraries[] = {
    {LUA_GNAME, luaopen_base},          {LUA_TABLIBNAME, luaopen_table},
    {LUA_STRLIBNAME, luaopen_string},   {LUA_MATHLIBNAME, luaopen_math},
    {LUA_COLIBNAME, luaopen_coroutine}, {LUA_UTF8LIBNAME, luaopen_utf8},
};

static int open_libraries(lua_State *lua)
{
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        luaL_requiref(lua, libraries[i].name, libraries[i].func, 1);
        lua_pop(lua, 1);
    }
    return 0;
}

static int add_traceback(lua_State *lua)
{
    luaL_traceback(lua, lua, lua_tostring(lua, 1), 1);
    return 1;
}

/* Call the function on top of the stack; its failure ends the demo. */
static void call(lua_State *lua, int result)
{
    if (result == LUA_OK) {
        lua_pushcfunction(lua, add_traceback);
        lua_insert(lua, 1);
        result = lua_pcall(lua, 0, 0, 1);
    }
    demo_require(result == LUA_OK, DEMO_EXIT_SCRIPT, lua_tostring(lua, -1));
    lua_settop(lua, 0);
}

static lua_State *open_interpreter(struct lua_heap *heap)
{
    lua_State *lua = lua_newstate(lua_heap_resize, heap);

    demo_require(lua != NULL, DEMO_EXIT_SCRIPT, "no memory for a Lua state");
    lua_pushcfunction(lua, open_libraries);
    call(lua, LUA_OK);
    return lua;
}

/* Nothing of the interpreter is left in the allocator. */
static void close_interpreter(lua_State *lua, const struct lua_heap *heap)
{
    struct tier_stats stats;

    demo_print_statistics(heap->allocator); /* while there is much to see */
    lua_close(lua);
    tier_stats(heap->allocator, &stats);
    const bool intact = tier_check(heap->allocator);

    printf("lua: closed\nlive bytes: %zu\ncheck: %s\n", stats.live_bytes,
           intact ? "true" : "false");
    demo_require(heap->used == 0, DEMO_EXIT_CLOSE, "Lua lost count of memory");
    demo_require(stats.live_bytes == 0, DEMO_EXIT_CLOSE,
                 "memory is live after lua_close");
    demo_require(stats.live_objects == 0 && stats.live_blocks == 0,
                 DEMO_EXIT_CLOSE, "objects are live after lua_close");
    demo_require(intact, DEMO_EXIT_CHECK, "the check failed after lua_close");
}

/* --- Scripts -------------------------------------------------------------- */

static void run_script(lua_State *lua, struct lua_heap *heap,
                       const struct script *script)
{
    const size_t bytes = (size_t)(script->end - script->text);

    printf("lua: %s ... ", script->name);
    heap->peak = heap->used;
    call(lua, luaL_loadbufferx(lua, script->text, bytes, script->file, "t"));
    printf("passed, %zu KiB at most\n", heap->peak / 1024);
}

/* Run limit.lua, which must meet the limit, and must not pass it. */
static void run_limited(lua_State *lua, struct lua_heap *heap,
                        const struct script *script)
{
    lua_gc(lua, LUA_GCCOLLECT);
    heap->limit = heap->used + LIMIT_BYTES;
    heap->refused = 0;
    lua_pushinteger(lua, (lua_Integer)LIMIT_BYTES);
    lua_setglobal(lua, "memory_limit");

    run_script(lua, heap, script);
    printf("lua: limit of %zu KiB met %zu times\n", heap->limit / 1024,
           heap->refused);
    demo_require(heap->refused > 0, DEMO_EXIT_LIMIT, "the limit was not met");
    demo_require(heap->peak <= heap->limit, DEMO_EXIT_LIMIT,
                 "the limit was passed");
    heap->limit = SIZE_MAX;
}

static bool is_wanted(const struct script *script, const char *name)
{
    return name == NULL || strcmp(name, script->name) == 0;
}

bool demo_run_lua(struct tier_allocator *allocator, const char *name)
{
    size_t first = 0;
    struct lua_heap heap;

    while (first < SCRIPT_COUNT && !is_wanted(&scripts[first], name)) {
        first++;
    }
    if (first == SCRIPT_COUNT) {
        return false;
    }
    lua_heap_init(&heap, allocator);
    lua_State *lua = open_interpreter(&heap);

    for (size_t i = first; i < SCRIPT_COUNT; i++) {
        if (!is_wanted(&scripts[i], name)) {
            continue;
        }
        if (strcmp(scripts[i].name, "limit") == 0) {
            run_limited(lua, &heap, &scripts[i]);
        } else {
            run_script(lua, &heap, &scripts[i]);
        }
    }
    close_interpreter(lua, &heap);
    return true;
}
