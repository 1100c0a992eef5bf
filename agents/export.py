"""A policy as one file that runs without this library: ONNX, a program of `torch.export`, or TorchScript.

(PyTorch no longer develops TorchScript; it is for programs that load nothing else.)

The file computes one step for a batch of B environments. It remembers nothing: what a step needs of those before comes
out of it and goes into the next.

Convention, of a run of `robovision rl`:
    What the policy observes, by name, as the environment gives it, images as stacks of frames; keypoints as
    `robovision.agents.reinforcement.environments.KeypointObserver` finds them. For ONNX each is an input, else they
    are one dictionary `observations`.
    actions: float32 [B, A] in -1..1.

Convention, of a run of `robovision train`:
    pixels: uint8 [B, 3, S, S], RGB. proprioception: float32 [B, P], where the policy feels.
    past: float32 [B, H - 1, D], the vectors of the images before, and fresh: bool [B], true at the first step of an
        episode, when `past` may hold anything; only where the policy sees H > 1 images.
    actions: float32 [B, K, A] in -1..1, of this step and of those after it. next_past: `past` of the next step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robovision.agents.agent import Agent
from robovision.agents.cloned import ClonedAgent
from robovision.agents.policy import Policy
from robovision.errors import UsageError
from robovision.files import write_atomically
from robovision.quiet import quiet

Form = Literal["onnx", "torch", "torchscript"]
SUFFIXES: dict[Form, str] = {"onnx": ".onnx", "torch": ".pt2", "torchscript": ".ts"}
TOLERANCE = 1e-3
"""By how much actions of the file may differ from the policy's own."""
STEPS = 3

Inputs = dict[str, Any]
"""Tensors by name, or a dictionary of them."""


class Step(nn.Module):
    """One step of a policy as a function; see the module for its inputs and outputs."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self,
        pixels: Tensor,
        proprioception: Tensor | None = None,
        past: Tensor | None = None,
        fresh: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        now = self.policy.embed(pixels)[:, None]
        felt = pixels.new_zeros(pixels.shape[0], 0, dtype=now.dtype) if proprioception is None else proprioception
        if past is None or fresh is None:
            return (self.policy.plan(now, felt).clamp(-1, 1),)
        before = torch.where(fresh[:, None, None], now.expand(-1, self.policy.history - 1, -1), past)
        seen = torch.cat([before, now], dim=1)
        return self.policy.plan(seen, felt).clamp(-1, 1), seen[:, 1:]


def inputs(agent: ClonedAgent, batch: int, seed: int = 0) -> Inputs:
    """Random inputs of the first step of an episode."""
    generator = torch.Generator().manual_seed(seed)
    policy, size = agent.policy, agent.size
    found = {"pixels": torch.randint(256, (batch, 3, size, size), generator=generator, dtype=torch.uint8)}
    if policy.felt:
        found["proprioception"] = torch.randn(batch, policy.felt, generator=generator)
    if policy.history > 1:
        width = (policy.inputs - policy.felt) // policy.history
        found["past"] = torch.zeros(batch, policy.history - 1, width)
        found["fresh"] = torch.ones(batch, dtype=torch.bool)
    return found


@dataclass(frozen=True)
class Function:
    """What is written: a module that is called with inputs by name, the inputs of a batch and a seed, and the names of
    its outputs.
    """

    module: nn.Module
    inputs: Callable[[int, int], Inputs]
    outputs: tuple[str, ...]


def function_of(agent: Agent) -> Function:
    """The step of a policy as a function."""
    if isinstance(agent, ClonedAgent):
        outputs = ("actions", "next_past") if agent.policy.history > 1 else ("actions",)
        return Function(Step(agent.policy), functools.partial(inputs, agent), outputs)
    from robovision.agents.reinforcement.agent import ReinforcedAgent
    from robovision.agents.reinforcement.export import MostLikely, random_observations

    assert isinstance(agent, ReinforcedAgent)

    def observed(batch: int, seed: int) -> Inputs:
        return {"observations": random_observations(agent, batch, seed)}

    return Function(MostLikely(agent), observed, ("actions",))


def export(agent: Agent, path: Path, form: Form) -> float:
    """Write a policy to a file, after playing with it; the largest difference of its actions from the policy's own.

    Args:
        agent: the policy, on the CPU.
        path: the file.
        form: `onnx`, played with onnxruntime; `torch`, for `torch.export.load`; `torchscript`, for `torch.jit.load`.

    Raises:
        UsageError: if a package is missing; if the file can't be written, or acts otherwise than the policy.
    """
    partial = path.with_name(f".{path.name}.partial{SUFFIXES[form]}")
    function = function_of(agent)
    try:
        with torch.no_grad(), quiet():
            _write(function, partial, form)
        difference = max(_differences(function, partial, form))
        if not difference <= TOLERANCE:
            raise UsageError(f"the exported policy acts otherwise: its actions differ by {difference:.2g}")
        with write_atomically(path) as file:
            file.write(partial.read_bytes())
    finally:
        partial.unlink(missing_ok=True)
    return difference


def _write(function: Function, path: Path, form: Form) -> None:
    module, example = function.module.eval(), function.inputs(2, 0)
    if form == "torchscript":
        torch.jit.save(torch.jit.trace(module, example_kwarg_inputs=example, check_trace=False), path)  # type: ignore[no-untyped-call]
        return
    batch = torch.export.Dim("batch", min=1)
    shapes = {
        name: {0: batch} if isinstance(value, Tensor) else {part: {0: batch} for part in value}
        for name, value in example.items()
    }
    program = torch.export.export(module, (), kwargs=example, dynamic_shapes=shapes)
    if form == "torch":
        torch.export.save(program, path)
    else:
        _to_onnx(program, path, list(_flat(example)), function.outputs)


def play(path: Path, form: Form, given: Inputs) -> list[Tensor]:
    """What a file answers to inputs."""
    if form != "onnx":
        with torch.no_grad(), quiet():
            program = torch.export.load(path).module() if form == "torch" else torch.jit.load(path)  # type: ignore[no-untyped-call]
            answer = program(**given)
            return [answer] if isinstance(answer, Tensor) else list(answer)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(None, {k: v.numpy() for k, v in _flat(given).items()})]


def _flat(given: Inputs) -> dict[str, Tensor]:
    """All tensors of the inputs by their own names."""
    found: dict[str, Tensor] = {}
    for name, value in given.items():
        found |= {name: value} if isinstance(value, Tensor) else value
    return found


def _to_onnx(program: torch.export.ExportedProgram, path: Path, names: list[str], outputs: Sequence[str]) -> None:
    try:
        import onnxruntime  # noqa: F401  what checks the file
        import onnxscript  # noqa: F401  what torch writes it with
    except ModuleNotFoundError as error:
        raise UsageError(f"exporting to ONNX needs {error.name}: pip install 'robovision[onnx]'") from None
    torch.onnx.export(
        program, f=path, dynamo=True, input_names=names, output_names=outputs, external_data=False, verbose=False
    )


def _differences(function: Function, path: Path, form: Form) -> Iterator[float]:
    """How far what the file computes is from what the policy does, step by step of an episode of three at once."""
    past: Inputs = {}
    for step in range(STEPS):
        given = function.inputs(3, step) | past
        with torch.no_grad():
            wanted = function.module(**given)
        found = play(path, form, given)
        yield max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))
        if len(found) > 1:
            past = {"past": found[1], "fresh": torch.zeros(3, dtype=torch.bool)}
