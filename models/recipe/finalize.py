#!/usr/bin/env python3
"""Put the delivery together in half precision: MODEL, the CLIP and the expert become OUT, OUT/clip and OUT/expert-ink.

The text encoder gets the key names of SD 1.x's files. Only files that a program reads are taken. The result is loaded
with diffusers and its prediction compared with that of the f32 folder.
"""

import pathlib
import shutil

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from common import folder, parser

PARTS = {
    "": ["model_index.json"],
    "scheduler": ["scheduler_config.json"],
    "tokenizer": ["tokenizer.json", "tokenizer_config.json"],
    "text_encoder": ["config.json", "model.safetensors"],
    "unet": ["config.json", "diffusion_pytorch_model.safetensors"],
    "vae": ["config.json", "diffusion_pytorch_model.safetensors"],
}
CLIP = ["config.json", "model.safetensors", "preprocessor_config.json"]
EXPERT = ["pytorch_lora_weights.safetensors"]


def half(source, target, rename=lambda k: k):
    """Copies a safetensors file in f16. Errors: a value that is no number or does not fit."""
    tensors = {rename(k): (v.half() if v.is_floating_point() else v).contiguous() for k, v in load_file(source).items()}
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise SystemExit(f"{source}: not finite in f16: {', '.join(bad)}")
    save_file(tensors, target, metadata={"format": "pt"})
    target.chmod(0o644)
    return sum(v.numel() for v in tensors.values())


def old_names(key):
    """transformers 5 leaves out the prefix that SD's text encoders have."""
    return key if key.startswith("text_model.") else f"text_model.{key}"


def copy(source, target, files, rename=lambda k: k):
    """The files of one folder. Returns the number of weights."""
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for name in files:
        if name.endswith(".safetensors"):
            count += half(source / name, target / name, rename)
        else:
            shutil.copy(source / name, target / name)
    return count


@torch.no_grad()
def compare(model, out):
    """max|difference| of text states and one prediction between the two folders, in f32 arithmetic."""
    found = []
    for path in (model, out):
        pipe = StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
        text = pipe.encode_prompt("an emoji of a dog", "cpu", 1, False)[0]
        z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        found.append((text, pipe.unet(z, 500, text).sample))
    return tuple((a - b).abs().max().item() for a, b in zip(*found, strict=True))


def main():
    p = parser(__doc__)
    p.add_argument("model", type=folder)
    p.add_argument("clip", type=folder)
    p.add_argument("expert", type=folder)
    p.add_argument("out", type=pathlib.Path, help="must not exist")
    a = p.parse_args()
    if a.out.exists():
        p.error(f"{a.out} exists already")
    for part, files in PARTS.items():
        count = copy(a.model / part, a.out / part, files, old_names if part == "text_encoder" else lambda k: k)
        if count:
            print(f"{part}: {count / 1e6:.2f} M weights")
    copy(a.clip, a.out / "clip", CLIP)
    # One tokenizer serves both; the CLIP folder has its own copy so that transformers can load it alone.
    for name in PARTS["tokenizer"]:
        shutil.copy(a.model / "tokenizer" / name, a.out / "clip")
    copy(a.expert, a.out / "expert-ink", EXPERT)
    print("f16 against f32, largest difference: text %.1e, prediction %.1e" % compare(a.model, a.out))


if __name__ == "__main__":
    main()
