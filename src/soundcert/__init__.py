"""Certified robustness for audio classifiers, with the space that each certificate lives in."""

import soundcert.starting as _starting  # noqa: F401  first: what follows takes seconds
from soundcert import bounds, diagnostics, stages
from soundcert.attack import Attack, attack
from soundcert.audio import Clip, load_clip
from soundcert.audit import Audit, audit
from soundcert.certificate import Certificate, Prediction
from soundcert.certify import certify, predict
from soundcert.compare import Comparison, compare
from soundcert.config import Budget, Decide, Estimate
from soundcert.contract import Contract
from soundcert.errors import SoundcertError
from soundcert.pipeline import Pipeline
from soundcert.spaces import Space

__all__ = [
    "Attack",
    "Audit",
    "Budget",
    "Certificate",
    "Clip",
    "Comparison",
    "Contract",
    "Decide",
    "Estimate",
    "Pipeline",
    "Prediction",
    "SoundcertError",
    "Space",
    "attack",
    "audit",
    "bounds",
    "certify",
    "compare",
    "diagnostics",
    "load_clip",
    "predict",
    "stages",
]
__version__ = "0.1.0"
