#!/usr/bin/env python3
"""Runs a command and prints its wall seconds and peak memory in MB: measure.py COMMAND [ARGUMENT ...]

The command's own output goes to stderr; its failure is this script's.
"""

import os
import subprocess
import sys
import time


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__.strip())
    began = time.perf_counter()
    try:
        child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
    except OSError as e:
        sys.exit(f"measure.py: {e}")
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"measure.py: {sys.argv[1]} ended with {child.returncode}")
    unit = 1e6 if sys.platform == "darwin" else 1e3
    print(f"{seconds:.3f} {usage.ru_maxrss / unit:.0f}")


if __name__ == "__main__":
    main()
