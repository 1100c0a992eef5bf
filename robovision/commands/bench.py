"""Measure: ours beside what a user would pick instead."""

from __future__ import annotations

from robovision.commands import bench_keypoints, bench_speed, bench_studies

GROUP = """Measure speed on this machine, side by side with what you would pick instead.

commands:
  envs       frames a second of each preset against the simulator's own way
  encoders   images a second of the encoders against transformers, and what CoIn adds
  keypoints  S-TREK beside SIFT, RootSIFT and ORB: rotation, perspective, light, pose, time
  lidar      KITTI's evaluation, overlaps against shapely, rays against MuJoCo and Open3D, simulated sweeps
  claims     published claims about symmetry and biases, each tried at small scale in minutes
  probes     what an encoder's frozen features tell, against random weights and a trained network
  control    adaptation methods on control tasks: frozen, fine-tuned, with CoIn, adapters, from scratch

`robovision bench COMMAND --help` lists a command's options."""


COMMANDS = {**bench_speed.COMMANDS, **bench_keypoints.COMMANDS, **bench_studies.COMMANDS}
