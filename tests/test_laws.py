"""The laws of the book hold for the package. What each says, and how it is tested, is in laws.py."""

import inspect

import pytest
from laws import LAWS


def name_of(law, arguments):
    return "-".join((law.__name__, *arguments))


@pytest.mark.parametrize("law, arguments", LAWS, ids=[name_of(*entry) for entry in LAWS])
def test_law(law, arguments, tmp_path):
    needs = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(law).parameters else {}
    law(*arguments, **needs)
