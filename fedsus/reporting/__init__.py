"""What operators see of a run. Reads the journal and its checkpoints, and nothing else; never writes."""

from fedsus.reporting.following import follow
from fedsus.reporting.summary import RunSummary, read, released_model, runs, summary

__all__ = ["RunSummary", "follow", "read", "released_model", "runs", "summary"]
