"""A reply as plain text: markup, LaTeX and full-width forms resolved, and what runs on to another question cut off."""

# ruff: noqa: E501  (patterns are lists of words)

import re
import unicodedata

_TAG_ANSWER = re.compile(r"<\s*/?\s*(?:final_?|the_?)?(?:answer|final|choice|response)\s*>", re.IGNORECASE)
_TAG = re.compile(r"</?(?![A-Z]>)[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX_SIGNS = {r"\times": "×", r"\cdot": "×", r"\pm": "±", r"\rightarrow": " ", r"\to": " ", r"\%": "%"}
_LATEX = re.compile(r"\\(?:textbf|textit|textrm|text|mathrm|mathbf|mathit|mathsf|quad|qquad|left|right|[,;!\s()\[\]])")
_EMPHASIS = re.compile(r"\*+|`+|__+|\$+|^\s*#+\s*|^\s*>+\s*(?![\s\d])|^\s*[-•→⇒]\s+|[→⇒]", re.MULTILINE)
_TABLE_RULE = re.compile(r"^\s*\|?[\s:|-]*-{2,}[\s:|-]*\|?\s*$", re.MULTILINE)
_RUN_ON = re.compile(
    r"\n\s*(?:(?:(?:next|another|new)\s+)?question(?:\s*\d+)?\s*[:.)]|q\s*\d*\s*[:.)]|(?:user|human|model)\s*(?::|\n))",
    re.IGNORECASE,
)


_BRITISH = re.compile(r"ae(?=[a-z])|\boe(?=[ds][a-z])|(?<=f)oe(?=t)|(?<=h)oe(?=[ai])|(?<=p)oe(?=i)", re.IGNORECASE)
"""oedema, foetal, diarrhoea, haemorrhage; not does, toe."""


def plain(text: str) -> str:
    """Return a reply without markup, in compatible forms (`Ｃ` is `C`); `<answer>` and LaTeX boxes become `Answer:`."""
    text = _FRACTION.sub(r"\1/\2", text)
    for sign, meant in _LATEX_SIGNS.items():
        text = re.sub(re.escape(sign) + r"(?![A-Za-z])", meant, text)
    text = _TAG.sub(" ", _TAG_ANSWER.sub("\nFinal answer: ", text))
    text = _BOXED.sub("\nFinal answer: ", text)
    text = _LATEX.sub(" ", text)
    text = re.sub(r"(?m)^(\W*?)\[(x| )\]\s*(.+)$", _ticked, text)
    text = re.sub("[✅✔☑]\ufe0f?", ": correct ", re.sub("[❌✘✗✖]\ufe0f?", ": incorrect ", text))
    text = text.translate(str.maketrans("【】〔〕{}’‘−–—", "[][]  ''---")) if "box_2d" not in text else text
    text = unicodedata.normalize("NFKC", _superscripts_kept(text))
    text = _EMPHASIS.sub("", _TABLE_RULE.sub("", text))
    return re.sub(r"[ \t\u00a0]+", " ", re.sub(r"(?:\n\s*Final answer:\s*)+(?=$|\n)", "\n", text)).strip()


def _ticked(box: re.Match[str]) -> str:
    return f"{box[3]}: {'correct' if box[2] == 'x' else 'incorrect'}"


def _superscripts_kept(text: str) -> str:
    """Write superscript digits as powers, which NFKC would run into the number before."""
    return re.sub(r"(?<=\d)[⁺⁻]?[⁰¹²³⁴-⁹]+", lambda found: "^" + unicodedata.normalize("NFKC", found.group(0)), text)


def before_run_on(text: str) -> str:
    """Return what a reply says before it runs on to a question that nobody asked, or to a made-up dialogue."""
    found = _RUN_ON.search(text)
    is_numbered = re.match(r"\W*(?:question|q)\s*\d", text, re.IGNORECASE) is not None
    return text[: found.start()] if found and text[: found.start()].strip() and not is_numbered else text


def folded(text: str) -> str:
    """Return a text without Latin accents and with `ae`, `oe` as `e`, so that oedema is edema; letters keep their case."""
    compatible = unicodedata.normalize("NFKC", text).translate(str.maketrans("’‘−–—", "''---"))
    bare = re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFD", compatible))
    bare = unicodedata.normalize("NFC", bare).replace("œ", "e").replace("Œ", "E").replace("æ", "e").replace("ß", "ss")
    return _BRITISH.sub("e", bare)
