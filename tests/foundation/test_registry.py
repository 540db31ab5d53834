import pytest

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import Registry, nearest


def test_a_duplicate_is_refused():
    registry = Registry("thing")
    registry.register("a", 1)
    with pytest.raises(UserError, match="thing 'a' is already registered"):
        registry["a"] = 2


def test_an_unknown_name_lists_the_nearest():
    registry = Registry("algorithm")
    registry.register("CORAL", 1)
    registry.register("ERM", 2)
    with pytest.raises(UserError, match=r"unknown algorithm 'coral': did you mean CORAL\?"):
        registry.load("coral")


def test_without_a_near_name_all_are_listed():
    registry = Registry("algorithm")
    registry.register("CORAL", 1)
    registry.register("ERM", 2)
    with pytest.raises(UserError, match=r"known: CORAL, ERM\."):
        registry.load("zzzzzz")


def test_a_path_is_imported_on_first_use():
    registry = Registry("function")
    registry.register("hash", "sfmoe_dg.foundation.seeds:seed_hash")
    assert registry.load("hash")(0, 0) == 894182419
    assert callable(registry["hash"])


def test_nearest_ignores_case():
    assert nearest("sfmoe", ["SFMoE", "ERM"]) == ["SFMoE"]
