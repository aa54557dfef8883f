"""A CLIP's two towers as the evaluation uses them: normalised float32 features, texts shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipsift_common.batches.pixels import Preprocess
from clipsift_common.clip import LoadedCLIP
from clipsift_common.distributed import gather_objects, rank, world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import Progress
from evaluation.rules import Precision
from evaluation.text_tower import TextTower

TEXT_WINDOW = 4096  # texts tokenised and sorted by length at once
MANY_PROMPTS = 10_000  # from here on they get a line of their own on the terminal


class Encoder:
    """Encodes images and texts with one CLIP.

    Args:
        clip: its model's parameters say where to compute; they may be moved between calls.
        precision: with ``amp`` the towers run under autocast; features are normalised in float32 all the same.
    """

    def __init__(self, clip: LoadedCLIP, precision: Precision) -> None:
        self.model, self.tokenizer = clip.model, clip.tokenizer
        self._preprocess = Preprocess(clip.preprocess)
        self._text_tower = TextTower(clip.model)
        self.amp = precision == "amp"
        self._class_features: dict[tuple[tuple[str, ...], str], Tensor] = {}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def images(self, pixels: Tensor, amp: bool = True) -> Tensor:
        """(n, 3, h, w) images of the loader -> (n, d) features. ``amp=False``: float32 even if the precision is amp."""
        with self._autocast(amp):
            features = self.model.encode_image(self._preprocess.device(pixels).to(self.dtype))  # type: ignore[operator]
        return normalize(features.float(), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, d) features of ``texts``, in their order. All ranks must call it with the same texts.

        Equal texts get equal features to the last bit, so that ties between them are ties everywhere.
        """
        unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        features = self._share(list(unique), self._texts_here)
        _check_finite(features, list(unique))
        return features[[unique[text] for text in texts]]

    def class_features(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """(c, d) features of classes: each prompt normalised, averaged over the templates, normalised again.

        Kept for the next task that has the same class under the same templates. All ranks must call it alike.
        """
        key = tuple(templates)
        missing = [name for name in dict.fromkeys(names) if (key, name) not in self._class_features]
        if missing:
            features = self._share(missing, lambda mine: self._classes_here(mine, templates))
            _check_finite(features, missing)
            self._class_features.update({(key, name): row for name, row in zip(missing, features)})
        return torch.stack([self._class_features[key, name] for name in names])

    def _classes_here(self, names: list[str], templates: Sequence[str]) -> Tensor:
        at_once = max(1, TEXT_WINDOW // len(templates))
        means = []
        progress = Progress("class prompts", len(names) * len(templates), "prompts")
        for start in range(0, len(names), at_once):
            prompts = [
                template.replace("{c}", name) for name in names[start : start + at_once] for template in templates
            ]
            means.append(self._texts_here(prompts).unflatten(0, (-1, len(templates))).mean(1))
            progress.advance(len(prompts))
        if progress.done > MANY_PROMPTS:
            progress.close()
        return normalize(torch.cat(means), dim=-1)

    def _texts_here(self, texts: list[str]) -> Tensor:
        windows = []
        for start in range(0, len(texts), TEXT_WINDOW):
            window = texts[start : start + TEXT_WINDOW]
            with self._autocast(True):
                rows, features = zip(*self._text_tower.encode(self.tokenizer(window)))
            encoded = normalize(torch.cat(features).float(), dim=-1)
            windows.append(torch.empty_like(encoded).index_copy_(0, torch.cat(rows).to(encoded.device), encoded))
        return torch.cat(windows)

    def _share(self, items: list[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
        """``encode`` every item on one rank; the results on all of them, in order."""
        mine = items[rank() :: world_size()]
        parts = gather_objects(encode(mine).cpu() if mine else None)
        features = torch.empty(len(items), next(part.shape[1] for part in parts if part is not None))
        for number, part in enumerate(parts):
            if part is not None:
                features[number :: world_size()] = part
        return features.to(self.device)

    def _autocast(self, wanted: bool) -> torch.autocast:
        kind = self.device.type
        return torch.autocast(kind, torch.float16 if kind == "cuda" else torch.bfloat16, enabled=self.amp and wanted)


def _check_finite(features: Tensor, texts: list[str]) -> None:
    finite = features.isfinite().all(dim=1).tolist()
    if not all(finite):
        raise ClipsiftError(
            f"the text features of {texts[finite.index(False)]!r} are not finite; the weights are broken"
        )
