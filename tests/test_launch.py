"""The job files in launch/ call what there is: run with stand-ins for what starts processes on other machines."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tyro

from robovision.cli import COMMANDS
from robovision.commands.bench_studies import Control
from robovision.commands.policies import Train

LAUNCH = Path(__file__).parent.parent / "launch"
SAYS = '#!/bin/sh\necho "$(basename "$0")" >>said\nfor word in "$@"; do echo "$word" >>said; done\n'
STANDS_IN = {
    "srun": '#!/bin/sh\ncase "$*" in *"ray start"*) exit 0 ;; esac\nexec "$@"\n',
    "scontrol": "#!/bin/sh\necho first\n",
    "sleep": "#!/bin/sh\n",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout whose programs only say with what they were called, in a file `said`."""
    programs = {tmp_path / ".venv" / "bin" / name: SAYS for name in ("torchrun", "robovision", "ray")}
    programs |= {tmp_path / "bin" / name: text for name, text in STANDS_IN.items()}
    for path, text in programs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    shutil.copytree(LAUNCH, tmp_path / "launch")
    return tmp_path


def run(place: Path, *command: str) -> list[str]:
    """The words with which the job's program was called."""
    (place / "said").unlink(missing_ok=True)
    slurm = {"SLURM_SUBMIT_DIR": str(place), "SLURM_JOB_NODELIST": "first,second", "SLURM_JOB_ID": "7"}
    environment = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    answer = subprocess.run(command, cwd=place, env=slurm | environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return (place / "said").read_text().splitlines()


def parse(words: list[str], name: str) -> Any:
    """The options that `robovision NAME` makes of the words."""
    command = COMMANDS[name]
    rest, default = command.prepare(words) if command.prepare else (words, tyro.MISSING_NONPROP)
    return tyro.cli(command.options, args=rest, default=default)


def trained(said: list[str]) -> list[str]:
    """The options after `torchrun ... -m robovision.cli train`."""
    assert said[0] == "torchrun"
    start = said.index("-m")
    assert said[start : start + 3] == ["-m", "robovision.cli", "train"]
    return said[start + 3 :]


@pytest.mark.parametrize("written", [["--out", "runs/hammer"], ["--out=runs/hammer"]])
def test_a_slurm_training_starts_on_all_machines_and_goes_on_when_it_is_sent_again(
    place: Path, written: list[str]
) -> None:
    job = ("bash", "launch/slurm-train.sbatch", "--task", "metaworld/hammer", *written)
    said = run(place, *job)
    assert said[1:5] == ["--nnodes", "2", "--nproc-per-node", "4"]
    options = parse(trained(said), "train")
    assert isinstance(options, Train)
    assert (options.config.task, options.out) == ("metaworld/hammer", Path("runs/hammer"))
    (place / "runs" / "hammer").mkdir(parents=True)
    (place / "runs" / "hammer" / "run.json").touch()
    assert trained(run(place, *job)) == ["--resume", "runs/hammer"]


def test_a_slurm_sweep_is_what_was_asked_for(place: Path) -> None:
    asked = ["bench", "control", "--budget", "paper", "--ray", "auto"]
    assert run(place, "bash", "launch/slurm-sweep.sbatch", "robovision", *asked) == ["robovision", *asked]


def test_kubernetes_jobs_train_and_sweep(place: Path) -> None:
    yaml = pytest.importorskip("yaml")
    container = yaml.safe_load((LAUNCH / "kubernetes-train.yaml").read_text())["spec"]["template"]["spec"][
        "containers"
    ][0]
    script = container["args"][0].replace("/runs/", f"{place}/runs/")
    options = parse(trained(run(place, *container["command"], script)), "train")
    assert isinstance(options, Train)
    assert options.out == place / "runs" / "hammer"
    (place / "runs" / "hammer").mkdir(parents=True)
    (place / "runs" / "hammer" / "run.json").touch()
    assert trained(run(place, *container["command"], script)) == ["--resume", str(options.out)]
    entry = yaml.safe_load((LAUNCH / "kubernetes-sweep.yaml").read_text())["spec"]["entrypoint"].split()
    assert entry[0].endswith("/robovision")
    swept = parse(entry[3:], " ".join(entry[1:3]))
    assert isinstance(swept, Control)
    assert swept.ray == "auto"
