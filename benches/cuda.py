#!/usr/bin/env python3
"""Stable Diffusion's networks on a GPU: scumble beside PyTorch with diffusers, eager and compiled.

    python benches/sd_weights.py 1.5 /tmp/sd15                                  random weights of SD 1.5's shapes, once (or 2.1)
    SCUMBLE_CARGO=bench cuda/build.sh --bench cuda --no-run                     prints the program's path
    python benches/cuda.py /tmp/sd15 --program PATH                             the table

This benchmark has never run: it was written where there was no GPU. The sides take turns; a figure is the median of --runs of
--count passes, after two that do not count, the wait for the GPU included. PyTorch runs with TF32 off, as scumble does in f32.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import time

CASES = ["unet64", "unet96", "step64", "vae512", "latent64"]


def prepare(case, model, dtype, compiled, torch):
    """A function that runs one pass."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    side = 96 if case.endswith("96") else 64
    draw = lambda seed, *dims: torch.randn(dims, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)
    if case == "vae512":
        vae = AutoencoderKL.from_pretrained(model / "vae", dtype=dtype).to("cuda").eval()
        decode = torch.compile(vae.decode) if compiled else vae.decode
        z = draw(1, 1, 4, 64, 64) / vae.config.scaling_factor
        return torch.inference_mode()(lambda: decode(z).sample)
    unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=dtype).to("cuda").eval().requires_grad_(False)
    run = torch.compile(unet) if compiled else unet
    rows = 1 if case == "latent64" else 2
    z, text = draw(1, rows, 4, side, side), draw(2, rows, 77, unet.config.cross_attention_dim)
    if case != "latent64":
        return torch.inference_mode()(lambda: run(z, 501, text).sample)
    z.requires_grad_(True)
    return lambda: torch.autograd.grad(run(z, 501, text).sample.square().sum(), z)[0]


def serve(a):
    """The PyTorch side."""
    import torch

    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[a.dtype]
    run = prepare(a.serve, a.model, dtype, a.compiled, torch)
    print("ready", torch.cuda.get_device_name(), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            out = run()
        check = out.float().abs().mean().item()
        wall = (time.perf_counter() - start) / int(line)
        print(f"{wall:.6f} {torch.cuda.max_memory_reserved() / 1e6:.0f} {check:.7e}", flush=True)


class Side:
    """A process that runs passes when told."""

    def __init__(self, command, count):
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = self.line()
        self.run(count)
        self.run(count)

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"cuda.py: {' '.join(self.process.args)} ended with {self.process.wait()}")
        return line.strip()

    def run(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return [float(v) for v in self.line().split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a folder made by sd_weights.py")
    parser.add_argument("--program", help="the benchmark's program")
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--dtypes", nargs="+", default=["f32", "f16"], choices=["f32", "f16", "bf16"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        return serve(a)
    if not (a.model / "model_index.json").is_file() or not a.program:
        parser.error("give a diffusers folder, and --program: what cuda/build.sh --bench cuda --no-run prints")
    print("| case | dtype | ours ms | eager ms | compiled ms | ours/eager | ours/compiled | ours MB | eager MB |\n|" + "---|" * 9, flush=True)
    for case in a.cases:
        for dtype in a.dtypes:
            torch = [sys.executable, __file__, a.model, "--serve", case, "--dtype", dtype]
            commands = {"ours": [a.program, case, a.model, dtype], "eager": torch, "compiled": [*torch, "--compiled"]}
            sides = {name: Side(command, a.count) for name, command in commands.items()}
            runs = {name: [] for name in sides}
            for _ in range(a.runs):
                for name, side in sides.items():
                    runs[name].append(side.run(a.count))
            for side in sides.values():
                side.close()
            median = {name: [statistics.median(v) for v in zip(*r)] for name, r in runs.items()}
            ours, eager, compiled = (median[n][0] * 1e3 for n in ("ours", "eager", "compiled"))
            cells = [case, dtype, *(f"{v:.2f}" for v in (ours, eager, compiled, ours / eager, ours / compiled))]
            print("| " + " | ".join([*cells, f"{median['ours'][1]:.0f}", f"{median['eager'][1]:.0f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
