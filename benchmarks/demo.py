"""How fast the parts of the main job are, beside what a user would write instead, in one process.

    python benchmarks/demo.py

Prints the tables of benchmarks/README.md.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import torch
from timing import seconds
from torch.nn import functional

from robovision.agents.config import TrainConfig
from robovision.agents.policy import Policy, make_policy
from robovision.devices import cpu_count
from robovision.envs import EnvOptions, make
from robovision.envs.gl import choose_backend

choose_backend()


def simulators_own_way(size: int) -> Callable[[], object]:
    """Ten steps of MetaWorld as `gym.make` gives it, rendered as the simulator does."""
    import gymnasium
    import metaworld  # noqa: F401  (registers the environments)

    env = gymnasium.make(
        "Meta-World/MT1", env_name="drawer-open-v3", render_mode="rgb_array", camera_name="corner3",
        width=size, height=size,
    )  # fmt: skip
    env.reset(seed=0)
    action = np.zeros(4, np.float32)

    def steps() -> None:
        for _ in range(10):
            env.step(action)
            env.render()

    return steps


def our_way(size: int, preset: str) -> Callable[[], object]:
    """Ten steps of ours, with an observation of pixels at each."""
    env = make("metaworld/drawer-open", EnvOptions(size=size, preset=preset, cameras=("corner3",)))  # type: ignore[arg-type]
    env.reset(seed=0)
    action = np.zeros(4, np.float32)
    return lambda: [env.step(action) for _ in range(10)]


def rendering() -> None:
    """Print frames a second."""
    print("| metaworld/drawer-open, camera corner3 | pixels | frames/s | ratio |\n|---|---|---|---|")
    for size in (64, 224):
        base = 10 / seconds(simulators_own_way(size))
        print(f"| gym.make, render_mode=rgb_array | {size} | {base:.0f} | 1.0 |")
        for preset in ("exact", "fast", "fastest"):
            rate = 10 / seconds(our_way(size, preset))
            print(f"| ours, {preset} | {size} | {rate:.0f} | {rate / base:.1f} |")


def training_step(agent: Policy, half: bool) -> Callable[[], object]:
    """A step of AdamW on a batch of 32 images of 64 pixels."""
    optimizer = torch.optim.AdamW(agent.parameters())
    images = torch.randint(256, (32, 3, 64, 64), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    proprioception, actions = torch.randn(32, 4), torch.randn(32, 4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            embedded = agent.embed(images)
        loss = agent.loss(agent.act(embedded.float()[:, None], proprioception), actions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def training() -> None:
    """Print samples a second."""
    torch.set_num_threads(cpu_count())
    options = TrainConfig()
    plain = dataclasses.replace(options, encoder=dataclasses.replace(options.encoder, adapter="none"))
    print("\n| training step, 64 px, batch 32 | precision | samples/s | ratio |\n|---|---|---|---|")
    for name, config in {"ViT-Tiny": plain, "ViT-Tiny + CoIn": options}.items():
        base = 0.0
        for half in (False, True):
            agent = make_policy(config, 4, 4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            step = training_step(agent, half)
            rate = 4 * 32 / seconds(lambda step=step: [step() for _ in range(4)])  # type: ignore[misc]
            base = base or rate
            print(f"| {name} | {'bfloat16' if half else 'float32'} | {rate:.0f} | {rate / base:.2f} |")


def attention() -> None:
    """Print why attention stays in float32 on the CPU: forward and backward, 32 images of 37 tokens."""
    q = torch.randn(32, 3, 37, 64, requires_grad=True)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = q.detach().to(dtype).requires_grad_()
        rates[dtype] = seconds(
            lambda x=x: [functional.scaled_dot_product_attention(x, x, x).sum().backward() for _ in range(20)]  # type: ignore[misc]
        )
    print(
        "\nattention with backward takes "
        f"{rates[torch.bfloat16] / rates[torch.float32]:.1f} times as long in bfloat16 as in float32"
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    rendering()
    training()
    attention()
