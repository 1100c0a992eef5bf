"""Linear probes: how well frozen features tell what the robot feels and where the objects are.

Each task is seen by its own camera. A ridge regression from an encoder's features to the targets is fitted on some
episodes and judged on others; R^2 is 1 for a perfect one and 0 for one that always says the mean. A small
convolutional network that is trained on the same images and targets, all its layers, says what labels alone can do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robovision.envs.photographs import EPISODE, own_camera, wander  # first: it chooses the backend that mujoco reads

# isort: split
import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robovision.bench.convnet import EPOCHS, ConvNet, equal_width, multiply_adds, predict
from robovision.bench.timing import markdown
from robovision.encoders.base import Encoder
from robovision.encoders.build import build
from robovision.encoders.checkpoints import find_weights, load_pretrained
from robovision.envs.registry import find_task, make_simulation
from robovision.envs.rendering import Renderer
from robovision.envs.simulation import Simulation, driven_joints
from robovision.seeding import derive

TASKS = (
    "metaworld/drawer-open",
    "metaworld/hammer",
    "dmc/cheetah-run",
    "dmc/finger-spin",
    "adroit/pen",
    "mujoco/half-cheetah",
    "metaworld/door-open",
    "dmc/walker-walk",
)
"""The first six are held out: `robovision pretrain mae` renders none of them. Of the last two it renders other
seeds."""
EPISODES = 96
"""Episodes a task; the last third is what the probes are judged on."""
STILL = 1e-3
"""Targets whose standard deviation is below this, metres or radians, are left out."""
RIDGES = tuple(10.0**k for k in range(-1, 6))
"""Penalties that are tried on a fifth of the episodes to fit on."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """Images of a task and what was true when they were taken.

    Convention:
        images: uint8 [N, 3, S, S].
        targets: by name, float32 [N, T]: `proprioception`, positions without velocities, metres and radians;
            `objects`, the places of what moves but is not the robot, metres in the world.
        fitted: the first so many are to fit on, whole episodes.
    """

    images: Tensor
    targets: dict[str, Tensor]
    fitted: int


def sample(task: str, size: int, seed: int, episodes: int = EPISODES) -> Sample:
    """Images of a task as `robovision train` sees it, and the targets of its probes."""
    simulation = make_simulation(task)
    renderer = Renderer(
        simulation.model, size, "fastest", geomgroups=simulation.geomgroups, rangefinders=simulation.rangefinders
    )
    camera = own_camera(simulation, find_task(task).camera, simulation.crop)
    loose = _loose_geoms(simulation.model)
    images, felt, places = [], [], []
    try:
        for episode in range(episodes):
            random = np.random.default_rng(derive(seed, "probe", task, episode))
            simulation.reset(random)
            for _ in wander(task, simulation, random):
                images.append(renderer.pixels(simulation.data, camera))
                felt.append(_positions(task, simulation))
                places.append(simulation.data.geom_xpos[loose].ravel().astype(np.float32))
    finally:
        renderer.close()
        simulation.close()
    targets = {"proprioception": _varying(np.stack(felt)), "objects": _varying(np.stack(places))}
    return Sample(
        torch.from_numpy(np.stack(images)),
        {name: values for name, values in targets.items() if values.shape[1]},
        EPISODE * (episodes - max(1, episodes // 3)),
    )


def _positions(task: str, simulation: Simulation) -> Array:
    """The proprioception without velocities, which one image can't show."""
    values = simulation.proprioception()
    return values[: len(values) // 2] if task.startswith(("dmc/", "mujoco/")) else values


def _loose_geoms(model: mujoco.MjModel) -> NDArray[np.int_]:
    """The geoms of everything but the robot: no actuator moves anything in the tree of bodies they belong to."""
    driven = {int(model.body_rootid[model.jnt_bodyid[joint]]) for joint in driven_joints(model)}
    roots = model.body_rootid[model.geom_bodyid]
    return np.flatnonzero(~np.isin(roots, sorted(driven)))


def _varying(values: Array) -> Tensor:
    return torch.from_numpy(values[:, values.std(0) > STILL])


def r_squared(predicted: Tensor, true: Tensor, deviation: Tensor) -> float:
    """The share of the variance that is explained, each target measured in its own deviation.

    Args:
        predicted, true: [N, T].
        deviation: [T], of the targets that were fitted on.
    """
    error = ((predicted - true) / deviation).square().sum()
    spread = ((true - true.mean(0)) / deviation).square().sum()
    return float(1 - error / spread)


def ridge(features: Tensor, targets: Tensor, fitted: int) -> float:
    """R^2 of a ridge regression on the samples after the first `fitted`, which alone it is fitted on.

    The penalty is chosen on the last fifth of the fitted samples, whole episodes.

    Args:
        features: [N, D].
        targets: [N, T].
        fitted: a multiple of the episodes' length.
    """
    kept = EPISODE * max(1, round(0.8 * fitted / EPISODE))
    deviation = targets[:fitted].std(0)
    choice = [
        r_squared(_solve(features[:fitted], targets[:fitted], kept, x), targets[kept:fitted], deviation) for x in RIDGES
    ]
    best = RIDGES[int(np.argmax(choice))]
    return r_squared(_solve(features, targets, fitted, best), targets[fitted:], deviation)


def _solve(features: Tensor, targets: Tensor, fitted: int, penalty: float) -> Tensor:
    """What a ridge regression on the first `fitted` samples predicts for the others; solved in the samples' space."""
    x, y = features[:fitted].double(), targets[:fitted].double()
    mean, scale, middle = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    x, rest = (x - mean) / scale, (features[fitted:].double() - mean) / scale
    width = x.shape[1]
    kernel = x @ x.T / width
    kernel.diagonal().add_(penalty / width)
    predicted: Tensor = rest @ (x.T @ torch.linalg.solve(kernel, y - middle)) / width + middle
    return predicted.float()


def features(encoder: Encoder, images: Tensor, batch: int = 64) -> dict[str, Tensor]:
    """Frozen features of images: `pooled`, the pooled vector and the mean token; `tokens`, all tokens end to end."""
    encoder.eval()
    pooled, tokens = [], []
    with torch.no_grad():
        for some in torch.split(images, batch):
            seen = encoder(some)
            pooled.append(torch.cat([seen.pooled, seen.tokens.mean(1)], dim=1))
            tokens.append(seen.tokens.flatten(1))
    return {"pooled": torch.cat(pooled), "tokens": torch.cat(tokens)}


def pair(name: str, path: Path | None, size: int, seed: int) -> dict[str, Encoder]:
    """An encoder with its weights, those of the file if one is named, and the same with random ones, by name.

    Raises:
        UsageError: if the weights are not here or don't fit.
    """
    torch.manual_seed(seed)
    trained, random = build(name, size), build(name, size)
    load_pretrained(trained, find_weights(name) if path is None else path)
    return {name: trained, "random": random}


def supervised(data: Sample, width: int, seed: int, epochs: int = EPOCHS) -> dict[str, float]:
    """R^2 of a `ConvNet` that is trained on all targets at once, by target."""
    sizes = [values.shape[1] for values in data.targets.values()]
    predicted = predict(data.images, torch.cat([*data.targets.values()], 1), data.fitted, width, seed, epochs)
    return {
        name: r_squared(part, values[data.fitted :], values[: data.fitted].std(0))
        for (name, values), part in zip(data.targets.items(), torch.split(predicted, sizes, 1), strict=True)
    }


def table(
    encoders: Mapping[str, Encoder],
    tasks: Sequence[str],
    size: int,
    seed: int,
    episodes: int,
    progress: Callable[[int], None],
) -> str:
    """R^2 of every encoder and of the trained network on every task, in Markdown; `progress` gets the tasks done."""
    cost = multiply_adds(next(iter(encoders.values())), size)
    width = equal_width(size, cost)
    heads = [
        "task, target",
        *(f"{name}, {kind}" for name in encoders for kind in ("pooled", "tokens")),
        "pixels",
        "CNN",
    ]
    rows = []
    for number, task in enumerate(tasks, start=1):
        data = sample(task, size, seed, episodes)
        seen = {name: features(encoder, data.images) for name, encoder in encoders.items()}
        inputs = [seen[name][kind] for name in encoders for kind in ("pooled", "tokens")]
        inputs.append(data.images.flatten(1).float() / 255)
        trained = supervised(data, width, seed)
        for target, values in data.targets.items():
            scores = [*(ridge(x, values, data.fitted) for x in inputs), trained[target]]
            rows.append([f"{task}, {target} ({values.shape[1]})", *(f"{score:.2f}" for score in scores)])
        progress(number)
    cnn = multiply_adds(ConvNet(size, 1, width), size)
    note = f"{cost / 1e6:.0f} M multiply-adds an image at {size} px, the CNN (width {width}) {cnn / 1e6:.0f} M"
    return f"{markdown(heads, rows)}\n\n{note}"
