"""`@stage`: a Hydra entrypoint that sees the parameters it names, and no others.

By hand (`python -m stages.train lora.rank=8`) a stage reads `conf/` and writes under `runs/`.
Under DVC (`-cn repro`) it reads params.yaml and writes where dvc.yaml says. Nothing else differs.
"""

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import keys, rules, run_folders
from pipeline.config.arguments import Flag, check_arguments, take_flags, usual_spelling
from pipeline.config.command_line import (
    COMPOSITION_ERRORS,
    composition_error,
    explain_null_sections,
    help_as_text,
    help_text,
    module_name,
)
from pipeline.config.composition import composed
from pipeline.config.earlier_runs import earlier_runs
from pipeline.config.earlier_stages import resolve_inputs, with_earlier_stages
from pipeline.config.faults import fault_behind, report, storage_error
from pipeline.config.graph import dvc_stages, folders_of, makers, sections_of, stages_before
from pipeline.config.groups import CONF, contents, options
from pipeline.config.outputs import OutputLock
from pipeline.config.overrides import key_in, overrides_in, without
from pipeline.config.records import record_of
from pipeline.config.schema import Params
from pipeline.config.stage_paths import Paths, data_hashes
from pipeline.console import logging_to, print_line, write_log
from pipeline.errors import ConfigError, PipelineError, report_problems
from pipeline.external.dvc_parent import end_with_dvc
from pipeline.files import ROOT
from pipeline.machine import PeakMeter
from pipeline.summary import result_line, use_lines

USED = ("train", "validate")
"""Stages after which the commands that use a model are printed."""


def select(config: DictConfig, names: tuple[str, ...]) -> DictConfig:
    """Copy the named sections and keys; to ask for any other one is an error."""
    chosen = OmegaConf.create({})
    for name in names:  # inputs are null by hand
        OmegaConf.update(chosen, name, OmegaConf.select(config, name), force_add=True)
    OmegaConf.set_struct(chosen, True)
    return chosen


def refuse_foreign_overrides(
    overrides: list[str], names: tuple[str, ...], earlier: tuple[str, ...] = ()
) -> None:
    """Refuse an override that nothing would read, rather than ignore it.

    Args:
        overrides: of the command.
        names: the sections and keys that the stage reads.
        earlier: those that stages before it read, which may have to be run.

    Raises:
        ConfigError: with the sections that it does read.
    """
    read = (*names, *earlier, "inputs")
    foreign = [item for item in overrides if not keys.concerns(key_in(item), read)]
    headline = f"this stage reads only {', '.join(names)}, and not:"
    remedy = "Set them for the stage that reads them, or for all stages:\n  dvc exp run "
    sets = " ".join(f"-S {shlex.quote(item)}" for item in without(overrides, "inputs"))
    report_problems(ConfigError, headline, foreign, remedy + sets)


def takes_all(flags: tuple[Flag, ...], given: Collection[str]) -> bool:
    """Whether one of the given flags lets a stage read all sections."""
    return any(flag.takes_all for flag in flags if flag.name in given)


def complete(config: DictConfig) -> DictConfig:
    """Add the types of the schema to values of params.yaml, and resolve all references.

    Raises:
        ConfigError: when a value has the wrong type, or a reference leads nowhere.
    """
    try:
        config = config if OmegaConf.get_type(config) is Params else keys.typed(config)
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise composition_error(error, []) from error
    return config


def refuse_local_effects(local: str | None) -> None:
    """Refuse settings of this machine that would change a result.

    Raises:
        ConfigError: with every key of the file that may not be there.
    """
    if local not in options("local"):
        return
    may = rules.WITHOUT_EFFECT - {"inputs"}
    wrong = [key for key, _ in keys.flat(contents("local", local)) if not keys.inside(key, may)]
    report_problems(
        ConfigError,
        f"conf/local/{local}.yaml may set only what cannot change a result, and not:",
        wrong,
        "Set them in conf/ or on the command line. It may set " + ", ".join(sorted(may)) + ".",
    )


def stage(
    *names: str, flags: tuple[Flag, ...] = (), alone: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function of (config, paths) the entrypoint of a stage.

    Args:
        names: the sections and keys of the configuration that the stage reads.
        flags: arguments that are no parameters; those given are passed on to the function by name.
        alone: choices with which it reads nothing that other stages write.
    """

    def decorate(function: Callable[..., Any]) -> Any:  # noqa: ANN401
        given: dict[str, Any] = {}

        def work(config: DictConfig) -> Any:  # noqa: ANN401
            hydra_run = HydraConfig.get()
            out, is_single = Path(hydra_run.runtime.output_dir), hydra_run.mode == RunMode.RUN
            log = out / f"{hydra_run.job.name}.log"
            with ExitStack() as stack:
                if is_single:
                    stack.enter_context(remove_if_unused(out, log, bool(given)))
                if out.resolve() != ROOT and not given:
                    stack.enter_context(logging_to(log))
                meter = stack.enter_context(PeakMeter())
                config = complete(config)
                rules.check_values(config, names)
                refuse_local_effects(hydra_run.runtime.choices.get("local@_global_"))
                paths = Paths(out, earlier_runs(config.inputs, out, makers()), meter)
                config.inputs = config.inputs if isinstance(config.inputs, DictConfig) else None
                chosen = config if takes_all(flags, given) else select(config, names)
                with nullcontext() if given else writing(hydra_run.job.name, out):
                    result = function(chosen, paths, **given)
                if not given:
                    finish(hydra_run.job.name, config, paths)
                    if is_single:  # a sweep ends with its table
                        print_place(hydra_run.job.name, out)
            return result

        @functools.wraps(function)
        def run(config: DictConfig) -> Any:  # noqa: ANN401
            try:
                return work(config)
            except Exception as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise  # Hydra goes on with the next job, and names the overrides of this one
                failures.append(error)  # past Hydra, which prints a line of its own

        failures: list[Exception] = []
        main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="by_hand")(run)

        @functools.wraps(function)
        def entrypoint() -> None:
            sys.exit(enter(main, Command(function, names, flags, alone), given, failures))

        entrypoint.sections, entrypoint.flags = names, flags  # type: ignore[attr-defined]
        return entrypoint

    return decorate


@contextmanager
def writing(stage_name: str, out: Path) -> Iterator[None]:
    """Hold the lock on the outputs of a stage, and end with the `dvc` that started it.

    Raises:
        StorageError: when another process of the stage writes there.
    """
    lock = OutputLock(stage_name, out)
    with lock.held([name for name, maker in makers().items() if maker == stage_name]):
        end_with_dvc(lock.note_ending)
        yield


@dataclass(frozen=True)
class Command:
    """A stage as a user starts it.

    Attributes:
        function: describes the stage.
        names: the sections and keys that it reads.
        flags: those that it takes.
        alone: choices with which it reads nothing that other stages write.
    """

    function: Callable[..., Any]
    names: tuple[str, ...]
    flags: tuple[Flag, ...]
    alone: tuple[str, ...]

    @property
    def stage_name(self) -> str:
        """The name of the stage."""
        return module_name(self.function).removeprefix("stages.")

    def settle(self, arguments: list[str], given: dict[str, Any]) -> list[str]:
        """Return the arguments for Hydra; earlier stages whose outputs are missing have run.

        Args:
            arguments: what the user has typed.
            given: where to put the flags among them.
        """
        arguments, found = take_flags(arguments, self.flags)
        given.update(found)
        check_arguments(arguments)
        earlier = [sections_of(name) for name in stages_before(self.stage_name)]
        if not takes_all(self.flags, given):
            refuse_foreign_overrides(overrides_in(arguments), self.names, sum(earlier, ()))
        arguments = resolve_inputs(arguments)
        options = {item for item in arguments if item.startswith("-")}
        if given or options - {"-m", "--multirun"}:  # a question, or a run of DVC
            return arguments
        if set(arguments) & set(self.alone):
            return arguments
        return with_earlier_stages(self.stage_name, self.names, arguments)


def enter(
    main: Callable[[], Any], command: Command, given: dict[str, Any], failures: list[Exception]
) -> int:
    """Run a Hydra main, and print what the user can mend without a traceback.

    Args:
        main: what Hydra has made of the stage's function.
        command: the stage.
        given: where to put the flags of this start.
        failures: where the stage's function puts the error that ends it.

    Returns:
        The exit code.
    """
    run_folders.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints what is caught below, and exits
    arguments = usual_spelling(sys.argv[1:])
    try:
        if "--help" in arguments or "-h" in arguments:
            defaults = dict(keys.flat(OmegaConf.to_container(composed([], "by_hand"))))  # type: ignore[arg-type]
            print(help_text(command.function, command.names, command.flags, defaults))
            return 0
        sys.argv[1:] = command.settle(arguments, given)
        with explain_null_sections(sys.argv[1:]), help_as_text():
            main()
        for error in failures:
            raise error
    except COMPOSITION_ERRORS as error:
        print(f"ConfigError: {composition_error(error, arguments)}", file=sys.stderr)
        return 1
    except PipelineError as error:
        return report(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        fault = fault_behind(error)
        if fault is None:
            raise
        named = [text.partition("=")[2] for text in arguments if text.startswith("hydra.run.dir=")]
        return report(storage_error(fault, (named or [str(ROOT / "runs")])[0]))
    return 0


def finish(stage_name: str, config: DictConfig, paths: Paths) -> None:
    """Print what came of a stage; by hand, record what it was made of."""
    line = result_line(stage_name, paths.out)
    if line is not None:
        print_line(line)
    is_read = stage_name in dvc_stages() and bool(folders_of(stage_name))  # by a later stage
    if is_read and paths.out.resolve() != ROOT:
        record_of(stage_name, config, data_hashes(stage_name, paths)).write(paths.out)


def print_place(stage_name: str, folder: Path) -> None:
    """Print where a run by hand has written, and how that is used."""
    written = [name for name in ("data", "models", "metrics") if (folder / name).exists()]
    if written and folder.resolve() != ROOT:
        place = os.path.relpath(folder, ROOT)
        print_line(f"written to {place}; a later stage reads it with inputs={place}")
        if stage_name in USED:
            print_line("\n".join(use_lines(place)))


@contextmanager
def remove_if_unused(folder: Path, log: Path, is_question: bool) -> Iterator[None]:
    """Delete the folder of a run that writes nothing: a question, or one that is refused.

    The log of a run that has got further ends with its error.
    """
    try:
        yield
    except (PipelineError, OSError) as error:
        remove_empty(folder, log)
        if folder.resolve() != ROOT and log.exists():
            with logging_to(log):
                write_log(f"{type(error).__name__}: {error}")
        raise
    if is_question:
        remove_empty(folder, log)


def remove_empty(folder: Path, log: Path) -> None:
    """Delete a folder with nothing but what Hydra has put there: its own, and an empty log."""
    with suppress(OSError):  # what is reported is the refusal
        found = {path.name for path in folder.iterdir()} - {log.name}
        is_silent = not log.exists() or not log.stat().st_size
        if found == {".hydra"} and is_silent and not folder.is_symlink():
            shutil.rmtree(folder)
