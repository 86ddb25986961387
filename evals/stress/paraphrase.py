"""A report in other words with the same meaning, by rules: sentence forms that radiologists use for one another."""

import re

from evals.stress.edits import ARTICLES, sentences

MIN_REWRITTEN = 0.5
"""Share of a report's sentences that must be put otherwise: below, it is no paraphrase and the report is left out."""

_FINDING = (
    rf"(?:(?!areas\b|findings\b|signs\b|evidence\b)[a-z]+ )*(?:{'|'.join(sorted(ARTICLES, key=len, reverse=True))})"
)
_PLAIN = r"(?!.*\b(?:which|that|seen|noted|identified|present|visualized|suggest\w*|consistent|may|is|are|again)\b)"
"""What follows is one noun phrase: no clause, and no verb that would be said twice."""
_FORMS: tuple[tuple[str, str], ...] = (
    (r"^The heart is normal in size\.$", "Heart size is normal."),
    (r"^(?:The )?[Hh]eart size is normal\.$", "The heart is normal in size."),
    (r"^(?:The )?[Hh]eart size (?:is|appears) within normal limits\.$", "The heart is not enlarged."),
    (r"^Normal heart size\.$", "The heart is not enlarged."),
    (r"^The mediastinum is unremarkable\.$", "No mediastinal abnormality is seen."),
    (r"^(?:The )?[Mm]ediastinal contours? (?:is|are) (?:normal|unremarkable|within normal limits)\.$",
     "The mediastinum has a normal outline."),
    (r"^(?:The )?[Cc]ardiomediastinal silhouette is (?:normal|unremarkable|within normal limits)\.$",
     "Heart and mediastinum have a normal outline."),
    (r"^(?:The )?[Ll]ungs are (?:grossly )?clear(?: bilaterally)?\.$", "No abnormality is seen in either lung."),
    (r"^There is no (?P<a>[a-z ]+?) or (?P<b>[a-z ]+)\.$", r"Neither \g<a> nor \g<b> is seen."),
    (r"^There is no evidence of (?P<a>[a-z ]+?)\.$", r"No sign of \g<a> is seen."),
    (r"^There is no (?P<a>[a-z ]+?)\.$", r"No \g<a> is seen."),
    (r"^No evidence of (?P<a>[a-z ]+?)\.$", r"There is no sign of \g<a>."),
    (rf"^No (?P<a>{_FINDING}(?:, {_FINDING})*(?:,? or {_FINDING})?)"
     r"(?: is (?:seen|identified|present|noted|visualized|appreciated))?\.$", r"There is no \g<a>."),
    (rf"^There is {_PLAIN}(?P<a>an? [A-Za-z0-9 .-]+?)\.$", "{A} is seen."),
    (rf"^There are {_PLAIN}(?P<a>[A-Za-z0-9 -]+?)\.$", "{A} are seen."),
    (r"^(?P<a>[A-Z][A-Za-z0-9 -]+?) (?P<be>is|are) (?:noted|identified|visualized|demonstrated)\.$",
     r"\g<a> \g<be> seen."),
    (r"^(?P<a>[A-Z][A-Za-z -]+?) (?P<be>is|are) (?:unremarkable|within normal limits)\.$", r"\g<a> \g<be> normal."),
    (r"^(?P<a>Mild|Moderate|Severe|Minimal) degenerative changes? (?:are present )?(?:of|in|within) the "
     r"(?P<b>[a-z ]+)\.$", r"The \g<b> shows {a} degenerative disease."),
    (r"^Stable cardiomegaly\.$", "The heart is enlarged, as before."),
    (r"^(?:There is )?(?P<a>[Mm]ild|[Mm]oderate|[Ss]evere) cardiomegaly\.$", "The heart shows {a} enlargement."),
)  # fmt: skip
_WORDS: tuple[tuple[str, str], ...] = (
    (r"\bbony\b", "osseous"),
    (r"\bcardiac silhouette\b", "heart shadow"),
    (r"\bdemonstrates?\b", "shows"),
    (r"\bunremarkable\b", "normal"),
    (r"\bwithin normal limits\b", "normal"),
    (r"\bidentified\b", "seen"),
    (r"\b(is|are) visualized\b", r"\1 seen"),
    (r"\bair ?space disease\b", "airspace opacification"),
)


def paraphrase(report: str) -> str | None:
    """Return a report in other words, or None if fewer than MIN_REWRITTEN of its sentences can be put otherwise."""
    before = sentences(report)
    after = [_otherwise(sentence) for sentence in before]
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    return " ".join(after) if before and changed >= MIN_REWRITTEN * len(before) else None


def _otherwise(sentence: str) -> str:
    if "XXXX" in sentence:
        return sentence
    for pattern, form in _FORMS:
        found = re.match(pattern, sentence)
        if found:
            return found.expand(form.format_map(_Parts(found)))
    for pattern, word in _WORDS:
        sentence = re.sub(pattern, word, sentence)
    return sentence


class _Parts(dict[str, str]):
    """{A}: the part `a` with a capital; {a}: in lower case."""

    def __init__(self, found: "re.Match[str]") -> None:
        part = found.groupdict().get("a") or ""
        super().__init__(A=part[:1].upper() + part[1:], a=part.lower())
