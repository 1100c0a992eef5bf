"""Train a control policy by reinforcement learning."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robovision.agents.reinforcement.config import RLConfig
from robovision.commands import Command, check_resumed, program, resumed_path
from robovision.commands.encoder_choice import choose, spell_out
from robovision.errors import UsageError
from robovision.run import Run, differences

RL = """Train a control policy from pixels by reinforcement learning with Stable-Baselines3.

SAC with random shifts (DrQ), TD3 or PPO; their own algorithms, our encoders. The run folder gets checkpoints,
results.json, curve.csv, curve.png, episodes.csv, evaluation.mp4, TensorBoard's events, and model.zip, which
plain Stable-Baselines3 loads: SAC.load("RUN/model.zip"), with VecNormalize.load("RUN/vecnormalize.pkl", envs) where
--normalise was given.

examples:
  robovision rl --task dmc/cartpole-swingup --env.frame-skip 8
  robovision rl --task lidar/navigate --env.observe lidar proprioception --lidar.model room
  robovision rl --task dmc/reacher-easy --keypoints.method strek
  robovision rl --encoder cnn
  robovision rl --algorithm td3 --options policy_delay=3 --out runs/td3
  robovision rl --resume runs/td3
  robovision rl --resume runs/td3 --steps 100_000
  robovision evaluate runs/td3 --episodes 100"""


@dataclass(frozen=True)
class Reinforce:
    """The options of `robovision rl`."""

    config: Annotated[RLConfig, tyro.conf.arg(name="")] = RLConfig()
    out: Path | None = None
    """The run folder; by default a new one under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; the other options must not differ from the run's, but --steps may be more: the
    learning rate does not depend on them."""


def _rl(options: Reinforce) -> int:
    try:
        from robovision.agents.reinforcement.train import Training, disk_space, resolve
    except ModuleNotFoundError as error:
        raise UsageError(f"robovision rl needs {error.name}: pip install 'robovision[rl]'") from error
    from robovision.envs.registry import try_out

    if options.resume is None:
        config = resolve(options.config)
        try_out(config.task, config.env)
        run = Run.create(options.out or _new_folder(config), "rl", config, disk_space(config))
    else:
        run = Run.open(options.resume)
        config = _resumed(run, options)
    print(_plan(config, run.path))
    try:
        with run.lock():
            metrics = Training(run, config).execute()
    except KeyboardInterrupt:
        print(f"\nstopped; continue with: {program()} rl --resume {run.path}", file=sys.stderr)
        return 130
    print(f"\n{config.evaluation.episodes} fresh starts")
    for metric in metrics:
        print(f"  {metric.name:<16} {metric}")
    print(f"\ncurve      {run.path / 'curve.png'}\nnumbers    {run.path / 'results.json'}")
    print(f"model      {run.path / 'model.zip'}\n\ntry next\n  {program()} evaluate {run.path} --episodes 100 --seed 7")
    return 0


def _resumed(run: Run, options: Reinforce) -> RLConfig:
    """The run's config, with more steps if they are asked for; run.json then has them, too."""
    before = run.config(RLConfig)
    config = dataclasses.replace(before, steps=max(before.steps, options.config.steps))
    check_resumed(differences(config, options.config), options.out)
    if config != before:
        run.amend(config, differences(before, config))
    return config


def _new_folder(config: RLConfig) -> Path:
    task = config.task.replace("/", "-")
    return Path("runs") / f"{task}-{config.algorithm}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def _plan(config: RLConfig, path: Path) -> str:
    given = [str(path) for path in (config.encoder.weights, config.lidar.weights) if path is not None]
    start = f"pretrained weights of {' and '.join(given)}" if given else "random weights"
    return (
        f"task      {config.task}, {config.steps:,} actions, seed {config.seed}\n"
        f"policy    {config.algorithm}, {config.sees}, from {start}\n"
        f"computes  {config.device}, {config.threads} threads, {config.envs} environments\n"
        f"run       {path}"
    )


def _prepare(arguments: list[str]) -> tuple[list[str], Reinforce]:
    full = spell_out(arguments)
    return full, _defaults(full)


def _defaults(arguments: Sequence[str]) -> Reinforce:
    """The defaults of `rl`: with --resume, those of the run, else those that fit the encoder that is named."""
    path = resumed_path(arguments)
    if path is not None:
        return Reinforce(config=Run.open(path, "rl").config(RLConfig), resume=path)
    usual = RLConfig()
    encoder, env = choose(arguments, usual.encoder, usual.env)
    return Reinforce(config=dataclasses.replace(usual, encoder=encoder, env=env))


COMMANDS = {"rl": Command(Reinforce, RL, _rl, _prepare)}
