"""`robovision bench envs | encoders | lidar`: speed beside what a user would pick instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from robovision.commands import Command
from robovision.devices import Device
from robovision.errors import UsageError
from robovision.files import make_folder, write_atomically

ENVS = """Frames a second of each rendering preset against the simulator's own way, single and vectorised.

The ways take turns in one process, and a ratio is the median over the turns: other work on the machine slows them
alike. Four tables in Markdown: one environment; one for each core, beside Gymnasium's AsyncVectorEnv; one worker for
each core against one; and what our environment adds to a step without pictures. All take some minutes on two idle
cores.

examples:
  robovision bench envs --out envs.md
  robovision bench envs metaworld/hammer dmc/cheetah-run --sizes 128"""


@dataclass(frozen=True)
class Envs:
    """The options of `robovision bench envs`."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which tasks; without any, two of MetaWorld, Adroit and the control suite, and one of Gymnasium."""
    sizes: tuple[int, ...] = (84, 224)
    """Sides of the images in pixels."""
    rounds: int = 5
    """How often each way takes its turn."""
    out: Path | None = None
    """A file that gets the tables too, each as soon as it is measured; what it held before is replaced."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")
        if not self.sizes:
            raise UsageError("--sizes must name at least one size")


def _envs(options: Envs) -> int:
    from tqdm import tqdm

    from robovision.bench import envs
    from robovision.progress import move

    tasks, light = options.tasks or envs.TASKS, () if options.tasks else envs.LIGHT
    envs.check(tasks)
    with tqdm(total=envs.count(tasks, light, options.sizes), desc="measurements", leave=False) as bar:
        _show(envs.table(tasks, light, options.sizes, options.rounds, lambda done: move(bar, done)), options.out)
    return 0


ENCODERS = """Images a second of the encoders against those of transformers, forward and with backward, in float32 and
bfloat16; what CoIn adds to the time; and the peak memory of a pass.

All weights are random. The ways take turns in one process, and a ratio is the median over the turns. Prints tables in
Markdown: the ViTs of CLIP, DINOv2 and the rest, ResNet-50, LookHere, NAT, Swin, CoSwin, DualToken-ViT and SMoE; in all
some minutes on two idle cores.

examples:
  robovision bench encoders --out encoders.md
  robovision bench encoders vit-base dinov2-vit-b14 --size 224 --batch 16"""


@dataclass(frozen=True)
class Encoders:
    """The options of `robovision bench encoders`."""

    encoders: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which encoders; without any, the usual ones at the sizes at which they are used."""
    size: int = 224
    """Side of the images in pixels, for the encoders that are named."""
    batch: int = 8
    """Images in one pass, for the encoders that are named."""
    rounds: int = 5
    """How often each way takes its turn."""
    device: Device = "auto"
    """Where; auto: on a GPU if there is one."""
    out: Path | None = None
    """A file that gets the tables too, each as soon as it is measured; what it held before is replaced."""

    def __post_init__(self) -> None:
        for name in ("batch", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} must be at least 1, got {getattr(self, name)}")


def _encoders(options: Encoders) -> int:
    from tqdm import tqdm

    from robovision.bench import encoders

    cases = [encoders.Case(name, options.size, options.batch) for name in options.encoders] or encoders.CASES
    encoders.check(cases)
    with tqdm(total=encoders.count(cases), desc="measurements", leave=False) as bar:
        _show(encoders.table(cases, options.rounds, options.device, bar.update), options.out)
    return 0


LIDAR = """KITTI's evaluation, overlaps of boxes against shapely, rays against MuJoCo and Open3D, simulated sweeps;
voxels, sparse convolutions (against spconv, where it is installed, and dense ones) and whole detectors, with memory.

The detectors run on all cores and are timed by the clock. All else runs on one core, and times are those that the core
works for it. The ways take turns in one process, and a
ratio is the median over the turns. Prints tables in Markdown.

examples:
  robovision bench lidar
  robovision bench lidar --data kitti_eval"""


@dataclass(frozen=True)
class Lidar:
    """The options of `robovision bench lidar`."""

    data: Path | None = None
    """A folder with real frames to evaluate, ground truth in label_2/ and detections in pred/; else they are made."""
    rounds: int = 5
    """How often each way takes its turn."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")


def _lidar(options: Lidar) -> int:
    from tqdm import tqdm

    from robovision.bench import lidar
    from robovision.progress import move

    lidar.check(options.data)
    with tqdm(total=lidar.count(), desc="measurements", leave=False) as bar:
        for text in lidar.table(options.data, options.rounds, lambda done: move(bar, done)):
            tqdm.write(f"{text}\n")
    return 0


def _show(tables: Iterable[str], out: Path | None) -> None:
    """Print tables, and write them to a file, each as soon as it is there."""
    from tqdm import tqdm

    if out is not None:
        make_folder(out.parent)
    texts: list[str] = []
    for text in tables:
        tqdm.write(f"{text}\n")
        texts.append(f"{text}\n")
        if out is not None:
            with write_atomically(out) as file:
                file.write("\n".join(texts).encode())


COMMANDS = {
    "bench envs": Command(Envs, ENVS, _envs),
    "bench encoders": Command(Encoders, ENCODERS, _encoders),
    "bench lidar": Command(Lidar, LIDAR, _lidar),
}
