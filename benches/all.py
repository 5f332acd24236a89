#!/usr/bin/env python3
"""Every whole-job comparison, and what came out: a table and a plot in docs/performance.md.

Needs the release build, Debian's pgbackrest, and matplotlib for the plot (benches/requirements.txt).
Usage: benches/all.py [--only streaming|backup|restore|archive|pgbackrest] [--from FILE.json]
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT, PLOT = HERE.parent / "docs/performance.md", HERE.parent / "docs/performance.png"
BEGIN, END = "<!-- begin of what `make bench` writes -->", "<!-- end of what `make bench` writes -->"
PARTS = ["streaming", "backup", "restore", "archive", "pgbackrest"]


def machine():
    """The machine's name, as far as it matters for speed."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / (1 << 20)
    return f"{os.cpu_count()} cores of {cpu[1] if cpu else platform.machine()}, {memory:.0f} GiB, Linux {platform.release()}"


def settle():
    """Leaves the page cache to whoever is measured: what builds filled it with would be reclaimed at the expense of one side."""
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        print("the page cache stays as it is: only root may empty it", flush=True)


def measure(part):
    settle()
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        print(f"--- {part}", flush=True)
        if subprocess.run([HERE / f"{part}.py", "--json", out.name], check=False).returncode != 0:
            sys.exit(f"benches/{part}.py failed; what was measured before is not written")
        return [{**row, "part": part} for row in json.load(out)]


def named(rows):
    """What a row says of the one before it is told with that one's name."""
    of = ""
    for row in rows:
        figure = row["figure"]
        if figure.startswith(" "):
            figure = f"{of}: {figure.strip()}"
        else:
            of = figure
        yield {**row, "figure": figure}


def table(rows):
    """Rows with a ratio first."""
    lines = ["| figure | ratio | aim | walvault | against |", "| --- | --- | --- | --- | --- |"]
    for row in sorted(named(rows), key=lambda row: not row["ratio"]):
        ratio = f"**{row['ratio']}**" if row["ratio"] else ""
        cells = [row["figure"], ratio, row["bound"], row["walvault"], row["against"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<=", "≤").replace(">=", "≥") for cell in cells) + " |")
    return "\n".join(lines)


def better(row):
    """By how much walvault is faster: times are better when small, rates and throughput when large."""
    ratio = float(row["ratio"])
    larger = row["bound"].startswith(">=") or any(unit in row["walvault"] for unit in ("MiB/s", "tps")) or "a second" in row["figure"]
    # A backup's row gives its time first, then its rate.
    return ratio if larger and " s," not in row["walvault"] else 1 / ratio


def plot(rows, where):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row["ratio"]][::-1]
    names = [f"{row['figure'].strip()}\nagainst {row['against'].split(':')[0]}" for row in rows]
    speeds = [better(row) for row in rows]
    figure, axes = plt.subplots(figsize=(10, 0.62 * len(rows) + 1.4), layout="constrained")
    bars = axes.barh(names, speeds, color=["#2a7f62" if speed >= 1 else "#b5653a" for speed in speeds], height=0.6)
    axes.bar_label(bars, [f"{speed:.2f}×" for speed in speeds], padding=4, fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlim(0, max(speeds) * 1.12)
    axes.set_xlabel("how many times as fast as what it is compared with; 1 is as fast")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("walvault, which encrypts with AES-256-GCM, against others", fontsize=11)
    figure.savefig(where, dpi=110, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--from", dest="read", type=pathlib.Path, help="what an earlier run measured")
    parser.add_argument("--json", type=pathlib.Path, help="where to keep what was measured")
    arguments = parser.parse_args()
    if arguments.read:
        measured = json.loads(arguments.read.read_text())
    else:
        rows = [row for part in arguments.only or PARTS for row in measure(part)]
        measured = {"machine": machine(), "rows": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1))
    text = DOCUMENT.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    body = f"Measured on {measured['machine']}.\n\n![walvault against others](performance.png)\n\n{table(measured['rows'])}"
    plot(measured["rows"], PLOT)
    DOCUMENT.write_text(f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
