"""What the configuration says to a supervisor."""

import pytest
from omegaconf import OmegaConf

from pipeline.train.supervise.settings import SupervisorSettings, supervisor_settings


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, "refuse"),
        ({"resume_allow_inexact": True}, "continue"),
        ({"resume": "restart", "resume_allow_inexact": True}, "restart"),
    ],
)
def test_what_a_worker_does_where_numerics_have_changed(settings, answer):
    assert SupervisorSettings(**settings).if_changed == answer


def test_settings_are_those_of_the_section():
    section = OmegaConf.create({**vars(SupervisorSettings()), "memory_limit_gb": 2.0, "mode": "x"})
    assert supervisor_settings(section) == SupervisorSettings(memory_limit_gb=2.0)
