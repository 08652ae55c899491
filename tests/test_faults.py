"""The package attacked on purpose, in a small size; ``sar bench faults`` is the full one."""

import random

import pytest

from sar_minimal.lab import bench_faults

OBSCURE = 282  # errors that no check of ours made, of 5,960 wrong arguments; not to rise again


def test_one_argument_wrong():
    row = bench_faults.wrong_arguments(0, random.Random(0))
    assert row["tried"] > 5000 and row["NaN"] == row["hangs"] == 0
    assert row["obscure"] <= OBSCURE


def test_rows_of_a_batch_are_what_they_are_alone():
    row = bench_faults.rows_alone(30, random.Random(0))
    assert row["tried"] > 100 and row["silently wrong"] == 0


def test_damage_is_noticed():
    row = bench_faults.damaged_files(150, random.Random(0))
    assert row.get("silently wrong", 0) == row.get("obscure", 0) == 0
    assert row["noticed"] > 100


@pytest.mark.parametrize("full", (False, True), ids=("killed", "full disk"))
def test_a_run_that_was_stopped_ends_as_one_that_was_not(full):
    row = bench_faults.killed_runs(4, random.Random(1), full)
    assert row["tried"] == row["same"] == 4 and row["stopped"] > 0
