"""Pool -> features -> scores -> subset: which image-text pairs to train on."""

from selection.kernels.logsumexp import contrastive_normaliser
from selection.methods.clipcov import clipcov
from selection.methods.semdedup import semdedup
from selection.methods.soft_cap_sampling import soft_cap_sampling
from selection.methods.vas_d import vas_d
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.runner import Recipe
from selection.scores.clip_score import clip_score
from selection.scores.normsim import normsim
from selection.scores.s_cliploss import s_cliploss
from selection.scores.vas import second_moment, vas
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset

__all__ = [
    "Pool",
    "PoolIndex",
    "Recipe",
    "Selection",
    "Selector",
    "Subset",
    "clip_score",
    "clipcov",
    "contrastive_normaliser",
    "normsim",
    "s_cliploss",
    "second_moment",
    "semdedup",
    "soft_cap_sampling",
    "vas",
    "vas_d",
]
