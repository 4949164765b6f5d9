#!/usr/bin/env python3
"""Two things in one picture: "a dog and a cat", "a crown above a lion", plain or in a scene.

Writes OUT.npz (uint8 images) and OUT.json (the captions of each picture with probabilities).
"""

import json
import pathlib

import numpy as np
from PIL import Image

from captions import composed_captions
from common import folder, items_of, parser, positive, read_concepts, read_json
from icons import UNET_SETS, IconSet
from scenes import DARK, N, SCENES, background, cropped, fit, put, reduced


def draw_pair(icons, style, rng):
    """The picture, its scene or "", and "and" or "above"."""
    scene = "" if rng.random() < 0.5 else SCENES[rng.integers(len(SCENES))]
    if style == "ink" and scene in DARK:
        scene = ""
    ground, height = background(scene, rng) if scene else (Image.new("RGB", (N, N), (255, 255, 255)), None)
    above = height is None and rng.random() < 0.3
    ground = ground.convert("RGBA")
    share = rng.uniform(0.43, 0.47)
    for k, icon in enumerate(icons):
        icon = fit(icon, share)
        cx, cy = (0.5, 0.27 + 0.47 * k) if above else (0.27 + 0.47 * k, 0.5)
        x = int(cx * N - icon.width / 2 + rng.integers(-4, 5))
        floating = height is None or scene == "in the sea"
        top = int(cy * N - icon.height / 2 + rng.integers(-4, 5)) if floating else int(min(height * N, N - 8) - icon.height)
        put(ground, icon, x, top)
    return reduced(ground), scene, "above" if above else "and"


def main():
    p = parser(__doc__)
    p.add_argument("npm", type=folder)
    p.add_argument("data", type=folder)
    p.add_argument("concepts", type=pathlib.Path, help="file with the names of the concepts")
    p.add_argument("count", type=positive)
    p.add_argument("out", type=pathlib.Path, help="path without ending")
    a = p.parse_args()
    meta, rng = read_json(a.data / "meta.json"), np.random.default_rng(11)
    sets = {s: IconSet(a.npm, s) for s in UNET_SETS}
    by_style, rendered = {}, {}
    for k in items_of(meta, sets, read_concepts(a.concepts)):
        by_style.setdefault(meta["items"][k]["style"], []).append(k)
    if min(map(len, by_style.values()), default=0) < 2:
        p.error("each style needs at least two concepts")

    def icon(k):
        item = meta["items"][k]
        if k not in rendered:
            rendered[k] = cropped(sets[item["set"]].render(item["icon"], N))
        return rendered[k]

    images, captions, styles = [], [], list(by_style)
    for _ in range(a.count):
        style = styles[rng.integers(len(styles))]
        both = [by_style[style][i] for i in rng.choice(len(by_style[style]), 2, replace=False)]
        image, scene, relation = draw_pair([icon(k) for k in both], style, rng)
        names = [meta["concepts"][meta["items"][k]["concept"]]["captions"][0] for k in both]
        images.append(image)
        captions.append(composed_captions(f"{names[0]} {relation} {names[1]} {scene}".strip(), style))
    a.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(a.out.with_suffix(".npz"), images=np.stack(images))
    a.out.with_suffix(".json").write_text(json.dumps({"captions": captions}))
    print(f"{len(images)} pairs of {len(rendered)} pictures")


if __name__ == "__main__":
    main()
