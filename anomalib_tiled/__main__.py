"""``python -m anomalib_tiled``: the same commands as ``anomalib tiled``."""

import sys

from anomalib_tiled.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
