"""What was lost from the data, by cause: counted, logged with shard and key, and limited."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from clipsift_common.errors import ClipsiftError

logger = logging.getLogger("clipsift")

EXAMPLES_PER_CAUSE = 20  # kept in the report
LOGGED_PER_CAUSE = 5  # printed as they happen; the rest is only counted
MAX_CAUSES = 50  # of a kind; what comes under further names (there is a member of every extension) is one cause
_OTHERS = "other"


class DataReport:
    """Counts of samples seen, lost, and kept with a remark, of shard members ignored, and of a pool's files.

    A *lost* sample could have been used had it been whole (broken image, no caption, duplicated key ...). An
    *ignored* member is not a sample at all (a ``.pkl`` in a tar); it is counted but not held against the pool. So are
    *files* that the pool does not use, when nothing is lost with them. A *noted* sample is used, though something is
    odd about it.

    Args:
        logs: whether it logs the first few of each cause as they happen; the parts of a report that is :meth:`merge`-d
            elsewhere do not, so that all of them together log no more than one.
    """

    def __init__(self, logs: bool = True) -> None:
        self.logs = logs
        self.samples = 0  # all that the pool offers, lost ones included
        self.lost: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.files: Counter[str] = Counter()  # by class: shards, metadata, sidecars, left_out
        self.examples: dict[str, list[dict[str, str]]] = {}

    def lose(self, cause: str, shard: str, key: str, detail: str = "", count: int = 1) -> None:
        """Count ``count`` lost samples under ``cause``, remembering the shard and key of the first few."""
        self._remember(_count(self.lost, cause, count), shard, key, detail)

    def ignore(self, cause: str, shard: str, key: str, detail: str = "") -> None:
        """Count a member that is no sample and was not opened."""
        self._remember(_count(self.ignored, cause, 1), shard, key, detail)

    def note(self, cause: str, shard: str, key: str, detail: str = "", count: int = 1) -> None:
        """Count ``count`` samples that are used, and what is odd about them."""
        self._remember(_count(self.noted, cause, count), shard, key, detail)

    def _remember(self, cause: str, shard: str, key: str, detail: str) -> None:
        key, detail = (text.encode(errors="surrogateescape").decode(errors="replace") for text in (key, detail))
        self._keep(cause, {"shard": shard, "key": key, "detail": detail}, self.logs)

    def _keep(self, cause: str, example: dict[str, str], logs: bool) -> None:
        examples = self.examples.setdefault(cause, [])
        if len(examples) == EXAMPLES_PER_CAUSE:
            return
        examples.append(example)
        if logs and len(examples) <= LOGGED_PER_CAUSE:
            detail = f" ({example['detail']})" if example["detail"] else ""
            end = "; further ones are only counted" if len(examples) == LOGGED_PER_CAUSE else ""
            logger.warning("%s: %s %s%s%s", cause, example["shard"], example["key"], detail, end)

    @property
    def num_lost(self) -> int:
        return sum(self.lost.values())

    @property
    def loss(self) -> float:
        """Share of samples lost, in [0, 1]."""
        return self.num_lost / self.samples if self.samples else 0.0

    def merge(self, other: DataReport | dict[str, Any], logs: bool = False) -> DataReport:
        """Add another report's (or its dict's) counts to this one and return this one.

        ``logs``: log the first few of each cause, which the other has not done.
        """
        if isinstance(other, dict):
            other = DataReport.from_dict(other)
        self.samples += other.samples
        self.files += other.files
        names: dict[str, str] = {}
        for mine, theirs in ((self.lost, other.lost), (self.ignored, other.ignored), (self.noted, other.noted)):
            for cause, count in theirs.items():
                names[cause] = _count(mine, cause, count)
        for cause, examples in other.examples.items():
            for example in examples:
                self._keep(names.get(cause, cause), example, logs)
        return self

    def check(self, max_loss: float) -> None:
        """Raise :class:`ClipsiftError` if the share of lost samples is above ``max_loss`` (in [0, 1])."""
        if self.loss > max_loss:
            causes = ", ".join(f"{cause} {count}" for cause, count in self.lost.most_common())
            first: dict[str, str] = next(iter(self.examples.get(self.lost.most_common(1)[0][0], [])), {})
            place = " ".join(first[part] for part in ("shard", "key") if first.get(part))
            place += f" ({first['detail']})" if first.get("detail") else ""
            raise ClipsiftError(
                f"{self.num_lost} of {self.samples} samples lost ({self.loss:.2%}; {causes}), above max_loss "
                f"{self.max_loss_text(max_loss)}; first: {place}. Mend the shards or raise max_loss"
            )

    @staticmethod
    def max_loss_text(max_loss: float) -> str:
        return f"{max_loss:.2%}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``data_report.json``."""
        return {
            "samples": self.samples,
            "num_lost": self.num_lost,
            "loss": self.loss,
            "lost": dict(self.lost),
            "ignored": dict(self.ignored),
            "noted": dict(self.noted),
            "files": dict(self.files),
            "examples": self.examples,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataReport:
        report = cls()
        report.samples = values["samples"]
        report.lost = Counter(values["lost"])
        report.ignored = Counter(values["ignored"])
        report.noted = Counter(values.get("noted", {}))  # reports made before have none
        report.files = Counter(values.get("files", {}))  # reports made before have none
        report.examples = {cause: list(examples) for cause, examples in values["examples"].items()}
        return report


def _count(counts: Counter[str], cause: str, count: int) -> str:
    """Add to a cause, and the name under which it is counted."""
    if cause not in counts and len(counts) >= MAX_CAUSES:
        cause = _OTHERS
    counts[cause] += count
    return cause
