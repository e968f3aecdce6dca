"""What one caller may open."""

from uuid import uuid4

import orjson

from server.access.caller import SERVER_NAME, Caller, is_generated
from server.access.keys import Keys
from server.domain import Conversation, derive_id, new_id
from server.errors import NotAllowed, NotAuthorized, NotFound, RequestIdConflict
from server.store.protocol import Store

TAKEN = "That Idempotency-Key leads to a conversation of somebody else; choose a new one."


class Scope:
    """The conversations of one caller, for the time of one request."""

    def __init__(self, store: Store, caller: Caller, keys: Keys | None = None) -> None:
        self._store = store
        self.caller = caller
        self._keys = keys
        self._opened: set[str] = set()
        """Names that were looked up already."""
        self._given: set[str] = set()
        """Names that the server gave to the caller in this request."""

    @property
    def is_limited(self) -> bool:
        """Whether there is anything that the caller may not open."""
        return bool(self.caller.owner)

    def require(self, name: str) -> None:
        """Raises NotAllowed for a `client_name` that is not the caller's, and NotFound for what others' keys created.

        A name of a form that the server gives is NotFound too if it does not exist: nobody can tell the two apart, and
        nobody can create what the server will give to somebody else. Allowed are those that the server gave in this
        request, and UUIDs that the key opens as it opens other names.
        """
        if not self.is_limited or name in self._opened:
            return
        if is_generated(name):
            conversation = self._store.get_conversation(name)
            if not (self._may_create(name) if conversation is None else self.opens(conversation)):
                raise NotFound
            if conversation is None:
                return
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

    def new_name(self, kind: str) -> str:
        """A name that nobody can guess, such as `thread_` and 32 hexadecimal digits; of a `session`, a UUID."""
        return self._give(str(uuid4()) if kind == "session" else new_id(kind))

    def derive_name(self, kind: str, purpose: str, key: str | None) -> str:
        """The name that belongs to an idempotency key of this caller; without a key, a new one.

        Raises RequestIdConflict if it is the name of another's conversation.
        """
        if key is None:
            return self.new_name(kind)
        owner = self.caller.owner
        # JSON, because an owner and a key may have spaces. Without an owner it is the text of earlier versions, so that
        # a repeated question finds its reply after an update.
        text = orjson.dumps([purpose, owner, key]).decode() if owner else f"{purpose} {key}"
        name = derive_id(kind, text)
        conversation = self._store.get_conversation(name)
        if conversation is not None and conversation.owner != owner:
            raise RequestIdConflict(TAKEN)
        return self._give(name)

    def _give(self, name: str) -> str:
        if self.is_limited:  # All requests share the scope of an open server.
            self._given.add(name)
        return name

    def _may_create(self, name: str) -> bool:
        return name in self._given or (not SERVER_NAME.fullmatch(name) and self.caller.opens_name(name))
