"""Pool -> features -> scores -> subset: which image-text pairs to train on."""

from selection.config import Selection
from selection.index import PoolIndex
from selection.logsumexp import contrastive_normaliser
from selection.pool import Pool
from selection.recipe import Recipe
from selection.scores.clip_score import clip_score
from selection.scores.normsim import normsim
from selection.scores.s_cliploss import s_cliploss
from selection.scores.vas import second_moment, vas
from selection.select import Selector
from selection.subset import Subset
from selection.subsets.clipcov import clipcov
from selection.subsets.semdedup import semdedup
from selection.subsets.soft_cap_sampling import soft_cap_sampling
from selection.subsets.vas_d import vas_d

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
