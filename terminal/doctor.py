"""`doctor`: looks at settings, key, port, model's server and store, and says what is wrong and what to do."""

import socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.text import Text

from terminal import words
from terminal.client import SET_KEY, Client, Refused, ServerDown, is_local
from terminal.commands import shutdown_of
from terminal.findings import Finding, bad, good, unsettled
from terminal.inert import make_inert_line
from terminal.local_settings import LocalSettings
from terminal.render import indent, wrap
from terminal.screen import make_console, terminal_size

SOON = timedelta(days=60)


def doctor(client: Client, _arguments: Namespace) -> int:
    """Print every finding. Returns 2 if the server is down or does not accept the key, 1 if something else is wrong."""
    settings = LocalSettings(Path.cwd()) if is_local(client.address) else None
    console = make_console()
    secrets = [*([client.key] if client.key else []), *(settings.secrets() if settings else [])]
    findings = []
    for finding in _examine(client, settings):
        findings.append(finding)
        for row in _describe(finding, secrets):
            console.print(row, soft_wrap=True)
    wrong = {finding.subject for finding in findings if finding.status == "failed"}
    told = "Nothing is wrong." if not wrong else f"Wrong: {', '.join(sorted(wrong))}."
    console.print(Text(told, "bold"), soft_wrap=True)
    return 2 if wrong & {"server", "access"} else int(bool(wrong))


def _examine(client: Client, settings: LocalSettings | None) -> Iterator[Finding]:
    local_store = None
    if settings is not None:
        found = [*settings.findings, settings.check_key()]
        yield from found
        local_store = settings.check_store()
        yield from settings.ask_server([*found, *([local_store] if local_store else [])])
    server = _check_server(client, settings)
    yield server
    if server.status == "failed":
        if local_store is not None:
            yield local_store
        return
    access = _check_access(client)
    yield access
    health = client.get("/health")
    yield _check_store(health["store"], local_store)
    if access.status == "failed":
        return  # Without a key, the server tells nothing of its models.
    yield from _check_upstream(client, health["openai_api"], settings)


def _check_server(client: Client, settings: LocalSettings | None) -> Finding:
    try:
        service = client.get("/")
    except ServerDown as problem:
        return _explain_silence(client, str(problem), settings)
    except Refused as error:
        advice = "Use an address that the server answers to, or add this one to its ALLOWED_HOSTS."
        return bad("server", error.sentence, advice if error.code == "misdirected_request" else "Check --server.")
    if not isinstance(service, dict) or service.get("service") != "conversation server":
        return _is_another(client)
    return good("server", f"{client.address} answers, version {service.get('version', 'unknown')}.")


def _explain_silence(client: Client, problem: str, settings: LocalSettings | None) -> Finding:
    parts = urlsplit(client.address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), 2).close()
    except socket.gaierror:
        return bad("server", f"There is no host {parts.hostname}.", "Check the name in --server.")
    except OSError:
        own = settings.get("PORT") if settings else ""
        if own and own != str(port):
            told = f"Nothing listens on port {port}, and PORT here is {own}."
            return bad("server", told, f"Use --server http://127.0.0.1:{own}, once `make run` has started the server.")
        advice = "Start it with `make run`." if settings else "Check --server, and whether the server runs."
        return bad("server", f"Nothing listens at {client.address}.", advice)
    return _is_another(client) if "no conversation server" in problem else bad("server", problem, "Look at its log.")


def _is_another(client: Client) -> Finding:
    told = f"Another program listens at {client.address}."
    return bad("server", told, "Start the server on another port: make run PORT=8000, and use --server with that port.")


def _check_access(client: Client) -> Finding:
    """Whether the server needs a key, and what that of the client opens."""
    try:
        if not client.needs_key():
            return _describe_open(client)
        if not client.key:
            return bad("access", "The server is protected, and no key is set here.", SET_KEY)
        caller = client.get("/caller")
    except Refused as error:
        if error.code == "unauthorized":
            advice = "Check that all of it was copied; it may also have expired or been deleted."
            return bad("access", "The server is protected, and does not accept the key.", advice)
        return bad("access", f"{error.sentence} ({error.code})", "Try again in a minute.")
    opened = "everything: it is the administrator's" if caller["is_admin"] else _describe_scope(caller["client_name"])
    told = f"The server is protected; the key is accepted, and opens {opened}."
    if client.address.startswith("http://") and not is_local(client.address):
        return unsettled("access", told, "It is sent without encryption; use an address with https.")
    return good("access", told)


def _describe_open(client: Client) -> Finding:
    if is_local(client.address):
        return good("access", "The server is open: it needs no key.")
    advice = "If that is not meant, set ADMIN_KEY on it; docs/access.md tells more."
    return unsettled("access", "The server is open to anybody who reaches its address.", advice)


def _describe_scope(scope: str) -> str:
    if scope == "*":
        return "every client_name"
    return f'every client_name that begins with "{scope[:-1]}"' if scope.endswith("*") else f'the client_name "{scope}"'


def _check_store(status: str, local: Finding | None) -> Finding:
    if status == "available":
        return local if local is not None and local.status == "completed" else good("store", "The store is available.")
    if status == "closing":
        return unsettled("store", "The server is shutting down.", "Ask again in a moment.")
    advice = "Check STORE_URL, and that its file or its Redis can be reached from the server; its log has the cause."
    return (
        local if local is not None and local.status == "failed" else bad("store", "The store is not available.", advice)
    )


def _check_upstream(client: Client, status: str, settings: LocalSettings | None) -> Iterator[Finding]:
    if status == "not_configured":
        advice = "Put OPENAI_API_KEY=sk-... into its file .env, and start it again."
        yield bad("model", "The running server has no model key, so every question fails.", advice)
        return
    try:
        models = client.models()
    except Refused as error:
        advice = "Check OPENAI_API_KEY, OPENAI_BASE_URL and the network of the server; its log has more."
        yield bad("model", f"{error.sentence} ({error.code})", advice)
        return
    if status != "connected":
        yield bad("model", "The model's server cannot be reached.", "Check OPENAI_BASE_URL and the server's network.")
        return
    yield good("model", f"The model's server answers, with {len(models)} model{'s' * (len(models) != 1)}.")
    yield from _check_models(models, settings)


def _check_models(models: list[dict[str, Any]], settings: LocalSettings | None) -> Iterator[Finding]:
    default = settings.get("DEFAULT_MODEL") if settings else ""
    if default and default not in {each["id"] for each in models}:
        yield bad("model", f"DEFAULT_MODEL is {default}, which is not offered.", "`models` lists those that are.")
    for model in models:
        end = shutdown_of(model)
        if model["id"] == default and end is not None and end < date.today() + SOON:
            told = f"{default} shuts down on {end.day} {end:%B} {end.year}."
            yield unsettled("model", told, "Set another DEFAULT_MODEL before.")


def _describe(finding: Finding, secrets: list[str]) -> Iterator[Text]:
    width = terminal_size()[0] if sys.stdout.isatty() else 10_000
    told, advice = (make_inert_line(_hide(text, secrets)) for text in (finding.told, finding.advice))
    head = f"{words.SIGNS[finding.status]} {finding.subject:<10}"
    yield from indent(wrap(Text(told), width - len(head) - 1), head, words.STYLES[finding.status])
    if advice:
        yield from indent(wrap(Text(advice, "dim"), width - len(head) - 3), " " * len(head) + "→ ", "dim")


def _hide(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "…")
    return text
