#!/usr/bin/env bash
# Everything `make test` checks. A missing database server is a failure, not a skipped test. The last line is the total.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/lint.sh
# lint looks at the dependencies where it can; here it has to
[ -x target/tools/bin/cargo-deny ] || command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: scripts/install-missing.sh test" >&2; exit 2; }

printf '\n== tests\n'
export REQUIRE_DATABASES=1
export SIM_SEEDS="${SIM_SEEDS:-200}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --no-fail-fast 2>&1 | tee "$log" || status=$?
if [ $status -ne 0 ]; then
    printf '\nfailed:\n'
    grep -E '^test .* FAILED$' "$log" || true
fi
awk '/^test result:/ {passed += $4; failed += $6; ignored += $8}
     END {printf "\ntests: %d passed, %d failed, %d ignored\n", passed, failed, ignored}' "$log"
exit $status
