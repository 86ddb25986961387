"""`medgemma serve`: the server."""

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgemma.commands.options import Quantize, Resize, VolumeOptions
from medsiglip.command import Device, Dtype, Model, Quiet, one_line, say, spread_options

if TYPE_CHECKING:
    from medgemma.server.metrics import Metrics
    from medgemma.server.settings import Settings
    from medgemma.server.state import Loaded

TOKEN_VARIABLE = "MEDGEMMA_SERVE_TOKEN"
"""Environment variable with the bearer token; there is no option for it, so that it is in no shell history."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServedModel:
    """What answers."""

    model: Model = "nano"
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR", help="A LoRA adapter: a model of its own name, else its folder's; repeatable."
        ),
    ] = None
    encoder: Annotated[str, typer.Option(help="For embeddings and labels; none with ''.")] = "nano"
    probe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="A probe of the encoder that requests call by name; repeatable."),
    ] = None
    quantize: Quantize = ""
    resize: Resize = ""
    device: Device = "auto"
    dtype: Dtype = "auto"
    max_rows: Annotated[int, typer.Option(min=1, help="Answers that are decoded together.")] = 32
    upstream: Annotated[str, typer.Option(help="An OpenAI-compatible server that answers in place of --model.")] = ""
    upstream_model: Annotated[str, typer.Option(help="The name to ask it for; else the first it lists.")] = ""
    upstream_images: Annotated[int | None, typer.Option(min=0, help="Pictures it takes in one request.")] = None

    def load(self, settings: "Settings", metrics: "Metrics") -> "Loaded":
        """Load it all."""
        from medgemma.model import MedGemma
        from medgemma.server.embedded import EmbeddedBackend, hear_warnings
        from medgemma.server.encoding import Encoding, read_probes
        from medgemma.server.state import Loaded
        from medgemma.server.upstream import UpstreamBackend
        from medsiglip import MedSigLIP

        if self.upstream and (self.adapter or self.quantize or self.resize):
            raise ValueError(
                "--adapter, --quantize and --resize are for weights here; give them to the --upstream server"
            )
        encoder = MedSigLIP.from_pretrained(self.encoder, device=self.device) if self.encoder else None
        if self.probe and encoder is None:
            raise ValueError("--probe needs an encoder; give --encoder")
        encoding = Encoding(encoder, read_probes(self.probe or (), encoder)) if encoder else None
        hear_warnings()
        if self.upstream:
            return Loaded(UpstreamBackend(self.upstream, settings, self.upstream_model, self.upstream_images), encoding)
        gemma = MedGemma.from_pretrained(
            self.model, device=self.device, dtype=self.dtype, policy=self.resize or None, quantize=self.quantize or None
        )
        gemma.engine.rows.max_rows = self.max_rows
        for given in self.adapter or ():
            name, folder = named_folder(given)
            if name in (Path(gemma.name).name, *gemma.engine.adapters.names):
                raise ValueError(f"--adapter {given}: {name!r} is a model here; name it otherwise, --adapter NAME=DIR")
            gemma.load_adapter(folder, name)
        return Loaded(EmbeddedBackend(gemma, settings, metrics.tokens), encoding)


@dataclass(frozen=True)
class ServeLimits:
    """What one request may cost."""

    max_open: Annotated[int, typer.Option(min=1, help="Requests answered or waiting; more get 429.")] = 256
    max_body_mb: Annotated[int, typer.Option(min=1, help="Of one request's body.")] = 256
    max_images: Annotated[int, typer.Option(min=1, help="Of one request, slices included.")] = 512
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 32768
    request_seconds: Annotated[float, typer.Option(min=0.1, help="For one answer.")] = 600.0
    loop_guard: Annotated[
        int | None, typer.Option(min=2, help="End answers that say the same so many times in a row.")
    ] = None


@dataclass(frozen=True)
class Reach:
    """Who reaches the server."""

    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    allowed_host: Annotated[list[str] | None, typer.Option(help="A name of this server; repeatable.")] = None
    cors_origin: Annotated[list[str] | None, typer.Option(help="A web page's origin that may ask; repeatable.")] = None
    url_allow: Annotated[
        list[str] | None, typer.Option(help="Prefix of https addresses whose pictures are fetched; repeatable.")
    ] = None
    url_allow_private: Annotated[bool, typer.Option(help="Those may be in a private network.")] = False


@spread_options
def serve(
    *,
    reach: Reach,
    served: ServedModel,
    limits: ServeLimits,
    volumes: VolumeOptions,
    drain_seconds: Annotated[int, typer.Option(min=0, help="For open answers, once the server is told to end.")] = 60,
    print_upstream: Annotated[
        str,
        typer.Option(help="Print how to start vllm, sglang, llama-server, ollama or lmstudio for this one, and end."),
    ] = "",
    quiet: Quiet = False,
) -> None:
    """Serve OpenAI's, Ollama's and Google's APIs, with DICOM; a bearer token comes from MEDGEMMA_SERVE_TOKEN."""
    try:
        import uvicorn

        from medgemma.server.app import create_app
    except ImportError as error:
        raise ValueError(f"{one_line(error)}; run: pip install 'open-medgemma[serve]'") from error
    if print_upstream:
        from medgemma.server.upstream import upstream_command

        typer.echo(upstream_command(print_upstream, served.model, served.upstream_images or volumes.slices))
        return
    settings = _settings(reach, limits, volumes)
    _demand_port(reach.host, reach.port)
    if reach.host not in LOOPBACK and settings.token is None:
        say(f"note: anybody who reaches {reach.host} may ask; set {TOKEN_VARIABLE} to a token to be asked for")
    faults: list[BaseException] = []

    def stop(fault: BaseException) -> None:
        faults.append(fault)
        server.should_exit = True

    app = create_app(settings, lambda metrics: served.load(settings, metrics), stop)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING if quiet else logging.INFO
    )
    for noisy in ("httpx2", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        host=reach.host,
        port=reach.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=drain_seconds,
        timeout_keep_alive=30,
    )
    server = uvicorn.Server(config)
    server.run()
    if faults:
        raise ValueError(one_line(faults[0]))


def named_folder(given: str) -> tuple[str, Path]:
    """The name and folder of NAME=DIR, or of a folder alone."""
    name, equals, folder = given.partition("=")
    if equals and name and folder and not Path(given).is_dir():
        return name, Path(folder)
    return Path(given).resolve().name, Path(given)


def _demand_port(host: str, port: int) -> None:
    """Before anything loads: uvicorn would only log that a port is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(f"port {port} of {host} cannot be had ({error.strerror}); give another --port") from error


def _settings(reach: Reach, limits: ServeLimits, volumes: VolumeOptions) -> "Settings":
    from medgemma.server.fetching import check_prefix
    from medgemma.server.settings import Limits, Settings

    for prefix in reach.url_allow or ():
        check_prefix(prefix)
    hosts = tuple(name.lower() for name in reach.allowed_host or ())
    return Settings(
        limits=Limits(
            body_bytes=limits.max_body_mb * 2**20,
            images=limits.max_images,
            answer_tokens=limits.max_answer_tokens,
            seconds=limits.request_seconds,
            open_requests=limits.max_open,
        ),
        token=os.environ.get(TOKEN_VARIABLE, "").strip() or None,
        origins=tuple(reach.cors_origin or ()),
        hosts=(*LOOPBACK, *hosts) if reach.host in LOOPBACK or hosts else (),
        url_allow=tuple(reach.url_allow or ()),
        url_allow_private=reach.url_allow_private,
        loop_guard=limits.loop_guard,
        view=volumes.view(),
    )
