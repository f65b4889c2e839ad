"""Finds the packages of `keras_hub_torch`, whose root is this folder."""

from setuptools import find_packages, setup

NAME = "keras_hub_torch"
OTHERS = ("tests", "benchmarks", "examples", "build")

found = find_packages(exclude=[*OTHERS, *(f"{name}.*" for name in OTHERS)])
setup(packages=[NAME, *(f"{NAME}.{package}" for package in found)])
