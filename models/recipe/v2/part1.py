#!/usr/bin/env python3
"""Part 1: the autoencoder, the CLIP that ships, and the judge, an independent CLIP that is never shown to the model.

WORK gets vae/, clip/ and judge.pt. Stopped or out of time it goes on where it was.
"""

import json
import time

import torch
import torch.nn.functional as F
from transformers import CLIPImageProcessor, CLIPTokenizer

import nets
from compose import Composer, Shares, fits
from loop import SCALE, Pool, Stage, arguments, encoded, half, prepare, token_ids
from normalize_vae import fold
from train_vae import gradient_l1

SPLIT = {"vae": 0.56, "clip": 0.22, "judge": 0.22}  # of --total
LENGTH = 32  # tokens of the longest caption that training meets
KL = 1e-4


def pools(a, composer, n, shares):
    """A pool, smaller in a rehearsal."""
    began = time.monotonic()
    pool = Pool(composer, 64 if a.tiny else n, shares)
    print(f"{len(pool.captions)} pictures made in {time.monotonic() - began:.0f} s", flush=True)
    return pool


def train_vae(a, stage, pool):
    """L1, L2, L1 of the gradients at two sizes, and a tiny KL term; a wide spread of latents in scenes is pulled back."""
    while stage.going():
        x = pool.floats(torch.randint(len(pool.captions), (4 if a.tiny else 96,), device=a.device))
        x = x.contiguous(memory_format=torch.channels_last)
        with half(a.device):
            posterior = stage.network.encode(x).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float().clamp(-30, 20)
            y = stage.network.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).sample.float()
        d = y - x
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        loss = d.abs().mean() + 0.5 * d.pow(2).mean() + 0.5 * gradient_l1(d) + 0.25 * gradient_l1(F.avg_pool2d(d, 2)) + KL * kl
        stage.descend(loss, d.detach().pow(2).mean())
    stage.close()


@torch.no_grad()
def normalized(a, vae, pool):
    """The VAE with latents of mean 0 and deviation 1/0.18215, as SD 1.x's scaling factor wants it, and its quality."""
    vae.eval().to(memory_format=torch.contiguous_format)
    z = encoded(vae, pool, a.device).float() / SCALE
    fold(vae, z.mean((0, 2, 3)), z.std((0, 2, 3)) * SCALE)
    vae.register_to_config(scaling_factor=SCALE)
    x = pool.floats(torch.arange(min(512, len(pool.captions)), device=a.device))
    y = torch.cat([vae.decode(vae.encode(b).latent_dist.mean).sample.clamp(-1, 1) for b in x.split(64)])
    db = 10 * torch.log10(4 / (x - y).pow(2).mean((1, 2, 3)))
    z = encoded(vae, pool, a.device).float()
    return {"psnr_mean": db.mean().item(), "psnr_min": db.min().item(), "mean": z.mean().item(), "deviation": z.std().item(), "largest": z.abs().max().item()}


def augmented(x):
    """Scaled and moved a little; what was beyond the border is its nearest pixel."""
    n = len(x)
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / (0.88 + 0.2 * torch.rand(n, device=x.device))
    theta[:, :, 2] = (torch.rand(n, 2, device=x.device) - 0.5) * 0.16
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False, padding_mode="border")


def contrast(pictures, texts, right, scale):
    """The symmetric loss with several right answers."""
    logits = texts @ pictures.T * scale.exp().clamp(max=60)
    return sum(-(F.log_softmax(logits, d) * right / right.sum(d, keepdim=True).clamp(min=1)).sum(d).mean() for d in (1, 0)) / 2


def clip_features(model, x, ids):
    """Unit vectors of the CLIP that ships."""
    found = model.get_image_features(pixel_values=x), model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
    return tuple(F.normalize((f if torch.is_tensor(f) else f.pooler_output).float(), dim=-1) for f in found)


def train_clip(a, stage, pool, ids, both, scale):
    """Either CLIP: `both(x, ids)` gives the features."""
    n = min(16 if a.tiny else 1024, len(pool.captions))
    while stage.going():
        some = torch.randperm(len(pool.captions))[:n] if len(pool.captions) < 4 * n else torch.randint(len(pool.captions), (n,))
        x = augmented(pool.floats(some.to(a.device)))
        right = fits(pool.shows[some], pool.said[some]).to(a.device)
        with half(a.device):
            pictures, texts = both(x, ids[some].to(a.device))
        stage.descend(contrast(pictures, texts, right, scale))
    stage.close()


@torch.no_grad()
def retrieval(a, pool, ids, both, n=512):
    """How often the nearest of n captions fits a picture."""
    n = min(n, len(pool.captions))
    some = torch.arange(n)
    pictures, texts = zip(*(both(pool.floats(b.to(a.device)), ids[b].to(a.device)) for b in some.split(128)), strict=True)
    nearest = (torch.cat(pictures) @ torch.cat(texts).T).argmax(1).cpu()
    return fits(pool.shows[some], pool.said[some])[nearest, some].mean().item()


def main():
    p = arguments(__doc__)
    p.add_argument("--total", type=int, default=0, help="wall time of this part over all runs (that of this run)")
    a = p.parse_args()
    prepare(a)
    until, total, numbers = time.monotonic() + a.seconds, a.total or a.seconds, {}
    tokenizer = CLIPTokenizer.from_pretrained(a.pack / "tokenizer")
    vocabulary, end = len(tokenizer), tokenizer.eos_token_id
    budget = {k: v * total for k, v in SPLIT.items()}
    composer = Composer(a.pack, a.device, a.seed)
    pool = pools(a, composer, 60_000, Shares(unsaid=0.25))
    held = pools(a, composer, 2_000, Shares())

    vae = nets.vae(a.tiny).to(a.device).to(memory_format=torch.channels_last)
    print(f"vae {nets.count(vae):.2f} M weights", flush=True)
    stage = Stage("vae", vae, a.work / "vae.pt", budget["vae"], 1e-3, until, average=0.998)
    train_vae(a, stage, pool)
    if not stage.finished():
        raise SystemExit("part 1: to be continued (vae)")
    numbers["vae"] = normalized(a, vae, held)
    vae.save_pretrained(a.work / "vae")
    print(json.dumps(numbers["vae"]), flush=True)

    ids, held_ids = token_ids(tokenizer, pool.captions, LENGTH), token_ids(tokenizer, held.captions, LENGTH)
    torch.manual_seed(a.seed + 1)
    clip = nets.clip(vocabulary, a.tiny).to(a.device)
    both = lambda x, t: clip_features(clip, x, t)
    stage = Stage("clip", clip, a.work / "clip.pt", budget["clip"], 1e-3, until, decay=0.02, betas=(0.9, 0.98))
    train_clip(a, stage, pool, ids, both, clip.logit_scale)
    numbers["clip"] = retrieval(a, held, held_ids, both)
    clip.save_pretrained(a.work / "clip")
    tokenizer.save_pretrained(a.work / "clip")
    CLIPImageProcessor(
        do_resize=True, size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128}, do_center_crop=True, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    ).save_pretrained(a.work / "clip")
    if not stage.finished():
        raise SystemExit("part 1: to be continued (clip)")

    torch.manual_seed(a.seed + 77_777)
    judge = nets.Judge(vocabulary, a.tiny).to(a.device)
    both = lambda x, t: (judge.picture_features(x), judge.text_features(t, end))
    stage = Stage("judge", judge, a.work / "judge.state", budget["judge"], 1e-3, until, decay=0.05, betas=(0.9, 0.98))
    train_clip(a, stage, pool, ids, both, judge.scale)
    numbers["judge"] = retrieval(a, held, held_ids, both)
    torch.save({"judge": judge.state_dict(), "tiny": a.tiny, "vocabulary": vocabulary, "end": end}, a.work / "judge.pt")
    (a.work / "part1.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers), flush=True)
    if not stage.finished():
        raise SystemExit("part 1: to be continued (judge)")


if __name__ == "__main__":
    main()
