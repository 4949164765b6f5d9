#!/usr/bin/env python3
"""Give the VAE's latents zero mean and standard deviation 1/0.18215 in every channel, so that SD 1.x's own scaling factor
holds exactly. The change goes into the 1x1 convolutions before and after the latents; pictures stay what they were.
"""

import pathlib

import torch
from diffusers import AutoencoderKL

from common import SCALE, folder, latents, parser, read_images


def fold(vae, mean, deviation):
    """z becomes (z - mean) / deviation, and the decoder undoes it."""
    before, after, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.weight[:n] /= deviation.view(n, 1, 1, 1)
    before.bias[:n] = (before.bias[:n] - mean) / deviation
    before.bias[n:] -= 2 * deviation.log()  # the log variances
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= deviation.view(1, n, 1, 1)


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("vae", type=folder)
    p.add_argument("out", type=pathlib.Path)
    a = p.parse_args()
    torch.set_grad_enabled(False)
    images = read_images(a.data / "data.npz")[::3]
    vae = AutoencoderKL.from_pretrained(a.vae).eval()
    z = latents(vae, images) / SCALE
    sample = vae.decode(z[:8]).sample
    mean = z.mean((0, 2, 3))
    fold(vae, mean, z.std((0, 2, 3)) * SCALE)
    z = latents(vae, images)
    change = (vae.decode(z[:8] / SCALE).sample - sample).abs().max().item()
    vae.register_to_config(scaling_factor=SCALE)
    vae.save_pretrained(a.out)
    print("scaled latents: mean", z.mean((0, 2, 3)).tolist(), "deviation", z.std((0, 2, 3)).tolist(), "decoded pictures changed by", change)


if __name__ == "__main__":
    main()
