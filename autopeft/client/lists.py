"""Lists of a service: models, methods, devices, search spaces; and a device's profile to be added."""

from __future__ import annotations

import urllib.parse

import pydantic

from autopeft.client.asking import Asking, Item
from autopeft.hardware.profile import HardwareProfile
from autopeft.methods.spec import MethodSpec
from autopeft.space.counting import SpaceFacts
from autopeft.workload.base_model import BaseModel


class Lists(Asking):
    """What there is at a service."""

    def models(self) -> tuple[BaseModel, ...]:
        """List the base models known by name."""
        return tuple(self._pages(_listed("models"), BaseModel))

    def model(self, name: str) -> BaseModel:
        """Return what is known of a base model of the catalogue."""
        return self._one("models", name, BaseModel)

    def methods(
        self,
        *,
        family: str | None = None,
        works_on: str | None = None,
        quantization: str | None = None,
        served_by: str | None = None,
        mergeable: bool = False,
    ) -> tuple[MethodSpec, ...]:
        """List the methods, all or those that pass every filter."""
        wanted = {
            "family": family,
            "works_on": works_on,
            "quantization": quantization,
            "served_by": served_by,
            "merges": "true" if mergeable else None,
        }
        return tuple(self._pages(_listed("methods", **wanted), MethodSpec))

    def method(self, name: str) -> MethodSpec:
        """Return what is known of a method."""
        return self._one("methods", name, MethodSpec)

    def gpus(self) -> tuple[HardwareProfile, ...]:
        """List the devices that can be planned for."""
        return tuple(self._pages(_listed("gpus"), HardwareProfile))

    def gpu(self, name: str) -> HardwareProfile:
        """Return what is known of a device."""
        return self._one("gpus", name, HardwareProfile)

    def keep_profile(self, made: HardwareProfile) -> None:
        """Add a device to the service's workspace, or replace it, as `autopeft.profile` measured one here."""
        self._service.put(_place("gpus", made.name), made.model_dump(mode="json"))

    def spaces(self) -> tuple[SpaceFacts, ...]:
        """List the search spaces."""
        return tuple(self._pages(_listed("spaces"), SpaceFacts))

    def space(self, name: str) -> SpaceFacts:
        """Return all about one search space."""
        return self._one("spaces", name, SpaceFacts)

    def _one(self, kind: str, name: str, item: type[Item]) -> Item:
        return self._ask(_place(kind, name), pydantic.TypeAdapter(item))


def _place(kind: str, name: str) -> str:
    return f"{kind}/{urllib.parse.quote(name, safe='')}"


def _listed(kind: str, **wanted: str | None) -> str:
    asked = {name: value for name, value in wanted.items() if value is not None}
    return f"{kind}?{urllib.parse.urlencode({**asked, 'limit': '1000'})}"
