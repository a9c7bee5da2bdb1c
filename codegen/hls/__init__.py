"""Streaming hardware: processes on fixed-point streams, their integer meaning, their cycles and their HLS C++.

`design.Process` is one hardware process: what it computes (NumPy on int64), when it reads and writes (for the event
simulation), what it costs, and its C++ text.  `emit` prints a whole design.
"""
