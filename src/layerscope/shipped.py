"""Configurations, label schemas and demo weights that come with layerscope, found from any working directory."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped(name: str | Path) -> Path:
    """Where a shipped file such as ``configs/vae/diagnostic/phantom.yaml`` lies, whether it exists or not.

    Installed, configs/ and checkpoints/ lie in the package; in a source tree, beside src/.
    """
    package = Path(str(resources.files("layerscope")))
    return package / name if (package / name).exists() else package.parents[1] / name


def here_or_shipped(name: str | Path) -> Path:
    """``name`` as the working directory has it, else as layerscope ships it; as given where neither exists."""
    path = Path(name)
    return shipped(path) if not path.exists() and shipped(path).exists() else path
