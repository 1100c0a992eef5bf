from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from robovision import weights
from robovision.errors import UsageError


def test_round_trip_and_checksum(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    checksum = weights.save(file, {"a": torch.arange(6.0).view(2, 3).T})
    assert torch.equal(weights.load(file)["a"], torch.arange(6.0).view(2, 3).T)
    weights.check(file, checksum)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="damaged or was changed"):
        weights.check(file, checksum)


def test_every_fault_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        weights.assign(nn.Linear(2, 3), {"weight": torch.zeros(3, 4), "extra": torch.zeros(1)}, "file")
    for part in ("missing: bias", "unexpected: extra", "misshapen: weight is [3, 4], not [3, 2]"):
        assert part in str(caught.value)


def test_what_a_file_says_of_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    weights.save(file, {"w": torch.ones(2)}, {"model": "line"})
    assert weights.about(file) == {"model": "line"}
    weights.save(file, {"w": torch.ones(2)})
    assert weights.about(file) == {}
    with pytest.raises(UsageError, match="no weight file"):
        weights.about(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{}", b"not safetensors at all"])
def test_truncated_and_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="no readable safetensors file"):
        weights.load(tmp_path / "w.safetensors")


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Malice(tmp_path / "executed")))
    with pytest.raises(UsageError, match="no readable safetensors file"):
        weights.load(tmp_path / "w.pt")
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_and_an_unknown_name_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no weight file"):
        weights.load(tmp_path / "none")
    with pytest.raises(UsageError, match=r"unknown weights 'vit'; .*vit-tiny-sim"):
        weights.find("vit")
