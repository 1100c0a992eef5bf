"""What pretraining a small LiDAR detector gives with few labels, on simulated sequences: one resumable command.

Each method pretrains the backbone of the model `tiny` once on all training sweeps, without labels. Each cell (method,
share of the labels, seed) trains the whole detector for the same number of steps and is judged on other streets by
KITTI's average precision. A cell that is done is not run again, one that was broken off goes on where it was; the table
and the plot are of what is done, so that cells may be added by and by: the same command with other --methods,
--fractions and --seeds. Everything else must stay, and is kept in settings.json.
"""

import argparse
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
from scipy import stats
from tqdm import tqdm

from robovision.files import make_folder, write_atomically, write_csv, write_json
from robovision.lidar.detectors.data import find_sequences
from robovision.lidar.detectors.detecting import Outputs, find, in_image
from robovision.lidar.detectors.detector import Detector
from robovision.lidar.detectors.files import load_detector, save_detector
from robovision.lidar.detectors.train_options import TrainOptions
from robovision.lidar.detectors.training import Training
from robovision.lidar.kitti_labels import write_objects
from robovision.lidar.kitti_metric import evaluation
from robovision.lidar.pretraining.files import FILE, assign_backbone
from robovision.lidar.pretraining.options import PretrainOptions
from robovision.lidar.pretraining.training import Pretraining
from robovision.lidar.sensors import hdl_64e
from robovision.lidar.simulate import CALIBRATION, simulate
from robovision.lidar.simulate_options import SimulateOptions
from robovision.processes import Processes
from robovision.run import Run

METHODS = {
    "scratch": (),
    "pointcontrast": ("pointcontrast",),
    "strl": ("strl",),
    "also": ("also",),
    "spatial": ("contrast", "rotation"),
    "temporal": ("flow",),
    "both": ("contrast", "rotation", "flow"),
    "both-estimated": ("contrast", "rotation", "flow"),
}
ESTIMATED = ("both-estimated",)
"""Those whose flow is estimated; the others that need it have the truth."""
MODEL = "tiny"
CLASSES = {"Car": "Car_3d@0.5", "Pedestrian": "Pedestrian_3d@0.25", "Cyclist": "Cyclist_3d@0.25"}
"""What is reported of each class: boxes in space at the loose overlaps; the strict ones are kept in the cells."""
SCORE = 0.05
TRAIN_SEED, TEST_SEED = 21, 22
SETTINGS = ("columns", "scenes", "frames", "tests", "pretraining", "steps")
"""The options that all cells of a folder share."""


def settle(options):
    """Write down what all cells of the folder share, or stop if it has others already."""
    path, mine = options.out / "settings.json", {name: getattr(options, name) for name in SETTINGS}
    if not path.exists():
        make_folder(options.out)
        write_json(path, mine)
    elif json.loads(path.read_text()) != mine:
        raise SystemExit(f"{options.out} has cells of other settings, {path.read_text()}: give these, or another --out")


def prepare(options):
    """Simulate the sequences to learn from, and sweeps of other streets to be judged on, each with the one after it.

    Only the first is judged on; the second is for `robovision symmetry lidar`, which looks at features along the flow.
    """
    workers = os.cpu_count() or 1
    sensor = write_sensor(options.out / "sensor.json", options.columns)
    for name, scenes, frames, seed in (
        ("train", options.scenes, options.frames, TRAIN_SEED),
        ("test", options.tests, 2, TEST_SEED),
    ):
        wanted = SimulateOptions(scenes, frames, str(sensor), seed)
        with tqdm(total=scenes, desc=f"{name}: sequences") as bar:
            simulate(wanted, options.out / name, workers, lambda done, bar=bar: bar.update(done - bar.n))


def write_sensor(path, columns):
    """The file of an HDL-64E that fires less often while it turns: fewer points for trainings on small machines."""
    full = hdl_64e()
    described = {"elevations": np.degrees(full.elevations).tolist(), "columns": columns, "incidence": full.incidence}
    write_json(path, {**described, "fades": full.fades, "grain": full.grain})
    return path


def run_in(folder, job, config):
    """The run in a folder, new if there is none."""
    return Run.open(folder) if (folder / "run.json").exists() else Run.create(folder, job, config, 0)


def pretrained(method, options):
    """The run folder of a method's pretraining, after training whatever is missing; None for none."""
    if not METHODS[method]:
        return None
    folder = options.out / f"pretrain-{method}"
    if not (folder / FILE).exists():
        job = PretrainOptions(
            data=(options.out / "train",), model=MODEL, objectives=METHODS[method], points=512, ema=0.98,
            flow="estimated" if method in ESTIMATED else "truth",
            steps=options.pretraining, threads=1, checkpoint_every=50,
        ).resolved()  # fmt: skip
        run = run_in(folder, "pretrain lidar", job)
        with run.lock():
            Pretraining(run, run.config(PretrainOptions), Processes()).execute()
    return folder


def train(method, fraction, seed, options):
    """The detector of a cell, after training whatever is missing."""
    folder = options.out / f"{method}-{100 * fraction:g}-seed{seed}"
    path = folder / "detector.safetensors"
    if not path.exists():
        job = TrainOptions(
            data=(options.out / "train",), model=MODEL, fraction=fraction, seed=seed, steps=options.steps, threads=1,
            pretrained=pretrained(method, options),
        ).resolved()  # fmt: skip
        run = run_in(folder, "lidar train", job)
        with run.lock():
            Training(run, run.config(TrainOptions), Processes()).execute()
    return path


def judge(path, options):
    """KITTI's average precision (R40, moderate, %) of a detector by class and kind of overlap."""
    detector = load_detector(path)
    truth, results = path.parent / "truth", path.parent / "results"
    for folder in (truth, results):
        make_folder(folder)
    outputs = Outputs(SCORE, detector.config.ground, pictures=False)
    for drive in find_sequences([options.out / "test"]):
        cloud = drive.clouds[0]
        shutil.copyfile(cloud.parent.parent / "label_2" / f"{cloud.stem}.txt", truth / f"{drive.name}.txt")
        found = find(detector, cloud, outputs).detections
        write_objects(results / f"{drive.name}.txt", in_image(found, CALIBRATION))
    metrics = evaluation(truth, results).metrics
    return {m.name: m.value for m in metrics if m.name.endswith("/moderate_R40")} | {
        f"{m.name}_count": m.count for m in metrics if m.name.endswith("_3d/moderate_R40")
    }


def run_cells(options):
    """Run the cells that are missing, in the order of the options."""
    for fraction, seed, method in itertools.product(options.fractions, options.seeds, options.methods):
        path = cell_path(method, fraction, seed, options)
        if not path.exists():
            detector = train(method, fraction, seed, options)
            cell = {"method": method, "fraction": fraction, "seed": seed}
            write_json(path, {**cell, "metrics": judge(detector, options)})
            report(options)


def cell_path(method, fraction, seed, options):
    """The file of a cell's result."""
    return options.out / "cells" / f"{method}-{100 * fraction:g}-{seed}.json"


def read_cells(options):
    """The results that are there: of each cell the precisions of the classes and their mean."""
    cells = []
    for path in sorted((options.out / "cells").glob("*.json")):
        cell = json.loads(path.read_text())
        metrics = cell.pop("metrics")
        values = {name: metrics[f"{key}/moderate_R40"] for name, key in CLASSES.items()}
        strict = {f"{name} strict": metrics[f"{name}_3d/moderate_R40"] for name in CLASSES}
        cells.append({**cell, **values, "mean": float(np.mean(list(values.values()))), **strict})
    return cells


def spread(values):
    """Mean, and half of the 95 % interval by Student's t over the seeds; NaN for fewer than three."""
    values = np.asarray(values)
    if len(values) < 3:
        return float(values.mean()), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def report(options):
    """Write cells.csv, table.md and label-efficiency.png of what is done."""
    cells = read_cells(options)
    write_csv(options.out / "cells.csv", list(cells[0]), cells)
    lines = [
        f"| labels | method | {' | '.join(CLASSES)} | mean | beside scratch | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for fraction, method in itertools.product(sorted({c["fraction"] for c in cells}), METHODS):
        mine = {c["seed"]: c for c in cells if c["fraction"] == fraction and c["method"] == method}
        if mine:
            base = {c["seed"]: c for c in cells if c["fraction"] == fraction and c["method"] == "scratch"}
            numbers = [text(spread([c[name] for c in mine.values()])) for name in (*CLASSES, "mean")]
            gains = [c["mean"] - base[seed]["mean"] for seed, c in mine.items() if seed in base]
            gain = text(spread(gains), "+") if gains and method != "scratch" else ""
            lines.append(f"| {fraction:.0%} | {method} | {' | '.join(numbers)} | {gain} | {len(mine)} |")
    with write_atomically(options.out / "table.md") as file:
        file.write(("\n".join(lines) + "\n").encode())
    draw(options.out / "label-efficiency.png", cells)


def text(value, sign=""):
    """A mean with half of its interval."""
    mean, half = value
    return f"{mean:{sign}.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")


def draw(path, cells):
    """A PNG: the mean precision of each seed and their mean, by method and share of the labels."""
    from matplotlib.figure import Figure

    fractions = sorted({c["fraction"] for c in cells})
    figure = Figure(figsize=(1.5 + 3.5 * len(fractions), 3.4), layout="constrained", dpi=110)
    for axes, fraction in zip(
        figure.subplots(1, len(fractions), sharey=True, squeeze=False)[0], fractions, strict=True
    ):
        for place, method in enumerate(METHODS):
            values = [c["mean"] for c in cells if c["fraction"] == fraction and c["method"] == method]
            axes.scatter([place] * len(values), values, color="0.6", s=14)
            if values:
                mean, half = spread(values)
                axes.errorbar(place, mean, None if np.isnan(half) else half, marker="o", color=f"C{place}", capsize=4)
        axes.set_xticks(range(len(METHODS)), METHODS, rotation=40, ha="right")
        axes.set_title(f"{fraction:.0%} of the labels", fontsize=10)
        axes.grid(alpha=0.3, axis="y")
    figure.axes[0].set_ylabel("3D AP R40, loose, mean of classes, %")
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def bare(options):
    """Write detectors with the pretrained backbones before any label, for `robovision symmetry lidar`; their paths."""
    folder = options.out / "bare"
    make_folder(folder)
    config = TrainOptions(model=MODEL).detector()
    for method in options.methods:
        detector = Detector(config)
        if METHODS[method]:
            assign_backbone(detector, options.out / f"pretrain-{method}")
        save_detector(folder / f"{method}.safetensors", detector)
    return folder


def main():
    """Simulate, pretrain, train, judge, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("lidar-pretraining"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.05, 0.2, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--columns", type=int, default=600, help="times that the HDL-64E fires in a turn, really 1800")
    parser.add_argument("--scenes", type=int, default=80, help="sequences to learn from")
    parser.add_argument("--frames", type=int, default=4, help="sweeps of each")
    parser.add_argument("--tests", type=int, default=48, help="sweeps to be judged on")
    parser.add_argument("--pretraining", type=int, default=200, help="steps of each pretraining")
    parser.add_argument("--steps", type=int, default=300, help="steps of each training")
    options = parser.parse_args()
    options.out = options.out.resolve()
    settle(options)
    prepare(options)
    make_folder(options.out / "cells")
    run_cells(options)
    report(options)
    print((options.out / "table.md").read_text())
    print(f"before any label: robovision symmetry lidar {bare(options)}/*.safetensors --on {options.out / 'test'}/*")


if __name__ == "__main__":
    main()
