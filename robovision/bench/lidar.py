"""Seconds and memory of KITTI's evaluation, overlaps beside shapely, rays beside MuJoCo and Open3D, sweeps a second."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from robovision.bench import detectors, lidar_memory
from robovision.bench.timing import compare, markdown, peak_megabytes
from robovision.errors import UsageError
from robovision.lidar.boxes import bev_iou, corners
from robovision.lidar.fans import Hits, cast_fans
from robovision.lidar.kitti_calibration import boxes_to_objects
from robovision.lidar.kitti_labels import write_objects
from robovision.lidar.kitti_metric import curves, evaluate, read_folders
from robovision.lidar.mujoco_rays import Open3DScene, import_open3d
from robovision.lidar.primitives import cast
from robovision.lidar.report import files_of
from robovision.lidar.sensors import Sensor, make_sensor
from robovision.lidar.simulate import CALIBRATION, write_sequence
from robovision.lidar.simulate_options import SimulateOptions
from robovision.lidar.streets import CLASSES, Street
from robovision.lidar.sweep import sensor_fans
from robovision.lidar.traffic import make_street
from robovision.types import Array, Boxes3D

FRAMES = (242, 3769)
"""How many frames are evaluated: as many as KITTI's validation split has, and a few of them."""
FOLDERS = ("label_2", "pred")
BOXES = 1000
SAMPLE = 10
"""Rows of the table of overlaps that shapely computes; its time is scaled to all of them."""
SENSOR = "hdl-64e"
TURN = 0.3
"""Seconds that the rays of each way take turns for: sweep after sweep, as in a simulation."""
SWEEPS = 5
"""Frames of the sequence that is written."""

Table = Array
"""Boxes [N, 7], as in `robovision.lidar.boxes`."""


def table(data: Path | None, rounds: int, progress: Callable[[int], None]) -> Iterator[str]:
    """The tables, each as soon as it is measured; `progress` is told how many of `count` measurements are done."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts: list[Callable[[], str]] = [
            lambda: evaluation(data, rounds),
            lambda: lidar_memory.table(FRAMES),
            overlaps,
            lambda: rays(rounds),
            sweeps,
            lambda: detectors.table(rounds),
        ]
        for done, part in enumerate(parts, 1):
            text = part()
            progress(done)
            yield text
    finally:
        torch.set_num_threads(threads)


def count() -> int:
    """How many measurements `table` makes."""
    return 6


def check(data: Path | None) -> None:
    """Raise UsageError unless a folder with real frames holds ground truth and detections."""
    for name in FOLDERS:
        if data is not None and not (data / name).is_dir():
            raise UsageError(
                f"{data} has no folder {name}; --data needs label_2 with ground truth, pred with detections"
            )


def evaluation(data: Path | None, rounds: int) -> str:
    """Seconds and peak memory of KITTI's evaluation over the number of frames."""
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        texts = _made_frames() if data is None else _real_frames(data)
        for frames in FRAMES:
            _tile(texts, frames, folder)
            truth, found = (folder / part for part in FOLDERS)
            seconds = compare({"ours": lambda: evaluate(truth, found)}, rounds, clock=time.process_time)["ours"].seconds  # noqa: B023
            scenes = read_folders(truth, found)
            peak = peak_megabytes(lambda: curves(*scenes))  # noqa: B023
            held = sum(scene.objects.values.nbytes for scene in scenes) / 1e6
            memory = "-" if peak is None else f"{peak:.0f}"
            rows.append([str(frames), str(len(scenes[1].frame)), f"{seconds:.2f}", f"{held:.1f}", memory])
    heads = ("frames", "detections", "seconds", "truth and detections, MB", "peak beside them, MB")
    source = "made" if data is None else f"the {len(texts)} in {data.name}"
    return f"KITTI's evaluation, frames: {source}, repeated\n\n" + markdown(heads, rows)


def overlaps() -> str:
    """Overlaps of crowded boxes on the ground, beside shapely."""
    if importlib.util.find_spec("shapely") is None:
        return "overlaps are compared with shapely's; pip install shapely"
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(crowd(rng)) for _ in range(2))
    ours = bev_iou(a, b).numpy()
    theirs, polygons = _shapely_loop(a[:SAMPLE], b), _polygons(torch.cat([a[:SAMPLE], b]))
    speeds = compare(
        {
            "loop": lambda: _shapely_loop(a[:SAMPLE], b),
            "arrays": lambda: _shapely_arrays(polygons[:SAMPLE, None], polygons[None, SAMPLE:]),
            "ours": lambda: bev_iou(a, b),
        },
        rounds=3,
        clock=time.process_time,
    )
    scale = BOXES / SAMPLE
    times = {name: s.seconds * (1 if name == "ours" else scale) for name, s in speeds.items()}
    names = {"loop": "shapely, pair by pair", "arrays": "shapely, arrays of polygons", "ours": "robovision"}
    rows = [[names[n], f"{times[n]:.2f}", f"{times['loop'] / times[n]:.1f}x"] for n in names]
    difference = np.abs(ours[:SAMPLE] - theirs).max()
    return (
        f"Overlap of {BOXES} x {BOXES} boxes on the ground, {np.mean(ours > 0):.0%} of the pairs overlap; greatest "
        f"difference {difference:.1e}; shapely: {SAMPLE} rows, scaled\n\n" + markdown(("way", "seconds", "ratio"), rows)
    )


def rays(rounds: int) -> str:
    """A sweep's rays in a street, beside MuJoCo's and Open3D's."""
    import mujoco

    street = make_street(np.random.default_rng(0))
    model = mujoco.MjModel.from_xml_string(street.mjcf())
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    sensor = make_sensor(SENSOR)
    directions = sensor.directions()
    origin = street.ego(np.zeros(1))[0, :3, 3]
    found, index = np.zeros(len(directions)), np.zeros(len(directions), np.int32)
    vectors = directions.astype(np.float64).ravel()

    def multi() -> Any:
        mujoco.mj_multiRay(model, data, origin, vectors, None, 1, -1, index, found, len(directions), mujoco.mjMAXVAL)

    ways: dict[str, Callable[[], Any]] = {"MuJoCo, mj_multiRay": multi}
    single = np.zeros(1, np.int32)
    some = directions[::100].astype(np.float64)
    ways["MuJoCo, mj_ray"] = lambda: [mujoco.mj_ray(model, data, origin, ray, None, 1, -1, single) for ray in some]
    with contextlib.suppress(UsageError):
        import_open3d()
        starts = np.tile(origin.astype(np.float32), (len(directions), 1))
        scene = Open3DScene(model, data)
        ways["Open3D, scene made before"] = lambda: scene.cast(starts, directions)
    ours = _our_rays(street, origin, sensor)
    ways |= ours
    speeds = compare(ways, rounds, clock=time.process_time, least=TURN)
    rows = []
    for name, speed in speeds.items():
        cast_rays = len(some) if name == "MuJoCo, mj_ray" else len(directions)
        ratio = speed.ratio * cast_rays / len(directions)
        rows.append([name, f"{cast_rays / speed.seconds / 1e6:.2f}", f"{ratio:.1f}x"])
    wanted = np.array([mujoco.mj_ray(model, data, origin, ray, None, 1, -1, single) for ray in some])
    wanted[wanted < 0] = np.inf
    shares = [f"{name}: {_same(way()[0].numpy().ravel()[::100], wanted):.2%}" for name, way in ours.items()]
    return (
        f"{len(directions):,} rays of {SENSOR} from one place in a street of {len(street.actors)} things "
        f"({model.ngeom} shapes); as far as by mj_ray within 1 cm: {', '.join(shares)}\n\n"
        + markdown(("way", "million rays/s", "ratio"), rows)
    )


def sweeps() -> str:
    """Sweeps a second of `robovision lidar simulate`, everything included, in one process."""
    options = SimulateOptions(scenes=1, frames=SWEEPS, sensor=SENSOR)
    with TemporaryDirectory() as name:
        out = Path(name)
        speed = compare({"ours": lambda: write_sequence(options, out, 0)}, 3, clock=time.process_time)["ours"]
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6 / SWEEPS
    rows = [[options.sensor, f"{SWEEPS / speed.seconds:.1f}", f"{size:.1f}"]]
    return "robovision lidar simulate, one core: rays, boxes, flow and files\n\n" + markdown(
        ("sensor", "sweeps/s", "MB a sweep"), rows
    )


def crowd(rng: np.random.Generator) -> Table:
    """Boxes of the size of cars on 12 x 12 metres, turned every way."""
    place = rng.uniform([-6, -6, -1], [6, 6, 1], (BOXES, 3))
    sizes = rng.uniform([3, 1.4, 1.3], [5, 2.2, 2], (BOXES, 3))
    return np.column_stack([place, sizes, rng.uniform(-np.pi, np.pi, BOXES)])


def _our_rays(street: Street, origin: Array, sensor: Sensor) -> dict[str, Callable[[], Any]]:
    shapes, directions = street.shapes(0.0), sensor.directions()
    starts = torch.from_numpy(origin.astype(np.float32)).expand(len(directions), 3)
    steps = torch.from_numpy(directions)
    pose = np.tile(np.eye(4), (len(sensor.azimuths), 1, 1))
    pose[:, :3, 3] = origin
    fans = sensor_fans(sensor, pose)
    return {
        "robovision, any rays": lambda: cast(shapes, starts, steps),
        "robovision, a sensor's rays": lambda: _distances(cast_fans([shapes], fans)),
        "robovision, a sensor's rays, with incidence": lambda: _with_incidence(cast_fans([shapes], fans)),
    }


def _distances(hits: Hits) -> tuple[torch.Tensor, torch.Tensor]:
    return hits.distance, hits.index


def _with_incidence(hits: Hits) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return *_distances(hits), hits.facing()


def _same(ours: Array, wanted: Array) -> float:
    with np.errstate(invalid="ignore"):
        same = (np.abs(ours - wanted) <= 0.01) | (np.isinf(ours) & np.isinf(wanted))
    return float(same.mean())


def _polygons(boxes: torch.Tensor) -> Array:
    import shapely  # type: ignore[import-untyped, unused-ignore]

    return np.asarray(shapely.polygons(corners(boxes)[:, :4, :2].numpy()))


def _shapely_loop(a: torch.Tensor, b: torch.Tensor) -> Array:
    """Overlaps [N, M], one pair after the other."""
    from shapely.geometry import Polygon  # type: ignore[import-untyped, unused-ignore]

    ours, theirs = ([Polygon(c) for c in corners(boxes)[:, :4, :2].numpy()] for boxes in (a, b))
    result = np.zeros((len(a), len(b)))
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            shared = one.intersection(other).area
            result[i, j] = shared / (one.area + other.area - shared)
    return result


def _shapely_arrays(a: Array, b: Array) -> Array:
    import shapely  # type: ignore[import-untyped, unused-ignore]

    shared = shapely.area(shapely.intersection(a, b))
    ratio: Array = shared / (shapely.area(a) + shapely.area(b) - shared)
    return ratio


def _real_frames(data: Path) -> list[tuple[bytes, bytes]]:
    names = [path.name for path in files_of(data / FOLDERS[0], "*.txt")]
    return [tuple((data / folder / name).read_bytes() for folder in FOLDERS) for name in names]  # type: ignore[misc]


def _made_frames() -> list[tuple[bytes, bytes]]:
    """Text of ground truth and of detections: the same boxes, moved a little, and some that are not there."""
    rng = np.random.default_rng(0)
    texts = []
    with TemporaryDirectory() as name:
        path = Path(name) / "objects.txt"
        for _ in range(FRAMES[0]):
            truth = _in_front(rng, int(rng.integers(2, 11)))
            moved = truth + np.append(rng.normal(0, 0.1, 6), rng.normal(0, 0.05))
            both = []
            for boxes, scored in ((truth, False), (np.concatenate([moved, _in_front(rng, 3)]), True)):
                labels = np.arange(len(boxes)) % len(CLASSES)
                scores = rng.random(len(boxes)) if scored else None
                things = Boxes3D(boxes[:, :3], np.abs(boxes[:, 3:6]), boxes[:, 6], labels, CLASSES, scores)
                write_objects(path, boxes_to_objects(things, CALIBRATION))
                both.append(path.read_bytes())
            texts.append((both[0], both[1]))
    return texts


def _in_front(rng: np.random.Generator, number: int) -> Table:
    place = rng.uniform([6, -10, -1], [50, 10, 0], (number, 3))
    sizes = rng.uniform([3, 1.4, 1.3], [5, 2.2, 2], (number, 3))
    return np.column_stack([place, sizes, rng.uniform(-np.pi, np.pi, number)])


def _tile(texts: list[tuple[bytes, bytes]], frames: int, folder: Path) -> None:
    """Write that many frames, the given ones over and over."""
    for part, name in enumerate(FOLDERS):
        (folder / name).mkdir(exist_ok=True)
        for frame in range(frames):
            (folder / name / f"{frame:06d}.txt").write_bytes(texts[frame % len(texts)][part])
