"""The version of the file formats, and the versions of the packages that produced a result."""

from __future__ import annotations

import platform
from importlib import metadata

SCHEMA_VERSION = 1
"""Version of the files of a run directory. It grows when a reader of the previous version would misread the new one."""

REPORTED_PACKAGES = (
    "layerscope",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "diffusers",
    "timm",
    "transformers",
    "numpy",
    "scipy",
    "pillow",
    "matplotlib",
)


def package_versions(names: tuple[str, ...] = REPORTED_PACKAGES) -> dict[str, str]:
    """Versions of Python and of the installed packages among ``names``, read without importing any of them."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
