"""The held-out questions of the built-in world, with their tokens."""

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.data.tokenize.borders import Borders
from pipeline.data.tokenize.turn_ids import TurnIds


def suite_rows(
    tokenizer: PreTrainedTokenizerFast, items: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield each item with the ids of its prompt and options, and the index of the counted option.

    With the ids, training and validation need no tokenizer. In a contest the option of the primary
    source is counted. In a control no source is better, and that of the one quoted first is.
    """
    turn_ids = TurnIds(tokenizer, Borders(tokenizer, closing=""))
    for item in items:
        pairs = [turn_ids.continued(item["prompt"], option) for option in item["options"]]
        quoted = [item["prompt"].find(f"{option}.") for option in item["options"]]
        yield {
            **item,
            "counted": quoted.index(min(quoted)) if item["primary"] is None else item["primary"],
            "prompt_ids": pairs[0][0],
            "option_ids": [ids for _, ids in pairs],
        }
