"""Inventory: what there is to choose from: models, methods, devices, search spaces."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.hardware.catalog import list_profiles, load_profile, profile_folders, save_profile
from autopeft.request import Request

# Imported by each function, so that a list does not wait for what another one needs.
if TYPE_CHECKING:
    from autopeft.errors import AutopeftError
    from autopeft.hardware.profile import HardwareProfile
    from autopeft.methods.spec import MethodSpec
    from autopeft.space.counting import SpaceFacts
    from autopeft.workload.base_model import BaseModel


def methods(
    *,
    family: str | None = None,
    works_on: str | None = None,
    quantization: str | None = None,
    served_by: str | None = None,
    mergeable: bool = False,
) -> tuple[MethodSpec, ...]:
    """List the methods, all or those that pass every filter."""
    from autopeft.methods.listing import choose_methods

    return choose_methods(
        family=family,
        works_on=works_on,
        quantization=quantization,
        served_by=served_by,
        mergeable=mergeable,
    )


def method(name: str) -> MethodSpec:
    """Return what is known of a method."""
    from autopeft.methods.registry import find_method

    return find_method(name)


def models() -> tuple[BaseModel, ...]:
    """List the base models known by name."""
    from autopeft.workload.models import list_models

    return list_models()


def model(name: str) -> BaseModel:
    """Return what is known of a base model, by name or directory."""
    from autopeft.workload.models import find_model

    return find_model(name)


def catalogued(name: str) -> str | None:
    """Return the catalogue's own name of what is called so; None where it has nothing, or several."""
    from autopeft.workload.catalogued import find_alike, find_exactly

    found = find_exactly(name) or find_alike(name)
    return None if found is None else found.name


def unknown_model(name: str, others: Iterable[str] = ()) -> AutopeftError:
    """Return the error that says which models, of the catalogue and others, are called like that."""
    from autopeft.errors import UnknownNameError
    from autopeft.workload.catalogued import list_names

    return UnknownNameError("model", name, {*others, *list_names()})


def gpus(request: Request) -> tuple[HardwareProfile, ...]:
    """List the devices that can be planned for, those of the workspace among them."""
    return list_profiles(profile_folders(Path(request.workspace)))


def gpu(name: str, workspace: str = ".autopeft") -> HardwareProfile:
    """Return what is known of a device."""
    return load_profile(name, profile_folders(Path(workspace)))


def keep_profile(made: HardwareProfile, workspace: str = ".autopeft") -> None:
    """Add a device to a workspace, or replace it."""
    save_profile(made, Path(workspace) / "profiles" / f"{made.name}.yaml")


def spaces() -> tuple[SpaceFacts, ...]:
    """List the search spaces, counted."""
    from autopeft.space.counting import count
    from autopeft.space.reader import list_spaces

    return tuple(count(space) for space in list_spaces())


def space(name: str) -> SpaceFacts:
    """Return what is known of a search space, by name or file."""
    from autopeft.space.counting import count
    from autopeft.space.reader import load_space

    return count(load_space(name))
