"""Settings and the environment."""

import pytest

from app import main


def test_the_environment_replaces_defaults(make_app, monkeypatch):
    monkeypatch.setenv("CAPTIONER_PORT_8000_TCP_PROTO", "tcp")  # as Kubernetes does
    monkeypatch.setenv("CAPTIONER_TESTING", "true")  # Flask's own settings are not ours
    monkeypatch.setenv("CAPTIONER_REQUEST_TIMEOUT", "1.5")
    monkeypatch.setenv("CAPTIONER_QUEUE_LENGTH", "128")
    monkeypatch.setenv("CAPTIONER_ALLOWED_ORIGINS", '["https://example.org"]')
    config = make_app().config
    assert config["QUEUE_LENGTH"] == 128 and config["ALLOWED_ORIGINS"] == ["https://example.org"]
    assert config["TESTING"] is False
    assert config["MAX_PHOTOS"] == 20 and config["REQUEST_TIMEOUT"] == 1.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("MAX_PHOTOS", value) for value in ("many", "0", "true", "1.5")],
        *[("RATE_LIMIT", "600"), ("ALLOWED_ORIGINS", "https://a.org"), ("BEAM_WIDTH", "11")],
        ("REQUEST_TIMEOUT", "Infinity"),
        ("MAX_PHOTOS", "65"),
        ("MAX_FORM_PARTS", "21"),
        ("API_KEY", '["misspelt"]'),
        ("ARTIFACTS_DIR", "elsewhere"),
        *[
            ("ALLOWED_ORIGINS", f'["{site}"]')
            for site in ("*", "example.org", "https://example.org/", "https://Example.org")
        ],
    ],
)
def test_a_wrong_setting_is_named(name, value, monkeypatch, capsys):
    monkeypatch.setenv(f"CAPTIONER_{name}", value)
    assert main(["--port", "0"]) == 2
    assert f"CAPTIONER_{name}" in capsys.readouterr().err
