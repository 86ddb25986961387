"""Texts to vectors by a frozen model: the states of policies that write. One model for all that are compared.

Letters: N texts, T tokens, H width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.selection.dialogues import Embed
from medgemma import MedGemma
from medsiglip.encoder import MedSigLIP


def decoder_embedding(gemma: MedGemma, max_tokens: int = 8192) -> Embed:
    """The mean over a text's tokens of the decoder's last hidden states, (N, H).

    Args:
        gemma: Whose weights are the same for every policy: the base, not what was tuned.
        max_tokens: Of a text; a longer one is refused, since nothing is cut.
    """

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([_mean_state(gemma, text, max_tokens) for text in texts])

    return embed


def encoder_embedding(encoder: MedSigLIP) -> Embed:
    """The mean over a text's pieces of the encoder's vectors, (N, H): it reads 64 tokens at once."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([encoder.encode_texts(_pieces(encoder, text)).mean(axis=0) for text in texts])

    return embed


def _mean_state(gemma: MedGemma, text: str, max_tokens: int) -> NDArray[np.float32]:
    ids = gemma.tokenizer(text).input_ids
    if len(ids) > max_tokens:
        raise ValueError(f"a text has {len(ids)} tokens and {max_tokens} are read; embed with another model")
    model = gemma.model
    with torch.inference_mode():
        embeddings = model.get_input_embeddings()(torch.tensor([ids], device=model.device))  # (1, T, H)
        seen = {"token_type_ids": torch.zeros(1, len(ids), dtype=torch.int64, device=model.device)}
        states = model.model(
            inputs_embeds=embeddings, use_cache=False, **(seen if hasattr(model.config, "vision_config") else {})
        ).last_hidden_state
    return np.asarray(states[0].float().mean(0).cpu())


def _pieces(encoder: MedSigLIP, text: str) -> list[str]:
    """Halves of halves, until the encoder reads each whole."""
    try:
        encoder.text_inputs([text])
    except ValueError:
        words = text.split(" ")
        if len(words) < 2:
            raise
        middle = len(words) // 2
        return [
            *_pieces(encoder, " ".join(words[:middle])),
            *_pieces(encoder, " ".join(words[middle:])),
        ]
    return [text]
