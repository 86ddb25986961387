"""Where a model's files lie: the shipped nano pair, a local folder, or a Hub id. Safetensors only."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NANO_FOLDER = Path(__file__).parent / "nano"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILES_TO_FETCH = ["*.json", "*.safetensors", "*.model", "*.jinja"]


def resolve_model(model: str | os.PathLike[str], nano_folder: Path = NANO_FOLDER) -> Path:
    """Find the folder that holds a checkpoint; nothing is fetched unless `model` is a Hub id.

    Args:
        model: "nano", a local folder with a config.json, or a Hub id such as "google/medsiglip-448".
        nano_folder: the folder that "nano" stands for.

    Returns:
        A local folder with config.json and safetensors weights.

    Raises:
        ValueError: the folder is incomplete, or the Hub id is not on this machine and cannot be fetched.
    """
    if model == "nano":
        return _checked_folder(nano_folder)
    if Path(model).exists():
        return _checked_folder(Path(model))
    if HUB_ID.fullmatch(str(model)):
        return _checked_folder(_fetch(str(model)))
    raise ValueError(f"model {model}: no such folder and not a Hub id; give 'nano', a folder, or 'owner/name'")


def fingerprint(folder: Path) -> str:
    """First 16 hex digits of the sha256 over config.json and every weight file, in name order."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON file.

    Raises:
        ValueError: it is damaged; its name is given.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: got a JSON {type(facts).__name__}, expected an object; fetch the checkpoint again")
    return facts


def load_strictly(model_class: Any, folder: Path, **kwargs: Any) -> Any:
    """Load a transformers model and refuse what transformers only warns about.

    Raises:
        ValueError: a tensor is missing, unexpected or mis-shaped; each is named.
    """
    from safetensors import SafetensorError

    try:
        with _quiet_transformers():
            model, report = model_class.from_pretrained(
                folder,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # so that the report names them; they are refused below
                **kwargs,
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model {folder}: weights do not load ({_first_line(error)}); fetch them again") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(_tensor_name(key) for key in report.get(kind) or ()):
            shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
            raise ValueError(f"model {folder}: {len(names)} {kind.replace('_', ' ')}: {shown}; convert it first")
    return model.eval()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no warnings while weights load: what they would say, `load_strictly` raises."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ValueError(f"model {folder}: no config.json there; give the folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"model {folder}: no .safetensors weights there; pickled weights are never loaded")
    return folder


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=FILES_TO_FETCH))
    except GatedRepoError as error:
        raise ValueError(f"model {hub_id}: gated; accept its terms on its Hub page, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"model {hub_id}: not on the Hub under this name; check the spelling") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"model {hub_id}: not on this machine and the Hub cannot be reached (HF_HUB_OFFLINE set, or no network); "
            "fetch it once with a network, or give a local folder or 'nano'"
        ) from error


def _tensor_name(key: Any) -> str:
    """A tensor's name; with its shapes where transformers reports (name, found, expected)."""
    if isinstance(key, str):
        return key
    name, found, expected = key
    return f"{name} (got {tuple(found)}, expected {tuple(expected)})"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
