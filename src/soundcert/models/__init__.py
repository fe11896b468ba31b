"""Reference networks, weight files and the bundled zoo."""

from soundcert.models.networks import NETWORKS, build_network, check_network
from soundcert.models.optimise import freeze, optimise
from soundcert.models.weights import LoadedModel, bundled, load_weights, save_weights, take_weights

__all__ = [
    "NETWORKS",
    "LoadedModel",
    "build_network",
    "bundled",
    "check_network",
    "freeze",
    "load_weights",
    "optimise",
    "save_weights",
    "take_weights",
]
