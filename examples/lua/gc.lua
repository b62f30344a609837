-- gc.lua - make garbage and check that the collector gives the memory back.

-- Bytes in use when all that is garbage has gone. Tables that the interpreter
-- keeps for itself shrink by steps, one for each collection.
local function live_bytes()
    local now, last = collectgarbage("count"), nil
    repeat
        collectgarbage()
        last, now = now, collectgarbage("count")
    until now >= last
    return now * 1024
end

local function make_garbage(count)
    local keep = {}
    for i = 1, count do
        keep[i % 50] = { i, tostring(i), function() return i end }
    end
end

-- Memory in use after any amount of work is what it was before.
local before = live_bytes()
make_garbage(5000)
assert(live_bytes() - before < 8192)

local blocks = {}
for i = 1, 64 do
    blocks[i] = string.rep(string.char(i), 16384)
end
assert(live_bytes() - before > 64 * 16384)
blocks = nil
assert(live_bytes() - before < 8192)

-- Cycles are garbage as soon as nothing outside refers to them.
local watched = setmetatable({}, { __mode = "v" })
do
    local first = { name = "first" }
    local second = { name = "second", other = first }
    first.other = second
    watched[1], watched[2] = first, second
    collectgarbage()
    assert(watched[1] == first and watched[2] == second)
end
collectgarbage()
assert(watched[1] == nil and watched[2] == nil)

-- Weak keys go with what they name; finalizers run once, latest first.
local notes = setmetatable({}, { __mode = "k" })
for i = 1, 100 do
    notes[{}] = string.rep("note", i)
end
collectgarbage()
assert(next(notes) == nil)

local order = {}
for i = 1, 100 do
    setmetatable({}, { __gc = function() order[#order + 1] = i end })
end
collectgarbage()
assert(#order == 100)
for i = 1, 100 do
    assert(order[i] == 101 - i)
end
collectgarbage()
assert(#order == 100)

-- An object that its own finalizer saves lives on.
local saved
do
    setmetatable({ alive = true }, { __gc = function(self) saved = self end })
end
collectgarbage()
assert(saved and saved.alive)

-- Both ways to collect, under work: of some 4 MiB of garbage most is gone.
for _, mode in ipairs({ "generational", "incremental" }) do
    collectgarbage(mode)
    make_garbage(20000)
    assert(collectgarbage("count") * 1024 - before < 2 * 1024 * 1024)
end

-- Collection by hand: with the collector stopped, steps end a cycle.
collectgarbage("stop")
make_garbage(1000)
local steps = 0
repeat
    steps = steps + 1
until collectgarbage("step", 1)
collectgarbage("restart")
assert(steps >= 1)
