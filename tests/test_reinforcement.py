from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import robovision.agents
from robovision import weights
from robovision.agents.config import EncoderOptions, Evaluation
from robovision.agents.export import export
from robovision.agents.hub import pack
from robovision.agents.reinforcement.agent import ReinforcedAgent
from robovision.agents.reinforcement.config import Algorithm, KeypointOptions, Learning, Replay, RLConfig, Rollout
from robovision.agents.reinforcement.environments import KeypointObserver, make_envs, spaces_of
from robovision.agents.reinforcement.export import MostLikely, random_observations
from robovision.agents.reinforcement.extractor import make_encoder
from robovision.agents.reinforcement.models import ALGORITHMS, make_model, policy_options, policy_state
from robovision.agents.reinforcement.train import Training, disk_space, resolve
from robovision.agents.reinforcement.vec_env import SB3VecEnv
from robovision.cli import main
from robovision.encoders.build import build
from robovision.encoders.coin import CoIn
from robovision.encoders.vit import ViT
from robovision.envs import make, make_vec
from robovision.envs.registry import EnvOptions
from robovision.errors import UsageError
from robovision.run import Run
from tests.toy import FindTheSquare

TINY = RLConfig(
    task="dmc/reacher-easy",
    steps=48,
    envs=2,
    env=EnvOptions(size=32, preset="fastest", horizon=6, frame_stack=2, observe=("pixels", "proprioception")),
    learning=Learning(batch=4, features=8, width=8),
    replay=Replay(size=100, warm_up=12, n_steps=2),
    normalise=("reward", "proprioception"),
    every=16,
    evaluation=Evaluation(episodes=1, times=1),
    device="cpu",
    threads=1,
    workers=1,
)
"""A complete run that takes seconds and learns nothing."""
ARGUMENTS = [
    *("--task", "dmc/reacher-easy", "--steps", "48", "--envs", "2", "--env.size", "32", "--env.horizon", "6"),
    *("--env.observe", "pixels", "proprioception", "--learning.batch", "4", "--learning.features", "8"),
    *("--learning.width", "8", "--replay.size", "100", "--replay.warm-up", "12", "--replay.n-steps", "2"),
    *(
        "--normalise",
        "reward",
        "proprioception",
        "--every",
        "16",
        "--evaluation.episodes",
        "1",
        "--evaluation.times",
        "1",
    ),
    *("--device", "cpu", "--threads", "1", "--workers", "1"),
]
COMMAND = [sys.executable, "-m", "robovision.cli", "rl"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupted."""
    config = resolve(TINY)
    run = Run.create(tmp_path_factory.mktemp("runs") / "whole", "rl", config, disk_space(config))
    Training(run, config).execute()
    return run


def final_weights(path: Path) -> bytes:
    return (path / "checkpoints" / "step-000048" / "model.safetensors").read_bytes()


def test_a_run_leaves_what_it_promises(finished: Run) -> None:
    results = json.loads((finished.path / "results.json").read_text())
    assert results["steps"] == 48
    assert {"score", "return", "score_best", "training_time"} <= set(results["metrics"])
    lines = (finished.path / "curve.csv").read_text().splitlines()
    assert len(lines) == 4
    assert {"step", "episode_return", "critic_loss", "evaluation_return"} <= set(lines[0].split(","))
    assert (finished.path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (finished.path / "evaluation.mp4").stat().st_size > 1000
    assert list((finished.path / "tensorboard").glob("events*"))
    assert json.loads((finished.path / "run.json").read_text())["config"]["env"]["preset"] == "fastest"


def writes_second_checkpoint(path: Path) -> bool:
    checkpoints = path / "checkpoints"
    return (checkpoints / "step-000016").exists() and any(checkpoints.glob(".step-*"))


def test_a_killed_run_ends_with_the_same_weights(finished: Run, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    command = [*COMMAND, "--out", str(path), *ARGUMENTS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not writes_second_checkpoint(path):
        time.sleep(0.0005)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = Run.open(path)
    with run.lock():
        Training(run, run.config(RLConfig)).execute()
    assert final_weights(path) == final_weights(finished.path)


def test_a_run_that_gets_more_steps_ends_as_if_it_had_them_from_the_start(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "short"
    config = resolve(dataclasses.replace(TINY, steps=32, evaluation=Evaluation(episodes=1, times=1, video=False)))
    Training(Run.create(path, "rl", config, disk_space(config)), config).execute()
    assert main(["rl", "--resume", str(path), "--steps", "31"]) == 2
    assert "--steps: 32 -> 31" in capsys.readouterr().err
    assert main(["rl", "--resume", str(path), "--steps", "48", "--seed", "1"]) == 2
    assert Run.open(path).config(RLConfig) == config
    assert main(["rl", "--resume", str(path), "--steps", "48"]) == 0
    assert final_weights(path) == final_weights(finished.path)
    written = json.loads((path / "run.json").read_text())
    assert written["config"]["steps"] == 48
    assert written["changes"] == ["--steps: 32 -> 48"]
    scores = [row.rpartition(",")[2] for row in (path / "curve.csv").read_text().splitlines()]
    assert json.loads((path / "results.json").read_text())["steps"] == 48
    assert [bool(score) for score in scores] == [True, False, True, True]  # what was evaluated at 32 steps counts


def test_moments_of_evaluation_that_more_steps_put_in_the_past_are_left_out(tmp_path: Path) -> None:
    """Of 64 steps the middle would be evaluated at 32, whose checkpoint a run of 80 did not keep."""
    run = Run.create(tmp_path / "run", "rl", TINY, 0)
    training = Training(run, dataclasses.replace(TINY, steps=64, evaluation=Evaluation(episodes=1, times=2)))
    assert training._due(32)
    training._judge(32)
    assert not training.judged


def test_the_policy_is_the_same_here_in_plain_stable_baselines3_and_on_the_command_line(
    finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = robovision.agents.load(finished.path)
    env = make(TINY.task, TINY.env)
    observation, _ = env.reset(seed=0)
    action = policy(observation)
    assert env.action_space.contains(action)
    plain = SAC.load(finished.path / "model.zip", device="cpu")
    _, actions = spaces_of(finished.config(RLConfig))
    assert plain.action_space == actions
    tensors = finished.at(48).tensors("model")
    mean, variance = (tensors[f"normalise.proprioception.{part}"].numpy() for part in ("mean", "var"))
    scaled = np.clip((observation["proprioception"] - mean) / np.sqrt(variance + 1e-8), -10, 10).astype(np.float32)
    expected, _ = plain.predict({**observation, "proprioception": scaled}, deterministic=True)
    assert np.allclose(action, expected, atol=1e-6)
    near = robovision.agents.load(finished.path, precision="bfloat16")(observation)
    assert 0 < np.abs(near - action).max() < 0.05
    with pytest.raises(UsageError, match=r"observes pixels uint8 \[6, 32, 32\], and it is uint8 \[3, 32, 32\]"):
        policy({**observation, "pixels": observation["pixels"][:3]})
    with pytest.raises(UsageError, match="observes proprioception, and the observation holds pixels"):
        policy({"pixels": observation["pixels"]})
    env.close()
    assert main(["evaluate", str(finished.path), "--episodes", "1", "--workers", "1"]) == 0
    assert "score" in capsys.readouterr().out


def test_ppo_learns_from_other_observations_too(tmp_path: Path) -> None:
    config = dataclasses.replace(
        TINY,
        task="lidar/navigate",
        algorithm="ppo",
        env=EnvOptions(size=32, preset="fastest", horizon=6, observe=("pixels", "lidar", "proprioception")),
        keypoints=KeypointOptions("strek", 4),
        normalise=("proprioception",),
        rollout=Rollout(steps=6, epochs=1),
        steps=12,
        every=12,
        options=("gae_lambda=0.9",),
        evaluation=Evaluation(episodes=1, times=1, video=False),
    )
    config = resolve(config)
    run = Run.create(tmp_path / "ppo", "rl", config, 0)
    metrics = Training(run, config).execute()
    assert metrics[0].name == "success"
    assert set(robovision.agents.load(run.path).space.spaces) == {"lidar", "proprioception", "keypoints"}  # type: ignore[attr-defined]


def test_keypoints_lie_where_the_image_shows_something() -> None:
    pixels = np.zeros((1, 6, 64, 64), np.uint8)
    pixels[0, 3:, 40:48, 8:16] = 255
    rows = KeypointObserver(KeypointOptions("strek", 8))({"pixels": pixels})["keypoints"][0]
    found = rows[rows[:, 2] == 1]
    assert len(found)
    assert (rows[rows[:, 2] == 0] == 0).all()
    x, y = (found[0, :2] + 1) * 32 - 0.5
    assert 6 <= x <= 18
    assert 38 <= y <= 50


def test_episodes_end_as_stable_baselines3_expects() -> None:
    options: dict[str, Any] = {"size": 32, "preset": "fastest", "horizon": 5, "frame_stack": 2}
    envs = SB3VecEnv(make_vec("metaworld/reach", 2, workers=1, **options))
    alone = make("metaworld/reach", **options)
    envs.seed(7)
    first = envs.reset()
    plain, _ = alone.reset(seed=8)
    assert all(np.array_equal(first[name][1], plain[name]) for name in plain)
    for number in range(1, 12):
        seen, rewards, dones, infos = envs.step(np.full((2, 4), 0.5, np.float32))
        plain, reward, _, truncated, info = alone.step(np.full(4, 0.5, np.float32))
        assert rewards[1] == pytest.approx(float(reward))
        assert dones.tolist() == [truncated] * 2 == [number % 5 == 0] * 2
        if truncated:
            last = infos[1]["terminal_observation"]
            assert all(np.array_equal(last[name], plain[name]) for name in plain)
            assert infos[1]["TimeLimit.truncated"]
            assert infos[1]["truncation_reason"] == "the horizon is reached"
            assert infos[1]["is_success"] == info["success"]
            plain, _ = alone.reset()
        assert all(np.array_equal(cast(Any, seen)[name][1], plain[name]) for name in plain)
    with pytest.raises(AttributeError, match="other processes"):
        envs.set_attr("horizon", 3)
    envs.close()
    alone.close()


def test_a_lost_worker_is_replaced_counted_and_training_goes_on() -> None:
    config = resolve(dataclasses.replace(TINY, workers=2, normalise=()))
    envs, core = make_envs(config)
    model = make_model(config, envs)
    cut: list[str] = []

    def kill(known: dict[str, Any], _: dict[str, Any]) -> bool:
        cut.extend(info["truncation_reason"] for info in known["infos"] if "worker_lost" in info)
        process = core._envs._workers[0].process
        if model.num_timesteps == 8 and not cut:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        return True

    model.learn(30, kill)
    assert len(cut) == 1
    assert "died with exit code -9" in cut[0]
    assert core.workers_lost == 1
    assert model.num_timesteps == 30
    assert model.replay_buffer is not None  # type: ignore[union-attr]
    assert model.replay_buffer.size() == 29  # type: ignore[union-attr]
    envs.close()


def test_a_loss_that_explodes_stops_with_the_last_checkpoint_intact(tmp_path: Path) -> None:
    for algorithm in ("sac", "ppo"):
        wild = dataclasses.replace(
            TINY,
            algorithm=cast(Any, algorithm),
            learning=dataclasses.replace(TINY.learning, lr=1e30),
            replay=dataclasses.replace(TINY.replay, warm_up=20),
            rollout=Rollout(steps=8, epochs=2),
            evaluation=Evaluation(episodes=1, times=1, video=False),
        )
        run = Run.create(tmp_path / algorithm, "rl", resolve(wild), 0)
        with pytest.raises(UsageError, match=r"after \d+ actions; .*a lower --learning.lr"):
            Training(run, resolve(wild)).execute()
        if algorithm == "sac":
            latest = run.latest()
            assert latest is not None
            assert latest.step == 16
            assert all(value.isfinite().all() for value in latest.tensors("model").values())


def test_what_normalises_loads_in_plain_stable_baselines3(finished: Run) -> None:
    envs, _ = make_envs(dataclasses.replace(finished.config(RLConfig), normalise=()))
    plain = VecNormalize.load(str(finished.path / "vecnormalize.pkl"), envs)
    tensors = finished.at(48).tensors("model")
    assert plain.norm_obs_keys == ["proprioception"]
    moments = cast(Any, plain.obs_rms)["proprioception"]
    assert np.array_equal(moments.mean, tensors["normalise.proprioception.mean"].numpy())
    assert np.array_equal(plain.ret_rms.var, tensors["normalise.reward.var"].numpy())
    envs.close()


def test_a_models_card_makes_the_environment_that_its_policy_knows(finished: Run, tmp_path: Path) -> None:
    pack(finished, "final", tmp_path / "packed", "me/reacher")
    text = (tmp_path / "packed" / "README.md").read_text()
    assert "reinforcement-learning" in text
    example = text.split("```python\n")[1].split("```")[0].replace("hf://me/reacher", str(tmp_path / "packed"))
    names: dict[str, Any] = {}
    exec(example, names)
    names["env"].close()
    assert names["env"].options == finished.config(RLConfig).env
    assert np.isfinite(names["action"]).all()


def an_agent(algorithm: Algorithm, encoder: EncoderOptions) -> ReinforcedAgent:
    """With random weights."""
    config = resolve(dataclasses.replace(TINY, algorithm=algorithm, encoder=encoder, normalise=("proprioception",)))
    torch.manual_seed(0)
    policy = cast(Any, ALGORITHMS[algorithm][1])(*spaces_of(config), lambda _: 0.0, **policy_options(config))
    moments = {"mean": torch.tensor([0.5, -1.0, 0.0, 2.0]), "var": torch.tensor([0.1, 4.0, 1.0, 0.5])}
    normaliser = {f"normalise.proprioception.{name}": value for name, value in moments.items()}
    return ReinforcedAgent(config, policy_state(policy) | normaliser, "here", "cpu")


@pytest.mark.parametrize("algorithm", ["sac", "td3", "ppo"])
def test_what_is_exported_is_what_the_policy_does(algorithm: Algorithm) -> None:
    agent = an_agent(algorithm, EncoderOptions("vit-micro"))
    seen = random_observations(agent, 5, seed=7)
    with torch.no_grad():
        (said,) = MostLikely(agent).eval()(seen)
    acted = agent.act({name: value.numpy() for name, value in seen.items()})
    assert np.allclose(said, acted, atol=1e-5)
    assert acted.std() > 1e-4


def test_an_exported_policy_plays_without_robovision(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    agent = an_agent("sac", EncoderOptions("cnn", adapter="none"))
    path = tmp_path / "policy.onnx"
    assert export(agent, path, "onnx") < 1e-4
    seen = {name: value.numpy() for name, value in random_observations(agent, 5, seed=7).items()}
    (found,) = onnxruntime.InferenceSession(path).run(["actions"], seen)
    assert export(agent, tmp_path / "policy.ts", "torchscript") < 1e-5
    assert np.allclose(found, agent.act(seen), atol=1e-4)


def test_the_numbers_of_each_checkpoint_go_to_tensorboard(finished: Run) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(finished.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("checkpoint/critic_loss")] == [16, 32, 48]
    assert [event.step for event in events.Scalars("eval/return")] == [48]


def test_a_checkpoint_comes_after_whole_episodes() -> None:
    short = dataclasses.replace(TINY, every=1)
    assert short.segment == 12  # two environments, six steps an episode
    assert dataclasses.replace(short, every=13).segment == 14
    ppo = dataclasses.replace(short, algorithm="ppo", rollout=Rollout(steps=5))
    assert ppo.segment == 20


def test_ppo_keeps_the_epsilon_that_stable_baselines3_gives_it() -> None:
    plain = PPO("MlpPolicy", "Pendulum-v1", device="cpu")
    ours = make_model(dataclasses.replace(TINY, algorithm="ppo", normalise=()), make_vec_env(FindTheSquare, 1))
    assert ours.policy.optimizer.defaults["eps"] == plain.policy.optimizer.defaults["eps"] == 1e-5


@pytest.mark.parametrize("start", ["random", "file", "embedded"])
def test_coins_batch_norms_are_fitted_also_beside_pretrained_weights(tmp_path: Path, start: str) -> None:
    file = tmp_path / "vit.safetensors"
    weights.save(file, build("vit-micro", 32).state_dict())
    encoder = EncoderOptions("vit-micro", weights=file if start == "file" else None)
    if start == "embedded":
        encoder, file = EncoderOptions("vit-tiny-sim"), weights.find("vit-tiny-sim")
    config = resolve(dataclasses.replace(TINY, encoder=encoder, normalise=()))
    training = Training(Run.create(tmp_path / "run", "rl", config, 0), config)
    training.envs = make_vec_env(lambda: cast(Any, FindTheSquare(2)), 2, seed=0)
    training.model = make_model(config, training.envs)
    training._begin()
    seen = training._extractor.encoder
    assert isinstance(seen, ViT)
    norms = [module for module in seen.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.running_var is not None and norm.running_var.ne(1).any() for norm in norms)
    assert not any(norm.training for norm in norms)
    same = torch.equal(seen.cls_token, weights.load_floats(file)["cls_token"])
    assert same == (start != "random")


def test_a_shut_gate_stays_shut() -> None:
    encoder = make_encoder(EncoderOptions("vit-micro", gate="shut"), 32)
    assert isinstance(encoder, ViT)
    assert isinstance(encoder.injector, CoIn)
    assert not encoder.injector.gamma.any()
    assert not encoder.injector.gamma.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "sacc"}, "unknown algorithm 'sacc'; nearest: sac"),
        ({"task": "dmc/cartpole-swingupp"}, "nearest: dmc/cartpole-swingup"),
        ({"options": ("target_entrpy=-2",)}, "unknown option of sac 'target_entrpy'; nearest: target_entropy"),
        ({"options": ("gamma=0.9",)}, "gamma is said by --learning.gamma"),
        ({"options": ("target_entropy",)}, "written name=value, got 'target_entropy'"),
        ({"env": EnvOptions(size=40)}, "multiple of the patch, 16 pixels, got 40"),
        ({"encoder": EncoderOptions(name="vit-tiny-sim"), "env": EnvOptions(size=24)}, "env.size"),
        ({"normalise": ("proprioceptive",)}, "nearest: proprioception"),
        ({"learning": Learning(lr=0)}, "learning.lr must be positive, got 0"),
        ({"replay": Replay(shift=-1)}, "replay.shift must not be negative"),
        ({"steps": 12}, r"the first 12 actions are at random \(--replay.warm-up\), and there are 12 in all"),
        ({"options": ("learning_starts=9",)}, "learning_starts is said by --replay.warm-up"),
        ({"steps": 0}, "steps must be positive, got 0"),
    ],
)
def test_wrong_options_are_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(dataclasses.replace(TINY, **changes))


def test_what_is_normalised_must_be_observed() -> None:
    config = dataclasses.replace(TINY, env=dataclasses.replace(TINY.env, observe=("pixels",)))
    with pytest.raises(UsageError, match="normalise names proprioception, but what is observed is pixels"):
        make_envs(resolve(config))


def test_options_reach_the_algorithm() -> None:
    config = resolve(dataclasses.replace(TINY, normalise=(), options=("target_entropy=-3", "batch_size=7")))
    model = make_model(config, make_vec_env(FindTheSquare, 2))
    assert isinstance(model, SAC)
    assert (model.target_entropy, model.batch_size, model.tau) == (-3, 7, 0.01)
