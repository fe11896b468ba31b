"""The sources by name, and the filters that all of them share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..errors import ConfigError, did_you_mean
from .config import DataConfig
from .cut import cut_items
from .datasets import esc10_items, esc50_items, speech_commands_items
from .folder import folder_items
from .items import Item
from .manifest import manifest_items
from .registry import Source, SourceInfo, all_sources, register_source, source_of

BUILT_IN = (
    Source(
        items=folder_items,
        info=SourceInfo(
            "folder",
            "Your own audio: one folder a class, a folder with a table of labels, or a flat folder without labels.",
            "root/LABEL/*.wav (or flac, ogg, opus, mp3, aiff, au, caf, w64), or root/metadata.csv or .jsonl with "
            "file_name[,label], or root/*.wav",
            "yours",
        ),
    ),
    Source(
        items=manifest_items,
        info=SourceInfo(
            "manifest",
            "Your own list of files, with labels, splits and folds as far as you have them.",
            "root is a .csv or .jsonl file with file[,label,split,fold], or a .txt file with a path a line and, "
            "after a tab, a label; files relative to it, ../ allowed",
            "yours",
        ),
    ),
    Source(
        items=speech_commands_items,
        info=SourceInfo(
            "speech_commands",
            "Google Speech Commands: spoken words of one second; splits training, validation, testing.",
            "root/WORD/*.wav with validation_list.txt and testing_list.txt, or meta.csv (file,label,split)",
            "CC BY 4.0",
        ),
    ),
    Source(
        items=esc10_items,
        info=SourceInfo(
            "esc10",
            "ESC-10: 400 environmental sounds of five seconds in 10 classes; folds 1 to 5.",
            "root/meta/esc50.csv with root/audio/ (its esc10 part), or meta.csv (file,label,fold)",
            "CC BY 3.0",
        ),
    ),
    Source(
        items=esc50_items,
        info=SourceInfo(
            "esc50",
            "ESC-50: 2000 environmental sounds of five seconds in 50 classes; folds 1 to 5.",
            "root/meta/esc50.csv with root/audio/, or meta.csv (file,label,fold)",
            "CC BY-NC 3.0",
        ),
    ),
)
for one in BUILT_IN:
    register_source(one)


def known_sources() -> list[SourceInfo]:
    """Return what is said of every source, those of other packages included."""
    return [source.info for source in all_sources()]


def load_items(config: DataConfig, base: Path | None = None) -> list[Item]:
    """The clips that `config` names, sorted by name (parts of a recording by their place in it).

    A relative root is taken from `base`, the folder of the configuration file. `Item.label` is the
    model's name for the label (after `label_map`).
    """
    root = config.root.expanduser()
    root = root if base is None else base / root
    items = list(source_of(config.source).items(root))
    _check_labels(config, items)
    items = _of_split(config, items)
    items = _of_folds(config, items)
    if config.labels is not None:
        items = [item for item in items if item.label in config.labels]
        if not items:
            raise ConfigError(
                f"data.labels: the chosen split or folds have no clip of {_words(config.labels)}"
            )
    if config.cut is not None:
        items = cut_items(items, config.cut)
    if config.limit is not None:
        items = sorted(items, key=lambda item: _rank(config.shuffle_seed, item.name))[: config.limit]
    renamed = (_renamed(item, config.label_map) for item in items)
    return sorted(renamed, key=lambda item: (item.recording or item.name, item.start))


def _check_labels(config: DataConfig, items: list[Item]) -> None:
    """Refuse words that the data does not know: a typing error would quietly drop a class."""
    present = {item.label for item in items if item.label is not None}
    for field, words in (("labels", config.labels or ()), ("label_map", config.label_map)):
        for word in words:
            if not present:
                raise ConfigError(f"data.{field}: expected labelled data, got no labels; remove {field}")
            if word not in present:
                raise ConfigError(
                    f"data.{field}: expected labels of the data, got {word!r}{did_you_mean(word, present)}"
                )


def _of_split(config: DataConfig, items: list[Item]) -> list[Item]:
    if config.split is None:
        return items
    kept = [item for item in items if item.split == config.split]
    if not kept:
        known = {item.split for item in items if item.split is not None}
        hint = did_you_mean(config.split, known) or " (none has a split)"
        raise ConfigError(f"data.split: expected a split of the data, got {config.split!r}{hint}")
    return kept


def _of_folds(config: DataConfig, items: list[Item]) -> list[Item]:
    if config.folds is None:
        return items
    known = sorted({item.fold for item in items if item.fold is not None})
    absent = [fold for fold in config.folds if fold not in known]
    if absent:
        have = f"the data has {_words(known)}" if known else "no clip has a fold"
        raise ConfigError(f"data.folds: expected folds with clips, got {_words(absent)}; {have}")
    return [item for item in items if item.fold in config.folds]


def sample(names: Iterable[str], limit: int | None, seed: int = 0) -> list[str]:
    """At most `limit` of the names, an unbiased choice that does not depend on their order; sorted."""
    chosen = sorted(names, key=lambda name: _rank(seed, name))
    return sorted(chosen if limit is None else chosen[:limit])


def _rank(seed: int, name: str) -> bytes:
    # Names of files need not be valid UTF-8; surrogates stand for the bytes that are not. A list may hold others.
    text = f"{seed}:{name}"
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()


def _renamed(item: Item, label_map: dict[str, str]) -> Item:
    if item.label is None or item.label not in label_map:
        return item
    return replace(item, label=label_map[item.label])


def _words(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
