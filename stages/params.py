"""Writes params.yaml, the resolved parameters that DVC tracks, from conf/.

python -m stages.params                        write it (and drop any edit made to it)
python -m stages.params --check                exit 1 when it is not what conf/ gives
python -m stages.params experiment=smoke       write it with Hydra overrides
"""

import argparse
import hashlib
import os
import re
import sys
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline import schema
from pipeline.errors import ConfigError, PipelineError
from pipeline.files import write_text
from pipeline.inputs import fingerprints
from pipeline.stage import ROOT, unknown_candidates
from pipeline.sweep_table import flat

FILE, LOCK = ROOT / "params.yaml", ROOT / "dvc.lock"


def composed(overrides: list[str]) -> DictConfig:
    """Compose conf/ into one resolved configuration, `inputs:` not yet filled in.

    Raises:
        ConfigError: when conf/ or an override names what does not exist, or has a wrong value.
    """
    schema.register()
    schema.check_known(unknown_candidates(overrides))
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", overrides=overrides)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        text = "\n".join(dict.fromkeys([str(error), str(error.__cause__ or error)]))
        asked = re.search(r"^Key .* not in [^$]*full_key: (\S+)", text, re.MULTILINE)
        near = schema.nearest(asked[1]) if asked else None
        raise ConfigError(text + (f"\nDid you mean {near}?" if near else "")) from error
    schema.check_values(config)
    return config


def loaded() -> DictConfig:
    """Read params.yaml, with the types of the schema."""
    config = OmegaConf.merge(OmegaConf.structured(schema.Params), OmegaConf.load(FILE))
    assert isinstance(config, DictConfig)
    return config


def values(config: DictConfig) -> dict[str, Any]:
    """List the leaves of a configuration, the fingerprints apart."""
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {name: value for name, value in flat(container) if not name.startswith("inputs")}


def edited_by_hand() -> bool:
    """Tell whether params.yaml is something else than what the last `dvc repro` left."""
    if not (FILE.exists() and LOCK.exists()):
        return False
    outs = OmegaConf.select(OmegaConf.load(LOCK), "stages.params.outs") or []
    return bool(outs) and outs[0].md5 != hashlib.md5(FILE.read_bytes()).hexdigest()


def refuse_edit(old: dict[str, Any], changed: list[str]) -> None:
    """Stop `dvc repro` before it overwrites what somebody wrote into params.yaml.

    Raises:
        ConfigError: with the three ways out.
    """
    sets = " ".join(f"-S {name}={old[name]}" for name in changed if name in old)
    raise ConfigError(
        "params.yaml has been edited, but it is written from conf/. Either set the values in "
        f"conf/, or try them with\n  dvc exp run {sets}\nor drop them with\n"
        "  python -m stages.params"
    )


def complete_experiment(name: str) -> None:
    """Add only `inputs:` to the params.yaml that `dvc exp run` composed with its overrides."""
    config = loaded()
    schema.check_values(config)
    config.inputs = fingerprints(config)
    write_text(FILE, OmegaConf.to_yaml(config))
    print(f"params.yaml is as `dvc exp run` composed it for {name}")


def refresh(config: DictConfig, check: bool) -> int:
    """Say what differs between params.yaml and conf/, and write it unless only asked to check."""
    new = values(config)
    old = values(loaded()) if FILE.exists() else {}
    changed = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
    if changed and old:
        print("params.yaml -> conf/")
        print("\n".join(f"  {name}: {old.get(name)} -> {new.get(name)}" for name in changed))
    if check:
        return int(bool(changed))
    if changed and os.environ.get("DVC_STAGE") and edited_by_hand():
        refuse_edit(old, changed)
    config.inputs = fingerprints(config)
    write_text(FILE, OmegaConf.to_yaml(config))
    return 0


def main() -> int:
    """Compose conf/ into params.yaml."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as lora.rank=8")
    options = parser.parse_args()
    experiment = os.environ.get("DVC_EXP_NAME")
    try:
        if experiment:
            complete_experiment(experiment)
            return 0
        return refresh(composed(options.overrides), options.check)
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
