"""Settings for every test: one thread, so that sums are alike and busy cores do not matter, and no windows."""

import signal

import matplotlib
import torch

torch.set_num_threads(1)
# Not by MPLBACKEND: the kernels that run the chapters would inherit it and show no figures.
matplotlib.use("agg")


def pytest_configure():
    """What is started in the background of a script may ignore Ctrl-C; the tests are about Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
