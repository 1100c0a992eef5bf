"""Measure the symmetry of a model: ours or the user's own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from robovision.commands import Command
from robovision.encoders.names import ENCODERS, check_image_size, find_spec
from robovision.errors import UsageError
from robovision.files import make_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robovision.encoders.base import Encoder
    from robovision.encoders.vit import ViT
    from robovision.symmetry.probe import Views

SYMMETRY = """How a model answers when its input moves: the error against the size of the motion, layer by layer.

MODEL is a name of `robovision weights list`, the folder of a training run, or your own as package.module:name, a module
or what makes one without arguments. Looks at an image, or at a point cloud (.bin, .pcd, .ply,
.npz, .feather). 0 is equivariant, 1.41 unrelated. Prints a table; writes a PNG and a CSV.

A vision transformer is shown without CoIn and with it: how far its tokens move and turn with the image, how fine they
are (Fourier amplitude), and where it looks (attention rollout). Of any other model each layer is measured under shifts,
turns, zooms and a flip, or in space; from an image to one of the same size, EQ-T and EQ-R in decibel too. Errors
count the whole image, border included, where zero padding breaks a shift; EQ-T and EQ-R leave the border out.

examples:
  robovision symmetry
  robovision symmetry vit-small
  robovision symmetry dinov2-vit-s14 --on photo.jpg --out dinov2
  robovision symmetry runs/hammer
  robovision symmetry my_package.models:make_unet --size 128
  robovision symmetry my_package.models:make_pointnet --on sweep.bin"""

SIZE = 224
MIN_SIZE = 32
MARGIN = 16
"""A quarter of the pixels by which pictures are larger than what a model sees: as far as it is shifted."""
TASK = "metaworld/drawer-open"
CLOUDS = (".bin", ".pcd", ".ply", ".npz", ".feather")
POINTS = 2048
"""Of a cloud, drawn at random, so that any model can take them."""


@dataclass(frozen=True)
class Symmetry:
    """The options of `robovision symmetry`."""

    model: tyro.conf.Positional[str] = "vit-tiny-sim"
    """A name, the folder of a training run, or package.module:name."""
    on: Annotated[Path | None, tyro.conf.arg(aliases=("--image",))] = None
    """An image or a point cloud; by default a frame of the task, for a name one of metaworld/drawer-open."""
    weights: Path | None = None
    """A file with the weights, if not those that were fetched."""
    size: int | None = None
    """Side in pixels of what the model sees; by default 224, for a run its own."""
    out: Path = Path("symmetry")
    """The folder for symmetry.png and symmetry.csv."""

    @property
    def is_cloud(self) -> bool:
        """Whether it looks at a point cloud."""
        return self.on is not None and self.on.suffix.lower() in CLOUDS


def _symmetry(options: Symmetry) -> int:
    import torch

    from robovision.symmetry.foreign import is_import_path, load

    torch.manual_seed(0)
    if is_import_path(options.model):
        if options.weights is not None:
            raise UsageError("your own factory loads its weights itself: leave out --weights")
        return _probe(options, load(options.model), SIZE if options.size is None else options.size)
    if options.is_cloud:
        raise UsageError(f"{options.model} sees images, and {options.on} is a point cloud")
    if "." in options.model and options.model not in ENCODERS and not Path(options.model).exists():
        module, _, name = options.model.rpartition(".")
        raise UsageError(f"{options.model} is no encoder and no folder; your own module would be {module}:{name}")
    if Path(options.model).is_dir():
        return _inspect(options, *_from_run(options))
    encoder, size = _named(options)
    from robovision.encoders.vit import ViT

    return (
        _inspect(options, *_from_name(options, encoder, size))
        if isinstance(encoder, ViT)
        else _probe(options, encoder, size)
    )


def _inspect(options: Symmetry, vits: dict[str, ViT], size: int, task: str) -> int:
    """Vision transformers, depth by depth."""
    from tqdm import tqdm

    from robovision.symmetry import report, tokens

    make_folder(options.out)
    first = next(iter(vits.values()))
    canvas = _canvas(options, task, tokens.canvas_side(size, first.patch))
    inspections = {}
    with tqdm(total=len(vits) * tokens.count(first.patch), desc="motions", leave=False) as bar:
        for name, vit in vits.items():
            inspections[name] = tokens.inspect(vit, canvas, size, bar.update)
    print(report.tables(inspections, tokens.depths(first), first.patch))
    report.write(options.out / "symmetry.csv", inspections, tokens.depths(first))
    title = f"{options.model}, {size} px, {options.on or task}"
    report.draw(options.out / "symmetry.png", title, tokens.middle(canvas, size)[0], inspections, first.patch)
    _say_where(options)
    return 0


def _probe(options: Symmetry, model: nn.Module, size: int) -> int:
    """Any module, layer by layer."""
    from tqdm import tqdm

    from robovision.symmetry import charts, probe

    make_folder(options.out)
    if size < MIN_SIZE:
        raise UsageError(f"--size must be at least {MIN_SIZE} px, so that something moves; got {size}")
    canvas = None if options.is_cloud else _picture(options, model, size)
    views = _cloud(options) if canvas is None else probe.image_views(canvas, size)
    groups = probe.CLOUD_GROUPS if canvas is None else probe.IMAGE_GROUPS
    with tqdm(total=sum(len(group.magnitudes) for group in groups), desc="motions", leave=False) as bar:
        found = probe.probe(model, views, groups, bar.update)
    print(charts.tables(found))
    if canvas is not None:
        _say_decibels(model, canvas, size)
    charts.write(options.out / "symmetry.csv", found)
    where = options.on if canvas is None else f"{size} px, {options.on or TASK}"
    charts.draw(options.out / "symmetry.png", f"{options.model}, {where}", found)
    _say_where(options)
    return 0


def _picture(options: Symmetry, model: nn.Module, size: int) -> Tensor:
    """The picture in 0..1 from which views are cut, [1, C, S, S]."""
    from robovision.encoders.base import Encoder
    from robovision.symmetry import foreign, tokens

    wanted = 3 if isinstance(model, Encoder) else foreign.channels(model)
    if wanted not in (1, 3):
        raise UsageError(f"{options.model} takes images of {wanted} channels; only 1 (grey) and 3 can be shown to it")
    canvas = _canvas(options, TASK, tokens.canvas_side(size, MARGIN)) / 255
    return canvas if wanted == 3 else canvas.mean(1, keepdim=True)


def _cloud(options: Symmetry) -> Views:
    """The points of the file, in their own frame, [1, N, 3]."""
    import torch

    from robovision.lidar.clouds import read_cloud
    from robovision.symmetry.probe import cloud_views

    assert options.on is not None
    xyz = torch.tensor(read_cloud(options.on).xyz)
    if len(xyz) < 2:
        raise UsageError(f"{options.on} holds {len(xyz)} points: nothing can be told from so few")
    chosen = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(0))[:POINTS]
    return cloud_views(xyz[chosen][None])


def _say_decibels(model: nn.Module, canvas: Tensor, size: int) -> None:
    import torch

    from robovision.symmetry.decibel import decibels
    from robovision.symmetry.probe import numbers

    with torch.no_grad():
        output = model(canvas[..., :size, :size])
    if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2:] == (size, size):
        found = decibels(lambda pictures: numbers(model(pictures)), canvas, size)
        print(
            f"\nEQ-T {found.translation:.1f} dB, EQ-T frac {found.fractional:.1f} dB, EQ-R {found.rotation:.1f} dB "
            "(larger is better)"
        )


def _say_where(options: Symmetry) -> None:
    print(f"\npicture    {options.out / 'symmetry.png'}\nnumbers    {options.out / 'symmetry.csv'}")


def _canvas(options: Symmetry, task: str, side: int) -> Tensor:
    """The picture that was asked for, cut to a square, uint8 [1, 3, side, side]."""
    from robovision.images import read_image
    from robovision.symmetry import tokens

    return tokens.fit(_frame(task, side) if options.on is None else read_image(options.on), side)


def _named(options: Symmetry) -> tuple[Encoder, int]:
    """The encoder of this name with its weights, and the size."""
    from robovision.encoders.build import build
    from robovision.encoders.checkpoints import load_encoder

    spec = find_spec(options.model)
    size = SIZE if options.size is None else options.size
    check_image_size(options.model, size, "--size")
    if options.weights is not None or spec.needs_weights:
        return load_encoder(options.model, size, file=options.weights), size
    print(f"{options.model} has random weights")
    return build(options.model, size), size


def _from_name(options: Symmetry, plain: ViT, size: int) -> tuple[dict[str, ViT], int, str]:
    """The encoder of this name without CoIn and with it, the size and the task."""
    from robovision.encoders.build import OPEN_GATE, build

    injected = _vit(build(options.model, size, "coin"), options.model)
    injected.load_state_dict(plain.state_dict(), strict=False)
    assert injected.injector is not None
    injected.injector.get_parameter("gamma").data.fill_(OPEN_GATE)
    print("CoIn has random weights, and its gate is open")
    return {"plain": plain, "CoIn": injected}, size, TASK


def _from_run(options: Symmetry) -> tuple[dict[str, ViT], int, str]:
    """The encoder of a run's last checkpoint, without its CoIn too if it has one; its size and task."""
    from robovision import weights
    from robovision.agents.config import TrainConfig
    from robovision.encoders.build import build
    from robovision.run import Run

    if options.weights is not None:
        raise UsageError("a run has its own weights: leave out --weights")
    run = Run.open(Path(options.model))
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
        raise UsageError(
            f"{name} is no ViT, and a run's tokens are followed from block to block: name the encoder alone"
        )
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


COMMANDS = {"symmetry": Command(Symmetry, SYMMETRY, _symmetry)}
