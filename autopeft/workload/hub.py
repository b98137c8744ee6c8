"""The model hub: fetch a small file of a repository or a dataset's tables, or say within seconds why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.errors import DataError, InputError

_SECONDS = 10.0
_WAY_OUT = "Use a catalogue name (`autopeft models`) or a local directory with config.json and weights."
_DATA_WAY_OUT = "Name a local file or directory (its Parquet files, once downloaded, are one)."
# Where the hub keeps the Parquet files that it makes of every dataset without any of its own.
_CONVERTED = "refs/convert/parquet"


def fetch(repository: str, file: str, *, what: str | None = None, way_out: str = _WAY_OUT) -> Path:
    """Return the local copy of a file of a hub repository, downloading it where it is not cached.

    The hub's own download retries for a minute without a network; one short question first does not.

    Args:
        repository: hub id.   file: its path there.
        what: what the error says is missing; None names the repository.
        way_out: how the error ends.

    Raises:
        InputError: no such repository or file, no access to it, or no network.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import try_to_load_from_cache as look_up
    from huggingface_hub.errors import OfflineModeIsEnabled

    with _explained(what or repr(repository), f"the repository has no {file}", InputError, way_out):
        cached = look_up(repository, file)
        if isinstance(cached, str):
            return Path(cached)
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=_SECONDS)
        return Path(hf_hub_download(repository, file))


def fetch_dataset(repository: str) -> Path:
    """Return the local folder of a hub dataset's Parquet files, downloading those that are not cached.

    Of a dataset without Parquet files, those that the hub has made of it. Code in it is not fetched.

    Raises:
        DataError: no such dataset, no access to it, no Parquet files of it, or no network.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    with _explained(repr(repository), "it has no Parquet files", DataError, _DATA_WAY_OUT):
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        found = HfApi().dataset_info(repository, timeout=_SECONDS).siblings or []
        own = any(sibling.rfilename.endswith(".parquet") for sibling in found)
        return Path(
            snapshot_download(
                repository,
                repo_type="dataset",
                revision=None if own else _CONVERTED,
                allow_patterns="*.parquet",
            )
        )


@contextmanager
def _explained(what: str, lacking: str, kind: type[InputError], way_out: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line."""
    import httpx2
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError:
        reason = "that is no valid hub id"
    except GatedRepoError:
        reason = "its owner must grant access first (then: `hf auth login`)"
    except RepositoryNotFoundError:
        reason = "the hub has no such repository, or it is private"
    except (EntryNotFoundError, RevisionNotFoundError):
        reason = lacking
    except HfHubHTTPError as error:
        reason = f"the hub answered {error.response.status_code}"
    except (OSError, httpx2.TransportError):
        reason = "the hub cannot be reached from here and no copy is cached"
    else:
        return
    raise kind(f"{what} cannot be loaded from the hub: {reason}. {way_out}")
