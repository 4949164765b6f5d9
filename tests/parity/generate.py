#!/usr/bin/env python3
"""Writes the parity fixtures in tests/data/parity from PyTorch, diffusers and transformers (pinned in requirements.txt).

    python tests/parity/generate.py            all parts
    python tests/parity/generate.py embedded   one part

The formats are described in README.md.
"""

import argparse
import importlib
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PARTS = ["noise", "tokens", "schedules", "samplers", "embedded", "chains", "tiny", "helpers", "gradients", "guidance", "vgg", "lpips", "edges", "lora", "papers"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which parts to write: {', '.join(PARTS)} (all)")
    parts = parser.parse_args().parts
    unknown = [p for p in parts if p not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")

    import torch

    torch.set_num_threads(2)
    for part in parts or PARTS:
        print(part, importlib.import_module(part).generate(), flush=True)


if __name__ == "__main__":
    main()
