"""Whether a plain reply says yes or no to the question that was asked."""

# ruff: noqa: E501  (patterns are lists of words)

import re
from dataclasses import dataclass

from medgemma.answers.reading import words
from medgemma.answers.reading.claims import Claim, Reading, Strength, read, sentences, unquoted
from medgemma.answers.reading.plain import folded

_END = r"(?=\s*(?:$|[.,;:!?|)\n，。、！।؟၊။]|\s-\s|[–—]))"
_BOTH = re.compile(
    r"\byes\s*(?:/|or|and|,)\s*(?:or\s+|and\s+)?no\b|\bno\s*(?:/|or|and|,)\s*(?:or\s+|and\s+)?yes\b", re.IGNORECASE
)
_ECHO = re.compile(
    r"\(\s*yes\s*(?:/|or)\s*no\s*\)|(?:with|reply|answer|say|respond|either)\s+(?:\w+\s+)?yes\s+or\s+no", re.IGNORECASE
)
_OPEN = re.compile(
    r"\b(?:can(?:not|'t)\s+(?:be\s+)?(?:\w+\s+)?(?:exclude|rule)\w*|may|might|could|possibl[ey]|possibility|uncertain|unclear|equivocal|indeterminate|"
    r"nicht\s+(?:sicher\s+)?auszuschliessen|moglich\w*|ne\s+(?:peut|saurait)\s+etre\s+exclue?|possible|no\s+se\s+puede\s+(?:descartar|excluir)|"
    r"posible|nao\s+(?:se\s+)?pode\s+(?:ser\s+)?(?:exclu|descart)\w*|possivel|non\s+si\s+puo\s+escludere|possibile|tidak\s+dapat\s+disingkirkan|mungkin)\b|"
    r"不能排除|无法排除|可能|否定できません|否定できない|可能性|배제할 수 없|가능성|नकारा नहीं|संभव|সম্ভব|لا يمكن استبعاد|محتمل",
    re.IGNORECASE,
)
"""What leaves the question open."""
_PROBABLY = re.compile(
    r"^\W*(?:probably|most\s+likely|likely|presumably|wahrscheinlich|probablement|probablemente|provavelmente|probabilmente|mungkin)\s+(not|nicht|pas|no|nao|non|tidak|yes|ja|oui|si|sim|ya)\b",
    re.IGNORECASE,
)
_NOT_SO = re.compile(
    r"\W*(?:(?:absolutely|definitely|certainly|clearly|of\s+course|i\s+think|very)\s+)?(?:not(?:\s+\w+){0,4}|(?:highly\s+)?unlikely)\W*",
    re.IGNORECASE,
)
_OFFERS = re.compile(
    r"\W*(?:yes|sure|no\s+problem)\W+(?:I|let\s+me|of\s+course)\s*(?:can|will|'ll|would|am|look)?\b(?!\s+see)",
    re.IGNORECASE,
)
_ANSWERED = re.compile(
    r"\b(?:answer|answered|say|reply|so|thus|therefore|hence|is|be|with|definitely|clearly|probably|but|then|a)\s+(?P<said>yes|no)"
    + _END,
    re.IGNORECASE,
)


_SAME = (
    ("fractur", "break", "broken", "bony injury"),
    ("effusion", "fluid"),
    ("hemorrha", "bleed", "hematom", "blood"),
    ("bleed", "hemorrha", "hematom", "blood"),
    ("pneumothorax", "air in the pleural"),
    ("mass", "tumo", "lump"),
    ("nodul", "nodule"),
    ("edem", "edema", "swelling"),
    ("consolidat", "airspace opacif"),
    ("cardiomeg", "enlarged heart", "heart is enlarged"),
)
"""Words for one finding; the first is the stem that a question names."""
_ABNORMAL = re.compile(
    r"\b(?:enlarged|abnormal|widened|increased|reduced|dilated|too\s+(?:large|big|small)|cardiomegaly|displaced|malpositioned|shifted)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Existence:
    """A question of whether something is there."""

    head: str
    """What a statement must name, lower case and folded, without its ending."""
    is_absence: bool
    """It asks whether the thing is absent."""


_ASKS_ABSENCE = (
    r"(?:is|are)\s+(?:an?\s+|any\s+|the\s+)?(?P<x>[\w\s-]+?)\s+(?:absent|excluded|ruled\s+out|missing)",
    r"(?:is|are)\s+[\w\s]+?\s+(?:free\s+of|clear\s+of|free\s+from|without)\s+(?P<x>[\w\s-]+)",
    r"can\s+(?:an?\s+)?(?P<x>[\w\s-]+?)\s+be\s+(?:excluded|ruled\s+out)",
)
_ASKS_PRESENCE = (
    r"(?:is|are)\s+there\s+(?:an?\s+|any\s+)?(?:signs?\s+of\s+|evidence\s+of\s+)?(?P<x>[\w\s-]+?)(?:\s+(?:in|on|of|at|here|present|seen|visible)\b.*)?",
    r"(?:is|are)\s+(?:an?\s+|any\s+)?(?P<x>[\w\s-]+?)\s+(?:seen|visible|present|shown|evident)\b.*",
    r"do(?:es)?\s+(?:the\s+|this\s+)?\w+(?:\s+\w+)?\s+(?:show|contain|have|demonstrate|reveal)\s+(?:an?\s+|any\s+)?(?P<x>[\w\s-]+?)(?:\s+(?:in|on|at)\b.*)?",
)
_ASKS_PRESENCE_ELSEWHERE = (
    r"(?:y\s+a-t-il|hay|ha|existe|e\s+presente|c'e|liegt|besteht|gibt\s+es|je,?\s+kuna|apakah\s+(?:ada|terdapat)|oes|a\s+ka|se)\s+"
    r"(?:un[ae]?\s+|des\s+|de\s+l'|un'|eine?n?\s+|signos\s+de\s+)?(?P<x>[\w-]+).*",
    r"क्या\s+(?P<x>.+?)\s+है",
    r"(?:هل\s+)?(?:يوجد|هناك)\s+(?P<x>\S+).*",
    r"(?P<x>.+?)(?:は(?:ありますか|認めますか)|が(?:ありますか|認められますか))",
    r"(?:是否)?有(?:没有)?(?P<x>.+?)吗?",
    r"(?P<x>.+?)(?:이|가|은|는)\s*(?:있습니까|보입니까|있나요)",
    r"(?P<x>.+?)\s+(?:আছে\s+কি|রয়েছে\s+কি)",
    r"(?P<x>.+?)\s*ရှိပါသလား",
)


def existence(question: str) -> Existence | None:
    """Return what a question asks the existence of; None for another kind of question."""
    asked = folded(question).strip(" ?¿？؟。။\n").lower()
    for patterns, is_absence, is_last in (
        (_ASKS_ABSENCE, True, True),
        (_ASKS_PRESENCE, False, True),
        (_ASKS_PRESENCE_ELSEWHERE, False, False),
    ):
        for pattern in patterns:
            if found := re.fullmatch(pattern, asked):
                named = found.group("x").split()
                if named and not {"normal", "size", "right", "correct", "place"} & set(named):
                    head = named[-1] if is_last else named[0] if named[0].isascii() else found.group("x")
                    return Existence(_stem(head), is_absence)
    return None


def said_yes_no(text: str, question: str = "") -> Reading:
    """Return "yes" or "no" as a reply says it.

    Args:
        text: From `plain.plain`.
        question: What was asked; without it only the words yes and no are read, since "there is no effusion" answers
            one question with no and another with yes.
    """
    asked = existence(question)
    claims: list[Claim] = []
    corrections = []
    after_question, announced = False, False
    text = _ECHO.sub(" ", unquoted(folded(text)))
    for number, sentence in enumerate(sentences(text)):
        if words.CORRECTS.search(sentence):
            corrections.append(number)
        if re.search(r"[?？؟]\s*$", sentence) and not _BOTH.search(sentence):
            after_question = asked is None or asked.head not in sentence.lower()
            continue
        claims += [
            Claim(
                frozenset(said),
                Strength.MENTIONED if after_question and strength == Strength.STATED else strength,
                number,
            )
            for said, strength in _said(sentence, asked, announced, question)
        ]
        announced = bool(re.search(rf"(?:{words.FINAL.pattern}|{words.ANSWER.pattern})\W*$", sentence, re.IGNORECASE))
        after_question = False
    return read(claims, corrections)


def _said(sentence: str, asked: Existence | None, announced: bool, question: str) -> list[tuple[set[str], Strength]]:
    if _BOTH.search(sentence):
        return [({"yes", "no"}, Strength.STATED)]
    if words.SAID_BY_OTHERS.search(sentence) and " but " not in sentence:
        return []
    sentence = sentence.rpartition(" but ")[2] if words.SAID_BY_OTHERS.search(sentence) else sentence
    if _NOT_SO.fullmatch(sentence):
        return [({"no"}, Strength.STATED)]
    if _OFFERS.match(sentence):
        return []
    if found := _PROBABLY.match(sentence):
        return [({"no" if words.DENIES.search(found.group(1)) else "yes"}, Strength.STATED)]
    marker = max((m.end() for m in [*words.FINAL.finditer(sentence), *words.ANSWER.finditer(sentence)]), default=0)
    rest = re.sub(rf"^\W*(?:{words.CORRECTS.pattern})\W+", "", sentence[marker:], flags=re.IGNORECASE)
    rest = re.sub(r"^\W*(?:is|est|es|ist|lautet|e|adalah|ni|yw|eshte)?[\W_]*", "", rest)
    strength = Strength.FINAL if words.FINAL.search(sentence[: marker + 1]) else Strength.STATED
    direct = _direct(rest)
    told = _finding(rest, asked) if direct and asked and asked.head in rest.lower() else None
    if direct and told not in (None, direct):
        return [({"yes", "no"}, Strength.STATED)]
    if direct and not (re.search(r"\bbut\b", rest) and not marker):
        return [({direct}, Strength.FINAL if announced else strength)]
    answered = list(_ANSWERED.finditer(sentence))
    if answered and not _OPEN.search(sentence):
        return [({answered[-1].group("said").lower()}, Strength.STATED)]
    cells = [cell.strip().lower() for cell in sentence.strip("| ").split("|")]
    if len(cells) > 1 and cells[-1] in ("yes", "no"):
        return [({cells[-1]}, Strength.STATED)]
    told = _finding(sentence, asked) if asked else _normality(sentence, question)
    is_final = bool(marker) and strength == Strength.FINAL
    if is_final and not told and re.match(r"\s*[:=]\s*\S", sentence[marker:]):
        return [(set(), Strength.FINAL)]
    return [({told}, Strength.FINAL if is_final else Strength.MENTIONED)] if told else []


def _direct(rest: str) -> str | None:
    """Yes or no at the beginning; "No evidence", "No doubt" and "No comment" are none."""
    start = rest.lstrip(" \"'([*-")
    for said, pattern in (("no", words.NO), ("yes", words.YES)):
        found = pattern.match(start)
        if found and (
            re.match(_END, start[found.end() :])
            or (said == "yes" and start[: found.end()].isascii() and start[:3].lower() == "yes")
        ):
            return said
    return None


def _finding(sentence: str, asked: Existence) -> str | None:
    """What a statement about the thing asked for says; None if it does not name it or leaves it open."""
    if _OPEN.search(sentence) or re.search(r"\b(?:whether|if|to\s+(?:decide|look))\b", sentence, re.IGNORECASE):
        return None
    bare = words.NOT_DENIALS.sub(" ", sentence)
    clauses = [
        part for part in re.split(r"[,;]|\bbut\b|\bbecause\b|\bwith\s+no\b", bare) if _names(part.lower(), asked.head)
    ]
    if not clauses:
        is_none = re.search(r"\b(?:none|nothing)\W*(?:$|(?:is|was|were|are|exists?|seen|found)\b)", bare, re.IGNORECASE)
        return None if not is_none else "yes" if asked.is_absence else "no"
    denied = {words.DENIES.search(clause) is not None for clause in clauses}
    if len(denied) > 1:
        return None
    return "yes" if denied.pop() == asked.is_absence else "no"


def _names(part: str, head: str) -> bool:
    same = next((row for row in _SAME if head.startswith(row[0]) or row[0].startswith(head)), ())
    return any(word in part for word in (head, *same))


def _normality(sentence: str, question: str) -> str | None:
    """What a statement says to "Is the heart of normal size?"; None to other questions."""
    asked = re.match(r"(?:is|are)\s+(?:the\s+)?(\w+)\b.*\bnormal\b", folded(question).lower())
    if not asked or asked.group(1) not in sentence.lower() or _OPEN.search(sentence):
        return None
    is_denied = words.DENIES.search(words.NOT_DENIALS.sub(" ", sentence)) is not None
    if re.search(r"\bnormal\b", sentence, re.IGNORECASE):
        return "no" if is_denied else "yes"
    return ("yes" if is_denied else "no") if _ABNORMAL.search(sentence) else None


def _stem(word: str) -> str:
    """A word without its ending, so that fractured names a fracture."""
    return word if not word.isascii() else word[: max(4, len(word) - 2)] if len(word) > 5 else word.rstrip("s")
