#!/usr/bin/env python3
"""Put the pictures into scenes and onto colored backgrounds: "a dog in the snow", "a flat emoji of a bus on a red background".

One picture per concept, set and scene. Writes OUT.npz (uint8 images) and OUT.json (scenes, which picture and scene each
one is made of, its captions with probabilities).
"""

import json
import pathlib

import numpy as np

from captions import composed_captions
from common import folder, items_of, parser, read_concepts, read_json
from icons import UNET_SETS, IconSet
from scenes import DARK, N, SCENES, background, cropped, fit, put, reduced


def place(icon, scene, rng):
    """One picture."""
    ground, height = background(scene, rng)
    share = rng.uniform(0.74, 0.86) if height is None else rng.uniform(0.64, 0.76)
    icon = fit(icon, share)
    x = int((N - icon.width) / 2 + rng.integers(-10, 11))
    floating = height is None or scene == "in the sea"
    top = int((N - icon.height) / 2) if floating else int(min(height * N, N - 8) - icon.height)
    ground = ground.convert("RGBA")
    put(ground, icon, x, top)
    return reduced(ground)


def main():
    p = parser(__doc__)
    p.add_argument("npm", type=folder)
    p.add_argument("data", type=folder)
    p.add_argument("concepts", type=pathlib.Path, help="file with the names of the concepts")
    p.add_argument("out", type=pathlib.Path, help="path without ending")
    a = p.parse_args()
    meta, rng = read_json(a.data / "meta.json"), np.random.default_rng(7)
    sets = {s: IconSet(a.npm, s) for s in UNET_SETS}
    images, items, captions = [], [], []
    for k in items_of(meta, sets, read_concepts(a.concepts)):
        item = meta["items"][k]
        icon = cropped(sets[item["set"]].render(item["icon"], N))
        what = meta["concepts"][item["concept"]]["captions"][0]
        for s, scene in enumerate(SCENES):
            if item["style"] == "ink" and scene in DARK:
                continue
            images.append(place(icon, scene, rng))
            items.append([k, s])
            captions.append(composed_captions(f"{what} {scene}", item["style"]))
    a.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(a.out.with_suffix(".npz"), images=np.stack(images))
    a.out.with_suffix(".json").write_text(json.dumps({"scenes": SCENES, "items": items, "captions": captions}))
    print(f"{len(images)} pictures")


if __name__ == "__main__":
    main()
