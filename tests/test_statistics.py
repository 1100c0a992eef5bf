from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robovision.agents import statistics
from robovision.agents.evaluate import Judged, Outcome
from robovision.agents.report import episode_scores, together
from robovision.bench.control import _percent, _signed
from robovision.bench.control_chart import draw
from robovision.errors import UsageError


def judged(successes: list[bool | None], score: float | None = None) -> Judged:
    outcomes = [Outcome(k, k, s, s, None, score, 1.0 + k, 5) for k, s in enumerate(successes)]
    return Judged(1, outcomes, [], 0)


def test_means_by_hand() -> None:
    tasks = [np.array([0.0, 1.0]), np.array([0.2, 0.4])]
    assert float(statistics.mean(tasks)) == pytest.approx(0.4)
    eight = [np.arange(8.0)]
    assert float(statistics.interquartile_mean(eight)) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert float(statistics.interquartile_mean([np.array([1.0, 5.0, 9.0])])) == pytest.approx(5)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    truth, covered = 0.6, 0
    for _ in range(300):
        scores = [(random.random((4, 25)) < truth).astype(float) for _ in range(2)]
        found = statistics.metric("success", scores, resamples=200)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 300 <= 1.0


def test_strata_keep_their_weight() -> None:
    """Each task counts alike, whatever it varies; without any variation there is no interval."""
    found = statistics.metric("success", [np.zeros((5, 10)), np.ones((2, 10))])
    assert (found.value, found.low, found.high, found.count) == (0.5, 0.5, 0.5, 7)


def test_empty_and_flat_scores_are_refused() -> None:
    for wrong in ([], [np.zeros((0, 5))], [np.zeros(5)]):
        with pytest.raises(ValueError, match=r"scores must be \[seeds, episodes\]"):
            statistics.metric("success", wrong)


def test_runs_are_judged_together_by_task() -> None:
    runs = [("a", judged([True, False])), ("a", judged([True, True])), ("b", judged([None, None], score=0.25))]
    metrics = {metric.name: metric for metric in together(runs)}
    assert metrics["a"].value == pytest.approx(0.75)
    assert metrics["b"].value == pytest.approx(0.25)
    assert metrics["mean"].value == pytest.approx(0.5)
    assert metrics["mean"].count == 3
    with pytest.raises(UsageError, match="equally many episodes"):
        together([("a", judged([True])), ("a", judged([True, True]))])
    with pytest.raises(UsageError, match="neither success nor a score"):
        episode_scores(judged([None]))


def test_returns_and_scores_have_intervals() -> None:
    score, total = judged([None] * 6, score=0.5).metrics()
    assert (score.name, score.value, score.low, score.high) == ("score", 0.5, 0.5, 0.5)
    assert (total.unit, total.count) == ("reward", 6)
    assert total.low is not None
    assert total.high is not None
    assert total.low < total.value < total.high


def test_one_episode_has_no_interval(tmp_path: Path) -> None:
    score, total = judged([None], score=0.5).metrics()
    assert (score.value, score.low, score.high, score.confidence, score.count) == (0.5, None, None, None, 1)
    assert str(total) == "1 reward (n = 1)"
    one = statistics.metric("one minus other", [np.array([[-0.25]])])
    draw(tmp_path / "one.png", {"one": {"a": np.array([[0.5]]), "b": np.array([[0.25]])}})
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (_percent(one), _signed(one)) == ("-25.0", "-25.0, 1 pair of cells")
