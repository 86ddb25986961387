"""What lm-evaluation-harness is given: nano's decoder alone, and rows as its tasks' data sets on the Hub have them."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.tasks.question_sets import ChoiceQuestion, Style
from medgemma import MedGemma

SCRIPT = Path(__file__).with_name("run_lm_eval.py")

YAMLS: dict[Style, str] = {
    "medqa": "medqa/medqa.yaml",
    "medmcqa": "medmcqa/medmcqa.yaml",
    "pubmedqa": "pubmedqa/pubmedqa.yaml",
    "mmlu": "mmlu/default/mmlu_{subject}.yaml",
}
TEST_SPLITS: dict[Style, str] = {"medqa": "test", "medmcqa": "validation", "pubmedqa": "test", "mmlu": "test"}


def write_decoder(model: MedGemma, folder: Path) -> None:
    """Save the decoder alone as Gemma3ForCausalLM, with its tokenizer."""
    from transformers import Gemma3ForCausalLM

    decoder = Gemma3ForCausalLM(model.model.config.text_config)
    decoder.model.load_state_dict(model.model.model.language_model.state_dict())
    decoder.lm_head.weight = model.model.lm_head.weight
    decoder.eval().save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def row_of(style: Style, question: ChoiceQuestion) -> dict[str, Any]:
    """Return a question as a row of the data set that lm-evaluation-harness's task reads."""
    asked = question.asked
    place, texts = ord(asked.answer) - ord("A"), list(asked.options.values())
    named: dict[str, Any] = {"id": asked.item_id}
    if style == "medqa":
        return named | {"sent1": asked.question, "label": place} | {f"ending{n}": text for n, text in enumerate(texts)}
    if style == "medmcqa":
        options = {f"op{letter.lower()}": text for letter, text in asked.options.items()}
        return named | {"question": asked.question, "cop": place} | options
    if style == "pubmedqa":
        assert question.abstract is not None
        contexts = list(question.abstract.sections)
        return named | {"QUESTION": asked.question, "CONTEXTS": contexts, "final_decision": asked.options[asked.answer]}
    return named | {"question": asked.question, "choices": texts, "answer": place}


def job(
    name: str,
    style: Style,
    questions: Sequence[ChoiceQuestion],
    folder: Path,
    examples: Sequence[ChoiceQuestion] = (),
    num_fewshot: int = 0,
    subject: str = "",
) -> dict[str, Any]:
    """Write the rows and return the job; MMLU's tasks want examples even where none is shown."""
    files = {}
    for split, rows in ((TEST_SPLITS[style], questions), ("dev", examples)):
        if rows:
            path = folder / f"{name}-{split}.jsonl"
            path.write_text("".join(json.dumps(row_of(style, q)) + "\n" for q in rows), encoding="utf-8")
            files[split] = str(path)
    yaml = YAMLS[style].format(subject=subject)
    return {"name": name, "yaml": yaml, "files": files, "num_fewshot": num_fewshot}


def run(python: str, model: Path, jobs: Sequence[dict[str, Any]], folder: Path, batch_size: int | str = 8) -> Any:
    """Run the jobs in lm-evaluation-harness's environment and return what they gave."""
    plan, out = folder / "plan.json", folder / "out.json"
    plan.write_text(json.dumps({"model": str(model), "batch_size": batch_size, "jobs": list(jobs)}))
    environment = {
        **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        "HF_HOME": str(folder / "hub"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [python, str(SCRIPT), str(plan), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))
