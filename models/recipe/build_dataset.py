#!/usr/bin/env python3
"""Render openly licensed emoji sets to 64x64 RGB on white, with captions.

NPM is the folder with node_modules/@iconify-json; OUT gets data.npz (uint8 images) and meta.json (concepts with their
phrases, and concept, set and style of each picture).
"""

import json
import pathlib

import numpy as np
from PIL import Image

from captions import with_article
from common import folder, parser
from icons import STYLES, IconSet, read_icons

SIDE, MARGIN, OVERSAMPLING = 64, 2, 4


def on_white(icon):
    """The icon on white, reduced, with a margin so that shapes do not touch the border."""
    ground = Image.new("RGBA", icon.size, (255, 255, 255, 255))
    ground.alpha_composite(icon)
    inner = SIDE - 2 * MARGIN
    out = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    out.paste(ground.convert("RGB").resize((inner, inner), Image.LANCZOS), (MARGIN, MARGIN))
    return np.asarray(out)


def main():
    p = parser(__doc__)
    p.add_argument("npm", type=folder)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--limit", type=int, default=0, help="only the first concepts (a trial)")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    concepts = read_icons()[: a.limit or None]
    images, items, counts, licences = [], [], {}, {}
    for name in STYLES:
        icons = IconSet(a.npm, name)
        licences[name] = {"package": icons.package["name"], "version": icons.package["version"], "license": icons.package["license"], "style": icons.style}
        for c, (icon, other, _) in enumerate(concepts):
            found = icons.find(icon, other)
            if found is not None:
                images.append(on_white(icons.render(found, SIDE * OVERSAMPLING)))
                items.append({"concept": c, "set": name, "style": icons.style, "icon": found})
                counts[name] = counts.get(name, 0) + 1
    np.savez_compressed(a.out / "data.npz", images=np.stack(images))
    entries = [{"icon": icon, "phrases": p, "captions": [with_article(x) for x in p]} for icon, _, p in concepts]
    meta = {"concepts": entries, "items": items, "licences": licences, "counts": counts}
    (a.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{len(concepts)} concepts, {len(images)} pictures: {counts}")


if __name__ == "__main__":
    main()
