"""Data lists: layouts as people have them, filters, and refusals in one line."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from soundcert.audio import load_clip
from soundcert.data import DataConfig, Item, known_sources, load_items
from soundcert.errors import ConfigError, InputError


@pytest.fixture
def tree(tmp_path: Path):
    """Write files below a fresh root: text as given, audio for `None`."""

    def tree(files: dict[str, str | None] | list[str], root: str = "root") -> Path:
        for name, text in dict.fromkeys(files).items() if isinstance(files, list) else files.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                # The name says the format except where a test means an odd suffix.
                soundfile.write(path, np.zeros(16, np.int16), 8000, format="WAV")
            else:
                path.write_text(text, encoding="utf-8")
        return tmp_path / root

    return tree


def items(source: str, root: Path, **kwargs: object) -> list[Item]:
    return load_items(DataConfig(source=source, root=root, **kwargs))


def names(*args: object, **kwargs: object) -> list[str]:
    return [item.name for item in items(*args, **kwargs)]


def refused(error: type[Exception], pattern: str, *args: object, **kwargs: object) -> None:
    with pytest.raises(error, match=pattern) as caught:
        items(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


# Folders


def test_class_folders(tree):
    root = tree(["yes/b.wav", "yes/a.WAV", "no/deep/c.flac", "no/notes.txt", ".git/x.wav", "no/.d.wav"])
    found = items("folder", root)
    assert [(item.name, item.label) for item in found] == [
        ("no/deep/c.flac", "no"),
        ("yes/a.WAV", "yes"),
        ("yes/b.wav", "yes"),
    ]
    assert load_clip(found[0].path, name=found[0].name).name == "no/deep/c.flac"


def test_flat_folder_has_no_labels(tree):
    root = tree(["b.wav", "a.mp3", "empty/readme.txt"])
    assert [(item.name, item.label) for item in items("folder", root)] == [("a.mp3", None), ("b.wav", None)]


def test_labels_are_kept_as_text(tree):
    labels = ["Straße 1", "don't, know", "声", "a;b"]
    found = items("folder", tree([f"{label}/x.wav" for label in labels]))
    assert {item.label for item in found} == set(labels)


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_linked_class_folders_are_entered(tree):
    tree(["x.wav"], root="elsewhere")
    root = tree(["yes/a.wav"])
    (root / "no").symlink_to(root.parent / "elsewhere")
    (root / "no" / "loop").symlink_to(root)
    assert names("folder", root) == ["no/x.wav", "yes/a.wav"]


def test_folder_refusals(tree, tmp_path):
    refused(ConfigError, "nothing of that name", "folder", tmp_path / "none")
    refused(InputError, "expected audio files", "folder", tree(["readme.txt"], root="text"))
    refused(InputError, "got both", "folder", tree(["a.wav", "yes/b.wav"], root="mixed"))
    refused(
        ConfigError, "folders of splits", "folder", tree(["train/yes/a.wav", "test/no/b.wav"], root="splits")
    )
    refused(ConfigError, "got a file", "folder", tree(["a.wav"], root="one") / "a.wav")
    refused(ConfigError, "point data.root", "folder", tmp_path, split="test")
    refused(ConfigError, "no folds", "folder", tmp_path, folds=(1,))


def test_a_class_may_be_called_train(tree):
    assert {item.label for item in items("folder", tree(["train/a.wav", "tram/b.wav"]))} == {"train", "tram"}


# Manifests


def manifest(tree, text: str, name: str = "list.csv") -> Path:
    return tree({name: text}) / name


def test_csv_manifest(tree):
    path = manifest(
        tree,
        '\ufefffile, label ,split,fold,note\nb.wav,"yes, sir",train,2,x\n\n'
        "a/é.wav,,val,,\n../c.wav,no,mine,1,\n",
    )
    root = path.parent
    assert items("manifest", path) == [
        Item("../c.wav", root / "../c.wav", "no", "mine", 1),
        Item("a/é.wav", root / "a/é.wav", None, "validation", None),
        Item("b.wav", root / "b.wav", "yes, sir", "training", 2),
    ]
    assert names("manifest", path, split="valid") == ["a/é.wav"]
    assert names("manifest", path, split="mine") == ["../c.wav"]
    assert names("manifest", path, folds=(1,)) == ["../c.wav"]


def test_jsonl_manifest(tree):
    lines = [
        {"file": "b.wav", "label": "声\u2028", "split": "test", "fold": 3},
        {"file": "a.wav", "label": 7, "fold": None, "other": [1]},
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    path = manifest(tree, text, "list.jsonl")
    assert items("manifest", path) == [
        Item("a.wav", path.parent / "a.wav", "7"),
        Item("b.wav", path.parent / "b.wav", "声\u2028", "testing", 3),
    ]


def test_absolute_paths_keep_a_relative_name(tree, tmp_path):
    root = tree([])
    path = manifest(tree, f"file\n{tmp_path / 'root' / 'a.wav'}\n{tmp_path / 'b.wav'}\n")
    assert set(names("manifest", path)) == {"a.wav", (tmp_path / "b.wav").as_posix()}
    assert root == path.parent


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("filename,label\na.wav,x\n", "got 'filename', 'label' \\(did you mean 'filename'"),
        ("file;label\na.wav;x\n", "got 'file;label'"),
        ("", "got nothing"),
        ("file,label\n", "at least one clip"),
        ("file,label\n,x\n", "line 2: expected a value for 'file', got 'label'"),
        ("file,label\na.wav,x\n./a.wav,x\n", "line 3: expected each file once, got 'a.wav' again .*line 2"),
        ("file\na.wav\na.wav\n", "line 3: expected each file once"),
        ('file,label\na.wav,x\nb.wav,"x"y\n', "line 3: expected comma-separated"),
        ("file,label\na.wav,x,y\n", "line 2: expected 2 cells, got more"),
        ("file,file\na.wav,x\n", "line 1: expected each column once"),
        ("file,fold\na.wav,one\n", "line 2: expected a whole number as fold, got 'one'"),
        ('file,label\n"a.wav,x\n', "comma-separated"),
    ],
)
def test_csv_refusals(tree, text, pattern):
    refused(InputError, pattern, "manifest", manifest(tree, text))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"path": "a.wav"}', "line 1: expected a value for 'file', got 'path'"),
        ('{"file": null, "label": "x"}', "line 1: expected a value for 'file', got 'label'"),
        ("{}", "got nothing"),
        ('{"file": "a.wav"}\n["b.wav"]', "line 2: expected a JSON object"),
        ('{"file": "a.wav"}\n{"file": "b.w', "line 2: expected a JSON object"),
        ('{"file": ["a.wav"]}', "line 1, 'file': expected text"),
        ('{"file": "a.wav", "label": true}', "line 1, 'label': expected text"),
        ("[" * 100_000, "line 1: expected a JSON object"),
        ("", "at least one clip"),
    ],
)
def test_jsonl_refusals(tree, text, pattern):
    refused(InputError, pattern, "manifest", manifest(tree, text, "list.jsonl"))


def test_manifest_file_refusals(tree, tmp_path):
    refused(ConfigError, "got a folder", "manifest", tree(["a.wav"]))
    refused(ConfigError, "nothing of that name", "manifest", tmp_path / "none.csv")
    refused(ConfigError, "ends in .csv, .jsonl or .txt", "manifest", manifest(tree, "file\n", "list.tsv"))
    for suffix in ("csv", "jsonl", "txt"):
        (tmp_path / f"latin.{suffix}").write_bytes(b'file\n{"file": "\xe9"}\n')
        refused(
            InputError, f"latin.{suffix} line 2: expected UTF-8", "manifest", tmp_path / f"latin.{suffix}"
        )
    path = manifest(tree, "file,split,fold\na.wav,train,1\n")
    refused(ConfigError, "did you mean 'training'", "manifest", path, split="trianing")
    refused(ConfigError, "got 9; the data has 1", "manifest", path, folds=(1, 9))
    refused(ConfigError, "expected labelled data", "manifest", path, labels=("x",))
    path = manifest(tree, "file\na.wav\n")
    refused(ConfigError, "none has a split", "manifest", path, split="train")
    refused(ConfigError, "no clip has a fold", "manifest", path, folds=(1,))


def test_list_of_files(tree):
    path = manifest(tree, "\ufeffb c.wav\tyes, sir\r\n\na.wav\n../声.flac\t no \n", "list.txt")
    assert items("manifest", path) == [
        Item("../声.flac", path.parent / "../声.flac", "no"),
        Item("a.wav", path.parent / "a.wav", None),
        Item("b c.wav", path.parent / "b c.wav", "yes, sir"),
    ]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("\n\n", "at least one clip"),
        ("a.wav\tx\ty\n", "list.txt line 1: expected a path and one label, got 2 labels"),
        ("a.wav\n\tyes\n", "list.txt line 2: expected a path, .* got 'yes'"),
        ("a.wav yes\n", "list.txt line 1: .*put a tab before 'yes'"),
        ("a.wav\tno\nb.flac,yes\n", "list.txt line 2: .*put a tab before 'yes'"),
        ("a.wav\nb.wav\na.wav\n", "list.txt line 3: expected each file once, .*line 1"),
        (
            "a.wav\tx\na.wav\ty\n",
            "list.txt line 2: expected one label a clip, got 'y' .* is 'x' at list.txt line 1",
        ),
        ("a.wav\tx;y\n", "list.txt line 1: expected one label a clip, got 2 in 'x;y'"),
    ],
)
def test_list_refusals(tree, text, pattern):
    refused(InputError, pattern, "manifest", manifest(tree, text, "list.txt"))


# Folders with a table, as Hugging Face's audiofolder has it


def test_folder_with_metadata_csv(tree):
    root = tree({"a.wav": None, "sub/b.wav": None, "left out.wav": None, "yes/c.wav": None})
    (root / "metadata.csv").write_text("file_name,label,speaker\nsub/b.wav,no,1\na.wav, yes ,2\n")
    assert items("folder", root) == [
        Item("a.wav", root / "a.wav", "yes"),
        Item("sub/b.wav", root / "sub/b.wav", "no"),
    ]
    assert [item.label for item in items("folder", root, label_map={"yes": "ja"})] == ["ja", "no"]
    # The same table is a manifest too.
    assert items("manifest", root / "metadata.csv") == items("folder", root)


def test_folder_with_metadata_jsonl(tree):
    text = '{"file_name": "a.wav", "label": "dog,rain", "fold": 3}\n{"file_name": "b.wav", "label": "dog"}\n'
    root = tree({"metadata.jsonl": text})
    assert [(item.name, item.label, item.fold) for item in items("folder", root)] == [
        ("a.wav", "dog,rain", None),
        ("b.wav", "dog", None),
    ]


def test_metadata_refusals(tree):
    both = {"metadata.csv": "file_name\na.wav\n", "metadata.jsonl": '{"file_name": "a.wav"}\n'}
    refused(
        InputError,
        "expected one table, got metadata.csv and metadata.jsonl",
        "folder",
        tree(both, root="both"),
    )
    for number, (text, pattern) in enumerate(
        [
            (
                "path,label\na.wav,x\n",
                "metadata.csv line 1: expected a value for 'file', got 'path', 'label'",
            ),
            ("file_name,label\n../a.wav,x\n", "metadata.csv line 2: expected a path inside"),
            ("file_name,label\na.wav,x\n/a.wav,x\n", "metadata.csv line 3: expected a path inside"),
            ("file_name,label\n,x\n", "metadata.csv line 2: expected a value for 'file'"),
            ("file_name,label_1,label_2\na.wav,x,y\n", "line 1: .* got 'label_1', 'label_2'"),
        ]
    ):
        refused(InputError, pattern, "folder", tree({"metadata.csv": text}, root=f"root{number}"))


# Several labels a clip


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("file,label\na.wav,dog;rain\n", "list.csv line 2: expected one label a clip, got 2 in 'dog;rain'"),
        ("file,label\na.wav,dog\nb.wav,dog|rain|sea\n", "list.csv line 3: .*got 3"),
        ('file,label\na.wav,dog\nb.wav,"rain,dog"\n', "list.csv line 3: .*got 2 in 'rain,dog'"),
        ('file,label\na.wav,"dog, rain"\nb.wav,"rain, sea"\n', "list.csv line 2: .*got 2"),
        ("file,label\na.wav,\"['dog', 'rain']\"\n", "list.csv line 2: .*got 2"),
        ("file,labels\na.wav,[dog]\n", "list.csv line 2: .*got 1"),
        (
            "file,label,labels\na.wav,x,y\n",
            "list.csv line 1: expected one column of labels, got 'label', 'labels'",
        ),
        ("file,label 1,label 2\na.wav,x,y\n", "list.csv line 1: expected one column of labels"),
        (
            "file,label\na.wav,dog\na.wav,rain\n",
            "line 3: .*got 'rain' for 'a.wav', which is 'dog' at list.csv line 2",
        ),
    ],
)
def test_several_labels_in_a_csv_are_refused_with_the_reason(tree, text, pattern):
    refused(InputError, pattern + ".*the one class that wins", "manifest", manifest(tree, text))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"file": "a.wav", "label": ["dog", "rain"]}', "line 1, 'label': expected one label a clip as text"),
        ('{"file": "a.wav", "labels": ["dog"]}', "line 1, 'labels': expected one label a clip as text"),
        ('{"file": "a.wav", "label": {"dog": 1}}', "line 1, 'label': expected one label a clip as text"),
        ('{"file": "a.wav", "label": "x", "label_2": "y"}', "line 1: expected one column of labels"),
    ],
)
def test_several_labels_in_jsonl_are_refused_with_the_reason(tree, text, pattern):
    refused(InputError, pattern + ".*the one class that wins", "manifest", manifest(tree, text, "list.jsonl"))


def test_a_comma_alone_does_not_make_two_labels(tree):
    path = manifest(
        tree, 'file,labels\na.wav,"Child speech, kid speaking"\nb.wav,"Crying, sobbing"\nc.wav,Bark\n'
    )
    assert {item.label for item in items("manifest", path)} == {
        "Child speech, kid speaking",
        "Crying, sobbing",
        "Bark",
    }


def test_the_refusals_in_the_documentation_are_what_is_said(tree):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    listed = manifest(tree, "a.wav dog\n", "list.txt")
    root = tree({"metadata.csv": 'file_name,label\na.wav,dog\nb.wav,"rain,dog"\n'}, root="clips")
    for source, place in (("manifest", listed), ("folder", root)):
        with pytest.raises(InputError) as caught:
            items(source, place)
        assert f"\nsoundcert: {caught.value}\n" in page


# Speech Commands and ESC


@pytest.fixture
def commands(tree):
    return tree(
        {
            "yes/a_nohash_0.wav": None,
            "yes/b_nohash_0.wav": None,
            "no/a_nohash_0.wav": None,
            "no/c_nohash_1.wav": None,
            "_background_noise_/pink.wav": None,
            "validation_list.txt": "yes/b_nohash_0.wav\n",
            "testing_list.txt": "no/c_nohash_1.wav\r\nno/not_here.wav\n",
        }
    )


def test_speech_commands_as_downloaded(commands):
    assert names("speech_commands", commands, split="train") == ["no/a_nohash_0.wav", "yes/a_nohash_0.wav"]
    assert names("speech_commands", commands, split="validation") == ["yes/b_nohash_0.wav"]
    assert names("speech_commands", commands, split="test") == ["no/c_nohash_1.wav"]
    assert len(items("speech_commands", commands)) == 4


def test_speech_commands_refusals(commands, tree, tmp_path):
    refused(ConfigError, "did you mean 'testing'", "speech_commands", commands, split="testin")
    refused(ConfigError, "no folds; use data.split", "speech_commands", commands, folds=(1,))
    refused(ConfigError, "got neither", "speech_commands", tmp_path)
    lists = {"validation_list.txt": "", "testing_list.txt": ""}
    refused(InputError, "a folder of audio a word", "speech_commands", tree(lists, root="bare"))


ESC50 = (
    "filename,fold,target,category,esc10,src_file,take\n"
    "1-1-A-0.wav,1,0,dog,True,1,A\n"
    "2-1-A-36.wav,2,36,vacuum_cleaner,False,1,A\n"
    "2-2-A-1.wav,2,1,rooster,True,2,A\n"
)


def test_esc_as_downloaded(tree):
    root = tree({"meta/esc50.csv": ESC50, "audio/1-1-A-0.wav": None})
    found = items("esc50", root)
    assert [(item.name, item.label, item.fold) for item in found] == [
        ("audio/1-1-A-0.wav", "dog", 1),
        ("audio/2-1-A-36.wav", "vacuum_cleaner", 2),
        ("audio/2-2-A-1.wav", "rooster", 2),
    ]
    assert found[0].path == root / "audio/1-1-A-0.wav"
    assert [item.label for item in items("esc10", root)] == ["dog", "rooster"]
    assert [item.label for item in items("esc10", root, folds=[2])] == ["rooster"]


def test_esc_refusals(tree, tmp_path):
    root = tree({"meta/esc50.csv": ESC50})
    refused(ConfigError, "use data.folds", "esc10", root, split="test")
    refused(ConfigError, "got 6; the data has 1, 2", "esc10", root, folds=(6,))
    refused(ConfigError, "got neither", "esc50", tmp_path)
    few = tree({"meta.csv": "file,label,fold\na.wav,dog,1\n"}, root="few")
    refused(ConfigError, "use esc10", "esc50", few)
    many = tree(
        {"meta.csv": "file,label,fold\n" + "".join(f"{n}.wav,{n},1\n" for n in range(11))}, root="many"
    )
    refused(ConfigError, "use esc50", "esc10", many)


@pytest.mark.parametrize("file", ["../a.wav", "/etc/a.wav", "x/../../a.wav", "C:\\a.wav", "..\\a.wav"])
def test_a_data_set_stays_inside_its_root(tree, file):
    root = tree({"meta.csv": f"file,label,split,fold\n{file},dog,training,1\n"})
    refused(InputError, "line 2: expected a path inside", "esc10", root)
    refused(InputError, "line 2: expected a path inside", "speech_commands", root)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("file,label\na.wav,dog\n", "got no fold"),
        ("file,label,fold\na.wav,,1\n", "line 2: expected a value for 'label'"),
        ("file,label,fold\na.wav,dog,1\na.wav,dog,2\n", "line 3: expected each file once"),
        ("file,label,fold\n", "at least one clip"),
    ],
)
def test_broken_tables(tree, text, pattern):
    refused(InputError, pattern, "esc10", tree({"meta.csv": text}))


def test_shared_speech_commands(shared_data):
    root = shared_data("speech_commands")
    splits = Counter(item.split for item in items("speech_commands", root))
    assert splits == {"training": 6414, "validation": 783, "testing": 3644}
    found = items("speech_commands", root, split="test", labels=["yes", "no"], limit=20)
    assert {item.label for item in found} == {"yes", "no"}
    assert load_clip(found[0].path).rate == 16_000


def test_shared_esc10(shared_data):
    found = items("esc10", shared_data("esc10"))
    assert len(found) == 400
    assert Counter(item.fold for item in found) == dict.fromkeys(range(1, 6), 80)
    assert len({item.label for item in found}) == 10
    assert load_clip(found[0].path).frames == 80_000


# Filters


@pytest.fixture
def many(tree):
    return manifest(tree, "file,label\n" + "".join(f"{n:03}.wav,{'ab'[n % 2]}\n" for n in range(200)))


def test_limit_is_a_fixed_nested_sample(many):
    ten, twenty = names("manifest", many, limit=10), names("manifest", many, limit=20)
    assert len(ten) == 10
    assert ten == sorted(ten)
    assert set(ten) < set(twenty)
    assert ten == names("manifest", many, limit=10)
    assert ten != names("manifest", many, limit=10, shuffle_seed=1)
    assert ten != names("manifest", many)[:10]
    assert len(names("manifest", many, limit=1000)) == 200


def test_limit_stays_what_it_is(many):
    """A published run names its clips by limit and seed."""
    assert names("manifest", many, limit=3) == ["073.wav", "138.wav", "173.wav"]


def test_labels_and_label_map(many):
    found = items("manifest", many, labels=["a"], label_map={"a": "A"}, limit=5)
    assert [item.label for item in found] == ["A"] * 5
    merged = items("manifest", many, label_map={"a": "x", "b": "x"})
    assert {item.label for item in merged} == {"x"}


def test_label_refusals(commands, many):
    refused(
        ConfigError,
        "data.labels: .*got 'yess' \\(did you mean 'yes'",
        "speech_commands",
        commands,
        labels=["yess"],
    )
    refused(ConfigError, "data.label_map: .*got 'A'", "manifest", many, label_map={"A": "x"})
    kept = {"split": "validation", "labels": ["no"]}
    refused(ConfigError, "have no clip of no", "speech_commands", commands, **kept)


def test_yaml_booleans_are_explained():
    """`labels: [yes, no]` is [true, false] in YAML 1.1."""
    for kwargs in ({"labels": [True, False]}, {"label_map": {True: "x"}}, {"label_map": {"x": False}}):
        with pytest.raises(ConfigError, match="quotes"):
            DataConfig(source="folder", root="x", **kwargs)
    assert DataConfig(source="folder", root="x", labels=[0, "one"]).labels == ("0", "one")


# Configuration


def test_root_is_relative_to_the_configuration(tree, monkeypatch, tmp_path):
    root = tree(["a.wav"])
    config = DataConfig(source="folder", root="root")
    assert [item.path for item in load_items(config, base=tmp_path)] == [root / "a.wav"]
    assert load_items(DataConfig(source="folder", root=root), base=tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert [item.name for item in load_items(config)] == ["a.wav"]


def test_config_refusals():
    with pytest.raises(ConfigError, match="did you mean 'speech_commands'"):
        DataConfig(source="speechcommands", root="x")
    for wrong in ({"limit": 0}, {"folds": []}, {"labels": []}, {"colour": 1}, {"limit": "many"}):
        with pytest.raises(ValidationError):
            DataConfig(source="folder", root="x", **wrong)


def test_config_round_trips_and_describes_itself():
    config = DataConfig(source="speech_commands", root="x", split="test", labels=["a"], label_map={"a": "b"})
    assert config.split == "testing"
    assert DataConfig(**json.loads(config.model_dump_json())) == config
    properties = DataConfig.model_json_schema()["properties"]
    assert all(field["description"] for field in properties.values())
    assert all("\n" not in field["description"] for field in properties.values())


def test_every_source_is_described():
    infos = known_sources()
    schema = DataConfig.model_json_schema()["properties"]["source"]
    assert [info.name for info in infos][:5] == schema["examples"], "packages may add others"
    assert all(info.summary and info.layout and info.licence for info in infos)
