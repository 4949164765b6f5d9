"""Small random helpers in transformers folders, with what transformers makes of them.

tiny-dino    DINOv2: position embeddings stretched to another size, layer scales away from 1
tiny-swiglu  DINOv2 with the gated feed-forward part of the giant model
tiny-blip    BLIP with a word list of its own: scores, and the caption that greedy decoding gives
tiny-depth   Depth Anything: four stages of all three kinds, a side that is not square, maps of odd sizes
tiny-sam     SAM: windows that do not fit the picture's places, a layer that looks everywhere, points inside and outside, a box
"""

import json

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    BlipConfig, BlipForConditionalGeneration, DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, Dinov2Model,
    SamConfig, SamImageProcessor, SamModel,
)  # fmt: skip

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


def blip():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = special + "a picture of the dog cat tiger cup tree house red blue green on in with and small large ##s ##y ##er".split()
    words += [chr(c) for c in range(ord("a"), ord("z") + 1) if chr(c) not in words] + ["[DEC]"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special + ["[DEC]"])
    last, first = words.index("[SEP]"), words.index("[DEC]")
    text = dict(
        vocab_size=len(words), hidden_size=24, encoder_hidden_size=16, intermediate_size=48, projection_dim=16, num_hidden_layers=2,
        num_attention_heads=3, max_position_embeddings=32, bos_token_id=first, sep_token_id=last, eos_token_id=last, pad_token_id=0,
    )  # fmt: skip
    vision = dict(hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    model = fill(BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)), 41)
    begin = tokenizer.encode("a picture of", add_special_tokens=False).ids
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(42))
    ids = torch.tensor([[first, *begin]])
    with torch.no_grad():
        states = model.vision_model(pixels).last_hidden_state
        scores = model.text_decoder(ids, encoder_hidden_states=states).logits
        made = ids
        for _ in range(8):
            made = torch.cat([made, model.text_decoder(made, encoder_hidden_states=states).logits[:, -1:].argmax(-1)], 1)
        exact = model.double().text_decoder(ids, encoder_hidden_states=states.double()).logits
    kept = dict(model_type="blip", text_config=text, vision_config=vision)
    store("tiny-blip", model.float(), kept, pixels=pixels, states=states, scores=scores, ids=ids, made=made)
    tokenizer.save(str(OUT / "tiny-blip" / "tokenizer.json"))
    return distance(scores, exact)


def sam():
    vision = dict(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=64, patch_size=8, output_channels=16, window_size=3,
        global_attn_indexes=[1], num_pos_feats=8, mlp_dim=48,
    )  # fmt: skip
    prompts = dict(hidden_size=16, image_size=64, patch_size=8, image_embedding_size=8, mask_input_channels=4)
    decoder = dict(hidden_size=16, mlp_dim=40, num_attention_heads=2, iou_head_hidden_dim=12, attention_downsample_rate=2)
    model = fill(SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)), 51)
    generator = torch.Generator().manual_seed(52)
    with torch.no_grad():
        # A buffer of ours is none of the parameters; positions relative to queries begin at zero.
        places = torch.randn(2, 8, generator=generator).half().float()
        model.shared_image_embedding.positional_embedding.copy_(places)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(places)
    pixels = torch.randn(1, 3, 64, 64, generator=generator)
    picture = torch.rand(3, 40, 56, generator=generator)
    cases = {
        "point": ([[20.0, 31.5]], [1], None),
        "points": ([[20.0, 31.5], [50.0, 4.0], [9.0, 60.0]], [1, 0, 1], None),
        "box": (None, None, [5.0, 8.0, 40.0, 61.0]),
        "both": ([[30.0, 30.0], [6.0, 10.0]], [1, 0], [5.0, 8.0, 40.0, 61.0]),
    }

    def run(model, pixels, dtype):
        out = {}
        for name, (points, labels, box) in cases.items():
            given = {}
            if points:
                given |= dict(input_points=torch.tensor([[points]], dtype=dtype), input_labels=torch.tensor([[labels]]))
            if box:
                given |= dict(input_boxes=torch.tensor([[box]], dtype=dtype))
            for many in (False, True):
                found = model(pixel_values=pixels.to(dtype), multimask_output=many, **given)
                masks, scores = found.pred_masks[0, 0], found.iou_scores[0, 0]
                out[name] = torch.cat([out[name], masks]) if many else masks
                out[f"{name}.scores"] = torch.cat([out[f"{name}.scores"], scores]) if many else scores
        return out

    with torch.no_grad():
        found = run(model, pixels, torch.float32)
        seen = model.get_image_embeddings(pixels)
        # The way of a picture of another shape: scaled, normalized, filled up; the mask scaled back.
        processor = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16})
        ready = processor((picture * 255).round().to(torch.uint8), return_tensors="pt")
        # Each coordinate by its own side, which is rounded: 40 x 56 becomes 46 x 64.
        point = torch.tensor([[[[30.0 * 64 / 56, 12.0 * 46 / 40]]]])
        out = model(pixel_values=ready.pixel_values, input_points=point, input_labels=torch.tensor([[[1]]]))
        sizes = (ready.original_sizes, ready.reshaped_input_sizes)
        logits = processor.post_process_masks(out.pred_masks, *sizes, binarize=False)[0][0]
        exact = run(model.double(), pixels, torch.float64)
    # The networks' masks must be neither empty nor everything.
    for name in cases:
        assert 0.05 < (found[name] > 0).float().mean() < 0.95, name
    extra = {"shown": (picture * 255).round() / 255, "ready": ready.pixel_values, "shown.logits": logits, "shown.scores": out.iou_scores[0, 0]}
    config = dict(model_type="sam", vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    store("tiny-sam", model.float(), config, pixels=pixels, seen=seen, **found, **extra)
    return max(distance(found[name], exact[name]) for name in cases)


def generate():
    rounding = [sam(), blip(), dino("tiny-dino", 11), dino("tiny-swiglu", 21, use_swiglu_ffn=True), depth()]
    return "rounding " + ", ".join(f"{r:.1e}" for r in rounding)
