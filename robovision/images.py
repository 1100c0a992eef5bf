"""Images from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robovision.errors import UsageError, first_line

if TYPE_CHECKING:
    from torch import Tensor


def read_image(path: Path) -> Tensor:
    """The image in a file as uint8 [3, H, W], RGB, upright.

    Raises:
        UsageError: if there is no such file, or it is no image, or a damaged one.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise UsageError(f"there is no image {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} is no readable image: {first_line(error)}") from error
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()
