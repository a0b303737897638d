"""Libraries that are missing or do not work together are named before they are used, with the command that mends it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import warnings
from collections import defaultdict
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from echoembed import errors, versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OURS = PROJECT["project"]["dependencies"]
CLI = ("-c", "from echoembed.cli import main; main()")
EXTRAS = PROJECT["project"]["optional-dependencies"]


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """A folder before all others on the path, and a function that puts a library's metadata there."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, version, requires=(), code=None):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires)]) + "\n")
        for path, text in (code or {}).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    install("echoembed", "0.2.0", [*OURS, *(f"{line} ; extra == '{name}'" for name in EXTRAS for line in EXTRAS[name])])
    return install


def run(folder, *command):
    """In a process whose libraries are those of the folder first."""
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def allowed(library):
    return versions._ascending(versions._tested(library))


# peft and transformers, which say what they ask of each other in code only


@pytest.fixture
def not_imported(monkeypatch):
    """As in a process that has not imported transformers: the next search for it looks through the path."""
    monkeypatch.delitem(sys.modules, "transformers", raising=False)


def test_a_peft_that_the_installed_transformers_refuses_is_named(libraries, not_imported):
    libraries("peft", "0.21.0")
    libraries("transformers", "5.22.0", code=_transformers("0.21.1"))
    with pytest.raises(errors.LibraryError) as error:
        versions.check("peft", extra="peft", purpose="Loading it")
    assert str(error.value) == (
        "peft 0.21.0 is installed, but transformers 5.22.0 needs peft>=0.21.1. "
        "Install versions that work together: pip install 'peft>=0.21.1,<0.22'."
    )


def test_a_transformers_that_asks_for_a_peft_beyond_the_tested_ones_is_to_be_replaced(libraries, not_imported):
    libraries("peft", "0.21.2")
    libraries("transformers", "9.0.0", code=_transformers("7.5.0"))
    with pytest.raises(errors.LibraryError) as error:
        versions.check("peft", extra="peft", purpose="Loading it")
    assert str(error.value) == (
        "peft 0.21.2 is installed, but transformers 9.0.0 needs peft>=7.5.0. "
        f"Install versions that work together: pip install 'transformers{allowed('transformers')}'."
    )


def test_train_says_so_before_anything_is_read(libraries):
    libraries("peft", "0.21.2")
    folder = libraries("transformers", "9.0.0", code=_transformers("7.5.0"))
    (folder / "run.toml").write_text('output = "run"\n[[data]]\npath = "absent.jsonl"\n')
    ran = run(folder, *CLI, "train", "run.toml", "--dry-run")
    assert ran.returncode == 1, ran
    assert ran.stderr.startswith("error: peft 0.21.2 is installed, but transformers 9.0.0 needs peft>=7.5.0. ")
    assert len(ran.stderr.splitlines()) == 1


def test_the_installed_transformers_says_what_it_asks_of_peft_where_it_is_looked_for(libraries):
    libraries("peft", "0.0.1")
    with pytest.raises(errors.LibraryError, match=r"^peft 0\.0\.1 is installed, but transformers .* needs peft>=0\."):
        versions._check_peft()


def _transformers(minimum):
    return {"transformers/__init__.py": "", "transformers/integrations/peft.py": f'MIN_PEFT_VERSION = "{minimum}"\n'}


# Ranges


def test_a_library_below_its_range_is_refused(libraries):
    libraries("mteb", "1.39.7")
    with pytest.raises(errors.LibraryError) as error:
        versions.check("mteb", extra="eval", purpose="An evaluation")
    assert str(error.value) == (
        f"mteb 1.39.7 is installed, but echoembed needs mteb{allowed('mteb')}. "
        f"Install versions that work together: pip install 'mteb{allowed('mteb')}'."
    )


def test_a_base_library_below_its_range_is_refused_when_the_model_is_imported(libraries):
    folder = libraries("transformers", "5.5.0")
    ran = run(folder, *CLI, "similarity", "A", "B")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"error: transformers 5.5.0 is installed, but echoembed needs transformers{allowed('transformers')}" in (
        ran.stderr
    )


def test_a_library_above_its_range_is_warned_of_and_used(libraries):
    libraries("torch", "77.0")
    with pytest.warns(versions.UntestedVersionWarning) as caught, versions.base_libraries():
        pass
    assert [str(warning.message) for warning in caught] == [
        f"torch 77.0 is installed; echoembed was tested with torch{allowed('torch')}. "
        f"If something fails, install one of those: pip install 'torch{allowed('torch')}'."
    ]


@pytest.mark.parametrize("version", ["2.13.0+cpu", "2.13.0a0+ecf3bae40a.nv26.01", "2.13.1.post1"])
def test_a_vendors_build_counts_as_its_release(libraries, version):
    libraries("torch", version)
    with warnings.catch_warnings(), versions.base_libraries():
        warnings.simplefilter("error")


def test_a_copy_of_the_code_that_was_never_installed_knows_no_ranges_and_works(monkeypatch):
    monkeypatch.setattr(versions, "requires", lambda name: (_ for _ in ()).throw(versions.PackageNotFoundError(name)))
    with versions.base_libraries():
        versions.check("numpy", extra="eval", purpose="Counting")


def test_a_library_has_the_same_range_wherever_it_is_named():
    ranges = defaultdict(set)
    for line in chain(OURS, *EXTRAS.values(), PROJECT["dependency-groups"]["dev"]):
        ranges[Requirement(line).name].add(str(Requirement(line).specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


# Libraries that are missing or broken


def test_a_missing_extra_is_named_with_its_install_line(libraries):
    with pytest.raises(errors.LibraryError) as error:
        versions.check("no-such-library", extra="train", purpose="Training")
    assert str(error.value) == (
        "Training needs an extra library, no-such-library, which is not installed. "
        "Install it: pip install 'echoembed[train]'."
    )
    assert isinstance(error.value, ImportError)


def test_a_library_that_cannot_be_imported_is_named_with_the_reason(libraries, monkeypatch):
    libraries("sound", "1.0", code={"sound.py": "raise ImportError('libsound.so: cannot open')"})
    with pytest.raises(errors.LibraryError) as error, versions.needed("sound", extra="eval", purpose="Hearing"):
        import sound  # noqa: F401
    assert str(error.value) == (
        "Hearing needs sound, which is installed but cannot be imported: 'libsound.so: cannot open'. "
        "Install it again: pip install --force-reinstall --no-deps sound."
    )


def test_an_import_that_fails_over_two_libraries_names_both(libraries):
    """As where one package manager moved ``tokenizers`` and left transformers behind."""
    folder = libraries("tokenizers", "0.99.0")
    ran = run(folder, *CLI, "similarity", "A", "B")
    assert (ran.returncode, ran.stdout) == (1, "")
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("error: tokenizers 0.99.0 is installed, but transformers ")
    assert "needs tokenizers>=" in last
    assert "pip install 'tokenizers>=" in last
    assert "Traceback" not in ran.stderr


def test_a_library_that_an_imported_one_lacks_is_named(libraries):
    libraries("sound", "1.0", ["waves>=2", "silence>=3 ; extra == 'night'"], {"sound.py": "import waves"})
    with pytest.raises(errors.LibraryError, match=r"waves \(none\) is installed, but sound 1\.0 needs waves>=2\."):  # noqa: SIM117
        with versions.needed("sound", extra="eval", purpose="Hearing"):
            import sound  # noqa: F401


def test_an_import_that_fails_for_a_reason_of_its_own_keeps_it(libraries):
    libraries("tokenizers", "0.99.0")  # which is no reason to divide by zero
    with pytest.raises(ZeroDivisionError), versions.base_libraries():
        1 / 0  # noqa: B018
