"""The published contract: six operations, which ChatGPT, programs and people depend on."""

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
    """`deadline_seconds` is how long `query` waits for a caller of whom nothing else is known."""
    bp = Blueprint("published", __name__)
    register_error_handlers(bp, status=_published_status)

    @contract.serves(bp, "getModels")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(each) for each in core.models.list()]}

    @contract.serves(bp, "getCurrentModel")
    def current_model(client_name: str) -> dict[str, Any]:
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
            stream_id, reading = core.replies.stream(draft, connection.connection_probe())
            return sse.stream_run(stream_id, 0, reading)
        seconds = headers.wait_seconds(deadline_seconds)
        is_streamed = headers.prefers_async() or not seconds
        return _answered(core.replies.ask(draft, seconds, connection.connection_probe(), streamed=is_streamed))

    @contract.serves(bp, "getHistory")
    def history(client_name: str, limit: int | None, before: str | None) -> Response:
        most = headers.CHATGPT_CHARACTERS if headers.is_chatgpt() else None
        page = core.conversations.history(client_name, limit, None if before is None else int(before), most)
        response = Response(page.chunks, mimetype="application/json")
        if page.start:
            response.headers["X-Messages-Omitted"] = str(page.start)
            response.headers["Link"] = headers.link_to_older(page.start)
        return response

    @contract.serves(bp, "clearHistory")
    def clear(client_name: str) -> dict[str, Any]:
        core.conversations.clear(client_name)
        return {"message": "The history is cleared; the model stays as it was."}

    return bp


def _answered(run: Run) -> tuple[dict[str, Any], int]:
    if run.is_open:
        return {"status": "running", "run_id": run.id, "message": RUNNING}, 202
    return {"response": run.text}, 200


def _described(model: dict[str, Any]) -> dict[str, Any]:
    """The upstream's own description, and what the contract has besides, in the contract's types."""
    published = {"object": "model", "created": 0, "owned_by": "unknown", "permission": [], "root": model["id"]}
    fitting = {name: value for name, value in model.items() if isinstance(value, type(published.get(name, value)))}
    if not isinstance(model.get("parent"), str):
        fitting.pop("parent", None)
    return published | fitting


def _published_status(failure: AppError) -> int:
    """The contract publishes 500 for whatever fails behind the server; the `code` tells what it was."""
    return min(status_of(failure), 500)
