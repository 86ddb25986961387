"""Samples from a server that speaks OpenAI's chat completions: vLLM with the policy's adapter, or `medgemma serve`.

The server's weights may be a step behind, and its kernels round otherwise, so its log-probabilities are what samples
were drawn from and not the policy's: losses are corrected by the ratio (`Rollout.example(corrected=True)`). After every
update the adapter is saved and loaded there under a name of its own, so that no prefix of an older one is ever used.
vLLM: start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, on a disk that both see.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from finetune.on_policy.models import Frozen
from finetune.on_policy.rollouts import PromptRow, Rollout
from finetune.on_policy.sampling import LostSampler
from finetune.training import ALONE, Ranks
from finetune.training.ranks import gathered
from medgemma import MedGemma
from medgemma.endpoint import Endpoint, EndpointFault, EndpointRefused, png_data_url
from medgemma.engine import Sampling
from medsiglip.imaging import Picture

REQUESTS_AT_ONCE = 16
VLLM_FIELDS: Mapping[str, Any] = {"return_tokens_as_token_ids": True}
TOKEN_ID = "token_id:"
"""What vLLM then puts before a token's number."""


@dataclass
class ServedSampler:
    """See the head of this file."""

    endpoint: Endpoint
    gemma: MedGemma
    """Whose tokenizer and prompt form the server has too."""
    pictures: Sequence[Picture] = ()
    save_adapter: Callable[[Path], object] | None = None
    """Writes the policy's adapter into a folder that is not there yet; None leaves the server's weights as they are."""
    folder: Path = Path("served-adapters")
    """Where the adapter is written, as the server sees it too."""
    fields: Mapping[str, Any] = field(default_factory=lambda: VLLM_FIELDS)
    """Of every request; none for `medgemma serve`."""
    logprobs_mode: Literal["raw", "processed"] = "raw"
    """What the server tells: of the whole distribution at temperature 1, or, as vLLM's --logprobs-mode
    processed_logprobs does, of what it drew from."""
    ranks: Ranks = ALONE
    """Rank 0 loads the adapter."""
    is_exact: bool = False
    version: str = ""
    model: str = ""
    """As the server calls it; the endpoint's own until the first update."""
    run: str = ""
    """Tells the adapters of this process from those of a run before it."""

    def weights_changed(self, version: str) -> None:
        """See `Sampler`. Rank 0 loads the adapter, under a name that all ranks then ask for."""
        self.version = version
        if self.save_adapter is None:
            return
        before = self.model
        self.run = self.run or gathered(uuid4().hex[:8], self.ranks)[0]  # at the first step all ranks are here
        self.model = f"{version}-{self.run}"
        if self.ranks.rank:
            return
        path = (self.folder / self.model).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.save_adapter(path)
        try:
            self.endpoint.post("/load_lora_adapter", {"lora_name": self.model, "lora_path": str(path)})
            if before:
                self.endpoint.post("/unload_lora_adapter", {"lora_name": before})
        except (EndpointFault, EndpointRefused) as fault:
            raise LostSampler(f"the server took no weights of {version}: {fault}") from fault
        if before:
            shutil.rmtree(self.folder / before, ignore_errors=True)

    def sample(
        self,
        rows: Sequence[PromptRow],
        seeds: Sequence[int],
        num_samples: int,
        sampling: Sampling,
        *,
        of: Frozen | None = None,
    ) -> list[Rollout]:
        """See `Sampler`.

        Raises:
            ValueError: another model than the policy is asked for, or the server's log-probabilities are not those of
                what it draws from.
        """
        if of is not None:
            raise ValueError(f"{of.name}: the server has the policy alone; sample from the engine")
        is_cut = sampling.top_p < 1 or sampling.top_k is not None or sampling.min_p > 0 or sampling.has_penalty
        if self.logprobs_mode == "raw" and (sampling.temperature != 1 or is_cut):
            raise ValueError(
                "the server tells log-probabilities at temperature 1 and uncut; sample so, or start vLLM with "
                '--logprobs-mode processed_logprobs and give logprobs_mode="processed"'
            )
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            asked = [
                pool.submit(self._group, group, row, seed, num_samples, sampling)
                for group, (row, seed) in enumerate(zip(rows, seeds, strict=True))
            ]
            return [rollout for one in asked for rollout in one.result()]

    def _group(self, group: int, row: PromptRow, seed: int, num_samples: int, sampling: Sampling) -> list[Rollout]:
        place = row.place or f"prompt {group}"
        body = {
            "model": self.model or self.endpoint.model,
            "messages": self._messages(row),
            "n": num_samples,
            "seed": seed % 2**31,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            **({"top_p": sampling.top_p} if sampling.top_p < 1 else {}),
            **({"top_k": sampling.top_k} if sampling.top_k is not None else {}),
            **({"min_p": sampling.min_p} if sampling.min_p > 0 else {}),
            "logprobs": True,
            **self.fields,
        }
        try:
            found = self.endpoint.post("/chat/completions", body)
            choices, tokens = found["choices"], found["usage"]["prompt_tokens"]
            rollouts = [self._rollout(group, row, choice) for choice in choices]
        except (EndpointFault, EndpointRefused) as fault:
            raise LostSampler(f"{place}: no sample: {fault}") from fault
        except (LookupError, TypeError) as fault:
            raise LostSampler(f"{place}: no sample: the server's reply lacks {fault}") from fault
        if len(rollouts) != num_samples:
            raise LostSampler(f"{place}: {len(rollouts)} samples of the {num_samples} asked for")
        if tokens != len(row.prompt.input_ids):
            raise LostSampler(
                f"{place}: the server's prompt has {tokens} tokens and the policy's {len(row.prompt.input_ids)}; give "
                "it the policy's chat template and picture size"
            )
        return rollouts

    def _rollout(self, group: int, row: PromptRow, choice: Mapping[str, Any]) -> Rollout:
        told = (choice.get("logprobs") or {}).get("content") or []
        logprobs = tuple(float(one["logprob"]) for one in told)
        return Rollout(
            prompt_ids=row.prompt.input_ids,
            completion_ids=tuple(self._token_id(one["token"]) for one in told),
            pictures=row.pictures,
            place=row.place,
            group=group,
            ended=choice["finish_reason"] == "stop",
            logprobs=logprobs,
            sampled_logprobs=logprobs,
            policy_version=self.version,
            text=str(choice["message"]["content"] or ""),
        )

    def _token_id(self, token: str) -> int:
        if token.startswith(TOKEN_ID):
            return int(token.removeprefix(TOKEN_ID))
        found = self.gemma.tokenizer.convert_tokens_to_ids(token.replace(" ", "▁"))
        if found is None or found == self.gemma.tokenizer.unk_token_id:
            raise LostSampler(f"the server said a token {token!r} that the policy's tokenizer has not")
        return int(found)

    def _messages(self, row: PromptRow) -> list[dict[str, Any]]:
        """With the pictures as data URLs, at full size."""
        if isinstance(row.messages, str):
            raise ValueError(f"{row.place}: a plain prompt; a server is asked in messages")
        shown = iter(row.pictures)
        return [{**message, "content": self._content(message["content"], shown)} for message in row.messages]

    def _content(self, content: Any, shown: Any) -> Any:
        if isinstance(content, str):
            return content
        return [
            {"type": "image_url", "image_url": {"url": png_data_url(self.pictures[next(shown)])}}
            if part["type"] == "image"
            else part
            for part in content
        ]
