"""Is a selection done, and is what lies there still what was made?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import file_fingerprint, fingerprint, read_json

_POOL = "the pool's features"

logger = logging.getLogger("clipsift")


def is_done(folder: Path, about: Mapping[str, Any], features_before: str | None) -> bool:
    """Whether ``folder`` holds the selection ``about``, whole.

    Args:
        about: recipe, seed, parents, how and identity of the selection that is asked for.
        features_before: the identity that its features had in ``subset.json`` before contents were recorded there;
            None: the same.

    Raises:
        ClipsiftError: when another selection is there, or a subset file other than the one that was written.
    """
    path = folder / "subset.npy"
    if not (folder / "subset.json").is_file():
        return False
    there = read_json(folder / "subset.json")
    if "inputs" not in there["parents"]:
        _compare_before(folder, there, about, features_before)
    elif there["identity"] != about["identity"]:
        raise _other(folder, _differences(there, about))
    if not path.is_file():
        logger.warning("%s: is gone; it is made again", path)
        return False
    if there.get("fingerprint", "") != file_fingerprint(path):
        raise ClipsiftError(
            f"{path}: is not the file that was written, by the fingerprint in subset.json beside it; delete it to have "
            "it made again"
        )
    return True


def _compare_before(
    folder: Path, there: Mapping[str, Any], about: Mapping[str, Any], features_before: str | None
) -> None:
    """Compare with a selection of a release that did not record what its targets and language models held."""
    recipe, parents = about["recipe"], about["parents"]
    subsets = [*([recipe["within"]] if recipe["within"] else [])]
    subsets += [*recipe["union"], *recipe["intersect"], *recipe["subtract"]]
    before = {
        "features": features_before or parents["features"],
        "subsets": {Path(path).name: file_fingerprint(path) for path in subsets},
    }
    if there["identity"] != fingerprint([recipe, about["seed"], about["how"], before]):
        raise _other(folder, [])
    unknown = sorted(set(parents["inputs"]) - set(subsets))
    if unknown:
        logger.warning(
            "%s: was made by a release that did not record what %s held; if that has changed since, use another --out",
            folder,
            ", ".join(unknown),
        )


def _differences(there: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """What is known to differ, in words; of a recipe that names other files, nothing."""
    then, now = there["parents"], about["parents"]
    found = [f"what {name} holds" for name, content in now["inputs"].items() if then["inputs"].get(name) != content]
    found += [f"the code of {name}" for name, version in now["code"].items() if then["code"].get(name) != version]
    found += [_POOL] if then["features"] != now["features"] else []
    return found + [name for name in ("seed",) if there[name] != about[name]]


def _other(folder: Path, differences: list[str]) -> ClipsiftError:
    what = f" ({', '.join(differences)})" if differences else ""
    cached = (
        "; with the same --cache only what is new in the pool is embedded and scored" if _POOL in differences else ""
    )
    return ClipsiftError(
        f"{folder}: holds a selection made with other settings{what}; use another --out or delete it{cached}"
    )
