"""Selection beside its alternatives: ``python benchmarks/selection.py [section ...] [--size value ...]``.

The papers' sizes: ``--vas_d 100000 500``, ``--cc3m 2800000 1000 1400000``, ``--pool 1011782 505891`` (two of DataComp's
metadata files), ``choose --rows 100000000``. Numbers: README.md here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

from benchmarks.measure import best_times, describe_machine, peak_memory
from selection import Recipe, clipcov, contrastive_normaliser, normsim, vas_d
from selection.features.files import write_feature_file
from selection.kernels.positive import PositiveSums
from selection.kernels.tiles import tiles
from selection.methods.clipcov import class_terms
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.stream import choose
from selection.uids import UID_DTYPE, uid_column

TEMPERATURE = 0.01
BUFFER_ROWS = 4096  # of a bare product, which is not held whole either


def unit_rows(count: int, dim: int, seed: int) -> Tensor:
    """(count, dim) random unit rows."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def bare_product(a: Tensor, b: Tensor) -> Callable[[], object]:
    """Computes ``a @ b.T`` into a buffer of some rows, and nothing else."""
    buffer = torch.empty(min(BUFFER_ROWS, len(a)), len(b))

    def run() -> None:
        for start in range(0, len(a), BUFFER_ROWS):
            part = a[start : start + BUFFER_ROWS]
            torch.mm(part, b.T, out=buffer[: len(part)])

    return run


def s_cliploss(options: argparse.Namespace) -> None:
    for count in options.batches:
        image, text = unit_rows(count, options.dim, 0), unit_rows(count, options.dim, 1)

        def dense(image: Tensor = image, text: Tensor = text) -> tuple[Tensor, Tensor]:
            logits = image @ text.T / TEMPERATURE
            return logits.logsumexp(1), logits.logsumexp(0)

        def ours(image: Tensor = image, text: Tensor = text) -> tuple[Tensor, Tensor]:
            return contrastive_normaliser(image, text, TEMPERATURE)

        bare, tiled, whole = best_times(options.repeats, bare_product(image, text), ours, dense)
        print(
            f"s-CLIPLoss {count:,} x {options.dim}: {tiled:.2f} s; bare product {bare:.2f} s (x {tiled / bare:.2f}); "
            f"dense {whole:.2f} s (x {whole / bare:.2f}): {whole / tiled:.2f} times faster than dense"
        )


def memory(options: argparse.Namespace) -> None:
    image, text = unit_rows(options.memory, 768, 0), unit_rows(options.memory, 768, 1)
    contrastive_normaliser(image[:1024], text[:1024], TEMPERATURE)  # what the libraries allocate once
    with peak_memory() as peak:
        contrastive_normaliser(image, text, TEMPERATURE)
    print(
        f"s-CLIPLoss memory {options.memory:,} x 768: adds {peak.added / 1e6:.0f} MB; "
        f"one dense matrix {4 * options.memory**2 / 1e6:,.0f} MB"
    )


def normsim_inf(options: argparse.Namespace) -> None:
    features, target = unit_rows(options.normsim[0], options.dim, 0), unit_rows(options.normsim[1], options.dim, 1)
    bare, ours = best_times(
        options.repeats, bare_product(features, target), lambda: normsim(features, target, float("inf"))
    )
    print(
        f"NormSim_inf {len(features):,} x {len(target):,} x {options.dim}: {ours:.2f} s; bare product {bare:.2f} s "
        f"(x {ours / bare:.2f})"
    )


def vas_d_steps(options: argparse.Namespace) -> None:
    count, steps = options.vas_d
    features = unit_rows(count, 512, 0)
    features[: count // 2, :64] *= 2  # a pool with a direction, so that steps matter
    features = torch.nn.functional.normalize(features, dim=1)
    size = count // 5

    def recomputing() -> Tensor:
        alive, chunk = torch.arange(count), -(-(count - size) // steps)
        while len(alive) > size:
            left = features[alive]
            values = ((left @ (left.T @ left)) * left).sum(1)
            alive = alive[values.topk(max(size, len(alive) - chunk)).indices.sort().values]
        return alive

    results: list[Tensor] = []
    slow, fast = best_times(
        1,
        lambda: results.append(recomputing()),
        lambda: results.append(vas_d(features, size, steps)),
        clock=time.process_time,  # minutes, in which other programs come and go
    )
    same = len(np.intersect1d(results[0].numpy(), results[1].numpy())) / size
    print(
        f"VAS-D {count:,} x 512, {steps} steps: {fast:.1f} s of CPU time; recomputing the moment {slow:.1f} s: "
        f"{slow / fast:.1f} times faster, {same:.2%} the same samples"
    )


def clipcov_blocks(options: argparse.Namespace) -> None:
    count, classes, block = options.clipcov
    labels = unit_rows(classes, 128, 2)
    near = labels[torch.arange(count) % classes]
    image, text = (torch.nn.functional.normalize(near + 2 * unit_rows(count, 128, seed), dim=1) for seed in (0, 1))
    size = count // 2
    first, raw_of, label_of, class_of = _first_scores(image, text, labels)

    def resorting() -> list[int]:
        scores, picked, order, at = first.copy(), [], np.argsort(-first, kind="stable"), 0
        new: dict[int, list[int]] = {k: [] for k in range(classes)}
        raw, counts = np.zeros(classes), np.zeros(classes, int)
        for _ in range(size):
            best = int(order[at])
            at += 1
            k = int(class_of[best])
            picked.append(best)
            new[k].append(best)
            counts[k] += 1
            scores[best] = -np.inf
            if (counts[k] + 1) % block == 0:
                members, rows = np.flatnonzero(class_of == k), new[k]
                covered = (image[members] @ text[rows].T).clamp(min=0) + (text[members] @ image[rows].T).clamp(min=0)
                raw[k] += raw_of[rows].sum()
                shared = raw[k] + label_of[rows].sum() / 2
                scores[members] -= (covered.sum(1).numpy() + shared) / len(members)
                new[k] = []
                order, at = np.argsort(-scores, kind="stable"), 0
        return picked

    results: list[list[int]] = []
    slow, fast, rest = best_times(
        options.repeats,
        lambda: results.append(resorting()),
        lambda: results.append(clipcov(image, text, labels, size, block).tolist()),
        lambda: _first_scores(image, text, labels),
    )
    same = len(set(results[0]) & set(results[1])) / size
    print(
        f"ClipCov {count:,} rows, {classes} classes, block {block}, {size:,} picks: {fast:.2f} s; re-sorting "
        f"everything {slow + rest:.2f} s: {(slow + rest) / fast:.1f} times faster ({slow / (fast - rest):.1f} times "
        f"without the {rest:.2f} s of first scores), {same:.2%} the same samples"
    )


def _first_scores(image: Tensor, text: Tensor, labels: Tensor) -> tuple[np.ndarray, ...]:
    """(n,) each: the score before any pick, raw, the similarity to the label, the class."""
    scores, raw, label, classes = np.empty((4, len(image)))
    for number, terms in enumerate(class_terms(image, text, labels)):
        rows = terms.members
        raw[rows] = PositiveSums(image[rows], text[rows]).over_all(np.arange(len(rows))) / len(rows)
        scores[rows], label[rows], classes[rows] = terms.fixed + raw[rows], terms.label, number
    return scores, raw, label, classes.astype(int)


def clipcov_large(options: argparse.Namespace) -> None:
    """Classes as uneven as 1 / sqrt(rank); features mapped from disk, as a run has them."""
    count, classes, size = options.cc3m
    labels = unit_rows(classes, 512, 2)
    weights = 1 / np.sqrt(np.arange(1, classes + 1))
    chosen = torch.from_numpy(np.random.default_rng(0).choice(classes, count, p=weights / weights.sum()))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        towers = []
        for seed in (0, 1):
            store = np.memmap(Path(name) / str(seed), np.float16, "w+", shape=(count, 512))
            for number, part in enumerate(tiles(count, 100_000)):
                rows = labels[chosen[part]] + 1.5 * unit_rows(part.stop - part.start, 512, 2 * number + seed)
                store[part] = torch.nn.functional.normalize(rows, dim=1).half().numpy()
            towers.append(torch.from_numpy(store))
        with peak_memory() as peak:
            start_time = time.perf_counter()
            picked = clipcov(towers[0], towers[1], labels, size)
            seconds = time.perf_counter() - start_time
        print(
            f"ClipCov {count:,} x 512, {classes:,} classes (the largest of {int(chosen.bincount().max()):,}), "
            f"{len(picked):,} picks in blocks of 200: {seconds:.0f} s; memory {peak.anonymous / 1e9:.2f} GB, with "
            f"pages of mapped files {peak.total / 1e9:.2f} GB"
        )


def choose_top(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        rng, paths = np.random.default_rng(0), []
        for start in range(0, options.rows, 500_000):
            rows = min(500_000, options.rows - start)
            table = {"uid": uid_column(np.frombuffer(rng.bytes(16 * rows), UID_DTYPE))}
            scores = rng.standard_normal(rows, np.float32).astype(np.float16).astype(np.float32)  # with many ties
            paths.append(folder / f"{start:012d}.parquet")
            pq.write_table(pa.table(table | {"random": scores}), paths[-1], use_dictionary=False)
        recipe = ParsedRecipe.parse([{"score": "random", "keep": 0.2}])
        with peak_memory() as peak:
            start_time = time.perf_counter()
            about = choose(paths, recipe, folder / "subset.npy")
            seconds = time.perf_counter() - start_time
        print(
            f"top 20 % of {options.rows:,} scores in {len(paths)} files: {seconds:.1f} s, {about['num_kept']:,} uids; "
            f"memory {peak.total / 1e9:.2f} GB in all, of which {peak.added / 1e9:.2f} GB for this"
        )


def select_pool(options: argparse.Namespace) -> None:
    """The whole selection from metadata on disk, in files as large as DataComp's, some rows of them unusable."""
    num_rows, file_rows = options.pool
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for number, part in enumerate(tiles(num_rows, file_rows)):
            image, text = (unit_rows(part.stop - part.start, options.dim, 2 * number + i).numpy() for i in (0, 1))
            image[7] = np.nan if number else image[7]
            uids = np.frombuffer(np.random.default_rng(number).bytes(16 * len(image)), UID_DTYPE)
            write_feature_file(folder / "metadata", "l14", f"{number:04d}", uids, [""] * len(image), image, text)
        del image, text
        np.save(folder / "target.npy", unit_rows(50_000, options.dim, 1 << 20).numpy())
        steps = [
            {"score": "s_cliploss", "num_batches": 1, "batch_size": options.pool_batch, "keep": 0.3},
            {"score": "normsim", "target": str(folder / "target.npy"), "keep": 0.2},
        ]
        with peak_memory() as peak:
            start_time = time.perf_counter()
            subset = Recipe(steps).run(str(folder / "metadata"), "l14", folder / "run")
            seconds = time.perf_counter() - start_time
        print(
            f"s-CLIPLoss (one batch of {options.pool_batch:,} each) and NormSim_2 of {num_rows:,} x {options.dim} rows "
            f"in files of {file_rows:,}: {seconds:.0f} s, {len(subset):,} kept; memory {peak.anonymous / 1e9:.2f} GB, "
            f"with pages of mapped files {peak.total / 1e9:.2f} GB"
        )


SECTIONS = {
    "s_cliploss": s_cliploss,
    "memory": memory,
    "normsim": normsim_inf,
    "vas_d": vas_d_steps,
    "clipcov": clipcov_blocks,
    "cc3m": clipcov_large,
    "choose": choose_top,
    "pool": select_pool,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help=f"of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--batches", type=int, nargs="+", default=[4096, 8192, 16384], help="s-CLIPLoss batch sizes")
    parser.add_argument("--dim", type=int, default=768, help="feature width of s-CLIPLoss and NormSim")
    parser.add_argument("--memory", type=int, default=32768, help="batch of the memory check")
    parser.add_argument("--normsim", type=int, nargs=2, default=[50_000, 10_000], help="samples, targets")
    parser.add_argument("--vas_d", type=int, nargs=2, default=[30_000, 100], help="samples, steps")
    parser.add_argument("--clipcov", type=int, nargs=3, default=[20_000, 100, 10], help="samples, classes, block")
    parser.add_argument("--cc3m", type=int, nargs=3, default=[200_000, 200, 50_000], help="samples, classes, picks")
    parser.add_argument("--rows", type=int, default=10_000_000, help="scores to choose from")
    parser.add_argument("--pool", type=int, nargs=2, default=[200_000, 100_000], help="rows, rows of a metadata file")
    parser.add_argument("--pool_batch", type=int, default=32768, help="s-CLIPLoss batch of the pool")
    parser.add_argument("--folder", default=None, help="for the score files, 40 bytes a row; default the system's")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(describe_machine())
    for section in options.sections:
        SECTIONS[section](options)


if __name__ == "__main__":
    main()
