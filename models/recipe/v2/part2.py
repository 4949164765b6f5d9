#!/usr/bin/env python3
"""Part 2: the UNet, with the text encoder (the CLIP's text tower, at a tenth of the learning rate) beside it.

Goes on from WORK/unet.pt, or from the smaller WORK/unet.slim that another machine's run left. Part 3 is the same with the rest of the
time, and then finish.py.

From the end token on a UNet is shown the empty prompt's states, or those after the end token alone, half of the pictures each: words carry
the content, and attention edits on a word's column act on that word.
"""

import time

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

import nets
from compose import Composer, Shares
from layout import scheduler, text_encoder
from loop import Pool, Stage, arguments, encoded, half, prepare, token_ids

LENGTH = 32  # positions that are computed; the rest of the 77 is the empty prompt's
DROP = 0.12  # share without words


def examples(a, vae, tokenizer, n):
    """Latents and caption ids of n pictures that are not kept."""
    composer, latents, ids = Composer(a.pack, a.device, a.seed + 1000 * a.run), [], []
    while (left := n - sum(map(len, latents))) > 0:
        pool = Pool(composer, min(20_000, left), Shares())
        latents.append(encoded(vae, pool, a.device))
        ids.append(token_ids(tokenizer, pool.captions, LENGTH))
    return torch.cat(latents), torch.cat(ids)


def states(encoder, ids, none, end, blank_end):
    """Text states [n, 77, width]: a caption's words, then the empty prompt's; `blank_end` [n]: at the end token already."""
    empty = encoder(none)[0][0]
    own = encoder(ids)[0]
    stop = (ids == end).int().argmax(1, keepdim=True) + (~blank_end).int()[:, None]
    place = torch.arange(ids.shape[1], device=ids.device)[None]
    own = torch.where((place >= stop)[..., None], empty[: ids.shape[1]].to(own), own)
    return torch.cat([own, empty[ids.shape[1] :].to(own).expand(len(ids), -1, -1)], 1)


def main():
    p = arguments(__doc__)
    p.add_argument("--total", type=int, default=0, help="wall time of all runs together (that of this run)")
    p.add_argument("--run", type=int, default=1, help="number of this run: each makes other pictures (%(default)s)")
    p.add_argument("--batch", type=int, default=1024, help="%(default)s")
    p.add_argument("--pictures", type=int, default=240_000, help="how many are made for this run (%(default)s)")
    a = p.parse_args()
    prepare(a)
    until = time.monotonic() + a.seconds
    if a.tiny:
        a.batch, a.pictures = 8, 64
    vae = AutoencoderKL.from_pretrained(a.work / "vae").to(a.device).eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(a.pack / "tokenizer")
    end = tokenizer.eos_token_id
    latents, ids = examples(a, vae, tokenizer, a.pictures)
    print(f"{len(latents)} pictures, latents of deviation {latents.float().std():.3f}", flush=True)
    none, ids = token_ids(tokenizer, [""], 77).to(a.device), ids.to(a.device)

    network = nn.ModuleDict({"unet": nets.unet(a.tiny), "text": text_encoder(a.work / "clip")}).to(a.device).train()
    unet, text = network["unet"], network["text"]
    print(f"unet {nets.count(unet):.2f} M weights, text encoder {nets.count(text):.2f} M", flush=True)
    state, slim = a.work / "unet.pt", a.work / "unet.slim"
    source = state if state.exists() or not slim.exists() else slim
    stage = Stage("unet", network, source, a.total or a.seconds, 1e-3, until, average=0.9995, warmup=200, groups=[(unet, 1.0), (text, 0.1)])
    stage.path = state
    ab = scheduler().alphas_cumprod.to(a.device)
    snr = ab / (1 - ab)
    weight = snr.clamp(max=5) / snr  # min-SNR-5 for a network that predicts the noise
    while stage.going():
        some = torch.randint(len(latents), (a.batch,), device=a.device)
        z = latents[some].float()
        t = ((torch.arange(a.batch, device=a.device) + torch.rand(a.batch, device=a.device)) * 1000 / a.batch).long().clamp(max=999)
        noise, s = torch.randn_like(z), ab[t].view(-1, 1, 1, 1)
        words = torch.where(torch.rand(a.batch, 1, device=a.device) < DROP, none[:, :LENGTH], ids[some])
        with half(a.device):
            said = states(text, words, none, end, torch.rand(a.batch, device=a.device) < 0.5)
            eps = unet(s.sqrt() * z + (1 - s).sqrt() * noise, t, said).sample
        errors = (eps.float() - noise).pow(2).mean((1, 2, 3))
        stage.descend((errors * weight[t]).mean(), errors.detach().mean())
    stage.save(slim=True)
    stage.close()
    network.eval().float()
    unet.save_pretrained(a.work / "unet")
    text.save_pretrained(a.work / "text_encoder")
    if not stage.finished():
        raise SystemExit("part 2: to be continued")


if __name__ == "__main__":
    main()
