"""The published contract: six operations, on which ChatGPT, programs and people depend."""

from typing import Any

from flask import Blueprint, Response

from server.core import Core
from server.domain import Run
from server.errors import AppError
from server.http import connection, headers, sse
from server.http.contract import Contract
from server.http.errors import register_error_handlers, status_of

RUNNING = "The reply is still being written. Ask the same again to collect it."


def blueprint(contract: Contract, core: Core, deadline_seconds: float) -> Blueprint:
    """`deadline_seconds` is how long `query` waits, unless the caller is ChatGPT or sets another time."""
    bp = Blueprint("published", __name__)
    register_error_handlers(bp, status=_cap_status)

    @contract.serves(bp, "getModels")
    def get_models() -> dict[str, Any]:
        return {"object": "list", "data": [_dump_model(each) for each in core.models.list()]}

    @contract.serves(bp, "getCurrentModel")
    def get_current_model(client_name: str) -> dict[str, Any]:
        return {"model": core.models.get(client_name)}

    @contract.serves(bp, "setModel")
    def set_model(body: dict[str, Any]) -> dict[str, Any]:
        core.models.set(body["client_name"], body["model"])
        return {"model": body["model"]}

    @contract.serves(bp, "query")
    def query(body: dict[str, Any]) -> Response | tuple[dict[str, Any], int]:
        sse.forbid_last_event_id()
        request_id = headers.request_id(body.get("request_id"))
        draft = Run(body["input"], request_id, conversation=body["client_name"])
        if sse.accepts_event_stream():
            stream_id, events = core.replies.stream(draft, connection.connection_probe())
            return sse.stream_run(stream_id, 0, events)
        seconds = headers.wait_seconds(deadline_seconds)
        is_streamed = headers.prefers_async() or not seconds
        return _dump_reply(core.replies.ask(draft, seconds, connection.connection_probe(), streamed=is_streamed))

    @contract.serves(bp, "getHistory")
    def get_history(client_name: str, limit: int | None, before: str | None) -> Response:
        max_characters = headers.CHATGPT_CHARACTERS if headers.is_chatgpt() else None
        page = core.conversations.history(client_name, limit, None if before is None else int(before), max_characters)
        response = Response(page.chunks, mimetype="application/json")
        if page.start:
            response.headers["X-Messages-Omitted"] = str(page.start)
            response.headers["Link"] = headers.link_to_older(page.start)
        return response

    @contract.serves(bp, "clearHistory")
    def clear_history(client_name: str) -> dict[str, Any]:
        core.conversations.clear(client_name)
        return {"message": "The history is cleared; the model stays as it was."}

    return bp


def _dump_reply(run: Run) -> tuple[dict[str, Any], int]:
    if run.is_open:
        return {"status": "running", "run_id": run.id, "message": RUNNING}, 202
    return {"response": run.text}, 200


def _dump_model(model: dict[str, Any]) -> dict[str, Any]:
    """The upstream's description, completed to what the contract requires and without fields of another type."""
    defaults = {"object": "model", "created": 0, "owned_by": "unknown", "permission": [], "root": model["id"]}
    fitting = {name: value for name, value in model.items() if isinstance(value, type(defaults.get(name, value)))}
    for name in ("parent", "shutdown_date"):
        if not isinstance(model.get(name), str):
            fitting.pop(name, None)
    return defaults | fitting


def _cap_status(error: AppError) -> int:
    """The contract has 500 for every error of the server or the upstream; the `code` tells them apart."""
    return min(status_of(error), 500)
