"""The files for CI systems, in the template and in the documentation, are what these systems accept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGE = (REPOSITORY / "docs" / "ci.md").read_text()
FILES = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
FILES["template"] = (REPOSITORY / "pipedag_dagster" / "template" / "github" / "workflows" / "pipeline.yaml").read_text()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_valid(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(FILES[name])
    schema = "vendor.gitlab-ci" if "gitlab" in name else "vendor.github-workflows"
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", schema, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_init_and_the_documentation_have_the_same_workflow() -> None:
    documented = FILES[".github/workflows/pipeline.yaml"]
    assert all(line in FILES["template"] for line in documented.splitlines())
