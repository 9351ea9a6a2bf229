"""Settings: wrong values are one clear line that names the variable."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from shared.errors import SetupError
from shared.settings import Settings, describe, load, unknown_variables


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of the person who runs the tests


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PORT", "99999", "less than or equal to 65535"),
        ("PORT", "http", "valid integer"),
        ("SECRET_KEY", "abc", "32 bytes in base64"),
        ("SECRET_KEY", base64.b64encode(b"short").decode(), "is 5"),
        ("BOOTSTRAP_KEY", "too-short", "32 to 512"),
        ("TOPIC_PREFIX", "no spaces", "pattern"),
        ("DATABASE_POOL_SIZE", "1", "greater than or equal to 12"),
        ("METRICS_OPEN", "perhaps", "boolean"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
        ("PUBLIC_URL", "example.com", "pattern"),
    ],
)
def test_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str) -> None:
    monkeypatch.setenv(f"THREADLINE_{variable}", value)
    with pytest.raises(SetupError, match=f"^THREADLINE_{variable}: ") as caught:
        load()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_BOOTSTRAP_KEY", "hunter2")
    with pytest.raises(SetupError) as caught:
        load()
    assert "hunter2" not in str(caught.value)


def test_options_win_over_variables_and_variables_over_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("THREADLINE_PORT=1111\nTHREADLINE_HOST=from-file\nTHREADLINE_TOPIC_PREFIX=file\n")
    monkeypatch.setenv("THREADLINE_PORT", "2222")
    monkeypatch.setenv("THREADLINE_HOST", "from-variable")
    found = load(port=3333, host=None)
    assert (found.port, found.host, found.topic_prefix) == (3333, "from-variable", "file")


def test_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_DATABASE_URL", "")
    assert load().database_url is None


def test_every_setting_has_a_unit_and_a_meaning_and_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLINE_DATABASE_URL", "postgresql://me:hunter2@db/x")
    shown = list(describe(load()))
    assert {setting.variable for setting in shown} == {f"THREADLINE_{name.upper()}" for name in Settings.model_fields}
    for setting in shown:
        assert setting.unit and setting.meaning, setting.variable
        assert "hunter2" not in setting.value
        # An example of the unit's rule: a name that ends in _S is seconds, in _BYTES bytes.
        for ending, unit in (("_S", "s"), ("_BYTES", "bytes")):
            if setting.variable.endswith(ending):
                assert setting.unit == unit, setting.variable


def test_secrets_have_no_default() -> None:
    for name in ("secret_key", "bootstrap_key", "database_url"):
        assert Settings.model_fields[name].default is None


def test_slips_of_the_pen_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unknown_variables() == []
    monkeypatch.setenv("THREADLINE_DATABSE_URL", "x")
    assert unknown_variables() == ["THREADLINE_DATABSE_URL"]
    assert "THREADLINE_DATABSE_URL" in os.environ
