"""Which runs grids and lists ask for, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from layerscope.errors import ConfigurationError
from layerscope.launch.grid import Point, expand, parse_grid
from layerscope.launch.names import name_runs


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("seed_everything=1,2, 3", "seed_everything", ["1", "2", "3"]),
        ("--model.layers=[1,2],[3]", "model.layers", ["[1,2]", "[3]"]),
        ('m.o={"a": [1, 2], "b": "x,}"},null', "m.o", ['{"a": [1, 2], "b": "x,}"}', "null"]),
        ("title=\"a,b\",'c, d',e", "title", ["a,b", "c, d", "e"]),
        ("data.path=it's.jpg,its.jpg", "data.path", ["it's.jpg", "its.jpg"]),
        ("data.path=a (1).jpg,b).jpg", "data.path", ["a (1).jpg", "b).jpg"]),
        ("x=a=b,c", "x", ["a=b", "c"]),
        ('x="",0', "x", ["", "0"]),
        ("trainer.callbacks+=a.B,a.C", "trainer.callbacks+", ["a.B", "a.C"]),
    ],
)
def test_a_grid_is_split_at_its_own_commas(text: str, key: str, values: list[str]) -> None:
    assert parse_grid(text) == (key, values)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ([], "needs a --grid or a --list"),
        (["seed"], "no KEY= in front.*The form is --grid KEY="),
        (["=1,2"], "no KEY= in front"),
        (["a b=1"], "no name of a setting"),
        (["seed="], "lacks a value"),
        (["seed=1,,2"], "lacks a value"),
        (["seed=1,2,1"], "has 1 more than once"),
        (["seed=1,2", "--seed=3"], "Two grids are of seed"),
        (["x=[1,2"], "']' is missing"),
        (["x=1]"], "closes nothing"),
        (["data.path=glob(nowhere/*.jpg)"], "No file matches"),
        (["output_root=a,b"], "the sweep's own"),
    ],
)
def test_what_is_no_grid(grids: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        expand(grids)


def test_files_that_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a,1.jpg", "c.png", "more/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert parse_grid("data.path=glob(*.jpg),c.png")[1] == ["a,1.jpg", "b.jpg", "c.png"]
    assert parse_grid("data.path=glob(**/[bd].jpg)")[1] == ["b.jpg", "more/d.jpg"]


def test_grids_and_list_are_multiplied(tmp_path: Path) -> None:
    listing = tmp_path / "runs.yaml"
    entries = [
        {"name": "small", "config": "a.yaml", "model.layers": [1, "x"], "flag": True, "none": None},
        {"grid": {"model.lr": [0.1, 0.2]}, "text": "1e3"},
    ]
    listing.write_text(yaml.safe_dump(entries))
    points = expand(["seed_everything=1,2"], listing)
    small = {"config": "a.yaml", "model.layers": '[1, "x"]', "flag": "true", "none": "null"}
    values = [small, {"text": "1e3", "model.lr": "0.1"}, {"text": "1e3", "model.lr": "0.2"}]
    assert [point.values for point in points] == [
        {**value, "seed_everything": seed} for value in values for seed in ("1", "2")
    ]
    assert name_runs(points) == [
        *("small_seed-1", "small_seed-2"),
        *(f"text-1e3_lr-{lr}_seed-{seed}" for lr in (0.1, 0.2) for seed in (1, 2)),
    ]
    with pytest.raises(ConfigurationError, match=r"runs\.yaml sets flag, and so does --grid"):
        expand(["flag=true,false"], listing)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1", "holds a mapping; expected is a list"),
        ("", "holds nothing"),
        ("[{a: 1}, 3]", "entry 2 is 3"),
        ("[{1: 2}]", "entry 1: the key 1 is"),
        ("[{grid: {a: 1}}]", "give each setting a list"),
        ("[{name: x, grid: {a: [1]}}]", "leave out the name"),
        ("[{name: [x], a: 1}]", "the name is a list"),
        ("[{a: 1, grid: {a: [2]}}]", "sets a in its grid and beside it"),
        ("[{a: 1}, {a: 1}]", "Runs 1 and 2 of the sweep are the same: a=1"),
        ("[{name: x, a: 1}, {name: x, a: 2}]", "several entries of the name x"),
        ("[{config: 3}]", "config is expected to be the name of a file"),
        ("[{experiment_name: x}]", "the sweep's own"),
        ("[{a: [}]", "cannot be read as YAML"),
    ],
)
def test_what_is_no_list(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "runs.yaml").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        expand([], tmp_path / "runs.yaml")


@pytest.mark.parametrize(
    ("grids", "names"),
    [
        (["model.latent_channels=4", "seed_everything=1,2"], ["seed-1", "seed-2"]),
        (
            ["seed_everything=1,2", "model.init_args.latent_channels=4,8"],
            [f"latent_channels-{n}_seed-{seed}" for seed in (1, 2) for n in (4, 8)],
        ),
        (["model.latent_channels=4", "seed_everything=1"], ["latent_channels-4_seed-1"]),
        (["m.init_args.o.init_args.lr=1,2", "d.o.lr=3,4"], [f"m.o.lr-{a}_d.o.lr-{b}" for a in "12" for b in "34"]),
        (["config=x/a.yaml,y/b.yaml"], ["a", "b"]),
        (["config=x/a.yaml,y/a.yaml"], ["x", "y"]),
        (["m.source=outputs/a/vae_final,outputs/b/vae_final"], ["a", "b"]),
        (["m.source=org/clip-large,org/clip-base"], ["clip-large", "clip-base"]),
        (["data.path=photos/cat.jpg,photos/more/my dog.png"], ["cat", "my-dog"]),
        (["data.path=photos/cat.jpg,photos/cat.png"], ["cat.jpg", "cat.png"]),
        (["m.o.class_path=torch.optim.SGD,torch.optim.AdamW"], ["SGD", "AdamW"]),
        (["x=-1,1"], ["x--1", "x-1"]),
    ],
)
def test_names_tell_what_differs(grids: list[str], names: list[str]) -> None:
    assert name_runs(expand(grids)) == names


def test_names_are_plain_files_and_unique_whatever_the_values() -> None:
    values = ["a b", "a/b", "a:b", "A-B", "..", "x" * 300, "日本" * 90, "=1", "\n", "null", ""]
    names = name_runs([Point({"m.x": value, "data.y": ".hidden"}) for value in values])
    assert len({name.casefold() for name in names}) == len(values)
    for name in names:
        assert Path(name).name == name
        assert name[0] not in ".-"
        assert name.isprintable()
        assert len(f".{name}.json.partial".encode()) < 255
    with pytest.raises(ConfigurationError, match="names a run 'a/b'"):
        name_runs([Point({"x": "1"}, "a/b")])
