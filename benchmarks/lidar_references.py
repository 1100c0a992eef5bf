"""Scores random boxes by the official evaluations of nuScenes and Waymo; the tests hold ours against the numbers.

The official packages need old versions of NumPy and TensorFlow, so each has an environment of its own:

    python3.11 -m venv nuscenes && nuscenes/bin/pip install --no-deps nuscenes-devkit==1.2.0
    nuscenes/bin/pip install "numpy<2" pyquaternion tqdm matplotlib "opencv-python-headless<4.11" pillow \
        scikit-learn shapely cachetools fire descartes parameterized
    nuscenes/bin/python benchmarks/lidar_references.py nuscenes
    nuscenes/bin/python benchmarks/lidar_references.py nuscenes-tables

    python3.10 -m venv waymo && waymo/bin/pip install tensorflow-cpu==2.13.0 absl-py
    waymo/bin/pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7
    waymo/bin/python benchmarks/lidar_references.py waymo
"""

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "tests" / "data"


def nuscenes_boxes(rng):
    """Ground truth and results of 20 samples, as dictionaries; ties, unknown velocities and attributes among them."""
    from nuscenes.eval.detection.constants import DETECTION_NAMES

    attributes = ["", "vehicle.moving", "vehicle.parked"]
    truth, results = {}, {}
    for s in range(20):
        token, ego = f"sample{s:02d}", rng.uniform(-500, 500, 3)
        truth[token], results[token] = [], []
        for _ in range(int(rng.integers(0, 40))):
            yaw = rng.uniform(-3, 3)
            place = np.append(rng.uniform(-45, 45, 2), rng.uniform(0, 2))
            box = {
                "sample_token": token,
                "translation": (ego + place).tolist(),
                "size": rng.uniform(0.5, 4, 3).tolist(),
                "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
                "velocity": rng.normal(0, 3, 2).tolist() if rng.random() < 0.9 else [float("nan")] * 2,
                "ego_translation": place.tolist(),
                "num_pts": int(rng.integers(0, 8)),
                "detection_name": str(rng.choice(DETECTION_NAMES)),
                "detection_score": -1.0,
                "attribute_name": str(rng.choice(attributes)),
            }
            truth[token].append(box)
            for _ in range(int(rng.integers(0, 4))):
                moved = rng.normal(0, 0.8, 3)
                turned = yaw + rng.normal(0, 0.5)
                results[token].append(
                    {
                        **box,
                        "translation": (ego + place + moved).tolist(),
                        "ego_translation": (place + moved).tolist(),
                        "size": (np.array(box["size"]) * rng.uniform(0.7, 1.4, 3)).tolist(),
                        "rotation": [float(np.cos(turned / 2)), 0.0, 0.0, float(np.sin(turned / 2))],
                        "velocity": rng.normal(0, 3, 2).tolist(),
                        "num_pts": -1,
                        "detection_name": box["detection_name"] if rng.random() < 0.9 else "car",
                        "detection_score": float(np.round(rng.random(), 2)),
                        "attribute_name": str(rng.choice(attributes)),
                    }
                )
    return truth, results


def rounded(content):
    """The same with all floating point numbers rounded to a millimetre, to keep the files small."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value) for value in content]
    return round(content, 3) if isinstance(content, float) else content


def nuscenes():
    """Write inputs and the devkit's numbers."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval

    truth, results = rounded(nuscenes_boxes(np.random.default_rng(0)))
    for name, boxes in (("truth", truth), ("detections", results)):
        (FOLDER / f"nuscenes-{name}.json").write_text(json.dumps({"meta": {}, "results": boxes}, separators=(",", ":")))
    # The devkit's own evaluation, but for its loading of the full data set: filters as in filter_eval_boxes.
    run = DetectionEval.__new__(DetectionEval)
    run.cfg, run.verbose = config_factory("detection_cvpr_2019"), False
    run.gt_boxes, run.pred_boxes = (EvalBoxes.deserialize(b, DetectionBox) for b in (truth, results))
    for boxes in (run.gt_boxes, run.pred_boxes):
        for token in boxes.sample_tokens:
            near = [b for b in boxes[token] if b.ego_dist < run.cfg.class_range[b.detection_name]]
            boxes.boxes[token] = [b for b in near if b.num_pts != 0]
    metrics, _ = run.evaluate()
    expected = numbers(metrics)
    (FOLDER / "nuscenes-expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def nuscenes_scene(rng):
    """Two scenes in nuScenes' tables, and results: objects that come and go, gaps in time, cycles in racks."""
    kinds = ["vehicle.car", "vehicle.truck", "vehicle.bus.bendy", "vehicle.bus.rigid", "vehicle.bicycle", "animal"]
    kinds += ["vehicle.motorcycle", "human.pedestrian.adult", "human.pedestrian.stroller", "movable_object.barrier"]
    kinds += ["movable_object.trafficcone", "static_object.bicycle_rack", "vehicle.construction", "vehicle.trailer"]
    tables = fixed_tables(kinds)
    results = {}
    for name in ("scene-0103", "scene-0916"):
        samples = [f"{name}-{k}" for k in range(6)]
        scene = {"token": name, "name": name, "log_token": "log", "description": "", "nbr_samples": len(samples)}
        tables["scene"].append({**scene, "first_sample_token": samples[0], "last_sample_token": samples[-1]})
        times = np.cumsum(rng.choice([0.5, 0.5, 0.7, 1.6], len(samples)))
        egos = rng.uniform(-300, 300, 3) + np.outer(times, [4.0, 1.0, 0.0])
        for k, token in enumerate(samples):
            around = {"prev": samples[k - 1] if k else "", "next": samples[k + 1] if k + 1 < len(samples) else ""}
            stamp = int(times[k] * 1e6)
            tables["sample"].append({"token": token, "timestamp": stamp, "scene_token": name, **around})
            add_poses(tables, token, stamp, egos[k])
            results[token] = []
        for n in range(60):
            add_object(rng, tables, results, dict(zip(samples, times, strict=True)), egos[0], kinds, f"{name}-i{n}")
    return tables, results


MOODS = ["vehicle.moving", "vehicle.parked", "pedestrian.moving"]


def fixed_tables(kinds):
    """The tables that do not depend on scenes, and the others without rows."""
    names = ["category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log"]
    tables = {name: [] for name in (*names, "scene", "sample", "sample_data", "sample_annotation", "map")}
    tables["category"] = [{"token": f"c{n}", "name": kind, "description": ""} for n, kind in enumerate(kinds)]
    tables["attribute"] = [{"token": f"a{n}", "name": mood, "description": ""} for n, mood in enumerate(MOODS)]
    channels = (("LIDAR_TOP", "lidar"), ("RADAR", "radar"))
    tables["sensor"] = [{"token": c, "channel": c, "modality": m} for c, m in channels]
    mount = {"translation": [0.9, 0.0, 1.8], "rotation": [1.0, 0.0, 0.0, 0.0], "camera_intrinsic": []}
    tables["calibrated_sensor"] = [{"token": f"m{c}", "sensor_token": c, **mount} for c, _ in channels]
    tables["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": ""}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "category": "", "filename": ""}]
    return tables


def add_poses(tables, token, stamp, ego):
    """A key frame of the LiDAR, and two frames that are not to be taken for it."""
    for channel, shift, key in (("LIDAR_TOP", 0, True), ("RADAR", 30, True), ("LIDAR_TOP", 60, False)):
        pose = f"{token}-{channel}-{key}"
        place, turn = (ego + shift).tolist(), [1.0, 0.0, 0.0, 0.0]
        tables["ego_pose"].append({"token": pose, "timestamp": stamp, "rotation": turn, "translation": place})
        tables["sample_data"].append(
            {
                "token": pose,
                "sample_token": token,
                "ego_pose_token": pose,
                "timestamp": stamp,
                "calibrated_sensor_token": f"m{channel}",
                "is_key_frame": key,
                "filename": f"{pose}.bin",
                "fileformat": "",
                "height": 0,
                "width": 0,
                "prev": "",
                "next": "",
            }
        )


def add_object(rng, tables, results, times, ego, kinds, instance):
    """An object that is annotated in some of the samples, by their times, and what a detector makes of it there."""
    kind = int(rng.integers(len(kinds)))
    row = {"token": instance, "category_token": f"c{kind}", "nbr_annotations": 1}
    tables["instance"].append({**row, "first_annotation_token": "", "last_annotation_token": ""})
    start = ego + np.append(rng.uniform(-40, 40, 2), rng.uniform(0, 1))
    speed, yaw = np.append(rng.normal(0, 2, 2), 0), rng.uniform(-3, 3)
    size = rng.uniform(3, 9, 3) if kinds[kind].endswith("rack") else rng.uniform(0.5, 4, 3)
    chosen = np.flatnonzero(rng.random(len(times)) < 0.7)
    seen = [list(times)[k] for k in chosen]
    tokens = [f"{instance}-{k}" for k in chosen]
    for m, sample in enumerate(seen):
        place = start + speed * times[sample]
        annotation = {
            "token": tokens[m],
            "sample_token": sample,
            "instance_token": instance,
            "attribute_tokens": [f"a{rng.integers(3)}"] if rng.random() < 0.8 else [],
            "translation": place.tolist(),
            "size": size.tolist(),
            "visibility_token": "",
            "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
            "num_lidar_pts": int(rng.integers(0, 3)),
            "num_radar_pts": int(rng.integers(0, 2)),
            "prev": tokens[m - 1] if m else "",
            "next": tokens[m + 1] if m + 1 < len(tokens) else "",
        }
        tables["sample_annotation"].append(annotation)
        for _ in range(int(rng.integers(0, 3))):
            results[sample].append(detection(rng, annotation, kinds[kind], speed))


def detection(rng, annotation, kind, speed):
    """A result near an annotation."""
    from nuscenes.eval.detection.constants import DETECTION_NAMES

    guess = kind.split(".")[-1] if rng.random() < 0.8 else "bicycle"
    guess = {"adult": "pedestrian", "trafficcone": "traffic_cone"}.get(guess, guess)
    return {
        "sample_token": annotation["sample_token"],
        "rotation": annotation["rotation"],
        "translation": (np.array(annotation["translation"]) + rng.normal(0, 0.7, 3)).tolist(),
        "size": (np.array(annotation["size"]) * rng.uniform(0.7, 1.4, 3)).tolist(),
        "velocity": (speed[:2] + rng.normal(0, 0.5, 2)).tolist(),
        "detection_name": guess if guess in DETECTION_NAMES else "bicycle",
        "detection_score": float(np.round(rng.random(), 2)),
        "attribute_name": str(rng.choice(["", *MOODS[:2]])),
    }


def nuscenes_tables():
    """Write tables, results and the numbers of the devkit's whole evaluation, its loading and filters included."""
    from tempfile import TemporaryDirectory

    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    tables, results = rounded(nuscenes_scene(np.random.default_rng(2)))
    uses = {f"use_{name}": False for name in ("camera", "lidar", "radar", "map", "external")}
    with TemporaryDirectory() as name:
        root = Path(name)
        (root / "v1.0-mini").mkdir()
        for table, rows in tables.items():
            (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(rows))
        (root / "map").touch()
        (root / "results.json").write_text(json.dumps({"meta": uses, "results": results}))
        data = NuScenes("v1.0-mini", name, verbose=False)
        config = config_factory("detection_cvpr_2019")
        run = DetectionEval(data, config, str(root / "results.json"), "mini_val", str(root / "out"), verbose=False)
        expected = numbers(run.evaluate()[0])
    content = {"tables": tables, "results": results, "expected": expected}
    (FOLDER / "nuscenes-tables.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def numbers(metrics):
    """The devkit's metrics by our names."""
    content = metrics.serialize()
    expected = {"NDS": content["nd_score"], "mAP": content["mean_ap"]}
    short = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}
    expected |= {f"m{short[k]}": v for k, v in content["tp_errors"].items()}
    expected |= {f"AP/{c}/{d:g}": v for c, aps in content["label_aps"].items() for d, v in aps.items()}
    errors = content["label_tp_errors"].items()
    return expected | {f"{short[k]}/{c}": v for c, tps in errors for k, v in tps.items() if not np.isnan(v)}


def waymo():
    """Write inputs and the official numbers."""
    import tensorflow as tf
    from google.protobuf import text_format
    from waymo_open_dataset.metrics.ops import py_metrics_ops
    from waymo_open_dataset.metrics.python import config_util_py
    from waymo_open_dataset.protos import metrics_pb2

    rng = np.random.default_rng(1)
    truth, found = [], []
    for frame in range(25):
        for _ in range(int(rng.integers(1, 30))):
            kind = int(rng.integers(1, 5))
            place = rng.uniform([3 * frame - 15, -15, -8], [3 * frame + 15, 15, 8])
            box = [*place, *rng.uniform(1.5, 5, 3), rng.uniform(-3, 3)]
            truth.append([frame, kind, int(rng.integers(1, 3)), *box])
            for _ in range(int(rng.integers(0, 4))):
                moved = np.array(box) + rng.normal(0, 1, 7) * [0.15, 0.15, 0.1, 0.1, 0.1, 0.1, 0.3]
                moved[6] += np.pi * (rng.random() < 0.1)
                found.append([frame, kind if rng.random() < 0.9 else 1, np.float32(rng.random()), *moved])
    truth, found = (np.round(np.array(rows, np.float64), 3) for rows in (truth, found))
    zones = rng.random(len(found)) < 0.2
    config = metrics_pb2.Config()
    text_format.Merge(
        "breakdown_generator_ids: OBJECT_TYPE difficulties { levels: 1 levels: 2 } "
        "breakdown_generator_ids: RANGE difficulties { levels: 1 levels: 2 } matcher_type: TYPE_HUNGARIAN "
        "iou_thresholds: 0.0 iou_thresholds: 0.7 iou_thresholds: 0.5 iou_thresholds: 0.5 iou_thresholds: 0.5 "
        "box_type: TYPE_3D",
        config,
    )
    config.score_cutoffs.extend([i * 0.01 for i in range(100)] + [1.0])
    result = py_metrics_ops.detection_metrics(
        prediction_bbox=tf.constant(found[:, 3:], tf.float32),
        prediction_type=tf.constant(found[:, 1], tf.uint8),
        prediction_score=tf.constant(found[:, 2], tf.float32),
        prediction_frame_id=tf.constant(found[:, 0], tf.int64),
        prediction_overlap_nlz=tf.constant(zones),
        ground_truth_bbox=tf.constant(truth[:, 3:], tf.float32),
        ground_truth_type=tf.constant(truth[:, 1], tf.uint8),
        ground_truth_frame_id=tf.constant(truth[:, 0], tf.int64),
        ground_truth_difficulty=tf.constant(truth[:, 2], tf.uint8),
        ground_truth_speed=tf.zeros((len(truth), 2)),
        config=config.SerializeToString(),
    )
    expected = {}
    for n, name in enumerate(config_util_py.get_breakdown_names_from_config(config)):
        kind, level = name.split("_TYPE_", 1)[1].removeprefix("TYPE_").rsplit("_LEVEL_", 1)
        for theirs, ours in (("_[0, 30)", "/0-30 m"), ("_[30, 50)", "/30-50 m"), ("_[50, +inf)", "/50+ m")):
            kind = kind.replace(theirs, ours)
        expected[f"AP/{kind}/L{level}"] = float(result.average_precision[n])
        expected[f"APH/{kind}/L{level}"] = float(result.average_precision_ha_weighted[n])
    content = {"truth": truth.tolist(), "detections": found.tolist(), "zones": zones.tolist(), "expected": expected}
    (FOLDER / "waymo.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    {"nuscenes": nuscenes, "nuscenes-tables": nuscenes_tables, "waymo": waymo}[sys.argv[1]]()
