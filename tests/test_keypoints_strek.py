"""S-TREK: detector, drawing, rewards, pairs, descriptor, training and extractor."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from robovision import weights
from robovision.cli import main
from robovision.errors import UsageError
from robovision.keypoints.description import SIDE, WIDTH, Descriptor, patches, triplet_loss
from robovision.keypoints.detector import Detector
from robovision.keypoints.leaves import dead_leaves
from robovision.keypoints.objectives import Repeatability
from robovision.keypoints.pairs import Pairs, draw_pairs, read_folder, transform, transform_directions
from robovision.keypoints.sampling import disc, draw, local_maxima, repeatability_reward
from robovision.keypoints.strek import REACH, TEMPERATURE, ExtractorOptions, Strek, refine
from robovision.keypoints.strek_config import DetectorOptions, SamplingOptions, StrekConfig
from robovision.keypoints.training import Training
from robovision.run import Run
from robovision.steps import Steps

TINY = DetectorOptions(group="C4", fields=1, kernel=3, layers=3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def leaf() -> Tensor:
    return dead_leaves(160, 0, 0)


@pytest.fixture(scope="module")
def extractor() -> Strek:
    torch.manual_seed(0)
    return Strek(Detector(DetectorOptions()), Descriptor(), ExtractorOptions(most=200))


@pytest.mark.parametrize("group", ["C1", "C4", "C8", "D4"])
def test_the_detector_leaves_its_margin_and_exports(group: str, leaf: Tensor) -> None:
    torch.manual_seed(0)
    detector = Detector(DetectorOptions(group=group)).eval()
    margin = detector.options.margin
    image = leaf[None, None, :60, :70]
    with torch.no_grad():
        found, plain = detector(image), detector.exported()(image)
    assert found.logits.shape == (1, 60 - 2 * margin, 70 - 2 * margin)
    assert found.logits.abs().max() <= 1
    assert torch.allclose(found.logits, plain.logits, atol=1e-5)
    assert torch.allclose(found.vectors, plain.vectors, atol=1e-5)


@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_turns_logits_and_orientations(group: str, quarters: int, leaf: Tensor) -> None:
    torch.manual_seed(0)
    detector = Detector(DetectorOptions(group=group)).eval()
    image = leaf[None, None, :60, :70]
    with torch.no_grad():
        before, after = detector(image), detector(image.rot90(quarters, (2, 3)))
    assert torch.allclose(after.logits, before.logits.rot90(quarters, (1, 2)), atol=1e-5)
    angle = math.pi / 2 * quarters  # counter-clockwise, with y down
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned = torch.einsum("ij,bjhw->bihw", turn, before.vectors.rot90(quarters, (2, 3)))
    assert torch.allclose(after.vectors, turned, atol=1e-5)


def test_points_are_drawn_apart_and_the_policy_is_not_masked() -> None:
    logits = torch.rand(3, 40, 50, requires_grad=True)
    options = SamplingOptions(radius=6, most=20)
    draws = draw(logits, options, generator())
    assert draws.drawn.all() and draws.cells.shape == (3, 20)
    places = torch.stack([draws.cells // 50, draws.cells % 50], -1).double()
    distance = torch.cdist(places, places) + 100 * torch.eye(20)
    assert distance.min() > 6
    whole = (logits / options.temperature).flatten(1).log_softmax(1)
    assert torch.allclose(draws.log_policy, whole)
    assert torch.allclose(draws.visits.sum(1), torch.full((3,), 20.0), rtol=1e-4)


def test_drawing_stops_when_the_points_cover_the_probability() -> None:
    logits = torch.zeros(2, 30, 30)
    logits[0, 5, 5] = logits[0, 20, 20] = 1  # two peaks hold nearly everything; the other map is level
    draws = draw(logits, SamplingOptions(temperature=0.02, remaining=0.01, most=10), generator())
    assert draws.drawn.sum(1).tolist() == [2, 10]
    assert set(draws.cells[0, :2].tolist()) == {5 * 30 + 5, 20 * 30 + 20}


def test_the_frequency_of_draws_is_the_softmax() -> None:
    logits = torch.tensor([[[0.0, 0.05], [0.1, 0.15]]]).repeat(4000, 1, 1)
    options = SamplingOptions(temperature=0.05, radius=6, most=1)
    draws = draw(logits, options, generator())
    expected = torch.softmax(torch.arange(4.0), 0)
    assert torch.allclose(torch.bincount(draws.cells[:, 0], minlength=4) / 4000, expected, atol=0.03)
    assert torch.allclose(draws.visits[0], expected)


@pytest.mark.parametrize("sampler", ["sequential", "grid"])
def test_visits_are_the_mean_of_draws(sampler: Literal["sequential", "grid"]) -> None:
    logits = torch.rand(1, 6, 8, generator=generator(1)).repeat(4000, 1, 1)
    draws = draw(logits, SamplingOptions(sampler=sampler, temperature=0.3, radius=1, most=4), generator())
    seen = torch.bincount(draws.cells.flatten(), minlength=48) / 4000
    assert torch.allclose(draws.visits.mean(0), seen, atol=0.03)
    assert seen.max() > 0.2


def test_a_sequence_ends_where_nothing_is_left() -> None:
    draws = draw(torch.zeros(2, 5, 5), SamplingOptions(radius=6, most=3), generator())
    assert draws.drawn.tolist() == [[True]] * 2
    several = draw(torch.zeros(30, 20, 20), SamplingOptions(radius=6, most=20), generator())
    counts = several.drawn.sum(1)
    assert counts.min() < counts.max() < 20
    assert ((several.cells >= 0) & (several.cells < 400)).all()
    assert torch.allclose(several.visits.sum(1), counts.float(), rtol=1e-3)


def test_the_grid_draws_one_in_each_cell_and_top_k_the_strongest() -> None:
    logits = torch.rand(2, 24, 32)
    grid = draw(logits, SamplingOptions(sampler="grid", radius=6), generator())
    assert grid.cells.shape == (2, 12)
    cells = (grid.cells // 32 // 8) * 4 + grid.cells % 32 // 8
    assert (cells.sort(1).values == torch.arange(12)).all()
    best = draw(logits, SamplingOptions(sampler="top-k", most=3), generator())
    assert (logits.flatten(1).argmax(1) == best.cells[:, 0]).all()


def test_rewards_of_hand_made_points() -> None:
    warped = torch.tensor([[[10.0, 10.0], [20.0, 20.0], [90.0, 0.0]]])
    others = torch.tensor([[[11.5, 10.0], [30.0, 20.0], [20.0, 20.0]]])
    inside = torch.tensor([[True, True, False]])
    drawn = torch.tensor([[True, True, False]])
    linear = repeatability_reward(warped, inside, others, drawn, SamplingOptions(within=3, penalty=0.25))
    assert linear.values[0].tolist() == [0.5, -0.25, 0]
    assert linear.nearest[0, 0] == 0 and linear.matched[0].tolist() == [True, False, False]
    step = repeatability_reward(warped, inside, others, drawn, SamplingOptions(reward="step", within=3, penalty=0.25))
    assert step.values[0].tolist() == [1, -0.25, 0]


def test_local_maxima_turn_with_the_map_and_a_level_map_has_none() -> None:
    logits = (torch.rand(1, 30, 30) * 8).round()  # with ties
    assert (local_maxima(logits.rot90(1, (1, 2)), 2) == local_maxima(logits, 2).rot90(1, (1, 2))).all()
    assert not local_maxima(torch.ones(1, 9, 9), 2).any()
    assert len(disc(1)[0]) == 5


def test_pairs_are_related_by_their_homographies(leaf: Tensor) -> None:
    smooth = torch.nn.functional.avg_pool2d(leaf[None, None], 9, 1, 4)[0, 0]
    pairs = draw_pairs([smooth], 64, 6, seed=0, step=3)
    again = draw_pairs([smooth], 64, 6, seed=0, step=3)
    assert (pairs.second == again.second).all()
    axis = torch.arange(64.0)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2).expand(6, -1, -1)
    warped = transform(pixels, pairs.homographies)
    inside = ((warped >= 1) & (warped <= 62)).all(-1)
    where = ((warped + 0.5) * 2 / 64 - 1).view(6, 64, 64, 2)
    seen = torch.nn.functional.grid_sample(pairs.second, where, align_corners=False).flatten(1)
    for first, second, mask in zip(pairs.first.flatten(1), seen, inside, strict=True):
        assert torch.corrcoef(torch.stack([first[mask], second[mask]]))[0, 1] > 0.8


def test_directions_follow_a_homography() -> None:
    pairs = draw_pairs([torch.rand(200, 200)], 64, 4, seed=0, step=0)
    points, angle = torch.rand(4, 9, 2, dtype=torch.float64) * 64, torch.rand(4, 9, dtype=torch.float64) * 7
    directions = torch.stack([angle.cos(), angle.sin()], -1)
    homographies = pairs.homographies.double()
    step = 1e-5
    moved = transform(points + step * directions, homographies) - transform(points, homographies)
    expected = torch.nn.functional.normalize(moved, dim=-1)
    assert torch.allclose(transform_directions(points, directions, homographies), expected, atol=1e-4)


def test_the_detector_learns_on_one_pair(leaf: Tensor) -> None:
    torch.manual_seed(0)
    pairs = draw_pairs([leaf], 64, 2, seed=0, step=0)
    objective = Repeatability(Detector(TINY), SamplingOptions(most=16, radius=4))
    optimizer = torch.optim.Adam(objective.module.parameters(), 0.02)
    rewards = []
    for step in range(60):
        loss, numbers = objective(pairs, generator(step))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rewards.append(numbers["reward"])
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.05


def test_nothing_in_common_gives_no_gradient_and_no_nan() -> None:
    far = torch.eye(3)
    far[0, 2] = 1e4
    pictures = torch.rand(1, 1, 48, 48)
    loss, numbers = Repeatability(Detector(TINY), SamplingOptions())(Pairs(pictures, pictures, far[None]), generator())
    assert float(loss.detach()) == 0 and numbers["reward"] == 0


def test_patches_turn_with_their_direction(leaf: Tensor) -> None:
    image = leaf[None, None, :81, :81]
    middle = torch.tensor([[[40.0, 40.0]]])
    upright = patches(image, middle, torch.tensor([[[1.0, 0.0]]]))
    turned = patches(image.rot90(1, (2, 3)), middle, torch.tensor([[[0.0, -1.0]]]))  # to the right becomes up
    assert upright.shape == (1, 1, SIDE, SIDE)
    assert torch.allclose(upright, turned, atol=1e-5)


def test_the_descriptor_exports() -> None:
    torch.manual_seed(0)
    descriptor, seen = Descriptor(), torch.rand(20, 1, SIDE, SIDE)
    descriptor(seen)  # gives the batch statistics other values than those at the start
    with torch.no_grad():
        assert torch.allclose(descriptor.exported()(seen), descriptor.eval()(seen), atol=1e-5)


def test_triplet_loss_by_hand() -> None:
    cosines = torch.tensor([[0.9, 0.6, 0.2], [0.1, 0.8, 0.2], [0.1, 0.2, 0.7]])
    none = torch.zeros(3, 3, dtype=torch.bool)
    assert float(triplet_loss(cosines, none)) == pytest.approx(((0.2 + 0 + 0) / 3 + (0 + 0.3 + 0) / 3) / 2)
    same = none.clone()
    same[0, 1] = True
    assert float(triplet_loss(cosines, same)) == pytest.approx(0, abs=1e-6)
    assert float(triplet_loss(cosines[:1, :1], none[:1, :1])) == 0


def test_refinement_is_the_mean_of_the_policy_around_the_maximum() -> None:
    axis = torch.arange(15.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    spread = 0.8  # pixels: little of it lies beyond the disc
    logits = -TEMPERATURE * ((x - 7.2) ** 2 + (y - 6.9) ** 2) / (2 * spread**2)
    middle = torch.tensor([7])
    offset, uncertainty = refine(logits, middle, middle)
    assert offset[0].tolist() == pytest.approx([0.2, -0.1], abs=0.01)
    assert float(uncertainty) == pytest.approx(spread, rel=0.02)
    level = refine(torch.zeros(15, 15), middle, middle)
    assert level[0][0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert float(level[1]) == pytest.approx(float(torch.stack(disc(REACH)).double().square().mean().sqrt()))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_refinement_turns_with_the_map(quarters: int) -> None:
    logits = torch.rand(9, 9, generator=generator())
    middle = torch.tensor([4])
    (offset,), uncertainty = refine(logits, middle, middle)
    (turned,), same = refine(logits.rot90(quarters), middle, middle)
    x, y = offset
    expected = {1: (y, -x), 2: (-x, -y), 3: (-y, x)}[quarters]
    assert torch.allclose(turned, torch.stack(expected), atol=1e-6)
    assert torch.allclose(same, uncertainty, atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_gives_the_same_keypoints(quarters: int, leaf: Tensor, extractor: Strek) -> None:
    image = leaf.numpy()
    first, second = extractor.extract(image), extractor.extract(np.ascontiguousarray(np.rot90(image, quarters)))
    assert len(first) == len(second) > 20
    x, y = first.xy.T
    edge = 159
    turned = {1: (y, edge - x), 2: (edge - x, edge - y), 3: (edge - y, x)}[quarters]
    distance = np.linalg.norm(np.stack(turned, 1)[:, None] - second.xy[None], axis=2)
    nearest = distance.argmin(1)
    assert distance.min(1).max() < 1e-2
    assert first.descriptors is not None and second.descriptors is not None
    cosines = (first.descriptors * second.descriptors[nearest]).sum(1)
    assert np.median(cosines) > 0.999
    assert first.angles is not None and second.angles is not None
    change = second.angles[nearest] - first.angles + quarters * np.pi / 2
    assert np.abs(np.sin(change / 2)).max() < 1e-2


def test_keypoints_are_complete_and_bounded(leaf: Tensor, extractor: Strek) -> None:
    found = extractor.extract(leaf.numpy())
    assert 0 < len(found) <= 200
    assert (np.diff(found.scores) <= 0).all()
    assert found.descriptors is not None and found.descriptors.shape == (len(found), WIDTH)
    assert np.linalg.norm(found.descriptors, axis=1) == pytest.approx(1, abs=1e-5)
    assert found.uncertainties is not None and (found.uncertainties > 0).all()


def test_strips_give_what_the_whole_gives(leaf: Tensor, extractor: Strek, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extractor.extract(leaf.numpy())
    monkeypatch.setattr("robovision.keypoints.strek.STRIP", 160 * 37)
    pieces = extractor.extract(leaf.numpy())
    assert np.abs(pieces.xy - whole.xy).max() < 1e-3
    assert np.abs(pieces.scores - whole.scores).max() < 1e-5


def test_several_scales_find_larger_things(leaf: Tensor) -> None:
    torch.manual_seed(0)
    several = Strek(Detector(DetectorOptions()), Descriptor(), ExtractorOptions(multi_scale=True))
    large = np.kron(leaf.numpy(), np.ones((2, 2), np.float32))
    found = several.extract(large)
    assert found.scales is not None
    assert len(np.unique(found.scales)) == 3
    turned = several.extract(np.ascontiguousarray(np.rot90(large)))
    there = np.stack([found.xy[:, 1], 319 - found.xy[:, 0]], 1)
    distance = np.linalg.norm(there[:, None] - turned.xy[None], axis=2)
    assert (distance.min(1) < 0.05).mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (23, 300)])
def test_small_images_have_none(shape: tuple[int, int], extractor: Strek) -> None:
    assert len(extractor.extract(np.full(shape, 0.5, np.float32))) == 0


@pytest.mark.parametrize("tone", [0, 90, 201, 255])
def test_level_images_have_none(tone: int) -> None:
    assert len(Strek.load(ExtractorOptions()).extract(np.full((200, 230), tone / 255, np.float32))) == 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((30, 30), np.uint8),
        np.zeros((30, 30, 3), np.float32),
        np.zeros((0, 30), np.float32),
        np.full((30, 30), np.nan, np.float32),
        np.full((30, 30), 2.0, np.float32),
    ],
)
def test_wrong_images_are_refused(image: np.ndarray, extractor: Strek) -> None:
    with pytest.raises(ValueError, match="image must"):
        extractor.extract(image)


CONFIG = StrekConfig(
    detector=TINY, sampling=SamplingOptions(most=8), leaves=1, size=48, batch=2, steps=4, checkpoint_every=2
)


def train(path: Path, config: StrekConfig) -> Path:
    Training(Run.create(path, "keypoints train", config, 1), config).execute()
    return path


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", CONFIG)
    cut = Training(Run.create(tmp_path / "cut", "keypoints train", CONFIG, 1), CONFIG)
    save = Steps._save

    def save_and_stop(steps: Steps) -> None:
        save(steps)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Steps, "_save", save_and_stop)
        cut.execute()
    latest = cut.run.latest()
    assert latest is not None
    assert latest.step == CONFIG.checkpoint_every
    Training(Run.open(cut.run.path), CONFIG).execute()
    assert weights.sha256(cut.run.path / "detector.safetensors") == weights.sha256(whole / "detector.safetensors")
    later = dataclasses.replace(CONFIG, part="descriptor", detector_weights=whole / "detector.safetensors", steps=1)
    described = train(tmp_path / "descriptor", later)
    weights.assign(Descriptor(), weights.load(described / "descriptor.safetensors"), "test")


def test_a_run_may_stop_before_its_last_step(tmp_path: Path) -> None:
    stopped = train(tmp_path / "stopped", dataclasses.replace(CONFIG, stop=2))
    longer = train(tmp_path / "longer", dataclasses.replace(CONFIG, stop=3))
    first, second = (weights.load(path / "detector.safetensors") for path in (stopped, longer))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    whole = Training(Run.create(tmp_path / "whole", "keypoints train", CONFIG, 1), CONFIG)
    seen: list[dict[str, Tensor]] = []
    descend = whole._train_step

    def step(photographs: list[Tensor]) -> dict[str, float]:
        seen.append({name: tensor.clone().half() for name, tensor in whole.module.state_dict().items()})
        return descend(photographs)

    whole._train_step = step  # type: ignore[method-assign]
    whole.execute()
    assert all(torch.equal(first[name], seen[2][name]) for name in first if first[name].is_floating_point())


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    for change in ({"leaves": 0}, {"size": 20}, {"lr": 0.0}, {"part": "descriptor"}, {"stop": 5}, {"stop": 0}):
        with pytest.raises(UsageError):
            dataclasses.replace(CONFIG, **change)
    for wrong in ({"temperature": 0.0}, {"remaining": 1.0}, {"penalty": -1.0}):
        with pytest.raises(UsageError):
            SamplingOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="odd"):
        DetectorOptions(kernel=4)
    with pytest.raises(UsageError, match="no images"):
        read_folder(tmp_path, 10)


def test_the_command_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--leaves", "1", "--size", "56", "--batch", "1", "--steps", "1", "--sampling.most", "8"]
    path = tmp_path / "run"
    assert main(["keypoints", "train", *options, "--out", str(path)]) == 0
    assert "detector.safetensors" in capsys.readouterr().out
    assert main(["keypoints", "train", "--resume", str(path)]) == 0
    assert main(["keypoints", "train", "--resume", str(path), "--steps", "9"]) == 2
    assert "--steps: 1 -> 9" in capsys.readouterr().err


def test_the_embedded_weights_are_small_have_a_card_and_hold_under_a_turn(leaf: Tensor) -> None:
    path = weights.find("strek")
    assert path.stat().st_size <= 4_000_000
    card = path.with_suffix(".md").read_text()
    assert weights.EMBEDDED["strek"].sha256 in card
    assert "robovision keypoints train" in card
    strek, image = Strek.load(ExtractorOptions(most=100)), leaf.numpy()
    first, second = strek.extract(image), strek.extract(np.ascontiguousarray(np.rot90(image)))
    assert first.descriptors is not None and second.descriptors is not None
    nearest = (first.descriptors @ second.descriptors.T).argmax(1)
    x, y = first.xy.T
    distance = np.linalg.norm(np.stack([y, 159 - x], 1) - second.xy[nearest], axis=1)
    assert (distance < 0.01).mean() > 0.98
