"""How each expert is trained: the settings, task by task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one task is trained."""

    good: float
    """Training stops once the mean return of the selection's episodes reaches this."""
    steps: int
    """Or after this many actions."""
    interval: int = 10_000
    """Actions between two checkpoints, a multiple of the episodes side by side. The best becomes the expert."""
    selection: int = 10
    """Episodes that choose the best checkpoint."""
    report: int = 20
    """Fresh episodes that measure the expert at last."""
    gamma: float = 0.99
    """Discount an action."""
    learning_rate: float = 1e-3
    """Adam's."""
    hidden: int = 128
    """Units in each of the two hidden layers of actor and critics."""


@dataclass(frozen=True, kw_only=True)
class SACRecipe(Recipe):
    """By SAC (Haarnoja et al., 2018) with returns over several steps."""

    n_steps: int = 3
    """Rewards that are summed before a critic's estimate takes over."""
    updates: int = 2
    """Gradient steps after every 8 actions (one in each of the episodes side by side)."""


@dataclass(frozen=True, kw_only=True)
class PPORecipe(Recipe):
    """By PPO (Schulman et al., 2017) with the rewards divided by the returns' running deviation."""

    rollout: int = 4096
    """Actions, of all episodes side by side, before the policy is improved."""
    batch: int = 512
    """Actions a gradient step."""
    epochs: int = 8
    """Times that a rollout is gone through."""
    target_kl: float = 0.02
    """Divergence from the policy that acted, past which the rest of the epochs is left out."""
    log_std: float = -0.7
    """Logarithm of the actions' initial standard deviation."""


RECIPES: dict[str, Recipe] = {
    "dmc/walker-stand": SACRecipe(good=980, steps=400_000),
    "dmc/walker-walk": SACRecipe(good=950, steps=600_000),
    "dmc/reacher-easy": SACRecipe(good=975, steps=400_000),
    "dmc/finger-spin": SACRecipe(good=950, steps=600_000),
    "dmc/cheetah-run": SACRecipe(good=850, steps=1_000_000),
    "dmc/cartpole-balance": SACRecipe(good=995, steps=200_000),
    "dmc/cartpole-swingup": SACRecipe(good=870, steps=300_000),
    "dmc/ball_in_cup-catch": SACRecipe(good=970, steps=300_000),
    "dmc/pendulum-swingup": SACRecipe(good=820, steps=300_000),
    "dmc/point_mass-easy": SACRecipe(good=880, steps=300_000),
    "dmc/reacher-hard": SACRecipe(good=960, steps=400_000),
    "dmc/walker-run": SACRecipe(good=700, steps=1_000_000),
    "adroit/pen": PPORecipe(
        good=5000, steps=8_000_000, interval=96_000, selection=50, report=100, gamma=0.97, learning_rate=3e-4
    ),
}
"""The tasks that have an expert."""
