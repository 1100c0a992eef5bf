"""Matching and verification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robovision.errors import UsageError
from robovision.keypoints.geometry import NEEDED, Geometry, VerifyOptions, relative_pose, verify
from robovision.keypoints.matching import MatchOptions, match, match_descriptors
from robovision.keypoints.refit import fit, refit
from robovision.keypoints.scores import corner_error, warp
from robovision.types import Array, Keypoints

FIRST = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 9.0]])
SECOND = torch.tensor([[10.0, 1.0], [1.0, 0.0], [11.0, 0.0], [0.0, 2.0]])
"""The nearest of SECOND to each of FIRST: 1 at distance 1; 0 and 2 at distance 1, of which 0 counts; 3 at 7."""


def test_neighbours_by_hand() -> None:
    everyone = MatchOptions(mutual=False)
    partners, distances = match_descriptors(FIRST, SECOND, everyone)
    assert partners.tolist() == [1, 0, 3]
    assert distances.tolist() == [1, 1, 7]
    assert match_descriptors(FIRST, SECOND)[0].tolist() == [1, 0, -1]  # 3's nearest is 0 of FIRST
    assert match_descriptors(FIRST, SECOND, MatchOptions(mutual=False, ratio=0.5))[0].tolist() == [-1, -1, -1]
    assert match_descriptors(FIRST, SECOND, MatchOptions(mutual=False, ratio=0.6))[0].tolist() == [1, -1, -1]


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_batches_and_chunks_give_what_brute_force_gives(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, n, 8, generator=generator, dtype=torch.float64) for n in (40, 50))
    partners, distances = match_descriptors(first, second, MatchOptions(ratio=0.9), chunk)
    for k in range(3):
        apart = (first[k, :, None] - second[k, None]).norm(dim=2)
        near = apart.sort(1).values
        nearest = apart.argmin(1)
        kept = (apart.argmin(0)[nearest] == torch.arange(40)) & (near[:, 0] < 0.9 * near[:, 1])
        assert torch.equal(partners[k], torch.where(kept, nearest, -1))
        assert torch.allclose(distances[k], near[:, 0])
    assert (partners >= 0).any()


@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_matches_nothing(first: int, second: int) -> None:
    for options in (MatchOptions(), MatchOptions(mutual=False, ratio=0.9)):
        partners, distances = match_descriptors(torch.zeros(first, 4), torch.zeros(second, 4), options)
        assert partners.tolist() == [-1] * first
        assert torch.isinf(distances).all()


def test_a_single_candidate_has_no_second_nearest() -> None:
    assert match_descriptors(torch.zeros(1, 2), torch.ones(1, 2), MatchOptions(ratio=0.5))[0].tolist() == [0]


def test_matches_are_of_keypoints_with_descriptors_of_one_kind() -> None:
    def keypoints(descriptors: Array | None) -> Keypoints:
        return Keypoints(np.zeros((3, 2)), (4, 4), np.ones(3), descriptors)

    found = match(keypoints(FIRST.numpy()), keypoints(SECOND.numpy()[:3]))
    assert found.indices.tolist() == [[0, 1], [1, 0]]
    assert found.distances.tolist() == [1, 1]
    with pytest.raises(ValueError, match="second keypoints have no descriptors"):
        match(keypoints(FIRST.numpy()), keypoints(None))
    with pytest.raises(ValueError, match="same width"):
        match(keypoints(FIRST.numpy()), keypoints(np.zeros((3, 5))))
    with pytest.raises(ValueError, match="NaN"):
        match_descriptors(FIRST, FIRST * torch.nan)
    with pytest.raises(UsageError, match="ratio"):
        MatchOptions(ratio=1.5)


K = np.array([[500.0, 0, 320], [0, 480, 240], [0, 0, 1]])
OTHER = np.array([[600.0, 0, 300], [0, 600, 250], [0, 0, 1]])


def _views(wrong: int = 40) -> tuple[Array, Array, Array, Array, Array]:
    """Pixels of 120 points in two cameras, `wrong` of them moved in the second; the pose; which are right."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -2, 4], [2, 2, 8], (120, 3))
    angle = 0.2
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    translation = np.array([1.0, 0.2, -0.1])
    first, second = ((p @ k.T)[:, :2] / p[:, 2:] for p, k in ((points, K), (points @ rotation.T + translation, OTHER)))
    second = second + rng.normal(0, 0.2, second.shape)
    second[:wrong] += rng.uniform(30, 200, (wrong, 2)) * rng.choice([-1, 1], (wrong, 2))
    return first, second, rotation, translation / np.linalg.norm(translation), np.arange(120) >= wrong


def test_a_homography_is_found_among_wrong_matches() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([[0.8, -0.5, 120], [0.4, 0.9, -30], [1e-4, -2e-4, 1]])
    first = rng.uniform(0, 640, (100, 2))
    mapped = np.c_[first, np.ones(100)] @ truth.T
    second = mapped[:, :2] / mapped[:, 2:] + rng.normal(0, 0.2, (100, 2))
    second[:50] = rng.uniform(0, 640, (50, 2))
    found = verify(first, second, VerifyOptions("homography"))
    assert found.matrix is not None
    assert found.inliers[50:].mean() > 0.95 > 0.1 > found.inliers[:50].mean()
    assert np.abs(found.matrix / found.matrix[2, 2] - truth).max() < 0.3
    again = verify(first, second, VerifyOptions("homography"))
    assert again.matrix is not None
    assert np.array_equal(again.matrix, found.matrix)


def test_a_homography_is_fitted_to_all_that_agree() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([[0.9, -0.3, 80], [0.2, 1.1, -20], [1e-4, -1e-4, 1]])
    worse = []
    for _ in range(8):
        first = rng.uniform(0, 640, (300, 2))
        second = warp(first, truth) + rng.normal(0, 0.5, first.shape)
        second[:90] += rng.uniform(5, 50, (90, 2))
        start = truth + np.array([[0, 0, 1.0], [0, 0, -0.7], [0, 0, 0]])
        ours = refit(start, first, second, 2.0)
        least = fit(first[90:], second[90:], np.ones(210))
        assert least is not None
        worse.append(corner_error(ours, truth, (640, 640)) - corner_error(least, truth, (640, 640)))
    assert np.mean(worse) < 0.05  # as good as least squares on the right matches alone


def test_a_fit_is_exact_and_refuses_lines() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([[0.9, -0.3, 80], [0.2, 1.1, -20], [1e-4, -1e-4, 1]])
    first = rng.uniform(0, 640, (9, 2))
    second = warp(first, truth)
    second[0] += 50
    assert np.abs(np.asarray(fit(first, second, np.r_[0.0, np.ones(8)])) - truth).max() < 1e-6
    line = np.stack([np.arange(20.0), 2 * np.arange(20.0)], 1)
    assert fit(line, line, np.ones(20)) is None
    assert refit(truth, line, line, 1.0) is truth  # nothing agrees


def test_a_fundamental_matrix_is_found_among_wrong_matches() -> None:
    first, second, _, _, right = _views()
    found = verify(first, second)
    assert found.matrix is not None
    assert found.inliers[right].mean() > 0.95 > 0.2 > found.inliers[~right].mean()
    lines = np.c_[first, np.ones(120)] @ found.matrix.T
    apart = np.abs((lines * np.c_[second, np.ones(120)]).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(apart[right]) < 0.5


def test_an_essential_matrix_gives_the_pose_of_different_cameras() -> None:
    first, second, rotation, translation, right = _views()
    cameras = K, OTHER
    found = verify(first, second, VerifyOptions("essential", 1.0), cameras)
    assert found.matrix is not None
    assert found.inliers[right].mean() > 0.9
    turn, shift = relative_pose(found.matrix, first, second, cameras, found.inliers)
    assert np.degrees(np.arccos((np.trace(turn @ rotation.T) - 1) / 2)) < 0.3
    assert np.degrees(np.arccos(shift @ translation)) < 2


@pytest.mark.parametrize("model", NEEDED)
@pytest.mark.parametrize("count", [0, 3, 40])
def test_too_few_or_equal_points_verify_nothing(model: str, count: int) -> None:
    points = np.ones((count, 2))
    found: Geometry = verify(points, points, VerifyOptions(model), (K, K))  # type: ignore[arg-type]
    assert found.matrix is None
    assert found.inliers.shape == (count,)
    assert not found.inliers.any()


def test_verification_refuses_what_it_cannot_use() -> None:
    points = np.ones((9, 2))
    with pytest.raises(ValueError, match="intrinsics"):
        verify(points, points, VerifyOptions("essential"))
    with pytest.raises(ValueError, match="twice"):
        verify(points, points[:8])
    with pytest.raises(ValueError, match="NaN"):
        verify(points * np.nan, points)
    with pytest.raises(UsageError, match="model"):
        VerifyOptions("affine")  # type: ignore[arg-type]
