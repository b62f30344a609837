-- strings.lua - build, search, replace and pack texts of known content.

-- The hash of Fowler, Noll and Vo, 32 bits, with its published values.
local function fnv1a(text)
    local hash = 0x811c9dc5
    for i = 1, #text do
        hash = ((hash ~ text:byte(i)) * 0x01000193) & 0xffffffff
    end
    return hash
end
assert(fnv1a("") == 0x811c9dc5)
assert(fnv1a("a") == 0xe40c292c)
assert(fnv1a("foobar") == 0xbf9cf968)

-- The same text made in two ways: by appending, and from a table.
local grown, parts = "", {}
for i = 1, 1500 do
    local part = i .. ";"
    grown = grown .. part
    parts[i] = part
end
local joined = table.concat(parts)
assert(grown == joined and #joined == 6393)

local count = 0
for number in joined:gmatch("(%d+);") do
    count = count + 1
    assert(tonumber(number) == count)
end
assert(count == 1500)

local long = ("0123456789abcdef"):rep(4096)
assert(#long == 65536)
assert(long:reverse():reverse() == long)
assert(long:reverse():sub(1, 16) == "fedcba9876543210")
assert(long:upper():lower() == long)
local replaced, times = long:gsub("789", "<%0>")
assert(times == 4096 and #replaced == 65536 + 2 * 4096)
assert(select(2, replaced:gsub("<789>", "")) == 4096)

local words = {}
local text = "the quick brown fox jumps over the lazy dog and the cat "
for word in text:rep(100):gmatch("%a+") do
    words[word] = (words[word] or 0) + 1
end
assert(words.the == 300 and words.fox == 100 and words.cow == nil)

local packed = {}
for i = 1, 500 do
    packed[i] = string.pack("<i4 d s2", i, i / 4, "n" .. i)
end
local stream, at = table.concat(packed), 1
for i = 1, 500 do
    local whole, fraction, name
    whole, fraction, name, at = string.unpack("<i4 d s2", stream, at)
    assert(whole == i and fraction == i / 4 and name == "n" .. i)
end
assert(at == #stream + 1)

local greek = utf8.char(0x3b1, 0x3b2, 0x3b3, 0x1f600)
assert(#greek == 10 and utf8.len(greek) == 4)
assert(utf8.codepoint(greek, utf8.offset(greek, 4)) == 0x1f600)

assert(string.format("%5.2f|%-6s|%+d|%q", math.pi, "ab", 7, "\n")
    == " 3.14|ab    |+7|\"\\\n\"")
assert(tostring(1e15) == "1e+15" and 2^53 == 9007199254740992)

-- Calls nested without end through gsub are an error, not a crash.
local function nest()
    return (("x"):gsub("x", nest))
end
local ok, message = pcall(nest)
assert(not ok and message:find("stack overflow"))
