"""C sources that become part of every CUDA library."""
