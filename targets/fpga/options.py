"""What only the FPGA target is asked: precision, error bound, calibration, throughput and budget."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...codegen.hls.interface import INTERFACES
from ...ir.errors import OptionError

MIN_BITS, MAX_BITS = 2, 18
AUTOMATIC = 0


@dataclass(frozen=True)
class FpgaOptions:
    """bits: of every value and weight, 0: the fewest that keep max_error.
    max_error: largest absolute error of an output against f32, on the calibration data; 0: two percent of the largest
    output.  calibration: an .npz; empty: seeded random data.  calibration_sha256: of its content.
    input_range: what the float inputs can be; None: -4 to 4, or as the calibration file has it.
    fps: frames per second to reach; 0: as many as the budget allows.
    max_dsp, max_lut, max_bram: the parts of the board that may be used.
    interface: of the ports, m_axi or axis.
    reloadable: weights and biases of products are in the board's memory, where others can take their place."""

    bits: int = 16
    max_error: float = 0.0
    calibration: str = ""
    calibration_sha256: str = ""
    input_range: tuple[float, float] | None = None
    fps: float = 0.0
    max_dsp: float = 0.8
    max_lut: float = 0.7
    max_bram: float = 0.8
    interface: str = "m_axi"
    reloadable: bool = False

    def recorded(self) -> dict[str, Any]:
        """Those that are not as by default, as JSON values; of a calibration file its content only."""
        skipped = {"calibration"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != getattr(FpgaOptions(), k)}


def make_fpga_options(given: Mapping[str, Any]) -> FpgaOptions:
    """Options from what a caller wrote.  Raises OptionError for unknown names and wrong values."""
    known = [f.name for f in fields(FpgaOptions) if f.name != "calibration_sha256"]
    given = {k: v for k, v in given.items() if v is not None}
    for name in given:
        if name not in known:
            raise OptionError(f"fpga: no option is called {name!r}; there are {', '.join(known)}")
    values = dict(given)
    if values.get("bits") == "auto":
        values["bits"] = AUTOMATIC
    for name in ("max_dsp", "max_lut", "max_bram"):
        if name in values:
            values[name] = _fraction(name, values[name])
    if "calibration" in values:
        values["calibration"] = str(values["calibration"])
        values["calibration_sha256"] = _digest(values["calibration"])
    if "input_range" in values:
        values["input_range"] = _range(values["input_range"])
    made = FpgaOptions(**values)
    if made.bits != AUTOMATIC and not (isinstance(made.bits, int) and MIN_BITS <= made.bits <= MAX_BITS):
        raise OptionError(f"bits: expected {MIN_BITS} to {MAX_BITS}, or auto, got {made.bits!r}")
    if made.interface not in INTERFACES:
        raise OptionError(f"interface: expected {' or '.join(INTERFACES)}, got {made.interface!r}")
    for name in ("max_error", "fps"):
        value = getattr(made, name)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise OptionError(f"{name}: expected a number that is not negative, got {value!r}")
    return made


def _fraction(name: str, value: Any) -> float:
    text = str(value)
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 1:
        raise OptionError(f"{name}: expected a part such as 80% or 0.8, got {value!r}")
    return number


def _range(value: Any) -> tuple[float, float]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    try:
        low, high = (float(p) for p in parts)
    except (TypeError, ValueError) as error:
        raise OptionError(f"input_range: expected LOW,HIGH, got {value!r}") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise OptionError(f"input_range: expected LOW below HIGH, got {value!r}")
    return low, high


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise OptionError(f"calibration: cannot read {path}: {error}") from error
