"""Simulators behind one registry: `robovision.envs.make("metaworld/drawer-open")`.

Importing this needs neither a simulator nor OpenGL; making an environment does.
"""

from __future__ import annotations

import contextlib

if __name__ == "envs":
    raise ImportError("import this package as `robovision.envs`, not as `envs`")

from robovision.envs.registry import EnvOptions, list_tasks, make, make_vec

with contextlib.suppress(ModuleNotFoundError):  # without the extra `sim` there is no Gymnasium to register with
    from robovision.envs.gymnasium_ids import register

    register()


def list() -> None:  # noqa: A001  reads as robovision.envs.list()
    """Print every task as a table: its steps, observation, camera, what judges it, whether it has an expert."""
    from robovision.envs.task_table import table

    print(table())


__all__ = ["EnvOptions", "list", "list_tasks", "make", "make_vec"]
