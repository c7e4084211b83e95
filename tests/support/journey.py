"""How far a model comes from transformers through training and export back to transformers."""

import re
from pathlib import Path

import numpy as np

from pipeline.data.store import TokenStoreWriter
from pipeline.device import mx
from pipeline.errors import ExportError, PipelineError
from pipeline.files import read_json
from pipeline.formats.export import export, open_tuned
from pipeline.model.network.base import load_base, write_manifest
from pipeline.model.network.forward import forward
from pipeline.train.finetune import Finetune
from pipeline.train.observer import Observer
from pipeline.train.protocol import RunSpec
from tests.support.architectures import ARCHITECTURES, VOCABULARY, auto_class, save
from tests.support.drive import parameters
from tests.support.small import ROOT, random_documents
from tests.train.test_finetune import GO

DOCUMENT = ROOT / "docs/models.md"
ROWS = re.compile(r"^\| `\w+` \| .*\n", re.M)
TOLERANCE = 1e-4
"""Greatest difference of logits, in standard deviations of theirs; docs/models.md states it."""
TRAINING = {"train__num_steps": 2, "lora__dropout": 0.0, "data__arrangement": "bucketed"}
TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, (2, 64))


def theirs(model):
    """Compute the logits of a model of transformers."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(TOKENS)).logits.numpy()


def ours(model):
    """Compute the logits of a model of MLX."""
    return np.array(forward(model, mx.array(TOKENS)).astype(mx.float32))


class Journey:
    """A model on its way from transformers through training and export back to transformers."""

    def __init__(self, name, folder):
        self.name, self.folder = name, Path(folder)
        self.source, self.base = self.folder / "source", self.folder / "base"
        self.base.mkdir()

    def load(self):
        """Load the model, and compare its logits."""
        reference = theirs(save(self.name, self.source))
        write_manifest(self.base, self.source, "source", "hash")
        difference = distance(ours(load_base(self.base, "float32").model), reference)
        assert difference < TOLERANCE, "another model is computed, and is not refused"

    def train(self):
        """Make two steps of LoRA."""
        write_stores(self.folder / "prepared")
        spec = RunSpec(
            title="train",
            kind="finetune",
            parameters=parameters(**TRAINING),
            base=str(self.base),
            prepared=str(self.folder / "prepared"),
            run_folder=str(self.folder / "run"),
            output=str(self.folder / "trained"),
        )
        run = Finetune(spec)
        trainer = run.load(GO, Observer())
        trainer.restore()
        list(trainer.steps())
        run.finish(trainer)

    def export(self, name):
        """Export the trained model in a format, which another program reads back."""
        folders = self.base, self.folder / "trained", self.folder / "prepared"
        export(*folders, [name], (self.folder / "export").joinpath)

    def return_to_transformers(self):
        """Read the fused folder by transformers, and compare its logits with those of training."""
        import torch
        import transformers

        folder = self.folder / "export/fused"
        model, report = auto_class(transformers.AutoConfig.from_pretrained(folder)).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        wrong = {kind: names for kind, names in report.items() if names}
        assert not wrong
        assert keeps(read_json(folder / "config.json"), read_json(self.source / "config.json"))
        tuned = ours(open_tuned(self.base, self.folder / "trained"))
        difference, effect = distance(theirs(model.eval()), tuned), distance(self.before(), tuned)
        assert difference < TOLERANCE < 0.1 * effect

    def before(self):
        """Compute the logits of the base."""
        return ours(load_base(self.base, "float32").model)


def keeps(found, wanted):
    """Whether an object has all that another one has, parts of parts too."""
    if not isinstance(wanted, dict):
        return found == wanted
    return all(name in found and keeps(found[name], wanted[name]) for name in wanted)


def distance(found, wanted):
    """Return the greatest difference of logits, in standard deviations."""
    return float(np.abs(found - wanted).max() / wanted.std())


def write_stores(folder):
    """Write random rows as the prepare stage would."""
    for name, count, seed in (("train", 12, 0), ("validation", 6, 9), ("test", 0, 0)):
        with TokenStoreWriter(folder / name, VOCABULARY) as writer:
            for ids, mask in random_documents(count, seed):
                writer.add(ids, mask, 0.1, 6.0)


def verdict_of(name, folder):
    """Send a model through all steps.

    Returns:
        `proven`, `adapter only` or `refused`, and the message that stopped it.

    Raises:
        AssertionError: when a wrong model is not refused.
    """
    journey = Journey(name, folder)
    try:
        journey.load()
        journey.train()
        journey.export("adapter")
    except PipelineError as error:
        return "refused", text_of(error, folder)
    try:
        journey.export("fused")
    except ExportError as error:
        return "adapter only", text_of(error, folder)
    journey.return_to_transformers()
    return "proven", ""


def text_of(error, folder):
    """Word an error in one line, without the place where it happened."""
    return re.sub(r"\s*\n\s*", " ", str(error)).replace(str(folder), "")


def rendered(verdicts):
    """Write the rows of the document from the verdict of each architecture."""
    rows = "".join(
        f"| `{name}` | `{ARCHITECTURES[name].config}` | {verdict} | {left_to_do(name, verdict)} |\n"
        for name, verdict in verdicts.items()
    )
    before, *_, after = ROWS.split(DOCUMENT.read_text(encoding="utf-8"))
    return before + rows + after


def left_to_do(name, verdict):
    """Name what is missing, and the test that tells when it no longer is; a remark where proven."""
    if verdict == "proven":
        return ARCHITECTURES[name].remark
    return f"{ARCHITECTURES[name].missing}; `-k {name}-` of the test"


def recorded():
    """Read the verdict of each architecture from the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(\w+)` \| `\w+` \| ([a-z ]+) \|", text, re.M))
