"""LPIPS on VGG16 with small random weights: the distance of two pairs of pictures, and its gradient on the first of each.

Writes tests/data/parity/lpips.safetensors: thirteen convolutions (features.N), the linear weights (linN.model.1.weight), `x` and `y`
[2, 3, 24, 40] in 0..1, `distance` [2], `grad` of its sum on `x`.
"""

import torch
import torch.nn.functional as F

from fixtures import OUT, save_tensors

SLICES = [[(0, 3, 4), (2, 4, 4)], [(5, 4, 6), (7, 6, 6)], [(10, 6, 6), (12, 6, 6), (14, 6, 6)], [(17, 6, 8), (19, 8, 8), (21, 8, 8)],
          [(24, 8, 8), (26, 8, 8), (28, 8, 8)]]  # fmt: skip


def taps(weights, x):
    x = 2 * x - 1
    x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    for i, layers in enumerate(SLICES):
        if i:
            x = F.max_pool2d(x, 2)
        for n, _, _ in layers:
            x = F.relu(F.conv2d(x, weights[f"features.{n}.weight"], weights[f"features.{n}.bias"], padding=1))
        yield x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)


def lpips(weights, x, y):
    parts = [
        F.conv2d((a - b) ** 2, weights[f"lin{i}.model.1.weight"]).mean((1, 2, 3))
        for i, (a, b) in enumerate(zip(taps(weights, x), taps(weights, y)))
    ]
    return sum(parts)


def generate():
    generator = torch.Generator().manual_seed(81)
    weights = {}
    for layers in SLICES:
        for n, a, b in layers:
            weights[f"features.{n}.weight"] = torch.randn(b, a, 3, 3, generator=generator) * (2 / (9 * a)) ** 0.5
            # Above 0: where all channels are 0 PyTorch's root has no slope, and the reference would be no number.
            weights[f"features.{n}.bias"] = torch.rand(b, generator=generator) * 0.2
    for i, layers in enumerate(SLICES):
        weights[f"lin{i}.model.1.weight"] = torch.rand(1, layers[-1][2], 1, 1, generator=generator)
    x = torch.rand(2, 3, 24, 40, generator=generator).requires_grad_()
    y = torch.rand(2, 3, 24, 40, generator=generator)
    distance = lpips(weights, x, y)
    distance.sum().backward()
    assert torch.isfinite(x.grad).all() and float(distance.detach().min()) > 0.01
    save_tensors(OUT / "lpips.safetensors", {**weights, "x": x, "y": y, "distance": distance, "grad": x.grad})
    return f"distances {[round(float(d), 4) for d in distance]}"
