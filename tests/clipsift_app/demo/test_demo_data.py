from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipsift_app.demo import pairs
from clipsift_app.demo.captions import GENERIC_FORMS
from clipsift_app.demo.data import MARKER, make_demo_data
from clipsift_app.demo.glyphs import MAIN, OBJECTS
from clipsift_app.demo.pairs import POOL_SHARES, make_pool
from clipsift_app.demo.patterns import SCENES, TEXTURE_COLOURS, TEXTURES
from clipsift_app.demo.pictures import (
    COLOURS,
    PHOTO,
    SHIFT,
    SKETCH,
    USUAL_COLOURS,
    Picture,
    draw_object,
    draw_scene,
    draw_texture,
    draw_words,
)
from clipsift_common.errors import ClipsiftError

SIZES = {"pool_size": 400, "trusted_size": 100, "eval_size": 80}
SUBJECTS = (*OBJECTS, *TEXTURES, *SCENES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo_data(folder, seed=3, **SIZES)
    return folder


def read_tar(path: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(path) as tar:
        for member in tar:
            assert member.mtime == 0
            key, extension = member.name.split(".")
            assert extension not in samples[key], "a key twice"
            content = tar.extractfile(member)
            assert content is not None
            samples[key][extension] = content.read()
    return samples


def read_pool(data: Path) -> dict[str, dict[str, bytes]]:
    """uid -> members."""
    shards = sorted((data / "pool" / "shards").glob("*.tar"))
    return {json.loads(s["json"])["uid"]: s for shard in shards for s in read_tar(shard).values()}


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def subjects_in(caption: str) -> set[str]:
    return {name for name in SUBJECTS if name in caption.lower()}


def test_same_seed_same_bytes_and_another_seed_other_bytes(data: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path / "same", seed=3, **SIZES)
    assert contents(tmp_path / "same") == contents(data)
    make_demo_data(tmp_path / "other", seed=4, **SIZES)
    other, same = contents(tmp_path / "other"), contents(data)
    assert other.keys() == same.keys()
    assert all(other[name] != same[name] for name in same if name.endswith((".tar", "truth.parquet")))


def test_sizes_of_one_part_leave_the_others_alone(data: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path, seed=3, **{**SIZES, "pool_size": 50})
    for part in ("trusted", "eval"):
        assert contents(tmp_path / part) == contents(data / part)


def test_shards_have_the_layout_of_img2dataset(data: Path) -> None:
    shards = sorted((data / "pool" / "shards").glob("*.tar"))
    assert [shard.name for shard in shards] == [f"{i:08d}.tar" for i in range(4)]
    counts = []
    for shard in shards:
        samples = read_tar(shard)
        stats = json.loads(shard.with_name(f"{shard.stem}_stats.json").read_text())
        assert stats["successes"] == len(samples)
        assert stats["count"] == stats["successes"] + stats["failed_to_download"] + stats["failed_to_resize"]
        counts.append(len(samples))
        assert list(samples) != sorted(samples), "tar order should be the order of arrival"
        for key, sample in samples.items():
            assert len(key) == 12
            assert key.startswith(shard.stem)
            assert sample.keys() == {"jpg", "txt", "json"}
            about, image = json.loads(sample["json"]), Image.open(io.BytesIO(sample["jpg"]))
            assert (about["key"], about["caption"]) == (key, sample["txt"].decode())
            assert (about["width"], about["height"]) == image.size
            assert about["sha256"] == hashlib.sha256(sample["jpg"]).hexdigest()
            assert image.format == "JPEG"
            assert 32 <= min(image.size) <= max(image.size) <= 48
    assert sum(counts) == SIZES["pool_size"]
    assert len(set(counts)) == len(counts), "shards should be uneven"


def test_truth_names_every_pair_once_in_the_published_shares(data: Path) -> None:
    truth = pq.read_table(data / "truth.parquet").to_pydict()
    assert len(set(truth["uid"])) == SIZES["pool_size"]
    assert set(truth["uid"]) == set(read_pool(data))
    assert all(len(uid) == 32 and int(uid, 16) >= 0 for uid in truth["uid"])
    assert sum(POOL_SHARES.values()) == pytest.approx(1)
    for kind, count in Counter(truth["kind"]).items():
        assert count == pytest.approx(POOL_SHARES[kind] * SIZES["pool_size"], abs=1)
    assert set(truth["kind"]) == set(POOL_SHARES)


def test_captions_are_what_their_kind_says() -> None:
    by_kind = defaultdict(list)
    for pair in make_pool(np.random.default_rng(0), 600):
        by_kind[pair.kind].append(pair)
    assert all(subjects_in(pair.caption) for kind in ("good", "mismatched") for pair in by_kind[kind])
    assert all(subjects_in(pair.caption) & set(SCENES) for pair in by_kind["off-target"])
    assert not any(set(SCENES) & subjects_in(pair.caption) for pair in by_kind["good"])
    assert not any(subjects_in(form) for form in GENERIC_FORMS)
    assert len({pair.caption for pair in by_kind["generic"]}) < len(by_kind["generic"])
    copies = Counter(pair.caption for pair in by_kind["duplicate"])
    assert len(copies) == 2  # 30 pairs: 25 copies of one picture, 5 of the next
    assert len({pair.image for pair in by_kind["duplicate"]}) == len(by_kind["duplicate"]), (
        "near-duplicates, not copies"
    )


def test_mismatched_captions_name_another_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    show = pairs._show

    def recording(rng: np.random.Generator, name: str) -> tuple[Picture, str]:
        shown.append(name)
        return show(rng, name)

    monkeypatch.setattr(pairs, "_show", recording)
    rng = np.random.default_rng(1)
    pick = pairs._popular_classes(rng)
    list(pairs._make_kind(rng, "mismatched", 200, pick))
    pictures, captions = shown[::2], shown[1::2]
    assert len(pictures) == 200
    assert all(picture != caption for picture, caption in zip(pictures, captions))


def test_popular_classes_have_a_long_tail_and_miss_none() -> None:
    pick = pairs._popular_classes(np.random.default_rng(0))
    counts = Counter(pick() for _ in range(6000))
    assert set(counts) == {*OBJECTS, *TEXTURES}
    ordered = sorted(counts[name] for name in OBJECTS)
    assert ordered[-1] > 3 * ordered[0]
    assert sum(counts[name] for name in TEXTURES) / 6000 == pytest.approx(0.2, abs=0.03)


def test_trusted_pairs_are_right_and_apart_from_the_pool(data: Path) -> None:
    samples = read_tar(data / "trusted" / "shards" / "00000000.tar")
    assert len(samples) == SIZES["trusted_size"]
    captions = [sample["txt"].decode() for sample in samples.values()]
    assert all(subjects_in(caption) and not subjects_in(caption) & set(SCENES) for caption in captions)
    uids = {json.loads(sample["json"])["uid"] for sample in samples.values()}
    assert len(uids) == len(samples)
    assert not uids & set(read_pool(data))


@pytest.mark.parametrize(
    ("folder", "classes", "size"),
    [
        ("wds_imagenet1k_test", 40, 80),
        ("wds_imagenetv2_test", 40, 80),
        ("wds_imagenet_sketch_test", 40, 80),
        ("wds_vtab-dtd_test", 10, 80),
    ],
)
def test_tasks_have_the_layout_of_datacomp(data: Path, folder: str, classes: int, size: int) -> None:
    task = data / "eval" / folder
    names = (task / "classnames.txt").read_text().splitlines()
    assert len(set(names)) == len(names) == classes
    templates = (task / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert templates
    assert all(template.count("{c}") == 1 for template in templates)
    num_shards = int((task / "test" / "nshards.txt").read_text())
    samples = {k: v for i in range(num_shards) for k, v in read_tar(task / "test" / f"{i}.tar").items()}
    assert len(list((task / "test").glob("*.tar"))) == num_shards
    assert list(samples) == [f"s{i:07d}" for i in range(size)]
    assert Counter(int(s["cls"]) for s in samples.values()) == dict.fromkeys(range(classes), size // classes)
    assert all(Image.open(io.BytesIO(s["jpg"])).mode == "RGB" for s in samples.values())


def test_evaluation_pictures_are_not_in_the_pool_or_trusted(data: Path) -> None:
    trained = [
        s["jpg"] for part in ("pool", "trusted") for p in (data / part).rglob("*.tar") for s in read_tar(p).values()
    ]
    evaluated = [s["jpg"] for p in (data / "eval").rglob("*.tar") for s in read_tar(p).values()]
    assert len(set(evaluated)) == len(evaluated)
    assert not set(trained) & set(evaluated)


def test_complete_data_are_left_alone_and_interrupted_data_made_whole(tmp_path: Path) -> None:
    sizes = {"pool_size": 40, "trusted_size": 10, "eval_size": 40}
    make_demo_data(tmp_path, seed=0, **sizes)
    expected = contents(tmp_path)
    shard = tmp_path / "pool" / "shards" / "00000001.tar"
    shard.write_bytes(b"untouched")
    make_demo_data(tmp_path, seed=0, **sizes)
    assert shard.read_bytes() == b"untouched"
    (tmp_path / MARKER).unlink()  # as a killed run leaves it
    make_demo_data(tmp_path, seed=0, **sizes)
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("changed", [{"seed": 1}, {"pool_size": 41}, {"trusted_size": 11}, {"eval_size": 80}])
def test_other_arguments_in_the_same_folder_are_refused(tmp_path: Path, changed: dict[str, int]) -> None:
    arguments = {"seed": 0, "pool_size": 40, "trusted_size": 10, "eval_size": 40}
    (tmp_path / MARKER).write_text(json.dumps(arguments))
    name, value = next(iter(changed.items()))
    with pytest.raises(ClipsiftError, match=rf"{name} {arguments[name]}, not {value}") as raised:
        make_demo_data(tmp_path, **{**arguments, **changed})
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_subject_can_be_drawn_and_has_its_colours() -> None:
    rng = np.random.default_rng(0)
    assert USUAL_COLOURS.keys() == OBJECTS.keys()
    assert TEXTURE_COLOURS.keys() == TEXTURES.keys()
    assert {colour for pair in (*USUAL_COLOURS.values(), *TEXTURE_COLOURS.values()) for colour in pair} <= set(COLOURS)
    pictures = [draw_object(rng, name, style) for name in OBJECTS for style in (PHOTO, SKETCH, SHIFT)]
    pictures += [draw_texture(rng, name) for name in TEXTURES] + [draw_scene(rng, name) for name in SCENES]
    pictures += [draw_words(rng, "happy birthday")]
    for picture in pictures:
        assert np.asarray(picture.image).std() > 5, f"{picture.subject} is a blank"


@pytest.mark.parametrize("name", OBJECTS)
def test_glyphs_stay_in_their_square(name: str) -> None:
    points = np.concatenate([points for _, points in OBJECTS[name]])
    assert np.abs(points).max() <= 1.05
    assert np.ptp(points, axis=0).max() > 1.2
    assert any(role == MAIN for role, _ in OBJECTS[name])
