"""Settings for every test: two threads, so that timings and sums are alike, and no windows."""

import matplotlib
import torch

torch.set_num_threads(2)
# Not by MPLBACKEND: the kernels that run the chapters would inherit it and show no figures.
matplotlib.use("agg")
