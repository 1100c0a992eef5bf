"""What a detector finds of the cars in real sweeps, as a table and a picture.

    python benchmarks/lidar_real.py DATA [--weights FILE] [--score 0.4]

DATA holds `kitti/training` (KITTI's object frames, labelled ahead only) and perhaps `av2` (an Argoverse 2 log, labelled
all around). Cars within 40 m of the sensor count, found if a detection of a car overlaps them by at least 0.5 on the
ground; a detection that overlaps no label by so much is a false one, also where nothing is labelled.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robovision.bench.timing import markdown
from robovision.files import write_atomically
from robovision.lidar.argoverse import select
from robovision.lidar.boxes import bev_iou, corners, to_tensor
from robovision.lidar.detectors.detecting import Outputs, choose_detector, find
from robovision.lidar.detectors.detector import Detector, ground_level
from robovision.lidar.frames import Frame, find_clouds
from robovision.types import Boxes3D

OUT = Path(__file__).with_name("lidar-real.jpg")
CARS = ("Car", "Van", "REGULAR_VEHICLE")
NEAR, OVERLAP = 40.0, 0.5


@dataclass(frozen=True, eq=False)
class Result:
    """One sweep: its labelled cars and how much of each is overlapped, and the detections of cars with theirs."""

    frame: Frame
    cars: Boxes3D
    covered: torch.Tensor
    found: Boxes3D
    fits: torch.Tensor

    def row(self) -> list[str]:
        """The line of the table."""
        hits = int((self.covered >= OVERLAP).sum())
        wrong = int((self.fits < OVERLAP).sum())
        alone = int((self.fits == 0).sum())
        ahead = int(((self.fits < OVERLAP).numpy() & _ahead(self.found)).sum())
        return [
            self.frame.name,
            f"{hits} of {len(self.cars)}",
            str(len(self.found)),
            str(wrong),
            str(ahead),
            str(alone),
        ]


def measure(detector: Detector, path: Path, score: float) -> Result:
    """What is found in one sweep."""
    frame = find(detector, path, Outputs(score, None))
    assert frame.truth is not None and frame.detections is not None
    truth, found = frame.truth, near(frame.detections, ("Car",))
    cars = near(truth, CARS)
    overlaps = [bev_iou(to_tensor(boxes), to_tensor(found)) for boxes in (cars, truth)]
    covered = overlaps[0].amax(dim=1) if len(found) else torch.zeros(len(cars))
    fits = overlaps[1].amax(dim=0) if len(truth) else torch.zeros(len(found))
    return Result(frame, cars, covered, found, fits)


def near(boxes: Boxes3D, names: tuple[str, ...]) -> Boxes3D:
    """The boxes of some classes within reach."""
    mine = np.isin(boxes.labels, [k for k, name in enumerate(boxes.classes) if name in names])
    return select(boxes, mine & (np.linalg.norm(boxes.centers[:, :2], axis=1) <= NEAR))


def _ahead(boxes: Boxes3D) -> np.ndarray:
    """Which boxes lie where KITTI has labels, within 40 degrees of ahead, bool [N]."""
    angle = np.arctan2(boxes.centers[:, 1], boxes.centers[:, 0])
    ahead: np.ndarray = np.abs(angle) < np.radians(40)
    return ahead


def draw(axes: Axes, result: Result) -> None:
    """The sweep from above, x to the right, points by height, labels green and detections red."""
    xyz = result.frame.cloud.xyz
    height = xyz[:, 2] - ground_level(result.frame.cloud)
    axes.scatter(xyz[:, 0], xyz[:, 1], s=0.3, c=np.clip(height, -0.3, 3), cmap="viridis", linewidths=0)
    for boxes, color, style in ((result.cars, "#12a14b", "-"), (result.found, "#e8402a", "-")):
        for outline in corners(to_tensor(boxes))[:, [0, 1, 2, 3, 0], :2].numpy():
            axes.plot(outline[:, 0], outline[:, 1], style, color=color, lw=1)
    assert result.found.scores is not None
    for center, value in zip(result.found.centers, result.found.scores, strict=True):
        axes.text(center[0], center[1], f"{value:.2f}", fontsize=6)
    axes.set(xlim=(-NEAR, NEAR), ylim=(-NEAR, NEAR), aspect="equal")
    axes.set_title(f"{result.frame.name}: {' '.join(result.row()[1:2])} cars", fontsize=9)
    axes.tick_params(labelsize=6)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--score", type=float, default=0.4)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    detector = choose_detector(options.weights, None)
    clouds = sorted((options.data / "av2/sensors/lidar").glob("*.feather"))
    clouds += find_clouds([options.data / "kitti/training"])
    results = [measure(detector, path, options.score) for path in clouds]
    head = ("sweep", "labelled cars found", "detections", "false", "of these ahead", "of these beside every label")
    print(markdown(head, [result.row() for result in results]))
    shown = results if len(results) < 5 else results[:1] + results[-3:]
    figure = Figure(figsize=(11, 5.5 * -(-len(shown) // 2)), layout="constrained")
    for axes, result in zip(figure.subplots(-(-len(shown) // 2), 2).flat, shown, strict=False):
        draw(axes, result)
    with write_atomically(options.out) as file:
        figure.savefig(file, format="jpg", dpi=90, pil_kwargs={"quality": 70})


if __name__ == "__main__":
    main()
