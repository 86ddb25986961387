"""A patient's FHIR record as dated facts, fitted into a model's tokens; and tools that look things up in it."""

from medgemma.records.condense import Condensed, condense
from medgemma.records.facts import Fact, Facts, facts_of, record_text
from medgemma.records.files import PatientRecord, read_records

__all__ = ["Condensed", "Fact", "Facts", "PatientRecord", "condense", "facts_of", "read_records", "record_text"]
