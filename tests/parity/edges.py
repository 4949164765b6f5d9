"""Networks that find edges, with small random weights: what plain PyTorch makes of them.

hed.safetensors      ControlNet's HED: its names, widths 3 to 6, a picture in 0..1 and its edges
pidinet.safetensors  PiDiNet's table5: trained weights (differences between pixels, computed as differences), their kernels converted
                     to plain ones (names beginning with "converted."), a picture and its edges
"""

import torch
import torch.nn.functional as F

from fixtures import OUT, distance, save_tensors

HED = [(3, 4, 2), (4, 5, 2), (5, 6, 3), (6, 6, 3), (6, 5, 3)]
STAGES = [3, 4, 4, 4]
KINDS = ["cd", "ad", "rd", "cv"]
AROUND = [3, 0, 1, 6, 4, 2, 7, 8, 5]
FAR, NEAR = [0, 2, 4, 10, 14, 20, 22, 24], [6, 7, 8, 11, 13, 16, 17, 18]


class Maker:
    """Weights by name, drawn when they are asked for, as an f16 file holds them."""

    def __init__(self, seed):
        self.generator, self.made = torch.Generator().manual_seed(seed), {}

    def __call__(self, name, *shape, scale=1.0):
        if name not in self.made:
            fan = 1
            for s in shape[1:]:
                fan *= s
            self.made[name] = (torch.randn(shape, generator=self.generator) * scale * (2 / fan) ** 0.5).half().float()
        return self.made[name]


def hed(w, x):
    h, maps = x * 255 - w("norm", 1, 3, 1, 1, scale=80), []
    for i, (a, b, count) in enumerate(HED):
        if i:
            h = F.max_pool2d(h, 2, 2)
        for n in range(count):
            name = f"block{i + 1}.convs.{n}"
            # The first layer brings 0..255 near 1.
            first = 0.01 if i == n == 0 else 1.0
            h = F.relu(F.conv2d(h, w(f"{name}.weight", b, a if n == 0 else b, 3, 3, scale=first), w(f"{name}.bias", b, scale=0.1), padding=1))
        name = f"block{i + 1}.projection"
        side = F.conv2d(h, w(f"{name}.weight", 1, b, 1, 1), w(f"{name}.bias", 1, scale=0.1))
        maps.append(F.interpolate(side, size=x.shape[2:], mode="bilinear", align_corners=False))
    return torch.sigmoid(torch.stack(maps).mean(0))


def differences(kind, x, weight, groups):
    """The convolution of differences as it is defined, not as a plain one: pixel by pixel of the window."""
    if kind == "cv":
        return F.conv2d(x, weight, padding=1, groups=groups)
    if kind == "cd":
        return F.conv2d(x, weight, padding=1, groups=groups) - F.conv2d(x, weight.sum((2, 3), keepdim=True), groups=groups)
    n, c, h, w = x.shape
    reach = 2 if kind == "rd" else 1
    padded = F.pad(x, [reach] * 4)
    at = lambda dy, dx: padded[:, :, reach + dy : reach + dy + h, reach + dx : reach + dx + w]
    around = [(i // 3 - 1, i % 3 - 1) for i in range(9)]
    out = 0
    for i, (dy, dx) in enumerate(around):
        if kind == "rd":
            # weights 1 to 8 belong to the outer ring's eight places; each loses the pixel one step nearer to the centre.
            if i == 0:
                continue
            far, near = FAR[i - 1], NEAR[i - 1]
            pixel = at(far // 5 - 2, far % 5 - 2) - at(near // 5 - 2, near % 5 - 2)
        else:
            # weight i meets pixel i, less the pixel whose weight replaces it: sum over i of (w_i - w_around(i)) x_i.
            before = AROUND.index(i)
            pixel = at(dy, dx) - at(*around[before])
        out = out + F.conv2d(pixel, weight[:, :, i // 3, i % 3][:, :, None, None], groups=groups)
    return out


def plain(kind, weight):
    if kind == "cd":
        out = weight.clone()
        out[:, :, 1, 1] -= weight.sum((2, 3))
        return out
    flat = weight.flatten(2)
    if kind == "ad":
        return (flat - flat[:, :, AROUND]).reshape(weight.shape)
    if kind == "rd":
        out = torch.zeros(*weight.shape[:2], 25, dtype=weight.dtype)
        out[:, :, FAR], out[:, :, NEAR] = flat[:, :, 1:], -flat[:, :, 1:]
        return out.reshape(*weight.shape[:2], 5, 5)
    return weight


def pidinet(w, x, width=6, narrow=3):
    kinds = iter(KINDS * 4)
    converted = {}

    def conv(name, x, o, i, groups):
        kind = next(kinds)
        weight = w(name, o, i, 3, 3)
        converted[name] = plain(kind, weight)
        return differences(kind, x, weight, groups)

    h = conv("init_block.weight", x.flip(1), width, 3, 1)
    maps, a = [], width
    for s, count in enumerate(STAGES):
        b = width * [1, 2, 4, 4][s]
        for n in range(count):
            name = f"block{s + 1}_{n + 1}"
            short = h
            if s and n == 0:
                h = F.max_pool2d(h, 2, 2)
                short = F.conv2d(h, w(f"{name}.shortcut.weight", b, a, 1, 1), w(f"{name}.shortcut.bias", b, scale=0.1))
            y = F.relu(conv(f"{name}.conv1.weight", h, a, 1, a))
            h = F.conv2d(y, w(f"{name}.conv2.weight", b, a, 1, 1, scale=0.5)) + short
            a = b
        d, t = f"dilations.{s}", f"attentions.{s}"
        z = F.conv2d(F.relu(h), w(f"{d}.conv1.weight", narrow, a, 1, 1), w(f"{d}.conv1.bias", narrow, scale=0.1))
        z = sum(F.conv2d(z, w(f"{d}.conv2_{k + 1}.weight", narrow, narrow, 3, 3), dilation=r, padding=r) for k, r in enumerate([5, 7, 9, 11]))
        y = F.conv2d(F.relu(z), w(f"{t}.conv1.weight", 4, narrow, 1, 1), w(f"{t}.conv1.bias", 4, scale=0.1))
        z = z * torch.sigmoid(F.conv2d(y, w(f"{t}.conv2.weight", 1, 4, 3, 3), padding=1))
        e = F.conv2d(z, w(f"conv_reduces.{s}.conv.weight", 1, narrow, 1, 1), w(f"conv_reduces.{s}.conv.bias", 1, scale=0.1))
        maps.append(F.interpolate(e, size=x.shape[2:], mode="bilinear", align_corners=False))
    out = F.conv2d(torch.cat(maps, 1), w("classifier.weight", 1, 4, 1, 1), w("classifier.bias", 1, scale=0.1))
    return torch.sigmoid(out), converted


def exact(w):
    """The same weights in f64."""
    twin = Maker(0)
    twin.made = {k: v.double() for k, v in w.made.items()}
    return twin


def generate():
    generator = torch.Generator().manual_seed(71)
    x = F.interpolate(torch.rand(2, 3, 9, 11, generator=generator), size=(40, 52), mode="bilinear")
    w = Maker(72)
    found = hed(w, x)
    rounding = [distance(found, hed(exact(w), x.double()))]
    save_tensors(OUT / "hed.safetensors", {**w.made, "x": x, "edges": found})
    w = Maker(73)
    found, converted = pidinet(w, x)
    rounding.append(distance(found, pidinet(exact(w), x.double())[0]))
    both = {**w.made, **{f"converted.{k}": v.clone() for k, v in converted.items()}}
    save_tensors(OUT / "pidinet.safetensors", {**both, "x": x, "edges": found})
    spread = float(found.max() - found.min())
    assert spread > 0.3, f"the edges of PiDiNet are flat: {spread}"
    return "rounding " + ", ".join(f"{r:.1e}" for r in rounding)
