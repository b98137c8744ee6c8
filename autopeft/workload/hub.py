"""The model hub: fetch one small file of a repository, or say within seconds why not."""

from __future__ import annotations

from pathlib import Path

from autopeft.errors import InputError

_SECONDS = 10.0
_WAY_OUT = "Use a catalogue name (`autopeft models`) or a local directory with config.json and weights."


def fetch(repository: str, file: str) -> Path:
    """Return the local copy of a file of a hub repository, downloading it where it is not cached.

    The hub's own download retries for a minute without a network; one short question first does not.

    Raises:
        InputError: no such repository or file, no access to it, or no network.
    """
    import httpx2
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import try_to_load_from_cache as look_up
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        cached = look_up(repository, file)
        if isinstance(cached, str):
            return Path(cached)
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=_SECONDS)
        return Path(hf_hub_download(repository, file))
    except HFValidationError:
        reason = "that is no valid hub id"
    except GatedRepoError:
        reason = "its owner must grant access first (then: `hf auth login`)"
    except RepositoryNotFoundError:
        reason = "the hub has no such repository, or it is private"
    except EntryNotFoundError:
        reason = f"the repository has no {file}"
    except HfHubHTTPError as error:
        reason = f"the hub answered {error.response.status_code}"
    except (OSError, httpx2.TransportError):
        reason = "the hub cannot be reached from here and no copy is cached"
    raise InputError(f"{repository!r} cannot be loaded from the hub: {reason}. {_WAY_OUT}")
