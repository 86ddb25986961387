"""Content parts of OpenAI's messages, and Google's container's: texts, pictures, DICOM files sent along.

One part may hold several files: the slices of a CT become one volume, each slice followed by `SLICE k`. What a part
refers to and does not hold is fetched only through what the caller gives for it.
"""

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from medgemma.prompts.content import Part, VolumeView, pictures_of, study_parts
from medsiglip.imaging import Picture, Source, Volume, open_images
from medsiglip.imaging.zips import is_zip

DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]*)(?:;[\w.=+-]+)*;base64,(?P<data>.*)", re.DOTALL)
Many = Annotated[Annotated[str, Tag("one")] | Annotated[list[str], Field(min_length=1), Tag("list")], Discriminator(
    lambda value: "list" if isinstance(value, list) else "one"
)]  # fmt: skip
"""One text, or a list of them."""


class Strict(BaseModel):
    """A body of which nothing that would change an answer is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Fields that are not supported, and their values that ask for nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        names = {name for key, field in cls.model_fields.items() for name in (key, field.alias)}
        return {
            name: value
            for name, value in fields.items()
            if name in names or not (value in (None, [], {}, "") or value in cls.neutral.get(name, ()))
        }


def which(kinds: Mapping[type, str], otherwise: str) -> Discriminator:
    """Choose a branch of a union by the value's type, so that a fault is of the branch that was meant."""
    return Discriminator(lambda value: next((tag for kind, tag in kinds.items() if isinstance(value, kind)), otherwise))


class TextPart(Strict):
    """A text."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where a picture is; `detail` changes nothing, since the model has one resolution."""

    url: Many
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """A picture, or a file of several: a data URL of PNG, DICOM, NIfTI, a zip of a series or what else is read."""

    type: Literal["image_url", "input_image"]
    image_url: Annotated[
        Annotated[ImageUrl, Tag("object")] | Annotated[Many, Tag("url")], which({str: "url", list: "url"}, "object")
    ]
    detail: Literal["auto", "low", "high"] | None = None


class InputBytes(Strict):
    """A file's bytes, or those of several files that belong together, in base64."""

    input_bytes: Many


class BytesPart(Strict):
    """A picture's file, as Google's container takes it."""

    type: Literal["image_bytes"]
    image_bytes: InputBytes


class DicomSource(Strict):
    """DICOM instances sent along: as base64, or as data URLs where the container has addresses."""

    input_bytes: Many | None = None
    dicom_source: Many | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "DicomSource":
        if (self.input_bytes is None) == (self.dicom_source is None):
            raise ValueError("give input_bytes or dicom_source, one of them")
        return self


class DicomPart(Strict):
    """One DICOM instance, or the instances of a series."""

    type: Literal["image_dicom"]
    image_dicom: DicomSource


ContentPart = Annotated[TextPart | ImagePart | BytesPart | DicomPart, Field(discriminator="type")]
PART_TYPES = "text, image_url, image_bytes or image_dicom"


@dataclass(frozen=True)
class Intake:
    """What a request may bring, and how it is opened; nothing is fetched and nothing limited by default."""

    view: VolumeView | None = None
    """How volumes are shown."""
    fetch: Callable[[str], bytes] | None = None
    """Gets what an address holds; raises ValueError for one that may not be asked."""
    check: Callable[[bytes], None] | None = None
    """Looks at a file before it is decoded; raises ValueError for one that would cost too much."""
    max_images: int | None = None
    """Of a whole request, slices of volumes included."""

    def after(self, num_images: int) -> "Intake":
        """What is left once so many pictures are in."""
        return self if self.max_images is None else replace(self, max_images=self.max_images - num_images)


def opened(part: ImagePart | BytesPart | DicomPart, name: str, intake: Intake) -> Iterator[Picture | Volume]:
    """Open a part's files.

    Args:
        part: checked.
        name: its place, for messages.
        intake: how.

    Raises:
        ImageError: a file that cannot be read.
        ValueError: an address that is not asked, base64 that is none, or a file that costs too much.
    """
    files = [_content(text, is_address, name, intake) for text, is_address in _given(part)]
    for data in files:
        if intake.check is not None:
            try:
                intake.check(data)
            except (ValueError, struct.error) as error:
                raise ValueError(f"{name}: {error}") from error
    select = dict(intake.view.select) if intake.view else None
    if len(files) == 1:
        return open_images(files[0] if is_zip(files[0]) else Source(name, data=files[0]), select=select)
    sources = [Source(f"{name} file {number}", data=data) for number, data in enumerate(files, 1)]
    return open_images(sources, select=select)


def parts_of(content: str | Sequence[Any], name: str, intake: Intake, *, may_show: bool = True) -> list[Part]:
    """The parts of a turn as prompts take them, pictures decoded.

    Args:
        content: a text, or checked content parts.
        name: the turn's place, for messages.
        intake: how pictures are opened.
        may_show: whether pictures may stand here.

    Raises:
        ImageError, ValueError: see `opened`; a picture where none may stand; more than `intake.max_images`.
    """
    if isinstance(content, str):
        return [content]
    parts: list[Part] = []
    for place, part in enumerate(content, 1):
        if isinstance(part, TextPart):
            parts.append(part.text)
            continue
        where = f"{name} part {place}"
        if not may_show:
            raise ValueError(f"{where}: a picture in the turn of another role; put it into a user turn")
        parts += study_parts(opened(part, where, intake), intake.view)
        count = len(pictures_of(parts))
        if intake.max_images is not None and count > intake.max_images:
            raise ValueError(f"{where}: more pictures than a request may bring; send fewer pictures or slices")
    return parts


def _given(part: ImagePart | BytesPart | DicomPart) -> list[tuple[str, bool]]:
    """What a part gives, each with whether it is an address or base64."""
    if isinstance(part, BytesPart):
        given, is_address = part.image_bytes.input_bytes, False
    elif isinstance(part, DicomPart):
        is_address = part.image_dicom.input_bytes is None
        given = (part.image_dicom.dicom_source if is_address else part.image_dicom.input_bytes) or []
    else:
        given, is_address = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url, True
    return [(one, is_address) for one in ([given] if isinstance(given, str) else given)]


def _content(text: str, is_address: bool, name: str, intake: Intake) -> bytes:
    if not is_address:
        return _decoded(text, name, "the input_bytes are")
    if found := DATA_URL.fullmatch(text):
        return _decoded(found.group("data"), name, "the data URL is")
    if intake.fetch is None:
        raise ValueError(
            f"{name}: the address is no base64 data URL, and nothing is fetched; send data:image/png;base64,..."
        )
    try:
        return intake.fetch(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _decoded(text: str, name: str, what: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # MIME's has line ends
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name}: {what} no valid base64 ({error})") from error
