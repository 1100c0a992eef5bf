"""The masked autoencoder (He et al., CVPR 2022, arXiv 2111.06377): a ViT learns by filling in hidden patches.

Three of four patches are hidden; the encoder sees only the others, a small decoder sees its tokens and a mask token
in each hidden place, and paints each hidden patch. Only the encoder is kept afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robovision.encoders.vit import PLAIN, Block, ViT, ViTSize, resize_positions, sincos_positions

MASKED = 0.75
"""Share of the patches that are hidden (section 3, "Masking")."""
DECODER = ViTSize(96, 2, 3)
"""Width, depth and heads of the decoder; the paper, too, takes half of the encoder's width or less."""
FAINT = (4 / 255) ** 2
"""Added to the variance of a patch's pixels in 0..1. The paper adds 1e-6; rendered frames have patches without any
structure but a shade or two of rounding, and these would weigh like all the others."""


class Painting(NamedTuple):
    """What the decoder paints, and what is hidden.

    Convention:
        patches: [B, N, 3 P P], every patch's pixels, normalised by the patch's own mean and deviation.
        hidden: bool [B, N].
    """

    patches: Tensor
    hidden: Tensor


class MaskedAutoencoder(nn.Module):
    """An encoder with a decoder that paints what was hidden from it.

    The encoder's position embedding stays fixed, sines and cosines as in the paper, so that images of any size
    can be taken in turn.
    """

    decoder_positions: Tensor

    def __init__(self, encoder: ViT, decoder: ViTSize = DECODER) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.pos_embed.requires_grad_(False)
        self.embed = nn.Linear(encoder.width, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.blocks = nn.Sequential(*(Block(decoder, PLAIN) for _ in range(decoder.depth)))
        self.norm = nn.LayerNorm(decoder.width, PLAIN.eps)
        self.paint = nn.Linear(decoder.width, 3 * encoder.patch**2)
        self.register_buffer("decoder_positions", sincos_positions(encoder.side, decoder.width), persistent=False)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.embed, self.paint, self.blocks):
            module.apply(_initialise)

    def forward(self, images: Tensor, order: Tensor) -> Tensor:
        """The loss: mean squared error over the hidden patches, in deviations of each patch's own pixels (eq. in 3.).

        Args:
            images: [B, 3, H, W], as the encoder takes them.
            order: int64 [B, N], a permutation of the patches for each image; the first quarter is seen.
        """
        painting = self.fill(images, order)
        wanted, _, _ = normalised_patches(images, self.encoder.patch)
        error = (painting.patches.float() - wanted).square().mean(2)
        return (error * painting.hidden).sum() / painting.hidden.sum()

    def fill(self, images: Tensor, order: Tensor) -> Painting:
        """All patches as the decoder paints them after the encoder saw the first quarter of `order`."""
        encoder = self.encoder
        rows, columns = encoder.grid(images.shape[2], images.shape[3])
        count = rows * columns
        seen = visible(count)
        positions = encoder.positions((rows, columns))
        tokens = encoder.patch_embed(encoder.normalise(images)) + positions[:, 1:]
        tokens = tokens.gather(1, order[:, :seen, None].expand(-1, -1, tokens.shape[2]))
        first = (encoder.cls_token + positions[:, :1]).expand(len(tokens), -1, -1)
        latent = self.embed(encoder.norm(encoder.blocks(torch.cat([first, tokens], dim=1))))
        masks = self.mask_token.to(latent.dtype).expand(len(latent), count - seen, -1)
        shuffled = torch.cat([latent[:, 1:], masks], dim=1)
        back = order.argsort(dim=1)
        patches = shuffled.gather(1, back[:, :, None].expand(-1, -1, shuffled.shape[2]))
        places = resize_positions(self.decoder_positions, (encoder.side, encoder.side), (rows, columns))
        painted = self.blocks(torch.cat([latent[:, :1], patches], dim=1) + places)
        return Painting(self.paint(self.norm(painted))[:, 1:], back >= seen)

    def reconstruct(self, images: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """The images with hidden patches grey, and with them painted; both [B, 3, H, W] in 0..1.

        The decoder paints normalised patches, so each gets the mean and the deviation of the true one.
        """
        patch = self.encoder.patch
        painting = self.fill(images, order)
        wanted, mean, deviation = normalised_patches(images, patch)
        true = wanted * deviation + mean
        painted = painting.patches.float() * deviation + mean
        hidden = painting.hidden[:, :, None]
        shape = images.shape[2] // patch, images.shape[3] // patch
        grey, filled = (torch.where(hidden, other, true) for other in (torch.full_like(true, 0.5), painted))
        return unpatch(grey, shape, patch).clamp(0, 1), unpatch(filled, shape, patch).clamp(0, 1)


def visible(patches: int) -> int:
    """How many of so many patches the encoder sees; at least one, and one is hidden.

    >>> [visible(n) for n in (2, 16, 64, 196)]
    [1, 4, 16, 49]
    """
    return max(1, round((1 - MASKED) * patches))


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Images [B, C, H, W] as their patches, row by row from the top left, [B, N, C P P]."""
    b, c, h, w = images.shape
    cut = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpatch(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The reverse of `patches_of` for a grid of (rows, columns)."""
    b, (rows, columns) = len(patches), grid
    cut = patches.reshape(b, rows, columns, -1, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(b, -1, rows * patch, columns * patch)


def normalised_patches(images: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each patch's pixels [B, N, 3 P P] less their mean, over their deviation; the means and deviations [B, N, 1]."""
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    pixels = patches_of(images, patch).float() / scale
    variance, mean = torch.var_mean(pixels, dim=2, keepdim=True)
    deviation = (variance + FAINT).sqrt()
    return (pixels - mean) / deviation, mean, deviation


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
