#!/usr/bin/env python3
"""What each way of working costs in requests, counted by walvaultd itself, and in dollars at S3's prices.

Starts PostgreSQL 15 and Garage as benches/streaming.py does. Each part runs for some minutes; a day is the same again
and again. Usage: benches/requests.py [--minutes 2] [--target target/release]
"""

import argparse
import pathlib
import re
import sys
import tempfile
import threading
import time
import urllib.request

import streaming
from streaming import Garage, Postgres, Process, free_port, run, wait_for

# us-east-1, S3 Standard, per request (https://aws.amazon.com/s3/pricing/). DELETE is free.
PRICES = {"put": 5e-6, "list": 5e-6, "get": 4e-7, "head": 4e-7, "delete": 0.0}
DAY, MONTH = 86400, 30


class Sidecar:
    """walvaultd run, with what it has counted."""

    def __init__(self, bench, name, wal=""):
        self.port, config = free_port(), bench.home / f"{name}.toml"
        config.write_text(
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
[wal]
{wal}
"""
        )
        self.config, self.bench, self.name = config, bench, name
        self.process = Process([bench.target / "walvaultd", "--config", config, "run"], bench.home / f"{name}.log", bench.garage.env)

    def counted(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        pattern = r'^walvault_store_request_seconds_count\{operation="(\w+)"\} (\d+)$'
        found = dict(re.findall(pattern, text, re.M))
        # Each 1000 bytes of sealed WAL, and of WAL.
        sizes = {name: float(re.search(rf"^{name} (\S+)$", text, re.M)[1])
                 for name in ("walvault_wal_received_bytes_total", "walvault_wal_stored_bytes_total")}
        return {operation: int(found.get(operation, 0)) for operation in PRICES}, *sizes.values()

    def streams(self):
        sql = f"select active from pg_replication_slots where slot_name = '{self.name}'"
        return self.bench.postgres.try_sql(sql) == "t"


class Bench:
    def __init__(self, home, arguments):
        self.home, self.seconds = home, arguments.minutes * 60
        self.target = pathlib.Path(arguments.target).resolve()
        home.chmod(0o755)
        for part in ("pg", "garage"):
            (home / part).mkdir()
        self.postgres, self.garage = Postgres(home / "pg"), Garage(home / "garage")
        self.postgres.sql("create table t (id bigint generated always as identity, at timestamptz default now())")
        self.key = home / "key"
        run([self.target / "walvault", "keys", "generate", "--out", self.key])

    def measure(self, name, work, wal="", backup=True):
        sidecar = Sidecar(self, name, wal)
        try:
            wait_for("the stream", sidecar.streams)
            if backup:
                run([self.target / "walvaultd", "--config", sidecar.config, "backup"], env=self.garage.env)
            time.sleep(5)
            before, received, stored = sidecar.counted()
            over = threading.Event()
            worker = threading.Thread(target=work, args=(over,))
            worker.start()
            time.sleep(self.seconds)
            after, received_after, stored_after = sidecar.counted()
            over.set()
            worker.join()
        finally:
            sidecar.process.end()
        a_day = {operation: (after[operation] - before[operation]) * DAY / self.seconds for operation in PRICES}
        dollars = sum(count * PRICES[operation] for operation, count in a_day.items()) * MONTH
        cells = "  ".join(f"{operation} {count:>9.0f}" for operation, count in a_day.items())
        wal_bytes = received_after - received
        ratio = (stored_after - stored) / wal_bytes if wal_bytes else 0.0
        print(f"{name:24}  {cells}  ${dollars:8.2f}/month  {wal_bytes / self.seconds / 1024:7.1f} kB/s of WAL, {ratio:.2f} stored",
              flush=True)

    def idle(self, over):
        over.wait()

    def trickle(self, over):
        while not over.wait(1):
            self.postgres.sql("insert into t default values")

    def busy(self, over):
        script = self.home / "insert.sql"
        script.write_text("insert into t default values;\n")
        while not over.is_set():
            self.postgres.pgbench("-c", "8", "-j", "2", "-T", "10", "-R", "100", "-f", script)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--target", default=streaming.ROOT / "target/release")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            bench.measure("idle", bench.idle)
            bench.measure("trickle", bench.trickle)
            bench.measure("trickle_1min", bench.trickle, 'max_delay = "1min"')
            bench.measure("busy", bench.busy)
            sql = bench.postgres.sql
            sql("alter system set synchronous_standby_names = 'walvault'")
            # The server takes its time over reading that.
            sql("select pg_reload_conf()")
            bench.measure("synchronous", bench.busy)
        finally:
            bench.postgres.end()
            bench.garage.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
