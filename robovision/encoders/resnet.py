"""ResNet-50 (He et al., CVPR 2016; stride in the 3x3 convolution, "v1.5"), the network of R3M and VIP.

Parameter names are those of torchvision's checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from robovision.encoders.base import IMAGENET, Encoder, Features, Normalisation
from robovision.symmetry import claims
from robovision.symmetry.claims import Symmetry
from robovision.symmetry.data import Tokens
from robovision.symmetry.groups import shifts, turns

BLOCKS = (3, 4, 6, 3)
STRIDE = 32
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with batch norm, around which the input is added."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = functional.relu(self.bn2(self.conv2(out)), inplace=True)
        return functional.relu(self.bn3(self.conv3(out)) + self.downsample(x), inplace=True)


class ResNet50(Encoder):
    """ResNet-50 without its classifier: tokens are the cells of the last map, 1/32 of the image, of width 2048.

    Args:
        output: numbers that a last linear layer makes of the mean over the cells, as in VIP; by default there
            is no such layer and the mean is the pooled vector, as in R3M.
        normalisation: mean and deviation of its images.
    """

    def __init__(self, output: int | None = None, normalisation: Normalisation = IMAGENET) -> None:
        super().__init__(2048, normalisation, output)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, BLOCKS[0], 1)
        self.layer2 = _stage(256, 128, BLOCKS[1], 2)
        self.layer3 = _stage(512, 256, BLOCKS[2], 2)
        self.layer4 = _stage(1024, 512, BLOCKS[3], 2)
        self.fc = nn.Identity() if output is None else nn.Linear(2048, output)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height < STRIDE or width < STRIDE:
            raise ValueError(f"image sides must be at least {STRIDE} px, got {height} x {width}")
        return -(-height // STRIDE), -(-width // STRIDE)

    def symmetries(self) -> tuple[Symmetry, ...]:
        """Shifts by whole strides move the cells that don't see the border, which are none below 480 px."""
        cells = Tokens(STRIDE)
        margin = -(-self._reach() // STRIDE)
        return (
            Symmetry(shifts(STRIDE), "interior", outputs=cells, margin=margin, part=claims.tokens),
            Symmetry(turns("C4"), "none", outputs=cells, part=claims.tokens),
        )

    def encode(self, images: Tensor) -> Features:
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return Features(x.flatten(2).transpose(1, 2), self.fc(x.mean((2, 3))))

    def _reach(self) -> int:
        """Pixels that a cell of the last map sees to each side of its own middle."""
        reach = 3 + 2  # the first convolution, and the pooling
        for stage, before, after in (
            (self.layer1, 4, 4),
            (self.layer2, 4, 8),
            (self.layer3, 8, 16),
            (self.layer4, 16, 32),
        ):
            reach += before + (len(stage) - 1) * after
        return reach


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))
