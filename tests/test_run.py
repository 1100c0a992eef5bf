from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from robovision.agents.config import TrainConfig
from robovision.cli import main
from robovision.errors import UsageError
from robovision.run import Checkpoint, Run, differences
from robovision.types import Metric
from tests.helpers import TINY


def make_run(path: Path) -> Run:
    return Run.create(path, "train", TINY, space=0)


def save(run: Run, step: int, keep: bool = False) -> Path:
    tensors = {"model": {"w": torch.full((3,), float(step))}, "optimizer": {"0.m": torch.zeros(3)}}
    return run.save(step, {"curve": [step]}, tensors, keep)


def test_the_config_survives_the_folder(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, encoder=dataclasses.replace(TINY.encoder, weights=Path("w.safetensors")))
    run = Run.create(tmp_path / "run", "train", config, space=0)
    opened = Run.open(run.path)
    assert opened.config(TrainConfig) == config
    assert opened.environment["packages"]["torch"].startswith("2.")


def test_an_unknown_or_wrong_entry_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    content = json.loads((run.path / "run.json").read_text())
    content["config"]["epoch"] = 3
    (run.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="epoch"):
        Run.open(run.path).config(TrainConfig)


def test_no_run_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"looked for a file run\.json"):
        Run.open(tmp_path)
    with pytest.raises(UsageError, match="looked for an existing folder"):
        Run.open(tmp_path / "none")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        Run.open(tmp_path)


def test_a_run_of_another_job_says_what_goes_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(make_run(tmp_path / "run").path)
    for command in (["rl"], ["lidar", "train"], ["keypoints", "train"], ["pretrain", "mae"], ["pretrain", "lidar"]):
        assert main([*command, "--resume", path]) == 2
        said = f"a run of `robovision train`, not of `robovision {' '.join(command)}`: it goes on with robovision train"
        assert said in capsys.readouterr().err
    mae = Run.create(tmp_path / "mae", "pretrain mae", TINY, space=0)
    assert main(["train", "--resume", str(mae.path)]) == 2
    assert main(["evaluate", str(mae.path)]) == 2
    assert "which trains no policy" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(UsageError, match="is not empty"):
        make_run(tmp_path)


def test_a_run_that_made_nothing_gives_its_folder_to_the_next_unless_it_is_at_work(tmp_path: Path) -> None:
    refused = make_run(tmp_path)
    with refused.lock(), pytest.raises(UsageError, match="another process"):
        make_run(tmp_path)
    assert make_run(tmp_path).config(TrainConfig) == TINY
    (tmp_path / "curve.csv").touch()
    with pytest.raises(UsageError, match="is not empty"):
        make_run(tmp_path)


def test_a_disk_that_is_too_small_is_said_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MB free and the run needs 1000000000000 MB"):
        Run.create(tmp_path / "run", "train", TINY, space=10**18)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_folder_is_for_one_process(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with run.lock(), pytest.raises(UsageError, match="another process"), Run.open(run.path).lock():
        pass
    with Run.open(run.path).lock():
        assert (run.path / ".lock").exists()


def test_checkpoints_round_trip_and_old_ones_go(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert run.latest() is None
    for step in range(1, 6):
        save(run, step, keep=step == 2)
    assert [p.name for p in run.checkpoints()] == ["step-000002", "step-000004", "step-000005"]
    latest = run.latest()
    assert latest is not None
    assert latest.state == {"curve": [5]}
    assert torch.equal(latest.tensors("model")["w"], torch.full((3,), 5.0))
    kept = run.at(2)
    assert [p.name for p in kept.path.glob("*.safetensors")] == ["model.safetensors"]
    assert torch.equal(kept.tensors("model")["w"], torch.full((3,), 2.0))


def test_the_newest_checkpoint_is_that_of_the_largest_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for step in (999_998, 999_999, 1_000_000, 1_000_001):
        save(run, step)
    assert run.steps() == [1_000_000, 1_000_001]
    latest = run.latest()
    assert latest is not None
    assert latest.step == 1_000_001


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "tamper", "delete"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_offered(tmp_path: Path, name: str, damage: str) -> None:
    run = make_run(tmp_path / "run")
    save(run, 1)
    file = save(run, 2) / name
    content = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(content[:-5])
    elif damage == "tamper":
        file.write_bytes(content.replace(b"2", b"3") if name == "state.json" else content[:-1] + b"\x01")
    else:
        file.unlink()
    with pytest.raises(UsageError, match=r"(?s)(damaged|missing).*of step 1, is intact: delete the damaged folder"):
        run.latest()
    assert Checkpoint.open(run.checkpoints()[0]).step == 1


def test_if_all_are_damaged_that_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for step in (1, 2):
        (save(run, step) / "state.json").write_text("[]")
    with pytest.raises(UsageError, match="no earlier checkpoint is intact"):
        run.latest()


def test_differences_are_listed_as_options() -> None:
    other = dataclasses.replace(TINY, seed=9, env=dataclasses.replace(TINY.env, size=64))
    assert differences(TINY, other) == ["--seed: 3 -> 9", "--env.size: 32 -> 64"]


def test_results_carry_units_and_intervals(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.write_results([Metric.proportion("success", 3, 4)], {"steps": 7})
    content = json.loads((run.path / "results.json").read_text())
    assert content["steps"] == 7
    assert content["metrics"]["success"]["unit"] == "1"
    assert content["metrics"]["success"]["low"] < 0.75 < content["metrics"]["success"]["high"]
