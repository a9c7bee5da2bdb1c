"""Options are checked once; what decides the artifact is in the key, and only that."""

from __future__ import annotations

import pytest
from tilewright import OptionError
from tilewright.compiler.options import Options, make_options, nearest
from tilewright.compiler.target_options import check_target_options
from tilewright.compiler.targets import find_target


def test_equal_requests_have_equal_keys() -> None:
    a = make_options(shapes={"x": (1, 3), "a": (2,)}, dims={"n": 4}, emit=["asm", "object"])
    b = make_options(shapes={"a": [2], "x": [1, 3]}, dims={"n": 4}, emit="object,asm")
    assert a == b
    assert a.result_key() == b.result_key()


def test_only_what_decides_the_bytes_is_in_the_key() -> None:
    plain = Options()
    assert plain.result_key() == Options(verify=False, print_after=("fuse",), check_passes=True, jobs=2).result_key()
    assert plain.result_key() != Options(accuracy="strict").result_key()
    assert plain.result_key() != Options(name="net").result_key()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accuracy": "strickt"}, ["accuracy", "strickt", "did you mean 'strict'"]),
        ({"emit": "assm"}, ["emit", "did you mean 'asm'"]),
        ({"print_after": "fold_constant", "known_stages": ["fold_constants"]}, ["did you mean 'fold_constants'"]),
        ({"name": "2net"}, ["name", "C identifier", "2net"]),
        ({"name": "a b"}, ["name", "C identifier"]),
        ({"embed_limit": -1}, ["embed_limit", "bytes", "-1"]),
        ({"jobs": 0}, ["jobs", "positive", "0"]),
        ({"dims": 3}, ["dims: expected a dict by name, got 3"]),
        ({"dims": {"batch": -1}}, ["dims['batch']", "-1"]),
        ({"dims": {"batch": 2**60}}, ["dims['batch']", "2^40"]),
        ({"dims": {"batch": True}}, ["dims['batch']", "True"]),
        ({"shapes": {"x": "1x3"}}, ["shapes['x']", "(1, 3, 224, 224)"]),
        ({"shapes": {"x": (1, 2.5)}}, ["shapes['x'][1]", "2.5"]),
    ],
)
def test_wrong_values_say_what_was_expected(settings: dict, words: list[str]) -> None:
    with pytest.raises(OptionError) as error:
        make_options(**settings)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("settings", "target", "takers"),
    [({"fpga": {"bits": 8}}, "cpu", "fpga"), ({"shard": "data=4"}, "cpu", "tpu"), ({"precision": "bf16"}, "fpga", "tvm"),
     ({"emit": "asm"}, "xla", "cpu or cuda"), ({"cc": "gcc"}, "fpga", "cpu or cuda")],
)
def test_options_of_other_targets_are_refused(settings: dict, target: str, takers: str) -> None:
    options = make_options(**settings)
    with pytest.raises(OptionError, match=f"target {target} has no such option; leave it out, or use the target .*{takers}$"):
        check_target_options(options, find_target(target))
    check_target_options(options, find_target(takers.split()[0]))


@pytest.mark.parametrize(("word", "meant"), [("gpu", "cuda"), ("ARM64", "cpu:aarch64"), ("sm_90", "cuda:sm_90")])
def test_other_names_of_targets_are_understood(word: str, meant: str) -> None:
    with pytest.raises(OptionError, match=f"did you mean '{meant}'"):
        find_target(word)


def test_nearest_is_silent_without_a_likeness() -> None:
    assert nearest("zzz", ["default", "strict"]) == ""
