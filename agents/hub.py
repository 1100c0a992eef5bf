"""Policies on the Hugging Face Hub: a repository is a run folder with one checkpoint and a model card.

Nothing in it is executed or unpickled: run.json says what the policy is, model.safetensors holds its weights.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from robovision import hub
from robovision.agents.agent import SCHEME, find_step
from robovision.envs.registry import EnvOptions
from robovision.errors import UsageError
from robovision.files import write_atomically, write_json
from robovision.run import Run, to_dict

PULLED = ("run.json", "results.json", "checkpoints/*/model.safetensors", "checkpoints/*/state.json")
KINDS = {"train": "imitation-learning", "rl": "reinforcement-learning"}
"""By the kind of run, how the Hub calls it."""
ABOUT = ("robovision", "git_commit", "python", "packages")
"""What of the training's machine is told."""


def pack(run: Run, checkpoint: str, folder: Path, repository: str) -> Path:
    """Write what a repository holds into a new folder: run.json, results.json, one checkpoint's model, README.md.

    Paths of this machine are left out.

    Raises:
        UsageError: if there is no such checkpoint, or it is damaged; if the folder holds something.
    """
    found = run.at(find_step(run, checkpoint))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: choose another folder")
    content = json.loads((run.path / "run.json").read_text())
    content["config"] = without_paths(content["config"])
    content["environment"] = {name: content["environment"].get(name) for name in ABOUT}
    write_json(folder / "run.json", content)
    packed = Run.open(folder)
    packed.save(found.step, {}, {"model": found.tensors("model")}, keep=True)
    results = _results(run)
    write_json(folder / "results.json", {**results, "best_step": found.step})
    with write_atomically(folder / "README.md") as file:
        file.write(card(content, results, found.step, repository).encode())
    return folder


def push(run: Run, checkpoint: str, repository: str, folder: Path, private: bool = False) -> str:
    """Pack a run into a folder and upload it; the address of the repository, which is made if there is none.

    Args:
        run: the run.
        checkpoint: `final`, `best` or the number of a step.
        repository: owner/name.
        folder: an empty one for what is uploaded.
        private: of a new repository.

    Raises:
        UsageError: as `pack` does; without huggingface_hub; if the Hub refuses, with its reason.
    """
    client = hub.client()
    pack(run, checkpoint, folder, repository)
    try:
        with hub.quiet():
            api = client.HfApi()
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=str(folder), commit_message="policy trained by robovision"
            )
    except Exception as error:  # the Hub's own kinds, and those of the network below it
        raise UsageError(
            f"{repository} can't be uploaded: {hub.reason(error)}; what was to be uploaded lies in {folder}. "
            "To log in: hf auth login"
        ) from error
    return str(address)


def pull(repository: str) -> Path:
    """The local copy of a repository, a run folder, downloaded unless it is there.

    Raises:
        UsageError: without huggingface_hub; if the Hub can't be reached or has no such repository.
    """
    client = hub.client()
    try:
        with hub.quiet():
            return Path(client.snapshot_download(repository, allow_patterns=[*PULLED]))
    except Exception as error:  # the Hub's own kinds, and those of the network below it
        raise UsageError(f"{SCHEME}{repository} can't be fetched: {hub.reason(error)}") from error


def without_paths(config: Any) -> Any:
    """A config as JSON in which absolute paths are shortened to the files' names.

    >>> without_paths({"encoder": {"weights": "/home/me/vc1.pth"}, "task": "dmc/walker-walk", "data": None})
    {'encoder': {'weights': 'vc1.pth'}, 'task': 'dmc/walker-walk', 'data': None}
    """
    if isinstance(config, dict):
        return {name: without_paths(value) for name, value in config.items()}
    if isinstance(config, str) and PurePath(config).is_absolute():
        return PurePath(config).name
    return config


def card(content: dict[str, Any], results: dict[str, Any], step: int, repository: str) -> str:
    """The model card: what the policy does, how well, and how it is used."""
    config = content["config"]
    rows = [
        f"| {name} | {metric['value']:.3g} {'' if metric['unit'] == '1' else metric['unit']} | {_interval(metric)} |"
        for name, metric in results.get("metrics", {}).items()
    ]
    measured = "\n".join(["| | value | 95 % interval |", "|---|---|---|", *rows]) if rows else "Not evaluated yet."
    return f"""---
library_name: robovision
pipeline_tag: robotics
tags: [robotics, {KINDS[content["job"]]}, {config["task"].replace("/", "-")}]
---

# {config["task"]} from pixels

A control policy trained by robovision {content["environment"].get("robovision", "")}
(`robovision {content["job"]}`), checkpoint of step {step}.

## How well

On fresh starts, simulated, at the end of the training:

{measured}

It was trained and judged in simulation alone, in one task, with one camera and one way of rendering
(`{config["env"]["preset"]}`, {config["env"]["size"]} px): expect it to fail where any of these differ.

## Use

```python
import robovision.agents
import robovision.envs

policy = robovision.agents.load("{SCHEME}{repository}")
env = robovision.envs.make(
    "{config["task"]}",
{_arguments(config["env"])}
)
observation, _ = env.reset(seed=0)
action = policy(observation)
```

## Training

```json
{json.dumps(config, indent=2)}
```
"""


def _arguments(env: dict[str, Any]) -> str:
    """How the environment was made, as lines of arguments; what is as always is left out."""
    usual = to_dict(EnvOptions())
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in env.items()}
    return "\n".join(f"    {name}={value!r}," for name, value in said.items() if env[name] != usual[name])


def _interval(metric: dict[str, Any]) -> str:
    return "" if metric.get("low") is None else f"{metric['low']:.3g} to {metric['high']:.3g}, n = {metric['count']}"


def _results(run: Run) -> dict[str, Any]:
    path = run.path / "results.json"
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error!r}): evaluate the run again") from error
    return content
