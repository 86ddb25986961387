"""What the findings of one text say of a finding of another: entailed, contradicted, or not spoken of."""

from collections.abc import Iterable, Sequence
from functools import cache

from medgemma.entailment.chest.findings import Finding
from medgemma.entailment.chest.vocabulary import (
    ACUTE,
    ANY,
    FINDINGS,
    OPACITY,
    OPPOSITES,
    UNCLEAR,
    WEAK_QUALIFIERS,
    Change,
)
from medgemma.entailment.scores import Label


def said_of(finding: Finding, premise: Sequence[Finding]) -> Label:
    """Return what a premise says of one finding of a hypothesis.

    One statement of the premise that entails it decides, since a report may speak of two nodules; then one that
    contradicts it, unless another statement of the same leaves it open.
    """
    if finding.name == UNCLEAR and any(_is_denied(said, finding) for said in premise):
        return "entailment" if finding.status == "absent" else "contradiction"
    if finding.status == "absent" and finding.name in (ACUTE, ANY) and not finding.sides:
        return _nothing(finding.name, premise)
    judge = {"absent": _absent, "possible": _possible, "present": _present}[finding.status]
    return judge(finding, premise)


@cache
def wider(name: str) -> frozenset[str]:
    """The finding itself and all that it is one of."""
    return frozenset({name}).union(*(wider(parent) for parent in FINDINGS[name].wider))


def _present(finding: Finding, premise: Iterable[Finding]) -> Label:
    verdicts: list[Label] = []
    for said in premise:
        if said.status == "absent":
            if said.name in wider(finding.name) and _denies(said, finding):
                verdicts.append("contradiction")
        elif said.status == "present" and OPPOSITES.get(said.name) == finding.name:
            verdicts.append("contradiction")
        elif finding.name in wider(said.name):
            verdicts.append("neutral" if said.status == "possible" else _attributes(said, finding))
    if "entailment" in verdicts:
        return "entailment"
    is_open = any(_leaves_open(said, finding) for said in premise)
    return "contradiction" if "contradiction" in verdicts and not is_open else "neutral"


def _leaves_open(said: Finding, finding: Finding) -> bool:
    """Whether a statement is of this finding and does not decide it."""
    if said.status == "possible":
        return finding.name in wider(said.name) and _place(said, finding) != "contradiction"
    return said.status == "present" and said.name == finding.name and _attributes(said, finding) == "neutral"


def _possible(finding: Finding, premise: Iterable[Finding]) -> Label:
    verdicts: list[Label] = []
    for said in premise:
        if said.status == "absent":
            if said.name in wider(finding.name) and _denies(said, finding):
                verdicts.append("contradiction")
        elif finding.name in wider(said.name):
            verdicts.append(_attributes(said, finding))
    return _strongest(verdicts)


def _absent(finding: Finding, premise: Iterable[Finding]) -> Label:
    verdicts: list[Label] = []
    for said in premise:
        if said.status == "absent":
            if _is_denied(said, finding):
                verdicts.append("entailment")
        elif finding.name in wider(said.name) and _is_within(said, finding):
            verdicts.append("contradiction")
    return "contradiction" if "contradiction" in verdicts else _strongest(verdicts)


def _nothing(name: str, premise: Sequence[Finding]) -> Label:
    """Nothing acute, or nothing at all: entailed where the lungs are free and nothing of the kind is stated."""
    if any(said.status != "absent" and name in wider(said.name) for said in premise):
        return "contradiction"
    denied = {said.name for said in premise if said.status == "absent" and not said.sides}
    is_free = denied & {UNCLEAR, OPACITY, "airspace disease", "consolidation", "infiltrate", name, ANY}
    is_whole = name == ACUTE or "cardiomegaly" in denied or ANY in denied
    return "entailment" if is_free and is_whole else "neutral"


def _strongest(verdicts: Sequence[Label]) -> Label:
    order: tuple[Label, ...] = ("entailment", "contradiction")
    return next((label for label in order if label in verdicts), "neutral")


def _attributes(said: Finding, finding: Finding) -> Label:
    """Compare place, size, change and qualifiers of two findings, of which the first is of the second's kind."""
    verdicts = (
        _place(said, finding),
        _valued(said.size, finding.size),
        _changed(said.change, finding.change),
        _valued(said.larger_side or "", finding.larger_side or ""),
        _valued(said.count, finding.count),
        _valued(" ".join(sorted(said.measures)), " ".join(sorted(finding.measures))),
        "entailment" if finding.qualifiers - {"large", "new"} - WEAK_QUALIFIERS <= said.qualifiers else "neutral",
    )
    if "contradiction" in verdicts:
        return "contradiction"
    return "neutral" if "neutral" in verdicts else "entailment"


def _place(said: Finding, finding: Finding) -> Label:
    """A premise that places a finding places all of it; a more exact place than its own is not spoken of."""
    if finding.is_only and said.sides and finding.sides and finding.sides != said.sides:
        return "contradiction"
    for known, asked in ((said.sides, finding.sides), (said.zones, finding.zones)):
        if known and asked and not asked <= known:
            return "contradiction"
    is_more_exact = any(
        asked and not known for known, asked in ((said.sides, finding.sides), (said.zones, finding.zones))
    )
    return "neutral" if is_more_exact else "entailment"


def _valued(known: str, asked: str) -> Label:
    if not asked or known == asked:
        return "entailment"
    return "contradiction" if known else "neutral"


def _changed(known: Change, asked: Change) -> Label:
    if not asked or known == asked:
        return "entailment"
    if not known or "persistent" in (known, asked):
        if asked == "persistent" and known in ("stable", "increased", "decreased"):
            return "entailment"
        return "contradiction" if "new" in (known, asked) and known else "neutral"
    return "contradiction"


def _denies(absent: Finding, finding: Finding) -> bool:
    """Whether a denial is of this finding: of its place or of no place, and of no narrower kind."""
    if absent.sides and not absent.sides & finding.sides:
        return False
    if absent.zones and not absent.zones & finding.zones:
        return False
    strong = absent.qualifiers - WEAK_QUALIFIERS
    return strong <= finding.qualifiers | ({"large"} if finding.size == "large" else set())


def _is_denied(said: Finding, finding: Finding) -> bool:
    """Whether a statement of the premise denies a finding, or all that it is one of; no opacity is clear lungs."""
    names = wider(finding.name) | ({OPACITY} if finding.name == UNCLEAR else frozenset())
    return said.status == "absent" and said.name in names and _covers(said, finding)


def _covers(absent: Finding, finding: Finding) -> bool:
    """Whether a denial of the premise holds the hypothesis' one: anywhere covers here, any effusion a large one."""
    if absent.sides and not (finding.sides and finding.sides <= absent.sides):
        return False
    if absent.zones and not (finding.zones and finding.zones <= absent.zones):
        return False
    return absent.qualifiers - WEAK_QUALIFIERS <= finding.qualifiers


def _is_within(said: Finding, finding: Finding) -> bool:
    """Whether what the premise holds there lies in what the hypothesis denies: its place, its kind."""
    for known, denied in ((said.sides, finding.sides), (said.zones, finding.zones)):
        if denied and not known & denied:
            return False
    strong = finding.qualifiers - WEAK_QUALIFIERS - {"large"}
    is_large_alone = "large" in finding.qualifiers and said.size not in ("large", "")
    return strong <= said.qualifiers and not is_large_alone
