"""DDIM's schedule and steps by diffusers, over the keys of scheduler_config.json."""

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from fixtures import OUT, numbers, save_json, save_tensors

BASE = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
# What differs from BASE; a value of None takes the key out, so that its default counts.
CONFIGS = {
    "base": {},
    "alpha_one": {"set_alpha_to_one": True},
    "offset_0": {"steps_offset": 0},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "clip": {"clip_sample": True},
    "clip_range": {"clip_sample": True, "clip_sample_range": 0.6},
    "threshold": {"thresholding": True, "sample_max_value": 1.7, "dynamic_thresholding_ratio": 0.9},
    "threshold_default": {"thresholding": True},
    "v": {"prediction_type": "v_prediction"},
    "v_clip": {"prediction_type": "v_prediction", "clip_sample": True},
    "sample": {"prediction_type": "sample"},
    "v_zero_snr": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "short": {"num_train_timesteps": 100, "steps_offset": 0},
    "trained": {"trained_betas": [round(0.001 + 0.0004 * i, 7) for i in range(40)], "num_train_timesteps": 40, "steps_offset": 0},
    "defaults": {k: None for k in BASE if k not in ("_class_name", "num_train_timesteps")},
}
COUNTS = [1, 2, 3, 7, 10, 20, 30, 50, 99, 100, 333, 999, 1000]
WHOLE = 50


def config(changes):
    """BASE with changes."""
    return {k: v for k, v in {**BASE, **changes}.items() if v is not None}


def timesteps(json, n):
    """The timesteps of n steps, and whether all of them exist."""
    scheduler = DDIMScheduler.from_config(json)
    scheduler.set_timesteps(n)
    t = scheduler.timesteps.tolist()
    return t, max(t) < len(scheduler.alphas_cumprod)


def list_entry(json, n):
    """One list of timesteps: whole when short, else its ends and its weighted sum."""
    t, exist = timesteps(json, n)
    entry = {"n": n, "weighted": weighted(t), "beyond": not exist}
    return {**entry, "timesteps": t} if n <= WHOLE else {**entry, "first": t[:5], "last": t[-5:]}


def weighted(t):
    """sum of (i + 1) t_i: notices a wrong value and a wrong order."""
    return sum((i + 1) * v for i, v in enumerate(t))


def every_count(json):
    """Weighted sums for 1..1000 steps; null where numpy's arange gives one entry too many (a float error of diffusers)."""
    lists = ((n, timesteps(json, n)[0]) for n in range(1, 1001))
    return [weighted(t) if len(t) == n else None for n, t in lists]


def steps(json, shared):
    """The cases of one config with diffusers' results, stacked over the cases."""
    total = json.get("num_train_timesteps", 1000)
    cases, stacks = [], {k: [] for k in ("eps", "x0", "next", "next_eta", "noised", "back")}
    for n in (1, 7, 20, 50) if total == 1000 else (1, 7, 20):
        scheduler = DDIMScheduler.from_config(json)
        scheduler.set_timesteps(n)
        inverse = DDIMInverseScheduler.from_config({**json, "clip_sample": False, "thresholding": False})
        inverse.num_inference_steps = n
        for i in sorted({0, n // 2, n - 1}):
            t = int(scheduler.timesteps[i])
            ab = scheduler.alphas_cumprod[t]
            z, out, noise = shared["z"], shared["output"], shared["noise"]
            done = scheduler.step(out, t, z)
            eps = {
                "epsilon": lambda: out,
                "v_prediction": lambda: ab**0.5 * out + (1 - ab) ** 0.5 * z,
                "sample": lambda: (z - ab**0.5 * out) / (1 - ab) ** 0.5,
            }[scheduler.config.prediction_type]()
            stacks["eps"].append(eps)
            stacks["x0"].append(done.pred_original_sample)
            stacks["next"].append(done.prev_sample)
            stacks["next_eta"].append(scheduler.step(out, t, z, eta=0.6, variance_noise=noise).prev_sample)
            stacks["noised"].append(scheduler.add_noise(z, noise, torch.tensor([t])))
            if scheduler.config.prediction_type == "epsilon":
                stacks["back"].append(inverse.step(out, t, z).prev_sample)
            cases.append({"n": n, "i": i, "t": t})
    return cases, {k: torch.stack(v) for k, v in stacks.items() if v}


def generate():
    """Writes schedules.json (configs, timesteps, alphas, cases) and schedules.safetensors (what the steps give)."""
    generator = torch.Generator().manual_seed(11)
    shared = {k: torch.randn(2, 4, 2, 2, generator=generator) for k in ("z", "output", "noise")}
    tensors, table = dict(shared), []
    for name, changes in CONFIGS.items():
        json = config(changes)
        scheduler = DDIMScheduler.from_config(json)
        total = len(scheduler.alphas_cumprod)
        picks = sorted({0, 1, 2, total // 3, total // 2, total - 3, total - 2, total - 1})
        cases, stacks = steps(json, shared)
        tensors.update({f"{name}.{k}": v for k, v in stacks.items()})
        table.append(
            {
                "name": name,
                "config": json,
                "alphas": {str(t): float(scheduler.alphas_cumprod[t]) for t in picks},
                "alphas_sum": float(scheduler.alphas_cumprod.double().sum()),
                "final_alpha": float(scheduler.final_alpha_cumprod),
                "lists": [list_entry(json, n) for n in COUNTS if n <= total],
                "cases": cases,
            }
        )
    assert all(bool(torch.isfinite(v).all()) for v in tensors.values())
    every = {s: every_count(config({"timestep_spacing": s})) for s in ("leading", "trailing", "linspace")}
    save_json(OUT / "schedules.json", {"alpha_tolerance": 2e-6, "tolerance": 1e-4, "configs": table, "every": [{"spacing": k, "weighted": v} for k, v in every.items()]})
    save_tensors(OUT / "schedules.safetensors", tensors, eta=0.6)
    odd = {k: [n + 1 for n, w in enumerate(v) if w is None] for k, v in every.items()}
    return f"{len(table)} configs; lists of a wrong length: {odd}"
