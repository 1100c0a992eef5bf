"""Keypoints under rotation: repeatability and matching of every extractor, on a folder of photographs.

Each photograph, its shorter side scaled to 480 pixels, is turned on a larger canvas and gets other light and noise.
Points within 24 pixels of the photograph's edge are left out for every extractor, the strongest 1,024 of the others
kept, and matched by mutual nearest neighbours.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from robovision import keypoints
from robovision.keypoints.pixels import read_grey

SIDE, BORDER, COUNT, REACH = 480, 24, 1024, 3.0
NAMES = ("strek", "strek-fast", "rootsift", "sift", "orb")
EXTRACTED = 3000


def photograph(path):
    """Grey [H, W] in 0..1."""
    image = read_grey(path)
    scale = SIDE / min(image.shape)
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=kind).clip(0, 1)


def turn(image, degrees):
    """The image turned on a canvas that holds it, and the affine map [2, 3] from its pixels to those of the canvas."""
    height, width = image.shape
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    size = [round(abs(width * cos) + abs(height * sin)), round(abs(width * sin) + abs(height * cos))]
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0]])
    matrix[:, 2] = (np.array(size) - 1) / 2 - matrix[:, :2] @ np.array([(width - 1) / 2, (height - 1) / 2])
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, -degrees // 90)), matrix
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR), matrix


def other_light(image, rng):
    """Another gamma, contrast and brightness, and noise of deviation 0.015."""
    return ((image**1.2 - 0.5) * 0.85 + 0.53 + rng.normal(0, 0.015, image.shape)).clip(0, 1).astype(np.float32)


def strongest(extractor, image, back, shape):
    """Places [N, 2] on the photograph before it was turned, and descriptors [N, D]."""
    found = extractor.extract(image)
    places = found.xy @ back[:, :2].T + back[:, 2]
    inside = ((places >= BORDER) & (places <= np.array(shape[::-1]) - 1 - BORDER)).all(axis=1)
    chosen = np.flatnonzero(inside)[:COUNT]
    return places[chosen], np.asarray(found.descriptors[chosen], np.float32)


def matches(described, theirs):
    """The indices of mutual nearest neighbours."""
    distance = (described**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1)[None] - 2 * described @ theirs.T
    best = distance.argmin(axis=1)
    mutual = np.flatnonzero(distance.argmin(axis=0)[best] == np.arange(len(best)))
    return mutual, best[mutual]


def compare(first, second):
    """Repeatability and mean matching accuracy at 3 pixels, on the photograph's own pixels, and how many points."""
    (places, described), (others, theirs) = first, second
    apart = np.linalg.norm(places[:, None] - others[None], axis=2)
    repeated = ((apart.min(axis=1) <= REACH).mean() + (apart.min(axis=0) <= REACH).mean()) / 2
    return repeated, (apart[matches(described, theirs)] <= REACH).mean(), len(places)


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path, help="a folder of images")
    parser.add_argument("--step", type=int, default=15, help="degrees between two rotations; a divisor of 90")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    angles = range(0, 360, options.step)
    paths = sorted(path for path in options.photographs.iterdir() if path.is_file())
    extractors = {name: keypoints.load(name, EXTRACTED) for name in NAMES}
    values = {name: np.zeros((len(paths), len(angles), 3)) for name in NAMES}
    identity = np.eye(3)[:2]
    with tqdm(total=len(paths) * len(angles), unit="image") as bar:
        for p, path in enumerate(paths):
            image = photograph(path)
            upright = {n: strongest(e, image, identity, image.shape) for n, e in extractors.items()}
            for a, degrees in enumerate(angles):
                turned, matrix = turn(image, degrees)
                turned = other_light(turned, np.random.default_rng(degrees))
                back = cv2.invertAffineTransform(matrix)
                for name, extractor in extractors.items():
                    values[name][p, a] = compare(upright[name], strongest(extractor, turned, back, image.shape))
                bar.update()
    quarter = [a for a, degrees in enumerate(angles) if degrees % 90 == 0]
    print("| | repeatability@3, mean | worst angle | quarter turns | MMA@3, mean | worst | quarter turns | keypoints |")
    print("|---|---|---|---|---|---|---|---|")
    for name in NAMES:
        by_angle = values[name].mean(axis=0)
        shares = [(c.mean(), c.min(), c[quarter].mean()) for c in 100 * by_angle[:, :2].T]
        cells = " | ".join(f"{share:.1f}" for share in np.ravel(shares))
        print(f"| {name} | {cells} | {by_angle[:, 2].mean():.0f} |")


if __name__ == "__main__":
    main()
