"""The systems that the paper compares with: how each makes labels of the training photos.

One file per system. What they share: `base.py`, the trained classifiers, the loop, and the
segmentation network that learns from the labels.
"""

from systems.affinity import Affinity
from systems.attention_crf import AttentionCRF
from systems.base import System, Work
from systems.dcsm import Dcsm
from systems.sec import Sec
from systems.spn import Spn
from systems.two_phase import TwoPhase

SYSTEMS: dict[str, System] = {
    "sec-saliency": Sec(),
    "affinity": Affinity(),
    "dcsm": Dcsm(),
    "spn": Spn(),
    "two-phase": TwoPhase(),
    "attention-crf": AttentionCRF(),
}

__all__ = ["SYSTEMS", "System", "Work"]
