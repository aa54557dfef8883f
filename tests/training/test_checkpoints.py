"""A run resumes from the checkpoint that was written, or says that it is another."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from training.checkpoints import check_settings, stamp_settings


@pytest.mark.parametrize("part", ["weights", "optimizer"])
def test_a_flipped_bit_is_refused(tmp_path: Path, part: str) -> None:
    checkpoint = {"weights": torch.ones(5000), "optimizer": {"moment": torch.ones(300)}}
    stamp_settings(checkpoint, {"a": 1})
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint, path)
    check_settings(path, {"a": 1})
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo(f"last/data/{['weights', 'optimizer'].index(part)}")
    content = bytearray(path.read_bytes())
    content[record.header_offset + 200] ^= 8
    path.write_bytes(content)
    with pytest.raises(ClipsiftError, match=r"last\.ckpt: is no checkpoint .*; delete it to train from the start"):
        check_settings(path, {"a": 1})
