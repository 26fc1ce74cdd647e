#!/usr/bin/env bash
# Format, clippy, and what else can be checked without running anything.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step format
cargo fmt --all --check

step clippy
cargo clippy --locked --all-targets -- -D warnings

step scripts
for script in scripts/*.sh .ci/run; do bash -n "$script"; done
if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; fi

if command -v promtool >/dev/null; then
    step "Prometheus rules and scrape settings"
    promtool check rules dashboards/alerts.yml
    promtool test rules dashboards/alerts.test.yml
    # docker/prometheus.yml names the rules where the container has them
    check=dashboards/.check.yml
    trap 'rm -f "$check"' EXIT
    sed 's#/etc/prometheus/alerts.yml#alerts.yml#' docker/prometheus.yml > "$check"
    promtool check config "$check"
fi

if command -v cargo-deny >/dev/null || [ -x target/tools/bin/cargo-deny ]; then
    step "dependencies"
    scripts/deny.sh
fi
