"""The readers of lm-evaluation-harness and inspect_ai, as their own tasks use them; runs in their environments.

python gauntlet_peers.py lm-eval|inspect < rows.jsonl > said.jsonl. A row has id, answer, reply, options; a line out has
id and said (null where the reader finds nothing). It imports nothing of this package.
"""

import json
import re
import sys
from typing import Any


def lm_eval_reader() -> Any:
    """lm-evaluation-harness: mmlu_flan_cot_zeroshot's flexible-extract for letters, gsm8k's for numbers."""
    from lm_eval.filters.extraction import MultiChoiceRegexFilter, RegexFilter

    letters = MultiChoiceRegexFilter(
        regex_pattern=r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True
    )
    numbers = RegexFilter(regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)

    def read(row: dict[str, Any]) -> Any:
        if row["answer"] == "letter":
            ((said,),) = letters.apply([[row["reply"]]], [{"choices": list(row["options"].values())}])
            return said.strip("() ").upper() if said != "[invalid]" else None
        if row["answer"] == "number":
            ((said,),) = numbers.apply([[row["reply"]]], [{}])
            return _number(said)
        return None

    return read


def inspect_reader() -> Any:
    """inspect_ai: the parser of its multiple_choice solver for letters, its `answer` scorer's patterns else."""
    from inspect_ai._util.pattern import ANSWER_PATTERN_LINE, ANSWER_PATTERN_WORD
    from inspect_ai.model import ChatMessageUser, ModelOutput
    from inspect_ai.solver import TaskState
    from inspect_ai.solver._multiple_choice import parse_answers

    def read(row: dict[str, Any]) -> Any:
        if row["answer"] == "letter":
            said = ModelOutput.from_content("m", row["reply"])
            state = TaskState("m", 0, 1, "", [ChatMessageUser(content="")], choices=list(row["options"].values()))
            state.output = said
            found = parse_answers(state, multiple_correct=False)
            return next(iter(found)).upper() if len(found) == 1 else None
        pattern = ANSWER_PATTERN_WORD if row["answer"] == "yes_no" else ANSWER_PATTERN_LINE
        match = re.search(pattern, row["reply"])
        if not match:
            return None
        if row["answer"] == "yes_no":
            return match.group(1).lower() if match.group(1).lower() in ("yes", "no") else None
        return _number(match.group(1)) if row["answer"] == "number" else None

    return read


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("$", "").strip(". "))
    except ValueError:
        return None


if __name__ == "__main__":
    reader = {"lm-eval": lm_eval_reader, "inspect": inspect_reader}[sys.argv[1]]()
    for line in sys.stdin:
        given = json.loads(line)
        print(json.dumps({"id": given["id"], "said": reader(given)}))
