"""Keypoints: train S-TREK."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robovision.commands import (
    Command,
    absolute,
    check_resumed,
    keypoints_files,
    keypoints_measure,
    program,
    resumed_path,
)
from robovision.keypoints.strek_config import StrekConfig
from robovision.run import Run, differences

GROUP = """Keypoints on images: S-TREK, and SIFT, RootSIFT and ORB beside it.

commands:
  extract    keypoints of folders, globs and videos, for hloc or COLMAP
  match      match two images, verify, draw
  train      train the detector by repeatability, or the descriptor at its points
  evaluate   rotation, HPatches, relative pose: extractors side by side
  export     S-TREK as an ONNX file

`robovision keypoints COMMAND --help` lists a command's options."""

TRAIN = """Train S-TREK's keypoint detector, or its descriptor, on homographies of procedural pictures and photographs.

First the detector, by the repeatability of the points that it draws; then the descriptor, at the detector's points.
That ends in strek.safetensors, both: the other commands take it as --extractor strek=FILE, Python as
robovision.keypoints.load("strek=FILE").

examples:
  robovision keypoints train --images photographs --out runs/detector
  robovision keypoints train --part descriptor --detector-weights runs/detector/detector.safetensors --out runs/strek
  robovision keypoints match a.png b.png --extractor strek=runs/strek/strek.safetensors
  robovision keypoints train --resume runs/detector"""

SPACE = 20_000_000
"""Bytes that a run needs at most."""


@dataclass(frozen=True)
class Train:
    """The options of `robovision keypoints train`."""

    config: Annotated[StrekConfig, tyro.conf.arg(name="")] = StrekConfig()
    out: Path | None = None
    """The run folder; by default a new one under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; the other options must not differ from the run's."""


def _train(options: Train) -> int:
    from robovision.keypoints.training import Training

    run, config = _run(options)
    try:
        with run.lock():
            metrics = Training(run, config).execute()
    except KeyboardInterrupt:
        print(f"\nstopped; continue with: {program()} keypoints train --resume {run.path}", file=sys.stderr)
        return 130
    for metric in metrics:
        print(f"  {metric.name:<24} {metric}")
    written = "detector" if config.part == "detector" else "strek"
    print(f"weights    {run.path / f'{written}.safetensors'}\nlook at    {run.path / 'curve.csv'}")
    return 0


def _run(options: Train) -> tuple[Run, StrekConfig]:
    config = options.config
    if options.resume is None:
        config = dataclasses.replace(
            config, images=absolute(config.images), detector_weights=absolute(config.detector_weights)
        )
        path = options.out or Path("runs") / f"strek-{config.part}-seed{config.seed}"
        return Run.create(path, "keypoints train", config, SPACE), config
    run = Run.open(options.resume)
    check_resumed(differences(run.config(StrekConfig), config), options.out)
    return run, config


def _prepare(arguments: list[str]) -> tuple[list[str], Train]:
    """The defaults of `keypoints train`: with --resume, those of the run."""
    path = resumed_path(arguments)
    return arguments, Train() if path is None else Train(
        config=Run.open(path, "keypoints train").config(StrekConfig), resume=path
    )


COMMANDS = {
    **keypoints_files.COMMANDS,
    **keypoints_measure.COMMANDS,
    "keypoints train": Command(Train, TRAIN, _train, _prepare),
}
