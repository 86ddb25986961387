"""nano: a small MedSigLIP and MedGemma pair, trained in the report's order on openly licensed pictures and text.

Stages, each resumable: tokenizers; contrastive tuning of the encoder; its tower plugged into a new decoder;
decoder pre-training on captions and text; instruction tuning on questions about pictures; export; measurement.
Only groups on the training side of `data_cards.split` are used; the measurement uses the others.

Source: MedGemma technical report (arXiv:2507.05201) §2.2 for the order of the stages.
"""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from evals.tasks.outside_questions import UNKNOWN, draw_outside_question
from evals.tasks.picture_questions import questions_about
from evals.tasks.vqa_rad import prompt as question_prompt
from evals.tasks.zero_shot import draw_caption
from finetune.collate import Example
from finetune.configuration import keep_config
from finetune.contrastive import ContrastiveData, PictureSource, train_contrastive
from finetune.recipes.nano_config import Config, ContrastiveSection, InstructSection, PretrainSection
from finetune.recipes.nano_data import Corpus, read_corpus, write_data_report
from finetune.recipes.nano_measure import measure
from finetune.recipes.nano_models import (
    GEMMA_TOKENIZER_FILES,
    SIGLIP_TOKENIZER_FILES,
    Pair,
    average_decoders,
    decoder_config,
    decoder_to_go_on_with,
    encoder_to_go_on_with,
    image_token_ids,
    keep_tokenizer,
    new_encoder,
    save_decoder,
    save_encoder,
    starting_pair,
)
from finetune.supervised import train_decoder
from finetune.tokenizers import train_gemma_tokenizer, train_siglip_tokenizer
from finetune.training import Schedule
from finetune.views import kept_tower_views, tower_views
from medgemma.chat import ImageTokens, render, tokenize, user_message
from medgemma.plug import plug
from medsiglip.command import say
from medsiglip.weights import fingerprint

OTHER_INSTRUCTIONS = (
    "Answer briefly.",
    "Give a short answer.",
    "Answer in a few words.",
    "Reply with a word or a short phrase.",
    "Be brief.",
    "Keep the answer short.",
)
"""Beside the instruction of the evaluations."""


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Train, export and measure the pair; `out/medsiglip` and `out/medgemma` load in plain transformers."""
    start = starting_pair(config.start)
    keep_config(config, out)
    encoder_folder, decoder_folder = out / "medsiglip", out / "medgemma"
    corpus = read_corpus(data, config.encoder.image_size_px)
    write_data_report(corpus, out / "data.json")
    say(corpus.report())
    if config.labels == "shuffled":
        corpus = corpus.with_shuffled_labels(config.seed)
    encoder = train_encoder(config, corpus, start, encoder_folder, out / "stages", quiet)
    train_text(config, corpus, encoder, start, decoder_folder, out / "stages", quiet)
    if config.measure:
        trained = how_trained(config, start)
        measure(encoder_folder, decoder_folder, data, out / "evals", trained=trained, seed=config.seed, quiet=quiet)


def how_trained(config: Config, start: Pair | None) -> str:
    """A sentence for the cards: from what, in how many steps, with which seed."""
    contrastive = sum(config.steps(phase) for phase in config.contrastive)
    frozen = sum(config.steps(phase) for phase in config.contrastive if phase.frozen_tower)
    origin, average = "From nothing", ""
    if start and config.keep_of_start:
        average = f"; decoder averaged, {1 - config.keep_of_start:.2g} new to {config.keep_of_start:.2g} old"
    if start:
        origin = f"Gone on from encoder `{fingerprint(start.encoder)}` and decoder `{fingerprint(start.decoder)}`"
    steps = f"{config.steps(config.pretrain)} of pre-training, {config.steps(config.instruct)} of instruction"
    return (
        f"{origin}, seed {config.seed}, in {config.precision}: {contrastive} contrastive steps ({frozen} with a frozen "
        f"tower), {steps}{average}."
    )


def train_encoder(config: Config, corpus: Corpus, start: Pair | None, folder: Path, stages: Path, quiet: bool) -> Any:
    """The contrastive phases; the encoder and its tokenizer are written to `folder`."""
    from transformers import SiglipTokenizer

    torch.manual_seed(config.seed)
    if start:
        keep_tokenizer(start.encoder, SIGLIP_TOKENIZER_FILES, folder)
        tokenizer = SiglipTokenizer.from_pretrained(folder)
        encoder = encoder_to_go_on_with(start.encoder, config.encoder)
    else:
        tokenizer = train_siglip_tokenizer(corpus.all_texts(), config.encoder.vocabulary, folder)
        encoder = new_encoder(config.encoder)
    for number, phase in enumerate(config.contrastive, start=1):
        train_contrastive(
            encoder,
            tokenizer,
            contrastive_data(corpus, phase),
            Schedule(phase.learning_rate, config.steps(phase)),
            stages / f"contrastive-{number}",
            augmentation=phase.augmentation,
            precision=config.precision,
            seed=config.seed,
            quiet=quiet,
            patches=seen_views(config, corpus, encoder, stages) if phase.frozen_tower else None,
        )
    save_encoder(encoder, config.encoder, folder)
    return encoder


def train_text(
    config: Config, corpus: Corpus, encoder: Any, start: Pair | None, folder: Path, stages: Path, quiet: bool
) -> None:
    """The decoder's stages over the encoder's frozen tower; the decoder is written to `folder`."""
    from transformers import GemmaTokenizer

    torch.manual_seed(config.seed)
    if start:
        keep_tokenizer(start.decoder, GEMMA_TOKENIZER_FILES, folder)
        tokenizer = GemmaTokenizer.from_pretrained(folder)
    else:
        tokenizer = train_gemma_tokenizer(corpus.all_texts(), config.decoder.vocabulary, folder)
    model = plug(
        encoder.vision_model,
        decoder_config(config.decoder, tokenizer),
        mm_tokens_per_image=config.decoder.image_tokens,
        token_ids=image_token_ids(tokenizer),
    )
    if start:
        model = decoder_to_go_on_with(start.decoder, model)
    patches = seen_views(config, corpus, encoder, stages)
    if config.pictures == "none":
        grey = tower_views(
            encoder.vision_model, torch.full_like(corpus.pixels[:1], 128), torch.tensor([False]), 1, seed=0
        )
        patches = grey.expand(patches.shape)
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
            precision=config.precision,
            seed=config.seed,
            quiet=quiet,
        )
    if start and config.keep_of_start:
        average_decoders(model, start.decoder, config.keep_of_start)
    save_decoder(model, tokenizer, config.encoder, folder)
    if start:  # a tokenizer that was read and written says more of its file than one that was made
        keep_tokenizer(start.decoder, GEMMA_TOKENIZER_FILES, folder)


def seen_views(config: Config, corpus: Corpus, encoder: Any, stages: Path) -> torch.Tensor:
    """(P, V, N, width): what the finished tower sees of every picture; kept with the stages."""
    return kept_tower_views(
        stages / "views.safetensors",
        encoder.vision_model,
        corpus.pixels,
        corpus.free_orientation,
        config.decoder.views,
        seed=config.seed,
        precision=config.precision,
    )


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
    return ContrastiveData(corpus.pixels, corpus.facts, sources, draw_caption, section.captions_per_step)


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
            caption = draw_caption(corpus.facts[number], rng).text
            ids = tuple(tokenizer(caption, add_special_tokens=False).input_ids)
            chosen.append(Example(image, (*ids, tokenizer.eos_token_id), (number,)))
        return chosen

    return draw


def instruction_draw(corpus: Corpus, tokenizer: Any, shape: ImageTokens, section: InstructSection) -> Draw:
    """VQA-RAD, template questions over the labelled sets, questions without an answer, and a little text."""
    texts = [tuple(ids) for ids in tokenizer(list(corpus.texts), add_special_tokens=False).input_ids]
    end = tuple(tokenizer(f"{tokenizer.eot_token}\n", add_special_tokens=False).input_ids)

    def answered(question: str, answer: str, number: int, rng: random.Random) -> Example:
        prompt = render(tokenizer, shape, [user_message(asked_in_some_way(question, rng), 1)])
        ids = tuple(tokenizer(answer, add_special_tokens=False).input_ids)
        return Example(prompt.input_ids, (*ids, *end), (number,))

    def draw(step: int, rng: random.Random) -> list[Example]:
        asked = rng.choices(corpus.questions, k=section.question_set_per_step)
        chosen = [
            answered(with_a_word_lost(q.question, rng), short_answer(q.answer), corpus.number_of[q.path], rng)
            for q in asked
        ]
        while len(chosen) < section.question_set_per_step + section.template_per_step:
            number = corpus.draw_picture(rng)
            possible = questions_about(corpus.facts[number], rng.random().hex())
            for about in rng.sample(possible, min(3, len(possible))):
                chosen.append(answered(about.question, about.answer.lower(), number, rng))
        for _ in range(section.outside_per_step):
            number = corpus.draw_picture(rng)
            question = draw_outside_question(corpus.facts[number], rng)
            if rng.random() < 0.4:
                question = rng.choice(corpus.text_questions)
            chosen.append(answered(question, UNKNOWN, number, rng))
        chosen += [
            _text_example(rng.choice(texts), section.text_max_tokens, tokenizer, rng)
            for _ in range(section.texts_per_step)
        ]
        return chosen

    return draw


def short_answer(answer: str) -> str:
    """A free answer in lower case and in one spelling, without the article before it."""
    said = re.sub(r"^(the|an|a) ", "", answer.strip().lower().rstrip("."))
    return re.sub(r"\bx[- ]?ray", "x-ray", said)


def with_a_word_lost(question: str, rng: random.Random) -> str:
    """A third of the longer questions lose a word, so that no single word decides the answer."""
    words = question.split()
    if len(words) < 6 or rng.random() < 2 / 3:
        return question
    words.pop(rng.randrange(len(words)))
    return " ".join(words)


def asked_in_some_way(question: str, rng: random.Random) -> str:
    """A question as people type it: mostly with the instruction of the evaluations, some with another or none."""
    said = question.strip()
    if rng.random() < 0.1:
        said = said.lower()
    if rng.random() < 0.1:
        said = said.rstrip("?.")
    way = rng.random()
    if way < 0.6:
        return question_prompt(said)
    return said if way < 0.8 else f"{said}\n{rng.choice(OTHER_INSTRUCTIONS)}"


def _text_example(ids: tuple[int, ...], max_tokens: int, tokenizer: Any, rng: random.Random) -> Example:
    start = 0 if rng.random() < 0.5 else rng.randrange(max(1, len(ids) - max_tokens // 2))
    completion = ids[start : start + max_tokens - 2]
    whole = start + len(completion) == len(ids)
    return Example((tokenizer.bos_token_id,), (*completion, *((tokenizer.eos_token_id,) if whole else ())))
