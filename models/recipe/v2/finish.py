#!/usr/bin/env python3
"""The end of part 3: a text encoder that blanks its padding itself, the two experts, and OUT, the model folder in half precision.

Experts are LoRAs: "ink" draws plain captions in ink, "birds" knows the birds from all their drawings and little else.
"""

import copy
import json
import pathlib
import shutil
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from transformers import CLIPTextModel, CLIPTokenizer

from compose import Composer, Shares
from finalize import CLIP, EXPERT, PARTS, old_names
from finalize import copy as copy_half
from layout import INDEX, scheduler
from loop import Pool, Stage, arguments, encoded, half, prepare, token_ids

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
BIRDS = "bird chicken rooster chick eagle duck swan owl flamingo peacock parrot penguin dove turkey goose phoenix dodo".split()
EXPERTS = {"ink": lambda it, name: it["style"] == "ink", "birds": lambda it, name: any(w in name.split() for w in BIRDS)}


def blanked(a, seconds, until):
    """Tunes the text encoder to give the empty prompt's states after the end token; words and end token stay."""
    tokenizer = CLIPTokenizer.from_pretrained(a.pack / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(a.work / "text_encoder").float().to(a.device)
    before = copy.deepcopy(encoder).eval().requires_grad_(False)
    empty = before(token_ids(tokenizer, [""], 77).to(a.device))[0].detach()
    captions = Pool(Composer(a.pack, "cpu", a.seed + 5), 32 if a.tiny else 6_000, Shares()).captions
    ids = token_ids(tokenizer, [*captions, *[""] * (len(captions) // 20)], 77).to(a.device)
    stage = Stage("blank", encoder.train(), a.work / "blank.pt", seconds, 5e-4, until, decay=0.0, average=0.99, warmup=20)
    while stage.going():
        some = ids[torch.randint(len(ids), (4 if a.tiny else 128,), device=a.device)]
        end = (some == tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        wanted = torch.where((torch.arange(77, device=a.device)[None] > end)[..., None], empty, before(some)[0])
        mse = (encoder(some)[0] - wanted).pow(2).mean()
        stage.descend(4 * mse, mse.detach())
    stage.close()
    encoder.eval().save_pretrained(a.work / "text_encoder-blank")


def expert(a, name, seconds, until):
    """A LoRA of rank 8 beside the UNet's attention, on the icons that EXPERTS names, under plain captions."""
    wanted = EXPERTS[name]
    composer = Composer(a.pack, a.device, a.seed + 9, lambda it, meta: wanted(it, meta["concepts"][it["concept"]]["phrases"][0]))
    pool = Pool(composer, 32 if a.tiny else 4_000, Shares(scene=0, pair=0, three=0, inked=0))
    vae = AutoencoderKL.from_pretrained(a.work / "vae").to(a.device).eval()
    z = encoded(vae, pool, a.device).float()
    tokenizer = CLIPTokenizer.from_pretrained(a.pack / "tokenizer")
    # The style is the expert's own: its captions do not say it.
    captions = pool.captions
    for style in composer.styles:
        captions = [plain(c, style) for c in captions]
    text = CLIPTextModel.from_pretrained(a.work / "text_encoder-blank").to(a.device).eval()
    with torch.no_grad():
        states = torch.cat([text(b.to(a.device))[0] for b in token_ids(tokenizer, [*captions, ""], 77).split(256)])
    unet = UNet2DConditionModel.from_pretrained(a.work / "unet").to(a.device).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, init_lora_weights="gaussian", target_modules=TARGETS))
    stage = Stage(name, unet, a.work / f"{name}.pt", seconds, 2e-3, until, decay=0.0, average=0.99, warmup=20)
    ab, n = scheduler().alphas_cumprod.to(a.device), 4 if a.tiny else 256
    while stage.going():
        some = torch.randint(len(z), (n,), device=a.device)
        t = ((torch.arange(n, device=a.device) + torch.rand(n, device=a.device)) * 1000 / n).long().clamp(max=999)
        noise, s = torch.randn_like(z[some]), ab[t].view(-1, 1, 1, 1)
        words = states[torch.where(torch.rand(n, device=a.device) < 0.1, len(states) - 1, some)]
        with half(a.device):
            eps = unet(s.sqrt() * z[some] + (1 - s).sqrt() * noise, t, words).sample
        stage.descend(F.mse_loss(eps.float(), noise))
    stage.close()
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(a.work / f"expert-{name}", unet_lora_layers={k: v.float().cpu() for k, v in layers.items()})


def plain(caption, style):
    """A caption without its word of style."""
    for old, new in ((f"an {style} emoji of ", ""), (f"a {style} emoji of ", ""), (f" in {style} style", ""), (f", {style} emoji", "")):
        caption = caption.replace(old, new)
    return caption


def assemble(a, out):
    """OUT in f16: SD 1.x's folder with clip/ and the experts. Returns the bytes of each part."""
    for part, files in PARTS.items():
        source = {"": a.work, "scheduler": a.work / "scheduler", "tokenizer": a.pack / "tokenizer", "text_encoder": a.work / "text_encoder-blank"}.get(part, a.work / part)
        copy_half(source, out / part, files, old_names if part == "text_encoder" else lambda k: k)
    copy_half(a.work / "clip", out / "clip", CLIP)
    for name in PARTS["tokenizer"]:
        shutil.copy(a.pack / "tokenizer" / name, out / "clip")
    for name in EXPERTS:
        copy_half(a.work / f"expert-{name}", out / f"expert-{name}", EXPERT)
    return {d.name: sum(f.stat().st_size for f in d.iterdir()) for d in sorted(out.iterdir()) if d.is_dir()}


def main():
    p = arguments(__doc__)
    p.add_argument("out", type=pathlib.Path, help="must not exist")
    a = p.parse_args()
    if a.out.exists():
        p.error(f"{a.out} exists already")
    prepare(a)
    until, third = time.monotonic() + a.seconds, a.seconds / 3
    scheduler().save_pretrained(a.work / "scheduler")
    (a.work / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    blanked(a, third, until)
    for name in EXPERTS:
        expert(a, name, third, until)
    sizes = assemble(a, a.out)
    print(json.dumps(sizes), f"{sum(sizes.values()) / 1e6:.1f} MB in all", flush=True)


if __name__ == "__main__":
    main()
