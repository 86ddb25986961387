"""`medgemma report --check`: the options, where draft and source come from, and what is printed."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgemma.commands.options import Study
from medsiglip.command import say, whole_file

if TYPE_CHECKING:
    from medgemma.entailment.checking import CheckedSentence


@dataclass(frozen=True)
class CheckOptions:
    """Whether a draft is checked, and against what."""

    check: Annotated[bool, typer.Option("--check", help="Mark each sentence: supported or not by --source.")] = False
    source: Annotated[Path | None, typer.Option(help="Text that must support the draft: findings, a record.")] = None
    draft: Annotated[Path | None, typer.Option(help="Text that is checked instead of a report by the model.")] = None
    probe: Annotated[
        Path | None, typer.Option(help="Instead of --source: findings by a probe, a folder of medsiglip probe.")
    ] = None
    label_set: Annotated[str, typer.Option(help="Instead of --source: findings by labels: chest-xray-findings.")] = ""
    encoder: Annotated[str, typer.Option(help="Of --probe and --label-set: nano, a folder, or a Hub id.")] = "nano"
    scorer: Annotated[str, typer.Option(help="rules, or a folder or Hub id of a model of inference.")] = "rules"

    def demand_whole(self, file: str) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: They do not; one line says what to give.
        """
        others = {
            "--source": self.source, "--draft": self.draft, "--probe": self.probe, "--label-set": self.label_set,
            "--encoder": self.encoder != "nano", "--scorer": self.scorer != "rules",
        }  # fmt: skip
        given = [name for name, value in others.items() if value]
        if not self.check:
            if given:
                raise ValueError(f"{', '.join(given)}: only --check uses it; add --check")
            if not file:
                raise ValueError("give FILE, the study to report; or --check with --draft and --source")
            return
        against = [name for name in given if name in ("--source", "--probe", "--label-set")]
        if len(against) != 1:
            raise ValueError(
                "--check needs one of --source FILE, --probe DIR and --label-set NAME to check against; got "
                + (" and ".join(against) or "none")
            )
        if self.encoder != "nano" and self.source:
            raise ValueError("--encoder is of --probe and --label-set; leave it out beside --source")
        if not file and (not self.draft or not self.source):
            raise ValueError("give FILE, the study; only --draft with --source needs none")
        if file and self.draft and self.source:
            raise ValueError(
                "--draft is checked against --source, and FILE would not be looked at; leave out one of them"
            )

    def draft_text(self) -> str:
        """The text of --draft; empty without it."""
        return _read(self.draft) if self.draft else ""

    def source_text(self, study: Study | None) -> str:
        """The text to check against: --source, or the findings of the study's pictures in sentences."""
        if self.source:
            return _read(self.source)
        assert study is not None  # demand_whole
        return _findings(study, self)


def write_check(
    draft: str, source: str, options: CheckOptions, fields: dict[str, Any], as_json: bool, out: Path | None
) -> None:
    """Check a draft and write a line a sentence, or one JSON object.

    Args:
        draft: Its text.
        source: What must support it.
        options: The scorer.
        fields: More of the JSON object, such as the model's answer.
        as_json: One JSON object instead of lines.
        out: File; stdout without it.
    """
    from medgemma.entailment.checking import MARKS, check_draft
    from medgemma.entailment.languages import other_language
    from medgemma.entailment.named import scorer_named
    from medgemma.entailment.sentences import sentences

    parts = {f"sentence {number} of the draft": part for number, part in enumerate(sentences(draft), 1)}
    for name, text in {"the source": source, **parts}.items():
        if language := other_language(text):
            raise ValueError(f"{name} is in {language}; only English is checked")
    checked = check_draft(draft, source, scorer_named(options.scorer))
    counts = Counter(one.mark for one in checked)
    with whole_file(out) as file:
        if as_json:
            told = {
                **fields,
                "source": str(options.source) if options.source else source,
                "scorer": options.scorer,
                "counts": {mark: counts[mark] for mark in MARKS.values()},
                "sentences": [_row(one) for one in checked],
            }
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
        else:
            file.writelines(f"{one.mark:<15}{one.sentence}\n" for one in checked)
    say("note: " + ", ".join(f"{counts[mark]} {mark}" for mark in MARKS.values()) + f", by {options.scorer}")


def _row(one: "CheckedSentence") -> dict[str, Any]:
    shares = {name: round(value, 4) for name, value in asdict(one.answer).items()}
    return {"sentence": one.sentence, "mark": one.mark, **shares}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8; save it as UTF-8") from error


def _findings(study: Study, options: CheckOptions) -> str:
    """What encoder and probe, or label set, say of the study's pictures."""
    from medgemma.entailment.checking import findings_source, likeliest_of_pictures
    from medgemma.entailment.chest.findings import findings_of
    from medsiglip import MedSigLIP, ZeroShotClassifier
    from medsiglip.class_vectors import default_folder
    from medsiglip.imaging import Picture, open_images
    from medsiglip.probing.head import read_head

    encoder = MedSigLIP.from_pretrained(options.encoder)
    pictures = [item for item in open_images(study.files, encoder.pixel_policy) if isinstance(item, Picture)]
    if not pictures:
        raise ValueError(f"{', '.join(study.files)}: no picture that findings could be read from; give --source FILE")
    vectors = encoder.encode_images(pictures)
    if options.probe:
        head = read_head(options.probe)
        head.check(encoder.identity, f"{encoder.pixel_policy}+{encoder.preprocessing.policy}")
        result = head.classify_vectors(vectors)
    else:
        classifier = ZeroShotClassifier.for_task(encoder, options.label_set, cache=default_folder())
        result = classifier.classify_vectors(vectors)
    found = likeliest_of_pictures(result.labels, result.probabilities.tolist())
    unknown = [label for label in found if options.scorer == "rules" and not findings_of(f"There is {label}.")]
    if unknown:
        say(f"note: the rules know no finding {', '.join(unknown)}; sentences about them are not mentioned")
    return findings_source(found)
