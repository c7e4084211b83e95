"""Writes params.yaml, the resolved parameters that DVC tracks, from conf/.

python -m stages.params                        write it (and drop any edit made to it)
python -m stages.params --check                exit 1 when it is not what conf/ gives
python -m stages.params --rehash               read external files whose hash is known, too
python -m stages.params --hardware             print which preset fits this machine
python -m stages.params experiment=smoke       write it with Hydra overrides
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline.config import hardware, keys, rules
from pipeline.config.arguments import usual_spelling
from pipeline.config.command_line import COMPOSITION_ERRORS, composition_error
from pipeline.config.composition import composed
from pipeline.config.faults import report, storage_error
from pipeline.errors import ConfigError, PipelineError
from pipeline.external.inputs import fingerprints, model_folder, names_folder
from pipeline.files import ROOT, forget_hashes, recall_notice, write_text
from pipeline.model.limits import check_positions

FILE, LOCK = ROOT / "params.yaml", ROOT / "dvc.lock"
ABSENT = "(absent)"


def loaded() -> DictConfig:
    """Read params.yaml, with the types of the schema.

    Raises:
        ConfigError: when it has a key that the schema has not, or a value of another type.
    """
    try:
        config = OmegaConf.load(FILE)
        assert isinstance(config, DictConfig)
        return keys.typed(config)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(f"params.yaml: {composition_error(error, [])}") from error


def old_values() -> dict[str, Any]:
    """List the values of params.yaml, edited or not; none if it cannot be read."""
    try:
        config = OmegaConf.create(FILE.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException):
        return {}
    return values(config) if isinstance(config, DictConfig) else {}


def values(config: DictConfig) -> dict[str, Any]:
    """List the leaves of a configuration, the fingerprints apart."""
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {
        name: value for name, value in keys.flat(container) if not keys.inside(name, ["inputs"])
    }


def edited_by_hand() -> bool:
    """Whether params.yaml differs from what the last `dvc repro` left."""
    if not (FILE.exists() and LOCK.exists()):
        return False
    recorded = recorded_md5()
    return recorded is not None and recorded != hashlib.md5(FILE.read_bytes()).hexdigest()


def recorded_md5() -> str | None:
    """Read the hash of params.yaml from dvc.lock; None where it has none, as when it is damaged."""
    try:
        lock = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
        return lock["stages"]["params"]["outs"][0]["md5"]
    except (UnicodeError, YAMLError, KeyError, TypeError, IndexError):
        return None


def refuse_edit(changed: dict[str, tuple[Any, Any]]) -> None:
    """Stop `dvc repro` before it overwrites an edit of params.yaml.

    Raises:
        ConfigError: with the three ways out.
    """
    sets = [
        shlex.quote(f"{name}={json.dumps(old, ensure_ascii=False)}")
        for name, (old, new) in changed.items()
        if ABSENT not in (old, new)
    ]
    trial = f"try them with\n  dvc exp run -S {' -S '.join(sets)}\nor " if sets else ""
    raise ConfigError(
        "params.yaml has been edited, but it is written from conf/. Either set the values in "
        f"conf/, or {trial}drop them with\n  python -m stages.params"
    )


def complete_experiment(name: str) -> None:
    """Add only `inputs:` to the params.yaml that `dvc exp run` composed with its overrides."""
    config = loaded()
    rules.check_values(config)
    write(config)
    print(f"params.yaml is as `dvc exp run` composed it for {name}")


def refresh(config: DictConfig, check: bool) -> int:
    """Print what differs between params.yaml and conf/; write it, unless only asked to check."""
    new, old = values(config), old_values()
    pairs = {
        name: (old.get(name, ABSENT), new.get(name, ABSENT))
        for name in sorted(new.keys() | old.keys())
    }
    changed = {name: (then, now) for name, (then, now) in pairs.items() if then != now}
    if changed and old:
        print("params.yaml -> conf/")
        print("\n".join(f"  {name}: {then} -> {now}" for name, (then, now) in changed.items()))
    if check:
        return int(bool(changed))
    if changed and os.environ.get("DVC_STAGE") and edited_by_hand():
        refuse_edit(changed)
    write(config)
    return 0


def write(config: DictConfig) -> None:
    """Write params.yaml, with the fingerprints of external files.

    Raises:
        PipelineError: when a file is missing, or the model has too few positions.
    """
    if names_folder(config.model.source):
        folder = model_folder(config.model.source)
        check_positions(folder, {**config.validate, **config.benchmark})
    config.inputs = fingerprints(config)
    notice = recall_notice()
    if notice is not None:
        print(f"inputs: {notice}")
    write_text(FILE, OmegaConf.to_yaml(config))


def main() -> int:
    """Compose conf/ into params.yaml."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    parser.add_argument("--rehash", action="store_true", help="read every external file again")
    parser.add_argument("--hardware", action="store_true", help="print which preset fits here")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as lora.rank=8")
    options = parser.parse_args()
    if options.hardware:
        print(hardware.preset_text(hardware.this_machine()))
        return 0
    if options.rehash:
        forget_hashes()
    experiment = os.environ.get("DVC_EXP_NAME")
    try:
        if experiment:
            complete_experiment(experiment)
            return 0
        return refresh(composed(usual_spelling(options.overrides)), options.check)
    except PipelineError as error:
        return report(error)
    except OSError as error:
        return report(storage_error(error))


if __name__ == "__main__":
    sys.exit(main())
