"""A process that cannot import our package, whatever this one was started with."""

import os

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
WITHOUT_US = """
import importlib.util
import sys
from pathlib import Path

sys.path = [place for place in sys.path if not (Path(place or ".") / "echoembed").is_dir()]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
assert importlib.util.find_spec("echoembed") is None
"""
"""The beginning of such a process's code."""
