-- limit.lua - run out of memory, catch the error, recover and go on.
--
-- The host sets `memory_limit`: the bytes that this script may add to what is
-- in use when it starts.

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

-- Hoards until there is no more; returns what it got hold of before that.
local function hoard(make)
    local treasure = {}
    local ok, message = pcall(function()
        while true do
            treasure[#treasure + 1] = make(#treasure)
        end
    end)
    assert(not ok and message == "not enough memory", message)
    return #treasure
end

local function assert_memory_is_usable()
    local parts = {}
    for i = 1, 2000 do
        parts[i] = tostring(2001 - i)
    end
    table.sort(parts, function(a, b) return tonumber(a) < tonumber(b) end)
    assert(parts[1] == "1" and parts[2000] == "2000")
    assert(#table.concat(parts, ",") == 8892)
end

local before = live_bytes()

local ways = {
    function(i) return string.rep("x", 4096) .. i end,
    function(i) return { i, name = "table", list = { i, i } } end,
    function(i) return function() return i end end,
    function(i) return coroutine.create(function() return i end) end,
}
for _, make in ipairs(ways) do
    local first = hoard(make)
    assert(first > 100)
    assert(live_bytes() - before < 8192, "memory was not given back")
    assert_memory_is_usable()

    -- As much is to be had the second time: nothing was lost to the first.
    local second = hoard(make)
    assert(second >= first - first // 10)
    assert(live_bytes() - before < 8192, "memory was not given back")
end

-- One request beyond the limit is refused alone; all else still works.
local ok, message = pcall(string.rep, "y", 2 * memory_limit)
assert(not ok and message == "not enough memory")
assert_memory_is_usable()

-- The error reaches through a coroutine, and ends only that.
local thread = coroutine.create(function()
    local text = "z"
    while true do
        text = text .. text
    end
end)
ok, message = coroutine.resume(thread)
assert(not ok and message == "not enough memory")
thread = nil
assert(live_bytes() - before < 8192)
assert_memory_is_usable()
