"""Units of work, shared by ranks, by part and on Ray: each is made, and one that is made already is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsift_common.engines.base import GROUP, Group, Part, part_of
from clipsift_common.engines.on_ray import Ray, make_engine
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine

UNITS = [f"unit{number}" for number in range(23)]


class Folder:
    """Makes a file for each unit and notes in what order."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, list[str]()

    def make(self, unit: str) -> None:
        self.made.append(unit)
        (self.folder / unit).touch()

    def is_made(self, unit: str) -> bool:
        return (self.folder / unit).exists()


def test_a_process_without_a_group_makes_all_that_is_not_made(tmp_path: Path) -> None:
    there = Folder(tmp_path)
    there.make("unit5")
    Group().do("work", UNITS, there.make, there.is_made)
    assert there.made == ["unit5", *(unit for unit in UNITS if unit != "unit5")]


@pytest.mark.parametrize("total", [1, 2, 7, 23, 40])
def test_parts_make_every_unit_once_in_any_order(tmp_path: Path, total: int) -> None:
    there = Folder(tmp_path)
    for number in sorted(range(1, total + 1), key=lambda number: number * 5 % 11):
        Part(number, total).do("work", UNITS, there.make, there.is_made)
    assert sorted(there.made) == sorted(UNITS)
    Part(1, total).do("work", UNITS, there.make, there.is_made)
    assert len(there.made) == len(UNITS)
    assert all(unit in part_of(place, total).share(UNITS) for place, unit in enumerate(UNITS))


@pytest.mark.parametrize("text", ["0/0", "4/3", "0/3", "3", "/", "1/0", "-1/3", "1/-3", "1.5/3", "a/b", "1/3/5", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ClipsiftError, match=r"is no part; give NUMBER/TOTAL"):
        Part.parse(text)


def test_a_part_is_read_as_it_is_written() -> None:
    assert Part.parse("3/200") == Part(3, 200)
    assert str(Part(3, 200)) == "3/200"


def test_ray_with_nothing_to_do_needs_no_cluster(tmp_path: Path) -> None:
    there = Folder(tmp_path)
    there.make("unit0")
    Ray().do("work", ["unit0"], there.make, there.is_made)
    assert there.made == ["unit0"]


def test_the_machine_says_whether_ray_takes_gpus() -> None:
    assert make_engine("ray", Machine("cpu")) == Ray(on_gpus=False)
    assert make_engine("ray", Machine("gpu")) == make_engine("ray", Machine("cuda")) == Ray(on_gpus=True)
    assert make_engine("ray", Machine()) == Ray(on_gpus=None)
    assert make_engine("group", Machine()) is GROUP
