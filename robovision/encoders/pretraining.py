"""Pretraining of a ViT as a masked autoencoder, in one process or data-parallel under torchrun.

Everything random depends on the seed and the step alone, so a run that was killed goes on as if nothing had
happened. The images of a step do not depend on the number of processes; how they are cropped and masked does.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from robovision import weights
from robovision.devices import cpu_count, make_deterministic, resolve_device, resolve_precision
from robovision.encoders.build import build
from robovision.encoders.mae import MaskedAutoencoder
from robovision.encoders.mae_config import MaeConfig
from robovision.encoders.pictures import Draw, Pictures, augment
from robovision.encoders.processes import Processes
from robovision.encoders.vit import ViT
from robovision.errors import UsageError
from robovision.files import write_atomically, write_csv
from robovision.optimisers import adamw, check_loss, descend, learning_rate, restore, save
from robovision.run import Run
from robovision.types import Metric

CURVE_EVERY = 10
"""One of so many steps is a row of the loss curve."""
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
        threads=config.threads or cpu_count(),
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
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._pictures = pictures
        self._processes = processes
        self._draw = Draw(len(pictures), config.batch, config.seed)
        self._seconds = 0.0

    def execute(self) -> list[Metric]:
        """Train whatever is still missing; returns the final metrics. Writes `encoder.safetensors`, half precision.

        Raises:
            UsageError: if the loss is no longer finite, or something can't be written or read.
        """
        make_deterministic(self.config.seed, self.config.threads)
        self._prepare()
        self.step, self.curve, self._seconds = restore(self.run, self.model, self.optimizer)
        self._fit()
        return self._conclude()

    def _prepare(self) -> None:
        config = self.config
        encoder = build(config.encoder, max(config.sizes))
        assert isinstance(encoder, ViT)
        self.model = MaskedAutoencoder(encoder).to(self._processes.device(config.device))
        self._parallel: nn.Module = DistributedDataParallel(self.model) if self._processes.count > 1 else self.model
        self.optimizer = adamw(self.model, config.weight_decay, BETAS)

    def _fit(self) -> None:
        config, leads = self.config, self._processes.leads
        self.model.train()
        bar = tqdm(total=config.steps, initial=self.step, desc="pretraining", unit="step", disable=not leads)
        with bar:
            while self.step < config.steps:
                began = time.monotonic()
                loss, rate = self._train_step()
                self.step += 1
                self._seconds += time.monotonic() - began
                if self.step % CURVE_EVERY == 0 or self.step == config.steps:
                    mean = self._processes.mean(loss)
                    self.curve.append({"step": self.step, "loss": mean, "lr": rate})
                    bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
                bar.update()
                if leads and (self.step % config.checkpoint_every == 0 or self.step == config.steps):
                    self._save()

    def _train_step(self) -> tuple[Tensor, float]:
        """One step of AdamW on the loss of one batch: draw, crop, hide, paint, compare, descend."""
        config = self.config
        rate = learning_rate(self.step, config.steps, config.lr)
        images, order = self._batch(self.step)
        device = self.model.mask_token.device
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss: Tensor = self._parallel(images.to(device), order.to(device))
        check_loss(loss, self.step, f"a lower --lr than {config.lr:g}, or --precision float32")
        descend(loss, self.model, self.optimizer, rate, GRADIENT_NORM)
        return loss.detach(), rate

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The images of a step for this process, uint8 [B, 3, S, S], and the order in which their patches are seen."""
        config, own = self.config, self._processes
        size = config.sizes[step % len(config.sizes)]
        rows, columns = self.model.encoder.grid(size, size)
        generator = own.generator(config.seed, step)
        images = augment(self._pictures.take(own.share(self._draw(step))), size, generator)
        return images, torch.rand(len(images), rows * columns, generator=generator).argsort(dim=1)

    def _save(self) -> None:
        save(self.run, self.step, self.curve, self._seconds, self.model, self.optimizer)
        write_csv(self.run.path / "curve.csv", ["step", "loss", "lr"], self.curve)
        self._show(self.run.path / "reconstructions.png")

    def _conclude(self) -> list[Metric]:
        last = [row["loss"] for row in self.curve[-max(1, len(self.curve) // 20) :]]
        metrics = [
            Metric("reconstruction_error", float(np.mean(last)), "variances of a patch", count=len(last)),
            Metric("training_time", round(self._seconds, 1), "s"),
        ]
        if self._processes.leads:
            half = {name: value.half() for name, value in self.model.encoder.state_dict().items()}
            checksum = weights.save(self.run.path / "encoder.safetensors", half)
            loss_curve(self.run.path / "curve.png", self.curve, self.config)
            details = {"steps": self.step, "images": len(self._pictures), "encoder_sha256": checksum}
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
