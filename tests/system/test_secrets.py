"""No secret of the operator is in a log, in an answer or in what Python prints of an object."""

import json
from typing import Any

import pytest

from server.settings import Settings
from server.upstream.client import Account
from tests.support.process import free_port, serve
from tests.support.redis_server import needs_redis, redis_server

WORD = "Xylophonxylophon"
"""It is in every secret, and nowhere else."""

SECRETS = {
    "openai_api_key": f"sk-{WORD}",
    "admin_key": WORD,
    "openai_custom_headers": f"api-key: {WORD}",
    "openai_base_url": f"http://{WORD}:{WORD}@127.0.0.1:1/v1?api-key={WORD}",
    "llm_server_url": f"http://{WORD}:{WORD}@127.0.0.1:1/v1?api-key={WORD}",
    "store_url": f"rediss://:{WORD}@127.0.0.1:1",
    "database_url": f"postgres://{WORD}:{WORD}@127.0.0.1:1/chat",
}
"""Settings that are secrets, or may contain one."""


def test_python_shows_no_secret_of_settings_nor_of_the_account() -> None:
    shown = repr(Settings(**SECRETS))
    assert "Settings(" in shown
    account = repr(Account(WORD, f"http://{WORD}/", headers={"api-key": WORD}))
    assert "Account(" in account
    assert WORD not in shown + account


@needs_redis
@pytest.mark.parametrize("password", [WORD, "another"], ids=["the store answers", "the store refuses the password"])
def test_neither_log_nor_answers_have_a_secret_whatever_fails(password: str) -> None:
    """The upstream does not answer; at `debug`, which logs most."""
    port = free_port()
    with redis_server(requirepass=password) as redis:
        secrets = {
            "ADMIN_KEY": WORD,
            "OPENAI_API_KEY": f"sk-{WORD}",
            "OPENAI_CUSTOM_HEADERS": f"api-key: {WORD}",
            "OPENAI_BASE_URL": f"http://{WORD}:{WORD}@127.0.0.1:{port}/v1?api-key={WORD}",
            "STORE_URL": f"redis://:{WORD}@127.0.0.1:{redis.port}",
            "DATABASE_URL": f"postgres://{WORD}:{WORD}@127.0.0.1:{port}/chat",
        }
        with serve(LOG_LEVEL="debug", **secrets) as server:
            answers: list[Any] = [server.ask("GET", path) for path in ("/health", "/readyz", "/models", "/")]
            answers += [server.query("ada", "hi"), server.ask("GET", "/history?client_name=ada")]
            assert server.stop() == 0
            told = server.log() + json.dumps(answers)
    assert "upstream: " in told or "redis failed: " in told
    assert WORD not in told
