"""The composition root, the only module that knows all parts."""

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson
from flask import Flask, g
from flask.json.provider import JSONProvider
from flask_cors import CORS
from werkzeug.local import LocalProxy
from werkzeug.middleware.proxy_fix import ProxyFix

from server import addresses
from server.access.admission import Admission
from server.access.budgets import Budgets
from server.access.caller import OPEN
from server.access.caps import Caps, ClientCaps
from server.access.keys import Keys
from server.access.rate_limits import RateLimits
from server.core import Core
from server.dialects import access, chat, conversations, ops, query, sessions
from server.dialects.documents import DOCUMENTS
from server.dialects.openai.assistants import blueprint as assistants
from server.dialects.openai.errors import error_body
from server.http.access_log import log_requests, log_run
from server.http.authentication import identify_callers
from server.http.caching import forbid_storing
from server.http.contract import Contract
from server.http.errors import Body, detailed_body, register_error_handlers, select_body
from server.http.hosts import Hosts, restrict_hosts
from server.http.limits import find_caller, keep_quota, tell_limits
from server.http.metrics_port import reserve_port
from server.http.request_count import count_requests
from server.http.security import add_security_headers
from server.metrics import Metrics
from server.runs.config import RunConfig
from server.runs.runner import Runner
from server.settings import Settings
from server.store import open_store
from server.store.measured import measure_store
from server.store.protocol import Store
from server.upstream.protocol import Upstream
from server.upstream.tracing import Tracing, open_tracing
from server.web import blueprint as web

EXPOSED_HEADERS = [
    *("X-Request-ID", "X-Stream-ID", "X-Messages-Omitted", "Link", "Retry-After", "openai-poll-after-ms"),
    *("Content-Disposition", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
]

ERROR_BODIES: dict[str, Body] = {"/api/v1": error_body, "/api": detailed_body, "/chat": detailed_body}
"""The error body of every address under a path, also if no operation has that address."""


def create_app(
    settings: Settings,
    *,
    store: Store | None = None,
    upstream: Upstream | None = None,
    tracing: Tracing | None = None,
) -> Flask:
    """The application, with no thread started and no connection opened.

    Tests pass their own store, upstream and tracing. `app.extensions` has the `runner` and the `store`, for the process
    that shuts down, the `metrics`, for the process that shares them, and the `contracts`, for tests that validate
    answers. Raises LookupError if an operation has no view or a view no operation, and ValueError if a setting has a
    value that cannot be used.
    """
    store = create_store(settings) if store is None else store
    upstream = create_upstream(settings) if upstream is None else upstream
    tracing = open_tracing(settings.upstream) if tracing is None else tracing
    metrics = Metrics()
    measured = measure_store(store, metrics)
    runner = Runner(measured, upstream, create_run_config(settings), metrics=metrics, tracing=tracing, log_run=log_run)
    keys = Keys(measured, settings.admin_key) if settings.admin_key else None
    core = Core(measured, upstream, runner, create_admission(settings, measured), keys)
    contracts = {name: Contract(document) for name, document in read_documents(settings).items()}
    app = Flask(__name__, static_folder=None, template_folder="web/templates")
    app.json = _Json(app)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["APPLICATION_ROOT"] = (settings.sites[0].path if settings.sites else "") or "/"
    # ChatGPT follows no redirect, so a path with two slashes is plainly not found.
    app.url_map.merge_slashes = False
    app.extensions.update(runner=runner, store=store, metrics=metrics, contracts=contracts)
    _register_hooks(app, settings, metrics)
    identify_callers(app, keys)
    _register_blueprints(app, settings, bind_to_caller(core), contracts, metrics)
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        proxied = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_prefix=hops)
        app.wsgi_app = proxied  # type: ignore[method-assign]
    return app


def _register_hooks(app: Flask, settings: Settings, metrics: Metrics) -> None:
    """What happens to every request, whichever dialect serves it."""
    add_security_headers(app, is_https=settings.is_public_over_https)
    log_requests(app)
    tell_limits(app)
    count_requests(app, metrics)
    if settings.metrics_port is not None:
        reserve_port(app, settings.metrics_port, ops.METRICS)
    register_error_handlers(app, select_body(ERROR_BODIES))
    forbid_storing(app, varies=settings.cors_origins not in ((), ("*",)))
    restrict_hosts(
        app,
        parse_allowed_hosts(settings),
        listens_on=addresses.parse_host(settings.host),
        is_configured=bool(settings.allowed_hosts or settings.public_url),
        exempt=(*ops.PROBES, ops.METRICS),
    )
    if settings.cors_origins:
        CORS(app, origins=compile_origins(settings), expose_headers=EXPOSED_HEADERS, send_wildcard=True)


def _register_blueprints(
    app: Flask, settings: Settings, core: Core, contracts: Mapping[str, Contract], metrics: Metrics
) -> None:
    documents = {name: contract.document for name, contract in contracts.items()}
    address = settings.sites[0].address if settings.sites else ""
    session_seconds = settings.session_timeout_hours * 3600
    default_assistant = settings.assistant_id, settings.assistant_instructions
    for blueprint in (
        query.blueprint(contracts["published"], core, settings.query_deadline_seconds),
        chat.blueprint(contracts["chat"], core, settings.stream_ttl_seconds),
        conversations.blueprint(contracts["conversations"], core, settings.max_import_bytes, settings.max_input_chars),
        sessions.blueprint(contracts["sessions"], core, session_seconds),
        assistants.blueprint(contracts["assistants"], core, *default_assistant),
        access.blueprint(contracts["access"], core),
        ops.blueprint(contracts["operators"], core, documents, address, metrics),
        web.blueprint(contracts["operators"], documents),
    ):
        app.register_blueprint(blueprint)
    for contract in contracts.values():
        contract.require_all_served()


def bind_to_caller(core: Core) -> Core:
    """The core as each request's caller has it, so that no view can open what is others'."""

    def find_core() -> Core:
        if "core" not in g:
            g.core = core if g.caller is OPEN else core.for_caller(g.caller)
        found: Core = g.core
        return found

    return cast(Core, LocalProxy(find_core))


def parse_allowed_hosts(settings: Settings) -> Hosts:
    """The names that the server answers to: those of HOST, PUBLIC_URL and ALLOWED_HOSTS."""
    allowed = [addresses.parse_host_pattern(each) for each in settings.allowed_hosts]
    return Hosts([addresses.parse_host(settings.host), *(each.host for each in settings.sites), *allowed])


def compile_origins(settings: Settings) -> str | list[re.Pattern[str]]:
    """CORS_ORIGINS for flask-cors. Compiled, because it guesses what a text is, and does not anchor it."""
    if settings.cors_origins == ("*",):
        return "*"
    return [addresses.compile_origin(each) for each in settings.cors_origins]


def create_store(settings: Settings) -> Store:
    return open_store(
        settings.effective_store_url,
        max_conversations=settings.max_conversations,
        max_records=settings.max_records,
        lease_seconds=settings.lease_seconds,
    )


def create_upstream(settings: Settings) -> Upstream:
    # Each is imported only if it is used: importing the openai package takes half of the start's CPU time.
    if settings.upstream == "scripted":
        from server.upstream.scripted import ScriptedUpstream

        return ScriptedUpstream()
    from server.upstream.openai import OpenAIUpstream

    return OpenAIUpstream(
        settings.openai_api_key,
        settings.openai_base_url or settings.llm_server_url,
        organization=settings.openai_org_id,
        project=settings.openai_project_id,
        headers=settings.upstream_headers,
        default_model=settings.default_model,
        models_ttl_seconds=settings.models_ttl_seconds,
    )


def create_admission(settings: Settings, store: Store) -> Admission:
    budgets = Budgets(store, settings.daily_token_budget, settings.default_max_tokens, settings.system_prompt)
    caps = Caps(
        settings.max_client_conversations,
        settings.max_client_messages,
        settings.max_client_bytes,
        settings.max_client_open_runs,
        settings.max_client_streams,
    )
    return Admission(RateLimits(settings.rate_limit), budgets, ClientCaps(store, caps), find_caller, keep_quota)


def create_run_config(settings: Settings) -> RunConfig:
    parameters = {
        "temperature": settings.default_temperature,
        "max_completion_tokens": settings.default_max_tokens,
    }
    return RunConfig(
        max_waiting_runs=settings.max_waiting_runs,
        max_concurrent_runs=settings.max_concurrent_runs,
        run_timeout_seconds=settings.run_timeout_seconds,
        lease_seconds=settings.lease_seconds,
        max_context_messages=settings.max_context_messages,
        retention_days=settings.retention_days,
        system_prompt=settings.system_prompt,
        parameters={name: value for name, value in parameters.items() if value is not None},
    )


def read_documents(settings: Settings) -> dict[str, dict[str, Any]]:
    """The OpenAPI document of each dialect, with MAX_INPUT_CHARS as the limit of `Input` and `SystemPrompt`."""
    documents: dict[str, dict[str, Any]] = {}
    for name, path in DOCUMENTS.items():
        document = documents[name] = orjson.loads(path.read_bytes())
        schemas = document.get("components", {}).get("schemas", {})
        for bounded in schemas.keys() & {"Input", "SystemPrompt"}:
            schemas[bounded]["maxLength"] = settings.max_input_chars
        if settings.admin_key:
            document["security"] = [each for each in document["security"] if each]
    return documents


class _Json(JSONProvider):
    """JSON by orjson. UTF-8 is not escaped, because people read Korean in curl."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return orjson.loads(s)
