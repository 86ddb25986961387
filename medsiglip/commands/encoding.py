"""The options of every command that embeds pictures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

import typer

from medsiglip.command import Device, Model, Problems, Select, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from medsiglip.commands.other_encoders import OtherEncoder
    from medsiglip.encoder import MedSigLIP
    from medsiglip.imaging import Notes
    from medsiglip.imaging.volumes.select import Selection
    from medsiglip.network.text import TextNormaliser

Policy = Annotated[str, typer.Option(help="Pixels: auto, voi, voi:2, full-range, percentile, report, ct-report, ...")]
Resize = Annotated[str, typer.Option(help="A resize policy instead of the model's own.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures a forward pass.")]


AUTO = "auto"
"""As the encoder's training showed CT, see `MedSigLIP.pixel_policy`."""
SizePx = Annotated[int | None, typer.Option(min=1, help="Side of the square instead of the model's own.")]


@dataclass(frozen=True)
class EncodeOptions:
    """Which encoder embeds pictures, and how they are read."""

    policy: Policy = AUTO
    resize: Resize = ""
    model: Model = "nano"
    device: Device = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, or int8 on a CPU.")] = "auto"
    size_px: SizePx = None
    text_normaliser: Annotated[str, typer.Option(help="huggingface (the checkpoint's own) or report.")] = "huggingface"
    batch_size: Batch = 32
    select: Select = None

    @property
    def selection(self) -> "Selection":
        """Which volume of a file that holds several; series are not put together here.

        Raises:
            ValueError: no such key, or one of series.
        """
        from medsiglip.imaging.volumes.select import parse_selection

        selection = parse_selection(self.select or [])
        for key, value in selection:
            if key not in ("time", "channel"):
                raise ValueError(
                    f"--select {key}={value}: every file is taken by itself here, and only time and channel choose "
                    f"within one; name the files of {key} {value} alone"
                )
        return selection

    @property
    def any_selection(self) -> "Selection":
        """Which volume of a file or series that holds several, by any key.

        Raises:
            ValueError: no such key.
        """
        from medsiglip.imaging.volumes.select import parse_selection

        return parse_selection(self.select or [])

    def load_any(self) -> "MedSigLIP | OtherEncoder":
        """The encoder, of any kind that transformers has.

        Raises:
            ValueError: there is no such model, or an option that another encoder has not.
        """
        from medsiglip.checkpoints.folders import read_json, resolve_model
        from medsiglip.commands.other_encoders import load_encoder

        config = read_json(resolve_model(self.model) / "config.json")
        if str(config.get("model_type", "")).startswith("siglip"):
            return self.load()
        if self.resize or self.size_px or self.dtype == "int8":
            raise ValueError(f"--resize, --size-px and int8 are for SigLIP; {self.model} has its own processor")
        return load_encoder(self.model, device=self.device, dtype=self.dtype)

    def load(self) -> "MedSigLIP":
        """The encoder.

        Raises:
            ValueError: there is no such policy or model.
        """
        from medsiglip.encoder import MedSigLIP
        from medsiglip.imaging.dicom.policies import check_policy

        if self.policy != AUTO:
            check_policy(self.policy)
        return MedSigLIP.from_pretrained(
            self.model,
            device=self.device,
            dtype=self.dtype,
            policy=self.resize or None,
            size_px=self.size_px,
            text_normaliser=cast("TextNormaliser", self.text_normaliser),
        )

    def policy_of(self, encoder: "MedSigLIP | OtherEncoder") -> str:
        """The pixel policy that is used: that of --policy, or by auto as the encoder's training showed pictures."""
        return encoder.pixel_policy if self.policy == AUTO else self.policy

    def vectors_of(
        self, encoder: "MedSigLIP", files: "Sequence[Path]", problems: Problems, notes: "Notes", quiet: bool
    ) -> "Mapping[str, np.ndarray]":
        """The vector (D,) of every file that can be read, by its name; the others become problems."""
        from medsiglip.pooling import vectors_of_files

        with progress(len(files), "pictures", quiet) as advance:
            return vectors_of_files(
                encoder,
                files,
                on_problem=problems.add,
                policy=self.policy_of(encoder),
                batch_size=self.batch_size,
                select=self.selection,
                on_progress=advance,
                notes=notes,
            )

    def pixels(self, encoder: "MedSigLIP") -> str:
        """Pixel and resize policy: what scores of one encoder depend on beside the picture."""
        return f"{self.policy_of(encoder)}+{encoder.preprocessing.policy}"
