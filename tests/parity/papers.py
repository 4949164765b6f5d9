"""Whole runs of papers in plain PyTorch on the embedded model: MagicFusion with its masks, the weights that disentanglement finds, a
sketch-guided chain. What a paper's effect is on this model, and what a mistake of the program would be, look alike; these tell them apart.

    python tests/parity/generate.py papers        papers.safetensors, for the tests
    python tests/parity/papers.py                 the weights of the report's three edits, at full length
"""

import copy
import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from chains import noise
from embedded import encode, load
from fixtures import MODEL, OUT, distance, picture, save_tensors
from guidance import SITES, Mlp

CFG = 7.0
FUSIONS = {
    "paper": {"general": "a dog in the snow", "expert": "a dog", "window": 0.85, "mode": "after", "alone": "expert", "official": False, "seed": 0},
    "official": {"general": "a strawberry on a table", "expert": "a strawberry on a table", "window": 0.85, "mode": "after", "alone": "expert", "official": True, "seed": 1},
    "before": {"general": "a car on the road", "expert": "a car", "window": 0.4, "mode": "before", "alone": "general", "official": False, "seed": 2},
}
FUSION_STEPS = 8
EDIT = {"neutral": "a dog", "target": "a dog in the snow", "steps": 6, "iters": 6, "lr": 0.05, "perceptual": 0.005, "first": 1, "seed": 0}
SKETCH = {"sketch": "sketch-cup.png", "prompt": "a cup of coffee", "steps": 4, "beta": 1.6, "stop": 0.5, "seed": 0}


class Schedule:
    """The folder's DDIM schedule of n steps."""

    def __init__(self, pipe, n):
        pipe.scheduler.set_timesteps(n)
        self.n, self.t = n, pipe.scheduler.timesteps.tolist()
        alphas = pipe.scheduler.alphas_cumprod.double()
        self.alpha = [float(alphas[t]) for t in self.t] + [float(pipe.scheduler.final_alpha_cumprod)]

    def at_level(self, share):
        return self.n - math.floor(share * self.n + 1e-6)

    def step(self, z, eps, i):
        x0 = (z - (1 - self.alpha[i]) ** 0.5 * eps) / self.alpha[i] ** 0.5
        return self.alpha[i + 1] ** 0.5 * x0 + (1 - self.alpha[i + 1]) ** 0.5 * eps


def with_lora(unet, path):
    """A copy of a UNet with a LoRA file of diffusers' or peft's names merged: weight + alpha / rank * up down, alpha = rank."""
    merged = copy.deepcopy(unet)
    state = dict(merged.named_parameters())
    tensors = load_file(path)
    downs = [k for k in tensors if ".lora_A." in k or ".lora.down." in k]
    assert downs and not any(k.endswith("alpha") for k in tensors)
    for key in downs:
        up = tensors[key.replace(".lora_A.", ".lora_B.").replace(".lora.down.", ".lora.up.")].float()
        name = key.removeprefix("unet.").split(".lora")[0] + ".weight"
        with torch.no_grad():
            state[name] += (up.flatten(1) @ tensors[key].float().flatten(1)).reshape(state[name].shape).to(state[name].dtype)
    return merged


def response(c, u):
    """|c - u|, a mean over 4 x 4 places, scaled back, averaged over the channels."""
    change = F.avg_pool2d((c - u).abs(), 4, 1, 1)
    return F.interpolate(change, size=c.shape[-2:], mode="bilinear", align_corners=False).mean(1, keepdim=True)


def saliency(r, k):
    return (r * k).flatten(1).softmax(1).reshape(r.shape)


def fusion(pipe, expert, general, expert_prompt, window, mode, alone, official, seed):
    """Saliency-aware noise blending. Also the masks, and how near any place came to a tie: below rounding the mask is a matter of luck."""
    s = Schedule(pipe, FUSION_STEPS)
    split = s.at_level(window)
    text_g, text_e = encode(pipe, [general, ""])[0], encode(pipe, [expert_prompt, ""])[0]
    z, masks, tie = noise(seed, pipe.unet.dtype), [], math.inf
    for i in range(s.n):
        rows = lambda unet, text: unet(torch.cat([z, z]), s.t[i], text).sample.chunk(2)
        (gc, gu), (ec, eu) = rows(pipe.unet, text_g), rows(expert, text_e)
        g, e = gu + CFG * (gc - gu), eu + CFG * (ec - eu)
        if (i >= split) == (mode == "after"):
            gain = CFG if official else 10.0
            a, b = saliency(response(ec, gu if official else eu), gain), saliency(response(gc, gu), gain)
            mask = (a > b).to(g.dtype)
            tie = min(tie, float(((a - b).abs() / b).min()))
            masks.append(mask)
            eps = mask * e + (1 - mask) * g
        else:
            eps = g if alone == "general" else e
        z = s.step(z, eps, i)
    return z, torch.cat(masks), tie


class Edit:
    """Disentanglement: neutral weights of every step by two losses through the whole run, the decoder, its own encoder and CLIP."""

    def __init__(self, pipe, neutral, target, steps, cfg=CFG):
        self.pipe, self.s, self.cfg = pipe, Schedule(pipe, steps), cfg
        self.c0, self.c1, self.none = (encode(pipe, [x])[0].detach() for x in (neutral, target, ""))
        dtype = pipe.unet.dtype
        self.clip = CLIPModel.from_pretrained(MODEL / "clip", dtype=dtype).eval().requires_grad_(False)
        tokenizer = CLIPTokenizer.from_pretrained(MODEL / "clip")
        plain = lambda f: f if torch.is_tensor(f) else f.pooler_output

        def words(text):
            tokens = tokenizer([text], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            return plain(self.clip.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask))

        self.turn = (words(neutral) - words(target)).detach()
        self.seen = lambda x: plain(self.clip.get_image_features(pixel_values=x * 2 - 1))

    def run(self, z, lam):
        for i in range(self.s.n):
            text = lam[i] * self.c0 + (1 - lam[i]) * self.c1
            n = z.shape[0]
            u, c = self.pipe.unet(torch.cat([z, z]), self.s.t[i], torch.cat([self.none.expand(n, -1, -1), text.expand(n, -1, -1)])).sample.chunk(2)
            z = self.s.step(z, u + self.cfg * (c - u), i)
        return (self.pipe.vae.decode(z / self.pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    def features(self, x):
        """The encoder's activations after each level, before their size is halved."""
        e = self.pipe.vae.encoder
        h, out = e.conv_in(x * 2 - 1), []
        for block in e.down_blocks:
            for resnet in block.resnets:
                h = resnet(h, None)
            out.append(h)
            for sampler in block.downsamplers or []:
                h = sampler(h)
        return out

    def parts(self, x, x0):
        """keep and turn, as the recipe has them."""
        keep = sum((a - b).abs().mean() for a, b in zip(self.features(x), self.features(x0)))
        a, b = self.seen(x0) - self.seen(x), self.turn
        length = lambda v: (v.pow(2).sum(1) + 1e-8).sqrt()
        return keep, (1 - (a * b).sum(1) / (length(a) * length(b))).mean()

    def find(self, first, iters, lr, perceptual, seed):
        """The weights that Adam finds from a switch after `first` steps, and the losses on the way."""
        z = noise(seed, self.pipe.unet.dtype)
        ones = torch.ones(self.s.n, dtype=z.dtype)
        with torch.no_grad():
            x0 = self.run(z, ones)
        lam = torch.where(torch.arange(self.s.n) < first, ones, ones * 0).requires_grad_()
        rule, losses = torch.optim.Adam([lam], lr=lr), []
        for _ in range(iters):
            keep, turn = self.parts(self.run(z, lam), x0)
            loss = perceptual * keep + turn
            rule.zero_grad()
            loss.backward()
            rule.step()
            losses.append(float(loss.detach()))
        return lam.detach(), losses


def sketch(pipe, sketch, prompt, steps, beta, stop, seed):
    """Sketch-guided steps with the shipped predictor: after each step down to level `stop` against the gradient by z_t, as long as the step."""
    weights = load_file(MODEL / "predictors" / "edges.safetensors")
    net = Mlp([weights["0.weight"].shape[1]] + [weights[f"{i}.weight"].shape[0] for i in range(5)]).eval().to(pipe.unet.dtype)
    with torch.no_grad():
        for name, value in {**net.named(), **net.running()}.items():
            value.copy_(weights[name])
    seen, modules = {}, dict(pipe.unet.named_modules())
    hooks = [modules[site].register_forward_hook(lambda _m, _i, o, site=site: seen.__setitem__(site, o if torch.is_tensor(o) else o[0])) for site in SITES]
    s = Schedule(pipe, steps)
    text, none = encode(pipe, [prompt])[0], encode(pipe, [""])[0]
    with torch.no_grad():
        x = picture(sketch).to(pipe.unet.dtype)
        goal = pipe.vae.encode(x * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    z = noise(seed, pipe.unet.dtype)
    resize = lambda f: F.interpolate(f, size=(16, 16), mode="bilinear", align_corners=False)
    rows = lambda f: f.permute(0, 2, 3, 1).reshape(256, -1)
    for i in range(s.n):
        t = s.t[i]
        guided = i < s.at_level(stop)
        at = z.detach().requires_grad_(guided)
        c = pipe.unet(at, t, text).sample
        inputs = torch.cat([resize(seen[k]) for k in SITES], 1)
        with torch.no_grad():
            u = pipe.unet(z, t, none).sample
        after = s.step(z, (u + CFG * (c - u)).detach(), i)
        if guided:
            level = torch.tensor([[t / 1000] + [math.sin(2 * math.pi * t / 1000 * 2**k) for k in range(10)]], dtype=z.dtype).repeat(256, 1)
            loss = (net(torch.cat([rows(inputs), level], 1)) - rows(goal)).pow(2).sum()
            (grad,) = torch.autograd.grad(loss, at)
            after = after - beta * (z - after).norm() / grad.norm() * grad
        z = after.detach()
    for hook in hooks:
        hook.remove()
    return z


def results(dtype):
    """Run name -> tensors."""
    pipe = load(dtype)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    out, ties = {}, {}
    expert = with_lora(pipe.unet, MODEL / "expert-ink" / "pytorch_lora_weights.safetensors")
    with torch.no_grad():
        for name, run in FUSIONS.items():
            run = dict(run)
            out[f"fusion.{name}.latent"], out[f"fusion.{name}.masks"], ties[name] = fusion(pipe, expert, run.pop("general"), run.pop("expert"), **run)
    edit = Edit(pipe, EDIT["neutral"], EDIT["target"], EDIT["steps"])
    lam, losses = edit.find(EDIT["first"], EDIT["iters"], EDIT["lr"], EDIT["perceptual"], EDIT["seed"])
    out["edit.weights"], out["edit.losses"] = lam, torch.tensor(losses, dtype=dtype)
    out["sketch.latent"] = sketch(pipe, **SKETCH)
    return out, ties


def generate():
    """Writes papers.safetensors."""
    (single, ties), (double, _) = results(torch.float32), results(torch.float64)
    rounding = {k: distance(single[k], double[k]) for k in single}
    save_tensors(
        OUT / "papers.safetensors", single, fusions=FUSIONS, fusion_steps=FUSION_STEPS, cfg=CFG, edit=EDIT, sketch=SKETCH, ties=ties,
        rounding=rounding, tolerance=1e-3,
    )  # fmt: skip
    return {"rounding": rounding, "ties": ties}


if __name__ == "__main__":
    torch.set_num_threads(2)
    pipe = load()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    for neutral, target in [("a dog", "a dog in the snow"), ("a cat", "a cat on a blue background"), ("a rabbit", "an ink emoji of a rabbit")]:
        edit = Edit(pipe, neutral, target, 20)
        lam, losses = edit.find(2, 10, 0.05, 0.005, 0)
        print(target, "loss", [round(x, 4) for x in losses], "weights", [round(float(x), 3) for x in lam], flush=True)
