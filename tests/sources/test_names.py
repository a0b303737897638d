"""Names that no system can look up: they are refused as names, wherever they are looked up first."""

import pytest

from echoembed import errors
from echoembed.sources.adapters import find, is_adapter
from echoembed.sources.names import check_adapter, check_model
from echoembed.sources.resolve import resolve


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "x" * 300 + ".gguf", "~nobody-has-this-name/x", "a\0b"])
@pytest.mark.parametrize("look_up", [resolve, check_model, check_adapter, find])
def test_a_name_that_no_file_can_have_is_refused_by_an_error_of_ours(name, look_up):
    assert not is_adapter(name)
    with pytest.raises(errors.ModelError):
        look_up(name)


def test_a_folder_that_is_there_is_refused_without_a_hint_at_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine2").mkdir()
    with pytest.raises(errors.ModelError, match="mine") as refused:
        check_model("./mine")
    assert "Did you mean" not in str(refused.value)
    with pytest.raises(errors.ModelError, match="Did you mean 'mine"):
        check_model("./min")
