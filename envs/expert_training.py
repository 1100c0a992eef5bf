"""Trains the experts of `robovision.envs.experts` with Stable-Baselines3, on the task's own state and reward.

    python -m robovision.envs.expert_training dmc/walker-walk dmc/walker-stand --out runs/experts

Every task gets a folder with its curve, its best expert so far and a checkpoint; the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from robovision.envs.expert_envs import Played, play, report_seeds, state_env  # first: the backend that mujoco reads

# isort: split
import numpy as np
import torch
import tyro
from safetensors.numpy import load_file
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from tqdm import tqdm

from robovision.envs.expert_models import Model, actor_tensors, build, episodes, normaliser_of
from robovision.envs.expert_recipes import RECIPES, PPORecipe, Recipe
from robovision.envs.experts import Expert, ExpertInfo, file_name, load, save
from robovision.envs.registry import EnvOptions, resolve
from robovision.errors import UsageError, unknown
from robovision.files import cannot_write, write_csv, write_json
from robovision.progress import move
from robovision.seeding import derive

BEST = "best.safetensors"
LIBRARIES = ("stable-baselines3", "torch", "dm_control", "gymnasium-robotics", "mujoco", "gymnasium", "numpy")


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
        normaliser_of(model).save(str(place / "normalise.pkl"))
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
    env = VecNormalize.load(str(place / "normalise.pkl"), episodes(task))
    model: Model
    if isinstance(recipe, PPORecipe):
        model = PPO.load(place / "model.zip", env, device="cpu")
    else:
        chosen_by_n_steps: dict[str, Any] = {"replay_buffer_class": None}
        model = SAC.load(place / "model.zip", env, device="cpu", custom_objects=chosen_by_n_steps)
        model.load_replay_buffer(place / "replay.pkl")
    model.set_random_seed(derive(seed, "going on", model.num_timesteps) % 2**31)
    return model, json.loads(whole[-1].read_text())


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
