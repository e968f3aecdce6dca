"""What an operator may choose: read from a mapping, with defaults, and refused by name where it does not fit."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from server.environment import parse
from server.settings import Settings

NAMES = [each.name for each in fields(Settings)]
NUMBERS = [each.name for each in fields(Settings) if each.type in (int, float, int | None, float | None)]
WHOLE_NUMBERS = [each.name for each in fields(Settings) if each.type in (int, int | None)]

CHOSEN: dict[str, tuple[str, Any]] = {
    "openai_api_key": ("sk-1", "sk-1"),
    "openai_base_url": ("http://localhost:11434/v1", "http://localhost:11434/v1"),
    "openai_org_id": ("org-1", "org-1"),
    "openai_project_id": ("proj-1", "proj-1"),
    "openai_custom_headers": ("api-key: a: b\nX-Team: blue", "api-key: a: b\nX-Team: blue"),
    "llm_server_url": ("http://localhost:8000/v1", "http://localhost:8000/v1"),
    "upstream": ("scripted", "scripted"),
    "default_model": ("gpt-6-sol", "gpt-6-sol"),
    "default_temperature": ("0.7", 0.7),
    "default_max_tokens": ("500", 500),
    "system_prompt": ("Answer in verse: roses = red.", "Answer in verse: roses = red."),
    "store_url": ("memory://other", "memory://other"),
    "database_url": ("chatbot.db", "chatbot.db"),
    "lease_seconds": ("5", 5.0),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("8000", 8000),
    "metrics_port": ("9100", 9100),
    "web_concurrency": ("4", 4),
    "trusted_proxies": ("1", 1),
    "public_url": ("https://chat.example.com", "https://chat.example.com"),
    "render_external_url": ("https://chat.onrender.com", "https://chat.onrender.com"),
    "admin_key": ("an administrator's key", "an administrator's key"),
    "max_client_conversations": ("10", 10),
    "max_client_messages": ("1000", 1000),
    "max_client_bytes": ("1000000", 1_000_000),
    "max_client_open_runs": ("10", 10),
    "max_client_streams": ("10", 10),
    "retention_days": ("30", 30.0),
    "allow_open": ("true", True),
    "allowed_hosts": ("bot.example.com, *.a.example", ("bot.example.com", "*.a.example")),
    "cors_origins": ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
    "max_context_messages": ("20", 20),
    "query_deadline_seconds": ("12.5", 12.5),
    "run_timeout_seconds": ("60", 60.0),
    "graceful_seconds": ("5", 5.0),
    "client_timeout_seconds": ("5", 5.0),
    "session_timeout_hours": ("0.5", 0.5),
    "stream_ttl_seconds": ("90", 90.0),
    "assistant_id": ("asst_mine", "asst_mine"),
    "assistant_instructions": ("Answer in one word.", "Answer in one word."),
    "max_waiting_runs": ("3", 3),
    "max_concurrent_runs": ("7", 7),
    "rate_limit": ("60/minute", "60/minute"),
    "daily_token_budget": ("1000000", 1_000_000),
    "max_conversations": ("9", 9),
    "max_records": ("11", 11),
    "max_input_chars": ("1000", 1000),
    "max_body_bytes": ("2048", 2048),
    "max_import_bytes": ("2048", 2048),
    "models_ttl_seconds": ("30", 30.0),
    "log_level": ("debug", "debug"),
}
"""For each setting, a text that is not its default, and what it means."""

EDGES: dict[str, tuple[str, str, str, str]] = {
    "default_temperature": ("-0.1", "0", "2", "2.1"),
    "default_max_tokens": ("0", "1", "1000000000", "1000000001"),
    "port": ("0", "1", "65535", "65536"),
    "metrics_port": ("0", "1", "65535", "65536"),
    "web_concurrency": ("0", "1", "1024", "1025"),
    "trusted_proxies": ("-1", "0", "16", "17"),
    "max_context_messages": ("1", "2", "1000000000", "1000000001"),
    "max_client_conversations": ("0", "1", "1000000000", "1000000001"),
    "max_client_messages": ("1", "2", "1000000000", "1000000001"),
    "max_client_bytes": ("1023", "1024", "1000000000000000", "1000000000000001"),
    "max_client_open_runs": ("0", "1", "1000000000", "1000000001"),
    "max_client_streams": ("0", "1", "1000000000", "1000000001"),
    "retention_days": ("0.009", "0.01", "36500", "36500.1"),
    "query_deadline_seconds": ("-0.1", "0", "86400", "86400.1"),
    "run_timeout_seconds": ("0.9", "1", "86400", "86400.1"),
    "lease_seconds": ("0.9", "1", "3600", "3600.1"),
    "graceful_seconds": ("-0.1", "0", "3600", "3600.1"),
    "client_timeout_seconds": ("0.9", "1", "3600", "3600.1"),
    "session_timeout_hours": ("0.009", "0.01", "87600", "87600.1"),
    "stream_ttl_seconds": ("0.9", "1", "31536000", "31536000.1"),
    "max_waiting_runs": ("-1", "0", "1000000000", "1000000001"),
    "max_concurrent_runs": ("0", "1", "100000", "100001"),
    "daily_token_budget": ("0", "1", "1000000000000", "1000000000001"),
    "max_conversations": ("0", "1", "1000000000", "1000000001"),
    "max_records": ("-1", "0", "1000000000", "1000000001"),
    "max_input_chars": ("0", "1", "1000000000", "1000000001"),
    "max_body_bytes": ("1023", "1024", "1000000000", "1000000001"),
    "max_import_bytes": ("1023", "1024", "100000000000", "100000000001"),
    "models_ttl_seconds": ("-0.1", "0", "86400", "86400.1"),
}
"""For each number: too little, the least, the most, too much."""


def refusal(name: str, text: str) -> str:
    """The words with which a text is refused."""
    with pytest.raises(ValueError) as refused:
        Settings.from_env({name.upper(): text})
    assert refused.value.__cause__ is None
    return str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_is_read_from_the_variable_of_its_name_and_changes_no_other(name: str) -> None:
    text, meaning = CHOSEN[name]
    chosen = Settings.from_env({name.upper(): text})
    assert getattr(chosen, name) == meaning != getattr(Settings(), name)
    assert [each for each in NAMES if getattr(chosen, each) != getattr(Settings(), each)] == [name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", "  ", "\t\n", None], ids=["empty", "blank", "tab", "without a value"])
def test_an_empty_variable_leaves_the_default(name: str, text: str | None) -> None:
    assert Settings.from_env({name.upper(): text}) == Settings()


def test_no_variable_at_all_leaves_every_default() -> None:
    assert Settings.from_env({}) == Settings()


def test_other_variables_and_lower_case_names_say_nothing() -> None:
    assert Settings.from_env({"PATH": "/bin", "port": "8000", "OPENAI_API_KEYS": "sk-1"}) == Settings()


@pytest.mark.parametrize("name", ["openai_api_key", "default_model", "port", "upstream", "cors_origins"])
def test_blanks_around_a_value_do_not_count(name: str) -> None:
    text, meaning = CHOSEN[name]
    assert getattr(Settings.from_env({name.upper(): f" {text}\n"}), name) == meaning


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "text", ["secret-word", "1,5", "0x10", "12 apples", "--3", "1e", "1_0", "1 0", "٣", "１", "9" * 5000]
)
def test_what_is_no_number_is_refused_by_name_and_never_shown(name: str, text: str) -> None:
    told = refusal(name, text)
    assert told.startswith(f"{name.upper()}: must be a")
    assert text not in told


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize("text", ["7.5", "1e3", "7.0"])
def test_a_whole_number_has_no_fraction(name: str, text: str) -> None:
    assert refusal(name, text) == f"{name.upper()}: must be a whole number"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "Infinity", "1e999"])
def test_neither_infinity_nor_nan_is_a_number_here(name: str, text: str) -> None:
    assert refusal(name, text).startswith(f"{name.upper()}: must be")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_bounds_and_they_belong_to_it(name: str) -> None:
    too_little, least, most, too_much = EDGES[name]
    for text in (least, most):
        assert getattr(Settings.from_env({name.upper(): text}), name) == float(text)
    for text in (too_little, too_much):
        assert refusal(name, text).startswith(f"{name.upper()}: must be between ")


@pytest.mark.parametrize("name", NUMBERS)
def test_bounds_hold_for_settings_made_without_an_environment(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name.upper()}: must be between "):
        Settings(**{name: float(EDGES[name][3])})


@pytest.mark.parametrize(
    ("name", "choices"),
    [("upstream", ["openai", "scripted"]), ("log_level", ["debug", "info", "warning", "error"])],
)
def test_a_choice_is_one_of_its_words(name: str, choices: list[str]) -> None:
    for text in choices:
        assert getattr(Settings.from_env({name.upper(): text}), name) == text
    told = refusal(name, "secret-word")
    assert told == f"{name.upper()}: say one of {', '.join(choices)}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://a.example", ("https://a.example",)),
        ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
        (" https://a.example , ,https://b.example, ", ("https://a.example", "https://b.example")),
        ('["https://a.example", "https://b.example"]', ("https://a.example", "https://b.example")),
        ('["https://a.example"]', ("https://a.example",)),
        ("[]", ()),
        ("[::1], bot.example", ("[::1]", "bot.example")),
        ("[fe80::1:2]:10000", ("[fe80::1:2]:10000",)),
        ('["[::1]"]', ("[::1]",)),
        ("[ ]", ()),
        ('["", " "]', ()),
        ('[" https://a.example "]', ("https://a.example",)),
        (",", ()),
        ("*", ("*",)),
    ],
)
def test_a_list_is_a_comma_list_or_a_json_list(text: str, words: tuple[str, ...]) -> None:
    assert parse(text, tuple[str, ...]) == words


@pytest.mark.parametrize("text", ["[secret-word", '["secret-word"', '["secret-word", 7]', "[[]]", "[null]"])
def test_a_list_that_is_no_list_of_words_is_refused_by_name_and_never_shown(text: str) -> None:
    told = refusal("cors_origins", text)
    assert told.startswith("CORS_ORIGINS: ")
    assert "secret-word" not in told


def test_the_key_is_not_in_what_settings_show_of_themselves() -> None:
    shown = Settings.from_env({"OPENAI_API_KEY": "sk-very-secret", "DEFAULT_MODEL": "gpt-6-sol"})
    assert "sk-very-secret" not in repr(shown)
    assert "gpt-6-sol" in repr(shown)


@pytest.mark.parametrize("name", ["openai_base_url", "llm_server_url"])
@pytest.mark.parametrize(
    "text",
    [
        "localhost:11434/v1",
        "ftp://host/v1",
        "http://",
        "https:///v1",
        "http://a b/v1",
        "http://h:99999",
        "http://h:0",
        "x",
    ],
)
def test_an_address_of_the_upstream_is_one(name: str, text: str) -> None:
    said = f"{name.upper()}: must be an address such as http://localhost:11434/v1"
    assert refusal(name, text) == said


@pytest.mark.parametrize("text", ["http://host", "HTTPS://host:8443/v1/", "http://[::1]:8000/v1", "http://집.kr/v1"])
def test_an_address_of_the_upstream_may_be_of_any_kind(text: str) -> None:
    assert Settings.from_env({"OPENAI_BASE_URL": text}).openai_base_url == text


@pytest.mark.parametrize("text", ["sk-“quoted”", "sk-\x00", "sk-a\nsk-b", "열쇠"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(text: str) -> None:
    assert refusal("openai_api_key", text) == "OPENAI_API_KEY: must have no characters but those of ASCII"


@pytest.mark.parametrize("name", NAMES)
def test_settings_do_not_change_once_they_are_read(name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(Settings(), name, CHOSEN[name][1])


@pytest.mark.parametrize("text", ["short", "x" * 15])
def test_an_administrators_key_that_can_be_guessed_is_refused_and_not_shown(text: str) -> None:
    assert refusal("admin_key", text) == "ADMIN_KEY: must have at least 16 characters; `openssl rand -hex 32` makes one"


@pytest.mark.parametrize(
    ("text", "meaning"), [("true", True), ("YES", True), ("1", True), ("false", False), ("0", False)]
)
def test_a_truth_is_read_from_its_usual_words(text: str, meaning: bool) -> None:
    assert Settings.from_env({"ALLOW_OPEN": text}).allow_open is meaning


@pytest.mark.parametrize("text", ["maybe", "on please", "2"])
def test_what_is_no_truth_is_refused(text: str) -> None:
    assert refusal("allow_open", text) == "ALLOW_OPEN: must be true or false"


def test_custom_headers_are_one_a_line() -> None:
    chosen = Settings.from_env({"OPENAI_CUSTOM_HEADERS": " api-key: a: b \r\n\n X-Team:blue\nX-None:"})
    assert chosen.upstream_headers == {"api-key": "a: b", "X-Team": "blue", "X-None": ""}
    assert Settings().upstream_headers == {}


@pytest.mark.parametrize("text", ["no colon", ": x", "a b: c", "x: 한", "ok: 1\nno colon", "x: a\x00b", "x: a\rb: c"])
def test_custom_headers_that_are_none_are_refused_by_name_and_never_shown(text: str) -> None:
    assert refusal("openai_custom_headers", text) == "OPENAI_CUSTOM_HEADERS: must be lines such as api-key: abc"


@pytest.mark.parametrize("name", ["openai_api_key", "openai_org_id", "openai_project_id"])
def test_what_goes_into_a_header_is_ascii(name: str) -> None:
    assert refusal(name, "sk-한") == f"{name.upper()}: must have no characters but those of ASCII"


def test_a_refusal_shows_nothing_of_the_other_variables() -> None:
    with pytest.raises(ValueError) as refused:
        Settings.from_env({"PORT": "none", "OPENAI_API_KEY": "sk-very-secret"})
    assert str(refused.value) == "PORT: must be a whole number"


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "memory://"),
        ({"DATABASE_URL": "chatbot.db"}, "sqlite:///chatbot.db"),
        ({"DATABASE_URL": "/data/chatbot.db"}, "sqlite:////data/chatbot.db"),
        ({"DATABASE_URL": "sqlite:///chatbot.db"}, "sqlite:///chatbot.db"),
        ({"DATABASE_URL": "chatbot.db", "STORE_URL": "redis://localhost"}, "redis://localhost"),
        ({"DATABASE_URL": "postgres://user:secret@host/db"}, "memory://"),
        ({"DATABASE_URL": "postgres://user:secret@host/db", "STORE_URL": "sqlite:///a.db"}, "sqlite:///a.db"),
    ],
)
def test_a_database_url_names_an_sqlite_file_where_no_store_url_does(env: dict[str, str], url: str) -> None:
    assert Settings.from_env(env).effective_store_url == url


@pytest.mark.parametrize(
    ("url", "is_ignored"),
    [("", False), ("chatbot.db", False), ("sqlite:///chatbot.db", False), ("postgres://user:secret@host/db", True)],
)
def test_a_database_url_of_another_kind_is_ignored(url: str, is_ignored: bool) -> None:
    assert Settings(database_url=url).ignores_database_url is is_ignored


@pytest.mark.parametrize(("name", "text"), [("log_level", "INFO"), ("log_level", "Debug"), ("upstream", "Scripted")])
def test_a_choice_is_read_whatever_its_case(name: str, text: str) -> None:
    assert getattr(Settings.from_env({name.upper(): text}), name) == text.lower()


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("", "127.0.0.1:10000"),
        ("0.0.0.0", "0.0.0.0:10000"),
        ("::", "[::]:10000"),
        ("::1", "[::1]:10000"),
        ("fe80::1%eth0", "[fe80::1%eth0]:10000"),
        ("localhost", "localhost:10000"),
        ("my-machine.local", "my-machine.local:10000"),
    ],
)
def test_a_host_is_a_name_or_an_address_of_either_kind(text: str, bind: str) -> None:
    assert Settings.from_env({"HOST": text}).bind == bind


@pytest.mark.parametrize(
    "text",
    [
        "http://0.0.0.0",
        "https://bot.example.com",
        "0.0.0.0:8000",
        "localhost:8000",
        "[::1]",
        "[::1]:8000",
        "my machine",
        "0.0.0.0 ::",
        "0.0.0.0,::1",
        "127.0.0",
        "256.0.0.1",
        "127.0.0.1/8",
        "*",
        "unix:/tmp/socket",
        "/tmp/socket",
        "user@host",
        ":",
        ":::",
        "-host",
        "a..b",
        "a" * 300,
    ],
)
def test_a_host_with_anything_else_is_refused_by_name_and_not_shown(text: str) -> None:
    said = "HOST: must be an address such as 127.0.0.1 or ::1, without scheme, port or brackets"
    assert refusal("host", text) == said


@pytest.mark.parametrize("name", ["public_url", "render_external_url"])
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://bot.example.com", "https://bot.example.com"),
        ("HTTPS://Bot.Example.com:8443/", "https://bot.example.com:8443"),
        ("http://bot.example.com/under/this/", "http://bot.example.com/under/this"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("https://봇.example", "https://xn--7n3b.example"),
    ],
)
def test_a_public_address_is_one_of_http(name: str, text: str, address: str) -> None:
    assert [each.address for each in Settings.from_env({name.upper(): text}).sites] == [address]


@pytest.mark.parametrize("name", ["public_url", "render_external_url"])
@pytest.mark.parametrize(
    "text",
    [
        "bot.example.com",
        "bot.example.com:8443",
        "://bot.example.com",
        "//bot.example.com",
        "localhost:10000",
        "ftp://bot.example.com",
        "https://",
        "https:///path",
        "https:bot.example.com",
        "https://bot.example.com?a=1",
        "https://bot.example.com/#top",
        "https://user@bot.example.com",
        "https://user:secret@bot.example.com",
        "https://bot.example.com:0",
        "https://bot.example.com:65536",
        "https://bot.example.com:port",
        "https://bot example.com",
        "https://bot.example.com/a b",
        "https://bot.example.com/<a>",
        "https://*.example.com",
        "https://a.example, https://b.example",
        "https://[bot.example.com]",
    ],
)
def test_what_is_no_public_address_is_refused_by_name_and_not_shown(name: str, text: str) -> None:
    told = refusal(name, text)
    assert told.startswith(f"{name.upper()}: must be an address such as https://bot.")
    assert "secret" not in told


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example",
        "a.example:80",
        "a.example/path",
        "*a.example",
        "a.*.example",
        "**",
        ".a.example",
        "a b",
    ],
)
def test_an_allowed_host_that_is_none_is_refused_by_name(text: str) -> None:
    assert refusal("allowed_hosts", text).startswith("ALLOWED_HOSTS: must be hosts such as bot.example.com")


@pytest.mark.parametrize("name", ["store_url", "database_url"])
@pytest.mark.parametrize(
    "text", ["sqlite:", "sqlite://", "sqlite:///", "sqlite:chatbot.db", "sqlite://chatbot.db", "sqlite:///:memory:"]
)
def test_an_sqlite_address_without_a_file_is_refused_by_name(name: str, text: str) -> None:
    assert refusal(name, text).startswith(f"{name.upper()}: must be such as ")


@pytest.mark.parametrize("text", ["asst mine", "asst/mine", "asst?", "asst#1", "a" * 257, "조수", "asst%20"])
def test_an_assistants_id_must_stand_in_an_address_as_it_is(text: str) -> None:
    assert refusal("assistant_id", text).startswith("ASSISTANT_ID: must be at most 256 letters")


TEXTS = [each.name for each in fields(Settings) if each.type is str]
OF_SEVERAL_LINES = ["system_prompt", "assistant_instructions"]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["a\x00b", "a\x07b", "a\x7fb", "a\x85b", "a\rb"])
def test_control_characters_are_refused_by_name(name: str, text: str) -> None:
    if name in OF_SEVERAL_LINES and "\0" not in text:
        assert getattr(Settings.from_env({name.upper(): text}), name) == text
    else:
        assert refusal(name, text).startswith(f"{name.upper()}: ")


@pytest.mark.parametrize("name", TEXTS)
def test_bytes_that_are_no_utf8_are_refused_by_name(name: str) -> None:
    assert refusal(name, "a\udcb4b").startswith(f"{name.upper()}: ")


def test_lines_of_a_prompt_are_kept() -> None:
    for name in OF_SEVERAL_LINES:
        assert getattr(Settings.from_env({name.upper(): "one\n\ttwo"}), name) == "one\n\ttwo"


def test_the_address_of_a_store_may_hold_a_password_and_is_not_shown() -> None:
    assert "secret" not in repr(Settings(store_url="redis://:secret@host"))
