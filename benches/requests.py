#!/usr/bin/env python3
"""What each way of working costs in requests, counted by walvaultd itself, and in dollars at S3's prices; and how many
objects the newest segment is.

Starts PostgreSQL 15 and Garage as benches/streaming.py does. Each part runs for some minutes; a day is the same again
and again. Those whose name ends with _far talk to Garage through a proxy in which each request takes 30 ms longer.
Usage: benches/requests.py [--minutes 2] [--only PART ...] [--objects 1000000] [--target target/release]
"""

import argparse
import collections
import datetime
import hashlib
import hmac
import pathlib
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import streaming
from streaming import Garage, Postgres, Process, free_port, run, wait_for

# us-east-1, S3 Standard, per request (https://aws.amazon.com/s3/pricing/). DELETE is free.
PRICES = {"put": 5e-6, "list": 5e-6, "get": 4e-7, "head": 4e-7, "delete": 0.0}
DAY, MONTH = 86400, 30
DELAY = 0.030


class Far:
    """A TCP proxy in which each request takes longer: whatever a client sends after an answer begins one."""

    def __init__(self, endpoint):
        self.to = urllib.parse.urlparse(endpoint)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection((self.to.hostname, self.to.port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answered = threading.Event()
            answered.set()
            for source, target, begins in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.pass_on, args=(source, target, answered, begins), daemon=True).start()

    def pass_on(self, source, target, answered, begins):
        try:
            while data := source.recv(1 << 16):
                if begins and answered.is_set():
                    answered.clear()
                    time.sleep(DELAY)
                elif not begins:
                    answered.set()
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def listed(garage, prefix):
    """The names below a prefix of the bucket, by a request signed as AWS Signature Version 4 says."""
    names, token = [], None
    while True:
        query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
        text = "&".join(f"{key}={urllib.parse.quote(value, safe='')}" for key, value in sorted(query.items()))
        host, now = garage.endpoint.removeprefix("http://"), datetime.datetime.now(datetime.timezone.utc)
        day, stamp = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
        nothing = hashlib.sha256(b"").hexdigest()
        headers = f"host:{host}\nx-amz-content-sha256:{nothing}\nx-amz-date:{stamp}\n"
        signed = "host;x-amz-content-sha256;x-amz-date"
        request = f"GET\n/bench\n{text}\n{headers}\n{signed}\n{nothing}"
        scope = f"{day}/garage/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = ("AWS4" + garage.env["AWS_SECRET_ACCESS_KEY"]).encode()
        for part in (*scope.split("/"), to_sign):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        authorization = f"AWS4-HMAC-SHA256 Credential={garage.key_id}/{scope}, SignedHeaders={signed}, Signature={key.hex()}"
        asked = urllib.request.Request(f"{garage.endpoint}/bench?{text}", headers={
            "x-amz-content-sha256": nothing, "x-amz-date": stamp, "Authorization": authorization})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            page = answer.read().decode()
        names += re.findall(r"<Key>([^<]+)</Key>", page)
        found = re.search(r"<NextContinuationToken>([^<]+)</NextContinuationToken>", page)
        if not found:
            return names
        token = found[1]


class Sidecar:
    """walvaultd run, with what it has counted."""

    def __init__(self, bench, name, wal="", far=False):
        endpoint = bench.far.endpoint if far else bench.garage.endpoint
        self.port, config = free_port(), bench.home / f"{name}.toml"
        config.write_text(
            f"""[postgres]
url = "postgresql://postgres@/postgres?host={bench.postgres.sockets}&port={bench.postgres.port}"
slot = "{name}"
[archive]
url = "s3://bench/{name}"
[archive.s3]
endpoint = "{endpoint}"
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

    def tail(self):
        """The objects of the segment that has the most of them: of each segment that a chunk begins in."""
        names = listed(self.bench.garage, f"{self.name}/tail/")
        return max(collections.Counter(name.split("/")[3] for name in names).values(), default=0)

    def streams(self):
        sql = f"select active from pg_replication_slots where slot_name = '{self.name}'"
        return self.bench.postgres.try_sql(sql) == "t"


class Bench:
    def __init__(self, home, arguments):
        self.home, self.seconds, self.objects = home, arguments.minutes * 60, arguments.objects
        self.target = pathlib.Path(arguments.target).resolve()
        home.chmod(0o755)
        for part in ("pg", "garage"):
            (home / part).mkdir()
        self.postgres, self.garage = Postgres(home / "pg"), Garage(home / "garage")
        self.postgres.sql("create table t (id bigint generated always as identity, at timestamptz default now())")
        self.far = Far(self.garage.endpoint)
        self.key = home / "key"
        run([self.target / "walvault", "keys", "generate", "--out", self.key])

    def measure(self, name, work, wal="", far=False):
        sidecar = Sidecar(self, name, wal, far)
        try:
            wait_for("the stream", sidecar.streams)
            run([self.target / "walvaultd", "--config", sidecar.config, "backup"], env=self.garage.env)
            time.sleep(5)
            before, received, stored = sidecar.counted()
            over = threading.Event()
            worker = threading.Thread(target=work, args=(over,))
            worker.start()
            end, most = time.monotonic() + self.seconds, 0
            while time.monotonic() < end:
                most = max(most, sidecar.tail())
                time.sleep(0.5)
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
        print(f"{name:24}  {cells}  ${dollars:8.2f}/month  {wal_bytes / self.seconds / 1024:7.1f} kB/s of WAL, {ratio:.2f} stored,"
              f" newest segment {most} objects at most, after {self.seconds:.0f} s", flush=True)

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


def standby(bench):
    """A sidecar that waits beside a standby, with an archive of so many objects in a directory."""
    archive, home, conf = bench.home / "years", bench.home / "standby", bench.home / "years.toml"
    archive.mkdir()
    port = free_port()

    def configure(postgres):
        conf.write_text(f"""[postgres]
url = "postgresql://postgres@/postgres?host={postgres.sockets}&port={postgres.port}"
[archive]
url = "file://{archive}"
[encryption]
key_file = "{bench.key}"
[admin]
listen = "127.0.0.1:{port}"
""")

    configure(bench.postgres)
    run([bench.target / "walvaultd", "--config", conf, "backup"])
    # Names are all that a look asks for.
    folder = archive / "wal/00000001"
    for number in range(0x10000, 0x10000 + bench.objects):
        (folder / f"00000001{number // 256:08X}{number % 256:08X}").touch()
    home.mkdir()
    second = streaming.Standby(home, bench.postgres)
    configure(second)
    process = Process([bench.target / "walvaultd", "--config", conf, "run"], bench.home / "standby.log")
    try:
        def requests():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    text = answer.read().decode()
            except OSError:
                # It does not listen yet.
                return 0, False
            counts = re.findall(r'^walvault_store_request_seconds_count\{operation="\w+"\} (\d+)$', text, re.M)
            looked = float(re.search(r"^walvault_survey_timestamp_seconds (\S+)$", text, re.M)[1]) > 0
            return sum(map(int, counts)), looked

        wait_for("the first look", lambda: requests()[1], 600)
        look = requests()[0]
        time.sleep(bench.seconds)
        others = requests()[0] - look
        # It rests for 30 s for each request, and for 15 min at least (daemon/src/survey.rs).
        a_day = look * DAY / max(15 * 60, 30 * look) + others * DAY / bench.seconds
        print(f"{'standby':24}  {bench.objects} objects: {look} requests to look, {others} in the {bench.seconds:.0f} s after it; {a_day:.0f} a day")
    finally:
        process.end()
        second.end()
        shutil.rmtree(archive)


def synchronous(bench, name, far):
    sql = bench.postgres.sql
    sql("alter system set synchronous_standby_names = 'walvault'")
    # The server takes its time over reading that.
    sql("select pg_reload_conf()")
    try:
        bench.measure(name, bench.trickle if name.startswith("slow") else bench.busy, far=far)
    finally:
        sql("alter system reset synchronous_standby_names")
        sql("select pg_reload_conf()")


PARTS = {
    "idle": lambda bench: bench.measure("idle", bench.idle),
    "trickle": lambda bench: bench.measure("trickle", bench.trickle),
    "trickle_1min": lambda bench: bench.measure("trickle_1min", bench.trickle, 'max_delay = "1min"'),
    "busy": lambda bench: bench.measure("busy", bench.busy),
    "slow_synchronous": lambda bench: synchronous(bench, "slow_synchronous", False),
    "synchronous": lambda bench: synchronous(bench, "synchronous", False),
    "synchronous_far": lambda bench: synchronous(bench, "synchronous_far", True),
    "standby": standby,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--objects", type=int, default=1_000_000, help="those of the archive that a standby's sidecar looks at")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--target", default=streaming.ROOT / "target/release")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            for part in arguments.only or PARTS:
                PARTS[part](bench)
        finally:
            bench.postgres.end()
            bench.garage.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
