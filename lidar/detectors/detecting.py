"""Detection in files: boxes, KITTI results, pictures and a video: `robovision lidar detect`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robovision import weights
from robovision.errors import UsageError
from robovision.files import make_folder
from robovision.lidar.argoverse import select
from robovision.lidar.birdseye import Window, write_picture
from robovision.lidar.box_files import write_boxes
from robovision.lidar.detectors.config import DetectorConfig
from robovision.lidar.detectors.detector import Detector, detect, ground_level
from robovision.lidar.detectors.files import load_detector
from robovision.lidar.detectors.folding import fold
from robovision.lidar.detectors.models import make_config
from robovision.lidar.detectors.openpcdet import load_openpcdet
from robovision.lidar.frames import Frame, read_frame, stem
from robovision.lidar.kitti_calibration import Calibration, boxes_to_objects, read_calibration
from robovision.lidar.kitti_labels import CLASSES, KittiObjects, write_objects
from robovision.lidar.simulate import CALIBRATION
from robovision.types import Array, Boxes3D

EMBEDDED = "lidar-small-sim"
"""The detector that the package carries."""
FPS = 10
"""Sweeps of a LiDAR in a second."""


@dataclass(frozen=True)
class Outputs:
    """What is written, beside the boxes."""

    score: float
    """The least score of what is written and drawn."""
    ground: float | None
    """Height of the ground in the clouds, metres; None: found in each."""
    pictures: bool = True
    """Bird's-eye pictures and, of several clouds, a video."""


def choose_detector(path: Path | None, model: str | None) -> Detector:
    """The embedded detector, that in a file of this library, or with a model's name that in OpenPCDet's checkpoint;
    folded, as it is not to be trained.

    Raises:
        UsageError: if it can't be read, or is another model.
    """
    if path is None:
        return fold(load_detector(weights.find(EMBEDDED)))
    if model is not None:
        return fold(load_openpcdet(path, make_config(model)))
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: a checkpoint of OpenPCDet needs its model, such as --model pointpillars")
    return fold(load_detector(path))


@dataclass(frozen=True)
class Summary:
    """What came of several clouds."""

    objects: int
    """How many were found in all."""
    clouds: int
    """How many could be read."""
    unread: tuple[str, ...]
    """Of each of the others, its path and why."""


def detect_files(
    detector: Detector, clouds: Sequence[Path], outputs: Outputs, out: Path, done: Callable[[int], None]
) -> Summary:
    """Detect in each cloud and write what is found. `done` hears of each cloud; one that can't be read is passed over.

    The folder gets `boxes` (.npz, in the cloud's frame), and if the classes are KITTI's `results` (.txt, by the
    calibration beside the cloud, else a camera like KITTI's), `pictures` and `video.mp4`.

    Raises:
        UsageError: if no cloud can be read, a file can't be written, or two clouds have the same name.
    """
    names = [stem(path) for path in clouds]
    if len(set(names)) < len(names):
        raise UsageError("several clouds have the same name, and their results would too; detect in them one by one")
    kitti = set(detector.config.classes) <= set(CLASSES)
    for name in ("boxes", *(["results"] if kitti else []), *(["pictures"] if outputs.pictures else [])):
        make_folder(out / name)
    total = 0
    unread: dict[str, str] = {}
    for count, (path, name) in enumerate(zip(clouds, names, strict=True), 1):
        try:
            frame, calibration = find(detector, path, outputs), _calibration(path)
        except UsageError as error:
            unread[name] = str(error) if str(path) in str(error) else f"{path}: {error}"
            done(count)
            continue
        assert frame.detections is not None
        write_boxes(out / "boxes" / f"{name}.npz", frame.detections)
        if kitti:
            write_objects(out / "results" / f"{name}.txt", in_image(frame.detections, calibration))
        if outputs.pictures:
            write_picture(out / "pictures" / f"{name}.png", [frame], window=_window(detector.config))
        total += len(frame.detections)
        done(count)
    if len(unread) == len(clouds):
        raise UsageError("\n".join(unread.values()))
    drawn = [out / "pictures" / f"{name}.png" for name in names if name not in unread]
    if outputs.pictures and len(drawn) > 1:
        write_video(out / "video.mp4", drawn)
    return Summary(total, len(clouds) - len(unread), tuple(unread.values()))


def find(detector: Detector, path: Path, outputs: Outputs) -> Frame:
    """A cloud with what is found in it, and with its truth where it is known; warns if no point can be seen."""
    frame = read_frame(path)
    ground = ground_level(frame.cloud) if outputs.ground is None else outputs.ground
    grid = detector.config.grid
    lifted = frame.cloud.xyz + np.array([0, 0, detector.config.ground - ground], np.float32)
    if not len(lifted):
        warnings.warn(f"{path} holds no points, so nothing is found", stacklevel=2)
    elif not grid.holds(lifted).any():
        warnings.warn(
            f"{path}: none of {len(frame.cloud)} points lies where this detector looks, {grid.low} to {grid.high} m "
            "around the sensor, so nothing is found; are the points in metres, in the LiDAR's frame?",
            stacklevel=2,
        )
    try:
        found = detect(detector, frame.cloud, ground)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; use a detector that was trained with --no-intensity") from error
    return Frame(frame.name, frame.cloud, frame.truth, _sure(found, outputs.score))


def in_image(found: Boxes3D, calibration: Calibration) -> KittiObjects:
    """The boxes that the left colour camera sees, where alone KITTI judges, as its objects."""
    objects = boxes_to_objects(found, calibration)
    shown = (objects.rectangles[:, 2:] > objects.rectangles[:, :2]).all(axis=1) & (objects.locations[:, 2] > 0)
    return KittiObjects(tuple(np.array(objects.names, dtype=object)[shown]), objects.values[shown])


def write_video(path: Path, pictures: Sequence[Path]) -> None:
    """An MP4 (H.264) of pictures in order, of the first one's size.

    Raises:
        UsageError: if it can't be written.
    """
    import av
    from PIL import Image

    with Image.open(pictures[0]) as first:
        width, height = (side // 2 * 2 for side in first.size)
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for picture in pictures:
                with Image.open(picture) as image:
                    pixels: Array = np.asarray(image.convert("RGB").resize((width, height)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise UsageError(f"can't write the video {path}: {error}") from error


def _sure(found: Boxes3D, score: float) -> Boxes3D:
    assert found.scores is not None
    return select(found, found.scores >= score)


def _window(config: DetectorConfig) -> Window:
    low, high = config.grid.low, config.grid.high
    return Window(low[0], high[0], low[1], high[1])


def _calibration(path: Path) -> Calibration:
    beside = path.parent.parent / "calib" / f"{stem(path)}.txt"
    return read_calibration(beside) if beside.is_file() else CALIBRATION
