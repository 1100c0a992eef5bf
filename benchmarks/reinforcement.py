"""Our replay buffer and shared encoder beside Stable-Baselines3's own handling of the same network: time and memory.

    python benchmarks/reinforcement.py [--encoder.name vit-micro] [--size 64] [--stack 3]

Both learn with SAC from the same observations. Theirs: `MultiInputPolicy` with our encoder as its features extractor,
by its default one for the actor, one for the critic and one for the target; `DictReplayBuffer`. Ours: `PixelSACPolicy`
and `FrameReplayBuffer`. Seconds are of one core's work, whoever else uses it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from robovision.agents.config import EncoderOptions
from robovision.agents.reinforcement.extractor import PixelExtractor
from robovision.agents.reinforcement.policies import PixelSACPolicy
from robovision.agents.reinforcement.replay import FrameReplayBuffer
from robovision.bench.timing import Speed, compare, markdown

FILLED = 600
EPISODE = 125


@dataclass(frozen=True)
class Options:
    """What is measured."""

    encoder: EncoderOptions = EncoderOptions(name="vit-micro")
    size: int = 64
    """Side of the images in pixels."""
    stack: int = 3
    batch: int = 64
    slots: int = 10_000
    """Transitions that the buffers' memory is said for."""
    rounds: int = 7


class Noise(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """Images of noise, stacked, as fast as can be, so that only the learner's time counts."""

    render_mode = None

    def __init__(self, size: int, stack: int) -> None:
        shape = (3 * stack, size, size)
        self.observation_space: spaces.Dict = spaces.Dict({"pixels": spaces.Box(0, 255, shape, np.uint8)})
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._frames = np.random.default_rng(0).integers(0, 256, (97, 3, size, size), np.uint8)
        self._stack = stack
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._observe(), 0.0, False, self._steps == EPISODE, {}

    def _observe(self) -> dict[str, NDArray[Any]]:
        chosen = [max(0, self._steps - k) % len(self._frames) for k in reversed(range(self._stack))]
        return {"pixels": np.concatenate(self._frames[chosen])}


def learners(options: Options) -> dict[str, SAC]:
    """The ways of learning by name, each with a filled buffer; theirs comes first."""
    envs = DummyVecEnv([functools.partial(Noise, options.size, options.stack)])
    seen = {"encoder": options.encoder, "features": 128}
    shared: dict[str, Any] = {"buffer_size": 2 * FILLED, "learning_starts": FILLED, "seed": 0, "device": "cpu"}
    networks: dict[str, Any] = {"features_extractor_kwargs": seen, "optimizer_kwargs": {"fused": True}}
    theirs = {**networks, "features_extractor_class": PixelExtractor}
    ways = {
        "theirs": SAC("MultiInputPolicy", envs, policy_kwargs=theirs, **shared),
        "theirs, shared": SAC(
            "MultiInputPolicy", envs, policy_kwargs={**theirs, "share_features_extractor": True}, **shared
        ),
        "ours": SAC(
            PixelSACPolicy, envs, policy_kwargs=dict(networks), replay_buffer_class=FrameReplayBuffer, **shared
        ),
        "ours, shifted": SAC(
            PixelSACPolicy,
            envs,
            policy_kwargs=dict(networks),
            replay_buffer_class=FrameReplayBuffer,
            replay_buffer_kwargs={"shift": 4},
            **shared,
        ),
    }
    for model in ways.values():
        model.learn(FILLED)
    return ways


def row(name: str, ways: dict[str, SAC], rounds: int, call: Callable[[SAC], object], calls: int = 1) -> list[str]:
    """A line of the table: milliseconds of a call, and how much faster than theirs."""
    timed = {key: functools.partial(call, model) for key, model in ways.items()}
    speeds = compare(timed, rounds, calls, time.process_time)
    return [name, *(cell(speed) for speed in speeds.values())]


def cell(speed: Speed) -> str:
    """Milliseconds and ratio."""
    return f"{1e3 * speed.seconds:.3g} ms ({speed.ratio:.2f}x)"


def megabytes(model: SAC, options: Options) -> float:
    """The buffer's memory for so many transitions."""
    kind: Any = type(model.replay_buffer)
    buffer = kind(options.slots, model.observation_space, model.action_space, "cpu")
    if isinstance(buffer, FrameReplayBuffer):
        return buffer.nbytes / 1e6
    arrays = [*buffer.observations.values(), *buffer.next_observations.values(), buffer.actions, buffer.rewards]
    return sum(array.nbytes for array in (*arrays, buffer.dones, buffer.timeouts)) / 1e6


def act(model: SAC) -> None:
    """Five steps of an episode, as they are played."""
    envs = cast(DummyVecEnv, model.env)
    observation: Any = envs.reset()
    for _ in range(5):
        model.predict(observation)
        observation = envs.step(np.zeros((1, 1), np.float32))[0]


def remember(model: SAC) -> None:
    """One transition."""
    envs = cast(DummyVecEnv, model.env)
    before: Any = envs.reset()
    after, reward, done, infos = envs.step(np.zeros((1, 1), np.float32))
    assert model.replay_buffer is not None
    model.replay_buffer.add(before, cast(Any, after), np.zeros((1, 1)), reward, done, infos)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    options = tyro.cli(Options, description=__doc__)
    ways = learners(options)
    rows = [
        row("a gradient step", ways, options.rounds, lambda model: model.train(1, options.batch)),
        row(
            "drawing a batch",
            ways,
            options.rounds,
            lambda model: cast(Any, model.replay_buffer).sample(options.batch),
            5,
        ),
        row("remembering a step", ways, options.rounds, remember, 50),
        row("acting, five steps", ways, options.rounds, act, 3),
    ]
    memory = [megabytes(model, options) for model in ways.values()]
    rows.append(
        [f"buffer of {options.slots:,}", *(f"{size:,.0f} MB ({memory[0] / size:.1f}x less)" for size in memory)]
    )
    weights = [sum(p.numel() for p in model.policy.parameters()) / 1e6 for model in ways.values()]
    rows.append(["weights", *(f"{count:.2f} M" for count in weights)])
    network = f"{options.encoder.name} + {options.encoder.adapter}"
    print(f"{options.stack} x {options.size} px, batch {options.batch}, one thread, torch {torch.__version__}")
    print(markdown([network, *ways], rows))


if __name__ == "__main__":
    main()
