"""The configuration of the recipe nano; the values are in nano.yaml."""

from typing import Literal

from pydantic import Field

from finetune.configuration import Section
from finetune.training import Precision


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
    colour: float
    """How far the colours of histology move, 0 (not at all) to 1."""
    window: float = Field(ge=0, le=1)
    """Share of the other pictures that are seen in another window."""
    frame: float = Field(ge=0, le=1)
    """Share of the other pictures that are seen smaller, in a frame of one grey."""
    histology_per_step: int
    modality_per_step: int
    chest_per_step: int
    question_pictures_per_step: int
    captions_per_step: int
    frozen_tower: bool
    """Only the tower's pooling head and the text tower learn, over the views that the decoder's stages use too."""


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
    """Of every picture; all but the first are augmented."""
    augmentation: float
    """Strength of those, 0 (none) to 1."""
    window: float = Field(ge=0, le=1)
    """Share of those in another window."""
    frame: float = Field(ge=0, le=1)
    """Share of those that are seen smaller, in a frame of one grey."""


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
    outside_per_step: int
    """Questions that the picture, or what nano knows, cannot answer."""
    other_forms: float = Field(ge=0, le=1)
    """Share of the template questions in the form of other evaluations: `Final Answer:`, lettered options."""
    texts_per_step: int
    max_tokens: int
    text_max_tokens: int


class Config(Section):
    """The whole recipe."""

    seed: int
    quick: bool
    measure: bool
    """Run the evaluations at the end and write the cards."""
    start: str
    """Empty: from nothing, tokenizers too. Else `nano` or a former run's folder: its weights and tokenizers go on."""
    keep_of_encoder: float = Field(ge=0, le=1)
    """Share of the starting encoder in the average of weights that is written; 0 for none (arXiv:2109.01903)."""
    keep_of_decoder: float = Field(ge=0, le=1)
    """The same of the decoder."""
    device: str
    """auto (cuda, then mps, then cpu), or a torch device name."""
    precision: Precision
    """Of the towers and the decoder in training; bfloat16 is many times slower on a CPU without its instructions."""
    pictures: Literal["real", "none"]
    """none: the decoder sees nothing in any picture, in training and ever after: the text-only control."""
    labels: Literal["real", "shuffled"]
    """shuffled: facts and answers go to the pictures of other groups, the control that must show chance."""
    encoder: EncoderSection
    contrastive: tuple[ContrastiveSection, ...]
    """Phases, one after the other."""
    decoder: DecoderSection
    pretrain: PretrainSection
    instruct: InstructSection

    def steps(self, stage: ContrastiveSection | PretrainSection | InstructSection) -> int:
        """A stage's steps; `quick` takes a fifteenth of them."""
        return max(1, stage.steps // 15) if self.quick else stage.steps
