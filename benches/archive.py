#!/usr/bin/env python3
"""How a restore reads archives of many objects, which are made for it: both sides, in one run, on this machine.

Starts Garage in a temporary directory on free ports, and ends it by its process id.
Usage: benches/archive.py [--segments 100000] [--chunks 4000] [--delay 30] [--turns 3] [--only plan|tail]
"""

import argparse
import asyncio
import json
import pathlib
import statistics
import tempfile
import threading

from restore import WALVAULT, Timed
from streaming import ROOT, Garage, free_port, run

MAKE = ROOT / "target/release/make-archive"
SEGMENT = "0000000100000000000000%02X"
FIRST_XID = 700


class Slow:
    """A way to a server on which each request takes so many milliseconds longer."""

    def __init__(self, port, delay):
        self.target, self.delay, self.port = port, delay / 1000, free_port()
        self.loop, started = asyncio.new_event_loop(), threading.Event()
        threading.Thread(target=self.serve, args=[started], daemon=True).start()
        started.wait()

    def serve(self, started):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(asyncio.start_server(self.connect, "127.0.0.1", self.port, backlog=1024))
        started.set()
        self.loop.run_forever()

    async def connect(self, reader, writer):
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self.pass_on(reader, up_writer, self.delay), self.pass_on(up_reader, writer, 0))

    @staticmethod
    async def pass_on(reader, writer, delay):
        try:
            while data := await reader.read(1 << 16):
                # Gets have no bodies: what comes at once is one request.
                await asyncio.sleep(delay)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def end(self):
        self.loop.call_soon_threadsafe(self.loop.stop)


class Bench:
    def __init__(self, home, arguments):
        self.home, self.arguments, self.rows = home, arguments, []
        (home / "garage").mkdir()
        self.garage = Garage(home / "garage")
        run([WALVAULT, "keys", "generate", "--out", home / "key"])

    def say(self, figure, ours, theirs, ratio, bound):
        self.rows.append({"figure": figure, "walvault": ours, "against": theirs, "ratio": ratio, "bound": bound})
        print(f"{figure:60}  {ours:30}  {theirs:44}  {ratio:>8}  {bound}", flush=True)

    def config(self, name, endpoint=None):
        path = self.home / f"{name}-{len(list(self.home.iterdir()))}.toml"
        path.write_text(
            f"""[archive]
url = "s3://bench/{name}"
[archive.s3]
endpoint = "{endpoint or self.garage.endpoint}"
region = "garage"
path_style = true
[encryption]
key_file = "{self.home}/key"
[restore]
prefetch = "0"
"""
        )
        return path

    def make(self, kind, count):
        config = self.config(kind)
        made = Timed([MAKE, config, kind, count], self.garage.env)
        print(f"  {count} {kind}, made in {made.seconds:.0f} s", flush=True)
        return config

    def timed(self, config, *arguments):
        words = [WALVAULT, "--config", config, *arguments]
        return [Timed(words, self.garage.env) for _ in range(self.arguments.turns)]

    def plan(self):
        """A plan by a transaction in the middle of weeks of WAL, against one by an LSN, which reads little of it."""
        count = self.arguments.segments
        config = self.make("segments", count)
        restore = ["restore", "--dry-run", "--pgdata", self.home / "planned"]
        by_xid = self.timed(config, *restore, "--target-xid", FIRST_XID + count // 2)
        high, low = divmod((count // 2 + 1) << 24, 1 << 32)
        by_lsn = self.timed(config, *restore, "--target-lsn", f"{high:X}/{low:X}")
        ours, theirs = (statistics.median(one.seconds for one in runs) for runs in (by_xid, by_lsn))
        self.say(f"--dry-run --target-xid over {count} segments, Garage", f"{ours:.2f} s", f"--target-lsn: {theirs:.2f} s", "", "<= 10 s")
        peak = max(one.peak for one in by_xid)
        self.say("  its peak memory", f"{peak:.0f} MiB", f"--target-lsn: {max(one.peak for one in by_lsn):.0f} MiB", "", "<= 128 MiB")

    def tail(self):
        """A segment of thousands of chunks through wal-fetch, against one that is stored whole, with a slow store."""
        count, delay = self.arguments.chunks, self.arguments.delay
        self.make("chunks", count)
        slow = Slow(int(self.garage.endpoint.rsplit(":", 1)[1]), delay)
        config = self.config("chunks", f"http://127.0.0.1:{slow.port}")
        pieces, whole = ([*self.timed(config, "wal-fetch", SEGMENT % number, self.home / "fetched")] for number in (2, 1))
        slow.end()
        ours, theirs = (statistics.median(one.seconds for one in runs) for runs in (pieces, whole))
        self.say(f"the last segment of {count} chunks, {delay} ms a request", f"{ours:.2f} s",
                 f"a segment that is stored whole: {theirs:.2f} s", "", "<= 2 s")

    def end(self):
        self.garage.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=4000)
    parser.add_argument("--delay", type=int, default=30, help="milliseconds that each request takes longer")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", choices=["plan", "tail"], action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walvault-bench-") as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            for part in arguments.only or ["tail", "plan"]:
                getattr(bench, part)()
        finally:
            bench.end()
        if arguments.json:
            arguments.json.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
