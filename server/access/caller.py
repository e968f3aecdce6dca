"""The caller of a request: anybody on an open server, the administrator, or the holder of a key."""

import re
from dataclasses import dataclass

GENERATED = re.compile(
    r"(?:chat|thread|title)_[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)
"""The names that the server gives to chats, threads and sessions."""


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

        Chats, threads and sessions belong to whose key created them, since their names are the server's.
        """
        if not self.owner or owner == self.owner:
            return True
        return not GENERATED.fullmatch(name) and self.opens_name(name)


OPEN = Caller()
"""Anybody, on a server without ADMIN_KEY."""
