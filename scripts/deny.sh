#!/usr/bin/env bash
# Licences, bans and sources of the dependencies, from deny.toml. Known vulnerabilities too, where the database of them
# can be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo deny --locked check licenses bans sources
if cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check advisories
else
    echo "advisories: the database of known vulnerabilities cannot be reached from here; not checked"
fi
