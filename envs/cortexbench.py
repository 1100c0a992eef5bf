"""The MuJoCo part of CortexBench (Majumdar et al., NeurIPS 2023), as its adaptation studies use it.

A task's own defaults are the protocol's: `make(task, EnvOptions(preset="exact"))` gives its pictures (rendered at
256 pixels and cropped to 224 there, directly at 224 with the narrower view here), its camera, horizon, frame skip,
proprioception, fresh goals at every reset and its rule of success. How many demonstrations and rollouts it has is
said here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How much one task of the benchmark is shown and tried."""

    task: str
    demonstrations: int
    """To learn from."""
    rollouts: int
    """Episodes of an evaluation; CortexBench plays 10 on DMC."""
    history: int = 3
    """Images that the policy sees at once."""


CORTEXBENCH = (
    *(Protocol(f"adroit/{name}", 100, 25) for name in ("pen", "relocate")),
    *(
        Protocol(f"metaworld/{name}", 25, 25)
        for name in ("assembly", "bin-picking", "button-press-topdown", "drawer-open", "hammer")
    ),
    *(
        Protocol(f"dmc/{name}", 100, 25)
        for name in ("walker-stand", "walker-walk", "reacher-easy", "cheetah-run", "finger-spin")
    ),
)
"""The twelve tasks. The score of the benchmark is the mean over them of success at the last step, or, on DMC, of the
return over 1000."""
