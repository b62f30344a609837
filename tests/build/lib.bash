# Shared by the build tests; sourced, never run.
#
# A build test compiles the headers in ways that a user may, and says what it
# tried: one line "ok" or "FAIL" for each check, then the counts.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
include=$root/include
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
checks=0
failed=0

# The warnings of our own builds. Three of them are not for C++: two it lacks,
# and its -Wshadow objects to a function that is named as its struct is.
cxx_warnings=(-Werror -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion
    -Wundef -Wcast-qual -Wcast-align -Wvla)
# shellcheck disable=SC2034 # for the scripts that source this file
warnings=("${cxx_warnings[@]}" -Wshadow -Wstrict-prototypes
    -Wmissing-prototypes)

# need TOOL...: end the test where a tool is missing; a skipped check is no check.
need() {
    local tool
    for tool in "$@"; do
        if ! command -v "$tool" >/dev/null; then
            echo "FAIL $tool is not installed; run tools/install-deps test"
            exit 1
        fi
    done
}

# passed WHAT / failed WHAT [OUTPUT]: count a check and say how it went.
passed() {
    checks=$((checks + 1))
    echo "ok   $1"
}
failed() {
    checks=$((checks + 1))
    failed=$((failed + 1))
    echo "FAIL $1"
    if [ -n "${2:-}" ]; then
        printf '%s\n' "$2" | head -n 40 | sed 's/^/     /'
    fi
}

# check WHAT COMMAND...: the command must succeed.
check() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1 </dev/null); then
        passed "$what"
    else
        failed "$what" "$* failed:"$'\n'"$output"
    fi
}

# check_empty WHAT COMMAND...: the command must succeed and print nothing.
check_empty() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1 </dev/null) && [ -z "$output" ]; then
        passed "$what"
    else
        failed "$what" "$* says:"$'\n'"$output"
    fi
}

# check_equal WHAT EXPECTED ACTUAL
check_equal() {
    if [ "$2" = "$3" ]; then
        passed "$1"
    else
        failed "$1" "$(diff <(printf '%s\n' "$2") <(printf '%s\n' "$3") || true)"
    fi
}

# finish: the last line of every build test, and its exit code.
finish() {
    echo "$checks checks, $failed failed"
    [ "$checks" -gt 0 ] && [ "$failed" -eq 0 ]
}

# headers: every header's name; public_headers: those that a user includes, which
# are config.h and all that declare a function.
headers() {
    (cd "$include/tieralloc" && printf '%s\n' ./*.h | sed 's,^\./,,')
}
public_headers() {
    (cd "$include/tieralloc" && grep -lE '^TIERALLOC_API|_CONFIG_H' ./*.h |
        sed 's,^\./,,')
}

# include_all: the lines that include every public header.
include_all() {
    public_headers | sed 's,.*,#include <tieralloc/&>,'
}

# options: of each option in config.h that is a number a line "NAME DEFAULT
# KIND", KIND being "layout" or "local" by the mark [layout] in its comment.
options() {
    awk '
        /^\/\*/ { comment = "" }
        { comment = comment " " $0 }
        /^#ifndef TIERALLOC_/ { name = $2 }
        /^ *#define TIERALLOC_/ && $2 == name && $3 ~ /^[0-9]+$/ && !seen[name]++ {
            print name, $3, (comment ~ /\[layout\]/ ? "layout" : "local")
        }
    ' "$include/tieralloc/config.h"
}

# macros: the names of the options in config.h that are text.
macros() {
    grep -oE '^#ifndef TIERALLOC_[A-Z_]+' "$include/tieralloc/config.h" |
        cut -d' ' -f2 | grep -vE '_CONFIG_H$' |
        grep -vxFf <(options | cut -d' ' -f1)
}

# shellcheck disable=SC2034 # for the scripts that source this file
# other_value NAME DEFAULT: set `value` to some other value of the option that
# config.h accepts, and `define` to the compiler's flags for it.
other_value() {
    local candidate with=()
    if [ "$1" = TIERALLOC_LOCKING ]; then
        with=(-DTIERALLOC_LOCK_TYPE=int "-DTIERALLOC_LOCK_INIT(lock)=(*(lock)=0)"
            "-DTIERALLOC_LOCK(lock)=(*(lock)=1)"
            "-DTIERALLOC_UNLOCK(lock)=(*(lock)=0)")
    fi
    for candidate in $(($2 + 1)) $(($2 - 1)) $(($2 * 2)) $(($2 / 2)); do
        if [ "$candidate" -ge 0 ] && [ "$candidate" -ne "$2" ]; then
            value=$candidate
            define=("-D$1=$candidate" "${with[@]}")
            if echo '#include <tieralloc/config.h>' | gcc -std=c11 \
                -I"$include" "${define[@]}" -fsyntax-only -xc - 2>/dev/null; then
                return
            fi
        fi
    done
    return 1
}

# write FILE LINE...: a C file in the scratch directory.
write() {
    local file=$1
    shift
    printf '%s\n' "$@" >"$scratch/$file"
}
