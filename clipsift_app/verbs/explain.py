"""The verb ``explain``: what became of one sample, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipsift_app.parsing import read_settings
from clipsift_app.settings import RunSettings
from clipsift_app.stages import open_index
from clipsift_app.verb_settings import parse_settings
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import atomic_path
from clipsift_common.images import ImageError, open_image
from selection.features.files import FeatureFile
from selection.pool.claimed.learning import Absent
from selection.pool.index import Sample
from selection.recipe.explain import Explanation, explain, format_explanation
from selection.uids import parse_uids


@dataclass
class ExplainSettings:
    """Which sample of which run; its picture is saved into ``out``, by default the run's ``explain`` folder."""

    uid: str
    run: str
    out: str | None = None


def run(arguments: list[str]) -> None:
    settings = parse_settings(ExplainSettings, arguments, positional="uid")
    folder = Path(settings.run)
    explanation = explain(folder, settings.uid)
    print(format_explanation(explanation))
    try:
        about = read_settings(folder)
    except ClipsiftError as error:
        return print(f"pool     not at hand: {error}")
    index = open_index(about.candidates(), about.cache)
    row = int(index.find(parse_uids([explanation.uid]))[0]) if index is not None else -1
    if index is not None and row >= 0:
        try:
            _show(index.read(row), Path(settings.out or folder / "explain"))
        except Absent as error:
            print(f"picture  {error}")
    elif (caption := _caption(about, explanation)) is not None:
        print(f"caption  {caption}")


def _show(sample: Sample, folder: Path) -> None:
    print(f"shard    {sample.shard}, key {sample.key}\ncaption  {sample.caption}")
    try:
        suffix = (open_image(sample.image).format or "jpg").lower()
    except ImageError as error:
        print(f"picture  {error}")
        return
    with atomic_path(folder / f"{sample.uid}.{suffix}") as temporary:
        temporary.write_bytes(sample.image)
    print(f"picture  {folder / f'{sample.uid}.{suffix}'}")


def _caption(about: RunSettings, explanation: Explanation) -> str | None:
    """The caption from the metadata, when there are no shards."""
    path = next((file.url for file in about.candidates().metadata if file.name == explanation.stem), None)
    if path is None or "text" not in FeatureFile(path).column_names():
        return None
    return str(FeatureFile(path).column("text")[explanation.row])
