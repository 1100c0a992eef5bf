from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer

from robovision.agents.reinforcement.replay import FrameReplayBuffer, Observation
from robovision.agents.reinforcement.shift import random_shift
from robovision.errors import UsageError

SIDE, STACK = 6, 3
SPACE = spaces.Dict(
    {
        "pixels": spaces.Box(0, 255, (3 * STACK, SIDE, SIDE), np.uint8),
        "felt": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    }
)
ACTIONS = spaces.Box(-1, 1, (1,), np.float32)
GAMMA = 0.9


class Player:
    """Random episodes whose every frame is unique; how a first stack is filled is as `fill` says."""

    def __init__(self, seed: int, fill: str) -> None:
        self.random = np.random.default_rng(seed)
        self.fill = fill
        self.begin()

    def frame(self) -> np.ndarray:
        return self.random.integers(0, 256, (3, SIDE, SIDE), np.uint8)

    def begin(self) -> None:
        first = self.frame()
        older = {"repeat": first, "zeros": np.zeros_like(first)}.get(self.fill)
        self.frames = [self.frame() if older is None else older for _ in range(STACK - 1)] + [first]
        self.felt = self.random.normal(size=2).astype(np.float32)

    def observe(self) -> Observation:
        return {"pixels": np.concatenate(self.frames), "felt": self.felt}

    def move(self) -> None:
        self.frames = [*self.frames[1:], self.frame()]
        self.felt = self.random.normal(size=2).astype(np.float32)


Step = dict[str, Any]


def play(buffer: FrameReplayBuffer, steps: int, fill: str, breaks: float = 0.0) -> list[list[Step]]:
    """Random steps added to the buffer, and the same by environment, in order."""
    players = [Player(k, fill) for k in range(buffer.n_envs)]
    random = np.random.default_rng(9)
    kept: list[list[Step]] = [[] for _ in players]
    for number in range(steps):
        rows: list[Step] = []
        for env, player in enumerate(players):
            if random.random() < breaks:
                player.begin()
            before = player.observe()
            player.move()
            done, cut = bool(random.random() < 0.15), bool(random.random() < 0.5)
            row = {"obs": before, "next": player.observe(), "action": number + 1000.0 * env, "done": done, "cut": cut}
            rows.append({**row, "reward": float(random.normal())})
            kept[env].append(rows[-1])
            if done:
                player.begin()
        observations, following = (
            {name: np.stack([row[key][name] for row in rows]) for name in SPACE.spaces} for key in ("obs", "next")
        )
        actions, rewards, ends = (np.array([row[key] for row in rows]) for key in ("action", "reward", "done"))
        infos = [{"TimeLimit.truncated": row["done"] and row["cut"]} for row in rows]
        buffer.add(observations, following, actions[:, None], rewards, ends, infos)
    return kept


def ahead(steps: list[Step], first: int, count: int) -> tuple[float, float, float, Observation]:
    """Discounted reward, discount, end and last observation of up to `count` steps, in the plainest way."""
    total, discount = 0.0, 1.0
    for number in range(first, first + count):
        step = steps[number]
        total += discount * step["reward"]
        discount *= GAMMA
        follows = number + 1 < len(steps) and np.array_equal(steps[number + 1]["obs"]["felt"], step["next"]["felt"])
        if step["done"] or not follows or number + 1 == first + count:
            return total, discount, float(step["done"] and not step["cut"]), step["next"]
    raise AssertionError


@pytest.mark.parametrize("fill", ["repeat", "zeros", "other"])
@pytest.mark.parametrize(("size", "steps"), [(400, 60), (64, 150)])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_every_drawn_transition_is_one_that_was_added(fill: str, size: int, steps: int, n_steps: int) -> None:
    np.random.seed(0)  # noqa: NPY002  Stable-Baselines3's own source
    buffer = FrameReplayBuffer(size, SPACE, ACTIONS, "cpu", n_envs=2, n_steps=n_steps, gamma=GAMMA)
    kept = play(buffer, steps, fill, breaks=0.05)
    drawn = buffer.sample(3000)
    seen = set()
    for k, action in enumerate(drawn.actions[:, 0].tolist()):
        env, number = int(action // 1000), int(action % 1000)
        seen.add(action)
        total, discount, done, last = ahead(kept[env], number, n_steps)
        assert drawn.rewards[k, 0].item() == pytest.approx(total, abs=1e-5)
        assert drawn.discounts is not None
        assert drawn.discounts[k, 0].item() == pytest.approx(discount)
        assert drawn.dones[k, 0].item() == done
        for name in SPACE.spaces:
            assert np.array_equal(drawn.observations[name][k].numpy(), kept[env][number]["obs"][name])
            assert np.array_equal(drawn.next_observations[name][k].numpy(), last[name])
    assert len(seen) == buffer.size()
    if size >= 400:
        assert buffer.size() == 2 * steps
    else:
        extra = {"repeat": 0, "zeros": 1, "other": 2}[fill]
        assert buffer.size() >= 2 * (size // 2 - STACK) * (1 - 0.25 * (1 + extra))
        newest = {1000.0 * env + steps - 1 - k for env in range(2) for k in range(8)}
        assert newest <= seen


def test_the_state_brings_the_same_draws_back() -> None:
    buffers = [FrameReplayBuffer(64, SPACE, ACTIONS, "cpu", n_envs=2, n_steps=2, shift=2) for _ in range(2)]
    play(buffers[0], 20, "repeat")
    buffers[1].load_state({name: value.copy() for name, value in buffers[0].state().items()})
    drawn = []
    for buffer in buffers:
        play(buffer, 30, "repeat")
        np.random.seed(1)  # noqa: NPY002  Stable-Baselines3's own source
        drawn.append(buffer.sample(50))
    assert torch.equal(drawn[0].observations["pixels"], drawn[1].observations["pixels"])
    assert torch.equal(drawn[0].rewards, drawn[1].rewards)
    assert len(buffers[0].state()["actions"]) == 32


def test_a_frame_is_kept_once() -> None:
    """Six times less than Stable-Baselines3's buffer for a stack of three."""
    side = 64
    space = spaces.Dict({"pixels": spaces.Box(0, 255, (9, side, side), np.uint8)})
    ours, theirs = FrameReplayBuffer(100, space, ACTIONS, "cpu"), DictReplayBuffer(100, space, ACTIONS, "cpu")
    plain = theirs.observations["pixels"].nbytes + theirs.next_observations["pixels"].nbytes
    assert ours.frames["pixels"].nbytes * 6 == plain
    assert ours.nbytes < plain / 5.9


def test_a_shift_moves_the_whole_stack_and_repeats_the_border() -> None:
    images = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6).expand(200, 2, 6, 6).contiguous()
    moved = random_shift(images, 2, torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8
    assert torch.equal(moved[:, 0], moved[:, 1])
    offsets = set()
    for image in moved[:, 0].int():
        dy, dx = divmod(int(image[2, 2]) - 14, 6) if int(image[2, 2]) % 6 < 5 else (int(image[2, 2]) // 6 - 2, 0)
        offsets.add(int(image[2, 2]))
        rows, columns = (torch.arange(6) + int(image[2, 2]) // 6 - 2), (torch.arange(6) + int(image[2, 2]) % 6 - 2)
        expected = images[0, 0].int()[rows.clamp(0, 5)][:, columns.clamp(0, 5)]
        assert torch.equal(image, expected), (dy, dx)
    assert len(offsets) == 25


def test_wrong_use_is_said() -> None:
    with pytest.raises(UsageError, match="for dictionaries of observations, not for Box"):
        FrameReplayBuffer(10, SPACE["pixels"], ACTIONS)
    with pytest.raises(UsageError, match="leave out optimize_memory_usage"):
        FrameReplayBuffer(10, SPACE, ACTIONS, optimize_memory_usage=True)
    buffer = FrameReplayBuffer(10, SPACE, ACTIONS, "cpu")
    with pytest.raises(UsageError, match="is empty"):
        buffer.sample(1)
    player = Player(0, "repeat")
    before = player.observe()
    other = Player(1, "other").observe()
    with pytest.raises(UsageError, match="'pixels' is no stack of the last 3 RGB frames"):
        buffer.add(
            {name: value[None] for name, value in before.items()},
            {name: value[None] for name, value in other.items()},
            np.zeros((1, 1)),
            np.zeros(1),
            np.zeros(1),
            [{}],
        )
