"""Search spaces as YAML files: the shipped ones by name, or any file by path.

    description: what it is for
    families: [encoder, decoder]
    domains:
      method: [lora, ia3]                                     # the order is the order of trying
      rank: {when: {method: [lora]}, choices: [4, 8, 16], default: 8}
      training.learning_rate:                                 # several domains: one per condition
        - {when: {method: [lora]}, low: 5e-4, high: 5e-3, log: true}
        - {when: {method: [ia3]}, low: 5e-3, high: 5e-2, log: true}
    fixed: {training.epochs: 3}

`choices` list values, `low` and `high` bound numbers (`log`, `step`), `switches` turn each layer on or off
(`layers: {switches: 12}`), `default` is what is tried first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from autopeft.errors import ConfigError, UnknownNameError
from autopeft.files import shipped
from autopeft.message import explain
from autopeft.space.domain import Choice, Domain, Range, Switches
from autopeft.space.search_space import SearchSpace, faults

_KINDS: dict[str, type[Choice | Switches]] = {"choices": Choice, "switches": Switches}
FIELDS = ("description", "families", "domains", "fixed")
"""Keys of a file."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also reads 5e-4 as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def list_spaces() -> tuple[SearchSpace, ...]:
    """Read all shipped search spaces, by name."""
    return tuple(_SpaceFile(path).read() for path in sorted(shipped("search_spaces").glob("*.yaml")))


def load_space(name_or_path: str) -> SearchSpace:
    """Read a search space.

    Args:
        name_or_path: name of a shipped space, or a file that ends in .yaml or .yml.

    Raises:
        UnknownNameError: no shipped space is called so.
        ConfigError: the file is missing or malformed; the message names file, line and key.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        return _SpaceFile(Path(name_or_path)).read()
    known = {path.stem: path for path in shipped("search_spaces").glob("*.yaml")}
    if name_or_path not in known:
        raise UnknownNameError("search space", name_or_path, known, "A file of your own ends in .yaml.")
    return _SpaceFile(known[name_or_path]).read()


class _SpaceFile:
    """One file being read; knows the line of everything for the sake of the messages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> SearchSpace:
        root = self._root()
        parts = self._entries(root, "the file")
        for key, (node, _) in parts.items():
            if key not in FIELDS:
                raise self._fault(node, key, f"unknown key; known: {', '.join(FIELDS)}")
        if "domains" not in parts:
            raise self._fault(root, "domains", "is missing")
        domains, nodes = self._domains(parts["domains"][1])
        fixed = {key: (node, self._plain(value)) for key, (node, value) in self._part(parts, "fixed").items()}
        values = {key: value for key, (_, value) in fixed.items()}
        for where, text in faults(domains, values):
            if isinstance(where, int):
                raise self._fault(nodes[where], domains[where].field, text)
            raise self._fault(fixed[where][0] if where in fixed else root, where, text)
        fields = {key: self._plain(parts[key][1]) for key in ("description", "families") if key in parts}
        try:
            return SearchSpace(
                name=self.path.stem, source=str(self.path), domains=domains, fixed=values, **fields
            )
        except ValidationError as error:
            raise self._fault(root, self.path.stem, explain(error, "search space")) from None

    def _root(self) -> yaml.Node:
        try:
            root = yaml.compose(self.path.read_text(encoding="utf-8"), Loader=_Loader)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{self.path} cannot be read: it is not UTF-8 text.") from None
        except RecursionError:
            raise ConfigError(f"{self.path} cannot be read: it is nested too deeply.") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
            raise ConfigError(f"{self.path}{where}: no valid YAML: {problem}.") from None
        if root is None:
            raise ConfigError(f"{self.path} is empty; a search space needs `domains`.")
        return root

    def _domains(self, node: yaml.Node) -> tuple[tuple[Domain, ...], list[yaml.Node]]:
        domains: list[Domain] = []
        nodes: list[yaml.Node] = []
        for field, (key, value) in self._entries(node, "domains").items():
            several = isinstance(value, yaml.SequenceNode) and any(
                isinstance(item, yaml.MappingNode) for item in value.value
            )
            for part in value.value if several else [value]:
                domains.append(self._domain(field, part))
                nodes.append(part if several else key)
        return tuple(domains), nodes

    def _domain(self, field: str, node: yaml.Node) -> Domain:
        content = self._plain(node)
        if isinstance(content, list):
            content = {"choices": content}
        if not isinstance(content, dict):
            raise self._fault(node, field, f"must be a list of values or a mapping, but got {content!r}")
        rest = {str(key): value for key, value in content.items()}
        when = rest.pop("when", {})
        if isinstance(when, dict):
            when = {key: value if isinstance(value, list) else [value] for key, value in when.items()}
        what = next((name for name in _KINDS if name in rest), "range")
        try:
            allowed = _KINDS.get(what, Range)(**rest)
            return Domain(field=field, allowed=allowed, when=when)
        except ValidationError as error:
            raise self._fault(node, field, explain(error, what)) from None

    def _part(
        self, parts: dict[str, tuple[yaml.Node, yaml.Node]], name: str
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        return self._entries(parts[name][1], name) if name in parts else {}

    def _entries(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(node, what, "must be a mapping of names to values")
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in entries:
                raise self._fault(key, name, "is given twice")
            entries[name] = (key, value)
        return entries

    def _plain(self, node: yaml.Node) -> Any:
        loader = _Loader("")
        try:
            return loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            text = getattr(error, "problem", None) or str(error)
            raise self._fault(node, "value", f"cannot be read: {text}") from None
        finally:
            loader.dispose()

    def _fault(self, node: yaml.Node, key: str, text: str) -> ConfigError:
        return ConfigError(f"{self.path}:{node.start_mark.line + 1}: {key}: {text}.")
