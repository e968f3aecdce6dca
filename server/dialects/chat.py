"""Streams, each named by its run: read from any character on, by anybody who knows the name, as often as they like."""

from flask import Blueprint, Response

from server.conversations import Conversations
from server.wire import caller, sse
from server.wire.contract import Contract
from server.wire.failures import answer_failures, detailed_body


def blueprint(contract: Contract, conversations: Conversations) -> Blueprint:
    bp = Blueprint("chat", __name__)
    answer_failures(bp, detailed_body)

    @contract.serves(bp, "readStream")
    def read(stream_id: str) -> Response:
        position = sse.position()
        reading = conversations.read(stream_id, position, caller.presence())
        return sse.event_stream(stream_id, position, reading)

    return bp
