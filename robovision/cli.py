"""The command `robovision`: one frozen dataclass a job, and what is done with it."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import robovision
from robovision.agents.config import TrainConfig
from robovision.envs.demos import DemoOptions
from robovision.errors import UsageError, unknown
from robovision.lidar.simulate_options import SimulateOptions
from robovision.run import Run, differences

HELP = """usage: robovision COMMAND [OPTIONS]

robovision: robotics perception by symmetry.

commands:
  train      train a control policy from pixels
  evaluate   play episodes with a trained policy
  demos      record demonstrations, list the tasks, export to LeRobot
  lidar      evaluate detectors on point clouds, simulate a LiDAR
  weights    list, fetch and check pretrained weights
  doctor     say what works on this machine

`robovision COMMAND --help` lists a command's options and shows examples; `robovision --version` prints the version.

example, a few minutes on two cores:
  robovision train"""

TRAIN = """Train a control policy from pixels by behaviour cloning.

With no arguments: records 25 demonstrations of metaworld/drawer-open, trains ViT-Tiny + CoIn on them and
evaluates on 25 fresh goals. The run folder gets checkpoints, results.json, curve.png, curve.csv,
episodes.csv and evaluation.mp4.

examples:
  robovision train
  robovision train --task metaworld/hammer --seed 1 --out runs/hammer
  robovision train --resume runs/hammer"""

EVALUATE = """Play episodes with a trained policy and say how often it succeeds, with a 95 % interval.

examples:
  robovision evaluate runs/hammer
  robovision evaluate runs/hammer --checkpoint best --episodes 100 --seed 7 --horizon 500"""

DEMOS = """Record demonstrations of a task by its expert, as a Minari dataset.

The folder holds `data`, which Farama's tools open: minari.MinariDataset("FOLDER/data"). In its default place,
demos/TASK-v0, it also has a name: MINARI_DATASETS_PATH=demos and minari.load_dataset("metaworld/hammer-v0").
Episodes are files of their own, so what is there stays readable after Ctrl-C, kill -9 or a full disk.
`robovision demos export` converts a dataset to LeRobot's layout.

examples:
  robovision demos --list
  robovision demos metaworld/hammer --episodes 50
  robovision demos metaworld/hammer --episodes 50 --env.size 96 --out data/hammer-96"""

EXPORT = """Convert a Minari dataset to the layout of LeRobot datasets v3.0: Parquet and MP4.

SOURCE is a folder of `robovision demos`, any other Minari dataset's folder, or its id. The video is lossy (H.264),
and the observation after an episode's last action is left out.

example:
  robovision demos export demos/metaworld/hammer-v0 --lerobot lerobot/hammer"""

LIDAR = """Evaluate detectors on point clouds, and simulate a LiDAR.

commands:
  evaluate   score detections by the metrics of KITTI, nuScenes, Waymo, or scene flow
  simulate   write sequences of a simulated LiDAR with exact boxes and flow

`robovision lidar COMMAND --help` lists a command's options."""

LIDAR_EVALUATE = """Score detections against ground truth; write numbers, curves and the worst frames.

The folders hold, for kitti: one .txt a frame; nuscenes: .json as the devkit writes them; waymo: .parquet as the
dataset 2.0 keeps boxes, with a column `score`; flow: one .npz or .feather a sweep.

examples:
  robovision lidar evaluate --metric kitti --truth training/label_2 --detections results
  robovision lidar evaluate --metric nuscenes --truth truth --detections results --out scores"""

LIDAR_SIMULATE = """Write sequences of a simulated LiDAR in streets made by chance, in KITTI's layout, with exact truth.

The same options give the same files. Finished sequences stay when the command is stopped; call it again to go on.

examples:
  robovision lidar simulate --scenes 2 --frames 5 --out streets
  robovision lidar simulate --scenes 100 --sensor vlp-16 --seed 7 --out vlp"""

WEIGHTS = """List the encoders and their weights, fetch weights from the Hugging Face Hub, check that a file fits.

Checking loads a file as strictly as training does: every missing, unexpected or misshapen tensor is named, and
nothing in the file is executed.

examples:
  robovision weights list
  robovision weights fetch dinov2-vit-s14
  robovision weights check clip-vit-b16 --file ViT-B-16.pt"""

DOCTOR = """Say what works on this machine, and for each problem how to mend it.

The exit code is 1 if `robovision train` would not run.

example:
  robovision doctor"""


@dataclass(frozen=True)
class Train:
    """The options of `robovision train`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()
    out: Path | None = None
    """The run folder; by default a new one under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; the other options must not differ from the run's."""


@dataclass(frozen=True)
class Evaluate:
    """The options of `robovision evaluate`."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    checkpoint: str = "final"
    """final, best (of the evaluated ones), or the number of a step."""
    episodes: int = 25
    """How many episodes, each with its own goal."""
    seed: int = 1000
    """Chooses the goals; the evaluations while training use the run's own seed."""
    horizon: int | None = None
    """Steps an episode; by default as in training."""
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores."""
    out: Path | None = None
    """Folder for results, CSV and video; by default a new one inside the run folder."""

    def __post_init__(self) -> None:
        _check_workers(self.workers)


@dataclass(frozen=True)
class Demos:
    """The options of `robovision demos`."""

    options: Annotated[DemoOptions, tyro.conf.arg(name="")] = DemoOptions()
    list: bool = False
    """Print the tasks and stop."""
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores."""
    out: Path | None = None
    """The folder; by default demos/ and the task's name and -v0. One that was interrupted goes on."""

    def __post_init__(self) -> None:
        _check_workers(self.workers)


@dataclass(frozen=True)
class Export:
    """The options of `robovision demos export`."""

    source: tyro.conf.Positional[str]
    """A folder, or the id of one of Minari's datasets on this machine."""
    lerobot: Path
    """The folder to write; there must be none yet."""
    fps: float | None = None
    """Steps a second; by default what the dataset says."""


@dataclass(frozen=True)
class Weights:
    """The options of `robovision weights`."""

    action: tyro.conf.Positional[Literal["list", "fetch", "check"]]
    """What to do."""
    name: tyro.conf.Positional[str | None] = None
    """An encoder; without it, check looks at everything that is here."""
    file: Path | None = None
    """The weights to check; by default those that were fetched."""

    def __post_init__(self) -> None:
        if self.action == "fetch" and self.name is None:
            raise UsageError("say which weights to fetch; robovision weights list shows them")


@dataclass(frozen=True)
class Doctor:
    """The options of `robovision doctor`."""


@dataclass(frozen=True)
class LidarEvaluate:
    """The options of `robovision lidar evaluate`."""

    metric: Literal["kitti", "nuscenes", "waymo", "flow"]
    """Whose definitions."""
    truth: Path
    """The folder with the ground truth."""
    detections: Path
    """The folder with what was detected."""
    out: Path = Path("lidar-evaluation")
    """The folder for results.json, worst.json and precision-recall.png."""


@dataclass(frozen=True)
class LidarSimulate:
    """The options of `robovision lidar simulate`."""

    options: Annotated[SimulateOptions, tyro.conf.arg(name="")] = SimulateOptions()
    workers: int = 0
    """Processes that simulate; 0: as many as there are cores."""
    out: Path = Path("lidar-scenes")
    """The folder; one that was interrupted goes on."""

    def __post_init__(self) -> None:
        _check_workers(self.workers)


GROUPS = {"lidar": LIDAR}
"""Commands that have commands of their own."""

COMMANDS: dict[
    str, tuple[type[Train | Evaluate | Demos | Export | LidarEvaluate | LidarSimulate | Weights | Doctor], str]
] = {
    "train": (Train, TRAIN),
    "evaluate": (Evaluate, EVALUATE),
    "demos": (Demos, DEMOS),
    "demos export": (Export, EXPORT),
    "lidar evaluate": (LidarEvaluate, LIDAR_EVALUATE),
    "lidar simulate": (LidarSimulate, LIDAR_SIMULATE),
    "weights": (Weights, WEIGHTS),
    "doctor": (Doctor, DOCTOR),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 the doctor found a problem, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _dispatch(list(arguments))
    except UsageError as error:
        print(f"robovision: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nrobovision: interrupted", file=sys.stderr)
        return 130


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
    kind, text = COMMANDS[name]
    if kind is Demos and rest and not rest[0].startswith("-"):
        rest = ["--task", *rest]
    default = _resumed(rest) if kind is Train else tyro.MISSING_NONPROP
    options: Any = tyro.cli(kind, prog=f"robovision {name}", description=text, args=rest, default=default)
    match options:
        case Train():
            return _train(options)
        case Evaluate():
            return _evaluate(options)
        case Demos():
            return _demos(options)
        case Export():
            return _export(options)
        case LidarEvaluate():
            return _lidar_evaluate(options)
        case LidarSimulate():
            return _lidar_simulate(options)
        case Weights():
            return _weights(options)
        case _:
            from robovision.doctor import examine

            return examine()


def _resumed(arguments: Sequence[str]) -> Train:
    """The defaults of `train`: with --resume, those of the run."""
    for k, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag == "--resume":
            path = value or next(iter(arguments[k + 1 : k + 2]), "")
            if path and not path.startswith("-"):
                return Train(config=Run.open(Path(path)).config(TrainConfig), resume=Path(path))
    return Train()


def _train(options: Train) -> int:
    from robovision.agents.train import Training, disk_space, resolve

    began = time.monotonic()
    if options.resume is None:
        config = resolve(options.config)
        path = options.out or _new_folder(Path("runs"), config.task, config.seed)
        run = Run.create(path, "train", config, disk_space(config))
    else:
        run = Run.open(options.resume)
        config = run.config(TrainConfig)
        changed = differences(config, options.config)
        if changed or options.out is not None:
            changed += ["--out: a resumed run stays in its folder"] if options.out else []
            raise UsageError("a resumed run keeps its options; these differ:\n  " + "\n  ".join(changed))
    print(_plan(config, run.path))
    try:
        with run.lock():
            metrics = Training(run, config).execute()
    except KeyboardInterrupt:
        print(f"\nstopped; continue with: {_program()} train --resume {run.path}", file=sys.stderr)
        return 130
    print(_summary(run.path, {m.name: str(m) for m in metrics}, time.monotonic() - began))
    return 0


def _check_workers(workers: int) -> None:
    if workers < 0:
        raise UsageError(f"--workers must not be negative, got {workers}")


def _evaluation_name(options: Evaluate) -> str:
    horizon = "" if options.horizon is None else f"-horizon{options.horizon}"
    return f"{options.checkpoint}-seed{options.seed}-episodes{options.episodes}{horizon}"


def _program() -> str:
    """How to call this command again: by its name, or by its path where the shell would not find it."""
    return "robovision" if shutil.which("robovision") else sys.argv[0]


def _new_folder(parent: Path, task: str, seed: int) -> Path:
    return parent / f"{task.replace('/', '-')}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def _plan(config: TrainConfig, path: Path) -> str:
    encoder = config.encoder
    adapter = " + CoIn" if encoder.adapter == "coin" else ""
    start = (
        f"pretrained weights of {encoder.weights}"
        if encoder.weights
        else "random weights (robovision's own pretrained encoder is not shipped yet)"
    )
    return (
        f"task      {config.task}, {config.demos} demonstrations, seed {config.seed}\n"
        f"policy    {encoder.name}{adapter} at {config.env.size} px from {start}\n"
        f"computes  {config.device}, {config.optimisation.precision}, {config.threads} threads\n"
        f"run       {path}"
    )


def _summary(path: Path, metrics: dict[str, str], seconds: float) -> str:
    video = path / "evaluation.mp4"
    film = f"watch      {video}\n" if video.exists() else ""
    labels = {"success": "success, at the last step", "success_any_step": "success, at any step"}
    shown = {labels.get(name, name): text for name, text in metrics.items() if name != "training_time"}
    results = "".join(f"  {label.replace('_', ', '):<28} {text}\n" for label, text in shown.items())
    return (
        f"\non fresh starts\n{results}"
        f"time       {seconds / 60:.1f} min, of which training {metrics['training_time']}\n\n"
        f"{film}"
        f"curve      {path / 'curve.png'}\n"
        f"numbers    {path / 'results.json'}, {path / 'episodes.csv'}\n"
        f"weights    {path / 'checkpoints'}\n\n"
        f"try next\n"
        f"  {_program()} evaluate {path} --episodes 100 --seed 7\n"
        f"  {_program()} train --task metaworld/button-press-topdown\n"
        f"  {_program()} demos --list"
    )


def _evaluate(options: Evaluate) -> int:
    from robovision.agents.report import evaluate_run
    from robovision.devices import cpu_count

    run = Run.open(options.run)
    out = options.out or options.run / "evaluations" / _evaluation_name(options)
    config = run.config(TrainConfig)
    config = dataclasses.replace(
        config,
        seed=options.seed,
        workers=options.workers or cpu_count(),
        env=config.env if options.horizon is None else dataclasses.replace(config.env, horizon=options.horizon),
        evaluation=dataclasses.replace(config.evaluation, episodes=options.episodes),
    )
    metrics = evaluate_run(run, config, options.checkpoint, out)
    for metric in metrics:
        print(f"{metric.name:<18} {metric}")
    print(f"\nwatch      {out / 'evaluation.mp4'}\nnumbers    {out / 'results.json'}, {out / 'episodes.csv'}")
    return 0


def _demos(options: Demos) -> int:
    from tqdm import tqdm

    from robovision.devices import cpu_count
    from robovision.envs.demos import collect, experts, summarise
    from robovision.envs.minari_dataset import data_folder, dataset_id
    from robovision.progress import move

    if options.list:
        known = experts()
        width = max(len(task) for task in known)
        print("\n".join([f"{'task':<{width}}  expert", *(f"{task:<{width}}  {kind}" for task, kind in known.items())]))
        return 0
    path = options.out or Path("demos") / dataset_id(options.options.task)
    with tqdm(total=options.options.episodes, desc="demonstrations", unit="episode") as bar:
        lost = collect(options.options, path, options.workers or cpu_count(), lambda done: move(bar, done))
    print(f"{summarise(path, options.options.episodes)}; {lost} simulator workers lost\nMinari     {data_folder(path)}")
    return 0


def _export(options: Export) -> int:
    from tqdm import tqdm

    from robovision.envs.lerobot import export
    from robovision.progress import move

    source = Path(options.source) if Path(options.source).exists() else options.source
    with tqdm(desc="export", unit="episode") as bar:
        left_out = export(source, options.lerobot, options.fps, lambda done: move(bar, done))
    print(f"LeRobot    {options.lerobot}{'; left out: ' + ', '.join(left_out) if left_out else ''}")
    return 0


def _lidar_simulate(options: LidarSimulate) -> int:
    from tqdm import tqdm

    from robovision.devices import cpu_count
    from robovision.lidar.simulate import simulate
    from robovision.progress import move

    with tqdm(total=options.options.scenes, desc="sequences", unit="sequence") as bar:
        simulate(options.options, options.out, options.workers or cpu_count(), lambda done: move(bar, done))
    print(f"{options.options.scenes} sequences of {options.options.frames} frames in {options.out}")
    return 0


def _lidar_evaluate(options: LidarEvaluate) -> int:
    from robovision.lidar.evaluate import evaluate

    result = evaluate(options.metric, options.truth, options.detections, options.out)
    print(f"{result.table()}\n\nnumbers and curves are in {options.out}")
    return 0


def _weights(options: Weights) -> int:
    from robovision.encoders import checkpoints, inventory

    match options.action:
        case "list":
            print(inventory.list_weights())
        case "fetch":
            print(checkpoints.fetch(options.name or ""))
        case "check":
            print(inventory.check_weights(options.name, options.file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
