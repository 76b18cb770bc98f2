import errno
import os
from pathlib import Path

import pytest

from experiments.files import set_aside, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.md"
    write_atomically(path, b"old")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("experiments.files.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '.*table\.md'$"):
        write_atomically(tmp_path / "table.md", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_what_is_set_aside_keeps_its_name_and_takes_no_other_ones_place(tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    for number in range(3):
        (tmp_path / "network").write_text(str(number))
        place = set_aside(tmp_path / "network", folder)
        assert place
        assert place.name == ("network", "network.1", "network.2")[number]
        assert place.read_text() == str(number)
    assert set_aside(tmp_path / "network", folder) is None
