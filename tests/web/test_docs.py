"""`/docs` and `/redoc`: pages over every document, which load nothing from elsewhere."""

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, expect

from scripts.fetch_vendor import kept_name
from server.dialects.documents import DOCUMENTS
from server.web.pages import FILES, address_of
from tests.support.browser import launch_chromium, visit
from tests.support.process import ROOT, ServerProcess, serve

WEB = ROOT / "server" / "web"
VENDOR = WEB / "vendor"
PACKAGES: list[dict[str, Any]] = json.loads((VENDOR / "versions.json").read_text())
PAGES = ["/docs", "/redoc", *(f"/redoc?document={name}" for name in DOCUMENTS)]
CONTENTS: dict[str, dict[str, Any]] = {name: json.loads(path.read_text()) for name, path in DOCUMENTS.items()}
TITLES = {name: content["info"]["title"] for name, content in CONTENTS.items()}


def operations(name: str) -> list[dict[str, Any]]:
    return [each for item in CONTENTS[name]["paths"].values() for each in item.values()]


def policy(client: FlaskClient, page: str) -> dict[str, list[str]]:
    """The sources of each directive."""
    directives = client.get(page).headers["Content-Security-Policy"].split(";")
    return {name: sources for name, *sources in map(str.split, directives)}


class TestPages:
    @pytest.mark.parametrize("page", PAGES)
    def test_each_is_html_under_a_policy_that_lets_nothing_in_from_elsewhere(
        self, client: FlaskClient, page: str
    ) -> None:
        answer = client.get(page)
        assert (answer.status_code, answer.mimetype) == (200, "text/html")
        said = policy(client, page)
        assert said["default-src"] == said["base-uri"] == said["frame-ancestors"] == ["'none'"]
        assert said["script-src"] == said["connect-src"] == ["'self'"]
        allowed = {"'none'", "'self'", "'unsafe-hashes'", "data:"}
        others = {source for sources in said.values() for source in sources} - allowed
        assert [each for each in others if not re.fullmatch(r"'(nonce|sha256)-[\w+/=-]+'", each)] == []

    @pytest.mark.parametrize("page", PAGES)
    def test_each_address_in_it_is_one_of_ours_and_answers(self, client: FlaskClient, page: str) -> None:
        addresses = re.findall(r'(?:src|href|data-url)="([^"]+)"', client.get(page).text)
        own = [each for each in addresses if each != "data:,"]
        assert own
        assert [each for each in own if ":" in each or each.startswith("/")] == []
        assert [each for each in own if client.get(f"/{each}").status_code != 200] == []

    def test_the_published_document_comes_first(self, client: FlaskClient) -> None:
        listed = re.findall(r"data-documents='(.+?)'", client.get("/docs").text)
        assert [each["name"] for each in json.loads(listed[0])] == list(TITLES.values())
        assert next(iter(TITLES)) == "published"

    def test_no_two_documents_have_the_same_title(self) -> None:
        assert len(set(TITLES.values())) == len(TITLES)

    def test_a_document_that_there_is_not_is_not_found(self, client: FlaskClient) -> None:
        for name in ("unknown", "..", "<script>", "/chat"):
            answer = client.get("/redoc", query_string={"document": name})
            assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")

    def test_each_page_of_redoc_has_a_nonce_of_its_own_and_in_its_policy(self, client: FlaskClient) -> None:
        nonces = set()
        for _ in range(3):
            answer = client.get("/redoc")
            (nonce,) = re.findall(r'nonce="([^"]+)"', answer.text)
            assert f"'nonce-{nonce}'" in answer.headers["Content-Security-Policy"]
            nonces.add(nonce)
        assert len(nonces) == 3

    def test_the_root_tells_where_they_are(self, client: FlaskClient) -> None:
        told = client.get("/").get_json()
        assert [client.get(told[page]).mimetype for page in ("docs", "redoc")] == ["text/html", "text/html"]


class TestFiles:
    @pytest.mark.parametrize("name", FILES)
    def test_each_has_its_type_and_is_asked_for_once(self, client: FlaskClient, name: str) -> None:
        answer = client.get(f"/web/0/{name}")
        kind = {"js": "text/javascript", "css": "text/css"}[name.rpartition(".")[2]]
        assert (answer.status_code, answer.mimetype) == (200, kind)
        assert answer.data == FILES[name].read_bytes()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "Date" not in answer.headers
        again = client.get(f"/web/0/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")

    def test_one_that_the_browser_has_in_another_version_is_sent(self, client: FlaskClient) -> None:
        answer = client.get("/web/0/docs.js", headers={"If-None-Match": '"another"'})
        assert (answer.status_code, answer.data) == (200, FILES["docs.js"].read_bytes())

    @pytest.mark.parametrize(
        "name",
        ["nothing.js", "docs.html", "pages.py", "versions.json", "LICENSE", "vendor", "..", "%2e%2e", "..%2fapp.py"],
    )
    def test_there_is_no_other(self, client: FlaskClient, name: str) -> None:
        answer = client.get(f"/web/0/{name}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")

    def test_a_caller_that_accepts_it_gets_them_compressed(self, client: FlaskClient) -> None:
        for address in ("docs", address_of("redoc.standalone.js")):
            plain = client.get(f"/{address}")
            compressed = client.get(f"/{address}", headers={"Accept-Encoding": "br, gzip"})
            assert compressed.headers["Content-Encoding"] == "gzip"
            assert plain.headers["Vary"] == compressed.headers["Vary"] == "Accept-Encoding"
            assert (gzip.decompress(compressed.data), len(compressed.data) < len(plain.data)) == (plain.data, True)
            again = client.get(
                f"/{address}", headers={"Accept-Encoding": "gzip", "If-None-Match": compressed.headers["ETag"]}
            )
            assert (again.status_code, again.headers["ETag"]) == (304, compressed.headers["ETag"])
            refused = client.get(f"/{address}", headers={"Accept-Encoding": "gzip;q=0"})
            assert "Content-Encoding" not in refused.headers

    def test_no_two_have_the_same_name(self) -> None:
        found = [path.name for path in WEB.rglob("*") if path.suffix in (".js", ".css") and path.is_file()]
        assert sorted(found) == sorted(FILES)


class TestVendor:
    def test_every_file_of_others_is_what_its_hash_says_and_none_is_unlisted(self) -> None:
        listed = {
            f"{package['name']}/{kept_name(package['name'], path)}": sha256
            for package in PACKAGES
            for path, sha256 in package["files"].items()
        }
        found = {
            str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in VENDOR.rglob("*/*")
            if path.is_file() and path.parent.name != "__pycache__"
        }
        assert found == listed

    def test_each_package_is_of_one_version_and_comes_with_its_license(self) -> None:
        for package in PACKAGES:
            assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
            assert package["license"]
            assert {"LICENSE", "LICENSE.md"} & package["files"].keys()

    def fetched(self, folder: Path, content: bytes) -> subprocess.CompletedProcess[str]:
        """`fetch_vendor.py` for `kind` 1.2.3, whose one file is listed as holding b"as ever" and holds `content`."""
        vendor = folder / "server/web/vendor"
        vendor.mkdir(parents=True)
        (folder / "scripts").mkdir()
        (folder / "scripts/fetch_vendor.py").write_bytes((ROOT / "scripts/fetch_vendor.py").read_bytes())
        sha256 = hashlib.sha256(b"as ever").hexdigest()
        listed = [{"name": "kind", "version": "1.2.3", "license": "MIT", "files": {"lib/it.js": sha256}}]
        (vendor / "versions.json").write_text(json.dumps(listed))
        with tarfile.open(folder / "archive", "w:gz") as archive:
            member = tarfile.TarInfo("package/lib/it.js")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        npm = folder / "npm"
        npm.write_text(f'#!/bin/sh\n[ "$*" = "pack --silent kind@1.2.3" ] && cp {folder}/archive kind-1.2.3.tgz\n')
        npm.chmod(0o755)
        env = {"PATH": f"{folder}:/usr/bin:/bin"}
        return subprocess.run(
            [sys.executable, folder / "scripts/fetch_vendor.py"], env=env, capture_output=True, text=True, timeout=30
        )

    def test_they_can_be_fetched_again_by_name_and_version(self, tmp_path: Path) -> None:
        ran = self.fetched(tmp_path, b"as ever")
        assert ran.returncode == 0, ran.stderr
        assert (tmp_path / "server/web/vendor/kind" / "it.js").read_bytes() == b"as ever"

    def test_one_with_another_hash_is_refused_and_named(self, tmp_path: Path) -> None:
        ran = self.fetched(tmp_path, b"not as ever")
        assert ran.returncode == 1
        assert "kind@1.2.3 is not what versions.json says" in ran.stderr
        assert hashlib.sha256(b"not as ever").hexdigest() in ran.stderr
        assert not (tmp_path / "server/web/vendor/kind" / "it.js").exists()


@pytest.fixture(scope="module")
def served() -> Iterator[ServerProcess]:
    """A server that is told another public address than the one at which the pages are opened."""
    with serve(UPSTREAM="scripted", PUBLIC_URL="https://chat.example.com", ALLOW_OPEN="true") as served:
        yield served


@pytest.fixture(scope="class")
def page(request: pytest.FixtureRequest, browser: Browser, served: ServerProcess) -> Iterator[Page]:
    """The page that a class is about, opened once: its tests stand in the order in which they use it."""
    with visit(browser, f"{served.url}{request.cls.path}") as page:
        yield page


def assert_fits_a_narrow_screen(page: Page) -> None:
    width = 390
    page.set_viewport_size({"width": width, "height": 844})
    expect(page.get_by_role("heading", name=TITLES["published"]).first).to_be_visible()
    page.wait_for_function(f"document.documentElement.scrollWidth === {width} && innerWidth === {width}")


class TestDocs:
    path = "/docs"

    def test_every_document_is_in_the_list_with_all_its_operations_and_the_address_keeps_the_choice(
        self, page: Page
    ) -> None:
        choice = page.locator("select#select")
        expect(choice.locator("option")).to_have_text(list(TITLES.values()))
        expect(page.locator(".info .title")).to_contain_text(TITLES["published"])
        *_, last = TITLES
        for name, title in reversed(TITLES.items()):
            choice.select_option(label=title)
            expect(page.locator(".info .title")).to_contain_text(title)
            expect(page.locator(".opblock")).to_have_count(len(operations(name)))
            shown = page.locator(".opblock-summary-description").all_text_contents()
            assert sorted(shown) == sorted(each["summary"] for each in operations(name))
            if name == last:
                page.reload()
                expect(page.locator(".info .title")).to_contain_text(title)

    def test_an_operation_can_be_tried_out_wherever_the_page_was_opened(self, page: Page) -> None:
        page.locator(".opblock-summary", has_text="Tell the current model").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        answer = page.locator(".live-responses-table .response")
        expect(answer.locator(".response-col_status")).to_contain_text("200")
        expect(answer.locator(".microlight").first).to_contain_text('"model": "scripted-demo"')

    def test_on_a_narrow_screen_nothing_lies_beside_it(self, page: Page) -> None:
        assert_fits_a_narrow_screen(page)


class TestTryingOutWithAKey:
    ADMIN_KEY = "an administrator's long key"

    def try_out(self, page: Page) -> str:
        """The status of an operation."""
        operation = page.locator(".opblock", has_text="Tell the current model")
        if not operation.get_by_role("button", name="Execute").is_visible():
            operation.locator(".opblock-summary").click()
            operation.get_by_role("button", name="Try it out").click()
        with page.expect_response(re.compile("/model")) as answer:
            operation.get_by_role("button", name="Execute").click()
        self.sent = answer.value.request.all_headers().get("authorization")
        status = operation.locator(".live-responses-table .response .response-col_status")
        expect(status).to_contain_text(str(answer.value.status))
        return str(answer.value.status)

    def test_the_key_that_was_given_goes_with_requests_and_is_kept_nowhere(self, browser: Browser) -> None:
        refusals = "Failed to load resource: the server responded with a status of 401"
        server = serve(UPSTREAM="scripted", ADMIN_KEY=self.ADMIN_KEY)
        with server as served, visit(browser, f"{served.url}/docs", ignored=refusals) as page:
            assert (self.try_out(page), self.sent) == ("401", None)
            page.get_by_role("button", name="Authorize", exact=True).click()
            dialog = page.locator(".modal-ux")
            dialog.get_by_role("textbox").fill(self.ADMIN_KEY)
            dialog.get_by_role("button", name="Apply credentials").click()
            dialog.get_by_role("button", name="Close").click()
            assert (self.try_out(page), self.sent) == ("200", f"Bearer {self.ADMIN_KEY}")
            kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
            assert (kept, page.context.cookies()) == ("[{},{}]", [])
            page.goto(f"{served.url}/docs")
            assert (self.try_out(page), self.sent) == ("401", None)


class TestRedoc:
    path = "/redoc"

    def test_every_document_is_a_link_away_and_shown_with_all_its_operations(self, page: Page) -> None:
        links = page.get_by_role("navigation", name="Documents").get_by_role("link")
        assert links.all_text_contents()[: len(TITLES)] == list(TITLES.values())
        expect(page.locator("nav [aria-current=page]")).to_have_text(TITLES["published"])
        expect(page.locator("h1").first).to_contain_text(TITLES["published"])
        for name, title in reversed(TITLES.items()):
            links.filter(has_text=title).click()
            expect(page.locator("nav [aria-current=page]")).to_have_text(title)
            expect(page.locator("h1").first).to_contain_text(title)
            listed = page.locator(".menu-content [data-component-name='Menu/MenuItem']")
            expect(listed).to_contain_text([title, *(each["summary"] for each in operations(name))])

    def test_its_search_finds_an_operation(self, page: Page) -> None:
        expect(page.locator("h1").first).to_contain_text(TITLES["published"])
        page.keyboard.press("Control+k")
        page.keyboard.type("Clear")
        expect(page.get_by_role("link", name="DELETE /history")).to_be_visible()
        page.keyboard.press("Escape")

    def test_on_a_narrow_screen_nothing_lies_beside_it(self, page: Page) -> None:
        assert_fits_a_narrow_screen(page)


def test_a_page_that_asks_elsewhere_or_breaks_its_policy_would_be_noticed(
    browser: Browser, served: ServerProcess
) -> None:
    with pytest.raises(AssertionError) as noticed, visit(browser, f"{served.url}/docs") as page:
        page.evaluate(
            "new Promise((end) => Object.assign(new Image(), { onerror: end, src: 'https://else.example/' }))"
        )
    assert "forbidden: img-src" in str(noticed.value)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_where_there_is_no_browser_the_tests_of_the_pages_are_skipped_and_in_ci_they_fail(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install chromium"), launch_chromium():
        pass
