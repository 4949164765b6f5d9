"""Training pictures made on the device, as many as are asked for: icons on white, in scenes, two and three of them in relations.

Each picture comes with a caption and with what it shows as numbers, so that a contrastive loss knows which captions fit which pictures.
"""

import dataclasses
import io
import sys
import pathlib
import zipfile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from captions import PLAIN, STYLED, P_PLAIN, article, composed_captions, draw, fill
from common import read_json
from scenes import COLORS, DARK, N, SCENES, background

PLACES = [scene.replace(" a orange ", " an orange ") for scene in SCENES]  # as captions say it
SIDE, INNER = 128, 120  # of the packed icons, as pack.py cuts them out
VARIANTS = 40  # drawings of each scene
RELATIONS = {"and": (0, 0), "next to": (0, 0), "to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}
INKS = {name: rgb for name, rgb in COLORS.items() if name not in ("black", "gray", "yellow")}
FACTS = ("things", "style", "scene", "relation", "color")  # columns of what a picture shows; -1 in a caption: not said


@dataclasses.dataclass
class Shares:
    """Which part of the pictures is of which kind; the rest shows one thing on white."""

    scene: float = 0.35
    pair: float = 0.2
    three: float = 0.05
    inked: float = 0.25  # of the ink icons, those with a color
    unsaid: float = 0.0  # of the scenes, those whose caption leaves the scene out


class Composer:
    """Icons and scenes in the memory of `device`, and a generator of pictures with captions."""

    def __init__(self, pack, device, seed, keep=None):
        meta = read_json(pack / "meta.json")
        self.first = meta["first"]
        self.concepts, self.device, self.rng = meta["concepts"], device, np.random.default_rng(seed)
        items = [(i, it) for i, it in enumerate(meta["items"]) if keep is None or keep(it, meta)]
        if not items:
            raise SystemExit(f"{pack}: no icon is left to train on")
        with zipfile.ZipFile(pack / "icons.zip") as file:
            icons = np.stack([np.asarray(Image.open(io.BytesIO(file.read(f"{i}.webp"))).convert("RGBA")) for i, _ in items])
        visible = icons[..., 3] > 8
        self.half = np.stack([(visible.any(axis).sum(1) / SIDE).clip(1 / SIDE) for axis in (1, 2)], 1)  # x, y: half of what is visible, the square being 2 wide
        self.icons = torch.from_numpy(icons).permute(0, 3, 1, 2).contiguous().to(device)
        self.concept = np.array([it["concept"] for _, it in items])
        self.style = [it["style"] for _, it in items]
        self.styles = sorted(set(self.style))
        self.by_style = {s: np.flatnonzero(np.array(self.style) == s) for s in self.styles}
        # What people try first, three times as often.
        self.weight = {s: self._weights(k) for s, k in self.by_style.items()}
        self._draw_scenes()

    def _weights(self, numbers):
        w = np.where(self.concept[numbers] < self.first, 3.0, 1.0)
        return w / w.sum()

    def _draw_scenes(self):
        """Every scene VARIANTS times, uint8, and where a thing stands in it (0..1 from above; -1: it hangs in the middle)."""
        drawn, stands = [], []
        for scene in SCENES:
            for _ in range(VARIANTS):
                picture, height = background(scene, self.rng)
                drawn.append(np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)))
                stands.append(-1.0 if height is None or scene == "in the sea" else min(height, 1 - 8 / N))
        self.scenes = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous().to(self.device)
        self.stands = np.array(stands)

    def _pick(self, style, n):
        """Numbers of n icons of one style, of different concepts."""
        return self.rng.choice(self.by_style[style], n, replace=False, p=self.weight[style])

    def _plan(self, shares):
        """One picture: its things [(icon, x, y, width, mirrored, color)], scene (or -1), caption, facts of picture and caption."""
        rng, kind = self.rng, self.rng.random()
        style = self.styles[rng.integers(len(self.styles))]
        count = 2 if kind < shares.pair else 3 if kind < shares.pair + shares.three else 1
        count = min(count, len(self.by_style[style]))
        placed = kind < shares.pair + shares.three + shares.scene if count == 1 else rng.random() < 0.5
        scene = int(rng.integers(len(SCENES))) if placed else -1
        if scene >= 0 and style == "ink" and SCENES[scene] in DARK:
            scene = -1
        variant = scene * VARIANTS + int(rng.integers(VARIANTS)) if scene >= 0 else -1
        stands = self.stands[variant] if scene >= 0 else -1.0
        icons = self._pick(style, count)
        color = int(rng.integers(len(INKS))) if style == "ink" and count == 1 and rng.random() < shares.inked else -1
        relation = ["", "", "three"][count - 1] or ("" if count == 1 else list(RELATIONS)[rng.integers(len(RELATIONS))])
        if relation in ("above", "below") and stands >= 0:
            relation = "and"
        where = self._where(count, relation, scene, stands)
        things = []
        for icon, (x, y, width) in zip(icons, where, strict=True):
            k = width * SIDE / INNER
            if stands >= 0:
                y = 2 * stands - 1 - k * self.half[icon, 1]
            things.append((icon, x, y, k, rng.random() < 0.5, color))
        return things, variant, *self._words(icons, style, scene, relation, color, shares)

    def _where(self, count, relation, scene, stands):
        """Middle (-1..1) and width (0..1 of the picture) of each thing."""
        u = lambda a, b: float(self.rng.uniform(a, b))
        if count == 1:
            width = u(0.64, 0.76) if stands >= 0 else u(0.74, 0.86) if scene >= 0 else u(0.82, 0.96)
            return [(u(-0.08, 0.08) if scene >= 0 else 0.0, 0.0, width)]
        if count == 3:
            width = u(0.27, 0.31)
            return [((i - 1) * 0.64 + u(-0.03, 0.03), u(-0.15, 0.15), width) for i in range(3)]
        dx, dy = RELATIONS[relation]
        if (dx, dy) == (0, 0):
            dx = -1 if relation == "and" or self.rng.random() < 0.5 else 1  # of "a and b" the first is on the left
        width = u(0.42, 0.47)
        spot = lambda sign: (sign * dx * 0.47 + u(-0.03, 0.03), sign * dy * 0.47 + u(-0.03, 0.03), width)
        return [spot(1), spot(-1)]

    def _words(self, icons, style, scene, relation, color, shares):
        """The caption, what the picture shows, and what the caption says of it."""
        concepts = [self.concepts[self.concept[i]] for i in icons]
        key = 0
        for i in icons:
            key = key * 100_003 + int(self.concept[i]) + 1
        shows = [key, self.styles.index(style), scene, -2 if not relation else list((*RELATIONS, "three")).index(relation), color]
        said = list(shows)
        if relation == "" and scene < 0 and color < 0:
            named = None if self.rng.random() < P_PLAIN else style
            n = len(concepts[0]["phrases"])
            which = 0 if n == 1 or self.rng.random() < 0.6 else int(self.rng.integers(1, n))
            template = draw(self.rng, [(t, p) for t, p in (STYLED if named else PLAIN)])
            text = fill(template, concepts[0]["captions"][which], concepts[0]["phrases"][which], style)
            said[1:3] = [shows[1] if named else -1, -1]
            return text, shows, said
        names = [c["captions"][0] for c in concepts]
        if color >= 0:
            word, bare = list(INKS)[color], concepts[0]["phrases"][0]
            names = [f"{article(word)} {word} {bare}"]
        text = f"{names[0]}, {names[1]} and {names[2]}" if len(names) == 3 else f" {relation} ".join(names)
        if scene >= 0:
            if self.rng.random() < shares.unsaid:
                said[2] = -1
            else:
                text = f"{text} {PLACES[scene]}"
        choices = composed_captions(text, style)
        picked = draw(self.rng, list(enumerate(p for _, p in choices)))
        if picked < 2:
            said[1] = -1
        return choices[picked][0], shows, said

    def batch(self, n, shares=Shares()):
        """Pictures f32 [n, 3, 128, 128] in -1..1, captions, and facts [n, 5] of the pictures and of the captions."""
        plans = [self._plan(shares) for _ in range(n)]
        scene = torch.tensor([variant for _, variant, *_ in plans], device=self.device)
        ground = self.scenes[scene.clamp(min=0)].float() / 255
        x = torch.where((scene < 0).view(-1, 1, 1, 1), 1.0, ground)
        for layer in range(3):
            rows = [i for i, plan in enumerate(plans) if len(plan[0]) > layer]
            if rows:
                x[rows] = self._pasted(x[rows], [plans[i][0][layer] for i in rows])
        facts = [torch.tensor([plan[k] for plan in plans]) for k in (3, 4)]
        return x * 2 - 1, [plan[2] for plan in plans], *facts

    def _pasted(self, x, things):
        """Things laid over pictures in 0..1, one on each."""
        rgba = self.icons[torch.tensor([t[0] for t in things], device=self.device)].float() / 255
        alpha, rgb = rgba[:, 3:], rgba[:, :3]
        color = torch.tensor([list(INKS.values())[t[5]] if t[5] >= 0 else (-1, -1, -1) for t in things], device=self.device).view(-1, 3, 1, 1) / 255
        rgb = torch.where(color < 0, rgb, color) * alpha  # premultiplied
        rgba = torch.cat([rgb, alpha], 1)
        signs = [-1 if t[4] else 1 for t in things]
        theta = torch.tensor([[[m / k, 0, -m * cx / k], [0, 1 / k, -cy / k]] for m, (_, cx, cy, k, _, _) in zip(signs, things, strict=True)])
        grid = F.affine_grid(theta.float().to(self.device), list(x.shape), align_corners=False)
        small = torch.tensor([t[3] < 0.66 for t in things], device=self.device)
        half = F.avg_pool2d(rgba, 2)  # a bilinear sample of a picture that shrinks by more than this would skip pixels
        near = F.grid_sample(rgba, grid, align_corners=False)
        far = F.grid_sample(half, grid, align_corners=False)
        laid = torch.where(small.view(-1, 1, 1, 1), far, near).clamp(0, 1)
        return laid[:, :3] + x * (1 - laid[:, 3:])


def fits(shows, said):
    """Which caption (rows) fits which picture (columns), f32: it says nothing that the picture does not show."""
    return ((said[:, None] == -1) | (said[:, None] == shows[None])).all(-1).float()
