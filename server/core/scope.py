"""What one caller may open."""

from server.access.caller import GENERATED, Caller
from server.access.keys import Keys
from server.domain import Conversation, derive_id
from server.errors import NotAllowed, NotAuthorized, NotFound
from server.store.protocol import Store


class Scope:
    """The conversations of one caller, for the time of one request."""

    def __init__(self, store: Store, caller: Caller, keys: Keys | None = None) -> None:
        self._store = store
        self.caller = caller
        self._keys = keys
        self._opened: set[str] = set()
        """Names that were looked up already."""

    @property
    def is_limited(self) -> bool:
        """Whether there is anything that the caller may not open."""
        return bool(self.caller.owner)

    def require(self, name: str) -> None:
        """Raises NotAllowed for a `client_name` that is not the caller's, and NotFound for what others' keys created.

        A name that the server gives, and that does not exist, is allowed: there is nothing to open.
        """
        if not self.is_limited or name in self._opened:
            return
        if GENERATED.fullmatch(name):
            conversation = self._store.get_conversation(name)
            if conversation is None:
                return
            if not self.opens(conversation):
                raise NotFound
        elif not self.caller.opens_name(name):
            raise NotAllowed
        self._opened.add(name)

    def require_key(self) -> None:
        """Raises NotAuthorized if the caller's key was deleted since its request began, which may be long ago.

        To be called right before each write that may create something: the data of a client that was deleted must not
        come back.
        """
        if self._keys is not None and self.caller.key_digest and not self._keys.is_valid(self.caller):
            raise NotAuthorized

    def require_id(self, name: str) -> None:
        """As `require`, for a conversation that was found by the id of a run: always NotFound."""
        try:
            self.require(name)
        except NotAllowed:
            raise NotFound from None

    def opens(self, conversation: Conversation) -> bool:
        return self.caller.opens(conversation.name, conversation.owner)

    def opens_name(self, name: str) -> bool:
        """Whether a name is the caller's by its beginning, whoever created the conversation."""
        return self.caller.opens(name, "")

    def list_names(self) -> list[str] | None:
        """The names of all that a limited caller may open; None if its key opens every name with some beginning."""
        if self.caller.scope.endswith("*"):
            return None
        return sorted({self.caller.scope, *self._store.list_owned(self.caller.owner)})

    def derive_name(self, kind: str, purpose: str, key: str | None) -> str:
        """The name that belongs to an idempotency key of this caller; without a key, a new one."""
        owner = self.caller.owner
        return derive_id(kind, f"{purpose} of {owner}" if owner else purpose, key)
