"""A person at a terminal, who types commands of the docs in the folder of a project."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipedag_dagster.cli.main import main
from pipedag_dagster_tests.helpers.command_line import Done

BIN = Path(sys.executable).parent


class Terminal:
    """`pipedag-dagster` runs in this process, which is much faster than to start Python. It finds the files of the
    project as they are now. Every other program runs in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def type(self, command: str) -> str:
        """What a command of the shell prints. It has to succeed, or to fail if `# fails` is at its end."""
        done = self.run(command)
        assert (done.code != 0) == command.endswith("# fails"), done.out + done.err
        return done.out

    def run(self, command: str) -> Done:
        """Run a command of the shell, whether it succeeds or fails."""
        run = self._here if command.startswith("pipedag-dagster ") else self._in_a_shell
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
            patch.setenv("PYTHONPATH", str(self.folder))  # as `pip install -e .` would have it
            patch.setenv("COLUMNS", "100")
            patch.delenv("DAGSTER_HOME", raising=False)
            patch.delenv("PIPEDAG_CONFIG", raising=False)
            return run(command)

    def _here(self, command: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.syspath_prepend(self.folder)
            try:
                main(shlex.split(command, comments=True)[1:])
            except SystemExit as end:
                code = int(end.code or 0)
        self._forget_modules()
        return Done(code, out.getvalue(), err.getvalue())

    def _forget_modules(self) -> None:
        """Of the project: the next command reads them again."""
        for name, module in list(sys.modules.items()):
            places = [vars(module).get("__file__"), *vars(module).get("__path__", ())]
            if any(place and Path(place).is_relative_to(self.folder) for place in places):
                del sys.modules[name]

    def _in_a_shell(self, command: str) -> Done:
        done = subprocess.run(command, shell=True, cwd=self.folder, capture_output=True, text=True, timeout=300)
        return Done(done.returncode, done.stdout, done.stderr)
