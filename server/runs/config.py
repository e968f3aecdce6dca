"""How far runs may go, and what every run is asked with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunConfig:
    """Each field but `parameters` is the setting of its name."""

    max_waiting_runs: int = 32
    max_concurrent_runs: int = 2000
    run_timeout_seconds: float = 600.0
    lease_seconds: float = 30.0
    max_context_messages: int | None = None
    retention_days: float | None = None
    system_prompt: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every upstream request, such as `temperature`. A run's own parameters take precedence."""
