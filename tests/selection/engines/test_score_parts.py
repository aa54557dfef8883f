"""Scores by part: in any order and number, ended and repeated, they are those of one process; what lacks is named."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from clipsift_common import files as files_module
from clipsift_common.engines.base import Part
from clipsift_common.errors import ClipsiftError
from helpers.scored_pool import BLOCK_ROWS, SIZES, results, selector, steps, write_scored_pool
from selection import selector as selector_module
from selection.settings import Teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_scored_pool(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selector_module, "BLOCK_ROWS", BLOCK_ROWS)
        selector(folder, "whole").run()
    return folder


@pytest.fixture(autouse=True)
def _blocks_of_several_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector_module, "BLOCK_ROWS", BLOCK_ROWS)


class Ended(BaseException):
    """In place of a process's end."""


def score_part(folder: Path, out: str, number: int, total: int, files_before_the_end: int | None = None) -> None:
    """A part, which may end before it puts a file in its place."""
    with pytest.MonkeyPatch.context() as patch:
        if files_before_the_end is not None:
            left, move = [files_before_the_end], files_module.os.replace

            def replace(source: Path, target: Path) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Ended
                move(source, target)

            patch.setattr(files_module.os, "replace", replace)
        selector(folder, out).score_part(Part(number, total))


def test_seven_parts_in_any_order_two_of_them_ended_and_repeated(folder: Path) -> None:
    order = random.Random(0).sample(range(1, 8), 7)
    for number in order:
        if number in (4, 5):
            with pytest.raises(Ended):
                score_part(folder, "seven", number, 7, files_before_the_end=number)
            with pytest.raises(ClipsiftError, match=r"parts .* of 7 are missing"):
                selector(folder, "seven").run()
        score_part(folder, "seven", number, 7)
    score_part(folder, "seven", 1, 3)  # another number of parts finds all done
    selector(folder, "seven").run()
    assert results(folder, "seven") == results(folder, "whole")
    report = (folder / "seven/selection/data_report.json").read_text()
    assert report == (folder / "whole/selection/data_report.json").read_text()


def test_what_is_missing_is_named_and_can_be_made_by_one_process(folder: Path) -> None:
    for number in (1, 3):
        score_part(folder, "some", number, 3)
    found = r"selection: parts 2 of 3 are missing \(no scores of (.*)\); clipsift score --part 2/3 makes"
    with pytest.raises(ClipsiftError, match=found) as raised:
        selector(folder, "some").run()
    there = {path.stem for path in (folder / "some/selection/scores").glob("*.parquet")}
    absent = {f"{number:04d}" for number in range(len(SIZES))} - there
    assert absent
    assert all(stem in str(raised.value) for stem in absent)
    assert not any(stem in str(raised.value) for stem in there)
    selector(folder, "some").score()
    selector(folder, "some").run()
    assert results(folder, "some") == results(folder, "whole")


def test_more_parts_than_blocks_leave_some_with_nothing_to_do(folder: Path) -> None:
    for number in range(16, 0, -1):
        score_part(folder, "many", number, 16)
    selector(folder, "many").run()
    assert results(folder, "many") == results(folder, "whole")


@pytest.mark.parametrize("change", ["seed", "steps", "target", "per_file"])
def test_parts_of_two_recipes_are_never_mixed(folder: Path, change: str, tmp_path: Path) -> None:
    def other(out: str) -> selector_module.Selector:
        if change == "seed":
            return selector(folder, out, seed=4)
        if change == "per_file":
            return selector(folder, out, per_file=True)
        changed = steps(folder)
        if change == "steps":
            changed[0]["temperature"] = 0.01
        else:  # the same name, other features
            changed[1]["target"] = str(tmp_path / "target.npy")
            np.save(tmp_path / "target.npy", np.load(folder / "target.npy")[:7])
        return selector(folder, out, steps=changed)

    out = f"mixed-{change}"
    score_part(folder, out, 1, 2)
    with pytest.raises(ClipsiftError, match=r"there are parts of scores with other settings"):
        other(out).score_part(Part(2, 2))
    with pytest.raises(ClipsiftError, match=r"there are parts of scores with other settings"):
        other(out).run()
    score_part(folder, out, 2, 2)
    selector(folder, out).run()
    assert results(folder, out) == results(folder, "whole")


def test_a_file_of_another_recipe_is_missing_though_it_lies_there(folder: Path) -> None:
    """As when parts of two recipes begin at the same moment, before either's note is seen."""
    score_part(folder, "race", 1, 2)
    note = next((folder / "race/selection").glob("parts-*.json"))
    aside = note.rename(folder / "aside.json")
    selector(folder, "race", seed=4).score_part(Part(2, 2))
    for other in (folder / "race/selection").glob("parts-*.json"):
        other.unlink()
    aside.rename(note)
    with pytest.raises(ClipsiftError, match=r"parts 2 of 2 are missing"):
        selector(folder, "race").run()


def test_a_pool_that_changes_between_parts_lacks_what_is_new(tmp_path: Path) -> None:
    write_scored_pool(tmp_path, SIZES[:8])
    score_part(tmp_path, "grown", 1, 2)
    write_scored_pool(tmp_path)  # the files that were there hold the same
    score_part(tmp_path, "grown", 2, 2)
    with pytest.raises(ClipsiftError, match=r"parts 1 of 2 are missing"):
        selector(tmp_path, "grown").run()
    score_part(tmp_path, "grown", 1, 2)
    selector(tmp_path, "grown").run()
    selector(tmp_path, "whole").run()
    assert results(tmp_path, "grown") == results(tmp_path, "whole")


def test_features_that_are_not_made_yet_are_asked_for_with_the_command(folder: Path) -> None:
    made = selector(folder, "teacher", features=None, teacher=Teacher("ViT-B-32", "openai"))
    made.teacher = lambda: pytest.fail("no teacher is loaded")
    with pytest.raises(ClipsiftError, match=r"clipsift embed --pool .* --name teacher --out FEATURES --part 2/3"):
        made.score_part(Part(2, 3))
