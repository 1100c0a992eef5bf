"""Say what works on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from robovision.commands import Command

DOCTOR = """Say what works on this machine, and for each problem how to mend it.

The exit code is 1 if `robovision train` would not run.

example:
  robovision doctor"""


@dataclass(frozen=True)
class Doctor:
    """The options of `robovision doctor`."""


def _doctor(options: Doctor) -> int:
    from robovision.doctor import examine

    return examine()


COMMANDS = {"doctor": Command(Doctor, DOCTOR, _doctor)}
