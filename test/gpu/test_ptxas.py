"""NVIDIA's assembler takes every kernel, without spills, and makes the instructions that they are written for."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from deepseek.compiler import lower_text
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.names import find_model
from deepseek.package import describe
from gpu.programs import attention, cached_attention, kernels, matmul, rms_norm
from gpu.test_fp8 import program as fp8_program

TARGETS = ("sm_80", "sm_90a")
SHARED_LIMIT = {"sm_80": 163 << 10, "sm_90a": 227 << 10}  # CUDA C++ Programming Guide, technical specifications


@dataclass
class Assembled:
    """What ptxas says of a kernel; `sass` is its code as text."""

    registers: int
    spills: int
    stack: int
    shared: int
    sass: str


def _tool(name: str, package: str) -> str:
    """From the wheel, or from $PATH."""
    for file in metadata.files(package) or ():
        if file.name == name and file.parent.name == "bin":
            path = Path(file.locate())
            path.chmod(path.stat().st_mode | 0o111)
            return str(path)
    found = shutil.which(name)
    assert found, f"no {name}: pip install {package}"
    return found


def check_register_pool(ptx: str, registers: int) -> None:
    """What one warpgroup gives away is enough for what the others take: else they wait for it for ever."""
    given, taken = (re.findall(rf"setmaxnreg\.{way}\S* (\d+)", ptx) for way in ("dec", "inc"))
    if given or taken:
        (low,), (high,) = given, taken
        groups = int(re.search(r"\.reqntid (\d+)", ptx)[1]) // 128
        assert registers - int(low) >= (groups - 1) * (int(high) - registers), f"{registers}: {low}, {high}"


def assemble(ptx: str, target: str, folder: Path, *, disassemble: bool = True) -> Assembled:
    source, cubin = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(ptx)
    command = [_tool("ptxas", "nvidia-cuda-nvcc"), f"-arch={target}", "-v", str(source), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "serialized" not in done.stderr, done.stderr  # wgmma that waits for each other

    def number(pattern: str) -> int:
        found = re.search(pattern, done.stderr)
        return int(found.group(1)) if found else 0

    check_register_pool(ptx, number(r"Used (\d+) registers"))
    sass = ""
    if disassemble:
        command = [_tool("nvdisasm", "nvidia-cuda-nvdisasm"), "-c", str(cubin)]
        sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Assembled(
        registers=number(r"Used (\d+) registers"),
        spills=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        stack=number(r"(\d+) bytes stack frame"),
        shared=number(r"(\d+) bytes smem"),
        sass=sass,
    )


@pytest.mark.parametrize(
    ("target", "precision"), [("sm_80", "bf16"), ("sm_80", "f32"), ("sm_90a", "bf16"), ("sm_90a", "as-stored")]
)
def test_smollm2(target, precision, tmp_path):
    _, text = describe(open_checkpoint(find_model("smollm2-135m")), precision=precision)
    made = kernels(text, target)
    assert len(made) > 20
    for name, ptx in made.items():
        assembled = assemble(ptx, target, tmp_path, disassemble=False)
        assert assembled.spills == 0, name
        if not name.startswith("map_"):  # sines of any argument keep a table on the stack
            assert assembled.stack == 0, name
        threads = int(re.search(r"\.reqntid (\d+)", ptx).group(1))
        assert assembled.registers * threads <= 65536, name


def test_matmul_of_hopper(tmp_path):
    assembled = assemble(kernels(matmul(4096, 4096, 4096), "sm_90a")["matmul_0"], "sm_90a", tmp_path)
    assert assembled.spills == 0
    assert assembled.sass.count("HGMMA.64x256x16.F32.BF16") == 4
    assert assembled.sass.count("UTMALDG.2D") == 2
    assert assembled.sass.count("UTMALDG.2D.MULTICAST") == 1  # of the right side, to both blocks of a cluster
    assert assembled.sass.count("UTMASTG.2D") == 256 * 4 // 128  # one for each panel of results
    assert "SYNCS.PHASECHK" in assembled.sass
    assert "LDL" not in assembled.sass
    assert "STL" not in assembled.sass


def test_matmul_of_hopper_in_8_bits(tmp_path):
    text = fp8_program(4096, 4096, 4096, "fp8_e4m3_g128", "fp8_e4m3_g128")
    assembled = assemble(kernels(text, "sm_90a")["matmul_0"], "sm_90a", tmp_path)
    assert assembled.spills == 0
    assert assembled.sass.count("QGMMA.64x128x32.F32.E4M3.E4M3") == 4
    assert assembled.sass.count("UTMALDG.2D") == 2
    assert assembled.sass.count("UTMASTG.2D") == 128 * 4 // 128
    assert "LDL" not in assembled.sass
    assert "STL" not in assembled.sass


def test_matmul_of_ampere(tmp_path):
    assembled = assemble(kernels(matmul(4096, 4096, 4096), "sm_80")["matmul_0"], "sm_80", tmp_path)
    assert assembled.spills == 0
    # 128 x 128 by 64, eight warps of 64 x 32: 4 x 4 tiles of 16 x 8, four steps of 16.
    assert assembled.sass.count("HMMA.16816.F32.BF16") == 4 * 4 * 4
    assert "LDGSTS.E.BYPASS" in assembled.sass
    assert "LDSM.16.M88.4" in assembled.sass


@pytest.mark.parametrize(("depth", "kind"), [(64, "bf16"), (128, "bf16"), (256, "bf16"), (128, "f16")])
def test_attention_of_hopper(depth, kind, tmp_path):
    assembled = assemble(kernels(attention(8, 2, depth, dtype=kind), "sm_90a")["attention_0"], "sm_90a", tmp_path)
    assert assembled.spills == 0
    keys = 64 if depth > 128 else 128
    name = "F32.BF16" if kind == "bf16" else "F32"
    assert assembled.sass.count(f"HGMMA.64x{keys}x16.{name}") >= depth // 16
    assert f"HGMMA.64x{depth}x16.{name}" in assembled.sass
    assert "UTMALDG.4D" in assembled.sass
    assert "MUFU.EX2" in assembled.sass
    assert "LDL" not in assembled.sass
    assert "STL" not in assembled.sass


def test_attention_over_a_cache_copies_boxes_of_it(tmp_path):
    assembled = assemble(kernels(cached_attention(9, 3, 64), "sm_90a")["attention_0"], "sm_90a", tmp_path)
    assert assembled.spills == 0
    assert "UTMALDG.3D" in assembled.sass


@pytest.mark.parametrize("depth", [64, 128, 256])
def test_attention_of_ampere(depth, tmp_path):
    made = kernels(attention(8, 2, depth), "sm_80")
    for name, ptx in made.items():
        assembled = assemble(ptx, "sm_80", tmp_path)
        assert assembled.spills == 0, name
        if not name.endswith("merge"):
            assert "HMMA.16816.F32.BF16" in assembled.sass
            assert "LDSM.16.MT88.4" in assembled.sass


def test_norms_read_16_bytes_at_once(tmp_path):
    assembled = assemble(kernels(rms_norm(4096), "sm_90a")["rms_norm_0"], "sm_90a", tmp_path)
    assert "LDG.E.128" in assembled.sass
    assert "STG.E.128" in assembled.sass
    assert "SHFL.BFLY" in assembled.sass


@pytest.mark.parametrize("target", TARGETS)
def test_shared_memory_fits_the_device(target):
    programs = [matmul("?", 4096, 4096), attention(8, 2, 64), attention(8, 2, 128), attention(8, 2, 256)]
    for text in programs:
        ir = lower_text(text, target=target, to_phase="codegen")
        for bytes_ in re.findall(r"dsc\.shared_bytes = (\d+)", ir):
            assert int(bytes_) <= SHARED_LIMIT[target]
