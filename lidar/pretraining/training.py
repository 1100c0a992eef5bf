"""Pretraining of a LiDAR backbone in a run folder, in one process or data-parallel under torchrun.

Everything random depends on the seed and the step alone, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from robovision.devices import make_deterministic
from robovision.encoders.checkpoints import cache_folder
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.detectors.data import check_within, find_sequences
from robovision.lidar.detectors.training import draw_numbers
from robovision.lidar.flow.cache import FlowCache
from robovision.lidar.pretraining.files import FILE, save_backbone
from robovision.lidar.pretraining.model import PretrainModel
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.sweeps import FlowReader, Place, estimate_all, find_places, read_moment, read_truth
from robovision.lidar.pretraining.views import Batch, make_batch
from robovision.optimisers import adamw, check_loss, descend, learning_rate
from robovision.processes import Processes
from robovision.progress import move
from robovision.run import Run
from robovision.steps import Steps
from robovision.types import Metric

GRADIENT_NORM = 10.0


def flow_reader(options: PretrainOptions) -> FlowReader:
    """What tells the flow of a sweep."""
    if options.flow == "truth":
        return read_truth
    cache = FlowCache(cache_folder() / "flow")
    return lambda _, before, now: cache(before, now)


class Moments(Dataset[Batch]):
    """The batches of a pretraining by step, each for one process."""

    def __init__(self, places: list[Place], model: PretrainModel, options: PretrainOptions, own: Processes) -> None:
        self._places, self._options, self._processes = places, options, own
        self._views, self._pairs = model.views, model.pairs
        self._intensity, self._grid = options.detector().intensity, options.detector().grid
        self._flow = flow_reader(options) if model.flow else None

    def __getitem__(self, step: int) -> Batch:
        options, own = self._options, self._processes
        generator = own.generator(options.seed, step)
        numbers = own.share(draw_numbers(step, options.batch, len(self._places), options.seed))
        places = [self._places[n] for n in numbers]
        moments = [read_moment(place, self._intensity, self._pairs, self._flow) for place in places]
        batch = make_batch(moments, self._views, options.motion, generator)
        for view in batch.views.values():
            check_within(view.points, self._grid, [place.now for place in places])
        return batch


class Pretraining:
    """One pretraining in one run folder, from wherever the folder stands to the end.

    Args:
        run: the folder; only the first process writes there.
        options: completely resolved.
        processes: those that share each batch.

    Raises:
        UsageError: if the batch can't be shared evenly, sweeps are missing, the loss is no longer finite, or something
            can't be written or read.
    """

    def __init__(self, run: Run, options: PretrainOptions, processes: Processes) -> None:
        if options.batch % processes.count:
            raise UsageError(f"batch ({options.batch}) must be a multiple of the {processes.count} processes")
        self.run, self.options, self._processes = run, options, processes

    def execute(self) -> list[Metric]:
        """Train whatever is still missing; returns the final metrics. Writes backbone.safetensors."""
        options, own = self.options, self._processes
        make_deterministic(options.seed, options.threads)
        self.model = PretrainModel(options).to(own.device(options.device))
        self.places = find_places(find_sequences(options.data, labelled=False), self.model.pairs)
        if self.model.flow and options.flow == "estimated":
            self._estimate()
        self.optimizer = adamw(self.model, options.weight_decay)
        self._steps = Steps(
            self.run,
            self.model,
            self.optimizer,
            total=options.steps,
            checkpoint_every=options.checkpoint_every,
            processes=own,
        )
        parallel = DistributedDataParallel(self.model) if own.count > 1 else self.model
        batches = self._load()
        parallel.train()
        return self._conclude(self._steps.finish("pretraining", lambda: self._train_step(parallel, next(batches))))

    def _estimate(self) -> None:
        """Estimate what flow is not yet kept, each process its share."""
        mine = self._processes.share(self.places)
        with tqdm(total=len(mine), desc="flow", unit="pair", disable=not self._processes.leads) as bar:
            estimate_all(mine, flow_reader(self.options), partial(move, bar))
        self._processes.wait()

    def _load(self) -> Iterator[Batch]:
        moments = Moments(self.places, self.model, self.options, self._processes)
        steps = range(self._steps.step, self.options.steps)
        return iter(DataLoader(moments, batch_size=None, sampler=steps, num_workers=self.options.loaders))

    def _train_step(self, parallel: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One step of AdamW on the objectives of one batch; then the targets follow."""
        options, step, device = self.options, self._steps.step, self._processes.device(self.options.device)
        terms = cast("dict[str, Tensor]", parallel(batch.to(device)))
        loss = torch.stack(list(terms.values())).sum()
        check_loss(loss, step, f"a lower --lr than {options.lr:g}, or --precision float32")
        descend(loss, parallel, self.optimizer, learning_rate(step, options.steps, options.lr), GRADIENT_NORM)
        self.model.follow()
        return {name: value.detach() for name, value in terms.items()}

    def _conclude(self, metrics: list[Metric]) -> list[Metric]:
        if self._processes.leads:
            save_backbone(self.run.path / FILE, self.model.trunk)
            loss_curves(self.run.path / "curve.png", self._steps.curve, self.options)
            self.run.write_results(metrics, {"steps": self._steps.step, "sweeps": len(self.places)})
        return metrics


def loss_curves(path: Path, curve: list[dict[str, float]], options: PretrainOptions) -> None:
    """A PNG of each objective's weighted loss over the training steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(options.objectives), 3.2), layout="constrained", dpi=110)
    steps = [row["step"] for row in curve]
    for axes, name in zip(
        figure.subplots(1, len(options.objectives), squeeze=False)[0], options.objectives, strict=True
    ):
        axes.plot(steps, [row[name] for row in curve])
        axes.set(title=name, xlabel="training step")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{options.model}, weighted losses, seed {options.seed}", fontsize=10)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
