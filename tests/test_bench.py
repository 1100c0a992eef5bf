"""`robovision bench`: fair comparison, and tables of every measurement."""

from __future__ import annotations

import pytest

from robovision.bench.timing import Speed, compare, markdown
from robovision.cli import main


def test_ways_take_turns_and_are_compared_to_the_first() -> None:
    calls: list[str] = []
    speeds = compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, calls=3)
    assert "".join(calls) == "ab" + 2 * "aaabbb"
    assert speeds["a"].ratio == 1.0
    assert speeds["b"].seconds > 0


def test_a_rate_below_ten_keeps_its_digits() -> None:
    assert Speed(0.4, 1.25).rate() == "2.5 (1.2x)"
    assert markdown(["head"], [["x"]]).splitlines()[1] == "|------|"


def test_envs_prints_single_vectorised_workers_and_overhead(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "envs", "dmc/pendulum-swingup", "--sizes", "16", "--rounds", "1"]) == 0
    output = capsys.readouterr().out
    assert output.count("| dmc/pendulum-swingup, 0 | 16") == 3
    assert "overhead" in output
    assert "fastest" in output


def test_envs_refuses_what_it_cannot_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "envs", "dmc/walker-wlk"]) == 2
    assert main(["bench", "envs", "mjcf/arm.xml"]) == 2
    assert main(["bench", "envs", "--rounds", "0"]) == 2
    assert "dmc/walker-walk" in capsys.readouterr().err
