"""TensorBoard event files: numbers and texts, with neither torch nor TensorFlow loaded.

TensorBoard's own light writer knows numbers only; both kinds go into the one file here.
"""

from __future__ import annotations

import time

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util


class EventWriter:
    """Appends events to a new file in a folder."""

    def __init__(self, folder: str) -> None:
        self._file = EventFileWriter(folder)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One point of a curve."""
        metadata = scalar_metadata.create_summary_metadata(display_name="", description="")
        metadata.data_class = summary_pb2.DataClass.DATA_CLASS_SCALAR
        self._add(tag, np.float32(value), metadata, step)

    def add_text(self, tag: str, markdown: str, step: int) -> None:
        """One text, shown as Markdown."""
        metadata = text_metadata.create_summary_metadata(display_name="", description="")
        metadata.data_class = summary_pb2.DataClass.DATA_CLASS_TENSOR
        # The text plugin reads arrays of strings.
        self._add(tag, np.array([markdown.encode()], dtype=object), metadata, step)

    def close(self) -> None:
        """Write what is held back."""
        self._file.close()

    def _add(
        self,
        tag: str,
        value: np.float32 | np.ndarray,
        metadata: summary_pb2.SummaryMetadata,
        step: int,
    ) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step)
        tensor = tensor_util.make_tensor_proto(value)
        event.summary.value.add(tag=tag, tensor=tensor, metadata=metadata)
        self._file.add_event(event)
