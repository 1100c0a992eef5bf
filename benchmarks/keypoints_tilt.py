"""Keypoints without rotation: other viewpoints and light, on a folder of photographs.

Each photograph, its shorter side scaled to 480 pixels, is seen through random homographies whose corners move by up
to 12 % of the sides, with another gamma, contrast and brightness, and noise. Points within 24 pixels of either
picture's edge, or of what the other one shows, are left out for every extractor, the strongest 1,024 of the others
kept, and matched by mutual nearest neighbours. The homography is OpenCV's RANSAC at 1 pixel, 3,000 iterations; its
error is the mean distance of the corners.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from keypoints_rotation import BORDER, COUNT, EXTRACTED, NAMES, compare, matches, photograph
from tqdm import tqdm

from robovision import keypoints

VIEWS, SHARE = 6, 0.12


def corners(shape):
    """The centres of the corner pixels [4, 2]."""
    height, width = shape
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)


def view(image, rng):
    """Another view of the image in other light, and the homography to it."""
    height, width = image.shape
    moved = corners(image.shape) + rng.uniform(-SHARE, SHARE, (4, 2)) * [width, height]
    homography = cv2.getPerspectiveTransform(corners(image.shape), moved.astype(np.float32))
    warped = cv2.warpPerspective(image, homography, (width, height), flags=cv2.INTER_LINEAR)
    lit = (warped ** rng.uniform(0.6, 1.6) - 0.5) * rng.uniform(0.6, 1.1) + 0.5 + rng.uniform(-0.1, 0.1)
    return (lit + rng.normal(0, 0.015, lit.shape)).clip(0, 1).astype(np.float32), homography


def transform(points, homography):
    """Points [N, 2] after a homography."""
    moved = np.c_[points, np.ones(len(points))] @ homography.T
    return moved[:, :2] / moved[:, 2:]


def chosen(found, homography, shape):
    """Places [N, 2] and descriptors of the strongest points that both pictures show, and the places in the other."""
    there = transform(found.xy, homography)
    edge = np.array(shape[::-1]) - 1 - BORDER
    inside = ((np.stack([found.xy, there]) >= BORDER) & (np.stack([found.xy, there]) <= edge)).all(axis=(0, 2))
    kept = np.flatnonzero(inside)[:COUNT]
    return found.xy[kept], np.asarray(found.descriptors[kept], np.float32), there[kept]


def corner_error(places, others, pairs, homography, shape):
    """Mean distance of the corners under the estimated homography, infinite without one."""
    if len(pairs[0]) < 4:
        return np.inf
    cv2.setRNGSeed(0)
    found, _ = cv2.findHomography(places[pairs[0]], others[pairs[1]], cv2.RANSAC, 1.0, maxIters=3000, confidence=0.9995)
    if found is None:
        return np.inf
    here = corners(shape)
    return np.linalg.norm(transform(here, found) - transform(here, homography), axis=1).mean()


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path, help="a folder of images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    extractors = {name: keypoints.load(name, EXTRACTED) for name in NAMES}
    values = {name: [] for name in NAMES}
    for number, path in enumerate(tqdm(sorted(options.photographs.iterdir()), unit="image")):
        image, rng = photograph(path), np.random.default_rng(number)
        upright = {name: extractor.extract(image) for name, extractor in extractors.items()}
        for _ in range(VIEWS):
            warped, homography = view(image, rng)
            for name, extractor in extractors.items():
                places, described, there = chosen(upright[name], homography, image.shape)
                others, theirs, _ = chosen(extractor.extract(warped), np.linalg.inv(homography), image.shape)
                repeated, accuracy, _ = compare((there, described), (others, theirs))
                error = corner_error(places, others, matches(described, theirs), homography, image.shape)
                values[name].append((repeated, accuracy, error < 1, error < 3))
    print("| | repeatability@3 | MMA@3 | homography within 1 px | within 3 px |\n|---|---|---|---|---|")
    for name in NAMES:
        print(f"| {name} | " + " | ".join(f"{100 * v:.1f}" for v in np.mean(values[name], axis=0)) + " |")


if __name__ == "__main__":
    main()
