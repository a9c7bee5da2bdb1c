"""How many threads a program is worth.

The time on n threads is estimated as what one thread must do alone, plus the rest divided by n, plus what it costs to
start the others and to meet at the barriers.  Work is taken at the machine's limit (`roofline.py`), which no kernel
beats, so that the estimate errs towards fewer threads for small programs and does not matter for large ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .barriers import is_shared
from .machine import Machine
from .program import Program, Step, all_calls
from .roofline import limit_of

START_SECONDS = 10e-6  # waking the others and waiting for the last, once a run: measured 13 us with sleepers, 1 us without
MEET_SECONDS = 0.3e-6  # one barrier of two threads; it grows with the logarithm of their number
SHARE_SECONDS = 15e-6  # of work for each thread at least, which pays for waking it
WORTH = 0.87  # of the time on one thread: a smaller gain is not worth the other processors
MOST = 256  # the estimate says nothing beyond this number of threads


def recommended_threads(program: Program, machine: Machine) -> int:
    """The number of threads beyond which the program is not expected to become faster: 1 below about 30 us of work on
    one thread; 0 for no limit, and for a program without calls.  Bodies of loops count once; of several versions the one that
    wants most."""
    every = [_recommended(program, steps, machine) for steps in (program.steps, *(v.steps for v in program.versions)) if steps]
    return 0 if 0 in every else max(every, default=0)


def _recommended(program: Program, steps: Sequence[Step], machine: Machine) -> int:
    alone = shared = 0.0
    meetings = 0
    for call in all_calls(steps):
        seconds = limit_of(call.cost, machine).seconds
        kernel = program.kernels.get(call.kernel)
        if kernel is not None and is_shared(kernel):
            shared += seconds
        else:
            alone += seconds
        meetings += call.meet
    times = [alone + shared] + [
        alone + shared / n + START_SECONDS + meetings * MEET_SECONDS * math.log2(n)
        for n in range(2, min(MOST, int(shared / SHARE_SECONDS)) + 1)
    ]
    best = min(range(len(times)), key=times.__getitem__)
    if times[best] > WORTH * times[0]:
        return 1
    return 0 if best + 1 == MOST else best + 1
