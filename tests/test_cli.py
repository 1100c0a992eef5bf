from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robovision.agents.config import EncoderOptions
from robovision.cli import COMMANDS, main
from robovision.commands import policies, reinforcement
from robovision.devices import thread_count
from robovision.run import Run
from tests.helpers import TINY, TINY_ARGUMENTS, python


def test_importing_and_helping_need_neither_torch_nor_a_simulator(tmp_path: Path) -> None:
    code = (
        "import sys, robovision, robovision.envs, robovision.agents, robovision.lidar, robovision.cli\n"
        "robovision.cli.main(['--help'])\n"
        "print(sorted({'torch', 'mujoco', 'OpenGL', 'metaworld', 'matplotlib', 'cv2', 'av'} & set(sys.modules)))"
    )
    answer = python(code, tmp_path)
    assert answer.stdout.endswith("\n[]\n"), answer
    assert "robovision train" in answer.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"  robovision {command}" in capsys.readouterr().out.split("example", 1)[1]


def run_cli(*arguments: str) -> tuple[int, str]:
    """Exit code and everything that the command prints, in a process of its own."""
    answer = subprocess.run([sys.executable, "-m", "robovision.cli", *arguments], capture_output=True, text=True)
    return answer.returncode, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; nearest: train"),
        (["train", "--task", "metaworld/draw-open"], "nearest: metaworld/drawer-open"),
        (["train", "--task", "mujoco/ant"], "mujoco/ant has no expert to record"),
        (["train", "--encoder.name", "vit-tinny"], "nearest: vit-tiny"),
        (["train", "--env.presett", "fast"], "--env.preset"),
        (["train", "--env.preset", "slow"], "fastest"),
        (["train", "--env.size", "50"], "multiple of the patch, 16 pixels, got 50"),
        (["train", "--resume", "nowhere"], "looked for an existing folder"),
        (["train", "--device", "cuda"], "PyTorch finds no cuda device here"),
        (["demos", "--task", "metaworld/x"], "unknown task"),
        (["demos", "metaworld/draw-open"], "nearest: metaworld/drawer-open"),
        (["demos", "export", "nowhere/at-all-v0", "--lerobot", "out"], "no Minari dataset is called nowhere/at-all-v0"),
        (["demos", "export", "tests", "--lerobot", "out"], "there is neither data/metadata.json nor metadata.json"),
        (["demos", "export", "tests"], "--lerobot"),
        (["evaluate", "."], "looked for a file run.json"),
        (["train", "--resume"], "--resume"),
        (["train", "--out", "/dev/null"], "can't write /dev/null"),
        (["demos", "--out", "/dev/null/x"], "can't write /dev/null/x"),
        (["train", "--encoder.weights", "none.safetensors"], "there is no weight file"),
        (["demos", "--workers", "-1"], "--workers must not be negative, got -1"),
        (["train", "--encoder.name", "clip-vit-b16"], "robovision weights fetch clip-vit-b16"),
        (["train", "--encoder", "dualtoken-vit-t", "--env.size", "50"], "multiple of the patch, 32 pixels, got 50"),
        (["train", "--encoder", "nat-mini", "--env.size", "64"], "at least 224 pixels for nat-mini, got 64"),
        (["train", "--encoder", "nat-mini", "--encoder.adapter", "coin"], "use --encoder.adapter none"),
        (["train", "--encoder.name", "r3m-resnet50"], "the file that https://github.com/facebookresearch/r3m links to"),
        (["train", "--encoder.name", "dinov2-vit-s14"], "multiple of the patch, 14 pixels, got 64; nearest: 56 and 70"),
        (["weights", "fetch"], "say which weights to fetch"),
        (["weights", "fetch", "mvp-vit-b16"], "into"),
        (["evaluate"], "which run? robovision evaluate RUN"),
    ],
)
def test_wrong_usage_is_explained_without_a_traceback(arguments: list[str], message: str) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, output = run_cli(*arguments)
    assert code == 2, output
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "adapter", "train"),
    [
        ("vit-small", "coin", "full"),
        ("r3m-resnet50", "none", "full"),
        ("cnn", "none", "full"),
        ("strek", "none", "frozen"),
    ],
)
def test_an_encoder_that_is_named_brings_its_adapter_alike_in_train_and_rl(name: str, adapter: str, train: str) -> None:
    for command in (policies.COMMANDS["train"], reinforcement.COMMANDS["rl"]):
        assert command.prepare is not None
        full, options = command.prepare(["--encoder", name])
        assert full == ["--encoder.name", name]
        assert options.config.encoder == EncoderOptions(name, adapter=adapter, train=train)  # type: ignore[arg-type]
        _, options = command.prepare(["--encoder.name=nat-mini"])
        assert (options.config.encoder.adapter, options.config.env.size) == ("none", 224)
        assert command.prepare([])[1].config == type(options.config)()
        assert command.prepare(["--encoder", "vit-smal"])[1] == command.prepare([])[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demos", "dmc/walker-walk", "--env.cameras", "bak"], "unknown camera 'bak'; nearest: back"),
        (["demos", "dmc/walker-walk", "--env.no-show-goal"], "show_goal=False is for MetaWorld's tasks"),
        (["train", "--env.cameras", "corner9"], "unknown camera 'corner9'; nearest: corner"),
        (["train", "--data", "nowhere"], "holds no demonstrations"),
        (["rl", "--task", "dmc/walker-walk", "--env.cameras", "bak"], "unknown camera 'bak'; nearest: back"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--out", "there"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_keeps_its_options(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "train", TINY, space=0)
    code, output = run_cli("train", "--resume", str(run.path), "--seed", "4", "--env.size", "64")
    assert code == 2
    assert "--seed: 3 -> 4" in output
    assert "--env.size: 32 -> 64" in output


def test_without_opengl_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/none.json")
    code, output = run_cli("demos", "--out", str(tmp_path / "d"))
    assert code == 2, output
    assert "no OpenGL to render with" in output
    assert "sudo apt-get install -y libegl1" in output
    assert "Traceback" not in output


def test_without_the_libraries_no_backend_is_chosen(tmp_path: Path) -> None:
    code = (
        "import ctypes, os\n"
        "os.environ.pop('MUJOCO_GL', None)\n"
        "ctypes.CDLL = lambda name: (_ for _ in ()).throw(OSError(name))\n"
        "from robovision.envs.gl import choose_backend\n"
        "from robovision.errors import UsageError\n"
        "try: choose_backend()\n"
        "except UsageError as error: print(error)"
    )
    assert "neither libEGL.so.1 nor libOSMesa.so.8 loads" in python(code, tmp_path).stdout


def test_an_unwritable_place_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, output = run_cli("train", "--out", str(tmp_path / "file" / "run"), *TINY_ARGUMENTS)
    assert code == 2
    assert "can't write" in output
    assert "--out" in output
    assert "demonstrations:" not in output


def test_demos_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demos", "--list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["task", "steps", "skip", "observation", "camera", "judged", "by", "expert"]
    expected = ["metaworld/drawer-open", "500", "1", "pixels,", "proprioception", "top_cap2", "success", "scripted"]
    assert expected in rows


def test_threads_without_work_soon_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    main(["--version"])
    assert int(os.environ["GOMP_SPINCOUNT"]) < 300_000
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_the_doctor_finds_this_machine_able() -> None:
    code, output = run_cli("doctor")
    assert code == 0, output
    assert "frames/s" in output
    assert "free in the working folder" in output


def test_the_doctor_finds_a_missing_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/none.json")
    code, output = run_cli("doctor")
    assert code == 1, output
    assert "FAIL" in output
    assert "sudo apt-get install" in output


@pytest.mark.parametrize("arguments", [["--version"], ["demos", "--list"]])
def test_a_reader_who_stops_early_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "robovision.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_warning_says_what_and_not_where_in_the_package(tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3, 0.5], [np.nan, 0, 0, 0], [4, 5, 6, 1]], np.float32)
    (tmp_path / "a.bin").write_bytes(rows.tobytes())
    code, text = run_cli("lidar", "view", str(tmp_path / "a.bin"), "--out", str(tmp_path / "a.png"))
    assert code == 0
    assert (
        f"robovision: {tmp_path}/a.bin: 1 of 3 points are not finite and were left out; write it without them" in text
    )
    assert "\nrobovision: " in text  # not behind a progress bar
    assert "UserWarning" not in text
    assert "checks.py" not in text


def test_processes_of_torchrun_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robovision.devices.cpu_count", lambda: 8)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert thread_count(0) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert (thread_count(0), thread_count(5)) == (2, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert thread_count(0) == 1
