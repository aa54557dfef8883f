"""The kinds of tasks by the word that ``tasks.yaml`` uses. A new kind is a file with an Evaluator and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from evaluation.kinds.base import Evaluator
from evaluation.kinds.faces import Faces
from evaluation.kinds.groups import Groups
from evaluation.kinds.retrieval import Retrieval
from evaluation.kinds.winogavil import WinoGAViL
from evaluation.kinds.zeroshot import MacroF1, ZeroShot

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
