"""What one run of reinforcement learning is: the frozen dataclasses that the command line is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from robovision.agents.config import EncoderOptions, Evaluation
from robovision.agents.trial import Trial
from robovision.devices import Device
from robovision.encoders.names import check_image_size
from robovision.envs.registry import EnvOptions, resolve
from robovision.errors import UsageError, unknown
from robovision.lidar.detectors.models import make_config

Algorithm = Literal["sac", "td3", "ppo"]
KeypointMethod = Literal["none", "strek", "sift", "rootsift", "orb"]
Normalised = Literal["reward", "proprioception", "state"]
RINGS = "rings"
"""The reader of a LiDAR that is no detector's backbone."""


@dataclass(frozen=True)
class KeypointOptions:
    """Keypoints that the policy sees, instead of the image or beside it."""

    method: KeypointMethod = "none"
    """Which are extracted of the newest image: strek, sift, rootsift, orb, or none."""
    count: int = 64
    """How many, the strongest; if there are fewer the rest is zeros."""
    pixels: bool = False
    """The policy sees the image too."""

    def __post_init__(self) -> None:
        if self.method not in get_args(KeypointMethod):
            raise unknown("keypoints", self.method, get_args(KeypointMethod))
        if self.count < 1:
            raise UsageError(f"keypoints.count must be at least 1, got {self.count}")


@dataclass(frozen=True)
class LidarOptions:
    """What reads a LiDAR that the policy observes."""

    model: str = RINGS
    """rings: convolutions along the rings; room, tiny, small or another detector without intensity: its backbone, which
    sees the points from above."""
    weights: Path | None = None
    """A run of `robovision pretrain lidar` of the same model with --absolute, or its backbone.safetensors; without,
    random weights."""
    frozen: bool = False
    """The backbone stays as it is."""

    def __post_init__(self) -> None:
        if self.model != RINGS and make_config(self.model).intensity:
            raise UsageError(f"lidar.model {self.model} sees intensity, which this LiDAR does not measure: take room")
        if self.model == RINGS and (self.weights is not None or self.frozen):
            raise UsageError("lidar.weights and lidar.frozen are of a detector's backbone: give --lidar.model room")


@dataclass(frozen=True)
class Learning:
    """What all algorithms have in common."""

    lr: float = 5e-4
    """Learning rate of Adam."""
    encoder_lr: float | None = None
    """That of the encoder; by default the same."""
    gamma: float = 0.99
    """Discount of rewards from step to step."""
    batch: int = 64
    """Transitions that a gradient step learns from."""
    features: int = 128
    """Numbers that are made of the images."""
    width: int = 256
    """Units in each of the two hidden layers of actor and critic."""


@dataclass(frozen=True)
class Replay:
    """How SAC and TD3 remember and learn."""

    size: int = 100_000
    """Frames that are kept, each once, as uint8."""
    warm_up: int = 1000
    """Actions at random before learning begins."""
    updates: int = 1
    """Gradient steps after each step of all the environments."""
    n_steps: int = 3
    """Steps whose rewards are summed before the critic's estimate follows."""
    shift: int = 4
    """Images are shifted at random by up to this many pixels, as in DrQ; 0: not at all."""
    tau: float = 0.01
    """By how much the target critic follows the critic in a gradient step."""


@dataclass(frozen=True)
class Rollout:
    """How PPO learns."""

    steps: int = 256
    """Steps of each environment between two updates."""
    epochs: int = 5
    """Passes over them."""
    entropy: float = 0.0
    """Weight of the entropy in the loss."""


@dataclass(frozen=True)
class RLConfig:
    """Reinforcement learning of one task with an algorithm of Stable-Baselines3."""

    task: str = "dmc/cartpole-swingup"
    """Family and name of the task."""
    algorithm: Algorithm = "sac"
    """sac and td3 learn from what they remember, ppo from what it just did."""
    steps: int = 50_000
    """Actions in all, over all the environments."""
    seed: int = 0
    """Chooses initial weights, starts and noise."""
    envs: int = 4
    """Environments that are played side by side."""
    env: EnvOptions = EnvOptions(size=48, preset="fastest", frame_stack=2)
    encoder: EncoderOptions = EncoderOptions(name="vit-micro")
    keypoints: KeypointOptions = KeypointOptions()
    lidar: LidarOptions = LidarOptions()
    learning: Learning = Learning()
    replay: Replay = Replay()
    rollout: Rollout = Rollout()
    normalise: tuple[Normalised, ...] = ()
    """What is brought to unit scale by its running statistics (`VecNormalize`): reward, proprioception, state."""
    options: tuple[str, ...] = ()
    """Any other argument of the algorithm's class in Stable-Baselines3, as name=value: target_entropy=-2."""
    every: int = 5000
    """Actions between two checkpoints, at least as many as an episode of each environment has: at each checkpoint the
    environments begin anew."""
    evaluation: Evaluation = Evaluation(episodes=10, times=10)
    device: Device = "auto"
    """Where to learn; auto: on a GPU if there is one."""
    threads: int = 0
    """Threads that learn on the CPU; 0: as many as there are cores. On the CPU they decide the last bits."""
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores. They don't change the result."""

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            raise unknown("algorithm", self.algorithm, get_args(Algorithm))
        seen = resolve(self.task, self.env)
        if "pixels" in seen.observe and (self.keypoints.method == "none" or self.keypoints.pixels):
            check_image_size(self.encoder.name, self.env.size, "env.size", self.encoder.adapter)
        if self.lidar.model != RINGS and "lidar" not in seen.observe:
            raise UsageError(
                f"lidar.model {self.lidar.model} reads a LiDAR, but env.observe is {', '.join(seen.observe)}"
            )
        for wanted in self.normalise:
            if wanted not in get_args(Normalised):
                raise unknown("quantity to normalise", wanted, get_args(Normalised))
        _check_positive("", self, ("steps", "envs", "every"))
        _check_positive("learning.", self.learning, ("lr", "gamma", "batch", "features", "width"))
        if self.learning.encoder_lr is not None:
            _check_positive("learning.", self.learning, ("encoder_lr",))
        _check_positive("replay.", self.replay, ("size", "updates", "n_steps", "tau"))
        _check_positive("rollout.", self.rollout, ("steps", "epochs"))
        for name, value in (("replay.shift", self.replay.shift), ("replay.warm_up", self.replay.warm_up)):
            if value < 0:
                raise UsageError(f"{name} must not be negative, got {value}")
        if self.threads < 0 or self.workers < 0:
            raise UsageError(f"threads and workers must not be negative, got {self.threads} and {self.workers}")

    @property
    def trial(self) -> Trial:
        """The episodes of its evaluations."""
        return Trial(self.task, self.env, self.seed, self.evaluation.episodes)

    @property
    def sees(self) -> str:
        """What looks at the observations, in words: `vit-micro + coin`."""
        observed = resolve(self.task, self.env).observe
        adapter = "" if self.encoder.adapter == "none" else f" + {self.encoder.adapter}"
        backbone = "" if self.lidar.model == RINGS else f", backbone {self.lidar.model}"
        names = {"pixels": self.encoder.name + adapter, "lidar": f"lidar{backbone}"}
        return ", ".join(names.get(item, item) for item in observed)

    @property
    def segment(self) -> int:
        """Actions between two checkpoints: `every`, at least an episode of each environment, up to whole steps of the
        environments, or whole rollouts of PPO.

        With less, nothing would ever be learnt of how episodes end.
        """
        unit = self.envs * (self.rollout.steps if self.algorithm == "ppo" else 1)
        least = max(self.every, self.envs * resolve(self.task, self.env).horizon)
        return -(-least // unit) * unit


def _check_positive(prefix: str, options: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(options, name)
        if not value > 0:
            raise UsageError(f"{prefix}{name} must be positive, got {value}")
