"""Composes conf/ into one configuration, as params.yaml or a stage by hand has it."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from pipeline.config import rules, schema
from pipeline.config.arguments import check_arguments
from pipeline.config.command_line import (
    COMPOSITION_ERRORS,
    composition_error,
    explain_null_sections,
)
from pipeline.config.groups import CONF


def composed(overrides: list[str], name: str = "config") -> DictConfig:
    """Compose conf/ into one resolved configuration, `inputs:` not yet filled in.

    Args:
        overrides: as a user writes them.
        name: of a file in conf/: `config`, which params.yaml is made of, or `by_hand`.

    Raises:
        ConfigError: when conf/ or an override names what does not exist, or has a wrong value.
    """
    schema.register()
    check_arguments(overrides)
    try:
        with (
            explain_null_sections(overrides),
            initialize_config_dir(str(CONF), version_base="1.3"),
        ):
            config = compose(name, overrides=overrides)
        config.inputs = None  # it would check the ranges, as below, with a longer message
        OmegaConf.resolve(config)
    except COMPOSITION_ERRORS as error:
        raise composition_error(error, overrides) from error
    rules.check_values(config)
    return config
