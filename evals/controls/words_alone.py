"""What the words of a question alone reach on VQA-RAD: TF-IDF into a logistic regression over the training answers.

A model that looks at the picture has to beat this; one that does not, cannot do much better.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_cards.readers.tables import find_set
from data_cards.readers.vqa_rad import read_vqa_rad
from data_cards.split import Side, side
from evals.tasks.vqa_rad import CARD, grade
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, paired_difference
from medsiglip.probe import logistic_regression


@dataclass(frozen=True)
class WordsAlone:
    """The grade of one question, answered without its picture."""

    item_id: str
    group: str
    metric: str
    value: float


def words_alone(data_dir: str | Path, on: Side = "held-out") -> list[WordsAlone]:
    """Learn from the train side, closed and open questions apart, and answer another side.

    Args:
        data_dir: A folder with the folder vqa-rad, or that folder.
        on: The side that is answered.

    Returns:
        Of every question its `closed_accuracy` or `open_token_f1_squad`.

    Raises:
        ValueError: The set is missing or broken.
    """
    questions = read_vqa_rad(find_set(data_dir, CARD))
    graded = []
    for kind, metric in (("CLOSED", "closed_accuracy"), ("OPEN", "open_token_f1_squad")):
        train, asked = ([q for q in questions if q.answer_type == kind and side(q.group) == of] for of in ("train", on))
        said = [(q.question, q.answer.strip().lower()) for q in train]
        answers = likeliest_answers(said, [q.question for q in asked])
        for question, answer in zip(asked, answers, strict=True):
            value = grade("closed" if kind == "CLOSED" else "open", answer, question.answer)[metric]
            graded.append(WordsAlone(question.item_id, question.group, metric, value))
    return graded


def mean_of(graded: list[WordsAlone], metric: str) -> Estimate:
    """The mean of one metric with its interval over groups."""
    chosen = [one for one in graded if one.metric == metric]
    return grouped_bootstrap_ci([one.value for one in chosen], [one.group for one in chosen])


def model_minus_words(model: Mapping[str, float], graded: list[WordsAlone], metric: str) -> Estimate:
    """The paired difference, model minus words alone.

    Args:
        model: Item id to the model's grade.
        graded: Of words alone.
        metric: Which of the two metrics.

    Raises:
        ValueError: They share no item.
    """
    both = [one for one in graded if one.metric == metric and one.item_id in model]
    if not both:
        raise ValueError("got no item in common; expected grades of the task vqa-rad on the same side")
    return paired_difference(
        [model[one.item_id] for one in both], [one.value for one in both], [one.group for one in both]
    )


def likeliest_answers(train: Sequence[tuple[str, str]], asked: Sequence[str]) -> list[str]:
    """The answer to each question by its words, learned from questions with their answers.

    A question that was given several answers makes them equally likely: the first by the alphabet is taken, or the last
    digits of the fit would choose.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")
    model = make_pipeline(words, logistic_regression(10.0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # most answers are said once
        model.fit([question for question, _ in train], [answer for _, answer in train])
    likely = model.predict_proba(asked).round(6).argmax(axis=1)
    return [str(model.classes_[place]) for place in likely]
