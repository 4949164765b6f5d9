#!/usr/bin/env python3
"""Write a network that is a weighted mean of two of the same shape: OUT = SHARE * A + (1 - SHARE) * B.

The delivered UNet is 0.75 of the last stage's and 0.25 of the one before.
"""

import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

from common import folder, parser

FILE = "diffusion_pytorch_model.safetensors"


def main():
    p = parser(__doc__)
    p.add_argument("a", type=folder)
    p.add_argument("b", type=folder)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--share", type=float, default=0.75, help="%(default)s")
    args = p.parse_args()
    if not 0 <= args.share <= 1:
        p.error("--share must lie in 0..1")
    a, b = load_file(args.a / FILE), load_file(args.b / FILE)
    if {k: v.shape for k, v in a.items()} != {k: v.shape for k, v in b.items()}:
        p.error("the two networks have other shapes")
    args.out.mkdir(parents=True, exist_ok=True)
    mixed = {k: torch.lerp(b[k].float(), a[k].float(), args.share) for k in a}
    save_file(mixed, args.out / FILE, metadata={"format": "pt"})
    if args.out.resolve() != args.a.resolve():
        shutil.copy(args.a / "config.json", args.out)


if __name__ == "__main__":
    main()
