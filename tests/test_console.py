"""What a person sees."""

from pipeline.console import StageProgress, TrainingProgress


def test_a_note_is_printed_to_the_letter(capsys):
    text = "only export.formats=[fused] :dog: [/nothing]"
    TrainingProgress("train", 3).note(text)
    assert capsys.readouterr().err == f"{text}\n"


def test_control_characters_are_escaped(capsys):
    TrainingProgress("train", 3).note("a tensor named \x1b[2J\nand another line")
    assert capsys.readouterr().err == "a tensor named \\x1b[2J\nand another line\n"


def test_without_a_terminal_some_lines_are_printed_and_always_the_last(capsys):
    progress = StageProgress("validate", 100)
    for done in (3, 4, 6, 9, 31, 32, 100):
        progress.show(done, "base")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"validate {done}/100  base" for done in (6, 31, 100)]


def test_what_was_done_before_is_not_printed_again(capsys):
    progress = TrainingProgress("train", 40)
    progress.start_at(20)
    progress.step(21, 1.0, 10.0, 10**9)
    assert capsys.readouterr().err == ""
    progress.step(22, 1.0, 10.0, 10**9)
    assert capsys.readouterr().err == "train 22/40  loss 1.000  10 tokens/s  1.00 GB\n"
