#!/usr/bin/env python3
"""Train a tiny CLIP (64 px, patch 8, and a text tower) on pictures and captions; saved in transformers' format.

A caption that also fits other pictures of the batch (same concept, no style named, no scene named) counts as the right one
for all of them. With --scenes a share of each batch shows scenes.
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from captions import P_PLAIN, all_captions, draw_caption, scene_captions
from common import Budget, add_training_arguments, folder, parser, positive, prepare, read_images, read_json, set_rate, smooth, text_ids, to_tensor

LENGTH = 20  # of the captions in training: the tower is causal and pools at the end token, so padding does not matter
SCENE_SHARE = 0.45
PLAIN_IN_SCENE = 0.25  # share of scene pictures whose caption leaves the scene out


def network(vocab):
    """Both towers 128 wide, four layers, four heads."""
    tower = dict(hidden_size=128, intermediate_size=512, projection_dim=128, num_hidden_layers=4, num_attention_heads=4, hidden_act="quick_gelu")
    text = dict(tower, vocab_size=vocab, max_position_embeddings=77, bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=vocab - 1)
    vision = dict(tower, image_size=64, patch_size=8)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    torch.nn.init.normal_(model.text_model.embeddings.position_embedding.weight, std=0.02)
    return model


class Examples:
    """Pictures with captions, plain and in scenes."""

    def __init__(self, data, scenes, tokenizer, rng):
        self.rng, meta = rng, read_json(data / "meta.json")
        self.x = to_tensor(read_images(data / "data.npz"))
        self.concept = [it["concept"] for it in meta["items"]]
        self.style = [it["style"] for it in meta["items"]]
        captions, self.index = all_captions(meta)
        self.scenes, self.scene_x, self.scene_items = [], None, []
        if scenes:
            made = read_json(scenes.with_suffix(".json"))
            self.scenes = made["scenes"]
            self.scene_x = torch.from_numpy(read_images(scenes.with_suffix(".npz"))).permute(0, 3, 1, 2)
            self.scene_items = [(self.concept[k], self.style[k], s) for k, s in made["items"]]
            more, self.scene_number = scene_captions(meta, self.scenes, sorted({st for _, st, _ in self.scene_items}), len(captions))
            captions = captions + more
        self.ids = text_ids(tokenizer, captions, LENGTH)
        self.order = np.array([], int)

    def batch(self, size):
        """Pictures, caption ids, and which picture each caption fits: [text, picture]."""
        if len(self.order) < size:
            self.order = self.rng.permutation(len(self.x))
        take, self.order = self.order[:size], self.order[size:]
        x = self.x[take]
        shows = [(self.concept[i], self.style[i], None) for i in take]
        says = []
        for k, (concept, style, _) in enumerate(shows):
            if self.scene_items and self.rng.random() < SCENE_SHARE:
                j = int(self.rng.integers(len(self.scene_items)))
                concept, style, scene = shows[k] = self.scene_items[j]
                x[k] = self.scene_x[j].float().div_(127.5).sub_(1)
                if self.rng.random() >= PLAIN_IN_SCENE:
                    named = None if self.rng.random() < P_PLAIN else style
                    says.append((self.scene_number[concept, named, scene], concept, named, scene))
                    continue
            number, named = draw_caption(self.rng, self.index, concept, style)
            says.append((number, concept, named, None))
        fits = [[c == pc and s in (None, ps) and sc in (None, psc) for pc, ps, psc in shows] for _, c, s, sc in says]
        return self.augmented(x), self.ids[[n for n, *_ in says]], torch.tensor(fits).float()

    def augmented(self, x):
        """Mirrored half of the time, scaled and moved a little; white comes in at the borders."""
        if self.rng.random() < 0.5:
            x = x.flip(-1)
        scale = self.rng.uniform(0.85, 1.1)
        theta = torch.zeros(len(x), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
        theta[:, :, 2] = torch.from_numpy(self.rng.uniform(-0.1, 0.1, (len(x), 2)))
        return 1 - F.grid_sample(1 - x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)


def features(model, x, ids):
    """Picture and text features of unit length."""
    with torch.autocast("cpu", torch.bfloat16):
        found = model.get_image_features(pixel_values=x), model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
    return tuple(F.normalize((f if torch.is_tensor(f) else f.pooler_output).float(), dim=-1) for f in found)


def contrastive(model, x, ids, fits):
    """The symmetric loss with several right answers."""
    pictures, texts = features(model, x, ids)
    logits = texts @ pictures.T * model.logit_scale.exp().clamp(max=60)
    return sum(-(F.log_softmax(logits, d) * fits / fits.sum(d, keepdim=True)).sum(d).mean() for d in (1, 0)) / 2


@torch.no_grad()
def quality(model, ex):
    """How often the nearest caption is the right one, over all plain pictures (and 600 scenes)."""
    plain = [ex.index[c][None][0][0] for c in range(len(ex.index))]
    styled = [ex.index[c][s][0][0] for c, s in zip(ex.concept, ex.style, strict=True)]
    pictures = torch.cat([features(model, b, ex.ids[:1])[0] for b in ex.x.split(128)])
    nearest = lambda numbers: (pictures @ features(model, ex.x[:1], ex.ids[numbers])[1].T).argmax(1)
    found = {
        "concept_top1": (nearest(plain) == torch.tensor(ex.concept)).float().mean().item(),
        "styled_top1": (nearest(styled) == torch.arange(len(ex.x))).float().mean().item(),
    }
    if ex.scene_items:
        some = np.random.default_rng(1).choice(len(ex.scene_items), min(600, len(ex.scene_items)), replace=False)
        concepts = sorted({ex.scene_items[j][0] for j in some})
        numbers = [ex.scene_number[c, None, s] for c in concepts for s in range(len(ex.scenes))]
        texts = features(model, ex.x[:1], ex.ids[numbers])[1].view(len(concepts), len(ex.scenes), -1)
        x = ex.scene_x[some].float().div_(127.5).sub_(1)
        pictures = torch.cat([features(model, b, ex.ids[:1])[0] for b in x.split(128)])
        own = texts[[concepts.index(ex.scene_items[j][0]) for j in some]]
        nearest = (own @ pictures[..., None])[..., 0].argmax(1)
        found["scene_top1"] = (nearest == torch.tensor([ex.scene_items[j][2] for j in some])).float().mean().item()
    return found


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("tokenizer", type=folder)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--resume", type=folder, help="a CLIP to go on from")
    p.add_argument("--scenes", type=pathlib.Path, help="path without ending, of make_scenes.py")
    p.add_argument("--batch", type=positive, default=96, help="%(default)s")
    add_training_arguments(p, lr=1e-3)
    a = p.parse_args()
    rng = prepare(a)
    tokenizer = CLIPTokenizer.from_pretrained(a.tokenizer)
    examples = Examples(a.data, a.scenes, tokenizer, rng)
    # Open attention: the backward of the fused one in bf16 is slow on a CPU.
    model = CLIPModel.from_pretrained(a.resume, attn_implementation="eager") if a.resume else network(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), a.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    budget, run = Budget(a, warmup=50), None
    while (share := budget.share()) < 1:
        set_rate(optimizer, budget.rate(0.02, share))
        loss = contrastive(model, *examples.batch(min(a.batch, len(examples.x))))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        budget.step += 1
        run = smooth(run, loss.item(), 0.95)
        if budget.step % 50 == 0:
            print(f"{budget.elapsed():.0f} s, step {budget.step}: loss {run:.3f}", flush=True)
    model.eval().save_pretrained(a.out)
    tokenizer.save_pretrained(a.out)
    CLIPImageProcessor(
        do_resize=True, size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_center_crop=True,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    ).save_pretrained(a.out)
    print(budget.step, "steps:", json.dumps(quality(model, examples)))


if __name__ == "__main__":
    main()
