"""Looks at point clouds: `robovision lidar view`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from robovision.errors import UsageError
from robovision.files import cannot_write
from robovision.lidar.birdseye import Window, choose_window, write_picture
from robovision.lidar.frames import read_frame, stem
from robovision.lidar.view_options import ViewOptions

SHEET = 16
"""Most frames of one sheet."""


def write_pictures(
    clouds: Sequence[Path], options: ViewOptions, out: Path, done: Callable[[int], None] = lambda _: None
) -> None:
    """Write a picture of the clouds to `out`, a .png, or one of each cloud to the folder `out`, all of one window.

    `done` hears how many clouds have been drawn.

    Raises:
        UsageError: if a file can't be read or written, or there are too many clouds for one sheet.
    """
    if out.suffix.lower() == ".png":
        if len(clouds) > SHEET:
            raise UsageError(f"{len(clouds)} clouds are too many for one sheet of {SHEET}; give a folder by --out")
        write_picture(out, [read_frame(path, options) for path in clouds], options)
        done(len(clouds))
        return
    names = [stem(path) for path in clouds]
    if len(set(names)) < len(names):
        raise UsageError("several clouds have the same name, and their pictures would too; view them one by one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    windows = [choose_window([read_frame(path, options)], options) for path in clouds]
    window = Window(
        min(w.back for w in windows),
        max(w.front for w in windows),
        min(w.right for w in windows),
        max(w.left for w in windows),
    )
    for count, (path, name) in enumerate(zip(clouds, names, strict=True), 1):
        write_picture(out / f"{name}.png", [read_frame(path, options)], options, window)
        done(count)
