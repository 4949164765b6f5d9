"""What the parts share: the device, budgets that go on where an earlier run stopped, states, and pools of pictures."""

import os
import pathlib
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from common import SCALE, Average, folder, parser, positive, smooth

SAVE_EVERY = 60  # seconds


def arguments(doc):
    """A parser with what every part takes."""
    p = parser(doc)
    p.add_argument("pack", type=folder, help="of pack.py")
    p.add_argument("work", type=pathlib.Path, help="folder of states and networks; a part that was stopped goes on from what is there")
    p.add_argument("--seconds", type=positive, required=True, help="wall time of this run")
    p.add_argument("--tiny", action="store_true", help="small networks, pools and batches: a rehearsal")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    p.add_argument("--seed", type=int, default=0, help="%(default)s")
    return p


def prepare(a):
    """Seeds, fast matrix products, the folder of work."""
    torch.manual_seed(a.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    a.work.mkdir(parents=True, exist_ok=True)


def half(device):
    """A context in which networks compute in bf16."""
    return torch.autocast(torch.device(device).type, torch.bfloat16)


class Stage:
    """Training of one network over `seconds` in all, in as many runs as it takes.

    The learning rate rises over `warmup` steps of each run and falls with a cosine over the whole. PATH keeps weights, their average,
    the optimizer, and how far it is; it is written every minute and at the end, to a temporary name first. `groups`: parts of the
    network with factors of their learning rates.
    """

    def __init__(self, name, network, path, seconds, lr, until, decay=0.01, betas=(0.9, 0.99), average=0.999, warmup=100, groups=None):
        self.name, self.network, self.path, self.seconds, self.lr, self.warmup, self.until = name, network, path, seconds, lr, warmup, until
        groups = groups or [(network, 1.0)]
        groups = [{"params": [p for p in part.parameters() if p.requires_grad], "factor": factor} for part, factor in groups]
        self.parameters = [p for g in groups for p in g["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr, betas=betas, weight_decay=decay, fused=self.parameters[0].is_cuda)
        self.average, self.before, self.step, self.run_steps, self.seen = Average(self.parameters, average), 0.0, 0, 0, None
        if path.exists():
            self._load()
        self.began = self.saved = time.monotonic()

    def _load(self):
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for p, v in zip(self.parameters, state["weights"], strict=True):
                p.copy_(v)
        self.average.restore_from([v.to(p) for p, v in zip(self.parameters, state["average"], strict=True)], state["step"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.before, self.step = state["elapsed"], state["step"]
        print(f"{self.name}: goes on after {self.before:.0f} s, step {self.step}", flush=True)

    def elapsed(self):
        """Seconds of training, earlier runs included."""
        return self.before + time.monotonic() - self.began

    def going(self):
        """Whether another step is due: neither the stage's time nor the run's is over."""
        return self.elapsed() < self.seconds and time.monotonic() < self.until

    def finished(self):
        """Whether the stage's time is over."""
        return self.elapsed() >= self.seconds

    def descend(self, loss, value=None):
        """One step down a loss; `value` is what is shown."""
        share = min(1.0, self.elapsed() / self.seconds)
        rate = self.lr * min(1.0, (self.run_steps + 1) / self.warmup) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * share)))
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate) * group["factor"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        self.step += 1
        self.run_steps += 1
        if self.step % 50 == 0 or self.run_steps <= 2:
            self.seen = smooth(self.seen, (loss if value is None else value).item(), 0.9)
            if not np.isfinite(self.seen):
                raise SystemExit(f"{self.name}: the loss is not finite at step {self.step}; {self.path} is the last good state")
        if self.step % 500 == 0 or self.run_steps == 1:
            print(f"{self.name}: {self.elapsed():.0f} of {self.seconds:.0f} s, step {self.step}: {self.seen:.4f}", flush=True)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self, slim=False):
        """The state; a slim one is without the optimizer, and its average is what training goes on from."""
        values = self.average.values
        state = {"weights": values if slim else [p.detach() for p in self.parameters], "average": values, "elapsed": self.elapsed(), "step": self.step}
        state = {k: [v.half() if slim else v for v in x] if isinstance(x, list) else x for k, x in state.items()}
        if slim:
            del state["average"]
            state["average"] = state["weights"]
        else:
            state["optimizer"] = self.optimizer.state_dict()
        path = self.path.with_suffix(".slim") if slim else self.path
        torch.save(state, f"{path}.part")
        os.replace(f"{path}.part", path)
        self.saved = time.monotonic()

    def close(self):
        """The last save; the network is left with its averaged weights."""
        self.save()
        self.average.apply()
        print(f"{self.name}: {self.elapsed():.0f} s, step {self.step}: {self.seen if self.seen is None else round(self.seen, 4)}", flush=True)


class Pool:
    """Pictures made in advance: uint8 [n, 3, 128, 128], captions, facts."""

    def __init__(self, composer, n, shares, chunk=256):
        pictures, self.captions, shows, said = [], [], [], []
        for i in range(0, n, chunk):
            x, captions, a, b = composer.batch(min(chunk, n - i), shares)
            pictures.append(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
            self.captions += captions
            shows.append(a)
            said.append(b)
        self.pictures, self.shows, self.said = torch.cat(pictures), torch.cat(shows), torch.cat(said)

    def floats(self, numbers):
        """Some of them, f32 in -1..1."""
        return self.pictures[numbers].float().div_(127.5).sub_(1)


@torch.no_grad()
def encoded(vae, pool, device, batch=256):
    """Scaled latents of a whole pool, in bf16."""
    out = []
    for part in torch.arange(len(pool.captions)).split(batch):
        with half(device):
            out.append((vae.encode(pool.floats(part.to(device))).latent_dist.mean.float() * SCALE).bfloat16())
    return torch.cat(out)


def token_ids(tokenizer, texts, length):
    """Ids [n, length], padded with the end token as Stable Diffusion does it."""
    return torch.tensor(tokenizer(texts, padding="max_length", max_length=length, truncation=True).input_ids)
