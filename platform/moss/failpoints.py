"""Named places where a test makes things fail, to prove what happens then.

Off unless the environment variable `MOSS_FAILPOINT` is set: `storage/temp_written` kills this
process at the first visit of that point, `storage/temp_written:3` at the third. The kill is
SIGKILL, so no `finally`, `atexit` or signal handler runs, as in a real loss of power or an
out-of-memory kill. `storage/temp_written:3=full` raises what a full disk raises instead.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

_visits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Fail here when `MOSS_FAILPOINT` names this point and visit; else do nothing."""
    wanted = os.environ.get("MOSS_FAILPOINT")
    if not wanted:
        return
    _visits[name] += 1
    place, _, failure = wanted.partition("=")
    wanted_name, _, visit = place.partition(":")
    if name != wanted_name or _visits[name] != int(visit or 1):
        return
    if failure == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    os.kill(os.getpid(), signal.SIGKILL)
