"""Which folders go into the wheel; everything else about the package is in pyproject.toml.

``configs/`` and ``checkpoints/`` are at the top of the repository and beside the modules in a wheel. ``hetpure.config``
finds them in both places.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hetpure", "hetpure.*"]), "hetpure.configs", "hetpure.checkpoints"],
    package_dir={"hetpure.configs": "configs", "hetpure.checkpoints": "checkpoints"},
)
