#!/usr/bin/env bash
# The main job, from an empty directory to a recovered table: `make demo`.
#
# A PostgreSQL server under load, walvaultd streaming from it, a base backup, a table dropped by
# mistake, the server lost, and a restore to the instant before the mistake, checked row by row
# count. Ends in error when a single row is missing or too many. Leaves nothing running and nothing
# on disk, except for what it builds and for PostgreSQL's Debian package where that was missing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# --- Before the job: what it needs, built, in a directory of its own ------------------------------

prepare() {
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    "$root/tests/tools/setup.sh" postgresql
    (cd "$root" && cargo build --release --locked --bin walvault --bin walvaultd)

    demo=$(mktemp -d "${TMPDIR:-/tmp}/walvault-demo.XXXXXX")
    trap 'rm -rf "$demo"' EXIT
    chmod 755 "$demo"
    mkdir "$demo/bin" "$demo/home"
    # Where the checkout lies, the server's user may not reach.
    local target=${CARGO_TARGET_DIR:-$root/target}/release
    install -m 755 "$target/walvault" "$target/walvaultd" "$demo/bin"
    install -m 755 "$root"/tests/tools/{demo,common}.sh "$demo/bin"

    # PostgreSQL refuses to run as root.
    local as_server_user=()
    if [[ $(id -u) -eq 0 ]]; then
        chown postgres: "$demo/home"
        as_server_user=(setpriv --reuid=postgres --regid=postgres --init-groups)
    fi
    "${as_server_user[@]}" env HOME="$demo/home" TZ=UTC PATH="$demo/bin:$(debian_postgres_bin):$PATH" \
        "$demo/bin/demo.sh" job
}

# --- Saying what is done --------------------------------------------------------------------------

# Prints a command as a user would type it, and runs it.
run() {
    local word line=
    for word in "$@"; do
        [[ $word =~ ^[-a-zA-Z0-9_./=:]+$ ]] || word=${word@Q}
        line+="$word "
    done
    show "${line% }"
    "$@"
}

# To the terminal, wherever the command's own output goes.
exec 3>&1
show() { printf '\n$ %s\n' "$*" >&3; }
outcome() { printf '  => %s\n' "$*"; }
failure='a command failed'
fail() {
    failure=$*
    exit 1
}

# What psql answers, one value.
ask() { psql -XAtq -v ON_ERROR_STOP=1 -c "$1"; }

# wait_for WHAT COMMAND...: until the command succeeds.
wait_for() {
    local what=$1 deadline=$((SECONDS + 60))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what did not happen within a minute"
        sleep 0.1
    done
}

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# --- Leaving nothing running ----------------------------------------------------------------------

clean_up() {
    local status=$? lock
    # The load and walvaultd; those that ended are no longer jobs.
    { jobs -p | xargs --no-run-if-empty kill -KILL; } 2>/dev/null || true
    for lock in "$HOME"/{pg,restored}/postmaster.pid; do
        [[ ! -e $lock ]] || pg_ctl stop --pgdata "${lock%/*}" --mode immediate >/dev/null || true
    done
    wait
    # 130 and 143: it was told to stop.
    if [[ $status -ne 0 && $status -ne 130 && $status -ne 143 ]]; then
        tail -n 20 "$HOME"/{pg,restored,walvaultd}.log >&2 || true
        printf '\ndemo: FAILED: %s\n' "$failure" >&2
    fi
}

# --- The job --------------------------------------------------------------------------------------

streaming() {
    kill -0 "$daemon" 2>/dev/null || fail 'walvaultd ended'
    [[ $(ask "SELECT state FROM pg_stat_replication WHERE application_name = 'walvault'") == streaming ]]
}

# archived LSN: whether walvaultd has told PostgreSQL that it is.
archived() {
    [[ $(ask "SELECT flush_lsn >= '$1' FROM pg_stat_replication
        WHERE application_name = 'walvault'") == t ]]
}

promoted() { [[ $(ask 'SELECT pg_is_in_recovery()' 2>/dev/null) == f ]]; }

more_orders() { [[ $(ask 'SELECT count(*) FROM orders') -gt $1 ]]; }

job() {
    local begin=$EPOCHREALTIME
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    cd "$HOME"
    export PGHOST=$HOME PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
    echo "Everything happens in $HOME, as the user $(id -un)."

    start_server
    start_archiving
    back_up
    drop_table
    lose_server
    restore_table
    printf '\ndemo: every row is back, %s s after the first command.\n' "$(seconds_since "$begin")"
}

start_server() {
    cat >orders.sql <<'SQL'
CREATE TABLE orders (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note      text NOT NULL DEFAULT md5(random()::text)
);
SQL
    run initdb --pgdata pg --username postgres --auth trust --data-checksums --no-sync >initdb.log
    run pg_ctl start --pgdata pg --wait --log pg.log \
        --options "-k $HOME -c listen_addresses=" >pg_ctl.log
    outcome "$(postgres --version) runs, as process $(head -n 1 pg/postmaster.pid)"
    run pgbench --initialize --quiet --scale 5 >pgbench-init.log 2>&1
    outcome "pgbench made $(ask 'SELECT count(*) FROM pgbench_accounts') accounts"
    run psql -Xq -f orders.sql
    echo 'INSERT INTO orders DEFAULT VALUES;' >order.sql
    show 'pgbench --client 2 --builtin tpcb-like --file order.sql &'
    pgbench --no-vacuum --client 2 --time 300 --builtin tpcb-like@1 --file order.sql@2 \
        >load.log 2>&1 &
    wait_for 'the first orders' more_orders 200
    outcome "a database of $(ask 'SELECT pg_size_pretty(pg_database_size(current_database()))')" \
        "under load, $(ask 'SELECT count(*) FROM orders') orders so far"
}

start_archiving() {
    run walvault keys generate --out walvault.key
    outcome "a key that only $(stat -c '%U' walvault.key) can read (mode $(stat -c '%a' walvault.key))"
    cat >walvault.toml <<TOML
[postgres]
url = "postgresql://postgres@/postgres?host=$HOME&port=$PGPORT"

[archive]
url = "file://$HOME/archive"

[encryption]
key_file = "$HOME/walvault.key"
TOML
    run cat walvault.toml
    run mkdir archive
    show 'walvaultd run --config walvault.toml &'
    walvaultd run --config walvault.toml >walvaultd.log 2>&1 &
    daemon=$!
    wait_for 'streaming' streaming
    outcome "walvaultd streams, its slot is $(ask 'SELECT slot_name FROM pg_replication_slots')"
}

back_up() {
    local begun=$EPOCHREALTIME
    run walvaultd backup --config walvault.toml
    outcome "a base backup under load took $(seconds_since "$begun") s"
    wait_for 'more orders' more_orders $(($(ask 'SELECT count(*) FROM orders') + 1000))
    outcome "$(ask 'SELECT count(*) FROM orders') orders now"
}

# The lock waits for every order that is being placed; when it is held, all of them are committed
# and no other can be. So the count is exact, and true of the instant that is read after it.
drop_table() {
    local answer end
    show "psql -c 'DROP TABLE orders'"
    answer=$(
        psql -XAtq -v ON_ERROR_STOP=1 <<'SQL'
BEGIN;
LOCK TABLE orders IN ACCESS EXCLUSIVE MODE;
SELECT count(*), max(placed_at) FROM orders;
SELECT clock_timestamp();
DROP TABLE orders;
COMMIT;
SQL
    )
    IFS='|' read -r rows newest <<<"${answer%%$'\n'*}"
    before_drop=${answer##*$'\n'}
    outcome "dropped just after $before_drop, with $rows orders in it, the newest of $newest"
    end=$(ask 'SELECT pg_current_wal_flush_lsn()')
    wait_for "archiving up to $end" archived "$end"
    outcome "PostgreSQL was told that everything up to $end is archived"
}

lose_server() {
    run pg_ctl stop --pgdata pg --mode immediate >>pg_ctl.log
    run rm -rf pg
    run kill "$daemon"
    wait "$daemon" || fail "walvaultd ended with status $?"
    outcome "the server and its data are gone; the archive holds" \
        "$(du --bytes --summarize archive | cut -f 1) bytes"
    run walvault list --config walvault.toml
}

restore_table() {
    local begun=$EPOCHREALTIME found found_newest
    run walvault restore --config walvault.toml --pgdata restored \
        --target-time "$before_drop" --target-action promote
    run pg_ctl start --pgdata restored --wait --log restored.log \
        --options "-k $HOME -c listen_addresses=" >>pg_ctl.log
    wait_for 'the end of recovery' promoted
    outcome "restored and recovered in $(seconds_since "$begun") s"
    show "psql -c 'SELECT count(*), max(placed_at) FROM orders'"
    IFS='|' read -r found found_newest < <(ask 'SELECT count(*), max(placed_at) FROM orders') || true
    outcome "$found orders, the newest of $found_newest"
    [[ $found == "$rows" && $found_newest == "$newest" ]] ||
        fail "there were $rows orders, the newest of $newest"
    run pg_ctl stop --pgdata restored --mode fast >>pg_ctl.log
}

case ${1:-} in
'') prepare ;;
job) job ;;
*)
    echo "usage: $0" >&2
    exit 2
    ;;
esac
