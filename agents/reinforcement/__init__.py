"""Reinforcement learning from pixels with Stable-Baselines3 (extra `rl`): their algorithms, our encoders.

Importing this needs neither torch nor Stable-Baselines3.
"""
