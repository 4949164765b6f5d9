#!/usr/bin/env python3
"""Pack what the second model is trained from into one folder: icons.zip (each icon cut out, as lossless WebP), meta.json and
tokenizer/. Everything after this needs no network and no npm packages.

A concept is an emoji that at least SETS_NEEDED of the four sets draw, without skin tones, flags, keycaps and clocks. Its phrase is
the emoji's English name; the concepts of ../icons.txt keep the phrases they have there.
"""

import collections
import io
import json
import pathlib
import sys
import zipfile

from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from captions import with_article
from common import folder, parser, positive, read_json
from icons import STYLES, UNET_SETS, IconSet, read_icons
from make_tokenizer import EXTRA, END, START, WORDS, build, byte_symbols, train

SIDE, INNER, DRAWN = 128, 120, 480  # of the packed icon, of what is visible in it, of the drawing that is reduced
SETS_NEEDED = 3
LEFT_OUT = ("flag", "keycap", "button", "skin-tone", "-oclock", "-thirty", "input-", "zodiac")
RELATIONS = "next to left right above below of and a the on in".split()


def named(npm):
    """Icon name -> English name, of every emoji without a skin tone, in unicode-emoji-json's order."""
    data = read_json(npm / "node_modules/unicode-emoji-json/data-by-emoji.json")
    return {v["slug"].replace("_", "-"): v["name"].lower() for v in data.values() if v["group"] != "Flags"}


def concepts(npm, sets):
    """[(icon, phrases)], those of icons.txt before the others, which keep the order of their list; and how many come first."""
    found = [(icon, phrases) for icon, _, phrases in read_icons() if sum(s.find(icon) is not None for s in sets) >= SETS_NEEDED]
    first, icons, phrases = len(found), {icon for icon, _ in found}, {p for _, ps in found for p in ps}
    for icon, name in named(npm).items():
        name = name.replace("’", "'").replace("“", "").replace("”", "").replace(":", "")
        if icon in icons or name in phrases or any(part in icon for part in LEFT_OUT):
            continue
        if sum(s.find(icon) is not None for s in sets) >= SETS_NEEDED:
            found.append((icon, [name]))
            icons.add(icon)
            phrases.add(name)
    return found, first


def cut_out(icon):
    """The visible part of an icon, its longer side INNER, in the middle of a transparent square; None where nothing is visible."""
    box = icon.getbbox()
    if box is None:
        return None
    icon = icon.crop(box).convert("RGBa")  # premultiplied: edges keep their color when they are reduced
    factor = INNER / max(icon.size)
    size = [max(1, round(n * factor)) for n in icon.size]
    out = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    out.paste(icon.resize(size, Image.LANCZOS).convert("RGBA"), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return out


def word_counts(meta, npm):
    """How often each word counts for the tokenizer: captions most, general English from the word lists."""
    counts = collections.Counter()
    for concept in meta["concepts"]:
        for phrase in concept["phrases"]:
            counts.update({w: 40 for w in WORDS.findall(phrase)})
    for word in [*EXTRA, *RELATIONS, *STYLES.values(), "emoji", "background", "style"]:
        counts[word] += 200
    modules = npm / "node_modules"
    keywords = [k.replace("_", " ") for ks in read_json(modules / "emojilib/dist/emoji-en-US.json").values() for k in ks]
    for text in [*keywords, *named(npm).values()]:
        counts.update({w: 2 for w in WORDS.findall(text.lower()) if w.isascii()})
    return counts


def write_tokenizer(counts, size, out):
    """A CLIPTokenizer folder, as make_tokenizer.py writes it."""
    symbols = byte_symbols()
    merges = train(counts, symbols, size)
    base = list(symbols.values())
    vocab = list(dict.fromkeys([*base, *(c + "</w>" for c in base), *(x + y for x, y in merges), START, END]))
    out.mkdir(parents=True, exist_ok=True)
    text = json.loads(build(vocab, merges).to_str())
    (out / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False, separators=(",", ":")))
    config = {
        "add_prefix_space": False, "bos_token": START, "do_lower_case": True, "eos_token": END, "errors": "replace",
        "model_max_length": 77, "pad_token": END, "tokenizer_class": "CLIPTokenizer", "unk_token": END,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return len(vocab)


def main():
    p = parser(__doc__)
    p.add_argument("npm", type=folder)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--limit", type=int, default=0, help="only the first concepts (a trial)")
    p.add_argument("--vocabulary", type=positive, default=4096, help="%(default)s")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    sets = [IconSet(a.npm, name) for name in UNET_SETS]
    chosen, first = concepts(a.npm, sets)
    chosen = chosen[: a.limit or None]
    items = []
    with zipfile.ZipFile(a.out / "icons.zip", "w", zipfile.ZIP_STORED) as file:
        for icons in sets:
            for c, (icon, _) in enumerate(chosen):
                found = icons.find(icon)
                picture = cut_out(icons.render(found, DRAWN)) if found else None
                if picture is None:
                    continue
                data = io.BytesIO()
                picture.save(data, "WEBP", lossless=True, quality=100, method=4)
                file.writestr(f"{len(items)}.webp", data.getvalue())
                items.append({"concept": c, "style": icons.style, "set": icons.name, "icon": found})
    entries = [{"icon": icon, "phrases": ps, "captions": [with_article(x) for x in ps]} for icon, ps in chosen]
    licences = {s.name: {k: s.package[k] for k in ("version", "license")} | {"style": s.style} for s in sets}
    meta = {"first": min(first, len(chosen)), "concepts": entries, "items": items, "licences": licences}
    (a.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    words = write_tokenizer(word_counts(meta, a.npm), a.vocabulary, a.out / "tokenizer")
    bytes_ = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file())
    print(f"{len(chosen)} concepts, {len(items)} icons, {words} tokens, {bytes_ / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
