"""A section of the config that one program has beside those of `dynhp_jax.training.config`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_collections

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.fields import Section
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config

Own = TypeVar("Own", bound=Section)


def with_defaults(kind: type[Section]) -> ml_collections.ConfigDict:
    """`dynhp_jax.training.config.default_config_dict` with one section more."""
    return ml_collections.ConfigDict(to_dict(Config(), kind())).lock()


def to_dict(config: Config, own: Section) -> dict[str, Any]:
    """Both as config.json holds them."""
    return configuration.to_dict(config) | {_name(type(own)): dataclasses.asdict(own)}


def split(
    values: ml_collections.ConfigDict, kind: type[Own], example: str
) -> tuple[dict[str, Any], Own]:
    """The values of the other sections, and the one of this kind.

    Args:
      values: the whole config.
      kind: of the section.
      example: a config file that has one, for the message.

    Raises:
      UserError: there is no such section, a name in it is no field, or a value is not allowed.
    """
    plain, name = values.to_dict(), _name(kind)
    section = plain.pop(name, None)
    if not isinstance(section, Mapping):
        raise UserError(f"the config has no section {name!r}; see {example}")
    known = {field.name for field in dataclasses.fields(kind)}
    for field in section:
        if field not in known:
            raise configuration.unknown_field(f"{name}.{field}", {name: kind})
    return plain, kind(**section)


def as_json(values: Any) -> Any:
    """With lists for tuples, as JSON holds them."""
    if isinstance(values, Mapping):
        return {name: as_json(each) for name, each in values.items()}
    return [as_json(each) for each in values] if isinstance(values, (tuple, list)) else values


def agrees(recorded: Mapping[str, Any], now: Mapping[str, Any], kind: type[Section]) -> bool:
    """Whether a result is of the settings of now.

    A field that did not exist when the result was written has its default there.

    Args:
      recorded: what a result says that it was made of.
      now: settings, as `to_dict` gives them, or some of these and others.
      kind: of the section that a program has for itself.
    """
    return _filled(recorded, as_json(now), as_json(to_dict(Config(), kind()))) == as_json(now)


def _filled(there: Any, now: Any, defaults: Any) -> Any:
    if not isinstance(there, Mapping) or not isinstance(now, Mapping):
        return there
    defaults = defaults if isinstance(defaults, Mapping) else {}
    missing = {name: defaults[name] for name in now if name not in there and name in defaults}
    known = {name: _filled(each, now.get(name), defaults.get(name)) for name, each in there.items()}
    return missing | known


def _name(kind: type[Section]) -> str:
    return kind.prefix.removesuffix(".")
