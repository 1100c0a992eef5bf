"""Policies that act from pixels: behaviour cloning, evaluation and use.

Importing this needs neither torch nor a simulator.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robovision.agents.agent import Agent
    from robovision.devices import Device, Precision

if __name__ == "agents":
    raise ImportError("import this package as `robovision.agents`, not as `agents`")


def load(
    run: Path | str, checkpoint: str | int = "final", device: Device = "cpu", precision: Precision = "float32"
) -> Agent:
    """The policy of a run folder; `policy(observation)` gives an action, `policy.reset()` begins another episode.

    >>> policy = load("runs/hammer")  # doctest: +SKIP
    >>> env = robovision.envs.make("metaworld/hammer", size=64, preset="fastest")  # doctest: +SKIP
    >>> observation, _ = env.reset(seed=0)  # doctest: +SKIP
    >>> action = policy(observation)  # doctest: +SKIP

    See `robovision.agents.agent.load`.
    """
    from robovision.agents import agent

    return agent.load(run, checkpoint, device, precision)


__all__ = ["load"]
