"""clipsift: which image-text pairs should a CLIP be trained on, and was that right?

The one program. It is a console script (``clipsift VERB ...``) and a path that launchers take
(``fabric run --devices 8 clipsift.py VERB ...``, ``torchrun --nproc_per_node 8 clipsift.py VERB ...``).

``import clipsift`` gives what a notebook or a trainer of one's own needs (``dir(clipsift)``), each imported when it is
first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation import TASKS as TASKS, evaluate as evaluate, summarise as summarise
    from selection import (
        Arrays as Arrays,
        Pool as Pool,
        Recipe as Recipe,
        Subset as Subset,
        clip_score as clip_score,
        clipcov as clipcov,
        contrastive_normaliser as contrastive_normaliser,
        normsim as normsim,
        s_cliploss as s_cliploss,
        second_moment as second_moment,
        semdedup as semdedup,
        soft_cap_sampling as soft_cap_sampling,
        vas as vas,
        vas_d as vas_d,
    )
    from training import CLIPModule as CLIPModule, Keep as Keep, PoolDataModule as PoolDataModule, batches as batches

_PUBLIC = {
    "selection": "Arrays Pool Recipe Subset clip_score s_cliploss contrastive_normaliser normsim second_moment vas "
    "vas_d clipcov semdedup soft_cap_sampling",
    "training": "CLIPModule Keep PoolDataModule batches",
    "evaluation": "TASKS evaluate summarise",
}
_HOMES = {name: home for home, names in _PUBLIC.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """A public name, by PEP 562."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clipsift' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "main"])


_PACKAGES = ("clipsift_common", "selection", "training", "evaluation", "clipsift_app")

_USAGE = """usage: clipsift VERB [--config FILE ...] [--key.sub value ...]

{verbs}

clipsift VERB --help lists a verb's settings, clipsift --version says which clipsift this is.
Documentation: docs/ and README.md."""


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; exits with status 0 only when everything asked for was done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if shadow := find_shadow():
        sys.exit(f"clipsift: error: {shadow}")
    from clipsift_app.verbs import VERBS  # here: only now is it known to be ours

    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(_USAGE.format(verbs="\n".join(f"  {name:<10} {text}" for name, text in VERBS.items())))
        return
    if verb == "--version":
        from clipsift_app.version import version_line  # here: torch takes seconds to import

        print(version_line())
        return
    if verb not in VERBS:
        sys.exit(f"clipsift: error: no verb is named {verb!r}; there are {', '.join(VERBS)}")
    # Threads that wait for each other by spinning bring a shared CPU to a crawl; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from clipsift_app.program import run_verb  # here: the libraries behind it take seconds to import

    sys.exit(run_verb(verb, arguments[1:]))


def find_shadow() -> str | None:
    """What a package of ours that lies beside this file is hidden by, as one line; None when none is hidden."""
    here = Path(__file__).resolve().parent
    for name in _PACKAGES:
        spec = find_spec(name)
        ours = here / name / "__init__.py"
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found != ours:
            what = found or next(iter(spec.submodule_search_locations or ()), "nothing") if spec else "nothing"
            return (
                f"the package {name} is imported from {what}, not from {ours}; "
                "rename that file, start elsewhere, or take it out of PYTHONPATH"
            )
    return None


if __name__ == "__main__":
    main()
