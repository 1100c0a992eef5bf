"""Examines this machine: what works, and how to mend what does not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import robovision
from robovision import weights
from robovision.envs.gl import INSTALL, LIBRARIES
from robovision.errors import UsageError

NEEDED = ("torch", "numpy", "mujoco", "metaworld", "gymnasium", "safetensors", "tyro", "av")
FREE_SPACE = 1_000_000_000
PROBE = """
import time
from robovision.envs import EnvOptions, make
env = make("metaworld/drawer-open", EnvOptions(size=64, preset="fastest"))
env.reset(seed=0)
action = env.action_space.sample() * 0
for _ in range(5):
    env.step(action)
began = time.perf_counter()
for _ in range(50):
    env.step(action)
print(50 / (time.perf_counter() - began))
env.close()
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report; a remedy means that something is wrong, `fatal` that training can't run."""

    subject: str
    text: str
    remedy: str = ""
    fatal: bool = False


def examine() -> int:
    """Print the report; returns 1 if `robovision train` would not run here, else 0."""
    fatal = False
    for finding in findings():
        mark = "ok" if not finding.remedy else "FAIL" if finding.fatal else "warn"
        print(f"{mark:<5} {finding.subject:<12} {finding.text}", flush=True)
        if finding.remedy:
            print(f"      {'':<12} -> {finding.remedy}", flush=True)
        fatal |= finding.fatal
    return int(fatal)


def findings() -> Iterator[Finding]:
    """Everything that is examined, one finding after the other."""
    yield Finding("robovision", f"{robovision.__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from _packages()
    yield from _processor()
    yield from _rendering()
    yield from _weights()
    yield _disk()


def _packages() -> Iterator[Finding]:
    found: list[str] = []
    for name in NEEDED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", "pip install 'robovision[sim]' -c constraints.txt", fatal=True)
    yield Finding("packages", ", ".join(found))


def _processor() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", f"does not import: {error}", "pip install --force-reinstall torch==2.13.0", fatal=True)
        return
    from robovision.devices import cpu_count, cpu_has_bfloat16

    native = "native" if cpu_has_bfloat16() else "emulated, so float32 is used"
    yield Finding("CPU", f"{cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, bfloat16 {native}")
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(k).total_memory
            half = "bfloat16" if torch.cuda.is_bf16_supported() else "float32 only"
            yield Finding("GPU", f"{torch.cuda.get_device_name(k)}, {memory / 2**30:.0f} GiB, {half}")
    else:
        yield Finding("GPU", "none that PyTorch can use; training runs on the CPU")


def _rendering() -> Iterator[Finding]:
    """Render in processes of their own: a broken driver may take its process with it."""
    if sys.platform != "linux":
        yield _render("")
        return
    wanted = os.environ.get("MUJOCO_GL", "")
    reports = {backend: _render(backend) for backend in ([wanted] if wanted else LIBRARIES)}
    works = [backend for backend, report in reports.items() if not report.remedy]
    for backend, report in reports.items():
        chosen = backend == (wanted or next(iter(LIBRARIES)))
        if not report.remedy:
            yield report
        elif works and chosen:
            remedy = f"export MUJOCO_GL={works[0]}, or {INSTALL}"
            yield Finding(report.subject, report.text, remedy, fatal=True)
        else:
            yield Finding(report.subject, report.text, report.remedy, fatal=not works)


def _render(backend: str) -> Finding:
    subject = backend or "OpenGL"
    environment = {**os.environ, **({"MUJOCO_GL": backend} if backend else {})}
    try:
        answer = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROBE], env=environment, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return Finding(subject, "hangs while rendering", INSTALL)
    if answer.returncode == 0:
        rate = float(answer.stdout.split()[-1])
        return Finding(subject, f"renders metaworld/drawer-open at {rate:.0f} frames/s (64 px, preset fastest)")
    reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    return Finding(subject, f"does not render: {reason[:160]}", INSTALL)


def _weights() -> Iterator[Finding]:
    if not weights.EMBEDDED:
        yield Finding("weights", "none are shipped yet")
    for name in weights.EMBEDDED:
        try:
            path = weights.find(name)
        except UsageError as error:
            yield Finding("weights", f"{name}: {error}", "pip install --force-reinstall robovision", fatal=True)
        else:
            yield Finding("weights", f"{name}: {path.stat().st_size / 1e6:.1f} MB, checksum right")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1e9:.1f} GB free in the working folder"
    if free < FREE_SPACE:
        return Finding("disk", text, "a training needs about 1 GB: free some, or choose another disk with --out", True)
    if not os.access(Path.cwd(), os.W_OK):
        return Finding("disk", f"{Path.cwd()} can't be written", "choose another folder with --out", True)
    return Finding("disk", text)
