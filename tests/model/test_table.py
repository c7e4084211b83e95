"""The table of what is trained: like tensors in one line, counts that add up."""

from pipeline.model.network.adapters import apply
from pipeline.model.table import trainable_table
from tests.support.modes import settings_of


def test_like_tensors_of_all_blocks_stand_in_one_line(tiny_model):
    apply(tiny_model, settings_of("lora", targets=("q_proj", "k_proj")), seed=0)
    assert trainable_table(tiny_model, "lora").splitlines() == [
        "train.mode=lora trains",
        "  model.layers.*.self_attn.q_proj.lora_a  2 x (16, 4)  128   28.6%",
        "  model.layers.*.self_attn.q_proj.lora_b  2 x (4, 16)  128   28.6%",
        "  model.layers.*.self_attn.k_proj.lora_a  2 x (16, 4)  128   28.6%",
        "  model.layers.*.self_attn.k_proj.lora_b  2 x (4, 8)    64   14.3%",
        "  trained                                              448  7.273% of 6,160",
    ]


def test_a_tensor_of_one_block_names_it(tiny_model):
    apply(tiny_model, settings_of("lora", targets=("q_proj",), num_layers=1), seed=0)
    lines = trainable_table(tiny_model, "lora").splitlines()
    assert lines[1].startswith("  model.layers.1.self_attn.q_proj.lora_a  1 x (16, 4)")


def test_the_head_is_two_lines(tiny_model):
    apply(tiny_model, settings_of("head"), seed=0)
    assert trainable_table(tiny_model, "head").splitlines() == [
        "train.mode=head trains",
        "  model.norm.weight  1 x (16,)        16    1.5%",
        "  lm_head.weight     1 x (64, 16)  1,024   98.5%",
        "  trained                          1,040  15.439% of 6,736",
    ]
