"""nano: a small MedSigLIP and MedGemma pair, trained in the report's order on openly licensed pictures and text.

Stages, each resumable: tokenizers; contrastive tuning of the encoder; its tower plugged into a new decoder;
decoder pre-training on captions and text; instruction tuning on questions about pictures; export; measurement.
Only groups on the training side of `data_cards.split` are used; the measurement uses the others.

Source: MedGemma technical report (arXiv:2507.05201) §2.2 for the order of the stages.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from evals.tasks.picture_questions import questions_about
from evals.tasks.vqa_rad import prompt as question_prompt
from evals.tasks.zero_shot import captions
from finetune.collate import Example
from finetune.configuration import Section, keep_config
from finetune.contrastive import ContrastiveData, PictureSource, train_contrastive
from finetune.recipes.nano_data import Corpus, read_corpus
from finetune.recipes.nano_measure import measure
from finetune.supervised import tower_views, train_decoder
from finetune.tokenizers import name_special_tokens, train_gemma_tokenizer, train_siglip_tokenizer
from finetune.training import Schedule
from medgemma.chat import ImageTokens, Prompt, render, tokenize, user_message
from medgemma.checkpoint import save_in_hub_layout
from medgemma.plug import plug
from medsiglip.command import say


class EncoderSection(Section):
    """Sizes of the SiglipModel."""

    image_size_px: int
    width: int
    layers: int
    mlp: int
    heads: int
    text_layers: int
    text_mlp: int
    vocabulary: int
    initial_logit_scale: float
    initial_logit_bias: float


class ContrastiveSection(Section):
    """One phase of contrastive tuning; counts are pictures and captions a step."""

    steps: int
    learning_rate: float
    augmentation: float
    """Strength, 0 (none) to 1."""
    histology_per_step: int
    modality_per_step: int
    chest_per_step: int
    question_pictures_per_step: int
    captions_per_step: int


class DecoderSection(Section):
    """Sizes of the Gemma 3 decoder."""

    width: int
    layers: int
    mlp: int
    heads: int
    key_value_heads: int
    head_width: int
    sliding_window: int
    vocabulary: int
    image_tokens: int
    views: int


class PretrainSection(Section):
    """Decoder pre-training on captions and text."""

    steps: int
    learning_rate: float
    texts_per_step: int
    captions_per_step: int
    max_tokens: int


class InstructSection(Section):
    """Instruction tuning on questions about pictures."""

    steps: int
    learning_rate: float
    question_set_per_step: int
    template_per_step: int
    texts_per_step: int
    max_tokens: int
    text_max_tokens: int


class Config(Section):
    """The whole recipe."""

    seed: int
    quick: bool
    measure: bool
    """Run the evaluations at the end and write the cards."""
    encoder: EncoderSection
    contrastive: tuple[ContrastiveSection, ...]
    """Phases, one after the other."""
    decoder: DecoderSection
    pretrain: PretrainSection
    instruct: InstructSection

    def steps(self, stage: ContrastiveSection | PretrainSection | InstructSection) -> int:
        """A stage's steps; `quick` takes a fifth of them."""
        return max(1, stage.steps // 5) if self.quick else stage.steps


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Train, export and measure the pair; `out/medsiglip` and `out/medgemma` load in plain transformers."""
    keep_config(config, out)
    torch.manual_seed(config.seed)
    encoder_folder, decoder_folder, stages = out / "medsiglip", out / "medgemma", out / "stages"
    corpus = read_corpus(data, config.encoder.image_size_px)
    say(corpus.report())
    encoder_tokenizer = train_siglip_tokenizer(corpus.all_texts(), config.encoder.vocabulary, encoder_folder)
    tokenizer = train_gemma_tokenizer(corpus.all_texts(), config.decoder.vocabulary, decoder_folder)

    encoder = new_encoder(config.encoder)
    for number, phase in enumerate(config.contrastive, start=1):
        train_contrastive(
            encoder,
            encoder_tokenizer,
            contrastive_data(corpus, phase),
            Schedule(phase.learning_rate, config.steps(phase)),
            stages / f"contrastive-{number}",
            augmentation=phase.augmentation,
            seed=config.seed,
            quiet=quiet,
        )
    save_encoder(encoder, config.encoder, encoder_folder)

    torch.manual_seed(config.seed)
    model = plug(
        encoder.vision_model,
        decoder_config(config.decoder, tokenizer),
        mm_tokens_per_image=config.decoder.image_tokens,
        token_ids=image_token_ids(tokenizer),
    )
    patches = tower_views(model, corpus.pixels, corpus.free_orientation, config.decoder.views, seed=config.seed)
    shape = ImageTokens.of(model.config, tokenizer)
    for stage, section, draw in (
        ("pretrain", config.pretrain, pretraining_draw(corpus, tokenizer, shape, config.pretrain)),
        ("instruct", config.instruct, instruction_draw(corpus, tokenizer, shape, config.instruct)),
    ):
        train_decoder(
            model,
            draw,
            patches,
            Schedule(section.learning_rate, config.steps(section)),
            stages / stage,
            pad_id=tokenizer.pad_token_id,
            max_tokens=section.max_tokens,
            seed=config.seed,
            quiet=quiet,
        )
    save_decoder(model, tokenizer, config.encoder, decoder_folder)
    if config.measure:
        measure(encoder_folder, decoder_folder, data, out / "evals", seed=config.seed, quiet=quiet)


def new_encoder(section: EncoderSection) -> Any:
    """A SiglipModel with random weights."""
    from transformers import SiglipConfig, SiglipModel

    shared = {"hidden_size": section.width, "num_attention_heads": section.heads}
    config = SiglipConfig(
        vision_config={
            **shared,
            "intermediate_size": section.mlp,
            "num_hidden_layers": section.layers,
            "image_size": section.image_size_px,
            "patch_size": 14,
        },
        text_config={
            **shared,
            "intermediate_size": section.text_mlp,
            "num_hidden_layers": section.text_layers,
            "vocab_size": section.vocabulary,
            "projection_size": section.width,
            # transformers' defaults are CLIP's ids
            "pad_token_id": 1,
            "eos_token_id": 1,
            "bos_token_id": 1,
        },
    )
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(section.initial_logit_scale).log_()
        model.logit_bias.fill_(section.initial_logit_bias)
    return model


def contrastive_data(corpus: Corpus, section: ContrastiveSection) -> ContrastiveData:
    """The corpus as the contrastive stage draws from it."""
    per_step = {
        "histo-lc25000-lung": section.histology_per_step,
        "modality-mednist": section.modality_per_step,
        "cxr-nih14": section.chest_per_step,
        "vqa-rad": section.question_pictures_per_step,
    }
    sources = tuple(
        PictureSource(corpus.numbers_of(card), count, free_orientation=card == "histo-lc25000-lung")
        for card, count in per_step.items()
    )
    return ContrastiveData(corpus.pixels, corpus.facts, sources, captions, section.captions_per_step)


def decoder_config(section: DecoderSection, tokenizer: Any) -> Any:
    """Gemma3TextConfig of the decoder."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=section.width,
        intermediate_size=section.mlp,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        num_key_value_heads=section.key_value_heads,
        head_dim=section.head_width,
        query_pre_attn_scalar=section.head_width,
        sliding_window=section.sliding_window,
        max_position_embeddings=2048,
        layer_types=["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(section.layers)],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )


def image_token_ids(tokenizer: Any) -> dict[str, int]:
    """The ids that Gemma3Config wants, looked up in the tokenizer."""
    return {
        "boi_token_index": tokenizer.convert_tokens_to_ids(tokenizer.boi_token),
        "eoi_token_index": tokenizer.convert_tokens_to_ids(tokenizer.eoi_token),
        "image_token_index": tokenizer.convert_tokens_to_ids(tokenizer.image_token),
    }


Draw = Callable[[int, random.Random], Sequence[Example]]


def pretraining_draw(corpus: Corpus, tokenizer: Any, shape: ImageTokens, section: PretrainSection) -> Draw:
    """Text from its start or its middle, and captions after their picture."""
    texts = [tuple(ids) for ids in tokenizer(list(corpus.texts), add_special_tokens=False).input_ids]
    image = tokenize(tokenizer, shape, tokenizer.bos_token + shape.begin).input_ids

    def draw(step: int, rng: random.Random) -> list[Example]:
        chosen = [
            _text_example(rng.choice(texts), section.max_tokens, tokenizer, rng) for _ in range(section.texts_per_step)
        ]
        for _ in range(section.captions_per_step):
            number = corpus.draw_picture(rng)
            caption = rng.choice(captions(corpus.facts[number])).text
            ids = tuple(tokenizer(caption, add_special_tokens=False).input_ids)
            chosen.append(Example(image, (*ids, tokenizer.eos_token_id), (number,)))
        return chosen

    return draw


def instruction_draw(corpus: Corpus, tokenizer: Any, shape: ImageTokens, section: InstructSection) -> Draw:
    """VQA-RAD, template questions over the labelled sets, and a little text."""
    texts = [tuple(ids) for ids in tokenizer(list(corpus.texts), add_special_tokens=False).input_ids]
    end = tuple(tokenizer(f"{tokenizer.eot_token}\n", add_special_tokens=False).input_ids)
    prompts: dict[str, Prompt] = {}

    def answered(question: str, answer: str, number: int, rng: random.Random) -> Example:
        text = question_prompt(question) if rng.random() < 0.7 else question.strip()
        if text not in prompts:
            prompts[text] = render(tokenizer, shape, [user_message(text, 1)])
        ids = tuple(tokenizer(answer.strip().lower(), add_special_tokens=False).input_ids)
        return Example(prompts[text].input_ids, (*ids, *end), (number,))

    def draw(step: int, rng: random.Random) -> list[Example]:
        asked = rng.choices(corpus.questions, k=section.question_set_per_step)
        chosen = [answered(q.question, q.answer, corpus.number_of[q.path], rng) for q in asked]
        while len(chosen) < section.question_set_per_step + section.template_per_step:
            number = corpus.draw_picture(rng)
            possible = questions_about(corpus.facts[number], rng.random().hex())
            for about in rng.sample(possible, min(3, len(possible))):
                chosen.append(answered(about.question, about.answer, number, rng))
        chosen += [
            _text_example(rng.choice(texts), section.text_max_tokens, tokenizer, rng)
            for _ in range(section.texts_per_step)
        ]
        return chosen

    return draw


def save_encoder(encoder: Any, section: EncoderSection, folder: Path) -> None:
    """Write the SiglipModel in bfloat16 with the processor files plain transformers wants."""
    from transformers import SiglipImageProcessorPil

    encoder.to(torch.bfloat16).save_pretrained(folder)
    encoder.to(torch.float32)
    side_px = {"height": section.image_size_px, "width": section.image_size_px}
    SiglipImageProcessorPil(size=side_px, resample=2).save_pretrained(folder)


def save_decoder(model: Any, tokenizer: Any, section: EncoderSection, folder: Path) -> None:
    """Write the Gemma3ForConditionalGeneration in the Hub's layout with its processor."""
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    side_px = {"height": section.image_size_px, "width": section.image_size_px}
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids(tokenizer.eot_token),
    ]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    save_in_hub_layout(model, folder, torch.bfloat16)
    images = Gemma3ImageProcessorPil(size=side_px, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.save_pretrained(folder)
    Gemma3Processor(images, tokenizer, image_seq_length=model.config.mm_tokens_per_image).save_pretrained(folder)
    name_special_tokens(folder)  # the processor has written the tokenizer again


def _text_example(ids: tuple[int, ...], max_tokens: int, tokenizer: Any, rng: random.Random) -> Example:
    start = 0 if rng.random() < 0.5 else rng.randrange(max(1, len(ids) - max_tokens // 2))
    completion = ids[start : start + max_tokens - 2]
    whole = start + len(completion) == len(ids)
    return Example((tokenizer.bos_token_id,), (*completion, *((tokenizer.eos_token_id,) if whole else ())))
