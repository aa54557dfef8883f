"""A Ray cluster on this machine, for tests; those that take it are slow ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.machines.ranks import script_environment


@contextmanager
def ray_cluster(cpus: int, *folders: Path) -> Iterator[None]:
    """Its workers find this checkout's packages, ``helpers``, and what is in ``folders``; skips without Ray."""
    ray = pytest.importorskip("ray")
    path = os.pathsep.join([*map(str, folders), script_environment()["PYTHONPATH"]])
    patience = {"RAY_raylet_start_wait_time_s": "240"}  # a machine may have other work
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONPATH": path, **patience}.items():
            patch.setenv(name, value)
        ray.init(num_cpus=cpus, logging_level="ERROR", include_dashboard=False)
        try:
            yield
        finally:
            ray.shutdown()
