"""Stable Diffusion 1.x's layout of a model folder: the index, the schedule, the text encoder from a CLIP."""

from diffusers import DDIMScheduler
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel

INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.21.0", "feature_extractor": [None, None],
    "requires_safety_checker": False, "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}


def scheduler():
    """SD 1.x's."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )


def text_encoder(clip):
    """A CLIPTextModel with the weights of a CLIP's text tower."""
    whole = CLIPModel.from_pretrained(clip)
    config = {k: v for k, v in whole.config.text_config.to_dict().items() if k != "model_type"}
    text, weights = CLIPTextModel(CLIPTextConfig(**config)), whole.text_model.state_dict()
    own = set(text.state_dict())
    text.load_state_dict(weights if own == set(weights) else {f"text_model.{k}": v for k, v in weights.items()})
    return text.eval()
