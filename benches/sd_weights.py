#!/usr/bin/env python3
"""Writes a diffusers folder with the shapes of Stable Diffusion 1.5 or 2.1 and random weights (seeded, f16).

    python benches/sd_weights.py 1.5 /tmp/sd15          about 2.1 GB, a minute
    python benches/sd_weights.py 2.1 /tmp/sd21          about 2.6 GB

The tokenizer is the embedded model's; its ids lie inside SD's vocabulary. benches/sd_reference.py then stores PyTorch's
predictions beside the weights.
"""

import argparse
import json
import pathlib
import shutil
import sys

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "parity"))
from fixtures import MODEL, random_weight  # noqa: E402

UNET = dict(sample_size=64, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2)
TEXT = dict(vocab_size=49408, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=1)
VAE = dict(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32, latent_channels=4, sample_size=512,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215,
)
SCHEDULE = {"_class_name": "DDIMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1}
VERSIONS = {
    "1.5": {
        "unet": dict(UNET, attention_head_dim=8, cross_attention_dim=768),
        "text": dict(TEXT, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu"),
        "schedule": SCHEDULE,
    },
    "2.1": {
        "unet": dict(UNET, attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True, upcast_attention=True, sample_size=96),
        "text": dict(TEXT, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu", projection_dim=512),
        "schedule": dict(SCHEDULE, prediction_type="v_prediction"),
    },
}


def write_network(folder, network, generator):
    """config.json and random weights for every parameter; `network` has shapes only."""
    folder.mkdir(parents=True)
    config = network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
    config = {k: v for k, v in config.items() if not k.startswith("_") or k == "_class_name"}
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=list) + "\n")
    text = isinstance(network, CLIPTextModel)
    name = lambda key: key if not text or key.startswith("text_model.") else f"text_model.{key}"
    tensors = {name(k): random_weight(k, p.shape, generator, sharp=1.5).half() for k, p in network.named_parameters()}
    save_file(tensors, folder / ("model.safetensors" if text else "diffusion_pytorch_model.safetensors"), metadata={"format": "pt"})
    return sum(t.numel() for t in tensors.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", choices=VERSIONS)
    parser.add_argument("folder", type=pathlib.Path, help="where to write; must not exist, and not inside the project")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    out = a.folder.resolve()
    if out.exists():
        parser.error(f"{out} exists already")
    if ROOT in out.parents:
        parser.error("write these gigabytes outside of the project")
    spec = VERSIONS[a.version]
    generator = torch.Generator().manual_seed(a.seed)
    with init_empty_weights():
        networks = {
            "unet": UNet2DConditionModel(**spec["unet"]),
            "vae": AutoencoderKL(in_channels=3, out_channels=3, **VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**spec["text"])),
        }
    for name, network in networks.items():
        print(f"{name}: {write_network(out / name, network, generator) / 1e6:.1f} M parameters", flush=True)
    shutil.copytree(MODEL / "tokenizer", out / "tokenizer")
    (out / "scheduler").mkdir()
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(spec["schedule"], indent=1) + "\n")
    shutil.copy(MODEL / "model_index.json", out)


if __name__ == "__main__":
    main()
