"""A run end to end: micro-batches, ranks and interruptions change nothing; what every run leaves; faults by name."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.on_policy import EngineSampler, HeldOut, LostSampler, Reward, Round
from finetune.on_policy.anchors import Anchor
from finetune.training import Ranks
from medgemma import MedGemma
from tests.finetune.on_policy import small

ROOT = Path(__file__).parents[3]


def assert_alike(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "reward_kl.jsonl").read_text().splitlines()]


# Parts and ranks


@pytest.fixture(scope="module")
def gradients(checkpoint: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Of one step's loss, by normalisation and layout."""
    from finetune.algorithms.reinforce import Reinforce
    from finetune.on_policy import Network
    from finetune.on_policy.normalising import counted, normalised
    from finetune.training import Turn

    gemma = small.gemma_of(checkpoint)
    small.adapted(gemma)
    small.moved(gemma)
    policy = Network(gemma.model, gemma.preprocessing, small.pictures())
    rows = small.rows_of(gemma)
    rollouts = EngineSampler(gemma, policy.pictures).sample(rows, range(5), 3, small.SAMPLING)
    assert len({len(r.completion_ids) for r in rollouts}) > 1
    advantages = torch.randn(len(rollouts), generator=torch.Generator().manual_seed(2)).tolist()

    def made(kind: Any, worlds: int = 1, **layout: Any) -> dict[str, torch.Tensor]:
        algorithm = Reinforce(3, 0.0, normalisation=kind)
        examples = normalised([r.example(a) for r, a in zip(rollouts, advantages, strict=True)], kind)
        laid = small.layout_of(gemma, **layout)
        of_ranks = [part for rank in range(worlds) for part in laid.parts(examples, Ranks(rank, worlds))]
        parts = [part for part in of_ranks if part.weight]  # with fewer rows than ranks one computes for nothing
        turn = Turn(0, sum(counted(part.drawn, kind) for part in parts))
        gemma.model.zero_grad(set_to_none=True)
        for part in parts:
            torch.autograd.backward(algorithm.loss(policy, part.drawn, turn, 1.0))
        found = {n: p.grad.clone() for n, p in gemma.model.named_parameters() if p.grad is not None}
        return {"denominator": torch.tensor(turn.denominator), "parts": torch.tensor(float(len(parts))), **found}

    return made


@pytest.mark.parametrize("kind", ["token", "sequence-mean", "sequence-sum"])
def test_the_gradient_is_that_of_one_part_whatever_the_parts(
    gradients: Callable[..., dict[str, torch.Tensor]], kind: str
) -> None:
    whole = gradients(kind, packed=False, share_prompts=False)
    assert whole.pop("parts") == 1
    ways: list[dict[str, Any]] = [{"tokens_a_part": 192}, {"tokens_a_part": 96}, {"worlds": 2}, {"worlds": 4}]
    for layout in [*ways, {"packed": False, "share_prompts": False, "tokens_a_part": 80}]:
        split = gradients(kind, **layout)
        assert split.pop("parts") > 1
        largest = max(float(value.abs().max()) for name, value in whole.items() if name != "denominator")
        assert_alike(split, whole, 2e-5 * largest)


def test_the_three_normalisations_are_their_formulas(gradients: Callable[..., dict[str, torch.Tensor]]) -> None:
    """Planted in place of each other they differ: sequences have unlike lengths here."""
    token, mean, total = (gradients(kind) for kind in ("token", "sequence-mean", "sequence-sum"))
    assert mean["denominator"] == total["denominator"] == 15 < token["denominator"]
    name = next(name for name in token if "lora_B" in name)
    ratio = float(token["denominator"] / total["denominator"])
    torch.testing.assert_close(token[name] * ratio, total[name], rtol=1e-4, atol=1e-8)
    assert (mean[name] / total[name]).std() > 1e-3


@pytest.mark.slow
def test_ranks_and_parts_train_the_weights_of_one(checkpoint: Path, tmp_path: Path) -> None:
    """Two processes over gloo sample half the prompts each; the same rollouts, the same gradient, the same weights."""
    code = (
        "import sys; from pathlib import Path; import torch; from finetune.training import join_ranks, leave_ranks\n"
        "from tests.finetune.on_policy import small\n"
        "ranks, _ = join_ranks('cpu')\n"
        "gemma = small.trained(Path(sys.argv[1]) / 'fit', Path(sys.argv[2]), ranks=ranks)\n"
        "if ranks.rank == 0: torch.save(small.weights(gemma), Path(sys.argv[1]) / 'weights.pt')\n"
        "leave_ranks(ranks)"
    )
    (tmp_path / "two").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = tmp_path / "train.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "two"), str(checkpoint)], env=environment, cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    alone = small.weights(small.trained(tmp_path / "one" / "fit", checkpoint))
    four = small.weights(small.trained(tmp_path / "four" / "fit", checkpoint, layout={"tokens_a_part": 96}))
    two = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    assert_alike(two, alone, 2e-5)
    assert_alike(four, alone, 2e-5)
    assert [line["reward"] for line in lines(tmp_path / "two" / "fit")] == pytest.approx(
        [line["reward"] for line in lines(tmp_path / "one" / "fit")]
    )


# Resume


class WithAnchor:
    """REINFORCE whose anchor follows it, and is sampled too."""

    normalisation = "sequence-sum"

    def __init__(self, policy: Any) -> None:
        from finetune.algorithms.reinforce import Reinforce

        self.plain, self.kept = Reinforce(3, 0.05), Anchor(policy)

    def examples(self, round: Round) -> Any:
        self.kept.follow(0.3, round.number)
        learned = list(self.plain.examples(round))
        best = round.sample(1, of=self.kept.model)
        return [*learned, *[rollout.example(0.2) for rollout in best]]

    def loss(self, *args: Any) -> torch.Tensor:
        return self.plain.loss(*args)


@pytest.mark.parametrize("stop", [(1, "sample"), (2, "sample"), (2, "reward")])
def test_a_run_interrupted_anywhere_ends_with_the_same_bits(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, str]
) -> None:
    """With an anchor, dropout and pictures. A sampler that is lost in the middle of a step leaves a checkpoint."""
    small.trained(tmp_path / "whole" / "fit", checkpoint, make=WithAnchor, dropout=0.2)
    count, what = stop
    graded: list[int] = []
    sampled: list[int] = []

    def lost(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        graded.append(1)
        if what == "reward" and len(graded) == count + 1:
            raise RuntimeError("the judge is down")
        return small.evenness(prompts, completions, **columns)

    sample = EngineSampler.sample

    def lost_sample(self: Any, *args: Any, of: Any = None) -> Any:
        if what == "sample" and of is not None:
            sampled.append(1)
            if len(sampled) == count + 1:
                raise LostSampler("the sampler is gone")
        return sample(self, *args, of=of)

    with monkeypatch.context() as patched:
        patched.setattr(EngineSampler, "sample", lost_sample)
        reward = [Reward(lost, name="evenness")]
        with pytest.raises(RuntimeError, match="is gone|judge is down"):
            cut = {"make": WithAnchor, "dropout": 0.2, "rewards": reward, "save_every_s": 3600}
            small.trained(tmp_path / "cut" / "fit", checkpoint, **cut)
    assert (tmp_path / "cut" / "fit" / "state.safetensors").is_file()
    small.trained(tmp_path / "cut" / "fit", checkpoint, make=WithAnchor, dropout=0.2)
    states = [load_file(tmp_path / run / "fit" / "state.safetensors") for run in ("whole", "cut")]
    assert states[0].keys() == states[1].keys() and any(name.startswith("kept.") for name in states[0])
    for name, value in states[0].items():  # weights, moments, anchor
        assert torch.equal(states[1][name], value), name
    assert lines(tmp_path / "cut" / "fit") == lines(tmp_path / "whole" / "fit")


# What every run leaves


def test_every_run_tells_reward_and_kl_on_both_sides(checkpoint: Path, tmp_path: Path) -> None:
    gemma = small.gemma_of(checkpoint)
    held_out = HeldOut(
        small.rows_of(gemma)[:2], [Reward(lambda completions, **_: [7.0] * len(completions), 2.0, "judge")], 2
    )
    small.trained(tmp_path / "fit", checkpoint, steps=4, held_out=held_out)
    told = lines(tmp_path / "fit")
    assert [(line["side"], line["updates"]) for line in told] == [
        ("train", 0), ("train", 1), ("held-out", 2), ("train", 2), ("train", 3), ("held-out", 4)
    ]  # fmt: skip
    assert told[0]["kl"] == pytest.approx(0, abs=1e-5) and abs(told[-1]["kl"]) > 1e-4
    assert told[2]["reward"] == 14.0 and told[2]["reward.judge"] == 7.0 and told[0]["reward.evenness"] != 7.0
    assert all(line["completion_tokens"] >= 1 for line in told)
    chart = (tmp_path / "fit" / "reward_kl.svg").read_text()
    assert chart.count("<polyline") == 2 and "held-out" in chart
    log = [json.loads(line) for line in (tmp_path / "fit" / "log.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in log if "reward" in line] == pytest.approx(
        [round(line["reward"], 5) for line in told if line["side"] == "train"]
    )
    assert (tmp_path / "fit" / "best.safetensors").is_file()


def test_rollouts_become_episodes_and_an_interrupted_run_writes_none_twice(checkpoint: Path, tmp_path: Path) -> None:
    from experience.dataset import EpisodeDataset
    from experience.replay import Replay, Table, rate_limiters, selectors
    from experience.storage.writer import EpisodeWriter
    from finetune.on_policy.episodes import replaying, writing

    limiter = rate_limiters.MinSize(1, "tokens")
    replay = Replay([Table("t", selectors.Uniform(), selectors.Fifo(), 100, limiter, group_size=4, max_age=0)])
    for steps in (2, 2):
        with EpisodeWriter(tmp_path / "rollouts") as writer:
            small.trained(tmp_path / f"run-{steps}" / "fit", checkpoint, steps=steps, on_round=writing(writer))
            (tmp_path / f"run-{steps}" / "fit" / "state.safetensors").unlink()
    episodes = list(EpisodeDataset(tmp_path / "rollouts"))
    assert len(episodes) == 2 * 2 * 4
    one = episodes[0]
    assert one.total_reward == pytest.approx(sum(t % 7 for t in one.steps[0].action["token_ids"]) / 10)
    assert one.metadata["agent_id"] == "fit-0" and one.metadata["group"].startswith("q.csv:")
    small.trained(tmp_path / "replayed" / "fit", checkpoint, steps=2, on_round=replaying(replay, "t"))
    told, batch = replay.info()["t"], replay.sample("t", num_samples=1)
    assert (told.size, told.groups, told.stale, told.policy_version) == (8, 2, 8, 1)
    assert told.inserts - told.deletes == told.tokens > 8 * 2
    assert len(batch) == 4 and len(set(batch.info.group)) == 1 and set(batch.info.policy_version) == {1}
    for item in batch:
        assert item.info.tokens > len(item.data["completion"]["token_ids"]) and "reward" in item.data


# Faults


def test_two_rewards_with_faults_are_both_named_and_the_run_stops_with_its_checkpoint(
    checkpoint: Path, tmp_path: Path
) -> None:
    calls: list[int] = []

    def late_nan(prompts: Any, completions: Any, **_: Any) -> list[float]:
        calls.append(1)
        return [float("nan") if len(calls) == 2 and n in (1, 3) else 0.5 for n in range(len(completions))]

    def late_short(prompts: Any, completions: Any, **_: Any) -> list[float]:
        return [1.0] * (len(completions) - (len(calls) == 2))

    rewards = [Reward(late_nan), Reward(late_short)]
    with pytest.raises(
        ValueError,
        match=r"reward late_nan: nan is no finite number, for 2 of 8 .*q.csv:.*; reward late_short: 7 values for 8",
    ):
        small.trained(tmp_path / "fit", checkpoint, rewards=rewards, save_every_s=3600)
    assert len(lines(tmp_path / "fit")) == 1 and (tmp_path / "fit" / "state.safetensors").is_file()


def test_equal_groups_are_named_once_and_the_run_goes_on(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetune.algorithms.reinforce import Reinforce

    even = [Reward(lambda completions, **_: [1.0] * len(completions), name="even")]
    before = small.weights(small.trained(tmp_path / "zero" / "fit", checkpoint, steps=0))
    gemma = small.trained(tmp_path / "fit", checkpoint, rewards=even, algorithm=Reinforce(4, 0.0))
    said = capsys.readouterr().err
    assert said.count("in 2 of 2 groups all samples have one reward") == 1 and "q.csv:" in said
    assert all(line["equal_groups"] == 1 for line in lines(tmp_path / "fit"))
    assert_alike(small.weights(gemma), before, 1e-8)  # nothing was learned


def test_what_cannot_be_run_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two rewards are called evenness"):
        small.trained(tmp_path / "fit", checkpoint, rewards=[Reward(small.evenness)] * 2)
    with pytest.raises(ValueError, match="may have .* tokens, and a row holds 12"):
        small.trained(tmp_path / "fit", checkpoint, layout={"max_tokens": 12})
    assert not (tmp_path / "fit" / "state.safetensors").exists()


def test_an_engine_that_fails_a_sample_is_a_lost_sampler(checkpoint: Path, tmp_path: Path) -> None:
    gemma: MedGemma = small.gemma_of(checkpoint)
    with torch.no_grad():
        gemma.model.get_input_embeddings().weight[:] = float("nan")
    with pytest.raises(LostSampler, match=r"q.csv:0: no sample: .*not finite"):
        EngineSampler(gemma, small.pictures()).sample(small.rows_of(gemma), range(5), 1, small.SAMPLING)
