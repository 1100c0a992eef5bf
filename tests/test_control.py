from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import cv2
import pytest

from robovision.agents.config import EncoderOptions, Optimisation, TrainConfig
from robovision.agents.evaluate import Judged, Outcome, record_path, write_record
from robovision.bench import control
from robovision.bench.control_cost import multiply_adds
from robovision.bench.control_plan import BUDGETS, METHODS, Cell, Choice
from robovision.cli import main
from robovision.envs.registry import find_task
from robovision.errors import UsageError
from robovision.run import Run
from robovision.types import Metric

TASKS = ("metaworld/hammer", "dmc/walker-walk")
CHOICE = Choice("cpu", TASKS, ("fine-tuned", "coin"), (0, 1))


def finished(out: Path, cell: Cell, *checkpoints: list[bool]) -> None:
    """A cell whose checkpoints' episodes succeed or not; on DMC success stands for a score of 1."""
    path = out / cell.folder
    run = Run.create(path, "train", TrainConfig(), space=0)
    for step, successes in enumerate(checkpoints, start=1):
        outcomes = [
            Outcome(k, k, None, None, None, float(s), 0.0, 5)
            if cell.task.startswith("dmc/")
            else Outcome(k, k, s, s, None, None, 0.0, 5)
            for k, s in enumerate(successes)
        ]
        write_record(run, Judged(step, outcomes, [], 0))
        assert record_path(run, step).exists()
    run.write_results([Metric("training_time", 12.5, "s")], {})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three of eight cells: CoIn 100 and 50 %, fine-tuned 50 % at the end and 75 % at its best."""
    finished(tmp_path, Cell("metaworld/hammer", "fine-tuned", 0), [True, True, True, False], [True, True, False, False])
    finished(tmp_path, Cell("metaworld/hammer", "coin", 0), [False] * 4, [True] * 4)
    finished(tmp_path, Cell("dmc/walker-walk", "coin", 0), [True, False, True, False])
    return tmp_path


def test_tables_say_what_the_cells_reached_and_which_are_missing(out: Path) -> None:
    text = control.write(CHOICE, out)
    assert (out / "table.md").read_text() == f"{text}\n"
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    rows = {line[0]: line[1:] for line in reversed(lines)}
    assert ["fine-tuned", "10", "12"] in lines  # epochs, seconds of training
    assert [cell.split(" ")[0] for cell in rows["fine-tuned"]] == ["", "75.0", "", "75.0", "75.0", "50.0", "1"]
    assert [cell.split(" ")[0] for cell in rows["fine-tuned + CoIn"]] == [
        "",
        "100.0",
        "50.0",
        "75.0",
        "75.0",
        "75.0",
        "2",
    ]
    assert rows["published: VC-1 B/16, fine-tuned + CoIn"][:4] == ["77.3", "95.7", "80.7", "84.6"]
    assert rows["metaworld/hammer"] == ["50 (75)", "100 (100)"]
    assert rows["dmc/walker-walk"] == ["", "50 (50)"]
    assert "fine-tuned + CoIn minus fine-tuned, last checkpoint: +50.0 (" in text
    assert "fine-tuned + CoIn minus fine-tuned, best checkpoint: +25.0 (" in text
    assert "1 pair of cells" in text
    missing = text.splitlines()[-1]
    assert missing.startswith("Missing cells (task, method, seeds): dmc/walker-walk fine-tuned 0,1; metaworld/hammer")
    assert missing.endswith("metaworld/hammer coin 1; dmc/walker-walk coin 1.")
    with (out / "cells.csv").open() as file:
        assert [row["best"] for row in csv.DictReader(file)] == ["0.75", "1.0", "0.5"]


def test_the_table_alone_is_written_by_the_command(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--budget", "cpu", "--tasks", *TASKS, "--methods", "fine-tuned", "coin", "--seeds", "0", "1"]
    assert main(["bench", "control", *chosen, "--out", str(out), "--table-only"]) == 0
    assert "fine-tuned + CoIn minus fine-tuned" in capsys.readouterr().out
    assert cv2.imread(str(out / "control.png")) is not None


def test_cells_share_all_but_what_is_compared() -> None:
    choice = Choice("paper", encoder="vc1-vit-b16")
    cells = choice.cells()
    assert len(cells) == 12 * 8 * 3
    assert [cell.seed for cell in cells[:96]] == [100] * 96
    configs = {m: choice.config(Cell("metaworld/hammer", m, 100), None) for m in METHODS}
    assert {config.demos for config in configs.values()} == {25}
    assert {config.history for config in configs.values()} == {3}
    assert configs["coin"].encoder.adapter == "coin"
    assert configs["gate-shut"].encoder.gate == "shut"
    assert configs["cnn"].encoder.name == "cnn"
    assert configs["frozen"].optimisation.epochs == 100
    without = {"cnn", "scratch", "frozen-random"}
    assert {c.encoder.name for m, c in configs.items() if m not in without} == {"vc1-vit-b16"}
    assert {configs[m].encoder.name for m in ("scratch", "frozen-random")} == {"vit-base"}
    assert configs["coin"].env == configs["frozen"].env


@pytest.mark.parametrize("scale", BUDGETS)
def test_every_cell_of_every_budget_is_a_valid_training(scale: str) -> None:
    choice = Choice(scale)  # type: ignore[arg-type]
    for cell in choice.cells():
        config = choice.config(cell, None)
        assert config.task == cell.task
        assert config.history == 3 or "proprioception" in find_task(cell.task).observe


def test_at_equal_cost_cheaper_methods_train_longer() -> None:
    choice = Choice("brief", equal_cost=True)
    configs = {m: choice.config(Cell("metaworld/hammer", m, 0), None) for m in METHODS}
    epochs = {method: config.optimisation.epochs for method, config in configs.items()}
    dearest = multiply_adds(configs["coin"]) * epochs["coin"]
    for method, config in configs.items():
        assert multiply_adds(config) * epochs[method] == pytest.approx(dearest, rel=0.5 / epochs[method])
        assert config.shift == 4
    assert epochs["coin"] == epochs["scratch"] == BUDGETS["brief"].optimisation.epochs
    assert epochs["coin"] < epochs["fine-tuned"] < epochs["frozen"] == epochs["frozen-random"] < epochs["cnn"]


def test_what_is_kept_on_disk_costs_nothing_again() -> None:
    """A frozen ViT-Tiny of 17 tokens: 12 blocks of 12 x 192 x 192 weights, and the embedding of 16 patches."""
    encoder = EncoderOptions("vit-tiny", adapter="none", train="frozen")
    config = TrainConfig(encoder=encoder, optimisation=Optimisation(shift=4))
    kept = dataclasses.replace(config, optimisation=Optimisation(shift=0))
    embedded = 17 * 12 * 12 * 192**2 + 16 * 3 * 16**2 * 192
    assert multiply_adds(config) - multiply_adds(kept) == pytest.approx(embedded, rel=0.03)


def test_wrong_choices_are_said() -> None:
    with pytest.raises(UsageError, match="unknown method 'coins'; nearest: coin"):
        Choice(methods=("coins",))
    with pytest.raises(UsageError, match="nearest: metaworld/hammer"):
        Choice(tasks=("metaworld/hamer",))
    assert main(["bench", "control", "--episodes", "0"]) == 2
