"""Runs the scripts that create or touch a conversation, and keeps its entry in the index in step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.domain import Conversation
from server.errors import AppError, ConversationBusy, ConversationImporting, NotFound, NotLastTurn, RequestIdConflict
from server.store.redis.caller import ScriptCaller, tag_of
from server.store.redis.client import RedisClient
from server.store.redis.commands import Argument, Command
from server.store.redis.expiry import Expiry
from server.store.redis.owners import add_owned, dump_owner
from server.store.redis.serializers import load_conversation
from server.store.redis.use_order import UseOrder

LIMITED = b"limited"
"""That nothing is joined, and no run may be created."""

REFUSALS: Mapping[bytes, type[AppError]] = {
    b"busy": ConversationBusy,
    b"importing": ConversationImporting,
    b"conflict": RequestIdConflict,
    b"missing": NotFound,
    b"not last": NotLastTurn,
}
"""The error of every other answer."""


class IndexedWrites:
    def __init__(
        self,
        redis: RedisClient,
        clock: Callable[[], float],
        scripts: ScriptCaller,
        use_order: UseOrder,
        expiry: Expiry,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._scripts = scripts
        self._use_order = use_order
        self._expiry = expiry

    def touch(self, script: str, name: str, *given: Argument, also: Sequence[Command] = ()) -> Any:
        """The answer of a script that touches the conversation, unless that is missing or the script refuses.

        `also` are commands to be sent after it.
        """
        now = self._clock()
        command = self._scripts.command(script, tag_of(name), *given, now=now)
        answer, *_ = self._redis.ask(command, self._use_order.move(name, now), *also)
        if answer not in (1, b"added") and not (isinstance(answer, list) and answer[0] == b"ended"):
            self._use_order.settle(name)
        return answer

    def create(
        self,
        script: str,
        name: str,
        *given: Argument,
        first: Sequence[Command] = (),
        more_keys: Sequence[str] = (),
        listed: str = "",
        owner: str = "",
        is_unlisted: bool = False,
        touches: bool = False,
    ) -> tuple[list[Any], Conversation | None]:
        """The answers of `first` and of a script that may create a conversation, and that; None if it is refused.

        `first` are commands to be sent before the script, `listed` and `owner` are its first arguments, and `more_keys`
        are keys that it looks at. If `listed` is empty although the conversation is not to be unlisted, the script may
        ask for the entries in the indexes to be written before it goes on. An expired conversation of that name is
        deleted first.
        """
        while True:
            now = self._clock()
            before = [*first, self._use_order.add(name, now)] if listed else list(first)
            after = [self._use_order.move(name, now, is_new=bool(listed))] if listed or touches else []
            if owner and (listed or is_unlisted):
                before.append(add_owned(owner, name))
                after.append(add_owned(owner, name))
            given_first = listed, dump_owner(owner, name)
            command = self._scripts.command(script, tag_of(name), *given_first, *given, now=now, more_keys=more_keys)
            answers = self._redis.ask(*before, command, *after)
            answer = answers[len(before)]
            if answer == b"expired":
                self._expiry.expire(tag_of(name))
            elif answer == b"unlisted":
                listed = name
            else:
                break
        conversation = load_conversation(name, answer[0]) if isinstance(answer, list) else None
        if (listed or touches) and (conversation is None or conversation.touched < now):
            self._use_order.settle(name)
        return [*answers[: len(first)], answer], conversation
