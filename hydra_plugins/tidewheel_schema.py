"""Hydra imports this by itself, in the stages and inside `dvc exp run` alike."""

from pipeline.config.schema import register

register()
