#!/usr/bin/env python3
"""Instructions per call of every operation, ours and candle's, counted by callgrind on one thread: a table that other
work on the machine does not change.

    python benches/instructions.py

Counts are the difference between three calls and one, so that what a layer prepares once is left out. valgrind knows no AVX-512: both
sides run at AVX2.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def program():
    command = ["cargo", "bench", "--locked", "--bench", "count", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in found if m.get("executable") and m["target"]["name"] == "count")


def count(binary, name, side, times):
    env = dict(os.environ, RAYON_NUM_THREADS="1", CANDLE_NUM_THREADS="1")
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", binary, name, side, str(times)]
    run = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    found = re.search(r"Collected\s*:\s*(\d+)", run.stderr)
    if run.returncode or not found:
        sys.exit(f"instructions.py: {name}, {side}: {run.stderr[-800:]}")
    return int(found[1])


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__.strip())
    binary = program()
    names = subprocess.run([binary], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    print("| operation | ours, millions | candle, millions | candle / ours |\n|---|---|---|---|")
    for name in names:
        ours, candle = [(count(binary, name, side, 3) - count(binary, name, side, 1)) / 2e6 for side in ("ours", "candle")]
        print(f"| {name} | {ours:.2f} | {candle:.2f} | {candle / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
