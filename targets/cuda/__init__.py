"""CUDA libraries: emitted CUDA C++, compiled for one or several architectures, driven through the CUDA driver alone."""
