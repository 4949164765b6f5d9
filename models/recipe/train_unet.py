#!/usr/bin/env python3
"""Train the text-conditional UNet on the VAE's latents and the CLIP text tower's states, both computed once.

MODEL holds tokenizer/ and vae/; unet/, text_encoder/, scheduler/ and model_index.json are written there. STATE keeps the
weights, their average and the optimizer, for --resume. --composed adds pictures of make_scenes.py and make_pairs.py, each
with its share of the batch. --blank gives the UNet the empty prompt's states from the end token on, so that the words
alone carry the content (README.md says why).

Data parallel over processes with one thread each: on few CPU cores faster than the same number of threads.
"""

import argparse
import json
import os
import pathlib

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTokenizer

from captions import all_captions, draw, draw_caption
from common import Average, Budget, add_training_arguments, folder, items_of, latents, parser, positive, read_concepts, read_images, read_json, set_rate, smooth, text_ids
from icons import UNET_SETS
from layout import INDEX, scheduler, text_encoder

LENGTH = 32  # positions that are computed: the tower is causal and every caption ends before; the rest is one constant tail
SAVE_EVERY = 300  # seconds


class Attention(torch.autograd.Function):
    """softmax(q k') v whose backward is written out: in bf16 on a CPU faster than the fused kernel's."""

    @staticmethod
    def forward(ctx, q, k, v):
        p = torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1)
        o = torch.bmm(p, v)
        ctx.save_for_backward(q, k, v, p, o)
        return o

    @staticmethod
    def backward(ctx, g):
        q, k, v, p, o = ctx.saved_tensors
        g = g.contiguous()
        ds = torch.bmm(g, v.transpose(1, 2)).sub_((g * o).sum(-1, keepdim=True)).mul_(p)
        return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), torch.bmm(p.transpose(1, 2), g)


class Processor:
    """diffusers' default attention processor over `Attention`."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(f(x)) for f, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context)))
        with torch.autocast("cpu", enabled=False):
            out = Attention.apply(q * attn.scale, k, v)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(out)))


def network():
    """SD 1.x's topology, small: four levels, two heads at each."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64, 128, 128), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        norm_num_groups=16, cross_attention_dim=128, attention_head_dim=2,
    )


@torch.no_grad()
def text_states(encoder, tokenizer, texts, blank):
    """States [n, LENGTH, d] in bf16, and the constant tail [77 - LENGTH, d]."""
    empty = encoder(text_ids(tokenizer, [""]))[0][0].bfloat16()
    states = []
    for i in range(0, len(texts), 256):
        ids = text_ids(tokenizer, texts[i : i + 256], LENGTH)
        s = encoder(ids)[0].bfloat16()
        if blank:
            end = (ids == tokenizer.eos_token_id).int().argmax(1, keepdim=True)
            s = torch.where((torch.arange(LENGTH)[None] >= end)[..., None], empty[:LENGTH], s)
        states.append(s)
    return torch.cat(states), empty[LENGTH:].clone()


class Examples:
    """Everything that training needs, in memory that processes can share."""

    def __init__(self, a):
        meta = read_json(a.data / "meta.json")
        keep = items_of(meta, a.sets, read_concepts(a.concepts))
        vae = AutoencoderKL.from_pretrained(a.model / "vae").eval()
        self.z = latents(vae, read_images(a.data / "data.npz")[keep])
        self.concept = [meta["items"][i]["concept"] for i in keep]
        self.style = [meta["items"][i]["style"] for i in keep]
        captions, self.index = all_captions(meta)
        self.empty = len(captions)
        texts = [*captions, ""]
        self.composed = [self.read_composed(prefix, share, vae, texts) for prefix, share in a.composed]
        encoder = text_encoder(a.clip)
        self.states, self.tail = text_states(encoder, CLIPTokenizer.from_pretrained(a.model / "tokenizer"), texts, a.blank)
        encoder.save_pretrained(a.model / "text_encoder")

    @staticmethod
    def read_composed(prefix, share, vae, texts):
        """Share, latents and captions of composed pictures; their captions are added to `texts`."""
        where, choices = {}, []
        for captions in read_json(f"{prefix}.json")["captions"]:
            for text, _ in captions:
                if text not in where:
                    where[text] = len(texts)
                    texts.append(text)
            choices.append([(where[text], p) for text, p in captions])
        return share, latents(vae, read_images(f"{prefix}.npz")), choices

    def share_memory(self):
        """Before processes are started."""
        for tensor in (self.z, self.states, self.tail, *(z for _, z, _ in self.composed)):
            tensor.share_memory_()

    def batch(self, rng, take, drop):
        """Latents and states for the plain pictures `take`, some of them replaced by composed ones; `drop`: share without words."""
        z = self.z[take].clone()
        numbers = [draw_caption(rng, self.index, self.concept[i], self.style[i])[0] for i in take]
        which, low = rng.random(len(take)), 0.0
        for share, latents_, choices in self.composed:
            for k in np.flatnonzero((which >= low) & (which < low + share)):
                j = int(rng.integers(len(choices)))
                z[k], numbers[k] = latents_[j], draw(rng, choices[j])
            low += share
        numbers = [self.empty if rng.random() < drop else n for n in numbers]
        return z, torch.cat([self.states[numbers], self.tail[None].expand(len(take), -1, -1)], 1)


def agree(values, processes):
    """Rank 0's numbers, everywhere."""
    if processes == 1:
        return values
    shared = torch.tensor(values)
    dist.broadcast(shared, 0)
    return shared.tolist()


def average_gradients(parameters, processes):
    """Over all processes, in one message."""
    flat = torch.cat([p.grad.view(-1) for p in parameters])
    dist.all_reduce(flat)
    for p, g in zip(parameters, (flat / processes).split([p.numel() for p in parameters]), strict=True):
        p.grad = g.view_as(p)


def save(a, unet, average, optimizer, step, mse):
    """STATE, and the averaged weights as MODEL/unet."""
    state = {"unet": unet.state_dict(), "average": average.values, "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, f"{a.state}.part")
    os.replace(f"{a.state}.part", a.state)
    before = average.apply()
    unet.save_pretrained(a.model / "unet")
    average.restore(before)
    log = {"step": step, "mse": mse, "arguments": {k: str(v) for k, v in vars(a).items()}}
    (a.model / "unet-train.json").write_text(json.dumps(log, indent=1) + "\n")


def worker(rank, a, examples):
    """One process."""
    torch.set_num_threads(a.threads if a.processes == 1 else 1)
    if a.processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port))
        dist.init_process_group("gloo", rank=rank, world_size=a.processes)
    torch.manual_seed(a.seed)
    unet = network()
    unet.set_attn_processor(Processor())
    parameters = list(unet.parameters())
    optimizer = torch.optim.AdamW(parameters, a.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average, first = Average(parameters, 0.9985), 0
    if a.resume:
        state = torch.load(a.resume, weights_only=True)
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, average.step, first = state["average"], state["step"], state["step"]
    ab = scheduler().alphas_cumprod
    snr = ab / (1 - ab)
    weight = snr.clamp(max=5) / snr  # min-SNR-5 for a network that predicts the noise
    rng = np.random.default_rng(a.seed + 100 + rank + 7 * first)
    generator = torch.Generator().manual_seed(a.seed + 1000 + rank + 7 * first)
    budget, run, order, saved = Budget(a, warmup=150), None, np.array([], int), 0.0
    while (share := agree([budget.share()], a.processes)[0]) < 1:
        set_rate(optimizer, budget.rate(0.01, share))
        while len(order) < a.batch:
            order = np.concatenate([order, rng.permutation(len(examples.z))])
        take, order = order[: a.batch], order[a.batch :]
        z, text = examples.batch(rng, take, a.drop)
        # One timestep in each slice of the range: every batch covers all noise levels.
        t = ((torch.arange(a.batch) + torch.rand(a.batch, generator=generator)) * 1000 / a.batch).long().clamp(max=999)
        noise = torch.randn(z.shape, generator=generator)
        s = ab[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            eps = unet(s.sqrt() * z + (1 - s).sqrt() * noise, t, text).sample
        errors = ((eps.float() - noise) ** 2).mean((1, 2, 3))
        (errors * weight[t]).mean().backward()
        if a.processes > 1:
            average_gradients(parameters, a.processes)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        budget.step += 1
        if rank > 0:
            continue
        average.update()
        run = smooth(run, errors.mean().item())
        if budget.step % 50 == 0:
            seen = budget.step * a.batch * a.processes
            print(f"{budget.elapsed():.0f} s, step {first + budget.step}: mse {run:.4f}, pass {seen / len(examples.z):.1f}, {seen / budget.elapsed():.1f} pictures/s", flush=True)
        if budget.elapsed() - saved > SAVE_EVERY:
            saved = budget.elapsed()
            save(a, unet, average, optimizer, first + budget.step, run)
    if rank == 0:
        save(a, unet, average, optimizer, first + budget.step, run)
        print(f"{first + budget.step} steps: mse {run:.4f}", flush=True)
    if a.processes > 1:
        dist.destroy_process_group()


def composed(text):
    """PREFIX:SHARE."""
    prefix, _, share = text.rpartition(":")
    if not os.path.isfile(f"{prefix}.npz") or not os.path.isfile(f"{prefix}.json"):
        raise argparse.ArgumentTypeError(f"{prefix}.npz and {prefix}.json are not there")
    if not 0 < float(share) < 1:
        raise argparse.ArgumentTypeError(f"the share {share} must lie between 0 and 1")
    return prefix, float(share)


def main():
    p = parser(__doc__)
    p.add_argument("data", type=folder)
    p.add_argument("model", type=folder)
    p.add_argument("clip", type=folder)
    p.add_argument("concepts", type=pathlib.Path, help="file with the names of the concepts")
    p.add_argument("state", type=pathlib.Path)
    p.add_argument("--resume", type=pathlib.Path, help="a STATE to go on from; the learning rate warms up and decays again")
    p.add_argument("--sets", nargs="+", default=UNET_SETS, help="icon sets (%(default)s)")
    p.add_argument("--composed", nargs="+", type=composed, default=[], metavar="PREFIX:SHARE")
    p.add_argument("--blank", action="store_true")
    p.add_argument("--drop", type=float, default=0.12, help="share of the batch without words (%(default)s)")
    p.add_argument("--batch", type=positive, default=24, help="pictures per process (%(default)s)")
    p.add_argument("--processes", type=positive, default=2, help="%(default)s")
    p.add_argument("--port", type=positive, default=29611, help="over which the processes talk (%(default)s)")
    add_training_arguments(p, lr=8e-4)
    a = p.parse_args()
    if sum(share for _, share in a.composed) > 1:
        p.error("the shares of --composed add up to more than 1")
    torch.set_num_threads(a.threads)
    examples = Examples(a)
    print(f"{len(examples.z)} plain pictures, {[len(z) for _, z, _ in examples.composed]} composed, {len(examples.states)} captions", flush=True)
    scheduler().save_pretrained(a.model / "scheduler")
    (a.model / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    if a.processes > 1:
        examples.share_memory()
        mp.spawn(worker, (a, examples), a.processes)
    else:
        worker(0, a, examples)


if __name__ == "__main__":
    main()
