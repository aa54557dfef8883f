"""What is fetched from the Hugging Face hub: whether it can be, found out in seconds instead of after many retries."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from clipsift_common.errors import ClipsiftError

PATIENCE = 5.0  # seconds
_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "open_clip_config.json")  # any says it was fetched


def require_on_hand(what: str, repository: str) -> None:
    """Raise :class:`ClipsiftError` when ``repository`` is neither a folder, nor in the cache, nor to be fetched."""
    if Path(repository).is_dir() or not use_cache_if_unreachable():
        return
    if not any(isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) for name in _FILES):
        raise ClipsiftError(
            f"{what}: {repository} is on the Hugging Face hub, which cannot be reached from here, and not in its "
            f"cache {constants.HF_HUB_CACHE}; where there is a network: hf download {repository}"
        )


@cache
def use_cache_if_unreachable() -> bool:
    """Whether the hub is out of reach; from then on this process takes what is in its cache and asks nobody."""
    if not constants.HF_HUB_OFFLINE:
        constants.HF_HUB_OFFLINE = not _answers()
    return constants.HF_HUB_OFFLINE


def _answers() -> bool:
    answered = threading.Event()

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            answered.set()
        except Exception:  # of any HTTP library: whatever it is, there was no answer
            return

    asking = threading.Thread(target=ask, daemon=True)  # a thread: nothing else bounds the look-up of a name
    asking.start()
    asking.join(PATIENCE)
    return answered.is_set()
