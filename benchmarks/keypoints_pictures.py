"""The pictures that S-TREK's shipped weights learned from: ten of scikit-image, and frames of simulated tasks."""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from robovision.envs.frames import SHARD, FrameOptions, schedule
from robovision.envs.photographs import EPISODE, photograph

PHOTOGRAPHS = (
    "brick.png",
    "cell.png",
    "clock_motion.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "text.png",
)
SIZE, TASKS, OF_A_TASK = 384, 32, 2


def main():
    """Write them to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        (out / name).write_bytes(resources.files("skimage").joinpath("data", name).read_bytes())
    for number, task in enumerate(tqdm(schedule(FrameOptions(TASKS * SHARD)), unit="task")):
        frames = list(photograph(task, EPISODE, SIZE, "fast", np.random.default_rng(number)))
        for k in range(OF_A_TASK):
            picture = Image.fromarray(frames[(k + 1) * EPISODE // OF_A_TASK - 1].transpose(1, 2, 0))
            picture.save(out / f"frame-{number:02d}-{k}.png")


if __name__ == "__main__":
    main()
