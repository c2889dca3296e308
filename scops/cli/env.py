"""`scops env`: what a bug report needs: versions, processor, torch, cache. Nothing personal: no paths but the cache's."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import scops
from scops.cli.show import as_json, pairs

PACKAGES = (
    "torch", "numpy", "safetensors", "tokenizers", "pillow", "pydantic", "typer", "rich", "gguf", "pyarrow",
    "huggingface_hub", "transformers", "peft",
)  # fmt: skip
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "HF_HOME", "SCOPS_CACHE",
             "SCOPS_NO_KERNELS", "CXX")  # fmt: skip


def env(*, json: bool) -> None:
    found = environment()
    if json:
        as_json(found)
        return
    for title, values in found.items():
        pairs(values, title=title)


def environment() -> dict[str, dict[str, Any]]:
    """Sections of names and values."""
    return {
        "versions": versions(),
        "machine": _machine(),
        "torch": _torch(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "cache": _cache(),
    }


def versions() -> dict[str, str]:
    """scops, Python and the packages that decide about numbers."""
    found = {"scops": scops.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _machine() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": usable,
        "bits": sys.maxsize.bit_length() + 1,
    }


def _torch() -> dict[str, Any]:
    import torch

    from scops.native.library import library

    found = {
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "mkl": torch.backends.mkl.is_available(),
        "scops' kernels": "compiled" if library() else "none",
        "bfloat16 in hardware": torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if torch.backends.mkldnn.is_available()
        else False,
        "cuda": torch.version.cuda or "none",
    }
    for at in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(at)
        found[f"cuda:{at}"] = f"{device.name}, {device.total_memory / 2**30:.1f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


def _cache() -> dict[str, str]:
    from scops.core.folders import cache_folder

    folder = cache_folder()
    found = {"folder": str(folder)}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        found[path.name] = f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
    return found
