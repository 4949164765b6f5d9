#!/usr/bin/env python3
"""One table: whole networks forward and backward, scumble against PyTorch with diffusers and candle-transformers.

    python benches/sd_weights.py 1.5 /tmp/sd15                          random weights of SD 1.5's shapes, once
    python benches/networks.py /tmp/sd15                                the table
    python benches/networks.py /tmp/sd15 --cases unet32 latent32 --runs 7 --no-candle --json table.json

Each side is a process of its own that loads the same weights, computes in f32 on the same number of threads, does two passes
that do not count, and then one pass whenever it is told. Each side takes turns with PyTorch, so that other work on the machine
meets both; the table has medians. `CPU` is processor time of all threads. Peaks are the processes' own,
from their start, weights included. Every run compares what the sides computed: they must agree to a part in a thousand.
The share of peak counts a direct convolution's operations against the largest rate that the matrix products of the same machine reach;
Winograd's convolutions do with fewer, so that it may pass 100 %.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# name: (what it is, goal for time)
CASES = {
    "unet64": ("SD 1.5 UNet, batch 2, 64x64", 0.6),
    "unet32": ("SD 1.5 UNet, batch 2, 32x32", 0.55),
    "step": ("embedded UNet, guided (batch 2)", 0.5),
    "vae512": ("SD 1.5 VAE decode, 512x512", 0.6),
    "text": ("SD 1.5 CLIP text, 77 tokens", 1.0),
    "latent32": ("gradient to the latent, 32x32", 0.7),
    "weights32": ("gradient to all weights, 32x32", 0.8),
}
# candle-transformers computes wrong gradients: it takes part where there are none.
CANDLE = {"unet64", "unet32", "vae512"}
BF16 = {"unet32", "text"}
# Passes per figure, as in networks.rs: single ones are too short to time where they take milliseconds.
COUNT = {"step": 20, "text": 5}


def numbers(torch, seed, *dims):
    """The same normal numbers as scumble's benchmark."""
    return torch.randn(dims, generator=torch.Generator().manual_seed(seed))


def prepare(case, model, torch):
    """A function that runs the pass and returns (tensor, check)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if case in ("unet64", "unet32", "step"):
        side = {"unet64": 64, "unet32": 32, "step": 16}[case]
        unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32).eval()
        z, text = numbers(torch, 1, 2, 4, side, side), numbers(torch, 2, 2, 77, unet.config.cross_attention_dim)
        return torch.inference_mode()(lambda: unet(z, 501, text).sample)
    if case == "vae512":
        vae = AutoencoderKL.from_pretrained(model / "vae", dtype=torch.float32).eval()
        z = numbers(torch, 1, 1, 4, 64, 64)
        return torch.inference_mode()(lambda: vae.decode(z / vae.config.scaling_factor).sample)
    if case == "text":
        from transformers import CLIPTextModel

        text = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
        ids = (320 + 37 * torch.arange(77))[None]
        return torch.inference_mode()(lambda: text(ids)[0])
    unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32).eval()
    unet.requires_grad_(case == "weights32")
    z, text = numbers(torch, 1, 1, 4, 32, 32), numbers(torch, 2, 1, 77, 768)
    leaves = list(unet.parameters()) if case == "weights32" else [z.requires_grad_(True)]

    def gradient():
        for leaf in leaves:
            leaf.grad = None
        out = unet(z, 501, text).sample
        (out * numbers(torch, 3, *out.shape)).sum().backward()
        return torch.stack([leaf.grad.abs().mean() for leaf in leaves])

    return gradient


def serve(case, model, threads):
    """The PyTorch side."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    import torch

    torch.set_num_threads(threads)
    run = prepare(case, model, torch)
    print("ready", torch.__version__, flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(COUNT.get(case, 1)):
            out = run()
        cpu, wall = [t / COUNT.get(case, 1) for t in (time.process_time() - cpu, time.perf_counter() - wall)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        print(f"{wall:.5f} {cpu:.5f} {peak:.0f} {out.detach().abs().mean().item():.7e}", flush=True)
        del out


def flops(case, model):
    """Additions and multiplications of one pass, by PyTorch's own count."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    run = prepare(case, model, torch)
    with FlopCounterMode(display=False) as counter:
        run()
    print(counter.get_total_flops())


def peak_rate(threads):
    """Largest GFLOP/s of a square matrix product of PyTorch, best of several sizes."""
    import torch

    torch.set_num_threads(threads)
    best = 0.0
    for n in (1024, 1536, 2048):
        a, b = torch.randn(n, n), torch.randn(n, n)
        for _ in range(8):
            began = time.perf_counter()
            a @ b
            best = max(best, 2 * n**3 / (time.perf_counter() - began) / 1e9)
    print(best)


class Side:
    """A process that runs a pass when told."""

    def __init__(self, command, threads):
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.hello = self.line()
        self.run()
        self.run()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"networks.py: {' '.join(map(str, self.process.args))} ended with {self.process.wait()}")
        return line.strip()

    def run(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return [float(v) for v in self.line().split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build():
    """The benchmark's program."""
    command = ["cargo", "bench", "--locked", "--bench", "networks", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in found if m.get("executable") and m["target"]["name"] == "networks")


def measure(case, model, a, program):
    me = [sys.executable, __file__, str(model), "--threads", str(a.threads)]
    commands = {"ours": [program, case, model, "ours"], "torch": [*me, "--serve", case]}
    if case != "text":
        commands["lean"] = [program, case, model, "lean"]
    if case in BF16:
        commands["bf16"] = [program, case, model, "bf16"]
    if a.candle and case in CANDLE:
        commands["candle"] = [program, case, model, "candle"]
    torch = Side(commands.pop("torch"), a.threads)
    rows = {"torch": []}
    for name, command in commands.items():
        # Two sides at a time fit into memory.
        side = Side(command, a.threads)
        # candle's own takes minutes where it is slow: one run does.
        for _ in range(1 if name == "candle" else a.runs):
            rows.setdefault(name, []).append(side.run())
            rows["torch"].append(torch.run())
        side.close()
    torch.close()
    result = {}
    for name, runs in rows.items():
        wall, cpu, peak, check = (statistics.median(v) for v in zip(*runs))
        result[name] = {"wall": wall, "cpu": cpu, "peak": peak, "check": check, "runs": len(runs)}
    for name, r in result.items():
        r["off"] = abs(r["check"] / result["torch"]["check"] - 1)
        assert r["off"] < 1e-3 or name in ("candle", "bf16"), f"{case}: {name} computes {r['check']}, PyTorch {result['torch']['check']}"
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a folder made by sd_weights.py 1.5")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-candle", dest="candle", action="store_false")
    parser.add_argument("--program", help="the benchmark's program, if it is built already")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures there")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--flops", help=argparse.SUPPRESS)
    parser.add_argument("--peak-rate", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        return serve(a.serve, a.model, a.threads)
    if a.flops:
        return flops(a.flops, a.model)
    if a.peak_rate:
        return peak_rate(a.threads)
    if not (a.model / "model_index.json").is_file():
        parser.error(f"{a.model} is no diffusers folder")
    if a.runs < 1 or a.threads < 1:
        parser.error("--runs and --threads take positive numbers")

    program = a.program or build()
    ask = lambda *args: float(subprocess.run([sys.executable, __file__, *map(str, args)], stdout=subprocess.PIPE, text=True, check=True).stdout)
    rate = ask(a.model, "--threads", a.threads, "--peak-rate")
    print(f"{a.threads} threads, {a.runs} runs, medians; matrix products reach {rate:.0f} GFLOP/s")
    head = ["case", "ours s", "PyTorch s", "ratio", "CPU ratio", "goal", "lean ratio", "bf16 ratio", "candle s", "peak MB", "lean MB", "PyTorch MB", "of peak"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    everything = {"threads": a.threads, "rate": rate}
    for case in a.cases:
        model = HERE.parent / "models" / "emoji" if case == "step" else a.model
        r = measure(case, model, a, program)
        r["flops"] = ask(model, "--flops", case)
        everything[case] = r
        ours, theirs, lean, candle = r["ours"], r["torch"], r.get("lean"), r.get("candle")
        cells = [
            CASES[case][0], f"{ours['wall']:.4f}", f"{theirs['wall']:.4f}", f"{ours['wall'] / theirs['wall']:.2f}",
            f"{ours['cpu'] / theirs['cpu']:.2f}", CASES[case][1], f"{lean['wall'] / theirs['wall']:.2f}" if lean else "",
            f"{r['bf16']['wall'] / theirs['wall']:.2f}" if "bf16" in r else "", f"{candle['wall']:.2f}" if candle else "", f"{ours['peak']:.0f}", f"{lean['peak']:.0f}" if lean else "",
            f"{theirs['peak']:.0f}", f"{r['flops'] / ours['wall'] / rate / 1e7:.0f} %",
        ]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        if a.json:
            a.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
