"""Look at what the compiler does: the module at the end of each phase as text, and the machine code."""

from __future__ import annotations

import numpy as np

from deepseek import ACG
from deepseek.compiler import PHASES, assembly, lower_text

graph = ACG.trace(lambda x: x * 2 + 3, np.zeros(8, np.float32))
print(graph.mlir)

for phase in PHASES:
    text = lower_text(graph.mlir, target="cpu:x86-64-v3", to_phase=phase)
    print(f"{phase:10} {len(text.splitlines()):3} lines, {text.count('linalg.generic')} linalg.generic")

code = assembly(graph.mlir, target="cpu:x86-64-v3")
print("\n".join(line for line in code.splitlines() if "ymm" in line))  # 8 numbers at a time
