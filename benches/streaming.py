#!/usr/bin/env python3
"""The streaming engine's figures: both sides of every ratio, in one run, on this machine.

Starts PostgreSQL 15 and Garage in a temporary directory on free ports, ends them by process id.
Usage: benches/streaming.py [--gib 2] [--seconds 15]
"""

import argparse
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PG = pathlib.Path("/usr/lib/postgresql/15/bin")
CACHE = pathlib.Path(os.environ.get("WALVAULT_CACHE") or pathlib.Path.home() / ".cache/walvault")
GARAGE = CACHE / "garage/bin/garage"
USER = "postgres" if os.getuid() == 0 else None
TICKS = os.sysconf("SC_CLK_TCK")
# Two status intervals: by then what the sidecar holds of the segment under way is packed.
IDLE_SECONDS = 25


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_user(command):
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *command] if USER else command


def wait_for(what, condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    sys.exit(f"{what} did not happen within {seconds} s")


def cpu_of(pid):
    """The CPU seconds of a process until now, without those of its children."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Process:
    """A child whose CPU seconds and peak memory the kernel tells."""

    def __init__(self, command, log, env=None):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
            )
        self.pid = self.child.pid

    def cpu(self):
        return cpu_of(self.pid)

    def memory(self, field):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        return 0.0

    def end(self, how=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(how)
            self.child.wait(timeout=60)


class Postgres:
    def __init__(self, home):
        self.home, self.port = home, free_port()
        self.data, self.sockets = home / "data", home / "sockets"
        self.sockets.mkdir()
        if USER:
            shutil.chown(home, USER)
            shutil.chown(self.sockets, USER)
        run(as_user([PG / "initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-k"]))
        settings = {
            "port": self.port,
            "listen_addresses": "''",
            "unix_socket_directories": f"'{self.sockets}'",
            "max_wal_size": "16GB",
            "checkpoint_timeout": "1h",
            "shared_buffers": "512MB",
            "max_connections": 200,
        }
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.writelines(f"{key} = {value}\n" for key, value in settings.items())
        self.process = Process(as_user([PG / "postgres", "-D", self.data]), home / "postgres.log")
        wait_for("PostgreSQL's start", lambda: self.try_sql("select 1") == "1")

    def arguments(self):
        return ["-h", self.sockets, "-p", self.port, "-U", "postgres"]

    def try_sql(self, sql):
        command = [PG / "psql", *self.arguments(), "-XAtqc", sql, "postgres"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def sql(self, sql):
        answer = self.try_sql(sql)
        if answer is None:
            sys.exit(f"'{sql}' failed")
        return answer

    def pgbench(self, *arguments):
        return run([PG / "pgbench", *self.arguments(), "-n", *arguments, "postgres"])

    def end(self):
        self.process.end(signal.SIGINT)


class Standby(Postgres):
    """A standby of a server, with settings of its own."""

    def __init__(self, home, primary):
        self.home, self.port = home, free_port()
        self.data, self.sockets = home / "data", home / "sockets"
        self.sockets.mkdir()
        if USER:
            shutil.chown(home, USER)
            shutil.chown(self.sockets, USER)
        run(as_user([PG / "pg_basebackup", "-D", self.data, "-R", "-c", "fast", *primary.arguments()]))
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"port = {self.port}\nunix_socket_directories = '{self.sockets}'\n")
        self.process = Process(as_user([PG / "postgres", "-D", self.data]), home / "postgres.log")
        wait_for("the standby's start", lambda: self.try_sql("select 1") == "1")


class Garage:
    def __init__(self, home):
        self.home = home
        ports = [free_port() for _ in range(3)]
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        self.conf = home / "garage.toml"
        self.conf.write_text(
            # What it is given is compressed and encrypted already (docs/performance.md).
            f"""metadata_dir = "{home}/meta"
data_dir = "{home}/objects"
compression_level = "none"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{ports[1]}"
rpc_secret = "{'7' * 64}"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{ports[0]}"
[admin]
api_bind_addr = "127.0.0.1:{ports[2]}"
"""
        )
        self.process = Process([GARAGE, "-c", self.conf, "server"], home / "garage.log", {**os.environ, "RUST_LOG": "warn"})
        wait_for("Garage's start", lambda: self.cli("status") is not None)
        node = self.must("node", "id", "-q").strip().split("@")[0]
        self.must("layout", "assign", "-z", "here", "-c", "100G", node)
        self.must("layout", "apply", "--version", "1")
        self.must("bucket", "create", "bench")
        key = self.must("key", "create", "bench")
        words = [line.split() for line in key.splitlines()]
        self.key_id = next(line[-1] for line in words if line[:2] == ["Key", "ID:"])
        secret = next(line[-1] for line in words if line[:2] == ["Secret", "key:"])
        self.must("bucket", "allow", "--read", "--write", "--owner", "bench", "--key", self.key_id)
        self.env = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def cli(self, *arguments):
        command = [str(GARAGE), "-c", str(self.conf), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def must(self, *arguments):
        """A node answers before its layout has settled: what it refuses at first, it does a moment later."""
        answers = []
        wait_for(f"garage {' '.join(arguments)}", lambda: answers.append(self.cli(*arguments)) or answers[-1] is not None, 20)
        return answers[-1]

    def end(self):
        self.process.end()


def run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


class Sidecar:
    """walvaultd run, into a prefix of its own, from a slot of its own."""

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.config = bench.home / f"{name}.toml"
        self.port = free_port()
        self.config.write_text(
            f"""[postgres]
url = "postgresql://postgres@/postgres?host={bench.postgres.sockets}&port={bench.postgres.port}"
slot = "{name}"
[archive]
url = "s3://bench/{name}"
[archive.s3]
endpoint = "{bench.garage.endpoint}"
region = "garage"
path_style = true
[encryption]
key_file = "{bench.key}"
[admin]
listen = "127.0.0.1:{self.port}"
"""
        )
        self.process = None

    def start(self):
        command = [ROOT / "target/release/walvaultd", "--config", self.config, "run"]
        self.process = Process(command, self.bench.home / f"{self.name}.log", self.bench.garage.env)

    def flushed(self, lsn):
        sql = f"select coalesce(bool_or(flush_lsn >= '{lsn}'), false) from pg_stat_replication where pid = " \
              f"(select active_pid from pg_replication_slots where slot_name = '{self.name}')"
        return self.bench.postgres.try_sql(sql) == "t"

    def end(self):
        if self.process:
            self.process.end()


class Bench:
    def __init__(self, home, arguments):
        self.home, self.arguments = home, arguments
        home.chmod(0o755)
        (home / "pg").mkdir()
        (home / "garage").mkdir()
        self.postgres, self.garage = Postgres(home / "pg"), Garage(home / "garage")
        # Idle is a server that writes nothing, not one that cleans up after pgbench.
        self.postgres.sql("alter system set autovacuum = off")
        self.postgres.sql("select pg_reload_conf()")
        self.key = home / "key"
        run([ROOT / "target/release/walvault", "keys", "generate", "--out", self.key])
        self.rows = []

    def say(self, figure, ours, theirs, ratio, bound):
        row = {"figure": figure, "walvault": ours, "against": theirs, "ratio": ratio, "bound": bound}
        self.rows.append(row)
        print(f"{figure:58}  {ours:24}  {theirs:36}  {ratio:>8}  {bound}", flush=True)

    def drain(self):
        """Retained WAL into S3, sealed, against pg_receivewal writing plain local files."""
        postgres, gib = self.postgres, self.arguments.gib
        for slot in ("drain_a", "drain_b", "plain_a", "plain_b"):
            postgres.sql(f"select pg_create_physical_replication_slot('{slot}', true)")
        start = postgres.sql("select pg_current_wal_lsn()")
        postgres.pgbench("-i", "-s", "10", "-q")
        while int(postgres.sql(f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')::bigint")) < gib << 30:
            postgres.pgbench("-c", "4", "-j", "2", "-t", "1000")
            postgres.sql("checkpoint")
        end = postgres.sql("select pg_switch_wal()")
        written = int(postgres.sql(f"select pg_wal_lsn_diff('{end}', '{start}')::bigint"))
        plain, sealed, cpu, peak, calm = [], [], [], [], []
        for turn in ("a", "b"):
            target = self.home / f"plain-{turn}"
            target.mkdir()
            command = [PG / "pg_receivewal", *postgres.arguments(), "-D", target, "--slot", f"plain_{turn}",
                       "--no-loop", "--endpos", end]
            begun = time.monotonic()
            run(command)
            plain.append(time.monotonic() - begun)
            shutil.rmtree(target)
            sidecar = Sidecar(self, f"drain_{turn}")
            begun = time.monotonic()
            sidecar.start()
            wait_for("the drain", lambda: sidecar.flushed(end), 600)
            sealed.append(time.monotonic() - begun)
            cpu.append(sidecar.process.cpu() / (written / (1 << 30)))
            peak.append(sidecar.process.memory("VmHWM"))
            time.sleep(IDLE_SECONDS)
            calm.append(sidecar.process.memory("VmRSS"))
            sidecar.end()
            postgres.sql(f"select pg_drop_replication_slot('drain_{turn}'), pg_drop_replication_slot('plain_{turn}')")
        mib = written / (1 << 20)
        ours, theirs = mib / statistics.median(sealed), mib / statistics.median(plain)
        self.say(f"drain {mib / 1024:.1f} GiB of retained WAL into S3", f"{ours:.0f} MiB/s",
                 f"pg_receivewal, plain files: {theirs:.0f} MiB/s", f"{ours / theirs:.2f}", ">= 1.0")
        self.say("CPU seconds per GiB in that drain", f"{statistics.median(cpu):.2f}", "", "", "<= 4.0")
        self.say("peak memory in that drain", f"{max(peak):.0f} MiB", "", "", "<= 160 MiB")
        self.say(f"memory {IDLE_SECONDS} s after that drain", f"{max(calm):.0f} MiB", "", "", "<= 30 MiB")

    def metrics(self):
        """How long /metrics takes to answer while retained WAL is archived as fast as it goes."""
        postgres, gib = self.postgres, self.arguments.gib
        postgres.sql("select pg_create_physical_replication_slot('metrics', true)")
        start = postgres.sql("select pg_current_wal_lsn()")
        postgres.pgbench("-i", "-s", "10", "-q")
        while int(postgres.sql(f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')::bigint")) < gib << 30:
            postgres.pgbench("-c", "4", "-j", "2", "-t", "1000")
            postgres.sql("checkpoint")
        end = postgres.sql("select pg_switch_wal()")
        sidecar = Sidecar(self, "metrics")
        sidecar.start()
        wait_for("the stream", lambda: postgres.try_sql("select count(*) from pg_stat_replication") == "1")
        asked, looked = [], 0.0
        while True:
            begun = time.monotonic()
            # A connection each, as a scrape after a minute's pause has.
            connection = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=10)
            connection.request("GET", "/metrics")
            size = len(connection.getresponse().read())
            now = time.monotonic()
            connection.close()
            asked.append((now - begun) * 1000)
            if now - looked > 0.5:
                looked = now
                if sidecar.flushed(end):
                    break
            time.sleep(0.02)
        asked.sort()
        p50, p99 = asked[len(asked) // 2], asked[len(asked) * 99 // 100]
        self.say(f"/metrics, {size} bytes, during a drain ({len(asked)} times)", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", "", "", "<= 5 ms")
        sidecar.end()
        postgres.sql("select pg_drop_replication_slot('metrics')")

    def catch_up(self, sidecar):
        now = self.postgres.sql("select pg_current_wal_flush_lsn()")
        wait_for("catching up", lambda: sidecar.flushed(now))

    def idle(self):
        sidecar = Sidecar(self, "idle")
        sidecar.start()
        self.catch_up(sidecar)
        time.sleep(IDLE_SECONDS)
        self.say("memory when idle", f"{sidecar.process.memory('VmRSS'):.0f} MiB", "", "", "<= 30 MiB")
        sidecar.end()
        self.postgres.sql("select pg_drop_replication_slot('idle')")

    def asynchronous(self):
        """How long a commit is not restorable yet, under the default configuration."""
        postgres, seconds = self.postgres, self.arguments.seconds
        postgres.pgbench("-i", "-s", "20", "-q")
        sidecar = Sidecar(self, "lag")
        sidecar.start()
        self.catch_up(sidecar)
        command = [PG / "pgbench", *postgres.arguments(), "-n", "-c", 16, "-j", 2, "-T", seconds, "postgres"]
        load = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        sql = "select pg_current_wal_flush_lsn() - '0/0'::pg_lsn, flush_lsn - '0/0'::pg_lsn from pg_stat_replication " \
              "where application_name = 'walvault'\n"
        session = subprocess.Popen(
            [str(word) for word in [PG / "psql", *postgres.arguments(), "-XAtq", "postgres"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        waiting, lags = [], []
        while load.poll() is None:
            session.stdin.write(sql.strip() + ";\n")
            session.stdin.flush()
            now_lsn, flushed = (int(word) for word in session.stdout.readline().split("|"))
            now = time.monotonic()
            waiting.append((now_lsn, now))
            while waiting and waiting[0][0] <= flushed:
                lags.append(now - waiting.pop(0)[1])
            time.sleep(0.01)
        session.stdin.close()
        session.wait()
        load.communicate()
        lags.sort()
        p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
        self.say("commit to restorable from S3, 16 clients", f"p50 {p50:.2f} s, p99 {p99:.2f} s", "", "", "p99 <= 1.2 s")
        sidecar.end()
        postgres.sql("select pg_drop_replication_slot('lag')")

    def synchronous(self):
        postgres, seconds = self.postgres, str(self.arguments.seconds)
        sidecar = Sidecar(self, "sync")
        sidecar.start()
        # pgbench's own advice: a scale of at least the number of clients, or they wait for each other's rows.
        postgres.pgbench("-i", "-s", "100", "-q")
        script = self.home / "insert.sql"
        postgres.sql("create table commits (id bigserial primary key, at timestamptz default clock_timestamp())")
        script.write_text("insert into commits default values;\n")

        def tps(clients):
            report = postgres.pgbench("-c", clients, "-j", "2", "-T", seconds)
            return float(next(line for line in report.splitlines() if line.startswith("tps")).split()[2])

        def single_client(prefix):
            postgres.pgbench("-c", "1", "-T", seconds, "-f", script, "-l", "--log-prefix", self.home / prefix)
            lines = [line for log in self.home.glob(f"{prefix}.*") for line in log.read_text().splitlines()]
            return statistics.median(int(line.split()[2]) / 1000 for line in lines)

        postgres.sql("checkpoint")
        self.catch_up(sidecar)
        local = single_client("local")
        before_sync = tps(64)
        postgres.sql("alter system set synchronous_standby_names = 'walvault'")
        postgres.sql("select pg_reload_conf()")
        wait_for("synchronous mode", lambda: postgres.sql(
            "set synchronous_commit = local; select sync_state from pg_stat_replication") == "sync")
        wait_for("the sidecar's notice", lambda: "commits wait" in sidecar.process.log_text(), 30)
        before = sidecar.process.cpu(), self.garage.process.cpu()
        on = tps(64)
        commits = on * self.arguments.seconds / 1e6
        spent = [(now - then) / commits for now, then in zip((sidecar.process.cpu(), self.garage.process.cpu()), before)]
        self.say("CPU microseconds per synchronous commit", f"{spent[0]:.0f}", f"Garage: {spent[1]:.0f}", "", "")
        durable = single_client("durable")
        put = json.loads(run(
            [ROOT / "target/release/put-latency", sidecar.config, "1300", "400"], env=self.garage.env))
        postgres.sql("alter system reset synchronous_standby_names")
        postgres.sql("select pg_reload_conf()")
        off = (before_sync + tps(64)) / 2
        self.say("synchronous over asynchronous throughput, 64 clients", f"{on:.0f} tps", f"asynchronous: {off:.0f} tps",
                 f"{on / off:.2f}", ">= 0.6")
        self.say("single-client synchronous commit, archive in S3", f"p50 {durable:.1f} ms",
                 f"one PUT of {put['size']} bytes: p50 {put['p50_ms']:.1f} ms", f"{durable / put['p50_ms']:.2f}", "<= 2")
        self.say("of which the server's own commit", f"p50 {local:.1f} ms", "", "", "")
        sidecar.end()

    def end(self):
        self.postgres.end()
        self.garage.end()


Process.log_text = lambda self: pathlib.Path(self.log).read_text(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", choices=["drain", "metrics", "idle", "asynchronous", "synchronous"], action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walvault-bench-") as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            for part in arguments.only or ["drain", "metrics", "idle", "asynchronous", "synchronous"]:
                getattr(bench, part)()
        finally:
            bench.end()
        if arguments.json:
            arguments.json.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
