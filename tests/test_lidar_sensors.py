from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robovision.cli import main
from robovision.errors import UsageError
from robovision.lidar.sensors import EXAMPLE, SENSORS, Sensor, make_sensor, read_sensor
from robovision.lidar.simulate import simulate
from robovision.lidar.simulate_options import SimulateOptions


@pytest.mark.parametrize("name", SENSORS)
def test_sensors(name: str) -> None:
    sensor = make_sensor(name)
    directions = sensor.directions()
    assert directions.shape == (len(sensor), 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    times = sensor.times()
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()
    assert times[-1] < 1 / sensor.rate


def test_an_ousters_name_says_its_mode() -> None:
    sensor = make_sensor("os1-128-2048x10")
    assert (len(sensor.elevations), len(sensor.azimuths), sensor.rate) == (128, 2048, 10)
    assert np.degrees(np.abs(sensor.elevations)).max() == pytest.approx(22.5)
    sensor = make_sensor("os1-64-512x20")
    assert (len(sensor.elevations), len(sensor.azimuths), sensor.rate) == (64, 512, 20)
    assert np.degrees(np.abs(sensor.elevations)).max() == pytest.approx(16.6)
    with pytest.raises(UsageError, match="unknown sensor 'os1-64-2048x20'; nearest: os1-64-2048x10"):
        make_sensor("os1-64-2048x20")


def test_wrong_sensors_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown sensor 'hdl64e'; nearest: hdl-64e"):
        make_sensor("hdl64e")
    with pytest.raises(UsageError, match="elevations must be a list of finite angles"):
        Sensor(np.array([np.nan]), np.zeros(3))
    with pytest.raises(UsageError, match="0 <= near < far"):
        Sensor(np.zeros(1), np.zeros(3), reach=(5.0, 1.0))


def written(folder: Path, described: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(described if isinstance(described, str) else json.dumps(described))
    return path


def test_a_sensor_of_a_file(tmp_path: Path) -> None:
    sensor = make_sensor(str(written(tmp_path, EXAMPLE)))
    assert np.degrees(sensor.elevations) == pytest.approx([10, 0, -10])
    assert (len(sensor.azimuths), sensor.rate, sensor.reach) == (900, 10, (0.5, 80))
    assert sensor.azimuths[0] == pytest.approx(np.pi)
    described = {"elevations": [0], "azimuths": [-30, 0, 30], "fades": [20, 50], "noise": 0, "grain": 0.1}
    scanning = read_sensor(written(tmp_path, described))
    assert np.degrees(scanning.azimuths) == pytest.approx([-30, 0, 30])
    assert (scanning.fades, scanning.noise, scanning.loss) == ((20, 50), 0, 0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{", "is not JSON .*write an object such as"),
        ("[1, 2]", "must hold an object such as .* got list"),
        ("{}", "needs elevations, and either columns or azimuths"),
        ({"elevations": [0]}, "needs elevations, and either columns or azimuths"),
        ({"elevations": [0], "columns": 9, "azimuths": [0]}, "needs elevations, and either columns or azimuths"),
        ({"elevation": [0]}, "unknown field 'elevation'; nearest: elevations"),
        ({"elevations": []}, r"elevations must be a list of degrees in -90..90, ring 0 first, got \[\]"),
        ({"elevations": [0, "a"]}, "elevations must be"),
        ({"elevations": [0, True]}, "elevations must be"),
        ('{"elevations": [NaN]}', "elevations must be"),
        ({"elevations": [95]}, "elevations must be"),
        ({"elevations": [0], "columns": 9.5}, "columns must be a whole number of at least 1, got 9.5"),
        ({"elevations": [0], "columns": 0}, "columns must be"),
        ({"elevations": [0], "columns": 10**9}, "at most 4,000,000 rays; give fewer"),
        ({"rate": 0}, "rate must be sweeps a second, above 0, got 0"),
        ('{"rate": Infinity}', "rate must be"),
        ({"reach": [80, 0.5]}, "reach must be the nearest and the farthest distance in metres"),
        ({"reach": 80}, "reach must be"),
        ({"noise": -0.1}, "noise must be metres, at least 0, got -0.1"),
        ({"loss": 1}, "loss must be a share from 0 to below 1, got 1"),
        ({"dimmest": None}, "dimmest must be .*, got null"),
        ({"fades": [1, 2, 3]}, "fades must be two rising distances"),
    ],
)
def test_wrong_files_name_the_field_and_what_it_must_be(wrong: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"mine.json.*{message}"):
        read_sensor(written(tmp_path, wrong))


def test_the_command_takes_a_sensors_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, {"elevations": [1, -5, -10], "columns": 200, "noise": 0.0, "loss": 0.0})
    given = ["lidar", "simulate", "--scenes", "1", "--frames", "1", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main([*given, "--sensor", str(path)]) == 0
    sequence = json.loads((tmp_path / "out" / "0000" / "sequence.json").read_text())
    assert 200 < sequence["points"][0] <= 600
    assert sequence["sensor"]["columns"] == 200
    # The sensor is told by what the file says, not by its name.
    options = SimulateOptions(scenes=1, frames=1, sensor=str(path))
    simulate(options, tmp_path / "out", 1, lambda done: None)
    written(tmp_path, {"elevations": [1, -5, -10], "columns": 201})
    with pytest.raises(UsageError, match=r"holds sequences of sensor .*columns.: 200"):
        simulate(options, tmp_path / "out", 1, lambda done: None)
    assert main([*given, "--sensor", str(tmp_path / "none.json")]) == 2
    assert "can't read" in capsys.readouterr().err
