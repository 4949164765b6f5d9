#!/usr/bin/env python3
"""Teach a trained VAE scenes and colored backgrounds without moving the latents of the plain pictures.

Half of each batch plain, half scenes. L1, L2 and L1 of the gradients; a pull of the plain latents to where they were; a
soft limit on the scenes' latents. Reads SCENES.npz.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from common import (
    SCALE, Average, Budget, add_training_arguments, folder, latents, parser, positive, prepare, psnr, read_images, set_rate, smooth, to_tensor,
)
from train_vae import gradient_l1

WIDEST = 2.5  # scaled latents beyond this are pulled back


def losses(vae, x, anchors):
    """Loss, and its parts: squared error of plain and scene pictures, distance from the anchors, excess width."""
    half = len(anchors)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        mean = posterior.mean.float()
        y = vae.decode(mean + posterior.std.float().clamp(max=1) * torch.randn_like(mean)).sample.float()
    d, z = y - x, mean * SCALE
    anchor = F.mse_loss(z[:half], anchors)
    wide = (z[half:].abs() - WIDEST).clamp(min=0).pow(2).mean()
    sharpness = -posterior.logvar.float().clamp(min=-12).mean()  # keeps the posterior from narrowing without end
    loss = d.abs().mean() + 0.5 * d.pow(2).mean() + 0.5 * gradient_l1(d) + 0.2 * anchor + 0.05 * wide + 1e-4 * sharpness
    parts = torch.stack([d[:half].pow(2).mean(), d[half:].pow(2).mean(), anchor, wide]).detach()
    return loss, parts


@torch.no_grad()
def quality(vae, images):
    """PSNR and the extent of the latents."""
    x, z = to_tensor(images), latents(vae, images)
    values = torch.cat([psnr(vae.decode(b / SCALE).sample.clamp(-1, 1), t) for b, t in zip(z.split(32), x.split(32), strict=True)])
    return {"psnr_mean": values.mean().item(), "psnr_min": values.min().item(), "latent_std": z.std().item(), "latent_max": z.abs().max().item()}


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("scenes", type=pathlib.Path, help="path without ending, of make_scenes.py")
    p.add_argument("vae", type=folder)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--half", type=positive, default=4, help="plain pictures, and scenes, per batch (%(default)s)")
    add_training_arguments(p, lr=8e-4)
    a = p.parse_args()
    rng = prepare(a)
    plain, scenes = read_images(a.data / "data.npz"), read_images(a.scenes.with_suffix(".npz"))
    vae = AutoencoderKL.from_pretrained(a.vae).float()
    anchors = latents(vae, plain)
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), a.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average, budget, run = Average(vae.parameters(), 0.995), Budget(a, warmup=50), None
    while (share := budget.share()) < 1:
        set_rate(optimizer, budget.rate(0.03, share))
        i, j = rng.integers(0, len(plain), a.half), rng.integers(0, len(scenes), a.half)
        x = torch.cat([to_tensor(plain[i]), to_tensor(scenes[j])]).contiguous(memory_format=torch.channels_last)
        loss, parts = losses(vae, x, anchors[torch.from_numpy(i)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        budget.step += 1
        run = smooth(run, parts)
        if budget.step % 100 == 0:
            decibels = (10 * torch.log10(4 / run[:2])).tolist()
            print(f"{budget.elapsed():.0f} s, step {budget.step}: plain {decibels[0]:.2f} dB, scenes {decibels[1]:.2f} dB, anchor {run[2]:.4f}, wide {run[3]:.4f}", flush=True)
    average.apply()
    vae.eval().to(memory_format=torch.contiguous_format).save_pretrained(a.out)
    print(budget.step, "steps:", json.dumps({"plain": quality(vae, plain[::8]), "scenes": quality(vae, scenes[::40])}))


if __name__ == "__main__":
    main()
