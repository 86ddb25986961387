"""The number that a plain reply gives: in the unit asked, and no range, bound, operand, date or part of a name."""

# ruff: noqa: E501  (patterns are lists of words)

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medgemma.answers.reading import words
from medgemma.answers.reading.claims import Strength, sentences, unquoted

_SCALE = {
    "length": {"µm": 1e-6, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "nm": 1e-9},
    "mass": {"ng": 1e-9, "µg": 1e-6, "ug": 1e-6, "mcg": 1e-6, "mg": 1e-3, "g": 1.0, "kg": 1e3, "pg": 1e-12},
    "volume": {"µl": 1e-6, "ul": 1e-6, "ml": 1e-3, "cl": 1e-2, "dl": 1e-1, "l": 1.0, "cc": 1e-3},
    "amount": {"nmol": 1e-9, "µmol": 1e-6, "umol": 1e-6, "mmol": 1e-3, "mol": 1.0, "pmol": 1e-12},
}
_OTHER_UNITS = (
    "%", "percent", "mmhg", "kpa", "bpm", "hu", "iu", "lb", "lbs", "ft", "in", "inches", "years", "year", "months", "weeks", "days", "day",
    "hours", "minutes", "min", "seconds", "s", "ms", "h", "units", "meq", "°c", "°f", "points", "patients", "kg/m2", "stone",
)  # fmt: skip
_LONG = {
    "milligrams": "mg", "milligram": "mg", "grams": "g", "gram": "g", "micrograms": "µg", "kilograms": "kg", "millimetres": "mm", "millimeters": "mm",
    "centimetres": "cm", "centimeters": "cm", "metres": "m", "litres": "l", "liters": "l", "millilitres": "ml", "milliliters": "ml", "percent": "%",
    "microlitre": "µl", "microliter": "µl", "per cent": "%", "year": "years", "month": "months", "day": "days", "week": "weeks", "prozent": "%",
    "pounds": "lb", "jahre": "years", "ans": "years", "anos": "years", "anni": "years",
}  # fmt: skip
_WORDS = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "half": 0.5}
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_SPELT = re.compile(
    rf"\b(?:({_TENS})[- ](one|two|three|four|five|six|seven|eight|nine)|({'|'.join(_WORDS)}))\b(?!\s+(?:hundred|thousand|million))",
    re.IGNORECASE,
)
_DIGITS = r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:(?:[ ,'\u202f\u00a0]\d{3})+(?!\d)|(?:\.\d{3}){2,}(?!\d))(?:[.,]\d+)?|\d+(?:[.,]\d+)?|[.,]\d+"
_NUMBER = re.compile(
    rf"(?<![A-Za-z0-9_.,/^])(?P<sign>[+-]\s?)?(?P<digits>{_DIGITS})(?:\s*/\s*(?P<below>\d+)(?![\d/.,]))?"
    r"(?:\s*[x×*·]\s*10\s*(?:\^|\*\*)?\s*[{(]?\s*(?P<power>[+-]?\s?\d+)[})]?|[eE](?P<exponent>[+-]?\d+))?(?![A-Za-z0-9_]|\.\d)|"
    rf"(?<![A-Za-z0-9_.,/^])(?P<sign2>[+-])?(?P<glued>\d+(?:[.,]\d+)?)(?=(?:mg|g|kg|mm|cm|ml|mL|L|µg|mmHg|years|bpm|HU|°)\b|%)"
)
_SIDES = re.compile(r"\d\s*(?:mm|cm)?\s*[x×]\s*(?!10\s*(?:\^|\*\*))\d[\d.,]*\s*(?:mm|cm|m)?\b(?!.*=)")
"""12 x 8 mm: two sides."""
_DATE = re.compile(
    r"\b\d{1,2}[/.-]\d{1,2}[/.-]\d{4}\b|\b\d{1,2}[/.]\d{1,2}[/.]\d{2}\b|\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}:\d{2}(?::\d{2})?\b"
)
_ASIDE = re.compile(
    r"\([^()]*(?:\b(?:normal|reference|range|ref|target|SD|CI|limits?|from|was|previously|upper|lower|vs|versus)\b|\d\s*(?:[-–]|to)\s*\d)[^()]*\)",
    re.IGNORECASE,
)
_SPREAD = re.compile(
    r"(?:±|\+/-|\+-|\bSD\b|\bstandard\s+(?:deviation|error)\b(?:\s+of)?|\bSE\b|\b95\s*%\s*CI\b)\s*:?\s*[\[(]?\d[\d.,]*(?:\s*(?:[-–,]|to)\s*\d[\d.,]*)?\s*%?[\])]?",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:\b(?:at\s+(?:least|most)|below|under|less\s+than|more\s+than|over|above|up\s+to|greater\s+than|fewer\s+than|no\s+(?:more|less)\s+than|exceed\w*|"
    r"mindestens|hochstens|unter|uber|weniger\s+als|mehr\s+als|moins\s+de|plus\s+de|menos\s+de|mas\s+de|mais\s+de|meno\s+di|piu\s+di)|[<>≤≥])\s*(?:or\s+equal\s+to\s*)?$",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"(?m)^\s*(?:step\s+)?\d{1,2}[.):](?=\s)|\bstep\s+\d+\b|\[\d\]", re.IGNORECASE)
_ASIDE_CLAUSE = re.compile(
    r"\b(?:others?|previous(?:ly)?|yesterday|prior|usual|older|last\s+(?:week|month|year)|before|if|e\.?g|for\s+example|normal\s+(?:is|range|values?)|reference|"
    r"threshold|cut-?off|limit|target|goal|first\s+(?:read|said|thought)|older|baseline|ieri|ontem|ayer|hier|gestern|avant|compared)\b|昨日|以前|어제|कल|أمس",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A number that a reply gives, or why it gives none."""

    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class _Found:
    values: tuple[float, ...]
    """More than one where a comma may be either."""
    sentence: int
    strength: Strength
    has_unit: bool
    is_result: bool
    """It follows an equals sign, or a word that draws a conclusion."""
    is_open: bool
    """A range or a bound."""
    is_aside: bool


def said_number(
    text: str, unit: str = "", possible_range: tuple[float, float] | None = None, question: str = ""
) -> Number:
    """Return the number that a reply gives.

    Args:
        text: From `plain.plain`.
        unit: Of the number returned; what is in another one is converted if only the decimal point moves.
        possible_range: What the value can be, in `unit`.
        question: What was asked; of several numbers the one whose line names it is meant.
    """
    text = _EQUATION_LINES.sub(" = ", _ascii_digits(unquoted(text)))
    text = _LIST_ITEM.sub(" ", _DATE.sub(" ", _SPREAD.sub(" ", _ASIDE.sub(" ", text))))
    if re.search(r"10\s*\^?\s*\d+", unit) and (own := re.search(r"10\s*\^?\s*(\d+)", unit)):
        text = re.sub(rf"\s*[x×*·]\s*10\s*\^?\s*{own.group(1)}(?!\d)", " ", text)
    text = re.sub(r"(?<![\d×*·x] )(?<![\w.×*·])10\s*\^\s*(\d+)(?!\d)", r"1e\1", text)
    found, corrections, announced = [], [], False
    for number, sentence in enumerate(sentences(text)):
        if words.CORRECTS.search(sentence) or re.match(r"\W*no\s*,", sentence, re.IGNORECASE):
            corrections.append(number)
        found += _in_sentence(sentence, number, unit, possible_range, announced)
        announced = bool(re.search(rf"(?:{words.FINAL.pattern})\W*$", sentence, re.IGNORECASE))
    decided = _decided(found, corrections, has_unit=bool(unit))
    if decided.value is None and question and (about := _about(question, sentences(text), found)):
        return _decided(about, [], has_unit=bool(unit))
    return decided


def _about(question: str, lines: Sequence[str], found: Sequence[_Found]) -> list[_Found]:
    """The numbers of the one line that names what was asked."""
    names = re.findall(r"[A-Z]{2,}\w*|[a-z]{5,}", re.sub(r"^\W*\w+\s+", "", question))
    about = {f.sentence for f in found if any(name in lines[f.sentence] for name in names)}
    return [f for f in found if f.sentence in about] if len(about) == 1 else []


_EQUATION_LINES = re.compile(r"\n\s*=\s*")


def _decided(found: Sequence[_Found], corrections: Sequence[int], *, has_unit: bool) -> Number:
    for correction in reversed(corrections):
        later = [f for f in found if f.sentence >= correction and f.values and not f.is_open]
        if later:
            found = [*later[-1:]] if any(f.sentence == correction and f is not later[-1] for f in later) else later
            break
    if any(f.strength == Strength.FINAL for f in found):
        found = [f for f in found if f.strength == Strength.FINAL]
    if has_unit and any(f.has_unit for f in found):
        found = [f for f in found if f.has_unit]
    if not all(f.is_aside for f in found):
        found = [f for f in found if not f.is_aside]
    if any(f.is_open for f in found):
        return Number(None, "a range or a bound, no value")
    if len({f.values for f in found}) > 1 and any(f.is_result for f in found):
        found = [f for f in found if f.is_result][-1:]
    values = {value for f in found for value in f.values}
    if len(values) == 1:
        return Number(values.pop())
    return Number(
        None,
        "the text gives several numbers, and does not choose" if values else "the text gives no number in the unit",
    )


def _in_sentence(
    sentence: str, number: int, unit: str, within: tuple[float, float] | None, announced: bool
) -> list[_Found]:
    text = _SPELT.sub(_spelt, sentence)
    final = max((m.end() for m in words.FINAL.finditer(text)), default=0)
    places = list(_NUMBER.finditer(text))
    found: list[_Found] = []
    for place in places:
        before, after = text[: place.start()], text[place.end() :]
        if re.match(r"\s*(?:=(?!=)|[+×*/÷^]|[x-]\s*[\d(])", after) and re.search(r"=", text):
            continue  # an operand
        if (
            re.match(r"\s*(?:[-–]|to|bis|a|-)\s*\d", after)
            or re.search(
                r"\bbetween\s+[\d.,]+\s*\S*\s*(?:and|-)\s*$|\d\s*\S{0,8}\s*(?:[-–]|\bto\b|\bbis\b)\s*$", before
            )
            or (re.search(r"\b(?:between|zwischen|entre|tra)\s*$", before))
        ):
            found.append(_Found((), number, Strength.MENTIONED, True, False, True, _aside(text, place)))
            continue
        is_own, scale = _scale(after, unit)
        if scale is None or (unit == "%" and not is_own and re.match(r"[01]?[.,]\d", place.group("digits") or "")):
            continue
        values = tuple(sorted({float(f"{scale * value:.12g}") for value in _values(place, within, scale)}))
        if within:
            values = tuple(value for value in values if within[0] <= value <= within[1])
        if not values:
            continue
        strength = Strength.FINAL if announced or (final and place.start() >= final) else Strength.MENTIONED
        is_result = bool(re.search(r"=\s*(?:about|≈|~)?\s*$", before)) or bool(
            re.search(
                r"\b(?:i\.?e\.?|in\s+other\s+words|makes|so|thus|therefore|hence|equals|corresponds\s+to|that\s+is|or\s+rather|total(?:s|ling)?)\b[^\d]*$",
                before,
                re.IGNORECASE,
            )
        )
        below = float(place.group("below") or "inf")
        is_open = (
            _BOUND.search(before) is not None
            or _SIDES.search(text) is not None
            or any(v * below > below for v in values if below != float("inf"))
            or (bool(unit) and re.match(r"\s*\S{0,12}\s+or\s+(?:more|less)\b", after) is not None)
        )
        found.append(_Found(values, number, strength, is_own, is_result, is_open, _aside(text, place)))
    return _without_alternatives(text, found)


def _without_alternatives(text: str, found: list[_Found]) -> list[_Found]:
    """Two numbers joined by "or" are no value."""
    if re.search(rf"\d\s*\S{{0,8}}\s+{words.OR}\s+[\d]", text, re.IGNORECASE) and len(found) > 1:
        return [replace(f, is_open=True) for f in found]
    return found


def _aside(text: str, place: re.Match[str]) -> bool:
    """Whether the clause that a number stands in is about another value."""
    start = max(text.rfind(sign, 0, place.start()) for sign in (", ", ";", " but ", ": "))
    return _ASIDE_CLAUSE.search(text[start + 1 : place.end() + 12]) is not None


def _values(place: re.Match[str], within: tuple[float, float] | None, scale: float) -> list[float]:
    """The readings of the digits: a comma or a point before three digits may be either."""
    digits = re.sub(r"[ '\u202f\u00a0]", "", place.group("digits") or place.group("glued"))
    sign = -1.0 if "-" in (place.group("sign") or place.group("sign2") or "") else 1.0
    one_group = re.fullmatch(r"(\d{1,3})([.,])(\d{3})", digits)
    if one_group and one_group[1] != "0":
        readings = [float(one_group[1] + one_group[3]), float(f"{one_group[1]}.{one_group[3]}")]
        fitting = [v for v in readings if within and within[0] <= v * scale * sign <= within[1]]
        plain = fitting or (readings[:1] if one_group[2] == "," else readings[1:])
    elif re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        plain = [float(digits.replace(",", ""))]
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?", digits) or re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", digits):
        plain = [float(digits.replace(".", "").replace(",", "."))]
    else:
        plain = [float(digits.replace(",", "."))]
    power = place.group("power") or place.group("exponent")
    values = [sign * float(f"{value!r}e{int(power.replace(' ', ''))}") if power else sign * value for value in plain]
    below = place.group("below")
    return [value / float(below) for value in values] if below and float(below) else values


def _scale(after: str, unit: str) -> tuple[bool, float | None]:
    """Whether the unit asked follows, and the factor to it; None for another unit that only a formula converts."""
    if not unit:
        return False, 1.0
    written = (
        after.lstrip(" ~([")
        .replace("μ", "µ")
        .replace("²", "2")
        .replace("^2", "2")
        .replace("per ", "/")
        .replace("/ ", "/")
    )
    for long, short in _LONG.items():
        written = re.sub(rf"(?i)(?<![A-Za-z]){long}\b", short, written)
    asked = unit.replace("μ", "µ").lower()
    asked = _LONG.get(asked, asked)
    low = written.lower()
    if low.startswith(asked) and not re.match(r"[a-z/]", low[len(asked) :]):
        return True, 1.0
    said = re.match(r"[a-zµ°%/0-9]+", low)
    parts = said.group(0).split("/") if said else []
    wanted = asked.split("/")
    if parts and len(parts) >= 1 and _dimension(parts[0]) and len(parts) == len(wanted):
        factor = 1.0
        for place, (one, other) in enumerate(zip(parts, wanted, strict=True)):
            ratio = _ratio(one, other)
            if ratio is None:
                return False, None
            factor = factor * ratio if place == 0 else factor / ratio
        return True, float(f"{factor:.12g}")
    if parts and (parts[0] in _OTHER_UNITS or _dimension(parts[0])) and parts[0] != wanted[0]:
        return False, None
    return False, 1.0


def _dimension(unit: str) -> str | None:
    return next((name for name, scales in _SCALE.items() if unit in scales), None)


def _ratio(one: str, other: str) -> float | None:
    if one == other:
        return 1.0
    dimension = _dimension(one)
    return _SCALE[dimension][one] / _SCALE[dimension][other] if dimension and other in _SCALE[dimension] else None


def _ascii_digits(text: str) -> str:
    digits = "".join(
        str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() and c not in "⁰¹²³⁴⁵⁶⁷⁸⁹" else c for c in text
    )
    return digits.translate(str.maketrans("٫−", ".-", "٬"))


def _spelt(match: re.Match[str]) -> str:
    tens, one, alone = match.groups()
    return str(_WORDS[alone.lower()] if alone else _WORDS[tens.lower()] + _WORDS[one.lower()])
