"""`robovision bench keypoints`: S-TREK beside the extractors that everybody has."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import tyro

from robovision.commands import Command, list_faults
from robovision.devices import Device
from robovision.errors import UsageError
from robovision.files import make_folder

KEYPOINTS = """Keypoints side by side on photographs of scikit-image that S-TREK was not trained on, and on yours.

Each photograph, its shorter side 480 pixels, is turned by 0, 15, ... 345 degrees, tilted, and lit anew; 1,024
keypoints, mutual nearest neighbours, points near the photograph's edge left out for every extractor; homographies by
OpenCV's RANSAC (1 px), and as `robovision keypoints match` verifies (1 px: MAGSAC++, then a fit to all that agree).
Then milliseconds an image of 640 x 480 pixels and images a second, taking turns, on the GPU if there is one; and the
memory that one of 12 megapixels takes on the processor. In --data, photographs with cameras (image/, intrinsic/, pose/)
give relative poses too. Prints tables in Markdown; --out gets them too, every number (CSV) and curves (PNG).
Extractors whose weights must be downloaded (ALIKED, DISK, SuperPoint, ...) are not among these. Of --data, what can't
be read is listed at the end, the rest is measured, and the exit code is 1.

The whole takes half an hour of a core; `--step 45 --versions 2` takes a few minutes.

examples:
  robovision bench keypoints --out runs/keypoints
  robovision bench keypoints strek rootsift --data photographs --step 45 --versions 2"""


@dataclass(frozen=True)
class Keypoints:
    """The options of `robovision bench keypoints`."""

    extractors: tyro.conf.Positional[tuple[str, ...]] = ("strek", "strek-fast", "rootsift", "sift", "orb")
    """Which extractors; strek=FILE has weights of your own training."""
    data: Path | None = None
    """A folder with more photographs."""
    step: int = 15
    """Degrees between two rotations; a divisor of 90."""
    versions: int = 8
    """Tilted, or lit, versions of a photograph."""
    rounds: int = 9
    """How often each extractor takes its turn when it is timed."""
    device: Device = "auto"
    """Where S-TREK computes: cpu, cuda, mps, or auto, CUDA if there is any; OpenCV's extractors use the processor."""
    out: Path | None = None
    """A folder for keypoints.md, and for each part its numbers (CSV) and curves (PNG)."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")


def _keypoints(options: Keypoints) -> int:
    from tqdm import tqdm

    from robovision.bench import keypoints
    from robovision.keypoints.selfwarp import WarpOptions

    settings = WarpOptions(options.step, options.versions)
    named, faults = keypoints.photographs(options.data)
    if options.out is not None:
        make_folder(options.out)
    done: list[keypoints.Section] = []
    with tqdm(total=keypoints.count(named, settings), desc="versions", unit="image", leave=False) as bar:
        parts = keypoints.sections(options.extractors, named, settings, options.rounds, bar.update, options.device)
        posed = () if options.data is None else keypoints.poses(options.extractors, options.data, options.device)
        for part in itertools.chain(parts, posed):
            tqdm.write(f"{part.text}\n")
            done.append(part)
            if options.out is not None:
                keypoints.write(options.out, done)
    faults = list(dict.fromkeys([*faults, *(fault for part in done for fault in part.faults)]))
    return list_faults(faults, len(faults) + sum(map(len, named.values())))


COMMANDS = {"bench keypoints": Command(Keypoints, KEYPOINTS, _keypoints)}
