"""The recipes rlef_impression and ehr_retrieval_rl: what is rewarded, tables by hand, runs on the Hub's shapes."""

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.items import Item, item_sha256, write_items
from evals.outputs import Output
from evals.tasks.catalogue import task_named
from evals.tasks.record_questions import facts_task
from evals.tasks.report_generation import impression_prompt
from evals.tasks.task import ItemOptions
from finetune.cli import app
from finetune.configuration import load_config
from finetune.recipes import ehr_retrieval_rl, rlef_impression
from finetune.tables import aligning, learning
from medgemma.entailment.named import scorer_named

RECIPES = {"rlef_impression": rlef_impression, "ehr_retrieval_rl": ehr_retrieval_rl}


def config_of(recipe: Any, *settings: str) -> Any:
    return load_config(recipe.Config, [Path(recipe.__file__).with_suffix(".yaml")], settings)


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_every_setting_is_in_the_yaml_and_checked(recipe: Any) -> None:
    assert config_of(recipe, "sft=null").sft is None
    assert config_of(recipe, "algorithm.name=entailment", "algorithm.alpha=0.3").algorithm.alpha == 0.3
    for setting in ("algorithm.name=ppo", "algorithm.alpha=0", "algorithm.alpha=1", "sft.method=dora"):
        with pytest.raises(ValueError, match=setting.partition("=")[0].rpartition(".")[2]):
            config_of(recipe, setting)


def test_a_baseline_that_an_algorithm_has_not_is_refused() -> None:
    for name, baseline in (("entailment", "moving"), ("reinforce", "value")):
        with pytest.raises(ValueError, match=f"{name} has no baseline {baseline}"):
            config_of(rlef_impression, f"algorithm.name={name}", f"algorithm.baseline={baseline}")


def test_records_of_more_than_512_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="record_tokens: Input should be less than or equal to 512"):
        config_of(ehr_retrieval_rl, "record_tokens=600")


@pytest.mark.kit
def test_the_premise_is_the_findings_word_for_word(kit: Path) -> None:
    files = [kit / "iu-xray-reports" / f"{name}.jsonl.gz" for name in ("train", "val")]
    rows = [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    findings = {f"iu-xray-{row['uid']}": row["findings"].strip() for row in rows}
    items = task_named("kit-iu-xray-impression").items(kit, ItemOptions("held-out"))
    assert len(items) > 300
    for item in items:
        assert rlef_impression.columns(item) == {"premise": findings[item.item_id], "answer": item.reference}


def test_guards_have_their_weights_and_phrases_are_those_without_a_finding() -> None:
    train = [report("Clear.", "No acute disease.", n) for n in range(5)]
    train += [report("Effusion.", "Small effusion.", n) for n in range(5, 10)] + [report("Clear.", "Normal.", 10)]
    made = rlef_impression.guarding(config_of(rlef_impression, "guards.boilerplate=2").guards, train)
    weights = {reward.called: reward.weight for reward in made}
    assert weights == {"length": 0, "copying": 0, "repetition": 0, "empty": 0, "boilerplate": -2}
    [boilerplate] = [reward.function for reward in made if reward.called == "boilerplate"]
    source = ["There is a small left effusion."] * 3
    assert list(boilerplate(["No acute disease.", "Small effusion.", "Normal."], premise=source)) == [1.0, 0.0, 0.0]


def test_guards_that_contradict_one_another_are_refused_before_anything_is_taught() -> None:
    with pytest.raises(ValueError, match="guards: .*fewest_words is 50, above most_words, 40"):
        config_of(rlef_impression, "guards.fewest_words=50", "guards.most_words=40")


def report(findings: str, impression: str, number: int, normality: str = "abnormal") -> Item:
    meta = {"card": "iu-xray-reports", "normality": normality}
    prompt = impression_prompt("pain", findings)
    return Item(f"r{number}", (), prompt, impression, "open", f"g{number}", meta)


def question(number: int) -> Item:
    meta = {"card": "synthea-fhir-r4", "category": "cond_present", "answer_type": "boolean", "answer_value": "true"}
    return Item(f"q{number}", (), f"Is it {number}?", "yes", "open", f"p{number // 2}", meta)


def answer(folder: Path, items: list[Item], said: list[str]) -> None:
    """A folder as a run of the evaluations leaves it."""
    folder.mkdir(parents=True)
    write_items(folder / "items.jsonl", items)
    outputs = [Output(item.item_id, item_sha256(item), "", text=text) for item, text in zip(items, said, strict=True)]
    (folder / "outputs.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in outputs))


def test_the_table_shows_the_hack_by_hand(tmp_path: Path) -> None:
    """Two abnormal reports and a normal one; the tuned model says nothing but that nothing is acute."""
    task = task_named("kit-iu-xray-impression")
    items = [
        report("Small left pleural effusion. No consolidation.", "Small left pleural effusion.", 0),
        report("Cardiomegaly. Lungs are clear.", "Cardiomegaly.", 1),
        report("Heart size normal. Lungs are clear.", "No acute cardiopulmonary abnormality.", 2, "normal"),
    ]
    hack = ["No acute cardiopulmonary abnormality."] * 3
    for name, said in {
        "base": ["Small left pleural effusion.", "Pneumothorax.", "Left pneumonia."],
        "tuned": hack,
    }.items():
        answer(tmp_path / name / task.name, items, said)
    text = rlef_impression.faithfulness(task, scorer_named("rules"), tmp_path, hack[0])
    rows = json.loads((tmp_path / "faithfulness.json").read_text())["rows"]
    found = {(r["part"], r["measure"]): {n: v["value"] for n, v in r["values"].items()} for r in rows}
    assert found["all", "finding_recall"] == {"commonest impression": 0.0, "base": 0.5, "tuned": 0.0}
    assert found["all", "words"] == {"commonest impression": 4.0, "base": (4 + 1 + 2) / 3, "tuned": 4.0}
    assert found["all", "entailed"]["base"] == pytest.approx(1 / 3) and found["all", "entailed"]["tuned"] > 1 / 3
    assert {row["values"]["tuned"]["n"] for row in rows if row["part"] == "abnormal"} == {2}
    assert text == (tmp_path / "faithfulness.md").read_text() and "| all | contradicted |" in text


def test_errors_are_paired_over_patients(tmp_path: Path) -> None:
    """Of four questions of two patients two were wrong and one is."""
    task = facts_task(120)
    items = [question(number) for number in range(4)]
    answer(tmp_path / "base" / task.name, items, ["yes", "no", "no", "yes"])
    answer(tmp_path / "tuned" / task.name, items, ["yes", "yes", "no", "yes"])
    said = ehr_retrieval_rl.errors(task, tmp_path)
    assert said.startswith("4 questions, 2 patients") and "errors before: 0.500" in said
    found = json.loads((tmp_path / "errors.json").read_text())
    assert found["errors after"]["value"] == 0.25 and found["after − before"]["value"] == -0.25
    assert found["after − before"]["ci95"] == [-0.5, 0.0]
    assert (tmp_path / "errors.md").read_text().rstrip() == said


def test_right_answers_earn() -> None:
    said = [[{"role": "assistant", "content": text}] for text in ("Yes.", "no", "I do not know")]
    assert ehr_retrieval_rl.right_by_its_kind(completions=said, item=[question(0)] * 3) == [1.0, 0.0, 0.0]


@pytest.mark.slow
@pytest.mark.kit
@pytest.mark.parametrize("shape", ["hub", "nano saved"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_from_sft_to_its_table(
    recipe: str, shape: str, shapes: Callable[[str], Path], kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of each stage, of nano's weights under the Hub's files, and as transformers saves them."""
    (tmp_path / "data").mkdir()
    for name in ("iu-xray-reports", "synthea-fhir-r4"):
        (tmp_path / "data" / name).symlink_to(kit / name)
    monkeypatch.setattr(RECIPES[recipe], "QUICK_ITEMS", 4)
    monkeypatch.setattr(learning, "QUICK_STEPS", 2)
    monkeypatch.setattr(aligning, "QUICK_STEPS", 2)
    monkeypatch.setattr(aligning, "QUICK_HELD_OUT", 2)
    settings = (
        f"model={shapes(shape)}",
        "quick=true",
        "device=cpu",
        "sft.method=lora",
        "sft.evaluations=0",
        "prompts_per_step=2",
        "evaluations=1",
        "max_new_tokens=6",
        "best_of=[1,2]",
        "algorithm.num_samples=2",
    )
    arguments = ["run", recipe, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--quiet"]
    done = CliRunner().invoke(app, arguments + [f"--set={setting}" for setting in settings])
    assert done.exit_code == 0, (done.output, done.exception)
    out = tmp_path / "out"
    assert (out / "adapter" / "adapter_config.json").is_file() and (out / "model" / "config.json").is_file()
    line = json.loads((out / "stages" / "align" / "reward_kl.jsonl").read_text().splitlines()[0])
    table = {"rlef_impression": "faithfulness.md", "ehr_retrieval_rl": "errors.md"}[recipe]
    assert (out / "scores" / table).is_file() and (out / "reward_kl.svg").is_file()
    if recipe == "rlef_impression":
        assert {"reward.entailment", "reward.boilerplate", "reward.copying", "kl"} <= line.keys()
        assert "commonest impression" in (out / "scores" / table).read_text()
    else:
        assert "after − before" in (out / "scores" / table).read_text()
