-- sort.lua - sort numbers, records and texts, and check that they are sorted.

local function random_numbers(count, seed)
    local numbers = {}
    for i = 1, count do
        seed = (seed * 1103515245 + 12345) % 2147483648
        numbers[i] = seed // 65536
    end
    return numbers
end

local function sum(numbers)
    local total = 0
    for _, number in ipairs(numbers) do
        total = total + number
    end
    return total
end

local function assert_sorted(list, before)
    for i = 2, #list do
        assert(not before(list[i], list[i - 1]), "out of order at " .. i)
    end
end

local function less(a, b)
    return a < b
end

-- A merge sort of our own: many short-lived tables.
local function merge_sort(list)
    if #list <= 1 then
        return list
    end
    local middle = #list // 2
    local left = merge_sort(table.move(list, 1, middle, 1, {}))
    local right = merge_sort(table.move(list, middle + 1, #list, 1, {}))
    local merged, l, r = {}, 1, 1
    while l <= #left or r <= #right do
        if r > #right or (l <= #left and left[l] <= right[r]) then
            merged[#merged + 1] = left[l]
            l = l + 1
        else
            merged[#merged + 1] = right[r]
            r = r + 1
        end
    end
    return merged
end

local numbers = random_numbers(4000, 42)
local total = sum(numbers)
local merged = merge_sort(numbers)
table.sort(numbers)
assert_sorted(numbers, less)
assert(#numbers == 4000 and sum(numbers) == total)
assert(#merged == #numbers)
for i = 1, #numbers do
    assert(merged[i] == numbers[i], "two sorts disagree at " .. i)
end

local records = {}
for i, number in ipairs(random_numbers(1000, 7)) do
    records[i] = { key = number % 50, place = i }
end
local function by_key_then_place(a, b)
    if a.key ~= b.key then
        return a.key > b.key
    end
    return a.place < b.place
end
table.sort(records, by_key_then_place)
assert_sorted(records, by_key_then_place)

local words = {}
for i, number in ipairs(random_numbers(1000, 99)) do
    words[i] = string.format("%05d-%x", number, i)
end
table.sort(words)
assert_sorted(words, less)

-- A comparison that fails in the middle of a sort harms nothing.
local ok, message = pcall(table.sort, { 3, "x", 1 })
assert(not ok and message:find("attempt to compare"))
