"""What the chat service writes into its logs."""

from __future__ import annotations

from typing import Literal

from moss.config.base import Config


class LogConfig(Config):
    """Logs of the service: JSON lines on the standard error of its replicas."""

    level: Literal["INFO", "WARNING", "ERROR"] = "INFO"
    """INFO has one line per request, tool call and generation."""
    error_messages: bool = False
    """Write the messages of unexpected errors beside their types and places; they can quote what
    users wrote."""
