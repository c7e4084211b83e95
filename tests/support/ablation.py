"""The ablation of the distrust modes: a new world and a new base per seed, every mode on it.

python -m tests.support.ablation FOLDER SEED [SEED ...]

Writes ablation.json into the folder and prints the table of docs/objective.md. A seed takes some
eight minutes on two cores; what is there already is not computed again.
"""

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.data.store import held_out_store
from pipeline.evaluate.measure import held_out_batches
from pipeline.evaluate.statistics import paired_share_difference, ratio_estimate
from pipeline.files import sha256_file
from pipeline.model.network.adapters import load_adapter
from pipeline.model.network.base import load_base
from pipeline.objective.likelihood import document_losses, read_items, score_items, wilson
from tests.support.small import ROOT

CONTROLS = ("two_primary", "two_authority")
MODES = ("none", "additive", "weighted", "sampling")


def stage(name, *arguments):
    subprocess.run([sys.executable, "-m", f"stages.{name}", *arguments], cwd=ROOT, check=True)


def train(folder, seed, *overrides):
    """Make a world and a base, and fine-tune it in every mode; give the folder of each mode."""
    places = [f"seed={seed}", f"inputs={folder}"]
    if not (folder / "data/prepared").exists():
        stage("prepare", *places, f"hydra.run.dir={folder}", *overrides)
    if not (folder / "models/base").exists():
        stage("weights", *places, f"hydra.run.dir={folder}", *overrides)
    if not (folder / "sweep/table.md").exists():
        modes = f"objective.distrust.mode={','.join(MODES)}"
        stage("train", "-m", *places, modes, f"hydra.sweep.dir={folder}/sweep", *overrides)
    return {mode: folder / f"sweep/{number}/models/trained" for number, mode in enumerate(MODES)}


def measure(folder, adapters):
    """Score every mode on the held-out suite and text of a world, against `none`."""
    prepared, base = folder / "data/prepared", folder / "models/base"
    items, store = read_items(prepared / "conflicts.jsonl"), held_out_store(prepared)
    models = {"base": load_base(base, "auto").model}
    for mode, adapter in adapters.items():
        models[mode] = load_base(base, "auto").model
        load_adapter(models[mode], adapter)
    choices = {name: score_items(model, items).choices for name, model in models.items()}
    losses = {
        name: document_losses(model, held_out_batches(store, None, "bucketed"))
        for name, model in models.items()
    }
    return {
        name: {
            **{kind: shares(items, kind, choices[name], choices["none"]) for kind in kinds(items)},
            **{
                f"{kind} by source": shares(items, kind, choices[name], choices["none"], True)
                for kind in CONTROLS
            },
            "perplexity": math.exp(losses[name].mean),
            "loss_difference": asdict(
                ratio_estimate(
                    losses[name].loss_sums - losses["none"].loss_sums,
                    losses[name].num_targets.astype(np.float64),
                )
            ),
        }
        for name in models
    }


def kinds(items):
    return sorted({item.kind for item in items})


def shares(items, kind, choices, reference, by_source=False):
    """Return the share of what is counted, and the paired difference from the reference.

    By source, the first option is counted: that of one of two equal sources, in both orders.
    """
    of_kind = np.array([item.kind == kind for item in items])
    wanted = 0 if by_source else np.array([i.counted for i in items if i.kind == kind])
    clusters = np.array([item.cluster for item in items])[of_kind]
    hits, others = choices[of_kind] == wanted, reference[of_kind] == wanted
    return {
        **asdict(wilson(int(hits.sum()), len(hits))),
        "difference": asdict(paired_share_difference(others, hits, clusters)),
    }


def run(folder, seed, *overrides):
    """Do all of it for one seed."""
    adapters = train(folder, seed, *overrides)
    return {
        "modes": measure(folder, adapters),
        "hashes": {
            mode: sha256_file(path / "adapters.safetensors") for mode, path in adapters.items()
        },
    }


def percent(share):
    return f"{100 * share['share']:.1f} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def points(share):
    found = share["difference"]
    return f"{100 * found['value']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def table(results):
    """Give a row per seed and mode, in Markdown."""
    names = ["seed", "mode", "primary source, %", "against none, points"]
    names += [f"{kind}{how}, points" for how in (" by source", " by order") for kind in CONTROLS]
    names.append("perplexity")
    lines = [names, ["---"] * len(names)]
    for seed, result in results.items():
        for mode, found in result["modes"].items():
            controls = [
                points(found[kind + how]) for how in (" by source", "") for kind in CONTROLS
            ]
            contest = [percent(found["contest"]), points(found["contest"])]
            lines.append([seed, mode, *contest, *controls, f"{found['perplexity']:.3f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(place, *seeds):
    folder, results = Path(place).resolve(), {}
    for seed in seeds:
        results[seed] = run(folder / seed, seed)
        (folder / "ablation.json").write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
