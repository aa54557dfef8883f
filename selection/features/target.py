"""The images that NormSim and VAS compare with: a target's features, made once and kept by teacher and source."""

from __future__ import annotations

import logging
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipsift_common.clip import LoadedCLIP
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import fingerprint, read_json, save_array, wait_for
from clipsift_common.images import DECODING, IMAGE_EXTENSIONS, ImageError, pair_image
from clipsift_common.pretrained.torch_files import read_torch
from clipsift_common.progress import track
from clipsift_common.tar_samples import TarReader
from selection.features.embed import embed_images
from selection.kernels.arrays import native
from selection.pool.location import Pool
from selection.pool.packed.shards import is_packed
from selection.samples.parts import ending_in

TRUSTED = "trusted"  # the target's name for the shards given as --trusted
NOTE_NAME = "target.json"  # beside a target of several sets: whose features they are, and which files belong to it
_TORCH = (".pt", ".pth")
_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)
logger = logging.getLogger("clipsift")

_FILES = (".npy", ".npz", *_TORCH)
_PICTURES = tuple(f"*.{extension}" for extension in IMAGE_EXTENSIONS)


def load_target(
    source: str,
    clip: LoadedCLIP | None,
    name: str | None,
    cache: Path,
    device: torch.device,
    trusted: str | None = None,
) -> torch.Tensor:
    """(t, d) image features of a target, in the dtype that their files have (float32 if we make them here).

    A collective call.

    Args:
        source: ``trusted``; a ``.npy`` or ``.pt`` of (t, d) features; a ``.npz`` in metadata layout (array
            ``{name}_img``) or with a single array; a folder of such files (concatenated in name order); a folder of
            shards or of pictures.
        clip: the teacher, for sources of pictures.
        name: the feature columns' prefix.
        device: where pictures are encoded.
        trusted: where the trusted shards are.

    Raises:
        ClipsiftError: for a source that does not exist, cannot be read, or needs a teacher that is not there.
    """
    if source == TRUSTED:
        if trusted is None:
            raise ClipsiftError("target: trusted needs --trusted DIR")
        source = trusted
    path = Path(source)
    files = on_rank_zero(lambda: _files(path))
    parts = [_from_file(file, name) for file in files] if files else [_embedded(path, clip, cache, device)]
    if len({part.shape[1] for part in parts}) > 1:
        raise ClipsiftError(f"target: the files of {source} differ in width {[part.shape[1] for part in parts]}")
    features = np.concatenate(parts)
    if not len(features):
        raise ClipsiftError(f"target: {source} has no features, or no picture that can be read; give another")
    return torch.from_numpy(features)


def _files(path: Path) -> list[Path]:
    """The files of features that a target consists of; none for a folder of pictures or shards."""
    if not path.exists():
        raise ClipsiftError(f"target: {path} does not exist (give trusted, a .npy, a .npz, or a folder)")
    files = [path] if path.is_file() else sorted(file for kind in _FILES for file in path.glob(f"*{kind}"))
    if (path / NOTE_NAME).is_file():
        missing = set(read_json(path / NOTE_NAME)["files"]) - {file.name for file in files}
        if missing:
            raise ClipsiftError(f"target: {path} lacks {', '.join(sorted(missing))}; let clipsift target finish")
    return files


def _from_file(path: Path, name: str | None) -> np.ndarray:
    try:
        loaded = _torch_file(path) if path.suffix in _TORCH else _numpy_file(path, name)
    except _UNREADABLE as error:
        raise ClipsiftError(f"target: {path} cannot be read ({first_line(error)}); make or fetch it again") from error
    if loaded.ndim != 2 or not np.issubdtype(loaded.dtype, np.floating):
        raise ClipsiftError(
            f"target: {path} is {loaded.ndim}-D {loaded.dtype}, not (images, features) of floats; make it again"
        )
    return native(loaded)


def _numpy_file(path: Path, name: str | None) -> np.ndarray:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        key = f"{name}_img" if f"{name}_img" in loaded.files or not loaded.files else loaded.files[0]
        if key != f"{name}_img" and len(loaded.files) > 1:
            raise ClipsiftError(
                f"target: {path} has no array {name}_img (it has {', '.join(loaded.files)}); give one that has"
            )
        return loaded[key]


def _torch_file(path: Path) -> np.ndarray:
    """The one tensor of a file of torch's, such as DataComp's ``in1k_clip_vit_l14_0.pt``; nothing else is unpickled."""
    loaded = read_torch(path)
    if isinstance(loaded, dict) and len(loaded) == 1:
        loaded = next(iter(loaded.values()))
    if not isinstance(loaded, torch.Tensor):
        raise ValueError(f"it holds a {type(loaded).__name__}, not one tensor")
    return (loaded.float() if loaded.dtype == torch.bfloat16 else loaded).numpy()


def _embedded(folder: Path, clip: LoadedCLIP | None, cache: Path, device: torch.device) -> np.ndarray:
    """Features of the pictures in a folder; rank 0 makes them, the others read its file."""
    if clip is None:
        raise ClipsiftError(f"target: {folder} holds pictures, and without a teacher only features can be used")
    path = Path(on_rank_zero(lambda: str(_embed_once(folder, clip, cache, device))))
    wait_for(path)
    return np.load(path, allow_pickle=False)


def _embed_once(folder: Path, clip: LoadedCLIP, cache: Path, device: torch.device) -> Path:
    """The file of the folder's features, made now unless it is there."""
    content = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.rglob("*"))]
    path = cache / "targets" / f"{fingerprint([clip.identity, str(folder.resolve()), content, DECODING])}.npy"
    if not path.is_file():
        features = embed_images(clip, track(pictures(folder), "embed target", unit="images"), device)
        write_features(path, features)
    return path


def write_features(path: Path, features: np.ndarray) -> None:
    """Write (n, d) ``features`` as a target file, atomically."""
    save_array(path, features)


def pictures(folder: Path) -> Iterator[Image.Image]:
    """The pictures of a folder's files, or of its shards; those that are broken or end early are left out, and counted
    in the log."""
    files = sorted(file for pattern in _PICTURES for file in folder.rglob(pattern))
    seen, broken = 0, list[str]()
    for name, blob in ((str(file), file.read_bytes()) for file in files) if files else _from_shards(folder):
        seen += 1
        try:
            yield pair_image(blob)
        except ImageError as error:
            broken.append(f"{name}, {error.cause}")
    if broken:
        text = "target: %s: %s of %s pictures are left out (first: %s)"
        logger.warning(text, folder, f"{len(broken):,}", f"{seen:,}", broken[0])


def _from_shards(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each picture."""
    for shard in Pool(str(folder)).shards:
        if is_packed(shard.url):
            raise ClipsiftError(f"target: {shard.url} is packed; give a folder of pictures or of plain tars")
        with open(shard.url, "rb") as handle:
            reader = TarReader(handle, IMAGE_EXTENSIONS)
            for sample in reader:
                images = sample.parts.values() or ending_in(sample, IMAGE_EXTENSIONS)
                yield from ((f"{shard.url} {image.name}", reader.read(image)) for image in images)
        if reader.truncated:
            raise ClipsiftError(f"target: {shard.url} is damaged ({reader.truncated}); fetch it again")
