"""Which language a text is in, by a rule that names only what it is sure of.

A text is in another script if more than a third of its letters are not Latin. It is in another language if it holds at
least two different of that language's common words, and more words of them than of English's. Anything else counts as
English: a report may be three words of Latin and Greek.
"""

import re
import unicodedata
from functools import lru_cache

_COMMON = {
    "English": "the is are no there of and with in on a an not has was which or to from for seen i you it he she my do "
    "have that at so",
    "German": "der die das und ist sind kein keine keinen nicht mit eine ein im den des von auf bei",
    "French": "le la les des du et est sont pas une un dans avec sans aucun aucune au aux sur il",
    "Spanish": "el los las del y es son no hay una un en con sin se por al lo",
    "Italian": "il lo gli della del e sono non una un nel con senza di alla si dei",
    "Portuguese": "o os do da dos e são não há uma um em com sem na se",
    "Dutch": "de het een en is zijn geen niet met van op bij in te dat er",
    "Polish": "nie jest są bez oraz się w",
}
_WORDS = {name: frozenset(words.split()) for name, words in _COMMON.items()}


@lru_cache(maxsize=10_000)
def other_language(text: str) -> str | None:
    """Return the name of the language of a text, or None for English and for what the rule cannot tell."""
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum("LATIN" in _script(letter) for letter in letters)
    if letters and latin < 2 / 3 * len(letters):
        return "another script than Latin"
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {name: sum(word in common for word in words) for name, common in _WORDS.items()}
    likeliest = max(counts, key=lambda name: counts[name])
    is_sure = counts[likeliest] > counts["English"] and len(_WORDS[likeliest] & set(words)) >= 2
    return likeliest if is_sure else None


@lru_cache(maxsize=5_000)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "")
