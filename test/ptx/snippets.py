"""Kernels for the tests: a body of instructions with its parameters and registers around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ptx import Kernel

HEADER = """.version 8.4
.target {target}
.address_size 64
{module}
.visible .entry kernel({params})
{{
.reg .pred %p<16>;
.reg .b16 %h<64>;
.reg .b32 %r<256>;
.reg .f32 %f<256>;
.reg .b64 %d<64>;
.reg .f64 %g<16>;
{body}
}}
"""


def entry(body: str, params: str = "", module: str = "", target: str = "sm_90a") -> str:
    """PTX text of one kernel; params: 'u64 a, u32 n'. Registers: %p %h %r %f %d %g."""
    listed = [p.split() for p in params.split(",") if p.strip()]
    declared = []
    for kind, name in listed:
        if kind == "map":
            declared.append(f".param .align 64 .b8 {name}[128]")
        else:
            declared.append(f".param .{kind} {name}")
    text = HEADER.format(target=target, module=module, params=", ".join(declared), body=body)
    if os.environ.get("PTX_TESTS_ASSEMBLE") and shutil.which("ptxas"):
        assemble(text, target)
    return text


def assemble(text: str, target: str) -> None:
    """Raises if NVIDIA's assembler rejects the text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(text)
        done = subprocess.run(["ptxas", f"-arch={target}", path, "-o", "/dev/null"], capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{text}"


def kernel(body: str, params: str = "", module: str = "", target: str = "sm_90a") -> Kernel:
    return Kernel.parse(entry(body, params, module, target))


LOADS = {1: ("u8", "%h", 1), 2: ("u16", "%h", 1), 4: ("u32", "%r", 1), 8: ("u64", "%d", 10)}


def elementwise(code: str, inputs: list[np.ndarray], out: np.dtype | type, result: str | None = None) -> np.ndarray:
    """Runs `code` for each element: its operands are registers i0, i1, ... and its result is o.

    Registers are %h (1 and 2 bytes), %r (4) and %d (8); `result` names the class of o where it differs.
    """
    n = len(inputs[0])
    lines = ["mov.u32 %r200, %tid.x;", "mov.u32 %r201, %ctaid.x;", "mov.u32 %r202, %ntid.x;"]
    lines += ["mad.lo.s32 %r203, %r201, %r202, %r200;", "ld.param.u32 %r204, [n];"]
    lines += ["setp.ge.u32 %p15, %r203, %r204;", "@%p15 bra DONE;"]
    names, params = {}, []
    for i, array in enumerate(inputs):
        kind, file, first = LOADS[array.itemsize]
        register = f"{file}{first + i}"
        lines += [
            f"ld.param.u64 %d{40 + i}, [in{i}];",
            f"mad.wide.u32 %d{40 + i}, %r203, {array.itemsize}, %d{40 + i};",
        ]
        lines += [f"ld.global.{kind} {register}, [%d{40 + i}];"]
        names[f"i{i}"] = register
        params.append(f"u64 in{i}")
    size = np.dtype(out).itemsize
    kind, file, first = LOADS[size]
    names["o"] = f"{result or file}{20 + first}"
    for name, register in names.items():
        code = code.replace(f"${name}", register)
    lines += [code, "ld.param.u64 %d50, [out];", f"mad.wide.u32 %d50, %r203, {size}, %d50;"]
    lines += [f"st.global.{kind} [%d50], {names['o']};", "DONE:", "ret;"]
    made = kernel("\n".join(lines), ", ".join([*params, "u64 out", "u32 n"]))
    got = np.zeros(n, out)
    made.launch(-(-n // 256), 256, [*inputs, got, n])
    return got
