"""S-TREK as one ONNX file of standard operators: an image in, keypoints out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.keypoints.description import Descriptor, patches, soften
from robovision.keypoints.detector import Detection, Detector
from robovision.keypoints.places import REACH, refine
from robovision.keypoints.sampling import local_maxima
from robovision.keypoints.strek import ExtractorOptions, Strek
from robovision.quiet import quiet

OPSET = 20
INPUT = "image"
OUTPUTS = ("keypoints", "scores", "angles", "uncertainties", "descriptors")
ABOUT = """S-TREK keypoints (robovision).
image: float32 [1, 1, H, W], grey, 0..1; each side at least {smallest} pixels.
keypoints: float32 [N, 2], x and y in pixels, the centre of the top-left pixel at (0, 0); N <= {most}, strongest first.
scores: float32 [N], 0..1. angles: float32 [N], radians, from the x axis towards the y axis, which points down.
uncertainties: float32 [N], standard deviation of the place in pixels. descriptors: float32 [N, 128], of norm 1."""


class Graph(nn.Module):
    """What is exported: images [1, 1, H, W] to places, scores, angles, uncertainties and descriptors."""

    def __init__(self, detector: Detector, descriptor: Descriptor, most: int, radius: int) -> None:
        super().__init__()
        self.detector = detector
        self.descriptor = descriptor
        self.most = most
        self.radius = radius

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        detection: Detection = self.detector(image)
        logits = detection.logits[0]
        rows, columns, found = self._strongest(detection.logits)
        offset, uncertainty = refine(logits, rows, columns)
        xy = torch.stack([columns, rows], 1) + offset + self.detector.options.margin
        directions = functional.normalize(detection.vectors[0, :, rows, columns].T, dim=1)
        described: Tensor = self.descriptor(patches(soften(image), xy[None], directions[None]))
        angles = torch.atan2(directions[:, 1], directions[:, 0])
        everything = xy, (logits[rows, columns] + 1) / 2, angles, uncertainty, described
        return tuple(values[found] for values in everything)

    def _strongest(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and columns of `most` pixels, and which of these are local maxima; they come first, strongest first.

        The map's edge, REACH pixels, is left out. How many there are is known only at the end, as ONNX likes it.
        """
        inner = slice(REACH, -REACH)
        peaks = local_maxima(logits, self.radius)[:, inner, inner]
        scores = logits[:, inner, inner].masked_fill(~peaks, -torch.inf)
        width = scores.shape[2]
        found, cells = scores.flatten().topk(self.most)
        rows = cells // width
        return rows + REACH, cells - rows * width + REACH, found.isfinite()


def smallest_side(most: int, margin: int) -> int:
    """The shorter side in pixels that an image must have: there must be `most` pixels to choose from."""
    return int((most - 1) ** 0.5) + 1 + 2 * (margin + REACH)


def export(path: Path, most: int, weights: Path | None = None) -> int:
    """Write S-TREK, at one scale; returns the smallest side of its images in pixels.

    Height and width are free. The file's description says what goes in and what comes out.

    Args:
        path: the file.
        most: keypoints of an image at most.
        weights: strek.safetensors of a descriptor's training; by default the embedded ones.

    Raises:
        UsageError: if a package is missing, `most` is below 1, the weights don't fit, or the file can't be written.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"exporting needs {' and '.join(missing)}: pip install 'robovision[onnx]'")
    strek = Strek.load(ExtractorOptions(most, multi_scale=False), weights)
    graph = Graph(strek._detector, strek._descriptor, most, strek.options.radius).eval()
    smallest = smallest_side(most, strek._detector.options.margin)
    content = _serialise(graph, smallest, ABOUT.format(smallest=smallest, most=most))
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(content)
    return smallest


def _serialise(graph: Graph, smallest: int, about: str) -> bytes:
    sides = {axis: torch.export.Dim(name, min=smallest) for axis, name in ((2, "height"), (3, "width"))}
    with quiet():
        program = torch.onnx.export(
            graph,
            (torch.rand(1, 1, smallest + 8, smallest + 16),),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamic_shapes=(sides,),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.doc_string = about
    return bytes(model.SerializeToString())
