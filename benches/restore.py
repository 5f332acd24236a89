#!/usr/bin/env python3
"""The restore's figures: both sides of every ratio, in one run, on this machine.

Starts PostgreSQL 15 and Garage in a temporary directory on free ports, ends them by process id.
Usage: benches/restore.py [--scale 150] [--gib 2] [--turns 3] [--only base|fetch|replay]
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from streaming import PG, ROOT, TICKS, USER, cpu_of, Garage, Postgres, Process, Sidecar, as_user, run, wait_for

WALVAULT = ROOT / "target/release/walvault"


class Timed:
    """How long a command took, and the most memory it had."""

    def __init__(self, command, env=None, shell=False):
        begun = time.monotonic()
        words = command if shell else [str(word) for word in command]
        child = subprocess.Popen(words, env=env, shell=shell, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        self.seconds = time.monotonic() - begun
        self.peak = usage.ru_maxrss / 1024
        self.cpu = usage.ru_utime + usage.ru_stime
        if status != 0:
            sys.exit(f"{command} failed:\n{errors.decode()}")


def busy():
    """The CPU seconds of all cores until now that were not idle."""
    words = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(words) - words[3] - words[4]) / TICKS


class Bench:
    def __init__(self, home, arguments):
        self.home, self.arguments, self.rows = home, arguments, []
        home.chmod(0o755)
        (home / "pg").mkdir()
        (home / "garage").mkdir()
        self.postgres, self.garage = Postgres(home / "pg"), Garage(home / "garage")
        self.postgres.sql("alter system set wal_keep_size = '64GB'")
        self.postgres.sql("select pg_reload_conf()")
        self.key = home / "key"
        run(as_user([WALVAULT, "keys", "generate", "--out", self.own("keys") / "key"]))
        self.key = home / "keys/key"
        self.sidecar = Sidecar(self, "restored")
        if USER:
            shutil.chown(self.sidecar.config, USER)
        self.sidecar.config.chmod(0o644)

    def own(self, name):
        """A directory that belongs to the server's user."""
        path = self.home / name
        path.mkdir(mode=0o700)
        if USER:
            shutil.chown(path, USER)
        return path

    def say(self, figure, ours, theirs, ratio, bound):
        self.rows.append({"figure": figure, "walvault": ours, "against": theirs, "ratio": ratio, "bound": bound})
        print(f"{figure:60}  {ours:30}  {theirs:44}  {ratio:>8}  {bound}", flush=True)

    def walvault(self, *arguments):
        return as_user([WALVAULT, "--config", self.sidecar.config, *arguments])

    def fill(self):
        """A base backup of realistic rows, and WAL after it, in the archive."""
        postgres = self.postgres
        postgres.pgbench("-i", "-s", str(self.arguments.scale), "-q")
        self.sidecar.start()
        command = [ROOT / "target/release/walvaultd", "--config", self.sidecar.config, "backup"]
        run(command, env=self.garage.env)

    def write_wal(self):
        postgres = self.postgres
        self.begin = postgres.sql("select pg_walfile_name(pg_switch_wal())")
        start = postgres.sql("select pg_current_wal_lsn()")
        while int(postgres.sql(f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')::bigint")) < self.arguments.gib << 30:
            postgres.pgbench("-c", "4", "-j", "2", "-t", "1000")
            postgres.sql("checkpoint")
        # A record behind the last transaction, so that there is something to stop at.
        self.target = postgres.sql("select pg_current_wal_lsn()")
        postgres.pgbench("-c", "1", "-t", "10")
        end = postgres.sql("select pg_switch_wal()")
        wait_for("archiving", lambda: self.sidecar.flushed(end), 600)
        time.sleep(1)

    def segments(self):
        names = sorted(path.name for path in (self.postgres.data / "pg_wal").iterdir() if len(path.name) == 24)
        last = self.postgres.sql("select pg_walfile_name(pg_current_wal_lsn())")
        return [name for name in names if self.begin < name < last]

    def base(self):
        """A base backup from S3, decrypted, verified and flushed, against unpacking a local file."""
        plain = self.own("plain")
        run(as_user([PG / "pg_basebackup", *self.postgres.arguments(), "-D", plain, "-Ft", "-X", "none", "-c", "fast"]))
        run(["lz4", "-q", "--rm", plain / "base.tar", plain / "base.tar.lz4"])
        peaks = []
        for cache in ["warm", "cold", "full"]:
            unpacked, restored = [], []
            for turn in range(self.arguments.turns):
                self.prepare(cache, plain)
                target = self.home / "unpacked"
                target.mkdir()
                unpacked.append(Timed(f"lz4 -dc {plain}/base.tar.lz4 | tar x -C {target}", shell=True))
                shutil.rmtree(target)
                self.prepare(cache, plain)
                target = self.own("restored")
                restored.append(Timed(self.walvault("restore", "--pgdata", target, "--target-immediate"), self.garage.env))
                size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
                shutil.rmtree(target)
                print(f"  {cache} cache, turn {turn}: lz4|tar {unpacked[-1].seconds:.2f} s, walvault {restored[-1].seconds:.2f} s "
                      f"({restored[-1].cpu:.2f} s of CPU)", flush=True)
            peaks += [one.peak for one in restored]
            # Nobody restores a second time: the first run counts where the cache is made what it is.
            of = statistics.median if cache == "warm" else lambda seconds: next(iter(seconds))
            theirs, ours = (of([one.seconds for one in runs]) for runs in (unpacked, restored))
            first = "" if cache == "warm" else f", first run on a {cache} page cache"
            self.say(f"restoring {size / (1 << 30):.1f} GiB from S3, decrypted, verified, flushed{first}", f"{ours:.2f} s",
                     f"lz4 -dc | tar x, local, not flushed: {theirs:.2f} s", f"{ours / theirs:.2f}", "<= 0.75")
        self.say("peak memory of restore", f"{max(peaks):.0f} MiB", "", "", "<= 160 MiB")

    def prepare(self, cache, plain):
        """Brings the page cache to a state: what is unpacked in it, nothing, or nothing but another file's pages."""
        os.sync()
        if cache == "warm":
            # Not into this process: its children would begin with its memory.
            run(["sh", "-c", f"cat {plain}/base.tar.lz4 > /dev/null"])
            return
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        if cache == "full":
            memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) << 10
            other = self.home / "other"
            with open(other, "wb") as file:
                file.truncate(memory)
            run(["sh", "-c", f"cat {other} > /dev/null"])

    def fetch(self):
        """Segments one after the other through wal-fetch, a process each."""
        rates, peaks, helpers = [], [], []
        for turn in range(self.arguments.turns):
            pg_wal = self.own(f"fetch{turn}") / "pg_wal"
            pg_wal.mkdir()
            if USER:
                shutil.chown(pg_wal, USER)
            names = self.segments()[: self.arguments.segments]
            begun = time.monotonic()
            for name in names:
                one = Timed(self.walvault("wal-fetch", name, pg_wal / "RECOVERYXLOG"), self.garage.env)
                peaks.append(one.peak)
            rates.append(len(names) / (time.monotonic() - begun))
            for helper in self.helpers(pg_wal):
                status = pathlib.Path(f"/proc/{helper}/status").read_text()
                helpers.append(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)
                os.kill(helper, signal.SIGTERM)
            print(f"  turn {turn}: {rates[-1]:.1f} segments/s", flush=True)
            wait_for("the helper's end", lambda: not self.helpers(pg_wal))
            shutil.rmtree(pg_wal.parent)
        self.say("segments a second through wal-fetch, one process each, S3", f"{statistics.median(rates):.1f}", "", "", ">= 25")
        self.say("peak memory of wal-fetch / of its helper", f"{max(peaks):.0f} MiB / {max(helpers):.0f} MiB", "", "", "<= 64 MiB")

    @staticmethod
    def helpers(directory):
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"wal-prefetch" in words and any(word.startswith(bytes(directory)) for word in words):
                    found.append(int(entry.name))
        return found

    def replay(self):
        """The same WAL replayed through restore_command and from pg_wal. And by restore_commands that take segments that lie
        on the same disk already: `mv`, since less no command can do, and `cp`, which writes them as whoever fetches must."""
        fetched, local, renamed, copied = [], [], [], []
        ways = [("remote", "walvault", fetched), ("local", "pg_wal", local), ("renamed", "mv", renamed), ("copied", "cp", copied)]
        for turn in range(self.arguments.turns):
            # Another comes first in each turn: on a virtual machine whoever does may have the host find memory for it.
            first = turn % len(ways)
            for name, way, times in ways[first:] + ways[:first]:
                times.append(self.recover(f"{name}{turn}", way))
            print(f"  turn {turn}: wal-fetch {fetched[-1]:.2f} s, pg_wal {local[-1]:.2f} s, mv {renamed[-1]:.2f} s, "
                  f"cp {copied[-1]:.2f} s", flush=True)
        ours, theirs = statistics.median(fetched), statistics.median(local)
        self.say(f"replaying {self.arguments.gib} GiB of archived WAL through restore_command", f"{ours:.1f} s",
                 f"from a local pg_wal: {theirs:.1f} s", f"{ours / theirs:.2f}", "<= 1.05")
        for command, times in [("mv", renamed), ("cp", copied)]:
            other = statistics.median(times)
            self.say(f"  with '{command}' of segments on the same disk", "", f"{other:.1f} s, {other / theirs:.2f} of pg_wal's", "", "")

    def recover(self, name, way):
        data = self.home / name
        run(self.walvault("restore", "--pgdata", self.own(name), "--target-lsn", self.target, "--target-action", "shutdown"),
            env=self.garage.env)
        if way != "walvault":
            there = data / "pg_wal" if way == "pg_wal" else self.own(f"{name}-waiting")
            with open(data / "postgresql.auto.conf", "a") as conf:
                conf.write("restore_command = 'false'\n" if way == "pg_wal" else f"restore_command = '{way} {there}/%f %p'\n")
            for segment in (self.postgres.data / "pg_wal").iterdir():
                if len(segment.name) == 24:
                    shutil.copy(segment, there)
                    if USER:
                        shutil.chown(there / segment.name, USER)
        os.sync()
        log = self.home / f"{name}.log"
        settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={data}", "-c", "shared_buffers=512MB"]
        begun, garage, all_of_it = time.monotonic(), cpu_of(self.garage.process.pid), busy()
        server = Process(as_user([PG / "postgres", "-D", data, *settings]), log, self.garage.env)
        server.child.wait(timeout=900)
        seconds = time.monotonic() - begun
        helpers = sum(cpu_of(helper) for helper in self.helpers(data))
        print(f"    {name}: {seconds:.2f} s; CPU: garage {cpu_of(self.garage.process.pid) - garage:.2f}, helper {helpers:.2f}, "
              f"everything {busy() - all_of_it:.2f} s", flush=True)
        if "recovery stopping after" not in log.read_text():
            sys.exit(f"recovery failed:\n{log.read_text()}")
        for helper in self.helpers(data):
            os.kill(helper, signal.SIGTERM)
        wait_for("the helper's end", lambda: not self.helpers(data))
        for used in [data, self.home / f"{name}-waiting"]:
            shutil.rmtree(used, ignore_errors=True)
        return seconds

    def end(self):
        self.sidecar.end()
        self.postgres.end()
        self.garage.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=155, help="of pgbench; 155 makes 2.3 GiB")
    parser.add_argument("--gib", type=int, default=2, help="of WAL")
    parser.add_argument("--segments", type=int, default=100, help="to fetch")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", choices=["base", "fetch", "replay"], action="append")
    arguments = parser.parse_args()
    parts = arguments.only or ["base", "fetch", "replay"]
    with tempfile.TemporaryDirectory(prefix="walvault-bench-") as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            bench.fill()
            if "base" in parts:
                bench.base()
            if "fetch" in parts or "replay" in parts:
                bench.write_wal()
            for part in parts:
                if part != "base":
                    getattr(bench, part)()
        finally:
            bench.end()
        if arguments.json:
            arguments.json.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
