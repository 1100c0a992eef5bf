"""The run folder: everything that a run needs to be resumed, judged and repeated.

    run.json                 job, resolved config, versions, git commit, machine; what was changed since it began
    checkpoints/step-000100/ model.safetensors, optimizer.safetensors, state.json with their checksums
    results.json             metrics with units and intervals

A checkpoint is written beside its place and renamed into it: it is there whole, or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import robovision
from robovision import weights
from robovision.errors import UsageError
from robovision.files import cannot_write, hold, write_json
from robovision.types import Metric

if TYPE_CHECKING:
    from torch import Tensor

Config = TypeVar("Config")

FORMAT = 1
KEPT = 2
PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "metaworld", "stable_baselines3", "safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """One saved state of a training, checked against its checksums when it is opened.

    Raises:
        UsageError: if a file is missing, truncated or changed.
    """

    path: Path
    step: int
    state: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The checkpoint in this folder."""
        try:
            content = json.loads((path / "state.json").read_text())
            seal = content.pop("seal")
            files = dict(content["files"])
            step = int(content["step"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"checkpoint {path} is damaged: state.json can't be read ({error!r})") from error
        if _seal(content) != seal:
            raise UsageError(f"checkpoint {path} is damaged or was changed: state.json does not match its seal")
        for name, checksum in files.items():
            weights.check(path / name, checksum)
        return cls(path, step, content["state"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under this name, such as `model`."""
        return weights.load(self.path / f"{name}.safetensors")


class Run:
    """A run folder. Make one with `Run.create` or `Run.open`."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.job: str = content["job"]
        self.environment: dict[str, Any] = content["environment"]
        self._config: dict[str, Any] = content["config"]

    @classmethod
    def create(cls, path: Path, job: str, config: Any, space: int) -> Run:
        """A new run in a new or empty folder, or in one whose run was refused before it made anything.

        Args:
            path: the folder.
            job: the command, such as `train`.
            config: a frozen dataclass, completely resolved.
            space: bytes that the run will need on the disk.

        Raises:
            UsageError: if the folder holds something, can't be written, is worked in, or its disk is too full.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if {file.name for file in path.iterdir()} - {"run.json", ".lock"}:
                raise UsageError(f"{path} is not empty: continue the run there with --resume, or choose another --out")
        except OSError as error:
            raise cannot_write(path, error) from error
        require_space(path, space)
        content = {
            "format": FORMAT,
            "job": job,
            "config": to_dict(config),
            "environment": describe_machine(),
        }
        run = cls(path, content)
        with run.lock():
            write_json(path / "run.json", content)
        return run

    @classmethod
    def open(cls, path: Path, job: str = "") -> Run:
        """The run in this folder, of this job if one is named.

        Raises:
            UsageError: if it is none, saying what was looked for; if it is of another job.
        """
        file = path / "run.json"
        if not file.is_file():
            what = "an existing folder" if not path.is_dir() else "a file run.json in it"
            raise UsageError(f"{path} is no run: looked for {what}. Runs are made by `robovision train`")
        try:
            content = json.loads(file.read_text())
            version = content["format"]
            run = cls(path, content)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} is damaged: {error!r}") from error
        if version != FORMAT:
            raise UsageError(f"{path} has run format {version}; this version of robovision reads format {FORMAT}")
        if job not in ("", run.job):
            raise UsageError(
                f"{path} is a run of `robovision {run.job}`, not of `robovision {job}`: "
                f"it goes on with robovision {run.job} --resume {path}"
            )
        return run

    def config(self, kind: type[Config]) -> Config:
        """The run's config as the dataclass that it was made from.

        Raises:
            UsageError: if it holds an unknown key or a value of a wrong type, naming it.
        """
        import dacite

        try:
            return dacite.from_dict(kind, self._config, dacite.Config(strict=True, cast=[Path, tuple]))
        except (dacite.DaciteError, UsageError) as error:
            raise UsageError(f"{self.path / 'run.json'}: {error}") from error

    def amend(self, config: Any, changes: Sequence[str]) -> None:
        """Give the run another config of the same kind, and write down in run.json what changed, in words.

        Raises:
            UsageError: if another process works in the folder.
        """
        file = self.path / "run.json"
        with self.lock():
            content = json.loads(file.read_text())
            self._config = to_dict(config)
            write_json(file, {**content, "config": self._config, "changes": [*content.get("changes", []), *changes]})

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder for this process; if the process dies, the system lets go of it.

        Raises:
            UsageError: if another process holds it, or it can't be written.
        """
        return hold(self.path)

    def save(
        self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]], keep: bool
    ) -> Path:
        """Write the checkpoint of a step, then delete those that are neither among the last two nor to keep.

        Args:
            step: number of the training step.
            state: anything that JSON can hold.
            tensors: files of tensors by name, such as `model` and `optimizer`.
            keep: keep its model for good, because it has been or will be evaluated.

        Raises:
            UsageError: if it can't be written; the checkpoints before it stay intact.
        """
        final = self._checkpoint_path(step)
        partial = final.with_name(f".{final.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            files = {
                f"{name}.safetensors": weights.save(partial / f"{name}.safetensors", content)
                for name, content in tensors.items()
            }
            content = {"step": step, "keep": keep, "files": files, "state": dict(state)}
            write_json(partial / "state.json", {**content, "seal": _seal(content)})
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            _sync_folder(final.parent)
        except OSError as error:
            raise cannot_write(final, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._prune()
        return final

    def checkpoints(self) -> list[Path]:
        """The folders of the checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step-*"), key=_step)

    def steps(self) -> list[int]:
        """The steps of the checkpoints, in order."""
        return [_step(path) for path in self.checkpoints()]

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of this step."""
        return Checkpoint.open(self._checkpoint_path(step))

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None before the first.

        Raises:
            UsageError: if it is damaged, naming the newest intact one and how to go on from there.
        """
        paths = self.checkpoints()
        if not paths:
            return None
        try:
            return Checkpoint.open(paths[-1])
        except UsageError as error:
            raise UsageError(f"{error}\n{self._offer(paths[:-1])}") from None

    def write_results(self, metrics: Sequence[Metric], details: Mapping[str, Any]) -> None:
        """Write results.json: the metrics by name, and whatever else tells how they came about."""
        write_json(self.path / "results.json", {"metrics": metrics_by_name(metrics), **details})

    def _offer(self, earlier: Sequence[Path]) -> str:
        for path in reversed(earlier):
            try:
                step = Checkpoint.open(path).step
            except UsageError:
                continue
            if not (path / "optimizer.safetensors").exists():
                continue  # only kept to be evaluated
            return f"the one before it, of step {step}, is intact: delete the damaged folder and resume from there"
        return "no earlier checkpoint is intact: start again without --resume"

    def _prune(self) -> None:
        """Keep the last two checkpoints whole, and only the model of earlier ones that are to be kept."""
        for path in self.checkpoints()[:-KEPT]:
            content = json.loads((path / "state.json").read_text())
            if content["keep"]:
                self._strip(path, content)
            else:
                shutil.rmtree(path)

    @staticmethod
    def _strip(path: Path, content: dict[str, Any]) -> None:
        """Leave only the model in a checkpoint."""
        dropped = [name for name in content["files"] if name != "model.safetensors"]
        if not dropped:
            return
        content["files"] = {"model.safetensors": content["files"]["model.safetensors"]}
        content.pop("seal")
        write_json(path / "state.json", {**content, "seal": _seal(content)})
        for name in dropped:
            (path / name).unlink()

    def _checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"


def _step(path: Path) -> int:
    """The step of a checkpoint's folder; beyond a million the names are no longer in order."""
    return int(path.name.removeprefix("step-"))


def require_space(folder: Path, needed: int) -> None:
    """Raise UsageError unless the folder's disk has this many bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"the disk of {folder} has {free / 1e6:.0f} MB free and the run needs {needed / 1e6:.0f} MB: "
            f"free some space or choose another folder with --out"
        )


def to_dict(config: Any) -> dict[str, Any]:
    """A frozen dataclass as nested dictionaries that JSON can hold."""
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return content


def metrics_by_name(metrics: Sequence[Metric]) -> dict[str, Any]:
    """Metrics as a dictionary that JSON can hold."""
    return {m.name: {k: v for k, v in dataclasses.asdict(m).items() if k != "name"} for m in metrics}


def differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    """What differs between two configs of one kind, a line each: `--name: old -> new`."""
    lines: list[str] = []
    for entry in dataclasses.fields(before):
        old, new = getattr(before, entry.name), getattr(after, entry.name)
        if dataclasses.is_dataclass(old):
            lines += differences(old, new, f"{prefix}{entry.name}.")
        elif old != new:
            lines.append(f"--{prefix}{entry.name}".replace("_", "-") + f": {old} -> {new}")
    return lines


def describe_machine() -> dict[str, Any]:
    """Versions, git commit, processor and system."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "robovision": robovision.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: version for name, version in versions.items() if version},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "command": sys.argv,
    }


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, `+changes` if it was changed; None elsewhere."""
    folder = Path(__file__).resolve().parent
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if Path(top) != folder.parent:
            return None
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _seal(content: Mapping[str, Any]) -> str:
    """A checksum of a checkpoint's state, so that a change to it is seen."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename inside the folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
