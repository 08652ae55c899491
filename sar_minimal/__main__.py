"""``python -m sar_minimal`` is ``sar``."""

import sys

from .lab.cli import main

sys.exit(main())
