"""The arguments of the longer scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson

from server.domain import Message, Run, excerpt_of
from server.store.protocol import RECENT_MESSAGES, REDELIVERY_SECONDS, REQUEST_ID_SECONDS, CreateOptions
from server.store.redis.commands import Argument
from server.store.redis.serializers import dump_message, message_head, question_hash
from server.store.redis.usage import dump_usage

Arguments = tuple[Argument, ...]


def first_excerpt(messages: Sequence[Message], question: str = "") -> str:
    """The excerpt that these messages bring, or else the question; empty if they bring none."""
    return next((excerpt_of(each.content) for each in messages if each.role == "user"), "") or excerpt_of(question)


def of_update(changes: Mapping[str, Any]) -> Arguments:
    """Of `update_conversation`, from `removed` on. The model is text, all else is JSON."""
    removed = [field for field, value in changes.items() if value is None]
    values = {field: value for field, value in changes.items() if value is not None}
    dumped = [(field, value if field == "model" else orjson.dumps(value)) for field, value in values.items()]
    parts: list[Argument] = [part for pair in dumped for part in pair]
    return len(removed), *removed, *parts


def of_new_run(tag: str, run: Run, options: CreateOptions, *, waiting: int, start: bool, only_join: bool) -> Arguments:
    """Of `create_run`, from `id` on."""
    request_key = "" if run.request_id is None else f"{tag}:request:{run.request_id}"
    return (
        *(run.id, run.dump(), sha256(run.question.encode()).digest(), request_key, int(start)),
        *(waiting, REQUEST_ID_SECONDS, REDELIVERY_SECONDS),
        *(question_hash(run), int(options.reject_if_busy), int(options.create_conversation)),
        *(run.replaces or "", first_excerpt(options.messages, run.question), int(only_join)),
        *map(dump_message, options.messages),
    )


def of_end(ended: Run, context_starts: Mapping[str, int]) -> Arguments:
    """Of `finish_run`."""
    messages = ended.history_messages()
    stored = replace(ended, text="") if messages else ended  # The reply's message has the text.
    replaces = ended.replaces if messages and ended.replaces else ""
    return (
        *(ended.id, stored.dump(), ended.status, ended.ended or 0.0, int(ended.delivered)),
        *(orjson.dumps(dict(context_starts)), message_head(ended.reply_id)),
        *(replaces, excerpt_of(ended.question), dump_usage(ended)),
        *map(dump_message, messages),
    )


def of_import(name: str, messages: Sequence[Message], runs: Sequence[Run]) -> Arguments:
    """Of `import_history`."""
    texts = {each.id: (str(index), each.content) for index, each in enumerate(messages)} if runs else {}
    arguments: list[Argument] = [RECENT_MESSAGES, first_excerpt(messages), len(messages), *map(dump_message, messages)]
    for run in runs:
        reply_index, text = texts.get(run.reply_id, ("", ""))
        is_linked = text == run.text and reply_index != ""
        stored = replace(run, conversation=name, text="" if is_linked else run.text)
        arguments += [run.id, stored.dump(), run.status, run.ended or 0.0, int(run.delivered), question_hash(run)]
        arguments += [reply_index if is_linked else "", message_head(run.reply_id)]
    return tuple(arguments)
