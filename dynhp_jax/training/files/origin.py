"""Where numbers come from: the commit of the code, the versions of packages, the machine."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax

import dynhp_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Of this package, of Python, and of the packages that numbers may depend on."""
    found = {"dynhp_jax": dynhp_jax.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """What jax computes on, the processor with its cores, and the system; not the host's name."""
    devices = jax.devices()
    first = devices[0]
    accelerators = f"{len(devices)} x {first.device_kind}" if first.platform != "cpu" else ""
    system = f"{platform.machine()} {platform.system()}"
    usable = f"{cores()} core{'s' if cores() > 1 else ''}"
    return ", ".join(filter(None, (accelerators, processor(), usable, system)))


def processor() -> str:
    """The processor's model, as the system names it."""
    known = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = (x for x in info.read_text().splitlines() if x.startswith("model name"))
        known = next((x.partition(":")[2].strip() for x in named), known)
    return known


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def commit() -> str | None:
    """The commit that the code is at, with '+' if files were changed since; None outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
