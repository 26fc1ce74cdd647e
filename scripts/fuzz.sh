#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS (60), or those named as arguments; starts from captured calls. What is found
# lies in fuzz/artifacts: mend it and keep the input in tests/data/fuzz/<target>/, where tests/it/fuzzed.rs replays it.
# FUZZ_SANITIZER=address needs clang's runtime (libclang-rt-dev).
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
sanitizer=${FUZZ_SANITIZER:-none}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(cel_csv cdr_csv captured calls salvage)

FUZZ_SEEDS="$PWD/fuzz/corpus" cargo test --quiet --locked --test it fuzzed::seeds -- --ignored
# the sanitizer's flags are unstable; this toolchain takes them when told so
export RUSTC_BOOTSTRAP=1
failed=0
for target in "${targets[@]}"; do
    printf '\n== %s, %s s\n' "$target" "$seconds"
    kept=()
    [ -d "tests/data/fuzz/$target" ] && kept=("tests/data/fuzz/$target")
    cargo fuzz run --sanitizer "$sanitizer" "$target" "fuzz/corpus/$target" "${kept[@]}" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=20000 -verbosity=0 -print_final_stats=1 || failed=1
done
exit $failed
