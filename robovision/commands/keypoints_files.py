"""Keypoints of files: extract those of many images, match those of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from robovision.commands import Command, list_faults, program
from robovision.devices import Device
from robovision.errors import UsageError

if TYPE_CHECKING:
    from robovision.keypoints.extractors import Extractor
    from robovision.keypoints.hloc import Store
    from robovision.keypoints.sources import Source

EXTRACT = """Extract keypoints of images and videos into an HDF5 file for hloc, or a database for COLMAP.

Takes folders (with all in them), globs and files. What can't be read is listed at the end, the rest is done, and the
exit code is 1. An interrupted extraction goes on when it is started again.

FILE.h5 holds one group an image, as hloc does: keypoints float32 [N, 2], scores, descriptors [D, N], image_size; and
angles, scales, uncertainties. FILE.db gets these keypoints (kept in FILE.h5), the images' matches and the two-view
geometries that they agree on; images of one folder share a camera.

examples:
  robovision keypoints extract photographs --out features.h5
  robovision keypoints extract "run7/**/left/*.png" --extractor rootsift --num-keypoints 2048
  robovision keypoints extract drive.mp4 --every 10 --out map/database.db --neighbours 8"""

MATCH = """Match the keypoints of two images, check which matches agree on one geometry, and draw them.

In the picture, matches that agree have the same colour at both ends and lines between some; the grey rings are those
that don't.

examples:
  robovision keypoints match a.png b.png --out matches.png
  robovision keypoints match a.png b.png --model homography --extractor orb --out matches.jpg"""

EXPORT = """Write S-TREK as an ONNX file of standard operators, opset 20, for images of any size.

input    image: float32 [1, 1, H, W], grey, 0..1
outputs  keypoints [N, 2] (pixels, the centre of the top-left one at (0, 0)), scores [N], angles [N] (radians, from x to
         y, which points down), uncertainties [N] (pixels), descriptors [N, 128]; all float32, strongest first

It looks at one scale, as strek-fast does. The file says all this, too.

examples:
  robovision keypoints export strek.onnx
  robovision keypoints export strek.onnx --num-keypoints 2048
  robovision keypoints export own.onnx --weights runs/strek-descriptor-seed0/strek.safetensors"""

DATABASE = ".db"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Extract:
    """The options of `robovision keypoints extract`."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """Folders, globs, image files, video files."""
    out: Path = Path("features.h5")
    """FILE.h5 for hloc, or FILE.db for COLMAP."""
    extractor: str = "strek"
    """strek, strek-fast, sift, rootsift or orb; strek=FILE has weights of your own training."""
    num_keypoints: int = 1024
    """Keypoints of an image at most: the strongest."""
    uniform: bool = False
    """Choose them for even coverage instead."""
    every: int = 1
    """Of a video take only every so many-th frame."""
    neighbours: int | None = None
    """For COLMAP: match an image only with as many after it, in the order of their names; by default with all."""
    ratio: float | None = None
    """For COLMAP: a match must be nearer than this share of the distance to the second nearest."""
    focal: float | None = None
    """For COLMAP: the cameras' focal length in pixels; by default from EXIF, else 1.2 times the longer side."""
    device: Device = "auto"
    """Where S-TREK computes: cpu, cuda, mps, or auto, CUDA if there is any; OpenCV's extractors use the processor."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".h5", ".hdf5", DATABASE):
            raise UsageError(f"--out must end in .h5 (for hloc) or .db (for COLMAP), got {self.out}")
        for name in ("every", "neighbours", "focal"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name} must be positive, got {value}")


@dataclass(frozen=True)
class Match:
    """The options of `robovision keypoints match`."""

    first: tyro.conf.Positional[Path]
    """An image."""
    second: tyro.conf.Positional[Path]
    """Another one."""
    out: Path | None = None
    """Where to draw the matches: a .png, .jpg or .webp."""
    extractor: str = "strek"
    """strek, strek-fast, sift, rootsift or orb; strek=FILE has weights of your own training."""
    num_keypoints: int = 1024
    """Keypoints of an image at most: the strongest."""
    ratio: float | None = None
    """A match must be nearer than this share of the distance to the second nearest."""
    model: Literal["fundamental", "homography", "essential"] = "fundamental"
    """What right matches agree on: fundamental, any rigid scene; homography, a plane or a camera that only turns;
    essential, any rigid scene, seen by cameras of a known focal length."""
    focal: float | None = None
    """For essential: the focal length of both images in pixels; the optical axis is taken to meet their middle."""
    threshold: float = 2.0
    """Pixels up to which a match agrees."""
    device: Device = "auto"
    """Where S-TREK computes: cpu, cuda, mps, or auto, CUDA if there is any; OpenCV's extractors use the processor."""

    def __post_init__(self) -> None:
        if (self.model == "essential") != (self.focal is not None):
            raise UsageError("--focal goes with --model essential: an essential matrix needs the focal length")
        if self.focal is not None and not self.focal > 0:
            raise UsageError(f"--focal must be positive, got {self.focal:g}")
        if self.out is not None and self.out.suffix.lower() not in PICTURES:
            raise UsageError(f"--out must end in {', '.join(PICTURES)}, got {self.out}")


@dataclass(frozen=True)
class Export:
    """The options of `robovision keypoints export`."""

    out: tyro.conf.Positional[Path]
    """The file to write."""
    num_keypoints: int = 1024
    """Keypoints of an image at most."""
    weights: Path | None = None
    """strek.safetensors of your own training; by default the embedded weights."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".onnx":
            raise UsageError(f"the file must end in .onnx, got {self.out}")


def _extract(options: Extract) -> int:
    from robovision.keypoints import extractors, hloc, sources

    extractor = extractors.load(options.extractor, options.num_keypoints, options.uniform, options.device)
    database = options.out if options.out.suffix == DATABASE else None
    if database is not None:
        from robovision.keypoints.colmap import import_pycolmap

        import_pycolmap()
    found = sources.find(options.images)
    features = options.out.with_suffix(".h5") if database else options.out
    of = extractors.identity(options.extractor)
    store = hloc.Store(features, {**of, "keypoints": options.num_keypoints, "uniform": options.uniform})
    try:
        with store.lock():
            faults = _extract_all(options, extractor, found, store)
    except KeyboardInterrupt:
        print(f"\nstopped; what is done is kept: start the same command again to go on, {program()} keypoints extract")
        return 130
    names = hloc.names(features)
    print(f"{len(names)} images' keypoints are in {features}")
    if database is not None:
        _write_database(options, database, features, found, names)
    return list_faults(faults, len(found))


def _extract_all(options: Extract, extractor: Extractor, found: Sequence[Source], store: Store) -> list[str]:
    from tqdm import tqdm

    from robovision.keypoints.pipeline import extract_all
    from robovision.keypoints.sources import count

    counts = [count(source, options.every) for source in found]
    known = [number for number in counts if number is not None]
    total = sum(known) if len(known) == len(counts) else None
    with tqdm(total=total, desc="keypoints", unit="image") as bar:
        faults = extract_all(found, extractor, store, options.every, bar.update)
    store.pack()
    return faults


def _write_database(
    options: Extract, path: Path, features: Path, found: Sequence[Source], names: Sequence[str]
) -> None:
    from tqdm import tqdm

    from robovision.keypoints import colmap
    from robovision.keypoints.matching import MatchOptions

    chosen = colmap.pairs(len(names), options.neighbours)
    if options.focal is None:
        known = {source.name: colmap.focal_length(source.path) for source in found}
    else:
        known = dict.fromkeys(names, options.focal)
    with tqdm(total=len(chosen), desc="matches", unit="pair") as bar:
        verified = colmap.write_database(path, features, chosen, MatchOptions(ratio=options.ratio), known, bar.update)
    print(f"{verified} of {len(chosen)} pairs agree on a geometry; they are in {path}")


def _match(options: Match) -> int:
    from robovision.keypoints import extractors
    from robovision.keypoints.drawing import MatchPicture, write_picture
    from robovision.keypoints.geometry import VerifyOptions, centred_camera, verify
    from robovision.keypoints.matching import MatchOptions, match
    from robovision.keypoints.opencv import import_cv2
    from robovision.keypoints.pixels import read_grey

    import_cv2()  # which verifies at the end: said before anything is computed
    extractor = extractors.load(options.extractor, options.num_keypoints, device=options.device)
    images = read_grey(options.first), read_grey(options.second)
    found = [extractor.extract(image) for image in images]
    pairs = match(found[0], found[1], MatchOptions(ratio=options.ratio)).indices
    points = found[0].xy[pairs[:, 0]], found[1].xy[pairs[:, 1]]
    focal = options.focal
    cameras = (
        None if focal is None else (centred_camera(images[0].shape, focal), centred_camera(images[1].shape, focal))
    )
    geometry = verify(*points, VerifyOptions(options.model, options.threshold), cameras)
    counts = f"{len(found[0])} and {len(found[1])} keypoints, {len(pairs)} matches"
    agreeing = f"{geometry.inliers.sum()} agree on {NAMES[options.model]} within {options.threshold:g} px"
    print(f"{options.extractor}: {counts}; {agreeing}")
    if options.out is not None:
        text = f"{options.extractor}: {counts}, {agreeing}"
        write_picture(options.out, MatchPicture(images, points, geometry.inliers, text).draw())
        print(f"look at {options.out}")
    return 0


def _export(options: Export) -> int:
    from robovision.keypoints.onnx import export

    smallest = export(options.out, options.num_keypoints, options.weights)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.1f} MB, for images of at least {smallest} x {smallest} pixels")
    return 0


NAMES = {"fundamental": "a fundamental matrix", "homography": "a homography", "essential": "an essential matrix"}

COMMANDS = {
    "keypoints extract": Command(Extract, EXTRACT, _extract),
    "keypoints match": Command(Match, MATCH, _match),
    "keypoints export": Command(Export, EXPORT, _export),
}
