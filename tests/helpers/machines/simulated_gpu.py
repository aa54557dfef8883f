"""A GPU that is not there: tensors with values on the CPU that say they are on ``cuda:3``.

Inside :class:`SimulatedGPU` what is made or sent there stays there; mixing it with tensors of the CPU, or meaning
another GPU, raises :class:`WrongDevice`; and what a GPU would have to do is counted: ``launches``, the operations that
are work, and ``synchronisations``, the places at which the program would wait for it. What streams do is seen by
``streams`` (:mod:`helpers.machines.simulated_streams`). What it cannot show is time, and whether memory that is sent
without blocking is pinned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from helpers.machines.simulated_streams import Memory, Stream, Streams
from helpers.program import REPOSITORY

DEVICE = torch.device("cuda", 3)
QUEUE = 1024  # launches that a CUDA stream takes before the program has to wait for the first
_META = torch.device("meta")  # what such tensors are to torch's core, which then asks nothing of a driver

_WAITS = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "repeat_interleave",
}  # fmt: skip
_NO_WORK = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
    "_local_scalar_dense",
}  # fmt: skip
_MAY_MIX = ("copy_", "_to_copy", "set_")  # moves; everything else wants its tensors in one place


class WrongDevice(RuntimeError):
    """An operation on tensors that are not all on the simulated GPU, or one that means another GPU."""


class Simulated(Tensor):
    """Values on the CPU in a tensor that is on :data:`DEVICE`."""

    values: Tensor
    memory: Memory | None = None  # of a tensor that was not made in the main stream

    @staticmethod
    def __new__(cls, values: Tensor) -> Simulated:
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=_META,
        )  # fmt: skip
        made.values = values.detach()
        return made

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"Simulated({self.values!r})"

    def numpy(self, **_: Any) -> Any:
        raise WrongDevice(f"numpy() of a tensor on {DEVICE}")

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        if self.memory:
            self.memory.known.add(stream)

    def pin_memory(self, *_: Any) -> Any:
        raise WrongDevice(f"pin_memory() of a tensor on {DEVICE}")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise WrongDevice(f"{func} outside of the simulation")


def simulated(value: Any) -> Any:
    """A copy on the GPU: of a tensor, of all in a container, or a module's parameters and buffers, in place."""
    if not isinstance(value, torch.nn.Module):
        return tree_map(lambda leaf: Simulated(leaf.clone()) if isinstance(leaf, Tensor) else leaf, value)
    for part in value.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter, Simulated):
                moved = Simulated(parameter.detach().clone())
                part._parameters[name] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, Simulated):
                part._buffers[name] = Simulated(buffer.clone())
    return value


class SimulatedGPU(TorchDispatchMode):
    """Tensors on :data:`DEVICE` work in its block; afterwards it holds what was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[str] = []
        self.synchronisations: list[str] = []
        self.streams = Streams()
        self._devices = _Devices(self)
        # Its tensors are wrapped, and torch knows no wrapped tensors without a version.
        self._no_inference_mode = mock.patch("torch.inference_mode", torch.no_grad)
        self._events = mock.patch("torch.Event", partial(Event, self))

    def __enter__(self) -> SimulatedGPU:
        self._no_inference_mode.start()
        self.streams.patches.start()
        self._events.start()
        self._devices.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._devices.__exit__(*error)
        self.streams.patches.stop()
        self._events.stop()
        self._no_inference_mode.stop()

    def waits(self, what: str) -> None:
        """Note a synchronisation."""
        self.synchronisations.append(f"{what} at {_place()}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        ours = [leaf for leaf in leaves if isinstance(leaf, Simulated)]
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        arrives, leaves_us = device == _META, bool(ours) and device is not None and device != _META
        if ours:
            self._check(name, leaves)
        if arrives:
            kwargs["device"] = torch.device("cpu")
        if ours or arrives:
            self._count(func, name, args, kwargs, leaves_us)
        result = _emulated(func)(*tree_map(_values, args), **tree_map(_values, kwargs))
        if not (ours or arrives):
            return result
        if leaves_us:
            self.streams.started(name, ours, [])
            return result
        result = tree_map(lambda leaf: Simulated(leaf) if _is_plain(leaf) else leaf, result)
        self.streams.started(name, ours, [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Simulated)])
        if ours and any(argument.alias_info is not None for argument in func._schema.arguments):
            return return_and_correct_aliasing(func, args, kwargs, result)
        return result

    def _check(self, name: str, leaves: Sequence[Tensor]) -> None:
        if any(_is_plain(leaf) and leaf.ndim for leaf in leaves) and name not in _MAY_MIX:  # scalars may be anywhere
            where = ", ".join(f"{leaf.device} {tuple(leaf.shape)}" for leaf in leaves)
            raise WrongDevice(f"{name} mixes devices ({where}) at {_place()}")

    def _count(self, func: Any, name: str, args: Any, kwargs: dict[str, Any], leaves_us: bool) -> None:
        if not func.is_view and name not in _NO_WORK:
            self.launches.append(f"{name} at {_place()}")
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        crosses = name in ("copy_", "_to_copy") and (leaves_us or any(_is_plain(leaf) for leaf in args))
        blocks = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if name in _WAITS or by_mask or (crosses and blocks):
            self.waits(name)


class Event:
    """A place in the GPU's work. To wait for one is none when a whole queue of work has been launched behind it."""

    def __init__(self, gpu: SimulatedGPU, device: torch.device) -> None:
        assert device == DEVICE
        self.gpu = gpu

    def record(self) -> None:
        self.place = len(self.gpu.launches)

    def synchronize(self) -> None:
        if len(self.gpu.launches) - self.place < QUEUE:
            self.gpu.waits("synchronize")


class _Devices(TorchFunctionMode):
    """Says ``meta`` to torch where the program says :data:`DEVICE`."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        if func is Tensor.backward:
            with self:  # what is computed once more on the way back belongs to it too
                run: Any = torch.autograd.graph._engine_run_backward
                start = (args[0],), (torch.ones_like(args[0]),)
                return run(*start, False, False, (), allow_unreachable=True, accumulate_grad=True)
        if func is Tensor.pin_memory and not isinstance(args[0], Simulated):
            return args[0]  # there is nobody to pin it for
        if func is Tensor.tolist and isinstance(args[0], Simulated):
            self.gpu.waits("tolist")
            return args[0].values.tolist()
        if func is torch.tensor and kwargs.get("device") == DEVICE:
            self.gpu.waits("tensor")  # sent from memory that is not pinned
            return Simulated(torch.tensor(*args, **{key: value for key, value in kwargs.items() if key != "device"}))
        return func(*tree_map(_renamed, args), **tree_map(_renamed, kwargs))


def _renamed(value: Any) -> Any:
    """A device as torch's core is to see it."""
    if isinstance(value, str) and value.split(":")[0] == "cuda":
        value = torch.device(value)
    if not isinstance(value, torch.device) or value.type != "cuda":
        return value
    if value != DEVICE:
        raise WrongDevice(f"{value} where {DEVICE} is this process's, at {_place()}")
    return _META


def _emulated(func: Any) -> Callable[..., Any]:
    """``func``, or on the CPU what it does on a GPU alone."""
    if func is torch.ops.aten.mm.dtype:
        return lambda a, b, out_dtype: torch.mm(a.to(out_dtype), b.to(out_dtype))
    if func is torch.ops.aten.mm.dtype_out:
        return lambda a, b, out_dtype, out: torch.mm(a.to(out_dtype), b.to(out_dtype), out=out)
    return func


def _values(value: Any) -> Any:
    return value.values if isinstance(value, Simulated) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, Simulated)


def _place() -> str:
    """The line of this project that is being run."""
    frame, root = sys._getframe(1), f"{REPOSITORY}/"
    while frame.f_back and (__file__ == frame.f_code.co_filename or not frame.f_code.co_filename.startswith(root)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.removeprefix(root)}:{frame.f_lineno}"
