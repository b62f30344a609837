-- coroutines.lua - producers, schedulers and errors across coroutines.

local function permutations(items)
    local function permute(n)
        if n == 0 then
            coroutine.yield(table.concat(items))
        end
        for i = 1, n do
            items[i], items[n] = items[n], items[i]
            permute(n - 1)
            items[i], items[n] = items[n], items[i]
        end
    end
    return coroutine.wrap(function() permute(#items) end)
end

local seen, count = {}, 0
for permutation in permutations({ "a", "b", "c", "d", "e", "f" }) do
    assert(not seen[permutation] and #permutation == 6)
    seen[permutation] = true
    count = count + 1
end
assert(count == 720)

-- A thousand coroutines in turn, each with a stack of its own.
local threads, total = {}, 0
for i = 1, 1000 do
    threads[i] = coroutine.create(function(step)
        for turn = 1, 5 do
            total = total + step * turn
            step = coroutine.yield(i)
        end
        return "done"
    end)
end
local turns = 0
while #threads > 0 do
    turns = turns + 1
    for i = #threads, 1, -1 do
        local ok, result = coroutine.resume(threads[i], 2)
        assert(ok)
        if coroutine.status(threads[i]) == "dead" then
            assert(result == "done")
            table.remove(threads, i)
        end
    end
end
assert(turns == 6 and total == 1000 * 2 * 15)

-- A chain of filters: of the numbers from 2 on, each passes its multiples by.
local function numbers_from(n)
    return coroutine.wrap(function()
        while true do
            coroutine.yield(n)
            n = n + 1
        end
    end)
end
local function without_multiples(source, prime)
    return coroutine.wrap(function()
        for n in source do
            if n % prime ~= 0 then
                coroutine.yield(n)
            end
        end
    end)
end
local source, prime = numbers_from(2), nil
for _ = 1, 60 do
    prime = source()
    source = without_multiples(source, prime)
end
assert(prime == 281)

-- Errors end the coroutine they happen in, and no other; yields cross pcall.
local failing = coroutine.create(function()
    local ok, message = pcall(function()
        coroutine.yield("inside pcall")
        error({ code = 17 })
    end)
    assert(not ok and message.code == 17)
    error("out of here", 0)
end)
assert(select(2, coroutine.resume(failing)) == "inside pcall")
local ok, message = coroutine.resume(failing)
assert(not ok and message == "out of here")
assert(not coroutine.resume(failing))

-- Closing a suspended coroutine runs what it left to be closed.
local closed = false
local holder = coroutine.create(function()
    local resource <close> = setmetatable({}, {
        __close = function() closed = true end,
    })
    coroutine.yield(resource)
end)
coroutine.resume(holder)
assert(not closed and coroutine.close(holder) and closed)
