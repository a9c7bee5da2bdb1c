"""Image files that models decode: the C decoders against Pillow and against damaged files, and libraries that hold them."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper
from tilewright.compiler.onnx_backend import CpuBackend, InterpreterBackend
from tilewright.ir.errors import ModelError, OptionError, TargetError
from tilewright.ir.ops.image_file import ORDERS, decoded
from tilewright.targets.cpu.link import write_runtime_sources
from tilewright.targets.cpu.sources import PART_SOURCES

from .image_samples import ROUNDED, SAMPLES, every_sample, jpeg_samples, picture, png_samples

Decoded = Union[np.ndarray, str]
MOST = 256


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that decodes files, under the address and undefined behaviour sanitizers."""
    folder = tmp_path_factory.mktemp("image_files")
    sources = write_runtime_sources(folder, PART_SOURCES["image"])
    driver = Path(__file__).parent / "image_files.c"
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", *sanitizers, "-I.", "-c"]
    parts = [part for n in range(4) if (part := [*sources, str(driver)][n::4])]
    for running in [subprocess.Popen(["cc", *flags, *part], cwd=folder) for part in parts]:
        assert running.wait() == 0
    objects = [str(p) for p in sorted(folder.glob("*.o"))]
    subprocess.run(["cc", *sanitizers, *objects, "-lm", "-o", "decoder"], cwd=folder, check=True)
    return folder / "decoder"


def decode(program: Path, files: Sequence[bytes], order: str = "RGB") -> list[Decoded]:
    """The pixels of each file, or the message of its failure."""
    head = (MOST, MOST, ORDERS.index(order))
    given = b"".join(struct.pack("<4I", len(f), *head) + f for f in files)
    done = subprocess.run([program], input=given, capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    made: list[Decoded] = []
    data, at, channels = done.stdout, 0, 1 if order == "Grayscale" else 3
    for _ in files:
        status, height, width = struct.unpack_from("<3I", data, at)
        at += 12
        size = height * width * channels
        if status:
            (size,) = struct.unpack_from("<I", data, at)
            at += 4
            made.append(data[at : at + size].decode())
        else:
            made.append(np.frombuffer(data, np.uint8, size, at).reshape(height, width, channels))
        at += size
    assert at == len(data)
    return made


@pytest.mark.parametrize("format", SAMPLES)
def test_what_pillow_sees(decoder: Path, format: str) -> None:
    samples = every_sample(format)
    for order in ORDERS if format == "PNG" else ORDERS[:1]:
        for (name, data), got in zip(samples, decode(decoder, [data for _, data in samples], order), strict=True):
            assert not isinstance(got, str), f"{name}: {got}"
            expected = decoded(np.frombuffer(data, np.uint8), order).astype(int)
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() <= ROUNDED.get(format, 0), f"{format} {name} {order}"


def damaged(samples: Sequence[bytes], count: int, seed: int) -> list[bytes]:
    """Files with changed bytes, ends and middles cut away, and parts of others."""
    r = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        data = bytearray(samples[r.integers(len(samples))])
        for _ in range(r.integers(1, 6)):
            at = int(r.integers(len(data))) if r.random() < 0.6 else int(r.integers(min(64, len(data))))
            match r.integers(6):
                case 0 | 1:
                    data[at] = r.integers(256)
                case 2:
                    data[at] ^= 1 << int(r.integers(8))
                case 3:
                    data[at : at + 4] = bytes([(0, 255, 127, 128)[r.integers(4)]] * int(r.integers(1, 5)))
                case 4:
                    del data[at : at + int(r.integers(1, 9))]
                case _:
                    other = samples[r.integers(len(samples))]
                    data[at:at] = other[at : at + int(r.integers(1, 40))]
            data = data or bytearray(b"\0")
        cut = data[: r.integers(1, len(data) + 1)] if r.random() < 0.1 else data
        made.append(with_checksums(bytes(cut)) if r.random() < 0.9 else bytes(cut))
    return made


def with_checksums(data: bytes) -> bytes:
    """A PNG file whose chunks have right checksums again, so that what is in them is read; other files as they are."""
    made, at = data[:8], 8
    while made[:4] == b"\x89PNG" and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        made += data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return made + data[at:] if made[:4] == b"\x89PNG" else data


def small_samples(format: str) -> list[bytes]:
    made = SAMPLES[format]
    return [data for height, width in ((1, 1), (9, 13)) for _, data in made(picture(height, width))]


@pytest.mark.parametrize("format", SAMPLES)
def test_damaged_files_are_decoded_or_refused(decoder: Path, format: str) -> None:
    results = decode(decoder, damaged(small_samples(format), 400, 1))
    assert any(isinstance(r, str) for r in results) and any(not isinstance(r, str) for r in results)
    assert all(r.startswith("run: ImageDecoder: ") for r in results if isinstance(r, str))


@pytest.mark.slow
@pytest.mark.parametrize("format", SAMPLES)
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_damaged_files(decoder: Path, format: str, seed: int) -> None:
    decode(decoder, damaged(small_samples(format), 5000, seed))


def model(order: str = "RGB", size: int | str = "n", shape: Sequence[Any] | None = None, opset: int = 20) -> onnx.ModelProto:
    nodes = [helper.make_node("ImageDecoder", ["file"], ["image"], pixel_format=order)]
    graph = helper.make_graph(
        nodes, "decoding", [helper.make_tensor_value_info("file", TensorProto.UINT8, [size])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def file_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.frombuffer(next(iter(png_samples(picture(height, width, seed))))[1], np.uint8)


def test_a_library_decodes_files_of_any_size() -> None:
    module = tilewright.compile(model(), target="cpu").load()
    for n, (height, width) in enumerate(((5, 7), (64, 33), (1, 1))):
        (image,) = module(file_of(height, width, n))
        np.testing.assert_array_equal(image, picture(height, width, n))
    with pytest.raises(OptionError, match="the bytes are no BMP"):
        module(np.zeros(30, np.uint8))
    (image,) = module(file_of(5, 7))  # a failed run leaves nothing behind
    np.testing.assert_array_equal(image, picture(5, 7))


def test_images_that_grow_leave_no_memory_behind() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def pnm(side: int) -> np.ndarray:
        return np.frombuffer(f"P6 {side} {side} 255\n".encode() + bytes(3 * side * side), np.uint8)

    module = tilewright.compile(model(), target="cpu", dims={"image_height": "1..1024", "image_width": "1..1024"}).load()
    module(pnm(299))
    before = resident()
    for side in range(300, 1000, 5):  # 190 MB of pixels in all
        assert module(pnm(side))[0].shape == (side, side, 3)
    assert resident() - before < 60e6


def test_the_largest_size_is_an_option() -> None:
    module = tilewright.compile(model(), target="cpu", dims={"image_height": "1..16", "image_width": 20}).load()
    np.testing.assert_array_equal(module(file_of(11, 20))[0], picture(11, 20))
    with pytest.raises(OptionError, match="compiled for 20 x at most 16"):
        module(file_of(17, 20))
    with pytest.raises(OptionError, match="compiled for 20 x at most 16"):
        module(file_of(11, 19))
    with pytest.raises(OptionError, match="image_depth"):
        tilewright.compile(model(), target="cpu", dims={"image_depth": "1..16"})


def test_a_size_that_the_model_declares() -> None:
    data = file_of(6, 8)
    for backend in (CpuBackend, InterpreterBackend):
        prepared = backend.prepare(model("BGR", len(data), [6, 8, 3]))
        np.testing.assert_array_equal(prepared.run([data])[0], picture(6, 8)[..., ::-1])
        with pytest.raises(OptionError, match="the model was compiled for"):
            backend.prepare(model("RGB", len(data), [8, 6, 3])).run([data])


def test_what_follows_the_decoder_sees_the_image_alone() -> None:
    m = model("Grayscale")
    m.graph.node.append(helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT))
    m.graph.node.append(helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0))
    m.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, None))
    data = np.frombuffer(list(jpeg_samples(picture(30, 21)))[2][1], np.uint8)
    expected = InterpreterBackend.prepare(m).run([data])
    got = tilewright.compile(m, target="cpu", dims={"image_height": "1..64", "image_width": "1..64"}).load()(data)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6)


def test_images_of_any_size_become_the_input_of_a_network() -> None:
    """Decoded, resized, in floats with channels first: compared with Pillow's pixels and a resize of known sizes."""
    m = model()
    more = [
        helper.make_node("Resize", ["image", "", "", "sizes"], ["small"], mode="linear"),
        helper.make_node("Cast", ["small"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["first"], perm=[2, 0, 1]),
        helper.make_node("Div", ["first", "most"], ["y"]),
    ]
    m.graph.node.extend(more)
    del m.graph.output[:]
    m.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    m.graph.initializer.append(onnx.numpy_helper.from_array(np.array([16, 16, 3]), "sizes"))
    m.graph.initializer.append(onnx.numpy_helper.from_array(np.array(255, np.float32), "most"))
    module = tilewright.compile(m, target="cpu", dims={"image_height": "1..128", "image_width": "1..128"}).load()
    for n, (height, width) in enumerate(((40, 64), (7, 9), (128, 3))):
        data = file_of(height, width, n)
        (expected,) = InterpreterBackend.prepare(m).run([data])
        np.testing.assert_allclose(module(data)[0], expected, atol=1 / 255 + 1e-6)
        assert np.abs(module(data)[0] - expected).mean() < 1e-4


@pytest.mark.parametrize("target", ["xla:cpu", "tvm:llvm", "cuda:sm_90", "fpga:u250"])
def test_other_targets_refuse(target: str) -> None:
    with pytest.raises((TargetError, ModelError), match=r"DecodeImage|DecodeWithin|input 'file' is u8"):
        tilewright.compile(model("RGB", 100, [4, 4, 3]), target=target, cache=False)
