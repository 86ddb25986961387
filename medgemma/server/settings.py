"""What a server allows and how it is reached."""

from dataclasses import dataclass

from medgemma.prompts.content import VolumeView


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how many there may be."""

    body_bytes: int = 256 * 2**20
    bodies_bytes: int = 2**30
    """Of all requests together, while they are read and answered."""
    images: int = 512
    """Slices of volumes included."""
    pixels: int = 2**29
    """Of all pictures of a request, by their headers, before anything is decoded."""
    unpacked_bytes: int = 2**29
    """Of a compressed file or a zip."""
    answer_tokens: int = 32768
    """Of one answer; the model's own context is the other limit."""
    seconds: float = 600.0
    """From the body's last byte to the answer's last."""
    open_requests: int = 256
    """Being decoded, waiting or answered; more are turned away with 429."""


@dataclass(frozen=True)
class Settings:
    """How a server is reached and what it does by itself."""

    limits: Limits = Limits()
    token: str | None = None
    """That every request must bear, but those for `/` and `/health`; None asks for none."""
    origins: tuple[str, ...] = ()
    """Web pages of these origins may call; none by default."""
    hosts: tuple[str, ...] = ()
    """Names that the Host header may bear; empty allows all."""
    url_allow: tuple[str, ...] = ()
    """Prefixes of https addresses whose pictures are fetched."""
    url_allow_private: bool = False
    """Whether those may be in a private network."""
    loop_guard: int | None = None
    """For requests that name none; see `medgemma.engine.request.Sampling`."""
    view: VolumeView = VolumeView()
    """How volumes are shown."""
