"""The caller of a request: anybody on an open server, the administrator, or the holder of a key."""

import re
from dataclasses import dataclass

SERVER_NAME = re.compile("(?:chat|thread|title)_[0-9a-f]{32}")
"""A name that the server alone gives: of a chat, a thread, or a chat that writes a title."""

UUID_NAME = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""A name that the server gives to a session. Programs choose such names too."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What a caller may open, and which limits hold for it."""

    scope: str = "*"
    """The `client_name` that it opens; with `*` at the end, every one with that beginning."""
    owner: str = ""
    """Whom the conversations that it creates belong to: the scope of its key. Empty for the administrator and on an
    open server, who open all."""
    key_id: str = ""
    """The id of its key, which rate limit and budget are counted for. Empty without a key."""
    address: str = ""
    """The network address, which the rate limit is counted for if there is no key."""
    rate_limit: str = ""
    """Such as `60/minute`. Empty: RATE_LIMIT."""
    daily_token_budget: int | None = None
    """None: DAILY_TOKEN_BUDGET."""
    key_digest: str = ""
    """By which its key is found again. Empty for the administrator and without a key."""
    is_admin: bool = False
    """Whether it may manage keys. False for everybody on an open server."""

    def opens_name(self, name: str) -> bool:
        """Whether a `client_name` is one that the caller may use."""
        return name.startswith(self.scope[:-1]) if self.scope.endswith("*") else name == self.scope

    def opens(self, name: str, owner: str) -> bool:
        """Whether a conversation of that name, created by `owner`, is the caller's.

        A key for one name opens that name. Other chats, threads and sessions belong to whose key created them, since
        the server gives their names, which no beginning may open.
        """
        if not self.owner or owner == self.owner or name == self.scope:
            return True
        return not is_generated(name) and self.opens_name(name)


def is_generated(name: str) -> bool:
    """Whether a name is of a form that the server gives."""
    return bool(SERVER_NAME.fullmatch(name) or UUID_NAME.fullmatch(name))


OPEN = Caller()
"""Anybody, on a server without ADMIN_KEY."""
