from __future__ import annotations

import numpy as np

from robovision.agents.evaluate import Outcome
from robovision.agents.video import FAILED, SOLVED, mosaic


def test_a_mosaic_marks_success_green_and_failure_red() -> None:
    films = [np.zeros((3, 16, 16, 3), np.uint8)] * 3
    outcomes = [
        Outcome(0, 0, success=True, success_any=True, first_success=3, score=None, total_reward=0.0, steps=6),
        Outcome(1, 0, success=False, success_any=True, first_success=1, score=None, total_reward=0.0, steps=6),
        Outcome(2, 0, success=False, success_any=False, first_success=None, score=None, total_reward=0.0, steps=6),
    ]
    corners = [(0, 0), (0, 16), (16, 0)]
    before, middle, end = (mosaic(films, outcomes, t, over) for t, over in ((0, False), (1, False), (2, True)))
    assert [tuple(before[c]) == SOLVED for c in corners] == [False, True, False]
    assert [tuple(middle[c]) == SOLVED for c in corners] == [True, True, False]
    assert [tuple(end[c]) for c in corners] == [SOLVED, FAILED, FAILED]
