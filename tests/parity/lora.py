"""One set of low-rank changes of tiny-sd1 in the names of every program, and the weights that PyTorch merges from it.

lora/kohya.safetensors      lora_unet_..., lora_te_..., alpha as tensors; one convolution with a kernel in the middle (LoCon)
lora/peft.safetensors       unet.X.lora_A.weight, text_encoder.X.lora_A.weight, alpha in diffusers' metadata
lora/default.safetensors    base_model.model.X.lora_A.default.weight: the UNet's alone, alpha = rank
lora/diffusers.safetensors  X.lora.down.weight, text_encoder.X.lora_linear_layer.down.weight, X.alpha
lora/processor.safetensors  the names before 0.22: X.attn1.processor.to_q_lora.down.weight, self_attn.to_q_lora: attention alone
lora/merged.safetensors     FILE|full name: weight + alpha / rank * up down, for every layer of every file
"""

import json

import torch
from safetensors.torch import load_file

from fixtures import OUT, save_tensors

B = "down_blocks.0.attentions.0"
T = f"{B}.transformer_blocks.0"
UNET = [
    f"{T}.attn1.to_q", f"{T}.attn1.to_out.0", f"{T}.attn2.to_k", f"{T}.ff.net.0.proj", f"{B}.proj_in", "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.resnets.0.time_emb_proj", "down_blocks.0.downsamplers.0.conv", "conv_in", "time_embedding.linear_1",
]  # fmt: skip
TEXT = ["text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.self_attn.out_proj", "text_model.encoder.layers.1.mlp.fc1"]
MIDDLE = "down_blocks.0.resnets.0.conv1"
OLD = {"q_proj": "to_q", "out_proj": "to_out"}


def half(t):
    return t.half().float()


def generate():
    base = {f"unet.{k}": v.float() for k, v in load_file(OUT / "tiny-sd1/unet/diffusion_pytorch_model.safetensors").items()}
    base |= {f"text_encoder.{k}": v.float() for k, v in load_file(OUT / "tiny-sd1/text_encoder/model.safetensors").items()}
    generator = torch.Generator().manual_seed(91)
    draw = lambda *shape: half(torch.randn(shape, generator=generator) * 0.2)
    files = {name: {} for name in ("kohya", "peft", "default", "diffusers", "processor")}
    merged, kernels = {}, {}
    alphas = {"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {}, "text_encoder.r": 2, "text_encoder.lora_alpha": 1}
    for layer in [f"unet.{n}" for n in UNET] + [f"text_encoder.{n}" for n in TEXT]:
        part, path = layer.split(".", 1)
        weight = base[f"{layer}.weight"]
        rank = 3 if part == "unet" else 2
        o, i, *k = weight.shape
        down, up = draw(rank, i, *k), draw(o, rank, *[1 for _ in k])
        flat = layer.replace("unet.", "lora_unet.", 1).replace("text_encoder.", "lora_te.", 1).replace(".", "_")
        # Of a scale that is no power of two, another for each layer.
        alpha = rank * (0.3 + 0.1 * len(merged))

        def add(file, tensors, product, factor):
            files[file] |= tensors
            merged[f"{file}|{layer}.weight"] = weight + factor * product.reshape(weight.shape)

        product = up.flatten(1) @ down.flatten(1)
        number = torch.tensor(alpha, dtype=torch.float32)
        if path == MIDDLE:
            first, middle = draw(rank, i, 1, 1), draw(rank, rank, *k)
            through = torch.einsum("or,rskl,si->oikl", up.flatten(1), middle, first.flatten(1))
            add("kohya", {f"{flat}.lora_down.weight": first, f"{flat}.lora_mid.weight": middle, f"{flat}.lora_up.weight": up, f"{flat}.alpha": number}, through, alpha / rank)
        else:
            add("kohya", {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": number}, product, alpha / rank)
        factor = 6 / 3 if part == "unet" else 1 / 2
        if path == "conv_in":
            alphas["unet.alpha_pattern"][path], factor = 1.5, 1.5 / 3
        add("peft", {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, product, factor)
        if part == "unet":
            add("default", {f"base_model.model.{path}.lora_A.default.weight": down, f"base_model.model.{path}.lora_B.default.weight": up}, product, 1.0)
        kind = "lora" if part == "unet" else "lora_linear_layer"
        add("diffusers", {f"{layer}.{kind}.down.weight": down, f"{layer}.{kind}.up.weight": up, f"{layer}.alpha": number}, product, alpha / rank)
        for mark in (".attn1.", ".attn2."):
            if mark in layer:
                old = layer.removesuffix(".0").replace(mark, f"{mark}processor.")
                add("processor", {f"{old}_lora.down.weight": down, f"{old}_lora.up.weight": up}, product, 1.0)
        if ".self_attn." in layer:
            head, last = layer.rsplit(".", 1)
            old = f"{head}.{OLD[last]}"
            add("processor", {f"{old}_lora.down.weight": down, f"{old}_lora.up.weight": up}, product, 1.0)
    for name, tensors in files.items():
        metadata = {"lora_adapter_metadata": json.dumps(alphas)} if name == "peft" else {}
        save_tensors(OUT / "lora" / f"{name}.safetensors", {k: v.half() if v.dim() else v for k, v in tensors.items()}, **metadata)
    save_tensors(OUT / "lora" / "merged.safetensors", merged)
    return {k: len(v) for k, v in files.items()}
