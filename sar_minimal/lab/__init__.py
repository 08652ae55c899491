"""The book's machinery: the ``sar`` command, runs on disk, the ledger, figures, benchmarks.

Nothing else of the package knows it.
"""
