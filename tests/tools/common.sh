# shellcheck shell=bash
# What the scripts beside this one share. Sourced, never run.

# The directory where Debian's packages put the newest PostgreSQL server's programs. Fails when
# there is none.
debian_postgres_bin() {
    local postgres newest
    newest=$(for postgres in /usr/lib/postgresql/*/bin/postgres; do
        [[ -x $postgres ]] && echo "${postgres%/postgres}"
    done | sort -V | tail -n 1)
    [[ -n $newest ]] && echo "$newest"
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "$0: this needs root, and sudo is not installed: $*" >&2
        return 1
    fi
}
