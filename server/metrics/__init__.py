"""What a process counts, what all workers of a server have counted together, and how Prometheus reads it."""

from server.metrics.folder import Folder as Folder
from server.metrics.metrics import Metrics as Metrics
