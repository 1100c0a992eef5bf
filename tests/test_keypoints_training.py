"""Training S-TREK: resuming, stopping early, refusing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robovision import keypoints, weights
from robovision.cli import main
from robovision.errors import UsageError
from robovision.keypoints.description import Descriptor
from robovision.keypoints.detector import ABOUT, saved_options
from robovision.keypoints.extractors import identity
from robovision.keypoints.pairs import read_folder
from robovision.keypoints.strek import ExtractorOptions, Strek
from robovision.keypoints.strek_config import DetectorOptions, SamplingOptions, StrekConfig
from robovision.keypoints.training import Training, make_objective
from robovision.run import Run
from robovision.steps import Steps
from tests.keypoint_pictures import TINY, blobs

CONFIG = StrekConfig(
    detector=TINY, sampling=SamplingOptions(most=8), leaves=1, size=48, batch=2, steps=4, checkpoint_every=2
)


def train(path: Path, config: StrekConfig) -> Path:
    Training(Run.create(path, "keypoints train", config, 1), config).execute()
    return path


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", CONFIG)
    cut = Training(Run.create(tmp_path / "cut", "keypoints train", CONFIG, 1), CONFIG)
    save = Steps._save

    def save_and_stop(steps: Steps) -> None:
        save(steps)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Steps, "_save", save_and_stop)
        cut.execute()
    latest = cut.run.latest()
    assert latest is not None
    assert latest.step == CONFIG.checkpoint_every
    Training(Run.open(cut.run.path), CONFIG).execute()
    assert weights.sha256(cut.run.path / "detector.safetensors") == weights.sha256(whole / "detector.safetensors")
    later = dataclasses.replace(CONFIG, part="descriptor", detector_weights=whole / "detector.safetensors", steps=1)
    described = train(tmp_path / "descriptor", later)
    weights.assign(Descriptor(), weights.load(described / "descriptor.safetensors"), "test")
    with pytest.raises(UsageError, match=r"detector.safetensors is of .*'C4'.* give the same --detector"):
        make_objective(dataclasses.replace(later, detector=dataclasses.replace(TINY, group="D4")))
    extracts_by_own_weights(described)


def extracts_by_own_weights(run: Path) -> None:
    """Both networks of a training, of whatever architecture, serve as an extractor."""
    name = f"strek-fast={run / 'strek.safetensors'}"
    found = keypoints.load(name, 50).extract(blobs(80, 90))
    assert len(found) == 50
    strek = Strek.load(ExtractorOptions(50, multi_scale=False), run / "strek.safetensors")
    assert strek._detector.options == TINY
    assert np.array_equal(found.xy, strek.extract(blobs(80, 90)).xy)
    assert identity(name)["extractor"] == "strek-fast"
    assert identity(name) != identity("strek-fast")
    with pytest.raises(UsageError, match="both of S-TREK's networks"):
        keypoints.load(f"strek={run / 'descriptor.safetensors'}")


@pytest.mark.parametrize("said", ["no JSON", "[1]", '{"side": 5}', '{"fields": "2"}', '{"fields": 0}'])
def test_weights_that_say_no_detector_are_refused(said: str, tmp_path: Path) -> None:
    weights.save(tmp_path / "strek.safetensors", {}, {ABOUT: said})
    with pytest.raises(UsageError, match="says of its detector"):
        saved_options(tmp_path / "strek.safetensors")


def test_a_run_may_stop_before_its_last_step(tmp_path: Path) -> None:
    stopped = train(tmp_path / "stopped", dataclasses.replace(CONFIG, stop=2))
    longer = train(tmp_path / "longer", dataclasses.replace(CONFIG, stop=3))
    first, second = (weights.load(path / "detector.safetensors") for path in (stopped, longer))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    whole = Training(Run.create(tmp_path / "whole", "keypoints train", CONFIG, 1), CONFIG)
    seen: list[dict[str, Tensor]] = []
    descend = whole._train_step

    def step(photographs: list[Tensor]) -> dict[str, float]:
        seen.append({name: tensor.clone().half() for name, tensor in whole.module.state_dict().items()})
        return descend(photographs)

    whole._train_step = step  # type: ignore[method-assign]
    whole.execute()
    assert all(torch.equal(first[name], seen[2][name]) for name in first if first[name].is_floating_point())


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    for change in ({"leaves": 0}, {"size": 20}, {"lr": 0.0}, {"part": "descriptor"}, {"stop": 5}, {"stop": 0}):
        with pytest.raises(UsageError):
            dataclasses.replace(CONFIG, **change)
    for wrong in ({"temperature": 0.0}, {"remaining": 1.0}, {"penalty": -1.0}, {"localisation": -1.0}):
        with pytest.raises(UsageError):
            SamplingOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="odd"):
        DetectorOptions(kernel=4)
    with pytest.raises(UsageError, match="no images"):
        read_folder(tmp_path, 10)


def test_the_command_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--leaves", "1", "--size", "56", "--batch", "1", "--steps", "1", "--sampling.most", "8"]
    path = tmp_path / "run"
    assert main(["keypoints", "train", *options, "--out", str(path)]) == 0
    assert "detector.safetensors" in capsys.readouterr().out
    assert main(["keypoints", "train", "--resume", str(path)]) == 0
    assert main(["keypoints", "train", "--resume", str(path), "--steps", "9"]) == 2
    assert "--steps: 1 -> 9" in capsys.readouterr().err
