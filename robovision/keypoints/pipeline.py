"""Keypoints of many images, into one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robovision.errors import UsageError
from robovision.keypoints.extractors import Extractor
from robovision.keypoints.hloc import Store
from robovision.keypoints.sources import Source, read


def extract_all(
    sources: Sequence[Source], extractor: Extractor, store: Store, every: int, progress: Callable[[], object]
) -> list[str]:
    """Extract what the store does not hold yet; returns a message for each source that can't be read.

    Args:
        sources: images and videos.
        extractor: makes the keypoints.
        store: keeps them.
        every: of a video only every so many-th frame.
        progress: called after each image.
    """
    faults = []
    for source in sources:
        try:
            for name, image in read(source, every, lambda n: n not in store):
                if image is not None:
                    store.add(name, extractor.extract(image))
                progress()
        except UsageError as error:
            faults.append(str(error))
    return faults
