"""Reading a task's folder: what is read, and what is refused by name."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipsift_common.errors import ClipsiftError
from evaluation.data.prompts import read_classnames
from evaluation.data.tars import TarImages
from evaluation.tasks import TASKS, Task
from helpers.colours import COLOURS, picture, sample, vector
from helpers.evaluation_sets import members, write_task
from helpers.pictures import plain_picture
from helpers.tars import write_tar

CIFAR, GEODE = TASKS["cifar10"], TASKS["fairness/geode"]


def colour_at(samples: TarImages, position: int) -> str:
    image, _ = samples.read(position)
    assert image.mode == "RGB"
    return next(name for name, value in COLOURS.items() if value == image.getpixel((0, 0)))


def test_reads_samples_over_shards(tmp_path: Path) -> None:
    colours = ["red", "green", "blue", "white", "red"]
    write_task(tmp_path / "t", [sample(colour, number % 3) for number, colour in enumerate(colours)], num_shards=3)
    samples = TarImages(CIFAR, tmp_path / "t", num_classes=3)
    assert len(samples) == 5
    assert [colour_at(samples, position) for position in range(5)] == colours
    assert [samples.read(position)[1]["label"] for position in range(5)] == [0, 1, 2, 0, 1]
    again = pickle.loads(pickle.dumps(samples))  # noqa: S301 (our own object, as a spawned worker gets it)
    assert colour_at(again, 3) == "white"


def test_takes_the_preferred_image_and_ignores_other_members(tmp_path: Path) -> None:
    images = {"webp": "red", "png": "green", "jpg": "blue"}
    everything = {extension: picture(colour, extension.replace("jpg", "jpeg")) for extension, colour in images.items()}
    parts = everything | {"cls": b"1", "json": b"not json", "pkl": b"cos\nsystem\n"}
    without_webp = {extension: data for extension, data in parts.items() if extension != "webp"}
    write_task(tmp_path / "t", [parts, without_webp, {"txt": b"no sample"}])
    samples = TarImages(CIFAR, tmp_path / "t", num_classes=2)
    assert [colour_at(samples, position) for position in range(len(samples))] == ["red", "green"]


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGBA", "1", "CMYK"])
def test_converts_every_mode_to_rgb(mode: str, tmp_path: Path) -> None:
    kind = "jpeg" if mode == "CMYK" else "png"
    write_task(tmp_path / "t", [{"cls": b"0", kind: plain_picture(COLOURS["white"], kind, mode)}])
    assert colour_at(TarImages(CIFAR, tmp_path / "t", 1), 0) == "white"


def test_metadata_by_position(tmp_path: Path) -> None:
    write_task(tmp_path / "t", [sample("red", 0, 5, 170, 99)])  # region, country, and one column more
    for columns, expected in ((["country"], [170]), (["country", "region"], [170, 5])):
        _, values = TarImages(GEODE, tmp_path / "t", 1, columns).read(0)
        assert values["metadata"].tolist() == expected


def test_classnames_keep_blank_lines_but_not_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("near\r\n\n  far \n\n\n")
    assert read_classnames(CIFAR, tmp_path) == ["near", "", "far"]


def cut(size: int) -> Callable[[Path], object]:
    """Keep so many bytes of the first shard. Its members begin at 0, 1024, 2048 ... with a header of 512 bytes."""
    return lambda folder: os.truncate(folder / "test" / "0.tar", size)


def put(*samples: dict[str, bytes]) -> Callable[[Path], object]:
    """Another last shard."""
    return lambda folder: write_tar(folder / "test" / "1.tar", members(samples, 4))


def count(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "test" / "nshards.txt").write_text(text)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no count": (lambda folder: (folder / "test" / "nshards.txt").unlink(), "nshards.txt cannot be read"),
    "bad count": (count("two"), "nshards.txt says 'two'"),
    "count of zero": (count("0"), "nshards.txt says '0'"),
    "count too high": (count("3"), "2.tar does not exist"),
    "count too low": (count("1"), "1.tar exists, but"),
    "no bytes": (cut(0), r"0\.tar is damaged \(it is empty\)"),
    "cut in a header": (cut(4096 + 200), "0.tar is damaged"),
    "cut in a member": (cut(4096 + 700), "0.tar is damaged"),
    "cut between members": (cut(4096), "0.tar is damaged"),
    "no tar": (lambda folder: (folder / "test" / "0.tar").write_bytes(b"<html>" * 200), "0.tar is damaged"),
    "empty": (lambda folder: [write_tar(folder / "test" / f"{n}.tar", []) for n in (0, 1)], "has no samples"),
    "no label": (put({"png": b""}), "1.tar sample s0000004 has no cls"),
    "no image": (put({"cls": b"0"}), "1.tar sample s0000004 has no image"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_refuses_a_damaged_folder(damage: str, tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", [sample("red", 0)] * 8, num_shards=2)
    break_it, message = DAMAGES[damage]
    break_it(folder)
    with pytest.raises(ClipsiftError, match=message) as error:
        TarImages(CIFAR, folder, num_classes=3)
    assert str(error.value).startswith("cifar10: ")
    assert "\n" not in str(error.value)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


PNG = picture("red")
BAD_SAMPLES = {
    "label beyond": (CIFAR, {"cls": b"3", "png": PNG}, "label 3 is not below 3"),
    "negative label": (CIFAR, {"cls": b"-1", "png": PNG}, "label -1"),
    "no number": (CIFAR, {"cls": b"cat", "png": PNG}, "cat"),
    "broken image": (CIFAR, {"cls": b"0", "png": PNG[:40]}, "broken_image"),
    "short metadata": (GEODE, {"cls": b"0", "png": PNG, "npy": vector(1)}, r"shape \(1,\), needs \(2,\) or more"),
    "negative metadata": (GEODE, {"cls": b"0", "png": PNG, "npy": vector(-1, 2)}, r"\[-1\] are not all whole"),
    "not whole metadata": (GEODE, {"cls": b"0", "png": PNG, "npy": vector(0.5, 2)}, r"\[0.5\] are not all whole"),
    "pickle": (GEODE, {"cls": b"0", "png": PNG, "npy": pickled()}, "allow_pickle"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_names_a_bad_sample(case: str, tmp_path: Path) -> None:
    task, parts, message = BAD_SAMPLES[case]
    folder = write_task(tmp_path / "t", [sample("red", 0, 1, 1), parts])
    samples = TarImages(task, folder, 3, ["region"] if task is GEODE else [])
    samples.read(0)
    with pytest.raises(ClipsiftError, match=message) as error:
        samples.read(1)
    assert f"{task.key}: {folder / 'test' / '0.tar'} sample s0000001: " in str(error.value)


def test_task_is_plain_data() -> None:
    assert isinstance(CIFAR, Task)
    with pytest.raises(TypeError):
        TASKS["mine"] = CIFAR  # type: ignore[index]
