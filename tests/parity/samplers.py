"""Euler, Euler ancestral, DPM-Solver++(2M) and LCM by diffusers: timesteps, and whole chains of latents."""

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

import embedded
from fixtures import OUT, save_json, save_tensors

SAMPLERS = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "lcm": (LCMScheduler, {}),
}
BASE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
# What differs from BASE. "silent" says nothing about the spacing, as SD 1.5's own config: each class has its own rule.
CONFIGS = {
    "silent": {},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "v": {"prediction_type": "v_prediction", "timestep_spacing": "leading"},
    "v_zero_snr": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "sample": {"prediction_type": "sample", "timestep_spacing": "leading"},
    "sigma_min": {"final_sigmas_type": "sigma_min", "timestep_spacing": "leading"},
    "threshold": {"thresholding": True, "sample_max_value": 1.7, "dynamic_thresholding_ratio": 0.9},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
}
COUNTS = [1, 2, 4, 8, 14, 15, 20, 25, 30, 49, 50]
CHAINS = [1, 4, 20]
SEED = 5


def scheduler(sampler, config):
    """diffusers' scheduler of that name. Dynamic thresholding belongs to DDIM, LCM and DPM-Solver only."""
    kind, more = SAMPLERS[sampler]
    return kind.from_config({**config, **more})


def said(z, t):
    """What stands for a network: near the noise, as a trained one is (else rounding grows from step to step)."""
    return 0.9 * z + 0.2 * torch.sin(z + 0.01 * t)


def vp(s, sampler, x, i):
    """diffusers' sample at level i as a variance-preserving latent."""
    return x / (1 + float(s.sigmas[i]) ** 2) ** 0.5 if sampler.startswith("euler") else x


def chain(s, sampler, n, predict, shape):
    """The latents at every level, the noise's own first, from SEED's generator."""
    generator = torch.Generator().manual_seed(SEED)
    s.set_timesteps(n)
    x = torch.randn(shape, generator=generator) * s.init_noise_sigma
    levels = [vp(s, sampler, x, 0)]
    takes = {"generator": generator} if sampler in ("euler_a", "lcm") else {}
    for i, t in enumerate(s.timesteps):
        out = predict(s.scale_model_input(x, t), t)
        x = s.step(out, t, x, **takes).prev_sample
        levels.append(vp(s, sampler, x, i + 1))
    return torch.stack(levels)


def lists(s):
    """Timesteps for several numbers of steps; null where diffusers refuses or leaves the training range."""
    entries = []
    for n in COUNTS:
        try:
            s.set_timesteps(n)
            t = [float(v) for v in s.timesteps]
        except ValueError:
            t = None
        good = t is not None and len(t) == n and max(t) < s.config.num_train_timesteps
        entries.append({"n": n, "timesteps": [round(v, 5) for v in t] if good else None})
    return entries


def generate():
    """Writes samplers.json (configs and timesteps) and samplers.safetensors (chains)."""
    table, tensors, skipped = [], {}, []
    for name, changes in CONFIGS.items():
        config = {**BASE, **changes}
        entry = {"name": name, "config": config, "samplers": {}}
        for sampler in SAMPLERS:
            # diffusers' own refusals: no clean-latent prediction in these two, no zero SNR where sigma would be infinite.
            if name == "sample" and sampler == "euler_a":
                continue
            s = scheduler(sampler, config)
            entry["samplers"][sampler] = lists(s)
            for n in CHAINS:
                try:
                    levels = chain(scheduler(sampler, config), sampler, n, said, (1, 4, 2, 2))
                except (ValueError, IndexError, NotImplementedError) as e:
                    skipped.append(f"{name}.{sampler}.{n}: {e}")
                    continue
                if bool(torch.isfinite(levels).all()):
                    tensors[f"{name}.{sampler}.{n}"] = levels
                else:
                    skipped.append(f"{name}.{sampler}.{n}: not finite")
        table.append(entry)
    pipe = embedded.load()
    with torch.no_grad():
        text, _ = embedded.encode(pipe, ["a tiger", ""])
    cond, none = text[0:1], text[1:2]

    def guided(z, t):
        with torch.no_grad():
            e = pipe.unet(torch.cat([z, z]), t, encoder_hidden_states=torch.cat([none, cond])).sample
        return e[0:1] + 7.0 * (e[1:2] - e[0:1])

    for sampler in SAMPLERS:
        levels = chain(scheduler(sampler, dict(pipe.scheduler.config)), sampler, 16, guided, (1, 4, 16, 16))
        tensors[f"emoji.{sampler}"] = levels[[0, 8, 15, 16]]
    save_json(OUT / "samplers.json", {"configs": table, "seed": SEED, "prompt": "a tiger", "cfg": 7.0, "steps": 16})
    save_tensors(OUT / "samplers.safetensors", tensors)
    return f"{len(tensors)} chains; skipped: {skipped}"
