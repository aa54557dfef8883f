"""Functions of tensors that take numpy arrays as well: tensors in, tensors out; arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def on_arrays(function: Callable[P, R]) -> Callable[P, R]:
    """Let ``function``, which works on tensors, take numpy arrays; its results are arrays then, on the CPU.

    Arrays keep their dtype, except those torch does not know: another byte order becomes this machine's, a float
    wider than 64 bits becomes float64.
    """

    @wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        if not any(isinstance(value, np.ndarray) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        values: Any = [to_tensor(value) for value in args]
        named: Any = {name: to_tensor(value) for name, value in kwargs.items()}
        return to_array(function(*values, **named))

    return either


def on_tensors(function: Callable[P, R]) -> Callable[P, R]:
    """Let ``function``, which works on numpy arrays, take tensors; its results are CPU tensors then."""

    @wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        if not any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        values: Any = [to_array(value) for value in args]
        named: Any = {name: to_array(value) for name, value in kwargs.items()}
        return to_tensor(function(*values, **named))

    return either


def to_tensor(value: Any) -> Any:
    """A tensor over the same memory, if that can be, for an array; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    value = native(value)
    if min(value.strides, default=0) < 0 or not value.flags.writeable:
        value = value.copy()  # torch has no negative strides and warns of memory that it must not write to
    return torch.from_numpy(value)


def native(array: np.ndarray) -> np.ndarray:
    """``array`` in this machine's byte order, floats of more than 64 bits as float64."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def to_array(value: Any) -> Any:
    """An array for a tensor, a tuple of them for a tuple; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(to_array(part) for part in value)
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
