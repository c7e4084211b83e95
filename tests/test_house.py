"""The house: imports go down, DVC knows what each stage reads, conf/ and README are right."""

import ast
import dataclasses
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from mlx_lm.models.llama import ModelArgs as LlamaArgs
from omegaconf import OmegaConf

from pipeline.config import keys, rules
from pipeline.config.arguments import take_flags, usual_spelling
from pipeline.config.graph import maker_of, sections_of, stages_before
from pipeline.config.stage import refuse_foreign_overrides
from pipeline.errors import PipelineError
from stages import params
from tests.support.documents import DOCUMENTS, documented_commands, shell_commands
from tests.support.messages import commands_in_messages
from tools import dvc_deps
from tools.import_graph import EXEMPT, ROOT, computing, imports, reached, stages
from tools.measure import untested

# Imports

ROWS = {
    0: ["errors", "files"],
    1: ["blas", "console", "device", "external", "machine", "summary", "sums"],
    2: ["config"],
    3: ["data"],
    4: ["model"],
    5: ["objective", "optim"],
    6: ["generate", "train"],
    7: ["evaluate", "formats"],
    8: ["benchmark"],
}
PARTS = {part: row for row, parts in ROWS.items() for part in parts}
PACKAGES = {
    "data",
    "model",
    "objective",
    "optim",
    "train",
    "generate",
    "evaluate",
    "formats",
    "benchmark",
}
MAY_IMPORT = {
    "mlx": {"pipeline/device.py"},
    "mlx_lm": {
        "pipeline/benchmark/peers/mlx_lm_lora.py",  # mlx-lm itself, in a process of its own
        "pipeline/generate/greedy.py",
        "pipeline/model/network/upstream.py",
    },
}
DECLARED = {f"pipeline/config/{name}.py" for name in ("options", "optimizers", "rules", "schema")}
"""They name every key, and use none."""
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("pipeline", "stages", "hydra_plugins")
    for path in (ROOT / folder).rglob("*.py")
)


def part_of(file):
    """Name the part of pipeline/ that a file belongs to."""
    return Path(file).parts[1].removesuffix(".py")


def may_import(importer, imported):
    """Say whether a part of pipeline/ may import another one."""
    if importer == imported:
        return True
    same_row = PARTS[importer] == PARTS[imported]
    return PARTS[imported] < PARTS[importer] or (same_row and not {importer, imported} & PACKAGES)


def inner_imports(file):
    """List the project's files that a file imports, packages without code apart."""
    return {other for other in imports(file) if (ROOT / other).stat().st_size}


def outside_imports(file):
    """List the top-level packages that a file imports, inside functions too."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("train", "model", True),
        ("train", "train", True),
        ("device", "blas", True),
        ("train", "generate", False),
        ("evaluate", "formats", False),
        ("model", "train", False),
        ("errors", "config", False),
    ],
)
def test_the_rule_of_the_rows(importer, imported, allowed):
    assert may_import(importer, imported) is allowed


@pytest.mark.parametrize("file", [file for file in MODULES if (ROOT / file).stat().st_size])
def test_imports_follow_the_rows(file):
    if file.startswith("pipeline/"):
        wrong = [
            other
            for other in inner_imports(file)
            if other.startswith("stages/") or not may_import(part_of(file), part_of(other))
        ]
    elif file.startswith("stages/"):
        wrong = [other for other in inner_imports(file) if other.startswith("stages/")]
    else:
        wrong = sorted(
            inner_imports(file) - {"pipeline/config/rules.py", "pipeline/config/schema.py"}
        )
    assert wrong == []


def test_there_are_no_import_cycles():
    done = set()

    def visit(file, path):
        assert file not in path, " -> ".join([*path[path.index(file) :], file])
        if file not in done:
            for other in imports(file):
                visit(other, [*path, file])
            done.add(file)

    for file in MODULES:
        visit(file, [])
    assert done == set(MODULES)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_mlx_is_imported_in_one_place(package):
    assert {file for file in MODULES if package in outside_imports(file)} == MAY_IMPORT[package]


def test_there_are_no_reexports():
    packages = [ROOT / "pipeline", *(ROOT / "pipeline" / part for part in PACKAGES)]
    inits = [package / "__init__.py" for package in packages if package.exists()]
    assert [path for path in inits if path.stat().st_size] == []
    before = {"config/faults", "errors", "external/offline"}  # what other imports may need
    assert inner_imports("stages/__init__.py") == {f"pipeline/{name}.py" for name in before}
    assert not [file for file in MODULES if "util" in file]


# The graph


def called(stage_name, function):
    """List the strings that a stage's module gives to a function, such as `paths.read`."""
    for node in ast.walk(ast.parse((ROOT / f"stages/{stage_name}.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
            yield from (item.value for item in node.args if isinstance(item, ast.Constant))


HYDRA_STAGES = [name for name in stages() if name != "params"]
BY_HAND = ["generate"]
"""Stages with parameters that are no part of the graph."""


@pytest.mark.parametrize("name", HYDRA_STAGES)
def test_dvc_knows_what_a_stage_depends_on(name):
    data = set(called(name, "paths.read"))
    assert all(maker_of(item) not in ("", name) for item in data)
    others = {dep for dep in stages()[name]["deps"] if not dep.startswith(dvc_deps.CODE)}
    assert others == data
    assert stages()[name]["deps"] == dvc_deps.deps_of(name)


@pytest.mark.parametrize("name", HYDRA_STAGES)
def test_a_folder_that_a_stage_depends_on_holds_nothing_that_it_does_not_reach(name):
    files = computing(f"stages/{name}.py")
    code = [dep for dep in stages()[name]["deps"] if dep.startswith(dvc_deps.CODE)]
    named = [{dep} if dep.endswith(".py") else dvc_deps.code_in(Path(dep)) for dep in code]
    assert set().union(*named) == files


def test_files_become_a_folder_where_they_are_all_that_it_holds():
    blas = {f"pipeline/blas/{name}.py" for name in ("choose", "library", "shim")}
    assert dvc_deps.folded(blas | {"pipeline/device.py"}) == ["pipeline/blas", "pipeline/device.py"]
    assert dvc_deps.folded(blas - {"pipeline/blas/shim.py"}) == [
        "pipeline/blas/choose.py",
        "pipeline/blas/library.py",
    ]


def test_deps_are_written_where_they_are_wrong():
    text = dvc_deps.FILE.read_text()
    assert dvc_deps.rewritten(text) == text
    spoilt = text.replace("      - pipeline/blas\n", "      - pipeline/blos\n")
    assert spoilt != text
    assert dvc_deps.rewritten(spoilt) == text


@pytest.mark.parametrize("name", HYDRA_STAGES)
def test_dvc_knows_which_parameters_a_stage_reads(name):
    assert stages()[name]["params"] == list(called(name, "stage"))
    assert set(called(name, "stage")) <= keys.known_names() | {
        f"inputs.{part}" for part in ("data", "tokenizer", "model", "init_from")
    }


@pytest.mark.parametrize("name", HYDRA_STAGES)
def test_dvc_runs_a_stage_by_its_module(name):
    assert stages()[name]["cmd"] == f"python -m stages.{name} -cn repro"


def test_dvc_knows_what_params_depends_on():
    description = stages()["params"]
    assert description["cmd"] == "python -m stages.params"
    code = {dep for dep in description["deps"] if not dep.startswith(EXEMPT)}
    assert computing("stages/params.py") <= code
    source = {f"pipeline/model/source/{name}.py" for name in ("facts", "folder", "spelling")}
    models = {"pipeline/model/limits.py", *source}
    assert code == {"conf", *models, "stages/params.py"}


LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*(module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", 0)))
"""


@pytest.mark.parametrize("name", list(stages()))
def test_nothing_is_imported_that_the_graph_does_not_show(name):
    command = [sys.executable, "-c", LOADED, f"stages.{name}"]
    files = subprocess.check_output(command, cwd=ROOT, text=True).split()
    ours = {file.removeprefix(f"{ROOT}/") for file in files if file.startswith(f"{ROOT}/pipeline/")}
    loaded = {file for file in ours if (ROOT / file).stat().st_size}
    assert loaded
    assert loaded <= reached(f"stages/{name}.py") | reached("stages/__init__.py")


# Parameters


def test_params_yaml_is_what_conf_gives():
    committed = OmegaConf.load(ROOT / "params.yaml")
    assert params.values(committed) == params.values(params.composed([]))
    assert set(committed.inputs) == {"data", "tokenizer", "model", "init_from"}


@cache
def words_of(file):
    """List the names and strings in a module: attributes, keywords, fields, literals."""
    kinds = {ast.Attribute: "attr", ast.keyword: "arg", ast.Constant: "value"}
    tree = ast.walk(ast.parse((ROOT / file).read_text()))
    found = [getattr(node, kinds[type(node)]) for node in tree if type(node) in kinds]
    tree = ast.walk(ast.parse((ROOT / file).read_text()))
    fields = [ast.unparse(node.target) for node in tree if isinstance(node, ast.AnnAssign)]
    return {word for word in [*found, *fields] if isinstance(word, str)}


def test_every_key_is_read_by_some_code():
    read = set().union(*(words_of(file) for file in MODULES if file not in DECLARED))
    shapes = "model.scratch", "benchmark.peers.model", "benchmark.peers.large_vocabulary"
    fields = dataclasses.fields(LlamaArgs)
    shape = {f"{section}.{field.name}" for section in shapes for field in fields}
    names = [name for name, _ in keys.leaves() if name not in shape]
    assert [name for name in names if name.split(".")[-1] not in read] == []


def test_every_key_belongs_to_a_stage():
    read = [called(name, "stage") for name in (*HYDRA_STAGES, *BY_HAND)]
    sections = set().union(*read)
    names = [name for name, _ in keys.leaves() if name != "inputs"]
    assert [name for name in names if not keys.inside(name, sections)] == []


def composed_by_hand(overrides):
    """Compose what a stage reads that is only run by hand."""
    return params.composed(overrides, "by_hand")


CONF = sorted(path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml"))


@pytest.mark.parametrize("file", [file for file in CONF if len(file.parts) > 1], ids=str)
def test_every_file_of_conf_can_be_chosen(file):
    group, option = file.parent.as_posix(), file.stem
    text = (ROOT / "conf" / file).read_text()
    asked = OmegaConf.missing_keys(OmegaConf.create(text))
    composed = composed_by_hand if group in BY_HAND else params.composed
    config = composed([f"{group}={option}", *(f"{file.parts[0]}.{key}=some" for key in asked)])
    rules.check_values(config)


def test_conf_gives_every_value_but_those_it_asks_for():
    asked = [path for path in CONF if "???" in (ROOT / "conf" / path).read_text()]
    assert [str(path) for path in asked] == [
        "data/huggingface.yaml",
        "data/jsonl.yaml",
        "model/local.yaml",
    ]
    assert OmegaConf.missing_keys(params.composed([])) == set()


def test_conf_does_not_depend_on_the_machine():
    texts = {path: (ROOT / "conf" / path).read_text() for path in CONF}
    assert not [path for path, text in texts.items() if "${oc.env" in text]
    assert not [path for path in CONF if path.name == "dvc.yaml"]
    assert "${" not in (ROOT / "dvc.yaml").read_text()


# Documents

SHELL = {".", "cd", "export", "source", "git", "curl", "uv", "brew", "open"}


def problem_with(command):
    """Say why a command cannot run here; None if it can."""
    program, *arguments = command
    try:
        if program == "make":
            return problem_with_make(arguments)
        if program == "dvc":
            return problem_with_dvc(arguments)
        if program in ("python", "python3"):
            return problem_with_python(arguments)
    except PipelineError as error:
        return str(error)
    found = program in SHELL or shutil.which(program, path=str(Path(sys.executable).parent))
    return None if found or shutil.which(program) else f"no program {program}"


def problem_with_make(arguments):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = [item for item in arguments if "=" not in item and item not in targets]
    return f"no target {unknown}" if unknown else None


def problem_with_dvc(arguments):
    try:
        options = get_main_parser().parse_args(arguments)
    except Exception as error:
        return f"dvc does not take this: {error!r}"
    unknown = [name for name in vars(options).get("targets") or [] if name not in stages()]
    if unknown and options.cmd in ("repro", "exp"):
        return f"no stage {unknown}"
    params.composed(one_job(vars(options).get("set_param") or []))
    return None


def problem_with_python(arguments):
    if arguments[:1] != ["-m"]:
        return None if Path(ROOT, arguments[0]).exists() else f"no file {arguments[0]}"
    name, *rest = usual_spelling(arguments[1:])
    if importlib.util.find_spec(name) is None:
        return f"no module {name}"
    if not name.startswith("stages."):
        return None
    known = getattr(importlib.import_module(name).main, "flags", ())
    rest, found = take_flags(rest, known)
    flags = {"-m", "--multirun", "--help", "--cfg", "job", "-cn", "repro"}
    flags |= {"--check", "--rehash", "--hardware"}
    wrong = [item for item in rest if "=" not in item and item not in flags]
    given = [item for item in rest if "=" in item and not item.startswith("inputs=")]
    stage_name = name.split(".")[1]
    (composed_by_hand if stage_name in BY_HAND else params.composed)(one_job(given))
    takes_all = any(flag.takes_all for flag in known if flag.name in found)
    if stage_name != "params" and not takes_all:
        earlier = [sections_of(each) for each in stages_before(stage_name)]
        refuse_foreign_overrides(given, tuple(called(stage_name, "stage")), sum(earlier, ()))
    return f"no option {wrong}" if wrong else None


def one_job(overrides):
    """Take the first value of each sweep."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{item.get_key_element()}={next(iter(item.sweep_string_iterator()))}"
        if item.is_sweep_override()
        else item.input_line
        for item in parsed
    ]


@pytest.mark.parametrize("command", documented_commands())
def test_every_command_of_the_documents_can_run(command):
    assert problem_with(shlex.split(command)) is None


@pytest.mark.parametrize("command", commands_in_messages())
def test_every_command_of_a_message_can_run(command):
    assert problem_with(shlex.split(command)) is None


@pytest.mark.parametrize(
    "command",
    [
        "make repro",
        "make env BACKEND=cuda12",
        "python -m stages.train lora.rank=8 train.num_steps=10",
        "python -m stages.train -m lora.rank=2,4,8",
        "python -m stages.export inputs=runs/train/TIME",
        "python -m stages.params experiment=smoke",
        "python -m stages.prepare --explain rows.jsonl data/provenance=heuristic",
        "python -m stages.prepare --explain TEXT data.provenance.tables.institutions.WHO=1",
        "python -m stages.train --plan hardware=mac_16gb",
        "python -m stages.generate inputs=runs/train/TIME --prompt - generate.max_tokens=9",
        "python -m stages.train --plan train.batch_size=16 data.max_seq_len=2048",
        "python -m stages.params --hardware",
        "dvc exp run --queue -S lora.rank=2,4 -S experiment=smoke",
        "dvc repro train",
        "dvc metrics diff main",
        "git clone https://example.org/x",
    ],
)
def test_a_good_command_passes(command):
    assert problem_with(shlex.split(command)) is None


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("make reproduce", "no target"),
        ("python -m stages.trian", "no module"),
        ("python -m stages.train lora.rnak=8", "did you mean lora.rank"),
        ("python -m stages.train lora.rank=0", "must be at least 1"),
        ("python -m stages.train validate.documents=3", "this stage reads only"),
        ("python -m stages.prepare lora.rank=3", "this stage reads only"),
        ("python -m stages.weights optim=sgd", "this stage reads only"),
        ("python -m stages.prepare data/provenence=heuristic", "did you mean data.provenance"),
        ("python -m stages.prepare --explain", "write --explain FILE"),
        ("python -m stages.export --plan", "no option"),
        ("python -m stages.generate --prompt Hi generate.max_tokens=0", "must be at least 1"),
        ("python -m stages.train --verbose", "goes with --plan"),
        ("python -m stages.prepare data.provenance.tables.years=[1]", "choose data/provenance"),
        ("python -m stages.train status=true", "write --status"),
        ("python -m stages.train -m lora.rank=x,2", "could not be converted"),
        ("python -m stages.train --dry-run", "no option"),
        ("python setup.py", "no file"),
        ("dvc reproduce", "dvc does not take this"),
        ("dvc repro trian", "no stage"),
        ("dvc exp run -S lora.rank=abc", "could not be converted"),
        ("tidewheel train", "no program"),
    ],
)
def test_a_wrong_command_is_noticed(command, problem):
    assert problem in problem_with(shlex.split(command))


def test_commands_are_found_in_shell_blocks():
    text = (
        "```bash\nA=1 make repro  # long\ncd x && dvc \\\n repro | head\n```\n"
        "```python\nimport x\n```\n```console\n$ make test\noutput\n```\n"
    )
    assert list(shell_commands(text)) == [
        ["make", "repro"],
        ["cd", "x"],
        ["dvc", "repro"],
        ["head"],
        ["make", "test"],
    ]


def too_wide(text):
    """List the lines over 110 characters, and the table cells over 120."""
    lines = text.splitlines()
    cells = [cell.strip() for line in lines if line.startswith("|") for cell in line.split("|")]
    prose = [line for line in lines if not line.startswith("|")]
    return [line for line in prose if len(line) > 110] + [cell for cell in cells if len(cell) > 120]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_fits_on_a_screen(name):
    assert too_wide((ROOT / name).read_text()) == []


def test_wide_lines_and_cells_are_noticed():
    wide = ["x" * 111, f"| a | {'y' * 121} |", f"| a | {'z' * 120} |"]
    assert too_wide("\n".join(wide)) == ["x" * 111, "y" * 121]


# Tests

UNTESTED = {
    "pipeline/config/declare.py": "declares keys: tests/config/test_rules.py checks values by it",
    "pipeline/config/optimizers.py": "declares keys: tests/optim/test_optimizer.py sets them all",
    "pipeline/config/schema.py": "declares keys: tests/config/test_rules.py checks values by it",
    "pipeline/data/sources/stdlib.py": "tests/external/test_stdlib.py reads rows with it",
    "pipeline/model/prefix.py": "tests/train/prefix/test_replay.py replays it",
    "pipeline/train/plan/request.py": "tests/train/supervise/test_supervisor.py plans runs with it",
    "pipeline/train/worker/link.py": "tests/train/supervise/test_supervisor.py runs both ends",
    "pipeline/train/worker/serve.py": "tests/train/supervise/test_supervisor.py runs it",
}
"""Modules with functions that are tested through others, and where."""


def test_every_module_has_its_test_module_or_a_reason():
    assert set(untested(ROOT)) == UNTESTED.keys()
    assert len(UNTESTED) <= 15
    named = re.findall(r"tests/[\w/]+\.py", " ".join(UNTESTED.values()))
    assert all((ROOT / name).is_file() for name in named)


# Files

MACHINE = re.compile(r"(?<![\w.:/~$}*-])/(?:home|Users|root|mnt|work|workspace|private)/\w+")


@pytest.mark.parametrize(
    ("text", "names"),
    [("see " + "/home" + "/me/x", True), ("https://x.org/home/me", False), ("a/work/b", False)],
)
def test_paths_of_a_machine_are_noticed(text, names):
    assert bool(MACHINE.search(text)) is names


def test_no_file_names_a_path_of_a_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository: which files are tracked is not known")
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    files = [ROOT / name for name in tracked if name and (ROOT / name).is_file()]
    texts = {file: file.read_text(errors="ignore") for file in files}
    found = {file.name: MACHINE.findall(text) for file, text in texts.items()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_a_stage_fits_on_a_page():
    files = [ROOT / f"stages/{name}.py" for name in (*HYDRA_STAGES, *BY_HAND)]
    lengths = {file.stem: file.read_text().count("\n") for file in files}
    assert {name: length for name, length in lengths.items() if length >= 100} == {}


def test_dvc_yaml_is_read_as_dvc_reads_it():
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    files = {path for plot in described["plots"] for entry in plot.values() for path in entry["y"]}
    assert {maker_of(path) for path in files} <= set(stages())
    assert all(maker_of(item["path"]) for item in described["artifacts"].values())


def entries(kind):
    """List the outputs of one kind in dvc.yaml, each with its options."""
    for description in stages().values():
        for entry in description.get(kind, []):
            yield from (entry if isinstance(entry, dict) else {entry: {}}).items()


def test_git_keeps_the_figures_that_people_compare_and_what_is_drawn():
    outs, metrics, plots = (dict(entries(kind)) for kind in ("outs", "metrics", "plots"))
    assert set(metrics) == {"metrics/summary.json", "metrics/machine.json"}
    options = {**outs, **metrics, **plots}
    in_git = {name for name in options if options[name].get("cache") is False}
    assert in_git == {"params.yaml", *metrics, *plots}


@pytest.mark.parametrize("folder", ["metrics", "plots"])
def test_git_ignores_what_the_cache_of_dvc_holds(folder):
    ignored = set((ROOT / folder / ".gitignore").read_text().split())
    cached = {name for name, _ in entries("outs") if name.startswith(f"{folder}/")}
    assert ignored == {"/.*", "!/.gitignore", *(name.removeprefix(folder) for name in cached)}


def test_dvc_draws_pictures_and_columns_that_there_are():
    curves = {name: options for name, options in entries("plots") if not name.endswith(".png")}
    drawn = [(name, options["x"], options["y"]) for name, options in curves.items()]
    for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]:
        for options in plot.values():
            drawn += [(name, options["x"], y) for name, y in options["y"].items()]
    for name, *columns in drawn:
        header = (ROOT / name).read_text().splitlines()[0].split(",")
        assert set(columns) <= set(header), name
