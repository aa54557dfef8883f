"""The program, which sends signals to its ranks when it comes to a stage.

``python signal_at.py FOLDER STAGE SIGNAL RANKS VERB ...``: ``RANKS`` such as ``0,1`` get ``SIGNAL`` when one of them is
first at ``STAGE``; ``FOLDER`` is for this launch alone.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# What a stage does, and which call of it is in the middle of the stage.
STAGES = {
    "teacher": ("training.model:CLIPModule.training_step", 3),
    "embedding": ("selection.features.embed:_Embedder.predict_step", 2),
    "target": ("selection.selector:load_target", 1),
    "scoring": ("selection.scoring.columns:_write_block", 1),
    "subset": ("selection.recipe.stream:_merge", 1),
    "before the first step": ("training.supervisor:Supervisor.on_train_start", 1),
    "training": ("training.model:CLIPModule.training_step", 3),
    "validation": ("clipsift_app.validation:evaluate_in_place", 1),
    "export": ("training.fit:export_model", 1),
    "evaluation": ("evaluation.task_run:TaskRun.step", 2),
    "report": ("clipsift_app.stages:build_report", 1),
}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    folder, stage, number, ranks, *arguments = sys.argv[1:]
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    (Path(folder) / f"pid{rank}").write_text(str(os.getpid()))
    signals = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, whatever started the tests
    if stage in STAGES:
        _wrap(*STAGES[stage], Path(folder), signals[[one.name for one in signals].index(number)], ranks.split(","))
    from clipsift import main as run

    run(arguments)


def _wrap(what: str, call: int, folder: Path, number: signal.Signals, ranks: list[str]) -> None:
    module, _, path = what.partition(":")
    holder: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        holder = getattr(holder, part)
    original, calls = getattr(holder, name), 0

    @functools.wraps(original)  # Lightning looks at signatures
    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            try:
                (folder / "sent").touch(exist_ok=False)
            except FileExistsError:
                return original(*args, **options)
            for rank in ranks:
                os.kill(int((folder / f"pid{rank}").read_text()), number)
            for _ in range(50):  # an interpreter comes to its handler between these
                time.sleep(0.01)
        return original(*args, **options)

    setattr(holder, name, wrapped)


if __name__ == "__main__":
    main()
