"""S-TREK as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robovision.cli import main
from robovision.errors import UsageError
from robovision.keypoints.onnx import OUTPUTS, smallest_side
from robovision.keypoints.strek import ExtractorOptions, Strek
from robovision.types import Array
from tests.keypoint_pictures import blobs

onnx = pytest.importorskip("onnx", reason="needs onnx; pip install 'robovision[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime; pip install 'robovision[onnx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript; pip install 'robovision[onnx]'")
MOST = 64


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file."""
    path = tmp_path_factory.mktemp("onnx") / "strek.onnx"
    assert main(["keypoints", "export", str(path), "--num-keypoints", str(MOST)]) == 0
    return path


def test_it_has_standard_operators_and_says_what_it_does(file: Path) -> None:
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert [output.name for output in model.graph.output] == list(OUTPUTS)
    for word in ("grey, 0..1", *OUTPUTS):
        assert word in model.doc_string


@pytest.mark.parametrize("shape", [(90, 120), (131, 77)])
def test_images_of_any_size_give_what_the_extractor_gives(file: Path, shape: tuple[int, int]) -> None:
    image = blobs(*shape)
    expected = Strek.load(ExtractorOptions(MOST, multi_scale=False)).extract(image)
    found = _run(file, image)
    assert expected.descriptors is not None
    assert expected.angles is not None
    assert expected.uncertainties is not None
    assert len(expected) > 30
    assert np.allclose(found["keypoints"], expected.xy, atol=2e-3)
    assert np.allclose(found["scores"], expected.scores, atol=1e-5)
    assert np.allclose(np.exp(1j * found["angles"]), np.exp(1j * expected.angles), atol=1e-3)
    assert np.allclose(found["uncertainties"], expected.uncertainties, rtol=1e-2)
    assert np.allclose(found["descriptors"], expected.descriptors, atol=1e-3)


def test_fewer_come_back_where_there_are_fewer(file: Path) -> None:
    assert len(_run(file, np.full((80, 80), 0.5, np.float32))["keypoints"]) == 0
    spot = np.full((90, 90), 0.2, np.float32)
    spot[40:46, 50:57] = 0.9
    found = _run(file, spot)
    assert 0 < len(found["keypoints"]) < MOST
    assert len({len(values) for values in found.values()}) == 1


def test_names_and_numbers_are_checked(tmp_path: Path) -> None:
    assert smallest_side(1024, 10) == 58
    assert smallest_side(1, 10) == 27
    assert main(["keypoints", "export", str(tmp_path / "strek.pt")]) == 2
    assert main(["keypoints", "export", str(tmp_path / "strek.onnx"), "--weights", str(tmp_path / "none")]) == 2
    with pytest.raises(UsageError, match="at least 1"):
        ExtractorOptions(0)


def _run(file: Path, image: Array) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(file)
    return dict(zip(OUTPUTS, session.run(None, {"image": image[None, None]}), strict=True))
