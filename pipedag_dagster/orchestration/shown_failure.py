"""How Dagster shows an error of this package: our message first, and only the user's own frames.

Dagster puts its own error around an exception, and its page begins with Dagster's frames. It does so for everything but
`dg.Failure`, of which it shows the message and the metadata first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from pipedag_dagster.errors import PipedagError, TaskFailed, failures_in
from pipedag_dagster.execution.user_frames import user_traceback


@contextmanager
def shown_failures(command: str | None = None) -> Iterator[None]:
    """Errors of this package that are raised inside become failures of Dagster.

    The failure is of the same class as the error, so callers catch it as before: `except TaskFailed`. The error itself,
    with the user's exception as its cause, is `original(failure)`.

    Args:
        command: what to type to run it again.
    """
    try:
        yield
    except PipedagError as error:
        raise _failure(error, command) from None


def original(failure: BaseException) -> BaseException:
    """The error that a failure shows; any other exception unchanged."""
    return failure._error if isinstance(failure, _Shown) else failure


class _Shown(dg.Failure):
    _error: PipedagError

    def __str__(self) -> str:
        return self.description or ""  # with the notes


def _shown_class(kind: type[PipedagError]) -> type[_Shown]:
    return type(kind.__name__, (_Shown, kind), {"__module__": kind.__module__, "__reduce__": _plain})


def _plain(failure: _Shown) -> tuple[Any, ...]:
    return dg.Failure, (failure.description,)  # other processes do not know the class


def _failure(error: PipedagError, command: str | None) -> _Shown:
    metadata = _metadata(error, command)
    # The event at the end of a failed run has no metadata, and is what people see first.
    text = "\n".join((str(error), *error.notes, str(metadata["pipedag/next"].value)))
    shown_class = _shown_class(type(error))
    failure = shown_class.__new__(shown_class)  # each class of error has an __init__ of its own
    failure.__dict__.update(description=text, metadata=metadata, allow_retries=True)
    failure.args = (text,)
    vars(failure).update({name: value for name, value in vars(error).items() if name != "__notes__"})
    failure._error = error
    return failure


def _metadata(error: PipedagError, command: str | None) -> dict[str, dg.MetadataValue]:
    """What is shown below the message. The most useful comes first, because the page shows only a few lines."""
    failures = [failure for failure in failures_in(error) if isinstance(failure, PipedagError)]
    lines = ", ".join(dict.fromkeys(each.line for each in failures if each.line))
    fix = f"Fix {lines}, and reload the code location. Then re" if lines and isinstance(error, TaskFailed) else "Re"
    again = f"{fix}-execute from failure" + (f", or type: {command}" if command else ".")
    shown = {
        "pipedag/line": lines,
        "pipedag/traceback": "\n".join(user_traceback(each.__cause__) for each in failures if each.__cause__).strip(),
        "pipedag/task": ", ".join(dict.fromkeys(each.task for each in failures if each.task)),
        "pipedag/next": again,
        "pipedag/visible": "\n".join(error.notes),
    }
    return {key: dg.MetadataValue.text(text) for key, text in shown.items() if text}
