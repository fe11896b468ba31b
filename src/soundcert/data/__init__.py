"""Data lists: which clips, with which labels, from folders, manifests and known data sets.

Nothing is decoded here. A file that is missing or broken is found when its clip is loaded, and is
recorded there, so that one bad file does not stop a run. `soundcert.data.archives` fetches the known data sets.
"""

from __future__ import annotations

from .config import DataConfig, without_roots
from .cut import CutConfig, clips_of_file
from .items import Item
from .manifest import LIST_SUFFIXES
from .registry import Source, SourceInfo, register_source
from .sources import known_sources, load_items

__all__ = [
    "LIST_SUFFIXES",
    "CutConfig",
    "DataConfig",
    "Item",
    "Source",
    "SourceInfo",
    "clips_of_file",
    "known_sources",
    "load_items",
    "register_source",
    "without_roots",
]
