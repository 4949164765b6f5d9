#!/usr/bin/env python3
"""Fit the linear map from latents to colors that the program uses for previews, and print it as scumble.json's "preview".

Least squares over the plain pictures and those in PICTURES (MODEL/pictures), both with the same weight, between the scaled
latents and the pictures reduced by the VAE's factor, in 0..1: rgb = sum z_c factors[c] + bias.
"""

import json

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from common import folder, latents, parser, read_images, to_tensor


def rows(vae, images):
    """Latents with a 1 behind them [pixels, 5], and colors [pixels, 3], in f64."""
    z = latents(vae, images).double()
    colors = torch.nn.functional.avg_pool2d((to_tensor(images) + 1) / 2, images.shape[1] // z.shape[-1]).double()
    flat = lambda t: t.permute(0, 2, 3, 1).reshape(-1, t.shape[1])
    z = flat(z)
    return torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1), flat(colors)


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("model", type=folder)
    a = p.parse_args()
    torch.set_grad_enabled(False)
    vae = AutoencoderKL.from_pretrained(a.model / "vae", dtype=torch.float32).eval()
    pictures = sorted((a.model / "pictures").glob("*.png"))
    sources = [read_images(a.data / "data.npz")]
    if pictures:
        sources.append(np.stack([np.asarray(Image.open(f).convert("RGB")) for f in pictures]))
    pairs = [rows(vae, images) for images in sources]
    weigh = lambda t: t / len(t) ** 0.5
    x, y = (torch.cat([weigh(pair[k]) for pair in pairs]) for k in (0, 1))
    map_ = torch.linalg.lstsq(x, y).solution
    for (u, v), name in zip(pairs, ("plain", "pictures"), strict=False):
        error = (u @ map_ - v).pow(2)
        print(f"# {name}: error {error.mean().sqrt():.3f}, explains {1 - error.sum() / (v - v.mean(0)).pow(2).sum():.2f} of the variance")
    values = [[round(value, 5) for value in row] for row in map_.tolist()]
    print(json.dumps({"preview": {"factors": values[:-1], "bias": values[-1]}}))


if __name__ == "__main__":
    main()
