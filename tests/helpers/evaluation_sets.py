"""Tasks' folders in DataComp's layout: tars of labelled pictures, or one table and one zip."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from helpers.pictures import picture
from helpers.tars import Members, write_tar

TEMPLATES = ["a photo of {c}", "{c} colour"]

Parts = Mapping[str, bytes]


def members(samples: Sequence[Parts], start: int = 0) -> Members:
    """The members of ``samples`` (parts by extension), whose keys count up from ``start``."""
    return [
        (f"s{number:07d}.{extension}", data)
        for number, parts in enumerate(samples, start)
        for extension, data in sorted(parts.items())
    ]


def write_task(
    folder: Path,
    samples: Sequence[Parts],
    classnames: Sequence[str] = ("red", "green", "blue"),
    templates: Sequence[str] = TEMPLATES,
    num_shards: int = 1,
) -> Path:
    """A zero-shot task, the samples dealt out to its shards in runs."""
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(classnames) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    (folder / "test" / "nshards.txt").write_text(f"{num_shards}\n")
    bounds = [len(samples) * shard // num_shards for shard in range(num_shards + 1)]
    for shard, (start, stop) in enumerate(pairwise(bounds)):
        write_tar(folder / "test" / f"{shard}.tar", members(samples[start:stop], start))
    return folder


def write_random_task(folder: Path, num_classes: int = 3, per_class: int = 5) -> Path:
    """A zero-shot task of random pictures in two shards, its classes taking turns."""
    samples = [
        {"cls": str(number % num_classes).encode(), "jpg": picture(500 + number)}
        for number in range(num_classes * per_class)
    ]
    names = [f"thing {label}" for label in range(num_classes)]
    return write_task(folder, samples, names, ["a photo of a {c}", "the {c}"], num_shards=2)


def write_archive(
    folder: Path, table: str, rows: Sequence[Mapping[str, object]], archive: str, images: Mapping[str, bytes]
) -> None:
    """A task of one csv, lists in it as JSON, and one zip."""
    folder.mkdir(parents=True)
    with open(folder / table, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            )
    with zipfile.ZipFile(folder / archive, "w") as handle:
        for name, data in images.items():
            handle.writestr(name, data)
