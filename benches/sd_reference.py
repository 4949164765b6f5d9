#!/usr/bin/env python3
"""Stores what PyTorch makes of a diffusers folder in f32, as FOLDER/reference.safetensors, with the seconds it took.

    python benches/sd_reference.py /tmp/sd15 --latent 32 64

Tensors: text.ids, text.states of two prompts; per latent side S: z.S [1, 4, S, S] and eps.S, the network's output at
timestep 501 with the first prompt; swapped.S, with the second (one word differs: it must move the output by more than
1e-2); vae.picture, vae.mean, vae.decoded for a picture of 128x128. Networks are loaded one after the other.
"""

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "parity"))
from fixtures import distance, save_tensors  # noqa: E402

PROMPTS = ["a dog in the snow", "a cat in the snow"]
TIMESTEP = 501


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--latent", type=int, nargs="+", default=[32, 64], help="sides of the latents, multiples of 8")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    if not (a.folder / "model_index.json").is_file():
        parser.error(f"{a.folder} is no diffusers folder")
    if any(s < 8 or s % 8 for s in a.latent):
        parser.error("--latent takes multiples of 8")
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    load = lambda cls, name: cls.from_pretrained(a.folder / name, dtype=torch.float32).eval()
    out, seconds = {}, {}

    def timed(name, call):
        began = time.perf_counter()
        out[name] = call()
        seconds[name] = round(time.perf_counter() - began, 3)
        print(f"{name}: {seconds[name]} s", flush=True)

    tokenizer = CLIPTokenizer.from_pretrained(a.folder / "tokenizer")
    out["text.ids"] = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    text = load(CLIPTextModel, "text_encoder")
    timed("text.states", lambda: text(out["text.ids"])[0])
    del text

    generator = torch.Generator().manual_seed(1)
    unet = load(UNet2DConditionModel, "unet")
    moved = {}
    for side in a.latent:
        z = out[f"z.{side}"] = torch.randn(1, unet.config.in_channels, side, side, generator=generator)
        for name, row in (("eps", 0), ("swapped", 1)):
            timed(f"{name}.{side}", lambda: unet(z, TIMESTEP, out["text.states"][row : row + 1]).sample)
        moved[side] = distance(out[f"swapped.{side}"], out[f"eps.{side}"])
        assert moved[side] > 1e-2, f"attention is flat: swapping a word moves the output by {moved[side]:.1e} only"
    del unet

    vae = load(AutoencoderKL, "vae")
    x = out["vae.picture"] = torch.rand(1, 3, 128, 128, generator=generator)
    timed("vae.mean", lambda: vae.encode(x * 2 - 1).latent_dist.mean * vae.config.scaling_factor)
    timed("vae.decoded", lambda: vae.decode(out["vae.mean"] / vae.config.scaling_factor).sample / 2 + 0.5)
    save_tensors(a.folder / "reference.safetensors", out, prompts=PROMPTS, timestep=TIMESTEP, seconds=seconds, moved=moved, threads=a.threads, tolerance=1e-4)
    print("moved by swapping a word:", moved)


if __name__ == "__main__":
    main()
