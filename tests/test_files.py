from __future__ import annotations

from pathlib import Path

import pytest

from robovision.errors import UsageError
from robovision.files import write_atomically, write_json
from tests.helpers import python

FULL_DISK = """
import resource, signal
from pathlib import Path
from robovision.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with write_atomically(Path("file")) as file:
        file.write(bytes(5000))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": 1})
    write_json(tmp_path / "file", {"a": 2})
    assert (tmp_path / "file").read_text() == '{\n  "a": 2\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError, match="half way"), write_atomically(tmp_path / "file") as file:
        file.write(b"new")
        raise RuntimeError("half way")
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_takes_no_more_leaves_the_old_file_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    answer = python(FULL_DISK, tmp_path)
    assert answer.stdout.startswith("UsageError can't write file: File too large; free some space"), answer
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        write_json(tmp_path / "none" / "file", {})
