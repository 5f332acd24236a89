#!/usr/bin/env python3
"""The figures of base backups: walvault and pg_basebackup in turns, in one run, on this machine.

Starts PostgreSQL 15 and Garage in a temporary directory on free ports, ends them by process id.
Usage: benches/backup.py [--gib 2] [--rounds 3]
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import tempfile
import time

from streaming import PG, ROOT, TICKS, Garage, Postgres, run

POOL_ROWS = 120_000


def pool(path):
    """Rows as an application has them: notes in which turns of phrase come again, names, JSON with numbers and
    identifiers, amounts, times. They are made so that LZ4 leaves about 0.37 of them.

    The server copies them with other numbers until the cluster is large enough. A row comes again only after some
    60 MiB, farther than any compression here looks back.
    """
    dice = random.Random(7)
    letters = "etaoinshrdlcumwfgypbvk"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 10))) for _ in range(6000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    phrases = [" ".join(dice.choices(words, weights, k=dice.randint(5, 14))) for _ in range(1000)]
    often = [1 / (rank + 8) for rank in range(len(phrases))]
    names = ["".join(dice.choices(letters, k=dice.randint(4, 9))).capitalize() for _ in range(3000)]

    def sentence():
        if dice.random() < 0.9:
            return dice.choices(phrases, often)[0]
        return " ".join(dice.choices(words, weights, k=dice.randint(3, 9)))

    with open(path, "w", encoding="utf-8") as out:
        for _ in range(POOL_ROWS):
            text = ", ".join(sentence() for _ in range(dice.randint(2, 8)))
            details = {
                "order": dice.randint(1_000_000_000, 9_999_999_999),
                "items": [
                    {"sku": dice.randint(10_000, 99_999), "count": dice.randint(1, 9), "price": dice.randint(99, 99_999) / 100}
                    for _ in range(dice.randint(1, 4))
                ],
                "ship_to": {"name": f"{dice.choice(names)} {dice.choice(names)}", "zip": dice.randint(10_000, 99_999)},
                "channel": dice.choice(["web", "app", "store", "partner"]),
                "paid": dice.random() < 0.9,
            }
            out.write(f"{dice.choice(names)}\t{text}\t{json.dumps(details)}\n")


def fill(postgres, home, gib):
    rows = home / "pg" / "pool.tsv"
    pool(rows)
    rows.chmod(0o644)
    postgres.sql("create unlogged table pool (n serial, name text, note text, details text)")
    postgres.sql(f"copy pool (name, note, details) from '{rows}'")
    postgres.sql(
        "create table orders (id bigint primary key, placed timestamptz not null, customer int not null, name text not null,"
        " amount numeric(12, 2) not null, weight double precision, note text, details jsonb)"
    )
    postgres.sql("create index on orders (customer)")
    copies = 0
    while int(postgres.sql("select pg_database_size('postgres')")) < gib * (1 << 30):
        postgres.sql(
            f"insert into orders select {copies}::bigint * {POOL_ROWS} + n,"
            f" timestamptz '2024-01-01' + ({copies} * {POOL_ROWS} + n) * interval '7 s' + random() * interval '5 s',"
            " (random() * 400000)::int, name, (random() * 5000)::numeric(12, 2), random() * 40, note, details::jsonb from pool"
        )
        copies += 1
    postgres.sql("drop table pool")
    postgres.sql("vacuum analyze")
    postgres.sql("checkpoint")


def timed(command, **options):
    """Seconds, CPU seconds, MiB of memory at the most, and what it printed."""
    begun = time.monotonic()
    child = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    out, said = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{said}")
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out


class Bench:
    def __init__(self, home, arguments):
        self.home, self.arguments, self.rows = home, arguments, []
        home.chmod(0o755)
        for part in ("pg", "garage", "archives"):
            (home / part).mkdir()
        self.postgres, self.garage = Postgres(home / "pg"), Garage(home / "garage")
        self.postgres.sql("alter system set max_wal_size = '1GB'")
        self.postgres.sql("select pg_reload_conf()")
        self.key = home / "key"
        run([ROOT / "target/release/walvault", "keys", "generate", "--out", self.key])

    def walvault(self, name, store, codec):
        target = self.home / "archives" / name
        if store == "s3":
            archive = f'url = "s3://bench/{name}"\n[archive.s3]\nendpoint = "{self.garage.endpoint}"\nregion = "garage"\npath_style = true'
        else:
            target.mkdir()
            archive = f'url = "file://{target}"'
        config = self.home / f"{name}.toml"
        config.write_text(
            f"""[postgres]
url = "postgresql://postgres@/postgres?host={self.postgres.sockets}&port={self.postgres.port}"
[archive]
{archive}
[encryption]
key_file = "{self.key}"
[backup]
compression = "{codec}"
"""
        )
        command = [ROOT / "target/release/walvaultd", "--config", config, "backup", "--json"]
        before = self.servers_cpu()
        seconds, cpu, peak, out = timed(command, env=self.garage.env)
        servers = [now - then for now, then in zip(self.servers_cpu(), before)]
        shutil.rmtree(target, ignore_errors=True)
        record = json.loads(out)
        ratio, size = record["stored_size"] / record["size"], record["size"]
        return {"seconds": seconds, "cpu": cpu, "peak": peak, "ratio": ratio, "size": size, "postgres": servers[0], "garage": servers[1]}

    def servers_cpu(self):
        """CPU seconds of PostgreSQL, its processes that ended among them, and of Garage."""
        pid = self.postgres.process.pid
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(int(field) for field in fields[11:15]) / TICKS, self.garage.process.cpu()

    def basebackup(self, name):
        target = self.home / "archives" / name
        command = [PG / "pg_basebackup", *self.postgres.arguments(), "-D", target, "-Ft", "--compress=client-lz4", "-c", "fast"]
        seconds, cpu, peak, _ = timed(command)
        stored = sum(file.stat().st_size for file in target.iterdir() if "wal" not in file.name)
        shutil.rmtree(target)
        return {"seconds": seconds, "cpu": cpu, "peak": peak, "stored": stored}

    def say(self, figure, ours, theirs, ratio, bound):
        self.rows.append({"figure": figure, "walvault": ours, "against": theirs, "ratio": ratio, "bound": bound})
        print(f"{figure:44}  {ours:34}  {theirs:34}  {ratio:>6}  {bound}", flush=True)

    def measure(self):
        fill(self.postgres, self.home, self.arguments.gib)
        kinds = [("s3", "lz4", "<= 1.1"), ("directory", "lz4", "<= 1.0"), ("s3", "zstd", ""), ("directory", "zstd", "")]
        kinds = [kind for kind in kinds if not self.arguments.codec or kind[1] in self.arguments.codec]
        theirs, ours = [], {kind: [] for kind in kinds}
        for turn in range(self.arguments.rounds):
            for number, kind in enumerate(kinds):
                theirs.append(self.basebackup(f"plain-{turn}-{number}"))
                ours[kind].append(self.walvault(f"walvault-{turn}-{number}", kind[0], kind[1]))
        middle = lambda runs, key: statistics.median(one[key] for one in runs)
        size = ours[kinds[0]][0]["size"]
        plain = middle(theirs, "seconds")
        print(f"{size / (1 << 30):.2f} GiB of files, {self.arguments.rounds} rounds, medians")
        for kind in kinds:
            store, codec, bound = kind
            seconds = middle(ours[kind], "seconds")
            # A round's two sides ran one after the other, under the same load of the machine.
            pairs = [one["seconds"] / theirs[turn * len(kinds) + kinds.index(kind)]["seconds"] for turn, one in enumerate(ours[kind])]
            self.say(
                f"full backup, {store}, {codec}, AES-256-GCM",
                f"{seconds:.1f} s, {size / seconds / (1 << 20):.0f} MiB/s, {middle(ours[kind], 'cpu'):.1f} CPU s",
                f"pg_basebackup: {plain:.1f} s, {middle(theirs, 'cpu'):.1f} CPU s",
                f"{statistics.median(pairs):.2f}", bound,
            )
            self.say("  peak memory", f"{max(one['peak'] for one in ours[kind]):.0f} MiB", f"{middle(theirs, 'peak'):.0f} MiB", "", "<= 160 MiB")
            self.say(
                "  CPU seconds of the servers meanwhile",
                f"PostgreSQL {middle(ours[kind], 'postgres'):.1f}, Garage {middle(ours[kind], 'garage'):.1f}", "", "", "",
            )
            self.say(
                "  bytes stored over the plain size", f"{middle(ours[kind], 'ratio'):.3f}",
                f"pg_basebackup: {middle(theirs, 'stored') / size:.3f}", "", "<= 0.37" if codec == "lz4" else "<= 0.28",
            )

    def end(self):
        self.postgres.end()
        self.garage.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codec", choices=["lz4", "zstd"], action="append")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walvault-bench-") as home:
        bench = Bench(pathlib.Path(home), arguments)
        try:
            bench.measure()
        finally:
            bench.end()
        if arguments.json:
            arguments.json.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
