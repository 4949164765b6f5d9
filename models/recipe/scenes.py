"""Simple scenes and colored backgrounds, drawn at four times the size."""

import numpy as np
from PIL import Image, ImageDraw

N = 256  # side at which scenes are drawn; reduced to a quarter afterwards
COLORS = {
    "red": (214, 48, 49), "orange": (240, 140, 40), "yellow": (250, 215, 70), "green": (70, 170, 80), "blue": (60, 120, 220),
    "purple": (130, 80, 190), "pink": (245, 160, 190), "gray": (150, 150, 150), "black": (25, 25, 28),
}
PLACES = ["on the grass", "in the snow", "at night", "on the beach", "in the sea", "at sunset", "on a table", "on the road"]
SCENES = [f"on a {c} background" for c in COLORS] + PLACES
DARK = {"on a black background", "at night"}  # no place for black ink


def jitter(rng, color, amount=8):
    """The color, changed a little."""
    return tuple(int(np.clip(v + rng.integers(-amount, amount + 1), 0, 255)) for v in color)


def gradient(top, bottom):
    """Top to bottom."""
    w = np.linspace(0, 1, N)[:, None, None]
    mix = (1 - w) * np.array(top) + w * np.array(bottom)
    return Image.fromarray(np.broadcast_to(mix, (N, N, 3)).astype(np.uint8).copy())


def spots(rng, count, lowest, smallest, largest):
    """Boxes of random circles above the line `lowest`."""
    for _ in range(count):
        x, y = rng.integers(0, N), rng.integers(0, lowest)
        r = rng.integers(smallest, largest)
        yield x - r, y - r, x + r, y + r


def grass(rng, h):
    im = gradient(jitter(rng, (120, 190, 250)), jitter(rng, (205, 230, 252)))
    d = ImageDraw.Draw(im)
    d.rectangle((0, h, N, N), fill=jitter(rng, (96, 178, 72)))
    for _ in range(26):
        x, y = rng.integers(0, N), rng.integers(h + 6, N)
        d.line((x, y, x + 3, y - 12), fill=jitter(rng, (64, 140, 50)), width=4)
    return im


def snow(rng, h):
    im = gradient(jitter(rng, (140, 170, 205)), jitter(rng, (200, 215, 235)))
    d = ImageDraw.Draw(im)
    d.ellipse((-60, h - 12, N + 60, N + 120), fill=jitter(rng, (242, 246, 252), 5))
    for box in spots(rng, 22, h, 3, 6):
        d.ellipse(box, fill=(255, 255, 255))
    return im


def night(rng, h):
    im = gradient(jitter(rng, (12, 18, 52), 5), jitter(rng, (40, 52, 110)))
    d = ImageDraw.Draw(im)
    d.rectangle((0, h + 20, N, N), fill=jitter(rng, (24, 32, 60), 5))
    for box in spots(rng, 16, h, 2, 5):
        d.ellipse(box, fill=(250, 246, 210))
    return im


def beach(rng, h):
    im = gradient(jitter(rng, (130, 205, 250)), jitter(rng, (200, 235, 252)))
    d = ImageDraw.Draw(im)
    d.rectangle((0, N // 2, N, h), fill=jitter(rng, (40, 150, 200)))
    d.rectangle((0, h, N, N), fill=jitter(rng, (238, 210, 150)))
    return im


def sea(rng, _):
    im = gradient(jitter(rng, (90, 200, 225)), jitter(rng, (14, 80, 150)))
    d = ImageDraw.Draw(im)
    for box in spots(rng, 12, N, 4, 9):
        d.ellipse(box, outline=(205, 240, 250), width=3)
    return im


def sunset(rng, h):
    im = gradient(jitter(rng, (110, 60, 130)), jitter(rng, (252, 150, 70)))
    d = ImageDraw.Draw(im)
    x = int(N * rng.uniform(0.2, 0.8))
    d.ellipse((x - 34, h - 34, x + 34, h + 34), fill=jitter(rng, (255, 220, 110)))
    d.rectangle((0, h, N, N), fill=jitter(rng, (84, 44, 70)))
    return im


def table(rng, h):
    im = Image.new("RGB", (N, N), jitter(rng, (235, 222, 200)))
    d = ImageDraw.Draw(im)
    d.rectangle((0, h, N, N), fill=jitter(rng, (160, 104, 60)))
    d.rectangle((0, h, N, h + 8), fill=jitter(rng, (120, 74, 40)))
    return im


def road(rng, h):
    im = gradient(jitter(rng, (135, 200, 250)), jitter(rng, (215, 235, 250)))
    d = ImageDraw.Draw(im)
    d.rectangle((0, N // 2, N, h), fill=jitter(rng, (110, 170, 90)))
    d.rectangle((0, h, N, N), fill=jitter(rng, (92, 94, 100)))
    for x in range(int(rng.integers(0, 40)), N, 72):
        d.rectangle((x, h + 44, x + 38, h + 52), fill=(240, 240, 235))
    return im


DRAW = dict(zip(PLACES, (grass, snow, night, beach, sea, sunset, table, road), strict=True))


def background(scene, rng):
    """The picture of a scene, and the height (0..1) at which an object stands, or None where it hangs in the middle."""
    for name, color in COLORS.items():
        if scene == f"on a {name} background":
            return Image.new("RGB", (N, N), jitter(rng, color)), None
    horizon = int(N * rng.uniform(0.62, 0.72))
    return DRAW[scene](rng, horizon), (horizon + N) / 2 / N + 0.12


def fit(icon, share):
    """An icon's visible part, its longer side `share` of the picture."""
    factor = share * N / max(icon.size)
    return icon.resize((max(1, int(icon.width * factor)), max(1, int(icon.height * factor))), Image.LANCZOS)


def cropped(icon):
    """An icon without its empty border."""
    return icon.crop(icon.getbbox() or (0, 0, N, N))


def put(ground, icon, x, top):
    """The icon onto an RGBA ground, never beyond its upper or left border."""
    ground.alpha_composite(icon, (max(0, x), max(0, top)))


def reduced(ground):
    """The finished picture, uint8 [64, 64, 3]."""
    return np.asarray(ground.convert("RGB").resize((N // 4, N // 4), Image.LANCZOS))
