#!/usr/bin/env python3
"""One table: steps of training and guidance as the recipes take them, scumble against PyTorch with diffusers.

    python benches/training.py                                         the embedded model
    python benches/training.py --model /tmp/sd15 --size 256 --cases embed sketch      SD 1.5's shapes (sd_weights.py), latents of 32

embed   Imagic's stage A: the gradient of the loss to the prompt's states alone, and a step of Adam on them
tune    Imagic's stage B: the gradient to all weights of the UNet, and a step of Adam on them
sketch  sketch guidance: a pass with the prompt that keeps nine activations, the predictor on them, the gradient of its error to
        the latent, the row without a prompt, the step and the push

scumble runs the lines that its recipes run (benches/training.rs), Rhai and all. PyTorch runs the same in plain modules on the
same weights in f32: what is frozen asks for no gradient, and the row without a prompt keeps no graph. Both sides take turns, so
that other work on the machine meets both; the table has medians. `CPU` is processor time of all threads. Both compute the same
numbers, to a part in a thousand, or the run ends. `--alone` lets one side live at a time, where two do not fit into memory.
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
EMOJI = HERE.parent / "models" / "emoji"
CASES = {"embed": "Imagic, a step of the embedding", "tune": "Imagic, a step of all weights", "sketch": "a step guided by a sketch"}
GOAL = 0.9
# CompVis numbers input 2, 4, 8, middle 0, 1, 2, output 2, 4, 8, as diffusers' modules.
SITES = {
    4: [
        "down_blocks.0.attentions.1", "down_blocks.1.attentions.0", "down_blocks.2.attentions.1", "mid_block.resnets.0",
        "mid_block.attentions.0", "mid_block.resnets.1", "up_blocks.0.upsamplers.0", "up_blocks.1.attentions.1",
        "up_blocks.2.upsamplers.0",
    ]
}  # fmt: skip


def predictor(torch, file):
    """The network of a predictor's file: linear layers, each but the last followed by ReLU and batch norm in use."""
    from safetensors import safe_open

    with safe_open(file, "pt") as f:
        widths = json.loads(f.metadata()["widths"])
        get = lambda name: f.get_tensor(name).float()
        layers = []
        for i in range(len(widths) - 1):
            linear = torch.nn.Linear(widths[i], widths[i + 1])
            linear.weight.data, linear.bias.data = get(f"{i}.weight"), get(f"{i}.bias")
            layers.append(linear)
            if i + 2 < len(widths):
                norm = torch.nn.BatchNorm1d(widths[i + 1])
                norm.weight.data, norm.bias.data = get(f"{i}.norm.weight"), get(f"{i}.norm.bias")
                norm.running_mean, norm.running_var = get(f"{i}.norm.running_mean"), get(f"{i}.norm.running_var")
                layers += [torch.nn.ReLU(), norm]
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)


def write_predictor(model, file):
    """Random weights of the paper's widths for a model that has none."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / "unet" / "config.json").read_text())
    a, b, c, d = config["block_out_channels"]
    widths = [a + b + c + 3 * d + d + c + b + 11, 512, 256, 128, 64, 4]
    torch.manual_seed(0)
    all = {}
    for i, (n, m) in enumerate(zip(widths, widths[1:])):
        all |= {f"{i}.weight": torch.randn(m, n) / n**0.5, f"{i}.bias": torch.zeros(m)}
        if i + 2 < len(widths):
            all |= {f"{i}.norm.{k}": f(m) for k, f in [("weight", torch.ones), ("bias", torch.zeros), ("running_mean", torch.zeros), ("running_var", torch.ones)]}
    save_file(all, file, metadata={"format": "scumble mlp 1", "widths": json.dumps(widths), "batch_norm": "true"})


def prepare(case, model, size, file, torch):
    """A function that takes n steps and returns what is compared."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    F = torch.nn.functional
    unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32).eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
    ids = tokenizer(["a dog in the snow", ""], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        states = encoder(ids)[0]
    text, none = states[:1].clone(), states[1:].clone()
    del encoder
    draw = lambda seed: torch.randn(1, 4, size // unet_factor(model), size // unet_factor(model), generator=torch.Generator().manual_seed(seed))
    z0, noise, t = draw(1), draw(2), torch.tensor([501])
    schedule = DDIMScheduler.from_pretrained(model / "scheduler")
    predict = lambda z, e: unet(z, t, e, return_dict=False)[0]

    if case == "embed":
        e = text.requires_grad_(True)
        optimizer = torch.optim.Adam([e], lr=0.002)

        def steps(n):
            for _ in range(n):
                optimizer.zero_grad()
                loss = F.mse_loss(predict(schedule.add_noise(z0, noise, t), e), noise)
                loss.backward()
                optimizer.step()
            return loss

        return steps, lambda: None
    if case == "tune":
        unet.requires_grad_(True)
        begun = {k: v.detach().clone() for k, v in unet.state_dict().items()}
        optimizer = None

        def again():
            """The weights as they were loaded, and a new optimizer: what every run begins with. Not timed."""
            nonlocal optimizer
            optimizer = None
            unet.load_state_dict(begun)
            optimizer = torch.optim.Adam(unet.parameters(), lr=5e-7)

        def steps(n):
            for _ in range(n):
                optimizer.zero_grad()
                loss = F.mse_loss(predict(schedule.add_noise(z0, noise, t), text), noise)
                loss.backward()
                optimizer.step()
            return loss

        return steps, again
    net = predictor(torch, file)
    seen = {}
    for path in SITES[len(unet.config.block_out_channels)]:
        unet.get_submodule(path).register_forward_hook(
            lambda module, args, out, path=path: seen.__setitem__(path, out if torch.is_tensor(out) else out[0])
        )
    schedule.set_timesteps(999)
    zt = schedule.add_noise(z0, noise, t)
    side = z0.shape[-1]
    u = t / 1000
    level = torch.stack([u, *(torch.sin(2 * torch.pi * u * 2**k) for k in range(10))], 1)
    rows = lambda x: x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])

    def steps(n):
        for _ in range(n):
            with torch.no_grad():
                without = predict(zt, none)
            z = zt.detach().requires_grad_(True)
            eps = predict(z, text)
            found = [seen[path] for path in SITES[len(unet.config.block_out_channels)]]
            found = [f if f.shape[-1] == side else F.interpolate(f, (side, side), mode="bilinear") for f in found]
            x = torch.cat([*map(rows, found), level.expand(side * side, -1)], 1)
            loss = (net(x) - rows(z0)).pow(2).sum()
            (grad,) = torch.autograd.grad(loss, z)
            with torch.no_grad():
                to = schedule.step(without + 7 * (eps - without), 501, zt).prev_sample
                to = to - grad * ((zt - to).norm() / grad.norm() * 1.6)
        return to.pow(2).mean()

    return steps, lambda: None


def unet_factor(model):
    """Pixels per latent pixel."""
    return 2 ** (len(json.loads((model / "vae" / "config.json").read_text())["block_out_channels"]) - 1)


def serve(a):
    """The PyTorch side."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    import torch

    torch.set_num_threads(a.threads)
    steps, again = prepare(a.serve, a.model, a.size, a.predictor, torch)
    print("ready", torch.__version__, flush=True)
    for line in sys.stdin:
        n = int(line)
        again()
        cpu, wall = time.process_time(), time.perf_counter()
        check = steps(n)
        cpu, wall = (time.process_time() - cpu) / n, (time.perf_counter() - wall) / n
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        print(f"{wall:.5f} {cpu:.5f} {peak:.0f} {check.item():.9e}", flush=True)


class Side:
    """A process that takes steps when told."""

    def __init__(self, command, threads):
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.line()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"training.py: {' '.join(self.process.args)} ended with {self.process.wait()}")
        return line.strip()

    def run(self, n):
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return [float(v) for v in self.line().split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build():
    """The benchmark's program."""
    command = ["cargo", "bench", "--locked", "--bench", "training", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in found if m.get("executable") and m["target"]["name"] == "training")


def measure(case, a, program):
    """Medians of both sides: seconds of wall and processor time, peak memory, what is compared."""
    count = a.steps or (1 if a.model != EMOJI else 10)
    commands = {
        "ours": [program, case, a.model if a.model != EMOJI else "emoji", a.size, a.predictor],
        "torch": [sys.executable, __file__, "--model", a.model, "--size", a.size, "--threads", a.threads, "--predictor", a.predictor, "--serve", case],
    }
    runs = {name: [] for name in commands}
    if a.alone:
        for name, command in commands.items():
            side = Side(command, a.threads)
            side.run(count)
            runs[name] = [side.run(count) for _ in range(a.runs)]
            side.close()
    else:
        sides = {name: Side(command, a.threads) for name, command in commands.items()}
        for round in range(a.runs + 1):
            for name, side in sides.items():
                result = side.run(count)
                if round > 0:  # the first warms up
                    runs[name].append(result)
        for side in sides.values():
            side.close()
    ours, torch = ([statistics.median(v) for v in zip(*runs[name])] for name in ("ours", "torch"))
    off = max(abs(o[3] / t[3] - 1) for o, t in zip(runs["ours"], runs["torch"]))
    assert off < 1e-3, f"{case}: scumble computes {ours[3]}, PyTorch {torch[3]}"
    return ours, torch, off


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=EMOJI, help="a diffusers folder (the embedded model)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="steps in a run (10; 1 for another model)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="one side after the other, where both do not fit into memory")
    parser.add_argument("--program", help="the benchmark's program, if it is built already")
    parser.add_argument("--predictor", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    a = parser.parse_args()
    a.model = a.model.resolve()
    if not (a.model / "model_index.json").is_file():
        parser.error(f"{a.model} is no diffusers folder")
    if a.runs < 1 or a.threads < 1:
        parser.error("--runs and --threads take positive numbers")
    if a.serve:
        return serve(a)
    a.predictor = a.predictor or EMOJI / "predictors" / "edges.safetensors"
    if a.model != EMOJI:
        a.predictor = a.model / "predictor-random.safetensors"
        if not a.predictor.exists():
            write_predictor(a.model, a.predictor)
    program = a.program or build()
    print(f"{a.model.name} at {a.size} pixels, {a.threads} threads, {a.runs} runs, medians; goal {GOAL}")
    print("| step | ours s | PyTorch s | ratio | CPU ratio | ours MB | PyTorch MB | off |\n|---|---|---|---|---|---|---|---|", flush=True)
    for case in a.cases:
        ours, torch, off = measure(case, a, program)
        cells = [
            CASES[case], f"{ours[0]:.4f}", f"{torch[0]:.4f}", f"{ours[0] / torch[0]:.2f}", f"{ours[1] / torch[1]:.2f}",
            f"{ours[2]:.0f}", f"{torch[2]:.0f}", f"{off:.0e}",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
