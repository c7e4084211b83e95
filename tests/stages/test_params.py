"""params.yaml is what conf/ gives; an edit is refused; DVC reruns what a key concerns, no more."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline import files
from pipeline.config import command_line, composition
from pipeline.errors import ConfigError, PipelineError
from pipeline.external import inputs
from stages import params

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("conf", "hydra_plugins", "pipeline", "stages", "dvc.yaml", "params.yaml", ".dvcignore")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Let the stage work on a copy of conf/ and params.yaml."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr(files, "RECALLED", {})
    monkeypatch.setattr(params, "ROOT", tmp_path)
    monkeypatch.setattr(composition, "CONF", tmp_path / "conf")
    monkeypatch.setattr(params, "FILE", tmp_path / "params.yaml")
    monkeypatch.setattr(params, "LOCK", tmp_path / "dvc.lock")
    for name in ("DVC_ROOT", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("DVC_STAGE", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Run the stage; give its exit code, what it prints, and its error."""

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["params", *arguments])
        return params.main(), *capsys.readouterr()

    return main


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# params.yaml and conf/


def test_params_yaml_holds_every_value_of_conf(run, place):
    (place / "params.yaml").unlink()
    assert run() == (0, "", "")
    written = OmegaConf.load(place / "params.yaml")
    assert params.values(written) == params.values(params.composed([]))
    assert written.inputs == {"data": {}, "tokenizer": {}, "model": {}, "init_from": {}}


def test_writing_twice_writes_the_same_bytes(run, place):
    run()
    first = (place / "params.yaml").read_bytes()
    assert run() == (0, "", "")
    assert (place / "params.yaml").read_bytes() == first


def test_check_tells_by_its_exit_code_and_writes_nothing(run, place):
    run()
    before = (place / "params.yaml").read_bytes()
    assert run("--check") == (0, "", "")
    edit(place / "conf/lora/default.yaml", "rank: 8", "rank: 5")
    assert run("--check") == (1, "params.yaml -> conf/\n  lora.rank: 8 -> 5\n", "")
    assert (place / "params.yaml").read_bytes() == before
    assert run()[0] == 0
    assert run("--check")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rank: 8", "rank: abc", "  lora.rank: abc -> 8\n"),
        ("rank: 8", "rnak: 8", "  lora.rank: (absent) -> 8\n  lora.rnak: 8 -> (absent)\n"),
        ("  path: null\n", "", "  data.path: (absent) -> None\n"),
        ("seed: 7", "<<<<<<<\nseed: 7", ""),
        ("seed: 7", "- a\n", ""),
    ],
)
def test_whatever_is_in_params_yaml_can_be_checked_and_dropped(run, place, old, new, told):
    edit(place / "params.yaml", old, new)
    assert run("--check") == (1, "params.yaml -> conf/\n" + told if told else "", "")
    assert run()[0] == 0
    assert run("--check") == (0, "", "")


def test_a_comment_in_conf_changes_nothing(run, place):
    edit(place / "conf/lora/default.yaml", "rank: 8", "rank: 8 # wide enough")
    assert run("--check") == (0, "", "")


def test_seed_0_is_honoured(run, place):
    assert run("seed=0")[0] == 0
    assert params.loaded().seed == 0
    assert yaml.safe_load((place / "params.yaml").read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("overrides", "sources"),
    [
        (["data=jsonl", "data.path=x"], ("jsonl", "scratch")),
        (["model=local", "model.source=y"], ("conflicts", "y")),
        (["data=jsonl", "data.path=x", "model=local", "model.source=y"], ("jsonl", "y")),
    ],
)
def test_an_experiment_leaves_the_choice_of_data_and_model(overrides, sources):
    config = params.composed(["experiment=smoke", *overrides])
    assert (config.data.source, config.model.source) == sources
    assert config.train.num_steps == 12


def test_an_experiment_leaves_the_choice_of_the_benchmark():
    assert params.composed(["experiment=smoke"]).benchmark.generated_tokens == 8
    config = params.composed(["experiment=smoke", "benchmark=peers"])
    assert config.benchmark.peers is not None


@pytest.mark.parametrize("override", ["experiment=smoke", "+experiment=smoke"])
def test_overrides_are_written(run, override):
    assert run(override, "lora.rank=3")[0] == 0
    assert params.loaded().lora.rank == 3
    assert params.loaded().train.num_steps == params.composed(["experiment=smoke"]).train.num_steps


# What is wrong in conf/ or in an override


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lora.rnak=3"], "unknown key lora.rnak; did you mean lora.rank?"),
        (["+lora.rnak=3"], "unknown key lora.rnak; did you mean lora.rank?"),
        (["lora.rank=abc"], "Value 'abc' of type 'str' could not be converted to Integer"),
        (["lora.rank=0", "seed=-1"], "seed=-1: must be at least 0\n  lora.rank=0: must be at"),
        (["data=jsonl"], "data.path has no value; give one: data.path=..."),
        (["model=local"], "model.source has no value; give one: model.source=..."),
        (["data=jsonl", "data.path=nowhere"], "nowhere: there is no such file or folder"),
        (["experiment=huge"], "Available options in 'experiment':\n\tsmoke"),
        (["lora.rank=["], "no viable alternative at input '['"),
    ],
)
def test_a_wrong_override_is_told_and_nothing_is_written(run, place, arguments, message):
    before = (place / "params.yaml").read_bytes()
    code, _, err = run(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert (place / "params.yaml").read_bytes() == before


def test_texts_beyond_the_positions_of_a_model_are_refused_before_anything_runs(
    run, place, model_folder
):
    before = (place / "params.yaml").read_bytes()
    positions = json.loads((model_folder / "config.json").read_text())["max_position_embeddings"]
    given = "model=local", f"model.source={model_folder}", "benchmark.prompt_tokens=1"
    given += "benchmark.generated_tokens=2", f"validate.sample_tokens={positions + 1}"
    code, _, err = run(*given)
    assert code == 1
    assert f"validate.sample_tokens={positions + 1}: the model has {positions} positions" in err
    assert (place / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rank: 8", "rnak: 8", r"(?s)lora/default.*Key 'rnak' not in.*Did you mean lora\.rank\?"),
        ("rank: 8", "rank: abc", r"(?s)lora/default.*Value 'abc' of type 'str' could not be"),
        ("rank: 8", "", r"lora\.rank has no value; give one: lora\.rank=\.\.\."),
        ("rank: 8", "rank: 8\nbad: : :", r"(?s)mapping values are not allowed.*lora/default\.yaml"),
        ("rank: 8", "rank: ${lora.nowhere}", "Interpolation key 'lora.nowhere' not found"),
        ("rank: 8", "rank: 0", r"lora\.rank=0: must be at least 1"),
    ],
)
def test_a_wrong_conf_file_is_told(place, old, new, message):
    edit(place / "conf/lora/default.yaml", old, new)
    with pytest.raises(ConfigError, match=message):
        params.composed([])


# Under DVC


def test_an_edit_is_refused_with_the_ways_out(run, place, monkeypatch):
    run()
    lock = {"stages": {"params": {"outs": [{"path": "params.yaml", "md5": "0" * 32}]}}}
    (place / "dvc.lock").write_text(yaml.safe_dump(lock))
    monkeypatch.setenv("DVC_STAGE", "params")
    assert run()[0] == 0  # another file than DVC left, but the values of conf/
    edit(place / "params.yaml", "rank: 8", "rank: 9")
    edit(place / "params.yaml", "  path: null", "  path: my rows")
    edit(place / "params.yaml", "batch_size: 32\n  batch", "batch_size: null\n  batch")
    edit(place / "params.yaml", "seed: 7", "seed: 7\nfoo: 1")
    code, _, err = run()
    assert code == 1
    assert err.splitlines() == [
        "ConfigError: params.yaml has been edited, but it is written from conf/. Either set the "
        "values in conf/, or try them with",
        """  dvc exp run -S 'data.path="my rows"' -S lora.rank=9 -S train.batch_size=null""",
        "or drop them with",
        "  python -m stages.params",
    ]
    monkeypatch.delenv("DVC_STAGE")
    assert run()[0] == 0
    assert run("--check")[0] == 0


def test_an_edit_that_no_override_can_make_has_two_ways_out(run, place, monkeypatch):
    (place / "dvc.lock").write_text("stages: {params: {outs: [{md5: other}]}}")
    edit(place / "params.yaml", "seed: 7", "<<<<<<<\nseed: 7")
    monkeypatch.setenv("DVC_STAGE", "params")
    _, _, err = run()
    assert "Either set the values in conf/, or drop them with\n  python -m stages.params" in err


def test_the_commands_that_a_refusal_names_work():
    pairs = {"model.revision": ("a 'b'", None), "lora.targets": (["*.q_proj"], ["*"])}
    with pytest.raises(ConfigError) as caught:
        params.refuse_edit({**pairs, "train.grad_checkpoint": (True, False)})
    command = str(caught.value).splitlines()[1]
    words = subprocess.check_output(["sh", "-c", f"printf '%s\\n' {command}"], text=True)
    config = params.composed(words.splitlines()[4::2])
    assert config.model.revision == "a 'b'"
    assert config.lora.targets == ["*.q_proj"]
    assert config.train.grad_checkpoint is True


def test_an_experiment_keeps_its_values_and_gets_its_fingerprints(run, place, monkeypatch):
    (place / "rows.jsonl").write_text("{}\n")
    config = params.composed(["lora.rank=4", "data=jsonl", "data.path=rows.jsonl"])
    (place / "params.yaml").write_text(OmegaConf.to_yaml(config))
    monkeypatch.setenv("DVC_EXP_NAME", "able-exp")
    assert run() == (0, "params.yaml is as `dvc exp run` composed it for able-exp\n", "")
    assert params.loaded().lora.rank == 4
    assert list(params.loaded().inputs.data) == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rank: 8", "rank: 0", "lora.rank=0: must be at least 1"),
        ("rank: 8", "rank: abc", "ConfigError: params.yaml: Value 'abc' of type 'str'"),
        ("rank: 8", "rank: 8\n  rnak: 9", "Did you mean lora.rank?"),
    ],
)
def test_an_experiment_with_wrong_values_is_refused(run, place, monkeypatch, old, new, message):
    edit(place / "params.yaml", old, new)
    monkeypatch.setenv("DVC_EXP_NAME", "able-exp")
    code, _, err = run()
    assert code == 1
    assert message in err


def test_a_changed_external_file_is_refused_until_params_is_run_again(run, place):
    (place / "rows.jsonl").write_text("{}\n")
    rows = ("data=jsonl", "data.path=rows.jsonl")
    run(*rows)
    inputs.check_unchanged(params.loaded(), *inputs.PARTS)
    (place / "rows.jsonl").write_text("{}\n{}\n")
    with pytest.raises(
        PipelineError, match=r"rows\.jsonl: differs\nRun `python -m stages\.params`"
    ):
        inputs.check_unchanged(params.loaded(), "data")
    run(*rows)
    inputs.check_unchanged(params.loaded(), *inputs.PARTS)


def test_a_recalled_hash_is_told_and_can_be_computed_anew(run, place, capsys, monkeypatch):
    (place / "rows.jsonl").write_text("{}\n")
    rows = ("data=jsonl", "data.path=rows.jsonl")
    run(*rows)
    _, out, _ = run(*rows)
    assert "inputs: 1 file (3 bytes) not read again" in out
    files.RECALLED.clear()
    _, out, _ = run("--rehash", *rows)
    assert "not read again" not in out


# A real DVC, in a copy of the repository


class Repository:
    """A git repository with the project in it, every stage recorded as done."""

    def __init__(self, folder):
        self.folder = folder
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
        (folder / ".gitignore").write_text("__pycache__\n")
        kept = {name: os.environ[name] for name in os.environ if not name.startswith("DVC_")}
        person = {"NAME": "nobody", "EMAIL": "nobody@example.org"}
        self.environment = {
            **kept,
            **{
                f"GIT_{who}_{key}": person[key] for who in ("AUTHOR", "COMMITTER") for key in person
            },
            "GIT_CONFIG_GLOBAL": os.devnull,
            "HOME": str(folder.parent),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.git("init", "--quiet")
        for stage in yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].values():
            self.make_outputs(stage)
        self.done("dvc", "commit", "--force")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "Start")

    def make_outputs(self, stage):
        entries = [item for kind in ("metrics", "plots") for item in stage.get(kind, [])]
        files = [item if isinstance(item, str) else next(iter(item)) for item in entries]
        folders = [item for item in stage.get("outs", []) if isinstance(item, str)]
        for name in files + [f"{folder}/file" for folder in folders]:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text("{}" if name.endswith(".json") else "step\n1\n")

    def run(self, *command):
        if command[0] == "python":
            command = (sys.executable, *command[1:])
        if command[0] == "dvc":
            command = (sys.executable, "-m", *command)
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def done(self, *command):
        result = self.run(*command)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def git(self, *arguments):
        return self.done("git", *arguments)

    def stale(self):
        return set(json.loads(self.done("dvc", "status", "--json")))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def repository(copy):
    """Give the copy as it was committed."""
    copy.git("reset", "--quiet", "--hard")
    yield copy
    copy.git("reset", "--quiet", "--hard")


def test_all_is_up_to_date_when_nothing_has_changed(repository):
    assert repository.stale() == set()


def test_a_comment_in_conf_reruns_nothing_but_params(repository):
    edit(repository.folder / "conf/lora/default.yaml", "rank: 8", "rank: 8 # wide enough")
    assert repository.stale() == {"params"}
    assert repository.done("dvc", "repro", "params")
    assert repository.stale() == set()


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("lora.rank=9", {"train"}),
        ("seed=0", {"prepare", "weights", "train", "benchmark"}),
        ("data.validation_fraction=0.3", {"prepare"}),
    ],
)
def test_a_key_reruns_the_stages_that_read_it(repository, override, stages):
    repository.done("python", "-m", "stages.params", override)
    assert repository.stale() == {"params"} | stages


def test_dvc_repro_refuses_an_edit_with_the_ways_out(repository):
    edit(repository.folder / "params.yaml", "rank: 8", "rank: 9")
    result = repository.run("dvc", "repro")
    assert result.returncode != 0
    assert "params.yaml has been edited, but it is written from conf/" in result.stderr
    assert "\n  dvc exp run -S lora.rank=9\n" in result.stderr
    assert repository.git("diff", "--stat").count("|") == 1
    assert "rank: 9" in (repository.folder / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rank=abc", "Value 'abc' of type 'str' could not be converted to Integer"),
        ("lora.rnak=9", "Could not override 'lora.rnak'"),
    ],
)
def test_dvc_exp_run_refuses_before_anything_is_touched(repository, override, message):
    result = repository.run("dvc", "exp", "run", "-S", override)
    assert result.returncode != 0
    assert message in result.stderr
    assert repository.git("status", "--short") == ""


def test_dvc_exp_run_takes_its_values_to_params_yaml(repository):
    out = repository.done("dvc", "exp", "run", "-S", "lora.rank=4", "params")
    assert "params.yaml is as `dvc exp run` composed it for" in out
    written = OmegaConf.load(repository.folder / "params.yaml")
    assert written.lora.rank == 4
    assert written.inputs == {"data": {}, "tokenizer": {}, "model": {}, "init_from": {}}


def test_a_stage_refuses_files_that_changed_since_params(repository):
    rows = repository.folder / "rows.jsonl"
    rows.write_text('{"text": "one"}\n')
    repository.done("python", "-m", "stages.params", "data=jsonl", "data.path=rows.jsonl")
    rows.write_text('{"text": "two or three"}\n')
    result = repository.run("python", "-m", "stages.prepare", "-cn", "repro")
    rows.unlink()
    assert result.returncode == 1
    assert result.stderr.endswith(
        "PipelineError: External files changed since params.yaml was written:\n"
        f"  rows.jsonl: differs\n{inputs.REMEDY}\n"
    )


@pytest.mark.parametrize(
    "override",
    [
        "train._target_=os.system",
        "+train._target_=os.system",
        "+_target_=os.system",
        "train.num_steps=-1",
        "train.num_steps=1e400",
        "train.num_steps=nan",
        "train.num_steps=100000000000000000000",
        "model.scratch.num_hidden_layers=1000000000",
        "optim.learning_rate=-inf",
        "optim.learning_rate=abc",
        "optim.learning_rate=true",
        "optim.learning_rate=null",
        "lora.targets=q_proj",
        "data.path=${oc.env:NOT_SET_ANYWHERE}",
        "train.num_steps.x=1",
        "~train.num_steps",
        "=1",
        "a[b]=c",
        "train.resume='; rm -rf /'",
    ],
)
def test_hostile_overrides_are_refused_with_a_message(override):
    with pytest.raises(ConfigError) as caught:
        params.composed([override])
    assert str(caught.value)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_override_does_anything_but_compose_or_be_refused(text):
    try:
        composed = params.composed([text])
    except ConfigError as error:
        composed, message = None, str(error)
    assert message if composed is None else OmegaConf.missing_keys(composed) == set()


@pytest.mark.parametrize("override", ["lora.rank=-3", "optim.learning_rate=abc", "data=jsonl"])
def test_what_only_the_ranges_refuse_is_refused_before_dvc_touches_anything(repository, override):
    done = repository.run("dvc", "exp", "run", "-S", override)
    assert done.returncode != 0
    assert "These parameters cannot be used:\n" in done.stderr
    assert re.search(
        r"must be at least|must be a number, or auto|data\.path has no value", done.stderr
    )
    assert repository.git("status", "--porcelain") == ""


# Damaged files


def test_a_params_yaml_that_is_no_text_is_written_anew(run, place):
    with (place / "params.yaml").open("ab") as file:
        file.write(b"\xff\xfe")
    assert run("--check")[0] == 1
    assert run()[0] == 0
    assert run("--check") == (0, "", "")


def test_an_experiment_with_a_params_yaml_that_is_no_text_names_the_file(run, place, monkeypatch):
    (place / "params.yaml").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(command_line, "ROOT", place)
    monkeypatch.setattr(command_line, "CONF", place / "conf")
    monkeypatch.setenv("DVC_EXP_NAME", "able-exp")
    code, _, err = run()
    assert code == 1
    assert "These files are no text in UTF-8:\n  params.yaml\n`python -m stages.params`" in err


@pytest.mark.parametrize("text", ["stages: {params: {outs: [", "[]", "stages:\n", "\0"])
def test_a_damaged_dvc_lock_is_no_edit_of_params_yaml(run, place, monkeypatch, text):
    (place / "dvc.lock").write_text(text)
    edit(place / "params.yaml", "rank: 8", "rank: 9")
    monkeypatch.setenv("DVC_STAGE", "params")
    assert run()[0] == 0
    assert run("--check") == (0, "", "")
