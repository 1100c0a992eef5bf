from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from robovision.errors import UsageError
from robovision.lidar import kitti_matching
from robovision.lidar.boxes import bev_iou, iou_3d, rectangle_coverage, rectangle_iou
from robovision.lidar.kitti_counts import CLASSES, DIFFICULTIES, sample_thresholds
from robovision.lidar.kitti_labels import DETECTION, LABEL, KittiObjects
from robovision.lidar.kitti_matching import KINDS, Scene, pairs_within_frames
from robovision.lidar.kitti_metric import curves, evaluate, evaluation, read_folders

DATA = Path(os.environ.get("ROBOVISION_DATA", Path(__file__).parents[2] / "shared" / "data")) / "lidar" / "kitti_eval"

CAR = "Car 0 0 0.1 100 100 200 200 1.5 1.6 4 2 1.5 20 0.2"
FOUND = "Car -1 -1 0.1 100 100 200 200 1.5 1.6 4 2 1.5 20 0.2 0.9"


def folders(tmp_path: Path, truth: list[str], detections: list[str]) -> tuple[Path, Path]:
    """Two folders with a frame for each text."""
    for name, texts in (("truth", truth), ("detections", detections)):
        (tmp_path / name).mkdir(exist_ok=True)
        for frame, text in enumerate(texts):
            (tmp_path / name / f"{frame:06d}.txt").write_text(text)
    return tmp_path / "truth", tmp_path / "detections"


def scores(tmp_path: Path, truth: list[str], detections: list[str]) -> dict[str, float]:
    return {metric.name: metric.value for metric in evaluate(*folders(tmp_path, truth, detections))}


def test_real_detections_score_what_two_reference_evaluators_say() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no real data: {DATA} is missing; set ROBOVISION_DATA")
    metrics = evaluate(DATA / "label_2", DATA / "pred")
    found = {metric.name: metric.value for metric in metrics}
    expected = json.loads((DATA / "expected.json").read_text())
    assert len(found) == len(metrics) == 72
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-3), name
    assert {metric.unit for metric in metrics} == {"%"}


def naive(truth: Scene, found: Scene, kind: str, wanted: int, level: int) -> list[tuple[float, float, float]]:
    """Score threshold, precision before the envelope and orientation similarity, one loop inside the other."""
    cls, difficulty = CLASSES[wanted], DIFFICULTIES[level]
    frames = [
        Frame(truth.select(truth.frame == f).objects, found.select(found.frame == f).objects, kind, cls, difficulty)
        for f in range(int(truth.frame.max()) + 1)
    ]
    hits = [score for frame in frames for score in frame.match(None)[2]]
    count = sum(int((frame.truth_state == 0).sum()) for frame in frames)
    result = []
    for threshold in sample_thresholds(np.array(hits), count):
        totals = np.sum([(m[0], m[1], m[3]) for m in (frame.match(threshold) for frame in frames)], axis=0)
        result.append((threshold, totals[0] / max(1, totals[0] + totals[1]), totals[2] / max(1, totals[0] + totals[1])))
    return result


class Frame:
    """One frame as the benchmark's program walks it; states: 0 counts, 1 is ignored, -1 is not there."""

    def __init__(self, truth: KittiObjects, found: KittiObjects, kind: str, cls: object, difficulty: object) -> None:
        name, neighbour, self.minimum = cls.name, cls.neighbour, cls.overlap  # type: ignore[attr-defined]
        self.truth, self.found, self.kind = truth, found, kind
        states = []
        for i, other in enumerate(truth.names):
            hard = truth.occlusion[i] > difficulty.occlusion or truth.truncation[i] > difficulty.truncation  # type: ignore[attr-defined]
            low = truth.rectangles[i, 3] - truth.rectangles[i, 1] <= difficulty.height  # type: ignore[attr-defined]
            states.append((1 if hard or low else 0) if other == name else 1 if other == neighbour else -1)
        self.truth_state = np.array(states, dtype=int)
        height = found.rectangles[:, 3] - found.rectangles[:, 1]
        right = np.array([0 if other == name else -1 for other in found.names], dtype=int)
        self.found_state = np.where(height < difficulty.height, 1, right)  # type: ignore[attr-defined]

        if kind == "image":
            a, b = torch.tensor(truth.rectangles)[:, None], torch.tensor(found.rectangles)[None]
            self.overlaps = rectangle_iou(a, b).tolist()
        else:
            boxes = [[camera_box(o, n) for n in range(len(o))] for o in (truth, found)]
            a, b = (torch.tensor(rows, dtype=torch.float64).reshape(-1, 7) for rows in boxes)
            self.overlaps = (bev_iou(a, b) if kind == "bev" else iou_3d(a, b)).tolist()

    def match(self, threshold: float | None) -> tuple[int, int, list[float], float]:
        """Right, wrong, scores of right ones, similarity; None looks for the scores."""
        score = self.found.values[:, -1]
        out = (self.found_state == -1) | (score < (-np.inf if threshold is None else threshold))
        taken = out.copy()
        hits: list[float] = []
        similarity = 0.0
        for i in np.flatnonzero(self.truth_state >= 0):
            best, value = -1, -np.inf
            for j in np.flatnonzero(~taken):
                overlap = self.overlaps[i][j]
                rank = score[j] if threshold is None else overlap if self.found_state[j] == 0 else -1.0
                if overlap > self.minimum and rank > value:
                    best, value = int(j), float(rank)
            if best < 0:
                continue
            taken[best] = True
            if self.truth_state[i] == 0 and self.found_state[best] == 0:
                hits.append(float(score[best]))
                similarity += (1 + np.cos(self.truth.alpha[i] - self.found.alpha[best])) / 2
        left = [j for j in np.flatnonzero(~taken) if self.found_state[j] == 0 and not self.unknown(int(j))]
        return len(hits), len(left), hits, similarity

    def unknown(self, j: int) -> bool:
        areas = [r for n, r in zip(self.truth.names, self.truth.rectangles, strict=True) if n == "DontCare"]
        mine = torch.tensor(self.found.rectangles[j])
        shares = [rectangle_coverage(mine, torch.tensor(area)).item() for area in areas]
        return self.kind == "image" and max(shares, default=0.0) > self.minimum


def camera_box(objects: KittiObjects, n: int) -> list[float]:
    (h, w, length), (x, y, z) = objects.sizes[n].tolist(), objects.locations[n].tolist()
    return [x, z, h / 2 - y, length, w, h, -float(objects.rotation_y[n])]


def crowded(seed: int, frames: int = 12) -> tuple[Scene, Scene]:
    """Frames in which objects overlap each other, with tied scores, small and foreign detections, unknown areas."""
    generator = np.random.default_rng(seed)
    names = ("Car", "Car", "Car", "Van", "Pedestrian", "Pedestrian", "Person_sitting", "Cyclist", "Truck", "DontCare")
    rows: list[list[list[float]]] = [[], []]
    labels: list[list[str]] = [[], []]
    frame: list[list[int]] = [[], []]
    for f in range(frames):
        for _ in range(generator.integers(0, 14)):
            name = str(generator.choice(names))
            height = generator.uniform(15, 80)
            left, top = generator.uniform(0, 60, 2)
            box = [left, top, left + 60, top + height, 1.5, 1.6, 4, *generator.uniform(-1.5, 1.5, 3)]
            state = [generator.choice([0, 0.2, 0.4, 0.6]), generator.integers(0, 4), generator.uniform(-3, 3)]
            rows[0].append([*state, *box, generator.uniform(-0.2, 0.2)])
            labels[0].append(name)
            frame[0].append(f)
            for _ in range(generator.integers(0, 4)):
                moved = np.array([*box, rows[0][-1][-1]])
                moved[:4] += generator.uniform(-4, 4, 4)
                moved[7:] += generator.normal(0, 0.08, 4)
                rows[1].append([-1, -1, state[2] + generator.normal(0, 0.5), *moved, generator.integers(0, 15) / 15])
                labels[1].append(name if name != "DontCare" and generator.random() < 0.8 else "Car")
                frame[1].append(f)
    parts = [
        Scene(KittiObjects(tuple(n), np.array(r).reshape(-1, width)), np.array(f))
        for n, r, f, width in zip(labels, rows, frame, (LABEL, DETECTION), strict=True)
    ]
    return parts[0], parts[1]


@pytest.mark.parametrize("seed", range(3))
def test_crowded_frames_score_what_nested_loops_say(seed: int) -> None:
    truth, found = crowded(seed)
    all_curves = curves(truth, found)
    assert len(all_curves) == len(CLASSES) * len(KINDS) * len(DIFFICULTIES)
    several = 0
    for n, curve in enumerate(all_curves):
        wanted, kind, level = n // 9, KINDS[n // 3 % 3], n % 3
        expected = np.array(naive(truth, found, kind, wanted, level)).reshape(-1, 3)
        several += len(expected) > 3
        best = np.zeros((41, 2))
        best[: len(expected)] = expected[:, 1:]
        best = np.maximum.accumulate(best[::-1])[::-1]
        np.testing.assert_array_equal(curve.thresholds, expected[:, 0], err_msg=curve.name)
        np.testing.assert_allclose(curve.precision, best[:, 0], atol=1e-12, err_msg=curve.name)
        if kind == "image":
            assert curve.orientation is not None
            np.testing.assert_allclose(curve.orientation, best[:, 1], atol=1e-12, err_msg=curve.name)
    assert several >= 3


def test_frames_count_the_same_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [f"{FOUND[:-3]}{n / 20}\n{FOUND.replace('100', '60')[:-3]}{n / 25}" for n in range(1, 12)]
    at_once = scores(tmp_path, [CAR] * len(found), found)
    assert 0 < at_once["Car_3d/moderate_R40"] < 100
    monkeypatch.setattr(kitti_matching, "BLOCK", 5)
    assert scores(tmp_path, [CAR] * len(found), found) == at_once


def test_one_car_by_hand(tmp_path: Path) -> None:
    # One ground truth gives one threshold: precision 1 at recall 0 alone, so R11 = 1/11 and R40 = 0.
    found = scores(tmp_path, [CAR], [FOUND])
    for kind in ("image", "bev", "3d", "aos"):
        assert found[f"Car_{kind}/easy_R11"] == pytest.approx(100 / 11)
        assert found[f"Car_{kind}/easy_R40"] == 0


def test_empty_files_and_absent_classes_score_zero(tmp_path: Path) -> None:
    found = scores(tmp_path, [CAR, ""], ["", "\n"])
    assert len(found) == 72
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    ("extra", "precision"),
    [
        ("Car -1 -1 0 400 100 500 200 1.5 1.6 4 30 1.5 20 0.2 0.95", 0.5),
        ("Car -1 -1 0 400 100 500 124 1.5 1.6 4 30 1.5 20 0.2 0.95", 1.0),  # too small to be wrong
        ("Car -1 -1 0 600 100 700 200 1.5 1.6 4 30 1.5 20 0.2 0.95", 1.0),  # in an unknown area
        ("Car -1 -1 0 800 100 900 200 1.5 1.6 4 30 1.5 20 0.2 0.95", 1.0),  # a van
        ("Car -1 -1 0 1000 100 1100 200 1.5 1.6 4 30 1.5 20 0.2 0.95", 1.0),  # largely occluded
        ("Pedestrian -1 -1 0 400 100 500 200 1.5 1.6 4 30 1.5 20 0.2 0.95", 1.0),
    ],
)
def test_what_counts_as_wrong(tmp_path: Path, extra: str, precision: float) -> None:
    truth = [
        CAR,
        "DontCare -1 -1 -10 590 90 710 210 -1 -1 -1 -1000 -1000 -1000 -10",
        "Van 0 0 0 800 100 900 200 1.5 1.6 4 30 1.5 20 0.2",
        "Car 0 3 0 1000 100 1100 200 1.5 1.6 4 30 1.5 20 0.2",
    ]
    found = scores(tmp_path, ["\n".join(truth)], [f"{FOUND}\n{extra}\n"])
    assert found["Car_image/moderate_R11"] == pytest.approx(100 / 11 * precision)


def test_detections_without_angles_or_boxes_in_space(tmp_path: Path) -> None:
    flat = "Car -1 -1 -10 100 100 200 200 -1 -1 -1 -1000 -1000 -1000 -10 0.9"
    found = scores(tmp_path, [CAR], [flat])
    assert not [name for name in found if "aos" in name]
    assert found["Car_image/easy_R11"] == pytest.approx(100 / 11)
    assert found["Car_3d/easy_R11"] == found["Car_bev/easy_R11"] == 0


def test_thresholds_by_hand() -> None:
    assert sample_thresholds(np.array([0.2, 0.9, 0.5]), 3).tolist() == [0.9, 0.5, 0.2]
    assert len(sample_thresholds(np.arange(1000.0), 1000)) == 41
    # Recall 1/80 is as close to 0 as to 1/40: only a closer next one passes a score over.
    assert sample_thresholds(np.array([3.0, 2, 1]), 80).tolist() == [3, 2, 1]
    assert sample_thresholds(np.arange(6.0, 0, -1), 200).tolist() == [6, 2, 1]
    assert sample_thresholds(np.array([]), 0).tolist() == []


def test_pairs_stay_within_their_frames() -> None:
    i, j = pairs_within_frames(np.array([0, 2, 2, 3]), np.array([1, 2, 2, 3, 4]))
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)]


def test_frames_that_differ_are_listed(tmp_path: Path) -> None:
    truth, found = folders(tmp_path, [CAR, CAR, CAR], [FOUND])
    (found / "extra.txt").touch()
    with pytest.raises(UsageError, match=r"truth: 000001, 000002\. Only in .*detections: extra$"):
        evaluate(truth, found)
    for frame in range(3, 30):
        (truth / f"{frame:06d}.txt").touch()
    with pytest.raises(UsageError, match="000020 and 9 more"):
        evaluate(truth, found)


def test_folders_without_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        evaluate(tmp_path / "none", tmp_path)
    with pytest.raises(UsageError, match="holds no frames"):
        evaluate(tmp_path, tmp_path)


def test_loose_overlaps_come_behind_the_benchmarks(tmp_path: Path) -> None:
    # A car of 4 m moved by 1 m along itself overlaps by 3/5: enough for 0.5, not for 0.7.
    truth, found = folders(tmp_path, [CAR], [FOUND.replace(" 2 1.5 20 0.2", " 2.98 1.5 19.8 0.2")])
    result = evaluation(truth, found)
    values = {metric.name: metric.value for metric in result.metrics}
    assert values["Car_3d/easy_R11"] == values["Car_bev/easy_R11"] == 0
    assert values["Car_3d@0.5/easy_R11"] == values["Car_bev@0.5/easy_R11"] == pytest.approx(100 / 11)
    assert {f"{name}@0.25/hard_R40" for name in ("Pedestrian_3d", "Cyclist_bev")} <= set(values)
    names = [metric.name for metric in result.metrics]
    assert all("@" in name for name in names[72:])
    assert len(names) == 72 + 36
    assert [metric.name for metric in evaluate(truth, found) if "@" in metric.name] == []


def test_memory_beside_the_objects_does_not_grow_with_the_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kitti_matching, "BLOCK", 128)
    found = [f"{FOUND[:-3]}0.{n:03d}\n" * 10 for n in range(1, 601)]
    held, beside = [], []
    for frames in (75, 150, 600):
        paths = folders(tmp_path, [f"{CAR}\n" * 5] * frames, found[:frames])
        evaluate(*paths)
        tracemalloc.start()
        scenes = read_folders(*paths)
        held.append(tracemalloc.get_traced_memory()[0])
        del scenes
        peaks = []
        for _ in range(3):  # the least: threads that other tests left behind may allocate meanwhile
            tracemalloc.reset_peak()
            evaluate(*paths)
            peaks.append(tracemalloc.get_traced_memory()[1])
        beside.append(min(peaks) - held[-1])
        tracemalloc.stop()
    assert held[2] - held[1] > 5e5
    assert beside[2] - beside[1] < 0.3 * (held[2] - held[1])
