"""Whatever lies below a pool is used, goes with what is used, or is left out for a reason."""

from __future__ import annotations

import pytest

from selection.pool.survey import classify

USED = ("00000.tar", "a/00000.tar", "a/b/c/d/00000.tar", "00001.TAR", "sub dir/x [1]{2}.Tar", "shards/0.1.tar")
METADATA = ("metadata/00.parquet", "metadata/part0/00.parquet", "a/metadata/x/y.parquet", "emb/x.parquet")
SIDECARS = (
    *("00000_stats.json", "00000.parquet", "a/00000.parquet", "00000.tar.crc", "00000.tar.md5", "00000.tar.idx"),
    *("emb/x.npz", "README.md", "LICENSE", "_SUCCESS", "a/Thumbs.db", "wids.json", "a/b/download.log"),
)
LEFT_OUT = {
    "partial_download": (
        "00007.tar.part",
        "00008.tar.incomplete",
        "a/9.tar.crdownload",
        "emb/y.parquet.tmp",
        "7f.partial",
    ),
    "packed_shard": ("00010.tar.lzo", "a/11.tar.lz4", "00012.TAR.Z", "13.tlz"),
    "archive": ("photos.zip", "a/old.7z"),
    "unknown_suffix": ("00020.tar.old", "00021.tar~", "00022.tar (copy)", "00023.tar.001", "a.tar.d-e"),
    "missing_shard": ("00030_stats.json", "a/00031_stats.json"),
    "features_alone": ("emb/z.npz",),
    "hidden": ("._00000.tar", ".00000.tar.crc", "metadata/._00.parquet", "metadata/._00.npz", ".cache/"),
    "other_file": ("rows/img_emb_0.npy", "a/picture.jpg", "notes"),
}
UNSURE = ("joined.parquet", "scores/x.parquet")
NOT_LOST = {"hidden", "other_file"}


def everything() -> list[str]:
    left_out = [path for paths in LEFT_OUT.values() for path in paths if path != ".cache/"]
    return [*USED, *METADATA, *UNSURE, *SIDECARS, *left_out, ".cache/a/00000.tar", ".cache/b"]


def test_every_file_is_in_one_class() -> None:
    survey = classify(dict.fromkeys(everything()))
    assert set(survey.shards) == set(USED)
    assert set(survey.metadata) == set(METADATA)
    assert set(survey.unsure) == set(UNSURE)
    assert survey.num_sidecars == len(SIDECARS)
    found = {kind: {left.path for left in survey.left_out if left.kind == kind} for kind in LEFT_OUT}
    assert found == {kind: set(paths) for kind, paths in LEFT_OUT.items()}
    assert len(survey.left_out) == sum(map(len, LEFT_OUT.values()))


def test_samples_are_lost_with_data_that_is_not_used_and_with_nothing_else() -> None:
    for left in classify(dict.fromkeys(everything())).left_out:
        is_data = left.kind not in NOT_LOST and left.path != "7f.partial"  # of which nobody knows what it will be
        assert (left.loses is not None) == is_data, left
        assert left.loses in (None, "metadata" if left.path.startswith("emb/") else "shards"), left


@pytest.mark.parametrize("other", ["0.tar.br", "0.tar.part", "0.tar.bak", "0_stats.json", "0.taz", "0.tar.gz.tmp"])
def test_what_is_there_whole_is_not_lost(other: str) -> None:
    beside = classify({f"a/{other}": 5, "a/0.tar": 5}).left_out
    elsewhere = classify({f"a/{other}": 5, "b/0.tar": 5}).left_out
    assert [left.loses for left in beside] in ([None], [])
    assert [left.loses for left in elsewhere] == ["shards"]


def test_of_two_forms_of_one_shard_the_tar_is_read() -> None:
    survey = classify(dict.fromkeys(["a/0.tar.gz", "a/0.tar", "a/0.tgz", "b/0.tar.gz", "b/0.tar.zst", "c/0.tar"]))
    assert list(survey.shards) == ["a/0.tar", "b/0.tar.gz", "c/0.tar"]
    assert {(left.path, left.kind, left.loses) for left in survey.left_out} == {
        (path, "copy_of_shard", None) for path in ("a/0.tar.gz", "a/0.tgz", "b/0.tar.zst")
    }


def test_two_forms_of_one_lost_shard_are_one_loss() -> None:
    left_out = classify({"0.tar.lz4": 5, "0.tar.lz4.part": 2, "0_stats.json": 1, "1.tar": 5}).left_out
    assert [(left.path, left.loses, left.promise) for left in left_out] == [
        ("0.tar.lz4", "shards", "0_stats.json"),
        ("0.tar.lz4.part", None, ""),
    ]


def test_what_aria2_is_still_writing_is_no_shard() -> None:
    survey = classify({"0.tar": 9, "0.tar.aria2": 1, "1.tar": 9})
    assert list(survey.shards) == ["1.tar"]
    assert [(left.path, left.kind, left.loses) for left in survey.left_out] == [("0.tar", "partial_download", "shards")]


def test_promises_lie_beside_the_shard() -> None:
    files = dict.fromkeys(
        ["a/0.tar", "a/0_stats.json", "a/0.parquet", "b/0.tar", "b/0.parquet", "c/0.tar", "0_stats.json"]
    )
    assert classify(files).shards == {"a/0.tar": "a/0_stats.json", "b/0.tar": "b/0.parquet", "c/0.tar": ""}


def test_parquets_without_shards_may_be_metadata() -> None:
    survey = classify(dict.fromkeys(["a.parquet", "b/c.parquet", "d.PARQUET", "e.pq", "a.npz"]))
    assert survey.metadata == ["a.parquet"]
    assert survey.unsure == ["b/c.parquet", "d.PARQUET", "e.pq"]


def test_what_the_program_wrote_itself_is_no_data() -> None:
    name = "0123456789abcdef"
    cache = [f"cache/features/{name}/0.parquet", f"cache/features/{name}/0.npz", f"cache/scores/{name}/0.parquet"]
    cache += [f"cache/shards/{name}.tar", f"cache/shards/{name}-packed", f"cache/shards/{name}.0.part"]
    cache += [f"cache/index/{name}/rows.npy", "cache/index/parts/0.npy", f"cache/targets/{name}.npy"]
    cache += [f"cache/teacher/{name}/training/model/weights.safetensors"]
    run = ["runs/a/selection/scores/0.parquet", "runs/a/selection/subset.npy", f"runs/a/cache/contents/{name}.json"]
    survey = classify(dict.fromkeys([*cache, *run, f"shards/{name}.tar", "metadata/0.parquet", "features/0.parquet"]))
    assert list(survey.shards) == [f"shards/{name}.tar"]
    assert survey.metadata == ["metadata/0.parquet"]
    assert survey.unsure == ["features/0.parquet"]
    assert {left.kind for left in survey.left_out} == {"own_output"}
    own = [left.path for left in survey.left_out if left.kind == "own_output"]
    assert own == sorted(
        [
            "cache/features/",
            "cache/index/",
            "cache/scores/",
            "cache/shards/",
            "cache/targets/",
            "cache/teacher/",
            "runs/a/cache/contents/",
            "runs/a/selection/",
        ]
    )
