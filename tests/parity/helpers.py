"""Small random helpers in transformers folders, with what transformers makes of them.

tiny-dino    DINOv2: position embeddings stretched to another size, layer scales away from 1
tiny-swiglu  DINOv2 with the gated feed-forward part of the giant model
tiny-depth   Depth Anything: four stages of all three kinds, a side that is not square, maps of odd sizes
"""

import json

import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, Dinov2Model

from fixtures import OUT, distance, random_weight, save_tensors

DINO = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=3, mlp_ratio=2, image_size=40, patch_size=8)


def fill(model, seed):
    """Every weight anew, as an f16 file holds it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            value = random_weight(name, p.shape, generator, 3.0)
            p.copy_(value.half().float())
    return model.eval()


def store(name, model, config, **tensors):
    folder = OUT / name
    # save_pretrained writes the names that files on the hub have; the modules' own differ.
    model.half().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_tensors(folder / "reference.safetensors", tensors)


def dino(name, seed, **extra):
    config = Dinov2Config(**DINO, **extra)
    model = fill(Dinov2Model(config), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    own, other = torch.randn(2, 3, 40, 40, generator=generator), torch.randn(1, 3, 24, 56, generator=generator)
    with torch.no_grad():
        out = {"own": own, "other": other}
        for key in ("own", "other"):
            out[f"{key}.hidden"] = model(out[key]).last_hidden_state
        exact = model.double()(own.double()).last_hidden_state
    kept = {"model_type": "dinov2", **DINO, **extra, "layer_norm_eps": config.layer_norm_eps}
    store(name, model.float(), kept, **out)
    return distance(out["own.hidden"], exact)


def depth():
    backbone = dict(DINO, model_type="dinov2", out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True)
    keys = dict(
        reassemble_hidden_size=24, reassemble_factors=[4, 2, 1, 0.5], neck_hidden_sizes=[6, 8, 12, 16], fusion_hidden_size=8,
        head_hidden_size=4, patch_size=8,
    )
    config = DepthAnythingConfig(backbone_config=Dinov2Config(**{k: v for k, v in backbone.items() if k != "model_type"}), **keys)
    model = fill(DepthAnythingForDepthEstimation(config), 31)
    with torch.no_grad():
        # The last activation would hide most of it.
        model.head.conv3.bias.fill_(4.0)
    pixels = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(32))
    with torch.no_grad():
        found = model(pixels).predicted_depth
        exact = model.double()(pixels.double()).predicted_depth
    assert (found > 0).float().mean() > 0.9, "the last activation hides the depth"
    store("tiny-depth", model.float(), dict(keys, model_type="depth_anything", backbone_config=backbone), pixels=pixels, depth=found)
    return distance(found, exact)


def generate():
    rounding = [dino("tiny-dino", 11), dino("tiny-swiglu", 21, use_swiglu_ffn=True), depth()]
    return "rounding " + ", ".join(f"{r:.1e}" for r in rounding)
