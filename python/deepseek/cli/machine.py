"""Facts about this machine for `deepseek doctor`; every function answers, also on systems that lack the source."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

__all__ = ["VECTOR_TARGETS", "cpu", "disk_free", "hugging_face", "memory", "ptxas", "targets", "usable_cpus"]

# CPU features that a target of ours may use, from small to large (passes/Target.cpp).
VECTOR_TARGETS = {
    "cpu:x86-64-v3": {"avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt"},
    "cpu:x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


def usable_cpus() -> int:
    """Threads that this process may run at once, without a container's time limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> dict[str, Any]:
    """{"model": name, "cores": physical cores, "cpus": usable threads, "limit": CPUs of the container or None}."""
    text = _read("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    cores = set(re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", text, re.M | re.S))
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    return {
        "model": name[1].strip() if name else platform.processor() or "unknown",
        "cores": len(cores) or None,
        "cpus": usable_cpus(),
        "limit": int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else None,
    }


def memory() -> dict[str, int | None]:
    """{"total": bytes, "available": bytes}, the container's where it has less; None where it cannot be told."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo"), re.M))
    total, free = (int(found[key]) * 1024 if key in found else None for key in ("MemTotal", "MemAvailable"))
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if total is not None and free is not None and limit.isdigit() and int(limit) < total:
        used = _read("/sys/fs/cgroup/memory.current").strip()
        return {"total": int(limit), "available": min(free, max(0, int(limit) - int(used or 0)))}
    return {"total": total, "available": free}


def targets(features: frozenset[str]) -> list[str]:
    """Targets that this CPU runs, the one that `cpu` means first."""
    if platform.machine() in ("aarch64", "arm64"):
        return ["cpu:aarch64"]
    if platform.machine() != "x86_64":
        return []
    supported, needed = ["cpu:x86-64"], set()
    for name, more in VECTOR_TARGETS.items():
        needed |= more
        if needed <= features:
            supported.insert(0, name)
    return supported


def ptxas() -> str | None:
    """Path of NVIDIA's assembler, on the PATH or of its package."""
    return shutil.which("ptxas") or _packaged_ptxas()


def _packaged_ptxas() -> str | None:
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for pattern in ("cu*/bin/ptxas", "cuda_nvcc/bin/ptxas"):
            for path in sorted(Path(folder).glob(pattern)):
                return str(path)
    return None


def hugging_face() -> dict[str, Any]:
    """{"path": folder of the Hugging Face cache, "models": names of the models in it}."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    try:
        folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
        stored = sorted(path for path in folder.glob("models--*") if any(path.glob("snapshots/*/*")))
    except (OSError, RuntimeError):  # no home folder, or not ours to read
        return {"path": None, "models": []}
    return {"path": str(folder), "models": [path.name[len("models--") :].replace("--", "/") for path in stored]}


def disk_free(path: Path) -> int:
    """Bytes that can be written where `path` is or will be."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
