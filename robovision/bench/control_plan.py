"""What `robovision bench control` compares, and at which size: cells, each a task, a method and a seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robovision.agents.config import EncoderOptions, Evaluation, Optimisation, TrainConfig
from robovision.envs.cortexbench import CORTEXBENCH
from robovision.envs.registry import EnvOptions, Preset, find_task
from robovision.errors import unknown

Scale = Literal["smoke", "cpu", "paper"]

METHODS: dict[str, EncoderOptions] = {
    "frozen": EncoderOptions("vit-tiny-sim", adapter="none", train="frozen"),
    "fine-tuned": EncoderOptions("vit-tiny-sim", adapter="none"),
    "coin": EncoderOptions("vit-tiny-sim", adapter="coin"),
    "adapters": EncoderOptions("vit-tiny-sim", adapter="adaptformer", train="adapter"),
    "cnn": EncoderOptions("cnn", adapter="none"),
    "gate-shut": EncoderOptions("vit-tiny-sim", adapter="coin", gate="shut"),
}
"""The methods by name, with the encoder that stands for any pretrained one."""
TITLES = {
    "frozen": "frozen",
    "fine-tuned": "fine-tuned",
    "coin": "fine-tuned + CoIn",
    "adapters": "adapters only (AdaptFormer)",
    "cnn": "CNN from scratch",
    "gate-shut": "fine-tuned + CoIn, gate kept shut (control)",
}


@dataclass(frozen=True)
class Budget:
    """How much a cell may cost."""

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    demos: int
    """Demonstrations of a task at most."""
    env: EnvOptions
    optimisation: Optimisation
    evaluation: Evaluation
    metaworld_horizon: int
    """Steps of an episode on MetaWorld."""
    frozen_epochs: int
    frozen_lr: float
    readout: Literal["spatial", "cls"]
    blind_only: bool
    """See three images only where nothing else tells how fast things move; else everywhere, as in the protocol."""
    noise: float


ALL = tuple(protocol.task for protocol in CORTEXBENCH)
CPU_PRESET: Preset = "fastest"
BUDGETS: dict[Scale, Budget] = {
    "smoke": Budget(
        tasks=("metaworld/drawer-open",),
        seeds=(0,),
        demos=2,
        env=EnvOptions(size=32, preset=CPU_PRESET),
        optimisation=Optimisation(epochs=2, batch=16, clip=4, checkpoint_every=1000),
        evaluation=Evaluation(episodes=2, times=2, video=False),
        metaworld_horizon=100,
        frozen_epochs=4,
        frozen_lr=1e-3,
        readout="spatial",
        blind_only=True,
        noise=0.0,
    ),
    "cpu": Budget(
        tasks=ALL,
        seeds=(0, 1, 2),
        demos=25,
        env=EnvOptions(size=64, preset=CPU_PRESET),
        optimisation=Optimisation(epochs=15, batch=32, clip=4, checkpoint_every=200),
        evaluation=Evaluation(episodes=25, times=2, video=False),
        metaworld_horizon=200,
        frozen_epochs=60,
        frozen_lr=1e-3,
        readout="spatial",
        blind_only=True,
        noise=0.1,
    ),
    "paper": Budget(
        tasks=ALL,
        seeds=(100, 200, 300),
        demos=100,
        env=EnvOptions(size=224, preset="exact"),
        optimisation=Optimisation(epochs=50, batch=256, clip=8, lr=1e-4, scale_actions=False),
        evaluation=Evaluation(episodes=25, times=10, video=False),
        metaworld_horizon=500,
        frozen_epochs=100,
        frozen_lr=1e-3,
        readout="cls",
        blind_only=False,
        noise=0.0,
    ),
}
"""smoke shows that it runs; cpu compares at small size; paper is the protocol of CortexBench."""


@dataclass(frozen=True)
class Cell:
    """One training of the comparison, and the folder that it has below the bench's."""

    task: str
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where its run lies."""
        return Path("cells") / self.task.replace("/", "-") / self.method / f"seed-{self.seed}"


@dataclass(frozen=True)
class Choice:
    """Which part of a budget is run, and with which encoder."""

    scale: Scale = "smoke"
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    demos: int | None = None
    episodes: int | None = None
    encoder: str = "vit-tiny-sim"
    weights: Path | None = None

    def __post_init__(self) -> None:
        for task in self.tasks:
            find_task(task)
        for method in self.methods:
            if method not in METHODS:
                raise unknown("method", method, METHODS)

    @property
    def budget(self) -> Budget:
        """The budget, with what was chosen in place of its own."""
        whole = BUDGETS[self.scale]
        return dataclasses.replace(
            whole,
            tasks=self.tasks or whole.tasks,
            seeds=self.seeds or whole.seeds,
            demos=whole.demos if self.demos is None else self.demos,
            evaluation=dataclasses.replace(
                whole.evaluation, episodes=whole.evaluation.episodes if self.episodes is None else self.episodes
            ),
        )

    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that a comparison that is cut short is a fair one."""
        budget = self.budget
        return [
            Cell(task, method, seed)
            for seed in budget.seeds
            for task in budget.tasks
            for method in self.methods or METHODS
        ]

    def config(self, cell: Cell, data: Path | None) -> TrainConfig:
        """The training of a cell, from the demonstrations in a folder."""
        budget, method = self.budget, METHODS[cell.method]
        frozen = method.train == "frozen"
        if method.name != "cnn":
            method = dataclasses.replace(method, name=self.encoder, weights=self.weights, readout=budget.readout)
        optimisation = budget.optimisation
        if frozen:
            optimisation = dataclasses.replace(optimisation, epochs=budget.frozen_epochs, lr=budget.frozen_lr)
        history = 1 if budget.blind_only and "proprioception" in find_task(cell.task).observe else 3
        if history == 1:
            optimisation = dataclasses.replace(optimisation, clip=1)
        return TrainConfig(
            task=cell.task,
            demos=self.demos_of(cell.task),
            seed=cell.seed,
            noise=budget.noise,
            history=history,
            data=data,
            env=self.env(cell.task),
            encoder=method,
            optimisation=optimisation,
            evaluation=budget.evaluation,
        )

    def env(self, task: str) -> EnvOptions:
        """How a task is seen and how long it lasts."""
        horizon = self.budget.metaworld_horizon if task.startswith("metaworld/") else 0
        return dataclasses.replace(self.budget.env, horizon=horizon)

    def demos_of(self, task: str) -> int:
        """How many demonstrations a task has: the protocol's number, or the budget's if that is smaller."""
        known = next((p.demonstrations for p in CORTEXBENCH if p.task == task), self.budget.demos)
        return min(known, self.budget.demos)
