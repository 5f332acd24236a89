#!/usr/bin/env python3
"""walvault and pgBackRest in turns, in one run, on this machine, both into a local directory: pgBackRest speaks to S3 by TLS alone.

Both compress with LZ4 and encrypt, walvault with AES-256-GCM, pgBackRest with AES-256-CBC; pgBackRest has two processes and its
asynchronous queues. Starts PostgreSQL 15 in a temporary directory, ends it by process id. Needs Debian's pgbackrest.
Usage: benches/pgbackrest.py [--gib 2] [--turns 3] [--only fetch|backup]
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import restore
from backup import fill, timed
from streaming import PG, ROOT, USER, Postgres, Process, as_user, run, wait_for

WALVAULT, WALVAULTD = ROOT / "target/release/walvault", ROOT / "target/release/walvaultd"


class Bench:
    def __init__(self, home, arguments):
        self.home, self.arguments, self.rows = home, arguments, []
        home.chmod(0o755)
        (home / "pg").mkdir()
        self.postgres = Postgres(home / "pg")
        self.conf = home / "pgbackrest.conf"
        paths = "".join(f"{key}={self.own(name)}\n" for key, name in
                        (("repo1-path", "repo"), ("spool-path", "spool"), ("lock-path", "locks"), ("log-path", "log")))
        self.conf.write_text(
            f"""[global]
{paths}repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=not-a-secret-in-a-benchmark
compress-type=lz4
process-max=2
archive-async=y
archive-push-queue-max=64GB
start-fast=y
log-level-console=warn
log-level-file=off
[bench]
pg1-path={self.postgres.data}
pg1-socket-path={self.postgres.sockets}
pg1-port={self.postgres.port}
pg1-user=postgres
"""
        )
        # Nothing is archived yet: segments wait.
        with open(self.postgres.data / "postgresql.conf", "a") as conf:
            conf.write("archive_mode = on\narchive_command = ''\nwal_keep_size = '64GB'\n")
        self.postgres.end()
        self.postgres.process = Process(as_user([PG / "postgres", "-D", self.postgres.data]), home / "pg/postgres.log")
        wait_for("PostgreSQL's start", lambda: self.postgres.try_sql("select 1") == "1")
        run(self.pgbackrest("stanza-create"))
        keys = self.own("keys")
        run(as_user([WALVAULT, "keys", "generate", "--out", keys / "key"]))
        self.config = home / "walvault.toml"
        self.config.write_text(
            f"""[postgres]
url = "postgresql://postgres@/postgres?host={self.postgres.sockets}&port={self.postgres.port}"
slot = "bench"
[archive]
url = "file://{self.own("archive")}"
[encryption]
key_file = "{keys}/key"
"""
        )
        self.config.chmod(0o644)

    def own(self, name):
        """A directory that belongs to the server's user."""
        path = self.home / name
        path.mkdir(mode=0o700)
        if USER:
            shutil.chown(path, USER)
        return path

    def pgbackrest(self, command, *arguments):
        return as_user(["pgbackrest", f"--config={self.conf}", "--stanza=bench", command, *arguments])

    def walvault(self, *arguments):
        return as_user([WALVAULT, "--config", self.config, *arguments])

    def walvaultd(self, *arguments):
        return as_user([WALVAULTD, "--config", self.config, *arguments])

    def say(self, figure, ours, theirs, ratio, bound=""):
        self.rows.append({"figure": figure, "walvault": ours, "against": f"pgBackRest: {theirs}", "ratio": ratio, "bound": bound})
        print(f"{figure:48}  {ours:24}  pgBackRest: {theirs:24}  {ratio:>6}  {bound}", flush=True)

    def seconds(self, figure, ours, theirs):
        ours, theirs = ([statistics.median(one[of] for one in side) for of in (0, 1)] for side in (ours, theirs))
        self.say(figure, f"{ours[0]:.2f} s, {ours[1]:.1f} CPU s", f"{theirs[0]:.2f} s, {theirs[1]:.1f} CPU s", f"{ours[0] / theirs[0]:.2f}")

    def archive_by(self, command, last):
        """Sets the archive_command and waits until it has taken the segment `last`."""
        self.postgres.sql(f"alter system set archive_command = '{command}'")
        self.postgres.sql("select pg_reload_conf()")
        archived = "select coalesce(last_archived_wal, '') from pg_stat_archiver"
        if last:
            wait_for("archiving", lambda: (self.postgres.try_sql(archived) or "") >= last, 600)

    def archive(self):
        """WAL that waits, until it is archived: of pgBackRest by archive_command, of walvault from the slot."""
        postgres = self.postgres
        # What filling it wrote is not part of it.
        before = postgres.sql("select pg_walfile_name(pg_switch_wal())")
        self.archive_by("/bin/true", before)
        self.archive_by("", None)
        postgres.sql("select pg_create_physical_replication_slot('bench', true)")
        self.begin = before
        start = postgres.sql("select pg_current_wal_lsn()")
        postgres.pgbench("-i", "-s", "10", "-q")
        while int(postgres.sql(f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')::bigint")) < self.arguments.gib * (1 << 30):
            postgres.pgbench("-c", "4", "-j", "2", "-t", "1000")
            postgres.sql("checkpoint")
        last = postgres.sql("select pg_walfile_name(pg_current_wal_lsn())")
        end = postgres.sql("select pg_switch_wal()")
        mib = int(postgres.sql(f"select pg_wal_lsn_diff('{end}', '{start}')::bigint")) / (1 << 20)
        begun = time.monotonic()
        sidecar = Process(self.walvaultd("run"), self.home / "walvaultd.log")
        flushed = f"select coalesce(bool_or(flush_lsn >= '{end}'), false) from pg_stat_replication"
        wait_for("walvault's archiving", lambda: postgres.try_sql(flushed) == "t", 600)
        ours = mib / (time.monotonic() - begun)
        sidecar.end()
        begun = time.monotonic()
        self.archive_by(f"pgbackrest --config={self.conf} --stanza=bench archive-push %p", last)
        theirs = mib / (time.monotonic() - begun)
        self.say(f"archiving {mib / 1024:.1f} GiB of WAL that waits", f"{ours:.0f} MiB/s", f"{theirs:.0f} MiB/s", f"{ours / theirs:.2f}")

    def backup(self):
        """Full backups, and their restores."""
        ours, theirs, our_restores, their_restores = [], [], [], []
        for turn in range(self.arguments.turns):
            theirs.append(timed(self.pgbackrest("backup", "--type=full", "--repo1-retention-full=1")))
            # Its WAL is brought by the sidecar, or by the backup itself, which nothing streams to now.
            ours.append(timed(self.walvaultd("backup")))
            os.sync()
            target = self.own(f"theirs{turn}")
            their_restores.append(timed(self.pgbackrest("restore", f"--pg1-path={target}", "--type=immediate")))
            shutil.rmtree(target)
            os.sync()
            target = self.own(f"ours{turn}")
            our_restores.append(timed(self.walvault("restore", "--pgdata", target, "--target-immediate")))
            shutil.rmtree(target)
        self.seconds("full backup into a directory, encrypted", ours, theirs)
        self.seconds("restoring it, decrypted, verified, flushed", our_restores, their_restores)

    def fetch(self):
        """Segments one after the other, a process each."""
        names = sorted(path.name for path in (self.postgres.data / "pg_wal").iterdir() if len(path.name) == 24)
        names = [name for name in names if name > self.begin][: self.arguments.segments]
        rates = {"ours": [], "theirs": []}
        for turn in range(self.arguments.turns):
            for side in ("theirs", "ours"):
                pg_wal = self.own(f"{side}-fetch{turn}") / "pg_wal"
                pg_wal.mkdir()
                if USER:
                    shutil.chown(pg_wal, USER)
                command = self.walvault("wal-fetch") if side == "ours" else self.pgbackrest("archive-get")
                begun = time.monotonic()
                for name in names:
                    run([*command, name, pg_wal / "RECOVERYXLOG"])
                    (pg_wal / "RECOVERYXLOG").rename(pg_wal / name)
                rates[side].append(len(names) / (time.monotonic() - begun))
                for helper in restore.Bench.helpers(pg_wal):
                    os.kill(helper, signal.SIGTERM)
                wait_for("the helper's end", lambda: not restore.Bench.helpers(pg_wal))
                run(["rm", "-rf", self.home / "spool/archive"])
                shutil.rmtree(pg_wal.parent)
        ours, theirs = statistics.median(rates["ours"]), statistics.median(rates["theirs"])
        self.say("segments a second, one process each", f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2, help="of WAL, and of files")
    parser.add_argument("--segments", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", choices=["fetch", "backup"], action="append", help="after archiving, which both need")
    arguments = parser.parse_args()
    if not shutil.which("pgbackrest"):
        sys.exit("there is no pgbackrest; on Debian, 'apt-get install pgbackrest' brings it")
    with tempfile.TemporaryDirectory(prefix="walvault-bench-") as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            fill(bench.postgres, bench.home, arguments.gib)
            bench.archive()
            # pgBackRest removes WAL from before its oldest backup.
            for part in arguments.only or ["fetch", "backup"]:
                getattr(bench, part)()
        finally:
            bench.postgres.end()
        if arguments.json:
            arguments.json.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
