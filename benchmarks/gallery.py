"""One picture of each family of simulators under each rendering preset.

    python benchmarks/gallery.py

Writes benchmarks/gallery.jpg: a task a row, `exact`, `fast`, `fastest` and, five times as strong, what `fast` changes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from robovision.envs import make

TASKS = ("metaworld/drawer-open", "adroit/pen", "dmc/walker-walk", "mujoco/ant")
PRESETS = ("exact", "fast", "fastest")


def main() -> None:
    """Draw the pictures and write the file."""
    figure = Figure(figsize=(8.4, 8.4), layout="constrained", dpi=110)
    axes = figure.subplots(len(TASKS), len(PRESETS) + 1)
    for task, row in zip(TASKS, axes, strict=True):
        images = {}
        for preset in PRESETS:
            env = make(task, preset=preset, observe=("pixels",))
            env.reset(seed=0)
            for _ in range(10):
                observation, *_ = env.step(np.full(env.action_space.shape, 0.2, np.float32))
            images[preset] = observation["pixels"].transpose(1, 2, 0)
            env.close()
        change = np.abs(images["fast"].astype(int) - images["exact"])
        titles = (*PRESETS, f"fast - exact, x5 (mean {change.mean():.2f} of 255)")
        for place, title, image in zip(row, titles, (*images.values(), (5 * change).clip(0, 255)), strict=True):
            place.imshow(image)
            place.set(xticks=[], yticks=[])
            place.set_title(title, fontsize=8)
        row[0].set_ylabel(task, fontsize=9)
    figure.savefig(Path(__file__).with_name("gallery.jpg"), pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
