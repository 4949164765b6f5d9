"""Small random models in diffusers folders, each unlike the others, with what PyTorch makes of them.

tiny-sd1      as an SD 1.x folder of 2022: few config keys, PNDM schedule, old attention names in the VAE, quick_gelu
tiny-sd2      as SD 2.x: v-prediction, linear projection, heads per level, gelu, padding with "!", VAE factor 8
tiny-foreign  widths, groups, heads, latent channels and activations that no SD model has
"""

import json
import shutil

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fixtures import OUT, distance, random_weight, save_tensors

PROMPTS = ["a dog", "An orange tiger, on a 3rd cat!"]
SWAPPED = ["a cat", "An orange tiger, on a 3rd dog!"]
TIMESTEPS = [981, 501, 1]
MERGES = "d o|do g</w>|c a|ca t</w>|a n</w>|o n</w>|e r</w>|t i|g er</w>|ti ger</w>|r a|o ra|g e</w>|n ge</w>|ora nge</w>|r d</w>"
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

MODELS = {
    "tiny-sd1": {
        "unet": dict(
            block_out_channels=(8, 16), layers_per_block=2, attention_head_dim=4, norm_num_groups=4, cross_attention_dim=24,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        "vae": dict(block_out_channels=(8, 12, 16), layers_per_block=1, norm_num_groups=4),
        "text": dict(hidden_size=24, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, hidden_act="quick_gelu"),
        "scheduler": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "clip_sample": False},
        "pad": "<|endoftext|>",
        "latent": (8, 12),
        "keep": {
            "unet": "act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim down_block_types downsample_padding "
            "flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps norm_num_groups out_channels sample_size up_block_types",
            "vae": "act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block norm_num_groups out_channels sample_size up_block_types",
        },
    },
    "tiny-sd2": {
        "unet": dict(
            block_out_channels=(12, 24), layers_per_block=1, attention_head_dim=(2, 3), norm_num_groups=6, cross_attention_dim=32,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            use_linear_projection=True, upcast_attention=True,
        ),
        "vae": dict(block_out_channels=(8, 8, 12, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.18215),
        "text": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, hidden_act="gelu"),
        "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "clip_sample": False},
        "pad": "!",
        "latent": (6, 4),
    },
    "tiny-foreign": {
        "unet": dict(
            block_out_channels=(10, 20, 30), layers_per_block=1, attention_head_dim=(1, 4, 6), norm_num_groups=5, cross_attention_dim=28,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            in_channels=6, out_channels=6, norm_eps=1e-6,
        ),
        "vae": dict(block_out_channels=(6, 18), layers_per_block=2, norm_num_groups=3, latent_channels=6, scaling_factor=0.37),
        "text": dict(hidden_size=28, intermediate_size=50, num_hidden_layers=1, num_attention_heads=7, hidden_act="gelu", layer_norm_eps=1e-6),
        "scheduler": {"_class_name": "DDIMScheduler", "clip_sample": False, "timestep_spacing": "trailing"},
        "pad": "<|endoftext|>",
        "latent": (4, 8),
    },
}


def fill(module, generator):
    """Random weights for every parameter, rounded to f16."""
    for name, p in module.named_parameters():
        p.data = random_weight(name, p.shape, generator, sharp=2.0).half().float()
    return module.eval()


def byte_symbols():
    """GPT-2's map from bytes to printable characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    order = printable + [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(next(rest)) for b in order]


def write_tokenizer(folder, pad):
    """A byte-level BPE with a handful of merges, as vocab.json and merges.txt. Returns the size of the vocabulary."""
    folder.mkdir(parents=True)
    symbols = byte_symbols()
    merges = [tuple(m.split(" ")) for m in MERGES.split("|")]
    words = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "add_prefix_space": False, "errors": "replace"}))
    return len(vocab)


def build(spec, vocab, generator):
    """The three networks of one model, in f32 with f16 values."""
    unet = UNet2DConditionModel(**{"sample_size": 8, "in_channels": 4, "out_channels": 4, **spec["unet"]})
    levels = len(spec["vae"]["block_out_channels"])
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, sample_size=32, down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        **{"latent_channels": 4, **spec["vae"]},
    )
    ends = {"bos_token_id": vocab - 2, "eos_token_id": vocab - 1, "pad_token_id": vocab - 1}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=vocab, max_position_embeddings=77, projection_dim=16, **ends, **spec["text"]))
    return fill(unet, generator), fill(vae, generator), fill(text, generator)


def write_network(folder, network, tensors, keep=None):
    """config.json (only the keys in `keep`, if given) and the weights in f16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
    own = {k: v for k, v in config.items() if not k.startswith("_") or k == "_class_name"}
    config = {k: v for k, v in own.items() if k in keep.split() or k == "_class_name"} if keep else own
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=list) + "\n")
    name = "model" if "text_model.final_layer_norm.weight" in tensors else "diffusion_pytorch_model"
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors.items()}
    path = folder / f"{name}.safetensors"
    save_file(half, path, metadata={"format": "pt"})
    path.chmod(0o644)


def text_weights(text, positions):
    """The text encoder's tensors under the names of SD's files; `positions` adds the buffer that old files carry."""
    tensors = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in text.state_dict().items()}
    if positions:
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return tensors


def old_vae_names(tensors):
    """The VAE's attention under the names that the SD 1.x files have."""
    def old(key):
        for new, was in OLD_NAMES.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        return key

    return {old(k): v for k, v in tensors.items()}


def write(name, spec):
    """One folder and its reference.safetensors."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(len(name))
    vocab = write_tokenizer(folder / "tokenizer", spec["pad"])
    unet, vae, text = build(spec, vocab, generator)
    keep = spec.get("keep", {})
    write_network(folder / "unet", unet, unet.state_dict(), keep.get("unet"))
    write_network(folder / "vae", vae, old_vae_names(vae.state_dict()) if keep else vae.state_dict(), keep.get("vae"))
    write_network(folder / "text_encoder", text, text_weights(text, bool(keep)))
    schedule = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1, **spec["scheduler"]}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule, indent=1, sort_keys=True) + "\n")
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", schedule["_class_name"]], "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")

    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, unet=unet, tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=DDIMScheduler.from_config({**schedule, "_class_name": "DDIMScheduler"}), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    tensors, moved = reference(pipe, spec["latent"], generator)
    rounding = rounding_of(pipe, tensors)
    save_tensors(folder / "reference.safetensors", tensors, prompts=PROMPTS, swapped=SWAPPED, timesteps=TIMESTEPS, moved=moved, rounding=rounding, tolerance=1e-4, chain={"prompt": PROMPTS[1], "negative": "", "steps": 5, "cfg": 5.0, "seed": 2})
    return {"moved": round(moved, 3), "rounding": max(rounding.values())}


def encode(pipe, prompts):
    """Text states and ids."""
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return pipe.text_encoder(ids)[0], ids


def predictions(pipe, z, x, text):
    """The stages that do not depend on a tokenizer."""
    out = {f"unet.eps.{t}": pipe.unet(z, t, text).sample for t in TIMESTEPS}
    mean = pipe.vae.encode(x * 2 - 1).latent_dist.mean
    out["vae.mean"] = mean * pipe.vae.config.scaling_factor
    out["vae.decoded"] = pipe.vae.decode(mean).sample / 2 + 0.5
    return out


def reference(pipe, size, generator):
    """What PyTorch makes of the model, and how far swapping a word moves the prediction (must be far)."""
    h, w = size
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    z = torch.randn(2, pipe.unet.config.in_channels, h, w, generator=generator)
    x = torch.rand(1, 3, h * factor, w * factor, generator=generator)
    text, ids = encode(pipe, PROMPTS)
    out = {"text.ids": ids, "text.states": text, "unet.z": z, "vae.picture": x, **predictions(pipe, z, x, text)}
    swapped = pipe.unet(z, TIMESTEPS[1], encode(pipe, SWAPPED)[0]).sample
    moved = min(distance(swapped[i], out[f"unet.eps.{TIMESTEPS[1]}"][i]) for i in range(2))
    assert moved > 1e-2, f"attention is flat: swapping a word moves the output by {moved:.1e} only"
    out["unet.swapped"] = swapped
    out["chain.latent"] = pipe(
        PROMPTS[1], height=h * factor, width=w * factor, num_inference_steps=5, guidance_scale=5.0,
        generator=torch.Generator().manual_seed(2), output_type="latent",
    ).images
    return out, moved


def rounding_of(pipe, single):
    """How far the f32 references are from f64. Leaves the pipeline in f64."""
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()
    text = encode(pipe, PROMPTS)[0]
    double = {"text.states": text, **predictions(pipe, single["unet.z"].double(), single["vae.picture"].double(), text)}
    return {k: distance(single[k], v) for k, v in double.items()}


def generate():
    """Writes tests/data/parity/tiny-*/."""
    torch.set_grad_enabled(False)
    return {name: write(name, spec) for name, spec in MODELS.items()}
