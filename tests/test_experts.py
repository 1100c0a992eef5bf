from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robovision.envs import expert_models, expert_training, experts
from robovision.envs.expert_envs import HandEnv, StateEnv, play, report_seeds, state_env
from robovision.envs.expert_models import Model, actor_layers, actor_tensors, build
from robovision.envs.expert_recipes import PPORecipe, SACRecipe
from robovision.envs.expert_training import train
from robovision.envs.experts import Expert, ExpertInfo
from robovision.envs.registry import make
from robovision.errors import UsageError

# isort: split
import torch
from dm_control import suite
from safetensors.numpy import load_file, save_file
from torch import nn

TASK = "dmc/walker-walk"
Tensors = dict[str, NDArray[Any]]
FOLDER = Path(experts.__file__).parent / "expert_weights"
STATE = {"orientations": 14, "height": 1, "velocity": 9}
INFO = ExpertInfo(TASK, "SAC", 100, 0, 2, STATE, 20, 900.0, 10.0, {"torch": "2.13.0"})
SMALL = SACRecipe(good=2000, steps=800, interval=400, selection=2, report=2, hidden=16)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on less, so that it takes seconds."""
    for name, value in {"ENVS": 2, "WARM_UP": 80, "BUFFER": 800}.items():
        monkeypatch.setattr(expert_models, name, value)


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """Random weights of an expert for walker-walk."""
    return actor_tensors(random_model())


def random_model(task: str = TASK, seed: int = 0) -> Model:
    """An untrained model whose state is normalised by random statistics."""
    model = build(task, SMALL, seed)
    random = np.random.default_rng(seed)
    statistics: Any = model.get_vec_normalize_env()
    statistics.obs_rms.mean = random.normal(size=statistics.obs_rms.mean.shape)
    statistics.obs_rms.var = random.uniform(0.01, 4.0, statistics.obs_rms.var.shape)
    return model


def predict(model: Model, states: NDArray[np.float32]) -> NDArray[Any]:
    normalise: Any = model.get_vec_normalize_env()
    return model.predict(normalise.normalize_obs(states), deterministic=True)[0]


def random_states(size: int) -> NDArray[np.float32]:
    """Ordinary states, and some so far out that they are clipped."""
    random = np.random.default_rng(1)
    scale = np.where(np.arange(64) % 8, 2.0, 100.0)[:, None]
    return (scale * random.normal(size=(64, size))).astype(np.float32)


def test_it_acts_as_stable_baselines_does(tmp_path: Path) -> None:
    model = random_model()
    states = random_states(24)
    expert = Expert(INFO, actor_tensors(model))
    expected = predict(model, states)
    assert np.abs(expected).max() > 0.5, "the actions are too small to tell anything"
    np.testing.assert_allclose(expert(states), expected, atol=1e-5)
    np.testing.assert_allclose([expert(state) for state in states], expected, atol=1e-5)
    experts.save(tmp_path / "walker.safetensors", INFO, actor_tensors(model))
    stored = experts.load(tmp_path / "walker.safetensors")
    assert stored.info == INFO
    np.testing.assert_allclose(stored(states), expected, atol=1e-2)  # the weights are float16


def test_the_protocols_five_have_experts_and_others_too() -> None:
    protocol = {"walker-stand", "walker-walk", "reacher-easy", "cheetah-run", "finger-spin"}
    assert {f"dmc/{name}" for name in protocol} <= set(experts.available())
    assert len(experts.available()) >= 10
    assert experts.find("dmc/no-such") is None


@pytest.mark.parametrize("task", experts.available())
def test_a_shipped_expert_fits_its_task_and_acts_as_stable_baselines_does(task: str) -> None:
    file = FOLDER / experts.file_name(task)
    assert file.stat().st_size <= 500 * 1024
    expert = experts.find(task)
    assert expert is not None
    env = state_env(task)
    assert expert.info.task == task
    assert list(expert.info.state.items()) == list(env.parts.items())
    assert np.abs(env.action_space.low).max() == np.abs(env.action_space.high).max() == 1.0  # type: ignore[attr-defined]
    states = random_states(sum(env.parts.values()))
    model = model_of(load_file(file), expert.info)
    np.testing.assert_allclose(expert(states), predict(model, states), atol=1e-4)


def model_of(tensors: Tensors, info: ExpertInfo) -> Model:
    """A Stable-Baselines3 model with the weights of an expert's file."""
    single = {name: torch.tensor(tensor.astype(np.float32)) for name, tensor in tensors.items()}
    kind = {"SAC": SACRecipe, "PPO": PPORecipe}[info.algorithm]
    model = build(info.task, kind(good=0, steps=800, hidden=len(single["layers.0.bias"])), 0)
    normalise: Any = model.get_vec_normalize_env()
    normalise.obs_rms.mean = single["mean"].numpy()
    normalise.obs_rms.var = single["std"].double().numpy() ** 2 - normalise.epsilon
    layers: list[nn.Linear] = actor_layers(model)
    assert len(layers) == 3
    for number, layer in enumerate(layers):
        layer.load_state_dict({name: single[f"layers.{number}.{name}"] for name in ("weight", "bias")})
    return model


@pytest.mark.parametrize("task", experts.available())
def test_a_shipped_expert_reaches_its_return(task: str) -> None:
    expert = experts.find(task)
    assert expert is not None
    info = expert.info
    assert info.episodes >= 20
    seeds = report_seeds(seed=99, episodes=3)
    margin = max(50.0, 3 * info.return_std / np.sqrt(len(seeds)))
    assert play(expert, seeds).returns.mean() > info.return_mean - margin


def test_the_pens_expert_solves_the_share_that_it_says() -> None:
    expert = experts.find("adroit/pen")
    assert expert is not None
    says = expert.info.solved
    assert says is not None
    assert says > 0.75
    solved = play(expert, report_seeds(seed=98, episodes=40)).solved
    assert solved is not None
    assert solved.mean() > says - 3 * np.sqrt(says * (1 - says) / 40)
    env = make("adroit/pen", observe=("state",))
    env.reset(seed=3)
    assert np.array_equal(env.expert_action(), expert(env.state()))


def test_a_hands_task_is_judged_by_the_protocols_rule() -> None:
    env = HandEnv("adroit/pen")
    env.reset(seed=0)
    over, steps = False, 0
    while not over:
        _, _, terminated, truncated, info = env.step(np.zeros(24, np.float32))
        over, steps = terminated or truncated, steps + 1
    assert steps <= 100
    assert info == {"success": env._simulation._met > 20}  # type: ignore[attr-defined]


def change(**tensors: NDArray[Any] | None) -> Callable[[Tensors], Tensors]:
    """Replaces tensors; None takes one away. Names are written with `_` for `.`."""

    def apply(old: Tensors) -> Tensors:
        new = old | {name.replace("_", "."): tensor for name, tensor in tensors.items() if tensor is not None}
        return {name: tensor for name, tensor in new.items() if tensors.get(name.replace(".", "_"), 0) is not None}

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(mean=None), "mean is missing"),
        (change(extra=np.zeros(3, np.float32)), "extra is unexpected"),
        (change(mean=np.zeros(23, np.float32)), r"mean has shape \(23,\), not \(24,\)"),
        (
            change(layers_1_weight=np.zeros((16, 15), np.float16)),
            r"layers.1.weight has shape \(16, 15\), not \(16, 16\)",
        ),
        (change(layers_1_weight=None), "layers.2.weight is unexpected"),
        (change(layers_2_bias=np.full(6, np.nan, np.float16)), "layers.2.bias is not finite"),
        (change(layers_2_bias=np.zeros(6, np.int8)), "layers.2.bias is int8, not a float"),
        (change(std=np.zeros(24, np.float32)), "std is not positive"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path,
    tensors: Tensors,
    edit: Callable[[Tensors], Tensors],
    message: str,
) -> None:
    experts.save(tmp_path / "good.safetensors", INFO, tensors)
    edited = edit(load_file(tmp_path / "good.safetensors"))
    save_file(edited, tmp_path / "bad.safetensors", {"expert": json.dumps(dataclasses.asdict(INFO))})
    with pytest.raises(UsageError, match=rf"bad.safetensors.*{message}"):
        experts.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"expert": "no json"},
        {"expert": "[]"},
        {"expert": "{}"},
        {"expert": json.dumps(dataclasses.asdict(INFO) | {"steps": "many"})},
        {"expert": json.dumps(dataclasses.asdict(INFO) | {"more": 1})},
    ],
)
def test_metadata_that_says_something_else_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"mean": np.zeros(3, np.float32)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(UsageError, match=r"w.safetensors does not say which expert it is"):
        experts.load(tmp_path / "w.safetensors")


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_truncated_foreign_and_missing_files_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    whole = tmp_path / "whole.safetensors"
    experts.save(whole, INFO, tensors)
    contents = [b"", whole.read_bytes()[:-1], whole.read_bytes()[:100], pickle.dumps(Malice(tmp_path / "executed"))]
    for content in contents:
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(UsageError, match="no readable safetensors file"):
            experts.load(tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="no readable safetensors file"):
        experts.load(tmp_path)
    with pytest.raises(UsageError, match="there is no expert"):
        experts.load(tmp_path / "missing.safetensors")
    assert not (tmp_path / "executed").exists()


def test_a_state_of_another_size_is_refused(tensors: Tensors) -> None:
    expert = Expert(INFO, tensors)
    with pytest.raises(UsageError, match=r"dmc/walker-walk needs 24 numbers, got \(25,\)"):
        expert(np.zeros(25, np.float32))
    with pytest.raises(UsageError, match=r"got \(\)"):
        expert(np.float32(0.0))  # type: ignore[arg-type]


def test_an_action_is_held_and_its_rewards_are_summed() -> None:
    env = StateEnv("dmc/cartpole-balance")
    state, _ = env.reset(seed=5)
    plain = suite.load("cartpole", "balance", task_kwargs={"random": 5})
    assert np.array_equal(state, experts.flatten(plain.reset().observation))
    actions = np.random.default_rng(0).uniform(-1, 1, (500, 1)).astype(np.float32)
    for number, action in enumerate(actions, start=1):
        state, reward, terminated, truncated, _ = env.step(action)
        first, second = plain.step(action), plain.step(action)
        assert np.array_equal(state, experts.flatten(second.observation))
        assert reward == first.reward + second.reward
        assert (terminated, truncated) == (False, number == 500)
        assert truncated == second.last()


def test_an_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = expert_training._checkpoint

    def interrupt(*arguments: Any) -> None:
        checkpoint(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(expert_training, "_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("dmc/cartpole-balance", SMALL, tmp_path, 0)
    curve = tmp_path / "dmc-cartpole-balance" / "curve.csv"
    before = curve.read_text()
    monkeypatch.setattr(expert_training, "_checkpoint", checkpoint)
    (tmp_path / "dmc-cartpole-balance" / "checkpoint-000000600").mkdir()  # one that was cut off half-way
    expert = experts.load(train("dmc/cartpole-balance", SMALL, tmp_path, 0))
    assert curve.read_text().startswith(before)
    assert [line.split(",")[0] for line in curve.read_text().split()] == ["steps", "400", "800"]
    assert expert.info.episodes == 2
    assert expert.info.return_mean > 0
    with pytest.raises(UsageError, match=r"holds another training \(seed: 0 there, 1 wanted\)"):
        train("dmc/cartpole-balance", SMALL, tmp_path, 1)


def test_a_hands_training_goes_on(tmp_path: Path) -> None:
    recipe = PPORecipe(good=1e6, steps=256, interval=128, selection=2, report=2, hidden=8, rollout=64, batch=32)
    curve = tmp_path / "adroit-pen" / "curve.csv"
    train("adroit/pen", dataclasses.replace(recipe, steps=128), tmp_path, 0)
    before = curve.read_text()
    expert = experts.load(train("adroit/pen", recipe, tmp_path, 0))
    assert curve.read_text().startswith(before)
    assert [line.split(",")[0] for line in curve.read_text().split()] == ["steps", "128", "256"]
    assert (expert.info.algorithm, expert.info.frame_skip) == ("PPO", 1)
    assert expert.info.solved in (0.0, 0.5, 1.0)


def test_the_command_names_the_nearest_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert expert_training.main(["dmc/walker-wlak"]) == 2
    assert "nearest: dmc/walker-walk" in capsys.readouterr().err
