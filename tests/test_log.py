from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from robovision.agents.log import Log
from robovision.run import Run
from tests.helpers import TINY


def test_numbers_go_to_tensorboard_and_only_where_set_up_to_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logged: list[tuple[object, ...]] = []
    ids: list[object] = []
    session = SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append(("finished",))
    )

    def init(**options: object) -> SimpleNamespace:
        logged.append((options["project"],))
        ids.append(options["id"])
        return session

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    run = Run.create(tmp_path / "run", "train", TINY, space=0)
    for step in (1, 2):
        log = Log(run, TINY, step)
        log.add(step, {"train/loss": 1 / step})
        log.close()
        assert logged == []
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    monkeypatch.setenv("WANDB_MODE", "offline")
    for other in (Run.open(run.path), Run.create(tmp_path / "other", "train", TINY, space=0)):
        Log(other, TINY).close()
    logged.clear()
    log = Log(run, TINY)
    assert ids[0] == ids[2] != ids[1]  # a resumed run goes on in its own place
    log.add(3, {"train/loss": 0.1})
    log.close()
    assert logged == [("robovision",), (3, {"train/loss": 0.1}), ("finished",)]
