"""The parts of the core, made for one store, one upstream, one runner and one caller."""

from functools import cached_property

from server.access.admission import Admission
from server.access.budgets import Budgets
from server.access.caller import OPEN, Caller
from server.access.caps import Caps, ClientCaps
from server.access.keys import Keys
from server.access.rate_limits import RateLimits
from server.core.clients import Clients
from server.core.conversations import Conversations
from server.core.exports import Exports
from server.core.health import HealthCheck
from server.core.imports import ImportQueue, Imports
from server.core.messages import Messages
from server.core.models import Models
from server.core.records import Records
from server.core.replies import Replies
from server.core.scope import Scope
from server.core.search import Search
from server.core.titles import Titles
from server.runs.runner import Runner
from server.store.protocol import Store
from server.upstream.protocol import Upstream


class Core:
    """Everything that one caller may do. Safe from any thread."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        runner: Runner,
        admission: Admission | None = None,
        keys: Keys | None = None,
        caller: Caller = OPEN,
        import_queue: ImportQueue | None = None,
    ) -> None:
        """Without `admission`, no limits hold; without `keys`, the server is open. All callers share the queue."""
        self._store = store
        self._upstream = upstream
        self._runner = runner
        self._admission = admission or Admission(RateLimits(), Budgets(store), ClientCaps(store, Caps()))
        self._keys = keys
        self._scope = Scope(store, caller, keys)
        self._import_queue = import_queue or ImportQueue()

    def for_caller(self, caller: Caller) -> "Core":
        """The same for another caller."""
        parts = self._store, self._upstream, self._runner, self._admission, self._keys
        return Core(*parts, caller, self._import_queue)

    @property
    def caller(self) -> Caller:
        """Whom this is for."""
        return self._scope.caller

    @cached_property
    def conversations(self) -> Conversations:
        return Conversations(self._store, self._runner, self._scope, self._admission.caps)

    @cached_property
    def replies(self) -> Replies:
        return Replies(self._store, self._runner, self.conversations, self._scope, self._admission)

    @cached_property
    def messages(self) -> Messages:
        return Messages(self._store, self.conversations)

    @cached_property
    def search(self) -> Search:
        return Search(self._store, self._scope)

    @cached_property
    def exports(self) -> Exports:
        return Exports(self._store, self._scope)

    @cached_property
    def imports(self) -> Imports:
        return Imports(self._store, self._scope, self._import_queue, self._admission.caps)

    @cached_property
    def titles(self) -> Titles:
        return Titles(self.conversations, self.replies)

    @cached_property
    def models(self) -> Models:
        return Models(self._upstream, self.conversations)

    @cached_property
    def records(self) -> Records:
        return Records(self._store, self._scope)

    @cached_property
    def clients(self) -> Clients:
        return Clients(self._store, self._runner, self._scope, self._keys)

    @cached_property
    def health(self) -> HealthCheck:
        return HealthCheck(self._store, self._upstream, self._runner)
