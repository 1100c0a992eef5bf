"""Trains the experts of `robovision.envs.experts` with Stable-Baselines3, on the task's own state and reward.

    python -m robovision.envs.expert_training dmc/walker-walk dmc/walker-stand --out runs/experts

Every task gets a folder with its curve, its best expert so far and a checkpoint; the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import robovision.envs.rendering  # noqa: F401 - first: it chooses the backend that mujoco reads

# isort: split
import gymnasium
import numpy as np
import torch
import tyro
from dm_control import suite
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors.numpy import load_file
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from tqdm import tqdm

from robovision.envs.experts import CLIP, Array, Expert, ExpertInfo, file_name, flatten, load, save
from robovision.envs.registry import EnvOptions, make_simulation, resolve
from robovision.errors import UsageError, unknown
from robovision.files import cannot_write, write_csv, write_json
from robovision.progress import move
from robovision.seeding import derive

FRAME_SKIP = 2
"""Control steps for which an action is held, as the protocol has it: 500 actions an episode."""
ENVS = 8
"""Episodes that are played side by side in one process while training."""
WARM_UP = 4000
"""Random actions before the first gradient step."""
BUFFER = 400_000
"""Actions in the replay buffer."""
BEST = "best.safetensors"
LIBRARIES = ("stable-baselines3", "torch", "dm_control", "gymnasium-robotics", "mujoco", "gymnasium", "numpy")
Model = SAC | PPO


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one task is trained."""

    good: float
    """Training stops once the mean return of the selection's episodes reaches this."""
    steps: int
    """Or after this many actions."""
    interval: int = 10_000
    """Actions between two checkpoints, a multiple of the episodes side by side. The best becomes the expert."""
    selection: int = 10
    """Episodes that choose the best checkpoint."""
    report: int = 20
    """Fresh episodes that measure the expert at last."""
    gamma: float = 0.99
    """Discount an action."""
    learning_rate: float = 1e-3
    """Adam's."""
    hidden: int = 128
    """Units in each of the two hidden layers of actor and critics."""


@dataclass(frozen=True, kw_only=True)
class SACRecipe(Recipe):
    """By SAC (Haarnoja et al., 2018) with returns over several steps."""

    n_steps: int = 3
    """Rewards that are summed before a critic's estimate takes over."""
    updates: int = 2
    """Gradient steps after every 8 actions (one in each of the episodes side by side)."""


@dataclass(frozen=True, kw_only=True)
class PPORecipe(Recipe):
    """By PPO (Schulman et al., 2017) with the rewards divided by the returns' running deviation."""

    rollout: int = 4096
    """Actions, of all episodes side by side, before the policy is improved."""
    batch: int = 512
    """Actions a gradient step."""
    epochs: int = 8
    """Times that a rollout is gone through."""
    target_kl: float = 0.02
    """Divergence from the policy that acted, past which the rest of the epochs is left out."""
    log_std: float = -0.7
    """Logarithm of the actions' initial standard deviation."""


RECIPES: dict[str, Recipe] = {
    "dmc/walker-stand": SACRecipe(good=980, steps=400_000),
    "dmc/walker-walk": SACRecipe(good=950, steps=600_000),
    "dmc/reacher-easy": SACRecipe(good=975, steps=400_000),
    "dmc/finger-spin": SACRecipe(good=950, steps=600_000),
    "dmc/cheetah-run": SACRecipe(good=850, steps=1_000_000),
    "dmc/cartpole-balance": SACRecipe(good=995, steps=200_000),
    "dmc/cartpole-swingup": SACRecipe(good=870, steps=300_000),
    "dmc/ball_in_cup-catch": SACRecipe(good=970, steps=300_000),
    "dmc/pendulum-swingup": SACRecipe(good=820, steps=300_000),
    "dmc/point_mass-easy": SACRecipe(good=880, steps=300_000),
    "dmc/reacher-hard": SACRecipe(good=960, steps=400_000),
    "dmc/walker-run": SACRecipe(good=700, steps=1_000_000),
    "adroit/pen": PPORecipe(
        good=5000, steps=8_000_000, interval=96_000, selection=50, report=100, gamma=0.97, learning_rate=3e-4
    ),
}
"""The tasks that have an expert."""


class StateEnv(gymnasium.Env[Array, Array]):
    """A dm_control task as its state.

    Observation: float32 [S], the parts of dm_control's observation in their order, each with any finite value.
    Action: float32 [A] in the task's bounds, held for 2 control steps, whose rewards are summed. An episode lasts
    1000 control steps and is then truncated; it never terminates.
    """

    def __init__(self, task: str) -> None:
        domain, name = task.removeprefix("dmc/").split("-", 1)
        self._env = suite.load(domain, name)
        self.parts = {name: int(np.prod(spec.shape)) for name, spec in self._env.observation_spec().items()}
        actions = self._env.action_spec()
        self.observation_space = spaces.Box(-np.inf, np.inf, (sum(self.parts.values()),), np.float32)
        self.action_space = spaces.Box(actions.minimum.astype(np.float32), actions.maximum.astype(np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed % 2**32)
        return flatten(self._env.reset().observation), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        held = [self._env.step(action) for _ in range(FRAME_SKIP)]
        return flatten(held[-1].observation), sum(step.reward for step in held), False, held[-1].last(), {}


class HandEnv(gymnasium.Env[Array, Array]):
    """A task of Adroit's hand as its state, with the protocol's horizon, end and rule of success.

    Observation: float32 [S], the simulator's own, each number any finite value. Action: float32 [A] in -1..1, held
    for one control step. `info["success"]` judges the episode so far.
    """

    def __init__(self, task: str) -> None:
        self._simulation = make_simulation(task)
        self._horizon = resolve(task, EnvOptions()).horizon
        self.parts = {"state": self._simulation.state().size}
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.parts["state"],), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self._simulation.actions,), np.float32)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self._simulation.reset(self.np_random)
        self._steps = 0
        return self._simulation.state(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        reward, terminated = self._simulation.step(action)
        self._steps += 1
        truncated = self._steps >= self._horizon
        return self._simulation.state(), reward, terminated, truncated, self._simulation.judge()


def state_env(task: str) -> StateEnv | HandEnv:
    """A task as its state."""
    return StateEnv(task) if task.startswith("dmc/") else HandEnv(task)


@dataclass(frozen=True)
class Played:
    """Episodes that an expert played: their returns, float64 [episodes], and, where the task says, bool [episodes]
    whether each was solved at its end.
    """

    returns: NDArray[np.float64]
    solved: NDArray[np.bool_] | None


def play(expert: Expert, seeds: Sequence[int]) -> Played:
    """Whole episodes that an expert plays, one for each seed."""
    envs = [state_env(expert.info.task) for _ in seeds]
    states = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    returns, last = np.zeros(len(seeds)), [dict[str, Any]() for _ in seeds]
    going = list(range(len(seeds)))
    while going:
        still = []
        for k, action in zip(going, expert(states[going]), strict=True):
            states[k], reward, terminated, truncated, last[k] = envs[k].step(action)
            returns[k] += reward
            if not (terminated or truncated):
                still.append(k)
        going = still
    says = all("success" in info for info in last)
    return Played(returns, np.array([info["success"] for info in last]) if says else None)


def report_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of fresh episodes, used neither in training nor in choosing a checkpoint."""
    return [derive(seed, "report", k) for k in range(episodes)]


def build(task: str, recipe: Recipe, seed: int) -> Model:
    """A fresh model, whose observations are normalised by their running mean and variance."""
    shared: dict[str, Any] = {
        "learning_rate": recipe.learning_rate,
        "gamma": recipe.gamma,
        "seed": derive(seed, "training") % 2**31,
        "device": "cpu",
    }
    widths = [recipe.hidden] * 2
    if isinstance(recipe, PPORecipe):
        return PPO(
            "MlpPolicy",
            VecNormalize(_episodes(task), clip_obs=CLIP, gamma=recipe.gamma),
            n_steps=recipe.rollout // ENVS,
            batch_size=recipe.batch,
            n_epochs=recipe.epochs,
            target_kl=recipe.target_kl,
            policy_kwargs={"net_arch": widths, "log_std_init": recipe.log_std},
            **shared,
        )
    assert isinstance(recipe, SACRecipe)
    return SAC(
        "MlpPolicy",
        VecNormalize(_episodes(task), norm_reward=False, clip_obs=CLIP),
        buffer_size=BUFFER,
        learning_starts=WARM_UP,
        train_freq=1,
        gradient_steps=recipe.updates,
        n_steps=recipe.n_steps,
        policy_kwargs={"net_arch": widths, "optimizer_kwargs": {"fused": True}},
        **shared,
    )


def actor_tensors(model: Model) -> dict[str, NDArray[Any]]:
    """What `Expert` needs to act as the model's deterministic policy does."""
    normaliser = _normaliser(model)
    statistics = cast(RunningMeanStd, normaliser.obs_rms)  # it would be a dictionary if there were several states
    tensors = {"mean": statistics.mean, "std": np.sqrt(statistics.var + normaliser.epsilon)}
    for i, layer in enumerate(actor_layers(model)):
        tensors |= {f"layers.{i}.{name}": value.detach().numpy() for name, value in layer.named_parameters()}
    return tensors


def actor_layers(model: Model) -> list[nn.Linear]:
    """The layers that lead from the normalised state to the mean action, in their order."""
    policy: Any = model.policy
    modules = (
        [*policy.actor.latent_pi, policy.actor.mu]
        if isinstance(model, SAC)
        else [*policy.mlp_extractor.policy_net, policy.action_net]
    )
    return [module for module in modules if isinstance(module, nn.Linear)]


def train(task: str, recipe: Recipe, folder: Path, seed: int) -> Path:
    """Train a task's expert, or go on with it; returns its file, whose returns are of fresh episodes.

    Args:
        task: such as `dmc/walker-walk`.
        recipe: its settings.
        folder: where; made if there is none. The checkpoints go to a folder in it that is named after the task.
        seed: chooses the initial weights and states, and the actions' noise.

    Raises:
        UsageError: if the folder holds a training with other settings (but for its aim and what it reports, which may
            change), or can't be written.
    """
    home = folder / Path(file_name(task)).stem
    aim = ("good", "steps", "interval", "report")
    _prepare(home, {"seed": seed} | {name: v for name, v in dataclasses.asdict(recipe).items() if name not in aim})
    model, curve = _restore(home, task, recipe, seed) or (build(task, recipe, seed), [])
    watch = _Watch(task, recipe, home, seed, curve)
    if not watch.over():
        with tqdm(total=recipe.steps, initial=model.num_timesteps, unit="action", desc=task) as watch.bar:
            model.learn(recipe.steps - model.num_timesteps, watch, reset_num_timesteps=False)
    return finish(home / BEST, folder / file_name(task), report_seeds(seed, recipe.report))


def finish(source: Path, target: Path, seeds: Sequence[int]) -> Path:
    """Write an expert again, with its returns over fresh episodes; returns the new file."""
    expert = load(source)
    save(target, _with_results(expert.info, play(expert, seeds)), load_file(source))
    return target


class _Watch(BaseCallback):
    """Evaluates and saves the model at every interval, and ends the training once it is good."""

    def __init__(self, task: str, recipe: Recipe, home: Path, seed: int, curve: list[dict[str, float]]) -> None:
        super().__init__()
        versions = {name: version(name) for name in LIBRARIES}
        parts, skip = state_env(task).parts, resolve(task, EnvOptions()).frame_skip
        algorithm = "PPO" if isinstance(recipe, PPORecipe) else "SAC"
        self._info = ExpertInfo(task, algorithm, 0, seed, skip, parts, 0, 0.0, 0.0, versions)
        self._recipe, self._home, self._curve = recipe, home, curve
        self._seeds = [derive(seed, "selection", k) for k in range(recipe.selection)]
        self.bar: tqdm[Any]

    def over(self) -> bool:
        """Whether the training has reached its aim, or its number of actions."""
        return bool(self._curve) and (
            self._best() >= self._recipe.good or self._curve[-1]["steps"] >= self._recipe.steps
        )

    def _on_step(self) -> bool:
        move(self.bar, self.num_timesteps)
        if self.num_timesteps % self._recipe.interval:
            return True
        assert isinstance(self.model, Model)
        tensors = actor_tensors(self.model)
        info = dataclasses.replace(self._info, steps=self.num_timesteps)
        info = _with_results(info, play(Expert(info, tensors), self._seeds))
        if info.return_mean > self._best():
            save(self._home / BEST, info, tensors)
        point = {name: float(getattr(info, name)) for name in ("return_mean", "return_std")}
        self._curve.append({"steps": info.steps} | point | ({} if info.solved is None else {"solved": info.solved}))
        solved = "" if info.solved is None else f", solved {info.solved:.0%}"
        self.bar.set_postfix_str(f"return {info.return_mean:.0f}, best {self._best():.0f}{solved}")
        _checkpoint(self.model, self._home, self._curve)
        return not self.over()

    def _best(self) -> float:
        return max((point["return_mean"] for point in self._curve), default=-np.inf)


def _prepare(home: Path, settings: dict[str, Any]) -> None:
    """Make the training's folder and write down its settings, or check that they are the same."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(home, error) from error
    record = home / "settings.json"
    there = json.loads(record.read_text()) if record.exists() else settings
    differing = [
        f"{key}: {there.get(key)} there, {settings[key]} wanted" for key in settings if there.get(key) != settings[key]
    ]
    if differing:
        raise UsageError(f"{home} holds another training ({'; '.join(differing)}); choose another folder with --out")
    write_json(record, settings)


def _checkpoint(model: Model, home: Path, curve: list[dict[str, float]]) -> None:
    """Save everything that the training needs to go on, then drop what was saved before."""
    write_csv(home / "curve.csv", tuple(curve[0]), curve)
    before = list(home.glob("checkpoint-*"))
    place = home / f"checkpoint-{model.num_timesteps:09d}"
    try:
        place.mkdir(exist_ok=True)
        model.save(place / "model.zip")
        if isinstance(model, SAC):
            model.save_replay_buffer(place / "replay.pkl")
        _normaliser(model).save(str(place / "normalise.pkl"))
    except OSError as error:
        raise cannot_write(place, error) from error
    write_json(place / "curve.json", curve)  # last: a checkpoint without it is not whole
    for old in before:
        shutil.rmtree(old)


def _restore(home: Path, task: str, recipe: Recipe, seed: int) -> tuple[Model, list[dict[str, float]]] | None:
    """The model of the newest whole checkpoint and the curve up to there, or None if there is none."""
    whole = sorted(home.glob("checkpoint-*/curve.json"))
    if not whole:
        return None
    place = whole[-1].parent
    env = VecNormalize.load(str(place / "normalise.pkl"), _episodes(task))
    model: Model
    if isinstance(recipe, PPORecipe):
        model = PPO.load(place / "model.zip", env, device="cpu")
    else:
        chosen_by_n_steps: dict[str, Any] = {"replay_buffer_class": None}
        model = SAC.load(place / "model.zip", env, device="cpu", custom_objects=chosen_by_n_steps)
        model.load_replay_buffer(place / "replay.pkl")
    model.set_random_seed(derive(seed, "going on", model.num_timesteps) % 2**31)
    return model, json.loads(whole[-1].read_text())


def _episodes(task: str) -> DummyVecEnv:
    return DummyVecEnv([functools.partial(state_env, task)] * ENVS)


def _normaliser(model: Model) -> VecNormalize:
    normaliser = model.get_vec_normalize_env()
    assert normaliser is not None
    return normaliser


def _with_results(info: ExpertInfo, played: Played) -> ExpertInfo:
    returns = played.returns
    return dataclasses.replace(
        info,
        episodes=len(returns),
        return_mean=float(returns.mean()),
        return_std=float(returns.std(ddof=1)),
        solved=None if played.solved is None else float(played.solved.mean()),
    )


@dataclass(frozen=True)
class Options:
    """Train experts, one after another."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = tuple(RECIPES)
    """The tasks; by default all that have a recipe."""
    out: Path = Path("runs/experts")
    """The folder for the experts and their checkpoints."""
    seed: int = 0
    """Chooses the initial weights and states, and the actions' noise."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in RECIPES:
                raise unknown("task", task, RECIPES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong usage, 130 interrupted."""
    torch.set_num_threads(1)  # the networks are too small for more
    try:
        options = tyro.cli(Options, args=arguments, description=__doc__)
        for task in options.tasks:
            file = train(task, RECIPES[task], options.out, options.seed)
            info = load(file).info
            solved = "" if info.solved is None else f", {info.solved:.0%} solved"
            print(f"{file}: return {info.return_mean:.0f} ± {info.return_std:.0f}{solved} in {info.episodes} episodes")
    except UsageError as error:
        print(f"expert_training: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nexpert_training: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
