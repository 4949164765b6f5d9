"""What the parts of the generator share: where things lie, how fixtures are written, how far two tensors are apart."""

import json
import math
import pathlib

import numpy as np
import torch
from safetensors.torch import save

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "emoji"
OUT = ROOT / "tests" / "data" / "parity"


def distance(a, b):
    """max|a - b| / max|b|: the measure that the Rust tests use."""
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


def save_tensors(path, tensors, **metadata):
    """Writes a safetensors file; metadata values become strings (JSON unless they are strings already)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in metadata.items()}
    packed = save({k: v.detach().contiguous() for k, v in tensors.items()}, metadata=text)
    path.write_bytes(sorted_header(packed))


def sorted_header(packed):
    """The same file with its header's keys in order: the library writes the metadata in a random one."""
    size = int.from_bytes(packed[:8], "little")
    header = json.dumps(json.loads(packed[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + packed[8 + size :]


def save_json(path, value):
    """Writes JSON, one entry of the outermost lists per line, so that differences can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict):
        body = ",\n".join(f"{json.dumps(k)}: {rows(v) if isinstance(v, list) else json.dumps(v)}" for k, v in value.items())
        path.write_text("{" + body + "}\n")
    else:
        path.write_text(rows(value) + "\n")


def rows(values):
    """A JSON list with one entry per line."""
    return "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in values) + "\n]"


def numbers(tensor):
    """A tensor as a flat list of Python floats (every f32 is exact)."""
    return np.asarray(tensor.detach().double().flatten()).tolist()


def random_weight(name, shape, generator, sharp):
    """Normal values that keep activations near 1: matrices and kernels with variance 1 / fan-in, queries and keys `sharp`
    times as large, so that attention is not flat; norms' weights around 1, the rest around 0."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        gain = sharp if any(k in name for k in ("to_q", "to_k", "q_proj", "k_proj")) else 1.0
        fan_in = 1 if "embedding" in name and "time" not in name else noise[0].numel()
        return noise * (gain / math.sqrt(fan_in))
    return noise * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)


def picture(name):
    """A shipped picture as [1, 3, 64, 64] in 0..1."""
    from PIL import Image

    rgb = np.asarray(Image.open(MODEL / "pictures" / name).convert("RGB"))
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
