"""Training states saved beside the training: a quick snapshot now, the slow rest in a thread."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from types import TracebackType
from typing import Self

from moss.checkpoints import publish_training_state, take_snapshot
from moss.errors import StorageError, WaitTimeoutError


class StateWriter:
    """Saves the training states of one run, at most one at a time.

    A state that cannot be written is reported and passed over: the one before it stays whole. Only
    too many failures in a row end the run, for then a kill would cost more and more. A failure at
    the very end costs nothing: what a run makes is written apart from its states.
    """

    def __init__(
        self,
        folder: str,
        *,
        keep: int,
        keep_best: int,
        max_failed: int,
        timeout_s: float,
        report_failure: Callable[[int, Exception], None],
    ) -> None:
        """Args:
        folder: where the states of the run lie.
        keep, keep_best: states that stay; see `publish_training_state`.
        max_failed: failures in a row that are an error.
        timeout_s: longest wait for the state before; one that takes longer counts as failed.
        report_failure: takes step and reason of a state that was not saved, from any thread.
        """
        self._folder, self._keep, self._keep_best = folder, keep, keep_best
        self._max_failed, self._timeout_s = max_failed, timeout_s
        self._report_failure = report_failure
        self._thread: Thread | None = None
        self._num_failed = 0

    def save(self, step: int, snapshot: Callable[[str], None], *, score: float | None) -> None:
        """Take a snapshot, and begin to write it once the state before it is written.

        Args:
            snapshot: fills a local folder; the training stands still meanwhile.
            score: see `publish_training_state`.
        Raises:
            StorageError: too many states in a row could not be written.
            WaitTimeoutError, ActorLostError: of `snapshot`.
        """
        try:
            self._await_previous()
            taken = take_snapshot(self._folder, snapshot)
        except WaitTimeoutError:
            raise
        except OSError as error:
            self._fail(step, error)
        else:
            self._thread = Thread(
                target=self._publish, args=(taken, step, score), name="state-writer", daemon=True
            )
            self._thread.start()
        self._check_failures()

    def close(self) -> None:
        """Wait for the state that is being written."""
        if self._thread is not None:
            self._thread.join(self._timeout_s)

    def _await_previous(self) -> None:
        self.close()
        if self._thread is not None and self._thread.is_alive():
            raise StorageError(
                f"the state before it is still being written after {self._timeout_s:g} s; look at "
                f"the storage of {self._folder}, or raise timeouts.save_s"
            )
        self._thread = None

    def _publish(self, taken: str, step: int, score: float | None) -> None:
        try:
            publish_training_state(
                taken,
                self._folder,
                step,
                keep=self._keep,
                score=score,
                keep_best=self._keep_best,
            )
            self._num_failed = 0
        except Exception as error:
            # Whatever it was: an exception in a thread would be lost.
            self._fail(step, error)

    def _fail(self, step: int, error: Exception) -> None:
        self._num_failed += 1
        self._report_failure(step, error)

    def _check_failures(self) -> None:
        if self._num_failed >= self._max_failed:
            raise StorageError(
                f"{self._num_failed} training states in a row could not be written to "
                f"{self._folder} (faults.max_failed_saves={self._max_failed}); the reasons are in "
                "the log. Free space and run the same command again: it goes on from the last state"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
