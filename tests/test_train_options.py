from __future__ import annotations

import dataclasses

import pytest

from robovision.agents.config import Optimisation, TrainConfig
from robovision.errors import UsageError
from tests.helpers import TINY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "metaworld/hamer"}, "nearest: metaworld/hammer"),
        ({"demos": 0}, "at least 1 demonstration"),
        ({"noise": 5}, r"noise must lie in 0\.\.1"),
        ({"env": dataclasses.replace(TINY.env, horizon=501)}, "ends after 500 steps: horizon 501"),
        ({"history": 0}, "at least 1 image"),
        ({"env": dataclasses.replace(TINY.env, size=40)}, "multiple of the patch"),
        ({"threads": -1}, "must not be negative"),
    ],
)
def test_wrong_options_are_said(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**changes)  # type: ignore[arg-type]


def test_wrong_optimisation_is_said() -> None:
    with pytest.raises(UsageError, match="epochs must be positive, got 0"):
        Optimisation(epochs=0)
    with pytest.raises(UsageError, match=r"batch \(10\) must be a multiple of clip \(4\)"):
        Optimisation(batch=10, clip=4)
    with pytest.raises(UsageError, match=r"batch \(4\) must hold at least two clips \(4\)"):
        Optimisation(batch=4, clip=4)
