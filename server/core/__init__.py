"""What a caller may do, without HTTP and without a backend. The dialects' only way in."""

from server.core.core import Core as Core
