"""What the training scripts share: arguments, data, budgets, averages."""

import argparse
import json
import pathlib
import time

import numpy as np
import torch

SCALE = 0.18215  # Stable Diffusion's scaling factor: the VAE's latents get unit variance with it


def folder(text):
    """An argument that must be a folder that exists."""
    path = pathlib.Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path


def positive(text):
    """An argument that must be a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def parser(doc):
    """A parser whose help is the script's own text."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_training_arguments(p, lr):
    """Budget, learning rate, threads, seed."""
    budget = p.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=positive, help="optimizer steps")
    budget.add_argument("--seconds", type=positive, help="wall time")
    p.add_argument("--lr", type=float, default=lr, help="peak learning rate (%(default)s)")
    p.add_argument("--threads", type=positive, default=2, help="%(default)s")
    p.add_argument("--seed", type=int, default=0, help="%(default)s")


def prepare(args):
    """Threads and seeds. Returns numpy's generator."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return np.random.default_rng(args.seed)


class Budget:
    """How far training is, 0..1, by steps or by the clock; and the learning rate that goes with it."""

    def __init__(self, args, warmup):
        self.limit, self.seconds, self.peak, self.warmup = args.steps, args.seconds, args.lr, warmup
        self.began, self.step = time.monotonic(), 0

    def elapsed(self):
        """Seconds since the start."""
        return time.monotonic() - self.began

    def share(self):
        """0 at the start, 1 or more at the end."""
        return self.step / self.limit if self.limit else self.elapsed() / self.seconds

    def rate(self, floor, share=None):
        """Linear warm-up, then half a cosine down to `floor` of the peak."""
        share = self.share() if share is None else share
        cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, share)))
        return float(self.peak * min(1.0, (self.step + 1) / self.warmup) * (cosine * (1 - floor) + floor))


def set_rate(optimizer, rate):
    """The learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Average:
    """Moving average of parameters, short at first."""

    def __init__(self, parameters, longest):
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]
        self.longest, self.step = longest, 0

    @torch.no_grad()
    def update(self):
        """After each optimizer step."""
        self.step += 1
        decay = min(self.longest, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def restore_from(self, values, step):
        """Goes on from the averages of an earlier run."""
        self.values, self.step = [v.clone() for v in values], step

    @torch.no_grad()
    def apply(self):
        """Puts the averages into the parameters. Returns what was there, to put back with `restore`."""
        before = [p.detach().clone() for p in self.parameters]
        self.restore(self.values)
        return before

    @torch.no_grad()
    def restore(self, values):
        """Sets the parameters."""
        for p, v in zip(self.parameters, values, strict=True):
            p.copy_(v)


def smooth(run, value, keep=0.98):
    """Running mean of a number or an array that is printed now and then."""
    return value if run is None else keep * run + (1 - keep) * value


def read_json(path):
    """A JSON file."""
    return json.loads(pathlib.Path(path).read_text())


def read_images(path):
    """uint8 [n, 64, 64, 3] of an .npz file."""
    return np.load(path)["images"]


def to_tensor(images):
    """uint8 [n, h, w, 3] -> f32 [n, 3, h, w] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def read_concepts(path):
    """The names in a file, separated by commas or line ends."""
    return {w.strip() for w in pathlib.Path(path).read_text().replace("\n", ",").split(",") if w.strip()}


def items_of(meta, sets=None, concepts=None):
    """Numbers of the pictures whose set and concept are wanted. Errors: a name that the data do not have."""
    known_sets, known = set(meta["licences"]), {c["phrases"][0] for c in meta["concepts"]}
    for wanted, have in ((sets, known_sets), (concepts, known)):
        if wanted and set(wanted) - have:
            raise SystemExit(f"not in the data: {', '.join(sorted(set(wanted) - have))}")
    name = lambda it: meta["concepts"][it["concept"]]["phrases"][0]
    return [
        i for i, it in enumerate(meta["items"])
        if (not sets or it["set"] in sets) and (not concepts or name(it) in concepts)
    ]


def text_ids(tokenizer, texts, length=77):
    """Token ids [n, length]."""
    return torch.tensor(tokenizer(texts, padding="max_length", max_length=length, truncation=True).input_ids)


@torch.no_grad()
def latents(vae, images, batch=64):
    """Scaled posterior means of uint8 pictures."""
    return torch.cat([vae.encode(to_tensor(images[i : i + batch])).latent_dist.mean * SCALE for i in range(0, len(images), batch)])


def psnr(a, b):
    """Of pictures in -1..1, one number per picture."""
    return 10 * torch.log10(4 / ((a - b) ** 2).mean((1, 2, 3)))
