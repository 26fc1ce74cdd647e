#!/usr/bin/env bash
# What `make reliability` runs: the long tests of the running agent, one after another, and a table of what came of them.
set -euo pipefail
cd "$(dirname "$0")/.."

export REQUIRE_DATABASES=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --test it -- reliability:: --include-ignored --nocapture --test-threads=1 2>&1 | tee "$log" || status=$?
printf '\n| what was run | calls | faults | lost | doubled by key | repeated with the same key | took |\n|---|---|---|---|---|---|---|\n'
# a test's name may stand before its line
sed -n 's/^[^|]*\(| .* |\)$/\1/p' "$log"
printf '\n'
grep '^test result:' "$log"
exit $status
