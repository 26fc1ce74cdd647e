#!/usr/bin/env bash
# Installs what is missing to build (`build`) or to test (`test`), where apt-get is there and we may use it; otherwise
# names the packages and stops. Looks for programs, not packages: however they came, they serve.
set -euo pipefail

have() { command -v "$1" >/dev/null 2>&1; }
have_postgresql() { have initdb && have postgres || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
have_mariadb() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin"
    { have mariadbd || have mysqld; } && { have mariadb-install-db || have mysql_install_db; } && have my_print_defaults
}

missing=()
have cc || missing+=(gcc libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || missing+=(ca-certificates)
if [ "${1:-build}" = test ]; then
    # the -core packages hold the servers' programs without the service that would start one on the standard port
    have_mariadb || missing+=(mariadb-server-core mariadb-client-core)
    have_postgresql || missing+=(postgresql)
fi

if ! have cargo; then
    echo "cargo is missing. Install Rust from https://rustup.rs (rust-toolchain.toml names the version), then run this again." >&2
    exit 2
fi
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
    if have sudo && sudo -n true 2>/dev/null; then sudo=(sudo -n); else sudo=(no); fi
fi
if ! have apt-get || [ "${sudo[0]:-}" = no ]; then
    {
        echo "Missing packages: ${missing[*]}"
        echo "Install them (as root: apt-get install --no-install-recommends ${missing[*]}; other distributions have them"
        echo "under similar names), then run this again. The tests start private servers of their own; none needs to run."
    } >&2
    exit 2
fi

echo "installing: ${missing[*]}"
# a server that its package would start takes a standard port of this machine: forbidden while we install
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    "${sudo[@]}" sh -c "printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy"
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" >/dev/null
