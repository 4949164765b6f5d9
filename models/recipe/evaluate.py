#!/usr/bin/env python3
"""Contact sheets and figures of a finished model folder (with clip/ and pictures/ inside), through diffusers' pipeline.

OUT gets samples.png, styles.png, scenes.png, mix.png and numbers.txt. All scores come from the model's own CLIP.
"""

import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from transformers import CLIPModel, CLIPTokenizer

from captions import article
from common import SCALE, folder, parser, positive, psnr, read_images, read_json, text_ids, to_tensor
from scenes import SCENES

PROMPTS = [
    "a dog", "a cat", "an emoji of a rabbit", "a 3d emoji of a tiger", "an ink emoji of a tiger", "a panda", "a penguin", "an owl",
    "a fish", "an octopus", "a butterfly", "a flat emoji of a pig", "a cup of coffee", "hot beverage", "an emoji of a hamburger", "a slice of cake",
    "pizza", "a red apple", "a banana", "a strawberry", "a sunflower", "a 3d emoji of a cactus", "a pine tree", "a car",
    "a rocket", "a flat emoji of a bus", "a house", "a cartoon emoji of a castle", "a guitar", "a smiling face", "a skull", "a robot",
]
STYLES = ["3d", "flat", "ink", "cartoon"]
STYLED = ["dog", "rabbit", "cup of coffee", "rocket"]
IN_SCENES = ["a dog", "a cat", "a penguin", "a car"]
PAIRS = [
    ("dog-flat.png", "a dog", "a panda"), ("rabbit-flat.png", "a rabbit", "a tiger"), ("dog-cartoon.png", "a dog", "a cup of coffee"),
    ("pig-flat.png", "a pig", "a robot"), ("sunflower-flat.png", "a sunflower", "a lion"), ("car-flat.png", "a car", "a pig"),
]
NUS = [0.1, 0.5, 0.7, 0.8, 0.9, 1.0]
K_MAX, K_MIN = 0.7, 0.3


def sheet(pictures, labels, columns, path, side=128):
    """uint8 pictures with labels below, in rows."""
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * (side + 4), rows * (side + 18)), (255, 255, 255))
    draw = ImageDraw.Draw(out)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = i % columns * (side + 4) + 2, i // columns * (side + 18) + 2
        out.paste(Image.fromarray(picture).resize((side, side), Image.BICUBIC), (x, y))
        draw.text((x + 2, y + side + 1), label[:24], fill=(0, 0, 0))
    out.save(path)


class Evaluation:
    """The model and its CLIP."""

    def __init__(self, a):
        self.a = a
        self.pipe = StableDiffusionPipeline.from_pretrained(a.model, dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
        self.pipe.set_progress_bar_config(disable=True)
        self.clip = CLIPModel.from_pretrained(a.model / "clip", dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(a.model / "clip")
        self.log = (a.out / "numbers.txt").open("w")

    def say(self, text):
        """To the screen and to numbers.txt."""
        print(text, flush=True)
        print(text, file=self.log, flush=True)

    def texts(self, captions):
        """CLIP features of unit length."""
        ids = text_ids(self.tokenizer, captions)
        found = [self.clip.get_text_features(input_ids=b, attention_mask=torch.ones_like(b)) for b in ids.split(64)]
        return F.normalize(torch.cat([f if torch.is_tensor(f) else f.pooler_output for f in found]), dim=-1)

    def pictures(self, images):
        """CLIP features of uint8 pictures."""
        found = [self.clip.get_image_features(pixel_values=b) for b in to_tensor(np.stack(images)).split(64)]
        return F.normalize(torch.cat([f if torch.is_tensor(f) else f.pooler_output for f in found]), dim=-1)

    def generate(self, prompts, seed):
        """One picture per prompt; picture i has the noise of seed + i."""
        out = []
        for i in range(0, len(prompts), 16):
            some = prompts[i : i + 16]
            generators = [torch.Generator().manual_seed(seed + i + j) for j in range(len(some))]
            out += self.pipe(some, height=64, width=64, num_inference_steps=self.a.steps, guidance_scale=self.a.cfg, generator=generators).images
        return [np.asarray(p) for p in out]

    def mix(self, layout, contents, nu):
        """MagicMix of one layout picture with each content prompt, at K_MAX, K_MIN."""
        s, n = self.pipe.scheduler, self.a.steps
        s.set_timesteps(n)
        z0 = self.pipe.vae.encode(to_tensor(layout[None])).latent_dist.mean * SCALE
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(self.a.seed))
        text = torch.cat([self.pipe.encode_prompt(c, "cpu", 1, False)[0] for c in contents])
        none = self.pipe.encode_prompt("", "cpu", 1, False)[0].expand_as(text)
        start, stop = (n - math.floor(k * n + 1e-6) for k in (K_MAX, K_MIN))
        alpha = [float(s.alphas_cumprod[t]) for t in s.timesteps] + [float(s.final_alpha_cumprod)]
        at = lambda i: alpha[i] ** 0.5 * z0 + (1 - alpha[i]) ** 0.5 * noise
        z = at(start).repeat(len(contents), 1, 1, 1)
        for i in range(start, n):
            u, c = self.pipe.unet(torch.cat([z, z]), s.timesteps[i], torch.cat([none, text])).sample.chunk(2)
            z = s.step(u + self.a.cfg * (c - u), s.timesteps[i], z).prev_sample
            if i < stop:
                z = (1 - nu) * at(i + 1) + nu * z
        y = self.pipe.vae.decode(z / SCALE).sample.clamp(-1, 1)
        return [p.numpy() for p in ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1)]


def reconstruction(ev, data):
    """PSNR of the VAE."""
    values = []
    for x in to_tensor(data[::4]).split(64):
        values.append(psnr(ev.pipe.vae.decode(ev.pipe.vae.encode(x).latent_dist.mean).sample.clamp(-1, 1), x))
    values = torch.cat(values)
    ev.say(f"VAE: {values.mean():.2f} dB, worst {values.min():.2f}, over {len(values)} pictures")


def prompts(ev, meta):
    """Samples of PROMPTS, and how well CLIP finds prompt and concept again."""
    images = ev.generate(PROMPTS, ev.a.seed)
    sheet(images, PROMPTS, 8, ev.a.out / "samples.png")
    pictures = ev.pictures(images)
    right = ((pictures @ ev.texts(PROMPTS).T).argmax(1) == torch.arange(len(PROMPTS))).float().mean()
    ev.say(f"retrieval: the right one of {len(PROMPTS)} prompts in {right:.3f}")
    names = [c["captions"][0] for c in meta["concepts"]]
    nearest = (pictures @ ev.texts(names).T).argmax(1).tolist()
    named = [any(p in PROMPTS[k] for p in meta["concepts"][j]["phrases"]) for k, j in enumerate(nearest)]
    ev.say(f"concept: the right one of {len(names)} in {np.mean(named):.3f}")


def styles(ev):
    """The same objects in each style."""
    captions = [f"{article(s)} {s} emoji of a {x}" for x in STYLED for s in STYLES]
    sheet(ev.generate(captions, ev.a.seed + 100), captions, len(STYLES), ev.a.out / "styles.png")


def scenes(ev):
    """Objects in scenes, and how often CLIP finds object and scene."""
    captions = [f"{x} {s}" for x in IN_SCENES for s in SCENES]
    images = ev.generate(captions, ev.a.seed + 200)
    sheet(images, captions, len(SCENES), ev.a.out / "scenes.png", side=96)
    pictures = ev.pictures(images).view(len(IN_SCENES), len(SCENES), -1)
    right = [((pictures[i] @ ev.texts([f"{x} {s}" for s in SCENES]).T).argmax(1) == torch.arange(len(SCENES))).float().mean() for i, x in enumerate(IN_SCENES)]
    ev.say(f"scene: the right one of {len(SCENES)} in {torch.stack(right).mean():.3f}")


def mixes(ev):
    """MagicMix over nu: similarity to content and layout."""
    images, labels, scores = [], [], {nu: [] for nu in NUS}
    for name, what, content in PAIRS:
        layout = np.asarray(Image.open(ev.a.model / "pictures" / name).convert("RGB"))
        images.append(layout)
        labels.append(what)
        for nu in NUS:
            mixed = ev.mix(layout, [content], nu)[0]
            images.append(mixed)
            labels.append(f"{content} nu {nu}")
            scores[nu].append((ev.pictures([mixed]) @ ev.texts([content, what]).T)[0])
    sheet(images, labels, 1 + len(NUS), ev.a.out / "mix.png")
    for nu, found in scores.items():
        content, layout = torch.stack(found).mean(0).tolist()
        ev.say(f"magicmix nu {nu}: CLIP content {content:.3f}, layout {layout:.3f}")


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("model", type=folder)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--steps", type=positive, default=50, help="%(default)s")
    p.add_argument("--cfg", type=float, default=7.0, help="%(default)s")
    p.add_argument("--seed", type=int, default=0, help="%(default)s")
    p.add_argument("--threads", type=positive, default=2, help="%(default)s")
    p.add_argument("--only", nargs="+", choices=["reconstruction", "prompts", "styles", "scenes", "mixes"], help="default: all")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    a.out.mkdir(parents=True, exist_ok=True)
    ev = Evaluation(a)
    parts = {
        "reconstruction": lambda: reconstruction(ev, read_images(a.data / "data.npz")),
        "prompts": lambda: prompts(ev, read_json(a.data / "meta.json")),
        "styles": lambda: styles(ev),
        "scenes": lambda: scenes(ev),
        "mixes": lambda: mixes(ev),
    }
    for name in a.only or parts:
        parts[name]()


if __name__ == "__main__":
    main()
