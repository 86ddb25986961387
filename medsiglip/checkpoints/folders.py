"""Where a model's files lie: the shipped nano pair, a local folder, or a Hub id. Safetensors only."""

import json
import os
import re
from pathlib import Path
from typing import Any

from medsiglip.nano import NANO_FOLDER

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
