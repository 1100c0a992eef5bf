"""Images a second of our encoders beside those of transformers, what CoIn adds, and peak memory."""

from __future__ import annotations

import functools
import gc
import importlib.util
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robovision.bench.timing import compare, markdown, peak_megabytes
from robovision.devices import Device, resolve_device
from robovision.encoders.base import Encoder
from robovision.encoders.build import OPEN_GATE, build
from robovision.encoders.names import EncoderSpec, check_image_size, find_spec
from robovision.encoders.vit import SIZES, ViT
from robovision.errors import UsageError

HEADS = (
    *("encoder", "pixels", "batch", "precision", "pass", "transformers, images/s", "ours", "ours + CoIn", "CoIn adds"),
    *("peak MB: transformers", "ours", "ours + CoIn"),
)
PRECISIONS = (torch.float32, torch.bfloat16)
PEERS = ("resnet50", "swin-tiny")
"""Beside the ViTs, what transformers has too."""
PASSES = ("forward", "forward + backward")


@dataclass(frozen=True)
class Case:
    """An encoder, the side of its images in pixels, and how many at once."""

    name: str
    size: int
    batch: int


CASES = (
    Case("vit-tiny", 64, 32),
    Case("vit-tiny", 224, 8),
    Case("vit-small", 224, 4),
    Case("vit-base", 224, 2),
    Case("clip-vit-b16", 224, 2),
    Case("dinov2-vit-s14", 224, 4),
    Case("resnet50", 224, 8),
    Case("lookhere-vit-b16", 224, 2),
    Case("nat-mini", 224, 8),
    Case("swin-tiny", 224, 8),
    Case("coswin-tiny", 224, 8),
    Case("dualtoken-vit-t", 224, 8),
    Case("dualtoken-vit-s", 224, 8),
    Case("smoe", 224, 8),
)
"""The first is what `robovision train` trains; vit-base is what CoIn's overhead is judged by."""


def table(cases: Sequence[Case], rounds: int, device: Device, progress: Callable[[], object]) -> Iterator[str]:
    """The tables, one a case, each as soon as it is measured; `progress` is called after each measurement."""
    device = resolve_device(device)
    yield _where(device)
    for case in cases:
        torch.manual_seed(0)
        ways = _ways(case, device)
        rows = []
        for precision in PRECISIONS:
            for backward in (False, True):
                rows.append(_row(case, ways, precision, backward, rounds, device))
                progress()
        yield markdown(HEADS, rows)


def check(cases: Sequence[Case]) -> None:
    """Raise UsageError for an unknown encoder, one that transformers does not have, or a size that does not fit it."""
    for case in cases:
        check_image_size(case.name, case.size, "--size")
        if find_spec(case.name).architecture == "strek":
            raise UsageError("transformers has nothing like strek: robovision bench keypoints measures it")


def count(cases: Sequence[Case]) -> int:
    """How many measurements `table` makes."""
    return len(cases) * len(PRECISIONS) * len(PASSES)


def has_transformers() -> bool:
    """Whether there is something to compare with."""
    return importlib.util.find_spec("transformers") is not None


def _where(device: Device) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    lacking = "" if has_transformers() else "; transformers is missing: pip install transformers"
    return (
        f"{device}, {name}, {torch.get_num_threads()} threads, torch {torch.__version__}{lacking}\n"
        "bfloat16: torch.autocast, for all alike. In brackets the median ratio to transformers. Peak memory: what a\n"
        "pass takes beside the weights, gradients included."
    )


def _ways(case: Case, device: Device) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """By name, each network and its tokens of uint8 images."""
    ours = build(case.name, case.size).to(device)
    ways: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {"ours": (ours, lambda x: ours(x).tokens)}
    if isinstance(ours, ViT):
        coin = build(case.name, case.size, "coin").to(device)
        assert isinstance(coin, ViT)
        assert coin.injector is not None
        assert float(coin.injector.get_parameter("gamma").detach().mean()) == OPEN_GATE
        ways["coin"] = (coin, lambda x: coin(x).tokens)
    spec = find_spec(case.name)
    if has_transformers() and (spec.is_vit or spec.architecture in PEERS):
        peer = _peer(spec, case.size).to(device)
        ways["transformers"] = (peer, functools.partial(_peer_tokens, peer, ours))
    return ways


def _row(
    case: Case,
    ways: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]],
    precision: torch.dtype,
    backward: bool,
    rounds: int,
    device: Device,
) -> list[str]:
    images = torch.randint(256, (case.batch, 3, case.size, case.size), dtype=torch.uint8, device=device)
    calls = {
        name: functools.partial(_call, network.train(backward), tokens, images, precision, backward)
        for name, (network, tokens) in ways.items()
    }
    speeds = compare(calls, rounds)
    memory = {
        name: _peak(call, network, device)
        for (name, call), (network, _) in zip(calls.items(), ways.values(), strict=True)
    }
    cells: dict[str, str] = {}
    base = speeds["transformers"].ratio if "transformers" in speeds else None
    for name, speed in speeds.items():
        rate = case.batch / speed.seconds
        beside = "" if base is None or name == "transformers" else f" ({speed.ratio / base:.2f}x)"
        cells[name] = f"{rate:,.0f}{beside}" if rate >= 100 else f"{rate:.1f}{beside}"
    if "coin" in speeds:
        cells["adds"] = f"{100 * (1 / speeds['coin'].ratio - 1):.0f} %"
    peaks = [memory.get(name, "-") for name in ("transformers", "ours", "coin")]
    about = [case.name, str(case.size), str(case.batch), str(precision).removeprefix("torch."), PASSES[backward]]
    return [*about, *(cells.get(key, "-") for key in ("transformers", "ours", "coin", "adds")), *peaks]


def _call(
    network: nn.Module, tokens: Callable[[Tensor], Tensor], images: Tensor, precision: torch.dtype, backward: bool
) -> None:
    """One pass; what it computed is freed."""
    kind = images.device.type
    with torch.set_grad_enabled(backward):
        with torch.autocast(kind, precision, enabled=precision != torch.float32):
            out = tokens(images)
        if backward:
            out.float().square().mean().backward()  # type: ignore[no-untyped-call]
            network.zero_grad()
    if kind == "cuda":
        torch.cuda.synchronize()


def _peak(call: Callable[[], None], network: nn.Module, device: Device) -> str:
    """Megabytes that a pass takes at most; a dash where that can't be told."""
    network.zero_grad()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return f"{(torch.cuda.max_memory_allocated() - before) / 1e6:,.0f}"
    peak = peak_megabytes(call) if device == "cpu" else None
    return "-" if peak is None else f"{peak:,.0f}"


def _peer(spec: EncoderSpec, size: int) -> Any:
    """The same architecture in transformers, with random weights."""
    import transformers

    if spec.architecture == "resnet50":
        return transformers.ResNetModel(transformers.ResNetConfig())
    if spec.architecture == "swin-tiny":
        return transformers.SwinModel(transformers.SwinConfig(image_size=size), add_pooling_layer=False)
    shape = SIZES[spec.architecture.removeprefix("vit-")]
    heads = shape.heads if spec.heads is None else spec.heads
    common: dict[str, Any] = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": heads,
    }
    common |= {"image_size": size, "patch_size": spec.patch}
    wide: dict[str, Any] = {"intermediate_size": 4 * shape.width}
    match spec.family:
        case "plain":
            return transformers.ViTModel(transformers.ViTConfig(**common, **wide), add_pooling_layer=False)
        case "clip" | "openclip":
            activation = "quick_gelu" if spec.family == "clip" else "gelu"
            return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**common, **wide, hidden_act=activation))
        case "dinov2":
            return transformers.Dinov2Model(transformers.Dinov2Config(**common))
        case "dinov2-reg":
            return transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**common))


def _peer_tokens(peer: Any, ours: Encoder, images: Tensor) -> Tensor:
    """What transformers makes of uint8 images, normalised as ours are."""
    normalised = (images.float() / 255 - ours.mean) / ours.std
    tokens: Tensor = peer(pixel_values=normalised).last_hidden_state
    return tokens
