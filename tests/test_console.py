"""What a person sees."""

from pipeline.console import TrainingProgress


def test_a_note_is_printed_to_the_letter(capsys):
    text = "only export.formats=[fused] :dog: [/nothing]"
    TrainingProgress("train", 3).note(text)
    assert capsys.readouterr().err == f"{text}\n"
