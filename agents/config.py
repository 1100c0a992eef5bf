"""What one training run is: the frozen dataclasses that the command line is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robovision.agents.trial import Trial
from robovision.devices import Device, Precision
from robovision.encoders.names import Adapter, check_adapter, check_image_size, find_spec
from robovision.envs.registry import EnvOptions, resolve
from robovision.errors import UsageError

SHIFT = 4
"""Pixels by which images are shifted at random if nothing else is said."""


@dataclass(frozen=True)
class EncoderOptions:
    """The network that looks at the image."""

    name: str = "vit-tiny"
    """vit-tiny-sim, vit-tiny, strek, clip-vit-b16, mvp-vit-b16 ...; `robovision weights list` shows them all."""
    weights: Path | None = None
    """A file with pretrained weights in any published format. Without it, vit-tiny, vit-small, vit-base, vit-large,
    resnet50 and cnn start from random weights; the others from what `robovision weights fetch` brought."""
    adapter: Adapter = "coin"
    """coin: the convolution injector (Hwang et al., 2024); coin-aliasfree: the same without aliasing, slower;
    adaptformer, roboadapter, lora: others to compare with; none: the plain encoder, and all that is no plain ViT."""
    train: Literal["full", "adapter", "frozen"] = "full"
    """Which of its weights are trained: all, only the adapter's, or none."""

    gate: Literal["learned", "shut"] = "learned"
    """shut: CoIn adds nothing and never will, which is the control for what it adds."""
    readout: Literal["spatial", "cls"] = "spatial"
    """What the policy reads: spatial, 16 numbers from each token, so that places survive; cls, the class
    token, as in the CortexBench protocol, which needs a pretrained encoder."""

    def __post_init__(self) -> None:
        find_spec(self.name)
        check_adapter(self.name, self.adapter)
        if self.train == "adapter" and self.adapter == "none":
            raise UsageError("nothing to train: encoder.train is 'adapter' but encoder.adapter is 'none'")
        if self.gate == "shut" and self.adapter != "coin":
            raise UsageError(f"encoder.gate is that of CoIn, but encoder.adapter is {self.adapter!r}")


def usual_options(name: str) -> EncoderOptions:
    """How an encoder is used of which only the name is said: a plain ViT with CoIn, any other without an adapter.

    S-TREK stays as it was trained for keypoints.

    Raises:
        UsageError: for an unknown name, with the nearest ones.
    """
    adapter: Adapter = "coin" if find_spec(name).is_vit else "none"
    return EncoderOptions(name, adapter=adapter, train="frozen" if name == "strek" else "full")


@dataclass(frozen=True)
class Optimisation:
    """How the policy is fitted to the demonstrations."""

    epochs: int = 10
    """Passes over the demonstrations' frames."""
    batch: int = 32
    """Frames whose actions are predicted in one step."""
    clip: int = 1
    """Consecutive frames that are drawn together, so that neighbouring histories share the encoder's work.
    Worth it only with a history; single frames teach more."""
    lr: float = 1e-3
    """Peak learning rate of AdamW, reached after a twentieth of the steps, then falling as a cosine to 0. It is for
    small encoders; the weights of a large pretrained one that is trained in full want a pretrained_lr of 1e-4."""
    pretrained_lr: float | None = None
    """That of an encoder's pretrained weights; by default the same. What starts at random, an adapter and the policy's
    head, learns at lr."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW, on matrices only."""
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    shift: int | None = None
    """Images are shifted at random by up to this many pixels; by default 4, or 0 with a frozen encoder, whose features
    are then encoded once and kept on disk."""
    colour: float = 0.0
    """Brightness, contrast and saturation are changed at random by up to this share, 0.3 for example."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which then is what is evaluated: 0.999 for example; 0: none. In the
    first steps it is less, so that the weights of the start are soon forgotten."""
    scale_actions: bool = True
    """Measure the error of each number of an action in units of its deviation over the demonstrations, so that each
    counts alike; else as it is, as in the CortexBench protocol."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    precision: Precision = "auto"
    """auto: bfloat16 where the processor multiplies it natively, else float32."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "clip", "lr", "gradient_norm", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise UsageError(f"optimisation.{name} must be positive, got {getattr(self, name)}")
        if self.pretrained_lr is not None and not self.pretrained_lr > 0:
            raise UsageError(
                f"optimisation.pretrained_lr must be positive, got {self.pretrained_lr}; "
                "--encoder.train adapter and frozen leave the weights as they are"
            )
        for name in ("weight_decay", "shift"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UsageError(f"optimisation.{name} must not be negative, got {value}")
        for name, value in (("colour", self.colour), ("ema", self.ema)):
            if not 0 <= value < 1:
                raise UsageError(f"optimisation.{name} must lie in 0..1, below 1, got {value}")
        if self.batch < 2:
            raise UsageError("optimisation.batch must be at least 2: the policy normalises over the batch")
        if self.batch % self.clip:
            raise UsageError(f"optimisation.batch ({self.batch}) must be a multiple of clip ({self.clip})")
        if self.batch == self.clip:
            raise UsageError(
                f"optimisation.batch ({self.batch}) must hold at least two clips ({self.clip}): at the ends of a "
                "demonstration a clip predicts a single frame, and the policy normalises over the batch"
            )

    @property
    def pace(self) -> float:
        """At which part of the learning rate pretrained weights learn."""
        return 1.0 if self.pretrained_lr is None else self.pretrained_lr / self.lr


@dataclass(frozen=True)
class Evaluation:
    """How the policy is judged."""

    episodes: int = 25
    """Episodes of an evaluation, each with a fresh goal."""
    times: int = 2
    """Evaluations during the training, evenly spaced; the last is of the final weights."""
    video: bool = True
    """Write a video of the final evaluation."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.times < 1:
            raise UsageError(f"evaluation needs episodes and times >= 1, got {self.episodes} and {self.times}")


@dataclass(frozen=True)
class TrainConfig:
    """Behaviour cloning of one task from pixels."""

    task: str = "metaworld/drawer-open"
    """Family and name of the task."""
    demos: int = 25
    """Demonstrations to learn from."""
    seed: int = 0
    """Chooses goals, initial weights and the order of the data."""
    noise: float = 0.1
    """Disturbance of the demonstrations; see `robovision demos --help`."""
    keep_failures: bool = False
    """Learn from demonstrations too in which the expert fails; see `robovision demos --help`."""
    history: int = 1
    """How many images the policy sees at once; 3 in the CortexBench protocol."""
    chunk: int = 1
    """How many actions the policy predicts at once; what the last predictions say of a step is averaged."""
    data: Path | None = None
    """A folder of demonstrations to learn from, made by `robovision demos` or any Minari dataset with pixels; by
    default the run records its own."""
    env: EnvOptions = EnvOptions(size=64, preset="fastest")
    encoder: EncoderOptions = EncoderOptions()
    optimisation: Optimisation = Optimisation()
    evaluation: Evaluation = Evaluation()
    device: Device = "auto"
    """Where to train; auto: on a GPU if there is one."""
    threads: int = 0
    """Threads that train on the CPU; 0: as many as there are cores, under torchrun this process's share of them. On the
    CPU they decide the last bits."""
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores. They don't change the result."""

    @property
    def trial(self) -> Trial:
        """The episodes of its evaluations."""
        return Trial(self.task, self.env, self.seed, self.evaluation.episodes)

    @property
    def shift(self) -> int:
        """By how many pixels images are shifted at random at most."""
        if self.optimisation.shift is None:
            return 0 if self.encoder.train == "frozen" else SHIFT
        return self.optimisation.shift

    def __post_init__(self) -> None:
        seen = resolve(self.task, self.env)
        if "pixels" not in seen.observe:
            raise UsageError(f"a policy sees pixels, but env.observe is {', '.join(seen.observe)}")
        if len(seen.cameras) > 1:
            raise UsageError(f"a policy sees one camera, but env.cameras are {', '.join(seen.cameras)}")
        if seen.frame_stack > 1:
            raise UsageError(
                f"use --history instead of --env.frame-stack {seen.frame_stack}: each image is embedded once"
            )
        if self.demos < 1:
            raise UsageError(f"there must be at least 1 demonstration, got {self.demos}")
        if not 0 <= self.noise <= 1:
            raise UsageError(f"noise must lie in 0..1 (actions lie in -1..1), got {self.noise}")
        if self.threads < 0 or self.workers < 0:
            raise UsageError(f"threads and workers must not be negative, got {self.threads} and {self.workers}")
        if self.history < 1:
            raise UsageError(f"history must be at least 1 image, got {self.history}")
        if self.chunk < 1:
            raise UsageError(f"chunk must be at least 1 action, got {self.chunk}")
        check_image_size(self.encoder.name, self.env.size, "env.size", self.encoder.adapter)
