"""Where to compute."""

import os

import torch

from ..errors import Refusal


def choose_device() -> tuple[torch.device, str]:
    """Where to compute, and why: ``SAR_DEVICE`` if set, else a GPU if there is one, else the CPU.

    Raises Refusal when ``SAR_DEVICE`` names a device that does not work here.
    """
    wish = os.environ.get("SAR_DEVICE")
    if wish:
        try:
            torch.empty(1, device=wish)
        except (RuntimeError, AssertionError) as error:
            got = f"{wish!r} ({str(error).splitlines()[0]})"
            raise Refusal(f"SAR_DEVICE: expected a device of this machine, got {got}") from error
        return torch.device(wish), f"SAR_DEVICE={wish}"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    return torch.device("cpu"), f"no CUDA GPU found, {torch.get_num_threads()} threads"
