from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import robovision.agents
from robovision.agents.agent import LOADERS, Agent
from robovision.agents.cloned import ClonedAgent
from robovision.agents.config import EncoderOptions, TrainConfig
from robovision.agents.export import Form, export, inputs, play
from robovision.agents.hub import pack, push
from robovision.agents.policy import Ensemble, Policy, make_policy
from robovision.cli import main
from robovision.commands.use import Push
from robovision.encoders.coin import CoIn
from robovision.encoders.vit import ViT, ViTSize
from robovision.errors import UsageError
from robovision.run import Run
from tests.helpers import TINY

FELT, ACTIONS = 4, 3
SMALL = dataclasses.replace(TINY, history=3, chunk=2, encoder=EncoderOptions("cnn", adapter="none"))


def a_policy(config: TrainConfig, felt: int = FELT) -> Policy:
    torch.manual_seed(0)
    policy = make_policy(config, felt, ACTIONS).eval()
    nn.init.normal_(policy.head[-1].weight, std=0.1)  # type: ignore[arg-type]
    return policy


def a_run(path: Path, config: TrainConfig, policy: Policy) -> Run:
    run = Run.create(path, "train", config, space=0)
    run.save(7, {"curve": [], "seconds": 0.0}, {"model": policy.state_dict()}, keep=True)
    return run


def observations(count: int, steps: int, felt: int = FELT) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    for _ in range(steps):
        yield {
            "pixels": random.integers(0, 256, (count, 3, 32, 32), np.uint8),
            "proprioception": random.normal(size=(count, felt)).astype(np.float32),
        }


def test_a_loaded_policy_does_what_the_trained_one_says(tmp_path: Path) -> None:
    policy = a_policy(SMALL)
    run = a_run(tmp_path / "run", SMALL, policy)
    agent = robovision.agents.load(run.path)
    fresh = ClonedAgent(policy, 32)
    for observation in observations(1, 5):
        single = {name: value[0] for name, value in observation.items()}
        action = agent(single)
        assert action.shape == (ACTIONS,)
        assert action.dtype == np.float32
        assert np.array_equal(action, fresh.act(observation)[0])
    first = next(observations(1, 1))
    before = agent.act(first)
    agent.reset()
    fresh.reset()
    assert np.array_equal(agent.act(first), fresh.act(first))
    assert not np.array_equal(before, fresh.act(first))


def test_a_policy_that_sees_in_half_precision_does_nearly_the_same(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", SMALL, a_policy(SMALL))
    whole, half = robovision.agents.load(run.path), robovision.agents.load(run.path, precision="bfloat16")
    for observation in observations(2, 4):
        exact, near = whole.act(observation), half.act(observation)
        assert near.dtype == np.float32
        assert not np.array_equal(near, exact)
        assert np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_several_are_played_side_by_side_as_one_by_one() -> None:
    policy = a_policy(SMALL)
    together, *alone = (ClonedAgent(policy, 32) for _ in range(3))
    for observation in observations(2, 4):
        each = [agent.act({k: v[i : i + 1] for k, v in observation.items()}) for i, agent in enumerate(alone)]
        assert np.allclose(together.act(observation), np.concatenate(each), atol=1e-5)


def test_a_policy_without_proprioception_ignores_it(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, task="dmc/cartpole-swingup")
    agent = robovision.agents.load(a_run(tmp_path / "run", config, a_policy(config, felt=0)).path, 7)
    for with_felt in observations(1, 1):
        action = agent.act(with_felt)
        agent.reset()
        assert np.array_equal(action, agent.act({"pixels": with_felt["pixels"]}))


def test_an_ensemble_averages_what_the_last_plans_say_of_now() -> None:
    ensemble = Ensemble(2)
    plans = torch.tensor([[[1.0], [10.0]], [[3.0], [30.0]], [[5.0], [50.0]]])
    said = [float(ensemble.push(plan[None])) for plan in plans]
    old, new = 1 / (1 + np.exp(-0.01)), np.exp(-0.01) / (1 + np.exp(-0.01))
    assert said == pytest.approx([1.0, 10 * old + 3 * new, 30 * old + 5 * new])


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    agent = robovision.agents.load(a_run(tmp_path / "run", SMALL, a_policy(SMALL)).path)
    good = next(observations(1, 1))
    with pytest.raises(UsageError, match="the policy sees pixels, and the observation holds proprioception"):
        agent.act({"proprioception": good["proprioception"]})
    with pytest.raises(UsageError, match=r"pixels uint8 \[3, 32, 32\], and they are uint8 \[3, 64, 64\]"):
        agent.act({**good, "pixels": np.zeros((1, 3, 64, 64), np.uint8)})
    with pytest.raises(UsageError, match=r"feels 4 numbers of proprioception, and there are \[9\]"):
        agent.act({**good, "proprioception": np.zeros((1, 9), np.float32)})
    with pytest.raises(UsageError, match=r"no checkpoint '8'.*steps \[7\]"):
        robovision.agents.load(tmp_path / "run", 8)
    with pytest.raises(UsageError, match="is no run"):
        robovision.agents.load(tmp_path)


def test_other_kinds_of_run_bring_their_own_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "run", SMALL, a_policy(SMALL))
    content = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**content, "job": "other"}))
    with pytest.raises(UsageError, match="a run of `robovision other`, which trains no policy"):
        robovision.agents.load(run.path)
    monkeypatch.setitem(LOADERS, "other", "robovision.agents.cloned:load")
    assert isinstance(robovision.agents.load(run.path), Agent)


def a_small_vit_with_coin() -> Policy:
    torch.manual_seed(0)
    vit = ViT(ViTSize(32, 2, 2), image_size=32, injector=CoIn(32, stem=4, gamma=1.0))
    policy = Policy(vit, 4, history=3, felt=FELT, actions=ACTIONS, chunk=2).eval()
    nn.init.normal_(policy.head[-1].weight, std=0.1)  # type: ignore[arg-type]
    return policy


def a_cnn_that_sees_one_image_alone() -> Policy:
    return a_policy(dataclasses.replace(TINY, encoder=EncoderOptions("cnn", adapter="none")), felt=0)


@pytest.mark.parametrize("form", ["onnx", "torch", "torchscript"])
@pytest.mark.parametrize("make", [a_small_vit_with_coin, a_cnn_that_sees_one_image_alone])
def test_an_exported_policy_does_what_the_policy_does(tmp_path: Path, make: Callable[[], Policy], form: Form) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    agent = ClonedAgent(make(), 32)
    path = tmp_path / "policy"
    assert export(agent, path, form) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["policy"]
    past: dict[str, torch.Tensor] = {}
    fresh = ClonedAgent(agent.policy, 32)
    for observation in observations(5, 3, agent.policy.felt):
        given = inputs(agent, 5) | {k: torch.from_numpy(v) for k, v in observation.items() if v.size} | past
        actions, *rest = play(path, form, given)
        assert actions.shape == (5, agent.policy.chunk, ACTIONS)
        assert actions.std() > 0.01
        if agent.policy.chunk == 1:
            assert np.allclose(actions[:, 0], fresh.act(observation), atol=1e-4)
        if rest:
            past = {"past": rest[0], "fresh": torch.zeros(5, dtype=torch.bool)}


def test_an_export_that_acts_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ClonedAgent(a_cnn_that_sees_one_image_alone(), 32)
    monkeypatch.setattr("robovision.agents.export.play", lambda *_: [torch.full((3, 1, ACTIONS), 0.9)])
    with pytest.raises(UsageError, match="the exported policy acts otherwise: its actions differ by"):
        export(agent, tmp_path / "policy.pt2", "torch")
    assert not list(tmp_path.iterdir())


RESULTS = {"metrics": {"success": {"value": 0.5, "unit": "1", "low": 0.2, "high": 0.8, "count": 8}}, "best_step": 7}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub that is a folder."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    there = tmp_path / "hub"

    class Api:
        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> str:
            (there / repository).mkdir(parents=True)
            return f"https://hub.example/{repository}"

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
            shutil.copytree(folder_path, there / repo_id, dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(there / name))
    return there


def test_a_pushed_policy_is_loaded_from_the_hub(tmp_path: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "home" / "vit.safetensors"
    config = dataclasses.replace(SMALL, encoder=dataclasses.replace(SMALL.encoder, weights=weights))
    run = a_run(tmp_path / "run", config, a_policy(config))
    (run.path / "results.json").write_text(json.dumps(RESULTS))
    assert main(["push", str(run.path), "me/hammer"]) == 0
    assert capsys.readouterr().out.strip() == "https://hub.example/me/hammer"
    there, here = (robovision.agents.load(where) for where in ("hf://me/hammer", run.path))
    observation = next(observations(2, 1))
    assert np.array_equal(there.act(observation), here.act(observation))
    pushed = hub / "me" / "hammer"
    texts = {path.name: path.read_text() for path in pushed.rglob("*") if path.suffix in (".json", ".md")}
    assert sorted(texts) == ["README.md", "results.json", "run.json", "state.json"]
    assert str(tmp_path) not in "".join(texts.values())
    assert "| success | 0.5  | 0.2 to 0.8, n = 8 |" in texts["README.md"]
    assert texts["README.md"].startswith("---\nlibrary_name: robovision\n")
    assert [path.name for path in pushed.rglob("*.safetensors")] == ["model.safetensors"]


def test_a_hub_that_refuses_is_told(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    run = a_run(tmp_path / "run", SMALL, a_policy(SMALL))

    def refuse(*_: object, **__: object) -> str:
        raise OSError("no such host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UsageError, match="hf://me/hammer can't be fetched: no such host"):
        robovision.agents.load("hf://me/hammer")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(UsageError, match="me/hammer can't be uploaded: no such host; what was to be uploaded lies in"):
        push(run, "final", "me/hammer", tmp_path / "packed")
    assert isinstance(robovision.agents.load(tmp_path / "packed"), Agent)
    with pytest.raises(UsageError, match="packed is not empty"):
        pack(run, "final", tmp_path / "packed", "me/hammer")
    with pytest.raises(UsageError, match="OWNER/NAME, got 'hammer'"):
        Push(run.path, "hammer")


def test_export_says_where_and_how_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(TINY, encoder=EncoderOptions("cnn", adapter="none"))
    run = a_run(tmp_path / "run", config, a_policy(config))
    assert main(["export", str(run.path), "--form", "torch"]) == 0
    assert "policy.pt2: " in capsys.readouterr().out
    assert (run.path / "policy.pt2").stat().st_size > 100_000
