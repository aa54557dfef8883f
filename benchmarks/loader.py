"""The training loader beside open_clip's and webdataset's: ``python benchmarks/loader.py [--images SHARDS] ...``.

Every loader runs in one worker process and works for 224 pixels and the tokenizer of ViT-B-32. Rates are images per
second of that process's CPU time, which is what a core brings and what other programs on the machine disturb least;
the best of some turns. Shards are read from the page cache. The bare JPEG decode is torchvision's, in one thread, of
bytes in memory, into nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import torch
import webdataset as wds
from torchvision.io import ImageReadMode, decode_jpeg
from webdataset.tariterators import tar_file_expander

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

from benchmarks.loader_data import make_shards, write_shards
from benchmarks.measure import describe_machine
from clipsift_common.clip import get_tokenizer
from clipsift_common.data_report import DataReport
from clipsift_common.quiet import quiet_libraries
from selection.pool.build import write_part
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.pool.remote import stamp
from selection.reshard import reshard
from selection.samples.scan import ROW_DTYPE
from selection.subset import Subset
from training.loading.loader import GlobalBatchLoader, StepDataset
from training.loading.order import SampleOrder
from training.loading.resize import KERNEL
from training.loading.transform import Decode, TrainTransform

if importlib.util.find_spec("pandas"):
    import open_clip_train.data as theirs
else:  # that module imports pandas, for tables of captions that are not read here
    with patch.dict(sys.modules, pandas=ModuleType("pandas")):
        import open_clip_train.data as theirs
# webdataset marks a tar's end since 0.2.90, which open_clip's grouping takes for a member and dies of.
theirs.tar_file_expander = partial(tar_file_expander, eof_value=None)

MODEL, SIZE = "ViT-B-32", (224, 224)
FOREVER = 10**6  # batches: more than anyone takes
SKIPPED = 4  # batches at the start of each turn: processes start, buffers fill


class Bench:
    """Shards, how much of them is timed, and rates of loaders over them."""

    def __init__(self, pool: Pool, folder: Path, batch: int, batches: int, repeats: int) -> None:
        self.pool, self.folder, self.batch, self.batches, self.repeats = pool, folder, batch, batches, repeats
        self.urls = [shard.url for shard in pool.shards]
        self.index = PoolIndex.build(pool, folder / "cache")
        self.tokenizer = get_tokenizer(MODEL)

    def ours(self, rows: np.ndarray, decode: Decode = "fast", index: PoolIndex | None = None) -> GlobalBatchLoader:
        order = SampleOrder(rows, self.batch, 0, "shuffled")
        transform = TrainTransform(SIZE, 0, decode=decode)
        dataset = StepDataset(index or self.index, order, transform, self.tokenizer, 0, 1)
        return GlobalBatchLoader(dataset, FOREVER, workers=1)

    def open_clips(self) -> Iterable[Any]:
        """open_clip's own training loader, resampling shards as DataComp does."""
        arguments = SimpleNamespace(
            train_data="::".join(self.urls), train_num_samples=FOREVER * self.batch, train_data_upsampling_factors=None,
            dataset_resampled=True, batch_size=self.batch, workers=1, world_size=1, seed=0,
        )  # fmt: skip
        transform = open_clip.image_transform(SIZE, is_train=True)
        return theirs.get_wds_dataset(arguments, transform, True, tokenizer=open_clip.get_tokenizer(MODEL)).dataloader

    def webdatasets(self, kept: set[str], transform: Callable[[Any], Any], decode: bool) -> Iterable[Any]:
        """webdataset's pipeline as open_clip builds it, with a ``select`` by uid before anything is decoded."""
        tokenizer = open_clip.get_tokenizer(MODEL)
        stages = [
            wds.ResampledShards(self.urls),
            wds.tarfile_to_samples(),
            wds.select(lambda sample: json.loads(sample["json"])["uid"] in kept),
            wds.shuffle(1000, initial=100),
            wds.select(theirs.filter_no_caption_or_no_image),
            *([wds.decode("pilrgb")] if decode else []),
            wds.rename(image="jpg;png;jpeg;webp", text="txt"),
            wds.map_dict(image=transform, text=lambda text: tokenizer(text if decode else text.decode())[0]),
            wds.to_tuple("image", "text"),
            wds.batched(self.batch, partial=False),
        ]
        return wds.WebLoader(wds.DataPipeline(*stages), batch_size=None, num_workers=1)

    def rates(self, *loaders: Callable[[], Iterable[Any]]) -> list[float]:
        """Images per second of the worker's CPU time of each, the best turn of each; they take turns."""
        best = [0.0] * len(loaders)
        for _ in range(self.repeats):
            for number, make in enumerate(loaders):
                batches = iter(make())
                for _ in range(SKIPPED):
                    next(batches)
                start = _worker_seconds()
                for _ in range(self.batches):
                    next(batches)
                best[number] = max(best[number], self.batches * self.batch / (_worker_seconds() - start))
                del batches
                gc.collect()  # ends the worker
        return best

    def bare_decode(self) -> float:
        """Images per second of torchvision's decode_jpeg alone, in one thread."""
        count = min(len(self.index), self.batches * self.batch)
        data = [torch.frombuffer(bytearray(self.index.read(row).image), dtype=torch.uint8) for row in range(count)]
        start = time.process_time()
        for encoded in data:
            decode_jpeg(encoded, mode=ImageReadMode.RGB)
        return count / (time.process_time() - start)


def _worker_seconds() -> float:
    """CPU time of this process's children so far."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user mode and in the kernel
    return ticks / os.sysconf("SC_CLK_TCK")


def throughput(bench: Bench) -> None:
    rows = np.arange(len(bench.index))
    bare = bench.bare_decode()
    fast, portable, exact, other = bench.rates(
        lambda: bench.ours(rows),
        lambda: _without_kernel(bench.ours(rows)),
        lambda: bench.ours(rows, "exact"),
        bench.open_clips,
    )
    bare = max(bare, bench.bare_decode())
    kernel = "compiled" if KERNEL else "torch's, for want of a compiled one"
    print(f"open_clip {other:.0f}/s, bare decode {bare:.0f}/s; the resize is {kernel}")
    for name, rate in (("ours", fast), ("ours, resized by torch", portable), ("ours, exact", exact)):
        print(f"  {name}: {rate:.0f}/s, {rate / other:.2f} x open_clip, {rate / bare:.1%} of the bare decode")
    alone, _ = _consume(bench, 0.0)
    elapsed, waited = _consume(bench, 1.25 * alone / bench.batches)
    print(f"  share of time waiting, when the device needs 1.25 of the loader's time: {waited / elapsed:.1%}")


def _without_kernel(loader: GlobalBatchLoader) -> Iterator[Any]:
    with patch("training.loading.resize.KERNEL", False):  # while the worker starts, which keeps it
        yield from loader


def _consume(bench: Bench, step: float) -> tuple[float, float]:
    """Seconds that a device with ``step`` seconds for a batch takes for all batches, and how many of them it waited."""
    loader = bench.ours(np.arange(len(bench.index)))
    start = 0.0
    for number, _ in enumerate(loader):
        if number == SKIPPED:
            start, loader.wait_seconds = time.perf_counter(), 0.0
        if number == SKIPPED + bench.batches:
            break
        time.sleep(step)
    return time.perf_counter() - start, loader.wait_seconds


def on_the_fly(bench: Bench) -> None:
    subset = Subset(np.random.default_rng(0).choice(np.array(bench.index.uids), len(bench.index) // 5, replace=False))
    copy = bench.folder / "copy"
    reshard(bench.index, subset, copy, shard_size=500)
    copied = PoolIndex.build(Pool(str(copy)), bench.folder / "copy_cache")
    rows = bench.index.rows_of(subset)
    fly, resharded = bench.rates(
        lambda: bench.ours(rows), lambda: bench.ours(np.arange(len(copied)), index=copied)
    )  # fmt: skip
    print(f"20 % kept: on the fly {fly:.0f}/s, a resharded copy {resharded:.0f}/s: {fly / resharded:.1%}")


def beside_select(bench: Bench) -> None:
    kept = np.sort(np.random.default_rng(1).choice(len(bench.index), len(bench.index) // 10, replace=False))
    uids = {bench.index.read(int(row)).uid for row in kept}
    their_transform = open_clip.image_transform(SIZE, is_train=True)
    our_transform = partial(_decoded, TrainTransform(SIZE, 0))
    ours, select, same_pixels = bench.rates(
        lambda: bench.ours(kept),
        lambda: bench.webdatasets(uids, their_transform, decode=True),
        lambda: bench.webdatasets(uids, our_transform, decode=False),
    )
    print(f"10 % kept: ours {ours:.0f}/s, webdataset's select {select:.0f}/s: {ours / select:.2f} x; "
          f"select with our decoding {same_pixels:.0f}/s: {ours / same_pixels:.2f} x")  # fmt: skip


def _decoded(transform: TrainTransform, data: bytes) -> torch.Tensor:
    pixels = np.empty((*SIZE, 3), np.uint8)
    transform(data, 0, pixels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def indexing(folder: Path, count: int) -> None:
    shards = write_shards(folder / "many", count, lambda number: bytes(20_000), shard_size=10_000)
    Path(shards / "00000000.tar").read_bytes()
    start, cpu = time.perf_counter(), time.process_time()
    index = PoolIndex.build(Pool(str(shards)), folder / "many_cache")
    assert len(index) == count
    print(f"index: {count / (time.perf_counter() - start):,.0f} samples/s ({count / (time.process_time() - cpu):,.0f} "
          "per second of CPU time), one process")  # fmt: skip


def memory(bench: Bench, count: int) -> None:
    """What a pool of ``count`` samples adds to a worker that reads 20,000 samples from all over it."""
    sizes = []
    for number in (len(bench.index), count):
        folder = _inflated(bench, number)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as one:
            sizes.append(one.apply(_read_all_over, (folder, number)))
    print(f"a worker with {count:,} samples: {(sizes[1] - sizes[0]) / 1e6:.0f} MB more resident than with a small pool "
          f"({sizes[1] / 1e6:.0f} MB in all); its table is {count * ROW_DTYPE.itemsize / 1e6:.0f} MB")  # fmt: skip


def _inflated(bench: Bench, count: int) -> Path:
    """An index of the pool with its rows repeated under new uids; the bytes they name are real."""
    index, cache, first = bench.index, bench.folder / f"cache_{count}", 0
    for number, shard in enumerate(index.shards):
        share = count // len(index.shards) + (number < count % len(index.shards))
        rows = np.resize(index.entries(index.shard_rows(number)), share)
        rows["uid"]["f1"] = np.arange(first, first + share)
        size = int(index.sizes[number])
        write_part(cache / "index" / "parts", shard.name, stamp(shard.url), size, rows, DataReport(), index.fields)
        first += share
    return PoolIndex.build(bench.pool, cache).folder


def _read_all_over(folder: Path, count: int) -> int:
    index = PoolIndex(folder)
    order = SampleOrder(np.arange(count, dtype=np.uint32), 1000, 0, "shuffled")
    dataset = StepDataset(index, order, TrainTransform((32, 32), 0), _no_tokens, 0, 1)
    for step in range(20):
        dataset[step]
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def _no_tokens(captions: list[str]) -> torch.Tensor:
    return torch.zeros(len(captions), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="shards to read: a folder or glob; some are made without")
    parser.add_argument(
        "--parts", nargs="*", choices=["rate", "subset", "select", "index", "memory"], help="default: all"
    )
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--batches", type=int, default=12, help="timed in each turn")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--index-samples", type=int, default=40_000)
    parser.add_argument("--memory-samples", type=int, default=10_000_000)
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pool = Pool(arguments.images or str(make_shards(folder / "made")))
        bench = Bench(pool, folder, arguments.batch, arguments.batches, arguments.repeats)
        size = np.mean(bench.index.entries(range(len(bench.index)))["image_size"])
        print(f"{len(bench.index):,} pictures of {size / 1000:.0f} kB, {'given' if arguments.images else 'made up'}")
        parts: dict[str, Callable[[], None]] = {
            "rate": lambda: throughput(bench),
            "subset": lambda: on_the_fly(bench),
            "select": lambda: beside_select(bench),
            "index": lambda: indexing(folder, arguments.index_samples),
            "memory": lambda: memory(bench, arguments.memory_samples),
        }
        for part in arguments.parts or parts:
            parts[part]()


if __name__ == "__main__":
    main()
