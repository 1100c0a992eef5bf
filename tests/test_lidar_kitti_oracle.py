"""KITTI's average precision against a slow evaluator that shares nothing with the package: loops over files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robovision.lidar.kitti_metric import evaluate

shapely: Any = pytest.importorskip("shapely", reason="shapely is the oracle; pip install shapely")

LIMITS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting", "cyclist": ""}
OVERLAPS = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}


class Thing:
    """One line of a file."""

    def __init__(self, line: str) -> None:
        words = line.split()
        self.name = words[0].lower()
        self.truncation, self.occlusion, self.alpha = map(float, words[1:4])
        self.left, self.top, self.right, self.bottom = map(float, words[4:8])
        self.tall, self.wide, self.long, self.x, self.y, self.z, self.ry = map(float, words[8:15])
        self.score = float(words[15]) if len(words) > 15 else 0.0
        self.height = self.bottom - self.top

    def ground(self) -> Any:
        """Seen from above, as the benchmark's readme turns its boxes: corner (a, b) to x + c a + s b, z - s a + c b."""
        c, s = math.cos(self.ry), math.sin(self.ry)
        corners = [(self.long / 2, self.wide / 2), (self.long / 2, -self.wide / 2), (-self.long / 2, -self.wide / 2)]
        corners.append((-self.long / 2, self.wide / 2))
        return shapely.Polygon([(self.x + c * a + s * b, self.z - s * a + c * b) for a, b in corners])


def image_overlap(a: Thing, b: Thing, of_a: bool = False) -> float:
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = ((t.right - t.left) * t.height for t in (a, b))
    return width * height / (area_a if of_a else area_a + area_b - width * height)


def ground_overlap(a: Thing, b: Thing) -> float:
    shared = a.ground().intersection(b.ground()).area
    return float(shared / (a.long * a.wide + b.long * b.wide - shared))


def space_overlap(a: Thing, b: Thing) -> float:
    height = max(0.0, min(a.y, b.y) - max(a.y - a.tall, b.y - b.tall))
    shared = a.ground().intersection(b.ground()).area * height
    return float(shared / (a.long * a.wide * a.tall + b.long * b.wide * b.tall - shared))


MEASURES: dict[str, Callable[[Thing, Thing], float]] = {
    "image": image_overlap,
    "bev": ground_overlap,
    "3d": space_overlap,
}


class Case:
    """One class, difficulty and kind of overlap in all frames; states: 0 counts, 1 is ignored, -1 is not there."""

    def __init__(self, frames: list[tuple[list[Thing], list[Thing]]], name: str, limit: str, kind: str) -> None:
        self.frames, self.minimum, self.kind = frames, OVERLAPS[name], kind
        least, occlusion, truncation = LIMITS[limit]
        self.truth_states, self.found_states, self.overlaps = [], [], []
        for truth, found in frames:
            states = []
            for t in truth:
                seen = t.occlusion <= occlusion and t.truncation <= truncation and t.height > least
                states.append((0 if seen else 1) if t.name == name else 1 if t.name == NEIGHBOURS[name] else -1)
            self.truth_states.append(states)
            self.found_states.append([1 if f.height < least else 0 if f.name == name else -1 for f in found])
            self.overlaps.append(
                [[MEASURES[kind](t, f) if t.name != "dontcare" else 0.0 for f in found] for t in truth]
            )
        self.count = sum(states.count(0) for states in self.truth_states)

    def scores(self) -> list[float]:
        """The scores of what each ground truth takes if it takes the best scored."""
        result = []
        for n in range(len(self.frames)):
            found = self.frames[n][1]
            result += [found[j].score for i, j in self.take(n, self.highest, -math.inf) if self.hit(n, i, j)]
        return sorted(result, reverse=True)

    def precision(self, threshold: float) -> tuple[float, float]:
        """Precision, and the same weighted by orientation, of what has that score."""
        right = wrong = 0
        similarity = 0.0
        for n, (truth, found) in enumerate(self.frames):
            taken = self.take(n, self.largest, threshold)
            hits = [(i, j) for i, j in taken if self.hit(n, i, j)]
            right += len(hits)
            similarity += sum((1 + math.cos(truth[i].alpha - found[j].alpha)) / 2 for i, j in hits)
            left = set(range(len(found))) - {j for _, j in taken}
            wrong += sum(self.wrong(n, found[j]) for j in left if self.there(n, j, 0, threshold))
        return right / max(1, right + wrong), similarity / max(1, right + wrong)

    def take(self, n: int, choose: Callable[[int, int, list[int]], int], threshold: float) -> list[tuple[int, int]]:
        """Each ground truth of a frame, in order, with the free detection that it chooses."""
        truth, found = self.frames[n]
        free = [j for j in range(len(found)) if self.there(n, j, 0, threshold) or self.there(n, j, 1, threshold)]
        pairs = []
        for i in range(len(truth)):
            near = [j for j in free if self.truth_states[n][i] != -1 and self.overlaps[n][i][j] > self.minimum]
            if near:
                pairs.append((i, choose(n, i, near)))
                free.remove(pairs[-1][1])
        return pairs

    def highest(self, n: int, i: int, near: list[int]) -> int:
        return max(near, key=lambda j: self.frames[n][1][j].score)

    def largest(self, n: int, i: int, near: list[int]) -> int:
        """What overlaps most, or the first, if all are small."""
        proper = [j for j in near if self.found_states[n][j] == 0]
        return max(proper, key=lambda j: self.overlaps[n][i][j]) if proper else near[0]

    def there(self, n: int, j: int, state: int, threshold: float) -> bool:
        return self.found_states[n][j] == state and self.frames[n][1][j].score >= threshold

    def hit(self, n: int, i: int, j: int) -> bool:
        return self.truth_states[n][i] == self.found_states[n][j] == 0

    def wrong(self, n: int, found: Thing) -> bool:
        """Whether nobody asked for what was found: it lies in no area where the ground truth is unknown."""
        areas = [t for t in self.frames[n][0] if t.name == "dontcare"]
        return self.kind != "image" or all(image_overlap(found, a, of_a=True) <= self.minimum for a in areas)

    def averages(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """R11 and R40 in percent, of precision and of orientation."""
        scores, thresholds, recall = self.scores(), [], 0.0
        for k, score in enumerate(scores):
            here, following = (k + 1) / self.count, (k + 2) / self.count
            if k < len(scores) - 1 and following - recall < recall - here:
                continue
            thresholds.append(score)
            recall += 1 / 40
        rows = [self.precision(threshold) for threshold in thresholds] + [(0.0, 0.0)] * (41 - len(thresholds))
        result = []
        for column in range(2):
            best = [max(row[column] for row in rows[k:]) for k in range(41)]
            result.append((100 * sum(best[k] for k in range(0, 41, 4)) / 11, 100 * sum(best[1:]) / 40))
        return result[0], result[1]


def street(seed: int, folder: Path, frames: int = 14) -> tuple[Path, Path]:
    """Crowded frames, some without truth and some without detections, in files of two folders."""
    generator = np.random.default_rng(seed)
    names = ["Car"] * 4 + [
        "Van",
        "Pedestrian",
        "Pedestrian",
        "Person_sitting",
        "Cyclist",
        "Cyclist",
        "Truck",
        "DontCare",
    ]
    for frame in range(frames):
        truth, found = [], []
        for _ in range(0 if frame == 3 else generator.integers(1, 12)):
            name = str(generator.choice(names))
            height, left, top = generator.uniform(15, 90), *generator.uniform(0, 80, 2)
            box = np.array([left, top, left + 70, top + height, 1.5, 1.6, 4, *generator.uniform(-2, 2, 3)])
            state = f"{generator.choice([0, 0.15, 0.3, 0.5, 0.7])} {generator.integers(0, 4)}"
            alpha, turn = generator.uniform(-3, 3, 2)
            truth.append(f"{name} {state} {alpha} {' '.join(map(str, box))} {turn}")
            for _ in range(0 if frame == 5 else generator.integers(0, 4)):
                moved = box + np.r_[generator.uniform(-4, 4, 4), 0, 0, 0, generator.normal(0, 0.1, 3)]
                kind = name if name != "DontCare" and generator.random() < 0.8 else str(generator.choice(names[:-1]))
                end = f"{turn + generator.normal(0, 0.05)} {generator.integers(0, 20) / 20}"
                angle = alpha + generator.normal(0, 1)
                found.append(f"{kind} -1 -1 {angle} {' '.join(map(str, moved))} {end}")
        for side, lines in (("truth", truth), ("found", found)):
            (folder / side).mkdir(exist_ok=True)
            (folder / side / f"{frame:06d}.txt").write_text("\n".join(lines))
    return folder / "truth", folder / "found"


@pytest.mark.parametrize("seed", range(3))
def test_both_averages_are_those_of_an_independent_evaluator(seed: int, tmp_path: Path) -> None:
    truth, found = street(seed, tmp_path)
    frames = [
        (
            [Thing(t) for t in path.read_text().splitlines()],
            [Thing(f) for f in (found / path.name).read_text().splitlines()],
        )
        for path in sorted(truth.iterdir())
    ]
    values = {metric.name: (metric.value, metric.count) for metric in evaluate(truth, found)}
    checked = 0
    for name, limit, kind in itertools.product(NEIGHBOURS, LIMITS, MEASURES):
        case = Case(frames, name, limit, kind)
        plain, oriented = case.averages()
        rows = [(kind, plain), ("aos", oriented)] if kind == "image" else [(kind, plain)]
        for (label, expected), place in itertools.product(rows, range(2)):
            key = f"{name.capitalize()}_{label}/{limit}_{('R11', 'R40')[place]}"
            found_value, count = values.pop(key)
            assert found_value == pytest.approx(expected[place], abs=1e-9), key
            assert count == case.count, key
            checked += expected[place] > 0
    assert not values
    assert checked > 36
