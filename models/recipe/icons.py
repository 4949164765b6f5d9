"""Icon sets of the npm packages @iconify-json/*: find an icon, render it."""

import io
import json
import pathlib

import resvg_py
from PIL import Image

# set -> the style word of its captions. Licences: README.md. Sets under share-alike licences are left out.
STYLES = {
    "fluent-emoji": "3d",
    "fluent-emoji-flat": "flat",
    "fluent-emoji-high-contrast": "ink",
    "noto": "cartoon",
    "noto-v1": "retro",
    "fxemoji": "pastel",
    "twemoji": "simple",
    "emojione": "classic",
}
# The sets that the UNet is trained on.
UNET_SETS = ["fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast", "noto"]


def read_icons(path=pathlib.Path(__file__).with_name("icons.txt")):
    """[(icon, its name in fxemoji or "", phrases)] of icons.txt."""
    concepts = []
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, phrases = line.split(":")
            icon, _, other = name.partition("@")
            concepts.append((icon, other, [p.strip() for p in phrases.split("|")]))
    return concepts


class IconSet:
    """One installed set."""

    def __init__(self, npm, name):
        base = pathlib.Path(npm) / "node_modules" / "@iconify-json" / name
        if not base.is_dir():
            raise SystemExit(f"{base} is not there: npm install the packages of package.json first")
        self.name, self.style = name, STYLES[name]
        self.package = json.loads((base / "package.json").read_text())
        self.json = json.loads((base / "icons.json").read_text())

    def find(self, icon, other=""):
        """The name under which this set has the icon, or None. Aliases are followed."""
        names = [icon]
        if self.name == "fxemoji":
            names = [n for n in (other, icon.replace("-", ""), icon) if n]
        aliases = self.json.get("aliases", {})
        for name in names:
            for _ in range(8):
                if name in self.json["icons"] or name not in aliases:
                    break
                name = aliases[name]["parent"]
            if name in self.json["icons"]:
                return name
        return None

    def render(self, name, side):
        """An icon as an RGBA picture of side x side."""
        icon, whole = self.json["icons"][name], self.json
        width, height = (icon.get(k, whole.get(k, 16)) for k in ("width", "height"))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
            f'width="{side}" height="{side}" color="#111111">{icon["body"]}</svg>'
        )
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
