"""Policies that act from pixels: behaviour cloning, evaluation and use.

Importing this needs neither torch nor a simulator.
"""

from __future__ import annotations

if __name__ == "agents":
    raise ImportError("import this package as `robovision.agents`, not as `agents`")
