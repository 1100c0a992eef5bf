from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robovision import Boxes3D, Keypoints, Metric, PointCloud


def boxes(**changes: object) -> Boxes3D:
    fields: dict[str, object] = {
        "centers": [[1.0, 2.0, 3.0]],
        "sizes": [[4.0, 2.0, 1.5]],
        "yaw": [0.5],
        "labels": [0],
        "classes": ("car",),
    }
    return Boxes3D(**{**fields, **changes})  # type: ignore[arg-type]


def test_arrays_are_copied_converted_and_frozen() -> None:
    given = np.zeros((2, 3))
    cloud = PointCloud(given)
    given[0, 0] = 7
    assert cloud.xyz.dtype == np.float32
    assert cloud.xyz[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        cloud.xyz[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        cloud.frame = "ego"  # type: ignore[misc]


def test_empty_things_are_valid() -> None:
    assert len(PointCloud([])) == 0  # type: ignore[arg-type]
    assert len(boxes(centers=[], sizes=[], yaw=[], labels=[])) == 0
    assert len(Keypoints([], (4, 4), [])) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PointCloud(np.zeros((5, 4), np.float32)), r"PointCloud.xyz must have shape \[any, 3\], got \[5, 4\]"),
        (lambda: PointCloud(np.array([[0, 0, np.nan]])), r"xyz must be finite, got nan at \[0, 2\]"),
        (lambda: PointCloud(np.zeros((2, 3)), intensity=np.array([0, 255])), r"must lie in 0\.\.1, got 0\.\.255"),
        (lambda: PointCloud(np.zeros((2, 3)), ring=np.zeros(3)), r"ring must have shape \[2\], got \[3\]"),
        (lambda: boxes(yaw=["left"]), "Boxes3D.yaw must be numbers, got an array of <U4"),
        (lambda: boxes(sizes=[[1.0, -2.0, 1.0]]), r"sizes\[0\] = \[1.0, -2.0, 1.0\] is negative"),
        (lambda: boxes(labels=[1]), r"labels\[0\] = 1 is none of the 1 classes"),
        (
            lambda: Keypoints(np.array([[9.6, 0]]), (10, 10), np.ones(1, np.float32)),
            r"lies outside the image of 10 x 10",
        ),
        (lambda: Keypoints(np.zeros((1, 2)), (0, 10), np.ones(1, np.float32)), r"image_size must be"),
        (lambda: Metric("m", float("nan"), "1"), "value is nan"),
        (lambda: Metric("m", 2.0, "1", low=0.0, high=1.0), r"lies outside 0.0\.\.1.0"),
        (lambda: Metric("m", 2.0, "1", low=0.0), "needs both ends"),
        (lambda: Metric.proportion("m", 3, 2), "3 successes of 2"),
    ],
)
def test_wrong_values_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_a_keypoint_may_lie_on_the_outer_edge_of_the_border_pixels() -> None:
    assert len(Keypoints(np.array([[-0.5, 9.5]]), (10, 10), np.ones(1, np.float32))) == 1


def test_wilson_interval_by_hand() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263 gives 0.2553..0.3662, 15 of 148 gives 0.0624..0.1605,
    # 0 of 20 gives 0..0.1611.
    for successes, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        metric = Metric.proportion("m", successes, count)
        assert metric.low == pytest.approx(low, abs=5e-5)
        assert metric.high == pytest.approx(high, abs=5e-5)
