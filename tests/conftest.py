"""Settings for every test: one thread, so that sums are alike and busy cores do not matter, and no windows."""

import matplotlib
import torch

torch.set_num_threads(1)
# Not by MPLBACKEND: the kernels that run the chapters would inherit it and show no figures.
matplotlib.use("agg")
