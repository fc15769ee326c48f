"""Named places where a test kills this process, to prove that a crash leaves nothing half made.

Off unless the environment variable `MOSS_FAILPOINT` is set: `storage/temp_written` kills at the
first visit of that point, `storage/temp_written:3` at the third. The kill is SIGKILL, so no
`finally`, `atexit` or signal handler runs, as in a real loss of power or an out-of-memory kill.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_visits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process here when `MOSS_FAILPOINT` names this point and visit; else do nothing."""
    wanted = os.environ.get("MOSS_FAILPOINT")
    if not wanted:
        return
    _visits[name] += 1
    wanted_name, _, visit = wanted.partition(":")
    if name == wanted_name and _visits[name] == int(visit or 1):
        os.kill(os.getpid(), signal.SIGKILL)
