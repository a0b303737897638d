"""Every error is one line that says what was got, what is allowed and what to do: a contract, tested by itself.

Builders are found by inspection, so a new one is held to the contract from the day it is written.
"""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
from pathlib import Path

import pytest

from echoembed import errors
from echoembed.errors import EchoembedError

BUILDERS = {
    name: function
    for name, function in vars(errors).items()
    if inspect.isfunction(function)
    and function.__module__.startswith(errors.__name__)
    and not name.startswith("_")
    and name not in ("quoted", "near")
} | {"ModelError.bad_value": errors.ModelError.bad_value, "FileError.unknown_name": errors.FileError.unknown_name}
# What an argument of such a name is like; any other is made up from its type.
BY_NAME = {
    "source": "{bos}Say {slot}: {text:pool} </s>",
    "slot": "slot",
    "token": "</s>",
    "path": "some/folder/file.json",
    "name": "org/some-model",
    "endpoint": "https://hub.example",
    "revision": "v7",
    "recipe": "twice",
    "kind": "query",
    "limit": 12345,
    "difference": 0.25,
    "got": (3, 77),
}
BY_TYPE = {
    "int": 7,
    "float": 0.5,
    "object": 77.5,
    "bool": True,
    "Iterable[str]": ("first-one", "second-one"),
    "Sequence[object]": (0.25, 0.75),
    "Mapping[str, BaseException]": {"some-task": ValueError("went wrong")},
}
# Builders whose arguments hang together.
TOGETHER = {
    "text_with_character": {"value": "ab\x00cd", "position": 2, "where": "Line 7"},
    "text_blank": {"value": "\t ", "where": "Line 7"},
    "text_not_utf8": {"where": "Line 7", "byte": 3, "value": 0xFE},
}
# Arguments that a message uses without showing them.
NOT_SHOWN = {
    ("no_room_for_text", "copies"),
    ("no_room_for_text", "instructed"),
    ("text_with_character", "value"),
    ("text_not_utf8", "value"),
    ("no_texts", "skipped"),
    ("evaluation_failed", "scores"),
}
# What a message may tell its reader to do.
VERBS = set(
    (  # noqa: SIM905 (a word list, not a page of quotes)
        "accept add ask build change check choose close convert copy correct declare decode download embed encode "
        "fetch fill fix free give install join keep leave let list load log lower make mark merge name open pass pool "
        "put quote raise read remove rename repeat report resize resume reword run save say see send set shorten split "
        "start take try update use wait write"
    ).split()
)
# Builders that are handed what to do, for it depends on where they are raised.
SAY_BY_ARGUMENT = {
    "corpus_differs",
    "format_untold",
    "text_unusable",
    "request_field",
    "request_no_route",
    "server_fault",
}
HOSTILE = "one\ntwo\r\x1b[31m\x00\u2028\u2029\x85\ud800"


def arguments(name: str) -> dict[str, object]:
    """An example of what the builder takes."""
    if name in TOGETHER:
        return dict(TOGETHER[name])
    made = {}
    for parameter in inspect.signature(BUILDERS[name]).parameters.values():
        made_up = BY_TYPE.get(str(parameter.annotation), f"an example of {parameter.name}")
        made[parameter.name] = BY_NAME.get(parameter.name, made_up)
    return made


def forms(value: object) -> list[str]:
    """How a message may write a value."""
    if _words(value) or isinstance(value, dict):
        return [next(iter(value))]
    written = [str(value), repr(value), repr(value)[1:-1]]
    if isinstance(value, int):
        written.append(f"{value:,}")
    if isinstance(value, float):
        written.append(f"{value:.1e}")
    return written


every_builder = pytest.mark.parametrize("name", list(BUILDERS))


@every_builder
def test_builder_returns_an_error_of_ours_and_says_what_for(name):
    error = BUILDERS[name](**arguments(name))
    assert isinstance(error, EchoembedError)
    assert type(error) is not EchoembedError
    assert BUILDERS[name].__doc__
    assert inspect.signature(BUILDERS[name]).return_annotation in (type(error).__name__, "EchoembedError", "Self")


@every_builder
def test_message_is_one_finished_line(name):
    message = str(BUILDERS[name](**arguments(name)))
    assert len(message.splitlines()) == 1
    assert message == message.strip()
    assert message.endswith((".", "?"))
    assert message.isprintable()
    assert "  " not in message.replace("\\t ", "")
    assert not re.search(r"\bNone\b.*\bNone\b|<function|<class|object at 0x", message)


@every_builder
def test_message_says_what_was_got(name):
    given = arguments(name)
    message = str(BUILDERS[name](**given))
    for parameter, value in given.items():
        if (name, parameter) not in NOT_SHOWN:
            assert any(form in message for form in forms(value)), (parameter, message)


@every_builder
def test_message_says_what_to_do(name):
    """After what was got, a sentence or a part of one begins with what the reader can do."""
    if name in SAY_BY_ARGUMENT:
        return
    message = str(BUILDERS[name](**arguments(name)))
    parts = re.split(r"(?<=[.?!:;,)])\s+|\s(?:and|or)\s", message)[1:]
    begins = {word[0].lower() for part in parts if (word := re.match(r"[A-Za-z]+", part))}
    assert begins & VERBS, message


def test_what_to_do_is_not_read_into_any_message():
    """Else the test above would hold for messages that only complain."""
    assert not {"the", "a", "it", "its", "allowed", "there", "got", "which", "this"} & VERBS
    assert len(SAY_BY_ARGUMENT) < len(BUILDERS) / 20
    assert set(BUILDERS) > SAY_BY_ARGUMENT


@every_builder
def test_message_stays_one_line_whatever_it_quotes(name):
    given = arguments(name)
    hostile = {parameter: _made_hostile(value) for parameter, value in given.items()}
    if name == "text_with_character":
        hostile = {**given, "value": "\n\x00\u2028\n", "position": 1}
    message = str(BUILDERS[name](**hostile))
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    message.encode("utf-8")


def _made_hostile(value: object) -> object:
    if isinstance(value, dict):
        return {HOSTILE: ValueError(HOSTILE)}
    if _words(value):
        return (HOSTILE, HOSTILE)
    return HOSTILE if isinstance(value, str) else value


def _words(value: object) -> bool:
    return isinstance(value, tuple) and isinstance(value[0], str)


@every_builder
def test_an_error_reaches_another_process_whole(name):
    error = BUILDERS[name](**arguments(name))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_every_error_is_raised_somewhere():
    package = Path(errors.__file__).parents[1]
    source = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.parent.name != "errors")
    assert [name for name in BUILDERS if not re.search(rf"errors\.{name}\b", source)] == []


def test_the_index_lists_every_error():
    """Else a builder that the index lacks would be held to nothing here."""
    for path in Path(errors.__file__).parent.glob("[a-z]*.py"):
        for name, value in vars(importlib.import_module(f"{errors.__name__}.{path.stem}")).items():
            ours = getattr(value, "__module__", "") == f"{errors.__name__}.{path.stem}"
            assert name.startswith("_") or not ours or getattr(errors, name, None) is value, name


def test_there_are_builders():
    assert len(BUILDERS) > 60


@pytest.mark.parametrize("kind", ["TemplateError", "RecipeError", "TextError", "ModelError"])
def test_wrong_values_are_value_errors(kind):
    assert issubclass(getattr(errors, kind), (EchoembedError, ValueError))
    assert issubclass(getattr(errors, kind), ValueError)


def test_files_are_operating_system_errors():
    assert issubclass(errors.FileError, OSError)
    assert str(errors.FileError("one\ntwo")) == "one\\ntwo"


# Helpers


def test_a_long_value_is_cut():
    assert errors.quoted("a" * 100) == "'" + "a" * 39 + "…"
    assert errors.quoted("a\nb") == r"'a\nb'"
    assert errors.quoted(b"\xff") == r"b'\xff'"
    assert errors.quoted(None) == "None"


def test_near_names_are_suggested_and_far_ones_are_not():
    assert errors.near("ehco", ["echo", "classical"]) == " Did you mean 'echo'?"
    assert errors.near("classcal", ["classical", "classical-last"]) == (
        " Did you mean 'classical' or 'classical-last'?"
    )
    assert errors.near("xyz", ["echo", "classical"]) == ""


# Exact texts


def test_text_of_an_unknown_slot():
    assert str(errors.template_unknown_slot("{bos}Say: {txt:pool}", "txt", ("text", "bos"))) == (
        "Template '{bos}Say: {txt:pool}' has an unknown slot 'txt' at position 10. Slots: text, bos. "
        "Rename it or declare it among the recipe's markers. Did you mean 'text'?"
    )


def test_text_of_a_text_that_is_no_string():
    assert str(errors.text_not_str(float("nan"), "Row 3")) == (
        "Row 3 is nan, of type float. A text must be a str: convert it, or leave it out."
    )


def test_text_of_a_control_character():
    assert str(errors.text_with_character("ab\x00cd", 2, "The text")) == (
        r"The text ('ab\x00cd') holds a control character, U+0000, at position 2. Allowed: Unicode text with tabs "
        "and line breaks. Decode it correctly, or remove the character."
    )


def test_text_of_a_layer_that_is_not_there():
    assert str(errors.model_layer("tiny", 99, 6)) == (
        "tiny has 6 layers, but layer 99 was asked for. Allowed: 0 (the token embeddings) to 6, or -1 (the last) to "
        "-7. Choose one of these."
    )
