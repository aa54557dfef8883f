"""Training steps beside open_clip's own loop: ``python benchmarks/train.py [--model ViT-B-32] [--batch 64] ...``.

Both sides train the same architecture on the same batches, which lie in memory, on one device, in turns within one
process: ours is :func:`training.fit.fit`'s Trainer with all its callbacks, theirs ``open_clip_train``'s
``train_one_epoch`` with the optimizer and the schedule of its ``main``. Ours gets uint8 pixels and normalises them on
the device, theirs pixels that its loader has normalised already, which is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

from benchmarks.flops import tower_flops
from benchmarks.measure import describe_machine
from clipsift_common.clip import create_clip
from clipsift_common.machine import Machine
from clipsift_common.quiet import quiet_libraries
from clipsift_common.towers.text import TextLengths, encode_short
from training.economy.texts import GroupedTexts
from training.fit import make_fit_trainer
from training.guard import Guard
from training.loading.loader import GlobalBatchLoader
from training.loading.transform import normalise
from training.loss import contrastive_loss
from training.metrics import Metrics
from training.model import CLIPModule
from training.schedule import parameter_groups
from training.supervisor import Supervisor

# What the loop itself costs shows best where the model costs nothing; a small one is what a CPU may really train.
ARCHITECTURES = {
    "tiny": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2},
    },
    "small": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "patch_size": 16, "head_width": 64},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
    },
}
PRECISIONS = {"fp32": "32-true", "amp": "16-mixed", "amp_bf16": "bf16-mixed"}  # open_clip's word: Lightning's
# FLOP/s of dense half-precision products in the makers' data sheets.
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
SKIPPED = 3  # steps at the start of each turn that are not counted: memory is obtained, kernels are chosen


class Batches(Dataset):
    """A few batches in memory, over and over; what a GlobalBatchLoader reads, without the reading."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = [{name: batch[name] for name in batch if name != "pixels"} for batch in batches]
        self.order = SimpleNamespace(fingerprint=lambda index: "in memory")
        self.index = None

    def __getitem__(self, step: int) -> tuple[dict[str, Any], list[Any]]:
        return dict(self.batches[step % len(self.batches)]), []


class Clock:
    """Seconds per step, from the moments at which the batches were asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.asked = device, list[float]()

    def tick(self) -> None:
        if self.device.type == "cuda" and len(self.asked) <= SKIPPED:
            torch.cuda.synchronize()
        self.asked.append(time.perf_counter())

    def seconds(self) -> float:
        """Per step, between the ``SKIPPED``th and the last asking; the device is waited for at the end."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.asked[-1] = time.perf_counter()
        counted = self.asked[SKIPPED:]
        return (counted[-1] - counted[0]) / (len(counted) - 1)


class TimedLoader(GlobalBatchLoader):
    clock: Clock

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = super().__iter__()
        while True:
            self.clock.tick()
            if (batch := next(batches, None)) is None:
                return
            yield batch


def ours(
    module: CLIPModule,
    batches: list[dict[str, Any]],
    options: argparse.Namespace,
    watching: Sequence[L.Callback] = (),
) -> float:
    """Seconds per step of a fresh run of ours."""
    device = torch.device(options.device)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    machine = Machine(accelerator, 1, precision=PRECISIONS[options.precision])
    loader = TimedLoader(Batches(batches), options.steps, workers=0)  # type: ignore[arg-type]
    loader.clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard(Path(folder), max_skipped=0)
        supervisor = Supervisor(Path(folder), {}, 1.0, every_steps=(10**9,), every_minutes=1e9, guard=guard)
        metrics = Metrics(Path(folder) / "metrics.csv", options.batch, supervisor)
        trainer = make_fit_trainer(machine, False, [guard, metrics, supervisor, *watching], {"log_every_n_steps": 100})
        supervisor._save = lambda trainer: None  # type: ignore[method-assign]  # theirs saves outside of its loop too
        trainer.fit(module, train_dataloaders=loader)
    return loader.clock.seconds()


def theirs(clip: torch.nn.Module, batches: list[dict[str, Any]], options: argparse.Namespace) -> float:
    """Seconds per step of open_clip's ``train_one_epoch`` on the same batches."""
    clock = Clock(torch.device(options.device))

    class Loader:
        num_batches, num_samples = options.steps, options.steps * options.batch

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for step in range(options.steps):
                clock.tick()
                batch = batches[step % len(batches)]
                yield batch["pixels"], batch["text"]
            clock.tick()

    arguments = SimpleNamespace(
        device=options.device, precision=options.precision, distill=False, accum_freq=1, skip_scheduler=False,
        horovod=False, grad_clip_norm=None, log_every_n_steps=100, rank=0, local_rank=0, world_size=1, wandb=False,
        batch_size=options.batch, save_logs=False, log_local=False,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(parameter_groups(clip, 0.2), lr=1e-4, betas=(0.9, 0.98), eps=1e-6)
    scaler = torch.amp.GradScaler(device=options.device) if options.precision == "amp" else None
    data = {"train": SimpleNamespace(set_epoch=lambda epoch: None, dataloader=Loader())}
    schedule = cosine_lr(optimizer, 1e-4, 10, options.steps)
    train_one_epoch(clip, data, contrastive_loss(0, 1), 0, optimizer, scaler, schedule, None, arguments)
    return clock.seconds()


def caption_lengths(size: int, context: int, generator: torch.Generator) -> torch.Tensor:
    """(size,) positions of made-up captions, start and end of text among them.

    Log-normal, about 20 on average and up to the whole context of 77, as alt texts have; others in proportion.
    """
    lengths = (torch.randn(size, generator=generator) * 0.6 + math.log(17)).exp() * context / 77
    return lengths.round().long().clamp(3, context)


def make_batches(module: CLIPModule, size: int, context: int, pin: bool) -> list[dict[str, Any]]:
    """Two batches of noise: what we get (image), what open_clip gets (pixels), and the same captions for both."""
    generator, batches = torch.Generator().manual_seed(0), []
    height, width = module.clip.visual.preprocess_cfg["size"]
    for _ in range(2):
        image = torch.randint(0, 256, (size, 3, height, width), dtype=torch.uint8, generator=generator)
        text = torch.randint(1, 49406, (size, context), generator=generator)
        lengths = caption_lengths(size, context, generator)
        text[torch.arange(context) >= lengths[:, None]] = 0
        text[torch.arange(size), lengths - 1] = 49407  # end of text: the largest id, where open_clip reads the feature
        pixels = normalise(image, module.mean.cpu(), module.std.cpu())
        batch = {"image": image, "text": text, "uid": torch.zeros(size, 2, dtype=torch.int64), "pixels": pixels}
        here: dict[str, Any] = {name: tensor.pin_memory() if pin else tensor for name, tensor in batch.items()}
        batches.append(here | {"text_lengths": TextLengths(lengths.numpy())})
    return batches


def step_flops(model: str, positions: Mapping[int, int]) -> float:
    """FLOP of forward and backward for one pair on average, over captions encoded in so many positions: how many are.

    Recomputation is not counted; the loss's product is left out.
    """
    image, _ = tower_flops(model)
    text = 0.0
    with torch.device("meta"):
        clip: Any = create_clip(model, device="meta")
        for length, number in positions.items():
            with FlopCounterMode(display=False) as counter:
                encode_short(clip, torch.zeros(1, length, dtype=torch.long))
            text += counter.get_total_flops() * number
    return 3 * (image + text / sum(positions.values()))


def product_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a bare square matrix product in the type that the model's products have."""
    size = 8192 if device.type == "cuda" else 1024
    kind = {"fp32": torch.float32, "amp": torch.float16, "amp_bf16": torch.bfloat16}[precision]
    a, b = torch.randn(2, size, size, device=device).to(kind)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(5):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 5)
    return 2 * size**3 / best


class Comparison:
    """Both sides, made once: :meth:`best_seconds` runs them in turns."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        quiet_libraries()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as open_clip's main
        with tempfile.TemporaryDirectory() as folder:
            name = options.model
            if name in ARCHITECTURES:
                path = Path(folder) / f"{name}.json"
                path.write_text(json.dumps(ARCHITECTURES[name]))
                name = str(path)
            checkpointing = "selective" if options.selective else options.grad_checkpointing
            trims = not options.whole_contexts
            how = {"grad_checkpointing": checkpointing, "trim_text": trims, "compile": options.compile}
            self.module = CLIPModule(name, lr=1e-4, warmup=10, **how)
            context = int(self.module.clip.context_length)
            self.batches = make_batches(self.module, options.batch, context, pin=options.device.startswith("cuda"))
            self.flops = step_flops(name, self._positions() if trims else {context: 1})
            self.whole_flops = step_flops(name, {context: 1})
            torch.manual_seed(0)
            self.clip = create_clip(name, output_dict=True).to(options.device)
        self.clip.set_grad_checkpointing(options.grad_checkpointing)  # type: ignore[operator]
        if options.compile:
            self.clip.compile()
        self.peak = 0  # bytes of ours on a GPU

    def _positions(self) -> dict[int, int]:
        text, lengths = (self.batches[0][name] for name in ("text", "text_lengths"))
        groups = GroupedTexts.of(text, torch.from_numpy(lengths.values)).groups
        return {group.shape[1]: len(group) for group in groups}

    def _ours(self) -> float:
        """In whose peak open_clip's weights and the batches that lie there are, which is a constant little."""
        if self.options.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = ours(self.module, self.batches, self.options)
        if self.options.device.startswith("cuda"):
            self.peak = torch.cuda.max_memory_allocated()
        return seconds

    def best_seconds(self) -> dict[str, float]:
        """Seconds of each side's fastest step on average of a turn."""
        sides: dict[str, Callable[[], float]] = {
            "ours": self._ours,
            "open_clip": lambda: theirs(self.clip, self.batches, self.options),
        }
        best = dict.fromkeys(sides, float("inf"))
        for _ in range(self.options.turns):
            for side, run in sides.items():
                best[side] = min(best[side], run())
        return best

    def bare_rate(self) -> float:
        """FLOP/s of a bare product in the precision of the steps."""
        return product_rate(torch.device(self.options.device), self.options.precision)


def report(best: dict[str, float], comparison: Comparison) -> None:
    options = comparison.options
    work = {"ours": comparison.flops, "open_clip": comparison.whole_flops}
    device, bare = torch.device(options.device), comparison.bare_rate()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = next((value for key, value in PEAKS.items() if key in name), None) if options.precision != "fp32" else None
    per_pair = ", ".join(f"{side} {flops / 1e9:.3f} G" for side, flops in work.items())
    print(f"FLOP per pair: {per_pair}; bare product on {name}: {bare / 1e12:.3f} TFLOP/s")
    for side, seconds in best.items():
        used = work[side] * options.batch / seconds
        share = f"{used / bare:.1%} of the bare product" + (f", {used / peak:.1%} of the data sheet" if peak else "")
        print(f"{side:10} {1 / seconds:9.2f} steps/s  {seconds * 1e3:9.2f} ms  {used / 1e12:.4f} TFLOP/s ({share})")
    print(f"ours / open_clip: {best['open_clip'] / best['ours']:.3f} x")


def step_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What is compared, from the command line or from ``arguments``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="small", help="tiny, small, an open_clip name or a JSON architecture")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60, help="per turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--grad-checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--selective", action="store_true", help="ours recomputes all but products and attention")
    parser.add_argument("--whole-contexts", action="store_true", help="ours encodes captions with all their padding")
    parser.add_argument("--compile", action="store_true", help="on both sides")
    return parser.parse_args(arguments)


def main() -> None:
    options = step_options()
    comparison = Comparison(options)
    print(describe_machine())
    print(
        f"{options.model}, batch {options.batch}, {options.precision}, {options.turns} turns of {options.steps} steps"
    )
    report(comparison.best_seconds(), comparison)


if __name__ == "__main__":
    main()
