"""Several processes that meet in a file: no port is taken, and no thread of a server outlives them."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import start_processes


def in_processes(child: Callable[..., Any], *given: Any, world: int = 2, seconds: float = 120) -> list[Any]:
    """What `child(*given)` gives in each of the processes, in their order. If one fails, none is left and its error is raised.

    Args:
        child: a function of a test file.
    """
    with TemporaryDirectory() as folder:
        begun = start_processes(_joined, (child, given, world, folder), world, join=False, start_method="spawn")
        assert begun is not None
        end = monotonic() + seconds
        try:
            while not begun.join(max(end - monotonic(), 0)):
                going = [number for number, process in enumerate(begun.processes) if process.is_alive()]
                assert monotonic() < end, f"processes {going} of {world} are not done after {seconds} s"
        finally:
            for process in begun.processes:
                process.kill()
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(world)]


def _joined(rank: int, child: Callable[..., Any], given: tuple[Any, ...], world: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        torch.save(child(*given), Path(folder, str(rank)))
        distributed.barrier()  # nobody leaves while another still asks
    finally:
        distributed.destroy_process_group()
