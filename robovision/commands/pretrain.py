"""Pretrain encoders."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from robovision.commands import Command, absolute, check_resumed, check_workers, program, resumed_path
from robovision.encoders.mae_config import MaeConfig
from robovision.envs.frames import SHARD, FrameOptions
from robovision.errors import UsageError
from robovision.run import Run, differences
from robovision.types import Metric

if TYPE_CHECKING:
    from robovision.encoders.pictures import Pictures
    from robovision.processes import Processes

GROUP = """usage: robovision pretrain COMMAND [OPTIONS]

Pretrain encoders without labels.

commands:
  mae        a ViT as a masked autoencoder, on rendered frames or any folder of images
  lidar      the backbone of a LiDAR detector, by equivariance in space and time

`robovision pretrain COMMAND --help` lists a command's options."""

MAE = """Pretrain a ViT as a masked autoencoder (He et al., 2022), on rendered frames or any folder of images.

Without --images it first renders frames of every simulated task but those that are held out to judge encoders, from
random cameras in random colours. The run folder gets checkpoints, curve.png, reconstructions.png and
encoder.safetensors, which `robovision train --encoder.weights` takes. Under torchrun the processes share each batch.

examples:
  robovision pretrain mae
  robovision pretrain mae --images photos --sizes 224 --batch 256 --encoder vit-small
  torchrun --nproc-per-node 8 -m robovision.cli pretrain mae --batch 1024
  robovision pretrain mae --resume runs/mae"""


CHECKPOINTS_HELD = 3
"""Checkpoints' worth of space that is asked for before the training: those kept, and one being written."""


@dataclass(frozen=True)
class MaeJob:
    """What to pretrain, and on what."""

    config: Annotated[MaeConfig, tyro.conf.arg(name="")] = MaeConfig()
    frames: FrameOptions = FrameOptions()
    images: Path | None = None
    """A folder of images (JPEG, PNG, WebP, BMP) to learn from in place of rendered frames."""
    store: Path | None = None
    """The folder of the rendered frames, which several runs may share; by default `frames` in the run folder."""

    def __post_init__(self) -> None:
        if self.images is not None and self.store is not None:
            raise UsageError("--images takes the place of rendered frames: leave out --store")
        if self.images is None and self.frames.size < max(self.config.sizes):
            raise UsageError(
                f"frames.size ({self.frames.size}) must be at least the largest of --sizes ({max(self.config.sizes)})"
            )


@dataclass(frozen=True)
class Mae:
    """The options of `robovision pretrain mae`."""

    job: Annotated[MaeJob, tyro.conf.arg(name="")] = MaeJob()
    workers: int = 0
    """Processes that render; 0: as many as there are cores."""
    out: Path | None = None
    """The run folder; by default a new one under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; the other options must not differ from the run's."""

    def __post_init__(self) -> None:
        check_workers(self.workers)


def _mae(options: Mae) -> int:
    from robovision.encoders.pretraining import resolve
    from robovision.processes import joined

    job = options.job
    job = dataclasses.replace(job, config=resolve(job.config), images=absolute(job.images), store=absolute(job.store))
    with joined(job.config.device) as processes:
        return _pretrain(options, job, processes)


def _pretrain(options: Mae, job: MaeJob, processes: Processes) -> int:
    from robovision.encoders.pretraining import Pretraining

    began = time.monotonic()
    path = options.resume or options.out or Path("runs") / f"mae-{job.config.encoder}-seed{job.config.seed}"
    folder = _folder(job)
    if options.resume is None and processes.leads:
        Run.create(path, "pretrain mae", job, disk_space(job))
    processes.wait()
    run = Run.open(path)
    if options.resume is not None:
        job = run.config(MaeJob)
        changed = [line.replace("--config.", "--", 1) for line in differences(job, options.job)]
        check_resumed(changed, options.out)
    try:
        with run.lock() if processes.leads else contextlib.nullcontext():
            pictures = _frames(job, run, options.workers, processes) if folder is None else folder
            if processes.leads:
                print(_plan(job, run.path, len(pictures), processes.count))
            metrics = Pretraining(run, job.config, pictures, processes).execute()
    except KeyboardInterrupt:
        print(f"\nstopped; continue with: {program()} pretrain mae --resume {run.path}", file=sys.stderr)
        return 130
    if processes.leads:
        print(_summary(job, run.path, metrics, time.monotonic() - began))
    return 0


def disk_space(job: MaeJob) -> int:
    """Bytes that a run will need at most: frames uncompressed, checkpoints, and 10 MB for the rest."""
    from robovision.encoders.build import build

    frames = 0 if job.images or job.store else job.frames.shards * SHARD * 3 * job.frames.size**2
    parameters = sum(p.numel() for p in build(job.config.encoder, max(job.config.sizes)).parameters())
    return frames + CHECKPOINTS_HELD * 3 * 4 * parameters + 10_000_000


def _folder(job: MaeJob) -> Pictures | None:
    """The images of the folder that is named, if any; looked at before there is a run, which a refusal would leave."""
    from robovision.encoders.pictures import Folder

    return None if job.images is None else Folder(job.images, max(job.config.sizes))


def _frames(job: MaeJob, run: Run, workers: int, processes: Processes) -> Pictures:
    """The rendered frames; the first process renders those that are missing."""
    from tqdm import tqdm

    from robovision.devices import cpu_count
    from robovision.encoders.pictures import Frames
    from robovision.envs.frames import load, render
    from robovision.progress import move

    store = job.store or run.path / "frames"
    if processes.leads:
        with tqdm(total=job.frames.shards * SHARD, desc="frames", unit="frame") as bar:
            lost = render(job.frames, store, workers or cpu_count(), lambda done: move(bar, done))
        if lost:
            tqdm.write(f"{lost} simulator workers were lost and replaced")
    processes.wait()
    return Frames(load(store))


def _plan(job: MaeJob, path: Path, count: int, processes: int) -> str:
    config = job.config
    source = job.images or f"rendered, preset {job.frames.preset}"
    return (
        f"encoder   {config.encoder} at {', '.join(map(str, config.sizes))} px from random weights\n"
        f"images    {count}, {source}; seen {config.steps * config.batch / count:.1f} times each\n"
        f"computes  {config.device}, {config.precision}, {config.threads} threads, {processes} processes\n"
        f"run       {path}"
    )


def _summary(job: MaeJob, path: Path, metrics: Sequence[Metric], seconds: float) -> str:
    shown = "".join(f"  {metric.name:<24} {metric}\n" for metric in metrics)
    return (
        f"\n{shown}"
        f"time       {seconds / 60:.1f} min\n\n"
        f"weights    {path / 'encoder.safetensors'}\n"
        f"look at    {path / 'reconstructions.png'}, {path / 'curve.png'}\n\n"
        f"try next\n"
        f"  {program()} train --encoder.name {job.config.encoder} --encoder.weights {path / 'encoder.safetensors'}"
    )


def _prepare(arguments: list[str]) -> tuple[list[str], Mae]:
    """The defaults of `pretrain mae`: with --resume, those of the run."""
    path = resumed_path(arguments)
    return arguments, Mae() if path is None else Mae(job=Run.open(path, "pretrain mae").config(MaeJob), resume=path)


COMMANDS = {"pretrain mae": Command(Mae, MAE, _mae, _prepare)}
