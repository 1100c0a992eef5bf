"""The encoders by name, listed without importing torch."""

from __future__ import annotations

ENCODERS = ("vit-tiny", "vit-small", "vit-base", "vit-large")
