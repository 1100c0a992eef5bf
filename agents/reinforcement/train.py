"""Reinforcement learning in one run folder, from wherever the folder stands to the end.

The training is a chain of segments. At the start of each, the environments begin anew and every source of random
numbers is seeded from the run's seed and the number of actions so far; at its end everything is saved. So a run that
was killed repeats its last segment and goes on as if nothing had happened: on the CPU its final weights are the same,
bit by bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import configure
from torch import Tensor, nn
from tqdm import tqdm

from robovision import recorded
from robovision.agents.evaluate import Judged, evaluate, read_record, record_path, write_episodes, write_record
from robovision.agents.log import Log
from robovision.agents.reinforcement.agent import NORMALISE
from robovision.agents.reinforcement.config import RLConfig
from robovision.agents.reinforcement.curve import write_curve, write_picture
from robovision.agents.reinforcement.environments import make_envs
from robovision.agents.reinforcement.extractor import RGB, PixelExtractor, fit_batch_norms
from robovision.agents.reinforcement.models import (
    Model,
    make_model,
    normaliser_state,
    optimiser_state,
    parse_options,
    policy_state,
    restore_normaliser,
    restore_optimisers,
    restore_policy,
)
from robovision.agents.reinforcement.replay import FrameReplayBuffer
from robovision.agents.reinforcement.watch import Watch, check_weights
from robovision.agents.video import write_mosaic
from robovision.devices import cpu_count, make_deterministic, resolve_device, thread_count
from robovision.encoders.build import build
from robovision.encoders.checkpoints import find_weights, load_pretrained
from robovision.encoders.names import find_spec
from robovision.encoders.vit import ViT
from robovision.envs.registry import resolve as resolve_env
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.lidar.detectors.models import make_config
from robovision.lidar.pretraining.files import assign_backbone
from robovision.lidar.pretraining.network import Trunk
from robovision.progress import move
from robovision.run import Run
from robovision.seeding import derive
from robovision.types import Metric

LOOKS = 64
"""Steps at random whose images the batch norms are fitted to."""


def resolve(config: RLConfig) -> RLConfig:
    """The config with every `auto` and 0 replaced by what it means on this machine.

    Raises:
        UsageError: for an option that the algorithm does not take, for weights that don't fit, or a missing device;
            if all actions were at random, so that nothing would be learnt.
    """
    parse_options(config)
    if config.algorithm != "ppo" and config.replay.warm_up >= config.steps:
        raise UsageError(
            f"nothing would be learnt: the first {config.replay.warm_up:,} actions are at random (--replay.warm-up), "
            f"and there are {config.steps:,} in all (--steps)"
        )
    encoder = config.encoder
    if encoder.weights is not None or find_spec(encoder.name).needs_weights:
        path = find_weights(encoder.name) if encoder.weights is None else recorded.locate(encoder.weights)
        load_pretrained(build(encoder.name, config.env.size), path)
        encoder = dataclasses.replace(encoder, weights=recorded.record(path))
    lidar = config.lidar
    if lidar.weights is not None:
        assign_backbone(Trunk(make_config(lidar.model)), lidar.weights)
        lidar = dataclasses.replace(lidar, weights=lidar.weights.resolve())
    return dataclasses.replace(
        config,
        encoder=encoder,
        lidar=lidar,
        device=resolve_device(config.device),
        threads=thread_count(config.threads),
        workers=config.workers or cpu_count(),
        env=resolve_env(config.task, config.env),
    )


def disk_space(config: RLConfig) -> int:
    """Bytes that a run will need at most: three checkpoints with their replay buffers, and 200 MB for the rest."""
    frames = 0 if config.algorithm == "ppo" else min(config.replay.size, 2 * config.steps)
    return 3 * frames * RGB * config.env.size**2 + 200_000_000


class Training:
    """One training in one run folder."""

    def __init__(self, run: Run, config: RLConfig) -> None:
        self.run = run
        self.config = config
        self.curve: list[dict[str, float]] = []
        self.judged: dict[int, Judged] = {}
        self.lost = 0
        self._seconds = 0.0
        self._counted = 0

    def execute(self) -> list[Metric]:
        """Learn and evaluate whatever is still missing; returns the final metrics.

        Raises:
            UsageError: if a loss is no longer finite, or something can't be written or read.
        """
        make_deterministic(self.config.seed, self.config.threads)
        self.envs, self._core = make_envs(self.config)
        try:
            self.model = make_model(self.config, self.envs)
            self.model.set_logger(configure(str(self.run.path / "tensorboard"), ["tensorboard"]))
            if not self._restore():
                self._begin()
            with contextlib.closing(Log(self.run, self.config, self.step)) as log:
                self._learn(log)
        finally:
            self.envs.close()
        return self._conclude()

    @property
    def step(self) -> int:
        """Actions so far."""
        return self.model.num_timesteps

    def _begin(self) -> None:
        """Give new encoders their pretrained weights; fit the batch norms of what starts at random to what is seen."""
        config, extractor = self.config, self._extractor
        images, sweeps = extractor.encoder, extractor.sweep_encoder
        fresh: nn.Module | None = images
        if images is not None and config.encoder.weights is not None:
            load_pretrained(images, recorded.locate(config.encoder.weights))
            fresh = images.injector if isinstance(images, ViT) else None
        if sweeps is not None and config.lidar.weights is not None:
            assign_backbone(sweeps.trunk, config.lidar.weights)
            sweeps = None
        seen = self._look() if fresh is not None or sweeps is not None else {}
        if images is not None and fresh is not None:
            frames = torch.cat([seen[name].reshape(-1, RGB, *seen[name].shape[2:]) for name in extractor.stacks])
            fit_batch_norms(images, frames, fresh)
        if sweeps is not None:
            fit_batch_norms(sweeps, seen["lidar"])

    def _look(self) -> dict[str, Tensor]:
        """What is observed in steps at random, by name, end to end."""
        self._seed("looks")
        self.envs.reset()
        shape = self.envs.num_envs, *(self.envs.action_space.shape or ())
        seen = []
        for _ in range(LOOKS):
            observations, *_ = self.envs.step(np.random.uniform(-1, 1, shape).astype(np.float32))  # noqa: NPY002  seeded
            assert isinstance(observations, dict)
            seen.append(observations)
        return {
            name: torch.from_numpy(np.concatenate([each[name] for each in seen])).to(self.model.device)
            for name in seen[0]
        }

    def _learn(self, log: Log) -> None:
        config = self.config
        with tqdm(total=config.steps, initial=self.step, desc="learning", unit="action", mininterval=0.5) as bar:
            watch = Watch(bar, self.run, config.steps)
            while self.step < config.steps:
                began = time.monotonic()
                self._seed("segment", self.step)
                self.model._last_obs = None  # begins new episodes
                length = min(config.segment, config.steps - self.step)
                with watch.guard():
                    self.model.learn(length, watch, log_interval=config.envs, reset_num_timesteps=False)
                check_weights(self.model, self.run)
                self._seconds += time.monotonic() - began
                self.curve.append({"step": self.step, "seconds": round(self._seconds, 1), **watch.take()})
                self._save()
                self._judge(self.step)
                log.add(self.step, self._numbers())
                bar.unpause()

    def _numbers(self) -> dict[str, float]:
        """What the newest checkpoint is like: means since the one before, and its evaluation if there was one."""
        learning = {f"checkpoint/{name}": value for name, value in self.curve[-1].items() if name != "step"}
        record = self.judged.get(self.step)
        return learning | ({f"eval/{m.name}": m.value for m in record.metrics()} if record else {})

    def _seed(self, *names: str | int) -> None:
        self.model.set_random_seed(derive(self.config.seed, *names) % 2**31)

    def _save(self) -> None:
        model = policy_state(self.model.policy)
        normaliser = self.model.get_vec_normalize_env()
        tensors: dict[str, dict[str, Tensor]] = {
            "model": model | (normaliser_state(normaliser) if normaliser else {}),
            "optimizer": optimiser_state(self.model),
        }
        buffer = _buffer(self.model)
        if buffer is not None:
            tensors["replay"] = {name: torch.from_numpy(value) for name, value in buffer.state().items()}
        self.lost += self._core.workers_lost - self._counted
        self._counted = self._core.workers_lost
        state = {
            "curve": self.curve,
            "seconds": self._seconds,
            "lost_workers": self.lost,
            "updates": self.model._n_updates,
            "episodes": self.model._episode_num if buffer is not None else 0,
        }
        self.run.save(self.step, state, tensors, keep=self._due(self.step))
        _save_model(self.model, self.run.path)

    def _restore(self) -> bool:
        """The newest checkpoint into the model; False before the first."""
        checkpoint = self.run.latest()
        if checkpoint is None:
            return False
        tensors = checkpoint.tensors("model")
        own = {name: value for name, value in tensors.items() if not name.startswith(NORMALISE)}
        restore_policy(self.model.policy, own, str(checkpoint.path))
        restore_optimisers(self.model, checkpoint.tensors("optimizer"), str(checkpoint.path))
        normaliser = self.model.get_vec_normalize_env()
        if normaliser is not None:
            restore_normaliser(normaliser, tensors)
        buffer = _buffer(self.model)
        if buffer is not None:
            buffer.load_state({name: value.numpy() for name, value in checkpoint.tensors("replay").items()})
            self.model._episode_num = checkpoint.state["episodes"]
        self.model.num_timesteps = checkpoint.step
        self.model._n_updates = checkpoint.state["updates"]
        self.curve, self._seconds = checkpoint.state["curve"], checkpoint.state["seconds"]
        self.lost = checkpoint.state["lost_workers"]
        for row in self.curve:
            self._judge(int(row["step"]))
        return True

    def _judge(self, step: int) -> None:
        """Evaluate the checkpoint of a step if it is due, unless that was done before.

        Of a run that was given more steps, what was evaluated counts; what would have been is no longer there.
        """
        path = record_path(self.run, step)
        if not path.exists() and not (self._due(step) and step in self.run.steps()):
            return
        film = self.config.evaluation.video and step >= self.config.steps
        if path.exists() and (not film or self._video.exists()):
            self.judged[step] = read_record(path)
        else:
            self.judged[step] = self._play(step, film)
        write_curve(self.run.path / "curve.csv", self.curve, self.judged)
        write_picture(self.run.path / "curve.png", self.curve, self.judged, self.config)

    def _due(self, step: int) -> bool:
        """Whether the checkpoint is the first at or after one of the moments of evaluation."""
        times, steps = self.config.evaluation.times, self.config.steps
        return times * min(step, steps) // steps > times * (step - self.config.segment) // steps

    def _play(self, step: int, film: bool) -> Judged:
        config = self.config
        with tqdm(total=config.evaluation.episodes, desc=f"evaluation at {step}", unit="episode", leave=False) as bar:
            judged = evaluate(
                self.run, config.trial, step, film=film, workers=config.workers, progress=lambda done: move(bar, done)
            )
        if film:
            write_mosaic(self._video, judged.films, judged.outcomes)
        write_record(self.run, judged)
        tqdm.write(", ".join(f"{m.name} {m}" for m in judged.metrics()) + f" at {step:,} of {config.steps:,} actions")
        return judged

    def _conclude(self) -> list[Metric]:
        final = self.judged[max(self.judged)]
        best = max(self.judged.values(), key=lambda j: (j.metrics()[0].value, j.step))
        metrics = [
            *final.metrics(),
            dataclasses.replace(best.metrics()[0], name=f"{best.metrics()[0].name}_best"),
            Metric("training_time", round(self._seconds, 1), "s"),
        ]
        write_episodes(self.run.path / "episodes.csv", final)
        lost = self.lost + sum(judged.lost for judged in self.judged.values())
        self.run.write_results(metrics, {"steps": self.step, "best_step": best.step, "lost_workers": lost})
        return metrics

    @property
    def _extractor(self) -> PixelExtractor:
        policy: Any = self.model.policy
        extractor = policy.features_extractor if self.config.algorithm == "ppo" else policy.extractor
        assert isinstance(extractor, PixelExtractor)
        return extractor

    @property
    def _video(self) -> Path:
        return self.run.path / "evaluation.mp4"


def _buffer(model: Model) -> FrameReplayBuffer | None:
    buffer = getattr(model, "replay_buffer", None)
    return buffer if isinstance(buffer, FrameReplayBuffer) else None


def _save_model(model: Model, folder: Path) -> None:
    """The model in Stable-Baselines3's own format, and beside it what normalises, each whole or not at all."""
    with write_atomically(folder / "model.zip") as file:
        model.save(file)  # type: ignore[arg-type]
    normaliser = model.get_vec_normalize_env()
    if normaliser is not None:
        with write_atomically(folder / "vecnormalize.pkl") as file:
            pickle.dump(normaliser, file)  # as VecNormalize.save does; nothing of ours reads it
