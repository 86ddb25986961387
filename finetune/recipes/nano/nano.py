"""nano: a small MedSigLIP and MedGemma pair, trained in the report's order on openly licensed pictures and text.

Stages, each resumable: tokenizers; contrastive tuning of the encoder; its tower plugged into a new decoder;
decoder pre-training on captions and text; instruction tuning on questions about pictures; export; measurement.
Only groups on the training side of `data_cards.split` are used; the measurement uses the others.

Source: MedGemma technical report (arXiv:2507.05201) §2.2 for the order of the stages.
"""

from pathlib import Path
from typing import Any

import torch

from finetune.augment import Augmentation
from finetune.configuration import keep_config
from finetune.contrastive import train_contrastive
from finetune.packing import Layout
from finetune.recipes.nano.card import (
    MEASUREMENTS,
    Measured,
    differences,
    read_measurements,
    write_card,
    write_measurements,
)
from finetune.recipes.nano.config import Config
from finetune.recipes.nano.data import Corpus, read_corpus, write_data_report
from finetune.recipes.nano.draws import contrastive_data, instruction_draw, pretraining_draw
from finetune.recipes.nano.measure import measure_decoder, measure_encoder
from finetune.recipes.nano.models import (
    GEMMA_TOKENIZER_FILES,
    SIGLIP_TOKENIZER_FILES,
    Pair,
    average_with_start,
    blind,
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
from finetune.training import Loop, Schedule
from finetune.views import kept_tower_views
from medgemma.checkpoints.plug import plug
from medgemma.prompts.chat import ImageTokens
from medsiglip.checkpoints.identity import fingerprint
from medsiglip.command import say
from medsiglip.encoder import pick_device


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Train, export and measure the pair; `out/medsiglip` and `out/medgemma` load in plain transformers."""
    start, device = starting_pair(config.start), pick_device(config.device)
    keep_config(config, out)
    encoder_folder, decoder_folder = out / "medsiglip", out / "medgemma"
    corpus = read_corpus(data, config.encoder.image_size_px)
    write_data_report(corpus, out / "data.json")
    say(corpus.report())
    if config.labels == "shuffled":
        corpus = corpus.with_shuffled_labels(config.seed)
    torch.set_float32_matmul_precision("high")  # tf32 on GPUs that have it; nothing on a CPU
    encoder = train_encoder(config, corpus, start, encoder_folder, out / "stages", device, quiet)
    train_text(config, corpus, encoder, start, decoder_folder, out / "stages", quiet)
    if config.measure:
        trained, evals = how_trained(config, start), out / "evals"
        for folder, measure in ((encoder_folder, measure_encoder), (decoder_folder, measure_decoder)):
            write_card(folder, measure(folder, data, evals, seed=config.seed, quiet=quiet), trained)


def measure_again(pair: str, data: Path, out: Path, quiet: bool) -> bool:
    """Measure a pair as its cards were; say what differs from them, and whether nothing does by more than an item.

    Another processor sums in another order, which may flip an answer.

    Args:
        pair: `nano`, or the folder of a run of this recipe.
        data: folder with one folder a card.
        out: `medsiglip.json` and `medgemma.json` are written there; a stopped measurement goes on.
        quiet: no progress bar.

    Raises:
        ValueError: the pair or a set is missing, or the pair has no cards.
    """
    found = starting_pair(pair or "nano")
    assert found
    cards = [read_measurements(folder / MEASUREMENTS) for folder in found]
    same = True
    for name, folder, card, measure in zip(
        ("medsiglip", "medgemma"), found, cards, (measure_encoder, measure_decoder), strict=True
    ):
        again = measure(folder, data, out / "evals", seed=card.seed, quiet=quiet)
        write_measurements(again, out / f"{name}.json")
        same = _say_differences(name, card, again) and same
    return same


def _say_differences(name: str, card: Measured, again: Measured) -> bool:
    lines, count = differences(card, again), len(again.figures)
    more = len(differences(card, again, items=1.5))
    for line in lines:
        say(f"{name}: {line}")
    said = f"{count} figures, {len(lines)} not as on its card, {more} by more than an item"
    say(f"{name} {again.fingerprint}: {said}")
    return not more


def how_trained(config: Config, start: Pair | None) -> str:
    """A sentence for the cards: from what, in how many steps, with which seed."""
    contrastive = sum(config.steps(phase) for phase in config.contrastive)
    frozen = sum(config.steps(phase) for phase in config.contrastive if phase.frozen_tower)
    origin, average = "From nothing", ""
    for part, kept in (("encoder", config.keep_of_encoder), ("decoder", config.keep_of_decoder)):
        if start and kept:
            average += f"; {part} averaged, {1 - kept:.2g} new to {kept:.2g} old"
    if start:
        origin = f"Gone on from encoder `{fingerprint(start.encoder)}` and decoder `{fingerprint(start.decoder)}`"
    steps = f"{config.steps(config.pretrain)} of pre-training, {config.steps(config.instruct)} of instruction"
    return (
        f"{origin}, seed {config.seed}, in {config.precision}: {contrastive} contrastive steps ({frozen} with a frozen "
        f"tower), {steps}{average}."
    )


def train_encoder(
    config: Config, corpus: Corpus, start: Pair | None, folder: Path, stages: Path, device: str, quiet: bool
) -> Any:
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
    encoder.to(device)
    for number, phase in enumerate(config.contrastive, start=1):
        train_contrastive(
            encoder,
            tokenizer,
            contrastive_data(corpus, phase),
            Schedule(phase.learning_rate, config.steps(phase)),
            stages / f"contrastive-{number}",
            Loop(config.seed, quiet=quiet),
            augmentation=Augmentation(phase.augmentation, phase.colour, phase.window, phase.frame),
            precision=config.precision,
            patches=seen_views(config, corpus, encoder, stages) if phase.frozen_tower else None,
        )
    if start and config.keep_of_encoder:
        average_with_start(encoder, start.encoder, config.keep_of_encoder)
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
    model.to(encoder.device)
    patches = seen_views(config, corpus, encoder, stages)
    if config.pictures == "none":
        patches = torch.zeros_like(patches[:1]).expand(patches.shape)
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
            Loop(config.seed, quiet=quiet),
            layout=Layout(tokenizer.pad_token_id, model.config.image_token_id, section.max_tokens),
            precision=config.precision,
        )
    if start and config.keep_of_decoder:
        average_with_start(model, start.decoder, config.keep_of_decoder)
    if config.pictures == "none":
        blind(model)
    save_decoder(model, tokenizer, config.encoder, folder)
    if start:  # a tokenizer that was read and written says more of its file than one that was made
        keep_tokenizer(start.decoder, GEMMA_TOKENIZER_FILES, folder)


def seen_views(config: Config, corpus: Corpus, encoder: Any, stages: Path) -> torch.Tensor:
    """(P, V, N, width): what the finished tower sees of every picture; kept with the stages."""
    decoder = config.decoder
    return kept_tower_views(
        stages / "views.safetensors",
        encoder.vision_model,
        corpus.pixels,
        corpus.free_orientation,
        decoder.views,
        augmentation=Augmentation(decoder.augmentation, window=decoder.window, frame=decoder.frame),
        seed=config.seed,
        precision=config.precision,
    )
