"""The networks of the second model, and small ones for a rehearsal."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPConfig, CLIPModel

WIDTH = 128  # of the text tower, and so of cross-attention


def vae(tiny):
    """128x128 pictures to 4x16x16 latents: four levels, factor 8."""
    widths = (8, 8, 16, 16) if tiny else (32, 64, 96, 96)
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths, layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=128, act_fn="silu",
    )


def unet(tiny):
    """SD 1.x's topology: four levels, cross-attention at three, two heads at each."""
    widths = (16, 16, 32, 32) if tiny else (48, 80, 112, 112)
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=widths, layers_per_block=1 if tiny else 2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        norm_num_groups=8 if tiny else 16, cross_attention_dim=WIDTH, attention_head_dim=2,
    )


def clip(vocabulary, tiny):
    """The CLIP that ships: its text tower is where the UNet's text encoder comes from."""
    layers = 1 if tiny else 4
    tower = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH, num_hidden_layers=layers, num_attention_heads=4, hidden_act="quick_gelu")
    ends = dict(bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1)
    text = dict(tower, vocab_size=vocabulary, max_position_embeddings=77, **ends)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=dict(tower, image_size=128, patch_size=16), projection_dim=WIDTH))
    nn.init.normal_(model.text_model.embeddings.position_embedding.weight, std=0.02)
    return model


class Judge(nn.Module):
    """An independent CLIP: a convolutional picture tower and a two-way text tower, with nothing in common with the one that ships."""

    def __init__(self, vocabulary, tiny, width=192, length=32):
        super().__init__()
        c = [16, 16, 32, 32] if tiny else [48, 96, 160, 224]
        layers, before = [nn.Conv2d(3, c[0], 4, stride=4)], c[0]
        for n in c:
            layers += [nn.Conv2d(before, n, 3, stride=2 if n != c[0] else 1, padding=1), nn.GroupNorm(8, n), nn.GELU(), Residual(n), Residual(n)]
            before = n
        self.pictures = nn.Sequential(*layers, nn.Flatten(2))
        self.out = nn.Linear(before, width)
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 6, 3 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 1 if tiny else 3, enable_nested_tensor=False)
        self.project, self.scale = nn.Linear(width, width), nn.Parameter(torch.tensor(2.7))

    def picture_features(self, x):
        """Unit vectors of pictures in -1..1."""
        return nn.functional.normalize(self.out(self.pictures(x).mean(2)).float(), dim=-1)

    def text_features(self, ids, end):
        """Unit vectors of captions; the padding after the first `end` is not read."""
        after = (ids == end).cumsum(1)
        padding = (after - (ids == end).int()) > 0
        h = self.text(self.words(ids) + self.places[: ids.shape[1]], src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1)
        return nn.functional.normalize(self.project((h * kept).sum(1) / kept.sum(1)).float(), dim=-1)


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, n):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(n, n, 3, padding=1), nn.GroupNorm(8, n), nn.GELU(), nn.Conv2d(n, n, 3, padding=1), nn.GroupNorm(8, n))

    def forward(self, x):
        return nn.functional.gelu(x + self.inner(x))


def count(*networks):
    """Weights in millions."""
    return sum(p.numel() for n in networks for p in n.parameters()) / 1e6
