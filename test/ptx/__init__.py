"""PTX in numpy: runs the kernels of LLVM's NVPTX back end (sm_80, sm_90a) where there is no GPU.

    kernel = Kernel.parse(ptx_text)
    kernel.launch(grid=(4, 1, 1), block=128, params=[array, 7, 0.5], dynamic_shared=0)

Arrays are global buffers, written in place. What a GPU leaves undefined raises PtxError: an access out of bounds, a
race on shared memory, a deadlock, an accumulator of wgmma read too early. Copies land as late as the ISA allows.
"""

from __future__ import annotations

from .errors import PtxError, Unsupported
from .kernel import Kernel
from .tensor_map import TensorMap


def emulate(
    ptx_text: str, grid, block, params: list, dynamic_shared: int = 0, name: str | None = None, **checks
) -> Kernel:
    """Parses and launches in one step; returns the kernel."""
    kernel = Kernel.parse(ptx_text, name)
    kernel.launch(grid, block, params, dynamic_shared, **checks)
    return kernel


__all__ = ["Kernel", "PtxError", "TensorMap", "Unsupported", "emulate"]
