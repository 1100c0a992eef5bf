"""Behaviour cloning: demonstrations, training, evaluation, one run folder.

Everything random depends on the seed and the step alone, so a run that was killed goes on as if nothing had
happened: on the CPU its final weights are the same, bit by bit.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from robovision import recorded
from robovision.agents import distributed
from robovision.agents.clips import Clips, Drawing
from robovision.agents.config import EncoderOptions, TrainConfig
from robovision.agents.data import check, load_checked, record
from robovision.agents.evaluate import Judged, evaluate, read_record, record_path, write_episodes, write_record
from robovision.agents.learner import Learner
from robovision.agents.log import Log
from robovision.agents.plots import learning_curve
from robovision.agents.policy import make_policy
from robovision.agents.video import write_mosaic
from robovision.devices import cpu_count, make_deterministic, resolve_device, resolve_precision, thread_count
from robovision.encoders.build import build
from robovision.encoders.checkpoints import find_weights, load_pretrained
from robovision.encoders.features import Recipe, digest, keep
from robovision.encoders.names import find_spec
from robovision.envs.registry import resolve as resolve_env
from robovision.envs.registry import try_out
from robovision.envs.task_table import require_expert
from robovision.errors import UsageError
from robovision.files import write_csv
from robovision.progress import move
from robovision.run import Run
from robovision.types import Metric

CURVE_EVERY = 10
"""One of so many steps is a row of the learning curve."""
CHECKPOINTS_HELD = 6
"""Checkpoints' worth of space that is asked for before the training: those kept, and one being written."""


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with every `auto` and 0 replaced by what it means on this machine, and paths made absolute."""
    if config.data is None:
        require_expert(config.task)
    device = resolve_device(config.device)
    precision = resolve_precision(config.optimisation.precision, device)
    return dataclasses.replace(
        config,
        device=device,
        threads=thread_count(config.threads),
        workers=config.workers or cpu_count(),
        optimisation=dataclasses.replace(config.optimisation, precision=precision),
        data=None if config.data is None else config.data.resolve(),
        encoder=_resolve_weights(config.encoder, config.env.size),
        env=resolve_env(config.task, config.env),
    )


def _resolve_weights(options: EncoderOptions, image_size: int) -> EncoderOptions:
    """The options with the weights as a run names them, after loading the file once to see that it fits."""
    if options.weights is None and not find_spec(options.name).needs_weights:
        return options
    path = find_weights(options.name) if options.weights is None else recorded.locate(options.weights)
    load_pretrained(build(options.name, image_size), path)
    return dataclasses.replace(options, weights=recorded.record(path))


def disk_space(config: TrainConfig) -> int:
    """Bytes that a run will need at most: demonstrations uncompressed, checkpoints, and 50 MB for the rest."""
    frames = 0 if config.data else config.demos * config.env.horizon * 3 * config.env.size**2
    parameters = sum(p.numel() for p in make_policy(config, 64, 64).parameters())
    checkpoints = CHECKPOINTS_HELD + config.evaluation.times
    return frames + checkpoints * 3 * 4 * parameters + 50_000_000


def create(path: Path, config: TrainConfig) -> Run:
    """A new run of a resolved config; its folder is made only once the task and the demonstrations are seen to be fit.

    Raises:
        UsageError: as `envs.make`, `data.check` and `Run.create` do.
    """
    try_out(config.task, config.env)
    if config.data is not None:
        check(config, config.data)
    return Run.create(path, "train", config, disk_space(config))


class Training:
    """One training in one run folder, from wherever the folder stands to the end."""

    def __init__(self, run: Run, config: TrainConfig) -> None:
        self.run = run
        self.config = config
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.judged: dict[int, Judged] = {}
        self._seconds = 0.0

    def execute(self) -> list[Metric]:
        """Collect, train and evaluate whatever is still missing; returns the final metrics.

        Of several processes the first one does all but the training, and has the metrics; the others return none.

        Raises:
            UsageError: if the loss is no longer finite, or something can't be written or read.
        """
        make_deterministic(self.config.seed, self.config.threads)
        self._prepare()
        self._restore()
        self._encode()
        log = Log(self.run, self.config, self.step) if distributed.rank() == 0 else None
        try:
            self._fit(log)
        finally:
            if log is not None:
                log.close()
        return self._conclude() if distributed.rank() == 0 else []

    def _prepare(self) -> None:
        config, optimisation = self.config, self.config.optimisation
        folder = config.data or self.run.path / "demos"
        if config.data is None and distributed.rank() == 0:
            record(config, folder)
        distributed.wait()
        demos = load_checked(config, folder)
        self.lengths = demos.lengths.tolist()
        drawing = Drawing(
            config.history, config.chunk, optimisation.clip, config.shift, optimisation.colour, config.seed
        )
        self.clips = Clips(demos, drawing)
        begun = bool(self.run.checkpoints())
        self.learner = Learner(config, demos.proprioception.shape[1], self.clips.actions, begun)
        self.steps = max(1, optimisation.epochs * len(self.clips) // optimisation.batch)
        times = config.evaluation.times
        self.milestones = sorted({max(1, self.steps * k // times) for k in range(1, times + 1)})

    def _restore(self) -> None:
        self.step, self.curve, self._seconds = self.learner.restore(self.run)
        for milestone in self.milestones:
            if milestone <= self.step:
                self._judge(milestone)

    def _encode(self) -> None:
        """With a frozen encoder, replace the images to learn from by their features."""
        config = self.config
        policy = self.learner.policy
        self.encoded = config.encoder.train == "frozen" and config.shift == 0 and config.optimisation.colour == 0
        if not self.encoded or self.step == self.steps:
            return
        recipe = Recipe(
            weights=digest(policy.encoder),
            encoder=f"{config.encoder.name} + {config.encoder.adapter}",
            kind="pooled" if policy.readout is None else "tokens",
            size=config.env.size,
            precision=config.optimisation.precision,
            preset=config.env.preset,
        )
        hidden = distributed.rank() != 0
        with (
            distributed.first_alone(),
            tqdm(total=len(self.clips), desc="features", unit="image", disable=hidden) as bar,
        ):
            kept = keep(policy.encoder, recipe, torch.split(self.clips.frames, self.lengths), bar.update)
        if not hidden:
            tqdm.write(str(kept))
        self.clips.frames = kept.features

    def _fit(self, log: Log | None = None) -> None:
        every = self.config.optimisation.checkpoint_every
        hidden = distributed.rank() != 0
        with tqdm(
            total=self.steps, initial=self.step, desc="training", unit="step", mininterval=0.5, disable=hidden
        ) as bar:
            while self.step < self.steps:
                began = time.monotonic()
                loss, rate = self._train_step()
                self.step += 1
                self._seconds += time.monotonic() - began
                if self.step % CURVE_EVERY == 0 or self.step == self.steps:
                    whole = distributed.total(loss).item() / distributed.processes()
                    self.curve.append({"step": self.step, "loss": whole, "lr": rate})
                    bar.set_postfix(loss=f"{whole:.3f}", refresh=False)
                    if log is not None:
                        log.add(self.step, {"train/loss": whole, "train/lr": rate})
                bar.update()
                if self.step % every == 0 or self.step in self.milestones:
                    self._save()
                if self.step in self.milestones:
                    self._judge(self.step)
                    if log is not None:
                        log.add(self.step, {f"eval/{m.name}": m.value for m in self.judged[self.step].metrics()})
                    bar.unpause()

    def _train_step(self) -> tuple[Tensor, float]:
        """One step on the loss of one batch: draw, plan, compare, descend."""
        count = self.config.optimisation.batch // self.config.optimisation.clip
        try:
            return self.learner.descend(self.clips.batch(self.step, count), self.step, self.steps, self.encoded)
        except UsageError as error:
            raise UsageError(f"{error}\nthe batch of step {self.step}: {self.clips.where(self.step, count)}") from None

    def _save(self) -> None:
        if distributed.rank() == 0:
            keep = self.step in self.milestones
            self.learner.save(self.run, self.step, self.curve, self._seconds, keep)
            write_curve(self.run.path / "curve.csv", self.curve, self.judged)
        distributed.wait()

    def _judge(self, step: int) -> None:
        """Evaluate the checkpoint of a step, unless that was done before; of several processes the first one does."""
        if distributed.rank() == 0:
            self._evaluate(step)
        distributed.wait()

    def _evaluate(self, step: int) -> None:
        path = record_path(self.run, step)
        film = self.config.evaluation.video and step == self.steps
        if path.exists() and (not film or self._video.exists()):
            self.judged[step] = read_record(path)
            return
        with tqdm(total=self.config.evaluation.episodes, desc=f"evaluation at step {step}", unit="episode") as bar:
            judged = evaluate(
                self.run,
                self.config.trial,
                step,
                film=film,
                workers=self.config.workers,
                progress=lambda n: move(bar, n),
            )
        if film:
            write_mosaic(self._video, judged.films, judged.outcomes)
        write_record(self.run, judged)
        self.judged[step] = judged
        if judged.lost:
            tqdm.write(f"{judged.lost} simulator workers were lost and replaced")
        tqdm.write(f"{judged.metrics()[0].name} at step {step} of {self.steps}: {judged.metrics()[0]}")

    def _conclude(self) -> list[Metric]:
        final = self.judged[self.steps]
        best = max(self.judged.values(), key=lambda j: (j.metrics()[0].value, j.step))
        metrics = [
            *final.metrics(),
            dataclasses.replace(best.metrics()[0], name=f"{best.metrics()[0].name}_best"),
            Metric("training_time", round(self._seconds, 1), "s"),
        ]
        write_curve(self.run.path / "curve.csv", self.curve, self.judged)
        write_episodes(self.run.path / "episodes.csv", final)
        learning_curve(self.run.path / "curve.png", self.curve, self.judged, self.config)
        lost = sum(judged.lost for judged in self.judged.values())
        self.run.write_results(metrics, {"steps": self.steps, "best_step": best.step, "lost_workers": lost})
        return metrics

    @property
    def _video(self) -> Path:
        return self.run.path / "evaluation.mp4"


def write_curve(path: Path, curve: list[dict[str, float]], judged: dict[int, Judged]) -> None:
    """The learning curve as CSV: step, loss, learning rate, and what the task is judged by where it was evaluated."""
    name = next((record.metrics()[0].name for record in judged.values()), "success")
    success = {step: record.metrics()[0].value for step, record in judged.items()}
    rows = {int(row["step"]): row for row in curve}
    for step in success:
        rows.setdefault(step, {"step": step})
    lines = [{**rows[step], name: success.get(step, "")} for step in sorted(rows)]
    write_csv(path, ["step", "loss", "lr", name], lines)
