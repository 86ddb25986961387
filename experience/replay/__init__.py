"""Replay: tables that agents insert into and learners sample from, in Reverb's words."""

from experience.replay.batch import Batch, Sample
from experience.replay.data.errors import (
    Broken,
    Expired,
    RateLimited,
    SignatureMismatch,
    Unavailable,
    WrongVersion,
)
from experience.replay.replay import Replay
from experience.replay.structured import Pattern, infer_signature, td_error
from experience.replay.tables import rate_limiters, selectors
from experience.replay.tables.draws import SampleInfo
from experience.replay.tables.extensions import Statistics, diffusion
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
    "Statistics",
    "Table",
    "TableInfo",
    "Unavailable",
    "WrongVersion",
    "diffusion",
    "infer_signature",
    "rate_limiters",
    "selectors",
    "td_error",
]
