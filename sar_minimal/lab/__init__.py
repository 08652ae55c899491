"""The book's machinery: the ``sar`` command, runs on disk, the ledger of claims, figures,
benchmarks.

Nothing else of the package knows it.
"""
