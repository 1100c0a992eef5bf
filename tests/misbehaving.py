"""Jobs of worker processes that crash, hang or refuse."""

from __future__ import annotations

import os
import time
from pathlib import Path

from robovision.errors import UsageError


class Misbehaving:
    """Squares numbers; does something bad once for each listed number, remembered in a folder."""

    def __init__(self, folder: Path, crashes: tuple[int, ...], hangs: tuple[int, ...]) -> None:
        self.folder, self.crashes, self.hangs = folder, crashes, hangs

    def __call__(self, number: int) -> int:
        if number < 0:
            raise UsageError(f"{number} is negative")
        first = not (self.folder / str(number)).exists()
        (self.folder / str(number)).touch()
        if number in self.crashes and first:
            os._exit(7)
        if number in self.hangs and first:
            time.sleep(60)
        return number**2

    def close(self) -> None:
        (self.folder / f"closed-{os.getpid()}").touch()


class Dying:
    def __call__(self, number: int) -> int:
        os._exit(9)

    def close(self) -> None: ...
