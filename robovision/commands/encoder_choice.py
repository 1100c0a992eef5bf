"""What `train` and `rl` make of an encoder of which only the name is given."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from robovision.agents.config import EncoderOptions, usual_options
from robovision.commands import named
from robovision.encoders.names import ENCODERS, find_spec
from robovision.envs.registry import EnvOptions


def spell_out(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--encoder NAME` as `--encoder.name NAME`."""
    return [re.sub(r"^--encoder(?=$|=)", "--encoder.name", argument) for argument in arguments]


def choose(arguments: Sequence[str], encoder: EncoderOptions, env: EnvOptions) -> tuple[EncoderOptions, EnvOptions]:
    """The defaults that fit the encoder that the arguments name, its images no smaller than it takes; else those given.

    A name that is not known changes nothing: the parsed options say so.
    """
    name = named(arguments, "--encoder.name")
    if name not in ENCODERS:
        return encoder, env
    return usual_options(name), dataclasses.replace(env, size=max(env.size, find_spec(name).smallest))
