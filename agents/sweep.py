"""Many trainings, one after another here or side by side on a Ray cluster; what is finished stays finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from robovision import recorded
from robovision.agents.config import TrainConfig
from robovision.agents.data import follow
from robovision.agents.train import Training, create, resolve
from robovision.envs.ray_pool import cluster
from robovision.errors import UsageError
from robovision.run import Run, differences

RESTARTS = 3
"""How often a training is taken up again after its worker was killed."""


def finish(path: Path, config: TrainConfig) -> None:
    """Train in this folder, or go on from where it stands; nothing if that is done.

    Raises:
        UsageError: if the folder holds a run of another config, naming what differs; and as `Training.execute` does.
    """
    config = resolve(config)
    if not (path / "run.json").exists():
        run = create(path, config)
    else:
        run = Run.open(path)
        began = _by_name(run.config(TrainConfig))
        before = follow(began, config.data)
        config = dataclasses.replace(config, workers=before.workers, threads=before.threads)
        changed = differences(before, config)
        if changed:
            raise UsageError(f"{path} holds a run of other options; choose another --out\n  " + "\n  ".join(changed))
        if before != began:
            run.amend(before, differences(began, before))
    if (path / "results.json").exists():
        return
    with run.lock():
        Training(run, config).execute()


def _by_name(config: TrainConfig) -> TrainConfig:
    """The config with weights named as runs are begun with today."""
    encoder = config.encoder
    if encoder.weights is None:
        return config
    return dataclasses.replace(config, encoder=dataclasses.replace(encoder, weights=recorded.record(encoder.weights)))


def sweep(
    jobs: Mapping[Path, TrainConfig], ray: str | None = None, done: Callable[[Path], object] = lambda path: None
) -> None:
    """Finish the runs in these folders.

    Args:
        jobs: config by folder; with Ray, the folders are on a file system that all its machines see.
        ray: None: here, one after another; `local`: on a Ray cluster of this machine's cores; otherwise the address of
            one, such as `auto`. Each training takes what `share` says and is taken up again, from its last checkpoint,
            when its worker is killed.
        done: called with the folder of each run that is finished.

    Raises:
        UsageError: as `finish` does, of the first run that fails; without Ray where it is asked for.
    """
    if ray is not None:
        _on_ray(jobs, ray, done)
        return
    for path, config in jobs.items():
        finish(path, config)
        done(path)


def share(config: TrainConfig, machines: Sequence[Mapping[str, float]]) -> tuple[int, int]:
    """How many processors and GPUs a training takes of a cluster whose machines have these resources, by Ray's names.

    A GPU if it asks for one, or takes what there is and there is one; with it the processors that come to each GPU.
    """
    with_gpu = [machine for machine in machines if machine.get("GPU", 0) >= 1]
    if config.device != "cuda" and not (config.device == "auto" and with_gpu):
        return max(1, config.threads), 0
    beside = min((int(machine.get("CPU", 1) // machine["GPU"]) for machine in with_gpu), default=1)
    return max(1, config.threads, beside), 1


def _on_ray(jobs: Mapping[Path, TrainConfig], address: str, done: Callable[[Path], object]) -> None:
    with cluster(address) as ray:
        task = ray.remote(max_retries=RESTARTS)(finish)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        running = {}
        for path, config in jobs.items():
            cores, gpus = share(config, machines)
            mine = dataclasses.replace(config, threads=config.threads or cores, workers=config.workers or cores)
            running[task.options(num_cpus=cores, num_gpus=gpus).remote(path.resolve(), mine)] = path
        while running:
            ready, _ = ray.wait(list(running))
            for reference in ready:
                path = running.pop(reference)
                _collect(ray, reference, path)
                done(path)


def _collect(ray, reference, path: Path) -> None:  # type: ignore[no-untyped-def]
    """Raise what a training on Ray raised."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UsageError) else error from None
    except ray.exceptions.WorkerCrashedError:
        raise UsageError(f"the training in {path} lost {RESTARTS + 1} workers: run this again to go on") from None
