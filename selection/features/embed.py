"""Pool tars -> features: a teacher encodes every pair, shard by shard, with ``Trainer.predict``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from clipsift_common.batches.pixels import Preprocess
from clipsift_common.batches.prefetch import sent_ahead
from clipsift_common.clip import LoadedCLIP
from clipsift_common.data_report import DataReport
from clipsift_common.distributed import barrier, on_rank_zero
from clipsift_common.engines.base import GROUP, Group, Part, part_of
from clipsift_common.engines.on_ray import Ray, items_ahead
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json, wait_for, write_json
from clipsift_common.images import DECODER_REMARK, DECODING, ImageError, pair_image
from clipsift_common.machine import Machine, device_of, make_lone_trainer, num_threads
from clipsift_common.progress import Progress
from selection.features.embedding_note import DECODED, claim, finish
from selection.features.files import FeatureFile, write_feature_file
from selection.pool.index import PoolIndex

Batch = dict[str, Any]
Features = dict[str, torch.Tensor]

logger = logging.getLogger("clipsift")

_AHEAD = 8  # batches that are decoded while one is encoded on a GPU of Ray's
_NAMED = 8  # shards and parts that a line names
_SHARD = "shard"  # key of a report: the fingerprint of the shard's samples


class _ShardBatches(torch.utils.data.Dataset):
    """Batches that never cross a shard: what is encoded together does not depend on the number of processes."""

    def __init__(self, index: PoolIndex, clip: LoadedCLIP, shards: Sequence[int], batch_size: int) -> None:
        self.index, self.preprocess, self.tokenizer = index, Preprocess(clip.preprocess), clip.tokenizer
        self.chunks = [
            (shard, range(start, min(start + batch_size, rows.stop)), start + batch_size >= rows.stop)
            for shard in shards
            for rows in [index.shard_rows(shard)]
            for start in range(rows.start, rows.stop, batch_size)
        ]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, item: int) -> Batch:
        shard, rows, is_last = self.chunks[item]
        images, captions, kept, broken, remarks = [], [], [], [], []
        for row in rows:
            sample = self.index.read(row)
            said: list[str] = []
            try:
                images.append(self.preprocess.worker(pair_image(sample.image, remarks=said)))
            except ImageError as error:
                broken.append((error.cause, sample.shard, sample.key, error.detail))
                continue
            remarks += [(DECODER_REMARK, sample.shard, sample.key, detail) for detail in said]
            captions.append(sample.caption)
            kept.append(row)
        batch: Batch = {"shard": shard, "is_last": is_last, "rows": kept, "captions": captions, "broken": broken}
        batch["remarks"] = remarks
        if images:
            batch |= {"image": torch.stack(images), "text": self.tokenizer(captions)}
        return batch


class _Embedder(L.LightningModule):
    """Encodes batches; float32 results, L2-normalised in float32 whatever the trainer's precision."""

    def __init__(self, clip: LoadedCLIP) -> None:
        super().__init__()
        self.clip: Any = clip.model
        self.preprocess = Preprocess(clip.preprocess)

    def predict_step(self, batch: Batch) -> Features:
        if "image" not in batch:
            return {}
        pixels = self.preprocess.device(batch["image"])
        image = torch.nn.functional.normalize(self.clip.encode_image(pixels).float(), dim=-1)
        text = torch.nn.functional.normalize(self.clip.encode_text(batch["text"]).float(), dim=-1)
        return {"image": image, "text": text}


class _FeatureWriter(BasePredictionWriter):
    """Collects a shard's batches and writes its feature file when the last one is there.

    Until then features stay on the device, which would be waited for at every batch else.
    """

    def __init__(self, files: Mapping[int, FeatureFile], index: PoolIndex, progress: Progress | None) -> None:
        super().__init__("batch")
        self.files, self.index, self.progress = files, index, progress
        self.skipped, self.lost = 0, DataReport()
        self.pending: list[tuple[Batch, Features]] = []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.pending.append(({key: value for key, value in batch.items() if key not in ("image", "text")}, prediction))
        self.skipped += len(batch["broken"])
        notes = {"skipped": self.skipped} if self.skipped else {}
        if self.progress:
            self.progress.advance(len(batch["rows"]) + len(batch["broken"]), **notes)
        if batch["is_last"]:
            self._write(int(batch["shard"]))
            self.pending = []

    def _write(self, shard: int) -> None:
        report = DataReport(logs=False)
        rows, captions = [], []
        for batch, _ in self.pending:
            rows += batch["rows"]
            captions += batch["captions"]
            for event in batch["broken"]:
                report.lose(*event)
            for event in batch["remarks"]:
                report.note(*event)
        done = [features for _, features in self.pending if features]
        image, text = (
            torch.cat([features[tower] for features in done]).cpu().numpy() if done else np.zeros((0, 1), np.float32)
            for tower in ("image", "text")
        )
        file = self.files[shard]
        path = Path(file.path)
        path.unlink(missing_ok=True)  # of what the shard held before
        self.lost.merge(report, logs=True)
        about = report.as_dict() | {_SHARD: self.index.shard_fingerprints[shard]}
        write_json(_report_of(file), about)
        write_feature_file(path.parent, str(file.name), path.stem, self.index.uids[rows], captions, image, text)


def embed(
    index: PoolIndex,
    clip: LoadedCLIP,
    folder: Path,
    name: str,
    machine: Machine,
    batch_size: int = 256,
    workers: int = 0,
    precision: str = "32-true",
    by_content: bool = False,
    engine: Group | Ray = GROUP,
    part: Part | None = None,
) -> tuple[list[FeatureFile], DataReport]:
    """Write the features of every pair of the pool into ``folder``; resume where an earlier call stopped.

    Shards whose samples are those that were embedded are not embedded again, so a pool may grow and change.

    Args:
        name: prefix of the npz arrays (``l14`` makes ``l14_img`` and ``l14_txt``).
        precision: Lightning's word for the arithmetic of the towers.
        by_content: name the files by what the shards hold, too: several pools, and states of one, share ``folder``.
        engine: what embeds the shards, each by itself.
        part: the one of a pool that ``index`` is of; others write into ``folder``, too.

    Returns:
        The feature files in shard order, and what could not be decoded (of the samples that the index counts).

    Raises:
        ClipsiftError: when ``folder`` holds features of another teacher, name or precision, or of a release that
            decoded otherwise; for fp16 on a CPU.
    """
    device = device_of(machine)
    if precision == "16-mixed" and device.type == "cpu":  # Lightning would take bf16 instead
        raise ClipsiftError("precision: 16-mixed needs a GPU; take 32-true or bf16-mixed")
    how = {"teacher": clip.identity, "name": name, "precision": precision, DECODED: str(DECODING)}
    parts = on_rank_zero(lambda: claim(folder, how, part.total if part else None))
    shards = [shard for shard in range(len(index.shards)) if len(index.shard_rows(shard))]
    files = {}
    for shard in shards:
        called = index.shards[shard].name
        stem = index.content_name(shard) if by_content else called
        files[shard] = FeatureFile(str(folder / f"{stem}.parquet"), name, called)
    embedding = _Embedding(index, clip, files, batch_size, precision)
    if parts and not part:
        on_rank_zero(lambda: _log_missing(embedding, parts))
    if isinstance(engine, Ray):
        make = partial(_embed_apart, embedding=embedding, on_gpu=engine.uses_gpus)
        engine.do("embed", shards, make, embedding.is_made, embedding.num_rows, "pairs")
    else:
        _embed_share(embedding, engine.share(shards), machine, workers)
    barrier()
    made = list(files.values())
    report = on_rank_zero(lambda: _merged_report(made).as_dict())
    if not part:
        on_rank_zero(lambda: finish(folder, how))
    return made, DataReport.from_dict(report)


@dataclass(frozen=True)
class _Embedding:
    """What all shards are embedded with; shards are numbers of the index."""

    index: PoolIndex
    clip: LoadedCLIP
    files: Mapping[int, FeatureFile]
    batch_size: int
    precision: str

    def num_rows(self, shard: int) -> int:
        """Pairs of a shard."""
        return len(self.index.shard_rows(shard))

    def is_made(self, shard: int) -> bool:
        """Whether the features of what the shard holds now are there; an earlier release did not note the samples."""
        file, now = self.files[shard], self.index.shard_fingerprints[shard]
        return Path(file.path).is_file() and read_json(_report_of(file)).get(_SHARD, now) == now

    def batches(self, shards: Sequence[int]) -> _ShardBatches:
        """What the shards are encoded in."""
        return _ShardBatches(self.index, self.clip, shards, self.batch_size)

    def encode(self, batches: Iterable[Batch], machine: Machine, progress: Progress | None = None) -> None:
        """Write the feature files of the shards that ``batches`` are of, by this process alone."""
        writer = _FeatureWriter(self.files, self.index, progress)
        trainer = make_lone_trainer(machine, precision=self.precision, callbacks=[writer])  # others may have less to do
        with num_threads(1):  # on a CPU; features must not depend on the number of processes
            ahead = sent_ahead(batches, device_of(machine))
            trainer.predict(_Embedder(self.clip), ahead, return_predictions=False)


def _embed_share(embedding: _Embedding, mine: Sequence[int], machine: Machine, workers: int) -> None:
    """This process's shards, in one stream of batches."""
    todo = [shard for shard in mine if not embedding.is_made(shard)]
    with Progress("embed", sum(map(embedding.num_rows, mine)), "pairs") as progress:
        progress.resume(sum(embedding.num_rows(shard) for shard in mine if shard not in todo))
        if todo:
            pin = device_of(machine).type == "cuda"
            batches = embedding.batches(todo)
            loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pin)
            embedding.encode(loader, machine, progress)


def _embed_apart(shard: int, embedding: _Embedding, on_gpu: bool) -> None:
    """One shard, in a worker of Ray's. For a GPU, tasks of their own decode, wherever there are CPUs."""
    batches = embedding.batches([shard])
    machine = Machine("gpu" if on_gpu else "cpu", 1)
    embedding.encode(items_ahead(batches, _AHEAD) if on_gpu else map(batches.__getitem__, range(len(batches))), machine)


def _log_missing(embedding: _Embedding, parts: int) -> None:
    """Say what parts that were begun have left undone; it is made now."""
    missing = [shard for shard in embedding.files if not embedding.is_made(shard)]
    numbers = sorted({part_of(shard, parts).number for shard in missing})
    if missing:
        names = ", ".join(embedding.index.shards[shard].name for shard in missing[:_NAMED])
        which = f"{', '.join(map(str, numbers[:_NAMED]))}{' ...' if len(numbers) > _NAMED else ''} of {parts}"
        logger.info("embed: parts %s have left %s shards (%s ...); making them", which, f"{len(missing):,}", names)


def _report_of(file: FeatureFile) -> Path:
    """Where it says what of the shard could not be decoded, and which samples the shard held."""
    return Path(file.path).with_suffix(".json")


@torch.inference_mode()
def embed_images(
    clip: LoadedCLIP, images: Iterable[Image.Image], device: torch.device, batch_size: int = 256
) -> np.ndarray:
    """(n, d) float32 L2-normalised features of RGB pictures, made by this process alone on ``device``."""
    model: Any = clip.model.to(device)
    features = []
    pictures = iter(images)
    with num_threads(1):  # on a CPU; see embed
        while batch := [clip.preprocess(picture) for picture in islice(pictures, batch_size)]:
            encoded = model.encode_image(torch.stack(batch).to(device)).float()
            features.append(torch.nn.functional.normalize(encoded, dim=-1).cpu())
    return torch.cat(features).numpy() if features else np.empty((0, 0), np.float32)


def _merged_report(files: list[FeatureFile]) -> DataReport:
    report = DataReport()
    for file in files:
        wait_for(_report_of(file))
        report.merge(read_json(_report_of(file)))
    return report
