"""Studies: a grid of data sets, contracts, noise levels and models, trained, chosen on validation clips, certified.

`load_study` reads the YAML, `run_study` does the work as far as it is not done, `collect` reads the run directories
back, and `write_study` makes tables and figures of them.
"""

from soundcert.study.collecting import collect
from soundcert.study.config import StudyConfig, load_study
from soundcert.study.cost import plan
from soundcert.study.running import run_study
from soundcert.study.writing import write_study

__all__ = ["StudyConfig", "collect", "load_study", "plan", "run_study", "write_study"]
