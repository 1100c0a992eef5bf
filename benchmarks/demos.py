"""How compactly and how fast demonstrations are stored, beside NumPy's compressed .npz, in one process.

    python benchmarks/demos.py

Prints the table of benchmarks/README.md, section "Demonstrations". The frames are an expert's 130 noisy steps of
opening a drawer; both formats are lossless and are checked to be.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from timing import seconds

from robovision.envs import EnvOptions, make
from robovision.envs.minari_episode import Episode, to_hdf5

STEPS = 130


def frames(size: int, preset: str) -> NDArray[np.uint8]:
    """What the expert saw, uint8 [131, 3, size, size]."""
    env = make("metaworld/drawer-open", EnvOptions(size=size, preset=preset))  # type: ignore[arg-type]
    observation, _ = env.reset(seed=0)
    seen = [observation["pixels"]]
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        noise = random.normal(0, 0.1, 4).astype(np.float32)
        observation, *_ = env.step((env.expert_action() + noise).clip(-1, 1))
        seen.append(observation["pixels"])
    env.close()
    return np.stack(seen)


def as_npz(pixels: NDArray[np.uint8]) -> bytes:
    """NumPy's compressed archive."""
    content = io.BytesIO()
    np.savez_compressed(content, pixels=pixels)
    return content.getvalue()


def from_npz(content: bytes) -> NDArray[Any]:
    """The frames in it."""
    with np.load(io.BytesIO(content)) as arrays:
        pixels: NDArray[Any] = arrays["pixels"]
    return pixels


def as_minari(pixels: NDArray[np.uint8]) -> bytes:
    """An episode file as `robovision demos` writes it."""
    zeros = np.zeros(STEPS)
    ends = np.zeros(STEPS, bool)
    return to_hdf5(Episode({"pixels": pixels}, np.zeros((STEPS, 4), np.float32), zeros, ends, ends, {}), 0, 0)


def plain_hdf5(pixels: NDArray[np.uint8]) -> bytes:
    """As Minari's own storage writes such an array: chunks that h5py chooses, no compression."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("observations/pixels", data=pixels, chunks=True, maxshape=(None, *pixels.shape[1:]))
    return content.getvalue()


def from_hdf5(content: bytes) -> NDArray[Any]:
    """The frames in it."""
    with h5py.File(io.BytesIO(content), "r") as file:
        pixels: NDArray[Any] = file["observations/pixels"][()]
    return pixels


def main() -> None:
    """Print the table."""
    ways: dict[str, tuple[Callable[[NDArray[np.uint8]], bytes], Callable[[bytes], NDArray[Any]]]] = {
        "NumPy .npz, compressed": (as_npz, from_npz),
        "Minari's own writer": (plain_hdf5, from_hdf5),
        "ours": (as_minari, from_hdf5),
    }
    print("| frames | kept as | bytes a frame | write, ms a frame | read, ms a frame |\n|---|---|---|---|---|")
    for size, preset in ((64, "fastest"), (224, "fast")):
        pixels = frames(size, preset)
        for name, (write, read) in ways.items():
            content = write(pixels)
            assert np.array_equal(read(content), pixels)
            times = [1e3 * seconds(call) / len(pixels) for call in (lambda: write(pixels), lambda: read(content))]  # noqa: B023
            row = f"| {size} px, {preset} | {name} | {len(content) / len(pixels):,.0f} |"
            print(f"{row} {times[0]:.2f} | {times[1]:.2f} |")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
