"""The tasks as a table, and which of them have an expert."""

from __future__ import annotations

from robovision.envs.experts import available
from robovision.envs.registry import find_task, list_tasks
from robovision.envs.tasks import TASKS
from robovision.errors import UsageError


def experts() -> dict[str, str]:
    """For each task, how its expert came about: `scripted`, `trained`, or `none` if there is no expert."""
    trained = available()
    return {
        task: "scripted" if task.startswith(("metaworld/", "lidar/")) else "trained" if task in trained else "none"
        for task in list_tasks()
    }


def table() -> str:
    """The tasks as text: how long an episode is, what is observed, what judges it, whether there is an expert."""
    heads = ("task", "steps", "skip", "observation", "camera", "judged by", "expert")
    kinds = experts()
    rows = [
        (
            t.name,
            str(t.horizon),
            str(t.frame_skip),
            ", ".join(t.observe),
            t.camera,
            t.measure,
            kinds.get(t.name, "none"),
        )
        for t in (*TASKS.values(), find_task("mjcf/PATH"))
    ]
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    )


def require_expert(task: str) -> None:
    """Raise UsageError unless the task has an expert."""
    if experts().get(task, "none") == "none":
        raise UsageError(f"{task} has no expert to record; `robovision demos --list` says which tasks have one")
