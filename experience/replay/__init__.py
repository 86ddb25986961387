"""Replay: tables that agents insert into and learners sample from, in Reverb's words."""

from experience.replay.batch import Batch, Sample
from experience.replay.data.errors import Broken, Expired, RateLimited, SignatureMismatch
from experience.replay.replay import Replay
from experience.replay.structured import Pattern, td_error
from experience.replay.tables import rate_limiters, selectors
from experience.replay.tables.draws import SampleInfo
from experience.replay.tables.fields import Fields
from experience.replay.tables.live import TableInfo
from experience.replay.tables.table import Extension, Table

__all__ = [
    "Batch",
    "Broken",
    "Expired",
    "Extension",
    "Fields",
    "Pattern",
    "RateLimited",
    "Replay",
    "Sample",
    "SampleInfo",
    "SignatureMismatch",
    "Table",
    "TableInfo",
    "rate_limiters",
    "selectors",
    "td_error",
]
