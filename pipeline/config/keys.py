"""The names of parameters: which there are, which the chosen options have, and which is meant."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.options import OPTIONS, Unused
from pipeline.config.schema import ByHand, Params
from pipeline.errors import ConfigError, report_problems


def flat(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List the leaves of nested dictionaries by dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def leaves(kind: type = ByHand, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """List every parameter of the schema, of all options, by its dotted name."""
    for field in fields_of(kind, prefix):
        nested = nested_section(field)
        if nested is None:
            yield prefix + field.name, field
        else:
            yield from leaves(nested, f"{prefix}{field.name}.")


def fields_of(kind: type, prefix: str) -> Collection[dataclasses.Field]:
    """List the fields of a section; of a group, those of all its options."""
    kinds = OPTIONS.get(prefix.rstrip("."), {}).values()
    found: dict[str, dataclasses.Field] = {}
    for field in [field for each in (*kinds, kind) for field in dataclasses.fields(each)]:
        if found.setdefault(field.name, field).type is Unused:
            found[field.name] = field
    return found.values()


def nested_section(field: dataclasses.Field) -> type | None:
    """Find the dataclass behind a field, also behind `ProvenanceTables | None`."""
    candidates = getattr(field.type, "__args__", (field.type,))
    kinds = [kind for kind in candidates if isinstance(kind, type)]
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def known_names() -> set[str]:
    """List every parameter and every section by its dotted name."""
    names = {name for name, _ in leaves()}
    return names | {name[:i] for name in names for i, char in enumerate(name) if char == "."}


def is_known(name: str) -> bool:
    """Whether a parameter or section has this name, or a table has an entry under it."""
    tables = [table for table, field in leaves() if str(field.type).startswith("dict")]
    return name in known_names() or inside(name, tables)


def nearest(name: str) -> str | None:
    """Find the parameter whose name is most like this one; the same key elsewhere comes first."""
    known = sorted(known_names())
    elsewhere = [other for other in known if other.endswith("." + name.rpartition(".")[2])]
    like = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0)
    return next(iter(like or difflib.get_close_matches(name, known, n=1)), None)


def check_known(names: list[str]) -> None:
    """Refuse names that no parameter has, each with the nearest one that exists.

    Raises:
        ConfigError: with every unknown name.
    """
    problems = []
    for name in names:
        if not is_known(name):
            near = nearest(name)
            problems.append(f"unknown key {name}" + (f"; did you mean {near}?" if near else ""))
    report_problems(
        ConfigError, "conf/ has no such parameter:", problems, "`--help` lists those there are."
    )


def inside(name: str, sections: Collection[str]) -> bool:
    """Whether a parameter is one of these sections and keys, or stands in one."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def concerns(name: str, read: Collection[str]) -> bool:
    """Whether setting a section or key may change one of these sections and keys."""
    return (
        not is_known(name)  # hardware, experiment: they set keys of any section
        or inside(name, read)
        or any(inside(section, [name]) for section in read)
    )


def typed(values: DictConfig) -> DictConfig:
    """Check plain values against the schema, each group against the option most like it.

    Raises:
        OmegaConfBaseException: when there is a key that the schema lacks, or a wrong type.
    """
    schema, plain = OmegaConf.structured(Params), OmegaConf.to_container(values)
    assert isinstance(plain, dict)
    for group, kinds in OPTIONS.items():
        section = plain.get(group)
        if isinstance(section, dict):
            given = set(dict(flat(section)))
            schema[group] = min(kinds.values(), key=lambda kind: len(given ^ own_names(kind)))
    merged = OmegaConf.merge(schema, values)
    assert isinstance(merged, DictConfig)
    return merged


def own_names(kind: type, prefix: str = "") -> set[str]:
    """List the parameters of one dataclass by dotted names."""
    names: set[str] = set()
    for field in dataclasses.fields(kind):
        nested = nested_section(field)
        names |= own_names(nested, f"{prefix}{field.name}.") if nested else {prefix + field.name}
    return names
