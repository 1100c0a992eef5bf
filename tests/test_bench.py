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


def test_encoders_are_timed_beside_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    arguments = ["bench", "encoders", "vit-tiny", "dinov2-vit-s14", "--batch", "1", "--rounds", "1"]
    assert main([*arguments, "--size", "112", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    rows = [line.split("|") for line in output.splitlines() if line.startswith(("| vit-tiny", "| dinov2-vit-s14"))]
    assert [row[4].strip() for row in rows] == 2 * ["float32", "float32", "bfloat16", "bfloat16"]
    for row in rows:
        assert float(row[6]) > 0
        assert "x)" in row[7]
        assert row[9].strip().endswith("%")


def test_encoders_without_transformers_or_coin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robovision.bench import encoders

    monkeypatch.setattr(encoders, "has_transformers", lambda: False)
    assert main(["bench", "encoders", "resnet50", "--batch", "2", "--rounds", "1", "--size", "32"]) == 0
    output = capsys.readouterr().out
    assert "pip install transformers" in output
    row = next(line.split("|") for line in output.splitlines() if line.startswith("| resnet50"))
    assert [row[k].strip() for k in (6, 8, 9, 10, 12)] == 5 * ["-"]
    assert float(row[7]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit-tyni"], "nearest: vit-tiny"),
        (["vit-tiny", "--size", "50"], "--size must be a multiple of the patch"),
        (["vit-tiny", "--batch", "0"], "--batch must be at least 1, got 0"),
    ],
)
def test_encoders_refuses_what_it_cannot_measure(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "encoders", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_envs_refuses_what_it_cannot_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "envs", "dmc/walker-wlk"]) == 2
    assert main(["bench", "envs", "mjcf/arm.xml"]) == 2
    assert main(["bench", "envs", "--rounds", "0"]) == 2
    assert "dmc/walker-walk" in capsys.readouterr().err
