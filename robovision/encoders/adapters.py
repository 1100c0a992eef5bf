"""Small trainable parts inside a ViT's blocks: AdaptFormer, RoboAdapter and LoRA, to compare CoIn with.

Each leaves the ViT exactly as it was until it is trained, and leaves the names of the ViT's own parameters as
they were: an adapter's parameters are those with a part called `adapter`, or `injector` for CoIn, in their name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import Encoder
from robovision.encoders.vit import Block, ViT

BOTTLENECK = 64
"""Width of AdaptFormer's and RoboAdapter's middle layer."""
ADAPTFORMER_SCALE = 0.1
LORA_RANK = 8
LORA_ALPHA = 16


class Bottleneck(nn.Module):
    """Down to a few channels, a nonlinearity, up again; the last layer starts at 0.

    Args:
        width: channels of the tokens.
        middle: channels in between.
        activation: the nonlinearity.
    """

    def __init__(self, width: int, middle: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.down = nn.Linear(width, middle)
        self.up = nn.Linear(middle, width)
        self.activation = activation
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.activation(self.down(x)))  # type: ignore[no-any-return]


class AdaptFormerBlock(nn.Module):
    """A block with a bottleneck beside its MLP (Chen et al., NeurIPS 2022, equation 3).

    x' = x + attention(norm(x)), then x' + MLP(norm(x')) + 0.1 * up(relu(down(x'))), with 64 channels in between.
    """

    def __init__(self, block: Block, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = block.norm1, block.attn, block.ls1
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2
        self.adapter = Bottleneck(width, BOTTLENECK, functional.relu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        beside = ADAPTFORMER_SCALE * self.adapter(x)
        return x + self.ls2(self.mlp(self.norm2(x))) + beside  # type: ignore[no-any-return]


class RoboAdapterBlock(nn.Module):
    """A block with a residual bottleneck behind its attention and another behind its MLP.

    The adapters of Sharma et al. (ICLR 2023, "Lossless adaptation") in the transformer's blocks, placed as in
    Houlsby et al. (ICML 2019): h + up(gelu(down(h))) on what each sublayer adds, with 64 channels in between.
    The place in each block and the GELU are inferred, not read in the paper.
    Their adapters of the first layer and of the policy head are not part of the encoder.
    """

    def __init__(self, block: Block, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = block.norm1, block.attn, block.ls1
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2
        self.adapter = nn.ModuleList(Bottleneck(width, BOTTLENECK, functional.gelu) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.ls1(self.attn(self.norm1(x)))
        x = x + attended + self.adapter[0](attended)
        computed = self.ls2(self.mlp(self.norm2(x)))
        return x + computed + self.adapter[1](computed)  # type: ignore[no-any-return]


class LoRA(nn.Module):
    """The low-rank change of queries and values (Hu et al., ICLR 2022, section 4), rank 8, alpha 16."""

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        width = qkv.in_features
        self.weight, self.bias = qkv.weight, qkv.bias
        self.adapter = nn.ModuleDict(
            {part: nn.Sequential(_linear(width, LORA_RANK), _linear(LORA_RANK, width)) for part in ("query", "value")}
        )
        for low_rank in self.adapter.values():
            assert isinstance(low_rank, nn.Sequential)
            nn.init.kaiming_uniform_(low_rank[0].weight, a=math.sqrt(5))  # type: ignore[arg-type]
            nn.init.zeros_(low_rank[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        query, value = self.adapter["query"](x), self.adapter["value"](x)
        change = torch.cat([query, torch.zeros_like(query), value], dim=-1)
        return functional.linear(x, self.weight, self.bias) + LORA_ALPHA / LORA_RANK * change


def adapt(vit: ViT, kind: str) -> None:
    """Put adapters of a kind, `adaptformer`, `roboadapter` or `lora`, into every block of a ViT."""
    for number, block in enumerate(vit.blocks):
        assert isinstance(block, Block)
        match kind:
            case "adaptformer":
                vit.blocks[number] = AdaptFormerBlock(block, vit.width)
            case "roboadapter":
                vit.blocks[number] = RoboAdapterBlock(block, vit.width)
            case "lora":
                assert isinstance(block.attn.qkv, nn.Linear)
                block.attn.qkv = LoRA(block.attn.qkv)
            case _:
                raise ValueError(f"unknown adapter {kind!r}; there are adaptformer, roboadapter, lora")


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter rather than to the encoder itself."""
    return not {"adapter", "injector"}.isdisjoint(name.split("."))


def adapter_parameters(encoder: Encoder) -> Iterator[nn.Parameter]:
    """The parameters that the mode `adapter` trains."""
    return (parameter for name, parameter in encoder.named_parameters() if is_adapter(name))


def pretrained_parameters(encoder: Encoder) -> Iterator[nn.Parameter]:
    """The parameters that a checkpoint fills: all but an adapter's."""
    return (parameter for name, parameter in encoder.named_parameters() if not is_adapter(name))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)
