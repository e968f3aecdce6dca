"""Links keep the path beneath which callers find the server, whether a proxy or PUBLIC_URL tells it."""

import re
from typing import Any
from urllib.parse import urljoin

import pytest
from flask.testing import FlaskClient

from server.app import create_app
from server.settings import Settings

HERE = "http://localhost"

TOLD = {"X-Forwarded-Prefix": "/bot"}
WAYS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "a trusted proxy": ({"TRUSTED_PROXIES": "1"}, TOLD),
    "a trusted proxy that says too much": ({"TRUSTED_PROXIES": "1"}, {"X-Forwarded-Prefix": "/else, /bot/"}),
    "PUBLIC_URL": ({"PUBLIC_URL": "http://localhost/bot"}, {}),
    "PUBLIC_URL with a slash": ({"PUBLIC_URL": "http://localhost/bot/"}, {}),
    "RENDER_EXTERNAL_URL": ({"RENDER_EXTERNAL_URL": "http://localhost/bot"}, {}),
    "PUBLIC_URL, whatever the proxy says": (
        {"PUBLIC_URL": "http://localhost/bot", "TRUSTED_PROXIES": "1"},
        {"X-Forwarded-Prefix": "/else"},
    ),
}


class Beneath:
    """A server that callers find beneath `/bot`, as its proxy sees it, which takes that away."""

    def __init__(self, env: dict[str, str], headers: dict[str, str]) -> None:
        self._client = create_app(Settings.from_env({"UPSTREAM": "scripted", **env})).test_client()
        self._headers = headers

    def open(self, address: str, method: str = "GET", accept: str = "*/*", **values: Any) -> Any:
        assert address.startswith(f"{HERE}/bot/"), address
        path = address.removeprefix(f"{HERE}/bot")
        return self._client.open(path, method=method, headers={**self._headers, "Accept": accept}, **values)


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def beneath(request: pytest.FixtureRequest) -> Beneath:
    return Beneath(*request.param)


def test_the_link_to_older_messages_leads_to_them(beneath: Beneath) -> None:
    for question in ("one", "two"):
        asked = {"client_name": "ada", "input": question}
        assert beneath.open(f"{HERE}/bot/query", "POST", json=asked).status_code == 200
    asked_at = f"{HERE}/bot/history?client_name=ada&limit=2"
    link = re.fullmatch(r'<(/[^/].*)>; rel="next"', beneath.open(asked_at).headers["Link"])
    assert link is not None
    older = beneath.open(urljoin(asked_at, link[1])).json
    assert older[0]["content"] == "one"


def test_the_documents_tell_it(beneath: Beneath) -> None:
    for path in ("openapi.json", "chat/openapi.json"):
        assert beneath.open(f"{HERE}/bot/{path}").json["servers"] == [{"url": f"{HERE}/bot"}]


def test_the_root_leads_to_addresses_that_answer(beneath: Beneath) -> None:
    told = beneath.open(f"{HERE}/bot/").json
    addresses = [*told["documents"], told["openapi"], told["docs"], told["redoc"], told["health"]]
    assert [each for each in addresses if beneath.open(urljoin(HERE, each)).status_code != 200] == []


@pytest.mark.parametrize("page", ["docs", "redoc", "redoc?document=chat"])
def test_all_that_a_page_loads_is_found(beneath: Beneath, page: str) -> None:
    page = f"{HERE}/bot/{page}"
    text = beneath.open(page).text
    found = [each for each in re.findall(r'(?:src|href|data-url)="([^"]+)"', text) if each != "data:,"]
    found += re.findall(r'"url": ?"([^"]+)"', text)
    assert found
    assert [each for each in found if beneath.open(urljoin(page, each)).status_code != 200] == []


@pytest.mark.parametrize("page", [f"{HERE}/bot", f"{HERE}/bot/"])
def test_all_that_the_chat_page_loads_is_found_with_and_without_a_slash_at_its_end(beneath: Beneath, page: str) -> None:
    text = beneath.open(f"{HERE}/bot/", accept="text/html").text
    found = [each for each in re.findall(r'(?:src|href)="([^"]+)"', text) if not each.startswith("data:")]
    assert len(found) > 4
    assert [each for each in found if beneath.open(urljoin(page, each)).status_code != 200] == []


def answered(client: FlaskClient, prefix: str) -> str:
    link: str = client.get("/", headers={"X-Forwarded-Prefix": prefix}).json["openapi"]
    return link


def test_a_proxy_that_is_not_trusted_is_not_believed(client: FlaskClient) -> None:
    assert answered(client, "/bot") == "/openapi.json"


@pytest.mark.parametrize(
    ("prefix", "link"),
    [
        ("//stranger.org", "/stranger.org/openapi.json"),
        ("/", "/openapi.json"),
        ("bot", "/bot/openapi.json"),
        ("/a/b", "/a/b/openapi.json"),
        ("/a>b<c\\d", "/a%3Eb%3Cc%5Cd/openapi.json"),
        ("/a%20b", "/a%20b/openapi.json"),
        ("https://stranger.org", "/https://stranger.org/openapi.json"),
    ],
)
def test_whatever_a_proxy_says_remains_a_path_of_the_same_host(prefix: str, link: str) -> None:
    client = create_app(Settings.from_env({"UPSTREAM": "scripted", "TRUSTED_PROXIES": "1"})).test_client()
    assert answered(client, prefix) == link
