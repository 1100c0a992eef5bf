"""Whether a pretrained eye helps a policy to find its way by LiDAR: success over the actions of runs side by side.

    python benchmarks/lidar_navigate.py "from scratch=runs/scratch" pretrained=runs/pretrained --out benchmarks

Writes lidar-navigate.csv, a row an evaluation, and lidar-navigate.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from robovision.files import make_folder, write_atomically, write_csv
from robovision.types import Metric

Row = dict[str, str | int | float]


def evaluations(name: str, run: Path) -> list[Row]:
    """The evaluations of a run: successes at the last step with their 95 % Wilson interval, and the mean return."""
    rows: list[Row] = []
    for path in sorted((run / "evaluations").glob("step-*.json")):
        found = json.loads(path.read_text())
        episodes = found["episodes"]
        success = Metric.proportion("success", sum(bool(e["success"]) for e in episodes), len(episodes))
        mean = sum(e["total_reward"] for e in episodes) / len(episodes)
        low, high = success.low or 0.0, success.high or 0.0
        rows.append(
            {"run": name, "step": found["step"], "success": success.value, "low": low, "high": high,
             "episodes": len(episodes), "return": round(mean, 3)}
        )  # fmt: skip
    if not rows:
        raise SystemExit(f"{run} holds no evaluations: name a run of `robovision rl`")
    return rows


def draw(path: Path, rows: list[Row]) -> None:
    """A PNG: success over the actions, a line a run, with its intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=110)
    axes = figure.subplots()
    for number, name in enumerate(dict.fromkeys(row["run"] for row in rows)):
        mine = [row for row in rows if row["run"] == name]
        steps, values, low, high = ([float(r[key]) for r in mine] for key in ("step", "success", "low", "high"))
        axes.plot(steps, values, marker="o", color=f"C{number}", label=str(name))
        axes.fill_between(steps, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.axhline(0.8, color="0.5", linestyle="--", linewidth=1)
    axes.set(xlabel="actions", ylabel="success", ylim=(0, 1), title="lidar/navigate")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def main() -> None:
    """Write the table and the plot of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="run folders of `robovision rl`, with their names")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    rows = [row for text in options.runs for row in evaluations(text.rpartition("=")[0], Path(text.rpartition("=")[2]))]
    make_folder(options.out)
    write_csv(options.out / "lidar-navigate.csv", list(rows[0]), rows)
    draw(options.out / "lidar-navigate.png", rows)


if __name__ == "__main__":
    main()
