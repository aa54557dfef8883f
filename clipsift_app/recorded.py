"""The settings that a run directory was made with, compared with those of another call: it is never overwritten."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from clipsift_app.run_cli import RunCLI
from clipsift_common.errors import ClipsiftError

FILE_NAME = "config.yaml"
# Folders of what a run has made, and the settings that nothing depends on while there is none.
_STAGES = {
    "selection": ("selection",),
    "training": ("model", "data", "online", "trainer"),
    "evaluation": ("evaluation",),
}
_LATER = ("eval", "trusted")  # need not be given before the stage that reads them

# What may change between two calls of one run: how and where it is computed, how often it saves and logs, what it is
# called, where it is shown. Everything else makes another experiment.
MAY_CHANGE = (
    *("include", "name", "published", "out", "cache", "truth", "hub", "max_loss", "max_skipped"),
    *("checkpoint.*", "validation.*", "evaluation.tasks*", "evaluation.batch_size", "evaluation.workers"),
    *("selection.embedding.batch_size", "selection.embedding.workers"),
    *("data.workers", "data.stall_seconds", "data.shard_cache_gb", "data.out", "data.cache", "online.batch_size"),
    *("model.accumulate", "model.grad_checkpointing", "model.compile"),
    *(f"trainer.{key}" for key in ("accelerator", "devices*", "num_nodes", "strategy*", "logger*", "callbacks*")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "enable_*", "profiler*", "default_root_dir", "model_registry")),
    *(f"trainer.{key}" for key in ("benchmark", "detect_anomaly", "fast_dev_run", "barebones", "max_*", "min_*")),
    *(f"trainer.{key}" for key in ("limit_*", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps")),
)


def check_recorded(out: Path, resolved: str) -> bool:
    """See that ``resolved``, the YAML of all settings of a call, goes on with what ``out`` was made with.

    Returns:
        Whether the call's settings are to be recorded; not when those that are recorded say more.

    Raises:
        ClipsiftError: naming each setting that differs, then and now.
    """
    path = out / FILE_NAME
    made = [stage for stage in _STAGES if (out / stage).exists()]
    if not path.is_file() or not made:
        return True
    then, now = flat(yaml.safe_load(_resolved(path))), flat(yaml.safe_load(resolved))
    if changed := differences(then, now, made):
        words = "; ".join(f"{key}: {_word(before)}, now {_word(after)}" for key, (before, after) in changed.items())
        raise ClipsiftError(
            f"{out}: was made with other settings ({words}); take another --out, "
            f"or --config {path} for the run that is there, or delete the folder to replace it"
        )
    return _sections(then) <= _sections(now)


def differences(
    then: dict[str, Any], now: dict[str, Any], made: Collection[str] = tuple(_STAGES)
) -> dict[str, tuple[Any, Any]]:
    """Which settings (:func:`flat`) make another experiment of a run: then and now, None where there is none.

    ``made``: the stages of which something is there. A verb without a model has none to differ. A path that is not
    there any more may differ: its file has moved, and what a result depends on is known by content, too.
    """
    without = {"model", "data", *_LATER} - (_sections(then) & _sections(now))
    without |= {section for stage, sections in _STAGES.items() if stage not in made for section in sections}
    return {
        key: (then.get(key), now.get(key))
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
        and key.partition(".")[0] not in without
        and not any(fnmatch(key, pattern) for pattern in MAY_CHANGE)
        and not _moved(then.get(key))
    }


def flat(settings: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of dotted keys; without what is None or empty."""
    if isinstance(settings, dict):
        parts = [(str(name), value) for name, value in settings.items()]
    elif isinstance(settings, list):
        parts = [(str(number), value) for number, value in enumerate(settings)]
    else:
        return {} if settings is None else {key: settings}
    return {
        name: value for part, inner in parts for name, value in flat(inner, f"{key}.{part}" if key else part).items()
    }


def _resolved(path: Path) -> str:
    """The YAML of all the settings that the file at ``path`` stands for, defaults of newer releases included."""
    try:
        cli = RunCLI(["--config", str(path)], trains=False)
    except Exception as error:  # of a release with other keys, or edited by hand
        raise ClipsiftError(f"{path}: is not understood ({error}); take another --out, or delete the folder") from error
    return str(cli.parser.dump(cli.config))


def _sections(settings: dict[str, Any]) -> set[str]:
    """The keys at the top."""
    return {key.partition(".")[0] for key in settings}


def _moved(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/") and not Path(value).exists()


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
