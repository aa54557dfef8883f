"""A trained model on the Hugging Face Hub, where ``hf-hub:USER/NAME`` names it to open_clip."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi

from clipsift_common.errors import ClipsiftError, first_line


def push_model(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a model folder; made if it is not there, and left alone where it holds these files already.

    Args:
        folder: what :func:`training.export.export_model` wrote.
        repository: ``user/name``.
        private: of a repository that is made now.

    Returns:
        The commit's address. Address and token of the hub are the library's: ``HF_ENDPOINT``, ``HF_TOKEN``.

    Raises:
        ClipsiftError: when the hub cannot be reached or refuses; the folder stays, and the same command pushes again.
    """
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Weights trained with clipsift"
        )
    except Exception as error:  # requests, httpx or httpx2 raise their own, whichever the hub's package is built on
        raise ClipsiftError(
            f"hub: {repository} cannot be written ({first_line(error)}); "
            f"the model is in {folder}, start again to push it"
        ) from error
    return str(commit)
