from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from robovision.agents.config import EncoderOptions
from robovision.agents.reinforcement.extractor import PixelExtractor, fit_batch_norms
from robovision.agents.reinforcement.policies import PixelPPOPolicy, PixelSACPolicy, PixelTD3Policy
from robovision.agents.reinforcement.replay import FrameReplayBuffer
from robovision.encoders.base import Encoder, Features
from robovision.errors import UsageError
from robovision.symmetry.claims import Symmetry
from tests.helpers import python
from tests.toy import FindTheSquare

MICRO = EncoderOptions(name="vit-micro")


def policy_options(**changes: Any) -> dict[str, Any]:
    seen = {"encoder": MICRO, "features": 32}
    return {"net_arch": [64], "optimizer_kwargs": {"fused": True}, "features_extractor_kwargs": seen, **changes}


def off_policy(**changes: Any) -> dict[str, Any]:
    return {
        "buffer_size": 4000,
        "learning_starts": 100,
        "gamma": 0.0,
        "replay_buffer_class": FrameReplayBuffer,
        "replay_buffer_kwargs": {"shift": 1},
        "policy_kwargs": policy_options(),
        "device": "cpu",
        "seed": 0,
        **changes,
    }


def square_envs(count: int, stack: int = 1, seed: int = 0) -> VecEnv:
    return make_vec_env(lambda: cast(gymnasium.Env[Any, Any], FindTheSquare(stack)), count, seed=seed)


def sac(envs: VecEnv, **changes: Any) -> SAC:
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 32, "ent_coef": "auto_0.1"}
    return SAC(PixelSACPolicy, envs, **off_policy(**(defaults | changes)))


def observe(stack: int, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Observations of the toy, as a policy gets them."""
    env = FindTheSquare(stack)
    env.reset(seed=seed)
    seen = [env.step(np.zeros(1, np.float32))[0] for _ in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in seen])) for name in seen[0]}


class Mean(Encoder):
    """The plainest encoder that keeps the contract: the mean colour of each quarter of the image."""

    def __init__(self) -> None:
        super().__init__(3)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height % 2 or width % 2:
            raise ValueError(f"image sides must be even, got {height} x {width}")
        return 2, 2

    def symmetries(self) -> tuple[Symmetry, ...]:
        return ()

    def encode(self, images: Tensor) -> Features:
        tokens = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(1))


@pytest.mark.parametrize(
    "encoder",
    [
        MICRO,
        EncoderOptions(name="vit-micro", adapter="none"),
        EncoderOptions(name="vit-micro", adapter="lora", train="adapter", readout="cls"),
        EncoderOptions(name="vit-micro", train="frozen"),
        EncoderOptions(name="cnn", adapter="none"),
        EncoderOptions(name="resnet50", adapter="none", readout="cls"),
        lambda side: Mean(),
    ],
    ids=["coin", "plain", "lora", "frozen", "cnn", "resnet50", "own"],
)
def test_any_encoder_is_a_features_extractor(encoder: Any) -> None:
    torch.manual_seed(0)
    extractor = PixelExtractor(FindTheSquare(2).observation_space, encoder, features=8)
    assert extractor.features_dim == 8 + 2
    features = extractor(observe(2, 3))
    assert features.shape == (3, 10)
    features.square().sum().backward()
    assert extractor.encoder is not None
    trained = {name for name, p in extractor.encoder.named_parameters() if p.grad is not None and p.grad.any()}
    train = getattr(encoder, "train", "full")
    if train == "frozen" or callable(encoder):
        assert not trained
    elif train == "adapter":
        assert trained
        assert all("lora" in name or "qkv" in name for name in trained)
    else:
        assert trained


def test_a_stack_is_fused_as_differences_and_the_newest() -> None:
    torch.manual_seed(0)
    extractor = PixelExtractor(FindTheSquare(3).observation_space, MICRO, features=8)
    seen = observe(3, 2)["pixels"]
    assert extractor.eye is not None
    with torch.no_grad():
        one, two, three = (extractor.eye(seen[:, 3 * k : 3 * k + 3]) for k in range(3))
        expected = torch.cat([two - one, three - two, three], dim=1)
        assert torch.allclose(extractor._fuse(seen, 3), expected, atol=1e-5)


def test_while_acting_each_new_frame_is_encoded_once() -> None:
    torch.manual_seed(0)
    extractor = PixelExtractor(FindTheSquare(3).observation_space, MICRO, features=8)
    env = FindTheSquare(3)
    seen = [env.reset(seed=0)[0], *(env.step(np.zeros(1, np.float32))[0] for _ in range(4)), env.reset(seed=1)[0]]
    tensors = [{name: torch.from_numpy(value[None]) for name, value in one.items()} for one in seen]
    assert extractor.eye is not None
    memory = extractor.eye.memory
    with torch.no_grad():
        plain = [extractor.train()(one) for one in tensors]
        assert memory.encoded == 0
        extractor.eval()
        for number, one in enumerate(tensors):
            assert torch.allclose(extractor(one), plain[number], atol=1e-5)
            assert memory.encoded == number + 1
        extractor(tensors[-1])
        assert memory.encoded == len(seen)
        next(extractor.eye.encoder.parameters()).mul_(1.5)
        changed = extractor(tensors[-1])
        assert memory.encoded == len(seen) + 1
        assert not torch.allclose(changed, plain[-1], atol=1e-5)


@pytest.mark.parametrize("kind", [PixelSACPolicy, PixelTD3Policy, PixelPPOPolicy])
def test_an_encoder_learns_at_its_own_pace(kind: Any) -> None:
    env = FindTheSquare(1)
    moved = {}
    for pace in (1.0, 0.1):
        torch.manual_seed(0)
        policy = kind(env.observation_space, env.action_space, lambda _: 0.5, **policy_options(encoder_pace=pace))
        learner: Any = policy if kind is PixelPPOPolicy else policy.critic
        optimizer: torch.optim.Optimizer = learner.optimizer
        update_learning_rate(optimizer, 1e-3)  # as Stable-Baselines3 does before it learns
        extractor = next(module for module in policy.modules() if isinstance(module, PixelExtractor))
        assert extractor.eye is not None
        parts = {"eye": extractor.eye, "trunks": extractor.trunks}
        before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.step()
        moved[pace] = {
            name: max(float((p - b).detach().abs().max()) for p, b in zip(part.parameters(), before[name], strict=True))
            for name, part in parts.items()
        }
    assert moved[1.0] == pytest.approx({"eye": 2e-3, "trunks": 2e-3}, rel=1e-3)
    assert moved[0.1] == pytest.approx({"eye": 2e-4, "trunks": 2e-3}, rel=1e-3)


def test_while_acting_nothing_is_remembered_from_before_a_gradient_step() -> None:
    model = sac(square_envs(2, 2), gradient_steps=0)
    model.learn(120)
    extractor = cast(PixelSACPolicy, model.policy).extractor
    assert model._last_obs is not None
    seen = cast(dict[str, torch.Tensor], model.policy.obs_to_tensor(model._last_obs)[0])
    with torch.no_grad():
        model.policy.set_training_mode(False)
        before = extractor(seen)
        assert torch.equal(extractor(seen), before)
    model.train(gradient_steps=1, batch_size=8)  # by a fused optimiser, whose changes PyTorch does not count
    with torch.no_grad():
        learnt = extractor.train()(seen)
        model.policy.set_training_mode(False)
        acting = extractor(seen)
    assert not torch.allclose(learnt, before, atol=1e-5)
    assert torch.allclose(acting, learnt, atol=1e-5)


def test_a_gradient_step_encodes_each_batch_once_and_only_the_critic_trains_the_encoder() -> None:
    model = sac(square_envs(2, 2), gradient_steps=0)
    model.learn(120)
    policy = cast(PixelSACPolicy, model.policy)
    calls: list[tuple[int, bool]] = []
    assert policy.extractor.encoder is not None
    policy.extractor.encoder.register_forward_hook(
        lambda module, inputs, outputs: calls.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    model.train(1, 16)
    assert calls == [(32, True), (32, False)]  # 16 stacks of two frames, and the next ones
    before = {name: p.detach().clone() for name, p in policy.extractor.named_parameters()}
    policy.critic.optimizer.param_groups[0]["lr"] = 0.0
    model.lr_schedule = lambda _: 0.0
    for group in policy.actor.optimizer.param_groups:
        group["lr"] = 1.0
    model.train(1, 16)
    assert all(torch.equal(p, before[name]) for name, p in policy.extractor.named_parameters())
    learnt = {id(p) for group in policy.critic.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in policy.extractor.parameters() if p.requires_grad} < learnt
    actors = {id(p) for group in policy.actor.optimizer.param_groups for p in group["params"]}
    assert not actors & {id(p) for p in policy.extractor.parameters()}


@pytest.mark.parametrize("graph", [True, False])
def test_the_critics_gradient_is_that_of_the_plain_loss(graph: bool) -> None:
    """Sharing features changes no gradient: the same as the critic's loss written out, however they were made first."""
    model = sac(square_envs(1))
    model.learn(99)
    policy = cast(PixelSACPolicy, model.policy)
    policy.set_training_mode(True)
    assert model.replay_buffer is not None
    batch = cast(Any, model.replay_buffer.sample(8))
    target = torch.randn(8, 1)
    with torch.set_grad_enabled(graph):
        policy.actor.action_log_prob(batch.observations)  # asks first
    loss = sum(torch.nn.functional.mse_loss(q, target) for q in policy.critic(batch.observations, batch.actions))
    cast(Tensor, loss).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in policy.extractor.named_parameters() if p.grad is not None}
    policy.zero_grad()
    features = policy.extractor(batch.observations)
    inputs = torch.cat([features, batch.actions], dim=1)
    plain = sum(torch.nn.functional.mse_loss(network(inputs), target) for network in policy.critic.q_networks)
    cast(Tensor, plain).backward()  # type: ignore[no-untyped-call]
    assert found
    for name, p in policy.extractor.named_parameters():
        if p.grad is not None:
            assert torch.allclose(found[name], p.grad, atol=1e-6), name


def test_batch_norms_are_fitted_to_images_and_then_stay() -> None:
    torch.manual_seed(0)
    extractor = PixelExtractor(FindTheSquare().observation_space, MICRO, features=8)
    assert extractor.encoder is not None
    images = observe(1, 40)["pixels"]
    plain = extractor(observe(1, 20))
    fit_batch_norms(extractor.encoder, images)
    norms = [m for m in extractor.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(norm.running_mean is not None and norm.running_mean.any() for norm in norms)
    state = {name: value.clone() for name, value in extractor.state_dict().items()}
    fitted = extractor.train()(observe(1, 20))
    assert not torch.allclose(plain, fitted)
    assert all(torch.equal(value, state[name]) for name, value in extractor.state_dict().items())


def train_ppo(seed: int, steps: int) -> PPO:
    model = PPO(
        PixelPPOPolicy,
        square_envs(8),
        learning_rate=1e-3,
        n_steps=64,
        batch_size=64,
        n_epochs=4,
        gamma=0.0,
        gae_lambda=0.0,
        policy_kwargs=policy_options(log_std_init=-0.7),
        seed=seed,
        device="cpu",
    )
    return model.learn(steps)


def mean_return(model: PPO | SAC, stack: int) -> float:
    value = evaluate_policy(model, square_envs(4, stack, seed=99), 16, warn=False)[0]
    assert isinstance(value, float)
    return value


def test_training_repeats_bit_by_bit() -> None:
    def weights(make: Callable[[], SAC | PPO]) -> list[Tensor]:
        return [value.clone() for value in make().policy.state_dict().values()]

    for make in (lambda: sac(square_envs(2, 2)).learn(140), lambda: train_ppo(3, 512)):
        once, again = weights(make), weights(make)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_their_callbacks_tensorboard_and_normaliser_keep_working(tmp_path: Path) -> None:
    envs = VecNormalize(square_envs(2), norm_obs_keys=["noise"])
    model = TD3(PixelTD3Policy, envs, **off_policy(batch_size=8, tensorboard_log=str(tmp_path / "board")))
    callbacks = CallbackList(
        [
            CheckpointCallback(50, str(tmp_path / "saved"), save_replay_buffer=True, save_vecnormalize=True),
            EvalCallback(
                VecNormalize(square_envs(1), training=False, norm_obs_keys=["noise"]),
                n_eval_episodes=1,
                eval_freq=50,
                log_path=str(tmp_path / "judged"),
                best_model_save_path=str(tmp_path / "best"),
                verbose=0,
            ),
        ]
    )
    model.learn(112, callbacks, log_interval=1)
    assert cast(Any, envs.obs_rms)["noise"].count > 100
    assert list((tmp_path / "board").glob("*/events*"))
    assert np.load(tmp_path / "judged" / "evaluations.npz")["results"].size
    again = TD3.load(tmp_path / "best" / "best_model.zip", device="cpu")
    assert {"critic.optimizer", "policy"} < set(again.get_parameters())
    later = TD3.load(tmp_path / "saved" / "rl_model_100_steps.zip", envs, device="cpu")
    later.load_replay_buffer(tmp_path / "saved" / "rl_model_replay_buffer_100_steps.pkl")
    assert later.replay_buffer is not None
    assert later.replay_buffer.size() == 98  # their callbacks come before the step is remembered
    later.learn(10, reset_num_timesteps=False)
    assert later.num_timesteps == 110


def test_a_policy_loads_in_plain_stable_baselines3(tmp_path: Path) -> None:
    model = sac(square_envs(2)).learn(110)
    model.save(tmp_path / "model.zip")
    observation = {name: value[0].numpy() for name, value in observe(1, 1).items()}
    np.savez(tmp_path / "seen.npz", **cast(Any, observation))
    expected, _ = model.predict(observation, deterministic=True)
    code = (
        "import numpy as np\nfrom stable_baselines3 import SAC\n"
        "model = SAC.load('model.zip', device='cpu')\n"
        "print(repr(float(model.predict(dict(np.load('seen.npz')), deterministic=True)[0][0])))"
    )
    answer = python(code, tmp_path)
    assert float(answer.stdout) == pytest.approx(float(expected[0]), abs=1e-6), answer


def test_an_encoder_that_does_not_fit_is_said_with_both_shapes() -> None:
    def space(*shape: int) -> spaces.Dict:
        return spaces.Dict({"pixels": spaces.Box(0, 255, shape, np.uint8)})

    with pytest.raises(
        UsageError, match=r"vit-micro, which takes frames \[3, H, W\], does not fit pixels \[6, 40, 40\]"
    ):
        PixelExtractor(space(6, 40, 40), MICRO)
    with pytest.raises(
        UsageError, match=r"Mean, which takes frames \[3, H, W\], does not fit pixels \[3, 33, 33\].*even"
    ):
        PixelExtractor(space(3, 33, 33), lambda side: Mean())
    with pytest.raises(UsageError, match=r"pixels has shape \[32, 32, 3\], expected \[3 k, S, S\]; channels come last"):
        PixelExtractor(space(32, 32, 3), MICRO)
    with pytest.raises(UsageError, match="no reader for the observation 'depth'"):
        PixelExtractor(spaces.Dict({"depth": spaces.Box(0, 1, (1, 32, 32), np.float32)}), MICRO)


def test_points_have_no_order_and_a_ring_no_beginning() -> None:
    torch.manual_seed(0)
    space = spaces.Dict(
        {
            "lidar": spaces.Box(0, 10, (2, 32), np.float32),
            "keypoints": spaces.Box(-1, 1, (5, 3), np.float32),
            "proprioception": spaces.Box(-1, 1, (4,), np.float32),
        }
    )
    extractor = PixelExtractor(space, MICRO)
    assert extractor.encoder is None
    points = torch.randn(2, 5, 3)
    seen = {"lidar": 10 * torch.rand(2, 2, 32), "keypoints": points, "proprioception": torch.randn(2, 4)}
    features = extractor(seen)
    assert features.shape == (2, 64 + 64 + 4) == (2, extractor.features_dim)
    turned = extractor({**seen, "keypoints": points[:, [3, 1, 0, 4, 2]]})
    assert torch.equal(features, turned)
    padded = torch.cat([points, torch.zeros(2, 3, 3)], dim=1)
    assert torch.equal(extractor.readers["keypoints"](padded), extractor.readers["keypoints"](points))
    assert extractor.readers["keypoints"](torch.zeros(1, 5, 3)).isfinite().all()
    convolutions = cast(Any, extractor.readers["lidar"]).layers[:4]
    map_, rolled = (convolutions(seen["lidar"].roll(shift, -1)) for shift in (0, 4))
    assert torch.allclose(map_.roll(1, -1), rolled, atol=1e-6)


BLIND = 3.9
"""Of at most 8: what a policy gets that always answers with the middle."""


def test_ppo_learns_to_see() -> None:
    assert mean_return(train_ppo(0, 2048), 1) > BLIND + 2.5


def test_sac_learns_to_see() -> None:
    assert mean_return(sac(square_envs(4, 2), replay_buffer_kwargs={}).learn(1200), 2) > BLIND + 2.1
