"""`medgemma verify`: a checkpoint against plain transformers on this machine, as a report that can be passed on."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from medsiglip.command import Device, Dtype


def verify(
    model: Annotated[str, typer.Argument(help="'nano', a local folder, or a Hub id; MedSigLIP too.")],
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare a checkpoint with plain transformers: keys, prompts, tokens, pixels, memory. Exit status 1: differs.

    The report holds no paths, no pictures and no text of yours, and can be passed on.
    """
    from medgemma.nano import NANO_FOLDER
    from medgemma.verify import verify as compare
    from medsiglip.checkpoints.folders import resolve_model

    found = compare(resolve_model(model, NANO_FOLDER), device=device, dtype=dtype)
    if as_json:
        checks = {check.name: {"passed": check.passed, "found": check.found} for check in found.checks}
        typer.echo(json.dumps({**asdict(found), "checks": checks, "passed": found.passed}, ensure_ascii=False))
    else:
        lines = [f"{'same' if check.passed else 'DIFFERS'}\t{check.name}\t{check.found}" for check in found.checks]
        machine = ", ".join(f"{name} {value}" for name, value in found.machine.items())
        head = f"{found.model_class}, {found.dtype} on {found.device}"
        typer.echo("\n".join([f"model\t{head}", *lines, f"machine\t{machine}"]))
    if not found.passed:
        raise typer.Exit(1)
