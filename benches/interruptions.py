#!/usr/bin/env python3
"""How long PostgreSQL waits because walvaultd is there: after a kill, and when it is shut down. Both sides in one run.

Starts PostgreSQL 15 and Garage as benches/requests.py does; each request to Garage takes 30 ms longer.
Usage: benches/interruptions.py [--seconds 60] [--turns 3] [--only kill|stop] [--target target/release]
"""

import argparse
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time

import streaming
from requests import Far, Sidecar
from streaming import PG, Garage, Postgres, Process, as_user, run, wait_for

CLIENTS = "8"


def runs(pid):
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Bench:
    def __init__(self, home, arguments):
        self.home, self.arguments = home, arguments
        self.target = pathlib.Path(arguments.target).resolve()
        home.chmod(0o755)
        for part in ("pg", "garage"):
            (home / part).mkdir()
        self.postgres, self.garage = Postgres(home / "pg"), Garage(home / "garage")
        self.postgres.sql("create table t (id bigint generated always as identity, at timestamptz default now())")
        self.far = Far(self.garage.endpoint)
        self.key = home / "key"
        run([self.target / "walvault", "keys", "generate", "--out", self.key])
        self.script = home / "insert.sql"
        self.script.write_text("insert into t default values;\n")

    def start(self):
        """A start without waiting for it to answer."""
        self.postgres.process = Process(as_user([PG / "postgres", "-D", self.postgres.data]), self.postgres.home / "postgres.log")

    def answers(self):
        return self.postgres.try_sql("select 1") == "1"

    def sidecar(self, name):
        sidecar = Sidecar(self, name, far=True)
        wait_for("the stream", sidecar.streams)
        run([self.target / "walvaultd", "--config", sidecar.config, "backup"], env=self.garage.env)
        return sidecar

    def wait_for_archive(self, name):
        self.postgres.sql(f"alter system set synchronous_standby_names = '{name}'")
        self.postgres.sql("select pg_reload_conf()")

    def load(self, seconds):
        """Commits of eight clients, until the server is gone or so many seconds are over."""
        words = [PG / "pgbench", *self.postgres.arguments(), "-n", "-c", CLIENTS, "-j", "2", "-T", seconds, "-f", self.script, "postgres"]
        return Process(words, self.home / "pgbench.log")

    def killed(self):
        """Seconds from a kill's restart to the first answer, and to the first commit."""
        load = self.load(self.arguments.seconds + 60)
        time.sleep(self.arguments.seconds)
        postmaster = self.postgres.process.pid
        children = pathlib.Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        self.postgres.process.child.wait()
        load.child.wait()
        # A new postmaster refuses to start while a child of the old one holds its shared memory.
        wait_for("the children's end", lambda: not any(map(runs, children)))
        begun = time.monotonic()
        self.start()
        wait_for("an answer", self.answers)
        answered = time.monotonic() - begun
        wait_for("a commit", lambda: self.postgres.try_sql("insert into t default values") == "")
        return answered, time.monotonic() - begun

    def kill(self):
        sidecar = self.sidecar("killed")
        rows = []
        try:
            for turn in range(self.arguments.turns):
                self.wait_for_archive("walvault")
                wait_for("commits that wait", lambda: self.postgres.try_sql(
                    "select count(*) from pg_stat_replication where sync_state = 'sync'") == "1")
                answered, committed = self.killed()
                rows.append(committed - answered)
                print(f"kill {turn}: {answered:.2f} s to the first answer, {committed:.2f} s to the first commit"
                      f" that the archive has; {sidecar.tail()} objects in the newest segment", flush=True)
        finally:
            self.postgres.try_sql("alter system reset synchronous_standby_names")
            self.postgres.try_sql("select pg_reload_conf()")
            sidecar.process.end()
        print(f"{'a commit after a kill, above recovery':44}  {statistics.median(rows):6.2f} s  most {max(rows):.2f} s  aim <= 1.5 s", flush=True)

    def stopped(self, how):
        begun = time.monotonic()
        self.postgres.process.end(how)
        seconds = time.monotonic() - begun
        self.start()
        wait_for("PostgreSQL's start", self.answers)
        return seconds

    def stop(self):
        ways = {"smart": signal.SIGTERM, "fast": signal.SIGINT}
        without = {way: [] for way in ways}
        with_it = {way: [] for way in ways}
        for side, found in (("without", without), ("with", with_it)):
            sidecar = self.sidecar("stopped") if side == "with" else None
            for _ in range(self.arguments.turns):
                for way, how in ways.items():
                    if sidecar:
                        wait_for("the stream", sidecar.streams)
                    self.postgres.pgbench("-c", CLIENTS, "-j", "2", "-T", "5", "-f", self.script)
                    found[way].append(self.stopped(how))
            if sidecar:
                sidecar.process.end()
        for way in ways:
            ours, theirs = statistics.median(with_it[way]), statistics.median(without[way])
            print(f"{'a ' + way + ' shutdown with walvaultd':44}  {ours:6.2f} s  without {theirs:.2f} s;"
                  f" {ours - theirs:+.2f} s, aim <= 1 s more", flush=True)

    def end(self):
        self.postgres.end()
        self.garage.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="of synchronous commits before each kill")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=["kill", "stop"], action="append")
    parser.add_argument("--target", default=streaming.ROOT / "target/release")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            for part in arguments.only or ["stop", "kill"]:
                getattr(bench, part)()
        finally:
            bench.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
