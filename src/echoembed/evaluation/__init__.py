"""Evaluation of recipes by mteb's tasks and metrics, on its benchmarks or on your own files.

from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate

scores = evaluate(echoembed.load(recipe="echo"), local_tasks("my-data"))
"""
