"""Child processes that never outlive their parent, however it ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send the signal `number` to this process when its parent dies (on Linux; nothing elsewhere)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def tied_to_me(number: int) -> Callable[[], None]:
    """A `preexec_fn` that ties the child to this process, also when this one dies before the child is ready.

    A child that is to be interrupted heeds it even where this process was started in the background to ignore it.
    """
    parent = os.getpid()

    def tie() -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        end_with_parent(number)
        if os.getppid() != parent:
            os._exit(1)

    return tie
