"""``python -m sar_minimal`` is ``sar``."""

import sys

from .cli import main

sys.exit(main())
