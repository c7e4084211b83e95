"""The stage that checks rows, splits them, and stores their tokens for training."""

import dataclasses

from omegaconf import DictConfig, OmegaConf

from pipeline.config.arguments import Flag
from pipeline.config.stage import stage
from pipeline.config.stage_paths import Paths
from pipeline.console import RowCounter, print_line
from pipeline.data.notice import notice_of
from pipeline.data.preparation.documents import write_histogram
from pipeline.data.preparation.prepare import prepare
from pipeline.data.preparation.show import show_rows
from pipeline.data.provenance.explain import explain as explain_scores
from pipeline.data.rows.formats import RowReader
from pipeline.data.settings import PrepareSettings, scoring_tables
from pipeline.errors import printable
from pipeline.external.inputs import check_unchanged
from pipeline.external.sources import data_root, template_path
from pipeline.files import write_json
from pipeline.model.limits import resolve_max_seq_len
from pipeline.model.vocabulary import tokenizer_facts

SCORED = ("data/provenance", "heuristic")


@stage(
    "seed",
    "data.source",
    "data.path",
    "data.max_seq_len",
    "data.long_documents",
    "data.overlap_tokens",
    "data.train_on",
    "data.turns",
    "data.control_tokens",
    "data.format",
    "data.columns",
    "data.chat_template",
    "data.template_kwargs",
    "data.max_bad_rows",
    "data.max_line_bytes",
    "data.validation_fraction",
    "data.test_fraction",
    "data.allow_network",
    "data.huggingface",
    "data.conflicts",
    "data.provenance",
    "model.source",
    "model.revision",
    "model.allow_network",
    "model.scratch",
    "inputs.data",
    "inputs.tokenizer",
    flags=(
        Flag("explain", "print provenance scores of a file or text", "FILE", SCORED),
        Flag("show", "print rows as the model sees them", "COUNT"),
    ),
)
def main(config: DictConfig, paths: Paths, explain: str = "", show: str = "") -> None:
    """Write data/prepared, metrics/prepare*.json and plots/lengths.csv; or print rows or scores."""
    if explain:
        reader = RowReader(config.data.format, dict(config.data.columns), with_metadata=True)
        most, tables = config.data.max_line_bytes, scoring_tables(config.data.provenance)
        print(*map(printable, explain_scores(tables, explain, most, reader)), sep="\n")
        return
    check_unchanged(config, "data", "tokenizer")
    settings = settings_of(config)
    if show:
        show_rows(settings, show)
        return
    counter = RowCounter("prepare")
    with paths.folder("data/prepared") as folder, counter:
        metrics, histogram = prepare(settings, folder, counter.show)
    write_json(paths.write("metrics/prepare.json"), metrics)
    write_json(paths.write("metrics/prepare_machine.json"), paths.meter.facts())
    with paths.file("plots/lengths.csv") as file:
        write_histogram(file, histogram)
    if notice := notice_of(metrics):
        print_line(f"prepare: {notice}")


def settings_of(config: DictConfig) -> PrepareSettings:
    """Collect the settings; those of a model that exists include its tokenizer and its limits."""
    data = config.data
    folder, limit, vocab_size = tokenizer_facts(config.model)
    names = {field.name for field in dataclasses.fields(PrepareSettings)}
    given = {**data, **data.huggingface, **data.conflicts, "columns": dict(data.columns)}
    given["template_kwargs"] = OmegaConf.to_container(data.template_kwargs)
    values = {name: value for name, value in given.items() if name in names}
    values |= {"seed": config.seed, "path": data_root(data), "chat_template": template_path(data)}
    values["max_seq_len"] = resolve_max_seq_len(data.max_seq_len, *limit)
    values |= {"provenance": scoring_tables(data.provenance), "vocab_size": vocab_size}
    return PrepareSettings(tokenizer_source=folder, **values)


if __name__ == "__main__":
    main()
