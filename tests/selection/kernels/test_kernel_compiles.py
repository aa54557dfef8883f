"""Every tile of the fused kernel, compiled for GPUs that are not here: registers, shared memory, instructions."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from selection.kernels.logsumexp_kernels import sum_tile, sum_tiles  # noqa: E402
from selection.kernels.logsumexp_triton import GROUP, PERSISTENT, TILES, Tile, choose_tile  # noqa: E402

SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10}  # bytes that a block may have, by compute capability
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async"}
POINTERS = {"a_ptr": "*{}", "b_ptr": "*{}", "row_ptr": "*fp32", "column_ptr": "*fp32"}


@dataclass(frozen=True)
class Compiled:
    registers: int
    spilled: int  # bytes
    shared: int  # bytes
    ptx: str


def compile_tile(tile: Tile, capability: int, dtype: str, num_rows: int, folder: Path) -> Compiled:
    """The kernel as the first launch on such a GPU would make it, for (num_rows, 768) features."""
    sizes = {"num_rows": num_rows, "num_columns": num_rows, "depth": 768, "a_stride": 768, "b_stride": 768}
    constants = {"ROW_BLOCK": tile.rows, "COLUMN_BLOCK": tile.columns, "DEPTH_BLOCK": tile.depth, "GROUP": GROUP}
    constants |= {"WIDEN": False}
    signature = {name: kind.format(dtype) for name, kind in POINTERS.items()}
    signature |= dict.fromkeys(sizes, "i32") | dict.fromkeys(("scale", "offset"), "fp32")
    signature |= dict.fromkeys(constants, "constexpr")
    kernel: Any = sum_tiles if tile.persistent else sum_tile
    names: list[str] = kernel.arg_names
    aligned = [name for name in names if name in POINTERS or sizes.get(name, 1) % 16 == 0]
    source = ASTSource(
        kernel,
        signature={name: signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    made: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    (folder / "kernel.cubin").write_bytes(made.asm["cubin"])
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [cuobjdump, "--dump-resource-usage", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
    return Compiled(usage["REG"], usage["STACK"] + usage["LOCAL"], made.metadata.shared, made.asm["ptx"])


def faults(made: Compiled, capability: int) -> list[str]:
    """What would keep a kernel from the speed it is built for; none for a good one."""
    found = [f"{made.spilled} bytes of registers spilled"] if made.spilled else []
    found += [f"{made.shared} bytes of shared memory"] if made.shared > SHARED_LIMIT[capability] else []
    found += ["no tensor core instruction"] if TENSOR_CORES[capability] not in made.ptx else []
    return found


PAIRS = [
    (tile, capability) for tile in TILES + PERSISTENT for capability in (80, 90) if capability >= 10 * tile.capability
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("num_rows", [16384, 4097])  # sizes that Triton specialises for, and not
@pytest.mark.parametrize(("tile", "capability"), PAIRS)
def test_every_tile_is_good(tile: Tile, capability: int, num_rows: int, dtype: str, tmp_path: Path) -> None:
    made = compile_tile(tile, capability, dtype, num_rows, tmp_path)
    print(f"{tile.rows} x {tile.columns}, sm_{capability}: {made.registers} registers, {made.shared} bytes shared")
    assert faults(made, capability) == []
    assert ("cp.async.bulk.tensor" in made.ptx) == tile.persistent  # TMA


@pytest.mark.slow
def test_a_bad_tile_is_found(tmp_path: Path) -> None:
    huge = replace(TILES[0], rows=256, columns=256, warps=4)  # 512 accumulators a thread
    assert any("spilled" in fault for fault in faults(compile_tile(huge, 80, "fp16", 4096, tmp_path), 80))
    deep = replace(TILES[0], depth=128, stages=5)
    assert any("shared memory" in fault for fault in faults(compile_tile(deep, 90, "fp16", 4096, tmp_path), 90))
    plain = Compiled(registers=32, spilled=0, shared=0, ptx="fma.rn.f32")
    assert faults(plain, 80) == faults(plain, 90) == ["no tensor core instruction"]


def test_each_gpu_gets_a_tile_that_it_is_new_enough_for() -> None:
    assert choose_tile(9) == choose_tile(10) == choose_tile(12)
    assert choose_tile(8).capability == 8
    assert choose_tile(7) == choose_tile(0) == TILES[-1]
    assert all(choose_tile(capability).capability <= capability for capability in (8, 9, 10, 12))
