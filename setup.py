"""What pyproject.toml cannot say: a README whose pictures and links show anywhere.

On a package index relative links lead nowhere. Here they become absolute, from the one address in
pyproject.toml, ``[project.urls] Repository``, which a release fills in (CONTRIBUTING.md).
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def absolute(text: str, repository: str) -> str:
    """Return Markdown whose relative pictures and links lead into a repository."""

    def place(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        kind = "raw" if mark else "blob"
        return f"{mark}[{label}]({repository}/{kind}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", place, text)


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    setup(
        long_description=absolute(
            (ROOT / "README.md").read_text(), project["urls"]["Repository"].rstrip("/")
        ),
        long_description_content_type="text/markdown",
    )
