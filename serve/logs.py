"""Logs of the service: one JSON object per line, with the id of the request and no user's words.

Code logs events with fixed texts and `extra={"fields": {...}}`. An exception is written as its type
and where it was raised; its message, which can quote what a user wrote, only if the config says so.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final

from moss.config.serve_logs import LogConfig
from serve.request_record import current_id

LOGGERS: Final = ("serve", "moss")
"""Roots of all our loggers."""
_MAX_FRAMES: Final = 12


def configure_logs(config: LogConfig) -> None:
    """Write this process's own logs to stderr, from where Ray takes them to its log files."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(error_messages=config.error_messages))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(config.level)
        logger.propagate = False


class JsonLines(logging.Formatter):
    """One record as one line."""

    def __init__(self, *, error_messages: bool) -> None:
        super().__init__()
        self._error_messages = error_messages

    def format(self, record: logging.LogRecord) -> str:
        """See the module."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if found := current_id():
            line["request_id"] = found
        line |= getattr(record, "fields", {})
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line |= self._told(error)
        return json.dumps(line, ensure_ascii=False, default=str)

    def _told(self, error: BaseException) -> dict[str, object]:
        frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
        told: dict[str, object] = {
            "error": type(error).__name__,
            "raised_at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }
        if self._error_messages:
            told["error_message"] = str(error)
        return told
