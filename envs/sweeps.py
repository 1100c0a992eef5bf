"""Sweeps that a robot's LiDAR measures while its expert drives, as sequences of point clouds: to pretrain on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robovision.envs.lidar import parse_mount
from robovision.envs.registry import EnvOptions, make, make_simulation
from robovision.envs.sweep_options import SweepOptions
from robovision.files import make_folder
from robovision.lidar.clouds import write_cloud
from robovision.lidar.sensors import Sensor, make_sensor
from robovision.seeding import derive
from robovision.types import PointCloud


def record_sweeps(options: SweepOptions, out: Path, done: Callable[[int], None] = lambda _: None) -> int:
    """Write each episode as OUT/0000/velodyne/000000.bin and so on; returns how many sweeps there are.

    The points are metres in the sensor's frame; rays that meet nothing leave none. `done` hears of each episode.

    Raises:
        UsageError: for an unknown task, one without an expert, an unknown sensor, or if a file can't be written.
    """
    sensor = make_sensor(parse_mount(options.lidar, make_simulation(options.task).mount).sensor)
    env = make(options.task, EnvOptions(lidar=options.lidar, observe=("lidar",)))
    count = 0
    try:
        for episode in range(options.episodes):
            folder = out / f"{episode:04d}" / "velodyne"
            make_folder(folder)
            random = np.random.default_rng(derive(options.seed, "sweeps", episode))
            observation, _ = env.reset(seed=int(random.integers(2**31)))
            for frame in range(options.frames):
                write_cloud(folder / f"{frame:06d}.bin", to_cloud(observation["lidar"], sensor))
                count += 1
                action = env.expert_action() + random.normal(0, options.noise, env.action_space.shape)
                observation, _, ended, stopped, _ = env.step(np.clip(action, -1, 1).astype(np.float32))
                if ended or stopped:
                    break
            done(episode + 1)
    finally:
        env.close()
    return count


def to_cloud(distances: NDArray[np.float32], sensor: Sensor) -> PointCloud:
    """The points of distances [rings, columns] in metres, those out of reach left out."""
    rays = sensor.directions().reshape(len(sensor.azimuths), len(sensor.elevations), 3).transpose(1, 0, 2)
    met = distances < sensor.reach[1]
    return PointCloud(distances[met][:, None] * rays[met])
