"""VAS, the variance alignment score (Wang et al. 2024, arXiv 2402.02055): <target's second moment, x_i y_i^T>.

Images work best of its three forms: image and image (visual), text and text, image and text (cross). The moment is
uncentred. With a visual target of t images, NormSim_2 = sqrt(t VAS): they rank alike.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from clipsift_common.errors import ClipsiftError
from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_features, check_same_shape, check_same_width
from selection.kernels.moments import gram, quadratic
from selection.registry import FeatureBlock, register
from selection.scores.normsim import kept_gram


@on_arrays
def second_moment(a: Tensor, b: Tensor | None = None) -> Tensor:
    """(d, d) float32 mean over rows of the outer products ``a_i b_i^T`` (``b`` defaults to ``a``), uncentred.

    ``a`` and ``b`` are (n, d). Raises ValueError if there are no rows, the shapes differ, or a row is not finite.
    """
    if len(a) == 0:
        raise ValueError("a has no rows")
    return gram(a, b) / len(a)


@on_arrays
def vas(features: Tensor, moment: Tensor, other: Tensor | None = None) -> Tensor:
    """(n,) float32 ``x_i^T moment y_i`` for the rows x of ``features`` (n, d) and y of ``other``, by default x too.

    ``moment`` is (d, d), from :func:`second_moment` of the target (its rows go with ``features``, its columns with
    ``other``). Raises ValueError if shapes do not fit or a row is not finite.
    """
    check_features(features)
    if other is not None:
        check_same_shape(features, other, "features", "other")
        check_features(other, "other")
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1]:
        raise ValueError(f"moment: expected a square matrix, got {tuple(moment.shape)}")
    check_same_width(features, moment, "moment")
    return quadratic(features, moment, other)


Kind = Literal["visual", "text", "cross"]


def _check_kind(kind: Kind = "visual", target: str | None = None, target_text: str | None = None) -> None:
    for option, value, kinds in (("target", target, "visual cross"), ("target_text", target_text, "text cross")):
        if (value is not None) != (kind in kinds.split()):
            raise ClipsiftError(f"score vas: kind {kind} {'takes no' if value else 'needs'} {option}")


@register("vas", rule=_check_kind)
def vas_column(
    block: FeatureBlock,
    kind: Kind = "visual",
    target: str | None = None,
    target_text: str | None = None,
) -> Tensor:
    """``target`` names image features (visual, cross), ``target_text`` text features (text, cross)."""
    image = block.target(target) if target is not None else None
    text = block.target(target_text) if target_text is not None else None
    if image is not None and text is not None:
        return vas(block.image, second_moment(image, text), block.text)
    if image is not None:
        return vas(block.image, kept_gram(image) / len(image))
    assert text is not None
    return vas(block.text, kept_gram(text) / len(text))
