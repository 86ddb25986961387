"""Twenty steps of tuning nano, beside the losses that were stored on another machine, and beside themselves.

`python -m tests.finetune.training.test_losses_stored` stores them anew.
"""

import json
from pathlib import Path

import pytest
import torch

from finetune.adapters import AdapterSection, adapt
from finetune.collate import Conversations, Example
from finetune.packing import Layout
from finetune.supervised import tune_decoder
from finetune.training import Loop, Schedule, rows_of_step
from medgemma import MedGemma
from tests.tiny import SENTENCES

STORED = Path(__file__).parent / "losses_of_20_steps.json"
STEPS = 20


def losses(out: Path) -> list[float]:
    """Of every step, as log.jsonl has them: rounded to 5 decimals."""
    gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    conversations = Conversations.of(gemma.tokenizer, gemma.image_tokens)
    examples = [_example(conversations, number) for number in range(24)]
    side = gemma.model.config.vision_config.image_size
    adapt(gemma.model, AdapterSection(dropout=0.1, parts=("language", "tower")), seed=0)
    tune_decoder(
        gemma.model,
        lambda step, rng: [examples[n] for n in rows_of_step(len(examples), 4, 0, step)],
        lambda number, rng: _picture(number, side),
        Schedule(1e-3, STEPS),
        out / "tune",
        Loop(log_every_steps=1, quiet=True),
        layout=Layout(gemma.tokenizer.pad_token_id, gemma.model.config.image_token_id, 256, tokens_a_part=256),
        precision="float32",
        settings={},
    )
    return [json.loads(line)["loss"] for line in (out / "tune" / "log.jsonl").read_text().splitlines()]


def _example(conversations: Conversations, number: int) -> Example:
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": SENTENCES[number % len(SENTENCES)]}],
    }
    return conversations.example([message], SENTENCES[(3 * number + 1) % len(SENTENCES)], [number])


def _picture(number: int, side: int) -> torch.Tensor:
    """Waves: the same numbers on every machine, to the last bit or two."""
    waves = torch.arange(3 * side * side, dtype=torch.float64) * (number + 1) / 977
    return waves.sin().float().view(3, side, side)


@pytest.mark.slow
def test_losses_are_those_of_another_machine_and_bit_equal_on_this_one(tmp_path: Path) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    found = losses(tmp_path / "one")
    assert len(found) == len(stored["losses"]) == STEPS
    assert found == pytest.approx(stored["losses"], rel=1e-3)
    assert stored["losses"][-1] < 0.7 * stored["losses"][0]  # it learns: a sequence that stands still tells nothing
    assert losses(tmp_path / "two") == found
    states = [(tmp_path / run / "tune" / "state.safetensors").read_bytes() for run in ("one", "two")]
    assert states[0] == states[1]


if __name__ == "__main__":
    import platform
    import tempfile

    with tempfile.TemporaryDirectory() as out:
        facts = {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }
        STORED.write_text(json.dumps({**facts, "losses": losses(Path(out))}, indent=1) + "\n", encoding="utf-8")
