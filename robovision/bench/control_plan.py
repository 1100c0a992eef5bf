"""What `robovision bench control` compares, and at which size: cells, each a task, a method and a seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robovision.agents.config import EncoderOptions, Evaluation, Optimisation, TrainConfig
from robovision.encoders.names import check_image_size, find_spec
from robovision.envs.cortexbench import CORTEXBENCH
from robovision.envs.registry import EnvOptions, Preset, find_task
from robovision.errors import UsageError, unknown

Scale = Literal["smoke", "brief", "cpu", "paper"]

METHODS: dict[str, EncoderOptions] = {
    "frozen": EncoderOptions("vit-tiny-sim", adapter="none", train="frozen"),
    "fine-tuned": EncoderOptions("vit-tiny-sim", adapter="none"),
    "coin": EncoderOptions("vit-tiny-sim", adapter="coin"),
    "adapters": EncoderOptions("vit-tiny-sim", adapter="adaptformer", train="adapter"),
    "cnn": EncoderOptions("cnn", adapter="none"),
    "gate-shut": EncoderOptions("vit-tiny-sim", adapter="coin", gate="shut"),
    "scratch": EncoderOptions("vit-tiny", adapter="coin"),
    "frozen-random": EncoderOptions("vit-tiny", adapter="none", train="frozen"),
}
"""The methods by name, with vit-tiny-sim standing for any pretrained encoder and vit-tiny for the same ViT without."""
TITLES = {
    "frozen": "frozen",
    "fine-tuned": "fine-tuned",
    "coin": "fine-tuned + CoIn",
    "adapters": "adapters only (AdaptFormer)",
    "cnn": "CNN from scratch",
    "gate-shut": "fine-tuned + CoIn, gate kept shut (control)",
    "scratch": "ViT + CoIn from random weights",
    "frozen-random": "frozen random weights",
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
BRIEF = ("metaworld/drawer-open", "metaworld/button-press-topdown")
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
    "brief": Budget(
        tasks=BRIEF,
        seeds=(0, 1, 2),
        demos=5,
        env=EnvOptions(size=64, preset=CPU_PRESET),
        optimisation=Optimisation(epochs=5, batch=16, clip=4, checkpoint_every=1000),
        evaluation=Evaluation(episodes=12, times=1, video=False),
        metaworld_horizon=150,
        frozen_epochs=60,
        frozen_lr=1e-3,
        readout="spatial",
        blind_only=True,
        noise=0.1,
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
"""smoke shows that it runs; brief compares with few demonstrations, a minute or two a cell; cpu compares at small size;
paper is the protocol of CortexBench."""


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

    budget: Scale = "smoke"
    """smoke, brief, cpu or paper."""
    tasks: tuple[str, ...] = ()
    """Which tasks; without any, the budget's."""
    methods: tuple[str, ...] = ()
    """frozen, fine-tuned, coin, adapters, cnn, gate-shut, and with random weights scratch and frozen-random; without
    any, all."""
    seeds: tuple[int, ...] = ()
    """Without any, the budget's."""
    demos: int | None = None
    """Demonstrations of a task; by default the budget's."""
    episodes: int | None = None
    """Episodes of an evaluation; by default the budget's."""
    equal_cost: bool = False
    """Each method trains for as many multiply-adds as fine-tuned + CoIn in the budget's epochs; frozen encoders see
    shifted images too, as the others do. Otherwise each has the budget's epochs."""
    encoder: str = "vit-tiny-sim"
    """The pretrained encoder."""
    weights: Path | None = None
    """A file with its weights, in any published format."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            find_task(task)
        for method in self.methods:
            if method not in METHODS:
                raise unknown("method", method, METHODS)
        for name in ("demos", "episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, got {value}")
        check_image_size(self.encoder, self.limits.env.size, "the budget's image size")

    @property
    def limits(self) -> Budget:
        """The budget, with what was chosen in place of its own."""
        whole = BUDGETS[self.budget]
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
        budget = self.limits
        return [
            Cell(task, method, seed)
            for seed in budget.seeds
            for task in budget.tasks
            for method in self.methods or METHODS
        ]

    def config(self, cell: Cell, data: Path | None) -> TrainConfig:
        """The training of a cell, from the demonstrations in a folder."""
        config = self._config(cell, data)
        if not self.equal_cost:
            return config
        from robovision.bench.control_cost import epochs_of_equal_cost

        dearest = self._config(dataclasses.replace(cell, method="coin"), data)
        shift = dataclasses.replace(config.optimisation, shift=dearest.shift)
        config = dataclasses.replace(config, optimisation=shift)
        epochs = epochs_of_equal_cost(config, dearest)
        return dataclasses.replace(config, optimisation=dataclasses.replace(shift, epochs=epochs))

    def _config(self, cell: Cell, data: Path | None) -> TrainConfig:
        """The training of a cell with the epochs of the budget."""
        budget, method = self.limits, METHODS[cell.method]
        optimisation = budget.optimisation
        if method.train == "frozen":
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
            encoder=self._encoder(method),
            optimisation=optimisation,
            evaluation=budget.evaluation,
        )

    def _encoder(self, method: EncoderOptions) -> EncoderOptions:
        """The method's options with the encoder that was chosen, or the plain ViT of its size with random weights."""
        if method.name == "cnn":
            return method
        readout = self.limits.readout
        if method.name == "vit-tiny":
            return dataclasses.replace(method, name=find_spec(self.encoder).architecture, readout=readout)
        weights = None if self.weights is None else self.weights.resolve()
        return dataclasses.replace(method, name=self.encoder, weights=weights, readout=readout)

    def env(self, task: str) -> EnvOptions:
        """How a task is seen and how long it lasts."""
        horizon = self.limits.metaworld_horizon if task.startswith("metaworld/") else 0
        return dataclasses.replace(self.limits.env, horizon=horizon)

    def demos_of(self, task: str) -> int:
        """How many demonstrations a task has: the protocol's number, or the budget's if that is smaller."""
        known = next((p.demonstrations for p in CORTEXBENCH if p.task == task), self.limits.demos)
        return min(known, self.limits.demos)
