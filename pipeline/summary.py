"""What came of each stage, in a line, and the commands that use what was trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.files import read_json

TRAINED = "models/trained"
SPLITS = {"train": "train", "validation": "valid", "test": "test"}
MB = 10**6


def result_line(stage_name: str, folder: Path) -> str | None:
    """Return what came of a stage, from the metrics that it has written into a folder.

    Returns:
        None where there are no such metrics, or the stage has no line.
    """
    file = folder / f"metrics/{stage_name}.json"
    if stage_name not in LINES or not file.is_file():
        return None
    return f"{stage_name}: {LINES[stage_name](read_json(file))}"


def prepare_line(metrics: dict[str, Any]) -> str:
    """Count rows, the documents of each split, and what was cut."""
    counts = [f"{metrics.get(f'{split}_documents', 0):,} {word}" for split, word in SPLITS.items()]
    longest = max(metrics.get(f"{split}_longest", 0) for split in SPLITS)
    kept = sum(metrics.get(f"{split}_tokens", 0) for split in SPLITS)
    cut, lost = metrics["truncated_documents"], metrics["truncated_tokens"]
    dropped = f", which dropped {lost / (lost + kept):.1%} of all tokens" if cut else ""
    return (
        f"{metrics['rows']:,} rows -> {' / '.join(counts)}; longest {longest:,} tokens; "
        f"{cut:,} truncated{dropped}"
    )


def weights_line(metrics: dict[str, Any]) -> str:
    """Describe the base."""
    text = f"{metrics['base_tensors']:,} tensors, {metrics['base_bytes'] / MB:,.1f} MB"
    if "pretrain_val_loss" in metrics:
        first, last = metrics["pretrain_first_loss"], metrics["pretrain_val_loss"]
        text += (
            f"; pretrained for {metrics['pretrain_steps']:,} steps, loss {first:.3f} -> {last:.3f}"
        )
    return text


def train_line(metrics: dict[str, Any]) -> str:
    """Name the losses of a training, and what was trained."""
    return (
        f"{metrics['num_steps']:,} steps, loss {metrics['train_loss']:.3f}; validation loss "
        f"{metrics['val_loss']:.3f}, best {metrics['best_val_loss']:.3f} at step "
        f"{metrics['best_step']:,}; {metrics['trainable_parameters']:,} trained weights"
    )


def export_line(metrics: dict[str, Any]) -> str:
    """Name the formats, each with how far its logits are from those of the trained model."""
    formats = {name: proof for name, proof in metrics.items() if isinstance(proof, dict)}
    texts = [
        f"{name} (logits within {proof['max_abs_logit_difference']:.2g} of the trained model)"
        for name, proof in formats.items()
    ]
    return ", ".join(texts)


def validate_line(metrics: dict[str, Any]) -> str:
    """Compare base and tuned model, with the interval of the difference."""
    held_out = metrics["held_out"]
    base, tuned = held_out["base"], held_out["tuned"]
    text = f"loss {base['loss']:.3f} -> {tuned['loss']:.3f}"
    if held_out["loss_difference_low"] is not None:
        low, high = held_out["loss_difference_low"], held_out["loss_difference_high"]
        text += f" ({low:+.3f} to {high:+.3f})"
    text += f", perplexity {base['perplexity']:.2f} -> {tuned['perplexity']:.2f}"
    contest = metrics.get("conflicts", {}).get("contest")
    if contest:
        shares = contest["base"]["share"], contest["tuned"]["share"]
        text += f"; for the primary source {shares[0]:.1%} -> {shares[1]:.1%}"
    return text


def benchmark_line(metrics: dict[str, Any]) -> str:
    """Name the speed of training and of generation."""
    if "train_tokens_per_second" not in metrics:
        return "metrics/benchmark.json and plots/peers.png compare the programs"
    return (
        f"training {metrics['train_tokens_per_second']:,.0f} tokens/s, "
        f"{metrics['roofline_share']:.0%} of what this machine can do; "
        f"generation {metrics['generation_tokens_per_second']:,.0f} tokens/s"
    )


LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "prepare": prepare_line,
    "weights": weights_line,
    "train": train_line,
    "export": export_line,
    "validate": validate_line,
    "benchmark": benchmark_line,
}


def use_lines(place: str | None) -> list[str]:
    """Return the commands that use a trained model.

    Args:
        place: the run that has trained it; None: the repository.
    """
    led = [f"inputs={place}"] if place else []
    ask = " ".join(["python -m stages.generate", *led, '--prompt "..."'])
    compare = " ".join(["python -m stages.validate", *led])
    return [f"ask it:                 {ask}", f"compare it with its base: {compare}"]
