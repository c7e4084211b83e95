"""A stage sees the parameters it names, isolates its runs, and says what the user can mend."""

import re
import shutil
import signal
import sys
from functools import partial

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from pipeline.config import composition, groups, sweep_table
from pipeline.config import stage as module
from pipeline.config.arguments import Flag
from pipeline.config.earlier_runs import EarlierRuns
from pipeline.config.optimizers import OPTIMIZERS
from pipeline.config.stage import Paths, stage
from pipeline.console import print_line
from pipeline.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Stopped,
    TrainingError,
    WorkerError,
)
from pipeline.files import write_json
from stages.params import composed

QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]


@pytest.fixture
def toy(tmp_path, monkeypatch, capsys):
    """Run a stage made of a function, as `python -m stages.toy` would; give code, out and err."""

    def run(function, sections, *arguments, place=None):
        function.__module__ = "__main__"  # Hydra looks for conf/ beside this file's folder
        folder = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
        options = [*QUIET, *([f"{folder}={tmp_path / 'run'}"] if place is None else place)]
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["stages/toy.py", *arguments, *options])
        with pytest.raises(SystemExit) as end:
            stage(*sections)(function)()
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def seen(toy):
    """Run a stage that only looks at what it is given."""

    def run(sections, *arguments):
        found = []

        def look(config, paths):
            """Look."""
            found.append((config, paths))

        code, _, err = toy(look, sections, *arguments)
        assert (code, err) == (0, "")
        return found[0]

    return run


def refuse(config, paths):
    """Never come here."""
    raise AssertionError("the stage ran")


# What a stage is given


def test_a_stage_gets_its_sections_with_their_values(seen):
    config, _ = seen(["seed", "lora", "train.mode"], "lora.rank=3", "seed=0")
    assert OmegaConf.to_container(config) == {
        "seed": 0,
        "lora": {
            "rank": 3,
            "alpha": 16.0,
            "rslora": False,
            "dropout": 0.0,
            "num_layers": None,
            "targets": ["*"],
        },
        "train": {"mode": "lora"},
    }


@pytest.mark.parametrize("name", ["optim", "train.num_steps", "inputs"])
def test_what_it_did_not_name_is_an_error(seen, name):
    config, _ = seen(["seed", "train.mode"])
    with pytest.raises(ConfigAttributeError):
        getattr(config.train if name == "train.num_steps" else config, name.split(".")[-1])


def test_by_hand_all_is_written_under_the_run_folder(seen, tmp_path):
    _, paths = seen(["seed"])
    assert paths == Paths(tmp_path / "run")
    assert paths.write("metrics/train.json") == tmp_path / "run/metrics/train.json"
    assert (tmp_path / "run/metrics").is_dir()


def test_under_dvc_it_reads_params_yaml_and_writes_beside_it(toy, tmp_path, monkeypatch):
    values = OmegaConf.to_container(composed(["lora.rank=5"]))
    values["inputs"] = {"data": {"a.b": {"size": 1}}, "tokenizer": {}, "model": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    found = []
    code, *_ = toy(
        lambda config, paths: found.append((config, paths)),
        ["lora.rank", "inputs.data"],
        "-cn",
        "repro",
    )
    config, paths = found[0]
    assert code == 0
    assert config == {"lora": {"rank": 5}, "inputs": {"data": {"a.b": {"size": 1}}}}
    assert paths.earlier == EarlierRuns()


def test_two_runs_by_hand_of_one_moment_do_not_share_a_folder(toy, tmp_path):
    found = []

    def look(config, paths):
        """Look."""
        found.append(paths.out)

    same = f"hydra.run.dir=${{unused_folder:{tmp_path}/same}}"
    for _ in range(2):
        assert toy(look, ["seed"], same, place=[])[0] == 0
    assert found == [tmp_path / "same", tmp_path / "same_2"]
    assert all((folder / ".hydra/config.yaml").exists() for folder in found)


def test_by_hand_there_are_no_fingerprints(seen, tmp_path):
    (tmp_path / "earlier/data/prepared").mkdir(parents=True)
    config, _ = seen(["inputs.data"], f"inputs={tmp_path}/earlier")
    assert config == {"inputs": {"data": None}}


@pytest.mark.parametrize("override", ["experiment=smoke", "+experiment=smoke"])
def test_experiments_can_be_spelled_in_both_ways(seen, override):
    config, _ = seen(["train"], override)
    assert config.train.num_steps == composed(["experiment=smoke"]).train.num_steps != 300


def test_hardware_is_a_group_and_no_parameter(seen):
    config, _ = seen(["train", "lora"], "hardware=mac_16gb")
    assert config.train.grad_accumulation_steps == 16
    assert config.lora.rank == 32


def test_a_group_may_lack_values_that_the_stage_does_not_read(seen):
    config, _ = seen(["train.batch_size", "data.arrangement"], "data=jsonl")
    assert config.train.batch_size == 4


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lora.rnak=3"], "unknown key lora.rnak; did you mean lora.rank?"),
        (["+lora.rnak=3"], "unknown key lora.rnak; did you mean lora.rank?"),
        (["++rank=3"], "unknown key rank; did you mean lora.rank?"),
        (["lora.rank=0", "seed=-1"], "seed=-1: must be at least 0\n  lora.rank=0: must be at"),
        (["lora.rank=abc"], "Integer\n    full_key: lora.rank\n"),
        (["lora.rank=1.5"], "Value '1.5' of type 'float' could not be converted to Integer"),
        (["lora.rank=null"], "field 'lora.rank' is not Optional"),
        (["lora.rank=["], "no viable alternative at input '['"),
        (["lora=huge"], "Could not find 'lora/huge'\n\nAvailable options in 'lora':\n\tdefault"),
        (["inputs=nowhere"], "inputs=nowhere: there is no such run folder (looked at /"),
        (["inputs=7"], "Give the folder under runs/ that an earlier stage has written."),
        (["optim.learning_rate=1"], "this stage reads only seed, lora, and not:\n  optim.lear"),
    ],
)
def test_what_the_user_can_mend_has_no_traceback(toy, arguments, message):
    code, out, err = toy(refuse, ["seed", "lora"], *arguments)
    assert code == 1
    assert "ConfigError: " in err
    assert message in err
    for word in ("Traceback", "Error executing job", "object_type"):
        assert word not in err + out


OF_OTHER_OPTIONS = {
    "benchmark.peers.num_rows=5": "benchmark=default has no such key; choose benchmark=peers",
    "model.scratch.vocab_size=300": "model=local has no such key; "
    "choose model=tiny or model=tiny_short",
    "+model.pretrain.num_steps=3": "model=local has no such key; "
    "choose model=tiny or model=tiny_short",
    "optim.momentum=0.5": "optim=adamw has no such key; choose optim=muon or optim=sgd",
}


@pytest.mark.parametrize("more", [[], ["-m", "seed=1,2"]])
def test_keys_of_other_options_are_told_with_the_choices_that_have_them(toy, more):
    arguments = ["model=local", "model.source=/tmp", *OF_OTHER_OPTIONS]
    code, out, err = toy(refuse, ["seed", "model", "benchmark", "optim"], *more, *arguments)
    assert code == 1
    head, *lines = err.splitlines()
    assert head == "ConfigError: These parameters cannot be used:"
    wanted = {f"  {key.split('=')[0].strip('+')}: {text}" for key, text in OF_OTHER_OPTIONS.items()}
    assert set(lines) == wanted
    assert "Traceback" not in err + out


def test_keys_of_a_section_that_is_chosen_are_taken(seen):
    arguments = ["benchmark=peers", "benchmark.peers.num_rows=5", "model.scratch.vocab_size=300"]
    config, _ = seen(["benchmark", "model"], *arguments)
    assert config.benchmark.peers.num_rows == 5
    assert config.model.scratch.vocab_size == 300


def test_all_foreign_overrides_are_told_with_a_command_that_takes_them():
    with pytest.raises(ConfigError) as caught:
        module.refuse_foreign_overrides(
            ["seed=1", "data=jsonl", "data.path='a b'", "lora.targets=[a]", "experiment=smoke"],
            ("seed", "train.mode"),
        )
    assert str(caught.value).splitlines() == [
        "this stage reads only seed, train.mode, and not:",
        "  data=jsonl",
        "  data.path='a b'",
        "  lora.targets=[a]",
        "Set them for the stage that reads them, or for all stages:",
        """  dvc exp run -S seed=1 -S data=jsonl -S 'data.path='"'"'a b'"'"'' """
        "-S 'lora.targets=[a]' -S experiment=smoke",
    ]


@pytest.mark.parametrize("override", ["train.mode=full", "train=default", "inputs=x", "seed=1"])
def test_a_section_may_be_set_above_or_below_what_is_read(override):
    assert module.refuse_foreign_overrides([override], ("seed", "train.mode")) is None


def test_an_error_of_the_family_is_printed_and_exits_with_1(toy):
    def diverge(config, paths):
        """Diverge."""
        raise TrainingError("the loss is nan at step 3.\nLower optim.learning_rate.")

    code, out, err = toy(diverge, ["seed"])
    assert code == 1
    assert err == "TrainingError: the loss is nan at step 3.\nLower optim.learning_rate.\n"
    assert "Traceback" not in err + out


@pytest.mark.parametrize("written", [None, "metrics/train.json", "empty"])
def test_a_refused_run_leaves_no_folder_unless_something_is_in_it(toy, tmp_path, written):
    def refuse(config, paths):
        """Refuse."""
        if written:
            paths.write(written).write_text("" if written == "empty" else "{}")
        raise TrainingError("no")

    assert toy(refuse, ("lora",))[0] == TrainingError.exit_code
    assert (tmp_path / "run").exists() == bool(written)


def test_a_question_leaves_no_folder(toy, monkeypatch, tmp_path):
    assert run_with_flags(toy, monkeypatch, "--plan")[0] == 0
    assert not (tmp_path / "run").exists()


def test_the_log_of_a_run_ends_with_its_error(toy, tmp_path):
    def fail(config, paths):
        """Fail."""
        print_line("begins")
        raise TrainingError("the loss is nan")

    assert toy(fail, ("lora",))[0] == TrainingError.exit_code
    (log,) = (tmp_path / "run").glob("*.log")
    begins, error = log.read_text().splitlines()
    assert begins.endswith("  begins")
    assert error.endswith("  TrainingError: the loss is nan")


def test_a_defect_of_ours_keeps_its_traceback(toy):
    with pytest.raises(AssertionError, match="the stage ran"):
        toy(refuse, ["seed"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Stopped("stopped", signal.SIGTERM), 143),
        (CheckpointError("no checkpoint"), 74),
        (WorkerError("no worker"), 70),
        (DataError("no data"), 1),
    ],
)
def test_the_exit_code_says_what_happened(toy, error, code):
    def fail(config, paths):
        """Fail."""
        raise error

    assert toy(fail, ["seed"])[0] == code


# Sweeps


def test_a_failed_job_does_not_stop_the_sweep(toy, tmp_path, capsys):
    def train(config, paths):
        """Train."""
        if config.lora.rank == 2:
            raise TrainingError("the loss is nan")
        write_json(paths.write("metrics/train.json"), {"val_loss": config.lora.rank / 2})

    code, _, err = toy(train, ["lora"], "-m", "lora.rank=1,2,4")
    assert code == 1
    assert err.endswith("TrainingError: the loss is nan\n")
    assert sweep_table.main([str(tmp_path / "run")]) == 0
    header, _, *rows = map(str.split, capsys.readouterr().out.splitlines())
    assert header == ["|", "job", "|", "lora.rank", "|", "val_loss", "|"]
    assert rows[1] == ["|", "1", "(failed)", "|", "2", "|", "|"]
    assert rows[2] == ["|", "2", "|", "4", "|", "2", "|"]
    assert (tmp_path / "run/table.csv").exists()


def test_a_sweep_that_succeeds_prints_its_table(toy, tmp_path):
    def train(config, paths):
        """Train."""
        write_json(paths.write("metrics/train.json"), {"val_loss": config.lora.rank / 2})

    code, out, err = toy(train, ["lora"], "-m", "lora.rank=1,2")
    assert (code, err) == (0, "")
    assert f"| 1   | 2         | 1        |\n{tmp_path / 'run'}/table.md\n" in out


# Flags


PLAN = Flag("plan", "print what it takes")
EXPLAIN = Flag("explain", "print scores", "FILE", ("data/provenance", "heuristic"))


def run_with_flags(toy, monkeypatch, *arguments):
    """Start a stage that has two flags; return its code, what it got, and its errors."""
    found = []

    def look(config, paths, **given):
        """Look."""
        found.append((config, given))

    monkeypatch.setattr(sys.modules[__name__], "stage", partial(stage, flags=(PLAN, EXPLAIN)))
    code, _, err = toy(look, ["lora", "data.provenance"], *arguments)
    return code, found, err


@pytest.mark.parametrize("text", ["a,b={c}", "'", "it's ${x}", "[", "--plan=x", "a=b"])
def test_free_text_after_a_flag_is_taken_as_it_is(toy, monkeypatch, text):
    code, found, _ = run_with_flags(toy, monkeypatch, "lora.rank=3", "--explain", text, "--plan")
    assert code == 0
    [(config, given)] = found
    assert given == {"explain": text, "plan": True}
    assert (config.lora.rank, config.data.provenance.scorer) == (3, "heuristic")


def test_any_key_may_be_set_with_a_flag_that_takes_all_sections(toy, monkeypatch):
    found = []

    def look(config, paths, everything=False):
        """Look."""
        found.append(config)

    flag = Flag("everything", "look at everything", takes_all=True)
    monkeypatch.setattr(sys.modules[__name__], "stage", partial(stage, flags=(flag,)))
    code, _, err = toy(look, ["lora"], "validate.documents=3")
    assert (code, found) == (1, [])
    assert "this stage reads only lora, and not:\n  validate.documents=3" in err
    code, _, _ = toy(look, ["lora"], "validate.documents=3", "data.max_seq_len=64", "--everything")
    [config] = found
    assert (code, config.validate.documents, config.data.max_seq_len) == (0, 3, 64)


def test_what_a_flag_implies_can_be_chosen(toy, monkeypatch):
    _, [(config, _)], _ = run_with_flags(toy, monkeypatch, "--explain=x", "data/provenance=none")
    assert config.data.provenance.scorer == "none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan=3"], "ConfigError: --plan=3: write --plan"),
        (["--status"], "--status: this stage has no such flag"),
        (["status=true"], "status=true: is no parameter; write --status\n`--help` lists the flags"),
        (["plan_only=true"], "plan_only=true: is no parameter; write --plan"),
        (["explain=rows.jsonl"], "explain=rows.jsonl: is no parameter; write --explain FILE"),
    ],
)
def test_a_wrong_flag_or_an_old_spelling_is_refused(toy, monkeypatch, arguments, message):
    code, found, err = run_with_flags(toy, monkeypatch, *arguments)
    assert (code, found) == (1, [])
    assert message in err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("lora=5", "lora=5: choose one of default"),
        (
            "model.revision=12e4567",
            "model.revision=12e4567: is read as inf; for the text write "
            "\"model.revision='12e4567'\"",
        ),
        ("model.revision=1e3", "is read as 1000.0; for the text write"),
        (
            "model.source=${oc.env:NOT_SET_ANYWHERE}",
            "the environment variable NOT_SET_ANYWHERE is not set, and ${oc.env:NOT_SET_ANYWHERE} "
            "refers to it.\nSet it (`export NOT_SET_ANYWHERE=VALUE`), or give a default: "
            "${oc.env:NOT_SET_ANYWHERE,DEFAULT}.",
        ),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(toy, argument, message):
    code, _, err = toy(refuse, ["lora", "model"], argument)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_quoted_numbers_are_texts(seen):
    config, _ = seen(["model"], "model.revision='12e4567'")
    assert config.model.revision == "12e4567"


# Settings of one machine


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Copy conf/, and return what writes its conf/local/default.yaml."""
    shutil.copytree(module.CONF, tmp_path / "conf")
    for where in (module, groups):
        monkeypatch.setattr(where, "CONF", tmp_path / "conf")

    def write(text):
        (tmp_path / "conf/local/default.yaml").write_text(text)

    return write


def test_settings_of_this_machine_count_by_hand_and_nowhere_else(
    seen, local, monkeypatch, tmp_path
):
    local("train:\n  memory_limit_gb: 3.5\n")
    monkeypatch.setattr(composition, "CONF", tmp_path / "conf")
    assert seen(["train"])[0].train.memory_limit_gb == 3.5
    assert seen(["train"], "train.memory_limit_gb=2.0")[0].train.memory_limit_gb == 2.0
    assert composed([]).train.memory_limit_gb is None


@pytest.mark.parametrize("text", ["seed: 3\nlora:\n  rank: 4\n", "inputs: runs/x\n"])
def test_settings_of_this_machine_cannot_change_a_result(toy, local, text):
    local(text)
    code, _, err = toy(refuse, ["train"])
    assert code == 1
    wrong = "  seed\n  lora.rank\n" if "seed" in text else "  inputs\n"
    assert (
        f"default.yaml may set only what cannot change a result, and not:\n{wrong}Set them" in err
    )


# Help


def test_help_lists_the_flags(toy, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "stage", partial(stage, flags=(PLAN, EXPLAIN)))
    _, out, _ = toy(refuse, ["lora"], "--help")
    assert re.search(r"^ +python -m stages.toy --plan +print what it takes$", out, re.MULTILINE)
    assert re.search(r"^ +python -m stages.toy --explain FILE +print scores$", out, re.MULTILINE)


def test_help_lists_the_keys_with_type_meaning_unit_and_range(toy):
    def train(config, paths):
        """Train: writes models/trained."""

    code, out, _ = toy(train, ["seed", "lora", "train.mode", "benchmark.prompt_tokens"], "--help")
    lines = re.findall(r"^  (\S+)=(\S+) +(.+)$", out, re.MULTILINE)
    told = {name: text for name, _, text in lines}
    assert code == 0
    assert out.startswith("Train: writes models/trained.\n\nusage: python -m stages.toy [KEY=")
    assert told == {
        "seed": "of data order, initial weights and dropout (int; from 0; to 9223372036854775807)",
        "lora.rank": "width of the bottleneck (int; from 1; to 65536)",
        "lora.alpha": "scale of the update times rank: scale = alpha / rank "
        "(float; from 0; to 1000000000)",
        "lora.dropout": "share of adapter inputs dropped (float; from 0; to 0.99)",
        "lora.num_layers": "adapt this many last blocks; null: all (int | None; from 1; to 10000)",
        "lora.rslora": "scale = alpha / sqrt(rank), which keeps large ranks learning (bool)",
        "lora.targets": "layers, by name or pattern (`*`: all linear ones of the blocks; "
        "embed_tokens, lm_head) (list[str])",
        "train.mode": "what is trained; head: final norm and output head; tensors: those in "
        "train.tensors (str; lora; dora; head; full; tensors)",
        "benchmark.prompt_tokens": "prompt of the timed generation "
        "(int; tokens; from 1; to 100000000)",
    }
    values = {name: value for name, value, _ in lines}
    config = composed([])
    assert values["lora.rank"] == str(config.lora.rank)
    assert (values["lora.num_layers"], values["lora.rslora"]) == ("null", "false")
    assert values["lora.targets"] == '["*"]'


def test_help_shows_where_the_default_choice_of_a_group_lacks_a_key(toy):
    _, out, _ = toy(refuse, ["optim"], "--help")
    assert re.search(r"^  optim.momentum=- +share of the velocity", out, re.MULTILINE)


def test_help_lists_the_groups_of_which_the_stage_reads_something(toy):
    def train(config, paths):
        """Train: writes models/trained.

        And more.
        """

    _, out, _ = toy(train, ["seed", "optim", "data.provenance"], "--help")
    assert out.startswith("Train: writes models/trained.\n\nAnd more.\n\nusage: ")
    groups = dict(re.findall(r"^  (\S+?)=(\S+)$", out, re.MULTILINE))
    assert list(groups) == ["data", "data/provenance", "[experiment", "[hardware", "optim"]
    others = sorted(OPTIMIZERS.keys() - {"adamw"})
    assert groups["optim"] == "|".join(["adamw", *others])  # the default first
    assert groups["data/provenance"] == "none|heuristic"
    assert groups["[experiment"] == "smoke|smollm2]"
    assert "mac_16gb|" in groups["[hardware"]


# Outputs of other stages


def test_inputs_lead_to_the_run_that_the_earlier_run_was_given(seen, tmp_path):
    for name, before in (("third", "second"), ("second", "first"), ("first", "null")):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "models/trained").mkdir(parents=True)
        text = f"inputs: {before if before == 'null' else tmp_path / before}\n"
        (tmp_path / name / ".hydra/config.yaml").write_text(text)
    _, paths = seen(["seed"], f"inputs={tmp_path}/third")
    runs = tuple(tmp_path / name for name in ("third", "second", "first"))
    assert paths.earlier == EarlierRuns(runs)


def test_two_stages_may_share_a_run_folder(seen, tmp_path):
    (tmp_path / "run").mkdir()
    _, paths = seen(["seed"], f"inputs={tmp_path}/run")
    assert (tmp_path / "run/.hydra/config.yaml").is_file()
    assert paths.earlier == EarlierRuns((tmp_path / "run",))
