from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from pyarrow import parquet

from robovision.cli import main
from robovision.envs import lerobot, lerobot_files
from robovision.envs.lerobot import export
from robovision.envs.lerobot_stats import histogram, image_stats, vector_stats
from robovision.envs.minari_dataset import create
from robovision.envs.minari_episode import Episode
from robovision.errors import UsageError
from tests.test_minari import random_episode, record

SPACE = spaces.Dict(
    pixels=spaces.Box(0, 255, (6, 32, 48), np.uint8),
    proprioception=spaces.Box(-1, 1, (3,), np.float32),
    state=spaces.Box(-1, 1, (1,), np.float64),
    depth=spaces.Box(0, 1, (1, 32, 48), np.float32),
)


def smooth_episode(steps: int) -> Episode:
    """Of a bright square on a ramp, which moves with time; the older stacked frame is black."""
    episode = random_episode(steps, SPACE, {"success": np.arange(steps + 1) > 2})
    pixels = episode.observations["pixels"]
    pixels[:] = 0
    pixels[:, 3:] = np.linspace(40, 120, 48, dtype=np.uint8)
    for t in range(steps + 1):
        pixels[t, 3:, 8:16, 2 * t : 2 * t + 8] = 200
    return episode


@pytest.fixture
def source(tmp_path: Path) -> Path:
    record(tmp_path / "source", *(smooth_episode(n) for n in (5, 7, 4)), space=SPACE)
    return tmp_path / "source"


def frames(path: Path) -> tuple[NDArray[np.uint8], list[float]]:
    with av.open(str(path)) as container:
        found: list[Any] = list(container.decode(video=0))
    return np.stack([f.to_ndarray(format="rgb24") for f in found]), [float(f.pts * f.time_base) for f in found]


def test_the_layout_holds_what_minari_holds(source: Path, tmp_path: Path) -> None:
    written = [smooth_episode(n) for n in (5, 7, 4)]
    seen: list[int] = []
    assert export(source, tmp_path / "out", progress=seen.append) == ["depth"]
    assert seen == [1, 2, 3]
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 20, 3, 16)
    assert info["splits"] == {"train": "0:3"}
    place = {"chunk_index": 0, "file_index": 0}
    table = parquet.read_table(tmp_path / "out" / info["data_path"].format(**place)).to_pydict()
    films = {name for name, feature in info["features"].items() if feature["dtype"] == "video"}
    assert films == {"observation.images.pixels"}
    assert set(table) == set(info["features"]) - films
    before = {k: np.concatenate([e.observations[k][:-1] for e in written]) for k in ("proprioception", "state")}
    assert np.array_equal(table["observation.state"], before["proprioception"])
    assert np.allclose(table["observation.environment_state"], before["state"][:, 0])
    assert np.array_equal(table["action"], np.concatenate([e.actions for e in written]))
    assert np.allclose(table["next.reward"], np.concatenate([e.rewards for e in written]))
    assert [t for t, done in enumerate(table["next.done"]) if done] == [4, 11, 15]
    assert table["next.success"] == [False] * 2 + [True] * 3 + [False] * 2 + [True] * 5 + [False] * 2 + [True] * 2
    assert table["index"] == list(range(16))
    assert table["episode_index"] == [0] * 5 + [1] * 7 + [2] * 4
    assert table["frame_index"] == [*range(5), *range(7), *range(4)]
    assert np.allclose(table["timestamp"], np.array(table["frame_index"]) / 20)
    film, times = frames(tmp_path / "out" / info["video_path"].format(video_key="observation.images.pixels", **place))
    newest = np.concatenate([e.observations["pixels"][:-1, 3:] for e in written]).transpose(0, 2, 3, 1)
    assert film.shape == newest.shape
    assert np.abs(film.astype(int) - newest).mean() < 3
    assert np.allclose(times, np.arange(16) / 20, atol=1e-6)
    rows = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"], r["length"]) for r in rows] == [
        (0, 5, 5), (5, 12, 7), (12, 16, 4)
    ]  # fmt: skip
    ends = [(r["videos/observation.images.pixels/from_timestamp"], r["tasks"]) for r in rows]
    assert ends == [(0.0, ["made/up"]), (0.25, ["made/up"]), (0.6, ["made/up"])]
    tasks = parquet.read_table(tmp_path / "out/meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "task": ["made/up"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_are_those_of_all_frames(source: Path, tmp_path: Path) -> None:
    written = [smooth_episode(n) for n in (5, 7, 4)]
    export(source, tmp_path / "out")
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    actions = np.concatenate([e.actions for e in written]).astype(np.float64)
    assert np.allclose(stats["action"]["mean"], actions.mean(0))
    assert np.allclose(stats["action"]["q90"], np.quantile(actions, 0.9, axis=0))
    images = np.concatenate([e.observations["pixels"][:-1, 3:] for e in written]) / 255
    found = stats["observation.images.pixels"]
    assert np.allclose(found["mean"], images.mean((0, 2, 3))[:, None, None])
    assert np.allclose(found["std"], images.std((0, 2, 3))[:, None, None])
    assert found["count"] == [16]
    rows = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert np.allclose(rows[1]["stats/action/max"], written[1].actions.max(0))


def test_image_statistics_agree_with_numpy() -> None:
    film = np.random.default_rng(0).integers(3, 250, (4, 20, 30, 3), np.uint8)
    film[..., 1] = 17
    found = image_stats(histogram(film), 4)
    flat = film.reshape(-1, 3) / 255
    for name, expected in (("min", flat.min(0)), ("max", flat.max(0)), ("mean", flat.mean(0)), ("std", flat.std(0))):
        assert np.allclose(np.ravel(found[name]), expected, atol=1e-12)
    for name, q in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        assert np.allclose(np.ravel(found[name]), np.quantile(flat, q, axis=0, method="inverted_cdf"), atol=1e-12)
    assert vector_stats(np.array([True, False]))["mean"] == [0.5]


def test_long_datasets_go_on_in_the_next_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot, "FRAMES_PER_FILE", 6)
    monkeypatch.setattr(lerobot_files, "FILES_PER_CHUNK", 1)
    export(source, tmp_path / "out", fps=12.5)
    rows = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["data/chunk_index"] for row in rows] == [0, 0, 1]
    assert [row["videos/observation.images.pixels/from_timestamp"] for row in rows] == [0.0, 0.4, 0.0]
    video = "videos/observation.images.pixels/chunk-{:03d}/file-000.mp4"
    assert [len(frames(tmp_path / "out" / video.format(chunk))[0]) for chunk in (0, 1)] == [12, 4]
    assert parquet.read_table(tmp_path / "out/data/chunk-001/file-000.parquet")["index"].to_pylist() == [12, 13, 14, 15]
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["fps"] == 12.5


def only_vectors(pixels: tuple[int, ...]) -> tuple[spaces.Dict, Episode]:
    space = spaces.Dict(state=spaces.Box(-1, 1, (2,), np.float32), pixels=spaces.Box(0, 255, pixels, np.uint8))
    return space, random_episode(3, space)


def test_what_cannot_be_exported_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    space, episode = only_vectors((3, 33, 32))
    record(tmp_path / "odd", episode, space=space)
    with pytest.raises(UsageError, match=r"images of 33 x 32 pixels .* the sides must be even"):
        export(tmp_path / "odd", tmp_path / "out")
    with pytest.raises(UsageError, match=r"does not say how many steps a second .* --fps"):
        export(tmp_path / "odd", tmp_path / "out", fps=0)
    with pytest.raises(UsageError, match="exists already"):
        export(tmp_path / "odd", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="can't write"):
        export(tmp_path / "odd", tmp_path / "file" / "out")
    create(tmp_path / "empty", {"dataset_id": "made/up-v0"})
    with pytest.raises(UsageError, match="Minari can't open"):
        export(tmp_path / "empty", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "odd"]


def test_the_command_names_what_it_leaves_out(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["demos", "export", str(source), "--lerobot", str(out)]) == 0
    assert "left out: depth" in capsys.readouterr().out
    space, episode = only_vectors((2, 32, 32))
    record(tmp_path / "states", episode, space=space)
    assert main(["demos", "export", str(tmp_path / "states"), "--lerobot", str(tmp_path / "states-out")]) == 0
    info: dict[str, Any] = json.loads((tmp_path / "states-out/meta/info.json").read_text())
    assert info["video_path"] is None
    assert not (tmp_path / "states-out/videos").exists()


def test_without_pyarrow_the_extra_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'robovision\[lerobot\]'"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
