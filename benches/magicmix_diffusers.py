#!/usr/bin/env python3
"""`scumble run magicmix` at the embedded model's defaults, in PyTorch with diffusers' networks and schedule.

    python benches/magicmix_diffusers.py --out /tmp/mix.png           one job, from process start to the saved picture
    python benches/magicmix_diffusers.py --time-sampling              seconds per guided step after warm-up, one per line

Only what the job needs is imported and loaded, and nothing is fetched, so that PyTorch is not slowed by our choice.
"""

import argparse
import json
import math
import os
import pathlib
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402

MODEL = pathlib.Path(__file__).resolve().parents[1] / "models" / "emoji"


def defaults():
    """The options that `scumble run magicmix` takes for this model when none are given."""
    own = json.loads((MODEL / "scumble.json").read_text())["defaults"]
    return {"seed": 0, **own["common"], **own["magicmix"]}


class Job:
    """The networks and the guided step."""

    def __init__(self, options):
        self.o = argparse.Namespace(**options)
        self.unet = UNet2DConditionModel.from_pretrained(MODEL / "unet", dtype=torch.float32).eval()
        self.vae = AutoencoderKL.from_pretrained(MODEL / "vae", dtype=torch.float32).eval()
        text = CLIPTextModel.from_pretrained(MODEL / "text_encoder", dtype=torch.float32).eval()
        tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
        ids = tokenizer(["", self.o.content], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        self.text = text(ids)[0]
        self.schedule = DDIMScheduler.from_pretrained(MODEL / "scheduler")
        self.schedule.set_timesteps(self.o.steps)
        self.t = self.schedule.timesteps
        self.scale = self.vae.config.scaling_factor

    def level(self, share):
        """First step of a share of noise."""
        return self.o.steps - math.floor(share * self.o.steps + 1e-6)

    def layout(self):
        """The scaled latent of the layout picture."""
        rgb = np.asarray(Image.open(MODEL / "pictures" / self.o.layout).convert("RGB"))
        x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return self.vae.encode(x).latent_dist.mean * self.scale

    def step(self, z, i):
        """One guided step."""
        none, cond = self.unet(torch.cat([z, z]), self.t[i], self.text).sample.chunk(2)
        return self.schedule.step(none + self.o.cfg * (cond - none), self.t[i], z).prev_sample

    def run(self):
        """The mixed picture, uint8 [64, 64, 3]."""
        z0 = self.layout()
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(self.o.seed))
        start, stop = self.level(self.o.k_max), self.level(self.o.k_min)
        z = self.schedule.add_noise(z0, noise, self.t[start : start + 1])
        for i in range(start, self.o.steps):
            z = self.step(z, i)
            if i < stop:
                z = (1 - self.o.nu) * self.schedule.add_noise(z0, noise, self.t[i + 1 : i + 2]) + self.o.nu * z
        x = self.vae.decode(z / self.scale).sample[0].permute(1, 2, 0)
        return ((x / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()

    def time_sampling(self, count):
        """Prints the seconds of each of `count` guided steps, after ten that do not count."""
        z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        for k in range(10 + count):
            began = time.perf_counter()
            self.step(z, k % self.o.steps)
            if k >= 10:
                print(f"{time.perf_counter() - began:.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("magicmix.png"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-sampling", action="store_true")
    parser.add_argument("--steps", type=int, default=50, help="with --time-sampling: how many steps to time")
    a = parser.parse_args()
    if a.threads < 1 or a.steps < 1:
        parser.error("--threads and --steps must be at least 1")
    torch.set_num_threads(a.threads)
    with torch.inference_mode():
        job = Job(defaults())
        if a.time_sampling:
            job.time_sampling(a.steps)
        else:
            Image.fromarray(job.run()).save(a.out)


if __name__ == "__main__":
    main()
