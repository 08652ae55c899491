"""Shifted autoregressive models, small enough to read. See README.md and chapters/."""

__version__ = "0.1.0"
