"""Budgets: the tokens that all runs of a key may spend on a day, or, without keys, those of the whole server.

What a run may spend is reserved before it begins: an estimate of its prompt, and its reply at its longest. The prompt
is estimated without building it, as what the last completed run of the conversation has used, which is all that is
sent again, and the new texts by their bytes. Without such a run, a few messages tell how long the others are.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import orjson

from server.access.caller import Caller
from server.charges import REPLY_TOKENS, Charge, estimate_tokens
from server.domain import Conversation, Message, Run, rfc3339
from server.store.limits import DAY_SECONDS
from server.store.protocol import Store

SAMPLE_MESSAGES = 16
"""How many messages are read to estimate the length of a history without a completed run."""

MEASURED_SECONDS = 60.0
MEASURED_CONVERSATIONS = 10_000
"""For how long, and of how many conversations, a measured context is kept."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is sent with every question of a conversation."""

    tokens: int
    max_reply_tokens: int | None = None
    """The conversation's setting."""
    measured: float = 0.0
    """Unix seconds."""


class Budgets:
    """Safe from any thread."""

    def __init__(
        self,
        store: Store,
        daily_tokens: int | None = None,
        max_reply_tokens: int | None = None,
        system_prompt: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`daily_tokens` is the budget of callers without one of their own; None for none.

        `max_reply_tokens` is the longest reply where neither the run nor its conversation limits it.
        """
        self._store = store
        self._daily_tokens = daily_tokens
        self._max_reply_tokens = max_reply_tokens or REPLY_TOKENS
        self._system_prompt = system_prompt
        self._clock = clock
        self._lock = threading.Lock()
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        """By the conversation's name, the one measured first first."""

    def daily_tokens(self, caller: Caller) -> int | None:
        """The budget that holds for a caller; None if none does."""
        return self._daily_tokens if caller.daily_token_budget is None else caller.daily_token_budget

    def charge(self, caller: Caller, draft: Run, messages: Iterable[Message]) -> Charge:
        """The charge of a run that is to begin, after `messages` were added. Raises StoreUnavailable."""
        context = self._measure(draft.conversation)
        added = sum(len(each.fragment) for each in messages)
        texts = estimate_tokens(draft.question, draft.options.system_prompt or "", size=added)
        prompt = 1 + context.tokens + texts + _estimate_tools(draft)
        key = f"key:{caller.key_id}" if caller.key_id else "server"
        return Charge(key, _day(self._clock() // DAY_SECONDS), prompt + self._reply_tokens(draft, context), prompt)

    def recharge(self, run: Run) -> Charge | None:
        """The charge of a run that goes on with the outputs of its last step; None if no budget holds for it.

        What it has used so far is spent, and is sent again with the outputs.
        """
        if run.charge is None:
            return None
        used = run.charge.reserved if run.usage is None else run.usage.total_tokens
        outputs = [call.output or "" for step in run.steps[-1:] for call in step.calls]
        prompt = used + estimate_tokens(*outputs)
        reserved = used + prompt + self._reply_tokens(run, self._measure(run.conversation))
        return replace(run.charge, reserved=reserved, prompt_tokens=prompt)

    def _reply_tokens(self, run: Run, context: Context) -> int:
        asked = run.options.parameters.get("max_completion_tokens")
        return int(asked or context.max_reply_tokens or self._max_reply_tokens)

    def _measure(self, name: str) -> Context:
        """The conversation's context, as of at most MEASURED_SECONDS ago."""
        now = self._clock()
        with self._lock:
            known = self._contexts.get(name)
        if known is not None and 0 <= now - known.measured < MEASURED_SECONDS:
            return known
        conversation = self._store.get_conversation(name)
        if conversation is None:
            return Context(estimate_tokens(self._system_prompt))
        tokens = self._estimate_history(conversation)
        context = Context(tokens, conversation.settings.get("max_completion_tokens"), now)
        with self._lock:
            self._contexts[name] = context
            self._contexts.move_to_end(name)
            if len(self._contexts) > MEASURED_CONVERSATIONS:
                self._contexts.popitem(last=False)
        return context

    def _estimate_history(self, conversation: Conversation) -> int:
        for run in self._store.list_runs(conversation.name, "completed", 1):
            if run.usage is not None:
                return run.usage.total_tokens
        count = conversation.message_count
        newest = self._store.list_messages(conversation.name, max(0, count - SAMPLE_MESSAGES), count)
        size = sum(len(each.fragment) for each in newest) * count // max(1, len(newest))
        prompt: str = conversation.settings.get("system_prompt", self._system_prompt)
        return estimate_tokens(prompt, size=size)


@lru_cache(2)
def _day(number: float) -> str:
    """The day with a number, counted from 1970-01-01, such as `2026-11-20`."""
    return rfc3339(number * DAY_SECONDS)[:10]


def _estimate_tools(run: Run) -> int:
    tools = {name: run.options.parameters.get(name) for name in ("tools", "response_format")}
    return estimate_tokens(orjson.dumps(tools)) if any(tools.values()) else 0
