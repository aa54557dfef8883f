"""What a machine does to a program is one line, that is said also where stderr cannot be written."""

from __future__ import annotations

import errno
import logging
import os
import sys

import pytest
import torch

from clipsift_app.program import _Log
from clipsift_common.errors import expected, is_out_of_memory, say_error


def test_memory_that_was_not_enough() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    for error in (
        caught.value,
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),  # of a fork
    ):
        assert is_out_of_memory(error), error
        line = expected(error)
        assert line is not None
        assert line.startswith("out of memory (")
        assert "\n" not in line
    for other in (RuntimeError("CUDA error: an illegal memory access was encountered"), FileNotFoundError("memory")):
        assert not is_out_of_memory(other)
        assert expected(other) is None


def test_a_full_disk_is_named_by_its_file_or_by_where_the_output_goes() -> None:
    reason = os.strerror(errno.ENOSPC)
    line = expected(OSError(errno.ENOSPC, reason, "run/metrics.csv"))
    assert line == f"run/metrics.csv: cannot be written ({reason}); the same command resumes"
    unnamed = expected(OSError(errno.ENOSPC, reason))
    assert unnamed is not None
    assert os.readlink("/proc/self/fd/2") in unnamed


def test_last_words_go_where_they_can(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as err, open("/dev/full", "w") as out:  # each write says: no space left
        monkeypatch.setattr(sys, "stderr", err)
        say_error("the disk is full", rank=1)
        assert capsys.readouterr().out == "clipsift: error: rank 1: the disk is full\n"
        monkeypatch.setattr(sys, "stdout", out)
        say_error("the disk is full")
        monkeypatch.undo()
        for stream in (err, out):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # so that they can be closed


def test_a_log_that_cannot_be_written_is_no_secret() -> None:
    with open("/dev/full", "w") as full:
        with pytest.raises(OSError, match="No space left"):
            _Log(full).handle(logging.LogRecord("clipsift", logging.INFO, "", 0, "a line", None, None))
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
