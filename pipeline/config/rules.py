"""Which values parameters may have: known names, ranges, and what cannot go together."""

import dataclasses
import difflib
import sys
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.schema import EXPORT_FORMATS, Params
from pipeline.errors import ConfigError, report_problems

WITHOUT_EFFECT = frozenset(
    {
        "inputs",
        "plan_only",
        "status",
        "train.steps_per_save",
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
"""Keys of which only one thing can change a result: whether they are 0."""


def leaves(kind: type = Params, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Give every parameter of the schema by its dotted name."""
    for field in dataclasses.fields(kind):
        nested = nested_section(field)
        if nested is None:
            yield prefix + field.name, field
        else:
            yield from leaves(nested, f"{prefix}{field.name}.")


def nested_section(field: dataclasses.Field) -> type | None:
    """Find the dataclass behind a field, also behind `Scratch | None`."""
    candidates = getattr(field.type, "__args__", (field.type,))
    kinds = [kind for kind in candidates if isinstance(kind, type)]
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def optional_sections(kind: type = Params, prefix: str = "") -> Iterator[str]:
    """Give every section that may be null, by its dotted name."""
    for field in dataclasses.fields(kind):
        nested = nested_section(field)
        if nested is not None:
            if nested is not field.type:
                yield prefix + field.name
            yield from optional_sections(nested, f"{prefix}{field.name}.")


def known_names() -> set[str]:
    """List every parameter and every section by its dotted name."""
    names = {name for name, _ in leaves()}
    return names | {name[:i] for name in names for i, char in enumerate(name) if char == "."}


def is_known(name: str) -> bool:
    """Tell whether a parameter or section has this name, or a table has an entry under it."""
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
    """Tell whether a parameter is one of these sections and keys, or stands in one."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def concerns(name: str, read: Collection[str]) -> bool:
    """Tell whether setting a section or key may matter to who reads these sections and keys."""
    return (
        not is_known(name)  # hardware, experiment: they set keys of any section
        or inside(name, read)
        or any(inside(section, [name]) for section in read)
    )


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


def broken_rules(field: dataclasses.Field, value: Any) -> Iterator[str]:  # noqa: ANN401
    """Say which rules of its field a value breaks."""
    facts = field.metadata
    if facts["choices"] and value not in facts["choices"]:
        yield "must be one of " + ", ".join(map(str, facts["choices"]))
    if facts["minimum"] is not None and not value >= facts["minimum"]:
        yield f"must be at least {facts['minimum']}"
    if facts["maximum"] is not None and not value <= facts["maximum"]:
        yield f"must be at most {facts['maximum']}"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        yield "must be finite"


def shown(value: int | None) -> str:
    """Write a value as `conf/` has it."""
    return "null" if value is None else str(value)


DECAY, MEANS = {"weight_decay", "no_decay"}, {"beta1", "beta2"}
OPTIMIZER_KEYS = {
    "adamw": DECAY | MEANS | {"eps"},
    "adam": MEANS | {"eps"},
    "sgd": DECAY | {"momentum"},
    "lion": DECAY | MEANS,
    "muon": DECAY | MEANS | {"eps", "momentum"},
    "adafactor": DECAY | {"eps"},
}
"""Which keys an optimizer has, of those that not every one has; Muon has AdamW's too."""
SCHEDULE_KEYS = {
    "constant": set[str](),
    "linear": {"final_fraction"},
    "cosine": {"final_fraction"},
    "wsd": {"final_fraction", "decay_fraction"},
}


def optimizer_problems(optim: DictConfig) -> Iterator[str]:
    """Say which keys of the optimizer and its schedule are missing, or would have no effect."""
    for kind, keys_of in (("name", OPTIMIZER_KEYS), ("schedule", SCHEDULE_KEYS)):
        chosen, remedy = optim[kind], ", or choose optim=" + optim.name if kind == "name" else ""
        for key in sorted(set().union(*keys_of.values())) if chosen in keys_of else ():
            if key in keys_of[chosen] and optim[key] is None:
                yield f"optim.{key}=null: optim.{kind}={chosen} needs it; give a value{remedy}"
            if key not in keys_of[chosen] and optim[key] is not None:
                yield (
                    f"optim.{key}={optim[key]}: optim.{kind}={chosen} does not use it; "
                    f"set it to null{remedy}"
                )
    together = optim.warmup_fraction + (optim.decay_fraction or 0)
    if together > 1:
        yield (
            f"optim.warmup_fraction={optim.warmup_fraction} and "
            f"optim.decay_fraction={optim.decay_fraction}: together more than the whole run"
        )


def mode_problems(model: DictConfig, train: DictConfig, targets: list[str]) -> Iterator[str]:
    """Say what does not go with what is trained."""
    if train.mode in ("lora", "dora") and not targets:
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
    """Say that a piece would be nothing but context; None where it is not."""
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
    """Say what does not go with the kind of benchmark."""
    for name in ("prompt_tokens", "generated_tokens"):
        if (benchmark[name] is None) != (benchmark.peers is not None):
            yield (
                f"benchmark.{name}={shown(benchmark[name])} does not go with this benchmark "
                "group; with benchmark=peers nothing is generated"
            )
    if benchmark.peers is None:
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


def contradictions_in_data(data: DictConfig) -> Iterator[str]:
    """Say which of `data.*` are right alone and wrong together."""
    if data.source == "jsonl" and data.path is None:
        yield "data.source=jsonl needs data.path=FILE_OR_FOLDER"
    if data.source == "huggingface" and data.huggingface.name is None:
        yield "data.source=huggingface needs data.huggingface.name=FOLDER_OR_HUB_ID"
    if data.overlap_tokens and data.long_documents != "split":
        yield (
            f"data.overlap_tokens={data.overlap_tokens} and "
            f"data.long_documents={data.long_documents}: only split documents overlap"
        )
    problem = overlap_problem(data.overlap_tokens, data.max_seq_len or sys.maxsize)
    if problem is not None:
        yield problem


def contradictions(config: DictConfig) -> Iterator[str]:
    """Say which parameters are right alone and wrong together."""
    data, model, train = config.data, config.model, config.train
    if not OmegaConf.missing_keys(data):
        if data.validation_fraction + data.test_fraction >= 1:
            yield (
                f"data.validation_fraction={data.validation_fraction} and "
                f"data.test_fraction={data.test_fraction}: they leave nothing to train on"
            )
        yield from contradictions_in_data(data)
    if not OmegaConf.missing_keys(model):
        scratch = model.source == "scratch"
        if scratch != (model.scratch is not None) or scratch != (model.pretrain is not None):
            yield (
                f"model.source={model.source} does not go with this model group; "
                "choose model=tiny for a scratch model, model=local for one that exists"
            )
        elif scratch and model.quantize_bits:
            for name in ("hidden_size", "intermediate_size"):
                if model.scratch[name] % model.quantize_group_size:
                    yield (
                        f"model.quantize_group_size={model.quantize_group_size} does not divide "
                        f"model.scratch.{name}={model.scratch[name]}; 32, 64 or 128 must"
                    )
    if not OmegaConf.missing_keys(train) and (train.batch_size is None) == (
        train.batch_tokens is None
    ):
        yield (
            f"train.batch_size={shown(train.batch_size)} and "
            f"train.batch_tokens={shown(train.batch_tokens)}: give one, and set the other to null"
        )
    if not OmegaConf.missing_keys(config.optim):
        yield from optimizer_problems(config.optim)
    if not any(map(OmegaConf.missing_keys, (model, train, config.lora))):
        yield from mode_problems(model, train, list(config.lora.targets))
    if not OmegaConf.missing_keys(config.benchmark):
        yield from benchmark_problems(config.benchmark)
    if not OmegaConf.missing_keys(config.export):
        wrong = sorted(set(config.export.formats) - EXPORT_FORMATS.keys())
        if wrong or not config.export.formats:
            yield f"export.formats={wrong}: must be some of {', '.join(EXPORT_FORMATS)}"
