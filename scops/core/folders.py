"""Where scops keeps what it can have again."""

import os
from pathlib import Path

CACHE_VARIABLE = "SCOPS_CACHE"


def cache_folder() -> Path:
    """$SCOPS_CACHE, or scops in the user's cache folder."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scops"
