"""The lines of the user's own code in which something failed."""

from __future__ import annotations

import traceback
from pathlib import Path

from pipedag_dagster.fingerprint.module_origin import in_library


def user_frames(error: BaseException | None) -> list[traceback.FrameSummary]:
    """The frames of the user's own code in the traceback of `error`: none of this package, of Python or of a library.
    The line that failed is last."""
    frames = [] if error is None else traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not frame.filename.startswith("<") and not in_library(frame.filename)]


def user_traceback(error: BaseException) -> str:
    """What Python prints for `error`, with the frames of the user's own code only. Empty when it has none."""
    frames = user_frames(error)
    if not frames:
        return ""
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)]
    return "".join(lines + traceback.format_exception_only(error))


def failed_line(error: BaseException | None) -> str | None:
    """`file:line` of the line that failed, if it is the user's. The file is relative to the working directory if it
    lies in it."""
    frames = user_frames(error)
    if not frames:
        return None
    path, here = Path(frames[-1].filename), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{frames[-1].lineno}"
