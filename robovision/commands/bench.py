"""Measure: ours beside what a user would pick instead."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robovision.bench.claims import NAMES as CLAIM_NAMES
from robovision.bench.control_plan import Cell, Choice
from robovision.commands import Command, check_workers
from robovision.devices import Device
from robovision.encoders.names import check_image_size
from robovision.envs.registry import find_task
from robovision.errors import UsageError, unknown
from robovision.files import make_folder, write_atomically

GROUP = """Measure speed on this machine, side by side with what you would pick instead.

commands:
  envs       frames a second of each preset against the simulator's own way
  encoders   images a second of the encoders against transformers, and what CoIn adds
  keypoints  S-TREK beside SIFT, RootSIFT and ORB: rotation, perspective, light, pose, time
  lidar      KITTI's evaluation, overlaps against shapely, rays against MuJoCo and Open3D, simulated sweeps
  claims     published claims about symmetry and biases, each tried at small scale in minutes
  probes     what an encoder's frozen features tell, against random weights and a trained network
  control    adaptation methods on control tasks: frozen, fine-tuned, with CoIn, adapters, from scratch

`robovision bench COMMAND --help` lists a command's options."""

ENVS = """Frames a second of each rendering preset against the simulator's own way, single and vectorised.

The ways take turns in one process, and a ratio is the median over the turns: other work on the machine slows them
alike. Four tables in Markdown: one environment; one for each core, beside Gymnasium's AsyncVectorEnv; one worker for
each core against one; and what our environment adds to a step without pictures. All take some minutes on two idle
cores.

examples:
  robovision bench envs --out envs.md
  robovision bench envs metaworld/hammer dmc/cheetah-run --sizes 128"""

ENCODERS = """Images a second of the encoders against those of transformers, forward and with backward, in float32 and
bfloat16; what CoIn adds to the time; and the peak memory of a pass.

All weights are random. The ways take turns in one process, and a ratio is the median over the turns. Prints tables in
Markdown: the ViTs of CLIP, DINOv2 and the rest, ResNet-50, LookHere, NAT, Swin, CoSwin, DualToken-ViT and SMoE; in all
some minutes on two idle cores.

examples:
  robovision bench encoders --out encoders.md
  robovision bench encoders vit-base dinov2-vit-b14 --size 224 --batch 16"""


@dataclass(frozen=True)
class Envs:
    """The options of `robovision bench envs`."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which tasks; without any, two of MetaWorld, Adroit and the control suite, and one of Gymnasium."""
    sizes: tuple[int, ...] = (84, 224)
    """Sides of the images in pixels."""
    rounds: int = 5
    """How often each way takes its turn."""
    out: Path | None = None
    """A file that gets the tables too, each as soon as it is measured; what it held before is replaced."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")
        if not self.sizes:
            raise UsageError("--sizes must name at least one size")


@dataclass(frozen=True)
class Encoders:
    """The options of `robovision bench encoders`."""

    encoders: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which encoders; without any, the usual ones at the sizes at which they are used."""
    size: int = 224
    """Side of the images in pixels, for the encoders that are named."""
    batch: int = 8
    """Images in one pass, for the encoders that are named."""
    rounds: int = 5
    """How often each way takes its turn."""
    device: Device = "auto"
    """Where; auto: on a GPU if there is one."""
    out: Path | None = None
    """A file that gets the tables too, each as soon as it is measured; what it held before is replaced."""

    def __post_init__(self) -> None:
        for name in ("batch", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} must be at least 1, got {getattr(self, name)}")


LIDAR = """KITTI's evaluation, overlaps of boxes against shapely, rays against MuJoCo and Open3D, simulated sweeps;
voxels, sparse convolutions (against spconv, where it is installed, and dense ones) and whole detectors, with memory.

The detectors run on all cores and are timed by the clock. All else runs on one core, and times are those that the core
works for it. The ways take turns in one process, and a
ratio is the median over the turns. Prints tables in Markdown.

examples:
  robovision bench lidar
  robovision bench lidar --data kitti_eval"""


@dataclass(frozen=True)
class Lidar:
    """The options of `robovision bench lidar`."""

    data: Path | None = None
    """A folder with real frames to evaluate, ground truth in label_2/ and detections in pred/; else they are made."""
    rounds: int = 5
    """How often each way takes its turn."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")


KEYPOINTS = """Keypoints side by side on photographs of scikit-image that S-TREK was not trained on, and on yours.

Each photograph, its shorter side 480 pixels, is turned by 0, 15, ... 345 degrees, tilted, and lit anew; 1,024
keypoints, mutual nearest neighbours, points near the photograph's edge left out for every extractor; homographies by
OpenCV's RANSAC (1 px) and MAGSAC++ (1 px). Then milliseconds an image of 640 x 480 pixels, taking turns, and the memory
that one of 12 megapixels takes. In --data, photographs with cameras (image/, intrinsic/, pose/) give relative poses
too. Prints tables in Markdown; --out gets them too, every number (CSV) and curves (PNG). Extractors whose weights must
be downloaded (ALIKED, DISK, SuperPoint, ...) are not among these.

The whole takes half an hour of a core; `--step 45 --versions 2` takes a few minutes.

examples:
  robovision bench keypoints --out runs/keypoints
  robovision bench keypoints strek rootsift --data photographs --step 45 --versions 2"""


@dataclass(frozen=True)
class Keypoints:
    """The options of `robovision bench keypoints`."""

    extractors: tyro.conf.Positional[tuple[str, ...]] = ("strek", "strek-fast", "rootsift", "sift", "orb")
    """Which extractors."""
    data: Path | None = None
    """A folder with more photographs."""
    step: int = 15
    """Degrees between two rotations; a divisor of 90."""
    versions: int = 8
    """Tilted, or lit, versions of a photograph."""
    rounds: int = 9
    """How often each extractor takes its turn when it is timed."""
    out: Path | None = None
    """A folder for keypoints.md, and for each part its numbers (CSV) and curves (PNG)."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")


def _keypoints(options: Keypoints) -> int:
    from tqdm import tqdm

    from robovision.bench import keypoints
    from robovision.keypoints.selfwarp import WarpOptions

    settings = WarpOptions(options.step, options.versions)
    named = keypoints.photographs(options.data)
    if options.out is not None:
        make_folder(options.out)
    done: list[keypoints.Section] = []
    with tqdm(total=keypoints.count(named, settings), desc="versions", unit="image", leave=False) as bar:
        parts = keypoints.sections(options.extractors, named, settings, options.rounds, bar.update)
        posed = () if options.data is None else keypoints.poses(options.extractors, options.data)
        for part in itertools.chain(parts, posed):
            tqdm.write(f"{part.text}\n")
            done.append(part)
            if options.out is not None:
                keypoints.write(options.out, done)
    return 0


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


def _envs(options: Envs) -> int:
    from tqdm import tqdm

    from robovision.bench import envs
    from robovision.progress import move

    tasks, light = options.tasks or envs.TASKS, () if options.tasks else envs.LIGHT
    envs.check(tasks)
    with tqdm(total=envs.count(tasks, light, options.sizes), desc="measurements", leave=False) as bar:
        _show(envs.table(tasks, light, options.sizes, options.rounds, lambda done: move(bar, done)), options.out)
    return 0


def _show(tables: Iterable[str], out: Path | None) -> None:
    """Print tables, and write them to a file, each as soon as it is there."""
    from tqdm import tqdm

    if out is not None:
        make_folder(out.parent)
    texts: list[str] = []
    for text in tables:
        tqdm.write(f"{text}\n")
        texts.append(f"{text}\n")
        if out is not None:
            with write_atomically(out) as file:
                file.write("\n".join(texts).encode())


def _lidar(options: Lidar) -> int:
    from tqdm import tqdm

    from robovision.bench import lidar
    from robovision.progress import move

    lidar.check(options.data)
    with tqdm(total=lidar.count(), desc="measurements", leave=False) as bar:
        for text in lidar.table(options.data, options.rounds, lambda done: move(bar, done)):
            tqdm.write(f"{text}\n")
    return 0


def _encoders(options: Encoders) -> int:
    from tqdm import tqdm

    from robovision.bench import encoders

    cases = [encoders.Case(name, options.size, options.batch) for name in options.encoders] or encoders.CASES
    encoders.check(cases)
    with tqdm(total=encoders.count(cases), desc="measurements", leave=False) as bar:
        _show(encoders.table(cases, options.rounds, options.device, bar.update), options.out)
    return 0


COMMANDS = {
    "bench envs": Command(Envs, ENVS, _envs),
    "bench encoders": Command(Encoders, ENCODERS, _encoders),
    "bench keypoints": Command(Keypoints, KEYPOINTS, _keypoints),
    "bench lidar": Command(Lidar, LIDAR, _lidar),
    "bench probes": Command(Probes, PROBES, _probes),
    "bench claims": Command(Claims, CLAIMS, _claims),
    "bench control": Command(Control, CONTROL, _control),
}
