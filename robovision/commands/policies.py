"""Train a control policy, evaluate one."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robovision.agents.config import TrainConfig
from robovision.agents.reinforcement.config import RLConfig
from robovision.commands import Command, check_resumed, check_workers, process_count, program, resumed_path
from robovision.commands.encoder_choice import choose, spell_out
from robovision.errors import UsageError
from robovision.run import Run, differences
from robovision.types import Metric

TRAIN = """Train a control policy from pixels by behaviour cloning.

With no arguments: records 25 demonstrations of metaworld/drawer-open, trains ViT-Tiny + CoIn on them from random
weights and evaluates on 25 fresh goals. The run folder gets checkpoints, results.json, curve.png, curve.csv,
episodes.csv and evaluation.mp4.

examples:
  robovision train
  robovision train --task metaworld/hammer --seed 1 --out runs/hammer
  robovision train --encoder.name vit-tiny-sim
  robovision train --encoder strek
  robovision train --resume runs/hammer
  robovision train --data demos/hammer --history 3 --optimisation.clip 8 --encoder clip-vit-b16 \\
    --optimisation.pretrained-lr 1e-4
  torchrun --nproc-per-node 4 -m robovision.cli train --out runs/hammer --optimisation.batch 256"""

EVALUATE = """Play episodes with a trained policy and say how often it succeeds, with a 95 % interval.

examples:
  robovision evaluate runs/hammer
  robovision evaluate runs/hammer --checkpoint best --episodes 100 --seed 7 --horizon 500
  robovision evaluate runs/hammer --checkpoint all
  robovision evaluate runs/hammer-seed0 runs/hammer-seed1 runs/assembly-seed0"""


@dataclass(frozen=True)
class Train:
    """The options of `robovision train`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()
    out: Path | None = None
    """The run folder; by default a new one under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; the other options must not differ from the run's. Not even more epochs: over
    those of the run the learning rate falls to 0. (`robovision rl` takes more steps.) But --data may say where the
    demonstrations are if they were moved."""


@dataclass(frozen=True)
class Evaluate:
    """The options of `robovision evaluate`."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folder; several are judged together too, those of one task as its seeds."""
    checkpoint: str = "final"
    """final, best (of the evaluated ones), the number of a step, or all that are kept."""
    episodes: int = 25
    """How many episodes, each with its own goal."""
    seed: int = 1000
    """Chooses the goals; the evaluations while training use the run's own seed."""
    horizon: int | None = None
    """Steps an episode; by default as in training."""
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores, here or in the cluster."""
    ray: str | None = None
    """Play on a Ray cluster: its address, as `auto`, or `local` for one of this machine's cores."""
    out: Path | None = None
    """Folder for results, CSV and video; by default a new one inside the run folder. Only for a single run."""

    def __post_init__(self) -> None:
        check_workers(self.workers)
        if not self.runs:
            raise UsageError("which run? robovision evaluate RUN")
        if len(self.runs) > 1 and (self.out is not None or self.checkpoint == "all"):
            raise UsageError("several runs have a folder each, and one checkpoint each: leave out --out and `all`")


def _train(options: Train) -> int:
    from robovision.agents import distributed
    from robovision.agents.train import Training
    from robovision.devices import resolve_device

    began = time.monotonic()
    distributed.join(resolve_device(options.config.device))
    first = distributed.rank() == 0
    run, config = _run(options)
    if first:
        print(_plan(config, run.path))
    try:
        with run.lock() if first else contextlib.nullcontext():
            metrics = Training(run, config).execute()
    except KeyboardInterrupt:
        print(f"\nstopped; continue with: {program()} train --resume {run.path}", file=sys.stderr)
        return 130
    finally:
        distributed.leave()
    if first:
        print(_summary(run.path, {m.name: str(m) for m in metrics}, time.monotonic() - began))
    return 0


def _run(options: Train) -> tuple[Run, TrainConfig]:
    """The run folder, which the first of several processes makes, and its config."""
    from robovision.agents import distributed
    from robovision.agents.data import follow
    from robovision.agents.train import create, resolve

    if options.resume is not None:
        run = Run.open(options.resume)
        asked = options.config
        began = run.config(TrainConfig)
        config = follow(began, asked.data)
        if asked.data is not None:
            asked = dataclasses.replace(asked, data=asked.data.resolve())
        check_resumed(differences(config, asked), options.out)
        if config != began and distributed.rank() == 0:
            run.amend(config, differences(began, config))
        return run, config
    config = resolve(options.config)
    path = Path(distributed.agree(str(options.out or _new_folder(Path("runs"), config.task, config.seed))))
    with distributed.first_alone():
        first = distributed.rank() == 0
        run = create(path, config) if first else Run.open(path)
    return run, config


def _evaluate(options: Evaluate) -> int:
    from robovision.agents.report import evaluate_checkpoints, evaluate_run, together

    judged = []
    for path in options.runs:
        run = Run.open(path)
        config = _trial(run, options)
        out = options.out or path / "evaluations" / _evaluation_name(options)
        if options.checkpoint == "all":
            _show(evaluate_checkpoints(run, config, out, options.ray))
            print(f"\ncurve      {out / 'checkpoints.png'}\nnumbers    {out / 'checkpoints.csv'}")
            return 0
        judged.append((config.task, evaluate_run(run, config, options.checkpoint, out, options.ray)))
        if len(options.runs) > 1:
            print(f"{path}")
        _show(judged[-1][1].metrics())
        print(f"\nwatch      {out / 'evaluation.mp4'}\nnumbers    {out / 'results.json'}, {out / 'episodes.csv'}")
    if len(judged) > 1:
        print(f"\n{len(judged)} runs together")
        _show(together(judged))
    return 0


def _trial(run: Run, options: Evaluate) -> TrainConfig | RLConfig:
    """The run's config with the episodes that are asked for."""
    from robovision.agents.agent import require_policy

    require_policy(run)
    config = run.config(RLConfig) if run.job == "rl" else run.config(TrainConfig)
    return dataclasses.replace(
        config,
        seed=options.seed,
        workers=process_count(options.workers, options.ray, options.episodes),
        env=config.env if options.horizon is None else dataclasses.replace(config.env, horizon=options.horizon),
        evaluation=dataclasses.replace(config.evaluation, episodes=options.episodes),
    )


def _show(metrics: Sequence[Metric]) -> None:
    for metric in metrics:
        print(f"{metric.name:<18} {metric}")


def _defaults(arguments: Sequence[str]) -> Train:
    """The defaults of `train`: with --resume, those of the run, else those that fit the encoder that is named."""
    path = resumed_path(arguments)
    if path is not None:
        return Train(config=Run.open(path, "train").config(TrainConfig), resume=path)
    usual = TrainConfig()
    encoder, env = choose(arguments, usual.encoder, usual.env)
    return Train(config=dataclasses.replace(usual, encoder=encoder, env=env))


def _evaluation_name(options: Evaluate) -> str:
    horizon = "" if options.horizon is None else f"-horizon{options.horizon}"
    return f"{options.checkpoint}-seed{options.seed}-episodes{options.episodes}{horizon}"


def _new_folder(parent: Path, task: str, seed: int) -> Path:
    return parent / f"{task.replace('/', '-')}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def _plan(config: TrainConfig, path: Path) -> str:
    encoder = config.encoder
    adapter = " + CoIn" if encoder.adapter.startswith("coin") else ""
    start = f"pretrained weights of {encoder.weights}" if encoder.weights else "random weights"
    return (
        f"task      {config.task}, {config.demos} demonstrations, seed {config.seed}\n"
        f"policy    {encoder.name}{adapter} at {config.env.size} px from {start}\n"
        f"computes  {config.device}, {config.optimisation.precision}, {config.threads} threads\n"
        f"run       {path}"
    )


def _summary(path: Path, metrics: dict[str, str], seconds: float) -> str:
    video = path / "evaluation.mp4"
    film = f"watch      {video}\n" if video.exists() else ""
    labels = {"success": "success, at the last step", "success_any_step": "success, at any step"}
    shown = {labels.get(name, name): text for name, text in metrics.items() if name != "training_time"}
    results = "".join(f"  {label.replace('_', ', '):<28} {text}\n" for label, text in shown.items())
    return (
        f"\non fresh starts\n{results}"
        f"time       {seconds / 60:.1f} min, of which training {metrics['training_time']}\n\n"
        f"{film}"
        f"curve      {path / 'curve.png'}\n"
        f"numbers    {path / 'results.json'}, {path / 'episodes.csv'}\n"
        f"weights    {path / 'checkpoints'}\n\n"
        f"try next\n"
        f"  {program()} evaluate {path} --episodes 100 --seed 7\n"
        f"  {program()} train --task metaworld/button-press-topdown\n"
        f"  {program()} demos --list"
    )


def _prepare(arguments: list[str]) -> tuple[list[str], Train]:
    full = spell_out(arguments)
    return full, _defaults(full)


COMMANDS = {
    "train": Command(Train, TRAIN, _train, _prepare),
    "evaluate": Command(Evaluate, EVALUATE, _evaluate),
}
