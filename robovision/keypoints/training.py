"""Training of S-TREK in a run folder, from wherever the folder stands to the end.

Everything random depends on the seed and the step alone, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from robovision import weights
from robovision.devices import make_deterministic
from robovision.errors import UsageError
from robovision.keypoints.detector import ABOUT, Detector, saved_options
from robovision.keypoints.leaves import dead_leaves
from robovision.keypoints.objectives import Objective, Repeatability
from robovision.keypoints.pairs import draw_pairs, read_folder
from robovision.keypoints.strek_config import StrekConfig
from robovision.optimisers import adamw, check_loss, descend, learning_rate
from robovision.run import Run
from robovision.seeding import derive
from robovision.steps import Steps
from robovision.types import Metric

WEIGHT_DECAY = 1e-4
GRADIENT_NORM = 1.0
LEAF = 512
"""Side in pixels of a procedural picture."""


def make_objective(config: StrekConfig) -> Objective:
    """The network with its first weights, and its loss."""
    half = config.precision == "bfloat16"
    if config.part == "detector":
        return Repeatability(Detector(config.detector), config.sampling, half)
    from robovision.keypoints.description import Description, Descriptor

    assert config.detector_weights is not None
    detector = Detector(config.detector)
    trained = saved_options(config.detector_weights)
    if trained not in (None, config.detector):
        raise UsageError(f"{config.detector_weights} is of {trained}: give the same --detector options")
    weights.assign(detector, weights.load_floats(config.detector_weights), str(config.detector_weights))
    return Description(Descriptor(), detector.eval().exported(), config.sampling, half)


class Training:
    """One training in one run folder.

    Raises:
        UsageError: if the loss is no longer finite, or something can't be written or read.
    """

    def __init__(self, run: Run, config: StrekConfig) -> None:
        self.run = run
        self.config = config

    def execute(self) -> list[Metric]:
        """Train whatever is still missing; returns the final metrics.

        Writes PART.safetensors, half precision; with the descriptor, strek.safetensors, both networks.
        """
        make_deterministic(self.config.seed, self.config.threads)
        self.objective = make_objective(self.config)
        self.module = self.objective.module
        self.optimizer = adamw(self.module, WEIGHT_DECAY)
        self._steps = Steps(
            self.run,
            self.module,
            self.optimizer,
            total=self.config.steps if self.config.stop is None else self.config.stop,
            checkpoint_every=self.config.checkpoint_every,
        )
        photographs = self._photographs()
        self.module.train()
        return self._conclude(self._steps.finish(self.config.part, lambda: self._train_step(photographs)))

    def _photographs(self) -> list[Tensor]:
        config = self.config
        found = [] if config.images is None else read_folder(config.images, 2 * config.size)
        numbers = tqdm(range(config.leaves), desc="procedural pictures", unit="picture")
        return found + [dead_leaves(LEAF, config.seed, number) for number in numbers]

    def _train_step(self, photographs: list[Tensor]) -> dict[str, float]:
        """One step of AdamW: draw pairs, judge, descend."""
        config, step = self.config, self._steps.step
        pairs = draw_pairs(photographs, config.size, config.batch, config.seed, step)
        generator = torch.Generator().manual_seed(derive(config.seed, "draws", step))
        loss, numbers = self.objective(pairs, generator)
        check_loss(loss, step, f"a lower --lr than {config.lr:g}")
        rate = learning_rate(step, config.steps, config.lr)
        descend(loss, self.module, self.optimizer, rate, GRADIENT_NORM)
        return numbers

    def _conclude(self, metrics: list[Metric]) -> list[Metric]:
        half = _half(self.module.state_dict())
        about = {ABOUT: json.dumps(dataclasses.asdict(self.config.detector))} if self.config.part == "detector" else {}
        checksum = weights.save(self.run.path / f"{self.config.part}.safetensors", half, about)
        if self.config.detector_weights is not None:
            descriptor = self.run.path / "descriptor.safetensors"
            checksum = join(self.config.detector_weights, descriptor, self.run.path / "strek.safetensors")
        self.run.write_results(metrics, {"steps": self._steps.step, "sha256": checksum})
        return metrics


def join(detector: Path, descriptor: Path, out: Path) -> str:
    """Write both networks into one file for `Strek.load`, half precision; returns its checksum.

    Raises:
        UsageError: if one can't be read, or the file not be written.
    """
    parts = {"detector": detector, "descriptor": descriptor}
    both = {f"{part}.{k}": v for part, path in parts.items() for k, v in _half(weights.load_floats(path)).items()}
    return weights.save(out, both, weights.about(detector))


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
