"""How good is a CLIP: DataComp's 38 tasks (and the two that are only reported), with the same numbers."""

from typing import TYPE_CHECKING

from clipsift_common.lazy import lazy_names

if TYPE_CHECKING:
    from evaluation.results import summarise as summarise
    from evaluation.run import evaluate as evaluate
    from evaluation.suite import DataCompSuite as DataCompSuite
    from evaluation.tasks import TASKS as TASKS

_HOMES = {
    "TASKS": "evaluation.tasks",
    "DataCompSuite": "evaluation.suite",
    "evaluate": "evaluation.run",
    "summarise": "evaluation.results",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
