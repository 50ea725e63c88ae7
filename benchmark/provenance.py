"""Where a number comes from: versions, commit, device, command line; no folders, no hosts."""

import platform
import re
import shlex
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "foolbox", "eagerpy", "pandas", "scipy", "joblib", "pyarrow")
_SOURCE = Path(__file__).resolve().parents[1]
_FOLDERS = re.compile(r"(?<![\w:/])/(?:[^/\s=]+/)*")


def origin(device: str) -> dict[str, Any]:
    """The keys that every record's metadata shares (see `benchmark.records`)."""
    return {
        "versions": _versions(),
        "commit": _commit(),
        "device": _device_name(device),
        "command": _command(),
    }


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@lru_cache(maxsize=1)
def _commit() -> str:
    """The commit of the source tree, marked where the code differs from it; or "unknown"."""
    if not (_SOURCE / ".git").exists():
        return "unknown"
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "attacks", "benchmark", "defenses")
    return f"{commit} with changes" if commit and changed else commit or "unknown"


def _git(*arguments: str) -> str:
    """Git's answer; empty where git is missing or refuses."""
    try:
        done = subprocess.run(
            ("git", "-C", str(_SOURCE), *arguments), capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = names[0] if names else model
    return f"CPU {model}"


def _command() -> str:
    program = Path(sys.argv[0])
    inside = program.suffix == ".py" and program.parent.name == "benchmark"
    start = f"python -m benchmark.{program.stem}" if inside else program.name
    arguments = [_FOLDERS.sub("", argument) for argument in sys.argv[1:]]
    return f"{start} {shlex.join(arguments)}".strip()
