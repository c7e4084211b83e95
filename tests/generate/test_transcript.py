"""Samples below each other, as they are printed."""

from pipeline.generate.transcript import SHOWN_LETTERS, WIDTH, transcript


def test_texts_stand_below_each_other_with_their_names():
    samples = [{"prompt": "How?", "base": "So.", "tuned": ""}, {"prompt": "Why?", "tuned": "So."}]
    assert transcript(samples) == (
        "  prompt     How?\n"
        "  base       So.\n"
        "  tuned      (nothing)\n"
        "\n"
        "  prompt     Why?\n"
        "  tuned      So."
    )


def test_of_a_long_prompt_the_end_is_shown_and_of_an_answer_the_beginning():
    start, end = "a" * 9, "z" * 9
    text = start + " m" * SHOWN_LETTERS + end
    shown = transcript([{"prompt": text}, {"base": text}])
    prompt, base = shown.split("\n\n")
    assert prompt.startswith("  prompt     … ")
    assert prompt.endswith(end)
    assert start not in prompt
    assert base.startswith(f"  base       {start}")
    assert base.endswith(" …")
    assert end not in base


def test_lines_are_no_wider_than_a_screen_and_begin_below_each_other():
    lines = transcript([{"base": "word " * 60}]).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= WIDTH
    assert {line[:13].strip() for line in lines[1:]} == {""}


def test_controls_are_escaped():
    assert transcript([{"base": "a\x1b[2J\nb"}]) == "  base       a\\x1b[2J\\nb"
