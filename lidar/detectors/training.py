"""Training of a detector in a run folder, in one process or data-parallel under torchrun.

Everything random depends on the seed and the step alone, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from robovision import recorded
from robovision.devices import make_deterministic
from robovision.errors import UsageError
from robovision.lidar.detectors.augmentation import Scene, augment
from robovision.lidar.detectors.data import (
    check_classes,
    check_within,
    drop_unseen,
    find_sequences,
    read_scene,
    take_fraction,
)
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.files import save_detector, start_from
from robovision.lidar.detectors.heads import Objects
from robovision.lidar.detectors.hedges import add_hedges
from robovision.lidar.detectors.pasting import Pasting, collect
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.lidar.pretraining.files import as_pretrained, assign_backbone
from robovision.optimisers import adamw, check_loss, descend, learning_rate
from robovision.processes import Processes
from robovision.run import Run
from robovision.seeding import derive
from robovision.steps import Steps
from robovision.types import Metric

GRADIENT_NORM = 10.0

Batch = tuple[Tensor, Tensor, list[Objects]]
"""Points [P, F], the sweep of each [P], and the true objects of each sweep."""


class Sweeps(Dataset[Batch]):
    """The batches of a training by step, each for one process."""

    def __init__(
        self, clouds: list[Path], options: TrainOptions, processes: Processes, pasting: Pasting | None
    ) -> None:
        self._clouds, self._options, self._processes, self._pasting = clouds, options, processes, pasting
        self._config = options.detector()

    def __getitem__(self, step: int) -> Batch:
        generator = self._processes.generator(self._options.seed, step)
        numbers = draw_numbers(step, self._options.batch, len(self._clouds), self._options.seed)
        first = step * self._options.batch < len(self._clouds)
        mine = self._processes.share(numbers)
        batch = join([self._scene(number, generator, first) for number in mine])
        check_within(batch[0], self._config.grid, [self._clouds[number] for number in mine])
        return batch

    def _scene(self, number: int, generator: torch.Generator, first: bool) -> Scene:
        options = self._options
        scene = read_scene(self._clouds[number], self._config, options.view, check=first)
        if self._pasting is not None:
            scene = self._pasting(scene, generator)
        if options.augment.hedges:
            scene = add_hedges(scene, options.augment.hedges, self._config.ground, generator)
        scene, _ = augment(scene, options.augment, generator)
        return drop_unseen(scene, options.least)


def draw_numbers(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The sweeps of a step: all of `count` once, in an order by chance, before any comes again."""
    places = range(step * batch, (step + 1) * batch)
    orders = {
        epoch: np.random.default_rng(derive(seed, "order", epoch)).permutation(count)
        for epoch in {place // count for place in places}
    }
    return [int(orders[place // count][place % count]) for place in places]


def join(scenes: list[Scene]) -> Batch:
    """Scenes as one batch."""
    counts = torch.tensor([len(scene.points) for scene in scenes])
    sample = torch.arange(len(scenes)).repeat_interleave(counts)
    return torch.cat([scene.points for scene in scenes]), sample, [scene.objects for scene in scenes]


class Objective(nn.Module):
    """The detector's losses as what `forward` gives, which is what DistributedDataParallel averages over."""

    def __init__(self, detector: Detector, precision: str) -> None:
        super().__init__()
        self.detector = detector
        self._half = precision == "bfloat16"

    def forward(self, points: Tensor, sample: Tensor, truth: list[Objects]) -> dict[str, Tensor]:
        with torch.autocast(points.device.type, torch.bfloat16, enabled=self._half):
            seen = self.detector(points, sample, len(truth))
        return self.detector.losses(seen, truth)


class Training:
    """One training in one run folder, from wherever the folder stands to the end.

    Args:
        run: the folder; only the first process writes there.
        options: completely resolved.
        processes: those that share each batch.

    Raises:
        UsageError: if the batch can't be shared evenly, a class has no labels, the loss is no longer finite, or
            something can't be written or read.
    """

    def __init__(self, run: Run, options: TrainOptions, processes: Processes) -> None:
        if options.batch % processes.count:
            raise UsageError(f"batch ({options.batch}) must be a multiple of the {processes.count} processes")
        self.run, self.options, self._processes = run, options, processes

    def execute(self) -> list[Metric]:
        """Train whatever is still missing; returns the final metrics. Writes detector.safetensors."""
        options, own = self.options, self._processes
        make_deterministic(options.seed, options.threads)
        sequences = take_fraction(find_sequences(options.data), options.fraction, options.seed)
        self.labels = check_classes(sequences, options.detector())
        clouds = [cloud for sequence in sequences for cloud in sequence.clouds]
        self.sweeps, self.sequences = len(clouds), len(sequences)
        pasting = collect(clouds, options) if options.paste else None
        self.detector = self._detector().to(own.device(options.device))
        self.optimizer = adamw(self.detector, options.weight_decay)
        self._steps = Steps(
            self.run,
            self.detector,
            self.optimizer,
            total=options.steps,
            checkpoint_every=options.checkpoint_every,
            processes=own,
        )
        objective: nn.Module = Objective(self.detector, options.precision)
        if own.count > 1:
            objective = DistributedDataParallel(objective)
        batches = self._load(Sweeps(clouds, options, own, pasting))
        objective.train()
        return self._conclude(self._steps.finish("detector", lambda: self._train_step(objective, next(batches))))

    def _detector(self) -> Detector:
        options, config = self.options, self.options.detector()
        if options.pretrained is not None:
            detector = Detector(as_pretrained(config, options.pretrained))
            assign_backbone(detector, options.pretrained)
            return detector
        detector = Detector(config)
        if options.start is not None:
            start_from(detector, recorded.locate(options.start))
        return detector

    def _load(self, sweeps: Sweeps) -> Iterator[Batch]:
        steps = range(self._steps.step, self.options.steps)
        return iter(DataLoader(sweeps, batch_size=None, sampler=steps, num_workers=self.options.loaders))

    def _train_step(self, objective: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One step of AdamW on the loss of one batch."""
        options, step, device = self.options, self._steps.step, self._processes.device(self.options.device)
        points, sample, truth = batch
        torch.manual_seed(derive(options.seed, "step", step, self._processes.rank) % 2**63)  # dropout, proposals
        moved = [Objects(objects.boxes.to(device), objects.labels.to(device)) for objects in truth]
        terms = cast("dict[str, Tensor]", objective(points.to(device), sample.to(device), moved))
        loss = torch.stack(list(terms.values())).sum()
        check_loss(loss, step, f"a lower --lr than {options.lr:g}, or --precision float32")
        descend(loss, objective, self.optimizer, learning_rate(step, options.steps, options.lr), GRADIENT_NORM)
        return {name: value.detach() for name, value in terms.items()}

    def _conclude(self, metrics: list[Metric]) -> list[Metric]:
        if self._processes.leads:
            save_detector(self.run.path / "detector.safetensors", self.detector)
            details = {"sequences": self.sequences, "sweeps": self.sweeps, "labels": dict(self.labels)}
            self.run.write_results(metrics, {"steps": self._steps.step, **details})
        return metrics
