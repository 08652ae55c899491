"""Shifted autoregressive models, small enough to read. See README.md and chapters/."""

import os

__version__ = "0.1.0"
FULL = os.environ.get("SAR_FULL") == "1"  # the chapters' full size: more steps, more seeds
