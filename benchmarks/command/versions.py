"""What numbers were made with: versions of packages, and the commit of this checkout."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import metriczoo

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    packages = ("numpy", "faiss-cpu", "scikit-learn", "pillow", "matplotlib")
    ours = {"python": platform.python_version(), "metriczoo": metriczoo.__version__, "commit": _commit()}
    return {**ours, "torch": str(torch.__version__), **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it came under another name
        return "unknown"


def _commit() -> str:
    """The commit of this checkout, with a `+` where files differ from it; "unknown" outside of one."""
    describe = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
