"""Gradients of the training loss, by PyTorch: to every weight of the UNet, and to the prompt's states. gradients.json and .safetensors: the
noise of the embedded model; gradients-v: the v of tiny-sd2.

A weight's gradient is told by its norm and by its product with a direction (torch's normal numbers, the seed is the weight's place
among the sorted names); that of the states is kept whole.
"""

import json

import torch

from embedded import load
from fixtures import OUT, save_tensors

SEED, T, PROMPT = 5, 500, "a dog"


def generate():
    pipe = load()
    unet = pipe.unet.eval()
    size = unet.config.sample_size
    draw = lambda seed: torch.randn(1, unet.config.in_channels, size, size, generator=torch.Generator().manual_seed(seed))
    x0, noise = draw(SEED), draw(SEED + 1)
    ab = pipe.scheduler.alphas_cumprod[T]
    z = ab.sqrt() * x0 + (1 - ab).sqrt() * noise
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipe.text_encoder(ids)[0]
    states.requires_grad_(True)
    for p in unet.parameters():
        p.requires_grad_(True)
    loss = (unet(z, T, states).sample - noise).pow(2).mean()
    loss.backward()
    return tell("gradients", loss, unet, states) + "; " + tell("gradients-v", *velocity())


def velocity():
    """The same of tiny-sd2, which was made to predict v: the loss is that of v."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import load_file

    folder = OUT / "tiny-sd2"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    draw = lambda seed: torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    x0, noise, t = draw(SEED), draw(SEED + 1), torch.tensor([T])
    states = load_file(folder / "reference.safetensors")["text.states"][:1].clone().requires_grad_(True)
    loss = (unet(scheduler.add_noise(x0, noise, t), T, states).sample - scheduler.get_velocity(x0, noise, t)).pow(2).mean()
    loss.backward()
    return loss, unet, states


def tell(name, loss, unet, states):
    weights = {}
    for i, (key, p) in enumerate(sorted(unet.named_parameters())):
        along = torch.randn(p.numel(), generator=torch.Generator().manual_seed(i))
        weights[key] = [p.grad.norm().item(), torch.dot(p.grad.flatten().double(), along.double()).item()]
    (OUT / f"{name}.json").write_text(json.dumps({"loss": loss.item(), "weights": weights}, indent=0) + "\n")
    save_tensors(OUT / f"{name}.safetensors", {"states": states.grad})
    return f"{name}: loss {loss.item():.6f}, {len(weights)} weights"
