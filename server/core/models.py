"""The models that the upstream offers, and the one that each client uses."""

from contextlib import suppress
from typing import Any

from server import errors
from server.core.conversations import Conversations
from server.upstream.protocol import Upstream


class Models:
    """Safe from any thread."""

    def __init__(self, upstream: Upstream, conversations: Conversations) -> None:
        self._upstream = upstream
        self._conversations = conversations

    def list(self) -> list[dict[str, Any]]:
        """The upstream's models, as it describes them. Raises UpstreamFailed, NotConfigured."""
        return self._upstream.list_models()

    def get(self, name: str) -> str:
        """The model of the client `name`, or the default model if it has set none."""
        conversation = self._conversations.find(name)
        model = None if conversation is None else conversation.model
        return model or self._upstream.default_model()

    def get_default(self) -> str:
        """The model of clients that have set none. Raises Unavailable."""
        return self._upstream.default_model()

    def find_default(self) -> str | None:
        """The model of clients that have set none; None if the upstream cannot tell."""
        try:
            return self._upstream.default_model()
        except errors.Unavailable:
            return None

    def set(self, name: str, model: str) -> None:
        """Set the client's model. If the upstream's list is empty or unavailable, any name is accepted.

        Raises UnknownModel otherwise.
        """
        self.require_listed(model)
        self._conversations.update(name, {"model": model})

    def require_listed(self, model: str) -> None:
        """Raises UnknownModel as `set`: for a model that is kept."""
        with suppress(errors.Unavailable):
            offered = {each["id"] for each in self._upstream.list_models()}
            if offered and model not in offered:
                raise errors.UnknownModel

    def require_offered(self, model: str) -> None:
        """Raises UnknownModel as `set`, without waiting for a slow list: for the model of one question."""
        with suppress(errors.Unavailable):
            offered = self._upstream.offered_models()
            if offered and model not in offered:
                raise errors.UnknownModel
