"""A replay buffer that keeps every frame once, as uint8, and shifts images at random as they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from robovision.agents.reinforcement.shift import random_shift
from robovision.errors import UsageError

Observation = dict[str, NDArray[Any]]
RGB = 3


class FrameReplayBuffer(ReplayBuffer):
    """Transitions whose observations are stacks of frames, for SAC and TD3 with dictionaries of observations.

    A slot holds one frame and, unless an episode ends with it, the transition that begins there; the next observation
    is the next slot. Stable-Baselines3's own buffer holds a stack of k frames twice for each transition: 2 k frames
    where this holds one. An episode of T transitions takes T + 1 slots (and up to k - 1 more if its first stack is not
    one frame repeated), so that the buffer holds a little less than `buffer_size` transitions. A step in which the
    simulator was lost is left out.

    Args:
        buffer_size: slots, over all environments.
        observation_space: a dictionary; images uint8 [3 k, H, W] are stacks of RGB frames, oldest first.
        action_space, device, n_envs, handle_timeout_termination: as in Stable-Baselines3.
        optimize_memory_usage: must be False; Stable-Baselines3 passes it on.
        shift: images are drawn moved by up to this many pixels, one move a stack, the border repeated (DrQ, Yarats et
            al., ICLR 2021); 0: as they are.
        n_steps: rewards of so many steps are summed before the critic's estimate follows.
        gamma: the discount within them.

    Raises:
        UsageError: if the observations are no dictionary or `optimize_memory_usage` is asked for; on adding, if the
            next observation's stack doesn't continue the present one.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        shift: int = 0,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        super(ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if not isinstance(observation_space, spaces.Dict):
            raise UsageError(f"FrameReplayBuffer is for dictionaries of observations, not for {observation_space}")
        if optimize_memory_usage:
            raise UsageError("FrameReplayBuffer keeps each frame once as it is: leave out optimize_memory_usage")
        self.buffer_size = max(buffer_size // n_envs, 2)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.shift, self.n_steps, self.gamma = shift, n_steps, gamma
        self.stacks = {name: _frames(space) for name, space in observation_space.spaces.items()}
        self._context = max(self.stacks.values()) - 1
        places = (self.buffer_size, n_envs)
        self.frames = {
            name: np.zeros((*places, *_frame_shape(space)), space.dtype)
            for name, space in observation_space.spaces.items()
        }
        self.actions = np.zeros((*places, self.action_dim), np.float32)
        self.rewards = np.zeros(places, np.float32)
        self.dones = np.zeros(places, np.float32)
        self.timeouts = np.zeros(places, np.float32)
        self.begins = np.zeros(places, bool)
        """Whether a transition begins at the slot."""
        self.ages = np.zeros(places, np.int32)
        """Slots of the same episode before this one."""
        self.heads = np.zeros(n_envs, np.int64)
        """The slot that is written next, counted without end."""
        self._open: list[Observation | None] = [None] * n_envs

    def size(self) -> int:
        """Transitions that can be drawn."""
        return int(self.begins.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        kept = [*self.frames.values(), self.actions, self.rewards, self.dones, self.timeouts, self.begins, self.ages]
        return sum(array.nbytes for array in kept)

    def add(  # type: ignore[override]
        self,
        obs: Observation,
        next_obs: Observation,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        for env in range(self.n_envs):
            if "worker_lost" in infos[env]:  # what the step led to is not known
                self._open[env] = None
                continue
            before = {name: value[env] for name, value in obs.items()}
            after = {name: np.array(value[env]) for name, value in next_obs.items()}
            self._check_continues(before, after)
            if not _same(self._open[env], before):
                self._begin(env, before)
            slot = (self.heads[env] - 1) % self.buffer_size
            self.actions[slot, env] = np.ravel(action[env])
            self.rewards[slot, env], self.dones[slot, env] = reward[env], done[env]
            timeout = infos[env].get("TimeLimit.truncated", False)
            self.timeouts[slot, env] = timeout and self.handle_timeout_termination
            self._write(env, self._newest(after), int(self.ages[slot, env]) + 1)
            self.begins[slot, env] = True
            self._open[env] = None if done[env] else after
        self.pos, self.full = int(self.heads.min() % self.buffer_size), bool((self.heads >= self.buffer_size).all())

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        slots, envs = self._draw(batch_size)
        reward, discount, done, last = self._look_ahead(slots, envs)
        return DictReplayBufferSamples(
            observations=self._observe(slots, envs, env),
            actions=self.to_torch(self.actions[slots, envs]),
            next_observations=self._observe(last, envs, env),
            dones=self.to_torch(done[:, None]),
            rewards=self.to_torch(self._normalize_reward(reward[:, None], env)),
            discounts=self.to_torch(discount[:, None]),
        )

    def reset(self) -> None:
        super().reset()
        self.begins[:] = False
        self.heads[:] = 0
        self._open = [None] * self.n_envs

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is in use, by name, to be written to disk."""
        used = int(min(self.heads.max(), self.buffer_size))
        arrays = {f"frames.{name}": value for name, value in self.frames.items()} | self._arrays()
        return {name: value[:used] for name, value in arrays.items()} | {"heads": self.heads}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """The reverse of `state`; what is added next begins a new episode."""
        self.reset()
        for name, value in ({f"frames.{name}": v for name, v in self.frames.items()} | self._arrays()).items():
            value[: len(state[name])] = state[name]
        self.heads[:] = state["heads"]
        self.pos, self.full = int(self.heads.min() % self.buffer_size), bool((self.heads >= self.buffer_size).all())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        names = ("actions", "rewards", "dones", "timeouts", "begins", "ages")
        return {name: getattr(self, name) for name in names}

    def _check_continues(self, before: Observation, after: Observation) -> None:
        """Raise UsageError unless all frames of a stack but the newest are those of the stack before."""
        for name, count in self.stacks.items():
            if count > 1 and not np.array_equal(after[name][:-RGB], before[name][RGB:]):
                raise UsageError(
                    f"{name!r} is no stack of the last {count} RGB frames, oldest first, that moves on by one a step"
                )

    def _newest(self, observation: Observation) -> Observation:
        return {name: value[-RGB:] if self.stacks[name] > 1 else value for name, value in observation.items()}

    def _begin(self, env: int, observation: Observation) -> None:
        """Write an episode's first observation: one slot, or one a frame if its frames differ."""
        age = 0
        for back in range(self._context, 0, -1):
            older = {name: _frame(value, back, self.stacks[name]) for name, value in observation.items()}
            oldest = {name: _frame(value, self._context, self.stacks[name]) for name, value in observation.items()}
            if age or not _same(oldest, {n: _frame(v, back - 1, self.stacks[n]) for n, v in observation.items()}):
                self._write(env, older, age)
                age += 1
        self._write(env, self._newest(observation), age)

    def _write(self, env: int, frame: Observation, age: int) -> None:
        slot = self.heads[env] % self.buffer_size
        for name, value in frame.items():
            self.frames[name][slot, env] = value
        self.ages[slot, env], self.begins[slot, env] = age, False
        self.heads[env] += 1
        distance = np.arange(1, self._context + 1)
        behind = (slot + distance) % self.buffer_size  # of the oldest ones that are left, an older frame goes now
        self.begins[behind, env] &= self.ages[behind, env] < distance

    def _draw(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots and environments of transitions, all equally likely."""
        if not self.begins.any():
            raise UsageError("the replay buffer is empty: nothing can be drawn yet")
        chosen = np.empty((2, 0), np.int64)
        top = int(min(self.heads.max(), self.buffer_size))
        while chosen.shape[1] < count:
            drawn = np.stack([np.random.randint(n, size=count) for n in (top, self.n_envs)])  # noqa: NPY002  seeded by SB3
            chosen = np.concatenate([chosen, drawn[:, self.begins[drawn[0], drawn[1]]]], axis=1)
        return chosen[0, :count], chosen[1, :count]

    def _look_ahead(
        self, slots: NDArray[np.int64], envs: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Rewards summed over the next `n_steps`, discount and end thereafter, and the slot of the observation then."""
        reward, discount, done = np.zeros(len(slots), np.float32), np.ones(len(slots), np.float32), np.zeros(len(slots))
        going, place = np.ones(len(slots), bool), slots.copy()
        for _ in range(self.n_steps):
            reward += np.where(going, discount * self.rewards[place, envs], 0)
            discount = np.where(going, discount * np.float32(self.gamma), discount)
            ends = self.dones[place, envs] > 0
            done = np.where(going & ends, 1 - self.timeouts[place, envs], done)
            place = np.where(going, (place + 1) % self.buffer_size, place)
            going &= ~ends & self.begins[place, envs]
        return reward, discount, done.astype(np.float32), place

    def _observe(
        self, slots: NDArray[np.int64], envs: NDArray[np.int64], normalise: VecNormalize | None
    ) -> dict[str, Tensor]:
        """The observations of slots, images shifted."""
        seen = {}
        for name, count in self.stacks.items():
            back = np.minimum(np.arange(count - 1, -1, -1)[None], self.ages[slots, envs][:, None])
            frames = self.frames[name][(slots[:, None] - back) % self.buffer_size, envs[:, None]]
            seen[name] = frames.reshape(len(slots), *self.obs_shape[name])  # type: ignore[call-overload]
        normalised = self._normalize_obs(seen, normalise)
        assert isinstance(normalised, dict)
        tensors = {name: self.to_torch(value, copy=False) for name, value in normalised.items()}
        return {name: self._shifted(value) if _is_image(seen[name]) else value for name, value in tensors.items()}

    def _shifted(self, images: Tensor) -> Tensor:
        if not self.shift:
            return images
        generator = torch.Generator().manual_seed(int(np.random.randint(2**31)))  # noqa: NPY002  seeded by SB3
        return random_shift(images, self.shift, generator)


def _is_image(value: NDArray[Any]) -> bool:
    return value.dtype == np.uint8 and value.ndim == 4


def _frames(space: spaces.Space[Any]) -> int:
    """How many RGB frames an observation stacks; 1 for anything else."""
    shape = space.shape or ()
    return shape[0] // RGB if space.dtype == np.uint8 and len(shape) == 3 and shape[0] % RGB == 0 else 1


def _frame_shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    shape = tuple(space.shape or ())
    return (RGB, *shape[1:]) if _frames(space) > 1 else shape


def _frame(value: NDArray[Any], back: int, count: int) -> NDArray[Any]:
    """The frame so many steps before the newest, the oldest if the stack does not reach as far."""
    if count == 1:
        return value
    first = RGB * max(count - 1 - back, 0)
    return value[first : first + RGB]


def _same(one: Observation | None, other: Observation) -> bool:
    return one is not None and all(np.array_equal(one[name], other[name]) for name in other)
