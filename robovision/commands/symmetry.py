"""Inspect the symmetry of an encoder."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from robovision.commands import Command
from robovision.encoders.names import check_image_size, find_spec
from robovision.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from robovision.encoders.base import Encoder
    from robovision.encoders.vit import ViT

SYMMETRY = """Inspect a vision transformer on one image, without CoIn and with it: by block, how far its tokens move
with the image and turn with it, and how fine they are (Fourier amplitude); and where it looks (attention rollout).

ENCODER is a name of `robovision weights list`, whose CoIn has random weights here and an open gate, or the folder of
a training run, whose CoIn is the trained one. Prints a table; writes a PNG and a CSV.

examples:
  robovision symmetry vit-tiny
  robovision symmetry dinov2-vit-s14 --image photo.jpg --out dinov2
  robovision symmetry runs/hammer"""

SIZE = 224


@dataclass(frozen=True)
class Symmetry:
    """The options of `robovision symmetry`."""

    encoder: tyro.conf.Positional[str]
    """A name, or the folder of a training run."""
    image: Path | None = None
    """An image to look at; by default a frame of the task, for a name one of metaworld/drawer-open."""
    weights: Path | None = None
    """A file with the weights, if not those that were fetched."""
    size: int | None = None
    """Side in pixels of what the encoder sees; by default 224, for a run its own."""
    out: Path = Path("symmetry")
    """The folder for symmetry.png and symmetry.csv."""


def _symmetry(options: Symmetry) -> int:
    import torch
    from tqdm import tqdm

    from robovision.images import read_image
    from robovision.symmetry import report, tokens

    torch.manual_seed(0)
    vits, size, task = _from_run(options) if Path(options.encoder).is_dir() else _from_name(options)
    first = next(iter(vits.values()))
    side = tokens.canvas_side(size, first.patch)
    picture = _frame(task, side) if options.image is None else read_image(options.image)
    canvas = tokens.fit(picture, side)
    inspections = {}
    with tqdm(total=len(vits) * tokens.count(first.patch), desc="motions", leave=False) as bar:
        for name, vit in vits.items():
            inspections[name] = tokens.inspect(vit, canvas, size, bar.update)
    print(report.tables(inspections, tokens.depths(first), first.patch))
    _make_folder(options.out)
    report.write(options.out / "symmetry.csv", inspections, tokens.depths(first))
    title = f"{options.encoder}, {size} px, {options.image or task}"
    report.draw(options.out / "symmetry.png", title, tokens.middle(canvas, size)[0], inspections, first.patch)
    print(f"\npicture    {options.out / 'symmetry.png'}\nnumbers    {options.out / 'symmetry.csv'}")
    return 0


def _from_name(options: Symmetry) -> tuple[dict[str, ViT], int, str]:
    """The encoder of this name without CoIn and with it, the size and the task."""
    from robovision.encoders.build import OPEN_GATE, build
    from robovision.encoders.checkpoints import find_weights, load_pretrained

    spec = find_spec(options.encoder)
    size = SIZE if options.size is None else options.size
    check_image_size(options.encoder, size, "--size")
    path = find_weights(options.encoder) if spec.needs_weights and options.weights is None else options.weights
    plain = _vit(build(options.encoder, size), options.encoder)
    if path is None:
        print(f"{options.encoder} has random weights")
    else:
        load_pretrained(plain, path)
    injected = _vit(build(options.encoder, size, "coin"), options.encoder)
    injected.load_state_dict(plain.state_dict(), strict=False)
    assert injected.injector is not None
    injected.injector.get_parameter("gamma").data.fill_(OPEN_GATE)
    print("CoIn has random weights, and its gate is open")
    return {"plain": plain, "CoIn": injected}, size, "metaworld/drawer-open"


def _from_run(options: Symmetry) -> tuple[dict[str, ViT], int, str]:
    """The encoder of a run's last checkpoint, without its CoIn too if it has one; its size and task."""
    from robovision import weights
    from robovision.agents.config import TrainConfig
    from robovision.encoders.build import build
    from robovision.run import Run

    if options.weights is not None:
        raise UsageError("a run has its own weights: leave out --weights")
    run = Run.open(Path(options.encoder))
    config = run.config(TrainConfig)
    checkpoint = run.latest()
    if checkpoint is None:
        raise UsageError(f"{run.path} has no checkpoint yet: continue it with robovision train --resume {run.path}")
    encoder = _vit(build(config.encoder.name, config.env.size, config.encoder.adapter), config.encoder.name)
    tensors = {
        name.removeprefix("encoder."): value
        for name, value in checkpoint.tensors("model").items()
        if name.startswith("encoder.")
    }
    weights.assign(encoder, tensors, str(checkpoint.path))
    size = config.env.size if options.size is None else options.size
    check_image_size(config.encoder.name, size, "--size")
    if encoder.injector is None:
        return {config.encoder.adapter if config.encoder.adapter != "none" else "plain": encoder}, size, config.task
    plain = copy.deepcopy(encoder)
    plain.injector = None
    return {"without CoIn": plain, "CoIn": encoder}, size, config.task


def _vit(encoder: Encoder, name: str) -> ViT:
    from robovision.encoders.vit import ViT

    if not isinstance(encoder, ViT):
        raise UsageError(f"{name} is a ResNet, which has no tokens to follow from block to block: choose a ViT")
    return encoder


def _frame(task: str, side: int) -> Tensor:
    """The first picture of an episode, uint8 [3, side, side]."""
    import torch

    try:
        from robovision.envs import make
    except ImportError as error:
        raise UsageError(f"a picture of {task} needs pip install 'robovision[sim]'; or pass --image FILE") from error
    env = make(task, size=side, observe=("pixels",), preset="exact")
    try:
        return torch.from_numpy(env.reset(seed=0)[0]["pixels"])
    finally:
        env.close()


def _make_folder(path: Path) -> None:
    from robovision.files import cannot_write

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


COMMANDS = {"symmetry": Command(Symmetry, SYMMETRY, _symmetry)}
