"""Keypoints of many images, into one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from robovision.errors import UsageError
from robovision.keypoints.extractors import Extractor
from robovision.keypoints.hloc import Store
from robovision.keypoints.sources import Source, read
from robovision.types import Array


def extract_all(
    sources: Sequence[Source], extractor: Extractor, store: Store, every: int, progress: Callable[[], object]
) -> list[str]:
    """Extract what the store does not hold yet; returns a message for each source that can't be read.

    What can't be written ends it.

    Args:
        sources: images and videos.
        extractor: makes the keypoints.
        store: keeps them.
        every: of a video only every so many-th frame.
        progress: called after each image.
    """
    faults: list[str] = []
    for source in sources:
        for name, image in _readable(source, every, lambda n: n not in store, faults):
            if image is not None:
                store.add(name, extractor.extract(image))
            progress()
    return faults


def _readable(
    source: Source, every: int, wanted: Callable[[str], bool], faults: list[str]
) -> Iterator[tuple[str, Array | None]]:
    """What `read` gives of a source; an error of reading, not one of whoever takes the images, goes to the faults."""
    try:
        yield from read(source, every, wanted)
    except UsageError as error:
        faults.append(str(error))
