"""The options of every command that embeds pictures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from medsiglip.command import Device, Dtype, Model, Select

if TYPE_CHECKING:
    from medsiglip.encoder import MedSigLIP
    from medsiglip.imaging.volumes.select import Selection

Policy = Annotated[str, typer.Option(help="Pixels: voi, voi:2, full-range, percentile, ct-report, ...")]
Resize = Annotated[str, typer.Option(help="A resize policy instead of the model's own.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures a forward pass.")]


@dataclass(frozen=True)
class EncodeOptions:
    """Which encoder embeds pictures, and how they are read."""

    policy: Policy = "voi"
    resize: Resize = ""
    model: Model = "nano"
    device: Device = "auto"
    dtype: Dtype = "auto"
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

    def load(self) -> "MedSigLIP":
        """The encoder.

        Raises:
            ValueError: there is no such policy or model.
        """
        from medsiglip.encoder import MedSigLIP
        from medsiglip.imaging.dicom.policies import check_policy

        check_policy(self.policy)
        return MedSigLIP.from_pretrained(self.model, device=self.device, dtype=self.dtype, policy=self.resize or None)

    def policy_of(self, encoder: "MedSigLIP") -> str:
        """The pixel policy that is used."""
        return self.policy

    def pixels(self, encoder: "MedSigLIP") -> str:
        """Pixel and resize policy: what scores of one encoder depend on beside the picture."""
        return f"{self.policy_of(encoder)}+{encoder.preprocessing.policy}"
