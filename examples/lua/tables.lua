-- tables.lua - arrays, maps, lists and graphs with results known beforehand.

-- Primes below 20000 by the sieve of Eratosthenes: there are 2262.
local function count_primes(limit)
    local composite, count = {}, 0
    for n = 2, limit do
        if not composite[n] then
            count = count + 1
            for multiple = n * n, limit, n do
                composite[multiple] = true
            end
        end
    end
    return count
end
assert(count_primes(20000) == 2262)

-- Ways to place n queens that attack each other nowhere: 40 for n = 7.
local function queens(n)
    local column, rising, falling, ways = {}, {}, {}, 0
    local function place(row)
        if row > n then
            ways = ways + 1
            return
        end
        for c = 1, n do
            if not (column[c] or rising[row + c] or falling[row - c]) then
                column[c], rising[row + c], falling[row - c] = true, true, true
                place(row + 1)
                column[c], rising[row + c], falling[row - c] = nil, nil, nil
            end
        end
    end
    place(1)
    return ways
end
assert(queens(7) == 40)

-- A map that grows through many sizes, shrinks, and grows again.
local map = {}
for round = 1, 2 do
    for i = 1, 5000 do
        map["key" .. i] = i * round
    end
    for i = 1, 5000, 2 do
        map["key" .. i] = nil
    end
    local entries, total = 0, 0
    for _, value in pairs(map) do
        entries = entries + 1
        total = total + value
    end
    assert(entries == 2500 and total == 6252500 * round)
end

-- A linked list, reversed in place.
local list
for i = 1, 3000 do
    list = { value = i, next = list }
end
local reversed
while list do
    list, list.next, reversed = list.next, reversed, list
end
for i = 1, 3000 do
    assert(reversed.value == i)
    reversed = reversed.next
end
assert(reversed == nil)

-- Powers of the matrix that makes the Fibonacci numbers.
local function multiply(a, b)
    local product = {}
    for i = 1, #a do
        product[i] = {}
        for k = 1, #b[1] do
            local sum = 0
            for j = 1, #b do
                sum = sum + a[i][j] * b[j][k]
            end
            product[i][k] = sum
        end
    end
    return product
end
local power = { { 1, 0 }, { 0, 1 } }
for _ = 1, 90 do
    power = multiply(power, { { 1, 1 }, { 1, 0 } })
end
assert(power[1][2] == 2880067194370816120)

-- Methods found through a metatable, and values made when first asked for.
local memo = setmetatable({}, {
    __index = function(self, n)
        local value = n < 2 and n or self[n - 1] + self[n - 2]
        self[n] = value
        return value
    end,
})
assert(memo[60] == 1548008755920)

local packed = table.pack(table.unpack({ 1, 2, nil, 4 }, 1, 4))
assert(packed.n == 4 and packed[3] == nil and packed[4] == 4)
