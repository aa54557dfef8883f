"""Features by part and on Ray are those of one process; a pool of which a part is embedded is no pool yet."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from clipsift_common.clip import LoadedCLIP
from clipsift_common.engines.base import Part
from clipsift_common.engines.on_ray import Ray, items_ahead
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from helpers.machines.ray_cluster import ray_cluster
from helpers.pools import sample, write_pool
from helpers.tars import write_tar
from helpers.tiny_clip import wrapped_clip
from selection.features.embed import _Embedding, embed
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection

CPU = Machine("cpu", 1)
STEPS = [{"score": "clip_score", "keep": 0.5}]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> LoadedCLIP:
    return wrapped_clip(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards; the first sample of the third is in the last one again."""
    folder = write_pool(tmp_path_factory.mktemp("embed") / "pool", {"a": 5, "b": 4, "c": 6, "d": 3})
    write_tar(folder / "shards" / "e.tar", [*sample("e0", 100), *sample("e1", 10), *sample("e2", 101)])
    return folder


def embed_part(pool: Path, clip: LoadedCLIP, out: Path, part: Part) -> None:
    whole = Pool(str(pool))
    index = PoolIndex.build(whole.part(part.share(whole.shards)), out / "cache", 0)
    embed(index, clip, out / "metadata", "x", CPU, 4, 0, part=part)


def embed_whole(pool: Path, clip: LoadedCLIP, out: Path) -> int:
    return len(embed(PoolIndex.build(Pool(str(pool)), out / "cache", 0), clip, out / "metadata", "x", CPU, 4, 0)[0])


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "metadata").iterdir())}


def arrays(out: Path) -> dict[str, np.ndarray]:
    """The features by file; zip archives say when they were made."""
    paths = sorted((out / "metadata").glob("*.npz"))
    return {f"{path.stem}/{name}": np.load(path)[name] for path in paths for name in ("x_img", "x_txt")}


def assert_alike(one: Path, other: Path) -> None:
    for name, text in files(one).items():
        assert name.endswith(".npz") or files(other)[name] == text, name
    for name, rows in arrays(one).items():
        np.testing.assert_array_equal(arrays(other)[name], rows, err_msg=name)
    assert files(one).keys() == files(other).keys()


def test_parts_and_one_start_without_make_what_one_process_makes(
    pool: Path, clip: LoadedCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert embed_whole(pool, clip, tmp_path / "whole") == 5
    for number in (2, 1):
        embed_part(pool, clip, tmp_path / "parts", Part(number, 3))
    select = Selector(Selection(None, "x", STEPS), Pool(str(tmp_path / "parts/metadata")), tmp_path, tmp_path / "cache")
    with pytest.raises(
        ClipsiftError, match=r"features were begun by 3 parts and not finished; clipsift embed, without"
    ):
        select.run()
    with pytest.raises(ClipsiftError, match=r"features were begun by 3 parts and not finished"):
        select.score_part(Part(1, 2))
    kept = (tmp_path / "parts/metadata/a.npz").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "clipsift"):
        embed_whole(pool, clip, tmp_path / "parts")
    # e.tar is of part 2, which did not see that its second sample is in c.tar, too
    assert "embed: parts 2, 3 of 3 have left 2 shards (c, e ...); making them" in caplog.text
    assert_alike(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "parts/metadata/a.npz").stat().st_mtime_ns == kept
    assert select.run().is_file()


def test_a_part_that_ended_on_the_way_goes_on(pool: Path, clip: LoadedCLIP, tmp_path: Path) -> None:
    from selection.features import embed as module

    with pytest.MonkeyPatch.context() as patch:
        write = module.write_feature_file

        def end_at_d(folder: Path, name: str, stem: str, *others: object) -> None:
            if stem == "d":
                raise KeyboardInterrupt
            write(folder, name, stem, *others)  # type: ignore[arg-type]

        patch.setattr(module, "write_feature_file", end_at_d)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            embed_part(pool, clip, tmp_path, Part(1, 3))  # a and d
    assert {path.stem for path in (tmp_path / "metadata").glob("*.parquet")} == {"a"}
    before = (tmp_path / "metadata/a.npz").stat().st_mtime_ns
    embed_part(pool, clip, tmp_path, Part(1, 3))
    assert {path.stem for path in (tmp_path / "metadata").glob("*.parquet")} == {"a", "d"}
    assert (tmp_path / "metadata/a.npz").stat().st_mtime_ns == before


def test_parts_of_two_teachers_are_never_mixed(pool: Path, clip: LoadedCLIP, tmp_path: Path) -> None:
    embed_part(pool, clip, tmp_path, Part(1, 2))
    other = LoadedCLIP(clip.model, clip.preprocess, clip.tokenizer, "other")
    with pytest.raises(ClipsiftError, match=r"they are never mixed"):
        embed_part(pool, other, tmp_path, Part(2, 2))


@pytest.mark.slow
def test_ray_makes_the_features_of_one_process(pool: Path, clip: LoadedCLIP, tmp_path: Path) -> None:
    embed_whole(pool, clip, tmp_path / "whole")
    index = PoolIndex.build(Pool(str(pool)), tmp_path / "ray/cache", 0)
    with ray_cluster(2):
        embed(index, clip, tmp_path / "ray/metadata", "x", CPU, 4, 0, engine=Ray(on_gpus=False))
        shards = [*range(5)]
        embedding = _Embedding(index, clip, {}, 2, "32-true")
        found = list(items_ahead(embedding.batches(shards), ahead=3))  # as for a GPU, which there is none of here
        expected = embedding.batches(shards)
        assert len(found) == len(expected) > 5
        for number, batch in enumerate(found):
            assert batch["rows"] == expected[number]["rows"]
            assert (batch["image"] == expected[number]["image"]).all()
    assert_alike(tmp_path / "whole", tmp_path / "ray")
