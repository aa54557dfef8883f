"""Evaluation beside clip_benchmark's: ``python benchmarks/evaluation.py [--model ViT-B-32] [--images 2000] ...``.

Both sides take the same model, the same folders (made here), the same batch size and workers, and float32.
clip_benchmark's side is its own readers, ``zero_shot_classifier``, ``run_classification`` and retrieval ``evaluate``,
without what DataComp's script adds (a model load per task, a second pass for metadata). A task's time of ours holds the
class prompts that no task before it had.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

from benchmarks.evaluation_data import FLICKR, SHARDS, make_data
from benchmarks.measure import describe_machine, peak_memory
from clipsift_common.clip import LoadedCLIP, create_clip, evaluation_transform, get_tokenizer
from clipsift_common.machine import Machine
from clipsift_common.quiet import quiet_libraries
from evaluation import TASKS, evaluate
from evaluation.data.archives import ZipImages, read_rows
from evaluation.data.loader import TaskLoader
from evaluation.data.prompts import read_classnames, read_templates
from evaluation.encoder import Encoder
from evaluation.kinds.counts import ClassCounts
from evaluation.kinds.zeroshot import ZeroShot
from evaluation.tasks import Task

T = TypeVar("T")

# A CLIP whose 80,000 prompts clip_benchmark encodes in minutes on two cores.
SMALL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 224, "layers": 6, "width": 192, "patch_size": 32, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 2, "layers": 2},
}
IMAGENET_SIZE = (50_000, 1_000, 512)  # samples, classes, dimensions of the features


class Captioned(Dataset):
    """Flickr's images and captions as clip_benchmark's retrieval wants them."""

    def __init__(self, folder: Path, clip: LoadedCLIP) -> None:
        self.rows = read_rows(FLICKR, folder / FLICKR.options["table"], ["filename"], ["raw"])
        names = [row["filename"] for row in self.rows]
        self.images, self.preprocess = ZipImages(FLICKR, folder / FLICKR.options["images"], names), clip.preprocess

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, list[str]]:
        return self.preprocess(self.images.read(number)[0]), self.rows[number]["raw"]


def their_classifier(clip: LoadedCLIP, names: list[str], templates: list[str], device: str) -> Tensor:
    from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

    return zero_shot_classifier(clip.model, clip.tokenizer, names, templates, device, amp=False)


def their_score(clip: LoadedCLIP, data: Path, task: Task, options: argparse.Namespace) -> float:
    """A task by clip_benchmark's loops, put together as its command line does."""
    from clip_benchmark.datasets.builder import build_dataset, image_captions_collate_fn
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    folder, batch, device = data / task.folder, options.batch_size, options.device
    workers = min(options.workers, SHARDS)
    if task is FLICKR:
        pairs = Captioned(folder, clip)
        loader = DataLoader(pairs, batch, num_workers=workers, collate_fn=image_captions_collate_fn)
        at = zeroshot_retrieval.evaluate(
            clip.model, loader, clip.tokenizer, device, amp=False, recall_k_list=[1, 5, 10]
        )
        return (at["image_retrieval_recall@1"] + at["text_retrieval_recall@1"]) / 2
    dataset: Any = build_dataset(f"wds/{task.key}", str(folder), clip.preprocess, task="zeroshot_classification")
    classifier = their_classifier(clip, dataset.classes, dataset.templates, device)
    loader = DataLoader(dataset.batched(batch), batch_size=None, num_workers=workers)
    logits, labels = zeroshot_classification.run_classification(clip.model, classifier, loader, device, amp=False)
    return (logits.argmax(1) == labels).double().mean().item()  # its own accuracy() fails with numpy 2


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Seconds that the model waited for each batch of ours."""
    waits: list[float] = []
    original = TaskLoader.__iter__

    def iterate(loader: TaskLoader) -> Iterator[Any]:
        batches = original(loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            waits.append(time.perf_counter() - start)
            if batch is None:
                return
            yield batch

    TaskLoader.__iter__ = iterate  # type: ignore[method-assign]
    try:
        yield waits
    finally:
        TaskLoader.__iter__ = original  # type: ignore[method-assign]


def compare_classifiers(clip: LoadedCLIP, data: Path, options: argparse.Namespace) -> None:
    """Class prompts to a classifier."""
    task = TASKS["imagenet1k"]
    names, templates = read_classnames(task, data / task.folder), read_templates(task, data / task.folder)
    with torch.inference_mode():
        mine, ours = timed(lambda: Encoder(clip, "fp32").class_features(names, templates))
    other, theirs = timed(lambda: their_classifier(clip, names, templates, options.device))
    difference = (mine - other.T).abs().max().item()
    report(
        f"classifier, {len(names):,} classes x {len(templates)} prompts", ours, theirs, f"differ by {difference:.1e}"
    )


def compare_suites(clip: LoadedCLIP, data: Path, tasks: list[Task], options: argparse.Namespace) -> None:
    """All tasks, ours in one call as always, theirs one by one."""
    machine = Machine(accelerator=options.device, devices=1)
    with watched() as waits:
        how = {"batch_size": options.batch_size, "workers": options.workers, "machine": machine}
        results, ours = timed(lambda: evaluate(clip, data, tasks=[task.key for task in tasks], **how))
    clip.model.to(options.device)
    total = np.zeros(2)
    for task, result in zip(tasks, results):
        score, theirs = timed(partial(their_score, clip, data, task, options))
        total += theirs
        scores = f"scores {result['metrics']['main_metric']:.4f} and {score:.4f}"
        report(f"{task.name}, {result['num_samples']:,} images", [result["seconds"]], theirs, scores)
    images = sum(result["num_samples"] for result in results)
    rate = f"ours {images / ours[0]:.0f} images/s, {sum(waits) / ours[0]:.0%} of it waiting for data"
    report("suite", ours, total.tolist(), rate)


def compare_memory() -> None:
    """What is held while an ImageNet is counted, the model aside."""
    from clip_benchmark.metrics.zeroshot_classification import run_classification

    samples, classes, dim = IMAGENET_SIZE
    weights, batch = torch.nn.functional.normalize(torch.randn(classes, dim), dim=-1), 500
    batches = [(torch.randn(batch, dim), torch.randint(classes, (batch,)))] * (samples // batch)
    counter = ZeroShot(TASKS["imagenet1k"], Path(), "leaderboard")
    counter.classifier, counter.counts = weights, ClassCounts(classes)
    model: Any = SimpleNamespace(encode_image=lambda features: features)
    counter.update(batches[0][0], {"label": batches[0][1]})  # what the libraries themselves take
    with peak_memory() as ours:
        for features, labels in batches:
            counter.update(features, {"label": labels})
    with peak_memory() as theirs:
        run_classification(model, weights.T, batches, "cpu", amp=False)
    for side, peak in (("ours", ours), ("clip_benchmark", theirs)):
        print(f"memory for {samples:,} samples x {classes:,} classes, {side}: {peak.added / 1e6:.1f} MB")


def timed(function: Callable[[], T]) -> tuple[T, list[float]]:
    """What the function returns; seconds, and seconds of CPU time of this process and its workers."""
    before = time.perf_counter(), cpu_seconds()
    value = function()
    return value, [time.perf_counter() - before[0], cpu_seconds() - before[1]]


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(name: str, ours: Sequence[float], theirs: Sequence[float], note: str) -> None:
    """Seconds of both sides, and the ratio; that of the CPU times too, which does not move with the machine's load."""
    ratios = f"ratio {theirs[0] / ours[0]:.2f}"
    if len(ours) > 1:
        ratios += f", of CPU time {theirs[1] / ours[1]:.2f}"
    print(f"{name}: ours {ours[0]:.1f} s, clip_benchmark {theirs[0]:.1f} s, {ratios} ({note})", flush=True)


def load(options: argparse.Namespace, folder: Path) -> LoadedCLIP:
    """A model with random weights: they cost what trained ones cost."""
    model = options.model
    if model is None:
        (folder / "small.json").write_text(json.dumps(SMALL))
        model = str(folder / "small.json")
    torch.manual_seed(0)
    clip = create_clip(model).eval()
    return LoadedCLIP(clip, evaluation_transform(clip), get_tokenizer(model), "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="open_clip name; default: a small CLIP of this program's own")
    parser.add_argument("--classes", type=int, default=1000, help="of ImageNet's, each with 80 prompts")
    parser.add_argument("--images", type=int, default=400, help="per task")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    quiet_libraries()
    logging.getLogger("clipsift").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nothing:
        tasks = make_data(Path(name), options.classes, options.images)
        clip = load(options, Path(name))
        with contextlib.redirect_stderr(nothing):  # progress bars
            compare_memory()
            clip.model.to(options.device)
            compare_classifiers(clip, Path(name), options)
            compare_suites(clip, Path(name), tasks, options)


if __name__ == "__main__":
    main()
