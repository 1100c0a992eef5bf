"""What each choice of S-TREK's training is worth, at small size: one training of each, detector and descriptor apart.

Every row changes one thing of the first; another seed shows what chance does. A detector's figures are the
repeatability at 1 and 3 pixels of its strongest 1,024 points, of the image's own scale, over the turns; a descriptor's
is the mean matching accuracy at the points of the first row's detector, with the patches turned by its orientation or
left upright, in training and measurement.
"""

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from robovision.keypoints.description import WIDTH, Description, Descriptor
from robovision.keypoints.detector import Detector
from robovision.keypoints.leaves import dead_leaves
from robovision.keypoints.objectives import Repeatability
from robovision.keypoints.pairs import draw_pairs, read_folder
from robovision.keypoints.pixels import read_grey
from robovision.keypoints.planar import resize, score
from robovision.keypoints.report import AT_3
from robovision.keypoints.selfwarp import WarpOptions, keep, other_light, rotate
from robovision.keypoints.strek import ExtractorOptions, Strek
from robovision.keypoints.strek_config import DetectorOptions, SamplingOptions
from robovision.optimisers import adamw, descend, learning_rate
from robovision.seeding import derive

TURNS = 30, 90, 165
SIZE, BATCH, LEAVES = 96, 4, 12
SHIPPED = DetectorOptions(), SamplingOptions()
DETECTORS = {
    "as shipped: C8, sequential, temperature 0.05, linear reward": {},
    "another seed": {"seed": 1},
    "group C4": {"group": "C4", "fields": 4},
    "group C16": {"group": "C16", "fields": 1},
    "no group (C1)": {"group": "C1", "fields": 16},
    "sampler grid": {"sampler": "grid"},
    "sampler top-k": {"sampler": "top-k"},
    "temperature 0.02": {"temperature": 0.02},
    "temperature 0.2": {"temperature": 0.2},
    "step reward": {"reward": "step"},
    "loss of places": {"localisation": 1.0},
    "suppression radius 2, 80 points": {"radius": 2, "most": 80},
}


class Upright(Detector):
    """A detector whose orientation is always to the right."""

    def read(self, maps):
        """The detection, without its orientations."""
        found = super().read(maps)
        right = torch.tensor([1.0, 0.0])[:, None, None].expand_as(found.vectors)
        return dataclasses.replace(found, vectors=right)

    def exported(self):
        """The same of plain convolutions."""
        plain = Upright(self.options)
        plain.layers = super().exported().layers
        return plain.eval().requires_grad_(False)


class Silent(Descriptor):
    """No descriptor, where only places count."""

    def exported(self):
        """The same."""
        return self

    def forward(self, patches):
        """Zeros."""
        return torch.zeros(len(patches), WIDTH)


def train(objective, pictures, steps, rate, seed=0):
    """The objective's network after so many steps."""
    optimizer = adamw(objective.module.train(), 1e-4)
    for step in tqdm(range(steps), leave=False):
        pairs = draw_pairs(pictures, SIZE, BATCH, seed, step)
        loss, _ = objective(pairs, torch.Generator().manual_seed(derive(seed, "draws", step)))
        descend(loss, objective.module, optimizer, learning_rate(step, steps, rate), 1.0)
    return objective.module.eval()


def detector(change, pictures, steps):
    """A detector trained with one change."""
    seed = change.get("seed", 0)
    torch.manual_seed(seed)
    options, sampling = (
        dataclasses.replace(part, **{k: v for k, v in change.items() if k in part.__dict__}) for part in SHIPPED
    )
    return train(Repeatability(Detector(options), sampling, half=True), pictures, steps, 2e-3, seed)


def descriptor(trained, pictures, steps):
    """A descriptor trained at a detector's points."""
    torch.manual_seed(0)
    sampling = SamplingOptions(sampler="top-k", radius=2, most=60)
    return train(Description(Descriptor(), trained.exported(), sampling, half=True), pictures, steps, 1e-3)


def measure(strek, photographs):
    """Repeatability at 1 and at 3 pixels, and mean matching accuracy at 3 pixels, %."""
    values, options = [], WarpOptions()
    for image in photographs:
        size = image.shape[::-1]
        upright = keep(strek.extract(image), np.eye(3), size, options)
        for degrees in TURNS:
            turned, matrix = rotate(image, degrees)
            turned = other_light(turned, np.random.default_rng(degrees))
            found = score(upright, keep(strek.extract(turned), np.linalg.inv(matrix), size, options), matrix, ())
            values.append((*found.repeated[:2], found.accurate[AT_3]))
    return 100 * np.mean(values, axis=0)


def main():
    """Train, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, help="a folder of images to learn from")
    parser.add_argument("photographs", type=Path, help="a folder of images to measure on")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--parts", nargs="+", default=["detector", "descriptor"], help="which tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pictures = read_folder(options.pictures, 2 * SIZE) + [dead_leaves(512, 0, k) for k in range(LEAVES)]
    photographs = [resize(read_grey(path), 480)[0] for path in sorted(options.photographs.iterdir())]
    extraction = ExtractorOptions(most=2000, multi_scale=False)
    if "detector" in options.parts:
        print("| detector | repeatability@1 | @3 |\n|---|---|---|")
        for name, change in DETECTORS.items():
            strek = Strek(detector(change, pictures, options.steps), Silent(), extraction)
            near, far, _ = measure(strek, photographs)
            print(f"| {name} | {near:.1f} | {far:.1f} |", flush=True)
    if "descriptor" in options.parts:
        steered = detector({}, pictures, options.steps)
        upright = Upright(steered.options)
        upright.load_state_dict(steered.state_dict())
        print("\n| descriptor | MMA@3 |\n|---|---|")
        for name, trained in {"patches turned by the detector": steered, "patches upright": upright}.items():
            strek = Strek(trained, descriptor(trained, pictures, options.steps), extraction)
            print(f"| {name} | {measure(strek, photographs)[2]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
