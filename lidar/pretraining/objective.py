"""What every objective has in common: the views that it asks for, and a loss of their features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from robovision.lidar.pretraining.network import Trunk
from robovision.lidar.pretraining.views import Batch


class Objective(nn.Module, ABC):
    """One term of a pretraining's loss, with the layers that it puts on the trunk."""

    views: tuple[str, ...]
    """Of `VIEWS`, those whose features it is given."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Those that it looks at through a target of its own."""
    flow: ClassVar[bool] = False
    """Whether it needs the earlier points' flow."""

    @abstractmethod
    def forward(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        """The loss, of features [B, C, H, W] by view."""

    def follow(self, trunk: Trunk) -> None:
        """Called after each step: moves the target, where there is one."""
