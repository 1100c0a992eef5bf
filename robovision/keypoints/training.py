"""Training of S-TREK in a run folder, from wherever the folder stands to the end.

Everything random depends on the seed and the step alone, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from robovision import weights
from robovision.devices import make_deterministic
from robovision.files import write_csv
from robovision.keypoints.detector import Detector
from robovision.keypoints.leaves import dead_leaves
from robovision.keypoints.objectives import Objective, Repeatability
from robovision.keypoints.pairs import draw_pairs, read_folder
from robovision.keypoints.strek_config import StrekConfig
from robovision.optimisers import adamw, check_loss, descend, learning_rate, restore, save
from robovision.run import Run
from robovision.seeding import derive
from robovision.types import Metric

CURVE_EVERY = 10
"""One of so many steps is a row of the curve."""
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
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._seconds = 0.0

    def execute(self) -> list[Metric]:
        """Train whatever is still missing; returns the final metrics.

        Writes PART.safetensors, half precision; with the descriptor, strek.safetensors, both networks.
        """
        make_deterministic(self.config.seed, self.config.threads)
        self.objective = make_objective(self.config)
        self.module = self.objective.module
        self.optimizer = adamw(self.module, WEIGHT_DECAY)
        self.step, self.curve, self._seconds = restore(self.run, self.module, self.optimizer)
        self._fit(self._photographs())
        return self._conclude()

    def _photographs(self) -> list[Tensor]:
        config = self.config
        found = [] if config.images is None else read_folder(config.images, 2 * config.size)
        numbers = tqdm(range(config.leaves), desc="procedural pictures", unit="picture")
        return found + [dead_leaves(LEAF, config.seed, number) for number in numbers]

    def _fit(self, photographs: list[Tensor]) -> None:
        config = self.config
        self.module.train()
        with tqdm(total=config.steps, initial=self.step, desc=config.part, unit="step") as bar:
            while self.step < config.steps:
                began = time.monotonic()
                numbers = self._train_step(photographs)
                self.step += 1
                self._seconds += time.monotonic() - began
                if self.step % CURVE_EVERY == 0 or self.step == config.steps:
                    self.curve.append({"step": self.step, **numbers})
                    bar.set_postfix({name: f"{value:.3f}" for name, value in numbers.items()}, refresh=False)
                bar.update()
                if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    self._save()

    def _train_step(self, photographs: list[Tensor]) -> dict[str, float]:
        """One step of AdamW: draw pairs, judge, descend."""
        config = self.config
        pairs = draw_pairs(photographs, config.size, config.batch, config.seed, self.step)
        generator = torch.Generator().manual_seed(derive(config.seed, "draws", self.step))
        loss, numbers = self.objective(pairs, generator)
        check_loss(loss, self.step, f"a lower --lr than {config.lr:g}")
        rate = learning_rate(self.step, config.steps, config.lr)
        descend(loss, self.module, self.optimizer, rate, GRADIENT_NORM)
        return numbers

    def _save(self) -> None:
        save(self.run, self.step, self.curve, self._seconds, self.module, self.optimizer)
        if self.curve:
            write_csv(self.run.path / "curve.csv", list(self.curve[-1]), self.curve)

    def _conclude(self) -> list[Metric]:
        last = self.curve[-max(1, len(self.curve) // 20) :]
        names = [name for name in last[0] if name != "step"]
        metrics = [Metric(name, float(np.mean([row[name] for row in last])), "1", count=len(last)) for name in names]
        metrics.append(Metric("training_time", round(self._seconds, 1), "s"))
        half = _half(self.module.state_dict())
        checksum = weights.save(self.run.path / f"{self.config.part}.safetensors", half)
        if self.config.detector_weights is not None:
            checksum = self._join(self.config.detector_weights, half)
        self.run.write_results(metrics, {"steps": self.step, "sha256": checksum})
        return metrics

    def _join(self, detector: Path, descriptor: dict[str, Tensor]) -> str:
        """Write strek.safetensors, both networks in one file, for `Strek.load`; returns its checksum."""
        parts = {"detector": _half(weights.load_floats(detector)), "descriptor": descriptor}
        both = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return weights.save(self.run.path / "strek.safetensors", both)


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
