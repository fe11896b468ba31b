"""The numbers that words are turned into normal numbers with: part of the definition of the noise."""

from __future__ import annotations

import numpy as np

# What u = (k + ½)/2³¹ for the 31 low bits k of a word turns into:
# k + ½ = 2^e·m with m from √½ to √2, s = (m − 1)/(m + 1), and −2 ln m = −s·(4 + s²(L0 + s²(L1 + s²·L2))).
ROOT_HALF = np.int32(0x3F3504F3)  # the bits of √½
MANTISSA = np.int32(0x7FFFFF)
LOW = np.int32(0x7FFFFFFF)
SIGN = np.int32(-0x80000000)
EXPONENT = np.float32(31.0)  # that of 2³¹, counted from √½ up
TWO_LN_2 = np.float32(1.3862943649291992)
L0, L1, L2 = np.float32(1.3333336114883423), np.float32(0.7997810840606689), np.float32(0.5914536118507385)
# The high half, as a signed number, is half the angle ψ in units of 2⁻³¹·π/4; 2·sin ψ = ψ(S0 + ψ²(S1 + ψ²(S2 + ψ²·S3))).
HALF_TURN = np.float32(3.6572952696637776e-10)
S0, S1 = np.float32(2.0), np.float32(-0.3333333134651184)
S2, S3 = np.float32(0.016664072871208191), np.float32(-0.00039007927989587188)
ONE, HALF, FOUR = np.float32(1.0), np.float32(0.5), np.float32(4.0)

#: Words that are worked on at a time: what they need stays in the processor's caches.
CHUNK = 8192
