"""Pretraining of a ViT as a masked autoencoder, in one process or data-parallel under torchrun.

Everything random depends on the seed and the step alone, so a run that was killed goes on as if nothing had
happened. The images of a step do not depend on the number of processes; how they are cropped and masked does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robovision import weights
from robovision.devices import make_deterministic, resolve_device, resolve_precision, thread_count
from robovision.encoders.build import build
from robovision.encoders.mae import MaskedAutoencoder
from robovision.encoders.mae_config import MaeConfig
from robovision.encoders.pictures import Draw, Pictures, augment
from robovision.encoders.vit import ViT
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.optimisers import adamw, check_loss, descend, learning_rate
from robovision.processes import Processes
from robovision.run import Run
from robovision.steps import Steps
from robovision.types import Metric

BETAS = 0.9, 0.95
"""Of AdamW (appendix A.1 of the paper)."""
GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm, which bfloat16 asks for."""
SHOWN = 8
"""Images of the picture of reconstructions."""


def resolve(config: MaeConfig) -> MaeConfig:
    """The config with every `auto` and 0 replaced by what it means on this machine."""
    device = resolve_device(config.device)
    return dataclasses.replace(
        config,
        device=device,
        precision=resolve_precision(config.precision, device),
        threads=thread_count(config.threads),
    )


class Pretraining:
    """One pretraining in one run folder, from wherever the folder stands to the end.

    Args:
        run: the folder; only the first process writes there.
        config: completely resolved.
        pictures: what to learn from.
        processes: those that share the work.

    Raises:
        UsageError: if the batch can't be shared evenly.
    """

    def __init__(self, run: Run, config: MaeConfig, pictures: Pictures, processes: Processes) -> None:
        if config.batch % processes.count:
            raise UsageError(f"batch ({config.batch}) must be a multiple of the {processes.count} processes")
        self.run = run
        self.config = config
        self._pictures = pictures
        self._processes = processes
        self._draw = Draw(len(pictures), config.batch, config.seed)

    def execute(self) -> list[Metric]:
        """Train whatever is still missing; returns the final metrics. Writes `encoder.safetensors`, half precision.

        Raises:
            UsageError: if the loss is no longer finite, or something can't be written or read.
        """
        make_deterministic(self.config.seed, self.config.threads)
        self._prepare()
        self._steps = Steps(
            self.run,
            self.model,
            self.optimizer,
            total=self.config.steps,
            checkpoint_every=self.config.checkpoint_every,
            processes=self._processes,
        )
        self.model.train()
        picture = self.run.path / "reconstructions.png"
        return self._conclude(self._steps.finish("pretraining", self._train_step, lambda: self._show(picture)))

    def _prepare(self) -> None:
        config = self.config
        encoder = build(config.encoder, max(config.sizes))
        assert isinstance(encoder, ViT)
        self.model = MaskedAutoencoder(encoder).to(self._processes.device(config.device))
        self._parallel: nn.Module = DistributedDataParallel(self.model) if self._processes.count > 1 else self.model
        self.optimizer = adamw(self.model, config.weight_decay, BETAS)

    def _train_step(self) -> dict[str, Tensor | float]:
        """One step of AdamW on the loss of one batch: draw, crop, hide, paint, compare, descend."""
        config, step = self.config, self._steps.step
        rate = learning_rate(step, config.steps, config.lr)
        images, order = self._batch(step)
        device = self.model.mask_token.device
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss: Tensor = self._parallel(images.to(device), order.to(device))
        check_loss(loss, step, f"a lower --lr than {config.lr:g}, or --precision float32")
        descend(loss, self.model, self.optimizer, rate, GRADIENT_NORM)
        return {"loss": loss.detach(), "lr": rate}

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The images of a step for this process, uint8 [B, 3, S, S], and the order in which their patches are seen."""
        config, own = self.config, self._processes
        size = config.sizes[step % len(config.sizes)]
        rows, columns = self.model.encoder.grid(size, size)
        generator = own.generator(config.seed, step)
        images = augment(self._pictures.take(own.share(self._draw(step))), size, generator)
        return images, torch.rand(len(images), rows * columns, generator=generator).argsort(dim=1)

    def _conclude(self, means: list[Metric]) -> list[Metric]:
        loss, _, seconds = means
        metrics = [dataclasses.replace(loss, name="reconstruction_error", unit="variances of a patch"), seconds]
        if self._processes.leads:
            half = {name: value.half() for name, value in self.model.encoder.state_dict().items()}
            checksum = weights.save(self.run.path / "encoder.safetensors", half)
            loss_curve(self.run.path / "curve.png", self._steps.curve, self.config)
            details = {"steps": self._steps.step, "images": len(self._pictures), "encoder_sha256": checksum}
            self.run.write_results(metrics, details)
        return metrics

    def _show(self, path: Path) -> None:
        """A PNG of images, what the encoder sees of them, and what the decoder makes of that."""
        from matplotlib.image import imsave

        size = max(self.config.sizes)
        rows, columns = self.model.encoder.grid(size, size)
        generator = torch.Generator().manual_seed(self.config.seed)
        numbers = torch.randint(len(self._pictures), (SHOWN,), generator=generator).tolist()
        images = augment(self._pictures.take(numbers), size, generator)
        order = torch.rand(SHOWN, rows * columns, generator=generator).argsort(dim=1)
        device = self.model.mask_token.device
        with torch.no_grad():
            seen, filled = self.model.reconstruct(images.to(device), order.to(device))
        table = torch.stack([images.float() / 255, seen.cpu(), filled.cpu()])
        picture = table.permute(0, 3, 1, 4, 2).reshape(3 * size, SHOWN * size, 3)
        with write_atomically(path) as file:
            imsave(cast(BinaryIO, file), picture.numpy(), format="png")


def loss_curve(path: Path, curve: list[dict[str, float]], config: MaeConfig) -> None:
    """A PNG of the loss over the training steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    loss = np.array([row["loss"] for row in curve])
    width = max(1, len(loss) // 50)
    axes.plot([row["step"] for row in curve], loss, color="0.8", label="batch")
    smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
    axes.plot([row["step"] for row in curve][width - 1 :], smooth, color="tab:blue", label="mean")
    axes.set(xlabel="training step", ylabel="squared error of hidden patches (their variances)", yscale="log")
    axes.set_title(f"{config.encoder}, masked autoencoder, seed {config.seed}", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
