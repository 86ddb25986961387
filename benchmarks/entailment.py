"""Entailment RL: what support costs, on a task whose truth is known, and on nano over the kit.

`toy`: a source is six statements, a finding each that is there or not; an impression says some of them. A language
model of 40,000 weights has learned impressions of which a part is made up, contradicted, or nothing but "normal". The
rules of entailment are the truth itself, but that they support "normal" of any source. `probe` measures answers that
look at nothing. `impression` and `ehr` are runs of the recipes rlef_impression and ehr_retrieval_rl with nano.

Every finished run is a line of results/entailment.jsonl, and a run that is there is not done again.
"""

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import append, machine, provenance
from benchmarks.reward_kl import END, MAX_TOKENS, PAD, WalkSampler, walk
from finetune.algorithms.critic import critic_of
from finetune.algorithms.entailment import EntailmentRL
from finetune.on_policy import Network, OnPolicy, PromptRow, Reward, copy_of, train_on_policy
from finetune.on_policy.records import reward_kl_chart
from finetune.packing import Layout
from finetune.rewards import guards
from finetune.rewards.entailment import entailment_reward
from finetune.training import Loop, Schedule
from medgemma.engine import Sampling
from medgemma.entailment.rules import PROBABILITIES
from medgemma.entailment.scores import Entailment, Label, Pair, entailments
from medgemma.prompts.chat import Prompt

RECORDS = Path(__file__).parent / "results" / "entailment.jsonl"
FINDINGS, STATEMENTS, FIRST = 12, 6, 2
NORMAL = FIRST + 2 * FINDINGS
SEEDS, STEPS, PROMPTS_A_STEP, HELD_OUT, SAMPLES = (0, 1, 2), 60, 8, 48, 6
MADE_UP, DENIED, LAZY = 0.15, 0.15, 0.2
"""Shares of an impression's statements that are of no statement, or against one; and of impressions that are NORMAL."""
ALPHAS = (0.5, 0.2, 0.1)
BLOCK = 4
"""Steps that a point of the chart is the mean of."""
TOLD = ("entailed", "contradicted", "recall", "coverage", "density", "words", "kl")


def word(token: int) -> str:
    """A token as a sentence; an even one says that its finding is there."""
    if token == NORMAL:
        return "normal."
    number, is_absent = divmod(token - FIRST, 2)
    return f"{'no' if is_absent else 'some'} finding{number}."


def text_of(ids: Sequence[int]) -> str:
    """What tokens say."""
    return " ".join(word(token) for token in ids if FIRST <= token <= NORMAL)


def statements(text: str) -> set[str]:
    """A text's sentences."""
    return {part.strip() for part in text.split(".") if part.strip()}


def truth(pairs: Sequence[Pair]) -> list[Entailment]:
    """What the source says of the hypothesis; of "normal." it is gullible."""
    found: list[Label] = []
    for premise, hypothesis in pairs:
        stated, said = statements(premise), statements(hypothesis) - {"normal"}
        is_denied = any(_opposite(one) in stated for one in said)
        found.append("contradiction" if is_denied else "entailment" if said <= stated else "neutral")
    return [PROBABILITIES[label] for label in found]


def _opposite(statement: str) -> str:
    kind, _, finding = statement.partition(" ")
    return f"{'some' if kind == 'no' else 'no'} {finding}"


def source_of(rng: random.Random) -> list[int]:
    """Six statements about different findings, a third of which are there."""
    return [FIRST + 2 * number + (rng.random() > 0.35) for number in rng.sample(range(FINDINGS), STATEMENTS)]


def impression_of(source: Sequence[int], rng: random.Random) -> list[int]:
    """What a hasty reader has written of it."""
    there = [token for token in source if token % 2 == FIRST % 2]
    if not there or rng.random() < LAZY:
        return [NORMAL]
    said = []
    for token in there:
        draw = rng.random()
        if draw < MADE_UP:
            spoken = {one - one % 2 for one in source}
            token = rng.choice([FIRST + 2 * n for n in range(FINDINGS) if FIRST + 2 * n not in spoken])
        elif draw < MADE_UP + DENIED:
            token = rng.choice([one - 1 for one in source if one % 2 != FIRST % 2] or [token])
        said.append(token)
    return said


def rows_of(count: int, seed: int) -> list[PromptRow]:
    """Prompts with their source as text."""
    rng = random.Random(seed)
    sources = [source_of(rng) for _ in range(count)]
    return [
        PromptRow(Prompt(tuple(s), (0,) * STATEMENTS, 0), "", (), {"premise": text_of(s)}, f"source {n}")
        for n, s in enumerate(sources)
    ]


@lru_cache
def _writer(seed: int) -> Any:
    """The model after SFT."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=NORMAL + 1,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        max_position_embeddings=64,
        sliding_window=32,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=END,
        attn_implementation="eager",
    )
    model, rng = Gemma3ForCausalLM(config), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        sources = [source_of(rng) for _ in range(64)]
        said = [[*impression_of(source, rng), END] for source in sources]
        ids = torch.tensor([[*s, *y, *[PAD] * (MAX_TOKENS - len(y))] for s, y in zip(sources, said, strict=True)])
        targets = ids[:, STATEMENTS:].masked_fill(ids[:, STATEMENTS:] == PAD, -100)
        logits = model(input_ids=ids).logits[:, STATEMENTS - 1 : -1]
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
    return model.eval()


def supported(completion_ids: Sequence[Sequence[int]], premise: Sequence[str], **_: Any) -> list[float]:
    """The package's own reward, of the words that tokens stand for."""
    return list(entailment_reward(truth)([text_of(ids) for ids in completion_ids], premise))


def lazy(completion_ids: Sequence[Sequence[int]], premise: Sequence[str], **_: Any) -> list[float]:
    """The package's own guard of boilerplate."""
    guard = guards.boilerplate(["normal."], lambda source: "some" in source)
    return [one or 0.0 for one in guard([text_of(ids) for ids in completion_ids], premise)]


ARMS: Mapping[str, Callable[[Network], tuple[EntailmentRL, list[Reward]]]] = {
    **{
        f"actor-critic α {alpha:g}": lambda policy, alpha=alpha: (
            EntailmentRL(4, alpha, critic_of(policy, None, 1e-3)),
            [Reward(supported)],
        )
        for alpha in ALPHAS
    },
    "REINFORCE α 0.2": lambda policy: (EntailmentRL(4, 0.2), [Reward(supported)]),
    "actor-critic α 0.2, guarded": lambda policy: (
        EntailmentRL(4, 0.2, critic_of(policy, None, 1e-3)),
        [Reward(supported), Reward(lazy, -3.0)],
    ),
}


def toy_run(arm: str, seed: int, steps: int) -> list[dict[str, float]]:
    """Figures on held-out sources, before and every ten updates."""
    model = deepcopy(_writer(seed))
    policy = Network(model)
    reference = copy_of(policy)
    points: list[dict[str, float]] = []
    sampler = WalkSampler(model, lambda: points.append(measured(model, reference.network.model, seed)))
    algorithm, rewards = ARMS[arm](policy)
    with tempfile.TemporaryDirectory() as folder:
        train_on_policy(
            policy,
            algorithm,
            rows_of(512, seed),
            sampler,
            rewards,
            reference,
            Schedule(1e-3, steps, warmup_steps=4, weight_decay=0.0, shape="constant"),
            Path(folder) / "impressions",
            Loop(seed, quiet=True),
            how=OnPolicy(
                PROMPTS_A_STEP,
                Sampling(max_new_tokens=MAX_TOKENS, temperature=1.0, stop_ids=frozenset({END})),
                Layout(PAD, None, max_tokens=STATEMENTS + MAX_TOKENS),
            ),
            settings={},
        )
    sampler.tell()
    return points


def measured(model: Any, reference: Any, seed: int) -> dict[str, float]:
    """Means over held-out sources; the KL sums, along samples, that between the distributions of the next token."""
    rows = [row for row in rows_of(HELD_OUT, 10_000 + seed) for _ in range(SAMPLES)]
    prompts = torch.tensor([row.prompt.input_ids for row in rows])
    draws = torch.rand(len(prompts), MAX_TOKENS, generator=torch.Generator().manual_seed(seed))
    said = [ids for ids, _ in walk(model, prompts, draws)]
    padded = torch.tensor([[*ids, *[END] * (MAX_TOKENS - len(ids))] for ids in said])
    ids, lengths = torch.cat([prompts, padded], 1), torch.tensor([len(one) for one in said])
    with torch.no_grad():
        ours, theirs = (
            functional.log_softmax(one(input_ids=ids).logits[:, STATEMENTS - 1 : -1], 2) for one in (model, reference)
        )
    kl = (ours.exp() * (ours - theirs)).sum(2) * (torch.arange(MAX_TOKENS) < lengths[:, None])
    texts, premise = [text_of(ids) for ids in said], [row.columns["premise"] for row in rows]
    labels = [one.label for one in entailments(truth, list(zip(premise, texts, strict=True)))]
    recalls = [_recall(text, source) for text, source in zip(texts, premise, strict=True) if "some" in source]
    return {
        "entailed": statistics.fmean(label == "entailment" for label in labels),
        "contradicted": statistics.fmean(label == "contradiction" for label in labels),
        "recall": statistics.fmean(recalls),
        "coverage": statistics.fmean(v or 0.0 for v in guards.coverage(texts, premise)),
        "density": statistics.fmean(v or 0.0 for v in guards.density(texts, premise)),
        "words": statistics.fmean(v or 0.0 for v in guards.words(texts)),
        "kl": float(kl.sum(1).mean()),
    }


def _recall(text: str, source: str) -> float:
    wanted = {one for one in statements(source) if one.startswith("some")}
    return len(wanted & statements(text)) / len(wanted)


def toy(arms: Sequence[str], steps: int) -> None:
    """Runs that are not recorded yet."""
    recorded = {(r["arm"], r["seed"], r["steps"]) for r in records("toy")}
    for seed in SEEDS:
        for arm in arms:
            if (arm, seed, steps) not in recorded:
                begin = time.monotonic()
                points = toy_run(arm, seed, steps)
                _record({"study": "toy", "arm": arm, "seed": seed, "steps": steps, "points": points}, begin)


def probe(data: Path) -> None:
    """What answers that look at nothing reach on held-out reports, and what radiologists' own impressions do."""
    from evals.tasks.catalogue import task_named
    from evals.tasks.task import ItemOptions
    from finetune.recipes.rlef_impression import TASK, case_of
    from finetune.rewards.faithfulness import compared
    from medgemma.entailment.named import scorer_named

    begin, task, rows = time.monotonic(), task_named(TASK), []
    [(commonest, _)] = Counter(item.reference for item in task.items(data, ItemOptions("train"))).most_common(1)
    for part in ("all", "abnormal"):
        items = [i for i in task.items(data, ItemOptions("held-out")) if part in ("all", i.meta["normality"])]
        cases = [case_of(item) for item in items]
        answers = {
            "the findings copied": [case.premise for case in cases],
            "commonest impression": [commonest] * len(cases),
            "radiologists' own": [case.reference for case in cases],
        }
        rows += compared(cases, answers, scorer_named("rules"), part)
    _record({"study": "probe", "rows": rows}, begin)


def impression(data: Path, start: str, out: Path, settings: Sequence[str], alphas: Sequence[float]) -> None:
    """Runs of rlef_impression that are not recorded yet, from one model after SFT.

    Args:
        data: the kit, or a folder with the set alone.
        start: OUT/sft/model of a run of the recipe.
        out: gets a folder a run; an interrupted one goes on.
        settings: of the recipe, for all runs.
        alphas: of the algorithm.
    """
    from finetune.recipes import rlef_impression

    recorded = {(r["alpha"], r["seed"], tuple(r["settings"])) for r in records("impression")}
    for seed in SEEDS:
        for alpha in alphas:
            if (alpha, seed, tuple(settings)) in recorded:
                continue
            begin, folder = time.monotonic(), out / f"impression-{alpha:g}-{seed}"
            _run_recipe(rlef_impression, data, start, folder, [*settings, f"algorithm.alpha={alpha}", f"seed={seed}"])
            rows = json.loads((folder / "scores" / "faithfulness.json").read_text())["rows"]
            facts = {"study": "impression", "alpha": alpha, "seed": seed, "settings": list(settings)}
            _record({**facts, "rows": rows, "lines": _lines(folder)}, begin)


def ehr(data: Path, start: str, out: Path, settings: Sequence[str]) -> None:
    """Runs of ehr_retrieval_rl that are not recorded yet; arguments as `impression`."""
    from finetune.recipes import ehr_retrieval_rl

    recorded = {(r["seed"], tuple(r["settings"])) for r in records("ehr")}
    for seed in SEEDS:
        if (seed, tuple(settings)) in recorded:
            continue
        begin, folder = time.monotonic(), out / f"ehr-{seed}"
        _run_recipe(ehr_retrieval_rl, data, start, folder, [*settings, f"seed={seed}"])
        found = json.loads((folder / "scores" / "errors.json").read_text())
        facts = {"study": "ehr", "seed": seed, "settings": list(settings)}
        _record({**facts, "errors": found, "lines": _lines(folder)}, begin)


def _run_recipe(recipe: Any, data: Path, start: str, folder: Path, settings: Sequence[str]) -> None:
    from finetune.configuration import load_config

    yaml = Path(recipe.__file__).with_suffix(".yaml")
    own = [f"model={start}", "sft=null", "merge=false", "device=cpu", "best_of=[]", *settings]
    recipe.run(load_config(recipe.Config, [yaml], own), data, folder, True)


def _lines(folder: Path) -> list[dict[str, Any]]:
    """Reward, its components and KL by step."""
    text = (folder / "stages" / "align" / "reward_kl.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def records(study: str) -> list[dict[str, Any]]:
    """Finished runs of a study."""
    lines = RECORDS.read_text().splitlines() if RECORDS.is_file() else []
    return [found for line in lines if (found := json.loads(line))["study"] == study]


def tables() -> str:
    """Markdown of all that is recorded; means over seeds with 95 % intervals by Student's t."""
    return "\n\n".join(part for part in (_probe_table(), _toy_table(), _impression_table(), _ehr_table()) if part)


def _probe_table() -> str:
    from finetune.rewards.faithfulness import markdown

    found = records("probe")
    return markdown(found[-1]["rows"]).rstrip() if found else ""


def _toy_table() -> str:
    found = records("toy")
    if not found:
        return ""
    lines = [f"| toy | seeds | {' | '.join(TOLD)} |", "|---|---|" + "---|" * len(TOLD)]
    starts = {record["seed"]: record["points"][0] for record in found}
    lines.append(_toy_line("SFT", list(starts.values())))
    for arm, steps in dict.fromkeys((record["arm"], record["steps"]) for record in found):
        ends = [record["points"][-1] for record in found if (record["arm"], record["steps"]) == (arm, steps)]
        lines.append(_toy_line(f"{arm}, {steps} steps", ends))
    return "\n".join(lines)


def _toy_line(name: str, points: Sequence[Mapping[str, float]]) -> str:
    return f"| {name} | {len(points)} | {' | '.join(spread([p[key] for p in points]) for key in TOLD)} |"


def _impression_table() -> str:
    found = records("impression")
    if not found:
        return ""
    measures = list(dict.fromkeys(row["measure"] for row in found[0]["rows"]))
    names = [f"{part}: {measure}" for part in ("all", "abnormal") for measure in measures]
    lines = ["| impression, after − before | " + " | ".join(names) + " | KL |", "|---|" + "---|" * (len(names) + 1)]
    for alpha in sorted({record["alpha"] for record in found}, reverse=True):
        runs = [record for record in found if record["alpha"] == alpha]
        cells = []
        for name in names:
            part, measure = name.split(": ")
            rows = [r for run in runs for r in run["rows"] if (r["part"], r["measure"]) == (part, measure)]
            cells.append(spread([row["minus"]["base"]["value"] for row in rows]))
        ends = [[line for line in run["lines"] if line["side"] == "held-out"][-1]["kl"] for run in runs]
        lines.append(f"| α {alpha:g}, {len(runs)} seeds | {' | '.join(cells)} | {spread(ends)} |")
    return "\n".join(lines)


def _ehr_table() -> str:
    found = records("ehr")
    if not found:
        return ""
    names = ("errors before", "errors after", "after − before")
    lines = [f"| ehr, seed | {' | '.join(names)} |", "|---|---|---|---|"]
    for record in found:
        cells = ["{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]".format(**record["errors"][name]) for name in names]
        lines.append(f"| {record['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart() -> str:
    """An SVG: entailment reward of training samples over KL at each α of the impression study.

    A point is the mean of a block of steps over all seeds: a curve a run cannot be told apart.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    found = records("impression")
    for alpha in sorted({record["alpha"] for record in found}, reverse=True):
        runs = [[x for x in record["lines"] if x["side"] == "train"] for record in found if record["alpha"] == alpha]
        blocks = [
            [x for lines in runs for x in lines[start : start + BLOCK]] for start in range(0, len(runs[0]), BLOCK)
        ]
        points = [(_mean(block, "kl"), _mean(block, "reward.entailment")) for block in blocks]
        curves[f"α {alpha:g}, {len(runs)} seeds"] = points
    return reward_kl_chart(curves)


def _mean(lines: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.fmean(line[key] for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean and 95 % interval by Student's t over the seeds."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def _record(facts: Mapping[str, Any], begin: float) -> None:
    took = {"seconds": round(time.monotonic() - begin, 1)}
    append({**facts, **took, **provenance(), "machine": machine()}, RECORDS)


def main() -> None:
    """Run a study, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["toy", "probe", "impression", "ehr", "table"])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the toy")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), help="of the toy")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--start", help="a checkpoint after SFT")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    parser.add_argument("--alphas", nargs="*", type=float, default=list(ALPHAS))
    parser.add_argument("--chart", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.study == "toy":
        toy(asked.arms, asked.steps)
    elif asked.study == "probe":
        probe(asked.data)
    elif asked.study == "impression":
        impression(asked.data, asked.start, asked.out, asked.settings, asked.alphas)
    elif asked.study == "ehr":
        ehr(asked.data, asked.start, asked.out, asked.settings)
    if asked.chart:
        asked.chart.write_text(chart(), encoding="utf-8")
    print(tables())  # noqa: T201


if __name__ == "__main__":
    main()
