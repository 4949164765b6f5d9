#!/usr/bin/env python3
"""The expert for model fusion: a LoRA under which plain captions ("a dog") come out in one style.

Writes OUT/pytorch_lora_weights.safetensors in diffusers' format (attention and feed-forward layers of the UNet).
"""

import pathlib

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from transformers import CLIPTextModel, CLIPTokenizer

from common import Budget, add_training_arguments, folder, items_of, latents, parser, positive, prepare, read_concepts, read_images, read_json, set_rate, smooth, text_ids
from icons import STYLES

BATCH, DROP, LONG = 16, 0.1, 0.4  # LONG: share of "an emoji of a dog"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]


@torch.no_grad()
def examples(a, meta):
    """Latents of the style's pictures and states of their captions: short and long in turn, the empty one last."""
    keep = [i for i in items_of(meta, concepts=read_concepts(a.concepts)) if meta["items"][i]["style"] == a.style]
    vae = AutoencoderKL.from_pretrained(a.model / "vae").float().eval()
    names = [meta["concepts"][meta["items"][i]["concept"]]["captions"][0] for i in keep]
    captions = [t for name in names for t in (name, f"an emoji of {name}")] + [""]
    tokenizer = CLIPTokenizer.from_pretrained(a.model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(a.model / "text_encoder").float().eval()
    states = torch.cat([encoder(ids)[0] for ids in text_ids(tokenizer, captions).split(64)])
    return latents(vae, read_images(a.data / "data.npz")[keep]), states


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("model", type=folder)
    p.add_argument("concepts", type=pathlib.Path, help="file with the names of the concepts")
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--style", choices=list(STYLES.values()), default="ink", help="%(default)s")
    p.add_argument("--rank", type=positive, default=16, help="%(default)s")
    add_training_arguments(p, lr=2e-3)
    a = p.parse_args()
    rng = prepare(a)
    z, states = examples(a, read_json(a.data / "meta.json"))
    unet = UNet2DConditionModel.from_pretrained(a.model / "unet").float().requires_grad_(False)
    unet.add_adapter(LoraConfig(r=a.rank, lora_alpha=a.rank, init_lora_weights="gaussian", target_modules=TARGETS))
    parameters = [q for q in unet.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(parameters, a.lr, weight_decay=0.0)
    ab = DDIMScheduler.from_pretrained(a.model / "scheduler").alphas_cumprod
    print(f"{len(z)} pictures, {sum(q.numel() for q in parameters)} parameters", flush=True)
    budget, run = Budget(a, warmup=20), None
    while (share := budget.share()) < 1:
        set_rate(optimizer, budget.rate(0.0, share))
        take = rng.integers(0, len(z), BATCH)
        captions = [len(states) - 1 if rng.random() < DROP else 2 * i + int(rng.random() < LONG) for i in take]
        t = ((torch.arange(BATCH) + torch.rand(BATCH)) * 1000 / BATCH).long().clamp(max=999)
        noise, s = torch.randn(BATCH, *z.shape[1:]), ab[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            eps = unet(s.sqrt() * z[take] + (1 - s).sqrt() * noise, t, states[captions]).sample
        loss = F.mse_loss(eps.float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        budget.step += 1
        run = smooth(run, loss.item(), 0.97)
        if budget.step % 50 == 0:
            print(f"{budget.elapsed():.0f} s, step {budget.step}: mse {run:.4f}", flush=True)
    StableDiffusionPipeline.save_lora_weights(a.out, unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)))
    print(f"{budget.step} steps: mse {run:.4f}")


if __name__ == "__main__":
    main()
