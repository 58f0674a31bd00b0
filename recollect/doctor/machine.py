"""The machine and the installation."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from recollect import __version__, machine
from recollect.doctor.sheet import Sheet
from recollect.machine import free_memory
from recollect.run.progress import size

CGROUP = Path("/sys/fs/cgroup")
EXTRAS = {"ale-py": "atari", "ray": "ray", "mujoco": "mujoco", "vizdoom": "vizdoom",
          "minigrid": "minigrid", "popgym": "popgym"}  # fmt: skip
LITTLE_MEMORY, LITTLE_DISK = 1_000_000_000, 1_000_000_000


def examine(sheet: Sheet, folder: Path = Path("runs")) -> None:
    """Look at Python, libraries, processors, memory, GPU and the disk where runs would go."""
    for name, check in (
        ("installation", _installation),
        ("processors", _processors),
        ("memory", _memory),
        ("torch", _torch),
        ("extras", _extras),
    ):
        with sheet.stage(name):
            check(sheet)
    with sheet.stage("disk"):
        _disk(sheet, folder)


def free() -> int | None:
    """Bytes of memory that can still be taken: what the machine has, or the control group less."""
    found = [free_memory()]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _number(CGROUP / limit), _number(CGROUP / used)
        if most is not None and now is not None and most < 1 << 60:
            found.append(max(0, most - now))
    known = [each for each in found if each is not None]
    return min(known) if known else None


def processors() -> tuple[int, float | None]:
    """Processors this process may use, and how many of them a control group lets it have."""
    quota: float | None = None
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        most, period = (CGROUP / "cpu.max").read_text().split()
        quota = int(most) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        most, period = (
            (CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        quota = int(most) / int(period) if int(most) > 0 else quota
    return machine.processors(), quota


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _installation(sheet: Sheet) -> None:
    here = platform.python_version()
    try:
        metadata = importlib.metadata.metadata("recollect")
        wanted = metadata["Requires-Python"] or ""
        requirements = importlib.metadata.requires("recollect") or []
    except importlib.metadata.PackageNotFoundError:
        sheet.info("python", f"Python {here}; recollect {__version__} is used without installing")
        return
    text = f"recollect {__version__} on Python {here}, {platform.system()} {platform.machine()}"
    if within(here, wanted):
        sheet.ok("python", text, here)
    else:
        sheet.fail("python", f"{text}: {wanted} is wanted", "make an environment with that Python")
    right = []
    for requirement in requirements:
        found = re.match(r"^([\w.-]+)(\[[^\]]*\])?\s*([^;]*)$", requirement.strip())
        if not found:  # of an extra
            continue
        name, _, bounds = found.groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            sheet.fail(name, f"{name} is not installed", f"python -m pip install '{requirement}'")
            continue
        if within(version, bounds):
            right.append(f"{name} {version.partition('+')[0]}")
        else:
            advice = f"python -m pip install '{requirement}'"
            sheet.fail(name, f"{name} {version}: {bounds} is wanted", advice)
    sheet.ok("libraries", ", ".join(right), right)


def within(version: str, bounds: str) -> bool:
    """Whether a version keeps bounds such as `>=1.1,<2`."""
    mine = _parts(version)
    for bound in filter(None, (each.strip() for each in bounds.split(","))):
        found = re.match(r"(>=|<=|==|!=|<|>)\s*([\d.]+)", bound)
        if not found:
            continue
        theirs = _parts(found[2])
        length = max(len(mine), len(theirs))
        a, b = (each + (0,) * (length - len(each)) for each in (mine, theirs))
        keeps = {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b}
        if not keeps[found[1]]:
            return False
    return True


def _parts(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _processors(sheet: Sheet) -> None:
    usable, quota = processors()
    value = {"usable": usable, "quota": quota}
    limited = f", a control group allows {quota:.3g} of them" if quota else ""
    sheet.ok("processors", f"{usable} usable{limited}", value)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > 1.5 * usable:
        sheet.info("load", f"{busy:.1f} processes want to run on {usable}: figures will be low")
    policy = os.environ.get("OMP_WAIT_POLICY", "").upper()
    if policy != "PASSIVE" or os.environ.get("GOMP_SPINCOUNT", "0") not in ("", "0"):
        sheet.warn(
            "spinning",
            f"threads that wait may spin (OMP_WAIT_POLICY is {policy or 'not set'}): on busy "
            "processors 100 times slower",
            "export OMP_WAIT_POLICY=PASSIVE, and take GOMP_SPINCOUNT away",
        )


def _memory(sheet: Sheet) -> None:
    bytes_free = free()
    if bytes_free is None:
        sheet.info("memory", "what is free cannot be told on this platform")
    elif bytes_free < LITTLE_MEMORY:
        advice = "end other programs, or choose a smaller --replay-steps"
        sheet.warn("memory", f"only {size(bytes_free)} are free", advice, bytes_free)
    else:
        sheet.ok("memory", f"{size(bytes_free)} free", bytes_free)


def _torch(sheet: Sheet) -> None:
    import torch

    threads = torch.get_num_threads()
    usable, _ = processors()
    text = f"computes on {threads} thread{'' if threads == 1 else 's'}"
    if threads > usable:
        sheet.warn("threads", f"{text}, of {usable} processors", f"export OMP_NUM_THREADS={usable}")
    else:
        sheet.ok("threads", f"torch {text}", threads)
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        found = re.search(r"^(?:flags|Features)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        flags = set(found[1].split()) if found else set()
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16", "bf16") if kind in flags]
    sheet.info(
        "bf16", f"in hardware: {', '.join(kinds)}" if kinds else "not in hardware", value=kinds
    )
    if not torch.cuda.is_available():
        sheet.info("gpu", "none that torch can use; runs use the processor")
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        begun = time.perf_counter()
        x = torch.ones(64, 64, device=f"cuda:{number}")
        right = float((x @ x)[0, 0].cpu()) == 64
        text = f"{properties.name}, {size(properties.total_memory)}"
        if right:
            took = time.perf_counter() - begun
            sheet.ok("gpu", f"{text}; a first small product took {took:.2g} s", properties.name)
        else:
            sheet.fail("gpu", f"{text}: a small product came out wrong", "look at its driver")


def _extras(sheet: Sheet) -> None:
    there, missing = [], []
    for package, extra in EXTRAS.items():
        try:
            there.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(extra)
    text = f"installed: {', '.join(there) or 'none'}"
    sheet.info("extras", text + (f"; not: {', '.join(missing)}" if missing else ""), value=there)


def _disk(sheet: Sheet, folder: Path) -> None:
    """Whether the folder where runs go can hold them safely."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as made:
            lacking = list(_lacking(Path(made)))
    except OSError as error:
        sheet.fail(
            "disk",
            f"nothing can be written in {place}: {error.strerror or error}",
            "go to a folder of yours, or give --run-dir",
        )
        return
    left = shutil.disk_usage(place).free
    if lacking:
        sheet.warn(
            "disk",
            f"{place} does not know {', '.join(lacking)}",
            "keep runs on a local disk: --run-dir",
            lacking,
        )
    elif left < LITTLE_DISK:
        sheet.warn("disk", f"only {size(left)} free in {place}", "make room for checkpoints", left)
    else:
        sheet.ok(
            "disk", f"{size(left)} free where runs go; locks, fsync and hard links work there", left
        )


def _lacking(folder: Path) -> Iterable[str]:
    first = folder / "first"
    with first.open("wb") as file:
        file.write(b"x")
        try:
            os.fsync(file.fileno())
        except OSError:
            yield "fsync"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield "locks"
    try:
        os.link(first, folder / "second")
    except OSError:
        yield "hard links"
