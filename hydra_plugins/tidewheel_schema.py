"""Hydra imports this by itself, in the stages and inside `dvc exp run` alike."""

from pipeline.config import rules, schema

schema.register()
rules.register()
