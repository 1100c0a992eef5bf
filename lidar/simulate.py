"""Writes sequences of a simulated LiDAR with exact truth: `robovision lidar simulate`.

A sequence `0007` holds `velodyne/`, `label_2/` and `calib/` as KITTI's object frames, `poses.txt` as its odometry,
`labels.txt` as its tracking labels, `boxes/` with all boxes as NPZ, `flow/` with the exact flow of every point to the
next frame, and `sequence.json`, which is written last: a sequence without it is made again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robovision.envs.workers import WorkerPool
from robovision.errors import UsageError
from robovision.files import cannot_write, write_atomically, write_json
from robovision.lidar.argoverse import select
from robovision.lidar.box_files import write_boxes
from robovision.lidar.checks import read_bytes
from robovision.lidar.clouds import write_cloud
from robovision.lidar.flow_metric import FlowTruth, is_dynamic, write_flow_truth
from robovision.lidar.kitti_calibration import Calibration, boxes_to_objects, write_calibration
from robovision.lidar.kitti_labels import LABEL, KittiObjects, write_objects
from robovision.lidar.kitti_tracking import KittiTracks, write_tracks
from robovision.lidar.sensors import Sensor, make_sensor
from robovision.lidar.simulate_options import SimulateOptions
from robovision.lidar.streets import Street
from robovision.lidar.sweep import Sweep, take_sweep
from robovision.lidar.traffic import EDITION, make_street
from robovision.seeding import derive
from robovision.types import Array, Boxes3D

CALIBRATION = Calibration(
    np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]]),
    np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]]),
)
"""A camera like KITTI's, 27 cm ahead of and 8 cm below the LiDAR."""

MASK = 2.5
"""Metres around the sensor that belong to its own car."""

OCCLUSION = (0.6, 0.2)
"""Shares of a box's points, among those it would have alone, below which it is partly and largely occluded."""


def simulate(options: SimulateOptions, out: Path, workers: int, done: Callable[[int], None]) -> None:
    """Write the sequences that are not complete yet, in parallel; `done` hears how many are complete.

    The same options give the same files, bit by bit, whatever the number of workers.

    Raises:
        UsageError: if the folder holds sequences of other options, or can't be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    _same_options(options, out)
    waiting = [n for n in range(options.scenes) if not _complete(out, n)]
    finished = options.scenes - len(waiting)
    done(finished)
    if not waiting:
        return
    with WorkerPool(partial(_Writer, options, out), min(workers, len(waiting)), timeout=3600.0) as pool:
        for _ in pool.map(waiting):
            finished += 1
            done(finished)


def write_sequence(options: SimulateOptions, out: Path, number: int) -> None:
    """Write one sequence; what an interrupted run left of it is removed first."""
    folder = out / f"{number:04d}"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("velodyne", "label_2", "calib", "boxes", "flow"):
        (folder / name).mkdir(parents=True)
    sensor = make_sensor(options.sensor)
    seconds = (options.frames + 1) / sensor.rate
    street = make_street(np.random.default_rng(derive(options.seed, "street", number)), seconds)
    tracks: list[tuple[int, Array, KittiObjects]] = []
    counts = []
    for frame, (time, sweep) in enumerate(_sweeps(options, street, sensor, number)):
        name = f"{frame:06d}"
        write_cloud(folder / "velodyne" / f"{name}.bin", sweep.cloud)
        boxes, users = _seen(street, time, sweep)
        objects = _objects(sensor, street, boxes, users, sweep)
        write_objects(folder / "label_2" / f"{name}.txt", objects)
        write_calibration(folder / "calib" / f"{name}.txt", CALIBRATION)
        write_boxes(folder / "boxes" / f"{name}.npz", boxes)
        write_flow_truth(folder / "flow" / f"{name}.npz", exact_flow(street, sweep, time, 1 / sensor.rate))
        tracks.append((frame, users, objects))
        counts.append(len(sweep.cloud))
    frames = np.concatenate([np.full(len(users), frame) for frame, users, _ in tracks])
    identities = np.concatenate([users for _, users, _ in tracks])
    objects = KittiObjects.concatenate([found for *_, found in tracks], LABEL)
    write_tracks(folder / "labels.txt", KittiTracks(frames, identities, objects))
    _write_poses(folder / "poses.txt", street, options.frames, sensor.rate)
    write_json(
        folder / "sequence.json", {**_described(options), "edition": EDITION, "number": number, "points": counts}
    )


def exact_flow(street: Street, sweep: Sweep, start: float, seconds: float) -> FlowTruth:
    """Where each point's surface is `seconds` later, in the sensor's frame then, minus where it is, without error.

    A point belongs to the actor that it is on, and moves rigidly with it from the time at which it was measured.
    """
    assert sweep.cloud.time is not None
    actor = street.owner[sweep.shape]
    moving = street.moving[actor]
    now, later = street.ego(np.array([start, start + seconds]))
    back = np.linalg.inv(later)
    xyz = sweep.cloud.xyz.astype(np.float64)
    ego = back @ now - np.eye(4)
    ego_flow = xyz @ ego[:3, :3].T + ego[:3, 3]
    flow = ego_flow.copy()
    riding = np.flatnonzero(moving)
    times = start + sweep.cloud.time[riding].astype(np.float64)
    before, after = (street.motion(actor[riding], when) for when in (times, times + seconds))
    world = xyz[riding] @ now[:3, :3].T + now[:3, 3]
    local = np.einsum("nji,nj->ni", before[:, :3, :3], world - before[:, :3, 3])
    carried = np.einsum("nij,nj->ni", after[:, :3, :3], local) + after[:, :3, 3]
    flow[riding] = carried @ back[:3, :3].T + back[:3, 3] - xyz[riding]
    foreground = np.array([bool(a.name) for a in street.actors])[actor]
    dynamic = is_dynamic(flow, ego_flow, seconds) & moving
    ground = actor == 0
    return FlowTruth(flow.astype(np.float32), foreground, dynamic, ~ground)


def _sweeps(options: SimulateOptions, street: Street, sensor: Sensor, number: int) -> Iterator[tuple[float, Sweep]]:
    for frame in range(options.frames):
        rng = np.random.default_rng(derive(options.seed, "sweep", number, frame))
        start = frame / sensor.rate
        yield start, take_sweep(sensor, street.shapes, street.ego, start, street.albedo, rng, MASK)


def _seen(street: Street, time: float, sweep: Sweep) -> tuple[Boxes3D, Array]:
    """The boxes that at least one point is on, and the numbers of their actors."""
    users = np.array([k for k, actor in enumerate(street.actors) if actor.name], np.int64)
    hit = np.isin(users, street.owner[sweep.shape])
    return select(street.boxes(time), hit), users[hit]


def _expected_points(sensor: Sensor, boxes: Boxes3D) -> Array:
    """Points of an unoccluded road user, float64 [N], about half of the rays to its box's length and height."""
    x, y, z = boxes.centers.astype(np.float64).T
    distance = np.maximum(np.hypot(x, y), 1)
    low, high = (np.arctan2(z + end * boxes.sizes[:, 2] / 2, distance)[:, None] for end in (-1, 1))
    rows = ((sensor.elevations >= low) & (sensor.elevations <= high)).sum(axis=1)
    columns = len(sensor.azimuths) / max(np.ptp(sensor.azimuths), 1e-3) * boxes.sizes[:, 0] / distance
    expected: Array = 0.5 * rows * columns
    return expected


def _objects(sensor: Sensor, street: Street, boxes: Boxes3D, users: Array, sweep: Sweep) -> KittiObjects:
    """KITTI's labels of the boxes of actors `users`: one with few points of those it would have alone is occluded."""
    objects = boxes_to_objects(boxes, CALIBRATION)
    inside = np.bincount(street.owner[sweep.shape], minlength=len(street.actors))[users]
    share = inside / np.maximum(_expected_points(sensor, boxes), 1)
    values = objects.values.copy()
    values[:, 1] = (share[:, None] < np.array(OCCLUSION)).sum(axis=1)
    return KittiObjects(objects.names, values)


def _write_poses(path: Path, street: Street, frames: int, rate: float) -> None:
    """The sensor's poses, each as 12 numbers a line, in its frame at the start."""
    poses = street.ego(np.arange(frames) / rate)
    relative = np.linalg.inv(poses[0]) @ poses
    lines = [" ".join(map(repr, pose[:3].ravel().tolist())) for pose in relative]
    with write_atomically(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _complete(out: Path, number: int) -> bool:
    return (out / f"{number:04d}" / "sequence.json").exists()


def _same_options(options: SimulateOptions, out: Path) -> None:
    """Refuse to add to a folder of other options, or of an earlier edition; more or fewer scenes are welcome."""
    for path in sorted(out.glob("[0-9]*/sequence.json"))[:1]:
        before = _read_sequence(path)
        for name, value in _described(options).items():
            if name != "scenes" and before.get(name) != value:
                found = f"{out} holds sequences of {name} {before.get(name)}, not {value}"
                raise UsageError(f"{found}; choose another --out")
        whole = all(_complete(out, n) for n in range(options.scenes))
        if before.get("edition") != EDITION and not whole:
            raise UsageError(f"{out} holds streets of another version of robovision; choose another --out")


def _read_sequence(path: Path) -> dict[str, Any]:
    """What the file of a finished sequence says."""
    try:
        said = json.loads(read_bytes(path))
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise UsageError(f"{path} is damaged; remove {path.parent}, and it is made again")
    return said


def _described(options: SimulateOptions) -> dict[str, Any]:
    """The options, with what the sensor's file says in place of its name."""
    described = asdict(options)
    if options.sensor.lower().endswith(".json"):
        described["sensor"] = json.loads(Path(options.sensor).read_bytes())
    return described


class _Writer:
    """A worker's job: writes sequence after sequence."""

    def __init__(self, options: SimulateOptions, out: Path) -> None:
        torch.set_num_threads(1)
        self._options, self._out = options, out

    def __call__(self, number: int) -> int:
        write_sequence(self._options, self._out, number)
        return number

    def close(self) -> None:
        pass
