"""The C sources that ship inside every native artifact."""
