"""CUDA kernels and the Python that launches them.

The `.cu` and `.cuh` files are the kernels, as they are compiled: `primitives.cuh` alone has inline PTX, `sources`
joins a file and the headers that it includes into one text, `cupy_gpu` compiles that text on first use, and `catalogue`
names every instance there is, so that a machine without a GPU can compile them all. Each launch module (`norms`, ...)
has functions over arrays, which allocate the results and compute grids and arguments, and `kernels()`, which lists the
instances that these functions ask for.

A launch module launches by the `Gpu` that it is given: CuPy's, or in the tests an emulator that runs the same files on
the CPU. Nothing here imports CuPy before something is launched.
"""
