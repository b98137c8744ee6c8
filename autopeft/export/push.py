"""Push: a bundle to a model repository of the Hub, without what only this disk knows."""

from __future__ import annotations

import shutil
import tempfile
from http import HTTPStatus
from pathlib import Path

from autopeft.errors import InputError, StorageError
from autopeft.export.abroad import abroad
from autopeft.export.bundle import HUB_ID, Bundle
from autopeft.export.names import MANIFEST
from autopeft.export.opening import checksums, open_bundle


def require_hub_id(name: str) -> None:
    """Check that a name is that of a repository.

    Raises:
        InputError: it is not.
    """
    if not HUB_ID.fullmatch(name):
        raise InputError(f"a repository of the Hub is named ORGANISATION/NAME, but got {name!r}.")


def require_public_base(base: str) -> None:
    """Check that others can load a base model.

    Raises:
        InputError: it is a directory of this disk.
    """
    if Path(base).exists():
        raise InputError(
            f"the base model {base} is a directory of this disk, where others cannot load it: give its hub "
            "id with --base-model."
        )


def push(place: Path, hub_id: str, base_model: str | None = None) -> str:
    """Upload a bundle; return the address of its page.

    Args:
        base_model: the base's hub id, where the bundle knows it as a directory of this disk.

    Raises:
        InputError: the name is none of a repository, or the base model is only on this disk.
        StorageError: the Hub refuses it or cannot be reached.
    """
    require_hub_id(hub_id)
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    with tempfile.TemporaryDirectory() as folder:
        public(place, Path(folder) / "bundle", hub_id, base_model)
        api = HfApi()
        try:
            api.create_repo(hub_id, repo_type="model", exist_ok=True)
            api.upload_folder(
                repo_id=hub_id,
                folder_path=str(Path(folder) / "bundle"),
                commit_message="Exported by autopeft",
            )
        except (httpx2.HTTPError, OSError, ValueError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
                raise StorageError(
                    "pushing needs a valid token of the Hub: `hf auth login`, or set HF_TOKEN."
                ) from None
            reason = str(error).strip().partition("\n")[0]
            raise StorageError(f"{hub_id} cannot be written on the Hub: {reason}") from None
    return f"{api.endpoint}/{hub_id}"


def public(place: Path, target: Path, hub_id: str, base_model: str | None = None) -> Bundle:
    """Copy a bundle to a directory that says nothing of places on this disk.

    Raises:
        InputError: the base model is only on this disk, and `base_model` does not say where it is else.
    """
    bundle = open_bundle(place)
    base = base_model or bundle.base
    if bundle.format != "model":
        require_public_base(base)
    shutil.copytree(place, target)
    for name, text in abroad(place, bundle, hub_id, base_model).items():
        (target / name).write_text(text, encoding="utf-8")
    # What was added to the bundle since it was written is pushed, too.
    whole = Bundle.read(target / MANIFEST).model_copy(update={"files": checksums(target)})
    (target / MANIFEST).write_text(whole.model_dump_json(indent=1), encoding="utf-8")
    return whole
