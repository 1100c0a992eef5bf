"""`robovision bench probes | claims | control`: what a method is worth, by trainings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robovision.bench.claims import NAMES as CLAIM_NAMES
from robovision.bench.control_plan import Cell, Choice
from robovision.commands import Command, check_workers
from robovision.encoders.names import check_image_size
from robovision.envs.registry import find_task
from robovision.errors import UsageError, unknown
from robovision.files import make_folder

PROBES = """How well frozen features tell what the robot feels and where the objects are: R^2 of linear probes.

Beside the encoder stand the same one with random weights, the bare pixels, and a convolutional network of the same
cost that is trained on the very images and targets. Prints a table in Markdown.

examples:
  robovision bench probes
  robovision bench probes metaworld/hammer --encoder vit-tiny --weights runs/mae/encoder.safetensors"""


@dataclass(frozen=True)
class Probes:
    """The options of `robovision bench probes`."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which tasks; without any, six that pretraining never sees and two of which it sees other seeds."""
    encoder: str = "vit-tiny-sim"
    """Which encoder; one without weights of its own needs --weights."""
    weights: Path | None = None
    """A file with its weights, in any published format."""
    size: int = 64
    """Side of the images in pixels."""
    episodes: int = 96
    """Episodes of a task; a third of them to judge on."""
    seed: int = 0
    """Chooses the episodes and the random weights."""

    def __post_init__(self) -> None:
        check_image_size(self.encoder, self.size, "--size")
        for task in self.tasks:
            find_task(task)
        if self.episodes < 6:
            raise UsageError(f"--episodes must be at least 6, got {self.episodes}")


def _probes(options: Probes) -> int:
    from tqdm import tqdm

    from robovision.bench import probes
    from robovision.progress import move

    tasks = options.tasks or probes.TASKS
    encoders = probes.pair(options.encoder, options.weights, options.size, options.seed)
    with tqdm(total=len(tasks), desc="tasks", leave=False) as bar:
        text = probes.table(encoders, tasks, options.size, options.seed, options.episodes, lambda n: move(bar, n))
    print(text)
    return 0


CONTROL = """Compare ways to adapt an encoder on control tasks: tasks x methods x seeds, each cell a training.

Demonstrations are recorded once a task and shared. The same command again goes on where it was stopped, cell by cell;
tables in Markdown, cells.csv and control.png in --out say what is finished. Budgets: smoke, minutes; brief, five
demonstrations and short trainings, an hour of one core; cpu, hours at small size; paper, the protocol of CortexBench at
full size on a GPU.

examples:
  robovision bench control
  robovision bench control --budget brief --equal-cost
  robovision bench control --budget cpu --tasks metaworld/hammer metaworld/assembly --methods fine-tuned coin --demos 10
  robovision bench control --budget paper --encoder vc1-vit-b16 --out runs/vc1 --ray auto"""


@dataclass(frozen=True)
class Control:
    """The options of `robovision bench control`."""

    choice: Annotated[Choice, tyro.conf.arg(name="")] = Choice()
    out: Path | None = None
    """The folder; by default runs/control-BUDGET, with the number of demonstrations if it is given."""
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores, and with --ray as a training has of them."""
    threads: int = 0
    """Threads of a training on the CPU; 0: as many as there are cores, and one with --ray."""
    ray: str | None = None
    """local: cells side by side on this machine's cores; or the address of a Ray cluster, such as auto."""
    table_only: bool = False
    """Train nothing, only write the tables of what is finished."""

    def __post_init__(self) -> None:
        check_workers(self.workers)


def _control(options: Control) -> int:
    from tqdm import tqdm

    from robovision.bench import control

    choice = options.choice
    name = f"control-{choice.budget}" + ("" if choice.demos is None else f"-{choice.demos}")
    out = options.out or Path("runs") / (f"{name}-equal-cost" if choice.equal_cost else name)
    make_folder(out)
    processes = control.Processes(options.workers, options.threads or int(options.ray is not None))
    if not options.table_only:
        with tqdm(total=len(choice.cells()), desc="cells", unit="cell") as bar:

            def done(cell: Cell) -> None:
                control.write(choice, out)
                bar.update()

            control.run(choice, out.resolve(), processes, options.ray, done)
    print(control.write(choice, out))
    return 0


CLAIMS = """Try published claims at small scale: does it hold here? Minutes each, on one core.

  dsd        samples that a convolutional, a locally and a fully connected network need (Lahoti et al.)
  lookhere   from 8 x 8 to 16 x 16 tokens, beside learned and sine-cosine positions
  nat        labels that change under a shift by a pixel, beside Swin's windows
  coswin     500 samples, beside Swin without the convolutions
  dualtoken  DualToken-ViT beside ViT-Tiny: accuracy, and the time of a core
  smoe       heat diffusion that depends on the place, beside a convolutional network
  jitter     a keypoint that glides by 1/8 pixel, with CoIn's stem plain and alias-free

Prints a table and whether the targets were reached; writes NAME.png. The same seeds give the same numbers.

examples:
  robovision bench claims dsd
  robovision bench claims lookhere nat --out claims"""


@dataclass(frozen=True)
class Claims:
    """The options of `robovision bench claims`."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which claims; without any, all."""
    out: Path = Path("claims")
    """The folder for the pictures."""

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in CLAIM_NAMES:
                raise unknown("claim", name, CLAIM_NAMES)


def _claims(options: Claims) -> int:
    from importlib import import_module

    from tqdm import tqdm

    from robovision.bench.claims.results import draw

    make_folder(options.out)
    for name in options.names or CLAIM_NAMES:
        claim = import_module(f"robovision.bench.claims.{name}")
        with tqdm(total=claim.count(), desc=name, leave=False) as bar:
            result = claim.run(bar.update)
        draw(options.out / f"{name}.png", result)
        print(f"{result.text()}\n\npicture    {options.out / f'{name}.png'}\n")
    return 0


COMMANDS = {
    "bench probes": Command(Probes, PROBES, _probes),
    "bench claims": Command(Claims, CLAIMS, _claims),
    "bench control": Command(Control, CONTROL, _control),
}
