"""Pictures of a tar with the same bytes, such as "image unavailable" placeholders: found by size, told by checksum."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np

from clipsift_common.tar_samples import TarReader
from clipsift_common.tars import Member

_FEWEST = 5  # pictures of one size; by chance a shard of web pictures has a few
_SIZES = 8  # that are looked at: the most frequent ones
_READ = 64  # pictures of a size that are read; of more, the share among these counts


def identical_pictures(reader: TarReader, table: np.ndarray) -> list[tuple[int, int, int]]:
    """(row of the first, size in bytes, count) of each group of pictures in ``table`` that are equal byte by byte.

    Reads at most 8 sizes of 64 pictures; of a size that more have, the count is that of the group's share.
    """
    sizes, counts = np.unique(table["image_size"], return_counts=True)
    groups = []
    for size in sizes[np.argsort(-counts, kind="stable")][:_SIZES].tolist():
        rows = np.flatnonzero(table["image_size"] == size)
        if len(rows) < _FEWEST:
            break
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _READ).astype(int))]
        offsets = table["image_offset"][chosen].tolist()
        sums = [zlib.crc32(reader.read(Member("", offset, size))) for offset in offsets]
        checksum, alike = Counter(sums).most_common(1)[0]
        if alike >= _FEWEST:
            groups.append((int(chosen[sums.index(checksum)]), size, round(len(rows) * alike / len(chosen))))
    return groups
