import warnings

import pytest

from data_sets import made  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def _keep_warnings(monkeypatch):
    """What the command line does to warnings ends with its process, and here with the test."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
