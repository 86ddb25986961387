"""A card as Croissant 1.0: JSON-LD that says what the files are and how their columns are read.

Source: MLCommons Croissant Format Specification 1.0, docs.mlcommons.org/croissant.
"""

from data_cards.schema import DataCard, Split

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

CONTEXT: dict[str, object] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification asks for."""

ENCODING_FORMATS = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".jsonl": "application/jsonlines",
    ".json": "application/json",
    ".xml": "application/xml",
}
"""By the suffix before .gz; anything else is application/octet-stream."""


def croissant(card: DataCard) -> dict[str, object]:
    """Return a card as a Croissant document.

    Files are named relative to the document, so it belongs into the set's own folder. Tables become record sets of
    text fields; files without columns, and folders, are named without one. A set whose checksums are not known is
    marked as live, which is what lets the specification's checker take files without them.

    Args:
        card: The card.

    Returns:
        JSON-LD, ready for `json.dumps`.
    """
    document: dict[str, object] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": card.name,
        "alternateName": card.title,
        "description": _description(card),
        "version": "1.0.0",
        "license": card.licence,
        "url": card.url,
        "citeAs": card.citation,
        "isAccessibleForFree": card.access == "open",
        "keywords": list(card.tasks),
        "distribution": [_file(split) for split in card.splits.values() if _is_file(split)],
        "recordSet": [_record_set(card, name, split) for name, split in card.splits.items() if _columns(card, split)],
    }
    if any(split.sha256 is None for split in card.splits.values()):
        document["isLiveDataset"] = True
    if card.year is not None:
        document["datePublished"] = str(card.year)
    if card.leaks:
        document["rai:dataLimitations"] = list(card.leaks)
    return document


def _description(card: DataCard) -> str:
    parts = [card.description, f"Version: {card.version}.", f"Access: {card.access}. {card.how_to_get}"]
    if card.group_column:
        parts.append(f"Divide and resample by {card.group_column} ({card.group_is}), never by item.")
    return " ".join(parts)


def _identifier(name: str) -> str:
    """Return a name as an `@id`, which must not hold white space."""
    return "_".join(name.split())


def _is_file(split: Split) -> bool:
    return "." in split.file.rpartition("/")[2] and "*" not in split.file


def _encoding_format(split: Split) -> str:
    name = split.file.removesuffix(".gz")
    return ENCODING_FORMATS.get(name[name.rfind(".") :], "application/octet-stream")


def _columns(card: DataCard, split: Split) -> list[str]:
    """Return the columns that a record set can name: those of tables, which the checker reads column by column."""
    kinds = (ENCODING_FORMATS[".csv"], ENCODING_FORMATS[".tsv"], ENCODING_FORMATS[".jsonl"])
    if not _is_file(split) or _encoding_format(split) not in kinds:
        return []
    return [column for column in card.columns_of(split) if column not in card.object_columns]


def _file(split: Split) -> dict[str, object]:
    file: dict[str, object] = {
        "@type": "cr:FileObject",
        "@id": _identifier(split.file),
        "name": split.file,
        "contentUrl": split.file,
        "encodingFormat": _encoding_format(split),
    }
    return file | ({"sha256": split.sha256} if split.sha256 is not None else {})


def _record_set(card: DataCard, name: str, split: Split) -> dict[str, object]:
    definitions = card.columns_of(split)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [_field(card, name, split, column, definitions[column]) for column in _columns(card, split)],
    }


def _field(card: DataCard, record_set: str, split: Split, column: str, definition: str) -> dict[str, object]:
    field: dict[str, object] = {
        "@type": "cr:Field",
        "@id": _identifier(f"{record_set}/{column}"),
        "name": f"{record_set}/{column}",
        "description": definition,
        "dataType": "sc:Text",
        "source": {"fileObject": {"@id": _identifier(split.file)}, "extract": {"column": column}},
    }
    return field | ({"repeated": True} if column in card.list_columns else {})
