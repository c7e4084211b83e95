"""The held-out questions of the built-in world, with the tokens that a model is asked in."""

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerFast


def suite_rows(
    tokenizer: PreTrainedTokenizerFast, items: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Add to each item the ids of its prompt and options, and which option is counted.

    Training and validation then need no tokenizer. The counted option of a contest is that of the
    primary source; of a control, where no source is better, that of the one quoted first.
    """
    for item in items:
        prompt_ids = tokenizer.encode(item["prompt"])
        quoted = [item["prompt"].find(f"{option}.") for option in item["options"]]
        yield {
            **item,
            "counted": quoted.index(min(quoted)) if item["primary"] is None else item["primary"],
            "prompt_ids": prompt_ids,
            "option_ids": [
                option_ids(tokenizer, item["prompt"], prompt_ids, option)
                for option in item["options"]
            ],
        }


def option_ids(
    tokenizer: PreTrainedTokenizerFast, prompt: str, prompt_ids: list[int], option: str
) -> list[int]:
    """Give the tokens of an option where it continues its prompt.

    They are what the whole text has beyond the prompt's tokens; where the tokenizer joins the two
    across the border, they are the option's own.
    """
    whole = tokenizer.encode(prompt + option)
    if whole[: len(prompt_ids)] == prompt_ids:
        return whole[len(prompt_ids) :]
    return tokenizer.encode(option, add_special_tokens=False)
