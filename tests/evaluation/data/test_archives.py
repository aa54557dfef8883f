"""Retrieval and WinoGAViL from csv + zip: scores by hand, and what is refused by name."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from evaluation import TASKS, evaluate
from evaluation.data.archives import ZipImages
from evaluation.kinds.winogavil import prompt
from helpers.colours import FLICKR, picture, toy_clip, write_flickr
from helpers.evaluation_sets import write_archive
from helpers.pictures import plain_picture

WINOGAVIL = TASKS["misc/winogavil"]


def test_retrieval_by_hand(tmp_path: Path, machine: Machine) -> None:
    rows = [
        {"filename": "red.jpg", "raw": ["red", "red red", "green"]},  # captions answered: yes, yes, no
        {"filename": "green.jpg", "raw": ["blue"]},  # no; the image's first caption is the red image's "green"
        {"filename": "blue.jpg", "raw": ["a blue, blue thing"]},  # "blue," is no word of the model's; "blue" is: yes
    ]
    write_flickr(tmp_path, rows)
    [result] = evaluate(toy_clip(), tmp_path, tasks=[FLICKR.key], batch_size=2, workers=2, machine=machine)
    metrics = result["metrics"]
    assert metrics["image_retrieval_recall@1"] == 3 / 5
    # The blue image: "blue" (the green image's) and "a blue, blue thing" are equally near, the earlier one is first.
    assert metrics["text_retrieval_recall@1"] == 1 / 3
    assert metrics["mean_recall@1"] == metrics["main_metric"] == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert metrics["image_retrieval_recall@5"] == metrics["text_retrieval_recall@10"] == 1
    assert result["num_samples"] == 3


def test_winogavil_by_hand(tmp_path: Path, machine: Machine) -> None:
    colours = ["red", "green", "blue", "white", "r2", "r3"]
    images = {f"winogavil_images/{name}.jpg": picture(name) for name in colours[:4]}
    images |= {f"winogavil_images/r{n}.png": picture("red") for n in range(2, 9)}
    twelve = [*colours, "r4", "r5", "r6", "r7", "r8", "red"]
    games = [
        {"cue": "RED", "candidates": [*colours[:4], "r2"], "associations": ["red", "green"]},  # said red, r2: 1 of 3
        {"cue": "blue", "candidates": [*colours[:4], "r2"], "associations": ["blue"]},  # 1
        {"cue": "green", "candidates": twelve[:10], "associations": ["blue"]},  # 0
        {"cue": "green", "candidates": twelve[:10], "associations": ["green"]},  # 1
    ]
    folder = tmp_path / WINOGAVIL.folder
    write_archive(folder, WINOGAVIL.options["table"], games, WINOGAVIL.options["images"], images)
    clip = toy_clip()
    [result] = evaluate(clip, tmp_path, tasks=[WINOGAVIL.key], workers=0, machine=machine)
    metrics = result["metrics"]
    assert metrics["avg_jaccard_score"] == pytest.approx((1 / 3 + 1 + 0 + 1) / 4)
    assert metrics["jaccard_score_5"] == metrics["jaccard_score_5-6"] == pytest.approx(2 / 3)
    assert metrics["jaccard_score_10"] == metrics["main_metric"] == 0.5
    assert math.isnan(metrics["jaccard_score_12"])
    assert result["num_samples"] == 4
    assert clip.model.num_images == 10  # each picture once


@pytest.mark.parametrize(("cue", "expected"), [("Ocean", "An ocean"), ("reptile", "A reptile"), ("year", "A year")])
def test_prompt(cue: str, expected: str) -> None:
    assert prompt(cue) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"filename": "black.jpg", "raw": ["black"]}, "lacks 1 images, the first is black.jpg"),
        ({"filename": "red.jpg", "raw": "red"}, "row 1: bad or missing"),
        ({"filename": "red.jpg", "raw": []}, "row 1: bad or missing list of strings"),
        ({"filename": "red.jpg", "caption": ["red"]}, "row 1: bad or missing 'raw'"),
        ({"filename": "nan.jpg", "raw": ["red"]}, "image images/nan.jpg has image features that are not finite"),
    ],
)
def test_refuses(row: dict, message: str, tmp_path: Path, machine: Machine) -> None:
    write_flickr(tmp_path, [row])
    with pytest.raises(ClipsiftError) as error:
        evaluate(toy_clip(), tmp_path, tasks=[FLICKR.key], workers=0, machine=machine)
    assert f"{FLICKR.key}: " in str(error.value)
    assert message in str(error.value)


def test_images_keep_their_mode(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for mode in ("CMYK", "L"):
            archive.writestr(f"{mode}.JPG", plain_picture((0, 0, 0), "jpeg", mode))
        archive.writestr("broken.jpg", b"\xff\xd8\xff")
    images = ZipImages(FLICKR, tmp_path / "images.zip", ["L", "CMYK.JPG", "broken"])
    assert [images.read(position)[0].mode for position in (0, 1)] == ["L", "CMYK"]
    with pytest.raises(ClipsiftError, match=r"images\.zip image broken\.jpg: broken_image"):
        images.read(2)


def test_no_zip(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"<html>")
    with pytest.raises(ClipsiftError, match=r"images\.zip cannot be read"):
        ZipImages(FLICKR, tmp_path / "images.zip", ["a.jpg"])
