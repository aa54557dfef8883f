"""How good is a CLIP: DataComp's 38 tasks (and the two that are only reported), with the same numbers."""

from evaluation.results import summarise
from evaluation.run import evaluate
from evaluation.suite import DataCompSuite
from evaluation.tasks import TASKS

__all__ = ["TASKS", "DataCompSuite", "evaluate", "summarise"]
