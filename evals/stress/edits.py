"""One wrong thing put into a chest report, by rules that only touch sentences whose grammar they know.

Each editor takes a report and returns it with one edit, or None where the report has no sentence that it can edit. All
are deterministic. What makes a sentence wrong here is what its readers would act on otherwise: a finding there or not,
its side, its size, its unit, what changed since the earlier film.
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

EditKind = Literal["negation", "side", "severity", "omission", "invention", "unit", "prior_study", "template"]
"""negation: one finding said to be there is denied, or the other way round; side: left for right; severity: small for
large; omission: an abnormal sentence is left out; invention: a finding is added; unit: cm for mm; prior_study: the
comparison is turned round, or one is made up; template: an abnormal report becomes the usual normal one."""

EDIT_KINDS: tuple[EditKind, ...] = get_args(EditKind)

VERSION = 1
"""Of the editors: one more whenever one of them writes another text."""

NORMAL_TEMPLATE = (
    "The heart is normal in size. The mediastinum is unremarkable. The lungs are clear. "
    "There is no pleural effusion or pneumothorax."
)

ARTICLES: Mapping[str, str] = {
    "pleural effusion": "a", "effusion": "an", "pneumothorax": "a", "consolidation": "", "infiltrate": "an",
    "airspace disease": "", "air space disease": "", "airspace opacity": "an", "opacity": "an", "edema": "",
    "pulmonary edema": "", "pneumonia": "", "mass": "a", "nodule": "a", "fracture": "a", "rib fracture": "a",
    "hiatal hernia": "a", "atelectasis": "", "cardiomegaly": "", "free air": "", "pneumoperitoneum": "",
}  # fmt: skip
"""Findings in the singular to the article that they stand with; empty for those that are not counted."""

_ADJECTIVES = r"(?:focal|acute|large|small|definite|visible|obvious|significant|active|lobar)"
_FINDING = rf"(?:{_ADJECTIVES} )*(?:{'|'.join(sorted(ARTICLES, key=len, reverse=True))})"
_SEEN = r"(?: (?:is|are) (?:seen|identified|present|noted|visualized|appreciated))?"
_ENDING = r"(?P<end>\.?)$"
_DENIED_ALONE = re.compile(rf"^There is no (?P<evidence>evidence of )?(?P<finding>{_FINDING}){_ENDING}", re.IGNORECASE)
_DENIED_LIST = re.compile(
    rf"^No (?P<findings>{_FINDING}(?:, {_FINDING})*(?:,? or {_FINDING})?){_SEEN}{_ENDING}", re.IGNORECASE
)
_DENIED_TWO = re.compile(rf"^There is no (?P<one>{_FINDING}) or (?P<other>{_FINDING}){_ENDING}", re.IGNORECASE)
_CLEAR = re.compile(r"^(?P<what>(?:The )?[Ll]ungs) are (?:grossly )?clear(?P<rest>| bilaterally)(?P<end>\.?)$")
_STATED = re.compile(
    r"^There (?P<be>is|are) (?:an? )?(?!no\b|not\b|stable\b|normal\b|otherwise\b)(?P<rest>[^,;]+)$", re.IGNORECASE
)
_SIZES = "small|mild|minimal|tiny|slight|trace|moderate|large|severe|marked|massive|extensive"


def sentences(report: str) -> list[str]:
    """Divide a report into sentences; "3.5 cm" and "T7." do not end one inside a number."""
    return [part for part in re.split(r"(?<=[.;])\s+(?=[A-Z0-9])", report.strip()) if part]


def is_denied(sentence: str) -> bool:
    """Say whether a sentence denies something or calls it normal."""
    return bool(_DENIES.search(sentence))


_DENIES = re.compile(
    r"\b(no|not|without|negative|free of|neither|nor|denies|absent|absence|normal|unremarkable|clear|intact|midline|"
    r"resolved|resolution|within limits|limited|nonfocal)\b",
    re.IGNORECASE,
)
_REMOVED = re.compile(r"XXXX|\?")


def is_abnormal(sentence: str) -> bool:
    """Say whether a sentence states a finding: it names one, and denies nothing."""
    return bool(_ABNORMAL.search(sentence)) and not is_denied(sentence) and not _REMOVED.search(sentence)


_ABNORMAL = re.compile(
    r"\b(opacit\w+|effusions?|pneumothora\w+|consolidations?|infiltrates?|atelecta\w+|edema|cardiomegaly|enlarge\w+|"
    r"granulomas?|nodul\w+|mass\w*|fractures?|scarring|emphysema\w*|hyperinflat\w+|hyperexpan\w+|degenerative|"
    r"scoliosis|tortuous|calcifi\w+|thickening|congestion|elevat\w+|hernia|osteophytes?|kyphosis|deformit\w+|"
    r"airspace disease|pneumonia|blunting|interstitial|bronchiectasis|fibrosis|engorge\w+|hypoinflat\w+)\b",
    re.IGNORECASE,
)


def negation(report: str) -> str | None:
    """Deny one finding that is stated, or state one that is denied: the first sentence whose grammar is known."""
    return _edit_first(report, _negated)


def side(report: str) -> str | None:
    """Put right for left, or left for right, in the first abnormal sentence that names one side once."""
    return _edit_first(report, _other_side)


def severity(report: str) -> str | None:
    """Put the opposite size or degree in the first sentence that states one."""
    return _edit_first(report, _other_size)


def omission(report: str) -> str | None:
    """Leave out the first abnormal sentence of a report that has others."""
    parts = sentences(report)
    found = next((place for place, sentence in enumerate(parts) if is_abnormal(sentence)), None)
    if found is None or len(parts) < 2:
        return None
    return " ".join(parts[:found] + parts[found + 1 :])


def invention(report: str) -> str | None:
    """Add a finding that the report does not speak of."""
    said = report.lower()
    added = next((sentence for name, sentence in _INVENTED.items() if name not in said), None)
    return f"{_closed(report)} {added}" if added else None


_INVENTED: Mapping[str, str] = {
    "nodul": "There is a 12 mm nodule in the right upper lobe.",
    "fracture": "There is an acute fracture of the left sixth rib.",
    "pneumothora": "There is a small left apical pneumothorax.",
    "effusion": "There is a moderate right pleural effusion.",
    "hernia": "There is a large hiatal hernia.",
}


def unit(report: str) -> str | None:
    """Put cm for mm, or mm for cm, behind the first measure."""
    found = re.search(r"(?<=\d)(\s?)(mm|cm)\b", report)
    if not found:
        return None
    other = "cm" if found[2] == "mm" else "mm"
    return report[: found.start()] + found[1] + other + report[found.end() :]


def prior_study(report: str) -> str | None:
    """Turn the first comparison with an earlier film round; where there is none, make one up."""
    turned = _edit_first(report, _turned_round)
    if turned or _COMPARES.search(report):
        return turned
    return f"{_closed(report)} Findings have worsened since the prior study."


def template(report: str) -> str | None:
    """Put the usual normal report in place of an abnormal one."""
    return NORMAL_TEMPLATE if any(map(is_abnormal, sentences(report))) else None


EDITORS: Mapping[EditKind, Callable[[str], str | None]] = {
    "negation": negation,
    "side": side,
    "severity": severity,
    "omission": omission,
    "invention": invention,
    "unit": unit,
    "prior_study": prior_study,
    "template": template,
}


def _edit_first(report: str, edit: Callable[[str], str | None]) -> str | None:
    parts = sentences(report)
    for place, sentence in enumerate(parts):
        edited = None if _REMOVED.search(sentence) else edit(sentence)
        if edited and edited != sentence:
            return " ".join([*parts[:place], edited, *parts[place + 1 :]])
    return None


def _negated(sentence: str) -> str | None:
    if found := _DENIED_ALONE.match(sentence):
        if found["evidence"]:
            return f"There is evidence of {found['finding']}{found['end']}"
        return f"There is {_with_article(found['finding'])}{found['end']}"
    if found := _DENIED_TWO.match(sentence):
        return f"There is {_with_article(found['one'])} and {_with_article(found['other'])}{found['end']}"
    if found := _DENIED_LIST.match(sentence):
        named = re.split(r",? or |, ", found["findings"])
        return f"There is {_listed([_with_article(name) for name in named])}{found['end']}"
    if found := _CLEAR.match(sentence):
        return f"{found['what']} are not clear{found['rest']}{found['end']}"
    found = _STATED.match(sentence)
    if found and is_abnormal(sentence):
        bare = re.sub(rf"^(?:{_SIZES}|several|multiple|numerous|scattered) ", "", found["rest"], flags=re.IGNORECASE)
        return f"There {found['be']} no {bare}"
    return None


def _with_article(finding: str) -> str:
    """Put the article before a finding: that of its first word, an adjective's if one stands there."""
    name = next(known for known in sorted(ARTICLES, key=len, reverse=True) if finding.lower().endswith(known))
    if not ARTICLES[name]:
        return finding.lower()
    return f"{'an' if finding[0].lower() in 'aeiou' else 'a'} {finding.lower()}"


def _listed(names: list[str]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    return f"{', '.join(names[:-1])}, and {names[-1]}"


def _other_side(sentence: str) -> str | None:
    named = re.findall(r"\b(left|right)\b", sentence, re.IGNORECASE)
    if len(named) != 1 or not is_abnormal(sentence) or _FIXED_SIDE.search(sentence):
        return None
    return re.sub(r"\b(left|right)\b", lambda m: _as_cased(_SIDES[m[0].lower()], m[0]), sentence, flags=re.IGNORECASE)


_SIDES = {"left": "right", "right": "left"}
_FIXED_SIDE = re.compile(  # what only one side has
    r"\b(left|right) (heart|atri\w+|ventric\w+|main ?stem|paratracheal|cardiac|middle lobe|lingula\w*)", re.IGNORECASE
)


def _other_size(sentence: str) -> str | None:
    if is_denied(sentence) or not is_abnormal(sentence):
        return None
    found = re.search(rf"(?P<article>\b[Aa]n? )?\b(?P<size>{_SIZES})\b", sentence, re.IGNORECASE)
    if not found or re.match(r"\s?(to|and|or|bowel|amount)\b", sentence[found.end() :]):
        return None
    other = _as_cased(_OTHER_SIZE[found["size"].lower()], found["size"])
    article = found["article"] or ""
    if article:
        article = _as_cased("an " if other[0].lower() in "aeiou" else "a ", article)
    return sentence[: found.start()] + article + other + sentence[found.end() :]


_OTHER_SIZE = {
    "small": "large", "mild": "severe", "minimal": "extensive", "tiny": "large", "slight": "marked", "trace": "large",
    "moderate": "minimal", "large": "small", "severe": "mild", "marked": "slight", "massive": "tiny",
    "extensive": "minimal",
}  # fmt: skip

_COMPARES = re.compile(
    r"\b(stable|unchanged|interval|prior|previous|again|redemonstrat\w*|persistent|continued|increas\w+|decreas\w+|"
    r"improv\w+|worsen\w+|resol\w+|new(?:ly)?|compar\w+|remains?|change)\b",
    re.IGNORECASE,
)
_TURNS = (
    (r"\b(is|are) (?:stable|unchanged)(?=[.;]|$| from| since| compared)", r"\1 changed"),
    (r"^Stable (?=[a-z])", "New "),
    (r"\bstable (?=cardiomegaly|enlarge|opacit|effusion|atelecta|pleural|left|right|bilateral)", "new "),
    (r"\b(has|have) increased\b", r"\1 decreased"),
    (r"\b(has|have) decreased\b", r"\1 increased"),
    (r"\b(has|have) improved\b", r"\1 worsened"),
    (r"\b(has|have) worsened\b", r"\1 improved"),
    (r"\bIncreased (?=\w+ (?:opacit|airspace|effusion|pneumothora|edema))", "Decreased "),
    (r"\bDecreased (?=\w+ (?:opacit|airspace|effusion|pneumothora|edema))", "Increased "),
    (r"\binterval increase\b", "interval decrease"),
    (r"\binterval decrease\b", "interval increase"),
)


def _turned_round(sentence: str) -> str | None:
    for pattern, put in _TURNS:
        if not re.search(pattern, sentence) or (put in ("New ", "new ") and not is_abnormal(sentence)):
            continue
        turned = re.sub(pattern, put, sentence, count=1)
        return turned.replace("is changed", "has changed").replace("are changed", "have changed")
    return None


def _as_cased(word: str, like: str) -> str:
    return word[0].upper() + word[1:] if like[0].isupper() else word


def _closed(report: str) -> str:
    return report.strip() if report.strip().endswith(".") else f"{report.strip()}."
