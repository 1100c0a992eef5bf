from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robovision import weights
from robovision.agents import clips
from robovision.agents.config import EncoderOptions, Optimisation
from robovision.agents.learner import Learner
from robovision.agents.policy import History, histories, make_policy
from robovision.encoders.checkpoints import load_pretrained
from robovision.envs.demo_arrays import Demonstrations
from robovision.errors import UsageError
from robovision.optimisers import descend
from tests.helpers import TINY


def test_history_repeats_the_first_and_forgets_the_oldest() -> None:
    history = History(3)
    for now, expected in ((1.0, [1, 1, 1]), (2.0, [1, 1, 2]), (3.0, [1, 2, 3]), (4.0, [2, 3, 4])):
        assert history.push(torch.full((2, 1), now))[0, :, 0].tolist() == expected


def test_histories_of_training_and_rollout_give_the_same_action() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, history=3, optimisation=Optimisation(clip=4, batch=8))
    agent = make_policy(config, 4, 4).eval()
    nn.init.normal_(agent.head[-1].weight)  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
    numbers = np.arange(24, dtype=np.float32).reshape(6, 4)
    drawing = clips.Drawing(history=3, clip=4)
    demos = clips.Clips(Demonstrations(pixels, numbers, numbers, np.array([6]), None), drawing)
    history = History(3)
    with torch.no_grad():
        played = torch.cat(
            [agent.act(history.push(agent.embed(torch.from_numpy(p[None]))), torch.from_numpy(n[None]))
             for p, n in zip(pixels, numbers, strict=True)]
        )  # fmt: skip
        for step in range(10):
            batch = demos.batch(step, 2)
            embedded = agent.embed(batch.frames.flatten(0, 1)).view(*batch.frames.shape[:2], -1)
            trained = agent.act(histories(embedded, batch.valid), batch.proprioception)
            time_of = (batch.actions[:, 0, 0] / 4).long()
            assert torch.allclose(trained, played[time_of], atol=1e-4)


def test_only_what_is_asked_for_is_trained() -> None:
    def trained(train: str, adapter: str = "coin") -> set[str]:
        options = EncoderOptions(train=train, adapter=adapter)  # type: ignore[arg-type]
        agent = make_policy(dataclasses.replace(TINY, encoder=options), 4, 4)
        return {name.split(".")[1] for name, p in agent.encoder.named_parameters(prefix="e") if p.requires_grad}

    assert "blocks" in trained("full")
    assert trained("adapter") == {"injector"}
    assert trained("frozen") == set()
    with pytest.raises(UsageError, match="nothing to train"):
        EncoderOptions(train="adapter", adapter="none")


def test_pretrained_weights_learn_at_their_own_rate(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    plain = make_policy(dataclasses.replace(TINY, encoder=EncoderOptions(adapter="none")), 4, 4).encoder
    weights.save(file, plain.state_dict())
    paced = dataclasses.replace(
        TINY, encoder=EncoderOptions(weights=file), optimisation=Optimisation(lr=1e-3, pretrained_lr=1e-5)
    )
    moved = {}
    for config in (paced, dataclasses.replace(paced, encoder=EncoderOptions())):
        learner = Learner(config, 4, torch.zeros(2, 4))
        before = {name: p.detach().clone() for name, p in learner.policy.named_parameters()}
        loss = torch.stack([p.sum() for p in learner.policy.parameters()]).sum()
        descend(loss, learner.policy, learner.optimizer, 1e-3, 1.0)
        after = learner.policy.named_parameters()
        moved[config.encoder.weights] = {name: float((p.detach() - before[name]).abs().max()) for name, p in after}
    for name, far in moved[file].items():
        slow = name.startswith("encoder.") and ".injector." not in name
        assert far == pytest.approx(1e-5 if slow else 1e-3, rel=0.05), name
    assert all(far == pytest.approx(1e-3, rel=0.05) for far in moved[None].values())
    with pytest.raises(UsageError, match=r"optimisation\.pretrained_lr must be positive, got 0"):
        Optimisation(pretrained_lr=0)


def test_pretrained_weights_load_strictly_and_leave_coins_gate_shut(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    plain = make_policy(dataclasses.replace(TINY, encoder=EncoderOptions(adapter="none")), 4, 4).encoder
    weights.save(file, plain.state_dict())
    agent = make_policy(dataclasses.replace(TINY, encoder=EncoderOptions(weights=file)), 4, 4)
    load_pretrained(agent.encoder, file)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(agent.encoder.eval()(images).tokens, plain.eval()(images).tokens)
    weights.save(file, {"norm.weight": torch.zeros(3)})
    with pytest.raises(UsageError, match=r"(?s)missing: cls_token.*misshapen: norm.weight is \[3\], not \[192\]"):
        load_pretrained(agent.encoder, file)
