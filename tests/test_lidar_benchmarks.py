from __future__ import annotations

import itertools
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robovision import Boxes3D
from robovision.bench import lidar_memory
from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar import flow_metric, kitti_matching, nuscenes_metric, waymo_metric
from robovision.lidar.argoverse import read_feather, read_sweep
from robovision.lidar.assignment import best_assignment, components
from robovision.lidar.evaluate import evaluate
from robovision.lidar.flow_metric import FlowMetric, FlowTruth, is_dynamic, read_flow, read_flow_truth, write_flow_truth
from robovision.lidar.nuscenes_boxes import NuScenesBoxes, read_nuscenes_boxes, write_nuscenes_boxes
from robovision.lidar.nuscenes_truth import read_nuscenes_truth
from robovision.lidar.report import Evaluation
from robovision.lidar.waymo_boxes import CLASSES, WaymoBoxes, read_waymo_boxes, write_waymo_boxes
from robovision.types import Array
from tests.test_lidar_clouds import DATA, missing_data
from tests.test_lidar_metric import CAR, FOUND, folders

HERE = Path(__file__).parent / "data"


def values(result: Evaluation) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def test_nuscenes_equals_the_official_devkit(tmp_path: Path) -> None:
    truth, found = (tmp_path / name for name in ("truth", "detections"))
    for folder in (truth, found):
        folder.mkdir()
        (folder / "a.json").write_bytes((HERE / f"nuscenes-{folder.name}.json").read_bytes())
    result = evaluate("nuscenes", truth, found, tmp_path / "out")
    expected = json.loads((HERE / "nuscenes-expected.json").read_text())
    ours = values(result)
    assert ours.keys() == expected.keys()
    assert 0.1 < expected["NDS"] < 0.9
    assert sum(0 < v < 1 for v in expected.values()) > 60
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "worst.json",
        "precision-recall.png",
    }
    boxes = read_nuscenes_boxes(truth / "a.json")
    write_nuscenes_boxes(tmp_path / "b.json", boxes)
    again = nuscenes_metric.score(read_nuscenes_boxes(tmp_path / "b.json"), read_nuscenes_boxes(found / "a.json"))
    assert values(again) == ours


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path, dict[str, float]]:
    """nuScenes' tables of two made scenes, results, and what the devkit's whole evaluation makes of them."""
    content = json.loads((HERE / "nuscenes-tables.json").read_text())
    truth, found = tmp_path / "v1.0-mini", tmp_path / "found"
    truth.mkdir()
    for name, rows in content["tables"].items():
        (truth / f"{name}.json").write_text(json.dumps(rows))
    write_results(found, content["results"])
    return truth, found, content["expected"]


def write_results(folder: Path, results: dict[str, object]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"meta": {}, "results": results}))


def test_nuscenes_tables_give_the_official_numbers(tables: tuple[Path, Path, dict[str, float]]) -> None:
    truth, found, expected = tables
    ours = values(evaluate("nuscenes", truth, found, truth.parent / "out"))
    assert ours.keys() == expected.keys()
    assert 0.1 < expected["NDS"] < 0.9
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    raw = read_nuscenes_boxes(found / "results.json")
    kept, without_racks = read_nuscenes_truth(truth, raw)
    assert len(without_racks) < len(raw)
    assert 0 < np.isnan(kept.velocity).any(axis=1).sum() < len(kept)


def test_nuscenes_tables_must_fit_the_results(tables: tuple[Path, Path, dict[str, float]]) -> None:
    truth, found, _ = tables
    results = json.loads((found / "results.json").read_text())["results"]
    first = next(iter(results))
    write_results(found, {token: boxes for token, boxes in results.items() if token != first})
    with pytest.raises(UsageError, match=f"1 samples of the scenes with detections have none, such as {first}"):
        nuscenes_metric.evaluate(truth, found)
    write_results(found, {**results, "elsewhere": []})
    with pytest.raises(UsageError, match="has no sample elsewhere"):
        nuscenes_metric.evaluate(truth, found)
    token = next(token for token, boxes in results.items() if len(boxes) > 1)
    unscored = [{key: value for key, value in results[token][0].items() if key != "detection_score"}]
    write_results(found, {**results, token: unscored + results[token][1:]})
    with pytest.raises(UsageError, match=f"1 of .* have no detection_score, the first in sample {token}"):
        nuscenes_metric.evaluate(truth, found)
    write_results(found, results)
    instances = (truth / "instance.json").read_text()
    for wrong, message in (
        ("[]", "points to a row of another table that is not there"),
        (instances.replace("category_token", "category"), r"a row lacks a field.* 'category_token'"),
        ("[1]", "must hold a list of rows"),
    ):
        (truth / "instance.json").write_text(wrong)
        with pytest.raises(UsageError, match=message):
            nuscenes_metric.evaluate(truth, found)
    (truth / "instance.json").write_text(instances)
    (truth / "ego_pose.json").write_text("[]")
    with pytest.raises(UsageError, match="has no LIDAR_TOP key frame"):
        nuscenes_metric.evaluate(truth, found)
    (truth / "sensor.json").unlink()
    with pytest.raises(UsageError, match=r"sensor\.json"):
        nuscenes_metric.evaluate(truth, found)


def test_nuscenes_refuses_what_it_cannot_score(tmp_path: Path) -> None:
    found = read_nuscenes_boxes(HERE / "nuscenes-detections.json")
    truth = read_nuscenes_boxes(HERE / "nuscenes-truth.json")
    with pytest.raises(UsageError, match="sample00 is in two files"):
        nuscenes_metric.join([truth, truth])
    blind = truth.__class__(*(getattr(truth, n) for n in truth.__dataclass_fields__))
    object.__setattr__(blind, "ego", np.full_like(truth.ego, np.nan))
    no_place = found.__class__(*(getattr(found, n) for n in found.__dataclass_fields__))
    object.__setattr__(no_place, "ego", np.full_like(found.ego, np.nan))
    with pytest.raises(UsageError, match=r"the place of the car is unknown in .* sample00"):
        nuscenes_metric.score(blind, no_place)
    with pytest.raises(UsageError, match="samples of truth and detections differ"):
        nuscenes_metric.score(truth, nuscenes_metric.join([found.__class__(("x", *found.samples[1:]), *rest(found))]))


def rest(boxes: NuScenesBoxes) -> list[Array]:
    return [getattr(boxes, name) for name in list(boxes.__dataclass_fields__)[1:]]


def waymo(rows: list[list[float]], scored: bool) -> WaymoBoxes:
    table = np.array(rows, np.float32).reshape(-1, 10)
    boxes = Boxes3D(
        table[:, 3:6],
        table[:, 6:9],
        table[:, 9],
        table[:, 1].astype(int) - 1,
        CLASSES,
        table[:, 2] if scored else None,
        frame="vehicle",
    )
    frames = tuple(f"segment/{int(frame)}" for frame in table[:, 0])
    difficulty = np.zeros(len(table), int) if scored else table[:, 2].astype(int)
    return WaymoBoxes(frames, boxes, ("",) * len(table), np.full(len(table), -1), difficulty)


def test_waymo_equals_the_official_operator(tmp_path: Path) -> None:
    content = json.loads((HERE / "waymo.json").read_text())
    truth, found = waymo(content["truth"], False), waymo(content["detections"], True)
    found = replace(found, unlabelled=np.array(content["zones"]))
    for name, boxes in (("truth", truth), ("detections", found)):
        (tmp_path / name).mkdir()
        write_waymo_boxes(tmp_path / name / "a.parquet", boxes)
    result = evaluate("waymo", tmp_path / "truth", tmp_path / "detections", tmp_path / "out")
    ours = values(result)
    assert sum(0.05 < v < 0.95 for v in content["expected"].values()) > 40
    assert len(content["expected"]) == 4 * 2 * 2 * len(waymo_metric.RANGES)
    for name, value in content["expected"].items():
        assert ours[name] == pytest.approx(value, abs=1e-5), name
    kinds = ("VEHICLE", "PEDESTRIAN", "CYCLIST")
    assert ours["mAPH/L2"] == pytest.approx(np.mean([ours[f"APH/{k}/L2"] for k in kinds]))
    with pytest.raises(UsageError, match="need a column `score`"):
        evaluate("waymo", tmp_path / "truth", tmp_path / "truth", tmp_path / "out")


def test_waymo_by_points() -> None:
    box = [0.0, 1, 0.5, 0, 0, 0, 4, 2, 2, 0]
    truth = waymo([box, [0, 1, 0, 20, 0, 0, 4, 2, 2, 0], [0, 1, 0, 40, 0, 0, 4, 2, 2, 0]], False)
    object.__setattr__(truth, "points", np.array([6, 5, 0]))
    result = waymo_metric.score(truth, waymo([box], True))
    counts = {metric.name: metric.count for metric in result.metrics}
    assert counts["AP/VEHICLE/L1"] == 1
    assert counts["AP/VEHICLE/L2"] == 2
    assert values(result)["AP/VEHICLE/L1"] == pytest.approx(1)
    assert values(result)["AP/VEHICLE/L2"] == pytest.approx(0.5)
    with pytest.raises(UsageError, match="Only in detections: segment/9"):
        waymo_metric.score(truth, waymo([[9.0, *box[1:]]], True))


def test_assignment_equals_trying_everything() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        rows, columns = rng.integers(1, 6, 2)
        i, j = np.nonzero(rng.random((rows, columns)) < 0.6)
        if not len(i):
            continue
        weight = rng.integers(500, 1001, len(i))
        table = np.zeros((6, 6), int)
        table[i, j] = weight
        best = max(sum(table[k, p[k]] for k in range(6)) for p in itertools.permutations(range(6)))
        total = 0
        for group in components(i, j, rows):
            chosen = group[best_assignment(i[group], j[group], weight[group])]
            assert len(set(i[chosen])) == len(set(j[chosen])) == len(chosen)
            total += weight[chosen].sum()
        assert total == best


def flow_truth() -> FlowTruth:
    flow = np.array([[1, 0, 0], [0, 0, 0], [0.1, 0, 0], [5, 5, 5], [0, 0, 1]], np.float32)
    masks = ([1, 1, 0, 0, 0], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1])
    return FlowTruth(flow, *(np.array(mask, bool) for mask in masks))


@pytest.mark.parametrize(("made", "metric"), [("nuscenes", nuscenes_metric), ("waymo", waymo_metric)])
def test_memory_beside_the_boxes_hardly_grows_with_the_frames(
    made: str, metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kitti_matching, "BLOCK", 600)
    monkeypatch.setattr(nuscenes_metric, "PART", 256)
    held, beside, numbers = [], [], []
    for frames in (10, 30, 100):
        tracemalloc.start()
        both = getattr(lidar_memory, made)(frames)
        held.append(tracemalloc.get_traced_memory()[0])
        peaks, number = [], {}
        for _ in range(2):  # the least: threads that other tests left behind may allocate meanwhile
            tracemalloc.reset_peak()
            number = values(metric.score(*both))
            peaks.append(tracemalloc.get_traced_memory()[1])
        numbers.append(number)
        beside.append(min(peaks) - held[-1])
        tracemalloc.stop()
    assert held[2] - held[1] > 2e5
    assert beside[2] - beside[1] < 0.5 * (held[2] - held[1])
    monkeypatch.setattr(kitti_matching, "BLOCK", 1 << 20)
    monkeypatch.setattr(nuscenes_metric, "PART", 1 << 20)
    whole = values(metric.score(*both))
    assert whole == pytest.approx(numbers[-1], abs=1e-12)
    assert 0.05 < np.median([value for name, value in whole.items() if name.startswith("AP/")]) < 0.95


def test_flow_by_hand(tmp_path: Path) -> None:
    metric = FlowMetric()
    predicted = flow_truth().flow + np.array([[0.04, 0, 0], [0.06, 0, 0], [0, 0.2, 0], [9, 9, 9], [0, 0, 0.06]])
    metric.add("a", flow_truth(), predicted)
    result = values(metric.result())
    assert result["EPE/foreground_dynamic"] == pytest.approx(0.04)
    assert result["EPE/foreground_static"] == pytest.approx(0.06)
    assert result["EPE/background_static"] == pytest.approx(0.2)
    assert result["three_way_EPE"] == pytest.approx(0.1)
    assert result["EPE"] == pytest.approx(0.09)
    assert result["accuracy_strict"] == pytest.approx(1 / 4)
    assert result["accuracy_relaxed"] == pytest.approx(3 / 4)
    write_flow_truth(tmp_path / "a.npz", flow_truth())
    back = read_flow_truth(tmp_path / "a.npz")
    assert np.array_equal(back.dynamic, flow_truth().dynamic)
    with pytest.raises(UsageError, match=r"frame b: flow must have shape \[5, 3\], got \[4, 3\]"):
        metric.add("b", flow_truth(), predicted[:4])
    predicted[0] = np.nan
    with pytest.raises(UsageError, match="frame b: predicted flow is not finite"):
        metric.add("b", flow_truth(), predicted)
    np.savez(tmp_path / "a.npz", flow=np.full((5, 3), "fast"))
    with pytest.raises(UsageError, match=r"a\.npz: flow must be numbers of shape \[N, 3\], got <U4 \[5, 3\]"):
        read_flow(tmp_path / "a.npz")
    assert is_dynamic(np.array([[0.05, 0, 0], [0.04, 0, 0]]), np.zeros((2, 3))).tolist() == [True, False]


def test_flow_folders(tmp_path: Path) -> None:
    for name in ("truth", "detections"):
        (tmp_path / name).mkdir()
        for frame in ("0", "1"):
            write_flow_truth(tmp_path / name / f"{frame}.npz", flow_truth())
    result = evaluate("flow", tmp_path / "truth", tmp_path / "detections", tmp_path / "out")
    assert values(result)["EPE"] == 0
    (tmp_path / "detections" / "1.npz").unlink()
    with pytest.raises(UsageError, match="Only in truth: 1"):
        evaluate("flow", tmp_path / "truth", tmp_path / "detections", tmp_path / "out")


def test_baselines_on_a_real_pair_of_sweeps_err_as_they_are_known_to() -> None:
    folder = DATA / "av2"
    missing_data(folder)
    truth = read_flow_truth(folder / "flow_labels.feather")
    xyz = read_sweep(folder / "sensors" / "lidar" / "315966265259836000.feather").xyz
    motion = np.load(folder / "ego_motion.npz")["ego_motion"][0]
    ego = xyz @ motion[:3, :3].T + motion[:3, 3] - xyz
    found = {}
    for name, flow in (("zero", np.zeros_like(ego)), ("ego", ego)):
        metric = FlowMetric()
        metric.add("a", truth, flow)
        found[name] = values(metric.result())
    assert found["zero"]["EPE/foreground_dynamic"] == pytest.approx(0.654, abs=0.02)
    assert found["ego"]["EPE/foreground_dynamic"] == pytest.approx(0.663, abs=0.02)
    assert found["ego"]["EPE/background_static"] < 0.01 < found["zero"]["EPE/background_static"]
    said = read_feather(folder / "flow_labels.feather", ("dynamic",))["dynamic"]
    assert (is_dynamic(truth.flow, ego) == said)[truth.valid].mean() > 0.999


def test_the_command_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, found = folders(tmp_path, [CAR], [FOUND])
    given = ["--metric", "kitti", "--truth", str(truth), "--detections", str(found), "--out", str(tmp_path / "out")]
    assert main(["lidar", "evaluate", *given]) == 0
    assert "Car_3d/easy_R40" in capsys.readouterr().out
    assert (tmp_path / "out" / "precision-recall.png").stat().st_size > 1000
    (tmp_path / "file").touch()
    assert main(["lidar", "evaluate", *given[:-1], str(tmp_path / "file")]) == 2
    assert "can't write" in capsys.readouterr().err
    assert main(["lidar"]) == 0
    assert "evaluate" in capsys.readouterr().out
    assert main(["lidar", "evalute"]) == 2
    assert "nearest: lidar evaluate" in capsys.readouterr().err


def test_kitti_names_the_worst_frames(tmp_path: Path) -> None:
    truth, found = folders(tmp_path, [CAR, f"{CAR}\n{CAR.replace('2 1.5 20', '9 1.5 20')}", CAR], [FOUND, FOUND, ""])
    result = evaluate("kitti", truth, found, tmp_path / "out")
    assert [(f.frame, f.missed, f.wrong) for f in result.frames] == [("000001", 1, 0), ("000002", 1, 0)]
    assert "000001" in result.table()
    assert json.loads((tmp_path / "out" / "worst.json").read_text())[0]["frame"] == "000001"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["results"]["Car_3d/moderate_R40"]["unit"] == "%"
    assert flow_metric.SHARES


def test_detections_in_no_label_zones_are_never_wrong() -> None:
    box = [0.0, 1, 0.5, 0, 0, 0, 4, 2, 2, 0]
    found = waymo([box, [0, 1, 0.9, 20, 0, 0, 4, 2, 2, 0]], True)
    truth = waymo([[0.0, 1, 1, *box[3:]]], False)
    assert values(waymo_metric.score(truth, found))["AP/VEHICLE/L1"] == pytest.approx(0.5)
    spared = waymo_metric.score(truth, replace(found, unlabelled=np.array([True, True])))
    assert values(spared)["AP/VEHICLE/L1"] == pytest.approx(1)
    assert not spared.frames


def test_waymo_warns_of_scores_beyond_its_cutoffs(tmp_path: Path) -> None:
    rows = np.array([[0.0, 1, 0.5, 0, 0, 0, 4, 2, 2, 0], [0.0, 1, 0.9, 9, 0, 0, 4, 2, 2, 0]])
    for name, score in (("truth", None), ("good", 1.0), ("logits", 5.0)):
        (tmp_path / name).mkdir()
        scaled = rows * ([1.0] * 2 + [score or 1.0] + [1.0] * 7)
        write_waymo_boxes(tmp_path / name / "a.parquet", waymo(scaled.tolist(), score is not None))
    assert values(waymo_metric.evaluate(tmp_path / "truth", tmp_path / "good"))["AP/VEHICLE/L1"] == 1
    with pytest.warns(UserWarning, match=r"scores of detections go from 2\.5 to 4\.5"):
        waymo_metric.evaluate(tmp_path / "truth", tmp_path / "logits")


def test_zones_that_are_no_truths_are_refused(tmp_path: Path) -> None:
    found = replace(waymo([[0.0, 1, 0.5, 0, 0, 0, 4, 2, 2, 0]], True), unlabelled=np.array([3]))
    write_waymo_boxes(tmp_path / "a.parquet", found)
    with pytest.raises(UsageError, match="column overlap_with_nlz must hold true or false"):
        read_waymo_boxes(tmp_path / "a.parquet")
