"""Work on whole folders: labels, evaluation, tables and pictures."""

from __future__ import annotations

from cuekit.run._evaluate import evaluate
from cuekit.run._evaluation import Evaluation

__all__ = ["Evaluation", "evaluate"]
