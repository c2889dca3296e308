"""llama.cpp as the other side, where llama-cpp-python is installed: our packaged GGUF in the form that we compute in."""

# V vocabulary
import ctypes
import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scops.checkpoints.packages import fetch

PEER = "llama.cpp"
MISSING = "llama-cpp-python is not installed"
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Looser than against transformers: other kernels, other orders of sums, an approximate exponential."""
QUANTISED_TOLERANCE = {torch.bfloat16: 0.25}
"""Both sides round the same weights, but not the head and the vectors alike."""

FORMS = {
    "float32": "LLAMA_FTYPE_ALL_F32", "bfloat16": "LLAMA_FTYPE_MOSTLY_BF16",
    "int8": "LLAMA_FTYPE_MOSTLY_Q8_0", "int4": "LLAMA_FTYPE_MOSTLY_Q4_0",
}  # fmt: skip
CHUNK = 512


def is_here() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


@contextmanager
def opened(package: str, form: str, *, capacity: int, threads: int) -> Iterator["LlamaCpp"]:
    """The package's file, brought into a form first."""
    import llama_cpp

    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "unpacked.gguf"
        asked = llama_cpp.llama_model_quantize_default_params()
        asked.ftype, asked.allow_requantize, asked.nthread = getattr(llama_cpp, FORMS[form]), True, threads
        if llama_cpp.llama_model_quantize(str(fetch(package)).encode(), str(unpacked).encode(), ctypes.byref(asked)):
            raise RuntimeError(f"llama.cpp could not unpack {fetch(package)} to {form}")
        kept = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32} if form == "float32" else {}
        model = llama_cpp.Llama(
            str(unpacked), n_ctx=capacity, n_batch=CHUNK, n_ubatch=CHUNK, n_threads=threads, n_threads_batch=threads,
            verbose=False, **kept,
        )  # fmt: skip
        try:
            yield LlamaCpp(model)
        finally:
            model.close()


class LlamaCpp:
    """One conversation: read, then step."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def read(self, ids: list[int]) -> Tensor:
        """Begin anew; the scores of the next token (V,)."""
        self.model.reset()
        return self.step(ids)

    def step(self, ids: list[int]) -> Tensor:
        import llama_cpp

        self.model.eval(ids)
        scores_V = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.model.ctx), shape=(self.model.n_vocab(),))
        return torch.from_numpy(scores_V.copy())
