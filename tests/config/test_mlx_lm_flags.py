"""Who types a flag of `mlx_lm.lora` is told what it is called here; no flag is forgotten."""

import re

import pytest
from mlx_lm import lora

from pipeline.config.arguments import check_arguments
from pipeline.config.groups import groups, options
from pipeline.config.keys import is_known
from pipeline.config.mlx_lm_flags import FLAGS
from pipeline.errors import ConfigError
from pipeline.files import ROOT


def test_every_flag_of_mlx_lm_has_an_answer():
    flags = {name for action in lora.build_parser()._actions for name in action.option_strings}
    assert flags - {"-h", "--help"} == FLAGS.keys()


@pytest.mark.parametrize("text", sorted(set(FLAGS.values())))
def test_an_answer_names_keys_that_exist(text):
    for name, value in re.findall(r"([a-z_.]+)=([\w-]+)", text):
        chosen = name in groups() and value in options(name)
        assert chosen or is_known(name) or name in ("hydra.run.dir", "experiment", "inputs")


def test_the_page_has_the_same_table():
    page = (ROOT / "docs/from_mlx_lm.md").read_text()
    rows = dict(re.findall(r"^\| `(-[\w-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert rows == FLAGS


def test_all_flags_are_answered_at_once():
    with pytest.raises(ConfigError) as caught:
        check_arguments(["--iters", "100", "lora.rank=3", "--num-layers=8", "-c", "mine.yaml"])
    assert str(caught.value).splitlines() == [
        "These are flags of mlx_lm.lora. Write instead:",
        f"  --iters: {FLAGS['--iters']}",
        f"  --num-layers: {FLAGS['--num-layers']}",
        f"  -c: {FLAGS['-c']}",
        "docs/from_mlx_lm.md compares the two; `--help` lists the parameters of a stage.",
    ]


@pytest.mark.parametrize(
    "arguments", [["-c", "job"], ["--cfg", "job"], ["-cn", "repro"], ["-m"], []]
)
def test_flags_of_hydra_are_left_to_it(arguments):
    check_arguments(arguments)
