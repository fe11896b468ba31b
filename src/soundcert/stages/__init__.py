"""The stages of a pipeline, one file per family."""

from soundcert.stages.base import FEATURE_STAGES, Stage, known_stages, register, stage_class
from soundcert.stages.features import FeatureStandardize, LogMel, Mfcc, Spectrogram
from soundcert.stages.frontends import DynamicRange, FitFrames, KaldiFbank
from soundcert.stages.gain import FixedGain, PeakNormalize, RmsNormalize, Standardize
from soundcert.stages.model import Model
from soundcert.stages.noise import GaussianNoise, LatticeNoise, NoiseStage
from soundcert.stages.range import Clip, Limiter, Quantize
from soundcert.stages.shape import Fit, Mono, RemoveOffset, Resample
from soundcert.stages.windows import Windows

__all__ = [
    "FEATURE_STAGES",
    "Clip",
    "DynamicRange",
    "FeatureStandardize",
    "Fit",
    "FitFrames",
    "FixedGain",
    "GaussianNoise",
    "KaldiFbank",
    "LatticeNoise",
    "Limiter",
    "LogMel",
    "Mfcc",
    "Model",
    "Mono",
    "NoiseStage",
    "PeakNormalize",
    "Quantize",
    "RemoveOffset",
    "Resample",
    "RmsNormalize",
    "Spectrogram",
    "Stage",
    "Standardize",
    "Windows",
    "known_stages",
    "register",
    "stage_class",
]
