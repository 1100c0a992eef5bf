"""nuScenes' detection files (Caesar et al., 2020): JSON with a list of boxes for each sample, in the global frame.

Both results of a detector and ground truth, as the official devkit serialises it: with `num_pts` (LiDAR and radar
points inside) and `ego_translation` (centre minus place of the car, along the global axes) of every box.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from robovision.errors import UsageError, unknown
from robovision.files import write_atomically
from robovision.lidar.checks import read_bytes
from robovision.lidar.json_members import JsonWalk
from robovision.lidar.rotations import quaternion_to_yaw, yaw_to_quaternion
from robovision.types import Array, Boxes3D

MISSING_SCORE = -1.0
"""What the devkit takes for the score of a box without one, as ground truth is."""

CLASSES = (
    *("car", "truck", "bus", "trailer", "construction_vehicle"),
    *("pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier"),
)
ATTRIBUTES = (
    *("pedestrian.moving", "pedestrian.sitting_lying_down", "pedestrian.standing", "cycle.with_rider"),
    *("cycle.without_rider", "vehicle.moving", "vehicle.parked", "vehicle.stopped"),
)
Row = tuple[str, int, dict[str, Any]]
"""A box: its sample, its number there, and what the file says of it."""

FIELDS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}


@dataclass(frozen=True, eq=False)
class NuScenesBoxes:
    """N boxes of S samples.

    Convention:
        samples: the tokens of the S samples, those without boxes too.
        sample: int64 [N], the sample that each box is in, rising.
        names: text [N], one of `CLASSES` for each box.
        attributes: text [N], one of `ATTRIBUTES` for each box, or nothing.
        translation: float64 [N, 3], geometric centre in the global frame, metres.
        size: float64 [N, 3], width, length, height, metres.
        rotation: float64 [N, 4], quaternion w, x, y, z.
        velocity: float64 [N, 2], metres a second in the global frame; NaN where unknown.
        scores: float64 [N]; -1 in ground truth.
        ego: float64 [N, 3], centre minus place of the car; NaN where the file has none.
        points: int64 [N], points inside; -1 in results.
    """

    samples: tuple[str, ...]
    sample: Array
    names: Array
    attributes: Array
    translation: Array
    size: Array
    rotation: Array
    velocity: Array
    scores: Array
    ego: Array
    points: Array

    def __len__(self) -> int:
        return len(self.names)


def read_nuscenes_boxes(path: Path) -> NuScenesBoxes:
    """Results or ground truth in a JSON file.

    Raises:
        UsageError: naming file, sample and box, if it is no JSON, a field is missing or has the wrong length, a class
            or attribute is unknown, a size is not positive or a number not finite. Velocities may be NaN.
    """
    samples: list[str] = []
    parts = [_columns(path, [])]
    for token, entries in _results(path):
        samples.append(token)
        parts.append(_columns(path, [(token, k, entry) for k, entry in enumerate(entries)]))
    if len(set(samples)) < len(samples):
        twice = next(token for token in samples if samples.count(token) > 1)
        raise UsageError(f"{path}: sample {twice} is there twice; keep one")
    sample = np.repeat(np.arange(len(samples)), [len(part[0]) for part in parts[1:]])
    return NuScenesBoxes(tuple(samples), sample, *(np.concatenate(column) for column in zip(*parts, strict=True)))


def _columns(path: Path, rows: Sequence[Row]) -> tuple[Array, ...]:
    """All of `NuScenesBoxes` behind `sample`, of some boxes."""
    columns = {name: _column(path, rows, name, width) for name, width in FIELDS.items()}
    _refuse(path, rows, (columns["size"] <= 0).any(axis=1), "its size must be positive")
    _refuse(path, rows, ~np.linalg.norm(columns["rotation"], axis=1).astype(bool), "its rotation is no quaternion")
    names = _text(_name(path, row, "detection_name", CLASSES) for row in rows)
    attributes = _text(_name(path, row, "attribute_name", ("", *ATTRIBUTES)) for row in rows)
    scores = _optional(path, rows, "detection_score", MISSING_SCORE)
    _refuse(path, rows, ~np.isfinite(scores), "its detection_score must be finite")
    ego = _optional(path, rows, "ego_translation", (np.nan,) * 3)
    points = _optional(path, rows, "num_pts", -1.0)
    _refuse(path, rows, ~np.isfinite(points), "its num_pts must be a whole number, or left out")
    return names, attributes, *columns.values(), scores, ego, points.astype(np.int64)


def write_nuscenes_boxes(path: Path, boxes: NuScenesBoxes, meta: Mapping[str, bool] | None = None) -> None:
    """Write results (boxes without points) or ground truth; the numbers are read back bit by bit.

    `meta` says what a detector used, such as {"use_lidar": True}, as the benchmark demands it.
    """
    results: dict[str, list[dict[str, Any]]] = {token: [] for token in boxes.samples}
    for n in range(len(boxes)):
        token = boxes.samples[boxes.sample[n]]
        entry = {
            "sample_token": token,
            **{name: getattr(boxes, name)[n].tolist() for name in FIELDS},
            "detection_name": str(boxes.names[n]),
            "detection_score": float(boxes.scores[n]),
            "attribute_name": str(boxes.attributes[n]),
        }
        if np.isfinite(boxes.ego[n]).all():
            entry["ego_translation"] = boxes.ego[n].tolist()
        if boxes.points[n] >= 0:
            entry["num_pts"] = int(boxes.points[n])
        results[token].append(entry)
    uses = {f"use_{name}": False for name in ("camera", "lidar", "radar", "map", "external")}
    with write_atomically(path) as file:
        file.write(json.dumps({"meta": {**uses, **(meta or {})}, "results": results}).encode())


def select(boxes: NuScenesBoxes, wanted: Array) -> NuScenesBoxes:
    """The boxes where `wanted`, bool [N], holds; all samples stay."""
    index = np.flatnonzero(wanted)
    return NuScenesBoxes(boxes.samples, *(getattr(boxes, f.name)[index] for f in fields(boxes)[1:]))


def to_boxes(boxes: NuScenesBoxes, sample: str) -> Boxes3D:
    """The boxes of one sample in the global frame; attributes are left out, and velocities unless all are known."""
    if sample not in boxes.samples:
        raise unknown("sample", sample, boxes.samples)
    index = np.flatnonzero(boxes.sample == boxes.samples.index(sample))
    velocity = boxes.velocity[index]
    return Boxes3D(
        boxes.translation[index],
        boxes.size[index][:, [1, 0, 2]],
        quaternion_to_yaw(boxes.rotation[index]),
        np.array([CLASSES.index(str(boxes.names[i])) for i in index], np.int64),
        CLASSES,
        None if (boxes.scores[index] == -1).all() and len(index) else boxes.scores[index],
        velocity if np.isfinite(velocity).all() else None,
        frame="global",
    )


def from_boxes(boxes: Mapping[str, Boxes3D]) -> NuScenesBoxes:
    """Boxes of samples, by their tokens, as results without attributes.

    Raises:
        UsageError: if a class is none of nuScenes' or boxes are not in the frame `global`.
    """
    for token, part in boxes.items():
        if part.frame != "global":
            raise UsageError(f"sample {token}: nuScenes' results are in the frame 'global', not {part.frame!r}")
        for name in part.classes:
            if name not in CLASSES:
                raise unknown("nuScenes class", name, CLASSES)
    parts = list(boxes.values())
    count = [len(part) for part in parts]
    total = sum(count)
    names = _text(part.classes[label] for part in parts for label in part.labels.tolist())
    unknown_velocity = [np.full((len(p), 2), np.nan) if p.velocities is None else p.velocities for p in parts]
    unknown_score = [np.full(len(p), -1.0) if p.scores is None else p.scores for p in parts]
    return NuScenesBoxes(
        tuple(boxes),
        np.repeat(np.arange(len(parts)), count),
        names,
        _text("" for _ in range(total)),
        _join([part.centers for part in parts], 3),
        _join([part.sizes[:, [1, 0, 2]] for part in parts], 3),
        _join([yaw_to_quaternion(part.yaw.astype(np.float64)) for part in parts], 4),
        _join(unknown_velocity, 2),
        np.concatenate([np.zeros(0), *unknown_score]),
        np.full((total, 3), np.nan),
        np.full(total, -1),
    )


def _text(words: Iterable[str]) -> Array:
    return np.array(list(words), dtype=np.str_)


def _join(parts: Sequence[Array], width: int) -> Array:
    return np.concatenate([np.zeros((0, width)), *parts])


def _results(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The samples of a file with their boxes, one after another: all together would take many times as much memory."""
    found = False
    wanted = f'{path} must hold {{"results": {{sample token: [boxes]}}}}'
    try:
        walk = JsonWalk(read_bytes(path).decode())
        walk.enter()
        while (key := walk.key()) is not None:
            if key != "results":
                walk.value()
                continue
            found = True
            walk.enter()
            while (token := walk.key()) is not None:
                yield token, _boxes(path, token, walk.value())
        walk.end()
    except ValueError as error:
        raise UsageError(f"{wanted}; it is no JSON like that, or is cut off ({error}): write it again") from error
    if not found:
        raise UsageError(wanted)


def _boxes(path: Path, token: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise UsageError(f"{path}, sample {token}: its boxes must be a list of objects")
    return value


def _column(path: Path, rows: Sequence[Row], name: str, width: int) -> Array:
    values = [entry.get(name) for _, _, entry in rows]
    wrong = np.array([not isinstance(v, list) or len(v) != width for v in values], bool)
    _refuse(path, rows, wrong, f"{name} must be {width} numbers")
    try:
        column = np.array(values, np.float64).reshape(-1, width)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {name} must be numbers ({error})") from error
    if name != "velocity":
        _refuse(path, rows, ~np.isfinite(column).all(axis=1), f"{name} must be finite")
    return column


def _optional(path: Path, rows: Sequence[Row], name: str, missing: float | tuple[float, ...]) -> Array:
    """Numbers [N] or [N, 3] that a box may be without."""
    shape = (len(rows), *np.shape(missing))
    try:
        return np.array([entry.get(name, missing) for _, _, entry in rows], np.float64).reshape(shape)
    except (TypeError, ValueError) as error:
        token = rows[0][0] if rows else ""
        raise UsageError(f"{path}, sample {token}: {name} must be {list(shape)} numbers ({error})") from error


def _name(path: Path, row: Row, field: str, valid: Sequence[str]) -> str:
    token, k, entry = row
    name = entry.get(field)
    if name not in valid:
        raise UsageError(f"{path}, sample {token}, box {k}: {unknown(field, str(name), valid)}")
    return str(name)


def _refuse(path: Path, rows: Sequence[Row], wrong: Any, reason: str) -> None:
    if np.any(wrong):
        token, k, _ = rows[int(np.argmax(wrong))]
        raise UsageError(f"{path}, sample {token}, box {k}: {reason}")
