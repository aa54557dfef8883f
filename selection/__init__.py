"""Pool -> features -> scores -> subset: which image-text pairs to train on."""

from typing import TYPE_CHECKING

from clipsift_common.lazy import lazy_names

if TYPE_CHECKING:
    from selection.features.arrays import Arrays as Arrays
    from selection.kernels.logsumexp import contrastive_normaliser as contrastive_normaliser
    from selection.methods.clipcov import clipcov as clipcov
    from selection.methods.hard_cap_sampling import hard_cap_sampling as hard_cap_sampling
    from selection.methods.semdedup import semdedup as semdedup
    from selection.methods.soft_cap_sampling import soft_cap_sampling as soft_cap_sampling
    from selection.methods.vas_d import vas_d as vas_d
    from selection.pool.index import PoolIndex as PoolIndex
    from selection.pool.location import Pool as Pool
    from selection.runner import Recipe as Recipe
    from selection.scores.clip_score import clip_score as clip_score
    from selection.scores.normsim import normsim as normsim
    from selection.scores.s_cliploss import s_cliploss as s_cliploss
    from selection.scores.vas import second_moment as second_moment, vas as vas
    from selection.selector import Selector as Selector
    from selection.settings import Selection as Selection
    from selection.subset import Subset as Subset

_HOMES = {
    "Arrays": "selection.features.arrays",
    "Pool": "selection.pool.location",
    "PoolIndex": "selection.pool.index",
    "Recipe": "selection.runner",
    "Selection": "selection.settings",
    "Selector": "selection.selector",
    "Subset": "selection.subset",
    "clip_score": "selection.scores.clip_score",
    "clipcov": "selection.methods.clipcov",
    "contrastive_normaliser": "selection.kernels.logsumexp",
    "hard_cap_sampling": "selection.methods.hard_cap_sampling",
    "normsim": "selection.scores.normsim",
    "s_cliploss": "selection.scores.s_cliploss",
    "second_moment": "selection.scores.vas",
    "semdedup": "selection.methods.semdedup",
    "soft_cap_sampling": "selection.methods.soft_cap_sampling",
    "vas": "selection.scores.vas",
    "vas_d": "selection.methods.vas_d",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
