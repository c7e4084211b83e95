"""The training of an adapter in torch with peft, from our weights and on our batches."""

import math
from dataclasses import dataclass

import numpy as np

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Recipe:
    """The settings of a training: AdamW, a linear warm-up, then half a cosine."""

    num_steps: int
    learning_rate: float
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float

    def rate_of(self, step):
        """Write the schedule down once more: the first step is 1."""
        warmup = round(self.warmup_fraction * self.num_steps)
        if step < warmup:
            return self.learning_rate * step / warmup
        progress = (step - warmup) / (self.num_steps - warmup + 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def place_of(name):
    """Return peft's name of a weight of an adapter."""
    layer, _, kind = name.rpartition(".")
    return f"base_model.model.{layer}.lora_{kind[-1].upper()}.default.weight"


def theirs_with_our_adapter(readers, folder, adapter, dtype="float32"):
    """Load a Llama with transformers, and give it an adapter of peft's with our weights."""
    torch, peft = readers("torch"), readers("peft")
    transformers = readers("transformers")
    base = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=PROJECTIONS, lora_dropout=0.0)
    model = peft.get_peft_model(base, config).to(getattr(torch, dtype))
    weights = dict(model.named_parameters())
    for name, value in adapter.items():
        with torch.no_grad():
            weights[place_of(name)].copy_(torch.tensor(np.array(value)).T)
    assert len(adapter) == sum(weight.requires_grad for weight in weights.values())
    return torch, model


def adapter_of(model, names):
    """Return the weights of an adapter by our names and in our shapes."""
    weights = dict(model.named_parameters())
    return {name: weights[place_of(name)].detach().numpy().T for name in names}


def loss_sum_of(torch, model, batch):
    """Sum the cross-entropy over the targets that count; padding is masked."""
    logits = model(
        input_ids=torch.tensor(batch.inputs, dtype=torch.long),
        attention_mask=torch.tensor(batch.segment_ids > 0, dtype=torch.long),
    ).logits
    targets = torch.tensor(batch.targets, dtype=torch.long)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    return (losses * torch.tensor(batch.loss_mask).flatten()).sum()


def their_steps(torch, model, feed, recipe):
    """Train on our batches; yield loss and gradient norm of each step, before its update."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=recipe.weight_decay)
    model.train()
    for step in range(1, recipe.num_steps + 1):
        batches = [batch for micro_batch in feed.micro_batches(step) for batch in micro_batch]
        num_targets = sum(batch.num_targets for batch in batches)
        optimizer.zero_grad()
        loss = sum(loss_sum_of(torch, model, batch) for batch in batches) / num_targets
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm)
        optimizer.param_groups[0]["lr"] = recipe.rate_of(step)
        optimizer.step()
        yield loss.item(), norm.item()
