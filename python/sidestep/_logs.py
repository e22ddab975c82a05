# SPDX-License-Identifier: MIT
"""Log records of workers, on their way to the handlers of the pool's process.

In a worker one handler, the root logger's, takes the place of all others. It sends each
record as a note of the core (``PoolWorker.tell``), which is in shared memory when the
logging call returns, and in order with the results of the tasks: so the last words of a
worker that crashes arrive, before its ``WorkerLost``. The owner gives a record to the
logger of the same name, whose handlers and parents do with it what they do with its own.
"""

from __future__ import annotations

import logging
import os

from . import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: The levels that were set, by the loggers' names; "" is the root's.
    Levels = dict[str, int]

__all__ = ["handle", "levels", "send_to"]

#: The tag of a note that has a record.
NOTE_RECORD = 2


def _loggers() -> dict[str, logging.Logger]:
    known = logging.root.manager.loggerDict.items()
    found = {name: it for name, it in known if isinstance(it, logging.Logger)}
    return {"": logging.root, **found}


def levels() -> Levels:
    """Return the levels that are set in this process, for a worker."""
    return {name: logger.level for name, logger in _loggers().items() if logger.level}


class _Sender(logging.Handler):
    """Sends records to the owner of the pool."""

    def __init__(self, worker: Any) -> None:
        super().__init__()
        self._worker = worker
        self._pid = os.getpid()
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._pid:
            # A child that a task has made: nobody's worker.
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
            return
        try:
            self._tell(self._fields_of(record))
        except Exception:  # noqa: BLE001 - logging never raises
            self.handleError(record)

    def _fields_of(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return a record's attributes; its text is made here, of whatever it is."""
        fields = dict(record.__dict__)
        fields["msg"] = record.getMessage()
        fields["args"] = None
        if record.exc_info and not record.exc_text:
            fields["exc_text"] = self._formatter.formatException(record.exc_info)
        fields["exc_info"] = None
        fields["processName"] = process.current_process().name
        return fields

    def _tell(self, fields: dict[str, Any]) -> None:
        try:
            self._worker.tell(NOTE_RECORD, fields)
        except Exception:  # noqa: BLE001 - an extra attribute that cannot travel
            plain = (str, int, float, type(None))
            as_text = {
                key: value if isinstance(value, plain) else repr(value)
                for key, value in fields.items()
            }
            self._worker.tell(NOTE_RECORD, as_text)


def send_to(worker: Any, wanted: Levels) -> None:
    """Have all loggers of this process send their records to the owner."""
    for logger in _loggers().values():
        logger.handlers = []
        logger.propagate = True
    for name, level in wanted.items():
        logging.getLogger(name or None).setLevel(level)
    logging.root.addHandler(_Sender(worker))


def handle(fields: dict[str, Any]) -> None:
    """Do with a worker's record what is done with one of our own."""
    record = logging.makeLogRecord(fields)
    logging.getLogger(record.name if record.name != "root" else None).handle(record)
