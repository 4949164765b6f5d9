#!/usr/bin/env python3
"""What the finished model draws, judged by the independent CLIP of part 1: figures and contact sheets.

OUT gets numbers.json, samples.png (100 prompts), scenes.png, colors.png, relations.png. 30 steps of DDIM, guidance 7.
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPTextModel, CLIPTokenizer

import nets
from captions import article, with_article
from common import SCALE, folder, parser, positive, read_json
from compose import INKS, PLACES
from layout import scheduler
from loop import half, token_ids
from scenes import COLORS

LENGTH = 32  # of the judge's captions


class Model:
    """A folder of finish.py."""

    def __init__(self, path, device, steps, cfg):
        load = lambda cls, name: cls.from_pretrained(path / name).float().to(device).eval()
        self.vae, self.unet, self.text = load(AutoencoderKL, "vae"), load(UNet2DConditionModel, "unet"), load(CLIPTextModel, "text_encoder")
        self.tokenizer, self.device, self.steps, self.cfg = CLIPTokenizer.from_pretrained(path / "tokenizer"), device, steps, cfg

    @torch.no_grad()
    def draw(self, prompts, seed, batch=128):
        """Pictures in -1..1; picture i has the noise of seed + i."""
        out = []
        for k in range(0, len(prompts), batch):
            some, s = prompts[k : k + batch], scheduler()
            s.set_timesteps(self.steps)
            z = torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed + k + i)) for i in range(len(some))]).to(self.device)
            text = self.text(token_ids(self.tokenizer, [*some, ""], 77).to(self.device))[0]
            text = torch.cat([text[-1:].expand(len(some), -1, -1), text[:-1]])
            for t in s.timesteps:
                with half(self.device):
                    u, c = self.unet(torch.cat([z, z]), t, text).sample.float().chunk(2)
                z = s.step(u + self.cfg * (c - u), t, z).prev_sample
            out.append(self.vae.decode(z / SCALE).sample.clamp(-1, 1))
        return torch.cat(out)


class Judge:
    """The independent CLIP."""

    def __init__(self, path, tokenizer, device):
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.net = nets.Judge(state["vocabulary"], state["tiny"]).to(device).eval()
        self.net.load_state_dict(state["judge"])
        self.tokenizer, self.end, self.device = tokenizer, state["end"], device

    @torch.no_grad()
    def likeness(self, pictures, texts):
        """[pictures, texts]."""
        ids = token_ids(self.tokenizer, texts, LENGTH).to(self.device)
        return torch.cat([self.net.picture_features(b) for b in pictures.split(64)]) @ self.net.text_features(ids, self.end).T

    def right(self, pictures, wanted, choices):
        """The share of pictures for which, of its own list of choices, the wanted text comes first."""
        found = [self.likeness(x[None], c)[0].argmax().item() == c.index(w) for x, w, c in zip(pictures, wanted, choices, strict=True)]
        return float(np.mean(found))


def sheet(pictures, labels, columns, path):
    """Pictures with their prompts below."""
    side, rows = 128, -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * (side + 4), rows * (side + 18)), (255, 255, 255))
    pen = ImageDraw.Draw(out)
    for i, (x, label) in enumerate(zip(pictures, labels, strict=True)):
        at = i % columns * (side + 4) + 2, i // columns * (side + 18) + 2
        out.paste(Image.fromarray(((x + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()), at)
        pen.text((at[0], at[1] + side + 1), label[:26], fill=(0, 0, 0))
    out.save(path)


def main():
    p = parser(__doc__)
    p.add_argument("pack", type=folder)
    p.add_argument("model", type=folder)
    p.add_argument("judge", type=pathlib.Path, help="judge.pt of part 1")
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--steps", type=positive, default=30, help="%(default)s")
    p.add_argument("--cfg", type=float, default=7.0, help="%(default)s")
    p.add_argument("--seed", type=int, default=0, help="%(default)s")
    p.add_argument("--few", action="store_true", help="a few prompts of each kind: a rehearsal")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    meta, rng = read_json(a.pack / "meta.json"), np.random.default_rng(123)
    model = Model(a.model, a.device, a.steps, a.cfg)
    judge = Judge(a.judge, model.tokenizer, a.device)
    names = [c["captions"][0] for c in meta["concepts"]]
    styles = sorted({it["style"] for it in meta["items"]})
    few = lambda n: min(n, 2) if a.few else n
    numbers = {}

    # 100 concepts over the whole list, a third of them with a style, chosen before anything is drawn.
    chosen = [names[i] for i in rng.permutation(len(names))[: few(100)]]
    prompts = [f"{article(s := styles[i % len(styles)])} {s} emoji of {x}" if i % 3 == 0 else x for i, x in enumerate(chosen)]
    x = model.draw(prompts, a.seed)
    numbers["retrieval"] = judge.right(x, prompts, [prompts] * len(prompts))
    numbers["concept"] = judge.right(x, chosen, [names] * len(chosen))
    sheet(x, prompts, 10, a.out / "samples.png")

    things = [with_article(t) for t in ("dog", "cat", "car", "house", "rocket", "strawberry", "penguin", "guitar")][: few(8)]
    of = {t: [f"{t} {s}" for s in PLACES] for t in things}
    x = model.draw([q for t in things for q in of[t]], a.seed + 1000)
    right = [judge.right(x[i * len(PLACES) : (i + 1) * len(PLACES)], of[t], [of[t]] * len(PLACES)) for i, t in enumerate(things)]
    numbers["scene"] = float(np.mean(right))
    sheet(x, [q for t in things for q in of[t]], len(PLACES), a.out / "scenes.png")

    hues = list(COLORS)
    wanted, choices = [], []
    for t in things:
        for c in hues:
            wanted.append(f"{t} on {article(c)} {c} background")
            choices.append([f"{t} on {article(d)} {d} background" for d in hues])
        for c in INKS:
            wanted.append(f"an ink emoji of {article(c)} {c} {t.split(' ', 1)[1]}")
            choices.append([f"an ink emoji of {article(d)} {d} {t.split(' ', 1)[1]}" for d in INKS])
    x = model.draw(wanted, a.seed + 2000)
    numbers["color"] = judge.right(x, wanted, choices)
    sheet(x, wanted, len(hues) + len(INKS), a.out / "colors.png")

    pairs = [(things[i], things[(i + 3) % len(things)]) for i in range(len(things))]
    wanted, choices = [], []
    for p_, q in pairs:
        all_ = [f"{p_} to the left of {q}", f"{p_} to the right of {q}", f"{p_} above {q}", f"{p_} below {q}"]
        wanted += all_
        choices += [all_] * 4
    x = model.draw(wanted, a.seed + 3000)
    numbers["relation"] = judge.right(x, wanted, choices)
    sheet(x, wanted, 4, a.out / "relations.png")
    (a.out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
