"""The kernels as a library: compiled once per machine and source with the C++ compiler at hand, kept in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from warnings import warn

from scops.core.folders import cache_folder

SOURCE = Path(__file__).parent
FILES = ("sublayers.cpp", "learning.h", "prefill.h", "attention.h", "products.h", "tiles.h", "matrix.h")
OPTIONS = (
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-std=c++17",
    "-shared",
    "-fPIC",
)
SIGNATURES = (
    ("steps_room", "pipi", "i"),
    ("steps", "pipipipi", ""),
    ("product_room", "pi", "i"),
    ("product", "pipipipi", ""),
    ("floats", "ppii", ""),
    ("multiplies_bfloat16", "", "i"),
    ("prefill_takes_width", "i", "i"),
    ("prefill_room", "pii", "i"),
    ("prefill", "piiipippfpi", ""),
    ("rms_norm", "ppppiifii", ""),
    ("rms_norm_back", "ppppppiiii", ""),
    ("turn_pairs", "ppppiiiiiifii", ""),
    ("swiglu", "pppiii", ""),
    ("swiglu_back", "pppppiii", ""),
)
OFF = "SCOPS_NO_KERNELS"
"""Environment variable: set to anything, plain torch computes everything."""


@cache
def library() -> ctypes.CDLL | None:
    """None where there is no compiler, where it fails (said once), or where the user has switched kernels off."""
    found = None if os.environ.get(OFF) else compiler()
    if found is None:
        return None
    try:
        return _declared(ctypes.CDLL(str(_built(found))))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        warn(
            f"scops' CPU kernels could not be compiled with {found}, so plain torch is used: "
            f"{said[0] if said else error} (set {OFF}=1 to try no more)",
            stacklevel=2,
        )
        return None


def compiler() -> str | None:
    """The C++ compiler at hand."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")


def _declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """p pointer, i int64, f float; the last letter is what comes back."""
    letters = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
    for name, takes, gives in SIGNATURES:
        function = getattr(kernels, name)
        function.argtypes, function.restype = [letters[letter] for letter in takes], letters.get(gives)
    return kernels


def _built(compiler: str) -> Path:
    """The library of this source for this processor, compiled when it is not kept yet."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    parts = [version, *OPTIONS, _processor(), *((SOURCE / name).read_text() for name in FILES)]
    kept = cache_folder() / f"kernels-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        print(f"compiling scops' CPU kernels with {compiler} (once, some seconds)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / kept.name
            command = [compiler, *OPTIONS, str(SOURCE / FILES[0]), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            made.replace(kept)
    return kept


def _processor() -> str:
    """What `-march=native` depends on."""
    told = Path("/proc/cpuinfo")
    flags = (
        [line for line in told.read_text().splitlines() if line.startswith(("flags", "Features"))]
        if told.is_file()
        else []
    )
    return f"{platform.machine()} {platform.processor()} {flags[:1]}"
