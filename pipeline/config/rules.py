"""Which values parameters may have: ranges, and what cannot go together."""

import copy
import dataclasses
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.keys import flat, inside, leaves
from pipeline.config.optimizers import OPTIMIZERS, SCHEDULES
from pipeline.config.options import DATA_SECTIONS, PeersBenchmark, ScratchModel
from pipeline.config.schema import EXPORT_FORMATS
from pipeline.errors import ConfigError, report_problems
from pipeline.external.sources import SOURCES

WITHOUT_EFFECT = frozenset(
    {
        "inputs",
        "train.steps_per_save",
        "train.steps_per_sample",
        "train.keep_checkpoints",
        "train.reload_interval_steps",
        "train.reload_memory_threshold_gb",
        "train.memory_limit_gb",
        "train.shrink_on_oom",
        "train.hang_timeout_seconds",
        "train.resume",
        "train.resume_allow_inexact",
        "debug.leak_mb_per_step",
        "debug.kill_at_step",
        "debug.profile",
    }
)
"""Keys that cannot change the result of a run: a run with other values of them is the same run."""
ONLY_WHETHER = frozenset({"train.prefix_cache_gb"})
"""Keys that can change a result only by being 0 or not."""


def deciding(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that can change a result, by dotted name.

    Args:
        parameters: sections of the configuration, as plain dictionaries.
    """
    found = {name: value for name, value in flat(parameters) if not inside(name, WITHOUT_EFFECT)}
    return found | {name: bool(found[name]) for name in ONLY_WHETHER & found.keys()}


def check_values(config: DictConfig, sections: Collection[str] | None = None) -> None:
    """Refuse values out of range, all at once; `OmegaConf` has checked the types already.

    Args:
        config: the whole configuration.
        sections: where a value must not be missing; everywhere if None.

    Raises:
        ConfigError: with every key, its value, and what it may be.
    """
    missing = OmegaConf.missing_keys(config)
    needed = sorted(name for name in missing if sections is None or inside(name, sections))
    problems = [f"{name} has no value; give one: {name}=..." for name in needed]
    for name, field in leaves():
        value = None if inside(name, missing) else OmegaConf.select(config, name)
        if value is not None and field.metadata:
            problems += [f"{name}={value}: {rule}" for rule in broken_rules(field, value)]
    problems += contradictions(config)
    report_problems(ConfigError, "These parameters cannot be used:", problems)


def in_range(*, _root_: DictConfig) -> None:
    """Refuse values out of range where a configuration is resolved: in `dvc exp run` too.

    DVC composes conf/ by itself, knows types only, and resolves every reference before it writes
    params.yaml. So conf/config.yaml refers to this function.

    Args:
        _root_: the whole configuration, as OmegaConf passes it.

    Raises:
        ConfigError: as `check_values` does.
    """
    config = copy.deepcopy(_root_)
    config.inputs = None
    check_values(config)


def register() -> None:
    """Make `${in_range:}` known to OmegaConf."""
    OmegaConf.register_new_resolver("in_range", in_range, replace=True)


def broken_rules(field: dataclasses.Field, value: Any) -> Iterator[str]:  # noqa: ANN401
    """Describe each rule of its field that a value breaks."""
    facts = field.metadata
    if field.type in (str, str | None) and was_number(value):
        yield f"a text was read as this number; write it in quotes: \"{field.name}='TEXT'\""
    if facts["words"] and isinstance(value, str):
        if value not in facts["words"]:
            yield f"must be a number, or {', '.join(facts['words'])}"
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield "must be finite"
        return
    if facts["choices"] and value not in facts["choices"]:
        yield "must be one of " + ", ".join(map(str, facts["choices"]))
    if facts["minimum"] is not None and not value >= facts["minimum"]:
        yield f"must be at least {facts['minimum']}"
    if facts["maximum"] is not None and not value <= facts["maximum"]:
        yield f"must be at most {facts['maximum']}"


def was_number(text: str) -> bool:
    """Whether a text is what is left of one such as 12e4567, which was taken for a number.

    Arguments are refused with their own spelling; sweeps, `dvc exp run -S` and files come here.
    """
    try:
        number = float(text)
    except ValueError:
        return False
    return text == repr(number) and ("e" in text or not math.isfinite(number))


def shown(value: int | float | None) -> str:
    """Write a value as `conf/` has it."""
    return "null" if value is None else str(value)


def schedule_problems(optim: DictConfig) -> Iterator[str]:
    """Describe keys of the schedule that are missing, or that it would not read."""
    for key, is_needed in SCHEDULES.get(optim.schedule, {}).items():
        if is_needed and optim[key] is None:
            yield f"optim.{key}=null: optim.schedule={optim.schedule} needs it; give a value"
        if not is_needed and optim[key] is not None:
            yield (
                f"optim.{key}={optim[key]}: optim.schedule={optim.schedule} does not use it; "
                "set it to null"
            )
    together = optim.warmup_fraction + (optim.decay_fraction or 0)
    if together > 1:
        yield (
            f"optim.warmup_fraction={optim.warmup_fraction} and "
            f"optim.decay_fraction={optim.decay_fraction}: together more than the whole run"
        )


def mode_problems(model: DictConfig, train: DictConfig, lora: DictConfig) -> Iterator[str]:
    """Describe settings that contradict `train.mode`."""
    if train.mode in ("lora", "dora") and not lora.targets:
        yield f'lora.targets=[] and train.mode={train.mode}: name layers, or ["*"] for all of them'
    if train.mode == "tensors" and not train.tensors:
        yield "train.mode=tensors needs train.tensors=[NAME_OR_PATTERN,...]"
    if train.mode != "tensors" and train.tensors:
        yield (
            f"train.tensors={list(train.tensors)} and train.mode={train.mode}: they are read by "
            "train.mode=tensors only"
        )
    if train.mode == "full" and model.quantize_bits:
        yield (
            f"model.quantize_bits={model.quantize_bits} and train.mode=full: packed weights cannot "
            "be trained; use lora, dora or head"
        )


def overlap_problem(overlap_tokens: int, max_seq_len: int) -> str | None:
    """Return what is wrong where a piece of a document would be context only, else None."""
    if overlap_tokens < max_seq_len - 1:
        return None
    return (
        f"data.overlap_tokens={overlap_tokens} and data.max_seq_len={max_seq_len}: a piece would "
        f"have nothing new; the overlap must be less than {max_seq_len - 1}"
    )


PEER_PARTS = (
    "all_blocks",
    "as_installed",
    "torch_peft",
    "last_quarter",
    "head",
    "large_vocabulary",
    "sweep",
    "surroundings",
)
"""What `benchmark=peers` can measure, in the order in which it does."""


def benchmark_problems(benchmark: DictConfig) -> Iterator[str]:
    """Name what `benchmark=peers` cannot measure."""
    if OmegaConf.get_type(benchmark) is not PeersBenchmark:
        return
    parts = list(benchmark.peers.parts)
    if not parts or set(parts) - set(PEER_PARTS):
        yield f"benchmark.peers.parts={parts}: must be some of {', '.join(PEER_PARTS)}"
    if benchmark.num_steps == 1:
        yield (
            "benchmark.num_steps=1 with benchmark=peers: the first step of a run is not timed; "
            "take at least 2"
        )
    batch_size, num_rows = benchmark.peers.batch_size, benchmark.peers.num_rows
    if batch_size > num_rows:
        yield (
            f"benchmark.peers.batch_size={batch_size} and benchmark.peers.num_rows={num_rows}: "
            "there must be rows for a whole batch"
        )


def data_problems(data: DictConfig) -> Iterator[str]:
    """Name values of `data.*` that are right alone and wrong together."""
    if data.validation_fraction + data.test_fraction >= 1:
        yield (
            f"data.validation_fraction={data.validation_fraction} and "
            f"data.test_fraction={data.test_fraction}: they leave nothing to train on"
        )
    needs = SOURCES[data.source].needs
    name = (needs or "").partition("=")[0]
    section = name.rpartition(".")[0]
    is_chosen = not section or OmegaConf.select(data, section)
    if name and is_chosen and OmegaConf.select(data, name) is None:
        yield f"data.source={data.source} needs data.{needs}"
    if data.path is not None and name != "path":
        yield f"data.source={data.source} does not read data.path"
    for name, usual in (("columns", {}), ("format", "auto")):
        if data[name] != usual and not SOURCES[data.source].has_columns:
            found = f"data.{name}={data[name]}"
            yield f"{found}: data.source={data.source} does not read it; leave it out"
    if data.overlap_tokens and data.long_documents != "split":
        yield (
            f"data.overlap_tokens={data.overlap_tokens} and "
            f"data.long_documents={data.long_documents}: only split documents overlap"
        )
    problem = overlap_problem(data.overlap_tokens, data.max_seq_len or sys.maxsize)
    if problem is not None:
        yield problem
    scorer = data.provenance.scorer
    if (scorer == "none") != (data.provenance.tables is None):
        yield f"data.provenance.scorer={scorer}: choose it with data/provenance={scorer}"


def model_problems(model: DictConfig) -> Iterator[str]:
    """Name values of `model.*` that are right alone and wrong together."""
    has_shape = OmegaConf.get_type(model) is ScratchModel
    if (model.source == "scratch") != has_shape:
        yield (
            f"model.source={model.source} does not go with this model group; "
            "choose model=tiny for a scratch model, model=local for one that exists"
        )
    elif has_shape and model.quantize_bits:
        for name in ("hidden_size", "intermediate_size"):
            if model.scratch[name] % model.quantize_group_size:
                yield (
                    f"model.quantize_group_size={model.quantize_group_size} does not divide "
                    f"model.scratch.{name}={model.scratch[name]}; 32, 64 or 128 must"
                )


def scratch_position_problems(
    model: DictConfig, validate: DictConfig, benchmark: DictConfig
) -> Iterator[str]:
    """Name what would generate beyond the positions of a model that is made here."""
    if OmegaConf.get_type(model) is ScratchModel:
        positions = model.scratch.max_position_embeddings
        limit = f"the model has {positions} positions (model.scratch.max_position_embeddings)"
        values = {str(key): value for key, value in {**validate, **benchmark}.items()}
        yield from position_problems(limit, positions, values)


def position_problems(limit: str, positions: int, values: Mapping[str, Any]) -> Iterator[str]:
    """Name keys of `validate` and `benchmark` that ask for texts beyond a model's positions.

    Args:
        limit: what a message says of it.
        positions: tokens of the longest text.
        values: of one of these sections, or of both.
    """
    for keys in (
        ["validate.sample_tokens"],
        ["benchmark.prompt_tokens", "benchmark.generated_tokens"],
    ):
        tokens = [values.get(key.partition(".")[2], 0) for key in keys]
        if sum(tokens) > positions:
            named = " and ".join(f"{key}={count}" for key, count in zip(keys, tokens, strict=True))
            yield f"{named}: {limit}; ask for no more"


def train_problems(train: DictConfig) -> Iterator[str]:
    """Name values of `train.*` that are right alone and wrong together."""
    for one, other in (("batch_size", "batch_tokens"), ("num_steps", "num_epochs")):
        if (train[one] is None) == (train[other] is None):
            yield (
                f"train.{one}={shown(train[one])} and train.{other}={shown(train[other])}: give "
                "one, and set the other to null"
            )
    if train.max_grad_norm == 0:
        yield (
            "train.max_grad_norm=0.0: would make every gradient 0, so that nothing is trained; "
            "null turns clipping off"
        )


def best_problems(train: DictConfig, data: DictConfig) -> Iterator[str]:
    """Name a choice of the best weights by contests where the data have none."""
    if train.best == "conflicts" and data.source != "conflicts":
        yield (
            f"train.best=conflicts and data.source={data.source}: only data=conflicts has "
            "contests; take train.best=val_loss"
        )


def export_problems(export: DictConfig) -> Iterator[str]:
    """Name formats that do not exist."""
    wrong = sorted(set(export.formats) - EXPORT_FORMATS.keys())
    if wrong or not export.formats:
        yield f"export.formats={wrong}: must be some of {', '.join(EXPORT_FORMATS)}"


def option_problems(config: DictConfig) -> Iterator[str]:
    """Name sections whose keys are those of another option than the one that they name."""
    for group, name, kinds in (("data", "source", DATA_SECTIONS), ("optim", "name", OPTIMIZERS)):
        section = config[group]
        chosen = "" if OmegaConf.is_missing(section, name) else section[name]
        if chosen in kinds and OmegaConf.get_type(section) is not kinds[chosen]:
            yield f"{group}.{name}={chosen}: choose it with {group}={chosen}, which sets its keys"


SECTION_PROBLEMS: dict[tuple[str, ...], Callable[..., Iterator[str]]] = {
    ("data",): data_problems,
    ("model",): model_problems,
    ("train",): train_problems,
    ("train", "data"): best_problems,
    ("optim",): schedule_problems,
    ("model", "train", "lora"): mode_problems,
    ("model", "validate", "benchmark"): scratch_position_problems,
    ("benchmark",): benchmark_problems,
    ("export",): export_problems,
}
"""What looks at which sections; it is asked only where all of them have their values."""


def contradictions(config: DictConfig) -> Iterator[str]:
    """Name parameters that are right alone and wrong together."""
    yield from option_problems(config)
    for names, problems in SECTION_PROBLEMS.items():
        sections = [config[name] for name in names]
        if not any(map(OmegaConf.missing_keys, sections)):
            yield from problems(*sections)
