"""A few seconds of the fuzzers, and the files of old findings.  The long runs are `make fuzz`; see docs/reliability.md."""

from __future__ import annotations

import functools
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from fuzz import damaged, graphs, regions
from fuzz.draw import Tensor
from fuzz.models import OPERATORS, PATTERNS, random_model
from fuzz.mutations import mutate
from fuzz.pool import Limits, run_cases
from fuzz.shrink import shrink

FOUND = sorted((Path(__file__).parent / "found").glob("*.onnx"))
WRONG = sorted((Path(__file__).parent / "found" / "targets").glob("*.onnx"))
NEEDS = {"xla": "jax", "tvm": "tvm"}


@pytest.mark.parametrize("chunk", range(4))
def test_random_models(chunk: int) -> None:
    """The interpreter and machine code agree with what each node alone gave."""
    verdicts = {}
    for outcome in run_cases(functools.partial(graphs.check, ("interpreter", "cpu")), range(chunk * 8, chunk * 8 + 8)):
        assert outcome.kind == "done", outcome
        verdicts[outcome.case] = outcome.value
    wrong = {c: v for c, said in verdicts.items() for v in said.values() if v != "ok" and not v.startswith("declined")}
    assert not wrong
    assert sum(v == "ok" for said in verdicts.values() for v in said.values()) > 12


def test_damaged_files() -> None:
    kinds: Counter[str] = Counter()
    for outcome in run_cases(functools.partial(damaged.run, 0), range(150), limits=damaged.LIMITS):
        assert outcome.kind == "done", f"case {outcome.case}: {outcome.kind}: {outcome.value}"
        kinds[outcome.value.partition(" ")[0]] += 1
    assert kinds["refused"] > 40 and kinds["compiled"] > 6


@pytest.mark.parametrize("path", FOUND, ids=lambda p: p.stem)
def test_files_that_were_trouble_once(path: Path) -> None:
    """Reduced from findings of the fuzzer: a traceback, a hang or too much memory at the time."""
    (outcome,) = run_cases(lambda _: damaged.examine(path.read_bytes()), [0], limits=damaged.LIMITS)
    assert outcome.kind == "done", f"{outcome.kind}: {outcome.value}"


@pytest.mark.parametrize("path", WRONG, ids=lambda p: p.stem)
def test_models_that_a_target_got_wrong_once(path: Path) -> None:
    """TARGET-what.onnx, with its inputs and outputs in an .npz: right by now, or refused (`-refused`)."""
    target = path.stem.partition("-")[0]
    if target in NEEDS:
        pytest.importorskip(NEEDS[target])
    with np.load(path.with_suffix(".npz")) as arrays:
        tensors = {n: Tensor(n, a, a) for n, a in arrays.items()}
    said = graphs.verdict(onnx.load(path), tensors, target)
    if "TargetError" in said:
        pytest.skip(said)
    assert said.partition(":")[0] == ("declined" if path.stem.endswith("-refused") else "ok"), said


def test_quantized_regions_on_fpga() -> None:
    """Every code is the model's, ties included."""
    said = {seed: regions.verdict(*regions.random_region(seed)) for seed in range(60)}
    assert not {seed: v for seed, v in said.items() if not v.startswith(("ok", "noted"))}
    assert sum(v == "ok" for v in said.values()) > 55


def test_every_row_of_the_table_is_drawn() -> None:
    models = [random_model(seed) for seed in range(200)]
    drawn = {f"{n.domain}:{n.op_type}".lstrip(":") for m in models for n in m.model.graph.node}
    missing = {op for op in (*OPERATORS, *(p for p in PATTERNS if ":" in p)) if op not in drawn}
    assert len(missing) <= 12, missing
    assert {m.opset for m in models} >= set(range(7, onnx.defs.onnx_opset_version() + 1))


def test_one_seed_one_model() -> None:
    first, second = (random_model(3).model.SerializeToString() for _ in range(2))
    assert first == second
    seeds = damaged.seeds()[:50]
    assert mutate(seeds, random.Random("a")) == mutate(seeds, random.Random("a"))


def test_wrong_numbers_are_found_and_made_small() -> None:
    """The oracle itself: a compiler that adds one to every sigmoid is caught, and the model shrinks to that node."""
    seed = next(s for s in range(1000) if "Sigmoid" in {n.op_type for n in random_model(s).model.graph.node})
    made = random_model(seed)

    def fails(model: onnx.ModelProto) -> bool:
        return any(n.op_type == "Sigmoid" for n in model.graph.node)

    small = shrink(made.model, made.tensors, fails)
    assert [n.op_type for n in small.graph.node if n.op_type != "Constant"] == ["Sigmoid"]
    (output,) = small.graph.output
    tensor = made.tensors[output.name]
    assert not graphs.difference(tensor.value, tensor, "cpu")
    assert graphs.difference(tensor.value + np.asarray(1, tensor.dtype), tensor, "cpu").startswith(output.name)


def _misbehave(case: int) -> str:
    if case == 1:
        raise ValueError("planned")
    if case == 2:
        signal.raise_signal(signal.SIGSEGV)
    if case == 3:
        time.sleep(60)
    if case == 4:
        return str(len(bytes(8 << 30)))
    return "fine"


def test_the_pool_reports_crashes_hangs_and_memory() -> None:
    outcomes = {o.case: o for o in run_cases(_misbehave, range(6), limits=Limits(seconds=1, memory=1 << 30))}
    assert [outcomes[c].kind for c in range(6)] == ["done", "raised", "crash", "hang", "raised", "done"]
    assert "planned" in outcomes[1].value and outcomes[2].value == "SIGSEGV" and "MemoryError" in outcomes[4].value
