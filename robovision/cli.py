"""The command `robovision`: finds the command that was named, parses its options, runs it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import tyro

import robovision
from robovision.commands import (
    Command,
    bench,
    demonstrations,
    detectors,
    doctor,
    keypoints,
    lidar,
    lidar_pretrain,
    lidar_record,
    lidar_symmetry,
    policies,
    pretrain,
    reinforcement,
    symmetry,
    use,
    weights,
)
from robovision.errors import UsageError, unknown

HELP = """usage: robovision COMMAND [OPTIONS]

robovision: robotics perception by symmetry.

commands:
  train      train a control policy from pixels by behaviour cloning
  rl         train a control policy from pixels by reinforcement learning
  evaluate   play episodes with a trained policy
  export     write a policy as ONNX or a torch program
  push       upload a policy to the Hugging Face Hub
  pretrain   pretrain an encoder on images or a LiDAR backbone on sweeps, without labels
  demos      record demonstrations, list the tasks, export to LeRobot
  keypoints  extract, match, evaluate, export and train keypoints
  lidar      detect objects in point clouds, train and evaluate detectors, simulate a LiDAR, view clouds
  weights    list, fetch and check pretrained weights
  symmetry   how a model answers when the image or the cloud moves or turns
  bench      measure speed on this machine
  doctor     say what works on this machine

`robovision COMMAND --help` lists a command's options and shows examples; `robovision --version` prints the version.

example, a few minutes on two cores:
  robovision train"""

GROUPS = {"lidar": lidar.GROUP, "bench": bench.GROUP, "pretrain": pretrain.GROUP, "keypoints": keypoints.GROUP}
"""Commands that have commands of their own."""

COMMANDS: dict[str, Command] = {
    **policies.COMMANDS,
    **reinforcement.COMMANDS,
    **use.COMMANDS,
    **pretrain.COMMANDS,
    **lidar_pretrain.COMMANDS,
    **lidar_record.COMMANDS,
    **demonstrations.COMMANDS,
    **keypoints.COMMANDS,
    **lidar.COMMANDS,
    **detectors.COMMANDS,
    **weights.COMMANDS,
    **symmetry.COMMANDS,
    **lidar_symmetry.COMMANDS,
    **bench.COMMANDS,
    **doctor.COMMANDS,
}

SPINS = "10000"
"""How often a thread of PyTorch's OpenMP looks for work before it sleeps; GNU's own default is 300,000.

Where another process takes a core, threads that look wait in vain for one that can't run: on two cores with one busy
neighbour 20 steps of a pretraining took 49 s by default and 8 s so; on idle cores both were as quick.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 the doctor found a problem, 2 wrong usage,
    130 interrupted, 141 nobody reads on.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # before torch is imported, and for every process started from here
    before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        code = _dispatch(list(arguments))
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"robovision: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nrobovision: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        warnings.formatwarning = before


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What a user reads of a warning, on a line of its own: not where in the program it was raised."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else "\n"  # there may be a progress bar
    return f"{clear}robovision: {message}\n"


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if arguments[0] == "--version":
        print(robovision.__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in GROUPS and (not rest or rest[0] in ("-h", "--help")):
        print(GROUPS[name])
        return 0
    if rest and (name in GROUPS or f"{name} {rest[0]}" in COMMANDS):
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    command = COMMANDS[name]
    rest, default = command.prepare(rest) if command.prepare else (rest, tyro.MISSING_NONPROP)
    return command.run(
        tyro.cli(command.options, prog=f"robovision {name}", description=command.text, args=rest, default=default)
    )


if __name__ == "__main__":
    sys.exit(main())
