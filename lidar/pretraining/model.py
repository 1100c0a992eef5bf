"""A trunk under its objectives."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from robovision.lidar.pretraining.also import Also
from robovision.lidar.pretraining.contrast import Contrast
from robovision.lidar.pretraining.flow import FlowEquivariance
from robovision.lidar.pretraining.network import Trunk
from robovision.lidar.pretraining.objective import Objective
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.pointcontrast import PointContrast
from robovision.lidar.pretraining.rotation import Rotation
from robovision.lidar.pretraining.strl import STRL
from robovision.lidar.pretraining.views import VIEWS, Batch

OBJECTIVES: dict[str, Callable[[Trunk, PretrainOptions], Objective]] = {
    "contrast": Contrast,
    "rotation": Rotation,
    "flow": FlowEquivariance,
    "pointcontrast": PointContrast,
    "strl": STRL,
    "also": Also,
}


class PretrainModel(nn.Module):
    """The weighted losses of a batch by objective; each view goes through the trunk once."""

    def __init__(self, options: PretrainOptions) -> None:
        super().__init__()
        self.trunk = Trunk(options.detector(), options.precision == "bfloat16")
        self.objectives = nn.ModuleDict({name: OBJECTIVES[name](self.trunk, options) for name in options.objectives})
        self.weights: dict[str, float] = {name: float(getattr(options.weights, name)) for name in options.objectives}

    @property
    def parts(self) -> dict[str, Objective]:
        """The objectives by name."""
        return {name: part for name, part in self.objectives.items() if isinstance(part, Objective)}

    @property
    def views(self) -> tuple[str, ...]:
        """Everything that a batch must hold."""
        return tuple(sorted({name for part in self.parts.values() for name in (*part.views, *part.targets)}))

    @property
    def pairs(self) -> bool:
        """Whether the sweep before is looked at."""
        return any(VIEWS[name].earlier for name in self.views)

    @property
    def flow(self) -> bool:
        """Whether its flow is."""
        return any(part.flow for part in self.parts.values())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        parts = self.parts
        seen = sorted({name for part in parts.values() for name in part.views})
        features = {name: self.trunk(batch.views[name]) for name in seen}
        return {name: self.weights[name] * part(batch, features) for name, part in parts.items()}

    def follow(self) -> None:
        """Move the targets after a step."""
        for part in self.parts.values():
            part.follow(self.trunk)
