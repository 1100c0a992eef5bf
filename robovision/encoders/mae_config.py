"""What one masked-autoencoder pretraining is: the options, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from robovision.devices import Device, Precision
from robovision.encoders.names import check_image_size, find_spec
from robovision.errors import UsageError


@dataclass(frozen=True)
class MaeConfig:
    """Masked-autoencoder pretraining of a ViT from random weights."""

    encoder: str = "vit-tiny"
    """vit-tiny, vit-small, vit-base or vit-large."""
    sizes: tuple[int, ...] = (64, 96, 128)
    """Sides in pixels of what the encoder sees; the steps take them in turn, so that it learns to see at each."""
    steps: int = 6_000
    """Steps of the optimiser."""
    batch: int = 64
    """Images in one step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate of AdamW, reached after a twentieth of the steps, then falling as a cosine to 0."""
    weight_decay: float = 0.05
    """Weight decay of AdamW, on matrices only."""
    seed: int = 0
    """Chooses initial weights, the order of the images, crops and masks."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    device: Device = "auto"
    """Where to train; auto: on a GPU if there is one."""
    precision: Precision = "auto"
    """auto: bfloat16 where the processor multiplies it natively, else float32."""
    threads: int = 0
    """Threads that train on the CPU; 0: as many as there are cores. On the CPU they decide the last bits."""

    def __post_init__(self) -> None:
        spec = find_spec(self.encoder)
        if spec.needs_weights or not spec.is_vit:
            raise UsageError(
                f"encoder must be vit-tiny, vit-small, vit-base or vit-large, which start from random weights; "
                f"got {self.encoder}"
            )
        if not self.sizes:
            raise UsageError("sizes must name at least one image size")
        for size in self.sizes:
            check_image_size(self.encoder, size, "sizes")
            if size < 2 * spec.patch:
                raise UsageError(
                    f"sizes must be at least {2 * spec.patch} pixels, or nothing is left to see; got {size}"
                )
        for name in ("steps", "batch", "lr", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise UsageError(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.threads < 0:
            raise UsageError(f"threads must not be negative, got {self.threads}")
