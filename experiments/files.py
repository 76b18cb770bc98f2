"""Files that are whole at every moment, and what is done with those that are not."""

from __future__ import annotations

import itertools
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, then rename: nobody sees half a file; a link stays.

    Raises:
      OSError: with the file's name, also where the disk is full.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:64]}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk names no file
        raise


def set_aside(path: Path, folder: Path) -> Path | None:
    """Move a damaged file or folder into another, under a name that is free there.

    Returns:
      Where it is now; None if it is gone, because another process was faster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        place = folder / (f"{path.name}.{number}" if number else path.name)
        if place.exists():
            continue
        try:
            path.rename(place)
        except FileNotFoundError:
            return None
        return place
    raise AssertionError
