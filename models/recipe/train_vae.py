#!/usr/bin/env python3
"""Train the autoencoder, 64x64 pictures to 4x16x16 latents, on the plain pictures.

First crops of 32x32 where there is something to see, then whole pictures. L1, L2, L1 of the gradients and a tiny KL term;
the moving average is saved. normalize_vae.py then gives the latents their scale.
"""

import json
import pathlib

import torch
from diffusers import AutoencoderKL

from common import Average, Budget, add_training_arguments, folder, parser, prepare, psnr, read_images, set_rate, smooth, to_tensor

CROP, CROPS, WHOLE = 32, 16, 6
CROP_SHARE = 0.6  # of the budget
KL = 1e-4


def network():
    """Three levels, factor 4."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128), layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=64, act_fn="silu",
    )


def crops(x, rng):
    """Of two random crops of a picture the busier one, mirrored half of the time."""
    out = []
    for i in rng.integers(0, len(x), CROPS):
        pair = []
        for _ in range(2):
            top, left = rng.integers(0, 64 - CROP + 1, 2)
            pair.append(x[i, :, top : top + CROP, left : left + CROP])
        best = max(pair, key=lambda c: c.std().item())
        out.append(best.flip(-1) if rng.random() < 0.5 else best)
    return torch.stack(out)


def whole(x, rng):
    """A few pictures, all mirrored half of the time."""
    batch = x[torch.from_numpy(rng.integers(0, len(x), WHOLE))]
    return batch.flip(-1) if rng.random() < 0.5 else batch


def gradient_l1(d):
    """Mean absolute difference of neighbors in a difference of pictures."""
    return (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()


def loss_of(vae, x):
    """The training loss and the plain squared error."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float().clamp(-30, 20)
        y = vae.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).sample.float()
    d = y - x
    squared = d.pow(2).mean()
    kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
    return d.abs().mean() + 0.5 * squared + 0.5 * gradient_l1(d) + KL * kl, squared.item()


@torch.no_grad()
def quality(vae, x):
    """PSNR over every fourth picture."""
    values = torch.cat([psnr(vae.decode(vae.encode(b).latent_dist.mean).sample.clamp(-1, 1), b) for b in x[::4].split(32)])
    return {"psnr_mean": values.mean().item(), "psnr_min": values.min().item()}


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("out", type=pathlib.Path)
    add_training_arguments(p, lr=2e-3)
    a = p.parse_args()
    rng = prepare(a)
    x = to_tensor(read_images(a.data / "data.npz"))
    vae = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), a.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average, budget, run = Average(vae.parameters(), 0.995), Budget(a, warmup=100), None
    while (share := budget.share()) < 1:
        set_rate(optimizer, budget.rate(0.03, share))
        batch = crops(x, rng) if share < CROP_SHARE else whole(x, rng)
        loss, squared = loss_of(vae, batch.contiguous(memory_format=torch.channels_last))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        budget.step += 1
        run = smooth(run, squared)
        if budget.step % 100 == 0:
            print(f"{budget.elapsed():.0f} s, step {budget.step}: {10 * torch.log10(torch.tensor(4 / run)):.2f} dB", flush=True)
    average.apply()
    vae.eval().to(memory_format=torch.contiguous_format).save_pretrained(a.out)
    print(budget.step, "steps:", json.dumps(quality(vae, x)))


if __name__ == "__main__":
    main()
