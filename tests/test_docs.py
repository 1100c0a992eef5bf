"""What the guides show works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers import python

DOCS = Path(__file__).parents[1] / "docs"


def test_the_guide_to_environments_works(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "environments.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    ended = python("\n".join(blocks), tmp_path, DOCS.parent)
    assert (ended.returncode, ended.stderr) == (0, "")
