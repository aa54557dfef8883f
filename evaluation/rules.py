"""The words that say how scores are made."""

from __future__ import annotations

from typing import Literal

Rules = Literal["leaderboard", "corrected"]
"""``leaderboard``: as the published numbers were made; ``corrected``: without the reference's defects (CLEVR Distance's
blank class, FMoW's region "Other")."""

Precision = Literal["fp32", "amp"]
"""``amp``: 16-bit towers (float16 on a GPU, bfloat16 on a CPU); features are compared in float32 in either case."""
