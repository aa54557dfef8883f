"""Selection without a pass before it: a teacher scores more samples than a step needs, and the best are trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from clipsift_common.clip import LoadedCLIP, get_tokenizer
from clipsift_common.distributed import waiting_group
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import num_threads
from selection.kernels.checks import unit_rows
from selection.kernels.hashing import hash64
from selection.kernels.tiles import full_precision
from selection.kernels.transfer import sent
from selection.recipe.step import Step
from selection.recipe.top import keep_top
from selection.registry import FeatureBlock
from selection.scores import SCORES
from selection.settings import Precision, Selection, Teacher
from selection.uids import UID_DTYPE
from training.loading.transform import normalise

# Captions by which two tokenizers are told apart; the last is longer than any context.
_PROBES = ["a dog", "Ünïcode, punctuation & 1,234 numbers!", "one two three four five six seven eight " * 40]

_HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class Online:
    """Keep the best of every super-batch while training, instead of (or after) a selection of the pool.

    Each step reads ``global_batch / keep`` samples, ``keep`` being the last step's; the teacher scores all of them and
    ``global_batch`` are trained on. ``samples_seen`` counts those. The steps are a recipe's, their fractions those of
    the super-batch, and only scores of features can be used. What it costs: ``1 / keep`` samples are read, decoded and
    encoded by the teacher (forward only) for each one that is trained on.

    ``batch_size`` is how many pairs the teacher encodes at a time, ``precision`` in which arithmetic.
    """

    teacher: Teacher
    steps: list[dict[str, Any]] = field(default_factory=list)
    batch_size: int = 256
    precision: Precision = "32-true"

    def check(self, trusted: str | None) -> tuple[Step, ...]:
        """The parsed steps; everything wrong with the settings is a :class:`ClipsiftError`."""
        try:
            steps = Selection(self.teacher, steps=self.steps).check(trusted).steps
        except ClipsiftError as error:
            raise ClipsiftError(f"online: {error}") from error
        if not steps:
            raise ClipsiftError("online.steps: none given, such as [{score: s_cliploss, keep: 0.3}]")
        if self.batch_size < 1:
            raise ClipsiftError(f"online.batch_size: {self.batch_size} is below 1")
        for number, step in enumerate(steps):
            where = f"online.steps[{number}]"
            if step.method or step.keep is None or step.ties != "exact":
                raise ClipsiftError(f"{where}: only a score with keep, a fraction, gives batches of one size")
            assert step.column is not None
            for leaf in step.column.leaves():
                if not leaf.needs:
                    raise ClipsiftError(f"{where}: {leaf.score} is no score of features; use it under selection")
        for number, (step, after) in enumerate(pairwise(steps), start=1):
            if after.keep > step.keep:  # type: ignore[operator]
                raise ClipsiftError(f"online.steps[{number}]: keeps {after.keep}, more than the step before leaves")
        return steps

    def num_drawn(self, global_batch: int) -> int:
        """Samples of a super-batch."""
        keep = float(self.steps[-1]["keep"])
        return math.ceil(global_batch / keep - 1e-9)


class OnlineSelection(L.Callback):
    """Replaces each super-batch by its best ``global_batch`` samples, which all ranks choose together.

    Every rank encodes its share with the teacher; the features (not the pictures) meet on rank 0, which scores and
    chooses as :mod:`selection` does; then the chosen samples travel so that every rank has ``global_batch / world
    size`` of them, in the super-batch's order. A pure function of the step, so there is nothing to save; the same for
    any number of ranks, as far as the teacher's arithmetic is (on a CPU it uses one thread; batches are filled up to
    ``batch_size``, so that a row's features do not depend on how many others there are).

    It follows the :class:`training.supervisor.Supervisor` in the list of callbacks: that one has by then made sure that
    every rank has a batch.

    Args:
        online: the settings.
        steps: the parsed ones.
        clip: the teacher.
        target: features of a target set by name.
        model: the trained architecture; its captions must be tokenized as the teacher's.
        global_batch: samples to keep.
        seed: of scores that draw partitions; each step has its own.

    Raises:
        ClipsiftError: when the teacher's tokenizer is another than the model's.
    """

    def __init__(
        self,
        online: Online,
        steps: Sequence[Step],
        clip: LoadedCLIP,
        target: Callable[[str], torch.Tensor],
        model: str,
        global_batch: int,
        seed: int,
    ) -> None:
        self.online, self.steps, self.clip, self.target = online, steps, clip, target
        self.global_batch, self.seed = global_batch, seed
        self.num_drawn = online.num_drawn(global_batch)
        if not torch.equal(clip.tokenizer(_PROBES), get_tokenizer(model)(_PROBES)):
            raise ClipsiftError(
                "online.teacher: reads captions with another tokenizer or context length than the model; the batch's "
                "captions are tokenized once, for both. Take a teacher of the model's kind"
            )

    def settings(self) -> dict[str, Any]:
        """What a run's result depends on, as plain values."""
        how = {key: value for key, value in asdict(self.online).items() if key in ("steps", "precision")}
        return {f"online.{key}": value for key, value in how.items()} | {"online.teacher": self.clip.fingerprint}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clip.model.requires_grad_(False).eval().to(pl_module.device)
        preprocess: Any = self.clip.model.visual.preprocess_cfg  # type: ignore[union-attr]
        size = preprocess["size"]
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._mean, self._std = (
            torch.tensor(preprocess[name], device=pl_module.device).view(3, 1, 1) for name in ("mean", "std")
        )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batch.pop("text_lengths", None)  # whose captions are trained on is known on the device only
        with num_threads(1), torch.inference_mode(), full_precision():
            features = self.encode(batch["image"], batch["text"])
        ranks = Shares(self.num_drawn, self.global_batch, trainer.global_rank, trainer.world_size)
        features, uids = ranks.gather(features), ranks.gather(batch["uid"])
        kept = torch.full((self.global_batch,), -1, dtype=torch.int64)
        if trainer.is_global_zero:
            with suppress(ValueError):  # features that are not finite; all ranks must hear of it
                chosen = self.choose(features, uids, batch_idx)
                kept[: len(chosen)] = chosen
        kept = ranks.broadcast(kept)
        if kept[-1] < 0:
            raise ClipsiftError(
                f"online: the teacher gives fewer than {self.global_batch} finite scores at step {batch_idx + 1}; "
                "are its weights whole, is online.precision enough?"
            )
        for name, tensor in batch.items():
            batch[name] = ranks.exchange(tensor, kept)

    def encode(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """(b, 2 d) unit features, image's and text's side by side.

        ``image`` is (b, 3, h, w) uint8 as the model gets it, ``text`` (b, context) ids.
        """
        model: Any = self.clip.model
        full, parts = self.online.batch_size, []
        half = _HALVES.get(self.online.precision)
        with torch.autocast(image.device.type, half) if half else nullcontext():
            for pixels, tokens in zip(image.split(full), text.split(full)):
                image_features = model.encode_image(_filled_up(self._prepare(pixels), full))
                towers = (image_features, model.encode_text(_filled_up(tokens, full)))
                both = torch.cat([F.normalize(tower.float(), dim=-1) for tower in towers], dim=1)
                parts.append(both[: len(pixels)])
        return torch.cat(parts)

    def _prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """The teacher's own size and normalisation, of the pixels that the model is trained on."""
        if pixels.shape[-2:] != self._size:
            resized = F.interpolate(pixels.float(), self._size, mode="bicubic", antialias=True)
            pixels = resized.round_().clamp_(0, 255)
        return normalise(pixels, self._mean, self._std)

    def choose(self, features: torch.Tensor, uids: torch.Tensor, step: int) -> torch.Tensor:
        """Ascending positions of the samples to keep; fewer than ``global_batch`` when too few scores are finite.

        Args:
            features: (n, 2 d) of the super-batch.
            uids: (n, 2) int64, the bits of (high, low); they decide between equal scores.
            step: from 0.
        """
        image, text = features.chunk(2, dim=1)
        block = FeatureBlock(image, text, int(hash64(self.seed, step)) >> 1, target=self.target)
        places = uids.to("cpu", non_blocking=True)  # there with the scores, which are waited for
        leaves = [leaf for plan in self.steps if plan.column for leaf in plan.column.leaves()]
        with num_threads(1), unit_rows():
            found = iter(torch.stack([SCORES[leaf.score](block, **leaf.options) for leaf in leaves]).cpu().numpy())
        keys = places.contiguous().numpy().view(UID_DTYPE).reshape(-1)
        left = np.arange(len(uids))
        for number, plan in enumerate(self.steps):
            assert plan.column is not None
            scores = plan.column.values(lambda leaf: next(found))[left]
            is_last = number + 1 == len(self.steps)
            size = self.global_batch if is_last else max(self.global_batch, plan.size(len(uids)))
            left = left[keep_top(scores, keys[left], size)]
        return torch.from_numpy(left)


def _filled_up(rows: torch.Tensor, size: int) -> torch.Tensor:
    """``rows`` and as many of zeros as make ``size``."""
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])]) if len(rows) < size else rows


class Shares:
    """Who has which samples of a super-batch of ``num_drawn``, and who is to train on which of its ``num_kept``.

    Rank r has the places from ``num_drawn * r // world_size`` on, and gets the kept ones from
    ``num_kept * r // world_size`` on.
    """

    def __init__(self, num_drawn: int, num_kept: int, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.starts = [num_drawn * number // world_size for number in range(world_size + 1)]
        self.share = num_kept // world_size

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Every rank's rows, in the order of their places."""
        if self.world_size == 1:
            return rows
        counts = [stop - start for start, stop in pairwise(self.starts)]
        filled = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), rows.shape[1])])
        parts = [torch.empty_like(filled) for _ in counts]
        dist.all_gather(parts, filled)
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        """Rank 0's values, on the CPU."""
        if self.world_size > 1:
            dist.broadcast(values, src=0, group=waiting_group())
        return values

    def exchange(self, rows: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """This rank's part of the kept samples (ascending places, on the CPU), out of every rank's ``rows``."""
        if self.world_size == 1:
            return rows[sent(kept, rows.device)]
        source = torch.bucketize(kept, torch.tensor(self.starts[1:]), right=True)
        goal = torch.arange(len(kept)) // self.share
        mine = source == self.rank
        given = torch.bincount(goal[mine], minlength=self.world_size).tolist()
        taken = torch.bincount(source[goal == self.rank], minlength=self.world_size).tolist()
        outgoing = rows[sent(kept[mine] - self.starts[self.rank], rows.device)]
        outgoing = outgoing.contiguous()  # memory is what is sent, and pictures come pixel by pixel
        incoming = rows.new_empty(self.share, *rows.shape[1:])
        dist.all_to_all_single(incoming, outgoing, taken, given)
        return incoming
