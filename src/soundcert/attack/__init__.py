"""Attacks: perturbations that bracket a certificate from above.

An attack is an upper bound and no proof: where it finds nothing, nothing is said.
"""

from soundcert.attack.ball import Exit, leave_ball, smallest_exit
from soundcert.attack.brackets import GOALS, Attack, Attacker, Bypass, Goal, Settings, attack
from soundcert.attack.deployed import Deployed, Deployments, deployed_variants
from soundcert.attack.fronts import Front, front_from
from soundcert.attack.smoothed import Claim, Flip, Inside, Target, flip_label, inside_ball
from soundcert.attack.wav import SavedWav

__all__ = [
    "GOALS",
    "Attack",
    "Attacker",
    "Bypass",
    "Claim",
    "Deployed",
    "Deployments",
    "Exit",
    "Flip",
    "Front",
    "Goal",
    "Inside",
    "SavedWav",
    "Settings",
    "Target",
    "attack",
    "deployed_variants",
    "flip_label",
    "front_from",
    "inside_ball",
    "leave_ball",
    "smallest_exit",
]
