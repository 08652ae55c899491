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
            torch.ones(1, device=wish).item()  # the device "meta" holds no numbers
        except (RuntimeError, AssertionError) as error:
            got = f"{wish!r} ({str(error).splitlines()[0][:200]})"
            raise Refusal(f"SAR_DEVICE: expected a device of this machine, got {got}") from error
        return torch.device(wish), f"SAR_DEVICE={wish}"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    return torch.device("cpu"), f"no CUDA GPU found, {torch.get_num_threads()} threads"


# What torch says where there is no room, on the CPU, on a GPU and in a child process
# (``side_by_side.py``), and of sizes past all counting.
NO_ROOM = ("allocate memory", "out of memory", "(no memory?)")
PAST_COUNTING = (
    "size calculation overflowed",
    "multiplication overflow",
    "numel overflow",
    "Overflow when unpacking",
    "int too big to convert",
)


def out_of_memory(error: BaseException, sizes: bool = True) -> bool:
    """Whether it is for want of memory; torch raises what it raises for all else. sizes: also of
    those that no machine has."""
    words = NO_ROOM + PAST_COUNTING if sizes else NO_ROOM
    torchs = isinstance(error, RuntimeError | TypeError | OverflowError)
    said = torchs and any(word in str(error) for word in words)
    return said or isinstance(error, MemoryError)
