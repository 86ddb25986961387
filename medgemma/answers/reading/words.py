"""The cue words by which replies state, deny, doubt and correct, in the languages of Global-MMLU-Lite.

Each cue is one pattern over `plain.folded` text. Scripts without spaces between words are matched anywhere, others at
word boundaries.
"""

# ruff: noqa: E501  (patterns are lists of words)

import re
from collections.abc import Iterable

from medgemma.answers.reading.plain import folded


def cue(words: Iterable[str], anywhere: Iterable[str] = ()) -> re.Pattern[str]:
    """Return the pattern of any of the words.

    Args:
        words: Patterns that stand between word boundaries.
        anywhere: Patterns of scripts without spaces, or with endings joined to them.
    """
    parts = [rf"(?<![A-Za-z0-9])(?:{'|'.join(map(folded, words))})(?![A-Za-z0-9])"]
    return re.compile("|".join([*parts, *map(folded, anywhere)]), re.IGNORECASE)


FINAL = cue(
    (
        r"final(?:\s+(?:answer|result|diagnosis|choice|verdict|decision))?(?=\s*(?:is\b|[:=-]))",
        r"final\s+(?:answer|result|diagnosis|choice|verdict|decision)",
        r"conclusion(?=\s*[:=-])",
        r"reponse finale|respuesta final|resposta final|risposta finale|jawaban akhir|endgultige antwort",
        r"jibu la mwisho",
        r"finale antwort|ateb terfynol|pergjigjja perfundimtare|idahun ikehin",
    ),
    (
        "अंतिम उत्तर",
        "চূড়ান্ত উত্তর",
        "الإجابة النهائية",
        "الجواب النهائي",
        "最终答案",
        "最終的な答え",
        "最終回答",
        "최종 답",
        "최종 정답",
        "နောက်ဆုံးအဖြေ",
    ),
)
"""What announces the last word."""

ANSWER = cue(
    (
        r"(?:(?:correct|right|best|most\s+likely|most\s+appropriate|appropriate|my|likely)\s+)*"
        r"(?:answer|option|choice|pick|selection|response|letter|diagnosis)",
        r"action\s+input|(?:is|be)\s+option",
        r"antwort|losung|richtig|korrekt|diagnose",
        r"reponse|proposition|bonne|diagnostic",
        r"respuesta|opcion|correcta|diagnostico|resposta|alternativa|opcao|letra|correta",
        r"risposta|corretta|opzione|diagnosi",
        r"jawaban(?:nya)?|pilihan|jibu|idahun|ateb|pergjigj\w*|diagnoza",
    ),
    (
        "उत्तर",
        "जवाब",
        "উত্তর",
        "الجواب",
        "الإجابة",
        "الاجابة",
        "التشخيص",
        "答案",
        "正确的是",
        "诊断",
        "应选",
        "选择",
        "答え",
        "解答",
        "正解",
        "回答",
        "診断",
        "정답",
        "답은",
        "답:",
        "진단",
        "အဖြေ",
    ),
)
"""What announces an answer."""

CHOOSE = cue(
    (
        r"choose|chose|prefer|pick|select|go(?:ing)?\s+with|went\s+with|settled?\s+(?:on|for)|opt\s+for",
        r"lean(?:ing)?\s+(?:to|towards?)",
        r"vote\s+(?:for|is)|say|decide(?:d)?\s+(?:on|for)|my\s+answer\s+to|leads?\s+(?:me\s+)?to|points?\s+to",
        r"favou?rs?|means",
        r"confident\s+in|should\s+be|must\s+be|has\s+to\s+be|correspond\w*\s+to|consistent\s+with|fits",
        r"is\s+best\s+described\s+as",
        r"most\s+likely|most\s+consistent\s+with|answer",
        r"wahle|nehme|entscheide|choisis|choisirais|opte|elijo|escojo|escolho|scelgo|pilih|memilih|nachagua",
        r"dewis|zgjedh",
    ),
    ("चुन", "বেছে", "أختار", "اختار", "选", "選び", "선택"),
)
"""What takes one of several."""

CONCLUDES = cue(
    (
        r"so|thus|therefore|hence|consequently|accordingly|that\s+leaves(?:\s+us\s+with)?|leaves|leaving",
        r"remains|left\s+with|in\s+short",
        r"also|daher|bleibt|donc|reste|por\s+lo\s+tanto|queda|portanto|resta|sobra|quindi|rimane|jadi|tersisa",
        r"kwa\s+hiyo|inabaki|felly|pra|mbetet|i\.e\.?",
    ),
    ("因此", "所以", "故选", "よって", "したがって", "따라서", "그러므로", "इसलिए", "সুতরাং", "لذلك", "إذن"),
)
"""What draws a conclusion."""

CORRECT = cue(
    (
        r"(?:is|was|are|seems|looks|be|as|appears)\s+(?:clearly\s+|indeed\s+|the\s+|most\s+|definitely\s+|therefore\s+|thus\s+|then\s+|by\s+far\s+)*"
        r"(?:correct|right|true|best|one|answer|likely|first\s+choice|preferred|plausible|reasonable|appropriate|indicated|standard|my\s+\w+|winner)",
        r"remains|fits|wins|explains?\s+(?:all|every)\w*|it\s+is|it\s+must\s+be|gets\s+my\s+vote",
        r"richtig|korrekt|stimmt|correcte?|juste|correct[ao]|corret[ao]|corrett[ao]|esatt[ao]|benar|sahihi",
        r"cywir|(?:e|i)\s+sakte|to\s+to",
    ),
    (
        r"^\s*[:-]\s*(?:true|correct|right|yes)\b",
        "सही",
        "সঠিক",
        "صحيح",
        "الصحيح",
        "正确",
        "正しい",
        "適切",
        "맞습니다",
        "옳",
        "မှန်",
    ),
)
"""What a statement says of the option before it when it chooses it."""

DENIES = cue(
    (
        r"not|isn't|aren't|wasn't|don't|doesn't|won't|can't|wouldn't|cannot|neither|nor|none|never|no|without",
        r"nothing|negative(?:\s+for)?",
        r"incorrect|wrong|false|unlikely|less\s+likely|least\s+likely|unsuitable|inappropriate",
        r"contraindicated|obsolete|bad|unsafe|absent",
        r"exclude\w*|excluding|rul(?:e|es|ed|ing)\s+out|is\s+out|are\s+out|eliminat\w*|discard\w*|reject\w*",
        r"withdr[ae]w\w*|dismiss\w*|implausible",
        r"rather\s+than|instead\s+of|against|too\s+\w+|argues?\s+against|spared|unremarkable|drop(?:ped)?|retract",
        r"nicht|kein\w*|weder|noch|falsch|ausgeschlossen|scheidet\w*\s+aus|pas|aucune?|fausse?|ecarter",
        r"exclue?s?|absence|incorrecte?",
        r"ningun[ao]?|incorrect[ao]|descart\w*|nao|nem|nenhum[ao]?|incorret[ao]|errad[ao]|non|ne|nessun[ao]?",
        r"scart\w*|esclud\w*|sbagliat[ao]",
        r"bukan|tidak|salah|tanpa|si\s*$|sio|siyo|hakuna|hapana|nid|nac|d?dim|nad|anghywir|jo|nuk|gabim",
        r"s'eshte|ki\s+i\s+se|ko|kii\s+se",
    ),
    (
        "नहीं",
        "ग़लत",
        "गलत",
        "নয়",
        "ভুল",
        "নেই",
        "ليس",
        "ليست",
        "لا ",
        "خطأ",
        "ليسا",
        "不是",
        "不对",
        "错误",
        "排除",
        "并非",
        "没有",
        "不",
        "非",
        "ではな",
        "ではありません",
        "じゃない",
        "ません",
        "誤り",
        "아니",
        "아닙",
        "틀리",
        "틀렸",
        "없",
        "မဟုတ်",
        "မရှိ",
    ),
)
"""What denies the option that it stands beside."""

NOT_DENIALS = re.compile(
    r"no\s+doubt|without\s+(?:a\s+)?doubt|not\s+only|no\s+(?:other\s+)?(?:question|surprise)|"
    r"not\s+(?:completely|entirely|fully|totally|100\s*%)?"
    r"\s*(?:sure|certain)|can(?:not|'t)\s+be\s+anything\s+(?:else\s+)?(?:but|other\s+than)|"
    r"none\s+other\s+than|no\s+less\s+than|"
    r"so\s+far|too\b(?=\s*(?:[.,;]|$))",
    re.IGNORECASE,
)
"""What only looks like a denial."""

EXCEPT = cue(
    (
        r"except(?:\s+for)?|apart\s+from|other\s+than|save\s+for|but(?=\s*[\ue000-\uf8ff])|ausser|sauf",
        r"excepto|salvo|exceto|tranne|kecuali|isipokuwa|ac\s+eithrio|pervec",
    ),
    (
        "除了",
        "以外",
    ),
)
"""What takes an option out of what is said of the others."""

CONSIDERS = cue(
    (
        r"consider(?:ed|ing)?|tempt\w*|at\s+first|first\s+thought|initially|at\s+first\s+glance",
        r"(?:was|were)\s+going\s+to",
        r"might|could|may|can\s+be|if|unless|would\s+have",
        r"next(?:\s+\w+)?\s+(?:best|in\s+line|choice|option|answer|likely)",
        r"second[- ](?:best|choice|most)|runner-?up|alternatives?|distractors?|often|sometimes|usually",
        r"thought|check|suppose",
        r"forgotten|between|torn|(?<!most )(?<!more )(?:possible|possibility|plausible|reasonable)|maybe",
        r"perhaps|acceptable|appealing|close\s+second|versus|vs|like\s+to",
        r"vielleicht|konnte|kame|zwischen|zuerst|haufig|oft|faussement|pourrait|peut-etre|entre|abord|souvent",
        r"podria|quizas|primero",
        r"poderia|talvez|potrebbe|forse|tra|fra|mungkin|awalnya|antara|huenda|kati\s+ya|efallai|rhwng|ndoshta",
        r"mund|midis",
    ),
    (
        "शायद",
        "हो सकता",
        "সম্ভবত হতে",
        "হতে পারে",
        "ربما",
        "قد يكون",
        "قد تكون",
        "可能是A",
        "也许",
        "或许",
        "かもしれ",
        "可能性があ",
        "多い",
        "수도",
        "아마",
        "နိုင်",
    ),
)
"""What looks at an option and does not choose it."""

SAID_BY_OTHERS = cue(
    (
        r"students?(?:\s*\d+)?|colleagues?|some\s+\w+|many(?:\s+\w+)?|others|people|physicians|doctors",
        r"textbooks?|caption|someone|user|reviewer",
        r"requests?\s+form|(?:prior|previous|old|earlier)\s+report|claims?|told|wrote|written|reads|states?",
        r"stated|according\s+to|respond\s+with",
        r"referring|as\s+instructed|format|instructions?|question\s+(?:asks|says)|asks|offers|protocol",
        r"resident|intern|registrar|friend|ignore|note\s+(?:that\s+)?says",
        r"viele|manche|certains|beaucoup|muchos|algunos|muitos|molti|banyak|watu\s+wengi|llawer|shume",
    ),
    ("选B的人", "人も", "많은 사람", "很多人", "有人"),
)
"""Whose words these are, if not the reply's own."""

CORRECTS = cue(
    (
        r"wait|correction|corrected|sorry|apolog\w+|actually",
        r"on\s+(?:a\s+)?(?:second|further|closer|reflection)(?:\s+(?:thought|look|reflection|reading))?",
        r"looking\s+again|re-?(?:reading|consider\w*|check\w*|vis(?:it|ed|iting)\w*|think\w*)|change\s+my",
        r"i\s+(?:meant|mean)|mistake\w*|mistook",
        r"misread|overlooked|mixed\s+up|scratch\s+that|strike\s+that|no\s+wait|i\s+was\s+wrong|i\s+withdraw",
        r"my\s+bad|oops|edit|take\s+(?:that|it)\s+back|hold\s+on|hmm",
        r"revised?|i\s+now\s+say|better\s+(?:answer|choice)|erratum|second\s+thoughts?",
        r"entschuldigung|moment|korrektur|korrigiere|stopp|pardon|desolee?|erreur|rectification|correction",
        r"attendez|me\s+suis\s+trompee?",
        r"perdon|equivoque|correccion|disculp\w+|desculp\w+|me\s+enganei|errei|corrigindo|correcao",
        r"scusa(?:te|mi)?|errore|sbagliato|correzione|anzi",
        r"maaf|keliru|koreksi|ralat|samahani|nimekosea|pole|mae'n\s+ddrwg|ymddiheur\w+|camgymeriad|na,",
        r"me\s+falni|gabova|gabim|e\s+ma\s+binu|asise|mo\s+se\s+asise|ma\s+binu",
    ),
    (
        "माफ़",
        "माफ",
        "क्षमा",
        "गलती",
        "সংশোধন",
        "দুঃখিত",
        "ভুল হয়েছে",
        "عذر",
        "أخطأت",
        "تصحيح",
        "抱歉",
        "更正",
        "改为",
        "再看",
        "不对",
        "我错",
        "すみません",
        "訂正",
        "間違",
        "いや",
        "죄송",
        "다시",
        "정정",
        "잘못",
        "တောင်းပန်",
        "မှားသွား",
        "ပြန်ကြည့်",
    ),
)
"""What takes back what was said before."""

OR = r"(?:or|oder|ou|oppure|o|u|e/o|atau|au|neu|ose|apo|tabi|या|অথবা|বা|أو|او|或者|或是|或|または|もしくは|か|또는|혹은|သို့မဟုတ်)"
AND = r"(?:and|und|et|y|e|dan|na|ac|a(?=\s)|dhe|ati|और|এবং|ও|و|和|与|と|및|와|과|နှင့်|as\s+well\s+as|plus|nor)"
BUT = cue(
    (
        r"but|sondern|mais|sino|mas|ma|bensi|tetapi|melainkan|bali|ond|por|whereas|while|however|yet|though",
        r"although|aber|pero|sugbon|bi\s+ko\s+se|percio",
    ),
    (
        "बल्कि",
        "लेकिन",
        "বরং",
        "কিন্তু",
        "بل",
        "而是",
        "但",
        "ではなく",
        "じゃなくて",
        "가 아니라",
        "이 아니라",
        "아니라",
        "မဟုတ်ဘဲ",
        "मगर",
    ),
)
BECAUSE = cue(
    (r"because|since|as|given|for(?=\s+the)|denn|weil|car|porque|pois|perche|karena|kwa\s+sababu|oherwydd|sepse",),
    ("因为", "क्योंकि", "কারণ", "لأن", "なぜなら"),
)

YES = cue(
    (r"yes|yeah|yep|affirmative|ja|jawohl|oui|si|sim|ya|ndiyo|ndio|oes|ydy|ydi|ie|po|beeni|beni|hooi",),
    (
        "हाँ",
        "हां",
        "जी हाँ",
        "হ্যাঁ",
        "نعم",
        "是的",
        "有的",
        r"有(?=[。，,.!]|$)",
        "はい",
        "ええ",
        "네",
        "예,",
        "예.",
        "ဟုတ်ကဲ့",
        "ဟုတ်ပါသည်",
        "ဟုတ်",
        "ရှိပါသည်",
    ),
)
NO = cue(
    (r"no|nope|negative|nein|non|nao|tidak|bukan|hapana|nac\s+oes|nac\s+ydy|nage|na|jo|rara|beeko",),
    ("नहीं", "না", "لا", "没有", "不是", "否", "いいえ", "아니요", "아니오", "မဟုတ်ပါ", "မရှိပါ"),
)
