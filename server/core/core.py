"""The parts of the core, made for one store, one upstream and one runner."""

from server.access.admission import Admission
from server.access.budgets import Budgets
from server.access.rate_limits import RateLimits
from server.core.conversations import Conversations
from server.core.exports import Exports
from server.core.health import HealthCheck
from server.core.imports import Imports
from server.core.messages import Messages
from server.core.models import Models
from server.core.records import Records
from server.core.replies import Replies
from server.core.search import Search
from server.core.titles import Titles
from server.runs.runner import Runner
from server.store.protocol import Store
from server.upstream.protocol import Upstream


class Core:
    """Everything that a caller may do. Safe from any thread."""

    def __init__(self, store: Store, upstream: Upstream, runner: Runner, admission: Admission | None = None) -> None:
        """Without `admission`, no limits hold."""
        admission = admission or Admission(RateLimits(), Budgets(store))
        self.conversations = Conversations(store, runner)
        self.replies = Replies(store, runner, self.conversations, admission)
        self.messages = Messages(store, self.conversations)
        self.search = Search(store)
        self.exports = Exports(store)
        self.imports = Imports(store)
        self.titles = Titles(self.conversations, self.replies)
        self.models = Models(store, upstream, self.conversations)
        self.records = Records(store)
        self.health = HealthCheck(store, upstream, runner)
