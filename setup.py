"""Package layout. Everything else about the project stands in `pyproject.toml`.

`conf/` is installed as the package `rnnlab.conf`, which `packages.find` cannot express.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(".", include=["rnnlab", "rnnlab.*"]),
        *find_packages("kernels", include=["rnnlab_kernels", "rnnlab_kernels.*"]),
        *find_packages("benchmarks", include=["rnnlab_benchmarks", "rnnlab_benchmarks.*"]),
        "rnnlab.conf",
    ],
    package_dir={
        "rnnlab": "rnnlab",
        "rnnlab_kernels": "kernels/rnnlab_kernels",
        "rnnlab_benchmarks": "benchmarks/rnnlab_benchmarks",
        "rnnlab.conf": "conf",
    },
    package_data={
        "rnnlab": ["py.typed", "data/bundled/*", "experiments/reports/page.*"],
        "rnnlab.conf": ["*.yaml", "**/*.yaml"],
        "rnnlab_kernels": ["**/*.hpp", "**/*.cpp"],
    },
)
