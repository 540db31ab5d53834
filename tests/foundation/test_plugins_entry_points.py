"""Packages that extend the registries by entry points: they are listed and usable; broken ones and name clashes are
reported."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path

import pytest
import torch
from installed import command, install, offer

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation import registry as registry_module
from sfmoe_dg.foundation.checked import value
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.plugins import load_plugins
from sfmoe_dg.foundation.registry import REGISTRIES, BrokenPlugin, Registry, open_registry
from sfmoe_dg.models.backbones import BACKBONES, build_backbone
from sfmoe_dg.sweeps.launch.launcher import LAUNCHERS, check_launch, make_settings
from sfmoe_dg.sweeps.launch.settings import LaunchSettings
from sfmoe_dg.sweeps.plan import load_plans, plan, save_plan
from sfmoe_dg.sweeps.study import make_spec

EXAMPLE = Path(__file__).parent / "example_plugin"
STUDY = """
datasets = ["Shades"]
algorithms = ["HalfERM"]
n_trials = 1
n_hparams = 1
test_envs = [[0]]
steps = 2

[hparams]
batch_size = 4
backbone = "mean_colour"

[launch]
pause = 0.1
"""


# ------------------------------------------------------------------------------------------------- in this process


@pytest.fixture
def things(tmp_path, monkeypatch):
    """A registry of numbers, the sources of two packages, and a function that has them offer things."""
    (tmp_path / "first_things.py").write_text("one = 1\ntwo = 2\nraise_later = []\n")
    (tmp_path / "broken_things.py").write_text("import sys\n\nvalue = missing_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def offered(**packages: dict[str, str]) -> Registry[int]:
        points = []
        for name, values in packages.items():
            offer(tmp_path, name, "1.0", {"things": values})
            dist = PathDistribution(tmp_path / f"{name}-1.0.dist-info")
            points += list(dist.entry_points)
        monkeypatch.setattr(registry_module, "_entry_points", lambda group: points if group == "things" else [])
        found: Registry[int] = Registry(
            "thing", "things", lambda name, value: "" if isinstance(value, int) else "no number"
        )
        found.register("zero", 0)
        return found

    return offered


def test_what_is_offered_comes_behind_what_is_registered(things):
    registry = things(first={"one": "first_things:one", "two": "first_things:two"})
    assert list(registry) == ["zero", "one", "two"]
    assert (len(registry), "two" in registry, "three" in registry) == (3, True, False)
    assert list(registry.registered) == ["zero"]
    assert (registry.load("one"), registry.load("zero"), registry["one"]) == (1, 0, 1)
    with pytest.raises(UserError, match=r"unknown thing 'twoo': did you mean two\?"):
        registry.load("twoo")


def test_nothing_is_looked_for_while_names_are_registered(monkeypatch):
    def fails(group: str) -> list[EntryPoint]:
        raise AssertionError("looked")

    monkeypatch.setattr(registry_module, "_entry_points", fails)
    registry: Registry[int] = Registry("thing", "things")
    registry.register("zero", 0)
    assert "zero" in registry
    assert registry["zero"] == 0
    with pytest.raises(AssertionError):
        list(registry)


def test_a_broken_package_is_named_and_the_others_work(things):
    registry = things(
        bad={"three": "broken_things:value", "four": "first_things:four"}, first={"one": "first_things:one"}
    )
    with pytest.raises(BrokenPlugin) as caught:
        registry.load("three")
    assert str(caught.value).startswith(
        "thing 'three' of package bad 1.0 cannot be loaded from broken_things:value: "
        "NameError: name 'missing_name' is not defined ("
    )
    assert str(caught.value).endswith("broken_things.py, line 3); mend or uninstall that package")
    with pytest.raises(BrokenPlugin, match=r"thing 'four' of package bad 1.0 .* AttributeError: .*'four'"):
        registry.load("four")
    assert registry.load("one") == 1
    assert list(registry) == ["zero", "three", "four", "one"]


def test_what_is_no_such_thing_is_refused(things):
    registry = things(first={"list": "first_things:raise_later"})
    with pytest.raises(BrokenPlugin, match=r"thing 'list' of package first 1.0 is no number; mend or uninstall"):
        registry.load("list")


def test_two_of_a_name_are_refused_with_both_named(things):
    registry = things(first={"one": "first_things:one", "zero": "first_things:one"}, second={"one": "first_things:two"})
    with pytest.raises(
        UserError, match=r"thing 'one' comes from package first 1.0 and from package second 1.0; uninst"
    ):
        registry.load("one")
    with pytest.raises(UserError, match=r"thing 'zero' comes from module unknown and from package first 1.0;"):
        registry.load("zero")
    assert len(registry) == 2


def test_a_module_may_register_what_its_package_offers(things):
    registry = things(first={"one": "first_things:one"})
    registry.register("one", 1)
    assert registry.load("one") == 1


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("algorithms", "sfmoe_dg.algorithms"),
        ("backbones", "sfmoe_dg.backbones"),
        ("datasets", "sfmoe_dg.datasets"),
        ("launchers", "sfmoe_dg.launchers"),
        ("loggers", "sfmoe_dg.loggers"),
        ("analyses", "sfmoe_dg.analyses"),
    ],
)
def test_every_registry_has_its_group(name, group):
    assert open_registry(name).group == group
    assert len(REGISTRIES) == 6


# ------------------------------------------------------------------------------------------------------- --plugin


def test_a_plugin_file_that_fails_is_one_sentence_and_is_imported_anew_when_mended(tmp_path):
    path = tmp_path / "unready_objective.py"
    path.write_text("x = 1\ny = 1 / 0\n")
    with pytest.raises(UserError, match=r"unready_objective.py' cannot be imported: ZeroDivisionError: .*, line 2\)$"):
        load_plugins([str(path)])
    path.write_text(
        "from sfmoe_dg.foundation.registry import Registry\n\nFOUND = Registry('x')\n# longer than before\n"
    )
    load_plugins([str(path), str(path)])
    other = tmp_path / "elsewhere" / path.name
    other.parent.mkdir()
    other.write_text("")
    with pytest.raises(UserError, match="have the same name; rename one of them"):
        load_plugins([str(other)])


def test_a_class_that_is_no_algorithm_is_refused():
    ALGORITHMS.register("NoAlgorithm", dict)
    try:
        with pytest.raises(UserError, match="algorithm 'NoAlgorithm' is something else than a class derived from"):
            ALGORITHMS.load("NoAlgorithm")
    finally:
        del ALGORITHMS["NoAlgorithm"]


# --------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where the example is installed, beside a package that is broken and one that takes ERM's name."""
    target = tmp_path_factory.mktemp("site")
    install(EXAMPLE, target)
    broken = {f"sfmoe_dg.{kind}": {f"lost_{kind}": "nowhere_at_all:x"} for kind in REGISTRIES}
    offer(target, "broken-example", "2.0", broken)
    offer(target, "takes-erm", "1.0", {"sfmoe_dg.algorithms": {"ERM": "sfmoe_dg_example:HalfERM"}})
    return target


@pytest.fixture
def visible(site, monkeypatch) -> None:
    """The packages of ``site``, for commands in this process."""
    monkeypatch.syspath_prepend(str(site))
    for what in REGISTRIES:
        registry = open_registry(what)
        monkeypatch.setattr(registry, "_offers", None)
        monkeypatch.setattr(registry, "_loaded", {})


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("backbones", "mean_colour  the mean of every channel, and nothing learned; from sfmoe-dg-example 0.3"),
        ("datasets", "Shades  2 classes  no files  near, apart, far; from sfmoe-dg-example 0.3"),
        ("launchers", "in_turn  Starts one run after another.; from sfmoe-dg-example 0.3"),
        ("analyses", "brightness  how bright the pictures of every domain are; from sfmoe-dg-example 0.3"),
        ("algorithms", "HalfERM  an example  2026  from sfmoe-dg-example 0.3"),
    ],
)
def test_names_are_listed_with_their_package_and_what_is_broken_beside_them(visible, capsys, what, line):
    assert main(["list", what]) == 1
    printed, notes = capsys.readouterr()
    assert line.split() in [row.split() for row in printed.splitlines()]
    assert f"lost_{what}' of package broken-example 2.0 cannot be loaded from nowhere_at_all:x" in notes
    assert len(printed.splitlines()) > 3


def test_a_name_of_ours_that_a_package_takes_is_refused_and_others_are_not(visible, capsys):
    words = ["train", "--dataset", "Debug28", "--dry_run", "--hparams", '{"batch_size": 2}', "--algorithm"]
    assert main([*words, "ERM"]) == 2
    assert capsys.readouterr().err == (
        "sfmoe-dg: error: algorithm 'ERM' comes from sfmoe_dg.algorithms.erm:ERM and from package takes-erm 1.0; "
        "uninstall one, or have it take another name\n"
    )
    assert main([*words, "CORAL"]) == 0


@pytest.mark.parametrize(
    ("hparams", "said"),
    [
        ({"backbone": "mean_colour", "num_experts": 3}, "'mean_colour' is dense and has no use for num_experts"),
        ({"backbone": "mean_color"}, "unknown backbone 'mean_color': did you mean mean_colour"),
        ({"backbone": "lost_backbones"}, "of package broken-example 2.0 cannot be loaded"),
    ],
)
def test_a_packages_backbone_is_refused_like_ours(visible, capsys, hparams, said):
    words = ["train", "--dataset", "Shades", "--algorithm", "HalfERM", "--dry_run"]
    assert main([*words, "--hparams", json.dumps(hparams | {"batch_size": 4})]) == 2
    notes = capsys.readouterr().err
    assert said in notes
    assert len(notes.splitlines()) == 1


def test_a_backbone_that_returns_something_else_and_one_with_timms_name(monkeypatch):
    hparams = default_hparams("ERM", "StyledDigits")
    monkeypatch.setitem(BACKBONES, "bare", lambda input_shape, hparams: torch.nn.Identity())
    with pytest.raises(UserError, match=r"backbone 'bare' is built as a Identity; .* must return a Featurizer"):
        build_backbone((3, 32, 32), hparams | {"backbone": "bare"})
    monkeypatch.setitem(BACKBONES, "resnet18", lambda input_shape, hparams: torch.nn.Identity())
    with pytest.raises(UserError, match=r"backbone 'resnet18' of module .* is also one of sfmoe-dg or timm; rename it"):
        build_backbone((3, 32, 32), hparams | {"backbone": "resnet18"})


def test_a_package_declares_keys_of_its_launcher(visible):
    launchers = open_registry("launchers")
    values = check_launch({"pause": 2, "cpus": 3}, "[launch]")
    told = make_settings(launchers.load("in_turn")(), values)
    assert (told.pause, told.device, hasattr(told, "cpus")) == (2, "auto", False)
    assert not hasattr(make_settings(launchers.load("slurm")(), values), "pause")
    with pytest.raises(UserError, match=r"key 'pause' in \[launch\] is -1; it must be at least 0"):
        check_launch({"pause": -1}, "[launch]")
    with pytest.raises(UserError, match=r"unknown key 'pauze' in \[launch\]: did you mean pause"):
        check_launch({"pauze": 1}, "[launch]")


def test_a_launcher_whose_settings_are_something_else_is_refused():
    LAUNCHERS.register("odd", type("Odd", (), {"settings": dict}))
    try:
        with pytest.raises(UserError, match="launcher 'odd' is one whose settings are not a class derived from"):
            LAUNCHERS.load("odd")
    finally:
        del LAUNCHERS["odd"]


def test_two_launchers_may_mean_different_things_by_a_key():
    """A study names no launcher, so that a value is right if it is for one; the launcher that runs looks again."""

    @dataclass(frozen=True)
    class Hours(LaunchSettings):
        time: float = value(1.5, above=0)

    LAUNCHERS.register("hourly", type("Hourly", (), {"settings": Hours}))
    try:
        for time in (2.5, "12:00:00"):
            assert check_launch({"time": time}, "here") == {"time": time}
        with pytest.raises(UserError, match="key 'time' in here is 'long'; it must be minutes, or"):
            check_launch({"time": "long"}, "here")
        assert make_settings(LAUNCHERS.load("hourly"), {}) == Hours()
        with pytest.raises(UserError, match=r"key 'time' in \[launch\] is '12:00:00'; it must be a number above 0"):
            make_settings(LAUNCHERS.load("hourly"), {"time": "12:00:00"})
    finally:
        del LAUNCHERS["hourly"]


def test_a_saved_study_is_read_where_its_launcher_is_gone(visible, tmp_path, monkeypatch):
    study = {"name": "x", "datasets": ["Shades"], "algorithms": ["ERM"], "n_trials": 1, "n_hparams": 1}
    spec = make_spec(study | {"launch": {"pause": 3}}, "here")
    saved = json.loads(save_plan(spec, None, tmp_path).read_text())["spec"]["launch"]
    assert (saved["pause"], saved["jobs"]) == (3, 1)
    del LAUNCHERS.offers["in_turn"]
    monkeypatch.setattr(LAUNCHERS, "_loaded", {})
    with pytest.raises(UserError, match="unknown key 'pause'"):
        check_launch({"pause": 3}, "here")
    assert load_plans(tmp_path) == plan(spec, None)


def test_a_sweep_of_a_packages_objective_backbone_and_data_by_its_launcher(site, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(site)}
    (tmp_path / "study.toml").write_text(STUDY)
    words = ["sweep", str(tmp_path / "study.toml"), "--output_dir", str(tmp_path / "out"), "--launcher", "in_turn"]
    result = command(*words, env=environment)
    assert result.returncode == 0, result.stderr
    assert "HalfERM" in result.stdout
    (records,) = (tmp_path / "out").glob("*/results.jsonl")
    record = json.loads(records.read_text().splitlines()[-1])
    assert record["hparams"]["half"] == 0.5
    assert record["loss"] == pytest.approx(record["whole_loss"] / 2)
    drawn = command("analyze", str(records.parent), "--what", "brightness", env=environment)
    assert drawn.returncode == 0, drawn.stderr
    assert (records.parent / "figures" / "brightness.png").exists()
    # Nobody's queue is known of the broken launcher; what is there is shown all the same.
    status = command("status", "--output_dir", str(tmp_path / "out"), env=environment)
    assert status.returncode == 0, status.stderr
