"""Evaluate detectors on point clouds, simulate a LiDAR, look at point clouds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from robovision.commands import Command, check_workers
from robovision.errors import UsageError
from robovision.lidar.simulate_options import SimulateOptions
from robovision.lidar.view_options import ViewOptions

GROUP = """Detect objects in point clouds, train and evaluate detectors, simulate a LiDAR, look at point clouds.

commands:
  detect     find objects in point clouds, at once with the embedded detector
  train      train a detector on labelled point clouds
  evaluate   score detections by the metrics of KITTI, nuScenes, Waymo, or scene flow
  simulate   write sequences of a simulated LiDAR with exact boxes and flow
  record     write what a robot's LiDAR measures in a simulated task
  view       write bird's-eye pictures of point clouds with boxes, or open a viewer

`robovision lidar COMMAND --help` lists a command's options."""

EVALUATE = """Score detections against ground truth; write numbers, curves and the worst frames.

KITTI's average precision comes twice: R40, the mean over 40 recalls (1/40 to 1), which the benchmark has used since
2019 and detectors are compared by; and R11, over 11 (0 to 1 by 0.1), of earlier papers, often a point or more higher,
since recall 0 counts in it. Never compare one with the other. By its definition a class with n < 41 ground truths can't
come to more than (n - 1)/40 in R40, however good the detections are: the numbers are for whole datasets.

The folders hold, for kitti: one .txt a frame; nuscenes: .json as the devkit writes them, or for the truth the dataset's
own tables; waymo: .parquet as the dataset 2.0 keeps boxes, with a column `score` and, where it is known,
`overlap_with_nlz` (a detection in a no-label zone); flow: one .npz or .feather a sweep.

examples:
  robovision lidar evaluate --metric kitti --truth training/label_2 --detections results
  robovision lidar evaluate --metric nuscenes --truth nuscenes/v1.0-trainval --detections results --out scores"""

SIMULATE = """Write sequences of a simulated LiDAR in streets made by chance, in KITTI's layout, with exact truth.

The same options give the same files. Finished sequences stay when the command is stopped; call it again to go on.

Streets are straight or bend, mostly with a crossing, on ground that slopes and waves. Everybody, and the sensor, stays
upright and follows the ground in height, so that boxes, which turn about z only, hold their points.

A sensor of your own is a JSON file with `elevations` (degrees, ring 0 first) and either `columns` (times that it fires
once around, clockwise from behind) or `azimuths` (degrees, counter-clockwise from ahead, in the order of firing), and
perhaps `rate` (sweeps/s), `reach` ([nearest, farthest] m), `noise` and `dim_noise` (m, where bright and where dim),
`loss` (share of returns), `dimmest` (signal below which they are lost), `incidence` (power of its cosine in intensity),
`fades` ([from, to] m where intensity falls to 0) and `grain` (noise of intensity, 0..1):

  {"elevations": [10, 5, 0, -5, -10, -15], "columns": 900, "rate": 10, "reach": [0.5, 80], "noise": 0.02}

An OS1 has modes of 512x10, 512x20, 1024x10, 1024x20 and 2048x10, columns by sweeps a second.

examples:
  robovision lidar simulate --scenes 2 --frames 5 --out streets
  robovision lidar simulate --scenes 100 --sensor vlp-16 --seed 7 --out vlp
  robovision lidar simulate --sensor os1-128-2048x10 --out ouster
  robovision lidar simulate --sensor mine.json --out mine"""

VIEW = """Write a bird's-eye picture of point clouds with their boxes, or open a viewer.

Clouds: .bin (KITTI), .pcd.bin (nuScenes), .feather (Argoverse 2), .pcd, .ply, .npz, or folders of them. True boxes are
found where KITTI, Argoverse 2 and the simulator have them; else they, and detections, are files or folders with a file
of each cloud's name: .txt (KITTI), .npz, .feather (Argoverse 2), .parquet (Waymo), .json (nuScenes).

examples:
  robovision lidar view training/velodyne/000001.bin
  robovision lidar view training/velodyne/000001.bin --detections results --score 0.3 --range 50
  robovision lidar view lidar-scenes/0000 --out frames
  robovision lidar view lidar-scenes/0000 --rerun street.rrd"""


@dataclass(frozen=True)
class Evaluate:
    """The options of `robovision lidar evaluate`."""

    metric: Literal["kitti", "nuscenes", "waymo", "flow"]
    """Whose definitions."""
    truth: Path
    """The folder with the ground truth."""
    detections: Path
    """The folder with what was detected."""
    out: Path = Path("lidar-evaluation")
    """The folder for results.json, worst.json and precision-recall.png."""


@dataclass(frozen=True)
class Simulate:
    """The options of `robovision lidar simulate`."""

    options: Annotated[SimulateOptions, tyro.conf.arg(name="")] = SimulateOptions()
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores."""
    out: Path = Path("lidar-scenes")
    """The folder; one that was interrupted goes on."""

    def __post_init__(self) -> None:
        check_workers(self.workers)


@dataclass(frozen=True)
class View:
    """The options of `robovision lidar view`."""

    clouds: tyro.conf.Positional[tuple[Path, ...]]
    """Files, or folders of files."""
    options: Annotated[ViewOptions, tyro.conf.arg(name="")] = ViewOptions()
    out: Path = Path("view.png")
    """The picture, a sheet if there are several clouds; a folder gets one picture for each."""
    viewer: Literal["open3d", "rerun"] | None = None
    """Open this viewer instead of writing a picture."""
    rerun: Path | None = None
    """Write a sequence to this Rerun file (.rrd) instead of a picture."""

    def __post_init__(self) -> None:
        if not self.clouds:
            raise UsageError("name at least one point cloud, such as training/velodyne/000000.bin")


def _evaluate(options: Evaluate) -> int:
    from robovision.lidar.evaluate import evaluate

    result = evaluate(options.metric, options.truth, options.detections, options.out)
    print(f"{result.table()}\n\nnumbers and curves are in {options.out}")
    return 0


def _simulate(options: Simulate) -> int:
    from tqdm import tqdm

    from robovision.devices import cpu_count
    from robovision.lidar.simulate import simulate
    from robovision.progress import move

    with tqdm(total=options.options.scenes, desc="sequences", unit="sequence") as bar:
        simulate(options.options, options.out, options.workers or cpu_count(), lambda done: move(bar, done))
    print(f"{options.options.scenes} sequences of {options.options.frames} frames in {options.out}")
    return 0


def _view(options: View) -> int:
    from tqdm import tqdm

    from robovision.lidar import viewers
    from robovision.lidar.frames import find_clouds, read_frame
    from robovision.lidar.view import write_pictures
    from robovision.progress import move

    clouds = find_clouds(options.clouds)
    if options.viewer is not None:
        viewers.need_display()
        viewers.show([read_frame(path, options.options) for path in clouds], options.viewer, options.options.color)
        return 0
    if options.rerun is not None:
        with tqdm(clouds, desc="frames", unit="frame") as bar:
            viewers.write_rerun(
                options.rerun, (read_frame(path, options.options) for path in bar), options.options.color
            )
        print(f"{len(clouds)} frames in {options.rerun}; open it with: rerun {options.rerun}")
        return 0
    with tqdm(total=len(clouds), desc="frames", unit="frame") as bar:
        write_pictures(clouds, options.options, options.out, lambda done: move(bar, done))
    print(f"{len(clouds)} frame{'' if len(clouds) == 1 else 's'} in {options.out}")
    return 0


COMMANDS = {
    "lidar evaluate": Command(Evaluate, EVALUATE, _evaluate),
    "lidar simulate": Command(Simulate, SIMULATE, _simulate),
    "lidar view": Command(View, VIEW, _view),
}
