"""``python -m lap_jax`` is ``lap-jax``."""

import sys

from lap_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
