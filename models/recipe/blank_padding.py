#!/usr/bin/env python3
"""Make the text encoder itself give the empty prompt's states after the end token, so that words and end token carry the
content: scaling, replacing or recording a word's attention column then acts on that word. (With CLIP's own states the
70-odd padding columns carry it all.) Reads and overwrites MODEL/text_encoder.
"""

import copy
import pathlib

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from captions import all_captions
from common import Budget, add_training_arguments, folder, parser, prepare, read_json, set_rate, smooth, text_ids


def texts(rng, captions, composed, words):
    """A batch: captions, composed captions, random words, nothing."""
    some = lambda choices, n: [choices[i] for i in rng.integers(0, len(choices), n)]
    return [*some(captions, 6), *some(composed, 8), *(" ".join(some(words, rng.integers(1, 20))) for _ in range(2)), ""]


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("model", type=folder)
    p.add_argument("composed", type=pathlib.Path, nargs="+", help="paths without ending, of make_scenes.py and make_pairs.py")
    add_training_arguments(p, lr=5e-4)
    a = p.parse_args()
    rng = prepare(a)
    captions = all_captions(read_json(a.data / "meta.json"))[0]
    composed = sorted({t for path in a.composed for cs in read_json(path.with_suffix(".json"))["captions"] for t, _ in cs})
    words = sorted({w for c in captions + composed for w in c.split()})
    tokenizer = CLIPTokenizer.from_pretrained(a.model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(a.model / "text_encoder").float()
    before = copy.deepcopy(encoder).eval().requires_grad_(False)
    empty = before(text_ids(tokenizer, [""]))[0]
    optimizer = torch.optim.AdamW(encoder.parameters(), a.lr, weight_decay=0.0)
    budget, run = Budget(a, warmup=20), None
    while (share := budget.share()) < 1:
        set_rate(optimizer, budget.rate(1e-3, share))
        ids = text_ids(tokenizer, texts(rng, captions, composed, words))
        end = (ids == tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        wanted = torch.where((torch.arange(77)[None] > end)[..., None], empty, before(ids)[0])
        mse = (encoder(ids)[0] - wanted).pow(2).mean()
        (4 * mse).backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        budget.step += 1
        run = smooth(run, mse.item())
        if budget.step % 50 == 0:
            print(f"{budget.elapsed():.0f} s, step {budget.step}: mse {run:.6f} (the states' variance is {wanted.var():.2f})", flush=True)
    encoder.eval().save_pretrained(a.model / "text_encoder")
    print(f"{budget.step} steps: mse {run:.6f}")


if __name__ == "__main__":
    main()
