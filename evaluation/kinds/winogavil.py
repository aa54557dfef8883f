"""WinoGAViL (Bitton et al., 2022): which of the candidate images go with the cue?"""

from __future__ import annotations

import math
from collections.abc import Callable

from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from evaluation.data.archives import ZipImages, read_rows
from evaluation.data.loader import Samples
from evaluation.encoder import Encoder
from evaluation.kinds.archive import ArchiveEvaluator
from evaluation.kinds.base import Metrics

# Suffix of the metric -> which numbers of candidates count for it.
_SIZES: dict[str, Callable[[int], bool]] = {
    "5": lambda size: size == 5,
    "6": lambda size: size == 6,
    "10": lambda size: size == 10,
    "12": lambda size: size == 12,
    "5-6": lambda size: size <= 6,
    "10-12": lambda size: size >= 10,
}


def prompt(cue: str) -> str:
    """``An ocean``, ``A reptile``: the cue in lower case, after the article that its first letter asks for."""
    cue = cue.lower()
    return f"{'An' if cue[:1] in tuple('aeiou') else 'A'} {cue}"


class WinoGAViL(ArchiveEvaluator):
    """Jaccard index of the k most similar candidates and the k associations, averaged over games.

    ``avg_jaccard_score``, and ``jaccard_score_{n}`` over the games with n candidates (NaN if there are none).
    """

    def open(self) -> ZipImages:
        table = self.folder / self.task.options["table"]
        self.games = on_rank_zero(lambda: read_rows(self.task, table, ["cue"], ["candidates", "associations"]))
        for number, game in enumerate(self.games, start=1):
            if not set(game["associations"]) <= set(game["candidates"]):
                raise ClipsiftError(
                    f"{self.task.key}: {table} row {number}: an association is not among the candidates"
                )
        names = list(dict.fromkeys(name for game in self.games for name in game["candidates"]))
        self.position = {name: position for position, name in enumerate(names)}
        return self.open_images(names)

    def size(self, samples: Samples) -> int:
        return len(self.games)

    def prepare(self, encoder: Encoder) -> None:
        self.cues = encoder.texts([prompt(game["cue"]) for game in self.games])

    def compute(self) -> Metrics:
        images = self.gather()
        scores: list[tuple[int, float]] = []
        for game, cue in zip(self.games, self.cues.cpu()):
            candidates, true = game["candidates"], set(game["associations"])
            similarity = images[[self.position[name] for name in candidates]] @ cue
            order = similarity.argsort(descending=True, stable=True)[: len(true)].tolist()
            said = {candidates[place] for place in order}
            scores.append((len(candidates), len(said & true) / len(said | true)))
        metrics = {"avg_jaccard_score": _mean([score for _, score in scores])}
        for suffix, counts in _SIZES.items():
            metrics[f"jaccard_score_{suffix}"] = _mean([score for size, score in scores if counts(size)])
        return metrics


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
