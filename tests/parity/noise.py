"""Normals of torch's CPU generator."""

import torch

from fixtures import OUT, numbers, save_json

SEEDS = [0, 7, 2**32 - 1, 2**32 + 5, 2**53 + 1]
SIZES = [1, 2, *range(3, 18), 31, 40, 100, 4 * 16 * 16, 4 * 64 * 64]
# Small draws go pairwise through a cache that survives a large draw between them.
SEQUENCES = [[3, 3, 16, 1, 5], [15, 17, 4, 31, 2], [1, 1, 1, 1024, 1, 1], [1024, 1024, 1024], [7, 100, 100, 7]]
WHOLE = 40


def entry(values):
    """Small draws whole; of large ones the ends and two checksums."""
    v = values.double()
    sums = {"sum": float(v.sum()), "squares": float((v * v).sum())}
    if len(v) <= WHOLE:
        return {"size": len(v), "values": numbers(v), **sums}
    return {"size": len(v), "first": numbers(v[:8]), "last": numbers(v[-20:]), **sums}


def generate():
    """Writes noise.json: single draws by seed and size, then several draws in a row from one generator."""
    draws = [
        {"seed": s, **entry(torch.randn(n, generator=torch.Generator().manual_seed(s)))} for s in SEEDS for n in SIZES
    ]
    rows = []
    for i, sizes in enumerate(SEQUENCES):
        seed = SEEDS[i % len(SEEDS)]
        generator = torch.Generator().manual_seed(seed)
        rows.append({"seed": seed, "draws": [entry(torch.randn(n, generator=generator)) for n in sizes]})
    save_json(OUT / "noise.json", {"tolerance": 1e-6, "draws": draws, "sequences": rows})
    return f"{len(draws)} draws, {len(rows)} sequences"
