"""SDEdit and MagicMix on the embedded model, written out in plain PyTorch: a cross-check of the recipes, step by step.

Level i of a schedule is the noise level before step i; level n is the end. A share of noise x starts at n - floor(x n + 1e-6).
"""

import math

import torch

from embedded import encode, load
from fixtures import OUT, distance, picture, save_tensors

STEPS, CFG = 10, 7.0
RUNS = {
    "sdedit": {"image": "rabbit-flat.png", "prompt": "a tiger", "strength": 0.6, "seed": 3},
    "mix": {"layout": "rabbit-flat.png", "content": "a tiger", "nu": 0.8, "k_max": 0.7, "k_min": 0.3, "seed": 0},
    "mix_text": {"layout": "a rabbit", "content": "a tiger", "nu": 0.6, "k_max": 0.8, "k_min": 0.2, "seed": 1},
    "mix_word": {"layout": "dog-flat.png", "content": "a cat in the snow", "nu": 0.9, "k_max": 0.7, "k_min": 0.3, "word": "snow", "s": -1.0, "seed": 0},
}


class Columns:
    """Attention processor: scales columns of the conditional rows' probabilities (the second half of the batch), without renormalizing."""

    def __init__(self, columns, s):
        self.columns, self.s = columns, s

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(f(x)) for f, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context)))
        p = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * attn.scale, -1)
        if encoder_hidden_states is not None:
            p[p.shape[0] // 2 :, :, self.columns] *= self.s
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(p, v))))


class Chain:
    """The schedule and the guided steps of one prompt."""

    def __init__(self, pipe, prompt, word=None, s=1.0):
        self.unet, self.vae = pipe.unet, pipe.vae
        pipe.scheduler.set_timesteps(STEPS)
        self.t = pipe.scheduler.timesteps.tolist()
        alphas = pipe.scheduler.alphas_cumprod.double()
        self.alpha = [float(alphas[t]) for t in self.t] + [float(pipe.scheduler.final_alpha_cumprod)]
        self.text, ids = encode(pipe, ["", prompt])
        self.columns = None
        if word is not None:
            own = pipe.tokenizer(word).input_ids[1:-1]
            row = ids[1].tolist()
            at = next(i for i in range(len(row)) if row[i : i + len(own)] == own)
            self.columns = Columns(list(range(at, at + len(own))), s)

    def start(self, share):
        """The level of a share of noise."""
        return STEPS - math.floor(share * STEPS + 1e-6)

    def noised(self, x0, noise, i):
        """x0 at level i."""
        return self.alpha[i] ** 0.5 * x0 + (1 - self.alpha[i]) ** 0.5 * noise

    def step(self, z, i):
        """One guided DDIM step from level i to level i + 1."""
        before = dict(self.unet.attn_processors)
        if self.columns:
            self.unet.set_attn_processor({k: self.columns for k in before})
        none, cond = self.unet(torch.cat([z, z]), self.t[i], self.text).sample.chunk(2)
        self.unet.set_attn_processor(before)
        eps = none + CFG * (cond - none)
        x0 = (z - (1 - self.alpha[i]) ** 0.5 * eps) / self.alpha[i] ** 0.5
        return self.alpha[i + 1] ** 0.5 * x0 + (1 - self.alpha[i + 1]) ** 0.5 * eps

    def encode(self, name):
        """The scaled mean of a shipped picture."""
        x = picture(name).to(self.vae.dtype)
        return self.vae.encode(x * 2 - 1).latent_dist.mean * self.vae.config.scaling_factor

    def decode(self, z):
        """A picture in 0..1."""
        return (self.vae.decode(z / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def noise(seed, dtype):
    """The first draw of the seed's generator."""
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)


def sdedit(pipe, image, prompt, strength, seed):
    """Noise to `strength`, then denoise."""
    chain = Chain(pipe, prompt)
    z0, start = chain.encode(image), chain.start(strength)
    z = chain.noised(z0, noise(seed, z0.dtype), start)
    for i in range(start, STEPS):
        z = chain.step(z, i)
    return z, chain.decode(z)


def magicmix(pipe, layout, content, nu, k_max, k_min, seed, word=None, s=1.0):
    """The layout at each level: its noised latent (a picture) or the latents of its own chain (words)."""
    chain = Chain(pipe, content, word, s)
    start, stop = chain.start(k_max), chain.start(k_min)
    if layout.endswith(".png"):
        z0 = chain.encode(layout)
        e = noise(seed, z0.dtype)
        levels = [chain.noised(z0, e, i) for i in range(STEPS + 1)]
    else:
        own = Chain(pipe, layout)
        levels = [noise(seed, pipe.unet.dtype)]
        for i in range(stop):
            levels.append(own.step(levels[i], i))
    z = levels[start]
    for i in range(start, STEPS):
        z = chain.step(z, i)
        if i < stop:
            z = (1 - nu) * levels[i + 1] + nu * z
    return z, chain.decode(z)


def results(pipe):
    """Run name -> latent and picture."""
    out = {}
    for name, options in RUNS.items():
        run = sdedit if "strength" in options else magicmix
        out[f"{name}.latent"], out[f"{name}.picture"] = run(pipe, **options)
    return out


def generate():
    """Writes chains.safetensors."""
    torch.set_grad_enabled(False)
    single, double = results(load()), results(load(torch.float64))
    rounding = {k: distance(single[k], double[k]) for k in single}
    save_tensors(OUT / "chains.safetensors", single, runs=RUNS, steps=STEPS, cfg=CFG, rounding=rounding, tolerance=1e-4)
    return rounding
