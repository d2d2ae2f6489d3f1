"""Where the supervisor is."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "files"), str(Path(__file__).parent)]
