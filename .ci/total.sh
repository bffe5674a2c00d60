#!/usr/bin/env bash
# What a run of the tests came to: total.sh LOG SKIPS
#
# LOG is what `cargo test` printed, one total a binary. SKIPS is what tests wrote that could not run here, a line
# `test<TAB>reason` each (tests/src/skip.rs). A test runner calls such a test passed; here it is not.
set -euo pipefail
export LC_ALL=C

sort -u "$2" | awk -F '\t' '
    {
        part = sub(/ in part$/, "", $1)
        key = (part ? "in part" : "not run") "\t" $2
        names[key] = names[key] "\n    " $1
        count[key]++
        if (!(key in seen)) { seen[key] = 1; order[++n] = key }
    }
    END {
        for (i = 1; i <= n; i++) {
            split(order[i], of, "\t")
            printf "%d %s: %s%s\n", count[order[i]], of[1], of[2], names[order[i]]
        }
    }
'
# A test may give several reasons.
not=$(cut -f 1 "$2" | { grep -v ' in part$' || true; } | sort -u | wc -l)
awk -v not="$not" '
    /^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i == "passed;") passed += $(i - 1)
            if ($i == "failed;") failed += $(i - 1)
            if ($i == "ignored;") ignored += $(i - 1)
        }
    }
    END { printf "%d passed, %d failed, %d not run\n", passed - not, failed, not + ignored }
' "$1"
