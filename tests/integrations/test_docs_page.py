"""What ``docs/integrations.md`` says to write is run, block by block, where the tool is installed."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_runs_from_top_to_bottom(model, folder):
    namespace = {"model": model, "folder": folder, "__name__": "__docs__"}
    missing = []
    for block in BLOCKS:
        try:
            exec(compile(block, PAGE.name, "exec"), namespace)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("echoembed"):
                raise
            missing.append(str(error.name))
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; make test-integrations has them")
    assert len(BLOCKS) > 8
