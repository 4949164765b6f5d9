"""The perceptual features of VGG16 with small random weights: torchvision's layers, the loss between two pictures, its gradient.

Writes tests/data/parity/vgg.safetensors: weights (features.N.weight and bias, widths 4 to 8), two pictures of 24 x 24, the mean
of every activation after relu1_2, relu2_2, relu3_3 and relu4_3, the summed L1 loss and its gradient on the first picture.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

LAYERS = [(0, 3, 4), (2, 4, 4), (5, 4, 6), (7, 6, 6), (10, 6, 6), (12, 6, 6), (14, 6, 6), (17, 6, 8), (19, 8, 8), (21, 8, 8)]
POOLS, ENDS = {4, 9, 16}, {3, 8, 15, 22}
def features(weights, x):
    x = F.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False)
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    out = []
    for i in range(23):
        if i in POOLS:
            x = F.max_pool2d(x, 2)
        elif f"features.{i}.weight" in weights:
            x = F.relu(F.conv2d(x, weights[f"features.{i}.weight"], weights[f"features.{i}.bias"], padding=1))
        if i in ENDS:
            out.append(x)
    return out


def generate():
    torch.manual_seed(0)
    weights = {}
    for i, a, b in LAYERS:
        weights[f"features.{i}.weight"] = torch.randn(b, a, 3, 3) * (2 / (9 * a)) ** 0.5
        weights[f"features.{i}.bias"] = torch.randn(b) * 0.1
    x = torch.rand(1, 3, 24, 24, requires_grad=True)
    y = torch.rand(1, 3, 24, 24)
    a, b = features(weights, x), features(weights, y)
    loss = sum(F.l1_loss(p, q) for p, q in zip(a, b))
    loss.backward()
    means = torch.stack([p.mean() for p in a]).detach()
    out = weights | {"x": x.detach(), "y": y, "means": means, "loss": loss.detach().reshape(1), "grad": x.grad}
    save_file({k: v.contiguous() for k, v in out.items()}, pathlib.Path(__file__).parents[1] / "data" / "parity" / "vgg.safetensors")
    return len(out)
