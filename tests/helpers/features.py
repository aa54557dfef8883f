"""Random features of unit length."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize


def unit_rows(num: int, width: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    """(num, width) float32; a ``shift`` of all numbers makes the rows lie in a cone, as real features do."""
    return normalize(torch.randn(num, width, generator=torch.Generator().manual_seed(seed)) + shift, dim=1)


def unit_array(rng: np.random.Generator, num: int, width: int) -> np.ndarray:
    """(num, width) float32, out of a numpy generator."""
    features = rng.normal(size=(num, width)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def image_text_pairs(num: int, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(num, width) image and text features; a text is its image and noise."""
    generator = torch.Generator().manual_seed(seed)
    image = normalize(torch.randn(num, width, generator=generator), dim=1)
    return image, normalize(image + 0.5 * torch.randn(num, width, generator=generator), dim=1)
