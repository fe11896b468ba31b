"""Data lists: which clips, with which labels, from folders, manifests and known data sets.

Nothing is decoded here. A file that is missing or broken is found when its clip is loaded, and is
recorded there, so that one bad file does not stop a run.
"""

from __future__ import annotations

from .config import DataConfig
from .items import Item
from .sources import SourceInfo, known_sources, load_items

__all__ = ["DataConfig", "Item", "SourceInfo", "known_sources", "load_items"]
