"""References of the embedded model in f32: every stage alone, then whole chains."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from fixtures import MODEL, OUT, distance, picture, save_tensors

PROMPTS = ["a dog", "an ink emoji of a tiger in the snow"]
TIMESTEPS = [981, 501, 1]
PICTURE = "dog-in-the-snow.png"
CHAINS = {
    "ddim": {"prompt": PROMPTS[1], "negative": "", "steps": 20, "cfg": 7.0, "seed": 7, "noise_eta": 0.0},
    "eta": {"prompt": PROMPTS[1], "negative": "", "steps": 10, "cfg": 7.0, "seed": 2**32 + 5, "noise_eta": 0.8},
}
SITE = "up_blocks.1.attentions.1.transformer_blocks.0"


def load(dtype=torch.float32):
    """The folder's networks as a pipeline, without a safety checker."""
    part = lambda cls, name: cls.from_pretrained(MODEL / name, dtype=dtype).eval()
    return StableDiffusionPipeline(
        vae=part(AutoencoderKL, "vae"),
        text_encoder=part(CLIPTextModel, "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(MODEL / "tokenizer"),
        unet=part(UNet2DConditionModel, "unet"),
        scheduler=DDIMScheduler.from_pretrained(MODEL / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def encode(pipe, prompts):
    """Text states [n, 77, d] and token ids [n, 77]."""
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return pipe.text_encoder(ids)[0], ids


class Recording:
    """Attention processor that computes the probabilities openly and keeps them."""

    def __init__(self):
        self.probabilities = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(f(x)) for f, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context)))
        p = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * attn.scale, -1)
        self.probabilities = p.view(hidden_states.shape[0], attn.heads, *p.shape[1:])
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(p, v))))


def attention_probabilities(unet, z, t, text):
    """The probabilities of self- and cross-attention at SITE, [n, heads, queries, keys], and the prediction with them."""
    processors = dict(unet.attn_processors)
    own = {name: Recording() for name in ("attn1", "attn2")}
    unet.set_attn_processor({k: own.get(k.removeprefix(SITE + ".").removesuffix(".processor"), v) if k.startswith(SITE) else v for k, v in processors.items()})
    eps = unet(z, t, text).sample
    unet.set_attn_processor(processors)
    return own["attn1"].probabilities, own["attn2"].probabilities, eps


def stages(pipe):
    """Name -> tensor for every stage alone."""
    out = {}
    text, ids = encode(pipe, PROMPTS)
    out["text.ids"], out["text.states"] = ids, text
    out["text.empty"] = encode(pipe, [""])[0]

    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)).to(text.dtype)
    out["unet.z"] = z.float()
    for t in TIMESTEPS:
        out[f"unet.eps.{t}"] = pipe.unet(z, t, text).sample
    self_p, cross_p, eps = attention_probabilities(pipe.unet, z, TIMESTEPS[1], text)
    assert distance(eps, out[f"unet.eps.{TIMESTEPS[1]}"]) < 1e-4, "the open attention is the same attention"
    out["attention.self"], out["attention.cross"] = self_p, cross_p

    x = picture(PICTURE).to(text.dtype)
    mean = pipe.vae.encode(x * 2 - 1).latent_dist.mean
    out["vae.mean"] = mean * pipe.vae.config.scaling_factor
    out["vae.decoded"] = pipe.vae.decode(mean).sample / 2 + 0.5
    return out


def clip_stages(dtype):
    """CLIP features of texts and pictures, of unit length."""
    folder = MODEL / "clip"
    clip = CLIPModel.from_pretrained(folder, dtype=dtype).eval()
    tokenizer, processor = CLIPTokenizer.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    unit = lambda f: torch.nn.functional.normalize(f if torch.is_tensor(f) else f.pooler_output, dim=-1)
    tokens = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    pixels = processor([(picture(n)[0] * 255).round().byte() for n in (PICTURE, "rabbit-flat.png")], return_tensors="pt").pixel_values
    return {
        "clip.text": unit(clip.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)),
        "clip.image": unit(clip.get_image_features(pixel_values=pixels.to(dtype))),
    }


def chains(pipe):
    """Twenty DDIM steps of the pipeline from a seed, and ten with noise of their own."""
    pipe.set_progress_bar_config(disable=True)
    out = {}
    for name, run in CHAINS.items():
        generator = torch.Generator().manual_seed(run["seed"])
        first = torch.randn(1, 4, 16, 16, generator=generator).to(pipe.unet.dtype)
        z = pipe(
            run["prompt"], height=64, width=64, num_inference_steps=run["steps"], guidance_scale=run["cfg"], eta=run["noise_eta"],
            generator=generator, latents=first, output_type="latent",
        ).images
        out[f"{name}.latent"] = z
        out[f"{name}.picture"] = (pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    return out


def generate():
    """Writes embedded.safetensors; its metadata says how far PyTorch itself is from f64 at each stage."""
    torch.set_grad_enabled(False)
    single, double = load(), load(torch.float64)
    tensors = {**stages(single), **clip_stages(torch.float32), **chains(single)}
    exact = {**stages(double), **clip_stages(torch.float64), **chains(double)}
    # In f64 the steps' own noise would be drawn in f64 too: other numbers.
    same = lambda k, v: v.is_floating_point() and k != "unet.z" and not k.startswith("eta.")
    rounding = {k: distance(tensors[k], v) for k, v in exact.items() if same(k, v)}
    save_tensors(
        OUT / "embedded.safetensors",
        tensors,
        prompts=PROMPTS,
        timesteps=TIMESTEPS,
        picture=PICTURE,
        clip_pictures=[PICTURE, "rabbit-flat.png"],
        site=SITE,
        chains=CHAINS,
        tolerance=1e-4,
        rounding=rounding,
    )
    return rounding
