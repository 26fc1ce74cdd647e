#!/usr/bin/env bash
# Licences, bans and sources of the dependencies, from deny.toml. Known vulnerabilities and yanked versions too, where the
# database of them can be fetched; said loudly where not.
set -euo pipefail
cd "$(dirname "$0")/.."

deny=$(command -v cargo-deny || echo target/tools/bin/cargo-deny)
if [ ! -x "$deny" ]; then
    echo "cargo-deny is missing: scripts/install-missing.sh deny" >&2
    exit 2
fi

"$deny" --locked check licenses bans sources
if timeout 120 "$deny" --locked fetch db >/dev/null 2>&1; then
    "$deny" --locked check advisories
else
    printf '\n*** known vulnerabilities NOT checked: the database (github.com/RustSec/advisory-db) cannot be reached from here ***\n\n'
fi
