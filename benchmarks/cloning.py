"""How fast a policy is cloned, beside the same model trained the plain way, and how long one step of it takes.

    python benchmarks/cloning.py

The plain way embeds every image of every history anew, in float32; frozen or not. Ours shares the passes of a clip's
neighbouring histories, computes in bfloat16 where the processor does, and keeps a frozen encoder's features. Times are
those that one core works, the ways taking turns in one process. Prints the tables of benchmarks/README.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from robovision.agents.clips import Batch, Clips, Drawing
from robovision.agents.cloned import ClonedAgent
from robovision.agents.config import EncoderOptions, Optimisation, TrainConfig
from robovision.agents.learner import Learner
from robovision.agents.policy import make_policy
from robovision.bench.timing import compare, markdown
from robovision.devices import resolve_precision
from robovision.encoders.features import BATCH
from robovision.envs import EnvOptions
from robovision.envs.demo_arrays import Demonstrations
from robovision.optimisers import adamw, descend

FRAMES, LENGTH = 512, 128
BATCH_SIZE, CLIP, HISTORY = 64, 8, 3
FELT, ACTIONS = 4, 4
ROUNDS, STEPS = 3, 25


@dataclass(frozen=True)
class Case:
    """A kind of training, at a size of image."""

    name: str
    encoder: EncoderOptions
    size: int


CASES = (
    Case("fine-tuned", EncoderOptions("vit-tiny", adapter="none"), 64),
    Case("fine-tuned + CoIn", EncoderOptions("vit-tiny", adapter="coin"), 64),
    Case("frozen", EncoderOptions("vit-tiny", adapter="none", train="frozen"), 64),
)


def demonstrations(size: int) -> Demonstrations:
    """Random ones."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (FRAMES, 3, size, size), np.uint8)
    numbers = random.normal(size=(FRAMES, FELT)).astype(np.float32)
    return Demonstrations(pixels, numbers, numbers[:, :ACTIONS].copy(), np.full(FRAMES // LENGTH, LENGTH), None)


def config(case: Case, clip: int) -> TrainConfig:
    """The training of a case; without random shifts, so that both ways see the same."""
    precision = resolve_precision("auto", "cpu")
    optimisation = Optimisation(batch=BATCH_SIZE, clip=clip, shift=0, precision=precision)
    env = EnvOptions(size=case.size, preset="fastest")
    return TrainConfig(history=HISTORY, env=env, encoder=case.encoder, optimisation=optimisation, device="cpu")


def ours(case: Case) -> Callable[[], object]:
    """A step as `robovision train` makes it."""
    clips = Clips(demonstrations(case.size), Drawing(history=HISTORY, clip=CLIP))
    learner = Learner(config(case, CLIP), FELT, clips.actions)
    frozen = case.encoder.train == "frozen"
    if frozen:
        with torch.no_grad():
            tokens = [learner.policy.encoder(images).tokens for images in torch.split(clips.frames, BATCH)]
        clips.frames = torch.cat(tokens)
    return lambda: learner.descend(clips.batch(0, BATCH_SIZE // CLIP), 0, 100, frozen)


def plain(case: Case) -> Callable[[], object]:
    """A step that embeds all images of all histories, in float32."""
    clips = Clips(demonstrations(case.size), Drawing(history=HISTORY))
    policy = make_policy(config(case, 1), FELT, ACTIONS)
    policy.fit_actions(clips.actions)
    optimizer = adamw(policy, 1e-4)
    frozen = case.encoder.train == "frozen"

    def embed(batch: Batch) -> torch.Tensor:
        images = batch.frames.flatten(0, 1)
        if not frozen:
            return policy.embed(images)
        with torch.no_grad():
            tokens = policy.encoder(images).tokens
        return policy.read(tokens)

    def step() -> None:
        batch = clips.batch(0, BATCH_SIZE)
        policy.train()
        embedded = embed(batch).view(BATCH_SIZE, HISTORY, -1)
        loss = policy.loss(policy.plan(embedded, batch.proprioception), batch.actions, batch.planned)
        descend(loss, policy, optimizer, 1e-3, 1.0)

    return step


def training() -> None:
    """Print samples a second of the core's own time."""
    rows = []
    for case in CASES:
        speeds = compare({"plain": plain(case), "ours": ours(case)}, ROUNDS, clock=time.process_time)
        rows.append([f"{case.name}, {case.size} px", speeds["plain"].rate(BATCH_SIZE), speeds["ours"].rate(BATCH_SIZE)])
    print(markdown([f"ViT-Tiny, history {HISTORY}, batch {BATCH_SIZE}", "plain, samples/s", "ours, samples/s"], rows))


def latency() -> None:
    """Print milliseconds of a step, from pixels to action, its encoder in float32 and in bfloat16."""
    rows = []
    for adapter in ("none", "coin"):
        for size in (64, 224):
            title = "ViT-Tiny" + (" + CoIn" if adapter == "coin" else "")
            rows.append([f"{title}, {size} px", *(step_times(adapter, size, half) for half in (False, True))])
    heads = [f"{precision}, ms, median (longest of {STEPS})" for precision in ("float32", "bfloat16")]
    print(markdown(["policy step on one core", *heads], rows))


def step_times(adapter: str, size: int, half: bool) -> str:
    """Milliseconds that the core works for a step of a policy with random weights."""
    encoder = EncoderOptions("vit-tiny", adapter=adapter)  # type: ignore[arg-type]
    whole = dataclasses.replace(TrainConfig(history=HISTORY), env=EnvOptions(size=size), encoder=encoder)
    agent = ClonedAgent(make_policy(whole, FELT, ACTIONS).eval(), size, half)
    image = np.random.default_rng(0).integers(0, 256, (3, size, size), np.uint8)
    observation = {"pixels": image, "proprioception": np.zeros(FELT, np.float32)}
    agent(observation)
    times = []
    for _ in range(STEPS):
        began = time.process_time()
        agent(observation)
        times.append(1000 * (time.process_time() - began))
    return f"{statistics.median(times):.1f} ({max(times):.1f})"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    latency()
    print()
    training()
