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

from robovision.agents.clips import Clips, histories
from robovision.agents.config import EncoderOptions, TrainConfig
from robovision.agents.evaluate import Judged, evaluate, read_record, record_path, write_episodes, write_record
from robovision.agents.plots import learning_curve
from robovision.agents.policy import Policy, make_policy
from robovision.agents.video import write_mosaic
from robovision.devices import cpu_count, make_deterministic, resolve_device, resolve_precision
from robovision.encoders.build import build
from robovision.encoders.checkpoints import find_weights, load_pretrained
from robovision.encoders.features import Recipe, digest, keep
from robovision.encoders.names import find_spec
from robovision.envs.demos import DemoOptions, collect, load, require_expert
from robovision.envs.registry import resolve as resolve_env
from robovision.files import write_csv
from robovision.optimisers import adamw, check_loss, descend, learning_rate, restore, save
from robovision.progress import move
from robovision.run import Run
from robovision.types import Metric

CURVE_EVERY = 10
"""One of so many steps is a row of the learning curve."""
CHECKPOINTS_HELD = 6
"""Checkpoints' worth of space that is asked for before the training: those kept, and one being written."""


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with every `auto` and 0 replaced by what it means on this machine."""
    require_expert(config.task)
    device = resolve_device(config.device)
    precision = resolve_precision(config.optimisation.precision, device)
    return dataclasses.replace(
        config,
        device=device,
        threads=config.threads or cpu_count(),
        workers=config.workers or cpu_count(),
        optimisation=dataclasses.replace(config.optimisation, precision=precision),
        encoder=_resolve_weights(config.encoder, config.env.size),
        env=resolve_env(config.task, config.env),
    )


def _resolve_weights(options: EncoderOptions, image_size: int) -> EncoderOptions:
    """The options with the weight file's absolute path, after loading the file once to see that it fits."""
    if options.weights is None and not find_spec(options.name).needs_weights:
        return options
    path = find_weights(options.name) if options.weights is None else options.weights
    load_pretrained(build(options.name, image_size), path)
    return dataclasses.replace(options, weights=path.resolve())


def disk_space(config: TrainConfig) -> int:
    """Bytes that a run will need at most: demonstrations uncompressed, checkpoints, and 50 MB for the rest."""
    frames = config.demos * config.env.horizon * 3 * config.env.size**2
    parameters = sum(p.numel() for p in make_policy(config, 64, 64).parameters())
    checkpoints = CHECKPOINTS_HELD + config.evaluation.times
    return frames + checkpoints * 3 * 4 * parameters + 50_000_000


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

        Raises:
            UsageError: if the loss is no longer finite, or something can't be written or read.
        """
        make_deterministic(self.config.seed, self.config.threads)
        self._collect()
        self._prepare()
        self._restore()
        self._encode()
        self._fit()
        return self._conclude()

    def _collect(self) -> None:
        config = self.config
        options = DemoOptions(config.task, config.demos, config.seed, config.noise, config.env, config.keep_failures)
        with tqdm(total=config.demos, desc="demonstrations", unit="episode") as bar:
            lost = collect(options, self.run.path / "demos", config.workers, lambda done: move(bar, done))
        if lost:
            tqdm.write(f"{lost} simulator workers were lost and replaced")

    def _prepare(self) -> None:
        config = self.config
        demos = load(self.run.path / "demos", config.demos)
        self.lengths = demos.lengths.tolist()
        self.clips = Clips(demos, config.history, config.optimisation.clip, config.shift, config.seed)
        if demos.solved is not None and demos.solved < config.demos:
            tqdm.write(
                f"warning: only {demos.solved} of {config.demos} demonstrations end in success; a longer horizon?"
            )
        sizes = demos.proprioception.shape[1], demos.actions.shape[1]
        policy = make_policy(config, *sizes)
        if config.encoder.weights is not None:
            load_pretrained(policy.encoder, config.encoder.weights)
        policy.fit_actions(self.clips.actions)
        self.policy: Policy = policy.to(config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = adamw(self.policy, config.optimisation.weight_decay)
        self.steps = max(1, config.optimisation.epochs * len(self.clips) // config.optimisation.batch)
        times = config.evaluation.times
        self.milestones = sorted({max(1, self.steps * k // times) for k in range(1, times + 1)})

    def _restore(self) -> None:
        self.step, self.curve, self._seconds = restore(self.run, self.policy, self.optimizer)
        for milestone in self.milestones:
            if milestone <= self.step:
                self._judge(milestone)

    def _encode(self) -> None:
        """With a frozen encoder, replace the images to learn from by their features."""
        config = self.config
        self.encoded = config.encoder.train == "frozen" and config.shift == 0
        if not self.encoded or self.step == self.steps:
            return
        recipe = Recipe(
            weights=digest(self.policy.encoder),
            encoder=f"{config.encoder.name} + {config.encoder.adapter}",
            kind="pooled" if self.policy.readout is None else "tokens",
            size=config.env.size,
            precision=config.optimisation.precision,
            preset=config.env.preset,
        )
        with tqdm(total=len(self.clips), desc="features", unit="image") as bar:
            kept = keep(self.policy.encoder, recipe, torch.split(self.clips.frames, self.lengths), bar.update)
        tqdm.write(str(kept))
        self.clips.frames = kept.features

    def _fit(self) -> None:
        every = self.config.optimisation.checkpoint_every
        with tqdm(total=self.steps, initial=self.step, desc="training", unit="step", mininterval=0.5) as bar:
            while self.step < self.steps:
                began = time.monotonic()
                loss, rate = self._train_step()
                self.step += 1
                self._seconds += time.monotonic() - began
                if self.step % CURVE_EVERY == 0 or self.step == self.steps:
                    self.curve.append({"step": self.step, "loss": loss.item(), "lr": rate})
                    bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                bar.update()
                if self.step % every == 0 or self.step in self.milestones:
                    self._save()
                if self.step in self.milestones:
                    self._judge(self.step)
                    bar.unpause()

    def _train_step(self) -> tuple[Tensor, float]:
        """One step of AdamW on the loss of one batch: draw, embed, act, compare, descend."""
        config = self.config.optimisation
        rate = learning_rate(self.step, self.steps, config.lr)
        batch = self.clips.batch(self.step, config.batch // config.clip)
        frames = batch.frames.flatten(0, 1).to(self.config.device)
        self.policy.train()
        half = config.precision == "bfloat16"
        with torch.autocast(self.config.device, torch.bfloat16, enabled=half):
            if self.encoded:
                embedded = self.policy.read(frames)
            else:
                embedded = self.policy.embed(frames.contiguous(memory_format=torch.channels_last))
        embedded = embedded.float().view(*batch.frames.shape[:2], -1)
        predicted = self.policy.act(
            histories(embedded, batch.valid.to(self.config.device)), batch.proprioception.to(self.config.device)
        )
        loss = self.policy.loss(predicted, batch.actions.to(self.config.device))
        remedy = f"a lower --optimisation.lr than {config.lr:g}, or --optimisation.precision float32"
        check_loss(loss, self.step, remedy)
        descend(loss, self.policy, self.optimizer, rate, config.gradient_norm)
        return loss.detach(), rate

    def _save(self) -> None:
        keep = self.step in self.milestones
        save(self.run, self.step, self.curve, self._seconds, self.policy, self.optimizer, keep)
        write_curve(self.run.path / "curve.csv", self.curve, self.judged)

    def _judge(self, step: int) -> None:
        """Evaluate the checkpoint of a step, unless that was done before."""
        path = record_path(self.run, step)
        film = self.config.evaluation.video and step == self.steps
        if path.exists() and (not film or self._video.exists()):
            self.judged[step] = read_record(path)
            return
        with tqdm(total=self.config.evaluation.episodes, desc=f"evaluation at step {step}", unit="episode") as bar:
            judged = evaluate(
                self.run, self.config, step, film=film, workers=self.config.workers, progress=lambda n: move(bar, n)
            )
        if film:
            write_mosaic(self._video, judged.films, judged.outcomes)
        write_record(self.run, judged)
        self.judged[step] = judged
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
