"""The wording of questions about labelled pictures, as plain data.

Each attribute has wordings for training and others held out: a recipe that uses `train` only can be measured
on phrasings it never saw. `{a}` stands for the claimed value with its article, `{value}` for the value
itself.
"""

from evals.tasks.phrasings import Phrasings, phrasings

VALUES: dict[str, tuple[str, ...]] = {
    "modality": ("X-ray", "CT", "MRI", "histology"),
    "body_part": ("abdomen", "breast", "chest", "hand", "head", "lung"),
    "tissue": ("benign lung tissue", "lung adenocarcinoma", "lung squamous cell carcinoma"),
    "view": ("PA", "AP"),
}
"""Attributes with one value of several: asked both openly and as yes/no."""

FINDINGS: dict[str, str] = {
    "pneumonia": "pneumonia",
    "effusion": "a pleural effusion",
    "infiltration": "infiltration",
    "atelectasis": "atelectasis",
    "cardiomegaly": "cardiomegaly",
    "edema": "pulmonary edema",
    "consolidation": "consolidation",
    "nodule": "a lung nodule",
    "mass": "a lung mass",
}
"""Chest findings, `present` or `absent`: asked as yes/no. Fact name to how a sentence names it."""

NO_FINDING = "no finding"
"""The fact that no finding is labelled (`present`), or some is (`absent`)."""

FINDING_PREVALENCE: dict[str, float] = {
    "pneumonia": 353 / 698,
    "effusion": 63 / 698,
    "infiltration": 139 / 698,
    "atelectasis": 84 / 698,
    "cardiomegaly": 10 / 698,
    "edema": 69 / 698,
    "consolidation": 13 / 698,
    "nodule": 17 / 698,
    "mass": 11 / 698,
    NO_FINDING: 345 / 698,
}
"""Share of the pictures of cxr-nih14 that have the finding (its card)."""

OVERLAPPING = (frozenset({"chest", "lung"}), frozenset({"chest", "breast"}), frozenset({"chest", "abdomen"}))
"""Body parts that lie in one picture: a picture of the one is never asked about with a claim of the other."""

ARTICLES: dict[str, str] = {
    "X-ray": "an X-ray",
    "CT": "a CT scan",
    "MRI": "an MRI scan",
    "histology": "a histology image",
    "abdomen": "the abdomen",
    "breast": "the breast",
    "chest": "the chest",
    "hand": "a hand",
    "head": "the head",
    "lung": "the lung",
    "PA": "a PA view",
    "AP": "an AP view",
}

_SHOWN = "[shown|seen|pictured|imaged|depicted|visible]"
_PICTURE = "[this|this picture|this image|this medical image|the picture|the image|this scan]"
_TELL = "[Name|Give|State|Tell me|What is|Identify]"

OPEN_QUESTIONS: dict[str, Phrasings] = {
    "modality": phrasings(
        "[Which|What] [imaging modality|modality|imaging technique|imaging method] is [this|shown|used here]?",
        "What type of scan is [this|shown]?",
        "[Which|What] [imaging modality|modality|imaging technique|technique|imaging method] [was|has been] used?",
        f"[What kind of|What type of|What sort of] [image|picture|imaging|scan|study] is {_PICTURE}?",
        f"How was {_PICTURE} [made|taken|obtained|acquired]?",
        f"[By which|With which|By what|With what] [modality|imaging modality|imaging method|method] was {_PICTURE} "
        "[made|taken|obtained|acquired]?",
        "[What|Which] [modality|imaging modality] [is seen|is pictured|do you see|can we see] [|here]?",
        "What type of imaging was used?",
        f"{_TELL} the [imaging modality|modality|imaging technique|type of imaging].",
        "[Imaging modality|Modality|Imaging technique]?",
        "[What|Which] modality [do we see|are we looking at|do we have here]?",
        "[Which|What] [technique|modality|method] was [this|this image|this picture] [acquired|made|taken] with?",
        "[By|With] [which|what] imaging technique was [this picture|this image|the image] [made|acquired]?",
        "[Can|Could] you [tell me|name|give|identify] the [imaging modality|modality|imaging technique|type of scan]?",
        f"[Can you tell me|Tell me|Do you know] [which|what] [modality|technique|type of scan] {_PICTURE} is.",
        "This [image|picture|scan] was made with which [modality|technique|method]?",
        held_out=(
            "Which kind of imaging gave this picture?",
            "What imaging modality does this image come from?",
            "Say which modality this is.",
            "Please name the technique of imaging.",
        ),
    ),
    "body_part": phrasings(
        f"[Which|What] [body part|part of the body|region of the body|body region] is {_SHOWN}[| here]?",
        "[Which|What] anatomical region is [shown|seen]?",
        f"[Which|What] [body part|part of the body|region of the body|anatomical region] is {_PICTURE} of?",
        f"[Which|What] [body part|part of the body|organ or region|anatomy] does {_PICTURE} show?",
        "[Which|What] [part of the body|body part|region] [was imaged|is this|do you see|can be seen|can we see]?",
        "[Of|From] which [part of the body|region of the body|body region|organ] is [the|this] [scan|image|study]?",
        "What [organ or region|anatomy|organ] is [shown|seen|pictured]?",
        f"{_TELL} the [body part|part of the body|region of the body|anatomical region][| shown].",
        "[Body part|Body region|Anatomical region]?",
        "[Which|What] [region of the body|body part|part of the body|anatomical region] [do we see|are we looking at]?",
        "From which [body part|body region|part of the body] is [this picture|this image|this scan|this]?",
        "[What|Which] [anatomical region|body part|region] was [scanned|imaged|examined]?",
        "[Can|Could] you [tell me|name|give|identify] the [body part|part of the body|body region|anatomical region]?",
        "[Can you tell me|Tell me|Do you know] [which|what] [body part|region of the body|part of the body] this is.",
        "This [image|picture|scan] is of which [body part|region of the body|part of the body]?",
        held_out=(
            "Which area of the body is on this image?",
            "What region does this scan come from?",
            "Say which body part this is.",
            "Please name the region of the body that you see.",
        ),
    ),
    "tissue": phrasings(
        "What does this [lung tissue|slide|section|lung section|lung biopsy|biopsy] show?",
        "[Which|What] [tissue class|class of tissue|type of lung tissue|tissue type] is [this|shown]?",
        "What is the [histological|histologic|pathological|tissue|microscopic] [diagnosis|class|type]?",
        "[How would you|How do you|Please] [classify|label|diagnose] this [lung tissue|slide|biopsy|tissue|section]?",
        f"{_TELL} the [type of lung tissue|tissue class|histological diagnosis|histology].",
        "What is [seen|shown] in this [lung biopsy|lung specimen|slide|lung tissue]?",
        "How would you [classify|describe] this [lung specimen|specimen]?",
        "[What|Which] [diagnosis|tissue class] [does the slide|does this slide|does the tissue] [suggest|show]?",
        "[Can|Could] you [tell me|name|give] the [diagnosis|tissue class|type of tissue]?",
        held_out=(
            "Which of the tissue classes fits this slide?",
            "Say which type of lung tissue this is.",
            "What does the biopsy look like?",
        ),
    ),
    "view": phrasings(
        "[Which|What] [view|projection] is [this|shown|this film|this chest X-ray|this radiograph]?",
        "[Which|What] [view|projection] [was used|do you see|does the film show|does this chest X-ray show]?",
        "Is [this film|this|the film|this chest X-ray|this radiograph] [PA or AP|AP or PA]?",
        "[In|With] [which|what] [view|projection] was [this|the] [chest X-ray|radiograph|X-ray] [taken|made|acquired]?",
        "Was this [film|chest X-ray|X-ray] [taken|made] [PA or AP|AP or PA]?",
        f"{_TELL} the [projection|view][| of this film].",
        "In which projection was [the film|this film|the radiograph] [taken|made]?",
        "Which of PA and AP is [this view|this film|this]?",
        "[Can|Could] you [tell me|name|give] the [view|projection][| of this film]?",
        held_out=("Say which view this is.", "Which projection does this radiograph have?", "PA or AP?"),
    ),
}

CLOSED_QUESTIONS: dict[str, Phrasings] = {
    "modality": phrasings(
        f"Is {_PICTURE} {{a}}?",
        "[Is the image shown|Was this made as|Was this taken as|Is what we see|Do you see|Does it look like] {a}?",
        f"[Would you say|Do you think|Can you confirm|Is it true|Is it correct] that {_PICTURE} is {{a}}?",
        "Is the [modality|imaging modality|imaging technique] {value}?",
        "Am I looking at {a}?",
        "Could this be {a}?",
        "[Would you call|Do you call|Can we call] [this|the image|the picture] {a}?",
        "Are we looking at {a}[| here]?",
        "Is {a} what [you see here|we see|this is|was made|is shown]?",
        "Is {value} the [modality|imaging technique|technique] [|used|shown|that was used]?",
        held_out=("Does this come from {a}?", "Should this be called {a}?", "Is it {a} that you see?"),
    ),
    "body_part": phrasings(
        "Is [this|it|this picture of|the picture of|this an image of|this a picture of|this a view of] {a}?",
        f"Does {_PICTURE} [show|depict] {{a}}?",
        f"Is {{a}} {_SHOWN}[| here]?",
        "[Do you see|Can you see|Can we see|Is what we see|Is what is shown] {a}[| here]?",
        "Is the [body part|part of the body|region of the body|anatomical region] {a}?",
        "[Was|Were] [the image|the picture|this scan|this image] taken of {a}?",
        "Is {a} [what was imaged|what is shown|in the picture|in the image]?",
        "Do we see {a}[| here]?",
        "[Was|Were] {a} [imaged|scanned|examined]?",
        "Is {a} the [region|part|body part|area|organ] [that was scanned|that was imaged|that is shown|we see]?",
        "Is {a} what [you see here|we see|was scanned|this shows]?",
        "[Are we|Am I|Are you] looking at {a}[| here]?",
        "[Would you|Can we|Do you] call this [a picture|an image|a scan] of {a}?",
        held_out=("Is it {a} that we see?", "Does the image come from {a}?", "Could the body part be {a}?"),
    ),
    "tissue": phrasings(
        "Is [this|it|the diagnosis|this tissue|the tissue class|this slide|this section|the tissue] {value}?",
        "[Does the slide show|Does this slide show|Do you see|Can you see|Is this a slide of] {value}?",
        "[Would you|Do you] [diagnose|label this as|report] {value}?",
        "Is {value} [shown|seen|present|the diagnosis]?",
        "Does the [histology|tissue|section|lung tissue] [suggest|look like] {value}?",
        "Would you classify the [slide|tissue|section] as {value}?",
        "Would you [classify|label|describe|report] this as {value}?",
        "Is {value} [your|the] [diagnosis|tissue class|answer]?",
        "[Would you|Do you] call [this|the tissue|the slide] {value}?",
        held_out=("Could this be {value}?", "Is {value} what the slide shows?", "Should it be called {value}?"),
    ),
    "view": phrasings(
        "Is [this|the film|the projection|this film|this chest X-ray|the radiograph|the view] {a}?",
        "Was [the chest X-ray|the film|this film|this radiograph] taken [in|as|with] {a}?",
        "[Does this film show|Do you see|Is this chest film|Would you say this is|Is the chest X-ray taken as] {a}?",
        "Is the [view|projection] {value}?",
        "[Would you|Do you|Can we] call [this film|this|the radiograph] {a}?",
        "Is {a} the [projection|view] [used|shown|that was used|that was taken]?",
        "Is {a} what [you see here|we see|was taken]?",
        held_out=("Could this film be {a}?", "Is it {a} that was taken?", "Should the film be called {a}?"),
    ),
    "finding": phrasings(
        "Is there [|any ][|evidence of |a sign of |signs of |any sign of |suspicion of ]{value}?",
        "Is {value} [present|seen|visible|shown|there]?",
        "Does [this film|the film|this chest X-ray|the radiograph] show {value}?",
        "[Do you see|Can you see] {value}?",
        "[Can|Could] {value} be seen[| here| on this film]?",
        "Does [this film|the film|the picture|this X-ray] suggest {value}?",
        "[Do you report|Would you diagnose|Does the patient have|Is this a case of|Do you suspect] {value}?",
        "Are there [signs|findings] of {value}?",
        "[Would you|Do you] [report|note|describe] {value}[| here]?",
        "Does the chest X-ray [suggest|show|point to] {value}?",
        "Do you find [|any ][evidence|signs] [for|of] {value}?",
        "Is {value} [found|likely|what you see|what we see][| here]?",
        held_out=(
            "Could there be {value}?",
            "Is {value} among the findings?",
            "Does the patient show signs of {value}?",
        ),
    ),
    NO_FINDING: phrasings(
        "Is [this chest X-ray|this chest film|the film|this film|the chest X-ray|this radiograph|this] normal?",
        "Is [the film|this film|this chest X-ray|the radiograph] [free of findings|without findings|clear]?",
        "Is this a normal [chest film|chest X-ray|film|study|radiograph]?",
        "Is nothing abnormal [seen|visible|shown]?",
        "Are the lungs [normal|clear|without findings]?",
        "[Would you call|Do you read] [this|the film|this film] [normal|as normal]?",
        "Does [this film|the chest X-ray|this chest X-ray] look normal?",
        "Would you report [this chest X-ray|the film|this film] as normal?",
        "Is [this film|the film|this chest X-ray] free of [any abnormality|abnormality|any finding|disease]?",
        "Is there no [abnormality|finding|sign of disease][| on this film| here]?",
        held_out=(
            "Could this film be called normal?",
            "Is there nothing to report?",
            "Is the chest X-ray without disease?",
        ),
    ),
}
