"""Fixtures of guidance by a predictor: a perceptron with batch normalization in both modes, and the gradient of the guidance
loss by the latent through predictor and UNet. Writes tests/data/parity/guidance.safetensors.
"""

import math
import os

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(ROOT, "tests", "data", "parity", "guidance.safetensors")
WIDTHS = [5, 7, 6, 3]


class Mlp(torch.nn.Module):
    def __init__(self, widths):
        super().__init__()
        pairs = list(zip(widths, widths[1:]))
        self.linear = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in pairs)
        self.norm = torch.nn.ModuleList(torch.nn.BatchNorm1d(b) for _, b in pairs[:-1])

    def forward(self, x):
        for linear, norm in zip(self.linear, self.norm):
            x = norm(torch.relu(linear(x)))
        return self.linear[-1](x)

    def named(self):
        """Weights by the names that the program gives them."""
        out = {}
        for i, linear in enumerate(self.linear):
            out[f"{i}.weight"], out[f"{i}.bias"] = linear.weight, linear.bias
            if i < len(self.norm):
                out[f"{i}.norm.weight"], out[f"{i}.norm.bias"] = self.norm[i].weight, self.norm[i].bias
        return out

    def running(self):
        out = {}
        for i, norm in enumerate(self.norm):
            out[f"{i}.norm.running_mean"], out[f"{i}.norm.running_var"] = norm.running_mean, norm.running_var
        return out


def perceptron(out):
    torch.manual_seed(0)
    net = Mlp(WIDTHS)
    with torch.no_grad():
        for norm in net.norm:
            norm.weight.add_(0.3 * torch.randn_like(norm.weight))
            norm.bias.add_(0.3 * torch.randn_like(norm.bias))
    for name, value in net.named().items():
        out[f"mlp.{name}"] = value.detach().clone()
    for mode in ["train", "eval"]:
        net.train(mode == "train")
        x = torch.randn(9, WIDTHS[0], requires_grad=True)
        y = net(x)
        net.zero_grad()
        y.pow(2).sum().backward()
        out[f"{mode}.x"], out[f"{mode}.y"], out[f"{mode}.dx"] = x.detach(), y.detach(), x.grad.clone()
        for name, value in net.named().items():
            out[f"{mode}.d.{name}"] = value.grad.clone()
        for name, value in net.running().items():
            out[f"{mode}.{name}"] = value.clone()


SITES = [
    "down_blocks.0.attentions.1", "down_blocks.1.attentions.0", "down_blocks.2.attentions.1", "mid_block.resnets.0",
    "mid_block.attentions.0", "mid_block.resnets.1", "up_blocks.0.upsamplers.0", "up_blocks.1.attentions.1",
    "up_blocks.2.upsamplers.0",
]


def guidance(out):
    unet = UNet2DConditionModel.from_pretrained(os.path.join(ROOT, "models", "emoji", "unet")).float().eval()
    weights = load_file(os.path.join(ROOT, "models", "emoji", "predictors", "edges.safetensors"))
    widths = [weights["0.weight"].shape[1]] + [weights[f"{i}.weight"].shape[0] for i in range(5)]
    net = Mlp(widths).eval()
    with torch.no_grad():
        for name, value in {**net.named(), **net.running()}.items():
            value.copy_(weights[name].float())
    seen = {}
    modules = dict(unet.named_modules())
    for site in SITES:
        keep = lambda _m, _i, o, site=site: seen.__setitem__(site, o if torch.is_tensor(o) else o[0])
        modules[site].register_forward_hook(keep)
    torch.manual_seed(1)
    z = torch.randn(1, 4, 16, 16, requires_grad=True)
    states, target = torch.randn(1, 77, 128), torch.randn(1, 4, 16, 16)
    t = 701
    unet(z, t, encoder_hidden_states=states)
    resize = lambda f: torch.nn.functional.interpolate(f, size=(16, 16), mode="bilinear", align_corners=False)
    x = torch.cat([resize(seen[s]) for s in SITES], 1).permute(0, 2, 3, 1).reshape(256, -1)
    u = t / 1000
    level = torch.tensor([[u] + [math.sin(2 * math.pi * u * 2**l) for l in range(10)]]).repeat(256, 1)
    said = net(torch.cat([x, level], 1))
    loss = (said - target.permute(0, 2, 3, 1).reshape(256, -1)).pow(2).sum()
    loss.backward()
    out.update({"guide.z": z.detach(), "guide.states": states, "guide.target": target, "guide.loss": loss.detach().reshape(1), "guide.grad": z.grad})


def generate():
    out = {}
    perceptron(out)
    guidance(out)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT, metadata={"tolerance": "1e-5", "tolerance_guide": "1e-3"})
    return os.path.getsize(OUT)
