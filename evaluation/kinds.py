"""The kinds of tasks by the word that ``tasks.yaml`` uses. A new kind is a file with an Evaluator and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from evaluation.evaluator import Evaluator
from evaluation.faces import Faces
from evaluation.groups import Groups
from evaluation.retrieval import Retrieval
from evaluation.winogavil import WinoGAViL
from evaluation.zeroshot import MacroF1, ZeroShot

KINDS: Mapping[str, type[Evaluator]] = MappingProxyType(
    {
        "zeroshot": ZeroShot,
        "macro_f1": MacroF1,
        "groups": Groups,
        "faces": Faces,
        "retrieval": Retrieval,
        "winogavil": WinoGAViL,
    }
)
